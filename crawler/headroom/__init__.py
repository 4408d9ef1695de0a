"""Where memory is limited, a crawl takes no more pages than fit: no new ones are begun while four fifths of the limit
are in use, and large bodies are read one after the other rather than all at once.

The first alone would not do: a crawl with nothing in memory begins a page for each of its workers, and all of them may
turn out to be of ten megabytes, each of which takes twelve times as much while it is parsed. So whoever reads a body
asks for room when it has become large, for what it may come to need, before it goes on; that room stays taken until the
page has ended. What a body will need is guessed from above, so that the guess holds (`crawler.download.body`).

Nothing here can stop a crawl. One page may always go on; and the oldest one that waits goes on, whatever is in use,
when nobody else does, or when nothing has moved for seconds, as where a callback waits for a page of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from crawler.headroom.limits import Limit, limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Headroom", "Limit", "limits"]

logger = logging.getLogger("crawler.memory")

_SHARE: Final = 0.8
"""Of a limit; the rest is for what is between two looks, and for what nobody asks for."""
_LOOK_SECONDS, _IDLE_SECONDS = 0.1, 1.0
"""Between two looks; while less than half of the limit is in use."""
_PATIENCE_SECONDS: Final = 2.0


class Headroom:
    """Within the block memory is looked at ten times a second, or once while there is much of it. `of` are the limits
    (`limits()`); with none of them nothing is watched, and nothing waits.

    `is_scarce`: no page is to be begun, unless there is none. `on_relief` is called when that is over.
    """

    def __init__(self, of: Sequence[Limit]) -> None:
        self.is_scarce = False
        self.on_relief: Callable[[], None] = lambda: None
        self.used = self.limit = 0
        """In bytes, of the limit of which most is in use; at the last look."""
        self.taken: dict[asyncio.Task[Any], int] = {}
        """Bytes that a task's page may come to need."""
        self._of = list(of)
        self._what = ""
        self._waiting: deque[tuple[asyncio.Task[Any], int, asyncio.Future[None]]] = deque()
        self._moved = self._looked = 0.0
        self._told: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Headroom:
        self._loop = asyncio.get_running_loop()
        if self._of:
            self._beat()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._of.clear()
        self._admit()

    async def room(self, size: int) -> None:
        """Wait until `size` bytes may be used, until the task has ended or `leave` was called for it. A task's second
        call replaces what it asked for before."""
        task = asyncio.current_task()
        if task is None or not self._of:
            return
        if self._loop.time() - self._looked >= _LOOK_SECONDS:
            self._look()
        if task not in self.taken:
            task.add_done_callback(self.leave)
        self.taken.setdefault(task, 0)
        turn: asyncio.Future[None] = self._loop.create_future()
        waits = (task, size, turn)
        if not self._waiting:
            self._moved = self._loop.time()
        self._waiting.append(waits)
        self._admit()
        try:
            await turn
        finally:
            if waits in self._waiting:
                self._waiting.remove(waits)

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Its page has ended."""
        if self.taken.pop(task, None) is not None:
            task.remove_done_callback(self.leave)
            self._admit()

    def _beat(self) -> None:
        self._look()
        is_idle = 2 * self.used < self.limit and not self._waiting
        self._timer = self._loop.call_later(_IDLE_SECONDS if is_idle else _LOOK_SECONDS, self._beat)
        if self._waiting:
            self._admit()

    def _look(self) -> None:
        self._looked = self._loop.time()
        used = []
        for limit in list(self._of):
            try:
                used.append((limit.used() / limit.bytes, limit))
            except (OSError, ValueError):  # a cgroup that is gone
                self._of.remove(limit)
        if not used:
            self.is_scarce = False
            return
        share, limit = max(used, key=lambda found: found[0])
        self.used, self.limit, self._what = int(share * limit.bytes), limit.bytes, limit.what
        was_scarce, self.is_scarce = self.is_scarce, share > _SHARE
        if self.is_scarce:
            self._tell("memory is short", "no page is begun until some have ended")
        elif was_scarce:
            self.on_relief()

    @property
    def is_short(self) -> bool:
        """Whether somebody waits for memory."""
        return self.is_scarce or bool(self._waiting)

    @property
    def free(self) -> int:
        """Bytes up to four fifths of the limit that are neither in use nor taken. What is taken may be in use already:
        then it counts twice."""
        return int(self.limit * _SHARE) - self.used - sum(self.taken.values())

    def spare(self) -> int | None:
        """Bytes that another process of ours may use here and now, which is part of the cgroup as well; None: as many
        as it likes."""
        left = [limit.bytes * _SHARE - limit.used() for limit in self._of if limit.what == "cgroup"]
        return max(0, int(min(left))) if left else None

    def _admit(self) -> None:
        while self._waiting:
            task, size, turn = self._waiting[0]
            if not turn.done():
                if not (self._fits(size - self.taken.get(task, 0)) or self._is_alone(task)):
                    self._tell("memory may become short", "large pages wait for each other")
                    return
                self.taken[task] = size
                turn.set_result(None)
            self._moved = self._loop.time()
            self._waiting.popleft()

    def _fits(self, more: int) -> bool:
        return not self._of or more <= self.free

    def _is_alone(self, task: asyncio.Task[Any]) -> bool:
        """Whether it has to go on, since nobody else does."""
        if self._loop.time() - self._moved >= _PATIENCE_SECONDS:
            return True
        waiting = {other for other, *_ in self._waiting}
        return all(other in waiting or not size for other, size in self.taken.items())

    def _tell(self, what: str, effect: str) -> None:
        """Each once."""
        if what not in self._told:
            self._told.add(what)
            logger.warning(
                "%s: %d of %d MiB (%s) are in use, and %s. Give the crawl more memory, or lower crawl.concurrency or "
                "http.max_body_bytes",
                what, self.used >> 20, self.limit >> 20, self._what, effect,
            )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """In bytes; `limit` is 0 where there is none."""
        return {"used_bytes": self.used, "limit_bytes": self.limit, "is_short": self.is_short}

    def __repr__(self) -> str:
        state = "scarce" if self.is_scarce else "enough"
        return f"<Headroom {state} {self.used >> 20}/{self.limit >> 20} MiB waiting={len(self._waiting)}>"
