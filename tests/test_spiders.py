"""Every file in `spiders/` runs, and gives what the demo shop has."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import aiohttp
import pytest
from aiohttp import WSCloseCode, web
from selectolax.lexbor import LexborHTMLParser

from crawler.demo import Shop, Site, serve
from crawler.loader import find_spiders, load_spider
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SPIDERS = Path(__file__).resolve().parent.parent / "spiders"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serve(Shop(seed=5, books=70, categories=5)) as site:  # four pages of list, twin covers among them
        yield site


def test_every_file_imports_and_says_what_it_is_for() -> None:
    found = find_spiders(SPIDERS)
    assert [file.path for file in found if file.error or len(file.spiders) != 1] == []
    spiders = [spider for file in found for spider in file.spiders]
    assert sorted(spider.name for spider in spiders) == [
        *("account", "books", "catalogue", "covers", "messages", "shelves", "site"),
    ]
    assert all(spider.__doc__ for spider in spiders)
    assert all(file.path.stem == file.spiders[0].name for file in found)


# -- books -------------------------------------------------------------------------------------------------------------


async def test_books_gives_every_field_of_every_book_once(site: Site) -> None:
    run = await run_spider(load_spider("books", SPIDERS), args={"site": site.url})
    expected = [
        {
            "title": book.title,
            "price": float(book.price),
            "rating": book.rating,
            "in_stock": book.availability,
            "category": book.category,
            "upc": book.upc,
            "url": site.url + book.path,
        }
        for book in site.shop.books
    ]
    assert sorted(map(vars, run.items), key=lambda item: item["upc"]) == sorted(expected, key=lambda item: item["upc"])
    assert run.reason == "finished"
    assert run.stats["errors"] == 0
    assert run.stats["pages"] == 70 + 4


async def test_books_asks_for_each_page_once_and_for_robots_txt_first(site: Site) -> None:
    await run_spider(load_spider("books", SPIDERS), args={"site": site.url})
    asked = Counter(hit.path for hit in site.journal)
    assert set(asked.values()) == {1}
    assert site.journal[0].path == "/robots.txt"
    assert {hit.status for hit in site.journal} == {200}


# -- account -----------------------------------------------------------------------------------------------------------


async def test_account_logs_in_and_gives_the_orders(site: Site) -> None:
    run = await run_spider(load_spider("account", SPIDERS), args={"site": site.url})
    assert run.items == [
        {"order": order.number, "book": order.book.title, "url": site.url + order.book.path}
        for order in site.shop.orders
    ]
    assert run.items, "the shop has orders"


async def test_account_with_a_wrong_password_gives_nothing_and_says_why(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    run = await run_spider(load_spider("account", SPIDERS), args={"site": site.url, "password": "guessed"})
    assert run.items == []
    assert "the login failed: Username or password is wrong." in caplog.text


# -- covers ------------------------------------------------------------------------------------------------------------


async def test_covers_stores_each_cover_under_its_hash_and_the_same_content_once(site: Site, tmp_path: Path) -> None:
    run = await run_spider(load_spider("covers", SPIDERS), args={"site": site.url}, job=tmp_path)
    books = {urljoin(site.url, book.cover_path): book for book in site.shop.books[:60]}
    served = await _bodies(list(books))
    assert len(run.items) == 60
    for item in run.items:
        [file] = item.files
        assert item.file_urls == [file["url"]]
        assert books[file["url"]].title == item.title
        content = (tmp_path / file["path"]).read_bytes()
        assert content == served[file["url"]]
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert file["sha256"] in file["path"]
        assert len(content) == file["bytes"]
    stored = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    assert len(stored) == len(set(served.values())) < 60, "some covers are twins, and nothing else is left there"
    assert {path.suffix for path in stored} == {".png"}


async def _bodies(urls: list[str]) -> dict[str, bytes]:
    async with aiohttp.ClientSession() as session:
        found = {}
        for url in urls:
            async with session.get(url) as response:
                found[url] = await response.read()
        return found


async def test_covers_takes_the_number_of_pages_from_the_command_line(site: Site, tmp_path: Path) -> None:
    run = await run_spider(load_spider("covers", SPIDERS), args={"site": site.url, "pages": "1"}, job=tmp_path)
    assert run.stats["errors"] == 0
    assert len(run.items) == 20


# -- site --------------------------------------------------------------------------------------------------------------


async def test_site_gives_every_reachable_page_of_its_host_once() -> None:
    async with LocalSite() as here, LocalSite(host="127.0.0.2") as elsewhere:
        here.page("/", '<title> Home </title><a href="/a">a</a> <a href="a">a again</a> <a href="/c.txt">text</a>')
        here.page("/a", f'<title>A</title><a href="/">home</a> <a href="/b?x=1#top">b</a> <a href="{elsewhere.url}/">')
        here.page("/b?x=1", '<title>B</title><a href="/missing">gone</a> <a href="mailto:a@example.com">mail</a>')
        here.page("/c.txt", "<a href='/d'>not a page</a>", content_type="text/plain")
        here.page("/d", "<title>D</title>")
        elsewhere.page("/", "<title>Elsewhere</title>")
        run = await run_spider(load_spider("site", SPIDERS), args={"start": f"{here.url}/"})
        titles = {"/": "Home", "/a": "A", "/b?x=1": "B"}
        items: list[dict[str, Any]] = sorted(run.items, key=lambda item: item["title"])
        assert [(item["url"], item["title"], item["status"]) for item in items] == [
            (here.url + path, title, 200) for path, title in sorted(titles.items(), key=lambda pair: pair[1])
        ]
        assert Counter(here.paths) == {"/": 1, "/a": 1, "/b?x=1": 1, "/c.txt": 1, "/missing": 1}
        assert elsewhere.journal == []
        assert run.stats["failures"] == {"status_404": 1}


async def test_site_walks_the_whole_shop(site: Site) -> None:
    run = await run_spider(load_spider("site", SPIDERS), args={"start": f"{site.url}/index.html"})
    urls = Counter(item["url"] for item in run.items)
    assert set(urls.values()) == {1}
    assert {site.url + path for path in await _reachable(site)} == set(urls)
    assert {site.url + book.path for book in site.shop.books} <= set(urls)


async def _reachable(site: Site) -> set[str]:
    """Paths of all pages, by a walk that shares no code with the crawler."""
    known, waiting = {"/index.html"}, ["/index.html"]
    pages = set()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        while waiting:
            path = waiting.pop()
            if path.startswith("/basket"):
                continue  # robots.txt
            async with session.get(site.url + path) as response:
                if response.status != 200 or response.content_type != "text/html":
                    continue
                pages.add(response.url.raw_path_qs)
                links = [
                    node.attributes.get("href") or "" for node in LexborHTMLParser(await response.read()).css("a[href]")
                ]
            for link in links:
                absolute = urljoin(site.url + path, link).partition("#")[0]
                if absolute.startswith(site.url + "/") and absolute.removeprefix(site.url) not in known:
                    known.add(absolute.removeprefix(site.url))
                    waiting.append(absolute.removeprefix(site.url))
    return pages


# -- catalogue and shelves ---------------------------------------------------------------------------------------------


async def test_catalogue_gives_every_book_of_the_sitemap_with_its_date(site: Site) -> None:
    run = await run_spider(load_spider("catalogue", SPIDERS), args={"site": site.url})
    expected = {(book.title, book.updated.isoformat(), site.url + book.path) for book in site.shop.books}
    assert {(item["title"], item["updated"].date().isoformat(), item["url"]) for item in run.items} == expected
    assert (len(run.items), run.stats["errors"]) == (70, 0)


async def test_catalogue_since_a_day_gives_what_changed_since_then(site: Site) -> None:
    days = sorted({book.updated for book in site.shop.books})
    since = days[len(days) // 2]
    args = {"site": site.url, "sitemap_since": since.isoformat()}
    run = await run_spider(load_spider("catalogue", SPIDERS), args=args)
    changed = {book.title for book in site.shop.books if book.updated >= since}
    assert {item["title"] for item in run.items} == changed
    assert 0 < len(changed) < 70


async def test_shelves_gives_every_book_with_its_category_once(site: Site) -> None:
    run = await run_spider(load_spider("shelves", SPIDERS), args={"site": site.url})
    expected = sorted((book.title, book.category) for book in site.shop.books)
    assert sorted((item["title"], item["category"]) for item in run.items) == expected
    assert max(Counter(hit.path for hit in site.journal).values()) == 1


# -- messages ----------------------------------------------------------------------------------------------------------


async def test_messages_gives_each_message_and_comes_back_when_the_feed_drops() -> None:
    connections = 0

    async def feed(socket: web.WebSocketResponse) -> None:
        nonlocal connections
        connections += 1
        await socket.send_json({"connection": connections, "message": 1})
        await socket.send_json({"connection": connections, "message": 2})
        if connections < 3:
            await socket.close(code=WSCloseCode.SERVICE_RESTART)

    async with LocalSite() as site:
        site.websocket("/feed", feed)
        run = await run_spider(load_spider("messages", SPIDERS), args={"feed": f"{site.url}/feed", "pause": "0.01"})
    assert run.items == [{"connection": c, "message": m} for c in (1, 2, 3) for m in (1, 2)]
    assert (run.reason, run.stats["errors"]) == ("finished", 0)


async def test_messages_ends_after_as_many_as_it_was_told() -> None:
    async def feed(socket: web.WebSocketResponse) -> None:
        for number in range(100):
            await socket.send_json({"number": number})

    async with LocalSite() as site:
        site.websocket("/feed", feed)
        run = await run_spider(load_spider("messages", SPIDERS), args={"feed": f"{site.url}/feed", "count": "7"})
    assert run.items == [{"number": number} for number in range(7)]
    assert run.reason == "finished"


async def test_messages_of_a_feed_that_is_not_there_fails_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async with LocalSite() as site:
        run = await run_spider(load_spider("messages", SPIDERS), args={"feed": f"{site.url}/feed"})
        assert site.paths == ["/feed"]
    assert run.reason == "failed"
    assert "no WebSocket but 404" in caplog.text
