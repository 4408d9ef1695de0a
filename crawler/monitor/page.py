"""The server behind the status page: who is answered, and what."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import hdrs, web

from crawler.errors import SettingsError
from crawler.monitor.connections import Connections
from crawler.monitor.pulse import Pulse
from crawler.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crawler.monitor.metrics import Metrics
    from crawler.settings import StatusSettings

__all__ = ["StatusPage"]

logger = logging.getLogger("crawler.status")

SILENT_SECONDS: Final = 5.0
"""Not even a page of the largest size is parsed for so long on the loop: a callback hangs."""
_MOST_HEADER_BYTES: Final = 4096
_CLOSING_SECONDS: Final = 0.1
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "crawler",
}
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NO_METRICS: Final = "/metrics needs the extra `metrics`: pip install 'crawler[metrics]'\n"


class StatusPage:
    """Served within the block, at `settings.listen`; `url` says where.

    `snapshot()` is `Engine.snapshot`; `ready()` is empty, or why no work is taken. Neither may wait for anything.
    Raises `SettingsError` where the address cannot be had. Leaving does not wait for anybody who asks.
    """

    def __init__(
        self,
        settings: StatusSettings,
        *,
        snapshot: Callable[[], dict[str, Any]],
        ready: Callable[[], str],
        pulse: Pulse | None = None,
    ) -> None:
        self._settings = settings
        self._names = {"localhost", *settings.hosts}
        self._snapshot = snapshot
        self._ready = ready
        self._pulse = pulse or Pulse()
        self._metrics: Metrics | None = None
        self._stack = contextlib.AsyncExitStack()
        self.url = ""

    async def __aenter__(self) -> StatusPage:
        with contextlib.suppress(ImportError):
            from crawler.monitor.metrics import Metrics

            self._metrics = Metrics(self._snapshot)
        async with contextlib.AsyncExitStack() as stack:
            runner = web.AppRunner(
                self._application(),
                access_log=None,
                handle_signals=False,
                shutdown_timeout=_CLOSING_SECONDS,
                lingering_time=0.0,
                max_line_size=_MOST_HEADER_BYTES,
                max_field_size=_MOST_HEADER_BYTES,
                max_headers=64,
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            assert runner.server is not None
            connections = Connections(runner.server)
            stack.callback(connections.close)
            server = await self._listen(connections)
            stack.callback(server.close)
            stack.enter_context(self._pulse)
            self._stack = stack.pop_all()
        host, port = server.sockets[0].getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        logger.info("the status page is at %s/status, beside /healthz, /readyz and /metrics", self.url)
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.__aexit__(*exc)

    async def _listen(self, connections: Connections) -> asyncio.Server:
        assert self._settings.listen is not None
        host, _, port = self._settings.listen.rpartition(":")
        try:
            return await asyncio.get_running_loop().create_server(connections, host.strip("[]"), int(port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "somebody else listens there" if taken else error.strerror or str(error)
            raise SettingsError(
                f"status.listen: cannot listen on {self._settings.listen}: {why}; port 0 takes a free one"
            ) from error

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._only_the_welcome], client_max_size=1024)
        application.on_response_prepare.append(_with_headers)
        for path, handler in (
            ("/healthz", self._healthz),
            ("/readyz", self._readyz),
            ("/metrics", self._metrics_text),
            ("/status", self._status),
        ):
            application.router.add_get(path, handler)  # and HEAD
        return application

    # -- who is answered ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _only_the_welcome(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not self._is_for_us(request):
            # Any page can have its name lead here, and then read what it gets: its name is in Host.
            raise web.HTTPMisdirectedRequest(text="this name is not in status.hosts\n")
        if hdrs.ORIGIN in request.headers:
            raise web.HTTPForbidden(text="not for pages of other sites\n")
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"], text="GET and HEAD only\n")
        return await handler(request)

    def _is_for_us(self, request: web.Request) -> bool:
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1:
            return False
        name = hosts[0].lower()
        if not name.endswith("]") and name.rpartition(":")[2].isdecimal():
            name = name.rpartition(":")[0]
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
            return True
        return name in self._names

    def _may_read(self, request: web.Request) -> None:
        """What is crawled, and how far: not for everybody who can reach the port."""
        if self._settings.token is not None:
            given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {self._settings.token}".encode()):
                raise web.HTTPUnauthorized(text="needs status.token\n", headers={hdrs.WWW_AUTHENTICATE: "Bearer"})
            return
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        if peer is None or not _is_loopback(peer[0]):
            raise web.HTTPForbidden(text="for loopback alone, unless status.token is set\n")

    # -- what they get -----------------------------------------------------------------------------------------------

    async def _healthz(self, _: web.Request) -> web.Response:
        silence = self._pulse.silence_seconds
        if silence > SILENT_SECONDS:
            return web.Response(status=503, text=f"the event loop has not come round for {silence:.1f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        why_not = self._ready()
        return web.Response(status=503, text=f"{redact_text(why_not)}\n") if why_not else web.Response(text="ready\n")

    async def _metrics_text(self, request: web.Request) -> web.Response:
        self._may_read(request)
        if self._metrics is None:
            return web.Response(status=501, text=_NO_METRICS)
        return web.Response(body=self._metrics.text(), headers={hdrs.CONTENT_TYPE: _METRICS_TYPE})

    async def _status(self, request: web.Request) -> web.Response:
        self._may_read(request)
        seen = self._snapshot()
        seen["custom"] = {redact_text(name): count for name, count in seen["custom"].items()}
        return web.Response(body=msgspec.json.encode(seen), content_type="application/json")


async def _with_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.force_close()  # one request a connection: nothing waits behind another one's answer


def _is_loopback(address: str) -> bool:
    with contextlib.suppress(ValueError):
        found = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(found, "ipv4_mapped", None)
        return bool((mapped or found).is_loopback)
    return False
