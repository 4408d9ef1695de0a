"""What every output shares: items wait in memory, go out once per epoch, and the place reached is a position.

`append` and the swap of the buffer in `flush` run on the loop; opening, writing and closing in a thread, one after
another. A cancelled `flush` leaves its write to finish in the thread, and whatever comes next waits for it. Only `sync`
runs beside them: the disk may take its time while the next epoch is written.

An output that is a sequence of bytes adds what `byte_output.py` has; a database what `sqlite.py` has.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import itertools
import os
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

from crawler.errors import OutputError
from crawler.export.position import Position, decode_position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from crawler.contracts import Spool

__all__ = ["Batch", "Output", "OutputSnapshot", "Spooled", "records"]

_LOOK_SECONDS = 0.9
"""How long nothing is written before a flush looks after the file anyway. A little less than the second within which a
lost file is to be noticed, for flushes that come once a second."""


class OutputSnapshot(NamedTuple):
    target: str
    items: int
    """Items this job has appended, those still in memory included."""
    bytes: int
    """Size of what is written: of the file as it stands, compressed or not."""


class Spooled(NamedTuple):
    """The first `length` records of a spool, where they stand among the items of an epoch."""

    spool: Spool
    length: int
    first: bytes = b""
    """What the first of them is preceded by."""
    others: bytes = b""
    """What each of the others is preceded by."""


Batch: TypeAlias = "list[bytes | Spooled]"


class Sink(Protocol):
    """What an output writes to, as far as `Output` has to know it. All calls block."""

    @property
    def size(self) -> int: ...

    @property
    def failure(self) -> str | None:
        """Why it is not used any more."""
        ...

    def look(self) -> None:
        """Raises `OutputError` where it was lost or changed by somebody else."""
        ...

    def sync(self) -> None: ...

    def abandon(self) -> None:
        """Nobody waits any longer for what is being written."""
        ...

    def release(self) -> None: ...


class Output(abc.ABC):
    """One output in one format, as `contracts.Exporter` describes it.

    `path` `"-"` is standard output; the attribute is the absolute path, or None for standard output. `target` (default:
    the path as given) is the name in messages.

    Raises `OutputError` wherever the output cannot be used; after one from `flush` nothing more is written.
    """

    format: ClassVar[str]
    """As positions name it."""
    path: str | None
    target: str

    def __init__(self, path: str | os.PathLike[str], target: str | None, sink: Sink) -> None:
        given = os.fspath(path)
        self.path = None if given == "-" else os.path.abspath(given)
        self.target = given if target is None else target
        self._sink = sink
        self._items = 0
        self._buffer: Batch = []
        self._position: bytes | None = None
        self._work: asyncio.Future[None] | None = None
        self._syncing: asyncio.Future[None] | None = None
        self._looked = 0.0

    # -- what a kind of output is ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def encode(self, item: Mapping[str, Any]) -> bytes:
        """One item as this format has it. Raises `TypeError` or `ValueError` for what the format cannot hold."""

    @abc.abstractmethod
    def _begin(self, position: Position | None) -> Position:
        """Open; the position at which it stands. In a thread, as all that follow."""

    @abc.abstractmethod
    def _writing(self, batch: Batch, items: int) -> Callable[[], Position]:
        """Called on the loop: what writes the batch, after which this job has written `items`."""

    @abc.abstractmethod
    def _finish(self) -> None:
        """Close."""

    @abc.abstractmethod
    def _still_holds(self, position: Position) -> bool: ...

    # -- the contract ------------------------------------------------------------------------------------------------

    async def holds(self, position: bytes) -> bool:
        """Before `open`: whether the output still is, up to this committed position, what was written.

        It exists, is long enough, and its end before the position is the one that was written; what stands behind the
        position does not count, and nothing is changed. Where nobody can tell (a pipe, a file that may not be read) it
        is True, and `open` says what is the matter. Raises `OutputError` for a position that cannot be read.
        """
        known = decode_position(position, self.target, self.format)
        await _ended(self._work)
        return await asyncio.get_running_loop().run_in_executor(None, self._still_holds, known)

    async def open(self, position: bytes | None) -> None:
        """Ready to append.

        With a position (a committed one of this job) the output is cut back to it; one that is missing, shorter or
        changed before that place raises `OutputError`. With `None` it is emptied (`overwrite`) or continued. Folders
        are created.

        What stands in a continued file stays until the first flush. Commit a position (`flush` gives one at once)
        before the first item, or a crash between the first write and its commit would leave that write behind.
        """
        known = None if position is None else decode_position(position, self.target, self.format)
        await _ended(self._work, self._syncing)
        dropped, self._buffer = self._buffer, []
        self._position = None
        self._items = 0 if known is None else known.items
        try:
            await self._off_loop(functools.partial(self._open, known, dropped))
        except asyncio.CancelledError:
            if self._work is not None:
                self._work.add_done_callback(lambda _: self._sink.release())
            raise

    def append(self, encoded: bytes) -> None:
        """Keep one encoded item in memory for the next flush. Never waits; fine while a flush is under way."""
        self._buffer.append(encoded)
        self._items += 1

    def append_spool(self, spool: Spool, limit: int | None = None) -> None:
        """The same for every record of a spool, at most `limit` of them, without loading it: `flush` reads it in
        pieces, and closes it. From now on the spool belongs to this output."""
        self._add_spool(Spooled(spool, len(spool) if limit is None else min(len(spool), limit)))

    def _add_spool(self, spooled: Spooled) -> None:
        self._buffer.append(spooled)
        self._items += spooled.length

    async def flush(self) -> bytes:
        """Hand everything appended to the operating system, all or nothing; the position after it.

        With nothing to write it looks, at most once a second, whether the file is still there and as it was left.
        Never called twice at once. Cancelling does not stop the write, only the waiting for it.
        """
        await _ended(self._work)
        if self._buffer:
            batch, self._buffer = self._buffer, []
            await self._off_loop(functools.partial(self._write, batch, self._writing(batch, self._items)))
        elif self._position is not None and asyncio.get_running_loop().time() - self._looked >= _LOOK_SECONDS:
            await self._off_loop(self._sink.look)
        if self._sink.failure is not None:  # of a write whose flush was cancelled, or of a sync
            raise OutputError(self._sink.failure)
        if self._position is None:
            raise OutputError(f"{self.target} is not open.")
        return self._position

    async def sync(self) -> None:
        """What was flushed survives a power failure. Items may be appended and flushed meanwhile. Nothing to do for
        pipes and standard output. Cancelling does not stop it, only the waiting for it."""
        await _ended(self._syncing)
        self._syncing = asyncio.get_running_loop().run_in_executor(None, self._sink.sync)
        self._syncing.add_done_callback(_look_at)
        await asyncio.shield(self._syncing)

    async def close(self) -> None:
        """Write what a finished file of this format needs at its end, and let go of the file.

        Items appended since the last flush are not written: they were never committed, so a continued job brings them
        again. After a failed flush, or twice, or unopened, it only lets go.
        """
        await _ended(self._work, self._syncing)
        dropped, self._buffer = self._buffer, []
        self._position = None
        await self._off_loop(functools.partial(self._close, dropped))

    def snapshot(self) -> OutputSnapshot:
        return OutputSnapshot(self.target, self._items, self._sink.size)

    def __repr__(self) -> str:
        target, items, size = self.snapshot()
        return f"<{type(self).__name__} {target!r} items={items} bytes={size}>"

    # -- in a thread -------------------------------------------------------------------------------------------------

    def _open(self, position: Position | None, dropped: Batch) -> None:
        _close_spools(dropped)
        self._position = self._begin(position).encode()

    def _write(self, batch: Batch, write: Callable[[], Position]) -> None:
        try:
            self._position = write().encode()
        finally:
            _close_spools(batch)

    def _close(self, dropped: Batch) -> None:
        _close_spools(dropped)
        self._finish()

    # -- between loop and thread -------------------------------------------------------------------------------------

    async def _off_loop(self, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._work = loop.run_in_executor(None, work)
        self._work.add_done_callback(_look_at)
        try:
            await asyncio.shield(self._work)
        except asyncio.CancelledError:
            self._sink.abandon()
            raise
        self._looked = loop.time()


def records(batch: Batch) -> Iterator[bytes]:
    """What was appended, in order. Raises the `OutputError` of a spool that cannot be read."""
    for entry in batch:
        if isinstance(entry, bytes):
            yield entry
            continue
        before = entry.first
        for record in itertools.islice(entry.spool, entry.length):
            yield before + record if before else record
            before = entry.others


def _close_spools(batch: Batch) -> None:
    for entry in batch:
        if isinstance(entry, Spooled):
            entry.spool.close()


async def _ended(*works: asyncio.Future[None] | None) -> None:
    """Wait for the work of calls that were cancelled."""
    under_way = [work for work in works if work is not None and not work.done()]
    if under_way:
        await asyncio.wait(under_way)


def _look_at(work: asyncio.Future[None]) -> None:
    """Of a cancelled call nobody else asks for the outcome; the sink remembers it."""
    if not work.cancelled():
        work.exception()
