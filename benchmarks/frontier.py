"""What the frontier on disk costs as it grows: CPU a URL and a page, bytes on disk, memory, time to open and to lease.

    python benchmarks/frontier.py [--sizes 1e4,1e5,1e6,1e7] [--hosts 1000] [--plot docs/frontier.svg] [--json PATH]

Each size goes through processes of its own: one fills a frontier with that many URLs over the hosts, one opens it with
nothing of it in the system's cache, one with all, and one crawls in it: 20,000 pages, each leased, its 60 links looked
up, of which 6 are new and added, and completed, an epoch closed every 500 pages; then 50,000 leases that bring nothing
new. A size below 200,000 would not stay that size, so there the pages are spread over several copies. Only calls to the
frontier are counted, not the making of URLs. `us/page` is the frontier's own CPU time; what a page costs as a whole is
taken as that and 1 ms for fetching and parsing it. Machines change their speed, so a yardstick, a bit of Python that is
always the same, is laid between the pages: costs are compared after scaling them by what it took meanwhile.

Memory is anonymous memory (RssAnon of Linux) over what the process had before it opened the frontier. The frontier's
file is mapped; its pages in memory (RssFile) stand beside it, because the system takes them back when it needs them.

Exit code 1 where the frontier forgets or repeats a URL, or misses a target. `--from PATH` shows and plots what an
earlier `--json` wrote. The plot needs matplotlib: pip install matplotlib. 1e7 URLs take a quarter of an hour and 4 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from machine import Failed, machine  # noqa: E402

PAGES = 20_000
DRAINED = 50_000
PAGE_US = 1000.0
"""CPU time of a page beside the frontier's: fetching, decoding, parsing, the callback."""
_WIDTHS = (8, 7, 8, 7, 8, 8, 8, 8, 7, 10, 8, 8, 11, 8, 11, 7)
_STAYS = 0.1
"""A copy gets as many pages as a tenth of its URLs: it grows by half at most."""


class Figures(NamedTuple):
    """Of one size. Times of CPU in microseconds, of the wall in milliseconds."""

    size: int
    add_us: float
    bytes_per_url: float
    """Of the files. A file of LMDB never shrinks."""
    live_per_url: float
    """Of the pages in use in them."""
    memory_mib: float
    """The most that filling or crawling took."""
    file_mib: float
    open_seconds: float
    open_cold_seconds: float
    page_us: float
    yardstick_us: float
    """What the same bit of work took between these pages."""
    lease_p50: float
    lease_p99: float
    lease_max: float
    commit_p50: float
    commit_max: float
    drained: int
    drain_us: float
    drain_p99: float


class Check(NamedTuple):
    what: str
    found: str
    target: str
    ok: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e4,1e5,1e6,1e7", metavar="LIST", help="URLs (default 1e4,1e5,1e6,1e7)")
    parser.add_argument("--hosts", type=int, default=1000, metavar="N", help="over which they spread (default 1000)")
    parser.add_argument("--epoch-pages", type=int, default=500, metavar="N", help="to a commit (default 500)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the frontiers are (default: temporary)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    parser.add_argument("--plot", type=Path, metavar="PATH.svg", help="draw them there")
    parser.add_argument("--from", type=Path, dest="earlier", metavar="PATH", help="measure nothing: show this JSON")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        return child(*options.child)
    if options.plot is not None and importlib.util.find_spec("matplotlib") is None:
        print("--plot needs matplotlib, which is not installed: pip install matplotlib", file=sys.stderr)
        return 2
    try:
        about, figures = load(options.earlier) if options.earlier is not None else measure_all(options)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    verdict = checks(figures)
    print(f"{about}\n{table(figures)}\n\n{check_table(verdict)}")
    if options.json is not None:
        rows = [row._asdict() for row in figures]
        found = {"about": about, "figures": rows, "checks": [check._asdict() for check in verdict]}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.plot is not None:
        from frontier_plot import plot

        plot(figures, options.plot)
    return 0 if all(check.ok for check in verdict) else 1


def load(path: Path) -> tuple[str, list[Figures]]:
    found = json.loads(path.read_bytes())
    return found["about"], [Figures(**row) for row in found["figures"]]


# -- running ----------------------------------------------------------------------------------------------------------


def measure_all(options: argparse.Namespace) -> tuple[str, list[Figures]]:
    sizes = [int(float(size)) for size in options.sizes.split(",")]
    figures = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="frontier-", dir=options.folder) as home:
            figures.append(measure(Path(home), size, options.hosts, options.epoch_pages))
    return f"{machine().rpartition(';')[0]}\n{options.hosts} hosts", figures


def measure(home: Path, size: int, hosts: int, epoch_pages: int) -> Figures:
    folder = home / "whole"
    say(size, "filling")
    filled = run("fill", folder, size, hosts)
    say(size, "opening")
    cold = run("open", folder, size, 1)
    warm = statistics.median(run("open", folder, size, 0)["seconds"] for _ in range(3))
    pages = min(PAGES, max(int(size * _STAYS), 100))
    rounds = -(-PAGES // pages)
    crawls = []
    for number in range(1, rounds + 1):
        say(size, f"crawling {number} of {rounds}")
        last = number == rounds
        used = folder
        if not last:
            used = home / "copy"
            shutil.copytree(folder, used)
        crawls.append(run("crawl", used, size, hosts, pages, epoch_pages, DRAINED if last else 0))
        if not last:
            shutil.rmtree(used)
    leases = sorted(ms for crawl in crawls for ms in crawl["lease_ms"])
    commits = sorted(ms for crawl in crawls for ms in crawl["commit_ms"])
    drain = crawls[-1]["drain"]
    return Figures(
        size=size,
        add_us=filled["cpu_us_per_url"],
        bytes_per_url=filled["disk_bytes"] / size,
        live_per_url=filled["live_bytes"] / size,
        memory_mib=max(run["anonymous_peak_mib"] for run in (filled, *crawls)),
        file_mib=max(run["file_mib"] for run in (filled, *crawls)),
        open_seconds=warm,
        open_cold_seconds=cold["seconds"],
        page_us=statistics.fmean(crawl["cpu_us_per_page"] for crawl in crawls),
        yardstick_us=statistics.fmean(crawl["yardstick_us"] for crawl in crawls),
        lease_p50=quantile(leases, 0.5),
        lease_p99=quantile(leases, 0.99),
        lease_max=leases[-1],
        commit_p50=quantile(commits, 0.5),
        commit_max=commits[-1],
        drained=drain["leases"],
        drain_us=drain["cpu_us"],
        drain_p99=quantile(sorted(drain["lease_ms"]), 0.99),
    )


def say(size: int, words: str) -> None:
    print(f"  {size:,}: {words}", file=sys.stderr)


def quantile(ascending: list[float], share: float) -> float:
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)]


def run(role: str, folder: Path, *numbers: int) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", role, str(folder), *map(str, numbers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"exit code {done.returncode} from: {' '.join(command)}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def child(role: str, folder: str, *arguments: str) -> int:
    import frontier_load as load

    path = Path(folder)
    size, *rest = map(int, arguments)
    try:
        if role == "fill":
            found = asyncio.run(load.fill(path, size, *rest))
            found |= {"disk_bytes": load.disk_bytes(path), "live_bytes": load.live_bytes(path)}
        elif role == "open":
            found = asyncio.run(load.opening(path, size, cold=bool(rest[0])))
        else:
            hosts, pages, epoch_pages, drained = rest
            found = asyncio.run(load.crawl(path, size, hosts, pages=pages, epoch_pages=epoch_pages, drained=drained))
    except load.Wrong as error:
        print(f"WRONG: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


# -- showing ----------------------------------------------------------------------------------------------------------


def table(figures: list[Figures]) -> str:
    names = "CPU us,bytes,in use,anon.,mapped,open s,,CPU us,yard-,lease ms,,,commit ms,,drain: us,p99"
    units = "/URL,/URL,/URL,MiB,MiB,warm,cold,/page,stick,p50,p99,max,p50,max,/lease,ms"
    head = [
        f"{first:>12}" + "".join(f"{name:>{width}}" for name, width in zip(line.split(","), _WIDTHS, strict=True))
        for first, line in (("", names), ("URLs", units))
    ]
    return "\n".join(head + [_row(row) for row in figures])


def _row(row: Figures) -> str:
    cells = [
        f"{row.add_us:.1f}",
        f"{row.bytes_per_url:.0f}",
        f"{row.live_per_url:.0f}",
        f"{row.memory_mib:.0f}",
        f"{row.file_mib:.0f}",
        f"{row.open_seconds:.2f}",
        f"{row.open_cold_seconds:.2f}",
        f"{row.page_us:.0f}",
        f"{row.yardstick_us:.0f}",
        f"{row.lease_p50:.3f}",
        f"{row.lease_p99:.3f}",
        f"{row.lease_max:.1f}",
        f"{row.commit_p50:.1f}",
        f"{row.commit_max:.0f}",
        f"{row.drain_us:.0f}",
        f"{row.drain_p99:.2f}",
    ]
    return f"{row.size:12,}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))


def checks(figures: list[Figures]) -> list[Check]:
    """Against what the frontier promises. Of memory and opening there is a word for two sizes only."""
    memory_mib = {10**6: 100 * 1e6 / 2**20, 10**7: 250 * 1e6 / 2**20}
    opening = {10**6: 2.0}
    found = []
    for row in figures:
        name = f"{row.size:,}: "
        if row.size in memory_mib:
            most = memory_mib[row.size]
            words = f"{row.memory_mib:.0f} MiB (mapped beside it: {row.file_mib:.0f} MiB)"
            found.append(Check(f"{name}anonymous memory", words, f"<= {most:.0f} MiB", row.memory_mib <= most))
        if row.size in opening:
            seconds = opening[row.size]
            words = f"{row.open_seconds:.2f} s (cold: {row.open_cold_seconds:.2f} s)"
            found.append(Check(f"{name}open to first lease", words, f"<= {seconds:g} s", row.open_seconds <= seconds))
        per_url = row.bytes_per_url
        if row.size >= 10**5:  # below, the file is mostly what LMDB begins with
            words = f"{per_url:.0f} bytes/URL (in use: {row.live_per_url:.0f})"
            found.append(Check(f"{name}on disk", words, "<= 250 bytes/URL", per_url <= 250))
        found.append(Check(f"{name}p99 of a lease", f"{row.lease_p99:.3f} ms", "<= 5 ms", row.lease_p99 <= 5))
    return found + growth_of_a_page(figures)


def growth_of_a_page(figures: list[Figures]) -> list[Check]:
    """What a page costs at each size, over what it costs at ten thousand URLs."""
    first = next((row for row in figures if row.size == 10**4), None)
    if first is None:
        return []
    base = first.page_us
    found = []
    for row in figures:
        if row.size > 10**4:
            scaled = row.page_us * first.yardstick_us / row.yardstick_us
            whole, own = (PAGE_US + scaled) / (PAGE_US + base), scaled / base
            words = f"{whole:.2f} (the frontier's part alone: {base:.0f} to {scaled:.0f} us, scaled; {own:.2f})"
            target = "<= 1.3" if row.size == 10**7 else ""
            found.append(Check(f"{row.size:,}: a page, over 10,000", words, target, not target or whole <= 1.3))
    return found


def check_table(found: list[Check]) -> str:
    name, width = max(len(check.what) for check in found), max(len(check.found) for check in found)
    return "\n".join(
        f"{'ok ' if check.ok else 'NOT'}  {check.what:{name}}  {check.found:{width}}  {check.target}".rstrip()
        for check in found
    )


if __name__ == "__main__":
    sys.exit(main())
