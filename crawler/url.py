"""URLs, as strings.

A page of sixty links costs sixty of everything below, and nine of ten links are known already, so nothing here builds a
URL object. What a URL means is the WHATWG URL Standard (https://url.spec.whatwg.org/), the rules of browsers, and two
builds of one parser say it: `can_ada` is quick, `ada_url` newer. They differ in three places: the tables for
international host names; a `^` in a path, which the older one does not escape; and dot segments after a segment that
only begins with a dot, which it overlooks (`/a/.b/../c`). All three show in its answer, so there the newer one is asked
(`_parse`). In 1.6 million made-up URLs the two agreed everywhere else.

`Joiner` goes one step further. Most links are a path of ordinary characters, and a parser would copy such a path as it
stands behind the host or the folder of the page. `Joiner.join` recognises just those: no character that the parser
escapes, drops or reads as more than a `/` or `?` (`_PLAIN`), and no segment that begins with a dot, plain or as `%2e`,
since only such a segment can be `.` or `..`. Everything else is put together as a whole URL, in the order of the
Standard's "scheme", "relative" and "relative slash" states, and parsed.

Four forms of a URL occur in a crawl:

    as written      what a page or a user gave
    normalised      `normalize`, `join`: what WHATWG makes of it, without fragment; this is sent
    canonical       `canonical`: for comparing only; the order of parameters and needless escapes do not count
    fingerprint     `Fingerprinter`: 64 bits of the canonical form, for remembering
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from can_ada import parse as _parse_quickly

from crawler.encoding import query_in
from crawler.errors import InvalidURL
from crawler.redaction import redact, redact_refused

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Fingerprinter",
    "Joiner",
    "canonical",
    "host_key",
    "hostname",
    "in_domains",
    "is_same_origin",
    "join",
    "join_as_written",
    "normalize",
    "origin",
    "redact",
    "well_formed",
]

_HTTP = ("http://", "https://")
_PORTS: Final = {"http:": "80", "https:": "443"}
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""RFC 3986, 2.3."""
_SHOWN_CHARS = 200
"""Of a refused URL in a message: enough to recognise it, and a data: URL does not fill the log."""

# -- the parser --------------------------------------------------------------------------------------------------------

_C0_AND_SPACE: Final = "".join(map(chr, range(0x21)))
_TAB_OR_NEWLINE: Final = str.maketrans("", "", "\t\n\r")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_ORIGINS: Final = 16_384
"""Whose parts are remembered: where hosts take turns, each is asked for again after all the others. Half a KB each."""
_SECOND_SLASH: Final = len("http://") + 1
"""From here on a `/` is the first of the path: a host has one character at least."""

# "/" for each byte that the parser may not keep as it is in the path and in the query of an http(s) URL, "0" for the
# others, so that `isdigit` tells whether all are plain. Three calls into C; a regular expression takes twice as long.
_PLAIN: Final = bytes(
    ord("0") if chr(code) in _UNRESERVED or chr(code) in "!$&()*+,;=:@%/?" else ord("/") for code in range(256)
)


def _is_normal(url: str) -> bool:
    """Whether this is certainly what the parser would give. Most URLs that are looked at again are, and of a host that
    was met before: then nothing needs parsing."""
    slash = url.find("/", _SECOND_SLASH)
    return (
        slash > 0
        and url.isascii()
        and url.encode().translate(_PLAIN).isdigit()
        and "/." not in url
        and "/%2" not in url
        and _is_normal_origin(url[:slash])
    )


@lru_cache(maxsize=_ORIGINS)
def _is_normal_origin(text: str) -> bool:
    return _parse(f"{text}/") == f"{text}/"


def _parse(text: str) -> str | None:
    """The WHATWG serialisation without fragment of an absolute http(s) URL, or None."""
    try:
        href: str = _parse_quickly(text).href
    except (ValueError, TypeError):  # TypeError: lone surrogates, which have no UTF-8
        return _parse_odd(text)
    if "^" in href or "/." in href or "xn--" in href or not text.isascii():
        return _parse_odd(text)
    return _without_fragment(href) if href.startswith(_HTTP) else None


def _parse_below(text: str) -> str | None:
    """The same for a text that begins with scheme and host of a normalised URL."""
    try:
        href: str = _parse_quickly(text).href
    except (ValueError, TypeError):
        return _parse_odd(text)
    return _parse_odd(text) if "^" in href or "/." in href else _without_fragment(href)


def _parse_odd(text: str) -> str | None:
    from ada_url import normalize_url

    try:
        href: str = normalize_url(well_formed(text))
    except ValueError:
        return None
    return _without_fragment(href) if href.startswith(_HTTP) else None


def _without_fragment(href: str) -> str:
    return href[: href.index("#")] if "#" in href else href


def well_formed(text: str) -> str:
    """As WebIDL's USVString: a surrogate pair is its character, a lone surrogate is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _cleaned(text: str) -> str:
    """The first two steps of the "basic URL parser": strip C0 controls and spaces, drop tabs and newlines."""
    stripped = text.strip(_C0_AND_SPACE)
    return stripped if stripped.isprintable() else stripped.translate(_TAB_OR_NEWLINE)


def normalize(url: str) -> str:
    """The absolute http(s) URL as the WHATWG URL Standard serialises it, without fragment, which is never sent.

    ASCII only, scheme and host in lower case, default port dropped, dot segments resolved, userinfo kept. Idempotent.
    Raises `InvalidURL` where the Standard sees a failure, and for other schemes; `TypeError` for what is not a str.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be str, not {type(url).__name__}")
    if _is_normal(url):
        return url
    href = _parse(url)
    if href is None:
        raise InvalidURL(f"{_why_refused(url)}: {_shown(url)}")
    return href


_NO_HOST = re.compile(r"[/\\]*+(?:[^/\\?#]*@)?(?::\d*)?(?:[/\\?#]|\Z)")


def _why_refused(url: str) -> str:
    text = _cleaned(url)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return "no scheme (http:// or https://) in URL"
    if scheme[1].lower() not in ("http", "https"):
        return "not an http(s) URL"
    if _NO_HOST.match(text, scheme.end()):
        return "no host in URL"
    return "invalid URL"


def _shown(url: str) -> str:
    """For a message. What makes a URL invalid may be a `/` or `#` in its password, so all before the last `@` goes."""
    shown = redact_refused(url)
    return repr(shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "…")


# -- joining -----------------------------------------------------------------------------------------------------------

_FOLDERS: Final = 64
_REFERENCES: Final = 1000
"""Remembered of one folder, before it is forgotten: some 10 MB of strings at the very most."""
_NEW: Final = object()


@lru_cache(maxsize=_FOLDERS)
def _joined_in(folder: str, encoding: str) -> dict[str, str | None]:
    """What references on the pages of this folder came to: the pages of a site link to the same places again and
    again, in the same words."""
    return {}


class Joiner:
    """Resolves the links of one page: `joiner(ref)` is `join(base, ref)`, but quick; `joiner.many` is quickest, since
    it remembers what the pages of one folder have in common.

    `base`: an absolute http(s) URL, normalised or not. Raises `InvalidURL` for another. `encoding` is the page's, one
    of `encoding.CODECS`, in which browsers send what stands behind the `?` of a link; all else is sent in UTF-8.
    """

    __slots__ = ("_directory", "_encoding", "_page", "_resource", "_root", "_root_slash", "_scheme")

    def __init__(self, base: str, encoding: str = "utf-8") -> None:
        self._encoding: Final = encoding
        self._page: Final = normalize(base)
        self._scheme: Final = self._page[: self._page.index(":")]
        self._resource: Final = self._page.partition("?")[0]
        slash = self._page.index("/", len(self._scheme) + 3)
        self._root: Final = self._page[:slash]
        self._root_slash: Final = self._page[: slash + 1]
        self._directory: Final = self._resource[: self._resource.rindex("/") + 1]

    def join(self, ref: str) -> str | None:
        """The absolute http(s) URL without fragment, or None where `ref` is invalid or has another scheme.

        A reference to the same document (`""`, `"#top"`) gives the base. Raises nothing, whatever the string.
        """
        plain = ref[: ref.index("#")] if "#" in ref else ref
        if not plain:
            return self._page
        if not (plain.isascii() and plain.encode().translate(_PLAIN).isdigit()):
            return self._parsed(ref)
        first = plain[0]
        if first == "/" and "//" not in plain:
            url = self._root + plain
        elif first == "?":
            url = self._resource + plain
        elif first != "/" and ":" not in plain:  # a colon may end a scheme
            url = self._directory + plain
        elif plain.startswith(self._root_slash):
            url = plain
        else:
            return self._parsed(ref)
        return _parse_below(url) if "/." in url or "/%2" in url else url

    __call__ = join

    def many(self, refs: Iterable[str]) -> list[str | None]:
        """`join` for each, in their order."""
        join = self.join  # on CPython 3.11 a call of the object costs four calls of a method
        joined = _joined_in(self._directory, self._encoding)
        found: list[str | None] = []
        for ref in refs:
            url: Any = joined.get(ref, _NEW)
            if url is _NEW:
                url = join(ref)
                # It may mean something else on the next page if it is a query, a fragment or `http:page`, and what
                # begins with a space may be any of them.
                if ref[:1] > "#" and ref[0] != "?" and (":" not in ref or ref.startswith(_HTTP)):
                    if len(joined) >= _REFERENCES:
                        joined.clear()
                    joined[ref] = url
            found.append(url)
        return found

    def _parsed(self, ref: str) -> str | None:
        """The "scheme", "relative" and "relative slash" states of the Standard, for a special base."""
        if self._encoding != "utf-8" and "?" in ref and not ref.isascii():
            ref = self._with_query(ref)
        if ref.startswith(_HTTP):
            return _parse(ref)
        text = _cleaned(ref)
        first = text[:1]
        if first.isalpha() and (scheme := _SCHEME.match(text)):
            named = scheme[1].lower()
            if named not in ("http", "https"):
                return None
            if named != self._scheme:
                return _parse(text)
            text = text[scheme.end() :]  # `http:page` under http: the scheme is said twice, what follows is relative
            first = text[:1]
        if first in ("#", ""):
            return self._page
        if first == "?":
            return _parse_below(self._resource + text)
        if first not in "/\\":
            return _parse_below(self._directory + text)
        if text[1:2] not in ("/", "\\"):
            return _parse_below(self._root + text)
        return _parse(f"{self._scheme}:{text}")

    def _with_query(self, ref: str) -> str:
        """With the query in the encoding of the page; a fragment is not sent."""
        resource, mark, query = well_formed(_cleaned(ref)).partition("#")[0].partition("?")
        return resource + mark + query_in(query, self._encoding)

    def __repr__(self) -> str:
        return f"Joiner({redact(self._page)!r})"


def join(base: str, ref: str, encoding: str = "utf-8") -> str | None:
    """`ref` as a link on the page `base`: an absolute, normalised http(s) URL without fragment.

    None where `ref` is invalid or leads elsewhere (`mailto:`, `javascript:`, `data:`, `tel:`, ...); a reference to the
    same document gives `base` without its fragment. Raises `InvalidURL` when `base` is not an http(s) URL. `encoding`:
    as for `Joiner`.
    """
    return Joiner(base, encoding)(ref)


def join_as_written(base: str, ref: str) -> str | None:
    """As `join`, but path and query of `ref` stay as they are written (RFC 3986, 5.2), for `encoded=True`; only what
    HTTP cannot carry is percent-encoded. Where that would lead to another origin than the Standard has it, the
    Standard's."""
    from urllib.parse import quote, urljoin

    standard = join(base, ref)
    if standard is None:
        return None
    try:
        found = urljoin(base, well_formed(ref).strip(" \t\r\n\f")).partition("#")[0]
        written = quote(found, safe=_PRINTABLE)
        is_same_place = origin(written) == origin(standard)
    except ValueError:  # urllib's, for what the Standard takes
        return standard
    return written if is_same_place else standard


_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))

# -- comparing ---------------------------------------------------------------------------------------------------------

_PLAINER: Final = {
    f"%{high}{low}": plain if (plain := chr(int(high + low, 16))) in _UNRESERVED else f"%{high}{low}".upper()
    for high in "0123456789ABCDEFabcdef"
    for low in "0123456789ABCDEFabcdef"
}
# An escape of an unreserved character, or one with a small letter. Not one that follows a stray `%` or `%4`: decoded,
# it would complete an escape that was never there.
_ESCAPE: Final = re.compile(
    r"(?<!%)(?<!%[0-9A-Fa-f])"
    r"%(?:2[DE]|3[0-9]|[46][1-9A-F]|[57][0-9A]|5F|7E|[0-9A-Fa-f][a-f]|[a-f][0-9A-F])"
)


def canonical(url: str) -> str:
    """The form in which two normalised URLs are compared; never sent. Idempotent.

    No fragment; escapes of unreserved characters decoded and the others in upper case (RFC 3986, 6.2.2.1 and 6.2.2.2);
    query pieces between `&` in the order of their names, those of one name in their own order, repeats kept; an empty
    query is none. `url` is one that `normalize` or `join` gave.
    """
    if "#" in url:
        url = url[: url.index("#")]
    if "%" in url:
        url = _ESCAPE.sub(_plainer, url)
    if "?" in url:
        resource, _, query = url.partition("?")
        if not query:
            return resource
        if "&" in query:
            return f"{resource}?{'&'.join(sorted(query.split('&'), key=_parameter_name))}"
    return url


def _plainer(escape: re.Match[str]) -> str:
    return _PLAINER[escape[0]]


def _parameter_name(piece: str) -> str:
    return piece.partition("=")[0]


class Fingerprinter:
    """64-bit fingerprints of requests: BLAKE2b keyed with `key` (1 to 64 bytes, secret, random per crawl), so that no
    site can craft two URLs that pass for one. Raises `ValueError` for a key of another length.
    """

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        from hashlib import blake2b  # loads OpenSSL

        if not key:
            raise ValueError("the key of a Fingerprinter must not be empty")
        self._keyed: Final = blake2b(digest_size=8, key=key)

    def __call__(self, canonical_url: str, method: str = "GET", body: bytes = b"", session: str | None = None) -> int:
        """0 to 2**64 - 1. Methods are told apart as written; `session` None and `""` are two sessions."""
        digest = self._keyed.copy()
        url = canonical_url.encode("utf-8", "surrogatepass")
        if method == "GET" and not body and session is None:
            digest.update(url)
        else:
            # 0xFF is in no UTF-8, so this equals no bare URL; each field before the body says where it ends
            digest.update(b"\xff" + _framed(url) + _framed(method.encode("utf-8", "surrogatepass")))
            digest.update(b"-" if session is None else _framed(session.encode("utf-8", "surrogatepass")))
            digest.update(body)
        return int.from_bytes(digest.digest(), "big")

    def many(self, urls: Iterable[str]) -> list[int]:
        """The fingerprints of GET requests for these canonical URLs, in their order."""
        copy, number = self._keyed.copy, int.from_bytes
        numbers: list[int] = []
        for url in urls:
            digest = copy()
            digest.update(url.encode("utf-8", "surrogatepass"))
            numbers.append(number(digest.digest(), "big"))
        return numbers


def _framed(field: bytes) -> bytes:
    return b"%d:%b" % (len(field), field)


# -- parts of a normalised URL -----------------------------------------------------------------------------------------


class _Authority(NamedTuple):
    """What a normalised URL has before its path."""

    scheme: str
    """With its colon."""
    host: str
    """With the port where it is written."""
    key: str
    """With a port in any case."""
    name: str
    """Without, and an IPv6 address without its brackets."""


def _authority(url: str) -> _Authority:
    slash = url.find("/", _SECOND_SLASH)
    if slash < 0:
        raise InvalidURL(f"not a normalised http(s) URL: {_shown(url)}")
    return _authority_of(url[:slash])


@lru_cache(maxsize=_ORIGINS)
def _authority_of(text: str) -> _Authority:
    scheme, empty, host = [*text.split("/", 2), "", ""][:3]
    host = host.rpartition("@")[2]
    if scheme not in _PORTS or empty or not host or "/" in host:
        raise InvalidURL(f"not a normalised http(s) URL: {_shown(text)}")
    key = host if ":" in host and host[-1] != "]" else f"{host}:{_PORTS[scheme]}"
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return _Authority(scheme, host, key, name)


def host_key(url: str) -> str:
    """Host and port of a normalised URL, the unit of politeness: `"example.com:443"`, `"[::1]:80"`.

    Without scheme and userinfo; the port is the scheme's default where the URL names none. Like the other functions for
    parts it cuts the string and does not parse again; `InvalidURL` for what is plainly not normalised.
    """
    return _authority(url).key


def origin(url: str) -> str:
    """Scheme, host, and port if it is not the default, of a normalised URL: `"https://example.com"` (RFC 6454)."""
    authority = _authority(url)
    return f"{authority.scheme}//{authority.host}"


def hostname(url: str) -> str:
    """The host alone of a normalised URL, without port; an IPv6 address without its brackets."""
    return _authority(url).name


def is_same_origin(url: str, other: str) -> bool:
    """Whether two normalised URLs agree in scheme, host and port; userinfo does not count."""
    return _authority(url)[:2] == _authority(other)[:2]


def in_domains(host: str, domains: frozenset[str]) -> bool:
    """Whether `host` (as `hostname` gives it) is one of `domains` or below one. An IP address must be listed itself.

    Case, a trailing dot and the spelling of international names make no difference. No domains: False.
    """
    listed = _as_hosts(domains)
    if host in listed:
        return True
    name = host.lower().removesuffix(".").strip("[]")
    if name in listed:
        return True
    if ":" in name or name.rpartition(".")[2].isdigit():
        return False
    while (dot := name.find(".")) != -1:
        name = name[dot + 1 :]
        if name in listed:
            return True
    return False


@lru_cache(maxsize=256)  # a crawl has a handful of these sets and asks for every link
def _as_hosts(domains: frozenset[str]) -> frozenset[str]:
    return frozenset(_as_host(domain) for domain in domains)


def _as_host(domain: str) -> str:
    href = None if set(domain) & set("/\\?#@") else _parse(f"http://{domain}/")
    return (hostname(href) if href else domain.lower()).removesuffix(".")
