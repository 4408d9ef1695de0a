"""The theme pages of docs/ run: every spider on them, against a server that has what it asks for."""

from __future__ import annotations

import re
import sys
import types
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from certificates import AUTHORITY, SERVER, server_context
from proxy_server import ProxyServer

from crawler import Spider
from crawler.testing import LocalSite, run_spider
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {
    page.stem: page.read_text()
    for page in sorted(DOCS.glob("*.md"))
    if page.stem not in ("design", "reference", "testing")
}
BLOCKS = {
    f"{name}-{number}": block
    for name, text in PAGES.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}
SETTINGS: dict[str, Any] = {"dns": {"hosts": {"shop.example": "127.0.0.1"}}}


def defined(block: str) -> dict[str, Any]:
    module = types.ModuleType("documentation")
    sys.modules["documentation"] = module
    exec(compile(block, "documentation", "exec"), vars(module))
    return vars(module)


async def shop(stack: AsyncExitStack) -> LocalSite:
    """Everything the pages ask a site for."""
    site = await stack.enter_async_context(LocalSite())
    site.page("*", "fine")
    site.page("/", "<title>Hello</title>")
    site.page("/login.html", "<form id=login action=/in method=post><input name=user><input name=password></form>")
    site.page("/in", "<h1>Welcome</h1>")
    site.page("/items.json", '{"items": [1, 2]}', content_type="application/json")
    site.page("/missing", "", status=404)
    site.page("/private.html", "<title>Private</title><a href=/welcome>", headers={"X-Robots-Tag": "noindex"})
    site.page("/broken", "out of order", status=500)
    site.page("/lines.txt", "one two\nthree\n", content_type="text/plain")
    site.page("/big.zip", b"z" * 100_000, headers={"ETag": '"1"'}, content_type="application/zip")

    async def welcome(request: web.Request) -> web.Response:
        response = web.Response(text="welcome")
        response.set_cookie("sid", str(sum(hit.path == "/welcome" for hit in site.journal)))
        return response

    site.route("/welcome", welcome)
    return site


async def at_the_shop(spider: type[Spider], stack: AsyncExitStack, **more: Any) -> list[Any]:
    site = await shop(stack)
    job = Path("job")
    run = await run_spider(spider, args={"site": f"http://shop.example:{site.url.rpartition(':')[2]}"}, job=job, **more)
    assert (run.reason, [name for name in run.stats["failures"] if name != "status_500"]) == ("finished", [])
    return run.items


# -- one for each example: how it is run, and what it gives ------------------------------------------------------------


async def sender(spider: type[Spider], stack: AsyncExitStack) -> None:
    items = await at_the_shop(spider, stack, settings=SETTINGS)
    assert sorted(item["method"] for item in items) == ["GET", "PATCH", "POST", "POST", "PROPFIND", "PUT"]
    assert any(item["url"].endswith("?q=shoes&size=41&size=42") for item in items)


async def uploader(spider: type[Spider], stack: AsyncExitStack) -> None:
    assert await at_the_shop(spider, stack, settings=SETTINGS) == [{"streamed": 200, "copied": 200}]


async def api(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    spider.site = site.url  # type: ignore[attr-defined]
    run = await run_spider(spider)
    assert run.items == [{"sent": "Bearer t0ken"}]


async def member(spider: type[Spider], stack: AsyncExitStack) -> None:
    assert await at_the_shop(spider, stack, settings=SETTINGS) == [{"greeting": "Welcome"}]


async def reader(spider: type[Spider], stack: AsyncExitStack) -> None:
    (item,) = await at_the_shop(spider, stack, settings=SETTINGS)
    assert (item["status"], item["first"], item["from"]) == (200, 1, "127.0.0.1 by HTTP/1.1")


async def careful(spider: type[Spider], stack: AsyncExitStack) -> None:
    items = await at_the_shop(spider, stack, settings=SETTINGS)
    (failed,) = [item for item in items if "reason" in item]
    assert (failed["reason"], failed["body"], failed["attempts"]) == ("status_500", "out of order", 1)
    assert failed["history"] == ["500"]
    assert len(items) == 2


async def indexer(spider: type[Spider], stack: AsyncExitStack) -> None:
    items = await at_the_shop(spider, stack, settings=SETTINGS)
    assert sorted(item["url"].rpartition("/")[2] for item in items) == ["", "welcome"]


async def feed(spider: type[Spider], stack: AsyncExitStack) -> None:
    assert await at_the_shop(spider, stack, settings=SETTINGS) == [{"first": "one ", "line": "two\n", "rest": 6}]


async def images(spider: type[Spider], stack: AsyncExitStack) -> None:
    (item,) = await at_the_shop(spider, stack, settings=SETTINGS)
    assert (item["bytes"], item["resumed_from"]) == (100_000, 0)
    assert Path("job/big.zip").stat().st_size == 100_000


async def two_visitors(spider: type[Spider], stack: AsyncExitStack) -> None:
    items = await at_the_shop(spider, stack, settings=SETTINGS)
    assert sorted(item["visitor"] for item in items) == ["anna", "bert"]
    assert sorted(item["sent"] for item in items) == ["sid=1", "sid=2"]
    assert all(item["sent"] == f"sid={item['sid']}" for item in items)


async def through_one(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    names = {"shop.example": ("127.0.0.1", int(site.url.rpartition(":")[2]))}
    proxy = await stack.enter_async_context(ProxyServer(auth=("user", "password"), names=names))
    run = await run_spider(spider, args={"proxy": proxy.url}, settings={"politeness": {"obey_robots": False}})
    assert run.items == [{"title": "Hello", "proxy": proxy.url_for()}]


async def intern(spider: type[Spider], stack: AsyncExitStack) -> None:
    Path("ca.pem").write_text(AUTHORITY)
    server = RawServer(answer(b"inside"), tls=server_context(Path(), SERVER))
    site = await stack.enter_async_context(server)
    settings = {"politeness": {"obey_robots": False}}
    run = await run_spider(spider, args={"site": site.url.rstrip("/")}, settings=settings)
    assert run.items == [{"text": "inside"}]


async def staging(spider: type[Spider], stack: AsyncExitStack) -> None:
    (item,) = await at_the_shop(spider, stack)
    assert item["from"] == "127.0.0.1"
    assert item["host"].startswith("shop.example:")


async def ticker(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await stack.enter_async_context(LocalSite())
    site.websocket("/prices", sys.modules["documentation"].prices)
    run = await run_spider(spider, args={"site": site.url})
    assert run.items == [{"name": "gold", "price": 4}, {"name": "tin", "price": 3}]


async def chat(spider: type[Spider], stack: AsyncExitStack) -> None:
    async def answer_once(socket: web.WebSocketResponse) -> None:
        await socket.send_str(f"{await socket.receive_str()} yourself")

    site = await stack.enter_async_context(LocalSite())
    site.page("/", "<p data-socket=/chat>")
    site.websocket("/chat", answer_once, protocols=("chat.v1",))
    run = await run_spider(spider, args={"site": site.url})
    assert run.items == [{"answer": "hello yourself", "protocol": "chat.v1"}]


async def new_shoes(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    site.robots(f"Sitemap: {site.url}/map.xml")
    dates = {"/shoes/1": "2026-02-01", "/shoes/2": "2025-02-01", "/hats/3": "2026-02-01"}
    rows = "".join(f"<url><loc>{loc}</loc><lastmod>{date}</lastmod></url>" for loc, date in dates.items())
    site.page("/map.xml", f"<urlset>{rows}</urlset>")
    run = await run_spider(spider, args={"sitemap_urls": site.url, "sitemap_since": "2026-01-01"})
    assert run.items == [{"url": f"{site.url}/shoes/1", "changed": "2026-02-01"}]


async def headlines(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    site.page("/", '<link rel="alternate" type="application/rss+xml" href="/feed">')
    site.page(
        "/feed", "<rss><channel><title>News</title><item><title>One</title><link>/1</link></item></channel></rss>"
    )
    site.page("/1", "<article>All of it</article>")
    run = await run_spider(spider, args={"start_urls": [f"{site.url}/"]})
    assert run.items == [{"title": "One", "published": None, "feed": "News", "text": "All of it"}]


async def shelves(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    site.page("/", "<nav><a href=/category/a>A</a></nav><a href=/category/b>B</a>")
    site.page("/category/a", "<a href=/item/1>1</a><a href=/item/2?print=1>2</a>")
    site.page("/item/1", "<h1>One</h1>")
    run = await run_spider(spider, args={"start_urls": [f"{site.url}/"]})
    assert run.items == [{"title": "One", "rule": 1}]


async def outward(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    site.page("/", "<a href=http://elsewhere.test/ rel=nofollow>Else</a><a href=/x>X</a>")
    run = await run_spider(spider, args={"start_urls": [f"{site.url}/"]})
    assert run.items == [{"to": "http://elsewhere.test/", "text": "Else", "nofollow": True}]


async def prices(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    first = await run_spider(spider, args={"site": site.url}, job=Path("job"))
    again = await run_spider(spider, args={"site": site.url}, job=Path("job"), refresh=True)
    assert [item["title"] for item in first.items] == ["Hello"]
    assert (again.items, again.stats["pages"]) == ([], 1)


async def maps(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    site.robots(f"Sitemap: {site.url}/map.xml")
    run = await run_spider(spider, args={"site": site.url})
    assert run.items == [{"sitemap": f"{site.url}/map.xml", "bytes": 4}]


async def catalogue(spider: type[Spider], stack: AsyncExitStack) -> None:
    site = await shop(stack)
    address = f"http://shop.example:{site.url.rpartition(':')[2]}"
    run = await run_spider(spider, args={"site": address}, settings=SETTINGS)
    assert sorted(item["url"] for item in run.items) == [f"{address}/", f"{address}/items.json"]
    assert run.stats["failures"] == {"denied": 2, "not_allowed": 2}


EXAMPLES: dict[str, Callable[[type[Spider], AsyncExitStack], Any]] = {
    example.__name__.replace("_", "-"): example
    for example in (
        *(sender, uploader, api, member, reader, indexer, careful),
        *(feed, images, two_visitors, through_one, intern, staging, ticker, chat, prices),
        *(new_shoes, headlines, shelves, outward, maps, catalogue),
    )
}


@pytest.mark.parametrize("block", BLOCKS)
async def test_the_code_of_the_page_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(b"\xff\xd8 a photo")
    names = defined(BLOCKS[block])
    for value in list(names.values()):
        if isinstance(value, type) and issubclass(value, Spider) and value.name:
            async with AsyncExitStack() as stack:
                await EXAMPLES[value.name](value, stack)


def test_every_theme_has_its_page() -> None:
    themes = {"requests", "responses", "streaming", "cookies", "proxies", "tls", "dns", "websockets", "scope"}
    themes |= {"spiders", "politeness"}
    assert themes <= set(PAGES)
    assert {block.rpartition("-")[0] for block in BLOCKS} >= themes


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text()
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = (DOCS / file if file else DOCS / page).resolve()
        assert linked.is_file(), target
        headings = [
            re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in linked.read_text().splitlines()
            if line.startswith("#")
        ]
        assert not anchor or anchor in headings, target


def test_every_setting_that_a_page_names_exists() -> None:
    from crawler.settings.keys import all_keys

    known = {".".join(key) for key in all_keys()}
    tables = "crawl|politeness|http|dns|tls|proxy|retry|frontier|output|security|log"
    for name, text in PAGES.items():
        for setting in re.findall(rf"`((?:{tables})\.[a-z_]+)", text):
            assert setting in known, f"docs/{name}.md: {setting}"
