"""Where a page may lead: in no spelling, by no redirect and by no trick of DNS into the user's own network.

127.0.0.2 to 127.0.0.8 stand for the public internet here, the rest of loopback for what must not be reached.
"""

from __future__ import annotations

import itertools
import socket
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from crawler import Failure, Request, Response, SitemapSpider, Spider
from crawler.download import lookup
from crawler.errors import FetchError, InvalidURL
from crawler.testing import Canary, DnsServer, LocalSite, RawServer, run_spider
from crawler.testing.names import AAAA, A, Address
from crawler.testing.raw import answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PUBLIC = ["127.0.0.2/31", "127.0.0.4/30", "127.0.0.8/32"]
HELLO = answer(b"hello")


def settings(dns: DnsServer | None = None, **tables: Any) -> dict[str, Any]:
    return {
        "security": {"allow_networks": PUBLIC},
        "politeness": {"obey_robots": False, "concurrency_per_host": 16},
        "retry": {"times": 0},
        "http": {"connect_seconds": 2},
        **({} if dns is None else {"dns": {"nameservers": [dns.nameserver]}}),
        **tables,
    }


class Walker(Spider):
    """Fetches `urls`, follows every link, and says what became of each."""

    name = "walker"
    urls: tuple[str, ...] = ()

    async def start(self) -> Any:
        for url in self.urls:
            yield self.request(url)

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}
        yield response.follow_all("a")

    def failed(self, failure: Failure) -> Any:
        yield {"url": failure.request.url, "reason": failure.reason}


def reasons(run: Any) -> dict[str, str]:
    return {item["url"]: item["reason"] for item in run.items if "reason" in item}


def linked(urls: Any) -> str:
    return "".join(f"<a href='{url}'>.</a>" for url in urls)


# -- spellings ---------------------------------------------------------------------------------------------------------

SPELLINGS: dict[str, str | None] = {
    "127.0.0.9": "127.0.0.9",
    "127.0.0.9.": "127.0.0.9",
    "2130706441": "127.0.0.9",
    "2130706441.": "127.0.0.9",
    "127.9": "127.0.0.9",
    "127.9.": "127.0.0.9",
    "127.0.9": "127.0.0.9",
    "127.0x9": "127.0.0.9",
    "0177.0.0.9": "127.0.0.9",
    "0177.0.0.011": "127.0.0.9",
    "00000177.0.0.9": "127.0.0.9",
    "017700000011": "127.0.0.9",
    "0x7f000009": "127.0.0.9",
    "0X7F000009": "127.0.0.9",
    "0x7f.9": "127.0.0.9",
    "0x7f.0.0x9": "127.0.0.9",
    "0x7F.0.0.0X9": "127.0.0.9",
    "0x7f.0.0.9": "127.0.0.9",
    "0x0000007f.0.0.9": "127.0.0.9",
    "0177.0x0.9": "127.0.0.9",
    "127.0x.0x.9": "127.0.0.9",
    "１２７.0.0.9": "127.0.0.9",
    "１２７．０．０．９": "127.0.0.9",
    "①②⑦.⓪.⓪.⑨": "127.0.0.9",
    "⑫7.0.0.9": "127.0.0.9",
    "127。0。0。9": "127.0.0.9",
    "127｡0．0｡9": "127.0.0.9",
    "１２７｡⑨": "127.0.0.9",
    "𝟙𝟚𝟟.𝟬.𝟎.𝟿": "127.0.0.9",
    "¹²⁷.0.0.⁹": "127.0.0.9",
    "0ⅹ7f.9": "127.0.0.9",
    "127\u00ad.0.0.9": "127.0.0.9",
    "127.0\u200b.0.9": "127.0.0.9",
    "%31%32%37.0.0.9": "127.0.0.9",
    "%31%32%37%2E0%2e0%2E%39": "127.0.0.9",
    "127%E3%80%820.0.9": "127.0.0.9",
    "%EF%BC%91%EF%BC%92%EF%BC%97.9": "127.0.0.9",
    "127.0.0.\t9": "127.0.0.9",
    "shop.test@127.0.0.9": "127.0.0.9",
    "shop.test:80@127.9": "127.0.0.9",
    "0.0.0.0": "0.0.0.0",
    "0": "0.0.0.0",
    "0x": "0.0.0.0",
    "⓪": "0.0.0.0",
    "127.0.0.1": "127.0.0.1",
    "localhost": "localhost",
    "localhost.": "localhost.",
    "LOCALHOST": "localhost",
    "ｌｏｃａｌｈｏｓｔ": "localhost",
    "ⓛocalhost": "localhost",
    "%6cocalhost": "localhost",
    "admin.localhost": "admin.localhost",
    "[::ffff:127.0.0.9]": "[::ffff:7f00:9]",
    "[::ffff:7f00:9]": "[::ffff:7f00:9]",
    "[0:0:0:0:0:ffff:127.0.0.9]": "[::ffff:7f00:9]",
    "[::127.0.0.9]": "[::7f00:9]",
    "[64:ff9b::127.0.0.9]": "[64:ff9b::7f00:9]",
    "[2002:7f00:9::]": "[2002:7f00:9::]",
    "[::]": "[::]",
    "[::1]": "[::1]",
    "[::ffff:127.9]": None,
    "[::1%25lo]": None,
    "[::1%lo]": None,
    "[fe80::1%251]": None,
    "[::ffff:127.0.0.9": None,
    "127.0.0.256": None,
    "127.0.0.09": None,
    "127.0.0.0.9": None,
    "1.2.3.4294967296": None,
    "0x7f0000009": None,
    "127..9": None,
    "127.0.0.9%00": None,
    "127.0.0.9%2f": None,
    "127.0.0.9%09": None,
}
"""Hosts as a page may write them, and what they are to the WHATWG's parser; None: no URL at all."""


@pytest.mark.hostile("S02")
@pytest.mark.parametrize("way", ["links", "redirects", "redirects as written"])
async def test_no_spelling_of_an_inner_address_is_dialled_or_asked_for(way: str) -> None:
    class Redirected(Walker):
        def parse(self, response: Response) -> Any:
            yield {"url": response.url}
            for number in range(len(SPELLINGS)):
                yield response.follow(f"/redirect/{number}", encoded=way.endswith("written"))

    async with DnsServer() as dns, LocalSite("127.0.0.2") as site, Canary("0.0.0.0") as canary:
        targets = [f"http://{spelling}:{canary.port}/{number}" for number, spelling in enumerate(SPELLINGS)]
        site.page("/", linked(targets))
        for number, target in enumerate(targets):
            site.redirect(f"/redirect/{number}", target)
        spider = Walker if way == "links" else Redirected
        run = await run_spider(spider, args={"urls": (f"{site.url}/",)}, settings=settings(dns))
        assert canary.connections == 0
        assert dns.questions == [], "what looks like an address is no name"
    assert run.reason == "finished"
    assert [item["url"] for item in run.items if "reason" not in item] == [f"{site.url}/"]
    told = {int(url.rpartition("/")[2]): reason for url, reason in reasons(run).items()}
    valid = {number for number, host in enumerate(SPELLINGS.values()) if host is not None}
    invalid = set() if way == "links" else set(range(len(SPELLINGS))) - valid
    assert told == {**dict.fromkeys(valid, "blocked_address"), **dict.fromkeys(invalid, "redirect_scheme")}


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.hostile("S02")
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_nor_is_the_loopback_of_ipv6() -> None:
    async with LocalSite("127.0.0.2") as site, Canary("::1") as canary:
        hosts = ("[::1]", "[0:0:0:0:0:0:0:1]", "[::0.0.0.1]", "[::]", "localhost", "[0000::0001]")
        targets = [f"http://{host}:{canary.port}/{number}" for number, host in enumerate(hosts)]
        site.page("/", linked(targets))
        run = await run_spider(Walker, args={"urls": (f"{site.url}/",)}, settings=settings())
        assert canary.connections == 0
    assert list(reasons(run).values()) == ["blocked_address"] * len(hosts)


# -- rebinding ---------------------------------------------------------------------------------------------------------

FETCHES = 1000


@pytest.mark.hostile("S04")
async def test_a_thousand_fetches_of_names_that_change_their_address_never_reach_the_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Thousand(Walker):
        """`urls` are hosts that the user named; pages link to others."""

        def parse(self, response: Response) -> Any:
            yield {"url": response.url}
            if response.url in self.urls:
                hosts = ("start.test", "evil.test", "both.test", "mixed.test")
                for number, host in zip(range(FETCHES), itertools.cycle(hosts), strict=False):
                    yield self.request(f"http://{host}:{server.port}/{number}")

    inner, outer = Address("127.0.0.9", ttl=0), Address("127.0.0.2", ttl=0)
    monkeypatch.setattr(lookup, "_LEAST_SECONDS", 0.0)  # each connection asks anew
    async with (
        DnsServer() as dns,
        RawServer(answer(b"hello", "Connection: close", "Content-Type: text/html")) as server,
        Canary("127.0.0.9", server.port) as canary,
    ):
        dns.names = {
            "start.test": lambda _, number: [inner if number % 2 else outer],
            "evil.test": lambda _, number: [outer if number % 2 else inner],
            "both.test": [inner, outer],
            "mixed.test": lambda _, number: [inner, outer] if number % 3 else [inner],
        }
        named = (f"http://start.test:{server.port}/", f"http://both.test:{server.port}/")
        run = await run_spider(Thousand, args={"urls": named}, settings=settings(dns))
        assert canary.connections == 0
        assert {kind for _, kind in dns.questions} == {A, AAAA}, "an SRV or HTTPS record would name another host"
        assert dns.count("evil.test") > 10, "it was not asked again"
        answered = len(server.requests)
    blocked = list(reasons(run).values())
    assert answered + len(blocked) >= FETCHES
    assert answered == run.stats["pages"]
    assert set(blocked) <= {"blocked_address", "dns_timeout"}  # a busy machine may be late with an answer
    assert answered > blocked.count("blocked_address") > FETCHES // 20


@pytest.mark.hostile("S04")
async def test_a_private_host_that_start_named_does_not_lead_elsewhere_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_LEAST_SECONDS", 0.0)
    async with DnsServer() as dns, LocalSite("127.0.0.10") as site, Canary("127.0.0.9", _port(site)) as canary:
        site.page("*", "".join(f"<a href='/{number}'>.</a>" for number in range(5)))
        dns.names["wiki.test"] = lambda _, number: [Address("127.0.0.9" if number else "127.0.0.10", ttl=0)]
        url = f"http://wiki.test:{_port(site)}/"
        once = {"keepalive_seconds": 0}  # no connection is used again
        run = await run_spider(Walker, args={"urls": (url,)}, settings=settings(dns, http=once))
        assert canary.connections == 0
    assert [item["url"] for item in run.items if "reason" not in item] == [url]
    assert list(reasons(run).values()) == ["blocked_address"] * 5


def _port(site: LocalSite) -> int:
    return int(site.url.rpartition(":")[2])


# -- redirects ---------------------------------------------------------------------------------------------------------

REDIRECTS = {
    "http://CANARY/": "blocked_address",
    "http://user:password@CANARY/": "blocked_address",
    "http://shop.test@CANARY/": "blocked_address",
    "http://shop.test:80@CANARY/@shop.test": "blocked_address",
    "http://CANARY#@shop.test/": "blocked_address",
    "http://CANARY?@shop.test/": "blocked_address",
    "http://CANARY\\@shop.test/": "blocked_address",
    "//CANARY/": "blocked_address",
    "\\\\CANARY/": "blocked_address",
    "/\\CANARY/": "blocked_address",
    "/\t/CANARY/": "blocked_address",
    "http:/\\CANARY/": "blocked_address",
    "http:\\\\CANARY/": "blocked_address",
    "http:////CANARY/": "blocked_address",
    "HTTP://CANARY/": "blocked_address",
    "https:CANARY/": "blocked_address",
    "https:/CANARY/": "blocked_address",
    " http://CANARY/ ": "blocked_address",
    "http://169.254.169.254/latest/meta-data/": "blocked_address",
    "http://localhost:6379/": "blocked_address",
    "file:///etc/passwd": "redirect_scheme",
    "FILE:///etc/passwd": "redirect_scheme",
    "file://CANARY/etc/passwd": "redirect_scheme",
    "ftp://CANARY/": "redirect_scheme",
    "gopher://CANARY/_GET%20/": "redirect_scheme",
    "dict://CANARY/info": "redirect_scheme",
    "ldap://CANARY/": "redirect_scheme",
    "ws://CANARY/": "redirect_scheme",
    "unix:///run/docker.sock": "redirect_scheme",
    "http+unix://%2Frun%2Fdocker.sock/": "redirect_scheme",
    "data:text/html,<a href=/data>": "redirect_scheme",
    "javascript:location='/script'": "redirect_scheme",
    "jar:http://CANARY/!/x": "redirect_scheme",
    "view-source:http://CANARY/": "redirect_scheme",
    "blob:http://CANARY/1": "redirect_scheme",
    "about:blank": "redirect_scheme",
    "http://": "redirect_scheme",
    "http://CANARY:99999/": "redirect_scheme",
}


@pytest.mark.hostile("S01", "S05")
@pytest.mark.parametrize("inline", [False, True])
async def test_redirects_to_the_inside_and_to_other_schemes_are_not_followed_and_counted_by_reason(
    inline: bool,
) -> None:
    class Hopper(Walker):
        async def start(self) -> Any:
            if inline:  # although what `start()` itself fetches may be private
                for url in self.urls:
                    try:
                        await self.fetch(url)
                    except FetchError as error:
                        yield {"url": url, "reason": error.reason}
            else:
                yield [self.request(url, session=url) for url in self.urls]  # no target is known already

    async with LocalSite("127.0.0.2") as site, Canary("127.0.0.9") as canary:
        for number, location in enumerate(REDIRECTS):
            site.redirect(f"/{number}", location.replace("CANARY", f"127.0.0.9:{canary.port}"))
        urls = tuple(f"{site.url}/{number}" for number in range(len(REDIRECTS)))
        run = await run_spider(Hopper, args={"urls": urls}, settings=settings())
        assert canary.connections == 0
        asked = sorted(site.paths, key=lambda path: int(path[1:]))
    assert asked == [f"/{number}" for number in range(len(REDIRECTS))]
    told = [item["reason"] for item in run.items]
    assert Counter(told) == Counter(REDIRECTS.values())
    if not inline:
        assert run.stats["blocked"] == told.count("blocked_address")
        assert run.stats["failures"] == Counter(REDIRECTS.values())


@pytest.mark.hostile("S01", "S05", "S06")
async def test_what_else_an_answer_may_point_with_is_not_followed() -> None:
    async with LocalSite("127.0.0.2") as site, Canary("127.0.0.9") as canary:
        there = f"{canary.url}/"
        refresh = f'<meta http-equiv="refresh" content="0; url={there}">'
        site.page("/", linked(("/meta", "/header", "/use-proxy", "/created", "/headers", "/base")))
        site.page("/meta", f"{refresh}<noscript>{refresh}</noscript>")
        site.page("/header", "ok", headers={"Refresh": f"0; url={there}"})
        site.page("/use-proxy", "", status=305, headers={"Location": there})
        site.page("/created", "", status=201, headers={"Location": there})
        named = ("Content-Location", "SourceMap", "X-Accel-Redirect", "Proxy", "Alt-Location")
        alternative = f'h2="127.0.0.9:{canary.port}"; ma=86400, h3=":{canary.port}"'
        site.page(
            "/headers",
            f"<link rel=preload href={there}><img src={there}><iframe src={there}></iframe>",
            headers={**dict.fromkeys(named, there), "Alt-Svc": alternative, "Link": f"<{there}>; rel=preload"},
        )
        site.page("/base", f"<base href='{there}'><a href='relative'>.</a>")
        run = await run_spider(Walker, args={"urls": (f"{site.url}/",)}, settings=settings())
        assert canary.connections == 0
    assert len(site.paths) == 7
    assert reasons(run) == {f"{site.url}/use-proxy": "status_305", f"{there}relative": "blocked_address"}


# -- off site ----------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S07")
async def test_nothing_leads_off_the_allowed_domains() -> None:
    class OnSite(SitemapSpider):
        name = "on_site"
        allowed_domains = ("127.0.0.2",)
        site = ""
        failures: tuple[str, ...] = ()

        async def start(self) -> Any:
            yield self.request(f"{self.site}/")
            async for output in super().start():
                yield output

        async def parse(self, response: Response) -> Any:
            yield {"path": response.url.removeprefix(self.site)}
            yield response.follow_all("a")
            if response.url == f"{self.site}/":
                try:
                    await self.fetch(f"{self.site}/moved")
                except FetchError as error:
                    yield {"inline": error.reason}

        def failed(self, failure: Failure) -> Any:
            self.failures = (*self.failures, failure.reason)

    async with LocalSite("127.0.0.2") as site, LocalSite("127.0.0.3") as other:
        there = other.url
        site.robots(f"User-agent: *\nAllow: /\nSitemap: {there}/robots-sitemap.xml\nSitemap: {site.url}/map.xml")
        locations = "".join(f"<url><loc>{url}</loc></url>" for url in (f"{there}/in-sitemap", f"{site.url}/mine"))
        site.page("/map.xml", f"<urlset>{locations}</urlset>", content_type="application/xml")
        refresh = f'<meta http-equiv="refresh" content="0;url={there}/refresh">'
        site.page("/", refresh + linked((f"{there}/linked", "/redirect", "/base", "//127.0.0.3.:80/x", "/home")))
        site.redirect("/redirect", f"{there}/redirected")
        site.redirect("/moved", f"{there}/inline")
        site.page("/base", f"<base href='{there}/'><a href='based'>.</a>")
        site.page("/mine", "ok")
        site.page("/home", "ok")
        tables = settings(politeness={"obey_robots": True, "delay_seconds": 0})
        run = await run_spider(
            OnSite, args={"site": site.url, "sitemap_urls": (f"{site.url}/robots.txt",)}, settings=tables
        )
        assert other.journal == []
    assert {item.get("path") for item in run.items} == {"/", "/base", "/mine", "/home", None}
    assert {"inline": "offsite"} in run.items
    assert run.spider.failures == ("offsite",)  # type: ignore[attr-defined]
    assert run.stats["offsite"] == 6, "two links, one by a base, a sitemap, a page of one, and the redirect"


# -- schemes -----------------------------------------------------------------------------------------------------------

LOCAL = [
    "file:///etc/hostname",
    "FILE:///etc/hostname",
    "\tfile:///etc/hostname",
    "fi\nle:///etc/hostname",
    "file:/etc/hostname",
    "file:etc/hostname",
    "file://localhost/etc/hostname",
    "/etc/hostname",
    "ftp://127.0.0.9/",
    "data:text/html,hello",
    "javascript:alert(1)",
    "s3://bucket/key",
    "unix:/run/docker.sock",
    "ssh://127.0.0.9/",
]


@pytest.mark.hostile("S08")
@pytest.mark.parametrize("url", LOCAL)
def test_no_request_has_another_scheme_than_http(url: str) -> None:
    with pytest.raises(InvalidURL):
        Request(url)


@pytest.mark.hostile("S08")
async def test_links_of_other_schemes_are_not_queued_and_no_local_file_is_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    opened: list[object] = []
    watching = [True]
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" and watching else None)
    links = [url.replace("/etc/hostname", str(secret)) for url in LOCAL]
    try:
        async with LocalSite("127.0.0.2") as site:
            site.page("/", linked(links))
            run = await run_spider(Walker, args={"urls": (f"{site.url}/",)}, settings=settings())
    finally:
        watching.clear()
    assert str(secret) not in opened
    assert site.paths == ["/", str(secret)], "a path alone is one of the site's"
    assert run.stats["pages"] == 1


@pytest.mark.hostile("S08")
@pytest.mark.parametrize("url", ["file:///etc/hostname", "FILE:///etc/hostname"])
def test_the_command_refuses_a_local_file(command: Callable[..., tuple[int, str, str]], url: str) -> None:
    code, said, complaint = command("fetch", url)
    assert code == 2
    assert said == ""
    assert "not an http(s) URL" in complaint
