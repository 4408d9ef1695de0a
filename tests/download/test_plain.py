"""Plain GETs, past the session: on the wire nobody sees a difference, and what is not plain takes the other way."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from crawler import Request
from crawler.download import plain
from crawler.download.session import Downloader
from crawler.errors import FetchError
from crawler.guard import Guard
from crawler.settings import load, mapping_layer
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

HELLO = answer(b"hello")


@contextlib.asynccontextmanager
async def downloader(**tables: dict[str, Any]) -> AsyncIterator[Downloader]:
    settings = load([mapping_layer("test", tables)]).settings
    async with Downloader(settings, Guard(allow_private=True)) as opened:
        yield opened


@pytest.fixture
def through_the_session(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The URLs that were asked for through `ClientSession`; where this is used, all of them are."""
    asked: list[str] = []
    own = aiohttp.ClientSession._request

    async def request(self: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> aiohttp.ClientResponse:
        asked.append(str(url))
        return await own(self, method, url, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", request)
    return asked


SETTINGS = [
    {},
    {"http": {"user_agent": "me/1 (x)", "headers": {"X-Own": "yes", "Accept": "text/plain"}}},
    {"http": {"auth": {"127.0.0.2": "user:password"}}},
]


@pytest.mark.parametrize("tables", SETTINGS, ids=["defaults", "headers", "auth"])
async def test_the_bytes_sent_are_those_of_the_session(tables: dict[str, Any], request: pytest.FixtureRequest) -> None:
    async def ask() -> list[bytes]:
        async with RawServer(HELLO, keep_alive=True) as server, downloader(**tables) as client:
            for path in ("", "a?b=c&d", "%C3%BC/x;y"):
                await client.fetch(Request(f"http://{server.host}:{server.port}/{path}", cookies={"a": "b", "c": "ü"}))
            await client.fetch(Request(server.url))
            return [head.replace(f":{server.port}".encode(), b":PORT") for head in server.requests]

    plain = await ask()
    asked: list[str] = request.getfixturevalue("through_the_session")
    assert await ask() == plain
    assert len(asked) == len(plain) == 4


async def test_an_answer_has_all_that_the_sessions_has(request: pytest.FixtureRequest) -> None:
    said = answer(b"h\xc3\xa9", "X-Twice: 1", "X-Twice: 2", "Set-Cookie: a=b", status="201 Made So")

    async def ask() -> list[Any]:
        async with RawServer(said) as server, downloader(http={"unsafe_cookies": True}) as client:
            got = await client.fetch(Request(server.url, cookies={"own": "1"}))
            headers = {**got.request_headers, "Host": ""}
            cookies = client.cookies()
            assert 0.0 <= got.connect_seconds <= got.elapsed_seconds
            return [
                got.status, got.reason, got.body, list(got.headers.items()), got.raw_headers, got.http_version,
                got.ip_address, headers, [(each.name, each.value) for each in cookies], got.cookies["a"].value,
            ]  # fmt: skip

    plain = await ask()
    assert request.getfixturevalue("through_the_session") == []
    assert await ask() == plain
    assert plain[0:2] == [201, "Made So"]


NOT_PLAIN: list[dict[str, Any]] = [
    {"method": "POST", "body": b"x"},
    {"headers": {"X": "1"}},
    {"stream": True},
    {"timeout": 5.0},
    {"skip_auto_headers": ["Accept"]},
]


@pytest.mark.parametrize("options", NOT_PLAIN, ids=[next(iter(each)) + str(n) for n, each in enumerate(NOT_PLAIN)])
async def test_what_is_not_plain_goes_through_the_session(
    options: dict[str, Any], through_the_session: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(HELLO, keep_alive=True) as server, downloader() as client:
        monkeypatch.setattr("crawler.download.plain._is_replaced", lambda: False)
        plain = await client.fetch(Request(server.url))
        assert (plain.body, through_the_session) == (b"hello", [])
        async with await client.fetch(Request(server.url, **options)):
            pass
        assert through_the_session == [server.url]


async def test_a_head_goes_through_the_session(through_the_session: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.download.plain._is_replaced", lambda: False)
    async with RawServer(answer(b"", length=5)) as server, downloader() as client:
        assert (await client.fetch(Request(server.url, method="HEAD"))).body == b""
        assert through_the_session == [server.url]


async def test_requests_of_both_kinds_share_one_connection() -> None:
    async with RawServer(HELLO, keep_alive=True) as server, downloader() as client:
        for headers in ({}, {"X": "1"}, {}, {"X": "2"}):
            assert (await client.fetch(Request(server.url, headers=headers))).body == b"hello"
        assert server.connections == 1


async def test_answers_before_the_answer_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    async with RawServer(early + HELLO) as server, downloader() as client:
        got = await client.fetch(Request(server.url))
        assert (got.status, got.body) == (200, b"hello")


async def trickle_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for octet in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 1000:
        writer.write(bytes([octet]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def half_a_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    await reader.read()


async def trickle_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.hostile("S26")
@pytest.mark.parametrize(
    ("script", "http", "reason"),
    [
        (silent, {"read_seconds": 0.2}, "read_timeout"),
        (silent, {"total_seconds": 0.2}, "total_timeout"),
        (half_a_body, {"read_seconds": 0.2}, "read_timeout"),
        (half_a_body, {"total_seconds": 0.2}, "total_timeout"),
        (trickle_head, {"read_seconds": 0.2}, "read_timeout"),
        (trickle_body, {"read_seconds": 0.2, "total_seconds": 0.6}, "total_timeout"),
    ],
)
async def test_a_limit_ends_the_exchange_and_its_connection(script: Any, http: dict[str, Any], reason: str) -> None:
    async with RawServer(script) as server, downloader(http=http) as client:
        for _ in range(2):
            with pytest.raises(FetchError) as failed:
                await client.fetch(Request(server.url))
            assert failed.value.reason == reason
        assert server.connections == 2  # none was used again


async def test_a_cancelled_request_leaves_no_connection_to_be_used_again() -> None:
    async with RawServer(half_a_body) as server, downloader() as client:
        asking = asyncio.create_task(client.fetch(Request(server.url)))
        while not server.requests:
            await asyncio.sleep(0.001)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        asking = asyncio.create_task(client.fetch(Request(server.url)))
        while len(server.requests) < 2:
            await asyncio.sleep(0.001)
        assert server.connections == 2
        asking.cancel()
        await asyncio.wait([asking])


async def test_an_address_sent_as_written_keeps_a_question_mark_with_nothing_behind_it() -> None:
    async with RawServer(HELLO) as server, downloader() as client:
        await client.fetch(Request(f"{server.url}a%2fb?", encoded=True))
        assert server.requests[0].startswith(b"GET /a%2fb? HTTP/1.1\r\n")


@pytest.mark.hostile("S30")
async def test_a_cookie_that_would_end_its_line_is_not_sent() -> None:
    async with RawServer(HELLO) as server, downloader() as client:
        for cookies in ({"a": "b\r\nX: y"}, {"a": "b\0"}):
            with pytest.raises(FetchError) as failed:
                await client.fetch(Request(server.url, cookies=cookies))
            assert failed.value.reason == "blocked"
        assert server.connections == 0


async def test_many_origins_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.download.plain._MOST_ORIGINS", 3)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(downloader())
        for last in range(2, 8):
            server = await stack.enter_async_context(RawServer(HELLO, host=f"127.0.0.{last}"))
            assert (await client.fetch(Request(server.url))).body == b"hello"
        assert len(client._plain._origins) == 3


async def test_where_nobody_stands_in_for_the_session_it_is_passed_over() -> None:
    async with RawServer(HELLO) as server, downloader() as client:
        assert client._plain.takes(Request(server.url), client._router.choose(Request(server.url)))


FIRST_OF_ALL = """
import asyncio
from crawler import Spider
from crawler.testing import offline, run_spider

class One(Spider):
    name = "one"
    start_urls = ["http://shop.example/"]
    def parse(self, response):
        yield {"text": response.text}

async def main():
    with offline() as mocked:  # before anything that fetches was loaded
        mocked.get("http://shop.example/", body="registered")
        run = await run_spider(One, settings={"politeness": {"obey_robots": False}})
    print(run.items)

asyncio.run(main())
"""


async def test_aioresponses_answers_though_it_was_there_before_we_were_loaded() -> None:
    said = subprocess.run([sys.executable, "-c", FIRST_OF_ALL], capture_output=True, text=True, timeout=60, check=False)
    assert said.stdout == "[{'text': 'registered'}]\n", said.stderr


@pytest.mark.parametrize("way", ["plain", "session"])
def test_under_uvloop_a_request_counts_as_sent_when_it_is_written_at_the_end_of_the_loops_round(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turn at the host counts from it."""
    uvloop = pytest.importorskip("uvloop")
    where, name = (plain, "_answered") if way == "plain" else (aiohttp.ClientResponse, "start")
    own = getattr(where, name)

    async def among_others(*args: Any) -> Any:
        answered = own(*args)
        time.sleep(0.1)  # as if others had their turns in this round
        return await answered

    async def ask() -> float:
        async with RawServer(HELLO) as server, downloader() as client:
            options = {"headers": {"X-Way": way}} if way == "session" else {}
            response = await client.fetch(Request(f"http://{server.host}:{server.port}/", **options))
        return response.connect_seconds

    monkeypatch.setattr(where, name, among_others)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) >= 0.1
