"""SOCKS: real requests through a scripted SOCKS server, to plain and TLS sites; every way it can say no."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import socket
import ssl
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from certificates import AUTHORITY, EXPIRED, SELF_SIGNED, SERVER, server_context
from socks_server import SocksServer

from crawler.download.socks import make_socks_connector
from crawler.download.tls import make_ssl_context
from crawler.download.translate import FOREIGN, translate
from crawler.errors import FetchError, SettingsError
from crawler.proxies import Blame, blame
from crawler.testing.raw import RawServer, answer, hang

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from socks_server import Failure

HELLO = answer(b"hello")
PIN = hashlib.sha256(ssl.PEM_cert_to_DER_cert(SERVER[: SERVER.index("-----BEGIN PRIVATE")])).digest()


@pytest.fixture
async def site() -> AsyncIterator[RawServer]:
    async with RawServer(HELLO, keep_alive=True) as server:
        yield server


@pytest.fixture
async def tls_site(tmp_path: Path) -> AsyncIterator[RawServer]:
    async with RawServer(HELLO, keep_alive=True, tls=server_context(tmp_path, SERVER)) as server:
        yield server


@pytest.fixture
def no_lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that this machine was asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@asynccontextmanager
async def session(url: str, folder: Path | None = None, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    tls: ssl.SSLContext | bool = True
    if folder is not None:
        (folder / "authority.pem").write_text(AUTHORITY)
        tls = make_ssl_context(ca_file=str(folder / "authority.pem"))
    timeout = options.pop("timeout", aiohttp.ClientTimeout(total=10))
    connector = make_socks_connector(url, tls=tls, **options)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as opened:
        yield opened


async def fetch(opened: aiohttp.ClientSession, url: str, **options: Any) -> bytes:
    async with opened.get(url, **options) as response:
        return await response.read()


async def failure_of(opened: aiohttp.ClientSession, url: str, **options: Any) -> FetchError:
    """As the downloader gives it: errors of ours pass, aiohttp's are translated."""
    try:
        await fetch(opened, url, **options)
    except FetchError as error:
        return error
    except FOREIGN as error:
        return translate(error, url)
    pytest.fail("it worked")


def at(server: RawServer) -> tuple[str, int]:
    return server.host, server.port


# -- the way there -----------------------------------------------------------------------------------------------------


async def test_the_proxy_gets_the_name_and_this_machine_looks_nothing_up(
    site: RawServer, no_lookups: list[str]
) -> None:
    async with SocksServer(names={"far.test": at(site)}) as proxy, session(proxy.url) as opened:
        assert await fetch(opened, "http://far.test:8080/page?x=1") == b"hello"
    assert proxy.journal == [("name", "far.test", 8080, None)]
    assert "far.test" not in no_lookups
    assert site.requests[0].startswith(b"GET /page?x=1 HTTP/1.1\r\nHost: far.test:8080\r\n")


async def test_an_address_goes_as_an_address(site: RawServer) -> None:
    async with SocksServer() as proxy, session(proxy.url) as opened:
        assert await fetch(opened, site.url) == b"hello"
        assert (await failure_of(opened, "http://[::1]:1/")).reason == "connect_refused"
    assert proxy.journal == [("ipv4", site.host, site.port, None), ("ipv6", "::1", 1, None)]


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "socks4a"])
async def test_each_scheme_leaves_names_to_the_proxy(site: RawServer, scheme: str) -> None:
    async with SocksServer(names={"far.test": at(site)}) as proxy, session(proxy.url_for(scheme=scheme)) as opened:
        assert await fetch(opened, "http://far.test/") == b"hello"
    assert proxy.journal[0][:2] == ("name", "far.test")


async def test_user_and_password_are_given_and_only_to_the_proxy(site: RawServer) -> None:
    async with (
        SocksServer(names={"far.test": at(site)}, auth=("us@er", "p/w:d")) as proxy,
        session(proxy.url_for("us%40er", "p%2Fw%3Ad")) as opened,
    ):
        assert await fetch(opened, "http://far.test/") == b"hello"
    assert proxy.journal[0].user == "us@er"
    assert b"us@er" not in site.requests[0]
    assert b"uthorization" not in site.requests[0]


async def test_it_dials_from_the_address_it_was_told(site: RawServer) -> None:
    peers: list[str] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])

    async with (
        RawServer(note, waits=False) as proxy,
        session(f"socks5://127.0.0.2:{proxy.port}", local_address="127.0.0.7") as opened,
    ):
        await failure_of(opened, site.url)
    assert peers == ["127.0.0.7"]


async def test_fifty_requests_in_a_row_take_one_connection(site: RawServer) -> None:
    async with SocksServer(names={"far.test": at(site)}) as proxy, session(proxy.url) as opened:
        for _ in range(50):
            await fetch(opened, "http://far.test/")
    assert (proxy.connections, site.connections, len(site.requests)) == (1, 1, 50)


async def test_two_hundred_at_once_are_not_held_back_by_a_limit_of_the_connector() -> None:
    everyone = asyncio.Event()
    waiting = 0

    async def together(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 200:
            everyone.set()
        await everyone.wait()
        writer.write(HELLO)

    async with RawServer(together) as site, SocksServer() as proxy, session(proxy.url) as opened:
        assert set(await asyncio.gather(*[fetch(opened, site.url) for _ in range(200)])) == {b"hello"}


async def test_websockets_go_through_it() -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str((await ws.receive_str()).upper())
        await ws.close()
        return ws

    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.2", 0).start()
    async with (
        SocksServer(names={"ws.test": runner.addresses[0]}) as proxy,
        session(proxy.url) as opened,
        opened.ws_connect("ws://ws.test/") as ws,
    ):
        await ws.send_str("hello")
        assert await ws.receive_str() == "HELLO"
    await runner.cleanup()
    assert proxy.journal[0][:3] == ("name", "ws.test", 80)


# -- TLS to the site ---------------------------------------------------------------------------------------------------


async def test_tls_is_with_the_site_under_its_own_name(tls_site: RawServer, tmp_path: Path) -> None:
    async with SocksServer(names={"tls.test": at(tls_site)}) as proxy, session(proxy.url, tmp_path) as opened:
        for _ in range(3):
            assert await fetch(opened, "https://tls.test/") == b"hello"
        assert (proxy.journal, proxy.connections) == ([("name", "tls.test", 443, None)], 1)
        assert await fetch(opened, "https://tls.test./") == b"hello"  # as DNS writes it; the certificate does not


@pytest.mark.parametrize(
    ("certificate", "host"), [(EXPIRED, "tls.test"), (SELF_SIGNED, "tls.test"), (SERVER, "other.test")]
)
async def test_a_bad_certificate_is_told_as_without_a_proxy(tmp_path: Path, certificate: str, host: str) -> None:
    async with (
        RawServer(HELLO, tls=server_context(tmp_path, certificate)) as site,
        SocksServer(names={host: at(site)}) as proxy,
        session(proxy.url, tmp_path) as opened,
    ):
        error = await failure_of(opened, f"https://{host}/")
        assert error.reason.startswith("tls_")
        assert error.retryable is False
        assert await fetch(opened, f"https://{host}/", ssl=False) == b"hello"


async def test_a_pinned_certificate_is_checked_for_names_and_addresses(tls_site: RawServer) -> None:
    async with SocksServer(names={"tls.test": at(tls_site)}) as proxy, session(proxy.url) as opened:
        for url in ("https://tls.test/", tls_site.url):
            assert await fetch(opened, url, ssl=aiohttp.Fingerprint(PIN)) == b"hello"
            error = await failure_of(opened, url, ssl=aiohttp.Fingerprint(bytes(32)))
            assert error.reason == "tls_fingerprint"


async def test_connections_of_different_tls_settings_are_not_shared(tls_site: RawServer, tmp_path: Path) -> None:
    async with SocksServer(names={"tls.test": at(tls_site)}) as proxy, session(proxy.url, tmp_path) as opened:
        for options in ({"ssl": False}, {}, {"ssl": aiohttp.Fingerprint(PIN)}, {"ssl": False}):
            await fetch(opened, "https://tls.test/", **options)
    assert proxy.connections == 3


async def test_a_site_that_speaks_no_tls_is_told_as_without_a_proxy() -> None:
    async with RawServer(HELLO, waits=False) as site, SocksServer() as proxy, session(proxy.url) as opened:
        assert (await failure_of(opened, f"https://{site.host}:{site.port}/")).reason == "tls"


# -- limits and failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["connect", "sock_connect"])
async def test_the_limit_for_connecting_holds_while_the_site_is_silent_in_the_tls_handshake(limit: str) -> None:
    timeout = aiohttp.ClientTimeout(total=None, **{limit: 0.2})
    async with (
        RawServer(hang(), waits=False) as site,
        SocksServer() as proxy,
        session(proxy.url, timeout=timeout) as opened,
    ):
        async with asyncio.timeout(20):
            error = await failure_of(opened, f"https://{site.host}:{site.port}/")
    assert error.reason == "connect_timeout"


@pytest.mark.parametrize("limit", ["connect", "sock_connect"])
@pytest.mark.parametrize("options", [{"greets": False}, {"failure": "hang"}], ids=["at once", "when asked"])
async def test_the_limit_for_connecting_holds_while_the_proxy_is_silent(limit: str, options: dict[str, Any]) -> None:
    timeout = aiohttp.ClientTimeout(total=None, **{limit: 0.2})
    async with SocksServer(**options) as proxy, session(proxy.url, timeout=timeout) as opened:
        async with asyncio.timeout(20):
            error = await failure_of(opened, "http://far.test/")
    assert error.reason == "connect_timeout"
    assert blame(error) is Blame.UNCLEAR


@pytest.mark.parametrize("where", [{"greets": False}, {"failure": "hang"}], ids=["greeting", "request"])
async def test_a_request_given_up_half_way_leaves_no_connection(where: dict[str, Any]) -> None:
    async with SocksServer(**where) as proxy, session(proxy.url) as opened:
        given_up = asyncio.create_task(fetch(opened, "http://far.test/"))
        while not (proxy.journal if "failure" in where else proxy.connections):
            await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        async with asyncio.timeout(20):
            while proxy.open_connections:
                await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("failure", "reason", "retryable", "whose"),
    [
        (1, "proxy_tunnel", True, Blame.UNCLEAR),
        (2, "proxy_tunnel", False, Blame.UNCLEAR),
        (3, "connect_unreachable", True, Blame.OTHERS),
        (4, "connect_unreachable", True, Blame.OTHERS),
        (5, "connect_refused", True, Blame.OTHERS),
        (6, "connect_unreachable", True, Blame.OTHERS),
        (7, "proxy_tunnel", False, Blame.UNCLEAR),
        (8, "proxy_tunnel", False, Blame.UNCLEAR),
        (99, "proxy", True, Blame.PROXY),
        ("close", "proxy", True, Blame.PROXY),
        ("reset", "proxy", True, Blame.PROXY),
        ("garbage", "proxy", True, Blame.PROXY),
    ],
)
async def test_what_the_proxy_answers_has_a_reason(
    failure: Failure, reason: str, retryable: bool, whose: Blame
) -> None:
    async with SocksServer(failure=failure) as proxy, session(proxy.url) as opened:
        error = await failure_of(opened, "http://user:hunter2@far.test/page")
    assert (error.reason, error.retryable) == (reason, retryable)
    assert blame(error) is whose
    assert "far.test/page" in str(error)
    assert "hunter2" not in str(error)


async def test_what_a_socks4_proxy_answers_has_a_reason() -> None:
    async with SocksServer(failure=91) as proxy, session(proxy.url_for(scheme="socks4")) as opened:
        assert (await failure_of(opened, "http://far.test/")).reason == "proxy_tunnel"
        proxy.failure = 93
        assert (await failure_of(opened, "http://far.test/")).reason == "proxy"


@pytest.mark.parametrize("given", [(), ("user", "wrong")], ids=["none", "wrong"])
async def test_credentials_that_are_not_accepted_are_the_proxys_failure_and_final(given: tuple[str, ...]) -> None:
    async with SocksServer(auth=("user", "hunter2")) as proxy, session(proxy.url_for(*given)) as opened:
        error = await failure_of(opened, "http://far.test/")
    assert (error.reason, error.retryable, blame(error)) == ("proxy", False, Blame.PROXY)
    assert "wrong" not in f"{error} {error.__cause__!r}"


async def test_a_proxy_that_is_not_there_is_a_failure_of_the_proxy() -> None:
    async with SocksServer() as proxy:
        await proxy.refuse()
        async with session(proxy.url_for("user", "hunter2")) as opened:
            error = await failure_of(opened, "http://far.test/")
    assert (error.reason, error.retryable, blame(error)) == ("proxy", True, Blame.PROXY)
    assert "hunter2" not in f"{error} {error.__cause__!r}"


async def test_a_name_that_cannot_be_is_blocked_and_not_the_proxys_fault() -> None:
    async with SocksServer() as proxy, session(proxy.url) as opened:
        error = await failure_of(opened, f"http://{'a' * 64}.test/")
    assert (error.reason, error.retryable, blame(error)) == ("blocked", False, Blame.OTHERS)
    assert proxy.journal == []


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@proxy.example:80",
        "socks5://user:hunter2@",
        "socks5://user:hunter2@proxy.example:hunter2",
        "socks6://user:hunter2@proxy.example",
        "socks5://hunter2@proxy.example",
        "socks5://:hunter2@proxy.example",
        "socks5://us%C3%A9r:hunter2@proxy.example",
        "socks5://user:hunter2%00@proxy.example",
        f"socks5://user:hunter2{'x' * 256}@proxy.example",
        "socks4://:hunter2@proxy.example",
    ],
)
async def test_what_the_protocol_cannot_carry_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_socks_connector(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    monkeypatch.delitem(sys.modules, "crawler.download.socks")
    with pytest.raises(SettingsError, match=r'pip install "crawler\[socks\]"'):
        importlib.import_module("crawler.download.socks")
