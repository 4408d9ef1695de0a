"""What a page costs in one process and in several, and what of it the parent pays: that is what more cannot share.

    python benchmarks/processes.py [--pages 8000] [--processes 2] [--rounds 2]

A site of several hosts on loopback, in a process of its own, has pages of some 16 KB with 60 links each; one item is
taken of each, by callbacks that ask little of the page, and much (all its paragraphs, again and again). One process
and several run in turns, and must bring home the same items. CPU is that of all processes of a crawl, its start
included; the parent's is what it has itself when it ends. The site needs a processor as well, and what it took is told:
where there are only two, all of them together limit pages per second. Writes
`benchmarks/results/processes.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from aiohttp import web  # noqa: E402
from machine import machine  # noqa: E402

HOSTS = 4
MUCH = (0, 8, 24)
"""How often a callback asks for all paragraphs."""
TEXT = "<p>The quick brown fox jumps over the lazy dog, and does it again.</p>" * 180
SPIDER = """
from crawler import Spider

class Pages(Spider):
    name = "pages"
    sites: list[str] = []
    much: int = 0
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 16, "obey_robots": False}}

    async def start(self):
        for site in self.sites:
            yield self.request(site + "/0")

    def parse(self, response):
        for _ in range(self.much):
            assert len(response.css("p::text").getall()) == 180
        yield {"url": response.url, "title": response.css("h1::text").get(), "words": len(response.text.split())}
        yield response.follow_all("a")
"""
_TICK = os.sysconf("SC_CLK_TCK")


class Run(NamedTuple):
    pages: int
    seconds: float
    """Of crawling, as the crawl itself says."""
    cpu: float
    parent_cpu: float
    site_cpu: float
    items: frozenset[tuple[str, str]]

    @property
    def rate(self) -> float:
        return self.pages / self.seconds


async def serve(pages: int) -> None:
    each = pages // HOSTS
    bodies = []
    for number in range(each):
        links = "".join(f'<a href="/{(number * 7 + step * 13 + 1) % each}">x</a>' for step in range(59))
        links += f'<a href="/{(number + 1) % each}">x</a>'
        bodies.append(f"<h1>{number}</h1>{links}{TEXT}".encode())

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=bodies[int(request.path[1:])], content_type="text/html", charset="utf-8")

    app = web.Application()
    app.router.add_get("/{number:\\d+}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for number in range(1, HOSTS + 1):
        await web.TCPSite(runner, f"127.0.0.{number}", 0).start()
    print(",".join(f"http://{host}:{port}" for host, port in runner.addresses), flush=True)
    await asyncio.Event().wait()


def crawl(sites: str, processes: int, much: int, site: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        spider = Path(folder) / "spider_of_pages.py"
        spider.write_text(SPIDER)
        site_before = _cpu(site)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "crawler", "run", str(spider), "-a", f"sites={sites}", "--quiet"),
                *("-a", f"much={much}"),
                *("--job", f"{folder}/job", "-O", f"{folder}/items.jsonl", "--processes", str(processes)),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        own = [0.0]
        threading.Thread(target=_watch, args=(process.pid, own), daemon=True).start()
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"--processes {processes} ended with status {status}")
        stats = json.loads(Path(folder, "job", "stats.json").read_text())
        items = [json.loads(line) for line in Path(folder, "items.jsonl").read_text().splitlines()]
        found = frozenset((item["url"], item["title"]) for item in items)
        if len(found) != len(items):
            raise SystemExit(f"--processes {processes} wrote an item twice")
        return Run(
            stats["pages"],
            stats["elapsed_seconds"],
            used.ru_utime + used.ru_stime,
            own[0],
            _cpu(site) - site_before,
            found,
        )


def _watch(pid: int, own: list[float]) -> None:
    while True:
        try:
            own[0] = max(own[0], _cpu(pid))
        except OSError:
            return
        time.sleep(0.02)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=8000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.pages))
        return
    command = [sys.executable, __file__, "--serve", "--pages", str(options.pages)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            sites = server.stdout.readline().strip()
            kinds = [(much, processes) for much in MUCH for processes in (1, options.processes)]
            runs: dict[tuple[int, int], list[Run]] = {kind: [] for kind in kinds}
            for _ in range(options.rounds):
                for (much, processes), each in runs.items():
                    each.append(crawl(sites, processes, much, server.pid))
        finally:
            server.terminate()
    if len({run.items for each in runs.values() for run in each}) != 1:
        raise SystemExit("they did not bring home the same items")
    report = _report(runs)
    (ROOT / "benchmarks" / "results" / "processes.md").write_text(report)
    print(report)


def _report(runs: dict[tuple[int, int], list[Run]]) -> str:
    rows = []
    for (much, processes), each in runs.items():
        middle = [
            statistics.median(figures)
            for figures in (
                [run.pages / run.seconds for run in each],
                [1e6 * run.cpu / run.pages for run in each],
                [1e6 * run.parent_cpu / run.pages for run in each],
                [1e6 * run.site_cpu / run.pages for run in each],
                [
                    run.pages / run.seconds / (one.pages / one.seconds)
                    for run, one in zip(each, runs[much, 1], strict=True)
                ],
            )
        ]
        rows.append(
            f"| {much} | {processes} | "
            + " | ".join(f"{figure:.0f}" for figure in middle[:4])
            + f" | {middle[4]:.2f} |"
        )
    first = next(iter(runs.values()))
    return "\n".join(
        [
            "# One crawl in several processes",
            "",
            machine(),
            "",
            f"{first[0].pages} pages of {HOSTS} hosts, medians of {len(first)} rounds in turns; each time the same",
            "items. The site, on the same machine, needs a processor too.",
            "",
            (
                "| how often all paragraphs are asked for | processes | pages/s | CPU µs a page, all processes "
                "| of these the parent's | the site's | pages/s beside one |"
            ),
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
