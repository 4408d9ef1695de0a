"""What is crawled: two sites of which every byte is the same each time, and how many of their pages are counted."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

CONCURRENCY = 8
"""Requests that the server holds while it answers one."""
_NEW_LINKS = 6
_KNOWN_LINKS = 54
_WORDS = """
    about after again along amber answer autumn basket before between bridge bright butter candle carry castle
    central change chapter coffee corner cotton country dinner during early evening family father field figure
    follow forest garden gentle golden ground harbour history horizon kitchen ladder letter little market meadow
    middle minute mirror morning mountain number ocean orange paper pencil picture pocket quiet railway reason river
    season second shadow silver simple station stone summer table theatre thunder travel under valley village water
    weather window winter wonder yellow
""".split()  # noqa: SIM905 - a word a line reads worse


class Workload(NamedTuple):
    """A fixed crawl. The pages of `warm_up` are fetched before counting begins, `pages` are counted."""

    name: str
    warm_up: int
    pages: int
    page_seconds: float
    """By how much a page moves the crawl's clock: an epoch is closed each 0.2 s of it."""

    @property
    def fetched(self) -> int:
        """Pages of the whole crawl: those that are in flight when counting ends are still answered."""
        return self.warm_up + self.pages + CONCURRENCY


# The windows begin and end half-way between two closed epochs.
WORKLOADS = {
    each.name: each
    for each in (
        Workload("links", warm_up=20, pages=40, page_seconds=0.005),
        Workload("bare", warm_up=50, pages=200, page_seconds=0.002),
    )
}


def paths(workload: Workload) -> list[str]:
    """Of the pages that may be asked for; the first one is where `links` begins."""
    count = workload.fetched if workload.name == "bare" else 1 + workload.fetched * _NEW_LINKS
    return [_path(number) for number in range(count)]


def answers(workload: Workload) -> dict[str, bytes]:
    """Path to HTTP answer, ready to be sent."""
    make = _bare_page if workload.name == "bare" else _page
    found = {path: _answer(make(number), "text/html; charset=utf-8") for number, path in enumerate(paths(workload))}
    robots = b"User-agent: *\nDisallow: /admin/\nDisallow: /*?sort=\nAllow: /admin/public/\n"
    return {**found, "/robots.txt": _answer(robots, "text/plain")}


def _answer(body: bytes, content_type: str) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        'Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nETag: "6956e400-7530"\r\n'
        "Connection: keep-alive\r\nCache-Control: max-age=600\r\nVary: Accept-Encoding\r\n\r\n"
    )
    return head.encode() + body


def _path(number: int) -> str:
    chance = Random(number)
    return f"/catalogue/{'-'.join(chance.choices(_WORDS, k=4))}_{number}/index.html"


def _text(chance: Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))


def _bare_page(number: int) -> bytes:
    """2 KB without a link."""
    chance = Random(number)
    head = f"<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>{_text(chance, 5)}</title></head>\n<body>"
    body = "".join(f"<p>{_text(chance, 40)}</p>\n" for _ in range(7))
    return f"{head}<h1>{_text(chance, 5)}</h1>\n{body}</body></html>\n".encode()


def _page(number: int) -> bytes:
    """30 KB with 60 links, of which the pages before have had 54: in a navigation, in cards and in running text."""
    chance = Random(number)
    first_new = 1 + number * _NEW_LINKS
    # Pages that are in flight beside this one may end after it: what they link to is not surely known.
    known_before = max(1, 1 + (number - CONCURRENCY) * _NEW_LINKS)
    numbers = [
        *range(first_new, first_new + _NEW_LINKS),
        *(chance.randrange(known_before) for _ in range(_KNOWN_LINKS)),
    ]
    chance.shuffle(numbers)
    links = [_href(each, chance) for each in numbers]
    navigation = "".join(
        f'<li class="nav-item"><a class="nav-link" href="{link}" title="{_text(chance, 2)}">'
        f"{_text(chance, 2)}</a></li>\n"
        for link in links[:15]
    )
    cards = "".join(_card(link, chance) for link in links[15:40])
    prose = "".join(
        f'<p>{_text(chance, 50)} <a href="{link}">{_text(chance, 3)}</a>, <em>{_text(chance, 4)}</em> '
        f"&amp; {_text(chance, 20)}.</p>\n"
        for link in links[40:]
    )
    title = _text(chance, 5)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title} | Shop</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="stylesheet" href="/static/site.css">\n<script src="/static/site.js" async></script>\n</head>\n'
        f'<body id="page-{number}" class="default">\n<nav class="navbar"><ul>\n{navigation}</ul></nav>\n'
        f'<main class="container">\n<h1>{title}</h1>\n<div class="row">\n{cards}</div>\n'
        f'<article>\n{prose}</article>\n</main>\n<footer class="footer"><p>{_text(chance, 12)}</p></footer>\n'
        "</body>\n</html>\n"
    ).encode()


def _href(number: int, chance: Random) -> str:
    """As sites write them: from the root, relative, and some with a fragment."""
    path = _path(number)
    return chance.choice((path, path, "../" + path.removeprefix("/catalogue/"), f"{path}#reviews"))


def _card(link: str, chance: Random) -> str:
    rating, price = chance.choice(("One", "Two", "Three", "Four", "Five")), chance.randrange(1000, 9999) / 100
    return (
        '<div class="col-sm-4 product"><article class="product_pod">\n'
        f'<div class="image_container"><img src="/media/{chance.randrange(10**8)}.jpg" alt="{_text(chance, 3)}" '
        'class="thumbnail" loading="lazy" width="120" height="160"></div>\n'
        f'<p class="star-rating {rating}"><i class="icon-star"></i><i class="icon-star"></i></p>\n'
        f'<h3><a href="{link}" title="{_text(chance, 4)}">{_text(chance, 3)}</a></h3>\n'
        f'<div class="product_price"><p class="price_color">&pound;{price:.2f}</p>\n'
        f'<p class="instock availability"><i class="icon-ok"></i> In stock</p></div>\n'
        f'<p class="description">{_text(chance, 12)}</p>\n</article></div>\n'
    )
