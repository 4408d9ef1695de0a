"""A JSON array is valid after every close, and continues where it was."""

from __future__ import annotations

import json
import mmap
from typing import TYPE_CHECKING, Any

import pytest

from crawler.errors import OutputError
from crawler.export import JsonArrayExporter

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.contracts import Exporter


async def written(exporter: Exporter, *items: Any, position: bytes | None = None) -> bytes:
    await exporter.open(position)
    for item in items:
        exporter.append(exporter.encode(item))
    position = await exporter.flush()
    await exporter.close()
    return position


async def test_an_item_stands_on_each_line_of_the_array(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    await written(JsonArrayExporter(path, overwrite=False), {"n": 1}, {"n": 2})
    assert path.read_text() == '[\n{"n":1},\n{"n":2}\n]\n'


async def test_without_items_it_is_an_empty_array(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    position = await written(JsonArrayExporter(path, overwrite=False))
    assert path.read_text() == "[]\n"
    await written(JsonArrayExporter(path, overwrite=False), position=position)
    assert path.read_text() == "[]\n"
    await written(JsonArrayExporter(path, overwrite=False), {"n": 1}, position=position)
    assert json.loads(path.read_text()) == [{"n": 1}]


async def test_a_stopped_crawl_continues_its_array(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    position = await written(JsonArrayExporter(path, overwrite=False), {"n": 1})
    assert json.loads(path.read_text()) == [{"n": 1}]
    position = await written(JsonArrayExporter(path, overwrite=False), position=position)
    assert json.loads(path.read_text()) == [{"n": 1}], "continued without new items"
    await written(JsonArrayExporter(path, overwrite=False), {"n": 2}, {"n": 3}, position=position)
    assert path.read_text() == '[\n{"n":1},\n{"n":2},\n{"n":3}\n]\n'


async def test_what_a_crash_left_behind_the_position_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    position = await written(JsonArrayExporter(path, overwrite=False), {"n": 1})
    path.write_text('[\n{"n":1},\n{"n":2},\n{"n":')
    await written(JsonArrayExporter(path, overwrite=False), {"n": 2}, position=position)
    assert json.loads(path.read_text()) == [{"n": 1}, {"n": 2}]


async def test_items_never_flushed_are_not_in_the_closed_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    exporter = JsonArrayExporter(path, overwrite=False)
    await exporter.open(None)
    exporter.append(exporter.encode({"n": 1}))
    await exporter.close()
    assert path.read_text() == "[]\n"


@pytest.mark.parametrize("old", ["[]", " [ ] \n", "[\n]\n", "", " \n\n"])
async def test_an_array_without_elements_is_begun_anew(tmp_path: Path, old: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(old)
    await written(JsonArrayExporter(path, overwrite=False), {"n": 1})
    assert path.read_text() == '[\n{"n":1}\n]\n'


@pytest.mark.parametrize("old", ['[{"o":1}]', '[\n{"o":1}\n]\n', '\n [ {"o":1}\t]  ', '[[1], {"x": "]"}]', '["a]"]'])
async def test_an_existing_array_is_continued(tmp_path: Path, old: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(old)
    await written(JsonArrayExporter(path, overwrite=False))
    assert path.read_text() == old, "without a new item nothing changes"
    position = await written(JsonArrayExporter(path, overwrite=False), {"n": 1})
    assert json.loads(path.read_text()) == [*json.loads(old), {"n": 1}]
    await written(JsonArrayExporter(path, overwrite=False), {"n": 2}, position=position)
    assert json.loads(path.read_text()) == [*json.loads(old), {"n": 1}, {"n": 2}]


async def test_a_continued_array_stays_complete_until_the_first_write(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text('[{"o":1}]\n')
    exporter = JsonArrayExporter(path, overwrite=False)
    await exporter.open(None)
    position = await exporter.flush()
    exporter.append(exporter.encode({"n": 1}))
    assert json.loads(path.read_text()) == [{"o": 1}]
    await exporter.flush()
    assert path.read_text() == '[{"o":1},\n{"n":1}'
    await exporter.close()
    await written(JsonArrayExporter(path, overwrite=False), {"n": 2}, position=position)
    assert json.loads(path.read_text()) == [{"o": 1}, {"n": 2}], "cut back to before its first write"


@pytest.mark.parametrize(
    "old",
    ['{"a":1}', '[{"a":1}', '[{"a":[1,2]', "[1][2]", "[1,]", "nonsense", '[{"a":1},\n', "\ufeff[]", "[" * 100_000],
)
async def test_what_is_no_complete_array_is_refused_and_left_alone(tmp_path: Path, old: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(old)
    exporter = JsonArrayExporter(path, overwrite=False)
    with pytest.raises(OutputError, match=r"out\.json is not a complete JSON array"):
        await exporter.open(None)
    await exporter.close()
    assert path.read_text() == old
    await written(JsonArrayExporter(path, overwrite=True), {"n": 1})
    assert json.loads(path.read_text()) == [{"n": 1}]


async def test_an_array_longer_than_a_page_of_memory_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    old = [{"text": "x" * 50, "n": n} for n in range(2000)]
    assert len(json.dumps(old)) > 8 * mmap.PAGESIZE
    path.write_text(json.dumps(old) + " " * mmap.PAGESIZE)
    await written(JsonArrayExporter(path, overwrite=False), {"n": -1})
    assert json.loads(path.read_text()) == [*old, {"n": -1}]


def test_line_ends_in_items_do_not_break_the_one_line_an_item_has(tmp_path: Path) -> None:
    encoded = JsonArrayExporter(tmp_path / "x.json", overwrite=False).encode({"t": "a\n\u2028b"})
    assert len(encoded.decode().splitlines()) == 1
