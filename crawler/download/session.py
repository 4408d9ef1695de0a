"""One exchange over aiohttp's client: a request on its way, and the response that is made of the answer.

Most requests are plain GETs, and go the short way (`plain`). The sessions are in `ways`, which of them a request takes
is decided in `route`, what it carries is made in `upload`, `auth` and `cookies`, what comes back is read by `body`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from multidict import CIMultiDict

from crawler import url as urls
from crawler.download import websocket
from crawler.download.auth import Credentials
from crawler.download.body import open_stream, read_body
from crawler.download.cookies import CookieJars, joined
from crawler.download.deadlines import Deadlines, Speed
from crawler.download.large import at_once
from crawler.download.lost_time import LostTime
from crawler.download.plain import PlainGets
from crawler.download.route import PROXY, TCP, Route, Router, as_dialled
from crawler.download.save import Saver
from crawler.download.translate import FOREIGN, translate
from crawler.download.upload import json_writer, make_data
from crawler.download.ways import Answer, Ways, make_resolver
from crawler.download.wire import StaleConnection, refuse_status
from crawler.errors import FetchError
from crawler.proxies import redacted
from crawler.request import Request, Timeout
from crawler.response import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    import yarl

    from crawler.contracts import Room
    from crawler.cookies import Cookies
    from crawler.guard import Guard
    from crawler.settings import Settings

__all__ = ["Downloader"]

_SENT_TWICE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Safe methods (RFC 9110, 9.2.1): where a used connection turns out to be closed, they are sent over a new one. That is
no other try, and no failure of the host."""

_TRANSLATED: tuple[type[Exception], ...] = (*FOREIGN, ValueError)


class Downloader:
    """`crawler.contracts.Fetcher` over aiohttp. `guard` decides which addresses may be dialled.

    `json_dumps` writes `json=` bodies, `json_loads` reads for `Response.json`; `trace_configs` are aiohttp's; `clock`
    gives the Unix time by which cookies expire. `room` is asked before a large body is read on.
    """

    def __init__(
        self,
        settings: Settings,
        guard: Guard,
        *,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        json_dumps: Callable[[Any], str | bytes] = json.dumps,
        json_loads: Callable[[bytes], Any] | None = None,
        clock: Callable[[], float] = time.time,
        room: Room | None = None,
    ) -> None:
        http = settings.http
        self.on_open: Callable[[str], None] = lambda host: None
        self._settings = settings
        self._guard = guard
        self._trace_configs = list(trace_configs)
        self._dumps = json_writer(json_dumps)
        self._loads = json_loads
        self._credentials = Credentials(http.auth, http.digest_auth, http.host_headers)
        self._room = room or at_once
        self._streams: set[aiohttp.ClientResponse] = set()
        self._sockets: set[aiohttp.ClientWebSocketResponse] = set()
        self._jars = CookieJars(enabled=http.cookies, unsafe=http.unsafe_cookies, clock=clock)
        self._saver = Saver(
            http.max_file_bytes,
            min_bytes_per_second=http.min_bytes_per_second,
            min_speed_seconds=http.min_speed_seconds,
        )
        self._timeout = aiohttp.ClientTimeout(
            total=http.total_seconds, connect=http.connect_seconds, sock_read=http.read_seconds
        )
        self._stream_timeout = aiohttp.ClientTimeout(
            total=None, connect=http.connect_seconds, sock_read=http.read_seconds
        )
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Downloader:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            self._resolver = make_resolver(settings, self._guard)
            stack.push_async_callback(self._resolver.close)
            self._router = Router(settings, self._resolver)
            self._lost = LostTime(asyncio.get_running_loop())
            stack.callback(self._lost.close)
            ways = Ways(
                settings,
                self._guard,
                self._resolver,
                tls=self._router.tls.default,
                timeout=self._timeout,
                json_serialize=self._dumps,
                trace_configs=self._trace_configs,
                on_open=self._opened,
                lost_since=self._lost.since,
            )
            self._ways = await stack.enter_async_context(ways)
            least_speed = Speed(settings.http.min_bytes_per_second, settings.http.min_speed_seconds)
            self._slow = Deadlines(
                asyncio.get_running_loop(), total_seconds=None, read_seconds=None, least_speed=least_speed
            )
            stack.callback(self._slow.close)
            self._plain = PlainGets(
                ways.main,
                ways.main_connector,
                ways.default_headers(),
                jars=self._jars,
                credentials=self._credentials,
                timeout=self._timeout,
                least_speed=least_speed,
                max_body_bytes=settings.http.max_body_bytes,
                room=self._room,
            )
            stack.callback(self._plain.close)
            stack.push_async_callback(self._close_what_is_open)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.aclose()

    def _opened(self, host: str, port: int | None) -> None:
        self.on_open(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def lookup(self, request: Request) -> asyncio.Future[Any] | None:
        if not self._router.finds_address(request):
            return None
        return self._resolver.prefetch(urls.hostname(request.url))

    def address(self, request: Request) -> str | None:
        if not self._router.finds_address(request):
            return None
        return self._resolver.address(urls.hostname(request.url))

    def allow_host(self, host: str) -> None:
        name, _, port = host.rpartition(":")
        self._resolver.allow_host(name, int(port))
        self._router.allow_host(host)

    # -- exchanges -----------------------------------------------------------------------------------------------------

    async def fetch(self, request: Request) -> Response:
        started = time.perf_counter()
        route = None
        try:
            route = self._router.choose(request)
            try:
                response = await self._exchange(request, route, started)
            except StaleConnection as stale:
                if request.method not in _SENT_TWICE:
                    raise
                self._ways.forget(stale.key)
                response = await self._exchange(request, route, started)
        except FetchError as error:
            self._tell(error, request, route)
            raise
        except _TRANSLATED as error:
            raise self._tell(translate(error, request.url), request, route) from error
        response.proxy = self._router.answered(route, response.status)
        response._saver = self._saver
        response._json_loads = self._loads
        return response

    async def _exchange(self, request: Request, route: Route, started: float) -> Response:
        if self._plain.takes(request, route):
            return await self._plain.fetch(request, route, started)
        # Through aiohttp's session, with all that it can do.
        url = as_dialled(request.url)
        timeout = self._timeout_of(request)
        seconds = None if self._aiohttp_watches(request) else timeout.total
        async with contextlib.AsyncExitStack() as files, self._lost.within(seconds):
            answer = await self._send(request, url, route, files)
            return await self._read(request, answer, started)

    def _aiohttp_watches(self, request: Request) -> bool:
        """The total: where it goes on behind our back, and where a tracer is to hear of it as aiohttp's own error."""
        return request.stream or bool(self._trace_configs)

    @contextlib.asynccontextmanager
    async def websocket(self, request: Request, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """aiohttp's `ws_connect`, over the crawl's connections, with its cookies, proxy and TLS.

        The request's time-outs are the handshake's; the socket has none. Leaving sends a close frame, with 1001 where
        an exception is the cause, and waits for the server's until `timeout.ws_close`, which is 2 s unless given.
        Raises `FetchError`; for an answer that is not 101, `StatusError`."""
        socket = await self._shake_hands(request, options)
        self._sockets.add(socket)
        code = aiohttp.WSCloseCode.GOING_AWAY
        try:
            yield socket
            code = aiohttp.WSCloseCode.OK
        finally:
            self._sockets.discard(socket)
            await websocket.close(socket, code)

    async def _shake_hands(self, request: Request, options: dict[str, Any]) -> aiohttp.ClientWebSocketResponse:
        options["timeout"] = websocket.times(options.pop("timeout", None), options.pop("receive_timeout", None))
        socket: aiohttp.ClientWebSocketResponse
        route = None
        try:
            url = as_dialled(request.url)
            route = self._router.choose(request)
            async with self._session_for_handshake(request, url, route) as session:
                headers = self._headers(request, url, route)
                socket = await session.ws_connect(url, headers=headers, **route.options, **options)
        except FetchError as error:
            self._tell(error, request, route)
            raise
        except _TRANSLATED as error:
            raise self._tell(translate(error, request.url), request, route) from error
        self._router.answered(route, 101)
        return socket

    def _session_for_handshake(self, request: Request, url: yarl.URL, route: Route) -> aiohttp.ClientSession:
        """One of its own, because aiohttp's `ws_connect` takes no time-outs for the handshake, no word against
        redirects and no middlewares. It opens nothing and costs some 20 microseconds."""

        async def judge(asked: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            answer = await handler(asked)
            self._jars.store(request.session, request.url, answer)
            websocket.check(answer, request.url)
            return answer

        return self._ways.make_session(
            route.way,
            bare=_is_bare(request, route),
            timeout=self._timeout_of(request),
            middlewares=(judge, *self._credentials.digest(url)),
            skip_auto_headers=(*self._settings.http.skip_auto_headers, *request.skip_auto_headers),
        )

    def cookies(self, session: str | None = None, url: str | None = None) -> Cookies:
        return self._jars.view(session, url)

    def cookie_rows(self) -> Mapping[str, bytes | None]:
        return self._jars.changes()

    def restore_cookies(self, rows: Iterable[bytes]) -> None:
        self._jars.restore(rows)

    async def sync(self) -> None:
        await self._saver.sync()

    def _tell(self, error: FetchError, request: Request, route: Route | None) -> FetchError:
        """Note on the error what an errback may want to know, and in the statistics of proxies whose fault it was."""
        sent = CIMultiDict(self._ways.main.headers)
        sent.update(request.headers)
        error.request_headers = sent
        if route is not None:
            error.proxy = self._router.failed(route, error)
        return error

    async def _close_what_is_open(self) -> None:
        """Streams and sockets that the user's code left."""
        for answer in list(self._streams):
            answer.close()
        await asyncio.gather(*map(websocket.close, self._sockets))

    # -- the request's side ------------------------------------------------------------------------------------------

    async def _send(
        self, request: Request, url: yarl.URL, route: Route, files: contextlib.AsyncExitStack
    ) -> aiohttp.ClientResponse:
        options = route.options
        if request.data is not None or request.json is not None or request.body is not None:
            if request.json is not None:
                options["json"] = request.json
            else:
                options["data"] = make_data(request, files)
            if request.compress is not None:
                options["compress"] = request.compress
            if request.chunked:
                options["chunked"] = True
            if request.expect100:
                options["expect100"] = True
        timeout = self._timeout_of(request)
        if not self._aiohttp_watches(request):  # that is done here (`_fetch`)
            timeout = aiohttp.ClientTimeout(None, timeout.connect, timeout.sock_read, timeout.sock_connect)
        options["timeout"] = timeout
        if request.skip_auto_headers:
            options["skip_auto_headers"] = request.skip_auto_headers
        if self._trace_configs and route.proxy is not None:
            options["trace_request_ctx"] = redacted(route.proxy)  # aiohttp's events do not tell
        digest = self._credentials.digest(url)
        if digest:
            options["middlewares"] = digest
        if url.raw_user is not None and "Authorization" in request.headers:
            url = url.with_user(None)  # the header goes before credentials in the address
        bare = _is_bare(request, route)
        session = self._ways.main if route.way == TCP and not bare else self._ways.session(route.way, bare=bare)
        headers = self._headers(request, url, route)
        # A stream has no total time, but its head has: a byte now and then would hold the place for ever.
        is_endless = request.stream and options["timeout"].total is None
        async with self._lost.within(self._timeout.total if is_endless else None):
            answer = await session.request(request.method, url, headers=headers, allow_redirects=False, **options)
        try:
            refuse_status(answer.status, request.url)
        except FetchError:
            answer.close()
            raise
        self._jars.store(request.session, request.url, answer)
        return answer

    def _headers(self, request: Request, url: yarl.URL, route: Route) -> CIMultiDict[str] | None:
        """Beside those of the session; None for no more."""
        login, (own, fixed) = self._credentials.basic(url), self._credentials.headers(url)
        cookie = joined(self._jars.header(request.session, request.url, request.cookies), fixed)
        bare = _is_bare(request, route)
        if not (cookie or login or own or bare or request.headers):
            return None
        headers = CIMultiDict(request.headers)
        headers.popall("Proxy-Authorization", None)  # it is for proxies, and comes from the route
        unwanted = {name.lower() for name in request.skip_auto_headers}
        for name, value in own.items():
            is_said = name in headers or (name.lower() == "authorization" and url.raw_user is not None)
            if not is_said and name.lower() not in unwanted:
                headers[name] = value
        if cookie and "Cookie" not in headers:
            headers["Cookie"] = cookie
        if login and "Authorization" not in headers:
            headers["Authorization"] = login
        if bare:
            for name, value in self._ways.default_headers().items():
                if name.lower() not in unwanted and name not in headers:
                    headers[name] = value
            if "Proxy-Authorization" in route.headers:
                headers["Proxy-Authorization"] = route.headers["Proxy-Authorization"]
        return headers

    def _timeout_of(self, request: Request) -> aiohttp.ClientTimeout:
        given = request.timeout
        default = self._stream_timeout if request.stream else self._timeout
        if given is None:
            return default
        if isinstance(given, Timeout):
            return aiohttp.ClientTimeout(given.total, given.connect, given.sock_read, given.sock_connect)
        return aiohttp.ClientTimeout(
            total=None if request.stream else given, connect=default.connect, sock_read=default.sock_read
        )

    # -- the response's side -----------------------------------------------------------------------------------------

    async def _read(self, request: Request, answer: aiohttp.ClientResponse, started: float) -> Response:
        http = self._settings.http
        try:
            if request.stream:
                body, content = b"", open_stream(answer, http.max_file_bytes)
            else:
                body, content = await self._read_at_once(request, answer), None
        except BaseException:
            answer.close()
            raise
        version = answer.version
        # Under `aioresponses` an answer is not of our making.
        peer, sent = (answer.peer, answer.departure.at) if isinstance(answer, Answer) else (None, started)
        response = Response(
            request.url,
            request=request,
            status=answer.status,
            headers=answer.headers,
            body=body,
            reason=answer.reason or "",
            raw_headers=answer.raw_headers,
            elapsed_seconds=time.perf_counter() - started,
            connect_seconds=max(0.0, sent - started),
            ip_address=peer,
            http_version="1.1" if version is None else f"{version.major}.{version.minor}",
            content=content,
            request_headers=answer.request_info.headers,
        )
        if content is not None:
            self._streams.add(answer)
            response.on_close(partial(self._streams.discard, answer))
            response.on_close(answer.close)
        return response

    async def _read_at_once(self, request: Request, answer: aiohttp.ClientResponse) -> bytes:
        limit = request.max_body_bytes or self._settings.http.max_body_bytes
        connection = answer.connection
        if connection is None or connection.protocol is None:  # a short body is all there
            return await read_body(answer, limit, self._room)
        watch = self._slow.add(connection.protocol, 0.0)
        watch.content = answer.content
        try:
            return await read_body(answer, limit, partial(watch.held, self._room))
        finally:
            self._slow.discard(watch)


def _is_bare(request: Request, route: Route) -> bool:
    """Without the session's default headers: where some are not wanted, and where aiohttp would tell them to the proxy
    as well."""
    return bool(request.skip_auto_headers) or route.way == PROXY
