"""The time limits of exchanges under way, watched by one timer.

aiohttp sets a timer for each request and another one for each piece of data that arrives: a tenth of what a request
costs. Most exchanges end long before their limit, so here one look at all of them, a few times within the shortest
limit, has the same effect: the error is set on the connection, where whoever waits for it is woken with it.

A loop that was held up (by a callback that computes, say) has not read what has arrived meanwhile. So the time by which
a look comes late is nobody's: it does not count. `LostTime` sums it up for the exchanges that are not watched here:
`within` is their total, and `PatientProtocol` the connection whose pauses they are.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Deadlines", "LostTime", "PatientProtocol", "Watch"]

_LONGEST_BETWEEN_LOOKS: Final = 1.0
_LOOKS_PER_LIMIT: Final = 20
"""So a limit may be overrun by a twentieth of itself, and by no more than a second."""


_BEAT_SECONDS: Final = 0.25
"""So much of each stall goes unseen."""
_LATE_SECONDS: Final = 0.1
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
        return seen + late if late > _LATE_SECONDS else seen

    def _beat(self) -> None:
        now = self._loop.time()
        if now - self._due > _LATE_SECONDS:
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


class PatientProtocol(ResponseHandler):
    """A connection whose limit between two pieces of an answer begins anew when its timer came late: what has arrived
    meanwhile was not read."""

    def _on_read_timeout(self) -> None:
        timer = self._read_timeout_handle
        late = 0.0 if timer is None else self._loop.time() - timer.when()
        if late > max(_LATE_SECONDS, (self.read_timeout or 0.0) / _LOOKS_PER_LIMIT):
            self._reschedule_timeout()
        else:
            super()._on_read_timeout()


class Watch:
    """One exchange: tell it of the body's stream when there is one."""

    __slots__ = ("_seen", "_since", "began", "content", "protocol")

    def __init__(self, protocol: ResponseHandler, began: float, now: float) -> None:
        self.protocol = protocol
        self.began = began
        """On the loop's clock: when the request was first worked at."""
        self.content: aiohttp.StreamReader | None = None
        self._seen = -1
        self._since = now

    def idle_seconds(self, now: float) -> float:
        """How long ago something was last seen to arrive: the headers, or more of the body."""
        seen = -1 if self.content is None else self.content.total_raw_bytes
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since

    def forgive(self, seconds: float) -> None:
        self.began += seconds
        self._since += seconds

    def fail(self, error: Exception) -> None:
        """Whoever waits for this exchange raises `error`."""
        self.protocol.set_exception(error)
        if self.content is not None:
            self.content.set_exception(error)


class Deadlines:
    """`add` when a request goes out, `discard` when its exchange has ended, however.

    `total_seconds` from `began` gives `TimeoutError`, `read_seconds` in which nothing arrives
    `aiohttp.SocketTimeoutError`, as aiohttp has them; 0 and None are no limit.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, total_seconds: float | None, read_seconds: float | None
    ) -> None:
        self._loop = loop
        self._total = total_seconds or float("inf")
        self._read = read_seconds or float("inf")
        self._between = min(_LONGEST_BETWEEN_LOOKS, min(self._total, self._read) / _LOOKS_PER_LIMIT)
        self._watched: set[Watch] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, protocol: ResponseHandler, began: float) -> Watch:
        now = self._loop.time()
        watch = Watch(protocol, began, now)
        self._watched.add(watch)
        if self._timer is None:
            self._look_later(now)
        return watch

    def discard(self, watch: Watch) -> None:
        self._watched.discard(watch)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._loop.time()
        late = now - self._due
        for watch in list(self._watched):
            if late > self._between:
                watch.forgive(late)
            if now - watch.began >= self._total:
                self._watched.discard(watch)
                watch.fail(TimeoutError())
            elif watch.idle_seconds(now) >= self._read:
                self._watched.discard(watch)
                watch.fail(aiohttp.SocketTimeoutError("nothing arrives"))
        self._timer = None
        if self._watched:
            self._look_later(now)

    def _look_later(self, now: float) -> None:
        self._due = now + self._between
        self._timer = self._loop.call_at(self._due, self._look)

    def __repr__(self) -> str:
        return f"<Deadlines watched={len(self._watched)}>"
