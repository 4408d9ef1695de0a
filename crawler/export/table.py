"""The columns of the table `items`, and the statements that fill them.

Each field has the column of its name, made when the first item has it; columns have no type, so a value is kept as it
is given. Names come from pages as well as from people. What cannot be a column is not lost: it stands in `_more`, as a
JSON object. That are names that differ from a column's only by the case of their letters (one name to SQLite), names
beyond a length and a number, and the two of our own.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from crawler.export.pieces import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MORE", "NUMBER", "Columns", "Row", "Shape", "Tail", "quoted", "statements"]

NUMBER = "rowid"
"""The first column. Declared, so that VACUUM keeps the numbers."""
MORE = "_more"
"""The column for fields that have none of their own."""

Row: TypeAlias = "dict[str, Any]"
"""An item's fields, each as SQLite can hold it."""

_MAX_COLUMNS = 1000
"""Half of what SQLite allows: pages can decide on names, and a row costs a byte for each column."""
_MAX_NAME_BYTES = 255
_ROWS_A_STATEMENT = 256
_TAIL_BYTES = 65536
"""How much of the newest rows the checksum covers, as in `file.py`."""
_KNOWN_SHAPES = 512
"""Combinations of fields remembered; pages can make any number of them."""


class Shape(NamedTuple):
    """How items with one combination of fields stand in the table."""

    columns: tuple[str, ...]
    more: str | None
    """The column for the other fields, where there are any."""

    @property
    def width(self) -> int:
        return 1 + len(self.columns) + (self.more is not None)

    def stored(self, row: Row) -> Row:
        """What is in which column."""
        if self.more is None:
            return row
        others = row.copy()
        kept = {name: others.pop(name) for name in self.columns}
        return {**kept, self.more: msgspec.json.encode(others).decode()}

    def insert(self, rows: int) -> str:
        names = [NUMBER, *map(quoted, self.columns), *([] if self.more is None else [quoted(self.more)])]
        values = f"({', '.join('?' * len(names))})"
        return f"INSERT INTO items ({', '.join(names)}) VALUES {', '.join([values] * rows)}"  # noqa: S608 - names are quoted


class Columns:
    """Those that the table has now. `shape` adds what is missing, in the transaction that is open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        found = connection.execute("PRAGMA table_info(items)").fetchall()
        self.exist = bool(found)
        self.are_foreign = self.exist and (found[0][1:3], found[0][5]) != ((NUMBER, "INTEGER"), 1)
        """Somebody else made the table."""
        self._names: dict[bytes, str] = {_folded(row[1]): row[1] for row in found} or {_folded(NUMBER): NUMBER}
        self._most = min(_MAX_COLUMNS, connection.getlimit(sqlite3.SQLITE_LIMIT_COLUMN))
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def shape(self, fields: tuple[str, ...]) -> Shape:
        shape = self._shapes.get(fields)
        if shape is None:
            if len(self._shapes) >= _KNOWN_SHAPES:
                self._shapes.clear()
            shape = self._shapes[fields] = self._make_shape(fields)
        return shape

    def _make_shape(self, fields: tuple[str, ...]) -> Shape:
        fresh: list[str] = []
        columns = tuple(field for field in fields if self._has_column(field, fresh))
        more = None
        if len(columns) < len(fields):
            more = self._names.get(_folded(MORE))
            if more is None:
                more = self._names[_folded(MORE)] = MORE
                fresh.append(MORE)
        self._add(fresh)
        return Shape(columns, more)

    def _has_column(self, field: str, fresh: list[str]) -> bool:
        """Whether the field has one, if need be a fresh one."""
        folded = _folded(field)
        if folded in (_folded(NUMBER), _folded(MORE)):
            return False
        if folded not in self._names:
            room = self._most - len(self._names) - (_folded(MORE) not in self._names)
            if not room or "\0" in field or len(folded) > _MAX_NAME_BYTES:
                return False
            self._names[folded] = field
            fresh.append(field)
        return self._names[folded] == field

    def _add(self, fresh: list[str]) -> None:
        if self.exist:
            for name in fresh:
                self._connection.execute(f"ALTER TABLE items ADD COLUMN {quoted(name)}")
        else:
            columns = "".join(f", {quoted(name)}" for name in fresh)
            self._connection.execute(f"CREATE TABLE items (rowid INTEGER PRIMARY KEY{columns})")
            self.exist = True


class Tail:
    """The checksums of the newest rows, as many as make up 64 KiB."""

    def __init__(self) -> None:
        self._sums: deque[tuple[bytes, int]] = deque()
        self._size = 0

    @classmethod
    def of(cls, connection: sqlite3.Connection, last: int) -> Tail:
        tail = cls()
        newest = connection.execute("SELECT * FROM items WHERE rowid <= ? ORDER BY rowid DESC", (last,))
        names = [column[0] for column in newest.description]
        found = []
        size = 0
        with contextlib.closing(newest):
            for values in newest:
                found.append(_digest(values[0], dict(zip(names[1:], values[1:], strict=True))))
                size += found[-1][1]
                if size >= _TAIL_BYTES:
                    break
        for digest in reversed(found):
            tail._append(digest)
        return tail

    def copy(self) -> Tail:
        same = Tail()
        same._sums, same._size = self._sums.copy(), self._size
        return same

    def add(self, number: int, row: Row) -> None:
        self._append(_digest(number, row))

    def _append(self, digest: tuple[bytes, int]) -> None:
        self._sums.append(digest)
        self._size += digest[1]
        while self._size - self._sums[0][1] >= _TAIL_BYTES:
            self._size -= self._sums.popleft()[1]

    @property
    def check(self) -> int:
        return zlib.crc32(b"".join(digest for digest, _ in self._sums))


_SORTED = msgspec.msgpack.Encoder(order="sorted")


def _digest(number: int, row: Row) -> tuple[bytes, int]:
    """What a row holds, whatever the order of its columns: an empty one is like none."""
    encoded = _SORTED.encode((number, {name: value for name, value in row.items() if value is not None}))
    return zlib.crc32(encoded).to_bytes(4, "big"), len(encoded)


def statements(rows: Iterable[Row], number: int) -> Iterator[list[tuple[int, Row]]]:
    """The rows, numbered from `number`, in groups that go in together: with the same fields, and of bounded size."""
    numbered = zip(itertools.count(number), rows, strict=False)
    for _, alike in itertools.groupby(numbered, lambda row: tuple(row[1])):
        group: list[tuple[int, Row]] = []
        size = 0
        for each in alike:
            group.append(each)
            size += sum(len(value) for value in each[1].values() if isinstance(value, (str, bytes)))
            if len(group) >= _ROWS_A_STATEMENT or size >= PIECE_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group


def _folded(name: str) -> bytes:
    """Names that differ only in the case of ASCII letters are one to SQLite."""
    return name.encode().lower()


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
