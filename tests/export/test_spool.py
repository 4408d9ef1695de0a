"""A spool gives back what it was given, in memory or on disk, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from every_format import SUFFIXES, add, exporter_of, numbers_in
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.errors import OutputError
from crawler.export import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.contracts import Spool as SpoolContract


def filled(folder: Path | None, records: list[bytes], spill_every: int) -> Spool:
    spool = Spool(folder)
    for number, record in enumerate(records, 1):
        spool.append(record)
        if number % spill_every == 0:
            spool.spill()
    return spool


@given(records=st.lists(st.binary(max_size=40), max_size=30), spill_every=st.integers(1, 31))
@settings(deadline=None, max_examples=100)
def test_records_come_back_in_order_wherever_they_are(records: list[bytes], spill_every: int) -> None:
    spool = filled(None, records, spill_every)
    assert len(spool) == len(records)
    assert list(spool) == records
    assert list(spool) == records, "as often as asked"
    spool.close()


@pytest.mark.parametrize("size", [0, 1, 262_135, 262_136, 262_137, 3_000_000])
def test_records_of_any_size_come_back_from_the_file(tmp_path: Path, size: int) -> None:
    rng = random.Random(size)
    records = [rng.randbytes(size), b"", rng.randbytes(7), rng.randbytes(size)]
    spool = filled(tmp_path, records, 1)
    assert list(spool) == records
    spool.close()


def test_it_asks_to_be_spilled_when_its_memory_is_over_256_kib() -> None:
    spool = Spool(None)
    contract: SpoolContract = spool
    spool.append(bytes(256 * 1024))
    assert not contract.needs_spill
    spool.append(b"x")
    assert spool.needs_spill
    spool.spill()
    assert not spool.needs_spill
    assert repr(spool) == f"<Spool records=2 on_disk={256 * 1024 + 1 + 16}>"
    spool.close()
    assert len(spool) == 0


def test_its_file_has_no_name_and_goes_with_it(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    spool = filled(tmp_path, [b"x"] * 10, 2)
    assert list(tmp_path.iterdir()) == []
    spool.close()
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_spilling_there_is_no_file() -> None:
    before = len(os.listdir("/proc/self/fd"))
    spool = filled(None, [b"x"] * 10, 100)
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(spool) == [b"x"] * 10


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_cannot_take_it_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(code, os.strerror(code))

    spool = filled(tmp_path, [b"x"], 2)
    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(OutputError, match=f"cannot be kept in {tmp_path}: .*{errno.errorcode[code]}"):
            spool.spill()
    spool.close()


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    spool = filled(tmp_path / "nowhere", [b"x"], 2)
    with pytest.raises(OutputError, match="ENOENT"):
        spool.spill()


# -- through an exporter


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_spooled_items_stand_among_the_others_in_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    exporter = exporter_of(path)
    await exporter.open(None)

    def spool(numbers: range, limit: int | None = None, spill_every: int = 3) -> None:
        records = [exporter.encode({"n": n}) for n in numbers]
        exporter.append_spool(filled(tmp_path, records, spill_every), limit)

    spool(range(0))
    spool(range(10, 20), 0)
    spool(range(10))
    add(exporter, [10])
    spool(range(11, 30), 5)
    spool(range(16, 18), 100, spill_every=100)
    assert exporter.snapshot().items == 18
    position = await exporter.flush()
    spool(range(18, 20))
    add(exporter, [20])
    await exporter.flush()
    await exporter.close()
    assert numbers_in(path) == list(range(21))
    again = exporter_of(path)
    await again.open(position)
    assert again.snapshot().items == 18
    await again.close()
    assert numbers_in(path) == list(range(18))


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_file_of_nothing_but_empty_spools_is_as_without_items(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    exporter = exporter_of(path)
    await exporter.open(None)
    begun = await exporter.flush()
    exporter.append_spool(Spool(None))
    assert await exporter.flush() == begun
    await exporter.close()
    assert (path.read_bytes() if suffix != "json" else path.read_text()) == ("[]\n" if suffix == "json" else b"")


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_spool_is_closed_after_the_flush_and_by_close(tmp_path: Path, suffix: str) -> None:
    exporter = exporter_of(tmp_path / f"out.{suffix}")
    await exporter.open(None)
    before = len(os.listdir("/proc/self/fd"))
    spools = [filled(tmp_path, [exporter.encode({"n": n})], 1) for n in range(2)]
    exporter.append_spool(spools[0])
    await exporter.flush()
    assert len(spools[0]) == 0
    exporter.append_spool(spools[1])
    await exporter.close()
    assert len(spools[1]) == 0
    assert len(os.listdir("/proc/self/fd")) < before


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_spool_that_cannot_be_read_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"out.{suffix}"
    exporter = exporter_of(path)
    await exporter.open(None)
    add(exporter, [1])
    position = await exporter.flush()
    exporter.append_spool(filled(tmp_path, [exporter.encode({"n": 2})] * 1000, 400))
    exporter.append_spool(Broken(None))
    for _ in range(2):
        with pytest.raises(OutputError, match="broken"):
            await exporter.flush()
    await exporter.close()
    again = exporter_of(path)
    assert await again.holds(position)
    await again.open(position)
    await again.close()
    assert numbers_in(path) == [1]


class Broken(Spool):
    __slots__ = ()

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        raise OutputError("broken")


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_large_spool_is_written_in_pieces(tmp_path: Path, suffix: str) -> None:
    exporter = exporter_of(tmp_path / f"out.{suffix}")
    await exporter.open(None)
    add(exporter, [1])
    await exporter.flush()
    spool = Spool(tmp_path)
    text = random.Random(1).randbytes(2000).hex()
    for n in range(8000):
        spool.append(exporter.encode({"n": n, "text": text}))
        if spool.needs_spill:
            spool.spill()
    exporter.append_spool(spool)
    tracemalloc.start()
    try:
        await exporter.flush()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    await exporter.close()
    assert peak < 8_000_000, "of 32 MB"
