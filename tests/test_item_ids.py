"""`output.item_ids`: who reads a pipe gets an item at least once, and can tell by its `_id` when it comes again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import forked
import pytest

from crawler import Failure, Request, Response, Spider
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

WITH_IDS = {"output": {"item_ids": True}, "politeness": {"obey_robots": False}}
SPIDER = """
from crawler import Request, Spider, epochs

epochs.EPOCH_SECONDS = 0.05

class Ids(Spider):
    name = "ids"
    settings = {
        "politeness": {"delay_seconds": 0, "concurrency_per_host": 4, "obey_robots": False},
        "output": {"item_ids": True},
    }

    async def start(self):
        yield {"of": "start", "number": 0}
        yield {"of": "start", "number": 1}
        for number in range(20):
            yield self.request(f"{self.site}/{number}")

    def parse(self, response):
        page = response.url.rpartition("/")[2]
        for number in range(3):
            yield {"of": page, "number": number}
        yield Request(self.site + "/same", self.same, dont_filter=True, cb_kwargs={"page": page})

    def same(self, response, page):
        yield {"of": "same", "number": int(page)}
"""
EXPECTED = sorted(
    [
        *(("start", number) for number in range(2)),
        *((str(page), number) for page in range(20) for number in range(3)),
        *(("same", page) for page in range(20)),
    ]
)


@pytest.fixture
async def site() -> AsyncIterator[LocalSite]:
    async with LocalSite() as site:
        site.page("*", "a page", delay=0.02)
        yield site


def items_of(*runs: forked.Ended) -> list[dict[str, Any]]:
    """What came over standard output; a line that a kill cut is none."""
    lines = [line for run in runs for line in run.output.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


async def test_what_comes_again_after_a_kill_has_the_ids_that_it_had_and_nothing_else_has_them(
    tmp_path: Path, site: LocalSite
) -> None:
    (tmp_path / "spider.py").write_text(SPIDER)
    command = ("run", "spider.py", "-a", f"site={site.url}", "--job", "job", "-o", "-", "--quiet")
    runs = [
        await forked.run(tmp_path, *command, crash_at=point)
        for point in ("after_output_before_commit", "before_commit:2", "")
    ]
    assert [run.code for run in runs] == [-9, -9, 0], runs[-1].said
    found = items_of(*runs)
    assert len(found) > len(EXPECTED), "some came twice"
    by_id = {item["_id"]: (item["of"], item["number"]) for item in found}
    assert sorted(by_id.values()) == EXPECTED, "each once"
    assert all(by_id[item["_id"]] == (item["of"], item["number"]) for item in found), "no id for two items"


class Ids(Spider):
    name = "ids"
    site = ""

    async def start(self) -> Any:
        yield {"of": "start"}
        yield {"of": "start"}
        for number in range(5):
            yield self.request(f"{self.site}/{number}")
        for _ in range(3):
            yield Request(f"{self.site}/same", dont_filter=True)
        yield self.request(f"{self.site}/gone")

    def parse(self, response: Response) -> Any:
        yield {"of": response.url}
        yield {"of": response.url}
        if response.url.endswith("/0"):
            raise ValueError("after two items")

    def failed(self, failure: Failure) -> Any:
        yield {"of": "errback"}


async def written(spider: type[Spider], site: LocalSite, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    site.page("/gone", status=404)
    output = folder / "out.jsonl"
    run = await run_spider(
        spider, args={"site": site.url}, settings={**WITH_IDS, **settings}, job=folder / "job", output=output
    )
    items = [json.loads(line) for line in output.read_text().splitlines()]
    assert run.stats["items"] == len(items)
    return items


async def test_each_item_of_a_crawl_has_an_id_of_its_own(tmp_path: Path, site: LocalSite) -> None:
    items = await written(Ids, site, tmp_path)
    assert len(items) == 2 + 5 * 2 + 3 * 2 + 1 + 1
    assert len({item["_id"] for item in items}) == len(items)
    assert all(next(iter(item)) == "_id" for item in items), "it comes first"


async def test_items_of_start_are_numbered_and_those_of_a_page_begin_alike(tmp_path: Path, site: LocalSite) -> None:
    items = await written(Ids, site, tmp_path)
    assert [item["_id"] for item in items if item["of"] == "start"] == ["start-0", "start-1"]
    of_a_page = [item["_id"] for item in items if item["of"] == f"{site.url}/1"]
    assert [identity.rpartition("-")[2] for identity in of_a_page] == ["0", "1"]
    assert len({identity.rpartition("-")[0] for identity in of_a_page}) == 1


async def test_unfiltered_requests_of_one_url_have_different_ids(tmp_path: Path, site: LocalSite) -> None:
    items = await written(Ids, site, tmp_path)
    of_the_same = [item["_id"] for item in items if item["of"] == f"{site.url}/same"]
    assert len(of_the_same) == len(set(of_the_same)) == 6


async def test_an_items_own_id_is_kept_and_without_the_setting_there_is_none(tmp_path: Path, site: LocalSite) -> None:
    class Own(Ids):
        def parse(self, response: Response) -> Any:
            yield {"_id": f"own {response.url}", "of": "a page"}

    items = await written(Own, site, tmp_path / "with")
    assert {item["_id"] for item in items if item["of"] == "a page"} == {
        f"own {site.url}/{page}" for page in ("0", "1", "2", "3", "4", "same")
    }
    plain = await written(Ids, site, tmp_path / "without", output={"item_ids": False})
    assert not any("_id" in item for item in plain)


async def test_another_crawl_has_other_ids(tmp_path: Path, site: LocalSite) -> None:
    def of_pages(items: list[dict[str, Any]]) -> set[str]:
        return {item["_id"] for item in items if item["of"] != "start"}

    first, second = [await written(Ids, site, tmp_path / name) for name in ("first", "second")]
    assert not of_pages(first) & of_pages(second)
