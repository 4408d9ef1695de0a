"""Everything at once, for a while: sites that fail in every way, callbacks that raise, flood, hang and block, and items
that are refused. Nothing is lost, nothing comes twice, and nothing grows.

    python benchmarks/soak.py [--minutes 30] [--rate 0.05]

Four sites on loopback; the crawl is a process of its own, under `python -X dev`. Each page is a number, and the number
says what befalls it, so what must be in the outputs is known to the last item. Memory (anonymous), file descriptors,
threads and tasks are looked at once a second; they are flat where a line through the second half rises by less than 5 %
of the mean over that time. Exit code 1 where something is missing, comes twice, grows, or Python complained.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from aiohttp import web  # noqa: E402

from crawler.testing import Chaos, LocalSite  # noqa: E402

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
LINKS = 3
FLOOD = 500
MOST_GROWTH = 0.05
COMPLAINTS = re.compile(r"never retrieved|never awaited|ResourceWarning|Unclosed|Task was destroyed|Exception ignored")
SPIDER = f"""
import asyncio, time
from crawler import Spider
from crawler.errors import InvalidItem

class Picky:
    async def process_item(self, item, spider):
        if item.get("number", 1) % 20 == 4:
            raise InvalidItem("it is refused")
        return item

class Soak(Spider):
    name = "soak"
    hosts: str = ""
    pipelines = [Picky]
    settings = {{
        "politeness": {{"delay_seconds": 0, "concurrency_per_host": 4, "circuit_failures": 0}},
        "retry": {{"times": 6, "base_seconds": 0.05, "max_seconds": 0.5}},
        "security": {{"allow_networks": ["127.0.0.0/8"]}},
        "http": {{"read_seconds": 1, "connect_seconds": 5}},
        "crawl": {{"concurrency": 16, "callback_timeout_seconds": 0.5}},
    }}

    async def start(self):
        yield self.request(self.url(1), cb_kwargs={{"number": 1}})

    def url(self, number):
        hosts = self.hosts.split()
        return f"{{hosts[number % len(hosts)]}}/{{number}}"

    async def parse(self, response, number):
        for link in response.css("i::text").getall():
            yield self.request(self.url(int(link)), cb_kwargs={{"number": int(link)}})
        if number % 50 == 7:
            raise ValueError(number)
        if number % 300 == 11:
            await asyncio.Event().wait()
        if number % 100 == 13:
            time.sleep(0.02)
        if number % 200 == 17:
            for each in range({FLOOD}):
                yield {{"flood": each}}
        yield {{"number": number, "tasks": len(asyncio.all_tasks())}}
"""


class Expected(NamedTuple):
    """Of the numbers 1 to `last`."""

    items: set[int]
    refused: set[int]
    flood: int

    @classmethod
    def of(cls, last: int) -> Expected:
        numbers = {number for number in range(1, last + 1) if number % 50 != 7 and number % 300 != 11}
        refused = {number for number in numbers if number % 20 == 4}
        return cls(numbers - refused, refused, FLOOD * sum(number % 200 == 17 for number in numbers))


class Sample(NamedTuple):
    anonymous_kib: int
    descriptors: int
    threads: int


class Soaked(NamedTuple):
    last: int
    code: int
    complaints: list[str]
    faults: Counter[str]
    samples: list[Sample]
    tasks: list[int]
    problems: list[str]


class Numbers:
    """Each page leads to the next ones, until the time is over."""

    def __init__(self) -> None:
        self.last = 1
        self.is_over = False

    async def page(self, request: web.Request) -> web.Response:
        number = int(request.path[1:])
        found = [] if self.is_over else range(number + 1, number + 1 + LINKS)
        self.last = max(self.last, *found, 1)
        return web.Response(text="".join(f"<i>{each}</i>" for each in found), content_type="text/html")


async def soak(folder: Path, seconds: float, rate: float, *, pages: int = 0) -> Soaked:
    """For as long as that, and until there are as many pages."""
    numbers, faults = Numbers(), Counter[str]()
    async with contextlib.AsyncExitStack() as stack:
        sites = []
        for seed, host in enumerate(HOSTS):
            chaos = Chaos(rate, seed=seed, kinds=(*Chaos.KINDS, "slow"))
            chaos.counts = faults
            sites.append(await stack.enter_async_context(LocalSite(host, chaos=chaos)))
            sites[-1].route("*", numbers.page)
        with (folder / "stderr").open("wb") as stderr:
            process = await _start(folder, " ".join(site.url for site in sites), stderr)
        samples = await _watched(process, numbers, sites, seconds, pages)
        await process.wait()
    said = (folder / "stderr").read_text(errors="replace")
    items = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    refused = [json.loads(line)["item"]["number"] for line in _lines(folder / "job" / "refused.jsonl")]
    return Soaked(
        numbers.last,
        process.returncode or 0,
        [line for line in said.splitlines() if COMPLAINTS.search(line)],
        faults,
        samples,
        [item["tasks"] for item in items if "tasks" in item],
        _differences(items, refused, Expected.of(numbers.last)),
    )


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def _start(folder: Path, hosts: str, stderr: IO[bytes]) -> asyncio.subprocess.Process:
    (folder / "spider.py").write_text(SPIDER)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-m", "crawler", "run", "spider.py", "-a", f"hosts={hosts}", "--job", "job"),
        *("-o", "out.jsonl", "-L", "ERROR"),
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=stderr,
    )


async def _watched(
    process: asyncio.subprocess.Process, numbers: Numbers, sites: list[LocalSite], seconds: float, pages: int
) -> list[Sample]:
    """From the first request on, as long as is wanted."""
    await sites[1].reached(1)
    samples: list[Sample] = []
    end = time.monotonic() + seconds
    while (time.monotonic() < end or numbers.last < pages) and process.returncode is None:
        await asyncio.sleep(min(1.0, seconds / 10))
        with contextlib.suppress(OSError, StopIteration):
            samples.append(_look(process.pid))
        for site in sites:
            site.journal.clear()  # it would be this process that grows
    numbers.is_over = True
    return samples


def _look(pid: int) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(int(status["RssAnon"].split()[0]), descriptors, int(status["Threads"]))


def _differences(items: list[dict[str, int]], refused: list[int], expected: Expected) -> list[str]:
    numbers = [item["number"] for item in items if "number" in item]
    flood = sum("flood" in item for item in items)
    found = (("items", numbers, expected.items), ("refused items", refused, expected.refused))
    problems = []
    for name, there, wanted in found:
        lost, strange = sorted(wanted - set(there)), sorted(set(there) - wanted)
        twice = [number for number, count in Counter(there).items() if count > 1]
        for what, which in (("lost", lost), ("not expected", strange), ("twice", twice)):
            if which:
                problems.append(f"{len(which)} {name} {what}: {which[:10]}")
    if flood != expected.flood:
        problems.append(f"{flood} items of floods instead of {expected.flood}")
    return problems


def growth(values: list[int]) -> float:
    """Of a line through the second half, from its start to its end, as a share of the mean."""
    half = values[len(values) // 2 :]
    if len(half) < 2:
        return 0.0
    slope, _ = statistics.linear_regression(range(len(half)), half)
    return slope * (len(half) - 1) / statistics.mean(half)


def quarters(values: list[int]) -> list[str]:
    """The mean of each: a level that is reached shows in the last ones."""
    size = max(1, len(values) // 4)
    return [f"{statistics.mean(values[start : start + size] or [0]):>10.0f}" for start in range(0, 4 * size, size)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=0.05, help="share of pages that fail at first (default: 0.05)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = asyncio.run(soak(Path(folder), arguments.minutes * 60, arguments.rate))
    print(f"{done.last} pages, {done.faults.total()} faults: {dict(sorted(done.faults.items()))}")
    problems = [*done.problems, *done.complaints[:10]]
    if done.code:
        problems.append(f"it ended with exit code {done.code}")
    columns = {name: [getattr(sample, name) for sample in done.samples] for name in Sample._fields}
    for name, values in {**columns, "tasks": done.tasks}.items():
        rise = growth(values)
        print(f"{name:<14} {' '.join(quarters(values))}  {rise:+.1%} in the second half")
        if rise > MOST_GROWTH:
            problems.append(f"{name} grows")
    print("\n".join(problems) or "nothing was lost, came twice, or grew")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
