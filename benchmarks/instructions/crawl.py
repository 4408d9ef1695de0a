"""The crawl that is counted: `python crawl.py WORKLOAD ADDRESS FOLDER [PROFILE]`, a process of its own.

All is as `crawler run` has it (durable job folder, robots.txt, JSON lines, uvloop where it is installed), but the
politeness, which would only wait, and the clock: time moves when a page has come, so an epoch holds the same number of
pages however slow the machine is. With PROFILE the counted window is run under cProfile, and that is written there.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import gc
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from content import CONCURRENCY, WORKLOADS, Workload, paths

from crawler import Response, Spider, run
from crawler.frontier.disk import DiskStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_BEGAN = 1_700_000_000.0
_MAP_BYTES = 1 << 30
"""Of the frontier's file: the address space under valgrind has no room for the usual one."""


class PageClock:
    """Unix time that stands still until somebody moves it. Waits as the real clock does, by `asyncio.timeout`."""

    def __init__(self) -> None:
        self._now = _BEGAN
        self._waits: list[tuple[float, asyncio.Timeout]] = []

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
        for wait in [wait for wait in self._waits if wait[0] <= self._now]:
            self._waits.remove(wait)
            wait[1].reschedule(asyncio.get_running_loop().time())

    async def sleep(self, seconds: float) -> None:
        await self.wait(asyncio.Event(), seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        if seconds is None:
            await event.wait()
        elif seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None) as timeout:
                    wait = (self._now + seconds, timeout)
                    self._waits.append(wait)
                    try:
                        await event.wait()
                    finally:
                        if wait in self._waits:
                            self._waits.remove(wait)
        else:
            await asyncio.sleep(0)


class Counted(Spider):
    """What both spiders share: each page moves the clock and may turn the profiler on or off."""

    def __init__(self, address: str, clock: PageClock, profile: cProfile.Profile | None) -> None:
        super().__init__()
        self.address = address
        self.clock = clock
        self.profile = profile
        self.workload = WORKLOADS[self.name]
        self.pages = 0

    async def opened(self) -> None:
        gc.collect()  # a full collection of all that importing made comes now, and not at some page of the window

    def page_came(self) -> None:
        self.pages += 1
        self.clock.advance(self.workload.page_seconds)
        if self.profile is not None:
            if self.pages == self.workload.warm_up:
                self.profile.enable()
            elif self.pages == self.workload.warm_up + self.workload.pages:
                self.profile.disable()


class LinksSpider(Counted):
    """As `spiders/site.py`: every link of the page, and one item."""

    name = "links"

    async def start(self) -> AsyncIterator[Any]:
        self.host = re.escape(urlsplit(self.address).netloc)
        yield self.request(self.address + paths(self.workload)[0])

    def parse(self, response: Response) -> Any:
        self.page_came()
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


class BareSpider(Counted):
    """Every page is named by `start()`, and nothing is done with it."""

    name = "bare"

    async def start(self) -> AsyncIterator[Any]:
        for path in paths(self.workload):
            yield self.request(self.address + path)

    def parse(self, response: Response) -> None:
        self.page_came()


def main(name: str, address: str, folder: str, profile_path: str = "") -> None:
    defaults = DiskStore.__init__.__kwdefaults__
    assert defaults is not None
    defaults["map_size"] = _MAP_BYTES
    spider = {each.name: each for each in (LinksSpider, BareSpider)}[name]
    clock = PageClock()
    profile = cProfile.Profile() if profile_path else None
    result = run(
        spider,
        args={"address": address, "clock": clock, "profile": profile},
        settings=_settings(WORKLOADS[name]),
        output=Path(folder, "items.jsonl"),
        job=Path(folder, "job"),
        clock=clock,
    )
    if profile is not None:
        profile.dump_stats(profile_path)
    print(json.dumps({"reason": result.reason, "pages": result.stats["pages"], "items": result.stats["items"]}))


def _settings(workload: Workload) -> dict[str, Any]:
    return {
        "crawl": {"concurrency": CONCURRENCY, "page_limit": workload.fetched},
        "politeness": {"delay_seconds": 0, "concurrency_per_host": CONCURRENCY},
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
