"""Any site, page by page: `crawler run site -a start=https://example.com/`."""

from urllib.parse import urlsplit

from crawler import Response, Spider


class Site(Spider):
    """Every page of one host, one item a page."""

    name = "site"
    start_url = "https://books.toscrape.com/index.html"

    def __init__(self, start: str = start_url, **arguments: str) -> None:
        super().__init__(**arguments)
        self.start_urls = [start]
        self.host = urlsplit(start).netloc

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
