"""From a host name to the addresses that may be dialled for it.

Whether an address may be dialled is decided where the socket is made (`connect.make_socket_factory`), because
everything passes there: literals, resolved names, redirects, and a name that answers differently the second time. The
resolver asks the same guard one step earlier, so that of several addresses only the allowed ones are tried, and it
knows the exceptions: a host that the user named may be private where its first answer leads (`Resolver.allow_host`),
and so may one whose addresses the user wrote down.

aiohttp's own DNS cache is off. It forgets after a fixed time and keeps no failures; ours follows the records' TTL.
Without it aiohttp asks the resolver directly for every new connection and shares nothing, so sharing is done here. The
shared thing is a future, not a task: c-ares works in its own thread, and a waiter that is cancelled leaves alone.

aiohttp resolves a name within the time and the place of a connection. So that a slow name server holds neither, whoever
schedules requests may have a name looked up ahead (`prefetch`) and do something else meanwhile. Such an answer waits
for its request, even where it would have expired by then: else the two could miss each other for ever.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from crawler.download.lookup import LOOKUP_SECONDS, Answer, Lookups, is_name
from crawler.errors import BlockedError, DNSError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pycares

    from crawler.guard import Guard

__all__ = ["AddressBlocked", "NameNotResolved", "Resolver"]

_ADDRESSES_PER_FAMILY: Final = 4
"""Tried per connection. When all fail aiohttp tries again with one less, so their number counts squared."""
_AHEAD_NAMES: Final = 256
"""Looked up at a time, when ahead of their requests; beyond that requests wait themselves. Each is two datagrams, of
which a name server's socket holds some 300 unread by Linux' default; one that is lost costs `lookup_seconds`."""
_AHEAD_SECONDS: Final = 60.0
"""How long an answer waits for its request: the longest pause that a host gets by default."""


class AddressBlocked(BlockedError, OSError):
    """The guard's no, as an `OSError`: aiohttp and aiohappyeyeballs carry those, and try the next address."""

    reason = "blocked_address"


class NameNotResolved(DNSError, OSError):
    """A failed lookup, as the `OSError` that aiohttp expects of a resolver."""


class Resolver(AbstractResolver):
    """Host names to addresses, through c-ares, with one bounded cache and one query for all who wait for a name.

    `hosts` ({"api.test": "10.0.0.7, fd00::7"}) are answered from there and never asked for; their addresses may be
    private, at every port. `localhost` and names below it never leave the machine, whatever `hosts` would say
    (RFC 6761, 6.3). `nameservers` ("1.1.1.1", "127.0.0.1:5353", "[::1]:53") replace the system's; names then go to them
    as they stand, without the hosts file and search domains.

    At most `cache_names` answers are kept, those used last; an address for its TTL, at least a second and at most
    `cache_seconds`; that a name does not exist for `negative_cache_seconds`; a failure that may pass for a second
    (RFC 9520), so that a dead name server is asked once a second per name and not by every waiter. A try for an answer
    takes `lookup_seconds`, and there are two. Of a name's addresses only those that `guard` allows are given.

    Raises `SettingsError` for `hosts` that are none, and at the first lookup for nameservers that are none. Cancelling
    a waiter cancels nothing else.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        hosts: Mapping[str, str] | None = None,
        nameservers: Sequence[str] = (),
        cache_names: int = 10_000,
        cache_seconds: float = 300.0,
        negative_cache_seconds: float = 5.0,
        lookup_seconds: float = LOOKUP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guard = guard
        self._static = dict(_static(name, text) for name, text in (hosts or {}).items())
        self._cache_names = cache_names
        self._clock = clock
        self._lookups = Lookups(
            nameservers,
            cache_seconds=cache_seconds,
            negative_cache_seconds=negative_cache_seconds,
            lookup_seconds=lookup_seconds,
            clock=clock,
        )
        self._cache: OrderedDict[str, Answer] = OrderedDict()
        self._pending: dict[str, asyncio.Future[Answer]] = {}
        self._ahead: dict[str, float] = {}
        """Names asked for ahead of their requests, and when nobody waits for the answer any more."""
        # Keyed by hash: a list of a million start URLs would otherwise stand here in full.
        self._named: dict[int, bool] = {}
        """Hosts that the user named, and whether they were resolved since."""
        self._hits = 0

    def snapshot(self) -> dict[str, int]:
        """`cached` names, `pending` lookups, all `lookups` so far, `hits`: answers that were there already."""
        return {
            "cached": len(self._cache),
            "pending": len(self._pending),
            "lookups": self._lookups.count,
            "hits": self._hits,
        }

    def __repr__(self) -> str:
        return "<Resolver {}>".format(" ".join(f"{name}={count}" for name, count in self.snapshot().items()))

    # -- what may be dialled -------------------------------------------------------------------------------------------

    def allow_host(self, hostname: str, port: int) -> None:
        """The user named this host and port. An IP address is allowed as it is, brackets or not.

        If no address of a name is public when it is first resolved for this port, it is a host of the user's own
        network, and those addresses are allowed at this port. Private ones that come later, or beside public ones, stay
        denied: they are somebody else's doing (DNS rebinding).
        """
        hostname = hostname.strip("[]")
        try:
            self._guard.allow(hostname, port)
        except ValueError:
            self._named.setdefault(_key(hostname, port), False)

    def vet(self, host: str, port: int) -> None:
        """For a host that a proxy will dial. Raises `AddressBlocked` for an address that may not be dialled and for
        `localhost`; other names are left to the proxy, which resolves them where it stands."""
        if _is_localhost(host):
            self._allowed(host, port, _LOCALHOST.addresses)
        elif (reason := self._guard.verdict(host.strip("[]"), port)) and reason != "not an address":
            raise AddressBlocked(f"{host} is not public ({reason})")

    def _allowed(self, host: str, port: int, addresses: tuple[str, ...]) -> list[str]:
        denied = {ip: reason for ip in addresses if (reason := self._guard.verdict(ip, port))}
        if self._may_be_private(host, port, len(denied) == len(addresses)):
            addresses = _few(addresses)
            for ip in addresses:
                if ip in denied:
                    self._guard.allow(ip, port)
            return list(addresses)
        allowed = _few(tuple(ip for ip in addresses if ip not in denied))
        if not allowed:
            raise AddressBlocked(self._why_blocked(host, port, *next(iter(denied.items()))))
        return list(allowed)

    def _may_be_private(self, host: str, port: int, is_private: bool) -> bool:
        if self._static and _plain(host) in self._static:
            return True
        key = _key(host, port)
        if self._named.get(key, True):
            return False
        self._named[key] = True
        return is_private

    def _why_blocked(self, host: str, port: int, ip: str, reason: str) -> str:
        words = f"{host}: {ip} is not public ({reason})"
        if _key(host, port) in self._named:
            words += ", nor where it led at first (security.allow_networks lets it move)"
        return words

    # -- now or ahead --------------------------------------------------------------------------------------------------

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As aiohttp calls it. Raises `NameNotResolved` and `AddressBlocked`."""
        host = host.lower()
        answer = self._known(host)
        if answer is None:
            answer = await asyncio.shield(self._pending.get(host) or self._look_up(host))
        else:
            self._hits += 1
        self._ahead.pop(host, None)
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

    def known(self, host: str) -> bool:
        """Whether connecting to `host` needs no lookup: an IP address (brackets or not), localhost, one of `hosts`, or
        a name whose answer is there, be it a failure."""
        host = host.lower()
        return self._known(host) is not None or _is_address(host)

    def address(self, host: str) -> str | None:
        """The lowest of the addresses that are known of `host`, itself where it is one; None where none is known."""
        host = host.lower()
        if _is_address(host):
            return host
        answer = self._known(host)
        return min(answer.addresses, default=None) if answer is not None else None

    def prefetch(self, host: str) -> asyncio.Future[Answer] | None:
        """Look the name up, or join who does. The future is done when it is `known`; it never raises, and cancelling it
        cancels nothing else. The answer is kept for the next `resolve`, up to a minute, whatever its TTL.

        None when there is nothing to wait for: the name is `known`, or so many are being looked up ahead already that
        the request had better wait for its name itself. Raises `SettingsError` as `resolve` does.
        """
        host = host.lower()
        if self._known(host) is not None or _is_address(host):
            return None
        waiting = self._pending.get(host)
        if waiting is None:
            if len(self._pending) >= _AHEAD_NAMES:
                return None
            waiting = self._look_up(host)
        self._ahead[host] = self._clock() + _AHEAD_SECONDS
        return asyncio.shield(waiting)

    async def close(self) -> None:
        """Ends what is under way; whoever still waits gets `dns_failed`. A later lookup starts anew."""
        await self._lookups.close()

    # -- answers -------------------------------------------------------------------------------------------------------

    def _known(self, host: str) -> Answer | None:
        if _is_localhost(host):
            return _LOCALHOST
        answer = self._cache.get(host)
        if answer is None:
            return self._static.get(_plain(host)) if self._static else None
        now = self._clock()
        if answer.expires <= now and self._ahead.get(host, 0.0) <= now:
            return None
        self._cache.move_to_end(host)
        return answer

    def _look_up(self, host: str) -> asyncio.Future[Answer]:
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._cache.pop(host, None)  # it has expired, and must not pass for the one that is waited for
        if is_name(host):
            query = self._lookups.ask(host)
            self._pending[host] = waiting
            query.add_done_callback(partial(self._answered, host, waiting))
        else:
            self._remember(host, self._lookups.not_a_name(), waiting)
        return waiting

    def _answered(
        self, host: str, waiting: asyncio.Future[Answer], query: asyncio.Future[pycares.AddrInfoResult]
    ) -> None:
        self._pending.pop(host, None)
        if host in self._ahead:
            self._ahead[host] = self._clock() + _AHEAD_SECONDS
        self._remember(host, self._lookups.read(query), waiting)

    def _remember(self, host: str, answer: Answer, waiting: asyncio.Future[Answer]) -> None:
        self._cache[host] = answer
        self._cache.move_to_end(host)
        while len(self._cache) > self._cache_names:
            forgotten, _ = self._cache.popitem(last=False)
            self._ahead.pop(forgotten, None)
        if not waiting.done():
            waiting.set_result(answer)


_LOCALHOST: Final = Answer(("127.0.0.1", "::1"), None, float("inf"))


def _is_localhost(host: str) -> bool:
    return host.rstrip(".").rpartition(".")[2] == "localhost"


@lru_cache(maxsize=16_384)
def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _few(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The first few of both families, that of the first one first."""
    narrow = tuple(ip for ip in addresses if ":" not in ip)[:_ADDRESSES_PER_FAMILY]
    wide = tuple(ip for ip in addresses if ":" in ip)[:_ADDRESSES_PER_FAMILY]
    return wide + narrow if addresses and ":" in addresses[0] else narrow + wide


def _plain(host: str) -> str:
    return host.rstrip(".").lower()


def _key(host: str, port: int) -> int:
    return hash((_plain(host), port))


def _static(name: str, text: str) -> tuple[str, Answer]:
    if _is_localhost(_plain(name)):
        raise SettingsError(f"dns.hosts: {name} always is this machine (RFC 6761, section 6.3)")
    addresses = tuple(word.strip("[]") for word in text.replace(",", " ").split())
    if not addresses or "%" in text or not all(map(_is_address, addresses)):
        raise SettingsError(f"dns.hosts: {name}: expected IP addresses, got {text!r}")
    return _plain(name), Answer(addresses, None, float("inf"))


def _result(host: str, ip: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=ip,
        port=port,
        family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
