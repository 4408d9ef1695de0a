"""What a crawl says of itself at its end: how it ended, its exit code, and numbers that add up whatever happened."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import forked
import pytest
from aiohttp import web

from crawler import DropItem, Response, Spider
from crawler.errors import OutputError
from crawler.testing import Canary, Chaos, LocalSite, run_spider

if TYPE_CHECKING:
    from pathlib import Path

OURS = {"robots", "blocked_address", "depth"}
"""What our own rules refused, which is no error."""
LINKS = ("/ok/1", "/ok/2", "/ok/2", "/raises", "/drops", "/refuses", "/gone", "/moved", "/loop", "/private", "/dies")


class Choosy:
    async def process_item(self, item: Any, spider: Spider) -> Any:
        if item["kind"] == "drops":
            raise DropItem
        if item["kind"] == "refuses":
            raise ValueError
        return item


class Mixed(Spider):
    """Meets everything that can become of a request or an item."""

    name = "mixed"
    site = canary = ""
    pipelines = (Choosy,)
    settings = {"retry": {"times": 1}, "politeness": {"circuit_failures": 0}, "crawl": {"depth_limit": 3}}

    async def start(self) -> Any:
        yield self.request(f"{self.site}/")

    def parse(self, response: Response) -> Any:
        kind = response.url.removeprefix(self.site).split("/")[1]
        yield {"kind": kind}
        if kind == "raises":
            raise ValueError
        yield response.follow_all("a")


@pytest.mark.hostile("R-43")
@pytest.mark.parametrize("limit", [0, 4])
async def test_after_a_crawl_in_which_everything_happens_the_numbers_add_up(limit: int, tmp_path: Path) -> None:
    chaos = Chaos(0.4, seed=3, kinds=("reset", "status_503", "cut_body"))
    async with LocalSite(chaos=chaos) as site, Canary() as canary:
        links = "".join(f'<a href="{link}">.</a>' for link in (*LINKS, canary.url, "http://elsewhere.test/"))
        site.robots("User-agent: *\nDisallow: /private\n")
        site.page("/", links)
        site.page("*", '<a href="/deep/1">.</a>')
        site.page("/deep/1", '<a href="/deep/2">.</a>')
        site.page("/deep/2", '<a href="/deep/3">.</a>')
        site.page("/gone", status=404)
        site.redirect("/moved", "/ok/1")
        site.redirect("/loop", "/loop")
        site.drop("/dies")

        class Here(Mixed):
            allowed_domains = ("127.0.0.1", "127.0.0.9")

        run = await run_spider(
            Here,
            args={"site": site.url},
            settings={"crawl": {"page_limit": limit}},
            job=tmp_path / "job",
            output=tmp_path / "out.jsonl",
        )
        assert canary.connections == 0
        asked = len(site.requests())
    stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert run.reason == stats["reason"] == ("page_limit" if limit else "finished")
    assert stats["added"] == stats["done"] + stats["failed"] + stats["dropped"] + stats["waiting"]
    assert bool(stats["waiting"]) == bool(limit)
    # Where a used connection turns out to be closed, the same request goes over a new one: the site may see both.
    assert asked - chaos.counts["reset"] - len(site.requests("/dies")) <= stats["requests"] <= asked
    assert stats["responses"] == sum(stats["status"].values()) <= stats["requests"]
    assert stats["errors"] == sum(count for reason, count in stats["failures"].items() if reason not in OURS)
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    assert stats["items"] == len(written) == len(run.items)
    if not limit:
        assert chaos.counts.total() > 2
        assert stats["failures"].keys() >= {"callback_error", "pipeline_error", "status_404", *OURS}
        refused = (tmp_path / "job" / "refused.jsonl").read_text().splitlines()
        assert stats["items_refused"] == len(refused) == 1
        assert stats["items_dropped"] == 2
        assert stats["pages"] == stats["items"] + stats["items_dropped"], "each page gave an item, kept or not"
        assert (stats["offsite"], stats["robots_denied"]) == (1, 1)


PAGES = """
from crawler import Spider

class Pages(Spider):
    name = "pages"
    settings = {"politeness": {"delay_seconds": 0, "obey_robots": False}}

    async def start(self):
        yield self.request(self.site + "/?page=1", cb_kwargs={"page": 1})

    def parse(self, response, page):
        yield {"page": page}
        yield response.follow(f"/?page={page + 1}", cb_kwargs={"page": page + 1})
"""


@pytest.mark.hostile("R-37", "R-43")
@pytest.mark.parametrize(
    ("budget", "reason", "pages"),
    [
        ("crawl.page_limit=15", "page_limit", 15),
        ("crawl.item_limit=15", "item_limit", 15),
        ("crawl.depth_limit=14", "finished", 15),
        ("crawl.pages_per_host=15", "finished", 15),
        ("crawl.time_limit_seconds=0.5", "time_limit", None),
    ],
)
async def test_pagination_without_an_end_is_ended_by_a_budget_which_is_a_finish(
    budget: str, reason: str, pages: int | None, tmp_path: Path
) -> None:
    (tmp_path / "spider.py").write_text(PAGES)
    async with LocalSite() as site:
        site.page("*", "more")
        options = ("-a", f"site={site.url}", "--job", "job", "-o", "out.jsonl", "-s", budget)
        ended = await forked.run(tmp_path, "run", "spider.py", *options)
        asked = len(site.requests())
    assert ended.code == 0, ended.said
    stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert stats["reason"] == reason
    assert stats["pages"] == stats["items"] == len((tmp_path / "out.jsonl").read_text().splitlines())
    assert pages is None or stats["pages"] == asked == pages


@pytest.mark.hostile("R-33")
async def test_a_second_crawl_on_the_same_output_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    class One(Spider):
        name = "one"
        site = ""

        async def start(self) -> Any:
            yield self.request(f"{self.site}/")

        def parse(self, response: Response) -> Any:
            yield {"text": response.text}

    may_answer = asyncio.Event()

    async def held(request: web.Request) -> web.Response:
        await may_answer.wait()
        return web.Response(text="ok")

    async with LocalSite() as site:
        site.route("/", held)
        options: dict[str, Any] = {"args": {"site": site.url}, "output": tmp_path / "out.jsonl"}
        first = asyncio.ensure_future(run_spider(One, **options))
        await site.reached(2)
        with pytest.raises(OutputError, match="is being written by another output or another crawl"):
            await run_spider(One, **options)
        may_answer.set()
        assert (await first).items == [{"text": "ok"}]
    assert (tmp_path / "out.jsonl").read_text() == '{"text":"ok"}\n'
