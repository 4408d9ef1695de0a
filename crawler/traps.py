"""Traps: parts of a site that grow without end and bring nothing new.

A URL's pattern is its host, its path with what varies taken out (`/calendar/#/#`), and the names of its parameters.
Three kinds are watched, and no others:

    session   a session id in the URL (`?PHPSESSID=…`, `;jsessionid=…`): the same pages under ever new addresses.
              Nothing new: the body, without session ids, was there before under this pattern.
    token     another long token of letters and digits. Nothing new: the body without such tokens was there before, and
              the page gave neither items nor new links beyond its pattern.
    calendar  a date, or a word of a calendar beside a number. Nothing new: the body without digits and tokens was there
              before, and the page gave neither items nor new links but to other dates.

A page counts only if it also gave a new URL of its own pattern, which is what makes a trap; anything that is new sets
the count back to zero. Other numbered pages (`/page/17`) are left alone however much alike they are: a thousand of
those are an honest site, or somebody's test, as often as not, and `crawl.pages_per_host` is there for the rest.

This costs an ordinary page one search in its URL. Bodies are looked at when there were 200 pages of a pattern, and then
one in eight; each of those speaks for the eight. So what is new on few pages and gives no item may be overlooked, but
not for a thousand pages in a row.
"""

from __future__ import annotations

import enum
import hashlib
import re
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from crawler import url as urls

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Closed", "Kind", "Pattern", "Traps", "Watch", "pattern_of"]

_FROM: Final = 200
_EVERY: Final = 8
_PATTERNS: Final = 2_000
_BODIES: Final = 512
"""Remembered of one pattern: 4 KB. A site with more pages than that under one pattern is never a trap."""
_CLOSED: Final = 10_000
_LARGEST: Final = 256 * 1024
"""A longer body counts as new: comparing it takes longer than fetching the next."""


class Kind(enum.Enum):
    SESSIONS = "session ids"
    TOKENS = "tokens"
    CALENDAR = "a calendar"


class Pattern(NamedTuple):
    text: str
    """`"example.com:443/calendar/#/#?view"`."""
    kind: Kind

    @property
    def host(self) -> str:
        return self.text.partition("/")[0]


class Closed(msgspec.Struct, frozen=True, array_like=True):
    """A pattern that was recognised as a trap."""

    pattern: str
    kind: str
    pages: int
    """Seen of it until then."""


# -- patterns ----------------------------------------------------------------------------------------------------------

_ANY_NUMBER, _ANY_TOKEN = "#", "{}"  # neither is in a normalised path
_SESSION_NAMES: Final = frozenset(
    {"phpsessid", "jsessionid", "sessionid", "session_id", "session-id", "sessid", "sess_id", "sid", "oscsid", "zenid"}
    | {"xtcsid", "cfid", "cftoken", "sesskey", "phpsession", "asp.net_sessionid", "aspsessionid"}
)
_WORDS: Final = (
    r"calend[ae]r|calendrier|kalender|calendario|agenda|ical|cal|events?|dates?|day|week|month|year|schedule"
)
_DATE: Final = r"(?:19|20|21)\d\d(?:(?:[-/_.]|%2F)W?\d{1,2}(?!\d)|[01]\d[0-3]\d(?!\d))"
_TOKENS: Final = r"[A-Za-z0-9_]{16,}+|[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"
_CLASSES: Final = (
    bytes(
        ord("0") if chr(code) in "0123456789" else ord("a") if chr(code).isalpha() or chr(code) == "_" else ord(" ")
        for code in range(128)
    )
    + b" " * 128
)
_DIGIT_IS_LETTER: Final = bytes.maketrans(b"0", b"a")
_DATED: Final = re.compile(rf"(?<!\d){_DATE}")
_WORDED: Final = re.compile(rf"(?i)(?<![a-z])(?:{_WORDS})(?![a-z])")
_VARYING: Final = re.compile(rf"{_TOKENS}|\d++")
_PATH_SESSION: Final = re.compile(r"(?i)(;(?:jsessionid|sid|phpsessid))=[^/;?]*+|/\(S\([a-z0-9]{8,64}\)\)")


def _may_have_one(rest: str) -> bool:
    """Rules out nearly all URLs, in a microsecond: by calls into C, since a regular expression takes ten."""
    plain = rest.encode().translate(_CLASSES)
    classes = plain.decode("ascii")  # `in` takes ten times as long on bytes
    if "0" not in classes:
        return False  # nothing is numbered, and a session id without a digit is rare
    if "0000 0" in classes or "00000000" in classes or "0000 a0" in classes:  # 2024-05, 20240517, 2024-W20
        return True
    merged = plain.translate(_DIGIT_IS_LETTER).decode("ascii")
    if "aaaaaaaaaaaaaaaa" in merged or "aaaaaaaa aaaa aaaa" in merged:
        return True
    low = rest.lower()
    if ("?" in low or ";" in low or "(" in low) and (
        "sess" in low or "sid" in low or "cf" in low or "(s(" in low or "m=" in low
    ):
        return True
    return (
        "da" in low or "cal" in low or "alend" in low or "event" in low  # date, day, agenda, calendar
        or "week" in low or "month" in low or "year" in low or "sched" in low
    )  # fmt: skip


def pattern_of(url: str) -> Pattern | None:
    """The pattern of a normalised URL, if it is of a kind that is watched."""
    host_ends = url.find("/", 8)
    if host_ends < 0 or not _may_have_one(url[host_ends:]):
        return None
    path, _, query = url[host_ends:].partition("?")
    plain, sessions = _PATH_SESSION.subn(r"\1", path) if ";" in path or "(" in path else (path, 0)
    varying: list[str] = []
    names: set[str] = set()
    for piece in query.split("&") if query else ():
        name, _, value = piece.partition("=")
        names.add(name)
        if name.lower() in _SESSION_NAMES:
            sessions += 1
        else:
            varying.append(value)
    shape = _VARYING.sub(_placeholder, plain)
    kind = _kind(plain, shape, names, varying) or (Kind.SESSIONS if sessions else None)
    if kind is None:
        return None
    tail = f"?{'&'.join(sorted(names))}" if names else ""
    return Pattern(f"{urls.host_key(url)}{shape}{tail}", kind)


def _kind(path: str, shape: str, names: set[str], values: list[str]) -> Kind | None:
    has_number = _ANY_NUMBER in shape or any(value[-1:].isdigit() for value in values)
    if has_number and (
        _DATED.search(path)
        or _WORDED.search(path)
        or any(map(_WORDED.search, names))
        or any(map(_DATED.search, values))
        or ("m" in names and "y" in names)
    ):
        return Kind.CALENDAR
    if _ANY_TOKEN in shape or any(_is_token(found[0]) for each in values for found in _VARYING.finditer(each)):
        return Kind.TOKENS
    return None


def _placeholder(found: re.Match[str]) -> str:
    text = found[0]
    return _ANY_TOKEN if _is_token(text) else _NUMBER.sub(_ANY_NUMBER, text)


def _is_token(text: str) -> bool:
    """Letters and digits mixed: no word, and no number."""
    if len(text) < 16 or text.isdigit():
        return False
    digits = sum(map(str.isdigit, text))
    return digits >= 2 or (digits == 1 and not text.islower() and not text.isupper())


_NUMBER: Final = re.compile(r"\d++")

# -- bodies ------------------------------------------------------------------------------------------------------------

_BODY_SESSION: Final = re.compile(
    rb"(?i)(phpsessid|jsessionid|session_?id|sess_?id|sid|zenid|xtcsid|cfid|cftoken|sesskey|phpsession)"
    rb"=[^&;\"'<>\s#/?]{1,256}+|/\(S\([a-z0-9]{8,64}\)\)"
)
_BODY_TOKENS: Final = re.compile(_TOKENS.encode())
_DIGITS: Final = b"0123456789"


def _without_token(found: re.Match[bytes]) -> bytes:
    text = found[0]
    return text if text.isalpha() or text.isdigit() else b""


def _digest(body: bytes, pattern: Pattern, url: str) -> int | None:
    """64 bits of what is left of a body without what varies by itself; None: it is too long to be looked at."""
    from hashlib import blake2b  # loads OpenSSL

    if len(body) > _LARGEST:
        return None
    for name, _, value in (piece.partition("=") for piece in url.partition("?")[2].split("&")):
        if name.lower() in _SESSION_NAMES and len(value) >= 6:  # wherever else the page has it
            body = body.replace(value.encode(), b"")
    body = _BODY_SESSION.sub(b"", body)
    if pattern.kind is not Kind.SESSIONS:
        body = _BODY_TOKENS.sub(_without_token, body)
    if pattern.kind is Kind.CALENDAR:
        body = body.translate(None, _DIGITS)
    return int.from_bytes(blake2b(body, digest_size=8).digest(), "big")


# -- recognising -------------------------------------------------------------------------------------------------------


class _Growth:
    """One pattern, as it is watched."""

    __slots__ = ("bodies", "pages", "place", "run")

    def __init__(self) -> None:
        self.pages = 0
        self.run = 0
        """Pages in a row that brought nothing new."""
        self.bodies: array[int] = array("Q")
        self.place = 0
        """Of the oldest of `bodies`, when they are many enough."""

    def is_repeat(self, digest: int) -> bool:
        if digest in self.bodies:
            return True
        if len(self.bodies) < _BODIES:
            self.bodies.append(digest)
        else:
            self.bodies[self.place] = digest
            self.place = (self.place + 1) % _BODIES
        return False


class Watch:
    """One page of a pattern that is watched, while its callback runs."""

    __slots__ = ("digest", "grew", "is_sample", "pattern", "spread")

    def __init__(self, pattern: Pattern, *, is_sample: bool, digest: int | None) -> None:
        self.pattern = pattern
        self.is_sample = is_sample
        self.digest = digest
        self.grew = False
        """It gave a new URL of its own pattern."""
        self.spread = False
        """It gave another new one: for a calendar, one without a date."""

    def gave(self, url: str) -> None:
        """A new URL, on its way to the queue."""
        if self.grew and self.spread:
            return
        other = pattern_of(url)
        if other == self.pattern:
            self.grew = True
        elif other is None or self.pattern.kind is not Kind.CALENDAR or other.kind is not Kind.CALENDAR:
            self.spread = True


class Traps:
    """Recognises traps after `pages` pages in a row that brought nothing new; 0: never. `known` are the rows of earlier
    runs."""

    def __init__(self, pages: int, known: Iterable[bytes] = ()) -> None:
        self._limit = pages
        self._from = min(_FROM, pages)
        self._every = max(1, min(_EVERY, pages // 100))  # fewer pages, fewer samples: then each is looked at
        self._growing: dict[Pattern, _Growth] = {}
        self.closed: set[Pattern] = set()
        self._hosts: set[str] = set()
        self.learn(known)
        self._rows: dict[str, bytes | None] = {}

    def learn(self, rows: Iterable[bytes]) -> None:
        """What an earlier run closed, or another worker. Nothing is closed where that is switched off."""
        if not self._limit:
            return
        for row in map(_CLOSED_ROW.decode, rows):
            pattern = Pattern(row.pattern, Kind(row.kind))
            self.closed.add(pattern)
            self._hosts.add(pattern.host)
            self._growing.pop(pattern, None)

    def is_closed(self, url: str) -> bool:
        """Whether this URL is in a trap that was recognised."""
        if urls.host_key(url) not in self._hosts:
            return False
        return pattern_of(url) in self.closed

    def look(self, url: str, body: bytes) -> Watch | None:
        """At a page before its callback runs; give what comes back to `settle`, with what the callback gave. None:
        there is nothing to watch."""
        if not self._limit or (pattern := pattern_of(url)) is None:
            return None
        growth = self._growing.pop(pattern, None) or _Growth()
        self._growing[pattern] = growth
        if len(self._growing) > _PATTERNS:
            del self._growing[next(iter(self._growing))]
        growth.pages += 1
        if growth.pages <= self._from:
            return None
        is_sample = growth.pages % self._every == 0
        return Watch(pattern, is_sample=is_sample, digest=_digest(body, pattern, url) if is_sample else None)

    def settle(self, watch: Watch, *, has_items: bool) -> Closed | None:
        """The page took effect. What is closed by it, if that is a trap."""
        growth = self._growing.get(watch.pattern)
        if growth is None:
            return None
        if watch.pattern.kind is not Kind.SESSIONS and (has_items or watch.spread):
            growth.run = 0
        elif watch.is_sample:
            if watch.digest is None or not growth.is_repeat(watch.digest):
                growth.run = 0
            elif watch.grew:
                growth.run += self._every
        return self._close(watch.pattern, growth) if growth.run >= self._limit else None

    def _close(self, pattern: Pattern, growth: _Growth) -> Closed | None:
        del self._growing[pattern]
        if len(self.closed) >= _CLOSED or pattern in self.closed:
            return None
        self.closed.add(pattern)
        self._hosts.add(pattern.host)
        closed = Closed(pattern.text, pattern.kind.value, growth.pages)
        name = hashlib.blake2b(f"{pattern.kind.value} {pattern.text}".encode(), digest_size=8).hexdigest()
        self._rows[f"trap/{name}"] = _ENCODER.encode(closed)
        return closed

    def rows(self) -> dict[str, bytes | None]:
        """For `Frontier.commit`: what was closed since the last call; the keys begin with `trap/`."""
        rows, self._rows = self._rows, {}
        return rows

    def __repr__(self) -> str:
        return f"<Traps {len(self.closed)} closed, {len(self._growing)} watched>"


_ENCODER = msgspec.msgpack.Encoder()
_CLOSED_ROW = msgspec.msgpack.Decoder(Closed)
