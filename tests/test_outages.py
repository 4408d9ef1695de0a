"""A host that is down: its circuit opens, a probe finds out, nothing is lost that was not really lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from crawler import Failure, Response, Spider
from crawler.api import _crawl as assemble
from crawler.testing import FakeClock, LocalSite, run_spider

if TYPE_CHECKING:
    from pathlib import Path

PAGES = 40
POLITENESS = {"delay_seconds": 1, "jitter": 0, "obey_robots": False, "concurrency_per_host": 1}


class Many(Spider):
    name = "many"
    site = ""
    failures: tuple[Failure, ...] = ()

    async def start(self) -> Any:
        for number in range(PAGES):
            yield self.request(f"{self.site}/{number}")

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}

    def failed(self, failure: Failure) -> None:
        self.failures = (*self.failures, failure)


class Outage:
    """Answers well, then not at all from `begins` to `ends`, on the clock of the crawl; and counts."""

    def __init__(self, clock: FakeClock, begins: float, ends: float) -> None:
        self._clock = clock
        self._zero = clock.now()
        self._begins, self._ends = begins, ends
        self.asked = 0

    async def __call__(self, request: web.Request) -> web.Response:
        if self._begins <= self._clock.now() - self._zero < self._ends:
            self.asked += 1
            return web.Response(status=503)
        return web.Response(text="ok")


@pytest.mark.hostile("R-21")
async def test_ten_minutes_without_the_host_cost_no_page_and_few_requests() -> None:
    clock = FakeClock()
    outage = Outage(clock, 10, 610)
    async with LocalSite() as site:
        site.route("*", outage)
        run = await run_spider(Many, args={"site": site.url}, settings={"politeness": POLITENESS}, clock=clock)
    assert len(run.items) == PAGES
    assert outage.asked <= 25
    assert len(site.journal) <= 1.6 * PAGES


async def test_a_host_that_never_answers_is_given_up_and_what_waits_for_it_fails_without_being_sent() -> None:
    clock = FakeClock()
    async with LocalSite() as site:
        site.drop("*")
        settings = {"politeness": POLITENESS, "retry": {"times": 0}}
        run = await run_spider(Many, args={"site": site.url}, settings=settings, clock=clock)
        assert len(site.journal) == 22, "twenty failures and two probes"
    assert isinstance(run.spider, Many)
    reasons = [failure.reason for failure in run.spider.failures]
    assert len(reasons) == PAGES
    assert reasons.count("host_down") >= PAGES - 22
    down = next(failure for failure in run.spider.failures if failure.reason == "host_down")
    assert "in a row" in str(down.error)
    assert run.stats["failures"]["host_down"] == reasons.count("host_down")


async def test_a_probe_that_fails_takes_no_try_from_its_request() -> None:
    clock = FakeClock()
    async with LocalSite() as site:
        site.page("*", "fine")
        for number in range(PAGES):
            site.page(f"/{number}", "fine")
        site.page("/0", "down", status=500, times=8)
        settings = {"politeness": {**POLITENESS, "circuit_failures": 2}, "retry": {"times": 3, "base_seconds": 0.01}}

        class One(Many):
            async def start(self) -> Any:
                await self.fetch(f"{self.site}/1")  # it has answered before
                yield self.request(f"{self.site}/0")

        run = await run_spider(One, args={"site": site.url}, settings=settings, clock=clock)
    assert [item["url"] for item in run.items] == [f"{site.url}/0"]
    assert len(site.requests("/0")) == 9


async def test_an_inline_fetch_of_a_host_that_is_given_up_fails_at_once() -> None:
    clock = FakeClock()

    class Inline(Many):
        async def start(self) -> Any:
            for _ in range(5):
                try:
                    await self.fetch(f"{self.site}/")
                except Exception as error:
                    yield {"reason": getattr(error, "reason", "")}

    async with LocalSite() as site:
        site.drop("*")
        settings = {"politeness": {**POLITENESS, "circuit_failures": 1}, "retry": {"times": 0}}
        run = await run_spider(Inline, args={"site": site.url}, settings=settings, clock=clock)
        assert len(site.journal) == 3
    assert [item["reason"] for item in run.items][3:] == ["host_down"] * 2


async def test_a_host_whose_every_answer_fails_gets_no_more_tries_than_the_budget_of_a_host() -> None:
    async with LocalSite() as site:
        site.page("*", "down", status=500)
        settings = {"politeness": {"obey_robots": False}, "retry": {"times": 9, "host_failures": 30}}
        run = await run_spider(Many, args={"site": site.url}, settings=settings)
    assert run.stats["retries"] <= 32
    assert run.stats["failures"] == {"status_500": PAGES}


@pytest.mark.hostile("R-21")
async def test_an_open_circuit_survives_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    times: list[float] = []
    settings = {
        "politeness": {**POLITENESS, "circuit_failures": 3},
        "retry": {"times": 9, "base_seconds": 0.01},
    }

    def crawl(site: LocalSite) -> Any:
        return assemble(Many, {"site": site.url}, settings, (), job=tmp_path / "job", clock=clock)

    async with LocalSite() as site:
        running = crawl(site)

        async def down(request: web.Request) -> web.Response:
            times.append(clock.now())
            if len(times) == 3:
                running.engine.stop("interrupted")
            return web.Response(status=503) if len(times) < 4 else web.Response(text="ok")

        site.route("*", down)
        async with running:
            assert (await running.run()).reason == "interrupted"
        assert len(times) == 3
        async with crawl(site) as again:
            assert (await again.run()).reason == "finished"
    assert times[3] - times[2] >= 60, "its pause, and not a delay"
    assert again.stats.total.pages == PAGES
