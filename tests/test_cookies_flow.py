"""Cookies of a crawl: seen by the spider, and a part of the job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from crawler import Request, Response, Spider
from crawler.api import _crawl as assemble
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"politeness": {"delay_seconds": 0, "obey_robots": False}, "http": {"unsafe_cookies": True}}


class Visitor(Spider):
    name = "visitor"
    site = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/login", session="anna")

    def parse(self, response: Response) -> Any:
        yield self.request(f"{self.site}/inside", self.inside, session="anna")

    def inside(self, response: Response) -> Any:
        yield {"cookie": response.request_headers.get("Cookie")}


def login(site: LocalSite, *cookies: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        response = web.Response(text="welcome")
        for cookie in cookies or ("sid=secret; Path=/", "seen=1; Path=/; Max-Age=3600"):
            response.headers.add("Set-Cookie", cookie)
        return response

    site.route("/login", answer)
    site.page("/inside", "inside")


async def run_until_stopped_at(path: str, job: Path, site: LocalSite) -> Any:
    """One run over the job, interrupted while it is at `path`; its engine's reason."""
    crawl = assemble(Visitor, {"site": site.url}, SETTINGS, (), job=job)
    async with crawl:

        async def stop(request: web.Request) -> web.Response:
            crawl.engine.abort()
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "0"})

        site.route(path, stop)
        return (await crawl.run()).reason


async def test_jars_come_back_with_an_interrupted_crawl(tmp_path: Path) -> None:
    async with LocalSite() as site:
        login(site)
        assert await run_until_stopped_at("/inside", tmp_path / "job", site) == "interrupted"
        login(site)
        run = await run_spider(Visitor, args={"site": site.url}, settings=SETTINGS, job=tmp_path / "job")
    assert run.items == [{"cookie": "sid=secret; seen=1"}]
    assert site.paths.count("/login") == 1


async def test_a_new_crawl_begins_without_cookies(tmp_path: Path) -> None:
    class Direct(Visitor):
        async def start(self) -> Any:
            yield self.request(f"{self.site}/inside", self.inside, session="anna")
            yield self.request(f"{self.site}/login", session="anna")

        def parse(self, response: Response) -> None: ...

    async with LocalSite() as site:
        login(site)
        settings = {**SETTINGS, "crawl": {"concurrency": 1}}
        runs = [await run_spider(Direct, args={"site": site.url}, settings=settings, job=tmp_path) for _ in range(2)]
    assert [run.items for run in runs] == [[{"cookie": None}], [{"cookie": None}]]


async def test_a_cookie_that_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    class Leaving(Visitor):
        def parse(self, response: Response) -> Any:
            yield self.request(f"{self.site}/logout", self.again, session="anna")

        def again(self, response: Response) -> Any:
            yield from super().parse(response)

    async with LocalSite() as site:
        login(site)
        site.page("/logout", "bye", headers={"Set-Cookie": "sid=; Path=/; Max-Age=0"})
        crawl = assemble(Leaving, {"site": site.url}, SETTINGS, (), job=tmp_path / "job")
        async with crawl:

            async def stop(request: web.Request) -> web.Response:
                crawl.engine.abort()
                raise web.HTTPServiceUnavailable(headers={"Retry-After": "0"})

            site.route("/inside", stop)
            await crawl.run()
        login(site)
        run = await run_spider(Leaving, args={"site": site.url}, settings=SETTINGS, job=tmp_path / "job")
    assert run.items == [{"cookie": "seen=1"}]


@pytest.mark.hostile("S20")
async def test_the_job_shows_cookies_to_its_owner_alone(tmp_path: Path) -> None:
    async with LocalSite() as site:
        login(site)
        await run_spider(Visitor, args={"site": site.url}, settings=SETTINGS, job=tmp_path / "job")
    for file in (tmp_path / "job" / "frontier").iterdir():
        assert file.stat().st_mode & 0o077 == 0
    for name in ("stats.json", "crawl.log"):
        assert b"secret" not in (tmp_path / "job" / name).read_bytes()


async def test_the_spider_reads_a_sessions_cookies_and_what_would_be_sent() -> None:
    class Reader(Visitor):
        def parse(self, response: Response) -> Any:
            anna = self.cookies("anna")
            yield {
                "names": sorted(cookie.name for cookie in anna),
                "sid": anna["sid"],
                "there": self.cookies("anna", f"{self.site}/inside").dict(),
                "elsewhere": self.cookies("anna", "http://127.0.0.9/").dict(),
                "default": len(self.cookies()),
            }

    async with LocalSite() as site:
        login(site, "sid=1; Path=/", "deep=2; Path=/deep")
        run = await run_spider(Reader, args={"site": site.url}, settings=SETTINGS)
    assert run.items == [{"names": ["deep", "sid"], "sid": "1", "there": {"sid": "1"}, "elsewhere": {}, "default": 0}]


async def test_sessions_are_different_visitors_and_inline_fetches_share_them() -> None:
    class Two(Visitor):
        async def parse(self, response: Response) -> Any:
            mine = await self.fetch(Request(f"{self.site}/inside", session="anna"))
            other = await self.fetch(Request(f"{self.site}/inside", session="bert"))
            yield {"anna": mine.request_headers.get("Cookie"), "bert": other.request_headers.get("Cookie")}

    async with LocalSite() as site:
        login(site, "sid=1")
        run = await run_spider(Two, args={"site": site.url}, settings=SETTINGS)
    assert run.items == [{"anna": "sid=1", "bert": None}]


async def test_cookies_of_ip_addresses_are_kept_when_asked_for_only() -> None:
    async with LocalSite() as site:
        login(site)
        settings = {"politeness": SETTINGS["politeness"]}
        run = await run_spider(Visitor, args={"site": site.url}, settings=settings)
    assert run.items == [{"cookie": None}]
