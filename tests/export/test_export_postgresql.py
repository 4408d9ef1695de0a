"""A table of PostgreSQL holds each item once, whoever writes to it beside, whatever happens to server and process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import math
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_server import PASSWORD

from crawler.errors import OutputError, UsageError
from crawler.export import Writer, make_exporter, relation
from crawler.export.postgresql import PostgresqlExporter, discard_uncommitted
from crawler.export.relation import Relation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from postgres_server import Server


class Table:
    """`books` in a database of the test's own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address = server.database()
        self.name = self.address.partition("?")[0].rpartition("/")[2]
        self.target = f"{self.address}&table=books"

    def sql(self, statement: str) -> str:
        return self.server.sql(statement, self.name)

    def rows(self, table: str = "books") -> list[dict[str, Any]]:
        """In order, without what tells who wrote them."""
        found = self.sql(f"SELECT coalesce(json_agg(t ORDER BY _writer, _number), '[]') FROM {table} t")
        return [{name: value for name, value in row.items() if name != "_writer"} for row in json.loads(found)]

    def numbers(self) -> list[int]:
        return sorted(row["n"] for row in self.rows())

    def types(self) -> dict[str, str]:
        found = self.sql(
            "SELECT json_object_agg(attname, format_type(atttypid, atttypmod)) FROM pg_attribute "
            "WHERE attrelid = 'books'::regclass AND attnum > 0"
        )
        return {name: type for name, type in json.loads(found).items() if name not in ("_writer", "_number", "_more")}


@pytest.fixture
def table(postgres: Server) -> Table:
    return Table(postgres)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation, "_OPEN_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(relation, "_WRITE_PATIENCE_SECONDS", 0.2)


@contextlib.asynccontextmanager
async def opened(
    target: str, position: bytes | None = None, *, overwrite: bool = False, writer: Writer | None = None
) -> AsyncIterator[PostgresqlExporter]:
    exporter = PostgresqlExporter(target, overwrite, writer=writer)
    await exporter.open(position)
    try:
        yield exporter
    finally:
        exporter._sink.release()  # as a killed process leaves it


async def put(exporter: PostgresqlExporter, *items: dict[str, Any]) -> bytes:
    for item in items:
        exporter.append(exporter.encode(item))
    return await exporter.flush()


async def written(target: str, *items: dict[str, Any], position: bytes | None = None) -> bytes:
    exporter = PostgresqlExporter(target, overwrite=False)
    await exporter.open(position)
    position = await put(exporter, *items)
    await exporter.close()
    return position


# -- columns


async def test_each_field_is_a_column_of_a_type_that_fits(table: Table) -> None:
    day = dt.date(2026, 1, 2)
    await written(
        table.target, {"title": "x", "n": 1, "price": 1.5, "new": True, "tags": ["a"], "raw": b"\xff", "on": day}
    )
    assert table.types() == {
        "title": "text",
        "n": "bigint",
        "price": "double precision",
        "new": "boolean",
        "tags": "jsonb",
        "raw": "bytea",
        "on": "text",
    }
    assert table.rows() == [
        {
            "_number": 1,
            "_more": None,
            "title": "x",
            "n": 1,
            "price": 1.5,
            "new": True,
            "tags": ["a"],
            "raw": "\\xff",
            "on": "2026-01-02",
        }
    ]


async def test_a_column_becomes_wider_and_keeps_what_it_had(table: Table) -> None:
    position = await written(table.target, {"n": 1, "raw": b"\xff" * 60, "ok": True}, {"n": 2**60 + 1})
    assert table.types()["n"] == "bigint"
    position = await written(table.target, {"n": 0.5}, {"n": 2**70}, position=position)
    assert table.types()["n"] == "numeric"
    await written(table.target, {"n": "many", "raw": 1, "ok": 2}, position=position)
    assert table.types() == {"n": "text", "raw": "text", "ok": "text"}
    assert [row["n"] for row in table.rows()] == ["1", str(2**60 + 1), "0.5", str(2**70), "many"]
    assert table.rows()[0]["raw"] == "/" * 80
    assert [row["ok"] for row in table.rows()] == ["true", None, None, None, "2"]


async def test_a_field_without_a_value_makes_no_column(table: Table) -> None:
    await written(table.target, {"a": None, "b": math.nan}, {"b": 1})
    assert table.types() == {"b": "bigint"}


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
)
NAMES = st.one_of(st.sampled_from(["a", "b", "A", "_number", "_more", 'quo"te', "é" * 40]), st.text(max_size=3))
ITEMS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=6)


@given(epochs=st.lists(ITEMS, max_size=3))
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_whatever_items_hold_it_is_found_again(table: Table, epochs: list[list[dict[str, Any]]]) -> None:
    async def live() -> None:
        async with opened(table.target) as exporter:
            for items in epochs:
                await put(exporter, *items)

    table.sql("DROP TABLE IF EXISTS books")
    asyncio.run(live())
    items = [item for epoch in epochs for item in epoch]
    rows = table.rows()
    assert [row["_number"] for row in rows] == list(range(1, len(items) + 1))
    for item, row in zip(items, rows, strict=True):
        expected = {clean(name): seen(value) for name, value in item.items()}
        more = row.pop("_more") or {}
        del row["_number"]
        assert not {name for name, value in row.items() if value is not None} & more.keys()
        for name, value in expected.items():
            found = more.get(name, row.get(name))
            assert found == value or loose(found) == loose(value), (name, found, value)


def clean(text: str) -> str:
    return "".join("\ufffd" if char == "\0" or 0xD800 <= ord(char) < 0xE000 else char for char in text)


def seen(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [seen(each) for each in value]
    if isinstance(value, dict):
        return {clean(name): seen(each) for name, each in value.items()}
    return value


def loose(value: Any) -> Any:
    """What stands in a column of text, as a value; bytes as `json_agg` shows them."""
    if isinstance(value, str) and value.startswith("\\x"):
        return base64.b64encode(bytes.fromhex(value[2:])).decode()
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return with_floats(json.loads(value))
    return with_floats(value)


def with_floats(value: Any) -> Any:
    if isinstance(value, list):
        return [with_floats(each) for each in value]
    if isinstance(value, dict):
        return {name: with_floats(each) for name, each in value.items()}
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


async def test_more_fields_than_columns_stand_in_one_as_json(table: Table) -> None:
    wide = {f"f{n}": "x" * 50 for n in range(500)}
    await written(table.target, wide)
    (row,) = table.rows()
    assert len(table.types()) + 3 == 400
    assert len(row["_more"]) == 500 - 397
    assert {**row, **row["_more"]}.items() >= wide.items()


async def test_a_column_of_the_users_own_type_is_left_alone(table: Table) -> None:
    position = await written(table.target, {"n": 1})
    table.sql(
        "ALTER TABLE books ADD COLUMN seen timestamptz DEFAULT now(), ADD COLUMN id uuid DEFAULT gen_random_uuid()"
    )
    await written(table.target, {"n": 2, "seen": "yesterday"}, position=position)
    row = table.rows()[1]
    assert row["_more"] == {"seen": "yesterday"}
    assert row["id"]
    assert row["seen"]


# -- once


async def test_what_was_flushed_and_not_committed_is_taken_back(table: Table) -> None:
    async with opened(table.target) as exporter:
        first = await put(exporter, {"n": 1})
        await put(exporter, {"n": 2}, {"n": 3})
    assert table.numbers() == [1, 2, 3]
    async with opened(table.target, first) as exporter:
        assert table.numbers() == [1]
        await put(exporter, {"n": 4})
    assert [(row["_number"], row["n"]) for row in table.rows()] == [(1, 1), (2, 4)]


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "flush", "commit", "crash", "stop"]), st.integers(0, 4)), max_size=20
)


@given(steps=STEPS)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_crashes_the_table_holds_what_was_committed_once(table: Table, steps: list[tuple[str, int]]) -> None:
    async def live() -> list[int]:
        exporter = PostgresqlExporter(table.target, overwrite=False)
        await exporter.open(None)
        committed, position = 0, await exporter.flush()
        upcoming = 0
        for step, count in steps:
            if step == "append":
                for n in range(upcoming, upcoming + count):
                    exporter.append(exporter.encode({"n": n}))
                upcoming += count
            elif step == "flush":
                await exporter.flush()
            elif step == "commit":
                position, committed = await exporter.flush(), upcoming
            else:
                await (exporter.close() if step == "stop" else asyncio.to_thread(exporter._sink.release))
                assert await exporter.holds(position)
                await exporter.open(position)
                upcoming = committed
        await exporter.flush()
        await exporter.close()
        return list(range(upcoming))

    table.sql("DROP TABLE IF EXISTS books")
    expected = asyncio.run(live())
    assert (table.numbers() if expected else []) == expected


async def test_many_workers_write_and_widen_one_table_side_by_side(table: Table) -> None:
    kinds: list[Any] = [1, 0.5, "text", [1], True, b"x"]

    async def work(worker: int) -> None:
        async with opened(table.target, writer=Writer("job", "crawl", f"w{worker}")) as exporter:
            for epoch in range(6):
                values = {f"f{epoch}": kinds[(epoch + worker) % len(kinds)], f"own{worker}_{epoch}": epoch}
                await put(exporter, *({"n": worker * 100 + epoch * 10 + k, **values} for k in range(5)))

    await asyncio.gather(*(work(worker) for worker in range(5)))
    assert table.numbers() == sorted(w * 100 + e * 10 + k for w in range(5) for e in range(6) for k in range(5))
    assert {table.types()[f"own{worker}_5"] for worker in range(5)} == {"bigint"}
    assert table.sql("SELECT string_agg(worker, ' ' ORDER BY worker) FROM crawler_positions") == "w0 w1 w2 w3 w4"


async def test_who_opens_the_same_position_takes_the_place(table: Table) -> None:
    async with opened(table.target) as frozen:
        position = await put(frozen, {"n": 1})
        async with opened(table.target, position) as heir:
            await put(heir, {"n": 2})
            with pytest.raises(OutputError, match="another process has taken the place"):
                await put(frozen, {"n": 3})
            with pytest.raises(OutputError, match="another process"):
                await frozen.flush()
            await put(heir, {"n": 4})
    assert table.numbers() == [1, 2, 4]


async def test_a_dead_workers_uncommitted_rows_are_discarded_and_it_writes_no_more(table: Table) -> None:
    async with opened(table.target) as dead, opened(table.target) as alive:
        committed = await put(dead, {"n": 1})
        await put(dead, {"n": 2}, {"n": 3})
        other = await put(alive, {"n": 10})
        assert await discard_uncommitted(table.target, [committed]) == 2
        assert await discard_uncommitted(table.target, [committed]) == 0
        assert table.numbers() == [1, 10]
        with pytest.raises(OutputError, match="taken the place"):
            await put(dead, {"n": 4})
        assert await put(alive, {"n": 11}) != other
    assert table.numbers() == [1, 10, 11]


async def test_nothing_is_discarded_where_there_is_no_table(table: Table, tmp_path: Path) -> None:
    position = await written(table.target, {"n": 1})
    assert await discard_uncommitted(f"{table.address}&table=other", [position]) == 0
    assert await discard_uncommitted(str(tmp_path / "items.jsonl"), [b"x"]) == 0
    assert table.numbers() == [1]


# -- overwriting


async def test_overwriting_deletes_what_earlier_crawls_of_the_job_wrote_and_no_more(table: Table) -> None:
    for number, writer in enumerate([Writer("a", "1", "x"), Writer("a", "1", "y"), Writer("b", "1", "x")]):
        async with opened(table.target, writer=writer) as exporter:
            await put(exporter, {"n": number})
    async with opened(table.target, overwrite=True, writer=Writer("a", "2", "x")) as first:
        await put(first, {"n": 10})
        async with opened(table.target, overwrite=True, writer=Writer("a", "2", "y")) as second:
            await put(second, {"n": 11})
            await put(first, {"n": 12})
    assert table.numbers() == [2, 10, 11, 12]


async def test_a_continued_crawl_overwrites_nothing_of_its_own(table: Table) -> None:
    async with opened(table.target, overwrite=True) as exporter:
        position = await put(exporter, {"n": 1})
    async with opened(table.target, position, overwrite=True) as exporter:
        await put(exporter, {"n": 2})
    assert table.numbers() == [1, 2]


# -- the server


async def test_a_broken_connection_is_made_anew_between_two_flushes(table: Table) -> None:
    async with opened(table.target) as exporter:
        await put(exporter, {"n": 1})
        table.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                  "AND pid <> pg_backend_pid()")  # fmt: skip
        await put(exporter, {"n": 2})
        table.server.stop("immediate")
        table.server.start()
        await put(exporter, {"n": 3})
    assert table.numbers() == [1, 2, 3]


async def test_a_server_that_comes_back_in_time_is_waited_for(table: Table) -> None:
    async with opened(table.target) as exporter:
        await put(exporter, {"n": 1})
        table.server.stop("immediate")
        flushing = asyncio.ensure_future(put(exporter, {"n": 2}))
        try:
            await asyncio.sleep(0.3)
        finally:
            await asyncio.to_thread(table.server.start)
        await flushing
    assert table.numbers() == [1, 2]


async def test_a_server_that_stays_away_is_an_error_that_says_what_to_do(table: Table, impatient: None) -> None:
    async with opened(table.target) as exporter:
        position = await put(exporter, {"n": 1})
        table.server.stop("immediate")
        try:
            with pytest.raises(OutputError, match=r"books cannot be written: .* the same command continues\.$"):
                await put(exporter, {"n": 2})
            again = PostgresqlExporter(table.target, overwrite=False)
            assert await again.holds(position), "nobody can tell"
            with pytest.raises(OutputError, match=r"cannot be opened: .* the same command continues\.$"):
                await again.open(position)
        finally:
            table.server.start()
    async with opened(table.target, position) as exporter:
        await put(exporter, {"n": 2})
    assert table.numbers() == [1, 2]


@contextlib.contextmanager
def deaf_to_the_first_commit(server: Server, folder: Path) -> Iterator[list[bytes]]:
    """A way to the server that breaks when it has answered the first COMMIT that is sent while the list is empty: the
    answer, which goes into the list, reaches nobody."""
    heard: list[bytes] = [b"not yet"]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / ".s.PGSQL.5432"))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=carry, args=(listener.accept()[0],), daemon=True).start()

    def carry(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(str(server.home / ".s.PGSQL.5432"))
            back = threading.Thread(target=pump, args=(upstream, client), daemon=True)
            back.start()
            while data := client.recv(65536):
                if b"COMMIT" in data and not heard:
                    waiting.add(client)
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_RDWR)
            back.join()

    def pump(upstream: socket.socket, client: socket.socket) -> None:
        while data := upstream.recv(65536):
            if client in waiting:
                heard.append(data)
                client.shutdown(socket.SHUT_RDWR)
                return
            client.sendall(data)

    waiting: set[socket.socket] = set()
    accepting = threading.Thread(target=serve, daemon=True)
    accepting.start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()


async def test_a_commit_of_which_nobody_heard_is_not_repeated(table: Table) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        deaf_to_the_first_commit(table.server, Path(folder)) as heard,
    ):
        target = f"postgresql://owner@/{table.name}?host={folder}&table=books"
        async with opened(target) as exporter:
            await put(exporter, {"n": 1})
            heard.clear()
            position = await put(exporter, {"n": 2}, {"n": 3})
            assert b"COMMIT" in heard[0]
            await put(exporter, {"n": 4})
        assert [(row["_number"], row["n"]) for row in table.rows()] == [(1, 1), (2, 2), (3, 3), (4, 4)]
        async with opened(target, position):
            assert table.numbers() == [1, 2, 3]


async def test_a_cancelled_flush_is_ended_before_the_next(table: Table) -> None:
    async with opened(table.target) as exporter:
        for n in range(200):
            exporter.append(exporter.encode({"n": n}))
        flushing = asyncio.ensure_future(exporter.flush())
        await asyncio.sleep(0)
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        await put(exporter, {"n": 200})
    assert table.numbers() == list(range(201))


async def test_a_forced_end_does_not_wait_for_a_table_that_is_locked(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relation, "_ABANDONED_SECONDS", 0.1)
    async with opened(table.target) as exporter:
        await put(exporter, {"n": 1})
        holder = await asyncpg.connect(table.address)
        await holder.execute("BEGIN; LOCK TABLE books")
        flushing = asyncio.ensure_future(put(exporter, {"n": 2}))
        while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        async with asyncio.timeout(20):
            await exporter.close()
        await holder.close()
    assert table.numbers() == [1]


# -- columns that cannot be changed now


@pytest.mark.parametrize("obstacle", ["a reader", "a view"])
async def test_what_needs_a_column_that_cannot_be_changed_stands_in_more(
    table: Table, obstacle: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relation, "_LOCK_PATIENCE_SECONDS", 0.1)
    async with opened(table.target) as exporter:
        await put(exporter, {"n": 1})
        holder = await asyncpg.connect(table.address)
        await holder.execute(
            "BEGIN; SELECT * FROM books" if obstacle == "a reader" else "CREATE VIEW v AS SELECT n FROM books"
        )
        await put(exporter, {"n": "two"})
        assert "its columns cannot be changed now" in caplog.text
        await holder.execute("COMMIT" if obstacle == "a reader" else "DROP VIEW v")
        await holder.close()
        exporter._sink._widens_again = 0.0  # as a minute later
        await put(exporter, {"n": "three"})
    assert [(row["n"], row["_more"]) for row in table.rows()] == [("1", None), (None, {"n": "two"}), ("three", None)]


async def test_a_worker_that_may_not_change_the_table_writes_all_the_same(table: Table) -> None:
    await written(table.target, {"n": 1})
    role = f"plain_{table.name}"
    table.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    table.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON books, crawler_positions TO {role}")
    async with opened(table.server.address(table.name, role, PASSWORD, table="books")) as exporter:
        await put(exporter, {"n": 2, "fresh": "x"})
    assert [row["_more"] for row in table.rows() if row["n"] == 2] == [{"fresh": "x"}]


# -- what is not this job's


async def test_a_table_of_another_make_is_refused(table: Table) -> None:
    table.sql("CREATE TABLE books (id int)")
    with pytest.raises(OutputError, match="not one that a crawl has made"):
        await PostgresqlExporter(table.target, overwrite=True).open(None)


@pytest.mark.parametrize(
    "loss",
    [
        "DROP TABLE books",
        "TRUNCATE crawler_positions",
        "UPDATE crawler_positions SET number = 0",
        "DROP TABLE crawler_positions",
    ],
)
async def test_a_database_that_lost_what_was_committed_is_seen(table: Table, loss: str) -> None:
    position = await written(table.target, {"n": 1})
    exporter = PostgresqlExporter(table.target, overwrite=False)
    assert await exporter.holds(position)
    table.sql(loss)
    assert not await exporter.holds(position)
    with pytest.raises(OutputError, match=r"does not have what this job wrote .* --fresh"):
        await exporter.open(position)


async def test_a_position_of_another_database_deletes_nothing(table: Table, postgres: Server) -> None:
    other = Table(postgres)
    await written(table.target, {"n": 1}, {"n": 2})
    position = await written(other.target, {"n": 3})
    exporter = PostgresqlExporter(table.target, overwrite=True)
    assert not await exporter.holds(position)
    with pytest.raises(OutputError, match="another database"):
        await exporter.open(position)
    assert table.numbers() == [1, 2]


async def test_a_table_that_is_removed_meanwhile_is_noticed(table: Table) -> None:
    async with opened(table.target) as exporter:
        await put(exporter, {"n": 1})
        table.sql("DROP TABLE books")
        with pytest.raises(OutputError, match=r"removed|does not exist"):
            await put(exporter, {"n": 2})


# -- addresses


@pytest.mark.parametrize("name", ["Books", "b.Books", 'a"b; DROP TABLE x;--', "ü" * 31])
async def test_any_name_of_a_table_is_quoted(table: Table, name: str) -> None:
    table.sql("CREATE SCHEMA b")
    await written(f"{table.address}&table={quote(name)}", {"n": 1})
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
    assert [row["n"] for row in table.rows(quoted)] == [1]


async def test_one_table_under_two_names_is_one(table: Table) -> None:
    position = await written(table.target, {"n": 1})
    async with opened(f"{table.address}&table=public.books", position) as exporter:
        await put(exporter, {"n": 2})
    assert table.numbers() == [1, 2]


@pytest.mark.parametrize(
    "target",
    [
        "postgresql://u:hunter2@h/d?table=",
        "postgresql://u:hunter2@h/d?table=a.b.c",
        "postgresql://u:hunter2@h/d?table=.b",
        "postgresql://u:hunter2@h/d?table=a&table=b",
        f"postgresql://u:hunter2@h/d?table={'x' * 64}",
        "postgres://u:hunter2@h/d?table=crawler_positions",
        "postgres://u:hunter2@[h/d",
        "postgres://u:hunter2@h:port/d",
        "postgres//u:hunter2@h/d",
        "mysql://u:hunter2@h/d",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(target: str) -> None:
    with pytest.raises(UsageError) as refused:
        make_exporter(target, overwrite=False)
    assert "hunter2" not in str(refused.value)


async def test_a_password_shows_nowhere(table: Table, impatient: None, caplog: pytest.LogCaptureFixture) -> None:
    role = f"guarded_{table.name}"
    table.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; GRANT ALL ON SCHEMA public TO {role}")
    right = table.server.address(table.name, role, PASSWORD, table="books")
    async with opened(right) as exporter:
        position = await put(exporter, {"n": 1})
        shown = [repr(exporter), exporter.target, exporter.path, repr(exporter._sink._address), repr(position)]
    errors = []
    for target in (
        table.server.address(table.name, role, f"no{PASSWORD}", table="books"),
        right.replace(f"/{table.name}", "/nowhere"),
        f"{right}&sslmode={PASSWORD[:7]}",
        f"postgresql://u:{PASSWORD[:7]}@127.0.0.1:1/d",
        f"postgresql://127.0.0.1:1/d?password={PASSWORD[:7]}",
    ):
        exporter = make_exporter(target, overwrite=False)
        with pytest.raises((OutputError, UsageError)) as failed:
            await exporter.open(None)
        errors.append(failed.getrepr(style="short"))
    text = "\n".join([*map(str, shown), *map(str, errors), caplog.text])
    assert "hunter2" not in text.replace(f"sslmode={PASSWORD[:7]}", "")
    assert "***@" in shown[1]


def test_without_asyncpg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(UsageError, match=r"pip install crawler\[postgres\]"):
        make_exporter("postgresql:///x", overwrite=False)


def test_asyncpg_is_loaded_with_the_first_output_of_its_kind() -> None:
    code = "import sys, crawler.cli, crawler.export; print('asyncpg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


async def test_a_relation_that_is_not_open_says_so(table: Table) -> None:
    with pytest.raises(OutputError, match="not open"):
        Relation(make_exporter(table.target, overwrite=False)._sink._address, Writer(), overwrite=False).look()  # type: ignore[attr-defined]
