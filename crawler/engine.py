"""The crawl loop. Read it from the top: `run`, then what runs side by side, then how it ends.

    start() ──► frontier ──► schedule ──► work ──► visit ──► one Page ──► apply ──► the open epoch ──► commit
                    ▲                                                       │
                    └────────── new, deferred and released requests ◄───────┘

One TaskGroup owns every task. Workers take what the scheduler hands them and never sleep while they hold a request: a
delay, a retry, a `Retry-After` is a time in the frontier. What a page causes goes into the open epoch (`epochs.py`) in
one synchronous step.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import logging
from typing import TYPE_CHECKING, Any

from crawler import crash, fate
from crawler.contracts import Lease, Verdict
from crawler.errors import first_cause
from crawler.fate import Fate
from crawler.feed import Feed
from crawler.hooks import Hooks
from crawler.limits import RunLimits
from crawler.page import Page
from crawler.redaction import without_userinfo
from crawler.spider import missing_callback
from crawler.steps import Steps
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.collector import Collector
    from crawler.context import Context
    from crawler.contracts import Pipeline, Waits
    from crawler.epochs import Epochs
    from crawler.inline import Inline
    from crawler.places import Places
    from crawler.refresh import Refresh
    from crawler.request import Request, RequestCodec
    from crawler.visit import Visits

__all__ = ["Engine", "Phase"]

logger = logging.getLogger("crawler.engine")

_DEATHS = 2
"""Processes that a request's code may kill before it is set aside."""
_CANCEL_SECONDS = 5.0
"""How long a cancelled page may take to give up before the end goes on without it."""


class Phase(enum.Enum):
    """The life of a run; each phase only leads to the next."""

    READY = "ready"
    RUNNING = "running"
    DRAINING = "draining"
    CLOSED = "closed"


class Engine:
    """One run of one spider. Everything it uses is opened before and closed after by whoever assembled it.

    `await engine.run()` returns why it ended: `finished`, `page_limit`, `item_limit`, `time_limit`, `error_limit`,
    `refused_limit`, `failed`, `interrupted`, or what `stop` was given. Raises `EngineUnavailable` where
    the frontier or an output failed.
    """

    def __init__(
        self,
        context: Context,
        *,
        visits: Visits,
        inline: Inline,
        places: Places,
        collector: Collector,
        codec: RequestCodec,
        epochs: Epochs,
        pipelines: Sequence[Pipeline],
        refresh: Refresh | None = None,
    ) -> None:
        self.spider = context.spider
        self.stats = context.stats
        self.phase = Phase.READY
        self._limits = context.settings.crawl
        self._run_limits = RunLimits(context.settings, self.stats.total)
        self._frontier = context.frontier
        self._fetcher = context.fetcher
        self._epochs = epochs
        self._clock = context.clock
        self._headroom = context.headroom
        self._visits = visits
        self._inline = inline
        self._places = places
        self._collector = collector
        self._codec = codec
        self._hooks = Hooks(context.spider, pipelines, self.stats)

        self._idle: collections.deque[asyncio.Future[Lease | None]] = collections.deque()
        self._busy: dict[asyncio.Task[Any], Lease] = {}
        self._handed = 0
        """Requests that workers have, or will have in a moment."""
        self._suspects: collections.deque[Lease] = collections.deque()
        self._alone: Lease | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._aborting = asyncio.Event()
        self._closed = False
        self._feed = Feed(
            context,
            collector=collector,
            epochs=epochs,
            inline=inline,
            wake=self._wake,
            stop=self.stop,
            refresh=refresh,
        )

    # -- the story ---------------------------------------------------------------------------------------------------

    async def run(self) -> str:
        self.phase = Phase.RUNNING
        self._frontier.on_change, self._frontier.on_stop = self._place_freed, self.stop
        self._frontier.on_need = self._epochs.hurry
        try:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self._frontier.serve(), name="frontier")
                await self._run()
                serving.cancel()
        except BaseExceptionGroup as errors:
            cause = first_cause(errors)
            raise cause from cause.__cause__
        finally:
            self.phase = Phase.CLOSED
        return self.stats.reason

    async def _run(self) -> None:
        self._places.on_leave = self._place_freed
        self._headroom.on_relief = self._wake.set
        self._epochs.on_change = self._changed
        self.spider._services = self._inline
        for host in self._epochs.named:
            self._fetcher.allow_host(host)
        self._frontier.resume(self._clock.now())
        try:
            await self._hooks.open()
        except BaseException:
            self.stats.reason = "failed"
            raise
        crash.point("recovered")
        try:
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._feed.run(), name="start()")
                regular = [
                    group.create_task(self._epochs.close_regularly(), name="epochs"),
                    group.create_task(self._epochs.sync_regularly(), name="syncs"),
                ]
                for number in range(self._limits.concurrency):
                    group.create_task(self._work(), name=f"worker {number}")
                await self._schedule()
                await self._drain(feeding)
                await self._epochs.end(regular)
        except BaseExceptionGroup:
            self.stats.reason = "failed"
            raise
        self.phase = Phase.CLOSED
        await self._hooks.close(self.stats.reason)
        self.stats.finished_at = self._clock.now()
        await self._epochs.finish(self.stats.reason)

    def stop(self, reason: str = "stopped") -> None:
        """Start no more; let what is in flight finish within `crawl.drain_seconds`; give the rest back."""
        if not self._stopping.is_set():
            self.stats.reason = reason
            self.phase = Phase.DRAINING
            self._feed.end()
            self._stopping.set()
            self._wake.set()

    def abort(self) -> None:
        """Stop now: what is in flight goes back to the frontier, what is being closed gets some seconds."""
        self.stop("interrupted")
        self._aborting.set()
        self._hooks.hurry()
        self._wake.set()

    # -- side by side ------------------------------------------------------------------------------------------------

    async def _schedule(self) -> None:
        """Hand due requests to idle workers until nothing is left or somebody says stop."""
        self._check_limits()  # a continued job may be past a limit that is new
        while not self._stopping.is_set():
            self._feed.apply_gathered()
            self._wake.clear()
            now = self._clock.now()
            leased = await self._frontier.lease(self._room(), now)
            for lease in leased.leases:
                self._hand_out(lease, now)
            next_due = leased.next_due
            if self._suspects and not self._handed:
                next_due = self._try_suspect(next_due, now)
            if self._limits.time_limit_seconds and self.stats.run_elapsed(now) >= self._limits.time_limit_seconds:
                self.stop("time_limit")
            elif next_due is None and not leased.leases and self._is_finished():
                self.stop("finished")
            else:
                await self._clock.wait(self._wake, self._until(next_due, now))

    def _hand_out(self, lease: Lease, now: float) -> None:
        if 0 < lease.deaths < _DEATHS:
            self._frontier.leave(lease.host, now, unused=True)
            self._suspects.append(lease)
            self._wake.set()  # its place is free again
        else:
            self._hand_over(lease)

    def _hand_over(self, lease: Lease) -> None:
        self._handed += 1
        self._idle.popleft().set_result(lease)

    def _try_suspect(self, next_due: float | None, now: float) -> float | None:
        """One of those in whose code a process died, when nobody else has anything to do, and then alone. A process
        that is killed from outside again and again dies in somebody's code each time, but hardly in the same one's
        then. Returns when to look again."""
        lease = self._suspects[0]
        start = self._frontier.enter(lease.host, now)
        if start is None:
            return next_due
        if start > now:
            self._frontier.leave(lease.host, now, unused=True)
            return start if next_due is None else min(start, next_due)
        self._alone = self._suspects.popleft()
        self._hand_over(lease)
        return next_due

    def _room(self) -> int:
        """How many requests may be started now. Near the page limit each one in flight counts as a page."""
        if self._epochs.is_full or self._alone is not None:
            return 0
        room = len(self._idle)
        if self._headroom.is_scarce:
            room = min(room, 1 - self._handed)  # one may always go on
        if self._limits.page_limit:
            room = min(room, self._limits.page_limit - self.stats.total.pages - len(self._busy) - self._epochs.held)
        return max(room, 0)

    def _is_finished(self) -> bool:
        return self._feed.ended and not (self._handed or self._suspects or self._epochs.is_closing)

    def _until(self, next_due: float | None, now: float) -> float | None:
        """Seconds to wait for. With no room there is nothing to wait for but an event, and every event wakes us."""
        waits = [next_due - now] if next_due is not None and self._room() else []
        if self._limits.time_limit_seconds:
            waits.append(self._limits.time_limit_seconds - self.stats.run_elapsed(now))
        return min(waits, default=None)

    async def _work(self) -> None:
        """One of `crawl.concurrency` workers."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        while not self._closed:
            handed: asyncio.Future[Lease | None] = loop.create_future()
            self._idle.append(handed)
            self._wake.set()
            lease = await handed
            if lease is None:
                return
            self._busy[task] = lease
            try:
                await self._process(lease)
            finally:
                del self._busy[task]
                self._handed -= 1
                if self._headroom.taken:
                    self._headroom.leave(task)
                if self._alone is lease:
                    self._alone = None
                self._wake.set()

    async def _process(self, lease: Lease) -> None:
        """One leased request and everything it causes."""
        crash.point("after_dequeue")
        place = _Place(self, lease.host)
        try:
            request = self._codec.decode(lease.record, lease.depth)
        except ValueError as error:
            page = self._set_aside(Page(None, lease), "unreadable", f"it cannot be read: {error}")
        else:
            page = Page(request, lease)
            missing = missing_callback(self.spider, request)
            if lease.deaths:
                logger.warning("the process died while at %r (%d of %d times)", request, lease.deaths, _DEATHS)
            if lease.deaths >= _DEATHS:
                self._set_aside(page, "poison", f"its processing killed the process {lease.deaths} times")
            elif missing:
                self._set_aside(page, "unknown_callback", f"spider {self.spider.name!r} has no method {missing!r}")
            else:
                page = await self._visit(page, request, lease, place)
                if page.reached is not None:
                    await self._frontier.reach(lease, page.reached.host, page.reached.fingerprint)
        place.leave()
        crash.point("after_callback")
        self._epochs.apply(page)

    async def _visit(self, page: Page, request: Request, lease: Lease, place: _Place) -> Page:
        try:
            await Steps(self._visits.visit(page, request, lease, place.leave), self._frontier, lease)
        except asyncio.CancelledError:
            page.close()
            self._epochs.apply(self._released(request, lease))
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            page.close()
            logger.warning("%s of the user's code, on %r: stopping", type(error).__name__, request)
            self.stop("interrupted")
            return self._released(request, lease)
        except BaseException:
            page.close()
            raise
        finally:
            place.leave()
        return page

    def _released(self, request: Request, lease: Lease) -> Page:
        """Nothing of it happened."""
        released = Page(request, lease)
        released.verdict = Verdict.RELEASE
        return released

    def _set_aside(self, page: Page, reason: str, message: str) -> Page:
        """None of the user's code sees it: that may be what kills."""
        assert page.lease is not None
        url = "" if page.request is None else page.request.url
        logger.error("a request of host %s is set aside: %s%s", page.lease.host, url and f"{redact(url)}: ", message)
        page.failures.append(reason)
        page.verdict = Verdict.DEAD
        now, depth, attempts = self._clock.now(), page.lease.depth, page.lease.attempt + 1
        page.fate = Fate(
            without_userinfo(url), fate.Verdict.SET_ASIDE, now, depth, attempts, reason=reason, message=message
        )
        return page

    def _place_freed(self) -> None:
        self._places.freed()
        self._wake.set()

    def _changed(self) -> None:
        """Something took effect."""
        self._check_limits()
        self._wake.set()

    def _check_limits(self) -> None:
        reason = self._run_limits.reached()
        if reason is not None:
            self.stop(reason)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _drain(self, feeding: asyncio.Task[None]) -> None:
        """Nothing new starts. What is in flight gets its time, the rest is cancelled and goes back, the workers go
        home. `start()` is not waited for, but an item that it gave and a pipeline has is in flight, too."""
        if not self._feed.taking:
            feeding.cancel()
        self._feed.apply_gathered()
        await asyncio.sleep(0)  # whoever was just handed a request has it in hand now
        deadline = self._clock.now() + self._limits.drain_seconds
        while (self._busy or self._feed.taking) and not self._aborting.is_set():
            if (left := deadline - self._clock.now()) <= 0:
                break
            self._wake.clear()
            await self._clock.wait(self._wake, left)
        for task in (feeding, *self._busy):
            task.cancel()
        deadline = self._clock.now() + _CANCEL_SECONDS
        while self._busy and (left := deadline - self._clock.now()) > 0:
            self._wake.clear()
            await self._clock.wait(self._wake, left)
        self._closed = True
        while self._idle:
            self._idle.popleft().set_result(None)

    # -- what others see ---------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, Any]:
        """The content of `stats.json`."""
        counts = self._frontier.counts()
        self.stats.hosts, self.stats.added = counts.hosts, counts.added
        self.stats.waiting = counts.queued + counts.leased
        return self.stats.snapshot(self._clock.now())

    def snapshot(self) -> dict[str, Any]:
        """What the live line, the log line and tests read: the totals, and how things stand now."""
        counts, waits = self._frontier.counts(), self._frontier.waits(self._clock.now())
        return {
            **self.totals(),
            "phase": self.phase.value,
            "queued": counts.queued,
            "in_flight": len(self._busy),
            "active_hosts": counts.active_hosts,
            "waits": waits._asdict(),
            "limited_by": self._limited_by(counts.queued, waits),
            "memory": self._headroom.snapshot(),
        }

    def _limited_by(self, queued: int, waits: Waits) -> str:
        """What keeps the crawl from going faster right now, unless it is the processor (`status.Load`)."""
        if self.phase is not Phase.RUNNING:
            return str(self.phase.value)
        if self._headroom.is_short:
            return "memory"
        if not self._idle:
            return "concurrency"
        if not queued:
            return "nothing left"
        # More hosts, or more places at these, would help; a shorter delay would not.
        return "hosts" if waits.full > waits.delayed + waits.paused else "delay"

    def __repr__(self) -> str:
        return f"<Engine {self.spider.name} {self.phase.value} busy={len(self._busy)} {self._frontier!r}>"


class _Place:
    """A leased request's place at its host, given back once."""

    __slots__ = ("_engine", "_host")

    def __init__(self, engine: Engine, host: str) -> None:
        self._engine: Engine | None = engine
        self._host = host

    def leave(self, unused: bool = False) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine._frontier.leave(self._host, engine._clock.now(), unused=unused)
            engine._place_freed()
