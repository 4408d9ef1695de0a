"""What the user types names the file and the format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crawler.errors import UsageError
from crawler.export import CsvExporter, JsonArrayExporter, JsonLinesExporter, make_exporter

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.contracts import Exporter


@pytest.mark.parametrize(
    ("target", "kind", "path"),
    [
        ("books.jsonl", JsonLinesExporter, "books.jsonl"),
        ("books.ndjson", JsonLinesExporter, "books.ndjson"),
        ("books.jl", JsonLinesExporter, "books.jl"),
        ("a.b/books.JSON", JsonArrayExporter, "a.b/books.JSON"),
        ("books.csv", CsvExporter, "books.csv"),
        ("-", JsonLinesExporter, "-"),
        ("-:csv", CsvExporter, "-"),
        ("-:json", JsonArrayExporter, "-"),
        ("books.txt:jsonl", JsonLinesExporter, "books.txt"),
        ("books.json:csv", CsvExporter, "books.json"),
        ("books:CSV", CsvExporter, "books"),
        ("day:2024.csv", CsvExporter, "day:2024.csv"),
        ("/dev/null:jsonl", JsonLinesExporter, "/dev/null"),
    ],
)
def test_suffix_or_named_format_decide(target: str, kind: type, path: str) -> None:
    exporter = make_exporter(target, overwrite=False)
    contract: Exporter = exporter
    assert type(exporter) is kind
    assert contract.target == target
    assert exporter.path == path


@pytest.mark.parametrize("target", ["books.xml", "books", "books.txt:xml", ".jsonl", "books.jsonl.gz", "dir/"])
def test_an_unknown_format_names_the_known_ones(target: str) -> None:
    with pytest.raises(UsageError, match=r"\.jsonl, \.ndjson, \.jl, \.json, \.csv"):
        make_exporter(target, overwrite=False)


@pytest.mark.parametrize("target", ["", ":csv", "s3://bucket/books.jsonl", "ftp://127.0.0.1/x.txt:csv"])
def test_what_is_no_file_is_refused(target: str) -> None:
    with pytest.raises(UsageError):
        make_exporter(target, overwrite=False)


async def test_the_overwrite_flag_arrives(tmp_path: Path) -> None:
    for overwrite, expected in ((False, b"old\n"), (True, b"")):
        path = tmp_path / f"{overwrite}.jsonl"
        path.write_bytes(b"old\n")
        exporter = make_exporter(str(path), overwrite)
        await exporter.open(None)
        await exporter.close()
        assert path.read_bytes() == expected
