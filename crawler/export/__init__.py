"""Outputs: where items go, in which format. `make_exporter` finds both from what the user typed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crawler.errors import UsageError
from crawler.export.address import is_database
from crawler.export.compressed import GzipLinesExporter, ZstdLinesExporter
from crawler.export.csv_rows import CsvExporter
from crawler.export.json_array import JsonArrayExporter
from crawler.export.lines import JsonLinesExporter
from crawler.export.output import OutputSnapshot
from crawler.export.spool import Spool
from crawler.export.writer import Writer
from crawler.file_names import safe_name
from crawler.redaction import redact_refused

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
    "Writer",
    "ZstdLinesExporter",
    "make_exporter",
    "part_target",
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


def make_exporter(target: str, overwrite: bool, *, guard_formulas: bool = True, writer: Writer | None = None) -> Output:
    """The exporter for one `-o` (`overwrite` False) or `-O` (True).

    `target` is a path whose suffix tells the format (`books.jsonl`, `books.jsonl.gz`, `books.db`, in any case), a path
    and a format (`books.txt:jsonl`, which wins over a suffix), `-` for standard output, as JSON lines unless a
    format follows (`-:csv`), or a table of PostgreSQL (`postgresql://USER@HOST/DATABASE?table=books`). What stands
    behind the last colon counts as a format only if it is one of `FORMATS`. `guard_formulas` is for CSV, as
    `output.guard_formulas`; `writer` says to a database who writes.

    Raises `UsageError` for an unknown format, naming the known ones, and for a target that is no file and no database.
    """
    if is_database(target):
        from crawler.export.postgresql import PostgresqlExporter  # it loads asyncpg, an extra

        return PostgresqlExporter(target, overwrite, writer=writer)
    path, suffix = _path_and_suffix(target)
    shown = redact_refused(target)
    if not path or "://" in path:
        raise UsageError(f"output {shown!r}: expected a file, postgresql://… or - for standard output")
    format = FORMATS.get(suffix.lower())
    if format is None:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise UsageError(
            f"output {shown!r}: no format is known by the suffix {redact_refused(suffix)!r}; known are {known}. "
            f"For another name put the format behind it: {shown + ':jsonl'!r}"
        )
    if format == "sqlite" and path == "-":
        raise UsageError(f"output {target!r}: a database needs a file")
    if format == "csv":
        return CsvExporter(path, overwrite, target=target, guard_formulas=guard_formulas)
    return _kind(format)(path, overwrite, target=target)


def part_target(target: str, worker: str) -> str:
    """The target of one worker of many: `items.jsonl.gz` becomes `items.WORKER.jsonl.gz`, with what is not safe in a
    file's name replaced. Workers of different names never get the same. What workers can share stays as it is: `-`,
    PostgreSQL, and what is no file of the crawl's own (`/dev/…`)."""
    path, suffix = _path_and_suffix(target)
    if path in ("", "-") or "://" in path or path.startswith("/dev/"):
        return target
    stem, own = os.path.splitext(path)
    if path == target:
        own = path[len(path) - len(suffix) - 1 :] if suffix else ""
        stem = path.removesuffix(own)
    return f"{stem}.{safe_name(worker)}{own}{target[len(path) :]}"


def _path_and_suffix(target: str) -> tuple[str, str]:
    """The path, and what tells the format: behind a colon, or of the path."""
    path, colon, suffix = target.rpartition(":")
    if colon and path and suffix.lower() in FORMATS:
        return path, suffix
    return target, "jsonl" if target == "-" else _suffix(target)


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
