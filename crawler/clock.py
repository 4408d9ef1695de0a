"""The real clock. Everything that decides by time takes `now` from one; tests use `crawler.testing.FakeClock`."""

from __future__ import annotations

import asyncio
import contextlib
import time

__all__ = ["SystemClock"]


class SystemClock:
    """Unix time that cannot jump: read once at the start, carried on by the monotonic clock.

    A corrected system clock neither stalls a crawl nor makes it rush; a restart reads the wall clock anew.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        if seconds is None:
            await event.wait()
        elif seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
        else:
            await asyncio.sleep(0)
