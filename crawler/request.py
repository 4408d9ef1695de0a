"""Requests: immutable, and storable unless they hold a live object.

A `Request` is a msgspec Struct, so the value that a spider yields is also the record that waits on disk: only fields
that differ from their default are written, and reading one back validates it against this very class. Nothing in a
record is ever executed: callbacks are names, and items in `meta` or `cb_kwargs` come back only as classes that the
spider's own module knows (`RequestCodec`).
"""

from __future__ import annotations

import copy
import datetime as dt  # noqa: TC003 - msgspec reads the annotations when the program runs
import hashlib
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

import msgspec
from msgspec.structs import force_setattr
from multidict import CIMultiDict, CIMultiDictProxy

from crawler import url as urls
from crawler.arguments import (
    NO_HEADERS,
    NORMALIZED,
    Timeout,
    basic,
    checked_method,
    checked_priority,
    credentials,
    flag,
    header_map,
    header_names,
    header_pairs,
    method_name,
    values_by_name,
)
from crawler.attempt import Attempt, kept
from crawler.body import FilePath, Multipart, storable
from crawler.errors import InvalidURL, NotStorable
from crawler.query import encode_query
from crawler.storable import ENCODER, STORABLE_DATA, ValueCodec, pack

__all__ = ["NO_HEADERS", "FilePath", "Hop", "Multipart", "Request", "RequestCodec", "Timeout", "Unfollowed"]


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """One redirect that was followed: the answer that pointed on."""

    status: int
    url: str
    fields: tuple[tuple[str, str], ...] = ()
    """Its headers as pairs, in the order of arrival."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Its headers, case-insensitive."""
        return CIMultiDictProxy(CIMultiDict(self.fields))

    def __repr__(self) -> str:
        return f"<Hop {self.status} {urls.redact(self.url)}>"  # `Set-Cookie` is among the fields

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status), ("url", urls.redact(self.url))]


class _Target(msgspec.Struct, frozen=True, omit_defaults=True):
    url: str
    callback: str | None = msgspec.field(default=None, name="c")


class Request(_Target, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True):
    """One request. Immutable: `replace(**changes)` makes another.

    `callback` and `errback` take a bound method of the spider or its name and keep the name. `url` is normalised as the
    WHATWG URL Standard says, without its fragment, and with `params` added; `encoded=True` sends it as written.
    `timeout` is seconds in all, or an `aiohttp.ClientTimeout`. `not_before` is seconds from now, or an aware datetime.
    A header that is None, or named in `skip_auto_headers`, is not sent even where settings or aiohttp would. `auth`
    (user and password, or an `aiohttp.BasicAuth`) becomes the Authorization header, and stays with its origin.

    Raises `InvalidURL` (a ValueError) for a URL that is not absolute http(s), ValueError or TypeError for other
    arguments that could never be sent.
    """

    method: str = msgspec.field(default="GET", name="m")
    params: Any = None
    headers: Any = NO_HEADERS
    """The request's own headers, as a case-insensitive multidict; given as a mapping or pairs."""
    cookies: dict[str, str] | None = None
    body: bytes | None = None
    data: Any = None
    json: Any = None
    priority: int = msgspec.field(default=0, name="p")
    meta: dict[str, Any] = msgspec.field(default_factory=dict)
    cb_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    errback: str | None = msgspec.field(default=None, name="e")
    dont_filter: bool = False
    key: str | None = None
    session: str | None = None
    proxy: str | None = None
    proxy_auth: tuple[str, str] | None = None
    tls: Any = None
    timeout: Any = None
    allow_redirects: bool = True
    max_redirects: int | None = None
    max_body_bytes: int | None = None
    compress: str | None = None
    auth: Any = None
    skip_auto_headers: tuple[str, ...] = ()
    chunked: bool = False
    expect100: bool = False
    server_hostname: str | None = None
    encoded: bool = False
    stream: bool = False
    not_before: float | dt.datetime | None = None
    retry_times: int | None = None
    ok_status: Any = None
    history: tuple[Hop, ...] = ()
    """Redirects followed so far; filled by the crawler."""
    depth: int = 0
    """Links from the start; filled by the crawler."""
    attempts: tuple[Attempt, ...] = ()
    """Tries so far that did not do, oldest first; filled by the crawler, and gone from what is yielded again."""

    refused: ClassVar[str] = ""
    """Why the crawl does not take it, in the word that statistics count."""

    def __post_init__(self) -> None:
        # Also runs when a record is read back: every step leaves its own result as it is.
        self._check_url()
        self._check_names()
        if self.priority or type(self.priority) is not int:
            force_setattr(self, "priority", checked_priority(self.priority))
        if self.meta or type(self.meta) is not dict:
            force_setattr(self, "meta", values_by_name("meta", self.meta))
        if self.cb_kwargs or type(self.cb_kwargs) is not dict:
            force_setattr(self, "cb_kwargs", values_by_name("cb_kwargs", self.cb_kwargs))
        if not (
            self.dont_filter is self.encoded is self.stream is self.chunked is self.expect100 is False
            and self.allow_redirects is True
        ):
            for name in _FLAGS:
                force_setattr(self, name, flag(name, getattr(self, name)))
        if self.auth is not None or (self.headers and type(self.headers) is not CIMultiDictProxy):
            self._settle_headers()
        if self.skip_auto_headers:
            force_setattr(self, "skip_auto_headers", header_names(self.skip_auto_headers))
        values = _TO_NORMALIZE(self)
        if values != _USUAL:
            for name, value in zip(NORMALIZED, values, strict=True):
                if value is not None:
                    force_setattr(self, name, NORMALIZED[name](value))
        if self.body is not None or self.data is not None or self.json is not None:
            self._check_body()

    def _check_names(self) -> None:
        if self.method != "GET":
            force_setattr(self, "method", checked_method(self.method))
        if self.callback is not None:
            force_setattr(self, "callback", method_name(self.callback))
        if self.errback is not None:
            force_setattr(self, "errback", method_name(self.errback))

    def _check_url(self) -> None:
        given = self.url
        url = str(given)
        if self.params is not None:
            url = encode_query(url, self.params) if self.params else url
            force_setattr(self, "params", None)
        url = _as_written(url) if self.encoded else urls.normalize(url)
        if url is not given:
            force_setattr(self, "url", url)

    def _settle_headers(self) -> None:
        """What is said of headers in other words: `auth`, and None for one that is not to be sent."""
        pairs = header_pairs(self.headers)
        unwanted = [name for name, value in pairs if value is None]
        pairs = [(name, value) for name, value in pairs if value is not None]
        if self.auth is not None:
            pairs.append(("Authorization", basic(*credentials("auth", self.auth))))
            force_setattr(self, "auth", None)
        force_setattr(self, "headers", header_map(pairs))
        force_setattr(self, "skip_auto_headers", (*self.skip_auto_headers, *unwanted))

    def _check_body(self) -> None:
        if sum(part is not None for part in (self.body, self.data, self.json)) > 1:
            raise ValueError("give one of body, data and json")
        data = self.data
        if isinstance(data, (int, float)):
            raise TypeError(f"data is a form, text, bytes, a FilePath or a stream, not {data!r}; json= takes any value")
        if isinstance(data, Mapping):
            force_setattr(self, "data", list(data.items()))
        elif data is not None and type(data) not in STORABLE_DATA and type(data).__name__ == "FormData":
            plain = storable(data)
            if plain is not None:
                force_setattr(self, "data", plain)

    @property
    def dedup_url(self) -> str:
        """What is compared to find duplicates: `key`, or the URL with its query sorted."""
        return f"key:{self.key}" if self.key is not None else urls.canonical(self.url)

    @property
    def dedup_body(self) -> bytes:
        """The body's share in the comparison; empty for a request without one."""
        if self.key is not None:
            return b""
        if self.body is not None:
            return self.body
        given = self.data if self.data is not None else self.json
        if given is None:
            return b""
        try:
            return ENCODER.encode(pack(given, None))
        except (TypeError, NotStorable):
            return repr(given).encode()

    @property
    def is_replayable(self) -> bool:
        """Whether its body can be sent twice: a live object (an open file, a generator) is used up by once."""
        return self.data is None or isinstance(self.data, STORABLE_DATA)

    @property
    def fingerprint(self) -> str:
        """32 hex digits that are equal for equal requests, in this crawl and every other.

        The frontier compares 64 bits keyed per crawl instead; see `crawler.url.Fingerprinter`.
        """
        parts = (self.method, self.dedup_url, self.dedup_body, self.session)
        return hashlib.blake2b(ENCODER.encode(parts), digest_size=16).hexdigest()

    def replace(self, **changes: Any) -> Request:
        """A copy with these fields changed; `callback` and `url` among them."""
        return msgspec.structs.replace(self, **changes)

    def moved_to(self, url: str) -> Request:
        """A copy for another URL, which is normalised already: for links by the thousand, whose other fields were
        checked with the first."""
        moved = copy.copy(self)
        force_setattr(moved, "url", url)
        return moved

    @classmethod
    def from_curl(cls, command: str, callback: Any = None, **options: Any) -> Request:
        """The request that a `curl` command makes, as browsers and documentation offer it to be copied; `options` are
        `Request`'s and win. Raises ValueError for what is no such command, and for an option of curl's that has no
        meaning here; `crawler.curl` lists them."""
        from crawler.curl import parse

        return cls(**{**parse(command), "callback": callback, **options})

    def to_curl(self) -> str:
        """A command for bash that sends this request with curl, secrets included: it is for trying things out."""
        from crawler.curl import render

        return render(self)

    def __hash__(self) -> int:
        return hash((self.method, self.url))  # equal requests have these in common; `meta` has no hash

    def __repr__(self) -> str:
        return f"<Request {self.method} {urls.redact(self.url)}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method), ("url", urls.redact(self.url))]


class Unfollowed(Request, frozen=True):
    """A link of a page that asks for its links not to be followed: the same request, but the crawl does not take it."""

    refused: ClassVar[str] = "nofollow"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Request):
            return NotImplemented
        return msgspec.structs.astuple(self) == msgspec.structs.astuple(other)

    __hash__ = Request.__hash__


class RequestCodec:
    """Requests to bytes and back, as a closed schema.

    `item_types` are the item classes of the spider's module by qualified name: instances of them may travel in `meta`
    and `cb_kwargs`. `encode` raises `NotStorable` for anything else that is not a plain value.
    """

    def __init__(self, item_types: Mapping[str, type] | None = None) -> None:
        self.values = ValueCodec(item_types)
        """For what travels with requests, and for items."""
        self._item_types = self.values.item_types
        self._decoder = msgspec.msgpack.Decoder(Request, ext_hook=self.values.unpack)

    def encode(self, request: Request) -> bytes:
        changes: dict[str, Any] = {}
        try:
            for field in ("meta", "cb_kwargs", "data", "json"):
                value = getattr(request, field)
                if value and type(value) is not bytes and type(value) is not str:
                    packed = pack(value, self._item_types)
                    if packed is not value:
                        changes[field] = packed
            if request.depth:
                changes["depth"] = 0  # the frontier's own column
            return ENCODER.encode(msgspec.structs.replace(request, **changes) if changes else request)
        except (TypeError, UnicodeEncodeError, NotStorable) as error:  # the second: text with lone surrogates
            raise NotStorable(
                f"{request!r} cannot wait in the frontier: {error}. Yield plain values, "
                "or fetch it inline with `await self.fetch(request)`"
            ) from error

    def decode(self, record: bytes, depth: int = 0) -> Request:
        """Raises ValueError for a record that is not a request."""
        try:
            request = self._decoder.decode(record)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"not a stored request: {error}") from error
        if depth:
            force_setattr(request, "depth", depth)
        return request

    def tried(self, record: bytes, attempt: Attempt) -> bytes:
        """A stored request with one more of its `attempts`. Raises as `decode` does."""
        request = self.decode(record)
        return self.encode(request.replace(attempts=kept(request.attempts, attempt)))


def _as_written(url: str) -> str:
    """Path and query as they stand, behind a normalised scheme and host: those are judged, so they must be plain."""
    normal = urls.normalize(url)
    origin = normal[: normal.index("/", normal.index("//") + 2)]
    start = min((i for i in map(url.find, "/?#", [url.find("//") + 2] * 3) if i >= 0), default=len(url))
    if urls.normalize(f"{url[:start]}/") != f"{origin}/":  # `http:host`, `http:///host`, `http://host\path`
        raise InvalidURL(f"encoded=True needs scheme://host/ as it is, not {urls.redact(url)[:200]!r}")
    rest = url[start:].partition("#")[0]
    if any(not "!" <= character <= "~" for character in rest):
        raise InvalidURL(
            f"encoded=True sends the URL as written, and {urls.redact(rest[:200])!r} holds what HTTP cannot carry"
        )
    return origin + (rest if rest.startswith("/") else f"/{rest}")


_TO_NORMALIZE = attrgetter(*NORMALIZED)
_USUAL = tuple(NO_HEADERS if name == "headers" else None for name in NORMALIZED)
"""Nothing to be done."""
_FLAGS = ("dont_filter", "allow_redirects", "chunked", "expect100", "encoded", "stream")
