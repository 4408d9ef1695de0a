"""Eight kinds of hop by every kind of secret: who keeps it is its own origin, and nobody else. Yielded and inline."""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yarl
from asking import OBEDIENT, YIELDED, Asking, ask_all
from proxy_server import ProxyServer

from crawler import Request, Response, Spider
from crawler.download.auth import Credentials
from crawler.errors import SettingsError
from crawler.redirect import next_request
from crawler.testing import Authority, LocalSite, RawServer, run_spider

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from crawler.testing.site import Hit

HOPS = {
    "same origin, other path": ["http://www.home.test/end"],
    "other port": ["http://www.home.test:other/end"],
    "other host": ["http://other.test/end"],
    "http to https": ["https://www.home.test/end"],
    "https to http": ["http://www.home.test/end"],
    "subdomain": ["http://a.www.home.test/end"],
    "parent domain": ["http://home.test/end"],
    "there and back": ["http://other.test/hop", "http://www.home.test/end"],
}
"""Where each leads from `http://www.home.test/` (one from `https:`); ports are filled in."""

OWN = {
    "Authorization": "Bearer own-authorization",
    "Proxy-Authorization": "Basic own-proxy-authorization",
    "X-Api-Key": "own-api-key",
    "Referer": "http://www.home.test/own-referer",
}
LOGIN = base64.b64encode(b"user:own-userinfo").decode()
SETTINGS_LOGIN = base64.b64encode(b"user:of-settings").decode()


class Web(NamedTuple):
    """The sites behind all names, as one web server a port."""

    plain: LocalSite
    other: LocalSite
    secure: LocalSite

    def url(self, text: str) -> str:
        """With the ports of the three."""
        scheme, _, rest = text.partition("://")
        host, slash, path = rest.partition("/")
        name, colon, _ = host.partition(":")
        site = self.secure if scheme == "https" else self.other if colon else self.plain
        return f"{scheme}://{name}:{site.host.rpartition(':')[2]}{slash}{path}"

    def hits(self) -> list[Hit]:
        return sorted((hit for site in self for hit in site.journal), key=lambda hit: hit.time)


async def opened(stack: AsyncExitStack, tmp_path: Path, hops: list[str]) -> tuple[Web, dict[str, Any]]:
    """The web, whose `/hop` leads from each place to the next, and settings by which the crawl finds it."""
    authority = Authority()
    tls = authority.server("www.home.test", "other.test")
    sites = [LocalSite(), LocalSite(), LocalSite(tls=tls)]
    web = Web(*[await stack.enter_async_context(site) for site in sites])
    targets = [web.url(hop) for hop in hops]
    for site in web:
        site.page("/end", "there")
        site.page("/end", "busy", status=503, times=1)  # what is tried again is sent again
        site.page("/set", "welcome", headers={"Set-Cookie": "sid=jar-cookie"})
        site.route("/hop", _hop(targets))
    origin = web.url("http://www.home.test/")[:-1]
    settings = {
        **OBEDIENT,
        "dns": {"hosts": dict.fromkeys(("home.test", "www.home.test", "a.www.home.test", "other.test"), "127.0.0.1")},
        "tls": {"ca_file": str(authority.save(tmp_path))},
        "http": {
            "auth": {origin: "user:of-settings"},
            "host_headers": {origin: "X-Api-Token: host-header\nCookie: consent=host-cookie"},
        },
    }
    settings["security"] = {"allow_private_networks": True}
    return web, settings


def _hop(targets: list[str]) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        here = str(request.url)
        at = targets.index(here) + 1 if here in targets else 0
        return web.Response(status=302, headers={"Location": targets[at]})

    return answer


def seen_in(hit: Hit, secrets: dict[str, str]) -> set[str]:
    sent = "\n".join(f"{name}: {value}" for name, value in hit.headers.items())
    return {name for name, secret in secrets.items() if secret in sent}


REQUESTS = {**{name: value.split()[-1] for name, value in OWN.items()}, "cookies": "own-cookie", "userinfo": LOGIN}
"""What a request may bring along."""
SETTINGS = {"http.auth": SETTINGS_LOGIN, "host header": "host-header", "host cookie": "host-cookie"}


@pytest.mark.hostile("S09", "S10", "S11", "S12", "S13")
@pytest.mark.parametrize("kind", HOPS)
async def test_secrets_stay_with_their_origin_over_every_kind_of_hop(way: str, kind: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        web, settings = await opened(stack, tmp_path, HOPS[kind])
        start = web.url("https://www.home.test/" if kind == "https to http" else "http://www.home.test/")
        first = f"{start}hop"
        duplicates = [("Cookie", "a=own-cookie-1"), ("Cookie", "b=own-cookie-2")]
        steps = [
            Request(f"{start}set"),
            Request(first, headers=[*OWN.items(), *duplicates], meta={"n": 1}),
            Request(first, cookies={"own": "own-cookie"}, key="cookies"),
            Request(first.replace("://", "://user:own-userinfo@"), key="userinfo"),
        ]
        ended = (await ask_all(way, steps, settings=settings)).seen[1:]
        hits = web.hits()
    begun = [hit for hit in hits if hit.path == "/hop" and hit.host in first]
    kept: set[str] = set() if kind != "same origin, other path" else set(REQUESTS) - {"Proxy-Authorization", "userinfo"}
    sent = set().union(*(seen_in(hit, REQUESTS) for hit in begun))
    assert sent == set(REQUESTS) - {"Proxy-Authorization"}  # all of them were on their way
    last = [hit for hit in hits if hit.path == "/end"]
    assert len(last) >= len(ended)
    assert set().union(*(seen_in(hit, REQUESTS) for hit in last)) == kept
    strangers = [hit for hit in hits if not first.startswith(_origin(web, hit))]
    assert [seen_in(hit, REQUESTS) for hit in strangers] == [set()] * len(strangers)
    home = web.url("http://www.home.test/")[:-1]
    assert {_origin(web, hit) for hit in hits if seen_in(hit, SETTINGS)} <= {home}
    assert kind == "https to http" or {_origin(web, hit) for hit in hits if seen_in(hit, SETTINGS)} == {home}
    with_jar = {hit.host.partition(":")[0] for hit in hits if "jar-cookie" in hit.headers.get("Cookie", "")}
    assert with_jar == {"www.home.test"}  # a cookie has a host; scheme and port do not matter to it (RFC 6265, 8.5)


def _origin(web: Web, hit: Hit) -> str:
    scheme = "https" if hit in web.secure.journal else "http"
    return f"{scheme}://{hit.host}"


@pytest.mark.hostile("S11")
@pytest.mark.parametrize("target", ["https://h.test:8000/", "http://h.test:8001/", "http://g.test:8000/"])
def test_one_of_scheme_host_and_port_is_enough_to_be_another_origin(target: str) -> None:
    request = Request("http://h.test:8000/", headers={"Authorization": "x", "Accept": "y"}, cookies={"a": "b"})
    response = Response(request.url, request=request, status=302, headers={"Location": target})
    hop = next_request(request, response, 10)
    assert hop is not None
    assert (dict(hop.headers), hop.cookies) == ({"Accept": "y"}, None)


@pytest.mark.hostile("S12")
async def test_a_link_takes_nothing_along_from_the_request_of_its_page(tmp_path: Path) -> None:
    class Following(Spider):
        name = "following"
        start_url = ""
        targets: tuple[str, ...] = ()

        async def start(self) -> Any:
            yield self.request(self.start_url, headers=OWN, cookies={"own": "own-cookie"})

        async def parse(self, response: Response) -> Any:
            yield response.follow(self.targets[0], "end")
            yield response.follow_all(self.targets[1:], "end")
            await self.fetch(response.urljoin(self.targets[-1]) + "?inline")

        def end(self, response: Response) -> Any:
            yield {"url": response.url}

    async with AsyncExitStack() as stack:
        web, settings = await opened(stack, tmp_path, [])
        arguments = {
            "start_url": web.url("https://www.home.test/set"),
            "targets": [web.url("https://www.home.test/end"), web.url("http://www.home.test/end"), "/end?2"],
        }
        run = await run_spider(Following, args=arguments, settings=settings)
        hits = web.hits()
    assert len(run.items) == 3
    assert [hit.path for hit in hits if seen_in(hit, REQUESTS)] == ["/set"]
    assert not any("Referer" in hit.headers for hit in hits if hit.path != "/set")


@pytest.mark.hostile("S11", "S13")
async def test_a_handshake_has_the_secrets_of_its_own_host_alone(tmp_path: Path) -> None:
    class Talking(Spider):
        name = "talking"
        urls: tuple[str, ...] = ()

        async def start(self) -> Any:
            yield self.request(self.urls[0])

        async def parse(self, response: Response) -> Any:
            for url in self.urls[1:]:
                async with self.websocket(url.replace("http", "ws", 1)):
                    yield {"url": url}

    async def hang_up(socket: Any) -> None:
        pass

    async with AsyncExitStack() as stack:
        web, settings = await opened(stack, tmp_path, [])
        for site in web:
            site.websocket("/talk", hang_up)
        urls = ["http://www.home.test/set", "http://www.home.test/talk", "http://other.test/talk"]
        urls += ["https://www.home.test/talk", "http://www.home.test:other/talk"]
        run = await run_spider(Talking, args={"urls": list(map(web.url, urls))}, settings=settings)
        talks = {_origin(web, hit): seen_in(hit, SETTINGS) for hit in web.hits() if hit.path == "/talk"}
    assert len(run.items) == len(talks) == 4
    home = web.url("http://www.home.test/")[:-1]
    assert talks == {origin: set(SETTINGS) if origin == home else set() for origin in talks}


@pytest.mark.hostile("S13", "S14")
@pytest.mark.parametrize(
    "other", ["https://h.test:8000/", "http://h.test:8001/", "http://g.test:8000/", "http://h.test/"]
)
def test_what_the_settings_bind_to_an_origin_is_for_no_other(other: str) -> None:
    owner = {"http://h.test:8000": "X: y:z"}
    credentials = Credentials(owner, owner, owner)
    home, there = yarl.URL("http://h.test:8000/"), yarl.URL(other)
    assert (credentials.basic(home), len(credentials.digest(home)), credentials.headers(home)[0]) == (
        "Basic " + base64.b64encode(b"X: y:z").decode(), 1, {"X": "y:z"}
    )  # fmt: skip
    assert (credentials.basic(there), credentials.digest(there), credentials.headers(there)) == (None, (), ({}, ""))


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S12", "S13")
@pytest.mark.parametrize(
    "name",
    ["Authorization", "Proxy-Authorization", "cookie", "X-Api-Key", "X-Auth-Token", "apikey", "X-CSRF-Token",
     "Ocp-Apim-Subscription-Key", "client_secret", "X-Amz-Security-Token", "Session"],
)  # fmt: skip
async def test_a_secret_for_every_host_is_an_error_of_the_settings_that_says_how_to_bind_it(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await run_spider(Asking, settings={"http": {"headers": {name: "s3cret-value"}}})
    assert f'http.host_headers."example.com" = "{name}: …"' in str(caught.value)
    assert "s3cret-value" not in str(caught.value)


@pytest.mark.parametrize("name", ["Accept", "Author", "X-Keyboard", "X-Client", "Sec-CH-UA", "From"])
async def test_a_header_that_is_no_secret_is_for_every_host(name: str) -> None:
    async with LocalSite() as site:
        steps = [Request(site.url)]
        await ask_all(YIELDED, steps, settings={"http": {"headers": {name: "value"}, "ok_status": [404]}})
        assert [hit.headers[name] for hit in site.requests()] == ["value"]


@pytest.mark.hostile("S13")
@pytest.mark.parametrize("key", ["auth", "digest_auth", "host_headers"])
@pytest.mark.parametrize("given", ["user:s3cret", {"": "user:s3cret"}, {"*": "user:s3cret"}, {"/": "user: s3cret"}])
async def test_credentials_without_a_host_are_an_error_of_the_settings(key: str, given: Any) -> None:
    with pytest.raises(SettingsError, match=f"http.{key}.*expected (a host|a table)") as caught:
        await run_spider(Asking, settings={"http": {key: given}})
    assert "s3cret" not in str(caught.value)


async def test_a_requests_own_headers_go_before_those_of_its_host(way: str) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        fixed = "X-Api-Key: theirs\nCookie: consent=yes\nAuthorization: Bearer theirs"
        steps = [
            Request(site.url),
            Request(site.url, headers={"x-api-key": "mine"}, cookies={"a": "b"}, key="own"),
            Request(site.url, headers={"X-Api-Key": None}, key="none"),
            Request(site.url.replace("://", "://me:mine@"), key="userinfo"),
        ]
        await ask_all(way, steps, settings={"http": {"host_headers": {site.host: fixed}}})
        names = ("X-Api-Key", "Cookie", "Authorization")
        sent = [tuple(hit.headers.get(name) for name in names) for hit in site.requests()]
    assert sent == [
        ("theirs", "consent=yes", "Bearer theirs"),
        ("mine", "a=b; consent=yes", "Bearer theirs"),
        (None, "consent=yes", "Bearer theirs"),
        ("theirs", "consent=yes", "Basic " + base64.b64encode(b"me:mine").decode()),
    ]


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S15")
async def test_each_of_two_proxies_sees_its_own_credentials_alone_over_redirects_and_retries() -> None:
    logins = [("one", "first-s3cret"), ("two", "second-s3cret")]
    encoded = [base64.b64encode(":".join(login).encode()) for login in logins]
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(ProxyServer(auth=login)) for login in logins]
        site, other = [await stack.enter_async_context(LocalSite(host)) for host in ("127.0.0.1", "127.0.0.3")]
        for each in (site, other):
            for path in ("/a", "/b", "/c"):
                each.redirect(path, f"{other.url}/end{path}")
                each.page(path, "busy", status=503, times=1)
                each.page(f"/end{path}", "there")
        steps = [Request(f"{each.url}{path}") for each in (site, other) for path in ("/a", "/b", "/c")]
        settings = {
            "proxy": {"urls": [first.url, second.url], "per": "request"},
            "security": {"allow_private_networks": True},
        }
        await ask_all(YIELDED, steps, settings=settings)
        hits = [*site.journal, *other.journal]
    for proxy, login in ((first, logins[0]), (second, logins[1])):
        assert len(proxy.journal) >= 4
        assert set(proxy.credentials) == {":".join(login)}
    assert not any(encoded[1] in head for head in first.journal)
    assert not any(encoded[0] in head for head in second.journal)
    assert not any("Proxy-Authorization" in hit.headers or "s3cret" in str(hit) for hit in hits)


@pytest.mark.hostile("S15")
async def test_a_site_that_answers_407_gets_no_credentials_of_the_proxy(way: str) -> None:
    demand = b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
    async with RawServer(demand) as site, ProxyServer(auth=("one", "first-s3cret")) as proxy:
        settings = {"proxy": {"urls": [proxy.url]}, "retry": {"times": 1}}
        seen = (await ask_all(way, [Request(site.url)], settings=settings)).seen[0]
        assert seen.reply.status == 407
        assert set(proxy.credentials) == {"one:first-s3cret"}
        assert not any(b"authorization" in head.lower() for head in site.requests)
