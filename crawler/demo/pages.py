"""The shop as a browser sees it: HTML, covers and the sitemap, rendered once and kept as bytes.

The mark-up answers to the selectors of the public sandbox at books.toscrape.com, so that one spider reads both. Links
are relative, as they are there: the same book is `catalogue/x_1/index.html` on the first page, `x_1/index.html` on the
second and `../../../x_1/index.html` in its category. `/catalogue/page-1.html` repeats `/index.html`, as it does there.
"""

from __future__ import annotations

import hashlib
from functools import partial
from html import escape
from posixpath import dirname, relpath
from typing import TYPE_CHECKING, NamedTuple

from crawler.demo.covers import paint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crawler.demo.catalogue import Book, Order, Shop

__all__ = ["ACCOUNT", "ALL_BOOKS", "BASKET", "HOME", "LOGIN", "PER_PAGE", "Document", "Pages"]

PER_PAGE = 20
HOME, LOGIN, ACCOUNT, BASKET = "/index.html", "/login", "/account/", "/basket/"
ALL_BOOKS = "/catalogue/category/books_1/index.html"

_STARS = ("Zero", "One", "Two", "Three", "Four", "Five")
_CARD_TITLE_LENGTH = 40
_RELATED = 4
_STYLE_PATH = "/static/shop.css"
_STYLE = """\
body{margin:0;font:15px/1.5 Georgia,serif;color:#222;background:#fbf9f5}a{color:#185a7d;text-decoration:none}
header,.page{max-width:1100px;margin:auto;padding:1em}header{border-bottom:1px solid #ddd}header nav{float:right}
header nav a{margin-left:1em}.brand{font-size:1.6em}ul.breadcrumb{list-style:none;padding:0}
.breadcrumb li{display:inline}.breadcrumb li+li:before{content:" / ";color:#999}.row{display:flex;gap:2em}
aside{flex:0 0 190px}.side_categories ul{list-style:none;padding-left:.6em}main{flex:1}ol.shelf{list-style:none;
padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:1.5em}
.product_pod h3{font-size:1em;margin:0}
.price_color{color:#2a6b2e;font-weight:bold}.star-rating{color:#d9a400;margin:.2em 0}.error{color:#a00}
.alert{background:#fdf3d8;padding:.6em}.product_page .item img{width:192px}
.pager{display:flex;justify-content:space-between;list-style:none;padding:0}table{border-collapse:collapse}
td,th{border:1px solid #ddd;padding:.3em .8em;text-align:left}
"""
_NOTICE = (
    '<div class="alert alert-warning" role="alert"><strong>Warning!</strong> This is a demo shop for crawlers. '
    "Its books do not exist, and prices and ratings have no meaning.</div>"
)


class Document(NamedTuple):
    body: bytes
    content_type: str
    etag: str
    """Without quotes; equal for equal bodies."""


class Pages:
    """What the shop serves that is the same for every visitor, by path. Rendered at its first `get`, then kept."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._categories = {category.name: category for category in shop.categories}
        self._positions = {
            book.number: position for category in shop.categories for position, book in enumerate(category.books)
        }
        self._sidebars: dict[str, str] = {}
        self._sitemap: list[str] = []
        self._ready: dict[str, Document] = {}
        self._makers: dict[str, tuple[Callable[[], bytes], str]] = {}
        self._lay_out()

    def get(self, path: str) -> Document | None:
        """What is at this path (which a folder's slash may end, for its `index.html`), or None where nothing is."""
        if path.endswith("/"):
            path += "index.html"
        document = self._ready.get(path)
        if document is None and path in self._makers:
            make, content_type = self._makers[path]
            body = make()
            document = Document(body, content_type, hashlib.blake2b(body, digest_size=12).hexdigest())
            self._ready[path] = document
        return document

    def paths(self) -> list[str]:
        """Every path that `get` knows, without the folders' other spelling."""
        return list(self._makers)

    def sitemap(self, origin: str) -> bytes:
        """The sitemap (sitemaps.org, protocol 0.9) of all books for a site at `origin`, `"http://host:port"`."""
        if not self._sitemap:
            text = (
                '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
            )
            for book in self._shop.books:
                self._sitemap.append(f"{text}<url><loc>")
                text = f"{escape(book.path)}</loc><lastmod>{book.updated.isoformat()}</lastmod></url>\n"
            self._sitemap.append(f"{text}</urlset>\n")
        return escape(origin).join(self._sitemap).encode()

    def account(self, name: str, orders: Sequence[Order]) -> bytes:
        rows = "\n".join(
            f'<tr><th scope="row">{order.number}</th><td class="placed">{order.placed.isoformat()}</td>'
            f'<td class="book"><a href="{_link(ACCOUNT, order.book.path)}">{escape(order.book.title)}</a></td>'
            f'<td class="quantity">{order.quantity}</td><td class="total">£{order.total:.2f}</td></tr>'
            for order in orders
        )
        content = (
            f'<h1>Your account</h1>\n<p class="welcome">Welcome back, {escape(name)}</p>\n'
            f'<h2>Your orders</h2>\n<table class="orders">\n{rows}\n</table>'
        )
        return self._page(ACCOUNT, "Your account", (), content)

    def basket(self) -> bytes:
        return self._page(BASKET, "Your basket", (), '<h1>Your basket</h1>\n<p class="empty">Your basket is empty.</p>')

    def login(self, csrf_token: str, error: str = "") -> bytes:
        """The login form; `error` is shown above it."""
        notice = f'<p class="error" role="alert">{escape(error)}</p>' if error else ""
        content = f"""<h1>Log in</h1>
{notice}
<form id="login_form" action="{_link(LOGIN, LOGIN)}" method="post">
<input type="hidden" name="csrf_token" value="{escape(csrf_token)}">
<p><label for="username">Username</label> <input type="text" name="username" id="username" required></p>
<p><label for="password">Password</label> <input type="password" name="password" id="password" required></p>
<p><button type="submit">Log in</button></p>
</form>"""
        return self._page(LOGIN, "Log in", (), content)

    # -- layout --------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        shop, html = self._shop, "text/html"
        self._makers[_STYLE_PATH] = (_STYLE.encode, "text/css")
        pages = _page_count(shop.books)
        catalogue = [f"/catalogue/page-{number}.html" for number in range(1, pages + 1)]
        self._makers[HOME] = (partial(self._listing, HOME, 1, catalogue, "All products", shop.books), html)
        for number, path in enumerate(catalogue, 1):
            self._makers[path] = (partial(self._listing, path, number, catalogue, "All products", shop.books), html)
        shelves = [(ALL_BOOKS, "Books", shop.books)]
        shelves += [(category.path, category.name, category.books) for category in shop.categories]
        for first, name, books in shelves:
            paths = [first, *(f"{dirname(first)}/page-{number}.html" for number in range(2, _page_count(books) + 1))]
            for number, path in enumerate(paths, 1):
                self._makers[path] = (partial(self._listing, path, number, paths, name, books), html)
        for book in shop.books:
            self._makers[book.path] = (partial(self._detail, book), html)
            self._makers[book.cover_path] = (partial(paint, book.cover_seed), "image/png")

    # -- whole pages ---------------------------------------------------------------------------------------------------

    def _listing(self, path: str, number: int, paths: Sequence[str], name: str, books: Sequence[Book]) -> bytes:
        first = (number - 1) * PER_PAGE
        shown = books[first : first + PER_PAGE]
        shelf = "\n".join(f'<li class="col-xs-6 col-sm-4 col-md-3">\n{_card(path, book)}</li>' for book in shown)
        pager = [f'<li class="current">Page {number} of {len(paths)}</li>']
        if number > 1:
            pager.insert(0, f'<li class="previous"><a href="{_link(path, paths[number - 2])}">previous</a></li>')
        if number < len(paths):
            pager.append(f'<li class="next"><a href="{_link(path, paths[number])}">next</a></li>')
        content = f"""<div class="row">
<aside class="sidebar col-sm-4 col-md-3">
{self._sidebar(path)}
</aside>
<main class="col-sm-8 col-md-9">
<div class="page-header action"><h1>{escape(name)}</h1></div>
<form method="get" class="form-horizontal">
<strong>{len(books)}</strong> results - showing <strong>{first + 1}</strong> to <strong>{first + len(shown)}</strong>.
</form>
<section>
{_NOTICE}
<ol class="row shelf">
{shelf}
</ol>
<div><ul class="pager">
{"".join(pager)}
</ul></div>
</section>
</main>
</div>"""
        return self._page(path, name, (), content)

    def _detail(self, book: Book) -> bytes:
        category = self._categories[book.category]
        position = self._positions[book.number]
        count = min(_RELATED, len(category.books) - 1)
        related = [category.books[(position + step) % len(category.books)] for step in range(1, count + 1)]
        rows = {
            "UPC": book.upc,
            "Product Type": "Books",
            "Price (excl. tax)": f"£{book.price - book.tax:.2f}",
            "Price (incl. tax)": f"£{book.price:.2f}",
            "Tax": f"£{book.tax:.2f}",
            "Availability": book.stock,
            "Number of reviews": str(book.reviews),
        }
        table = "\n".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
        title = escape(book.title)
        content = f"""<article class="product_page">
<div class="row">
<div id="product_gallery" class="col-sm-6 carousel"><div class="thumbnail"><div class="carousel-inner">
<div class="item active"><img src="{_link(book.path, book.cover_path)}" alt="{title}"></div>
</div></div></div>
<div class="col-sm-6 product_main">
<h1>{title}</h1>
{_offer(book, book.stock)}
{_rating(book)}
<hr>
{_NOTICE}
</div>
</div>
{_description(book)}
<div class="sub-header"><h2>Product Information</h2></div>
<table class="table table-striped">
{table}
</table>
{_related(book.path, related)}
</article>"""
        crumbs = ((ALL_BOOKS, "Books"), (category.path, category.name), ("", book.title))
        return self._page(book.path, book.title, crumbs, content)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _sidebar(self, path: str) -> str:
        folder = dirname(path)
        if folder not in self._sidebars:
            items = "\n".join(
                f'<li>\n<a href="{_link(path, category.path)}">\n{escape(category.name)}\n</a>\n</li>'
                for category in self._shop.categories
            )
            self._sidebars[folder] = (
                f'<div class="side_categories">\n<ul class="nav nav-list">\n<li>\n<a href="{_link(path, ALL_BOOKS)}">\n'
                f"Books\n</a>\n<ul>\n{items}\n</ul>\n</li>\n</ul>\n</div>"
            )
        return self._sidebars[folder]

    def _page(self, path: str, title: str, crumbs: Sequence[tuple[str, str]], content: str) -> bytes:
        """`crumbs`: path and text of what stands between the home page and here; an empty path is here itself."""
        trail = "\n".join(
            f'<li><a href="{_link(path, to)}">{escape(text)}</a></li>'
            if to
            else f'<li class="active">{escape(text)}</li>'
            for to, text in ((HOME, "Home"), *(crumbs or (("", title),)))
        )
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{escape(title)} | Demo Bookshop</title>
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_link(path, _STYLE_PATH)}">
</head>
<body id="default" class="default">
<header class="header container-fluid">
<nav><a href="{_link(path, BASKET)}">Basket</a> <a href="{_link(path, ACCOUNT)}">Account</a></nav>
<div class="brand"><a href="{_link(path, HOME)}">Demo Bookshop</a><small> Come in and crawl.</small></div>
</header>
<div class="container-fluid page">
<div class="page_inner">
<ul class="breadcrumb">
{trail}
</ul>
{content}
</div>
</div>
</body>
</html>
""".encode()


def _card(page: str, book: Book) -> str:
    link, title = _link(page, book.path), escape(book.title)
    return f"""<article class="product_pod">
<div class="image_container">
<a href="{link}"><img src="{_link(page, book.cover_path)}" alt="{title}" class="thumbnail"></a>
</div>
{_rating(book)}
<h3><a href="{link}" title="{title}">{escape(_short(book.title))}</a></h3>
<div class="product_price">
{_offer(book, "In stock")}
<form>
<button type="button" class="btn btn-primary btn-block" data-loading-text="Adding...">Add to basket</button>
</form>
</div>
</article>
"""


def _offer(book: Book, stock: str) -> str:
    return f"""<p class="price_color">£{book.price:.2f}</p>
<p class="instock availability">
<i class="icon-ok"></i>
{stock}
</p>"""


def _rating(book: Book) -> str:
    stars = '<i class="icon-star"></i>' * book.rating
    return f'<p class="star-rating {_STARS[book.rating]}">\n{stars}\n</p>'


def _description(book: Book) -> str:
    if not book.description:
        return ""
    heading = '<div id="product_description" class="sub-header"><h2>Product Description</h2></div>'
    return f"{heading}\n<p>{escape(book.description)}</p>"


def _related(page: str, books: Sequence[Book]) -> str:
    if not books:
        return ""
    cards = "\n".join(f"<li>\n{_card(page, book)}</li>" for book in books)
    return (
        f'<section class="related">\n<h2>From the same shelf</h2>\n<ol class="row shelf">\n{cards}\n</ol>\n</section>'
    )


def _short(title: str) -> str:
    if len(title) <= _CARD_TITLE_LENGTH:
        return title
    return title[: _CARD_TITLE_LENGTH - 4].rsplit(" ", 1)[0] + " ..."


def _page_count(books: Sequence[Book]) -> int:
    return -(-len(books) // PER_PAGE)


def _link(page: str, target: str) -> str:
    """A relative reference, escaped: from the page at one path to another path."""
    reference = relpath(target, dirname(page))
    return escape(f"{reference}/" if target.endswith("/") else reference)
