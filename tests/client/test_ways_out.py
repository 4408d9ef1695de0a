"""Names, TLS, proxies and WebSockets: the ways by which a request leaves. Yielded and inline."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from asking import INLINE, Asking, ask, ask_all
from certificates import (
    AUTHORITY,
    CLIENT,
    EXPIRED,
    NOT_YET_VALID,
    OTHER_SERVER,
    SELF_SIGNED,
    SERVER,
    STRANGER,
    fingerprint,
    server_context,
)
from proxy_server import ProxyServer
from socks_server import SocksServer

from crawler import Request, Response
from crawler.testing import LocalSite, run_spider
from crawler.testing.names import Address, DnsServer, Fail
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from pathlib import Path

    from httpbin_server import HttpBin

ONCE: dict[str, Any] = {"retry": {"times": 0}}
ANYWHERE = {"security": {"allow_private_networks": True}}


# -- names -----------------------------------------------------------------------------------------------------------


async def test_a_name_may_have_a_fixed_address(way: str, httpbin: HttpBin) -> None:
    settings = {**ONCE, "dns": {"hosts": {"httpbin.test": "127.0.0.1"}}}
    seen = await ask(way, Request(f"http://httpbin.test:{httpbin.port}/get"), settings=settings)
    assert seen.reply.ip_address == "127.0.0.1"
    assert seen.reply.json()["headers"]["Host"] == f"httpbin.test:{httpbin.port}"


async def test_a_name_server_of_ones_own_is_asked_once(way: str, httpbin: HttpBin) -> None:
    async with DnsServer() as dns:
        dns.names["httpbin.test"] = [Address("127.0.0.1")]
        settings = {**ONCE, "dns": {"nameservers": [dns.nameserver]}}
        steps = [Request(f"http://httpbin.test:{httpbin.port}/anything/{number}") for number in range(5)]
        seen = (await ask_all(way, steps, settings=settings)).seen
        assert dns.count("httpbin.test") == 1
    assert [each.reply.status for each in seen] == [200] * 5


@pytest.mark.parametrize(
    ("says", "reason", "is_tried_again"), [(Fail.NXDOMAIN, "dns_not_found", False), (Fail.SERVFAIL, "dns_failed", True)]
)
async def test_a_name_that_leads_nowhere_has_its_word(way: str, says: Fail, reason: str, is_tried_again: bool) -> None:
    async with DnsServer() as dns:
        dns.names["gone.test"] = says
        settings = {
            "dns": {"nameservers": [dns.nameserver]},
            "retry": {"times": 1},
        }
        seen, run = await ask_all(way, [Request("http://gone.test/")], settings=settings)
    assert seen[0].reason == reason
    assert run.stats["retries"] == is_tried_again


# -- TLS -------------------------------------------------------------------------------------------------------------


def trusting(folder: Path, **tls: Any) -> dict[str, Any]:
    (folder / "ca.pem").write_text(AUTHORITY)
    return {**ONCE, "tls": {"ca_file": str(folder / "ca.pem"), **tls}}


async def test_a_certificate_of_a_trusted_authority_is_accepted(way: str, tmp_path: Path) -> None:
    async with RawServer(answer(b"safe"), tls=server_context(tmp_path, SERVER)) as server:
        seen = await ask(way, Request(server.url), settings=trusting(tmp_path))
    assert seen.reply.text == "safe"


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (EXPIRED, "tls_expired"),
        (NOT_YET_VALID, "tls_expired"),
        (SELF_SIGNED, "tls_self_signed"),
        (STRANGER, "tls_untrusted"),
    ],
)
@pytest.mark.parametrize("how", ["refused", "request", "host", "all"])
async def test_a_bad_certificate_is_refused_unless_told_otherwise(
    way: str, tmp_path: Path, certificate: str, reason: str, how: str
) -> None:
    async with RawServer(answer(b"unsafe"), tls=server_context(tmp_path, certificate)) as server:
        rules = {"host": {"unverified_hosts": ["127.0.0.2"]}, "all": {"verify": False}}.get(how, {})
        request = Request(server.url, tls=False if how == "request" else None)
        seen = await ask(way, request, settings=trusting(tmp_path, **rules))
    if how == "refused":
        assert seen.reason == reason
        assert server.requests == []
    else:
        assert seen.reply.text == "unsafe"


async def test_a_certificate_for_another_name_is_refused_unless_that_is_meant(way: str, tmp_path: Path) -> None:
    settings = {**trusting(tmp_path), "dns": {"hosts": {"other.test": "127.0.0.2"}}}
    async with RawServer(answer(b"ok"), tls=server_context(tmp_path, SERVER)) as server:
        url = f"https://other.test:{server.port}/"
        steps = [Request(url), Request(url, server_hostname="tls.test")]
        wrong, meant = (await ask_all(way, steps, settings=settings)).seen
    assert wrong.reason == "tls_wrong_host"
    assert meant.reply.text == "ok"


@pytest.mark.parametrize("where", ["request", "settings"])
@pytest.mark.parametrize(("pinned", "is_good"), [(SELF_SIGNED, True), (OTHER_SERVER, False)])
async def test_a_pin_takes_one_certificate_and_no_other(
    way: str, tmp_path: Path, pinned: str, is_good: bool, where: str
) -> None:
    pin = fingerprint(pinned)
    async with RawServer(answer(b"pinned"), tls=server_context(tmp_path, SELF_SIGNED)) as server:
        request = Request(server.url, tls=f"sha256:{pin}" if where == "request" else None)
        rules = {"fingerprints": {"127.0.0.2": pin}} if where == "settings" else {}
        seen = await ask(way, request, settings=trusting(tmp_path, **rules))
    assert seen.reason == (None if is_good else "tls_fingerprint")
    assert len(server.requests) == is_good


async def test_a_server_gets_our_certificate_when_it_asks_for_one(way: str, tmp_path: Path) -> None:
    (tmp_path / "client.pem").write_text(CLIENT)
    tls = server_context(tmp_path, SERVER, client_authority=AUTHORITY)
    async with RawServer(answer(b"known"), tls=tls) as server:
        seen = await ask(way, Request(server.url), settings=trusting(tmp_path, cert_file=str(tmp_path / "client.pem")))
    assert seen.reply.text == "known"


async def test_a_context_of_ones_own_is_for_inline_fetches(tmp_path: Path) -> None:
    async with RawServer(answer(b"mine"), tls=server_context(tmp_path, SERVER)) as server:
        context = ssl.create_default_context(cadata=AUTHORITY)
        seen = await ask(INLINE, Request(server.url, tls=context), settings=ONCE)
    assert seen.reply.text == "mine"


async def test_a_context_of_ones_own_is_refused_when_yielded(httpbin: HttpBin) -> None:
    class Yielding(Asking):
        async def parse(self, response: Response) -> Any:
            yield Request("https://127.0.0.2:1/", tls=ssl.create_default_context())

    run = await run_spider(Yielding, args={"steps": [Request(httpbin / "get")]})
    (seen,) = run.spider.seen  # type: ignore[attr-defined]
    assert "await self.fetch" in str(seen.error)


async def test_what_one_rule_opened_is_not_used_by_another(way: str, tmp_path: Path) -> None:
    async with RawServer(answer(b"x"), tls=server_context(tmp_path, SELF_SIGNED), keep_alive=True) as server:
        pin = f"sha256:{fingerprint(SELF_SIGNED)}"
        steps = [Request(server.url, tls=rule) for rule in (False, pin, None, False, pin)]
        seen = (await ask_all(way, steps, settings=ONCE)).seen
    assert [each.reason for each in seen] == [None, None, "tls_self_signed", None, None]
    assert server.connections == 3


# -- proxies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["request", "request with proxy_auth", "settings", "environment"])
async def test_a_request_goes_through_a_proxy(
    way: str, httpbin: HttpBin, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ProxyServer(auth=("user", "secret")) as proxy:
        request = Request(httpbin / "get", headers={"X-Own": "1"})
        settings = ONCE
        if how == "request":
            request = request.replace(proxy=proxy.url)
        elif how == "request with proxy_auth":
            request = request.replace(proxy=proxy.url_for(), proxy_auth=("user", "secret"))
        elif how == "settings":
            settings = {**ONCE, "proxy": {"urls": [proxy.url]}}
        else:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            settings = {**ONCE, "http": {"trust_env": True}}
        seen = await ask(way, request, settings=settings)
        assert proxy.targets == [httpbin / "get"]
        assert proxy.credentials == ["user:secret"]
    echo = seen.reply.json()
    assert echo["headers"]["X-Own"] == "1"
    assert "Proxy-Authorization" not in echo["headers"]
    assert "secret" not in str(seen.reply.request_headers) + str(seen.reply.proxy)


async def test_an_https_target_is_reached_by_a_tunnel(way: str, tmp_path: Path) -> None:
    async with ProxyServer() as proxy, RawServer(answer(b"safe"), tls=server_context(tmp_path, SERVER)) as server:
        request = Request(server.url, proxy=proxy.url, auth=("user", "secret"))
        seen = await ask(way, request, settings=trusting(tmp_path))
        assert proxy.targets == [f"127.0.0.2:{server.port}"]
        assert b"secret" not in b"".join(proxy.journal)
        assert b"Authorization" not in b"".join(proxy.journal)
    assert seen.reply.text == "safe"


async def test_socks_carries_names_as_they_are(way: str, httpbin: HttpBin) -> None:
    names = {"httpbin.test": ("127.0.0.1", httpbin.port)}
    async with SocksServer(auth=("user", "secret"), names=names) as proxy:
        request = Request(f"http://httpbin.test:{httpbin.port}/get", proxy=proxy.url)
        seen = await ask(way, request, settings=ONCE)
    assert seen.reply.json()["headers"]["Host"] == f"httpbin.test:{httpbin.port}"


async def test_requests_take_turns_and_a_dead_proxy_rests(way: str, httpbin: HttpBin) -> None:
    async with ProxyServer() as good, ProxyServer() as dead:
        await dead.refuse()
        settings = {
            "proxy": {"urls": [good.url, dead.url], "per": "request"},
            "retry": {"times": 5, "base_seconds": 0.01},
        }
        steps = [Request(httpbin / f"anything/{number}") for number in range(6)]
        seen, run = await ask_all(way, steps, settings=settings)
        assert len(good.targets) == 6
    assert [each.reply.status for each in seen] == [200] * 6
    assert run.stats["retries"] == 1
    assert {proxy: (each["requests"], each["failures"]) for proxy, each in run.stats["proxies"].items()} == {
        good.url: (6, 0),
        dead.url: (1, 1),
    }


@pytest.mark.parametrize(("failure", "reason"), [("close", "disconnected"), (407, "proxy"), (502, "proxy_tunnel")])
async def test_a_proxy_that_fails_has_its_word(way: str, tmp_path: Path, failure: Any, reason: str) -> None:
    async with ProxyServer(failure=failure) as proxy:
        seen = await ask(way, Request("https://127.0.0.2:1/", proxy=proxy.url_for("user", "secret")), settings=ONCE)
    assert seen.reason == reason
    assert "secret" not in repr(seen) + str(seen.error)


# -- WebSockets: inside a callback by their nature -------------------------------------------------------------------


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=["chat"], autoping=True)
    await socket.prepare(request)
    await socket.send_json({"cookie": request.headers.get("Cookie"), "own": request.headers.get("X-Own")})
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            if message.data == "bye":
                await socket.close(code=4000, message=b"as you wish")
            else:
                await socket.send_str(message.data.upper())
        else:
            await socket.send_bytes(message.data[::-1])
    return socket


class Talking(Asking):
    """Logs in at the site by its first step, then talks."""

    socket_url = ""
    options: dict[str, Any] = {}

    async def parse(self, response: Response) -> Any:
        url = Request(self.socket_url, headers={"X-Own": "1"}, **self.options)
        async with self.websocket(url, protocols=["chat"]) as socket:
            heard = [await socket.receive_json(), socket.protocol]
            await socket.send_str("text ä")
            heard.append(await socket.receive_str())
            await socket.send_bytes(b"\x00\x01")
            heard.append(await socket.receive_bytes())
            await socket.ping(b"there?")
            await socket.send_str("bye")
            closing = await socket.receive()
            yield {"heard": heard, "closing": (closing.type, closing.data, socket.close_code)}


@pytest.mark.parametrize("through", ["nothing", "proxy"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_websocket_talks_with_the_crawls_cookies_tls_and_proxy(
    tmp_path: Path, scheme: str, through: str
) -> None:
    async def login(request: web.Request) -> web.Response:
        return web.Response(headers={"Set-Cookie": "sid=7; Path=/"})

    app = web.Application()
    app.add_routes([web.get("/login", login), web.get("/chat", echo)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    tls = server_context(tmp_path, SERVER) if scheme == "wss" else None
    await web.TCPSite(runner, "127.0.0.2", 0, ssl_context=tls).start()
    url = f"{'https' if tls else 'http'}://127.0.0.2:{runner.addresses[0][1]}"
    settings = {**trusting(tmp_path), "http": {"unsafe_cookies": True}}
    try:
        async with ProxyServer() as proxy:
            arguments = {
                "steps": [Request(f"{url}/login")],
                "socket_url": f"{url}/chat",
                "options": {"proxy": proxy.url} if through == "proxy" else {},
            }
            run = await run_spider(Talking, args=arguments, settings=settings)
            assert len(proxy.targets) == (through == "proxy")
    finally:
        await runner.cleanup()
    assert run.stats["failures"] == {}
    (item,) = run.items
    assert item["heard"] == [{"cookie": "sid=7", "own": "1"}, "chat", "TEXT Ä", b"\x01\x00"]
    assert item["closing"] == (aiohttp.WSMsgType.CLOSE, 4000, 4000)


async def test_a_page_that_is_no_websocket_is_a_failure_with_its_status() -> None:
    async with LocalSite() as site:
        site.page("/", "ok", status=203)
        run = await run_spider(Talking, args={"steps": [Request(site.url)], "socket_url": site.url})
    (seen,) = run.spider.seen  # type: ignore[attr-defined]
    assert seen.reason == "status_203"


# -- one crawl, several ways -----------------------------------------------------------------------------------------


async def test_steps_by_different_ways_share_one_crawl(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    tls = server_context(tmp_path, SERVER)
    async with LocalSite("127.0.0.3") as site, RawServer(answer(b"safe"), tls=tls) as safe, ProxyServer() as proxy:
        site.page("/", "plain")
        steps = [
            Request(site.url),
            Request(safe.url),
            Request(httpbin / "ip", proxy=proxy.url),
            Request(safe.url, tls=False),
            Request(httpbin / "ip"),
        ]
        seen = (await ask_all(way, steps, settings={**trusting(tmp_path), **ANYWHERE})).seen
    assert [each.reply.text.strip() for each in seen[:2]] == ["plain", "safe"]
    assert [each.reply.proxy for each in seen] == [None, None, proxy.url, None, None]
    assert [each.reply.status for each in seen] == [200] * 5
