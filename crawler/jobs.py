"""Job folders as others than their own crawl see them: whose they are, how they stand, what in them is the crawler's.

Who works on a job holds a lock on `lock` in its folder, so whether a process is at work is asked of the system, not of
what the process last wrote. A frontier that no process is working on is read with care: LMDB trusts its file, so its
pages are looked at before (`crawler.frontier.pages`), and a list of jobs does not open it at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.dead_letter import REFUSED_FILE
from crawler.errors import EngineUnavailable, JobDamaged, JobError, UsageError
from crawler.frontier.kept import JobValues, check_format, damaged
from crawler.frontier.layout import FORMAT
from crawler.frontier.pages import check, salvage
from crawler.frontier.reader import FrontierReader
from crawler.frontier.snapshots import Snapshots
from crawler.lock import JobLock, holder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.frontier.kept import Kept

__all__ = [
    "Overview",
    "check_removable",
    "find_jobs",
    "held",
    "holder",
    "is_job",
    "open_frontier",
    "output_path",
    "overview",
    "remove",
]

_MADE = (
    "frontier", "frontier.old", "frontier.previous", "frontier.repaired", "stats.json", "stats.json.new", "crawl.log",
    "demo-port", REFUSED_FILE,
)  # fmt: skip
"""In a job's folder, beside `lock` and the folders of `crawler jobs repair`."""
_DAMAGED = "frontier.damaged"
_LISTED = frozenset({b"format", b"state", b"spider", b"stats", b"frontier"})
_WALKED_BYTES = 128 << 20
"""Frontiers up to this size are looked through for a list, in a third of a second; of larger ones only what the list
shows. Opening a job looks at all of it, whatever its size."""


class Overview(msgspec.Struct, kw_only=True):
    """How a job stands. None: not known."""

    job: str
    """Its folder."""
    spider: str = ""
    state: str = "damaged"
    """`running`, `killed`, `damaged`, `newer version`, `older version`, or how it ended."""
    pid: int | None = None
    """Of the process that works on it."""
    pages: int | None = None
    items: int | None = None
    waiting: int | None = None
    done: int | None = None
    """Requests that came to their end."""
    bytes: int = 0
    """On disk, all that is in its folder."""
    written: float = 0.0
    """Unix time."""
    remark: str = ""


# -- whose it is -----------------------------------------------------------------------------------------------------


def is_job(folder: Path) -> bool:
    """Whether a crawl was here."""
    return any(
        (folder / name).exists() for name in ("frontier", "frontier.previous", "frontier.repaired", "stats.json")
    )


@contextlib.contextmanager
def held(job: Path, *, is_judged: bool = True) -> Iterator[None]:
    """Nobody else works on the job meanwhile. Raises as `JobLock`."""
    with JobLock(job, is_judged=is_judged) as lock:
        lock.sign()
        yield


@contextlib.contextmanager
def open_frontier(job: Path) -> Iterator[FrontierReader]:
    """Its frontier, to read. Raises `JobError` where there is none or one of another version, `JobDamaged` where its
    pages are not what was written, `EngineUnavailable` where the disk fails."""
    folder = job / "frontier"
    if not is_job(job):
        raise JobError(f"no job in {job}. Jobs are made by `crawler run`")
    if not (folder / "data.mdb").is_file():
        raise JobError(f"job {job} has no frontier on disk: it was kept in memory, and is gone with its process")
    if holder(job) is None:
        try:
            _check(job)
        except OSError as error:
            raise EngineUnavailable(f"cannot read the frontier in {folder}: {error}") from error
    with FrontierReader(folder) as reader:
        yield reader


def _check(job: Path) -> None:
    folder = job / "frontier"
    stored = _values(folder).get(b"format")
    if stored is not None and stored.isdigit() and int(stored) != FORMAT:
        check_format(folder, stored)
    damages = check(folder)
    if damages and holder(job) is None:
        with contextlib.suppress(JobError, EngineUnavailable), held(job):
            Snapshots(folder).recover()  # as the next run would: LMDB's two meta pages are put right
        damages = check(folder)
    if damages and holder(job) is None:
        raise damaged(folder, str(damages[0]))


def output_path(job: Path, key: str, output: Kept) -> Path:
    """Where an output is now: beside the job as it was, also when both were moved; else where it was."""
    beside = job / key
    return beside if beside.exists() else Path(output.path)


# -- how they stand --------------------------------------------------------------------------------------------------


def find_jobs(folder: Path) -> list[Path]:
    """The job that `folder` is, or those in it, by name. Raises `UsageError` where there is no such folder."""
    if is_job(folder):
        return [folder]
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and is_job(path))
    except OSError as error:
        raise UsageError(f"no job in {folder}: {error.strerror or error}. Jobs are made by `crawler run`") from error


def overview(job: Path) -> Overview:
    """How a job stands. Whatever is wrong with it is told as its state, never raised."""
    found = Overview(job=str(job), pid=holder(job))
    stats = _stats(job)
    found.spider, found.pages, found.items = str(stats.get("spider") or ""), stats.get("pages"), stats.get("items")
    found.bytes, found.written = _on_disk(job)
    folder = job / "frontier"
    try:
        if (folder / "data.mdb").is_file():
            _look(found, job, folder)
        elif (job / "frontier.repaired").exists():
            found.remark = "a repair was stopped in its middle; do it again"
        elif (job / "frontier.previous").exists():
            found.state, found.remark = "killed", "as its refresh began; the next run goes on with that"
        else:
            found.state, found.remark = _ended(str(stats.get("reason") or "running"), found.pid), "kept in memory"
    except JobDamaged as error:
        found.state, found.remark = "damaged", str(error)
    except (EngineUnavailable, JobError, OSError) as error:
        found.state, found.remark = "unreadable" if found.pid is None else "running", str(error)
    return found


def _look(found: Overview, job: Path, folder: Path) -> None:
    if found.pid is not None:
        with FrontierReader(folder) as reader:
            _take(found, reader.values)
        return
    stored = _values(folder)
    form = stored.get(b"format", b"")
    if form.isdigit() and int(form) != FORMAT:
        found.state = "newer version" if int(form) > FORMAT else "older version"
        found.remark = f"format {int(form)}, this version reads {FORMAT}"
        return
    if (folder / "data.mdb").stat().st_size <= _WALKED_BYTES:
        _check(job)
    check_format(folder, stored.get(b"format"))
    _take(found, JobValues(folder, stored.get))


def _values(folder: Path) -> dict[bytes, bytes]:
    """What a list shows, as stored; read without LMDB, which a damaged file could crash."""
    return dict(salvage(folder, "values", is_good=lambda key, _: key in _LISTED))


def _take(found: Overview, values: JobValues) -> None:
    stats, counters = values.stats, values.counters
    found.spider = values.spider or found.spider
    found.state = _ended(values.state or "running", found.pid)
    found.pages, found.items = stats.get("pages", 0), stats.get("items", 0)
    found.waiting, found.done = counters.added - counters.completed, counters.completed


def _ended(state: str, pid: int | None) -> str:
    if pid is not None:
        return "running"
    return "killed" if state == "running" else state


def _stats(job: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode((job / "stats.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _on_disk(job: Path) -> tuple[int, float]:
    size, written = 0, 0.0
    for path, _, names in os.walk(job):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                status = os.lstat(os.path.join(path, name))
                size += status.st_blocks * 512
                if name in ("data.mdb", "stats.json"):
                    written = max(written, status.st_mtime)
    return size, written


# -- away with them --------------------------------------------------------------------------------------------------


def check_removable(job: Path) -> None:
    """Raises what `remove` would."""
    if not is_job(job):
        raise UsageError(f"no job in {job}: nothing was removed")
    with held(job, is_judged=False):
        pass


def remove(job: Path) -> list[str]:
    """Remove what the crawler made, and the folder if nothing else is in it; the names of what is left.

    Raises `JobError` while a process works on it, `UsageError` for what is no job, `EngineUnavailable` where the disk
    fails.
    """
    check_removable(job)
    with held(job, is_judged=False):
        try:
            for path in [*(job / name for name in _MADE), *job.glob(f"{_DAMAGED}*"), job / "lock"]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            left = sorted(path.name for path in job.iterdir())
            if not left and not job.is_symlink():
                job.rmdir()
        except OSError as error:
            raise EngineUnavailable(f"cannot remove {error.filename or job}: {error.strerror or error}") from error
    return left
