"""Several workers and many hosts, while everything that can die does: whether every promise is kept.

    python benchmarks/fleet/fleet.py [--only calm,kill] [--hosts 1000] [--workers 4] [--quick]

Real `crawler run` processes, a real engine, and hosts that write down what they are asked (`farm.py`). What happened is
told by the hosts' journal and by the outputs as far as the engine calls them committed, and by nothing else
(`history.py`).

    calm     nothing happens: each page once, each robots.txt once
    pauses   SIGSTOP for half a lease, and SIGCONT: nothing may come of it
    drain    SIGTERM, six times: a worker finishes what it has, another comes
    kill     SIGKILL to a worker every 3 s, 20 times, and to the engine in the middle of it; another worker comes,
             under the same name or a new one
    freeze   SIGSTOP for two leases: what the frozen one had is others' when it wakes up
    engine   SIGKILL to the engine, which starts again with its append-only file, four times
    tail     the same, and the last kilobytes of that file are lost
    cluster  three masters, one of which is away for a while, twice

Exit code 1 where something is not as promised. Figures go to benchmarks/results/fleet.json and fleet.md, where those of
scenarios that did not run stay as they were.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from crew import Crew, Farmhouse, committed  # noqa: E402
from engines import Cluster, Engine, missing  # noqa: E402
from farm import Plan  # noqa: E402
from fleet_report import page, table  # noqa: E402
from history import NOTICE, TOLERANCE, History, Rules, judge  # noqa: E402
from journal import read  # noqa: E402
from machine import describe, versions  # noqa: E402

from crawler.frontier.redis import operate  # noqa: E402
from crawler.settings import FrontierSettings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

__all__ = ["Scenario", "run"]

RESULTS = ROOT / "benchmarks" / "results" / "fleet.json"
PLACES = 2
TAIL_BYTES = 100_000
AWAY_SECONDS = 1.0
"""For so long the engine is down."""


class Bench(NamedTuple):
    """What a scenario's faults may do."""

    crew: Crew
    engine: Engine | Cluster
    farm: Farmhouse
    rng: Random
    lease: float
    say: Callable[[str], None]


class Scenario(NamedTuple):
    faults: Callable[[Bench], Awaitable[int]]
    """Gives how many there were."""
    is_exact: bool = False
    """Whether nothing may be asked for twice."""
    is_cluster: bool = False


# -- what happens ------------------------------------------------------------------------------------------------------


async def calm(bench: Bench) -> int:
    return 0


async def _begun(bench: Bench) -> None:
    """Until a twentieth of all pages was fetched."""
    await bench.farm.has_answered(sum(1 for _ in bench.farm.plan.urls()) // 20)


async def kill(bench: Bench, *, every: float = 3.0, times: int = 20) -> int:
    await _begun(bench)
    for number in range(times):
        if bench.crew.is_finished:
            return number
        place = bench.rng.randrange(len(bench.crew.crew))
        name = f"n{number}" if bench.rng.random() < 0.5 else None
        killed = bench.crew.kill(place, name)
        bench.say(f"killed {killed.name}, {name or 'the same'} comes")
        await asyncio.sleep(every / 2)
        if number == times // 2:
            await _restart(bench)
        await asyncio.sleep(every / 2)
    return times + 1


async def pauses(bench: Bench, *, times: int = 4) -> int:
    await _begun(bench)
    return await _freeze(bench, bench.lease / 2, times, is_death=False)


async def freeze(bench: Bench, *, times: int = 4) -> int:
    await _begun(bench)
    return await _freeze(bench, bench.lease * 2, times, is_death=True)


async def _freeze(bench: Bench, seconds: float, times: int, *, is_death: bool) -> int:
    for number in range(times):
        if bench.crew.is_finished:
            return number
        place = bench.rng.randrange(len(bench.crew.crew))
        bench.say(f"froze {bench.crew.crew[place].name} for {seconds:g} s")
        await bench.crew.freeze(place, seconds, is_death=is_death)
        await asyncio.sleep(bench.lease)
    return times


async def drain(bench: Bench, *, times: int = 6) -> int:
    await _begun(bench)
    for number in range(times):
        if bench.crew.is_finished:
            return number
        place = bench.rng.randrange(len(bench.crew.crew))
        bench.say(f"drains {bench.crew.crew[place].name}")
        bench.crew.drain(place)
        await asyncio.sleep(bench.lease)
    return times


async def engine(bench: Bench, *, cut: int = 0, times: int = 4) -> int:
    await _begun(bench)
    for number in range(times):
        if bench.crew.is_finished:
            return number
        await _restart(bench, cut)
        await asyncio.sleep(bench.lease + 4)
    return times


async def _restart(bench: Bench, cut: int = 0) -> None:
    assert isinstance(bench.engine, Engine)
    at = time.monotonic()
    await bench.engine.kill()
    lost = bench.engine.cut(cut) if cut else 0
    await asyncio.sleep(AWAY_SECONDS)
    await bench.engine.start()
    bench.crew.engine_died(at)
    bench.say(f"killed the engine{f', {lost} bytes of its file are lost' if cut else ''}")


async def tail(bench: Bench) -> int:
    return await engine(bench, cut=TAIL_BYTES)


async def cluster(bench: Bench, *, times: int = 2) -> int:
    await _begun(bench)
    assert isinstance(bench.engine, Cluster)
    for number in range(times):
        if bench.crew.is_finished:
            return number
        master = bench.rng.choice(bench.engine.masters)
        at = time.monotonic()
        await master.kill()
        await asyncio.sleep(bench.lease / 2)
        await master.start()
        bench.crew.engine_died(at)
        bench.say(f"killed master {bench.engine.masters.index(master)}")
        await asyncio.sleep(bench.lease + 4)
    return times


SCENARIOS = {
    "calm": Scenario(calm, is_exact=True),
    "pauses": Scenario(pauses, is_exact=True),
    "drain": Scenario(drain, is_exact=True),
    "kill": Scenario(kill),
    "freeze": Scenario(freeze),
    "engine": Scenario(engine),
    "tail": Scenario(tail),
    "cluster": Scenario(cluster, is_cluster=True),
}


# -- one scenario ------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    history: History
    faults: int
    restarts: int
    """Processes that ended before the crawl did."""
    seconds: float
    engine_cpu: float
    ends: list[tuple[str, int, str]]


async def run(
    scenario: Scenario,
    plan: Plan,
    folder: Path,
    *,
    workers: int,
    lease: float,
    tolerance: float = TOLERANCE,
    notice: float = NOTICE,
    say: Callable[[str], None] = print,
) -> Outcome:
    engine = Cluster(folder / "engine") if scenario.is_cluster else Engine(folder / "engine")
    settings = {"politeness.concurrency_per_host": PLACES, "frontier.expected_urls": 100_000}
    farm = Farmhouse(plan, folder)
    began = time.monotonic()
    async with engine, farm:
        async with Crew(folder / "crew", farm, engine.url, workers, lease=lease, settings=settings) as crew:
            bench = Bench(crew, engine, farm, plan.rng("faults"), lease, say)
            faults, _ = await asyncio.gather(scenario.faults(bench), crew.finish())
        seconds = time.monotonic() - began
        await farm.close()
        parts = await operate.parts(FrontierSettings(url=engine.url), crawl="fleet")
        items = [item for own in parts.values() for item in committed(own, crew.folder)]
        spent = engine.cpu_seconds
    rules = Rules(
        plan.delay_of,
        PLACES,
        lease,
        are_exact=scenario.is_exact,
        tolerance=tolerance,
        restarts=crew.restarts,
        notice=notice,
    )
    found = judge(read(farm.journal), items, plan.urls(), rules, crew.deaths)
    return Outcome(found, faults, len(crew.ends), seconds, spent, crew.ends)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SCENARIOS), metavar="LIST", help="scenarios (default: all)")
    parser.add_argument("--hosts", type=int, default=1000, metavar="N", help="(default 1000)")
    parser.add_argument("--pages", type=int, default=20, metavar="N", help="of a host, about (default 20)")
    parser.add_argument("--delay", type=float, default=4.0, metavar="S", help="of a host (default 4)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="(default 4)")
    parser.add_argument("--lease", type=float, default=4.0, metavar="S", help="of a session (default 4)")
    parser.add_argument("--seed", default=str(time.time_ns() % 10**9), metavar="N", help="(default: new)")
    parser.add_argument("--quick", action="store_true", help="does it work? 40 hosts, 6 pages each, no results kept")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave journals, outputs and the engine's files there")
    options = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    if unknown := set(options.only.split(",")) - set(SCENARIOS):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    plan = Plan(hosts=options.hosts, pages=options.pages, delay=options.delay, seed=options.seed)
    if options.quick:
        plan = plan._replace(hosts=40, pages=6, delay=1.0)
    rows = {}
    for name in options.only.split(","):
        print(f"{name} (seed {options.seed}) ...", file=sys.stderr)
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix=f"fleet-{name}-") as home:
            folder = Path(home) if options.keep is None else options.keep / name
            folder.mkdir(parents=True, exist_ok=True)
            done = asyncio.run(
                run(SCENARIOS[name], plan, folder, workers=options.workers, lease=options.lease, say=_say)
            )
        rows[name] = _row(done, plan, options, load)
        print(table({name: rows[name]}))
        if not options.quick:
            _save({name: rows[name]})
    return 1 if any(row["violations"] for row in rows.values()) else 0


def _say(words: str) -> None:
    print(f"  {words}", file=sys.stderr)


def _row(done: Outcome, plan: Plan, options: argparse.Namespace, load: float) -> dict[str, Any]:
    found = done.history
    return {
        "date": f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
        "seed": options.seed,
        "load": load,
        "workers": options.workers,
        "hosts": plan.hosts,
        "delay": plan.delay,
        "lease": options.lease,
        "faults": done.faults,
        "restarts": done.restarts,
        "pages": found.pages,
        "seconds": done.seconds,
        "gaps": found.gaps.count,
        "shortest": found.gaps.shortest,
        "stalled": found.gaps.stalled,
        "slightly": found.gaps.slightly,
        "violations": len(found.violations),
        "words": found.violations[:40],
        "lost": len(found.lost),
        "twice": len(found.twice),
        "refetched": found.refetched,
        "robots_again": found.robots,
        "pauses": found.pauses.count,
        "pauses_lost": found.pauses.lost,
        "orphans": found.orphans.count,
        "longest_orphan": found.orphans.longest,
        "longest_held": found.orphans.longest_held,
        "held_up": found.orphans.held_up,
        "efficiency": found.efficiency,
        "engine_us": done.engine_cpu * 1e6 / max(found.pages, 1),
        "ends": [f"{name} {code}: {words}"[:200] for name, code, words in done.ends[:40]],
    }


def _save(rows: dict[str, Any]) -> None:
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"scenarios": {}}
    scenarios = {**kept["scenarios"], **rows}
    results = {
        "machine": describe(),
        "versions": versions(),
        "scenarios": {name: scenarios[name] for name in SCENARIOS if name in scenarios},
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
