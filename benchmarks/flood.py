"""What a callback costs that gives a million items or requests from one page: memory, and what others get meanwhile.

    python benchmarks/flood.py [--outputs 1000000] [--pages 50]

A site on loopback has one page whose callback floods, and others beside it. The crawl runs in a process of its own,
once with items, once with requests, once with a callback that never ends (cut by `crawl.output_limit`). Memory is the
growth of the crawler's peak beyond that of the same crawl without the flood; "meanwhile" counts the other pages that
were answered before the flood ended. Exit code 1 where something is lost, or memory grows by more than 50 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from crawler.testing import LocalSite  # noqa: E402

MAX_GROWTH_MIB = 50_000_000 / 2**20
KINDS = ("items", "requests", "endless")
SPIDER = """
import resource, sys, time
from crawler import Spider

class Flood(Spider):
    name = "flood"
    kind: str = "none"
    outputs: int = 0
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 4, "obey_robots": False}}

    async def start(self):
        yield self.request(self.site + "/flood")
        yield self.request(self.site + "/1")

    def parse(self, response):
        if response.url.endswith("/flood"):
            yield from self.flood(response)
            print("flood ended", file=sys.stderr, flush=True)
        else:
            yield {"page": response.url}
            yield response.follow_all()

    def flood(self, response):
        number = 0
        while self.kind == "endless" or number < self.outputs:
            number += 1
            if self.kind == "requests":
                yield response.follow(f"/later/{number}", not_before=86400)
            elif self.kind in ("items", "endless"):
                yield {"number": number, "text": "of an item of about the usual size, as they are"}
            else:
                return

    async def closed(self, reason):
        print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr, flush=True)
"""


class Run(NamedTuple):
    kind: str
    peak_mib: float
    meanwhile: int
    """Other pages answered before the flood ended."""
    items: int
    queued: int


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=1_000_000, metavar="N", help="of the flood (default 1000000)")
    parser.add_argument("--pages", type=int, default=50, metavar="N", help="beside it (default 50)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="which floods (default: all)")
    options = parser.parse_args()
    runs = {kind: await run(kind, options) for kind in dict.fromkeys(("none", *options.kinds))}
    base = runs["none"].peak_mib
    print(f"{'':10} {'peak MiB':>9} {'growth':>7} {'meanwhile':>10} {'items':>9} {'waiting':>9}")
    for each in runs.values():
        growth = f"{each.peak_mib - base:7.1f}"
        print(f"{each.kind:10} {each.peak_mib:9.1f} {growth} {each.meanwhile:10} {each.items:9} {each.queued:9}")
    fine = (
        all(each.peak_mib - base <= MAX_GROWTH_MIB for each in runs.values())
        and all(
            each.items == options.pages + (each.kind in {"items", "endless"}) * options.outputs
            for each in runs.values()
        )
        and all(each.queued == (each.kind == "requests") * options.outputs for each in runs.values())
        and all(each.meanwhile >= options.pages // 2 for each in runs.values() if each.kind != "none")
    )
    print("ok" if fine else "NOT as promised")
    return 0 if fine else 1


async def run(kind: str, options: argparse.Namespace) -> Run:
    async with LocalSite() as site:
        site.page("/flood", "flood")
        for number in range(1, options.pages + 1):
            site.page(f"/{number}", f'<a href="/{number + 1}">next</a>' if number < options.pages else "the last")
        with tempfile.TemporaryDirectory(prefix="flood-") as home:
            return await crawl(kind, options, site, Path(home))


async def crawl(kind: str, options: argparse.Namespace, site: LocalSite, home: Path) -> Run:
    (home / "flood.py").write_text(SPIDER)
    command = [sys.executable, "-m", "crawler", "run", "flood.py", "-o", "items.jsonl", "--job", "job"]
    command += ["-a", f"site={site.url}", "-a", f"kind={kind}", "-a", f"outputs={options.outputs}"]
    command += ["--limit", str(options.pages + 1), "-s", f"crawl.output_limit={options.outputs}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    environment["PYTHONPATH"] = str(ROOT)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=home, env=environment, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    peak, meanwhile, said = 0.0, 0, ""
    async for line in process.stderr:
        text = line.decode()
        said += text
        if text.startswith("peak"):
            peak = int(text.split()[1]) / 1024
        elif "flood ended" in text or "crawl.output_limit" in text:
            meanwhile = sum(hit.path != "/flood" for hit in site.journal)
    if await process.wait():
        raise SystemExit(f"exit code {process.returncode} of the crawl with {kind}:\n{said}")
    with open(home / "items.jsonl", "rb") as lines:
        items = sum(1 for _ in lines)
    stats = json.loads((home / "job/stats.json").read_text())
    return Run(kind, peak, meanwhile, items, stats["waiting"])


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
