"""Crawling from Python: `crawl`, `stream` and `run`. Any number of times, side by side, in a running loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler import settings as setting
from crawler.assemble import Crawl, Output, Result, load_settings
from crawler.spider import Spider

if TYPE_CHECKING:
    from crawler.contracts import Clock

__all__ = ["crawl", "run", "stream"]

logger = logging.getLogger("crawler.job")

Outputs = str | PathLike[str] | Sequence[str | PathLike[str]]

_ITEMS_AHEAD = 100
"""How many items `stream` lets the crawl be ahead of its consumer."""


async def crawl(
    spider: type[Spider],
    *,
    args: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    output: Outputs = (),
    overwrite: bool = False,
    job: str | PathLike[str] | None = None,
    fresh: bool = False,
    refresh: bool = False,
    only_changed: bool = False,
    clock: Clock | None = None,
    processes: int = 1,
) -> Result:
    """Run a spider to its end.

    `args` become attributes of the spider; `settings` are nested as in the settings file and win over the spider's own;
    `output` names one or several files, appended to unless `overwrite`. With a `job` folder the crawl can be killed and
    the same call continues it; without one it lives in memory alone. With `refresh` the pages of a job that had
    finished are visited again, and with `only_changed` items of those that are as they were are left out. With
    `processes` callbacks run in so many others (0: one for each processor), which import the spider by its module;
    pipelines and outputs stay here. Cancelling the call stops the crawl at once.

    Raises `UsageError` for what cannot be done as asked, `EngineUnavailable` where the disk fails.
    """
    opened = _crawl(
        spider,
        args,
        settings,
        output,
        overwrite=overwrite,
        job=job,
        fresh=fresh,
        refresh=refresh,
        only_changed=only_changed,
        clock=clock,
        processes=processes,
    )
    async with opened as running:
        return await running.run()


async def stream(
    spider: type[Spider],
    *,
    args: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    job: str | PathLike[str] | None = None,
    refresh: bool = False,
    only_changed: bool = False,
    clock: Clock | None = None,
) -> AsyncIterator[Any]:
    """The items as they come. The crawl waits for a slow consumer, and leaving the loop stops it cleanly.

    Items are given at least once: those of a page that a crash interrupts come again. Raises as `crawl` does.
    """
    items: asyncio.Queue[Any] = asyncio.Queue(_ITEMS_AHEAD)
    ended = object()

    opened = _crawl(
        spider,
        args,
        settings,
        (),
        job=job,
        refresh=refresh,
        only_changed=only_changed,
        clock=clock,
        on_item=items.put,
    )
    async with opened as running:

        async def work() -> None:
            try:
                await running.run()
            finally:
                await items.put(ended)

        # Owned here: whatever ends the loop below, the task has ended before this function has.
        task = asyncio.create_task(work(), name=f"stream {spider.name}")
        try:
            while (item := await items.get()) is not ended:
                yield item
            await task
        finally:
            running.engine.stop("stopped")
            await _drain(task, items)


async def _drain(task: asyncio.Task[None], items: asyncio.Queue[Any]) -> None:
    """Wait for the crawl to end, taking the items nobody wants any more out of its way."""
    while not task.done():
        getting = asyncio.ensure_future(items.get())
        await asyncio.wait([task, getting], return_when=asyncio.FIRST_COMPLETED)
        getting.cancel()
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the crawl behind stream() failed: %s", error)


def run(spider: type[Spider], **options: Any) -> Result:
    """`crawl`, blocking, with Ctrl-C as on the command line: once to stop in good order, twice to stop at once.

    Raises RuntimeError where a loop is running already, as in a notebook: there `await crawl(...)` does it.
    """
    from crawler.signals import run_until_stopped

    if _is_in_loop():
        raise RuntimeError("run() blocks, and an event loop is running here already: use `await crawl(...)` instead")
    clock = options.pop("clock", None)
    opened = _crawl(
        spider,
        options.pop("args", None),
        options.pop("settings", None),
        options.pop("output", ()),
        overwrite=options.pop("overwrite", False),
        job=options.pop("job", None),
        fresh=options.pop("fresh", False),
        refresh=options.pop("refresh", False),
        only_changed=options.pop("only_changed", False),
        clock=clock,
        processes=options.pop("processes", 1),
    )
    if options:
        raise TypeError(f"run() has no option {', '.join(map(repr, options))}")
    return run_until_stopped(opened)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _crawl(
    spider: type[Spider],
    args: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
    output: Outputs,
    *,
    overwrite: bool = False,
    job: str | PathLike[str] | None = None,
    fresh: bool = False,
    refresh: bool = False,
    only_changed: bool = False,
    clock: Clock | None = None,
    on_item: Any = None,
    processes: int = 1,
) -> Crawl:
    if not (isinstance(spider, type) and issubclass(spider, Spider)):
        raise TypeError(f"expected a Spider subclass, not {spider!r}")
    layers = [setting.mapping_layer("settings=", settings)] if settings else []
    loaded = load_settings(spider, layers)
    targets = [output] if isinstance(output, (str, PathLike)) else list(output)
    return Crawl(
        spider(**(args or {})),
        loaded.settings,
        job=None if job is None else Path(job),
        outputs=[Output(fspath(target), overwrite) for target in targets],
        fresh=fresh,
        refresh=refresh,
        only_changed=only_changed,
        clock=clock,
        on_item=on_item,
        processes=processes,
        arguments=args,
    )
