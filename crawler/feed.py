"""`start()`: where a crawl's first requests come from. It runs once per job, beside the pages it leads to.

A crash in its middle runs it again, and what it gave before is known by then. What it gives takes effect as it comes,
the last of it before a stop too. Requests that come without a wait between them take effect together, at the
scheduler's next turn: a list of a million addresses costs hardly more than queueing them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from crawler.callback_time import CallbackTime, close
from crawler.collector import OUTPUTS_PER_TURN
from crawler.errors import CrawlerError, EngineUnavailable, message_of
from crawler.inline import trusted
from crawler.page import Page
from crawler.request import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crawler.collector import Collector
    from crawler.context import Context
    from crawler.epochs import Epochs
    from crawler.inline import Inline
    from crawler.refresh import Refresh

__all__ = ["Feed"]

logger = logging.getLogger("crawler.engine")

_END: Any = object()


class Feed:
    """`await feed.run()`, in a task of the engine; the scheduler, woken by `wake`, calls `apply_gathered` at each turn.

    `stop` is called with `"failed"` when `start()` raises. Raises `EngineUnavailable` alone.
    """

    def __init__(
        self,
        context: Context,
        *,
        collector: Collector,
        epochs: Epochs,
        inline: Inline,
        wake: asyncio.Event,
        stop: Callable[[str], None],
        refresh: Refresh | None = None,
    ) -> None:
        self.taking = False
        """An output is on its way through the pipelines."""
        self.ended = False
        """Nothing more comes."""
        self._spider = context.spider
        self._frontier = context.frontier
        self._stats = context.stats
        self._collector = collector
        self._epochs = epochs
        self._inline = inline
        self._wake = wake
        self._stop = stop
        self._refresh = refresh
        self._stopped = False
        self._gathered: Page | None = None
        """Requests that have not taken effect."""

    async def run(self) -> None:
        if not self._epochs.started:
            trusted.set(True)
            try:
                self._epochs.started = not await self._frontier.claims_start() or await self._take_all()
            except EngineUnavailable:
                raise
            except (KeyboardInterrupt, SystemExit) as error:
                logger.warning("%s of start() of spider %r: stopping", type(error).__name__, self._spider.name)
                self._stop("interrupted")
                return
            except Exception as error:
                self._stats.failed("start_error")
                logger.error(
                    "start() of spider %r failed: %s", self._spider.name, message_of(error),
                    exc_info=None if isinstance(error, CrawlerError) else error,
                )  # fmt: skip
                self._stop("failed")
                return
            finally:
                self._inline.close_streams()
            self._epochs.touch()
        if self._refresh is not None and self._epochs.started:
            await self._refresh.requeue(self._collector, self._epochs, lambda: self._stopped)
        self.ended = True
        self._wake.set()

    def end(self) -> None:
        """Take no more: what comes next is the last."""
        self._stopped = True

    async def _take_all(self) -> bool:
        """Whether it came to its end."""
        outputs: Any = self._spider.start()
        if not isinstance(outputs, AsyncIterator):
            await self._take(self._collector.run, lambda _: outputs, None, {}, None)
            return True
        time = CallbackTime("start()", None)  # without a limit, but it must end when it is cancelled
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(outputs, AsyncGenerator):
                stack.push_async_callback(close, outputs, time)
            stack.callback(self.apply_gathered)
            number = 0
            while True:
                output = await time.spend(anext(outputs, _END))
                if output is _END:
                    return True
                if isinstance(output, Request):
                    self._gather(output)
                else:
                    self.apply_gathered()
                    await self._take(self._collector.collect, output, "start")
                await self._epochs.room()
                number += 1
                if self._stopped:
                    return False
                if number % OUTPUTS_PER_TURN == 0:
                    await asyncio.sleep(0)

    async def _take(self, collect: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        page = Page(None, None)
        self.taking = True
        try:
            await collect(page, *arguments)
        finally:
            self._epochs.apply(page)
            self.taking = False
            self._wake.set()

    def _gather(self, request: Request) -> None:
        if self._gathered is None:
            self._gathered = Page(None, None)
            self._wake.set()
        self._collector.add_request(self._gathered, request)

    def apply_gathered(self) -> None:
        page, self._gathered = self._gathered, None
        if page is not None:
            self._epochs.apply(page)
            self._wake.set()
