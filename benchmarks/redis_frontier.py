"""What the shared frontier costs its engine: memory and CPU of a redis-server of its own.

    python benchmarks/redis_frontier.py [--urls 1e6] [--hosts 50000] [--shards 4] [--pages 200000] [--quick]

URLs of 88 characters on average are spread over the hosts by Zipf's law (exponent 1) and shuffled, which is the worst
case: real links are mostly to the same host, so that fewer hosts share a commit. A worker adds them in commits of 500,
says a tenth of them again, then borrows hosts and ends their requests, 50 at a time, by a clock that is as fast as it.

CPU is the server's, user and system, as `INFO cpu` has it before and after; with the append-only file on, synced every
second. The targets are 110 bytes and 30 us a new URL, and 60 us a request that is lent and ended.

Written to `benchmarks/results/redis.json` and `.md`; not with `--quick`. Exit code 1 where a target was missed, 2 where
there is no redis-server.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import datetime as dt
import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from machine import ROOT, describe, machine, versions

from crawler.clock import SystemClock
from crawler.contracts import Entry, Verdict
from crawler.frontier.broker import Ask, End, HostReturn, WorkerEpoch
from crawler.frontier.redis import RedisBroker
from crawler.settings.frontier import FrontierSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = ROOT / "benchmarks" / "results" / "redis"
TARGETS = {"bytes": 110.0, "add_us": 30.0, "page_us": 60.0}
TITLES = {
    "bytes": "memory of a waiting URL, bytes",
    "add_us": "CPU of a new URL, us",
    "known_us": "CPU of a known URL, us",
    "page_us": "CPU of a request lent and ended, us",
    "poll_us": "CPU of a look at all shards when nothing is due, us",
    "empty_us": "CPU of a script that does nothing, us",
}
BUFFER, AT_ONCE = 500, 50
MEAN_CHARACTERS = 88


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends too
    options = parse()
    if shutil.which("redis-server") is None:
        print("redis-server is not there. On Debian and Ubuntu: apt-get install redis-server", file=sys.stderr)
        return 2
    print(machine(), file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as port:
        found = asyncio.run(measured(options, port))
    missed = [name for name, most in TARGETS.items() if found[name] > most]
    print(table(found))
    if not options.quick:
        write(options, found)
    return 1 if missed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--urls", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--hosts", type=int, default=50_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--pages", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="a hundredth of everything: does it work?")
    options = parser.parse_args()
    if options.quick:
        options.urls, options.hosts, options.pages = 20_000, 1_000, 2_000
    return options


@contextlib.contextmanager
def server(folder: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([*words, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


class Time:
    """What the worker says that it is."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds


async def measured(options: argparse.Namespace, port: int) -> dict[str, float]:
    rng, clock = Random(1), Time()
    broker = RedisBroker(
        FrontierSettings(
            url=f"redis://127.0.0.1:{port}/0", shards=options.shards, expected_urls=options.urls, lease_seconds=1e9
        ),
        worker="w1",
        crawl="benchmark",
        spider="benchmark",
        order="breadth",
        group_by="host",
        page_limit=0,
        quota=5,
        places=2,
        shared_places=0,
        concurrency=64,
        clock=SystemClock(),
        rng=rng,
        now=clock.now,
    )
    async with broker:
        await broker.join()
        meter = Meter(broker)
        numbers = itertools.count(1)
        before = await meter.memory()
        found: dict[str, float] = {}
        again: list[Entry] = []
        await meter.start()
        for batch in entries(options, rng):
            known = await broker.commit(WorkerEpoch(next(numbers), batch))
            assert known == 0
            again += batch[: len(batch) // 10]
        found["add_us"] = await meter.each(options.urls)
        found["bytes"] = (await meter.memory() - before) / options.urls
        await meter.start()
        for first in range(0, len(again), BUFFER):
            part = again[first : first + BUFFER]
            assert await broker.commit(WorkerEpoch(next(numbers), part)) == len(part)
        found["known_us"] = await meter.each(len(again))
        await meter.start()
        found["page_us"] = await meter.each(await crawl(broker, clock, numbers, options.pages))
        clock.seconds -= 1e6  # nothing is due
        await meter.start()
        for _ in range(200):
            assert not (await broker.ask(Ask(AT_ONCE))).loans
        found["poll_us"] = await meter.each(200)
        await meter.start()
        for _ in range(20):
            pipeline = meter.client.pipeline(transaction=False)
            for _ in range(AT_ONCE):
                pipeline.execute_command("EVAL", "#!lua\nreturn 1", 1, "x")
            await pipeline.execute()
        found["empty_us"] = await meter.each(20 * AT_ONCE)
        await broker.leave()
    return found


async def crawl(broker: RedisBroker, clock: Time, numbers: Iterator[int], pages: int) -> int:
    """Hosts come, their requests end, they go back for a second."""
    done = 0
    returns: list[HostReturn] = []
    while done < pages:
        given = await broker.ask(Ask(AT_ONCE, returns))
        tasks = [task for loan in given.loans for task in loan.tasks]
        await broker.commit(WorkerEpoch(next(numbers), ends=[End(task.id, Verdict.DONE) for task in tasks]))
        returns = [HostReturn(loan.key, 1.0, b"s" * 30, 5) for loan in given.loans]
        done += len(tasks)
        clock.seconds += 0.01
        if not tasks:
            clock.seconds += 1.0
    return done


def entries(options: argparse.Namespace, rng: Random) -> Iterator[list[Entry]]:
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(options.hosts)))
    batch: list[Entry] = []
    for number in range(options.urls):
        rank = bisect.bisect(weights, rng.random() * weights[-1])
        name = f"www.host-{rank}.example"
        url = f"https://{name}/{number:x}/"
        url += "p" * max(0, MEAN_CHARACTERS - 30 + rng.randrange(61) - len(url))
        batch.append(Entry(f"{name}:443", rng.getrandbits(64), url.encode(), depth=number % 8))
        if len(batch) == BUFFER:
            yield batch
            batch = []
    if batch:
        yield batch


class Meter:
    """The server's own account of itself."""

    def __init__(self, broker: RedisBroker) -> None:
        self.client: Any = broker._engine._client
        self._before = 0.0

    async def _seconds(self) -> float:
        info = await self.client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    async def start(self) -> None:
        self._before = await self._seconds()

    async def each(self, count: int) -> float:
        return (await self._seconds() - self._before) / count * 1e6

    async def memory(self) -> int:
        return int((await self.client.info("memory"))["used_memory"])


def table(found: dict[str, float]) -> str:
    lines = ["| | measured | target |", "| --- | ---: | ---: |"]
    for name, title in TITLES.items():
        target = f"{TARGETS[name]:g}" if name in TARGETS else ""
        lines.append(f"| {title} | {found[name]:.1f} | {target} |")
    return "\n".join(lines)


def write(options: argparse.Namespace, found: dict[str, float]) -> None:
    about = describe()
    output = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    version = output.partition("v=")[2].split()[0]
    load = {name: getattr(options, name) for name in ("urls", "hosts", "shards", "pages")}
    results = {
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "machine": about, "versions": versions(), "engine": version,
        "load": load, "found": found,
    }  # fmt: skip
    RESULTS.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    text = [
        "# What the shared frontier costs its engine",
        "",
        f"{results['date']}; {about['cpu']}, {about['cores']} cores.",
        f"Redis {version}, append-only file synced every second.",
        f"{options.urls:,} URLs of {MEAN_CHARACTERS} characters over {options.hosts:,} hosts by Zipf's law, shuffled;",
        f"{options.shards} shards; commits of {BUFFER} URLs;",
        f"{options.pages:,} requests lent and ended, {AT_ONCE} at a time. One worker; CPU is the server's.",
        "On a busy machine all of it is more: the last row says how busy this one was.",
        "",
        table(found),
        "",
    ]
    RESULTS.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    sys.exit(main())
