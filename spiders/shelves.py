"""Rules: which links to follow, and which callback gets the pages."""

from crawler import CrawlSpider, LinkExtractor, Response, Rule


class Shelves(CrawlSpider):
    """Every book of the demo shop, by way of its categories."""

    name = "shelves"
    site = "https://books.toscrape.com"
    rules = (
        Rule(LinkExtractor(restrict_css=("div.side_categories", "li.next"))),
        Rule(LinkExtractor(restrict_css="article.product_pod h3"), callback="parse_book"),
    )

    async def start(self):
        yield self.request(f"{self.site}/index.html")

    def parse_book(self, response: Response):
        yield {
            "title": response.css("h1::text").get(),
            "category": response.css("ul.breadcrumb li:nth-child(3) a::text").get(),
            "url": response.url,
        }
