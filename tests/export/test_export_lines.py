"""JSON lines: one item is one line, and the file grows and shrinks by whole items."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.export import JsonLinesExporter, OutputSnapshot

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.contracts import Exporter

LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


async def written(exporter: Exporter, *items: Any, position: bytes | None = None) -> bytes:
    await exporter.open(position)
    for item in items:
        exporter.append(exporter.encode(item))
    position = await exporter.flush()
    await exporter.close()
    return position


async def test_a_line_is_an_item_in_order(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    await written(JsonLinesExporter(path, overwrite=False), {"b": 1, "a": "é"}, {"c": None})
    assert path.read_bytes() == '{"b":1,"a":"é"}\n{"c":null}\n'.encode()


async def test_append_mode_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"old":1}\n')
    await written(JsonLinesExporter(path, overwrite=False), {"new": 1})
    assert rows(path) == [{"old": 1}, {"new": 1}]


async def test_a_last_line_without_its_end_is_completed_first(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"old":1}')
    exporter = JsonLinesExporter(path, overwrite=False)
    await written(exporter)
    assert path.read_text() == '{"old":1}', "without a new item nothing changes"
    await written(exporter, {"new": 1}, {"new": 2})
    assert path.read_text() == '{"old":1}\n{"new":1}\n{"new":2}\n'


async def test_overwrite_mode_empties_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"old":1}\n' * 100)
    await written(JsonLinesExporter(path, overwrite=True), {"new": 1})
    assert rows(path) == [{"new": 1}]


async def test_overwrite_mode_with_a_position_continues(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    position = await written(JsonLinesExporter(path, overwrite=True), {"n": 1})
    await written(JsonLinesExporter(path, overwrite=True), {"n": 2}, position=position)
    assert rows(path) == [{"n": 1}, {"n": 2}]


async def test_what_a_crash_left_behind_the_position_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"older":0}\n')
    position = await written(JsonLinesExporter(path, overwrite=False), {"n": 1}, {"n": 2})
    with path.open("ab") as stream:
        stream.write(b'{"n":3}\n{"n":4,"tor')
    await written(JsonLinesExporter(path, overwrite=False), {"n": 3}, position=position)
    assert rows(path) == [{"older": 0}, {"n": 1}, {"n": 2}, {"n": 3}]


async def test_snapshot_and_repr_tell_target_items_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    exporter = JsonLinesExporter(path, overwrite=False, target="named")
    await exporter.open(None)
    exporter.append(exporter.encode({"n": 1}))
    assert exporter.snapshot() == OutputSnapshot("named", items=1, bytes=0)
    position = await exporter.flush()
    assert exporter.snapshot() == OutputSnapshot("named", items=1, bytes=8)
    assert repr(exporter) == "<JsonLinesExporter 'named' items=1 bytes=8>"
    await exporter.close()
    await exporter.open(position)
    assert exporter.snapshot().items == 1, "a continued job counts on"
    await exporter.close()


@pytest.mark.parametrize("raw", [b'{\n  "a": 1\r\n}', b"[1,\n2]"])
def test_raw_json_inside_an_item_is_brought_on_one_line(tmp_path: Path, raw: bytes) -> None:
    encoded = JsonLinesExporter(tmp_path / "x", overwrite=False).encode({"r": msgspec.Raw(raw)})
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded) == {"r": json.loads(raw)}


async def test_a_title_with_a_fake_record_in_it_adds_no_record(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    items = [{"title": f'x{end}{{"title":"fake"}}{end}'} for end in LINE_ENDS]
    await written(JsonLinesExporter(path, overwrite=False), *items)
    assert rows(path) == items


TEXT = st.text(st.sampled_from(LINE_ENDS + '"\\{}a\ud800\udc00') | st.characters(), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


def scalar(value: Any) -> Any:
    """As the file can hold it: lone surrogates replaced, nothing else changed."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {scalar(key): scalar(inner) for key, inner in value.items()}
    return [scalar(inner) for inner in value] if isinstance(value, list) else value


@given(items=st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=4))
@settings(deadline=None, max_examples=40)
def test_arbitrary_items_come_back_one_a_line(items: list[dict[str, Any]]) -> None:
    exporter = JsonLinesExporter("unused.jsonl", overwrite=False)
    text = b"".join(exporter.encode(item) for item in items).decode()
    assert [json.loads(line) for line in text.splitlines()] == [scalar(item) for item in items]
