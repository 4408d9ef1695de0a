"""What hosts write down of every request, one line of JSON each, when it has ended: nobody who asks can undo it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ROBOTS", "Hit", "encode", "read"]

ROBOTS = "/robots.txt"


class Hit(msgspec.Struct, array_like=True):
    """One request. Times are of `time.monotonic`, which all processes of a machine share."""

    host: str
    path: str
    started: float
    """When its head had been read."""
    after: float
    """It came after this: then everything that was there had been read."""
    worker: str = ""
    """The address that it came from: each process has one of its own."""
    connection: int = 0
    ended: float = 0.0
    """When the last byte of the answer was handed to the system, or the connection was lost."""
    status: int = 0
    """0: the connection was lost before the answer."""
    wait: float = 0.0
    """What `Retry-After` asked for, in seconds."""

    @property
    def url(self) -> tuple[str, str]:
        return self.host, self.path

    @property
    def is_good(self) -> bool:
        return self.status == 200

    def __str__(self) -> str:
        return f"{self.host}{self.path} {self.status} by {self.worker}"


_ENCODER = msgspec.json.Encoder()


def encode(hit: Hit) -> bytes:
    return _ENCODER.encode(hit) + b"\n"


def read(path: Path) -> list[Hit]:
    """In the order of arrival. What is written of the last line only in part is not read."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    hits = msgspec.json.Decoder(Hit).decode_lines(whole)
    return sorted(hits, key=lambda hit: hit.started)
