"""Outputs read back, up to a committed position: what `crawler jobs export` gives of a job, finished or running.

What stands behind the position is not looked at, so a crawl may be writing meanwhile. Items that stood in the file
before the job wrote to it come as well.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import msgspec

from crawler.errors import OutputError
from crawler.export.compressed import gzip_pieces, zstd_pieces
from crawler.export.csv_rows import unguarded
from crawler.export.file import Extent, OutputFile
from crawler.export.place import reason
from crawler.export.position import Position, decode_position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _typeshed import WriteableBuffer

__all__ = ["committed_part", "csv_cells", "read_items"]

Item: TypeAlias = "dict[str, Any]"

_READ_BYTES = 64 * 1024
_MAX_CELL = 2**31 - 1
_ROWS_AT_ONCE = 500
"""After each the database is let go, so that the crawl can write."""


def read_items(path: Path, format: str, position: bytes) -> Iterator[Item]:
    """The items of an output up to a position of it, in order, a few in memory at a time.

    `format` is an exporter's `format`: `"jsonl"`, `"jsonl.gz"`, `"jsonl.zst"`, `"json"`, `"csv"` or `"sqlite"`. Values
    are those of the format: of CSV all text, with the apostrophe taken away that keeps it from being run as a formula;
    of SQLite 1 for True, JSON as text, and every column of the table, None where the item had no such field.

    Raises `OutputError`, at the latest when the item that is to blame comes: for a position that cannot be read or is
    of another format, a file that is missing, shorter or damaged, and what is no item.
    """
    known = decode_position(position, str(path), format)
    if known.rows is not None:
        return _rows(path, known)
    return _from_bytes(path, known)


def _from_bytes(path: Path, position: Position) -> Iterator[Item]:
    number = 0
    try:
        with committed_part(path, position) as part:
            items = _READERS[position.format](part) if position.is_guarded else _csv_rows(part, is_guarded=False)
            if position.size:
                for number, item in enumerate(items, 1):  # noqa: B007 - for the message
                    yield item
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {reason(error)}.") from error
    except (ValueError, msgspec.MsgspecError, csv.Error, RecursionError) as error:
        raise OutputError(f"{path} is damaged, or no {position.format} file, after item {number}: {error}.") from error


@contextlib.contextmanager
def committed_part(path: Path, position: Position) -> Iterator[BinaryIO]:
    """The bytes of a file up to a position of it; a file that becomes shorter meanwhile is a `ValueError` where it
    ends. Raises `OutputError` for one that is missing, shorter or changed, `OSError` for one that cannot be read."""
    if not position.size:
        yield io.BytesIO()
        return
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no regular file, so nothing can be read back from it.")
    if not OutputFile(str(path), overwrite=False).holds(Extent(position.size, position.check)):
        raise OutputError(f"{path} is not what the job wrote: it is missing, shorter, or was changed.")
    with open(path, "rb", buffering=0) as file, io.BufferedReader(_Part(file, position.size)) as part:
        yield part


class _Part(io.RawIOBase):
    """The first `size` bytes of a file. A file that has fewer is an error where it ends."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        room = memoryview(buffer).cast("B")[: self._left]
        count = self._file.readinto(room) or 0
        if room and not count:
            raise ValueError(f"{self._left} bytes are missing at its end")
        self._left -= count
        return count


# -- JSON lines --------------------------------------------------------------------------------------------------------

_ITEM = msgspec.json.Decoder(dict[str, Any])


def _json_lines(part: BinaryIO) -> Iterator[Item]:
    return _items_of_lines(iter(lambda: part.read(_READ_BYTES), b""))


def _items_of_lines(pieces: Iterator[bytes]) -> Iterator[Item]:
    begun: list[bytes] = []
    for piece in pieces:
        lines = piece.split(b"\n")
        if len(lines) > 1:
            lines[0] = b"".join((*begun, lines[0]))
            begun = []
        begun.append(lines.pop())
        yield from (_ITEM.decode(line) for line in lines if line.strip())
    last = b"".join(begun)
    if last.strip():
        yield _ITEM.decode(last)


# -- one JSON array ----------------------------------------------------------------------------------------------------


def _json_array(part: BinaryIO) -> Iterator[Item]:
    """The closing bracket is behind the position, if it was written at all."""
    decoder = json.JSONDecoder()
    text = io.TextIOWrapper(part, encoding="utf-8", newline="")
    held = text.read(_READ_BYTES).lstrip()
    if held[:1] != "[":
        raise ValueError("it does not begin with [")
    start = 1
    size = _READ_BYTES
    while True:
        start = _next_element(held, start)
        try:
            item, start = decoder.raw_decode(held, start)
        except ValueError:  # the rest of it is not read yet
            more = text.read(size)
            if not more:
                if start < len(held):
                    raise
                return
            held, start = held[start:] + more, 0
            size = max(_READ_BYTES, len(held))  # an element is tried again after as much as it was tried with
            continue
        if not isinstance(item, dict):
            raise ValueError("an element is no object")
        yield item


def _next_element(text: str, start: int) -> int:
    while text[start : start + 1] in {" ", "\t", "\r", "\n", ","}:
        start += 1
    return start


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _csv_rows(part: BinaryIO, is_guarded: bool = True) -> Iterator[Item]:
    rows = csv_cells(part)
    plain = unguarded if is_guarded else str
    names = [plain(cell) for cell in next(rows, [])]
    for row in rows:
        yield dict(zip(names, map(plain, row), strict=True))


def csv_cells(part: BinaryIO) -> Iterator[list[str]]:
    """The rows of a CSV file, the header first, as they stand there."""
    # Python's limit is 128 KiB a cell, and its only place is the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL))
    text = io.TextIOWrapper(part, encoding="utf-8-sig", newline="")
    return filter(None, csv.reader(text, strict=True))


_READERS: dict[str, Callable[[BinaryIO], Iterator[Item]]] = {
    "jsonl": _json_lines,
    "jsonl.gz": lambda part: _items_of_lines(gzip_pieces(part)),
    "jsonl.zst": lambda part: _items_of_lines(zstd_pieces(part)),
    "json": _json_array,
    "csv": _csv_rows,
}


# -- SQLite ------------------------------------------------------------------------------------------------------------


def _rows(path: Path, position: Position) -> Iterator[Item]:
    from crawler.export.database import complaint, errors, opened
    from crawler.export.table import MORE

    assert position.rows is not None
    if not position.rows.count:
        return
    last = -(2**63)
    with errors(str(path), "cannot be read"), contextlib.closing(opened(str(path))) as connection:
        what = complaint(connection, position.rows, position.check, path.stat().st_size)
        if what is not None:
            raise OutputError(f"{path}: {what}")
        while True:
            found = connection.execute(
                "SELECT * FROM items WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?",
                (last, position.rows.last, _ROWS_AT_ONCE),
            )
            names = [column[0] for column in found.description]
            rows = found.fetchall()
            for row in rows:
                fields = dict(zip(names[1:], row[1:], strict=True))
                more = fields.pop(MORE, None)
                yield fields if more is None else {**fields, **json.loads(more)}
            if len(rows) < _ROWS_AT_ONCE:
                return
            last = rows[-1][0]
