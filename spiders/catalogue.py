"""Sitemaps: the pages that a site says it has, found by its robots.txt."""

from crawler import Response, SitemapSpider


class Catalogue(SitemapSpider):
    """Every book that the demo shop's sitemap names; with `-a sitemap_since=2024-01-31` those changed since then."""

    name = "catalogue"
    site = "https://books.toscrape.com"
    sitemap_rules = [("/catalogue/", "parse_book")]

    async def start(self):
        self.sitemap_urls = [self.site]
        async for request in super().start():
            yield request

    def parse_book(self, response: Response):
        yield {
            "title": response.css("h1::text").get(),
            "updated": response.meta["sitemap"].get("lastmod"),
            "url": response.url,
        }
