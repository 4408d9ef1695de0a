"""Bytes in pieces of bounded size: however much a page gives, little of it is in memory twice."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["PIECE_BYTES", "in_pieces", "write_all"]

PIECE_BYTES = 1 << 20


def in_pieces(records: Iterable[bytes]) -> Iterator[bytes]:
    """The records joined to pieces of a mebibyte or, with the last record in it, a little more."""
    piece: list[bytes] = []
    size = 0
    for record in records:
        piece.append(record)
        size += len(record)
        if size >= PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
    if size:
        yield b"".join(piece)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """`os.write` until everything is written; waits where the descriptor is non-blocking and full."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
