"""The same crawls with Crawlee for Python, as its documentation has it, in a script.

    python benchmarks/yardsticks/peer_crawlee.py WORKLOAD START OUT.jsonl [--concurrency 64] ...

Its storage is in memory, which spares it what its file storage costs, and items are written by the handler. It
verifies no certificate (f): its HTTP client takes no authority of one's own.
"""

from __future__ import annotations

import asyncio
import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from arguments import Task, read
from crawlee import ConcurrencySettings
from crawlee.configuration import Configuration
from crawlee.crawlers import HttpCrawler, HttpCrawlingContext, ParselCrawler, ParselCrawlingContext
from crawlee.http_clients import ImpitHttpClient
from crawlee.storage_clients import MemoryStorageClient

if TYPE_CHECKING:
    from parsel import Selector

_STARS = ("Zero", "One", "Two", "Three", "Four", "Five")


def write(out: TextIO, item: dict[str, Any]) -> None:
    out.write(json.dumps(item, ensure_ascii=False) + "\n")


async def pages(context: ParselCrawlingContext, out: TextIO, *, statuses: bool, strategy: Any) -> None:
    """a, b and f."""
    if "html" not in (context.http_response.headers.get("content-type") or ""):
        return
    # `enqueue_links` in its two halves, since the number of links is wanted.
    found = await context.extract_links(selector='a[href]:not([href^="#"])', strategy=strategy)
    item: dict[str, Any] = {"url": context.request.loaded_url or context.request.url}
    if statuses:
        item["status"] = context.http_response.status_code
    item["title"] = context.selector.css("title::text").get(default="").strip()
    links = {request.url.partition("#")[0] for request in found}
    if context.selector.css('a[href=""]'):  # the page itself, as the others count it; `extract_links` leaves it out
        links.add(item["url"])
    item["links"] = len(links)
    write(out, item)
    await context.add_requests(found)


async def books(context: ParselCrawlingContext, out: TextIO) -> None:
    """c."""
    if context.request.label != "book":
        await context.enqueue_links(selector="article.product_pod h3 a", label="book")
        await context.enqueue_links(selector="li.next a")
        return
    page: Selector = context.selector
    rating = page.css("div.product_main p.star-rating").attrib["class"].split()[-1]
    item = {
        "title": page.css("h1::text").get(default=""),
        "price": float(page.css("p.price_color::text").re_first(r"[\d.]+") or 0),
        "rating": _STARS.index(rating),
        "in_stock": int(page.css("div.product_main p.availability").re_first(r"\d+") or 0),
        "category": page.css("ul.breadcrumb li:nth-child(3) a::text").get(default=""),
        "upc": page.css("table.table-striped td::text").get(default=""),
        "url": context.request.loaded_url or context.request.url,
    }
    write(out, item)


async def count(context: HttpCrawlingContext, sums: dict[str, int]) -> None:
    """d."""
    sums["pages"] += 1
    sums["bytes"] += len(await context.http_response.read())


async def save(context: HttpCrawlingContext, task: Task) -> None:
    """e. The crawler has read the whole body before the handler runs."""
    match = re.search(r"\d+$", context.request.url)
    assert match is not None
    (task.folder / match[0]).write_bytes(await context.http_response.read())


async def main(task: Task) -> None:
    options: dict[str, Any] = {
        "configuration": Configuration(log_level="ERROR", purge_on_start=True),
        "storage_client": MemoryStorageClient(),
        "concurrency_settings": ConcurrencySettings(
            desired_concurrency=task.concurrency, max_concurrency=task.concurrency
        ),
        "respect_robots_txt_file": True,
    }
    if task.ca_file is not None:
        options["http_client"] = ImpitHttpClient(verify=False)
    with open(task.out, "w", encoding="utf-8") as out:
        if task.workload in ("d", "e"):
            sums = {"pages": 0, "bytes": 0}
            handler = partial(count, sums=sums) if task.workload == "d" else partial(save, task=task)
            await HttpCrawler(request_handler=handler, **options).run(task.starts())
            write(out, sums)
            return
        if task.workload == "c":
            parse = partial(books, out=out)
        else:
            broad = task.workload == "b"
            parse = partial(pages, out=out, statuses=not broad, strategy="all" if broad else "same-hostname")
        await ParselCrawler(request_handler=parse, **options).run(task.starts())


if __name__ == "__main__":
    asyncio.run(main(read(__doc__)))
