"""What is crawled: six sites on loopback, all served by nginx, each with an account of what a crawl must bring home.

The account is made from the files or from what they were made of, without a request, and by nothing that is measured.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from machine import ROOT

sys.path.insert(0, str(ROOT))  # `tests` is not installed

import nginx
from selectolax.lexbor import LexborHTMLParser

from crawler.demo import Shop
from crawler.demo.pages import Pages
from crawler.demo.words import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Site", "documentation", "files", "hosts", "line", "one_page", "shop"]

_TLS_HOST = "127.0.0.2"
"""What the throw-away certificate is for."""
_WORDS = WORDS["adj"] + WORDS["noun"]


class Site(NamedTuple):
    start: str
    """Where a crawl begins: a URL; the beginning of all URLs; or a file of URLs, one a line."""
    origin: str
    """`http://127.0.0.1:PORT`."""
    expected: frozenset[str] = frozenset()
    """The items, each as `line` writes it."""
    bodies: tuple[bytes, ...] = ()
    """What the numbered URLs `start + N` answer: `bodies[N % len(bodies)]`."""
    ca_file: Path | None = None
    """The authority that signed the site's certificate."""


def line(item: dict[str, Any]) -> str:
    """One spelling of an item, whatever the order of its keys."""
    return json.dumps(item, sort_keys=True, ensure_ascii=False)


# -- the documentation ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def documentation(folder: Path, tls: bool = False, coded: bool = False) -> Iterator[Site]:
    """A folder of HTML as it stands, over HTTPS with a certificate for 127.0.0.2 where `tls`; `coded`: with gzip, done
    beforehand."""
    if coded:
        with tempfile.TemporaryDirectory(prefix="bench-coded-") as home, nginx.bound() as at:
            _compress(folder, Path(home))
            with nginx.serve(at, f'root "{home}"; index index.html; gzip_static always;') as port:
                origin = f"http://127.0.0.1:{port}"
                start = f"{origin}/index.html"
                yield Site(start, origin, frozenset(map(line, _census(folder, start))))
        return
    server = f'root "{folder.resolve()}"; index index.html;'
    with tempfile.TemporaryDirectory(prefix="bench-tls-") as home, nginx.bound(_TLS_HOST if tls else "127.0.0.1") as at:
        certificate, ca_file = _certificate(Path(home)) if tls else (None, None)
        with nginx.serve(at, server, certificate) as port:
            origin = f"https://{_TLS_HOST}:{port}" if tls else f"http://127.0.0.1:{port}"
            start = f"{origin}/index.html"
            yield Site(start, origin, frozenset(map(line, _census(folder, start))), ca_file=ca_file)


def _compress(folder: Path, home: Path) -> None:
    """Beside each page there is an empty file, because nginx looks for that first where a folder is asked for."""
    for path in folder.rglob("*.html"):
        to = home / path.relative_to(folder)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.touch()
        to.with_name(f"{to.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 6))


def _certificate(home: Path) -> tuple[Path, Path]:
    from tests.download import certificates

    for name, text in (("server.pem", certificates.SERVER), ("ca.pem", certificates.AUTHORITY)):
        (home / name).write_text(text, encoding="ascii")
    return home / "server.pem", home / "ca.pem"


def _census(folder: Path, start: str) -> Iterator[dict[str, Any]]:
    """An item for each page that links lead to from `start`, read from disk. What nginx redirects does not occur."""
    host = urlsplit(start).netloc
    known, waiting = {start}, [start]
    while waiting:
        url = waiting.pop()
        path = folder / urlsplit(url).path.lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        if path.suffix != ".html" or not path.is_file():
            continue
        tree = LexborHTMLParser(path.read_bytes())
        # References to the page itself (`#section`) are no links.
        written = {(node.attributes["href"] or "").strip() for node in tree.css("a[href]")}
        absolute = {urljoin(url, href).partition("#")[0] for href in written if not href.startswith("#")}
        links = {link for link in absolute if urlsplit(link).netloc == host}
        title = tree.css_first("title")
        yield {"url": url, "status": 200, "title": title.text().strip() if title else "", "links": len(links)}
        waiting += links - known
        known |= links


# -- many hosts -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hosts(count: int, pages: int) -> Iterator[Site]:
    """Hosts 127.1.X.Y on one port with `pages` pages of 2 to 4 KB each; `start` is a file of their front pages."""
    with tempfile.TemporaryDirectory(prefix="bench-hosts-") as home, nginx.bound("0.0.0.0") as listener:
        port = listener.getsockname()[1]
        names = [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(count)]
        front = [f"http://{name}:{port}/page-0.html" for name in names]
        items: list[str] = []
        for number, name in enumerate(names):
            # Three links a page lead to other hosts, the rest stay.
            elsewhere = Random(number).choices(front, k=3 * pages)
            items += _write_host(Path(home, "www", name), f"http://{name}:{port}", elsewhere, pages)
        starts = Path(home, "starts.txt")
        starts.write_text("\n".join(front), encoding="ascii")
        with nginx.serve(listener, f'root "{home}/www/$host";'):
            yield Site(str(starts), f"http://127.0.0.1:{port}", frozenset(items))


def _write_host(folder: Path, origin: str, elsewhere: list[str], pages: int) -> Iterator[str]:
    rng = Random(folder.name)
    folder.mkdir(parents=True)
    (folder / "robots.txt").write_text("User-agent: *\nDisallow: /private/\n", encoding="ascii")
    for number in range(pages):
        # The next one, so that all are reached; most others lead to where the crawl has been.
        links = ["page-0.html", f"page-{(number + 1) % pages}.html", f"/page-{(number - 1) % pages}.html"]
        links += [f"page-{rng.randrange(pages)}.html" for _ in range(14)]
        links += elsewhere[3 * number : 3 * number + 3]
        title = f"{_phrase(rng, 3)}, page {number} of {folder.name}"
        (folder / f"page-{number}.html").write_text(_page(title, links, rng), encoding="utf-8")
        url = f"{origin}/page-{number}.html"
        yield line({"url": url, "title": title, "links": len({urljoin(url, link) for link in links})})


def _page(title: str, links: Iterable[str], rng: Random, paragraphs: int = 4) -> str:
    anchors = "\n".join(f'<li><a href="{link}" class="item">{_phrase(rng, 2)}</a></li>' for link in links)
    text = "\n".join(f"<p>{_phrase(rng, rng.randint(20, 50))}.</p>" for _ in range(paragraphs))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title></head>\n<body>\n'
        f"<h1>{title}</h1>\n<ul>\n{anchors}\n</ul>\n{text}\n</body>\n</html>\n"
    )


def _phrase(rng: Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words)).capitalize()


# -- the shop -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def shop(books: int) -> Iterator[Site]:
    """The pages of the demo shop as files: lists and details, what the spider of the shop visits."""
    stock = Shop(books=books)
    pages = Pages(stock)
    paths = [path for path in pages.paths() if path.endswith(".html") and "/category/" not in path]
    with tempfile.TemporaryDirectory(prefix="bench-shop-") as home, nginx.bound() as listener:
        for path in paths:
            document, file = pages.get(path), Path(home, path.lstrip("/"))
            assert document is not None
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(document.body)
        with nginx.serve(listener, f'root "{home}"; charset utf-8;') as port:
            origin = f"http://127.0.0.1:{port}"
            items = frozenset(
                line(
                    {
                        "title": book.title,
                        "price": float(book.price),
                        "rating": book.rating,
                        "in_stock": book.availability,
                        "category": book.category,
                        "upc": book.upc,
                        "url": origin + book.path,
                    }
                )
                for book in stock.books
            )
            yield Site(f"{origin}/index.html", origin, items)


# -- numbered URLs --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_page(size: int = 2000) -> Iterator[Site]:
    """One HTML page of `size` bytes without links, at every `/p/NUMBER`."""
    rng = Random(5)
    body = (_page(_phrase(rng, 3), (), rng, 1) + f"<!-- {_phrase(rng, size)} -->").encode()[: size - 4] + b"-->\n"
    with tempfile.TemporaryDirectory(prefix="bench-page-") as home, nginx.bound() as listener:
        Path(home, "page.html").write_bytes(body)
        with nginx.serve(listener, f'root "{home}"; location /p/ {{ try_files /page.html =404; }}') as port:
            origin = f"http://127.0.0.1:{port}"
            yield Site(f"{origin}/p/", origin, bodies=(body,))


@contextlib.contextmanager
def files(size: int = 1_000_000) -> Iterator[Site]:
    """Ten files of `size` random bytes; `/f/NUMBER` answers with the one of its last digit."""
    bodies = tuple(Random(digit).randbytes(size) for digit in range(10))
    with tempfile.TemporaryDirectory(prefix="bench-files-") as home, nginx.bound() as listener:
        for digit, body in enumerate(bodies):
            Path(home, f"{digit}.bin").write_bytes(body)
        with nginx.serve(listener, f'root "{home}"; location ~ ^/f/\\d*(\\d)$ {{ try_files /$1.bin =404; }}') as port:
            origin = f"http://127.0.0.1:{port}"
            yield Site(f"{origin}/f/", origin, bodies=bodies)
