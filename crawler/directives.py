"""What a page asks of crawlers: `X-Robots-Tag` and `<meta name="robots">`.

No RFC has it. The syntax is that of Google's "Robots meta tag, data-nosnippet, and X-Robots-Tag specifications", which
Bing shares: rules between commas, in any case, some of them with a value behind a colon (`max-snippet:20`). In the
header a crawler's name may stand before them, and holds for the rest of the field; in a page the `<meta>` is called
`robots` or as the crawler is. Rules for everyone and rules for us add up. Unknown ones are ignored.

What servers send is taken, too: blanks or semicolons for commas, and a date's own comma.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from selectolax.lexbor import LexborHTMLParser

__all__ = ["Directives", "Reader", "may_be_in", "metas", "read"]

_NO_WORDS: frozenset[str] = frozenset()
_WORDS = frozenset(
    {
        *("noindex", "nofollow", "noarchive", "nocache", "nosnippet", "noimageindex", "notranslate", "indexifembedded"),
        *("nositelinkssearchbox", "noodp", "noydir", "noai", "noimageai"),
    }
)
_EXPIRY = "unavailable_after"
_PREVIEWS = ("none", "standard", "large")
"""Values of `max-image-preview`, the strictest first."""
_NAMES = _WORDS | {_EXPIRY, "all", "none", "index", "follow"}
"""What stands before a colon without being a crawler's name; so does whatever begins with `max-`."""
_SEPARATORS = re.compile(r"[\s;]+")
_AGENT = re.compile(r"[\w*./-]*")
_WEEKDAY = re.compile(rf"{_EXPIRY}\s*:\s*(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{{0,6}}\s*\Z", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,9}")
_LONGEST = 4096
"""Characters that are read of one field or `content`: a page can make it as long as itself."""
_LONGEST_CACHED = 512
_LONGEST_DATE = 64
_MOST_METAS = 50
_SEARCHED = 1 << 16
"""Bytes of a page in which the elements are looked for: what stands behind is no head."""


class Directives(msgspec.Struct, frozen=True):
    """What a page asks of us.

    `words` are the known rules without a value that apply, in lower case; `none` stands there as `noindex` and
    `nofollow`, and what allows everything (`all`, `index`, `follow`) does not. Of several values the strictest counts.
    """

    words: frozenset[str] = _NO_WORDS
    unavailable_after: dt.datetime | None = None
    """The page is not to be shown after this; aware. When it has passed, `noindex` is among the words."""
    max_snippet: int | None = None
    """Characters; None: no limit."""
    max_image_preview: str | None = None
    """`"none"`, `"standard"` or `"large"`; None: not said."""
    max_video_preview: int | None = None
    """Seconds; None: no limit."""

    @property
    def noindex(self) -> bool:
        """Not to be shown in search results."""
        return "noindex" in self.words

    @property
    def nofollow(self) -> bool:
        """The links of the page are not to be followed."""
        return "nofollow" in self.words

    @property
    def noarchive(self) -> bool:
        """No copy is to be shown."""
        return "noarchive" in self.words

    @property
    def nosnippet(self) -> bool:
        """No part of the text is to be shown."""
        return "nosnippet" in self.words

    @property
    def noimageindex(self) -> bool:
        """Images of the page are not to be indexed."""
        return "noimageindex" in self.words

    @property
    def notranslate(self) -> bool:
        """No translation is to be offered."""
        return "notranslate" in self.words


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a page: the crawl's product token (`crawler.robots.product_token`), whether it keeps to `nofollow` at a
    host (`"name:port"`), and its clock, in Unix time. By default somebody without a name who keeps to nothing."""

    token: str = ""
    obeys_nofollow: Callable[[str], bool] = lambda host: False
    now: Callable[[], float | None] = lambda: None


def read(
    fields: Iterable[str], metas: Iterable[tuple[str, str]] = (), *, token: str = "", now: float | None = None
) -> Directives:
    """What the `X-Robots-Tag` fields, in order, and the `<meta>` elements, as name and content, ask of the crawler with
    this product token. `now` (Unix time) is what `unavailable_after` is compared with; None: with nothing. Never
    raises."""
    fields = tuple(field[:_LONGEST] for field in fields)
    said = tuple(content[:_LONGEST] for name, content in metas if name.strip().lower() in _names(token))
    if not (fields or said):
        return _NOTHING
    is_short = sum(map(len, fields + said)) <= _LONGEST_CACHED
    found = (_read if is_short else _read.__wrapped__)(fields, said, token.lower())
    if now is not None and found.unavailable_after is not None and found.unavailable_after.timestamp() <= now:
        return msgspec.structs.replace(found, words=found.words | {"noindex"})
    return found


def _names(token: str) -> tuple[str, str]:
    """Of elements that are for us."""
    return "robots", token.lower() or "robots"


@lru_cache(maxsize=256)
def _read(fields: tuple[str, ...], said: tuple[str, ...], token: str) -> Directives:
    """The pages of a site mostly say the same."""
    rules = [rule for field in fields for rule in _addressed(field, token)]
    rules += [rule for content in said for rule in _pieces(content)]
    return _combined([pair for rule in rules for pair in _pairs(rule)])


# -- where it stands -------------------------------------------------------------------------------------------------


def may_be_in(body: bytes, token: str) -> bool:
    """Whether it is worth looking for elements in this body: a search for their names where a head is, which costs a
    microsecond for each KiB of it."""
    if b"\0" in body[:64]:  # UTF-16: its letters are others
        return True
    end = body.find(b"<body", 0, _SEARCHED)
    head = body[: end if end >= 0 else _SEARCHED].lower()
    if end < 0:
        head = head.partition(b"<body")[0]
    return b"robots" in head or (token != "" and token.lower().encode() in head)


def metas(tree: LexborHTMLParser, token: str) -> list[tuple[str, str]]:
    """Name and content of the elements for everyone or us: of the head, or where that has none, of all the page,
    because an element that no head may hold ends it early."""
    wanted = _names(token)
    for part in (tree.head, tree):
        nodes = () if part is None else part.css("meta[name][content]")
        pairs = ((node.attrs["name"] or "", node.attrs["content"] or "") for node in nodes)
        found = [pair for pair in pairs if pair[0].strip().lower() in wanted]
        if found:
            return found[:_MOST_METAS]
    return []


# -- rules -----------------------------------------------------------------------------------------------------------


def _addressed(field: str, token: str) -> Iterator[str]:
    """The rules of a header field that are for everyone or for us."""
    ours = True
    for piece in _pieces(field):
        rule = piece
        name, colon, rest = piece.partition(":")
        name = name.strip().lower()
        if colon and name not in _NAMES and not name.startswith("max-") and _AGENT.fullmatch(name):
            ours = name in ("", "*") or name.partition("/")[0] == token != ""
            rule = rest
        if ours:
            yield rule


def _pieces(text: str) -> Iterator[str]:
    """What stands between commas; the one behind a weekday is the date's own."""
    pieces = iter(text.split(","))
    for piece in pieces:
        yield f"{piece},{next(pieces, '')}" if _WEEKDAY.search(piece) else piece


def _pairs(rule: str) -> Iterator[tuple[str, str]]:
    """Rules and their values, in lower case; where blanks stand for commas, more than one."""
    left = rule.strip().lower()
    while left:
        before, colon, rest = left.partition(":")
        *plain, last = _SEPARATORS.split(before.strip())
        for word in plain:
            yield word, ""
        if not colon:
            yield last, ""
            return
        if last == _EXPIRY:
            yield last, rest.strip()
            return
        value, *others = _SEPARATORS.split(rest.strip(), maxsplit=1)
        yield last, value
        left = "".join(others)


def _combined(pairs: list[tuple[str, str]]) -> Directives:
    words = {name for name, value in pairs if not value and name in _WORDS}
    if ("none", "") in pairs:
        words |= {"noindex", "nofollow"}
    dates = [date for name, value in pairs if name == _EXPIRY and (date := _date(value)) is not None]
    previews = {value for name, value in pairs if name == "max-image-preview"}
    return Directives(
        frozenset(words),
        min(dates, default=None),
        _least(pairs, "max-snippet"),
        next((preview for preview in _PREVIEWS if preview in previews), None),
        _least(pairs, "max-video-preview"),
    )


def _least(pairs: list[tuple[str, str]], name: str) -> int | None:
    """Of several limits; -1 is none."""
    return min((int(value) for key, value in pairs if key == name and _NUMBER.fullmatch(value)), default=None)


def _date(text: str) -> dt.datetime | None:
    """RFC 822, RFC 850 or ISO 8601, as Google's documentation names them; UTC where no zone is given."""
    text = text[:_LONGEST_DATE].strip().upper()
    for parse in (dt.datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            date = parse(text)
            date = date if date.tzinfo is not None else date.replace(tzinfo=dt.UTC)
            date.timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
        return date
    return None


_NOTHING = Directives()
