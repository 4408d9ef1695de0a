"""From settings to a running crawl: the only file that names concrete classes.

`Crawl` is one run: `async with Crawl(...) as crawl: await crawl.run()`. Its `__aenter__` is the stack, in order;
leaving closes it in reverse. Nothing is global, so crawls run one after the other and side by side.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import logging
import os
import secrets
import shutil
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from crawler import crash
from crawler import settings as setting
from crawler.bounds import Bounds
from crawler.clock import SystemClock
from crawler.collector import Collector
from crawler.context import Context
from crawler.engine import Engine
from crawler.epochs import Epochs
from crawler.errors import EngineUnavailable, JobError, OutputError, SettingsError, UsageError
from crawler.exchange import Exchange
from crawler.export import make_exporter
from crawler.export.spool import Spool
from crawler.frontier.kept import Kept
from crawler.frontier.local import LocalFrontier
from crawler.guard import Guard
from crawler.inline import Inline
from crawler.loader import item_types, load_function
from crawler.lock import JobLock
from crawler.log import crawl_log
from crawler.politeness import HostRule
from crawler.refusals import Refusals
from crawler.request import RequestCodec, Timeout
from crawler.retry import RetryPolicy
from crawler.robots import product_token
from crawler.scope import Scope, Shape, compiled
from crawler.stats import Stats, write_json
from crawler.url import Fingerprinter
from crawler.visit import Visits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from crawler.contracts import Clock, Exporter, Fetcher, Pipeline
    from crawler.frontier.store import Store
    from crawler.settings import Loaded, Settings
    from crawler.spider import Spider

__all__ = ["Crawl", "Output", "Result", "load_settings"]

logger = logging.getLogger("crawler.job")

_STATS_SECONDS = 10.0
_UNFINISHED = frozenset({"running", "interrupted", "failed", "error_limit", "stopped"})
"""States that the same command continues from; the others are a finish, after which it begins anew."""


class _Before(enum.Enum):
    UNFINISHED = "the last one is unfinished"
    FINISHED = "the last one had finished"
    DISCARDED = "the last one is discarded"


class Output(NamedTuple):
    """Where items go: a file whose suffix says the format, or `-`."""

    target: str
    overwrite: bool = False


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

    `job` is the job's folder; None keeps everything in memory. `fresh` discards what an unfinished job has. `on_item`
    gets each item as the page that gave it ends. Raises `UsageError` or `EngineUnavailable` on entering when something
    is not as it must be, before anything is sent.
    """

    def __init__(
        self,
        spider: Spider,
        settings: Settings,
        *,
        job: Path | None = None,
        outputs: Sequence[Output] = (),
        fresh: bool = False,
        clock: Clock | None = None,
        rng: Random | None = None,
        on_item: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self.spider = spider
        self.settings = settings
        self.job = job
        self.outputs = tuple(outputs)
        self._exporters: list[Exporter] = [make_exporter(output.target, output.overwrite) for output in outputs]
        self._scope = _scope(spider, settings)
        self.clock: Clock = clock or SystemClock()
        self._fresh = fresh
        self._rng = rng or Random()
        self._on_item = on_item
        self._rule = functools.lru_cache(maxsize=10_000)(self._make_rule)
        self._stack = contextlib.AsyncExitStack()
        self._stats_written = 0.0
        self.engine: Engine
        self.stats: Stats

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
        logger.info("%s: %s", self.spider.name, _ending(reason))
        return Result(reason, self.engine.totals(), self.job, tuple(output.target for output in self.outputs))

    # -- the stack ---------------------------------------------------------------------------------------------------

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        """The rooms, in the order in which they are opened; leaving closes them in reverse."""
        from crawler.download.session import Downloader

        settings = self.settings
        before, store = None, self._store()
        if self.job is not None:
            lock = stack.enter_context(JobLock(self.job))
            before = self._prepare_job(store)
            lock.sign()
        log_file = None if self.job is None else self.job / "crawl.log"
        stack.enter_context(crawl_log(log_file, settings.log.level, as_json=settings.log.json))
        frontier = await self._open_frontier(stack, store, before)
        key = await self._claim(frontier, self.clock.now())
        await self._open_exporters(stack, frontier)
        self.stats = Stats.decode(self.spider.name, self.clock.now(), frontier.get("stats"))
        guard = Guard(settings.security.allow_private_networks, settings.security.allow_networks)
        downloader = Downloader(
            settings,
            guard,
            trace_configs=self.spider.trace_configs,
            json_dumps=load_function("http.json_dumps", settings.http.json_dumps) or json.dumps,
            json_loads=load_function("http.json_loads", settings.http.json_loads),
            clock=self.clock.now,
        )
        fetcher = await stack.enter_async_context(downloader)
        fetcher.restore_cookies(row for _, row in frontier.rows("cookie/"))
        self.engine = self._build(frontier, fetcher, Fingerprinter(key))

    def _build(self, frontier: LocalFrontier, fetcher: Fetcher, fingerprint: Fingerprinter) -> Engine:
        """The loop over the rooms."""
        from crawler.download.robots import RobotsCache

        settings = self.settings
        context = Context(
            spider=self.spider,
            settings=settings,
            frontier=frontier,
            fetcher=fetcher,
            stats=self.stats,
            clock=self.clock,
            rng=self._rng,
            retry=_retry_policy(settings),
            rule=self._rule,
            job=self.job,
        )
        pipelines = [_instance(pipeline) for pipeline in self.spider.pipelines]
        codec = RequestCodec(item_types(type(self.spider)))
        bounds = Bounds(context, self._scope, fingerprint)
        http = settings.http
        timeout = Timeout(total=http.total_seconds, connect=http.connect_seconds, sock_read=http.read_seconds)
        robots = RobotsCache(fetcher, self.clock, product_token(http.user_agent), timeout, saved=frontier.get)
        refusals = Refusals(fingerprint, self.clock, (row for _, row in frontier.rows("refused/")))
        epochs = Epochs(
            context,
            exporters=self._exporters,
            outputs=[self._output_key(exporter) for exporter in self._exporters],
            rows=(fetcher.cookie_rows, robots.rows, refusals.rows, bounds.rows),
            on_page=bounds.settle,
            on_turn=self._write_stats_at_times,
        )
        collector = Collector(
            context,
            codec=codec,
            fingerprint=fingerprint,
            bounds=bounds,
            pipelines=pipelines,
            exporters=self._exporters,
            make_spool=functools.partial(Spool, self.job),
            refusals=refusals,
            relieve=epochs.relieve,
            on_item=self._on_item,
        )
        exchange = Exchange(context, robots=robots, bounds=bounds, is_known=collector.is_known)
        inline = Inline(context, exchange)
        return Engine(
            context,
            visits=Visits(context, bounds=bounds, exchange=exchange, collector=collector, inline=inline),
            inline=inline,
            collector=collector,
            codec=codec,
            epochs=epochs,
            pipelines=pipelines,
        )

    async def _open_frontier(
        self, stack: contextlib.AsyncExitStack, store: Store, before: _Before | None
    ) -> LocalFrontier:
        frontier = LocalFrontier(store, rule=self._rule, order=self.settings.crawl.order, rng=self._rng)
        frontier = await stack.enter_async_context(frontier)
        where = f" in {self.job}" if self.job is not None else ""
        if before is _Before.UNFINISHED:
            counts = frontier.counts()
            logger.info(
                "%s: continuing the interrupted crawl%s: %d done, %d waiting",
                self.spider.name, where, counts.completed, counts.queued,
            )  # fmt: skip
        else:
            remark = "" if before is None else f"; {before.value}"
            logger.info("%s: starting a new crawl%s%s", self.spider.name, where, remark)
        return frontier

    async def _claim(self, frontier: LocalFrontier, now: float) -> bytes:
        """The key of the crawl's fingerprints, made with the job, so that no site can know what collides."""
        owner = frontier.get("spider")
        if owner is not None and owner != self.spider.name.encode():
            raise JobError(
                f"job {self.job} belongs to spider {owner.decode()!r}; "
                f"give {self.spider.name!r} another folder with --job, or discard the job with --fresh"
            )
        key = frontier.get("key")
        if key is None:
            key = secrets.token_bytes(16)
            await frontier.commit({"key": key, "spider": self.spider.name.encode(), "state": b"running"}, now)
        return key

    def _store(self) -> Store:
        url = self.settings.frontier.url
        if url is None and self.job is not None:
            from crawler.frontier.disk import DiskStore

            return DiskStore(self.job / "frontier", window=self.settings.frontier.window)
        if url is None or url == "memory://":
            from crawler.frontier.memory import MemoryStore

            return MemoryStore()
        raise SettingsError(f"frontier.url: no engine for {url!r}; leave it out for the job's folder, or use memory://")

    def _prepare_job(self, store: Store) -> _Before | None:
        """What the job folder holds of an earlier crawl. One that finished, or is to be discarded, makes room."""
        assert self.job is not None
        folder, old = self.job / "frontier", self.job / "frontier.old"
        shutil.rmtree(old, ignore_errors=True)  # of a start that was killed here
        repaired = self.job / "frontier.repaired"
        if repaired.exists() and not folder.exists():  # `crawler jobs repair` was killed when all but this was done
            os.replace(repaired, folder)
        if self.settings.frontier.url is not None or not folder.exists():
            return None
        if self._fresh:
            before = _Before.DISCARDED
        elif self._is_unfinished(store, folder):
            return _Before.UNFINISHED
        else:
            before = _Before.FINISHED
        os.replace(folder, old)  # at once: half a frontier would be none
        crash.point("recovery_discarding")
        shutil.rmtree(old, ignore_errors=True)
        return before

    def _is_unfinished(self, store: Store, folder: Path) -> bool:
        from crawler.frontier.disk import DiskStore
        from crawler.frontier.layout import refuse_other_format

        assert isinstance(store, DiskStore)
        found = store.peek()
        if found is None:
            return False
        refuse_other_format(folder, found.format)
        if found.lost_epochs:
            logger.warning(
                "%s: the machine stopped without saving everything; going back by %d epochs to what is surely on disk",
                self.spider.name, found.lost_epochs,
            )  # fmt: skip
        return found.state in _UNFINISHED

    # -- outputs -----------------------------------------------------------------------------------------------------

    async def _open_exporters(self, stack: contextlib.AsyncExitStack, frontier: LocalFrontier) -> None:
        keys = [self._output_key(exporter) for exporter in self._exporters]
        if len(set(keys)) < len(keys):
            raise UsageError(f"the same output is named twice: {', '.join(each.target for each in self._exporters)}")
        positions = await self._held_positions(frontier)
        for exporter, position in zip(self._exporters, positions, strict=True):
            await exporter.open(position)
            stack.push_async_callback(exporter.close)
        crash.point("recovery_outputs")
        # Nothing is written to the frontier before what it says of the outputs is safe (see `DiskStore.sync`).
        await frontier.sync(self._sync_outputs)
        # Where each output begins is known before anything is written to it: a crash cuts it back to here at least.
        saved = _decoded(frontier.get("positions"))
        begun = {key: await each.flush() for key, each in zip(keys, self._exporters, strict=True)}
        places = _decoded_places(frontier.get("outputs"))
        for key, exporter in zip(keys, self._exporters, strict=True):
            places[key] = Kept(exporter.target, exporter.path or "-", exporter.format)
        forgotten = sorted(place.target for key, place in places.items() if key not in keys)
        if forgotten:
            logger.warning(
                "%s: this job wrote to %s before; items found from now on will not be there",
                self.spider.name, ", ".join(forgotten),
            )  # fmt: skip
        values = {"positions": {**saved, **begun}, "outputs": places}
        await frontier.commit({key: msgspec.msgpack.encode(value) for key, value in values.items()}, self.clock.now())

    async def _held_positions(self, frontier: LocalFrontier) -> list[bytes | None]:
        """Where each output goes on. One whose end was torn takes the frontier back with it, epoch by epoch, if there
        is one in which all of them are what was written; if not, the frontier stays as it is."""
        newest = [self._position(frontier, exporter) for exporter in self._exporters]
        positions = newest
        while torn := await self._torn(positions):
            logger.warning("%s: the end of %s is not what was written", self.spider.name, ", ".join(torn))
            if not await frontier.roll_back():
                return newest
            logger.info("%s: going back to the epoch before", self.spider.name)
            positions = [self._position(frontier, exporter) for exporter in self._exporters]
        return positions

    async def _torn(self, positions: Sequence[bytes | None]) -> list[str]:
        """The outputs that are there, and not what was committed."""
        return [
            exporter.target
            for exporter, position in zip(self._exporters, positions, strict=True)
            if position is not None and _is_there(exporter) and not await exporter.holds(position)
        ]

    def _position(self, frontier: LocalFrontier, exporter: Exporter) -> bytes | None:
        """As committed: by the place beside the job folder; where the folder was moved alone, by its path or name."""
        positions, key = _decoded(frontier.get("positions")), self._output_key(exporter)
        if key in positions:
            return positions[key]
        for other, (target, path, _) in _decoded_places(frontier.get("outputs")).items():
            if other in positions and (path == exporter.path or target == exporter.target):
                return positions[other]
        return None

    def _output_key(self, exporter: Exporter) -> str:
        if exporter.path is None:
            return "-"
        return exporter.path if self.job is None else os.path.relpath(exporter.path, self.job)

    async def _sync_outputs(self) -> None:
        for exporter in self._exporters:
            await exporter.sync()

    # -- hosts -------------------------------------------------------------------------------------------------------

    def _make_rule(self, host: str) -> HostRule:
        rule = self.settings.politeness.for_host(host)
        return HostRule(
            delay=rule.delay_seconds,
            jitter=rule.jitter,
            concurrency=rule.concurrency_per_host,
            adaptive=rule.adaptive,
            max_delay=rule.max_delay_seconds,
            obey_robots=rule.obey_robots,
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


def _is_there(exporter: Exporter) -> bool:
    return exporter.path is not None and os.path.exists(exporter.path)


def _decoded(positions: bytes | None) -> dict[str, bytes]:
    return {} if positions is None else msgspec.msgpack.decode(positions, type=dict[str, bytes])


def _decoded_places(outputs: bytes | None) -> dict[str, Kept]:
    """By output key."""
    return {} if outputs is None else msgspec.msgpack.decode(outputs, type=dict[str, Kept])


def _instance(pipeline: Any) -> Pipeline:
    made = pipeline() if isinstance(pipeline, type) else pipeline
    if not callable(getattr(made, "process_item", None)):
        raise UsageError(f"pipeline {made!r} needs a method `async def process_item(self, item, spider)`")
    pipeline_made: Pipeline = made
    return pipeline_made


def _scope(spider: Spider, settings: Settings) -> Scope:
    crawl = settings.crawl
    return Scope(
        spider.allowed_domains,
        allow=compiled(spider.name, "allow", spider.allow),
        deny=compiled(spider.name, "deny", spider.deny),
        depth_limit=crawl.depth_limit,
        shape=Shape(settings.http.max_url_length, crawl.max_path_segments, crawl.max_path_repeats),
    )


def _retry_policy(settings: Settings) -> RetryPolicy:
    retry = settings.retry
    return RetryPolicy(
        retry.times, retry.http_codes, retry.base_seconds, retry.max_seconds, retry.retry_after_max_seconds
    )


def _ending(reason: str) -> str:
    if reason == "finished":
        return "finished"
    if reason == "interrupted":
        return "stopped early; the same command continues"
    return f"ended ({reason})"
