"""A new frontier of all that can still be read of a damaged one.

What cannot be read is one of these:

- The place of a waiting request in the queue. Its row tells its host and its priority, its parent how deep it is; when
  it was to be tried is lost, so it is tried when its turn comes.
- A waiting request itself. Its URL must not stay known, or it would never be found again. So where the counters say
  that requests are missing, only that stays known which was surely met (it waits, it ended, or its page gave
  something), and `start()` runs again. A page whose end is lost as well is then fetched twice, if it is linked again.
- The end of a request. Where no waiting request is missing, everything known stays known, so it is not fetched again.
- A host's name. Its requests tell it, waiting or ended. Hosts are numbered anew: new numbers follow from their count.
- A value. Statistics begin at zero, cookies and robots.txt are fetched again. The key of the fingerprints must be
  there; it never changes, so a copy on a page that LMDB has given up is as good.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import lmdb
import msgspec

from crawler.errors import JobDamaged
from crawler.fate import Fate
from crawler.frontier import remains
from crawler.frontier.kept import Counters
from crawler.frontier.layout import COUNTERS, DATABASES, FINGERPRINT, FORMAT, ID, MAX_DATABASES, PAIR, SEEN
from crawler.frontier.pages import check
from crawler.frontier.rows import NO_ORIGIN, Row, pack_row, pack_value, unpack_row
from crawler.url import host_key

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Rebuilt", "rebuild"]

_ORDER = struct.Struct(">IH")
"""Its number follows."""
_NUMBER_BYTES = 6
_HIGHEST = 0x7FFFFFFF
_DEEPEST = 0xFFFF
_MAP_SIZE = 1 << 40
_AT_ONCE = 50_000
"""Writes in one transaction: what it keeps in memory."""
_UNFINISHED = (b"running", b"interrupted", b"failed", b"error_limit", b"refused_limit", b"stopped")
_CONSTANT = ("key", "spider")
_EXPECTED = ("state", "stats", "frontier", "seen", "named", "positions", "outputs")


class Rebuilt(msgspec.Struct, kw_only=True):
    """What was saved, and what was not."""

    hosts: int = 0
    waiting: int = 0
    replaced: int = 0
    """Of these, those whose place in the queue was lost: in it again."""
    ended: int = 0
    known: int = 0
    waiting_lost: int | None = 0
    """None: some, nobody knows how many."""
    ended_lost: int = 0
    """How many ends fewer than the counters say, where parts of them cannot be read."""
    known_dropped: int = 0
    """So that they are found again."""
    values_lost: list[str] = []
    starts_again: bool = False
    """`start()` will run again."""


def rebuild(folder: Path, target: Path) -> Rebuilt:
    """Write a new environment to `target`, which is not there yet; it is on the disk when this returns.

    Raises `JobDamaged` where nothing can be made of what is left, OSError and `lmdb.Error` where the disk fails."""
    values = {
        key.decode(): content
        for key, content in remains.sealed(folder, "values")
        if content is not None and key != b"format"
    }
    for name in _CONSTANT:
        found = values.get(name) or remains.anywhere(folder, name)
        if found is None:
            raise JobDamaged(
                f"the frontier in {folder} cannot be repaired: its {name} is lost, and what is known cannot be told "
                "without. `crawler jobs export` may still give the items; --fresh starts again"
            )
        values[name] = found
    target.mkdir(mode=0o700)
    writer = _Writer(target)
    try:
        return _Rebuild(folder, writer, values).run()
    finally:
        writer.close()


class _Writer:
    def __init__(self, target: Path) -> None:
        self._env = lmdb.open(str(target), map_size=_MAP_SIZE, max_dbs=MAX_DATABASES, sync=False, mode=0o600)
        self._databases = {
            name: self._env.open_db(name.encode(), dupsort=name == "seen", dupfixed=name == "seen")
            for name in DATABASES
        }
        self._txn = self._env.begin(write=True)
        self._writes = 0

    def put(self, database: str, key: bytes, value: bytes) -> bool:
        """Whether it was not there."""
        new: bool = self._txn.put(key, value, dupdata=database != "seen", db=self._databases[database])
        self._writes += 1
        if self._writes % _AT_ONCE == 0:
            self._txn.commit()
            self._txn = self._env.begin(write=True)
        return new

    def get(self, database: str, key: bytes) -> bytes | None:
        found: bytes | None = self._txn.get(key, db=self._databases[database])
        return found

    def delete(self, database: str, key: bytes) -> None:
        self._txn.delete(key, db=self._databases[database])

    def finish(self) -> None:
        self._txn.commit()
        self._txn = self._env.begin()
        self._env.sync(True)

    def close(self) -> None:
        self._txn.abort()
        self._env.close()


class _Rebuild:
    """One pass over each database."""

    def __init__(self, folder: Path, writer: _Writer, values: dict[str, bytes]) -> None:
        self._folder = folder
        self._writer = writer
        self._values = values
        self._done = Rebuilt(values_lost=[name for name in _EXPECTED if name not in values])
        self._torn = {damage.database for damage in check(folder, thorough=True, expected=DATABASES)}
        self._numbers: dict[int, int] = {}
        """Old to new."""
        self._seen_sum = 0
        self._sequence = 0
        self._depth_first = False

    def run(self) -> Rebuilt:
        done, values = self._done, self._values
        self._take_hosts()
        self._take_ends()
        is_lost = self._take_waiting()
        saved = Counters(*COUNTERS.unpack(values["frontier"])) if "frontier" in values else None
        if saved is not None:
            done.waiting_lost = max(0, saved.added - saved.completed - done.waiting)
            done.ended_lost = max(0, saved.completed - done.ended) if self._is_torn("ends") else 0
        elif is_lost or self._is_torn("records"):
            done.waiting_lost = None
        self._take_known()
        self._take_values(saved)
        self._writer.finish()
        return done

    def _is_torn(self, database: str) -> bool:
        return not self._torn.isdisjoint((database, "(main)", "(file)"))

    def _take_hosts(self) -> None:
        for old, name in remains.hosts(self._folder).items():
            self._numbers[old] = self._number(name)
        for key, content in remains.sealed(self._folder, "states"):
            if content is not None:
                self._writer.put("states", key, pack_value(key, content))

    def _number(self, name: str) -> int:
        known = self._writer.get("hosts", name.encode())
        if known is not None:
            return int(ID.unpack(known)[0])
        number = self._done.hosts
        self._done.hosts += 1
        self._writer.put("hosts", name.encode(), ID.pack(number))
        self._writer.put("names", ID.pack(number), name.encode())
        return number

    def _take_waiting(self) -> bool:
        """Whether something was there and could not be taken."""
        lost = False
        last = 0
        for number, row in remains.rows(self._folder):
            if row is None:
                lost = True
                continue
            last = int.from_bytes(number)
            self._writer.put("records", number, pack_row(number, row._replace(origin=self._moved(row.origin))))
        self._sequence = last
        placed = remains.Numbers()
        for database in ("queue", "deferred"):
            for place in remains.places(self._folder, database):
                lost |= not self._take_place(database, place, placed)
        for number, row in remains.rows(self._folder):
            if row is not None and int.from_bytes(number) not in placed:
                lost |= not self._place_anew(number, row)
        return lost

    def _take_place(self, database: str, place: remains.Place, placed: remains.Numbers) -> bool:
        number = place.order[-_NUMBER_BYTES:]
        found = self._writer.get("records", number)
        row = None if found is None else unpack_row(number, found)
        if row is None or place.number in placed:
            return False
        asked = remains.asked_of(row)
        host = self._numbers.get(place.host) if asked is None else self._number(host_key(asked.url))
        if host is None:
            return False
        self._writer.put(database, ID.pack(host) + place.due + place.order, b"")
        placed.add(place.number)
        self._depth_first |= _ORDER.unpack_from(place.order)[1] > _DEEPEST // 2
        self._waits(host, row)
        return True

    def _place_anew(self, number: bytes, row: Row) -> bool:
        asked = remains.asked_of(row)
        if asked is None:
            self._writer.delete("records", number)
            return False
        host, origin = self._number(host_key(asked.url)), self._moved(row.origin)
        end = self._writer.get("ends", origin)
        depth = 0 if end is None else min(Fate.decode(end[len(NO_ORIGIN) :]).depth + 1, _DEEPEST)
        place = _DEEPEST - depth if self._depth_first else depth
        order = _ORDER.pack(_HIGHEST - asked.priority, place) + number
        self._writer.put("queue", ID.pack(host) + order, b"")
        self._done.replaced += 1
        self._waits(host, row._replace(origin=origin))
        return True

    def _waits(self, host: int, row: Row) -> None:
        self._know(host, row.fingerprint, row.origin)
        self._done.waiting += 1

    def _take_ends(self) -> None:
        for end in remains.ends(self._folder):
            host = self._numbers.get(end.host)
            if host is None:
                continue
            origin = self._moved(end.origin)
            self._know(host, end.fingerprint, origin)
            if end.fate is not None:
                self._writer.put("ends", PAIR.pack(host, end.fingerprint), origin + end.content)
                self._done.ended += 1

    def _take_known(self) -> None:
        """All that was met, if nothing that was met can have been lost."""
        left = 0
        for number, fingerprint in remains.seen(self._folder):
            left += 1
            host = self._numbers.get(number)
            if host is not None and self._done.waiting_lost == 0:
                self._add_known(host, fingerprint)
        written = SEEN.unpack(self._values["seen"])[0] if "seen" in self._values else left
        self._done.known_dropped = max(0, written - self._done.known)

    def _take_values(self, saved: Counters | None) -> None:
        done, values = self._done, self._values
        before = saved or Counters(0, 0, 0, done.ended)
        sequence = max(self._sequence, before.sequence)
        added = before.completed + done.waiting
        values["frontier"] = Counters(sequence, added, before.duplicates, before.completed).pack()
        values["seen"] = SEEN.pack(done.known, self._seen_sum)
        if done.waiting_lost != 0 or values.get("state", b"running") in _UNFINISHED:
            values["state"] = b"interrupted"
        # `start()` gave lost requests, perhaps, and names the hosts that may be private, certainly.
        if (done.waiting_lost != 0 or "named" not in values) and values.pop("started", None) is not None:
            done.starts_again = True
        if done.waiting_lost != 0:
            values.pop("requeued", None)  # pages of a crawl that is being refreshed may be among them
        self._writer.put("values", b"format", b"%d" % FORMAT)
        for name, content in values.items():
            self._writer.put("values", name.encode(), pack_value(name.encode(), content))

    def _know(self, host: int, fingerprint: int, origin: bytes) -> None:
        self._add_known(host, fingerprint)
        if origin != NO_ORIGIN:
            self._add_known(*PAIR.unpack(origin))

    def _add_known(self, host: int, fingerprint: int) -> None:
        if self._writer.put("seen", ID.pack(host), FINGERPRINT.pack(fingerprint)):
            self._done.known += 1
            self._seen_sum ^= fingerprint

    def _moved(self, origin: bytes) -> bytes:
        number, fingerprint = PAIR.unpack(origin)
        host = None if origin == NO_ORIGIN else self._numbers.get(number)
        return NO_ORIGIN if host is None else PAIR.pack(host, fingerprint)
