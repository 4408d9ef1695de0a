"""robots.txt as RFC 9309 has it: which URLs of a host a crawler of our name may fetch.

A file is compiled once per host, for one product token, into what `check` needs. Of the rules that match, the one with
the most octets wins, whatever its place in the file, so rules are kept by how they can match:

    /private/      a prefix    dict by prefix; a check asks once for each length that occurs, longest first
    /exact$        the path    dict by path; one question
    /*.php?*id=    a wildcard  a list; in a large file by up to four octets that a matching path must hold

So 40,000 rules cost a URL some 20 questions, not 40,000. A wildcard is matched piece by piece with `bytes.find`,
leftmost first: where `*` is the only operator, that never has to go back. Each rule carries its rank, twice its octets
plus one for `allow`, which makes "longest" and "allow wins a tie" one comparison of integers. What a hostile file can
still demand is limited by `_MOST_WORK`; a URL for which that is spent is disallowed, by no rule.

Both sides are brought to one spelling before they meet (`_spelled`; section 2.2.2). Where the RFC's text and its table
of examples disagree on reserved characters, they stay as written: `/a%2Fb` is not `/a/b`.

Beyond the RFC, as Google's parser, whose published cases are part of the tests: a byte order mark, a missing colon, the
usual misspellings (`_FIELDS`), a product token cut at its first other character, and `Allow: /index.html` allowing `/`.
As in both, only a rule ends a list of user-agent lines: with `User-agent: *`, `Crawl-delay: 5`, `User-agent: BadBot`,
`Disallow: /` everyone is disallowed (section 2.2.4: other records must not terminate a group).
"""

from __future__ import annotations

import email.utils
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from crawler.encoding import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "ALLOW_ALL",
    "DENY_ALL",
    "LONGEST_LIFETIME",
    "PARSE_LIMIT_BYTES",
    "Decision",
    "Robots",
    "lifetime",
    "product_token",
    "verdict_for_status",
]

PARSE_LIMIT_BYTES: Final = 512 * 1024
"""What stands behind is ignored, the line that is cut included (section 2.5 asks for at least 500 KiB)."""


class Decision(NamedTuple):
    """What robots.txt says of one URL. True in a condition where the URL may be fetched."""

    allowed: bool
    rule: str = ""
    """The line that decided, as written but for its comment; empty where no rule matched."""
    line: int = 0
    """Its number, from 1; 0 where no rule matched."""

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Robots:
    """The rules of one host for one crawler. Made by `Robots.parse`; `Robots()` has no rules and allows everything."""

    crawl_delay: float | None = None
    """Seconds between two requests, the longest that our group asks for; not part of the RFC."""
    sitemaps: tuple[str, ...] = ()
    """Addresses as written, in order and without repeats, of all groups."""
    _rules: _Rules = field(default_factory=lambda: _Rules())  # noqa: PLW0108  # its class stands below

    @classmethod
    def parse(cls, body: bytes | str, agent: str) -> Robots:
        """Compile what `body` says to the crawler whose product token is `agent`, in any case (`product_token`).

        All groups that name it count as one; where none does, all groups of `*`; where there are none, everything is
        allowed, as it is by a page of HTML, binary data or an empty file. Never raises. Takes one to two microseconds
        a line: call it in a thread for a body above 64 KiB.
        """
        group, sitemaps = _read(_limited(body), agent)
        return cls(group.crawl_delay, sitemaps, _Rules(group.lines))

    def check(self, url_or_path: str) -> Decision:
        """Whether a URL of this host, or a path with its query, may be fetched, and by which rule. Never raises."""
        if self._rules.is_empty:
            return _NO_RULE
        path = _spelled(_path_and_query(url_or_path))
        if path == b"/robots.txt":  # section 2.2.2: implicitly allowed
            return _NO_RULE
        best = self._rules.best(path)
        if best is _NOTHING:
            return _NO_RULE
        rank, number, line = best
        return Decision(rank % 2 == 1, line.decode("utf-8", "replace").strip(), number)

    def __repr__(self) -> str:
        return f"<Robots {self._rules!r} crawl_delay={self.crawl_delay} sitemaps={len(self.sitemaps)}>"


def verdict_for_status(status: int) -> Literal["parse", "allow", "deny"]:
    """What to do with a final answer for /robots.txt: `Robots.parse` its body, `ALLOW_ALL`, or for now `DENY_ALL`.

    - 2xx: parse.
    - 3xx: allow. The fetcher follows five hops and asks for the status of the last answer; a redirect that is left
      over, or that leads nowhere, means that there is no file (section 2.3.1.2).
    - 4xx: allow, 401 and 403 included: these rules are no access control (section 2.3.1.3).
    - 429: deny, as Google has it. It is in the RFC's 4xx, but says "too fast" and not "no such file", and a host that
      is short of breath is not one to crawl without rules.
    - everything else, 5xx above all: deny (section 2.3.1.4). So is no answer at all, which has no status. Ask again
      later; keep an answer for 24 hours at most (section 2.4).
    """
    if 200 <= status <= 299:
        return "parse"
    return "allow" if 300 <= status <= 499 and status != 429 else "deny"


LONGEST_LIFETIME: Final = 24 * 3600.0
"""Seconds (section 2.4)."""
_SHORTEST_LIFETIME: Final = 600.0
"""However little a host's cache headers allow: one question in ten minutes is no burden."""
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?([0-9]{1,10})", re.IGNORECASE).search


def lifetime(headers: Mapping[str, str]) -> float:
    """Seconds for which an answer may be kept: what `Cache-Control: max-age` or `Expires` says (RFC 9111, section
    4.2.1), from ten minutes to a day; a day where they say nothing."""
    control = headers.get("Cache-Control", "")
    if found := _MAX_AGE(control):
        seconds = float(found[1]) - _age(headers)
    elif any(word in control.lower() for word in ("no-cache", "no-store")):
        seconds = 0.0
    elif (expires := _moment(headers.get("Expires"))) is not None:
        date = _moment(headers.get("Date"))
        seconds = expires - date if date is not None else 0.0
    else:
        seconds = 0.0 if "Expires" in headers else LONGEST_LIFETIME
    return min(max(seconds, _SHORTEST_LIFETIME), LONGEST_LIFETIME)


def _age(headers: Mapping[str, str]) -> float:
    value = headers.get("Age", "").strip()
    return float(value[:10]) if value.isascii() and value.isdigit() else 0.0


def _moment(value: str | None) -> float | None:
    """Of an HTTP date, as a Unix time; None where it is none."""
    try:
        return None if value is None else email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def product_token(user_agent: str) -> str:
    """The name that robots.txt knows us by: the letters, `_` and `-` that a User-Agent header begins with.

    `product_token("crawler/1.0 (+https://...)") == "crawler"`; of `Mozilla/5.0 (compatible; ExampleBot/0.1)`, which
    names someone else first, it is `ExampleBot`. Empty where there is none: then only groups of `*` apply.
    """
    _, compatible, rest = user_agent.partition("(compatible; ")
    name = rest if compatible and user_agent.startswith("Mozilla/") else user_agent
    return _token(name.encode("utf-8", "surrogatepass")).decode("ascii")


# -- reading ----------------------------------------------------------------------------------------------------------

_Field = Literal["user-agent", "allow", "disallow", "sitemap", "crawl-delay"]

_FIELDS: Final[Mapping[bytes, _Field]] = {
    b"user-agent": "user-agent",
    b"useragent": "user-agent",
    b"user agent": "user-agent",
    b"allow": "allow",
    b"disallow": "disallow",
    b"dissallow": "disallow",
    b"dissalow": "disallow",
    b"disalow": "disallow",
    b"diasllow": "disallow",
    b"disallaw": "disallow",
    b"sitemap": "sitemap",
    b"site-map": "sitemap",
    b"crawl-delay": "crawl-delay",
    b"Allow": "allow",  # as most files have it, so that most lines need no folding
    b"Disallow": "disallow",
}
_TOKEN = re.compile(rb"[A-Za-z_-]*").match
_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?").match
_UTF16: Final = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}

_Line = tuple[int, bytes, bool, bytes]
"""Number, the line, whether it allows, its value."""


class _Group:
    """All groups of one product token, as if they were one."""

    def __init__(self) -> None:
        self.lines: list[_Line] = []
        self.crawl_delay: float | None = None

    def delay(self, value: bytes) -> None:
        if found := _SECONDS(value):
            self.crawl_delay = max(self.crawl_delay or 0.0, float(found[0]))


def _read(body: bytes, agent: str) -> tuple[_Group, tuple[str, ...]]:
    own, anyone = _Group(), _Group()
    token = agent.lower().encode("utf-8", "surrogatepass")
    sitemaps: dict[str, None] = {}
    current: set[_Group] = set()
    named = naming = False
    for number, line, name, value in _records(body):
        if name in ("allow", "disallow"):
            naming = False
            for group in current:
                group.lines.append((number, line, name == "allow", value))
        elif name == "user-agent":
            if not naming:
                current, naming = set(), True
            if _is_anyone(value):
                current.add(anyone)
            elif token and _token(value).lower() == token:
                current.add(own)
                named = True
        elif name == "crawl-delay":
            for group in current:
                group.delay(value)
        else:
            sitemaps[value.decode("utf-8", "replace")] = None
    return own if named else anyone, tuple(filter(None, sitemaps))


def _limited(body: bytes | str) -> bytes:
    if isinstance(body, str):
        body = body[: PARSE_LIMIT_BYTES + 1].encode("utf-8", "surrogatepass")
    elif codec := _UTF16.get(body[:2]):  # section 2.2.2: may bridge encoding mismatches
        body = decode(body[: 2 * PARSE_LIMIT_BYTES], codec).encode()
    if len(body) > PARSE_LIMIT_BYTES:
        body = body[: 1 + max(body.rfind(end, 0, PARSE_LIMIT_BYTES + 1) for end in (b"\n", b"\r"))]
    return body.removeprefix(b"\xef\xbb\xbf")


def _records(body: bytes) -> Iterator[tuple[int, bytes, _Field, bytes]]:
    for number, whole_line in enumerate(body.splitlines(), 1):
        if not whole_line:
            continue
        line = whole_line[: whole_line.index(b"#")] if b"#" in whole_line else whole_line
        key, colon, value = line.partition(b":")
        if not colon:  # accepted between a name and a value of one word each
            words = line.split(None, 2)
            if len(words) != 2:
                continue
            key, value = words
        if name := _FIELDS.get(key) or _FIELDS.get(key.strip().lower()):
            yield number, line, name, value.strip()


def _token(value: bytes) -> bytes:
    found = _TOKEN(value)
    return found[0] if found else b""


def _is_anyone(value: bytes) -> bool:
    return value[:1] == b"*" and (len(value) == 1 or value[1:2].isspace())


# -- spelling ---------------------------------------------------------------------------------------------------------

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986, 2.3
# Unreserved and reserved characters, less the two with a meaning here and the two that cannot stand in a path.
_PLAIN: Final = bytes(_UNRESERVED) + b":/?[]@!&'()+,;="
_ENCODED: Final = {octet: f"%{octet:02X}" for octet in range(256) if octet not in _PLAIN and octet != ord("%")}
_ESCAPE = re.compile(b"%(?:[0-9A-Fa-f]{2})?")
_TARGET = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*+://)?+[^/?#]*+([^#]*+)").match


def _spelled(octets: bytes) -> bytes:
    """The one spelling of a path in which equal means equal: percent-encoded what is neither reserved nor unreserved,
    and `*` and `$`; decoded what is encoded and unreserved; upper-case hex digits."""
    odd = octets.translate(None, _PLAIN)
    if not odd:
        return octets
    if odd.strip(b"%"):  # a table of single octets: one call, where a pattern would ask for each
        octets = octets.decode("latin-1").translate(_ENCODED).encode("ascii")
    return _ESCAPE.sub(_respell, octets) if b"%" in odd else octets


def _respell(found: re.Match[bytes]) -> bytes:
    octets = found[0]
    if len(octets) == 1:
        return b"%25"
    octet = int(octets[1:], 16)
    return bytes((octet,)) if octet in _UNRESERVED else octets.upper()


def _path_and_query(url_or_path: str) -> bytes:
    found = _TARGET(url_or_path)
    target = found[1] if found else ""
    return (target if target.startswith("/") else "/" + target).encode("utf-8", "surrogatepass")


# -- matching ---------------------------------------------------------------------------------------------------------

_Rule = tuple[int, int, bytes]
"""Rank, number of the line, the line."""
_NOTHING: Final[_Rule] = (-1, 0, b"")
_TOO_MUCH: Final[_Rule] = (0, 0, b"")
_NO_RULE: Final = Decision(True)

_KEY_OCTETS: Final = 4
_FEW_WILDCARDS: Final = 32  # up to here looking at each is cheaper than cutting the path up
_MOST_WORK: Final = 32_000_000  # octets compared at worst, some 20 ms; a large honest file needs a thousandth


class _Wildcard(NamedTuple):
    rule: _Rule
    prefix: bytes
    pieces: tuple[bytes, ...]
    """What stands between the stars, in order."""
    suffix: bytes
    """What the path has to end with; empty where the pattern does not end with `$`."""
    shortest: int
    """Octets of the shortest path that can match."""

    def matches(self, path: bytes) -> bool:
        if not path.startswith(self.prefix):
            return False
        at = len(self.prefix)
        for piece in self.pieces:
            at = path.find(piece, at)
            if at < 0:
                return False
            at += len(piece)
        return path.endswith(self.suffix, at)


class _Rules:
    """The rules of one group, ready to be asked for the best that matches a path."""

    def __init__(self, lines: Iterable[_Line] = ()) -> None:
        self.prefixes: dict[bytes, _Rule] = {}
        self.paths: dict[bytes, _Rule] = {}
        self.wildcards: list[_Wildcard] = []
        self.wildcards_by_octets: dict[bytes, list[_Wildcard]] = {}
        # How many octets more than its prefix a prefix rule can count: one for `/a*`.
        self.most_starred = 0
        for number, line, allow, value in lines:
            if value[:1] == b"/" and not value.translate(None, _PLAIN):
                _keep(self.prefixes, value, (2 * len(value) + allow, number, line))
            elif value.startswith((b"/", b"*")):  # nothing else is what a path begins with
                self._add_pattern(value, allow, number, line)
            if allow and value.startswith(b"/index.htm", value.rfind(b"/")):
                self._add_pattern(value[: value.rfind(b"/") + 1] + b"$", allow, number, line)
        self.prefix_lengths = tuple(sorted({len(prefix) for prefix in self.prefixes}, reverse=True))
        if len(self.wildcards) > _FEW_WILDCARDS:
            self._index_wildcards()
        self.key_sizes = {len(octets) for octets in self.wildcards_by_octets}
        self.is_empty = not (self.prefixes or self.paths or self.wildcards or self.wildcards_by_octets)
        # The sooner one matches, the fewer have to be tried.
        self.wildcards.sort(key=lambda wildcard: -wildcard.rule[0])

    def best(self, path: bytes) -> _Rule:
        best = self.paths.get(path, _NOTHING)
        for length in self.prefix_lengths:
            if 2 * (length + self.most_starred) + 1 <= best[0]:
                break
            rule = self.prefixes.get(path[:length])
            if rule is not None and rule[0] > best[0]:
                best = rule
        if self.wildcards:
            best = _best_wildcard(self.wildcards, path, best)
        if self.wildcards_by_octets and best is not _TOO_MUCH:
            best = _best_wildcard(self._indexed(path), path, best)
        return best

    def _indexed(self, path: bytes) -> Iterator[_Wildcard]:
        for size in self.key_sizes:
            for octets in dict.fromkeys(path[at : at + size] for at in range(len(path) - size + 1)):
                yield from self.wildcards_by_octets.get(octets, ())

    def _add_pattern(self, value: bytes, allow: bool, number: int, line: bytes) -> None:
        anchored = value.endswith(b"$")
        prefix, *pieces = map(_spelled, value.removesuffix(b"$").split(b"*"))
        shortest = len(prefix) + sum(map(len, pieces))
        octets = shortest + len(pieces) + anchored
        rule = (2 * octets + allow, number, line)
        if not pieces and anchored:
            _keep(self.paths, prefix, rule)
            return
        suffix = pieces.pop() if anchored else b""  # empty after a star, where `$` says nothing
        pieces = list(filter(None, pieces))
        if pieces or suffix:
            self.wildcards.append(_Wildcard(rule, prefix, tuple(pieces), suffix, shortest))
        else:
            _keep(self.prefixes, prefix, rule)
            self.most_starred = max(self.most_starred, octets - len(prefix))

    def _index_wildcards(self) -> None:
        for wildcard in self.wildcards:
            literal = max((*wildcard.pieces, wildcard.suffix, wildcard.prefix), key=len)
            size = min(len(literal), _KEY_OCTETS)
            # Rules of one file share beginnings or endings; the end that fewer rules share tells more of them apart.
            ends = [self.wildcards_by_octets.setdefault(key, []) for key in (literal[:size], literal[-size:])]
            min(ends, key=len).append(wildcard)
        self.wildcards = []

    def __repr__(self) -> str:
        wildcards = len(self.wildcards) + sum(map(len, self.wildcards_by_octets.values()))
        return f"rules={len(self.prefixes) + len(self.paths) + wildcards} wildcards={wildcards}"


def _best_wildcard(wildcards: Iterable[_Wildcard], path: bytes, best: _Rule) -> _Rule:
    work = 0
    for wildcard in wildcards:
        rule, shortest = wildcard.rule, wildcard.shortest
        if rule[0] > best[0] and shortest <= len(path):
            work += shortest * len(path)
            if work > _MOST_WORK:
                return _TOO_MUCH
            if wildcard.matches(path):
                best = rule
    return best


def _keep(rules: dict[bytes, _Rule], key: bytes, rule: _Rule) -> None:
    known = rules.get(key)
    if known is None or known[0] < rule[0]:
        rules[key] = rule


def _disallow_everything() -> Robots:
    rules = _Rules()
    rules.prefixes[b""] = (0, 0, b"")
    rules.prefix_lengths, rules.is_empty = (0,), False
    return Robots(_rules=rules)


ALLOW_ALL: Final = Robots()
"""No rules: there is no robots.txt, or none that says anything to us."""
DENY_ALL: Final = _disallow_everything()
"""Nothing but /robots.txt: the file cannot be reached, so its rules are unknown (section 2.3.1.4)."""
