"""Connectors and sessions, a pair for each way that requests take, opened when first used.

aiohttp's session does what it is best at: connections, HTTP/1.1, TLS, proxies. Redirects, cookies, decompression and
limits are ours, so every session is told to leave them alone: each hop passes the same checks, a jar belongs to a
session name and not to the process, and no body can be larger in memory than its limit.

A session has default headers, or it is bare: for requests that do not want all of them, and for those through an HTTP
proxy, whom aiohttp would tell them all on a CONNECT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from crawler.download.body import ACCEPT_ENCODING
from crawler.download.connect import FreshConnections, make_connector, make_unix_connector
from crawler.download.lookup import LOOKUP_SECONDS
from crawler.download.resolve import Resolver
from crawler.download.route import PROXY, TCP, UNIX
from crawler.download.wire import LINE_BYTES, MOST_HEADERS, Departure, StaleConnection, Wire
from crawler.guard import Guard

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from aiohttp.client_reqrep import ConnectionKey

    from crawler.settings import Settings

__all__ = ["Answer", "Ways", "make_resolver"]

_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Answer(aiohttp.ClientResponse):
    """Notes when the request went out, and the peer's address, which aiohttp forgets when a short body has arrived."""

    peer: str | None = None
    departure: Departure

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        self.departure = Departure(self._loop)
        transport = connection.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        if isinstance(peer, tuple):
            self.peer = peer[0]
        protocol = connection.protocol
        try:
            return await super().start(connection)
        except aiohttp.ClientError as error:
            cause = error.__cause__ if isinstance(error.__cause__, HttpProcessingError) else error
            if isinstance(protocol, Wire) and protocol.is_stale(cause):
                raise StaleConnection(connection._key) from error
            raise


class _Times(TypedDict):
    keepalive_seconds: float
    lifetime_seconds: float


class Ways:
    """The sessions of a crawl. `guard` and `resolver` are those of requests that go straight; proxies, which are
    dialled for being the user's wherever they stand, have others. `tls` is what holds where a request says nothing."""

    def __init__(
        self,
        settings: Settings,
        guard: Guard,
        resolver: Resolver,
        *,
        tls: ssl.SSLContext | bool,
        timeout: aiohttp.ClientTimeout,
        json_serialize: Callable[[Any], str],
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        on_open: Callable[[str, int | None], None] = lambda host, port: None,
        lost_since: Callable[[float], float] = lambda moment: 0.0,
    ) -> None:
        self._http = settings.http
        self._guard = guard
        self._resolver = resolver
        self._proxy_guard = Guard(allow_private=True)
        self._proxy_resolver = make_resolver(settings, self._proxy_guard)
        self._tls = tls
        self._timeout = timeout
        self._json_serialize = json_serialize
        self._trace_configs = list(trace_configs)
        self._on_open = on_open
        self._lost_since = lost_since
        self._connectors: dict[str, FreshConnections] = {}
        self._sessions: dict[tuple[str, bool], aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Ways:
        self.main = self.session(TCP, bare=False)
        self.main_connector = self._connectors[TCP]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for session in self._sessions.values():
            await session.close()
        for connector in self._connectors.values():
            await connector.close()
        await self._proxy_resolver.close()

    def session(self, way: str, *, bare: bool) -> aiohttp.ClientSession:
        """The session of a way. Raises `SettingsError` where the way needs an extra that is not installed."""
        session = self._sessions.get((way, bare))
        if session is None:
            session = self._sessions[way, bare] = self.make_session(way, bare=bare)
        return session

    def make_session(self, way: str, *, bare: bool, **options: Any) -> aiohttp.ClientSession:
        """One more over the connector of this way, with aiohttp's `options` in place of ours; the caller closes it."""
        usual = {"timeout": self._timeout, "skip_auto_headers": self._http.skip_auto_headers or None}
        session = aiohttp.ClientSession(
            connector=self._connectors.get(way) or self._open_connector(way),
            connector_owner=False,
            headers=None if bare else self.default_headers(),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            json_serialize=self._json_serialize,
            response_class=Answer,
            trace_configs=self._trace_configs,
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
            max_headers=MOST_HEADERS,
            **{**usual, **options},
        )
        # aiohttp sends an idempotent request again by itself, at once, when the server hangs up on it: a second request
        # that no delay, count or limit of ours knows of. There is no public switch. Ours (`session`) is for connections
        # that were used before, and for safe methods.
        session._retry_connection = False
        return session

    def forget(self, key: ConnectionKey) -> None:
        """Close what is idle of this key."""
        for connector in self._connectors.values():
            connector.forget(key)

    def default_headers(self) -> CIMultiDict[str]:
        """Of a session that is not bare."""
        headers = CIMultiDict(
            {"User-Agent": self._http.user_agent, "Accept": _ACCEPT, "Accept-Encoding": ACCEPT_ENCODING}
        )
        headers.update(self._http.headers)
        for name in self._http.skip_auto_headers:
            headers.popall(name, None)
        return headers

    def _open_connector(self, way: str) -> FreshConnections:
        http = self._http
        times = _Times(keepalive_seconds=http.keepalive_seconds, lifetime_seconds=http.connection_lifetime_seconds)
        if way.startswith(UNIX):
            connector = make_unix_connector(way.removeprefix(UNIX), **times)
        elif way in (TCP, PROXY):
            connector = make_connector(
                guard=self._guard if way == TCP else self._proxy_guard,
                resolver=self._resolver if way == TCP else self._proxy_resolver,
                tls=self._tls,
                happy_eyeballs_seconds=http.happy_eyeballs_seconds,
                local_address=http.local_address,
                **times,
            )
        else:
            from crawler.download.socks import make_socks_connector

            connector = make_socks_connector(way, tls=self._tls, local_address=http.local_address, **times)
        connector.on_open = self._on_open
        connector.lost_since = self._lost_since
        self._connectors[way] = connector
        return connector


def make_resolver(settings: Settings, guard: Guard) -> Resolver:
    dns = settings.dns
    return Resolver(
        guard,
        nameservers=dns.nameservers,
        hosts=dns.hosts,
        cache_seconds=dns.cache_seconds,
        negative_cache_seconds=dns.negative_cache_seconds,
        cache_names=dns.cache_names,
        # Two tries fit into the time for connecting, so that a silent name server is told from a silent host.
        lookup_seconds=min(LOOKUP_SECONDS, settings.http.connect_seconds * 0.4),
    )
