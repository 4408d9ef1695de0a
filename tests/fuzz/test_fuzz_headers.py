"""Header fields and the files that speak for a host: whatever they hold, they are read without an exception, and what
comes out of them stays within its bounds."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from fuzz.mutations import HOSTILE_NUMBERS
from fuzz.strategies import fuzzed, mutated, numbers, texts
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from crawler.cookies.jar import Allowance, CookieJar
from crawler.directives import read as read_directives
from crawler.download.ranges import Origin, length_of, origin_of, rest_of
from crawler.encoding import CODECS, charset_from_content_type, decode, detect
from crawler.file_names import suffix_of
from crawler.listings.dates import read_date
from crawler.retry import RetryPolicy
from crawler.robots import LONGEST_LIFETIME, Robots, lifetime
from crawler.testing import fake_response

NOW = 1.7e9
ORIGIN = Origin("http://a.example/", '"a"')
_DATES = (
    "Fri, 31 Dec 1999 23:59:59 GMT", "Friday, 31-Dec-99 23:59:59 GMT", "Fri Dec 31 23:59:59 1999",
    "1999-12-31T23:59:59Z",
    "31 Dec 2100 23:59:59 +0100", "2100-12-31", "19991231T235959,5+01:00", "2024-5-6", "Thu, 01 Jan 1970 00:00:00 GMT",
)  # fmt: skip
_PIECES = (
    "999999999999", "-", "+", ":", ",", " ", "GMT", "\u0661", "\x00", "(", ")", "+9999", "-2400", "60", "24", "00",
    "Feb", "0001", "T",
)  # fmt: skip
dates = st.one_of(mutated(_DATES, _PIECES), numbers)


def fields(**given: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): value for name, value in given.items()}))


# -- dates and numbers -------------------------------------------------------------------------------------------------


@fuzzed
@given(dates)
def test_a_retry_after_is_a_wait_within_the_clamp_or_none(value: str) -> None:
    wait = RetryPolicy().retry_after(fields(Retry_After=value), NOW)
    assert wait is None or 0 <= wait <= 900


@fuzzed
@given(dates, dates, dates, numbers)
def test_a_robots_txt_is_kept_for_ten_minutes_to_a_day(control: str, expires: str, date: str, age: str) -> None:
    for given_fields in (fields(Cache_Control=f"max-age={control}", Age=age), fields(Expires=expires, Date=date)):
        assert 600 <= lifetime(given_fields) <= LONGEST_LIFETIME


@fuzzed
@given(dates)
def test_a_date_of_a_listing_is_an_aware_moment_or_none(value: str) -> None:
    found = read_date(value)
    assert found is None or (found.utcoffset() is not None and isinstance(found, dt.datetime))


@pytest.mark.hostile("S53")
@pytest.mark.parametrize("number", HOSTILE_NUMBERS, ids=lambda number: ascii(number)[:20])
def test_a_number_of_a_stranger_is_taken_wherever_it_stands(number: str) -> None:
    wait = RetryPolicy().retry_after(fields(Retry_After=number), NOW)
    assert wait is None or 0 <= wait <= 900
    for control in (f"max-age={number}", f"s-maxage=1, max-age={number}"):
        assert 600 <= lifetime(fields(Cache_Control=control, Age=number)) <= LONGEST_LIFETIME
    delay = Robots.parse(f"User-agent: *\nCrawl-delay: {number}", "bot").crawl_delay
    assert delay is None or 0 <= delay < 1e9
    jar = CookieJar()
    jar.store("http://a.example/", [f"a=b; Max-Age={number}", f"c=d; Expires={number}"], NOW)
    assert all(cookie.expires is None or 0 <= cookie.expires < 1e12 for cookie in jar)
    asked = read_directives([f"max-snippet:{number}", f"unavailable_after: {number}"])
    assert asked.max_snippet is None or -1 <= asked.max_snippet < 1e9
    assert read_date(number) is None or read_date(number).tzinfo is not None
    answer = fake_response("http://a.example/", "x", status=206, headers={"Content-Length": number, "ETag": '"a"'})
    assert length_of(answer) is None or length_of(answer) >= 0
    assert rest_of(answer, origin_of(answer) or ORIGIN, 0) is None
    answer = fake_response("http://a.example/", "x", headers={"Content-Range": f"bytes 0-{number}/{number}"})
    rest = rest_of(answer, ORIGIN, 0)
    assert rest is None or 0 < rest.end <= rest.total
    whole = origin_of(fake_response("http://a.example/", "x", headers={"ETag": '"a"', "Content-Length": number}))
    assert whole is None or whole.total >= 0


@pytest.mark.hostile("S53")
@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 999999999999 23:59:59 GMT",
        "Fri, 31 Dec 0000 00:00:00 GMT",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "Fri, 31 Dec 1999 23:59:59 +999999",
        "Fri, 99 Feb 1999 99:99:99 GMT",
        "31 Dec 1999",
        "\u0661\u0669\u0669\u0669-12-31",
    ],
)
def test_a_date_of_a_stranger_is_taken_wherever_it_stands(date: str) -> None:
    wait = RetryPolicy().retry_after(fields(Retry_After=date), NOW)
    assert wait is None or 0 <= wait <= 900
    assert 600 <= lifetime(fields(Expires=date, Date=date)) <= LONGEST_LIFETIME
    jar = CookieJar()
    jar.store("http://a.example/", [f"c=d; Expires={date}"], NOW)
    assert all(cookie.expires is None or math.isfinite(cookie.expires) for cookie in jar)
    assert read_directives([f"unavailable_after: {date}"], now=NOW) is not None
    assert read_date(date) is None or read_date(date).tzinfo is not None
    modified = fake_response(
        "http://a.example/", "x", headers={"Last-Modified": date, "Date": date, "Content-Length": "1"}
    )
    assert origin_of(modified) is None


# -- cookies, directives, ranges, types --------------------------------------------------------------------------------

_COOKIES = (
    "a=b; Path=/; Domain=example.org; Max-Age=3600; Secure; HttpOnly; SameSite=Lax", "a=", "=b", "a",
    "__Host-x=1; Secure; Path=/",
    'q="a b"; Expires=Fri, 31 Dec 2100 23:59:59 GMT', "a=b; Domain=co.uk", "é=ü; path=/x/y", "a=b; max-age=-1",
)  # fmt: skip
_COOKIE_PIECES = (
    ";",
    "=",
    ",",
    " ",
    "\t",
    "\x00",
    "\x1f",
    '"',
    "\udcff",
    "Domain=.",
    "Domain=127.0.0.1",
    "Max-Age=" + "9" * 400,
    "x" * 5000,
)
_SITES = (
    "http://example.org/",
    "https://www.example.org/a/b?c",
    "http://127.0.0.1/",
    "https://a.co.uk/x/",
    "http://[::1]/",
)


@fuzzed
@given(st.lists(st.tuples(st.sampled_from(_SITES), mutated(_COOKIES, _COOKIE_PIECES)), max_size=8), st.floats(0, 1e12))
def test_a_jar_stays_within_its_limits_and_gives_each_host_what_a_header_can_hold(
    lines: list[tuple[str, str]], now: float
) -> None:
    jar = CookieJar(unsafe=True, allowance=Allowance(total=4, per_site=2))
    for url, line in lines:
        jar.store(url, [line], now)
    assert len(jar) <= 4
    for url in _SITES:
        header = jar.header(url, now)
        assert not any(character in header for character in "\r\n\0")
        assert header.encode() is not None
        assert all(cookie.expires is None or cookie.expires > now for cookie in jar.select(url, now))


@fuzzed
@given(
    st.lists(
        mutated(
            ("noindex, nofollow", "otherbot: none", "max-snippet:-1", f"unavailable_after: {_DATES[0]}"),
            (*_PIECES, ":", "bot"),
        ),
        max_size=3,
    )
)
def test_directives_are_read_from_any_fields(given_fields: list[str]) -> None:
    found = read_directives(given_fields, [("robots", each) for each in given_fields], token="otherbot", now=NOW)
    assert found.unavailable_after is None or found.unavailable_after.tzinfo is not None


@fuzzed
@given(
    mutated(("bytes 0-9/500", "bytes */500", "bytes 10-19/*"), (*_PIECES, "-", "/", "*", "9" * 30)),
    mutated(('"abc"', 'W/"abc"', '""'), ('"', "\udcff", "\\")),
    numbers,
    dates,
)
def test_the_rest_of_a_body_is_taken_or_left_whatever_the_fields_say(
    content_range: str, tag: str, length: str, date: str
) -> None:
    headers = {
        "Content-Range": content_range,
        "ETag": tag,
        "Content-Length": length,
        "Last-Modified": date,
        "Date": date,
    }
    answer = fake_response("http://a.example/", "x" * 10, headers=headers)
    origin = origin_of(answer)
    if origin is not None:
        rest = rest_of(answer, origin, 0)
        assert rest is None or 0 < rest.end <= rest.total


_TYPES = (
    "text/html; charset=utf-8",
    'text/xml; charset="utf-16"',
    "application/json",
    "text/html;charset=shift_jis",
    "image/png",
)
_BODIES = (
    b"<meta charset=utf-8>\xff", b"\xef\xbb\xbf<?xml version='1.0' encoding='euc-jp'?>", b"\xff\xfea\0",
    b"<meta http-equiv=content-type content='a; charset=big5'>",
    "日本".encode("shift_jis"), b"\x1b$B", b"\x81\x8d", b"<!-- <meta charset=utf-7> -->",
)  # fmt: skip


@fuzzed
@given(
    mutated(
        _BODIES,
        (b"<meta ", b"charset=", b"\0", b"'", b'"', b"utf-16", b"replacement", b"zip", b"\xff", b">", b"<!--", b"="),
    ),
    mutated(_TYPES, ("charset=", ";", '"', "zip", "utf-7", "undefined", "idna", "\x00", "\udcff", "\\")),
)
def test_a_body_has_an_encoding_of_the_standard_and_a_text_in_it(body: bytes, content_type: str) -> None:
    codec = detect(body, content_type)
    assert codec in CODECS
    assert decode(body, codec).encode() is not None
    assert decode(body, content_type).encode() is not None
    charset = charset_from_content_type(content_type)
    assert charset is None or charset.strip()
    assert len(suffix_of("http://a.example/x", content_type)) <= 6


@fuzzed
@given(
    mutated(("http://a.example/a.pdf", "http://a.example/a.tar.gz?x=.exe"), ("/", "..", "%2f", "\x00", ".", "?")), texts
)
def test_the_suffix_of_a_saved_file_is_one_that_is_known(url: str, content_type: str) -> None:
    suffix = suffix_of(url, content_type)
    assert suffix == "" or suffix[1:].isalnum()


# -- robots.txt --------------------------------------------------------------------------------------------------------

_ROBOTS = (
    b"User-agent: *\nDisallow: /a*b$\nAllow: /a/%7Eb\nCrawl-delay: 2.5\nUser-agent: bot\nDisallow:\nSitemap: /s.xml\n",
    b"user-agent: *\rdisallow: /\rallow: /x$\r",
    "User-agent: bot\nDisallow: /ü\n".encode("utf-16"),
    b"<html><body>404</body></html>",
)


@fuzzed
@given(
    mutated(_ROBOTS, (b"*", b"$", b"\n", b"\r", b":", b"#", b"%", b"%2a", b"\0", b"\xff", b"User-agent: bot\n",
    b"Crawl-delay: 1e9\n", b"**", b" ")),
    mutated(("http://a.example/a/b", "/x?y", "", "/ü%7E", "/a*b$"), ("%", "*", "$", "?", "#", "\ud800", "//")),
)  # fmt: skip
def test_a_robots_txt_of_any_bytes_decides_about_any_path(body: bytes, path: str) -> None:
    rules = Robots.parse(body, "bot")
    assert rules.check(path).allowed in (True, False)
    assert rules.check("/robots.txt").allowed
    assert rules.crawl_delay is None or 0 <= rules.crawl_delay < 1e9
    for sitemap in rules.sitemaps:
        assert sitemap.encode() is not None
