"""The rooms behind a crawl's loop, and the loop over them: of a crawl, or of one of its processes."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crawler.bounds import Bounds
from crawler.collector import Collector
from crawler.context import Context
from crawler.cookies.suffixes import registrable_domain
from crawler.engine import Engine
from crawler.epochs import Epochs
from crawler.errors import UsageError
from crawler.exchange import Exchange
from crawler.export.spool import Spool
from crawler.frontier.shared import SharedFrontier
from crawler.guard import Guard
from crawler.headroom import Headroom, limits
from crawler.inline import Inline
from crawler.item import type_name
from crawler.loader import item_types, load_function
from crawler.parsing import Parsing
from crawler.passage import Passage
from crawler.places import Places
from crawler.politeness import HostRule
from crawler.refresh import Refresh, Revisits
from crawler.refusals import Refusals
from crawler.request import RequestCodec, Timeout
from crawler.retry import RetryPolicy
from crawler.robots import product_token
from crawler.scope import Scope, Shape, compiled
from crawler.visit import Visits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AsyncExitStack
    from pathlib import Path
    from random import Random

    from crawler.contracts import Clock, Exporter, Fetcher, Frontier, Pipeline, Room
    from crawler.download.robots import RobotsCache
    from crawler.frontier.previous import Previous
    from crawler.settings import Settings
    from crawler.spider import Spider
    from crawler.stats import Stats
    from crawler.url import Fingerprinter

__all__ = ["Ends", "Rooms", "pipeline_of"]


@dataclass(frozen=True, slots=True)
class Ends:
    """Where items go, and what else a loop is told by whoever opens it."""

    exporters: Sequence[Exporter] = ()
    """Of items."""
    refused: Exporter | None = None
    keys: Sequence[str] = ()
    """What the frontier keeps the positions of all exporters by, that of refused items last."""
    pipelines: Sequence[Pipeline] = ()
    passage: type[Passage] = Passage
    on_item: Callable[[Any], Awaitable[None]] | None = None
    only_changed: bool = False
    on_turn: Callable[[], None] = lambda: None
    previous: Previous | None = None
    """The last crawl, where this one is a refresh."""

    @property
    def all(self) -> Sequence[Exporter]:
        return [*self.exporters, *([] if self.refused is None else [self.refused])]


class Rooms:
    """`settings` may be changed until `open`. Raises `UsageError` for rules of the spider that cannot be read."""

    def __init__(self, spider: Spider, settings: Settings, *, clock: Clock, rng: Random, job: Path | None) -> None:
        self.spider = spider
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self.job = job
        self.scope = _scope(spider, settings)
        self.group = _site_of if settings.politeness.group_by == "domain" else None
        """The group in which a host is treated; None: each is its own, or `regroup` says."""
        self.rule = functools.lru_cache(maxsize=10_000)(self._make_rule)

    async def open(
        self, stack: AsyncExitStack, frontier: Frontier, fingerprint: Fingerprinter, stats: Stats, ends: Ends
    ) -> Engine:
        """The rooms, in the order in which they are opened; leaving `stack` closes them in reverse."""
        headroom = stack.enter_context(Headroom(limits()))
        fetcher = await self.fetcher(stack, headroom.room)
        fetcher.on_open = lambda host: frontier.sent(host, self.clock.now())
        fetcher.restore_cookies(row for _, row in frontier.rows("cookie/"))
        if isinstance(frontier, SharedFrontier):
            frontier.count_pages(lambda: stats.total.pages)
            frontier.on_named = fetcher.allow_host
        parsing = await stack.enter_async_context(Parsing(frontier.stays_at_work, spare=headroom.spare))
        return self._build(self.context(frontier, fetcher, stats, headroom), parsing, fingerprint, ends)

    async def fetcher(self, stack: AsyncExitStack, room: Room | None) -> Fetcher:
        from crawler.download.session import Downloader

        http, security = self.settings.http, self.settings.security
        downloader = Downloader(
            self.settings,
            Guard(security.allow_private_networks, security.allow_networks),
            trace_configs=self.spider.trace_configs,
            json_dumps=load_function("http.json_dumps", http.json_dumps) or json.dumps,
            json_loads=load_function("http.json_loads", http.json_loads),
            clock=self.clock.now,
            room=room,
        )
        return await stack.enter_async_context(downloader)

    def _bounds(self, context: Context, fingerprint: Fingerprinter) -> Bounds:
        bounds, frontier = Bounds(context, self.scope, fingerprint), context.frontier

        def learn(values: Mapping[str, bytes | None]) -> None:
            context.fetcher.restore_cookies(_cookies(values))
            bounds.learn(values)

        if isinstance(frontier, SharedFrontier):
            frontier.on_shared = learn
        return bounds

    def _build(self, context: Context, parsing: Parsing, fingerprint: Fingerprinter, ends: Ends) -> Engine:
        """The loop over the rooms."""
        frontier, fetcher = context.frontier, context.fetcher
        codec = RequestCodec(item_types(type(self.spider)))
        bounds = self._bounds(context, fingerprint)
        robots = self._robots(frontier)
        refusals = Refusals(fingerprint, self.clock, (row for _, row in frontier.rows("refused/")))
        refresh = None if ends.previous is None else Refresh(context, ends.previous, codec, fingerprint)
        rows = (fetcher.cookie_rows, robots.rows, refusals.rows, bounds.rows)
        epochs = Epochs(
            context,
            exporters=ends.all,
            refused=ends.refused,
            outputs=ends.keys,
            rows=(*rows, *([] if refresh is None else [refresh.rows])),
            on_page=bounds.settle,
            on_turn=ends.on_turn,
        )
        collector = Collector(
            context,
            codec=codec,
            fingerprint=fingerprint,
            bounds=bounds,
            passage=self.passage(context, ends),
            refusals=refusals,
            relieve=epochs.relieve,
        )
        places = Places(context)
        exchange = Exchange(
            context,
            robots=robots,
            places=places,
            bounds=bounds,
            parsing=parsing,
            is_known=collector.is_known,
            fetch=None if refresh is None else refresh.fetch,
        )
        exchange.on_pause = epochs.hurry
        inline = Inline(context, exchange, places)
        visits = Visits(
            context,
            bounds=bounds,
            exchange=exchange,
            collector=collector,
            inline=inline,
            revisits=Revisits(context, codec),
            refresh=refresh,
        )
        return Engine(
            context,
            visits=visits,
            refresh=refresh,
            inline=inline,
            places=places,
            collector=collector,
            codec=codec,
            epochs=epochs,
            pipelines=ends.pipelines,
        )

    def passage(self, context: Context, ends: Ends) -> Passage:
        return ends.passage(
            context,
            pipelines=ends.pipelines,
            exporters=ends.exporters,
            refused=ends.refused,
            make_spool=functools.partial(Spool, self.job),
            on_item=ends.on_item,
            only_changed=ends.only_changed,
        )

    def context(self, frontier: Frontier, fetcher: Fetcher, stats: Stats, headroom: Headroom) -> Context:
        return Context(
            spider=self.spider,
            settings=self.settings,
            frontier=frontier,
            fetcher=fetcher,
            stats=stats,
            clock=self.clock,
            rng=self.rng,
            retry=_retry_policy(self.settings),
            rule=self.rule,
            headroom=headroom,
            job=self.job,
        )

    def _robots(self, frontier: Frontier) -> RobotsCache:
        from crawler.download.robots import RobotsCache

        http = self.settings.http
        timeout = Timeout(total=http.total_seconds, connect=http.connect_seconds, sock_read=http.read_seconds)
        agent = product_token(http.user_agent)
        return RobotsCache(self.clock, agent, timeout, saved=frontier.get, patience=self.settings.retry.times)

    def _make_rule(self, host: str) -> HostRule:
        rule = self.settings.politeness.for_host(host)
        return HostRule(
            delay=rule.delay_seconds,
            jitter=rule.jitter,
            concurrency=rule.concurrency_per_host,
            adaptive=rule.adaptive,
            max_delay=rule.max_delay_seconds,
            obey_robots=rule.obey_robots,
            obey_nofollow=rule.obey_nofollow,
            max_crawl_delay=rule.max_crawl_delay_seconds,
            circuit_failures=rule.circuit_failures,
        )


def check_lists(spider: Spider) -> None:
    """Whether what comes in an order is given in one: of a dict, as Scrapy has it, its numbers would go unread. Raises
    `UsageError`."""
    for attribute, given in (("pipelines", spider.pipelines), ("middlewares", spider.middlewares)):
        if not isinstance(given, (list, tuple)):
            raise UsageError(f"{attribute} of spider {spider.name!r} is a list, in order, not a {type_name(given)}")
    for middleware in spider.middlewares:
        if not callable(middleware) or isinstance(middleware, type):
            raise UsageError(f"middleware {middleware!r} needs to be an `async def name(request, fetch)`")


def pipeline_of(pipeline: Any) -> Pipeline:
    """One of `Spider.pipelines`, made where it is a class. Raises `UsageError`."""
    made = pipeline() if isinstance(pipeline, type) else pipeline
    if not callable(getattr(made, "process_item", None)):
        raise UsageError(f"pipeline {made!r} needs a method `async def process_item(self, item, spider)`")
    pipeline_made: Pipeline = made
    return pipeline_made


def _cookies(values: Mapping[str, bytes | None]) -> list[bytes]:
    return [row for key, row in values.items() if key.startswith("cookie/") and row is not None]


def _site_of(host: str) -> str:
    """The registrable domain of `"www.example.com:443"`; the name itself where it has none, as an address has none."""
    name = host.rpartition(":")[0]
    return registrable_domain(name) or name


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
        retry.times,
        retry.http_codes,
        retry.base_seconds,
        retry.max_seconds,
        retry.retry_after_max_seconds,
        retry.host_failures,
    )
