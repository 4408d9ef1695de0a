"""`crawler jobs repair`: what is damaged in a job, and a job again of what is not.

First the frontier: a new one is written beside it (`frontier.repaired`), synced, and put in its place by two renames;
the old one is kept as `frontier.damaged`. Killed anywhere before, the next repair begins again; killed between the two
renames, it does the second. Then the outputs: where the end of one is not what was committed, the frontier goes back
with it, epoch by epoch, as far as that is kept; after that, its position is set back to the last record that is whole,
and the next run cuts it there. No output is written to.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import zlib
from typing import TYPE_CHECKING, NamedTuple

import lmdb
import msgspec

from crawler import crash
from crawler.errors import EngineUnavailable, JobError
from crawler.export import make_exporter
from crawler.export.address import is_database
from crawler.export.position import decode_position
from crawler.frontier.disk import DiskStore
from crawler.frontier.layout import refuse_other_format
from crawler.frontier.pages import salvage
from crawler.frontier.reader import FrontierReader
from crawler.frontier.rebuild import Rebuilt, rebuild
from crawler.frontier.remains import find_damages
from crawler.frontier.snapshots import Snapshots
from crawler.jobs import held, is_job, output_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from crawler.frontier.kept import Kept

__all__ = ["Repair", "repair"]

_TAIL_BYTES = 65536
"""What a position's checksum covers."""
_RESTORE = "Restore it from a copy, or start again with --fresh"


class Repair(msgspec.Struct, kw_only=True):
    """What was found and done. `damages` empty: nothing to repair."""

    damages: list[str] = []
    """Sentences."""
    rebuilt: Rebuilt | None = None
    kept_as: str = ""
    """The folder of the damaged frontier."""
    epochs_back: int = 0
    """So that the outputs are what the frontier says of them: what was fetched since is fetched again."""
    items_lost: dict[str, int] = {}
    """By output that was set back: how many at least."""
    unrepaired: list[str] = []
    """What is damaged still, and what can be done."""


async def repair(job: Path) -> Repair:
    """Check a job from end to end, and repair what is damaged.

    Raises `JobError` while a process works on it, for what is no job, and for one of another version; `JobDamaged`
    where nothing can be made of what is left; `EngineUnavailable` where the disk fails.
    """
    if not is_job(job):
        raise JobError(f"no job in {job}. Jobs are made by `crawler run`")
    with held(job), _translated(job):
        done = Repair()
        if _frontier(job, done):
            await _outputs(job, done)
        return done


@contextlib.contextmanager
def _translated(job: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, lmdb.Error) as error:
        raise EngineUnavailable(
            f"cannot repair {job}: {error}. Nothing was lost by the attempt; do it again when the cause is gone"
        ) from error


# -- the frontier ----------------------------------------------------------------------------------------------------


def _frontier(job: Path, done: Repair) -> bool:
    """Whether there is one."""
    folder, repaired = job / "frontier", job / "frontier.repaired"
    if not folder.exists() and repaired.exists():  # complete, or the old one would be there
        os.replace(repaired, folder)
        done.damages.append("a repair was stopped in its middle; it is finished now")
    shutil.rmtree(repaired, ignore_errors=True)
    if not (folder / "data.mdb").is_file():
        return False
    stored = dict(salvage(folder, "values", is_good=lambda key, _: key == b"format")).get(b"format", b"")
    if stored.isdigit():
        refuse_other_format(folder, int(stored))
    Snapshots(folder).recover()  # as every opening does: LMDB's two meta pages are put right
    damages = find_damages(folder)
    if damages:
        done.damages += damages
        done.rebuilt = rebuild(folder, repaired)
        crash.point("repair_rebuilt")
        done.kept_as = _put_in_place(job, folder, repaired)
    return True


def _put_in_place(job: Path, folder: Path, repaired: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(folder / "at-work", repaired / "at-work")
    _sync_folder(repaired)
    names = itertools.chain(["frontier.damaged"], (f"frontier.damaged-{number}" for number in itertools.count(2)))
    kept = next(name for name in names if not (job / name).exists())
    os.replace(folder, job / kept)
    crash.point("repair_between")
    os.replace(repaired, folder)
    _sync_folder(job)
    return kept


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- the outputs -----------------------------------------------------------------------------------------------------


class _Torn(NamedTuple):
    """An output whose end is not what was committed."""

    key: str
    output: Kept
    path: Path


async def _outputs(job: Path, done: Repair) -> None:
    with FrontierReader(job / "frontier") as reader:
        outputs, positions = reader.values.outputs, reader.values.positions
    places = {key: _Torn(key, output, output_path(job, key, output)) for key, output in outputs.items()}
    known = {key: place for key, place in places.items() if key in positions and _is_file(place.output)}
    for key, place in list(known.items()):
        if not place.path.exists():
            _note(done, place.output.target, "it is missing", _RESTORE)
            del known[key]
    torn = await _torn(known.values(), positions)
    if not torn:
        return
    done.damages += [f"{each.output.target}: its end is not what was written" for each in torn]
    store = DiskStore(job / "frontier")
    try:
        store.open()
        while torn:  # as the next run would
            is_back = await store.roll_back()
            store.open()
            if not is_back:
                break
            done.epochs_back += 1
            positions = msgspec.msgpack.decode(store.get_value("positions") or b"\x80", type=dict[str, bytes])
            torn = await _torn([each for each in known.values() if each.key in positions], positions)
        changed = {each.key: _set_back(done, each, positions[each.key]) for each in torn}
        positions.update({key: position for key, position in changed.items() if position is not None})
        if any(changed.values()):
            await store.commit({"positions": msgspec.msgpack.encode(positions)})
            await store.sync(_nothing)
    finally:
        await store.close()


async def _nothing() -> None:
    pass


def _is_file(output: Kept) -> bool:
    return output.path != "-" and not is_database(output.path)


async def _torn(places: Iterable[_Torn], positions: dict[str, bytes]) -> list[_Torn]:
    torn = []
    for place in places:
        exporter = make_exporter(f"{place.path}:{place.output.format}", False)
        if not await exporter.holds(positions[place.key]):
            torn.append(place)
    return torn


def _note(done: Repair, target: str, what: str, remedy: str) -> None:
    done.damages.append(f"{target}: {what}")
    done.unrepaired.append(f"{target}: {what}. {remedy}")


def _set_back(done: Repair, torn: _Torn, position: bytes) -> bytes | None:
    """The position behind the last whole record; None where the format does not tell."""
    target = torn.output.target
    known = decode_position(position, target, torn.output.format)
    if known.format != "jsonl":
        done.unrepaired.append(f"{target}: a {known.format} file cannot be cut to a whole record. {_RESTORE}")
        return None
    size, lines, broken = _whole_lines(torn.path, known.size)
    # At least: of what was there before the job nobody knows how much it was.
    lost = done.items_lost[target] = min(known.items, max(known.items - lines, broken))
    check = _check(torn.path, size)
    return msgspec.structs.replace(known, size=size, check=check, items=known.items - lost).encode()


def _whole_lines(path: Path, end: int) -> tuple[int, int, int]:
    """Size and number of the lines before the first that is no item, and how many more there are.

    Only lines in the part that the checksum covers are read: what stands before is as it was committed."""
    size = lines = broken = 0
    with path.open("rb") as file:
        checked = min(end, os.fstat(file.fileno()).st_size) - _TAIL_BYTES
        for line in file:
            start = size
            if start + len(line) > end or broken or (start + len(line) > checked and not _is_item(line)):
                broken += 1
                if start + len(line) >= end:
                    break
                continue
            size += len(line)
            lines += 1
            if size == end:
                break
    return size, lines, broken


def _is_item(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _check(path: Path, size: int) -> int:
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL_BYTES))
        return zlib.crc32(file.read(min(size, _TAIL_BYTES)))
