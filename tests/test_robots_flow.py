"""robots.txt in a crawl (RFC 9309): asked once for each host, kept to, and what happens when it cannot be had."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from crawler import BlockedError, Failure, Request, Response, Spider
from crawler.api import _crawl as assemble
from crawler.testing import FakeClock, LocalSite, Run, run_spider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def send(
    make: Callable[[], Any], *, settings: dict[str, Any] | None = None, clock: FakeClock | None = None
) -> tuple[Run, list[Failure]]:
    """Crawl what `make()` gives; items are the paths that reached the callback."""
    failures: list[Failure] = []

    class Sender(Spider):
        name = "sender"

        async def start(self) -> Any:
            yield make()

        def parse(self, response: Response) -> Any:
            yield {"url": response.url}

        def failed(self, failure: Failure) -> None:
            failures.append(failure)

    return await run_spider(Sender, settings=settings, clock=clock), failures


def robots_hits(site: LocalSite) -> int:
    return sum(hit.path == "/robots.txt" for hit in site.journal)


# -- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-38")
@pytest.mark.parametrize("at_once", [1, 2, 8])
async def test_robots_txt_is_asked_for_once_and_before_everything_else(at_once: int) -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow:")
        site.page("*", "ok")
        settings = {"politeness": {"concurrency_per_host": at_once}}
        run, _ = await send(lambda: [Request(f"{site.url}/{n}") for n in range(20)], settings=settings)
    assert run.stats["pages"] == 20
    assert site.journal[0].path == "/robots.txt"
    assert robots_hits(site) == 1
    assert len(site.journal) == 21


async def test_each_host_and_port_has_its_own_robots_txt() -> None:
    async with LocalSite() as one, LocalSite() as two, LocalSite("127.0.0.2") as three:
        one.robots("User-agent: *\nDisallow: /")
        for site in (one, two, three):
            site.page("/a", "ok")
        run, _ = await send(lambda: [Request(f"{site.url}/a") for site in (one, two, three)])
    assert [robots_hits(site) for site in (one, two, three)] == [1, 1, 1]
    assert [site.paths for site in (one, two, three)] == [[], ["/a"], ["/a"]]
    assert run.stats["robots_denied"] == 1


async def test_it_is_asked_for_with_the_crawls_own_user_agent() -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        await send(lambda: Request(site.url), settings={"http": {"user_agent": "mybot/2.0 (+http://me.example)"}})
    assert [hit.headers["User-Agent"] for hit in site.journal] == ["mybot/2.0 (+http://me.example)"] * 2


async def test_where_it_is_not_obeyed_it_is_not_asked_for() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /")
        site.page("/", "ok")
        run, _ = await send(lambda: Request(site.url), settings={"politeness": {"obey_robots": False}})
    assert [hit.path for hit in site.journal] == ["/"]
    assert run.stats["pages"] == 1


async def test_it_may_be_obeyed_at_one_host_and_not_at_another() -> None:
    async with LocalSite() as strict, LocalSite() as own:
        for site in (strict, own):
            site.robots("User-agent: *\nDisallow: /")
            site.page("/", "ok")
        settings = {"politeness": {"hosts": {own.host: {"obey_robots": False}}}}
        await send(lambda: [Request(strict.url), Request(own.url)], settings=settings)
    assert (strict.paths, own.paths) == ([], ["/"])
    assert robots_hits(own) == 0


# -- keeping to it ---------------------------------------------------------------------------------------------------


async def test_what_is_disallowed_is_not_fetched_and_counted_but_no_error() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private\nAllow: /private/open")
        site.page("*", "ok")
        paths = ["/", "/private", "/private/x", "/private/open", "/public"]
        run, failures = await send(lambda: [Request(site.url + path) for path in paths])
    assert sorted(site.paths) == ["/", "/private/open", "/public"]
    assert [failure.reason for failure in failures] == ["robots"] * 2
    assert all(isinstance(failure.error, BlockedError) for failure in failures)
    assert run.stats["robots_denied"] == 2
    assert run.stats["errors"] == 0
    assert run.reason == "finished"


async def test_the_message_names_the_rule_and_its_line() -> None:
    async with LocalSite() as site:
        site.robots("# ours\nUser-agent: *\nDisallow: /private")
        _, (failure,) = await send(lambda: Request(f"{site.url}/private/x"))
    assert "line 3" in str(failure.error)
    assert "/private" in str(failure.error)


async def test_a_group_for_our_product_token_wins_over_the_one_for_all() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /\n\nUser-agent: MyBot\nDisallow: /no")
        site.page("*", "ok")
        settings = {"http": {"user_agent": "mybot/2.0"}}
        await send(lambda: [Request(f"{site.url}/yes"), Request(f"{site.url}/no")], settings=settings)
    assert site.paths == ["/yes"]


async def test_an_inline_fetch_of_a_disallowed_page_raises() -> None:
    class Inline(Spider):
        name = "inline"
        site = ""

        async def start(self) -> Any:
            try:
                await self.fetch(f"{self.site}/private")
            except BlockedError as error:
                yield {"reason": error.reason}

    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private")
        run = await run_spider(Inline, args={"site": site.url})
    assert run.items == [{"reason": "robots"}]
    assert site.paths == []


async def test_inline_fetches_at_once_ask_for_robots_txt_once_even_with_one_place_at_the_host() -> None:
    class Inline(Spider):
        name = "inline"
        site = ""

        async def start(self) -> Any:
            await asyncio.gather(*(self.fetch(f"{self.site}/{n}") for n in range(4)))
            yield {"done": True}

    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private")
        site.page("*", "ok")
        settings = {"politeness": {"concurrency_per_host": 1}}
        run = await run_spider(Inline, args={"site": site.url}, settings=settings)
    assert run.items == [{"done": True}]
    assert robots_hits(site) == 1


# -- answers that are no rules ---------------------------------------------------------------------------------------


@pytest.mark.hostile("R-38")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
async def test_a_4xx_opens_the_host(status: int) -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /", status=status)
        site.page("/", "ok")
        run, _ = await send(lambda: Request(site.url))
    assert run.stats["pages"] == 1
    assert robots_hits(site) == 1


@pytest.mark.hostile("R-38")
async def test_a_5xx_is_asked_again_and_then_the_page_is_given_up_with_its_reason() -> None:
    async with LocalSite() as site:
        site.robots("", status=503)
        site.page("/", "ok")
        run, (failure,) = await send(lambda: Request(site.url), settings={"retry": {"times": 2}})
    assert site.paths == []
    assert robots_hits(site) == 3
    assert failure.reason == "robots_unavailable"
    assert failure.attempts == 3
    assert run.stats["failures"] == {"robots_unavailable": 1}
    assert run.reason == "finished"


@pytest.mark.hostile("R-38")
async def test_a_5xx_that_passes_lets_the_page_be_fetched() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private")
        site.page("/robots.txt", "", status=500, times=2)
        site.page("/", "ok")
        run, failures = await send(lambda: Request(site.url))
    assert failures == []
    assert run.stats["pages"] == 1
    assert robots_hits(site) == 3


@pytest.mark.hostile("R-38")
async def test_a_host_that_cannot_be_asked_is_not_crawled() -> None:
    async with LocalSite() as site:
        site.drop("/robots.txt")
        site.page("/", "ok")
        run, (failure,) = await send(lambda: Request(site.url), settings={"retry": {"times": 1}})
    assert site.paths == []
    assert failure.reason in ("disconnected", "connect_reset")
    assert run.stats["pages"] == 0


@pytest.mark.hostile("R-38")
@pytest.mark.parametrize("body", [b"\xff\xfe\x00garbage\x00" * 50, b"<html><body>Not found</body></html>", b""])
async def test_a_robots_txt_that_is_something_else_opens_the_host(body: bytes) -> None:
    async with LocalSite() as site:
        site.page("/robots.txt", body, content_type="application/octet-stream")
        site.page("/", "ok")
        run, _ = await send(lambda: Request(site.url))
    assert run.stats["pages"] == 1


@pytest.mark.hostile("R-38")
async def test_rules_beyond_half_a_megabyte_are_ignored_and_those_before_are_kept_to() -> None:
    async with LocalSite() as site:
        filler = "# " + "x" * 98 + "\n"
        site.robots("User-agent: *\nDisallow: /private\n" + filler * 10_000)
        site.page("*", "ok")
        run, failures = await send(lambda: [Request(f"{site.url}/private"), Request(f"{site.url}/public")])
    assert site.paths == ["/public"]
    assert [failure.reason for failure in failures] == ["robots"]
    assert run.stats["pages"] == 1


# -- redirects of robots.txt -----------------------------------------------------------------------------------------


async def test_a_redirected_robots_txt_is_followed_and_counts_for_the_host_that_was_asked() -> None:
    async with LocalSite() as site:
        site.redirect("/robots.txt", "/rules/robots")
        site.page("/rules/robots", "User-agent: *\nDisallow: /private", content_type="text/plain")
        site.page("*", "ok")
        _, failures = await send(lambda: [Request(f"{site.url}/private"), Request(f"{site.url}/public")])
    assert site.paths == ["/rules/robots", "/public"]
    assert [failure.reason for failure in failures] == ["robots"]


@pytest.mark.hostile("R-38")
async def test_more_than_five_redirects_count_as_no_robots_txt() -> None:
    async def onward(request: web.Request) -> web.Response:
        number = int(request.query.get("n", "0")) + 1
        return web.Response(status=302, headers={"Location": f"/robots.txt?n={number}"})

    async with LocalSite() as site:
        site.route("/robots.txt", onward)
        site.page("/", "ok")
        run, _ = await send(lambda: Request(site.url))
    assert run.stats["pages"] == 1
    assert len([hit for hit in site.journal if hit.path.startswith("/robots.txt")]) == 6


@pytest.mark.hostile("S05")
async def test_a_robots_txt_redirected_to_a_private_address_is_not_fetched_there() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.9") as canary:
        site.redirect("/robots.txt", f"{canary.url}/robots.txt")
        canary.robots("User-agent: *\nDisallow:")
        site.page("/", "ok")
        run, _ = await send(lambda: Request(site.url))
        assert canary.journal == []
    assert run.reason == "finished"


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-38")
async def test_it_is_asked_for_again_after_a_day() -> None:
    clock = FakeClock()
    async with LocalSite() as site:
        site.page("*", "ok")
        await send(
            lambda: [Request(f"{site.url}/now"), Request(f"{site.url}/later", not_before=25 * 3600)], clock=clock
        )
    assert [hit.path for hit in site.journal] == ["/robots.txt", "/now", "/robots.txt", "/later"]


class Visits(Spider):
    """One page after the other: each waits its seconds from the end of the one before, however that ended."""

    name = "visits"
    site = ""
    steps: tuple[tuple[str, float], ...] = ()
    reasons: tuple[str, ...] = ()

    async def start(self) -> Any:
        yield self.visit(0)

    def visit(self, number: int) -> Request | None:
        if number == len(self.steps):
            return None
        path, seconds = self.steps[number]
        return self.request(self.site + path, not_before=seconds, meta={"number": number})

    def parse(self, response: Response) -> Any:
        return self.visit(response.meta["number"] + 1)

    def failed(self, failure: Failure) -> Any:
        self.reasons = (*self.reasons, failure.reason)
        return self.visit(failure.request.meta["number"] + 1)


async def visit(site: LocalSite, *steps: tuple[str, float], times: int = 3) -> tuple[list[str], tuple[str, ...]]:
    """What the site was asked for, and why visits failed."""
    args = {"site": site.url, "steps": steps}
    run = await run_spider(Visits, args=args, settings={"retry": {"times": times}}, clock=FakeClock())
    assert isinstance(run.spider, Visits)
    return [hit.path for hit in site.journal], run.spider.reasons


async def test_it_is_asked_for_again_sooner_where_its_cache_headers_say_so() -> None:
    async with LocalSite() as site:
        site.page("/robots.txt", "User-agent: *\nDisallow:", headers={"Cache-Control": "max-age=3600"})
        site.page("*", "ok")
        asked, _ = await visit(site, ("/now", 0), ("/soon", 3000), ("/later", 1000))
    assert asked == ["/robots.txt", "/now", "/soon", "/robots.txt", "/later"]


@pytest.mark.hostile("R-38")
async def test_an_old_copy_stays_good_while_there_is_no_new_one() -> None:
    async with LocalSite() as site:
        site.robots("gone", status=503)
        site.page("/robots.txt", "User-agent: *\nDisallow: /private", times=1)
        site.page("*", "ok")
        asked, reasons = await visit(site, ("/now", 0), ("/later", 25 * 3600), ("/private", 60), ("/last", 60))
    assert asked == ["/robots.txt", "/now", "/robots.txt", "/later", "/last"]
    assert reasons == ("robots",)


async def test_a_host_without_rules_is_asked_as_often_as_one_request_is_tried_whatever_waits_for_it() -> None:
    async with LocalSite() as site:
        site.robots("", status=500)
        site.page("*", "ok")
        requests = [Request(f"{site.url}/{number}") for number in range(30)]
        run, failures = await send(lambda: requests, settings={"retry": {"times": 2}})
    assert robots_hits(site) == 3
    assert site.paths == []
    assert [failure.reason for failure in failures] == ["robots_unavailable"] * 30
    assert run.stats["failures"] == {"robots_unavailable": 30}


async def test_a_host_that_was_closed_is_asked_again_after_ten_minutes() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow:")
        site.page("/robots.txt", "", status=500, times=1)
        site.page("*", "ok")
        asked, reasons = await visit(site, ("/now", 0), ("/soon", 300), ("/later", 400), times=0)
    assert asked == ["/robots.txt", "/robots.txt", "/later"]
    assert reasons == ("robots_unavailable",) * 2


async def test_a_page_that_may_be_redirected_to_is_asked_of_its_own_hosts_rules_in_its_turn() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as rules:
        site.redirect("/robots.txt", f"{rules.url}/shared.txt")
        rules.page("/shared.txt", "User-agent: *\nDisallow: /private", content_type="text/plain")
        for each in (site, rules):
            each.page("/open", "ok")
        _, failures = await send(
            lambda: [Request(f"{rules.url}/open"), Request(f"{site.url}/private"), Request(f"{site.url}/open")]
        )
    assert sorted(site.paths) == ["/open"]
    assert sorted(rules.paths) == ["/open", "/shared.txt"]
    assert [failure.reason for failure in failures] == ["robots"]


class Chain(Spider):
    """Each page names the next one, and the last one none."""

    name = "chain"
    site = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/1")

    def parse(self, response: Response) -> Any:
        number = int(response.url.rpartition("/")[2])
        if number < 6:
            yield self.request(f"{self.site}/{number + 1}")
            yield self.request(f"{self.site}/private/{number}")


async def run_until(path: str, site: LocalSite, job: Path, at: float) -> Run:
    """One run over the job, with the clock beginning at this time; interrupted when it asks for `path`."""
    before = len(site.journal)
    crawl = assemble(Chain, {"site": site.url}, {"politeness": {"delay_seconds": 0}}, (), job=job, clock=FakeClock(at))

    async def stop(request: web.Request) -> web.Response:
        crawl.engine.stop("interrupted")
        return web.Response(text="ok")

    async with crawl:
        site.route(path, stop)
        result = await crawl.run()
    site.page(path, "ok")
    return Run([hit.path for hit in site.journal[before:]], result.reason, result.stats, crawl.spider)


async def test_after_a_restart_it_is_asked_for_again_only_when_a_day_has_passed(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private")
        site.page("*", "ok")
        asked = [
            (await run_until(path, site, tmp_path / "job", hours * 3600.0)).items
            for path, hours in (("/2", 0), ("/3", 1), ("/4", 23), ("/5", 25), ("/6", 26))
        ]
    assert asked == [["/robots.txt", "/1", "/2"], ["/3"], ["/4"], ["/robots.txt", "/5"], ["/6"]]


async def test_after_a_restart_the_rules_are_those_that_were_fetched_before(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private")
        site.page("*", "ok")
        await run_until("/2", site, tmp_path / "job", 0.0)
        site.robots("User-agent: *\nDisallow:")
        again = await run_until("/none", site, tmp_path / "job", 3600.0)
    assert again.reason == "finished"
    assert again.items == ["/3", "/4", "/5", "/6"]
    assert again.stats["failures"] == {"robots": 5}


@pytest.mark.parametrize("status", [404, 302])
async def test_after_a_restart_a_site_without_one_is_not_asked_again(tmp_path: Path, status: int) -> None:
    async with LocalSite() as site:
        site.page("/robots.txt", status=status, headers={"Location": "/robots.txt"})
        site.page("*", "ok")
        await run_until("/2", site, tmp_path / "job", 0.0)
        again = await run_until("/none", site, tmp_path / "job", 3600.0)
    assert again.reason == "finished"
    assert "/robots.txt" not in again.items


async def test_after_a_restart_one_that_could_not_be_had_is_asked_for(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.robots("", status=503)
        site.page("*", "ok")
        crawl = assemble(
            Chain,
            {"site": site.url},
            {"politeness": {"delay_seconds": 0}},
            (),
            job=tmp_path / "job",
            clock=FakeClock(0.0),
        )

        async def stop(request: web.Request) -> web.Response:
            crawl.engine.stop("interrupted")
            return web.Response(status=503)

        site.route("/robots.txt", stop)
        async with crawl:
            assert (await crawl.run()).reason == "interrupted"
        assert site.paths == []
        site.robots("User-agent: *\nDisallow: /private")
        again = await run_until("/none", site, tmp_path / "job", 60.0)
    assert again.items[:2] == ["/robots.txt", "/1"]
    assert again.stats["pages"] == 6


async def test_a_large_one_is_fetched_again_after_a_restart_and_not_kept(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private\n" + "# filler\n" * 10_000)
        site.page("*", "ok")
        await run_until("/2", site, tmp_path / "job", 0.0)
        again = await run_until("/none", site, tmp_path / "job", 60.0)
    assert again.items[:2] == ["/robots.txt", "/3"]
    assert again.stats["failures"] == {"robots": 5}


async def test_a_page_that_is_not_allowed_costs_its_host_no_turn() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private/")
        site.page("*", "ok")
        requests = [Request(f"{site.url}/private/{n}", priority=1) for n in range(30)] + [Request(f"{site.url}/open")]
        settings = {"politeness": {"delay_seconds": 10, "jitter": 0}}
        run, _ = await send(lambda: requests, settings=settings, clock=FakeClock())
    assert site.paths == ["/open"]
    assert run.stats["robots_denied"] == 30
    assert run.stats["elapsed_seconds"] < 30


# -- for spiders -----------------------------------------------------------------------------------------------------


async def test_a_spider_may_read_the_rules_of_a_host_which_are_fetched_once() -> None:
    class Reader(Spider):
        name = "reader"
        site = ""

        async def start(self) -> Any:
            robots = await self.robots(self.site)
            yield {"sitemaps": robots.sitemaps, "delay": robots.crawl_delay, "open": bool(robots.check("/private"))}
            yield self.request(f"{self.site}/public")

        def parse(self, response: Response) -> None:
            pass

    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private\nCrawl-delay: 0.01\nSitemap: /map.xml")
        site.page("*", "ok")
        run = await run_spider(Reader, args={"site": site.url})
    assert run.items == [{"sitemaps": ("/map.xml",), "delay": 0.01, "open": False}]
    assert [hit.path for hit in site.journal] == ["/robots.txt", "/public"]
