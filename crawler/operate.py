"""What an operator does with a crawl that workers share: begin it, look at it, pause and end it, collect its items.

Every function takes loaded settings, whose `frontier.url` says where, and the crawl's name. Raises `UsageError` where
that is no shared frontier, `JobError` where there is no such crawl, `EngineUnavailable` where there is no engine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import JobError, UsageError
from crawler.frontier.kept import Kept
from crawler.workers import is_shared, without_extra

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.export.joining import JoinReport
    from crawler.frontier.broker import Control
    from crawler.settings import FrontierSettings, Settings

__all__ = ["control", "create", "discard", "export_items", "report"]


def create(settings: Settings, spider: str) -> bool:
    """The crawl, with nothing in it: the first worker begins it. False: it is there already."""
    frontier = _shared(settings.frontier)
    with without_extra():
        from crawler.frontier.redis import operate
    made = operate.create(
        frontier,
        crawl=frontier.crawl or spider,
        spider=spider,
        order=settings.crawl.order,
        group_by=settings.politeness.group_by,
        page_limit=settings.crawl.page_limit,
    )
    return asyncio.run(made)


def report(settings: FrontierSettings, crawl: str) -> dict[str, Any]:
    """How it stands: counts, workers, what it is told to do; plain values."""
    with without_extra():
        from crawler.frontier.redis import operate
    return asyncio.run(operate.report(_shared(settings), crawl=crawl))


def control(settings: FrontierSettings, crawl: str, to: Control, reason: str) -> None:
    """What the crawl as a whole does from now on; its workers hear of it within about a second."""
    with without_extra():
        from crawler.frontier.redis import operate
    asyncio.run(operate.control(_shared(settings), crawl=crawl, to=to, reason=reason))


def discard(settings: FrontierSettings, crawl: str) -> bool:
    """Everything of it. False: there is none. Raises `JobError` while workers are at it."""
    with without_extra():
        from crawler.frontier.redis import operate
    return asyncio.run(operate.discard(_shared(settings), crawl=crawl))


def export_items(
    settings: FrontierSettings, crawl: str, target: str, *, overwrite: bool, folder: Path | None = None
) -> JoinReport:
    """The committed part of each worker's output, joined in one. `folder` is where the parts were collected. Of several
    outputs the first that every worker has is taken."""
    from crawler.export.joining import Part, export_parts

    with without_extra():
        from crawler.frontier.redis import operate
    workers = asyncio.run(operate.parts(_shared(settings), crawl=crawl))
    parts: list[Part] = []
    for own in workers.values():
        outputs = msgspec.msgpack.decode(own.get("outputs", b"\x80"), type=dict[str, Kept])
        positions = msgspec.msgpack.decode(own.get("positions", b"\x80"), type=dict[str, bytes])
        for key, kept in outputs.items():
            if kept.path != "-" and key in positions:
                parts.append(Part(kept.path, kept.format, positions[key]))
                break
    if not parts:
        raise JobError(f"the workers of crawl {crawl!r} wrote no output, so there are no items to export")
    return export_parts(parts, target, overwrite, folder)


def _shared(settings: FrontierSettings) -> FrontierSettings:
    if not is_shared(settings):
        raise UsageError("which frontier? Give --frontier redis://HOST:PORT/DB, or set frontier.url")
    return settings
