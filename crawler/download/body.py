"""Bodies: read to a limit, decoded in steps.

A few kilobytes can hold gigabytes, so decoding is cut into steps of bounded output (`STEP_BYTES`), the limit is looked
at after each, and the loop gets a turn. And a stream that ends before its end is an error here, where aiohttp gives
half a page with status 200.

Every codec bounds a step in its own way. zlib: `max_length`, and the rest of the input lies in `unconsumed_tail`. zstd:
the same, but it keeps the rest itself. brotli: a soft limit, for its buffer grows in blocks of 32, 64, 128 KiB, so that
asking for 64 KiB gives up to 96. gzip and zstd bodies may be several streams one behind the other;
they are counted, because an empty one costs 20 bytes and gives nothing that a limit could see.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
import brotli
from aiohttp.base_protocol import BaseProtocol

from crawler.download.large import LARGE_BYTES, ask, at_once
from crawler.download.translate import FOREIGN, translate
from crawler.errors import BodyError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from multidict import CIMultiDictProxy

    from crawler.contracts import Room

__all__ = [
    "ACCEPT_ENCODING",
    "STEP_BYTES",
    "DecodedStream",
    "Decoder",
    "open_stream",
    "read_body",
    "read_content",
    "source",
]

ACCEPT_ENCODING: Final = "gzip, deflate, br, zstd"
"""What `Decoder` understands, for the request header."""
STEP_BYTES: Final = 128 * 1024
"""The most that one step gives: 0.1 to 2 ms of work."""

_INPUT_BYTES: Final = 64 * 1024
"""Fed to a codec at once: zlib copies what it does not consume, at every step."""
_TURN_BYTES: Final = 2 * STEP_BYTES
"""Decoded between two turns of the loop."""
_MAX_LAYERS: Final = 2
_MAX_MEMBERS: Final = 1000
_LONGEST_LENGTH: Final = 18
"""Digits of a Content-Length; more are past any limit."""
_OVERHEAD_BYTES: Final = 64 * 1024
"""Coded bytes beyond the limit that are read before giving up: coding makes small and random data larger."""
_BROTLI_BYTES: Final = 64 * 1024
_ZSTD_WINDOW_LOG: Final = 23
"""8 MiB, the most that RFC 9659 lets a server use over HTTP."""


class _Codec(Protocol):
    """One layer of one body."""

    @property
    def complete(self) -> bool:
        """Whether what was fed is a whole stream."""
        ...

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What `data` gives, in pieces of at most `STEP_BYTES`. What follows the end of the stream is ignored, as
        browsers do. Raises the codec's own error, or `ValueError`."""
        ...


class _Members:
    """Streams one behind the other, as gzip and zstd have them. What does not start like a stream ends the body."""

    _start_bytes: int

    def __init__(self) -> None:
        self._member = self._open()
        self._members = 1
        self._between = b""
        self._over = False

    @property
    def complete(self) -> bool:
        return self._over or bool(self._member.eof)

    def decode(self, data: bytes) -> Iterator[bytes]:
        while not self._over:
            if self._member.eof:
                data = self._between + data
                if not self._next(data):
                    return
            piece, rest = self._step(data)
            if piece:
                yield piece
            if self._member.eof:
                data = self._member.unused_data
            elif rest is None:
                return
            else:
                data = rest

    def _next(self, data: bytes) -> bool:
        """Whether another member begins; `data` is all there is behind the last one."""
        if len(data) < self._start_bytes:
            self._between = data
            return False
        self._between = b""
        if not self._is_start(data):
            self._over = True
            return False
        if self._members == _MAX_MEMBERS:
            raise ValueError(f"more than {_MAX_MEMBERS} members")
        self._members += 1
        self._member = self._open()
        return True

    def _open(self) -> Any:
        raise NotImplementedError

    def _is_start(self, data: bytes) -> bool:
        raise NotImplementedError

    def _step(self, data: bytes) -> tuple[bytes, bytes | None]:
        """One piece, and what to call it with next; None when it needs more input."""
        raise NotImplementedError


class _Gzip(_Members):
    """RFC 1952."""

    _start_bytes = 2

    def _open(self) -> Any:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)

    def _is_start(self, data: bytes) -> bool:
        return data.startswith(b"\x1f\x8b")

    def _step(self, data: bytes) -> tuple[bytes, bytes | None]:
        piece = self._member.decompress(data, STEP_BYTES)
        return piece, self._member.unconsumed_tail if len(piece) == STEP_BYTES else None


class _Zstd(_Members):
    """RFC 8878."""

    _start_bytes = 4

    def _open(self) -> Any:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})

    def _is_start(self, data: bytes) -> bool:
        is_skippable = data[0] & 0xF0 == 0x50 and data[1:4] == b"\x2a\x4d\x18"
        return is_skippable or data.startswith(b"\x28\xb5\x2f\xfd")

    def _step(self, data: bytes) -> tuple[bytes, bytes | None]:
        piece = self._member.decompress(data, STEP_BYTES)
        return piece, None if self._member.needs_input else b""


class _Deflate:
    """RFC 9110, 8.4.1.2: zlib format (RFC 1950); some servers send bare deflate (RFC 1951), and browsers take it."""

    def __init__(self) -> None:
        self._inflate: zlib._Decompress | None = None
        self._head = b""

    @property
    def complete(self) -> bool:
        return self._inflate is not None and self._inflate.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return
            is_zlib = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        while not self._inflate.eof:
            piece = self._inflate.decompress(data, STEP_BYTES)
            if piece:
                yield piece
            if len(piece) < STEP_BYTES:
                return
            data = self._inflate.unconsumed_tail


class _Brotli:
    """RFC 7932."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    @property
    def complete(self) -> bool:
        return bool(self._stream.is_finished())

    def decode(self, data: bytes) -> Iterator[bytes]:
        while not self._stream.is_finished():
            piece = self._stream.process(data, output_buffer_limit=_BROTLI_BYTES)
            if piece:
                yield piece
            if len(piece) < _BROTLI_BYTES and self._stream.can_accept_more_data():
                return
            data = b""


_CODECS: Final[dict[str, Callable[[], _Codec]]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}
_BROKEN: Final = (zlib.error, brotli.error, zstd.ZstdError, ValueError)


class Decoder:
    """Takes the `Content-Encoding` off one body: `feed` what arrives, `finish` at its end.

    `encoding`: the header's value, at most two codings (RFC 9110, 8.4: in the order applied) of gzip, x-gzip, deflate,
    br, zstd and identity. `limit`: bytes that the body may have when decoded. All errors are `BodyError`: reason
    `body_encoding` for a coding that is unknown, one too many, or broken; `body_too_large`; `body_truncated`.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        self._codecs = [codec() for codec in _codecs(encoding)]
        self._limit = limit
        self._fed = 0
        self._made = [0] * len(self._codecs)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decodes while it is iterated, to the end please: pieces of at most `STEP_BYTES`, together at most `limit`."""
        self._fed += len(data)
        if self._fed > self._limit + (_OVERHEAD_BYTES if self._codecs else 0):
            raise _too_large(self._limit)
        if not self._codecs:
            return iter((data,))
        if len(data) <= _INPUT_BYTES:
            return self._decode(data, 0)
        slices = (data[start : start + _INPUT_BYTES] for start in range(0, len(data), _INPUT_BYTES))
        return (piece for part in slices for piece in self._decode(part, 0))

    def finish(self) -> None:
        """Nothing more comes. Raises `BodyError` when something should; a body without a single byte is a whole one."""
        for codec, fed in zip(self._codecs, (self._fed, *self._made), strict=False):
            if fed and not codec.complete:
                raise BodyError("the coded body was cut short", reason="body_truncated")

    def _decode(self, data: bytes, depth: int) -> Iterator[bytes]:
        deeper = depth + 1 if depth + 1 < len(self._codecs) else 0
        allowed = self._limit + _OVERHEAD_BYTES if deeper else self._limit
        try:
            for piece in self._codecs[depth].decode(data):
                self._made[depth] += len(piece)
                if self._made[depth] > allowed:
                    raise _too_large(self._limit)
                if deeper:
                    yield from self._decode(piece, deeper)
                else:
                    yield piece
        except _BROKEN as error:
            raise BodyError(f"the coded body is broken ({error})", reason="body_encoding", retryable=False) from error


@lru_cache(maxsize=64)
def _codecs(encoding: str) -> tuple[Callable[[], _Codec], ...]:
    """In the order in which they come off; none for a body that is not coded."""
    names = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if len(names) > _MAX_LAYERS or not _CODECS.keys() >= set(names):
        raise BodyError(f"Content-Encoding not understood: {encoding[:80]!r}", reason="body_encoding", retryable=False)
    return tuple(_CODECS[name] for name in reversed(names))


def _too_large(limit: int) -> BodyError:
    return BodyError(f"the body is larger than {limit} bytes", reason="body_too_large", retryable=False)


# -- responses ---------------------------------------------------------------------------------------------------------


async def read_body(response: aiohttp.ClientResponse, limit: int, room: Room = at_once) -> bytes:
    """The whole body, decoded, at most `limit` bytes. The session must have `auto_decompress=False`. Of a body that has
    become large `room` is asked before it is read on: for what it may need while its page is worked at.

    Raises `BodyError`, and what `translate` makes of a failing connection. After an error, and when cancelled, the
    connection is closed instead of drained.
    """
    try:
        return await read_content(response.content, response.headers, limit, room)
    except FOREIGN as error:
        response.close()
        raise translate(error, str(response.url)) from error
    except BaseException:
        response.close()
        raise


async def read_content(
    content: aiohttp.StreamReader, headers: CIMultiDictProxy[str], limit: int, room: Room = at_once
) -> bytes:
    """The same of a stream and the headers that came before it; closing the connection is the caller's."""
    _refuse_transfer_coding(content, headers)
    coded = _encoding(content, headers)
    if coded:
        pieces = await _read_coded(content, Decoder(coded, limit), partial(ask, room, headers, limit, 0))
    else:
        length = _length(content, headers, limit)
        pieces = await _read_plain(content, limit, partial(ask, room, headers, limit, length))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _read_plain(content: aiohttp.StreamReader, limit: int, grow: Callable[[int], Awaitable[int]]) -> list[bytes]:
    pieces = []
    size = 0
    has_room = LARGE_BYTES
    while not content.at_eof():  # a read that finds nothing costs as much as one that finds a page
        data = await content.readany()
        size += len(data)
        if size > limit:
            raise _too_large(limit)
        pieces.append(data)
        if size > has_room:
            has_room = await grow(size)
    return pieces


async def _read_coded(
    content: aiohttp.StreamReader, decoder: Decoder, grow: Callable[[int], Awaitable[int]]
) -> list[bytes]:
    pieces = []
    since_turn = size = 0
    has_room = LARGE_BYTES
    while data := await content.readany():
        for piece in decoder.feed(data):
            pieces.append(piece)
            since_turn += len(piece)
            if since_turn >= _TURN_BYTES:
                size += since_turn
                since_turn = 0
                if size > has_room:
                    has_room = await grow(size)
                else:
                    await asyncio.sleep(0)
    decoder.finish()
    return pieces


def open_stream(response: aiohttp.ClientResponse, limit: int) -> aiohttp.StreamReader:
    """The body as a stream of at most `limit` decoded bytes, whose errors are `FetchError`.

    Raises `BodyError` for a coding that is not understood."""
    if response.content.at_eof():
        return response.content
    _refuse_transfer_coding(response.content, response.headers)
    coded = _encoding(response.content, response.headers)
    return DecodedStream(response.content, Decoder(coded, limit), str(response.url), is_plain=not coded)


def source(stream: aiohttp.StreamReader) -> aiohttp.StreamReader:
    """aiohttp's own stream below one of `open_stream`, where nothing is decoded and nothing was read yet: for who
    translates its errors himself. Else the stream as it is."""
    if isinstance(stream, DecodedStream) and stream.is_plain and not (stream._cursor or stream._buffer):
        return stream.coded
    return stream


def _encoding(content: aiohttp.StreamReader, headers: CIMultiDictProxy[str]) -> str:
    """Empty where there is nothing to decode. Raises `BodyError` for what is not understood."""
    if "Content-Encoding" not in headers:
        return ""
    encoding = ",".join(headers.getall("Content-Encoding"))
    return encoding if encoding and not content.at_eof() and _codecs(encoding) else ""


def _refuse_transfer_coding(content: aiohttp.StreamReader, headers: CIMultiDictProxy[str]) -> None:
    # The parser takes off `chunked`. Of what it does not know, the chunks' own framing would be left in the body.
    if headers.get("Transfer-Encoding", "chunked") == "chunked":
        return
    coding = ",".join(headers.getall("Transfer-Encoding"))
    names = {name.strip(" \t").lower() for name in coding.split(",")}
    if names not in ({"chunked"}, {"identity"}) and not content.at_eof():
        words = f"Transfer-Encoding not understood: {coding[:80]!r}"
        raise BodyError(words, reason="body_encoding", retryable=False)


def _length(content: aiohttp.StreamReader, headers: CIMultiDictProxy[str], limit: int) -> int:
    """As the header has it; 0 where it does not say. Raises `BodyError` where that is too much."""
    # The answer to HEAD names the length of a body that does not come; as for 204 and 304 its content is at its end.
    length = headers.get("Content-Length", "")
    digits = (
        length.lstrip("0") if length.isdecimal() else ""
    )  # of which `int` takes 4300, and a header line has room for
    if digits and (len(digits) > _LONGEST_LENGTH or int(digits) > limit) and not content.at_eof():
        raise _too_large(limit)
    return int(digits or 0) if len(digits) <= _LONGEST_LENGTH else 0


class _NoTransport(BaseProtocol):
    """Stands where a `StreamReader` has the connection it slows down. A `DecodedStream` reads only when it is read, so
    the connection is slowed down by the stream below it."""

    def pause_reading(self) -> None: ...

    def resume_reading(self, resume_parser: bool = True) -> None: ...


class DecodedStream(aiohttp.StreamReader):
    """A `StreamReader` over a coded one, or over a plain one (`is_plain`) for the sake of its errors. Each read decodes
    what it needs, one step at a time; nothing runs in between.

    All of aiohttp's ways to read work, because all of them wait in `_wait` for the buffer to fill, which is what this
    class replaces. Errors are `FetchError`, and stay: every later read raises the same.
    """

    __slots__ = ("_decoder", "_given", "_steps", "_url", "coded", "is_plain")

    def __init__(self, coded: aiohttp.StreamReader, decoder: Decoder, url: str, *, is_plain: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.coded = coded
        self.is_plain = is_plain
        super().__init__(_NoTransport(loop), limit=STEP_BYTES, loop=loop)
        self._decoder = decoder
        self._url = url
        self._steps: Iterator[bytes] = iter(())

    @property
    def total_bytes(self) -> int:
        """Decoded so far; of what is not coded, received, whoever reads it."""
        return self.coded.total_bytes if self.is_plain else self._given

    @total_bytes.setter
    def total_bytes(self, count: int) -> None:
        self._given = count

    async def wait_eof(self) -> None:
        """Until the server has sent everything; there may be more to read."""
        await self.coded.wait_eof()

    def read_nowait(self, n: int = -1) -> bytes:
        try:
            while not (self._buffer or self._eof or self._step()) and (data := self.coded.read_nowait()):
                self._steps = self._decoder.feed(data)
        except BodyError as error:
            self.set_exception(error)
            raise
        except FOREIGN as error:
            failure = translate(error, self._url)
            self.set_exception(failure)
            raise failure from error
        return super().read_nowait(n)

    async def _wait(self, func_name: str) -> None:
        try:
            while not self._step():
                data = await self._received()
                self.total_compressed_bytes = self.coded.total_bytes
                if not data:
                    self._decoder.finish()
                    self.feed_eof()
                    return
                self._steps = self._decoder.feed(data)
        except BodyError as error:
            self.set_exception(error)
            raise
        except FOREIGN as error:
            failure = translate(error, self._url)
            self.set_exception(failure)
            raise failure from error
        await asyncio.sleep(0)  # all of it may be decoded from what is here already

    async def _received(self) -> bytes:
        try:
            return await self.coded.readany()
        except RuntimeError as error:
            if self.coded._protocol.connected:
                raise
            # aiohttp's parser gave up on a chunk, and forgot to tell the stream; the connection is closed.
            raise BodyError(f"the body was cut short: {self._url}", reason="body_truncated") from error

    def _step(self) -> bool:
        piece = next(self._steps, b"")
        self.feed_data(piece)
        return bool(piece)
