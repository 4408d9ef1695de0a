"""How a waiting request is written in the engine: each byte of it is there as often as there are URLs.

flags        1: was queued unfiltered · 2: host follows · 4: the host's name is cut out of the record · 8: and the
             usual scheme before it · the upper four bits: depth, 15 where it follows
attempt      one byte, which the scripts count up
fingerprint  8 bytes
depth        2 bytes, if it is 15 or more
number       8 bytes, if it was queued unfiltered
host         length and name, if it is not the key of the queue
cut          where in the record the host's name was
record       the rest
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["Waiting", "pack", "unpack"]

_HEAD = struct.Struct(">BBQ")
_DEPTH = struct.Struct(">H")
_NUMBER = struct.Struct(">Q")
_DEEP = 15
_DEEPEST = 0xFFFF
_UNFILTERED, _HOST, _CUT, _SCHEME = 1, 2, 4, 8
_SHORTEST = 4
"""A shorter name is not worth the byte that says where it was."""


class Waiting(NamedTuple):
    record: bytes
    fingerprint: int
    depth: int = 0
    attempt: int = 0
    filtered: bool = True
    host: str = ""
    """`"name:port"`, where it is not the key of its queue."""
    number: int = 0
    """Of one that was not filtered."""


def pack(key: str, waiting: Waiting) -> bytes:
    flags = 0 if waiting.filtered else _UNFILTERED
    depth = min(waiting.depth, _DEEPEST)
    middle = b""
    if depth >= _DEEP:
        middle = _DEPTH.pack(depth)
    if not waiting.filtered:
        middle += _NUMBER.pack(waiting.number)
    named = key
    if waiting.host and waiting.host != key:
        host = waiting.host.encode()
        flags |= _HOST
        middle += bytes([len(host)]) + host
        named = waiting.host
    record = waiting.record
    for cuts, text in ((_CUT | _SCHEME, _scheme(named) + _name(named)), (_CUT, _name(named))):
        if len(text) >= _SHORTEST and 0 <= (at := record.find(text, 0, 255 + len(text))) <= 255:
            flags |= cuts
            record = bytes([at]) + record[:at] + record[at + len(text) :]
            break
    return _HEAD.pack(flags | min(depth, _DEEP) << 4, min(waiting.attempt, 255), waiting.fingerprint) + middle + record


def unpack(key: str, payload: bytes) -> Waiting:
    flags, attempt, fingerprint = _HEAD.unpack_from(payload)
    at = _HEAD.size
    depth = flags >> 4
    if depth == _DEEP:
        (depth,) = _DEPTH.unpack_from(payload, at)
        at += _DEPTH.size
    number = 0
    if flags & _UNFILTERED:
        (number,) = _NUMBER.unpack_from(payload, at)
        at += _NUMBER.size
    host = ""
    if flags & _HOST:
        size = payload[at]
        host = payload[at + 1 : at + 1 + size].decode()
        at += 1 + size
    record = payload[at:]
    if flags & _CUT:
        cut = record[0] + 1
        named = host or key
        text = (_scheme(named) if flags & _SCHEME else b"") + _name(named)
        record = record[1:cut] + text + record[cut:]
    return Waiting(record, fingerprint, depth, attempt, not flags & _UNFILTERED, host, number)


def _scheme(host: str) -> bytes:
    return b"https://" if host.endswith(":443") else b"http://"


def _name(host: str) -> bytes:
    return host.rpartition(":")[0].encode()
