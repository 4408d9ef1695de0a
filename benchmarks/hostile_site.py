"""The hostile site and its honest neighbour: `hostile_site.py [--quick]`, until its standard input ends.

Prints a `Site` as JSON first. What a path of the hostile host does is in `_scripts`; the neighbour answers every path
with a page of 2 KB. At the third address nobody has any business: it counts who connects, and tells at `/connections`
of the neighbour.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import NamedTuple

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Site", "Sizes"]

MIB = 1 << 20
_BLOCK = bytes(16 * MIB)
_HOSTILE, _HONEST, _CANARY = "127.0.0.2", "127.0.0.3", "127.0.0.9"
_CANARY_IN_ONE_NUMBER = 0x7F000009

_CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Site(NamedTuple):
    hostile: str
    """`http://127.0.0.2:PORT`."""
    honest: str
    words: dict[str, dict[str, str]]
    """By path: what the titles of `hostile.py` say of its size."""


class Sizes(NamedTuple):
    """How large the hostile things are."""

    bomb_blocks: int = 128
    """Of 16 MiB: 2 GiB."""
    html: tuple[int, int] = (20_000, 200_000)
    """Tags in each other, attributes in one: some 100 KB and 1 MB."""
    headers: int = 10_000
    chunks: int = 1_000_000

    @classmethod
    def quick(cls) -> Sizes:
        return cls(bomb_blocks=2, html=(1_000, 2_000), headers=1_000, chunks=10_000)


# -- bombs ------------------------------------------------------------------------------------------------------------


def _bombs(blocks: int) -> Iterator[tuple[str, bytes]]:
    """Content-Encoding and body, each whole and as large as it says. A flush makes the coder forget what came before,
    so what lies between two of them may stand there any number of times."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = (coder.compress(_BLOCK) + coder.flush(zlib.Z_FULL_FLUSH)) * blocks + coder.flush()
    crc, adler = 0, 1
    for _ in range(blocks):
        crc, adler = zlib.crc32(_BLOCK, crc), zlib.adler32(_BLOCK, adler)
    size = (blocks * len(_BLOCK)) & 0xFFFFFFFF
    in_gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated + crc.to_bytes(4, "little") + size.to_bytes(4, "little")
    yield "gzip", in_gzip
    yield "deflate", b"\x78\x9c" + deflated + adler.to_bytes(4, "big")
    yield "br", _brotli(blocks)
    yield "zstd", _zstd(blocks)
    yield "gzip, gzip", gzip.compress(in_gzip, mtime=0)


def _brotli(blocks: int) -> bytes:
    coder = brotli.Compressor(quality=2, lgwin=24)
    first, again = (coder.process(_BLOCK) + coder.flush() for _ in range(2))
    return bytes(first + again * (blocks - 1) + coder.finish())


def _zstd(blocks: int) -> bytes:
    coder = zstd.ZstdCompressor()
    return b"".join(coder.compress(_BLOCK) for _ in range(blocks)) + coder.flush()


# -- pages ------------------------------------------------------------------------------------------------------------


def _text(size: int) -> bytes:
    rng = Random(7)
    return " ".join(f"{rng.randrange(10**6)}" for _ in range(size // 7)).encode()


def _nested(count: int) -> bytes:
    return b"<title>deep</title>" + b"<div>" * count + b'<a href="/below">below</a>'


def _attributes(count: int) -> bytes:
    written = " ".join(f"a{number}" for number in range(count))
    return f'<title>wide</title><p {written}>text</p><a href="/below">below</a>'.encode()


def _honest_page() -> bytes:
    paragraphs = "".join(f"<p>{_text(300).decode()}</p>" for _ in range(6))
    return f'<title>honest</title><h1>A page</h1>{paragraphs}<a href="/next">next</a>'.encode()


# -- answers ----------------------------------------------------------------------------------------------------------


def _answer(body: bytes, *fields: str, status: str = "200 OK", kind: str = "text/html") -> bytes:
    head = (f"HTTP/1.1 {status}", *fields, f"Content-Type: {kind}", f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(head).encode() + body


def _sends(data: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return script


def _repeats(start: bytes, again: bytes, pause_seconds: float = 0.0) -> Script:
    """Without end."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return script


def _scripts(sizes: Sizes, canary: str, port: int) -> tuple[dict[str, Script], dict[str, dict[str, str]]]:
    """By path: what it does, and the words of `Site`."""
    found: dict[str, Script] = {}
    words: dict[str, dict[str, str]] = {}
    for coding, body in _bombs(sizes.bomb_blocks):
        path = f"/bomb/{coding.replace(', ', '-')}"
        found[path] = _sends(_answer(body, f"Content-Encoding: {coding}", kind="text/plain"))
        words[path] = {"size": _shown(len(body)), "inside": _shown(sizes.bomb_blocks * len(_BLOCK))}
    whole = gzip.compress(_text(100_000), mtime=0)
    found["/cut/gzip"] = _sends(_answer(whole[: len(whole) // 2], "Content-Encoding: gzip", kind="text/plain"))
    for size, count in zip(("small", "large"), sizes.html, strict=True):
        for shape, make in (("nested", _nested), ("attributes", _attributes)):
            body, path = make(count), f"/html/{shape}-{size}"
            found[path] = _sends(_answer(body))
            words[path] = {"count": f"{count:,}", "size": _shown(len(body))}
    slow = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n"
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </site.css>; rel=preload\r\n\r\n"
    flood = (f"X-Flood-{number}: {number}" for number in range(sizes.headers))
    found["/wire/endless"] = _repeats(_CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n")
    found["/wire/slow"] = _repeats(slow, b"x", pause_seconds=1.0)
    found["/wire/interim"] = _repeats(b"", hints * 100)
    found["/wire/headers"] = _sends(_answer(b"<title>headers</title>", *flood))
    words["/wire/headers"] = {"count": f"{sizes.headers:,}"}
    found["/wire/chunks"] = _sends(_CHUNKED + b"1\r\nx\r\n" * sizes.chunks + b"0\r\n\r\n")
    words["/wire/chunks"] = {"count": f"{sizes.chunks:,}"}
    found["/private"] = _sends(_answer(_private_links(canary, port)))
    found["/private/away"] = _sends(_answer(b"", f"Location: {canary}/redirected", status="302 Found"))
    return found, words


def _shown(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.{0 if size % unit == 0 or size >= 10 * unit else 1}f} {name}"
    return f"{size} bytes"


def _private_links(canary: str, port: int) -> bytes:
    written = (
        f"{canary}/as-it-is",
        f"http://{_CANARY_IN_ONE_NUMBER}:{port}/in-one-number",
        f"http://\uff11\uff12\uff17.0.0.9:{port}/full-width-digits",
        "/private/away",
    )
    links = "".join(f'<a href="{url}">inside</a>' for url in written)
    return f"<meta charset=utf-8><title>private</title>{links}".encode()


# -- serving ----------------------------------------------------------------------------------------------------------


class _Served:
    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.connections = 0
        """At the canary."""
        self._page = _answer(_honest_page())

    async def hostile(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, then the connection is closed."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            path = await _path(reader)
            script = self.scripts.get(path, _sends(_answer(b"", status="404 Not Found")))
            leaving = asyncio.ensure_future(reader.read())
            answering = asyncio.ensure_future(script(writer))
            await asyncio.wait([leaving, answering], return_when=asyncio.FIRST_COMPLETED)
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(leaving, answering, return_exceptions=True)
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def honest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                path = await _path(reader)
                writer.write(_answer(b"%d" % self.connections) if path == "/connections" else self._page)
                await writer.drain()
        writer.close()

    async def canary(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


async def _path(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split(b" ", 2)[1].decode("latin-1")


async def serve(sizes: Sizes) -> None:
    served = _Served()
    hostile = await asyncio.start_server(served.hostile, _HOSTILE, 0)
    honest = await asyncio.start_server(served.honest, _HONEST, 0)
    canary = await asyncio.start_server(served.canary, _CANARY, 0)
    at = [
        f"http://{host}:{port}" for host, port in (each.sockets[0].getsockname() for each in (hostile, honest, canary))
    ]
    served.scripts, words = _scripts(sizes, at[2], canary.sockets[0].getsockname()[1])
    print(json.dumps(Site(at[0], at[1], words)._asdict()), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all of it small")
    asyncio.run(serve(Sizes.quick() if parser.parse_args().quick else Sizes()))
