"""What a page costs as the queue grows from a thousand to a million URLs, and as hosts grow from one to ten thousand.

    python benchmarks/growth.py [--rounds 3] [--quick] [--only queue,hosts,memory] [--why queue] [--name NAME]

Each point is a whole crawl in a process of its own (`growth_job.py`: a job folder, robots.txt, JSON lines, no delay) of
a site in another one (`growth_server.py`: pages of 3 KB with 18 links that are known and 2 new). The queue is filled
first; then CPU (user + system, all threads) is taken over some thousand pages, when each host was asked before. So the
queue grows by one a page while it is measured.

    queue    one host, over the wire
    hosts    a queue of 100,000 (of 200,000 for 10,000 hosts, since a page links to 18 others of its host), over the
             wire: with new connections, which the server counts
    memory   the same without the wire: pages come from memory, so it is the engine's and the frontier's own cost

The points take turns, so that whatever else the machine does falls on all. A ratio is to the first point of the row, by
round, of which the median is shown. A million URLs run in the first round only, 10,000 hosts in the first two. The
results are written to `benchmarks/results/growth-NAME.json`, `.md` and, where matplotlib is installed, `.svg`; not with
`--quick`. `--why ROW` measures nothing: it profiles the row's first and last point and shows which functions grow.

Exit code 1 where a crawl did not do what it should.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import growth_report as report
import growth_why
from machine import ROOT, Failed, describe, machine, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = ROOT / "benchmarks" / "results"
FOLDER = ROOT / "benchmarks"
LIMIT_SECONDS = 300
"""No crawl takes a third of it."""
ROWS = ("queue", "hosts", "memory")
PAGES = 4000
WARM_UP = 500
"""Pages, and one more for each host."""


class Point(NamedTuple):
    """One crawl. `wire` is False where the pages come from memory; `rounds` is the most it takes part in."""

    queue: int
    hosts: int = 1
    wire: bool = True
    rounds: int = 99
    runs: int = 1
    """In each round."""
    pages: int = PAGES
    warm_up: int = WARM_UP

    @property
    def key(self) -> str:
        return f"{self.queue}/{self.hosts}/{'wire' if self.wire else 'memory'}"


def rows(quick: bool) -> dict[str, list[Point]]:
    """The points of each row, smallest first. One that stands in two rows runs once."""
    thousand = Point(1000, pages=1000, warm_up=200, runs=1 if quick else 3)  # more pages would be another queue
    if quick:
        queue = [thousand._replace(pages=400), Point(10_000, pages=400)]
        hosts = [Point(10_000, number, pages=400) for number in (1, 10)]
    else:
        queue = [thousand, *(Point(size) for size in (10_000, 100_000)), Point(1_000_000, rounds=1)]
        hosts = [Point(100_000), *(Point(100_000, number, warm_up=WARM_UP + number) for number in (10, 100, 1000))]
        hosts.append(Point(200_000, 10_000, warm_up=WARM_UP + 10_000, rounds=2))
    return {"queue": queue, "hosts": hosts, "memory": [point._replace(wire=False) for point in hosts]}


def main() -> int:
    options = parse()
    chosen = {name: points for name, points in rows(options.quick).items() if name in options.only}
    print(machine(), file=sys.stderr)
    try:
        if options.why:
            first, *_, last = rows(options.quick)[options.why]
            print(why(first, last))
            return 0
        results = measure(chosen, 1 if options.quick else options.rounds)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    print(report.table(results))
    if not options.quick:
        save(results, f"growth-{options.name or results['date']}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def some(text: str) -> list[str]:
        names = text.split(",")
        if strange := set(names) - set(ROWS):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(strange))}: not of {', '.join(ROWS)}")
        return names

    parser.add_argument("--only", type=some, default=list(ROWS), metavar="A,B", help=f"of {','.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="to measure (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, nothing written: does it work?")
    parser.add_argument("--why", choices=ROWS, help="profile the first and the last point of this row instead")
    parser.add_argument("--name", metavar="NAME", help="of the results (default: today's date)")
    return parser.parse_args()


# -- running ----------------------------------------------------------------------------------------------------------


def measure(chosen: dict[str, list[Point]], rounds: int) -> dict[str, Any]:
    """What `growth_report` shows and the JSON file holds. Raises `Failed`."""
    points = list(dict.fromkeys(point for row in chosen.values() for point in row))
    runs = []
    for number in range(1, rounds + 1):
        for point in points:
            if number > point.rounds:
                continue
            for _ in range(point.runs):
                run = {"round": number, "point": point.key, **crawl(point)}
                print(f"  {number} of {rounds}: {point.key} {run['ms']:.3f} ms a page", file=sys.stderr)
                runs.append(run)
    return {
        "date": dt.datetime.now().astimezone().date().isoformat(),
        "machine": describe(),
        "versions": versions(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "rounds": rounds,
        "rows": {name: [{**point._asdict(), "key": point.key} for point in row] for name, row in chosen.items()},
        "runs": runs,
    }


def crawl(point: Point, profile: Path | None = None) -> dict[str, Any]:
    """CPU a page in ms, MiB of anonymous memory, new connections. Raises `Failed`, also for a crawl that is not
    whole."""
    with server(point) as port, tempfile.TemporaryDirectory(prefix="growth-") as home:
        options = {**point._asdict(), "port": port if point.wire else None, "profile": profile and str(profile)}
        command = [sys.executable, str(FOLDER / "growth_job.py"), json.dumps(options)]
        try:
            done = subprocess.run(
                command,
                cwd=home,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{point.key}: not done within {LIMIT_SECONDS} s") from None
        items = Path(home, "items.jsonl")
        written = items.read_bytes().count(b"\n") if items.exists() else 0
    if done.returncode:
        raise Failed(f"{point.key}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    pages = found["pages"]
    if found["errors"] or not pages == found["items"] == written or found["waiting"] != point.queue + pages:
        raise Failed(f"{point.key}: {written} items written, and not all is well: {found}")
    return figures(point, *found["samples"])


def figures(point: Point, filled: dict[str, Any], first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    return {
        "ms": (last["cpu_seconds"] - first["cpu_seconds"]) * 1000 / point.pages,
        "wall_ms": (last["wall_seconds"] - first["wall_seconds"]) * 1000 / point.pages,
        "warm_up_ms": (first["cpu_seconds"] - filled["cpu_seconds"]) * 1000 / point.warm_up,
        "fill_us": filled["cpu_seconds"] * 1e6 / point.queue,
        "connections": (last["connections"] - first["connections"]) / point.pages,
        "first_mib": first["anonymous_mib"],
        "last_mib": last["anonymous_mib"],
    }


@contextlib.contextmanager
def server(point: Point) -> Iterator[int]:
    """Its port. It ends when its standard input does, so it outlives nobody."""
    command = [sys.executable, str(FOLDER / "growth_server.py"), str(point.queue), str(point.hosts)]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


def environment() -> dict[str, str]:
    """Without the settings of a user, and without a proxy."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CRAWLER_") and not name.lower().endswith("_proxy")
    }
    return {**kept, "PYTHONPATH": str(ROOT)}


def why(first: Point, last: Point) -> str:
    """Which functions a page of `last` spends more in than one of `first`."""
    with tempfile.TemporaryDirectory(prefix="growth-why-") as folder:
        paths = Path(folder, "first"), Path(folder, "last")
        for point, path in zip((first, last), paths, strict=True):
            print(f"  profiling {point.key}", file=sys.stderr)
            crawl(point, path)
        return growth_why.compared(*paths, first.pages, last.pages)


def save(results: dict[str, Any], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(report.page(results), encoding="utf-8")
    drawn = report.plot(results, RESULTS / f"{name}.svg")
    print(f"written: benchmarks/results/{name}.json, .md{', .svg' if drawn else ' (no .svg without matplotlib)'}")


if __name__ == "__main__":
    sys.exit(main())
