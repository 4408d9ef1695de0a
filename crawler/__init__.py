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
    from crawler.links import Links
    from crawler.request import FilePath, Request
    from crawler.response import Response, SavedFile
    from crawler.selector import Selector, SelectorList
    from crawler.spider import Failure, Spider

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "BlockedError",
    "CrawlerError",
    "Directives",
    "DropItem",
    "Failure",
    "FetchError",
    "FilePath",
    "Links",
    "Request",
    "Response",
    "Result",
    "SavedFile",
    "Selector",
    "SelectorList",
    "Spider",
    "__version__",
    "crawl",
    "run",
    "stream",
]

_HOMES = {
    "Attempt": "attempt",
    "BlockedError": "errors",
    "CrawlerError": "errors",
    "Directives": "directives",
    "DropItem": "errors",
    "Failure": "spider",
    "FetchError": "errors",
    "FilePath": "request",
    "Links": "links",
    "Request": "request",
    "Response": "response",
    "Result": "assemble",
    "SavedFile": "response",
    "Selector": "selector",
    "SelectorList": "selector",
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
