"""CSV: one header for all rows, nothing lost in silence, nothing a spreadsheet would run."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import enum
import io
import json
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawler.errors import OutputError
from crawler.export import CsvExporter
from crawler.export.reading import read_items

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.contracts import Exporter

TRIGGERS = ("=", "+", "-", "@", "\t", "\r")


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream, strict=True))


async def written(exporter: Exporter, *items: Any, position: bytes | None = None) -> bytes:
    await exporter.open(position)
    for item in items:
        exporter.append(exporter.encode(item))
    position = await exporter.flush()
    await exporter.close()
    return position


# -- header and columns


async def test_the_header_is_the_first_items_fields_and_lines_end_as_in_rfc_4180(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    await written(CsvExporter(path, overwrite=False), {"b": "x", "a": 1}, {"a": 2, "b": 'quoted "y", z'})
    assert path.read_bytes() == b'b,a\r\nx,1\r\n"quoted ""y"", z",2\r\n'


async def test_missing_fields_are_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    await written(CsvExporter(path, overwrite=False), {"a": 1, "b": 2}, {"b": 3})
    assert rows(path) == [["a", "b"], ["1", "2"], ["", "3"]]


async def test_fields_without_a_column_are_named_in_the_log_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.csv"
    items = [{"a": 1}, {"a": 2, "b": 3, "c": 4}, {"a": 5, "c": 6}, {"a": 7, "d": 8}]
    with caplog.at_level(logging.WARNING):
        await written(CsvExporter(path, overwrite=False), *items)
    assert rows(path) == [["a"], ["1"], ["2"], ["5"], ["7"]]
    assert [("'b', 'c'" in r.message, "'d'" in r.message) for r in caplog.records] == [(True, False), (False, True)]


async def test_endlessly_many_left_out_fields_do_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [{"a": 1}, *({"a": 1, f"f{n}": n} for n in range(500)), {"a": 1, **{f"g{n}": n for n in range(500)}}]
    await written(CsvExporter(tmp_path / "out.csv", overwrite=False), *items)
    assert len(caplog.records) == 100
    assert "no more fields will be named" in caplog.records[-1].message


async def test_an_item_none_of_whose_fields_has_a_column_is_an_error(tmp_path: Path) -> None:
    exporter = CsvExporter(tmp_path / "out.csv", overwrite=False)
    await exporter.open(None)
    exporter.encode({"a": 1})
    with pytest.raises(ValueError, match="none of the fields 'x', 'y' is a column"):
        exporter.encode({"x": 1, "y": 2})
    await exporter.close()


async def test_an_item_that_cannot_be_written_decides_no_columns(tmp_path: Path) -> None:
    exporter = CsvExporter(tmp_path / "out.csv", overwrite=False)
    await exporter.open(None)
    with pytest.raises(TypeError, match=r"field 'bad': .* object"):
        exporter.encode({"bad": object()})
    with pytest.raises(ValueError, match="without fields"):
        exporter.encode({})
    assert exporter.encode({"good": 1}) == b"1\r\n"
    await exporter.close()


async def test_given_fields_are_the_columns_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    await written(CsvExporter(path, overwrite=False, fields=["c", "a"]), {"a": 1, "b": 2, "c": 3})
    assert rows(path) == [["c", "a"], ["3", "1"]]


@pytest.mark.parametrize("fields", [[], "abc"])
def test_given_fields_must_be_a_list_of_names(tmp_path: Path, fields: Any) -> None:
    with pytest.raises(ValueError, match="fields: expected"):
        CsvExporter(tmp_path / "out.csv", overwrite=False, fields=fields)


async def test_names_that_are_no_text_become_text(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    await written(CsvExporter(path, overwrite=False), {1: "x", "\ud800": "y"}, {1: "z", "\ud800": "w"})
    assert rows(path) == [["1", "\ufffd"], ["x", "y"], ["z", "w"]]


async def test_without_items_the_file_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    position = await written(CsvExporter(path, overwrite=False))
    assert path.read_bytes() == b""
    await written(CsvExporter(path, overwrite=False), {"a": 1}, position=position)
    assert rows(path) == [["a"], ["1"]]


async def test_a_single_empty_cell_is_still_a_row(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    await written(CsvExporter(path, overwrite=False), {"a": None}, {"a": ""}, {"a": 1})
    assert rows(path) == [["a"], [""], [""], ["1"]]


# -- continuing


async def test_a_continued_file_keeps_its_header(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_bytes(b'\xef\xbb\xbfb,"a,\r\nx"\r\n1,2\r\n')
    await written(CsvExporter(path, overwrite=False), {"a,\r\nx": "A", "b": "B"})
    assert path.read_bytes().endswith(b"1,2\r\nB,A\r\n")


@pytest.mark.parametrize("old", [b"a,b\n1,2\n", b"a,b\n1,2", b"a,b"])
async def test_a_continued_file_keeps_its_line_end_and_gets_a_missing_one(tmp_path: Path, old: bytes) -> None:
    path = tmp_path / "out.csv"
    path.write_bytes(old)
    await written(CsvExporter(path, overwrite=False), {"a": 3, "b": "x\ry"})
    end = b"\n" if b"\n" in old else b"\r\n"
    assert path.read_bytes() == old.rstrip() + end + b'3,"x\ry"' + end


async def test_given_fields_must_be_those_of_the_continued_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("a,b\r\n1,2\r\n", newline="")
    with pytest.raises(OutputError, match="has the columns 'a', 'b', not 'a', 'c' as asked"):
        await CsvExporter(path, overwrite=False, fields=["a", "c"]).open(None)
    await written(CsvExporter(path, overwrite=False, fields=["b", "a"]), {"a": 3, "b": 4})
    assert rows(path) == [["a", "b"], ["1", "2"], ["3", "4"]]


@pytest.mark.parametrize("old", [b"\n\n1,2\n", b'"never closed\n', b"\xff\xfea\n"])
async def test_a_file_that_begins_with_no_header_is_refused(tmp_path: Path, old: bytes) -> None:
    path = tmp_path / "out.csv"
    path.write_bytes(old)
    with pytest.raises(OutputError, match=r"out\.csv"):
        await CsvExporter(path, overwrite=False).open(None)
    assert path.read_bytes() == old


async def test_a_resumed_file_keeps_its_columns_and_gets_no_second_header(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    position = await written(CsvExporter(path, overwrite=False), {"a": 1, "b": 2})
    with path.open("ab") as stream:
        stream.write(b'9,9\r\n"tor')
    await written(CsvExporter(path, overwrite=False), {"b": 4, "a": 3}, position=position)
    assert rows(path) == [["a", "b"], ["1", "2"], ["3", "4"]]


async def test_a_file_cut_back_to_nothing_gets_its_header_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    exporter = CsvExporter(path, overwrite=False)
    await exporter.open(None)
    position = await exporter.flush()
    await exporter.close()
    path.write_bytes(b"a,b\r\n1,2\r\n")
    await written(CsvExporter(path, overwrite=False), {"c": 3}, position=position)
    assert rows(path) == [["c"], ["3"]]


@pytest.mark.parametrize("name", ["\ufeffbom", "=sum", "'=sum", "'plain", "new\nline", "\ud800", ""])
async def test_odd_column_names_survive_a_resume(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out.csv"
    position = await written(CsvExporter(path, overwrite=False), {name: 1, "b": 2})
    await written(CsvExporter(path, overwrite=False), {"b": 4, name: 3}, position=position)
    assert rows(path)[1:] == [["1", "2"], ["3", "4"]]


async def test_a_changed_header_is_refused_at_resume(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    filler = [{"a": "x" * 1000, "b": n} for n in range(100)]
    position = await written(CsvExporter(path, overwrite=False), *filler)
    whole = path.read_bytes()
    path.write_bytes(b"b,a" + whole[3:])  # same size, and before the checksum's reach
    with pytest.raises(OutputError, match="its header is not the one this job wrote"):
        await CsvExporter(path, overwrite=False).open(position)


# -- cells


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = -1


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("text", "text"),
        ("  spaces ", "  spaces "),
        (None, ""),
        (True, "True"),
        (-5, "-5"),
        (10**30, str(10**30)),
        (-0.5, "-0.5"),
        (math.nan, ""),
        (-math.inf, ""),
        (decimal.Decimal("-1.50"), "-1.50"),
        (decimal.Decimal("1E+400"), "1E+400"),
        (decimal.Decimal("NaN"), ""),
        (Level.LOW, "-1"),
        (Colour.RED, "red"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (b"\xfb\xff", "'+/8="),
        (["a", 1, None], '["a",1,null]'),
        ({"k": ["=x"]}, '{"k":["=x"]}'),
        ([], "[]"),
        ("a\ud800b", "a\ufffdb"),
        (["\ud800"], '["\ufffd"]'),
        ("line\nend\r\n\u2028", "line\nend\r\n\u2028"),
        ("nul\x00", "nul\x00"),
    ],
    ids=repr,
)
async def test_a_cell_holds_the_plain_form_of_its_value(tmp_path: Path, value: object, cell: str) -> None:
    path = tmp_path / "out.csv"
    await written(CsvExporter(path, overwrite=False), {"v": value, "w": 1})
    assert rows(path)[1] == [cell, "1"]


PAYLOADS = [
    "=1+1", "=cmd|' /C calc'!A0", "+1", "-1", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1+1", "\r=1+1", "=", "+",
    "-", "@", '=HYPERLINK("http://127.0.0.1")', '="x"', "=1\n2", "-\ud800", "--", "@@", "+49 30 1", "=\u202e",
]  # fmt: skip


@pytest.mark.hostile("S34")
async def test_no_text_cell_starts_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    await written(CsvExporter(path, overwrite=False), *({"=h": text, "b": Text.PLUS} for text in PAYLOADS))
    assert not [cell for row in rows(path) for cell in row if cell.startswith(TRIGGERS)]
    assert [row[0] for row in rows(path)[1:]] == ["'" + text.replace("\ud800", "\ufffd") for text in PAYLOADS]


class Text(enum.Enum):
    PLUS = "+1"


async def test_the_guard_against_formulas_can_be_switched_off(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    await written(CsvExporter(path, overwrite=False, guard_formulas=False), {"=h": "=1+1"})
    assert rows(path) == [["=h"], ["=1+1"]]


@given(texts=st.lists(st.text("'=+-@\t\r\nab", max_size=6), min_size=1, max_size=8), guard=st.booleans())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_the_cells_what_is_read_back_is_what_was_written(
    tmp_path: Path, texts: list[str], guard: bool
) -> None:
    path = tmp_path / "out.csv"
    exporter = CsvExporter(path, overwrite=True, guard_formulas=guard)
    position = await written(exporter, *({"=h": text} for text in texts))
    assert [item["=h"] for item in read_items(path, "csv", position)] == texts
    cells = [row[0] for row in rows(path)]
    assert not guard or not [cell for cell in cells if cell.startswith(TRIGGERS)]


@pytest.mark.parametrize("guard", [True, False])
async def test_a_continued_file_keeps_its_apostrophes_or_their_lack(tmp_path: Path, guard: bool) -> None:
    path = tmp_path / "out.csv"
    position = await written(CsvExporter(path, overwrite=False, guard_formulas=guard), {"a": "=1"})
    other = CsvExporter(path, overwrite=False, guard_formulas=not guard)
    position = await written(other, {"a": "=2"}, position=position)
    assert rows(path) == ([["a"], ["'=1"], ["'=2"]] if guard else [["a"], ["=1"], ["=2"]])
    assert [item["a"] for item in read_items(path, "csv", position)] == ["=1", "=2"]


CELLS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TABLES = st.lists(st.text(), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.lists(
        st.fixed_dictionaries({name: CELLS | st.lists(CELLS, max_size=3) for name in names}), min_size=1
    )
)


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.lstrip("'").startswith(TRIGGERS) else value
    return str(value)


@given(items=TABLES)
@settings(deadline=None, max_examples=50)
def test_arbitrary_items_come_back_from_a_csv_reader(items: list[dict[str, Any]]) -> None:
    exporter = CsvExporter("unused.csv", overwrite=False)
    encoded = [exporter.encode(item) for item in items]
    read = list(csv.reader(io.StringIO(b"".join(encoded).decode(), newline=""), strict=True))
    assert len(read) == len(items)
    for item, row in zip(items, read, strict=True):
        for value, cell in zip((item[name] for name in items[0]), row, strict=True):
            if isinstance(value, list):
                assert json.loads(cell) == value
            else:
                assert cell == shown(value)
