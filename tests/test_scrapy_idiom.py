"""Spiders as Scrapy's tutorial has people write them run here with nothing changed but the imports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from crawler import Request, Response, Spider, crawl
from crawler.testing import LocalSite

if TYPE_CHECKING:
    from pathlib import Path

POLITE = {"politeness": {"delay_seconds": 0}}

QUOTES = [
    ("The world as we have created it is a process of our thinking.", "Albert Einstein", ["change", "thinking"]),
    ("It is our choices that show what we truly are.", "J.K. Rowling", ["abilities", "choices"]),
    ("There are only two ways to live your life.", "Albert Einstein", ["inspirational", "life"]),
    ("A day without sunshine is like, you know, night.", "Steve Martin", ["humor", "obvious"]),
    ("I have not failed. I've just found 10,000 ways.", "Thomas A. Edison", ["failure", "inspirational"]),
    ("A woman is like a tea bag.", "Eleanor Roosevelt", ["humor", "misattributed"]),
]
BORN = {
    "Albert Einstein": "March 14, 1879",
    "J.K. Rowling": "July 31, 1965",
    "Steve Martin": "August 14, 1945",
    "Thomas A. Edison": "February 11, 1847",
    "Eleanor Roosevelt": "October 11, 1884",
}
PER_PAGE = 2


def slug(author: str) -> str:
    return author.replace(". ", "-").replace(".", "-").replace(" ", "-")


def quote_html(text: str, author: str, tags: list[str]) -> str:
    linked = "".join(f'<a class="tag" href="/tag/{tag}/">{tag}</a>' for tag in tags)
    return f"""
    <div class="quote"><span class="text">“{text}”</span>
      <span>by <small class="author">{author}</small> <a href="/author/{slug(author)}">(about)</a></span>
      <div class="tags">Tags: {linked}</div></div>"""


def quotes_site(site: LocalSite) -> None:
    """Three pages of quotes, a page for each tag, a page for each author."""
    last = len(QUOTES) // PER_PAGE
    for page in range(1, last + 1):
        shown = "".join(quote_html(*quote) for quote in QUOTES[(page - 1) * PER_PAGE : page * PER_PAGE])
        onward = f'<li class="next"><a href="/page/{page + 1}/">Next</a></li>' if page < last else ""
        back = f'<li class="previous"><a href="/page/{page - 1}/">Previous</a></li>' if page > 1 else ""
        html = f'<title>Quotes to Scrape</title>{shown}<ul class="pager">{back}{onward}</ul>'
        site.page(f"/page/{page}/", html)
        if page == 1:
            site.page("/", html)
    for tag in {tag for quote in QUOTES for tag in quote[2]}:
        tagged = "".join(quote_html(*quote) for quote in QUOTES if tag in quote[2])
        site.page(f"/tag/{tag}/", f"<title>Quotes to Scrape</title>{tagged}")
    for author, born in BORN.items():
        site.page(
            f"/author/{slug(author)}",
            f'<h3 class="author-title"> {author}\n </h3><span class="author-born-date">{born}</span>'
            f'<div class="author-description">\n About {author}. </div>',
        )


async def test_the_first_spider_of_the_tutorial_saves_pages(tmp_path: Path) -> None:
    class QuotesSpider(Spider):
        name = "quotes"
        site = ""

        async def start(self):
            urls = [
                f"{self.site}/page/1/",
                f"{self.site}/page/2/",
            ]
            for url in urls:
                yield Request(url=url, callback=self.parse)

        def parse(self, response):
            page = response.url.split("/")[-2]
            filename = f"quotes-{page}.html"
            (tmp_path / filename).write_bytes(response.body)
            self.log(f"Saved file {filename}")

    async with LocalSite() as site:
        quotes_site(site)
        result = await crawl(QuotesSpider, args={"site": site.url}, settings=POLITE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quotes-1.html", "quotes-2.html"]
    assert result.stats["errors"] == 0


class QuotesSpider(Spider):
    name = "quotes"
    site = ""

    async def start(self):
        url = f"{self.site}/"
        tag = getattr(self, "tag", None)
        if tag is not None:
            url = url + "tag/" + tag + "/"
        yield Request(url, self.parse)

    def parse(self, response):
        for quote in response.css("div.quote"):
            yield {
                "text": quote.css("span.text::text").get(),
                "author": quote.css("small.author::text").get(),
                "tags": quote.css("div.tags a.tag::text").getall(),
            }

        next_page = response.css("li.next a::attr(href)").get()
        if next_page is not None:
            yield response.follow(next_page, callback=self.parse)


def expected(tag: str | None = None) -> list[dict[str, Any]]:
    return [
        {"text": f"“{text}”", "author": author, "tags": tags}
        for text, author, tags in QUOTES
        if tag is None or tag in tags
    ]


async def test_quotes_are_followed_from_page_to_page_into_both_outputs(tmp_path: Path) -> None:
    outputs = [tmp_path / "quotes.json", tmp_path / "quotes.jsonl"]
    async with LocalSite() as site:
        quotes_site(site)
        result = await crawl(QuotesSpider, args={"site": site.url}, settings=POLITE, output=outputs)
    assert result.reason == "finished"
    assert json.loads(outputs[0].read_text()) == expected()
    assert [json.loads(line) for line in outputs[1].read_text().splitlines()] == expected()


async def test_an_argument_chooses_the_tag(tmp_path: Path) -> None:
    async with LocalSite() as site:
        quotes_site(site)
        output = tmp_path / "quotes-humor.json"
        await crawl(QuotesSpider, args={"site": site.url, "tag": "humor"}, settings=POLITE, output=output)
    assert site.paths == ["/tag/humor/"]
    assert json.loads(output.read_text()) == expected("humor")


@pytest.mark.parametrize(
    "spelling", ["urljoin", "follow a string", "follow a selector", "follow an element", "follow_all", "follow_all css"]
)
async def test_every_spelling_of_following_the_next_page_goes_through_the_site(spelling: str) -> None:
    class Pages(Spider):
        name = "pages"
        site = ""

        @property
        def start_urls(self):
            return [f"{self.site}/page/1/"]

        def parse(self, response):
            if spelling == "urljoin":
                next_page = response.css("li.next a::attr(href)").get()
                if next_page is not None:
                    yield Request(response.urljoin(next_page), callback=self.parse)
            elif spelling == "follow a string":
                for href in response.css("ul.pager a::attr(href)").getall():
                    yield response.follow(href, callback=self.parse)
            elif spelling == "follow a selector":
                for href in response.css("ul.pager a::attr(href)"):
                    yield response.follow(href, callback=self.parse)
            elif spelling == "follow an element":
                for a in response.css("ul.pager a"):
                    yield response.follow(a, callback=self.parse)
            elif spelling == "follow_all":
                anchors = response.css("ul.pager a")
                yield from response.follow_all(anchors, callback=self.parse)
            else:
                yield from response.follow_all(css="ul.pager a", callback=self.parse)

    async with LocalSite() as site:
        quotes_site(site)
        result = await crawl(Pages, args={"site": site.url}, settings=POLITE)
    assert site.paths == ["/page/1/", "/page/2/", "/page/3/"]
    assert result.stats["errors"] == 0


async def test_the_authors_spider_reaches_every_author_once() -> None:
    class AuthorSpider(Spider):
        name = "author"
        site = ""

        async def start(self):
            yield Request(f"{self.site}/")

        def parse(self, response):
            author_page_links = response.css(".author + a")
            yield from response.follow_all(author_page_links, self.parse_author)

            pagination_links = response.css("li.next a")
            yield from response.follow_all(pagination_links, self.parse)

        def parse_author(self, response):
            def extract_with_css(query):
                return response.css(query).get(default="").strip()

            yield {
                "name": extract_with_css("h3.author-title::text"),
                "birthdate": extract_with_css(".author-born-date::text"),
                "bio": extract_with_css(".author-description::text"),
            }

    async with LocalSite() as site:
        quotes_site(site)
        seen = []

        class Keep:
            async def process_item(self, item, spider):
                seen.append(item)
                return item

        AuthorSpider.pipelines = (Keep(),)
        result = await crawl(AuthorSpider, args={"site": site.url}, settings=POLITE)
    assert {item["name"]: item["birthdate"] for item in seen} == BORN
    assert len(seen) == len(BORN)
    assert seen[0]["bio"].startswith("About ")
    assert result.stats["duplicates"] > 0


def test_selectors_answer_as_the_tutorials_shell_shows() -> None:
    from crawler.testing import fake_response

    response = fake_response("http://quotes.example/", "<html><head><title>Quotes to Scrape</title></head></html>")
    assert response.css("title").getall() == ["<title>Quotes to Scrape</title>"]
    assert response.css("title::text").getall() == ["Quotes to Scrape"]
    assert response.css("title::text").get() == "Quotes to Scrape"
    assert response.css("title::text")[0].get() == "Quotes to Scrape"
    assert response.css("noelement").get() is None
    assert response.css("noelement").get(default="-") == "-"
    with pytest.raises(IndexError):
        _ = response.css("noelement")[0]
    assert response.css("title::text").re(r"Quotes.*") == ["Quotes to Scrape"]
    assert response.css("title::text").re(r"Q\w+") == ["Quotes"]
    assert response.css("title::text").re(r"(\w+) to (\w+)") == ["Quotes", "Scrape"]


def test_attributes_are_read_in_both_of_the_tutorials_ways() -> None:
    from crawler.testing import fake_response

    response: Response = fake_response("http://q.example/", '<ul><li class="next"><a href="/page/2/">Next →</a></ul>')
    assert response.css("li.next a").get() == '<a href="/page/2/">Next →</a>'
    assert response.css("li.next a::attr(href)").get() == "/page/2/"
    assert response.css("li.next a").attrib["href"] == "/page/2/"
    assert response.follow(response.css("li.next a")[0]).url == "http://q.example/page/2/"
