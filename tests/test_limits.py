"""The limits of a crawl: each ends it in good order, with its reason, and those that count are exact."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from crawler import Response, Spider
from crawler.testing import FakeClock, LocalSite, run_spider

if TYPE_CHECKING:
    from pathlib import Path

MANY_AT_ONCE = {"concurrency_per_host": 64, "obey_robots": False}


class Endless(Spider):
    """Every page links to ten more and has three items."""

    name = "endless"
    site = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/1")

    def parse(self, response: Response) -> Any:
        number = int(response.url.rpartition("/")[2])
        yield from ({"page": number, "item": item} for item in range(3))
        yield [response.follow(f"/{number * 10 + digit}") for digit in range(10)]


@pytest.mark.hostile("R-37")
async def test_the_page_limit_is_exact_with_many_requests_in_flight() -> None:
    async with LocalSite() as site:
        site.page("*", "ok", delay=0.005)
        settings = {"crawl": {"page_limit": 100, "concurrency": 64}, "politeness": MANY_AT_ONCE}
        run = await run_spider(Endless, args={"site": site.url}, settings=settings)
    assert run.reason == "page_limit"
    assert run.stats["pages"] == 100
    assert len(site.paths) == 100
    assert len(run.items) == 300


async def test_a_page_limit_larger_than_the_site_is_not_the_reason() -> None:
    class Single(Endless):
        def parse(self, response: Response) -> Any:
            yield {"n": 1}

    async with LocalSite() as site:
        site.page("*", "ok")
        run = await run_spider(Single, args={"site": site.url}, settings={"crawl": {"page_limit": 100}})
    assert run.reason == "finished"


async def test_failures_do_not_use_up_the_page_limit() -> None:
    class Some(Spider):
        name = "some"
        site = ""

        async def start(self) -> Any:
            for number in range(20):
                yield self.request(f"{self.site}/{number}")

        def parse(self, response: Response) -> Any:
            yield {"url": response.url}

    async def every_other(request: web.Request) -> web.Response:
        return web.Response(status=404 if int(request.path[1:]) % 2 else 200)

    async with LocalSite() as site:
        site.route("*", every_other)
        settings = {"crawl": {"page_limit": 10}, "politeness": MANY_AT_ONCE}
        run = await run_spider(Some, args={"site": site.url}, settings=settings)
    assert run.stats["pages"] == 10
    assert len(run.items) == 10


async def test_the_item_limit_is_exact_in_the_output(tmp_path: Path) -> None:
    output = tmp_path / "items.jsonl"
    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {"crawl": {"item_limit": 50, "concurrency": 64}, "politeness": MANY_AT_ONCE}
        run = await run_spider(Endless, args={"site": site.url}, settings=settings, output=output)
    assert run.reason == "item_limit"
    assert run.stats["items"] == 50
    assert len(output.read_text().splitlines()) == 50


@pytest.mark.parametrize("limit", [1, 2])
async def test_the_depth_limit_counts_links_from_the_start(limit: int) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {"crawl": {"depth_limit": limit}, "politeness": MANY_AT_ONCE}
        run = await run_spider(Endless, args={"site": site.url}, settings=settings)
    assert run.reason == "finished"
    assert run.stats["pages"] == sum(10**depth for depth in range(limit + 1))
    assert run.stats["depth_max"] == limit
    assert run.stats["failures"] == {"depth": 10 ** (limit + 1)}
    assert run.stats["errors"] == 0


async def test_the_error_limit_fails_the_crawl() -> None:
    class Broken(Endless):
        def parse(self, response: Response) -> Any:
            yield [response.follow(f"/{number}") for number in range(50)]
            raise ValueError

    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {"crawl": {"error_limit": 5, "concurrency": 1}}
        run = await run_spider(Broken, args={"site": site.url}, settings=settings)
    assert run.reason == "error_limit"
    assert run.stats["errors"] == 5
    assert len(site.paths) == 5


async def test_refusals_by_our_own_rules_do_not_count_as_errors() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /1")
        site.page("*", "ok")
        run = await run_spider(Endless, args={"site": site.url}, settings={"crawl": {"error_limit": 1}})
    assert run.reason == "finished"
    assert run.stats["robots_denied"] == 1


@pytest.mark.hostile("R-37")
async def test_the_time_limit_ends_an_endless_crawl() -> None:
    clock = FakeClock()
    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {"crawl": {"time_limit_seconds": 60}, "politeness": {"delay_seconds": 5}}
        run = await run_spider(Endless, args={"site": site.url}, settings=settings, clock=clock)
    assert run.reason == "time_limit"
    assert 1 <= run.stats["pages"] <= 13
    assert 60 <= run.stats["elapsed_seconds"] < 120


async def test_the_time_limit_ends_a_crawl_that_only_waits() -> None:
    class Patient(Endless):
        async def start(self) -> Any:
            yield self.request(f"{self.site}/1", not_before=3600)

    async with LocalSite() as site:
        async with asyncio.timeout(20):
            settings = {"crawl": {"time_limit_seconds": 0.2}}
            run = await run_spider(Patient, args={"site": site.url}, settings=settings)
        assert site.journal == []
    assert run.reason == "time_limit"


async def test_requests_in_flight_at_a_limit_get_the_time_to_finish(tmp_path: Path) -> None:
    class Pair(Spider):
        name = "pair"
        site = ""

        async def start(self) -> Any:
            yield [self.request(f"{self.site}/slow"), self.request(f"{self.site}/fast")]

        def parse(self, response: Response) -> Any:
            yield {"url": response.url.rpartition("/")[2]}

    async with LocalSite() as site:
        site.page("/slow", "ok", delay=0.2)
        site.page("/fast", "ok")
        settings = {"crawl": {"item_limit": 1}, "politeness": {"obey_robots": False}}
        output = tmp_path / "items.jsonl"
        run = await run_spider(Pair, args={"site": site.url}, settings=settings, output=output)
    assert run.reason == "item_limit"
    assert run.stats["pages"] == 2
    assert output.read_text() == '{"url":"fast"}\n'


async def test_what_takes_longer_than_the_drain_is_cut_off_and_goes_back() -> None:
    class Pair(Spider):
        name = "pair"
        site = ""

        async def start(self) -> Any:
            yield [self.request(f"{self.site}/hangs"), self.request(f"{self.site}/fast")]

        def parse(self, response: Response) -> Any:
            yield {"url": response.url}

    async with LocalSite() as site:
        site.page("/hangs", "ok", delay=30)
        site.page("/fast", "ok")
        settings = {"crawl": {"item_limit": 1, "drain_seconds": 0.1}, "politeness": {"obey_robots": False}}
        async with asyncio.timeout(20):
            run = await run_spider(Pair, args={"site": site.url}, settings=settings)
    assert run.reason == "item_limit"
    assert run.stats["pages"] == 1
    assert run.stats["errors"] == 0


async def test_the_start_requests_are_not_all_held_in_flight_when_a_limit_is_reached() -> None:
    given = []

    class Long(Spider):
        name = "long"
        site = ""

        async def start(self) -> Any:
            number = 0
            while True:
                number += 1
                given.append(number)
                yield self.request(f"{self.site}/{number}")
                await asyncio.sleep(0)

        def parse(self, response: Response) -> None:
            return None

    async with LocalSite() as site:
        site.page("*", "ok")
        async with asyncio.timeout(10):
            run = await run_spider(Long, args={"site": site.url}, settings={"crawl": {"page_limit": 3}})
    assert run.reason == "page_limit"
    assert len(site.paths) == 3
