"""Sites without an end, of each kind, and all at once: each stops at its budget, and the honest one is finished."""

from __future__ import annotations

import datetime as dt
import gc
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from crawler import Response, Spider, refusals
from crawler import url as urls
from crawler.cookies.suffixes import registrable_domain
from crawler.testing import DnsServer, LocalSite, run_spider
from crawler.testing.names import Address

if TYPE_CHECKING:
    from collections.abc import Callable

NO_END = 6000
"""Pages: what does not stop by itself fails its test instead of running on."""
LEAVES = 60


class Everything(Spider):
    """Follows every link of `urls`."""

    name = "everything"
    urls: tuple[str, ...] = ()

    async def start(self) -> Any:
        for url in self.urls:
            yield self.request(url)

    def parse(self, response: Response) -> Any:
        yield response.follow_all()


def linked(urls: Any) -> str:
    return "".join(f'<a href="{url}">.</a>' for url in urls)


# -- one site of each kind ---------------------------------------------------------------------------------------------


def calendar(request: web.Request) -> str:
    """A month, which links to the ones before and after it."""
    year, month = (int(part) for part in request.path.split("/")[2:4]) if request.path != "/" else (2026, 7)
    around = [divmod(year * 12 + month - 1 + step, 12) for step in (-1, 1)]
    title = dt.date(year, month, 1).strftime("%B %Y")
    return f"<title>{title}</title>" + linked(f"/calendar/{y}/{m + 1:02}" for y, m in around if 1 <= y <= 9998)


def sessions() -> Callable[[web.Request], str]:
    numbers = itertools.count(1)
    return lambda request: request.path + linked(f"/shop/{n}?PHPSESSID={next(numbers):032x}" for n in range(5))


def circle(request: web.Request) -> str:
    return linked((f"{request.path.rstrip('/')}/a/b/", f"{request.path.rstrip('/')}/a/"))


def spiral(request: web.Request) -> str:
    """Every page links to one beneath itself, under a name that was not there before."""
    return linked((f"level-{request.path.count('/')}/",))


def facets(request: web.Request) -> str:
    """Twenty filters, so a million queries: each page has a link that sets or removes each of them."""
    chosen = dict(request.query)
    others = (
        {name: value for name, value in {**chosen, f: "1"}.items() if not (name == f and f in chosen)}
        for f in (f"f{number}" for number in range(20))
    )
    return linked("/list?" + "&amp;".join(f"{name}={value}" for name, value in each.items()) for each in others)


def pages(request: web.Request) -> str:
    """Numbered pages with something new on each: nothing but a budget tells them from a real site."""
    number = int(request.path.rpartition("/")[2] or 0)
    return f"{number * 7919}" + linked((f"/page/{number + 1}", f"/page/{number + 2}"))


@pytest.mark.hostile("S43")
async def test_endless_sites_of_every_kind_stop_at_their_budgets_and_an_honest_one_is_finished() -> None:
    kinds: list[tuple[Callable[[web.Request], str], str, int]] = [
        (calendar, "trap", 400),
        (sessions(), "trap", 400),
        (circle, "path_repeats", 100),
        (spiral, "path_segments", 21),
        (facets, "query_permutations", 1 + 20 + 2 * 190 + 50),
        (pages, "host_pages", 460),
    ]
    async with LocalSite("127.0.0.9") as honest:
        honest.page("/", linked(f"/leaf/{number}" for number in range(LEAVES)))
        honest.page("*", "a leaf")
        traps = [LocalSite(f"127.0.0.{2 + number}") for number in range(len(kinds))]
        urls = [f"{honest.url}/"]
        for site, (page, _, _) in zip(traps, kinds, strict=True):
            await site.__aenter__()
            site.route("*", _answer(page))
            urls.append(f"{site.url}/")
        crawl = {"trap_pages": 60, "query_permutations": 50, "pages_per_host": 460, "page_limit": NO_END}
        politeness = {"obey_robots": False, "concurrency_per_host": 4}
        run = await run_spider(
            Everything, args={"urls": tuple(urls)}, settings={"crawl": crawl, "politeness": politeness}
        )
        for site in traps:
            await site.__aexit__(None, None, None)
    assert run.reason == "finished"
    assert len(honest.paths) == 1 + LEAVES
    for site, (page, reason, most) in zip(traps, kinds, strict=True):
        assert 1 < len(site.paths) <= most, page
        assert run.stats["failures"][reason] > 0
    assert run.stats["errors"] == 0


def _answer(page: Callable[[web.Request], str]) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=page(request), content_type="text/html")

    return answer


# -- names without end -------------------------------------------------------------------------------------------------

HOSTS = 40


@pytest.mark.hostile("S44")
async def test_a_wildcard_of_dns_gives_no_more_hosts_than_a_domain_may_have_in_flat_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "KEPT_PER_REASON", 500)  # what is told of them is bounded, too
    for number in range(20_000):  # what is remembered of the last hosts that were met is full
        urls.host_key(f"http://h{number}.test/")
        registrable_domain(f"h{number}.test")
    numbers = itertools.count()
    kept: list[int] = []

    class Counting(Everything):
        def parse(self, response: Response) -> Any:
            yield from super().parse(response)
            if self.stats.total.pages in (MEASURED, 2 * MEASURED):
                gc.collect()
                kept.append(len(gc.get_objects()))

    def page(request: web.Request) -> str:
        host, _, port = request.host.partition(":")
        number = int(request.path.rpartition("/")[2] or 0)
        more = [f"/page/{2 * number + 1}", f"/page/{2 * number + 2}"] if number < MEASURED and host == "t.test" else []
        return linked([*(f"http://n{next(numbers)}.t.test:{port}/" for _ in range(LINKS)), *more])

    async with DnsServer() as dns, LocalSite("127.0.0.2") as site:
        dns.names = {"*.t.test": lambda kind, number: [Address("127.0.0.2")], "t.test": [Address("127.0.0.2")]}
        site.route("*", _answer(page))
        settings = {
            "crawl": {"hosts_per_domain": HOSTS, "page_limit": NO_END},
            "politeness": {"obey_robots": False, "concurrency_per_host": 4},
            "dns": {"nameservers": [dns.nameserver]},
            "security": {"allow_networks": ["127.0.0.2/32"]},
        }
        url = f"http://t.test:{site.url.rpartition(':')[2]}/"
        run = await run_spider(Counting, args={"urls": (url,)}, settings=settings)
        asked = {name for name, _ in dns.questions}
    assert run.reason == "finished"
    assert len({hit.host for hit in site.journal}) == run.stats["hosts"] == len(asked) == HOSTS
    refused = run.stats["failures"]["domain_hosts"]
    assert refused > 2 * MEASURED * LINKS
    before, after = kept
    assert after - before < MEASURED * LINKS, "something is kept of each host that was refused"


LINKS = 80
"""As many hosts a page are refused. What the test keeps itself (the journal) are some 30 objects a page."""
MEASURED = 80
"""Pages: after as many once more, what is in memory is counted again."""
