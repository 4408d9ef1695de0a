"""CrawlSpider over real servers: rules, callbacks, and what follows what."""

from __future__ import annotations

from typing import Any

import pytest

from crawler import CrawlSpider, LinkExtractor, Response, Rule
from crawler.errors import UsageError
from crawler.links import Links
from crawler.testing import LocalSite, fake_response, run_spider


def links(*paths: str) -> str:
    return "".join(f'<a href="{path}">to {path}</a>' for path in paths)


@pytest.fixture
async def site():
    """An index, two lists, four items of which each leads to a deeper page, and a page that nobody should see."""
    async with LocalSite() as site:
        site.page("/", links("/list/1", "/list/2", "/about"))
        site.page("/list/1", links("/item/1", "/item/2", "/list/2"))
        site.page("/list/2", links("/item/3", "/item/4", "/list/1"))
        for number in range(1, 5):
            site.page(f"/item/{number}", f"<h1>{number}</h1>" + links(f"/deep/{number}", "/list/1"))
            site.page(f"/deep/{number}", "deep")
        site.page("/about", links("/list/1"))
        yield site


class Shop(CrawlSpider):
    name = "shop"
    rules = (Rule(LinkExtractor(allow="/list/")), Rule(LinkExtractor(allow="/item/"), callback="parse_item"))

    def parse_item(self, response: Response) -> Any:
        yield {"item": response.css("h1::text").get(), "rule": response.meta["rule"]}


def made(*rules: Rule, **members: Any) -> type[CrawlSpider]:
    return type("Made", (CrawlSpider,), {"name": "made", "rules": rules, **members})


async def crawled(spider: type[CrawlSpider], site: LocalSite, **more: Any) -> Any:
    run = await run_spider(spider, args={"start_urls": [f"{site.url}/"]}, **more)
    assert (run.reason, run.stats["errors"]) == ("finished", 0)
    return run


async def test_a_rule_without_callback_is_followed_and_one_with_a_callback_is_not(site):
    run = await crawled(Shop, site)
    assert sorted(item["item"] for item in run.items) == ["1", "2", "3", "4"]
    assert {item["rule"] for item in run.items} == {1}
    assert sorted(set(site.paths)) == ["/", "/item/1", "/item/2", "/item/3", "/item/4", "/list/1", "/list/2"]
    assert len(site.paths) == 7


async def test_a_rule_with_a_callback_is_followed_where_it_says_so(site):
    class Deep(Shop):
        rules = (*Shop.rules[:1], Rule(LinkExtractor(allow="/item/|/deep/"), callback="parse_item", follow=True))

    run = await crawled(Deep, site)
    assert len(run.items) == 8
    assert "/deep/4" in site.paths


async def test_a_link_is_the_first_rules_that_finds_it(site):
    def one(self: Any, response: Response) -> Any:
        return {"one": response.url[-1]}

    def other(self: Any, response: Response) -> Any:
        return {"other": response.url[-1]}

    rules = (Rule(LinkExtractor(allow="list/1"), one), Rule(LinkExtractor(allow="list"), "other"))
    run = await crawled(made(*rules, one=one, other=other), site)
    assert sorted(map(str, run.items)) == ["{'one': '1'}", "{'other': '2'}"]


async def item_then_nothing(self: Any, response: Response) -> Any:
    return {"shape": "async"}


async def async_generator(self: Any, response: Response) -> Any:
    yield {"shape": "async generator"}


def generator(self: Any, response: Response) -> Any:
    yield {"shape": "generator"}


def listing(self: Any, response: Response) -> Any:
    return [{"shape": "list"}]


def nothing(self: Any, response: Response) -> Any:
    return None


@pytest.mark.parametrize("shape", [item_then_nothing, async_generator, generator, listing, nothing])
async def test_a_callback_may_have_any_shape_and_is_followed_all_the_same(site, shape):
    rules = (Rule(LinkExtractor(allow="/list/1"), "shape", follow=True), Rule(LinkExtractor(allow="/item/"), "shape"))
    run = await crawled(made(*rules, shape=shape), site)
    assert len(run.items) == (0 if shape is nothing else 3)
    assert {"/item/1", "/item/2"} < set(site.paths)


async def test_start_pages_have_a_callback_of_their_own_and_parse_may_be_a_rules(site):
    class Begun(CrawlSpider):
        name = "begun"
        rules = (Rule(LinkExtractor(allow="/list/1"), callback="parse"),)

        def parse_start_url(self, response: Response) -> Any:
            yield {"start": response.url[-2:]}

        def parse(self, response: Response) -> Any:
            yield {"list": response.url[-1]}

    run = await crawled(Begun, site)
    assert run.items == [{"start": f"{site.url}/"[-2:]}, {"list": "1"}]


async def test_a_request_of_ones_own_start_begins_like_start_urls(site):
    class Own(Shop):
        async def start(self) -> Any:
            yield self.request(f"{site.url}/")

    run = await run_spider(Own)
    assert len(run.items) == 4


async def test_arguments_and_errbacks_of_a_rule_go_with_its_requests(site):
    site.page("/", links("/item/1", "/item/missing"))

    def parse_item(self: Any, response: Response, shelf: str) -> Any:
        yield {"shelf": shelf}

    def missing(self: Any, failure: Any) -> Any:
        yield {"missing": failure.reason}

    rule = Rule(LinkExtractor(allow="/item/"), "parse_item", {"shelf": "top"}, errback="missing", follow=True)
    spider = made(rule, parse_item=parse_item, missing=missing)
    run = await run_spider(spider, args={"start_urls": [f"{site.url}/"]})
    assert sorted(map(str, run.items)) == ["{'missing': 'status_404'}", "{'shelf': 'top'}"]


async def test_links_and_requests_may_be_processed(site):
    def reverse(self: Any, found: Any) -> Any:
        return [link for link in reversed(found) if "list/2" not in link.url]

    def urgent(request: Any, response: Response) -> Any:
        return (
            None
            if request.url.endswith("/about")
            else request.replace(priority=7, meta={**request.meta, "from": response.url})
        )

    def parse_page(self: Any, response: Response) -> Any:
        yield {"text": response.meta["link_text"], "priority": response.request.priority, "from": response.meta["from"]}

    rule = Rule(callback="parse_page", process_links="reverse", process_request=urgent)
    run = await crawled(made(rule, reverse=reverse, parse_page=parse_page), site)
    assert run.items == [{"text": "to /list/1", "priority": 7, "from": f"{site.url}/"}]


async def test_only_html_has_links(site):
    site.page("/", links("/list/1"), content_type="text/plain")
    await crawled(Shop, site)
    assert site.paths == ["/"]


async def test_a_job_that_is_continued_knows_its_rules(site, tmp_path):
    job = tmp_path / "job"
    first = await crawled(Shop, site, job=job, output=tmp_path / "items.jsonl")
    assert len(first.items) == 4
    page = fake_response(f"{site.url}/list/1", links("/x"), meta={"rule": 9})
    with pytest.raises(UsageError, match="spider 'shop' has no rule 9, by which"):
        Shop()._by_rule(page)


def test_wrong_names_are_said_at_once():
    for rule in (
        Rule(callback="nobody"),
        Rule(errback="nobody"),
        Rule(process_links="nobody"),
        Rule(process_request="nobody"),
    ):
        with pytest.raises(UsageError, match="rule 0 of spider 'made': 'nobody' is no method of it"):
            made(rule)()


def test_links_go_the_frameworks_fast_way_where_nothing_prevents_it():
    page = fake_response("https://a.example/", links("/list/1", "/list/2", "/item/1", "/item/2", "/x"))
    given = list(Shop().parse(page))
    assert [type(output) for output in given] == [Links, Links]
    assert [output.urls() for output in given] == [
        ["https://a.example/list/1", "https://a.example/list/2"], ["https://a.example/item/1", "https://a.example/item/2"],
    ]  # fmt: skip
    (request, *_) = given[1]
    assert (request.url, request.callback, request.meta) == ("https://a.example/item/1", "parse_item", {"rule": 1})


def test_a_rule_gives_no_link_that_an_earlier_one_gave():
    page = fake_response("https://a.example/", links("/list/1", "/item/1", "/x"))
    rules = (Rule(LinkExtractor(allow="/list/")), Rule(process_links=lambda found: found), Rule())
    given = list(made(*rules)().parse(page))
    assert given[0].urls() == ["https://a.example/list/1"]
    assert [request.url for request in given[1:]] == ["https://a.example/item/1", "https://a.example/x"]
