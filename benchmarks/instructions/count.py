"""What a page costs in instructions: the same crawl each time, counted by valgrind's callgrind.

    python benchmarks/instructions/count.py [--workload links] [--check | --record] [--why] [--profile]

Instructions do not depend on how busy or how fast the machine is: repeated runs agree within 1 %, so a change of a few
per cent shows, where CPU time needs many rounds. Two workloads (`content.py`): `links`, pages of 33 KB with 60 links
of which six are new, an item each; and `bare`, pages of 2 KB of which nothing is made. Job folder, robots.txt, guards,
statistics and JSON lines are on; a server beside (`server.py`) answers one of eight requests at a time. Counting begins
after a warm-up, when the process waits for the server, and ends at the same place some pages later, so that starting
and ending are not in it. What the kernel does is not counted, nor what waiting for the disk or memory costs.

`--record` writes what was found into record.json, for this minor version of Python; `--check` exits with 1 where a page
costs 10 % more than recorded there. `--why` shows which C functions the instructions are in; `--profile` counts nothing
and shows which Python functions take the time, by cProfile. It takes 15 s a workload, and valgrind (exit code 2 where
there is none; 0 with `--if-possible`).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

import record
import why
from content import WORKLOADS, Workload
from measure import ROOT, Failed, count, profile

COMMAND = "python benchmarks/instructions/count.py"


def main() -> int:
    options = _options()
    chosen = [WORKLOADS[name] for name in options.workload or WORKLOADS]
    try:
        if options.profile:
            return _profile(chosen, options.keep)
        missing = [program for program in ("valgrind", "vgdb") if shutil.which(program) is None]
        if missing or sys.platform != "linux":
            print(f"NOT COUNTED: {_needs(missing)}", file=sys.stderr)
            return 0 if options.if_possible else 2
        return _count(chosen, options)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="only this one (default: all)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what the tools wrote (default: with --why only)")
    parser.add_argument("--if-possible", action="store_true", help="exit code 0 where there is no valgrind")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="exit code 1 where a page costs 10 %% more than recorded")
    what.add_argument("--record", action="store_true", help="write the figures of this Python into record.json")
    what.add_argument("--profile", action="store_true", help="Python functions by time, without valgrind")
    parser.add_argument("--why", action="store_true", help="C functions by instructions; keeps callgrind's output")
    return parser.parse_args()


def _needs(missing: list[str]) -> str:
    if sys.platform != "linux":
        return "instructions are counted on Linux only"
    return f"{' and '.join(missing)} not found. On Debian and Ubuntu: apt-get install valgrind"


def _count(chosen: list[Workload], options: argparse.Namespace) -> int:
    keep = options.keep or (ROOT / "outputs" / "instructions" if options.why else None)
    found: dict[str, int] = {}
    for workload in chosen:
        out = None if keep is None else _kept(keep, f"{workload.name}.callgrind")
        counted = count(workload, out)
        found[workload.name] = round(counted.per_page)
        print(f"{workload.name:6} {counted.per_page:12,.0f} instructions a page  ({counted.seconds:.0f} s)", flush=True)
        if options.why and out is not None:
            print(f"\n{why.functions(out, workload.pages)}\n\n{out}: callgrind_annotate and kcachegrind read it\n")
    if options.record:
        record.write(found)
        print(f"recorded for Python {record.PYTHON}")
    if options.check:
        verdict = record.check(found, COMMAND)
        print("\n".join(verdict.lines), file=sys.stderr if verdict.failed else sys.stdout)
        return 1 if verdict.failed else 0
    return 0


def _profile(chosen: list[Workload], keep: Path | None) -> int:
    for workload in chosen:
        with why.file_for(keep, f"{workload.name}.profile") as out:
            profile(workload, out)
            print(f"{workload.name}\n\n{why.python_functions(out, workload.pages)}\n")
    return 0


def _kept(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve() / name


if __name__ == "__main__":
    sys.exit(main())
