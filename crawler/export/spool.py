"""Items of one page on their way to one output: in memory while they are few, on disk when they are many.

The file has no name from the moment it is made, so nothing of it stays, however the process ends. In it each record
stands behind its length; what is still in memory comes after what is in the file.
"""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
from typing import TYPE_CHECKING

from crawler.errors import OutputError
from crawler.export.pieces import in_pieces, write_all
from crawler.export.place import reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

__all__ = ["Spool"]

_MEMORY_BYTES = 256 * 1024
"""Few pages give so much, and a crawl has some dozens of spools at a time."""
_READ_BYTES = 256 * 1024
_LENGTH = struct.Struct("<Q")


class Spool:
    """Records in the order in which they were appended.

    `append` never waits. When `needs_spill` says so, call `spill` in a thread. Iterating, any number of times and in
    any thread, reads the file in pieces; nothing may be appended or spilled meanwhile. `folder` is where the file is
    made (None: the system's folder for temporary files), and only when it is needed.

    Raises `OutputError` where the file cannot be made, written or read; after one from `spill` records are missing.
    """

    __slots__ = ("_count", "_file", "_folder", "_memory", "_memory_bytes", "_size", "needs_spill")

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._size = 0
        self._memory: list[bytes] = []
        self._memory_bytes = 0
        self._count = 0
        self.needs_spill = False
        """What is in memory is enough to be written."""

    def append(self, record: bytes) -> None:
        self._memory.append(record)
        self._memory_bytes += len(record)
        self._count += 1
        if self._memory_bytes > _MEMORY_BYTES:
            self.needs_spill = True

    def spill(self) -> None:
        """Write what is in memory to the file. Blocks; records appended meanwhile wait for the next call."""
        records, self._memory = self._memory, []
        self._memory_bytes = 0
        self.needs_spill = False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - `close` closes it
            for piece in in_pieces(part for record in records for part in (_LENGTH.pack(len(record)), record)):
                write_all(self._file.fileno(), piece)
                self._size += len(piece)
        except OSError as error:
            raise OutputError(
                f"the items of a page cannot be kept in {self._folder or tempfile.gettempdir()}: {reason(error)}."
            ) from error

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain(self._spilled(), self._memory) if self._file is not None else iter(self._memory)

    def _spilled(self) -> Iterator[bytes]:
        held, start = b"", 0  # what was read, and where in it the next record begins
        place = 0  # how far the file was read
        while start < len(held) or place < self._size:
            body = start + _LENGTH.size
            end = body + _LENGTH.unpack_from(held, start)[0] if body <= len(held) else body
            if end <= len(held):
                yield held[body:end]
                start = end
            else:
                more = self._read(max(_READ_BYTES, end - len(held)), place)
                held, start = held[start:] + more, 0
                place += len(more)

    def _read(self, size: int, place: int) -> bytes:
        assert self._file is not None
        try:
            data = os.pread(self._file.fileno(), min(size, self._size - place), place)
        except OSError as error:
            raise OutputError(f"the items of a page cannot be read back: {reason(error)}.") from error
        if not data:
            raise OutputError("the items of a page cannot be read back: their file is shorter than what was written.")
        return data

    def close(self) -> None:
        """Let go of everything. Blocks where there is a file."""
        self._memory = []
        self._memory_bytes = self._size = self._count = 0
        self.needs_spill = False
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} records={self._count} on_disk={self._size}>"
