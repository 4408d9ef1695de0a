"""Bodies, and what reads them: an error of the tree or a ValueError that says why, and bounded output."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import brotli
import pytest
from fuzz.mutations import HTML
from fuzz.strategies import fuzzed, mutated, texts
from hypothesis import example, given
from hypothesis import strategies as st

from crawler import Request
from crawler.css.reader import compile as compile_css
from crawler.download.body import STEP_BYTES, Decoder, zstd
from crawler.errors import BodyError
from crawler.kinds.link_extractor import LinkExtractor
from crawler.listings.sitemap import SitemapReader
from crawler.listings.syndication import FeedReader
from crawler.testing import fake_response

_PLAIN = HTML * 20 + bytes(3 * STEP_BYTES)
_CODED = (
    gzip.compress(_PLAIN, mtime=0), gzip.compress(HTML, mtime=0) * 3, zlib.compress(_PLAIN), brotli.compress(_PLAIN),
    zstd.compress(_PLAIN),
    gzip.compress(gzip.compress(HTML, mtime=0), mtime=0), b"",
)  # fmt: skip
_CODINGS = st.sampled_from(
    ("gzip", "x-gzip", "deflate", "br", "zstd", "gzip, br", "identity", "gzip, gzip", " ,", "zip")
)
_LIMIT = 100_000


@fuzzed
@given(
    mutated(_CODED, (b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\0\0\0\0", b"\xff" * 4, b"\0" * 4)),
    _CODINGS,
    st.integers(1, 200_000),
)
def test_a_coded_body_ends_within_the_limit_or_in_a_body_error(body: bytes, coding: str, size: int) -> None:
    made = 0
    with contextlib.suppress(BodyError):
        decoder = Decoder(coding, _LIMIT)
        for start in range(0, len(body), size):
            for piece in decoder.feed(body[start : start + size]):
                assert len(piece) <= max(STEP_BYTES, size)
                made += len(piece)
        decoder.finish()
    assert made <= _LIMIT


@fuzzed
@given(
    mutated(
        (b'{"a": [1, 2.5e3, null], "b": "\\u00e9"}', b"[1e999]", b'"\\ud800"'),
        (b"[" * 3000, b'{"a":' * 3000, b"\xff", b"NaN", b"9" * 5000, b"\\u"),
    )
)
@example(b"[" * 100_000)
def test_a_body_is_json_or_a_value_error(body: bytes) -> None:
    with contextlib.suppress(ValueError):
        fake_response("http://a.example/", body).json()


# -- listings ----------------------------------------------------------------------------------------------------------

_SITEMAP = """<?xml version='1.0' encoding='utf-8'?><urlset xmlns='http://www.sitemaps.org/schemas/sitemap/0.9'>
<url><loc>http://a.example/</loc><lastmod>2024-05-06T07:08:09Z</lastmod><priority>0.5</priority></url></urlset>"""
_RSS = """<rss version='2.0'><channel><title>T</title><item><title>A</title><link>/x</link>
<pubDate>Fri, 31 Dec 1999 23:59:59 GMT</pubDate><enclosure url='a.mp3' length='10' type='audio/mpeg'/></item>
</channel></rss>"""
_ATOM = """<feed xmlns='http://www.w3.org/2005/Atom' xml:base='http://b.example/'><entry><id>1</id><link href='y'/>
<updated>1999</updated><content type='xhtml'><div>t</div></content></entry></feed>"""
_LISTINGS = (
    _SITEMAP.encode(),
    b"<sitemapindex><sitemap><loc>http://a.example/1.xml</loc></sitemap></sitemapindex>",
    b"http://a.example/1\nhttp://a.example/2\n",
    _RSS.encode(),
    _ATOM.encode(),
    gzip.compress(b"<urlset><url><loc>http://a.example/</loc></url></urlset>", mtime=0),
)
_MARKUP = (
    b"<", b">", b"&", b"&amp;", b"&#x0;", b"&#1114112;", b"]]>", b"<![CDATA[", b"<!--",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"<a:b>", b"\0", b"\xff",
    b"xmlns=''", b"encoding='zip'", b"encoding='utf-16'", b"<priority>", b"</url>", b"<lastmod>" + b"9" * 400,
    b"1e999", b"\xd9\xa1", b"<x>" * 120,
)  # fmt: skip
_CHARSETS = st.sampled_from((None, "utf-8", "shift_jis", "utf-16", "zip", "utf-7", ""))


@fuzzed
@given(mutated(_LISTINGS, _MARKUP), _CHARSETS, st.integers(1, 300))
def test_a_sitemap_is_read_to_its_end_or_the_reader_says_why_not(body: bytes, charset: str | None, size: int) -> None:
    reader = SitemapReader(charset=charset)
    found = [each for at in range(0, len(body), size) for batch in reader.feed(body[at : at + size]) for each in batch]
    found += reader.close()
    assert reader.is_over or reader.problem or reader.kind
    for entry in found:
        priority = entry.get("priority")
        assert priority is None or 0 <= float(priority) <= 1 or isinstance(priority, str)
        assert str(entry["loc"]).encode() is not None


@fuzzed
@given(mutated(_LISTINGS, _MARKUP), _CHARSETS)
def test_a_feed_is_read_to_its_end_or_the_reader_says_why_not(body: bytes, charset: str | None) -> None:
    reader = FeedReader("http://a.example/feed", charset=charset)
    for _ in reader.read(body):
        pass
    assert reader.feed is not None
    for entry in reader.entries:
        assert entry.url is None or entry.url.encode() is not None
    assert reader.is_feed or reader.problem


# -- pages -------------------------------------------------------------------------------------------------------------

_SELECTORS = (
    "a::attr(href)", "div > p::text", "ul li:nth-child(2n+1) ::text", "a[href^='x' i]", "*|a", "h1, h2::text",
    ":is(a, b):not(.c)", "p:contains('x')",
    "a:has(> b)", "#id.class", ":lang(de)", "a\\:b", "a ~ b + c",
)  # fmt: skip
_SYMBOLS = (
    "::text",
    "::attr(",
    ")",
    "(",
    "[",
    "]",
    ":",
    ",",
    ">",
    "~",
    "+",
    "'",
    '"',
    "\\",
    "\\110000 ",
    "\x00",
    "/*",
    "*/",
    " ",
    "::before",
    ":not(",
    "\ud800",
    "-",
    "|",
)


@fuzzed
@given(st.one_of(mutated(_SELECTORS, _SYMBOLS), texts))
def test_a_selector_finds_strings_and_elements_or_is_a_value_error(query: str) -> None:
    page = fake_response("http://a.example/", HTML)
    with contextlib.suppress(ValueError):
        found = page.css(query)
        assert isinstance(found.getall(), list)
        assert found.get() is None or isinstance(found.get(), str)
        assert isinstance(page.css("body").css(query).getall(), list)
    compile_css.cache_clear()


_FORM = """<form action='?a' method=post enctype=multipart/form-data><select multiple name=s><option selected>1</select>
<input type=file name=f><input type=number value=x name=n><textarea name=t>
</textarea><button name=b formaction=//c.example>go</button></form><input form=z name=y>"""
_REFRESH = """<meta http-equiv=refresh content='0; url=/x'><a href=' /a b '>x</a><area href=#f><base href='ftp://x/'>
<img src=i.png>"""
_ROBOTS = "<meta name=robots content='noindex, unavailable_after: 1 Jan 2100'><a rel=nofollow href=javascript:x>y</a>"
_PAGES = (HTML, *(page.encode() for page in (_FORM, _REFRESH, _ROBOTS)))
_HTML_PIECES = (
    b"<", b">", b"</", b"'", b'"', b"=", b"\0", b"\xff", b"<form>", b"<base href='http://\xe2\x84\x80/'>",
    b"<base href=//[>", b"<template>", b"<svg>",
    b"name=__proto__", b"href=http://[::1", b"&#xd800;", b"type=_charset_", b"<!--", b"<select>",
    b"accept-charset=zip ", b"<plaintext>", b"href=\t\n//x ",
)  # fmt: skip


@fuzzed
@given(mutated(_PAGES, _HTML_PIECES))
def test_links_and_forms_of_any_page_become_requests_or_value_errors(body: bytes) -> None:
    page = fake_response("http://a.example/b/c?d", body)
    for url in page.links():
        assert Request(url).url == url
    for request in page.follow_all("a[href], area[href], img[src]"):
        assert request.url.isascii()
    assert all(link.url.isascii() for link in LinkExtractor().extract_links(page))
    assert page.robots is not None
    for index in range(3):
        with contextlib.suppress(ValueError):
            form = page.form(index=index)
            assert form.fields is not None
            assert form.buttons is not None
            assert form.fill().url.startswith("http")
            repr(form)


@pytest.mark.parametrize("depth", [200, 100_000])
def test_json_that_is_too_deep_is_a_value_error_that_says_so(depth: int) -> None:
    page = fake_response("http://a.example/deep", b"[" * depth + b"]" * depth)
    if depth == 200:
        assert page.json()
        return
    with pytest.raises(ValueError, match=r"http://a\.example/deep is not JSON"):
        page.json()
