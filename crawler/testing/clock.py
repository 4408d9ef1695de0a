"""A clock that tests own."""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["FakeClock"]

# Turns of the loop, and not only a time: on a busy machine twenty milliseconds may pass without one.
_TURNS = 10
_TURN_SECONDS = 0.002


class FakeClock:
    """A clock that tests own. Sleeping on it takes no time and moves it forward, so a crawl with long delays runs at
    once."""

    def __init__(self, start: float = 1_000_000_000.0) -> None:
        self._now = start
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._now += max(0.0, seconds)
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Real events keep their real time: the clock only jumps when the loop has had time to bring one."""
        if seconds is None:
            await event.wait()
            return
        for _ in range(_TURNS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TURN_SECONDS):
                    await event.wait()
            if event.is_set():
                return
        self._now += max(0.0, seconds)
