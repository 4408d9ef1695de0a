"""Values that can wait on disk: in `meta` and `cb_kwargs`, and as bodies.

MessagePack has fewer kinds of value than Python, so what it would change on the way is wrapped in an extension, one
code for each kind. A closed list: nothing that is read back is ever executed.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from multidict import CIMultiDictProxy

from crawler.body import FilePath, Multipart
from crawler.errors import NotStorable
from crawler.item import as_dict, field_names, is_item, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ENCODER", "STORABLE_DATA", "ValueCodec", "pack"]


def _encode_unknown(value: Any) -> Any:
    if isinstance(value, CIMultiDictProxy):
        return [(f"{name}", text) for name, text in value.items()]  # a plain str of multidict's own kind
    raise NotStorable(f"it holds a {type_name(value)}, which is not a plain value")


ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_unknown)
ITEM = 1
KINDS: dict[int, Callable[[Any], Any]] = {
    2: tuple,
    3: set,
    4: frozenset,
    5: dt.datetime.fromisoformat,
    6: dt.date.fromisoformat,
    7: decimal.Decimal,
    8: uuid.UUID,
    9: Path,
    10: int,
    11: FilePath,
    12: Multipart.from_rows,
}
STORABLE_DATA = (bytes, str, list, FilePath, Multipart)
_PLAIN = (str, int, float, bytes, bool, type(None))


def pack(value: Any, item_types: Mapping[str, type] | None) -> Any:
    """`value` with everything msgpack would change on the way wrapped in an extension; itself where nothing is."""
    kind = type(value)
    if kind in _PLAIN:
        return value if kind is not int or -(2**63) <= value < 2**64 else _ext(10, str(value))
    if kind is dict:
        return {_key(k): pack(v, item_types) for k, v in value.items()}
    if kind is list:
        return [pack(v, item_types) for v in value]
    if kind in (tuple, set, frozenset):
        code = 2 if kind is tuple else 3 if kind is set else 4
        return _ext(code, [pack(v, item_types) for v in value])
    if kind in (dt.datetime, dt.date):
        return _ext(5 if kind is dt.datetime else 6, value.isoformat())
    if kind is decimal.Decimal or kind is uuid.UUID or isinstance(value, Path):
        return _ext(7 if kind is decimal.Decimal else 8 if kind is uuid.UUID else 9, str(value))
    if kind is FilePath:
        return _ext(11, value.path)
    if kind is Multipart:
        return _ext(12, [[pack(column, item_types) for column in row] for row in value.rows()])
    if is_item(value):
        return _pack_item(value, item_types)
    raise NotStorable(f"it holds a {type_name(value)}, which is not a plain value")


def _pack_item(value: Any, item_types: Mapping[str, type] | None) -> Any:
    name = type(value).__qualname__
    if item_types is not None and item_types.get(name) is not type(value):
        raise NotStorable(
            f"it holds a {type_name(value)}, whose class the spider's module does not have at its top level"
        )
    plain = msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else as_dict(value)
    fields = {k: pack(v, item_types) for k, v in plain.items()}
    return _ext(ITEM, [name, fields])


def _ext(code: int, value: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, ENCODER.encode(value))


def _key(key: Any) -> Any:
    if type(key) in (str, int):
        return key
    raise NotStorable(f"it holds a dict with a key of type {type_name(key)}")


def restore(cls: type, fields: dict[str, Any]) -> Any:
    """An item as it was, without running its constructor's checks again. What is none of its fields is left out: the
    class may have changed since, and `__class__` is none."""
    if issubclass(cls, dict):
        whole: dict[str, Any] = cls.__new__(cls)
        dict.update(whole, fields)
        return whole
    construct = getattr(cls, "model_construct", None)
    if construct is not None:  # with its computed fields, which it ignores
        return construct(**{name: value for name, value in fields.items() if not name.startswith("_")})
    declared = {name: fields[name] for name in field_names(cls) if name in fields}
    if issubclass(cls, msgspec.Struct):
        return cls(**declared)
    item = cls.__new__(cls)
    for name, value in declared.items():
        object.__setattr__(item, name, value)
    return item


class ValueCodec:
    """Values to bytes and back. `item_types` are the item classes that may be among them, by qualified name."""

    def __init__(self, item_types: Mapping[str, type] | None = None) -> None:
        self.item_types = dict(item_types or {})
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self.unpack)

    def encode(self, value: Any) -> bytes:
        """Raises `NotStorable`."""
        try:
            return ENCODER.encode(pack(value, self.item_types))
        except (TypeError, UnicodeEncodeError, RecursionError) as error:  # the second: text with lone surrogates
            raise NotStorable(f"it cannot be written down: {error}") from error

    def decode(self, data: bytes | memoryview) -> Any:
        """Raises ValueError for what is no value."""
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"not a stored value: {error}") from error

    def unpack(self, code: int, data: memoryview) -> Any:
        """What stands in an extension of MessagePack. Raises ValueError."""
        try:
            return self._restored(code, self._decoder.decode(data))
        except (ValueError, RecursionError):
            raise
        except Exception as error:  # of a class of the user's, too
            raise ValueError(f"what stands in extension {code} makes no value: {error}") from error

    def _restored(self, code: int, content: Any) -> Any:
        kind = KINDS.get(code)
        if kind is not None:
            return kind(content)
        if code != ITEM:
            raise ValueError(f"unknown extension {code}")
        name, fields = content
        cls = self.item_types.get(name)
        if cls is None:
            raise ValueError(f"the spider's module has no item class {name!r}")
        return restore(cls, fields)
