"""One JSON array, an item a line. While the crawl runs its closing bracket is missing; `close` writes it, and a job
that is continued takes it away again by cutting back to its position, which never includes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from crawler.errors import OutputError
from crawler.export.byte_output import ByteOutput
from crawler.export.lines import one_line

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping

    from crawler.export.file import OutputFile
    from crawler.export.position import Position

__all__ = ["JsonArrayExporter"]

_BLANKS = b" \t\r\n"
_NO_BLANK = re.compile(rb"[^ \t\r\n]")


class JsonArrayExporter(ByteOutput):
    """A file with one JSON array, valid after every `close`; `[]` where no item came.

    A file that is continued has to be a complete array, which is checked from end to end: reading it costs time in
    proportion to its size, once. Anything else raises `OutputError`.
    """

    format: ClassVar[str] = "json"
    _between: ClassVar[bytes] = b",\n"

    def encode(self, item: Mapping[str, Any]) -> bytes:
        return one_line(item)

    def _start(self) -> bytes:
        return b"[\n"

    def _end(self, size: int) -> bytes:
        return b"\n]\n" if size else b"[]\n"

    def _adopt(self, file: OutputFile, position: Position | None) -> bytes:
        if position is not None:
            return self._between
        with file.content() as content:
            keep = _elements_end(content)
        if keep is None:
            raise OutputError(
                f"{file.path} is not a complete JSON array, so nothing can be added to it. "
                "Repair or remove it, overwrite it (-O), or write .jsonl."
            )
        file.keep(keep)
        return self._between


def _elements_end(content: mmap.mmap) -> int | None:
    """Where the last element ends; 0 without elements or with nothing but blanks; None for what is no JSON array."""
    first = _NO_BLANK.search(content)
    if first is None:
        return 0
    if first[0] != b"[":
        return None
    try:
        msgspec.json.decode(content, type=msgspec.Raw)  # checks the whole document, builds nothing
    except (msgspec.DecodeError, RecursionError):
        return None
    bracket = _blanks_start(content, len(content)) - 1
    end = _blanks_start(content, bracket)
    return 0 if end == first.end() else end


def _blanks_start(content: mmap.mmap, end: int) -> int:
    while content[end - 1] in _BLANKS:
        end -= 1
    return end
