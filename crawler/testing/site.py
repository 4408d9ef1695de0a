"""A web site on loopback that says what it was told, and keeps a journal of what it was asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from crawler.testing.fakes import stream_of

if TYPE_CHECKING:
    import ssl

    from crawler.testing.chaos import Chaos

__all__ = ["Hit", "LocalSite"]


class Hit(NamedTuple):
    """One request as a `LocalSite` saw it."""

    time: float
    """`time.monotonic()` at its arrival."""
    method: str
    path: str
    """With its query, as sent."""
    headers: CIMultiDictProxy[str]
    body: bytes
    host: str


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LocalSite:
    """A scripted web site on a loopback address.

    `page`, `redirect`, `robots`, `websocket` and `route` say what is there, before or while it runs; everything else is
    404. `journal` holds every request in the order of arrival. `host` may be any address of 127.0.0.0/8: each is
    another host. With `chaos` some of its answers are not what was said; with `tls`, a server's context
    (`Authority().server()`), it is an https site.
    """

    def __init__(
        self, host: str = "127.0.0.1", *, chaos: Chaos | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.journal: list[Hit] = []
        self._host = host
        self._chaos = chaos
        self._tls = tls
        self._port = 0
        self._routes: dict[str, Handler] = {}
        self._runner: web.AppRunner | None = None
        self._arrivals: list[tuple[int, asyncio.Event]] = []

    async def __aenter__(self) -> LocalSite:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without a slash at its end."""
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self._port}"

    @property
    def host(self) -> str:
        """As the frontier and `politeness.hosts` name it: `127.0.0.1:PORT`."""
        return f"{self._host}:{self._port}"

    def page(
        self,
        path: str,
        body: str | bytes = "",
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str = "text/html; charset=utf-8",
        delay: float = 0.0,
        times: int | None = None,
    ) -> None:
        """Answer `path` (with its query, if it has one) with this, after `delay` seconds. With `times`, only the first
        that many requests get it; later ones get what was there before."""
        payload = body.encode() if isinstance(body, str) else body
        before = self._routes.get(path)
        left = [times]

        async def answer(request: web.Request) -> web.StreamResponse:
            if left[0] is not None:
                if left[0] == 0:
                    return await (before or _not_found)(request)
                left[0] -= 1
            if delay:
                await asyncio.sleep(delay)
            own = CIMultiDict({"Content-Type": content_type})
            own.update(headers or {})
            return web.Response(body=payload, status=status, headers=own)

        self._routes[path] = answer

    def redirect(self, path: str, target: str, *, status: int = 302, headers: Mapping[str, str] | None = None) -> None:
        """Answer `path` with a redirect to `target`, written as it stands."""
        self.page(path, b"", status=status, headers={**(headers or {}), "Location": target})

    def robots(self, text: str, *, status: int = 200) -> None:
        """The site's robots.txt."""
        self.page("/robots.txt", text, status=status, content_type="text/plain")

    def drop(self, path: str, *, times: int | None = None) -> None:
        """Close the connection instead of answering `path`."""
        before = self._routes.get(path)
        left = [times]

        async def answer(request: web.Request) -> web.StreamResponse:
            if left[0] is not None:
                if left[0] == 0:
                    return await (before or _not_found)(request)
                left[0] -= 1
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

        self._routes[path] = answer

    def route(self, path: str, handler: Handler) -> None:
        """Answer `path` by an aiohttp.web handler. `*` answers everything that nothing else does, but /robots.txt."""
        self._routes[path] = handler

    def websocket(self, path: str, talk: Callable[[web.WebSocketResponse], Awaitable[None]], **options: Any) -> None:
        """Accept WebSockets at `path`: `await talk(socket)` has the server's side, an aiohttp.web one that is made with
        `options` (`protocols`, `compress`, ...) and closed when `talk` returns. The handshake is in `journal`."""

        async def answer(request: web.Request) -> web.StreamResponse:
            socket = web.WebSocketResponse(**options)
            await socket.prepare(request)
            await talk(socket)
            await socket.close()
            return socket

        self._routes[path] = answer

    def requests(self, path: str | None = None) -> list[Hit]:
        """What was asked, for this path (with its query) or at all, robots.txt left out."""
        return [hit for hit in self.journal if (hit.path == path if path is not None else hit.path != "/robots.txt")]

    @property
    def paths(self) -> list[str]:
        """The paths asked for, in order, robots.txt left out."""
        return [hit.path for hit in self.requests()]

    async def reached(self, count: int) -> None:
        """Until that many requests have arrived: trigger faults by this, never by sleeping."""
        if len(self.journal) < count:
            arrival = asyncio.Event()
            self._arrivals.append((count, arrival))
            await arrival.wait()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        request._payload = stream_of(body)  # `request.multipart()` and `.post()` of a handler read the stream itself
        path = request.raw_path
        self.journal.append(Hit(time.monotonic(), request.method, path, request.headers, body, request.host))
        for count, arrival in self._arrivals:
            if len(self.journal) >= count:
                arrival.set()
        fault = None if self._chaos is None else self._chaos.fault(path)
        if fault is not None:
            return await fault(request)
        handler = self._routes.get(path) or self._routes.get(path.partition("?")[0])
        if handler is None and path != "/robots.txt":
            handler = self._routes.get("*")
        return await (handler or _not_found)(request)


async def _not_found(request: web.Request) -> web.StreamResponse:
    return web.Response(status=404, text="404: there is nothing here")
