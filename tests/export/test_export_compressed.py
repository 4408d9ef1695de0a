"""Compressed lines: a stream an epoch, one text to every reader, and a file that can be cut at any epoch."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest
from every_format import add, exporter_of, numbers_in, written, zstd

from crawler.errors import OutputError
from crawler.export.compressed import gzip_pieces, zstd_pieces

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = ["jsonl.gz", "jsonl.zst"]
PACK = {"jsonl.gz": gzip.compress, "jsonl.zst": zstd.compress}
PIECES = {"jsonl.gz": gzip_pieces, "jsonl.zst": zstd_pieces}
MAGIC = {"jsonl.gz": b"\x1f\x8b\x08", "jsonl.zst": b"\x28\xb5\x2f\xfd"}


async def epochs(path: Path, *sizes: int) -> None:
    exporter = exporter_of(path)
    await exporter.open(None)
    upcoming = 0
    for size in sizes:
        add(exporter, range(upcoming, upcoming + size))
        upcoming += size
        await exporter.flush()
    await exporter.close()


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_an_epoch_is_a_stream_of_its_own_and_an_empty_one_is_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    await epochs(path, 0)
    assert path.read_bytes() == b""
    await epochs(path, 3, 0, 5, 1)
    assert path.read_bytes().count(MAGIC[suffix]) == 3
    assert numbers_in(path) == list(range(9))


@pytest.mark.parametrize(("suffix", "tool"), [("jsonl.gz", "gzip"), ("jsonl.zst", "zstd")])
async def test_the_usual_tool_reads_the_whole(tmp_path: Path, suffix: str, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    path = tmp_path / f"out.{suffix}"
    await epochs(path, 1000, 1, 1000)
    done = subprocess.run([tool, "-dc", path], capture_output=True, check=True)
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()] == list(range(2001))
    assert done.stderr == b""


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_the_same_items_give_the_same_bytes_whenever_they_are_written(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1.0)
    await epochs(tmp_path / f"a.{suffix}", 100, 50)
    monkeypatch.setattr("time.time", lambda: 2e9)
    await epochs(tmp_path / f"b.{suffix}", 100, 50)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    if suffix == "jsonl.gz":
        assert (tmp_path / f"a.{suffix}").read_bytes()[4:8] == bytes(4), "no time of modification"


async def test_each_zstd_frame_has_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.zst"
    await epochs(path, 100)
    whole = bytearray(path.read_bytes())
    assert whole[4] & 0b100
    whole[-1] ^= 1
    with pytest.raises(zstd.ZstdError):
        zstd.decompress(bytes(whole))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("old", ['{"n":-1}\n', '{"n":-1}'])
async def test_a_file_of_somebody_else_is_continued_on_a_line_of_its_own(tmp_path: Path, suffix: str, old: str) -> None:
    path = tmp_path / f"out.{suffix}"
    path.write_bytes(PACK[suffix](b'{"n":-2}\n') + PACK[suffix](b"") + PACK[suffix](old.encode()))
    before = path.read_bytes()
    position = await written(path, [])
    assert path.read_bytes() == before, "without a new item nothing changes"
    await written(path, [1, 2], position)
    assert numbers_in(path) == [-2, -1, 1, 2]
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_file_that_no_reader_could_read_to_its_end_is_refused_and_left_alone(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out.{suffix}"
    packed = PACK[suffix](b'{"n":1}\n' * 1000)
    flipped = bytearray(packed)
    flipped[-6] ^= 0xFF
    for old in (
        b'{"n":1}\n',
        packed[:-1],
        packed + packed[:5],
        packed + b"\0" * 9,
        packed + b'{"n":1}\n',
        bytes(flipped),
    ):
        path.write_bytes(old)
        with pytest.raises(OutputError, match=rf"is no complete \.{suffix} file \(.+\), so nothing can be added"):
            await exporter_of(path).open(None)
        assert path.read_bytes() == old
    await written(path.with_name(f"new.{suffix}"), [1])
    exporter = exporter_of(path, overwrite=True)
    await exporter.open(None)
    add(exporter, [1])
    await exporter.flush()
    await exporter.close()
    assert path.read_bytes() == path.with_name(f"new.{suffix}").read_bytes()


async def test_a_zstd_file_that_begins_with_a_skippable_frame_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.zst"
    path.write_bytes(b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note" + zstd.compress(b'{"n":0}\n'))
    await written(path, [1])
    assert [json.loads(line)["n"] for line in b"".join(_pieces(path, "jsonl.zst")).splitlines()] == [0, 1]


def _pieces(path: Path, suffix: str) -> list[bytes]:
    with path.open("rb") as stream:
        return list(PIECES[suffix](stream))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pieces_are_bounded_however_much_a_stream_holds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "packed"
    noise = random.Random(1).randbytes(3_000_000)
    path.write_bytes(PACK[suffix](bytes(20_000_000)) + PACK[suffix](noise) + PACK[suffix](b"end"))
    pieces = _pieces(path, suffix)
    assert max(map(len, pieces)) <= 1 << 20
    assert zlib.crc32(b"".join(pieces)) == zlib.crc32(bytes(20_000_000) + noise + b"end")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_gives_nothing(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "empty").touch()
    assert _pieces(tmp_path / "empty", suffix) == []


async def test_the_size_told_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.gz"
    exporter = exporter_of(path)
    await exporter.open(None)
    add(exporter, range(1000))
    await exporter.flush()
    assert exporter.snapshot().bytes == path.stat().st_size < 8000
    await exporter.close()
