"""What decoding costs, in a process of its own: prints a JSON object for each bomb and way, for `test_hostile_bodies`.

Bombs are made piece by piece, so that the memory this process has had before the first one is known to be its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import brotli
from fetching import downloader, outcome, saved

from crawler import Request
from crawler.errors import FetchError
from crawler.testing.raw import RawServer, answer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from crawler.download.session import Downloader

MIB = 1 << 20
GIB = 1 << 30
LIMIT = 16 * MIB
"""Of bodies in memory and on disk alike."""


def zlib_bomb(size: int, wbits: int) -> bytes:
    """A full flush forgets what came before, so what lies between two of them may stand there any number of times."""
    coder = zlib.compressobj(9, wbits=wbits)
    start = coder.compress(b"") + coder.flush(zlib.Z_FULL_FLUSH)
    return start + (coder.compress(bytes(MIB)) + coder.flush(zlib.Z_FULL_FLUSH)) * (size // MIB)


def brotli_bomb(size: int) -> bytes:
    """The second block of zeros copies from before it, so it may come again and again."""
    coder = brotli.Compressor(quality=1, lgwin=16)
    first, again = (coder.process(bytes(MIB)) + coder.flush() for _ in range(2))
    return bytes(first + again * (size // MIB - 1) + coder.finish())


def zstd_bomb(size: int) -> bytes:
    coder = zstd.ZstdCompressor()
    frame = b"".join(coder.compress(bytes(MIB)) for _ in range(16)) + coder.flush()
    return bytes(frame * (size // (16 * MIB)))


def bombs() -> dict[str, bytes]:
    in_gzip = zlib_bomb(2 * GIB, 16 + zlib.MAX_WBITS)
    coder = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    return {
        "gzip": in_gzip,
        "deflate": zlib_bomb(2 * GIB, -zlib.MAX_WBITS),
        "br": brotli_bomb(2 * GIB),
        "zstd": zstd_bomb(2 * GIB),
        "gzip, gzip": coder.compress(in_gzip) + coder.flush(),
    }


async def streamed(client: Downloader, url: str) -> tuple[str, int]:
    """The reason for its end, and how much came before it."""
    got = 0
    try:
        async with await client.fetch(Request(url, stream=True)) as response:
            assert response.content is not None
            async for piece in response.content.iter_any():
                got += len(piece)
    except FetchError as error:
        return error.reason, got
    return "whole", got


class Pulse:
    """The longest time on the CPU between two turns of the loop. Not the longest time: others compute here, too."""

    def __init__(self) -> None:
        self.longest_seconds = 0.0

    async def beat(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest_seconds = max(self.longest_seconds, now - last)
            last = now


async def main() -> None:
    made = bombs()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = Path(tempfile.mkdtemp())
    for encoding, bomb in made.items():
        for way in ("plain", "session", "stream", "save"):
            pulse = Pulse()
            limits = {"max_body_bytes": LIMIT, "max_file_bytes": LIMIT}
            async with (
                RawServer(answer(bomb, f"Content-Encoding: {encoding}")) as server,
                downloader(http=limits) as client,
            ):
                beating = asyncio.create_task(pulse.beat())
                got = None
                if way == "stream":
                    reason, got = await streamed(client, server.url)
                elif way == "save":
                    reason = await saved(client, server.url, folder / "file")
                else:
                    reason = await outcome(client, server.url, way)
                beating.cancel()
            found = {"encoding": encoding, "way": way, "inside": 2 * GIB, "sent": len(bomb), "reason": reason}
            found |= {"got": got, "lag_seconds": pulse.longest_seconds, "left": [p.name for p in folder.iterdir()]}
            found["grown_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
            print(json.dumps(found))
    folder.rmdir()


if __name__ == "__main__":
    asyncio.run(main())
