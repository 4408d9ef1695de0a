"""The time limits of exchanges under way, watched by one timer.

aiohttp sets a timer for each request and another one for each piece of data that arrives: a tenth of what a request
costs. Most exchanges end long before their limit, so here one look at all of them, a few times within the shortest
limit, has the same effect: the error is set on the connection, where whoever waits for it is woken with it.

A loop that was held up (by a callback that computes, say) has not read what has arrived meanwhile. So the time by which
a look comes late is nobody's: it does not count. (`lost_time` has it for the exchanges that are not watched
here, and `Wire` for the pauses between their pieces.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import aiohttp

if TYPE_CHECKING:
    import asyncio

    from aiohttp.client_proto import ResponseHandler

    from crawler.contracts import Room

__all__ = ["LOOKS_PER_LIMIT", "Deadlines", "Speed", "TooSlow", "Watch"]

_LONGEST_BETWEEN_LOOKS: Final = 1.0
LOOKS_PER_LIMIT: Final = 20
"""So a limit may be overrun by a twentieth of itself, and by no more than a second."""


class Speed(NamedTuple):
    """How slow a body may be: 0 for either is no limit."""

    bytes_per_second: float = 0
    seconds: float = 0


class TooSlow(aiohttp.ServerTimeoutError):
    """Fewer bytes than `Speed` asks for."""


class Watch:
    """One exchange: tell it of the body's stream when there is one."""

    __slots__ = ("_had", "_had_at", "_seen", "_since", "began", "content", "is_held", "protocol")

    def __init__(self, protocol: ResponseHandler, began: float, now: float) -> None:
        self.protocol = protocol
        self.began = began
        """On the loop's clock: when the request was first worked at."""
        self.content: aiohttp.StreamReader | None = None
        self.is_held = False
        """We do not read on, for reasons of our own: nothing of it is the server's fault."""
        self._seen = -1
        self._since = now
        self._had = -1
        self._had_at = now

    async def held(self, room: Room, size: int) -> None:
        """`await room(size)`, in time that does not count."""
        self.is_held = True
        try:
            await room(size)
        finally:
            self.is_held = False

    def idle_seconds(self, now: float) -> float:
        """How long ago something was last seen to arrive: the headers, or more of the body."""
        seen = -1 if self.content is None else self.content.total_raw_bytes
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since

    def is_slower_than(self, speed: Speed, now: float) -> bool:
        """Whether the body grew by too little in the last `speed.seconds`; asked once they are over, and anew after as
        many again. A body that is all there is not slow, whatever is done with it."""
        if self.content is None or self.content.is_eof():
            return False
        if self._had < 0:
            self._had, self._had_at = 0, now
        if now - self._had_at < speed.seconds:
            return False
        has = self.content.total_raw_bytes
        grown = has - self._had
        self._had, self._had_at = has, now
        return grown < speed.bytes_per_second * speed.seconds

    def forgive(self, seconds: float) -> None:
        self.began += seconds
        self._since += seconds
        self._had_at += seconds

    def fail(self, error: Exception) -> None:
        """Whoever waits for this exchange raises `error`."""
        self.protocol.set_exception(error)
        if self.content is not None:
            self.content.set_exception(error)


class Deadlines:
    """`add` when a request goes out, `discard` when its exchange has ended, however.

    `total_seconds` from `began` gives `TimeoutError`, `read_seconds` in which nothing arrives
    `aiohttp.SocketTimeoutError`, as aiohttp has them; 0 and None are no limit. A body that is slower than `least_speed`
    for its seconds gives `TooSlow`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        total_seconds: float | None,
        read_seconds: float | None,
        least_speed: Speed = Speed(),  # noqa: B008 - a value
    ) -> None:
        self._loop = loop
        self._total = total_seconds or float("inf")
        self._read = read_seconds or float("inf")
        self._speed = least_speed if least_speed.bytes_per_second and least_speed.seconds else None
        shortest = min(self._total, self._read, self._speed.seconds if self._speed else float("inf"))
        self._between = min(_LONGEST_BETWEEN_LOOKS, shortest / LOOKS_PER_LIMIT)
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
            if watch.is_held:
                watch.forgive(self._between + late)
            elif late > self._between:
                watch.forgive(late)
            if now - watch.began >= self._total:
                self._watched.discard(watch)
                watch.fail(TimeoutError())
            elif watch.idle_seconds(now) >= self._read:
                self._watched.discard(watch)
                watch.fail(aiohttp.SocketTimeoutError("nothing arrives"))
            elif self._speed is not None and watch.is_slower_than(self._speed, now):
                self._watched.discard(watch)
                watch.fail(TooSlow("too few bytes arrive"))
        self._timer = None
        if self._watched:
            self._look_later(now)

    def _look_later(self, now: float) -> None:
        self._due = now + self._between
        self._timer = self._loop.call_at(self._due, self._look)

    def __repr__(self) -> str:
        return f"<Deadlines watched={len(self._watched)}>"
