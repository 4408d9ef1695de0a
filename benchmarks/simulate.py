"""A thousand workers and a million hosts on one machine: the real frontiers, in a time of their own.

    python benchmarks/simulate.py [--engine redis disk memory] [--check] [--workers 1000] [--hosts 1000000]

Each worker is the real `SharedFrontier`. With `redis` it is over the real `RedisBroker`, whose scripts get the time as
an argument; with `disk` and `memory` over the real `LocalFrontier`, lent as `--processes` does it, without the sockets.
So nobody sleeps: a heap of events says what happens next. What is not there is HTTP: a request is a latency, log-normal
with a median of 0.5 s and never above 30 s. Hosts have 1 page and more, by a Pareto distribution of 1.05 with a cap;
the first page of a host links to all others of it, each page to the first of another host. One worker in twenty is
killed, in the second tenth of the time: what it had is others' when its lease is over (`redis`), or at once, as a
parent hears of it (`disk`, `memory`).

What must hold is checked at every start: at no host two starts closer than its delay or more requests than its places,
no page again whose end was committed. `--check` is the small form: 50 workers, 10,000 hosts. Exit code 1 where
something does not hold. A worker talks to the frontier at most every `--tick` seconds, as if that were the way there
and back.

Results go to benchmarks/results/simulate.json and .md, the curves to docs/scale.svg (with matplotlib); an engine that
is not run keeps what it had there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "fleet")]

from engines import missing  # noqa: E402
from simulation.backings import LocalBacking, RedisBacking  # noqa: E402
from simulation.showing import Seen, keep, page, plot, record, table  # noqa: E402
from simulation.workers import Worker  # noqa: E402
from simulation.world import START, Load, World  # noqa: E402

from crawler.frontier import shared  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simulation.backings import Backing

__all__ = ["ENGINES", "Load", "Seen", "World", "simulate"]

ENGINES = ("redis", "disk", "memory")
RESULTS = ROOT / "benchmarks" / "results" / "simulate"
_SEEDS_AT_ONCE = 2000
_RECENT = 1 << 12


async def simulate(
    load: Load, folder: Path, engine: str = "redis", say: Callable[[str], None] = lambda words: None
) -> Seen:
    with _economies():
        return await _simulate(load, folder, engine, say)


async def _simulate(load: Load, folder: Path, engine: str, say: Callable[[str], None]) -> Seen:
    world = World(load)
    began = time.monotonic()
    async with _backing(engine, world, folder) as backing:
        workers = [Worker(world, backing, number) for number in range(load.workers)]
        for worker in workers:
            await worker.frontier.__aenter__()
        before = backing.cpu_seconds
        await _plant(world, workers[0])
        seeded = backing.cpu_seconds
        say(f"{load.hosts} seeds after {time.monotonic() - began:.0f} s")
        backing.begin()
        for worker in workers:
            worker.next_talk = at = START + worker.rng.uniform(0, load.tick)
            world.later(at, worker.talk_if_current, at)
        victims = world.rng.sample(workers, int(load.killed * load.workers))
        for number, victim in enumerate(victims):
            at = START + load.seconds * (0.1 + 0.1 * number / len(victims))
            world.later(at, _Kill(victim, backing).happen)
        for second in range(1, int(load.seconds)):
            world.later(START + second, _Progress(world, second, began, say).tell)
        await world.run()
        spent = backing.cpu_seconds - seeded
        await backing.settle()
        for worker in workers:
            await worker.broker.__aexit__()
    return Seen(
        fetched=world.fetched,
        urls=backing.urls,
        seconds=world.clock.time - START,
        wall_seconds=time.monotonic() - began,
        violations=world.violations,
        efficiency=world.needed / world.taken if world.taken else 1.0,
        engine_us=spent * 1e6 / max(1, world.fetched),
        add_us=(seeded - before) * 1e6 / load.hosts,
        bytes_per_url=None if backing.bytes is None else backing.bytes / max(1, backing.urls),
        empty_share=backing.empty / max(1, backing.asked),
        lapsed=backing.lapsed,
        again=world.again,
        killed=len(victims),
        left=world.left,
        rate=[world.rate[second] for second in range(max(world.rate, default=0) + 1)],
    )


@contextlib.contextmanager
def _economies() -> Iterator[None]:
    """For a thousand workers in one process: 8 MiB each for fingerprints met lately are too much, and millions of
    objects that stay would be looked at again and again."""
    before, shared._RECENT = shared._RECENT, _RECENT
    gc.disable()
    try:
        yield
    finally:
        shared._RECENT = before
        gc.enable()


def _backing(engine: str, world: World, folder: Path) -> Backing:
    if engine == "redis":
        return RedisBacking(world, folder)
    return LocalBacking(world, folder, on_disk=engine == "disk")


class _Kill(NamedTuple):
    victim: Worker
    backing: Backing

    async def happen(self) -> None:
        self.victim.die()
        self.backing.lose(self.victim)


class _Progress(NamedTuple):
    world: World
    second: int
    began: float
    say: Callable[[str], None]

    async def tell(self) -> None:
        wall = time.monotonic() - self.began
        self.say(f"{self.second} s: {self.world.fetched} pages, {wall:.0f} s of wall clock")


async def _plant(world: World, worker: Worker) -> None:
    """The first page of every host, shuffled."""
    hosts = list(range(world.load.hosts))
    world.rng.shuffle(hosts)
    for first in range(0, len(hosts), _SEEDS_AT_ONCE):
        entries = [world.entry(host, 0) for host in hosts[first : first + _SEEDS_AT_ONCE]]
        worker.frontier.add(entries, world.clock.time)
        await worker.frontier.commit({"started": b"1"} if not first else {}, world.clock.time)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engine ends too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Load()
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=["redis", "disk"], metavar="NAME")
    parser.add_argument("--check", action="store_true", help="50 workers, 10,000 hosts, 8 s; no results kept")
    parser.add_argument("--workers", type=int, default=defaults.workers, metavar="N")
    parser.add_argument("--hosts", type=int, default=defaults.hosts, metavar="N")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, metavar="S", help="of virtual time")
    parser.add_argument("--shards", type=int, default=defaults.shards, metavar="N", help="of the Redis frontier")
    parser.add_argument("--tick", type=float, default=defaults.tick, metavar="S")
    parser.add_argument("--seed", default=defaults.seed, metavar="N")
    options = parser.parse_args()
    if "redis" in options.engine and (reason := missing()):
        parser.error(reason)
    load = Load(
        options.workers, options.hosts, options.seconds, shards=options.shards, tick=options.tick, seed=options.seed
    )
    if options.check:
        load = load._replace(workers=50, hosts=10_000, seconds=8.0, lease=2.0, shards=4)
    found = {}
    for engine in options.engine:
        with tempfile.TemporaryDirectory(prefix="simulate-") as home:
            seen = asyncio.run(simulate(load, Path(home), engine, lambda words: print(f"  {words}", file=sys.stderr)))
        found[engine] = record(load, seen, os.getloadavg()[0])
        if not options.check:
            engines = keep(RESULTS.with_suffix(".json"), found)
            plot(engines, ROOT / "docs" / "scale.svg")
            RESULTS.with_suffix(".md").write_text(page(engines), encoding="utf-8")
    print(table(found))
    return 1 if any(each["seen"]["violations"] for each in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
