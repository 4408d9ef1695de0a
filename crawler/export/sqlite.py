"""Items as rows of a SQLite database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from crawler.export.database import Database
from crawler.export.output import records
from crawler.export.position import Position
from crawler.export.rows import INT64, RowOutput, decode_row

if TYPE_CHECKING:
    from crawler.export.output import Batch

__all__ = ["SqliteExporter"]


class SqliteExporter(RowOutput):
    """The table `items`, a row an item, numbered by its first column `rowid` in the order in which they were written.

    Each field has a column of its name, made when the first item has it. Text, integers, floats, bytes and None are
    kept as they are, `True` and `False` as 1 and 0, floats that are not finite as NULL, integers beyond 64 bits as
    text; dates, UUIDs, decimals, enums and paths as in JSON, without the quotes; lists, mappings and nested items as
    JSON. Fields that cannot have a column stand in the column `_more`, as a JSON object: beyond 1,000 columns, names
    that differ from a column's only by case, of more than 255 bytes or with a NUL, and fields called `rowid` or
    `_more`.

    Other tables of the database are left alone. A table `items` of another make raises `OutputError`. `overwrite`
    drops the rows and columns of before. Rows of an epoch come with one transaction, and a program that reads
    meanwhile sees whole epochs.
    """

    format: ClassVar[str] = "sqlite"
    most_bytes: ClassVar[int] = 500_000_000
    """Half of what SQLite lets a row have."""
    _sink: Database

    def __init__(self, path: str | os.PathLike[str], overwrite: bool, *, target: str | None = None) -> None:
        super().__init__(path, target, Database(os.fspath(path), overwrite=overwrite))

    def _integer(self, value: int) -> int | str:
        return int(value) if value in INT64 else str(value)

    def _json(self, text: str) -> str:
        return text

    def _put(self, batch: Batch, items: int) -> Position:
        self._sink.write(map(decode_row, records(batch)))
        return self._reached(items)

    def _reached(self, items: int) -> Position:
        return Position(self.format, self._sink.size, self._sink.check, items, rows=self._sink.rows)
