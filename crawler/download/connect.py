"""From addresses to connections: the guard at the socket, and the connectors over it.

Connections are aiohttp's: it opens, pools and closes them. What it has no option for is here: the check of the address
that is dialled, a pool that forgets old connections, and one that does not fill up. The pool's key holds everything a
connection depends on (host, port, proxy, TLS rule), so none is shared by requests that differ in one of them.
"""

from __future__ import annotations

import errno
import functools
import resource
import socket
import time
import weakref
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp

from crawler.download.resolve import AddressBlocked
from crawler.download.wire import Wire

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from aiohappyeyeballs import AddrInfoType, SocketFactoryType
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from crawler.download.resolve import Resolver
    from crawler.guard import Guard

__all__ = ["FreshConnections", "half_of_the_files", "make_connector", "make_socket_factory", "make_unix_connector"]

_HAPPY_EYEBALLS_SECONDS: Final = 0.25
"""RFC 8305, section 5."""


def make_socket_factory(guard: Guard, local_address: str | None = None) -> SocketFactoryType:
    """For `aiohttp.TCPConnector(socket_factory=...)`: a socket for an address that `guard` allows, for others
    `AddressBlocked`. Of several addresses aiohttp then tries the next.

    With `local_address` our end has that address; what is of the other family then raises `OSError`.
    """
    local_family = None if local_address is None else _family(local_address)

    def open_socket(addr_info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        ip, port = address[0], address[1]
        if reason := guard.verdict(ip, port):
            raise AddressBlocked(f"{ip} is not public ({reason})")
        if local_family not in (None, family):
            raise OSError(errno.EAFNOSUPPORT, f"{ip} cannot be reached from the local address {local_address}")
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            if local_address is not None:
                _bind(opened, local_address)
        except BaseException:
            opened.close()
            raise
        return opened

    return open_socket


def _bind(opened: socket.socket, local_address: str) -> None:
    # The port is chosen when the other end is known: a port can then serve many of them. Bound at once, all connections
    # of the last minute (TIME-WAIT) would share the 28,000 ports there are.
    if no_port := getattr(socket, "IP_BIND_ADDRESS_NO_PORT", None):
        opened.setsockopt(socket.IPPROTO_IP, no_port, 1)
    try:
        opened.bind((local_address, 0))
    except OSError as error:
        raise OSError(error.errno, f"cannot use the local address {local_address}: {error.strerror}") from error


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(ip).version == 4 else socket.AF_INET6


class FreshConnections(aiohttp.BaseConnector):
    """For a connector to inherit from, before aiohttp's own: which connections are used again, and which not.

    One that is older than `lifetime_seconds` (0: no limit) is closed instead. aiohttp keeps idle connections without
    limit, one for each host met, until `keepalive_timeout`; here a new one is not kept after its answer while
    `most_open` others are open, idle or not. By default that is half of the files that the process may have open.
    """

    def __init__(
        self,
        *args: Any,
        lifetime_seconds: float = 0.0,
        most_open: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        if options.get("keepalive_timeout") == 0:  # aiohttp would never clear up what it keeps for no time at all
            del options["keepalive_timeout"]
            options["force_close"] = True
        super().__init__(*args, **options)
        self._lifetime_seconds = lifetime_seconds or float("inf")
        self._most_open = half_of_the_files() if most_open is None else most_open
        self._factory = functools.partial(_wire, loop=self._loop)
        self._clock = clock
        self.on_open: Callable[[str, int | None], None] = lambda host, port: None
        """A connection to this host is there, after a while: what it is for goes out now."""
        self.lost_since: Callable[[float], float] = lambda moment: 0.0
        """For how long the loop was held up since then (`lost_time.LostTime`)."""
        self._opened: weakref.WeakKeyDictionary[ResponseHandler, _Opened] = weakref.WeakKeyDictionary()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        """As aiohttp's session calls it for every request: a connection from the pool, or a new one."""
        while True:
            began = self._loop.time()
            try:
                connection = await super().connect(req, traces, timeout)
            except TimeoutError:
                if self._is_the_hosts(began, timeout.connect or 0.0):
                    raise
                continue  # once more: nothing was sent yet
            protocol = connection.protocol
            assert protocol is not None
            opened = self._opened.get(protocol)
            if opened is None:
                self._opened[protocol] = _Opened(self._clock(), _peer(connection))
                self.on_open(req.connection_key.host, req.connection_key.port)
                if len(self._opened) > self._most_open:
                    protocol.force_close()
                return connection
            if self._clock() - opened.at < self._lifetime_seconds:
                return connection
            connection.close()

    def forget(self, key: ConnectionKey) -> None:
        """Close the idle connections of this key: the next one is new."""
        for protocol, _ in self._conns.pop(key, ()):
            protocol.close()

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        if isinstance(protocol, Wire):
            protocol.rest()
        super()._release(key, protocol, should_close=should_close)

    def _is_the_hosts(self, began: float, limit_seconds: float) -> bool:
        """The time that is over, rather than the loop's, which somebody held up."""
        lost = self.lost_since(began)
        return not lost or self._loop.time() - began - lost >= limit_seconds

    def peer(self, protocol: ResponseHandler) -> str | None:
        """The IP address at the other end; None for a Unix socket."""
        opened = self._opened.get(protocol)
        return None if opened is None else opened.peer


def _wire(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return Wire(loop)


class _Opened(NamedTuple):
    at: float
    peer: str | None


def _peer(connection: Connection) -> str | None:
    transport = connection.transport
    address = None if transport is None else transport.get_extra_info("peername")
    return address[0] if isinstance(address, tuple) else None


class _Tcp(FreshConnections, aiohttp.TCPConnector):
    pass


class _Unix(FreshConnections, aiohttp.UnixConnector):
    pass


def make_connector(
    *,
    guard: Guard,
    resolver: Resolver,
    tls: ssl.SSLContext | bool = True,
    keepalive_seconds: float = 15.0,
    lifetime_seconds: float = 0.0,
    happy_eyeballs_seconds: float = _HAPPY_EYEBALLS_SECONDS,
    local_address: str | None = None,
) -> FreshConnections:
    """The one connector of a crawl over TCP. Call it inside the running loop; closing it leaves `resolver` open.

    `tls`: `TlsRules.default`. Idle connections are kept for `keepalive_seconds` (0: not at all), and none is used
    again after `lifetime_seconds` (0: no limit). Of a name's addresses the next one is tried beside those before it
    after `happy_eyeballs_seconds` (RFC 8305; 0: only when they have failed), both families in turn. `local_address` is
    the address of our end.

    It sets no limit of its own: the engine counts, per host and over all. A limit of `crawl.concurrency` here would be
    another one, and a harmful one: a callback that reads a stream holds its connection while it fetches inline over a
    second, so as many callbacks as there are workers could wait for each other until `http.connect_seconds` is over.
    """
    return _Tcp(
        limit=0,
        ssl=tls,
        resolver=resolver,
        use_dns_cache=False,
        keepalive_timeout=keepalive_seconds,
        lifetime_seconds=lifetime_seconds,
        happy_eyeballs_delay=happy_eyeballs_seconds or None,
        socket_factory=make_socket_factory(guard, local_address),
    )


def make_unix_connector(
    path: str, *, keepalive_seconds: float = 15.0, lifetime_seconds: float = 0.0
) -> FreshConnections:
    """Everything goes through the socket at `path`, whatever its host, as plain HTTP. The user named it, so neither
    guard nor resolver are asked. Without limit, as `make_connector`."""
    return _Unix(path, limit=0, keepalive_timeout=keepalive_seconds, lifetime_seconds=lifetime_seconds)


def half_of_the_files() -> int:
    """Of those that the process may have open (`ulimit -n`)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return int(soft // 2) if soft > 0 else 1 << 20  # RLIM_INFINITY is -1
