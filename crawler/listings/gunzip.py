"""Files that are gzip (RFC 1952) by their content, whatever their name or type: `sitemap.xml.gz`.

A content coding is taken off by the download; this is for files that are compressed themselves. A few kilobytes can
hold gigabytes, so what comes out comes in bounded pieces, and who reads them stops when it is enough.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAGIC", "PIECE_BYTES", "Gunzip"]

MAGIC: Final = b"\x1f\x8b"
PIECE_BYTES: Final = 64 * 1024
_MAX_MEMBERS: Final = 1000
"""An empty member costs twenty bytes and gives nothing that a limit could see."""


class Gunzip:
    """`feed` it what comes; iterate what that gives to its end. Members follow one another; what follows the last is
    ignored.

    Raises ValueError for what is not gzip, and at the 1001st member.
    """

    def __init__(self) -> None:
        self._member: zlib._Decompress = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._members = 1
        self._between = b""
        self._over = False

    @property
    def complete(self) -> bool:
        """Whether what was fed is a whole file."""
        return self._over or self._member.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most `PIECE_BYTES`."""
        while not self._over:
            if self._member.eof:
                data = self._between + data
                if not self._next(data):
                    return
            piece = self._decompress(data)
            if piece:
                yield piece
            if self._member.eof:
                data = self._member.unused_data
            elif len(piece) == PIECE_BYTES:
                data = self._member.unconsumed_tail
            else:
                return

    def _decompress(self, data: bytes) -> bytes:
        try:
            return self._member.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise ValueError(f"the compressed file is broken ({error})") from None

    def _next(self, data: bytes) -> bool:
        """Whether another member begins with `data`, which is all there is behind the last one."""
        if len(data) < len(MAGIC):
            self._between = data
            return False
        self._between = b""
        self._over = not data.startswith(MAGIC)
        if self._over:
            return False
        if self._members == _MAX_MEMBERS:
            raise ValueError(f"the compressed file has more than {_MAX_MEMBERS} members")
        self._members += 1
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return True
