"""One table of a PostgreSQL database: opened, cut back, written and looked after. Everything here blocks; `output.py`
calls it from a thread, one call at a time.

The driver is asynchronous, and this room's work is not for the crawl's loop: rows are decoded and converted here. So
each table has a loop of its own, which runs while a call does.

What can go wrong, and what is done about it:

- The process dies between the commit here and that of the epoch. Rows and `crawler_positions.number` are written by one
  transaction, so the number tells how far the rows go; the next `open` deletes those behind the committed position.
- The connection breaks, the server restarts or fails over. Whether a commit took place that nobody heard of is seen by
  the number, so a transaction may be repeated without writing a row twice.
- The database is another, was emptied, or put back to an older state. The writer's number is random, and not found, or
  its `number` is behind the committed position: both are refused.
- The process is frozen, declared dead, and wakes up. Whoever opened the same position, or discarded what was behind it,
  has raised `fence`; a flush that finds another fence than its own writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from crawler import crash
from crawler.errors import OutputError
from crawler.export.address import POSITIONS
from crawler.export.layout import MORE, NUMBER, WRITER, Layout, lock_alone, lock_together
from crawler.export.pieces import PIECE_BYTES
from crawler.export.server import connect, errors, not_now, persistently

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    import asyncpg

    from crawler.export.address import Address
    from crawler.export.column_types import Cell, ColumnType
    from crawler.export.position import Position
    from crawler.export.writer import Writer

__all__ = ["Relation"]

logger = logging.getLogger("crawler.postgresql")

T = TypeVar("T")
Row = tuple[dict[str, "Cell"], int]

_OPEN_PATIENCE_SECONDS = 10.0
_WRITE_PATIENCE_SECONDS = 30.0
"""How long a server that cannot be reached is asked again."""
_LOCK_PATIENCE_SECONDS = 5
"""How long columns wait to be changed while another program reads the table; meanwhile nobody writes to it."""
_WIDENS_AGAIN_SECONDS = 60.0
"""After they could not."""
_ABANDONED_SECONDS = 2.0
_ROWS_AT_ONCE = 1000
_MOST_WIDENINGS = 8
"""Of one flush: other workers may widen at the same time. What has no column after that stands in `_more`."""
_DURABLE: Final = """
    set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true)
"""
"""Where the server is set not to wait for its disk, this transaction does all the same."""
_SETUP: Final = "the tables of a crawl"
_REPLACED: Final = (
    "another process has taken the place of this one, which writes no more. If that was not meant, see to it that each "
    "worker has a job or a name of its own."
)

_CHANGED: Final = (
    f"somebody changed the table {POSITIONS} while the crawl wrote. When the cause is gone, the same command continues."
)


class Relation:
    """`size` is what this writer has sent, for people to read; `writer` its number, 0 before `open`."""

    def __init__(self, address: Address, who: Writer, *, overwrite: bool) -> None:
        self.size = 0
        self.writer = 0
        self.failure: str | None = None
        """Why it is not used any more."""
        self._address = address
        self._who = who
        self._overwrite = overwrite
        self._fence = 0
        self._number = 0
        self._layout: Layout | None = None
        self._connection: asyncpg.Connection[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadline: asyncio.Timeout | None = None
        self._widens_again = 0.0

    # -- opening -----------------------------------------------------------------------------------------------------

    def holds(self, committed: Position) -> bool:
        """Whether the database has all that was committed by this writer. Where nobody can tell: True, and `open` says
        why."""
        try:
            with self._errors("cannot be read"):
                return self._run(functools.partial(self._holds, committed), _OPEN_PATIENCE_SECONDS)
        except OutputError:
            return True
        finally:
            self.release()

    async def _holds(self, committed: Position) -> bool:
        connection = await self._connected()
        address = self._address
        for table in (address.name, address.positions):
            if not await _exists(connection, table):
                return not committed.items
        found = await connection.fetchval(
            f"SELECT number FROM {address.positions} WHERE writer = $1", committed.writer  # noqa: S608 - names are quoted
        )  # fmt: skip
        return found is not None and found >= committed.items

    def open(self, committed: Position | None) -> None:
        self.failure = None
        self.size = 0 if committed is None else committed.size
        try:
            with self._errors("cannot be opened"):
                self._run(functools.partial(self._open, committed), _OPEN_PATIENCE_SECONDS)
        except BaseException:
            self.release()
            raise

    async def _open(self, committed: Position | None) -> None:
        connection = await self._connected()
        async with connection.transaction():
            await lock_alone(connection, _SETUP)
            await lock_alone(connection, self._address.table)
            was_there = await self._create(connection)
            self._layout = await Layout.read(connection, self._address.name)
            if not self._layout.is_ours:
                raise OutputError(
                    f"{self._address.shown}: the table is not one that a crawl has made. Name another (?table=NAME)."
                )
            if committed is None:
                await self._begin(connection)
            else:
                await self._continue(connection, committed, was_there)

    async def _create(self, connection: asyncpg.Connection[Any]) -> bool:
        """Both tables; whether that of the items was there."""
        if not await _exists(connection, self._address.positions):  # IF NOT EXISTS would want the right to create it
            await connection.execute(_CREATE_POSITIONS.format(self._address.positions))
        if await _exists(connection, self._address.name):
            return True
        await connection.execute(_CREATE.format(self._address.name))
        return False

    async def _begin(self, connection: asyncpg.Connection[Any]) -> None:
        address = self._address
        relation = await self._relation(connection)
        crawl = self._who.crawl or secrets.token_hex(8)
        if self._overwrite:
            before = await connection.fetch(
                f"DELETE FROM {address.positions} WHERE relation = $1 AND job = $2 AND crawl <> $3 RETURNING writer",  # noqa: S608
                relation, self._who.job, crawl,
            )  # fmt: skip
            if before:
                await connection.execute(
                    f"DELETE FROM {address.name} WHERE {WRITER} = ANY($1::bigint[])",  # noqa: S608
                    [writer for (writer,) in before],
                    timeout=None,
                )
        writer = secrets.randbits(62) + 1
        await connection.execute(
            f"INSERT INTO {address.positions} (writer, relation, job, crawl, worker, number, fence) "  # noqa: S608
            "VALUES ($1, $2, $3, $4, $5, 0, 1)",
            writer, relation, self._who.job, crawl, self._who.worker,
        )  # fmt: skip
        self.writer, self._fence, self._number = writer, 1, 0

    async def _continue(self, connection: asyncpg.Connection[Any], committed: Position, was_there: bool) -> None:
        cut = await self._cut_back(connection, committed)
        if cut is None or not (was_there or not committed.items):
            raise OutputError(
                f"{self._address.shown} does not have what this job wrote to it: it is another database or table, was "
                "emptied, or was put back to an older state. Restore it, or start again with --fresh."
            )
        assert committed.writer is not None
        self.writer, self._fence, self._number = committed.writer, cut.fence, committed.items

    async def _cut_back(self, connection: asyncpg.Connection[Any], committed: Position) -> _Cut | None:
        """Delete the rows behind a position; None where the database does not have as much. Waits for a flush that is
        under way, and keeps its writer from another."""
        address = self._address
        fence: int | None = await connection.fetchval(
            f"UPDATE {address.positions} SET fence = fence + 1, number = $2, changed = now() "  # noqa: S608 - names are quoted
            "WHERE writer = $1 AND number >= $2 AND relation = $3 RETURNING fence",
            committed.writer, committed.items, await self._relation(connection),
        )  # fmt: skip
        if fence is None:
            return None
        done = await connection.execute(
            f"DELETE FROM {address.name} WHERE {WRITER} = $1 AND {NUMBER} > $2",  # noqa: S608 - names are quoted
            committed.writer,
            committed.items,
        )
        return _Cut(fence, int(done.rpartition(" ")[2]))

    async def _relation(self, connection: asyncpg.Connection[Any]) -> str:
        """The table with its schema, whichever way it was named."""
        name: str = await connection.fetchval(
            "SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE pg_class.oid = to_regclass($1::text)",
            self._address.name,
        )
        return name

    def discard(self, positions: Sequence[Position]) -> int:
        """What these writers wrote behind their positions, and what they might yet write; how many rows that were."""
        try:
            with self._errors("cannot be written"):
                return self._run(functools.partial(self._discard, positions), _OPEN_PATIENCE_SECONDS)
        finally:
            self.release()

    async def _discard(self, positions: Sequence[Position]) -> int:
        connection = await self._connected()
        for table in (self._address.name, self._address.positions):
            if not await _exists(connection, table):
                return 0
        count = 0
        for each in positions:
            async with connection.transaction():
                cut = await self._cut_back(connection, each)
                count += 0 if cut is None else cut.rows
        return count

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, rows: Callable[[], Iterator[Row]], last: int) -> None:
        """All of the rows, the last of which is the writer's number `last`, or none of them. `rows` gives them from the
        first each time it is called. After an `OutputError` the table is not used again."""
        self._check_usable()
        try:
            with self._errors("cannot be written"):
                self.size += self._run(functools.partial(self._write, rows, last), _WRITE_PATIENCE_SECONDS)
        except BaseException as error:
            self.failure = str(error) if isinstance(error, OutputError) else f"{self._address.shown}: {error!r}."
            raise
        self._number = last

    async def _write(self, rows: Callable[[], Iterator[Row]], last: int) -> int:
        """How many bytes they were."""
        connection = await self._connected()
        size = 0
        for tries_left in reversed(range(_MOST_WIDENINGS)):
            layout = self._layout or await Layout.read(connection, self._address.name)
            needs = layout.needs(row for row, _ in rows())
            if tries_left and any(layout.lacking(needs)):
                layout = await self._widened(connection, needs)
            async with connection.transaction():
                await lock_together(connection, self._address.table)
                self._layout = await Layout.read(connection, self._address.name)
                if self._layout.types != layout.types and tries_left:
                    continue  # somebody else changed it; a transaction without a statement that writes
                if await self._advance(connection, last):
                    size = await self._copy(connection, rows)
                break
        return size

    async def _widened(self, connection: asyncpg.Connection[Any], needs: dict[str, ColumnType]) -> Layout:
        """The columns after they were made to take these types, or as they are where that is not possible now."""
        address = self._address
        if self._widens_again > time.monotonic():
            return await Layout.read(connection, address.name)
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_PATIENCE_SECONDS}s'")
                await lock_alone(connection, address.table)
                layout = await Layout.read(connection, address.name)
                await layout.widen(connection, needs)
        except not_now() as error:
            self._widens_again = time.monotonic() + _WIDENS_AGAIN_SECONDS
            logger.warning(
                "%s: its columns cannot be changed now (%.300s); what does not fit stands in the column %s",
                address.shown, " ".join(str(error).split()), MORE,
            )  # fmt: skip
        return await Layout.read(connection, address.name)

    async def _advance(self, connection: asyncpg.Connection[Any], last: int) -> bool:
        """Whether there is something to write: not if an attempt of before was committed, and nobody heard of it."""
        done = await connection.execute(
            f"UPDATE {self._address.positions} SET number = $4, changed = now() "  # noqa: S608 - names are quoted
            f"WHERE writer = $1 AND fence = $2 AND number = $3 RETURNING {_DURABLE}",
            self.writer,
            self._fence,
            self._number,
            last,
        )
        if done == "UPDATE 1":
            return True
        await self._check_place(connection, last)
        return False

    async def _check_place(self, connection: asyncpg.Connection[Any], number: int) -> None:
        """That this writer is where it should be, and nobody took its place."""
        found = await connection.fetchrow(
            f"SELECT number, fence FROM {self._address.positions} WHERE writer = $1",  # noqa: S608 - names are quoted
            self.writer,
        )
        if found is None or found["fence"] != self._fence:
            raise OutputError(f"{self._address.shown}: {_REPLACED}")
        if found["number"] != number:
            raise OutputError(f"{self._address.shown}: {_CHANGED}")

    async def _copy(self, connection: asyncpg.Connection[Any], rows: Callable[[], Iterator[Row]]) -> int:
        assert self._layout is not None
        size = 0
        first = self._number + 1
        for group, bytes_in_it in _groups(rows()):
            columns, records = self._layout.group(self.writer, first, group)
            half = len(records) // 2 if crash.armed else 0
            for some in (records[:half], records[half:]) if half else (records,):
                await connection.copy_records_to_table(
                    self._address.table, schema_name=self._address.schema, columns=columns, records=some
                )
                crash.point("mid_output_write")
            first += len(group)
            size += bytes_in_it
        return size

    # -- watching and letting go -------------------------------------------------------------------------------------

    def look(self) -> None:
        """Whether the table is still there, and this writer's: an `OutputError` if not."""
        self._check_usable()
        try:
            with self._errors("cannot be written"):
                self._run(self._look, _WRITE_PATIENCE_SECONDS)
        except OutputError as error:
            self.failure = str(error)
            raise

    async def _look(self) -> None:
        connection = await self._connected()
        if not await _exists(connection, self._address.name):
            raise OutputError(f"{self._address.shown}: the table was removed while the crawl wrote to it.")
        await self._check_place(connection, self._number)

    def _check_usable(self) -> None:
        if self.failure is not None:
            raise OutputError(self.failure)
        if not self._fence:
            raise OutputError(f"{self._address.shown} is not open.")

    def sync(self) -> None:
        """Nothing to do: a commit is durable by itself."""
        if self.failure is not None:
            raise OutputError(self.failure)

    def abandon(self) -> None:
        """The server has a moment to answer."""
        loop, deadline = self._loop, self._deadline
        if loop is not None and deadline is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_bring_forward, deadline, loop)

    def close(self) -> None:
        try:
            if self._fence and self.failure is None:
                self.look()
        finally:
            self.release()

    def release(self) -> None:
        """Let go of it as it is; an open transaction is rolled back."""
        self._fence = 0
        loop, self._loop = self._loop, None
        connection, self._connection = self._connection, None
        if loop is None:
            return
        # Where a crawl's own loop runs, no other can: not even for a moment.
        thread = threading.Thread(target=_end, args=(loop, connection))
        thread.start()
        thread.join()

    # -- between threads and the server ------------------------------------------------------------------------------

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]], patience: float) -> T:
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()
        return self._loop.run_until_complete(self._bounded(work, patience))

    async def _bounded(self, work: Callable[[], Coroutine[Any, Any, T]], patience: float) -> T:
        try:
            async with asyncio.timeout(None) as self._deadline:
                return await persistently(work, patience, self._address)
        finally:
            self._deadline = None

    async def _connected(self) -> asyncpg.Connection[Any]:
        """The connection, made anew where it broke."""
        if self._connection is None or self._connection.is_closed():
            self._layout = None
            self._connection = await connect(self._address)
        return self._connection

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        with errors(self._address, what):
            yield


class _Cut(NamedTuple):
    fence: int
    """Which holds from now on."""
    rows: int
    """How many were deleted."""


def _groups(rows: Iterable[Row]) -> Iterator[tuple[list[dict[str, Cell]], int]]:
    """Rows that go in together, and their size."""
    group: list[dict[str, Cell]] = []
    size = 0
    for row, row_bytes in rows:
        group.append(row)
        size += row_bytes
        if len(group) >= _ROWS_AT_ONCE or size >= PIECE_BYTES:
            yield group, size
            group, size = [], 0
    if group:
        yield group, size


async def _exists(connection: asyncpg.Connection[Any], table: str) -> bool:
    found: bool = await connection.fetchval("SELECT to_regclass($1::text) IS NOT NULL", table)
    return found


def _bring_forward(deadline: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # it ended meanwhile
        deadline.reschedule(loop.time() + _ABANDONED_SECONDS)


def _end(loop: asyncio.AbstractEventLoop, connection: asyncpg.Connection[Any] | None) -> None:
    try:
        if connection is not None and not connection.is_closed():
            connection.terminate()
            loop.run_until_complete(asyncio.sleep(0))  # the transport closes in the loop's next turn
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


_CREATE_POSITIONS: Final = """
    CREATE TABLE {} (
        writer bigint PRIMARY KEY, relation text NOT NULL, job text NOT NULL, crawl text NOT NULL, worker text NOT NULL,
        number bigint NOT NULL, fence bigint NOT NULL, changed timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 50)
"""
_CREATE: Final = f"""
    CREATE TABLE {{}} (
        {WRITER} bigint NOT NULL, {NUMBER} bigint NOT NULL, {MORE} jsonb, PRIMARY KEY ({WRITER}, {NUMBER})
    )
"""
