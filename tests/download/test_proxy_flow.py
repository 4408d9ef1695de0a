"""Crawls through proxies: who sees what, whose fault it was, and what the statistics say."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
from certificates import AUTHORITY, SERVER, server_context
from proxy_server import ProxyServer
from socks_server import SocksServer

from crawler import Failure, FetchError, Request, Response, Spider
from crawler.errors import SettingsError
from crawler.testing import Canary, LocalSite, run_spider
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

LOGIN = ("user", "s3cret")
POLITE = {"politeness": {"obey_robots": False}, "retry": {"times": 0}}
HELLO = answer(b"hello")


class Through(Spider):
    """Fetches `urls`; `options` are those of its requests."""

    name = "through"
    urls: list[str] = []
    options: dict[str, Any] = {}

    async def start(self) -> Any:
        for number, url in enumerate(self.urls):
            yield self.request(url, key=str(number), **self.options)

    def parse(self, response: Response) -> Any:
        yield {"text": response.text, "proxy": response.proxy, "sent": dict(response.request_headers)}

    def failed(self, failure: Failure) -> Any:
        yield {"reason": failure.reason, "status": failure.response and failure.response.status}


async def crawl(*urls: str, settings: dict[str, Any] | None = None, **options: Any) -> Any:
    merged = {**POLITE, **(settings or {})}
    return await run_spider(Through, args={"urls": list(urls), "options": options}, settings=merged)


def through(*proxies: str, per: str = "host", **more: Any) -> dict[str, Any]:
    return {"proxy": {"urls": list(proxies), "per": per, **more}}


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S15")
async def test_the_proxy_gets_its_credentials_and_the_site_none_of_them() -> None:
    async with RawServer(HELLO) as site, ProxyServer(auth=LOGIN) as proxy:
        run = await crawl(site.url, settings=through(proxy.url))
    (item,) = run.items
    assert item["text"] == "hello"
    assert proxy.credentials == ["user:s3cret"]
    assert b"proxy-authorization" not in site.requests[0].lower()
    assert "Proxy-Authorization" not in item["sent"]


@pytest.mark.hostile("S15")
async def test_a_tunnel_tells_the_proxy_nothing_that_is_for_the_site(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    settings = {
        "http": {},
        "tls": {"ca_file": str(tmp_path / "ca.pem")},
    }
    async with RawServer(HELLO, tls=server_context(tmp_path, SERVER)) as site, ProxyServer(auth=LOGIN) as proxy:
        host = f"127.0.0.2:{site.port}"
        settings["http"] = {"auth": {host: "anna:hers"}, "host_headers": {host: "X-Api-Key: for-the-site"}}
        run = await crawl(
            site.url, settings={**settings, **through(proxy.url)}, headers={"Proxy-Authorization": "mine"}
        )
    assert run.items[0]["text"] == "hello"
    (asked,) = proxy.journal
    assert asked.startswith(b"CONNECT 127.0.0.2:")
    assert b"for-the-site" not in asked
    assert b"aiohttp" not in asked
    (sent,) = site.requests
    assert b"X-Api-Key: for-the-site" in sent
    assert b"Authorization: Basic" in sent
    assert b"Proxy-Authorization" not in sent


async def test_errors_and_logs_show_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    class Loud(Through):
        def failed(self, failure: Failure) -> Any:
            logging.getLogger("test").error("%r", failure, exc_info=failure.error)
            logging.getLogger("test").error("%r", failure.request_info)

    async with ProxyServer(auth=("other", "other"), failure=502) as proxy:
        settings = {**POLITE, **through(proxy.url_for(*LOGIN)), "log": {"level": "DEBUG"}}
        urls = ["https://site.example/", "http://site.example/"]
        with caplog.at_level(logging.DEBUG):
            run = await run_spider(Loud, args={"urls": urls}, settings=settings)
    assert run.stats["errors"] == 2
    assert "s3cret" not in caplog.text
    assert "s3cret" not in str(run.stats)


@pytest.mark.hostile("S15")
async def test_each_account_of_one_proxy_has_connections_of_its_own() -> None:
    async with RawServer(HELLO, keep_alive=True) as site, ProxyServer() as proxy:
        urls = [f"{site.url}{number}" for number in range(4)]
        settings = through(proxy.url_for("a", "1"), proxy.url_for("b", "2"), per="request")
        run = await crawl(*urls, settings=settings)
    assert sorted(proxy.credentials) == ["a:1", "a:1", "b:2", "b:2"]
    assert len(run.stats["proxies"]) == 2


async def test_proxy_auth_of_a_request_is_for_the_proxy_of_the_pool_too() -> None:
    async with RawServer(HELLO) as site, ProxyServer(auth=LOGIN) as proxy:
        run = await crawl(site.url, settings=through(proxy.url_for()), proxy_auth=LOGIN)
    assert run.items[0]["text"] == "hello"


# -- guard ---------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S06")
async def test_a_link_to_the_proxy_itself_is_as_private_as_any_other() -> None:
    class Curious(Through):
        async def parse(self, response: Response) -> Any:
            for url in (self.target, f"{self.target}/admin"):  # type: ignore[attr-defined]
                try:
                    await self.fetch(Request(url, proxy=self.way))  # type: ignore[attr-defined]
                except FetchError as error:
                    yield {"reason": error.reason}
            try:
                await self.fetch(self.target)  # type: ignore[attr-defined]
            except FetchError as error:
                yield {"reason": error.reason}

    async with RawServer(HELLO) as site, ProxyServer(host="127.0.0.9") as proxy:
        args = {"urls": [site.url], "target": proxy.url, "way": proxy.url, "options": {"proxy": proxy.url}}
        run = await run_spider(Curious, args=args, settings=POLITE)
    assert [item["reason"] for item in run.items] == ["blocked_address"] * 3
    assert proxy.targets == [site.url]


@pytest.mark.hostile("S06")
@pytest.mark.parametrize("kind", ["http", "socks"])
async def test_no_proxy_is_asked_for_what_pages_and_redirects_point_to_inside(kind: str) -> None:
    class Lured(Through):
        def parse(self, response: Response) -> Any:
            yield {"url": response.url}
            yield response.follow_all("a")

    proxies: Any = ProxyServer if kind == "http" else SocksServer
    async with LocalSite() as site, Canary() as canary, proxies() as proxy:
        hosts = ("127.0.0.9", "127.9", "0x7f000009", "[::ffff:127.0.0.9]", "localhost", "169.254.169.254", "10.0.0.1")
        inside = [f"{scheme}://{host}:{canary.port}/" for host in hosts for scheme in ("http", "https")]
        site.page("/", "".join(f"<a href='{url}'>.</a><a href='/{n}'>.</a>" for n, url in enumerate(inside)))
        for number, url in enumerate(inside):
            site.redirect(f"/{number}", f"{url}redirected")
        run = await run_spider(Lured, args={"urls": [f"{site.url}/"]}, settings={**POLITE, **through(proxy.url)})
        assert canary.connections == 0
        journal = proxy.targets if kind == "http" else [asked.host for asked in proxy.journal]
    assert len(site.paths) == 1 + len(inside)
    assert {each.removeprefix("http://").partition(":")[0] for each in journal} == {"127.0.0.1"}
    distinct = 2 * (len(inside) - 4)  # three of them spell one address
    assert [item["reason"] for item in run.items if "reason" in item] == ["blocked_address"] * distinct


@pytest.mark.hostile("S06")
async def test_no_answer_of_a_site_names_a_proxy_and_the_environment_does_not_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with LocalSite() as site, Canary() as canary:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, canary.url)
            monkeypatch.setenv(name.lower(), canary.url)
        site.page("/", "", status=305, headers={"Location": f"{canary.url}/"})
        site.page("/pac", "ok", headers={"Proxy": canary.url, "Proxy-Authenticate": "Basic realm=x"})
        site.page("/auth", "", status=407, headers={"Proxy-Authenticate": "Basic realm=x", "Proxy": canary.url})
        run = await crawl(*(f"{site.url}{path}" for path in ("/", "/pac", "/auth")))
        assert canary.connections == 0
    assert sorted(item.get("reason", "ok") for item in run.items) == ["ok", "status_305", "status_407"]


# -- health ------------------------------------------------------------------------------------------------------------


async def test_a_dead_proxy_rests_and_the_others_take_over(caplog: pytest.LogCaptureFixture) -> None:
    async with RawServer(HELLO) as site, ProxyServer() as dead, ProxyServer() as alive:
        await dead.refuse()
        urls = [f"{site.url}{number}" for number in range(12)]
        settings = {**through(dead.url, alive.url, per="request"), "retry": {"times": 2, "base_seconds": 0.01}}
        with caplog.at_level(logging.WARNING, logger="crawler.download.proxy"):
            run = await crawl(*urls, settings={**settings, "crawl": {"concurrency": 1}})
    assert [item.get("text") for item in run.items] == ["hello"] * 12
    proxies = run.stats["proxies"]
    assert proxies[alive.url] == {"requests": 12, "failures": 0}
    assert proxies[dead.url] == {"requests": 1, "failures": 1}
    assert [record.getMessage() for record in caplog.records] == [f"proxy {dead.url} failed and rests for 10 s"]


async def test_a_proxy_that_recovers_is_used_again() -> None:
    class Patient(Through):
        async def start(self) -> Any:
            for number in range(3):
                if number == 2:
                    await proxy.accept()
                    await asyncio.sleep(0.06)  # longer than the rest
                yield self.request(f"{self.urls[0]}{number}")
                while self.stats.total.responses + self.stats.total.errors <= number:
                    await asyncio.sleep(0.005)

    async with RawServer(HELLO) as site, ProxyServer() as proxy:
        await proxy.refuse()
        settings = {**POLITE, **through(proxy.url, rest_seconds=0.05)}
        run = await run_spider(Patient, args={"urls": [site.url]}, settings=settings)
    assert [item.get("reason", item.get("text")) for item in run.items] == ["proxy", "proxy", "hello"]


async def test_a_dead_site_is_not_the_proxys_fault() -> None:
    async with ProxyServer() as proxy, RawServer(HELLO) as site:
        settings = {**through(proxy.url), "crawl": {"concurrency": 1}}
        run = await crawl("https://127.0.0.8:9/", "https://127.0.0.8:10/", site.url, settings=settings)
    reasons = [item.get("reason", item.get("text")) for item in run.items]
    assert sorted(reasons) == ["hello", "proxy_tunnel", "proxy_tunnel"]


@pytest.mark.parametrize(
    ("target", "reason"), [("http://site.example/", "status_407"), ("https://site.example/", "proxy")]
)
async def test_credentials_that_the_proxy_does_not_take_have_a_reason(target: str, reason: str) -> None:
    async with ProxyServer(auth=LOGIN) as proxy:
        run = await crawl(target, settings=through(proxy.url_for("user", "wrong")))
    assert run.items[0]["reason"] == reason


# -- SOCKS -------------------------------------------------------------------------------------------------------------


async def test_a_socks_proxy_takes_plain_and_tls(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    tls: ssl.SSLContext = server_context(tmp_path, SERVER)
    async with RawServer(HELLO) as plain, RawServer(HELLO, tls=tls) as secure, SocksServer(auth=LOGIN) as proxy:
        settings = {**through(proxy.url), "tls": {"ca_file": str(tmp_path / "ca.pem")}}
        run = await crawl(plain.url, secure.url, settings=settings)
    assert [item["text"] for item in run.items] == ["hello", "hello"]
    (name,) = run.stats["proxies"]
    assert name.startswith("socks5://127.0.0.")
    assert "s3cret" not in name


async def test_what_is_no_proxy_is_said_without_its_password() -> None:
    run = await crawl("http://site.example/", proxy="gopher://user:s3cret@proxy.example")
    assert run.items[0]["reason"] == "proxy_url"


# -- the environment ---------------------------------------------------------------------------------------------------


async def test_the_environments_proxies_count_and_no_proxy_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ProxyServer() as proxy, RawServer(HELLO) as far, LocalSite("127.0.0.3") as near:
        near.page("/", "near")
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("all_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.3")
        run = await crawl(far.url, f"{near.url}/", settings={"http": {"trust_env": True}})
    assert sorted(item["text"] for item in run.items) == ["hello", "near"]
    assert proxy.targets == [far.url]
    assert run.stats["proxies"] == {proxy.url: {"requests": 1, "failures": 0}}


async def test_the_environment_is_asked_for_no_passwords(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.2 login anna password hers\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with RawServer(HELLO) as site:
        await crawl(site.url, settings={"http": {"trust_env": True}})
    assert b"Authorization" not in site.requests[0]


async def test_robots_txt_is_asked_for_by_the_way_of_its_request() -> None:
    async with RawServer(HELLO) as site, ProxyServer(auth=LOGIN) as proxy:
        settings = {"politeness": {"obey_robots": True}}
        run = await crawl(site.url, settings=settings, proxy=proxy.url)
    assert run.items[0]["text"] == "hello"
    assert proxy.targets == [f"{site.url}robots.txt", site.url]


async def test_a_socks_proxy_without_its_extra_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "crawler.download.socks", raising=False)
    monkeypatch.delattr("crawler.download.socks", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    run = await crawl("http://site.example/", proxy="socks5://proxy.example")
    assert run.items[0]["reason"] == "proxy_url"
    with pytest.raises(SettingsError, match=r"crawler\[socks\]"):
        await crawl("http://site.example/", settings=through("socks5://proxy.example"))
