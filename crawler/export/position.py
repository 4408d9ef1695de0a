"""How far an output was written, as the bytes that are committed with an epoch and come back after a crash."""

from __future__ import annotations

from typing import Annotated

import msgspec

from crawler.errors import OutputError

__all__ = ["Position", "Rows", "decode_position"]

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Rows(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A place in a table."""

    last: _Count
    """The highest row number; 0: there was no row."""
    count: _Count
    """How many rows the table had up to there, whoever wrote them."""


class Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What `flush` returns and `open` takes, as msgpack. Anything else is refused."""

    format: str
    size: _Count
    """Bytes. Of a database, whose size says nothing about what is in it, only for people to read."""
    check: _Count
    """CRC-32 of what was written last: of a file 64 KiB, of a table the rows that make up so much."""
    items: _Count
    """How many this job has written up to here."""
    columns: tuple[str, ...] | None = None
    """CSV: the columns of the file, once it has any."""
    rows: Rows | None = None
    """SQLite, and nothing else."""
    is_guarded: bool = True
    """CSV: whether an apostrophe keeps cells from being run as formulas."""
    writer: _Count | None = None
    """PostgreSQL, and nothing else: by which number the database knows who wrote the rows."""

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)


_DECODER = msgspec.msgpack.Decoder(Position)


def decode_position(position: bytes, target: str, format: str) -> Position:
    """Raises `OutputError` for bytes that are no position, and for a position in another format."""
    try:
        known = _DECODER.decode(position)
        if (known.rows is not None) != (known.format == "sqlite"):
            raise msgspec.ValidationError("rows belong to a database")
        if (known.writer is not None) != (known.format == "postgresql"):
            raise msgspec.ValidationError("a writer belongs to PostgreSQL")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{target}: the position kept for it cannot be read ({error}). Start again with --fresh."
        ) from None
    if known.format != format:
        raise OutputError(
            f"{target} was written as {known.format} by this job, and cannot be continued as {format}. "
            "Name the same format, or start again with --fresh."
        )
    return known
