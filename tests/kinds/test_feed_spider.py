"""FeedSpider over real servers."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from crawler import FeedEntry, FeedSpider, Response
from crawler.listings.syndication import Feed
from crawler.testing import LocalSite, run_spider

RSS = "<rss version='2.0'><channel><title>F</title>{}</channel></rss>"
ITEM = "<item><title>{0}</title><link>/{0}</link><pubDate>Mon, 06 May 2024 07:08:09 GMT</pubDate></item>"


class News(FeedSpider):
    name = "news"

    def parse_entry(self, response: Response, entry: FeedEntry) -> Any:
        return {"title": entry.title, "url": entry.url, "feed": response.meta["feed"].title}


@pytest.fixture
async def site():
    async with LocalSite() as site:
        site.page("/feed", RSS.format(ITEM.format("a") + ITEM.format("b")), content_type="application/rss+xml")
        yield site


async def test_each_entry_of_a_feed_gets_its_callback(site):
    run = await run_spider(News, args={"start_urls": [f"{site.url}/feed"]})
    assert run.items == [{"title": title, "url": f"{site.url}/{title}", "feed": "F"} for title in "ab"]
    assert (run.reason, run.stats["errors"]) == ("finished", 0)


async def one(self: Any, response: Response, entry: FeedEntry) -> Any:
    return {"title": entry.title}


async def several(self: Any, response: Response, entry: FeedEntry) -> Any:
    yield {"title": entry.title}


def generator(self: Any, response: Response, entry: FeedEntry) -> Any:
    yield {"title": entry.title}


def listing(self: Any, response: Response, entry: FeedEntry) -> Any:
    return [{"title": entry.title}]


@pytest.mark.parametrize("shape", [one, several, generator, listing])
async def test_the_callback_may_have_any_shape(site, shape):
    spider = type("Shaped", (FeedSpider,), {"name": "shaped", "parse_entry": shape})
    run = await run_spider(spider, args={"start_urls": [f"{site.url}/feed"]})
    assert run.items == [{"title": "a"}, {"title": "b"}]


async def test_entries_travel_with_requests_and_are_items_themselves(site, tmp_path):
    class Full(FeedSpider):
        name = "full"

        def parse_entry(self, response: Response, entry: FeedEntry) -> Any:
            yield response.follow(entry.url, self.parse_page, meta={"entry": entry, "feed": response.meta["feed"]})

        def parse_page(self, response: Response) -> Any:
            assert isinstance(response.meta["feed"], Feed)
            yield response.meta["entry"]

    site.page("/a", "page")
    site.page("/b", "page")
    output = tmp_path / "out.jsonl"
    run = await run_spider(Full, args={"start_urls": [f"{site.url}/feed"]}, job=tmp_path / "job", output=output)
    assert [type(item) for item in run.items] == [FeedEntry, FeedEntry]
    assert '"published":"2024-05-06T07:08:09Z"' in output.read_text()


@pytest.mark.parametrize("kind", ["application/rss+xml", "application/atom+xml", " Application/RSS+XML; charset=utf-8"])
async def test_an_html_page_leads_to_the_first_feed_that_it_names(site, kind):
    site.page("/", f"<!DOCTYPE html><html><head><link rel=stylesheet href=/s><link rel='alternate home' type='{kind}' "
                   "href=feed><link rel=alternate type=application/rss+xml href=/comments></head><body>")  # fmt: skip
    run = await run_spider(News, args={"start_urls": [f"{site.url}/"]})
    assert [item["title"] for item in run.items] == ["a", "b"]
    assert site.paths == ["/", "/feed"]


async def test_an_html_page_that_a_page_names_as_its_feed_is_not_searched_again(site, caplog):
    for number in range(3):
        site.page(f"/{number}", f"<html><link rel=alternate type=application/rss+xml href=/{number + 1}></html>")
    run = await run_spider(News, args={"start_urls": [f"{site.url}/0"]})
    assert site.paths == ["/0", "/1"]
    assert run.items == []
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"feed {site.url}/1: it is HTML"]


async def test_a_feed_that_breaks_off_is_a_warning_and_its_entries_count(site, caplog):
    site.page("/feed", RSS.format(ITEM.format("a"))[:-6])
    run = await run_spider(News, args={"start_urls": [f"{site.url}/feed"]})
    assert [item["title"] for item in run.items] == ["a"]
    assert f"feed {site.url}/feed: it ends at line 1: no element found" in caplog.text
    assert run.stats["errors"] == 0
