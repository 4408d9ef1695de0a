"""A whole crawl in a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.api import _crawl as assemble

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crawler.contracts import Clock
    from crawler.spider import Spider

__all__ = ["Run", "run_spider"]


class Run(NamedTuple):
    """What `run_spider` saw."""

    items: list[Any]
    """As the last pipeline left them, in the order in which their pages ended."""
    reason: str
    stats: dict[str, Any]
    spider: Spider


async def run_spider(
    spider: type[Spider],
    *,
    args: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    job: Path | None = None,
    output: str | Path | Sequence[str | Path] = (),
    overwrite: bool = False,
    refresh: bool = False,
    only_changed: bool = False,
    clock: Clock | None = None,
) -> Run:
    """A whole crawl, without delay between requests unless `settings` say otherwise. Raises as `crawler.crawl` does."""
    items: list[Any] = []

    async def keep(item: Any) -> None:
        items.append(item)

    merged = _merge({"politeness": {"delay_seconds": 0}, "retry": {"base_seconds": 0.01}}, settings or {})
    running = assemble(
        spider,
        args,
        merged,
        output,
        overwrite=overwrite,
        job=job,
        refresh=refresh,
        only_changed=only_changed,
        clock=clock,
        on_item=keep,
    )
    async with running as crawl:
        result = await crawl.run()
        return Run(items, result.reason, result.stats, crawl.spider)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged
