"""Killed at any moment: whether anything is lost, and whether anything is there twice.

    python benchmarks/kill.py [--kills 50] [--pages 2000] [--concurrency 16] [--only kill,term,recovery,torn]

Everything is done from outside: `crawler run` as a real process, a site on loopback that counts what it is asked for,
signals sent when it has been asked for a random number of pages. After each fault the same command runs again, and in
the end every output must hold exactly what an undisturbed crawl gives.

    kill      two SIGKILLs to a crawl, each 40 to 800 pages after the process began
    term      SIGTERM at 20 random points, while pages take no time, 0.1 s, 5 s, or never end
    recovery  a SIGKILL, then five more, each within half a second of the next process's start, or of its recovery's
    torn      copies of killed jobs with the end of an output or one of LMDB's meta pages damaged (see kill_torn.py)

Exit code 1 where a check fails. What happens when depends on the machine, so `--seed` repeats the choices, not the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kill_job import Bench, Check, Faults, Job, accepted_formats
from kill_site import Site
from machine import Failed, machine

if TYPE_CHECKING:
    from kill_job import Process

SECTIONS = ("kill", "term", "recovery", "torn")
EPOCH_PAGES = 500
"""The most pages that one epoch holds (docs/design.md), so the most that a kill undoes, apart from those in flight."""
RESUME_SECONDS = 2.0
DRAIN_SECONDS = 8.0
KILLS_IN_RECOVERY = 5
LATENCY = (0.0, 0.01)
_WORDS_SHOWN = 40


class Report(NamedTuple):
    section: str
    checks: list[Check]
    words: list[str]
    """What went wrong where, a line each."""
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="of `kill`, two to a crawl (default 50)")
    parser.add_argument("--terms", type=int, default=20, metavar="N", help="crawls of `term` (default 20)")
    parser.add_argument("--recoveries", type=int, default=10, metavar="N", help="crawls of `recovery` (default 10)")
    parser.add_argument("--copies", type=int, default=300, metavar="N", help="damaged copies of `torn` (default 300)")
    parser.add_argument("--bases", type=int, default=10, metavar="N", help="killed jobs they are made of (default 10)")
    parser.add_argument("--pages", type=int, default=2000, metavar="N", help="of the site (default 2000)")
    parser.add_argument("--concurrency", type=int, default=16, metavar="N", help="of the crawls (default 16)")
    parser.add_argument(
        "--seed", default=str(time.time_ns() % 10**9), metavar="N", help="of all choices (default: new)"
    )
    parser.add_argument("--only", default=",".join(SECTIONS), metavar="LIST", help="sections (default: all)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the folders of crawls that went wrong there")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    options = parser.parse_args()
    options.sections = options.only.split(",")
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    about = machine().rpartition(";")[0]
    print(about)
    print(f"seed {options.seed}, {options.pages} pages, concurrency {options.concurrency}")
    try:
        reports = asyncio.run(run(options))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    print(table(reports))
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(about, options, reports), indent=2, ensure_ascii=False) + "\n")
    return 0 if all(check.ok for report in reports for check in report.checks) else 1


async def run(options: argparse.Namespace) -> list[Report]:
    from kill_torn import site_to_tear, torn

    reports = []
    with tempfile.TemporaryDirectory(prefix="kill-") as home:
        async with Site(options.pages, options.seed) as site, site_to_tear(options.seed) as small:
            formats = await accepted_formats(site, Path(home, "formats"))
            print(f"outputs: {', '.join(formats)}")
            bench = Bench(Path(home), options.keep, site, formats, options.concurrency, options.seed)
            for section in options.sections:
                began = time.monotonic()
                if section == "kill":
                    checks, words = await kill(bench, options.kills)
                elif section == "term":
                    checks, words = await term(bench, options.terms)
                elif section == "recovery":
                    checks, words = await recovery(bench, options.recoveries)
                else:
                    checks, words = await torn(bench._replace(site=small), options.copies, options.bases)
                reports.append(Report(section, checks, words, time.monotonic() - began))
    return reports


class Tally:
    """What a section's crawls add up to."""

    def __init__(self, section: str, trials: int) -> None:
        self.faults = Faults()
        self.words: list[str] = []
        self.again: list[int] = []
        """Pages that each fault had fetched once more."""
        self.resumes: list[float] = []
        """Seconds from a process's start to its first page."""
        self.twice_in_one = 0
        """Pages that one process asked for twice."""
        self._section = section
        self._trials = trials

    def say(self, trial: int, words: str) -> None:
        print(f"  {self._section} {trial + 1} of {self._trials}: {words}", file=sys.stderr)

    async def finish(self, bench: Bench, job: Job, name: str, processes: list[Process]) -> None:
        """Run the command to its end, and look at everything."""
        last = await job.start()
        processes.append(last)
        self.judge(bench, job, name, processes, await last.ends())

    def judge(self, bench: Bench, job: Job, name: str, processes: list[Process], code: int) -> None:
        problems = [] if code == 0 else [f"the last run ended with {code}: {processes[-1].last_line()}"]
        try:
            found = job.faults()
        except (OSError, ValueError, LookupError) as error:
            found = Faults(wrong=1, words=(repr(error),))
        self.faults = self.faults.plus(found)
        problems += found.words
        self._count_requests(job, processes)
        self.words += [f"{name}: {problem}" for problem in problems]
        if code and not found.any:
            self.faults = self.faults.plus(Faults(wrong=1))
        bench.done_with(job, bool(problems))

    def _count_requests(self, job: Job, processes: list[Process]) -> None:
        ends = [process.first for process in processes[1:]] + [len(job.journal.hits)]
        before: set[int] = set()
        for number, (process, end) in enumerate(zip(processes, ends, strict=True)):
            asked = job.journal.numbers(process.first, end)
            self.twice_in_one += sum(count - 1 for count in asked.values())
            if number:
                self.again.append(len(asked.keys() & before))
                first = process.first_page_seconds()
                if first is not None and end > process.first:
                    self.resumes.append(first)
            before |= asked.keys()

    def exactness(self) -> list[Check]:
        names = ("items lost", "items twice", "torn lines", "otherwise wrong")
        counts = self.faults[:4]
        return [Check(name, str(count), "0", count == 0) for name, count in zip(names, counts, strict=True)]

    def requests(self, bench: Bench) -> list[Check]:
        bound = bench.concurrency + EPOCH_PAGES
        most, slowest = max(self.again, default=0), max(self.resumes, default=0.0)
        mean = statistics.fmean(self.again or [0])
        return [
            Check("fetched again per kill", f"max {most}, mean {mean:.1f}", f"<= {bound}", most <= bound),
            Check("fetched twice by one process", str(self.twice_in_one), "0", self.twice_in_one == 0),
            Check(
                "until the first page after a kill",
                f"max {slowest:.2f} s, median {statistics.median(self.resumes or [0]):.2f} s",
                f"<= {RESUME_SECONDS} s",
                bool(self.resumes) and slowest <= RESUME_SECONDS,
            ),
        ]


# -- the sections -----------------------------------------------------------------------------------------------------


async def kill(bench: Bench, kills: int) -> tuple[list[Check], list[str]]:
    tally = Tally("kill", kills // 2)
    killed = 0
    for trial in range(kills // 2):
        name = f"kill-{trial + 1}"
        rng = bench.rng(name)
        job = bench.job(name)
        job.journal.latency = LATENCY
        processes, points = [], []
        for _ in range(2):
            process = await job.start()
            processes.append(process)
            points.append(rng.randint(*_reach(bench, 2)))
            await process.has_asked(points[-1])
            if not await process.killed():
                tally.words.append(f"{name}: it ended before it was killed: {process.last_line()}")
                break
            killed += 1
        await tally.finish(bench, job, name, processes)
        tally.say(trial, f"killed after {' and '.join(map(str, points))} pages, again {tally.again[-2:]}")
    done = Check("SIGKILLs", str(killed), str(kills // 2 * 2), killed == kills // 2 * 2)
    return [done, *tally.exactness(), *tally.requests(bench)], tally.words


async def term(bench: Bench, terms: int) -> tuple[list[Check], list[str]]:
    latencies = {"at once": LATENCY, "0.1 s": (0.1, 0.1), "5 s": (5.0, 5.0), "endless": None}
    tally = Tally("term", terms)
    stopped = finished_again = 0
    slowest: dict[str, float] = {}
    most_after = 0
    for trial in range(terms):
        name, kind = f"term-{trial + 1}", list(latencies)[trial % len(latencies)]
        point = bench.rng(name).randint(*_reach(bench, 1))
        job = bench.job(name, "-s", f"crawl.drain_seconds={DRAIN_SECONDS}")
        job.journal.latency = LATENCY
        process = await job.start()
        await process.has_asked(point)
        if kind != "at once":
            job.journal.latency = latencies[kind]
            await process.has_asked(point + bench.concurrency, seconds=2.0)
        signalled, asked = time.monotonic(), len(job.journal.hits)
        process.terminate()
        code = await process.ends()
        took = time.monotonic() - signalled
        if code == 75:
            stopped += 1
        else:
            tally.words.append(
                f"{name} ({kind}): SIGTERM after {point} pages ended it with {code}: {process.last_line()}"
            )
        slowest[kind] = max(slowest.get(kind, 0.0), took)
        most_after = max(most_after, len(job.journal.hits) - asked)
        job.journal.latency = LATENCY
        await tally.finish(bench, job, name, [process])
        finished_again += _finished_and_asked_again(job)
        tally.say(trial, f"pages {kind}, after {point} pages, exit {code} within {took:.2f} s")
    took_words = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in slowest.items())
    bound = DRAIN_SECONDS + 5
    checks = [
        Check("exit code 75", str(stopped), str(terms), stopped == terms),
        Check("SIGTERM to exit", took_words, f"<= {bound:g} s", max(slowest.values(), default=0.0) <= bound),
        Check(
            "asked for after SIGTERM", f"max {most_after}", f"<= {bench.concurrency}", most_after <= bench.concurrency
        ),
        Check("finished pages fetched again", str(finished_again), "0", finished_again == 0),
        *tally.exactness(),
    ]
    return checks, tally.words


async def recovery(bench: Bench, trials: int) -> tuple[list[Check], list[str]]:
    tally = Tally("recovery", trials)
    kills = before_pages = ended = 0
    for trial in range(trials):
        name = f"recovery-{trial + 1}"
        rng = bench.rng(name)
        job = bench.job(name)
        job.journal.latency = LATENCY
        processes = [await job.start()]
        await processes[0].has_asked(rng.randint(*_reach(bench, 2)))
        await processes[0].killed()
        for _ in range(KILLS_IN_RECOVERY):
            process = await job.start()
            processes.append(process)
            if rng.random() < 0.7:
                await job.has_opened(process)
            await asyncio.sleep(rng.uniform(0, 0.5))
            if not await process.killed():
                break
            kills += 1
            before_pages += len(job.journal.hits) == process.first
        code = await processes[-1].ends()
        if code != -signal.SIGKILL:  # it ended before it could be killed; after a finish another run would begin anew
            tally.judge(bench, job, name, processes, code)
            ended += 1
        else:
            await tally.finish(bench, job, name, processes)
        tally.say(trial, f"{len(processes)} processes, again {tally.again[-len(processes) + 1 :]}")
    done = Check("SIGKILLs in recovery", f"{kills}, {before_pages} of them before a page", "> 0", kills > 0)
    if ended:
        tally.words.append(f"recovery: {ended} crawls ended before all their kills")
    return [done, *tally.exactness(), *tally.requests(bench)], tally.words


def _reach(bench: Bench, faults: int) -> tuple[int, int]:
    """Between which pages of a process a fault may come, so that some are left after all of them."""
    pages = len(bench.site.items)
    return min(40, pages // 10), min(800, pages * 4 // 5 // faults)


def _finished_and_asked_again(job: Job) -> int:
    finished: set[int] = set()
    again = 0
    for hit in job.journal.hits:
        again += hit.number in finished
        if hit.answered is not None:
            finished.add(hit.number)
    return again


# -- showing ----------------------------------------------------------------------------------------------------------


def table(reports: list[Report]) -> str:
    every = [check for report in reports for check in report.checks]
    name = max((len(check.what) for check in every), default=0)
    found = max((len(check.found) for check in every), default=0)
    rows = []
    for report in reports:
        rows.append(f"\n{report.section} ({report.seconds:.0f} s)")
        rows += [
            f"  {'ok ' if check.ok else 'NOT'}  {check.what:{name}}  {check.found:{found}}  {check.target}".rstrip()
            for check in report.checks
        ]
        rows += [f"       {words}" for words in report.words[:_WORDS_SHOWN]]
        if len(report.words) > _WORDS_SHOWN:
            rows.append(f"       and {len(report.words) - _WORDS_SHOWN} more")
    return "\n".join(rows)


def as_json(about: str, options: argparse.Namespace, reports: list[Report]) -> dict[str, object]:
    return {
        "machine": about,
        "seed": options.seed,
        "pages": options.pages,
        "concurrency": options.concurrency,
        "sections": {
            report.section: {
                "seconds": round(report.seconds, 1),
                "checks": [check._asdict() for check in report.checks],
                "words": report.words,
            }
            for report in reports
        },
    }


if __name__ == "__main__":
    sys.exit(main())
