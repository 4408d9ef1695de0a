"""Several workers of one crawl, side by side over a broker in dictionaries: what the worker's side must see to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter

import pytest
from aiohttp import web

from crawler import Request, Spider, workers
from crawler.assemble import Crawl, load_settings
from crawler.clock import SystemClock
from crawler.errors import SessionLost
from crawler.frontier import loans
from crawler.frontier.broker import Control
from crawler.settings import mapping_layer
from crawler.testing import LocalSite
from tests.frontier.model_broker import ModelCrawl

DELAY = 0.2


class Tree(Spider):
    """`width` links a page, `depth` deep, on each of `sites`."""

    name = "tree"
    sites: tuple[str, ...] = ()
    started = 0

    async def start(self):
        type(self).started += 1
        for site in self.sites:
            yield self.request(f"{site}/")

    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all("a")


def tree(site, width=3, depth=2):
    """Pages at `/`, `/0`, `/0/1` …"""
    paths = [""]
    for _ in range(depth):
        for path in list(paths):
            children = [f"{path}/{number}" for number in range(width)]
            site.page(path or "/", "".join(f'<a href="{child}">x</a>' for child in children))
            paths += [child for child in children if child not in paths]
    for path in paths:
        if path.count("/") == depth:
            site.page(path, '<a href="/">home</a>')
    return len(set(paths))


@pytest.fixture
def crew(monkeypatch):
    """`await crew(spider, args, settings, names=…)`: each worker's items."""
    clock = SystemClock()
    crawl = ModelCrawl(clock, lease_seconds=30.0)
    brokers = []

    def broker(settings, spider, *, worker, clock, rng):
        crawl.page_limit = settings.crawl.page_limit
        brokers.append(crawl.worker(worker))
        return brokers[-1]

    monkeypatch.setattr(workers, "redis_broker", broker)
    monkeypatch.setattr(loans, "_MOST_TASKS", 2)  # so that few pages are work for several

    @contextlib.asynccontextmanager
    async def opened(spider, name, args=(), settings=None, *, on_item=None, job=None):
        tables = {"politeness": {"delay_seconds": DELAY, "jitter": 0.0}, **(settings or {})}
        tables["frontier"] = {"url": "redis://model", "worker": name}
        loaded = load_settings(spider, [mapping_layer("settings=", tables)])
        async with Crawl(spider(**dict(args)), loaded.settings, on_item=on_item, job=job) as running:
            yield running

    async def run(spider, args=(), settings=None, names=("w1", "w2", "w3")):
        items = {name: [] for name in names}

        async def work(name):
            async def keep(item):
                items[name].append(item)

            async with opened(spider, name, args, settings, on_item=keep) as running:
                return await running.run()

        results = await asyncio.gather(*map(work, names))
        return items, results

    run.crawl, run.opened, run.brokers = crawl, opened, brokers
    return run


@pytest.mark.hostile("R-13")
async def test_workers_share_a_crawl_and_each_page_is_fetched_once(crew, noise):
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, 7)]
        pages = sum(tree(site) for site in sites)
        Tree.started = 0
        items, results = await crew(Tree, {"sites": tuple(site.url for site in sites)})
        assert [result.reason for result in results] == ["finished"] * 3
        assert Tree.started == 1
        urls = Counter(item["url"] for worker in items.values() for item in worker)
        assert len(urls) == pages
        assert set(urls.values()) == {1}
        for site in sites:
            paths = Counter(hit.path for hit in site.journal)
            assert set(paths.values()) == {1}
            times = [hit.time for hit in site.journal]
            assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= DELAY - noise.seconds
    assert sum(bool(worker) for worker in items.values()) > 1
    assert crew.crawl.control is Control.FINISHED


async def test_the_page_limit_holds_over_all_workers(crew):
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, 5)]
        for site in sites:
            tree(site)
        items, results = await crew(Tree, {"sites": tuple(site.url for site in sites)}, {"crawl": {"page_limit": 17}})
    assert sum(map(len, items.values())) == 17
    assert {result.reason for result in results} == {"page_limit"}


async def test_the_pages_of_a_host_are_counted_over_all_workers(crew):
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, 5)]
        for site in sites:
            tree(site, depth=3)
        args = {"sites": tuple(site.url for site in sites)}
        items, results = await crew(Tree, args, {"crawl": {"pages_per_host": 11}})
    hosts = Counter(item["url"].split("/")[2] for worker in items.values() for item in worker)
    assert sorted(hosts.values()) == [11] * 4
    assert {result.reason for result in results} == {"finished"}


async def test_a_page_reached_by_redirects_gives_its_items_to_one_worker(crew):
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, 7)]
        target = sites[0].url + "/same"
        sites[0].page("/same", "here")
        for site in sites:
            site.redirect("/", target)
        items, _ = await crew(Tree, {"sites": tuple(site.url for site in sites)})
    assert [item["url"] for worker in items.values() for item in worker] == [target]


class Inline(Spider):
    """Each page asks another host something, inline."""

    name = "inline"
    sites: tuple[str, ...] = ()
    other = ""

    async def start(self):
        for site in self.sites:
            for number in range(3):
                yield Request(f"{site}/{number}")

    async def parse(self, response):
        answer = await self.fetch(f"{self.other}/answer?to={response.url[-1]}{response.url[9:16]}")
        yield {"answer": answer.text}


@pytest.mark.hostile("R-12")
async def test_inline_fetches_of_several_workers_to_one_host_keep_its_delay(crew, noise):
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, 5)]
        other = await stack.enter_async_context(LocalSite("127.0.0.9"))
        other.page("*", "42")
        for site in sites:
            site.page("*", "a page")
        args = {"sites": tuple(site.url for site in sites), "other": other.url}
        items, results = await crew(Inline, args, {"security": {"allow_private_networks": True}})
    assert [result.reason for result in results] == ["finished"] * 3
    assert sum(map(len, items.values())) == 12
    times = [hit.time for hit in other.journal]
    assert len(times) == 13  # robots.txt as well
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= DELAY - noise.seconds


class Members(Spider):
    """Logs in at each site, then reads pages that only members see."""

    name = "members"
    sites: tuple[str, ...] = ()

    async def start(self):
        for site in self.sites:
            yield Request(f"{site}/login", self.logged_in)

    def logged_in(self, response):
        for number in range(8):
            yield response.follow(f"/page/{number}", self.parse)

    def parse(self, response):
        yield {"seen": response.text}


async def test_cookies_that_one_worker_was_given_are_sent_by_all(crew):
    async def login(request):
        answer = web.Response(text="welcome")
        answer.set_cookie("member", "yes")
        return answer

    async def page(request):
        return web.Response(text=request.cookies.get("member", "no"))

    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, 7)]
        for site in sites:
            site.route("/login", login)
            site.route("*", page)
        items, _ = await crew(Members, {"sites": tuple(site.url for site in sites)}, {"http": {"unsafe_cookies": True}})
    assert [item["seen"] for worker in items.values() for item in worker] == ["yes"] * 48


async def test_a_paused_crawl_waits_and_a_drained_one_goes_on_another_time(crew):
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, 4)]
        pages = sum(tree(site) for site in sites)
        args = {"sites": tuple(site.url for site in sites)}
        met = []

        async def keep(item):
            met.append(item["url"])
            if len(met) == 5:
                crew.crawl.control = Control.PAUSED
            if len(met) == pages:
                whole.set()

        whole = asyncio.Event()
        async with crew.opened(Tree, "w1", args, on_item=keep) as first:
            running = asyncio.create_task(first.run())
            while not (crew.crawl.control is Control.PAUSED and first.engine.snapshot()["in_flight"] == 0):
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.2)
            asked = sum(len(site.journal) for site in sites)
            assert asked < pages
            crew.crawl.control = Control.DRAINING
            assert (await running).reason == "interrupted"
        crew.crawl.control = Control.RUNNING
        async with crew.opened(Tree, "w1", args, on_item=keep) as again:
            assert (await again.run()).reason == "finished"
    assert sorted(met) == sorted(set(met))
    assert len(met) == pages


@pytest.mark.hostile("R-11")
async def test_what_one_worker_has_lost_the_others_do_and_nothing_of_it_counts(crew):
    """Its session lapses in the middle: its pages come again elsewhere, and its commits are refused."""
    gate = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, 4)]
        pages = sum(tree(site) for site in sites)
        met, kept = [], []

        async def hold(item):
            met.append(item)
            if len(met) >= 5:
                gate.set()
                await asyncio.Event().wait()

        async def keep(item):
            kept.append(item)

        args = {"sites": tuple(site.url for site in sites)}
        async with crew.opened(Tree, "frozen", args, on_item=hold) as frozen:
            first = asyncio.create_task(frozen.run())
            await gate.wait()
            crew.crawl.sessions[crew.brokers[0].session] = 0.0  # its time is over
            async with crew.opened(Tree, "other", args, on_item=keep) as other:
                result = await other.run()
            with pytest.raises(SessionLost):
                await first
    assert result.reason == "finished"
    committed = crew.crawl.completed
    assert committed == pages
    assert len({item["url"] for item in kept}) == len(kept)
