"""A page that gives very much, or gives for ever: others go on meanwhile, memory has a limit, and a kill in its middle
neither loses nor doubles anything."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import csv
import json
from typing import TYPE_CHECKING, Any

import forked
import pytest

from crawler import Failure, Request, Response, Spider, collector, epochs
from crawler.errors import CallbackError, EngineUnavailable, JobError
from crawler.export import spool
from crawler.jobs import open_frontier
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

OTHERS = 40
FAR_AWAY = 1e6
"""Seconds: requests that wait for so long are queued and not sent."""


class Flood(Spider):
    """`/flood` gives `count` of what `make` makes; the other pages are its siblings, some of them links of links."""

    name = "flood"
    site = ""
    count = 0
    journal: list[Any] = []
    settings = {"politeness": {"concurrency_per_host": 4, "obey_robots": False}}

    def __init__(self, **args: Any) -> None:
        super().__init__(**args)
        self.given = 0
        self.story: list[str] = []
        self.asked_meanwhile = 0

    async def start(self) -> Any:
        yield self.request(self.site + "/flood", self.flood, priority=1)
        for number in range(OTHERS):
            yield self.request(f"{self.site}/{number}")

    def parse(self, response: Response) -> Any:
        yield {"number": -1, "page": response.url}

    def make(self, number: int) -> Any:
        return {"number": number, "page": "/flood"}

    def flood(self, response: Response) -> Any:
        before = len(self.journal)
        try:
            for number in range(self.count):
                self.given += 1
                yield self.make(number)
            self.story.append("came to its end")
        finally:
            self.asked_meanwhile = len(self.journal) - before
            self.story.append("cleaned up")


class AsyncFlood(Flood):
    async def flood(self, response: Response) -> Any:
        before = len(self.journal)
        try:
            for number in range(self.count):
                self.given += 1
                yield self.make(number)
            self.story.append("came to its end")
        finally:
            await asyncio.sleep(0)
            self.asked_meanwhile = len(self.journal) - before
            self.story.append("cleaned up")


class RequestFlood(Flood):
    def make(self, number: int) -> Any:
        return Request(f"{self.site}/far/{number}", not_before=FAR_AWAY)


class AsyncRequestFlood(AsyncFlood):
    make = RequestFlood.make


@pytest.fixture
async def site() -> AsyncIterator[LocalSite]:
    async with LocalSite() as site:
        site.page("*", "a page")
        yield site


async def flooded(
    spider: type[Spider], site: LocalSite, job: Path, count: int, output: Any = (), **crawl: int
) -> tuple[Any, Any]:
    args = {"site": site.url, "count": count, "journal": site.journal}
    run = await run_spider(spider, args=args, settings={"crawl": crawl}, job=job / "job", output=output)
    flood: Any = run.spider
    return run, flood


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of what a page may have in memory, a hundredth of what they are."""
    monkeypatch.setattr(collector, "_ENTRIES_AT_ONCE", 10)
    monkeypatch.setattr(epochs, "EPOCH_ENTRIES", 50)
    monkeypatch.setattr(epochs, "_UNFILTERED_KEPT", 200)
    monkeypatch.setattr(spool, "_MEMORY_BYTES", 2048)


def numbers_in(output: Path) -> list[int]:
    """Of the flood's items, in their order."""
    with output.open() as lines:
        return [item["number"] for line in lines if (item := json.loads(line))["page"] == "/flood"]


# -- others go on, and everything arrives ------------------------------------------------------------------------------


@pytest.mark.hostile("R-30")
@pytest.mark.parametrize(("spider", "count"), [(Flood, 30_000), (AsyncFlood, 10_000)])
async def test_while_a_page_gives_items_without_number_others_are_answered_and_each_item_is_there_once(
    tmp_path: Path, site: LocalSite, spider: type[Flood], count: int
) -> None:
    outputs = [tmp_path / "out.jsonl", tmp_path / "out.csv"]
    run, flood = await flooded(spider, site, tmp_path, count, outputs)
    assert flood.asked_meanwhile >= OTHERS // 2
    assert flood.story == ["came to its end", "cleaned up"]
    assert numbers_in(outputs[0]) == list(range(count)), "each once, and in their order"
    with outputs[1].open(newline="") as file:
        rows = collections.Counter(row["number"] for row in csv.DictReader(file))
    assert (rows.pop("-1"), set(rows.values()), len(rows)) == (OTHERS, {1}, count)
    assert run.stats["items"] == count + OTHERS


@pytest.mark.hostile("R-30")
@pytest.mark.parametrize("spider", [RequestFlood, AsyncRequestFlood])
async def test_while_a_page_gives_requests_others_are_answered_and_each_request_waits_once(
    tmp_path: Path, site: LocalSite, small: None, spider: type[Flood]
) -> None:
    run, flood = await flooded(spider, site, tmp_path, 2000, page_limit=OTHERS + 1)
    assert flood.asked_meanwhile >= OTHERS // 2
    assert (run.stats["added"], run.stats["waiting"], run.stats["duplicates"]) == (2000 + OTHERS + 1, 2000, 0)
    with open_frontier(tmp_path / "job") as frontier:
        waiting = collections.Counter(each.url for each in frontier.waiting(site.host))
    assert waiting == dict.fromkeys((f"{site.url}/far/{number}" for number in range(2000)), 1)


@pytest.mark.hostile("R-30")
async def test_requests_are_handed_over_while_the_page_runs_and_few_are_in_memory(
    tmp_path: Path, site: LocalSite, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_page, in_epoch = [], []
    relieve = epochs.Epochs.relieve

    async def watched(self: Any, flooding: Any) -> None:
        in_page.append(len(flooding.entries) + len(flooding.kept))
        await relieve(self, flooding)
        in_epoch.append(self._entries)

    monkeypatch.setattr(epochs.Epochs, "relieve", watched)
    await flooded(RequestFlood, site, tmp_path, 2000, page_limit=OTHERS + 1)
    assert len(in_page) == 200
    assert max(in_page) == 10
    assert max(in_epoch) < 50 + OTHERS + 1 + 10, "a transaction keeps its changes in memory, too"


async def test_a_page_that_gives_requests_waits_for_the_epoch_that_takes_them(
    tmp_path: Path, site: LocalSite, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    commit = epochs.Epochs.commit

    async def counted(self: Any, state: str = "running") -> None:
        nonlocal commits
        commits += 1
        await commit(self, state)

    monkeypatch.setattr(epochs.Epochs, "commit", counted)
    await flooded(RequestFlood, site, tmp_path, 2000, page_limit=OTHERS + 1)
    assert commits >= 2000 / (50 + 10)


async def test_requests_that_are_not_filtered_wait_for_their_page_while_they_are_few(
    tmp_path: Path, site: LocalSite, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unfiltered(Flood):
        def make(self, number: int) -> Any:
            return Request(f"{self.site}/far", not_before=FAR_AWAY, dont_filter=True)

    kept, added_at = [], []
    relieve = epochs.Epochs.relieve

    async def watched(self: Any, flooding: Any) -> None:
        await relieve(self, flooding)
        kept.append(len(flooding.kept))
        added_at.append(self._frontier.counts().added)

    monkeypatch.setattr(epochs.Epochs, "relieve", watched)
    run, _ = await flooded(Unfiltered, site, tmp_path, 1000, page_limit=OTHERS + 1)
    assert run.stats["waiting"] == 1000
    assert max(kept) == 200
    assert max(added_at[: kept.index(200)]) <= OTHERS + 1, "until then none was handed over"


async def test_start_may_give_very_much_and_the_first_pages_are_answered_before_its_end(
    tmp_path: Path, site: LocalSite, small: None
) -> None:
    class Starts(Flood):
        async def start(self) -> Any:
            for number in range(OTHERS):
                yield self.request(f"{self.site}/{number}")
            before = len(self.journal)
            for number in range(1000):
                yield Request(f"{self.site}/far/{number}", not_before=FAR_AWAY)
            self.asked_meanwhile = len(self.journal) - before

    class StartsAtOnce(Flood):
        def start(self) -> Any:
            for number in range(OTHERS):
                yield self.request(f"{self.site}/{number}")
            before = len(self.journal)
            for number in range(1000):
                yield Request(f"{self.site}/far/{number}", not_before=FAR_AWAY)
            self.asked_meanwhile = len(self.journal) - before

    for spider in (Starts, StartsAtOnce):
        run, flood = await flooded(spider, site, tmp_path / spider.__name__, 0, page_limit=OTHERS)
        assert flood.asked_meanwhile > 0, spider
        assert (run.stats["added"], run.stats["waiting"]) == (1000 + OTHERS, 1000), spider


# -- what does not end by itself ---------------------------------------------------------------------------------------


class Endless(Flood):
    failed_with: type[Exception]

    def flood(self, response: Response) -> Any:
        try:
            while True:
                self.given += 1
                yield self.make(self.given)
        finally:
            self.story.append("cleaned up")

    def failed(self, failure: Failure) -> Any:
        self.story.append(failure.reason)
        self.failed_with = type(failure.error)


class EndlessAsync(Endless):
    async def flood(self, response: Response) -> Any:
        try:
            while True:
                self.given += 1
                yield self.make(self.given)
        finally:
            await asyncio.sleep(0)
            self.story.append("cleaned up")


class EndlessRequests(Endless):
    make = RequestFlood.make


@pytest.mark.hostile("R-30")
@pytest.mark.parametrize("spider", [Endless, EndlessAsync])
async def test_output_limit_cuts_an_endless_generator_and_what_came_before_stays(
    tmp_path: Path, site: LocalSite, caplog: pytest.LogCaptureFixture, spider: type[Endless]
) -> None:
    output = tmp_path / "out.jsonl"
    run, flood = await flooded(spider, site, tmp_path, 0, output, output_limit=500)
    assert run.reason == "finished"
    assert run.stats["failures"] == {"callback_error": 1}
    assert run.stats["errors"] == 1
    assert flood.given == 501
    assert numbers_in(output) == list(range(1, 501))
    assert run.stats["items"] == 500 + OTHERS
    assert flood.failed_with is CallbackError
    assert "flood of spider 'flood' gave more than 500 items and requests (crawl.output_limit)" in caplog.text


@pytest.mark.parametrize(
    "spider",
    [
        Endless,
        EndlessAsync,
    ],
)
async def test_an_endless_generators_finally_runs_before_its_errback(
    tmp_path: Path, site: LocalSite, spider: type[Endless]
) -> None:
    _, flood = await flooded(spider, site, tmp_path, 0, output_limit=50)
    assert flood.story == ["cleaned up", "callback_error"]


async def test_what_an_errback_gives_is_not_counted_with_the_flood_before_it(tmp_path: Path, site: LocalSite) -> None:
    class Recovering(Endless):
        def failed(self, failure: Failure) -> Any:
            yield {"number": -2, "page": "errback"}

    run, _ = await flooded(Recovering, site, tmp_path, 0, output_limit=50)
    assert run.stats["items"] == 50 + OTHERS + 1
    assert run.stats["failures"] == {"callback_error": 1}


async def test_output_limit_counts_requests_as_well(tmp_path: Path, site: LocalSite, small: None) -> None:
    run, flood = await flooded(EndlessRequests, site, tmp_path, 0, output_limit=100, page_limit=OTHERS + 1)
    assert flood.given == 101
    assert run.stats["waiting"] == 100
    assert run.stats["failures"] == {"callback_error": 1}


async def test_output_limit_is_one_pages_and_start_has_none(tmp_path: Path, site: LocalSite) -> None:
    class Starts(Flood):
        async def start(self) -> Any:
            for number in range(300):
                yield {"number": number}
            yield self.request(self.site + "/flood", self.flood)
            yield self.request(self.site + "/flood?again", self.flood)

    run, flood = await flooded(Starts, site, tmp_path, 80, output_limit=100)
    assert flood.story == ["came to its end", "cleaned up"] * 2
    assert run.stats["items"] == 300 + 80 + 80
    assert run.stats["failures"] == {}


@pytest.mark.parametrize("spider", [Flood, AsyncFlood])
async def test_item_limit_is_exact_in_the_middle_of_a_flood(
    tmp_path: Path, site: LocalSite, small: None, spider: type[Flood]
) -> None:
    output = tmp_path / "out.jsonl"
    run, _ = await flooded(spider, site, tmp_path, 3000, output, item_limit=1234)
    assert run.reason == "item_limit"
    assert run.stats["items"] == 1234
    assert len(output.read_text().splitlines()) == 1234


# -- killed in the middle ----------------------------------------------------------------------------------------------

NUMBERS = 120
SPIDER = f"""
from crawler import Request, Spider, collector, epochs
from crawler.export import spool

collector._ENTRIES_AT_ONCE, epochs.EPOCH_ENTRIES, spool._MEMORY_BYTES = 20, 100, 500

class Flood(Spider):
    name = "flood"
    settings = {{"politeness": {{"delay_seconds": 0, "concurrency_per_host": 8, "obey_robots": False}}}}

    async def start(self):
        yield self.request(self.site + "/flood", self.flood)

    async def flood(self, response):
        for number in range({NUMBERS}):
            yield {{"number": number}}
            yield Request(f"{{self.site}}/{{number}}", cb_kwargs={{"number": number}})
        await self.fetch(self.site + "/middle")
        for number in range({NUMBERS}, {NUMBERS} + 20):
            yield {{"number": number}}
            yield Request(f"{{self.site}}/{{number}}", cb_kwargs={{"number": number}})

    def parse(self, response, number):
        yield {{"page": number}}
"""
START_FLOOD = (
    SPIDER[: SPIDER.index("    async def start")]
    + f"""
    async def start(self):
        for number in range({NUMBERS}):
            yield Request(f"{{self.site}}/{{number}}", cb_kwargs={{"number": number}})
        await self.fetch(self.site + "/middle")
        for number in range({NUMBERS}, {NUMBERS} + 20):
            yield Request(f"{{self.site}}/{{number}}", cb_kwargs={{"number": number}})

    def parse(self, response, number):
        yield {{"page": number}}
"""
)


class Job:
    """A crawl that is killed when it asks for `/middle`, which is in the middle of its flood."""

    def __init__(self, folder: Path, site: LocalSite) -> None:
        self.folder = folder
        self.site = site
        self.asked = asyncio.Event()
        site.route("/middle", self._hold)

    async def _hold(self, request: web.Request) -> web.Response:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    def _command(self) -> tuple[str, ...]:
        return ("run", "spider.py", "-a", f"site={self.site.url}", "--job", "job", "-o", "out.jsonl")

    async def killed_in_its_middle_and_run_again(self, spider: str, committed: int) -> None:
        """Killed once that many requests are in epochs that have ended."""
        (self.folder / "spider.py").write_text(spider)
        async with forked.start(self.folder, *self._command()) as process:
            await asyncio.wait_for(self.asked.wait(), forked.SECONDS)
            async with asyncio.timeout(forked.SECONDS):
                while self.added() < committed:
                    await asyncio.sleep(0.01)
            process.kill()
            assert (await process.ends()).code == -9
        self.site.page("/middle", "the middle")
        last = await forked.run(self.folder, *self._command())
        assert last.code == 0, last.said

    def added(self) -> int:
        with contextlib.suppress(JobError, EngineUnavailable), open_frontier(self.folder / "job") as frontier:
            return frontier.values.counters.added
        return 0

    def items(self, name: str) -> list[int]:
        lines = (self.folder / "out.jsonl").read_text().splitlines()
        return sorted(item[name] for item in map(json.loads, lines) if name in item)

    def fetched(self) -> collections.Counter[str]:
        return collections.Counter(self.site.paths)


async def test_killed_in_the_middle_of_a_flood_each_item_is_there_once_and_each_request_was_queued_once(
    tmp_path: Path, site: LocalSite
) -> None:
    job = Job(tmp_path, site)
    await job.killed_in_its_middle_and_run_again(SPIDER, committed=NUMBERS - 20)
    assert job.items("number") == list(range(NUMBERS + 20))
    assert job.items("page") == list(range(NUMBERS + 20))
    stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert (stats["added"], stats["done"]) == (NUMBERS + 21, NUMBERS + 21)
    assert job.fetched()["/flood"] == 2


@pytest.mark.parametrize("start", ["async def start", "def start"])
async def test_killed_in_the_middle_of_what_start_gives_each_request_was_queued_once(
    tmp_path: Path, site: LocalSite, start: str
) -> None:
    job = Job(tmp_path, site)
    spider = START_FLOOD
    if start == "def start":
        spider = spider.replace("async def start", "def start").replace(
            'await self.fetch(self.site + "/middle")',
            'yield Request(self.site + "/middle", priority=1, callback="middle")',
        )
        spider += "\n    def middle(self, response):\n        pass\n"
    await job.killed_in_its_middle_and_run_again(spider, committed=NUMBERS - 20)
    assert job.items("page") == list(range(NUMBERS + 20))
    stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert stats["added"] == NUMBERS + 20 + (start == "def start")


async def test_requests_that_are_not_filtered_are_not_doubled_by_a_kill_before_their_pages_end(
    tmp_path: Path, site: LocalSite
) -> None:
    job = Job(tmp_path, site)
    spider = SPIDER.replace("cb_kwargs", "dont_filter=True, cb_kwargs")
    await job.killed_in_its_middle_and_run_again(spider, committed=1)
    assert job.items("page") == list(range(NUMBERS + 20))
    assert {job.fetched()[f"/{number}"] for number in range(NUMBERS + 20)} == {1}


async def test_items_that_start_gave_before_it_was_killed_come_again_because_start_runs_again(
    tmp_path: Path, site: LocalSite
) -> None:
    job = Job(tmp_path, site)
    spider = START_FLOOD.replace(
        "            yield Request", '            yield {"number": number}\n            yield Request'
    )
    await job.killed_in_its_middle_and_run_again(spider, committed=NUMBERS - 20)
    assert job.items("page") == list(range(NUMBERS + 20))
    assert set(job.items("number")) == set(range(NUMBERS + 20))
    assert len(job.items("number")) > NUMBERS + 20
