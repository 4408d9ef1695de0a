"""Many workers in a time of their own, over the real scripts: what `benchmarks/simulate.py` checks at every start."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs redis-server (Debian: apt-get install redis-server)"
)


@needs_redis
async def test_no_promise_is_broken_while_a_fifth_of_the_workers_is_killed(fleet, tmp_path):
    simulate = fleet("simulate")
    load = simulate.Load(workers=10, hosts=300, seconds=12.0, lease=2.0, shards=2, killed=0.2, cap=20)
    seen = await simulate.simulate(load, tmp_path)
    assert seen.violations == []
    assert seen.killed == 2
    assert seen.lapsed > 0
    assert seen.fetched - seen.again > 300
    assert seen.efficiency > 0.8


def test_a_start_that_is_too_early_one_too_many_and_a_page_again_are_seen(fleet):
    simulate = fleet("simulate")
    simulation = simulate.Simulation(simulate.Load(workers=0, hosts=3), "redis://nobody")
    frontier = SimpleNamespace(sent=lambda host, at: None)
    worker = SimpleNamespace(frontier=frontier, busy=set())

    def begin(number, page, after):
        entry = simulation.entry(1, page)
        simulation.clock.time += after
        lease = simulate.Lease(number, entry.host, entry.record, 1, 0, entry.fingerprint, entry.fingerprint)
        simulation.begin(worker, lease)
        return [words.partition(" of ")[0] for words in simulation.violations]

    assert begin(1, 0, 1.0) == []
    assert begin(2, 1, 1.0) == []
    assert begin(3, 2, 1.0) == ["3 requests at h1.example:80"]
    simulation.violations.clear()
    simulation.flying.clear()
    assert begin(4, 3, 0.9) == ["0.9000 s after the start before, at h1.example:80"]
    simulation.violations.clear()
    simulation.committed.add(simulation.entry(1, 0).fingerprint)
    assert begin(5, 0, 1.0) == ["page 0"]
