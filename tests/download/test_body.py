"""Bodies: four codings, cut and hostile ones too, against the decoder alone and over real connections."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import brotli
import pytest

from crawler import errors
from crawler.download.body import STEP_BYTES, DecodedStream, Decoder, open_stream, read_body, source
from crawler.errors import BodyError, FetchError
from crawler.testing.raw import RawServer, answer, hang, reset

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from crawler.testing.raw import Script

MIB = 1 << 20
TEXT = b"".join(b"<li>line %d of a page that compresses well</li>\n" % number for number in range(6000))
"""280 KB: several steps."""


def bare_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return coder.compress(data) + coder.flush()


def quick_brotli(data: bytes) -> bytes:
    return bytes(brotli.compress(data, quality=3))


ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": quick_brotli,
    "zstd": zstd.compress,
}


def decode(encoding: str, *data: bytes, limit: int = 10 * MIB) -> bytes:
    decoder = Decoder(encoding, limit)
    body = b"".join(piece for part in data for piece in decoder.feed(part))
    decoder.finish()
    return body


def reason_of(encoding: str, *data: bytes, limit: int = 10 * MIB) -> str:
    with pytest.raises(BodyError) as caught:
        decode(encoding, *data, limit=limit)
    return caught.value.reason


def in_bytes(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


# -- the decoder alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODE)
def test_a_coded_body_is_decoded(encoding: str) -> None:
    assert decode(encoding, ENCODE[encoding](TEXT)) == TEXT
    assert decode(encoding, ENCODE[encoding](b"")) == b""


@pytest.mark.parametrize("encoding", ENCODE)
def test_a_body_may_come_byte_by_byte(encoding: str) -> None:
    assert decode(encoding, *in_bytes(ENCODE[encoding](TEXT[:3000]))) == TEXT[:3000]


@pytest.mark.parametrize(
    ("encoding", "coded"),
    [
        ("deflate", bare_deflate(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("GZIP", gzip.compress(TEXT)),
        (" gzip , identity", gzip.compress(TEXT)),
        ("identity", TEXT),
        ("", TEXT),
        ("gzip, br", quick_brotli(gzip.compress(TEXT))),
        ("gzip, gzip", gzip.compress(gzip.compress(TEXT))),
        ("deflate, zstd", zstd.compress(bare_deflate(TEXT))),
    ],
)
def test_codings_go_by_their_names_and_come_off_last_first(encoding: str, coded: bytes) -> None:
    assert decode(encoding, coded) == TEXT


def test_bare_deflate_is_told_from_zlib_at_its_second_byte() -> None:
    assert decode("deflate", *in_bytes(bare_deflate(TEXT[:500]))) == TEXT[:500]


@pytest.mark.hostile("S23")
@pytest.mark.parametrize(
    "encoding", ["compress", "gzip, gzip, gzip", "utf-8", "aes128gcm", "br;q=1", "gzip\x00", "exi"]
)
def test_a_coding_that_is_not_understood_is_an_error(encoding: str) -> None:
    with pytest.raises(BodyError) as caught:
        Decoder(encoding, MIB)
    assert (caught.value.reason, caught.value.retryable) == ("body_encoding", False)


@pytest.mark.hostile("S25")
@pytest.mark.parametrize("encoding", ENCODE)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_body_is_never_a_whole_one(encoding: str, keep: float) -> None:
    coded = ENCODE[encoding](TEXT)
    assert reason_of(encoding, coded[: int(len(coded) * keep)]) == "body_truncated"
    assert reason_of(encoding, coded[:-1]) == "body_truncated"
    assert reason_of(encoding, coded[:1]) == "body_truncated"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, br"])
def test_a_body_without_a_byte_is_empty(encoding: str) -> None:
    assert decode(encoding) == b""
    assert decode(encoding, b"") == b""


@pytest.mark.parametrize("encoding", ENCODE)
def test_a_body_that_is_not_coded_as_it_says_is_an_error_for_good(encoding: str) -> None:
    with pytest.raises(BodyError) as caught:
        decode(encoding, b"<html>not coded at all</html>")
    assert (caught.value.reason, caught.value.retryable) == ("body_encoding", False)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_was_damaged_on_its_way_is_an_error(encoding: str) -> None:
    coded = bytearray(ENCODE[encoding](TEXT))
    coded[len(coded) // 2] ^= 1
    assert reason_of(encoding, bytes(coded)) == "body_encoding"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_several_members_are_one_body(encoding: str) -> None:
    encode = ENCODE[encoding]
    coded = encode(b"one ") + encode(b"") + encode(TEXT) + encode(b" three")
    expected = b"one " + TEXT + b" three"
    assert decode(encoding, coded) == expected
    assert decode(encoding, *(coded[at : at + 7] for at in range(0, len(coded), 7))) == expected
    assert reason_of(encoding, coded[:-3]) == "body_truncated"


def test_a_skippable_frame_is_skipped() -> None:
    skippable = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00ABCDE"
    assert decode("zstd", skippable + zstd.compress(b"one ") + skippable + zstd.compress(b"two")) == b"one two"


@pytest.mark.hostile("S23")
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_members_are_counted(encoding: str) -> None:
    empty = ENCODE[encoding](b"")
    assert decode(encoding, empty * 999 + ENCODE[encoding](b"last")) == b"last"
    started = time.process_time()
    assert reason_of(encoding, empty * 200_000) == "body_encoding"
    assert time.process_time() - started < 0.5  # without a count it takes 15 s


@pytest.mark.parametrize(
    "garbage", [b"\0", b"\0" * 1000, b"\r\n", b"\x1f", b"\x1f\x8a", b"<!-- cached -->", b"\x28\xb5\x2f"]
)
@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate"])
def test_what_follows_the_end_is_ignored(encoding: str, garbage: bytes) -> None:
    coded = ENCODE[encoding](TEXT)
    assert decode(encoding, coded + garbage) == TEXT
    assert decode(encoding, coded, *in_bytes(garbage)) == TEXT


def test_what_follows_the_end_of_brotli_in_a_later_part_is_ignored() -> None:
    assert decode("br", quick_brotli(TEXT), b"garbage") == TEXT


@pytest.mark.hostile("S22")
@pytest.mark.parametrize("encoding", ["", *ENCODE, "gzip, gzip"])
def test_the_limit_is_exact(encoding: str) -> None:
    coded = TEXT
    for name in filter(None, encoding.split(", ")):
        coded = ENCODE[name](coded)
    assert decode(encoding, coded, limit=len(TEXT)) == TEXT
    decoder = Decoder(encoding, len(TEXT) - 1)
    sizes: list[int] = []
    with pytest.raises(BodyError) as caught:
        sizes.extend(map(len, decoder.feed(coded)))
    assert (caught.value.reason, caught.value.retryable) == ("body_too_large", False)
    assert sum(sizes) < len(TEXT)


# -- bombs -------------------------------------------------------------------------------------------------------------


def zlib_bomb(wbits: int) -> bytes:
    """A full flush forgets what came before, so what lies between two of them may stand there any number of times."""
    coder = zlib.compressobj(9, wbits=wbits)
    start = coder.compress(b"") + coder.flush(zlib.Z_FULL_FLUSH)
    return start + (coder.compress(bytes(MIB)) + coder.flush(zlib.Z_FULL_FLUSH)) * 1024


def brotli_bomb() -> bytes:
    """The second block of zeros copies from before it, so it may come again and again."""
    coder = brotli.Compressor(quality=1, lgwin=16)
    first, again = (coder.process(bytes(MIB)) + coder.flush() for _ in range(2))
    return bytes(first + again * 1023 + coder.finish())


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    """A gigabyte of zeros each, in at most a megabyte; in layers in at most 3 KB."""
    in_gzip = zlib_bomb(16 + zlib.MAX_WBITS)
    return {
        "gzip": in_gzip,
        "deflate": zlib_bomb(-zlib.MAX_WBITS),
        "br": brotli_bomb(),
        "zstd": zstd.compress(bytes(64 * MIB)) * 16,
        "gzip, gzip": gzip.compress(in_gzip),
        "gzip, zstd": zstd.compress(in_gzip),
        "br, br": quick_brotli(brotli_bomb()),
    }


BOMBS = ("gzip", "deflate", "br", "zstd", "gzip, gzip", "gzip, zstd", "br, br")


@pytest.mark.hostile("S22", "S23")
@pytest.mark.parametrize("encoding", BOMBS)
def test_a_bomb_stops_at_the_limit_without_taking_memory(bombs: dict[str, bytes], encoding: str) -> None:
    bomb = bombs[encoding]
    assert len(bomb) < 1.1 * MIB
    limit = 8 * MIB
    decoder = Decoder(encoding, limit)
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(BodyError) as caught:
            sizes.extend(len(piece) for piece in decoder.feed(bomb))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "body_too_large"
    assert max(sizes) <= STEP_BYTES
    assert limit - STEP_BYTES <= sum(sizes) <= limit
    assert peak < 2 * MIB


def test_a_bomb_is_as_large_as_it_claims(bombs: dict[str, bytes]) -> None:
    """Else the test above would prove little. The one that is quickest, to its end."""
    assert sum(map(len, Decoder("zstd", 1024 * MIB).feed(bombs["zstd"]))) == 1024 * MIB


@pytest.mark.hostile("S22")
def test_input_that_gives_nothing_has_a_limit_too() -> None:
    coder = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    header = coder.compress(b"") + coder.flush(zlib.Z_FULL_FLUSH)
    nothing = b"\x00\x00\x00\xff\xff" * 10_000  # empty stored blocks
    assert reason_of("gzip", header, nothing * 3, limit=10_000) == "body_too_large"


@pytest.mark.hostile("S22")
def test_a_window_larger_than_http_allows_is_refused() -> None:
    coder = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    assert reason_of("zstd", coder.compress(TEXT) + coder.flush()) == "body_encoding"


# -- over a connection -------------------------------------------------------------------------------------------------


LIMIT = aiohttp.ClientTimeout(total=10)


@asynccontextmanager
async def fetched(
    script: Script, method: str = "GET", timeout: aiohttp.ClientTimeout = LIMIT
) -> AsyncIterator[tuple[aiohttp.ClientResponse, RawServer]]:
    async with (
        RawServer(script, keep_alive=True) as server,
        aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session,
        session.request(method, server.url) as response,
    ):
        yield response, server


async def collected(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """As a callback that reads its stream, and the crawler that closes it."""
    try:
        return b"".join([piece async for piece in open_stream(response, limit).iter_any()])
    except BaseException:
        response.close()
        raise


Reader = Callable[[aiohttp.ClientResponse, int], Coroutine[Any, Any, bytes | None]]
READERS = pytest.mark.parametrize("read", [read_body, collected])


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n" + body


@READERS
@pytest.mark.parametrize("encoding", ["identity", *ENCODE])
async def test_a_body_is_read_and_decoded(read: Reader, encoding: str) -> None:
    coded = ENCODE.get(encoding, bytes)(TEXT)
    async with fetched(answer(coded, f"Content-Encoding: {encoding}")) as (response, _):
        assert await read(response, len(TEXT)) == TEXT


@READERS
async def test_a_body_without_coding_is_read(read: Reader) -> None:
    async with fetched(answer(TEXT)) as (response, _):
        assert await read(response, len(TEXT)) == TEXT


@READERS
async def test_two_headers_are_two_codings(read: Reader) -> None:
    coded = quick_brotli(gzip.compress(TEXT))
    async with fetched(answer(coded, "Content-Encoding: gzip", "Content-Encoding: br")) as (response, _):
        assert await read(response, MIB) == TEXT


@READERS
async def test_a_chunked_coded_body_is_read(read: Reader) -> None:
    coded = gzip.compress(TEXT)
    async with fetched(chunked(coded[:10], coded[10:11], coded[11:])) as (response, _):
        assert await read(response, MIB) == TEXT


@READERS
@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 99999999\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Encoding: gzip\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99999999\r\nContent-Encoding: no-such\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_an_answer_without_body_is_empty_whatever_its_headers_say(read: Reader, method: str, head: bytes) -> None:
    async with fetched(head, method) as (response, _):
        assert await read(response, 1000) == b""
        assert response.closed


@READERS
async def test_a_connection_is_used_again_after_a_whole_body(read: Reader) -> None:
    async with (
        RawServer(answer(gzip.compress(TEXT), "Content-Encoding: gzip"), keep_alive=True) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        for _ in range(3):
            async with session.get(server.url) as response:
                assert await read(response, MIB) == TEXT
        assert (server.connections, len(server.requests)) == (1, 3)


@pytest.mark.hostile("R-36")
async def test_a_length_over_the_limit_is_refused_before_the_body_comes() -> None:
    async with fetched(hang(answer(b"", length=MIB + 1))) as (response, _):
        with pytest.raises(BodyError) as caught:
            await read_body(response, MIB)
        assert (caught.value.reason, caught.value.retryable) == ("body_too_large", False)
        assert response.closed


@pytest.mark.hostile("S26", "R-36")
@READERS
async def test_a_body_that_never_ends_is_left_at_the_limit(read: Reader) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    async with fetched(script) as (response, _):
        with pytest.raises(BodyError) as caught:
            await read(response, MIB)
        assert caught.value.reason == "body_too_large"
        assert response.closed


@pytest.mark.hostile("S25", "R-17")
@READERS
@pytest.mark.parametrize(
    "script",
    [
        answer(b"abc", "Connection: close", length=10),
        reset(answer(b"abc", length=10)),
        answer(gzip.compress(TEXT)[:-20], "Content-Encoding: gzip"),
        answer(gzip.compress(TEXT)[:-20], "Content-Encoding: gzip", "Connection: close", length=MIB),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nabcde\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(TEXT)[:-20],
    ],
    ids=["length", "reset", "coded", "coded length", "chunks", "coded until close"],
)
async def test_a_body_cut_short_is_never_a_success(read: Reader, script: Script) -> None:
    async with (
        RawServer(script) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(server.url) as response,
    ):
        with pytest.raises(BodyError) as caught:
            await read(response, 10 * MIB)
        assert (caught.value.reason, caught.value.retryable) == ("body_truncated", True)


@READERS
@pytest.mark.parametrize(
    ("timeout", "reason"),
    [
        (aiohttp.ClientTimeout(sock_read=0.05), "read_timeout"),
        (aiohttp.ClientTimeout(total=0.2), "total_timeout"),
    ],
)
@pytest.mark.parametrize("header", ["X-Coded: no", "Content-Encoding: gzip"])
async def test_a_body_that_stops_coming_is_a_time_out(
    read: Reader, timeout: aiohttp.ClientTimeout, reason: str, header: str
) -> None:
    async with fetched(hang(answer(gzip.compress(TEXT)[:50], header, length=1000)), timeout=timeout) as (response, _):
        with pytest.raises(errors.TimeoutError) as caught:
            await read(response, MIB)
        assert caught.value.reason == reason


@READERS
async def test_a_coding_that_is_not_understood_is_refused_unread(read: Reader) -> None:
    async with fetched(hang(answer(b"", "Content-Encoding: no-such", length=100))) as (response, _):
        with pytest.raises(BodyError) as caught:
            await read(response, MIB)
        assert caught.value.reason == "body_encoding"


@READERS
async def test_cancelling_closes_the_connection(read: Reader) -> None:
    async with fetched(hang(answer(b"abc", length=10))) as (response, _):
        task = asyncio.create_task(read(response, MIB))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert response.closed


async def streamed(response: aiohttp.ClientResponse, limit: int) -> None:
    async for _ in open_stream(response, limit).iter_any():
        pass


@pytest.mark.parametrize("read", [read_body, streamed])
@pytest.mark.parametrize("encoding", BOMBS)
async def test_the_loop_keeps_turning_while_a_bomb_is_decoded(
    bombs: dict[str, bytes], encoding: str, read: Reader
) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with fetched(answer(bombs[encoding], f"Content-Encoding: {encoding}")) as (response, _):
        ticker = asyncio.create_task(turn())
        await asyncio.sleep(0)
        before = turns
        with pytest.raises(BodyError):
            await read(response, 8 * MIB)
        assert turns - before >= 20
        ticker.cancel()


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_without_coding_aiohttps_own_stream_is_below() -> None:
    async with fetched(answer(TEXT, "Content-Encoding: identity")) as (response, _):
        stream = open_stream(response, MIB)
        assert source(stream) is response.content
        assert await stream.read(3) == TEXT[:3]
        assert source(stream) is stream
        assert stream.total_bytes == response.content.total_bytes > 0


async def test_errors_of_a_stream_that_is_not_coded_are_ours_too() -> None:
    async with fetched(answer(b"abc", length=10)) as (response, _):
        stream = open_stream(response, MIB)
        assert await stream.readany() == b"abc"
        response.close()
        for _ in range(2):  # it stays
            with pytest.raises(FetchError) as caught:
                await stream.readany()
    assert isinstance(caught.value, FetchError)


async def test_a_stream_that_is_not_coded_ends_at_the_limit_too() -> None:
    async with fetched(answer(b"z" * 3000)) as (response, _):
        with pytest.raises(BodyError) as caught:
            await collected(response, 2000)
    assert caught.value.reason == "body_too_large"


async def test_a_coded_stream_reads_like_aiohttps_own() -> None:
    coded = answer(gzip.compress(TEXT), "Content-Encoding: gzip")
    lines = TEXT.splitlines(keepends=True)
    async with RawServer(coded, keep_alive=True) as server, aiohttp.ClientSession(auto_decompress=False) as session:

        @asynccontextmanager
        async def stream() -> AsyncIterator[aiohttp.StreamReader]:
            async with session.get(server.url) as response:
                content = open_stream(response, MIB)
                assert isinstance(content, aiohttp.StreamReader)
                assert not content.at_eof()
                yield content
                assert content.at_eof()
                assert await content.read() == await content.readany() == await content.read(5) == b""
                assert content.total_bytes == len(TEXT)
                assert content.total_raw_bytes == len(gzip.compress(TEXT))

        async with stream() as content:
            assert await content.read() == TEXT
        async with stream() as content:
            assert await content.readexactly(100_000) + await content.readexactly(len(TEXT) - 100_000) == TEXT
            with pytest.raises(asyncio.IncompleteReadError):
                await content.readexactly(1)
        async with stream() as content:
            assert [line async for line in content] == lines
        async with stream() as content:
            assert await content.readline() == lines[0]
            assert await content.readuntil(b"page") == lines[1][: lines[1].index(b"page") + 4]
            await content.read()
        async with stream() as content:
            pieces = [piece async for piece in content.iter_chunked(1000)]
            assert b"".join(pieces) == TEXT
            assert max(map(len, pieces)) == 1000
        async with stream() as content:
            pieces = [piece async for piece in content.iter_any()]
            assert b"".join(pieces) == TEXT
            assert max(map(len, pieces)) <= STEP_BYTES
        async with stream() as content:
            assert b"".join([piece async for piece, _ in content.iter_chunks()]) == TEXT
        async with stream() as content:
            await content.wait_eof()
            got = content.read_nowait(10)
            while piece := content.read_nowait():
                got += piece
            assert got == TEXT
            await content.read()


async def test_a_coded_stream_decodes_no_more_than_is_read(bombs: dict[str, bytes]) -> None:
    async with fetched(answer(bombs["br"], "Content-Encoding: br")) as (response, _):
        content = open_stream(response, 2048 * MIB)
        assert isinstance(content, DecodedStream)
        for expected in (10, 1000, 100_000):
            before = content.total_bytes
            assert await content.readexactly(expected) == bytes(expected)
            assert content.total_bytes - before <= expected + STEP_BYTES


async def test_a_slow_reader_slows_the_server_down() -> None:
    sent = 0

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        coder = zlib.compressobj(0, wbits=16 + zlib.MAX_WBITS)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n")
        while sent < 64 * MIB:
            writer.write(coder.compress(bytes(MIB)))
            sent += MIB
            await writer.drain()
        writer.write(coder.flush())

    async with fetched(script) as (response, _):
        content = open_stream(response, 100 * MIB)
        assert len(await content.read(1000)) == 1000
        for _ in range(1000):
            await asyncio.sleep(0)
        assert sent < 32 * MIB


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answer(gzip.compress(TEXT)[:-20], "Content-Encoding: gzip"), "body_truncated"),
        (
            answer(gzip.compress(TEXT)[:-20], "Content-Encoding: gzip", "Connection: close", length=MIB),
            "body_truncated",
        ),
        (answer(b"not gzip", "Content-Encoding: gzip"), "body_encoding"),
        (answer(gzip.compress(bytes(2 * MIB)), "Content-Encoding: gzip"), "body_too_large"),
    ],
    ids=["cut", "cut connection", "broken", "too large"],
)
async def test_a_coded_stream_fails_with_our_errors_and_stays_failed(script: bytes, reason: str) -> None:
    async with (
        RawServer(script) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(server.url) as response,
    ):
        content = open_stream(response, MIB)
        for _ in range(2):
            with pytest.raises(BodyError) as caught:
                await content.read()
            assert caught.value.reason == reason
        assert content.exception() is caught.value
        assert not content.at_eof()


async def test_reading_ahead_fails_with_our_errors_too() -> None:
    async with fetched(answer(b"not gzip", "Content-Encoding: gzip")) as (response, _):
        content = open_stream(response, MIB)
        await content.wait_eof()
        with pytest.raises(BodyError):
            content.read_nowait()
        with pytest.raises(BodyError):
            await content.read()


async def test_a_cancelled_read_loses_nothing() -> None:
    go_on = asyncio.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        coded = gzip.compress(TEXT)
        writer.write(answer(coded[:100], "Content-Encoding: gzip", "Connection: close", length=len(coded)))
        await go_on.wait()
        writer.write(coded[100:])

    async with fetched(script) as (response, _):
        content = open_stream(response, MIB)
        got = await content.readany()
        task = asyncio.create_task(content.readany())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        assert got + await content.read() == TEXT
