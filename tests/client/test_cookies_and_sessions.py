"""Cookies: kept and sent back, by session, by request, or not at all. httpbin has an address, so most say `unsafe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asking import Asking, ask, ask_all

from crawler import Request, Response
from crawler.testing import LocalSite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asking import Step
    from httpbin_server import HttpBin

UNSAFE: dict[str, Any] = {"http": {"unsafe_cookies": True}}


class Looking(Asking):
    """Notes what its jars hold at the end."""

    sessions: Sequence[str | None] = (None,)

    async def closed(self, reason: str) -> None:
        self.jars = {session: self.cookies(session) for session in self.sessions}


async def cookies_sent(way: str, steps: Sequence[Step], **options: Any) -> list[dict[str, str]]:
    """What httpbin's /cookies says to each step that ends there."""
    return [each.reply.json()["cookies"] for each in (await ask_all(way, steps, **options)).seen]


# -- the default jar -------------------------------------------------------------------------------------------------


async def test_a_cookie_that_is_set_is_sent_back(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "cookies/set/flavour/vanilla"), Request(httpbin / "cookies")]
    assert await cookies_sent(way, steps, settings=UNSAFE) == [{"flavour": "vanilla"}] * 2


async def test_several_are_set_replaced_and_deleted(way: str, httpbin: HttpBin) -> None:
    steps = [
        Request(httpbin / "cookies/set", params={"a": "1", "b": "2", "c": "3"}),
        Request(httpbin / "cookies/set/b/22"),
        Request(httpbin / "cookies/delete", params={"a": "", "c": ""}),
        Request(httpbin / "cookies"),
    ]
    assert await cookies_sent(way, steps, settings=UNSAFE) == [
        {"a": "1", "b": "2", "c": "3"},
        {"a": "1", "b": "22", "c": "3"},
        {"b": "22"},
        {"b": "22"},
    ]


async def test_a_cookie_set_on_the_way_goes_with_the_very_next_hop(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "cookies/set/n/1"), settings=UNSAFE)
    assert seen.reply.history[0].headers["Set-Cookie"].startswith("n=1;")
    assert seen.reply.request_headers["Cookie"] == "n=1"


async def test_a_value_comes_back_as_it_was(way: str, httpbin: HttpBin) -> None:
    values = ["a b", '"quoted, text"', "ä€", "a=b==", "%20;", "comma,semi"]
    steps = [Request(httpbin / "cookies/set", params={"v": value}) for value in values]
    assert await cookies_sent(way, steps, settings=UNSAFE) == [{"v": value} for value in values]


async def test_a_failure_may_set_a_cookie_too(way: str) -> None:
    async with LocalSite() as site:
        site.page("/", "no", status=404, headers={"Set-Cookie": "seen=1"})
        steps = [Request(site.url), Request(site.url)]
        await ask_all(way, steps, settings=UNSAFE)
        assert [hit.headers.get("Cookie") for hit in site.requests()] == [None, "seen=1"]


async def test_cookies_of_an_address_are_not_kept_by_default(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "cookies/set/n/1"), Request(httpbin / "cookies")]
    assert await cookies_sent(way, steps) == [{}, {}]


async def test_cookies_of_a_name_are(way: str, httpbin: HttpBin) -> None:
    url = f"http://localhost:{httpbin.port}"
    steps = [Request(f"{url}/cookies/set/n/1"), Request(f"{url}/cookies")]
    assert await cookies_sent(way, steps) == [{"n": "1"}] * 2


async def test_no_cookies_are_kept_where_they_are_switched_off(way: str, httpbin: HttpBin) -> None:
    settings = {"http": {"cookies": False, "unsafe_cookies": True}}
    steps = [Request(httpbin / "cookies/set/n/1"), Request(httpbin / "cookies", cookies={"own": "2"})]
    seen, run = await ask_all(way, steps, settings=settings, spider=Looking)
    assert [each.reply.json()["cookies"] for each in seen] == [{}, {"own": "2"}]
    assert len(run.spider.jars[None]) == 0  # type: ignore[attr-defined]


async def test_path_expiry_and_secure_are_honoured(way: str) -> None:
    cookies = [
        ("everywhere", "1; Path=/"),
        ("here", "1; Path=/shop/set"),
        ("elsewhere", "1; Path=/other"),
        ("short", "1; Max-Age=0"),
        ("past", "1; Expires=Wed, 21 Oct 2015 07:28:00 GMT"),
        ("long", "1; Max-Age=3600"),
        ("safe", "1; Secure"),
        ("__Host-x", "1; Path=/"),
    ]
    async with LocalSite() as site:
        from aiohttp import web

        async def set_all(request: web.Request) -> web.Response:
            response = web.Response()
            for name, value in cookies:
                response.headers.add("Set-Cookie", f"{name}={value}")
            return response

        site.route("/shop/set", set_all)
        site.page("*", "ok")
        paths = ["/shop/set", "/shop/set/below", "/shop/page", "/other/page", "/"]
        await ask_all(way, [Request(site.url + path) for path in paths], settings=UNSAFE)
        sent = {hit.path: hit.headers.get("Cookie", "") for hit in site.requests()}
    assert {path: sorted(pair.partition("=")[0] for pair in line.split("; ")) for path, line in sent.items()} == {
        "/shop/set": [""],
        "/shop/set/below": ["everywhere", "here", "long"],
        "/shop/page": ["everywhere", "long"],
        "/other/page": ["elsewhere", "everywhere"],
        "/": ["everywhere"],
    }


@pytest.mark.parametrize(
    ("domain", "goes_to"),
    [
        ("", {"shop.books.test"}),
        ("; Domain=shop.books.test", {"shop.books.test", "eu.shop.books.test"}),
        ("; Domain=.books.test", {"shop.books.test", "eu.shop.books.test", "books.test"}),
        ("; Domain=test", set()),
        ("; Domain=other.test", set()),
        ("; Domain=eu.shop.books.test", set()),
    ],
)
async def test_a_domain_says_which_hosts_get_it(way: str, domain: str, goes_to: set[str]) -> None:
    hosts = ["shop.books.test", "eu.shop.books.test", "books.test", "other.test"]
    settings = {
        "dns": {"hosts": dict.fromkeys(hosts, "127.0.0.1")},
        "security": {"allow_private_networks": True},
    }
    async with LocalSite() as site:
        port = site.host.partition(":")[2]
        site.page("/", "ok")
        site.page("/set", "ok", headers={"Set-Cookie": f"n=1{domain}"})
        steps = [Request(f"http://shop.books.test:{port}/set"), *(Request(f"http://{host}:{port}/") for host in hosts)]
        await ask_all(way, steps, settings=settings)
        got = {hit.host.partition(":")[0] for hit in site.requests("/") if hit.headers.get("Cookie") == "n=1"}
    assert got == goes_to


async def test_a_cookie_for_a_public_suffix_is_refused(way: str) -> None:
    settings = {"dns": {"hosts": {"shop.co.uk": "127.0.0.1"}}}
    async with LocalSite() as site:
        site.page("/", "ok", headers={"Set-Cookie": "everyone=1; Domain=co.uk"})
        url = f"http://shop.co.uk:{site.host.partition(':')[2]}/"
        await ask_all(way, [Request(url), Request(url)], settings=settings)
        assert [hit.headers.get("Cookie") for hit in site.requests()] == [None, None]


# -- sessions --------------------------------------------------------------------------------------------------------


async def test_each_session_is_a_visitor_of_its_own(way: str, httpbin: HttpBin) -> None:
    steps = [
        Request(httpbin / "cookies/set/who/anna", session="anna"),
        Request(httpbin / "cookies/set/who/bert", session="bert"),
        Request(httpbin / "cookies", session="anna"),
        Request(httpbin / "cookies", session="bert"),
        Request(httpbin / "cookies"),
        Request(httpbin / "cookies", session=""),
    ]
    sent = await cookies_sent(way, steps, settings=UNSAFE)
    assert [each.get("who") for each in sent] == ["anna", "bert", "anna", "bert", None, None]


async def test_a_session_stays_the_same_through_redirects(way: str, httpbin: HttpBin) -> None:
    steps = [
        Request(httpbin / "cookies/set/n/1", session="anna"),
        Request(httpbin / "redirect-to?url=/cookies", session="anna"),
        Request(httpbin / "redirect-to?url=/cookies"),
    ]
    assert await cookies_sent(way, steps, settings=UNSAFE) == [{"n": "1"}, {"n": "1"}, {}]


async def test_the_spider_reads_its_jars_and_filters_them_by_address(way: str, httpbin: HttpBin) -> None:
    class Reading(Looking):
        sessions = (None, "anna", "nobody")

        async def closed(self, reason: str) -> None:
            await super().closed(reason)
            self.at = {url: self.cookies("anna", url).dict() for url in (httpbin / "get", "http://example.com/")}

    steps = [
        Request(httpbin / "cookies/set", params={"a": "1", "b": "2"}, session="anna"),
        Request(httpbin / "cookies/set/c/3"),
    ]
    _, run = await ask_all(way, steps, settings=UNSAFE, spider=Reading)
    jars, at = run.spider.jars, run.spider.at  # type: ignore[attr-defined]
    assert jars["anna"].dict() == {"a": "1", "b": "2"}
    assert (jars[None]["c"], jars[None].get("a"), "a" in jars[None]) == ("3", None, False)
    assert len(jars["nobody"]) == 0
    assert at == {httpbin / "get": {"a": "1", "b": "2"}, "http://example.com/": {}}
    (cookie,) = jars[None]
    assert (cookie.name, cookie.domain, cookie.path, cookie.host_only) == ("c", "127.0.0.1", "/", True)
    assert "3" not in repr(cookie)


# -- a request's own -------------------------------------------------------------------------------------------------


async def test_cookies_of_a_request_are_sent_with_it_alone(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "cookies", cookies={"own": "1", "n": "a=b,c"}), Request(httpbin / "cookies?again")]
    assert await cookies_sent(way, steps, settings=UNSAFE) == [{"own": "1", "n": "a=b,c"}, {}]


async def test_cookies_of_a_request_win_over_the_jars(way: str, httpbin: HttpBin) -> None:
    steps = [
        Request(httpbin / "cookies/set", params={"a": "jar", "b": "jar"}),
        Request(httpbin / "cookies", cookies={"b": "own", "c": "own"}),
        Request(httpbin / "cookies?again"),
    ]
    sent = await cookies_sent(way, steps, settings=UNSAFE)
    assert sent[1:] == [{"a": "jar", "b": "own", "c": "own"}, {"a": "jar", "b": "jar"}]


async def test_cookies_of_a_request_are_sent_by_itself_without_the_setting(way: str, httpbin: HttpBin) -> None:
    assert await cookies_sent(way, [Request(httpbin / "cookies", cookies={"own": "1"})]) == [{"own": "1"}]


async def test_a_cookie_header_says_all_there_is_to_send(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "cookies/set/a/1"), Request(httpbin / "cookies", headers={"cookie": "b=2; c=3"})]
    assert (await cookies_sent(way, steps, settings=UNSAFE))[1] == {"b": "2", "c": "3"}


async def test_a_cookie_that_would_break_the_header_is_refused(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "cookies", cookies={"a": "1\r\nX-Evil: 1"}))
    assert seen.response is None
    assert seen.error is not None


async def test_a_value_cannot_become_a_second_cookie(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "cookies", cookies={"theme": "dark; admin=1"}))
    assert seen.error is not None or "admin" not in seen.reply.json()["cookies"]


async def test_a_login_is_remembered(way: str, httpbin: HttpBin) -> None:
    """Digest with cookies: httpbin sets some with its answer, and finds them in the next request."""

    def again(first: Response) -> Request:
        assert first.cookies["fake"].value == "fake_value"
        return Request(httpbin / "cookies")

    settings = {"http": {"digest_auth": {httpbin.host: "user:passwd"}, "unsafe_cookies": True}}
    seen = (await ask_all(way, [Request(httpbin / "digest-auth/auth/user/passwd"), again], settings=settings)).seen
    assert seen[1].reply.json()["cookies"]["fake"] == "fake_value"
