"""The site that `kill.py` has crawled, in the benchmark's own process: it knows what every page holds, and sees every
request.

Pages form a graph: a random tree, so that each can be reached, and links across it. A page holds one item: its number,
and a text with everything that a row of CSV or a line of JSON can break on. Crawls are told apart by their User-Agent,
so several can go at once, at one address.
"""

from __future__ import annotations

import asyncio
import html
import time
from collections import Counter
from random import Random
from typing import NamedTuple

from aiohttp import web

__all__ = ["SPIDER", "Hit", "Journal", "Site"]

SPIDER = """\
from crawler import Spider


class Numbers(Spider):
    \"\"\"Follows every link of a site whose pages hold a number and a text each.\"\"\"

    name = "numbers"

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        yield {"number": int(response.css("h1::text").get()), "text": response.css("p::attr(title)").get()}
        yield response.follow_all()
"""
_WORDS = ("comma, here", 'a "quote"', "two\nlines", "größer", "木", "plain", "{'json': [1]}", "tab\there", "; semi", "")
_LINKS_ACROSS = 6


class Item(NamedTuple):
    number: int
    text: str


class Hit:
    """A page that was asked for."""

    __slots__ = ("answered", "number", "time")

    def __init__(self, number: int) -> None:
        self.number = number
        self.time = time.monotonic()
        """Of its arrival."""
        self.answered: float | None = None
        """When the last byte of the answer was handed over."""


class Journal:
    """What one crawl asked for, in the order of arrival, over all its processes; robots.txt left out."""

    def __init__(self) -> None:
        self.hits: list[Hit] = []
        self.strays: list[str] = []
        """Paths that no page links to."""
        self.latency: tuple[float, float] | None = (0.0, 0.0)
        """How many seconds a page takes, at least and at most; None: it never comes."""
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def note(self, hit: Hit) -> None:
        self.hits.append(hit)
        for count, event in self._waiting:
            if len(self.hits) >= count:
                event.set()

    async def reached(self, count: int) -> None:
        """Until that many pages have been asked for."""
        if len(self.hits) < count:
            event = asyncio.Event()
            self._waiting.append((count, event))
            try:
                await event.wait()
            finally:
                self._waiting.remove((count, event))

    def numbers(self, start: int = 0, end: int | None = None) -> Counter[int]:
        """How often each page was asked for from one place of the journal to another."""
        return Counter(hit.number for hit in self.hits[start:end])


class Site:
    """`async with Site(pages, seed) as site`: serves at `site.url`, on a free port of loopback. Each text has `noise`
    bytes that no compression makes smaller."""

    def __init__(self, pages: int, seed: object, *, noise: int = 0) -> None:
        self._rng = Random(f"site {seed} {pages}")
        self.items = [Item(number, self._text(noise)) for number in range(pages)]
        """What a complete crawl gives, each once."""
        self._paths = {f"/pages/{number}" if number else "/": number for number in range(pages)}
        self._bodies = self._make_bodies(list(self._paths))
        self._journals: dict[str, Journal] = {}
        self._runner: web.AppRunner | None = None
        self.url = ""

    def journal(self, user_agent: str) -> Journal:
        """Of the crawl that calls itself that."""
        return self._journals.setdefault(user_agent, Journal())

    async def __aenter__(self) -> Site:
        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/robots.txt":
            return web.Response(text="User-agent: *\nAllow: /\n")
        journal = self.journal(request.headers.get("User-Agent", ""))
        number = self._paths.get(request.path)
        if number is None:
            journal.strays.append(request.path)
            return web.Response(status=404)
        hit = Hit(number)
        journal.note(hit)
        if journal.latency is None:
            await asyncio.Event().wait()
        elif journal.latency[1]:
            await asyncio.sleep(self._rng.uniform(*journal.latency))
        response = web.Response(body=self._bodies[number], content_type="text/html", charset="utf-8")
        await response.prepare(request)
        await response.write_eof()
        hit.answered = time.monotonic()
        return response

    def _text(self, noise: int) -> str:
        words = self._rng.choices(_WORDS, k=self._rng.randint(1, 12))
        return " ".join([*words, self._rng.randbytes(noise).hex()]).strip() or "empty"

    def _make_bodies(self, paths: list[str]) -> list[bytes]:
        links: list[list[int]] = [[] for _ in paths]
        for number in range(1, len(paths)):
            links[self._rng.randrange(number)].append(number)
        bodies = []
        for item in self.items:
            targets = [*links[item.number], *self._rng.choices(range(len(paths)), k=_LINKS_ACROSS)]
            self._rng.shuffle(targets)
            anchors = "\n".join(f'<a href="{paths[target]}">page {target}</a>' for target in targets)
            title = html.escape(item.text)
            bodies.append(f'<h1>{item.number}</h1><p title="{title}">\n{anchors}</p>'.encode())
        return bodies
