"""Hosts that are down for ten minutes, in the time of `FakeClock`: `politeness_outage.py OPTIONS`, a JSON object.

The whole crawler but the wire: `Downloader.fetch` answers from here, and notes what it is asked for and when. The hosts
answer well for a minute, then each request fails, with a 503 or a refused connection, then they answer well again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict, CIMultiDictProxy

from crawler import Response, Spider
from crawler.download.session import Downloader
from crawler.errors import ConnectError
from crawler.testing import FakeClock, run_spider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler import Request

__all__ = ["outage"]

PAGES = 300
DOWN_SECONDS = 600.0
UP_SECONDS = 60.0
"""Before the hosts go down."""
_HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


class Pages(Spider):
    """Numbered pages of each host, without links."""

    name = "pages"
    pages: int = PAGES

    def start(self) -> Iterator[Any]:  # type: ignore[override]
        for number in range(self.pages):
            for host in _HOSTS:
                yield self.request(f"http://{host}/{number}")

    def parse(self, response: Response) -> dict[str, str]:
        return {"url": response.url}


def outage(settings: dict[str, Any], *, refuses: bool, pages: int = PAGES) -> dict[str, Any]:
    """Requests and pages, as the hosts saw them."""
    clock = FakeClock()
    began = clock.now()
    during: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "text/html; charset=utf-8"}))

    async def fetch(_: Downloader, request: Request) -> Response:
        await asyncio.sleep(0)
        host = request.url.split("/")[2]
        asked[request.url] += 1
        if not UP_SECONDS <= clock.now() - began < UP_SECONDS + DOWN_SECONDS:
            status, body = (404, b"") if request.url.endswith("robots.txt") else (200, b"<p>here</p>")
            return Response(request.url, request=request, status=status, headers=headers, body=body)
        during[host] += 1
        if refuses:
            raise ConnectError(f"{host} refuses connections", reason="connect_refused")
        return Response(request.url, request=request, status=503, headers=headers, body=b"")

    setattr(Downloader, "fetch", fetch)  # noqa: B010 - a method is replaced
    merged = {"politeness": {"delay_seconds": 0.5}, "retry": {"base_seconds": 1.0}, "log": {"level": "CRITICAL"}}
    for table, values in settings.items():
        merged[table] = {**merged.get(table, {}), **values}
    run = asyncio.run(run_spider(Pages, settings=merged, clock=clock, args={"pages": pages}))
    got = Counter(item["url"] for item in run.items)
    wanted = pages * len(_HOSTS)
    return {
        "reason": run.reason,
        "wanted": wanted,
        "lost": wanted - len(got),
        "twice": sum(got.values()) - len(got),
        "failures": run.stats["failures"],
        "during": dict(during),
        "requests": sum(asked.values()),
        "most_tries": max(asked.values()),
        "seconds": clock.now() - began,
    }


def main(options: dict[str, Any]) -> None:
    print(json.dumps(outage(options["settings"], refuses=options["refuses"], pages=options.get("pages", PAGES))))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
