"""The frontier's own scheduling, without sockets and in a time of its own: `politeness_model.py OPTIONS` (JSON).

The real `LocalFrontier` and its controllers, driven as the engine drives them (crawler/engine.py, crawler/exchange.py):
leased when due and when there is room; an answer comes after a log-normal latency, is observed, frees the place and
completes the lease; an epoch is closed every 0.2 s. So thousands of hosts and an hour of politeness take seconds.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import re
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.contracts import Entry, Lease, Outcome, Verdict
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.frontier.memory import MemoryStore
from crawler.politeness import Answer, HostRule

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Load", "Seen", "simulate"]

_EPOCH_SECONDS = 0.2
_START = 1_700_000_000.0
_RECORD = b"https://www.host.example/a/page/of/usual/length-00000.html" * 2
_SPREAD = 0.4
"""Of the latency's logarithm: one in forty takes more than twice as long as the median."""
_SLOW_SECONDS = 5.0


class Load(NamedTuple):
    """What is simulated. `pages` a host, 0: endless, for `seconds` of which the first `warm_up` do not count."""

    hosts: int = 1000
    slow: int = 0
    """Hosts that take 5 s to answer, spread among the others."""
    pages: int = 20
    concurrency: int = 1024
    latency: float = 0.1
    """The median."""
    delay: float = 0.5
    jitter: float = 0.3
    adaptive: bool = True
    seconds: float = math.inf
    warm_up: float = 0.0
    on_disk: bool = False
    timed: bool = False
    """Whether the frontier's CPU time is taken."""


class Wait(NamedTuple):
    """The longest that a host waited from one start to the next, over what it would have ideally."""

    times: float = 0.0
    host: str = ""
    waited: float = 0.0
    ideal: float = 0.0


class Seen(NamedTuple):
    pages: int
    """Started after the warm-up, on all hosts."""
    quick_pages: int
    """Those of the hosts that are not slow."""
    seconds: float
    """From the warm-up's end to the last start."""
    efficiency: float
    """Time that turns took as they were dealt out, over the time for which hosts had work."""
    quick_wait: Wait
    """The longest between two starts of a host that is not slow, or since its last one, or for its first one."""
    slow_wait: Wait
    met: int
    """Hosts that are not slow and had a start at all, of `hosts - slow`."""
    last_met: float
    """When the last of them had its first one, in seconds from the very beginning."""
    hosts_left: int
    """In memory after the last epoch."""
    cpu_us: float
    """A page, of the frontier's scheduling; 0: not taken."""
    epoch_us: float
    """A page, of closing epochs."""


class _Asked:
    """One host, as the simulation sees it."""

    __slots__ = ("last", "latency", "spacing", "spent")

    def __init__(self) -> None:
        self.last = -1.0
        """Its last start; negative: none."""
        self.spacing = 0.0
        """That its controller asked for then."""
        self.spent = 0.0
        """Sum of its spacings."""
        self.latency = 0.0


class Model:
    """`await Model(load, seed).run()`."""

    def __init__(self, load: Load, seed: object) -> None:
        self.load = load
        self._rng = Random(f"model {seed}")
        self._names = [f"www.host-{number}.example:443" for number in range(load.hosts)]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._asked = [_Asked() for _ in self._names]
        self._made = [0] * load.hosts
        self._busy = 0
        self._events: list[tuple[float, int, float, Lease]] = []
        """End, number, start."""
        self._count = self._quick = self._met = 0
        self._waits = [Wait(), Wait()]
        self._cpu = self._epochs = 0.0
        self._last_start = self._last_met = 0.0
        self._clock: Callable[[], float] = time.thread_time if load.timed else lambda: 0.0

    async def run(self, folder: Path | None = None) -> Seen:
        load = self.load
        rule = HostRule(delay=load.delay, jitter=load.jitter, adaptive=load.adaptive)
        store = MemoryStore() if folder is None else DiskStore(folder)
        frontier = LocalFrontier(store, rule=lambda host: rule, rng=self._rng, concurrency=load.concurrency)
        async with frontier:
            frontier.resume(_START)
            for host in range(load.hosts):
                frontier.add([self._entry(host) for _ in range(load.pages or 3)], _START)
            now = await self._crawl(frontier)
            now += load.delay * 2
            await frontier.commit({}, now)
            return self._seen(frontier)

    async def _crawl(self, frontier: LocalFrontier) -> float:
        now, epoch = _START, _START
        end = _START + self.load.seconds
        while now < end:
            next_due = await self._lease(frontier, now)
            if self._busy == 0 and next_due is None:
                break
            has_room = self._busy < self.load.concurrency
            times = [self._events[0][0]] if self._events else []
            times += [next_due] if next_due is not None and has_room else []
            now = max(now, min(times))
            if now - epoch >= _EPOCH_SECONDS:
                epoch = now
                began = self._clock()
                await frontier.commit({}, now)
                self._epochs += self._clock() - began
            while self._events and self._events[0][0] <= now:
                self._answer(frontier, now)
        if self.load.seconds < math.inf:  # who waits at the end has waited, too
            for number, asked in enumerate(self._asked):
                self._note_wait(asked, self._names[number], now, self._is_slow(number))
        return now

    async def _lease(self, frontier: LocalFrontier, now: float) -> float | None:
        began = self._clock()
        leased = await frontier.lease(self.load.concurrency - self._busy, now)
        self._cpu += self._clock() - began
        for lease in leased.leases:
            self._start(frontier, lease, now)
        return leased.next_due

    def _start(self, frontier: LocalFrontier, lease: Lease, now: float) -> None:
        number = self._numbers[lease.host]
        asked, load = self._asked[number], self.load
        is_slow = self._is_slow(number)
        latency = _SLOW_SECONDS if is_slow else load.latency * math.exp(self._rng.gauss(0.0, _SPREAD))
        counts = now >= _START + load.warm_up
        if counts:
            self._count += 1
            self._quick += not is_slow
            self._last_start = now
        if asked.last < 0.0:
            self._met += not is_slow
            self._last_met = self._last_met if is_slow else now - _START
        elif counts:
            self._note_wait(asked, lease.host, now, is_slow)
        asked.last, asked.latency = now, latency
        asked.spacing = frontier.controller(lease.host).next_start - now
        asked.spent += asked.spacing
        self._busy += 1
        heapq.heappush(self._events, (now + latency, lease.id, now, lease))

    def _is_slow(self, host: int) -> bool:
        hosts, slow = self.load.hosts, self.load.slow
        return bool(slow) and (host * slow) % hosts < slow

    def _note_wait(self, asked: _Asked, host: str, now: float, is_slow: bool) -> None:
        """Ideally a start comes a spacing after the one before, or when one of two places is free."""
        if asked.last < 0.0:
            waited, ideal = now - _START, self.load.delay
        else:
            waited, ideal = now - asked.last, max(asked.spacing, asked.latency / 2)
        if ideal and waited / ideal > self._waits[is_slow].times:
            self._waits[is_slow] = Wait(waited / ideal, host, waited, ideal)

    def _answer(self, frontier: LocalFrontier, now: float) -> None:
        ended, _, started, lease = heapq.heappop(self._events)
        began = self._clock()
        frontier.sent(lease.host, started)
        frontier.observe(lease.host, Answer(200, "", ended - started, None), now)
        frontier.leave(lease.host, now)
        frontier.complete([Outcome(lease, Verdict.DONE)], now)
        self._cpu += self._clock() - began
        self._busy -= 1
        if not self.load.pages:
            frontier.add([self._entry(self._numbers[lease.host])], now)

    def _entry(self, host: int) -> Entry:
        self._made[host] += 1
        fingerprint = (host + 1) * 0x9E3779B97F4A7C15 + self._made[host] * 0xD1B54A32D192ED03 & 0xFFFFFFFFFFFFFFFF
        return Entry(self._names[host], fingerprint, _RECORD)

    def _seen(self, frontier: LocalFrontier) -> Seen:
        worked = sum(asked.last - _START + asked.spacing for asked in self._asked if asked.last >= 0.0)
        counted = max(self._count, 1)
        return Seen(
            self._count,
            self._quick,
            self._last_start - _START - self.load.warm_up,
            sum(asked.spent for asked in self._asked) / worked if worked else 0.0,
            *self._waits,
            self._met,
            self._last_met,
            len(frontier._turns.hosts),
            self._cpu / counted * 1e6,
            self._epochs / counted * 1e6,
        )


def simulate(load: Load, seed: object = 1) -> Seen:
    if not load.on_disk:
        return asyncio.run(Model(load, seed).run())
    with tempfile.TemporaryDirectory(prefix="politeness-") as home:
        return asyncio.run(Model(load, seed).run(Path(home, "frontier")))


# -- memory -----------------------------------------------------------------------------------------------------------


_WARM_UP_HOSTS = 2000
"""Before those that count: the frontier's tables and buffers of fixed size have their memory then."""


async def memory(load: Load, folder: Path) -> dict[str, float]:
    """Bytes a host that a frontier on disk takes when each host was asked once and has the rest of its pages waiting:
    what Python allocated (`timed`), or anonymous memory of the process."""
    rule = HostRule(delay=load.delay, jitter=load.jitter, adaptive=load.adaptive)
    frontier = LocalFrontier(DiskStore(folder), rule=lambda host: rule, rng=Random(1), concurrency=None)
    model = Model(load._replace(hosts=load.hosts + _WARM_UP_HOSTS), 1)
    async with frontier:
        frontier.resume(_START)
        await _fill(frontier, model, range(_WARM_UP_HOSTS))
        if load.timed:
            tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0] if load.timed else _anonymous()
        asked = await _fill(frontier, model, range(_WARM_UP_HOSTS, load.hosts + _WARM_UP_HOSTS))
        after = tracemalloc.get_traced_memory()[0] if load.timed else _anonymous()
        return {"asked": asked, "bytes": (after - before) / load.hosts}


async def _fill(frontier: LocalFrontier, model: Model, hosts: range) -> int:
    """How many of the hosts were asked for a page."""
    for host in hosts:
        frontier.add([model._entry(host) for _ in range(model.load.pages)], _START)
        if host % 100 == 99:
            await frontier.commit({}, _START)
    asked = 0
    while leases := (await frontier.lease(1000, _START)).leases:
        for lease in leases:
            frontier.observe(lease.host, Answer(200, "", 0.1, None), _START)
            frontier.leave(lease.host, _START)
            frontier.complete([Outcome(lease, Verdict.DONE)], _START)
        asked += len(leases)
        await frontier.commit({}, _START)
    return asked


def _anonymous() -> int:
    found = re.search(r"^Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def main(options: dict[str, Any]) -> None:
    is_memory = options.pop("memory", False)
    seed = options.pop("seed", 1)
    load = Load(**{key: math.inf if value is None else value for key, value in options.items()})
    if is_memory:
        with tempfile.TemporaryDirectory(prefix="politeness-") as home:
            print(json.dumps(asyncio.run(memory(load, Path(home, "frontier")))))
        return
    seen = simulate(load, seed)
    waits = {name: getattr(seen, name)._asdict() for name in ("quick_wait", "slow_wait")}
    print(json.dumps({**seen._asdict(), **waits}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
