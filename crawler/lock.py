"""Who works on a job: whoever holds the lock on `lock` in its folder, as long as the process lives."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from crawler.errors import EngineUnavailable, JobError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["JobLock", "holder"]


class JobLock:
    """Within the block the job folder, made where it is missing, is ours alone. `sign` writes who we are into it.

    Raises `JobError`, which names the process that has it, and `EngineUnavailable` where the folder cannot be used.
    """

    def __init__(self, job: Path) -> None:
        self._job = job
        self._descriptor = -1

    def __enter__(self) -> JobLock:
        job = self._job
        try:
            job.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._descriptor = os.open(job / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 20).decode(errors="replace").strip() or "?"
            os.close(self._descriptor)
            raise JobError(
                f"job {job} is in use by process {holder}; wait for it, stop it, or give another folder with --job"
            ) from error
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def sign(self) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> EngineUnavailable:
        return EngineUnavailable(f"cannot use the job folder {self._job}: {error.strerror or error}")


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
