"""The file that is not whole yet: what of it a later run trusts, and whose it must be."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from range_server import files

from crawler.download import partial
from crawler.download.partial import Part
from crawler.download.ranges import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORIGIN = Origin("https://files.example/x", '"v1"', 10)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


@pytest.fixture
def left(target: Path) -> Path:
    """The partial file of an interrupted save: 4 of 10 bytes."""
    part = begun(target)
    part.end(keep=True)
    assert files(target.parent) == [".file.bin.part", ".file.bin.part.json"]
    return target.with_name(".file.bin.part")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def begun(target: Path, content: bytes = b"abcd") -> Part:
    part = Part(target, is_stable=True)
    part.open()
    part.begin(ORIGIN)
    part.write([content])
    return part


def opened(target: Path) -> Part:
    part = Part(target, is_stable=True)
    part.open()
    return part


def taken_up(target: Path, origin: Origin = ORIGIN) -> int:
    """How many bytes the next save would go on from."""
    part = opened(target)
    try:
        return part.resumed_from if part.take_up(origin) else 0
    finally:
        part.end(keep=True)


def edit(note: Path, **changes: Any) -> None:
    note.write_text(json.dumps({**json.loads(note.read_text()), **changes}))


# -- going on ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_file_goes_on_and_is_hashed_whole(left: Path, target: Path) -> None:
    part = opened(target)
    assert part.take_up(ORIGIN)
    while part.hash_more():
        pass
    part.write([b"ef", b"", b"ghij"])
    assert part.is_whole
    assert part.finish() == hashlib.sha256(b"abcdefghij").hexdigest()
    part.end(keep=True)
    assert target.read_bytes() == b"abcdefghij"
    assert files(target.parent) == ["file.bin"]


@pytest.mark.parametrize(
    ("origin", "size"),
    [
        (Origin(ORIGIN.url, '"v1"', 10), 4),
        (Origin(ORIGIN.url, '"v1"', None), 4),
        (Origin(ORIGIN.url, '"v1"', 4), 0),
        (Origin(ORIGIN.url, '"v2"', 10), 0),
        (Origin("https://files.example/y", '"v1"', 10), 0),
    ],
)
def test_only_the_same_file_goes_on(left: Path, target: Path, origin: Origin, size: int) -> None:
    assert taken_up(target, origin) == size


@pytest.mark.parametrize(
    "torn", [b"", b"{", b"null", b"[]", b"\xff", b'{"url": 1}', b'{"url": "https://files.example/x"}', b"{" * 70_000]
)
def test_a_torn_note_starts_over(left: Path, target: Path, torn: bytes) -> None:
    left.with_name(".file.bin.part.json").write_bytes(torn)
    assert taken_up(target) == 0


def test_without_its_note_a_file_starts_over(left: Path, target: Path) -> None:
    left.with_name(".file.bin.part.json").unlink()
    assert taken_up(target) == 0


def test_a_file_longer_than_the_whole_starts_over(left: Path, target: Path) -> None:
    left.write_bytes(b"x" * 11)
    assert taken_up(target) == 0


def test_starting_over_takes_the_old_bytes_away(left: Path, target: Path) -> None:
    part = begun(target, b"z")
    part.end(keep=True)
    assert left.read_bytes() == b"z"


# -- after a power failure ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boot", "size", "synced", "trusted"),
    [
        ("another", 9, 4, 4),
        ("another", 4, 4, 4),
        ("another", 3, 4, 0),
        ("another", 9, 0, 0),
        ("this", 9, 4, 9),
    ],
)
def test_after_another_boot_only_what_was_synced_counts(
    left: Path, target: Path, monkeypatch: pytest.MonkeyPatch, *, boot: str, size: int, synced: int, trusted: int
) -> None:
    monkeypatch.setattr(partial, "_boot", lambda: "this")
    left.write_bytes(b"x" * size)
    edit(left.with_name(".file.bin.part.json"), boot=boot, synced=synced)
    assert taken_up(target) == trusted


def test_what_is_not_trusted_is_cut_off(left: Path, target: Path) -> None:
    left.write_bytes(b"abcdXXXX")
    edit(left.with_name(".file.bin.part.json"), boot="another", synced=4)
    part = opened(target)
    part.take_up(ORIGIN)
    part.end(keep=True)
    assert left.read_bytes() == b"abcd"


def test_what_an_orderly_end_leaves_is_synced_and_what_a_kill_leaves_is_not(left: Path, target: Path) -> None:
    note = left.with_name(".file.bin.part.json")
    assert json.loads(note.read_text())["synced"] == 4
    left.write_bytes(b"abcdef")  # as a kill would leave it
    part = opened(target)
    part.take_up(ORIGIN)
    assert json.loads(note.read_text())["synced"] == 4
    part.end(keep=True)
    assert json.loads(note.read_text())["synced"] == 6


# -- the end -----------------------------------------------------------------------------------------------------------


def test_what_could_not_be_synced_goes(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "gone")

    part = begun(target)
    monkeypatch.setattr(os, "fsync", fail)
    part.end(keep=True)
    assert files(target.parent) == []


def test_what_may_not_be_kept_goes(target: Path) -> None:
    begun(target).end(keep=False)
    assert files(target.parent) == []


def test_what_cannot_be_continued_goes(target: Path) -> None:
    part = opened(target)
    part.begin(None)
    part.write([b"abcd"])
    part.end(keep=True)
    assert files(target.parent) == []


def test_an_empty_file_goes(target: Path) -> None:
    begun(target, b"").end(keep=True)
    opened(target).end(keep=True)
    assert files(target.parent) == []


def test_an_earlier_runs_file_that_was_only_looked_at_stays(left: Path, target: Path) -> None:
    opened(target).end(keep=False)
    assert left.read_bytes() == b"abcd"
    assert taken_up(target) == 4


def test_after_the_end_nothing_is_done_any_more(target: Path) -> None:
    part = Part(target, is_stable=True)
    part.end(keep=True)  # of a save that was cancelled before its first call ran
    for late in (part.open, part.hash_more, part.finish, lambda: part.begin(None), lambda: part.write([b"x"])):
        with pytest.raises(RuntimeError, match="has ended"):
            late()
    part.end(keep=True)
    assert files(target.parent) == []


def test_the_final_file_has_the_usual_mode_and_the_note_is_private(target: Path) -> None:
    part = begun(target)
    note = target.with_name(".file.bin.part.json")
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    part.finish()
    part.end(keep=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


# -- whose file --------------------------------------------------------------------------------------------------------


def plant(kind: str, path: Path, victim: Path) -> None:
    match kind:
        case "symbolic link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(victim.with_name("nothing"))
        case "hard link":
            path.hardlink_to(victim)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "another user's":
            path.write_bytes(b"theirs")
            os.chown(path, 65534, 65534)


@pytest.mark.hostile("S33")
@pytest.mark.parametrize("kind", ["symbolic link", "dangling link", "hard link", "pipe", "folder", "another user's"])
def test_what_was_planted_under_the_name_is_left_alone(kind: str, target: Path, tmp_path: Path) -> None:
    if kind == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    planted = tmp_path / ".file.bin.part"
    plant(kind, planted, victim)
    before = files(tmp_path)
    part = begun(target)
    assert not part.is_stable
    part.finish()
    part.end(keep=True)
    assert target.read_bytes() == b"abcd"
    assert not target.is_symlink()
    assert victim.read_bytes() == b"precious"
    assert files(tmp_path) == sorted([*before, "file.bin"])


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe", "folder", "another user's"])
def test_a_planted_note_is_not_believed(kind: str, left: Path, target: Path, tmp_path: Path) -> None:
    if kind == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    note = left.with_name(".file.bin.part.json")
    honest = tmp_path / "elsewhere.json"
    note.rename(honest)
    plant(kind, note, honest)
    if kind == "another user's":
        note.write_bytes(honest.read_bytes())
    assert taken_up(target) == 0


@pytest.mark.hostile("S33")
def test_the_target_may_be_a_link_which_is_replaced_not_followed(target: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    target.symlink_to(victim)
    part = begun(target)
    part.finish()
    part.end(keep=True)
    assert victim.read_bytes() == b"precious"
    assert not target.is_symlink()


def test_whoever_comes_second_works_under_another_name(target: Path) -> None:
    first, second = begun(target, b"first"), begun(target, b"second")
    assert (first.is_stable, second.is_stable) == (True, False)
    second.finish()
    second.end(keep=True)
    assert target.read_bytes() == b"second"
    first.end(keep=True)
    assert taken_up(target) == 5


def test_a_file_that_was_finished_between_opening_and_locking_is_not_written_to(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begun(target, b"first")
    flock = partial.fcntl.flock

    def finish_and_lock(fd: int, how: int) -> None:
        monkeypatch.undo()
        first.finish()
        first.end(keep=True)
        flock(fd, how)

    monkeypatch.setattr(partial.fcntl, "flock", finish_and_lock)
    second = begun(target, b"second")
    assert target.read_bytes() == b"first"
    assert not second.is_stable
    second.end(keep=True)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "🙂" * 63, "." * 40, "-rf", "a b\n"])
@pytest.mark.parametrize("is_stable", [True, False])
def test_any_name_that_a_file_can_have_works(tmp_path: Path, name: str, is_stable: bool) -> None:
    part = Part(tmp_path / name, is_stable=is_stable)
    part.open()
    part.begin(ORIGIN)
    part.write([b"abcd"])
    part.finish()
    part.end(keep=True)
    assert part.is_stable is is_stable
    assert files(tmp_path) == [name]


def test_long_names_that_begin_alike_have_partial_files_of_their_own(tmp_path: Path) -> None:
    first, second = (begun(tmp_path / ("a" * 254 + last)) for last in "xy")
    assert first.is_stable
    assert second.is_stable
    first.end(keep=False)
    second.end(keep=False)
