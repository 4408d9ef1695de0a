"""A new SQLite database, made of what can be read of a damaged one.

Rows are numbered in the order in which they are written, so the pages at the end of the file hold the newest. Where the
end is torn, the rows of some seconds ago stand in pages that are whole; but every look at the whole structure fails,
and so does deleting what is damaged. So the rows up to a position are copied. Nothing is taken on trust: a damaged tree
can leave rows out, show some twice, or mix them up. Numbers have to ascend, their count and the last have to be those
of the position, and the newest have to be the ones that were written.

What else people keep in the database goes with it: tables whose own structure is sound, indexes, views and triggers. If
any of it cannot be copied, nothing is.

The new database is written beside the damaged one, synced, and put in its place by a rename, while nobody else can read
or write the damaged one. Killed before, the next run makes it again; after, there is nothing left to do.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler import crash
from crawler.export.place import lock
from crawler.export.table import Columns, Tail, quoted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator

    from crawler.export.position import Rows

__all__ = ["Unrescuable", "has_rows", "rescued"]

_SUFFIX = "-rescued"
_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid"
_STATISTICS = "sqlite_stat"
"""How the names of the tables begin that ANALYZE makes, and nobody else may."""
_SEQUENCE = "sqlite_sequence"
"""The table that comes with AUTOINCREMENT."""


class Unrescuable(Exception):
    """Why no new database can be made of a damaged one."""


class _Object(NamedTuple):
    """A row of the schema."""

    type: str
    name: str
    table: str
    sql: str | None


def has_rows(connection: sqlite3.Connection, rows: Rows, check: int) -> bool:
    """Whether `rescued` would find the rows up to there, and be able to copy everything else. Raises `sqlite3.Error`
    where that cannot be read."""
    _prepare(connection)
    connection.execute("PRAGMA query_only=ON")
    try:
        _schema(connection, rows, check)
        if rows.count:
            deque(_item_rows(connection, rows), maxlen=0)
    except Unrescuable:
        return False
    return True


def rescued(path: str, fd: int, connect: Callable[[str], sqlite3.Connection], rows: Rows, check: int) -> int:
    """Put a new database with the rows up to there in the place of a damaged one, which `fd` has open and locked.
    Returns the descriptor of the new one, locked. The folder has still to be synced.

    After `Unrescuable`, `sqlite3.Error`, `OSError` or `MemoryError` all is as it was.
    """
    path = os.path.realpath(path)
    beside = path + _SUFFIX
    with contextlib.closing(connect(path)) as source:
        _prepare(source)
        source.execute("BEGIN EXCLUSIVE")  # which first rolls back what a journal has left to roll back
        source.execute("PRAGMA query_only=ON")
        schema = _schema(source, rows, check)
        old = os.fstat(fd)
        if old.st_nlink > 1:
            raise Unrescuable("it has another name besides, which would go on naming the damaged one")
        if _is_hot(path + "-journal"):
            raise Unrescuable("it has a journal that cannot be rolled back")
        new = _create(beside, old)
        try:
            with contextlib.closing(connect(beside)) as target:
                _copy(source, target, schema, rows)
                _confirm(target, schema, rows, check)
            os.fsync(new)
            crash.point("sqlite_rescued")
            os.replace(beside, path)
        except BaseException:
            os.close(new)
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    return new


def _prepare(connection: sqlite3.Connection) -> None:
    """Otherwise a file that is shorter than its first page says is not read at all. The schema is not written to."""
    connection.execute("PRAGMA writable_schema=ON")


def _create(path: str, old: os.stat_result) -> int:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # of an attempt that was killed
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        lock(fd, path)
        made = os.fstat(fd)
        if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
            os.fchown(fd, old.st_uid, old.st_gid)
        os.fchmod(fd, stat.S_IMODE(old.st_mode))
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise
    return fd


def _is_hot(journal: str) -> bool:
    try:
        with open(journal, "rb") as file:
            return file.read(1) not in {b"", b"\0"}
    except FileNotFoundError:
        return False


# -- the damaged one ---------------------------------------------------------------------------------------------------


def _schema(connection: sqlite3.Connection, rows: Rows, check: int) -> list[_Object]:
    """What there is to copy, after a look at whether it can be: at all of it but the rows of before the newest."""
    if _pragma(connection, "journal_mode") == "wal":
        raise Unrescuable("it is in WAL mode")
    if _pragma(connection, "quick_check(sqlite_master)") != "ok":
        raise Unrescuable("its schema is damaged")
    schema = [_Object(*row) for row in connection.execute(_SCHEMA)]
    columns = Columns(connection)
    if columns.are_foreign or columns.exist != any(_is_items(each) for each in schema):
        raise Unrescuable("its table 'items' is of another make")
    if rows.count and not (columns.exist and Tail.of(connection, rows.last).check == check):
        raise Unrescuable(f"the rows before number {rows.last} are damaged as well")
    for each in schema:
        if each.type != "table" or _is_items(each):
            continue
        if each.sql is None or each.sql[:14].upper() == "CREATE VIRTUAL":
            raise Unrescuable(f"it has a virtual table {each.name!r}")
        if _pragma(connection, f"quick_check({quoted(each.name)})") != "ok":
            raise Unrescuable(f"its table {each.name!r} is damaged as well")
    return schema


def _is_items(each: _Object) -> bool:
    return each.type == "table" and each.name.lower() == "items"


def _item_rows(connection: sqlite3.Connection, rows: Rows) -> Generator[tuple[Any, ...], None, None]:
    """The rows up to there, in order. With the last, not a page more is read than they stand in."""
    names = ", ".join(_column_names(connection, "items"))
    found = connection.execute(
        f"SELECT {names} FROM items NOT INDEXED WHERE rowid <= ? ORDER BY rowid LIMIT ?",  # noqa: S608 - names are quoted
        (rows.last, rows.count),
    )
    count, number = 0, -(2**63) - 1
    with contextlib.closing(found):
        for row in found:
            if row[0] <= number:
                raise Unrescuable(f"row {row[0]} stands behind row {number}")
            count, number = count + 1, row[0]
            yield row
    if count != rows.count or (rows.last and number != rows.last):
        raise Unrescuable(f"of {rows.count} rows up to number {rows.last}, there are {count} up to number {number}")


def _column_names(connection: sqlite3.Connection, table: str) -> list[str]:
    """Without those that are computed."""
    return [quoted(row[1]) for row in connection.execute(f"PRAGMA table_info({quoted(table)})")]


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


# -- the new one -------------------------------------------------------------------------------------------------------


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, schema: list[_Object], rows: Rows) -> None:
    for name in ("page_size", "auto_vacuum", "encoding", "user_version", "application_id"):
        target.execute(f"PRAGMA {name}='{_pragma(source, name)}'")
    # A crash leaves a file that the next attempt removes, and the whole is synced before it is used.
    target.execute("PRAGMA journal_mode=OFF")
    target.execute("PRAGMA synchronous=OFF")
    target.execute("BEGIN")
    tables = [each for each in schema if each.type == "table" and not each.name.startswith(_STATISTICS)]
    for each in tables:
        if each.name != _SEQUENCE:
            target.execute(each.sql or "")
    for each in sorted(tables, key=lambda each: each.name == _SEQUENCE):
        if each.name == _SEQUENCE:
            target.execute(f"DELETE FROM {_SEQUENCE}")  # noqa: S608 - a constant
        _copy_rows(source, target, each, rows)
    for kind in ("index", "view", "trigger"):
        for each in schema:
            if each.type == kind and each.sql is not None:
                target.execute(each.sql)
    target.execute("COMMIT")
    if len(tables) < sum(each.type == "table" for each in schema):
        target.execute("ANALYZE")


def _copy_rows(source: sqlite3.Connection, target: sqlite3.Connection, table: _Object, rows: Rows) -> None:
    if _is_items(table) and not rows.count:
        return
    names = _column_names(source, table.name)
    select = f"SELECT {', '.join(names)} FROM {quoted(table.name)} NOT INDEXED"  # noqa: S608 - names are quoted
    insert = f"INSERT INTO {quoted(table.name)} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
    # A statement that is left in its middle keeps the database locked, even when the connection is closed.
    with contextlib.closing(_item_rows(source, rows) if _is_items(table) else source.execute(select)) as found:
        target.executemany(insert, found)


def _confirm(target: sqlite3.Connection, schema: list[_Object], rows: Rows, check: int) -> None:
    """That nothing is missing in it."""
    if _pragma(target, "quick_check(1)") != "ok":
        raise Unrescuable("a copy of it is damaged")
    copied = [_Object(*row) for row in target.execute(_SCHEMA)]
    if _comparable(copied) != _comparable(schema):
        raise Unrescuable("not all that its schema has can be copied")
    if rows.count:
        last, count = target.execute("SELECT max(rowid), count(*) FROM items").fetchone()
        if count != rows.count or last > rows.last or Tail.of(target, rows.last).check != check:
            raise Unrescuable("a copy of its rows is not what was written")


def _comparable(schema: list[_Object]) -> set[_Object]:
    return {each for each in schema if not each.name.startswith(_STATISTICS)}
