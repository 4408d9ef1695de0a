"""A job's frontier as somebody else sees it: what waits, what became of the rest, and why. Nothing is written.

The process that crawls may be at work meanwhile. One read transaction is one consistent moment between two of its
epochs; `renew` goes on to the newest. While a transaction is open, LMDB uses none of the space that became free since,
so keep it short where a crawl is running.

What is read is checked, as everywhere: rows and values by their checksums, pages by whoever opens a frontier that no
process is working on (`crawler.jobs.open_frontier`). A request that is being fetched waits here, like all others: that
it is leased only its process knows.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import lmdb
import msgspec

from crawler.contracts import Entry
from crawler.cookies.suffixes import registrable_domain
from crawler.errors import EngineUnavailable, JobError
from crawler.fate import Fate
from crawler.frontier.kept import Ended, JobValues, Origin, Waiting, check_format, damaged
from crawler.frontier.layout import FINGERPRINT, ID, MAX_DATABASES, NUMBER_AT, ORDER, PAIR
from crawler.frontier.local import ELSEWHERE
from crawler.frontier.rows import NO_ORIGIN, Row, unpack_row, unpack_value
from crawler.politeness import HostState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FrontierReader"]

_HIGHEST = 0x7FFFFFFF
_DEEPEST = 0xFFFF
_STATE = msgspec.msgpack.Decoder(HostState)
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError, struct.error)
_NAMES_KEPT = 1000


class _Asked(msgspec.Struct):
    """As much of a stored request as a reader needs: its items may be of classes that only the spider has."""

    url: str
    method: str = msgspec.field(default="GET", name="m")


_REQUEST = msgspec.msgpack.Decoder(_Asked)


class Placed(NamedTuple):
    host: str
    priority: int
    depth: int


class FrontierReader:
    """The frontier in `folder`, for a `with` block.

    Entering raises `JobError` where there is none, or one of another format, `JobDamaged` for one that LMDB cannot
    open, `EngineUnavailable` where the disk fails; reading raises `JobDamaged` for what is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values = JobValues(folder, lambda key: self._get(b"values", key))
        self._env: Any = None
        self._txn: Any = None
        self._databases: dict[bytes, Any] = {}
        self._names: dict[int, str] = {}

    def __enter__(self) -> FrontierReader:
        if not (self.folder / "data.mdb").is_file():
            raise JobError(f"there is no frontier in {self.folder}")
        try:
            with self._translated():
                self._open()
                self.renew()
            check_format(self.folder, self._get(b"values", b"format"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._txn is not None:
            self._txn.abort()
        if self._env is not None:
            self._env.close()
        self._txn = self._env = None

    def _open(self) -> None:
        try:
            self._env = self._environment(lock=True)
        except lmdb.ReadonlyError:  # a folder that is not ours to write in: nobody can be told that we read
            self._env = self._environment(lock=False)
        with self._env.begin() as txn:  # ended before `open_db`, which begins one of its own
            there = [name for name, _ in txn.cursor()]
        self._databases = {name: self._env.open_db(name, create=False) for name in there}

    def _environment(self, *, lock: bool) -> Any:
        return lmdb.open(str(self.folder), readonly=True, lock=lock, max_dbs=MAX_DATABASES, create=False)

    def renew(self) -> None:
        """See the newest epoch from now on."""
        if self._txn is not None:
            self._txn.abort()
        self._txn = self._env.begin()

    # -- hosts -------------------------------------------------------------------------------------------------------

    def host_state(self, name: str) -> HostState | None:
        """What was learnt about the host, or about the group in which it is treated; None: it is as configured."""
        return self.host_and_state(name)[1]

    def host_and_state(self, name: str) -> tuple[str, HostState | None]:
        """With the name of the group, which is the host's own where it is treated alone."""
        state = self._state(name)
        if state is not None and state.group:
            return state.group, self._state(state.group)
        if state is None and (site := registrable_domain(name.rpartition(":")[0])):
            return site, self._state(site)
        return name, state

    def _state(self, name: str) -> HostState | None:
        key = name.encode()
        found = self._get(b"states", key)
        if found is None:
            return None
        content = unpack_value(key, found)
        if content is None:
            raise damaged(self.folder, f"the state of host {name} is not what was written")
        return _STATE.decode(content)

    def host_name(self, host: int) -> str:
        """Of a host's number in `rows`."""
        name = self._names.get(host)
        if name is None:
            found = self._get(b"names", ID.pack(host))
            if found is None:
                raise damaged(self.folder, f"host {host} has no name")
            if len(self._names) >= _NAMES_KEPT:
                self._names.clear()
            name = self._names[host] = found.decode(errors="replace")
        return name

    def _number(self, host: str) -> int | None:
        found = self._get(b"hosts", host.encode())
        with self._translated():
            return None if found is None else int(ID.unpack(found)[0])

    # -- one request -------------------------------------------------------------------------------------------------

    def knows(self, host: str, fingerprint: int) -> bool:
        """Whether the request was ever met."""
        database = self._databases.get(b"seen")
        if database is None:
            return False
        numbers = [number for name in (host, ELSEWHERE) if (number := self._number(name)) is not None]
        with self._translated(), self._txn.cursor(db=database) as cursor:
            return any(cursor.set_key_dup(ID.pack(number), FINGERPRINT.pack(fingerprint)) for number in numbers)

    def seen(self) -> Iterator[tuple[str, int]]:
        """Every request that was ever met: host and fingerprint."""
        database = self._databases.get(b"seen")
        if database is None:
            return
        with self._translated(), self._txn.cursor(db=database) as cursor:
            for key, value in cursor:
                yield self.host_name(ID.unpack(key)[0]), FINGERPRINT.unpack(value)[0]

    def states(self) -> Iterator[tuple[str, HostState]]:
        """What was learnt about each host, or group of hosts."""
        for key in self._keys(b"states", b""):
            state = self._state(key.decode())
            if state is not None:
                yield key.decode(), state

    def kept(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The values whose keys begin with this."""
        for key in self._keys(b"values", prefix.encode()):
            value = self.values.get(key.decode())
            if value is not None:
                yield key.decode(), value

    def end(self, host: str, fingerprint: int) -> Ended | None:
        """What became of the request; None: nothing yet, or it was never met."""
        number = self._number(host)
        found = None if number is None else self._get(b"ends", PAIR.pack(number, fingerprint))
        return None if found is None else self._ended(found)

    def ends(self) -> Iterator[tuple[Origin, Ended]]:
        """What became of every request of which that is kept, by host and fingerprint."""
        for key in self._keys(b"ends", b""):
            with self._translated():
                number, fingerprint = PAIR.unpack(key)
            found = self._get(b"ends", key)
            if found is not None:
                yield Origin(self.host_name(number), fingerprint), self._ended(found)

    def _ended(self, found: bytes) -> Ended:
        try:
            return Ended(self._origin(found[: PAIR.size]), Fate.decode(found[PAIR.size :]))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise damaged(self.folder, f"what became of a request cannot be read ({error})") from error

    def find(self, host: str, fingerprint: int) -> Waiting | None:
        """The request where it waits. Reads what waits of its host until then."""
        number = self._number(host)
        if number is None:
            return None
        for owner, due, order, row in self.rows(number):
            if row.fingerprint == fingerprint:
                return self._waiting(owner, due, order, row)
        return None

    def parent(self, origin: Origin) -> tuple[str, Origin | None] | None:
        """The URL of a request, wherever it is now, and where it came from itself. None: that is not kept."""
        ended = self.end(*origin)
        if ended is not None and ended.fate.url:
            return ended.fate.url, ended.origin
        waiting = self.find(*origin)
        return None if waiting is None or not waiting.url else (waiting.url, waiting.origin)

    # -- what waits --------------------------------------------------------------------------------------------------

    def waiting(self, host: str) -> Iterator[Waiting]:
        """What waits of one host, in the order of its turns; then what is put off, by its time."""
        number = self._number(host)
        if number is not None:
            for owner, due, order, row in self.rows(number):
                yield self._waiting(owner, due, order, row)

    def rows(self, host: int | None = None) -> Iterator[tuple[int, float, bytes, Row]]:
        """What waits, of one host or of all, unread: its host's number, due time or 0, order, row."""
        prefix = b"" if host is None else ID.pack(host)
        for key in self._keys(b"queue", prefix):
            order = key[ID.size :]
            yield ID.unpack_from(key)[0], 0.0, order, self._row(order)
        for key in self._keys(b"deferred", prefix):
            owner, due = PAIR.unpack_from(key)
            order = key[PAIR.size :]
            yield owner, due / 1000, order, self._row(order)

    def entries(self) -> Iterator[Entry]:
        """What waits of all hosts, to be queued elsewhere, each request once."""
        for host, due, order, row in self.rows():
            told = self._waiting(host, due, order, row)
            yield Entry(told.host, row.fingerprint, row.record, told.priority, told.depth, due, True, told.origin)

    def placed(self, host: int, order: bytes) -> Placed:
        """What a row's place says of it."""
        priority, place, _, _ = ORDER.unpack(order)
        depth = min(place, _DEEPEST - place)  # `crawl.order = "depth"` counts down from the deepest
        return Placed(self.host_name(host), _HIGHEST - priority, depth)

    def _row(self, order: bytes) -> Row:
        number = order[NUMBER_AT:]
        found = self._get(b"records", number)
        row = None if found is None else unpack_row(number, found)
        if row is None:
            what = "not there" if found is None else "not what was written"
            raise damaged(self.folder, f"a waiting request is {what}")
        return row

    def _waiting(self, host: int, due: float, order: bytes, row: Row) -> Waiting:
        try:
            asked = _REQUEST.decode(row.record)
        except msgspec.MsgspecError:
            asked = _Asked("")
        placed = self.placed(host, order)
        return Waiting(
            placed.host,
            asked.url,
            asked.method,
            placed.depth,
            row.attempt,
            due,
            placed.priority,
            row.fingerprint,
            self._origin(row.origin),
        )

    def _origin(self, origin: bytes) -> Origin | None:
        if origin == NO_ORIGIN:
            return None
        with self._translated():
            host, fingerprint = PAIR.unpack(origin)
        return Origin(self.host_name(host), fingerprint)

    # -- LMDB --------------------------------------------------------------------------------------------------------

    def _get(self, database: bytes, key: bytes) -> bytes | None:
        if database not in self._databases:
            return None
        with self._translated():
            found: bytes | None = self._txn.get(key, db=self._databases[database])
            return found

    def _keys(self, database: bytes, prefix: bytes) -> Iterator[bytes]:
        if database not in self._databases:
            return
        with self._translated(), self._txn.cursor(db=self._databases[database]) as cursor:
            more = cursor.set_range(prefix) if prefix else cursor.first()
            while more and cursor.key().startswith(prefix):
                yield cursor.key()
                more = cursor.next()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise damaged(self.folder, str(error)) from error
        except (lmdb.Error, OSError) as error:
            raise EngineUnavailable(f"cannot read the frontier in {self.folder}: {error}") from error
