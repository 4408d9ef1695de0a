"""What is left of a frontier whose file may be damaged, read without LMDB, which such a file could crash.

`find_damages` looks at everything: pages, rows and values by their checksums, what is known by its sum, the counters.
The other functions give what passes those checks. Nobody may write meanwhile; all raise OSError where the file cannot
be read.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from crawler.errors import InvalidURL, JobDamaged
from crawler.fate import Fate
from crawler.frontier.kept import JobValues
from crawler.frontier.layout import DATABASES, FINGERPRINT, ID, PAIR
from crawler.frontier.pages import check, salvage
from crawler.frontier.rows import Row, unpack_row, unpack_value
from crawler.url import host_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "Asked",
    "End",
    "Place",
    "anywhere",
    "asked_of",
    "ends",
    "find_damages",
    "hosts",
    "places",
    "rows",
    "sealed",
    "seen",
]

_HEAD_BYTES = {"queue": ID.size, "deferred": PAIR.size}
_ORDER_BYTES = 12
_NUMBER_BYTES = 6
_NEEDED = ("key", "spider", "state", "frontier", "seen")
_LARGEST = 1024
"""Of the values that are looked for on any page."""


class Place(NamedTuple):
    """Where a waiting request stands."""

    host: int
    due: bytes
    """As in its key; empty in `queue`."""
    order: bytes

    @property
    def number(self) -> int:
        """Of its row."""
        return int.from_bytes(self.order[-_NUMBER_BYTES:])


class Asked(msgspec.Struct):
    """As much of a stored request as is needed to place it."""

    url: str
    priority: int = msgspec.field(default=0, name="p")


_REQUEST = msgspec.msgpack.Decoder(Asked)


class Numbers:
    """A set of the numbers of rows, a bit each: they grow by one from entry to entry."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def add(self, number: int) -> bool:
        """Whether it was not there."""
        if number in self:
            return False
        self._bits.extend(bytes(max(0, (number >> 3) + 1 - len(self._bits))))
        self._bits[number >> 3] |= 1 << (number & 7)
        self.count += 1
        return True

    def __contains__(self, number: int) -> bool:
        return number >> 3 < len(self._bits) and bool(self._bits[number >> 3] & 1 << (number & 7))


class End(NamedTuple):
    host: int
    fingerprint: int
    origin: bytes
    content: bytes
    fate: Fate | None
    """None: it cannot be read."""


# -- what is there ---------------------------------------------------------------------------------------------------


def sealed(folder: Path, database: str) -> Iterator[tuple[bytes, bytes | None]]:
    """Of `values` or `states`: key and content. None: it is not what was written."""
    for key, value in salvage(folder, database):
        yield key, value if key == b"format" else unpack_value(key, value)


def rows(folder: Path) -> Iterator[tuple[bytes, Row | None]]:
    """What waits, by its number. None: it is not what was written."""
    for number, value in salvage(folder, "records"):
        if len(number) == _NUMBER_BYTES:
            yield number, unpack_row(number, value)


def places(folder: Path, database: str) -> Iterator[Place]:
    """Of `queue` or `deferred`."""
    head = _HEAD_BYTES[database]
    for key, _ in salvage(folder, database):
        if len(key) == head + _ORDER_BYTES:
            yield Place(ID.unpack_from(key)[0], key[ID.size : head], key[head:])


def asked_of(row: Row) -> Asked | None:
    """None: the frontier's user stored something else."""
    try:
        return _REQUEST.decode(row.record)
    except msgspec.MsgspecError:
        return None


def ends(folder: Path) -> Iterator[End]:
    for key, value in salvage(folder, "ends"):
        if len(key) == PAIR.size and len(value) >= PAIR.size:
            host, fingerprint = PAIR.unpack(key)
            origin, content = value[: PAIR.size], value[PAIR.size :]
            yield End(host, fingerprint, origin, content, _fate(content))


def _fate(content: bytes) -> Fate | None:
    try:
        return Fate.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def seen(folder: Path) -> Iterator[tuple[int, int]]:
    """Host and fingerprint of what is known."""
    for key, value in salvage(folder, "seen"):
        if len(key) == ID.size and len(value) == FINGERPRINT.size:
            yield ID.unpack(key)[0], FINGERPRINT.unpack(value)[0]


def anywhere(folder: Path, name: str) -> bytes | None:
    """A value that never changes, from any page that ever held it: LMDB leaves the pages that it gives up as they
    were."""
    key = name.encode()
    node = re.compile(rb"(.{4})\0\0" + re.escape(struct.pack("<H", len(key)) + key), re.DOTALL)
    with (folder / "data.mdb").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in node.finditer(data):
            size = struct.unpack("<I", match[1])[0]
            content = unpack_value(key, data[match.end() : match.end() + min(size, _LARGEST)])
            if content is not None:
                return content
    return None


# -- hosts -----------------------------------------------------------------------------------------------------------


def hosts(folder: Path) -> dict[int, str]:
    """The name of each number that has one. Where the two databases do not agree, ends decide."""
    by_number, by_name = _host_tables(folder)
    agreed = {host: name for host, name in by_number.items() if by_name.get(host) == name}
    found = {**by_name, **by_number, **agreed}
    if len(agreed) < len(found):
        found.update(_told_names(folder, agreed))
    return dict(sorted(found.items()))


def _host_tables(folder: Path) -> tuple[dict[int, str], dict[int, str]]:
    by_number = {
        ID.unpack(key)[0]: value.decode(errors="replace")
        for key, value in salvage(folder, "names")
        if len(key) == ID.size
    }
    by_name = {
        ID.unpack(value)[0]: key.decode(errors="replace")
        for key, value in salvage(folder, "hosts")
        if len(value) == ID.size
    }
    return by_number, by_name


def _told_names(folder: Path, agreed: dict[int, str]) -> Iterator[tuple[int, str]]:
    for end in ends(folder):
        if end.host not in agreed and end.fate is not None and end.fate.url:
            with contextlib.suppress(InvalidURL):
                yield end.host, host_key(end.fate.url)


# -- what is wrong ---------------------------------------------------------------------------------------------------


def find_damages(folder: Path) -> list[str]:
    """Everything in the frontier that is not what was written, as sentences."""
    found = [str(damage) for damage in check(folder, thorough=True, expected=DATABASES)]
    waiting, wrong = _find_wrong_rows(folder)
    found += wrong
    for database, what in (("states", "host state"), ("values", "value")):
        found += _some(database, what, sum(content is None for _, content in sealed(folder, database)))
    found += _some("ends", "end", sum(end.fate is None for end in ends(folder)))
    by_number, by_name = _host_tables(folder)
    found += _some(
        "hosts", "host name", sum(1 for host in by_number | by_name if by_number.get(host) != by_name.get(host))
    )
    return found + _find_wrong_sums(folder, waiting)


def _find_wrong_rows(folder: Path) -> tuple[int, list[str]]:
    """How many requests wait, too."""
    bad = stray = 0
    whole, placed = Numbers(), Numbers()
    for number, row in rows(folder):
        if row is None:
            bad += 1
        else:
            whole.add(int.from_bytes(number))
    for place in (place for database in _HEAD_BYTES for place in places(folder, database)):
        stray += place.number not in whole or not placed.add(place.number)
    found = _some("records", "waiting request", bad)
    found += [f"queue: {stray} places are not those of a waiting request"] if stray > bad else []
    missing = whole.count - placed.count
    found += [f"queue: {missing} waiting requests have no place"] if missing else []
    return whole.count, found


def _some(database: str, what: str, bad: int) -> list[str]:
    if not bad:
        return []
    return [
        f"{database}: {bad} {what} is not what was written"
        if bad == 1
        else f"{database}: {bad} {what}s are not what was written"
    ]


def _find_wrong_sums(folder: Path, waiting: int) -> list[str]:
    stored = dict(salvage(folder, "values"))
    values = JobValues(folder, stored.get)
    found = [f"values: {name} is not there" for name in _NEEDED if name.encode() not in stored]
    try:
        counters, sums = values.counters, values.seen
    except JobDamaged:
        return found  # told already, by its checksum
    count = total = 0
    for _, fingerprint in seen(folder):
        count += 1
        total ^= fingerprint
    if b"seen" in stored and (count, total) != sums:
        found.append(f"seen: {count} known requests are there, {sums[0]} were written")
    if b"frontier" in stored and counters.added - counters.completed != waiting:
        found.append(f"queue: {waiting} requests wait, {counters.added - counters.completed} should")
    return found
