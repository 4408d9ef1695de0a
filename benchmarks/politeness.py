"""Whether a crawl keeps its manners, and whether it uses what they leave: from the journals of the hosts it visits.

    python benchmarks/politeness.py [--quick] [--only gaps,kill,...] [--seed N] [--name NAME]

The hosts are addresses of 127/8, each with a script (`politeness_site.py`), served and written down by the benchmark's
own process; the crawls are `crawler run` in processes of their own, on disk, with robots.txt. Nothing that the crawler
says of itself counts, but for its CPU time.

    gaps        links, redirects, inline fetches, files, Crawl-delay, Retry-After, errors: the gaps between requests,
                requests at a time, requests where a host had asked for none, robots.txt once, each page once; with a
                delay that stays, then with the delay that follows the host (politeness_journal.py says how)
    kill        the same with SIGKILLs, the same command each time
    efficiency  pages over those that politeness allows, for hosts that answer in 0.1 to 0.3 s
    retries     a site that fails three requests in ten
    outage      hosts that fail for ten minutes, without the wire, in the time of a fake clock (politeness_outage.py)
    model       the frontier alone, without the wire and in a time of its own: 1,000 hosts, and 800 beside 200 that
                take 5 s to answer (politeness_model.py)
    many        the same for 10,000 hosts: memory, CPU, who waits

Writes `benchmarks/results/politeness.json` and `.md`; not with `--quick`, which is tiny and fails only for what does
not depend on the machine. Exit code 1 where a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import politeness_journal as journal
import politeness_report as report
from machine import ROOT, Failed, describe, machine, versions
from politeness_job import Job
from politeness_journal import Check
from politeness_site import KINDS, Script, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SECTIONS = ("gaps", "kill", "efficiency", "retries", "outage", "model", "many")
RESULTS = ROOT / "benchmarks" / "results"
STEADY = {"politeness.jitter": 0, "politeness.adaptive": "false", "retry.times": 10, "retry.max_seconds": 4}
"""The delay is what the setting says; retries are many and soon, so that a site with errors does not take minutes."""
HASTY = {"retry.base_seconds": 0.1, "retry.max_seconds": 0.2}
CHILD_SECONDS = 180
"""A simulation that takes longer is given up."""
CROWD = 256
"""Requests in flight where hosts, not the crawl, are to be the limit."""


class Section(NamedTuple):
    name: str
    checks: list[Check]
    words: list[str]
    """What went wrong where, a line each."""
    figures: dict[str, Any]
    seconds: float
    load: float
    """Processes of the machine that wanted to run, over the last minute, at the end."""


class Bench(NamedTuple):
    home: Path
    seed: str
    quick: bool
    checks: list[Check]
    words: list[str]
    figures: dict[str, Any]

    def check(self, what: str, found: str, target: str = "", ok: bool = True) -> None:
        self.checks.append(Check(what, found, target, ok))

    def size(self, usual: Any, quick: Any) -> Any:
        return quick if self.quick else usual


def main() -> int:
    options = parse()
    print(machine(), file=sys.stderr)
    sections = []
    try:
        for name in options.only:
            sections.append(measure(name, options))
            print(report.table([sections[-1]._asdict()]), flush=True)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    if not options.quick:
        save(sections, options)
    return 0 if all(check.ok for section in sections for check in section.checks) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def some(text: str) -> list[str]:
        names = text.split(",")
        if strange := set(names) - set(SECTIONS):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(strange))}: not of {', '.join(SECTIONS)}")
        return names

    seed = str(time.time_ns() % 10**9)
    parser.add_argument("--only", type=some, default=list(SECTIONS), metavar="A,B", help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written: does it work?")
    parser.add_argument("--seed", default=seed, metavar="N", help="of the hosts' choices (default: new)")
    parser.add_argument("--name", default="politeness", metavar="NAME", help="of the results (default: politeness)")
    return parser.parse_args()


def measure(name: str, options: argparse.Namespace) -> Section:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="politeness-") as home:
        bench = Bench(Path(home), options.seed, options.quick, [], [], {})
        run(RUNS[name](bench))
    seconds = round(time.monotonic() - began, 1)
    return Section(name, bench.checks, bench.words, bench.figures, seconds, os.getloadavg()[0])


def run(section: Any) -> None:
    """With uvloop where it is, as it makes the hosts cheaper."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(section)


def save(sections: Sequence[Section], options: argparse.Namespace) -> None:
    """Sections that were not run now keep what an earlier run found."""
    path = RESULTS / f"{options.name}.json"
    kept = json.loads(path.read_text())["sections"] if path.exists() else {}
    date = dt.datetime.now().astimezone().date().isoformat()
    for section in sections:
        found = {**section._asdict(), "checks": [check._asdict() for check in section.checks]}
        kept[section.name] = {**found, "date": date, "seed": options.seed}
    ordered = {name: kept[name] for name in SECTIONS if name in kept}
    results = {"machine": describe(), "versions": versions(), "sections": ordered}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(report.page(results), encoding="utf-8")
    print(f"written: benchmarks/results/{options.name}.json, .md")


# -- manners ----------------------------------------------------------------------------------------------------------


async def gaps(bench: Bench) -> None:
    each = bench.size(5, 1)
    pages, wait, delay = bench.size((20, 3, 0.2), (7, 1, 0.05))
    scripts = [Script(kind, pages, crawl_delay=2 * delay, wait=wait) for kind in KINDS for _ in range(each)]
    settings = {"politeness.delay_seconds": delay, **STEADY, **bench.size({}, HASTY)}
    async with Site(scripts, bench.seed) as site:
        job = await crawl(bench, "steady", site, settings)
        judge_gaps(bench, "steady", site, delay)
        judge_rest(bench, site, job)
    if not bench.quick:
        await follow(bench)


async def follow(bench: Bench) -> None:
    """Everything as it is by default: the delay follows the hosts, down to a tenth."""
    lively = [Script(kind, 130, (0.01, 0.03), crawl_delay=0.2) for kind in KINDS if kind != "errors" for _ in range(2)]
    async with Site([*lively, Script("errors", 20, (0.01, 0.03))], bench.seed) as site:
        job = await crawl(bench, "default", site, {"retry.times": 10})
        judge_gaps(bench, "default settings", site, 0.05)
        judge_rest(bench, site, job)


def judge_gaps(bench: Bench, name: str, site: Site, delay: float) -> None:
    def delay_of(script: Script) -> float:
        return max(delay, script.crawl_delay) if script.kind == "crawl-delay" else delay

    found = journal.gaps(site, delay_of)
    bench.figures[name] = {**found._asdict(), "delay": delay, "hosts": len(site.scripts)}
    about = f"{name}: {len(site.scripts)} hosts, {found.count} gaps, delay {delay * 1000:.0f} ms"
    least = f"least {found.least:.3f} of the delay, {found.shortest * 1000:.1f} ms"
    said = f"{found.short} too short; {found.slightly} within 5 ms, {found.stalled} may be the journal's; {least}"
    bench.check(about, said, "0", bench.quick or not found.short)
    if found.across:
        bench.check("gaps over a kill", f"{found.across}, least {found.least_across * 1000:.0f} ms", "as the others")
    bench.words.extend(f"{name}: {words}" for words in found.words)


def judge_rest(bench: Bench, site: Site, job: Job) -> None:
    most, where = journal.concurrency(site)
    bench.check("requests at one host at a time", f"{most} ({where})", "<= 2", most <= 2)
    asked = journal.windows(site)
    about = f"requests in {asked.count} pauses that hosts asked for"
    said = (
        f"{asked.inside}, {asked.on_the_wire} on the wire; the first after them after {asked.least_after * 1000:.0f} ms"
    )
    if site.journal.deaths:
        about += f", {asked.over_a_kill} with a kill inside"
        said += f"; {asked.uncommitted} where a kill came before it could be kept"
    bench.check(about, said, "0", bench.quick or not asked.inside)
    more, lost, words = journal.robots(site)
    said = f"{len(site.scripts) - more} of {len(site.scripts)}" + (f", {lost} not kept before a kill" if lost else "")
    killed_quick = bench.quick and bool(site.journal.deaths)
    bench.check("hosts asked once for robots.txt", said, "all", more == lost or killed_quick)
    wanted, missing = journal.pages(site)
    bench.check("pages got", f"{wanted - len(missing)} of {wanted}", "all", not missing)
    again, twice = journal.repeats(site)
    said = f"{len(twice)}" + (f", {again} after a kill" if site.journal.deaths else "")
    bench.check("good answers got twice", said, "0", not twice)
    items = job.items()
    right = len(items) == len(set(items)) == wanted - sum(script.kind == "hops" for script in site.scripts) * hops(site)
    bench.check("items", f"{len(items)}, {len(items) - len(set(items))} twice", "each once", right)
    bench.words.extend([*asked.words, *words, *(f"not got: {path}" for path in missing), *twice])


def hops(site: Site) -> int:
    """Redirects of one host, which give no item of their own."""
    host = next(number for number, script in enumerate(site.scripts) if script.kind == "hops")
    return sum(path.startswith("/hop/") for path in site.paths(host))


async def kill(bench: Bench) -> None:
    each = bench.size(4, 1)
    scripts = [Script(kind, pages=bench.size(14, 6), wait=bench.size(5, 1)) for kind in KINDS for _ in range(each)]
    delay = bench.size(1.0, 0.05)
    scripts = [script._replace(crawl_delay=2 * delay) for script in scripts]
    rng = Random(f"kill {bench.seed}")
    settings = {"politeness.delay_seconds": delay, **STEADY, **bench.size({}, HASTY)}
    async with Site(scripts, bench.seed) as site:
        job = Job(bench.home / "kill", len(scripts), site.port, settings)
        points = [rng.randint(len(scripts) * 2, len(scripts) * 4) for _ in range(bench.size(3, 1))]
        if not bench.quick:
            points.append(rng.randint(5, 30))  # while robots.txt are fetched
            rng.shuffle(points)
        for point in points:
            process = await job.start(site.journal)
            if not await process.killed_after(point):
                raise Failed(f"kill: it ended before it was killed: {process.last_line()}")
        await finish(job, site, "kill")
        bench.check(f"SIGKILLs, after {', '.join(map(str, points))} requests", str(len(site.journal.deaths)))
        judge_gaps(bench, "killed", site, delay)
        judge_rest(bench, site, job)


async def crawl(bench: Bench, name: str, site: Site, settings: Mapping[str, Any], *, timed: bool = False) -> Job:
    """A whole one. Raises `Failed`."""
    job = Job(bench.home / name.replace(" ", "-"), len(site.scripts), site.port, settings)
    await finish(job, site, name, timed=timed)
    return job


async def finish(job: Job, site: Site, name: str, *, timed: bool = False) -> None:
    process = await job.start(site.journal, timed=timed)
    code = await process.ends()
    if code:
        raise Failed(f"{name}: the crawl ended with {code}: {process.last_line()}")


# -- efficiency, retries ----------------------------------------------------------------------------------------------


async def efficiency(bench: Bench) -> None:
    scripts = [Script("plain", bench.size(20, 5), (0.1, 0.3))] * bench.size(200, 10)
    delay = bench.size(2.0, 0.4)
    for places, jitter in ((2, 0.0), (2, 0.3), (1, 0.0))[: bench.size(3, 1)]:
        async with Site(scripts, bench.seed) as site:
            name = f"{places} places, jitter {jitter:g}"
            settings = {
                "politeness.delay_seconds": delay,
                "politeness.jitter": jitter,
                "politeness.adaptive": "false",
                "politeness.concurrency_per_host": places,
                "crawl.concurrency": CROWD,
            }
            job = await crawl(bench, name, site, settings, timed=True)
            found = journal.efficiency(site, delay * (1 + jitter / 2), places, delay)
            usage = job.usage()
        bench.figures[name] = {**found._asdict(), **usage}
        about = f"{len(scripts)} hosts, delay {delay:g} s, {name}"
        said = f"{found.spaced:.3f} from start to start (least: {found.slowest}), {found.issue:.3f} from end to start"
        bench.check(f"achieved / allowed, {about}", said, ">= 0.9", bench.quick or found.spaced >= 0.9)
        share = usage["frontier_seconds"] / usage["cpu_seconds"]
        said = f"{share:.1%} of {usage['cpu_seconds'] * 1000 / found.requests:.2f} ms a request"
        bench.check("scheduling's share of the crawl's CPU", said, "<= 10 %", bench.quick or share <= 0.1)
        said = f"{usage['waited_seconds'] / found.seconds:.0%} of {found.seconds:.0f} s"
        bench.check("time for which the crawl was ready and had no CPU", said)


async def retries(bench: Bench) -> None:
    scripts = [Script("errors", bench.size(50, 10), (0.02, 0.1))] * bench.size(10, 2)
    delay = bench.size(0.1, 0.05)
    settings = {"politeness.delay_seconds": delay, "retry.times": 10, **bench.size({}, HASTY)}
    async with Site(scripts, bench.seed) as site:
        await crawl(bench, "retries", site, settings)
        wanted, missing = journal.pages(site)
        each = journal.requests_a_page(site)
        seconds = site.journal.hits[-1].arrived - site.journal.hits[0].arrived
    bench.figures["retries"] = {"pages": wanted, "missing": missing, "requests_a_page": each, "seconds": seconds}
    bench.check(f"pages got of {len(scripts)} hosts that fail 30 % of requests", f"{wanted - len(missing)} of {wanted}",
                "all", not missing)  # fmt: skip
    bench.check("requests a page, robots.txt left out", f"{each:.2f}", "<= 1.6", bench.quick or each <= 1.6)
    bench.words.extend(f"not got: {path}" for path in missing)


async def outage(bench: Bench) -> None:
    ways = {"503": (False, {}), "refused": (True, {}), "503, retry.times 10": (False, {"retry": {"times": 10}})}
    pages = bench.size(300, 60)
    for name, (refuses, settings) in ways.items():
        found = child("politeness_outage.py", {"settings": settings, "refuses": refuses, "pages": pages})
        bench.figures[name] = found
        about = f"{name}: lost of {found['wanted']} pages of 3 hosts that are down for 600 s"
        bench.check(about, str(found["lost"]), "0", bench.quick or not found["lost"])
        during = sum(found["during"].values())
        bench.check("requests during that, and in all", f"{during}, {found['requests']}")
        if found["lost"]:
            bench.words.append(f"{name}: {found['failures']}, at most {found['most_tries']} requests for one page")
        if bench.quick:
            break


# -- the frontier alone -----------------------------------------------------------------------------------------------


async def model(bench: Bench) -> None:
    hosts = bench.size(1000, 50)
    for adaptive in (False, True):
        found = child("politeness_model.py", {"hosts": hosts, "adaptive": adaptive, "delay": 1, "seed": bench.seed})
        bench.figures[f"{hosts} hosts, {adaptive=}"] = found
        about = f"{hosts} simulated hosts of 20 pages, {delays(adaptive)}: achieved / allowed"
        bench.check(about, f"{found['efficiency']:.3f}", ">= 0.95", found["efficiency"] >= 0.95)
    fairness(bench)


def delays(adaptive: bool) -> str:
    return "a delay that follows" if adaptive else "a delay that stays"


def fairness(bench: Bench) -> None:
    quick, slow = bench.size((800, 200), (40, 10))
    seconds = bench.size({"seconds": 60, "warm_up": 40}, {"seconds": 20, "warm_up": 15})
    for concurrency in bench.size((64, 256, 1024), (64,)):
        for adaptive in (False, True):
            load = {"pages": 0, "concurrency": concurrency, "adaptive": adaptive, "seed": bench.seed, **seconds}
            alone = child("politeness_model.py", {"hosts": quick, **load})
            both = child("politeness_model.py", {"hosts": quick + slow, "slow": slow, **load})
            bench.figures[f"{concurrency}, {adaptive=}"] = {"alone": alone, "both": both}
            ratio = both["quick_pages"] / alone["quick_pages"]
            rates = [found["quick_pages"] / found["seconds"] for found in (both, alone)]
            about = f"{quick} of {quick + slow} hosts beside {slow} of 5 s, {concurrency} in flight, {delays(adaptive)}"
            said = f"{ratio:.3f} of their rate alone ({rates[0]:.0f} of {rates[1]:.0f} pages/s)"
            bench.check(about, said, ">= 0.9", bench.quick or ratio >= 0.9)
            judge_meeting(bench, quick, alone, both)
            judge_waits(bench, quick, both, enough=concurrency >= 1024)


def judge_meeting(bench: Bench, quick: int, alone: dict[str, Any], both: dict[str, Any]) -> None:
    """Slow hosts may keep a crawl from the others' first pages for three times as long as it takes anyway, or 10 s."""
    most = max(3 * alone["last_met"], 10.0)
    ok = both["met"] == quick and both["last_met"] <= most
    until = f"{both['last_met']:.1f} s" if both["met"] == quick else f"only {both['met']} within the minute"
    found = f"{until}; alone {alone['last_met']:.1f} s"
    bench.check("until each of them had its first request", found, f"<= {most:.0f} s", bench.quick or ok)


def judge_waits(bench: Bench, quick: int, both: dict[str, Any], *, enough: bool) -> None:
    """How long hosts waited; where there is room for all, never more than three times what it would be ideally."""
    longest = [f"{wait['times']:.1f} ({wait['waited']:.1f} s)" for wait in (both["quick_wait"], both["slow_wait"])]
    mean = both["seconds"] * quick / max(both["quick_pages"], 1)
    said = f"{longest[0]}, of the slow {longest[1]}; the quick ones' mean is {mean:.2f} s"
    most = max(both["quick_wait"]["times"], both["slow_wait"]["times"])
    bench.check(
        "longest wait between two starts, over the ideal", said, "<= 3" if enough else "", not enough or most <= 3
    )


async def many(bench: Bench) -> None:
    hosts = bench.size(10_000, 200)
    for timed, name in ((True, "allocated by Python"), (False, "anonymous memory")):
        found = child("politeness_model.py", {"memory": True, "hosts": hosts, "delay": 1, "timed": timed})
        bench.figures[name] = found
        fits = found["asked"] == hosts and (bench.quick or found["bytes"] <= 4096)
        bench.check(f"{hosts} hosts with 20 pages each: {name}", f"{found['bytes']:.0f} bytes a host", "<= 4096", fits)
    load = {"delay": 1, "adaptive": False, "timed": True, "seed": bench.seed}
    for number in bench.size((100, 1000, 4000, 10_000), (50, 100)):
        name = f"{number} hosts, 2 pages each, 64 in flight"
        options = {**load, "hosts": number, "pages": 2, "concurrency": 64}
        found = bench.figures[name] = child("politeness_model.py", options)
        judge_cpu(bench, name, found)
    for concurrency in (bench.size(4096, 64), bench.size(128, 16)):
        name = f"{hosts} hosts, 20 pages each, {concurrency} in flight, on disk"
        options = {**load, "hosts": hosts, "concurrency": concurrency, "on_disk": True}
        found = bench.figures[name] = child("politeness_model.py", options)
        judge_cpu(bench, name, found)
        if found:
            judge_many(bench, hosts, found, enough=concurrency >= hosts * 0.2)


def judge_cpu(bench: Bench, name: str, found: dict[str, Any]) -> None:
    if not found:
        bench.check(f"{name}: CPU of scheduling", f"not done within {CHILD_SECONDS} s", "<= 100 us", ok=False)
        return
    said = f"{found['cpu_us']:.0f} us a page, {found['cpu_us'] / 1000:.1%} of 1 ms; epochs {found['epoch_us']:.0f} us"
    bench.check(f"{name}: CPU of scheduling", said, "<= 100 us", bench.quick or found["cpu_us"] <= 100)


def judge_many(bench: Bench, hosts: int, found: dict[str, Any], *, enough: bool) -> None:
    """Without room for all, hosts share what there is: ideally each has every so many seconds a start."""
    bench.check("pages got", str(found["pages"]), str(hosts * 20), found["pages"] == hosts * 20)
    wait = found["quick_wait"]
    ideal = wait["ideal"] if enough else found["seconds"] / 20
    said = f"{wait['waited']:.1f} s, {wait['waited'] / ideal:.2f} of the ideal"
    bench.check("longest wait between two starts", said, "<= 3", wait["waited"] <= 3 * ideal)
    bench.check("hosts in memory at the end", str(found["hosts_left"]), "0", not found["hosts_left"])


def child(script: str, options: dict[str, Any]) -> dict[str, Any]:
    """What it prints, in a process of its own; nothing where it takes too long. Raises `Failed`."""
    import subprocess

    command = [sys.executable, str(ROOT / "benchmarks" / script), json.dumps(options)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=CHILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {}
    if done.returncode:
        raise Failed(f"{script} {options}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


RUNS = {
    "gaps": gaps,
    "kill": kill,
    "efficiency": efficiency,
    "retries": retries,
    "outage": outage,
    "model": model,
    "many": many,
}

if __name__ == "__main__":
    sys.exit(main())
