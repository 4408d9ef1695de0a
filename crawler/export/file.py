"""One output file on disk: opened, locked, cut back, written and watched. Everything here blocks; `output.py` calls
it from a thread, one call at a time.

What can go wrong with a file while a crawl runs, and what is done about it:

- The process dies between a write and its commit. The next run cuts the file back to the committed size, so no item is
  there twice and no line is torn.
- The file is not what was committed: missing, shorter, or its end differs (somebody edited it, or a power failure left
  zeros where data should be). The position holds the size and a checksum of the last 64 KiB; a mismatch is refused,
  because continuing would bury the damage.
- It is deleted, replaced or rotated while open. Writing would go on, to a file nobody can see. After each write the
  path is compared with what is open.
- Somebody else writes to it. Our own crawls are kept out by a lock; others show in the size. Writes append, so their
  data is never overwritten.
- The disk is full or broken. What was written of the unfinished write is taken back, so no half line stays, and the
  file is not used again.

A target that is no regular file (a pipe, `/dev/null`) can only be written to: there is nothing to cut back, lock or
compare.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import select
import stat
import zlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from crawler.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Extent", "OutputFile", "write_all"]

_log = logging.getLogger(__name__)

_TAIL_BYTES = 65536
"""How much of the end the checksum covers: more than a file system loses or zeroes at once for a slow writer."""


class Extent(NamedTuple):
    """How far a file was written."""

    size: int
    check: int
    """CRC-32 of the last 64 KiB before `size`."""


class OutputFile:
    """`size` is where the next write goes; more may stand behind it only until that write (see `keep`)."""

    def __init__(self, path: str, *, overwrite: bool, fsync: bool) -> None:
        self.path = os.path.abspath(path)
        self.size = 0
        self._overwrite = overwrite
        self._fsync = fsync
        self._fd = -1
        self._regular = False
        self._tail = b""
        self._physical = 0
        self.failure: str | None = None
        """Why it is not used any more."""

    @property
    def extent(self) -> Extent:
        return Extent(self.size, zlib.crc32(self._tail))

    def open(self, committed: Extent | None) -> None:
        self.failure = None
        try:
            with self._errors("cannot be opened"):
                self._open(create=committed is None or committed.size == 0)
                self._lock()
                if not self._regular:
                    self._settle(0)
                elif committed is not None:
                    self._cut_back(committed)
                elif self._overwrite:
                    self._truncate(0)
                else:
                    self._settle(os.fstat(self._fd).st_size)
        except BaseException:
            self.release()
            raise

    def _open(self, *, create: bool) -> None:
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            if not create:
                raise OutputError(
                    f"{self.path} is missing, but this job has written to it. Restore it, or start again with --fresh."
                ) from None
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            mode = stat.S_IFREG
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # a folder fails in `os.open`, which says so best
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        else:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK  # a pipe without reader: an error, no wait
        self._fd = os.open(self.path, flags, 0o666)
        os.set_blocking(self._fd, True)
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        if self._fsync and self._regular:
            _sync_folder(os.path.dirname(self.path))

    def _lock(self) -> None:
        if not self._regular:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{self.path} is being written by another output or another crawl.") from None
        except OSError as error:
            # Some network file systems have no locks; the size still tells of a second writer.
            if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}:
                raise

    def _cut_back(self, committed: Extent) -> None:
        found = os.fstat(self._fd).st_size
        if found < committed.size:
            raise OutputError(
                f"{self.path} has {found} bytes, but this job has written {committed.size}. "
                "Restore it, or start again with --fresh."
            )
        self._settle(committed.size)
        if self.extent != committed:
            raise OutputError(
                f"{self.path} was changed: the bytes before {committed.size} are not what this job wrote. "
                "Restore it, or start again with --fresh."
            )
        if found > committed.size:
            _log.debug("%s: cut back by %d uncommitted bytes", self.path, found - committed.size)
            self._truncate(committed.size)

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._physical = size
        self._settle(size)

    def _settle(self, size: int) -> None:
        self.size = size
        start = max(0, size - _TAIL_BYTES)
        self._tail = os.pread(self._fd, size - start, start) if size else b""
        if self._regular:
            self._physical = os.fstat(self._fd).st_size

    # -- what another program left in the file -----------------------------------------------------------------------

    def ends_with(self, suffix: bytes) -> bool:
        return self._tail.endswith(suffix)

    @contextlib.contextmanager
    def content(self) -> Iterator[mmap.mmap]:
        """Everything before `size`, which is not 0, to look at."""
        with self._errors("cannot be read"), mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ) as content:
            yield content

    @contextlib.contextmanager
    def reader(self) -> Iterator[BinaryIO]:
        with self._errors("cannot be read"), open(self.path, "rb") as stream:
            yield stream

    def keep(self, size: int) -> None:
        """Only this much of what was found is kept. The rest goes with the next write, not before: a crash until then
        leaves the file as it was found."""
        with self._errors("cannot be read"):
            self._settle(size)

    @property
    def _stale(self) -> bool:
        return self._regular and self._physical > self.size

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """All of `data`, or an `OutputError` after which the file is not used again."""
        if self.failure is not None:
            raise OutputError(self.failure)
        if self._fd < 0:
            raise OutputError(f"{self.path} is not open.")
        try:
            if self._stale:
                self._truncate(self.size)
            write_all(self._fd, data)
            if self._fsync and self._regular:
                os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                if self._regular:
                    os.ftruncate(self._fd, self.size)
            raise self._fail(f"{self.path} cannot be written: {_reason(error)}.") from error
        self.size += len(data)
        self._physical = self.size
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        self._confirm()

    def _confirm(self) -> None:
        if not self._regular:
            return
        try:
            opened = os.fstat(self._fd)
            named = os.stat(self.path)
        except OSError as error:
            raise self._fail(
                f"{self.path} was deleted or moved while the crawl wrote to it ({_reason(error)})."
            ) from error
        if opened.st_nlink == 0 or (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
            raise self._fail(f"{self.path} was replaced by another file while the crawl wrote to it.")
        if opened.st_size != self._physical:
            raise self._fail(
                f"{self.path} was changed by another program while the crawl wrote to it: "
                f"it has {opened.st_size} bytes instead of {self._physical}."
            )

    def _fail(self, message: str) -> OutputError:
        self.failure = message
        return OutputError(message)

    def abandon(self) -> None:
        """Nothing to do: a write to a file ends by itself."""

    def close(self, end: bytes) -> None:
        """Write the end of the format, unless the file failed or still has its old end, and let go of it."""
        if self._fd < 0:
            return
        try:
            if self.failure is not None:
                return
            if end and not self._stale:
                self.write(end)
            else:
                self._confirm()
        finally:
            self.release()

    def release(self) -> None:
        """Let go of the file as it is."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        with self._errors("cannot be written"):  # network file systems report a full disk here
            os.close(fd)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise OutputError(f"{self.path} {what}: {_reason(error)}.") from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror} ({errno.errorcode.get(error.errno, error.errno)})"
    return str(error)


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """`os.write` until everything is written; waits where the descriptor is non-blocking and full."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
