"""An item's way: through the pipelines in their order, encoded for each output, into the page that gave it.

What comes of an item is one of three. It is kept; or a pipeline drops it (`DropItem`), which is the user's will and no
error; or it is refused, because a pipeline raised, took too long or gave nothing back, or an output cannot hold it.
A refused item becomes a line of the job's `refused.jsonl`, which is an output like the others: it takes effect with
its page, and a kill neither loses nor repeats it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from crawler.callback_time import CallbackTime
from crawler.dead_letter import dead_letter
from crawler.errors import CallbackTimeout, CrawlerError, DropItem, EngineUnavailable, message_of
from crawler.item import as_dict, type_name
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from crawler.context import Context
    from crawler.contracts import Exporter, Pipeline, Spool
    from crawler.page import Page

__all__ = ["Passage"]

logger = logging.getLogger("crawler.items")


class Passage:
    """`await passage.take(page, item)`. `refused` is the output of refused items; None: there is no job folder, and
    they are logged and counted alone. `on_item` is given each item that is kept."""

    def __init__(
        self,
        context: Context,
        *,
        pipelines: Sequence[Pipeline],
        exporters: Sequence[Exporter],
        refused: Exporter | None,
        make_spool: Callable[[], Spool],
        on_item: Callable[[Any], Awaitable[None]] | None = None,
        only_changed: bool = False,
    ) -> None:
        crawl = context.settings.crawl
        self._spider = context.spider
        self._clock = context.clock
        self._pipelines = pipelines
        self._exporters = exporters
        self._refused = refused
        self._make_spool = make_spool
        self._on_item = on_item
        self._only_changed = only_changed
        self._seconds = crawl.callback_timeout_seconds
        self._is_whole = not crawl.partial_pages
        self._with_ids = context.settings.output.item_ids
        self._start_items = 0

    async def take(self, page: Page, item: Any) -> None:
        """Raises `EngineUnavailable` and CancelledError alone."""
        if page.unchanged and self._only_changed:
            page.items_unchanged += 1
            return
        for pipeline in self._pipelines:
            try:
                processed = await self._process(pipeline, item)
            except DropItem as drop:
                page.items_dropped += 1
                logger.info("item dropped by %s: %s", type(pipeline).__name__, drop.reason)
                return
            except EngineUnavailable:
                raise
            except Exception as error:
                await self._refuse(page, item, error, pipeline=type(pipeline).__name__)
                return
            item = processed
        await self._write(page, item)

    async def deliver(self, page: Page) -> None:
        """The items of a page that counts as a whole or not at all, now that it does."""
        items, page.undelivered = page.undelivered, []
        for item in items:
            assert self._on_item is not None
            await self._on_item(item)

    async def _process(self, pipeline: Pipeline, item: Any) -> Any:
        processed: Any = pipeline.process_item(item, self._spider)
        if inspect.isawaitable(processed):
            processed = await self._in_time(processed, f"{type(pipeline).__name__}.process_item")
        if processed is None:
            raise TypeError("process_item returned None; it returns the item, or raises DropItem")
        return processed

    async def _in_time(self, processed: Awaitable[Any], name: str) -> Any:
        task = asyncio.current_task()
        try:
            # A fetch inside has limits of its own, and waits for its host's turn.
            return await CallbackTime(name, self._seconds, counts_fetches=False).spend(processed)
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            raise CrawlerError(f"{name} awaited what was cancelled") from error

    async def _write(self, page: Page, item: Any) -> None:
        output = ""
        try:
            fields = self._fields(page, item)
            encoded = []
            for exporter in self._exporters:
                output = exporter.target
                encoded.append(exporter.encode(fields))
        except EngineUnavailable:
            raise
        except Exception as error:  # beside what the format cannot hold: a property or a serializer of the item's
            await self._refuse(page, item, error, output=output or "every output")
            return
        await self._keep(page, encoded)
        if self._on_item is None:
            return
        if self._is_whole and page.lease is not None:
            page.undelivered.append(item)
        else:
            await self._on_item(item)

    def _fields(self, page: Page, item: Any) -> Mapping[str, Any]:
        fields = as_dict(item)
        if not self._with_ids or "_id" in fields:
            return fields
        if page.lease is not None:
            return {"_id": f"{page.lease.key:016x}-{page.item_count}", **fields}
        self._start_items += 1
        return {"_id": f"start-{self._start_items - 1}", **fields}

    async def _keep(self, page: Page, encoded: Sequence[bytes]) -> None:
        page.item_count += 1
        if not page.spools:
            page.spools = [self._make_spool() for _ in encoded]
        for spool, record in zip(page.spools, encoded, strict=True):
            await _append(spool, record)

    async def _refuse(self, page: Page, item: Any, error: Exception, *, pipeline: str = "", output: str = "") -> None:
        late = isinstance(error, CallbackTimeout)
        page.failures.append("item_error" if output else "pipeline_timeout" if late else "pipeline_error")
        page.items_dropped += 1
        page.refused_count += 1
        told = None if isinstance(error, CrawlerError) else error  # the message of one of ours says it all
        logger.error(
            "%s refused a %s of %s: %s", f"{pipeline}.process_item" if pipeline else output, type_name(item),
            page.request or "start()", message_of(error), exc_info=told,
        )  # fmt: skip
        if self._refused is None:
            return
        url = "" if page.request is None else redact(page.request.url)
        letter = dead_letter(item, error, now=self._clock.now(), url=url, pipeline=pipeline, output=output)
        if page.refused is None:
            page.refused = self._make_spool()
        await _append(page.refused, self._refused.encode(letter))


async def _append(spool: Spool, record: bytes) -> None:
    spool.append(record)
    if spool.needs_spill:
        await asyncio.to_thread(spool.spill)
