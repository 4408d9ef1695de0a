"""Lists and detail pages: the first spider to read."""

from dataclasses import dataclass

from crawler import Response, Spider


@dataclass
class Book:
    title: str
    price: float
    rating: int
    in_stock: int
    category: str
    upc: str
    url: str


class Books(Spider):
    """Every book of the demo shop."""

    name = "books"
    site = "https://books.toscrape.com"  # `-a site=…` replaces it; `--demo` serves a shop like it on this machine

    async def start(self):
        yield self.request(f"{self.site}/index.html")

    def parse(self, response: Response):
        yield response.follow_all("article.product_pod h3 a", self.parse_book)
        yield response.follow_all("li.next a")

    def parse_book(self, response: Response):
        rating = response.css("div.product_main p.star-rating").attrib["class"].split()[-1]
        yield Book(
            title=response.css("h1::text").get(default=""),
            price=float(response.css("p.price_color::text").re_first(r"[\d.]+") or 0),
            rating=("Zero", "One", "Two", "Three", "Four", "Five").index(rating),
            in_stock=int(response.css("div.product_main p.availability").re_first(r"\d+") or 0),
            category=response.css("ul.breadcrumb li:nth-child(3) a::text").get(default=""),
            upc=response.css("table.table-striped td::text").get(default=""),
            url=response.url,
        )
