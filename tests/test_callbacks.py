"""What a callback may be and may give, and what becomes of one that fails: whole crawls against a local site."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import pydantic
import pytest

from crawler import Failure, Request, Response, Spider
from crawler.testing import LocalSite, Run, run_spider

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Plain:
    title: str


@attrs.define
class Attrs:
    title: str


class Model(pydantic.BaseModel):
    title: str


class Packed(msgspec.Struct):
    title: str


class OnePage(Spider):
    """Starts at `site`; the tests give it their own `parse`."""

    name = "one-page"
    site = ""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.failures: list[Failure] = []

    async def start(self) -> Any:
        yield self.request(f"{self.site}/", errback=self.note)

    def note(self, failure: Failure) -> None:
        self.failures.append(failure)


async def crawl_one_page(spider: type[Spider], **options: Any) -> tuple[Run, LocalSite]:
    """A site of three pages: `/` links to `/a` and `/b`."""
    async with LocalSite() as site:
        site.page("/", "<title>Home</title><a href='/a'>A</a> <a href='/b'>B</a>")
        site.page("/a", "<title>A</title>")
        site.page("/b", "<title>B</title>")
        return await run_spider(spider, args={"site": site.url}, **options), site


def title(response: Response) -> dict[str, str]:
    return {"title": response.css("title::text").get(default="")}


# -- shapes ----------------------------------------------------------------------------------------------------------


async def test_a_plain_function_may_return_one_item() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            return title(response)

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"title": "Home"}]


async def test_a_generator_gives_item_after_item() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            yield {"n": 1}
            yield {"n": 2}

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"n": 1}, {"n": 2}]


async def test_a_coroutine_may_wait_and_return_a_list() -> None:
    class Shape(OnePage):
        async def parse(self, response: Response) -> Any:
            await asyncio.sleep(0)
            return [{"n": 1}, {"n": 2}]

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"n": 1}, {"n": 2}]


async def test_an_async_generator_may_wait_between_items() -> None:
    class Shape(OnePage):
        async def parse(self, response: Response) -> Any:
            yield {"n": 1}
            await asyncio.sleep(0)
            yield {"n": 2}

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"n": 1}, {"n": 2}]


async def test_a_function_may_return_somebody_elses_async_generator() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            return self.inner(response)

        async def inner(self, response: Response) -> Any:
            yield title(response)

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"title": "Home"}]


async def test_an_iterator_and_lists_within_lists_are_walked_through() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Iterator[Any]:
            return iter([[{"n": 1}, [{"n": 2}]], ({"n": 3},), None])

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"n": 1}, {"n": 2}, {"n": 3}]


@pytest.mark.parametrize("shape", ["def", "async def"])
async def test_none_is_nothing_and_no_error(shape: str) -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            async def nothing() -> None:
                return None

            return nothing() if shape == "async def" else None

    run, _ = await crawl_one_page(Shape)
    assert run.items == []
    assert (run.reason, run.stats["pages"], run.stats["errors"]) == ("finished", 1, 0)


async def test_items_of_all_five_kinds_reach_the_output_alike(tmp_path: Any) -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            yield {"title": "x"}
            yield Plain("x")
            yield Attrs("x")
            yield Model(title="x")
            yield Packed("x")

    run, _ = await crawl_one_page(Shape, output=tmp_path / "items.jsonl")
    assert [type(item) for item in run.items] == [dict, Plain, Attrs, Model, Packed]
    assert (tmp_path / "items.jsonl").read_text().splitlines() == ['{"title":"x"}'] * 5


# -- requests --------------------------------------------------------------------------------------------------------


async def test_a_returned_request_is_followed_to_its_callback() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            return response.follow("/a", self.parse_a)

        def parse_a(self, response: Response) -> Any:
            return title(response)

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"title": "A"}]


async def test_a_callback_may_be_named_instead_of_held() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            return Request(response.urljoin("/a"), "parse_a")

        def parse_a(self, response: Response) -> Any:
            return title(response)

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"title": "A"}]


@pytest.mark.parametrize("spelling", ["batch", "yield from"])
async def test_follow_all_may_be_yielded_whole_or_one_by_one(spelling: str) -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            links = response.follow_all("a", self.parse_leaf, cb_kwargs={"number": 7})
            if spelling == "batch":
                yield links
            else:
                yield from links

        def parse_leaf(self, response: Response, number: int) -> Any:
            return {**title(response), "number": number}

    run, _ = await crawl_one_page(Shape)
    assert sorted(run.items, key=str) == [{"title": "A", "number": 7}, {"title": "B", "number": 7}]


async def test_items_and_requests_may_be_mixed_in_one_list() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            if response.url.endswith("/a"):
                return title(response)
            return [title(response), response.follow("/a"), response.follow_all("a"), None]

    run, site = await crawl_one_page(Shape)
    assert {"title": "Home"} in run.items
    assert {"title": "A"} in run.items
    assert sorted(site.paths) == ["/", "/a", "/b"]


async def test_a_request_for_a_method_that_the_spider_lacks_is_an_error_that_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            yield response.follow("/a", "parse_nothing")

    run, site = await crawl_one_page(Shape)
    assert site.paths == ["/"]
    assert run.stats["failures"] == {"callback_error": 1}
    assert "parse_nothing" in caplog.text


async def test_a_batch_for_a_method_that_the_spider_lacks_is_an_error_before_anything_is_fetched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            yield response.follow_all("a", "parse_nothing")

    run, site = await crawl_one_page(Shape)
    assert site.paths == ["/"]
    assert run.stats["failures"] == {"callback_error": 1}
    assert "parse_nothing" in caplog.text


def test_a_lambda_is_refused_as_a_callback_because_it_has_no_name_to_store() -> None:
    with pytest.raises(TypeError, match="method of the spider"):
        Request("http://example.com/", lambda response: None)


# -- wrong types -----------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-27")
@pytest.mark.parametrize(("output", "type_name"), [(42, "int"), ("text", "str"), (b"x", "bytes"), (3.5, "float")])
async def test_anything_else_is_an_error_that_names_the_callback_and_the_type(
    output: Any, type_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            return output

    run, _ = await crawl_one_page(Shape)
    assert run.reason == "finished"
    assert run.stats["errors"] == 1
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert failure.reason == "callback_error"
    assert "parse" in str(failure.error)
    assert f"a {type_name};" in str(failure.error)
    assert str(failure.error) in caplog.text


async def test_an_item_class_instead_of_an_item_is_named_as_a_class() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            yield Plain

    run, _ = await crawl_one_page(Shape)
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert "type[" in str(failure.error)
    assert "Plain" in str(failure.error)


# -- raising ---------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-27")
@pytest.mark.parametrize("shape", ["plain", "generator", "coroutine", "async generator"])
async def test_raising_keeps_what_was_given_before_and_calls_the_errback_once(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            return getattr(self, shape.replace(" ", "_"))(response)

        def plain(self, response: Response) -> Any:
            raise KeyError("missing")

        def generator(self, response: Response) -> Any:
            yield {"n": 1}
            yield response.follow("/a", self.leaf)
            raise KeyError("missing")

        async def coroutine(self, response: Response) -> Any:
            raise KeyError("missing")

        async def async_generator(self, response: Response) -> Any:
            yield {"n": 1}
            yield response.follow("/a", self.leaf)
            raise KeyError("missing")

        def leaf(self, response: Response) -> Any:
            return title(response)

    run, _ = await crawl_one_page(Shape)
    assert run.items == ([{"n": 1}, {"title": "A"}] if "generator" in shape else [])
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert failure.reason == "callback_error"
    assert isinstance(failure.error, KeyError)
    assert failure.response is not None
    assert failure.response.status == 200
    assert run.stats["failures"] == {"callback_error": 1}
    assert run.stats["errors"] == 1
    assert "Traceback" in caplog.text
    assert caplog.text.count("KeyError: 'missing'") == 1


@pytest.mark.hostile("R-27")
async def test_one_page_that_raises_does_not_disturb_its_siblings() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            yield response.follow_all("a", self.leaf)

        def leaf(self, response: Response) -> Any:
            if response.url.endswith("/a"):
                raise RecursionError
            return title(response)

    run, _ = await crawl_one_page(Shape)
    assert run.reason == "finished"
    assert run.items == [{"title": "B"}]


async def test_an_errback_may_give_items_and_requests_as_a_callback_may() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            if response.url.endswith("/a"):
                return title(response)
            raise ValueError

        def note(self, failure: Failure) -> Any:
            yield {"failed": failure.request.url.rpartition("/")[2]}
            yield Request(failure.request.url + "a")

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"failed": ""}, {"title": "A"}]


@pytest.mark.hostile("R-27")
async def test_an_errback_that_raises_is_counted_and_not_called_again() -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            raise ValueError("first")

        def note(self, failure: Failure) -> Any:
            super().note(failure)
            raise ValueError("second")

    run, _ = await crawl_one_page(Shape)
    assert run.reason == "finished"
    assert len(run.spider.failures) == 1  # type: ignore[attr-defined]
    assert run.stats["failures"] == {"callback_error": 1, "errback_error": 1}


async def test_without_an_errback_the_spiders_own_failed_is_told() -> None:
    class Shape(OnePage):
        async def start(self) -> Any:
            yield self.request(f"{self.site}/nowhere")

        def failed(self, failure: Failure) -> Any:
            return {"reason": failure.reason}

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"reason": "status_404"}]


async def test_a_cancelled_error_of_the_users_own_tasks_is_an_error_like_any_other() -> None:
    class Shape(OnePage):
        async def parse(self, response: Response) -> Any:
            task = asyncio.create_task(asyncio.sleep(10))
            task.cancel()
            await task

    async with asyncio.timeout(20):
        run, site = await crawl_one_page(Shape, settings={"crawl": {"concurrency": 2}})
    assert run.reason == "finished"
    assert site.paths == ["/"]
    assert run.stats["failures"] == {"callback_error": 1}


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-28")
@pytest.mark.parametrize("shape", ["coroutine", "generator"])
async def test_an_async_callback_that_hangs_is_cancelled_and_counted(shape: str) -> None:
    cancelled = []

    class Shape(OnePage):
        def parse(self, response: Response) -> Any:
            return self.hang() if shape == "coroutine" else self.hang_between()

        async def hang(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append("coroutine")

        async def hang_between(self) -> Any:
            yield {"n": 1}
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append("generator")

    run, _ = await crawl_one_page(Shape, settings={"crawl": {"callback_timeout_seconds": 0.1}})
    assert run.reason == "finished"
    assert cancelled == [shape]
    assert run.items == ([{"n": 1}] if shape == "generator" else [])
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert failure.reason == "callback_timeout"
    assert run.stats["failures"] == {"callback_timeout": 1}


async def test_a_slow_pipeline_does_not_count_against_the_callbacks_time() -> None:
    class Slow:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            await asyncio.sleep(0.4)
            return item

    class Shape(OnePage):
        pipelines = (Slow(),)

        async def parse(self, response: Response) -> Any:
            yield {"n": 1}
            yield {"n": 2}

    run, _ = await crawl_one_page(Shape, settings={"crawl": {"callback_timeout_seconds": 0.6}})
    assert run.items == [{"n": 1}, {"n": 2}]
    assert run.stats["errors"] == 0


# -- start() ---------------------------------------------------------------------------------------------------------


async def test_start_urls_are_fetched_where_start_is_not_written() -> None:
    async with LocalSite() as site:
        site.page("/a", "<title>A</title>")

        class Default(Spider):
            name = "default"
            start_urls = (f"{site.url}/a",)

            def parse(self, response: Response) -> Any:
                return title(response)

        run = await run_spider(Default)
    assert run.items == [{"title": "A"}]


@pytest.mark.parametrize("shape", ["list", "coroutine", "generator"])
async def test_start_may_have_any_of_a_callbacks_shapes(shape: str) -> None:
    class Shape(OnePage):
        def start(self) -> Any:
            requests = [self.request(f"{self.site}/a"), {"from": "start"}]
            if shape == "list":
                return requests
            return self.later(requests) if shape == "coroutine" else (each for each in requests)

        async def later(self, requests: Any) -> Any:
            await asyncio.sleep(0)
            return requests

        def parse(self, response: Response) -> Any:
            return title(response)

    run, _ = await crawl_one_page(Shape)
    assert run.items == [{"from": "start"}, {"title": "A"}]


async def test_a_start_that_raises_fails_the_crawl_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    class Shape(OnePage):
        async def start(self) -> Any:
            yield {"n": 1}
            raise RuntimeError("no list of shops")

    run, _ = await crawl_one_page(Shape)
    assert run.reason == "failed"
    assert run.items == [{"n": 1}]
    assert "no list of shops" in caplog.text


async def test_a_string_for_start_urls_is_refused_instead_of_crawled_by_letter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wrong(Spider):
        name = "wrong"
        start_urls = "http://127.0.0.1/"  # type: ignore[assignment]

    run = await run_spider(Wrong)
    assert run.reason == "failed"
    assert "must be a list" in caplog.text


async def test_opened_runs_before_the_first_request_and_closed_after_the_last_page() -> None:
    seen: list[str] = []

    class Shape(OnePage):
        async def opened(self) -> None:
            seen.append("opened")

        def parse(self, response: Response) -> None:
            seen.append("page")

        async def closed(self, reason: str) -> None:
            seen.append(f"closed: {reason}")

    await crawl_one_page(Shape)
    assert seen == ["opened", "page", "closed: finished"]


async def test_an_opened_that_raises_ends_the_crawl_before_the_first_request(tmp_path: Any) -> None:
    class Shape(OnePage):
        async def opened(self) -> None:
            raise RuntimeError("no database")

    async with LocalSite() as site:
        with pytest.raises(RuntimeError, match="no database"):
            await run_spider(Shape, args={"site": site.url}, job=tmp_path / "job")
        assert site.journal == []
    assert msgspec.json.decode((tmp_path / "job" / "stats.json").read_bytes())["reason"] == "failed"


async def test_a_closed_that_raises_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Shape(OnePage):
        def parse(self, response: Response) -> None:
            return None

        async def closed(self, reason: str) -> None:
            raise RuntimeError("no goodbye")

    caplog.set_level(logging.ERROR)
    run, _ = await crawl_one_page(Shape)
    assert run.reason == "finished"
    assert run.stats["failures"] == {"close_error": 1}
    assert "no goodbye" in caplog.text
