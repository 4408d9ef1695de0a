"""Outputs: where items go, in which format. `make_exporter` finds both from what the user typed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crawler.errors import UsageError
from crawler.export.csv_rows import CsvExporter
from crawler.export.json_array import JsonArrayExporter
from crawler.export.lines import JsonLinesExporter
from crawler.export.output import OutputSnapshot

if TYPE_CHECKING:
    from crawler.export.output import Output

__all__ = ["FORMATS", "CsvExporter", "JsonArrayExporter", "JsonLinesExporter", "OutputSnapshot", "make_exporter"]

FORMATS: dict[str, type[Output]] = {
    "jsonl": JsonLinesExporter,
    "ndjson": JsonLinesExporter,
    "jl": JsonLinesExporter,
    "json": JsonArrayExporter,
    "csv": CsvExporter,
}
"""Suffixes without the dot, which are also the names for `target:FORMAT`."""


def make_exporter(target: str, overwrite: bool) -> Output:
    """The exporter for one `-o` (`overwrite` False) or `-O` (True).

    `target` is a path whose suffix tells the format (`books.jsonl`, `books.csv`, in any case), a path and a format
    (`books.txt:jsonl`, which wins over a suffix), or `-` for standard output, as JSON lines unless a format follows
    (`-:csv`). What stands behind the last colon counts as a format only if it is one of `FORMATS`.

    Raises `UsageError` for an unknown format, naming the known ones, and for a target that is no file.
    """
    path, colon, format = target.rpartition(":")
    if not (colon and path and format.lower() in FORMATS):
        path = target
        format = "jsonl" if target == "-" else os.path.splitext(target)[1].removeprefix(".")
    if not path or "://" in path:
        raise UsageError(f"output {target!r}: expected a file, or - for standard output")
    exporter = FORMATS.get(format.lower())
    if exporter is None:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise UsageError(
            f"output {target!r}: no format is known by the suffix {format!r}; known are {known}. "
            f"For another name put the format behind it: {target + ':jsonl'!r}"
        )
    return exporter(path, overwrite, target=target)
