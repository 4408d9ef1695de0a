"""SitemapSpider over real servers: what it asks for, what callbacks get, what stops it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import logging
import re
from typing import Any

import pytest
from aiohttp import web

from crawler import Response, SitemapSpider
from crawler.errors import SettingsError, UsageError
from crawler.testing import LocalSite, run_spider

XML = {"content_type": "application/xml"}


def sitemap(*entries: str) -> str:
    return f"<urlset>{''.join(f'<url>{entry}</url>' for entry in entries)}</urlset>"


def index(*entries: str) -> str:
    return f"<sitemapindex>{''.join(f'<sitemap>{entry}</sitemap>' for entry in entries)}</sitemapindex>"


class Pages(SitemapSpider):
    name = "pages"

    def parse(self, response: Response) -> Any:
        yield {"path": response.url.partition("/")[2].partition("/")[2].partition("/")[2], **response.meta}


def paths(run: Any) -> list[str]:
    return sorted(item["path"] for item in run.items)


@pytest.fixture
async def site():
    async with LocalSite() as site:
        site.page("*", "a page")
        yield site


async def test_pages_of_a_sitemap_come_with_their_entries(site):
    site.page("/map.xml", sitemap("<loc>/a</loc><lastmod>2024-05-06</lastmod><priority>0.5</priority>",
                                  f"<loc>{site.url}/b?x=1&amp;y=2</loc>"), **XML)  # fmt: skip
    run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/map.xml"]})
    assert sorted(run.items, key=lambda item: item["path"]) == [
        {"path": "a", "sitemap": {"loc": "/a", "lastmod": dt.datetime(2024, 5, 6, tzinfo=dt.UTC), "priority": 0.5}},
        {"path": "b?x=1&y=2", "sitemap": {"loc": f"{site.url}/b?x=1&y=2"}},
    ]
    assert (run.reason, run.stats["errors"]) == ("finished", 0)


async def test_the_first_rule_that_matches_has_the_callback_and_a_url_without_a_rule_is_not_fetched(site):
    class Ruled(SitemapSpider):
        name = "ruled"

        def parse_shoe(self, response: Response) -> Any:
            return {"shoe": response.url[-1]}

        async def parse_hat(self, response: Response) -> Any:
            yield {"hat": response.url[-1]}

        sitemap_rules = [("/shoes/", "parse_shoe"), (re.compile("/(hats|shoes)/"), parse_hat)]

    site.page("/map.txt", f"{site.url}/shoes/1\n{site.url}/hats/2\n{site.url}/bags/3\n", content_type="text/plain")
    run = await run_spider(Ruled, args={"sitemap_urls": [f"{site.url}/map.txt"]})
    assert sorted(map(str, run.items)) == ["{'hat': '2'}", "{'shoe': '1'}"]
    assert "/bags/3" not in site.paths


@pytest.mark.parametrize("address", ["", "/", "/robots.txt"])
async def test_robots_txt_names_the_sitemaps_of_a_site_and_is_fetched_once(site, address):
    site.robots(f"Sitemap: {site.url}/one.xml\nSitemap: {site.url}/two.xml.gz\n")
    site.page("/one.xml", sitemap("<loc>/a</loc>"))
    site.page("/two.xml.gz", gzip.compress(sitemap("<loc>/b</loc>").encode()), content_type="application/x-gzip")
    run = await run_spider(Pages, args={"sitemap_urls": site.url + address})
    assert paths(run) == ["a", "b"]
    assert [hit.path for hit in site.journal].count("/robots.txt") == 1
    assert sorted(site.paths) == ["/a", "/b", "/one.xml", "/two.xml.gz"]


async def test_a_site_whose_robots_txt_names_none_is_asked_for_sitemap_xml(site):
    site.page("/sitemap.xml", sitemap("<loc>/a</loc>"))
    assert paths(await run_spider(Pages, args={"sitemap_urls": [site.url]})) == ["a"]


async def test_a_robots_txt_that_cannot_be_had_at_first_is_asked_for_again(site):
    site.robots(f"Sitemap: {site.url}/map.xml\n")
    site.page("/robots.txt", "", status=503, times=2)
    site.page("/map.xml", sitemap("<loc>/a</loc>"))
    run = await run_spider(Pages, args={"sitemap_urls": [site.url]})
    assert (paths(run), run.reason) == (["a"], "finished")


@pytest.mark.hostile("S01")
async def test_a_private_host_that_robots_txt_names_is_not_asked(site):
    async with LocalSite("127.0.0.2") as other:
        other.page("/map.xml", sitemap("<loc>/secret</loc>"))
        site.robots(f"Sitemap: {other.url}/map.xml\nSitemap: {site.url}/map.xml\n")
        site.page("/map.xml", sitemap("<loc>/a</loc>", f"<loc>{other.url}/b</loc>"))
        run = await run_spider(Pages, args={"sitemap_urls": [site.url]})
        assert (paths(run), other.journal) == (["a"], [])


@pytest.mark.hostile("S07")
async def test_hosts_that_are_not_allowed_are_not_asked_for_pages_or_sitemaps(site):
    site.page("/map.xml", index("<loc>http://elsewhere.test/map.xml</loc>", "<loc>/own.xml</loc>"))
    site.page("/own.xml", sitemap("<loc>http://elsewhere.test/a</loc>", "<loc>/a</loc>", "<loc>ftp://x/</loc>"))
    run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/map.xml"], "allowed_domains": ["127.0.0.1"]})
    assert (paths(run), run.stats["offsite"]) == (["a"], 2)


async def test_of_an_index_the_sitemaps_to_follow_are_read(site):
    class Shoes(Pages):
        sitemap_follow = ["/shoes", "/hats"]

    site.page("/map.xml", index("<loc>/shoes.xml</loc>", "<loc>/bags.xml</loc>", "<loc>/hats.xml</loc>"))
    for name in ("shoes", "bags", "hats"):
        site.page(f"/{name}.xml", sitemap(f"<loc>/{name}</loc>"))
    run = await run_spider(Shoes, args={"sitemap_urls": [f"{site.url}/map.xml"]})
    assert paths(run) == ["hats", "shoes"]
    assert "/bags.xml" not in site.paths


@pytest.mark.hostile("S41")
async def test_indexes_are_read_three_deep_and_a_circle_ends(site, caplog):
    for level in range(1, 6):
        site.page(
            f"/{level}.xml", index(f"<loc>/{level + 1}.xml</loc>", "<loc>/1.xml</loc>", f"<loc>/{level}.pages</loc>")
        )
        site.page(f"/{level}.pages", sitemap(f"<loc>/page-{level}</loc>"))
    run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/1.xml"]})
    assert paths(run) == ["page-1", "page-2", "page-3"]
    assert f"sitemap {site.url}/4.xml: an index behind 3 others is not read" in caplog.text
    assert site.paths.count("/1.xml") == 1


async def test_what_is_older_than_since_drops_out_of_sitemaps_and_indexes(site):
    site.page("/map.xml", index("<loc>/old.xml</loc><lastmod>2023-12-31</lastmod>",
                                "<loc>/new.xml</loc><lastmod>2024-02-01</lastmod>",
                                "<loc>/unknown.xml</loc>"))  # fmt: skip
    for name in ("old", "new", "unknown"):
        dated = [f"<loc>/{name}-{day}</loc><lastmod>{day}</lastmod>" for day in ("2023-12-31", "2024-01-01T00:00:00Z")]
        site.page(f"/{name}.xml", sitemap(*dated, f"<loc>/{name}-undated</loc>"))
    moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    for since in ("2024-01-01", moment.date(), moment.replace(tzinfo=None), moment):
        run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/map.xml"], "sitemap_since": since})
        assert paths(run) == [
            f"{name}-{day}" for name in ("new", "unknown") for day in ("2024-01-01T00:00:00Z", "undated")
        ]
    assert "/old.xml" not in site.paths


async def test_a_filter_sees_what_the_entries_belong_to_and_may_change_them(site):
    seen = set()

    class Filtered(Pages):
        def sitemap_filter(self, entries: Any) -> Any:
            seen.add((entries.type, entries.url))
            for entry in entries:
                if entry["loc"] != "/b":
                    yield {**entry, "noted": True}

    site.page("/map.xml", index("<loc>/one.xml</loc>"))
    site.page("/one.xml", sitemap("<loc>/a</loc>", "<loc>/b</loc>"))
    run = await run_spider(Filtered, args={"sitemap_urls": [f"{site.url}/map.xml"]})
    assert run.items == [{"path": "a", "sitemap": {"loc": "/a", "noted": True}}]
    assert seen == {("sitemapindex", f"{site.url}/map.xml"), ("urlset", f"{site.url}/one.xml")}


@pytest.mark.parametrize("wanted", [True, False])
async def test_other_languages_are_fetched_where_they_are_wanted(site, wanted):
    links = "".join(f'<xhtml:link rel="alternate" hreflang="{lang}" href="/{lang}"/>' for lang in ("en", "de"))
    site.page("/map.xml", sitemap(f"<loc>/en</loc>{links}<priority>0.3</priority>"))
    args = {"sitemap_urls": [f"{site.url}/map.xml"], "sitemap_alternate_links": "true" if wanted else "false"}
    run = await run_spider(Pages, args=args)
    assert paths(run) == (["de", "en"] if wanted else ["en"])
    if wanted:
        (german,) = [item for item in run.items if item["path"] == "de"]
        assert german["sitemap"] == {"loc": "/de", "hreflang": "de", "priority": 0.3}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<urlset><url><loc>/a</loc></url><url><loc>/b", "it ends at line 1: no element found"),
        ("<!DOCTYPE html><html>", "it ends at line 1: this is HTML"),
        ("", "it is empty"),
    ],
)
async def test_what_is_wrong_with_a_file_is_a_warning_that_names_it_and_no_error(site, caplog, body, problem):
    site.page("/map.xml", body)
    run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/map.xml"]})
    assert paths(run) == ["a"] * ("<loc>" in body)
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage() == f"sitemap {site.url}/map.xml: {problem}"
    assert (run.reason, run.stats["errors"]) == ("finished", 0)


async def test_a_sitemap_that_is_not_there_is_a_failure_like_any_other(site):
    site.page("/map.xml", "", status=404)
    run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/map.xml"]})
    assert run.stats["failures"] == {"status_404": 1}


async def test_a_body_that_breaks_off_is_fetched_again_and_no_page_twice(site):
    whole = sitemap(*(f"<loc>/{number}</loc>" for number in range(600))).encode()
    asked = 0

    async def broken_at_first(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
        await response.prepare(request)
        await response.write(whole if asked > 2 else whole[: len(whole) // 2])
        if asked <= 2:
            assert request.transport is not None
            request.transport.close()
        return response

    site.route("/map.xml", broken_at_first)
    settings = {"politeness": {"concurrency_per_host": 32}}
    run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/map.xml"]}, settings=settings)
    assert (asked, len(run.items), run.stats["errors"]) == (3, 600, 0)
    assert len(set(paths(run))) == 600


async def test_a_body_that_breaks_off_each_time_fails_in_the_end(site):
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"<urlset><url><loc>/a</loc></url>")
        assert request.transport is not None
        request.transport.close()
        return response

    site.route("/map.xml", broken)
    run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/map.xml"]}, settings={"retry": {"times": 2}})
    assert (paths(run), run.reason, run.stats["errors"]) == (["a"], "finished", 1)
    assert site.paths.count("/map.xml") == 3


async def test_pages_are_fetched_while_their_sitemap_is_still_coming(site):
    first_page = asyncio.Event()

    async def page(request: web.Request) -> web.StreamResponse:
        first_page.set()
        return web.Response(text="a page")

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        rows = "".join(f"<url><loc>/{number}</loc></url>" for number in range(1100))
        await response.write(f"<urlset>{rows}".encode())
        await first_page.wait()  # it ends only when a page was asked for
        await response.write(b"<url><loc>/last</loc></url></urlset>")
        return response

    site.route("/map.xml", slow)
    site.route("*", page)
    settings = {"politeness": {"concurrency_per_host": 32}}
    run = await run_spider(Pages, args={"sitemap_urls": [f"{site.url}/map.xml"]}, settings=settings)
    assert len(run.items) == 1101


async def test_a_crawl_that_was_stopped_in_its_middle_goes_on_and_fetches_nothing_twice(site, tmp_path):
    site.page("/map.xml", index("<loc>/one.xml</loc>", "<loc>/two.xml</loc>"))
    for name in ("one", "two"):
        site.page(
            f"/{name}.xml", sitemap(*(f"<loc>/{name}/{number}</loc><priority>0.1</priority>" for number in range(30)))
        )
    held = asyncio.Event()

    async def page(request: web.Request) -> web.StreamResponse:
        if sum("/one/" in path or "/two/" in path for path in site.paths) > 20:
            await held.wait()
        return web.Response(text="a page")

    site.route("*", page)
    args = {"sitemap_urls": [f"{site.url}/map.xml"]}
    output = tmp_path / "items.jsonl"
    settings = {"crawl": {"drain_seconds": 0.05}}
    first = asyncio.create_task(run_spider(Pages, args=args, job=tmp_path / "job", output=output, settings=settings))
    await site.reached(26)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    before = output.read_text().count("\n")
    assert before < 60
    held.set()
    second = await run_spider(Pages, args=args, job=tmp_path / "job", output=output)
    assert second.reason == "finished"
    lines = output.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 60
    assert '"sitemap":{' in lines[-1]
    assert len(site.journal) < 60 + 4 + 30, "what was done was not done again"


def test_a_rule_without_its_method_and_a_since_without_a_date_are_said_at_once():
    class Wrong(SitemapSpider):
        name = "wrong"
        sitemap_rules = [("", "parse_nothing")]

    with pytest.raises(UsageError, match="sitemap_rules of spider 'wrong': 'parse_nothing' is no method of it"):
        Wrong()
    with pytest.raises(SettingsError, match="sitemap_since of spider 'pages': 'last week' is neither a date nor"):
        Pages(sitemap_since="last week")
