"""From settings to a running crawl: the only file that names concrete classes.

`Crawl` is one run: `async with Crawl(...) as crawl: await crawl.run()`. Its `__aenter__` is the stack, in order;
leaving closes it in reverse. Nothing is global, so crawls run one after the other and side by side.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from crawler import operate, workers
from crawler import settings as setting
from crawler.clock import SystemClock
from crawler.engine import Phase
from crawler.errors import EngineUnavailable, JobError, OutputError
from crawler.export import make_exporter, part_target
from crawler.export.address import is_database
from crawler.export.writer import Writer
from crawler.frontier.local import LocalFrontier
from crawler.lock import JobLock
from crawler.log import crawl_log
from crawler.outputs import Outputs
from crawler.predecessor import UNFINISHED, Before, check_options, first_words, make_room, open_previous
from crawler.processes import opening
from crawler.rooms import Ends, Rooms, check_lists, pipeline_of
from crawler.stats import Stats, write_json
from crawler.url import Fingerprinter
from crawler.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from crawler.contracts import Clock, Frontier
    from crawler.engine import Engine
    from crawler.frontier.previous import Previous
    from crawler.frontier.shared import SharedFrontier
    from crawler.frontier.store import Store
    from crawler.processes.parent import Parent
    from crawler.settings import Loaded, Settings
    from crawler.spider import Spider

__all__ = ["Crawl", "Output", "Result", "load_settings"]

logger = logging.getLogger("crawler.job")

_STATS_SECONDS = 10.0


class Output(NamedTuple):
    """Where items go: a file whose suffix says the format, a table of PostgreSQL, or `-`."""

    target: str
    overwrite: bool = False

    @property
    def replaces_something(self) -> bool:
        if is_database(self.target):
            return self.overwrite
        return self.overwrite and os.path.isfile(self.target) and os.path.getsize(self.target) > 0


class Result(msgspec.Struct, frozen=True):
    """How a crawl ended: why, its `stats.json` as a dict, and the job folder (None: there was none)."""

    reason: str
    stats: dict[str, Any]
    job: Path | None = None
    outputs: tuple[str, ...] = ()


def load_settings(spider: type[Spider], layers: Sequence[setting.Layer], *, file: Path | None = None) -> Loaded:
    """Defaults < file < the spider's own < `layers`, which come in the order given."""
    below = [setting.file_layer(file)] if file is not None else []
    return setting.load([*below, setting.spider_layer(spider.name, spider.settings), *layers])


class Crawl:
    """One run of one spider over one job.

    `job` is the job's folder; None keeps everything in memory. `fresh` discards what an unfinished job has. `refresh`
    visits the pages of one that had finished again; `only_changed` leaves out the items of those that are as they were.
    `on_item` gets each item as the page that gave it ends. With more than one of `processes` (0: one for each
    processor) the spider runs in others, which make it anew, with `arguments`.

    Raises `UsageError` or `EngineUnavailable`, at the latest on entering, when something is not as it must be, before
    anything is sent.
    """

    def __init__(
        self,
        spider: Spider,
        settings: Settings,
        *,
        job: Path | None = None,
        outputs: Sequence[Output] = (),
        fresh: bool = False,
        refresh: bool = False,
        only_changed: bool = False,
        clock: Clock | None = None,
        rng: Random | None = None,
        on_item: Callable[[Any], Awaitable[None]] | None = None,
        processes: int = 1,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.spider = spider
        self.settings = settings
        self.worker = workers.worker_name(settings.frontier) if workers.is_shared(settings.frontier) else None
        """Its name where it is one of several."""
        if self.worker is not None:
            workers.check_options(settings, refresh=refresh)
            job = None if job is None else workers.worker_folder(job, self.worker)
            outputs = [output._replace(target=part_target(output.target, self.worker)) for output in outputs]
        self.job = job
        self.outputs = tuple(outputs)
        self._outputs = self._make_outputs()
        self.clock: Clock = clock or SystemClock()
        self._fresh = fresh
        self._refresh = refresh
        self._only_changed = only_changed
        check_options(job, fresh=fresh, refresh=refresh, only_changed=only_changed)
        self._previous: Previous | None = None
        self._shared: SharedFrontier | None = None
        self._rng = rng or Random()
        check_lists(spider)
        self._rooms = Rooms(spider, settings, clock=self.clock, rng=self._rng, job=job)
        self._on_item = on_item
        self._processes = opening.processes_of(processes)
        self._arguments = arguments or {}
        if self._processes > 1:
            opening.check_options(
                settings, refresh=refresh, is_shared=self.worker is not None, has_clock=clock is not None
            )
            opening.origins_of(self._rooms, self._arguments, 1, (0, 0))  # what cannot be told is said before anything
        self._stack = contextlib.AsyncExitStack()
        self._stats_written = 0.0
        self.engine: Engine | Parent
        self.stats: Stats

    def _make_outputs(self, crawl: str = "") -> Outputs:
        """`crawl` is what a crawl of several workers is called in databases that all of them write to."""
        guard, name = self.settings.output.guard_formulas, self.spider.name
        writer = Writer(name if self.job is None else str(self.job.absolute()))
        if self.worker is not None:
            writer = Writer(self.settings.frontier.crawl or name, crawl, self.worker)
        exporters = [make_exporter(*output, guard_formulas=guard, writer=writer) for output in self.outputs]
        return Outputs(exporters, self.job, name)

    async def __aenter__(self) -> Crawl:
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.__aexit__(*exc)

    async def run(self) -> Result:
        """To the end, whatever it is. Raises `EngineUnavailable`, or what is a bug."""
        try:
            reason = await self.engine.run()
        except BaseException:
            with contextlib.suppress(EngineUnavailable):  # a consequence; what went wrong first is to be heard
                self._write_stats()
            raise
        self._write_stats()
        if self._previous is not None and reason not in UNFINISHED:
            self._previous.remove()
        if self.worker is not None and reason == "finished":
            await operate.discard_uncommitted(self.settings.frontier, self.spider.name, self.outputs)
        logger.info("%s: %s", self.spider.name, _ending(reason))
        return Result(reason, self.engine.totals(), self.job, tuple(each.target for each in self._outputs.items))

    # -- the stack ---------------------------------------------------------------------------------------------------

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        """The rooms, in the order in which they are opened; leaving closes them in reverse."""
        settings = self.settings
        before, store = None, self._store()
        if self.job is not None:
            lock = stack.enter_context(JobLock(self.job))
            before = self._prepare_job(store)
            lock.sign()
        log_file = None if self.job is None else self.job / "crawl.log"
        stack.enter_context(crawl_log(log_file, settings.log.level, as_json=settings.log.json))
        self.settings = self._rooms.settings = _within_the_files(settings)
        frontier = await self._open_frontier(stack, store, before)
        key = await self._claim(frontier, self.clock.now())
        if self.worker is not None:
            self._outputs = self._make_outputs(key.hex())
        await self._outputs.open(stack, frontier, self.clock.now())
        self.stats = Stats.decode(self.spider.name, self.clock.now(), frontier.get("stats"))
        if self._processes > 1 and isinstance(frontier, LocalFrontier):
            self.engine = await self._open_parent(stack, frontier, key)
        else:
            self.engine = await self._rooms.open(stack, frontier, Fingerprinter(key), self.stats, self._ends())
        stack.enter_context(Watchdog(self.spider.name, self.stats.stalled))
        if settings.status.listen is not None:
            from crawler.monitor import StatusPage

            page = StatusPage(settings.status, snapshot=self.engine.snapshot, ready=self._why_not_ready)
            await stack.enter_async_context(page)

    def _why_not_ready(self) -> str:
        """Empty while work is taken."""
        phase, frontier = self.engine.phase, self._shared
        if phase is Phase.RUNNING and frontier is not None and not frontier.is_reached:
            return "the frontier's engine is not reached"
        return "" if phase is Phase.RUNNING else {Phase.READY: "starting"}.get(phase, phase.value)

    async def _open_parent(self, stack: contextlib.AsyncExitStack, frontier: LocalFrontier, key: bytes) -> Parent:
        return await opening.open_parent(
            stack,
            self._rooms,
            frontier,
            key=key,
            stats=self.stats,
            ends=self._ends(),
            origins=opening.origins_of(self._rooms, self._arguments, self._processes, opening.log_levels()),
            prints_aside=any(output.target.startswith("-") for output in self.outputs),
        )

    def _ends(self) -> Ends:
        """Where items go."""
        return Ends(
            pipelines=[pipeline_of(pipeline) for pipeline in self.spider.pipelines],
            exporters=self._outputs.items,
            refused=self._outputs.refused,
            keys=self._outputs.keys,
            on_item=self._on_item,
            only_changed=self._only_changed,
            on_turn=self._write_stats_at_times,
            previous=self._previous,
        )

    async def _join(self, stack: contextlib.AsyncExitStack, worker: str) -> SharedFrontier:
        """One of several workers, with its part of their frontier."""
        settings = self.settings
        if self._fresh:
            await workers.discard(settings, self.spider.name)
        frontier = workers.shared_frontier(
            workers.redis_broker(settings, self.spider.name, worker=worker, clock=self.clock, rng=self._rng),
            settings,
            clock=self.clock,
            rng=self._rng,
            rule=self._rooms.rule,
            group=self._rooms.group,
        )
        self._shared = await stack.enter_async_context(frontier)
        logger.info("%s: worker %s joins a crawl: %s", self.spider.name, worker, frontier.first_words())
        return frontier

    async def _open_frontier(
        self, stack: contextlib.AsyncExitStack, store: Store | None, before: Before | None
    ) -> LocalFrontier | SharedFrontier:
        if store is None:
            assert self.worker is not None
            return await self._join(stack, self.worker)
        crawl = self.settings.crawl
        frontier = LocalFrontier(
            store,
            rule=self._rooms.rule,
            order=crawl.order,
            rng=self._rng,
            group=self._rooms.group,
            by_address=self.settings.politeness.group_by == "ip",
            concurrency=crawl.concurrency if self._processes == 1 else None,
        )
        frontier = await stack.enter_async_context(frontier)
        if self.job is not None and (before is Before.SET_ASIDE or frontier.get("refresh") is not None):
            self._previous = open_previous(self.job, self.spider.name)
            if self._previous is not None:
                stack.enter_context(self._previous)
        words = first_words(self.job, before, frontier.counts(), self._previous, refresh=self._refresh)
        logger.info("%s: %s", self.spider.name, words)
        return frontier

    async def _claim(self, frontier: Frontier, now: float) -> bytes:
        """The key of the crawl's fingerprints, made with the job, so that no site can know what collides."""
        owner = frontier.get("spider")
        if owner is not None and owner != self.spider.name.encode():
            raise JobError(
                f"job {self.job} belongs to spider {owner.decode()!r}; "
                f"give {self.spider.name!r} another folder with --job, or discard the job with --fresh"
            )
        key = frontier.get("key")
        if key is None:
            values = {"spider": self.spider.name.encode(), "state": b"running"}
            if self._previous is not None:
                key, values["refresh"] = self._previous.key, b"1"
            else:
                key = secrets.token_bytes(16)
            await frontier.commit({**values, "key": key}, now)
        return key

    def _store(self) -> Store | None:
        """None: it is elsewhere."""
        if self.worker is not None:
            return None
        url = self.settings.frontier.url
        if url is None and self.job is not None:
            from crawler.frontier.disk import DiskStore

            return DiskStore(self.job / "frontier", window=self.settings.frontier.window)
        from crawler.frontier.memory import MemoryStore

        return MemoryStore()

    def _prepare_job(self, store: Store | None) -> Before | None:
        """What the job folder holds of an earlier crawl. One that finished, or is to be discarded, makes room."""
        from crawler.frontier.disk import DiskStore

        assert self.job is not None
        on_disk = store if isinstance(store, DiskStore) else None
        return make_room(
            self.job,
            on_disk,
            self.spider.name,
            fresh=self._fresh,
            refresh=self._refresh,
            replaced=() if self._only_changed else [each.target for each in self.outputs if each.replaces_something],
        )

    # -- stats.json --------------------------------------------------------------------------------------------------

    def _write_stats_at_times(self) -> None:
        if self.clock.now() - self._stats_written >= _STATS_SECONDS:
            self._write_stats()

    def _write_stats(self) -> None:
        self._stats_written = self.clock.now()
        if self.job is None:
            return
        try:
            write_json(self.job / "stats.json", self.engine.totals())
        except OSError as error:
            raise OutputError(
                f"cannot write {self.job / 'stats.json'}: {error.strerror or error}. "
                "When the cause is gone, the same command continues"
            ) from error


def _within_the_files(settings: Settings) -> Settings:
    """With as many requests at once as there are files for: half of them may be idle connections (`FreshConnections`),
    and a quarter stays for the job, the outputs and the callbacks."""
    from crawler.download.connect import half_of_the_files

    most = max(1, half_of_the_files() // 2)
    if settings.crawl.concurrency <= most:
        return settings
    logger.warning(
        "crawl.concurrency is %d here instead of %d: this process may have %d files open; raise it with `ulimit -n %d`",
        most, settings.crawl.concurrency, 2 * half_of_the_files(), 4 * settings.crawl.concurrency,
    )  # fmt: skip
    return msgspec.structs.replace(settings, crawl=msgspec.structs.replace(settings.crawl, concurrency=most))


def _ending(reason: str) -> str:
    if reason == "finished":
        return "finished"
    if reason == "interrupted":
        return "stopped early; the same command continues"
    return f"ended ({reason})"
