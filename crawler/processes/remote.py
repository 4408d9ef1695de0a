"""A child's way to its parent: questions and answers over one socket, and `Broker` by them."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import EngineUnavailable, SessionLost
from crawler.frontier.broker import Ask, Given, News, Session, WorkerEpoch
from crawler.processes.frames import Frame, Frames, body

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.processes.packing import Parcels

__all__ = ["Link", "Pulse", "RemoteBroker"]


class Pulse(msgspec.Struct, array_like=True, frozen=True):
    """How a child is doing."""

    in_flight: int = 0
    idle: int = 0
    """Of those that could be."""
    waits: tuple[int, int, int, int] = (0, 0, 0, 0)
    """See `Waits`."""
    load: float = 0.0
    """Of one processor."""


class Link:
    """`await link.call(verb, …)` while `link.run()` runs. `on_word` is called with what the parent says by itself."""

    def __init__(self, frames: Frames) -> None:
        self.on_word: Callable[[str, msgspec.Raw], None] = lambda verb, content: None
        self._frames = frames
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._is_closed = False

    async def run(self) -> None:
        """Until the parent is gone."""
        try:
            while (frame := await self._frames.next()) is not None:
                if not frame.id:
                    self.on_word(frame.verb, frame.body)
                elif (waiting := self._waiting.pop(frame.id, None)) is not None and not waiting.done():
                    waiting.set_result(frame)
        finally:
            self._is_closed = True
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(_gone())

    async def call(self, verb: str, content: Any, answer: Any = Any) -> Any:
        """The answer, as a value of this type. Raises `SessionLost`, and `EngineUnavailable` if that is gone."""
        if self._is_closed:
            raise _gone()
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._frames.write(Frame(number, verb, body(content)))
        try:
            frame = await waiting
        finally:
            self._waiting.pop(number, None)
        if frame.verb == "lost":
            raise SessionLost(msgspec.msgpack.decode(frame.body, type=str))
        return msgspec.msgpack.decode(frame.body, type=answer)

    def tell(self, verb: str, content: Any) -> None:
        """Without an answer."""
        if not self._is_closed:
            self._frames.write(Frame(0, verb, body(content)))


def _gone() -> EngineUnavailable:
    return EngineUnavailable("the process that has the frontier is gone")


class RemoteBroker:
    """`crawler.frontier.broker.Broker` of a child. With an epoch goes what is in `parcels`, with a renewal `pulse`."""

    def __init__(self, link: Link, *parcels: Parcels) -> None:
        self.pulse: Callable[[], Pulse] = Pulse
        self._link = link
        self._parcels = parcels

    async def __aenter__(self) -> RemoteBroker:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def join(self) -> Session:
        session: Session = await self._link.call("join", None, Session)
        return session

    async def renew(self) -> News:
        news: News = await self._link.call("renew", self.pulse(), News)
        return news

    async def ask(self, ask: Ask) -> Given:
        given: Given = await self._link.call("ask", ask, Given)
        return given

    async def commit(self, epoch: WorkerEpoch) -> int:
        """0: the parent counts those that it knew."""
        for parcels in self._parcels:
            for batch in parcels.batches():
                await self._link.call("items", batch)
        await self._link.call("commit", epoch)
        return 0

    async def reach(self, key: str, fingerprint: int, task: str) -> bool:
        return bool(await self._link.call("reach", (key, fingerprint, task), bool))

    async def claim_start(self) -> bool:
        return bool(await self._link.call("claim_start", None, bool))

    async def take_allowance(self, pages: int) -> int:
        return int(await self._link.call("take_allowance", pages, int))

    async def is_done(self) -> bool:
        return bool(await self._link.call("is_done", None, bool))

    async def finish(self, reason: str) -> None:
        await self._link.call("finish", reason)

    async def leave(self) -> None:
        await self._link.call("leave", None)
