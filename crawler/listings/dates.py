"""Dates as sitemaps and feeds have them: the forms of W3C, RFC 3339 and RFC 822, and what people take for those.

A date that cannot be read is None, never an error: it is one field of an entry, written by a stranger.
"""

from __future__ import annotations

import datetime as dt
import re
from email.utils import parsedate_tz
from typing import Final

__all__ = ["read_date"]

_LONGEST: Final = 100
_W3C = re.compile(
    r"(\d{4})(?:[-/]?(\d{2})(?:[-/]?(\d{2})"
    r"(?:[Tt ]\s{0,2}(\d{1,2}):?(\d{2})(?::?(\d{2})(?:[.,](\d{1,9}))?)?"
    r"\s{0,2}([A-Za-z]{1,5}|[+-]\d{2}:?(?:\d{2})?)?)?)?)?",
    re.ASCII,
)
"""https://www.w3.org/TR/NOTE-datetime, RFC 3339, and the basic form of ISO 8601 (without separators)."""
_SHORT = re.compile(r"(?<=[-/])(\d)(?=[-/T ]|$)", re.ASCII)
"""`2024-5-6`."""
_NAME_OF_ZONE = re.compile(r"\b([A-Z]{1,5})$")
_COMMENT = re.compile(r"\s*\([^()]*\)$")
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})?")
_ZONES: Final = {
    **dict.fromkeys(("Z", "UT", "UTC", "GMT", "WET"), "+0000"),
    **dict.fromkeys(("BST", "CET", "MEZ", "WEST"), "+0100"),
    **dict.fromkeys(("CEST", "MESZ", "EET", "SAST"), "+0200"),
    **dict.fromkeys(("EEST", "MSK", "TRT"), "+0300"),
    "IST": "+0530",
    **dict.fromkeys(("HKT", "SGT", "AWST"), "+0800"),
    **dict.fromkeys(("JST", "KST"), "+0900"),
    "AEST": "+1000",
    "AEDT": "+1100",
    "NZST": "+1200",
    "NZDT": "+1300",
    "BRT": "-0300",
    "ADT": "-0300",
    "AST": "-0400",
    "EDT": "-0400",
    "EST": "-0500",
    "CDT": "-0500",
    "CST": "-0600",
    "MDT": "-0600",
    "MST": "-0700",
    "PDT": "-0700",
    "PST": "-0800",
}
"""RFC 822, section 5.1, and names that are not in it; of two meanings the one that feeds have more often."""


def read_date(text: str) -> dt.datetime | None:
    """An aware datetime, or None. Without a zone, or with one that nobody knows, it is UTC; a year or a month alone is
    its first day. Second 60 is the 59th, hour 24 the next day's first."""
    text = text.strip()
    if not text or len(text) > _LONGEST:
        return None
    if text[4:5] in ("-", "/"):
        text = _SHORT.sub(r"0\1", text)
    try:
        found = _W3C.fullmatch(text)
        return _from_w3c(found) if found else _from_mail(text)
    except (ValueError, OverflowError, IndexError, TypeError):  # a 31st of June; what confuses `parsedate_tz`
        return None


def _from_w3c(found: re.Match[str]) -> dt.datetime:
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction, zone = found[7], found[8] or "Z"
    moment = dt.datetime(year, month or 1, day or 1, tzinfo=_zone(_ZONES.get(zone.upper(), zone)))
    seconds = min(second, 59) if second == 60 else second
    if hour == 24:
        moment, hour = moment + dt.timedelta(days=1), 0
    micro = int((fraction or "")[:6].ljust(6, "0"))
    return moment.replace(hour=hour, minute=minute, second=seconds, microsecond=micro)


def _from_mail(text: str) -> dt.datetime | None:
    """RFC 822, 5 with the years of RFC 1123, as the standard library reads them, which forgives much."""
    text = _COMMENT.sub("", text)
    if ":" not in text:
        text += " 00:00:00 +0000"
    text = _NAME_OF_ZONE.sub(lambda name: _ZONES.get(name[1], "+0000"), text)
    parts = parsedate_tz(text)
    if parts is None:
        return None
    year, month, day, hour, minute, second = parts[:6]
    return dt.datetime(
        year, month, day, hour, minute, min(second, 59) if second == 60 else second,
        tzinfo=dt.timezone(dt.timedelta(seconds=parts[9] or 0)),
    )  # fmt: skip


def _zone(text: str) -> dt.tzinfo:
    found = _OFFSET.fullmatch(text)
    if found is None:
        return dt.UTC
    offset = dt.timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
    return dt.timezone(-offset if found[1] == "-" else offset) if offset else dt.UTC
