"""What stands where in a job's frontier.

    name      key                                  value
    hosts     host name                            id (u32)
    names     id                                   host name
    states    host name                            msgpack (delay, places, blocked until, next start), sealed
    seen      id                                   fingerprints (u64, sorted duplicates)
    queue     id, order (12 bytes)                 nothing: whose turn comes when
    deferred  id, due in ms (u64), order           nothing
    records   the order's last 6 bytes             a row (see `rows`) for each of the two above
    ends      id, fingerprint                      origin (12 bytes), what `Outcome.end` was
    values    text                                 bytes, sealed

The last 6 bytes of an order are a number that grows with each entry. So rows are written at the end of their tree,
where LMDB fills its pages; within the hosts' parts of the queue it would leave them half empty.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.errors import JobError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "COUNTERS",
    "DATABASES",
    "FINGERPRINT",
    "FORMAT",
    "ID",
    "MAX_DATABASES",
    "NUMBER_AT",
    "ORDER",
    "PAIR",
    "SEEN",
    "Peek",
    "milliseconds",
    "missing_databases",
    "refuse_other_format",
    "reserve",
    "sum_of_seen",
]

FORMAT = 2
"""Of the layout above. A job of another format is refused, not guessed at."""
DATABASES = ("hosts", "names", "states", "seen", "queue", "deferred", "records", "ends", "values")
MAX_DATABASES = 16

ID = struct.Struct(">I")
FINGERPRINT = struct.Struct(">Q")
PAIR = struct.Struct(">IQ")
"""A host's id and a fingerprint, or a time in milliseconds."""
ORDER = struct.Struct(">IHHI")
"""0x7FFFFFFF less the priority; the depth, or 0xFFFF less it; the entry's number in two parts."""
NUMBER_AT = 6
"""Where the entry's number begins."""
COUNTERS = struct.Struct(">QQQQ")
"""The value `frontier`: numbers given, entries added, duplicates, entries completed."""
SEEN = struct.Struct(">QQ")
"""The value `seen`: how many fingerprints, and all of them in one exclusive or."""
_LOCK_BYTES = 8192


class Peek(NamedTuple):
    """What a job's frontier says of itself, without opening it for work."""

    format: int
    state: str | None
    """As the last committed epoch left it: `running`, or why the crawl ended. None: nothing was ever committed."""
    lost_epochs: int = 0
    """How many had to be given up, because the machine had stopped before they were on its disk."""


def refuse_other_format(path: Path, format: int) -> None:
    """Raises `JobError`."""
    if format > FORMAT:
        raise JobError(
            f"{path} was written by a newer version of the crawler (format {format}, this one reads {FORMAT}). "
            "Nothing was changed: continue it with that version, or give another folder with --job"
        )
    if format < FORMAT:
        raise JobError(
            f"{path} was written by an older version of the crawler (format {format}, this one reads {FORMAT}). "
            "Finish it with that version, or start again with --fresh"
        )


def missing_databases(env: Any) -> list[str]:
    """Where a name was damaged, LMDB would begin anew with that."""
    with env.begin() as txn:
        return [name for name in DATABASES if txn.get(name.encode()) is None]


def sum_of_seen(txn: Any, seen: Any) -> int:
    """The exclusive or of all fingerprints."""
    total = 0
    with txn.cursor(db=seen) as cursor:
        hosts = [bytes(key) for key in cursor.iternext_nodup(values=False)]
        for host in hosts:
            pairs = cursor.getmulti([host], dupdata=True, dupfixed_bytes=FINGERPRINT.size, keyfixed=True)
            total ^= _fold(pairs, ID.size + FINGERPRINT.size) & 0xFFFF_FFFF_FFFF_FFFF
    return total


def _fold(rows: bytes | memoryview, width: int) -> int:
    """The exclusive or of all rows of that many bytes."""
    data = bytes(rows)
    while (count := len(data) // width) > 1:
        half = count // 2 * width
        data = (int.from_bytes(data[:half]) ^ int.from_bytes(data[half : 2 * half])).to_bytes(half) + data[2 * half :]
    return int.from_bytes(data)


def reserve(lock: Path) -> None:
    """Room on the disk for LMDB's lock file, which it maps: where there is none, writing there would be a SIGBUS.
    Raises OSError."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if hasattr(os, "posix_fallocate") and os.fstat(descriptor).st_blocks * 512 < _LOCK_BYTES:
            os.posix_fallocate(descriptor, 0, _LOCK_BYTES)
    finally:
        os.close(descriptor)


def milliseconds(due: float) -> int:
    """Rounded up, so that nothing comes due before its time."""
    return max(0, min(-int(-due * 1000 // 1), 2**63))
