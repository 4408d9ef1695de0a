"""Crawls over name servers that are slow, broken, or sure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crawler import Failure, Response, Spider
from crawler.testing import LocalSite, run_spider
from crawler.testing.names import Address, DnsServer
from crawler.testing.raw import answer

HELLO = answer(b"hello")


class Visitor(Spider):
    """Fetches `urls`; notes what came, in order."""

    name = "visitor"
    urls: tuple[str, ...] = ()

    async def start(self) -> Any:
        for url in self.urls:
            yield self.request(url)

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}

    def failed(self, failure: Failure) -> Any:
        yield {"url": failure.request.url, "reason": failure.reason, "attempts": failure.attempts}


def asking(dns: DnsServer, **more: Any) -> dict[str, Any]:
    return {"dns": {"nameservers": [dns.nameserver]}, "politeness": {"obey_robots": False}, **more}


@pytest.mark.hostile("R-15")
async def test_a_name_server_that_keeps_us_waiting_holds_no_worker() -> None:
    async with DnsServer() as dns, LocalSite() as site:
        site.page("*", "hello")
        port = site.url.rpartition(":")[2]
        names = [f"slow{number}.test" for number in range(8)]
        dns.names = {name: [Address("127.0.0.1")] for name in [*names, "quick.test"]}
        dns.hold(*names)

        async def release() -> None:
            await site.reached(3)
            dns.release(*names)

        urls = [f"http://{name}:{port}/" for name in names]
        urls += [f"http://quick.test:{port}/{number}" for number in range(3)]
        async with asyncio.TaskGroup() as group:
            group.create_task(release())
            # With one worker, one name that is waited for would be the end.
            settings = asking(dns, crawl={"concurrency": 1})
            run = await run_spider(Visitor, args={"urls": tuple(urls)}, settings=settings)
    assert sorted(item["url"] for item in run.items) == sorted(urls)
    assert ["quick.test" in item["url"] for item in run.items] == [True] * 3 + [False] * 8
    assert run.stats["retries"] == 0
    assert run.stats["requests"] == 11


async def test_robots_txt_of_a_slow_name_waits_for_it_too() -> None:
    async with DnsServer() as dns, LocalSite() as site:
        site.page("*", "hello")
        port = site.url.rpartition(":")[2]
        dns.names = {"slow.test": [Address("127.0.0.1")], "quick.test": [Address("127.0.0.1")]}
        dns.hold("slow.test")

        async def release() -> None:
            await site.reached(2)
            dns.release("slow.test")

        async with asyncio.TaskGroup() as group:
            group.create_task(release())
            settings = {**asking(dns), "crawl": {"concurrency": 1}, "politeness": {"obey_robots": True}}
            args = {"urls": (f"http://slow.test:{port}/", f"http://quick.test:{port}/")}
            run = await run_spider(Visitor, args=args, settings=settings)
    assert ["quick" in item["url"] for item in run.items] == [True, False]


@pytest.mark.hostile("R-15")
async def test_a_stop_does_not_wait_for_names() -> None:
    class Stopping(Visitor):
        async def parse(self, response: Response) -> Any:
            yield {"url": response.url}

    async with DnsServer() as dns, LocalSite() as site:
        site.page("*", "hello")
        dns.hold("never.test")
        dns.names = {"never.test": [Address("127.0.0.1")]}
        urls = ("http://never.test/", f"{site.url}/")
        settings = asking(dns, crawl={"page_limit": 1})
        run = await asyncio.wait_for(run_spider(Stopping, args={"urls": urls}, settings=settings), 10)
    assert run.reason == "page_limit"
    assert run.stats["errors"] == 0
