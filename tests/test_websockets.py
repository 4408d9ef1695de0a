"""`self.websocket(...)`: what it sends, what it refuses, how long it lasts and how it ends, against real servers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import ssl
import sys
import time
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType, web

from crawler import Failure, FetchError, Request, Response, Spider
from crawler.errors import InvalidURL, StatusError
from crawler.testing import LocalSite, run_spider

sys.path.insert(0, str(Path(__file__).parent / "download"))

import itertools

from certificates import AUTHORITY, EXPIRED, SERVER, server_context
from proxy_server import ProxyServer
from socks_server import SocksServer

from crawler.testing.raw import RawServer, answer, hang, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Conversation = Callable[[Spider], Awaitable[Any]]
Talk = Callable[[web.WebSocketResponse], Awaitable[None]]

ROOT = Path(__file__).resolve().parent.parent
UNASKED = {"politeness": {"obey_robots": False}}
SECONDS = 30
"""How long anything here may take on a busy machine before the test gives up."""


async def in_a_crawl(conversation: Conversation, settings: dict[str, Any] | None = None) -> Any:
    """What `await conversation(spider)` returns or raises when it is all that a spider does."""
    outcome: dict[str, Any] = {}

    class Talker(Spider):
        name = "talker"

        async def start(self) -> None:
            try:
                outcome["result"] = await conversation(self)
            except Exception as error:
                outcome["error"] = error

    async with asyncio.timeout(SECONDS):
        run = await run_spider(Talker, settings=settings)
    assert (run.reason, run.stats["errors"]) == ("finished", 0)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


async def echo(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)


async def until_closed(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass


class Server:
    """A site with an echo at `/echo`, and what the last conversation was closed with."""

    def __init__(self, site: LocalSite) -> None:
        self.site = site
        self.closed_with: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.talks("/echo", echo)

    def talks(self, path: str, talk: Talk, **options: Any) -> str:
        """`talk` at that path; its URL."""

        async def listening(socket: web.WebSocketResponse) -> None:
            try:
                await talk(socket)
            finally:
                if not self.closed_with.done():
                    self.closed_with.set_result(socket.close_code)

        self.site.websocket(path, listening, **options)
        return f"{self.site.url.replace('http', 'ws')}{path}"

    @property
    def echo(self) -> str:
        return f"{self.site.url.replace('http', 'ws')}/echo"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with LocalSite() as site:
        yield Server(site)


# -- messages --------------------------------------------------------------------------------------------------------


async def test_text_bytes_and_json_go_both_ways(server: Server) -> None:
    async def conversation(spider: Spider) -> None:
        async with spider.websocket(server.echo) as socket:
            assert isinstance(socket, aiohttp.ClientWebSocketResponse)
            await socket.send_str("grüße")
            assert await socket.receive_str() == "grüße"
            await socket.send_bytes(b"\0\xff")
            assert await socket.receive_bytes() == b"\0\xff"
            await socket.send_json({"price": 1.5, "tags": ["a"]})
            assert await socket.receive_json() == {"price": 1.5, "tags": ["a"]}

    await in_a_crawl(conversation)
    assert await server.closed_with == WSCloseCode.OK


async def test_iteration_ends_when_the_server_closes_and_its_code_is_known(server: Server) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        for number in range(3):
            await socket.send_json({"number": number})
        await socket.close(code=4001, message=b"sold out")

    feed = server.talks("/feed", talk)

    async def conversation(spider: Spider) -> tuple[list[Any], int | None]:
        async with spider.websocket(feed) as socket:
            return [message.json() async for message in socket], socket.close_code

    assert await in_a_crawl(conversation) == ([{"number": 0}, {"number": 1}, {"number": 2}], 4001)


async def test_pings_are_answered_and_can_be_sent(server: Server) -> None:
    seen: list[tuple[WSMsgType, bytes]] = []

    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.ping(b"are you there")
        async for message in socket:
            seen.append((message.type, message.data))
            if message.type is WSMsgType.PING:
                await socket.pong(message.data)
                await socket.send_str("pinged")

    feed = server.talks("/feed", talk, autoping=False)

    async def conversation(spider: Spider) -> None:
        async with spider.websocket(feed) as socket:
            await socket.ping(b"and you")
            assert await socket.receive_str() == "pinged"

    await in_a_crawl(conversation)
    assert sorted(seen) == [(WSMsgType.PING, b"and you"), (WSMsgType.PONG, b"are you there")]


async def test_without_autoping_the_spider_sees_pings_itself(server: Server) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.ping(b"x")
        await until_closed(socket)

    feed = server.talks("/feed", talk)

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(feed, autoping=False) as socket:
            message = await socket.receive()
            return message.type, message.data

    assert await in_a_crawl(conversation) == (WSMsgType.PING, b"x")


async def test_a_server_that_does_not_answer_heartbeats_is_given_up(server: Server) -> None:
    feed = server.talks("/feed", until_closed, autoping=False)

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(feed, heartbeat=0.2) as socket:
            messages = [message async for message in socket]
            return [(message.type, type(message.data)) for message in messages], socket.close_code

    assert await in_a_crawl(conversation) == (
        [(WSMsgType.ERROR, aiohttp.ServerTimeoutError)],
        WSCloseCode.ABNORMAL_CLOSURE,
    )


async def test_heartbeats_that_are_answered_keep_a_silent_socket(server: Server) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        for _ in range(3):
            await socket.receive()  # the client's pings, which the answers below keep coming
            await socket.pong()
        await socket.send_str("still here")

    feed = server.talks("/feed", talk, autoping=False)

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(feed, heartbeat=0.1) as socket:
            return await socket.receive_str()

    assert await in_a_crawl(conversation) == "still here"


async def test_a_subprotocol_is_agreed_on(server: Server) -> None:
    feed = server.talks("/feed", until_closed, protocols=("chat.v1",))

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(feed, protocols=("chat.v2", "chat.v1")) as socket:
            return socket.protocol

    assert await in_a_crawl(conversation) == "chat.v1"
    (hit,) = server.site.requests("/feed")
    assert hit.headers["Sec-WebSocket-Protocol"] == "chat.v2,chat.v1"


async def test_messages_are_compressed_when_asked_for(server: Server) -> None:
    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(server.echo, compress=15) as socket:
            await socket.send_str("again " * 1000)
            return socket.compress, await socket.receive_str()

    compress, text = await in_a_crawl(conversation)
    assert compress == 15
    assert text == "again " * 1000
    assert "permessage-deflate" in server.site.requests("/echo")[0].headers["Sec-WebSocket-Extensions"]


@pytest.mark.parametrize("compress", [0, 15])
async def test_a_message_over_the_limit_is_an_error_and_ends_the_socket(server: Server, compress: int) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(b"fits")
        await socket.send_bytes(bytes(2_000_000))  # 2 KB when compressed
        await until_closed(socket)

    feed = server.talks("/feed", talk, compress=True)

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(feed, max_msg_size=1000, compress=compress) as socket:
            return [(message.type, message.data) async for message in socket], socket.close_code

    messages, code = await in_a_crawl(conversation)
    assert messages[0] == (WSMsgType.BINARY, b"fits")
    assert [kind for kind, _ in messages[1:]] == [WSMsgType.ERROR]
    assert isinstance(messages[1][1], aiohttp.WebSocketError)
    assert code == messages[1][1].code == WSCloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize(
    "options", [{"receive_timeout": 0.1}, {"timeout": aiohttp.ClientWSTimeout(ws_receive=0.1)}], ids=["number", "class"]
)
async def test_a_receive_may_be_given_a_time(server: Server, options: dict[str, Any]) -> None:
    async def conversation(spider: Spider) -> None:
        async with spider.websocket(server.echo, **options) as socket:
            await socket.send_str("in time")
            assert await socket.receive_str() == "in time"
            with pytest.raises(TimeoutError):
                await socket.receive()

    await in_a_crawl(conversation)


async def test_two_sockets_are_open_at_once(server: Server) -> None:
    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(server.echo) as first, spider.websocket(server.echo) as second:
            await first.send_str("one")
            await second.send_str("two")
            return await second.receive_str(), await first.receive_str()

    assert await in_a_crawl(conversation) == ("two", "one")


# -- the handshake ---------------------------------------------------------------------------------------------------


async def test_the_handshake_has_the_headers_of_settings_request_and_socket(server: Server) -> None:
    async def conversation(spider: Spider) -> None:
        options: dict[str, Any] = {
            "headers": {"X-Token": "t"},
            "cookies": {"own": "1"},
            "params": {"room": "a b"},
            "origin": "https://app.example",
            "skip_auto_headers": ["Accept"],
        }
        async with spider.websocket(server.echo, **options):
            pass

    await in_a_crawl(conversation, {"http": {"user_agent": "mine/1", "headers": {"X-Ours": "o"}}})
    (hit,) = server.site.requests()
    assert hit.path in ("/echo?room=a%20b", "/echo?room=a+b")
    assert {name: hit.headers[name] for name in ("User-Agent", "X-Ours", "X-Token", "Cookie", "Origin")} == {
        "User-Agent": "mine/1", "X-Ours": "o", "X-Token": "t", "Cookie": "own=1", "Origin": "https://app.example",
    }  # fmt: skip
    assert hit.headers["Upgrade"] == "websocket"


COOKIES = {"http": {"unsafe_cookies": True}}


async def test_cookies_are_shared_in_both_directions(server: Server) -> None:
    async def give(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        socket.set_cookie("given", "by-socket")
        await socket.prepare(request)
        await socket.close()
        return socket

    server.site.page("/", "ok", headers={"Set-Cookie": "visitor=7; Path=/"})
    server.site.page("/after", "ok")
    server.site.route("/feed", give)

    async def conversation(spider: Spider) -> None:
        await spider.fetch(f"{server.site.url}/")
        async with spider.websocket(f"{server.site.url}/feed"):
            await spider.fetch(f"{server.site.url}/after")

    await in_a_crawl(conversation, COOKIES)
    assert server.site.requests("/feed")[0].headers["Cookie"] == "visitor=7"
    assert server.site.requests("/after")[0].headers["Cookie"] == "visitor=7; given=by-socket"


async def test_a_socket_belongs_to_its_session(server: Server) -> None:
    server.site.page("/", "ok", headers={"Set-Cookie": "visitor=a; Path=/"})

    async def conversation(spider: Spider) -> None:
        await spider.fetch(Request(f"{server.site.url}/", session="a"))
        for target in (Request(f"{server.site.url}/echo?request", session="a"), f"{server.echo}?nobody"):
            async with spider.websocket(target):
                pass
        async with spider.websocket(f"{server.echo}?option", session="a"):
            pass

    await in_a_crawl(conversation, COOKIES)
    sent = {hit.path: hit.headers.get("Cookie") for hit in server.site.requests()[1:]}
    assert sent == {"/echo?request": "visitor=a", "/echo?nobody": None, "/echo?option": "visitor=a"}


async def test_a_refused_handshake_may_set_cookies_too(server: Server) -> None:
    server.site.page("/feed", "first log in", status=401, headers={"Set-Cookie": "challenge=c; Path=/"})

    async def conversation(spider: Spider) -> None:
        with contextlib.suppress(StatusError):
            await spider.websocket(f"{server.site.url}/feed").__aenter__()
        async with spider.websocket(server.echo):
            pass

    await in_a_crawl(conversation, COOKIES)
    assert server.site.requests("/echo")[0].headers["Cookie"] == "challenge=c"


def basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


async def test_credentials_come_from_the_settings_the_url_or_the_call(server: Server) -> None:
    async def conversation(spider: Spider) -> None:
        async with spider.websocket(f"{server.echo}?settings"):
            pass
        async with spider.websocket(f"{server.echo}?call", auth=("ann", "c")):
            pass

    await in_a_crawl(conversation, {"http": {"auth": {server.site.host: "ann:s"}}})

    async def in_the_url(spider: Spider) -> None:
        async with spider.websocket(f"{server.echo}?url".replace("//", "//ann:u@")):
            pass

    await in_a_crawl(in_the_url)
    sent = {hit.path: hit.headers.get("Authorization") for hit in server.site.requests()}
    assert sent == {
        "/echo?settings": basic("ann:s"), "/echo?call": basic("ann:c"), "/echo?url": basic("ann:u"),
    }  # fmt: skip


async def test_a_digest_challenge_of_the_handshake_is_answered(server: Server) -> None:
    async def challenge(request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not given.startswith('Digest username="ann"'):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("welcome")
        await until_closed(socket)
        return socket

    server.site.route("/feed", challenge)

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(f"{server.site.url}/feed") as socket:
            return await socket.receive_str()

    assert await in_a_crawl(conversation, {"http": {"digest_auth": {server.site.host: "ann:s"}}}) == "welcome"


@pytest.mark.parametrize(
    "form",
    [
        "ws://{}/echo",
        "WS://{}/echo",
        "wS://{}/a/../echo",
        " \tws://{}/echo\n",
        "ws:\\\\{}/echo#there",
        "http://{}/echo",
    ],
)
async def test_the_address_may_be_written_as_addresses_are(server: Server, form: str) -> None:
    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(form.format(server.site.host)) as socket:
            await socket.send_str("hello")
            return await socket.receive_str()

    assert await in_a_crawl(conversation) == "hello"


@pytest.mark.parametrize("form", ["wsx://{}/echo", "ftp://{}/echo", "ws://", "{}/echo", "ws://{}:99999/"])
async def test_what_is_no_such_address_is_refused_with_words(server: Server, form: str) -> None:
    async def conversation(spider: Spider) -> None:
        async with spider.websocket(form.format(server.site.host)):
            pass

    with pytest.raises(InvalidURL):
        await in_a_crawl(conversation)
    assert server.site.journal == []


# -- answers that are no WebSocket -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 429, 503])
async def test_another_answer_than_101_is_an_error_with_its_status(server: Server, status: int) -> None:
    server.site.page("/feed", "no", status=status, headers={"Location": "/echo"} if status == 302 else {})

    async def conversation(spider: Spider) -> None:
        async with spider.websocket(f"{server.site.url}/feed"):
            raise AssertionError("there is no socket")

    with pytest.raises(StatusError, match=f"no WebSocket but {status}") as caught:
        await in_a_crawl(conversation)
    assert (caught.value.reason, caught.value.status) == (f"status_{status}", status)
    assert caught.value.retryable is (status in (429, 503))
    assert server.site.paths == ["/feed"], "asked once, and no redirect followed"


async def test_a_redirect_says_where_it_would_have_led(server: Server) -> None:
    server.site.redirect("/feed", "wss://elsewhere.example/")

    async def conversation(spider: Spider) -> None:
        async with spider.websocket(f"{server.site.url}/feed"):
            pass

    with pytest.raises(StatusError, match=r"a redirect to 'wss://elsewhere.example/', which is not followed"):
        await in_a_crawl(conversation)


BAD_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (BAD_ACCEPT, "protocol"),
        (b"SSH-2.0-OpenSSH_9.7\r\n\r\n", "protocol"),
        (b"", "disconnected"),
        (reset(), "connect_reset"),
        (answer(b"hello"), "status_200"),
    ],
    ids=["wrong key", "not HTTP", "hangs up", "resets", "a page"],
)
async def test_whatever_else_comes_has_a_name(script: Any, reason: str) -> None:
    async def conversation(spider: Spider) -> None:
        async with spider.websocket(raw.url):
            pass

    async with RawServer(script) as raw:
        with pytest.raises(FetchError) as caught:
            await in_a_crawl(conversation, UNASKED)
        assert raw.connections == 1
    assert caught.value.reason == reason
    assert raw.url in str(caught.value)


async def test_a_closed_port_is_connection_refused(server: Server) -> None:
    async with RawServer() as raw:
        url = raw.url

    async def conversation(spider: Spider) -> None:
        async with spider.websocket(url):
            pass

    with pytest.raises(FetchError) as caught:
        await in_a_crawl(conversation, UNASKED)
    assert caught.value.reason == "connect_refused"


@pytest.mark.parametrize(
    ("http", "options", "reason"),
    [
        ({"total_seconds": 0.2}, {}, "total_timeout"),
        ({"read_seconds": 0.2}, {}, "read_timeout"),
        ({}, {"timeout": 0.2}, "total_timeout"),
        ({}, {"timeout": aiohttp.ClientTimeout(sock_read=0.2)}, "read_timeout"),
    ],
    ids=["total", "read", "own", "own read"],
)
async def test_a_server_that_never_answers_the_handshake_is_given_up(
    http: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    async def conversation(spider: Spider) -> None:
        async with spider.websocket(raw.url, **options):
            pass

    async with RawServer(hang()) as raw:
        with pytest.raises(FetchError) as caught:
            await in_a_crawl(conversation, {**UNASKED, "http": http})
    assert caught.value.reason == reason


@pytest.mark.parametrize("scheme", ["ws", "WSS", "http"])
async def test_a_private_address_that_a_page_names_is_not_dialled(server: Server, scheme: str) -> None:
    class Lured(Spider):
        name = "lured"

        async def start(self) -> Any:
            yield self.request(f"{server.site.url}/")

        async def parse(self, response: Response) -> Any:
            async with self.websocket(response.css("a").attrib["href"]):
                pass

        def failed(self, failure: Failure) -> Any:
            yield {"reason": failure.reason}

    async with RawServer() as canary:
        server.site.page("/", f"<a href='{scheme}://{canary.host}:{canary.port}/'>x</a>")
        run = await run_spider(Lured, settings=UNASKED)
        assert canary.connections == 0
    assert run.items == [{"reason": "blocked_address"}]


async def test_robots_txt_is_asked_first_and_can_close_a_feed(server: Server) -> None:
    server.site.robots("User-agent: *\nDisallow: /echo\n")

    async def conversation(spider: Spider) -> None:
        async with spider.websocket(server.echo):
            pass

    with pytest.raises(FetchError) as caught:
        await in_a_crawl(conversation)
    assert caught.value.reason == "robots"
    assert [hit.path for hit in server.site.journal] == ["/robots.txt"]


async def test_handshakes_are_counted(server: Server) -> None:
    class Two(Spider):
        name = "two"

        async def start(self) -> None:
            async with self.websocket(server.echo):
                pass
            with contextlib.suppress(StatusError):
                await self.websocket(f"{server.site.url}/nothing").__aenter__()

    run = await run_spider(Two, settings=UNASKED)
    assert (run.stats["requests"], run.stats["responses"]) == (2, 2)
    assert run.stats["status"] == {"101": 1, "404": 1}


# -- time and turns --------------------------------------------------------------------------------------------------


async def test_no_time_out_of_a_request_cuts_an_open_socket(server: Server) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await asyncio.sleep(0.8)  # longer than everything below
        await socket.send_str("late")
        await asyncio.sleep(0.8)
        await socket.send_str("later")

    feed = server.talks("/feed", talk)

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(feed, timeout=0.7) as socket:
            return [message.data async for message in socket]

    http = {"total_seconds": 0.6, "read_seconds": 0.6, "connect_seconds": 0.6}
    assert await in_a_crawl(conversation, {"http": http}) == ["late", "later"]


async def test_a_handshake_takes_the_hosts_turn(server: Server, noise: Any) -> None:
    async def conversation(spider: Spider) -> None:
        await spider.fetch(f"{server.site.url}/")
        async with spider.websocket(server.echo), spider.websocket(server.echo):
            await spider.fetch(f"{server.site.url}/")

    await in_a_crawl(conversation, {"politeness": {"delay_seconds": 0.15, "jitter": 0, "obey_robots": False}})
    times = [hit.time for hit in server.site.journal]
    assert len(times) == 4
    assert all(later - earlier > 0.15 - noise.seconds for earlier, later in itertools.pairwise(times))


async def test_handshakes_of_many_callbacks_wait_for_a_place_at_their_host() -> None:
    class Crowd(Spider):
        name = "crowd"

        async def start(self) -> Any:
            yield [self.request(f"{site.url}/{number}") for number in range(6)]

        async def parse(self, response: Response) -> Any:
            async with self.websocket(f"{site.url}/feed") as socket:
                yield {"text": await socket.receive_str()}

    under_way, most = 0, 0

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("open")
        await until_closed(socket)
        return socket

    async with LocalSite() as site:
        site.page("*", "ok")
        site.route("/feed", slow)
        run = await run_spider(Crowd, settings={"politeness": {"concurrency_per_host": 2}})
    assert run.items == [{"text": "open"}] * 6
    assert most == 2


async def test_an_open_socket_takes_no_place_at_its_host(server: Server) -> None:
    server.site.page("/", "page")

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(server.echo), spider.websocket(server.echo):
            return (await spider.fetch(f"{server.site.url}/")).text

    assert await in_a_crawl(conversation, {"politeness": {"concurrency_per_host": 1}}) == "page"


# -- the end ---------------------------------------------------------------------------------------------------------


async def test_a_server_that_dies_ends_the_iteration_with_1006(server: Server) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_str("last words")
        assert socket._req is not None
        assert socket._req.transport is not None
        await socket.receive()  # the client has read them
        socket._req.transport.abort()

    feed = server.talks("/feed", talk)

    async def conversation(spider: Spider) -> Any:
        async with spider.websocket(feed) as socket:
            said = []
            async for message in socket:
                said.append(message.data)
                await socket.send_str("read")
            return said, socket.close_code, (await socket.receive()).type

    assert await in_a_crawl(conversation) == (["last words"], WSCloseCode.ABNORMAL_CLOSURE, WSMsgType.CLOSED)


async def test_an_exception_closes_the_socket_with_1001_and_goes_on(server: Server) -> None:
    async def conversation(spider: Spider) -> None:
        async with spider.websocket(server.echo):
            raise LookupError("not what I expected")

    with pytest.raises(LookupError, match="not what I expected"):
        await in_a_crawl(conversation)
    assert await server.closed_with == WSCloseCode.GOING_AWAY


async def test_a_callback_that_takes_too_long_closes_its_socket(server: Server) -> None:
    class Long(Spider):
        name = "long"

        async def start(self) -> Any:
            yield self.request(f"{server.site.url}/")

        async def parse(self, response: Response) -> Any:
            async with self.websocket(server.echo) as socket:
                await socket.receive()

        def failed(self, failure: Failure) -> Any:
            yield {"reason": failure.reason}

    server.site.page("/", "ok")
    run = await run_spider(Long, settings={"crawl": {"callback_timeout_seconds": 0.3}})
    assert run.items == [{"reason": "callback_timeout"}]
    assert await server.closed_with == WSCloseCode.GOING_AWAY


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def stubborn(behaviour: Behaviour) -> Behaviour:
    """A server for `RawServer(..., waits=False)` that shakes hands (RFC 6455, 4.2.2) and then does as it likes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (key,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")]
        digest = hashlib.sha1(key.partition(b": ")[2] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        writer.write(BAD_ACCEPT.replace(b"Accept: x", b"Accept: " + base64.b64encode(digest)))
        await behaviour(reader, writer)

    return script


async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"\x82\x7e\xff\xff" + bytes(65535))
        await writer.drain()


@pytest.mark.parametrize("behaviour", [deaf, talkative])
@pytest.mark.parametrize("leaving", ["at the end", "by an exception"])
async def test_a_server_that_never_answers_the_close_is_left_in_bounded_time(
    behaviour: Behaviour, leaving: str
) -> None:
    async def conversation(spider: Spider) -> float:
        began = 0.0
        with contextlib.suppress(LookupError):
            async with spider.websocket(raw.url, timeout=aiohttp.ClientWSTimeout(ws_close=0.3)):
                began = time.monotonic()
                if leaving == "by an exception":
                    raise LookupError
        return time.monotonic() - began

    async with RawServer(stubborn(behaviour), waits=False) as raw:
        assert 0.25 < await in_a_crawl(conversation, UNASKED) < 2


@pytest.mark.parametrize(
    "given", [None, aiohttp.ClientWSTimeout(ws_receive=1)], ids=["not given", "of a receive alone"]
)
async def test_without_a_time_for_the_close_there_is_one(given: aiohttp.ClientWSTimeout | None) -> None:
    async def conversation(spider: Spider) -> float:
        options = {} if given is None else {"timeout": given}
        async with spider.websocket(raw.url, **options):
            began = time.monotonic()
        return time.monotonic() - began

    async with RawServer(stubborn(deaf), waits=False) as raw:
        assert 1.5 < await in_a_crawl(conversation, UNASKED) < 4


async def test_a_socket_that_is_left_open_is_closed_with_the_crawl(server: Server) -> None:
    async def conversation(spider: Spider) -> None:
        spider.opened_socket = spider.websocket(server.echo)  # type: ignore[attr-defined]
        await spider.opened_socket.__aenter__()  # type: ignore[attr-defined]

    await in_a_crawl(conversation)
    assert await server.closed_with == WSCloseCode.GOING_AWAY


class Endless(Spider):
    """Items of a feed without end."""

    name = "endless"
    feed = ""

    async def start(self) -> Any:
        async with self.websocket(self.feed) as socket:
            async for message in socket:
                yield message.json()


async def count_up(socket: web.WebSocketResponse) -> None:
    for number in range(40):
        await socket.send_json({"number": number})
    await until_closed(socket)


class Slowly:
    """A pipeline in which every item spends some time, so that the generator is mostly waiting at its `yield`."""

    async def process_item(self, item: Any, spider: Any) -> Any:
        await asyncio.sleep(0.001)
        return item


@pytest.mark.parametrize("pipelines", [(), (Slowly,)], ids=["plain", "slow pipeline"])
async def test_a_stop_in_the_middle_of_start_closes_the_socket_before_the_crawl_has_ended(
    server: Server, pipelines: Any
) -> None:
    feed = server.talks("/feed", count_up)
    cls = type("Endless_", (Endless,), {"pipelines": pipelines})
    run = await run_spider(cls, args={"feed": feed}, settings={"crawl": {"item_limit": 30}})
    assert run.reason == "item_limit"
    assert run.items[:30] == [{"number": number} for number in range(30)]
    assert await asyncio.wait_for(server.closed_with, 20) == WSCloseCode.GOING_AWAY


# -- TLS and proxies -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def tls_site(folder: Path, certificate: str = SERVER) -> AsyncIterator[str]:
    """The host and port of an echo over TLS at `/echo`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await echo(socket)
        return socket

    app = web.Application()
    app.router.add_get("/echo", handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.2", 0, ssl_context=server_context(folder, certificate)).start()
        yield f"127.0.0.2:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def hello(spider: Spider, url: str, **options: Any) -> Any:
    async with spider.websocket(url, **options) as socket:
        await socket.send_str("hello")
        return await socket.receive_str()


def sha256(certificate: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.split("-----BEGIN PRIVATE", maxsplit=1)[0])).hexdigest()


async def test_wss_trusts_the_authority_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    settings = {**UNASKED, "tls": {"ca_file": str(tmp_path / "ca.pem")}}
    async with tls_site(tmp_path) as host:
        assert await in_a_crawl(lambda spider: hello(spider, f"wss://{host}/echo"), settings) == "hello"


@pytest.mark.parametrize("trusted", ["settings", "tls", "ssl", "pin", "pin in settings"])
async def test_wss_may_go_unverified_or_pinned(tmp_path: Path, trusted: str) -> None:
    options: dict[str, Any] = {}
    tls: dict[str, Any] = {}
    if trusted == "settings":
        tls["verify"] = False
    elif trusted == "pin in settings":
        tls["fingerprints"] = {"127.0.0.2": sha256(EXPIRED)}
    else:
        options = {"ssl": {"ssl": False}, "tls": {"tls": False}, "pin": {"tls": f"sha256:{sha256(EXPIRED)}"}}[trusted]
    async with tls_site(tmp_path, EXPIRED) as host:
        talk = in_a_crawl(lambda spider: hello(spider, f"wss://{host}/echo", **options), {**UNASKED, "tls": tls})
        assert await talk == "hello"


@pytest.mark.parametrize(
    ("options", "reason"),
    [({}, "tls_untrusted"), ({"tls": "sha256:" + "00" * 32}, "tls_fingerprint")],
    ids=["default", "wrong pin"],
)
async def test_wss_to_whom_nobody_vouches_for_is_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    async with tls_site(tmp_path) as host:
        with pytest.raises(FetchError) as caught:
            await in_a_crawl(lambda spider: hello(spider, f"wss://{host}/echo", **options), UNASKED)
    assert caught.value.reason == reason


async def test_a_plain_socket_passes_an_http_proxy_as_a_request_to_forward(server: Server) -> None:
    async with ProxyServer(auth=("user", "secret")) as proxy:
        settings = {**UNASKED, "proxy": {"urls": [proxy.url]}}
        assert await in_a_crawl(lambda spider: hello(spider, server.echo), settings) == "hello"
    assert proxy.targets == [f"{server.site.url}/echo"]
    assert proxy.credentials == ["user:secret"]
    assert "Proxy-Authorization" not in server.site.requests()[0].headers


@pytest.mark.parametrize("given", ["url", "proxy_auth"])
async def test_a_tls_socket_passes_an_http_proxy_in_a_tunnel(tmp_path: Path, given: str) -> None:
    async with tls_site(tmp_path) as host, ProxyServer(auth=("user", "secret")) as proxy:
        options: dict[str, Any] = {"proxy": proxy.url, "tls": False}
        if given == "proxy_auth":
            options.update(proxy=proxy.url_for(), proxy_auth=("user", "secret"))
        assert await in_a_crawl(lambda spider: hello(spider, f"wss://{host}/echo", **options), UNASKED) == "hello"
    assert proxy.targets == [host]
    assert proxy.credentials == ["user:secret"]


async def test_a_proxy_that_refuses_the_tunnel_is_named(tmp_path: Path) -> None:
    async with tls_site(tmp_path) as host, ProxyServer(auth=("user", "secret")) as proxy:
        with pytest.raises(FetchError) as caught:
            await in_a_crawl(lambda spider: hello(spider, f"wss://{host}/echo", proxy=proxy.url_for()), UNASKED)
    assert caught.value.reason == "proxy"
    assert "407" in str(caught.value)


async def test_a_socket_passes_a_socks_proxy(server: Server) -> None:
    pytest.importorskip("aiohttp_socks")
    async with SocksServer(auth=("user", "secret")) as proxy:
        assert await in_a_crawl(lambda spider: hello(spider, server.echo, proxy=proxy.url), UNASKED) == "hello"
    assert [(asked.host, asked.user) for asked in proxy.journal] == [("127.0.0.1", "user")]


# -- spiders/messages.py, as a process -------------------------------------------------------------------------------


class Feed:
    """Sends numbers without end, and knows which of them have arrived: after every seventh comes a ping, and its answer
    is sent when the client has taken everything before it, and asks for more."""

    def __init__(self, site: LocalSite) -> None:
        self.url = f"{site.url.replace('http', 'ws')}/feed"
        self.sent = 0
        self.acknowledged = 0
        self._changed = asyncio.Event()
        site.websocket("/feed", self._talk, autoping=False)

    async def has_acknowledged(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.acknowledged < count:
                self._changed.clear()
                await self._changed.wait()

    async def _talk(self, socket: web.WebSocketResponse) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await socket.send_json({"number": self.sent, "text": "x" * 100})
                self.sent += 1
                if self.sent % 7 == 0:
                    await socket.ping()
                    if (await socket.receive()).type is not WSMsgType.PONG:
                        return
                    self.acknowledged = self.sent
                    self._changed.set()


@contextlib.asynccontextmanager
async def messages(folder: Path, feed: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`crawler run messages`; leaving kills it."""
    command = ["run", str(ROOT / "spiders" / "messages.py"), "-a", f"feed={feed}", "-o", "x.jsonl", *options]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-m", "crawler", *command),
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("CRAWLER_")}, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ending(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_sigterm_keeps_every_message_that_arrived_and_the_same_command_goes_on(tmp_path: Path) -> None:
    async with LocalSite() as site:
        feed = Feed(site)
        async with messages(tmp_path, feed.url) as process:
            await feed.has_acknowledged(200)
            process.terminate()
            signalled = time.monotonic()
            code, said = await ending(process)
            assert time.monotonic() - signalled < 15
        assert code == 75, said
        assert "Traceback" not in said
        written = (tmp_path / "x.jsonl").read_bytes()
        assert written.endswith(b"}\n")
        numbers = [json.loads(line)["number"] for line in written.splitlines()]
        assert numbers == list(range(len(numbers))), "none torn, none lost in between, none twice"
        assert feed.acknowledged <= len(numbers) <= feed.sent

        began = feed.sent
        async with messages(tmp_path, feed.url, "-a", "count=50") as process:
            code, said = await ending(process)
        assert code == 0, said
        assert "continuing the interrupted crawl" in said
        more = [json.loads(line)["number"] for line in (tmp_path / "x.jsonl").read_bytes().splitlines()]
        assert more == numbers + list(range(began, began + 50))
        assert "Warning" not in said


async def test_a_feed_that_does_not_answer_the_close_does_not_hold_up_the_end(tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'\x81\x07{"n":1}')
        reached.set()
        await reader.read()

    async with RawServer(stubborn(behaviour), waits=False) as raw:
        feed = raw.url.replace("http", "ws")
        async with messages(tmp_path, feed, "-s", "politeness.obey_robots=false") as process:
            await asyncio.wait_for(reached.wait(), 60)
            while not (tmp_path / "x.jsonl").exists() or not (tmp_path / "x.jsonl").stat().st_size:
                await asyncio.sleep(0.01)
            process.terminate()
            signalled = time.monotonic()
            code, said = await ending(process)
        assert time.monotonic() - signalled < 15
    assert code == 75, said
    assert (tmp_path / "x.jsonl").read_text() == '{"n":1}\n'


# -- docs/websockets.md ----------------------------------------------------------------------------------------------

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "websockets.md").read_text(), re.DOTALL)


def names_of(block: str) -> dict[str, Any]:
    module = types.ModuleType("documentation")
    exec(compile(block, "docs/websockets.md", "exec"), vars(module))
    return vars(module)


async def test_the_spider_of_the_page_passes_its_own_test() -> None:
    await asyncio.wait_for(names_of(BLOCKS[0])["test_every_price_is_an_item"](), SECONDS)


async def test_the_chat_of_the_page_speaks_for_its_session(server: Server) -> None:
    server.site.page("/", "<p data-socket=/chat>", headers={"Set-Cookie": "visitor=anna; Path=/"})
    server.talks("/chat", echo, protocols=("chat.v1",))
    run = await run_spider(names_of(BLOCKS[1])["Chat"], args={"site": server.site.url}, settings=COOKIES)
    assert run.items == [{"answer": "hello", "protocol": "chat.v1"}]
    (hit,) = server.site.requests("/chat")
    assert (hit.headers["Cookie"], hit.headers["X-Client"]) == ("visitor=anna", "crawler")


def test_every_example_of_the_page_is_run_here() -> None:
    assert len(BLOCKS) == 2
