"""The parts of an output that many workers wrote, made one file.

Each worker of a crawl writes a part of its own (`part_target`), and how far each is committed is known to the frontier.
Exactly that much of each part is copied: what a worker wrote behind it, before it died, was fetched again by another.
Parts are only read. The file appears when it is whole, under its name, by a rename.

Where parts and file have one format, bytes are copied, since reading and writing again could change them: JSON lines,
compressed or not, and JSON arrays as they are; CSV cell by cell under one header, with every column that a part has.
Otherwise items are read back and written anew, as `crawler jobs export` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from crawler.errors import OutputError, UsageError
from crawler.export import make_exporter
from crawler.export.address import is_database
from crawler.export.pieces import PIECE_BYTES
from crawler.export.place import create_folders, reason, sync_folders
from crawler.export.position import Position, decode_position
from crawler.export.reading import committed_part, csv_cells, read_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from crawler.export.output import Output

__all__ = ["JoinReport", "Part", "export_parts", "join"]

_ITEMS_AT_ONCE = 500
_BLANKS = b" \t\r\n"
_RESTORE = "Bring it as its worker left it (--parts DIR names the folder), or leave it out."


class Part(NamedTuple):
    """What one worker wrote."""

    path: str
    """As recorded, absolute."""
    format: str
    """Of its exporter: `"jsonl"`, `"jsonl.gz"`, `"jsonl.zst"`, `"json"`, `"csv"` or `"sqlite"`."""
    position: bytes
    """The committed one."""


class JoinReport(NamedTuple):
    target: str
    parts: int
    items: int
    """That the workers have committed. What stood in a part before the crawl wrote to it comes as well, uncounted."""
    bytes: int
    """Size of the file; 0 where it is none."""


def export_parts(parts: Sequence[Part], target: str, overwrite: bool, folder: Path | None = None) -> JoinReport:
    """`join`, with all parts in `folder` instead of where they were written: collected from several machines. Raises
    `UsageError` where two parts have one name."""
    if folder is None:
        return join(parts, target, overwrite=overwrite)
    moved = [part if is_database(part.path) else part._replace(path=_in(folder, part.path)) for part in parts]
    return join(moved, target, overwrite=overwrite)


def join(parts: Sequence[Part], target: str, *, overwrite: bool) -> JoinReport:
    """Copy what is committed of each part, in the order given, into `target`, which is as for `make_exporter`.

    A file that is there is refused without `overwrite`, and stays as it is until the new one is whole. Standard output
    and databases get the items one after the other, and keep them where a later part is refused. Blocks; not to be
    called where an event loop runs, but in a thread of it.

    Raises `OutputError` for a part that is missing, shorter than its position, changed or damaged, and where the file
    cannot be written; `UsageError` where parts and file cannot be joined as asked.
    """
    exporter = make_exporter(target, overwrite)
    known = [_Known(part, decode_position(part.position, part.path, part.format)) for part in parts]
    _check(known, exporter)
    items = sum(each.position.items for each in known)
    if exporter.path is None or is_database(exporter.path):
        asyncio.run(_write_items(known, exporter))
        return JoinReport(exporter.target, len(known), items, 0)
    if os.path.lexists(exporter.path) and not overwrite:
        raise _exists(target)
    for each in known:  # before hours of copying
        _confirm(each)
    with _errors(exporter.path, "cannot be written"):
        size = _write_file(known, exporter, overwrite)
    return JoinReport(exporter.target, len(known), items, size)


class _Known(NamedTuple):
    part: Part
    position: Position

    @property
    def path(self) -> Path:
        return Path(self.part.path)


def _in(folder: Path, recorded: str) -> str:
    return str(folder.absolute() / os.path.basename(recorded))


def _check(parts: Sequence[_Known], exporter: Output) -> None:
    """What can be said before a part is opened."""
    named: set[str] = set()
    for part in parts:
        path, format, _ = part.part
        if is_database(path):
            raise UsageError(f"{path} is a table that all workers share: there is nothing to join")
        if path == "-":
            raise UsageError("a worker has written to standard output, and what went there is not kept")
        real = os.path.realpath(path)
        if real in named:
            raise UsageError(f"{path} is named twice as a part; parts of one folder need different names")
        if exporter.path is not None and real == os.path.realpath(exporter.path):
            raise UsageError(f"{exporter.target} is itself one of the parts; name another file")
        named.add(real)
        if format == exporter.format == "csv" and part.position.is_guarded != parts[0].position.is_guarded:
            raise UsageError(
                f"{path} and {parts[0].path} differ in output.guard_formulas, and cannot stand in one file. "
                "Join to another format (-o FILE.jsonl), which takes the apostrophes away"
            )


def _confirm(known: _Known) -> None:
    if known.position.rows is not None:
        return  # of a database, reading begins with that
    with _reading(known):
        pass


@contextlib.contextmanager
def _reading(known: _Known) -> Iterator[BinaryIO]:
    """The committed bytes of a part. What is wrong with it is said with what to do."""
    try:
        with committed_part(known.path, known.position) as stream:
            yield stream
    except OutputError as error:
        raise OutputError(f"{error} {_RESTORE}") from error
    except OSError as error:
        raise OutputError(f"{known.path} cannot be read: {reason(error)}. {_RESTORE}") from error
    except (ValueError, csv.Error) as error:
        raise OutputError(f"{known.path} is damaged: {error}. {_RESTORE}") from error


# -- the file ----------------------------------------------------------------------------------------------------------


def _write_file(parts: Sequence[_Known], exporter: Output, overwrite: bool) -> int:
    assert exporter.path is not None
    path = os.path.realpath(exporter.path)
    unsynced = create_folders(path)
    beside = f"{path}.{secrets.token_hex(4)}.joining"
    try:
        copy = _COPIES.get(exporter.format)
        if copy is None or not all(_can_be_copied(each, exporter.format) for each in parts):
            asyncio.run(_write_items(parts, make_exporter(f"{beside}:{exporter.format}", False)))
        else:
            with open(beside, "xb") as file:
                file.writelines(copy(parts))
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        _put_in_place(beside, path, exporter.target, overwrite)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
    sync_folders([*unsynced, os.path.dirname(path)])
    return size


def _can_be_copied(known: _Known, format: str) -> bool:
    # Whether what somebody else left in a compressed file ends a line is not seen without reading it.
    is_foreign = known.position.size > 0 and not known.position.items
    return known.part.format == format and not (is_foreign and format in ("jsonl.gz", "jsonl.zst"))


def _put_in_place(beside: str, path: str, target: str, overwrite: bool) -> None:
    if overwrite:
        os.replace(beside, path)
        return
    try:
        os.link(beside, path)  # unlike a rename it takes nobody's place
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise _exists(target) from None
        os.replace(beside, path)


def _exists(target: str) -> UsageError:
    return UsageError(f"-o {target}: it exists. Name another file, or overwrite it (-O)")


@contextlib.contextmanager
def _errors(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} {what}: {reason(error)}.") from error


async def _write_items(parts: Sequence[_Known], exporter: Output) -> None:
    await exporter.open(None)
    try:
        count = 0
        for each in parts:
            for item in _items(each):
                try:
                    exporter.append(exporter.encode(item))
                except (TypeError, ValueError) as error:
                    raise OutputError(f"an item of {each.path} has no place in {exporter.target}: {error}.") from error
                count += 1
                if count % _ITEMS_AT_ONCE == 0:
                    await exporter.flush()
        await exporter.flush()
    finally:
        await exporter.close()


def _items(known: _Known) -> Iterator[dict[str, Any]]:
    try:
        yield from read_items(known.path, known.part.format, known.part.position)
    except OutputError as error:
        raise OutputError(f"{error} {_RESTORE}") from error


# -- copies, without reading items -------------------------------------------------------------------------------------


def _lines(parts: Sequence[_Known]) -> Iterator[bytes]:
    for each in parts:
        lines = 0
        last = b"\n"
        with _reading(each) as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
                lines += piece.count(b"\n")
                last = piece[-1:]
            if lines < each.position.items:
                raise ValueError(f"it has {lines} lines, where {each.position.items} items were written")
        if last != b"\n":  # of somebody else, whose last line the worker had not yet completed
            yield b"\n"


def _streams(parts: Sequence[_Known]) -> Iterator[bytes]:
    """Members of gzip and frames of zstd, which stand one behind the other in each part already."""
    for each in parts:
        with _reading(each) as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece


def _array(parts: Sequence[_Known]) -> Iterator[bytes]:
    lead = b"[\n"
    for each in parts:
        if not each.position.size:
            continue
        with _reading(each) as stream:
            if _first(stream) != b"[":
                raise ValueError("it does not begin with [")
            yield lead + _first(stream)
            while piece := stream.read(PIECE_BYTES):
                yield piece
        lead = b",\n"
    yield b"[]\n" if lead == b"[\n" else b"\n]\n"


def _first(stream: BinaryIO) -> bytes:
    """The first byte that is no blank."""
    while (byte := stream.read(1)) and byte in _BLANKS:
        pass
    return byte


def _table(parts: Sequence[_Known]) -> Iterator[bytes]:
    """Cells stay as they are: whether an apostrophe was put before one cannot be told from a number."""
    columns: dict[str, None] = {}
    for each in parts:
        with _reading(each) as stream:
            columns.update(dict.fromkeys(next(csv_cells(stream), [])))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    if columns:
        writer.writerow(columns)
    for each in parts:
        with _reading(each) as stream:
            rows = csv_cells(stream)
            names = next(rows, [])
            for row in rows:
                cells = dict(zip(names, row, strict=True))
                writer.writerow([cells.get(name, "") for name in columns])
                if text.tell() >= PIECE_BYTES:
                    yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> bytes:
    taken = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return taken


_COPIES: dict[str, Callable[[Sequence[_Known]], Iterator[bytes]]] = {
    "jsonl": _lines,
    "jsonl.gz": _streams,
    "jsonl.zst": _streams,
    "json": _array,
    "csv": _table,
}
