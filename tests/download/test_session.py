"""The session's own share: proxies, default headers, cookie jars by session name, hosts that must mean one thing."""

from __future__ import annotations

from typing import Any

import pytest

from crawler import Request, Response, Spider
from crawler.errors import FetchError
from crawler.testing import LocalSite, run_spider


class One(Spider):
    name = "one"
    site = ""
    options: dict[str, Any] = {}

    async def start(self) -> Any:
        yield self.request(self.site, **self.options)

    def parse(self, response: Response) -> Any:
        yield {"text": response.text, "url": response.url}


OPEN = {"politeness": {"obey_robots": False}, "retry": {"times": 0}}


async def test_a_proxy_gets_the_whole_address_and_its_own_credentials() -> None:
    async with LocalSite() as proxy:
        proxy.page("*", "from the proxy")
        options = {"proxy": proxy.url.replace("http://", "http://user:secret@")}
        run = await run_spider(One, args={"site": "http://far.example/page?x=1", "options": options}, settings=OPEN)
    (hit,) = proxy.requests()
    assert run.items == [{"text": "from the proxy", "url": "http://far.example/page?x=1"}]
    assert hit.path == "http://far.example/page?x=1"
    assert hit.headers["Proxy-Authorization"] == "Basic dXNlcjpzZWNyZXQ="
    assert "Authorization" not in hit.headers


async def test_proxy_auth_is_for_the_proxy_and_wins_over_its_url() -> None:
    async with LocalSite() as proxy:
        proxy.page("*", "from the proxy")
        options = {"proxy": proxy.url.replace("http://", "http://a:b@"), "proxy_auth": ("user", "secret")}
        await run_spider(One, args={"site": "http://far.example/", "options": options}, settings=OPEN)
    assert proxy.requests()[0].headers["Proxy-Authorization"] == "Basic dXNlcjpzZWNyZXQ="


async def test_proxies_take_turns_by_request_and_stay_with_a_host_otherwise() -> None:
    class Two(One):
        async def start(self) -> Any:
            for number in range(4):
                yield self.request(f"http://far.example/{number}")

    async with LocalSite() as first, LocalSite() as second:
        for proxy in (first, second):
            proxy.page("*", "ok")
        urls = [first.url, second.url]
        await run_spider(Two, settings={**OPEN, "proxy": {"urls": urls, "per": "request"}})
        assert (len(first.requests()), len(second.requests())) == (2, 2)
        await run_spider(Two, settings={**OPEN, "proxy": {"urls": urls, "per": "host"}})
        assert sorted((len(first.requests()), len(second.requests()))) == [2, 6]


@pytest.mark.parametrize(
    "target", ["http://127.0.0.9:9/", "http://10.0.0.1/", "http://localhost:9/", "http://[::1]:9/"]
)
async def test_what_is_not_public_is_not_asked_of_a_proxy_either(target: str) -> None:
    class Linked(One):
        async def parse(self, response: Response) -> Any:
            try:
                await self.fetch(Request(target, proxy=self.proxy))
            except FetchError as error:
                yield {"reason": error.reason}

    async with LocalSite() as site, LocalSite() as proxy:
        site.page("/", "ok")
        proxy.page("*", "secrets")
        Linked.proxy = proxy.url  # type: ignore[attr-defined]
        run = await run_spider(Linked, args={"site": site.url}, settings=OPEN)
    assert run.items == [{"reason": "blocked_address"}]
    assert proxy.journal == []


async def test_what_is_not_public_is_not_asked_of_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Linked(One):
        async def parse(self, response: Response) -> Any:
            try:
                await self.fetch("http://10.0.0.1/")
            except FetchError as error:
                yield {"reason": error.reason}

    async with LocalSite() as proxy:
        proxy.page("*", "ok")
        monkeypatch.setenv("http_proxy", proxy.url)
        settings = {**OPEN, "http": {"trust_env": True}}
        run = await run_spider(Linked, args={"site": "http://far.example/"}, settings=settings)
    assert run.items == [{"reason": "blocked_address"}]
    assert len(proxy.journal) == 1


async def test_the_default_headers_say_who_we_are_and_what_we_read() -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        settings = {**OPEN, "http": {"headers": {"X-From": "settings"}, "user_agent": "mybot/2 (+https://bot.example)"}}
        await run_spider(One, args={"site": site.url}, settings=settings)
    headers = site.requests()[0].headers
    assert headers["User-Agent"] == "mybot/2 (+https://bot.example)"
    assert headers["Accept-Encoding"] == "gzip, deflate, br, zstd"
    assert headers["X-From"] == "settings"
    assert headers["Accept"].startswith("text/html")


async def test_everything_can_go_through_a_unix_socket(tmp_path: Any) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.host}{request.path}")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    try:
        settings = {**OPEN, "http": {"unix_socket": str(tmp_path / "socket")}}
        run = await run_spider(One, args={"site": "http://inside.example/a"}, settings=settings)
    finally:
        await runner.cleanup()
    assert run.items[0]["text"] == "inside.example/a"


async def test_proxies_of_the_environment_are_used_when_told_to_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalSite() as proxy, LocalSite() as site:
        proxy.page("*", "from the proxy")
        site.page("/", "straight")
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        told = await run_spider(One, args={"site": site.url}, settings={**OPEN, "http": {"trust_env": True}})
        untold = await run_spider(One, args={"site": site.url}, settings=OPEN)
    assert [run.items[0]["text"] for run in (told, untold)] == ["from the proxy", "straight"]
