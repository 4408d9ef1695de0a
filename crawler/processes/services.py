"""What a spider and its pipelines may ask of the parent of a crawl in several processes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

from crawler.errors import CrawlerError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from crawler.context import Context
    from crawler.cookies import Cookies
    from crawler.request import Request
    from crawler.response import Response
    from crawler.robots import Robots

__all__ = ["ParentServices"]


class ParentServices:
    """`crawler.spider.Services`, without those that send something: that is done by children alone."""

    logger = logging.getLogger("crawler.inline")

    def __init__(self, context: Context) -> None:
        self.settings = context.settings
        self.stats = context.stats
        self.job = context.job
        self._fetcher = context.fetcher

    async def fetch(self, request: Request) -> Response:
        _refuse()

    async def robots(self, request: Request) -> Robots:
        _refuse()

    def websocket(self, request: Request, **options: Any) -> AbstractAsyncContextManager[Any]:
        _refuse()

    def cookies(self, session: str | None, url: str | None) -> Cookies:
        return self._fetcher.cookies(session, url)


def _refuse() -> NoReturn:
    raise CrawlerError(
        "with --processes (processes=) pipelines run in a process that fetches nothing: fetch in the callback, "
        "or crawl with one process"
    )
