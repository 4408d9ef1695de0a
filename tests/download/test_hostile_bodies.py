"""Bodies that are larger, deeper or shorter than they say, through the whole client."""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import json
import resource
import subprocess
import sys
import time
import zlib
from pathlib import Path

import brotli
import pytest
from bombs import LIMIT, zstd
from fetching import WAYS, downloader, outcome, saved

from crawler.download.body import STEP_BYTES
from crawler.testing.raw import RawServer, answer, hang

MIB = 1 << 20
HERE = Path(__file__).parent
TEXT = b"".join(b"<li>line %d of a page that compresses well</li>\n" % number for number in range(3000))
ENCODE = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": functools.partial(brotli.compress, quality=3),
    "zstd": zstd.compress,
}


@pytest.mark.hostile("S22", "S23")
def test_two_gibibytes_in_a_few_kilobytes_end_at_the_limit_in_bounded_memory_and_others_have_their_turns() -> None:
    said = subprocess.run(
        [sys.executable, HERE / "bombs.py"], capture_output=True, text=True, timeout=120, check=False, cwd=HERE
    )
    assert said.returncode == 0, said.stderr
    found = [json.loads(line) for line in said.stdout.splitlines()]
    assert len(found) == 5 * 4
    assert {(each["encoding"], each["way"], each["reason"]) for each in found} == {
        (encoding, way, "body_too_large")
        for encoding in (*ENCODE, "gzip, gzip")
        for way in ("plain", "session", "stream", "save")
    }
    for each in found:
        assert each["sent"] < 2.2 * MIB
        assert each["lag_seconds"] < 0.05
        assert each["grown_kib"] < 64 * 1024
        assert each["left"] == []  # of what was to be a file
        if each["way"] == "stream":
            assert LIMIT - STEP_BYTES <= each["got"] <= LIMIT


@pytest.mark.hostile("S23")
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("way", WAYS)
async def test_200_000_empty_members_are_too_many(way: str, encoding: str) -> None:
    sent = answer(ENCODE[encoding](b"") * 200_000, f"Content-Encoding: {encoding}")
    async with RawServer(sent) as server, downloader() as client:
        began = time.thread_time()
        assert await outcome(client, server.url, way) == "body_encoding"
        assert time.thread_time() - began < 0.1


@pytest.mark.hostile("S23")
@pytest.mark.parametrize("encoding", ["gzip, gzip, gzip", "compress", "gzip\x01", "aes128gcm"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_coding_that_is_not_understood_is_never_a_page(way: str, encoding: str) -> None:
    sent = answer(TEXT, f"Content-Encoding: {encoding}")
    async with RawServer(sent) as server, downloader() as client:
        assert await outcome(client, server.url, way) in ("body_encoding", "protocol")


@pytest.mark.hostile("S25")
@pytest.mark.parametrize("encoding", ENCODE)
@pytest.mark.parametrize("keep", [0.3, 0.99])
async def test_a_coded_body_that_was_cut_is_never_a_page_though_its_length_is_right(
    encoding: str, keep: float, tmp_path: Path
) -> None:
    coded = ENCODE[encoding](TEXT)
    sent = answer(coded[: int(len(coded) * keep)], f"Content-Encoding: {encoding}")
    async with RawServer(sent, keep_alive=True) as server, downloader() as client:
        for way in WAYS:
            assert await outcome(client, server.url, way) == "body_truncated"
        assert await saved(client, server.url, tmp_path / "file") == "body_truncated"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.hostile("R-36")
@pytest.mark.parametrize("way", ["plain", "session"])
async def test_a_gigabyte_with_a_length_is_refused_after_its_headers(way: str) -> None:
    async with RawServer(hang(answer(b"", length=1 << 30))) as server, downloader() as client:
        async with asyncio.timeout(20):
            assert await outcome(client, server.url, way) == "body_too_large"


@pytest.mark.hostile("R-36")
@pytest.mark.parametrize("way", ["plain", "session"])
@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Connection: close"])
async def test_a_gigabyte_without_a_length_is_left_at_the_limit(way: str, framing: str) -> None:
    sent = 0

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        piece = b"10000\r\n" + bytes(65_536) + b"\r\n" if "chunked" in framing else bytes(65_536)
        while sent < 1 << 30:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()

    async with RawServer(script) as server, downloader() as client:
        assert await outcome(client, server.url, way) == "body_too_large"
    assert sent < 10 * MIB + 16 * MIB  # the limit, and what the system's buffers hold


@pytest.mark.hostile("R-36")
async def test_a_large_file_is_saved_whole_in_bounded_memory(tmp_path: Path) -> None:
    piece = bytes(range(256)) * 4096
    count = 96

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(count):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    expected = hashlib.sha256()
    for _ in range(count):
        expected.update(piece)
    async with RawServer(script) as server, downloader() as client:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert await saved(client, server.url, tmp_path / "file") == expected.hexdigest()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
    assert (tmp_path / "file").stat().st_size == count * len(piece)
