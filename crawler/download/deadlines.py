"""The time limits of exchanges under way, watched by one timer.

aiohttp sets a timer for each request and another one for each piece of data that arrives: a tenth of what a request
costs. Most exchanges end long before their limit, so here one look at all of them, a few times within the shortest
limit, has the same effect: the error is set on the connection, where whoever waits for it is woken with it.

A loop that was held up (by a callback that computes, say) has not read what has arrived meanwhile. So the time by which
a look comes late is nobody's: it does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import aiohttp

if TYPE_CHECKING:
    import asyncio

    from aiohttp.client_proto import ResponseHandler

__all__ = ["Deadlines", "Watch"]

_LONGEST_BETWEEN_LOOKS: Final = 1.0
_LOOKS_PER_LIMIT: Final = 20
"""So a limit may be overrun by a twentieth of itself, and by no more than a second."""


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
