"""Standard output as a place to write to.

Nothing can be cut back there, so after a crash items may come twice (at least once, never lost), and a run that is
continued begins its format anew. Writing waits for whoever reads: a pager that stands still holds the crawl back, and
leaving the crawl does not wait for it.
"""

from __future__ import annotations

import io
import select
import sys
import threading
from typing import TYPE_CHECKING, TextIO

from crawler.errors import OutputError
from crawler.export.file import Extent
from crawler.export.pieces import write_all

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["StandardOutput"]

_LOOK_UP_MS = 200
"""How often a write that waits for the reader looks whether it is still wanted."""


class StandardOutput:
    """`sys.stdout` as it is when opened; a replacement without a descriptor (a notebook, a test) is written as text."""

    def __init__(self) -> None:
        self.size = 0
        self._stream: TextIO | None = None
        self.failure: str | None = None
        self._abandoned = threading.Event()

    @property
    def extent(self) -> Extent:
        return Extent(self.size, 0)

    def holds(self, committed: Extent) -> bool:
        """Nobody can tell, and nothing could be done about it."""
        return True

    def open(self, committed: Extent | None) -> None:
        self.size = 0
        self.failure = None
        self._abandoned.clear()
        self._stream = sys.stdout
        if self._stream is None or self._stream.closed:
            raise OutputError("standard output is closed.")

    def write(self, pieces: Iterable[bytes]) -> None:
        """All of the pieces, or an `OutputError` after which standard output is not used again."""
        self.look()
        if self._stream is None:
            raise OutputError("standard output is not open.")
        try:
            for piece in pieces:
                self._write(self._stream, piece)
                self.size += len(piece)
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            self.failure = f"standard output cannot be written: {getattr(error, 'strerror', None) or error}."
            raise OutputError(self.failure) from error
        except BaseException as error:
            self.failure = str(error) if isinstance(error, OutputError) else f"standard output: {error!r}."
            raise

    def look(self) -> None:
        """Whether it was usable last time; only writing would tell more."""
        if self.failure is not None:
            raise OutputError(self.failure)

    def sync(self) -> None:
        """Nothing to do: what a reader makes of it is not ours."""

    def _write(self, stream: TextIO, data: bytes) -> None:
        stream.flush()  # what was printed before stands before
        binary = getattr(stream, "buffer", None)
        if not isinstance(binary, io.BufferedWriter | io.FileIO):
            self._write_text(stream, binary, data)
            return
        # Past the buffer: after a broken pipe nothing is left in it for the interpreter to complain about at its end.
        fd = binary.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        rest = memoryview(data)
        while rest:
            while not poll.poll(_LOOK_UP_MS):
                if self._abandoned.is_set():
                    raise TimeoutError("its reader has stopped reading")
            write_all(fd, rest[: select.PIPE_BUF])  # a pipe that is ready takes this much without blocking
            rest = rest[select.PIPE_BUF :]

    @staticmethod
    def _write_text(stream: TextIO, binary: object, data: bytes) -> None:
        if isinstance(binary, io.IOBase):
            binary.write(data)
        else:
            stream.write(data.decode())
        stream.flush()

    def abandon(self) -> None:
        """The writer was cancelled: a write that waits for the reader gives up."""
        self._abandoned.set()

    def close(self, end: bytes) -> None:
        """Write the end of the format unless writing failed. The stream itself stays open: it is not ours."""
        try:
            if self._stream is not None and self.failure is None and end:
                self.write([end])
        finally:
            self.release()

    def release(self) -> None:
        self._stream = None
