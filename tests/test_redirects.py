"""Redirects are followed by the crawler itself, hop by hop: politeness, scope and secrets hold at each."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from aiohttp import web

from crawler import Failure, FetchError, Response, Spider
from crawler.testing import LocalSite, RawServer, Run, run_spider

UNSAFE_COOKIES = {"http": {"unsafe_cookies": True}}


class Follower(Spider):
    """Fetches `/start`; its items say where it came to."""

    name = "follower"
    site = ""
    options: ClassVar[dict[str, Any]] = {}

    async def start(self) -> Any:
        yield self.request(f"{self.site}/start", **self.options)

    def parse(self, response: Response) -> Any:
        yield {
            "url": response.url,
            "history": [(hop.status, hop.url) for hop in response.history],
            "meta": response.meta,
            "depth": response.request.depth,
        }

    def failed(self, failure: Failure) -> Any:
        yield {"reason": failure.reason}


async def follow(site: LocalSite, *, settings: dict[str, Any] | None = None, **options: Any) -> Run:
    return await run_spider(Follower, args={"site": site.url, "options": options}, settings=settings)


# -- chains ----------------------------------------------------------------------------------------------------------


async def test_a_chain_on_one_host_ends_in_the_callback_with_its_history() -> None:
    async with LocalSite() as site:
        site.redirect("/start", "/b", status=301)
        site.redirect("/b", "c?x=1", status=302)
        site.page("/c", "there")
        run = await follow(site, meta={"keep": 1})
    assert site.paths == ["/start", "/b", "/c?x=1"]
    (item,) = run.items
    assert item["url"] == f"{site.url}/c?x=1"
    assert item["history"] == [(301, f"{site.url}/start"), (302, f"{site.url}/b")]
    assert item["meta"] == {"keep": 1}
    assert item["depth"] == 0
    assert run.stats["redirects"] == 2
    assert run.stats["requests"] == 3
    assert run.stats["pages"] == 1


async def test_a_redirect_to_another_host_goes_through_the_frontier_and_keeps_callback_and_history() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.redirect("/start", f"{other.url}/there")
        other.page("/there", "there")
        settings = {"security": {"allow_private_networks": True}}
        run = await follow(site, settings=settings, meta={"keep": 1})
    (item,) = run.items
    assert item["url"] == f"{other.url}/there"
    assert item["history"] == [(302, f"{site.url}/start")]
    assert item["meta"] == {"keep": 1}
    assert [hit.path for hit in other.journal] == ["/robots.txt", "/there"]
    assert run.stats["hosts"] == 2


@pytest.mark.hostile("S05")
async def test_the_other_hosts_robots_txt_is_kept_to() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.redirect("/start", f"{other.url}/there")
        other.robots("User-agent: *\nDisallow: /")
        run = await follow(site, settings={"security": {"allow_private_networks": True}})
    assert other.paths == []
    assert run.items == [{"reason": "robots"}]
    assert run.stats["robots_denied"] == 1


async def test_a_redirect_to_a_disallowed_path_of_the_same_host_is_not_followed() -> None:
    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private")
        site.redirect("/start", "/private/page")
        site.page("/private/page", "secret")
        run = await follow(site)
    assert site.paths == ["/start"]
    assert run.items == [{"reason": "robots"}]


async def test_a_redirect_is_handed_over_where_the_request_wants_none_followed() -> None:
    async with LocalSite() as site:
        site.redirect("/start", "/b")
        run = await follow(site, allow_redirects=False, ok_status=[302])
    assert site.paths == ["/start"]
    assert run.items[0]["url"] == f"{site.url}/start"


async def test_a_redirect_status_without_location_is_an_answer_like_any_other() -> None:
    async with LocalSite() as site:
        site.page("/start", "", status=302)
        run = await follow(site)
    assert run.items == [{"reason": "status_302"}]


# -- what is known already -------------------------------------------------------------------------------------------


class Two(Spider):
    """Fetches `/first`, and `/second` after it."""

    name = "two"
    site = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/first")

    def parse(self, response: Response) -> Any:
        yield {"path": response.url.removeprefix(self.site)}
        if response.request.depth == 0:
            yield response.follow("/second")


async def test_a_redirect_to_a_page_that_was_fetched_already_does_not_fetch_it_again() -> None:
    async with LocalSite() as site:
        site.page("/first", "ok")
        site.redirect("/second", "/first")
        run = await run_spider(Two, args={"site": site.url})
    assert site.paths == ["/first", "/second"]
    assert run.items == [{"path": "/first"}]
    assert run.stats["duplicates"] == 1
    assert run.stats["errors"] == 0


async def test_a_page_that_a_redirect_led_to_is_not_fetched_again_by_its_own_address() -> None:
    async with LocalSite() as site:
        site.redirect("/first", "/second")
        site.page("/second", "ok")
        run = await run_spider(Two, args={"site": site.url})
    assert site.paths == ["/first", "/second"]
    assert run.items == [{"path": "/second"}]
    assert run.stats["duplicates"] == 1


@pytest.mark.parametrize("at_once", [1, 3])
async def test_several_addresses_that_redirect_to_one_page_fetch_it_once(at_once: int) -> None:
    class Both(Follower):
        async def start(self) -> Any:
            yield [self.request(f"{self.site}/{path}") for path in ("a", "b", "c")]

    async with LocalSite() as site:
        for path in ("/a", "/b", "/c"):
            site.redirect(path, "/page")
        site.page("/page", "ok", delay=0.05)
        settings = {"politeness": {"concurrency_per_host": at_once}}
        run = await run_spider(Both, args={"site": site.url}, settings=settings)
    assert site.paths.count("/page") == 1
    assert len(run.items) == 1


# -- loops and limits ------------------------------------------------------------------------------------------------


async def test_a_page_that_sets_a_cookie_and_redirects_to_itself_is_asked_again_with_it() -> None:
    async def gate(request: web.Request) -> web.Response:
        if request.cookies.get("seen") == "1":
            return web.Response(text="welcome")
        return web.Response(status=302, headers={"Location": "/start", "Set-Cookie": "seen=1; Path=/"})

    async with LocalSite() as site:
        site.route("/start", gate)
        run = await follow(site, settings=UNSAFE_COOKIES)
    assert site.paths == ["/start", "/start"]
    assert run.items[0]["url"] == f"{site.url}/start"


async def test_a_cookie_wall_that_comes_back_through_another_page_is_passed() -> None:
    async def gate(request: web.Request) -> web.Response:
        if request.cookies.get("seen") == "1":
            return web.Response(text="welcome")
        return web.Response(status=302, headers={"Location": "/consent"})

    async with LocalSite() as site:
        site.route("/start", gate)
        site.redirect("/consent", "/start", headers={"Set-Cookie": "seen=1; Path=/"})
        run = await follow(site, settings=UNSAFE_COOKIES)
    assert site.paths == ["/start", "/consent", "/start"]
    assert run.items[0]["url"] == f"{site.url}/start"


@pytest.mark.hostile("S31")
@pytest.mark.parametrize("length", [1, 2, 3])
async def test_a_loop_is_noticed_when_it_closes(length: int) -> None:
    paths = ["/start", "/b", "/c"][:length]
    async with LocalSite() as site:
        for number, path in enumerate(paths):
            site.redirect(path, paths[(number + 1) % length])
        run = await follow(site)
    assert site.paths == paths
    assert run.items == [{"reason": "redirect_loop"}]
    assert run.stats["failures"] == {"redirect_loop": 1}


@pytest.mark.hostile("S31")
async def test_a_loop_that_sets_a_cookie_each_time_ends_at_the_limit() -> None:
    async with LocalSite() as site:
        site.redirect("/start", "/start", headers={"Set-Cookie": "n=1"})
        run = await follow(site, settings={"http": {"max_redirects": 4}})
    assert len(site.paths) == 5
    assert run.items == [{"reason": "redirect_limit"}]


@pytest.mark.parametrize(("limit", "reached"), [(3, True), (2, False), (0, False)])
async def test_the_requests_own_limit_counts_hops(limit: int, reached: bool) -> None:
    async with LocalSite() as site:
        site.redirect("/start", "/1")
        site.redirect("/1", "/2")
        site.redirect("/2", "/3")
        site.page("/3", "ok")
        run = await follow(site, max_redirects=limit)
    assert len(site.paths) == limit + 1
    assert run.items[0].get("reason") == (None if reached else "redirect_limit")


@pytest.mark.hostile("S31")
async def test_the_limit_holds_across_hosts_too() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:

        async def onward(request: web.Request) -> web.Response:
            number = int(request.query.get("n", "0")) + 1
            target = (other if number % 2 else site).url
            return web.Response(status=302, headers={"Location": f"{target}/start?n={number}"})

        site.route("/start", onward)
        other.route("/start", onward)
        settings = {"http": {"max_redirects": 5}, "security": {"allow_private_networks": True}}
        run = await follow(site, settings=settings)
    assert len(site.paths) + len(other.paths) == 6
    assert run.items == [{"reason": "redirect_limit"}]


# -- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "arrives"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (301, "PUT", "PUT"),
        (302, "HEAD", "HEAD"),
        (307, "GET", "GET"),
    ],
)
async def test_the_method_becomes_get_where_the_fetch_standard_says_so(status: int, method: str, arrives: str) -> None:
    body = None if method in ("GET", "HEAD") else b"secret=1"
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Own": "1"} if body else {"X-Own": "1"}
    async with LocalSite() as site:
        site.redirect("/start", "/there", status=status)
        site.page("/there", "ok")
        await follow(site, method=method, body=body, headers=headers)
        (hit,) = site.requests("/there")
    assert hit.method == arrives
    assert hit.headers["X-Own"] == "1"
    if arrives in ("GET", "HEAD"):
        assert hit.body == b""
        assert "Content-Type" not in hit.headers
    else:
        assert hit.body == b"secret=1"


@pytest.mark.hostile("S16")
@pytest.mark.parametrize(("status", "sent_on"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, None), (308, None)])
async def test_a_body_never_goes_to_another_origin(status: int, sent_on: str | None) -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.redirect("/start", f"{other.url}/there", status=status)
        other.page("/there", "ok")
        settings = {"security": {"allow_private_networks": True}}
        run = await follow(site, settings=settings, method="POST", data={"password": "secret"})
    assert [(hit.method, hit.body) for hit in other.requests()] == ([(sent_on, b"")] if sent_on else [])
    if sent_on is None:
        assert run.items == [{"reason": "redirect_body"}]


# -- secrets ---------------------------------------------------------------------------------------------------------

SECRETS = {
    "Authorization": "Bearer secret",
    "Cookie": "a=secret",
    "Proxy-Authorization": "Basic secret",
    "X-Api-Key": "secret",
    "Referer": "http://intranet.example/secret",
    "X-Csrf-Token": "secret",
}
HARMLESS = {"Accept": "text/x-own", "Accept-Language": "fr", "User-Agent": "own/1.0"}


@pytest.mark.hostile("S09", "S10", "S12")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["another address", "another port"])
async def test_secrets_do_not_cross_origins_and_harmless_headers_do(where: str, status: int) -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2" if where == "another address" else "127.0.0.1") as other:
        site.redirect("/start", f"{other.url}/there", status=status)
        other.page("/there", "ok")
        settings = {"security": {"allow_private_networks": True}, "http": {"unsafe_cookies": True}}
        await follow(site, settings=settings, headers={**SECRETS, **HARMLESS}, cookies={"own": "secret"})
        (first,) = site.requests("/start")
        (hit,) = other.requests("/there")
    assert "secret" in str(first.headers)
    assert "secret" not in str(hit.headers)
    assert {name: hit.headers[name] for name in HARMLESS} == HARMLESS


async def test_headers_and_cookies_stay_with_the_request_within_its_origin() -> None:
    async with LocalSite() as site:
        site.redirect("/start", "/there")
        site.page("/there", "ok")
        await follow(site, headers={"X-Api-Key": "secret", "Authorization": "Bearer secret"}, cookies={"own": "1"})
        (hit,) = site.requests("/there")
    assert (hit.headers["X-Api-Key"], hit.headers["Authorization"], hit.headers["Cookie"]) == (
        "secret",
        "Bearer secret",
        "own=1",
    )


@pytest.mark.hostile("S09", "S11")
async def test_a_round_trip_through_another_host_does_not_bring_the_secrets_back() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.redirect("/start", f"{other.url}/back")
        other.redirect("/back", f"{site.url}/there")
        site.page("/there", "ok")
        settings = {"security": {"allow_private_networks": True}}
        await follow(site, settings=settings, headers=SECRETS, cookies={"own": "secret"})
        (hit,) = site.requests("/there")
    assert "secret" not in str(hit.headers)


async def test_a_cookie_set_at_a_redirect_is_sent_to_the_next_hop_of_its_host_alone() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.redirect("/start", "/second", headers={"Set-Cookie": "visitor=7; Path=/"})
        site.redirect("/second", f"{other.url}/there")
        other.page("/there", "ok")
        settings = {"security": {"allow_private_networks": True}, **UNSAFE_COOKIES}
        await follow(site, settings=settings)
        (second,) = site.requests("/second")
        (there,) = other.requests("/there")
    assert second.headers["Cookie"] == "visitor=7"
    assert "Cookie" not in there.headers


# -- where a redirect may not go -------------------------------------------------------------------------------------


@pytest.mark.hostile("S05")
@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/html,x", "javascript:alert(1)", "gopher://x/"]
)
async def test_a_redirect_to_another_scheme_is_a_failure_with_its_reason(target: str) -> None:
    async with LocalSite() as site:
        site.redirect("/start", target)
        run = await follow(site)
    assert run.items == [{"reason": "redirect_scheme"}]
    assert run.stats["failures"] == {"redirect_scheme": 1}
    assert run.reason == "finished"


@pytest.mark.hostile("S07")
async def test_a_redirect_off_the_allowed_domains_is_not_followed() -> None:
    class OnSite(Follower):
        allowed_domains = ("127.0.0.1",)

    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.redirect("/start", f"{other.url}/there")
        settings = {"security": {"allow_private_networks": True}}
        run = await run_spider(OnSite, args={"site": site.url}, settings=settings)
        assert other.journal == []
    assert run.items == [{"reason": "offsite"}]
    assert run.stats["offsite"] == 1


@pytest.mark.hostile("S05")
async def test_a_redirect_to_a_private_address_is_blocked() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.redirect("/start", f"{other.url}/there")
        run = await follow(site)
        assert other.journal == []
    assert run.items == [{"reason": "blocked_address"}]
    assert run.stats["blocked"] == 1


async def test_a_redirect_with_a_header_in_no_known_encoding_can_wait_for_its_hosts_turn() -> None:
    async with LocalSite("127.0.0.2") as other:
        other.page("/there", "there")
        answer = f"HTTP/1.1 302 Found\r\nServer: n\xe4me\r\nLocation: {other.url}/there\r\nContent-Length: 0\r\n\r\n"
        async with RawServer(answer.encode("latin-1"), host="127.0.0.3") as raw:
            settings = {"security": {"allow_private_networks": True}, "politeness": {"obey_robots": False}}
            run = await run_spider(Follower, args={"site": raw.url.rstrip("/")}, settings=settings)
            assert [item.get("reason") or item["url"] for item in run.items] == [f"{other.url}/there"]


async def test_a_location_of_a_thousand_parts_is_too_long_to_follow() -> None:
    async with LocalSite() as site:
        site.redirect("/start", "/" + "a/" * 2000)
        run = await follow(site)
    assert site.paths == ["/start"]
    assert run.items == [{"reason": "url_length"}]


async def test_a_location_in_raw_utf8_is_understood() -> None:
    async with LocalSite() as site:
        site.redirect("/start", "/caf\u00e9")
        site.page("/caf%C3%A9", "ok")
        run = await follow(site)
    assert run.items[0]["url"] == f"{site.url}/caf%C3%A9"


# -- inline ----------------------------------------------------------------------------------------------------------


async def test_an_inline_fetch_follows_to_the_end_across_hosts_and_without_asking_what_is_known() -> None:
    class Inline(Spider):
        name = "inline"
        site = ""

        async def start(self) -> Any:
            for _ in range(2):
                response = await self.fetch(f"{self.site}/start")
                yield {"url": response.url, "hops": len(response.history)}

    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.redirect("/start", f"{other.url}/there")
        other.page("/there", "ok")
        settings = {"security": {"allow_private_networks": True}}
        run = await run_spider(Inline, args={"site": site.url}, settings=settings)
    assert run.items == [{"url": f"{other.url}/there", "hops": 1}] * 2


async def test_an_inline_fetch_raises_where_a_redirect_may_not_go() -> None:
    class Inline(Spider):
        name = "inline"
        site = ""

        async def start(self) -> Any:
            try:
                await self.fetch(f"{self.site}/start")
            except FetchError as error:
                yield {"reason": error.reason}

    async with LocalSite() as site:
        site.redirect("/start", "file:///etc/passwd")
        run = await run_spider(Inline, args={"site": site.url})
    assert run.items == [{"reason": "redirect_scheme"}]
