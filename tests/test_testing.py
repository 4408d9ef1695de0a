"""The test kit that users get: it must be right, or everybody's tests lie."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from crawler import Failure, Request, Response, Spider
from crawler.testing import (
    Authority,
    Canary,
    Chaos,
    DnsServer,
    FakeClock,
    LocalSite,
    RawServer,
    fake_response,
    offline,
    run_spider,
)
from crawler.testing.names import Address

if TYPE_CHECKING:
    from pathlib import Path

NO_ROBOTS = {"politeness": {"obey_robots": False}}


# -- LocalSite -------------------------------------------------------------------------------------------------------


async def get(site: LocalSite, path: str, **options: Any) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(site.url + path, **options) as response:
        return response.status, await response.text()


async def test_a_site_answers_what_it_was_told_and_404_for_the_rest() -> None:
    async with LocalSite() as site:
        site.page("/a", "text", status=201)
        assert await get(site, "/a") == (201, "text")
        assert (await get(site, "/b"))[0] == 404
        assert (await get(site, "/robots.txt"))[0] == 404


async def test_a_page_with_a_query_comes_before_the_one_without() -> None:
    async with LocalSite() as site:
        site.page("/a", "all")
        site.page("/a?page=2", "second")
        assert await get(site, "/a") == (200, "all")
        assert await get(site, "/a?page=2") == (200, "second")
        assert await get(site, "/a?page=3") == (200, "all")


async def test_a_star_answers_everything_but_robots_txt() -> None:
    async with LocalSite() as site:
        site.page("*", "anything")
        site.page("/own", "own")
        assert await get(site, "/x/y?z") == (200, "anything")
        assert await get(site, "/own") == (200, "own")
        assert (await get(site, "/robots.txt"))[0] == 404


async def test_a_page_for_some_times_gives_way_to_the_one_before() -> None:
    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "busy", status=503, times=2)
        assert [(await get(site, "/"))[0] for _ in range(4)] == [503, 503, 200, 200]


async def test_a_dropped_connection_is_one_to_the_client_and_in_the_journal() -> None:
    async with LocalSite() as site:
        site.page("/", "fine")
        site.drop("/", times=1)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.post(site.url)  # a GET would be repeated by aiohttp
        assert await get(site, "/") == (200, "fine")
    assert site.paths == ["/", "/"]


async def test_the_journal_has_what_was_sent_in_the_order_of_arrival() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        before = time.monotonic()
        async with aiohttp.ClientSession() as session:
            await session.post(f"{site.url}/one?q=%C3%A9", data=b"body", headers={"X-Own": "1"})
            await session.get(f"{site.url}/robots.txt")
            await session.get(f"{site.url}/two")
    first, robots, second = site.journal
    assert (first.method, first.path, first.body, first.headers["x-own"]) == ("POST", "/one?q=%C3%A9", b"body", "1")
    assert first.host == site.host
    assert before <= first.time <= robots.time <= second.time
    assert site.paths == ["/one?q=%C3%A9", "/two"]
    assert site.requests("/two") == [second]


@pytest.mark.parametrize("kind", ["urlencoded", "multipart"])
async def test_a_handler_can_read_a_form_though_the_journal_has_its_body(kind: str) -> None:
    seen: dict[str, Any] = {}

    async def read(request: web.Request) -> web.Response:
        seen.update(await request.post())
        return web.Response()

    async with LocalSite() as site:
        site.route("/", read)
        form = aiohttp.FormData({"title": "A book"}, default_to_multipart=kind == "multipart")
        async with aiohttp.ClientSession() as session:
            await session.post(site.url, data=form)
    assert seen == {"title": "A book"}
    assert b"book" in site.journal[0].body


async def test_each_loopback_address_is_another_host() -> None:
    async with LocalSite() as one, LocalSite("127.0.0.7") as other:
        other.page("/", "other")
        assert one.host.startswith("127.0.0.1:")
        assert other.url.startswith("http://127.0.0.7:")
        assert await get(other, "/") == (200, "other")
    assert one.journal == []


async def test_one_can_wait_until_so_many_requests_have_arrived() -> None:
    async with LocalSite() as site:
        waiting = asyncio.create_task(site.reached(2))
        await get(site, "/")
        assert not waiting.done()
        await get(site, "/")
        await asyncio.wait_for(waiting, 20)
        await asyncio.wait_for(site.reached(1), 20)


async def test_a_redirect_is_written_as_it_stands() -> None:
    async with LocalSite() as site:
        site.redirect("/", "../odd place", status=307, headers={"X-Own": "1"})
        async with aiohttp.ClientSession() as session, session.get(site.url, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (307, "../odd place")
            assert response.headers["X-Own"] == "1"


async def test_a_site_goes_away_at_once_even_with_a_request_in_its_hands() -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with asyncio.timeout(20):
        async with LocalSite() as site:
            site.route("/", hang)
            asking = asyncio.create_task(get(site, "/"))
            await site.reached(1)
        with pytest.raises(aiohttp.ClientError):
            await asking


# -- FakeClock -------------------------------------------------------------------------------------------------------


async def test_the_fake_clock_does_not_jump_over_what_a_busy_machine_brings_late() -> None:
    clock, brought = FakeClock(start=0.0), asyncio.Event()

    async def bring() -> None:
        for _ in range(4):
            time.sleep(0.03)
            await asyncio.sleep(0)
        brought.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(bring())
        await clock.wait(brought, 100.0)
    assert clock.now() == 0.0


async def test_sleeping_on_the_fake_clock_takes_no_time_and_moves_it() -> None:
    clock = FakeClock(start=100.0)
    began = time.monotonic()
    await clock.sleep(3600)
    assert clock.now() == 3700.0
    assert clock.slept == [3600]
    assert time.monotonic() - began < 60
    clock.advance(5)
    assert clock.now() == 3705.0


async def test_a_wait_ends_with_its_event_or_jumps_over_its_time() -> None:
    clock = FakeClock(start=0.0)
    event = asyncio.Event()
    await clock.wait(event, 60)
    assert clock.now() == 60.0
    event.set()
    await clock.wait(event, 60)
    await clock.wait(event, None)
    assert clock.now() == 60.0


async def test_a_crawl_with_delays_of_hours_runs_at_once() -> None:
    class Slow(Spider):
        name = "slow"
        site = ""

        async def start(self) -> Any:
            for number in range(4):
                yield self.request(f"{self.site}/{number}")

        def parse(self, response: Response) -> Any:
            yield {"url": response.url}

    clock = FakeClock()
    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {"politeness": {"delay_seconds": 3600, "obey_robots": False}}
        run = await run_spider(Slow, args={"site": site.url}, settings=settings, clock=clock)
    assert len(run.items) == 4
    assert run.stats["elapsed_seconds"] >= 3 * 3600


# -- run_spider ------------------------------------------------------------------------------------------------------


class Titles(Spider):
    name = "titles"
    site = ""

    async def start(self) -> Any:
        yield self.request(self.site)

    def parse(self, response: Response) -> Any:
        yield {"title": response.css("title::text").get()}


async def test_a_run_has_items_reason_statistics_and_the_spider(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/", "<title>Hello</title>")
        run = await run_spider(Titles, args={"site": site.url}, output=tmp_path / "x.jsonl", job=tmp_path / "job")
    assert run.items == [{"title": "Hello"}]
    assert run.reason == "finished"
    assert run.stats["pages"] == 1
    assert isinstance(run.spider, Titles)
    assert (tmp_path / "x.jsonl").read_text() == '{"title":"Hello"}\n'


async def test_a_run_is_quick_by_default_and_polite_when_told(noise: Any) -> None:
    class Own(Titles):
        settings = {"politeness": {"jitter": 0}, "http": {"user_agent": "own/1"}}

    async with LocalSite() as site:
        site.page("/", "x")
        await run_spider(Own, args={"site": site.url}, settings={"politeness": {"delay_seconds": 0.1}})
    robots, page = site.journal
    assert page.time - robots.time >= 0.1 - noise.seconds
    assert page.headers["User-Agent"] == "own/1"


# -- fake_response ---------------------------------------------------------------------------------------------------


def test_a_callback_can_be_tested_alone() -> None:
    page = fake_response(
        "http://shop.example/a", "<title>Ünï</title><a href='b'>B</a>", meta={"n": 1}, cb_kwargs={"k": 2}
    )
    assert list(Titles().parse(page)) == [{"title": "Ünï"}]
    assert page.follow("b").url == "http://shop.example/b"
    assert (page.status, page.meta, page.cb_kwargs) == (200, {"n": 1}, {"k": 2})


def test_status_headers_and_bytes_of_a_fake_response_are_as_given() -> None:
    page = fake_response(
        "http://shop.example/", b"\xe9", status=404, headers={"content-type": "text/plain; charset=latin-1"}
    )
    assert (page.status, page.text) == (404, "é")


async def test_a_fake_response_can_be_streamed_and_saved(tmp_path: Path) -> None:
    body = b"x" * 500_000
    streamed = fake_response("http://shop.example/file", body, stream=True)
    assert streamed.body == b""
    assert streamed.content is not None
    assert await streamed.content.read() == body
    saved = await fake_response("http://shop.example/file", body, stream=True).save(tmp_path / "file.bin")
    assert (saved.bytes, saved.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert (await fake_response("http://shop.example/", "text").save(tmp_path / "text")).bytes == 4


# -- offline ---------------------------------------------------------------------------------------------------------


class Offline(Spider):
    """Asks addresses that nobody here could reach."""

    name = "offline"
    paths: tuple[str, ...] = ("/",)

    async def start(self) -> Any:
        for path in self.paths:
            yield self.request(f"http://shop.example{path}")

    def parse(self, response: Response) -> Any:
        yield {"url": response.url, "status": response.status, "bytes": len(response.body)}

    def failed(self, failure: Failure) -> Any:
        yield {"reason": failure.reason}


@pytest.mark.parametrize("size", [0, 10, 128 * 1024, 128 * 1024 + 1, 3_000_000])
async def test_registered_addresses_are_answered_without_a_server_whatever_their_size(size: int) -> None:
    with offline() as mocked:
        mocked.get("http://shop.example/", body=b"x" * size)
        async with asyncio.timeout(20):
            run = await run_spider(Offline, settings=NO_ROBOTS)
    assert run.items == [{"url": "http://shop.example/", "status": 200, "bytes": size}]


async def test_robots_txt_can_be_registered_and_is_kept_to() -> None:
    with offline() as mocked:
        mocked.get("http://shop.example/robots.txt", body="User-agent: *\nDisallow: /private")
        mocked.get("http://shop.example/a", body="ok")
        run = await run_spider(Offline, args={"paths": ("/a", "/private")})
    assert sorted(map(str, run.items)) == sorted(
        map(str, [{"url": "http://shop.example/a", "status": 200, "bytes": 2}, {"reason": "robots"}])
    )


async def test_statuses_headers_and_json_come_as_registered() -> None:
    class Json(Offline):
        def parse(self, response: Response) -> Any:
            yield {"json": response.json(), "own": response.headers["X-Own"]}

    with offline() as mocked:
        mocked.get("http://shop.example/", payload={"n": [1, 2]}, headers={"X-Own": "1"})
        mocked.get("http://shop.example/gone", status=404)
        run = await run_spider(Json, args={"paths": ("/", "/gone")}, settings=NO_ROBOTS)
    assert {"json": {"n": [1, 2]}, "own": "1"} in run.items
    assert {"reason": "status_404"} in run.items


async def test_a_registered_exception_is_translated_as_on_the_wire() -> None:
    with offline() as mocked:
        mocked.get("http://shop.example/", exception=aiohttp.ServerDisconnectedError())
        run = await run_spider(Offline, settings={**NO_ROBOTS, "retry": {"times": 0}})
    assert run.items == [{"reason": "disconnected"}]


async def test_an_address_that_is_not_registered_fails_like_a_host_that_is_not_there() -> None:
    with offline():
        run = await run_spider(Offline, settings={**NO_ROBOTS, "retry": {"times": 0}})
    assert run.items == [{"reason": "connect"}]


async def test_what_was_sent_can_be_looked_at() -> None:
    class Login(Offline):
        async def start(self) -> Any:
            yield Request("http://shop.example/login", method="POST", json={"user": "me"}, headers={"X-Own": "1"})

    with offline() as mocked:
        mocked.post("http://shop.example/login", body="hello")
        await run_spider(Login, settings=NO_ROBOTS)
        mocked.assert_called_once()
        ((method, url), (call,)) = next(iter(mocked.requests.items()))
    assert (method, str(url)) == ("POST", "http://shop.example/login")
    assert call.kwargs["json"] == {"user": "me"}
    assert call.kwargs["headers"]["X-Own"] == "1"


async def test_real_servers_may_be_let_through() -> None:
    async with LocalSite() as site:
        site.page("/", "<title>real</title>")
        with offline(passthrough=[site.url]):
            run = await run_spider(Titles, args={"site": site.url})
    assert run.items == [{"title": "real"}]


async def test_afterwards_everything_is_as_before() -> None:
    from aioresponses import core

    before = (core.ClientResponse, core.stream_reader_factory, aiohttp.ClientSession._request)
    with offline():
        assert core.ClientResponse is not before[0]
    assert (core.ClientResponse, core.stream_reader_factory, aiohttp.ClientSession._request) == before


# -- what is not nice ------------------------------------------------------------------------------------------------


class Shop(Spider):
    name = "shop"
    site = ""

    async def start(self) -> Any:
        yield self.request(self.site)

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}
        yield response.follow_all("a")


async def test_a_crawl_of_a_chaotic_site_brings_home_every_page() -> None:
    chaos = Chaos(1.0, seed=1)
    async with LocalSite(chaos=chaos) as site:
        site.page("/", "".join(f"<a href='/{n}'>x</a>" for n in range(60)))
        site.page("*", "fine")
        settings = {"retry": {"times": 3, "max_seconds": 0.01}, "politeness": {"obey_robots": False}}
        run = await run_spider(Shop, args={"site": site.url}, settings=settings)
    assert len(run.items) == 61
    over_a_used_connection = sum(chaos.counts[kind] for kind in ("reset", "hang_up", "garbage"))
    assert 61 - over_a_used_connection <= run.stats["retries"] <= 61
    assert set(chaos.counts) == set(Chaos.KINDS)
    assert sum(chaos.counts.values()) == 61


async def test_chaos_is_the_same_for_the_same_seed() -> None:
    def met(seed: int) -> list[bool]:
        chaos = Chaos(0.3, seed=seed)
        return [chaos.fault(f"/{n}") is not None for n in range(1000)]

    assert met(1) == met(1) != met(2)
    assert 250 < sum(met(1)) < 350


def test_chaos_names_what_there_is() -> None:
    Chaos(0.2, kinds=["slow"])
    with pytest.raises(ValueError, match=r"no such kind of chaos: fire; there are reset, .*slow"):
        Chaos(1.0, kinds=["fire"])


async def test_a_canary_counts_who_comes() -> None:
    async with Canary() as canary:
        assert canary.connections == 0
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.post(canary.url)
        assert canary.connections == 1


async def test_a_site_speaks_tls_with_what_an_authority_signed(tmp_path: Path) -> None:
    authority = Authority()
    async with LocalSite(tls=authority.server("127.0.0.1")) as site:
        assert site.url.startswith("https://127.0.0.1:")
        site.page("/", "safe")
        trusting = {"tls": {"ca_file": str(authority.save(tmp_path))}}
        run = await run_spider(Shop, args={"site": site.url}, settings=trusting)
        strangers = await run_spider(Shop, args={"site": site.url}, settings={"retry": {"times": 0}})
    assert run.items == [{"url": f"{site.url}/"}]
    assert strangers.stats["failures"] == {"tls_untrusted": 1}


async def test_names_lead_where_the_test_says_and_a_raw_server_sends_its_bytes() -> None:
    async with DnsServer() as dns, RawServer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as server:
        dns.names["shop.test"] = [Address("127.0.0.2")]
        settings = {"dns": {"nameservers": [dns.nameserver]}, "politeness": {"obey_robots": False}}
        run = await run_spider(Shop, args={"site": f"http://shop.test:{server.port}/"}, settings=settings)
    assert len(run.items) == 1
    assert server.requests[0].startswith(b"GET / HTTP/1.1\r\nHost: shop.test:")
