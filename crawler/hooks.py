"""The user's own code around a crawl: hooks of its pipelines and of its spider."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from crawler.callback_time import CallbackTime
from crawler.inline import trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crawler.contracts import Pipeline
    from crawler.spider import Spider
    from crawler.stats import Stats

__all__ = ["Hooks"]

logger = logging.getLogger("crawler.engine")

_CANCEL_SECONDS = 5.0
"""How long what is cancelled may take to give up before the end goes on without it."""
_CLOSING_SECONDS = 7 * 86_400.0
"""For `closed` and `close_spider`, which may have very much to write. Who does not want to wait sends a second signal.
"""


class Hooks:
    """`pipelines_only`: the spider's own are another process's."""

    def __init__(
        self, spider: Spider, pipelines: Sequence[Pipeline], stats: Stats, *, pipelines_only: bool = False
    ) -> None:
        self._spider = spider
        self._pipelines = pipelines
        self._stats = stats
        self._pipelines_only = pipelines_only
        self._opened: list[Pipeline] = []
        self._closing: CallbackTime | None = None
        self._is_hurried = False

    async def open(self) -> None:
        """Raises what they raise, having closed what was opened."""
        token = trusted.set(True)
        try:
            for pipeline in self._pipelines:
                opener = getattr(pipeline, "open_spider", None)
                if opener is not None:
                    await _settled(opener(self._spider))
                self._opened.append(pipeline)
            if not self._pipelines_only:
                await _settled(self._spider.opened())
        except BaseException:
            await self._close_pipelines()
            raise
        finally:
            trusted.reset(token)

    async def close(self, reason: str) -> None:
        await self._close_pipelines()
        if not self._pipelines_only:
            await self._guarded(self._spider.closed, reason)

    def hurry(self) -> None:
        """What is being closed, and what is closed later, gets some seconds."""
        self._is_hurried = True
        if self._closing is not None:
            self._closing.cut(_CANCEL_SECONDS)

    async def _close_pipelines(self) -> None:
        while self._opened:
            pipeline = self._opened.pop()
            closer = getattr(pipeline, "close_spider", None)
            if closer is not None:
                await self._guarded(closer, self._spider)

    async def _guarded(self, method: Callable[[Any], Any], argument: Any) -> None:
        self._closing = CallbackTime(method.__qualname__, _CANCEL_SECONDS if self._is_hurried else _CLOSING_SECONDS)
        try:
            closed = method(argument)
            if inspect.isawaitable(closed):
                await self._closing.spend(closed)
        except (Exception, KeyboardInterrupt, SystemExit):
            logger.exception("%s of spider %r raised", method.__qualname__, self._spider.name)
            self._stats.failed("close_error")


async def _settled(result: Any) -> None:
    """Hooks may be `async def`, as documented, or `def`, as Scrapy's are."""
    if inspect.isawaitable(result):
        await result
