"""A plain GET: over the crawl's one pool of connections, but past `ClientSession`.

Nearly every request of a crawl is a GET with the headers that all have, whose body is read at once. For those the
session's generality (merging headers, building a request and a response object, two timers, a jar that is a dummy)
costs as much as everything else that is done for a page. What is left of it here: a connection from the connector, the
bytes of a request that is the same for all but its path, aiohttp's own parser on the connection, and its errors, so
that the border where they are translated is one (`translate`).

Whatever is not plain (`takes`) goes through the session: other methods, headers and time-outs of a request's own,
proxies, streams, tracing, digest authentication, another session's `_request` put in place by a test.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from crawler.download.body import read_content
from crawler.download.cookies import joined
from crawler.download.deadlines import Deadlines, Speed
from crawler.download.route import TCP, Route, as_dialled
from crawler.download.wire import LINE_BYTES, MOST_HEADERS, Departure, StaleConnection, Wire, refuse_status
from crawler.response import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.http_parser import RawResponseMessage

    from crawler.contracts import Room
    from crawler.download.auth import Credentials
    from crawler.download.connect import FreshConnections
    from crawler.download.cookies import CookieJars
    from crawler.request import Request

__all__ = ["PlainGets"]

_CLIENT_FILE: Final = aiohttp.client.__file__
_FIRST_OF_PATH: Final = len("http://") + 1
_MOST_ORIGINS: Final = 1000
"""Some 4 KB each."""
_ENDS_A_LINE: Final = re.compile("[\r\n\0]").search
_VERSIONS: Final = {aiohttp.HttpVersion11: "1.1", aiohttp.HttpVersion10: "1.0"}


class _Origin(aiohttp.ClientRequest):
    """What all plain requests to one origin, under one TLS rule, have in common. To the connector it is a request."""

    cookie = ""
    """Of the settings, beside what the jar has."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key

    @cached_property
    def head(self) -> bytes:
        """What follows the target in a request, but for the empty line at its end."""
        if any(_ENDS_A_LINE(f"{name}{value}") for name, value in self.headers.items()):
            raise ValueError("a header holds CR, LF or NUL")
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f" HTTP/1.1\r\n{fields}".encode()

    @cached_property
    def sent(self) -> CIMultiDictProxy[str]:
        return CIMultiDictProxy(self.headers)


class PlainGets:
    """`await gets.fetch(request, route, started)` for what `takes` says yes to.

    `session` is the crawl's, over `connector`; `headers` are its default ones. Raises what aiohttp's session would,
    `BodyError`, `BlockedError` and `ValueError`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        connector: FreshConnections,
        headers: Mapping[str, str],
        *,
        jars: CookieJars,
        credentials: Credentials,
        timeout: aiohttp.ClientTimeout,
        least_speed: Speed,
        max_body_bytes: int,
        room: Room,
    ) -> None:
        self._session = session
        self._connector = connector
        self._headers = headers
        self._jars = jars
        self._credentials = credentials
        self._timeout = timeout
        self._max_body_bytes = max_body_bytes
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(
            self._loop, total_seconds=timeout.total, read_seconds=timeout.sock_read, least_speed=least_speed
        )
        self._origins: dict[tuple[str, Any, Any], _Origin] = {}
        self._is_possible = not (
            session.trace_configs or session.skip_auto_headers or connector.force_close or credentials.has_digest
        )

    def close(self) -> None:
        self._deadlines.close()

    def takes(self, request: Request, route: Route) -> bool:
        return (
            self._is_possible
            and route.way == TCP
            and request.method == "GET"
            and not request.headers
            and not request.stream
            and request.timeout is None
            and request.data is None
            and request.json is None
            and request.body is None
            and not request.skip_auto_headers
            and not request.expect100
            and "@" not in request.url
            and not _is_replaced()
        )

    async def fetch(self, request: Request, route: Route, started: float) -> Response:
        url = request.url
        slash = url.index("/", _FIRST_OF_PATH)
        origin = self._origin(url, slash, route)
        cookie = joined(self._jars.header(request.session, url, request.cookies), origin.cookie)
        asked = _written(url[slash:], origin.head, cookie)
        connection = await self._connect(origin, started)
        protocol = connection.protocol
        assert protocol is not None
        departure = Departure(self._loop)
        watch = self._deadlines.add(protocol, self._loop.time() - (departure.at - started))
        try:
            message, content = await _answered(protocol, asked, origin)
            watch.content = content
            refuse_status(message.code, url)
            self._jars.store(request.session, url, message)
            limit = request.max_body_bytes or self._max_body_bytes
            body = await read_content(content, message.headers, limit, partial(watch.held, self._room))
        except BaseException:
            connection.close()
            raise
        finally:
            self._deadlines.discard(watch)
        peer = self._connector.peer(protocol)
        connection.release()
        return Response(
            url,
            request=request,
            status=message.code,
            headers=message.headers,
            body=body,
            reason=message.reason,
            raw_headers=message.raw_headers,
            elapsed_seconds=time.perf_counter() - started,
            connect_seconds=departure.at - started,
            ip_address=peer,
            http_version=_VERSIONS.get(message.version) or f"{message.version.major}.{message.version.minor}",
            request_headers=_with_cookie(origin.sent, cookie) if cookie else origin.sent,
        )

    def _origin(self, url: str, slash: int, route: Route) -> _Origin:
        tls, name = route.options.get("ssl", True), route.options.get("server_hostname")
        key = (url[:slash], tls, name)
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= _MOST_ORIGINS:
                del self._origins[next(iter(self._origins))]
            address = as_dialled(url[: slash + 1])
            headers = CIMultiDict(self._headers)
            own, cookie = self._credentials.headers(address)
            headers.update(own)
            login = self._credentials.basic(address)
            if login is not None and "Authorization" not in headers:
                headers["Authorization"] = login
            origin = self._origins[key] = _Origin(
                "GET", address, headers=headers, loop=self._loop, session=self._session, ssl=tls, server_hostname=name
            )
            origin.cookie = cookie
        return origin

    async def _connect(self, origin: _Origin, started: float) -> Connection:
        limit = self._timeout.connect
        total = self._timeout.total
        is_total = bool(total and (not limit or total < limit))
        timeout = aiohttp.ClientTimeout(connect=total) if is_total else self._timeout
        try:
            return await self._connector.connect(origin, [], timeout)
        except TimeoutError as error:
            if is_total or isinstance(error, aiohttp.ClientError):
                raise
            raise aiohttp.ConnectionTimeoutError("no connection in time") from error


def _is_replaced() -> bool:
    """Whether something else answers in place of aiohttp's session, as `aioresponses` does: perhaps since before this
    file was loaded, so there is nothing to compare it with but where it comes from."""
    code = getattr(aiohttp.ClientSession._request, "__code__", None)
    return code is None or code.co_filename != _CLIENT_FILE


def _written(target: str, head: bytes, cookie: str) -> bytes:
    """Raises `ValueError` for what would end the line early."""
    if " " in target or not target.isprintable() or _ENDS_A_LINE(cookie):
        raise ValueError("not a request that can be written down")
    if cookie:
        return b"GET %b%bCookie: %b\r\n\r\n" % (target.encode(), head, cookie.encode())
    return b"GET %b%b\r\n" % (target.encode(), head)


async def _answered(
    protocol: ResponseHandler, asked: bytes, origin: _Origin
) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
    """Send, and read the head of the answer that counts: informational ones (1xx) before it do not."""
    protocol.set_response_params(
        read_until_eof=True,
        auto_decompress=False,
        max_line_size=LINE_BYTES,
        max_field_size=LINE_BYTES,
        max_headers=MOST_HEADERS,
    )
    transport = protocol.transport
    if transport is None or transport.is_closing():
        raise aiohttp.ClientConnectionResetError("the connection is closed")
    transport.write(asked)
    while True:
        try:
            message, content = await protocol.read()
        except (aiohttp.ClientConnectionError, HttpProcessingError) as error:
            if isinstance(protocol, Wire) and protocol.is_stale(error):
                raise StaleConnection(origin.connection_key) from error
            if not isinstance(error, HttpProcessingError):
                raise
            raise aiohttp.ClientResponseError(
                origin.request_info, (), status=error.code, message=error.message, headers=error.headers
            ) from error
        if not 100 <= message.code <= 199 or message.code == 101:
            return message, content


def _with_cookie(headers: CIMultiDictProxy[str], cookie: str) -> CIMultiDictProxy[str]:
    sent = headers.copy()
    sent["Cookie"] = cookie
    return CIMultiDictProxy(sent)
