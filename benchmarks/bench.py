"""What a crawl costs: this crawler beside hand-written loops and other frameworks, on the same sites, in turns.

    python benchmarks/bench.py [--only a,c] [--rounds 3] [--quick] [--contestants ours,plain] [--concurrency 64]

nginx serves each workload on loopback. After one warm-up round that is not counted, the contestants take turns, A B C
D E A B C D E ..., so that whatever else the machine does falls on all of them. CPU seconds (user + system, of the
child alone) are the figure; wall time and peak memory stand beside it. Scrapy and Crawlee live in a virtual environment
of their own (`peers.txt`) and take part in the first `--peer-rounds` rounds. The results are written to
`benchmarks/results/NAME.json`, `.md` and, where matplotlib is installed, `.svg`; not with `--quick`, unless it is
given a `--name`.

Exit code 1 where a contestant did not bring home what it should (a faster crawl that found less is no faster crawl), 2
where something is missing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nginx
import report
from machine import ROOT, Failed, describe, machine, peer_versions, versions
from workloads import CONTESTANTS, PEERS, Workload, workloads

if TYPE_CHECKING:
    from sites import Site

RESULTS = ROOT / "benchmarks" / "results"
LIMIT_SECONDS = 600
"""No run takes a tenth of it."""


class Plan(NamedTuple):
    contestants: list[str]
    rounds: int
    peer_rounds: int
    warm_up: bool
    concurrency: int
    peers_python: Path

    def turns(self) -> list[tuple[int, str]]:
        """(round, contestant); round 0 is the warm-up, which the other frameworks are spared."""
        return [
            (number, contestant)
            for number in range(0 if self.warm_up else 1, self.rounds + 1)
            for contestant in self.contestants
            if contestant not in PEERS or 1 <= number <= self.peer_rounds
        ]


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nginx and the child end too
    options = parse()
    chosen = [each for each in workloads(options.quick, options.folder) if each.letter in options.only]
    contestants = list(options.contestants or CONTESTANTS)
    lacking = [f"{each.letter}: {each.missing}" for each in chosen if each.missing]
    if not options.peers_python.exists():
        how = f"{options.peers_python} is not there: python3 -m venv {options.peers_python.parent.parent}, then "
        how += f"{options.peers_python} -m pip install -r benchmarks/peers.txt (or --peers-python PATH)"
        if options.contestants:
            lacking += [f"{contestant}: {how}" for contestant in contestants if contestant in PEERS]
        else:
            print(f"without scrapy and crawlee: {how}", file=sys.stderr)
            contestants = [contestant for contestant in contestants if contestant not in PEERS]
    if lacking:
        print("cannot run", *lacking, sep="\n  ", file=sys.stderr)
        return 2
    plan = Plan(
        contestants,
        1 if options.quick else options.rounds,
        options.peer_rounds,
        not options.quick,
        options.concurrency,
        options.peers_python.absolute(),
    )
    print(machine(), file=sys.stderr)
    results = measure(chosen, plan, options.quick)
    print(report.table(results))
    if options.results and (options.name or not options.quick):
        save(results, options.name or today())
    return 1 if any(run["problems"] for each in results["workloads"] for run in each["runs"]) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def some(of: tuple[str, ...]) -> Any:
        def read(text: str) -> list[str]:
            names = text.split(",")
            if strange := set(names) - set(of):
                raise argparse.ArgumentTypeError(f"{', '.join(sorted(strange))}: not of {', '.join(of)}")
            return [name for name in of if name in names]

        return read

    letters = tuple("abcdef")
    parser.add_argument("--only", type=some(letters), default=list(letters), metavar="a,c", help="these workloads")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="to measure (default 3)")
    parser.add_argument("--peer-rounds", type=int, default=1, metavar="N", help="of them with the peers (default 1)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, no warm-up: does it work?")
    parser.add_argument("--contestants", type=some(CONTESTANTS), metavar="A,B", help=f"of {','.join(CONTESTANTS)}")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="requests in flight (default 64)")
    parser.add_argument("--folder", type=Path, metavar="HTML", help="what a and f serve (default: Debian's docs)")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers/bin/python", metavar="PATH")
    parser.add_argument("--name", metavar="NAME", help="of the results (default: today's date)")
    parser.add_argument("--no-results", dest="results", action="store_false", help="write none")
    return parser.parse_args()


# -- running --------------------------------------------------------------------------------------------------------


def measure(chosen: list[Workload], plan: Plan, quick: bool) -> dict[str, Any]:
    """What `report.table` shows and the JSON file holds."""
    peers = peer_versions(plan.peers_python) if set(plan.contestants) & set(PEERS) else {}
    return {
        "date": today(),
        "machine": describe(),
        "versions": {**versions(), "nginx": nginx.version()},
        "peer_versions": peers,
        "concurrency": plan.concurrency,
        "rounds": plan.rounds,
        "peer_rounds": plan.peer_rounds,
        "quick": quick,
        "workloads": [measure_one(each, plan) for each in chosen],
    }


def measure_one(workload: Workload, plan: Plan) -> dict[str, Any]:
    print(f"{workload.letter}: {workload.title}", file=sys.stderr)
    runs = []
    with workload.open() as site:
        for number, contestant in plan.turns():
            run = {"round": number, "contestant": contestant, **take_turn(workload, contestant, site, plan)}
            show = "warm-up" if number == 0 else f"{number} of {plan.rounds}"
            cost = f"{run['cpu_seconds']:.2f} s CPU, {run['wall_seconds']:.2f} s" if run["cpu_seconds"] else "failed"
            print(f"  {show}: {contestant} {cost}", *run["problems"], sep="\n    ", file=sys.stderr)
            if number or run["problems"]:
                runs.append(run)
        units = workload.units(site)
    return {
        "letter": workload.letter,
        "title": workload.title,
        "unit": workload.unit,
        "units": units,
        "sizes": workload.sizes,
        "targets": workload.targets,
        "runs": runs,
    }


def take_turn(workload: Workload, contestant: str, site: Site, plan: Plan) -> dict[str, Any]:
    """One contestant's run: what it used, and what was wrong with what it did."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        (home / "files").mkdir()
        command = workload.command(contestant, site, home, plan.concurrency, plan.peers_python)
        try:
            used = launch(command, home)
            return {**used, "problems": workload.check(workload, contestant, site, home)}
        except (Failed, OSError, ValueError) as error:
            nothing = dict.fromkeys(("cpu_seconds", "wall_seconds", "peak_mib"))
            return {**nothing, "problems": [str(error)]}


def launch(command: list[str], home: Path) -> dict[str, float]:
    """CPU and wall seconds and peak MiB of a command that is run in `home`. Raises `Failed` where it fails."""
    # In a folder of its own, so that no settings file of the checkout is found; nothing goes through a proxy.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CRAWLER_") and not name.lower().endswith("_proxy")
    }
    environment["PYTHONPATH"] = str(ROOT)
    launcher = [sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "launch.py")]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [*launcher, *command],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
        try:
            told, _ = child.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done within {LIMIT_SECONDS} s: {' '.join(command)}") from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        said.seek(0)
        tail = said.read()[-2000:].decode(errors="replace").strip()
    used = json.loads(told) if told else {"exit_code": "unknown"}
    if (code := used.pop("exit_code")) != 0:
        raise Failed(f"exit code {code} from: {' '.join(command)}\n{tail}")
    return used


def today() -> str:
    return dt.datetime.now().astimezone().date().isoformat()


def save(results: dict[str, Any], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(report.page(results, name), encoding="utf-8")
    drawn = report.plot(results, RESULTS / f"{name}.svg")
    print(f"written: benchmarks/results/{name}.json, .md{', .svg' if drawn else ' (no .svg without matplotlib)'}")


if __name__ == "__main__":
    sys.exit(main())
