"""How far a hand-written loop can be driven: `plain.py` with every trick that its writer knows, still one script.

    python benchmarks/yardsticks/tuned.py WORKLOAD START OUT.jsonl [--concurrency 64] ...

URLs are strings, resolved once for each folder and reference; links are deduplicated as written; the queue is a deque;
items go through msgspec into one buffer; no cookies, no time-outs, few collections of garbage, and freed memory is kept
for the next page. Nothing here is safe on
the open web: a server that stalls holds a worker for ever.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import re
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

import aiohttp
import can_ada
import msgspec
from arguments import Task, read
from selectolax.lexbor import LexborHTMLParser
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_STARS = ("Zero", "One", "Two", "Three", "Four", "Five")
_RATINGS = {f"star-rating {word}": stars for stars, word in enumerate(_STARS)}
_PRICE, _NUMBER = re.compile(r"[\d.]+"), re.compile(r"\d+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_FLUSH_BYTES = 256 * 1024
_encode_into = msgspec.json.Encoder().encode_into


class Crawl:
    def __init__(self, task: Task, session: aiohttp.ClientSession, out: BinaryIO) -> None:
        self.get = session.get
        self.out = out
        self.buffer = bytearray()
        self.scrape = {"a": self.page, "b": self.titled, "c": self.book, "f": self.page}[task.workload]
        starts = task.starts()
        self.origins = frozenset(origin_of(start) for start in starts)
        self.seen = set(starts)
        self.done: set[str] = set()
        self.queue = deque(starts)
        self.idle: list[asyncio.Future[None]] = []
        self.folders: dict[str, dict[str, str | None]] = {}

    async def run(self, concurrency: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self.work(concurrency))
        self.out.write(self.buffer)

    async def work(self, workers: int) -> None:
        queue, idle, visit = self.queue, self.idle, self.visit
        loop = asyncio.get_running_loop()
        while True:
            while queue:
                await visit(queue.popleft())
            if len(idle) == workers - 1:  # the last one awake: nothing will come any more
                for waiter in idle:
                    waiter.cancel()
                return
            idle.append(waiter := loop.create_future())
            try:
                await waiter
            except asyncio.CancelledError:
                return

    async def visit(self, url: str) -> None:
        response = await self.get(URL(url, encoded=True))
        body = await response.read()  # at its end the connection goes back by itself
        if response.status != 200 or response.content_type != "text/html":
            return
        if response.history:  # two links that redirect to one page
            url = str(response.url)
        if url in self.done:
            return
        self.done.add(url)
        item, links = self.scrape(url, LexborHTMLParser(body))
        if item is not None:
            buffer = self.buffer
            _encode_into(item, buffer, -1)
            buffer += b"\n"
            if len(buffer) > _FLUSH_BYTES:
                self.out.write(buffer)
                buffer.clear()
        if fresh := links - self.seen:
            self.seen |= fresh
            self.queue += fresh
            idle = self.idle
            for _ in range(min(len(idle), len(fresh))):
                idle.pop().set_result(None)

    # -- what is taken from a page ------------------------------------------------------------------------------------

    def page(self, url: str, tree: LexborHTMLParser) -> tuple[dict[str, Any], set[str]]:
        links = self.resolve(url, tree, "a[href]")
        return {"url": url, "status": 200, "title": title_of(tree), "links": len(links)}, links

    def titled(self, url: str, tree: LexborHTMLParser) -> tuple[dict[str, Any], set[str]]:
        links = self.resolve(url, tree, "a[href]")
        return {"url": url, "title": title_of(tree), "links": len(links)}, links

    def book(self, url: str, tree: LexborHTMLParser) -> tuple[dict[str, Any] | None, set[str]]:
        product = tree.css_first("div.product_main")
        if product is None:
            return None, self.resolve(url, tree, "article.product_pod h3 a, li.next a")
        price = _PRICE.search(product.css_first("p.price_color").text())
        in_stock = _NUMBER.search(product.css_first("p.availability").text())
        item = {
            "title": product.css_first("h1").text(),
            "price": float(price[0]) if price else 0.0,
            "rating": _RATINGS[product.css_first("p.star-rating").attributes["class"] or ""],
            "in_stock": int(in_stock[0]) if in_stock else 0,
            "category": tree.css_first("ul.breadcrumb li:nth-child(3) a").text(),
            "upc": tree.css_first("table.table-striped td").text(),
            "url": url,
        }
        return item, set()

    def resolve(self, base: str, tree: LexborHTMLParser, selector: str) -> set[str]:
        # A reference means the same from every page of a folder, unless it is empty or a query alone.
        base = base.partition("?")[0]
        folder = base[: base.rindex("/") + 1]
        known = self.folders.get(folder)
        if known is None:
            known = self.folders[folder] = {}
        links: set[str | None] = set()
        for href in {node.attributes["href"] for node in tree.css(selector)}:
            if not href or href[0] == "?":
                links.add(self.join(base, href or ""))
            elif href[0] != "#":
                try:
                    links.add(known[href])
                except KeyError:
                    link = known[href] = self.join(folder, href)
                    links.add(link)
        links.discard(None)
        return links  # type: ignore[return-value]

    def join(self, base: str, href: str) -> str | None:
        """The absolute URL without fragment, or None where it leaves the hosts of the crawl."""
        href = href.partition("#")[0].strip()
        if href.startswith("//"):
            href = base[: base.index(":") + 1] + href
        elif href.startswith("/"):
            href = origin_of(base) + href
        elif not _SCHEME.match(href):
            href = base + href
        try:
            url: str = can_ada.parse(href).href  # dot segments, escapes
        except ValueError:
            return None
        return url if origin_of(url) in self.origins else None


def origin_of(url: str) -> str:
    return url[: url.find("/", 8)]


def title_of(tree: LexborHTMLParser) -> str:
    title = tree.css_first("title")
    return title.text(strip=True) if title else ""


# -- numbered URLs ----------------------------------------------------------------------------------------------------


async def count(task: Task, session: aiohttp.ClientSession) -> None:
    urls = iter(task.starts())
    get = session.get
    pages = size = 0

    async def work() -> None:
        nonlocal pages, size
        for url in urls:
            response = await get(URL(url, encoded=True))
            size += len(await response.read())
            pages += response.status == 200

    await together(work() for _ in range(task.concurrency))
    task.out.write_bytes(msgspec.json.encode({"pages": pages, "bytes": size}) + b"\n")


async def save(task: Task, session: aiohttp.ClientSession) -> None:
    """Straight into the page cache from the loop: a thread for each write costs more than the write."""
    urls = enumerate(task.starts())
    get, folder = session.get, str(task.folder)

    async def work() -> None:
        for number, url in urls:
            response = await get(URL(url, encoded=True))
            read = response.content.readany
            with open(f"{folder}/{number}", "wb", buffering=0) as file:
                while chunk := await read():
                    file.write(chunk)

    await together(work() for _ in range(task.concurrency))


async def together(works: Iterable[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)


# -- running ----------------------------------------------------------------------------------------------------------


async def main(task: Task) -> None:
    trust = ssl.create_default_context(cafile=task.ca_file) if task.ca_file else True
    connector = aiohttp.TCPConnector(limit=0, ssl=trust, ttl_dns_cache=None, happy_eyeballs_delay=None)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        read_bufsize=2**18,
        skip_auto_headers=("User-Agent", "Accept"),
    ) as session:
        if task.workload == "d":
            await count(task, session)
        elif task.workload == "e":
            await save(task, session)
        else:
            with open(task.out, "wb", buffering=0) as lines:
                await Crawl(task, session, lines).run(task.concurrency)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc's; M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
        for parameter, size in ((-3, 4 << 20), (-1, 32 << 20), (-2, 1 << 20)):
            mallopt(parameter, size)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(read(__doc__)))
