"""What a page costs: this crawler beside a hand-written loop, on the same real pages, in turns.

    python benchmarks/pages.py [--rounds 3] [--folder HTML] [--concurrency 64]

nginx serves the Python documentation on loopback. A is `crawler run site` with its defaults (durable job folder, JSON
lines out), but no delay and as many requests to the host as there are at all; B is `plain.py`. After one warm-up each,
the rounds go A B A B ..., so that whatever else the machine does falls on both. CPU seconds (user + system, of the
child alone) are the figure; wall time and peak memory stand beside it. Exit code 1 where the two did not find the same
pages: a faster crawl that found less is no faster crawl.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the server of the tests serves here too, and `tests` is not installed

from tests.docs_site import docs_folder, missing, serve  # noqa: E402


class Run(NamedTuple):
    cpu_seconds: float
    wall_seconds: float
    peak_mib: float
    urls: tuple[str, ...]


class Failed(Exception):
    """A child ended with an error."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="pairs to measure (default 3)")
    parser.add_argument("--folder", type=Path, metavar="HTML", help="what to serve (default: Debian's Python docs)")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="of both (default 64)")
    options = parser.parse_args()
    folder = options.folder or docs_folder()
    if folder is None or (options.folder is None and missing()):
        print(f"cannot run: {missing()}", file=sys.stderr)
        return 2
    print(machine())
    with serve(folder) as site:
        try:
            pairs = measure(f"{site}/index.html", options.rounds, options.concurrency)
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
    print(table(pairs))
    return 0 if same_pages(pairs) else 1


# -- running --------------------------------------------------------------------------------------------------------


def measure(start: str, rounds: int, concurrency: int) -> list[tuple[Run, Run]]:
    """Pairs (A, B), the warm-up left out."""
    pairs = []
    for number in range(rounds + 1):
        pair = run_crawler(start, concurrency), run_plain(start, concurrency)
        show = "warm-up" if number == 0 else f"{number} of {rounds}"
        print(f"  {show}: A {pair[0].cpu_seconds:.2f} s, B {pair[1].cpu_seconds:.2f} s CPU", file=sys.stderr)
        pairs.append(pair)
    return pairs[1:]


def run_crawler(start: str, concurrency: int) -> Run:
    settings = {
        "crawl.concurrency": concurrency,
        "politeness.concurrency_per_host": concurrency,
        "politeness.delay_seconds": 0,
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        out = Path(home, "pages.jsonl")
        command = [sys.executable, "-m", "crawler", "run", "site", "--spiders", str(ROOT / "spiders"), "--quiet"]
        command += ["-a", f"start={start}", "--job", str(Path(home, "job")), "-O", str(out)]
        for key, value in settings.items():
            command += ["-s", f"{key}={value}"]
        return run(command, out)


def run_plain(start: str, concurrency: int) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        out = Path(home, "pages.jsonl")
        plain = str(ROOT / "benchmarks" / "plain.py")
        return run([sys.executable, plain, start, str(out), "--concurrency", str(concurrency)], out)


def run(command: list[str], out: Path) -> Run:
    # In the output's own folder, so that no settings file of the checkout is found.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=out.parent, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        # wait4 gives the usage of this child and of what it waited for, not of nginx and not of the child before.
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            tail = said.read()[-2000:].decode(errors="replace")
            raise Failed(f"exit code {child.returncode} from: {' '.join(command)}\n{tail}")
    with out.open(encoding="utf-8") as lines:
        urls = tuple(json.loads(line)["url"] for line in lines)
    kibibyte = 1 if sys.platform != "darwin" else 1 / 1024  # ru_maxrss is in bytes there
    return Run(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * kibibyte / 1024, urls)


# -- showing --------------------------------------------------------------------------------------------------------


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    configured = sysconfig.get_config_var("CONFIG_ARGS") or ""
    # Debian's packaging builds with profiles by other means than this switch, so its absence proves nothing.
    optimised = "with" if "--enable-optimizations" in configured else "without"
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}\n"
        f"{python}, configured {optimised} --enable-optimizations; {loop} loop for both"
    )


def table(pairs: list[tuple[Run, Run]]) -> str:
    head = f"{'':10}{'CPU s':>9}{'ms/page':>9}{'wall s':>9}{'MiB':>7}{'pages':>7}   A/B CPU"
    rows = [head]
    for number, (ours, plain) in enumerate(pairs, 1):
        rows.append(f"{f'{number} crawler':10}{row(ours)}   {ours.cpu_seconds / plain.cpu_seconds:.2f}")
        rows.append(f"{f'{number} plain':10}{row(plain)}")
    ours, plain = (median([pair[side] for pair in pairs]) for side in (0, 1))
    ratio = statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs)
    rows += ["medians", f"{'A crawler':10}{row(ours)}   {ratio:.2f}", f"{'B plain':10}{row(plain)}"]
    return "\n".join(rows)


def median(runs: list[Run]) -> Run:
    cpu, wall, peak = (statistics.median(values) for values in list(zip(*runs, strict=True))[:3])
    return Run(cpu, wall, peak, runs[-1].urls)


def row(run: Run) -> str:
    pages = len(run.urls)
    per_page = run.cpu_seconds * 1000 / max(pages, 1)
    return f"{run.cpu_seconds:9.2f}{per_page:9.2f}{run.wall_seconds:9.2f}{run.peak_mib:7.0f}{pages:7}"


def same_pages(pairs: list[tuple[Run, Run]]) -> bool:
    """Whether every run gave each page once and all runs the same ones; says what differs."""
    runs = [run for pair in pairs for run in pair]
    expected = set(runs[-1].urls)
    same = bool(expected)
    for number, run in enumerate(runs):
        name = f"{'AB'[number % 2]} in round {number // 2 + 1}"
        counted = Counter(run.urls)
        wrong = {
            "lacks": expected - counted.keys(),
            "has besides": counted.keys() - expected,
            "repeats": {url for url, count in counted.items() if count > 1},
        }
        for what, urls in wrong.items():
            if urls:
                same = False
                print(f"pages differ: {name} {what} {len(urls)}: {' '.join(sorted(urls)[:5])}", file=sys.stderr)
    if not expected:
        print("no pages at all", file=sys.stderr)
    return same


if __name__ == "__main__":
    sys.exit(main())
