"""Who was at work when the process died.

While the loop runs code of a page (decoding, parsing, the user's callback), the page's fingerprint stands in a small
file that is mapped into memory: writing there is a memory write, and the system keeps it when the process dies. At the
next start it says whose code killed the process, if it was anybody's: a process killed from outside mostly waits.

    life (u64): which opening wrote it, so that one death counts once
    fingerprint (u64), 0 is nobody's: whose step the loop runs
    fingerprint (u64), several times: whose page a thread parses
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["AtWork", "Death", "Deaths"]

_THREADS = 4
_NOTE = struct.Struct(f"={2 + _THREADS}Q")
_LEAST = struct.Struct("=QQ")


class Death(NamedTuple):
    life: int
    fingerprints: frozenset[int]
    """Of all who were at work: mostly one."""


class AtWork:
    """The file at `path`, or open under this number. Raises OSError."""

    def __init__(self, path: Path | int) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._note: memoryview = _nowhere()

    def last(self) -> Death | None:
        """Of the process before this one, if it died at work."""
        try:
            note = os.pread(self._path, _NOTE.size, 0) if isinstance(self._path, int) else self._path.read_bytes()
        except FileNotFoundError:
            return None
        if len(note) < _LEAST.size:
            return None
        life, *fingerprints = (number for (number,) in struct.iter_unpack("=Q", note[: len(note) // 8 * 8]))
        death = Death(life, frozenset(fingerprints) - {0})
        return death if death.fingerprints else None

    def begin(self) -> None:
        """A new life. What `last` said is gone: commit it before."""
        if self._map is not None:
            return
        path = self._path
        descriptor = os.dup(path) if isinstance(path, int) else os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, bytes(_NOTE.size), 0)  # not a hole: a full disk is an error here, and no SIGBUS
            self._map = mmap.mmap(descriptor, _NOTE.size)
        finally:
            os.close(descriptor)
        self._note = memoryview(self._map).cast("Q")
        self._note[0], self._note[1] = secrets.randbits(64), 0

    def note(self, fingerprint: int) -> None:
        self._note[1] = fingerprint

    def keep(self) -> Callable[[], None]:
        """What is noted now stays so, beside what is noted after it, until the function that this gives is called."""
        note = self._note
        place = next((place for place in range(2, len(note)) if not note[place]), 0)
        if not (place and note[1]):
            return _nothing
        note[place] = note[1]

        def forget() -> None:
            if note is self._note:  # a thread may outlive the crawl
                note[place] = 0

        return forget

    def end(self) -> None:
        if self._map is not None:
            self._note[1:] = memoryview(bytes(8 * (len(self._note) - 1))).cast("Q")
            self._note.release()
            self._note = _nowhere()
            self._map.close()
            self._map = None


def _nothing() -> None:
    pass


def _nowhere() -> memoryview:
    return memoryview(bytearray(_NOTE.size)).cast("Q")


class Deaths(dict[int, int]):
    """How often the process died of a page, by its fingerprint. Rows of the job: `get` and `put` are its values',
    `rows` what it has of them so far."""

    def __init__(
        self,
        rows: Iterable[tuple[str, bytes]],
        get: Callable[[str], bytes | None],
        put: Callable[[str, bytes | None], None],
    ) -> None:
        super().__init__((int(key.removeprefix("death/"), 16), int(value)) for key, value in rows)
        self._get = get
        self._put = put

    def count(self, death: Death | None) -> None:
        """Each who was at work has died once more, unless that death was counted before."""
        if death is None or self._get("life") == b"%d" % death.life:
            return
        self._put("life", b"%d" % death.life)
        self.add(death.fingerprints)

    def add(self, fingerprints: Iterable[int]) -> None:
        """One of these killed a process."""
        for fingerprint in fingerprints:
            self[fingerprint] = self.get(fingerprint, 0) + 1
            self._put(f"death/{fingerprint:016x}", b"%d" % self[fingerprint])

    def forget(self, fingerprint: int) -> None:
        if self.pop(fingerprint, None):
            self._put(f"death/{fingerprint:016x}", None)
