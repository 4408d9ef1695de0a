"""What every format shares: items wait in memory, go out in one write per epoch, and the place reached is a position.

A format says how one item looks (`encode`), what the file begins with (`_start`), what stands between items
(`_between`) and what a finished file ends with (`_end`). It keeps no state about the file: whether something stands
in it already is all that decides what comes next, and the position tells that. So a file can be cut back to any
position and continued.

`append` and the swap of the buffer in `flush` run on the loop; opening, writing and closing in a thread, one after
another. A cancelled `flush` leaves its write to finish in the thread, and whatever comes next waits for it.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import os
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import msgspec

from crawler.errors import OutputError
from crawler.export.file import Extent, OutputFile
from crawler.export.stdout import StandardOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Output", "OutputSnapshot", "Position"]


class Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What `flush` returns and `open` takes, as msgpack. Anything else is refused."""

    format: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    check: Annotated[int, msgspec.Meta(ge=0)]
    items: Annotated[int, msgspec.Meta(ge=0)]
    """How many this job has written up to here."""
    columns: tuple[str, ...] | None = None
    """CSV: the columns of the file, once it has any."""


_READ_POSITION = msgspec.msgpack.Decoder(Position)


class OutputSnapshot(NamedTuple):
    target: str
    items: int
    """Items this job has appended, those still in memory included."""
    bytes: int
    """Size of what is written."""


class Output(abc.ABC):
    """One output in one format, as `contracts.Exporter` describes it; `path` `"-"` is standard output.

    `overwrite` decides what becomes of a file that this job has not written to yet: emptied, or continued. `fsync`:
    every flush waits until the data is on the disk, which also survives a power failure; without it, data survives
    the death of the process. `target` (default: the path as given) is the name in messages and the key of the
    position.

    Raises `OutputError` wherever the file cannot be used; after one from `flush` nothing more is written.
    """

    format: ClassVar[str]
    _between: ClassVar[bytes] = b""

    def __init__(
        self, path: str | os.PathLike[str], overwrite: bool, *, fsync: bool = False, target: str | None = None
    ) -> None:
        self.path = os.fspath(path)
        self.target = self.path if target is None else target
        self._sink: OutputFile | StandardOutput = (
            StandardOutput() if self.path == "-" else OutputFile(self.path, overwrite=overwrite, fsync=fsync)
        )
        self._items = 0
        self._buffer: list[bytes] = []
        self._lead: bytes | None = None
        self._position: bytes | None = None
        self._work: asyncio.Future[None] | None = None

    # -- what a format is --------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def encode(self, item: Mapping[str, Any]) -> bytes:
        """One item as this format has it. Raises `TypeError` or `ValueError` for what the format cannot hold."""

    def _start(self) -> bytes:
        """What the first item of an empty file is preceded by."""
        return b""

    def _end(self, size: int) -> bytes:
        """What a finished file of this format still needs, with `size` bytes in it."""
        return b""

    def _columns(self) -> tuple[str, ...] | None:
        return None

    @abc.abstractmethod
    def _adopt(self, file: OutputFile, position: Position | None) -> bytes:
        """Look at what stands in a file that is continued: our own up to `position`, or what somebody else left.

        Returns what the next item is preceded by. Runs in a thread.
        """

    # -- the contract ------------------------------------------------------------------------------------------------

    async def open(self, position: bytes | None) -> None:
        """Ready to append.

        With a position (the last committed one of this job) the file is cut back to it; a file that is missing,
        shorter or changed before that place raises `OutputError`. With `None` the file is emptied or continued.
        Folders are created.

        What stands in a continued file stays until the first flush. Commit a position (`flush` gives one at once)
        before the first item, or a crash between the first write and its commit would leave that write behind.
        """
        known = None if position is None else self._read(position)
        await self._settled()
        self._buffer = []
        self._position = None
        self._items = 0 if known is None else known.items
        try:
            await self._off_loop(functools.partial(self._begin, known))
        except asyncio.CancelledError:
            if self._work is not None:
                self._work.add_done_callback(lambda _: self._sink.release())
            raise

    def append(self, encoded: bytes) -> None:
        """Keep one encoded item in memory for the next flush. Never waits; fine while a flush is under way."""
        lead = self._start() if self._lead is None else self._lead
        self._buffer.append(lead + encoded if lead else encoded)
        self._lead = self._between
        self._items += 1

    async def flush(self) -> bytes:
        """Hand everything appended to the operating system, in one write; the position after it.

        Never called twice at once. Cancelling does not stop the write, only the waiting for it.
        """
        await self._settled()
        if self._buffer:
            rows, self._buffer = self._buffer, []
            await self._off_loop(functools.partial(self._write, rows, self._items, self._columns()))
        if self._sink.failure is not None:  # of a write whose flush was cancelled
            raise OutputError(self._sink.failure)
        if self._position is None:
            raise OutputError(f"{self.target} is not open.")
        return self._position

    async def close(self) -> None:
        """Write what a finished file of this format needs at its end, and let go of the file.

        Items appended since the last flush are not written: they were never committed, so a continued job brings them
        again. After a failed flush, or twice, or unopened, it only lets go.
        """
        await self._settled()
        self._buffer = []
        self._position = None
        await self._off_loop(self._finish)

    def snapshot(self) -> OutputSnapshot:
        return OutputSnapshot(self.target, self._items, self._sink.size)

    def __repr__(self) -> str:
        target, items, size = self.snapshot()
        return f"<{type(self).__name__} {target!r} items={items} bytes={size}>"

    # -- in a thread -------------------------------------------------------------------------------------------------

    def _begin(self, position: Position | None) -> None:
        self._sink.open(None if position is None else Extent(position.size, position.check))
        try:
            self._lead = self._take_up(position)
        except BaseException:
            self._sink.release()
            raise
        self._mark(self._items, self._columns() if self._sink.size else None)

    def _take_up(self, position: Position | None) -> bytes | None:
        lead = self._between
        if isinstance(self._sink, OutputFile) and self._sink.size:
            lead = self._adopt(self._sink, position)
        return lead if self._sink.size else None

    def _write(self, rows: list[bytes], items: int, columns: tuple[str, ...] | None) -> None:
        self._sink.write(b"".join(rows))
        self._mark(items, columns)

    def _mark(self, items: int, columns: tuple[str, ...] | None) -> None:
        size, check = self._sink.extent
        self._position = msgspec.msgpack.encode(Position(self.format, size, check, items, columns))

    def _finish(self) -> None:
        self._sink.close(self._end(self._sink.size))

    # -- between loop and thread -------------------------------------------------------------------------------------

    async def _off_loop(self, work: Callable[[], None]) -> None:
        self._work = asyncio.get_running_loop().run_in_executor(None, work)
        self._work.add_done_callback(_look_at)
        try:
            await asyncio.shield(self._work)
        except asyncio.CancelledError:
            self._sink.abandon()
            raise

    async def _settled(self) -> None:
        """Wait for the work of a call that was cancelled."""
        if self._work is not None and not self._work.done():
            await asyncio.wait([self._work])

    def _read(self, position: bytes) -> Position:
        try:
            known = _READ_POSITION.decode(position)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise OutputError(
                f"{self.target}: the position kept for it cannot be read ({error}). Start again with --fresh."
            ) from None
        if known.format != self.format:
            raise OutputError(
                f"{self.target} was written as {known.format} by this job, and cannot be continued as {self.format}. "
                "Name the same format, or start again with --fresh."
            )
        return known


def _look_at(work: asyncio.Future[None]) -> None:
    """Of a cancelled call nobody else asks for the outcome; the sink remembers it."""
    if not work.cancelled():
        work.exception()
