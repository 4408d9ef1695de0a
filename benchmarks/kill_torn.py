"""`kill.py --only torn`: what becomes of a killed job whose newest bytes are damaged, as a power failure leaves them.

Some crawls are killed in their middle, at different moments. Copies of their folders are damaged, each in one way or
two, and the same command runs in each copy:

- the last 1 to 8192 bytes of one output are cut off, zeroed, or flipped;
- one of LMDB's two meta pages is, from some offset on, zeroed, random, or what the other meta page has there.

A copy is *exact* where the command ends with 0 and every output holds every item once; *detected* where it ends with 2
or 69 and says what is damaged. Anything else is wrong, and nothing is worse than a 0 with wrong outputs. A copy in
which damage was detected gets its files back, and has to be exact then: what says "restore it" must mean it.

An epoch of these crawls is longer than the damage, so outputs that grow at their end have to be exact. The end of a
SQLite file mostly holds its newest rows, and then it heals; but old pages may have come to be there, so detection is
enough.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from kill_job import HUNG, Bench, Check, Job, Process
from kill_site import Site
from machine import Failed

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

__all__ = ["site_to_tear", "torn"]

_PAGES = 400
_NOISE = 150
_LATENCY = (0.02, 0.08)  # 16 in flight: some 300 pages a second, so that a killed crawl has had several epochs
_META_BYTES = 4096
_AT_ONCE = 2


class Ending(Enum):
    EXACT = "opened and exact"
    DETECTED = "detected"
    SILENT = "silently wrong"
    FAILED = "failed without a word"


class Base(NamedTuple):
    """A killed crawl, and what an undamaged copy of it still fetches that the killed process had asked for."""

    folder: Path
    asked: frozenset[int]
    again: int


class Damage(NamedTuple):
    words: str
    file: str
    """Within the folder."""
    named: tuple[str, ...]
    """One of these is in a message that says what is damaged."""
    is_newest: bool
    """What is damaged was written last."""


class Outcome(NamedTuple):
    ending: Ending
    words: str
    again: int
    damages: list[Damage]
    restored: bool | None = None
    """Of damage that was detected: whether the command was exact with the files restored."""

    @property
    def is_good(self) -> bool:
        if self.ending is Ending.DETECTED:
            return bool(self.restored) and not all(damage.is_newest for damage in self.damages)
        return self.ending is Ending.EXACT


def site_to_tear(seed: object) -> Site:
    return Site(_PAGES, seed, noise=_NOISE)


async def torn(bench: Bench, copies: int, bases: int) -> tuple[list[Check], list[str]]:
    made = [await _base(bench, number) for number in range(bases)]
    free = asyncio.Semaphore(_AT_ONCE)
    outcomes: list[Outcome] = []

    async def one(number: int) -> None:
        async with free:
            outcomes.append(await _copy(bench, made[number % bases], number))
            outcome = outcomes[-1]
            print(f"  torn {len(outcomes)} of {copies}: {outcome.ending.value}, {outcome.words}", file=sys.stderr)

    async with asyncio.TaskGroup() as group:
        for number in range(copies):
            group.create_task(one(number))
    return _checks(outcomes), [outcome.words for outcome in outcomes if outcome.ending is not Ending.EXACT]


def _checks(outcomes: list[Outcome]) -> list[Check]:
    counted = Counter(outcome.ending for outcome in outcomes)
    good = sum(outcome.is_good for outcome in outcomes)
    again = [outcome.again for outcome in outcomes if outcome.ending is Ending.EXACT] or [0]
    unrestored = sum(outcome.restored is False for outcome in outcomes)
    total = len(outcomes)
    words = f"{counted[Ending.EXACT]} of {total}, {counted[Ending.DETECTED]} detected"
    checks = [
        Check("opened and exact", words, "all, but for old data", good == total),
        Check("SILENTLY WRONG", str(counted[Ending.SILENT]), "0", not counted[Ending.SILENT]),
        Check("failed without saying what", str(counted[Ending.FAILED]), "0", not counted[Ending.FAILED]),
        Check("detected, not exact when restored", str(unrestored), "0", not unrestored),
        Check("fetched beside an undamaged copy", f"max {max(again)}, mean {statistics.fmean(again):.1f}", "", True),
    ]
    for file in sorted({damage.file for outcome in outcomes for damage in outcome.damages}):
        those = [outcome.ending for outcome in outcomes if file in {damage.file for damage in outcome.damages}]
        words = f"{those.count(Ending.EXACT)} exact, {those.count(Ending.DETECTED)} detected, of {len(those)}"
        checks.append(Check(f"  with damage to {file}", words, "", True))
    return checks


# -- killed crawls and their copies -----------------------------------------------------------------------------------


async def _base(bench: Bench, number: int) -> Base:
    name = f"base-{number + 1}"
    pages = len(bench.site.items)
    job = bench.job(name)
    job.journal.latency = _LATENCY
    process = await job.start()
    await process.has_asked(bench.rng(name).randint(pages // 4, pages * 3 // 4))
    if not await process.killed():
        raise Failed(f"the crawl of {name} had ended before it was to be killed:\n{process.said()}")
    asked = frozenset(job.journal.numbers())
    control, last = await _run_copy(bench, job.folder, f"{name}-whole", None)
    if await last.ends() or (found := control.faults()).any:
        raise Failed(f"not even an undamaged copy of {name} is exact:\n{last.said()}\n{found.words}")
    again = len(control.journal.numbers().keys() & asked)
    shutil.rmtree(control.folder)
    return Base(job.folder, asked, again)


async def _copy(bench: Bench, base: Base, number: int) -> Outcome:
    name = f"torn-{number + 1}"
    damages: list[Damage] = []
    job, process = await _run_copy(bench, base.folder, name, damages)
    ending, words = _judge(job, process, await process.ends(), damages)
    again = len(job.journal.numbers().keys() & base.asked) - base.again
    restored = None
    if ending is Ending.DETECTED:
        for damage in damages:
            shutil.copyfile(base.folder / damage.file, job.folder / damage.file)
        process = await job.start()
        after, more = _judge(job, process, await process.ends(), damages)
        restored = after is Ending.EXACT
        anew = len(job.journal.numbers().keys() & base.asked) - base.again
        words += f"; restored: {more}, {anew} pages more than an undamaged copy"
    described = f"{name} of {base.folder.name} ({'; '.join(damage.words for damage in damages)}): {words}"
    outcome = Outcome(ending, described, again, damages, restored)
    bench.done_with(job, not outcome.is_good)
    return outcome


async def _run_copy(bench: Bench, folder: Path, name: str, damages: list[Damage] | None) -> tuple[Job, Process]:
    """The command in a copy of the folder; with a list, damaged before, and how is put there."""
    copy = bench.home / name
    await asyncio.to_thread(shutil.copytree, folder, copy)
    job = bench.job(name, folder=copy)
    if damages is not None:
        rng = bench.rng(name)
        kind = rng.choice(("output", "meta", "both"))
        if kind != "meta":
            damages.append(_tear_output(rng, copy, job.outputs))
        if kind != "output":
            damages.append(_tear_meta(rng, copy))
    return job, await job.start()


def _judge(job: Job, process: Process, code: int, damages: list[Damage]) -> tuple[Ending, str]:
    said = process.said()
    last = process.last_line()
    if code == 0:
        try:
            found = job.faults()
        except (OSError, ValueError, LookupError) as error:
            return Ending.SILENT, f"exit 0, but {error!r}"
        return (Ending.SILENT, f"exit 0, but {found.words}") if found.any else (Ending.EXACT, "exact")
    if code in {2, 69} and "Traceback" not in said and any(name in said for damage in damages for name in damage.named):
        return Ending.DETECTED, f"exit {code}: {last}"
    return Ending.FAILED, "it hung" if code == HUNG else f"exit {code}: {last}"


# -- damage -----------------------------------------------------------------------------------------------------------


def _tear_output(rng: Random, folder: Path, outputs: list[str]) -> Damage:
    """The last bytes of an output that has any."""
    name = rng.choice([output for output in outputs if (folder / output).stat().st_size])
    path = folder / name
    data = bytearray(path.read_bytes())
    count = rng.randint(1, min(8192, len(data)))
    kind = rng.choice(("cut", "zeroed", "flipped"))
    start = len(data) - count
    if kind == "cut":
        del data[start:]
    elif kind == "zeroed":
        data[start:] = bytes(count)
    else:
        data[start:] = bytes(byte ^ 0xFF for byte in data[start:])
    path.write_bytes(data)
    return Damage(f"the last {count} bytes of {name} {kind}", name, (name,), is_newest=not name.endswith(".db"))


def _tear_meta(rng: Random, folder: Path) -> Damage:
    """LMDB's pages 0 and 1 say where the two newest transactions are; their first 152 bytes mean something."""
    page = rng.randrange(2)
    offset = rng.randrange(200) if rng.random() < 0.8 else rng.randrange(_META_BYTES)
    kind = rng.choice(("zeroed", "randomised", "as the other"))
    name = "job/frontier/data.mdb"
    with (folder / name).open("r+b") as file:
        metas = file.read(2 * _META_BYTES)
        other = metas[(1 - page) * _META_BYTES :][:_META_BYTES]
        count = _META_BYTES - offset
        file.seek(page * _META_BYTES + offset)
        file.write({"zeroed": bytes(count), "randomised": rng.randbytes(count), "as the other": other[offset:]}[kind])
    return Damage(f"meta page {page} {kind} from byte {offset}", name, ("frontier",), is_newest=True)
