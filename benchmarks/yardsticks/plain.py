"""The yardstick: crawl loops written by hand in an afternoon with aiohttp and selectolax, and no framework.

    python benchmarks/yardsticks/plain.py WORKLOAD START OUT.jsonl [--concurrency 64] ...

Workers around a queue, a set of what was seen, one JSON line an item. Runs on uvloop where that is installed, as the
crawler does. No politeness, no robots.txt, no retries, no limits, no restart: what those cost is what `bench.py` shows.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
from typing import TYPE_CHECKING, Any, TextIO

import aiofiles
import aiohttp
from arguments import Task, read
from selectolax.lexbor import LexborHTMLParser
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STARS = ("Zero", "One", "Two", "Three", "Four", "Five")
_CHUNK_BYTES = 64 * 1024


class Crawl:
    """Visits what `scrape` finds, each URL once, and writes its items."""

    def __init__(self, task: Task, session: aiohttp.ClientSession, out: TextIO) -> None:
        self.session = session
        self.out = out
        starts = [URL(start) for start in task.starts()]
        self.scrape = {"a": self.page, "b": self.titled, "c": self.book, "f": self.page}[task.workload]
        # Many hosts are the start's own; elsewhere the crawl stays on the one host.
        self.hosts = {(start.host, start.port) for start in starts}
        self.seen: set[URL] = set(starts)
        self.done: set[URL] = set()
        self.queue: asyncio.Queue[URL] = asyncio.Queue()
        for start in starts:
            self.queue.put_nowait(start)

    async def run(self, concurrency: int) -> None:
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(self.work()) for _ in range(concurrency)]
            await self.queue.join()
            for worker in workers:
                worker.cancel()

    async def work(self) -> None:
        while True:
            url = await self.queue.get()
            try:
                await self.visit(url)
            except (aiohttp.ClientError, TimeoutError) as error:
                print(f"{url}: {error!r}", file=sys.stderr)
            finally:
                self.queue.task_done()

    async def visit(self, url: URL) -> None:
        async with self.session.get(url) as response:
            if response.status != 200 or response.content_type != "text/html":
                return
            body = await response.read()
        if response.url in self.done:  # two links that redirect to one page
            return
        self.done.add(response.url)
        item, links = self.scrape(response.url, LexborHTMLParser(body))
        if item is not None:
            self.out.write(json.dumps(item, ensure_ascii=False) + "\n")
        for link in links:
            if link not in self.seen:
                self.seen.add(link)
                self.queue.put_nowait(link)

    # -- what is taken from a page ------------------------------------------------------------------------------------

    def page(self, url: URL, tree: LexborHTMLParser) -> tuple[dict[str, Any], set[URL]]:
        item, links = self.titled(url, tree)
        return {"url": item["url"], "status": 200, "title": item["title"], "links": item["links"]}, links

    def titled(self, url: URL, tree: LexborHTMLParser) -> tuple[dict[str, Any], set[URL]]:
        title = tree.css_first("title")
        links = set(self.resolve(url, tree, "a[href]"))
        return {"url": str(url), "title": title.text(strip=True) if title else "", "links": len(links)}, links

    def book(self, url: URL, tree: LexborHTMLParser) -> tuple[dict[str, Any] | None, set[URL]]:
        product = tree.css_first("div.product_main")
        if product is None:
            return None, set(self.resolve(url, tree, "article.product_pod h3 a, li.next a"))
        price = re.search(r"[\d.]+", tree.css_first("p.price_color").text())
        in_stock = re.search(r"\d+", product.css_first("p.availability").text())
        rating = (product.css_first("p.star-rating").attributes["class"] or "").split()[-1]
        item = {
            "title": tree.css_first("h1").text(),
            "price": float(price[0]) if price else 0.0,
            "rating": _STARS.index(rating),
            "in_stock": int(in_stock[0]) if in_stock else 0,
            "category": tree.css_first("ul.breadcrumb li:nth-child(3) a").text(),
            "upc": tree.css_first("table.table-striped td").text(),
            "url": str(url),
        }
        return item, set()

    def resolve(self, base: URL, tree: LexborHTMLParser, selector: str) -> Iterator[URL]:
        for node in tree.css(selector):
            href = node.attributes["href"] or ""
            if href.startswith("#"):
                continue
            try:
                url = base.join(URL(href)).with_fragment(None)
            except ValueError:
                continue
            if url.scheme in ("http", "https") and (url.host, url.port) in self.hosts:
                yield url


# -- numbered URLs ----------------------------------------------------------------------------------------------------


async def count(task: Task, session: aiohttp.ClientSession) -> None:
    """d: read every page, and say how much that was."""
    urls = iter(task.starts())
    pages = size = 0

    async def work() -> None:
        nonlocal pages, size
        for url in urls:
            async with session.get(url) as response:
                body = await response.read()
            if response.status == 200:
                pages += 1
                size += len(body)

    async with asyncio.TaskGroup() as group:
        for _ in range(task.concurrency):
            group.create_task(work())
    task.out.write_text(json.dumps({"pages": pages, "bytes": size}) + "\n", encoding="utf-8")


async def save(task: Task, session: aiohttp.ClientSession) -> None:
    """e: stream every file to disk."""
    urls = enumerate(task.starts())

    async def work() -> None:
        for number, url in urls:
            async with session.get(url) as response, aiofiles.open(task.folder / str(number), "wb") as file:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    await file.write(chunk)

    async with asyncio.TaskGroup() as group:
        for _ in range(task.concurrency):
            group.create_task(work())


# -- running ----------------------------------------------------------------------------------------------------------


async def main(task: Task) -> None:
    trust = ssl.create_default_context(cafile=task.ca_file) if task.ca_file else True
    connector = aiohttp.TCPConnector(limit=task.concurrency, ssl=trust)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        if task.workload == "d":
            await count(task, session)
        elif task.workload == "e":
            await save(task, session)
        else:
            with open(task.out, "w", encoding="utf-8") as lines:
                await Crawl(task, session, lines).run(task.concurrency)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(read(__doc__)))
