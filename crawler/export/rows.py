"""What outputs have in common that are tables of databases: an item is a row, on its way there as msgpack."""

from __future__ import annotations

import abc
import functools
import math
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from crawler.export.output import Output
from crawler.item import scalar_text, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crawler.export.output import Batch
    from crawler.export.position import Position

__all__ = ["INT64", "RowOutput", "decode_row"]

INT64 = range(-(2**63), 2**63)

_ENCODER = msgspec.msgpack.Encoder()
decode_row = msgspec.msgpack.Decoder(dict[str, Any]).decode


class RowOutput(Output):
    """The sink is a table, which knows what of a batch it has by itself."""

    most_bytes: ClassVar[int]
    """Of one row."""
    _sink: Any

    def encode(self, item: Mapping[str, Any]) -> bytes:
        """Raises `TypeError` for a value that neither the database nor JSON can hold, `ValueError` for an item too
        large for a row."""
        row = {name if type(name) is str else str(name): self._cell(name, value) for name, value in item.items()}
        try:
            encoded = _ENCODER.encode(row)
        except UnicodeEncodeError:
            encoded = _ENCODER.encode({_scalar(name): _scalar(value) for name, value in row.items()})
        if len(encoded) > self.most_bytes:
            raise ValueError(f"an item of {len(encoded)} bytes is too large for a row of a database")
        return encoded

    def _cell(self, name: object, value: Any) -> Any:
        """What is kept of a field's value."""
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is bytes or value is None:
            return value
        if kind is int or kind is bool:
            return self._integer(value)
        if kind is float:
            return value if math.isfinite(value) else None
        try:
            encoded = to_json(value)
        except TypeError as error:
            raise TypeError(f"field {name!r}: {error}") from None
        return self._json(encoded.decode()) if encoded[:1] in b"[{" else self._cell(name, msgspec.json.decode(encoded))

    def _text(self, value: str) -> str:
        return value

    @abc.abstractmethod
    def _integer(self, value: int) -> Any:
        """Of an integer or a boolean."""

    @abc.abstractmethod
    def _json(self, text: str) -> Any:
        """Of a list or an object."""

    def _begin(self, position: Position | None) -> Position:
        self._sink.open(position)
        return self._reached(self._items)

    def _writing(self, batch: Batch, items: int) -> Callable[[], Position]:
        return functools.partial(self._put, batch, items)

    @abc.abstractmethod
    def _put(self, batch: Batch, items: int) -> Position:
        """Write it; there are so many items then."""

    @abc.abstractmethod
    def _reached(self, items: int) -> Position: ...

    def _finish(self) -> None:
        self._sink.close()

    def _still_holds(self, position: Position) -> bool:
        return bool(self._sink.holds(position))


def _scalar(value: Any) -> Any:
    return scalar_text(value) if isinstance(value, str) else value
