"""Valid and odd HTTP answers, and what chance makes of them. One seed and number give the same bytes everywhere."""

from __future__ import annotations

import gzip
import random
import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

import brotli

from crawler.download.body import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ANSWERS", "HOSTILE_NUMBERS", "Case", "make_case", "owner"]

HTML: Final = (
    b"<!doctype html><html><head><meta charset=utf-8><base href='/b/'>"
    b"<meta name=robots content='nofollow, max-snippet:5'>"
    b"<title>T</title></head><body><a href='x?y=1#z'>one</a><a href='//127.0.0.2/'>two</a>"
    b"<form action=f method=post><input name=a value=1></form></body></html>"
)
JSON: Final = b'{"a": [1, 2.5e3, null], "b": "\\u00e9"}'

HOSTILE_NUMBERS: Final = (
    "", "0", "-0", "-1", "+5", "1e3", "0x10", "1_000", "1.5", ".5", "5.", "NaN", "inf", "-inf", "\u0661\u0662",
    "\uff15", "\u00b2",
    "9" * 20, "9" * 400, "9" * 5000, "-" + "9" * 400, "1 2", " 7 ", "7\t", "7;", "7,8", "18446744073709551616",
    "2147483648",
    "1e400", "1e-400", "00000000000000000007", "--1", "\x00", "7\x00",
)  # fmt: skip
"""What a number may be, where somebody else wrote it."""


def _answer(body: bytes, *fields: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    lines = [f"HTTP/{version} {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _open_ended(body: bytes, *fields: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    return "\r\n".join([f"HTTP/{version} {status}", *fields, "", ""]).encode("latin-1") + body


def _chunked(body: bytes, *fields: str, size: int = 50, extension: str = "", trailers: str = "") -> bytes:
    head = "\r\n".join(["HTTP/1.1 200 OK", *fields, "Transfer-Encoding: chunked", "", ""]).encode("latin-1")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension.encode(), piece) for piece in pieces)
    return head + chunks + b"0" + extension.encode() + b"\r\n" + trailers.encode() + b"\r\n"


def _deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


_KIND: Final = "Content-Type: text/html; charset=utf-8"
ANSWERS: Final[tuple[bytes, ...]] = (
    _answer(HTML, _KIND),
    _answer(HTML, _KIND, "Connection: close"),
    _answer(HTML, _KIND, version="1.0"),
    _answer(HTML, _KIND, "Connection: keep-alive", version="1.0"),
    _answer(JSON, "Content-Type: application/json"),
    _answer("é".encode("latin-1") * 50, "Content-Type: text/html; charset=ISO-8859-1", "X-Name: caf\xe9"),
    _answer("日本".encode("utf-16"), "Content-Type: text/plain"),
    _answer(b"", status="204 No Content"),
    _open_ended(b"", 'ETag: "abc"', status="304 Not Modified"),
    _open_ended(HTML, _KIND),
    _open_ended(HTML, _KIND, "Connection: close", version="1.0"),
    _open_ended(b"", "Connection: Upgrade", "Upgrade: websocket", status="101 Switching Protocols"),
    _chunked(HTML, _KIND),
    _chunked(HTML, _KIND, size=1),
    _chunked(HTML, _KIND, extension=";name=value"),
    _chunked(HTML, _KIND, "Trailer: X-Sum", trailers="X-Sum: 1\r\nX-More: 2\r\n"),
    _chunked(gzip.compress(HTML, mtime=0), _KIND, "Content-Encoding: gzip"),
    _chunked(brotli.compress(HTML), _KIND, "Content-Encoding: br", size=7),
    _answer(gzip.compress(HTML, mtime=0), _KIND, "Content-Encoding: gzip"),
    _answer(gzip.compress(HTML, mtime=0) * 3, _KIND, "Content-Encoding: x-gzip"),
    _answer(zlib.compress(HTML), _KIND, "Content-Encoding: deflate"),
    _answer(_deflated(HTML), _KIND, "Content-Encoding: deflate"),
    _answer(brotli.compress(HTML), _KIND, "Content-Encoding: br"),
    _answer(zstd.compress(HTML), _KIND, "Content-Encoding: zstd"),
    _answer(gzip.compress(brotli.compress(HTML), mtime=0), _KIND, "Content-Encoding: br, gzip"),
    _answer(gzip.compress(bytes(200_000), mtime=0), "Content-Encoding: gzip"),
    _answer(HTML, _KIND, "Content-Encoding: gzip, gzip, gzip"),
    _answer(b"", "Location: /next?a=b#c", status="301 Moved Permanently"),
    _answer(HTML, "Location: http://example.org:81/caf\xe9", "Server: n\xe4me", status="302 Found"),
    _answer(b"", "Location: //user:secret@example.org/", "Set-Cookie: a=b", status="307 Temporary Redirect"),
    _answer(b"", "Location: ftp://example.org/", status="308 Permanent Redirect"),
    _answer(b"", "Location: http://[::1", status="303 See Other"),
    _answer(b"later", "Retry-After: 120", status="503 Service Unavailable"),
    _answer(b"later", "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT", status="429 Too Many Requests"),
    _answer(b"no", 'WWW-Authenticate: Digest realm="a", nonce="b", qop="auth"', status="401 Unauthorized"),
    _answer(
        HTML,
        _KIND,
        "Set-Cookie: sid=1; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax",
        "Set-Cookie: old=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure",
        "Set-Cookie: q=\"x y\"; Domain=example.org",
    ),
    _answer(HTML, _KIND, "X-Robots-Tag: otherbot: noindex, nofollow", "X-Robots-Tag: unavailable_after: 25 Jun 2100"),
    _answer(HTML, _KIND, "Cache-Control: max-age=60, s-maxage=5", "Age: 10", "Expires: Fri, 31 Dec 2100 23:59:59 GMT"),
    _answer(HTML[:10], "Content-Range: bytes 0-9/500", 'ETag: "a"', "Accept-Ranges: bytes",
    status="206 Partial Content"),
    _answer(HTML, 'Content-Disposition: attachment; filename="../a.txt"; filename*=UTF-8\'\'%e2%82%ac'),
    _answer(b"User-agent: *\nDisallow: /a*b$\nCrawl-delay: 3\nSitemap: /s.xml\n", "Content-Type: text/plain"),
    _answer(b"<?xml version='1.0'?><urlset><url><loc>http://a.example/</loc></url></urlset>", "Content-Type: text/xml"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + _answer(HTML, _KIND),
    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n" * 3 + _answer(HTML, _KIND),
    _answer(HTML, *(f"X-Header-{number}: {'v' * number}" for number in range(60))),
    b"HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n  b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"<html>no HTTP at all</html>",
    b"",
)  # fmt: skip

_TOKENS: Final[tuple[bytes, ...]] = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"=", b'"', b"\x1b[31m", b"\xff", b"\xc3\xa9",
    b"\xe2\x80\xa8",
    b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/9.9 ", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Encoding: gzip\r\n", b"Content-Encoding: \xff\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Connection: close\r\n", b"Keep-Alive: timeout=\xb2\r\n",
    b"Location: http://\x00/\r\n", b"Location: \xff\xfe\r\n", b"Location: data:text/html,x\r\n", b"Location: \r\n",
    b"Set-Cookie: \r\n", b"Set-Cookie: a=\xff; Max-Age=\xd9\xa1; Expires=x\r\n",
    b"Content-Type: text/html; charset=zip\r\n",
    b"Content-Type: text/html; charset=\"utf-7\r\n", b"Retry-After: 9e999\r\n", b"0\r\n\r\n",
    b"fffffffffffffffff\r\n", b"-1\r\n",
    b"X: " + b"y" * 9000 + b"\r\n", b"X: y\r\n" * 130, b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf",
    b"\xfe\xff",
    b"<a href='", b"<!--", b"<meta charset=utf-16>", b"[" * 3000, b"<div>" * 200,
)  # fmt: skip


class Case(NamedTuple):
    """One answer and how it is sent."""

    data: bytes
    cuts: tuple[int, ...]
    """Where the server pauses while it sends."""
    closes: bool
    """Whether the server hangs up behind it."""
    resets: bool
    """With a reset, then."""


def make_case(seed: int, number: int) -> Case:
    rng = random.Random(f"{seed}/{number}")
    data = _signed(rng.choice(ANSWERS), number)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
        data = rng.choice(_MUTATIONS)(rng, data)
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice((0, 0, 1, 3)))) if data else []
    closes = rng.random() < 0.7
    return Case(data, tuple(cuts), closes, closes and rng.random() < 0.1)


def _signed(data: bytes, number: int) -> bytes:
    line, end, rest = data.partition(b"\r\n")
    return line + end + b"X-Case: %d-%d\r\n" % (number, _sum(number)) + rest if line.startswith(b"HTTP/") else data


def owner(headers: Mapping[str, str]) -> int | None:
    """The number of the case that this answer was made for, where chance has left that readable."""
    found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,12})", headers.get("X-Case", ""))
    return int(found[1]) if found and int(found[2]) == _sum(int(found[1])) else None


def _sum(number: int) -> int:
    return zlib.crc32(b"%d" % number)


def _flip(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return data
    at = _place(rng, data) % len(data)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _drop(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 1, 2, 5, 20, 100)) :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at : at + rng.choice((1, 5, 50, 500))] * rng.choice((2, 3, 20)) + data[at:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(_TOKENS) + data[at:]


def _splice(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(ANSWERS)
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _number(rng: random.Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"\d+", data[:2000]))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + rng.choice(HOSTILE_NUMBERS).encode() + data[one.end() :]


def _field(rng: random.Random, data: bytes) -> bytes:
    """A line of the head: gone, twice, elsewhere, or in other letters."""
    head, gap, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        case 2:
            rng.shuffle(lines)
        case _:
            lines[at] = lines[at].swapcase()
    return b"\r\n".join(lines) + gap + body


def _place(rng: random.Random, data: bytes) -> int:
    """In the head or where it ends, more often than in the body."""
    end = data.find(b"\r\n\r\n") + 4
    if end > 4 and rng.random() < 0.7:
        return min(rng.randrange(end + 8), len(data))
    return rng.randrange(len(data) + 1)


_MUTATIONS: Final[tuple[Callable[[random.Random, bytes], bytes], ...]] = (
    _flip, _flip, _drop, _cut, _repeat, _insert, _insert, _splice, _number, _field,
)  # fmt: skip
