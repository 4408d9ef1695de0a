"""The test kit: real servers on loopback, a fake clock, whole crawls in a test. The project's own tests use it.

    async def test_my_spider_reads_the_title():
        async with LocalSite() as site:
            site.page("/", "<title>Hello</title>")
            result = await run_spider(MySpider, args={"site": site.url})
        assert result.items == [{"title": "Hello"}]

A callback alone needs no server: `fake_response(url, html)` makes its argument. Where a spider's requests are to be
answered without one, `offline()` gives an `aioresponses` that works with the aiohttp of today.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy

from crawler.api import _crawl as assemble
from crawler.download.save import Saver
from crawler.request import Request
from crawler.response import Response

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.contracts import Clock
    from crawler.spider import Spider

__all__ = ["FakeClock", "Hit", "LocalSite", "Run", "fake_response", "offline", "run_spider"]


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
    another host.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.journal: list[Hit] = []
        self._host = host
        self._port = 0
        self._routes: dict[str, Handler] = {}
        self._runner: web.AppRunner | None = None
        self._arrivals: list[tuple[int, asyncio.Event]] = []

    async def __aenter__(self) -> LocalSite:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without a slash at its end."""
        return f"http://{self._host}:{self._port}"

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
        request._payload = _stream_of(body)  # `request.multipart()` and `.post()` of a handler read the stream itself
        path = request.raw_path
        self.journal.append(Hit(time.monotonic(), request.method, path, request.headers, body, request.host))
        for count, arrival in self._arrivals:
            if len(self.journal) >= count:
                arrival.set()
        handler = self._routes.get(path) or self._routes.get(path.partition("?")[0])
        if handler is None and path != "/robots.txt":
            handler = self._routes.get("*")
        return await (handler or _not_found)(request)


async def _not_found(request: web.Request) -> web.StreamResponse:
    return web.Response(status=404, text="404: there is nothing here")


class FakeClock:
    """A clock that tests own. Sleeping on it takes no time and moves it forward, so a crawl with long delays runs at
    once."""

    def __init__(self, start: float = 1_000_000_000.0) -> None:
        self._now = start
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._now += max(0.0, seconds)
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Real events keep their real time: the clock only jumps when the loop has had time to bring one."""
        if seconds is None:
            await event.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await event.wait()
        if not event.is_set():
            self._now += max(0.0, seconds)


class Run(NamedTuple):
    """What `run_spider` saw."""

    items: list[Any]
    """As the last pipeline left them, in the order in which their pages ended."""
    reason: str
    stats: dict[str, Any]
    spider: Spider


async def run_spider(
    spider: type[Spider],
    *,
    args: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    job: Path | None = None,
    output: str | Path | Sequence[str | Path] = (),
    overwrite: bool = False,
    refresh: bool = False,
    only_changed: bool = False,
    clock: Clock | None = None,
) -> Run:
    """A whole crawl, without delay between requests unless `settings` say otherwise. Raises as `crawler.crawl` does."""
    items: list[Any] = []

    async def keep(item: Any) -> None:
        items.append(item)

    merged = _merge({"politeness": {"delay_seconds": 0}, "retry": {"base_seconds": 0.01}}, settings or {})
    running = assemble(
        spider,
        args,
        merged,
        output,
        overwrite=overwrite,
        job=job,
        refresh=refresh,
        only_changed=only_changed,
        clock=clock,
        on_item=keep,
    )
    async with running as crawl:
        result = await crawl.run()
        return Run(items, result.reason, result.stats, crawl.spider)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def fake_response(
    url: str, body: str | bytes = "", *, status: int = 200, headers: Mapping[str, str] | None = None, **request: Any
) -> Response:
    """A response that nobody fetched, to test a callback alone: `list(MySpider().parse(fake_response(url, html)))`.

    Further arguments are its request's (`meta=`, `cb_kwargs=`, ...). `save` works; with `stream=True` the body is in
    `content`, which needs a running loop."""
    own = CIMultiDict({"Content-Type": "text/html; charset=utf-8"})
    own.update(headers or {})
    payload = body.encode() if isinstance(body, str) else body
    asked = Request(url, **request)
    response = Response(
        url,
        request=asked,
        status=status,
        headers=CIMultiDictProxy(own),
        body=b"" if asked.stream else payload,
        content=_stream_of(payload) if asked.stream else None,
    )
    response._saver = Saver(2**31)
    return response


def _stream_of(payload: bytes) -> aiohttp.StreamReader:
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(ResponseHandler(loop), limit=2 * len(payload) + 1, loop=loop)
    content.feed_data(payload)
    content.feed_eof()
    return content


@contextlib.contextmanager
def offline(**options: Any) -> Iterator[Any]:
    """`aioresponses.aioresponses(...)`, repaired for aiohttp >= 3.14: URLs registered on it are answered without a
    server.

    robots.txt is asked for like everything else: register it, or switch `politeness.obey_robots` off. Redirects,
    time-outs, compression and connection errors of the wire do not happen under it: use a `LocalSite` for those.
    """
    import aioresponses

    with _repaired(), aioresponses.aioresponses(**options) as mocked:
        yield mocked


@contextlib.contextmanager
def _repaired() -> Iterator[None]:
    """aioresponses 0.7.9 makes responses as aiohttp < 3.14 did: without `stream_writer`, and over a reader that asks
    its (missing) transport to pause beyond 128 KiB."""
    from unittest.mock import Mock, patch

    from aioresponses import core

    class Answer(aiohttp.ClientResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("stream_writer", Mock())
            super().__init__(*args, **kwargs)

    def reader(loop: Any) -> aiohttp.StreamReader:
        return aiohttp.StreamReader(ResponseHandler(loop=loop), limit=1 << 40, loop=asyncio.get_running_loop())

    with patch.object(core, "ClientResponse", Answer), patch.object(core, "stream_reader_factory", reader):
        yield
