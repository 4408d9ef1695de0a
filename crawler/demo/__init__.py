"""The demo bookshop: a thousand invented books on loopback, for `crawler demo`, `crawler run --demo` and tests.

It answers to the same selectors as the public sandbox at books.toscrape.com, so that one spider works on both, and adds
what that one lacks: robots.txt, a sitemap, a login (`demo` / `demo`) and pictures that repeat.

    async with serve() as site:
        await crawl(Books, args={"site": site.url})
        assert {book.title for book in site.shop.books} == ...
"""

from __future__ import annotations

from crawler.demo.catalogue import Book, Category, Order, Shop
from crawler.demo.pages import PER_PAGE
from crawler.demo.server import PASSWORD, USERNAME, Hit, Site, make_app, run_forever, serve

__all__ = [
    "PASSWORD",
    "PER_PAGE",
    "USERNAME",
    "Book",
    "Category",
    "Hit",
    "Order",
    "Shop",
    "Site",
    "make_app",
    "run_forever",
    "serve",
]
