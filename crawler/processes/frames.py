"""What parent and child say to each other: MessagePack, each behind its length.

A frame has a number where it wants an answer, which comes with the same number; 0 where it does not.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crawler.errors import EngineUnavailable

if TYPE_CHECKING:
    import socket

__all__ = ["EXIT_CUT_OFF", "MOST_BYTES", "Frame", "Frames", "body"]

EXIT_CUT_OFF: Final = 75
"""Of a child that has lost its parent, or its session."""
MOST_BYTES: Final = 256 << 20
"""Of one frame. An item may have a quarter of it; what there may be many of is sent in several."""
_BUFFER_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")
_NOTHING: Final = msgspec.Raw(b"\xc0")


class Frame(msgspec.Struct, array_like=True, frozen=True):
    id: int
    verb: str
    body: msgspec.Raw = _NOTHING


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Frame)


def body(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_ENCODER.encode(value))


class Frames:
    """One end of a connected socket, which is closed with it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Frames:
        return cls(*await asyncio.open_connection(sock=end, limit=_BUFFER_BYTES))

    async def next(self) -> Frame | None:
        """The next one; None: the other end is closed. Raises `EngineUnavailable` for what is none."""
        try:
            (size,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if size > MOST_BYTES:
                raise EngineUnavailable(f"a frame of {size} bytes came from another process of this crawl")
            return _DECODER.decode(await self._reader.readexactly(size))
        except (OSError, asyncio.IncompleteReadError):
            return None
        except msgspec.MsgspecError as error:
            raise EngineUnavailable(f"another process of this crawl said what makes no sense: {error}") from error

    def write(self, frame: Frame) -> None:
        """Without waiting; nobody hears it where the other end is closed."""
        data = _ENCODER.encode(frame)
        self._writer.write(_LENGTH.pack(len(data)) + data)

    async def drain(self) -> None:
        """Wait while the other end is far behind. Raises OSError where it is closed."""
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()
