"""Threads that stay: to start one for each page takes longer than to hand a page over."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Threads"]


class Threads:
    """`threads.run(work)` runs it in the next of `number` threads that is free; they are started for the first. `work`
    raises nothing.

    They are daemons, and nobody waits for them: after `close` each ends with what it is at."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._are_there = False

    def run(self, work: Callable[[], None]) -> None:
        if not self._are_there:
            self._are_there = True
            for _ in range(self._number):
                threading.Thread(target=self._work, name="crawler-parsing", daemon=True).start()
        self._waiting.put(work)

    def close(self) -> None:
        if self._are_there:
            self._are_there = False
            for _ in range(self._number):
                self._waiting.put(None)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()
            del work  # and the page with it

    def __repr__(self) -> str:
        return f"<Threads {self._number if self._are_there else 0}>"
