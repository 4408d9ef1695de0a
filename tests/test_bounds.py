"""Crawls of sites that never end: each stops where it should, says why, and the rest of the site is crawled."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import logging
import signal
import time
from typing import TYPE_CHECKING, Any

import forked
import pytest
from aiohttp import web

from crawler import Response, Spider
from crawler.errors import BlockedError, SettingsError
from crawler.explain import Found, explain
from crawler.fate import REFUSALS
from crawler.testing import FakeClock, LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NO_END = {"page_limit": 3000}  # what does not stop by itself fails its test instead of running on
QUICK: dict[str, Any] = {"politeness": {"obey_robots": False, "concurrency_per_host": 16}, "crawl": NO_END}


class Everything(Spider):
    """Follows every link; pages that have a heading give an item."""

    name = "everything"
    site = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/")

    def parse(self, response: Response) -> Any:
        heading = response.css("h1::text").get()
        if heading:
            yield {"heading": heading, "url": response.url}
        yield response.follow_all()


def quick(**crawl: Any) -> dict[str, Any]:
    return {**QUICK, "crawl": {**NO_END, **crawl}}


def serve(site: LocalSite, path: str, page: Callable[[web.Request], str]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=page(request), content_type="text/html")

    site.route(path, answer)


def leaves(site: LocalSite, *others: str) -> None:
    """A start page, ten ordinary pages, and whatever else is linked."""
    links = [*(f"/leaf/{number}" for number in range(10)), *others]
    site.page("/", "".join(f'<a href="{link}">.</a>' for link in links))
    for number in range(10):
        site.page(f"/leaf/{number}", f"<h1>Leaf {number}</h1>")


def all_leaves(site: LocalSite) -> bool:
    return {f"/leaf/{number}" for number in range(10)} <= set(site.paths)


# -- scope -------------------------------------------------------------------------------------------------------------


async def test_deny_and_allow_hold_for_links_requests_and_redirects_and_are_counted_by_reason() -> None:
    class Picky(Everything):
        allow = (r"/$", r"/(good|bad|to-)")
        deny = r"/bad"
        failures: tuple[str, ...] = ()

        def parse(self, response: Response) -> Any:
            yield from super().parse(response)
            if response.url.endswith("/"):
                yield response.follow("/bad/asked-for")

        def failed(self, failure: Any) -> None:
            self.failures = (*self.failures, failure.reason)

    async with LocalSite() as site:
        site.page(
            "/", "".join(f'<a href="{link}">.</a>' for link in ("/good", "/bad", "/other", "/to-bad", "/to-other"))
        )
        site.page("*", "ok")
        site.redirect("/to-bad", "/bad/hop")
        site.redirect("/to-other", "/elsewhere")
        run = await run_spider(Picky, args={"site": site.url}, settings=QUICK)
    assert sorted(site.paths) == ["/", "/good", "/to-bad", "/to-other"]
    assert run.stats["failures"] == {"denied": 3, "not_allowed": 2}
    assert run.stats["blocked"] == 2, "the redirects were queued requests"
    assert sorted(run.spider.failures) == ["denied", "not_allowed"]  # type: ignore[attr-defined]


async def test_start_requests_are_judged_too() -> None:
    class Shut(Everything):
        deny = (r"//127\.",)

    async with LocalSite() as site:
        run = await run_spider(Shut, args={"site": site.url}, settings=QUICK)
    assert site.journal == []
    assert (run.reason, run.stats["failures"]) == ("finished", {"denied": 1})


@pytest.mark.parametrize("attribute", ["allow", "deny"])
async def test_a_wrong_expression_is_an_error_before_anything_is_made(attribute: str, tmp_path: Path) -> None:
    broken = type("Broken", (Everything,), {attribute: ["fine", "[a-"]})
    with pytest.raises(
        SettingsError, match=rf"{attribute} of spider 'everything': '\[a-' is not a regular expression: "
    ):
        await run_spider(broken, job=tmp_path / "job")
    assert not (tmp_path / "job").exists()


@pytest.mark.hostile("S43")
async def test_a_spiral_of_relative_links_stops_and_the_rest_of_the_site_is_crawled() -> None:
    async with LocalSite() as site:
        leaves(site, "/a/b/")
        serve(site, "*", lambda request: '<a href="a/b/">deeper</a>')
        run = await run_spider(Everything, args={"site": site.url}, settings=QUICK)
    assert all_leaves(site)
    assert [path for path in site.paths if path.startswith("/a/")] == ["/a/b/", "/a/b/a/b/"]
    assert run.stats["failures"] == {"path_repeats": 1}


@pytest.mark.hostile("S43")
async def test_a_path_that_only_grows_stops_at_its_limit_of_segments() -> None:
    async with LocalSite() as site:
        leaves(site, "/x0/")
        serve(site, "*", lambda request: f'<a href="x{request.path.count("/") - 1}/">deeper</a>')
        run = await run_spider(Everything, args={"site": site.url}, settings=QUICK)
    assert all_leaves(site)
    assert max(path.count("/") - 1 for path in site.paths) == 20
    assert run.stats["failures"] == {"path_segments": 1}


# -- traps -------------------------------------------------------------------------------------------------------------


def month(request: web.Request) -> str:
    year, number = (int(part) for part in request.path.split("/")[2:4])
    others = [((year * 12 + number - 1 + step) // 12, (year * 12 + number - 1 + step) % 12 + 1) for step in (-1, 1)]
    links = "".join(f'<a href="/calendar/{y}/{m:02}">{y}-{m}</a>' for y, m in others if 1 <= y <= 9998)
    name = dt.date(year, number, 1).strftime("%B")
    days = "".join(f"<td>{day}" for day in range(1, 29))
    return f"<title>{name} {year}</title><table>{days}</table>{links}"


@pytest.mark.hostile("S43")
async def test_an_infinite_calendar_stops_is_told_once_and_the_rest_of_the_site_is_crawled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with LocalSite() as site:
        leaves(site, "/calendar/2026/07")
        serve(site, "*", month)
        with caplog.at_level(logging.WARNING, "crawler.bounds"):
            run = await run_spider(Everything, args={"site": site.url}, settings=quick(trap_pages=50))
    months = [path for path in site.paths if path.startswith("/calendar/")]
    assert all_leaves(site)
    assert run.reason == "finished"
    assert 100 <= len(months) < 200
    assert run.stats["failures"]["trap"] >= 1
    (said,) = [record.getMessage() for record in caplog.records if record.name == "crawler.bounds"]
    assert f"{site.host}/calendar/#/#" in said
    assert "a calendar" in said
    assert "crawl.trap_pages = 0" in said


async def test_a_calendar_whose_days_give_items_is_no_trap() -> None:
    async with LocalSite() as site:
        site.page("/", '<a href="/calendar/1990/01">.</a>')
        serve(site, "*", lambda request: month(request).replace("<table>", "<h1>Concert</h1><table>"))
        settings = quick(trap_pages=20, page_limit=150)
        run = await run_spider(Everything, args={"site": site.url}, settings=settings)
    assert (run.reason, run.stats["failures"]) == ("page_limit", {})


@pytest.mark.hostile("S43")
async def test_session_ids_in_every_link_stop_and_every_page_was_there() -> None:
    numbers = itertools.count(1)

    def page(request: web.Request) -> str:
        links = "".join(f'<a href="/shop/{n}?PHPSESSID={next(numbers):016x}">{n}</a>' for n in range(5))
        return f"<h1>{request.path}</h1>{links}"

    async with LocalSite() as site:
        leaves(site, "/shop/0")
        serve(site, "*", page)
        run = await run_spider(Everything, args={"site": site.url}, settings=quick(trap_pages=60))
    shop = [path for path in site.paths if path.startswith("/shop/")]
    assert all_leaves(site)
    assert run.reason == "finished"
    assert {path.partition("?")[0] for path in shop} == {f"/shop/{n}" for n in range(5)}
    assert 120 <= len(shop) < 300
    assert run.stats["blocked"] > 0, "those that waited are refused, too"
    assert run.stats["failures"]["trap"] >= run.stats["blocked"]


@pytest.mark.parametrize("has_items", [True, False])
async def test_numbered_pages_that_are_all_alike_are_no_trap(has_items: bool) -> None:
    def page(request: web.Request) -> str:
        number = int(request.path.rpartition("/")[2])
        heading = "<h1>page</h1>" if has_items else ""
        return heading + "".join(f'<a href="/page/{n}">.</a>' for n in (2 * number, 2 * number + 1) if n <= 300)

    async with LocalSite() as site:
        site.page("/", '<a href="/page/1">.</a>')
        serve(site, "*", page)
        run = await run_spider(Everything, args={"site": site.url}, settings=quick(trap_pages=20))
    assert run.stats["pages"] == 301
    assert run.stats["failures"] == {}


async def test_a_trap_stays_closed_when_the_job_goes_on_and_what_waits_in_it_is_refused(tmp_path: Path) -> None:
    async with LocalSite() as site:
        leaves(site, "/calendar/2026/07")
        serve(site, "*", month)
        settings = quick(trap_pages=50, error_limit=1)

        class Breaks(Everything):
            def parse(self, response: Response) -> Any:
                yield from super().parse(response)
                if self.stats.failures["trap"]:
                    yield from self.failed(None)

            def failed(self, failure: Any) -> Any:  # of what waited in the trap
                yield self.request(f"{self.site}/unfinished", dont_filter=True)
                raise ValueError

        first = await run_spider(Breaks, args={"site": site.url}, settings=settings, job=tmp_path / "job")
        assert first.reason == "error_limit"
        site.page("/unfinished", '<a href="/calendar/1999/01">.</a>')
        asked = len(site.paths)
        second = await run_spider(Everything, args={"site": site.url}, settings=settings, job=tmp_path / "job")
        told = explain(f"{site.url}/calendar/1999/01", tmp_path / "job", time.time())
    assert second.reason == "finished"
    assert not [path for path in site.paths[asked:] if path.startswith("/calendar/")]
    assert (told.verdict, told.reason) == (Found.OUTSIDE, "trap")


# -- budgets -----------------------------------------------------------------------------------------------------------


class Counted(Everything):
    """Every page links to ten more."""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/0")

    def parse(self, response: Response) -> Any:
        number = int(response.url.rpartition("/")[2])
        yield [response.follow(f"/{number * 10 + digit}") for digit in range(1, 11)]


@pytest.mark.hostile("S43")
async def test_the_pages_of_each_host_are_exact_with_many_in_flight() -> None:
    class Two(Counted):
        other = ""

        async def start(self) -> Any:
            yield self.request(f"{self.site}/0")
            yield self.request(f"{self.other}/0")

    async with LocalSite() as one, LocalSite("127.0.0.2") as two:
        one.page("*", "ok", delay=0.002)
        two.page("*", "ok")
        settings = quick(pages_per_host=40)
        run = await run_spider(Two, args={"site": one.url, "other": two.url}, settings=settings)
    assert run.reason == "finished"
    assert (len(one.paths), len(two.paths)) == (40, 40)
    assert run.stats["pages"] == 80
    assert run.stats["failures"]["host_pages"] > 0
    assert run.stats["errors"] == 0


async def test_failed_requests_give_their_place_back() -> None:
    async def every_other(request: web.Request) -> web.Response:
        return web.Response(status=404 if int(request.path[1:]) % 2 else 200)

    async with LocalSite() as site:
        site.route("*", every_other)
        run = await run_spider(Counted, args={"site": site.url}, settings=quick(pages_per_host=15))
    assert run.reason == "finished"
    assert run.stats["pages"] == run.stats["status"]["200"] == 15


async def test_what_waits_at_a_host_that_is_used_up_does_not_use_its_turns() -> None:
    clock = FakeClock()
    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {**quick(pages_per_host=3), "politeness": {"obey_robots": False, "delay_seconds": 100, "jitter": 0}}
        run = await run_spider(Counted, args={"site": site.url}, settings=settings, clock=clock)
    assert len(site.paths) == 3
    assert run.stats["failures"]["host_pages"] >= 8
    assert run.stats["blocked"] >= 8
    assert run.stats["elapsed_seconds"] < 400


async def test_a_streams_bytes_count_when_it_has_ended() -> None:
    class Streams(Spider):
        name = "streams"
        site = ""

        async def start(self) -> Any:
            for number in range(5):
                yield self.request(f"{self.site}/{number}", stream=True)

        async def parse(self, response: Response) -> Any:
            assert response.content is not None
            yield {"bytes": len(await response.content.read())}

    async with LocalSite() as site:
        site.page("*", "x" * 1000)
        settings = {**quick(bytes_per_host=1500), "politeness": {"obey_robots": False, "concurrency_per_host": 1}}
        run = await run_spider(Streams, args={"site": site.url}, settings=settings)
    assert run.items == [{"bytes": 1000}] * 2
    assert run.stats["failures"] == {"host_bytes": 3}


async def test_no_request_starts_at_a_host_that_has_sent_its_bytes() -> None:
    class Inline(Counted):
        reason = ""

        async def closed(self, reason: str) -> None:
            try:
                await self.fetch(f"{self.site}/inline")
            except BlockedError as error:
                self.reason = error.reason

    async with LocalSite() as site:
        site.page("*", "x" * 1000)
        settings = {**quick(bytes_per_host=4500), "politeness": {"obey_robots": False, "concurrency_per_host": 1}}
        run = await run_spider(Inline, args={"site": site.url}, settings=settings)
    assert len(site.paths) == 5
    assert run.stats["failures"]["host_bytes"] > 0
    assert run.spider.reason == "host_bytes"  # type: ignore[attr-defined]


async def test_a_redirect_to_a_host_that_is_used_up_is_refused() -> None:
    class Moved(Everything):
        other = ""
        refused = ""

        async def start(self) -> Any:
            yield self.request(f"{self.other}/first", self.to_the_moved)

        def to_the_moved(self, response: Response) -> Any:
            yield self.request(f"{self.site}/moved")

        def failed(self, failure: Any) -> None:
            self.refused = str(failure.error)

    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        other.page("*", "ok")
        site.redirect("/moved", f"{other.url}/second")
        settings = {**quick(pages_per_host=1), "security": {"allow_private_networks": True}}
        run = await run_spider(Moved, args={"site": site.url, "other": other.url}, settings=settings)
    assert (site.paths, other.paths) == (["/moved"], ["/first"])
    assert run.stats["failures"] == {"host_pages": 1}
    refused: str = run.spider.refused  # type: ignore[attr-defined]
    assert refused.startswith(f"{site.url}/moved redirects to {other.url}/second: ")
    assert "crawl.pages_per_host" in refused


@pytest.mark.hostile("S44")
async def test_hosts_without_end_stop_at_so_many_of_their_domain() -> None:
    names = itertools.count(1)

    def page(request: web.Request) -> str:
        port = request.host.partition(":")[2]
        return "".join(
            f'<a href="http://{name}.trap.example:{port}/">.</a>'
            for name in map("n{}".format, itertools.islice(names, 3))
        )

    known = {f"n{number}.trap.example": "127.0.0.1" for number in range(1, 200)}
    async with LocalSite() as site:
        leaves(site)
        serve(site, "*", page)
        port = site.host.partition(":")[2]
        serve(
            site,
            "/",
            lambda request: (
                page(request) + "".join(f'<a href="http://trap.example:{port}/leaf/{n}">.</a>' for n in range(10))
            ),
        )
        settings = {**quick(hosts_per_domain=25), "dns": {"hosts": {"trap.example": "127.0.0.1", **known}}}
        settings["security"] = {"allow_private_networks": True}
        run = await run_spider(Everything, args={"site": f"http://trap.example:{port}"}, settings=settings)
    assert run.reason == "finished"
    assert len({hit.host for hit in site.journal}) == 25
    assert all_leaves(site)
    assert run.stats["failures"] == {"domain_hosts": 25 * 3 - 24}


def facets(request: web.Request) -> str:
    """Six filters with three values each: each page links to itself with one more of them set."""
    chosen = dict(request.query)
    urls = [{**chosen, f"f{n}": str(value)} for n in range(6) for value in range(3)]
    return "".join(f'<a href="/list?{"&amp;".join(f"{k}={v}" for k, v in each.items())}">.</a>' for each in urls)


@pytest.mark.hostile("S43")
async def test_filters_that_make_queries_without_end_stop_and_the_rest_of_the_site_is_crawled() -> None:
    async with LocalSite() as site:
        leaves(site, "/list")
        serve(site, "*", facets)
        run = await run_spider(Everything, args={"site": site.url}, settings=quick(query_permutations=20))
    pairs = 6 * 5 // 2 * 9
    asked = sum(path.startswith("/list") for path in site.paths)
    assert run.reason == "finished"
    assert all_leaves(site)
    assert 1 + 18 + 20 < asked <= 1 + 18 + 2 * pairs + 20, "4,096 without the limit"
    assert run.stats["failures"]["query_permutations"] > 0


async def test_a_forum_with_many_topics_and_their_pages_loses_nothing() -> None:
    def page(request: web.Request) -> str:
        topics = [f"/view?f={n % 5}&amp;t={n}" for n in range(40)]
        return "".join(f'<a href="{t}&amp;start={25 * p}">.</a>' for t in topics for p in range(5))

    async with LocalSite() as site:
        site.page("/", '<a href="/view?f=0&amp;t=0">.</a>')
        serve(site, "*", page)
        run = await run_spider(Everything, args={"site": site.url}, settings=quick(query_permutations=1))
    assert run.stats["pages"] == 2 + 40 * 5
    assert run.stats["failures"] == {}


# -- over restarts, and what is told -----------------------------------------------------------------------------------


async def test_budgets_go_on_where_they_were_when_the_job_goes_on(tmp_path: Path) -> None:
    class Stops(Counted):
        def parse(self, response: Response) -> Any:
            yield from super().parse(response)
            if self.stats.total.pages >= 9:
                raise ValueError

    async with LocalSite() as site:
        site.page("*", "ok")
        settings = quick(pages_per_host=30, error_limit=1, concurrency=1)
        first = await run_spider(Stops, args={"site": site.url}, settings=settings, job=tmp_path / "job")
        second = await run_spider(Counted, args={"site": site.url}, settings=settings, job=tmp_path / "job")
        stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert (first.reason, first.stats["pages"]) == ("error_limit", 10)
    assert second.reason == "finished"
    assert second.stats["pages"] == len(site.paths) == 30
    assert stats["failures"]["host_pages"] > 0


NUMBERS = """
from crawler import Spider

class Numbers(Spider):
    name = "numbers"
    settings = {
        "politeness": {"delay_seconds": 0, "concurrency_per_host": 6, "obey_robots": False},
        "crawl": {"pages_per_host": 90},
    }

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        yield {"path": response.url.rpartition("/")[2]}
        yield response.follow_all()
"""


async def test_killed_again_and_again_a_crawl_takes_just_its_pages_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "numbers.py").write_text(NUMBERS)
    async with LocalSite() as site:
        site.page("/", "".join(f'<a href="/{number}">.</a>' for number in range(200)))
        site.page("*", "ok", delay=0.01)
        command = ("run", "numbers.py", "-a", f"site={site.url}", "--job", "job", "-o", "out.jsonl", "--quiet")
        for point in ("after_apply:20", "during_commit:2", "after_commit:2"):
            killed = await forked.run(tmp_path, *command, crash_at=point)
            assert killed.code == -signal.SIGKILL, f"{point} was not passed: {killed.said}"
        last = await forked.run(tmp_path, *command)
        assert last.code == 0, last.said
    stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    paths = [json.loads(line)["path"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert stats["pages"] == len(paths) == len(set(paths)) == 90
    assert stats["failures"] == {"host_pages": 201 - 90}


async def test_explain_names_the_setting_for_what_was_refused_at_either_place(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    class Odd(Everything):
        deny = ("denied",)
        allow = (r"/$", "d", "a")

    async with LocalSite() as site:
        links = ("/denied", "/xyz", "/a/a/a/", "/" + "a/" * 2 + "/".join("abcdefghijklmnopqrstu"), "/page", "/later")
        site.page("/", "".join(f'<a href="{link}">.</a>' for link in links))
        site.page("*", '<a href="/a/found-too-late">.</a>')
        settings = {**quick(pages_per_host=2), "politeness": {"obey_robots": False, "concurrency_per_host": 1}}
        await run_spider(Odd, args={"site": site.url}, settings=settings, job=tmp_path / "job")
    expected = dict(zip(links[:4], ("denied", "not_allowed", "path_repeats", "path_segments"), strict=True))
    expected |= {"/later": "host_pages"}
    for path, reason in expected.items():
        code, said, _ = command("explain", site.url + path, "--job", str(tmp_path / "job"))
        assert code == 0
        assert "refused" in said
        assert f"({reason})" in said
        assert REFUSALS[reason] in said


def test_every_reason_names_what_to_change() -> None:
    for reason, words in REFUSALS.items():
        assert any(name in words for name in ("crawl.", "http.", "politeness.", "spider's ")), reason
