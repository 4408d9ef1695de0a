"""A crawl that is killed, stopped or started twice: real processes, faults triggered by what the server saw."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import csv
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import msgspec
import pytest
from aiohttp import web

from crawler.testing import LocalSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parent.parent
PAGES = 240
SECONDS = 60
"""How long anything here may take on a busy machine before the test gives up."""

SPIDER = """
from crawler import Spider

class Numbers(Spider):
    name = "numbers"
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 6}}

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        for number in response.css("p::text").getall():
            yield {"number": int(number), "twice": 2 * int(number)}
        yield response.follow_all()
"""


class Numbers:
    """Pages that hold a number each, under an index; pages may be held back until somebody opens the gate."""

    def __init__(self, site: LocalSite) -> None:
        self.site = site
        self.url = site.url
        self._gate = asyncio.Event()
        self._gate.set()
        self._free = 0
        site.page("/", "".join(f'<a href="/{number}">{number}</a>' for number in range(1, PAGES)) + "<p>0</p>")
        site.route("*", self._page)

    def hold_after(self, pages: int) -> None:
        """Answer that many more pages, and hold back the others."""
        self._free = pages
        self._gate.clear()

    def open(self) -> None:
        self._gate.set()

    async def _page(self, request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)  # 6 at a time: at most 300 pages a second, so that some epochs end on the way
        self._free -= 1
        if self._free < 0:
            await self._gate.wait()
        return web.Response(text=f"<p>{request.path[1:]}</p>", content_type="text/html")

    def asked(self, since: int = 0) -> collections.Counter[str]:
        """How often each page was asked for, from that request of the journal on."""
        return collections.Counter(hit.path for hit in self.site.journal[since:] if hit.path != "/robots.txt")


class Crawl:
    """One process. Leaving it unfinished kills it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def says(self, text: str) -> None:
        """Until its standard error has that in a line."""
        assert self.process.stderr is not None
        while text not in self.said:
            line = await asyncio.wait_for(self.process.stderr.readline(), SECONDS)
            assert line, f"it ended without saying {text!r}:\n{self.said}"
            self.said += line.decode()

    async def has_asked(self, site: LocalSite, count: int) -> None:
        """Until the site has had that many requests."""
        reached, ended = asyncio.ensure_future(site.reached(count)), asyncio.ensure_future(self.process.wait())
        await asyncio.wait({reached, ended}, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not reached.done():
            reached.cancel()
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.ends()
            raise AssertionError(f"after {len(site.journal)} requests it asked no more:\n{self.said}")
        ended.cancel()

    async def ends(self) -> int:
        assert self.process.stderr is not None
        self.said += (await asyncio.wait_for(self.process.stderr.read(), SECONDS)).decode()
        return await asyncio.wait_for(self.process.wait(), SECONDS)

    async def killed(self) -> None:
        self.process.kill()
        assert await self.ends() == -signal.SIGKILL


class Job:
    """The folder in which the same command runs again and again."""

    def __init__(self, folder: Path, numbers: Numbers) -> None:
        self.folder = folder
        self.numbers = numbers
        (folder / "spider_of_numbers.py").write_text(SPIDER)

    @contextlib.asynccontextmanager
    async def crawl(self, *options: str) -> AsyncIterator[Crawl]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "crawler", "run", "spider_of_numbers.py", "-a", f"site={self.numbers.url}"),
            *("-o", "out.jsonl", "-o", "out.csv", "-o", "out.json", *options),
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield Crawl(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def committed(self, pages: int) -> None:
        """Until that many pages are in epochs that have ended, items and all. The crawl is held, so this comes, and
        nothing comes after it."""
        async with asyncio.timeout(SECONDS):
            while self._pages_committed() < pages:
                await asyncio.sleep(0.01)

    def _pages_committed(self) -> int:
        """As another process sees the frontier's file: the last transaction that ended."""
        with (
            contextlib.suppress(lmdb.Error),
            lmdb.open(str(self.folder / "jobs/numbers/frontier"), readonly=True, max_dbs=8, create=False) as frontier,
        ):
            values = frontier.open_db(b"values", create=False)
            with frontier.begin(db=values) as transaction:
                stats = transaction.get(b"stats")
                return 0 if stats is None else msgspec.msgpack.decode(stats)["pages"]
        return 0

    def lines(self) -> int:
        path = self.folder / "out.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def numbers_written(self) -> set[int]:
        return {json.loads(line)["number"] for line in (self.folder / "out.jsonl").read_text().splitlines()}

    def stats(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / "jobs/numbers/stats.json").read_text())
        return found

    def assert_complete(self) -> None:
        """Every item once, in every format, and no line torn."""
        expected = [{"number": number, "twice": 2 * number} for number in range(PAGES)]

        def in_order(items: list[dict[str, int]]) -> list[dict[str, int]]:
            return sorted(items, key=lambda item: item["number"])

        text = (self.folder / "out.jsonl").read_text()
        assert text.endswith("}\n")
        assert in_order([json.loads(line) for line in text.splitlines()]) == expected
        with open(self.folder / "out.csv", newline="") as file:
            rows = [{name: int(cell) for name, cell in row.items()} for row in csv.DictReader(file, strict=True)]
        assert in_order(rows) == expected
        assert in_order(json.loads((self.folder / "out.json").read_text())) == expected
        assert self.stats()["items"] == PAGES
        assert self.stats()["pages"] == PAGES
        assert self.stats()["reason"] == "finished"


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[Job]:
    async with LocalSite() as site:
        yield Job(tmp_path, Numbers(site))


async def test_killed_twice_in_full_run_a_crawl_gives_every_item_once_in_every_format(job: Job) -> None:
    async with job.crawl() as first:
        await first.has_asked(job.numbers.site, 120)
        await first.killed()
    assert 0 < job.lines() < PAGES, "it was killed with work done and work left"
    asked = len(job.numbers.site.journal)
    async with job.crawl() as second:
        await second.has_asked(job.numbers.site, asked + 60)
        await second.killed()
    assert "continuing the interrupted crawl" in second.said
    assert job.lines() < PAGES, "work was left when it was killed again"
    async with job.crawl() as third:
        assert await third.ends() == 0
    assert "continuing the interrupted crawl" in third.said
    job.assert_complete()


async def test_what_was_committed_before_a_kill_is_not_fetched_again(job: Job) -> None:
    job.numbers.hold_after(100)
    async with job.crawl() as first:
        await job.committed(101)  # the index is a page, too
        done = job.numbers_written()
        await first.killed()
    asked = len(job.numbers.site.journal)
    in_flight = sum(job.numbers.asked().values()) - 101
    assert in_flight > 0, "pages were held back when it was killed"
    job.numbers.open()
    async with job.crawl() as second:
        assert await second.ends() == 0
    again = {0 if path == "/" else int(path[1:]) for path in job.numbers.asked(since=asked)}
    assert not again & done
    assert max(job.numbers.asked().values()) == 2
    assert sum(job.numbers.asked().values()) == PAGES + in_flight
    job.assert_complete()


async def test_sigterm_lets_what_is_in_flight_finish_and_the_same_command_does_the_rest_once(job: Job) -> None:
    job.numbers.hold_after(60)
    async with job.crawl() as first:
        await job.committed(61)
        first.process.terminate()
        await first.says("SIGTERM: finishing what is in flight")
        job.numbers.open()
        assert await first.ends() == 75
    assert 61 < job.lines() < PAGES, "it finished what was in flight, and no more"
    assert job.lines() == sum(job.numbers.asked().values())
    assert job.stats()["reason"] == "interrupted"
    async with job.crawl() as second:
        assert await second.ends() == 0
    assert set(job.numbers.asked().values()) == {1}, "nothing was fetched twice"
    job.assert_complete()


async def test_a_drain_that_takes_too_long_gives_back_what_is_in_flight(job: Job) -> None:
    job.numbers.hold_after(30)
    async with job.crawl("-s", "crawl.drain_seconds=0.5") as first:
        await job.committed(31)
        first.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert await first.ends() == 75
        assert time.monotonic() - began < 10
    assert job.lines() == 31
    job.numbers.open()
    async with job.crawl() as second:
        assert await second.ends() == 0
    job.assert_complete()


async def test_a_second_sigint_stops_at_once_and_loses_nothing(job: Job) -> None:
    job.numbers.hold_after(60)
    async with job.crawl("-s", "crawl.drain_seconds=1000") as first:
        await job.committed(61)
        first.process.send_signal(signal.SIGINT)
        await first.says("SIGINT: finishing what is in flight; once more to stop at once")
        first.process.send_signal(signal.SIGINT)
        assert await first.ends() == 75
    assert "SIGINT: stopping at once" in first.said
    assert "Traceback" not in first.said
    assert job.lines() == 61
    job.numbers.open()
    async with job.crawl() as second:
        assert await second.ends() == 0
    job.assert_complete()


async def test_a_second_process_on_the_job_is_refused_and_told_which_process_has_it(job: Job) -> None:
    job.numbers.hold_after(20)
    async with job.crawl() as first:
        await job.committed(21)
        asked = len(job.numbers.site.journal)
        async with job.crawl() as second:
            assert await second.ends() == 2
        assert re.search(rf"in use by process {first.process.pid}\b", second.said)
        assert "Traceback" not in second.said
        assert len(job.numbers.site.journal) == asked
        job.numbers.open()
        assert await first.ends() == 0
    job.assert_complete()
