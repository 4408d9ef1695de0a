"""Items of every kind, seen one way.

A callback may give a dict, a dataclass, an attrs object, a pydantic (v2) model or a `msgspec.Struct`. Nothing here
imports attrs or pydantic: a class that uses them says so by its attributes, and then they are imported already.

JSON is msgspec's, with the types it leaves to us added. Two of its answers are not ours. A string with a lone surrogate
(a page's broken script or a file name can give one) has no UTF-8 form; msgspec raises, we write U+FFFD in its place, as
the WHATWG's conversion to scalar values does. And a value that has no JSON form is named with the field it stands in.
Both are worked out only after the fast way failed.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec

__all__ = [
    "as_dict",
    "field_get",
    "field_names",
    "field_set",
    "is_item",
    "is_item_type",
    "scalar_text",
    "to_json",
    "type_name",
]

_TEXT_MODULES = frozenset({"ipaddress", "pydantic", "pydantic_core", "yarl"})
"""Modules whose values are what `str()` gives: addresses, URLs, and pydantic's secrets, which it masks."""

_SCALARS: tuple[Any, ...] = (bytes, int, float)
_ABSENT: Any = object()


class _Kind(enum.Enum):
    DICT = "dict"
    STRUCT = "struct"
    PYDANTIC = "pydantic"
    ATTRS = "attrs"
    DATACLASS = "dataclass"


class _Shape(NamedTuple):
    kind: _Kind
    names: tuple[str, ...]
    """Attributes that are fields; empty for a dict."""
    keys: tuple[str, ...]
    """What each is called in the output."""
    tag: tuple[str, str | int] | None = None


def _read_shape(cls: type) -> _Shape | None:
    if issubclass(cls, dict):
        return _Shape(_Kind.DICT, (), ())
    if issubclass(cls, msgspec.Struct):
        config = cls.__struct_config__
        tag = None if config.tag is None or config.tag_field is None else (config.tag_field, config.tag)
        return _Shape(_Kind.STRUCT, cls.__struct_fields__, cls.__struct_encode_fields__, tag)
    if hasattr(cls, "model_dump") and hasattr(cls, "__pydantic_fields__"):
        names = tuple(cls.__pydantic_fields__)
        return _Shape(_Kind.PYDANTIC, names, names)
    if hasattr(cls, "__attrs_attrs__"):
        names = tuple(field.name for field in cls.__attrs_attrs__)
        return _Shape(_Kind.ATTRS, names, names)
    if dataclasses.is_dataclass(cls):
        names = tuple(field.name for field in dataclasses.fields(cls))
        return _Shape(_Kind.DATACLASS, names, names)
    return None


_shape: Callable[[type], _Shape | None] = functools.lru_cache(maxsize=1024)(_read_shape)


def is_item(obj: object) -> bool:
    """Whether `obj` is an item: an instance, not a class, of one of the five kinds. Looked up once per type.

    A `Request` or `Response` may be built on one of these kinds too: ask about those first.
    """
    return _shape(type(obj)) is not None


def is_item_type(cls: type) -> bool:
    """Whether instances of this class are items; plain `dict` needs no class, so it does not count."""
    return cls is not dict and _shape(cls) is not None


def field_names(cls: type) -> tuple[str, ...]:
    """The attributes that an item class declares as its fields; none for a dict, and for what is no item class."""
    shape = _shape(cls)
    return () if shape is None else shape.names


def type_name(obj: object) -> str:
    """The type of `obj` as messages show it: `"int"`, `"books.Book"`, for the class itself `"type[books.Book]"`."""
    cls = obj if isinstance(obj, type) else type(obj)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return f"type[{name}]" if cls is obj else name


def as_dict(item: Any) -> dict[str, Any]:
    """The fields of an item under the names they have in the output, in the order declared (dict: inserted).

    - A dict is returned as it is, not copied. Fields that hold no value yet or `msgspec.UNSET` are left out.
    - `msgspec.Struct`: renamed fields and the tag are as msgspec would encode them.
    - attrs: private fields (`_name`) are left out, as msgspec leaves them out of nested objects.
    - pydantic (2.7 or newer): what `model_dump()` gives, so excluded fields stay out, serializers and computed
      fields count and nested models are dicts already; a dump that is no dict (`RootModel`) becomes `{"root": ...}`.
    - All others are shallow: nested items are left for the encoder.

    Raises `TypeError` for what is no item.
    """
    shape = _shape(type(item))
    if shape is None:
        raise TypeError(
            f"{type_name(item)} is not an item: expected a dict, dataclass, attrs, pydantic or msgspec object"
        )
    if shape.kind is _Kind.DICT:
        whole: dict[str, Any] = item
        return whole
    if shape.kind is _Kind.PYDANTIC:
        dumped = _pydantic_dump(item)
        return dumped if isinstance(dumped, dict) else {"root": dumped}
    fields: dict[str, Any] = {} if shape.tag is None else dict([shape.tag])
    private = shape.kind is _Kind.ATTRS
    for name, key in zip(shape.names, shape.keys, strict=True):
        value = getattr(item, name, msgspec.UNSET)
        if value is not msgspec.UNSET and not (private and name.startswith("_")):
            fields[key] = value
    return fields


def _pydantic_dump(item: Any) -> Any:
    # serialize_as_any: without it a field declared as a base class drops what the value's own class adds.
    return item.model_dump(warnings=False, serialize_as_any=True)


# -- one field --------------------------------------------------------------------------------------------------------


def field_get(item: Any, name: str, default: Any = _ABSENT) -> Any:
    """The value of one field: a dict's key, any other item's attribute.

    Where it is missing (or a declared field holds no value yet) and no `default` is given, raises `KeyError` for a dict
    and a `TypeError` that names the class and its fields for other items.
    """
    shape = _shape(type(item))
    if shape is not None and shape.kind is _Kind.DICT:
        return item[name] if default is _ABSENT else item.get(name, default)
    if shape is None or not _has_field(item, shape, name):
        if default is _ABSENT:
            raise _missing(item, shape, name)
        return default
    value = getattr(item, name, default)
    if value is _ABSENT:
        raise TypeError(f"{type_name(item)} has a field {name!r}, but it holds no value yet")
    return value


def field_set(item: Any, name: str, value: Any) -> Any:
    """Write one field and return the item: the same object, or a changed copy where the class is frozen.

    Frozen classes are copied by their own means (`dataclasses.replace`, `attrs.evolve`, `model_copy`,
    `msgspec.structs.replace`). Raises `TypeError` for a field that the class does not declare, and where a frozen
    object cannot be rebuilt; a pydantic model that validates assignments raises its `ValidationError`.
    """
    shape = _shape(type(item))
    if shape is not None and shape.kind is _Kind.DICT:
        item[name] = value
        return item
    if shape is None or not _has_field(item, shape, name):
        raise _missing(item, shape, name)
    if shape.kind is _Kind.PYDANTIC and _pydantic_frozen(type(item), name):
        return item.model_copy(update={name: value})
    try:
        setattr(item, name, value)
    except AttributeError:  # what frozen dataclasses, attrs classes and structs all raise
        return _changed_copy(item, shape.kind, name, value)
    return item


def _has_field(item: Any, shape: _Shape, name: str) -> bool:
    if name in shape.names:
        return True
    return shape.kind is _Kind.PYDANTIC and type(item).model_config.get("extra") == "allow"


def _missing(item: Any, shape: _Shape | None, name: str) -> TypeError:
    if shape is None:
        return TypeError(f"{type_name(item)} is not an item, so it has no field {name!r}")
    return TypeError(f"{type_name(item)} has no field {name!r}; its fields are {', '.join(shape.names) or 'none'}")


def _pydantic_frozen(cls: Any, name: str) -> bool:
    field = cls.__pydantic_fields__.get(name)
    return bool(cls.model_config.get("frozen") or (field is not None and field.frozen))


def _changed_copy(item: Any, kind: _Kind, name: str, value: Any) -> Any:
    try:
        if kind is _Kind.STRUCT:
            return msgspec.structs.replace(item, **{name: value})
        if kind is _Kind.ATTRS:
            import attrs

            alias = next(field.alias for field in type(item).__attrs_attrs__ if field.name == name)
            return attrs.evolve(item, **{alias or name: value})
        return dataclasses.replace(item, **{name: value})
    except (TypeError, ValueError) as error:
        raise TypeError(f"cannot set {name!r} of the frozen {type_name(item)}: {error}") from error


# -- JSON -------------------------------------------------------------------------------------------------------------


def scalar_text(text: str) -> str:
    """`text` without lone surrogates: pairs are joined, each single one becomes U+FFFD.

    The "scalar value string" of the WHATWG Infra Standard, so the result always has a UTF-8 form.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def to_json(item: Any) -> bytes:
    """One JSON document in UTF-8, on one line unless a `msgspec.Raw` inside holds a newline.

    Takes a mapping, an item, or any value that may stand in one. Keys keep their order. Beside JSON's own types:
    datetimes, dates, times and durations (ISO 8601), `Decimal` and UUID (as strings), enums (their value), sets (in any
    order), tuples, deques, bytes (base64), paths, IP addresses, URLs of pydantic and yarl, other mappings and nested
    items. NaN and the infinities become `null`, lone surrogates U+FFFD. Keys may be strings, numbers, enums, dates,
    UUIDs and bytes. An item is written as `as_dict` shows it, so `to_json(item) == to_json(as_dict(item))`.
    Nested attrs objects are msgspec's: their public attributes, where the class has slots in no promised order.

    Raises `TypeError` that names the field and the type for a value without a JSON form, `ValueError` for one that
    contains itself or is nested deeper than Python's recursion limit.
    """
    value = as_dict(item) if is_item(item) else item
    try:
        try:
            return _ENCODER.encode(value)
        except UnicodeEncodeError:
            return _ENCODER.encode(_with_scalar_text(msgspec.to_builtins(value, enc_hook=_other, str_keys=True)))
    except RecursionError:
        raise ValueError(f"{type_name(item)} contains itself, or is nested too deep to be written") from None
    except TypeError:
        raise _unencodable(item, value) from None


def _other(value: Any) -> Any:
    """What msgspec does not know, as something it does. Subclasses of its scalars count as unknown to it."""
    if isinstance(value, str):
        return str.__str__(value)
    for plain in _SCALARS:
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, msgspec.Raw):  # only `to_builtins` asks
        return msgspec.json.decode(value)
    shape = _shape(type(value))
    if shape is not None and shape.kind is _Kind.PYDANTIC:
        return _pydantic_dump(value)
    if shape is not None:  # a plain subclass of an attrs class
        return as_dict(value)
    if isinstance(value, PurePath) or type(value).__module__.partition(".")[0] in _TEXT_MODULES:
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, deque | Set):
        return list(value)
    raise TypeError(type_name(value))


_ENCODER = msgspec.json.Encoder(enc_hook=_other)


def _with_scalar_text(value: Any) -> Any:
    if isinstance(value, str):
        return scalar_text(value)
    if isinstance(value, dict):
        return {scalar_text(key): _with_scalar_text(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_scalar_text(inner) for inner in value]
    return value


def _unencodable(item: Any, value: Any) -> TypeError:
    """Follow the first value that cannot be written down to where nothing below it is to blame."""
    path = ""
    while True:
        bad_key = next((key for key in _keys(value) if not _encodable({key: None})), _ABSENT)
        if bad_key is not _ABSENT:
            reason = f"{path.removeprefix('.') or 'it'} has a key of type {type_name(bad_key)}"
            break
        step, inner = next(((step, inner) for step, inner in _children(value) if not _encodable(inner)), ("", None))
        if not step:
            reason = f"{path.removeprefix('.') or 'it'} is of type {type_name(value)}"
            break
        path, value = path + step, inner
    return TypeError(f"{type_name(item)} cannot be written as JSON: {reason}")


def _encodable(value: Any) -> bool:
    try:
        _ENCODER.encode(value)
    except TypeError:
        return False
    except (ValueError, RecursionError):
        return True
    return True


def _keys(value: Any) -> Iterator[Any]:
    return iter(value.keys()) if isinstance(value, Mapping) else iter(())


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if is_item(value):
        value = as_dict(value)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield (f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r:.80}]"), inner
    elif isinstance(value, list | tuple | Set | deque):
        for index, inner in enumerate(value):
            yield f"[{index}]", inner
