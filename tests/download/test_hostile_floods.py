"""Answers without end: beside the body, in it, and slower than anybody can wait for. Each gives its place back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from fetching import WAYS, downloader, outcome, saved

from crawler.download.wire import Wire
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from crawler.testing.raw import Script

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FLOODS: dict[str, tuple[bytes, Iterable[bytes]]] = {
    # What comes first, and what comes behind it.
    "10,000 headers": (OK, [b"".join(b"X-%d: 1\r\n" % number for number in range(10_000)) + b"\r\n"]),
    "headers": (OK, itertools.repeat(b"X: 1\r\n" * 1000)),
    "a header": (OK + b"X: ", itertools.repeat(b"a" * 65_536)),
    "a header of 200 KB, byte by byte": (OK + b"X: ", [b"a"] * 200_000),
    "a reason": (b"HTTP/1.1 200 ", itertools.repeat(b"a" * 65_536)),
    "no status line": (b"a", itertools.repeat(b"a" * 65_536)),
    "empty lines": (b"", itertools.repeat(b"\r\n" * 30_000)),
    "a million chunks of a byte": (CHUNKED, [b"1\r\na\r\n" * 10_000] * 100),
    "zeros before a chunk's size": (CHUNKED, itertools.repeat(b"0" * 65_536)),
    "an extension": (CHUNKED + b"5;", itertools.repeat(b"a" * 65_536)),
    "extensions": (CHUNKED, itertools.repeat((b"1;" + b"a" * 1000 + b"\r\na\r\n") * 60)),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\n", itertools.repeat(b"X: 1\r\n" * 1000)),
    "a trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nX: ", itertools.repeat(b"a" * 65_536)),
    "100": (b"", itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)),
    "103": (b"", itertools.repeat(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000)),
}


@contextlib.asynccontextmanager
async def flooding(start: bytes, pieces: Iterable[bytes]) -> AsyncIterator[str]:
    """A server in a thread of its own, so that the client's CPU time is the client's; its URL."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # whoever had enough has left
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(10_000)
                connection.sendall(start)
                for piece in pieces:
                    connection.sendall(piece)
                connection.recv(1)

    with socket.create_server(("127.0.0.2", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        yield f"http://127.0.0.2:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(server.join)


@pytest.mark.hostile("S27", "S28")
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_flood_beside_the_body_ends_early(way: str, flood: str) -> None:
    async with downloader(http={"total_seconds": 20}) as client, flooding(*FLOODS[flood]) as url:
        began = time.thread_time()
        async with asyncio.timeout(10):
            assert await outcome(client, url, way) == "protocol"
        assert time.thread_time() - began < 1


@pytest.mark.hostile("S28")
async def test_what_came_at_once_is_not_parsed_at_once_while_it_may_be_a_flood() -> None:
    wire = Wire(asyncio.get_running_loop())
    wire.connection_made(asyncio.Transport())
    wire.set_response_params(read_until_eof=True, auto_decompress=False)
    began = time.thread_time()
    with contextlib.suppress(NotImplementedError):  # of a transport that is none
        wire.data_received(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)
    assert wire.exception() is not None
    assert time.thread_time() - began < 0.05  # all of it takes 0.1 to 0.3 s


@pytest.mark.hostile("S27")
@pytest.mark.parametrize("way", WAYS)
async def test_what_honest_servers_send_beside_the_body_is_no_flood(way: str) -> None:
    """Chunks of 40 bytes with an extension each, trailers, 1xx, as many headers as there may be: 1 MB of it."""
    line = b"28;ieof=no\r\n" + b"<li>forty bytes of a long list, each</li>"[:40] + b"\r\n"
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 8
    head = OK + b"X: 1\r\n" * 100 + b"Transfer-Encoding: chunked\r\n\r\n"
    async with RawServer(early + head + line * 20_000 + b"0\r\nX: 1\r\n\r\n") as server, downloader() as client:
        assert len(await outcome(client, server.url, way)) == len("200 ") + 20_000 * 40


# -- time --------------------------------------------------------------------------------------------------------------


def dripping(start: bytes, piece: bytes) -> Script:
    """`piece` every hundredth of a second."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    return script


HEADS = {
    "100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a header": (OK + b"X: ", b"a"),
    "a status line": (b"H", b""),
}


@pytest.mark.hostile("S26", "S28")
@pytest.mark.parametrize("start", HEADS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_head_that_drips_ends_with_the_total_time_a_streams_too(way: str, start: str) -> None:
    async with RawServer(dripping(*HEADS[start])) as server, downloader(http={"total_seconds": 0.2}) as client:
        async with asyncio.timeout(10):
            assert await outcome(client, server.url, way) == "total_timeout"


EMPTY_BLOCK = b"\0\0\0\xff\xff"
"""Of deflate."""
BODIES = {
    "with a length": OK + b"Content-Length: 1000000\r\n\r\n",
    "until the end": OK + b"\r\n",
    "in gzip": OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
}
SLOW = {"min_bytes_per_second": 10_000, "min_speed_seconds": 0.2}


@pytest.mark.hostile("S26")
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("way", ["plain", "session"])
async def test_a_body_that_drips_is_given_up_as_too_slow(way: str, body: str) -> None:
    async with RawServer(dripping(BODIES[body], EMPTY_BLOCK)) as server, downloader(http=SLOW) as client:
        async with asyncio.timeout(10):
            assert await outcome(client, server.url, way) == "too_slow"
        assert server.connections == 1


@pytest.mark.hostile("S26")
async def test_a_download_that_drips_is_given_up_too(tmp_path: Path) -> None:
    async with RawServer(dripping(BODIES["until the end"], b"x")) as server, downloader(http=SLOW) as client:
        async with asyncio.timeout(10):
            assert await saved(client, server.url, tmp_path / "file") == "too_slow"


@pytest.mark.hostile("S26")
@pytest.mark.parametrize("way", WAYS)
async def test_a_body_without_end_ends_at_its_limit(way: str) -> None:
    chunks = (CHUNKED, itertools.repeat(b"10000\r\n" + bytes(65_536) + b"\r\n"))
    limits = {"max_body_bytes": 1 << 20, "max_file_bytes": 1 << 20}
    async with downloader(http=limits) as client, flooding(*chunks) as url:
        assert await outcome(client, url, way) == "body_too_large"


@pytest.mark.hostile("S26", "R-19")
async def test_who_drips_holds_up_nobody_else_and_gives_the_place_back() -> None:
    """One place for each host, and twenty hosts that drip: those beside them get their pages meanwhile."""
    async with contextlib.AsyncExitStack() as stack:
        drip = dripping(BODIES["until the end"], b"x")
        slow = [await stack.enter_async_context(RawServer(drip, host=f"127.0.1.{last}")) for last in range(1, 21)]
        healthy = await stack.enter_async_context(RawServer(answer(b"ok"), host="127.0.2.1", keep_alive=True))
        client = await stack.enter_async_context(downloader(http={**SLOW, "min_speed_seconds": 0.5}))
        waiting = [asyncio.create_task(outcome(client, server.url, "plain")) for server in slow]
        while not all(server.requests for server in slow):
            await asyncio.sleep(0)
        for _ in range(50):
            assert await outcome(client, healthy.url, "plain") == "200 ok"
        assert not any(task.done() for task in waiting)
        async with asyncio.timeout(10):
            assert await asyncio.gather(*waiting) == ["too_slow"] * 20
