"""Running a crawl as the main thing of a process: its own loop, signals that stop it, one that asks what it is at."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from crawler.process import own_process, settle
from crawler.task_stacks import log_tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Any

    from crawler.assemble import Crawl, Result
    from crawler.engine import Engine
    from crawler.processes.parent import Parent

__all__ = ["run_in_loop", "run_until_stopped", "stops_on_signals"]

logger = logging.getLogger("crawler.job")
_T = TypeVar("_T")


def run_until_stopped(crawl: Crawl) -> Result:
    """Open, run and close a crawl. SIGINT or SIGTERM drains it, a second one stops it at once."""

    async def main() -> Result:
        async with crawl, stops_on_signals(crawl.engine):
            settle()
            return await crawl.run()

    return run_in_loop(main())


def run_in_loop(main: Coroutine[Any, Any, _T]) -> _T:
    """`asyncio.run` in a process of a crawl's own, on uvloop where that is installed (extra `speed`)."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with own_process(), asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)


@asynccontextmanager
async def stops_on_signals(engine: Engine | Parent) -> AsyncIterator[None]:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP drains the engine, the second one stops it at once;
    SIGUSR1 logs what all its tasks are at.

    Does nothing in a thread that is not the main one: Python hands signals to no other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    came: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        came.append(number)
        if len(came) == 1:
            logger.warning("%s: finishing what is in flight; once more to stop at once", number.name)
            engine.stop("interrupted")
        elif len(came) == 2:
            logger.warning("%s: stopping at once", number.name)
            engine.abort()

    # A closed terminal is a wish to stop like any other, unless somebody (nohup) said that it is not.
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    handled = (signal.SIGINT, signal.SIGTERM, *hangup)
    for number in handled:
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGUSR1, log_tasks)
    try:
        yield
    finally:
        for number in (*handled, signal.SIGUSR1):
            loop.remove_signal_handler(number)
