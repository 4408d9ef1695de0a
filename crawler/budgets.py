"""How much a crawl takes of one host, one domain, one path: pages, bytes, hosts, permutations of a query.

Counted in memory, and kept as rows beside the queue, committed with the epoch whose pages they count; what memory has
no room for is read from there again. Nothing is counted where the limit is 0.

Queries. A shop with twenty filters has a million URLs at one path and a few hundred things on them, but so has a forum
with a hundred thousand topics at `/viewtopic?f=2&t=4711&start=25`, and nothing of that may be lost. What tells them
apart is what a new URL brings: a topic brings a value that was not there, its second page a pair of values that were
not there together. Twenty filters have brought every pair after a few hundred URLs, and then go on for ever with the
same ones. So a query counts as a permutation when every two of its parameters have been met together at this path; up
to two parameters that never happens, because a new query of two is a new pair. Pairs are remembered in memory alone,
and forgotten when there are too many: that lets more through, never less.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from crawler import url as urls
from crawler.cookies.suffixes import registrable_domain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crawler.url import Fingerprinter

__all__ = ["HOST_PREFIX", "Budgets", "Limits"]

HOST_PREFIX: Final = "budget/host/"
"""Of the keys of what hosts have given; the host follows."""

_HOSTS: Final = 20_000
"""Whose counts are in memory, and host names known to be within their domain's limit."""
_DOMAINS: Final = 10_000
_PATHS: Final = 10_000
_PAIRS: Final = 50_000
"""Pairs of parameters, in each of two generations: 10 MB at the very most."""
_PARAMETERS: Final = 12
"""Of one query that are paired: 66 pairs."""
_FEW: Final = 64
"""Hosts before anybody asks which domain is whose: the list of public suffixes takes 50 ms to read, and most crawls
never come to that many."""


class Limits(NamedTuple):
    """0: no limit, and nothing is counted."""

    pages_per_host: int = 0
    bytes_per_host: int = 0
    hosts_per_domain: int = 0
    query_permutations: int = 0


class _Use(msgspec.Struct, array_like=True):
    """What a host has given."""

    pages: int = 0
    bytes: int = 0


class Budgets:
    """`saved` gives back what `rows` gave, of this run and earlier ones. A host is `"name:port"`; for
    `hosts_per_domain` it is the name.
    """

    def __init__(
        self,
        limits: Limits,
        fingerprint: Fingerprinter,
        saved: Callable[[str], bytes | None] = lambda key: None,
    ) -> None:
        self._limits = limits
        self.counts_hosts = bool(limits.pages_per_host or limits.bytes_per_host)
        self._fingerprint = fingerprint
        self._saved = saved
        self._rows: dict[str, bytes | None] = {}
        self._leaving: dict[str, bytes | None] = {}
        """Rows that are being committed, or have been."""
        self._uses: dict[str, _Use] = {}
        self._changed: set[str] = set()
        self._places: dict[int, str] = {}
        self._taken: dict[str, int] = {}
        """Of requests in flight, by host."""
        self.within: set[str] = set()
        """Hosts that are known to be among those of their domain; always the same set."""
        self._few: list[str] | None = None
        """The first hosts, while they are too few for any domain to be full."""
        self._domains: dict[str, set[int]] = {}
        self._permutations: dict[str, int] = {}
        self._pairs: tuple[set[int], set[int]] = set(), set()
        self._let_in: set[int] = set()
        """Queries: before the frontier knows them, other pages that are under way may have the same links."""

    # -- what waits, and what is in flight ---------------------------------------------------------------------------

    def spent(self, host: str) -> str | None:
        """`"host_pages"` or `"host_bytes"` where a host has given all that it may."""
        if not self.counts_hosts:
            return None
        use, limits = self._use(host), self._limits
        if use.pages >= limits.pages_per_host > 0:
            return "host_pages"
        return "host_bytes" if use.bytes >= limits.bytes_per_host > 0 else None

    def take(self, ticket: int, host: str) -> bool:
        """A place among the host's pages for a request that starts. False: those in flight may need them all, and one
        of them may yet give its place back."""
        limit = self._limits.pages_per_host
        if not limit:
            return True
        if self._use(host).pages + self._taken.get(host, 0) >= limit:
            return False
        self._places[ticket] = host
        self._taken[host] = self._taken.get(host, 0) + 1
        return True

    def settle(self, ticket: int, *, delivered: bool) -> None:
        """The request came to an end: with a page for its callback, or giving its place back."""
        host = self._places.pop(ticket, None)
        if host is None:
            return
        self._taken[host] -= 1
        if not self._taken[host]:
            del self._taken[host]
        if delivered:
            self._use(host).pages += 1
            self._changed.add(host)

    def received(self, host: str, count: int) -> None:
        """Bytes of a body, after decompression."""
        if self._limits.bytes_per_host:
            self._use(host).bytes += count
            self._changed.add(host)

    def _use(self, host: str) -> _Use:
        use = self._uses.get(host)
        if use is None:
            if len(self._uses) >= _HOSTS:
                self._uses = {host: self._uses[host] for host in self._changed}
            row = self._kept(self._host_key(host))
            use = self._uses[host] = _Use() if row is None else _USE.decode(row)
        return use

    # -- what is new -------------------------------------------------------------------------------------------------

    def refusal(self, url: str, host: str, *, named: bool = False) -> str | None:
        """Why a URL that the crawl does not know yet is not queued: `"host_pages"`, `"host_bytes"`, `"domain_hosts"`,
        `"query_permutations"`; None counts it in. `named`: the user named its host, so no domain is too large for it.
        """
        if self.counts_hosts and (reason := self.spent(host)) is not None:
            return reason
        if host not in self.within and not self._is_within(host, urls.hostname(url), named):
            return "domain_hosts"
        if "&" in url and self._limits.query_permutations and self._is_permutation(url):
            return "query_permutations"
        return None

    def _is_within(self, host: str, name: str, named: bool) -> bool:
        """Whether this host is among those of its domain that may be visited."""
        if not self._limits.hosts_per_domain:
            return True
        if self._few is None:
            self._few = _NAMES.decode(self._kept("budget/hosts") or b"\x90")
        if name not in self._few:
            if len(self._few) < min(_FEW, self._limits.hosts_per_domain):
                self._few.append(name)
                self._rows["budget/hosts"] = _ENCODER.encode(self._few)
            elif not self._is_room(name, named):
                return False
        if len(self.within) >= _HOSTS:
            self.within.clear()
        self.within.add(host)
        return True

    def _is_room(self, name: str, named: bool) -> bool:
        domain = registrable_domain(name)
        if domain is None:  # an address, or a name that nobody registered
            return True
        hosts, host = self._hosts_of(domain), self._fingerprint(name)
        if host in hosts:
            return True
        if len(hosts) >= self._limits.hosts_per_domain and not named:
            return False
        hosts.add(host)
        self._rows[self._domain_key(domain)] = _ENCODER.encode(list(hosts))
        return True

    def _hosts_of(self, domain: str) -> set[int]:
        hosts = self._domains.get(domain)
        if hosts is None:
            if len(self._domains) >= _DOMAINS:
                self._domains = {}
            row = self._kept(self._domain_key(domain))
            hosts = set() if row is None else set(_HASHES.decode(row))
            hosts.update(self._fingerprint(name) for name in self._few or () if registrable_domain(name) == domain)
            self._domains[domain] = hosts
        return hosts

    def _is_permutation(self, url: str) -> bool:
        """Whether the query brings nothing but what was met at its path, once more often than it may."""
        path, _, query = url.partition("?")
        if query.count("&") < 2:
            return False
        pieces = sorted({piece for piece in query.split("&") if piece})[:_PARAMETERS]
        if len(pieces) < 3 or (mark := hash(url)) in self._let_in:
            return False
        if not self._is_new(path, pieces):
            count = self._permutations_of(path)
            if count >= self._limits.query_permutations:
                return True
            self._permutations[path] = count + 1
            self._rows[self._query_key(path)] = b"%d" % (count + 1)
        if len(self._let_in) >= _PAIRS:
            self._let_in.clear()
        self._let_in.add(mark)
        return False

    def _permutations_of(self, path: str) -> int:
        count = self._permutations.get(path)
        if count is None:
            if len(self._permutations) >= _PATHS:
                self._permutations.clear()
            count = self._permutations[path] = int(self._kept(self._query_key(path)) or b"0")
        return count

    def _is_new(self, path: str, pieces: list[str]) -> bool:
        """Whether two of these parameters have not been met together, as far as is remembered."""
        newer, older = self._pairs
        pairs = [hash((path, *pair)) for pair in itertools.combinations(pieces, 2)]
        new = [pair for pair in pairs if pair not in newer and pair not in older]
        newer.update(pairs)
        if len(newer) >= _PAIRS:
            self._pairs = set(), newer
        return bool(new)

    # -- to be kept --------------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, bytes | None]:
        """For `Frontier.commit`: what changed since the last call; the keys begin with `budget/`."""
        for host in self._changed:
            self._rows[self._host_key(host)] = _ENCODER.encode(self._uses[host])
        self._changed.clear()
        self._leaving, self._rows = self._rows, {}
        return self._leaving

    def reread(self, keys: Iterable[str]) -> None:
        """What `saved` gives for these keys has changed: others counted, too."""
        for key in keys:
            self._uses.pop(key.removeprefix(HOST_PREFIX), None)
            self._rows.pop(key, None)
            self._leaving.pop(key, None)

    def _kept(self, key: str) -> bytes | None:
        return self._rows.get(key) or self._leaving.get(key) or self._saved(key)

    def _host_key(self, host: str) -> str:
        return f"{HOST_PREFIX}{host}"

    def _domain_key(self, domain: str) -> str:
        return f"budget/domain/{self._fingerprint(domain):016x}"

    def _query_key(self, path: str) -> str:
        return f"budget/query/{self._fingerprint(path):016x}"

    def __repr__(self) -> str:
        return f"<Budgets {self._limits} in flight={len(self._places)}>"


_ENCODER = msgspec.msgpack.Encoder()
_USE = msgspec.msgpack.Decoder(_Use)
_NAMES = msgspec.msgpack.Decoder(list[str])
_HASHES = msgspec.msgpack.Decoder(list[int])
