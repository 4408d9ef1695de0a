"""Bodies as they are sent: plain, from disk, compressed, in chunks; and live ones, which are for inline fetches."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import zlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from asking import INLINE, Asking, ask, ask_all

from crawler import FilePath, Request, Response
from crawler.testing import LocalSite, run_spider
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from httpbin_server import HttpBin

MIB = 2**20


def sent_bytes(echo: dict[str, Any]) -> bytes:
    """The body as httpbin got it: what is not UTF-8 it shows as a data URL."""
    return plain(echo["data"])


def plain(shown: str) -> bytes:
    return base64.b64decode(shown.partition(",")[2]) if shown.startswith("data:") else shown.encode()


# -- plain bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_body_goes_with_every_method_that_takes_one(way: str, httpbin: HttpBin, method: str) -> None:
    seen = await ask(way, Request(httpbin / "anything", method=method, data=b"\x00\xff\x80"))
    assert sent_bytes(seen.reply.json()) == b"\x00\xff\x80"
    assert seen.reply.json()["headers"]["Content-Type"] == "application/octet-stream"
    assert seen.reply.json()["headers"]["Content-Length"] == "3"


async def test_text_goes_out_in_utf8(way: str, httpbin: HttpBin) -> None:
    text = "a=ä 日本"
    steps = [Request(httpbin / "post", method="POST", data=text), Request(httpbin / "post", method="POST", body=text)]
    data, body = (each.reply.json() for each in (await ask_all(way, steps)).seen)
    assert (data["data"], data["headers"]["Content-Type"]) == (text, "text/plain; charset=utf-8")
    assert (body["data"], body["headers"]["Content-Type"]) == (text, "application/octet-stream")


async def test_a_file_is_uploaded_from_its_path(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"line\r\n\xff")
    seen = await ask(way, Request(httpbin / "put", method="PUT", data=FilePath(tmp_path / "notes.txt")))
    assert sent_bytes(seen.reply.json()) == b"line\r\n\xff"
    assert seen.reply.json()["headers"]["Content-Length"] == "7"


async def test_a_large_file_arrives_whole(way: str, tmp_path: Path) -> None:
    sent, got = hashlib.sha256(), hashlib.sha256()
    with (tmp_path / "large.bin").open("wb") as file:
        for number in range(64):
            piece = number.to_bytes(4, "big") * (MIB // 4)
            sent.update(piece)
            file.write(piece)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = 64 * MIB
        while left:
            piece = await reader.read(min(left, MIB))
            assert piece
            got.update(piece)
            left -= len(piece)
        writer.write(answer(b"thanks"))
        await writer.drain()

    async with RawServer(take) as server:
        request = Request(server.url, method="PUT", data=FilePath(tmp_path / "large.bin"))
        seen = await ask(way, request)
    assert seen.reply.text == "thanks"
    assert f"Content-Length: {64 * MIB}\r\n".encode() in server.requests[0]
    assert got.digest() == sent.digest()


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
async def test_a_body_may_be_compressed_on_the_way(
    way: str, httpbin: HttpBin, coding: str, unpack: Callable[[bytes], bytes]
) -> None:
    text = b"again and again " * 1000
    seen = await ask(way, Request(httpbin / "post", method="POST", data=text, compress=coding))
    echo = seen.reply.json()
    assert echo["headers"]["Content-Encoding"] == coding
    assert unpack(sent_bytes(echo)) == text


@pytest.mark.parametrize("what", ["json", "form", "file"])
async def test_every_kind_of_body_may_be_compressed(way: str, httpbin: HttpBin, tmp_path: Path, what: str) -> None:
    (tmp_path / "file.txt").write_text("from disk")
    bodies: dict[str, dict[str, Any]] = {
        "json": {"json": {"a": 1}},
        "form": {"data": {"a": "1"}},
        "file": {"data": FilePath(tmp_path / "file.txt")},
    }
    seen = await ask(way, Request(httpbin / "anything", method="PUT", compress="gzip", **bodies[what]))
    async with LocalSite() as site:  # aiohttp's server takes the coding off, httpbin does not
        site.page("/", "ok")
        await ask(way, Request(site.url, method="PUT", compress="gzip", **bodies[what]))
        (hit,) = site.requests()
    assert seen.reply.json()["headers"]["Content-Encoding"] == "gzip"
    assert hit.body == {"json": b'{"a": 1}', "form": b"a=1", "file": b"from disk"}[what]


async def test_a_body_that_is_compressed_already_goes_out_as_it_is(way: str, httpbin: HttpBin) -> None:
    packed = gzip.compress(b"packed at home")
    request = Request(httpbin / "post", method="POST", body=packed, headers={"Content-Encoding": "gzip"})
    echo = (await ask(way, request)).reply.json()
    assert sent_bytes(echo) == packed
    assert echo["headers"]["Content-Encoding"] == "gzip"
    assert echo["headers"]["Content-Length"] == str(len(packed))


async def test_a_body_may_be_sent_in_chunks(way: str, httpbin: HttpBin) -> None:
    echo = (await ask(way, Request(httpbin / "post", method="POST", data=b"x" * 100_000, chunked=True))).reply.json()
    assert echo["headers"]["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in echo["headers"]
    assert echo["data"] == "x" * 100_000


async def test_a_body_may_wait_until_the_server_says_continue(way: str, httpbin: HttpBin) -> None:
    echo = (await ask(way, Request(httpbin / "put", method="PUT", data=b"wanted", expect100=True))).reply.json()
    assert echo["headers"]["Expect"] == "100-continue"
    assert echo["data"] == "wanted"


# -- live bodies: inline, and refused when yielded ---------------------------------------------------------------------


async def numbers() -> AsyncIterator[bytes]:
    for number in range(1000):
        yield b"%d\n" % number


def open_file(folder: Path) -> Any:
    (folder / "open.bin").write_bytes(b"\x00from an open file")
    return (folder / "open.bin").open("rb")


LIVE: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "an open file": (open_file, b"\x00from an open file"),
    "a file in memory": (lambda folder: io.BytesIO(b"\x00in memory"), b"\x00in memory"),
    "a text file": (lambda folder: io.StringIO("text ä"), "text ä".encode()),
    "an async generator": (lambda folder: numbers(), b"".join(b"%d\n" % number for number in range(1000))),
}


@pytest.mark.parametrize("kind", LIVE)
async def test_a_live_body_is_sent_inline(httpbin: HttpBin, tmp_path: Path, kind: str) -> None:
    make, expected = LIVE[kind]
    live = make(tmp_path)
    try:
        seen = await ask(INLINE, Request(httpbin / "post", method="POST", data=live))
    finally:
        if hasattr(live, "close"):
            live.close()
    assert sent_bytes(seen.reply.json()) == expected


@pytest.mark.parametrize("how", ["a form with an open file", "a dict with an open file"])
async def test_an_open_file_may_be_one_field_inline(httpbin: HttpBin, tmp_path: Path, how: str) -> None:
    with open_file(tmp_path) as opened:
        form: Any = {"file": opened}
        if how.startswith("a form"):
            form = aiohttp.FormData(form)
        seen = await ask(INLINE, Request(httpbin / "post", method="POST", data=form))
    assert plain(seen.reply.json()["files"]["file"]) == b"\x00from an open file"


async def test_a_download_may_be_an_upload_without_being_held(httpbin: HttpBin) -> None:
    class Copying(Asking):
        async def opened(self) -> None:
            source = await self.fetch(Request(httpbin / "range/100000", stream=True))
            copied = await self.fetch(Request(httpbin / "put", method="PUT", data=source.content))
            self.seen = [copied.json(), source.body]

    run = await run_spider(Copying, args={"way": INLINE})
    echo, held = run.spider.seen  # type: ignore[attr-defined]
    assert echo["data"] == "".join(chr(ord("a") + number % 26) for number in range(100_000))
    assert echo["headers"]["Transfer-Encoding"] == "chunked"
    assert held == b""


@pytest.mark.parametrize("kind", [*LIVE, "a form with an open file", "another response's content"])
async def test_a_live_body_that_is_yielded_is_refused_with_the_way_out(
    httpbin: HttpBin, tmp_path: Path, kind: str
) -> None:
    with open_file(tmp_path) as file:

        class Yielding(Asking):
            async def parse(self, response: Response) -> Any:
                if kind in LIVE:
                    data = LIVE[kind][0](tmp_path)
                else:
                    data = aiohttp.FormData({"file": file}) if kind.startswith("a form") else response.content
                try:
                    yield Request(httpbin / "post", method="POST", data=data)
                finally:
                    if hasattr(data, "close"):
                        data.close()

        run = await run_spider(Yielding, args={"steps": [Request(httpbin / "range/10", stream=True)]})
    (seen,) = run.spider.seen  # type: ignore[attr-defined]
    assert "await self.fetch" in str(seen.error)
    assert seen.failure.reason == "callback_error"
    assert run.stats["requests"] == 1  # the page, and nothing after it


async def test_a_body_is_one_of_three() -> None:
    with pytest.raises(ValueError, match="one of body, data and json"):
        Request("http://example.com/", method="POST", data={"a": "1"}, json={})
