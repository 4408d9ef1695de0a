"""One of several workers of a crawl (`frontier.url = "redis://…"`): its name, its folder, and its part of the frontier.

Workers are alike and do not know each other. What each writes (outputs, log, statistics) has its name in it; a worker
that comes under the same name again continues it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from typing import TYPE_CHECKING

from crawler.errors import SettingsError, UsageError
from crawler.frontier.loans import quota
from crawler.frontier.shared import SharedFrontier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from random import Random

    from crawler.contracts import Clock
    from crawler.frontier.broker import Broker
    from crawler.politeness import HostRule
    from crawler.settings import FrontierSettings, Settings

__all__ = ["REDIS", "is_shared", "redis_broker", "shared_frontier", "without_extra", "worker_folder", "worker_name"]

REDIS = ("redis://", "rediss://", "redis+cluster://", "rediss+cluster://")
_LAPSES = 10
"""Workers that died with a request before it is suspected to be the cause: each has had hundreds, most not begun."""


def is_shared(settings: FrontierSettings) -> bool:
    return settings.url is not None and settings.url.startswith(REDIS)


def worker_name(settings: FrontierSettings) -> str:
    """As the user said, or `HOST-PID`: a container keeps it when it is started again."""
    return settings.worker or re.sub(r"[^A-Za-z0-9_.-]", "_", f"{socket.gethostname()}-{os.getpid()}")


def worker_folder(job: Path, worker: str) -> Path:
    """`jobs/books` is `jobs/books.WORKER`."""
    return job.with_name(f"{job.name}.{worker}")


def check_options(settings: Settings, *, refresh: bool) -> None:
    """Raises `UsageError` for what several workers cannot do."""
    if refresh:
        raise UsageError("--refresh (refresh=) needs a job folder of its own: a shared frontier does not keep pages")
    if settings.politeness.group_by == "ip":
        raise SettingsError(
            'politeness.group_by = "ip": a shared frontier cannot do that, because a host has to have its group before '
            'anybody looks it up; use "host" or "domain"'
        )


@contextlib.contextmanager
def without_extra() -> Iterator[None]:
    """Around the import of what needs the extra `redis`. Raises `UsageError` where that is not installed."""
    try:
        yield
    except ImportError as error:
        if not (error.name or "").startswith(("redis", "hiredis")):
            raise
        raise UsageError("frontier.url: Redis needs an extra: pip install 'crawler[redis]'") from error


def redis_broker(settings: Settings, spider: str, *, worker: str, clock: Clock, rng: Random) -> Broker:
    """Raises `UsageError` where the extra is not installed."""
    with without_extra():
        from crawler.frontier.redis.broker import RedisBroker
    manners, crawl, frontier = settings.politeness, settings.crawl, settings.frontier
    return RedisBroker(
        frontier,
        worker=worker,
        crawl=frontier.crawl or spider,
        spider=spider,
        order=crawl.order,
        group_by=manners.group_by,
        page_limit=crawl.page_limit,
        quota=quota(manners.delay_seconds),
        places=manners.concurrency_per_host,
        shared_places=0 if manners.delay_seconds else manners.concurrency_per_host,
        concurrency=crawl.concurrency,
        delay=manners.delay_seconds,
        clock=clock,
        rng=rng,
    )


def shared_frontier(
    broker: Broker,
    settings: Settings,
    *,
    clock: Clock,
    rng: Random,
    rule: Callable[[str], HostRule],
    group: Callable[[str], str] | None,
    lapses: int = _LAPSES,
) -> SharedFrontier:
    return SharedFrontier(
        broker,
        clock=clock,
        rule=rule,
        rng=rng,
        group=group,
        concurrency=settings.crawl.concurrency,
        page_limit=settings.crawl.page_limit,
        lapses=lapses,
        settles=settings.crawl.pages_per_host > 0,
    )


async def discard(settings: Settings, spider: str) -> None:
    """The whole crawl, of all workers. Raises `JobError` while any of them is at it."""
    with without_extra():
        from crawler.frontier.redis import operate
    await operate.discard(settings.frontier, crawl=settings.frontier.crawl or spider)
