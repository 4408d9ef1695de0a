"""`start()`: its requests take effect together where they come together, and at once where it waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from crawler import Response, Spider, crawl
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Awaiting(Spider):
    """Gives a second request when the first was answered: it would wait for ever if that were kept back."""

    name = "awaiting"
    site = ""

    async def start(self) -> Any:
        for number in range(3):
            self.answered = asyncio.Event()
            yield self.request(f"{self.site}/{number}")
            await self.answered.wait()

    def parse(self, response: Response) -> Any:
        self.answered.set()
        return {"url": response.url}


async def test_a_request_takes_effect_when_start_waits() -> None:
    async with LocalSite() as site:
        site.page("*", "x")
        async with asyncio.timeout(10):
            run = await run_spider(Awaiting, args={"site": site.url})
    assert site.paths == ["/0", "/1", "/2"]
    assert run.reason == "finished"


class Many(Spider):
    name = "many"
    site = ""
    count: int = 1000

    async def start(self) -> Any:
        for number in range(self.count):
            yield self.request(f"{self.site}/{number}")
            if number % 100 == 50:
                yield {"item": number}

    def parse(self, response: Response) -> Any:
        return {"url": response.url}


async def test_all_requests_and_items_come_once_each() -> None:
    async with LocalSite() as site:
        site.page("*", "x")
        run = await run_spider(Many, args={"site": site.url})
    assert run.reason == "finished"
    assert run.stats["pages"] == run.stats["added"] == 1000
    assert sorted(site.paths) == sorted(f"/{number}" for number in range(1000))
    assert sorted(item["item"] for item in run.items if "item" in item) == list(range(50, 1000, 100))
    assert len(run.items) == 1010


class Breaking(Many):
    """Fails after some requests."""

    name = "breaking"

    async def start(self) -> Any:
        for number in range(5):
            yield self.request(f"{self.site}/{number}")
        if not getattr(self, "mended", False):
            raise RuntimeError("no more")


async def test_what_start_gave_before_it_failed_is_not_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: Any = {"politeness": {"delay_seconds": 0, "obey_robots": False}}
    async with LocalSite() as site:
        site.page("*", "x")
        first = await crawl(Breaking, args={"site": site.url}, settings=settings, job=tmp_path / "job")
        assert (first.reason, first.stats["added"]) == ("failed", 5)
        second = await crawl(Breaking, args={"site": site.url, "mended": "y"}, settings=settings, job=tmp_path / "job")
    assert second.reason == "finished"
    assert sorted(site.paths) == [f"/{number}" for number in range(5)]
    assert "no more" in caplog.text


class Wrong(Many):
    name = "wrong"

    async def start(self) -> Any:
        yield self.request(f"{self.site}/0")
        yield self.request(f"{self.site}/1", callback="nobody")


async def test_a_request_that_cannot_be_taken_says_why_and_the_ones_before_it_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalSite() as site:
        site.page("*", "x")
        run = await crawl(Wrong, args={"site": site.url}, job=tmp_path / "job")
    assert (run.reason, run.stats["added"]) == ("failed", 1)
    assert "has no method 'nobody'" in caplog.text
