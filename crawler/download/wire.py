"""One connection's bytes, before and after aiohttp's parser.

The parser bounds a line, a header and their number, but not what stands beside a body: informational answers (1xx)
without end, empty lines before the head, extensions of chunks, chunks of one byte. So what arrives is counted here,
and what is not the body may be half a megabyte and as much again as the body. And a connection on which nothing was
asked has nothing to say: bytes that come then are the rest of an answer that was longer than it said, or the start of
one that nobody asked for. It is closed, so that the next page does not get them.

A connection that has been used before may be one that the server has closed meanwhile, or closes at that moment. What
fails there before an answer has begun says nothing of the host (`StaleConnection`): RFC 9112, 9.3.1 lets a client send
such a request again, if it is safe to.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError

from crawler.download.deadlines import LOOKS_PER_LIMIT
from crawler.download.lost_time import LATE_SECONDS
from crawler.errors import ProtocolError
from crawler.url import redact

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

__all__ = ["LINE_BYTES", "MOST_HEADERS", "Departure", "StaleConnection", "Wire", "refuse_status"]

_BESIDE_BYTES: Final = 512 * 1024
"""Twice what asyncio reads at once, for up to that much has been received and not been parsed yet."""
_MOST_INTERIM: Final = 32
"""Informational answers before one answer; servers send one or two."""
_SLICE_BYTES: Final = 64 * 1024
"""Given to the parser at once until there is a head: so many bytes of informational answers take it 75 ms. Most pages
come with their head in fewer, and are not copied."""
LINE_BYTES: Final = 8190
MOST_HEADERS: Final = 128
"""For aiohttp's parser: its own defaults, of which its documentation promises nothing."""


class StaleConnection(aiohttp.ClientConnectionError):
    """No answer over a connection that was used before; the cause is what happened. `key` is its pool's."""

    def __init__(self, key: ConnectionKey) -> None:
        super().__init__("the connection was stale")
        self.key = key


class Departure:
    """When a request that is being written now leaves, at the latest: `at`, by `time.perf_counter`.

    asyncio hands what is written to the system at once; uvloop when all that was ready to run has had its turn, which
    may be a tenth of a second later where many pages came at once."""

    __slots__ = ("at",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.at = time.perf_counter()
        if not isinstance(loop, asyncio.BaseEventLoop):
            loop.call_soon(self._is_over)

    def _is_over(self) -> None:
        self.at = time.perf_counter()


class Wire(ResponseHandler):
    """aiohttp's protocol of one connection, for `FreshConnections`."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._was_used = False
        self._has_head = False
        self._interim = 0
        self._received = 0
        self._allowed = _BESIDE_BYTES
        """May be received before somebody looks how much of it was the body's."""

    def set_response_params(self, **options: Any) -> None:
        """A request goes out, and its answer is what comes next."""
        self._has_head = False
        self._interim = self._received = 0
        self._allowed = _BESIDE_BYTES
        super().set_response_params(**options)

    def rest(self) -> None:
        """The exchange is over; until the next one nothing may come."""
        self._was_used = True
        self._allowed = -1

    def is_stale(self, error: Exception) -> bool:
        """Whether `error`, which came instead of an answer, is that of a connection that was used before: it is closed
        without a word, or what comes begins like no answer."""
        if not self._was_used or self._interim:
            return False
        if isinstance(error, HttpProcessingError):
            return isinstance(error.__cause__, BadStatusLine)
        is_lost = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientConnectionResetError)
        is_reset = isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError)
        return (is_lost or is_reset) and not self._received

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self._received += size
        if self._received <= self._allowed and (self._has_head or size <= _SLICE_BYTES):
            super().data_received(data)
        elif self._allowed < 0:
            if data:  # nothing is what a stream says that is read on
                self._leave()
        else:
            self._take_in_slices(data)

    def _on_read_timeout(self) -> None:
        # A timer that comes late says that the loop was held up: what has arrived meanwhile was not read.
        timer = self._read_timeout_handle
        late = 0.0 if timer is None else self._loop.time() - timer.when()
        if late > max(LATE_SECONDS, (self.read_timeout or 0.0) / LOOKS_PER_LIMIT):
            self._reschedule_timeout()
        else:
            super()._on_read_timeout()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Told to whoever reads the body, too. aiohttp's parser forgets them when it trips over a chunk whose head came
        in an earlier segment: they would wait until the time is up."""
        super().set_exception(exc, *cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(exc, *cause)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """The parser has one more head, and the stream of its body."""
        if self._has_head or self._allowed < 0 or self._exception is not None:
            self._leave()  # a second answer to one request would be the next request's
            return
        if 100 <= data[0].code <= 199 and data[0].code != 101:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                self._fail(f"more than {_MOST_INTERIM} informational answers")
                return
        else:
            self._has_head = True
            if data[0].code <= 199:
                self.force_close()
        super().feed_data(data, size)

    def eof_received(self) -> None:
        """The server says that it is done. Over TLS that is an alert; the mere end of the connection could be anybody's
        doing, and a body without a length would end wherever they like (RFC 9112, 9.8)."""
        super().eof_received()
        body, transport = self._payload, self.transport
        tls: ssl.SSLObject | None = None if transport is None else transport.get_extra_info("ssl_object")
        if tls is None or body is None or body.is_eof():
            return
        try:
            tls.read(1)
        except ssl.SSLWantReadError:
            body.set_exception(aiohttp.ClientPayloadError("the TLS connection was cut"))
        except ssl.SSLError:
            return

    def _take_in_slices(self, data: bytes) -> None:
        at = 0
        while at < len(data) and self._exception is None and self._is_within_bounds():
            end = len(data) if self._has_head else at + _SLICE_BYTES
            super().data_received(data[at:end])
            at = end

    def _is_within_bounds(self) -> bool:
        if self._received <= self._allowed or self._upgraded:
            return True
        of_body = 0 if self._payload is None else self._payload.total_bytes
        beside = self._received - of_body
        allowed = _BESIDE_BYTES + of_body
        if beside > allowed:
            self._fail(f"{beside} bytes beside a body of {of_body}")
            return False
        self._allowed = self._received + (allowed - beside)
        return True

    def _fail(self, words: str) -> None:
        self.set_exception(HttpProcessingError(code=0, message=words))
        self._leave()

    def _leave(self) -> None:
        self.force_close()
        self._parser = self._payload = None  # its end would be one more error
        if self.transport is not None:
            self.transport.abort()


def refuse_status(status: int, url: str) -> None:
    """Raises `ProtocolError` for the status of an answer that is none: 000, or 101 (Switching Protocols), which nobody
    asked for and after which the connection speaks something else."""
    if status < 200:
        raise ProtocolError(f"not an answer (status {status:03d}): {redact(url)}", retryable=False)
