"""A crawl of numbered pages, run as a process, to be killed and run again; with every item checked afterwards."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import csv
import gzip
import itertools
import json
import signal
import sqlite3
import sys
from typing import TYPE_CHECKING

import forked
import lmdb
import msgspec
from aiohttp import web

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from crawler.testing import LocalSite

PAGES = 240
SECONDS = forked.SECONDS

SPIDER = """
from crawler import Spider
from crawler.errors import InvalidItem

class Picky:
    async def process_item(self, item, spider):
        if "refused" in item:
            raise InvalidItem("not this one")
        return item

class Numbers(Spider):
    name = "numbers"
    pipelines = [Picky]
    refuses: bool = False
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 6}}

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        for number in response.css("p::text").getall():
            yield {"number": int(number), "twice": 2 * int(number)}
            if self.refuses:
                yield {"refused": int(number)}
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
    """One process, which was forked, and began at once. Leaving it unfinished kills it."""

    def __init__(self, process: forked.Process) -> None:
        self.process = process

    @property
    def said(self) -> str:
        """On standard error."""
        return self.process.said

    async def has_asked(self, site: LocalSite, count: int) -> None:
        """Until the site has had that many requests."""
        reached, ended = asyncio.ensure_future(site.reached(count)), asyncio.ensure_future(self.process.ends())
        await asyncio.wait({reached, ended}, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not reached.done():
            reached.cancel()
            raise AssertionError(f"after {len(site.journal)} requests it asked no more:\n{self.said}")

    async def ends(self) -> int:
        return (await self.process.ends()).code

    async def killed(self) -> None:
        self.process.kill()
        assert await self.ends() == -signal.SIGKILL


class Job:
    """The folder in which the same command runs again and again."""

    outputs = ("out.jsonl", "out.csv", "out.json")
    refuses = False
    """Whether each page has another item, one that its pipeline refuses."""

    def __init__(self, folder: Path, numbers: Numbers) -> None:
        self.folder = folder
        self.numbers = numbers
        self.name = "jobs/numbers"
        (folder / "spider_of_numbers.py").write_text(SPIDER)

    @contextlib.asynccontextmanager
    async def crawl(self, *options: str, crash_at: str = "") -> AsyncIterator[Crawl]:
        outputs = itertools.chain(*(("-o", output) for output in self.outputs))
        command = ("run", "spider_of_numbers.py", "-a", f"site={self.numbers.url}", "-a", f"refuses={self.refuses}")
        command += ("--job", self.name, *outputs, *options)
        async with forked.start(self.folder, *command, crash_at=crash_at) as process:
            yield Crawl(process)

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
            lmdb.open(str(self.folder / self.name / "frontier"), readonly=True, max_dbs=16, create=False) as frontier,
        ):
            values = frontier.open_db(b"values", create=False)
            with frontier.begin(db=values) as transaction:
                stats = transaction.get(b"stats")
                return 0 if stats is None else msgspec.msgpack.decode(stats[4:])["pages"]
        return 0

    def lines(self) -> int:
        path = self.folder / "out.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def numbers_written(self) -> set[int]:
        return {json.loads(line)["number"] for line in (self.folder / "out.jsonl").read_text().splitlines()}

    def stats(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / self.name / "stats.json").read_text())
        return found

    def items_in(self, output: str) -> list[dict[str, int]]:
        return _items(self.folder / output)

    def assert_complete(self) -> None:
        """Every item once, in every format, those that were refused in their own, and no line torn."""
        expected = [{"number": number, "twice": 2 * number} for number in range(PAGES)]
        for output in self.outputs:
            found = sorted(self.items_in(output), key=lambda item: item["number"])
            assert found == expected, output
        if self.refuses:
            lines = (self.folder / self.name / "refused.jsonl").read_text().splitlines()
            assert sorted(json.loads(line)["item"]["refused"] for line in lines) == list(range(PAGES)), "refused.jsonl"
            assert self.stats()["items_refused"] == PAGES
        assert self.stats()["items"] == PAGES
        assert self.stats()["pages"] == PAGES
        assert self.stats()["reason"] == "finished"


def _items(path: Path) -> list[dict[str, int]]:
    """Everything in an output, by the means of the standard library where it has them."""
    if path.suffix == ".json":
        items: list[dict[str, int]] = json.loads(path.read_text())
        return items
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return [{name: int(cell) for name, cell in row.items()} for row in csv.DictReader(file, strict=True)]
    if path.suffix == ".db":
        with contextlib.closing(sqlite3.connect(path)) as database:
            return [{"number": row[0], "twice": row[1]} for row in database.execute("SELECT number, twice FROM items")]
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = zstd.decompress(data)
    assert data.endswith(b"}\n")
    return [json.loads(line) for line in data.splitlines()]
