"""Items of five kinds answer alike, and whatever JSON can hold is written."""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import json
import math
import pathlib
import subprocess
import sys
import types
import uuid
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.item import as_dict, field_get, field_set, is_item, scalar_text, to_json, type_name


@dataclasses.dataclass
class DataBook:
    title: str
    price: float = 1.0
    files: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenDataBook:
    title: str
    price: float = 1.0
    files: Any = None


@attrs.define
class AttrsBook:
    title: str
    price: float = 1.0
    files: Any = None
    _secret: str = "s"


@attrs.frozen
class FrozenAttrsBook:
    title: str
    price: float = 1.0
    files: Any = None


class PydanticBook(pydantic.BaseModel):
    title: str
    price: float = 1.0
    files: Any = None


class FrozenPydanticBook(PydanticBook):
    model_config = pydantic.ConfigDict(frozen=True)


class StructBook(msgspec.Struct):
    title: str
    price: float = 1.0
    files: Any = None


class FrozenStructBook(msgspec.Struct, frozen=True):
    title: str
    price: float = 1.0
    files: Any = None


def dict_book(title: str) -> dict[str, Any]:
    return {"title": title, "price": 1.0, "files": None}


CHANGEABLE = [DataBook, AttrsBook, PydanticBook, StructBook]
FROZEN = [FrozenDataBook, FrozenAttrsBook, FrozenPydanticBook, FrozenStructBook]
KINDS = [dict_book, *CHANGEABLE, *FROZEN]


# -- what an item is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_an_item_with_its_fields_in_order(kind: Any) -> None:
    item = kind(title="A")
    assert is_item(item)
    assert list(as_dict(item).items()) == [("title", "A"), ("price", 1.0), ("files", None)]


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    "value",
    [None, 1, "text", b"x", [1], (1,), {1}, Pair(1, 2), object(), types.SimpleNamespace(a=1), *CHANGEABLE, dict],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_other_values_and_item_classes_are_no_items(value: object) -> None:
    assert not is_item(value)
    with pytest.raises(TypeError, match="is not an item: expected a dict, dataclass"):
        as_dict(value)


def test_subclasses_of_dict_are_items() -> None:
    assert is_item(collections.OrderedDict(a=1))


def test_a_dict_is_not_copied() -> None:
    item = {"a": 1}
    assert as_dict(item) is item


def test_nested_items_are_left_alone_by_as_dict() -> None:
    inner = DataBook("inner")
    assert as_dict(DataBook("outer", files=inner))["files"] is inner


def test_fields_without_a_value_are_left_out() -> None:
    @dataclasses.dataclass
    class Late:
        a: int
        b: int = dataclasses.field(init=False)
        c: Any = msgspec.UNSET

    assert as_dict(Late(1)) == {"a": 1}


def test_a_struct_is_shown_as_msgspec_would_encode_it() -> None:
    class Renamed(msgspec.Struct, rename="camel", tag="book"):
        list_price: int
        in_stock: Any = msgspec.UNSET

    item = Renamed(3)
    assert as_dict(item) == {"type": "book", "listPrice": 3}
    assert to_json(item) == msgspec.json.encode(item)


def test_pydantic_rules_for_output_count() -> None:
    class Priced(pydantic.BaseModel):
        net: int
        secret: str = pydantic.Field(default="s", exclude=True)

        @pydantic.computed_field
        def gross(self) -> int:
            return self.net * 2

        @pydantic.field_serializer("net")
        def as_cents(self, value: int) -> int:
            return value * 100

    assert as_dict(Priced(net=2)) == {"net": 200, "gross": 4}


def test_a_pydantic_field_keeps_what_the_subclass_of_its_value_adds() -> None:
    class Person(pydantic.BaseModel):
        name: str

    class Author(Person):
        born: int

    class Work(pydantic.BaseModel):
        by: Person

    assert as_dict(Work(by=Author(name="N", born=1900))) == {"by": {"name": "N", "born": 1900}}


def test_a_pydantic_model_whose_dump_is_no_dict_gets_one() -> None:
    class Numbers(pydantic.RootModel[list[int]]):
        pass

    assert as_dict(Numbers([1, 2])) == {"root": [1, 2]}


def test_private_attrs_fields_stay_private_at_every_depth() -> None:
    assert json.loads(to_json(AttrsBook("A", files=AttrsBook("B")))) == {
        "title": "A",
        "price": 1.0,
        "files": {"title": "B", "price": 1.0, "files": None},
    }


def test_a_plain_subclass_of_an_attrs_class_can_be_nested() -> None:
    class Special(AttrsBook):
        pass

    assert json.loads(to_json([Special("A")])) == [{"title": "A", "price": 1.0, "files": None}]


def test_looking_at_an_item_imports_neither_attrs_nor_pydantic() -> None:
    code = (
        "import sys, dataclasses, crawler.item as i\n"
        "D = dataclasses.make_dataclass('D', ['a'])\n"
        "assert i.to_json(i.field_set(D(1), 'a', 2)) == b'{\"a\":2}'\n"
        "print(sorted(m for m in sys.modules if m in ('attr', 'attrs', 'pydantic', 'asyncio', 'aiohttp')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_type_names_are_short_for_builtins_and_qualified_otherwise() -> None:
    assert type_name(1) == "int"
    assert type_name(DataBook("A")) == f"{__name__}.DataBook"
    assert type_name(DataBook) == f"type[{__name__}.DataBook]"


# -- one field ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [dict_book, *CHANGEABLE])
def test_a_field_is_set_in_place_where_the_class_allows_it(kind: Any) -> None:
    item = kind(title="A")
    assert field_set(item, "files", ["f"]) is item
    assert field_get(item, "files") == ["f"]


@pytest.mark.parametrize("kind", FROZEN)
def test_a_frozen_item_gives_a_changed_copy(kind: Any) -> None:
    item = kind(title="A")
    changed = field_set(item, "files", ["f"])
    assert type(changed) is kind
    assert (field_get(changed, "title"), field_get(changed, "files")) == ("A", ["f"])
    assert field_get(item, "files") is None


def test_a_single_frozen_pydantic_field_gives_a_changed_copy() -> None:
    class Partly(pydantic.BaseModel):
        a: int = pydantic.Field(default=1, frozen=True)

    item = Partly()
    assert (field_set(item, "a", 2).a, item.a) == (2, 1)


def test_a_private_attrs_field_of_a_frozen_class_is_set_through_its_alias() -> None:
    @attrs.frozen
    class Hidden:
        _path: str

    assert field_get(field_set(Hidden("a"), "_path", "b"), "_path") == "b"


@pytest.mark.parametrize("kind", [*CHANGEABLE, *FROZEN])
def test_a_field_that_the_class_does_not_declare_is_an_error_that_names_both(kind: Any) -> None:
    with pytest.raises(TypeError, match=rf"{kind.__name__} has no field 'pages'; its fields are title, price, files"):
        field_set(kind(title="A"), "pages", 1)
    with pytest.raises(TypeError, match="has no field 'pages'"):
        field_get(kind(title="A"), "pages")
    assert field_get(kind(title="A"), "pages", 7) == 7


def test_a_dict_takes_new_keys_and_misses_like_a_dict() -> None:
    item: dict[str, Any] = {}
    with pytest.raises(KeyError, match="files"):
        field_get(item, "files")
    assert field_get(item, "files", None) is None
    assert field_set(item, "files", 1) == {"files": 1}


def test_a_pydantic_model_that_allows_extras_takes_new_fields() -> None:
    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")

    assert as_dict(field_set(Open(), "files", 1)) == {"files": 1}


def test_a_pydantic_model_that_validates_assignments_refuses_a_wrong_value() -> None:
    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(validate_assignment=True)
        pages: int = 1

    with pytest.raises(pydantic.ValidationError):
        field_set(Strict(), "pages", "many")


def test_a_frozen_class_that_cannot_be_rebuilt_says_so() -> None:
    @dataclasses.dataclass(frozen=True)
    class Derived:
        a: int = dataclasses.field(init=False, default=1)

    with pytest.raises(TypeError, match="cannot set 'a' of the frozen"):
        field_set(Derived(), "a", 2)


def test_fields_of_what_is_no_item_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="int is not an item"):
        field_set(3, "a", 1)
    with pytest.raises(TypeError, match="int is not an item"):
        field_get(3, "real")


def test_a_declared_field_that_holds_nothing_yet_says_so() -> None:
    @dataclasses.dataclass
    class Late:
        a: int = dataclasses.field(init=False)

    with pytest.raises(TypeError, match="holds no value yet"):
        field_get(Late(), "a")
    assert field_get(Late(), "a", 5) == 5


# -- JSON -----------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Words(str):
    __slots__ = ()


class Metres(float):
    __slots__ = ()


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_and_its_dict_are_the_same_json(kind: Any) -> None:
    item = kind(title="A")
    expected = b'{"title":"A","price":1.0,"files":null}'
    assert to_json(item) == to_json(as_dict(item)) == expected
    assert json.loads(to_json({"in": [item]})) == {"in": [json.loads(expected)]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-01-02T03:04:05Z"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.timedelta(days=-1), "-P1D"),
        (decimal.Decimal("1.20"), "1.20"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (Colour.RED, "red"),
        ({1}, [1]),
        (frozenset([1]), [1]),
        ((1, "a"), [1, "a"]),
        (collections.deque([1]), [1]),
        ({"a": 1}.keys(), ["a"]),
        (b"\xff\x00", base64.b64encode(b"\xff\x00").decode()),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (ipaddress.ip_address("127.0.0.1"), "127.0.0.1"),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (pydantic.HttpUrl("https://a.example/"), "https://a.example/"),
        (pydantic.SecretStr("hunter2"), "**********"),
        (Words("w"), "w"),
        (Metres(1.5), 1.5),
        (True, True),
        (10**40, 10**40),
        (math.nan, None),
        (math.inf, None),
        ({1: "a", Colour.RED: "b"}, {"1": "a", "red": "b"}),
        (msgspec.Raw(b'{"a": 1}'), {"a": 1}),
    ],
    ids=lambda value: "raw" if isinstance(value, msgspec.Raw) else repr(value),
)
def test_values_beyond_json_have_a_form(value: object, expected: object) -> None:
    assert json.loads(to_json({"v": value})) == {"v": expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud800\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ufeffplain é", "\ufeffplain é"),
    ],
)
def test_lone_surrogates_become_replacement_characters_wherever_they_stand(text: str, expected: str) -> None:
    assert scalar_text(text) == expected
    item = {"s": text, "deep": [DataBook(text), {text: (text,)}], "path": pathlib.PurePosixPath(text), "n": math.nan}
    written = json.loads(to_json(item).decode())
    assert written["s"] == written["path"] == written["deep"][0]["title"] == expected
    assert written["deep"][1] == {expected: [expected]}
    assert written["n"] is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"a": object()}, "dict cannot be written as JSON: a is of type object"),
        ({"a": {"b c": [1, 1j]}}, r"a\['b c'\]\[1\] is of type complex"),
        (DataBook("A", files=[StructBook("B", files=sys)]), r"DataBook .*: files\[0\]\.files is of type module"),
        (PydanticBook(title="A", files={"x": sys}), r"files\.x is of type module"),
        ({"a": {(1, 2): 1}}, "a has a key of type tuple"),
        ({None: 1}, "it has a key of type NoneType"),
        ({"s": "\ud800", "a": object()}, "a is of type object"),
        (object(), "it is of type object"),
    ],
)
def test_a_value_without_a_json_form_is_named_with_its_place_and_type(item: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        to_json(item)


def test_an_item_that_contains_itself_is_a_value_error() -> None:
    item: dict[str, Any] = {}
    item["self"] = item
    with pytest.raises(ValueError, match="contains itself"):
        to_json(item)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5))
@settings(deadline=None, max_examples=50)
def test_plain_items_survive_the_round_trip(item: dict[str, Any]) -> None:
    written = to_json(item)
    assert json.loads(written) == item
    assert b"\n" not in written


@given(st.dictionaries(st.text(st.characters()), st.text(st.characters()), max_size=5))
@settings(deadline=None, max_examples=50)
def test_any_python_text_gives_valid_utf8(item: dict[str, str]) -> None:
    json.loads(to_json(item).decode("utf-8", "strict"))
