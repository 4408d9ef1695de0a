"""An asynchronous web crawler framework: subclass `Spider`, run `crawler run NAME`.

Names load when they are first used, so that `import crawler` costs little; `crawler.X` is where `X` is public.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.api import crawl, run, stream
    from crawler.assemble import Result
    from crawler.attempt import Attempt
    from crawler.directives import Directives
    from crawler.errors import BlockedError, CrawlerError, DropItem, FetchError
    from crawler.kinds.crawl import CrawlSpider, Rule
    from crawler.kinds.feed import FeedSpider
    from crawler.kinds.link_extractor import Link, LinkExtractor
    from crawler.kinds.sitemap import SitemapSpider
    from crawler.links import Links
    from crawler.listings.syndication import FeedEntry
    from crawler.request import FilePath, Request
    from crawler.response import Response, SavedFile
    from crawler.selector import Selector, SelectorList
    from crawler.spider import Failure, Spider

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "BlockedError",
    "CrawlSpider",
    "CrawlerError",
    "Directives",
    "DropItem",
    "Failure",
    "FeedEntry",
    "FeedSpider",
    "FetchError",
    "FilePath",
    "Link",
    "LinkExtractor",
    "Links",
    "Request",
    "Response",
    "Result",
    "Rule",
    "SavedFile",
    "Selector",
    "SelectorList",
    "SitemapSpider",
    "Spider",
    "__version__",
    "crawl",
    "run",
    "stream",
]

_HOMES = {
    "Attempt": "attempt",
    "BlockedError": "errors",
    "CrawlSpider": "kinds.crawl",
    "CrawlerError": "errors",
    "Directives": "directives",
    "DropItem": "errors",
    "Failure": "spider",
    "FeedEntry": "listings.syndication",
    "FeedSpider": "kinds.feed",
    "FetchError": "errors",
    "FilePath": "request",
    "Link": "kinds.link_extractor",
    "LinkExtractor": "kinds.link_extractor",
    "Links": "links",
    "Request": "request",
    "Response": "response",
    "Result": "assemble",
    "Rule": "kinds.crawl",
    "SavedFile": "response",
    "Selector": "selector",
    "SelectorList": "selector",
    "SitemapSpider": "kinds.sitemap",
    "Spider": "spider",
    "crawl": "api",
    "run": "api",
    "stream": "api",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'crawler' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"crawler.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
