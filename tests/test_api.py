"""Crawling from Python: `crawl`, `stream` and `run`, once or often, alone or side by side."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

import crawler
from crawler import Response, Spider, crawl, run, stream
from crawler.errors import InvalidURL, JobError, SettingsError, UsageError
from crawler.testing import LocalSite

if TYPE_CHECKING:
    from decimal import Decimal

FAST = {"politeness": {"delay_seconds": 0, "obey_robots": False, "concurrency_per_host": 8}}


class Numbers(Spider):
    """One item from each of `count` pages."""

    name = "numbers"
    site = ""
    count: int = 5
    ratio: float = 0.5
    deep: bool = False
    tags: tuple[str, ...] = ()
    for_checkers: Decimal | None = None
    """Annotated with a name that this module does not have when it runs: it is left as given, the others are not."""
    mode: Literal["a", "b"] = "a"
    free = None

    async def start(self) -> Any:
        for number in range(self.count):
            yield self.request(f"{self.site}/{number}")

    def parse(self, response: Response) -> Any:
        yield {"n": int(response.url.rpartition("/")[2])}


def numbers(output: Path) -> list[int]:
    return sorted(json.loads(line)["n"] for line in output.read_text().splitlines())


# -- crawl -----------------------------------------------------------------------------------------------------------


async def test_a_crawl_gives_its_reason_statistics_job_and_outputs(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        output = tmp_path / "items.jsonl"
        result = await crawl(
            Numbers, args={"site": site.url}, settings=FAST, output=str(output), job=str(tmp_path / "job")
        )
    assert result.reason == "finished"
    assert result.stats["items"] == 5
    assert result.job == tmp_path / "job"
    assert result.outputs == (str(output),)
    assert numbers(output) == [0, 1, 2, 3, 4]


async def test_the_statistics_have_everything_that_is_promised_and_stand_in_the_job_folder(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        result = await crawl(Numbers, args={"site": site.url}, settings=FAST, job=tmp_path / "job")
    promised = (
        "spider reason started_at finished_at elapsed_seconds requests responses pages items items_dropped errors "
        "retries redirects bytes duplicates offsite robots_denied blocked depth_max status failures hosts"
    )
    assert set(promised.split()) <= set(result.stats)
    written = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert {key: value for key, value in written.items() if key != "elapsed_seconds"} == {
        key: value for key, value in result.stats.items() if key != "elapsed_seconds"
    }
    assert (written["spider"], written["reason"], written["pages"]) == ("numbers", "finished", 5)
    assert (tmp_path / "job" / "crawl.log").read_text()


async def test_without_a_job_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with LocalSite() as site:
        site.page("*", "ok")
        result = await crawl(Numbers, args={"site": site.url}, settings=FAST)
    assert result.job is None
    assert list(tmp_path.iterdir()) == []


async def test_several_outputs_each_get_everything(tmp_path: Path) -> None:
    outputs = [tmp_path / "a.jsonl", str(tmp_path / "b.json"), tmp_path / "c.csv"]
    async with LocalSite() as site:
        site.page("*", "ok")
        await crawl(Numbers, args={"site": site.url}, settings=FAST, output=outputs)
    assert numbers(tmp_path / "a.jsonl") == [0, 1, 2, 3, 4]
    assert sorted(item["n"] for item in json.loads((tmp_path / "b.json").read_text())) == [0, 1, 2, 3, 4]
    header, *rows = (tmp_path / "c.csv").read_text().split()
    assert (header, sorted(rows)) == ("n", list("01234"))


@pytest.mark.parametrize("overwrite", [False, True])
async def test_an_output_is_appended_to_unless_it_is_to_be_overwritten(overwrite: bool, tmp_path: Path) -> None:
    output = tmp_path / "items.jsonl"
    output.write_text('{"n":99}\n')
    async with LocalSite() as site:
        site.page("*", "ok")
        await crawl(Numbers, args={"site": site.url, "count": 2}, settings=FAST, output=output, overwrite=overwrite)
    assert numbers(output) == ([0, 1] if overwrite else [0, 1, 99])


async def test_an_output_that_is_named_twice_is_the_one_that_the_error_names(tmp_path: Path) -> None:
    output = str(tmp_path / "items.jsonl")
    with pytest.raises(UsageError) as caught:
        await crawl(Numbers, settings=FAST, output=[output, str(tmp_path / "a.csv"), output], job=tmp_path / "job")
    assert str(caught.value) == f"the same output is named twice: {output}, {output}"


async def test_a_crawl_may_be_run_again_and_again() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        results = [await crawl(Numbers, args={"site": site.url}, settings=FAST) for _ in range(3)]
    assert [result.stats["items"] for result in results] == [5, 5, 5]
    assert len(site.paths) == 15


async def test_crawls_side_by_side_share_nothing(tmp_path: Path) -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.page("*", "ok", delay=0.01)
        other.page("*", "ok", delay=0.01)
        both = await asyncio.gather(
            crawl(
                Numbers, args={"site": site.url, "count": 3}, settings=FAST, output=tmp_path / "a.jsonl",
                job=tmp_path / "a",
            ),
            crawl(
                Numbers, args={"site": other.url, "count": 6}, settings=FAST, output=tmp_path / "b.jsonl",
                job=tmp_path / "b",
            ),
        )  # fmt: skip
    assert [result.stats["items"] for result in both] == [3, 6]
    assert numbers(tmp_path / "a.jsonl") == [0, 1, 2]
    assert numbers(tmp_path / "b.jsonl") == [0, 1, 2, 3, 4, 5]
    assert Numbers.count == 5
    assert (tmp_path / "a" / "crawl.log").read_text().count("starting a new crawl") == 1


async def test_no_task_is_left_after_a_crawl() -> None:
    before = asyncio.all_tasks()
    async with LocalSite() as site:
        site.page("*", "ok")
        await crawl(Numbers, args={"site": site.url}, settings=FAST)
        assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith(("worker", "comm"))]


async def test_settings_of_the_call_win_over_the_spiders_own() -> None:
    class Own(Numbers):
        settings = {"crawl": {"page_limit": 2}, "http": {"user_agent": "own/1"}}

    async with LocalSite() as site:
        site.page("*", "ok")
        result = await crawl(Own, args={"site": site.url}, settings={**FAST, "crawl": {"page_limit": 3}})
    assert result.stats["pages"] == 3
    assert {hit.headers["User-Agent"] for hit in site.journal} == {"own/1"}


# -- arguments and mistakes ------------------------------------------------------------------------------------------


async def test_arguments_become_attributes_of_the_annotated_type() -> None:
    seen: dict[str, Any] = {}

    class Asking(Numbers):
        async def start(self) -> Any:
            names = ("count", "ratio", "deep", "tags", "mode", "free", "unknown", "for_checkers")
            seen.update({name: getattr(self, name) for name in names})
            yield None

    args = {"count": "3", "ratio": "1.5", "deep": "true", "tags": "a, b", "mode": "b", "free": "7", "unknown": "x"}
    args["for_checkers"] = "1.0"
    await crawl(Asking, args=args)
    assert seen == {
        "count": 3, "ratio": 1.5, "deep": True, "tags": ("a", "b"), "mode": "b", "free": "7", "unknown": "x",
        "for_checkers": "1.0",
    }  # fmt: skip


class Typed(Spider):
    name = "typed"
    folder: Path = Path()
    perhaps: Path | None = None
    limit: int | None = 3
    flag: bool = False
    wanted: set[str] = set()
    sizes: list[int] | None = None
    options: dict[str, int] = {}
    price: Fraction = Fraction(0)
    anything: object = None


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("folder", "/tmp/x", Path("/tmp/x")),
        ("perhaps", "x", Path("x")),
        ("perhaps", "", None),
        ("limit", "5", 5),
        ("limit", "", None),
        ("flag", "yes", True),
        ("flag", "No", False),
        ("wanted", "a, b", {"a", "b"}),
        ("sizes", "1,2", [1, 2]),
        ("options", '{"a": 1}', {"a": 1}),
        ("price", "1/3", Fraction(1, 3)),
        ("anything", "x", "x"),
        ("start_urls", "http://a.example/, http://b.example/", ("http://a.example/", "http://b.example/")),
        ("allowed_domains", "a.example", ("a.example",)),
    ],
)
def test_an_argument_becomes_what_its_annotation_says(name: str, value: str, wanted: Any) -> None:
    assert getattr(Typed(**{name: value}), name) == wanted


@pytest.mark.parametrize(
    ("name", "value", "kind"), [("limit", "x", "int | None"), ("options", "{", "dict"), ("price", "x", "Fraction")]
)
def test_an_argument_of_the_wrong_type_names_what_it_should_be(name: str, value: str, kind: str) -> None:
    with pytest.raises(SettingsError, match=f"argument {name} of spider 'typed'.* is not {re.escape(kind)}"):
        Typed(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("count", "many"), ("deep", "perhaps"), ("mode", "c"), ("ratio", "1,5")])
async def test_an_argument_of_the_wrong_type_is_named_before_anything_is_sent(name: str, value: str) -> None:
    async with LocalSite() as site:
        with pytest.raises(SettingsError, match=name) as caught:
            await crawl(Numbers, args={"site": site.url, name: value})
        assert site.journal == []
    assert repr(value) in str(caught.value)
    assert "numbers" in str(caught.value)


async def test_an_unknown_setting_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="delay_seconds"):
        await crawl(Numbers, settings={"politeness": {"delay_second": 0}})


@pytest.mark.parametrize("output", ["items.xyz", "items", "s3://bucket/items.jsonl", ""])
async def test_an_output_of_no_known_format_is_refused_before_anything_is_sent(output: str) -> None:
    async with LocalSite() as site:
        with pytest.raises(UsageError, match="output"):
            await crawl(Numbers, args={"site": site.url}, output=output)
        assert site.journal == []


async def test_something_that_is_no_spider_class_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="Spider"):
        await crawl(Numbers())  # type: ignore[arg-type]


async def test_an_invalid_start_url_fails_the_crawl_with_its_text(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Spider):
        name = "wrong"
        start_urls = ("example.com/page",)

    result = await crawl(Wrong)
    assert result.reason == "failed"
    assert "example.com/page" in caplog.text
    assert issubclass(InvalidURL, ValueError)


# -- jobs ------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_crawl_goes_on_with_the_same_call_and_loses_and_repeats_nothing(tmp_path: Path) -> None:
    output = tmp_path / "items.jsonl"
    options: dict[str, Any] = {"settings": FAST, "job": tmp_path / "job", "output": output}
    async with LocalSite() as site:
        site.page("*", "ok", delay=0.02)
        args = {"site": site.url, "count": 60}
        first = asyncio.create_task(crawl(Numbers, args=args, **options))
        await site.reached(30)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        before = len(site.paths)
        assert before < 60
        result = await crawl(Numbers, args=args, **options)
    assert result.reason == "finished"
    assert numbers(output) == list(range(60))
    assert result.stats["items"] == 60


async def test_a_crawl_that_was_stopped_by_errors_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "items.jsonl"
    options: dict[str, Any] = {"job": tmp_path / "job", "output": output}

    class Stumbling(Numbers):
        def parse(self, response: Response) -> Any:
            if response.url.endswith("/3"):
                raise ValueError
            yield from super().parse(response)

    async with LocalSite() as site:
        site.page("*", "ok")
        args = {"site": site.url, "count": 10}
        settings = {**FAST, "crawl": {"error_limit": 1, "concurrency": 1}}
        assert (await crawl(Stumbling, args=args, settings=settings, **options)).reason == "error_limit"
        assert numbers(output) == [0, 1, 2]
        result = await crawl(Numbers, args=args, settings=FAST, **options)
    assert result.reason == "finished"
    assert numbers(output) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert result.stats["pages"] == 10


async def test_a_finished_job_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        for _ in range(2):
            result = await crawl(Numbers, args={"site": site.url}, settings=FAST, job=tmp_path / "job")
    assert result.stats["pages"] == 5
    assert len(site.paths) == 10


async def test_fresh_discards_what_an_unfinished_job_has(tmp_path: Path) -> None:
    class Broken(Numbers):
        def parse(self, response: Response) -> Any:
            raise ValueError

    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {**FAST, "crawl": {"error_limit": 1, "concurrency": 1}}
        await crawl(Broken, args={"site": site.url}, settings=settings, job=tmp_path / "job")
        result = await crawl(Numbers, args={"site": site.url}, settings=FAST, job=tmp_path / "job", fresh=True)
    assert result.stats["pages"] == 5
    assert len(site.requests("/0")) == 2


async def test_a_job_folder_serves_one_crawl_at_a_time(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("*", "ok", delay=0.2)
        first = asyncio.create_task(crawl(Numbers, args={"site": site.url}, settings=FAST, job=tmp_path / "job"))
        await site.reached(1)
        with pytest.raises(JobError, match="in use"):
            await crawl(Numbers, args={"site": site.url}, settings=FAST, job=tmp_path / "job")
        assert (await first).reason == "finished"


async def test_a_job_of_another_spider_is_refused(tmp_path: Path) -> None:
    class Other(Numbers):
        name = "other"

    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {**FAST, "crawl": {"error_limit": 1, "concurrency": 1}}
        site.page("/0", "", status=404)
        await crawl(Numbers, args={"site": site.url}, settings=settings, job=tmp_path / "job")
        with pytest.raises(JobError, match="numbers"):
            await crawl(Other, args={"site": site.url}, settings=FAST, job=tmp_path / "job")


# -- stream ----------------------------------------------------------------------------------------------------------


async def test_a_stream_gives_every_item() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        items = [item async for item in stream(Numbers, args={"site": site.url}, settings=FAST)]
    assert sorted(item["n"] for item in items) == [0, 1, 2, 3, 4]


class Endless(Numbers):
    """Every page leads to the next, and has twenty items."""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/0")

    def parse(self, response: Response) -> Any:
        number = int(response.url.rpartition("/")[2])
        yield response.follow(f"/{number + 1}")
        for _ in range(20):
            yield {"n": number}


@pytest.mark.parametrize("leaving", ["break", "raise", "aclose"])
async def test_leaving_a_stream_stops_the_crawl(leaving: str) -> None:
    async def take(items: Any) -> None:
        async for item in items:
            if item["n"] == 2:
                if leaving == "raise":
                    raise LookupError
                break
        if leaving == "aclose":
            await items.aclose()

    async with LocalSite() as site:
        site.page("*", "ok")
        before = asyncio.all_tasks()
        try:
            await take(stream(Endless, args={"site": site.url}, settings=FAST))
        except LookupError:
            assert leaving == "raise"
        async with asyncio.timeout(20):
            while [task for task in asyncio.all_tasks() - before if task.get_name().startswith("stream")]:
                gc.collect()
                await asyncio.sleep(0.01)
            asked = len(site.paths)
            await asyncio.sleep(0.1)
    assert asked < 30
    assert len(site.paths) == asked


async def test_leaving_a_stream_early_is_no_error_to_the_loop() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def first(items: Any) -> Any:
        async for item in items:
            return item
        return None

    async with LocalSite() as site:
        site.page("*", "ok")
        before = asyncio.all_tasks()
        assert await first(stream(Endless, args={"site": site.url}, settings=FAST)) == {"n": 0}
        async with asyncio.timeout(20):
            while asyncio.all_tasks() - before - {asyncio.current_task()}:
                gc.collect()
                await asyncio.sleep(0.01)
                if not [task for task in asyncio.all_tasks() - before if "stream" in task.get_name()]:
                    break
        await asyncio.sleep(0.05)
    assert complaints == []


async def test_a_stream_waits_for_a_slow_consumer() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        items = stream(Endless, args={"site": site.url}, settings=FAST)
        assert await anext(items) == {"n": 0}
        await asyncio.sleep(0.3)
        ahead = len(site.paths)
        assert ahead < 20  # a hundred items wait, at twenty a page, and no page after them is begun
        for _ in range(200):
            await anext(items)
        assert len(site.paths) > ahead
        await items.aclose()  # type: ignore[attr-defined]


async def test_a_streams_error_reaches_the_loop_around_it() -> None:
    class NoDatabase(Numbers):
        async def opened(self) -> None:
            raise ConnectionError("no database")

    with pytest.raises(ConnectionError, match="no database"):
        async for _ in stream(NoDatabase):
            pass


async def test_a_stream_with_a_job_goes_on_where_it_was_left(tmp_path: Path) -> None:
    seen: list[int] = []
    async with LocalSite() as site:
        site.page("*", "ok")
        options: dict[str, Any] = {
            "args": {"site": site.url, "count": 30},
            "settings": {**FAST, "crawl": {"concurrency": 2}},
            "job": tmp_path / "job",
        }
        items = stream(Numbers, **options)
        async for item in items:
            seen.append(item["n"])
            if len(seen) == 10:
                break
        await items.aclose()  # type: ignore[attr-defined]
        seen += [item["n"] async for item in stream(Numbers, **options)]
    assert set(range(10)) <= set(seen)
    assert len(site.paths) < 40


# -- run and the package ---------------------------------------------------------------------------------------------


def test_run_blocks_until_the_crawl_has_ended(tmp_path: Path) -> None:
    class Nothing(Spider):
        name = "nothing"

        async def start(self) -> Any:
            yield {"n": 1}

    result = run(Nothing, output=tmp_path / "items.jsonl", settings=FAST)
    assert result.reason == "finished"
    assert numbers(tmp_path / "items.jsonl") == [1]


async def test_run_says_what_to_do_where_a_loop_is_running() -> None:
    with pytest.raises(RuntimeError, match=r"await crawl\("):
        run(Numbers)


def test_run_names_an_option_that_it_does_not_have() -> None:
    with pytest.raises(TypeError, match="outputs"):
        run(Numbers, outputs="x.jsonl")


def test_every_public_name_can_be_had_and_is_listed() -> None:
    for name in crawler.__all__:
        assert getattr(crawler, name) is not None
        assert name in dir(crawler)
    with pytest.raises(AttributeError, match="no attribute 'Crawler'"):
        _ = crawler.Crawler  # type: ignore[attr-defined]
