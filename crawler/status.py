"""What a crawl shows of itself: the live line, the log line, the summary, `crawler status`."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import UsageError
from crawler.log import one_line

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

    from crawler.contracts import Clock

__all__ = ["LogProgress", "latest_job", "live_line", "read_stats", "show_live", "size_text", "summary"]

logger = logging.getLogger("crawler.progress")

_LOG_SECONDS = 10.0
_BUSY = 0.9
"""Of one processor: the loop has no time to spare. (What other threads do counts in, so it may be more than 1.)"""
_LONGEST_NAME = 80
_STALE_SECONDS = 30.0
"""A running crawl rewrites `stats.json` every ten seconds; one that has not for so long is not running."""
_ENDINGS = {
    "running": "running",
    "finished": "finished",
    "page_limit": "ended at its page limit",
    "item_limit": "ended at its item limit",
    "time_limit": "ended at its time limit",
    "interrupted": "stopped early; the same command continues it",
    "killed": "was killed; the same command continues it",
    "error_limit": "failed: crawl.error_limit is reached; the same command continues it",
    "refused_limit": "failed: more items were refused than output.refused_limit; the same command continues it",
    "failed": "failed; the same command continues it",
}


# -- while it runs -----------------------------------------------------------------------------------------------------


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


class Load:
    """How much of one processor the process took since the last look: 1.0 is all of it."""

    def __init__(self) -> None:
        self._taken, self._at = time.process_time(), time.monotonic()

    def __call__(self) -> float:
        taken, at = time.process_time(), time.monotonic()
        share = (taken - self._taken) / max(at - self._at, 1e-9)
        self._taken, self._at = taken, at
        return share


def live_line(snapshot: dict[str, Any], rate: float, load: float = 0.0) -> str:
    """`books  412 pages  31.5/s  401 items  588 queued  1 active host  0 errors  limited by delay`.

    By CPU, where `load`, or that of another process of the crawl, is that of one whole processor or nearly so."""
    unchanged = snapshot.get("not_modified")
    parts = (
        snapshot["spider"],
        _count(snapshot["pages"], "page"),
        *([f"{unchanged} not modified"] if unchanged else []),
        f"{rate:.1f}/s",
        _count(snapshot["items"], "item"),
        f"{snapshot['queued']} queued",
        _count(snapshot["active_hosts"], "active host"),
        _count(snapshot["errors"], "error"),
    )
    line = "  ".join(parts)
    if snapshot["phase"] != "running":
        return f"{line}  {snapshot['phase']}"
    if not (snapshot["queued"] or snapshot["in_flight"]):
        return line
    load = max(load, snapshot.get("load", 0.0))
    limit = "CPU" if load >= _BUSY and snapshot["limited_by"] != "nothing left" else snapshot["limited_by"]
    paused = snapshot["waits"]["paused"]
    return f"{line}  limited by {limit}" + (f"  {_count(paused, 'host')} paused" if paused else "")


class LogProgress:
    """Off a terminal: the live line as a log line every ten seconds."""

    def __init__(self, now: float) -> None:
        self._rate = Rate()
        self._load = Load()
        self._due = now + _LOG_SECONDS

    def __call__(self, snapshot: Callable[[], dict[str, Any]], now: float) -> None:
        if now >= self._due:
            self._due = now + _LOG_SECONDS
            seen = snapshot()
            logger.info("%s", live_line(seen, self._rate(seen["elapsed_seconds"], seen["pages"]), self._load()))


async def show_live(snapshot: Callable[[], dict[str, Any]], clock: Clock, ended: asyncio.Event) -> None:
    """On a terminal: one line on standard error, redrawn once a second, log lines above it."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    rate, load = Rate(), Load()
    with (
        contextlib.suppress(OSError),  # the terminal was closed; the crawl has heard of it by signal
        Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live,
    ):
        while not ended.is_set():
            seen = snapshot()
            text = live_line(seen, rate(seen["elapsed_seconds"], seen["pages"]), load())
            live.update(Text(text, overflow="ellipsis", no_wrap=True), refresh=True)
            await clock.wait(ended, 1.0)


# -- afterwards --------------------------------------------------------------------------------------------------------


def summary(stats: dict[str, Any], outputs: tuple[str, ...] = (), job: Path | None = None) -> str:
    """The lines at the end of a run and of `crawler status`."""
    rows = _rows(stats)
    rows += [("output", "standard output" if output == "-" else output) for output in outputs]
    if job is not None:
        rows.append(("job", str(job)))
    rows = [(one_line(name)[:_LONGEST_NAME], one_line(value)) for name, value in rows]  # spiders count what they read
    width = max(len(name) for name, _ in rows)
    ending = _ENDINGS.get(stats["reason"], f"ended ({stats['reason']})")
    return "\n".join(
        [f"{one_line(stats['spider'])}: {one_line(ending)}", *(f"  {name:<{width}}  {value}" for name, value in rows)]
    )


def _rows(stats: dict[str, Any]) -> list[tuple[str, str]]:
    seconds = stats["elapsed_seconds"]
    per_second = f" ({stats['pages'] / seconds:.1f}/s)" if seconds else ""
    again = [f"{stats[name]} {name}" for name in ("retries", "redirects") if stats[name]]
    rows = [
        ("time", f"{seconds:.1f} s"),
        ("pages", f"{stats['pages']}{per_second}"),
        ("items", str(stats["items"])),
        ("requests", f"{stats['requests']} ({', '.join(again)})" if again else str(stats["requests"])),
        ("received", size_text(stats["bytes"])),
        ("hosts", str(stats["hosts"])),
        ("errors", str(stats["errors"])),
    ]
    rare = (
        "not_modified", "items_unchanged", "duplicates", "items_dropped", "items_refused", "offsite", "robots_denied",
        "blocked",
    )  # fmt: skip
    rows.extend((name.replace("_", " "), str(stats[name])) for name in rare if stats.get(name))
    if stats.get("stalls"):
        rows.append(("stalls", f"{stats['stalls']} (the longest {stats['longest_stall_seconds']:.1f} s)"))
    tables = ((name, stats[name]) for name in ("status", "failures") if stats[name])
    rows.extend((name, ", ".join(f"{key}: {count}" for key, count in table.items())) for name, table in tables)
    rows.extend((name, str(count)) for name, count in stats["custom"].items())
    return rows


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(size: float) -> str:
    """`6.9 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def read_stats(job: Path) -> dict[str, Any]:
    """A job's `stats.json`; its `reason` is `"killed"` where the crawl says that it runs, and does not.

    Raises `UsageError` where there is none, or something else.
    """
    path = job / "stats.json"
    try:
        stats = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        age = time.time() - path.stat().st_mtime
        _rows(stats)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no job in {job}: there is no {path}. Jobs are made by `crawler run`") from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not what this version of the crawler writes") from error
    if stats.get("reason") == "running" and age > _STALE_SECONDS:
        stats["reason"] = "killed"
    return stats


def latest_job(folder: Path) -> Path:
    """The job under `folder` that was written to last. Raises `UsageError` where there is none."""
    jobs = [path.parent for path in folder.glob("*/stats.json")]
    if not jobs:
        raise UsageError(f"there is no job under {folder}/; name one with --job DIR")
    return max(jobs, key=lambda job: (job / "stats.json").stat().st_mtime)
