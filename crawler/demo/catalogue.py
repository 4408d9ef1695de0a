"""What the demo bookshop sells: books, shelves and one customer's orders, all drawn from a seed.

Nothing here knows HTML or HTTP, so a test can hold what a crawl brought home against `Shop.books`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from random import Random

from crawler.demo.words import CATEGORIES, ODD_TITLES, SENTENCES, SUBTITLES, TITLES, WORDS

__all__ = ["Book", "Category", "Order", "Shop"]

MAX_BOOKS = 50_000
"""What one sitemap may list (sitemaps.org, protocol 0.9)."""

_FIRST_CATEGORY_NUMBER = 2
"""1 is the shelf of all books."""
_TWIN_COVER_EVERY = 40
_NO_DESCRIPTION_EVERY = 400
_ORDERS = 5
_OPENED = date(2023, 1, 1)
_DAYS_OPEN = 730

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])")
_NOT_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Book:
    number: int
    """Unique in the shop, 1 to the number of books, the first listed has the highest. The path's folder ends in it."""
    title: str
    """Unique in the shop. Any Unicode, markup characters included."""
    upc: str
    """16 hexadecimal digits, unique in the shop."""
    price: Decimal
    """Pounds, two decimals, tax included."""
    tax: Decimal
    """Pounds. Books are zero-rated, so it is 0.00."""
    availability: int
    """Copies in stock, at least 1."""
    rating: int
    """1 to 5 stars."""
    reviews: int
    category: str
    """The name of its `Category`."""
    description: str
    """One paragraph. A few books have none: then it is empty and the page has no such section."""
    updated: date
    """The sitemap's `lastmod`."""
    path: str
    """From the root of the site, `/catalogue/some-title_997/index.html`."""
    cover_path: str
    """From the root of the site, unique per book."""
    cover_seed: int = field(repr=False)
    """What the cover is painted from: books that share it have the same cover, byte for byte."""

    @property
    def stock(self) -> str:
        """The availability as pages word it."""
        return f"In stock ({self.availability} available)"


@dataclass(frozen=True, slots=True)
class Category:
    number: int
    name: str
    path: str
    """The first of its pages, from the root of the site: `/catalogue/category/books/mystery_3/index.html`."""
    books: tuple[Book, ...] = field(repr=False)
    """In the order of the shop, at least one."""


@dataclass(frozen=True, slots=True)
class Order:
    number: str
    placed: date
    book: Book
    quantity: int

    @property
    def total(self) -> Decimal:
        """Pounds."""
        return self.book.price * self.quantity


class Shop:
    """A bookshop: the same seed and sizes give the same shop, on every machine and Python.

    `books` in the order in which they are listed, `categories` in the order of the sidebar, `orders` of the one
    customer, newest first. Raises `ValueError` where `categories` is not 1 to 50, or `books` is not `categories` to
    50,000.
    """

    __slots__ = ("books", "categories", "orders", "seed")

    def __init__(self, seed: int = 1, books: int = 1000, categories: int = 50) -> None:
        if not 1 <= categories <= len(CATEGORIES):
            raise ValueError(f"categories: expected 1 to {len(CATEGORIES)}, got {categories}")
        if not categories <= books <= MAX_BOOKS:
            raise ValueError(f"books: expected {categories} (one a category) to {MAX_BOOKS}, got {books}")
        rng = Random(seed)
        names = CATEGORIES[:categories]
        self.seed = seed
        self.books: tuple[Book, ...] = _stock(rng, books, _shelve(rng, names, books))
        self.categories: tuple[Category, ...] = _categories(names, self.books)
        self.orders: tuple[Order, ...] = _orders(rng, self.books)

    def __repr__(self) -> str:
        return f"Shop(seed={self.seed}, books={len(self.books)}, categories={len(self.categories)})"


def _shelve(rng: Random, names: tuple[str, ...], count: int) -> list[str]:
    """A category for each book: none empty, some with hundreds, some with a handful, as in a real shop."""
    ranks = list(range(len(names)))
    rng.shuffle(ranks)
    weights = [(rank + 1) ** -1.1 for rank in ranks]
    shelves = [*names, *rng.choices(names, weights, k=count - len(names))]
    rng.shuffle(shelves)
    return shelves


def _stock(rng: Random, count: int, shelves: list[str]) -> tuple[Book, ...]:
    books: list[Book] = []
    for position, title in enumerate(_titles(rng, count)):
        number = count - position
        cover = f"{rng.getrandbits(128):032x}"
        has_twin = position % _TWIN_COVER_EVERY == _TWIN_COVER_EVERY - 1
        books.append(
            Book(
                number=number,
                title=title,
                upc=f"{rng.getrandbits(64):016x}",
                price=Decimal(rng.randrange(1000, 6000)).scaleb(-2),
                tax=Decimal("0.00"),
                availability=rng.randint(1, 22),
                rating=rng.randint(1, 5),
                reviews=max(0, rng.randint(-9, 12)),
                category=shelves[position],
                description="" if number % _NO_DESCRIPTION_EVERY == 0 else _description(rng),
                updated=_OPENED + timedelta(days=rng.randrange(_DAYS_OPEN)),
                path=f"/catalogue/{_slug(title) or 'book'}_{number}/index.html",
                cover_path=f"/media/cache/{cover[:2]}/{cover[2:4]}/{cover}.png",
                cover_seed=rng.choice(books).cover_seed if has_twin else rng.getrandbits(64),
            )
        )
    return tuple(books)


def _categories(names: tuple[str, ...], books: tuple[Book, ...]) -> tuple[Category, ...]:
    shelves: dict[str, list[Book]] = {name: [] for name in names}
    for book in books:
        shelves[book.category].append(book)
    return tuple(
        Category(number, name, f"/catalogue/category/books/{_slug(name)}_{number}/index.html", tuple(shelves[name]))
        for number, name in enumerate(names, _FIRST_CATEGORY_NUMBER)
    )


def _orders(rng: Random, books: tuple[Book, ...]) -> tuple[Order, ...]:
    bought = rng.sample(books, min(_ORDERS, len(books)))
    days = sorted((_OPENED + timedelta(days=rng.randrange(_DAYS_OPEN)) for _ in bought), reverse=True)
    return tuple(
        Order(f"{100_100 - position}", day, book, rng.randint(1, 3))
        for position, (day, book) in enumerate(zip(days, bought, strict=True))
    )


def _titles(rng: Random, count: int) -> list[str]:
    titles = dict.fromkeys(ODD_TITLES[:count])
    while len(titles) < count:
        title = _write(rng, rng.choice(TITLES))
        if rng.random() < 0.25:
            title += _write(rng, rng.choice(SUBTITLES))
        titles[title] = None
    shuffled = list(titles)
    rng.shuffle(shuffled)
    return shuffled


def _description(rng: Random) -> str:
    return " ".join(_write(rng, sentence) for sentence in rng.sample(SENTENCES, rng.randint(4, 10)))


def _write(rng: Random, pattern: str) -> str:
    def word(slot: re.Match[str]) -> str:
        kind = slot[1]
        words = WORDS[kind.lower()]
        chosen = words[
            int(rng.random() * len(words))
        ]  # a quarter of what `choice` costs, and most of a shop is this line
        return chosen[0].upper() + chosen[1:] if kind[0].isupper() else chosen

    return _ARTICLE.sub(r"\1n ", _SLOT.sub(word, pattern))


def _slug(text: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return _NOT_SLUG.sub("-", ascii_only.replace("'", "")).strip("-")
