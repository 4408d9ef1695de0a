"""`Broker` over Redis: a worker's session, and its verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from crawler.contracts import Counts
from crawler.errors import SessionLost
from crawler.frontier.broker import Control, Given, News, WorkerEpoch
from crawler.frontier.broker import Session as Joined
from crawler.frontier.redis import reaping
from crawler.frontier.redis.commits import additions, encode, redo_of, values
from crawler.frontier.redis.connection import Engine, command, run
from crawler.frontier.redis.crawl import Crawl, Session, milliseconds, pairs, worker_of
from crawler.frontier.redis.keys import Config, Keys, group_of, signed
from crawler.frontier.redis.lending import Lender
from crawler.frontier.redis.levels import is_quiet, levels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from crawler.contracts import Clock
    from crawler.frontier.broker import Ask
    from crawler.settings.frontier import FrontierSettings

__all__ = ["RedisBroker"]

_COUNT_SECONDS = 2.0
"""How old the counts may be that a renewal brings: counting looks at every shard."""
_COUNTED = msgspec.msgpack.Decoder(tuple[Counts, int])
_UNAWARE_SECONDS = 2.0
"""After its restart until every worker has had a word with the engine: they do each second."""
_REAPING_MS = 1000
"""For so long the others leave a lapsed session to whoever began with it."""


class RedisBroker:
    """`crawler.frontier.broker.Broker`. `quota`, `places` and `shared_places` are those of an ordinary host, by the
    settings; a host that nobody had yet is lent to one worker, whatever they say. `delay` is that of a host of which
    nothing is known, in seconds: it is free so long after its worker was lost. `now` gives the time where the caller
    owns it; else the engine's clock counts for all workers.
    """

    def __init__(
        self,
        settings: FrontierSettings,
        *,
        worker: str,
        crawl: str,
        spider: str,
        order: str,
        group_by: str,
        page_limit: int,
        quota: int,
        places: int,
        shared_places: int,
        concurrency: int,
        clock: Clock,
        rng: Random,
        delay: float = 0.0,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._worker = worker
        self._keys = Keys(crawl)
        self._mine = Config.new(settings, spider=spider, order=order, group_by=group_by)
        self._lease_seconds = settings.lease_seconds
        self._page_limit = page_limit
        self._quota = quota
        self._delay = delay
        self._about = msgspec.json.encode(
            {
                "lease_seconds": settings.lease_seconds,
                "concurrency": concurrency,
                "places": places,
                "shared_places": shared_places,
            }
        )
        self._clock = clock
        self._rng = rng
        self._now = now
        self._engine = Engine(
            settings.url or "",
            patience=settings.lease_seconds,
            allow_unprotected=settings.allow_unprotected,
            sleep=clock.sleep,
            rng=rng,
        )
        self._crawl: Crawl
        self._session: Session
        self._lender: Lender
        self._control = Control.RUNNING
        self._version = b"0"
        """Of the shared values, as far as they are known here."""
        self._members = b""
        """How often sessions had come or gone when `_sessions` were those that there are."""
        self._sessions: dict[str, Session] = {}
        self._commit = 0
        """Number of the last that is on record."""
        self._takes = 0
        self._lends_from = 0.0
        self._untold: tuple[int, int] | None = None
        """Sequence and pages of a word about the allowance whose answer was lost."""

    async def __aenter__(self) -> RedisBroker:
        await self._engine.__aenter__()
        await self._engine.warn_of_loss()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.__aexit__(*exc)

    # -- the session -------------------------------------------------------------------------------------------------

    async def join(self) -> Joined:
        await self._engine.look()
        kept = await self._engine.one(run("create", self._keys.control, self._mine.encode(), self._page_limit))
        config = Config.decode(kept, self._keys.crawl)
        config.check(self._keys.crawl, self._mine)
        crawl = self._crawl = Crawl(self._engine, self._keys, config, self._clock.now, self._now)
        now, generation, ends, own = await self._engine.one(
            crawl.on_worker("join", Session(self._worker, 0), milliseconds(self._lease_seconds))
        )
        session = self._session = Session(self._worker, generation)
        control, self._version, shared, sessions = await self._engine.one(
            crawl.on_control("enter", session.id, ends, self._about, self._page_limit)
        )
        self._lender = Lender(crawl, session, quota=self._quota, rng=self._rng)
        self._lender.valid_until = ends
        self._lender.set_workers(worker_of(id.decode()) for id in pairs(sessions))
        self._members = b""
        self._control = Control(control.decode())
        self._commit = 0
        self._untold = None
        self._lends_from = await self._look_for_a_restart(crawl.hear(now))
        return Joined(
            session.id,
            crawl.hear(now),
            self._lease_seconds,
            config.key,
            {name.decode(): value for name, value in pairs(own).items()},
            {name.decode(): value for name, value in pairs(shared).items()},
            self._control,
        )

    async def _look_for_a_restart(self, now: float) -> float:
        """When hosts may be lent again. An engine that was started again may have forgotten who was asked last, so
        every host counts as asked then; and a worker goes on for a moment before it hears of it."""
        key = f"{self._keys.control}run"
        known, since = await self._engine.one(command("HMGET", key, "id", "since"))
        if known is None or known.decode() != self._engine.run:
            since = b"0" if known is None else b"%.3f" % now
            await self._engine.one(command("HSET", key, "id", self._engine.run, "since", since))
        return float(since) + self._delay + _UNAWARE_SECONDS if float(since) else 0.0

    async def renew(self) -> News:
        crawl, session = self._crawl, self._session
        await self._engine.check_same()
        committed = self._commit  # another commit may end meanwhile
        now, ends, number = await self._engine.one(crawl.on_worker("renew", session, milliseconds(self._lease_seconds)))
        if number < committed:
            raise SessionLost(f"{self._engine.name} has lost what worker {self._worker} committed last")
        seconds = crawl.hear(now)
        (control, reason), self._version, changed, members, sessions, is_old, counts = await self._engine.one(
            crawl.on_control("news", session.id, ends, self._version, now, milliseconds(_COUNT_SECONDS), self._members)
        )
        self._lender.valid_until = ends
        self._control = Control(control.decode())
        ends_of = {id.decode(): float(ends) for id, ends in pairs(sessions).items()}
        if members != self._members:
            self._members, self._sessions = members, {id: Session.of(id) for id in ends_of}
        alive = await self._look_after([Session.of(id) for id, ends in ends_of.items() if ends < now])
        counted, due = await self._count() if is_old or not counts else _COUNTED.decode(counts)
        self._lender.set_workers(alive)
        return News(
            seconds,
            self._control,
            reason.decode(),
            _shared(changed),
            counted,
            len(alive),
            due,
        )

    async def _look_after(self, lapsed: Sequence[Session]) -> set[str]:
        """Take these sessions apart, whose time is over; the workers of the others."""
        over = {session.id for session in lapsed}
        for session in lapsed:
            if session.id != self._session.id and await self._is_ours_to_reap(session):
                await reaping.take_apart(self._crawl, session, delay=self._delay)
        return {self._worker, *(session.worker for session in self._sessions.values() if session.id not in over)}

    async def _is_ours_to_reap(self, session: Session) -> bool:
        key = f"{self._keys.control}reaping:{session.id}"
        call = run("although_full", key, "SET", self._session.id, "NX", "GET", "PX", _REAPING_MS)
        return await self._engine.one(call) in (None, self._session.id.encode())

    async def _count(self) -> tuple[Counts, int]:
        """With the number of hosts that are due."""
        levels = await levels_of(self._crawl)
        counted = levels.counts(), levels.due_hosts
        call = run("although_full", f"{self._keys.control}counts", "HSET", "all", msgspec.msgpack.encode(counted))
        await self._engine.one(call)
        return counted

    async def leave(self) -> None:
        session = self._session
        # Whatever happens from here on, its time is over.
        await self._engine.one(run("although_full", f"{self._keys.control}sessions", "ZADD", "XX", 0, session.id))
        await reaping.take_apart(self._crawl, session, delay=self._delay, has_left=True)

    # -- hosts and what they have waiting ----------------------------------------------------------------------------

    async def ask(self, ask: Ask) -> Given:
        may_lend = self._control is Control.RUNNING and self._crawl.now() >= self._lends_from
        given = await self._lender.ask(ask, is_running=may_lend)
        if not given.loans:
            return given
        return msgspec.structs.replace(given, shared=await self._changes())

    async def _changes(self) -> dict[str, bytes | None]:
        version = await self._engine.one(command("GET", f"{self._keys.control}version"))
        if version in (None, self._version):
            return {}
        changed, self._version = await self._engine.one(
            self._crawl.on_control("changes", self._session.id, self._version)
        )
        return _shared(changed)

    async def commit(self, epoch: WorkerEpoch) -> int:
        crawl, session = self._crawl, self._session
        known = int(sum(await crawl.everywhere(additions(crawl, session, epoch))))
        redo = redo_of(crawl, session, epoch)
        await self._engine.one(crawl.on_worker("record", session, redo.number, encode(redo), *values(epoch.own)))
        self._commit = redo.number
        await crawl.everywhere(
            crawl.on_shard("end", shard, session.id, redo.number, *args) for shard, args in redo.shards.items()
        )
        if epoch.pages or epoch.shared:
            await self._engine.one(crawl.on_control("applied", session.id, redo.number, *redo.control))
        return known

    async def reach(self, host: str, fingerprint: int, task: str) -> bool:
        config = self._crawl.config
        key = group_of(config.group_by)(host)
        owner = task.split(".")[2]
        call = self._crawl.on_shard(
            "reach", config.shard_of(key), self._session.id, config.bucket_of(fingerprint), signed(fingerprint), owner
        )
        return bool(await self._engine.one(call))

    # -- the crawl as a whole ----------------------------------------------------------------------------------------

    async def claim_start(self) -> bool:
        return bool(await self._engine.one(self._crawl.on_control("start", self._session.id)))

    async def take_allowance(self, pages: int) -> int:
        if not self._page_limit:
            return pages
        given = 0
        if self._untold is not None:
            given = await self._take(*self._untold)
            if given > 0 and pages > 0:
                return given
            pages -= max(given, 0)
        self._takes += 1
        return max(given, 0) + await self._take(self._takes, pages)

    async def _take(self, sequence: int, pages: int) -> int:
        self._untold = sequence, pages
        given = await self._engine.one(self._crawl.on_control("allowance", self._session.id, sequence, pages))
        self._untold = None
        return int(given)

    async def is_done(self) -> bool:
        if not await self._engine.one(command("HEXISTS", f"{self._keys.control}shared", "started")):
            return False
        return await is_quiet(self._crawl)

    async def finish(self, reason: str) -> None:
        await self._engine.one(self._crawl.on_control("say", self._session.id, Control.FINISHED.value, reason))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._engine.name} crawl={self._keys.crawl} worker={self._worker}>"


def _shared(changed: list[list[Any]]) -> dict[str, bytes | None]:
    return {name.decode(): value if there else None for name, there, value in changed}
