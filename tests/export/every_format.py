"""What the tests of all formats share: the suffixes, how to fill a file, and how somebody else reads it."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import sqlite3
import sys
from typing import TYPE_CHECKING

from crawler.export import make_exporter

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from crawler.export.output import Output

SUFFIXES = ["jsonl", "json", "csv", "jsonl.gz", "jsonl.zst", "db"]
BYTE_SUFFIXES = SUFFIXES[:-1]


def exporter_of(path: Path, overwrite: bool = False) -> Output:
    return make_exporter(str(path), overwrite)


def add(exporter: Output, numbers: Iterable[int]) -> None:
    for n in numbers:
        exporter.append(exporter.encode({"n": n}))


async def written(path: Path, numbers: Iterable[int], position: bytes | None = None) -> bytes:
    """Open, one epoch, close."""
    exporter = exporter_of(path)
    await exporter.open(position)
    add(exporter, numbers)
    position = await exporter.flush()
    await exporter.close()
    return position


def numbers_in(path: Path) -> list[int]:
    """Every item's `n`, read with nothing of this package."""
    if path.suffix == ".db":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if not connection.execute("PRAGMA table_info(items)").fetchone():
                return []
            return [n for (n,) in connection.execute("SELECT n FROM items ORDER BY rowid")]
    text = path.read_bytes()
    if path.suffix == ".json":
        return [item["n"] for item in json.loads(text)]
    if path.suffix == ".csv":
        return [int(row["n"]) for row in csv.DictReader(text.decode().splitlines())]
    if path.suffix == ".gz":
        text = gzip.decompress(text) if text else text
    elif path.suffix == ".zst":
        text = zstd.decompress(text) if text else text
    return [json.loads(line)["n"] for line in text.splitlines()]


def crash(exporter: Output) -> None:
    """The output as a killed process leaves it: closed by the system, nothing more written."""
    exporter._sink.release()
