"""A store in one LMDB environment: the job's `frontier/` folder.

The open epoch *is* LMDB's open write transaction. Every change is written into it at once and read back through it;
closing the epoch commits it. A process that dies leaves the environment as of the last commit, because LMDB writes
copies of pages and switches over in one page write.

Commits are not synced one by one. A committed transaction survives any death of the process; what survives a power
failure is what `sync` has seen to, and `snapshots` says which that is. What is on disk is believed only as far as it
can be checked: the shape of the pages at every opening (`pages`), rows and values by checksums when they are read, and
what is known by a sum over all of it.

What stands where is in `layout`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import lmdb
import msgspec

from crawler import crash
from crawler.errors import EngineUnavailable, JobDamaged
from crawler.frontier.at_work import AtWork, Deaths
from crawler.frontier.layout import (
    FINGERPRINT,
    FORMAT,
    ID,
    MAX_DATABASES,
    NUMBER_AT,
    PAIR,
    SEEN,
    Peek,
    milliseconds,
    missing_databases,
    refuse_other_format,
    reserve,
    sum_of_seen,
)
from crawler.frontier.mapped import Mapping
from crawler.frontier.pages import check
from crawler.frontier.rows import Row, pack_row, pack_value, unpack_row, unpack_value
from crawler.frontier.snapshots import Snapshot, Snapshots
from crawler.politeness import HostState

if TYPE_CHECKING:
    from collections import abc
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["DiskStore"]

_ORIGIN_BYTES = 12
_SUMMED = 200_000
"""Known requests that are added up at every opening (a million take 0.2 s); more of them after a restart of the
machine, and when `crawler jobs repair` looks. A process that dies does not change what stands in a file."""
_NEW_IN_PEACE = 1000
_NEW_PER_GIVING = 200
"""New requests of one epoch, each of which looks at pages anywhere in the file, and the system maps 16 where one is
looked at. A crawl has fewer; one page that floods has them all."""
_BEHIND_BYTES = 1 << 22
"""By which the file may grow from one sync to the next: a page that a synced state needs is not used again before."""
_MAP_SIZE = 1 << 40  # address space, not disk: the file grows as it is used
_STATE = msgspec.msgpack.Decoder(HostState)
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError)


class DiskStore:
    """`crawler.frontier.store.Store` in LMDB at `path`, made where it is missing.

    `window` keys of each host are kept in memory. Raises `JobError` for another format, `JobDamaged` for what is not
    what was written, `EngineUnavailable` where LMDB or the disk fails.
    """

    def __init__(self, path: Path, *, window: int = 32, map_size: int = _MAP_SIZE) -> None:
        self.window = window
        self.deaths: Deaths
        self._path = path
        self._map_size = map_size
        self._snapshots = Snapshots(path)
        self._at_work = AtWork(path / "at-work")
        self.at_work = self._at_work.note
        self.stays_at_work = self._at_work.keep
        self._is_checked = False
        self._env: Any = None
        self._txn: Any = None
        self._pinned: Any = None
        self._syncing: asyncio.Future[None] | None = None
        self._latest: Snapshot | None = None
        self._seen_count = self._seen_sum = 0

    # -- life --------------------------------------------------------------------------------------------------------

    def peek(self) -> Peek | None:
        """Before `open`. Writes nothing but what `Snapshots.recover` has to put right. None: there is no frontier."""
        with self._translated("open"):
            self._snapshots.recover()
            if not self._has_begun():
                return None
            self._check_pages()
            with lmdb.open(str(self._path), readonly=True, lock=False, max_dbs=MAX_DATABASES) as env:
                try:
                    values = env.open_db(b"values", create=False)
                except lmdb.NotFoundError:
                    return None
                with env.begin(db=values) as txn:
                    found = self._peek(txn)
                if found is not None and found.format == FORMAT and (missing := missing_databases(env)):
                    raise self._damaged(f"of its databases, {', '.join(missing)} cannot be found")
                return found

    def _peek(self, txn: Any) -> Peek | None:
        found = txn.get(b"format")
        if found is None:
            return None
        if not found.isdigit():
            raise self._damaged("its format cannot be read")
        if int(found) != FORMAT:
            return Peek(int(found), None)
        state = txn.get(b"state")
        words = None if state is None else self._opened(b"state", state).decode()
        return Peek(FORMAT, words, self._snapshots.lost)

    def open(self) -> Iterable[str]:
        with self._translated("open"):
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._is_checked:
                found = self.peek()
                if found is not None:
                    refuse_other_format(self._path, found.format)
            self._snapshots.recover()  # again: whoever looked may have made room for a new frontier
            reserve(self._path / "lock.mdb")
            self._env = lmdb.open(
                str(self._path),
                map_size=self._map_size,
                max_dbs=MAX_DATABASES,
                sync=False,
                metasync=False,
                mode=0o600,
            )
            self._env.reader_check()
            self._latest = self._snapshots.open()
            self._mapping = Mapping(self._path / "data.mdb")
            self._open_databases()
            crash.point("recovery_opened")
            if self._txn.get(b"format", db=self._values) is None:
                self._txn.put(b"format", b"%d" % FORMAT, db=self._values)
            self.deaths = Deaths(self.rows("death/"), self.get_value, self.put_value)
            self.deaths.count(self._at_work.last())
            self._load_seen_sum()
            return [self._name(host) for host in self._waiting_hosts()]

    def _has_begun(self) -> bool:
        """A process killed while LMDB made its file leaves an empty one, or not all of the databases."""
        data = self._path / "data.mdb"
        return data.exists() and (data.stat().st_size > 0 or self._snapshots.has_any)

    def _check_pages(self) -> None:
        damages = check(self._path)
        self._is_checked = True
        if damages:
            more = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
            raise self._damaged(f"{damages[0]}{more}")

    def _open_databases(self) -> None:
        env = self._env
        self._hosts = env.open_db(b"hosts")
        self._names = env.open_db(b"names")
        self._states = env.open_db(b"states")
        self._seen = env.open_db(b"seen", dupsort=True, dupfixed=True)
        self._queue = env.open_db(b"queue")
        self._deferred = env.open_db(b"deferred")
        self._records = env.open_db(b"records")
        self._ends = env.open_db(b"ends")
        self._values = env.open_db(b"values")
        self._page_size = int(env.stat()["psize"])
        self._synced_page = self._last_page()
        self._begin()

    def _begin(self) -> None:
        self._txn = self._env.begin(write=True)
        self._known = self._txn.cursor(db=self._seen)
        self._new = 0

    def _load_seen_sum(self) -> None:
        saved = self.get_value("seen")
        self._seen_count, self._seen_sum = (0, 0) if saved is None else SEEN.unpack(saved)
        if self._entries(self._seen) != self._seen_count:
            raise self._damaged("known requests are missing")
        is_due = self._seen_count <= _SUMMED or not self._snapshots.is_of_this_boot
        if is_due and sum_of_seen(self._txn, self._seen) != self._seen_sum:
            raise self._damaged("a known request is not what was written")
        if self._entries(self._queue) + self._entries(self._deferred) != self.size():
            raise self._damaged("waiting requests are missing")

    def _waiting_hosts(self) -> list[int]:
        """Jumps from host to host, so it costs the number of hosts, not of entries."""
        found: set[int] = set()
        for db in (self._queue, self._deferred):
            with self._txn.cursor(db=db) as cursor:
                more = cursor.first()
                while more:
                    (host,) = ID.unpack_from(cursor.key())
                    found.add(host)
                    more = cursor.set_range(ID.pack(host + 1))
        return sorted(found)

    async def close(self) -> None:
        if self._syncing is not None:  # LMDB must not be closed under it
            await asyncio.wait([self._syncing])
        self._at_work.end()
        self._let_go()

    def _let_go(self) -> None:
        for txn in (self._pinned, self._txn):
            if txn is not None:
                txn.abort()
        self._pinned = self._txn = None
        if self._env is not None:
            self._env.close()
            self._env = None
        self._snapshots.close()

    async def roll_back(self) -> bool:
        """Close; the next `open` finds the commit before, or the newest again where that is not kept: False."""
        self._let_go()
        self._is_checked = False
        with self._translated("roll back"):
            return self._snapshots.back()

    # -- the epoch ---------------------------------------------------------------------------------------------------

    async def commit(self, values: abc.Mapping[str, bytes | None]) -> None:
        with self._translated("commit"):
            for key, value in values.items():
                self.put_value(key, value)
            self.put_value("seen", SEEN.pack(self._seen_count, self._seen_sum))
            number = int(self._txn.id())
            crash.point("before_commit")
            self._txn.commit()
            self._txn = None
            crash.point("during_commit")
            self._latest = self._snapshots.committed(number, self._page_size)
            crash.point("after_commit")
            self._mapping.give_back()
            self._begin()
            self._at_work.begin()

    async def sync(self, before: Callable[[], Awaitable[None]]) -> None:
        """What was committed when this is called survives a power failure; `before` does the same for the outputs."""
        # This reader keeps LMDB from using again what the state to come back to is made of.
        reader, snapshot, last_page = self._env.begin(), self._latest, self._last_page()
        try:
            await before()
            if snapshot is None:  # nothing was committed yet
                return
            crash.point("during_checkpoint")
            self._syncing = asyncio.get_running_loop().run_in_executor(None, self._sync, snapshot)
            await asyncio.shield(self._syncing)
            self._pinned, reader = reader, self._pinned
            self._synced_page = last_page
        finally:
            if reader is not None and self._env is not None:
                reader.abort()

    def _sync(self, snapshot: Snapshot) -> None:
        with self._translated("sync"):
            self._env.sync(True)
            self._snapshots.synced(snapshot)

    @property
    def is_behind(self) -> bool:
        return (self._last_page() - self._synced_page) * self._page_size > _BEHIND_BYTES

    def _last_page(self) -> int:
        return int(self._env.info()["last_pgno"])

    def count_deaths(self, fingerprints: Iterable[int]) -> None:
        self.deaths.add(fingerprints)

    def forget_deaths(self, fingerprint: int) -> None:
        self.deaths.forget(fingerprint)

    # -- hosts -------------------------------------------------------------------------------------------------------

    def host_id(self, name: str) -> int:
        if (known := self.known_host_id(name)) is not None:
            return known
        with self._translated("write"):
            key = name.encode()
            host = int(self._txn.stat(self._hosts)["entries"])
            self._txn.put(key, ID.pack(host), db=self._hosts)
            self._txn.put(ID.pack(host), key, db=self._names)
            return host

    def known_host_id(self, name: str) -> int | None:
        with self._translated("read"):
            found = self._txn.get(name.encode(), db=self._hosts)
            return None if found is None else int(ID.unpack(found)[0])

    def host_count(self) -> int:
        return self._entries(self._hosts)

    def _name(self, host: int) -> str:
        name: bytes | None = self._txn.get(ID.pack(host), db=self._names)
        if name is None:
            raise self._damaged(f"host {host} has no name")
        return name.decode()

    def host_state(self, name: str) -> HostState | None:
        with self._translated("read"):
            key = name.encode()
            found = self._txn.get(key, db=self._states)
            return None if found is None else _STATE.decode(self._opened(key, found))

    def save_host_state(self, name: str, state: HostState) -> None:
        with self._translated("write"):
            key = name.encode()
            self._txn.put(key, pack_value(key, msgspec.msgpack.encode(state)), db=self._states)

    # -- seen and ended ----------------------------------------------------------------------------------------------

    def add_seen(self, host: int, fingerprint: int) -> bool:
        try:
            new = self._txn.put(ID.pack(host), FINGERPRINT.pack(fingerprint), dupdata=False, db=self._seen)
        except lmdb.Error as error:
            raise self._failure("write", error) from error
        if new:
            self._seen_count += 1
            self._seen_sum ^= fingerprint
            self._new += 1
            if self._new > _NEW_IN_PEACE and self._new % _NEW_PER_GIVING == 0:
                self._mapping.give_back()
        return bool(new)

    def has_seen(self, host: int, fingerprint: int) -> bool:
        try:
            return bool(self._known.set_key_dup(ID.pack(host), FINGERPRINT.pack(fingerprint)))
        except lmdb.Error as error:
            raise self._failure("read", error) from error

    def put_end(self, host: int, fingerprint: int, origin: bytes, end: bytes) -> None:
        try:
            self._txn.put(PAIR.pack(host, fingerprint), origin + end, db=self._ends)
        except lmdb.Error as error:
            raise self._failure("write", error) from error

    def get_end(self, host: int, fingerprint: int) -> bytes | None:
        with self._translated("read"):
            found: bytes | None = self._txn.get(PAIR.pack(host, fingerprint), db=self._ends)
            return None if found is None else found[_ORIGIN_BYTES:]

    # -- queue -------------------------------------------------------------------------------------------------------

    def put(self, host: int, order: bytes, row: Row) -> None:
        number = order[NUMBER_AT:]
        try:
            self._txn.put(ID.pack(host) + order, b"", db=self._queue)
            self._txn.put(number, pack_row(number, row), db=self._records)
        except lmdb.Error as error:
            raise self._failure("write", error) from error

    def get(self, host: int, order: bytes) -> Row:
        number = order[NUMBER_AT:]
        try:
            return self._row(number, self._txn.get(number, db=self._records))
        except lmdb.Error as error:
            raise self._failure("read", error) from error

    def delete(self, host: int, order: bytes) -> None:
        try:
            self._txn.delete(ID.pack(host) + order, db=self._queue)
            self._txn.delete(order[NUMBER_AT:], db=self._records)
        except lmdb.Error as error:
            raise self._failure("write", error) from error

    def scan(self, host: int) -> Iterator[bytes]:
        prefix = ID.pack(host)
        with self._translated("read"), self._txn.cursor(db=self._queue) as cursor:
            more = cursor.set_range(prefix)
            while more:
                key: bytes = cursor.key()
                if key[:4] != prefix:
                    return
                yield key[4:]
                more = cursor.next()

    # -- deferred ----------------------------------------------------------------------------------------------------

    def defer(self, host: int, due: float, order: bytes, row: Row) -> None:
        with self._translated("write"):
            number = order[NUMBER_AT:]
            self._txn.put(PAIR.pack(host, milliseconds(due)) + order, b"", db=self._deferred)
            self._txn.put(number, pack_row(number, row), db=self._records)

    def first_due(self, host: int) -> float | None:
        with self._translated("read"), self._txn.cursor(db=self._deferred) as cursor:
            if not cursor.set_range(ID.pack(host)):
                return None
            owner, due = PAIR.unpack_from(cursor.key())
            return due / 1000 if owner == host else None

    def promote(self, host: int, now: float, limit: int) -> list[bytes]:
        promoted: list[bytes] = []
        with self._translated("write"), self._txn.cursor(db=self._deferred) as cursor:
            more = cursor.set_range(ID.pack(host))
            while more and len(promoted) < limit:
                key: bytes = cursor.key()
                owner, due = PAIR.unpack_from(key)
                if owner != host or due > now * 1000:
                    break
                promoted.append(key[PAIR.size :])
                more = cursor.delete() and bool(cursor.key())
            for order in promoted:
                self._txn.put(ID.pack(host) + order, b"", db=self._queue)
        return promoted

    def waiting(self) -> Iterator[tuple[str, float, bytes, Row]]:
        with self._translated("read"):
            with self._txn.cursor(db=self._queue) as cursor:
                for key in cursor.iternext(values=False):
                    (host,) = ID.unpack_from(key)
                    yield self._name(host), 0.0, key[4:], self.get(host, key[4:])
            with self._txn.cursor(db=self._deferred) as cursor:
                for key in cursor.iternext(values=False):
                    host, due = PAIR.unpack_from(key)
                    yield self._name(host), due / 1000, key[PAIR.size :], self.get(host, key[PAIR.size :])

    def size(self) -> int:
        return self._entries(self._records)

    def _entries(self, database: Any) -> int:
        if self._txn is None:
            raise EngineUnavailable(f"the frontier in {self._path} is closed: a commit failed")
        with self._translated("read"):
            return int(self._txn.stat(database)["entries"])

    def _row(self, key: bytes, value: bytes | None) -> Row:
        row = None if value is None else unpack_row(key, value)
        if row is None:
            raise self._damaged("a waiting request is " + ("not there" if value is None else "not what was written"))
        return row

    # -- values and errors -------------------------------------------------------------------------------------------

    def get_value(self, key: str) -> bytes | None:
        with self._translated("read"):
            name = key.encode()
            found = self._txn.get(name, db=self._values)
            return None if found is None else self._opened(name, found)

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        start = prefix.encode()
        with self._translated("read"), self._txn.cursor(db=self._values) as cursor:
            more = cursor.set_range(start)
            while more and cursor.key().startswith(start):
                yield cursor.key().decode(), self._opened(cursor.key(), cursor.value())
                more = cursor.next()

    def put_value(self, key: str, value: bytes | None) -> None:
        name = key.encode()
        if value is None:
            self._txn.delete(name, db=self._values)
        else:
            self._txn.put(name, pack_value(name, value), db=self._values)

    def _opened(self, key: bytes, value: bytes) -> bytes:
        content = unpack_value(key, value)
        if content is None:
            raise self._damaged(f"what is kept as {key.decode(errors='replace')!r} is not what was written")
        return content

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            raise self._failure(doing, error) from error

    def _failure(self, doing: str, error: Exception) -> EngineUnavailable:
        if isinstance(error, _DAMAGE):
            return self._damaged(str(error))
        return EngineUnavailable(
            f"cannot {doing} the frontier in {self._path}: {error}. Nothing committed is lost; "
            "when the cause is gone, the same command continues"
        )

    def _damaged(self, what: str) -> JobDamaged:
        return JobDamaged(
            f"the frontier in {self._path} is damaged: {what}. `crawler jobs repair {self._path.parent}` "
            "saves what can be saved; --fresh starts again"
        )
