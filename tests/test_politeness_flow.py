"""Politeness as a site's owner sees it: measured at the server, never by our own word."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest
from aiohttp import web

from crawler import FetchError, Response, Spider
from crawler.testing import FakeClock, LocalSite, run_spider


class Wide(Spider):
    """`count` pages of each of `sites`."""

    name = "wide"
    sites: tuple[str, ...] = ()
    count = 5

    async def start(self) -> Any:
        for number in range(self.count):
            yield [self.request(f"{site}/{number}") for site in self.sites]

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}


def gaps(site: LocalSite) -> list[float]:
    times = [hit.time for hit in site.journal]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("at_once", [1, 4])
async def test_requests_to_a_host_start_at_least_the_delay_apart_robots_txt_included(at_once: int, noise: Any) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        politeness = {"delay_seconds": 0.1, "concurrency_per_host": at_once}
        await run_spider(Wide, args={"sites": (site.url,), "count": 4}, settings={"politeness": politeness})
    assert len(site.journal) == 5
    assert site.journal[0].path == "/robots.txt"
    assert min(gaps(site)) >= 0.1 - noise.seconds


async def test_inline_fetches_take_their_turn_with_the_others(noise: Any) -> None:
    class Mixed(Wide):
        async def parse(self, response: Response) -> Any:
            inline = await self.fetch(response.url + "/inline")
            yield {"url": inline.url}

    async with LocalSite() as site:
        site.page("*", "ok")
        politeness = {"delay_seconds": 0.1, "concurrency_per_host": 2}
        run = await run_spider(Mixed, args={"sites": (site.url,), "count": 3}, settings={"politeness": politeness})
    assert len(run.items) == 3
    assert len(site.journal) == 7
    assert min(gaps(site)) >= 0.1 - noise.seconds


async def test_retries_take_their_turn_with_the_others(noise: Any) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        site.page("/0", "ok")
        site.page("/0", "busy", status=503, times=2)
        politeness = {"delay_seconds": 0.1, "adaptive": False}
        settings = {"politeness": politeness, "retry": {"base_seconds": 0.001}}
        await run_spider(Wide, args={"sites": (site.url,), "count": 3}, settings=settings)
    assert len(site.requests()) == 5
    assert min(gaps(site)) >= 0.1 - noise.seconds


async def test_a_connection_that_the_host_closed_is_not_asked_again_before_the_delay(noise: Any) -> None:
    async with LocalSite() as site:
        site.drop("/0")
        politeness = {"delay_seconds": 0.1, "obey_robots": False, "adaptive": False}
        settings = {"politeness": politeness, "retry": {"times": 1, "base_seconds": 0.001}}
        run = await run_spider(Wide, args={"sites": (site.url,), "count": 1}, settings=settings)
    assert len(site.journal) == 2
    assert run.stats["requests"] == 2
    assert min(gaps(site)) >= 0.1 - noise.seconds


async def test_jitter_only_ever_adds_to_the_delay() -> None:
    clock = FakeClock()
    times: list[float] = []

    async def note(request: web.Request) -> web.Response:
        times.append(clock.now())
        return web.Response(text="ok")

    async with LocalSite() as site:
        site.route("*", note)
        politeness = {"delay_seconds": 100, "jitter": 1.0, "obey_robots": False, "concurrency_per_host": 1}
        await run_spider(
            Wide, args={"sites": (site.url,), "count": 6}, settings={"politeness": politeness}, clock=clock
        )
    between = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(between) >= 100 - 5  # the fake clock also moves while a request is on its way
    assert max(between) > 110


@pytest.mark.parametrize("at_once", [1, 3])
async def test_no_more_requests_are_at_a_host_than_it_has_places(at_once: int) -> None:
    now, most = 0, 0

    async def count(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return web.Response(text="ok")

    class Busy(Wide):
        async def parse(self, response: Response) -> Any:
            if not response.url.endswith("inline"):
                await asyncio.gather(*(self.fetch(f"{response.url}/{n}/inline") for n in range(3)))
            yield {"url": response.url}

    async with LocalSite() as site:
        site.route("*", count)
        politeness = {"concurrency_per_host": at_once, "obey_robots": False}
        run = await run_spider(Busy, args={"sites": (site.url,), "count": 5}, settings={"politeness": politeness})
    assert len(run.items) == 5
    assert len(site.paths) == 20
    assert most == at_once


async def test_hosts_are_crawled_side_by_side() -> None:
    here: set[str] = set()
    all_here = asyncio.Event()

    async def meet(request: web.Request) -> web.Response:
        here.add(request.host)
        if len(here) == 3:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), 20)
        return web.Response(text="ok")

    async with LocalSite("127.0.0.2") as a, LocalSite("127.0.0.3") as b, LocalSite("127.0.0.4") as c:
        for site in (a, b, c):
            site.route("*", meet)
        args = {"sites": (a.url, b.url, c.url), "count": 1}
        settings = {"politeness": {"concurrency_per_host": 1, "obey_robots": False}}
        run = await run_spider(Wide, args=args, settings=settings)
    assert len(run.items) == 3
    assert run.stats["hosts"] == 3


async def test_a_host_that_hangs_does_not_hold_up_the_others() -> None:
    released = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await asyncio.wait_for(released.wait(), 20)
        return web.Response(text="late")

    async with LocalSite("127.0.0.2") as slow, LocalSite("127.0.0.3") as quick:
        slow.route("*", hang)
        quick.page("*", "ok")

        class Watch(Wide):
            done = 0

            def parse(self, response: Response) -> Any:
                if response.url.startswith(quick.url):
                    Watch.done += 1
                    if Watch.done == 20:
                        released.set()
                yield {"url": response.url}

        args = {"sites": (slow.url, quick.url), "count": 20}
        settings = {"crawl": {"concurrency": 4}, "politeness": {"concurrency_per_host": 2, "obey_robots": False}}
        began = time.monotonic()
        run = await run_spider(Watch, args=args, settings=settings)
    assert len(run.items) == 40
    assert time.monotonic() - began < 20


async def test_a_long_delay_at_one_host_holds_no_worker(noise: Any) -> None:
    async with LocalSite("127.0.0.2") as slow, LocalSite("127.0.0.3") as quick:
        slow.page("*", "ok")
        quick.page("*", "ok")
        politeness = {"obey_robots": False, "hosts": {slow.host: {"delay_seconds": 0.3}}}
        settings = {"crawl": {"concurrency": 1}, "politeness": politeness}
        await run_spider(Wide, args={"sites": (slow.url, quick.url), "count": 2}, settings=settings)
        second = slow.journal[1].time
        assert all(hit.time < second for hit in quick.journal)
    assert min(gaps(slow)) >= 0.3 - noise.seconds


async def test_a_hosts_own_settings_replace_the_general_ones(noise: Any) -> None:
    async with LocalSite("127.0.0.2") as own, LocalSite("127.0.0.3") as other:
        own.page("*", "ok")
        other.page("*", "ok")
        politeness = {
            "delay_seconds": 0.2,
            "obey_robots": False,
            "hosts": {own.host: {"delay_seconds": 0, "concurrency_per_host": 8}},
        }
        await run_spider(Wide, args={"sites": (own.url, other.url), "count": 6}, settings={"politeness": politeness})
    assert sum(gaps(own)) < sum(gaps(other)) / 2
    assert min(gaps(other)) >= 0.2 - noise.seconds


async def test_a_callback_that_waits_leaves_its_place_at_the_host_to_others() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")

        class Waiting(Wide):
            others_done = asyncio.Event()

            async def parse(self, response: Response) -> Any:
                if response.url.endswith("/0"):
                    await asyncio.wait_for(self.others_done.wait(), 20)
                elif response.url.endswith("/2"):
                    self.others_done.set()
                return {"url": response.url}

        settings = {"politeness": {"concurrency_per_host": 1}}
        run = await run_spider(Waiting, args={"sites": (site.url,), "count": 3}, settings=settings)
    assert len(run.items) == 3
    assert run.stats["errors"] == 0


async def test_a_job_that_goes_on_keeps_the_delay_from_before(tmp_path: Any, noise: Any) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        options: dict[str, Any] = {
            "args": {"sites": (site.url,), "count": 4},
            "job": tmp_path / "job",
            "settings": {
                "politeness": {"delay_seconds": 0.15, "jitter": 0, "obey_robots": False},
                "crawl": {"time_limit_seconds": 0, "error_limit": 1},
            },
        }

        class Stumbling(Wide):
            calls = 0

            def parse(self, response: Response) -> Any:
                Stumbling.calls += 1
                if Stumbling.calls == 2:
                    raise ValueError
                yield {"url": response.url}

        assert (await run_spider(Stumbling, **options)).reason == "error_limit"
        options["settings"]["crawl"]["error_limit"] = 0
        assert (await run_spider(Stumbling, **options)).reason == "finished"
    assert len(site.journal) == 4
    assert min(gaps(site)) >= 0.15 - noise.seconds


# -- redirects and pauses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
async def test_a_redirect_within_a_host_waits_for_its_own_turn(inline: bool, noise: Any) -> None:
    class Redirected(Wide):
        async def start(self) -> Any:
            for number in range(3):
                if inline:
                    yield {"url": (await self.fetch(f"{self.sites[0]}/from/{number}")).url}
                else:
                    yield self.request(f"{self.sites[0]}/from/{number}")

    async with LocalSite() as site:
        for number in range(3):
            site.redirect(f"/from/{number}", f"/to/{number}")
        site.page("*", "ok")
        settings = {"politeness": {"delay_seconds": 0.1, "obey_robots": False}}
        run = await run_spider(Redirected, args={"sites": (site.url,)}, settings=settings)
    assert sorted(item["url"] for item in run.items) == [f"{site.url}/to/{number}" for number in range(3)]
    assert len(site.journal) == 6
    assert min(gaps(site)) >= 0.1 - noise.seconds
    assert run.stats["redirects"] == 3


async def test_what_a_redirect_leads_to_comes_before_what_was_queued_earlier() -> None:
    async with LocalSite() as site:
        site.redirect("/0", "/account")
        site.page("*", "ok")
        settings = {"politeness": {"delay_seconds": 0.03, "obey_robots": False, "concurrency_per_host": 1}}
        await run_spider(Wide, args={"sites": (site.url,), "count": 4}, settings=settings)
    assert site.paths == ["/0", "/account", "/1", "/2", "/3"]


async def test_a_redirected_robots_txt_waits_for_its_turns(noise: Any) -> None:
    async with LocalSite() as site:
        site.redirect("/robots.txt", "/rules")
        site.page("*", "ok")
        settings = {"politeness": {"delay_seconds": 0.1}}
        await run_spider(Wide, args={"sites": (site.url,), "count": 3}, settings=settings)
    assert [hit.path for hit in site.journal[:2]] == ["/robots.txt", "/rules"]
    assert len(site.journal) == 5
    assert min(gaps(site)) >= 0.1 - noise.seconds


async def test_a_crawl_delay_is_kept_to_from_the_first_page_on() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nCrawl-delay: 0.2")
        site.page("*", "ok")
        await run_spider(Wide, args={"sites": (site.url,), "count": 4})
    assert len(site.journal) == 5
    assert min(gaps(site)) >= 0.1, "without it there would be none"


async def test_a_crawl_delay_is_cut_and_ignored_as_the_settings_say(noise: Any) -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        for each in (site, other):
            each.robots("User-agent: *\nCrawl-delay: 1000")
            each.page("*", "ok")
        politeness = {"max_crawl_delay_seconds": 0.05, "hosts": {other.host: {"obey_robots": False}}}
        settings = {"politeness": politeness}
        await run_spider(Wide, args={"sites": (site.url, other.url), "count": 4}, settings=settings)
    assert min(gaps(site)) >= 0.05 - noise.seconds
    assert site.journal[-1].time - site.journal[0].time < 100
    assert other.journal[-1].time - other.journal[0].time < 100


@pytest.mark.hostile("R-20")
async def test_an_inline_fetch_that_waits_for_its_turn_keeps_to_a_pause_that_comes_meanwhile(noise: Any) -> None:
    class Both(Wide):
        async def start(self) -> Any:
            await asyncio.gather(self.fetch(f"{self.sites[0]}/a"), self.fetch(f"{self.sites[0]}/b"))
            yield {"done": True}

    async with LocalSite() as site:
        site.page("*", "ok")
        site.page("/a", "busy", status=429, headers={"Retry-After": "1"})
        settings = {"politeness": {"delay_seconds": 0.1, "obey_robots": False}, "retry": {"times": 0}}
        run = await run_spider(Both, args={"sites": (site.url,)}, settings=settings)
    assert run.items == [{"done": True}]
    assert site.paths == ["/a", "/b"]
    assert min(gaps(site)) >= 1 - noise.seconds


# -- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group_by", "names", "together"),
    [
        ("domain", ("www.a.test", "shop.a.test"), True),
        ("domain", ("www.a.test", "www.b.test"), False),
        ("ip", ("a.test", "b.test"), True),
        ("host", ("www.a.test", "shop.a.test"), False),
    ],
)
async def test_hosts_are_treated_alone_by_domain_or_by_address(
    group_by: str, names: tuple[str, ...], together: bool, noise: Any
) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        port = site.url.rpartition(":")[2]
        settings = {
            "politeness": {"delay_seconds": 0.1, "jitter": 0, "obey_robots": False, "group_by": group_by},
            "dns": {"hosts": dict.fromkeys(names, "127.0.0.1")},
        }
        urls = tuple(f"http://{name}:{port}" for name in names)
        run = await run_spider(Wide, args={"sites": urls, "count": 3}, settings=settings)
    assert len(run.items) == 6
    nearest = min(gaps(site))
    assert nearest >= 0.1 - noise.seconds if together else nearest < 0.1 / 2


@pytest.mark.parametrize("group_by", ["ip", "domain"])
async def test_inline_fetches_have_the_turns_of_their_hosts_group(group_by: str, noise: Any) -> None:
    class Inline(Wide):
        async def start(self) -> Any:
            fetched = await asyncio.gather(*(self.fetch(f"{site}/{n}") for n in range(2) for site in self.sites))
            yield [{"url": each.url} for each in fetched]

    async with LocalSite() as site:
        site.page("*", "ok")
        names = ("www.a.test", "shop.a.test")
        settings = {
            "politeness": {"delay_seconds": 0.1, "jitter": 0, "obey_robots": False, "group_by": group_by},
            "dns": {"hosts": dict.fromkeys(names, "127.0.0.1")},
        }
        port = site.url.rpartition(":")[2]
        run = await run_spider(Inline, args={"sites": [f"http://{name}:{port}" for name in names]}, settings=settings)
    assert len(run.items) == 4
    assert min(gaps(site)) >= 0.1 - noise.seconds


async def test_a_handshake_that_is_refused_pauses_its_host_like_any_other_answer(noise: Any) -> None:
    class Talker(Wide):
        async def start(self) -> Any:
            try:
                async with self.websocket(f"{self.sites[0]}/feed"):
                    pass
            except FetchError as error:
                yield {"reason": error.reason}
            yield {"delay": (await self.fetch(f"{self.sites[0]}/page")).status}

    async with LocalSite() as site:
        site.page("*", "ok")
        site.page("/feed", "busy", status=503)
        settings = {"politeness": {"delay_seconds": 0.1, "jitter": 0, "obey_robots": False}, "retry": {"times": 0}}
        run = await run_spider(Talker, args={"sites": (site.url,)}, settings=settings)
    assert run.items == [{"reason": "status_503"}, {"delay": 200}]
    assert min(gaps(site)) >= 0.2 - noise.seconds, "the host erred: its delay is doubled"
