"""CSV as RFC 4180 has it: a header, comma, CRLF, quotes where needed; UTF-8 without a byte order mark.

Cells are text that somebody will open in a spreadsheet, and a page decides what stands in them. A text that begins with
`=`, `+`, `-`, `@`, a tab or a carriage return would be run as a formula there (OWASP, "CSV Injection"), so it gets an
apostrophe in front, which spreadsheets take as "this is text". Numbers do not: a crawler's own float may be negative.
A text that has such an apostrophe already gets another, so that taking one away gives every text back.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from crawler.errors import OutputError
from crawler.export.byte_output import ByteOutput
from crawler.item import scalar_text, to_json

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

    from crawler.export.file import OutputFile
    from crawler.export.position import Position

__all__ = ["CsvExporter", "unguarded"]

_log = logging.getLogger(__name__)

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_GUARDED = ("'", *_FORMULA_STARTS)
_CRLF = "\r\n"
_NAMED_AT_MOST = 100
"""Left-out fields named in the log; names can come from a page, so there may be no end of them."""


class CsvExporter(ByteOutput):
    """A file with one row an item, under a header that all rows share.

    Columns: `fields` where given, else those of the file that is continued, else the fields of the first item
    encoded. A later item's missing fields are empty cells; fields without a column are left out, which the log says
    once for each. An item that has fields but none with a column raises `ValueError`.

    Cells: text as it is, `None` and numbers that are not finite empty, `True`/`False`, numbers plain; dates, UUIDs,
    enums, bytes and paths as in JSON, without the quotes; lists, mappings and nested items as JSON.
    `guard_formulas=False` leaves the apostrophe away.

    A continued file keeps its own header and line end, and the apostrophes or their lack. With `fields` other than its
    header has, it is refused.
    """

    format: ClassVar[str] = "csv"

    def __init__(
        self,
        path: str | os.PathLike[str],
        overwrite: bool,
        *,
        fields: Sequence[str] | None = None,
        guard_formulas: bool = True,
        target: str | None = None,
    ) -> None:
        super().__init__(path, overwrite, target=target)
        if fields is not None and (not fields or isinstance(fields, str)):
            raise ValueError("fields: expected at least one column name, in a list")
        self._fixed = None if fields is None else tuple(fields)
        self._guard = guard_formulas
        self._line_end = _CRLF
        self._left_out: set[str] = set()
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator=_CRLF)
        self._use(self._fixed)

    def encode(self, item: Mapping[str, Any]) -> bytes:
        """The row of one item. Of a file without header, the first call decides the columns: call it after `open`.

        Raises `TypeError` for a value that neither CSV nor JSON can hold, `ValueError` for an item that shares no
        field with the columns or, where it would decide them, has none.
        """
        columns = self._names
        if columns is None:
            item = _named(item)
            if not item:
                raise ValueError("an item without fields cannot be the first row of a CSV file")
            columns = tuple(item)
        elif not item.keys() <= self._known:
            item = _named(item)
            self._notice(item)
        row = self._row([self._cell(name, item.get(name)) for name in columns])
        if self._names is None:  # only now: an item that cannot be written decides nothing
            self._use(columns)
        return row

    def _use(self, columns: tuple[str, ...] | None) -> None:
        self._names = columns
        self._known = frozenset(columns or ())

    def _notice(self, fields: Mapping[str, Any]) -> None:
        if self._known.isdisjoint(fields):
            raise ValueError(f"none of the fields {_listed(fields)} is a column of {self.target}")
        fresh = [name for name in fields if name not in self._known and name not in self._left_out]
        fresh = fresh[: _NAMED_AT_MOST - len(self._left_out)]
        if not fresh:
            return
        self._left_out.update(fresh)
        _log.warning(
            "%s: left out because the file has no such columns: %s (columns come from the file or the first item%s)",
            self.target,
            _listed(fresh),
            "; no more fields will be named" if len(self._left_out) >= _NAMED_AT_MOST else "",
        )

    # -- cells and rows ----------------------------------------------------------------------------------------------

    def _cell(self, name: str, value: Any) -> str:
        if type(value) is str:
            return self._guarded(value)
        if value is None:
            return ""
        if isinstance(value, bool) or type(value) is int:
            return str(value)
        if type(value) is float:
            return str(value) if math.isfinite(value) else ""
        if type(value) is Decimal:
            return str(value) if value.is_finite() else ""
        try:
            encoded = to_json(value)
        except TypeError as error:
            raise TypeError(f"field {name!r}: {error}") from None
        if encoded == b"null":
            return ""
        if encoded[:1] == b'"':
            return self._guarded(msgspec.json.decode(encoded, type=str))
        return encoded.decode()

    def _guarded(self, text: str) -> str:
        if not (self._guard and text.startswith(_GUARDED)):
            return text
        return f"'{text}" if text.lstrip("'").startswith(_FORMULA_STARTS) else text

    def _row(self, cells: Sequence[str]) -> bytes:
        self._text.seek(0)
        self._text.truncate()
        # Written with CRLF whatever the file has: the writer quotes the characters of its own line end only.
        self._writer.writerow(cells)
        line = self._text.getvalue().removesuffix(_CRLF) + self._line_end
        try:
            return line.encode()
        except UnicodeEncodeError:
            return scalar_text(line).encode()

    # -- the file ----------------------------------------------------------------------------------------------------

    def _start(self) -> bytes:
        return self._row([self._guarded(name) for name in self._names or ()])

    def _columns(self) -> tuple[str, ...] | None:
        return self._names

    def _begin(self, position: Position | None) -> Position:
        self._line_end = _CRLF
        self._use(self._fixed)
        return super()._begin(position)

    def _reached(self, items: int, columns: tuple[str, ...] | None) -> Position:
        return msgspec.structs.replace(super()._reached(items, columns), is_guarded=self._guard)

    def _adopt(self, file: OutputFile, position: Position | None) -> bytes:
        header, self._line_end = _header(file)
        if position is not None:
            self._guard = position.is_guarded
        if position is None:
            names = tuple(unguarded(cell) if self._guard else cell for cell in header)
        else:
            names = position.columns or ()
            if header != _without_mark([self._guarded(name) for name in names]):
                raise OutputError(
                    f"{file.path} was changed: its header is not the one this job wrote. "
                    "Restore it, or start again with --fresh."
                )
        if self._fixed is not None and sorted(self._fixed) != sorted(names):
            raise OutputError(
                f"{file.path} has the columns {_listed(names)}, not {_listed(self._fixed)} as asked. "
                "Write to another file, or overwrite it (-O)."
            )
        self._use(names)
        return b"" if file.ends_with(b"\n") else self._line_end.encode()


def unguarded(cell: str) -> str:
    """Without the apostrophe that keeps a text from being run as a formula."""
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(_FORMULA_STARTS) else cell


def _named(item: Mapping[Any, Any]) -> Mapping[str, Any]:
    """The item under names that a header can hold: text with a UTF-8 form."""
    return {scalar_text(name if isinstance(name, str) else str(name)): value for name, value in item.items()}


def _header(file: OutputFile) -> tuple[tuple[str, ...], str]:
    """The cells of the first row, and the line end of the file."""
    with file.reader() as stream, io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
        try:
            cells = next(csv.reader(text, strict=True), [])
        except csv.Error as error:
            raise OutputError(f"{file.path} does not begin with a CSV header ({error}).") from None
        line_end = "\n" if text.newlines == "\n" else _CRLF
    if not cells:
        raise OutputError(f"{file.path} does not begin with a CSV header: its first line is empty.")
    return _without_mark(cells), line_end


def _without_mark(cells: Sequence[str]) -> tuple[str, ...]:
    """Spreadsheets put a byte order mark before the first cell."""
    return tuple(cell if index else cell.removeprefix("\ufeff") for index, cell in enumerate(cells))


def _listed(names: Collection[object]) -> str:
    """The names as a message may show them, however many there are and whatever is in them."""
    shown = [repr(name)[:80] for name in itertools.islice(names, 20)]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
