"""Many workers in a time of their own, over the real frontiers: what `benchmarks/simulate.py` checks at every start."""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
from random import Random

import pytest

from crawler.contracts import Lease
from crawler.frontier.redis.keys import preferred

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs redis-server (Debian: apt-get install redis-server)"
)


@pytest.fixture
def simulate(fleet):
    return fleet("simulate")


@pytest.mark.parametrize("engine", [pytest.param("redis", marks=needs_redis), "disk", "memory"])
async def test_no_promise_is_broken_while_a_fifth_of_the_workers_is_killed(simulate, tmp_path, engine):
    load = simulate.Load(workers=10, hosts=300, seconds=12.0, lease=2.0, shards=2, killed=0.2, cap=20)
    seen = await simulate.simulate(load, tmp_path, engine)
    assert seen.violations == []
    assert seen.killed == 2
    assert seen.lapsed >= seen.again > 0
    assert seen.fetched - seen.again > 300
    assert seen.efficiency > 0.8
    assert seen.engine_us > 0
    assert (seen.bytes_per_url is None) == (engine == "memory")


def test_a_start_that_is_too_early_one_too_many_and_a_page_again_are_seen(simulate):
    worlds = (simulate.World(simulate.Load(workers=0, hosts=3, seed=f"{n}")) for n in itertools.count())
    world = next(world for world in worlds if world.pages[1] >= 4)

    def lease(number, page):
        entry = world.entry(1, page)
        return Lease(number, entry.host, entry.record, 1, 0, entry.fingerprint, entry.fingerprint)

    def begin(number, page, after):
        world.clock.time += after
        world.begin(lease(number, page), 5.0)
        return [words.partition(" of ")[0] for words in world.violations]

    assert begin(1, 0, 1.0) == []
    assert begin(2, 1, 1.0) == []
    assert begin(3, 2, 1.0) == ["3 requests at h1.example:80"]
    world.violations.clear()
    for _ in range(3):
        world.end(1)
    assert begin(4, 3, 0.9) == ["0.9000 s after the start before, at h1.example:80"]
    world.violations.clear()
    world.committed([lease(1, 0)])
    assert begin(5, 0, 1.0) == ["page 0"]


def test_the_shards_that_are_worked_out_for_all_workers_at_once_are_those_of_each(fleet):
    fleet("simulate")
    direct = importlib.import_module("simulation.direct")
    rng = Random(1)
    for count, shards in ((1, 4), (3, 16), (40, 7)):
        workers = [f"w{rng.randrange(1000)}" for _ in range(count)]
        for worker in workers:
            assert direct.preferred(worker, workers, shards) == preferred(worker, workers, shards)


def test_an_engine_that_is_not_run_keeps_its_column(fleet, tmp_path):
    fleet("simulate")
    showing = importlib.import_module("simulation.showing")
    load = importlib.import_module("simulation.world").Load()
    seen = showing.Seen(
        fetched=10, urls=20, seconds=2.0, wall_seconds=1.0, violations=[], efficiency=0.95, engine_us=40.0, add_us=9.0,
        bytes_per_url=100.0, empty_share=0.0, lapsed=3, again=2, killed=1, left=10, rate=[7, 3],
    )  # fmt: skip
    kept = tmp_path / "simulate.json"
    showing.keep(kept, {"disk": showing.record(load, seen, 0.5)})
    engines = showing.keep(kept, {"redis": showing.record(load, seen._replace(fetched=11, violations=["early"]), 0.5)})
    assert list(engines) == ["redis", "disk"] == list(json.loads(kept.read_text())["engines"])
    table = showing.table(engines)
    assert "| | Redis | job folder (LMDB) |" in table
    assert "| pages fetched | 11 | 10 |" in table
    assert "- Redis: early" in table
    curve = tmp_path / "curve.svg"
    pytest.importorskip("matplotlib")
    showing.plot(engines, curve)
    assert "job folder (LMDB)" in curve.read_text(encoding="utf-8")
