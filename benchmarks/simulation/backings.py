"""What the workers of a simulation share: a Redis of its own, or the local frontier as `--processes` lends it."""

from __future__ import annotations

import contextlib
import time
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from engines import Engine
from simulation.direct import DirectEngine, Line, preferred
from simulation.workers import rule_of
from simulation.world import PLACES

from crawler.epochs import EPOCH_SECONDS, SYNC_SECONDS
from crawler.frontier.disk import DiskStore
from crawler.frontier.lending import Lending, LendingBroker
from crawler.frontier.loans import quota
from crawler.frontier.local import LocalFrontier
from crawler.frontier.memory import MemoryStore
from crawler.frontier.redis import RedisBroker, operate
from crawler.frontier.redis import lending as redis_lending
from crawler.settings import FrontierSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from simulation.workers import Worker
    from simulation.world import World

    from crawler.frontier.broker import Ask, Broker, Given, News, WorkerEpoch

__all__ = ["Backing", "LocalBacking", "RedisBacking"]

_CRAWL = "simulated"


class Backing(Protocol):
    asked: int
    """For requests."""
    empty: int
    """Asks that gave none."""
    lapsed: int
    """Requests that dead workers had. After `settle`."""
    urls: int
    """Known in the end. After `settle`."""
    bytes: int | None
    """That they take. After `settle`."""

    async def __aenter__(self) -> Backing: ...

    async def __aexit__(self, *exc: object) -> None: ...

    def broker(self, number: int, rng: Random) -> Broker: ...

    @property
    def cpu_seconds(self) -> float: ...

    def begin(self) -> None:
        """The seeds are there."""
        ...

    def lose(self, worker: Worker) -> None:
        """It is dead."""
        ...

    async def settle(self) -> None: ...


class RedisBacking:
    """The real scripts. A dead worker is found by the others when its lease is over."""

    def __init__(self, world: World, folder: Path) -> None:
        self.asked = self.empty = self.lapsed = self.urls = 0
        self.bytes: int | None = None
        self._world = world
        self._engine = Engine(folder)
        self._rendezvous = redis_lending.preferred
        self.line: Line

    async def __aenter__(self) -> RedisBacking:
        await self._engine.__aenter__()
        self.line = Line(self._engine.port)
        redis_lending.preferred = preferred
        return self

    async def __aexit__(self, *exc: object) -> None:
        redis_lending.preferred = self._rendezvous
        self.line.close()
        await self._engine.__aexit__(*exc)

    def broker(self, number: int, rng: Random) -> Broker:
        load, clock = self._world.load, self._world.clock
        settings = FrontierSettings(
            url=self._engine.url, lease_seconds=load.lease, shards=load.shards, expected_urls=max(1000, load.hosts * 4)
        )
        return _RedisBroker(
            self, settings, worker=f"w{number}", crawl=_CRAWL, spider=_CRAWL, order="breadth", group_by="host",
            page_limit=0, quota=quota(load.delay), places=PLACES, shared_places=0, concurrency=load.concurrency,
            delay=load.delay, clock=clock, rng=rng, now=clock.now,
        )  # fmt: skip

    @property
    def cpu_seconds(self) -> float:
        return self._engine.cpu_seconds

    def begin(self) -> None:
        pass

    def lose(self, worker: Worker) -> None:
        pass

    async def settle(self) -> None:
        self.bytes = int(self.line.client.info("memory")["used_memory"])
        report = await operate.report(FrontierSettings(url=self._engine.url), crawl=_CRAWL)
        self.lapsed = int(report["events"].get("lapsed", 0))
        self.urls = int(report["counts"]["added"])


class _RedisBroker(RedisBroker):
    def __init__(self, backing: RedisBacking, settings: FrontierSettings, **options: Any) -> None:
        super().__init__(settings, **options)
        self._backing = backing
        self._engine = DirectEngine(
            backing.line,
            f"{settings.url}",
            patience=settings.lease_seconds,
            allow_unprotected=False,
            sleep=options["clock"].sleep,
            rng=options["rng"],
        )

    async def ask(self, ask: Ask) -> Given:
        given = await super().ask(ask)
        _count(self._backing, ask, given)
        return given


class LocalBacking:
    """A `LocalFrontier` on disk, or in memory, lent as a parent process does it: without the sockets between, and with
    what it does by its clock. It hears of a worker's death at once. CPU is that of its calls."""

    def __init__(self, world: World, folder: Path, *, on_disk: bool) -> None:
        self.asked = self.empty = self.lapsed = self.urls = 0
        self.bytes: int | None = None
        self.cpu_seconds = 0.0
        self._world = world
        self._file = folder / "frontier" / "data.mdb" if on_disk else None
        rule = rule_of(world.load.delay)
        self._frontier = LocalFrontier(
            MemoryStore() if self._file is None else DiskStore(self._file.parent),
            rule=lambda host: rule,
            rng=Random(f"{world.load.seed} frontier"),
        )
        self._lending = Lending(
            self._frontier,
            clock=world.clock,
            key=b"k" * 16,
            workers=world.load.workers,
            lease_seconds=world.load.lease,
            commit=self._take,
        )

    async def __aenter__(self) -> LocalBacking:
        await self._frontier.__aenter__()
        self._frontier.resume(self._world.clock.time)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._frontier.__aexit__(*exc)

    def broker(self, number: int, rng: Random) -> Broker:
        return _LocalBroker(self, self._lending, f"{number}")

    @contextlib.contextmanager
    def metered(self) -> Iterator[None]:
        before = time.thread_time()
        yield
        self.cpu_seconds += time.thread_time() - before

    async def _take(self, worker: Any, epoch: WorkerEpoch) -> int:
        return self._lending.take(worker, epoch).known

    def begin(self) -> None:
        self._world.later(self._world.clock.time, self._close_epoch)
        self._world.later(self._world.clock.time, self._sync)

    async def _close_epoch(self) -> None:
        with self.metered():
            await self._frontier.commit({}, self._world.clock.time)
        self._world.later(self._world.clock.time + EPOCH_SECONDS, self._close_epoch)

    async def _sync(self) -> None:
        await self._frontier.sync(_nothing)
        self._world.later(self._world.clock.time + SYNC_SECONDS, self._sync)

    def lose(self, worker: Worker) -> None:
        assert isinstance(worker.broker, LendingBroker)
        session = worker.broker.worker
        self.lapsed += len(session.leases)
        with self.metered():
            self._lending.end(session)

    async def settle(self) -> None:
        await self._frontier.commit({}, self._world.clock.time)
        self.urls = self._frontier.counts().added
        if self._file is not None:
            self.bytes = self._file.stat().st_blocks * 512


class _LocalBroker(LendingBroker):
    def __init__(self, backing: LocalBacking, lending: Lending, worker: str) -> None:
        super().__init__(lending, worker)
        self._backing = backing

    async def ask(self, ask: Ask) -> Given:
        with self._backing.metered():
            given = await super().ask(ask)
        _count(self._backing, ask, given)
        return given

    async def renew(self) -> News:
        with self._backing.metered():
            return await super().renew()

    async def commit(self, epoch: WorkerEpoch) -> int:
        with self._backing.metered():
            return await super().commit(epoch)


async def _nothing() -> None:
    """There are no outputs."""


def _count(backing: Backing, ask: Ask, given: Given) -> None:
    if ask.tasks:
        backing.asked += 1
        backing.empty += not any(loan.tasks for loan in given.loans)
