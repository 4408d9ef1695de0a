"""Any site, page by page: `crawler run site -a start=https://example.com/`."""

import re
from urllib.parse import urlsplit

from crawler import Response, Spider


class Site(Spider):
    """Every page of one host, one item a page."""

    name = "site"
    site = "https://books.toscrape.com"

    def __init__(self, start: str = "", **arguments: str) -> None:
        super().__init__(**arguments)
        self.start_urls = [start or f"{self.site}/index.html"]
        self.host = re.escape(urlsplit(self.start_urls[0]).netloc)

    def parse(self, response: Response):
        if "html" not in response.headers.get("Content-Type", ""):
            return
        links = response.follow_all("a[href]", allow=rf"^https?://{self.host}(/|\?|$)")
        yield {
            "url": response.url,
            "status": response.status,
            "title": response.css("title::text").get(default="").strip(),
            "links": len(links),
        }
        yield links
