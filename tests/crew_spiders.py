"""Spiders that children of `tests/test_processes.py` import."""

from __future__ import annotations

import os
import signal

from crawler import Spider
from crawler.errors import DropItem


class Picky:
    """Drops every third item, and raises on every fifth."""

    def open_spider(self, spider):
        self.pid = os.getpid()

    async def process_item(self, item, spider):
        if item["number"] % 3 == 0:
            raise DropItem("a multiple of three")
        if item["number"] % 5 == 0:
            raise ValueError("a multiple of five")
        return {**item, "written_by": self.pid, "read_by": item.get("read_by")}


class Tree(Spider):
    """Everything that is linked on `sites`."""

    name = "tree"
    sites: tuple[str, ...] = ()

    async def start(self):
        for site in self.sites:
            yield self.request(f"{site}/")

    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all("a")


class Numbered(Tree):
    name = "numbered"
    pipelines = (Picky,)

    def parse(self, response):
        number = int(response.css("p::text").get(default="0"))
        self.stats.count("parsed")
        yield {"number": number, "read_by": os.getpid()}
        yield response.follow_all("a")


class Poisoned(Tree):
    """A page that kills whoever reads it, and one on which the callback raises."""

    name = "poisoned"

    def parse(self, response):
        if response.url.endswith("/poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        if response.url.endswith("/raises"):
            raise RuntimeError("this page is wrong")
        yield from super().parse(response)


class Stillborn(Tree):
    name = "stillborn"

    async def opened(self):
        os._exit(3)


class Odd(Tree):
    """Gives an item that only this process could hold."""

    name = "odd"

    def parse(self, response):
        yield {"odd": object()}
        yield from super().parse(response)
