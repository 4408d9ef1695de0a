"""Items that nobody would take: in the job's `refused.jsonl`, each with its reason, and the others are written."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import attrs
import forked
import msgspec
import pydantic
import pytest

from crawler import DropItem, Response, Spider
from crawler.dead_letter import dead_letter
from crawler.errors import InvalidItem, UsageError
from crawler.export.late import LateLinesExporter
from crawler.pipelines import Validate
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crawler.testing import Run


class Items(Spider):
    """`/` gives what `items` has."""

    name = "items"
    site = ""
    items: list[Any] = []
    settings = {"politeness": {"obey_robots": False}}

    async def start(self) -> Any:
        yield self.request(f"{self.site}/")

    def parse(self, response: Response) -> Any:
        yield from self.items


async def crawled(spider: type[Spider], folder: Path, items: list[Any], *, job: bool = True, **settings: Any) -> Run:
    async with LocalSite() as site:
        site.page("*", "ok")
        return await run_spider(
            spider,
            args={"site": site.url, "items": items},
            settings=settings,
            job=folder / "job" if job else None,
            output=folder / "out.jsonl",
        )


def refused(folder: Path) -> list[dict[str, Any]]:
    assert (folder / "job" / "refused.jsonl").stat().st_mode & 0o777 == 0o600
    return [json.loads(line) for line in (folder / "job" / "refused.jsonl").read_text().splitlines()]


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


class Picky:
    async def process_item(self, item: Any, spider: Spider) -> Any:
        if item["n"] == 1:
            raise KeyError("price")
        if item["n"] == 2:
            raise DropItem("not wanted")
        if item["n"] == 3:
            return None
        return item


class Picked(Items):
    pipelines = (Picky,)


@pytest.mark.hostile("R-31")
async def test_an_item_that_a_pipeline_raises_on_is_kept_with_the_reason_and_the_others_are_written(
    tmp_path: Path,
) -> None:
    run = await crawled(Picked, tmp_path, [{"n": number} for number in range(5)])
    first, second = refused(tmp_path)
    assert run.items == written(tmp_path) == [{"n": 0}, {"n": 4}]
    assert dt.datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first.pop("url").startswith("http://127.0.0.1:")
    assert first == {"pipeline": "Picky", "error": "KeyError", "message": "'price'", "type": "dict", "item": {"n": 1}}
    assert (second["item"], second["message"].partition(";")[0]) == ({"n": 3}, "process_item returned None")
    assert run.stats["failures"] == {"pipeline_error": 2}
    assert (run.stats["items"], run.stats["items_dropped"], run.stats["items_refused"]) == (2, 3, 2)


async def test_an_item_that_an_output_cannot_hold_is_kept_as_far_as_it_can_be(tmp_path: Path) -> None:
    class Nameless:
        def __repr__(self) -> str:
            raise ValueError

    item = {"n": 1, "when": dt.date(2026, 1, 2), "odd": [object()], "nameless": Nameless(), (1, 2): 3}
    run = await crawled(Items, tmp_path, [item, {"n": 2}])
    (letter,) = refused(tmp_path)
    assert written(tmp_path) == [{"n": 2}]
    assert letter["output"] == str(tmp_path / "out.jsonl")
    assert letter["error"] == "TypeError"
    assert letter["item"].pop("odd").startswith("[<object object at")
    assert letter["item"].pop("nameless").startswith("<")
    assert letter["item"] == {"n": 1, "when": "2026-01-02", "(1, 2)": 3}
    assert run.stats["failures"] == {"item_error": 1}


async def test_where_nothing_is_refused_there_is_no_such_file_and_without_a_job_none_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await crawled(Picked, tmp_path, [{"n": 0}, {"n": 2}])
    assert not (tmp_path / "job" / "refused.jsonl").exists()
    run = await crawled(Picked, tmp_path / "other", [{"n": 1}], job=False)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["out.jsonl"]
    assert run.stats["items_refused"] == 1
    assert "Picky.process_item refused a dict" in caplog.text


async def test_an_item_of_start_is_said_to_be_of_start(caplog: pytest.LogCaptureFixture) -> None:
    class Early(Picked):
        async def start(self) -> Any:
            yield {"n": 1}

    await run_spider(Early)
    assert "Picky.process_item refused a dict of start(): 'price'" in caplog.text


async def test_the_next_crawl_in_the_folder_adds_to_what_was_refused_and_the_name_is_taken(tmp_path: Path) -> None:
    for _ in range(2):
        await crawled(Picked, tmp_path, [{"n": 1}])
    assert [letter["item"] for letter in refused(tmp_path)] == [{"n": 1}] * 2
    async with LocalSite() as site:
        with pytest.raises(UsageError, match="the same output is named twice"):
            await run_spider(
                Items, args={"site": site.url}, job=tmp_path / "job", output=tmp_path / "job" / "refused.jsonl"
            )


async def test_a_file_that_comes_late_is_cut_back_to_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "refused.jsonl"

    async def opened(position: bytes | None) -> LateLinesExporter:
        output = LateLinesExporter(path)
        await output.open(position)
        return output

    first = await opened(None)
    nothing = await first.flush()
    await first.sync()
    assert not path.exists()
    first.append(b'{"n":1}\n')
    one = await first.flush()
    await first.close()
    assert path.read_bytes() == b'{"n":1}\n'
    await (await opened(nothing)).close()
    assert not path.exists(), "it was written in an epoch that never ended"
    path.write_bytes(b'{"n":1}\n{"n":2')
    again = await opened(one)
    again.append(b'{"n":3}\n')
    await again.flush()
    await again.close()
    assert path.read_bytes() == b'{"n":1}\n{"n":3}\n'


def test_what_was_refused_in_start_has_no_page() -> None:
    letter = dead_letter({"n": 1}, ValueError("x" * 5000), now=0.0, url="", pipeline="P")
    assert letter["time"] == "1970-01-01T00:00:00.000Z"
    assert len(letter["message"]) == 1000


# -- validation ------------------------------------------------------------------------------------------------------


@dataclass
class Author:
    name: str


@dataclass
class Data:
    title: str
    price: float
    authors: list[Author]


@attrs.define
class Attrs:
    title: str
    price: float


class Struct(msgspec.Struct, rename="camel"):
    full_title: str
    price: float


class Model(pydantic.BaseModel):
    title: str
    price: float = pydantic.Field(alias="Price")


class Typed(TypedDict):
    title: str
    price: float


def of_each_kind() -> Iterator[Any]:
    right, wrong = [Author("a")], [Author(7)]  # type: ignore[arg-type]
    yield pytest.param(Validate, Data("t", 1.5, right), Data("t", 1.5, wrong), "$.authors[0].name", id="nested")
    yield pytest.param(Validate, Data("t", 1, right), Data("t", "1", right), "$.price", id="dataclass")  # type: ignore[arg-type]
    yield pytest.param(Validate, Attrs("t", 1.5), Attrs("t", None), "$.price", id="attrs")  # type: ignore[arg-type]
    yield pytest.param(Validate, Struct("t", 1.5), Struct(3, 1.5), "$.fullTitle", id="msgspec")  # type: ignore[arg-type]
    made = Model.model_construct(title="t", price="dear")
    yield pytest.param(Validate, Model(title="t", Price=1.5), made, "$.Price", id="pydantic")
    yield pytest.param(Validate(Typed), {"title": "t", "price": 1.5}, {"title": "t"}, "`price`", id="dict")
    yield pytest.param(Validate(Model), {"title": "t", "Price": 1}, {"title": "t", "Price": "x"}, "$.Price", id="model")


@pytest.mark.hostile("R-32")
@pytest.mark.parametrize(("pipeline", "right", "wrong", "where"), [*of_each_kind()])
async def test_exactly_the_items_that_are_not_as_their_class_says_are_refused_with_the_field(
    pipeline: Any, right: Any, wrong: Any, where: str, tmp_path: Path
) -> None:
    class Validated(Items):
        pipelines = (pipeline,)

    run = await crawled(Validated, tmp_path, ([right] * 9 + [wrong]) * 10)
    assert run.items == [right] * 90
    assert len(written(tmp_path)) == run.stats["items"] == 90
    letters = refused(tmp_path)
    assert len(letters) == run.stats["items_refused"] == 10
    assert {letter["error"] for letter in letters} == {"InvalidItem"}
    assert all(where in letter["message"] for letter in letters), letters[0]


async def test_a_dict_that_nobody_said_anything_of_passes_and_items_go_on_as_they_were() -> None:
    validate = Validate()
    for item in ({"n": object()}, Data("t", 1, [])):
        assert await validate.process_item(item, Spider) is item  # type: ignore[arg-type]
    with pytest.raises(InvalidItem, match=r"Attrs: Expected `str`, got `int` - at `\$\.title`"):
        await validate.process_item(Attrs(1, 1.0), Spider)  # type: ignore[arg-type]


LIMITED = """
from dataclasses import dataclass
from crawler import Spider
from crawler.pipelines import Validate

@dataclass
class Book:
    price: float

class Limited(Spider):
    name = "limited"
    pipelines = [Validate]

    async def start(self):
        for number in range(4):
            yield Book(1.5 if number % 2 else "dear")
"""


@pytest.mark.hostile("R-32", "R-43")
@pytest.mark.parametrize(("limit", "code"), [(0, 0), (2, 0), (1, 1)])
async def test_more_refused_items_than_the_limit_are_a_failure(limit: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "spider.py").write_text(LIMITED)
    options = ("--job", "job", "-o", "out.jsonl", "-s", f"output.refused_limit={limit}")
    ended = await forked.run(tmp_path, "run", "spider.py", *options)
    assert ended.code == code, ended.said
    assert ("output.refused_limit" in ended.said) == bool(code)
    assert "items refused  2" in ended.said
    assert len(refused(tmp_path)) == 2
    shown = await forked.run(tmp_path, "status", "--job", "job")
    assert "items refused  2" in shown.output.read_text()


# -- pipelines that take their time ----------------------------------------------------------------------------------


class Waiting:
    """Waits at one item for ever."""

    async def process_item(self, item: Any, spider: Spider) -> Any:
        if item["n"] == 1:
            await asyncio.Event().wait()
        return item


@pytest.mark.hostile("R-31")
async def test_a_pipeline_that_hangs_is_cut_and_the_item_is_refused(tmp_path: Path) -> None:
    class Hanging(Items):
        pipelines = (Waiting,)

    run = await crawled(
        Hanging, tmp_path, [{"n": 0}, {"n": 1}, {"n": 2}], crawl={"callback_timeout_seconds": 0.2, "concurrency": 1}
    )
    assert written(tmp_path) == [{"n": 0}, {"n": 2}]
    (letter,) = refused(tmp_path)
    assert letter["message"] == "Waiting.process_item took longer than 0.2 s and was cancelled"
    assert run.stats["failures"] == {"pipeline_timeout": 1}


async def test_what_a_pipeline_cancels_itself_is_the_items_fault_and_not_the_crawls_end(tmp_path: Path) -> None:
    class Cancelling:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            task = asyncio.ensure_future(asyncio.sleep(10))
            task.cancel()
            await task

    class Cancelled(Items):
        pipelines = (Cancelling,)

    run = await crawled(Cancelled, tmp_path, [{"n": 1}])
    assert run.reason == "finished"
    assert refused(tmp_path)[0]["message"] == "Cancelling.process_item awaited what was cancelled"


async def test_a_fetch_of_a_pipeline_waits_for_its_hosts_turn_without_a_limit(tmp_path: Path) -> None:
    class Fetching:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            response = await spider.fetch(f"{spider.site}/more")  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            return {**item, "more": response.text}

    class Fetched(Items):
        pipelines = (Fetching,)

    run = await crawled(
        Fetched, tmp_path, [{"n": 1}], crawl={"callback_timeout_seconds": 0.2},
        politeness={"delay_seconds": 0.5, "jitter": 0, "adaptive": False},
    )  # fmt: skip
    assert run.items == [{"n": 1, "more": "ok"}]
    assert run.stats["errors"] == 0


@pytest.mark.hostile("R-31")
async def test_a_slow_pipeline_slows_the_intake() -> None:
    class Held:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            await spider.gate.wait()  # type: ignore[attr-defined]
            return item

    class Slow(Items):
        pipelines = (Held,)
        gate: asyncio.Event

        async def start(self) -> Any:
            for number in range(20):
                yield self.request(f"{self.site}/{number}")

    gate = asyncio.Event()
    async with LocalSite() as site:
        site.page("*", "ok")
        args = {"site": site.url, "items": [{"n": 1}], "gate": gate}
        settings = {"crawl": {"concurrency": 4}, "politeness": {"concurrency_per_host": 20}}
        running = asyncio.ensure_future(run_spider(Slow, args=args, settings=settings))
        await site.reached(4)
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert len(site.journal) == 4, "each worker has its page until its items are through"
        gate.set()
        assert len((await running).items) == 20
