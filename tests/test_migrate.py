"""`crawler migrate`: a crawl that was interrupted goes on at another engine, and nothing of it is lost or repeated."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from crawler import Spider, crawl
from crawler.assemble import load_settings
from crawler.errors import JobError, UsageError
from crawler.migrate import migrate
from crawler.settings import mapping_layer
from crawler.testing import LocalSite
from tests.engines import Server, needs_redis

pytestmark = needs_redis

FAST = {"delay_seconds": 0.0, "concurrency_per_host": 4}
PAGES = 40


class Chain(Spider):
    """Each page has two links; half of the pages are known twice."""

    name = "chain"
    site = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/0", priority=3)

    def parse(self, response: Any) -> Any:
        yield {"url": response.url}
        yield response.follow_all("a", priority=int(response.url.rpartition("/")[2]) % 3)


@pytest.fixture
async def site():
    async with LocalSite() as opened:
        for number in range(PAGES):
            links = [min(PAGES - 1, number + step) for step in (1, 2)]
            opened.page(f"/{number}", "".join(f'<a href="/{link}">x</a>' for link in links))
        opened.robots("User-agent: *\nDisallow: /never\n")
        yield opened


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def url(engine):
    engine.flush()
    return engine.url


def shared(url: str, worker: str) -> dict[str, Any]:
    return {"politeness": FAST, "frontier": {"url": url, "worker": worker, "lease_seconds": 2}}


def settings(frontier: dict[str, Any] | None = None) -> Any:
    layers = [mapping_layer("settings=", {"politeness": FAST, "frontier": frontier or {}})]
    return load_settings(Chain, layers).settings


def fetched(site: LocalSite) -> Counter[str]:
    return Counter(hit.path for hit in site.journal if hit.path != "/robots.txt")


async def test_a_folders_crawl_goes_on_at_an_engine_and_comes_back(site, url, tmp_path):
    job = tmp_path / "job"
    args = {"site": site.url}
    stopped = await crawl(Stopping, args={**args, "after": 10}, settings={"politeness": FAST}, job=job)
    assert stopped.reason == "interrupted"
    moved = await asyncio.to_thread(migrate, str(job), url, settings())
    assert moved.crawl == "chain"
    assert moved.waiting > 0
    half = await crawl(Stopping, args={**args, "after": 10}, settings=shared(url, "w1"), job=tmp_path / "w")
    assert half.stats["pages"] >= 10
    back = await asyncio.to_thread(migrate, url, str(tmp_path / "again"), settings({"crawl": "chain"}))
    assert back.known >= 20
    result = await crawl(Chain, args=args, settings={"politeness": FAST}, job=tmp_path / "again")
    assert result.reason == "finished"
    # Both times it stopped in the middle of a page, which was to be done again.
    assert fetched(site) == {f"/{number}": 1 + (number in {9, 19}) for number in range(PAGES)}
    assert sum(hit.path == "/robots.txt" for hit in site.journal) == 1


class Stopping(Chain):
    """Stops itself after some pages."""

    after = 0
    seen = 0

    def parse(self, response: Any) -> Any:
        self.seen += 1
        yield from super().parse(response)
        if self.seen == self.after:
            raise KeyboardInterrupt


async def test_what_cannot_move_is_refused_and_stays(site, url, tmp_path):
    with pytest.raises(UsageError, match="copy the folder"):
        await asyncio.to_thread(migrate, "a", "b", settings())
    with pytest.raises(JobError, match="no frontier"):
        await asyncio.to_thread(migrate, str(tmp_path / "none"), url, settings())
    with pytest.raises(UsageError, match="which crawl"):
        await asyncio.to_thread(migrate, url, str(tmp_path / "job"), settings())
    with pytest.raises(JobError, match="there is no crawl"):
        await asyncio.to_thread(migrate, url, str(tmp_path / "job"), settings({"crawl": "chain"}))
