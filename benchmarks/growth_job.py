"""The crawl that `growth.py` measures: `growth_job.py OPTIONS`, a JSON object, in a process and a folder of its own.

All is as `crawler run` has it (a job folder on disk, robots.txt, JSON lines), but the politeness, which would only
wait. The callbacks wait until `start()` has given everything and the disk has it; then `warm_up` pages are not
measured, and `pages` are. Prints what it found as JSON.

Without the wire, `Downloader.fetch` makes the same answers from memory: what is left is the framework's own work.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from growth_site import Site
from multidict import CIMultiDict, CIMultiDictProxy

from crawler import Response, Spider, run
from crawler.download.session import Downloader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crawler import Request

CONCURRENCY = 64
_MOST_SECONDS = 600.0
"""That a callback may wait for the queue to be full."""
_JOB = "job"


class Sample(NamedTuple):
    """How things stand at one page. CPU seconds are user and system of all threads, memory is anonymous."""

    cpu_seconds: float
    wall_seconds: float
    anonymous_mib: float
    connections: int


class Meter:
    """Samples; `port` is the server's, None without one."""

    def __init__(self, port: int | None) -> None:
        self.samples: list[Sample] = []
        self._control = None if port is None else socket.create_connection(("127.0.0.1", port))

    def sample(self, *, ends: bool = False) -> None:
        """What looking costs itself is before the time that it gives, or, where it `ends` a measurement, after it."""
        times = time.process_time(), time.perf_counter()
        memory, connections = _anonymous_mib(), self._connections()
        if not ends:
            times = time.process_time(), time.perf_counter()
        self.samples.append(Sample(*times, memory, connections))

    def _connections(self) -> int:
        if self._control is None:
            return 0
        self._control.sendall(b"GET /connections HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return int(self._control.recv(4096).rpartition(b"\r\n\r\n")[2])


def _anonymous_mib() -> float:
    found = re.search(r"^Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


class Growth(Spider):
    """The whole site: every link of a page, and one item."""

    name = "growth"

    def __init__(self, *, site: Site, warm_up: int, pages: int, meter: Meter, profile: cProfile.Profile | None) -> None:
        super().__init__()
        self.site = site
        self.full = asyncio.Event()
        self.count = 0
        self._warm_up, self._last = warm_up, warm_up + pages
        self._meter, self._profile = meter, profile

    async def start(self) -> AsyncIterator[Any]:
        for number in range(self.site.queue):
            yield self.request(self.site.url(number))
        await asyncio.sleep(0.5)  # they are in an epoch that is closed
        await asyncio.to_thread(_sync, Path(_JOB, "frontier", "data.mdb"))
        self._meter.sample()
        self.full.set()

    async def parse(self, response: Response) -> Any:
        await self.full.wait()
        self._count()
        links = response.follow_all("a[href]")
        return [{"url": response.url, "title": response.css("title::text").get(), "links": len(links)}, links]

    def _count(self) -> None:
        self.count += 1
        if self.count == self._warm_up:
            self._meter.sample()
            if self._profile is not None:
                self._profile.enable()
        elif self.count == self._last:
            if self._profile is not None:
                self._profile.disable()
            self._meter.sample(ends=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_wire(site: Site) -> None:
    """From here on nothing is sent: pages come from memory, after one turn of the loop."""
    headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "text/html; charset=utf-8"}))

    async def fetch(_: Downloader, request: Request) -> Response:
        await asyncio.sleep(0)
        parts = urlsplit(request.url)
        body = site.page_at(parts.netloc, parts.path)
        status = 404 if body is None else 200
        return Response(request.url, request=request, status=status, headers=headers, body=body or b"")

    setattr(Downloader, "fetch", fetch)  # noqa: B010 - a method is replaced


def main(options: dict[str, Any]) -> None:
    port = options["port"]
    site = Site(options["queue"], options["hosts"], port or 8080)
    if port is None:
        without_wire(site)
    profile = cProfile.Profile() if options["profile"] else None
    warm_up, pages = options["warm_up"], options["pages"]
    spider = {"site": site, "warm_up": warm_up, "pages": pages}
    meter = Meter(port)
    result = run(
        Growth,
        args={**spider, "meter": meter, "profile": profile},
        settings={
            "crawl": {
                "concurrency": CONCURRENCY,
                "page_limit": warm_up + pages + CONCURRENCY,
                "callback_timeout_seconds": _MOST_SECONDS,
            },
            "politeness": {"delay_seconds": 0, "concurrency_per_host": CONCURRENCY},
            "log": {"level": "WARNING"},
        },
        output="items.jsonl",
        job=_JOB,
    )
    if profile is not None:
        profile.dump_stats(options["profile"])
    stats = {name: result.stats[name] for name in ("pages", "items", "errors", "waiting")}
    print(json.dumps({"reason": result.reason, **stats, "samples": [each._asdict() for each in meter.samples]}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
