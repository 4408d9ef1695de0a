"""What the guards cost on pages of honest sites: the same crawls with them and without, in turns.

    python benchmarks/guards.py [--only instructions,seconds] [--workload links] [--rounds 7] [--repeats 2] [--each]

The package has no switch for its guards; `unguarded.py` replaces them in memory before the crawl begins, and the output
lists which. Both sides are started by it, so that they differ in nothing else.

    instructions  a page's, counted by callgrind as in `make instructions`: pages of 33 KB with 60 links and an item,
                  and bare pages of 2 KB. Within 1 %, whatever else the machine does. What the kernel does is not in
                  it. `--each` counts with one guard off at a time, too: what each of them costs (15 s for each)
    seconds       CPU of the process (user and system), less that of a crawl of one page: Python's documentation as it
                  stands and with gzip, and bare pages. In turns, `--rounds` pairs after one that does not count;
                  medians of the pairs' ratios

Written to `benchmarks/results/guards.json` and `.md`, what was not measured kept from before; not with `--quick`. Exit
code 1 where guards cost more than 5 % of a page with links (of instructions, where those were counted; else of
seconds), or a crawl did not bring home what it should; 2 where something is missing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import signal
import statistics
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench
from machine import ROOT, Failed, describe, machine, versions
from unguarded import GUARDS, present
from workloads import Workload, workloads

sys.path.insert(0, str(ROOT / "benchmarks" / "instructions"))

import content
import measure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sites import Site

RESULTS = ROOT / "benchmarks" / "results" / "guards"
UNGUARDED = str(ROOT / "benchmarks" / "unguarded.py")
SECTIONS = ("instructions", "seconds")
MAX_SHARE = 0.05
"""Of what a page with links costs."""
BARE = ("bare", "d")
"""Nothing is made of these pages: the share of whatever is done for a page is largest there, and nobody crawls so."""
CONCURRENCY = 16
TITLES = {
    "links": "instructions of a page of 33 KB with 60 links",
    "bare": "instructions of a bare page of 2 KB",
    "a": "CPU of a page of Python's documentation",
    "a gzip": "CPU of the same, with gzip",
    "d": "CPU of a bare page of 2 KB",
}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nginx and the child end too
    options = parse()
    print(machine(), file=sys.stderr)
    print(f"switched off: {', '.join(present())}", file=sys.stderr)
    found: dict[str, Any] = {}
    try:
        for section in options.only:
            found[section] = {"instructions": instructions, "seconds": seconds}[section](options)
    except (Failed, measure.Failed) as error:
        print(error, file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        print(f"{error.filename} is not there. On Debian and Ubuntu: apt-get install valgrind nginx", file=sys.stderr)
        return 2
    results = {"date": today(), "machine": describe(), "versions": versions(), "guards": present(), **found}
    print("\n".join(rows(results)))
    if not options.quick:
        save(results)
    judged = {options.only[0]: found[options.only[0]]}  # instructions where they were counted: noise does not move them
    too_dear = any(each["share"] > MAX_SHARE and each["name"] not in BARE for each in shares(judged))
    return 1 if too_dear and not options.quick else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), metavar="A,B", help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="pairs of `seconds` (default 7)")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="pairs of `instructions` (default 2)")
    parser.add_argument("--workload", action="append", choices=list(TITLES), help="only this one (default: all)")
    parser.add_argument("--each", action="store_true", help="count with one guard off at a time, too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, nothing written: does it work?")
    options = parser.parse_args()
    options.only = sorted(options.only.split(","))
    if strange := set(options.only) - set(SECTIONS):
        parser.error(f"--only {', '.join(sorted(strange))}: there are {', '.join(SECTIONS)}")
    options.workload = options.workload or (["a gzip"] if options.quick else list(TITLES))
    if options.quick:
        options.rounds = options.repeats = 1
    return options


def today() -> str:
    return dt.datetime.now().astimezone().date().isoformat()


# -- instructions -----------------------------------------------------------------------------------------------------


def instructions(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for workload in [each for each in content.WORKLOADS.values() if each.name in options.workload]:
        pairs = [(counted(workload, "none"), counted(workload, "all")) for _ in range(options.repeats)]
        each = {name: counted(workload, name) for name in present()} if options.each else {}
        found.append({"name": workload.name, "title": TITLES[workload.name], "pairs": pairs, "each": each})
    return found


def counted(workload: content.Workload, off: str) -> float:
    count = measure.count(workload, through=(UNGUARDED, off)).per_page
    print(f"  {workload.name}, without {off}: {count:,.0f} instructions a page", file=sys.stderr)
    return count


# -- seconds ----------------------------------------------------------------------------------------------------------


def seconds(options: argparse.Namespace) -> list[dict[str, Any]]:
    chosen = [each for each in workloads(options.quick, None) if each.letter in ("a", "d")]
    if lacking := [each.missing for each in chosen if each.missing]:
        raise Failed("; ".join(lacking))
    docs, bare = chosen
    opened: Any = docs.open
    coded = replace(docs, title=f"{docs.title}, with gzip", open=partial(opened, coded=True))
    bare = replace(bare, count=3000, title="3000 bare pages", sizes={**bare.sizes, "pages": 3000})
    named = {"a": docs, "a gzip": coded, "d": bare}
    return [
        {"name": name, "title": TITLES[name], **_in_turns(workload, options.rounds, warm_up=not options.quick)}
        for name, workload in named.items()
        if name in options.workload
    ]


def _in_turns(workload: Workload, rounds: int, *, warm_up: bool) -> dict[str, Any]:
    """CPU seconds with and without the guards, pair by pair."""
    with workload.open() as site:
        pairs = list(_pairs(workload, site, rounds + warm_up))[warm_up:]
        starting = statistics.median(_crawl(workload, site, "none", "--limit", "1") for _ in range(min(3, rounds)))
        return {
            "pairs": [(guarded - starting, without - starting) for guarded, without in pairs],
            "starting": starting,
            "pages": workload.units(site),
        }


def _pairs(workload: Workload, site: Site, rounds: int) -> Iterator[tuple[float, float]]:
    for number in range(rounds):
        # A B, B A, A B: so that neither is always the second.
        order = ("none", "all") if number % 2 == 0 else ("all", "none")
        used = {off: _crawl(workload, site, off) for off in order}
        print(f"  {workload.title}: {used['none']:.2f} s with, {used['all']:.2f} s without", file=sys.stderr)
        yield used["none"], used["all"]


def _crawl(workload: Workload, site: Site, off: str, *options: str) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        python, *command = workload.command("ours", site, home, CONCURRENCY, Path())
        used = bench.launch([python, UNGUARDED, off, *command, *options], home)
        if not options and (problems := workload.check(workload, "ours", site, home)):
            raise Failed(f"{workload.title}, without {off}: {'; '.join(problems)}")
        return used["cpu_seconds"]


# -- showing ----------------------------------------------------------------------------------------------------------


def shares(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each workload: what the guards are of the cost with them, median and spread of the pairs; and of the cheapest
    run of either side, which others on the machine made dear the least."""
    found = []
    for each in [each for section in SECTIONS for each in results.get(section, ())]:
        parts = sorted(1 - without / with_ for with_, without in each["pairs"])
        with_, without = (min(side) for side in zip(*each["pairs"], strict=True))
        found.append(
            {
                "name": each["name"],
                "share": statistics.median(parts),
                "of_least": 1 - without / with_,
                "least": parts[0],
                "most": parts[-1],
            }
        )
    return found


def rows(results: dict[str, Any]) -> list[str]:
    """A Markdown table, and one of the guards where each was counted."""
    lines = ["| what | with guards | without | guards' share | of the least | pairs |", "| --- |" + " --- |" * 5]
    measured = [(section, each) for section in SECTIONS for each in results.get(section, ())]
    for (section, each), share in zip(measured, shares(results), strict=True):
        with_, without = (statistics.median(side) for side in zip(*each["pairs"], strict=True))
        shown = (
            (f"{with_:,.0f}", f"{without:,.0f}")
            if section == "instructions"
            else tuple(f"{1e6 * side / each['pages']:,.0f} us" for side in (with_, without))
        )
        lines.append(
            f"| {each['title']} | {shown[0]} | {shown[1]} | {share['share']:.1%} | {share['of_least']:.1%} "
            f"| {len(each['pairs'])}, {share['least']:.1%} to {share['most']:.1%} |"
        )
    counted_each = [each for each in results.get("instructions", ()) if each["each"]]
    if counted_each:
        lines += ["", f"| instructions a page of | {' | '.join(each['name'] for each in counted_each)} | |"]
        lines.append("| --- |" + " --- |" * (len(counted_each) + 1))
    for name in present() if counted_each else ():
        costs = []
        for each in counted_each:
            with_ = statistics.median(pair[0] for pair in each["pairs"])
            costs.append(f"{with_ - each['each'][name]:,.0f} ({1 - each['each'][name] / with_:.1%})")
        lines.append(f"| {name} | {' | '.join(costs)} | {GUARDS[name].words} |")
    return lines


def save(results: dict[str, Any]) -> None:
    """With what earlier runs measured and this one did not."""
    file = RESULTS.with_suffix(".json")
    before = json.loads(file.read_bytes()) if file.exists() else {}
    for section in SECTIONS:
        measured = {each["name"]: each for each in (*before.get(section, ()), *results.get(section, ()))}
        results[section] = [measured[name] for name in TITLES if name in measured]
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    found = results["machine"]
    listed = ", ".join(f"{package} {version}" for package, version in results["versions"].items())
    parts = [
        "# What the guards cost",
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}; {found['python']} on {found['loop']}; {listed}.",
        f"{results['date']}, `make guards`; what is measured how is told at the top of `benchmarks/guards.py`.",
        "Switched off, one and all:",
        "\n".join(f"- {name}: {GUARDS[name].words}" for name in results["guards"]),
        "\n".join(rows(results)),
    ]
    file.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("written: benchmarks/results/guards.json, .md")


if __name__ == "__main__":
    sys.exit(main())
