"""What the user types names the file and the format."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from crawler.errors import UsageError
from crawler.export import (
    CsvExporter,
    GzipLinesExporter,
    JsonArrayExporter,
    JsonLinesExporter,
    ZstdLinesExporter,
    make_exporter,
)
from crawler.export.sqlite import SqliteExporter

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
        ("books.jsonl.gz", GzipLinesExporter, "books.jsonl.gz"),
        ("books.jl.gz", GzipLinesExporter, "books.jl.gz"),
        ("1.2/books.2024.NDJSON.GZ", GzipLinesExporter, "1.2/books.2024.NDJSON.GZ"),
        ("books.jsonl.zst", ZstdLinesExporter, "books.jsonl.zst"),
        ("books.jl.zst", ZstdLinesExporter, "books.jl.zst"),
        ("books.ndjson.zst", ZstdLinesExporter, "books.ndjson.zst"),
        ("books.db", SqliteExporter, "books.db"),
        ("books.sqlite", SqliteExporter, "books.sqlite"),
        ("books.jsonl.sqlite3", SqliteExporter, "books.jsonl.sqlite3"),
        ("books.gz:jsonl.gz", GzipLinesExporter, "books.gz"),
        ("books:sqlite", SqliteExporter, "books"),
        ("books.db:jsonl", JsonLinesExporter, "books.db"),
        ("-", JsonLinesExporter, None),
        ("-:csv", CsvExporter, None),
        ("-:json", JsonArrayExporter, None),
        ("-:jsonl.zst", ZstdLinesExporter, None),
        ("books.txt:jsonl", JsonLinesExporter, "books.txt"),
        ("books.json:csv", CsvExporter, "books.json"),
        ("books:CSV", CsvExporter, "books"),
        ("day:2024.csv", CsvExporter, "day:2024.csv"),
        ("/dev/null:jsonl", JsonLinesExporter, "/dev/null"),
    ],
)
def test_suffix_or_named_format_decide(target: str, kind: type, path: str | None) -> None:
    exporter = make_exporter(target, overwrite=False)
    contract: Exporter = exporter
    assert type(exporter) is kind
    assert contract.target == target
    assert exporter.path == (None if path is None else os.path.abspath(path))


@pytest.mark.parametrize(
    "target",
    [
        "books.xml",
        "books",
        "books.txt:xml",
        ".jsonl",
        ".jsonl.gz",
        "books.json.gz",
        "x.csv.gz",
        "x.gz",
        "x.db.zst",
        "dir/",
    ],
)
def test_an_unknown_format_names_the_known_ones(target: str) -> None:
    with pytest.raises(UsageError, match=r"\.jsonl, \.ndjson, .*\.json, \.csv, \.jsonl\.gz, .*\.db"):
        make_exporter(target, overwrite=False)


@pytest.mark.parametrize("target", ["", ":csv", "s3://bucket/books.jsonl", "ftp://127.0.0.1/x.txt:csv", "-:sqlite"])
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


def test_what_a_format_needs_is_loaded_with_its_first_output() -> None:
    code = "import sys, crawler.export; print({'sqlite3', 'backports.zstd', 'compression.zstd'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
