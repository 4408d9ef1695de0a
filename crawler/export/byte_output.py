"""Outputs that are a sequence of bytes: a file, a pipe, standard output.

A format says how one item looks (`encode`), what the file begins with (`_start`), what stands between items
(`_between`), what a finished file ends with (`_end`), and how bytes are coded on their way out (`_coded`). It keeps no
state about the file: whether something stands in it already is all that decides what comes next, and the position tells
that. So a file can be cut back to any position and continued.
"""

from __future__ import annotations

import abc
import functools
import os
from typing import TYPE_CHECKING, ClassVar

from crawler.export.file import Extent, OutputFile
from crawler.export.output import Output, Spooled, records
from crawler.export.pieces import in_pieces
from crawler.export.position import Position
from crawler.export.stdout import StandardOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crawler.contracts import Spool
    from crawler.export.output import Batch

__all__ = ["ByteOutput"]


class ByteOutput(Output):
    """`path` `"-"` is standard output. `overwrite` decides what becomes of a file that this job has not written to
    yet: emptied, or continued."""

    _sink: OutputFile | StandardOutput
    _between: ClassVar[bytes] = b""

    def __init__(self, path: str | os.PathLike[str], overwrite: bool, *, target: str | None = None) -> None:
        name = os.fspath(path)
        super().__init__(path, target, StandardOutput() if name == "-" else OutputFile(name, overwrite=overwrite))
        self._lead: bytes | None = None
        """What the next item is preceded by; None: the file is empty."""

    # -- what a format is --------------------------------------------------------------------------------------------

    def _start(self) -> bytes:
        """What the first item of an empty file is preceded by."""
        return b""

    def _end(self, size: int) -> bytes:
        """What a finished file of this format still needs, with `size` bytes in it."""
        return b""

    def _columns(self) -> tuple[str, ...] | None:
        return None

    def _coded(self, pieces: Iterable[bytes]) -> Iterable[bytes]:
        """What is written for the items of one epoch; nothing for nothing."""
        return pieces

    @abc.abstractmethod
    def _adopt(self, file: OutputFile, position: Position | None) -> bytes:
        """Look at what stands in a file that is continued: our own up to `position`, or what somebody else left.

        Returns what the next item is preceded by. Runs in a thread.
        """

    # -- items -------------------------------------------------------------------------------------------------------

    def append(self, encoded: bytes) -> None:
        lead = self._start() if self._lead is None else self._lead
        self._lead = self._between
        super().append(lead + encoded if lead else encoded)

    def append_spool(self, spool: Spool, limit: int | None = None) -> None:
        count = len(spool) if limit is None else min(len(spool), limit)
        lead = b""
        if count:
            lead = self._start() if self._lead is None else self._lead
            self._lead = self._between
        self._add_spool(Spooled(spool, count, lead, self._between))

    # -- in a thread -------------------------------------------------------------------------------------------------

    def _begin(self, position: Position | None) -> Position:
        self._sink.open(None if position is None else Extent(position.size, position.check))
        try:
            self._lead = self._take_up(position)
        except BaseException:
            self._sink.release()
            raise
        return self._reached(self._items, self._columns() if self._sink.size else None)

    def _take_up(self, position: Position | None) -> bytes | None:
        lead = self._between
        if isinstance(self._sink, OutputFile) and self._sink.size:
            lead = self._adopt(self._sink, position)
        return lead if self._sink.size else None

    def _writing(self, batch: Batch, items: int) -> Callable[[], Position]:
        return functools.partial(self._put, batch, items, self._columns())

    def _put(self, batch: Batch, items: int, columns: tuple[str, ...] | None) -> Position:
        self._sink.write(self._coded(in_pieces(records(batch))))
        return self._reached(items, columns)

    def _reached(self, items: int, columns: tuple[str, ...] | None) -> Position:
        size, check = self._sink.extent
        return Position(self.format, size, check, items, columns if size else None)

    def _finish(self) -> None:
        self._sink.close(self._end(self._sink.size))

    def _still_holds(self, position: Position) -> bool:
        return self._sink.holds(Extent(position.size, position.check))
