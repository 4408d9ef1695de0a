"""Who holds up the loop: a thread that looks whether the loop still comes round, and names what it is busy with if not.

One call that blocks (`time.sleep`, a query over a synchronous driver, a regular expression that never ends) stops every
page of the crawl, and looks from outside like a slow web. The loop notes the time a few times a second; when it is
overdue by a second, the thread takes the stack of the loop's own thread and logs one warning, and another line with the
whole length when the loop is free again.

It must not cry wolf. A process that was stopped (SIGSTOP, a debugger, a suspended machine) or not given a processor
stopped the thread as well: having overslept, it forgives the loop as much. Unless the processor was ours meanwhile:
code that keeps the interpreter's lock, as `re` does, stops the thread while it computes, so of that the warning can
only come when it is over. And a loop that waits for its sockets is not blocked, whatever the clock says.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["Watchdog", "described", "place"]

logger = logging.getLogger("crawler.watchdog")

_BEAT_SECONDS = 0.25
STALL_SECONDS = 1.0
"""Blocked for so long, a loop is worth a word: a callback with a large page takes a twentieth of that."""
_OVERSLEPT_SECONDS = 0.5
"""The watching thread itself woke so late that somebody must have stopped it."""
_MOST_FRAMES = 6
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_DEBUGGERS = frozenset({"bdb", "pdb", "pydevd", "debugpy", "ipdb", "pudb"})
_LOOPS = frozenset({"asyncio", "selectors", "uvloop"})


class Watchdog:
    """Within the block the running loop is watched. `on_stall(seconds)` is called on it after each stall that was
    told; `name` is the spider's.

    Costs four timers and four looks a second, nothing a page.
    """

    def __init__(self, name: str, on_stall: Callable[[float], None]) -> None:
        self._name = name
        self._on_stall = on_stall
        self._due = 0.0
        """When the loop is to come round next."""
        self._told: float | None = None
        """The `_due` of the stall that was told, as long as it lasts."""
        self._ended = threading.Event()

    def __enter__(self) -> Watchdog:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._due = time.monotonic()
        self._beat()
        # In the crawl's own context, so that its lines come into its job's log.
        watch = contextvars.copy_context().run
        self._thread = threading.Thread(target=watch, args=(self._watch,), name=f"watchdog {self._name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        now, due = time.monotonic(), self._due
        self._due = now + _BEAT_SECONDS
        self._timer = self._loop.call_later(_BEAT_SECONDS, self._beat)
        if self._told == due:
            logger.warning("%s: the loop was blocked for %.1f s, and is free again", self._name, now - due)
            self._on_stall(now - due)

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        forgiven_until = 0.0
        looked, worked = time.monotonic(), time.process_time()
        while not self._ended.wait(_BEAT_SECONDS):
            now, busy = time.monotonic(), time.process_time()
            overslept = now - looked - _BEAT_SECONDS
            if overslept > _OVERSLEPT_SECONDS and busy - worked < overslept / 2:
                forgiven_until = now
            self._look(now, forgiven_until)
            looked, worked = now, busy

    def _look(self, now: float, forgiven_until: float) -> None:
        due = self._due
        blocked = now - max(due, forgiven_until)
        if due != self._told and blocked >= STALL_SECONDS:
            offender = described(sys._current_frames().get(self._thread_id))
            if offender:
                self._told = due
                logger.warning(
                    "%s: the loop has been blocked for %.1f s by %s. Nothing else runs meanwhile: "
                    "await what waits, and give what computes to asyncio.to_thread",
                    self._name, blocked, offender,
                )  # fmt: skip


def described(frame: FrameType | None) -> str:
    """What a thread is busy with, outermost first: `parse (spiders/books.py:31) > price (spiders/prices.py:7)`.

    Only the user's code and what it calls; our own where nobody else's is there. Empty where a loop only waits, and
    under a debugger.
    """
    stack = list(_step(frame))
    if any(_library(each) in _DEBUGGERS for each in stack):
        return ""
    shown = [each for each in stack if not _is_ours(each)] or stack[:1]
    return " > ".join(place(each) for each in reversed(shown[:_MOST_FRAMES]))


def _step(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames that a loop's step is made of, innermost first: none where it waits for its sockets."""
    while frame is not None and _library(frame) not in _LOOPS:
        yield frame
        frame = frame.f_back


def _library(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_ours(frame: FrameType) -> bool:
    return os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE)


def place(frame: FrameType) -> str:
    """`parse (spiders/books.py:31)`."""
    name, path = frame.f_code.co_name, frame.f_code.co_filename
    with contextlib.suppress(OSError):  # the working folder is gone
        near = os.path.relpath(path) if os.path.isabs(path) else path
        path = path if near.startswith("..") else near
    return f"{name} ({path}:{frame.f_lineno})"
