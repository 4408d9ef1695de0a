"""Items as rows of a PostgreSQL table, which any number of workers and crawls may share."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from crawler.export.address import is_database, parse_address
from crawler.export.column_types import JSON, NUMBER, Cell, without_nul
from crawler.export.output import records
from crawler.export.position import Position, decode_position
from crawler.export.relation import Relation
from crawler.export.rows import INT64, RowOutput, decode_row
from crawler.export.server import driver
from crawler.export.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crawler.export.output import Batch

__all__ = ["PostgresqlExporter", "discard_uncommitted"]


class PostgresqlExporter(RowOutput):
    """A table, a row an item, known by its first two columns: `_writer`, a number that this worker of this crawl got
    when it first opened the table, and `_number`, which counts its items from 1.

    Each field has a column of its name, made when the first item has a value for it, of a type that fits the value and
    becomes wider when another does not fit (`column_types.py`). Text, integers, floats, booleans and bytes keep their
    types, floats that are not finite are NULL; dates, UUIDs, decimals, enums and paths are text as in JSON; lists,
    mappings and nested items are `jsonb`. In texts a NUL becomes U+FFFD. Fields that cannot have a column stand in the
    column `_more` (`jsonb`): beyond 400 columns, names of more than 63 bytes or with a NUL, fields called as one of
    the three, and those whose column has a type that a crawl does not make.

    The rows of an epoch come with one transaction, and with them the row of the table `crawler_positions` that says how
    far this writer is; opening deletes the writer's rows behind the committed position. Who opens takes the place of
    who wrote under the position before: that one's next flush raises `OutputError`. `overwrite` deletes, once for each
    crawl, what earlier crawls of the same `writer.job` wrote, and leaves other rows alone.

    Needs asyncpg, the extra `postgres`. Raises `UsageError` without it, and for a target that is no address.
    """

    format: ClassVar[str] = "postgresql"
    most_bytes: ClassVar[int] = 250_000_000
    """A quarter of what PostgreSQL takes in one message."""
    _sink: Relation

    def __init__(self, target: str, overwrite: bool, *, writer: Writer | None = None) -> None:
        address = parse_address(target)
        driver()
        super().__init__("-", address.shown, Relation(address, writer or Writer(), overwrite=overwrite))
        self.path = address.shown

    def _cell(self, name: object, value: Any) -> Cell:
        return value if type(value) is bool else super()._cell(name, value)

    def _text(self, value: str) -> str:
        return value.replace("\0", "\ufffd") if "\0" in value else value

    def _integer(self, value: int) -> int | msgspec.msgpack.Ext:
        return value if value in INT64 else msgspec.msgpack.Ext(NUMBER, str(value).encode())

    def _json(self, text: str) -> msgspec.msgpack.Ext:
        return msgspec.msgpack.Ext(JSON, without_nul(text).encode())

    def _put(self, batch: Batch, items: int) -> Position:
        self._sink.write(functools.partial(_rows, batch), items)
        return self._reached(items)

    def _reached(self, items: int) -> Position:
        return Position(self.format, self._sink.size, 0, items, writer=self._sink.writer)


async def discard_uncommitted(target: str, positions: Iterable[bytes]) -> int:
    """Delete the rows that these writers wrote behind their committed positions, and keep them from writing more.

    For workers that died or lost their session and do not come back under their name: their last flush may have had no
    commit, and its pages are fetched by others. First see to it that they cannot commit any more. May be repeated.
    Returns how many rows were deleted; nothing is done for targets other than PostgreSQL, where `join` leaves out what
    stands behind a position. Raises `UsageError`, `OutputError`.
    """
    if not is_database(target):
        return 0
    address = parse_address(target)
    known = [decode_position(position, address.shown, PostgresqlExporter.format) for position in positions]
    return await asyncio.to_thread(Relation(address, Writer(), overwrite=False).discard, known)


def _rows(batch: Batch) -> Iterator[tuple[dict[str, Cell], int]]:
    """Each row and its size in bytes."""
    return ((decode_row(record), len(record)) for record in records(batch))
