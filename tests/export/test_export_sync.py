"""What `sync` promises: what was flushed survives a power failure, and nobody waits for the disk meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest
from every_format import BYTE_SUFFIXES, SUFFIXES, add, exporter_of, numbers_in

from crawler.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path


class Syncs:
    """Every `os.fsync`, by what it was asked of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: list[str] = []
        self.fails: int | None = None
        self.reached = threading.Event()
        self.open = threading.Event()
        self.open.set()
        monkeypatch.setattr("os.fsync", self)

    def __call__(self, fd: int) -> None:
        self.reached.set()
        assert self.open.wait(10)
        if self.fails is not None:
            raise OSError(self.fails, os.strerror(self.fails))
        self.of.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")


@pytest.mark.parametrize("suffix", BYTE_SUFFIXES)
async def test_a_file_is_synced_each_time_and_each_new_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    syncs = Syncs(monkeypatch)
    exporter = exporter_of(tmp_path / "new" / "newer" / f"out.{suffix}")
    await exporter.open(None)
    add(exporter, [1])
    await exporter.flush()
    assert syncs.of == []
    await exporter.sync()
    assert syncs.of == ["file", "folder", "folder", "folder"]
    await exporter.sync()
    assert syncs.of[4:] == ["file"]
    await exporter.close()
    assert syncs.of[5:] == (["file"] if suffix == "json" else []), "the closing bracket, too"


async def test_a_file_that_nobody_synced_is_not_synced_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = Syncs(monkeypatch)
    exporter = exporter_of(tmp_path / "out.json")
    await exporter.open(None)
    await exporter.close()
    assert syncs.of == []


async def test_a_database_syncs_the_folder_in_which_its_journal_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = Syncs(monkeypatch)
    exporter = exporter_of(tmp_path / "new" / "out.db")
    await exporter.open(None)
    add(exporter, [1])
    await exporter.flush()
    await exporter.sync()
    assert syncs.of == ["folder"] * 3
    await exporter.sync()
    assert syncs.of == ["folder"] * 4
    await exporter.close()


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_items_are_appended_and_flushed_while_the_disk_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    syncs = Syncs(monkeypatch)
    path = tmp_path / f"out.{suffix}"
    exporter = exporter_of(path)
    await exporter.open(None)
    add(exporter, [1])
    await exporter.flush()
    syncs.open.clear()
    syncing = asyncio.ensure_future(exporter.sync())
    await asyncio.to_thread(syncs.reached.wait, 10)
    add(exporter, [2])
    await exporter.flush()
    closing = asyncio.ensure_future(exporter.close())
    await asyncio.sleep(0)
    assert not syncing.done()
    assert not closing.done(), "the file is not closed under a sync"
    syncs.open.set()
    await syncing
    await closing
    assert numbers_in(path) == [1, 2]


async def test_a_cancelled_sync_is_waited_for_by_the_next_and_by_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = Syncs(monkeypatch)
    exporter = exporter_of(tmp_path / "out.jsonl")
    await exporter.open(None)
    syncs.open.clear()
    syncing = asyncio.ensure_future(exporter.sync())
    await asyncio.to_thread(syncs.reached.wait, 10)
    syncing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await syncing
    again = asyncio.ensure_future(exporter.sync())
    await asyncio.sleep(0)
    assert not again.done()
    syncs.open.set()
    await again
    await exporter.close()
    assert syncs.of == ["file", "folder", "file"]


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_failed_sync_is_an_error_after_which_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    syncs = Syncs(monkeypatch)
    path = tmp_path / f"out.{suffix}"
    exporter = exporter_of(path)
    await exporter.open(None)
    add(exporter, [1])
    await exporter.flush()
    before = path.read_bytes()
    syncs.fails = errno.EIO
    with pytest.raises(OutputError, match=r"out\..* cannot be written: Input/output error \(EIO\)"):
        await exporter.sync()
    add(exporter, [2])
    with pytest.raises(OutputError, match="EIO"):
        await exporter.flush()
    await exporter.close()
    assert path.read_bytes() == before


async def test_a_folder_that_cannot_be_synced_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.fsync", fsync)
    exporter = exporter_of(tmp_path / "out.jsonl")
    await exporter.open(None)
    await exporter.sync()
    await exporter.close()


async def test_without_open_nothing_can_be_synced(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(OutputError, match="not open"):
            await exporter_of(tmp_path / f"out.{suffix}").sync()
