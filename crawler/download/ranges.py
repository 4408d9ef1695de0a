"""Whether a body can be continued, how the rest is asked for, and whether what comes is the rest. Decisions only.

Two pieces make one file only if the server had the same bytes both times. It promises so with a strong validator (RFC
9110, 8.8.1): an entity tag without `W/`, or a modification date that the file had already held for a while (8.8.2.2).
So the rest is asked for with `Range` and `If-Range` (13.1.5), and what comes is believed only where `Content-Range`
continues what is there, to the length that is known, under the same validator. An entity tag goes with one content
coding: the rest is asked for uncoded, and a body that came coded cannot be continued.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
from multidict import CIMultiDict

from crawler.url import redact

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from crawler.request import Request
    from crawler.response import Response

__all__ = ["Origin", "Rest", "is_whole", "length_of", "origin_of", "request_for_rest", "rest_of"]

_DATE_MARGIN_SECONDS: Final = 60
"""RFC 9110 (8.8.2.2) asks for one second where both dates come from one clock, which nobody knows; RFC 7232 had 60."""
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
"""`int` takes digits of every script, and refuses 5,000 of them."""
_CONTENT_RANGE: Final = re.compile(r"bytes[ \t]+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_ENTITY_TAG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
"""A strong one. Those with other bytes are legal too, but do not survive being sent back."""
_CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range")


class Origin(msgspec.Struct, frozen=True):
    """What a partial file is a part of."""

    url: str
    """Without user and password."""
    validator: str
    """An entity tag or a date, for `If-Range` as it is."""
    total: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Bytes in all, where the server said."""

    def is_same(self, other: Origin) -> bool:
        is_same_length = self.total is None or other.total is None or self.total == other.total
        return self.url == other.url and self.validator == other.validator and is_same_length


def is_whole(response: Response) -> bool:
    """Whether its body is all of what was asked for, rather than an error page, a range of the user's, or nothing."""
    return response.status == 200 and response.request.method == "GET"


def origin_of(response: Response) -> Origin | None:
    """None where the body of this whole response could not be continued: coded, without a strong validator, or from a
    server that has no ranges (RFC 9110, 14.3) or does not seem to, for it does not know the length either."""
    headers, length = response.headers, length_of(response)
    validator = _strong_validator(headers)
    ranges = ",".join(headers.getall("Accept-Ranges", ())).lower()
    has_ranges = "bytes" in ranges if ranges else length is not None
    if validator is None or not has_ranges or is_coded(headers):
        return None
    return Origin(redact(response.url), validator, length)


def length_of(response: Response) -> int | None:
    """Bytes that the body has when decoded, where the headers tell."""
    text = response.headers.get("Content-Length", "")
    if is_coded(response.headers) or "Transfer-Encoding" in response.headers:
        return None
    return int(text) if _LENGTH.fullmatch(text) else None


def is_coded(headers: CIMultiDictProxy[str]) -> bool:
    codings = ",".join(headers.getall("Content-Encoding", ())).split(",")
    return any(coding.strip().lower() not in ("", "identity") for coding in codings)


def _strong_validator(headers: CIMultiDictProxy[str]) -> str | None:
    tags = headers.getall("ETag", ())
    if tags:  # whoever has an entity tag may not use the date (RFC 9110, 13.1.5)
        return tags[0] if len(tags) == 1 and _ENTITY_TAG.fullmatch(tags[0]) else None
    modified = headers.get("Last-Modified", "")
    seen, changed = _unix_time(headers.get("Date", "")), _unix_time(modified)
    is_old = seen is not None and changed is not None and seen - changed >= _DATE_MARGIN_SECONDS
    return modified if is_old else None


def _unix_time(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date.endswith("GMT") else None
    except (TypeError, ValueError, OverflowError):
        return None


def request_for_rest(request: Request, origin: Origin, start: int) -> Request:
    """From byte `start` on; from 0, the whole again, without conditions. Never coded, so that it can be continued."""
    headers = CIMultiDict(request.headers)
    for name in _CONDITIONS:
        headers.popall(name, None)
    headers["Accept-Encoding"] = "identity"
    if start:
        headers.update({"Range": f"bytes={start}-", "If-Range": origin.validator})
    return request.replace(headers=headers, stream=True, dont_filter=True)


class Rest(NamedTuple):
    """Of one response to `request_for_rest`."""

    end: int | None
    """Where in the file it ends, exclusive; it may end before the file does. None: not said."""
    total: int | None
    """How long the file is."""


def rest_of(answer: Response, origin: Origin, start: int) -> Rest | None:
    """What this 206 (RFC 9110, 15.3.7) brings; None when it does not continue the file at `start`.

    Of several ranges (multipart/byteranges) each would have its own Content-Range inside the body: the answer has none
    then, and is not the rest.
    """
    headers = answer.headers
    given = headers.getall("Content-Range", ())
    found = _CONTENT_RANGE.fullmatch(given[0].strip()) if len(given) == 1 else None
    if found is None or redact(answer.url) != origin.url or is_coded(headers):
        return None
    first, end = int(found[1]), int(found[2]) + 1
    total = int(found[3]) if found[3] != "*" else origin.total if origin.total is not None else end
    is_rest = first == start < end <= total and origin.total in (None, total)
    # A server that does not know If-Range sends the range of what it has now; its own validator gives it away.
    name = "ETag" if origin.validator.startswith('"') else "Last-Modified"
    is_same = headers.get(name, origin.validator) == origin.validator
    return Rest(end, total) if is_rest and is_same and length_of(answer) in (None, end - start) else None
