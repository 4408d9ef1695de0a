"""A queue of any size takes disk and no memory, survives a kill, and opens without being read.

A million URLs are `make frontier ARGS="--sizes 1e6"` (`benchmarks/frontier.py`), whose checks are those of row R-25, of
time as well. Here it is sizes that tell how it grows, and counts instead of times.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.hostile("R-25")

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"
HOSTS = 1000
SMALL, LARGE = 20_000, 100_000
DRAINED = 5_000

COMMON = """
import asyncio, json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import frontier_load as load

folder, size, hosts, now = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), 1_700_000_000.0
growth = load.Growth()
"""

FILL_AND_DIE = """
async def main():
    urls = load.Urls(hosts)
    growth = load.Growth()
    async with load.open_frontier(folder) as frontier:
        epochs = load.Epochs(frontier, growth)
        for batch, first in enumerate(range(0, size, load.LINKS)):
            page = urls.page_of(batch)
            added = frontier.add([urls.entry(n, page) for n in range(first, min(first + load.LINKS, size))], now)
            await epochs.page(added, now)
        await epochs.end(now)
        frontier.add([urls.entry(n, page) for n in range(size, size + 500)], now)  # in no epoch that is ever closed
        print(json.dumps(growth.read()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""

OPEN_AND_DRAIN = """
async def main():
    sizes = {"disk": load.disk_bytes(folder), "in_use": load.live_bytes(folder)}
    async with load.open_frontier(folder) as frontier:
        frontier.resume(now)
        growth.sample()
        found = {**sizes, "queued": frontier.counts().queued, "opened_anonymous_mib": growth.read()["anonymous_mib"]}
        walk = await load._Walk.through(int(sys.argv[5]), frontier, None, load.Epochs(frontier, growth), now + 3600)
        found |= {"drained": len(walk.records), "left": frontier.counts().queued, **growth.read()}
    print(json.dumps(found))

asyncio.run(main())
"""


def child(code: str, folder: Path, size: int, *numbers: int) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-c", COMMON + code, str(BENCHMARKS), str(folder), str(size), str(HOSTS)]
    done = subprocess.run([*command, *map(str, numbers)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_memory_does_not_grow_with_the_queue_and_a_url_takes_at_most_250_bytes_of_disk(tmp_path: Path) -> None:
    filled, drained = {}, {}
    for size in (SMALL, LARGE):
        code, filled[size] = child(FILL_AND_DIE, tmp_path / str(size), size)
        assert code == -signal.SIGKILL
        code, drained[size] = child(OPEN_AND_DRAIN, tmp_path / str(size), size, DRAINED)
        assert code == 0
        counts = [drained[size][name] for name in ("queued", "drained", "left")]
        assert counts == [size, DRAINED, size - DRAINED]
        assert drained[size]["opened_anonymous_mib"] < 16, "opening reads what it needs, and not the queue"
    more = LARGE - SMALL
    # Beside what is in use lie the pages of older states; a file never shrinks.
    assert (drained[LARGE]["in_use"] - drained[SMALL]["in_use"]) / more <= 250
    assert drained[LARGE]["disk"] <= 2 * drained[LARGE]["in_use"]
    # A set of fingerprints would take 94 bytes a URL, the requests of a queue some hundreds.
    for found in (filled, drained):
        grown = found[LARGE]["anonymous_peak_mib"] - found[SMALL]["anonymous_peak_mib"]
        assert grown * 2**20 / more < 80
