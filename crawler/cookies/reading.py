"""Reading a Set-Cookie line (RFC 6265, 5.2) and the dates in it (5.1.1)."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "MAX_COOKIE_BYTES",
    "RefusedError",
    "SetCookie",
    "check_characters",
    "parse_date",
    "parse_set_cookie",
]

_T = TypeVar("_T")

MAX_COOKIE_BYTES: Final = 4096
"""Of name and value together in UTF-8 (6265bis, 5.7, step 5)."""
_MAX_ATTRIBUTE_CHARS = 1024  # 6265bis, 5.6: a longer attribute value is as if it were not there
_MAX_ATTRIBUTES = 64  # six mean something; a header line has room for 8,000 semicolons
_LAST_DAY = 253_402_300_799.0  # 9999-12-31 23:59:59, the last second that `datetime` knows (5.2.1, 5.2.2: clamp to it)
_WHITESPACE = " \t"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_DELIMITERS = re.compile(r"[\x09\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])").match
_DAY = re.compile(r"([0-9]{1,2})(?![0-9])").match
_YEAR = re.compile(r"([0-9]{2,4})(?![0-9])").match
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
    )
}


def parse_date(text: str) -> float | None:
    """A cookie-date as Unix time (RFC 6265, 5.1.1): any order, any zone, which does not count; None if it is none."""
    time: tuple[str, ...] | None = None
    day = month = year = None
    for token in _DELIMITERS.split(text):
        if time is None and (found := _TIME(token)):
            time = found.groups()
        elif day is None and (found := _DAY(token)):
            day = int(found[1])
        elif month is None and (number := _MONTHS.get(token[:3].lower())):
            month = number
        elif year is None and (found := _YEAR(token)):
            year = int(found[1])
    if time is None or day is None or month is None or year is None:
        return None
    if year < 100:
        year += 1900 if year >= 70 else 2000
    if year < 1601:
        return None
    hour, minute, second = map(int, time)
    try:
        return dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC).timestamp()
    except ValueError:  # no such day or hour
        return None


class SetCookie(NamedTuple):
    """A Set-Cookie line as read (RFC 6265, 5.2): what the server asks for."""

    name: str
    value: str
    expires: float | None
    """Unix time, from Max-Age or else Expires."""
    domain: str
    """In lower case and without its leading dot; empty where none was named."""
    path: str
    """Empty: the default of the request (5.1.4)."""
    secure: bool
    http_only: bool
    same_site: str

    def __repr__(self) -> str:
        return f"<SetCookie {self.name!r}>"


class RefusedError(ValueError):
    """A cookie that is not to be kept. The message says why; `name` is as the server sent it."""

    def __init__(self, why: str, name: str = "") -> None:
        super().__init__(why)
        self.name = name


def parse_set_cookie(text: str, now: float) -> SetCookie:
    """Read the value of one Set-Cookie field; `now` is what Max-Age counts from.

    Raises `ValueError`, with the reason as its message, where the field is to be ignored: no name, control characters,
    text that has no UTF-8 (lone surrogates), more than 4096 bytes of name and value.
    """
    pair, _, rest = text.partition(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(_WHITESPACE), value.strip(_WHITESPACE)
    if not equals or not name:
        raise RefusedError("no name")
    check_characters(name, value, text)
    given = _attributes(rest).get
    age = _last(given("max-age"), _seconds)
    return SetCookie(
        name,
        value,
        _last(given("expires"), parse_date) if age is None else min(now + age, _LAST_DAY),
        _last(given("domain"), _domain) or "",
        _last(given("path"), _path) or "",
        given("secure") is not None,
        given("httponly") is not None,
        _last(given("samesite"), _same_site) or "",
    )


def check_characters(name: str, value: str, text: str) -> None:
    if _CONTROL.search(text):
        raise RefusedError("a control character", name)
    octets = len(name) + len(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RefusedError("not UTF-8", name) from None
        octets = len(name.encode()) + len(value.encode())
    if octets > MAX_COOKIE_BYTES:
        raise RefusedError(f"more than {MAX_COOKIE_BYTES} bytes", name)


def _attributes(text: str) -> dict[str, list[str]]:
    """The cookie-attribute-list: values by name, in their order, of the names that mean something."""
    found: dict[str, list[str]] = {}
    for part in text.split(";", _MAX_ATTRIBUTES)[:_MAX_ATTRIBUTES]:
        name, _, value = part.partition("=")
        name = name.strip(_WHITESPACE).lower()
        if name in _KNOWN and len(value := value.strip(_WHITESPACE)) <= _MAX_ATTRIBUTE_CHARS:
            found.setdefault(name, []).append(value)
    return found


_KNOWN: Final = frozenset(("expires", "max-age", "domain", "path", "secure", "httponly", "samesite"))
_AGE = re.compile(r"-?[0-9]+").fullmatch


def _last(texts: Sequence[str] | None, read: Callable[[str], _T | None]) -> _T | None:
    """The last attribute of a name that `read` makes something of; the others are as if they were not there."""
    for text in reversed(texts or ()):
        if (value := read(text)) is not None:
            return value
    return None


def _seconds(text: str) -> float | None:
    if not _AGE(text):
        return None
    return 0.0 if text[0] == "-" else float(text.lstrip("0")[:20] or 0)  # more digits than that are past any clamp


def _domain(text: str) -> str | None:
    """None for an empty one: 5.2.3 leaves it open, and says SHOULD ignore."""
    return text.removeprefix(".").lower() if text else None


def _path(text: str) -> str:
    """Empty, the default, for what does not begin with a slash; that too replaces a path named before (5.2.4)."""
    return text if text.startswith("/") else ""


def _same_site(text: str) -> str:
    return text.lower() if text.lower() in ("strict", "lax", "none") else ""
