"""The table `items` of one SQLite database: opened, locked, cut back, written and checked. Everything here blocks.

What can go wrong is what `file.py` tells of files, and what is done about it has the same shape. The position is the
highest row number and the number of rows up to there. All rows of an epoch go in with one transaction; a crash between
its commit and that of the epoch leaves rows behind the position, and the next run deletes them. Where the end is torn
and that cannot be done, a new database is made of the rows up to the position (`rescue.py`).

Rollback journal, not WAL: after a crash a `-wal` file holds rows that were committed, and whoever takes the database
without it loses them; a rollback journal exists only while a transaction is being written. The price is that a reader
keeps a commit waiting (`_PATIENCE_SECONDS`), and that every commit has to sync: without, a power failure would not cost
the last second but the database. That is `synchronous=FULL`, some 5 ms for each epoch in a thread, whichever
durability is asked for. The one thing it leaves to `sync` is the folder, where the journal's removal is what commits.
A database that is found in WAL mode stays in it; there FULL makes each commit durable by itself.

The rows of an epoch go in some hundreds a statement: sqlite3 lets go of the interpreter for each statement, and beside
a busy loop it takes up to 5 ms to get it back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
from typing import TYPE_CHECKING
from urllib.parse import quote

from crawler import crash
from crawler.errors import OutputError
from crawler.export.place import create_folders, lock, moved, reason, sync_folders
from crawler.export.position import Rows
from crawler.export.rescue import Unrescuable, has_rows, rescued
from crawler.export.table import Columns, Tail, statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crawler.export.position import Position
    from crawler.export.table import Row, Shape

__all__ = ["Database", "complaint", "errors", "opened"]

logger = logging.getLogger("crawler.sqlite")

_PATIENCE_SECONDS = 30.0
"""How long another program may keep the database locked: a query of somebody who looks, not a job."""
_CACHED_STATEMENTS = 16
"""One for some hundreds of rows takes a hundred kilobytes, and few come again with as many rows."""
_CHECKED_WHOLE_BYTES = 256 * 1024 * 1024
"""Up to this size the whole structure is checked at open: about a second from a slow disk. Beyond it, the newest rows
and the way to them, and that none is missing."""
_RESTORE = "Restore it, or start again with --fresh."
_MAGIC = b"SQLite format 3\x00"


class Database:
    """`size` is that of the file, for people to read."""

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.path = os.path.abspath(path)
        self.size = 0
        self.rows = Rows(0, 0)
        self.failure: str | None = None
        """Why it is not used any more."""
        self._overwrite = overwrite
        self._fd = -1
        self._connection: sqlite3.Connection | None = None
        self._columns: Columns | None = None
        self._tail = Tail()
        self._unsynced: list[str] = []

    @property
    def check(self) -> int:
        return self._tail.check

    # -- opening -----------------------------------------------------------------------------------------------------

    def holds(self, committed: Position) -> bool:
        """Whether the table still has the rows up to there, and the newest are those that were written; of a damaged
        database, whether they can be saved. Like every reader it may have to roll an unfinished transaction back. Where
        nobody can tell: True, and `open` says why."""
        rows = committed.rows or Rows(0, 0)
        if not rows.count:
            return True
        if not os.path.lexists(self.path):
            return False
        try:
            return self._is_intact(rows, committed.check)
        except sqlite3.Error as error:
            return _code(error) in _NOT_DAMAGED
        except (OSError, ValueError):
            return True

    def _is_intact(self, rows: Rows, check: int) -> bool:
        try:
            with contextlib.closing(opened(self.path)) as connection:
                if _structure_complaint(connection, os.path.getsize(self.path)) is None:
                    return _rows_complaint(connection, rows, check) is None
        except sqlite3.Error as error:
            if _code(error) not in _DAMAGED:
                raise
        with contextlib.closing(opened(self.path)) as connection:
            return has_rows(connection, rows, check)

    def open(self, committed: Position | None) -> None:
        self.failure = None
        rows = committed.rows if committed is not None else None
        try:
            with errors(self.path, "cannot be opened"):
                self._claim(create=rows is None or not rows.count)
                if committed is not None and rows is not None:
                    self._continue(rows, committed.check)
                else:
                    self._connect()
                    self._take_up()
        except BaseException:
            self.release()
            raise
        self.size = os.fstat(self._fd).st_size

    def _claim(self, *, create: bool) -> None:
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            if not create:
                raise OutputError(f"{self.path} is missing, but this job has written to it. {_RESTORE}") from None
            mode = stat.S_IFREG
        if not stat.S_ISREG(mode):
            raise OutputError(f"{self.path} is no regular file; a database has to be one.")
        self._unsynced = create_folders(self.path)
        # Ours for the lock. It is closed after SQLite's: closing it would end SQLite's own locks, which are fcntl's.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
        lock(self._fd, self.path)
        if not os.path.samestat(os.fstat(self._fd), os.stat(self.path)):  # who had the lock put another in its place
            raise OutputError(f"{self.path} is being written by another output or another crawl.")
        if os.pread(self._fd, len(_MAGIC), 0) not in {b"", _MAGIC}:
            raise OutputError(f"{self.path} is no SQLite database. Write to another file, or remove it.")

    def _connect(self) -> None:
        self._connection = opened(self.path)
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA cell_size_check=ON")

    def _take_up(self) -> None:
        """A database that this job has not written to yet."""
        damage = _structure_complaint(self._open_connection, os.fstat(self._fd).st_size)
        if damage is not None:
            raise OutputError(f"{self.path} is damaged: {damage}.")
        self._columns = self._read_columns()
        if self._overwrite:
            self._drop()
        self._settle(_rows_there(self._open_connection) if self._columns.exist else Rows(0, 0))

    def _continue(self, rows: Rows, check: int) -> None:
        try:
            self._connect()
            self._cut_back(rows, check)
        except (_Damaged, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and _code(error) not in _DAMAGED:
                raise
            self._rescue(rows, check, error)
            self._connect()
            self._cut_back(rows, check)

    def _cut_back(self, rows: Rows, check: int) -> None:
        connection = self._open_connection
        damage = _structure_complaint(connection, os.fstat(self._fd).st_size)
        if damage is not None:
            raise _Damaged(f"{self.path}: it is damaged ({damage}). {_RESTORE}")
        if rows.count:
            found = _rows_complaint(connection, rows, check)
            if found is not None:
                raise OutputError(f"{self.path}: {found} {_RESTORE}")
            if not _has_sound_end(connection, rows):  # in a file too large to be checked whole
                raise _Damaged(f"{self.path}: it is damaged at its end. {_RESTORE}")
            with self._transaction():
                connection.execute("DELETE FROM items WHERE rowid > ?", (rows.last,))
                if Tail.of(connection, rows.last).check != check:
                    raise _Damaged(f"{self.path}: it is damaged at its end. {_RESTORE}")
        self._columns = self._read_columns()
        if not rows.count:
            self._drop()
        self._settle(rows)

    def _rescue(self, rows: Rows, check: int, damage: Exception) -> None:
        """A new database in the place of the damaged one, or the error that told of the damage."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        try:
            fd = rescued(self.path, self._fd, opened, rows, check)
        except (Unrescuable, sqlite3.Error, OSError, MemoryError) as error:
            if isinstance(error, sqlite3.Error) and _code(error) in _LOCKED:
                raise
            logger.warning("%s is damaged, and no new database can be made of it: %.300s", self.path, error)
            raise damage from error
        os.close(self._fd)
        self._fd = fd
        sync_folders([os.path.dirname(os.path.realpath(self.path))])
        logger.warning(
            "%s was damaged: made again of its %d rows up to number %d. What came behind is fetched again",
            self.path, rows.count, rows.last,
        )  # fmt: skip

    def _settle(self, rows: Rows) -> None:
        self.rows = rows
        self._tail = Tail.of(self._open_connection, rows.last) if rows.count else Tail()

    def _drop(self) -> None:
        """The rows of before, and the columns that they brought."""
        if self._columns is None or not self._columns.exist:
            return
        connection = self._open_connection
        connection.execute("DROP TABLE items")
        self._columns = Columns(connection)
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.execute("VACUUM")  # nothing is left: the file gets small, and that costs nothing

    def _read_columns(self) -> Columns:
        columns = Columns(self._open_connection)
        if columns.are_foreign:
            raise OutputError(
                f"{self.path} has a table 'items' that no crawl has made: its first column is not "
                "rowid INTEGER PRIMARY KEY. Write to another file, or rename the table."
            )
        return columns

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, rows: Iterable[Row]) -> None:
        """All of the rows or none of them; after an `OutputError` the database is not used again."""
        self._check_usable()
        tail = self._tail.copy()
        last = self.rows.last
        try:
            with errors(self.path, "cannot be written"), contextlib.ExitStack() as stack:
                for numbered in statements(rows, last + 1):
                    if last == self.rows.last:  # without a row there is no transaction
                        stack.enter_context(self._transaction())
                    last += len(numbered)
                    self._insert(numbered, tail)
        except BaseException as error:
            self.failure = str(error) if isinstance(error, OutputError) else f"{self.path}: {error!r}."
            raise
        self.rows = Rows(last, self.rows.count + last - self.rows.last)
        self._tail = tail
        self._confirm()
        self.size = os.fstat(self._fd).st_size

    def _insert(self, rows: list[tuple[int, Row]], tail: Tail) -> None:
        assert self._columns is not None
        shape = self._columns.shape(tuple(rows[0][1]))
        stored = [(number, shape.stored(row)) for number, row in rows]
        for number, row in stored:
            tail.add(number, row)
        if crash.armed:
            half = len(stored) // 2
            self._insert_all(shape, stored[:half])
            crash.point("mid_output_write")
            stored = stored[half:]
        self._insert_all(shape, stored)

    def _insert_all(self, shape: Shape, rows: list[tuple[int, Row]]) -> None:
        connection = self._open_connection
        most = max(1, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // shape.width)
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            values = [value for number, row in part for value in (number, *row.values())]
            connection.execute(shape.insert(len(part)), values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._open_connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # after some errors SQLite has done so by itself
                connection.execute("ROLLBACK")
            raise

    # -- watching and letting go -------------------------------------------------------------------------------------

    def look(self) -> None:
        """Whether the file is still there: an `OutputError` if not."""
        self._check_usable()
        self._confirm()

    def _check_usable(self) -> None:
        if self.failure is not None:
            raise OutputError(self.failure)
        if self._connection is None:
            raise OutputError(f"{self.path} is not open.")

    def _confirm(self) -> None:
        what = moved(self._fd, self.path)
        if what is not None:
            self.failure = what
            raise OutputError(what)

    def sync(self) -> None:
        """What was committed survives a power failure. May run while `write` does."""
        self._check_usable()
        try:
            sync_folders([*self._unsynced, os.path.dirname(self.path)])
        except OSError as error:
            self.failure = f"{self.path} cannot be written: {reason(error)}."
            raise OutputError(self.failure) from error
        self._unsynced = []

    def abandon(self) -> None:
        """Nothing to do: a transaction ends by itself, at the latest when patience does."""

    def close(self) -> None:
        if self._connection is None:
            return
        try:
            if self.failure is None:
                self._confirm()
        finally:
            self.release()

    def release(self) -> None:
        """Let go of it as it is; an open transaction is rolled back."""
        connection, self._connection = self._connection, None
        fd, self._fd = self._fd, -1
        try:
            if connection is not None:
                with errors(self.path, "cannot be written"):
                    connection.close()
        finally:
            if fd >= 0:
                os.close(fd)

    @property
    def _open_connection(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection


# -- checks ------------------------------------------------------------------------------------------------------------


class _Damaged(OutputError):
    """The structure of the database, not only what stands in it."""


def complaint(connection: sqlite3.Connection, rows: Rows, check: int, size: int) -> str | None:
    """Why a database with `size` bytes is not what was written up to there."""
    damage = _structure_complaint(connection, size)
    return _rows_complaint(connection, rows, check) if damage is None else f"it is damaged ({damage})."


def _rows_complaint(connection: sqlite3.Connection, rows: Rows, check: int) -> str | None:
    if not connection.execute("PRAGMA table_info(items)").fetchone():
        return "it has no table 'items' any more, but this job has written to it."
    there = connection.execute("SELECT count(*) FROM items WHERE rowid <= ?", (rows.last,)).fetchone()[0]
    if there != rows.count:
        return f"it has {there} rows up to number {rows.last}, but there were {rows.count} when this job wrote to it."
    if Tail.of(connection, rows.last).check != check:
        return f"it was changed: the rows before number {rows.last} are not what this job wrote."
    return None


def _has_sound_end(connection: sqlite3.Connection, rows: Rows) -> bool:
    """Whether the numbers of the rows behind the position ascend. On a torn page they are gone, or any; deleting such
    rows would do harm to what is whole."""
    number = rows.last
    with contextlib.closing(
        connection.execute("SELECT rowid FROM items NOT INDEXED WHERE rowid > ? ORDER BY rowid", (number,))
    ) as found:
        for row in found:
            if row[0] <= number:
                return False
            number = row[0]
    return True


def _structure_complaint(connection: sqlite3.Connection, size: int) -> str | None:
    if size > _CHECKED_WHOLE_BYTES:
        return None
    found: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return None if found == "ok" else " ".join(found.split())


def _rows_there(connection: sqlite3.Connection) -> Rows:
    last, count = connection.execute("SELECT coalesce(max(rowid), 0), count(*) FROM items").fetchone()
    return Rows(max(last, 0), count)


# -- SQLite ------------------------------------------------------------------------------------------------------------

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NOT_DAMAGED = _LOCKED | {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM}


def opened(path: str) -> sqlite3.Connection:
    """A connection to a database that exists, for one thread at a time."""
    return sqlite3.connect(
        f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=rw",
        uri=True,
        timeout=_PATIENCE_SECONDS,
        isolation_level=None,  # transactions begin and end where the code says so
        check_same_thread=False,
        cached_statements=_CACHED_STATEMENTS,
    )


@contextlib.contextmanager
def errors(path: str, what: str) -> Iterator[None]:
    """SQLite's errors and the system's as `OutputError`."""
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if code in _LOCKED:
            message = f"{path} {what}: another program keeps it locked ({name})."
        elif code in _DAMAGED or code is None:
            message = f"{path} is damaged: {error} ({name}). {_RESTORE}"
        else:
            message = f"{path} {what}: {error} ({name})."
        raise OutputError(message) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise OutputError(f"{path} {what}: {reason(error)}.") from error


def _code(error: sqlite3.Error) -> int | None:
    """The primary code; None where Python's own layer complains, as of text that is no UTF-8."""
    extended: int | None = getattr(error, "sqlite_errorcode", None)
    return None if extended is None else extended & 0xFF
