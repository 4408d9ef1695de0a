"""A file output loses nothing and writes nothing twice, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.errors import OutputError
from crawler.export import CsvExporter, JsonArrayExporter, JsonLinesExporter, make_exporter

if TYPE_CHECKING:
    from crawler.export.output import Output

KINDS = [JsonLinesExporter, JsonArrayExporter, CsvExporter]


def add(exporter: Output, *numbers: int) -> None:
    for n in numbers:
        exporter.append(exporter.encode({"n": n}))


async def written(exporter: Output, *numbers: int, position: bytes | None = None) -> bytes:
    await exporter.open(position)
    add(exporter, *numbers)
    position = await exporter.flush()
    await exporter.close()
    return position


def numbers_in(path: Path) -> list[int]:
    text = path.read_text()
    if path.suffix == ".json":
        return [item["n"] for item in json.loads(text)]
    if path.suffix == ".csv":
        return [int(line) for line in text.splitlines()[1:]]
    return [json.loads(line)["n"] for line in text.splitlines()]


# -- open


async def test_folders_are_created_and_the_umask_decides_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.jsonl"
    old = os.umask(0o027)
    try:
        await written(JsonLinesExporter(path, overwrite=False), 1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", KINDS)
async def test_a_folder_as_target_is_refused(tmp_path: Path, kind: type[Output]) -> None:
    with pytest.raises(OutputError, match=r"cannot be opened: Is a directory \(EISDIR\)"):
        await kind(tmp_path, overwrite=False).open(None)


async def test_a_place_where_nothing_can_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"out\.jsonl cannot be opened: Not a directory"):
        await JsonLinesExporter(tmp_path / "file" / "out.jsonl", overwrite=False).open(None)
    with pytest.raises(OutputError, match="null"):
        await JsonLinesExporter(f"{tmp_path}/a\0b.jsonl", overwrite=False).open(None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only files")
async def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.touch(0o400)
    with pytest.raises(OutputError, match="Permission denied"):
        await JsonLinesExporter(path, overwrite=False).open(None)


async def test_a_second_output_on_the_same_file_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    path, link = tmp_path / "out.jsonl", tmp_path / "link.json"
    link.symlink_to(path)
    first = JsonLinesExporter(path, overwrite=False)
    await first.open(None)
    add(first, 1)
    await first.flush()
    for second in (JsonLinesExporter(path, overwrite=True), JsonArrayExporter(link, overwrite=True)):
        with pytest.raises(OutputError, match="is being written by another output or another crawl"):
            await second.open(None)
        await second.close()
    add(first, 2)
    await first.flush()
    await first.close()
    assert numbers_in(path) == [1, 2]
    await written(JsonLinesExporter(path, overwrite=False), 3)
    assert numbers_in(path) == [1, 2, 3]


async def test_a_lock_held_by_another_process_counts(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OutputError, match="another crawl"):
            await JsonLinesExporter(path, overwrite=False).open(None)


async def test_a_refused_open_lets_go_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("no array")
    exporter = JsonArrayExporter(path, overwrite=False)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OutputError):
        await exporter.open(None)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(OutputError, match="not open"):
        await exporter.flush()


async def test_without_open_nothing_can_be_flushed_and_close_does_nothing(tmp_path: Path) -> None:
    exporter = JsonArrayExporter(tmp_path / "out.json", overwrite=False)
    await exporter.close()
    add(exporter, 1)
    with pytest.raises(OutputError, match="not open"):
        await exporter.flush()
    assert list(tmp_path.iterdir()) == []


# -- positions


@pytest.mark.parametrize("kind", KINDS)
async def test_a_missing_file_is_an_error_that_says_what_to_do_and_creates_nothing(
    tmp_path: Path, kind: type[Output]
) -> None:
    path = tmp_path / "out.x"
    position = await written(kind(path, overwrite=False), 1)
    path.unlink()
    with pytest.raises(OutputError, match=r"out\.x is missing, .*Restore it, or start again with --fresh"):
        await kind(path, overwrite=False).open(position)
    assert not path.exists()


async def test_a_missing_file_with_nothing_committed_to_it_is_created(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    position = await written(JsonLinesExporter(path, overwrite=False))
    path.unlink()
    await written(JsonLinesExporter(path, overwrite=False), 1, position=position)
    assert numbers_in(path) == [1]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_shorter_file_is_an_error_that_says_both_sizes(tmp_path: Path, kind: type[Output]) -> None:
    path = tmp_path / "out.x"
    exporter = kind(path, overwrite=False)
    await exporter.open(None)
    add(exporter, 1, 2)
    position = await exporter.flush()
    size = path.stat().st_size
    await exporter.close()
    os.truncate(path, size - 1)
    with pytest.raises(OutputError, match=f"has {size - 1} bytes, but this job has written {size}. Restore"):
        await kind(path, overwrite=False).open(position)
    assert path.stat().st_size == size - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("back", [1, 100, 8192, 60_000])
async def test_flipped_or_zeroed_bytes_near_the_end_are_noticed(tmp_path: Path, kind: type[Output], back: int) -> None:
    path = tmp_path / "out.x"
    exporter = kind(path, overwrite=False)
    await exporter.open(None)
    add(exporter, *range(20_000))
    position = await exporter.flush()
    size = path.stat().st_size
    await exporter.close()
    with path.open("r+b") as stream:
        stream.seek(size - back)
        stream.write(bytes(min(back, 4096)))
    with pytest.raises(OutputError, match="was changed: the bytes before"):
        await kind(path, overwrite=False).open(position)


async def test_a_position_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    position = await written(JsonLinesExporter(path, overwrite=False), 1)
    with pytest.raises(OutputError, match="was written as jsonl by this job, and cannot be continued as csv"):
        await CsvExporter(path, overwrite=False).open(position)
    assert numbers_in(path) == [1]


GARBAGE = [
    b"",
    b"\xc1",
    b"null",
    msgspec.msgpack.encode(None),
    msgspec.msgpack.encode({"size": 1}),
    msgspec.msgpack.encode(["jsonl"]),
    msgspec.msgpack.encode(["jsonl", -1, 0, 0]),
    msgspec.msgpack.encode(["jsonl", 0, 0, 0, None, "more"]),
    msgspec.msgpack.encode(["jsonl", 2**63, 0, 0]),
    msgspec.msgpack.encode(["csv", 8, 0, 0]),
    msgspec.msgpack.encode(["jsonl", 8, 0, 0, None, [1, 1]]),
    msgspec.msgpack.encode(["sqlite", 8, 0, 0]),
    b"\x95\xa5\xff\xff\xff\xff\xff\x00\x00\x00\xc0",
    b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
]


@pytest.mark.parametrize("position", GARBAGE, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_garbled_position_is_refused_and_the_file_left_alone(
    tmp_path: Path, kind: type[Output], position: bytes
) -> None:
    path = tmp_path / "out.x"
    path.write_text('{"n":1}\n')
    with pytest.raises(OutputError):
        await kind(path, overwrite=True).open(position)
    assert path.read_text() == '{"n":1}\n'


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_any_bytes_as_position_are_an_output_error(position: bytes) -> None:
    with pytest.raises(OutputError):
        asyncio.run(CsvExporter("unused.csv", overwrite=False).open(position))


# -- crashes


async def test_a_killed_process_leaves_a_file_that_continues(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    code = """
import asyncio, os, signal, sys
from crawler.export import make_exporter
async def main():
    out = make_exporter(sys.argv[1], False)
    await out.open(None)
    for n in range(5):
        out.append(out.encode({"n": n}))
    position = await out.flush()
    out.append(out.encode({"n": 5}))
    await out.flush()
    sys.stdout.buffer.write(position)
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    await written(make_exporter(str(path), overwrite=False), 5, 6, position=done.stdout)
    assert numbers_in(path) == [0, 1, 2, 3, 4, 5, 6]


# -- while it is written


async def test_a_deleted_file_is_noticed_at_the_next_flush(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    exporter = JsonLinesExporter(path, overwrite=False)
    await exporter.open(None)
    path.unlink()
    add(exporter, 1)
    with pytest.raises(OutputError, match=r"out\.jsonl was deleted or moved while the crawl wrote to it"):
        await exporter.flush()
    await exporter.close()
    assert not path.exists()


async def test_a_file_deleted_after_the_last_flush_is_noticed_at_close(tmp_path: Path) -> None:
    exporter = JsonLinesExporter(tmp_path / "out.jsonl", overwrite=False)
    await exporter.open(None)
    add(exporter, 1)
    await exporter.flush()
    Path(exporter.path).unlink()
    with pytest.raises(OutputError, match="was deleted"):
        await exporter.close()


async def test_a_rotated_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    exporter = JsonLinesExporter(path, overwrite=False)
    await exporter.open(None)
    path.rename(tmp_path / "out.jsonl.1")
    path.touch()
    add(exporter, 1)
    with pytest.raises(OutputError, match="was replaced by another file"):
        await exporter.flush()
    await exporter.close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("foreign", [b'{"n":9}\n', None])
async def test_another_writer_is_noticed_and_its_data_kept(tmp_path: Path, foreign: bytes | None) -> None:
    path = tmp_path / "out.jsonl"
    exporter = JsonLinesExporter(path, overwrite=False)
    await exporter.open(None)
    add(exporter, 1)
    await exporter.flush()
    if foreign is None:
        os.truncate(path, 0)
    else:
        with path.open("ab") as stream:
            stream.write(foreign)
    add(exporter, 2)
    with pytest.raises(OutputError, match="was changed by another program"):
        await exporter.flush()
    await exporter.close()
    assert numbers_in(path) == ([2] if foreign is None else [1, 9, 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EFBIG])
async def test_a_failed_write_leaves_no_half_item_and_the_file_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Output], code: int
) -> None:
    path = tmp_path / "out.x"
    exporter = kind(path, overwrite=False)
    await exporter.open(None)
    add(exporter, 1)
    position = await exporter.flush()
    before = path.read_bytes()
    real, calls = os.write, []

    def fails_at_the_third(fd: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 3:
            raise OSError(code, os.strerror(code))
        return real(fd, data[:2])

    with monkeypatch.context() as patch:
        patch.setattr("crawler.export.file.os.write", fails_at_the_third)
        add(exporter, 2, 3, 4)
        with pytest.raises(OutputError, match=errno.errorcode[code]):
            await exporter.flush()
    assert len(calls) == 3
    assert path.read_bytes() == before
    add(exporter, 5)
    with pytest.raises(OutputError, match=errno.errorcode[code]):
        await exporter.flush()
    await exporter.close()
    assert path.read_bytes() == before
    path = path.rename(path.with_suffix({JsonLinesExporter: ".jsonl", JsonArrayExporter: ".json"}.get(kind, ".csv")))
    await written(kind(path, overwrite=False), 2, position=position)
    assert numbers_in(path) == [1, 2]


async def test_partial_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr("crawler.export.file.os.write", lambda fd, data: real(fd, data[:3]))
    path = tmp_path / "out.jsonl"
    await written(JsonLinesExporter(path, overwrite=False), *range(50))
    assert numbers_in(path) == list(range(50))


class Gate:
    """`os.write` that waits until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self.open = threading.Event()
        self._real = os.write
        monkeypatch.setattr("crawler.export.file.os.write", self)

    def __call__(self, fd: int, data: Any) -> int:
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self.open.wait(10)
        return self._real(fd, data)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
async def test_items_appended_during_a_flush_come_after_it_and_its_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"out.{suffix}"
    gate = Gate(monkeypatch)
    exporter = make_exporter(str(path), overwrite=False)
    await exporter.open(None)
    add(exporter, 1, 2)
    flushing = asyncio.ensure_future(exporter.flush())
    await gate.reached.wait()
    add(exporter, 3, 4)
    gate.open.set()
    first = await flushing
    await exporter.flush()
    await exporter.close()
    assert numbers_in(path) == [1, 2, 3, 4]
    await written(make_exporter(str(path), overwrite=False), position=first)
    assert numbers_in(path) == [1, 2]


async def test_a_cancelled_flush_still_writes_and_close_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    gate = Gate(monkeypatch)
    exporter = JsonArrayExporter(path, overwrite=False)
    await exporter.open(None)
    add(exporter, 1)
    flushing = asyncio.ensure_future(exporter.flush())
    await gate.reached.wait()
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    closing = asyncio.ensure_future(exporter.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.open.set()
    await closing
    assert numbers_in(path) == [1]


async def test_a_flush_after_a_cancelled_one_that_failed_gives_no_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = JsonLinesExporter(tmp_path / "out.jsonl", overwrite=False)
    await exporter.open(None)
    gate = Gate(monkeypatch)
    gate._real = lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken"))
    add(exporter, 1)
    flushing = asyncio.ensure_future(exporter.flush())
    await gate.reached.wait()
    flushing.cancel()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    with pytest.raises(OutputError, match="EIO"):
        await exporter.flush()
    await exporter.close()


async def test_a_cancelled_open_lets_go_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    reached, go, real = threading.Event(), threading.Event(), os.open

    def slow(*args: Any, **kwargs: Any) -> int:
        reached.set()
        assert go.wait(10)
        return real(*args, **kwargs)

    exporter = JsonLinesExporter(path, overwrite=False)
    with monkeypatch.context() as patch:
        patch.setattr("crawler.export.file.os.open", slow)
        opening = asyncio.ensure_future(exporter.open(None))
        await asyncio.to_thread(reached.wait, 10)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        go.set()
        await exporter.close()
    await written(JsonLinesExporter(path, overwrite=False), 1)
    assert numbers_in(path) == [1]


async def test_an_empty_flush_costs_no_thread_and_gives_the_same_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = JsonLinesExporter(tmp_path / "out.jsonl", overwrite=False)
    await exporter.open(None)
    add(exporter, 1)
    position = await exporter.flush()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "run_in_executor", None, raising=False)
        assert await exporter.flush() == position
    await exporter.close()


# -- targets that are no files


async def test_a_pipe_is_written_to_and_a_position_for_it_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        exporter = make_exporter(f"{path}:json", overwrite=True)
        position = await written(exporter, 1)
        assert json.loads(os.read(reader, 1000)) == [{"n": 1}]
        await written(exporter, 2, position=position)
        assert json.loads(os.read(reader, 1000)) == [{"n": 2}]
    finally:
        os.close(reader)


async def test_a_pipe_that_nobody_reads_is_an_error_instead_of_a_wait(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OutputError, match="ENXIO"):
        await make_exporter(f"{path}:jsonl", overwrite=False).open(None)
