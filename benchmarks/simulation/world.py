"""Hosts, pages and time of a simulation, and what must hold at every start."""

from __future__ import annotations

import heapq
import itertools
import math
from array import array
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.contracts import Entry

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from crawler.contracts import Lease

__all__ = ["PLACES", "START", "Load", "SimulatedClock", "World"]

START = 1_700_000_000.0
PLACES = 2
_PARETO = 1.05
_MEDIAN, _SPREAD, _LONGEST = 0.5, 0.9, 30.0
_PATH = "/archive/2024/harbour/lanterns-along-the-quay-and-the-boats-page-{:06}.html"
_SAME = 1e-3
"""The scripts count in milliseconds."""
_FETCHED, _COMMITTED = 1, 2


class Load(NamedTuple):
    workers: int = 1000
    hosts: int = 1_000_000
    seconds: float = 12.0
    """Of virtual time, after which it ends even if something is left."""
    cap: int = 200
    """Pages of the largest host."""
    concurrency: int = 200
    delay: float = 1.0
    lease: float = 4.0
    shards: int = 16
    tick: float = 0.1
    killed: float = 0.05
    seed: str = "1"


class SimulatedClock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        raise AssertionError("nobody waits here")


class World:
    """`alive` is how many workers there are; it is counted down by whoever kills one."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.clock = SimulatedClock()
        self.rng = Random(f"{load.seed} simulation")
        self.alive = load.workers
        self.pages = array("H", (min(load.cap, int(self.rng.paretovariate(_PARETO))) for _ in range(load.hosts)))
        self._first = array("Q", itertools.accumulate(self.pages, initial=0))
        """By host: where its pages begin among all."""
        self._known = bytearray(self._first[-1])
        self._starts = array("I", bytes(4 * load.hosts))
        self._started, self._last_end, self._end_before = (array("d", bytes(8 * load.hosts)) for _ in range(3))
        """By host: when its last request started, and when the two of its requests end that end last."""
        self.flying: Counter[int] = Counter()
        """By host: requests under way."""
        self.in_flight = 0
        self.violations: list[str] = []
        self.needed = self.taken = 0.0
        self._crowded_until = 0.0
        self.fetched = self.again = 0
        self.rate: Counter[int] = Counter()
        self._heap: list[tuple[float, int, Callable[..., Awaitable[None]], tuple[Any, ...]]] = []
        self._ticks = itertools.count()

    # -- time --------------------------------------------------------------------------------------------------------

    def later(self, at: float, call: Callable[..., Awaitable[None]], *args: Any) -> None:
        heapq.heappush(self._heap, (at, next(self._ticks), call, args))

    async def run(self) -> None:
        ends = START + self.load.seconds
        while self._heap and self._heap[0][0] <= ends:
            at, _, call, args = heapq.heappop(self._heap)
            self.clock.time = max(self.clock.time, at)
            await call(*args)

    # -- pages -------------------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        return len(self._known)

    @property
    def left(self) -> int:
        """Pages that were not fetched."""
        return self._known.count(0)

    def entry(self, host: int, page: int) -> Entry:
        record = f"http://h{host}.example{_PATH.format(page)}".encode()
        return Entry(host=f"h{host}.example:80", fingerprint=_fingerprint(host, page), record=record, depth=1)

    def links(self, host: int, page: int) -> list[Entry]:
        """The first page of a host links to all others of it, each page to the first of another host."""
        entries = [self.entry(self.rng.randrange(self.load.hosts), 0)]
        if not page:
            entries += [self.entry(host, other) for other in range(1, self.pages[host])]
        return entries

    def latency(self) -> float:
        return min(_LONGEST, self.rng.lognormvariate(math.log(_MEDIAN), _SPREAD))

    def begin(self, lease: Lease, latency: float) -> int:
        """A request starts: the host that it is sent to."""
        host, page = _place(lease)
        now, place = self.clock.time, self._first[host] + page
        before, flying = self._started[host], self.flying[host]
        if before and now - before < self.load.delay - _SAME:
            self.violations.append(f"{now - before:.4f} s after the start before, at {lease.host}")
        if flying >= PLACES:
            self.violations.append(f"{flying + 1} requests at {lease.host}")
        if self._known[place] == _COMMITTED:
            self.violations.append(f"page {page} of {lease.host} again")
        self.again += self._known[place] == _FETCHED
        self._known[place] = max(self._known[place], _FETCHED)
        self._measure(host, before, now)
        self._started[host] = now
        self._starts[host] += 1
        last, end = self._last_end[host], now + latency
        self._last_end[host], self._end_before[host] = max(last, end), max(self._end_before[host], min(last, end))
        self.flying[host] = flying + 1
        self.in_flight += 1
        self.fetched += 1
        self.rate[int(now - START)] += 1
        return host

    def end(self, host: int) -> None:
        """A request at this host is under way no more."""
        self.in_flight -= 1
        self.flying[host] -= 1
        if not self.flying[host]:
            del self.flying[host]

    def committed(self, leases: list[Lease]) -> None:
        """Their ends are known to the frontier."""
        for lease in leases:
            host, page = _place(lease)
            self._known[self._first[host] + page] = _COMMITTED

    def _measure(self, host: int, before: float, now: float) -> None:
        """Whether the host waited longer than it had to."""
        if self.in_flight > 0.9 * self.alive * self.load.concurrency:
            self._crowded_until = now
        if not before or before <= self._crowded_until:
            return
        earliest = before + self.load.delay
        if self._starts[host] == 1:  # what it links to is known when it has come
            earliest = max(earliest, self._last_end[host])
        else:
            earliest = max(earliest, self._end_before[host])
        self.needed += min(earliest, now) - before
        self.taken += now - before


def _fingerprint(host: int, page: int) -> int:
    """One for one: odd multipliers are permutations of 64 bits."""
    mixed = ((host << 16 | page) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return ((mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93) & 0xFFFFFFFFFFFFFFFF


def _place(lease: Lease) -> tuple[int, int]:
    return int(lease.host[1 : lease.host.index(".")]), int(lease.record[-11:-5])
