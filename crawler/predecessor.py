"""What a job folder holds of an earlier crawl, and how the new one begins because of it.

nothing                    a new crawl
an unfinished frontier     goes on, as a refresh if it was one
a finished one             makes room, or is set aside to be refreshed
one set aside, and hardly  a refresh that was killed as it began: begins again
anything else
"""

from __future__ import annotations

import enum
import logging
import os
import shutil
from typing import TYPE_CHECKING

from crawler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crawler.contracts import Counts
    from crawler.frontier.disk import DiskStore
    from crawler.frontier.previous import Previous

__all__ = ["UNFINISHED", "Before", "check_options", "first_words", "make_room", "open_previous"]

logger = logging.getLogger("crawler.job")

UNFINISHED = frozenset({"running", "interrupted", "failed", "error_limit", "refused_limit", "stopped"})
"""States that the same command continues from; the others are a finish, after which it begins anew."""


class Before(enum.Enum):
    UNFINISHED = "the last one is unfinished"
    FINISHED = "the last one had finished"
    DISCARDED = "the last one is discarded"
    SET_ASIDE = "the last one is refreshed"


def check_options(job: Path | None, *, fresh: bool, refresh: bool, only_changed: bool) -> None:
    """Raises `UsageError` for what contradicts itself."""
    if only_changed and not refresh:
        raise UsageError(
            "--only-changed (only_changed=) needs --refresh (refresh=): without, nothing is known to change"
        )
    if refresh and fresh:
        raise UsageError("--refresh and --fresh exclude each other: one needs the last crawl, the other discards it")
    if refresh and job is None:
        raise UsageError("refresh= needs job=: without a folder nothing is kept of the last crawl")


def make_room(
    job: Path, store: DiskStore | None, spider: str, *, fresh: bool, refresh: bool, replaced: Sequence[str] = ()
) -> Before | None:
    """One that finished, or is to be discarded, makes room. `store` is the new crawl's; None: it is not in the folder.

    Raises `JobError` where the frontier is of another version, or to be refreshed and another spider's, `UsageError`
    where a refresh would put what changed in the place of all that there is: in the outputs `replaced`."""
    from crawler.frontier.previous import discard, set_aside

    folder, old, previous = (job / f"frontier{suffix}" for suffix in ("", ".old", ".previous"))
    shutil.rmtree(old, ignore_errors=True)  # of a start that was killed here
    repaired = job / "frontier.repaired"
    if repaired.exists() and not folder.exists():  # `crawler jobs repair` was killed when all but this was done
        os.replace(repaired, folder)
    if store is None or not (folder.exists() or previous.exists()):
        return None
    is_unfinished = _is_unfinished(store, folder, spider) if folder.exists() and not fresh else None
    if is_unfinished:
        return Before.UNFINISHED
    before = Before.DISCARDED if fresh else Before.FINISHED
    if is_unfinished is None and previous.exists() and not fresh:
        before = Before.SET_ASIDE
    else:
        discard(previous, old)
    if is_unfinished is False and refresh:
        if replaced:
            raise UsageError(
                f"-O {replaced[0]} would replace what is there by what has changed: pages that answer 304 give no "
                "items again. Append with -o, name another file, or say --only-changed if that is what it is for"
            )
        set_aside(folder, previous, spider)
        return Before.SET_ASIDE
    discard(folder, old)
    return before


def _is_unfinished(store: DiskStore, folder: Path, spider: str) -> bool | None:
    """None: nothing was ever committed."""
    from crawler.frontier.layout import refuse_other_format

    found = store.peek()
    if found is None:
        return None
    refuse_other_format(folder, found.format)
    if found.lost_epochs:
        logger.warning(
            "%s: the machine stopped without saving everything; going back by %d epochs to what is surely on disk",
            spider, found.lost_epochs,
        )  # fmt: skip
    return found.state in UNFINISHED


def open_previous(job: Path, spider: str) -> Previous | None:
    """The crawl that is being refreshed; None where somebody removed it."""
    from crawler.frontier.previous import Previous

    folder = job / "frontier.previous"
    if folder.exists():
        return Previous(folder)
    logger.warning("%s: %s is gone: the pages that are left are fetched in full", spider, folder)
    return None


def first_words(
    job: Path | None, before: Before | None, counts: Counts, previous: Previous | None, *, refresh: bool
) -> str:
    """What this run does, for its first log line."""
    where = "" if job is None else f" in {job}"
    if before is Before.UNFINISHED:
        what = "crawl" if previous is None else "refresh"
        then = "; it can be refreshed when it has finished" if refresh and previous is None else ""
        return f"continuing the interrupted {what}{where}: {counts.completed} done, {counts.queued} waiting{then}"
    if previous is not None:
        return f"refreshing {previous.done:,} pages of the last crawl{where}"
    remark = "" if before is None else f"; {before.value}"
    return f"starting a new crawl{where}{remark}" + ("; there is none to refresh" if refresh and not remark else "")
