"""Whose a job is: its folder is its owner's alone, and who works on it holds the lock on `lock` in it.

A job's files say where a crawl goes on, which cookies and credentials it has, and to which files it writes. So nobody
else may put something into its place: a folder that others may write to is refused, and so are one of somebody else's
and links in place of the crawler's own files. What surrounds the folder is the user's own affair.

Root is let into everybody's folders: in containers and CI it works in mounted ones, whose owner is outside. File
systems without modes (those of Windows, some network shares) show every folder as open to all; there it says nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from typing import TYPE_CHECKING

from crawler.errors import EngineUnavailable, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["JobLock", "holder", "private_folder"]

_OWN_FILES = frozenset({"lock", "stats.json", "stats.json.new", "crawl.log", "demo-port"})
_OWN_FOLDERS = "frontier"
"""What their names begin with."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ELSE = "or give another folder with --job"


class JobLock:
    """Within the block the job folder, made where it is missing, is ours alone. `sign` writes who we are into it.

    Raises `JobError`, which names the process that has it or says what is wrong with the folder, before anything is
    written, and `EngineUnavailable` where the folder cannot be used. `is_judged=False` takes any folder: to remove it.
    """

    def __init__(self, job: Path, *, is_judged: bool = True) -> None:
        self._job = job
        self._is_judged = is_judged
        self._descriptor = -1

    def __enter__(self) -> JobLock:
        job = self._job
        if self._is_judged:
            private_folder(job)
        try:
            self._descriptor = os.open(job / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(job, error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 20).decode(errors="replace").strip() or "?"
            os.close(self._descriptor)
            raise JobError(f"job {job} is in use by process {holder}; wait for it, stop it, {_ELSE}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def sign(self) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise _unusable(self._job, error) from error


def holder(job: Path) -> int | None:
    """The process that works on the job; 0 where it did not say which; None: nobody does. Writes nothing."""
    try:
        descriptor = os.open(job / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        signed = os.read(descriptor, 20).strip()
        return int(signed) if signed.isdigit() else 0
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return None


# -- the folder --------------------------------------------------------------------------------------------------------


def private_folder(job: Path) -> None:
    """Make the job's folder, for its owner alone, or see that the one that is there may be worked in.

    Raises `JobError` that says what is wrong and what to do, and `EngineUnavailable` where the folder cannot be used.
    """
    try:
        job.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, found in _own(job):
            if stat.S_ISLNK(found.st_mode):
                raise JobError(
                    f"{path} is a symbolic link, and a crawl would write to what it leads to: remove it, {_ELSE}"
                )
            if os.geteuid() not in (0, found.st_uid) and found.st_uid != 0:
                raise JobError(f"{path} belongs to {_user(found.st_uid)}: run the crawl as its owner, {_ELSE}")
            if stat.S_ISDIR(found.st_mode) and _is_open(path, found):
                raise JobError(
                    f"others may write into {path} (mode {stat.S_IMODE(found.st_mode):04o}), and so decide what this "
                    f"crawl does: take that away with `chmod go-w {path}`, {_ELSE}"
                )
    except OSError as error:
        raise _unusable(job, error) from error


def _own(job: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The folder, by whatever way it was named, and what in it is the crawler's: all of which is looked at, not
    followed."""
    yield job, job.stat()
    for path in sorted(job.iterdir()):
        if path.name in _OWN_FILES:
            yield path, path.lstat()
        elif path.name.startswith(_OWN_FOLDERS):
            found = path.lstat()
            yield path, found
            if stat.S_ISDIR(found.st_mode):
                yield from ((inner, inner.lstat()) for inner in sorted(path.iterdir()))


def _is_open(folder: Path, found: os.stat_result) -> bool:
    """Whether others may write into it and rename what is in it (which a sticky bit forbids them)."""
    if not found.st_mode & _OTHERS_WRITE or found.st_mode & stat.S_ISVTX:
        return False
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:  # has no name; made with mode 0600
            return not os.fstat(probe.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except OSError:
        return True


def _user(number: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def _unusable(job: Path, error: OSError) -> EngineUnavailable:
    return EngineUnavailable(f"cannot use the job folder {job}: {error.strerror or error}")
