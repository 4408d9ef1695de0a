"""Downloading files: items name them in `file_urls`, the `Files` pipeline streams them into the job's folder."""

from dataclasses import dataclass, field

from crawler import Response, Spider
from crawler.pipelines import Files


@dataclass
class Cover:
    title: str
    file_urls: list[str]
    files: list[dict] = field(default_factory=list)


class Covers(Spider):
    """The covers of the first pages of the demo shop."""

    name = "covers"
    site = "https://books.toscrape.com"
    pages: int = 3  # annotated, so `-a pages=5` becomes an int
    pipelines = [Files]

    async def start(self):
        yield self.request(f"{self.site}/index.html", cb_kwargs={"page": 1})

    def parse(self, response: Response, page: int):
        for book in response.css("article.product_pod"):
            source = book.css("img::attr(src)").get()
            yield Cover(title=book.css("h3 a").attrib["title"], file_urls=[response.urljoin(source)])
        if page < self.pages:
            yield response.follow_all("li.next a", cb_kwargs={"page": page + 1})
