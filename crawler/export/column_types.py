"""What type a column of PostgreSQL has, and what a value becomes in it.

A column gets the type of the first value that comes for it. A later value of another kind makes it wider:

    boolean   bigint   double precision   bytea
                 \\          /
                   numeric
                          \\
                            text      jsonb

`text` and `jsonb` take everything, the first as JSON has it without the quotes, the second as JSON. So a type only ever
goes up, and a value that fits one fits all above it: workers that know an older type of a column can rely on that.
"""

from __future__ import annotations

import base64
import enum
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "JSON",
    "NUMBER",
    "Cell",
    "ColumnType",
    "as_json",
    "converted",
    "fits",
    "joined",
    "rewriting",
    "type_of",
    "without_nul",
]

Cell: TypeAlias = "bool | int | float | str | bytes | msgspec.msgpack.Ext | None"
"""A value on its way to the database."""

JSON: Final = 1
"""Code of an `Ext` that holds JSON: a list or an object."""
NUMBER: Final = 2
"""Code of an `Ext` that holds the digits of an integer beyond 64 bits."""

_EXACT_IN_A_DOUBLE = 2**53
_ESCAPE: Final = re.compile(r"\\(?:u0000|.)")


class ColumnType(enum.StrEnum):
    """As PostgreSQL's `format_type` names them. Columns of other types are somebody else's."""

    BOOLEAN = "boolean"
    BIGINT = "bigint"
    DOUBLE = "double precision"
    NUMERIC = "numeric"
    TEXT = "text"
    BYTEA = "bytea"
    JSONB = "jsonb"


_NUMBERS: Final = frozenset({ColumnType.BIGINT, ColumnType.DOUBLE, ColumnType.NUMERIC})
_KINDS: Final[dict[type, ColumnType]] = {
    bool: ColumnType.BOOLEAN,
    int: ColumnType.BIGINT,
    float: ColumnType.DOUBLE,
    str: ColumnType.TEXT,
    bytes: ColumnType.BYTEA,
}


def type_of(value: Cell) -> ColumnType:
    """Of the column that a value that is not None begins."""
    if isinstance(value, msgspec.msgpack.Ext):
        return ColumnType.JSONB if value.code == JSON else ColumnType.NUMERIC
    return _KINDS[type(value)]


def fits(column: ColumnType, value: Cell) -> bool:
    """Whether a column holds the value without a loss."""
    if value is None or column in (ColumnType.TEXT, ColumnType.JSONB):
        return True
    if column is ColumnType.DOUBLE and type(value) is int:
        return -_EXACT_IN_A_DOUBLE <= value <= _EXACT_IN_A_DOUBLE
    kind = type_of(value)
    return kind is column or (column is ColumnType.NUMERIC and kind in _NUMBERS)


def joined(one: ColumnType, other: ColumnType) -> ColumnType:
    """The narrowest type that holds what `one` holds, and values of `other`."""
    if one is other or one in (ColumnType.TEXT, ColumnType.JSONB):
        return one
    return ColumnType.NUMERIC if one in _NUMBERS and other in _NUMBERS else ColumnType.TEXT


def rewriting(name: str, old: ColumnType, new: ColumnType) -> str:
    """The SQL expression that makes values of column `name` (quoted) what they are in its new type."""
    if old is ColumnType.BYTEA:
        return f"translate(encode({name}, 'base64'), E'\\n', '')"  # it breaks lines, as for mail
    return f"{name}::{new}"


def converted(column: ColumnType, value: Cell) -> Any:
    """The value as the driver takes it for a column that it fits."""
    return None if value is None else _CONVERSIONS[column](value)


def _as_is(value: Any) -> Any:
    return value


def _as_number(value: Any) -> Decimal:
    return Decimal(bytes(value.data).decode() if isinstance(value, msgspec.msgpack.Ext) else repr(value))


def _as_text(value: Any) -> str:
    if type(value) is str:
        return value
    if type(value) is bytes:
        return base64.b64encode(value).decode()
    return as_json(value)


def as_json(value: Any) -> str:
    """A cell as JSON, without the NUL that PostgreSQL has no place for."""
    if isinstance(value, msgspec.msgpack.Ext):
        return bytes(value.data).decode()
    return msgspec.json.encode(value).decode()


def without_nul(json: str) -> str:
    """JSON with U+FFFD in place of each NUL in its strings."""
    if "\\u0000" not in json:
        return json
    return _ESCAPE.sub(lambda escape: "\\ufffd" if escape[0] == "\\u0000" else escape[0], json)


_CONVERSIONS: Final[dict[ColumnType, Callable[[Any], Any]]] = {
    ColumnType.BOOLEAN: _as_is,
    ColumnType.BIGINT: _as_is,
    ColumnType.DOUBLE: float,
    ColumnType.NUMERIC: _as_number,
    ColumnType.TEXT: _as_text,
    ColumnType.BYTEA: _as_is,
    ColumnType.JSONB: as_json,
}
