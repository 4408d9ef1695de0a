"""The yardstick: a crawl loop written by hand in an afternoon with aiohttp and selectolax, and no framework.

    python benchmarks/plain.py START_URL OUT.jsonl [--concurrency 64]

Follows every link on the start URL's host and writes one JSON line for each HTML page: url, status, title, and how
many links it holds. Runs on uvloop where that is installed, as the crawler does. No politeness, no robots.txt, no
retries, no limits, no restart: what those cost is what `pages.py` shows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, TextIO

import aiohttp
from selectolax.lexbor import LexborHTMLParser
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Crawl:
    def __init__(self, start: URL, session: aiohttp.ClientSession, out: TextIO) -> None:
        self.start = start
        self.session = session
        self.out = out
        self.seen: set[URL] = {start}
        self.done: set[URL] = set()
        self.queue: asyncio.Queue[URL] = asyncio.Queue()
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
        tree = LexborHTMLParser(body)
        title = tree.css_first("title")
        links = tree.css("a[href]")
        page = {
            "url": str(response.url),
            "status": response.status,
            "title": title.text(strip=True) if title else "",
            "links": len(links),
        }
        self.out.write(json.dumps(page, ensure_ascii=False) + "\n")
        for link in self.resolve(response.url, [link.attributes["href"] or "" for link in links]):
            if link not in self.seen:
                self.seen.add(link)
                self.queue.put_nowait(link)

    def resolve(self, base: URL, hrefs: list[str]) -> Iterator[URL]:
        for href in hrefs:
            try:
                url = base.join(URL(href)).with_fragment(None)
            except ValueError:
                continue
            if url.host == self.start.host and url.port == self.start.port and url.scheme in ("http", "https"):
                yield url


async def main(start: str, out: str, concurrency: int) -> None:
    connector = aiohttp.TCPConnector(limit=concurrency)
    timeout = aiohttp.ClientTimeout(total=60)
    with open(out, "w", encoding="utf-8") as lines:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await Crawl(URL(start), session, lines).run(concurrency)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", metavar="START_URL")
    parser.add_argument("out", metavar="OUT.jsonl")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="worker tasks (default 64)")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(options.start, options.out, options.concurrency))
