"""Bodies: coded ones, large ones, and those that stream to disk."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import sys
import zlib
from typing import TYPE_CHECKING, Any, ClassVar

import brotli
import pytest
from aiohttp import web

from crawler import Failure, Request, Response, SavedFile, Spider
from crawler.testing import LocalSite, Run, run_spider

if TYPE_CHECKING:
    from pathlib import Path

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGE = ("<title>Näïve</title>" + "<p>text</p>" * 5000).encode()
CODINGS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=4),
    "zstd": zstd.compress,
}


class One(Spider):
    """Fetches `/`; notes its failures."""

    name = "one"
    site = ""
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.failures: list[Failure] = []

    async def start(self) -> Any:
        yield self.request(self.site, **self.options)

    def parse(self, response: Response) -> Any:
        yield {"title": response.css("title::text").get(), "bytes": len(response.body)}

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)


def failure_of(run: Run) -> Failure:
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert isinstance(failure, Failure)
    return failure


def leftovers(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- codings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_coded_page_is_decoded(coding: str) -> None:
    async with LocalSite() as site:
        site.page("/", CODINGS[coding](PAGE), headers={"Content-Encoding": coding})
        run = await run_spider(One, args={"site": site.url})
        (hit,) = site.requests()
    assert run.items == [{"title": "Näïve", "bytes": len(PAGE)}]
    assert coding in hit.headers["Accept-Encoding"]


async def test_two_codings_come_off_in_reverse_order() -> None:
    async with LocalSite() as site:
        site.page("/", gzip.compress(brotli.compress(PAGE)), headers={"Content-Encoding": "br, gzip"})
        run = await run_spider(One, args={"site": site.url})
    assert run.items == [{"title": "Näïve", "bytes": len(PAGE)}]


@pytest.mark.parametrize(
    ("coding", "body", "reason"),
    [
        ("gzip", gzip.compress(PAGE)[:-20], "body_truncated"),
        ("gzip", b"not gzip at all", "body_encoding"),
        ("rot13", PAGE, "body_encoding"),
        ("gzip, gzip, gzip", PAGE, "body_encoding"),
    ],
)
async def test_a_broken_coding_is_a_failure_and_never_half_a_page(coding: str, body: bytes, reason: str) -> None:
    async with LocalSite() as site:
        site.page("/", body, headers={"Content-Encoding": coding})
        run = await run_spider(One, args={"site": site.url}, settings={"retry": {"times": 1}})
    assert run.items == []
    assert failure_of(run).reason == reason
    assert len(site.paths) == (2 if reason == "body_truncated" else 1)


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_bomb_stops_at_the_limit(coding: str) -> None:
    async with LocalSite() as site:
        site.page("/", CODINGS[coding](b"\0" * 5_000_000), headers={"Content-Encoding": coding})
        settings = {"http": {"max_body_bytes": 1_000_000}}
        run = await run_spider(One, args={"site": site.url}, settings=settings)
    assert failure_of(run).reason == "body_too_large"
    assert len(site.paths) == 1


@pytest.mark.parametrize("length", ["announced", "chunked"])
async def test_a_body_over_the_limit_is_a_failure_and_not_asked_for_again(length: str) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10_000):
            await response.write(b"x" * 10_000)
        return response

    async with LocalSite() as site:
        if length == "announced":
            site.page("/", b"x" * 200_000)
        else:
            site.route("/", endless)
        settings = {"http": {"max_body_bytes": 100_000}}
        run = await run_spider(One, args={"site": site.url}, settings=settings)
    assert failure_of(run).reason == "body_too_large"
    assert run.stats["failures"] == {"body_too_large": 1}
    assert len(site.paths) == 1


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    async with LocalSite() as site:
        site.page("/", b"x" * 100_000)
        run = await run_spider(One, args={"site": site.url}, settings={"http": {"max_body_bytes": 100_000}})
    assert run.items[0]["bytes"] == 100_000


# -- streams ---------------------------------------------------------------------------------------------------------


class Streaming(One):
    options: ClassVar[dict[str, Any]] = {"stream": True}


async def test_a_streams_callback_runs_as_soon_as_the_headers_are_in() -> None:
    called = asyncio.Event()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Kind": "slow"})
        await response.prepare(request)
        await response.write(b"first")
        await asyncio.wait_for(called.wait(), 20)
        await response.write(b" second")
        return response

    class Early(Streaming):
        async def parse(self, response: Response) -> Any:
            called.set()
            assert response.content is not None
            yield {"kind": response.headers["X-Kind"], "body": response.body, "read": await response.content.read()}

    async with LocalSite() as site:
        site.route("/", half)
        run = await run_spider(Early, args={"site": site.url})
    assert run.items == [{"kind": "slow", "body": b"", "read": b"first second"}]


@pytest.mark.parametrize("coding", [None, *CODINGS])
async def test_a_stream_is_decoded_as_it_is_read(coding: str | None) -> None:
    class Lines(Streaming):
        async def parse(self, response: Response) -> Any:
            assert response.content is not None
            lines = [line async for line in response.content]
            yield {"lines": len(lines), "last": lines[-1]}

    text = b"".join(b"line %d\n" % number for number in range(20_000))
    async with LocalSite() as site:
        body = CODINGS[coding](text) if coding else text
        site.page("/", body, headers={"Content-Encoding": coding} if coding else None)
        run = await run_spider(Lines, args={"site": site.url})
    assert run.items == [{"lines": 20_000, "last": b"line 19999\n"}]


class Saving(Streaming):
    """Saves `/` to `target`."""

    target = ""

    async def parse(self, response: Response) -> Any:
        saved = await response.save(self.target)
        yield {"path": saved.path, "bytes": saved.bytes, "sha256": saved.sha256}


async def save(site: LocalSite, target: Path, *, settings: dict[str, Any] | None = None) -> Run:
    return await run_spider(Saving, args={"site": site.url, "target": str(target)}, settings=settings)


@pytest.mark.parametrize("coding", [None, "gzip"])
async def test_a_saved_stream_is_whole_and_hashed(coding: str | None, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    target = tmp_path / "new" / "folder" / "file.bin"
    async with LocalSite() as site:
        body = gzip.compress(content) if coding else content
        site.page("/", body, headers={"Content-Encoding": coding} if coding else None)
        run = await save(site, target)
    digest = hashlib.sha256(content).hexdigest()
    assert run.items == [{"path": str(target), "bytes": len(content), "sha256": digest}]
    assert target.read_bytes() == content
    assert leftovers(tmp_path) == ["new/folder/file.bin"]


async def test_a_stream_may_be_larger_than_what_fits_in_memory_by_the_settings(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/", b"x" * 500_000)
        run = await save(site, tmp_path / "file.bin", settings={"http": {"max_body_bytes": 1000}})
    assert run.items[0]["bytes"] == 500_000


@pytest.mark.parametrize("coding", [None, "gzip"])
async def test_a_stream_over_the_file_limit_leaves_nothing_behind(coding: str | None, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"the old file")
    async with LocalSite() as site:
        content = b"x" * 500_000
        body = gzip.compress(content) if coding else content
        site.page("/", body, headers={"Content-Encoding": coding} if coding else None)
        run = await save(site, tmp_path / "file.bin", settings={"http": {"max_file_bytes": 100_000}})
    assert failure_of(run).reason == "body_too_large"
    assert leftovers(tmp_path) == ["file.bin"]
    assert (tmp_path / "file.bin").read_bytes() == b"the old file"


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    await response.write(b"x" * 300_000)
    assert request.transport is not None
    request.transport.close()
    return response


async def stall(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    await response.write(b"x" * 300_000)
    await asyncio.sleep(30)
    return response


async def cut_gzip(request: web.Request) -> web.StreamResponse:
    return web.Response(body=gzip.compress(b"x" * 1_000_000)[:-10], headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    ("handler", "reason"), [(cut, "body_truncated"), (stall, "read_timeout"), (cut_gzip, "body_truncated")]
)
async def test_a_stream_that_fails_half_way_leaves_nothing_behind_and_the_crawl_goes_on(
    handler: Any, reason: str, tmp_path: Path
) -> None:
    class Both(Saving):
        async def start(self) -> Any:
            yield self.request(f"{self.site}/", stream=True)
            yield self.request(f"{self.site}/good", self.parse_good)

        def parse_good(self, response: Response) -> Any:
            yield {"text": response.text}

    async with LocalSite() as site:
        site.route("/", handler)
        site.page("/good", "ok")
        args = {"site": site.url, "target": str(tmp_path / "file.bin")}
        run = await run_spider(Both, args=args, settings={"http": {"read_seconds": 0.5}})
    assert run.reason == "finished"
    assert run.items == [{"text": "ok"}]
    assert failure_of(run).reason == reason
    assert leftovers(tmp_path) == []


async def test_a_stream_that_trickles_may_take_longer_than_the_total_of_a_page(tmp_path: Path) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(6):
            await response.write(b"x" * 1000)
            await asyncio.sleep(0.1)
        return response

    async with LocalSite() as site:
        site.route("/", trickle)
        settings = {"http": {"total_seconds": 0.5, "read_seconds": 20}, "politeness": {"obey_robots": False}}
        run = await save(site, tmp_path / "file.bin", settings=settings)
    assert run.items[0]["bytes"] == 6000


async def test_a_callback_that_ends_without_reading_closes_the_stream_and_its_place() -> None:
    class Bored(Streaming):
        async def start(self) -> Any:
            yield [self.request(f"{self.site}/{number}", stream=True) for number in range(4)]

        def parse(self, response: Response) -> Any:
            yield {"status": response.status}

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100_000):
            await response.write(b"x" * 10_000)
        return response

    async with LocalSite() as site:
        site.route("*", endless)
        settings = {"politeness": {"concurrency_per_host": 1}}
        async with asyncio.timeout(20):
            run = await run_spider(Bored, args={"site": site.url}, settings=settings)
    assert run.items == [{"status": 200}] * 4


async def test_a_streamed_error_status_goes_to_the_errback_and_may_be_read_there() -> None:
    class Told(Streaming):
        async def failed(self, failure: Failure) -> Any:
            assert failure.response is not None
            assert failure.response.content is not None
            yield {"reason": failure.reason, "body": await failure.response.content.read()}

    async with LocalSite() as site:
        site.page("/", "no such thing", status=404)
        run = await run_spider(Told, args={"site": site.url})
    assert run.items == [{"reason": "status_404", "body": b"no such thing"}]


async def test_an_ordinary_response_can_be_saved_too(tmp_path: Path) -> None:
    class Plain(Saving):
        options: ClassVar[dict[str, Any]] = {}

    async with LocalSite() as site:
        site.page("/", b"small")
        run = await run_spider(Plain, args={"site": site.url, "target": str(tmp_path / "file.bin")})
    assert run.items[0]["bytes"] == 5
    assert (tmp_path / "file.bin").read_bytes() == b"small"


async def test_bytes_of_streams_count_in_the_statistics(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/", b"x" * 200_000)
        run = await save(site, tmp_path / "file.bin", settings={"politeness": {"obey_robots": False}})
    assert run.stats["bytes"] == 200_000


async def test_a_file_saved_in_a_pipeline_is_a_value() -> None:
    saved = SavedFile("a/b.bin", 3, "00")
    assert (saved.path, saved.bytes, saved.sha256) == ("a/b.bin", 3, "00")
    assert saved == SavedFile("a/b.bin", 3, "00")


async def test_a_stream_request_survives_the_frontier_as_one(tmp_path: Path) -> None:
    class Second(Saving):
        async def start(self) -> Any:
            yield self.request(f"{self.site}/page", self.parse_page)

        def parse_page(self, response: Response) -> Any:
            yield Request(f"{self.site}/", stream=True)

    async with LocalSite() as site:
        site.page("/page", "ok")
        site.page("/", b"x" * 1000)
        args = {"site": site.url, "target": str(tmp_path / "file.bin")}
        run = await run_spider(Second, args=args, job=tmp_path / "job")
    assert run.items[0]["bytes"] == 1000


async def test_saving_may_take_longer_than_a_callback(tmp_path: Path) -> None:
    class Keeper(Spider):
        name = "keeper"
        site = ""

        async def start(self) -> Any:
            yield self.request(f"{self.site}/slow", stream=True)

        async def parse(self, response: Response) -> Any:
            saved = await response.save(tmp_path / "slow.bin")
            yield {"bytes": saved.bytes}
            await asyncio.sleep(60)  # and this may not

    async def slow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(8):
            await answer.write(b"z" * 100)
            await asyncio.sleep(0.1)
        return answer

    async with LocalSite() as site:
        site.route("/slow", slow)
        settings = {"crawl": {"callback_timeout_seconds": 0.4}}
        run = await run_spider(Keeper, args={"site": site.url}, settings=settings)
    assert run.items == [{"bytes": 800}]
    assert run.stats["failures"] == {"callback_timeout": 1}
