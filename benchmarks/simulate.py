"""A thousand workers and a million hosts on one machine: the real scripts on a real engine, in a time of its own.

    python benchmarks/simulate.py [--check] [--workers 1000] [--hosts 1000000] [--seconds 40]

Each worker is the real `SharedFrontier` over the real `RedisBroker`; the time is an argument of every script, so nobody
sleeps: a heap of events says what happens next. What is not there is HTTP: a request is a latency, log-normal with a
median of 0.5 s and never above 30 s. Hosts have 1 page and more, by a Pareto distribution of 1.05 with a cap; the first
page of a host links to all others of it, each page to two that are known already. In the middle of it one worker in
twenty is killed.

What must hold is checked at every start: at no host two starts closer than its delay or more requests than its places,
no page again whose end was committed. `--check` is the small form: 100 workers, 50,000 hosts. Exit code 1 where
something does not hold. A worker talks to the engine at most every `--tick` seconds, as if that were the way there and
back.

Results go to benchmarks/results/simulate.md, the curve to docs/scale.svg (with matplotlib).
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import math
import os
import sys
import tempfile
import time
from array import array
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "fleet")]

from engines import Engine, missing  # noqa: E402
from machine import describe, versions  # noqa: E402

from crawler.contracts import Entry, Lease, Outcome, Verdict  # noqa: E402
from crawler.frontier import shared  # noqa: E402
from crawler.frontier.loans import quota  # noqa: E402
from crawler.frontier.redis import RedisBroker, operate  # noqa: E402
from crawler.politeness import Answer, HostRule  # noqa: E402
from crawler.settings import FrontierSettings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Load", "Seen", "simulate"]

_START = 1_700_000_000.0
_PARETO = 1.05
_MEDIAN, _SPREAD, _LONGEST = 0.5, 0.9, 30.0
_PLACES = 2
_SEEDS_AT_ONCE = 2000
_PATH = "/archive/2024/harbour/lanterns-along-the-quay-and-the-boats-page-{:06}.html"
_EPOCH_SECONDS = 0.2
_SAME = 1e-3
"""The scripts count in milliseconds."""


class Load(NamedTuple):
    workers: int = 1000
    hosts: int = 1_000_000
    seconds: float = 40.0
    """Of virtual time, after which it ends even if something is left."""
    cap: int = 200
    """Pages of the largest host."""
    concurrency: int = 64
    delay: float = 1.0
    lease: float = 10.0
    shards: int = 64
    tick: float = 0.1
    killed: float = 0.05
    seed: str = "1"


class Seen(NamedTuple):
    fetched: int
    urls: int
    """Known in the end."""
    seconds: float
    wall_seconds: float
    violations: list[str]
    efficiency: float
    """Of the time between two starts at a host, what its delay and places made necessary, while there were free places
    in the workers."""
    engine_us: float
    """CPU of the engine a page, the seeds left out."""
    add_us: float
    """The same for a seed."""
    bytes_per_url: float
    empty_share: float
    """Of asks for requests that gave none."""
    lapsed: int
    again: int
    """Fetches of pages that had been fetched, whose end was not committed."""
    killed: int
    left: int
    """URLs that were not fetched."""
    rate: list[int]
    """Starts in each second."""


class SimulatedClock:
    def __init__(self) -> None:
        self.time = _START

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        raise AssertionError("nobody waits here")


class Worker:
    """One process, as far as the engine sees it."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.simulation = simulation
        load, clock = simulation.load, simulation.clock
        self.rng = Random(f"{load.seed} worker {number}")
        self.is_dead = False
        self.busy: set[int] = set()
        self.ended: list[int] = []
        """Fingerprints whose end is in the open epoch."""
        self.next_talk = self.next_wake = math.inf
        self.last_talk = self.last_commit = 0.0
        broker = Polls(
            FrontierSettings(
                url=simulation.url, lease_seconds=load.lease, shards=load.shards,
                expected_urls=max(1000, load.hosts * 4),
            ),
            worker=f"w{number}", crawl="simulated", spider="simulated", order="breadth", group_by="host", page_limit=0,
            quota=quota(load.delay), places=_PLACES, shared_places=0, concurrency=load.concurrency, delay=load.delay,
            clock=clock, rng=self.rng, now=clock.now,
        )  # fmt: skip
        self.broker = broker
        rule = HostRule(delay=load.delay, jitter=0.0, concurrency=_PLACES, adaptive=False)
        self.frontier = shared.SharedFrontier(
            broker, clock=clock, rule=lambda host: rule, rng=self.rng, concurrency=load.concurrency
        )

    async def talk(self) -> None:
        """What `serve` does between two waits, and the epoch if it is old enough."""
        clock, frontier = self.simulation.clock, self.frontier
        frontier._stir.clear()
        if clock.time - self.last_commit >= _EPOCH_SECONDS and (frontier._ends or frontier._entries):
            self.last_commit = clock.time
            ended, self.ended = self.ended, []
            await frontier.commit({}, clock.time)
            self.simulation.committed.update(ended)
        await frontier._talk(clock.time)
        self.last_talk = clock.time
        await self.go_on()

    async def go_on(self) -> None:
        """Begin what is due, and say when to be asked again."""
        simulation, frontier = self.simulation, self.frontier
        now = simulation.clock.time
        leased = await frontier.lease(simulation.load.concurrency - len(self.busy), now)
        for lease in leased.leases:
            simulation.begin(self, lease)
        waits = frontier._until_next(now)
        if frontier._stir.is_set() or frontier._ends or frontier._entries:
            waits = 0.0
        at = max(now + waits, self.last_talk + simulation.load.tick)
        if at < self.next_talk or self.next_talk <= now:
            self.next_talk = at
            simulation.later(at, self.talk_if_current, at)
        due = leased.next_due
        if due is not None and now < due < self.next_wake and len(self.busy) < simulation.load.concurrency:
            self.next_wake = due
            simulation.later(due, self.wake, due)

    async def talk_if_current(self, at: float) -> None:
        if at == self.next_talk:
            await self.talk()

    async def wake(self, at: float) -> None:
        if at == self.next_wake:
            self.next_wake = math.inf
            await self.go_on()


class Polls(RedisBroker):
    """Counts the asks."""

    asked = 0
    empty = 0

    async def ask(self, ask: Any) -> Any:
        given = await super().ask(ask)
        if ask.tasks:
            self.asked += 1
            self.empty += not any(loan.tasks for loan in given.loans)
        return given


class Simulation:
    def __init__(self, load: Load, url: str) -> None:
        self.load = load
        self.url = url
        self.clock = SimulatedClock()
        self.rng = Random(f"{load.seed} simulation")
        self.pages = array("H", (min(load.cap, int(self.rng.paretovariate(_PARETO))) for _ in range(load.hosts)))
        self.started = array("d", bytes(8 * load.hosts))
        self.ends: dict[int, list[float]] = {}
        """By host: of the last requests there."""
        self.flying: Counter[int] = Counter()
        self.committed: set[int] = set()
        self.met: set[int] = set()
        self.violations: list[str] = []
        self.needed = self.taken = 0.0
        self.crowded_until = 0.0
        self.fetched = self.again = 0
        self.rate: Counter[int] = Counter()
        self.in_flight = 0
        self.workers: list[Worker] = []
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...], Worker | None]] = []
        self._ticks = itertools.count()

    def later(self, at: float, call: Callable[..., Any], *args: Any) -> None:
        heapq.heappush(self._heap, (at, next(self._ticks), call, args, getattr(call, "__self__", None)))

    async def run(self) -> None:
        ends = _START + self.load.seconds
        while self._heap and self._heap[0][0] <= ends:
            at, _, call, args, worker = heapq.heappop(self._heap)
            if isinstance(worker, Worker) and worker.is_dead:
                continue
            self.clock.time = max(self.clock.time, at)
            await call(*args)

    # -- pages -------------------------------------------------------------------------------------------------------

    def entry(self, host: int, page: int) -> Entry:
        name = f"h{host}.example:80"
        record = f"http://h{host}.example{_PATH.format(page)}".encode()
        return Entry(host=name, fingerprint=_fingerprint(host, page), record=record, depth=1)

    def begin(self, worker: Worker, lease: Lease) -> None:
        host, page = _place(lease)
        now, delay = self.clock.time, self.load.delay
        worker.frontier.sent(lease.host, now)
        before = self.started[host]
        flying = self.flying[host]
        if before and now - before < delay - _SAME:
            self.violations.append(f"{now - before:.4f} s after the start before, at {lease.host}")
        if flying >= _PLACES:
            self.violations.append(f"{flying + 1} requests at {lease.host}")
        if lease.fingerprint in self.committed:
            self.violations.append(f"page {page} of {lease.host} again")
        self.again += lease.fingerprint in self.met
        self.met.add(lease.fingerprint)
        latency = min(_LONGEST, self.rng.lognormvariate(math.log(_MEDIAN), _SPREAD))
        self._measure(host, before, now)
        self.started[host] = now
        self.ends.setdefault(host, []).append(now + latency)
        self.flying[host] += 1
        self.in_flight += 1
        self.fetched += 1
        self.rate[int(now - _START)] += 1
        worker.busy.add(lease.id)
        self.later(now + latency, _Fetch(self, worker, lease, host, page, latency).end)

    def _measure(self, host: int, before: float, now: float) -> None:
        """Whether the host waited longer than it had to."""
        alive = sum(not worker.is_dead for worker in self.workers)
        if self.in_flight > 0.9 * alive * self.load.concurrency:
            self.crowded_until = now
        ends = self.ends.get(host, [])
        if before and before > self.crowded_until:
            earliest = before + self.load.delay
            if len(ends) == 1:  # what it links to is known when it has come
                earliest = max(earliest, ends[0])
            if len(ends) >= _PLACES:
                earliest = max(earliest, sorted(ends)[-_PLACES])
            self.needed += min(earliest, now) - before
            self.taken += now - before
        if len(ends) > 8:
            self.ends[host] = sorted(ends)[-_PLACES:]

    def kill(self, worker: Worker) -> None:
        worker.is_dead = True


class _Fetch(NamedTuple):
    simulation: Simulation
    worker: Worker
    lease: Lease
    host: int
    page: int
    latency: float

    async def end(self) -> None:
        simulation, worker, lease = self.simulation, self.worker, self.lease
        simulation.flying[self.host] -= 1
        if not simulation.flying[self.host]:
            del simulation.flying[self.host]
        simulation.in_flight -= 1
        if worker.is_dead:
            return
        now = simulation.clock.time
        worker.busy.discard(lease.id)
        frontier = worker.frontier
        frontier.observe(lease.host, Answer(200, latency=self.latency), now)
        frontier.leave(lease.host, now)
        entries = [
            simulation.entry(host, 0)
            for host in (simulation.rng.randrange(simulation.load.hosts) for _ in range(2))
        ]  # fmt: skip
        if not self.page:
            entries += [simulation.entry(self.host, page) for page in range(1, simulation.pages[self.host])]
        frontier.add(entries, now)
        frontier.complete([Outcome(lease, Verdict.DONE)], now)
        worker.ended.append(lease.fingerprint)
        await worker.go_on()


def _fingerprint(host: int, page: int) -> int:
    """One for one: odd multipliers are permutations of 64 bits."""
    mixed = ((host << 16 | page) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return ((mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93) & 0xFFFFFFFFFFFFFFFF


def _place(lease: Lease) -> tuple[int, int]:
    return int(lease.host[1 : lease.host.index(".")]), int(lease.record[-11:-5])


async def simulate(load: Load, folder: Path, say: Callable[[str], None] = lambda words: None) -> Seen:
    shared._RECENT = 1 << 12  # 8 MiB each are for workers that have a process of their own
    async with Engine(folder) as engine:
        simulation = Simulation(load, engine.url)
        began = time.monotonic()
        workers = simulation.workers = [Worker(simulation, number) for number in range(load.workers)]
        for worker in workers:
            await worker.frontier.__aenter__()
        before = engine.cpu_seconds
        await _plant(simulation, workers[0])
        seeded = engine.cpu_seconds
        async with engine.client() as client:
            empty = 0
            full = (await client.info("memory"))["used_memory"]
            say(f"{load.hosts} seeds after {time.monotonic() - began:.0f} s, {full / 2**20:.0f} MiB")
            victims = simulation.rng.sample(workers, int(load.killed * load.workers))
            for worker in workers:
                worker.next_talk = at = _START + worker.rng.uniform(0, load.tick)
                simulation.later(at, worker.talk_if_current, at)
            for number, victim in enumerate(victims):
                at = _START + load.seconds * (0.25 + 0.25 * number / len(victims))
                simulation.later(at, _Kill(simulation, victim).happen)
            for second in range(5, int(load.seconds), 5):
                simulation.later(_START + second, _Progress(simulation, second, began, say).tell)
            await simulation.run()
            spent = engine.cpu_seconds - seeded
            full = (await client.info("memory"))["used_memory"]
        settings = FrontierSettings(url=engine.url)
        report = await operate.report(settings, crawl="simulated")
        for worker in workers:
            await worker.broker.__aexit__()
    counts = report["counts"]
    urls = counts["added"] if "added" in counts else sum(simulation.pages)
    asked = sum(worker.broker.asked for worker in workers)
    empty = sum(worker.broker.empty for worker in workers)
    last = max(simulation.rate, default=0)
    return Seen(
        fetched=simulation.fetched,
        urls=urls,
        seconds=simulation.clock.time - _START,
        wall_seconds=time.monotonic() - began,
        violations=simulation.violations,
        efficiency=simulation.needed / simulation.taken if simulation.taken else 1.0,
        engine_us=spent * 1e6 / max(1, simulation.fetched),
        add_us=(seeded - before) * 1e6 / load.hosts,
        bytes_per_url=full / max(1, urls),
        empty_share=empty / max(1, asked),
        lapsed=int(report["events"].get("lapsed", 0)),
        again=simulation.again,
        killed=len(victims),
        left=sum(simulation.pages) - len(simulation.met),
        rate=[simulation.rate[second] for second in range(last + 1)],
    )


class _Kill(NamedTuple):
    simulation: Simulation
    victim: Worker

    async def happen(self) -> None:
        self.simulation.kill(self.victim)


class _Progress(NamedTuple):
    simulation: Simulation
    second: int
    began: float
    say: Callable[[str], None]

    async def tell(self) -> None:
        wall = time.monotonic() - self.began
        self.say(f"{self.second} s: {self.simulation.fetched} pages, {wall:.0f} s of wall clock")


async def _plant(simulation: Simulation, worker: Worker) -> None:
    """The first page of every host, shuffled."""
    hosts = list(range(simulation.load.hosts))
    simulation.rng.shuffle(hosts)
    for first in range(0, len(hosts), _SEEDS_AT_ONCE):
        entries = [simulation.entry(host, 0) for host in hosts[first : first + _SEEDS_AT_ONCE]]
        worker.frontier.add(entries, simulation.clock.time)
        await worker.frontier.commit({"started": b"1"} if not first else {}, simulation.clock.time)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Load()
    parser.add_argument("--check", action="store_true", help="100 workers, 50,000 hosts, 15 s; no results kept")
    parser.add_argument("--workers", type=int, default=defaults.workers, metavar="N")
    parser.add_argument("--hosts", type=int, default=defaults.hosts, metavar="N")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, metavar="S", help="of virtual time")
    parser.add_argument("--tick", type=float, default=defaults.tick, metavar="S")
    parser.add_argument("--seed", default=defaults.seed, metavar="N")
    options = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    load = Load(options.workers, options.hosts, options.seconds, tick=options.tick, seed=options.seed)
    if options.check:
        load = load._replace(workers=100, hosts=50_000, seconds=15.0, lease=4.0, shards=16)
    with tempfile.TemporaryDirectory(prefix="simulate-") as home:
        seen = asyncio.run(simulate(load, Path(home), lambda words: print(f"  {words}", file=sys.stderr)))
    told = table(load, seen)
    print(told)
    if not options.check:
        plot(seen, ROOT / "docs" / "scale.svg")
        (ROOT / "benchmarks" / "results" / "simulate.md").write_text(page(told), encoding="utf-8")
    return 1 if seen.violations else 0


# -- showing ----------------------------------------------------------------------------------------------------------


def table(load: Load, seen: Seen) -> str:
    rows = {
        "workers, hosts": f"{load.workers}, {load.hosts}; {load.concurrency} requests at a time each",
        "virtual time": f"{seen.seconds:.0f} s, in {seen.wall_seconds:.0f} s (load {os.getloadavg()[0]:.1f})",
        "pages fetched": f"{seen.fetched}; {seen.left} left",
        "violations": f"{len(seen.violations)}",
        "efficiency against the politeness bound": f"{seen.efficiency:.3f}",
        "engine, CPU µs a page": f"{seen.engine_us:.0f}",
        "engine, CPU µs a seed": f"{seen.add_us:.0f}",
        "bytes a URL": f"{seen.bytes_per_url:.0f}",
        "asks that gave nothing": f"{seen.empty_share:.0%}",
        "workers killed": f"{seen.killed}; {seen.lapsed} requests lapsed, {seen.again} pages fetched again",
    }
    words = [f"- {each}" for each in seen.violations[:20]]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items()), *words])


def page(told: str) -> str:
    found = describe()
    listed = ", ".join(f"{package} {version}" for package, version in versions().items())
    return (
        "# A thousand workers in a time of their own\n\n"
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}; {found['python']}; {listed}.\n\n"
        f"`make simulate`; what is simulated how is told at the top of `benchmarks/simulate.py`.\n\n{told}\n"
    )


def plot(seen: Seen, path: Path) -> None:
    """Pages a second over virtual time; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({
        "svg.hashsalt": "simulate", "svg.fonttype": "none", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    drawing, axes = pyplot.subplots(figsize=(7.2, 3.2))
    axes.plot(range(len(seen.rate)), seen.rate, color="#1f5f8b")
    axes.set_yscale("log")
    axes.set_title("pages a second", loc="left", fontsize=9)
    axes.set_xlabel("seconds of virtual time")
    axes.grid(visible=True, axis="y", linewidth=0.3)
    drawing.tight_layout()
    drawing.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(drawing)


if __name__ == "__main__":
    sys.exit(main())
