"""Which of LMDB's commits can be trusted, kept beside it.

LMDB switches to a new state by writing one of two meta pages, which have no checksum: one that is torn stops it from
opening, or leads it astray. And between two syncs the disk may have the meta page without the pages it speaks of. So
each commit's meta page is copied here, with a checksum, and what stands here is what counts:

- After the death of a process, the newest copy is the state; meta pages that say otherwise are put right. A commit
  whose copy was not written never happened.
- After the death of the machine (another boot than the one that wrote the copy), the newest *synced* copy is the
  state: its pages were on the disk before its copy was. Until the next sync, a reader of that state keeps LMDB from
  using its pages again (`DiskStore.sync`).
- `back` goes to an earlier state, as far as that reader kept it. An output that lost its end needs it.

A slot is written in one piece and can be torn only together with the machine's power; then its checksum tells.

    slot     0, 1         the last two synced commits
             2 ... 65     the last 64 commits, by number
    a slot   CRC-32 (u32), boot (16 bytes), the beginning of the meta page (152 bytes), padding to 256 bytes
"""

from __future__ import annotations

import contextlib
import os
import struct
import uuid
import zlib
from pathlib import Path
from typing import NamedTuple

__all__ = ["Snapshot", "Snapshots"]

_SLOT = 256
_SYNCED_SLOTS = 2
_RING = 64
"""13 s of epochs: more than a sync takes."""
_META = 152
"""Page header and `MDB_meta` of LMDB 0.9 on a machine of 64 bits."""
_PAGE_SIZE = struct.Struct("<I")
_PAGE_SIZE_AT = 40
_NUMBER = struct.Struct("<Q")
_NUMBER_AT = 144
_CHECK = struct.Struct("<I")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Snapshot(NamedTuple):
    """One commit of LMDB, as its meta page told."""

    number: int
    """LMDB's transaction id."""
    page_size: int
    meta: bytes
    boot: bytes

    @classmethod
    def read(cls, meta: bytes, boot: bytes) -> Snapshot:
        (number,) = _NUMBER.unpack_from(meta, _NUMBER_AT)
        (page_size,) = _PAGE_SIZE.unpack_from(meta, _PAGE_SIZE_AT)
        return cls(number, page_size, meta, boot)

    @property
    def offset(self) -> int:
        """Where its meta page stands in LMDB's file: even commits in the first page, odd ones in the second."""
        return (self.number & 1) * self.page_size


class Snapshots:
    """The copies for the environment in `folder`, in `folder`/snapshots. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data.mdb"
        self._boot = _boot()
        self._ring: dict[int, Snapshot] = {}
        self._synced: Snapshot | None = None
        self._synced_slot = 0
        self._target: Snapshot | None = None
        """Where `back` went; None: the newest."""
        self._floor: int | None = None
        """The earliest state that may be gone back to: what came before may have been written over."""
        self._file = -1
        self._source = -1
        self.lost = 0
        """How many commits `recover` had to give up, as far as it can tell."""

    # -- before LMDB opens -------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Make LMDB's meta pages say what is known to be so. Without copies LMDB is left to itself."""
        if self._target is not None:
            return
        self._load()
        if not self._data.exists():  # copies of something that is gone
            (self._folder / "snapshots").unlink(missing_ok=True)
            self._ring, self._synced = {}, None
        if not self._ring:
            return
        newest = max(self._ring.values())
        if self._floor is None:
            self._floor = newest.number - 1 if self._synced is None else min(self._synced.number, newest.number - 1)
        target = newest
        if newest.boot != self._boot and self._synced is not None:
            target = self._synced
        self.lost += newest.number - target.number
        self._forget_after(target)
        self._put_right(target)

    def back(self) -> bool:
        """With LMDB closed: one commit back. Where no earlier one is kept, forward again to the newest, and False.

        Until the next commit nothing is forgotten: who dies here finds the newest again."""
        current = self._ring_end if self._target is None else self._target.number
        floor = current if self._floor is None else self._floor
        earlier = [snapshot for number, snapshot in self._ring.items() if floor <= number < current]
        self._target = max(earlier, default=None)
        if self._ring:
            self._put_right(self._target or self._ring[self._ring_end])
        return self._target is not None

    @property
    def has_any(self) -> bool:
        return bool(self._ring)

    @property
    def is_of_this_boot(self) -> bool:
        """The newest commit was made since the machine was started."""
        return bool(self._ring) and self._ring[self._ring_end].boot == self._boot

    @property
    def _ring_end(self) -> int:
        return max(self._ring, default=0)

    def _put_right(self, target: Snapshot) -> None:
        before = self._ring.get(target.number - 1)
        if before is None:
            number = _NUMBER.pack(max(target.number - 1, 0))
            meta = target.meta[:_NUMBER_AT] + number + target.meta[_NUMBER_AT + _NUMBER.size :]
            before = Snapshot(max(target.number - 1, 0), target.page_size, meta, target.boot)
        file = os.open(self._data, os.O_RDWR)
        try:
            wrong = [each for each in (target, before) if os.pread(file, _META, each.offset) != each.meta]
            if not wrong:
                return
            # LMDB's table of readers speaks of the state that is left behind.
            (self._folder / "lock.mdb").unlink(missing_ok=True)
            for snapshot in wrong:
                os.pwrite(file, snapshot.meta, snapshot.offset)
            os.fsync(file)
        finally:
            os.close(file)

    def _load(self) -> None:
        self._ring, self._synced = {}, None
        try:
            content = (self._folder / "snapshots").read_bytes()
        except FileNotFoundError:
            return
        for slot in range(_SYNCED_SLOTS + _RING):
            snapshot = _unpack(content[slot * _SLOT : (slot + 1) * _SLOT])
            if snapshot is None:
                continue
            self._ring[snapshot.number] = snapshot
            if slot < _SYNCED_SLOTS and (self._synced is None or snapshot > self._synced):
                self._synced, self._synced_slot = snapshot, slot

    def _forget_after(self, target: Snapshot) -> None:
        for number in [number for number in self._ring if number > target.number]:
            del self._ring[number]
        if self._synced is not None and self._synced.number > target.number:
            self._synced = None
        with contextlib.suppress(FileNotFoundError):
            file = os.open(self._folder / "snapshots", os.O_RDWR)
            try:
                for slot in range(_SYNCED_SLOTS + _RING):
                    found = _unpack(os.pread(file, _SLOT, slot * _SLOT))
                    if found is not None and found.number > target.number:
                        os.pwrite(file, bytes(_SLOT), slot * _SLOT)
                os.fsync(file)
            finally:
                os.close(file)

    # -- while LMDB is open ------------------------------------------------------------------------------------------

    def open(self) -> Snapshot | None:
        """Copies can be written from now on. The newest there is."""
        self._file = os.open(self._folder / "snapshots", os.O_RDWR | os.O_CREAT, 0o600)
        self._source = os.open(self._data, os.O_RDONLY)
        return self._target or max(self._ring.values(), default=None)

    def close(self) -> None:
        for descriptor in (self._file, self._source):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._source = -1

    def committed(self, number: int, page_size: int) -> Snapshot:
        """LMDB has made this commit: now it counts."""
        if self._target is not None:
            self._forget_after(self._target)
            self._target = None
        meta = os.pread(self._source, _META, (number & 1) * page_size)
        snapshot = Snapshot.read(meta, self._boot)
        self._ring[number] = snapshot
        self._ring.pop(number - _RING, None)
        os.pwrite(self._file, _pack(snapshot), (_SYNCED_SLOTS + number % _RING) * _SLOT)
        return snapshot

    def synced(self, snapshot: Snapshot) -> None:
        """This commit's pages are on the disk; may run in a thread."""
        if self._target is not None:
            self._forget_after(self._target)
            self._target = None
        slot = 1 - self._synced_slot  # never over the one that is the way back
        os.pwrite(self._file, _pack(snapshot), slot * _SLOT)
        os.fsync(self._file)
        self._synced, self._synced_slot = snapshot, slot


def _pack(snapshot: Snapshot) -> bytes:
    content = snapshot.boot + snapshot.meta
    return (_CHECK.pack(zlib.crc32(content)) + content).ljust(_SLOT, b"\0")


def _unpack(slot: bytes) -> Snapshot | None:
    content = slot[_CHECK.size : _CHECK.size + 16 + _META]
    if len(content) < 16 + _META or not any(content) or _CHECK.unpack_from(slot)[0] != zlib.crc32(content):
        return None
    return Snapshot.read(content[16:], content[:16])


def _boot() -> bytes:
    """Which start of the machine this is; nothing known counts as always the same one."""
    try:
        return uuid.UUID(_BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)
