"""Items as rows of a SQLite database."""

from __future__ import annotations

import functools
import math
import os
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from crawler.export.database import Database
from crawler.export.output import Output, records
from crawler.export.position import Position
from crawler.item import scalar_text, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from crawler.export.output import Batch
    from crawler.export.table import Row

__all__ = ["SqliteExporter"]

_INT64 = range(-(2**63), 2**63)
_MAX_ITEM_BYTES = 500_000_000
"""Half of what SQLite lets a row have."""


class SqliteExporter(Output):
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
    _sink: Database

    def __init__(self, path: str | os.PathLike[str], overwrite: bool, *, target: str | None = None) -> None:
        super().__init__(path, target, Database(os.fspath(path), overwrite=overwrite))

    def encode(self, item: Mapping[str, Any]) -> bytes:
        """A row as msgpack. Raises `TypeError` for a value that neither SQLite nor JSON can hold, `ValueError` for an
        item too large for a row."""
        row = {
            name if type(name) is str else str(name): value if type(value) is str else _stored(name, value)
            for name, value in item.items()
        }
        try:
            encoded = _ENCODER.encode(row)
        except UnicodeEncodeError:
            encoded = _ENCODER.encode({_scalar(name): _scalar(value) for name, value in row.items()})
        if len(encoded) > _MAX_ITEM_BYTES:
            raise ValueError(f"an item of {len(encoded)} bytes is too large for a row of a database")
        return encoded

    def _begin(self, position: Position | None) -> Position:
        self._sink.open(position)
        return self._reached(self._items)

    def _writing(self, batch: Batch, items: int) -> Callable[[], Position]:
        return functools.partial(self._put, batch, items)

    def _put(self, batch: Batch, items: int) -> Position:
        self._sink.write(_rows(batch))
        return self._reached(items)

    def _reached(self, items: int) -> Position:
        return Position(self.format, self._sink.size, self._sink.check, items, rows=self._sink.rows)

    def _finish(self) -> None:
        self._sink.close()

    def _still_holds(self, position: Position) -> bool:
        return self._sink.holds(position)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])


def _rows(batch: Batch) -> Iterator[Row]:
    return map(_DECODER.decode, records(batch))


def _stored(name: object, value: Any) -> str | int | float | bytes | None:
    kind = type(value)
    if kind is str or kind is bytes or value is None:
        return value  # type: ignore[no-any-return]
    if kind is int or kind is bool:
        return int(value) if value in _INT64 else str(value)
    if kind is float:
        return value if math.isfinite(value) else None
    try:
        encoded = to_json(value)
    except TypeError as error:
        raise TypeError(f"field {name!r}: {error}") from None
    if encoded[:1] in b"[{":
        return encoded.decode()
    return _stored(name, msgspec.json.decode(encoded))


def _scalar(value: Any) -> Any:
    return scalar_text(value) if isinstance(value, str) else value
