"""The one `ClientSession` of a crawl, and one exchange over it.

aiohttp's session does what it is best at: connections, HTTP/1.1, TLS, proxies. Redirects, cookies, decompression and
limits are ours, so the session is told to leave them alone: each hop passes the same checks, a jar belongs to a session
name and not to the process, and no body can be larger in memory than its limit.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import ssl
import time
import urllib.request
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import aiohttp
import yarl
from multidict import CIMultiDict

from crawler import url as urls
from crawler.download.body import ACCEPT_ENCODING, open_stream, read_body
from crawler.download.connect import Resolver, make_connector, make_ssl_context
from crawler.download.cookies import CookieJars
from crawler.download.save import Saver
from crawler.download.translate import FOREIGN, translate
from crawler.errors import BlockedError, FetchError
from crawler.request import FilePath, Request, Timeout
from crawler.response import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crawler.guard import Guard
    from crawler.settings import Settings

__all__ = ["Downloader"]

_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
_TRANSLATED: tuple[type[Exception], ...] = (*FOREIGN, ValueError)


class _Answer(aiohttp.ClientResponse):
    """Notes when the request went out, and the peer's address, which aiohttp forgets when a short body has arrived."""

    peer: str | None = None
    sent: float = 0.0

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        self.sent = time.perf_counter()
        transport = connection.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        if isinstance(peer, tuple):
            self.peer = peer[0]
        return await super().start(connection)


class Downloader:
    """`crawler.contracts.Fetcher` over aiohttp. `guard` decides which addresses may be dialled."""

    def __init__(self, settings: Settings, guard: Guard) -> None:
        http = settings.http
        self._settings = settings
        self._guard = guard
        self._jars = CookieJars(enabled=http.cookies, unsafe=http.unsafe_cookies)
        self._saver = Saver(http.max_file_bytes)
        self._timeout = aiohttp.ClientTimeout(
            total=http.total_seconds, connect=http.connect_seconds, sock_read=http.read_seconds
        )
        self._stream_timeout = aiohttp.ClientTimeout(
            total=None, connect=http.connect_seconds, sock_read=http.read_seconds
        )
        self._proxies = itertools.cycle(settings.proxy.urls) if settings.proxy.urls else None
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Downloader:
        settings = self._settings
        tls = settings.tls
        async with contextlib.AsyncExitStack() as stack:
            self._resolver = Resolver(
                self._guard,
                nameservers=settings.dns.nameservers,
                cache_seconds=settings.dns.cache_seconds,
                negative_cache_seconds=settings.dns.negative_cache_seconds,
            )
            stack.push_async_callback(self._resolver.close)
            connector = make_connector(
                guard=self._guard,
                resolver=self._resolver,
                tls=make_ssl_context(tls.verify, tls.ca_file, tls.cert_file, tls.key_file),
                unix_socket=settings.http.unix_socket,
            )
            self._session = await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=connector,
                    headers=self._default_headers(),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    response_class=_Answer,
                    timeout=self._timeout,
                    trust_env=settings.http.trust_env,
                )
            )
            if settings.http.trust_env:
                self._allow_environment_proxies()
            # aiohttp sends an idempotent request again by itself, at once, when the server hangs up on it: a second
            # request that no delay, count or limit of ours knows of. There is no public switch.
            self._session._retry_connection = False
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.aclose()

    def allow_host(self, host: str) -> None:
        name, _, port = host.rpartition(":")
        self._resolver.allow_host(name, int(port))

    def _allow_environment_proxies(self) -> None:
        """The user named them, as those of `proxy.urls`."""
        for scheme, proxy in urllib.request.getproxies().items():
            if scheme in ("http", "https", "all") and (url := yarl.URL(proxy)).raw_host:
                self._resolver.allow_host(url.raw_host, url.port or 80)

    async def fetch(self, request: Request) -> Response:
        started = time.perf_counter()
        try:
            async with contextlib.AsyncExitStack() as body_files:
                answer = await self._send(request, body_files)
            return await self._read(request, answer, started)
        except FetchError:
            raise
        except _TRANSLATED as error:
            raise translate(error, request.url) from error

    @contextlib.asynccontextmanager
    async def websocket(self, request: Request, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """aiohttp's `ws_connect` over the crawl's session, with its cookies, proxy and TLS; `options` are aiohttp's."""
        url = yarl.URL(request.url, encoded=True)
        try:
            socket = await self._session.ws_connect(
                url, headers=self._headers(request, url), **self._route(request), **options
            )
        except _TRANSLATED as error:
            raise translate(error, request.url) from error
        try:
            yield socket
        finally:
            await socket.close()

    # -- the request's side ------------------------------------------------------------------------------------------

    async def _send(self, request: Request, body_files: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        url = yarl.URL(request.url, encoded=True)
        if url.raw_host != urls.hostname(request.url):  # what was judged must be what is dialled
            raise BlockedError(f"{urls.redact(request.url)} names its host ambiguously", reason="ambiguous_host")
        options: dict[str, Any] = {}
        if request.data is not None or request.json is not None or request.body is not None:
            options.update(self._body(request, body_files))
        if request.compress is not None:
            options["compress"] = request.compress
        if request.timeout is not None or request.stream:
            options["timeout"] = self._timeout_of(request)
        answer = await self._session.request(
            request.method,
            url,
            headers=self._headers(request, url),
            allow_redirects=False,
            **self._route(request),
            **options,
        )
        self._jars.store(request.session, url, answer)
        return answer

    def _default_headers(self) -> CIMultiDict[str]:
        headers = CIMultiDict(
            {"User-Agent": self._settings.http.user_agent, "Accept": _ACCEPT, "Accept-Encoding": ACCEPT_ENCODING}
        )
        headers.update(self._settings.http.headers)
        return headers

    def _headers(self, request: Request, url: yarl.URL) -> CIMultiDict[str] | None:
        cookie = self._jars.header(request.session, url, request.cookies)
        if not (cookie or request.headers):
            return None
        headers = CIMultiDict(request.headers)
        if cookie and "Cookie" not in headers:
            headers["Cookie"] = cookie
        return headers

    def _body(self, request: Request, body_files: contextlib.AsyncExitStack) -> dict[str, Any]:
        if request.json is not None:
            return {"json": request.json}
        if request.body is not None:
            return {"data": request.body}
        if isinstance(request.data, FilePath):
            return {"data": _opened(request.data, body_files)}
        if isinstance(request.data, list):
            form = aiohttp.FormData()
            for name, value in request.data:
                if isinstance(value, FilePath):
                    form.add_field(str(name), _opened(value, body_files), filename=os.path.basename(value.path))
                else:
                    form.add_field(str(name), value if isinstance(value, (str, bytes)) else str(value))
            return {"data": form}
        return {"data": request.data}

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

    def _route(self, request: Request) -> dict[str, Any]:
        """Proxy and TLS of this request."""
        route: dict[str, Any] = {}
        pin = (
            self._settings.tls.fingerprints.get(urls.hostname(request.url)) if self._settings.tls.fingerprints else None
        )
        if request.tls is False:
            route["ssl"] = False
        elif isinstance(request.tls, ssl.SSLContext):
            route["ssl"] = request.tls
        elif isinstance(request.tls, str) or pin is not None:
            digits = request.tls if isinstance(request.tls, str) else pin or ""
            route["ssl"] = aiohttp.Fingerprint(bytes.fromhex(digits.lower().removeprefix("sha256:").replace(":", "")))
        proxy = request.proxy or self._next_proxy(request)
        if proxy is not None or self._settings.http.trust_env:
            # Whoever dials: a name is the proxy's to resolve; an address, we can judge.
            self._resolver.vet(urls.hostname(request.url), int(urls.host_key(request.url).rpartition(":")[2]))
        if proxy is not None:
            self._add_proxy(route, proxy, request)
        return route

    def _next_proxy(self, request: Request) -> str | None:
        if self._proxies is None:
            return None
        proxy = self._settings.proxy
        if proxy.per == "request":
            return next(self._proxies)
        kept_for = urls.host_key(request.url) if proxy.per == "host" else str(request.session)
        return proxy.urls[zlib.crc32(kept_for.encode()) % len(proxy.urls)]

    def _add_proxy(self, route: dict[str, Any], proxy: str, request: Request) -> None:
        url = yarl.URL(proxy)
        self._resolver.allow_host(url.raw_host or "", url.port or 80)
        if request.proxy_auth is not None:
            user, password = request.proxy_auth
            url = url.with_user(user).with_password(password)
        # aiohttp makes Proxy-Authorization of it, for the proxy alone: on a plain request itself, else on the CONNECT.
        route["proxy"] = url

    # -- the response's side -----------------------------------------------------------------------------------------

    async def _read(self, request: Request, answer: aiohttp.ClientResponse, started: float) -> Response:
        http = self._settings.http
        try:
            if request.stream:
                body, content = b"", open_stream(answer, http.max_file_bytes)
            else:
                body = await read_body(answer, request.max_body_bytes or http.max_body_bytes)
                content = None
        except BaseException:
            answer.close()
            raise
        version = answer.version
        response = Response(
            request.url,
            request=request,
            status=answer.status,
            headers=answer.headers,
            body=body,
            reason=answer.reason or "",
            raw_headers=answer.raw_headers,
            cookies=answer.cookies if "Set-Cookie" in answer.headers else None,
            elapsed_seconds=time.perf_counter() - started,
            connect_seconds=max(0.0, getattr(answer, "sent", started) - started),
            ip_address=getattr(answer, "peer", None),
            http_version="1.1" if version is None else f"{version.major}.{version.minor}",
            content=content,
        )
        response._saver = self._saver
        if content is not None:
            response.on_close(answer.close)
        return response


def _opened(file: FilePath, body_files: contextlib.AsyncExitStack) -> BinaryIO:
    try:
        return body_files.enter_context(open(file.path, "rb"))
    except OSError as error:
        message = f"cannot read {file.path} to upload it: {error.strerror}"
        raise FetchError(message, reason="request_body", retryable=False) from error
