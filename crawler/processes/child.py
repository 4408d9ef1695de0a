"""A child: the engine of a crawl, whose frontier and outputs are its parent's.

It is started by its parent with one end of a socket, and ends when its work does, when the parent says so, and when the
parent is gone. Signals of a terminal are the parent's. What it logs goes there; what it prints is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import CrawlerError, EngineUnavailable, UsageError, first_cause, message_of
from crawler.frontier.at_work import AtWork
from crawler.frontier.shared import SharedFrontier
from crawler.processes.frames import EXIT_CUT_OFF, Frames
from crawler.processes.packing import Packing, Parcels
from crawler.processes.remote import Link, Pulse, RemoteBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crawler.contracts import Lease
    from crawler.engine import Engine
    from crawler.processes.origin import Origin

__all__ = ["main"]

logger = logging.getLogger("crawler.processes")

_PATIENCE_SECONDS = 10.0
"""For the end of what runs when the parent is gone."""


def main(socket_number: int, note_number: int) -> None:
    """Run with a connected socket, and a file that says who is at work."""
    from crawler.signals import run_in_loop

    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the parent, which says what to do
    try:
        run_in_loop(_run(socket.socket(fileno=socket_number), note_number))
    except EngineUnavailable:  # the parent is gone, or has given what this one had to others
        sys.exit(EXIT_CUT_OFF)


async def _run(end: socket.socket, note: int) -> None:
    link = Link(await Frames.over(end))
    try:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(link.run(), name="parent")
            listening.add_done_callback(lambda _: _leave_in_time())
            await _Child(link, AtWork(note)).work()
            listening.cancel()
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None


def _leave_in_time() -> None:
    """Nobody waits for this process any more, whatever its code is at."""
    asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, os._exit, 1)


class _Frontier(SharedFrontier):
    """One that notes for its parent who is at work."""

    def __init__(self, note: AtWork, broker: RemoteBroker, **options: Any) -> None:
        super().__init__(broker, **options)
        self._at_work = note

    def at_work(self, lease: Lease | None) -> None:
        self._at_work.note(0 if lease is None else lease.fingerprint)

    def stays_at_work(self) -> Callable[[], None]:
        return self._at_work.keep()


class _Child:
    def __init__(self, link: Link, note: AtWork) -> None:
        self._link = link
        self._note = note
        self._engine: Engine | None = None
        self._said: list[tuple[str, msgspec.Raw]] = []
        """What the parent wanted before there was an engine."""
        self._taken, self._at = time.process_time(), time.monotonic()
        link.on_word = self._hear

    async def work(self) -> None:
        from crawler.processes.origin import Origin

        self._note.begin()
        try:
            origin: Origin = await self._link.call("hello", os.getpid(), Origin)
            with _logged(self._link, origin.levels):
                reason = await self._crawl(origin)
            await self._link.call("ended", reason)
        except (EngineUnavailable, asyncio.CancelledError):
            raise
        except Exception as error:
            told = isinstance(error, CrawlerError)
            where = "" if told else "".join(traceback.format_exception(error))
            await self._link.call("broken", (isinstance(error, UsageError), message_of(error), where, time.time()))
        finally:
            self._note.end()

    async def _crawl(self, origin: Origin) -> str:
        from crawler.clock import SystemClock
        from crawler.loader import load_spider
        from crawler.process import settle
        from crawler.rooms import Ends, Rooms
        from crawler.stats import Stats
        from crawler.url import Fingerprinter
        from crawler.watchdog import Watchdog

        settings = origin.made_settings()
        spider = load_spider(origin.spider, Path())(**origin.made_arguments())
        clock, rng, parcels, letters = SystemClock(), Random(), Parcels(), Parcels()
        job = None if origin.job is None else Path(origin.job)
        rooms = Rooms(spider, settings, clock=clock, rng=rng, job=job)
        broker = RemoteBroker(self._link, parcels, letters)
        async with contextlib.AsyncExitStack() as stack:
            frontier = _Frontier(
                self._note,
                broker,
                clock=clock,
                rule=rooms.rule,
                rng=rng,
                group=rooms.group,
                concurrency=settings.crawl.concurrency,
                page_limit=settings.crawl.page_limit,
                settles=settings.crawl.pages_per_host > 0,
            )
            await stack.enter_async_context(frontier)
            stats = Stats(spider.name, clock.now())
            ends = Ends(exporters=[parcels], refused=letters, keys=["items", "refused"], passage=Packing)
            key = Fingerprinter(frontier.get("key") or b"")
            engine = self._engine = await rooms.open(stack, frontier, key, stats, ends)
            stack.enter_context(Watchdog(spider.name, stats.stalled))
            broker.pulse = self._pulse
            for said in self._said:
                self._hear(*said)
            settle()
            return await engine.run()

    def _hear(self, word: str, content: msgspec.Raw) -> None:
        if self._engine is None:
            self._said.append((word, content))
        elif word == "stop":
            self._engine.stop(msgspec.msgpack.decode(content, type=str))
        elif word == "abort":
            self._engine.abort()

    def _pulse(self) -> Pulse:
        assert self._engine is not None
        seen = self._engine.snapshot()
        taken, at = time.process_time(), time.monotonic()
        load = (taken - self._taken) / max(at - self._at, 1e-9)
        self._taken, self._at = taken, at
        waits = seen["waits"]
        counts = (waits["ready"], waits["delayed"], waits["full"], waits["paused"])
        return Pulse(seen["in_flight"], int(seen["limited_by"] != "concurrency"), counts, load)


# -- the log -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _logged(link: Link, levels: tuple[int, int]) -> Iterator[None]:
    """Within the block every line goes to the parent."""
    handler = _ToParent(link, asyncio.get_running_loop())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(levels[0])
    logging.getLogger("crawler").setLevel(levels[1])
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)


class _ToParent(logging.Handler):
    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._link = link
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        from crawler.log import told

        line = (record.name, record.levelno, record.created, told(record), _traceback(record))
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._link.tell("log", line)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._link.tell, "log", line)


def _traceback(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
