"""A crawl in several processes, put together: what the parent has, and what each child is told."""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.epochs import Epochs
from crawler.errors import SettingsError, UsageError
from crawler.export.spool import Spool
from crawler.frontier.lending import Lending
from crawler.headroom import Headroom, limits
from crawler.loader import item_types
from crawler.processes.origin import Origin
from crawler.processes.parent import Parent
from crawler.request import RequestCodec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AsyncExitStack

    from crawler.frontier.local import LocalFrontier
    from crawler.rooms import Ends, Rooms
    from crawler.settings import Settings
    from crawler.stats import Stats

__all__ = ["check_options", "log_levels", "open_parent", "origins_of", "processes_of"]

_LEASE_SECONDS = 300.0
"""How long one callback may block its process, before another one gets its pages."""


def processes_of(wanted: int) -> int:
    """0: one for each processor that this process may use. Raises `UsageError`."""
    if wanted < 0:
        raise UsageError(f"processes: expected 0 or more, got {wanted}")
    return wanted or len(os.sched_getaffinity(0))


def check_options(settings: Settings, *, refresh: bool, is_shared: bool, has_clock: bool) -> None:
    """Raises `UsageError` for what several processes cannot do."""
    if is_shared:
        raise UsageError("processes: with a frontier on an engine each process is a worker of its own: start several")
    if refresh:
        raise UsageError("processes: a refresh (--refresh) is done by one process")
    if has_clock:
        raise UsageError("processes: a clock cannot be given to other processes (clock=)")
    if settings.politeness.group_by == "ip":
        raise SettingsError(
            'politeness.group_by = "ip": several processes cannot do that, because a host has to have its group before '
            'anybody looks it up; use "host" or "domain", or one process'
        )


def origins_of(rooms: Rooms, arguments: Mapping[str, Any], processes: int, levels: tuple[int, int]) -> list[Origin]:
    """What each child is told. Raises `UsageError`."""
    job = None if rooms.job is None else str(rooms.job.absolute())
    return [
        Origin.of(
            rooms.spider,
            arguments,
            _part_of(rooms.settings, number, processes),
            worker=str(number + 1),
            job=job,
            levels=levels,
        )
        for number in range(processes)
    ]


def _part_of(settings: Settings, number: int, processes: int) -> Settings:
    """Each child has its part of the requests at a time. Limits are the parent's, but for that of pages, which are
    allowed to each as it goes."""
    whole, rest = divmod(settings.crawl.concurrency, processes)
    crawl = msgspec.structs.replace(
        settings.crawl,
        concurrency=max(1, whole + (number < rest)),
        item_limit=0,
        error_limit=0,
        time_limit_seconds=0.0,
    )
    output = msgspec.structs.replace(settings.output, refused_limit=0)
    return msgspec.structs.replace(settings, crawl=crawl, output=output)


async def open_parent(
    stack: AsyncExitStack,
    rooms: Rooms,
    frontier: LocalFrontier,
    *,
    key: bytes,
    stats: Stats,
    ends: Ends,
    origins: Sequence[Origin],
    prints_aside: bool,
) -> Parent:
    """`prints_aside`: what spiders print is not to stand among items on standard output."""
    fetcher = await rooms.fetcher(stack, None)  # it sends nothing; it knows the cookies that were kept
    fetcher.restore_cookies(row for _, row in frontier.rows("cookie/"))
    headroom = stack.enter_context(Headroom(limits()))  # to be shown; pages are begun by the children
    context = rooms.context(frontier, fetcher, stats, headroom)
    epochs = Epochs(context, exporters=ends.all, refused=ends.refused, outputs=ends.keys, on_turn=ends.on_turn)
    return Parent(
        context,
        origins,
        frontier=frontier,
        lending=functools.partial(
            Lending,
            frontier,
            clock=rooms.clock,
            key=key,
            workers=len(origins),
            group=rooms.group,
            page_limit=rooms.settings.crawl.page_limit,
            lease_seconds=_LEASE_SECONDS,
        ),
        epochs=epochs,
        passage=rooms.passage(context, ends),
        codec=RequestCodec(item_types(type(rooms.spider))),
        pipelines=ends.pipelines,
        is_slow=bool(ends.pipelines or ends.on_item),
        refused=ends.refused,
        make_spool=functools.partial(Spool, rooms.job),
        prints_aside=prints_aside,
    )


def log_levels() -> tuple[int, int]:
    """Of the root logger and of ours: what less severe lines of children would be sent for nothing."""
    return logging.getLogger().getEffectiveLevel(), logging.getLogger("crawler").getEffectiveLevel()
