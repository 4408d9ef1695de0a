"""Several workers, real processes all, while each kind of process dies: nothing lost or twice, no host hurried."""

from __future__ import annotations

import asyncio
import shutil
import time

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs redis-server (Debian: apt-get install redis-server)"
)
LEASE = 2.0


@pytest.mark.hostile("R-10")
async def test_workers_and_engine_die_and_every_promise_is_kept(fleet, tmp_path):
    """By what the hosts saw. A busy machine makes arrivals as much closer than starts, and dead workers' pages wait."""
    runs, farms = fleet("fleet"), fleet("farm")
    plan = farms.Plan(hosts=60, pages=5, seed="7", delay=1.0, latency=0.05, longest=1.0, crawl_delay_share=0.0)
    pages = len(list(plan.urls()))

    async def faults(bench):
        await bench.farm.has_answered(pages // 4)
        bench.crew.kill(0, "another")
        await bench.farm.has_answered(pages // 2)
        await bench.crew.freeze(1, LEASE * 1.5, is_death=True)
        await bench.farm.has_answered(pages * 3 // 4)
        at = time.monotonic()
        await bench.engine.kill()
        await bench.engine.start()
        bench.crew.engine_died(at)
        return 3

    scenario = runs.Scenario(faults)
    async with asyncio.timeout(120):
        done = await runs.run(
            scenario, plan, tmp_path, workers=3, lease=LEASE, tolerance=0.3, notice=20.0, say=lambda words: None
        )
    found = done.history
    assert (found.lost, found.twice, found.strays) == ([], [], [])
    assert found.violations == [], done.ends
    assert (found.pages, done.faults) == (pages, 3)
    assert found.orphans.count > 0
