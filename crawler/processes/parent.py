"""The parent of a crawl in several processes: it lends hosts, takes in what their pages caused, and writes it.

    child ── epoch ──► items: pipelines, outputs ──┐
                       links, ends, values ────────┴──► the open epoch, in one step

It has the face of an `Engine`. Children that die are replaced, and what they had goes to others; those that die again
and again, with nothing done in between, end the crawl.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from crawler.contracts import Waits
from crawler.engine import Phase
from crawler.errors import CrawlerError, UsageError, first_cause
from crawler.frontier.broker import Control
from crawler.hooks import Hooks
from crawler.limits import RunLimits
from crawler.processes.arrivals import Arrivals
from crawler.processes.member import Member
from crawler.processes.services import ParentServices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crawler.context import Context
    from crawler.contracts import Exporter, Pipeline, Spool
    from crawler.epochs import Epochs
    from crawler.frontier.broker import WorkerEpoch
    from crawler.frontier.lending import Lending, LendingBroker, Worker
    from crawler.frontier.local import LocalFrontier
    from crawler.passage import Passage
    from crawler.processes.member import Ending
    from crawler.processes.origin import Origin
    from crawler.request import RequestCodec

__all__ = ["Parent"]

logger = logging.getLogger("crawler.processes")

_MOST_DEATHS: Final = 10
"""In a row, with no page done in between: one page may kill two."""
_PATIENCE_SECONDS: Final = 15.0
"""What a child may take to end beyond the time that its pages have."""
_ABORT_SECONDS: Final = 7.0
_LONGEST_PAUSE: Final = 1.0
"""Before another one is started in place of one that died."""


class Parent:
    """One run of one spider in several processes. `origins` is what each child is told. Everything it uses is opened
    before and closed after by whoever assembled it.

    `await parent.run()` returns and raises what `Engine.run` does, and `CrawlerError` where children cannot work.
    """

    def __init__(
        self,
        context: Context,
        origins: Sequence[Origin],
        *,
        frontier: LocalFrontier,
        lending: Callable[..., Lending],
        epochs: Epochs,
        passage: Passage,
        codec: RequestCodec,
        pipelines: Sequence[Pipeline],
        is_slow: bool,
        refused: Exporter | None,
        make_spool: Callable[[], Spool],
        prints_aside: bool,
    ) -> None:
        self.spider = context.spider
        self.stats = context.stats
        self.phase = Phase.READY
        self._settings = context.settings
        self._clock = context.clock
        self._headroom = context.headroom
        self._frontier = frontier
        self._epochs = epochs
        self._origins = origins
        self._passage = passage
        self._codec = codec
        self._is_slow = is_slow
        self._refused = refused
        self._make_spool = make_spool
        self._prints_aside = prints_aside
        self._lending = lending(named=epochs.named, pages=lambda: self.stats.total.pages, commit=self._absorb)
        self._lending.on_finish = self._finish
        self._lending.on_lapse = self._lapse
        self._hooks = Hooks(context.spider, pipelines, self.stats, pipelines_only=True)
        self._services = ParentServices(context)
        self._limits = RunLimits(context.settings, self.stats.total)
        self._members: dict[str, Member] = {}
        self._deaths = 0
        """In a row."""
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._aborting = asyncio.Event()

    # -- the story ---------------------------------------------------------------------------------------------------

    async def run(self) -> str:
        self.phase = Phase.RUNNING
        self._epochs.on_change = self._changed
        self.spider._services = self._services
        self._frontier.resume(self._clock.now())
        try:
            await self._hooks.open()
            async with asyncio.TaskGroup() as group:
                regular = [
                    group.create_task(self._epochs.close_regularly(), name="epochs"),
                    group.create_task(self._epochs.sync_regularly(), name="syncs"),
                ]
                keeping = [group.create_task(self._keep(origin), name=origin.worker) for origin in self._origins]
                await self._watch()
                await self._drain(keeping)
                await self._epochs.end(regular)
        except BaseExceptionGroup as errors:
            self.stats.reason = "failed"
            cause = first_cause(errors)
            raise cause from cause.__cause__
        except BaseException:
            self.stats.reason = "failed"
            raise
        finally:
            self.phase = Phase.CLOSED
        await self._hooks.close(self.stats.reason)
        self.stats.finished_at = self._clock.now()
        await self._epochs.finish(self.stats.reason)
        return self.stats.reason

    def stop(self, reason: str = "stopped") -> None:
        """Start no more; let what is in flight finish within `crawl.drain_seconds`; give the rest back."""
        if not self._stopping.is_set():
            self.stats.reason = reason
            self.phase = Phase.DRAINING
            self._stopping.set()
            self._lending.tell(Control.DRAINING, reason)
            self._tell_all("stop", reason)
            self._wake.set()

    def abort(self) -> None:
        """Stop now: what is in flight goes back to the frontier, what is being closed gets some seconds."""
        self.stop("interrupted")
        self._aborting.set()
        self._hooks.hurry()
        self._tell_all("abort")
        self._wake.set()

    def _tell_all(self, word: str, reason: str = "") -> None:
        for member in self._members.values():
            member.tell(word, reason)

    async def _watch(self) -> None:
        """Until nothing is left, or somebody says stop."""
        limit = self._settings.crawl.time_limit_seconds
        self._check_limits()  # a continued job may be past a limit that is new
        while not self._stopping.is_set():
            self._wake.clear()
            left = limit - self.stats.run_elapsed(self._clock.now()) if limit else None
            if left is not None and left <= 0:
                self.stop("time_limit")
            elif self._lending.is_done:
                self.stop("finished")
            else:
                await self._clock.wait(self._wake, left)

    async def _drain(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        """Until all children are gone. Whoever does not go in time is ended."""
        deadline = self._clock.now() + self._settings.crawl.drain_seconds + _PATIENCE_SECONDS
        is_hurried = False
        while not all(task.done() for task in keeping):
            if self._aborting.is_set() and not is_hurried:
                is_hurried = True
                deadline = min(deadline, self._clock.now() + _ABORT_SECONDS)
            left = deadline - self._clock.now()
            if left <= 0:
                for member in self._members.values():
                    logger.warning("process %s of the crawl does not end, and is killed", member.pid)
                    member.kill()
                deadline = self._clock.now() + _PATIENCE_SECONDS
            else:
                self._wake.clear()
                await self._clock.wait(self._wake, left)

    # -- children ----------------------------------------------------------------------------------------------------

    async def _keep(self, origin: Origin) -> None:
        """A child at work, as long as there is any."""
        while not self._stopping.is_set():
            member = self._member(origin)
            self._members[origin.worker] = member
            try:
                ending = await member.run()
            finally:
                del self._members[origin.worker]
                self._wake.set()
            if not self._stopping.is_set():
                await self._after(ending, origin)
        self._wake.set()

    def _member(self, origin: Origin) -> Member:
        return Member(
            origin,
            self._lending,
            epochs=self._epochs,
            stats=self.stats,
            arrivals=self._arrivals,
            on_change=self._wake.set,
            prints_aside=self._prints_aside,
        )

    def _arrivals(self, broker: LendingBroker) -> Arrivals:
        return Arrivals(
            self._passage,
            self._codec,
            lambda: {lease.key: lease for lease in broker.worker.leases.values()},
            is_slow=self._is_slow,
            refused=self._refused,
            make_spool=self._make_spool,
        )

    async def _after(self, ending: Ending, origin: Origin) -> None:
        """A child is gone although there is work."""
        if ending.error:
            raise UsageError(ending.error) if ending.is_usage else CrawlerError(ending.error)
        if ending.reason in ("finished", "page_limit"):  # to its knowledge
            while not (self._stopping.is_set() or self._has_work()):
                self._wake.clear()
                await self._clock.wait(self._wake, 1.0)
            return
        if ending.reason:
            self.stop(ending.reason)
            return
        self._deaths += 1
        logger.warning("process %s of the crawl died (%s); another one takes its place", origin.worker, _how(ending))
        if self._deaths >= _MOST_DEATHS:
            raise CrawlerError(
                f"processes of the crawl died {self._deaths} times in a row, with no page done in between; "
                f"the last one of {_how(ending)}. --processes 1 may show why"
            )
        await self._clock.wait(self._stopping, min(_LONGEST_PAUSE, 0.05 * 2 ** (self._deaths - 1)))

    def _has_work(self) -> bool:
        return not self._lending.is_done and self._lending.is_allowed_more

    async def _absorb(self, worker: Worker, epoch: WorkerEpoch) -> int:
        known = await self._members[worker.name].absorb(epoch)
        if epoch.ends:
            self._deaths = 0
        return known

    def _lapse(self, worker: Worker) -> None:
        member = self._members.get(worker.name)
        if member is None:
            self._lending.end(worker)
        else:
            logger.warning("process %s of the crawl was not heard of for too long, and is killed", worker.name)
            member.kill(is_its_fault=True)

    def _finish(self, reason: str) -> None:
        self._wake.set()

    def _changed(self) -> None:
        self._check_limits()
        self._wake.set()

    def _check_limits(self) -> None:
        reason = self._limits.reached()
        if reason is not None:
            self.stop(reason)

    # -- what others see ---------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, Any]:
        """The content of `stats.json`."""
        counts = self._frontier.counts()
        self.stats.hosts, self.stats.added = counts.hosts, counts.added
        self.stats.waiting = counts.queued + counts.leased
        return self.stats.snapshot(self._clock.now())

    def snapshot(self) -> dict[str, Any]:
        """As `Engine.snapshot`; `load` is that of the busiest process, 1.0 being a whole processor."""
        pulses = [member.pulse for member in self._members.values()]
        counts = self._frontier.counts()
        in_flight = sum(pulse.in_flight for pulse in pulses)
        queued = counts.queued + max(0, counts.leased - in_flight)
        waits = self._waits([Waits(*pulse.waits) for pulse in pulses])
        limited_by = "hosts" if waits.full > waits.delayed + waits.paused else "delay"
        if self.phase is not Phase.RUNNING:
            limited_by = self.phase.value
        elif self._headroom.is_short:
            limited_by = "memory"
        elif pulses and not any(pulse.idle for pulse in pulses):
            limited_by = "concurrency"
        elif not queued:
            limited_by = "nothing left"
        return {
            **self.totals(),
            "phase": self.phase.value,
            "queued": queued,
            "in_flight": in_flight,
            "active_hosts": counts.active_hosts,
            "waits": waits._asdict(),
            "limited_by": limited_by,
            "memory": self._headroom.snapshot(),
            "load": max((pulse.load for pulse in pulses), default=0.0),
        }

    def _waits(self, lent: Sequence[Waits]) -> Waits:
        """Of the hosts that are lent, what whoever has them says."""
        here = self._frontier.waits(self._clock.now())
        away = sum(len(worker.loans) for worker in self._lending.workers)
        sums = [sum(column) for column in zip(*lent, strict=True)] or [0, 0, 0, 0]
        return Waits(here.ready + sums[0], here.delayed + sums[1], max(0, here.full - away) + sums[2], here.paused)

    def __repr__(self) -> str:
        return f"<Parent {self.spider.name} {self.phase.value} processes={len(self._members)} {self._frontier!r}>"


def _how(ending: Ending) -> str:
    if ending.status < 0:
        return f"signal {-ending.status}"
    return f"exit code {ending.status}"
