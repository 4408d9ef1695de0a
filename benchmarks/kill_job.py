"""One job of `kill.py`: a folder in which one command runs again and again, as a process each time, and what is in its
outputs."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import gzip
import io
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from kill_site import SPIDER, Item, Journal, Site
from machine import Failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["FORMATS", "HUNG", "SECONDS", "Bench", "Check", "Faults", "Job", "Process", "accepted_formats"]

ROOT = Path(__file__).resolve().parent.parent
FORMATS = ("jsonl", "csv", "json", "jsonl.gz", "jsonl.zst", "db")
"""Those whose outputs must be exact."""
REQUIRED = ("jsonl", "csv")
SECONDS = 180.0
"""A process that takes longer hangs."""
HUNG = -1000
"""The exit code of a process that hung and was killed for it."""


class Check(NamedTuple):
    what: str
    found: str
    target: str
    ok: bool


class Faults(NamedTuple):
    """What is wrong with an output, or with all of them."""

    lost: int = 0
    twice: int = 0
    torn: int = 0
    """Lines or rows that cannot be read, or files."""
    wrong: int = 0
    """Items that no page gave."""
    words: tuple[str, ...] = ()

    def plus(self, other: Faults) -> Faults:
        return Faults(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))  # type: ignore[operator]

    @property
    def any(self) -> bool:
        return self != Faults()


class Process:
    """One run of the command."""

    def __init__(self, process: asyncio.subprocess.Process, journal: Journal, said: Path) -> None:
        self._process = process
        self._journal = journal
        self._said = said
        self.began = time.monotonic()
        self.first = len(journal.hits)
        """Where its requests begin in the journal."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def has_asked(self, pages: int, seconds: float = SECONDS) -> bool:
        """Until it has asked for that many pages; False where it ended before, or took longer than that."""
        reached = asyncio.ensure_future(self._journal.reached(self.first + pages))
        ended = asyncio.ensure_future(self._process.wait())
        await asyncio.wait({reached, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if reached.done():
            return True
        reached.cancel()
        return False

    async def killed(self) -> bool:
        """SIGKILL; False where it had ended before."""
        if self.is_running:
            self._process.kill()
        return await self._process.wait() == -signal.SIGKILL

    def terminate(self) -> None:
        if self.is_running:
            self._process.terminate()

    async def ends(self, seconds: float = SECONDS) -> int:
        """Its exit code."""
        try:
            return await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            await self.killed()
            return HUNG

    def first_page_seconds(self) -> float | None:
        """From its start until its first page was asked for; None: it asked for none."""
        hits = self._journal.hits
        return hits[self.first].time - self.began if len(hits) > self.first else None

    def said(self) -> str:
        """Its standard error."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    def last_line(self) -> str:
        return " ".join(self.said().strip().splitlines()[-1:])


class Job:
    """`folder` is made where it is missing. `name` tells its requests from those of other jobs."""

    def __init__(
        self,
        folder: Path,
        site: Site,
        name: str,
        *,
        formats: Sequence[str],
        concurrency: int,
        options: Iterable[str] = (),
    ) -> None:
        self.folder = folder
        self.journal = site.journal(f"kill-benchmark/1 ({name})")
        self.outputs = [f"out.{format}" for format in formats]
        self._site = site
        self._name = name
        self._runs = 0
        self._command = [
            sys.executable,
            "-m",
            "crawler",
            "run",
            "spider_of_numbers.py",
            "--job",
            "job",
            "-a",
            f"site={site.url}",
        ]
        for output in self.outputs:
            self._command += ["-o", output]
        settings = {
            "crawl.concurrency": concurrency,
            "politeness.concurrency_per_host": concurrency,
            "politeness.delay_seconds": 0,
        }
        for key, value in settings.items():
            self._command += ["-s", f"{key}={value}"]
        self._command += options
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spider_of_numbers.py").write_text(SPIDER, encoding="utf-8")

    async def start(self, *options: str) -> Process:
        """The command once more."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling everything anew is no part of a resume
        environment |= {"PYTHONPATH": str(ROOT), "CRAWLER_HTTP__USER_AGENT": f"kill-benchmark/1 ({self._name})"}
        self._runs += 1
        said = self.folder / f"stderr.{self._runs}"
        with said.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(*self._command, *options),
                cwd=self.folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
            )
        return Process(process, self.journal, said)

    async def has_opened(self, process: Process, seconds: float = 10.0) -> None:
        """Until the job is that process's own, which is when its recovery begins, or it has ended, or that long."""
        lock = self.folder / "job" / "lock"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while process.is_running:
                    if lock.exists() and lock.read_bytes().strip() == b"%d" % process.pid:
                        return
                    await asyncio.sleep(0.002)

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "job" / "stats.json").read_bytes())
        return found

    def faults(self) -> Faults:
        """Of all outputs of a finished crawl, and of its statistics."""
        found = Faults()
        for output in self.outputs:
            found = found.plus(self._faults_of(output))
        stats = self.stats()
        pages = len(self._site.items)
        for name in ("items", "pages"):
            if stats[name] != pages:
                found = found.plus(Faults(wrong=1, words=(f"stats.json: {stats[name]} {name} instead of {pages}",)))
        if self.journal.strays:
            words = f"asked for {len(self.journal.strays)} pages that are not there: {self.journal.strays[:3]}"
            found = found.plus(Faults(wrong=1, words=(words,)))
        return found

    def _faults_of(self, output: str) -> Faults:
        try:
            items, torn = read(self.folder / output)
        except Exception as error:  # whatever a library says of a damaged file
            return Faults(torn=1, words=(f"{output}: {error!r}",))
        counted = Counter(items)
        expected = set(self._site.items)
        found = Faults(
            lost=len(expected - counted.keys()),
            twice=sum(count - 1 for count in counted.values()),
            torn=torn,
            wrong=len(counted.keys() - expected),
        )
        words = ", ".join(f"{count} {name}" for name, count in zip(found._fields[:4], found[:4], strict=True) if count)
        return found._replace(words=(f"{output}: {words}",)) if words else found


class Bench(NamedTuple):
    """What every section needs."""

    home: Path
    kept: Path | None
    site: Site
    formats: Sequence[str]
    concurrency: int
    seed: str

    def job(self, name: str, *options: str, folder: Path | None = None) -> Job:
        return Job(
            folder or self.home / name, self.site, name,
            formats=self.formats, concurrency=self.concurrency, options=options,
        )  # fmt: skip

    def rng(self, name: str) -> Random:
        return Random(f"{self.seed} {name}")

    def done_with(self, job: Job, faulty: bool) -> None:
        """Its folder makes room, or is kept for whoever wants to know why."""
        if faulty and self.kept is not None:
            shutil.copytree(job.folder, self.kept / job.folder.name, dirs_exist_ok=True)
        shutil.rmtree(job.folder)


async def accepted_formats(site: Site, folder: Path) -> list[str]:
    """The formats that this version writes: each is tried on one page. Raises `Failed` where that goes wrong."""
    accepted = []
    for format in FORMATS:
        job = Job(folder / format, site, f"trying {format}", formats=[format], concurrency=1)
        process = await job.start("-s", "crawl.page_limit=1")
        code = await process.ends()
        if code == 0:
            accepted.append(format)
        elif code == 2 and format not in REQUIRED:
            print(f"-o out.{format} is refused, so it is left out: {process.last_line()}")
        else:
            raise Failed(f"exit code {code} from a crawl of one page with -o out.{format}:\n{process.said()}")
    return accepted


# -- reading outputs --------------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[list[Item], int]:
    """The items of an output, and how many lines or rows of it cannot be read."""
    if path.suffix == ".db":
        return _read_database(path), 0
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = _unzstd(data)
    if path.suffix == ".json":
        return [_item(row) for row in json.loads(data)], 0
    return _read_csv(data) if path.suffix == ".csv" else _read_lines(data)


def _item(row: Any) -> Item:
    return Item(int(row["number"]), row["text"])


def _read_lines(data: bytes) -> tuple[list[Item], int]:
    *lines, rest = data.split(b"\n")
    items, torn = [], int(rest != b"")
    for line in lines:
        try:
            items.append(_item(json.loads(line)))
        except (ValueError, LookupError, TypeError):
            torn += 1
    return items, torn


def _read_csv(data: bytes) -> tuple[list[Item], int]:
    items, torn = [], int(not data.endswith(b"\n"))
    for row in csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True):
        try:
            if None in row or None in row.values():  # more or fewer cells than the header has
                raise ValueError
            items.append(_item(row))
        except (ValueError, LookupError, TypeError):
            torn += 1
    return items, torn


def _unzstd(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return bytes(zstd.decompress(data))


def _read_database(path: Path) -> list[Item]:
    """Of the one table that has a column `number`."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise ValueError("SQLite's integrity check fails")
        connection.row_factory = sqlite3.Row
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = {row["name"] for row in connection.execute(f'PRAGMA table_info("{table}")')}
            if {"number", "text"} <= columns:
                return [_item(row) for row in connection.execute(f'SELECT number, text FROM "{table}"')]
    finally:
        connection.close()
    raise ValueError("no table has the columns number and text")
