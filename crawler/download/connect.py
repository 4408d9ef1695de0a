"""From a host name to a connected socket: the resolver, the guard at the socket, the connector, the TLS context.

Whether an address may be dialled is decided where the socket is made (`make_socket_factory`), because everything
passes there: literals, resolved names, redirects, and a name that answers differently the second time. The resolver
asks the same guard one step earlier, so that of several addresses only the allowed ones are tried, and it knows the one
exception: a host that the user named may be private, if it was so from the start (`Resolver.allow_host`).

aiohttp's own DNS cache is off. It forgets after a fixed time and keeps no failures; ours follows the records' TTL.
Without it aiohttp asks the resolver directly for every new connection and shares nothing, so sharing is done here. The
shared thing is a future, not a task: c-ares works in its own thread, and a waiter that is cancelled leaves alone.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
import time
import weakref
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import aiodns
import aiohttp
import pycares
from aiohttp.abc import AbstractResolver, ResolveResult

from crawler.errors import BlockedError, DNSError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohappyeyeballs import AddrInfoType, SocketFactoryType

    from crawler.guard import Guard

__all__ = ["AddressBlocked", "NameNotResolved", "Resolver", "make_connector", "make_socket_factory", "make_ssl_context"]

_T = TypeVar("_T")

_CACHED_NAMES: Final = 10_000
"""At about 500 bytes a name."""
_MIN_TTL_SECONDS: Final = 1.0
"""Also for records that ask not to be cached: a page's connections open within that second."""
_LOOKUP_SECONDS: Final = 4.0
"""For the first try; the second gets a little longer. Both fit into the default of `http.connect_seconds`, so that
silence is told from a slow host."""
_LOOKUPS_PER_CHANNEL: Final = 2_000
"""c-ares keeps every answer for its TTL, 2.2 KB each (measured), and pycares sets no limit: a crawl of a million hosts
would need 2 GB. So every so often a new channel takes over, with an empty cache."""
_ADDRESSES_PER_FAMILY: Final = 4
"""Tried per connection. When all fail aiohttp tries again with one less, so their number counts squared."""

_NOT_FOUND: Final = frozenset(
    {
        aiodns.error.ARES_ENOTFOUND,  # NXDOMAIN
        aiodns.error.ARES_ENODATA,  # the name exists, without an address
        aiodns.error.ARES_ENONAME,
        aiodns.error.ARES_EBADNAME,  # not a name: an empty label, one over 63 bytes
    }
)


class AddressBlocked(BlockedError, OSError):
    """The guard's no, as an `OSError`: aiohttp and aiohappyeyeballs carry those, and try the next address."""

    reason = "blocked_address"


class NameNotResolved(DNSError, OSError):
    """A failed lookup, as the `OSError` that aiohttp expects of a resolver."""


class _Answer(NamedTuple):
    addresses: tuple[str, ...]
    failure: tuple[str, str] | None
    """The reason for statistics and the words for people."""
    expires: float


class _Standing(enum.Enum):
    """What is known of a host that the user named."""

    NAMED = enum.auto()
    """Not resolved yet."""
    INTRANET = enum.auto()
    """Not public when first resolved: wherever it leads is allowed."""
    PUBLIC = enum.auto()
    """Public when first resolved: a private address later is somebody else's doing."""


class Resolver(AbstractResolver):
    """Host names to addresses, through c-ares, with one bounded cache and one query for all who wait for a name.

    `nameservers` ("1.1.1.1", "127.0.0.1:5353", "[::1]:53") replace the system's; names then go to them as they stand,
    without the hosts file and search domains. `localhost` and names below it never leave the machine (RFC 6761, 6.3).
    An answer is kept for its TTL, at least a second and at most `cache_seconds`; a name that does not exist for
    `negative_cache_seconds`; a failure that may pass is not kept. Of a name's addresses only those that `guard` allows
    are given.

    Raises `SettingsError` at the first lookup for nameservers that are none. Cancelling a waiter cancels nothing else.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        nameservers: Sequence[str] = (),
        cache_seconds: float = 300.0,
        negative_cache_seconds: float = 5.0,
        lookup_seconds: float = _LOOKUP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guard = guard
        self._nameservers = tuple(nameservers)
        self._cache_seconds = cache_seconds
        self._negative_cache_seconds = negative_cache_seconds
        self._lookup_seconds = lookup_seconds
        self._clock = clock
        self._cache: OrderedDict[str, _Answer] = OrderedDict()
        self._pending: dict[str, asyncio.Future[_Answer]] = {}
        # Keyed by hash: a list of a million start URLs would otherwise stand here in full.
        self._named: dict[int, _Standing] = {}
        self._channel: aiodns.DNSResolver | None = None
        self._retired: weakref.WeakSet[aiodns.DNSResolver] = weakref.WeakSet()
        self._lookups = 0
        self._hits = 0

    def snapshot(self) -> dict[str, int]:
        """`cached` names, `pending` and past `lookups`, `hits` of the cache."""
        return {
            "cached": len(self._cache),
            "pending": len(self._pending),
            "lookups": self._lookups,
            "hits": self._hits,
        }

    def __repr__(self) -> str:
        return "<Resolver {}>".format(" ".join(f"{name}={count}" for name, count in self.snapshot().items()))

    def allow_host(self, hostname: str, port: int) -> None:
        """The user named this host and port. An IP address is allowed as it is, brackets or not.

        If one of a name's addresses is not public when it is first resolved for this port, it is a host of the user's
        own network, and every address it ever has is allowed at this port. If all are public, private ones that come
        later stay denied (DNS rebinding).
        """
        hostname = hostname.strip("[]")
        try:
            self._guard.allow(hostname, port)
        except ValueError:
            self._named.setdefault(_key(hostname, port), _Standing.NAMED)

    def vet(self, host: str, port: int) -> None:
        """For a host that a proxy will dial. Raises `AddressBlocked` for an address that may not be dialled and for
        `localhost`; other names are left to the proxy, which resolves them where it stands."""
        if _is_localhost(host):
            self._allowed(host, port, _LOCALHOST.addresses)
        elif (reason := self._guard.verdict(host.strip("[]"), port)) and reason != "not an address":
            raise AddressBlocked(f"{host} is not public ({reason})")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As aiohttp calls it. Raises `NameNotResolved` and `AddressBlocked`."""
        answer = self._cached(host)
        if answer is None:
            answer = await asyncio.shield(self._pending.get(host) or self._look_up(host))
        if answer.failure is not None:
            reason, words = answer.failure
            raise NameNotResolved(f"{host}: {words}", reason=reason, retryable=reason != "dns_not_found")
        found = [_result(host, ip, port) for ip in self._allowed(host, port, answer.addresses)]
        wanted = [result for result in found if family in (socket.AF_UNSPEC, result["family"])]
        if not wanted:
            raise NameNotResolved(
                f"{host}: no address of family {family.name}", reason="dns_not_found", retryable=False
            )
        return wanted

    async def close(self) -> None:
        """Ends what is under way; whoever still waits gets `dns_failed`. A later lookup starts anew."""
        channels, self._channel = [*self._retired, self._channel], None
        for channel in channels:
            if channel is not None:
                await channel.close()

    def _allowed(self, host: str, port: int, addresses: tuple[str, ...]) -> list[str]:
        denied = {ip: reason for ip in addresses if (reason := self._guard.verdict(ip, port))}
        if self._may_be_private(host, port, bool(denied)):
            for ip in denied:
                self._guard.allow(ip, port)
            denied = {}
        allowed = [ip for ip in addresses if ip not in denied]
        if not allowed:
            ip, reason = next(iter(denied.items()))
            raise AddressBlocked(f"{host}: {ip} is not public ({reason})")
        narrow = [ip for ip in allowed if ":" not in ip][:_ADDRESSES_PER_FAMILY]
        wide = [ip for ip in allowed if ":" in ip][:_ADDRESSES_PER_FAMILY]
        return wide + narrow if ":" in allowed[0] else narrow + wide

    def _may_be_private(self, host: str, port: int, is_private: bool) -> bool:
        key = _key(host, port)
        standing = self._named.get(key)
        if standing is _Standing.NAMED:
            standing = self._named[key] = _Standing.INTRANET if is_private else _Standing.PUBLIC
        return standing is _Standing.INTRANET

    # -- cache ---------------------------------------------------------------------------------------------------------

    def _cached(self, host: str) -> _Answer | None:
        if _is_localhost(host):
            return _LOCALHOST
        answer = self._cache.get(host)
        if answer is None or answer.expires <= self._clock():
            return None
        self._cache.move_to_end(host)
        self._hits += 1
        return answer

    def _remember(self, host: str, answer: _Answer) -> None:
        self._cache[host] = answer
        self._cache.move_to_end(host)
        while len(self._cache) > _CACHED_NAMES:
            self._cache.popitem(last=False)

    # -- lookups -------------------------------------------------------------------------------------------------------

    def _look_up(self, host: str) -> asyncio.Future[_Answer]:
        waiting: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        if not (host and host.isascii() and host.isprintable()):
            waiting.set_result(self._failed(aiodns.error.ARES_EBADNAME, "not a host name"))
            return waiting
        # With a dot at its end c-ares takes a name as it stands. (Its option `lookups`, which would also leave out the
        # hosts file, must not be used: pycares 5.2 hands over freed memory.)
        query = self._ask(f"{host.rstrip('.')}." if self._nameservers else host)
        self._pending[host] = waiting
        query.add_done_callback(partial(self._answered, host, waiting))
        return waiting

    def _ask(self, name: str) -> asyncio.Future[pycares.AddrInfoResult]:
        if self._channel is None or self._lookups % _LOOKUPS_PER_CHANNEL == 0:
            if self._channel is not None:
                self._retired.add(self._channel)  # its lookups under way keep it alive until they are done
            self._channel = self._open_channel()
        self._lookups += 1
        return self._channel.getaddrinfo(name, type=socket.SOCK_STREAM)

    def _open_channel(self) -> aiodns.DNSResolver:
        try:
            # ndots: `options ndots:5` of a Kubernetes pod would ask for every name under each search domain first.
            return aiodns.DNSResolver(self._nameservers or None, timeout=self._lookup_seconds, tries=2, ndots=1)
        except pycares.AresError as error:
            raise SettingsError(f"dns.nameservers: {', '.join(self._nameservers)}: {error.args[-1]}") from error

    def _answered(
        self, host: str, waiting: asyncio.Future[_Answer], query: asyncio.Future[pycares.AddrInfoResult]
    ) -> None:
        self._pending.pop(host, None)
        answer = self._read(query)
        if answer.expires > self._clock():
            self._remember(host, answer)
        if not waiting.done():
            waiting.set_result(answer)

    def _read(self, query: asyncio.Future[pycares.AddrInfoResult]) -> _Answer:
        try:
            found = query.result()
        except aiodns.error.DNSError as error:
            return self._failed(*error.args)
        addresses = tuple(dict.fromkeys(node.addr[0].decode("ascii") for node in found.nodes))
        if not addresses:
            return self._failed(aiodns.error.ARES_ENODATA, "no address")
        ttl = min([node.ttl for node in found.nodes] + [cname.ttl for cname in found.cnames])
        return _Answer(addresses, None, self._clock() + min(max(ttl, _MIN_TTL_SECONDS), self._cache_seconds))

    def _failed(self, code: int, words: str) -> _Answer:
        if code in _NOT_FOUND:
            return _Answer((), ("dns_not_found", words), self._clock() + self._negative_cache_seconds)
        return _Answer((), ("dns_timeout" if code == aiodns.error.ARES_ETIMEOUT else "dns_failed", words), 0.0)


_LOCALHOST: Final = _Answer(("127.0.0.1", "::1"), None, float("inf"))


def _is_localhost(host: str) -> bool:
    return host.rstrip(".").rpartition(".")[2] == "localhost"


def _key(host: str, port: int) -> int:
    return hash((host.rstrip(".").lower(), port))


def _result(host: str, ip: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=ip,
        port=port,
        family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )


# -- sockets -----------------------------------------------------------------------------------------------------------


def make_socket_factory(guard: Guard) -> SocketFactoryType:
    """For `aiohttp.TCPConnector(socket_factory=...)`: a socket for an address that `guard` allows, for others
    `AddressBlocked`. Of several addresses aiohttp then tries the next."""

    def open_socket(addr_info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        ip, port = address[0], address[1]
        if reason := guard.verdict(ip, port):
            raise AddressBlocked(f"{ip} is not public ({reason})")
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        return opened

    return open_socket


def make_connector(
    *,
    guard: Guard,
    resolver: Resolver,
    tls: ssl.SSLContext | bool = True,
    unix_socket: str | None = None,
    keepalive_seconds: float = 15.0,
) -> aiohttp.BaseConnector:
    """The one connector of a crawl, with no limit of its own: the engine counts. Call it inside the running loop.

    `tls`: what `make_ssl_context` gave. `unix_socket`: everything goes through this socket, which the user named, so
    neither guard nor resolver are asked, and as plain HTTP. Closing the connector leaves `resolver` open.
    """
    if unix_socket is not None:
        return aiohttp.UnixConnector(unix_socket, limit=0, keepalive_timeout=keepalive_seconds)
    return aiohttp.TCPConnector(
        limit=0,
        ssl=tls,
        resolver=resolver,
        use_dns_cache=False,
        keepalive_timeout=keepalive_seconds,
        socket_factory=make_socket_factory(guard),
    )


def make_ssl_context(
    verify: bool = True, ca_file: str | None = None, cert_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext | bool:
    """What `make_connector(tls=...)` and aiohttp's `ssl=` take; make it once per crawl, it reads files.

    Without files it is a bool: for both aiohttp has a context from its import. `ca_file` replaces the system's
    authorities, as curl's `--cacert`. `cert_file` is our own certificate, with its key in `key_file` or beside it.
    All files are PEM; raises `SettingsError` for one that cannot be read.
    """
    if not (ca_file or cert_file):
        return verify
    context: ssl.SSLContext = _ask_openssl("tls.ca_file", partial(ssl.create_default_context, cafile=ca_file))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file:
        _ask_openssl("tls.cert_file", partial(context.load_cert_chain, cert_file, key_file))
    context.set_alpn_protocols(["http/1.1"])
    return context


def _ask_openssl(setting: str, ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"{setting}: {error}") from error
