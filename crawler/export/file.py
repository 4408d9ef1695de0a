"""One output file on disk: opened, locked, cut back, written and watched. Everything here blocks; `output.py` calls
it from a thread, one call at a time but for `sync`.

What can go wrong with a file while a crawl runs, and what is done about it:

- The process dies between a write and its commit. The next run cuts the file back to the committed size, so no item is
  there twice and no line is torn.
- The file is not what was committed: missing, shorter, or its end differs (somebody edited it, or a power failure left
  zeros where data should be). The position holds the size and a checksum of the last 64 KiB; a mismatch is refused,
  because continuing would bury the damage. `holds` tells beforehand, so that an older position can be tried.
- It is deleted, replaced, rotated or made read-only while open. Writing would go on, to a file nobody can see. After
  each write, and now and then without one, the path is compared with what is open.
- Somebody else writes to it. Our own crawls are kept out by a lock; others show in the size. Writes append, so their
  data is never overwritten.
- The disk is full or broken. What was written of the unfinished write is taken back, so no half line stays, and the
  file is not used again.

A target that is no regular file (a pipe, `/dev/null`) can only be written to: there is nothing to cut back, lock,
compare or sync.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import stat
import zlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from crawler import crash
from crawler.errors import OutputError
from crawler.export.pieces import write_all
from crawler.export.place import create_folders, lock, moved, reason, sync_folders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Extent", "OutputFile"]

_log = logging.getLogger(__name__)

_TAIL_BYTES = 65536
"""How much of the end the checksum covers: more than a file system loses or zeroes at once for a slow writer."""
_DAMAGED = frozenset({errno.EIO, getattr(errno, "EUCLEAN", errno.EIO)})
"""What reading says where the disk, not the permission, is the trouble."""


class Extent(NamedTuple):
    """How far a file was written."""

    size: int
    check: int
    """CRC-32 of the last 64 KiB before `size`."""


class OutputFile:
    """`size` is where the next write goes; more may stand behind it only until that write (see `keep`)."""

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.path = os.path.abspath(path)
        self.size = 0
        self._overwrite = overwrite
        self._fd = -1
        self._regular = False
        self._tail = b""
        self._physical = 0
        self._unsynced: list[str] = []
        """Folders with an entry that a power failure could take."""
        self._kept_synced = False
        self.failure: str | None = None
        """Why it is not used any more."""

    @property
    def extent(self) -> Extent:
        return Extent(self.size, zlib.crc32(self._tail))

    def holds(self, committed: Extent) -> bool:
        """Whether it is, up to there, what was written. Where reading is forbidden: True, and `open` says so."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                return True
            with open(self.path, "rb", buffering=0) as stream:
                fd = stream.fileno()
                return os.fstat(fd).st_size >= committed.size and _tail(fd, committed.size)[1] == committed.check
        except FileNotFoundError:
            return not committed.size
        except OSError as error:
            return error.errno not in _DAMAGED
        except ValueError:  # a NUL in the path
            return True

    def open(self, committed: Extent | None) -> None:
        self.failure = None
        self._kept_synced = False
        try:
            with self._errors("cannot be opened"):
                self._open(create=committed is None or committed.size == 0)
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
            mode = stat.S_IFREG
        self._unsynced = create_folders(self.path)
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # a folder fails in `os.open`, which says so best
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        else:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK  # a pipe without reader: an error, no wait
        self._fd = os.open(self.path, flags, 0o666)
        os.set_blocking(self._fd, True)
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        if self._regular:
            lock(self._fd, self.path)

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
        self._tail = _tail(self._fd, size)[0]
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

    def write(self, pieces: Iterable[bytes]) -> None:
        """All of the pieces or none of them: whatever stops it, what was written is taken back and the file is not
        used again. `OutputError` where it cannot be written."""
        self._check_usable()
        size, tail = self.size, self._tail
        try:
            if self._stale:
                self._truncate(size)
            for piece in pieces:
                self._put(piece)
                size += len(piece)
                tail = (piece if len(piece) >= _TAIL_BYTES else tail + piece)[-_TAIL_BYTES:]
        except BaseException as error:
            with contextlib.suppress(OSError):
                if self._regular:
                    os.ftruncate(self._fd, self.size)
            if isinstance(error, OSError):
                raise self._fail(f"{self.path} cannot be written: {reason(error)}.") from error
            self._fail(str(error) if isinstance(error, OutputError) else f"{self.path} cannot be written: {error!r}.")
            raise
        self.size = self._physical = size
        self._tail = tail
        self._confirm()

    def _put(self, piece: bytes) -> None:
        if crash.armed:
            half = len(piece) // 2
            write_all(self._fd, piece[:half])
            crash.point("mid_output_write")
            piece = piece[half:]
        write_all(self._fd, piece)

    def look(self) -> None:
        """Whether the file is still there, and ours: an `OutputError` if not."""
        self._check_usable()
        self._confirm()

    def _check_usable(self) -> None:
        if self.failure is not None:
            raise OutputError(self.failure)
        if self._fd < 0:
            raise OutputError(f"{self.path} is not open.")

    def _confirm(self) -> None:
        if not self._regular:
            return
        what = moved(self._fd, self.path)
        if what is not None:
            raise self._fail(what)
        found = os.fstat(self._fd).st_size
        if found != self._physical:
            raise self._fail(
                f"{self.path} was changed by another program while the crawl wrote to it: "
                f"it has {found} bytes instead of {self._physical}."
            )

    def _fail(self, message: str) -> OutputError:
        self.failure = f"{message} When the cause is gone, the same command continues."
        return OutputError(self.failure)

    def sync(self) -> None:
        """What was written survives a power failure. May run while `write` does."""
        self._check_usable()
        if not self._regular:
            return
        self._kept_synced = True
        try:
            os.fsync(self._fd)
            sync_folders(self._unsynced)
        except OSError as error:  # what the kernel could not write it may have dropped: asking again proves nothing
            raise self._fail(f"{self.path} cannot be written: {reason(error)}.") from error

    def abandon(self) -> None:
        """Nothing to do: a write to a file ends by itself."""

    def close(self, end: bytes) -> None:
        """Write the end of the format, unless the file failed or still has its old end, and let go of it. A file that
        was ever synced is synced with its end, too."""
        if self._fd < 0:
            return
        try:
            if self.failure is not None:
                return
            if end and not self._stale:
                self.write([end])
                if self._kept_synced:
                    self.sync()
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
            raise OutputError(f"{self.path} {what}: {reason(error)}.") from error


def _tail(fd: int, size: int) -> tuple[bytes, int]:
    """The end of the first `size` bytes, and its checksum."""
    start = max(0, size - _TAIL_BYTES)
    tail = os.pread(fd, size - start, start) if size else b""
    return tail, zlib.crc32(tail)
