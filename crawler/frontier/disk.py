"""A store in one LMDB environment: the job's `frontier/` folder.

The open epoch *is* LMDB's open write transaction. Every change is written into it at once and read back through it;
closing the epoch commits it. A process that dies leaves the environment as of the last commit, because LMDB writes
copies of pages and switches over in one page write.

Commits are not synced one by one: a committed transaction survives any death of the process, and at most the last
second is lost with the machine's power (`sync_seconds`), never the consistency: `sync` runs in a thread, since LMDB
gives up the GIL for it.

    name      key                                  value
    hosts     host name                            id (u32)
    names     id                                   host name
    states    host name                            msgpack (delay, places, blocked until)
    seen      id                                   fingerprints (u64, sorted duplicates)
    queue     id, order (14 bytes)                 attempt (u16), fingerprint (u64), record
    deferred  id, due in ms (u64), order           as queue
    values    text                                 bytes
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from typing import TYPE_CHECKING, Any

import lmdb
import msgspec

from crawler.errors import EngineUnavailable, JobError
from crawler.frontier.local import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["FORMAT", "DiskStore"]

FORMAT = 1
"""Of the layout above. A job of another format is refused, not guessed at."""

_ID = struct.Struct(">I")
_FINGERPRINT = struct.Struct(">Q")
_DUE = struct.Struct(">IQ")
_HEAD = struct.Struct(">HQ")
_MAP_SIZE = 1 << 40  # address space, not disk: the file grows as it is used
_STATE = msgspec.msgpack.Decoder(tuple[float | None, int | None, float])


class DiskStore:
    """`crawler.frontier.local.Store` in LMDB at `path`, made where it is missing.

    `window` keys of a host are kept in memory. Raises `JobError` for another format, `EngineUnavailable` where LMDB or
    the disk fails.
    """

    def __init__(self, path: Path, *, window: int = 512, sync_seconds: float = 1.0, map_size: int = _MAP_SIZE) -> None:
        self.window = window
        self._path = path
        self._sync_seconds = sync_seconds
        self._map_size = map_size
        self._synced = 0.0
        self._env: Any = None
        self._txn: Any = None

    # -- life --------------------------------------------------------------------------------------------------------

    def open(self) -> Iterable[str]:
        with self._translated("open"):
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._env = lmdb.open(
                str(self._path), map_size=self._map_size, max_dbs=8, sync=False, metasync=False, mode=0o600
            )
            self._hosts = self._env.open_db(b"hosts")
            self._names = self._env.open_db(b"names")
            self._states = self._env.open_db(b"states")
            self._seen = self._env.open_db(b"seen", dupsort=True, dupfixed=True)
            self._queue = self._env.open_db(b"queue")
            self._deferred = self._env.open_db(b"deferred")
            self._values = self._env.open_db(b"values")
            self._txn = self._env.begin(write=True)
            self._check_format()
            return [self._name(host) for host in self._waiting_hosts()]

    def _check_format(self) -> None:
        found = self._txn.get(b"format", db=self._values)
        if found is None:
            self._txn.put(b"format", b"%d" % FORMAT, db=self._values)
        elif found != b"%d" % FORMAT:
            self.close()
            raise JobError(
                f"{self._path} is of format {found.decode('ascii', 'replace')}; this version reads {FORMAT}. "
                "Continue it with the version that wrote it, or start again with --fresh"
            )

    def _waiting_hosts(self) -> list[int]:
        """Jumps from host to host, so it costs the number of hosts, not of entries."""
        found: set[int] = set()
        for db in (self._queue, self._deferred):
            with self._txn.cursor(db=db) as cursor:
                more = cursor.first()
                while more:
                    (host,) = _ID.unpack_from(cursor.key())
                    found.add(host)
                    more = cursor.set_range(_ID.pack(host + 1))
        return sorted(found)

    def close(self) -> None:
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        if self._env is not None:
            self._env.close()
            self._env = None

    async def commit(self, values: Mapping[str, bytes | None]) -> None:
        with self._translated("commit"):
            for key, value in values.items():
                if value is None:
                    self._txn.delete(key.encode(), db=self._values)
                else:
                    self._txn.put(key.encode(), value, db=self._values)
            self._txn.commit()
            self._txn = self._env.begin(write=True)
        now = time.monotonic()
        if now - self._synced >= self._sync_seconds:
            self._synced = now
            with self._translated("sync"):
                await asyncio.to_thread(self._env.sync, True)

    # -- hosts -------------------------------------------------------------------------------------------------------

    def host_id(self, name: str) -> int:
        with self._translated("write"):
            key = name.encode()
            found = self._txn.get(key, db=self._hosts)
            if found is not None:
                (host,) = _ID.unpack(found)
                return int(host)
            host = int(self._txn.stat(self._hosts)["entries"])
            self._txn.put(key, _ID.pack(host), db=self._hosts)
            self._txn.put(_ID.pack(host), key, db=self._names)
            return host

    def host_count(self) -> int:
        return int(self._txn.stat(self._hosts)["entries"])

    def _name(self, host: int) -> str:
        name: bytes = self._txn.get(_ID.pack(host), db=self._names)
        return name.decode()

    def host_state(self, name: str) -> tuple[float | None, int | None, float] | None:
        found = self._txn.get(name.encode(), db=self._states)
        return None if found is None else _STATE.decode(found)

    def save_host_state(self, name: str, state: tuple[float | None, int | None, float]) -> None:
        with self._translated("write"):
            self._txn.put(name.encode(), msgspec.msgpack.encode(state), db=self._states)

    # -- seen --------------------------------------------------------------------------------------------------------

    def add_seen(self, host: int, fingerprint: int) -> bool:
        try:
            return bool(self._txn.put(_ID.pack(host), _FINGERPRINT.pack(fingerprint), dupdata=False, db=self._seen))
        except lmdb.Error as error:
            raise self._failure("write", error) from error

    def has_seen(self, host: int, fingerprint: int) -> bool:
        with self._txn.cursor(db=self._seen) as cursor:
            return bool(cursor.set_key_dup(_ID.pack(host), _FINGERPRINT.pack(fingerprint)))

    # -- queue -------------------------------------------------------------------------------------------------------

    def put(self, host: int, order: bytes, row: Row) -> None:
        try:
            self._txn.put(_ID.pack(host) + order, _packed(row), db=self._queue)
        except lmdb.Error as error:
            raise self._failure("write", error) from error

    def get(self, host: int, order: bytes) -> Row:
        found = self._txn.get(_ID.pack(host) + order, db=self._queue)
        if found is None:
            raise EngineUnavailable(f"the frontier in {self._path} is damaged: a waiting request is not there")
        return _unpacked(found)

    def delete(self, host: int, order: bytes) -> None:
        try:
            self._txn.delete(_ID.pack(host) + order, db=self._queue)
        except lmdb.Error as error:
            raise self._failure("write", error) from error

    def scan(self, host: int) -> Iterator[bytes]:
        prefix = _ID.pack(host)
        with self._txn.cursor(db=self._queue) as cursor:
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
            self._txn.put(_DUE.pack(host, _milliseconds(due)) + order, _packed(row), db=self._deferred)

    def first_due(self, host: int) -> float | None:
        with self._txn.cursor(db=self._deferred) as cursor:
            if not cursor.set_range(_ID.pack(host)):
                return None
            owner, due = _DUE.unpack_from(cursor.key())
            return due / 1000 if owner == host else None

    def take_due(self, host: int, now: float, limit: int) -> list[tuple[bytes, Row]]:
        taken: list[tuple[bytes, Row]] = []
        with self._translated("write"), self._txn.cursor(db=self._deferred) as cursor:
            more = cursor.set_range(_ID.pack(host))
            while more and len(taken) < limit:
                key: bytes = cursor.key()
                owner, due = _DUE.unpack_from(key)
                if owner != host or due > now * 1000:
                    break
                taken.append((key[_DUE.size :], _unpacked(cursor.value())))
                more = cursor.delete() and bool(cursor.key())
        return taken

    def waiting(self) -> Iterator[tuple[str, float, bytes, Row]]:
        with self._txn.cursor(db=self._queue) as cursor:
            for key, value in cursor:
                yield self._name(_ID.unpack_from(key)[0]), 0.0, key[4:], _unpacked(value)
        with self._txn.cursor(db=self._deferred) as cursor:
            for key, value in cursor:
                host, due = _DUE.unpack_from(key)
                yield self._name(host), due / 1000, key[_DUE.size :], _unpacked(value)

    def size(self) -> int:
        return int(self._txn.stat(self._queue)["entries"] + self._txn.stat(self._deferred)["entries"])

    # -- values and errors -------------------------------------------------------------------------------------------

    def get_value(self, key: str) -> bytes | None:
        found: bytes | None = self._txn.get(key.encode(), db=self._values)
        return found

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        start = prefix.encode()
        with self._txn.cursor(db=self._values) as cursor:
            more = cursor.set_range(start)
            while more and cursor.key().startswith(start):
                yield cursor.key().decode(), cursor.value()
                more = cursor.next()

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            raise self._failure(doing, error) from error

    def _failure(self, doing: str, error: Exception) -> EngineUnavailable:
        return EngineUnavailable(
            f"cannot {doing} the frontier in {self._path}: {error}. Nothing committed is lost; "
            "when the cause is gone, the same command continues"
        )


def _milliseconds(due: float) -> int:
    # Rounded up, so that nothing comes due before its time.
    return max(0, min(-int(-due * 1000 // 1), 2**63))


def _packed(row: Row) -> bytes:
    return _HEAD.pack(min(row.attempt, 0xFFFF), row.fingerprint) + row.record


def _unpacked(value: bytes) -> Row:
    attempt, fingerprint = _HEAD.unpack_from(value)
    return Row(attempt, fingerprint, value[_HEAD.size :])
