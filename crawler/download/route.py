"""By which way a request goes: which connector, which proxy, which TLS rule.

A proxy is named by the user, in the settings, the environment or a request, and may stand in a private network. It is
dialled through a connector of its own, so that its address is not opened to requests that go straight: a page's link to
the proxy itself meets the guard like any other. A host's own Unix socket is as private: a link does not reach it unless
the user named that host as one to crawl.
"""

from __future__ import annotations

import logging
import time
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

import yarl

from crawler import url as urls
from crawler.download.resolve import AddressBlocked
from crawler.download.tls import TlsRules
from crawler.errors import BlockedError, SettingsError
from crawler.proxies import Blame, ProxyPool, authorization, blame, is_socks, redacted, with_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crawler.download.resolve import Resolver
    from crawler.errors import FetchError
    from crawler.request import Request
    from crawler.settings import Settings

__all__ = ["PROXY", "TCP", "UNIX", "Route", "Router", "as_dialled"]

logger = logging.getLogger("crawler.download.proxy")

TCP, PROXY, UNIX = "tcp", "proxy", "unix:"
"""Ways, the last one followed by a path; a SOCKS proxy's is its URL."""

_NO_HEADERS: Mapping[str, str] = {}


class Route(NamedTuple):
    """One request's way."""

    way: str
    options: dict[str, Any]
    """For aiohttp's request."""
    proxy: str | None = None
    """As the pool or the user has its URL, credentials and all."""
    headers: Mapping[str, str] = _NO_HEADERS
    """That the proxy reads in the request itself: those of http requests, which no tunnel hides from it."""
    began: float = 0.0


class Router:
    """Decides the way of each request, and learns from how it went. Raises `SettingsError` where `tls` or `proxy` name
    what cannot be used."""

    def __init__(self, settings: Settings, resolver: Resolver) -> None:
        http, proxy = settings.http, settings.proxy
        self.tls = TlsRules(settings.tls)
        self._resolver = resolver
        self._user_agent = http.user_agent
        self._environment = urllib.request.getproxies() if http.trust_env else {}
        self._socket = http.unix_socket
        self._sockets = http.unix_sockets
        self._sockets_are_open = settings.security.allow_private_networks
        self._named: set[str] = set()
        """Hosts with a socket of their own that the user named."""
        self._pool: ProxyPool | None = None
        if proxy.urls:
            longest = max(proxy.max_rest_seconds, proxy.rest_seconds)
            self._pool = ProxyPool(proxy.urls, per=proxy.per, rest_seconds=proxy.rest_seconds, max_rest_seconds=longest)
            if any(map(is_socks, proxy.urls)):
                from crawler.download import socks  # noqa: F401 - where the extra is missing, it is said at the start

    def allow_host(self, host: str) -> None:
        """The user named this host (`"name:port"`): where it has a Unix socket of its own, requests may go there."""
        if self._own_socket(f"http://{host}/") is not None:
            self._named.add(host)

    def finds_address(self, request: Request) -> bool:
        """Whether the host's address is looked up here: a proxy, and the server behind a Unix socket, do so
        themselves."""
        if request.proxy is not None or self._pool is not None or self._environment:
            return False
        return self._socket_of(request.url) is None

    def choose(self, request: Request) -> Route:
        """Raises `AddressBlocked` for a target that no proxy may be asked for and for a socket that is not for links,
        `BlockedError` for what is no proxy."""
        path = self._socket_of(request.url)
        if path is not None:
            self._check_socket(request.url)
            return Route(UNIX + path, {})
        now = time.monotonic()
        proxy = self._proxy_of(request, now)
        options: dict[str, Any] = {}
        is_tls = request.url.startswith("https:")
        if is_tls or proxy is not None:  # an https proxy has its own rule, whatever the target
            tls = self.tls.for_request(request.url, request.tls, proxy)
            if tls is not True:
                options["ssl"] = tls
            if is_tls and request.server_hostname is not None:
                options["server_hostname"] = request.server_hostname
        if proxy is None:
            return Route(TCP, options)
        # The proxy dials. A name is its own to resolve; an address, we can judge.
        self._resolver.vet(urls.hostname(request.url), int(urls.host_key(request.url).rpartition(":")[2]))
        try:
            return self._through(proxy, request, options, now)
        except (ValueError, SettingsError) as error:
            raise BlockedError(f"the proxy of {request!r}: {error}", reason="proxy_url") from None

    def answered(self, route: Route, status: int) -> str | None:
        """The request got an answer; the name of the proxy that it came through."""
        if route.proxy is None:
            return None
        if status == 407 and route.headers is not _NO_HEADERS:
            self._rest(route, sure=False)  # the site may say so, too, to set us against our proxies
        elif self._pool is not None and self._pool.succeeded(route.proxy, began=route.began):
            logger.info("proxy %s is back", self._name(route.proxy))
        return self._name(route.proxy)

    def failed(self, route: Route, error: FetchError) -> str | None:
        """The request got none; the name of the proxy on the way."""
        if route.proxy is None:
            return None
        whose = blame(error)
        if whose is not Blame.OTHERS:
            self._rest(route, sure=whose is Blame.PROXY)
            if self._pool is not None and len(self._pool) > 1 and whose is Blame.PROXY:
                error.retryable = True  # another one may do
        return self._name(route.proxy)

    # -- proxies -------------------------------------------------------------------------------------------------------

    def _proxy_of(self, request: Request, now: float) -> str | None:
        if request.proxy is not None:
            return request.proxy
        if self._pool is not None:
            return self._pool.choose(urls.host_key(request.url), request.session, now)
        return self._proxy_of_environment(request.url) if self._environment else None

    def _proxy_of_environment(self, url: str) -> str | None:
        if urllib.request.proxy_bypass_environment(urls.host_key(url), self._environment):  # type: ignore[attr-defined]
            return None
        return self._environment.get(url.partition(":")[0]) or self._environment.get("all")

    def _through(self, proxy: str, request: Request, options: dict[str, Any], now: float) -> Route:
        """Raises ValueError, which shows nothing of the proxy's URL, for one that is none, and `SettingsError` where
        the extra for it is not installed."""
        named = proxy if request.proxy_auth is None else with_credentials(proxy, *request.proxy_auth)
        if is_socks(named):
            from crawler.download import socks  # noqa: F401 - needs an extra

            return Route(named, options, proxy, began=now)
        login = authorization(named)
        own = {"User-Agent": self._user_agent}
        if login is not None:
            own["Proxy-Authorization"] = login
        # Not in the URL, which aiohttp shows in errors. They are a part of the pool's key: what one account opened, no
        # other uses.
        options["proxy"] = yarl.URL(redacted(named))
        options["proxy_headers"] = own
        is_tunnel = request.url.startswith("https:")
        return Route(PROXY, options, proxy, _NO_HEADERS if is_tunnel else own, now)

    def _rest(self, route: Route, *, sure: bool) -> None:
        if self._pool is None or route.proxy is None:
            return
        seconds = self._pool.failed(route.proxy, began=route.began, now=time.monotonic(), sure=sure)
        if seconds is not None:
            logger.warning("proxy %s failed and rests for %.0f s", self._name(route.proxy), seconds)

    def _name(self, proxy: str) -> str:
        return self._pool.name(proxy) if self._pool is not None and proxy in self._pool else redacted(proxy)

    # -- Unix sockets --------------------------------------------------------------------------------------------------

    def _socket_of(self, url: str) -> str | None:
        return self._own_socket(url) or self._socket

    def _own_socket(self, url: str) -> str | None:
        if not self._sockets:
            return None
        return self._sockets.get(urls.host_key(url)) or self._sockets.get(urls.hostname(url))

    def _check_socket(self, url: str) -> None:
        if self._sockets_are_open or self._own_socket(url) is None:
            return
        host = urls.host_key(url)
        if host not in self._named:
            raise AddressBlocked(f"{host} has a Unix socket (http.unix_sockets), and start() does not name that host")


def as_dialled(text: str) -> yarl.URL:
    """What was judged must be what is dialled. Raises `BlockedError`."""
    url = yarl.URL(text, encoded=True)
    if url.raw_host != urls.hostname(text):
        raise BlockedError(f"{urls.redact(text)} names its host ambiguously", reason="ambiguous_host")
    return url
