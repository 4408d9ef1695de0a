"""A database whose end was torn is made again of the rows up to a position, and is damaged as before or whole."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from crawler.errors import OutputError
from crawler.export.sqlite import SqliteExporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EPOCHS = 24
ROWS = 37
DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "cut": lambda data, size: data[:-size],
    "zeroed": lambda data, size: data[:-size] + bytes(size),
    "flipped": lambda data, size: data[:-size] + bytes(byte ^ 0xFF for byte in data[-size:]),
}
BESIDE = "out.db-rescued"


def item(number: int) -> dict[str, Any]:
    item: dict[str, Any] = {"n": number, "t": "x" * random.Random(number).randrange(20, 400)}
    if number % 50 == 0:
        item["large"] = bytes(number % 7 for _ in range(9000))  # longer than a page
    if number >= 600:
        item["new"] = number / 2
    return item


class Written(NamedTuple):
    path: Path
    positions: list[bytes]
    """By epoch: `ROWS` rows more each."""
    data: bytes

    def tear(self, kind: str, size: int) -> bytes:
        torn = DAMAGES[kind](self.data, size)
        self.path.write_bytes(torn)
        return torn

    async def newest_held(self) -> int:
        """The epoch; -1: none."""
        for epoch in range(len(self.positions) - 1, -1, -1):
            if await SqliteExporter(self.path, overwrite=False).holds(self.positions[epoch]):
                return epoch
        return -1


@contextlib.contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


async def write(path: Path, *, epochs: int = EPOCHS, before: str = "") -> Written:
    if before:
        with database(path) as connection:
            connection.executescript(before)
    exporter = SqliteExporter(path, overwrite=False)
    await exporter.open(None)
    positions = []
    for epoch in range(epochs):
        for n in range(epoch * ROWS, (epoch + 1) * ROWS):
            exporter.append(exporter.encode(item(n)))
        positions.append(await exporter.flush())
    await exporter.close()
    return Written(path, positions, path.read_bytes())


async def go_on(path: Path, position: bytes, *numbers: int) -> None:
    exporter = SqliteExporter(path, overwrite=False)
    await exporter.open(position)
    for n in numbers:
        exporter.append(exporter.encode(item(n)))
    await exporter.flush()
    await exporter.close()


def is_whole(path: Path, count: int) -> bool:
    """Whether it has the items up to there, in order, and nothing is damaged."""
    with database(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = connection.execute("SELECT * FROM items ORDER BY rowid")
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found]
    empty = dict.fromkeys(names)
    return rows == [{**empty, "rowid": n + 1, **item(n)} for n in range(count)]


@pytest.mark.parametrize("checked_whole", [True, False], ids=["small", "large"])
@pytest.mark.parametrize("kind", DAMAGES)
async def test_a_torn_end_costs_the_last_epochs_and_nothing_else(
    tmp_path: Path, kind: str, checked_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not checked_whole:
        monkeypatch.setattr("crawler.export.database._CHECKED_WHOLE_BYTES", 0)
    written = await write(tmp_path / "out.db")
    rng = random.Random(f"{kind} 1")
    for size in (1, 4096, 8192, *(rng.randint(1, 8192) for _ in range(8))):
        written.tear(kind, size)
        epoch = await written.newest_held()
        assert epoch >= EPOCHS - 6, f"{size} bytes {kind}"
        count = (epoch + 1) * ROWS
        await go_on(written.path, written.positions[epoch])
        assert is_whole(written.path, count)
        await go_on(written.path, written.positions[epoch], *range(count, EPOCHS * ROWS + 5))
        assert is_whole(written.path, EPOCHS * ROWS + 5)
        assert os.listdir(tmp_path) == ["out.db"]


@pytest.mark.parametrize("kind", DAMAGES)
async def test_a_position_that_is_held_after_any_damage_can_be_opened(tmp_path: Path, kind: str) -> None:
    """Wherever the damage is: what cannot be opened is not held, and stays as it is."""
    written = await write(tmp_path / "out.db", epochs=10)
    rng = random.Random(f"{kind} 2")
    outcomes = set()
    for _ in range(40):
        size = min(int(2 ** rng.uniform(0, 14)), len(written.data))
        end = rng.randrange(size, len(written.data) + 1)
        torn = DAMAGES[kind](written.data[:end], size) + (b"" if kind == "cut" else written.data[end:])
        written.path.write_bytes(torn)
        epoch = await written.newest_held()
        if epoch < 0:
            with pytest.raises(OutputError):
                await go_on(written.path, written.positions[0])
            assert written.path.read_bytes() == torn
        else:
            await go_on(written.path, written.positions[epoch])
            with database(written.path) as connection:
                assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
                numbers = [row[0] for row in connection.execute("SELECT rowid FROM items ORDER BY rowid")]
            assert numbers == list(range(1, (epoch + 1) * ROWS + 1))
        outcomes.add(epoch >= 0)
    assert outcomes == {True, False}


@pytest.mark.parametrize("page", [0, 1])
async def test_damage_at_the_beginning_is_refused_by_name_and_left_alone(tmp_path: Path, page: int) -> None:
    written = await write(tmp_path / "out.db")
    start = page * 4096 + (100 if page == 0 else 0)
    for damage in (bytes(300), random.Random(page).randbytes(300)):
        torn = written.data[:start] + damage + written.data[start + 300 :]
        written.path.write_bytes(torn)
        assert await written.newest_held() == -1
        for position in written.positions[-3:]:
            with pytest.raises(OutputError, match=r"out\.db.* damaged"):
                await go_on(written.path, position)
            assert written.path.read_bytes() == torn
            assert os.listdir(tmp_path) == ["out.db"]


async def test_rows_that_a_damaged_tree_shows_twice_or_not_at_all_are_not_held(tmp_path: Path) -> None:
    written = await write(tmp_path / "out.db")
    root = 4096
    cells = int.from_bytes(written.data[root + 3 : root + 5], "big")
    pointers = [root + 12 + 2 * n for n in range(cells)]
    assert written.data[root] == 5, "page 2 is the root, and has children"
    assert cells > 8
    for changes in (
        {pointers[3]: written.data[pointers[4] : pointers[4] + 2]},  # one child twice, one not at all
        {pointers[3]: written.data[pointers[4] : pointers[4] + 2], pointers[4]: written.data[pointers[3] :][:2]},
        {root + 3: (cells - 6).to_bytes(2, "big")},  # the last children but one are gone
    ):
        torn = bytearray(written.data)
        for at, change in changes.items():
            torn[at : at + 2] = change
        written.path.write_bytes(torn)
        assert not await SqliteExporter(written.path, overwrite=False).holds(written.positions[-1])
        with pytest.raises(OutputError, match="damaged"):
            await go_on(written.path, written.positions[-1])
        assert written.path.read_bytes() == bytes(torn)


async def test_the_log_tells_what_was_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = await write(tmp_path / "out.db")
    written.tear("cut", 5000)
    epoch = await written.newest_held()
    count = (epoch + 1) * ROWS
    with caplog.at_level(logging.WARNING):
        await go_on(written.path, written.positions[epoch])
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{written.path} was damaged: made again of its {count} rows up to number {count}. "
        "What came behind is fetched again"
    )


# -- what people keep in it and make of it


MINE = """
    PRAGMA user_version=7;
    CREATE TABLE mine (id INTEGER PRIMARY KEY AUTOINCREMENT, t TEXT UNIQUE, twice AS (t || t));
    INSERT INTO mine (id, t) VALUES (5, 'five'), (9, 'nine');
    DELETE FROM mine WHERE id = 9;
    CREATE TABLE pairs (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
    INSERT INTO pairs VALUES (1, 2), (x'00ff', 'z');
    CREATE TABLE seen (n);
    CREATE TABLE items (rowid INTEGER PRIMARY KEY, n);
    CREATE INDEX by_n ON items (n) WHERE n > 5;
    CREATE VIEW few AS SELECT * FROM items LIMIT 3;
    CREATE TRIGGER watch AFTER INSERT ON items WHEN new.n = 20 BEGIN INSERT INTO seen VALUES (new.n); END;
    ANALYZE;
"""


async def test_all_else_in_the_database_goes_with_it(tmp_path: Path) -> None:
    written = await write(tmp_path / "out.db", before=MINE)
    written.path.chmod(0o640)

    def others() -> list[Any]:
        with database(written.path) as connection:
            queries = (
                "PRAGMA user_version",
                "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name <> 'items' ORDER BY type, name",
                "SELECT * FROM sqlite_sequence",
                "SELECT * FROM mine",
                "SELECT * FROM pairs",
                "SELECT * FROM seen",
                "SELECT * FROM few",
            )
            return [connection.execute(query).fetchall() for query in queries]

    before = others()
    assert len(before[1]) >= 8
    written.tear("cut", 6000)
    epoch = await written.newest_held()
    assert epoch >= 0
    await go_on(written.path, written.positions[epoch])
    assert others() == before
    assert is_whole(written.path, (epoch + 1) * ROWS)
    assert written.path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("CREATE VIRTUAL TABLE found USING fts5(t)", ""),
        ("", "CREATE TABLE mine AS SELECT * FROM items"),
        ("", "CREATE INDEX odd ON items (n); PRAGMA journal_mode=WAL"),
    ],
    ids=["virtual", "at the torn end", "WAL"],
)
async def test_where_something_cannot_be_copied_nothing_is(tmp_path: Path, before: str, after: str) -> None:
    try:
        written = await write(tmp_path / "out.db", before=before)
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no fts5")
    with database(written.path) as connection:
        connection.executescript(after)
    torn = DAMAGES["flipped"](written.path.read_bytes(), 8000)
    written.path.write_bytes(torn)
    assert await written.newest_held() == -1
    with pytest.raises(OutputError, match="damaged"):
        await go_on(written.path, written.positions[0])
    assert written.path.read_bytes() == torn
    assert not (tmp_path / BESIDE).exists()


async def test_a_database_with_two_names_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = await write(tmp_path / "out.db")
    (tmp_path / "other.db").hardlink_to(written.path)
    torn = written.tear("cut", 5000)
    with pytest.raises(OutputError, match="damaged"):
        await go_on(written.path, written.positions[await written.newest_held()])
    assert "another name" in caplog.text
    assert written.path.read_bytes() == torn


async def test_a_link_goes_on_naming_the_database(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "out.db").symlink_to(tmp_path / "far" / "real.db")
    written = await write(tmp_path / "out.db")
    written.tear("zeroed", 5000)
    epoch = await written.newest_held()
    await go_on(written.path, written.positions[epoch])
    assert written.path.is_symlink()
    assert is_whole(tmp_path / "far" / "real.db", (epoch + 1) * ROWS)
    assert os.listdir(tmp_path / "far") == ["real.db"]


# -- who else is at it, and being killed


async def test_nothing_is_replaced_while_somebody_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.export.database._PATIENCE_SECONDS", 0.01)
    written = await write(tmp_path / "out.db")
    torn = written.tear("flipped", 3000)
    epoch = await written.newest_held()
    with database(written.path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM items").fetchone()
        with pytest.raises(OutputError, match="another program keeps it locked"):
            await go_on(written.path, written.positions[epoch])
        assert written.path.read_bytes() == torn
        assert not (tmp_path / BESIDE).exists()
    await go_on(written.path, written.positions[epoch])
    assert is_whole(written.path, (epoch + 1) * ROWS)


async def test_the_new_database_is_locked_as_the_old_one_was(tmp_path: Path) -> None:
    written = await write(tmp_path / "out.db")
    torn = written.tear("cut", 5000)
    epoch = await written.newest_held()
    with written.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="is being written by another"):
            await go_on(written.path, written.positions[epoch])
        assert written.path.read_bytes() == torn
    exporter = SqliteExporter(written.path, overwrite=False)
    await exporter.open(written.positions[epoch])
    with written.path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await exporter.close()
    with written.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


CHILD = """
import asyncio, sys
from crawler.export.sqlite import SqliteExporter

asyncio.run(SqliteExporter(sys.argv[1], overwrite=False).open(bytes.fromhex(sys.argv[2])))
"""


async def test_killed_before_it_is_in_place_it_is_made_again(tmp_path: Path) -> None:
    written = await write(tmp_path / "out.db")
    torn = written.tear("zeroed", 6000)
    epoch = await written.newest_held()
    command = [sys.executable, "-c", CHILD, str(written.path), written.positions[epoch].hex()]
    done = subprocess.run(command, env={**os.environ, "CRAWLER_CRASH_AT": "sqlite_rescued"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert written.path.read_bytes() == torn
    assert (tmp_path / BESIDE).exists()
    await go_on(written.path, written.positions[epoch], *range((epoch + 1) * ROWS, (epoch + 2) * ROWS))
    assert is_whole(written.path, (epoch + 2) * ROWS)
    assert os.listdir(tmp_path) == ["out.db"]


async def test_a_journal_is_rolled_back_before_anything_is_copied(tmp_path: Path) -> None:
    """Killed in the middle of a commit, and the end torn besides."""
    written = await write(tmp_path / "out.db")
    with database(written.path) as writer:
        writer.execute("PRAGMA cache_size=1")  # so that pages are written before the commit
        writer.execute("BEGIN")
        writer.execute("UPDATE items SET n = -1")
        writer.execute("INSERT INTO items (n, t) SELECT n, t FROM items")
        journal = (tmp_path / "out.db-journal").read_bytes()
        changed = written.path.read_bytes()
        writer.execute("ROLLBACK")
    assert changed != written.data
    written.path.write_bytes(changed[: len(written.data) - 6000])
    (tmp_path / "out.db-journal").write_bytes(journal)
    epoch = await written.newest_held()
    await go_on(written.path, written.positions[epoch])
    assert is_whole(written.path, (epoch + 1) * ROWS)
    assert os.listdir(tmp_path) == ["out.db"]


async def test_no_room_for_the_new_one_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = await write(tmp_path / "out.db")
    torn = written.tear("cut", 5000)
    epoch = await written.newest_held()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crawler.export.rescue.os.fsync", full)
    with pytest.raises(OutputError, match="damaged"):
        await go_on(written.path, written.positions[epoch])
    assert "No space left" in caplog.text
    assert written.path.read_bytes() == torn
    assert os.listdir(tmp_path) == ["out.db"]
