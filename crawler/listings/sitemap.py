"""Sitemaps (https://www.sitemaps.org/protocol.html) and their indexes, read as they come.

`SitemapReader` takes bytes and gives entries, plain dicts, a batch for each piece: nothing of a file is kept, so its
size does not show in memory. It is XML, or one URL a line; compressed or not, by its first bytes.

An entry has `loc`, and where the site says so `lastmod` (an aware datetime), `changefreq`, `priority` (a float),
`alternate` (a list of `hreflang` and `href`), and Google's extensions: `news` (a dict), `images` and `videos` (lists of
dicts). In these, names and nesting are the site's, without prefix; values are strings, but what is called a date is a
datetime where it can be read; what stands there several times is a list. A `lastmod` or `priority` that cannot be read
is left out.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, Final

from crawler.listings.dates import read_date
from crawler.listings.gunzip import MAGIC, PIECE_BYTES, Gunzip
from crawler.listings.xml import XmlError, XmlReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["MAX_BYTES", "MAX_URLS", "SitemapReader"]

MAX_URLS: Final = 50_000
MAX_BYTES: Final = 50 * 1024 * 1024
"""Uncompressed. Both are the protocol's own limits for one file."""

_NAMESPACES: Final = {
    "http://www.sitemaps.org/schemas/sitemap/0.9": "",
    "https://www.sitemaps.org/schemas/sitemap/0.9": "",
    "http://www.google.com/schemas/sitemap/0.84": "",
    "http://www.w3.org/1999/xhtml": "xhtml",
    "http://www.google.com/schemas/sitemap-news/0.9": "news",
    "http://www.google.com/schemas/sitemap-image/1.1": "image",
    "http://www.google.com/schemas/sitemap-video/1.1": "video",
}
_ENTRIES: Final = {"urlset": "url", "sitemapindex": "sitemap"}
_FIELDS: Final = frozenset({"loc", "lastmod", "changefreq", "priority"})
_EXTENSIONS: Final = {"news:news": "news", "image:image": "images", "video:video": "videos"}
_DEEPEST: Final = 6
"""Of what is kept; `news:name` in `news:publication` is the fifth."""
_ENTRY_CHARS: Final = 256 * 1024
"""Kept of one entry, with `_VALUE_CHARS` for each value, since it travels with its request."""
_VALUE_CHARS: Final = 50
_LONGEST_LINE: Final = 64 * 1024


class SitemapReader:
    """`feed` it what comes and iterate what that gives; at the end `close`.

    `charset` is that of the Content-Type header. It never raises: why reading ended early is in `problem`, and then
    `is_over` is true and what else comes is ignored.
    """

    def __init__(self, *, charset: str | None = None) -> None:
        self.problem = ""
        self.is_over = False
        self._charset = charset
        self._bytes = 0
        self._begin = b""
        self._gunzip: Gunzip | None = None
        self._document: _Document | _Lines | None = None

    @property
    def kind(self) -> str:
        """`"urlset"`, `"sitemapindex"`, `"text"`, or empty while that is not known."""
        return "" if self._document is None else self._document.kind

    def feed(self, data: bytes) -> Iterator[list[dict[str, Any]]]:
        """Some milliseconds of work for each batch, which may be empty."""
        data = self._begin + data
        if self._bytes == 0 and self._gunzip is None:
            self._begin = data if len(data) < len(MAGIC) else b""
            if self._begin:
                return
            self._gunzip = Gunzip() if data.startswith(MAGIC) else None
        try:
            for piece in _slices(data) if self._gunzip is None else self._gunzip.feed(data):
                if self.is_over:
                    return
                yield self._read(piece)
        except ValueError as error:  # of the compression
            self._end(str(error))

    def close(self) -> list[dict[str, Any]]:
        """What is left when nothing more comes."""
        if self.is_over:
            return []
        found = self._read(self._begin) if self._begin else []
        if self._gunzip is not None and not self._gunzip.complete:
            self._end("the compressed file was cut short")
        elif self._document is None:
            self._end("it is empty")
        elif not self.is_over:
            self._try(self._document.close)
            found += self._document.take()
        self.is_over = True
        return found

    def _read(self, piece: bytes) -> list[dict[str, Any]]:
        room = MAX_BYTES - self._bytes
        self._bytes += len(piece)
        if self._document is None:
            begin = piece.removeprefix(codecs.BOM_UTF8).lstrip()
            if begin:
                is_xml = begin[:1] in b"<\xff\xfe\x00"
                self._document = _Document(self._charset) if is_xml else _Lines()
        if self._document is not None:
            self._try(self._document.feed, piece[:room])
        if len(piece) > room:
            self._end(f"it has more than {MAX_BYTES // 1024 // 1024} MiB; the rest is ignored")
        return [] if self._document is None else self._document.take()

    def _try(self, read: Callable[..., None], *arguments: bytes) -> None:
        try:
            read(*arguments)
        except XmlError as error:
            self._end(f"it ends at {error}")
        except _Over as over:
            self._end(str(over))

    def _end(self, problem: str) -> None:
        self.problem = self.problem or problem
        self.is_over = True


class _Over(Exception):
    """Nothing more is read, for this reason."""


class _Document:
    """Sitemaps and indexes as XML: an `XmlHandler`."""

    def __init__(self, charset: str | None) -> None:
        self.kind = ""
        self._reader = XmlReader(self, _NAMESPACES, charset=charset)
        self.feed = self._reader.feed
        self.close = self._reader.close
        self._found: list[dict[str, Any]] = []
        self._count = 0
        self._depth = 0
        self._entry: dict[str, Any] | None = None
        self._open: list[dict[str, Any]] = []
        """The elements of an extension that the reader is in."""
        self._room = 0

    def take(self) -> list[dict[str, Any]]:
        found, self._found = self._found, []
        return found

    def start(self, name: str, attributes: Mapping[str, str], text: str) -> None:
        self._depth += 1
        if self._depth == 1:
            if name not in _ENTRIES:
                raise _Over("it is HTML" if name.lower() == "html" else f"<{name[:50]}> is no sitemap")
            self.kind = name
        elif self._depth == 2:
            if name == _ENTRIES[self.kind]:
                self._entry, self._room = {}, _ENTRY_CHARS
        elif self._entry is not None:
            if self._depth == 3:
                if name in _EXTENSIONS:
                    self._open.append({})
                elif name == "xhtml:link":
                    self._add_alternate(attributes)
            elif self._open and self._depth <= _DEEPEST:
                self._open.append({})

    def end(self, name: str, text: str) -> None:
        depth, entry = self._depth, self._entry
        self._depth -= 1
        if entry is None:
            return
        if depth == 2:
            self._entry = None
            self._add(entry)
        elif depth == 3:
            if self._open:
                self._add_extension(_EXTENSIONS[name], self._open.pop())
            elif name in _FIELDS and text:
                entry[name] = text.strip()
        elif self._open and depth <= _DEEPEST:
            children = self._open.pop()
            self._add_value(self._open[-1], name.rpartition(":")[2], children, text.strip())

    def _add(self, entry: dict[str, Any]) -> None:
        if not entry.get("loc"):
            return
        if self._count == MAX_URLS:
            raise _Over(f"it has more than {MAX_URLS} URLs; the rest is ignored")
        self._count += 1
        if "lastmod" in entry and (date := read_date(entry.pop("lastmod"))):
            entry["lastmod"] = date
        if "priority" in entry and (priority := _number(entry.pop("priority"))) is not None:
            entry["priority"] = priority
        self._found.append(entry)

    def _add_alternate(self, attributes: Mapping[str, str]) -> None:
        href, language = attributes.get("href", "").strip(), attributes.get("hreflang", "")
        if self._entry is not None and href and self._has_room(href + language):
            self._entry.setdefault("alternate", []).append({"hreflang": language, "href": href})

    def _add_extension(self, key: str, fields: dict[str, Any]) -> None:
        if self._entry is None or not fields:
            return
        if key == "news":
            self._entry[key] = fields
        else:
            self._entry.setdefault(key, []).append(fields)

    def _add_value(self, parent: dict[str, Any], name: str, children: dict[str, Any], text: str) -> None:
        if not (children or text) or not self._has_room(name + text):
            return
        value: Any = children or (name.endswith("_date") and read_date(text)) or text
        known = parent.get(name)
        if known is None:
            parent[name] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            parent[name] = [known, value]

    def _has_room(self, text: str) -> bool:
        self._room -= len(text) + _VALUE_CHARS
        return self._room >= 0


class _Lines:
    """One URL a line, in UTF-8."""

    kind = "text"

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._found: list[dict[str, Any]] = []
        self._count = 0

    def take(self) -> list[dict[str, Any]]:
        found, self._found = self._found, []
        return found

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + self._decoder.decode(data)).replace("\r", "\n").split("\n")
        self._rest = rest[: _LONGEST_LINE + 1]
        for line in lines:
            self._add(line)

    def close(self) -> None:
        self._add(self._rest + self._decoder.decode(b"", True))
        if not self._count:
            raise _Over("it is neither XML nor a list of URLs")

    def _add(self, line: str) -> None:
        line = line.strip()
        if len(line) > _LONGEST_LINE or not line[:8].lower().startswith(("http://", "https://")):
            return
        if self._count == MAX_URLS:
            raise _Over(f"it has more than {MAX_URLS} URLs; the rest is ignored")
        self._count += 1
        self._found.append({"loc": line})


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0.0 <= number <= 1.0 else None


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES))
