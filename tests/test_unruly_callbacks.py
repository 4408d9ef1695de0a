"""User code that raises whatever can be raised, wherever it can, and user code that will not end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import forked
import pytest

from crawler import Failure, Response, Spider, callback_time, collector
from crawler.assemble import Crawl, load_settings
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.testing import Run


class Own(BaseException):
    """No `Exception`."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


KINDS = {
    "an error": lambda: ValueError("mine"),
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
    "StopIteration": lambda: StopIteration(3),
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "a BaseException": Own,
    "a group": lambda: ExceptionGroup("several", [ValueError(), KeyError()]),
    "a group of BaseExceptions": lambda: BaseExceptionGroup("several", [Own()]),
    "one without a text": Unprintable,
    "a time-out of its own": TimeoutError,
}
SHAPES = ("plain", "coroutine", "generator", "async_generator", "clean_up")


class Raising(Spider):
    """A page for each shape of a callback, and a sibling that is as it should be."""

    name = "raising"
    site = ""
    kind = ""
    settings = {"politeness": {"concurrency_per_host": 8, "obey_robots": False}}

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.failures: list[Failure] = []

    async def start(self) -> Any:
        for shape in SHAPES:
            yield self.request(f"{self.site}/{shape}", shape, errback=self.note)
        yield self.request(f"{self.site}/sibling")

    def note(self, failure: Failure) -> None:
        self.failures.append(failure)

    def error(self) -> BaseException:
        return KINDS[self.kind]()

    def parse(self, response: Response) -> Any:
        yield {"from": "sibling"}

    def plain(self, response: Response) -> Any:
        raise self.error()

    async def coroutine(self, response: Response) -> Any:
        await asyncio.sleep(0)
        raise self.error()

    def generator(self, response: Response) -> Any:
        yield from ({"from": "generator"} for _ in range(3))
        raise self.error()

    async def async_generator(self, response: Response) -> Any:
        for _ in range(3):
            yield {"from": "async_generator"}
            await asyncio.sleep(0)
        raise self.error()

    async def clean_up(self, response: Response) -> Any:
        try:
            yield {"from": "clean_up"}
            yield 42  # is no item, so the generator is closed here
        finally:
            raise self.error()


@pytest.mark.hostile("R-27")
@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_a_callback_raises_is_its_pages_failure_alone(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        run = await run_spider(Raising, args={"site": site.url, "kind": kind}, job=tmp_path / "job")
    failures: list[Failure] = run.spider.failures  # type: ignore[attr-defined]
    assert run.reason == "finished"
    assert sorted(failure.request.callback or "" for failure in failures) == sorted(SHAPES), "each errback once"
    assert {failure.reason for failure in failures} == {"callback_error"}
    assert run.stats["failures"] == {"callback_error": len(SHAPES)}
    given = [item["from"] for item in run.items]
    assert sorted(given) == sorted(["async_generator"] * 3 + ["generator"] * 3 + ["clean_up", "sibling"])
    assert (run.stats["added"], run.stats["done"], run.stats["failed"]) == (6, 1, 5)
    assert caplog.text.count("Traceback (most recent call last)") >= len(SHAPES)


class Once(Spider):
    """Its callback raises the first time; the process that continues the job does not."""

    name = "once"
    site = ""
    error: Any = None
    where = "callback"
    settings = {"politeness": {"obey_robots": False, "concurrency_per_host": 1}}

    def raise_in(self, place: str) -> None:
        if self.error is not None and place == self.where:
            raise self.error

    async def start(self) -> Any:
        for number in range(4):
            yield self.request(f"{self.site}/{number}")
            if number == 1:
                self.raise_in("start")

    def parse(self, response: Response) -> Any:
        yield {"page": response.url[-1]}
        if response.url.endswith("1"):
            self.raise_in("callback")


class AsPipeline:
    async def process_item(self, item: Any, spider: Any) -> Any:
        if item["page"] == "1":
            spider.raise_in("pipeline")
        return item


class PipedOnce(Once):
    pipelines = (AsPipeline,)


@pytest.mark.hostile("R-27")
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["callback", "start", "pipeline"])
async def test_sys_exit_in_user_code_stops_the_crawl_in_good_order_and_loses_nothing(
    error: type[BaseException], where: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"job": tmp_path / "job", "output": tmp_path / "out.jsonl"}
    async with LocalSite() as site:
        site.page("*", "ok")
        first = await run_spider(
            PipedOnce, args={"site": site.url, "error": error("enough"), "where": where}, **options
        )
        assert first.reason == "interrupted"
        assert first.stats["errors"] == 0
        second = await run_spider(PipedOnce, args={"site": site.url}, **options)
    assert second.reason == "finished"
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["page"] for line in lines) == ["0", "1", "2", "3"]
    assert second.stats["done"] == second.stats["added"] == 4


# -- all of a page, or nothing ---------------------------------------------------------------------------------------


class Half(Spider):
    """Gives items and requests, many of them, and then raises where it is told to."""

    name = "half"
    site = ""
    fails = True
    settings = {"politeness": {"obey_robots": False}}

    async def start(self) -> Any:
        yield self.request(f"{self.site}/page", self.give, errback="instead")

    def give(self, response: Response) -> Any:
        for number in range(25):
            yield {"number": number}
            yield response.follow(f"/{number}", dont_filter=number % 2 == 0)
        if self.fails:
            raise ValueError

    def instead(self, failure: Failure) -> Any:
        yield {"instead": failure.reason}
        yield self.request(f"{self.site}/instead")

    def parse(self, response: Response) -> Any:
        yield {"page": response.url.rpartition("/")[2]}


class HalfAsync(Half):
    async def give(self, response: Response) -> Any:  # type: ignore[override]
        for output in super().give(response):
            yield output


async def gave(spider: type[Spider], tmp_path: Path, *, partial: bool, fails: bool) -> Run:
    async with LocalSite() as site:
        site.page("*", "ok")
        run = await run_spider(
            spider,
            args={"site": site.url, "fails": fails},
            settings={"crawl": {"partial_pages": partial}},
            job=tmp_path / "job",
            output=tmp_path / "out.jsonl",
        )
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(map(str, written)) == sorted(map(str, run.items))
    assert run.stats["items"] == len(written)
    assert run.stats["added"] == run.stats["done"] + run.stats["failed"]
    return run


NUMBERS = [{"number": number} for number in range(25)]
PAGES = [{"page": str(number)} for number in range(25)]
INSTEAD = [{"instead": "callback_error"}, {"page": "instead"}]


@pytest.mark.hostile("R-27")
@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("spider", [Half, HalfAsync])
async def test_of_a_page_whose_callback_raised_all_that_came_before_counts_or_none_of_it(
    spider: type[Spider], partial: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_ENTRIES_AT_ONCE", 10)
    run = await gave(spider, tmp_path, partial=partial, fails=True)
    expected = [*NUMBERS, *PAGES, *INSTEAD] if partial else INSTEAD
    assert sorted(map(str, run.items)) == sorted(map(str, expected)), "what its errback gave counts either way"
    assert run.stats["failures"] == {"callback_error": 1}


@pytest.mark.parametrize("count_at_once", [10, 5, 26])
async def test_of_a_page_that_counts_as_a_whole_everything_is_there_once_when_it_ends(
    count_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_ENTRIES_AT_ONCE", count_at_once)
    run = await gave(Half, tmp_path, partial=False, fails=False)
    assert sorted(map(str, run.items)) == sorted(map(str, [*NUMBERS, *PAGES]))


# -- user code that will not end -------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_time, "_GRACE_SECONDS", 0.1)


class Stubborn(Spider):
    """Swallows whatever would end it, until `may_end`."""

    name = "stubborn"
    site = ""
    shape = "coroutine"
    may_end: list[bool]
    settings = {
        "politeness": {"obey_robots": False},
        "crawl": {"callback_timeout_seconds": 0.2, "drain_seconds": 0.1, "concurrency": 1},
    }

    async def start(self) -> Any:
        yield self.request(f"{self.site}/stubborn", self.shape)
        yield self.request(f"{self.site}/other")

    async def parse(self, response: Response) -> Any:
        yield {"page": response.url.rpartition("/")[2]}

    async def stay(self) -> None:
        while not self.may_end:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(0.01)

    async def coroutine(self, response: Response) -> None:
        await self.stay()

    async def generator(self, response: Response) -> Any:
        yield {"page": "before"}
        await self.stay()

    async def clean_up(self, response: Response) -> Any:
        try:
            yield {"page": "before"}
            yield 42  # is no item
        finally:
            await self.stay()

    async def busy(self, response: Response) -> None:
        while not self.may_end:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(0)

    async def polite(self, response: Response) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


@pytest.mark.hostile("R-28")
@pytest.mark.parametrize("shape", ["coroutine", "generator", "clean_up", "busy", "polite"])
async def test_a_callback_that_swallows_its_cancellation_is_left_behind_and_its_place_is_free(
    shape: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    may_end: list[bool] = []
    async with LocalSite() as site:
        site.page("*", "ok")
        async with asyncio.timeout(10):
            run = await run_spider(Stubborn, args={"site": site.url, "shape": shape, "may_end": may_end})
    assert run.reason == "finished"
    assert {"page": "other"} in run.items
    assert sum(run.stats["failures"].values()) == 1
    assert run.stats["failures"].get("callback_timeout") == 1
    assert f"{shape} did not end within 0.1 s after it was cancelled, and is left behind" in caplog.text
    may_end.append(True)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "no task is left of it"


@pytest.mark.hostile("R-28")
@pytest.mark.parametrize("where", ["callback", "start"])
async def test_the_end_of_a_crawl_does_not_wait_for_code_that_will_not_end(where: str, impatient: None) -> None:
    class Endless(Stubborn):
        settings = {"crawl": {**Stubborn.settings["crawl"], "callback_timeout_seconds": 60}}

        async def start(self) -> Any:
            yield self.request(f"{self.site}/stubborn", self.coroutine)
            if where == "start":
                await self.stay()

        async def coroutine(self, response: Response) -> None:
            reached.set()
            if where == "callback":
                await self.stay()

    reached = asyncio.Event()
    may_end: list[bool] = []
    async with LocalSite() as site:
        site.page("*", "ok")
        spider = Endless(site=site.url, may_end=may_end)
        async with asyncio.timeout(10), Crawl(spider, load_settings(Endless, []).settings) as crawl:
            running = asyncio.ensure_future(crawl.run())
            await reached.wait()
            crawl.engine.stop("stopped")
            result = await running
    may_end.append(True)
    assert result.reason == "stopped"
    assert result.stats["waiting"] == (1 if where == "callback" else 0), "the page went back"


async def test_a_callback_that_cleans_up_after_its_cancellation_gets_the_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Tidy(Stubborn):
        async def coroutine(self, response: Response) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                cleaned.append(True)

    cleaned: list[bool] = []
    async with LocalSite() as site:
        site.page("*", "ok")
        run = await run_spider(Tidy, args={"site": site.url})
    assert cleaned == [True]
    assert run.stats["failures"] == {"callback_timeout": 1}
    assert "left behind" not in caplog.text


CLOSING = """
import asyncio
from crawler import Spider

class Slow:
    async def process_item(self, item, spider):
        return item

    async def close_spider(self, spider):
        print("closing", flush=True)
        await asyncio.Event().wait()

class Closing(Spider):
    name = "closing"
    pipelines = [Slow]

    async def start(self):
        yield {"n": 1}
"""


@pytest.mark.hostile("R-31")
async def test_a_pipeline_that_hangs_as_it_closes_is_left_at_the_second_signal(tmp_path: Path) -> None:
    (tmp_path / "spider.py").write_text(CLOSING)
    began = time.monotonic()
    async with forked.start(tmp_path, "run", "spider.py", "-o", "out.jsonl") as process:
        while not any("closing" in path.read_text() for path in tmp_path.glob("stdout-*")):
            await asyncio.sleep(0.01)
        for _ in range(2):
            os.kill(process.pid, signal.SIGTERM)
            await asyncio.sleep(0.1)
        ended = await process.ends()
    assert ended.code == 0, "all that it had to do is done"
    assert time.monotonic() - began < forked.SECONDS
    assert (tmp_path / "out.jsonl").read_text() == '{"n":1}\n'
    assert "close_spider of spider 'closing' raised" in ended.said
