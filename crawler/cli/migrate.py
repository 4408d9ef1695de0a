"""`crawler migrate FROM TO`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from crawler import migrate as moving
from crawler.cli import EXIT_OK
from crawler.cli.options import load
from crawler.loader import load_spider
from crawler.redaction import without_userinfo
from crawler.spider import Spider

if TYPE_CHECKING:
    import argparse

__all__ = ["migrate"]


def migrate(arguments: argparse.Namespace) -> int:
    spider = load_spider(arguments.spider, arguments.spiders) if arguments.spider else Spider
    settings = load(spider, arguments).settings
    if arguments.crawl:
        frontier = msgspec.structs.replace(settings.frontier, crawl=arguments.crawl)
        settings = msgspec.structs.replace(settings, frontier=frontier)
    moved = moving.migrate(arguments.source, arguments.target, settings)
    source = without_userinfo(arguments.source)
    print(
        f"crawler: crawl {moved.crawl!r} has moved, with {moved.waiting} waiting requests; {source} is left as it was"
    )
    return EXIT_OK
