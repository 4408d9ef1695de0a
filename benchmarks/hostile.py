"""What hostile answers do to this crawler, and to aiohttp's client as people write it.

    python benchmarks/hostile.py [--only rules,private,/bomb/gzip] [--timeout 10] [--quick]

A process of its own (`hostile_site.py`) is the hostile host, an honest one beside it, and a place where nobody has any
business. Each exchange is another process (`hostile_job.py`), first with the plain client, then here, with the same
total time-out and without retries, bounded in memory and CPU. What is shown of one:

    what came of it    status and size of the body, an exception, or a reason of `crawler.errors`
    after              seconds from its beginning to its end
    CPU                seconds of the process, the visits to the honest host included
    memory             the peak above what was held at the beginning
    lag                the longest that the event loop was not to be had, and the most CPU that its thread used in one
                       such while, which is what remains of it on a machine that does nothing else
    others             the longest that the honest host, visited every 20 ms, was not

`rules` needs no server: cookies for public suffixes, the URL Standard's cases and Google's robots.txt cases, which are
not in this repository (`../shared/vectors`). Pages lost and items twice after kills are `make kill`'s.

Written to `benchmarks/results/hostile.json` and `.md`, the figures that were not measured kept from before; not with
`--quick`. Exit code 1 where something here was not as promised; with `--quick`, where sizes are small and seconds mean
nothing, only the outcomes count.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from machine import ROOT, Failed, describe, machine, versions

sys.path.insert(0, str(ROOT))

import hostile_report
from hostile_rules import rules
from hostile_site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = ROOT / "benchmarks" / "results" / "hostile"
HERE = Path(__file__).resolve().parent
SIDES = ("plain", "here")
GROUPS = ("rules", "private", "bombs", "parsing", "wire")
LIMIT_SECONDS = 120
"""No exchange takes half of it, unless it hangs."""


class Case(NamedTuple):
    """One hostile answer. `asked` is what is promised of it here, read by `missed`."""

    group: str
    path: str
    title: str
    asked: dict[str, Any]


BOMB = {"outcome": ("body_too_large",), "grown_mib": 64.0, "burst_seconds": 0.05}
PARSED = {"burst_seconds": 0.1, "seconds": 5.0}
BY_DEADLINE = {"over_seconds": 1.0, "burst_seconds": 0.1}
CASES = (
    Case(
        "private", "/private", "a page whose links and redirects lead to an address of the own network", {"canary": 0}
    ),
    Case("bombs", "/bomb/gzip", "gzip, {size} holding {inside}", BOMB),
    Case("bombs", "/bomb/deflate", "deflate, {size} holding {inside}", BOMB),
    Case("bombs", "/bomb/br", "brotli, {size} holding {inside}", BOMB),
    Case("bombs", "/bomb/zstd", "zstd, {size} holding {inside}", BOMB),
    Case("bombs", "/bomb/gzip-gzip", "`gzip, gzip`, {size} holding {inside}", BOMB),
    Case("bombs", "/cut/gzip", "half of a gzip body, with the right length", {"outcome": ("body_truncated",)}),
    Case("parsing", "/html/nested-small", "{count} `<div>` in each other, and a link below ({size})", PARSED),
    Case("parsing", "/html/attributes-small", "{count} attributes in one tag ({size})", PARSED),
    Case("parsing", "/html/nested-large", "{count} `<div>` in each other ({size})", PARSED),
    Case("parsing", "/html/attributes-large", "{count} attributes in one tag ({size})", PARSED),
    Case("wire", "/wire/endless", "a body without end", {"outcome": ("body_too_large",), "grown_mib": 64.0}),
    Case("wire", "/wire/slow", "a body of one byte a second", BY_DEADLINE),
    Case("wire", "/wire/interim", "`103 Early Hints` without end", BY_DEADLINE),
    Case("wire", "/wire/headers", "{count} headers", {"cpu_seconds": 1.0}),
    Case("wire", "/wire/chunks", "{count} chunks of one byte", {"cpu_seconds": 1.0}),
)
CPU_SECONDS = {"parsing": 20}
"""That one exchange may take; enough to see that it does not end by itself. Others may take a minute."""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children end too
    options = parse()
    print(machine(), file=sys.stderr)
    results: dict[str, Any] = {
        "date": dt.datetime.now().astimezone().date().isoformat(),
        "machine": describe(),
        "versions": versions(),
        "groups": {},
    }
    try:
        for group, row in run(options):
            results["groups"].setdefault(group, _about(options))["rows"].append(row)
            if not options.quick:
                save(results)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2
    print(hostile_report.table(results))
    return 1 if any(row["missed"] for group in results["groups"].values() for row in group["rows"]) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default=",".join(GROUPS), metavar="A,B", help=f"groups ({','.join(GROUPS)}) or paths of cases"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="total, of both (default 10; with --quick 1)")
    parser.add_argument("--memory-gib", type=float, default=6.0, metavar="N", help="address space of each (default 6)")
    parser.add_argument("--quick", action="store_true", help="all of it small, nothing written: does it work?")
    options = parser.parse_args()
    options.only = options.only.split(",")
    known = [*GROUPS, *(case.path for case in CASES)]
    if strange := set(options.only) - set(known):
        parser.error(f"--only {', '.join(sorted(strange))}: there are {', '.join(known)}")
    options.timeout = options.timeout or (1.0 if options.quick else 10.0)
    return options


# -- running ----------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Groups and their rows, each as soon as it was measured."""
    if "rules" in options.only:
        for each in asyncio.run(rules()):
            yield "rules", {"title": each.figure, "plain": each.plain, "here": each.here, "missed": ""}
    chosen = [case for case in CASES if {case.group, case.path} & set(options.only)]
    if chosen:
        with served(options.quick) as site:
            for case in chosen:
                yield case.group, measure(case, site, options)


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": dt.datetime.now().astimezone().date().isoformat(),
        "timeout_seconds": options.timeout,
        "load": os.getloadavg()[0],
        "rows": [],
    }


@contextmanager
def served(quick: bool) -> Iterator[Site]:
    command = [sys.executable, str(HERE / "hostile_site.py"), *(["--quick"] if quick else [])]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        told = server.stdout.readline()
        if not told:
            raise Failed(f"the site did not start: {' '.join(command)}")
        yield Site(**json.loads(told))
    finally:
        server.kill()
        server.wait()


def measure(case: Case, site: Site, options: argparse.Namespace) -> dict[str, Any]:
    title = case.title.format(**site.words.get(case.path, {}))
    print(f"{case.group}: {title}", file=sys.stderr)
    row: dict[str, Any] = {"title": title}
    for side in SIDES:
        before = canary(site)
        seen = exchange(side, case, site, options)
        if case.group == "private":
            seen["canary"] = canary(site) - before
        row[side] = seen
        print(f"  {side}: {hostile_report.cell(seen)}", file=sys.stderr)
    row["missed"] = missed(row["here"], case.asked, options)
    return row


def canary(site: Site) -> int:
    """How many connections it has had by now."""
    without_proxies = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with without_proxies.open(f"{site.honest}/connections") as answer:
        return int(answer.read())


def exchange(side: str, case: Case, site: Site, options: argparse.Namespace) -> dict[str, Any]:
    """What one process saw; of one that did not live to tell, how it ended and what it had used by then."""
    cpu = CPU_SECONDS.get(case.group, 60)
    with tempfile.TemporaryDirectory(prefix="bench-") as home, tempfile.TemporaryFile() as said:
        out = Path(home, "seen.json")
        command = [sys.executable, str(HERE / "hostile_job.py"), side, case.path, site.hostile, site.honest, str(out)]
        command += ["--timeout", str(options.timeout), "--memory-gib", str(options.memory_gib), "--cpu", str(cpu)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
        environment["PYTHONPATH"] = str(ROOT)
        began = time.monotonic()
        child = subprocess.Popen(command, cwd=home, env=environment, stdout=said, stderr=said)
        code, used = _ended(child, began + LIMIT_SECONDS)
        if code == 0:
            seen: dict[str, Any] = json.loads(out.read_bytes())
            return seen
        if code > 0:
            said.seek(0)
            raise Failed(f"exit code {code} from: {' '.join(command)}\n{said.read()[-3000:].decode(errors='replace')}")
        how = f"no end after {cpu} s of CPU" if -code == signal.SIGXCPU else f"killed by {signal.Signals(-code).name}"
        return {"outcome": how, "seconds": time.monotonic() - began, "cpu_seconds": used.ru_utime + used.ru_stime}


def _ended(child: subprocess.Popen[bytes], deadline: float) -> tuple[int, Any]:
    """Exit code, negative for a signal, and what it used; it is killed at the deadline."""
    try:
        while True:
            pid, status, used = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                child.kill()
                deadline = float("inf")
            time.sleep(0.02)
    except BaseException:
        child.kill()
        os.wait4(child.pid, 0)
        raise
    finally:
        child.returncode = 0  # it was waited for
    return os.waitstatus_to_exitcode(status), used


# -- judging ----------------------------------------------------------------------------------------------------------


def missed(seen: dict[str, Any], asked: dict[str, Any], options: argparse.Namespace) -> str:
    """What of `asked` was not kept, in words; empty where all was."""
    found = []
    for name, wanted in asked.items():
        if name == "outcome":
            if seen["outcome"] not in wanted:
                found.append(f"{seen['outcome']} instead of {' or '.join(wanted)}")
        elif name == "canary":
            if seen["canary"] != wanted:
                found.append(f"{seen['canary']} connections")
        elif options.quick:
            continue
        elif name == "over_seconds":
            if seen["seconds"] > options.timeout + wanted:
                found.append(f"{seen['seconds']:.1f} s with a time-out of {options.timeout:g} s")
        elif seen.get(name, float("inf")) > wanted:
            found.append(f"{name} {seen.get(name, float('inf')):.2f} > {wanted:g}")
    return "; ".join(found)


# -- keeping ----------------------------------------------------------------------------------------------------------


def save(results: dict[str, Any]) -> None:
    """With what earlier runs measured and this one did not."""
    file = RESULTS.with_suffix(".json")
    before = json.loads(file.read_bytes())["groups"] if file.exists() else {}
    found = results["groups"]
    groups = {name: _merged(before.get(name), found.get(name)) for name in GROUPS if name in before or name in found}
    results = {**results, "groups": groups}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(hostile_report.page(results), encoding="utf-8")


def _merged(before: dict[str, Any] | None, found: dict[str, Any] | None) -> dict[str, Any]:
    if before is None or found is None:
        return found or before or {}
    rows = {row["title"]: row for row in (*before["rows"], *found["rows"])}
    return {**found, "rows": list(rows.values())}


if __name__ == "__main__":
    sys.exit(main())
