"""Pages are strangers: what they link to may not lead into the user's own network (HOSTILE: S01, S05, S06)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crawler import Failure, FetchError, Response, Spider
from crawler.testing import Canary, LocalSite, run_spider

ONE_TRY = {"retry": {"times": 0}, "http": {"connect_seconds": 1}}


class Walker(Spider):
    """Follows every link of `site`."""

    name = "walker"
    site = ""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.failures: list[Failure] = []

    async def start(self) -> Any:
        yield self.request(self.site)

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}
        yield response.follow_all("a")

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)


@pytest.mark.hostile("S01")
async def test_links_to_private_addresses_are_not_dialled_and_the_crawl_goes_on() -> None:
    async with LocalSite() as site, Canary() as secret:
        port = secret.url.rpartition(":")[2]
        hostile = [
            f"{secret.url}/admin",
            "http://169.254.169.254/latest/meta-data/",
            "http://10.0.0.1/",
            "http://100.64.0.1/",
            f"http://0.0.0.0:{port}/",
            f"http://[::1]:{port}/",
            f"http://[::ffff:127.0.0.9]:{port}/",
            f"http://2130706441:{port}/",
            f"http://0x7f.9:{port}/",
            f"http://localhost:{port}/",
        ]
        site.page("/", "".join(f"<a href='{url}'>x</a>" for url in hostile) + "<a href='/good'>good</a>")
        site.page("/good", "ok")
        run = await run_spider(Walker, args={"site": site.url}, settings=ONE_TRY)
        assert secret.connections == 0
    assert {item["url"] for item in run.items} == {f"{site.url}/", f"{site.url}/good"}
    assert run.reason == "finished"
    assert run.stats["errors"] == 0
    failures = run.spider.failures  # type: ignore[attr-defined]
    assert {failure.reason for failure in failures} == {"blocked_address"}
    assert run.stats["blocked"] == len(failures) == 9  # 2130706441 and 0x7f.9 are the same address


@pytest.mark.hostile("S01")
async def test_hosts_of_the_start_requests_are_allowed_at_their_own_port_alone() -> None:
    async with LocalSite() as site, Canary("127.0.0.1") as neighbour:
        site.page("/", f"<a href='{neighbour.url}/'>next door</a>")
        run = await run_spider(Walker, args={"site": site.url}, settings=ONE_TRY)
        assert neighbour.connections == 0
    assert run.stats["pages"] == 1
    assert run.stats["blocked"] == 1


async def test_start_hosts_stay_allowed_when_the_job_goes_on(tmp_path: Any) -> None:
    async with LocalSite() as site:
        site.page("/", "<a href='/1'></a><a href='/2'></a>")
        site.page("*", "ok")
        options: dict[str, Any] = {"args": {"site": site.url}, "job": tmp_path / "job"}

        class Stopping(Walker):
            def parse(self, response: Response) -> Any:
                yield from super().parse(response)
                if response.url.endswith("/1"):
                    raise ValueError

        settings = {"crawl": {"error_limit": 1, "concurrency": 1}}
        assert (await run_spider(Stopping, settings=settings, **options)).reason == "error_limit"
        run = await run_spider(Walker, **options)
    assert run.items == [{"url": f"{site.url}/2"}]
    assert run.stats["blocked"] == 0


async def test_private_networks_are_open_where_the_settings_say_so() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.page("/", f"<a href='{other.url}/'>other</a>")
        other.page("/", "ok")
        settings = {"security": {"allow_private_networks": True}}
        run = await run_spider(Walker, args={"site": site.url}, settings=settings)
    assert run.stats["pages"] == 2


async def test_a_network_may_be_opened_alone() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other, Canary() as secret:
        site.page("/", f"<a href='{other.url}/'>other</a><a href='{secret.url}/'>secret</a>")
        other.page("/", "ok")
        settings = {"security": {"allow_networks": ["127.0.0.2/32"]}, **ONE_TRY}
        run = await run_spider(Walker, args={"site": site.url}, settings=settings)
        assert secret.connections == 0
    assert run.stats["pages"] == 2
    assert run.stats["blocked"] == 1


@pytest.mark.hostile("S01", "S05")
@pytest.mark.parametrize("way", ["redirect", "inline", "inline redirect", "websocket"])
async def test_no_other_way_leads_there_either(way: str) -> None:
    class Lured(Walker):
        async def parse(self, response: Response) -> Any:
            yield {"url": response.url}
            if way == "redirect":
                yield response.follow("/redirect")
            elif way == "inline redirect":
                await self.fetch(f"{self.site}/redirect")
            elif way == "inline":
                await self.fetch(response.css("a").attrib["href"])
            else:
                async with self.websocket(response.css("a").attrib["href"]):
                    pass

    async with LocalSite() as site, Canary() as secret:
        site.page("/", f"<a href='{secret.url}/'>x</a>")
        site.redirect("/redirect", f"{secret.url}/")
        run = await run_spider(Lured, args={"site": site.url}, settings=ONE_TRY)
        assert secret.connections == 0
    assert run.items == [{"url": f"{site.url}/"}]
    assert [failure.reason for failure in run.spider.failures] == ["blocked_address"]  # type: ignore[attr-defined]
    assert run.stats["blocked"] == 1


@pytest.mark.hostile("S01")
async def test_a_callback_may_not_go_there_while_start_is_still_running() -> None:
    async with LocalSite() as site, Canary() as secret:
        site.page("/", f"<a href='{secret.url}/'>x</a>")

        class Long(Walker):
            visited = asyncio.Event()

            async def start(self) -> Any:
                yield self.request(self.site)
                await asyncio.wait_for(self.visited.wait(), 20)

            async def parse(self, response: Response) -> Any:
                try:
                    await self.fetch(response.css("a").attrib["href"])
                except FetchError as error:
                    yield {"reason": error.reason}
                finally:
                    self.visited.set()

        run = await run_spider(Long, args={"site": site.url}, settings=ONE_TRY)
        assert secret.connections == 0
    assert run.items == [{"reason": "blocked_address"}]


async def test_what_start_itself_fetches_is_the_users_own_word() -> None:
    class Own(Walker):
        async def start(self) -> Any:
            yield {"text": (await self.fetch(self.site)).text}

    async with LocalSite("127.0.0.5") as site:
        site.page("/", "intranet")
        run = await run_spider(Own, args={"site": site.url})
    assert run.items == [{"text": "intranet"}]


@pytest.mark.hostile("S06")
async def test_the_target_is_judged_even_when_a_proxy_would_dial_it() -> None:
    async with LocalSite() as proxy, Canary() as secret:
        # Through a proxy the request line holds the whole URL.
        proxy.page("*", f"<a href='{secret.url}/'>x</a>")
        settings = {"proxy": {"urls": [proxy.url]}, "politeness": {"obey_robots": False}, **ONE_TRY}
        run = await run_spider(Walker, args={"site": "http://93.184.216.34/"}, settings=settings)
        asked = [hit.path for hit in proxy.journal]
        assert secret.connections == 0
    assert asked == ["http://93.184.216.34/"]
    assert run.stats["pages"] == 1
    assert run.stats["blocked"] == 1


@pytest.mark.hostile("S08")
@pytest.mark.parametrize("link", ["file:///etc/hostname", "FILE:///etc/hostname", "ftp://127.0.0.9/", "javascript:x()"])
async def test_links_of_other_schemes_drop_out(link: str) -> None:
    async with LocalSite() as site:
        site.page("/", f"<a href='{link}'>x</a><a href='\t{link}'>x</a>")
        run = await run_spider(Walker, args={"site": site.url})
    assert run.stats["pages"] == 1
    assert run.stats["errors"] == 0
    assert run.stats["failures"] == {}


@pytest.mark.hostile("S07")
async def test_a_link_off_the_allowed_domains_is_not_even_asked_for_robots_txt() -> None:
    class OnSite(Walker):
        allowed_domains = ("127.0.0.1",)

    async with LocalSite() as site, Canary() as secret:
        site.page("/", f"<a href='{secret.url}/'>x</a>")
        run = await run_spider(OnSite, args={"site": site.url})
        assert secret.connections == 0
    assert run.stats["offsite"] == 1
    assert run.stats["blocked"] == 0
