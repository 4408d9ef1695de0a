"""A database holds each item once, as a row that people can query, whatever pages call their fields."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import decimal
import enum
import json
import math
import operator
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.errors import OutputError
from crawler.export import OutputSnapshot
from crawler.export.reading import read_items
from crawler.export.sqlite import SqliteExporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.contracts import Exporter


@contextlib.contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def table(path: Path) -> list[dict[str, Any]]:
    with database(path) as connection:
        found = connection.execute("SELECT * FROM items ORDER BY rowid")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]


async def written(exporter: Exporter, *items: Any, position: bytes | None = None) -> bytes:
    await exporter.open(position)
    for item in items:
        exporter.append(exporter.encode(item))
    position = await exporter.flush()
    await exporter.close()
    return position


async def stored(tmp_path: Path, *items: Any) -> list[dict[str, Any]]:
    path = tmp_path / "out.db"
    path.unlink(missing_ok=True)
    await written(SqliteExporter(path, overwrite=False), *items)
    return table(path)


# -- columns


async def test_each_field_is_a_column_and_rows_are_numbered_in_order(tmp_path: Path) -> None:
    assert await stored(tmp_path, {"b": "x", "a": 1}, {"a": 2, "b": None}) == [
        {"rowid": 1, "b": "x", "a": 1},
        {"rowid": 2, "b": None, "a": 2},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out.db"], "nothing lies beside the database"


async def test_a_new_field_gets_a_new_column_in_any_epoch(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    position = await written(SqliteExporter(path, overwrite=False), {"a": 1}, {"b": 2, "a": 3}, {"a": 4})
    await written(SqliteExporter(path, overwrite=False), {"c": 5}, position=position)
    assert [tuple(row.values())[1:] for row in table(path)] == [
        (1, None, None),
        (3, 2, None),
        (4, None, None),
        (None, None, 5),
    ]


NAMES = [
    'quo"te',
    "'",
    "a b",
    "select",
    "items",
    "naïve",
    "🐍",
    "",
    "new\nline",
    ");DROP TABLE items;--",
    "?",
    ":x",
    "[a]",
]


async def test_any_name_is_a_column(tmp_path: Path) -> None:
    rows = await stored(tmp_path, dict(zip(NAMES, range(len(NAMES)), strict=True)), {'quo"te': "again"})
    assert rows[0] == {"rowid": 1, **dict(zip(NAMES, range(len(NAMES)), strict=True))}
    assert rows[1]['quo"te'] == "again"


async def test_names_that_cannot_be_columns_stand_in_one_as_json(tmp_path: Path) -> None:
    odd = {"NAME": 1, "rowid": 2, "RowID": 3, "_more": 4, "nul\0": 5, "x" * 256: [6], "\ud800": 7}
    rows = await stored(tmp_path, {"Name": "plain"}, {"Name": 0, **odd, "b": b"\xff"}, {"Name": "last"})
    assert rows[0] == {"rowid": 1, "Name": "plain", "�": None, "b": None, "_more": None}
    assert rows[1]["�"] == 7
    assert rows[1]["b"] == b"\xff"
    assert json.loads(rows[1]["_more"]) == {
        "NAME": 1,
        "rowid": 2,
        "RowID": 3,
        "_more": 4,
        "nul\0": 5,
        "x" * 256: "[6]",
    }
    assert rows[2]["_more"] is None


async def test_beyond_a_thousand_columns_fields_stand_in_one_as_json(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    wide = {f"f{n}": n for n in range(1100)}
    position = await written(SqliteExporter(path, overwrite=False), wide, {"f0": -1, "f1099": -2})
    await written(SqliteExporter(path, overwrite=False), {"g": 1, "f1": 2}, position=position)
    rows = table(path)
    assert len(rows[0]) == 1000
    assert json.loads(rows[0]["_more"]) == {f"f{n}": n for n in range(998, 1100)}
    assert (rows[1]["f0"], rows[1]["_more"]) == (-1, '{"f1099":-2}')
    assert (rows[2]["f1"], rows[2]["_more"]) == (2, '{"g":1}')


async def test_endlessly_many_combinations_of_fields_are_written(tmp_path: Path) -> None:
    items = [{f"f{n % 40}": n, f"g{n % 37}": n} for n in range(1500)]
    rows = await stored(tmp_path, *items)
    assert [{k: v for k, v in row.items() if v is not None and k != "rowid"} for row in rows] == items


async def test_an_item_without_fields_is_a_row(tmp_path: Path) -> None:
    assert await stored(tmp_path, {}, {"a": 1}, {}) == [
        {"rowid": 1, "a": None},
        {"rowid": 2, "a": 1},
        {"rowid": 3, "a": None},
    ]


async def test_names_that_are_no_text_become_text(tmp_path: Path) -> None:
    assert await stored(tmp_path, {1: "x"}) == [{"rowid": 1, "1": "x"}]


# -- values


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = -1


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("text", "text"),
        ("", ""),
        ("nul\0in it", "nul\0in it"),
        ("a\ud800b", "a\ufffdb"),
        (None, None),
        (True, 1),
        (False, 0),
        (-5, -5),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, str(2**63)),
        (-(10**30), str(-(10**30))),
        (0.1, 0.1),
        (-0.0, -0.0),
        (5e-324, 5e-324),
        (1.0, 1.0),
        (math.nan, None),
        (-math.inf, None),
        (b"\0\xff", b"\0\xff"),
        (decimal.Decimal("1.50"), "1.50"),
        (Level.LOW, -1),
        (Colour.RED, "red"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC), "2024-01-02T03:00:00Z"),
        (["a", 1, None], '["a",1,null]'),
        ({"k": {"l": True}}, '{"k":{"l":true}}'),
        ([], "[]"),
        (["\ud800"], '["\ufffd"]'),
        ("123", "123"),
    ],
    ids=repr,
)
async def test_a_cell_holds_the_native_form_of_its_value(tmp_path: Path, value: object, cell: object) -> None:
    found = (await stored(tmp_path, {"v": value}))[0]["v"]
    assert (type(found), repr(found)) == (type(cell), repr(cell))


CELLS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
# Bytes under names that can have a column: in `_more`, which is JSON, they are base64.
BYTES = st.dictionaries(st.sampled_from(["bytes one", "bytes two"]), st.binary(), max_size=2)
ITEMS = st.lists(
    st.builds(operator.or_, st.dictionaries(st.text(max_size=4), CELLS, max_size=4), BYTES),
    max_size=8,
)


@given(items=ITEMS)
@settings(deadline=None, max_examples=40)
def test_arbitrary_items_come_back_and_are_recognised(items: list[dict[str, Any]]) -> None:
    async def round_trip(path: Path) -> None:
        position = await written(SqliteExporter(path, overwrite=False), *items)
        back = list(read_items(path, "sqlite", position))
        for item, found in zip(items, back, strict=True):
            assert {k: v for k, v in found.items() if v is not None} == {
                _plain(k): _text(v) for k, v in item.items() if v is not None
            }
        assert await SqliteExporter(path, overwrite=False).holds(position)
        await written(SqliteExporter(path, overwrite=False), position=position)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(round_trip(Path(folder, "out.db")))


def _plain(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text(value: Any) -> Any:
    return _plain(value) if isinstance(value, str) else value


async def test_a_value_without_a_form_names_its_field(tmp_path: Path) -> None:
    exporter = SqliteExporter(tmp_path / "out.db", overwrite=False)
    with pytest.raises(TypeError, match=r"field 'bad': .* object"):
        exporter.encode({"bad": object()})


async def test_an_item_too_large_for_a_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteExporter, "most_bytes", 1000)
    with pytest.raises(ValueError, match="too large for a row"):
        SqliteExporter(tmp_path / "out.db", overwrite=False).encode({"a": "x" * 1000})


# -- continuing and overwriting


async def test_append_mode_keeps_the_rows_of_earlier_jobs(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    await written(SqliteExporter(path, overwrite=False), {"a": 1})
    exporter = SqliteExporter(path, overwrite=False)
    await exporter.open(None)
    begun = await exporter.flush()
    exporter.append(exporter.encode({"a": 2}))
    await exporter.flush()
    await exporter.close()
    assert [row["a"] for row in table(path)] == [1, 2]
    await written(SqliteExporter(path, overwrite=False), {"a": 3}, position=begun)
    assert [(row["rowid"], row["a"]) for row in table(path)] == [(1, 1), (2, 3)]


async def test_overwrite_mode_drops_the_rows_and_columns_of_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    await written(SqliteExporter(path, overwrite=False), *({"old": "x" * 1000} for _ in range(100)))
    with database(path) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 7 AS seven")
    await written(SqliteExporter(path, overwrite=True), {"new": 1})
    assert table(path) == [{"rowid": 1, "new": 1}]
    with database(path) as connection:
        assert connection.execute("SELECT * FROM mine").fetchall() == [(7,)]
    position = await written(SqliteExporter(path, overwrite=True), {"n": 1})
    await written(SqliteExporter(path, overwrite=True), {"n": 2}, position=position)
    assert [row["n"] for row in table(path)] == [1, 2], "with a position it continues"


async def test_an_overwritten_database_with_nothing_else_in_it_gets_small(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    await written(SqliteExporter(path, overwrite=False), *({"old": "x" * 1000} for _ in range(1000)))
    await written(SqliteExporter(path, overwrite=True), {"new": 1})
    assert path.stat().st_size <= 8192


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE items (id INTEGER PRIMARY KEY, a)",
        "CREATE TABLE items (rowid TEXT PRIMARY KEY) WITHOUT ROWID",
        "CREATE VIEW items AS SELECT 1 AS rowid",
    ],
)
async def test_a_table_of_another_make_is_refused_and_left_alone(tmp_path: Path, overwrite: bool, sql: str) -> None:
    path = tmp_path / "out.db"
    with database(path) as connection:
        connection.execute(sql)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"has a table 'items' that no crawl has made"):
        await SqliteExporter(path, overwrite).open(None)
    assert path.read_bytes() == before


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("content", [b"not a database", b'{"n":1}\n' * 5000, b"SQLite format 2\0" + bytes(5000)])
async def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, overwrite: bool, content: bytes) -> None:
    path = tmp_path / "out.db"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"out\.db is no SQLite database"):
        await SqliteExporter(path, overwrite).open(None)
    assert path.read_bytes() == content


async def test_a_damaged_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    await written(SqliteExporter(path, overwrite=False), *({"old": "x" * 1000} for _ in range(100)))
    whole = path.read_bytes()
    for left in (whole[:-4096], whole[:4096] + bytes(4096) + whole[8192:]):
        path.write_bytes(left)
        with pytest.raises(OutputError, match=r"out\.db is damaged: "):
            await SqliteExporter(path, overwrite=False).open(None)
        assert path.read_bytes() == left


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_what_is_no_file_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "out.db")
    with pytest.raises(OutputError, match="is no regular file"):
        await SqliteExporter(tmp_path / "out.db", overwrite=False).open(None)


async def test_odd_paths_are_paths(tmp_path: Path) -> None:
    for name in ("a b?mode=memory#x%20.db", "ü.db", os.fsdecode(b"\xff.db")):
        path = tmp_path / "new" / name
        position = await written(SqliteExporter(path, overwrite=False), {"a": 1})
        assert path.exists()
        assert list(read_items(path, "sqlite", position)) == [{"a": 1}]
    with pytest.raises(OutputError, match="null"):
        await SqliteExporter(f"{tmp_path}/a\0b.db", overwrite=False).open(None)


# -- what was committed


async def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    position = await written(SqliteExporter(path, overwrite=False), *({"n": n, "t": "x" * 500} for n in range(1000)))
    for sql, message in (
        ("DELETE FROM items WHERE rowid = 3", "has 999 rows up to number 1000, but there were 1000"),
        ("UPDATE items SET n = 0 WHERE rowid = 990", "was changed: the rows before number 1000"),
        ("DROP TABLE items", "no table 'items' any more"),
    ):
        whole = path.read_bytes()
        with database(path) as connection:
            connection.execute(sql)
        assert not await SqliteExporter(path, overwrite=False).holds(position)
        with pytest.raises(OutputError, match=message):
            await SqliteExporter(path, overwrite=False).open(position)
        path.write_bytes(whole)


async def test_what_people_do_to_a_database_between_two_runs_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    items = [{"n": n, "t": "x" * 500} for n in range(500)]
    position = await written(SqliteExporter(path, overwrite=False), *items)
    with database(path) as connection:
        connection.execute("CREATE INDEX by_n ON items (n)")
        connection.execute("CREATE VIEW few AS SELECT * FROM items LIMIT 3")
        connection.execute("ALTER TABLE items ADD COLUMN mine")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode=WAL")
    assert await SqliteExporter(path, overwrite=False).holds(position)
    await written(SqliteExporter(path, overwrite=False), {"n": 500}, position=position)
    assert [row["n"] for row in table(path)] == list(range(501))


async def test_a_database_cut_back_to_nothing_has_no_columns_of_before(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    begun = await written(SqliteExporter(path, overwrite=False))
    await written(SqliteExporter(path, overwrite=False), {"old": 1}, position=begun)
    await written(SqliteExporter(path, overwrite=False), {"new": 1}, position=begun)
    assert table(path) == [{"rowid": 1, "new": 1}]


async def test_a_database_too_large_to_be_checked_whole_still_shows_a_torn_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.export.database._CHECKED_WHOLE_BYTES", 0)
    path = tmp_path / "out.db"
    position = await written(SqliteExporter(path, overwrite=False), *({"t": "x" * 500} for _ in range(1000)))
    whole = path.read_bytes()
    for left in (whole[:-1], whole[:-5000] + bytes(5000), whole[:-100] + b"\xff" * 100):
        path.write_bytes(left)
        assert not await SqliteExporter(path, overwrite=False).holds(position)
    path.write_bytes(whole)
    assert await SqliteExporter(path, overwrite=False).holds(position)


# -- while it is written


async def test_a_reader_sees_whole_epochs_while_the_crawl_writes(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    exporter = SqliteExporter(path, overwrite=False)
    await exporter.open(None)
    for epoch in range(3):
        for n in range(700):
            exporter.append(exporter.encode({"n": n}))
        await exporter.flush()
        assert len(table(path)) == 700 * (epoch + 1)
    await exporter.close()


async def test_a_reader_that_is_slow_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    exporter = SqliteExporter(path, overwrite=False)
    await written(exporter, {"n": 1})
    await exporter.open(None)
    with database(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM items").fetchone()
        exporter.append(exporter.encode({"n": 2}))
        waiting = asyncio.ensure_future(exporter.flush())
        while not path.with_name("out.db-journal").exists():  # it has its rows, and comes to its commit
            await asyncio.sleep(0)
        assert not waiting.done()
        reader.execute("COMMIT")
        await waiting
    await exporter.close()
    assert [row["n"] for row in table(path)] == [1, 2]


async def test_a_lock_held_for_too_long_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.export.database._PATIENCE_SECONDS", 0.01)
    path = tmp_path / "out.db"
    position = await written(SqliteExporter(path, overwrite=False), {"n": 1})
    exporter = SqliteExporter(path, overwrite=False)
    await exporter.open(position)
    with database(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        exporter.append(exporter.encode({"n": 2}))
        for _ in range(2):
            with pytest.raises(OutputError, match=r"another program keeps it locked \(SQLITE_BUSY\)"):
                await exporter.flush()
        await exporter.close()
        assert await exporter.holds(position), "nobody can tell while it is locked, and it is not damaged"
        other.execute("ROLLBACK")
    await written(SqliteExporter(path, overwrite=False), {"n": 2}, position=position)
    assert [row["n"] for row in table(path)] == [1, 2]


async def test_another_writer_of_the_table_is_noticed_and_its_rows_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    exporter = SqliteExporter(path, overwrite=False)
    await written(exporter, {"n": 1})
    await exporter.open(None)
    with database(path) as other:
        other.execute("INSERT INTO items (n) VALUES (9)")
    exporter.append(exporter.encode({"n": 2}))
    with pytest.raises(OutputError, match=r"out\.db cannot be written: UNIQUE constraint failed"):
        await exporter.flush()
    await exporter.close()
    assert [row["n"] for row in table(path)] == [1, 9]


async def test_snapshot_tells_items_and_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    exporter = SqliteExporter(path, overwrite=False, target="named")
    await exporter.open(None)
    exporter.append(exporter.encode({"n": 1}))
    assert exporter.snapshot() == OutputSnapshot("named", items=1, bytes=0)
    position = await exporter.flush()
    assert exporter.snapshot() == OutputSnapshot("named", items=1, bytes=path.stat().st_size)
    await exporter.close()
    assert exporter.path == str(path)
    assert repr(exporter) == f"<SqliteExporter 'named' items=1 bytes={path.stat().st_size}>"
    await exporter.open(position)
    assert exporter.snapshot() == OutputSnapshot("named", items=1, bytes=path.stat().st_size)
    await exporter.close()
