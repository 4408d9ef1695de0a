"""What was written can be read back up to any committed position, while the crawl goes on."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from every_format import SUFFIXES, add, exporter_of, written

from crawler.errors import OutputError
from crawler.export import FORMATS
from crawler.export.position import decode_position
from crawler.export.reading import read_items

if TYPE_CHECKING:
    from pathlib import Path

ITEMS: list[dict[str, Any]] = [
    {"n": 1, "text": "plain", "price": 1.5},
    {"n": 2, "text": "é\n\u2028 '\"=x, y", "price": None},
    {"n": 3, "text": "=1+1", "price": -0.25},
    {"n": 4, "text": "", "price": 10**15},
]


async def epochs(path: Path, items: list[dict[str, Any]]) -> list[bytes]:
    """Each item an epoch, and one epoch that was never committed."""
    exporter = exporter_of(path)
    await exporter.open(None)
    positions = [await exporter.flush()]
    for item in [*items, items[0]]:
        exporter.append(exporter.encode(item))
        positions.append(await exporter.flush())
    await exporter.close()
    return positions[:-1]


def expected(item: dict[str, Any], suffix: str) -> dict[str, Any]:
    if suffix != "csv":
        return item
    return {name: "" if value is None else str(value) for name, value in item.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_items_come_back_up_to_each_position(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    for number, position in enumerate(await epochs(path, ITEMS)):
        found = list(read_items(path, FORMATS[suffix], position))
        assert found == [expected(item, suffix) for item in ITEMS[:number]]


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_an_output_is_read_while_it_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    exporter = exporter_of(path)
    await exporter.open(None)
    add(exporter, range(2000))
    position = await exporter.flush()
    reading = read_items(path, FORMATS[suffix], position)
    found = [next(reading) for _ in range(700)]
    add(exporter, range(2000, 4000))
    await exporter.flush()  # a reader in its middle keeps nobody waiting
    found += reading
    await exporter.close()
    assert [int(item["n"]) for item in found] == list(range(2000))


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_many_and_large_items_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    items = [{"n": n, "text": chr(0x400 + n % 64) * (n * 37 % 3000)} for n in range(300)]
    items.insert(150, {"n": -1, "text": "ж" * 700_000})
    exporter = exporter_of(path)
    await exporter.open(None)
    for item in items:
        exporter.append(exporter.encode(item))
    position = await exporter.flush()
    await exporter.close()
    assert list(read_items(path, FORMATS[suffix], position)) == [expected(item, suffix) for item in items]


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_file_that_is_missing_or_short_is_an_error_at_the_latest_at_its_end(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out.{suffix}"
    position = await written(path, range(1000))
    size = decode_position(position, "", FORMATS[suffix]).size
    os.truncate(path, size - 1)
    with pytest.raises(OutputError, match=f"out.{suffix}"):
        list(read_items(path, FORMATS[suffix], position))
    path.unlink()
    with pytest.raises(OutputError, match=f"out.{suffix}"):
        list(read_items(path, FORMATS[suffix], position))
    assert not path.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_damage_in_the_middle_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    position = await written(path, range(3000))
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 4000] = b"\xff" * 4000
    path.write_bytes(whole)
    with pytest.raises(OutputError, match=f"out.{suffix}"):
        list(read_items(path, FORMATS[suffix], position))


async def test_a_position_of_another_format_is_refused_at_once(tmp_path: Path) -> None:
    position = await written(tmp_path / "out.jsonl", [1])
    with pytest.raises(OutputError, match="was written as jsonl by this job, and cannot be continued as csv"):
        read_items(tmp_path / "out.jsonl", "csv", position)
    with pytest.raises(OutputError, match="cannot be read"):
        read_items(tmp_path / "out.jsonl", "jsonl", b"nonsense")


@pytest.mark.parametrize(
    "old",
    ['[{"n":0}]', '[ {"n":0 } ]\n', '[\n {\n  "n" : 0\n }\n]\n', '[{"n":0,"t":"]}\\"[{"},{"n":0}]', "[]", " [ ] "],
)
async def test_an_array_of_any_layout_is_read(tmp_path: Path, old: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(old)
    position = await written(path, [1, 2])
    assert list(read_items(path, "json", position)) == [*json.loads(old), {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
async def test_what_is_no_item_is_an_error_that_counts_the_items_before(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    path.write_text("[{},{},3]" if suffix == "json" else "{}\n\n{}\n3\n")
    position = await written(path, [1])
    with pytest.raises(OutputError, match=f"is damaged, or no {suffix} file, after item 2: "):
        list(read_items(path, suffix, position))


async def test_csv_gives_a_cell_back_as_it_was_before_it_was_guarded(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    items = [{"=h": text, "'": "'"} for text in ("=1", "-", "+49", "@x", "\tx", "plain", "'quoted'")]
    positions = await epochs(path, items)
    assert list(read_items(path, "csv", positions[-1])) == items


async def test_a_database_gives_every_column_and_what_had_none(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    positions = await epochs(path, [{"a": 1}, {"A": 2, "b": True}, {"a": 3, "rowid": [4]}])
    assert list(read_items(path, "sqlite", positions[-1])) == [
        {"a": 1, "b": None},
        {"a": None, "b": 1, "A": 2},
        {"a": 3, "b": None, "rowid": "[4]"},
    ]


async def test_missing_rows_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    position = await written(path, range(1200))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM items WHERE rowid = 700")
        connection.commit()
    with pytest.raises(OutputError, match="has 1199 rows up to number 1200, but there were 1200"):
        list(read_items(path, "sqlite", position))


async def test_nothing_is_read_back_from_a_pipe(tmp_path: Path) -> None:
    position = await written(tmp_path / "out.jsonl", [1])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="is no regular file"):
        list(read_items(tmp_path / "pipe", "jsonl", position))
