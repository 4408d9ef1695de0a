"""Bodies read as they come, and saved. The stream is open while its callback runs, or until the caller closes it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from asking import ask, ask_all

from crawler import Request, Response
from crawler.errors import BodyError, OutputError
from crawler.testing import LocalSite
from crawler.testing.raw import RawServer, answer, hang

if TYPE_CHECKING:
    from pathlib import Path

    from httpbin_server import HttpBin

ONCE = {"retry": {"times": 0}}
ALPHABET = bytes(range(ord("a"), ord("z") + 1))


def letters(count: int) -> bytes:
    """What httpbin's /range gives."""
    return (ALPHABET * (count // 26 + 1))[:count]


def content_of(response: Response) -> aiohttp.StreamReader:
    assert response.content is not None
    assert response.body == b""
    return response.content


# -- reading ---------------------------------------------------------------------------------------------------------


async def test_lines_come_one_by_one(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> list[Any]:
        return [json.loads(line) async for line in content_of(response)]

    seen = await ask(way, Request(httpbin / "stream/20", stream=True), read=read)
    assert [line["id"] for line in seen.value] == list(range(20))


async def test_a_line_may_be_read_and_the_rest_left(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> int:
        number: int = json.loads(await content_of(response).readline())["id"]
        return number

    steps = [Request(httpbin / "stream/100", stream=True), Request(httpbin / "stream/1", stream=True)]
    seen = (await ask_all(way, steps, read=read, settings={"politeness": {"concurrency_per_host": 1}})).seen
    assert [each.value for each in seen] == [0, 0]


@pytest.mark.parametrize("size", [1000, 100_000, 1 << 20])
async def test_a_body_is_read_in_chunks_of_a_size(way: str, httpbin: HttpBin, size: int) -> None:
    async def read(response: Response) -> list[bytes]:
        return [chunk async for chunk in content_of(response).iter_chunked(size)]

    seen = await ask(way, Request(httpbin / "range/100000?chunk_size=7000", stream=True), read=read)
    assert b"".join(seen.value) == letters(100_000)
    assert max(map(len, seen.value)) <= size


async def test_a_body_is_read_as_it_arrives(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> list[bytes]:
        return [chunk async for chunk in content_of(response).iter_any()]

    seen = await ask(way, Request(httpbin / "stream-bytes/50000?seed=3&chunk_size=5000", stream=True), read=read)
    again = await ask(way, Request(httpbin / "bytes/50000?seed=3"))
    assert b"".join(seen.value) == again.reply.body


async def test_a_body_is_read_by_count_to_its_end(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> list[bytes]:
        content = content_of(response)
        return [
            await content.readexactly(3),
            await content.readuntil(b"z"),
            await content.readexactly(26),
            await content.read(),
            await content.read(10),
            await content.readline(),
        ]

    seen = await ask(way, Request(httpbin / "range/100", stream=True), read=read)
    text = letters(100)
    assert seen.value == [b"abc", text[3:26], ALPHABET, text[52:], b"", b""]


async def test_reading_less_than_there_is_gives_at_most_that(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> bytes:
        content, got = content_of(response), b""
        while piece := await content.read(777):
            assert len(piece) <= 777
            got += piece
        assert content.at_eof()
        return got

    seen = await ask(way, Request(httpbin / "range/10000", stream=True), read=read)
    assert seen.value == letters(10_000)


@pytest.mark.parametrize(("path", "mark"), [("gzip", "gzipped"), ("deflate", "deflated"), ("brotli", "brotli")])
async def test_a_stream_is_decoded(way: str, httpbin: HttpBin, path: str, mark: str) -> None:
    async def read(response: Response) -> Any:
        return json.loads(await content_of(response).read())

    seen = await ask(way, Request(httpbin / path, stream=True), read=read)
    assert seen.value[mark] is True


async def test_the_callback_runs_before_the_body_is_there(way: str) -> None:
    called = asyncio.Event()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await asyncio.wait_for(called.wait(), 10)
        await response.write(b" second")
        return response

    async def read(response: Response) -> bytes:
        called.set()
        return await content_of(response).read()

    async with LocalSite() as site:
        site.route("/", half)
        seen = await ask(way, Request(site.url, stream=True), read=read)
    assert seen.value == b"first second"


async def test_a_stream_that_drips_has_no_total_time(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> bytes:
        return await content_of(response).read()

    settings = {"http": {"total_seconds": 0.4, "read_seconds": 20}}
    request = Request(httpbin / "drip?numbytes=5&duration=0.8&delay=0", stream=True)
    seen = await ask(way, request, read=read, settings=settings)
    assert seen.value == b"*****"


async def test_an_error_may_be_streamed_too(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> bytes:
        return await content_of(response).read()

    seen = await ask(way, Request(httpbin / "drip?numbytes=4&duration=0&code=404", stream=True), read=read)
    assert (seen.reply.status, seen.value) == (404, b"****")


async def test_a_redirect_leads_to_the_stream(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> bytes:
        return await content_of(response).read()

    request = Request(httpbin / "redirect-to", params={"url": "/range/30"}, stream=True)
    seen = await ask(way, request, read=read)
    assert seen.value == letters(30)
    assert [hop.status for hop in seen.reply.history] == [302]


async def test_more_than_one_part_of_a_file_may_be_asked_for(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "range/1000", headers={"Range": f"bytes={part}"}) for part in ("0-99", "990-", "-5")]
    first, rest, last = (await ask_all(way, steps)).seen
    assert (first.reply.status, first.reply.body) == (206, letters(100))
    assert rest.reply.headers["Content-Range"] == "bytes 990-999/1000"
    assert last.reply.body == letters(1000)[-5:]


async def test_a_range_that_is_not_there_is_not_satisfiable(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "range/1000", headers={"Range": "bytes=2000-"}))
    assert seen.reply.status == 416
    assert seen.reply.headers["Content-Range"] == "bytes */1000"


# -- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_body_is_saved_whole_with_its_hash(way: str, httpbin: HttpBin, tmp_path: Path, stream: bool) -> None:
    target = tmp_path / "new" / "letters.txt"

    async def read(response: Response) -> Any:
        return await response.save(target)

    seen = await ask(way, Request(httpbin / "range/100000", stream=stream), read=read)
    expected = letters(100_000)
    assert target.read_bytes() == expected
    assert (seen.value.bytes, seen.value.sha256) == (100_000, hashlib.sha256(expected).hexdigest())
    assert seen.value.resumed_from == 0
    assert [path.name for path in target.parent.iterdir()] == ["letters.txt"]


async def test_a_picture_is_saved_as_it_is(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    async def read(response: Response) -> Any:
        return await response.save(tmp_path / "pig.png")

    seen = await ask(way, Request(httpbin / "image/png", stream=True), read=read)
    assert (tmp_path / "pig.png").read_bytes().startswith(b"\x89PNG")
    assert seen.value.bytes == int(seen.reply.headers["Content-Length"])


async def test_a_coded_body_is_saved_decoded(way: str, tmp_path: Path) -> None:
    async def read(response: Response) -> Any:
        return await response.save(tmp_path / "file.txt")

    async with LocalSite() as site:
        site.page("/", gzip.compress(b"plain " * 1000), headers={"Content-Encoding": "gzip"})
        await ask(way, Request(site.url, stream=True), read=read)
    assert (tmp_path / "file.txt").read_bytes() == b"plain " * 1000


MISSING = 1 << 18
LARGE = letters(4 << 20)
"""More than the sockets between us hold, at the size that `Breaking` gives them: when it breaks off near its end, a
part of it has been read."""


class Breaking:
    """Serves `whole` with ranges; breaks off `MISSING` bytes before the end, `times` times."""

    def __init__(self, times: int) -> None:
        self.whole = LARGE
        self.times = times
        self.etag = '"v1"'
        self.ranges: list[tuple[str | None, str | None]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
        self.ranges.append((wanted, condition))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and condition == self.etag else 0
        headers = {"ETag": self.etag, "Accept-Ranges": "bytes", "Content-Length": str(len(self.whole) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.whole) - 1}/{len(self.whole)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        assert request.transport is not None
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        await response.prepare(request)
        self.times -= 1
        is_broken = self.times >= 0
        await response.write(self.whole[start : len(self.whole) - is_broken * MISSING])
        if is_broken:
            request.transport.close()
        return response


def resumable(url: str) -> Request:
    return Request(url, stream=True, headers={"Accept-Encoding": "identity"})


async def test_a_download_that_breaks_is_continued(way: str, tmp_path: Path) -> None:
    async def read(response: Response) -> Any:
        return await response.save(tmp_path / "letters.txt", resume=True)

    async with LocalSite() as site:
        serve = Breaking(times=1)
        site.route("/", serve)
        seen = await ask(way, resumable(site.url), read=read, settings=ONCE)
    assert (tmp_path / "letters.txt").read_bytes() == LARGE
    assert seen.value.sha256 == hashlib.sha256(LARGE).hexdigest()
    first, (wanted, condition) = serve.ranges
    assert first == (None, None)
    assert condition == '"v1"'
    assert wanted is not None
    assert 0 < int(wanted.removeprefix("bytes=").rstrip("-")) <= len(LARGE) - MISSING


@pytest.mark.parametrize("is_same_file", [True, False])
async def test_an_interrupted_download_goes_on_in_the_next_crawl_if_the_file_is_the_same(
    way: str, tmp_path: Path, is_same_file: bool
) -> None:
    async def read(response: Response) -> Any:
        return await response.save(tmp_path / "letters.txt", resume=True)

    async with LocalSite() as site:
        serve = Breaking(times=100)
        site.route("/", serve)
        broken = await ask(way, resumable(site.url), read=read, settings=ONCE)
        assert isinstance(broken.error, BodyError)
        assert broken.reason == "body_truncated"
        assert not (tmp_path / "letters.txt").exists()
        serve.times = 0
        if not is_same_file:
            serve.whole, serve.etag = LARGE.upper(), '"v2"'
        seen = await ask(way, resumable(site.url), read=read, settings=ONCE)
    assert (tmp_path / "letters.txt").read_bytes() == serve.whole
    assert (seen.value.resumed_from > 0) == is_same_file
    assert seen.value.sha256 == hashlib.sha256(serve.whole).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


# -- what can go wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answer(b"x" * 1000, length=2000), "body_truncated"),
        (hang(answer(b"x" * 1000, length=2000)), "read_timeout"),
        (answer(gzip.compress(b"x" * 100_000)[:-9], "Content-Encoding: gzip"), "body_truncated"),
        (answer(b"not packed", "Content-Encoding: gzip"), "body_encoding"),
    ],
)
@pytest.mark.parametrize("how", ["read", "save"])
async def test_a_stream_that_breaks_is_a_failure_with_its_word(
    way: str, tmp_path: Path, script: Any, reason: str, how: str
) -> None:
    async def read(response: Response) -> Any:
        return await (content_of(response).read() if how == "read" else response.save(tmp_path / "file"))

    settings: dict[str, Any] = {"http": {"read_seconds": 0.1}, **ONCE}
    async with RawServer(script) as server:
        seen = await ask(way, Request(server.url, stream=True), read=read, settings=settings)
    assert seen.reason == reason
    assert list(tmp_path.iterdir()) == []


async def test_a_stream_over_its_limit_is_a_failure(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    async def read(response: Response) -> Any:
        return await response.save(tmp_path / "file")

    settings = {"http": {"max_file_bytes": 50_000}}
    seen = await ask(way, Request(httpbin / "range/100000", stream=True), read=read, settings=settings)
    assert seen.reason == "body_too_large"
    assert list(tmp_path.iterdir()) == []


async def test_a_disk_that_does_not_take_it_is_an_error_of_the_output(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> Any:
        return await response.save("/proc/no-such-folder/file")

    seen = await ask(way, Request(httpbin / "range/100", stream=True), read=read)
    assert isinstance(seen.error, OutputError)


async def test_a_path_that_cannot_be_a_files_is_the_users_error(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    async def read(response: Response) -> Any:
        return await response.save(tmp_path / "file" / "below")

    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match="Not a directory"):
        await ask(way, Request(httpbin / "range/100", stream=True), read=read)


async def test_a_server_that_is_too_slow_for_too_long_is_given_up(way: str, tmp_path: Path) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x")
            await asyncio.sleep(0.02)
        return response

    async def read(response: Response) -> Any:
        return await response.save(tmp_path / "file")

    settings: dict[str, Any] = {"http": {"min_bytes_per_second": 10_000, "min_speed_seconds": 0.2}, **ONCE}
    async with LocalSite() as site:
        site.route("/", trickle)
        seen = await ask(way, Request(site.url, stream=True), read=read, settings=settings)
    assert seen.reason == "too_slow"
    assert list(tmp_path.iterdir()) == []


async def test_what_is_streamed_counts_as_bytes(way: str, httpbin: HttpBin) -> None:
    async def read(response: Response) -> bytes:
        return await content_of(response).read()

    _, run = await ask_all(way, [Request(httpbin / "range/54321", stream=True)], read=read)
    assert run.stats["bytes"] == 54_321
