"""The time for which the loop was held up: nobody's whose answer was not read meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["LATE_SECONDS", "LostTime"]

_BEAT_SECONDS: Final = 0.05
"""So much of each stall goes unseen; twenty timers a second are a fiftieth of a percent of a processor."""
LATE_SECONDS: Final = 0.1
"""What a busy loop is late by anyway."""


class LostTime:
    """`lost()`: the seconds for which this loop was held up since it was made. Close it to stop its timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lost = 0.0
        self._due = loop.time()
        self._beat()

    def __call__(self) -> float:
        late = self._loop.time() - self._due
        return self._lost + late if late > LATE_SECONDS else self._lost

    def close(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        self._lost = self()
        self._due = self._loop.time() + _BEAT_SECONDS
        self._timer = self._loop.call_at(self._due, self._beat)

    @contextlib.asynccontextmanager
    async def within(self, seconds: float | None) -> AsyncIterator[None]:
        """`asyncio.timeout`, by time that was not lost. None and 0 are no limit."""
        if not seconds:
            yield
            return
        loop, end, limit = self._loop, self._loop.time() + seconds - self(), asyncio.timeout(None)
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            now, due = loop.time(), end + self()
            if now < due:
                timer = loop.call_at(due, look)
            else:
                limit.reschedule(now)

        timer = loop.call_at(end + self(), look)
        try:
            async with limit:
                yield
        finally:
            timer.cancel()
