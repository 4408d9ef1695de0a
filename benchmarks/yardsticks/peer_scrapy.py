"""The same crawls with Scrapy, as its documentation and its project template have it, in a script.

    python benchmarks/yardsticks/peer_scrapy.py WORKLOAD START OUT.jsonl [--concurrency 64] ...

The queue is in memory (no JOBDIR), which is its default and spares it what a durable one costs. robots.txt is obeyed,
as its template sets it.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from arguments import Task, read
from scrapy import Request, Spider
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.http import TextResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response

_STARS = ("Zero", "One", "Two", "Three", "Four", "Five")


class Yardstick(Spider):
    task: Task

    async def start(self) -> AsyncIterator[Any]:
        # The start requests' hosts are what links may lead to.
        urls = self.task.starts()
        self.hosts = {urlsplit(url).netloc for url in urls}
        for url in urls:
            yield Request(url)

    def links(self, response: Response) -> set[str]:
        written = {href.strip() for href in response.css("a::attr(href)").getall()}
        absolute = {response.urljoin(href).partition("#")[0] for href in written if not href.startswith("#")}
        return {url for url in absolute if urlsplit(url).netloc in self.hosts}


class Pages(Yardstick):
    """a and f."""

    name = "pages"

    def parse(self, response: Response) -> Iterator[Any]:
        if not isinstance(response, TextResponse) or b"html" not in (response.headers.get("Content-Type") or b""):
            return
        links = self.links(response)
        title = response.css("title::text").get(default="").strip()
        yield {"url": response.url, "status": response.status, "title": title, "links": len(links)}
        yield from response.follow_all(links)


class Broad(Yardstick):
    """b."""

    name = "broad"

    def parse(self, response: Response) -> Iterator[Any]:
        links = self.links(response)
        yield {"url": response.url, "title": response.css("title::text").get(default=""), "links": len(links)}
        yield from response.follow_all(links)


class Books(Yardstick):
    """c."""

    name = "books"

    def parse(self, response: Response) -> Iterator[Any]:
        yield from response.follow_all(css="article.product_pod h3 a", callback=self.parse_book)
        yield from response.follow_all(css="li.next a")

    def parse_book(self, response: Response) -> Iterator[Any]:
        rating = response.css("div.product_main p.star-rating").attrib["class"].split()[-1]
        yield {
            "title": response.css("h1::text").get(default=""),
            "price": float(response.css("p.price_color::text").re_first(r"[\d.]+") or 0),
            "rating": _STARS.index(rating),
            "in_stock": int(response.css("div.product_main p.availability").re_first(r"\d+") or 0),
            "category": response.css("ul.breadcrumb li:nth-child(3) a::text").get(default=""),
            "upc": response.css("table.table-striped td::text").get(default=""),
            "url": response.url,
        }


class Numbered(Yardstick):
    """d."""

    name = "numbered"
    pages = size = 0

    def parse(self, response: Response) -> None:
        self.pages += 1
        self.size += len(response.body)

    def closed(self, reason: str) -> None:
        self.task.out.write_text(json.dumps({"pages": self.pages, "bytes": self.size}) + "\n", encoding="utf-8")


class Files(Yardstick):
    """e. A response has its whole body; there is no streaming to disk to compare with."""

    name = "files"

    def parse(self, response: Response) -> None:
        match = re.search(r"\d+$", response.url)
        assert match is not None
        (self.task.folder / match[0]).write_bytes(response.body)


_SPIDERS = {"a": Pages, "b": Broad, "c": Books, "d": Numbered, "e": Files, "f": Pages}


def main(task: Task) -> None:
    settings: dict[str, Any] = {
        "ROBOTSTXT_OBEY": True,
        "CONCURRENT_REQUESTS": task.concurrency,
        "DOWNLOAD_DELAY": 0,
        "AUTOTHROTTLE_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "ERROR",
        "FEED_EXPORT_ENCODING": "utf-8",
    }
    if task.workload != "b":  # many hosts get the default
        settings["CONCURRENT_REQUESTS_PER_DOMAIN"] = task.concurrency
    if task.workload in "abcf":
        settings["FEEDS"] = {str(task.out): {"format": "jsonlines"}}
    if task.ca_file is not None:
        # There is no setting for an authority, but OpenSSL's own variable for it is obeyed.
        os.environ["SSL_CERT_FILE"] = str(task.ca_file)
        settings["DOWNLOAD_VERIFY_CERTIFICATES"] = True
    process = AsyncCrawlerProcess(settings)
    process.crawl(_SPIDERS[task.workload], task=task)
    process.start()


if __name__ == "__main__":
    main(read(__doc__))
