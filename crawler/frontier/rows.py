"""How a waiting request is written on disk, and what says that it is still what was written.

row    CRC-32 of key and rest (u32), attempts (u15) and whether it was queued unfiltered (1 bit), fingerprint (u64),
       origin (12 bytes), record
value  CRC-32 of key and rest (u32), rest
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

__all__ = ["NO_ORIGIN", "Row", "pack_row", "pack_value", "unpack_row", "unpack_value"]

_CHECK = struct.Struct(">I")
_HEAD = struct.Struct(">IHQ12s")
_BODY = struct.Struct(">HQ12s")
_UNFILTERED = 0x8000
NO_ORIGIN = b"\xff" * 12


class Row(NamedTuple):
    """A waiting entry as a store keeps it."""

    attempt: int
    fingerprint: int
    record: bytes
    origin: bytes = NO_ORIGIN
    """Host id (u32) and fingerprint (u64) of the page that gave it."""
    filtered: bool = True


def pack_row(key: bytes, row: Row) -> bytes:
    attempt = min(row.attempt, 0x7FFF) | (0 if row.filtered else _UNFILTERED)
    body = _BODY.pack(attempt, row.fingerprint, row.origin) + row.record
    return _CHECK.pack(zlib.crc32(body, zlib.crc32(key))) + body


def unpack_row(key: bytes, value: bytes) -> Row | None:
    """None: it is not what was written."""
    if len(value) < _HEAD.size:
        return None
    check, attempt, fingerprint, origin = _HEAD.unpack_from(value)
    if check != zlib.crc32(value[_CHECK.size :], zlib.crc32(key)):
        return None
    return Row(attempt & 0x7FFF, fingerprint, value[_HEAD.size :], origin, not attempt & _UNFILTERED)


def pack_value(key: bytes, value: bytes) -> bytes:
    return _CHECK.pack(zlib.crc32(value, zlib.crc32(key))) + value


def unpack_value(key: bytes, value: bytes) -> bytes | None:
    """None: it is not what was written."""
    content = value[_CHECK.size :]
    if len(value) < _CHECK.size or _CHECK.unpack_from(value)[0] != zlib.crc32(content, zlib.crc32(key)):
        return None
    return content
