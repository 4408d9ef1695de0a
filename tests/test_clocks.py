"""Clocks that jump: a crawl keeps its pace and does not stall, while it runs and from one run to the next."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from crawler import Response, Spider
from crawler.clock import SystemClock
from crawler.testing import FakeClock, LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR, TEN_YEARS = 3600.0, 10 * 365 * 86400.0


class Wall:
    """The system's clock, which anybody may set."""

    def __init__(self) -> None:
        self._real = time.time
        self.step = 0.0
        self.stopped: float | None = None

    def __call__(self) -> float:
        return self._real() + self.step if self.stopped is None else self.stopped


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    clock = Wall()
    monkeypatch.setattr(time, "time", clock)
    return clock


def freeze(wall: Wall) -> None:
    wall.stopped = wall()


JUMPS: dict[str, Callable[[Wall], None]] = {
    "an hour ahead": lambda wall: setattr(wall, "step", HOUR),
    "an hour back": lambda wall: setattr(wall, "step", -HOUR),
    "ten years ahead": lambda wall: setattr(wall, "step", TEN_YEARS),
    "stands still": freeze,
}


class Reader(Spider):
    """Fetches `paths` of `site`."""

    name = "reader"
    site = ""
    paths: tuple[str, ...] = ()

    async def start(self) -> Any:
        for path in self.paths:
            yield self.request(f"{self.site}{path}")

    def parse(self, response: Response) -> Any:
        yield {"path": response.url.removeprefix(self.site)}


@pytest.mark.hostile("R-24")
@pytest.mark.parametrize("jump", JUMPS)
async def test_the_clock_of_a_crawl_does_not_follow_one_that_is_set(wall: Wall, jump: str) -> None:
    clock = SystemClock()
    before = clock.now()
    assert abs(before - wall()) < 1
    JUMPS[jump](wall)
    assert 0 <= clock.now() - before < 60
    moments = [clock.now() for _ in range(100)]
    assert moments == sorted(moments)


@pytest.mark.hostile("R-24")
@pytest.mark.parametrize("jump", JUMPS)
async def test_a_crawl_keeps_its_pace_and_its_waits_when_the_clock_is_set_in_its_middle(
    wall: Wall, jump: str, noise: Any
) -> None:
    delay, pause = 0.05, 1

    async def page(request: web.Request) -> web.Response:
        if len(site.paths) == 3:
            JUMPS[jump](wall)
        if len(site.paths) == 5:  # so a pause and a retry come after the jump
            return web.Response(status=503, headers={"Retry-After": f"{pause}"})
        return web.Response(text="ok", headers={"Set-Cookie": "seen=1; Max-Age=600"})

    async with LocalSite() as site:
        site.robots("User-agent: *\nAllow: /")
        site.route("*", page)
        paths = tuple(f"/{number}" for number in range(8))
        settings = {
            "politeness": {"delay_seconds": delay, "jitter": 0, "adaptive": False},
            "http": {"unsafe_cookies": True},
        }
        began = time.monotonic()
        run = await run_spider(Reader, args={"site": site.url, "paths": paths}, settings=settings)
        took = time.monotonic() - began
        journal = site.journal
    assert (run.reason, run.stats["errors"], run.stats["retries"]) == ("finished", 0, 1)
    assert sorted(item["path"] for item in run.items) == sorted(paths)
    assert [hit.path for hit in journal].count("/robots.txt") == 1, "it was as if a day had passed"
    gaps = [later.time - earlier.time for earlier, later in itertools.pairwise(journal)]
    assert min(gaps) >= delay - noise.seconds
    assert max(gaps) >= pause - noise.seconds
    assert all("seen=1" in hit.headers.get("Cookie", "") for hit in journal[2:]), "the cookie had expired"
    assert took < 60
    assert 0 < run.stats["elapsed_seconds"] < 60
    assert run.stats["started_at"] < run.stats["finished_at"]


@pytest.mark.hostile("R-20", "R-24")
@pytest.mark.parametrize("step", [0.0, HOUR, -HOUR, TEN_YEARS, -TEN_YEARS])
async def test_what_waits_waits_no_longer_because_the_clock_was_set_back_before_the_job_goes_on(
    step: float, tmp_path: Path
) -> None:
    class Waiting(Reader):
        """One request waits for a minute, one for a retry, and its host for what it asked."""

        breaks = True
        other = ""

        async def start(self) -> Any:
            yield self.request(f"{self.site}/later", not_before=60)
            yield self.request(f"{self.site}/busy")
            yield self.request(f"{self.other}/waits", not_before=90)
            yield self.request(f"{self.other}/last", priority=-1)

        def parse(self, response: Response) -> Any:
            yield {"path": response.url.rpartition("/")[2]}
            if self.breaks and response.url.endswith("/last"):
                raise ValueError

    busy = [web.Response(status=503, headers={"Retry-After": "120"})]

    async def page(request: web.Request) -> web.Response:
        asked.append(clock.now())
        return busy.pop() if busy else web.Response(text="ok")

    clock = FakeClock()
    asked: list[float] = []
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.route("/busy", page)
        site.page("*", "ok")
        other.page("*", "ok", delay=0.2)
        args = {"site": site.url, "other": other.url}
        settings = {
            "politeness": {"delay_seconds": 1, "obey_robots": True, "jitter": 0},
            "crawl": {"error_limit": 1, "concurrency": 1, "drain_seconds": 1},
        }
        options: dict[str, Any] = {"settings": settings, "job": tmp_path / "job"}
        first = await run_spider(Waiting, args=args, clock=clock, **options)
        stopped = clock.now()
        assert first.reason == "error_limit"
        assert [hit.path for hit in site.journal] == ["/robots.txt", "/busy"], "nothing waits"
        later = FakeClock(stopped + step)
        second = await run_spider(Waiting, args={**args, "breaks": False}, clock=later, **options)
    assert second.reason == "finished"
    assert sorted(item["path"] for item in second.items) == ["busy", "later", "waits"]
    waited = later.now() - (stopped + step) + stopped - asked[0]
    assert waited < 300, "the longest wait was of two minutes"
    if step <= 0:
        assert waited >= 120, "the host asked for two minutes"


@pytest.mark.hostile("R-24")
async def test_a_robots_txt_of_a_clock_that_was_set_back_is_good_for_a_day_and_not_for_years(tmp_path: Path) -> None:
    class Tomorrow(Reader):
        breaks = True

        async def start(self) -> Any:
            yield self.request(f"{self.site}/today")
            yield self.request(f"{self.site}/tomorrow", not_before=26 * HOUR)
            yield self.request(f"{self.site}/later", not_before=52 * HOUR)

        def parse(self, response: Response) -> Any:
            if self.breaks:
                raise ValueError

    clock = FakeClock()
    async with LocalSite() as site:
        site.page("*", "ok")
        options: dict[str, Any] = {"job": tmp_path / "job", "settings": {"crawl": {"error_limit": 1}}}
        await run_spider(Tomorrow, args={"site": site.url}, clock=clock, **options)
        later = FakeClock(clock.now() - TEN_YEARS)
        args = {"site": site.url, "breaks": False}
        assert (await run_spider(Tomorrow, args=args, clock=later, **options)).reason == "finished"
    assert [hit.path for hit in site.journal] == ["/robots.txt", "/today", "/tomorrow", "/robots.txt", "/later"]
