"""The time for which the loop was held up: nobody's whose answer was not read meanwhile."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["LATE_SECONDS", "LostTime"]

_BEAT_SECONDS: Final = 0.25
"""So much of each stall goes unseen."""
LATE_SECONDS: Final = 0.1
"""What a busy loop is late by anyway."""
_STALLS_KEPT: Final = 100


class LostTime:
    """`lost.since(moment)`: the seconds for which this loop was held up since then, a time on its clock. Close it to
    stop its timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stalls: collections.deque[tuple[float, float]] = collections.deque(maxlen=_STALLS_KEPT)
        """When each was over, and how long it was."""
        self._due = loop.time()
        self._beat()

    def close(self) -> None:
        self._timer.cancel()

    def since(self, moment: float) -> float:
        now = self._loop.time()
        seen = sum(min(seconds, over - moment) for over, seconds in self._stalls if over > moment)
        late = now - max(self._due, moment)
        return seen + late if late > LATE_SECONDS else seen

    def _beat(self) -> None:
        now = self._loop.time()
        if now - self._due > LATE_SECONDS:
            self._stalls.append((now, now - self._due))
        self._due = now + _BEAT_SECONDS
        self._timer = self._loop.call_at(self._due, self._beat)

    @contextlib.asynccontextmanager
    async def within(self, seconds: float | None) -> AsyncIterator[None]:
        """`asyncio.timeout`, by time that was not lost. None and 0 are no limit."""
        if not seconds:
            yield
            return
        loop, limit = self._loop, asyncio.timeout(None)
        began = loop.time()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            now, due = loop.time(), began + seconds + self.since(began)
            if now < due:
                timer = loop.call_at(due, look)
            else:
                limit.reschedule(now)

        timer = loop.call_at(began + seconds, look)
        try:
            async with limit:
                yield
        finally:
            timer.cancel()
