"""The columns of the table `items`, and the statements that fill them.

Each field has the column of its name, made when the first item has it; columns have no type, so a value is kept as it
is given. Names come from pages as well as from people. What cannot be a column is not lost: it stands in `_more`, as a
JSON object. That are names that differ from a column's only by the case of their letters (one name to SQLite), names
beyond a length and a number, and the two of our own.
"""

from __future__ import annotations

import itertools
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from crawler.export.pieces import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MORE", "NUMBER", "Columns", "Row", "Shape", "statements"]

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
        names = [NUMBER, *map(_quoted, self.columns), *([] if self.more is None else [_quoted(self.more)])]
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
                self._connection.execute(f"ALTER TABLE items ADD COLUMN {_quoted(name)}")
        else:
            columns = "".join(f", {_quoted(name)}" for name in fresh)
            self._connection.execute(f"CREATE TABLE items (rowid INTEGER PRIMARY KEY{columns})")
            self.exist = True


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


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
