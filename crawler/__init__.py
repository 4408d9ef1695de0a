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
    from crawler.crawl_spider import CrawlSpider, Rule
    from crawler.directives import Directives
    from crawler.errors import BlockedError, CrawlerError, DropItem, FetchError
    from crawler.feed_spider import FeedSpider
    from crawler.link_extractor import Link, LinkExtractor
    from crawler.links import Links
    from crawler.request import FilePath, Request
    from crawler.response import Response, SavedFile
    from crawler.selector import Selector, SelectorList
    from crawler.sitemap_spider import SitemapSpider
    from crawler.spider import Failure, Spider
    from crawler.syndication import FeedEntry

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
    "CrawlSpider": "crawl_spider",
    "CrawlerError": "errors",
    "Directives": "directives",
    "DropItem": "errors",
    "Failure": "spider",
    "FeedEntry": "syndication",
    "FeedSpider": "feed_spider",
    "FetchError": "errors",
    "FilePath": "request",
    "Link": "link_extractor",
    "LinkExtractor": "link_extractor",
    "Links": "links",
    "Request": "request",
    "Response": "response",
    "Result": "assemble",
    "Rule": "crawl_spider",
    "SavedFile": "response",
    "Selector": "selector",
    "SelectorList": "selector",
    "SitemapSpider": "sitemap_spider",
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
