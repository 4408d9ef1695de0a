"""Time-outs, each with its own word; connections that are kept, bound, and left without a trace. Yielded and inline."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import warnings
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from asking import WAYS, ask, ask_all
from certificates import AUTHORITY, SERVER, server_context

from crawler import Request, Response
from crawler.errors import TimeoutError as TooSlow
from crawler.testing import LocalSite
from crawler.testing.raw import RawServer, answer, hang

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from httpbin_server import HttpBin

ONCE = {"retry": {"times": 0}}
ANYWHERE = {"security": {"allow_private_networks": True}}


def http(**settings: Any) -> dict[str, Any]:
    return {"http": settings, **ONCE}


async def read_all(response: Response) -> bytes:
    assert response.content is not None
    return await response.content.read()


# -- time-outs -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def full_backlog() -> AsyncIterator[str]:
    """The address of a listener that accepts nobody and whose queue is full: connecting there takes for ever."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.4", 0))
        listener.listen(0)
        queue = []
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
            queue.append(waiting)
        yield "http://{}:{}/".format(*listener.getsockname())
        for waiting in queue:
            waiting.close()


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": aiohttp.ClientTimeout(connect=0.1)},
        {"timeout": aiohttp.ClientTimeout(sock_connect=0.1)},
        {"settings": http(connect_seconds=0.1)},
    ],
    ids=["connect", "sock_connect", "settings"],
)
async def test_no_connection_in_time(way: str, full_backlog: str, options: dict[str, Any]) -> None:
    settings = options.get("settings", ONCE)
    seen = await ask(way, Request(full_backlog, timeout=options.get("timeout")), settings=settings)
    assert type(seen.error) is TooSlow
    assert seen.reason == "connect_timeout"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("where", ["request", "settings"])
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], ids=["headers", "body"])
async def test_no_bytes_in_time(way: str, tmp_path: Path, where: str, stream: bool, start: bytes) -> None:
    async def save(response: Response) -> Any:
        return await response.save(tmp_path / "file")

    timeout = aiohttp.ClientTimeout(sock_read=0.1) if where == "request" else None
    settings = http(read_seconds=0.1) if where == "settings" else ONCE
    async with RawServer(hang(start)) as server:
        request = Request(server.url, timeout=timeout, stream=stream)
        seen = await ask(way, request, read=save, settings=settings)
    assert type(seen.error) is TooSlow
    assert seen.reason == "read_timeout"


@pytest.mark.parametrize(
    ("timeout", "settings"),
    [
        (0.1, ONCE),
        (1 / 8, ONCE),
        (aiohttp.ClientTimeout(total=0.1), ONCE),
        (None, http(total_seconds=0.1)),
    ],
)
async def test_not_done_in_time(way: str, httpbin: HttpBin, timeout: Any, settings: dict[str, Any]) -> None:
    began = time.monotonic()
    seen = await ask(way, Request(httpbin / "delay/2", timeout=timeout), settings=settings)
    assert type(seen.error) is TooSlow
    assert seen.reason == "total_timeout"
    assert time.monotonic() - began < 20


async def test_a_body_that_drips_is_ended_by_the_total(way: str, httpbin: HttpBin) -> None:
    request = Request(httpbin / "drip?numbytes=10&duration=2&delay=0", timeout=0.15)
    assert (await ask(way, request, settings=ONCE)).reason == "total_timeout"


async def test_each_time_out_is_an_error_of_time(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "delay/2", timeout=0.1), settings=ONCE)
    assert isinstance(seen.error, TimeoutError)


async def test_the_time_of_a_request_wins_over_the_settings(way: str, httpbin: HttpBin) -> None:
    settings = http(total_seconds=0.1, read_seconds=0.1)
    request = Request(httpbin / "delay/0.3", timeout=aiohttp.ClientTimeout(total=20, sock_read=20))
    assert (await ask(way, request, settings=settings)).reply.status == 200


async def test_a_number_as_the_time_of_a_request_wins_over_the_total_of_the_settings(
    way: str, httpbin: HttpBin
) -> None:
    seen = await ask(way, Request(httpbin / "delay/0.3", timeout=20), settings=http(total_seconds=0.1))
    assert seen.reply.status == 200


@pytest.mark.parametrize("timeout", [None, 0.4])
async def test_a_stream_has_no_total(way: str, httpbin: HttpBin, timeout: float | None) -> None:
    request = Request(httpbin / "drip?numbytes=4&duration=0.8&delay=0", stream=True, timeout=timeout)
    seen = await ask(way, request, read=read_all, settings=http(total_seconds=0.4))
    assert seen.value == b"****"


async def test_a_stream_has_a_total_where_it_is_asked_for(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    async def save(response: Response) -> Any:
        return await response.save(tmp_path / "file")

    timeout = aiohttp.ClientTimeout(total=0.15)
    request = Request(httpbin / "drip?numbytes=10&duration=2&delay=0", stream=True, timeout=timeout)
    assert (await ask(way, request, read=save, settings=ONCE)).reason == "total_timeout"


async def test_a_request_that_was_too_slow_is_tried_again(way: str) -> None:
    async with LocalSite() as site:
        site.page("/", "in time")
        site.page("/", "too late", delay=5, times=1)
        seen, run = await ask_all(way, [Request(site.url, timeout=0.3)])
    assert seen[0].reply.text == "in time"
    assert run.stats["retries"] == 1


@pytest.mark.parametrize("timeout", [-1, True, "5", object()])
def test_what_is_no_time_is_refused(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Request("http://example.com/", timeout=timeout)


# -- connections -----------------------------------------------------------------------------------------------------


async def test_fifty_requests_in_a_row_take_one_connection(way: str) -> None:
    async with RawServer(answer(b"ok"), keep_alive=True) as server:
        steps = [Request(f"{server.url}{number}") for number in range(50)]
        seen = (await ask_all(way, steps)).seen
    assert [each.reply.text for each in seen] == ["ok"] * 50
    assert (server.connections, len(server.requests)) == (1, 50)


async def test_errors_redirects_and_bodies_leave_the_connection_as_it_was(way: str) -> None:
    async def page(reader: Any, writer: Any) -> None:
        line = server.requests[-1].partition(b"\r\n")[0]
        if b"/missing" in line:
            writer.write(answer(b"nothing", status="404 Not Found"))
        elif b"/redirect" in line:
            writer.write(answer(b"", "Location: /end", status="302 Found"))
        elif b"/nothing" in line:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            writer.write(answer(b"x" * 100_000))
        await writer.drain()

    async with RawServer(page, keep_alive=True) as server:
        paths = ["missing", "redirect", "nothing", "end", "missing", "end"]
        steps = [Request(server.url + path, method="HEAD" if path == "nothing" else "GET") for path in paths]
        seen = (await ask_all(way, steps)).seen
    assert [each.reply.status for each in seen] == [404, 200, 204, 200, 404, 200]
    assert server.connections == 1


async def test_a_server_that_closes_gets_a_new_connection(way: str) -> None:
    async with RawServer(answer(b"ok", "Connection: close")) as server:
        await ask_all(way, [Request(f"{server.url}{number}") for number in range(3)])
    assert server.connections == 3


async def test_a_stream_that_is_not_read_to_its_end_costs_its_connection(way: str) -> None:
    async def first_bytes(response: Response) -> bytes:
        return b"" if response.content is None else await response.content.readexactly(3)

    async with LocalSite() as site:
        site.page("/", b"x" * 5_000_000)
        steps = [Request(site.url, stream=True), Request(site.url, stream=True)]
        seen = (await ask_all(way, steps, read=first_bytes)).seen
    assert [each.value for each in seen] == [b"xxx", b"xxx"]


async def test_a_connection_lives_no_longer_than_the_settings_say(way: str) -> None:
    async def slowly(reader: Any, writer: Any) -> None:
        await asyncio.sleep(0.15)
        writer.write(answer(b"ok"))

    async with RawServer(slowly, keep_alive=True) as server:
        steps = [Request(f"{server.url}{number}") for number in range(5)]
        seen = (await ask_all(way, steps, settings=http(connection_lifetime_seconds=0.4))).seen
    assert [each.reply.text for each in seen] == ["ok"] * 5
    assert 1 < server.connections < 5


async def test_our_end_is_bound_to_the_address_of_the_settings(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "ip"), settings=http(local_address="127.0.0.9"))
    assert seen.reply.json() == {"origin": "127.0.0.9"}


@pytest.mark.parametrize("setting", ["unix_socket", "unix_sockets"])
async def test_a_unix_socket_carries_everything_or_one_host(way: str, tmp_path: Path, setting: str) -> None:
    async def socket_page(request: web.Request) -> web.Response:
        return web.Response(text=f"socket {request.host}{request.path}")

    app = web.Application()
    app.router.add_get("/{path}", socket_page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    path = str(tmp_path / "http.sock")
    await web.UnixSite(runner, path).start()
    try:
        async with LocalSite() as site:
            site.page("/page", "network")
            given: Any = path if setting == "unix_socket" else {"docker.test:2375": path}
            steps = [Request("http://docker.test:2375/page"), Request(f"{site.url}/page")]
            seen = (await ask_all(way, steps, settings={**http(**{setting: given}), **ANYWHERE})).seen
    finally:
        await runner.cleanup()
    other = f"socket {site.host}/page" if setting == "unix_socket" else "network"
    assert [each.reply.text for each in seen] == ["socket docker.test:2375/page", other]


# -- nothing is left behind ------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def leaves_nothing(little_garbage: None) -> Any:
    """Called with a coroutine function: runs it in a loop of its own, and asserts that nothing is left of it."""

    def check(work: Callable[[], Any]) -> None:
        async def watched() -> set[asyncio.Task[Any]]:
            await work()
            return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

        gc.collect()
        before = open_files()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            left = asyncio.run(watched(), debug=True)  # aiohttp tells of more, then
            gc.collect()
        assert left == set()
        assert [str(each.message) for each in said] == []
        assert open_files() <= before

    return check


async def everything(way: str, url: str, settings: dict[str, Any]) -> None:
    """Good pages, errors, redirects, streams read and left, time-outs: whatever may leave something open."""

    async def some(response: Response) -> Any:
        return None if response.content is None else await response.content.read(10)

    steps = [
        Request(f"{url}/page"),
        Request(f"{url}/large", stream=True),
        Request(f"{url}/missing"),
        Request(f"{url}/large", max_body_bytes=1000),
        Request(f"{url}/redirect"),
        Request(f"{url}/slow", timeout=0.2),
        Request(f"{url}/large", method="POST", data=b"x" * 1_000_000, stream=True),
    ]
    seen = (await ask_all(way, steps, read=some, settings=settings)).seen
    reasons = [each.reason for each in seen]
    assert reasons[3] == "body_too_large"
    assert reasons[5] == "total_timeout"
    assert [each.reply.status for each in seen if each.reason not in reasons[3:6:2]] == [200, 200, 404, 200, 200]


def site_of(url: str) -> web.Application:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 3_000_000)

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound("/page")

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/large", large)
    app.add_routes([web.get("/slow", slow), web.get("/page", page), web.get("/redirect", redirect)])
    return app


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way_", WAYS)
def test_a_crawl_leaves_no_task_socket_or_file(way_: str, scheme: str, tmp_path: Path, leaves_nothing: Any) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    tls = server_context(tmp_path, SERVER) if scheme == "https" else None

    async def work() -> None:
        runner = web.AppRunner(site_of(scheme), access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.2", 0, ssl_context=tls).start()
        url = f"{scheme}://127.0.0.2:{runner.addresses[0][1]}"
        settings: dict[str, Any] = {**ONCE, "tls": {"ca_file": str(tmp_path / "ca.pem")}}
        try:
            await everything(way_, url, settings)
        finally:
            await runner.cleanup()

    leaves_nothing(work)


@pytest.mark.parametrize("way_", WAYS)
def test_a_digest_challenge_with_a_long_page_leaves_nothing(way_: str, leaves_nothing: Any) -> None:
    challenge = {"WWW-Authenticate": 'Digest realm="here", nonce="n0nce", qop="auth", algorithm=SHA-256'}

    async def work() -> None:
        async with LocalSite() as site:
            site.page("/", "welcome")
            site.page("/", b"who are you?" * 700_000, status=401, headers=challenge, times=1)
            settings = http(digest_auth={site.host: "user:passwd"})
            assert (await ask(way_, Request(site.url), settings=settings)).reply.text == "welcome"
            gc.collect()  # before the site closes its end

    leaves_nothing(work)
