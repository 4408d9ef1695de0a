"""JSON Lines (https://jsonlines.org, the same as NDJSON): one item, one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from crawler.export.byte_output import ByteOutput
from crawler.item import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crawler.export.file import OutputFile
    from crawler.export.position import Position

__all__ = ["JsonLinesExporter", "one_line"]

_ESCAPES = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""NEL, LINE SEPARATOR and PARAGRAPH SEPARATOR: no line ends to JSON, but to `str.splitlines` and to old JavaScript."""


def one_line(item: Mapping[str, Any]) -> bytes:
    """An item as JSON that no reader takes for more than one line, whatever it holds. Raises what `to_json` does."""
    encoded = to_json(item)
    if b"\n" in encoded or b"\r" in encoded:  # of a `msgspec.Raw`, and then between tokens: JSON has them nowhere else
        encoded = encoded.replace(b"\r", b" ").replace(b"\n", b" ")
    if not encoded.isascii():
        for separator, escaped in _ESCAPES:  # these can only stand in strings
            encoded = encoded.replace(separator, escaped)
    return encoded


class JsonLinesExporter(ByteOutput):
    """A file with one JSON object a line, in UTF-8. A last line without its end is completed before more follows."""

    format: ClassVar[str] = "jsonl"

    def encode(self, item: Mapping[str, Any]) -> bytes:
        return one_line(item) + b"\n"

    def _adopt(self, file: OutputFile, position: Position | None) -> bytes:
        return b"" if file.ends_with(b"\n") else b"\n"
