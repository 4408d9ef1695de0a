"""Pages that ask for their links not to be followed, on a site."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from crawler import Links, Request, Response, Spider
from crawler.errors import BlockedError
from crawler.explain import Found, explain
from crawler.request import RequestCodec
from crawler.testing import FakeClock, LocalSite, Run, fake_response, run_spider

LINKS = "<a href=/a>a</a> <a href=/b>b</a> <a href=/a#again>a</a>"
NOFOLLOW = {"X-Robots-Tag": "nofollow"}


class Follower(Spider):
    name = "follower"
    site = ""

    async def start(self) -> Any:
        yield self.request(self.site + "/")

    def parse(self, response: Response) -> Any:
        yield response.follow_all()


async def crawl(
    head: str = "",
    *,
    headers: dict[str, str] | None = None,
    spider: type[Spider] = Follower,
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[Run, list[str], str]:
    """What a crawl of a page with two links did, the paths it asked for, and the site's address."""
    async with LocalSite() as site:
        site.page("*", "nothing more")
        site.page("/", f"<html><head><title>x</title>{head}</head><body>{LINKS}", headers=headers)
        run = await run_spider(spider, args={"site": site.url}, settings=settings, **more)
        return run, site.paths, site.url


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        ("", NOFOLLOW),
        ("", {"X-Robots-Tag": "noindex, none"}),
        ("", {"X-Robots-Tag": "otherbot: all, crawler: nofollow"}),
        ('<meta name="robots" content="nofollow">', None),
        ('<meta name="Crawler" content="noindex, NoFollow">', None),
    ],
)
async def test_links_of_a_page_that_says_nofollow_are_not_followed(head: str, headers: dict[str, str] | None) -> None:
    run, paths, _ = await crawl(head, headers=headers)
    assert paths == ["/"]
    assert run.stats["failures"] == {"nofollow": 2}
    assert (run.stats["pages"], run.stats["errors"], run.reason) == (1, 0, "finished")


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        ("", {"X-Robots-Tag": "googlebot: nofollow"}),
        ("", {"X-Robots-Tag": "noindex, noarchive"}),
        ('<meta name="googlebot" content="nofollow">', None),
        ('<meta name="robots" content="noindex, follow">', None),
        ("<title>robots nofollow</title>", None),
    ],
)
async def test_links_of_other_pages_are(head: str, headers: dict[str, str] | None) -> None:
    run, paths, _ = await crawl(head, headers=headers)
    assert sorted(paths) == ["/", "/a", "/b"]
    assert run.stats["failures"] == {}


async def test_the_name_is_the_product_token_of_the_user_agent() -> None:
    settings = {"http": {"user_agent": "ShopBot/2 (+https://shop.example)"}}
    _, paths, _ = await crawl(headers={"X-Robots-Tag": "shopbot: nofollow"}, settings=settings)
    assert paths == ["/"]
    _, paths, _ = await crawl(headers={"X-Robots-Tag": "crawler: nofollow"}, settings=settings)
    assert len(paths) == 3


async def test_a_link_with_rel_nofollow_is_followed() -> None:
    async with LocalSite() as site:
        site.page("/", "<a rel='nofollow ugc' href=/a>a</a>")
        site.page("/a", "a")
        await run_spider(Follower, args={"site": site.url})
        assert site.paths == ["/", "/a"]


# -- what may be switched --------------------------------------------------------------------------------------------


async def test_who_switches_it_off_follows_them_and_can_still_see_it() -> None:
    class Seer(Follower):
        def parse(self, response: Response) -> Any:
            yield {"nofollow": response.nofollow, "noindex": response.noindex}
            yield response.follow_all()

    run, paths, _ = await crawl(headers=NOFOLLOW, spider=Seer, settings={"politeness": {"obey_nofollow": False}})
    assert sorted(paths) == ["/", "/a", "/b"]
    assert run.items[0] == {"nofollow": True, "noindex": False}


async def test_it_is_switched_for_one_host() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        for each in (site, other):
            each.page("/", LINKS, headers=NOFOLLOW)
            each.page("*", "nothing more")

        class Both(Spider):
            name = "both"

            async def start(self) -> Any:
                yield [self.request(f"{each.url}/") for each in (site, other)]

            def parse(self, response: Response) -> Any:
                yield response.follow_all()

        hosts = {site.host: {"obey_nofollow": False}}
        run = await run_spider(Both, settings={"politeness": {"hosts": hosts}})
        assert sorted(site.paths) == ["/", "/a", "/b"]
        assert other.paths == ["/"]
    assert run.stats["failures"] == {"nofollow": 2}


# -- what a link is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "give",
    [
        lambda response: response.follow_all(),
        lambda response: list(response.follow_all()),
        lambda response: response.follow_all(dont_filter=True),
        lambda response: [response.follow(each) for each in response.css("a")[:2]],
        lambda response: response.follow("/a").replace(url=response.urljoin("/b"), priority=3),
    ],
)
async def test_whatever_shape_a_link_has_it_is_not_followed(give: Any) -> None:
    class Shaped(Follower):
        def parse(self, response: Response) -> Any:
            yield give(response)

    run, paths, _ = await crawl(headers=NOFOLLOW, spider=Shaped)
    assert paths == ["/"]
    assert run.stats["failures"]["nofollow"] in (1, 2)


async def test_a_request_that_the_user_builds_goes_through() -> None:
    class Builder(Follower):
        def parse(self, response: Response) -> Any:
            if response.url.endswith("/"):
                yield Request(response.urljoin("/a"))
                yield [self.request(url) for url in response.links()[1:]]

    run, paths, _ = await crawl(headers=NOFOLLOW, spider=Builder)
    assert sorted(paths) == ["/", "/a", "/b"]
    assert run.stats["failures"] == {}


async def test_a_link_is_not_fetched_inline_either_and_a_request_is() -> None:
    class Inline(Follower):
        async def parse(self, response: Response) -> Any:
            try:
                await self.fetch(response.follow("/a"))
            except BlockedError as error:
                yield {"reason": error.reason}
            yield {"status": (await self.fetch(response.urljoin("/b"))).status}

    run, paths, _ = await crawl(headers=NOFOLLOW, spider=Inline)
    assert run.items == [{"reason": "nofollow"}, {"status": 200}]
    assert paths == ["/", "/b"]


async def test_links_of_a_page_that_was_fetched_inline_are_links_too() -> None:
    class Beside(Follower):
        async def parse(self, response: Response) -> Any:
            other = await self.fetch(response.urljoin("/list"))
            yield other.follow_all()

    async with LocalSite() as site:
        site.page("/", "no links")
        site.page("/list", LINKS, headers=NOFOLLOW)
        run = await run_spider(Beside, args={"site": site.url})
        assert site.paths == ["/", "/list"]
    assert run.stats["failures"] == {"nofollow": 2}


async def test_a_page_that_a_middleware_made_is_asked_like_every_other() -> None:
    async def kept(request: Request, fetch: Any) -> Response:
        return fake_response(request.url, LINKS, headers=NOFOLLOW)

    class Kept(Follower):
        middlewares = [kept]

    run, _, _ = await crawl(spider=Kept)
    assert run.stats["failures"] == {"nofollow": 2}


async def test_links_of_an_error_page_count_too() -> None:
    class Lost(Follower):
        def failed(self, failure: Any) -> Any:
            yield failure.response.follow_all()

    async with LocalSite() as site:
        site.page("/", LINKS, status=404, headers=NOFOLLOW)
        run = await run_spider(Lost, args={"site": site.url})
        assert site.paths == ["/"]
    assert run.stats["failures"] == {"status_404": 1, "nofollow": 2}


async def test_a_redirect_is_no_link() -> None:
    async with LocalSite() as site:
        site.redirect("/", "/there", headers=NOFOLLOW)
        site.page("/there", LINKS)
        site.page("*", "nothing more")
        await run_spider(Follower, args={"site": site.url})
        assert sorted(site.paths) == ["/", "/a", "/b", "/there"]


def test_outside_a_crawl_nobody_keeps_to_it() -> None:
    page = fake_response("https://a.example/", LINKS, headers=NOFOLLOW)
    assert page.nofollow
    assert [request.refused for request in page.follow_all()] == ["", ""]
    assert page.follow("/a").refused == ""


def test_a_link_that_is_not_followed_equals_the_request_and_is_stored_like_it() -> None:
    (link,), (plain,) = (Links("https://a.example/", ["/x"], "parse", followed=each) for each in (False, True))
    assert (link.refused, plain.refused) == ("nofollow", "")
    assert link == plain == link
    assert link != plain.replace(priority=1)
    assert link != "https://a.example/x"
    assert link.fingerprint == plain.fingerprint
    codec = RequestCodec()
    assert codec.encode(link) == codec.encode(plain)
    assert codec.decode(codec.encode(link)).refused == ""
    assert link.replace(priority=5).refused == "nofollow"


# -- what is told ----------------------------------------------------------------------------------------------------


async def test_explain_tells_which_page_said_it(tmp_path: Any, command: Any) -> None:
    _, _, url = await crawl(headers=NOFOLLOW, job=tmp_path / "job")
    told = explain(f"{url}/b", tmp_path / "job", time.time())
    assert (told.verdict, told.reason, told.found_on, told.depth) == (Found.OUTSIDE, "nofollow", [f"{url}/"], 1)
    code, out, _ = await asyncio.to_thread(command, "explain", f"{url}/b", "--job", "job")
    assert code == 0
    assert "refused before it was queued (nofollow): the page asks for its links not to be followed" in out


async def test_a_page_whose_date_has_passed_by_the_crawls_clock_is_noindex() -> None:
    class Seer(Follower):
        def parse(self, response: Response) -> Any:
            yield {"noindex": response.noindex, "after": response.robots.unavailable_after}

    headers = {"X-Robots-Tag": "unavailable_after: 9 Sep 2001 00:00:00 GMT"}  # the fake clock's start is later that day
    run, _, _ = await crawl(headers=headers, spider=Seer, clock=FakeClock())
    assert run.items[0]["noindex"] is True
    run, _, _ = await crawl(headers=headers, spider=Seer, clock=FakeClock(900_000_000))
    assert run.items[0]["noindex"] is False


async def test_what_a_middleware_asked_before_does_not_hide_what_is_for_us() -> None:
    async def asks(request: Request, fetch: Any) -> Response:
        response: Response = await fetch(request)
        assert not response.nofollow
        return response

    class Asking(Follower):
        middlewares = [asks]

    _, paths, _ = await crawl(headers={"X-Robots-Tag": "crawler: nofollow"}, spider=Asking)
    assert paths == ["/"]
