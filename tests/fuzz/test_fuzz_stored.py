"""What is read back from disk, and commands that people paste: a value, or the error that says it is none."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec
from fuzz.strategies import fuzzed, mutated, texts
from hypothesis import example, given
from hypothesis import strategies as st

from crawler import Request
from crawler.attempt import Attempt
from crawler.body import FilePath
from crawler.curl import parse, render
from crawler.download.cookies import CookieJars
from crawler.errors import NotStorable
from crawler.fate import Fate
from crawler.frontier.rows import Row, pack_row, unpack_row
from crawler.item import as_dict
from crawler.request import RequestCodec
from crawler.storable import ENCODER, KINDS


@dataclass
class Book:
    title: str
    price: float = 0.0


CODEC = RequestCodec({"Book": Book})
_REQUESTS = (
    Request("http://a.example/"),
    Request("http://a.example/?b=c", "parse_it", errback="failed", priority=3, meta={"a": (1, {2}, None),
    "b": Book("x")}),
    Request("http://a.example/", method="POST", data=[("a", "b"), ("f", FilePath("x"))], headers={"X": "y"},
    timeout=3.0),
    Request("http://a.example/", meta={"at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "n": 10**30,
    "d": decimal.Decimal("1.5")}),
    Request("http://a.example/", cb_kwargs={"u": uuid.UUID(int=1), "p": Path("a/b"), "f": frozenset({1})},
    session="s", key="k"),
    Request("http://a.example/", attempts=(Attempt(1.0, "read_timeout"),), ok_status=[404], json={"a": [1]}),
)  # fmt: skip
_RECORDS = tuple(map(CODEC.encode, _REQUESTS))
_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@fuzzed
@given(
    mutated(
        _RECORDS,
        (
            b"\xc7",
            b"\xd4",
            b"\xc1",
            b"\x80",
            b"\x90",
            b"\xc0",
            b"\xff" * 4,
            b"\xa8__init__",
            b"\x81",
            b"\xdd\xff\xff\xff\xff",
            b"\x91" * 2000,
        ),
    )
)
def test_bytes_in_the_queue_are_a_request_or_a_value_error(record: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(CODEC.decode(record), Request)


@fuzzed
@given(st.integers(0, 15), _values)
@example(7, "not a number")
@example(3, [[1], [2]])
@example(2, 5)
@example(5, 1)
@example(1, ["Book", {"__class__": 1, "__dict__": {"x": 1}}])
@example(1, ["Book"])
@example(1, [["Book"], {}])
@example(1, 3)
@example(11, {})
@example(12, [[1, 2, 3, 4, 5]])
def test_an_extension_of_any_content_is_a_value_or_a_value_error(code: int, content: object) -> None:
    record = ENCODER.encode(
        {"url": "http://a.example/", "meta": {"a": msgspec.msgpack.Ext(code, ENCODER.encode(content))}}
    )
    with contextlib.suppress(ValueError):
        found = CODEC.decode(record).meta["a"]
        assert type(found) in (
            tuple,
            set,
            frozenset,
            dt.datetime,
            dt.date,
            decimal.Decimal,
            uuid.UUID,
            type(Path()),
            int,
            Book,
            FilePath,
            KINDS[12].__self__,
        )
        assert not isinstance(found, Book) or set(vars(found)) <= {"title", "price"}


@fuzzed
@given(st.dictionaries(texts, st.one_of(_values, texts), max_size=3))
def test_what_can_be_stored_comes_back_and_what_cannot_is_not_storable(meta: dict[str, object]) -> None:
    request = Request("http://a.example/", meta=meta)
    with contextlib.suppress(NotStorable):
        assert repr(CODEC.decode(CODEC.encode(request)).meta) == repr(meta)


_FATES = (
    Fate("http://a.example/", "done", 1.0, 2, 1, 200).encode(),
    Fate("http://a.example/", "failed", 1.0, reason="read_timeout", message="x", tries="503").encode(),
)


@fuzzed
@given(mutated(_FATES, (b"\xc0", b"\xc1", b"\xa1x", b"\xff" * 4, b"\x91" * 2000)))
def test_bytes_of_a_pages_end_are_an_end_or_a_msgspec_error(record: bytes) -> None:
    with contextlib.suppress(msgspec.MsgspecError):
        assert isinstance(Fate.decode(record), Fate)


@fuzzed
@given(
    mutated((b"key", b"\0\1\2\3"), (b"\0", b"\xff")),
    mutated((pack_row(b"key", Row(1, 2, b"record", b"", True)),), (b"\0", b"\xff")),
)
def test_a_row_of_the_frontier_is_what_was_written_or_is_known_to_be_damaged(key: bytes, value: bytes) -> None:
    row = unpack_row(key, value)
    assert row is None or pack_row(key, row) == value


@fuzzed
@given(
    st.lists(
        mutated((msgspec.msgpack.encode((None, ["a", "b", "example.org", "/"])),), (b"\xc0", b"\x91", b"\xff" * 4)),
        max_size=3,
    )
)
def test_saved_cookies_of_any_bytes_are_taken_or_left_out(rows: list[bytes]) -> None:
    jars = CookieJars()
    jars.restore(rows)
    assert "\n" not in jars.header(None, "http://example.org/", None)


_COMMANDS = (
    "curl 'http://a.example/x?y' -H 'Accept: a/b' --data-raw 'a=b&c=d' --compressed",
    'curl.exe "http://a.example/" ^\n -H ^"X: y^"',
    "curl http://a.example/ -F 'f=@x;type=a/b' -F 'n=<y' -b 'a=b; c=d' -u user:secret -x socks5://p:1",
    "curl --json '{\"a\": 1}' -m 3 -k -L http://a.example/",
    "curl $'http://a.example/\\u00e9\\n' -G --data-urlencode 'a=b c'",
)  # fmt: skip


@fuzzed
@given(
    mutated(
        _COMMANDS,
        (
            "'",
            '"',
            "\\",
            "$'",
            "^",
            "`",
            "$(x)",
            " -H ",
            " -d ",
            " -F ",
            "@",
            ";",
            "\n",
            "\x00",
            "\ud800",
            " -m nan",
            " -m 1e999",
            " --",
            " -X\u00e9 ",
            " --max-redirs " + "9" * 5000 + " ",
        ),
    )
)
def test_a_pasted_command_is_a_request_or_a_value_error(command: str) -> None:
    with contextlib.suppress(ValueError):
        request = Request(**parse(command))
        assert Request(**parse(render(request))).url == request.url


@fuzzed
@given(st.from_type(Book))
def test_an_item_in_meta_comes_back_as_it_was(book: Book) -> None:
    with contextlib.suppress(NotStorable):
        found = CODEC.decode(CODEC.encode(Request("http://a.example/", meta={"book": book}))).meta["book"]
        assert repr(as_dict(found)) == repr(as_dict(book))
