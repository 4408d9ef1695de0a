"""What all verbs need of a crawl in the engine: where its parts are, what time it is there, how a slot is addressed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from crawler.frontier.redis.connection import Call, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crawler.frontier.redis.connection import Engine
    from crawler.frontier.redis.keys import Config, Keys

__all__ = ["Crawl", "Session", "worker_of"]

NOBODY = "-"
"""Where a script of a shard asks for a session, and it is about none."""


class Session:
    """`NAME@GENERATION`: a worker's name, and which of its sessions."""

    __slots__ = ("generation", "id", "worker")

    def __init__(self, worker: str, generation: int) -> None:
        self.worker = worker
        self.generation = generation
        self.id = f"{worker}@{generation}"

    @classmethod
    def of(cls, id: str) -> Session:
        worker, _, generation = id.rpartition("@")
        return cls(worker, int(generation))


def worker_of(session: str) -> str:
    return session.rpartition("@")[0]


class Crawl:
    """`now` is the time where the caller owns it (tests, simulations); else the engine's counts, and `own_now` carries
    it on between two of its answers."""

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        config: Config,
        own_now: Callable[[], float],
        now: Callable[[], float] | None = None,
    ) -> None:
        self.engine = engine
        self.keys = keys
        self.config = config
        self._own_now = own_now
        self._now = now
        self._ahead = 0.0
        """What the engine's clock is ahead of ours, in seconds."""

    def hear(self, milliseconds: int) -> float:
        """A time that the engine said is its time now; in seconds."""
        seconds = milliseconds / 1000
        self._ahead = seconds - self._own_now()
        return seconds

    def now(self) -> float:
        """The engine's time, as far as it is known here."""
        return self._own_now() + self._ahead if self._now is None else self._now()

    def given_now(self) -> str:
        """For a script: empty where it is to look at the engine's clock."""
        return "" if self._now is None else f"{math.floor(self._now() * 1000)}"

    @property
    def shards(self) -> range:
        return range(self.config.shards)

    def on_shard(self, name: str, shard: int, session: str, *args: Any) -> Call:
        return run(name, self.keys.shard(shard), self.given_now(), session, self.config.order, *args)

    def on_worker(self, name: str, session: Session, *args: Any) -> Call:
        return run(name, self.keys.worker(session.worker), self.given_now(), session.generation, *args)

    def on_control(self, name: str, session: str, *args: Any) -> Call:
        return run(name, self.keys.control, session, *args)

    async def everywhere(self, calls: Iterable[Call]) -> list[Any]:
        return await self.engine.all(list(calls))


def milliseconds(seconds: float) -> int:
    """Rounded up: nothing happens earlier than it was said."""
    return math.ceil(seconds * 1000 - 1e-6)


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
