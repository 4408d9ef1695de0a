"""What a crawl shows of itself: the live line, the log line, the summary table, `crawler status`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import UsageError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import RenderableType

    from crawler.contracts import Clock

__all__ = ["LogProgress", "latest_job", "live_line", "read_stats", "show_live", "summary"]

logger = logging.getLogger("crawler.progress")

_LOG_SECONDS = 10.0


class Rate:
    """Pages a second since the last look, smoothed; at the first look, since the start."""

    def __init__(self) -> None:
        self._elapsed = 0.0
        self._pages = 0
        self._shown: float | None = None

    def __call__(self, elapsed: float, pages: int) -> float:
        if elapsed > self._elapsed:
            now = (pages - self._pages) / (elapsed - self._elapsed)
            self._shown = now if self._shown is None else 0.6 * self._shown + 0.4 * now
        self._elapsed, self._pages = elapsed, pages
        return self._shown or 0.0


def live_line(snapshot: dict[str, Any], rate: float) -> str:
    """`books  412 pages  31.5/s  401 items  588 queued  1 host  0 errors  limit: delay`."""
    hosts = snapshot["active_hosts"]
    return (
        f"{snapshot['spider']}  {snapshot['pages']} pages  {rate:.1f}/s  {snapshot['items']} items  "
        f"{snapshot['queued']} queued  {hosts} active host{'' if hosts == 1 else 's'}  "
        f"{snapshot['errors']} errors  limit: {snapshot['limited_by']}"
    )


class LogProgress:
    """Off a terminal: the live line as a log line every ten seconds."""

    def __init__(self, now: float) -> None:
        self._rate = Rate()
        self._due = now + _LOG_SECONDS

    def __call__(self, snapshot: Callable[[], dict[str, Any]], now: float) -> None:
        if now >= self._due:
            self._due = now + _LOG_SECONDS
            seen = snapshot()
            logger.info("%s", live_line(seen, self._rate(seen["elapsed_seconds"], seen["pages"])))


async def show_live(snapshot: Callable[[], dict[str, Any]], clock: Clock, ended: asyncio.Event) -> None:
    """On a terminal: one line on standard error, redrawn once a second, log lines above it."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    rate = Rate()
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while not ended.is_set():
            seen = snapshot()
            line = Text(
                live_line(seen, rate(seen["elapsed_seconds"], seen["pages"])), overflow="ellipsis", no_wrap=True
            )
            live.update(line, refresh=True)
            await clock.wait(ended, 1.0)


def summary(stats: dict[str, Any], outputs: tuple[str, ...] = (), job: Path | None = None) -> RenderableType:
    """The table at the end of a run and of `crawler status`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{stats['spider']}: {stats['reason']}", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(stats):
        table.add_row(name, Text(value))
    for output in outputs:
        table.add_row("output", Text(output))
    if job is not None:
        table.add_row("job", Text(str(job)))
    return table


def _rows(stats: dict[str, Any]) -> list[tuple[str, str]]:
    seconds = stats["elapsed_seconds"]
    per_second = stats["pages"] / seconds if seconds else 0.0
    rows = [
        ("time", f"{seconds:.1f} s"),
        ("pages", f"{stats['pages']} ({per_second:.1f}/s)"),
        ("items", str(stats["items"])),
        ("requests", f"{stats['requests']} ({stats['retries']} retries, {stats['redirects']} redirects)"),
        ("received", f"{stats['bytes'] / 2**20:.1f} MiB"),
        ("hosts", str(stats["hosts"])),
        ("duplicates", str(stats["duplicates"])),
        ("errors", str(stats["errors"])),
    ]
    rare = ("items_dropped", "offsite", "robots_denied", "blocked")
    rows.extend((name.replace("_", " "), str(stats[name])) for name in rare if stats[name])
    if stats["status"]:
        rows.append(("status", ", ".join(f"{code}: {count}" for code, count in stats["status"].items())))
    if stats["failures"]:
        rows.append(("failures", ", ".join(f"{reason}: {count}" for reason, count in stats["failures"].items())))
    rows.extend((name, str(count)) for name, count in stats["custom"].items())
    return rows


def read_stats(job: Path) -> dict[str, Any]:
    """A job's `stats.json`. Raises `UsageError` where there is none."""
    path = job / "stats.json"
    try:
        stats: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"no job in {job}: there is no {path}. Jobs are made by `crawler run`") from error
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    return stats


def latest_job(folder: Path) -> Path:
    """The job under `folder` that was written to last. Raises `UsageError` where there is none."""
    jobs = [path.parent for path in folder.glob("*/stats.json")]
    if not jobs:
        raise UsageError(f"there is no job under {folder}/; name one with --job DIR")
    return max(jobs, key=lambda job: (job / "stats.json").stat().st_mtime)
