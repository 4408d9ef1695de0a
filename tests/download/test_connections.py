"""Connections, DNS and TLS as the settings have them: through the `Downloader`, and through whole crawls."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from certificates import (
    AUTHORITY,
    CLIENT,
    EXPIRED,
    OTHER_SERVER,
    SELF_SIGNED,
    SERVER,
    STRANGER,
    fingerprint,
    server_context,
)
from deaf_server import deaf_listener

from crawler import Failure, Request, Response, Spider
from crawler.download import lookup
from crawler.download.session import Downloader
from crawler.errors import FetchError
from crawler.guard import Guard
from crawler.settings import load, mapping_layer
from crawler.testing import LocalSite, run_spider
from crawler.testing.names import AAAA, A, Address, DnsServer, Fail
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HELLO = answer(b"hello")
PLAIN = {"politeness": {"obey_robots": False}, "retry": {"times": 0}}


@contextlib.asynccontextmanager
async def downloader(**tables: dict[str, Any]) -> AsyncIterator[Downloader]:
    settings = load([mapping_layer("test", tables)]).settings
    async with Downloader(settings, Guard(allow_private=True)) as opened:
        yield opened


async def read(downloader: Downloader, url: str, **options: Any) -> str:
    """The body, or the reason for there being none."""
    try:
        return (await downloader.fetch(Request(url, **options))).text
    except FetchError as error:
        return error.reason


class Asking(Spider):
    """Fetches `urls` and says what became of each."""

    name = "asking"
    urls: list[str] = []

    async def start(self) -> Any:
        for url in self.urls:
            yield self.request(url)

    def parse(self, response: Response) -> Any:
        yield {"text": response.text}

    def failed(self, failure: Failure) -> Any:
        yield {"reason": failure.reason, "attempts": failure.attempts}


async def crawl(*urls: str, **tables: dict[str, Any]) -> Any:
    return await run_spider(Asking, args={"urls": list(urls)}, settings={**PLAIN, **tables})


# -- connections -------------------------------------------------------------------------------------------------------


async def test_fifty_pages_in_a_row_come_over_one_connection() -> None:
    async with RawServer(HELLO, keep_alive=True) as server, downloader() as fetcher:
        assert [await read(fetcher, f"{server.url}{number}") for number in range(50)] == ["hello"] * 50
        assert (server.connections, len(server.requests)) == (1, 50)


async def test_a_crawl_of_fifty_pages_takes_one_connection_where_one_is_allowed() -> None:
    async with RawServer(HELLO, keep_alive=True) as server:
        urls = [f"{server.url}{number}" for number in range(50)]
        await crawl(*urls, politeness={"obey_robots": False, "concurrency_per_host": 1})
        assert (server.connections, len(server.requests)) == (1, 50)


@pytest.mark.parametrize(
    ("http", "connections"),
    [({}, 1), ({"connection_lifetime_seconds": 1e-9}, 3), ({"keepalive_seconds": 0}, 3)],
)
async def test_how_long_a_connection_is_used_is_a_setting(http: dict[str, Any], connections: int) -> None:
    async with RawServer(HELLO, keep_alive=True) as server, downloader(http=http) as fetcher:
        for _ in range(3):
            assert await read(fetcher, server.url) == "hello"
        assert server.connections == connections


async def test_an_address_that_does_not_answer_is_passed_over_soon() -> None:
    dns = {"hosts": {"two.test": "127.0.0.2, 127.0.0.3"}}
    with deaf_listener("127.0.0.2") as port:
        async with RawServer(HELLO, host="127.0.0.3", port=port):
            for http, expected in (
                ({"happy_eyeballs_seconds": 0.02}, "hello"),
                ({"happy_eyeballs_seconds": 0, "connect_seconds": 0.2}, "connect_timeout"),
            ):
                async with downloader(dns=dns, http=http) as fetcher, asyncio.timeout(20):
                    assert await read(fetcher, f"http://two.test:{port}/") == expected


async def test_our_end_has_the_address_of_the_settings() -> None:
    peers: list[str] = []

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        writer.write(HELLO)

    async with RawServer(script) as server, downloader(http={"local_address": "127.0.0.5"}) as fetcher:
        assert await read(fetcher, server.url) == "hello"
        assert await read(fetcher, f"http://[::1]:{server.port}/") == "connect_unreachable"
    assert peers == ["127.0.0.5"]


async def test_one_host_may_have_a_socket_of_its_own(tmp_path: Path) -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"socket {request.host}")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    sockets = {"engine.test:2375": str(tmp_path / "socket"), "gone.test": str(tmp_path / "none")}
    async with RawServer(HELLO) as server:
        urls = ["http://engine.test:2375/", f"http://engine.test:{server.port}/", "http://gone.test/"]
        run = await crawl(*urls, http={"unix_sockets": sockets}, dns={"hosts": {"engine.test": "127.0.0.2"}})
    await runner.cleanup()
    assert sorted(item.get("text") or item["reason"] for item in run.items) == [
        "connect",
        "hello",
        "socket engine.test:2375",
    ]


@pytest.mark.hostile("S06")
@pytest.mark.parametrize(("is_open", "reached"), [(False, []), (True, ["/linked", "/redirected"])])
async def test_a_link_does_not_reach_the_socket_of_a_host_that_start_did_not_name(
    tmp_path: Path, is_open: bool, reached: list[str]
) -> None:
    class Following(Asking):
        def parse(self, response: Response) -> Any:
            yield {"text": response.text}
            yield response.follow_all("a")

    asked: list[str] = []

    async def hello(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text="containers")

    app = web.Application()
    app.router.add_get("/{path}", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    async with LocalSite() as site:
        site.page("/", "<a href='http://localhost:2375/linked'>.</a><a href='/moved'>.</a>")
        site.redirect("/moved", "http://LOCALHOST:2375/redirected")
        settings = {
            **PLAIN,
            "http": {"unix_sockets": {"localhost:2375": str(tmp_path / "socket")}},
            "security": {"allow_private_networks": is_open},
        }
        run = await run_spider(Following, args={"urls": (f"{site.url}/",)}, settings=settings)
    await runner.cleanup()
    assert sorted(asked) == reached
    assert [item["reason"] for item in run.items if "reason" in item] == ["blocked_address"] * (2 - len(reached))


async def test_a_callback_may_hold_more_connections_than_there_are_workers() -> None:
    class Holding(Spider):
        """Every worker reads a stream, and fetches inline meanwhile."""

        name = "holding"
        site = ""

        async def start(self) -> Any:
            for number in range(4):
                yield self.request(f"{self.site}/{number}", stream=True)

        async def parse(self, response: Response) -> Any:
            inline = await self.fetch(f"{self.site}/inline")
            yield {"text": (await response.content.read() + inline.body).decode()}

    asked = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"stream ")
        await asked.wait()
        return response

    async def inline(_: web.Request) -> web.Response:
        asked.set()
        return web.Response(text="inline")

    async with LocalSite() as site:
        site.route("*", stream)
        site.route("/inline", inline)
        settings = {
            "crawl": {"concurrency": 2},
            "politeness": {"obey_robots": False, "concurrency_per_host": 4},
            "http": {"connect_seconds": 5},
        }
        async with asyncio.timeout(20):
            run = await run_spider(Holding, args={"site": site.url}, settings=settings)
    assert run.items == [{"text": "stream inline"}] * 4


# -- DNS ---------------------------------------------------------------------------------------------------------------


async def test_hosts_of_the_settings_are_not_asked_for() -> None:
    async with DnsServer() as dns, LocalSite() as site:
        site.page("/", "hello")
        port = site.host.rpartition(":")[2]
        run = await crawl(
            f"http://api.test:{port}/", dns={"nameservers": [dns.nameserver], "hosts": {"API.test": "127.0.0.1"}}
        )
        assert (run.items, dns.questions) == ([{"text": "hello"}], [])


@pytest.mark.hostile("R-14")
@pytest.mark.parametrize(
    ("script", "reason", "attempts", "retries"),
    [
        (Fail.NXDOMAIN, "dns_not_found", 1, 0),
        ([], "dns_not_found", 1, 0),
        (Fail.SERVFAIL, "dns_failed", 2, 1),
        (Fail.REFUSED, "dns_failed", 2, 1),
    ],
)
async def test_a_name_that_does_not_exist_is_not_tried_again_and_one_that_fails_is(
    script: Any, reason: str, attempts: int, retries: int
) -> None:
    async with DnsServer() as dns:
        dns.names["a.test"] = script
        retry = {"times": 1, "base_seconds": 0.01}
        run = await crawl("http://a.test/", dns={"nameservers": [dns.nameserver]}, retry=retry)
        assert run.items == [{"reason": reason, "attempts": attempts}]
        assert run.stats["retries"] == retries
        assert run.stats["failures"] == {reason: 1}
        # Another try waits until the failure is forgotten, so it asks again. One question is two records, and c-ares
        # asks a failing server twice, though not always when it has failed before.
        for record in (A, AAAA):
            asked = dns.count("a.test", record)
            assert asked == 1 if not retries else 2 < asked <= 4


@pytest.mark.hostile("R-14")
async def test_a_name_server_that_recovers_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_LEAST_SECONDS", 0.05)
    async with DnsServer() as dns, LocalSite() as site:
        site.page("/", "hello")
        dns.names["a.test"] = lambda _, number: Fail.SERVFAIL if number < 2 else [Address("127.0.0.1")]
        url = f"http://a.test:{site.host.rpartition(':')[2]}/"
        run = await crawl(url, dns={"nameservers": [dns.nameserver]}, retry={"times": 20, "base_seconds": 0.1})
        assert run.items == [{"text": "hello"}]
        assert run.stats["retries"] >= 1
        assert dns.count("a.test", A) == 3


async def test_a_name_server_that_is_not_there_is_a_failure_that_may_pass() -> None:
    run = await crawl("http://a.test/", dns={"nameservers": ["127.0.0.1:1"]}, retry={"times": 1, "base_seconds": 0.01})
    (item,) = run.items
    assert item in ({"reason": "dns_failed", "attempts": 2}, {"reason": "dns_timeout", "attempts": 2})


@pytest.mark.hostile("R-15")
async def test_a_slow_name_holds_no_worker() -> None:
    async with DnsServer() as dns, LocalSite() as site:
        port = site.host.rpartition(":")[2]
        slow = [f"slow{number}.test" for number in range(3)]
        dns.names |= {name: [Address("127.0.0.1")] for name in (*slow, "quick.test")}
        dns.hold(*slow)

        async def quick(_: web.Request) -> web.Response:
            dns.release(*slow)  # so the slow ones are answered only when the quick one has come through
            return web.Response(text="quick")

        site.route("/quick", quick)
        site.page("/slow", "slow")
        urls = [*(f"http://{name}:{port}/slow" for name in slow), f"http://quick.test:{port}/quick"]
        async with asyncio.timeout(15):
            run = await crawl(*urls, dns={"nameservers": [dns.nameserver]}, crawl={"concurrency": 1})
        assert [item["text"] for item in run.items] == ["quick", "slow", "slow", "slow"]
        assert [dns.count(name) for name in slow] == [1, 1, 1]


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> str:
    (tmp_path / "authority.pem").write_text(AUTHORITY)
    return str(tmp_path / "authority.pem")


@pytest.mark.hostile("S32")
async def test_each_way_in_which_a_certificate_is_bad_has_a_reason_and_none_gives_a_body(
    authority: str, tmp_path: Path
) -> None:
    certificates = {
        "tls_expired": EXPIRED,
        "tls_self_signed": SELF_SIGNED,
        "tls_wrong_host": SERVER,
        "tls_untrusted": STRANGER,
        "tls_certificate": CLIENT,
    }
    hosts = {"tls.test": "127.0.0.2", "wrong.test": "127.0.0.2"}
    async with downloader(tls={"ca_file": authority}, dns={"hosts": hosts}) as fetcher:
        for reason, certificate in certificates.items():
            name = "wrong.test" if reason == "tls_wrong_host" else "tls.test"
            async with RawServer(HELLO, tls=server_context(tmp_path, certificate)) as server:
                url = f"https://{name}:{server.port}/"
                assert await read(fetcher, url) == reason
                assert server.requests == []
                assert await read(fetcher, url, tls=False) == "hello"
                assert await read(fetcher, url) == reason  # the one that was let through opened no door


@pytest.mark.hostile("R-23")
async def test_a_failed_handshake_is_final_and_one_that_was_cut_is_not(authority: str, tmp_path: Path) -> None:
    async def cut(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with (
        RawServer(HELLO, tls=server_context(tmp_path, EXPIRED)) as expired,
        RawServer(cut, waits=False) as cutting,
    ):
        retry = {"times": 2, "base_seconds": 0.01}
        run = await crawl(expired.url, tls={"ca_file": authority}, retry=retry)
        assert run.items == [{"reason": "tls_expired", "attempts": 1}]
        run = await crawl(cutting.url.replace("http:", "https:"), retry=retry)
        assert run.items[0]["attempts"] == 3
        assert (expired.connections, cutting.connections) == (1, 3)


async def test_who_is_trusted_is_a_setting_for_each_host(authority: str, tmp_path: Path) -> None:
    hosts = dict.fromkeys(("open.test", "pinned.test", "mistaken.test", "tls.test"), "127.0.0.2")
    tls = {
        "ca_file": authority,
        "unverified_hosts": ["open.test", "mistaken.test"],
        "fingerprints": {"pinned.test": fingerprint(SERVER), "mistaken.test": fingerprint(OTHER_SERVER)},
    }
    async with (
        RawServer(HELLO, tls=server_context(tmp_path, SERVER)) as server,
        downloader(tls=tls, dns={"hosts": hosts}) as fetcher,
    ):
        found = {name: await read(fetcher, f"https://{name}:{server.port}/") for name in hosts}
        by_request = await read(fetcher, f"https://open.test:{server.port}/", tls=f"sha256:{fingerprint(OTHER_SERVER)}")
    assert found == {
        "open.test": "hello",
        "pinned.test": "hello",
        "mistaken.test": "tls_fingerprint",
        "tls.test": "hello",
    }
    assert by_request == "tls_fingerprint"


@pytest.mark.parametrize("tls", [None, False, f"sha256:{fingerprint(SERVER)}"])
async def test_our_certificate_is_shown_under_every_rule(authority: str, tmp_path: Path, tls: Any) -> None:
    (tmp_path / "client.pem").write_text(CLIENT)
    demanding = server_context(tmp_path, SERVER, client_authority=AUTHORITY, version=ssl.TLSVersion.TLSv1_2)
    settings = {"ca_file": authority, "cert_file": str(tmp_path / "client.pem")}
    async with RawServer(HELLO, tls=demanding) as server:
        async with downloader(tls=settings) as fetcher:
            assert await read(fetcher, server.url, tls=tls) == "hello"
        async with downloader(tls={"ca_file": authority}) as fetcher:
            assert await read(fetcher, server.url, tls=tls) != "hello"
        assert len(server.requests) == 1


@pytest.mark.hostile("S32")
async def test_connections_are_shared_within_a_rule_and_with_no_other(authority: str, tmp_path: Path) -> None:
    pin = f"sha256:{fingerprint(SERVER)}"
    async with (
        RawServer(HELLO, tls=server_context(tmp_path, SERVER), keep_alive=True) as server,
        downloader(tls={"ca_file": authority}) as fetcher,
    ):
        for _ in range(3):
            for tls in (None, False, pin):
                assert await read(fetcher, server.url, tls=tls) == "hello"
        assert (server.connections, len(server.requests)) == (3, 9)
