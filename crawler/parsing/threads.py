"""Threads that stay: to start one for each page takes longer than to hand a page over.

Where memory is short a thread may die at its birth, before it runs anything of ours. `threading.Thread.start` would
wait for it for ever, and with it the loop. So nobody waits for a birth; who gave work that nobody began says so.
"""

from __future__ import annotations

import _thread
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AGAIN_SECONDS", "Threads"]

AGAIN_SECONDS = 0.01
"""Until a thread that had no memory for the next step tries again."""


class Threads:
    """`threads.run(work)` runs it in the next of `number` threads that is free. `work` raises nothing.

    The process does not wait for them: after `close` each ends with what it is at."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._there = 0
        """Those that are taken for alive."""
        self._started = 0

    def run(self, work: Callable[[], None]) -> None:
        """Raises `RuntimeError` or `MemoryError` where there is no thread, and none can be started."""
        if self._there < self._number:
            try:
                _thread.start_new_thread(self._work, ())
            except (RuntimeError, MemoryError):
                if not self._there:
                    raise
            else:
                self._there += 1
                self._started += 1
        self._waiting.put(work)

    def died(self) -> None:
        """Work was not begun, although a thread should have been free. Another one is started for the next; one that
        was only late works as well."""
        self._there = max(0, self._there - 1)

    def close(self) -> None:
        for _ in range(self._started):
            self._waiting.put(None)
        self._there = self._started = 0

    def _work(self) -> None:
        while True:
            try:
                work = self._waiting.get()
            except MemoryError:
                time.sleep(AGAIN_SECONDS)
                continue
            if work is None:
                return
            work()
            del work  # and the page with it

    def __repr__(self) -> str:
        return f"<Threads {self._there}>"
