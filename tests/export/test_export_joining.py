"""The parts of many workers become one file, which has what was committed of each and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from every_format import SUFFIXES, add, exporter_of, numbers_in, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawler.errors import OutputError, UsageError
from crawler.export import FORMATS, CsvExporter, make_exporter, part_target
from crawler.export.joining import JoinReport, Part, export_parts, join
from crawler.export.position import Position
from crawler.export.reading import read_items

if TYPE_CHECKING:
    from postgres_server import Server


async def part_of(path: Path, committed: range, uncommitted: range = range(0)) -> Part:
    """As a worker that was killed leaves it."""
    exporter = exporter_of(path)
    await exporter.open(None)
    position = await exporter.flush()
    for start in committed[::3]:
        add(exporter, committed[committed.index(start) : committed.index(start) + 3])
        position = await exporter.flush()
    add(exporter, uncommitted)
    await exporter.flush()
    exporter._sink.release()
    return Part(str(path), exporter.format, position)


async def parts_in(folder: Path, suffix: str) -> list[Part]:
    return [
        await part_of(folder / f"items.w{n}.{suffix}", range(n * 10, n * 10 + 7), range(900, 905)) for n in range(3)
    ]


EXPECTED = [*range(7), *range(10, 17), *range(20, 27)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exactly_what_is_committed_of_each_part_is_joined(tmp_path: Path, suffix: str) -> None:
    parts = run(parts_in(tmp_path, suffix))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    target = tmp_path / "new" / f"all.{suffix}"
    report = join(parts, str(target), overwrite=False)
    assert numbers_in(target) == EXPECTED
    assert report == JoinReport(str(target), 3, 21, target.stat().st_size)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert os.listdir(target.parent) == [target.name], "nothing is left beside it"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_workers_that_found_nothing_are_no_trouble(tmp_path: Path, suffix: str) -> None:
    empty = [run(part_of(tmp_path / f"e{n}.{suffix}", range(0), range(3))) for n in range(2)]
    join(empty, str(tmp_path / f"none.{suffix}"), overwrite=False)
    assert numbers_in(tmp_path / f"none.{suffix}") == []
    full = run(part_of(tmp_path / f"f.{suffix}", range(5)))
    Path(empty[1].path).unlink()
    join([empty[0], full, empty[1]], str(tmp_path / f"all.{suffix}"), overwrite=False)
    assert numbers_in(tmp_path / f"all.{suffix}") == list(range(5))


ITEMS = st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=5), min_size=1, max_size=3), max_size=4)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "jsonl.gz", "jsonl.zst", "db"])
@given(workers=st.lists(st.tuples(ITEMS, ITEMS), max_size=4))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_workers_wrote_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, workers: list[tuple[list[Any], list[Any]]]
) -> None:
    folder = tmp_path_factory.mktemp("joined")
    parts = []
    for number, (committed, lost) in enumerate(workers):
        exporter = make_exporter(part_target(str(folder / f"items.{suffix}"), f"w{number}"), False)
        run(exporter.open(None))
        for item in committed:
            exporter.append(exporter.encode(item))
        position = run(exporter.flush())
        for item in lost:
            exporter.append(exporter.encode(item))
        run(exporter.flush())
        run(exporter.close())
        assert exporter.path is not None
        parts.append(Part(exporter.path, exporter.format, position))
    whole = folder / f"all.{suffix}"
    join(parts, str(whole), overwrite=False)
    exporter = make_exporter(str(whole), False)
    run(exporter.open(None))
    position = run(exporter.flush())
    run(exporter.close())
    found = [
        {name: value for name, value in item.items() if value is not None}
        for item in read_items(whole, FORMATS[suffix], position)
    ]
    assert found == [item for committed, _ in workers for item in committed]


# -- CSV


async def csv_part(path: Path, items: list[dict[str, Any]], *, guard: bool = True) -> Part:
    exporter = CsvExporter(path, overwrite=False, guard_formulas=guard)
    await exporter.open(None)
    for item in items:
        exporter.append(exporter.encode(item))
    position = await exporter.flush()
    await exporter.close()
    return Part(str(path), "csv", position)


async def test_columns_of_all_parts_stand_in_one_header_and_cells_are_as_they_were(tmp_path: Path) -> None:
    first = await csv_part(tmp_path / "a.csv", [{"n": -1.5, "text": '=1+1, "x"\n'}])
    second = await csv_part(tmp_path / "b.csv", [{"url": "u", "n": -2}, {"url": "", "n": 3}])
    await in_thread([first, second], str(tmp_path / "all.csv"))
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["n", "text", "url"],
            ["-1.5", '\'=1+1, "x"\n', ""],
            ["-2", "", "u"],
            ["3", "", ""],
        ]
    assert (tmp_path / "all.csv").read_bytes().startswith(b"n,text,url\r\n-1.5,")


async def test_guarded_and_unguarded_parts_do_not_stand_in_one_csv(tmp_path: Path) -> None:
    parts = [
        await csv_part(tmp_path / "a.csv", [{"t": "=1"}]),
        await csv_part(tmp_path / "b.csv", [{"t": "=1"}], guard=False),
    ]
    with pytest.raises(UsageError, match=r"guard_formulas.*FILE\.jsonl"):
        await in_thread(parts, str(tmp_path / "all.csv"))
    await in_thread(parts, str(tmp_path / "all.jsonl"))
    assert (tmp_path / "all.jsonl").read_text() == '{"t":"=1"}\n' * 2


# -- other formats


async def test_parts_can_be_joined_in_another_format(tmp_path: Path) -> None:
    parts = [await part_of(tmp_path / f"p.{suffix}", range(n, n + 2)) for n, suffix in enumerate(SUFFIXES)]
    for suffix in SUFFIXES:
        await in_thread(parts, str(tmp_path / f"all.{suffix}"))
        assert [int(n) for n in numbers_in(tmp_path / f"all.{suffix}")] == [
            n + k for n in range(len(SUFFIXES)) for k in range(2)
        ]


async def test_a_database_keeps_types_and_fields_without_columns(tmp_path: Path) -> None:
    item = {"i": 2**62, "f": 0.5, "b": b"\xff", "t": "1", "l": [1], "I": "x", "none": None}
    parts = []
    for name in "ab":
        exporter = make_exporter(str(tmp_path / f"{name}.db"), False)
        await exporter.open(None)
        exporter.append(exporter.encode({name: 1, **item}))
        parts.append(Part(str(tmp_path / f"{name}.db"), "sqlite", await exporter.flush()))
        await exporter.close()
    await in_thread(parts, str(tmp_path / "all.db"))
    with contextlib.closing(sqlite3.connect(tmp_path / "all.db")) as connection:
        rows = connection.execute('SELECT rowid, a, "b", i, f, t, l, _more FROM items ORDER BY rowid').fetchall()
    assert [row[0] for row in rows] == [1, 2]
    assert [row[3:7] for row in rows] == [(2**62, 0.5, "1", "[1]")] * 2
    assert json.loads(rows[0][7])["I"] == "x"


def test_parts_can_be_joined_in_postgresql(tmp_path: Path, postgres: Server) -> None:
    parts = run(parts_in(tmp_path, "jsonl"))
    address = postgres.database()
    report = join(parts, f"{address}&table=books", overwrite=False)
    name = address.partition("?")[0].rpartition("/")[2]
    assert postgres.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM books", name) == " ".join(map(str, EXPECTED))
    assert (report.items, report.bytes) == (21, 0)


def test_joined_to_standard_output_items_come_as_lines(tmp_path: Path, capfdbinary: Any) -> None:
    join(run(parts_in(tmp_path, "csv")), "-", overwrite=False)
    assert [json.loads(line)["n"] for line in capfdbinary.readouterr().out.splitlines()] == [str(n) for n in EXPECTED]


# -- what is refused


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["missing", "shorter", "changed"])
def test_a_damaged_part_is_named_and_nothing_is_made(tmp_path: Path, suffix: str, damage: str) -> None:
    parts = run(parts_in(tmp_path, suffix))
    broken = Path(parts[1].path)
    data = broken.read_bytes()
    if damage == "missing":
        broken.unlink()
    elif damage == "shorter":
        broken.write_bytes(data[:10])
    elif suffix == "db":
        with contextlib.closing(sqlite3.connect(broken)) as connection:
            connection.execute("UPDATE items SET n = 99 WHERE rowid = 2")
            connection.commit()
    else:
        broken.write_bytes(data[:5] + bytes([data[5] ^ 1]) + data[6:])
    with pytest.raises(OutputError, match=r"items\.w1\..*(--parts DIR|leave it out)"):
        join(parts, str(tmp_path / "out" / f"all.{suffix}"), overwrite=False)
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_there_is_only_replaced_if_asked_and_as_a_whole(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"all.{suffix}"
    run(written(target, range(2)))
    parts = run(parts_in(tmp_path, suffix))
    with pytest.raises(UsageError, match="it exists"):
        join(parts, str(target), overwrite=False)
    Path(parts[2].path).rename(tmp_path / "elsewhere")
    with pytest.raises(OutputError):
        join(parts, str(target), overwrite=True)
    assert numbers_in(target) == [0, 1]
    (tmp_path / "elsewhere").rename(parts[2].path)
    join(parts, str(target), overwrite=True)
    assert numbers_in(target) == EXPECTED


def test_a_part_cannot_be_its_own_whole_nor_come_twice(tmp_path: Path) -> None:
    parts = run(parts_in(tmp_path, "jsonl"))
    with pytest.raises(UsageError, match="itself one of the parts"):
        join(parts, parts[0].path, overwrite=True)
    with pytest.raises(UsageError, match="named twice"):
        join([*parts, parts[0]], str(tmp_path / "all.jsonl"), overwrite=False)


@pytest.mark.parametrize(
    ("path", "format", "why"),
    [("-", "jsonl", "standard output"), ("postgresql://***@h/d", "postgresql", "nothing to join")],
)
def test_what_is_no_file_is_no_part(tmp_path: Path, path: str, format: str, why: str) -> None:
    position = Position(format, 0, 0, 1, writer=1 if format == "postgresql" else None)
    with pytest.raises(UsageError, match=why):
        join([Part(path, format, position.encode())], str(tmp_path / "all.jsonl"), overwrite=False)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    parts = run(parts_in(tmp_path, "jsonl"))
    (tmp_path / "locked").write_text("a file where a folder is needed")
    with pytest.raises(OutputError, match=r"locked/all\.jsonl cannot be written"):
        join(parts, str(tmp_path / "locked" / "all.jsonl"), overwrite=False)


# -- from several machines


def test_parts_are_found_in_the_folder_to_which_they_were_brought(tmp_path: Path) -> None:
    parts = run(parts_in(tmp_path, "jsonl.gz"))
    brought = tmp_path / "brought"
    brought.mkdir()
    for part in parts:
        Path(part.path).rename(brought / Path(part.path).name)
    with pytest.raises(OutputError, match="--parts DIR"):
        export_parts(parts, str(tmp_path / "all.jsonl.gz"), False)
    assert export_parts(parts, str(tmp_path / "all.jsonl.gz"), False, brought).items == 21
    assert numbers_in(tmp_path / "all.jsonl.gz") == EXPECTED
    same_name = [parts[0], parts[0]._replace(path="/elsewhere/" + Path(parts[0].path).name)]
    with pytest.raises(UsageError, match="need different names"):
        export_parts(same_name, str(tmp_path / "again.jsonl.gz"), False, brought)


# -- what stood there before


@pytest.mark.parametrize("suffix", ["jsonl", "json", "jsonl.gz", "jsonl.zst", "csv"])
def test_what_stood_in_a_part_before_comes_as_well(tmp_path: Path, suffix: str) -> None:
    run(written(tmp_path / f"a.{suffix}", [100]))
    run(written(tmp_path / f"b.{suffix}", [200]))
    parts = [
        run(part_of(tmp_path / f"a.{suffix}", range(2))),
        run(part_of(tmp_path / f"b.{suffix}", range(0))),
        run(part_of(tmp_path / f"c.{suffix}", range(2))),
    ]
    report = join(parts, str(tmp_path / f"all.{suffix}"), overwrite=False)
    assert numbers_in(tmp_path / f"all.{suffix}") == [100, 0, 1, 200, 0, 1]
    assert report.items == 4


def test_a_last_line_without_its_end_is_completed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 5}')
    parts = [run(part_of(tmp_path / f"{name}.jsonl", range(count))) for count, name in enumerate("ab")]
    join(parts, str(tmp_path / "all.jsonl"), overwrite=False)
    assert numbers_in(tmp_path / "all.jsonl") == [5, 0]


def run(work: Any) -> Any:
    return asyncio.run(work)


async def in_thread(parts: list[Part], target: str) -> Any:
    return await asyncio.to_thread(join, parts, target, overwrite=False)
