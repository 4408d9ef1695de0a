"""One exchange with the hostile site, in a process of its own: what came of it, and what it did to the process.

    hostile_job.py plain|here PATH HOSTILE HONEST OUT.json [--timeout 10] [--memory-gib 6] [--cpu 60]

`plain` is aiohttp's client as people write it: `session.get`, `await response.read()`, selectolax on the loop for what
is HTML. `here` is a spider whose callback reads `response.css("a::attr(href)")`. Retries are off and the total time-out
is the same. Meanwhile the same process visits an honest host every 20 ms, and a task wakes every 5 ms. What is measured
begins when some honest pages have come, so that everything is loaded and open.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin

import aiohttp
from selectolax.lexbor import LexborHTMLParser
from streams import memory_mib

from crawler import Failure, Response, Spider, crawl
from crawler.signals import run_in_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Seen"]

_BEAT_SECONDS = 0.005
_PAUSE_SECONDS = 0.02
"""Between two visits to the honest host."""
_WARM_UP = 5
"""Honest pages."""


class Seen(NamedTuple):
    """What one exchange was like. Seconds run from its beginning to its end, whatever that is."""

    outcome: str
    seconds: float
    cpu_seconds: float
    grown_mib: float
    """Peak of the memory above what was held at the beginning."""
    lag_seconds: float
    """The longest that the loop was not to be had, less what it was to sleep: on a busy machine more than our doing."""
    burst_seconds: float
    """The most CPU that the loop's thread used in such a while."""
    wait_seconds: float
    """The longest between two pages of the honest host."""


class Meter:
    """`page` for each page of the honest host: True where the hostile one is to be visited now. Then `end`, once, with
    what came of it; one more honest page, and `done`."""

    def __init__(self) -> None:
        self.seen: Seen | None = None
        self.ended = asyncio.Event()
        self.done = asyncio.Event()
        self._pages = 0
        self._lag = self._burst = self._wait = 0.0
        self._began = self._cpu = self._held = self._last = 0.0
        self._outcome: tuple[str, float, float, float] | None = None

    async def beat(self) -> None:
        while True:
            before, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(_BEAT_SECONDS)
            self._lag = max(self._lag, time.perf_counter() - before - _BEAT_SECONDS)
            self._burst = max(self._burst, time.thread_time() - cpu)

    def page(self) -> bool:
        now = time.perf_counter()
        self._pages += 1
        if self._pages <= _WARM_UP:
            return False
        if not self._began:
            self._begin(now)
            return True
        self._wait = max(self._wait, now - self._last)
        self._last = now
        if self._outcome is not None:
            self.done.set()
        return False

    def _begin(self, now: float) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what is held now
        self._began = self._last = now
        self._lag = self._burst = self._wait = 0.0
        self._cpu, self._held = time.process_time(), memory_mib("VmRSS")

    def end(self, outcome: str) -> None:
        if self._outcome is None:
            cpu, grown = time.process_time() - self._cpu, memory_mib("VmHWM") - self._held
            self._outcome = outcome, time.perf_counter() - self._began, cpu, grown
            self.ended.set()

    def read(self) -> Seen:
        """When `done`: the loop has turned, so a lag at the very end is in it."""
        assert self._outcome is not None
        return Seen(*self._outcome, self._lag, self._burst, self._wait)


def told(status: int, size: int, links: int) -> str:
    shown = f"{size / (1 << 20):,.0f} MiB" if size >= 1 << 20 else f"{size:,} bytes"
    return f"{status}, {shown}" + (f", {links} {'link' if links == 1 else 'links'}" if links else "")


# -- aiohttp's client, as people write it -----------------------------------------------------------------------------


async def plain(options: argparse.Namespace, meter: Meter) -> None:
    timeout = aiohttp.ClientTimeout(total=options.timeout)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        while not meter.done.is_set():
            # A loop that was held up finds that time is over, for requests too that did no harm.
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, MemoryError):
                async with session.get(f"{options.honest}/page") as response:
                    await response.read()
            if meter.page():
                group.create_task(_visit(session, options.hostile + options.path, meter))
            await asyncio.sleep(_PAUSE_SECONDS)


async def _visit(session: aiohttp.ClientSession, url: str, meter: Meter) -> None:
    try:
        async with session.get(url) as response:
            body = await response.read()
        is_html = response.content_type == "text/html"
        links = [node.attributes["href"] or "" for node in LexborHTMLParser(body).css("a[href]")] if is_html else []
        for link in links if url.endswith("/private") else ():
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(urljoin(url, link)) as response:
                    await response.read()
        meter.end(told(response.status, len(body), len(links)))
    except Exception as error:  # whatever a page can do to a client is what we want to know
        meter.end(type(error).__name__)


# -- a spider ---------------------------------------------------------------------------------------------------------


class Visitor(Spider):
    """The hostile page once, and the honest host every 20 ms until that has ended."""

    name = "visitor"
    path: str
    hostile: str
    honest: str
    meter: Meter

    async def start(self) -> AsyncIterator[Any]:
        # Named by the user: so this host and port may be dialled, although they are private.
        yield self.request(f"{self.honest}/page?0", self.neighbour)
        await self.began.wait()
        yield self.request(self.hostile + self.path)

    async def opened(self) -> None:
        self.began = asyncio.Event()
        self.number = 0

    def neighbour(self, response: Response) -> Any:
        if self.meter.page():
            self.began.set()
        if not self.meter.done.is_set():
            self.number += 1
            yield self.request(f"{self.honest}/page?{self.number}", self.neighbour)

    def parse(self, response: Response) -> Any:
        try:
            links = response.css("a::attr(href)").getall()
        except BaseException as error:
            self.meter.end(getattr(error, "reason", type(error).__name__))
            raise
        if response.url.endswith("/private"):
            yield response.follow_all("a[href]", callback=self.inside, errback=self.refused)
        else:
            self.meter.end(told(response.status, len(response.body), len(links)))

    def inside(self, response: Response) -> None:
        self.meter.end("followed")

    def refused(self, failure: Failure) -> None:
        self.meter.end(failure.reason)

    def failed(self, failure: Failure) -> None:
        self.meter.end(failure.reason)


async def here(options: argparse.Namespace, meter: Meter) -> None:
    await crawl(
        Visitor,
        args={"path": options.path, "hostile": options.hostile, "honest": options.honest, "meter": meter},
        settings={
            "http": {"total_seconds": options.timeout},
            "retry": {"times": 0},
            "politeness": {"obey_robots": False, "delay_seconds": _PAUSE_SECONDS, "jitter": 0, "adaptive": False},
            "log": {"level": "ERROR"},
        },
    )


# -- running ----------------------------------------------------------------------------------------------------------


async def measure(options: argparse.Namespace) -> Seen:
    meter = Meter()
    beating = asyncio.ensure_future(meter.beat())
    try:
        await {"plain": plain, "here": here}[options.role](options, meter)
    finally:
        beating.cancel()
    return meter.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=("plain", "here"))
    parser.add_argument("path", metavar="PATH", help="of the hostile host")
    parser.add_argument("hostile", metavar="HOSTILE", help="its address")
    parser.add_argument("honest", metavar="HONEST", help="the other's address")
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="of a whole exchange (default 10)")
    parser.add_argument("--memory-gib", type=float, default=6.0, metavar="N", help="address space (default 6)")
    parser.add_argument("--cpu", type=int, default=60, metavar="S", help="CPU seconds (default 60)")
    options = parser.parse_args()
    memory = int(options.memory_gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (options.cpu, options.cpu + 1))
    seen = run_in_loop(measure(options))
    options.out.write_text(json.dumps(seen._asdict()), encoding="utf-8")


if __name__ == "__main__":
    main()
