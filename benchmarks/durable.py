"""What durability costs a crawl: the frontier in the job's folder beside the one in memory, in turns.

    python benchmarks/durable.py [--rounds 5] [--pages 3000] [--concurrency 64]

A process of its own serves small pages on loopback, 2 KB with 30 links each, of which one in thirty is new. A is
`crawler run` as it is: every fifth of a second what happened is committed to disk. B is the same with
`-s frontier.url=memory://`, which forgets all with its process. After one warm-up each, the rounds go A B A B ..., so
that whatever else the machine does falls on both. Pages a second of the crawl itself (`elapsed_seconds` of stats.json,
without the start of Python) are the figure; CPU seconds and wall time of the whole process stand beside it.
Exit code 1 where a run did not give every page once, or A has less than 0.9 of the throughput of B.
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
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple

from machine import ROOT, Failed, machine

TARGET = 0.9
_LINKS = 30
_SPIDER = """\
from crawler import Spider


class Small(Spider):
    name = "small"

    async def start(self):
        yield self.request(self.site + "/0")

    def parse(self, response):
        yield {"url": response.url, "title": response.css("h1::text").get()}
        yield response.follow_all()
"""


class Run(NamedTuple):
    cpu_seconds: float
    wall_seconds: float
    crawl_seconds: float
    pages: int

    @property
    def per_second(self) -> float:
        return self.pages / self.crawl_seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs to measure (default 5)")
    parser.add_argument("--pages", type=int, default=3000, metavar="N", help="of the site (default 3000)")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="of both (default 64)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
        return 0
    print(machine())
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(options.pages)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        pairs = measure(server.stdout.readline().strip(), options)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        server.kill()
        server.wait()
    ratio = statistics.median(durable.per_second / memory.per_second for durable, memory in pairs)
    print(table(pairs))
    print(f"\n{'ok ' if ratio >= TARGET else 'NOT'}  throughput, durable over memory: {ratio:.3f}   >= {TARGET}")
    if options.json is not None:
        rows = [{"durable": durable._asdict(), "memory": memory._asdict()} for durable, memory in pairs]
        found = {"about": machine(), "ratio": ratio, "rounds": rows}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if ratio >= TARGET else 1


# -- running ----------------------------------------------------------------------------------------------------------


def measure(site: str, options: argparse.Namespace) -> list[tuple[Run, Run]]:
    """Pairs (A, B), the warm-up left out."""
    pairs = []
    for number in range(options.rounds + 1):
        pair = crawl(site, options), crawl(site, options, "-s", "frontier.url=memory://")
        show = "warm-up" if number == 0 else f"{number} of {options.rounds}"
        durable, memory = (f"{run.per_second:.0f} pages/s, {run.cpu_seconds:.2f} s CPU" for run in pair)
        print(f"  {show}: A {durable}; B {memory}", file=sys.stderr)
        pairs.append(pair)
    return pairs[1:]


def crawl(site: str, options: argparse.Namespace, *more: str) -> Run:
    settings = {
        "crawl.concurrency": options.concurrency,
        "politeness.concurrency_per_host": options.concurrency,
        "politeness.delay_seconds": 0,
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        Path(home, "spider_of_small_pages.py").write_text(_SPIDER, encoding="utf-8")
        command = [sys.executable, "-m", "crawler", "run", "spider_of_small_pages.py", "-a", f"site={site}", "--quiet"]
        command += ["--job", "job", "-o", "out.jsonl", *more]
        for key, value in settings.items():
            command += ["-s", f"{key}={value}"]
        cpu, wall = run(command, home)
        stats = json.loads(Path(home, "job", "stats.json").read_bytes())
        with Path(home, "out.jsonl").open(encoding="utf-8") as lines:
            urls = Counter(json.loads(line)["url"] for line in lines)
    if len(urls) != options.pages or max(urls.values()) > 1:
        raise Failed(f"{sum(urls.values())} items of {len(urls)} pages instead of {options.pages}: {' '.join(command)}")
    return Run(cpu, wall, stats["elapsed_seconds"], options.pages)


def run(command: list[str], home: str) -> tuple[float, float]:
    """CPU and wall seconds of the process alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        child = subprocess.Popen(command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            tail = said.read()[-2000:].decode(errors="replace")
            raise Failed(f"exit code {child.returncode} from: {' '.join(command)}\n{tail}")
    return usage.ru_utime + usage.ru_stime, wall


# -- the site ---------------------------------------------------------------------------------------------------------


async def serve(pages: int) -> None:
    """Until killed. By hand, because a server that costs as much as the crawler would be half of what is measured."""
    answers = {b"/%d" % number: _answer("200 OK", body) for number, body in enumerate(bodies(pages))}
    missing = _answer("404 Not Found", b"")

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            self.rest = b""

        def data_received(self, data: bytes) -> None:
            *requests, self.rest = (self.rest + data).split(b"\r\n\r\n")
            for request in requests:
                self.transport.write(answers.get(request.split(b" ", 2)[1], missing))

    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def _answer(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def bodies(pages: int) -> list[bytes]:
    """A random tree of pages, and links across it, filled up to 2 KB."""
    rng = Random(pages)
    links: list[list[int]] = [[] for _ in range(pages)]
    for number in range(1, pages):
        links[rng.randrange(number)].append(number)
    made = []
    for number, own in enumerate(links):
        targets = [*own, *rng.choices(range(pages), k=max(0, _LINKS - len(own)))]
        rng.shuffle(targets)
        anchors = "\n".join(f'<a href="/{target}">the page {target}</a>' for target in targets)
        body = f"<!doctype html><title>{number}</title><h1>Page {number}</h1>\n<p>{anchors}</p>\n"
        made.append((body + f"<p>{'lorem ipsum ' * (max(0, 2000 - len(body)) // 12)}</p>").encode())
    return made


# -- showing ----------------------------------------------------------------------------------------------------------


def table(pairs: list[tuple[Run, Run]]) -> str:
    rows = [f"{'':12}{'pages/s':>9}{'crawl s':>9}{'CPU s':>9}{'wall s':>9}   A/B pages/s   A/B CPU"]
    for number, (durable, memory) in enumerate(pairs, 1):
        speed, cpu = durable.per_second / memory.per_second, durable.cpu_seconds / memory.cpu_seconds
        rows.append(f"{f'{number} durable':12}{row(durable)}{speed:14.3f}{cpu:10.3f}")
        rows.append(f"{f'{number} memory':12}{row(memory)}")
    speed = statistics.median(durable.per_second / memory.per_second for durable, memory in pairs)
    cpu = statistics.median(durable.cpu_seconds / memory.cpu_seconds for durable, memory in pairs)
    durable, memory = (median([pair[side] for pair in pairs]) for side in (0, 1))
    rows += ["medians", f"{'A durable':12}{row(durable)}{speed:14.3f}{cpu:10.3f}", f"{'B memory':12}{row(memory)}"]
    return "\n".join(rows)


def median(runs: list[Run]) -> Run:
    cpu, wall, crawling = (statistics.median(values) for values in list(zip(*runs, strict=True))[:3])
    return Run(cpu, wall, crawling, runs[0].pages)


def row(run: Run) -> str:
    return f"{run.per_second:9.0f}{run.crawl_seconds:9.2f}{run.cpu_seconds:9.2f}{run.wall_seconds:9.2f}"


if __name__ == "__main__":
    sys.exit(main())
