"""Whatever happens to the process, the disk or the end of a file: every format says what is left, and continues it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from every_format import BYTE_SUFFIXES, SUFFIXES, add, crash, exporter_of, numbers_in, written
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.errors import OutputError
from crawler.export.position import decode_position
from crawler.export.reading import read_items

if TYPE_CHECKING:
    from crawler.export.output import Output


# -- crashes


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "flush", "commit", "crash", "stop"]), st.integers(0, 4)), max_size=25
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(steps=STEPS, torn=st.binary(max_size=9))
@settings(deadline=None, max_examples=25)
def test_after_any_crashes_the_file_holds_what_was_committed_once(
    suffix: str, steps: list[tuple[str, int]], torn: bytes
) -> None:
    async def live(path: Path) -> list[int]:
        exporter = exporter_of(path)
        await exporter.open(None)
        committed, position = 0, await exporter.flush()  # the first commit, as the engine makes it
        upcoming = 0
        for step, count in steps:
            if step == "append":
                add(exporter, range(upcoming, upcoming + count))
                upcoming += count
            elif step == "flush":
                await exporter.flush()
            elif step == "commit":
                position, committed = await exporter.flush(), upcoming
            else:
                if step == "stop":
                    await exporter.close()
                else:
                    crash(exporter)
                    if suffix != "db":
                        with path.open("ab") as stream:
                            stream.write(torn)
                exporter, upcoming = exporter_of(path), committed
                assert await exporter.holds(position)
                await exporter.open(position)
        await exporter.flush()
        await exporter.close()
        assert exporter.snapshot().items == upcoming
        assert exporter.snapshot().bytes == path.stat().st_size
        return list(range(upcoming))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"out.{suffix}")
        assert asyncio.run(live(path)) == numbers_in(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_file_can_be_cut_back_to_any_position_and_continued(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    exporter = exporter_of(path)
    await exporter.open(None)
    positions = [await exporter.flush()]
    for epoch in range(8):
        add(exporter, range(epoch * 100, epoch * 100 + 100))
        positions.append(await exporter.flush())
    crash(exporter)
    for epoch in (7, 4, 1, 0):
        assert [await exporter_of(path).holds(each) for each in positions[: epoch + 1]] == [True] * (epoch + 1)
        await written(path, [-1, -2], positions[epoch])
        assert numbers_in(path) == [*range(epoch * 100), -1, -2]


@pytest.mark.hostile("R-33")
@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_second_exporter_on_a_file_is_refused_and_harms_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    first = exporter_of(path)
    await first.open(None)
    add(first, [1])
    await first.flush()
    for overwrite in (True, False):
        second = exporter_of(path, overwrite)
        with pytest.raises(OutputError, match="is being written by another output or another crawl"):
            await second.open(None)
        await second.close()
    add(first, [2])
    await first.flush()
    await first.close()
    await written(path, [3])
    assert numbers_in(path) == [1, 2, 3]


# -- torn ends


class Torn(NamedTuple):
    """A killed crawl's file, and every position that was committed for it."""

    path: Path
    positions: list[bytes]
    epochs: list[int]
    """How many items there were at each."""


async def killed(folder: Path, suffix: str) -> Torn:
    path = folder / f"out.{suffix}"
    rng = random.Random(suffix)
    exporter = exporter_of(path)
    await exporter.open(None)
    positions, epochs, upcoming = [await exporter.flush()], [0], 0
    for _ in range(40):
        for n in range(upcoming, upcoming + rng.randint(1, 12)):
            exporter.append(exporter.encode({"n": n, "text": rng.randbytes(rng.randint(0, 200)).hex()}))
            upcoming = n + 1
        positions.append(await exporter.flush())
        epochs.append(upcoming)
    crash(exporter)
    return Torn(path, positions, epochs)


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """As a power failure leaves the end of a file."""
    reach = min(rng.choice((rng.randint(1, 64), rng.randint(1, 8192))), len(whole))
    kept, end = whole[:-reach], bytearray(whole[-reach:])
    kind = rng.choice(("cut", "zeroed", "flipped", "flipped once"))
    if kind == "cut":
        return kept
    if kind == "zeroed":
        return kept + bytes(reach)
    if kind == "flipped":
        return kept + bytes(byte ^ 0xFF for byte in end)
    end[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return kept + bytes(end)


@pytest.mark.hostile("R-07")
@pytest.mark.parametrize("suffix", BYTE_SUFFIXES)
async def test_holds_is_false_exactly_when_damage_reaches_before_the_position(tmp_path: Path, suffix: str) -> None:
    torn = await killed(tmp_path, suffix)
    whole = torn.path.read_bytes()
    rng = random.Random(7)
    lost = 0
    for _ in range(40):
        left = damaged(rng, whole)
        torn.path.write_bytes(left)
        sizes = [decode_position(each, "", suffix).size for each in torn.positions]
        intact = [left[:size] == whole[:size] for size in sizes]
        assert [await exporter_of(torn.path).holds(each) for each in torn.positions] == intact
        newest = max(number for number, good in enumerate(intact) if good)
        lost += newest < len(sizes) - 1
        if newest < len(sizes) - 1:
            with pytest.raises(OutputError, match="Restore it, or start again with --fresh"):
                await exporter_of(torn.path).open(torn.positions[-1])
        await written(torn.path, range(torn.epochs[newest], 1000), torn.positions[newest])
        assert numbers_in(torn.path) == list(range(1000))
    assert lost > 10


async def test_a_damaged_database_is_never_silently_wrong(tmp_path: Path) -> None:
    torn = await killed(tmp_path, "db")
    whole = torn.path.read_bytes()
    intact = [list(read_items(torn.path, "sqlite", each)) for each in torn.positions]
    assert [len(items) for items in intact] == torn.epochs
    rng = random.Random(7)
    found = held = 0
    for _ in range(60):
        torn.path.write_bytes(damaged(rng, whole))
        for number in range(len(torn.positions) - 1, -1, -13):
            if await exporter_of(torn.path).holds(torn.positions[number]):
                held += 1
                await written(torn.path, [], torn.positions[number])  # which makes a damaged one anew
                assert list(read_items(torn.path, "sqlite", torn.positions[number])) == intact[number]
            else:
                found += 1
                with pytest.raises(OutputError, match=r"damaged|changed|rows|table|no SQLite database"):
                    await exporter_of(torn.path).open(torn.positions[number])
    assert found > 20
    assert held > 20


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_holds_changes_nothing_and_tells_a_missing_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    begun = await written(path, [])
    position = await written(path, range(5), begun)
    whole = path.read_bytes()
    assert await exporter_of(path).holds(position)
    assert path.read_bytes() == whole
    path.unlink()
    assert not await exporter_of(path).holds(position)
    assert await exporter_of(path).holds(begun), "nothing had been written: it is made again"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="cannot be read"):
        await exporter_of(path).holds(b"nonsense")


async def test_what_is_no_file_always_holds_and_is_never_synced(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for exporter in (exporter_of(path), exporter_of(Path("-"))):
            await exporter.open(None)
            position = await exporter.flush()
            await exporter.sync()
            await exporter.close()
            assert await exporter.holds(position)
    finally:
        os.close(reader)


# -- processes that die or run out of space


CHILD = """
import asyncio, os, resource, sys
from pathlib import Path
from crawler.errors import OutputError
from crawler.export import Spool, make_exporter

path, epoch, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

async def main():
    exporter = make_exporter(path, False)
    await exporter.open(None)
    commit(await exporter.flush(), 0)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    upcoming = 0
    try:
        while True:
            spool = Spool(Path(path).parent)
            for n in range(upcoming, upcoming + epoch):
                spool.append(exporter.encode({"n": n, "text": os.urandom(100).hex()}))
            upcoming += epoch
            exporter.append_spool(spool)
            commit(await exporter.flush(), upcoming)
    except OutputError as error:
        print("error", error, flush=True)
    await exporter.close()

def commit(position, count):
    print("commit", count, position.hex(), flush=True)

asyncio.run(main())
"""


class Child(NamedTuple):
    code: int
    committed: int
    position: bytes
    error: str


def child(path: Path, epoch: int, *, limit: int = 0, crash_at: str = "") -> Child:
    environment = {**os.environ, "CRAWLER_CRASH_AT": crash_at}
    command = [sys.executable, "-c", CHILD, str(path), str(epoch), str(limit)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    last = [line for line in lines if line[0] == "commit"][-1]
    error = next((line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("error")), "")
    return Child(done.returncode, int(last[1]), bytes.fromhex(last[2]), error)


async def continues_exactly(path: Path, died: Child) -> None:
    assert await exporter_of(path).holds(died.position)
    await written(path, range(died.committed, died.committed + 50), died.position)
    assert numbers_in(path) == list(range(died.committed + 50))


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_process_killed_in_the_middle_of_a_write_leaves_a_file_that_continues(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out.{suffix}"
    died = child(path, 30, crash_at="mid_output_write:4")
    assert died.code == -signal.SIGKILL
    assert 0 < died.committed < 120
    if suffix != "db":
        assert path.stat().st_size > decode_position(died.position, "", suffix).size, "a part of the write is there"
    await continues_exactly(path, died)


async def test_a_database_killed_in_a_transaction_that_reached_the_disk_rolls_it_back(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    died = child(path, 40_000, crash_at="mid_output_write:270")
    assert died.code == -signal.SIGKILL
    assert died.committed == 40_000
    journal = Path(f"{path}-journal")
    assert journal.stat().st_size > 0
    shutil.copy(path, tmp_path / "alone.db")
    size = path.stat().st_size
    assert size > decode_position(died.position, "", "sqlite").size, "more than the cache holds was written"
    assert await exporter_of(path).holds(died.position)
    assert not journal.exists()
    await continues_exactly(path, died)


@pytest.mark.hostile("R-05")
@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_full_disk_is_an_error_and_with_space_again_the_file_continues(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    full = child(path, 100, limit=200_000)
    assert full.code == 0
    assert full.committed >= 100
    assert full.error.startswith(f"{path} cannot be written: ")
    assert "EFBIG" in full.error or "SQLITE_FULL" in full.error or "SQLITE_IOERR" in full.error
    if suffix not in ("db", "json"):
        assert path.stat().st_size == decode_position(full.position, "", suffix).size, "no half item is left"
    await continues_exactly(path, full)


@pytest.mark.parametrize("suffix", BYTE_SUFFIXES)
async def test_a_device_without_space_is_an_error_with_path_and_reason(suffix: str) -> None:
    exporter = exporter_of(Path(f"/dev/full:{suffix}"))
    await exporter.open(None)
    add(exporter, [1])
    for _ in range(2):
        with pytest.raises(OutputError, match=r"/dev/full cannot be written: No space left on device \(ENOSPC\)"):
            await exporter.flush()
    await exporter.close()


READ_ONLY = """
import asyncio, concurrent.futures.thread, os, sys, tempfile
from crawler.errors import OutputError
from crawler.export import make_exporter, output

# What is loaded late may lie where only root can read.
make_exporter("x." + sys.argv[1], False).encode({"n": 1, "\\ud800": 1})
from crawler.export import compressed
compressed._zstd()

async def main():
    exporter = make_exporter(path, False)
    await exporter.open(None)
    exporter.append(exporter.encode({"n": 1}))
    position = await exporter.flush()
    os.chmod(path, 0o444)
    output._LOOK_SECONDS = 0
    try:
        await exporter.flush()
    except OutputError as error:
        print(error)
    await exporter.close()
    exporter = make_exporter(path, False)
    try:
        await exporter.open(position)
    except OutputError as error:
        print(error)
    os.chmod(path, 0o644)
    await exporter.open(position)
    exporter.append(exporter.encode({"n": 2}))
    await exporter.flush()
    await exporter.close()
    print(exporter.snapshot().items)

if os.geteuid() == 0:  # modes mean nothing to root
    os.setgid(65534)
    os.setuid(65534)
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "out." + sys.argv[1])
    asyncio.run(main())
"""


@pytest.mark.hostile("R-33")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_made_read_only_is_noticed_without_a_write_and_continues_when_it_is_not(suffix: str) -> None:
    done = subprocess.run([sys.executable, "-c", READ_ONLY, suffix], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    noticed, refused, items = done.stdout.splitlines()
    assert f"out.{suffix} was made read-only while the crawl wrote to it." in noticed
    assert "out." in refused
    assert "Permission denied (EACCES)" in refused
    assert items == "2"


@pytest.mark.hostile("R-33")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ["deleted", "replaced"])
async def test_a_file_that_goes_away_is_noticed_by_a_flush_with_nothing_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, what: str
) -> None:
    path = tmp_path / f"out.{suffix}"
    exporter: Output = exporter_of(path)
    await exporter.open(None)
    add(exporter, [1])
    position = await exporter.flush()
    path.rename(tmp_path / "elsewhere")
    if what == "replaced":
        path.touch()
    assert await exporter.flush() == position, "it looks once a second, not at every flush"
    monkeypatch.setattr("crawler.export.output._LOOK_SECONDS", 0)
    with pytest.raises(OutputError, match=f"was {what}"):
        await exporter.flush()
    await exporter.close()
    (tmp_path / "elsewhere").rename(path)
    await written(path, [2], position)
    assert numbers_in(path) == [1, 2]
