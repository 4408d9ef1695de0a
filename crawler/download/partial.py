"""A file that is not whole yet, beside the name it will have, and the note that lets a later run continue it.

    .NAME.part                              what there is so far; after a kill the next save begins it anew,
    .NAME.part and .NAME.part.json          or continues it, if the note is there
    .NAME.<random>.part                     while somebody else has that name, or something to be continued

What it promises. A killed process leaves a beginning of what the server sent: the note is written before the first
byte, and bytes are only appended. A power failure may leave anything in what had not been synced; so the note also says
in which boot the bytes were written and how many are synced (all, at every end but a kill), and after another boot only
those count. Where the system does not tell one boot from another, all bytes count.

Nobody else's file is written to or continued: not through a symbolic link, nor by a second name, nor one of another
user. The file is locked while it grows; whoever comes second works under a random name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import secrets
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from crawler.download.ranges import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Part"]

_HASH_BYTES: Final = 1 << 23
"""Of what was there, hashed in one call."""
_NAME_BYTES: Final = 200
"""Of the 255 that file systems allow; the rest is for what stands around it."""
_NOTE_BYTES: Final = 1 << 16


class _Note(Origin, frozen=True):
    """As JSON beside the file."""

    boot: str = ""
    synced: Annotated[int, msgspec.Meta(ge=0)] = 0


class Part:
    """The file that becomes `target`. With `is_stable`, it has the name under which a later run finds it.

    Everything here blocks and is called in threads, by one task, one call at a time; errors are OSErrors. But a
    cancelled task does not wait for its last call: the lock makes `end` do so, and after it nothing is done any more.
    """

    def __init__(self, target: Path, *, is_stable: bool) -> None:
        self.is_stable = is_stable
        self.size = 0
        """Bytes of the body that are in it, and in the hash."""
        self.resumed_from = 0
        """How many of them an earlier run left."""
        self.origin: Origin | None = None
        """None: it cannot be continued."""
        self._target = target
        self._path = target
        self._fd = -1
        self._digest = hashlib.sha256()
        self._synced = 0
        self._is_ours = False
        """Whether what is in it was begun or taken up by this save."""
        self._is_finished = False
        self.is_over = False
        """Nothing is done any more."""
        self._lock = threading.Lock()

    @property
    def is_whole(self) -> bool:
        return self.origin is not None and self.size == self.origin.total

    def open(self, *, anew: bool = False) -> None:
        """With `anew`, empty: `begin` for a body that cannot be continued. Each call is a trip to a thread."""
        with self._turn():
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(os.lstat(self._target).st_mode):  # said before the download, not after it
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._target.parent.mkdir(parents=True, exist_ok=True)
            name = _shortened(self._target.name)
            # One name for all, so that what a killed process left is found, and does not lie there for ever.
            self._path = self._target.with_name(f".{name}.part")
            if self.is_stable or not self._note_path.exists():  # what can be continued is not begun anew
                self._fd = _open_locked(self._path)
            if self._fd < 0:
                self.is_stable = False
                self._path = self._target.with_name(f".{name}.{secrets.token_hex(4)}.part")
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        if anew:
            self.begin(None)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            if self.is_over:
                raise RuntimeError(f"the save of {self._target} has ended")
            yield

    # -- what an earlier run left ------------------------------------------------------------------------------------

    def take_up(self, origin: Origin) -> bool:
        """Keep what an earlier run has of this very file, to be hashed; False where it has nothing."""
        with self._turn():
            size = os.fstat(self._fd).st_size
            note = _read_note(self._note_path) if size else None
            if note is None or not note.is_same(origin):
                return False
            total = note.total if origin.total is None else origin.total
            if note.boot != _boot():
                size = note.synced if note.synced <= size else 0
            if not 0 < size <= (size if total is None else total):
                return False
            os.ftruncate(self._fd, size)
            self._is_ours = True
            self.resumed_from = size
            self.origin = msgspec.structs.replace(origin, total=total)
            self._synced = min(note.synced, size)
            self._write_note(self.origin)
            return True

    def hash_more(self) -> bool:
        """Hash some of what was taken up; whether there is more."""
        with self._turn():
            data = os.pread(self._fd, min(_HASH_BYTES, self.resumed_from - self.size), self.size)
            self._digest.update(data)
            self.size += len(data)
            return bool(data) and self.size < self.resumed_from

    # -- writing -----------------------------------------------------------------------------------------------------

    def begin(self, origin: Origin | None) -> None:
        """Empty it, for a body that can be continued if it has an origin."""
        with self._turn():
            os.ftruncate(self._fd, 0)  # first: the note may be of other bytes
            self._is_ours = True
            self.size = self.resumed_from = self._synced = 0
            self._digest = hashlib.sha256()
            self.origin = origin if self.is_stable else None
            if self.origin is not None:
                self._write_note(self.origin)
            else:
                self._note_path.unlink(missing_ok=True)

    def write(self, pieces: Sequence[bytes]) -> None:
        with self._turn():
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    written = os.pwrite(self._fd, rest, self.size)
                    self._digest.update(rest[:written])
                    self.size += written
                    rest = rest[written:]

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> str:
        """Give it its name, and let go of it; the SHA-256 in hex."""
        with self._turn():
            os.close(os.dup(self._fd))  # network file systems tell of a full disk when a file is closed
            os.replace(self._path, self._target)
            self._is_finished = True
            self._note_path.unlink(missing_ok=True)
        self.end(True)
        return self._digest.hexdigest()

    def end(self, keep: bool) -> None:
        """Let go of it. Unless it is finished, what can be continued stays if it may be kept; the rest goes."""
        with self._lock:
            self.is_over = True
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            try:
                if not (self._is_finished or self._is_left(fd, keep)):
                    with contextlib.suppress(OSError):  # the folder may be gone, or not ours any more
                        self._path.unlink()
                        self._note_path.unlink()
            finally:
                os.close(fd)

    def _is_left(self, fd: int, keep: bool) -> bool:
        """Whether it stays, for a later run; made durable then."""
        size = os.fstat(fd).st_size
        if not self._is_ours:  # an earlier run's, which this one did not come to touch
            return size > 0
        if not (keep and size and self.origin is not None):
            return False
        try:
            os.fsync(fd)
        except OSError:
            return False
        self._synced = size
        with contextlib.suppress(OSError):  # the disk is full; the note that is there says less, and is true
            self._write_note(self.origin)
        return True

    # -- the note ----------------------------------------------------------------------------------------------------

    @property
    def _note_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")

    def _write_note(self, origin: Origin) -> None:
        """Whole or not at all; and for nobody else to read, because URLs may have secrets in them."""
        note = _Note(origin.url, origin.validator, origin.total, _boot(), self._synced)
        path = self._note_path.with_name(f"{self._note_path.name}.{secrets.token_hex(4)}")
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(msgspec.json.encode(note))
            os.replace(path, self._note_path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _read_note(path: Path) -> _Note | None:
    """None where there is none, or it is torn or somebody else's."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not _is_own(os.fstat(file.fileno())):
                return None
            return msgspec.json.decode(file.read(_NOTE_BYTES), type=_Note)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def _open_locked(path: Path) -> int:
    """A descriptor; -1 where another save has it, or it is not a plain file of ours, or there are no locks."""
    try:
        # Not blocking: a pipe under this name would wait for its other end.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError:  # a symbolic link, a folder, another user's; a disk that fails will say so again
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        opened = os.fstat(fd)
        # Between opening and locking, the save that had it may have finished: then this is its target.
        if _is_own(opened) and os.path.samestat(opened, os.lstat(path)):
            return fd
    except OSError:
        pass
    os.close(fd)
    return -1


def _is_own(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


def _shortened(name: str) -> str:
    raw = os.fsencode(name)
    if len(raw) <= _NAME_BYTES:
        return name
    return f"{raw[:100].decode(errors='ignore')}.{hashlib.blake2b(raw, digest_size=16).hexdigest()}"


@functools.cache
def _boot() -> str:
    """Names the time since the machine was started; empty where the system has no such name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
