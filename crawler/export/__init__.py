"""Outputs: where items go, in which format. `make_exporter` finds both from what the user typed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crawler.errors import UsageError
from crawler.export.compressed import GzipLinesExporter, ZstdLinesExporter
from crawler.export.csv_rows import CsvExporter
from crawler.export.json_array import JsonArrayExporter
from crawler.export.lines import JsonLinesExporter
from crawler.export.output import OutputSnapshot
from crawler.export.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.export.output import Output

__all__ = [
    "FORMATS",
    "CsvExporter",
    "GzipLinesExporter",
    "JsonArrayExporter",
    "JsonLinesExporter",
    "OutputSnapshot",
    "Spool",
    "ZstdLinesExporter",
    "make_exporter",
]

FORMATS: dict[str, str] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "jl": "jsonl",
    "json": "json",
    "csv": "csv",
    "jsonl.gz": "jsonl.gz",
    "ndjson.gz": "jsonl.gz",
    "jl.gz": "jsonl.gz",
    "jsonl.zst": "jsonl.zst",
    "ndjson.zst": "jsonl.zst",
    "jl.zst": "jsonl.zst",
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
    "db": "sqlite",
}
"""Suffixes without the dot, which are also the names for `target:FORMAT`, and the format that each stands for."""


def make_exporter(target: str, overwrite: bool, *, guard_formulas: bool = True) -> Output:
    """The exporter for one `-o` (`overwrite` False) or `-O` (True).

    `target` is a path whose suffix tells the format (`books.jsonl`, `books.jsonl.gz`, `books.db`, in any case), a path
    and a format (`books.txt:jsonl`, which wins over a suffix), or `-` for standard output, as JSON lines unless a
    format follows (`-:csv`). What stands behind the last colon counts as a format only if it is one of `FORMATS`.
    `guard_formulas` is for CSV, as `output.guard_formulas`.

    Raises `UsageError` for an unknown format, naming the known ones, and for a target that is no file.
    """
    path, colon, suffix = target.rpartition(":")
    if not (colon and path and suffix.lower() in FORMATS):
        path = target
        suffix = "jsonl" if target == "-" else _suffix(target)
    if not path or "://" in path:
        raise UsageError(f"output {target!r}: expected a file, or - for standard output")
    format = FORMATS.get(suffix.lower())
    if format is None:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise UsageError(
            f"output {target!r}: no format is known by the suffix {suffix!r}; known are {known}. "
            f"For another name put the format behind it: {target + ':jsonl'!r}"
        )
    if format == "sqlite" and path == "-":
        raise UsageError(f"output {target!r}: a database needs a file")
    if format == "csv":
        return CsvExporter(path, overwrite, target=target, guard_formulas=guard_formulas)
    return _kind(format)(path, overwrite, target=target)


def _suffix(path: str) -> str:
    """The last one, or the last two where the two are a format."""
    stem, last = os.path.splitext(path)
    both = os.path.splitext(stem)[1] + last
    return (both if both[1:].lower() in FORMATS else last).removeprefix(".")


def _kind(format: str) -> Callable[..., Output]:
    if format == "sqlite":
        from crawler.export.sqlite import SqliteExporter  # it loads sqlite3

        return SqliteExporter
    return _KINDS[format]


_KINDS: dict[str, type[Output]] = {
    kind.format: kind
    for kind in (JsonLinesExporter, GzipLinesExporter, ZstdLinesExporter, JsonArrayExporter, CsvExporter)
}
