"""Feeds: RSS 0.9x, 1.0 (RDF) and 2.0, and Atom 1.0 (RFC 4287; its forerunner 0.3 where the words are the same).

One vocabulary for all of them: what a feed calls `pubDate`, `dc:date` or `published` is `published` here. URLs are
absolute, resolved as XML Base has it against `xml:base` and the feed's own URL; dates are aware, or None where they
cannot be read. Nothing that an entry says can stop the others from being read.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - items are typed for who reads them
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Final

from crawler import url as urls
from crawler.listings.dates import read_date
from crawler.listings.xml import XmlError, XmlReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Enclosure", "Feed", "FeedEntry", "FeedReader"]

MAX_ENTRIES: Final = 50_000
_MAX_TEXT: Final = 1024 * 1024
_MAX_VALUES: Final = 1000
"""Of one entry."""
_PIECE_BYTES: Final = 64 * 1024

_ATOM: Final = "http://www.w3.org/2005/Atom"
_NAMESPACES: Final = {
    _ATOM: "atom",
    "http://purl.org/atom/ns#": "atom",
    "http://purl.org/rss/1.0/": "",
    "http://my.netscape.com/rdf/simple/0.9/": "",
    "http://channel.netscape.com/rdf/simple/0.9/": "",
    "http://backend.userland.com/rss2": "",
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#": "rdf",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://purl.org/dc/terms/": "dcterms",
    "http://purl.org/rss/1.0/modules/content/": "content",
    "http://search.yahoo.com/mrss/": "media",
    "http://www.itunes.com/dtds/podcast-1.0.dtd": "itunes",
    "http://www.w3.org/1999/xhtml": "xhtml",
}
_ROOTS: Final = {"rss": "rss", "rdf:RDF": "rdf", "RDF": "rdf", "atom:feed": "atom", "feed": "atom"}
_ENTRIES: Final = frozenset({"item", "atom:entry"})
_WITH_PARTS: Final = frozenset(
    {"atom:author", "atom:contributor", "atom:source", "atom:generator", "image", "textInput", "textinput"}
)
_TEXTS: Final = frozenset({f"atom:{name}" for name in ("title", "subtitle", "summary", "content", "rights", "tagline")})
"""RFC 4287, section 3.1: those that may be XHTML."""
_VOID: Final = frozenset({"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})

_TITLE: Final = ("title", "atom:title", "dc:title", "media:title")
_ID: Final = ("atom:id", "guid", "dc:identifier", "rdf:about")
_PUBLISHED: Final = ("pubDate", "atom:published", "atom:issued", "dc:date", "dcterms:created", "dcterms:issued")
_UPDATED: Final = ("atom:updated", "atom:modified", "dcterms:modified", "lastBuildDate")
_AUTHORS: Final = ("atom:name", "atom:author", "author", "dc:creator", "managingEditor", "itunes:author", "atom:email")
_SUMMARY: Final = ("atom:summary", "description", "atom:subtitle", "atom:tagline", "dc:description", "itunes:summary")
_CONTENT: Final = ("atom:content", "content:encoded", "xhtml:body")
_CATEGORIES: Final = ("category", "atom:category", "dc:subject")
_LANGUAGE: Final = ("language", "dc:language", "xml:lang")
_TOLD: Final = frozenset(
    {*_TITLE, *_ID, *_PUBLISHED, *_UPDATED, *_AUTHORS, *_SUMMARY, *_CONTENT, *_CATEGORIES, *_LANGUAGE}
    | {"link", "comments", "isPermaLink"}
)


@dataclass(frozen=True, slots=True)
class Enclosure:
    """A file that belongs to an entry: RSS's `enclosure`, Atom's link of that kind, or `media:content`."""

    url: str
    type: str = ""
    length: int | None = None
    """In bytes, as the feed has it."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What a feed says of itself. Texts that it does not have are empty."""

    format: str = ""
    """`"rss"`, `"rdf"` or `"atom"`, and the version where one is given: `"rss 2.0"`."""
    title: str = ""
    url: str = ""
    """Of the site that it is about."""
    id: str = ""
    description: str = ""
    language: str = ""
    author: str = ""
    published: dt.datetime | None = None
    updated: dt.datetime | None = None
    categories: tuple[str, ...] = ()
    image: str = ""


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One entry. Texts that it does not have are empty; `summary` and `content` are mark-up where the feed has that."""

    id: str = ""
    """As the feed has it, else `url`."""
    title: str = ""
    url: str = ""
    """Of the page it is about."""
    published: dt.datetime | None = None
    updated: dt.datetime | None = None
    author: str = ""
    summary: str = ""
    content: str = ""
    categories: tuple[str, ...] = ()
    enclosures: tuple[Enclosure, ...] = ()
    comments: str = ""
    """URL of a page of comments."""
    language: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    """The texts of all other elements, by their names with the usual prefix: `itunes:duration`, `dc:rights`."""


class FeedReader:
    """Reads a feed that came from `url`: iterate `read(body)`, then ask for `entries` and `feed`.

    `charset` is that of the Content-Type header. It never raises: why reading ended early is in `problem`. `is_feed` is
    false where the document is something else.
    """

    def __init__(self, url: str, *, charset: str | None = None) -> None:
        self.problem = ""
        self.is_feed = False
        self.entries: list[FeedEntry] = []
        self._reader = XmlReader(self, _NAMESPACES, charset=charset, max_text=_MAX_TEXT)
        self._format = ""
        self._feed = _Found()
        self._entry: _Found | None = None
        self._entry_depth = 0
        self._depth = 0
        self._bases = [(0, url)]
        """Where `xml:base` changed what references mean: depth, and the base inside."""
        self._inside: list[str] = []
        """Elements of an element with parts, such as an author: the outermost first."""
        self._markup: _Markup | None = None

    @property
    def feed(self) -> Feed:
        """As far as it was read."""
        return self._feed.as_feed(self._format)

    def read(self, body: bytes) -> Iterator[None]:
        """Some milliseconds of work for each step."""
        try:
            for start in range(0, len(body), _PIECE_BYTES):
                self._reader.feed(body[start : start + _PIECE_BYTES])
                yield
            self._reader.close()
        except XmlError as error:
            self.problem = f"it ends at {error}"
        except _Over as over:
            self.problem = str(over)

    # -- an XmlHandler -----------------------------------------------------------------------------------------------

    def start(self, name: str, attributes: Mapping[str, str], text: str) -> None:
        self._depth += 1
        if self._markup is not None:
            self._markup.start(name, attributes, text)
            return
        if attributes and (base := attributes.get("xml:base")):
            self._bases.append((self._depth, self._absolute(base) or self._bases[-1][1]))
        if self._depth == 1:
            self._begin(name, attributes)
            return
        if name == "entry" and self._format.startswith("atom"):
            name = "atom:entry"
        if name in _ENTRIES and self._entry is None:
            self._entry, self._entry_depth = _Found(), self._depth
            self._inside.clear()
            self._entry.note("rdf:about", attributes.get("rdf:about", ""))
            self._entry.note("xml:lang", attributes.get("xml:lang", ""))
            return
        name = self._atomic(name)
        if attributes and self._is_told(name, self._depth):
            self._take_attributes(name, attributes)
        if name in _TEXTS and attributes.get("type") in ("xhtml", "application/xhtml+xml"):
            self._markup = _Markup(self._depth)
        elif self._inside or name in _WITH_PARTS:
            self._inside.append(name)

    def end(self, name: str, text: str) -> None:
        depth = self._depth
        self._depth -= 1
        name = self._atomic(name)
        if self._markup is not None:
            if depth > self._markup.depth:
                self._markup.end(name, text)
                return
            text, self._markup = self._markup.text(text), None
        if self._entry is not None and depth == self._entry_depth:
            self._finish(self._entry)
        elif self._inside:
            self._end_inside(self._inside.pop(), text.strip())
        elif self._is_told(name, depth):
            self._take_text(name, text.strip())
        if self._bases[-1][0] == depth:
            self._bases.pop()

    def _begin(self, name: str, attributes: Mapping[str, str]) -> None:
        kind = _ROOTS.get(name)
        if kind is None:
            raise _Over("it is HTML" if name.lower().endswith("html") else f"<{name[:50]}> is no feed")
        self.is_feed = True
        version = attributes.get("version", "1.0" if kind == "atom" else "")[:10]
        self._format = f"{kind} {version}".strip()
        self._found.note("xml:lang", attributes.get("xml:lang", ""))

    def _finish(self, entry: _Found) -> None:
        self._entry = None
        self._inside.clear()
        if len(self.entries) == MAX_ENTRIES:
            raise _Over(f"it has more than {MAX_ENTRIES} entries; the rest is ignored")
        self.entries.append(entry.as_entry())

    # -- elements to values ------------------------------------------------------------------------------------------

    @property
    def _found(self) -> _Found:
        return self._feed if self._entry is None else self._entry

    def _is_told(self, name: str, depth: int) -> bool:
        """Whether this is said of the entry, or of the feed, and not of something that has parts of its own."""
        outside = self._entry_depth if self._entry is not None else 1 if self._format.startswith("atom") else 2
        return (depth == outside + 1 and not self._inside) or name.startswith("media:")

    def _atomic(self, name: str) -> str:
        """Atom that does not declare its namespace is read as if it did."""
        return f"atom:{name}" if ":" not in name and self._format.startswith("atom") else name

    def _absolute(self, reference: str) -> str:
        return urls.join(self._bases[-1][1], reference) or ""

    def _take_attributes(self, name: str, attributes: Mapping[str, str]) -> None:
        found = self._found
        if name == "atom:link":
            relation = attributes.get("rel", "alternate")
            address = self._absolute(attributes.get("href", ""))
            if relation == "enclosure":
                found.add_file(address, attributes)
            elif relation == "alternate" and not found.is_page:
                is_page = "html" in attributes.get("type", "html")
                found.url = address if is_page or not found.url else found.url
                found.is_page = is_page
        elif name in ("enclosure", "media:content") and self._entry is not None:
            found.add_file(self._absolute(attributes.get("url", "")), attributes)
        elif name == "atom:category":
            found.note(name, attributes.get("term", ""))
        elif name == "guid":
            found.note("isPermaLink", attributes.get("isPermaLink", "true"))
        elif name == "itunes:image":
            found.image = found.image or self._absolute(attributes.get("href", ""))
        if found is self._entry and (language := attributes.get("xml:lang")):
            found.note("xml:lang", language)

    def _take_text(self, name: str, text: str) -> None:
        if not text:
            return
        found = self._found
        if name == "link":
            found.url = found.url or self._absolute(text)
        elif name == "comments":
            found.comments = found.comments or self._absolute(text)
        elif name in ("atom:icon", "atom:logo"):
            found.image = self._absolute(text)
        else:
            found.note(name, text)
            if name == "guid" and found.first("isPermaLink") in ("", "true"):
                found.guid_url = self._absolute(text) if "://" in text[:20] else ""

    def _end_inside(self, name: str, text: str) -> None:
        """The end of something with parts, or of one of its parts."""
        outer = self._inside[0] if self._inside else name
        if not text:
            return
        if outer == "atom:author" and name in ("atom:name", "atom:email", outer):
            self._found.note(name, text)
        elif outer == "image" and name == "url":
            self._found.image = self._found.image or self._absolute(text)


class _Over(Exception):
    """Nothing more is read, for this reason."""


class _Found:
    """What was read of an entry, or of the feed itself."""

    __slots__ = ("comments", "files", "guid_url", "image", "is_page", "notes", "room", "url")

    def __init__(self) -> None:
        self.notes: dict[str, list[str]] = {}
        self.files: list[Enclosure] = []
        self.url = self.guid_url = self.comments = self.image = ""
        self.is_page = False
        self.room = _MAX_VALUES

    def note(self, name: str, text: str) -> None:
        if text and self.room:
            self.room -= 1
            self.notes.setdefault(name, []).append(text)

    def add_file(self, url: str, attributes: Mapping[str, str]) -> None:
        if url and self.room:
            self.room -= 1
            length = attributes.get("length") or attributes.get("fileSize") or ""
            known = int(length) if length.isdecimal() and len(length) < 19 else None
            self.files.append(Enclosure(url, attributes.get("type", ""), known))

    def first(self, *names: str) -> str:
        return next((self.notes[name][0] for name in names if name in self.notes), "")

    def all(self, *names: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for name in names for text in self.notes.get(name, ())))

    def date(self, *names: str) -> dt.datetime | None:
        dates = (read_date(text) for name in names for text in self.notes.get(name, ()))
        return next((date for date in dates if date is not None), None)

    def _common(self) -> dict[str, Any]:
        return {
            "title": self.first(*_TITLE),
            "published": self.date(*_PUBLISHED),
            "updated": self.date(*_UPDATED),
            "author": self.first(*_AUTHORS),
            "categories": self.all(*_CATEGORIES),
            "language": self.first(*_LANGUAGE),
        }

    def as_entry(self) -> FeedEntry:
        url = self.url or self.guid_url
        return FeedEntry(
            **self._common(),
            id=self.first(*_ID) or url,
            url=url,
            summary=self.first(*_SUMMARY),
            content=self.first(*_CONTENT),
            enclosures=tuple(dict.fromkeys(self.files)),
            comments=self.comments,
            fields={name: texts[0] for name, texts in self.notes.items() if name not in _TOLD},
        )

    def as_feed(self, format: str) -> Feed:
        return Feed(
            **self._common(),
            format=format,
            url=self.url,
            id=self.first(*_ID),
            description=self.first(*_SUMMARY),
            image=self.image,
        )


class _Markup:
    """XHTML in Atom, written down again as HTML; the `<div>` around it is none of it (RFC 4287, section 3.1.1.3)."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        """Of the element that holds it."""
        self._parts: list[str] = []
        self._open = 0
        self._room = _MAX_TEXT

    def start(self, name: str, attributes: Mapping[str, str], text: str) -> None:
        self._add(escape(text, quote=False))
        self._open += 1
        if self._open > 1:
            given = "".join(
                f' {key}="{escape(value)}"' for key, value in attributes.items() if not key.startswith("xmlns")
            )
            self._add(f"<{_local(name)}{given}>")

    def end(self, name: str, text: str) -> None:
        self._add(escape(text, quote=False))
        if self._open > 1 and _local(name) not in _VOID:
            self._add(f"</{_local(name)}>")
        self._open -= 1

    def text(self, rest: str) -> str:
        self._add(escape(rest, quote=False))
        return "".join(self._parts)

    def _add(self, part: str) -> None:
        self._room -= len(part)
        if part and self._room >= 0:
            self._parts.append(part)


def _local(name: str) -> str:
    return name.rpartition(":")[2]
