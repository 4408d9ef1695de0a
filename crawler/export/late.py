"""JSON lines that come seldom: there is no file until there is a line.

What is kept is the same as for every output: a position for each epoch, to which the file is cut back. Position 0 is
that of a file which is not there; one that is found there all the same was written in an epoch that never ended.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from crawler.export.file import Extent, OutputFile
from crawler.export.lines import JsonLinesExporter

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LateLinesExporter"]


class LateLinesExporter(JsonLinesExporter):
    """`path` is a file of the job's own, which nobody else writes. One that an earlier crawl left is continued."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, overwrite=False)
        self._sink = _LateFile(os.fspath(path), overwrite=False)


class _LateFile(OutputFile):
    _is_late = False

    def open(self, committed: Extent | None) -> None:
        if committed is not None and not committed.size:
            with self._errors("cannot be removed"), contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        self._is_late = not os.path.exists(self.path) and not (committed is not None and committed.size)
        if self._is_late:
            self.failure = None
            self.size, self._tail = 0, b""
        else:
            super().open(committed)

    def write(self, pieces: Iterable[bytes]) -> None:
        if self._is_late:
            super().open(Extent(0, 0))
            os.chmod(self.path, 0o600)  # as the job's other files
            self._is_late = False
        super().write(pieces)

    def look(self) -> None:
        if not self._is_late:
            super().look()

    def sync(self) -> None:
        if not self._is_late:
            super().sync()
