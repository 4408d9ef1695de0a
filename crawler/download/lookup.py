"""Asking DNS: c-ares does it, in its own thread; here is how it is asked and what its answers mean.

A reply that is no DNS message makes c-ares give up its socket, and with it whatever else was asked through that: one
such reply in ten failed 95 names of 100 (measured). So what failed in this way is asked once more, one name at a time.
"""

from __future__ import annotations

import asyncio
import collections
import socket
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import aiodns
import pycares

from crawler.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LOOKUP_SECONDS", "Answer", "Lookups", "is_name"]

LOOKUP_SECONDS: Final = 4.0
"""For the first try; the second gets a little longer. Both fit into the default of `http.connect_seconds`, so that
silence is told from a slow host."""
_LEAST_SECONDS: Final = 1.0
"""How long any answer is kept. A page's connections open within that second, even where a record asks not to be cached;
and RFC 9520, 3.2 has it for failures, so that many who ask do not add to the troubles of a name server."""
_LOOKUPS_PER_CHANNEL: Final = 2_000
"""c-ares keeps every answer for its TTL, 2.2 KB each (measured), and pycares sets no limit: a crawl of a million hosts
would need 2 GB. So every so often a new channel takes over, with an empty cache."""

_NOT_FOUND: Final = frozenset(
    {
        aiodns.error.ARES_ENOTFOUND,  # NXDOMAIN
        aiodns.error.ARES_ENODATA,  # the name exists, without an address
        aiodns.error.ARES_ENONAME,
        aiodns.error.ARES_EBADNAME,  # not a name: an empty label, one over 63 bytes
    }
)


class Answer(NamedTuple):
    """What is known of a name, and until when."""

    addresses: tuple[str, ...]
    failure: tuple[str, str] | None
    """The reason for statistics and the words for people."""
    expires: float


_Query: TypeAlias = "asyncio.Future[pycares.AddrInfoResult]"


def _is_malformed(query: _Query) -> bool:
    if query.cancelled():
        return False
    error = query.exception()
    return isinstance(error, aiodns.error.DNSError) and error.args[0] == aiodns.error.ARES_EBADRESP


def _pass_on(query: _Query, answered: _Query) -> None:
    if answered.done():
        return
    if query.cancelled():
        answered.cancel()
    elif (error := query.exception()) is not None:
        answered.set_exception(error)
    else:
        answered.set_result(query.result())


def is_name(host: str) -> bool:
    """Whether it is worth asking for; what is wrong with the rest of a name, c-ares says."""
    return bool(host) and host.isascii() and host.isprintable()


class Lookups:
    """Questions to the `nameservers`, or to the system's where there are none.

    An address is good for its TTL, at least a second and at most `cache_seconds`; that a name does not exist, for
    `negative_cache_seconds`; a failure that may pass, for a second (RFC 9520).
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        cache_seconds: float = 300.0,
        negative_cache_seconds: float = 5.0,
        lookup_seconds: float = LOOKUP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count = 0
        self._nameservers = tuple(nameservers)
        self._cache_seconds = cache_seconds
        self._negative_cache_seconds = negative_cache_seconds
        self._lookup_seconds = lookup_seconds
        self._clock = clock
        self._channel: aiodns.DNSResolver | None = None
        self._retired: weakref.WeakSet[aiodns.DNSResolver] = weakref.WeakSet()
        self._suspects: collections.deque[tuple[str, _Query]] = collections.deque()
        """Names that were asked for when a reply was malformed; the first of them is being asked for."""
        self._careful: aiodns.DNSResolver | None = None
        """For those."""

    def ask(self, name: str) -> _Query:
        """For `read`, once it is done. Raises `SettingsError` for nameservers that are none."""
        if self._channel is None or self.count % _LOOKUPS_PER_CHANNEL == 0:
            if self._channel is not None:
                self._retired.add(self._channel)  # its lookups under way keep it alive until they are done
            self._channel = self._open_channel()
        self.count += 1
        answered: _Query = asyncio.get_running_loop().create_future()
        self._query(self._channel, name).add_done_callback(partial(self._asked, name, answered))
        return answered

    def _query(self, channel: aiodns.DNSResolver, name: str) -> _Query:
        # With a dot at its end c-ares takes a name as it stands. (Its option `lookups`, which would also leave out the
        # hosts file, must not be used: pycares 5.2 hands over freed memory.)
        full = f"{name.rstrip('.')}." if self._nameservers else name
        return channel.getaddrinfo(full, type=socket.SOCK_STREAM)

    def _asked(self, name: str, answered: _Query, query: _Query) -> None:
        if _is_malformed(query) and self._channel is not None:
            self._suspects.append((name, answered))
            if len(self._suspects) == 1:
                self._ask_next()
        else:
            _pass_on(query, answered)

    def _ask_next(self) -> None:
        if self._careful is None:
            self._careful = self._open_channel(tries=1)
        self._query(self._careful, self._suspects[0][0]).add_done_callback(self._asked_alone)

    def _asked_alone(self, query: _Query) -> None:
        _pass_on(query, self._suspects.popleft()[1])
        if self._suspects:
            self._ask_next()

    def read(self, query: _Query) -> Answer:
        try:
            found = query.result()
        except aiodns.error.DNSError as error:
            return self._failed(*error.args)
        addresses = tuple(dict.fromkeys(node.addr[0].decode("ascii") for node in found.nodes))
        if not addresses:
            return self._failed(aiodns.error.ARES_ENODATA, "no address")
        ttl = min([node.ttl for node in found.nodes] + [cname.ttl for cname in found.cnames])
        return Answer(addresses, None, self._kept(min(ttl, self._cache_seconds)))

    def not_a_name(self) -> Answer:
        return self._failed(aiodns.error.ARES_EBADNAME, "not a host name")

    async def close(self) -> None:
        """Ends what is under way: `read` says `dns_failed` of it. A later question starts anew."""
        channels = [*self._retired, self._channel, self._careful]
        self._channel = self._careful = None
        while len(self._suspects) > 1:
            _, answered = self._suspects.pop()
            if not answered.done():
                answered.set_exception(aiodns.error.DNSError(aiodns.error.ARES_EDESTRUCTION, "the lookup was ended"))
        for channel in channels:
            if channel is not None:
                await channel.close()

    def _open_channel(self, tries: int = 2) -> aiodns.DNSResolver:
        try:
            # ndots: `options ndots:5` of a Kubernetes pod would ask for every name under each search domain first.
            return aiodns.DNSResolver(self._nameservers or None, timeout=self._lookup_seconds, tries=tries, ndots=1)
        except pycares.AresError as error:
            raise SettingsError(f"dns.nameservers: {', '.join(self._nameservers)}: {error.args[-1]}") from error

    def _failed(self, code: int, words: str) -> Answer:
        if code in _NOT_FOUND:
            return Answer((), ("dns_not_found", words), self._kept(self._negative_cache_seconds))
        reason = "dns_timeout" if code == aiodns.error.ARES_ETIMEOUT else "dns_failed"
        return Answer((), (reason, words), self._kept(_LEAST_SECONDS))

    def _kept(self, seconds: float) -> float:
        return self._clock() + max(seconds, _LEAST_SECONDS)
