"""The demo bookshop is whole, the same every time, and says on its pages what its catalogue says."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import time
import zlib
from collections import Counter
from dataclasses import FrozenInstanceError, astuple
from decimal import Decimal
from urllib.parse import urljoin, urlsplit
from urllib.robotparser import RobotFileParser
from xml.etree import ElementTree

import aiohttp
import pytest
from selectolax.lexbor import LexborHTMLParser, LexborNode

from crawler.demo import PASSWORD, PER_PAGE, USERNAME, Book, Shop, run_forever, serve
from crawler.demo.covers import HEIGHT, WIDTH
from crawler.demo.pages import Pages
from crawler.demo.words import ODD_TITLES

STARS = ("Zero", "One", "Two", "Three", "Four", "Five")


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop()


@pytest.fixture(scope="module")
def pages(shop: Shop) -> Pages:
    return Pages(shop)


@pytest.fixture(scope="module")
def small() -> Shop:
    return Shop(seed=7, books=90, categories=6)


def parsed(pages: Pages, path: str) -> LexborHTMLParser:
    document = pages.get(path)
    assert document is not None, path
    return LexborHTMLParser(document.body)


def text(page: LexborHTMLParser | LexborNode, css: str) -> str:
    node = page.css_first(css)
    assert node is not None, css
    return node.text().strip()


def attribute(page: LexborHTMLParser | LexborNode, css: str, name: str) -> str:
    node = page.css_first(css)
    assert node is not None, css
    return node.attributes[name] or ""


def links(page: LexborHTMLParser, url: str) -> set[str]:
    """Where everything on the page leads, images and style sheets included."""
    found = [node.attributes.get("href") or node.attributes.get("src") or "" for node in page.css("[href], [src]")]
    return {urljoin(url, link) for link in found if not link.startswith("data:")}


def read_book(page: LexborHTMLParser, path: str) -> dict[str, object]:
    """A book as a spider reads it off its page."""
    table = {text(row, "th"): text(row, "td") for row in page.css("table.table.table-striped tr")}
    blurb = page.css_first("#product_description ~ p")
    return {
        "title": text(page, "div.product_main h1"),
        "price": Decimal(text(page, "p.price_color").removeprefix("£")),
        "stock": text(page, "p.availability"),
        "stars": (attribute(page, "p.star-rating", "class")).split()[1],
        "description": blurb.text() if blurb else "",
        "category": text(page, "ul.breadcrumb li:nth-child(3) a"),
        "cover": urljoin(path, attribute(page, "div.item.active img", "src")),
        "table": table,
    }


def expected_book(book: Book) -> dict[str, object]:
    return {
        "title": book.title,
        "price": book.price,
        "stock": f"In stock ({book.availability} available)",
        "stars": STARS[book.rating],
        "description": book.description,
        "category": book.category,
        "cover": book.cover_path,
        "table": {
            "UPC": book.upc,
            "Product Type": "Books",
            "Price (excl. tax)": f"£{book.price - book.tax}",
            "Price (incl. tax)": f"£{book.price}",
            "Tax": f"£{book.tax}",
            "Availability": f"In stock ({book.availability} available)",
            "Number of reviews": str(book.reviews),
        },
    }


# -- the catalogue -----------------------------------------------------------------------------------------------------


def test_the_default_shop_has_1000_books_in_50_categories_none_of_them_empty(shop: Shop) -> None:
    assert len(shop.books) == 1000
    assert len(shop.categories) == 50
    assert Counter(book.category for book in shop.books) == {c.name: len(c.books) for c in shop.categories}
    assert all(category.books for category in shop.categories)
    assert max(len(category.books) for category in shop.categories) > 3 * PER_PAGE
    assert shop.categories[1].path == "/catalogue/category/books/mystery_3/index.html"


@pytest.mark.parametrize("field", ["number", "title", "upc", "path", "cover_path"])
def test_no_two_books_share_a(field: str, shop: Shop) -> None:
    assert len({getattr(book, field) for book in shop.books}) == len(shop.books)


def test_every_book_has_values_that_a_shop_could_have(shop: Shop) -> None:
    for book in shop.books:
        assert Decimal(10) <= book.price < Decimal(60)
        assert book.price.as_tuple().exponent == -2
        assert 1 <= book.rating <= 5
        assert book.availability >= 1
        assert book.reviews >= 0
        assert book.path.endswith(f"_{book.number}/index.html")
        assert book.path.isascii()
    assert 0 < sum(not book.description for book in shop.books) < 10


def test_the_same_seed_gives_the_same_shop_and_another_seed_another(small: Shop) -> None:
    again = Shop(seed=7, books=90, categories=6)
    assert (again.books, again.categories, again.orders) == (small.books, small.categories, small.orders)
    other = Shop(seed=8, books=90, categories=6)
    assert not {book.upc for book in other.books} & {book.upc for book in small.books}


def test_the_default_shop_is_the_same_on_every_machine_and_python(shop: Shop) -> None:
    listing = "\n".join(repr(astuple(book)) for book in shop.books) + repr([astuple(order) for order in shop.orders])
    assert (
        hashlib.sha256(listing.encode()).hexdigest()
        == "29891e09202c3cae3d86a455f449deeb6d13d2283fd929b09bbe320b6aeef442"
    )


def test_titles_hold_what_careless_programs_trip_over(shop: Shop) -> None:
    titles = [book.title for book in shop.books]
    assert set(ODD_TITLES) <= set(titles)
    for trap in ('"', "'", "&", "<", "&amp;", "é", "東京", "🦊"):
        assert any(trap in title for title in titles), trap


def test_a_shop_may_be_tiny() -> None:
    shop = Shop(books=1, categories=1)
    assert len(shop.books) == len(shop.categories) == len(shop.orders) == 1
    assert Pages(shop).get(shop.books[0].path) is not None


@pytest.mark.parametrize(("books", "categories"), [(1000, 0), (1000, 51), (49, 50), (50_001, 50)], ids=str)
def test_a_shop_of_impossible_size_is_refused(books: int, categories: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Shop(books=books, categories=categories)


def test_books_cannot_be_changed(small: Shop) -> None:
    with pytest.raises(FrozenInstanceError):
        small.books[0].title = "Mine"  # type: ignore[misc]


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_on_every_path(small: Shop) -> None:
    one, other = Pages(small), Pages(Shop(seed=7, books=90, categories=6))
    assert one.paths() == other.paths()
    for path in one.paths():
        assert one.get(path) == other.get(path)


def test_a_list_page_is_of_realistic_size_and_shows_20_cards_in_the_order_of_the_shop(shop: Shop, pages: Pages) -> None:
    for path, first in (("/index.html", 0), ("/catalogue/page-2.html", 20), ("/catalogue/page-50.html", 980)):
        document = pages.get(path)
        assert document is not None
        assert 15_000 < len(document.body) < 50_000
        cards = LexborHTMLParser(document.body).css("article.product_pod")
        assert len(cards) == PER_PAGE
        for card, book in zip(cards, shop.books[first:], strict=False):
            assert attribute(card, "h3 a", "title") == book.title
            assert urljoin(path, attribute(card, "h3 a", "href")) == book.path
            assert text(card, "p.price_color") == f"£{book.price}"
            assert text(card, "p.instock.availability") == "In stock"
            assert card.css_first(f"p.star-rating.{STARS[book.rating]}") is not None
            assert urljoin(path, attribute(card, "div.image_container img.thumbnail", "src")) == book.cover_path


def test_links_are_written_as_the_public_sandbox_writes_them(shop: Shop, pages: Pages) -> None:
    book = shop.books[0]
    home = parsed(pages, "/")
    assert attribute(home, "h3 a", "href") == book.path.removeprefix("/")
    assert attribute(home, "li.next a", "href") == "catalogue/page-2.html"
    assert attribute(home, "img.thumbnail", "src") == book.cover_path.removeprefix("/")
    assert attribute(parsed(pages, "/catalogue/page-1.html"), "h3 a", "href") == book.path.removeprefix("/catalogue/")
    assert attribute(parsed(pages, "/catalogue/page-2.html"), "li.next a", "href") == "page-3.html"
    category = parsed(pages, shop.categories[0].path)
    assert attribute(category, "h3 a", "href").startswith("../../../")
    assert attribute(parsed(pages, book.path), "div.item.active img", "src") == f"../..{book.cover_path}"


def test_the_sidebar_names_every_category_and_each_shelf_holds_its_books(shop: Shop, pages: Pages) -> None:
    shelves = {
        urljoin("/index.html", link.attributes["href"]): link.text().strip()
        for link in parsed(pages, "/").css("div.side_categories ul li ul li a")
    }
    assert shelves == {category.path: category.name for category in shop.categories}
    for category in shop.categories:
        path, titles = category.path, []
        while path:
            page = parsed(pages, path)
            assert text(page, "h1") == category.name
            titles += [link.attributes["title"] for link in page.css("article.product_pod h3 a")]
            following = page.css_first("li.next a")
            path = urljoin(path, following.attributes["href"]) if following else ""
        assert titles == [book.title for book in category.books]


def test_every_book_page_says_what_the_catalogue_says(shop: Shop, pages: Pages) -> None:
    for book in shop.books:
        assert read_book(parsed(pages, book.path), book.path) == expected_book(book)


def test_no_page_of_the_default_shop_has_a_dead_link(pages: Pages) -> None:
    alive = {*pages.paths(), "/account/", "/basket/"}
    for path in pages.paths():
        if path.endswith(".html"):
            assert links(parsed(pages, path), path) <= alive, path


# -- covers ------------------------------------------------------------------------------------------------------------


def decode_png(image: bytes) -> tuple[int, int, bytes]:
    """Width, height and pixels of a palette PNG, as strict as a decoder can be about what it accepts."""
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(image):
        (length,) = struct.unpack_from(">I", image, at)
        kind, data = image[at + 4 : at + 8], image[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", image, at + 8 + length) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        at += length + 12
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert form == [8, 3, 0, 0, 0]
    raw = zlib.decompress(chunks[b"IDAT"])
    rows = [raw[start : start + width + 1] for start in range(0, len(raw), width + 1)]
    assert len(rows) == height
    assert all(len(row) == width + 1 and row[0] == 0 for row in rows)
    pixels = b"".join(row[1:] for row in rows)
    assert max(pixels) < len(chunks[b"PLTE"]) // 3
    return width, height, pixels


def test_covers_are_images_of_a_few_kilobytes_and_only_books_with_one_seed_share_one(shop: Shop, pages: Pages) -> None:
    seeds: dict[bytes, int] = {}
    for book in shop.books:
        cover = pages.get(book.cover_path)
        assert cover is not None
        assert cover.content_type == "image/png"
        assert 1_500 < len(cover.body) < 6_000
        assert seeds.setdefault(cover.body, book.cover_seed) == book.cover_seed
    assert 950 < len(seeds) < 1000
    assert len(seeds) == len({book.cover_seed for book in shop.books})
    for image in list(seeds)[:25]:
        width, height, pixels = decode_png(image)
        assert (width, height) == (WIDTH, HEIGHT)
        assert set(pixels) == set(range(8))


# -- over HTTP ---------------------------------------------------------------------------------------------------------


async def get_page(session: aiohttp.ClientSession, url: str) -> LexborHTMLParser:
    async with session.get(url) as response:
        assert response.status == 200, url
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        return LexborHTMLParser(await response.read())


async def test_all_books_are_reached_by_following_next(shop: Shop) -> None:
    async with serve(shop) as site, aiohttp.ClientSession() as session:
        url, found, pages = f"{site.url}/index.html", list[str](), 0
        while url:
            page = await get_page(session, url)
            pages += 1
            found += [urljoin(url, link.attributes["href"]) for link in page.css("article.product_pod h3 a")]
            following = page.css_first("li.next a")
            url = urljoin(url, following.attributes["href"]) if following else ""
    assert pages == 50
    assert found == [site.url + book.path for book in shop.books]


async def test_every_link_and_image_anywhere_leads_somewhere(small: Shop) -> None:
    async with serve(small) as site, aiohttp.ClientSession() as session:
        known, waiting = {f"{site.url}/"}, [f"{site.url}/"]
        while waiting:
            url = waiting.pop()
            async with session.get(url) as response:
                assert response.status == 200, url
                body = await response.read()
                url = str(response.url)  # `/account/` ends at `/login`
            if response.content_type != "text/html":
                continue
            page = LexborHTMLParser(body)
            for link in links(page, url) - known:
                assert link.startswith(f"{site.url}/"), link
                known.add(link)
                waiting.append(link)
    reached = {urlsplit(url).path for url in known}
    assert set(Pages(small).paths()) <= reached
    assert {"/account/", "/basket/"} <= reached


async def test_robots_opens_the_catalogue_closes_the_basket_and_names_the_sitemap(small: Shop) -> None:
    rules = RobotFileParser()
    async with serve(small) as site, aiohttp.ClientSession() as session:
        response = await session.get(f"{site.url}/robots.txt")
        assert response.content_type == "text/plain"
        rules.parse((await response.text()).splitlines())
    assert rules.site_maps() == [f"{site.url}/sitemap.xml"]
    assert rules.can_fetch("crawler", f"{site.url}{small.books[0].path}")
    assert not rules.can_fetch("crawler", f"{site.url}/basket/")
    assert rules.can_fetch("crawler", f"{site.url}/account/")  # a customer's own, behind a login


async def test_the_sitemap_lists_every_book_with_its_date(shop: Shop) -> None:
    async with serve(shop) as site, aiohttp.ClientSession() as session:
        response = await session.get(f"{site.url}/sitemap.xml")
        assert response.content_type == "application/xml"
        root = ElementTree.fromstring(await response.read())
    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
    assert root.tag == f"{space}urlset"
    listed = [(entry.findtext(f"{space}loc"), entry.findtext(f"{space}lastmod")) for entry in root]
    assert listed == [(site.url + book.path, book.updated.isoformat()) for book in shop.books]


async def test_what_is_not_there_is_404_and_what_is_stored_cannot_be_posted_to(small: Shop) -> None:
    async with serve(small) as site, aiohttp.ClientSession() as session:
        for path in ("/nowhere", "/catalogue/page-0.html", "/catalogue/page-6.html", "/catalogue/", "/media/cache/"):
            async with session.get(site.url + path) as response:
                assert response.status == 404, path
                assert "404 Not Found" in await response.text()
        async with session.post(f"{site.url}/index.html") as response:
            assert response.status == 405


async def test_a_folder_is_its_index(small: Shop) -> None:
    book = small.books[3]
    async with serve(small) as site, aiohttp.ClientSession() as session:
        page = await get_page(session, site.url + book.path.removesuffix("index.html"))
    assert text(page, "h1") == book.title


async def test_an_unchanged_cover_is_not_sent_again(small: Shop) -> None:
    async with serve(small) as site, aiohttp.ClientSession() as session:
        url = site.url + small.books[0].cover_path
        async with session.get(url) as response:
            body, tag = await response.read(), response.headers["ETag"]
            assert response.headers["Content-Type"] == "image/png"
        async with session.get(url, headers={"If-None-Match": f'"other", {tag}'}) as response:
            assert (response.status, response.headers["ETag"], await response.read()) == (304, tag, b"")
        async with session.get(url, headers={"If-None-Match": '"other"'}) as response:
            assert (response.status, await response.read()) == (200, body)
        async with session.head(url) as response:
            assert (response.status, response.headers["Content-Length"]) == (200, str(len(body)))


# -- the customer ------------------------------------------------------------------------------------------------------


def visitor() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))  # of an IP address


async def login(session: aiohttp.ClientSession, site: str, **changes: str) -> tuple[int, str, str]:
    """Fill in the form; status, location and text of the answer."""
    form = await get_page(session, f"{site}/login")
    fields = {"csrf_token": attribute(form, "form input[name=csrf_token]", "value")}
    fields |= {"username": USERNAME, "password": PASSWORD} | changes
    target = urljoin(f"{site}/login", attribute(form, "form#login_form", "action"))
    async with session.post(target, data=fields, allow_redirects=False) as response:
        return response.status, response.headers.get("Location", ""), await response.text()


async def test_the_right_password_opens_the_account_with_its_orders(small: Shop) -> None:
    async with serve(small) as site, visitor() as session:
        status, location, _ = await login(session, site.url)
        assert (status, location) == (302, "/account/")
        page = await get_page(session, f"{site.url}/account/")
    assert text(page, "p.welcome") == "Welcome back, demo"
    rows = [(text(row, "th"), text(row, "td.placed"), text(row, "td.total")) for row in page.css("table.orders tr")]
    assert rows == [(order.number, order.placed.isoformat(), f"£{order.total}") for order in small.orders]
    links = [urljoin("/account/", link.attributes["href"]) for link in page.css("table.orders tr a")]
    assert links == [order.book.path for order in small.orders]


@pytest.mark.parametrize("changes", [{"password": "guess"}, {"username": "<admin>"}, {"username": "", "password": ""}])
async def test_a_wrong_name_or_password_gets_an_error_text_and_no_session(small: Shop, changes: dict[str, str]) -> None:
    async with serve(small) as site, visitor() as session:
        status, location, body = await login(session, site.url, **changes)
        assert (status, location) == (200, "")
        assert "wrong" in text(LexborHTMLParser(body), "p.error")
        async with session.get(f"{site.url}/account/", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (302, "/login")


async def test_a_form_of_another_visitor_is_refused(small: Shop) -> None:
    async with serve(small) as site, visitor() as session, visitor() as other:
        stolen = attribute(await get_page(other, f"{site.url}/login"), "input[name=csrf_token]", "value")
        for token in (stolen, "", "ÿ"):
            status, _, body = await login(session, site.url, csrf_token=token)
            assert status == 403
            assert "expired" in body


async def test_a_visitor_without_cookies_cannot_log_in(small: Shop) -> None:
    async with serve(small) as site, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        status, _, _ = await login(session, site.url)
    assert status == 403


@pytest.mark.parametrize("cookie", ["", "x", ".", "a.b", "0123456789abcdef.0123456789abcdef", "a.\xff"])
async def test_an_invented_session_opens_nothing(small: Shop, cookie: str) -> None:
    async with serve(small) as site, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        headers = {"Cookie": f"session={cookie}"}
        async with session.get(f"{site.url}/account/", headers=headers, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (302, "/login")


async def test_a_body_that_is_no_form_is_a_bad_request(small: Shop) -> None:
    async with serve(small) as site, visitor() as session:
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=klingon"}
        async with session.post(f"{site.url}/login", data=b"username=demo", headers=headers) as response:
            assert response.status == 400


# -- the server --------------------------------------------------------------------------------------------------------


async def test_the_journal_has_every_request_in_order(small: Shop) -> None:
    before = time.time()
    async with serve(small) as site, aiohttp.ClientSession() as session:
        for method, path in (("GET", "/"), ("HEAD", "/robots.txt"), ("GET", "/nowhere?q=1"), ("POST", "/index.html")):
            async with session.request(method, site.url + path):
                pass
    assert [hit[1:] for hit in site.journal] == [
        ("GET", "/", 200),
        ("HEAD", "/robots.txt", 200),
        ("GET", "/nowhere?q=1", 404),
        ("POST", "/index.html", 405),
    ]
    assert all(before <= hit.time <= time.time() for hit in site.journal)


async def test_shops_stand_side_by_side_and_their_ports_close_behind_them(small: Shop) -> None:
    async with serve(small) as one, serve(small) as other, aiohttp.ClientSession() as session:
        assert one.url != other.url
        assert one.url.startswith("http://127.0.0.1:")
        await get_page(session, one.url)
        await get_page(session, other.url)
        assert len(one.journal) == len(other.journal) == 1
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(one.url)


async def test_an_idle_connection_does_not_keep_the_shop_open(small: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.demo.server._SHUTDOWN_SECONDS", 3600.0)
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        async with serve(small) as site:
            await get_page(session, site.url)
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(site.url)


async def test_run_forever_says_where_it_is_and_ends_when_cancelled(small: Shop) -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run_forever(ready=ready.set_result, shop=small))
    url = await ready
    async with aiohttp.ClientSession() as session:
        assert len((await get_page(session, url)).css("article.product_pod")) == PER_PAGE
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(url)


async def test_a_taken_port_is_an_os_error(small: Shop) -> None:
    async with serve(small) as site:
        with pytest.raises(OSError, match="address already in use"):
            await run_forever(port=int(site.url.rpartition(":")[2]), shop=small)
