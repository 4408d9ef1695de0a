"""Cookies as RFC 6265, section 5, has them: dates, lines, who may set what for whom, and what is sent when."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from email.utils import format_datetime
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crawler import url as urls
from crawler.cookies import (
    Allowance,
    Cookie,
    CookieJar,
    Cookies,
    is_public_suffix,
    parse_date,
    parse_set_cookie,
    registrable_domain,
)
from crawler.cookies.cookie import default_path, domain_matches, path_matches
from crawler.errors import InvalidURL

NOW = 1_800_000_000.0  # January 2027
DAY = 86_400.0
PAGE = "https://www.shop.test/books/list?page=2"
VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors" / "public-suffix.txt"
any_speed = settings(deadline=None)  # other work on the machine must not fail a test


def jar_of(*lines: str, url: str = PAGE, **options: Any) -> CookieJar:
    """A jar after one response from `url`, none of whose cookies was refused."""
    jar = CookieJar(**options)
    assert jar.store(url, lines, NOW) == []
    return jar


def why_refused(line: str, url: str = PAGE) -> str:
    """The reason, of a jar that then is empty."""
    jar = CookieJar()
    ((_, why),) = jar.store(url, [line], NOW)
    assert len(jar) == 0
    return why


def names(jar: CookieJar, url: str, now: float = NOW) -> list[str]:
    return [cookie.name for cookie in jar.select(url, now)]


# -- dates (5.1.1) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tue, 09 Mar 2027 10:20:30 GMT", "2027-03-09 10:20:30"),
        ("Tuesday, 09-Mar-27 10:20:30 GMT", "2027-03-09 10:20:30"),
        ("Tue Mar  9 10:20:30 2027", "2027-03-09 10:20:30"),
        ("2027 march 9 1:2:3", "2027-03-09 01:02:03"),
        ("10:20:30 9 2027 MARS", "2027-03-09 10:20:30"),
        ("9/Mar/2027/10:20:30", "2027-03-09 10:20:30"),
        ("9th Mar 2027th 10:20:30.5", "2027-03-09 10:20:30"),  # what follows the digits of a token does not count
        ("09 Mar 2027 10:20:30 +0200", "2027-03-09 10:20:30"),  # nor does a zone
        ("09 Mar 2027 10:20:30 23:59:59", "2027-03-09 10:20:30"),  # the first time of several
        ("09 Mar Apr 2027 10:20:30", "2027-03-09 10:20:30"),
        ("5 06 Mar 10:20:30", "2006-03-05 10:20:30"),  # the first number is the day
        ("05 70 Mar 10:20:30", "1970-03-05 10:20:30"),
        ("05 99 Mar 10:20:30", "1999-03-05 10:20:30"),
        ("05 69 Mar 10:20:30", "2069-03-05 10:20:30"),
        ("05 00 Mar 10:20:30", "2000-03-05 10:20:30"),
        ("05 100 Mar 10:20:30 1700", None),  # three digits are a year too, and 100 is before 1601
        ("29 Feb 2028 00:00:00", "2028-02-29 00:00:00"),
        ("29 Feb 2027 00:00:00", None),
        ("31 Apr 2027 00:00:00", None),
        ("00 Apr 2027 00:00:00", None),
        ("32 Apr 2027 00:00:00", None),
        ("01 Jan 1601 00:00:00", "1601-01-01 00:00:00"),
        ("31 Dec 1600 23:59:59", None),
        ("31 Dec 9999 23:59:59", "9999-12-31 23:59:59"),
        ("01 Apr 2027 24:00:00", None),
        ("01 Apr 2027 00:60:00", None),
        ("01 Apr 2027 00:00:60", None),
        ("01 Apr 2027 00:00", None),
        ("01 Apr 2027 00:00:000", None),
        ("01 Apr 2027 000:00:00", None),
        ("01 Apr 20270 00:00:00", None),
        ("001 Apr 2027 00:00:00", None),  # three digits are no day, and then the year is taken
        ("01 Apr 00:00:00", None),
        ("Apr 2027 00:00:00", None),
        ("01 2027 00:00:00", None),
        ("01 Ap 2027 00:00:00", None),
        ("٠١ Apr 2027 00:00:00", None),  # digits, but not ASCII's
        ("0", None),
        ("", None),
    ],
)
def test_a_date_is_read_token_by_token(text: str, expected: str | None) -> None:
    found = parse_date(text)
    assert found == (expected and dt.datetime.fromisoformat(f"{expected}+00:00").timestamp())


@given(st.integers(-11_644_473_600, 253_402_300_799))
@any_speed
def test_every_http_date_is_read(second: int) -> None:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=second)
    assert parse_date(format_datetime(moment, usegmt=True)) == second


# -- matching (5.1.3, 5.1.4) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "domain", "expected"),
    [
        ("shop.test", "shop.test", True),
        ("www.shop.test", "shop.test", True),
        ("a.b.shop.test", "shop.test", True),
        ("shop.test", "www.shop.test", False),
        ("workshop.test", "shop.test", False),
        ("shop.test.evil", "shop.test", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "0.0.1", False),
        ("10.0.0.1", "1", False),
        ("::1", "::1", True),
        ("shop.test.", "shop.test", False),
    ],
)
def test_a_host_matches_its_own_name_and_those_above(host: str, domain: str, expected: bool) -> None:
    assert domain_matches(host, domain) is expected


@pytest.mark.parametrize(
    ("path", "cookie_path", "expected"),
    [
        ("/", "/", True),
        ("/books", "/", True),
        ("/books", "/books", True),
        ("/books/", "/books", True),
        ("/books/1", "/books", True),
        ("/books/1", "/books/", True),
        ("/books", "/books/", False),
        ("/bookshelf", "/books", False),
        ("/Books", "/books", False),
        ("/", "/books", False),
        ("/b%6Foks", "/books", False),
        ("/books//1", "/books/", True),
    ],
)
def test_a_path_matches_itself_and_the_folders_it_is_in(path: str, cookie_path: str, expected: bool) -> None:
    assert path_matches(path, cookie_path) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", "/"), ("/a", "/"), ("/a/", "/a"), ("/a/b", "/a"), ("/a/b/", "/a/b"), ("//", "/"), ("//a", "/")],
)
def test_the_default_path_is_the_folder_of_the_request(path: str, expected: str) -> None:
    assert default_path(path) == expected


# -- public suffixes ---------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S18")
@pytest.mark.skipif(
    not VECTORS.is_file(), reason="the public suffix cases (../shared/vectors/public-suffix.txt) are not here"
)
def test_the_public_suffix_vectors_hold() -> None:
    lines = [line.split() for line in VECTORS.read_text("utf-8").splitlines() if line and not line.startswith("//")]
    cases = [(host, None if expected == "null" else expected) for host, expected in lines if host != "null"]
    assert len(cases) >= 75
    assert [(host, registrable_domain(host)) for host, _ in cases] == cases


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("www.example.co.uk", "example.co.uk"),
        ("www.example.co.uk.", "example.co.uk"),
        ("somebody.github.io", "somebody.github.io"),  # the private section counts
        ("github.io", None),
        ("localhost", None),
        ("example.nosuchtopleveldomain", "example.nosuchtopleveldomain"),
        ("a..com", None),
        ("", None),
        (".", None),
        ("127.0.0.1", None),
        ("::1", None),
    ],
)
def test_the_registrable_domain_is_the_public_suffix_and_a_label(host: str, expected: str | None) -> None:
    assert registrable_domain(host) == expected


def test_an_address_is_no_public_suffix() -> None:
    assert [is_public_suffix(domain) for domain in ("10.0.0.1", "::1", "com", "co.uk", "example.com")] == [
        False,
        False,
        True,
        True,
        False,
    ]


@given(st.lists(st.one_of(st.text(), st.from_regex(r"xn--[a-z0-9-]{0,12}", fullmatch=True)), max_size=5))
@example(["xn--", "xn--99999999", "xn--a-\ud800"])
@any_speed
def test_whatever_the_host_its_registrable_domain_is_its_end_or_none(labels: list[str]) -> None:
    host = ".".join(labels)
    found = registrable_domain(host)
    assert found is None or host.lower().removesuffix(".").endswith(found)


def test_the_list_is_not_loaded_before_a_cookie_needs_it() -> None:
    code = (
        "import sys; from crawler.cookies import CookieJar; jar = CookieJar(); jar.header('http://a.test/', 0.0); "
        "heavy = {'publicsuffixlist', 'aiohttp', 'asyncio'}; print(heavy & set(sys.modules)); "
        "jar.store('http://a.test/', ['a=b'], 0.0); print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "{'publicsuffixlist'}"]


# -- reading a line (5.2) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("a=b", "a", "b"),
        ("a=", "a", ""),
        ("a=b=c", "a", "b=c"),
        ("a==", "a", "="),
        (" \ta \t=\t b ", "a", "b"),
        ("a b=c d", "a b", "c d"),
        ('a="b; c"', "a", '"b'),
        ('a="b"', "a", '"b"'),
        ("a=b, c=d", "a", "b, c=d"),
        ("a=b\tc", "a", "b\tc"),
        ("$Version=1; a=b", "$Version", "1"),
        ("naïve=œuvre", "naïve", "œuvre"),
        ("a=b;", "a", "b"),
        ("a=b;;;", "a", "b"),
        ("expires=1", "expires", "1"),
    ],
)
def test_name_and_value_stand_around_the_first_equals_sign(line: str, name: str, value: str) -> None:
    found = parse_set_cookie(line, NOW)
    assert (found.name, found.value) == (name, value)


@pytest.mark.parametrize("line", ["", ";", "a", "a; b=c", "=", "=b", " =b", "=a=b", "\t=", "; a=b", "   "])
def test_a_line_without_a_name_is_ignored(line: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        parse_set_cookie(line, NOW)


@pytest.mark.parametrize("character", [*map(chr, [*range(9), *range(10, 32), 127])])
@pytest.mark.parametrize("line", ["a{}=b", "a=b{}c", "a=b; Path=/{}", "a=b; {}"])
def test_a_line_with_a_control_character_is_ignored(line: str, character: str) -> None:
    with pytest.raises(ValueError, match="a control character"):
        parse_set_cookie(line.format(character), NOW)


def test_a_line_that_has_no_utf8_is_ignored() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        parse_set_cookie("a=caf\udce9", NOW)


@pytest.mark.hostile("S21")
@pytest.mark.parametrize("letter", ["x", "é", "🍪"])
def test_name_and_value_have_4096_bytes_together(letter: str) -> None:
    room = 4095 // len(letter.encode())
    assert parse_set_cookie(f"{'a' * (4096 - room * len(letter.encode()))}={letter * room}", NOW).value
    with pytest.raises(ValueError, match="more than 4096 bytes"):
        parse_set_cookie(f"{'a' * (4097 - room * len(letter.encode()))}={letter * room}; Path=/", NOW)


@pytest.mark.parametrize(
    ("attributes", "expires"),
    [
        ("", None),
        ("Expires=Tue, 09 Mar 2027 10:20:30 GMT", 1_804_587_630.0),
        ("expires = \t Tue, 09 Mar 2027 10:20:30 GMT \t ", 1_804_587_630.0),
        ("Expires=soon", None),
        ("Expires=Tue, 09 Mar 2027 10:20:30 GMT; Expires=soon", 1_804_587_630.0),  # what is no date is not there
        ("Expires=01 Jan 2001 0:0:0; Expires=Tue, 09 Mar 2027 10:20:30 GMT", 1_804_587_630.0),
        ("Max-Age=60", NOW + 60),
        ("MAX-AGE=0060", NOW + 60),
        ("Max-Age=0", NOW),
        ("Max-Age=-1", NOW),
        ("Max-Age=-99999999999999999999999", NOW),
        ("Max-Age=" + "0" * 30 + "7", NOW + 7),
        ("Max-Age=" + "9" * 1000, 253_402_300_799.0),  # clamped to the last day there is
        ("Max-Age=60; Expires=Tue, 09 Mar 2027 10:20:30 GMT", NOW + 60),
        ("Expires=Tue, 09 Mar 2027 10:20:30 GMT; Max-Age=60", NOW + 60),
        ("Max-Age=60; Max-Age=70", NOW + 70),
        ("Max-Age=60; Max-Age=x", NOW + 60),
        *[(f"Max-Age={text}", None) for text in ("", "-", "+5", "5.5", "5 5", "1e3", "٥", "--5", '"60"', "60s")],
    ],
)
def test_max_age_and_expires_say_when_a_cookie_ends(attributes: str, expires: float | None) -> None:
    assert parse_set_cookie(f"a=b; {attributes}", NOW).expires == expires


@pytest.mark.parametrize(
    ("attributes", "domain"),
    [
        ("Domain=shop.test", "shop.test"),
        ("Domain=.shop.test", "shop.test"),
        ("Domain=..shop.test", ".shop.test"),
        ("DOMAIN=Shop.TEST", "shop.test"),
        ("Domain=", ""),
        ("Domain", ""),
        ("Domain=shop.test; Domain=", "shop.test"),
        ("Domain=.", ""),
        ("Domain=shop.test; Domain=.", ""),
        ("Domain=a.test; Domain=b.test", "b.test"),
        ('Domain="shop.test"', '"shop.test"'),
        (f"Domain={'a' * 1025}", ""),
    ],
)
def test_the_domain_attribute_loses_one_dot_and_its_case(attributes: str, domain: str) -> None:
    assert parse_set_cookie(f"a=b; {attributes}", NOW).domain == domain


@pytest.mark.parametrize(
    ("attributes", "path"),
    [
        ("Path=/x", "/x"),
        ("path=/X/", "/X/"),
        ("Path=", ""),
        ("Path", ""),
        ("Path=x", ""),
        ('Path="/x"', ""),
        ("Path=/x; Path=/y", "/y"),
        ("Path=/x; Path=", ""),  # the default is a value like another, and the last counts
        ("Path=/x?y#z", "/x?y#z"),
        (f"Path=/x; Path=/{'y' * 1024}", "/x"),
    ],
)
def test_a_path_that_does_not_begin_with_a_slash_is_the_default(attributes: str, path: str) -> None:
    assert parse_set_cookie(f"a=b; {attributes}", NOW).path == path


@pytest.mark.parametrize(
    ("attributes", "secure", "http_only", "same_site"),
    [
        ("Secure", True, False, ""),
        ("sEcUrE=no", True, False, ""),
        (" secure \t; httponly", True, True, ""),
        ('"Secure"', False, False, ""),
        ("Secure x", False, False, ""),
        ("HttpOnly=false", False, True, ""),
        ("SameSite=Lax", False, False, "lax"),
        ("SameSite=STRICT", False, False, "strict"),
        ("SameSite=None; Secure", True, False, "none"),
        ("SameSite=Lax; SameSite=often", False, False, ""),
        ("SameSite", False, False, ""),
        ("Partitioned; Priority=High; x=y; =; ,,,", False, False, ""),
    ],
)
def test_flags_need_no_value(attributes: str, secure: bool, http_only: bool, same_site: str) -> None:
    found = parse_set_cookie(f"a=b; {attributes}", NOW)
    assert (found.secure, found.http_only, found.same_site) == (secure, http_only, same_site)


def test_a_line_of_semicolons_is_read_to_its_64th() -> None:
    assert parse_set_cookie("a=b" + ";" * 64 + "Secure", NOW).secure
    assert not parse_set_cookie("a=b" + ";" * 65 + "Secure", NOW).secure


# -- who may set what (5.3) --------------------------------------------------------------------------------------------


def test_without_a_domain_a_cookie_is_for_its_host_alone() -> None:
    jar = jar_of("a=b; Path=/")
    assert jar.header("https://www.shop.test/", NOW) == "a=b"
    for other in ("https://shop.test/", "https://deep.www.shop.test/", "https://api.shop.test/"):
        assert jar.header(other, NOW) == ""


def test_with_a_domain_a_cookie_is_for_all_hosts_below_it() -> None:
    jar = jar_of("a=b; Path=/; Domain=shop.test")
    for host in ("shop.test", "www.shop.test", "deep.www.shop.test", "api.shop.test"):
        assert jar.header(f"https://{host}/", NOW) == "a=b"
    for host in ("workshop.test", "test", "shop.test.evil.test", "shop.test."):
        assert jar.header(f"https://{host}/", NOW) == ""


@pytest.mark.parametrize(
    "domain",
    [
        "other.test",
        "api.shop.test",
        "deep.www.shop.test",
        "ww.shop.test",
        "w.shop.test",
        "shop.test.",
        "..shop.test",
        "shop.test:443",
        '"shop.test"',
        "*.shop.test",
        "shop.tést",
        "10.0.0.1",
        "[::1]",
    ],
)
def test_a_host_sets_no_cookie_for_a_domain_it_is_not_in(domain: str) -> None:
    assert why_refused(f"a=b; Domain={domain}") == "for another host"


@pytest.mark.hostile("S18")
@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://a.example.co.uk/", "co.uk"),
        ("https://a.example.co.uk/", "uk"),
        ("https://example.com/", "com"),
        ("https://example.com/", ".COM"),
        ("https://somebody.github.io/", "github.io"),
        ("https://example.co.uk./", "co.uk."),
        ("https://shop.test/", "test"),  # not listed: then the last label is a public suffix
        ("https://www.xn--85x722f.xn--55qx5d.cn/", "xn--55qx5d.cn"),
        ("https://a.b.kobe.jp/", "b.kobe.jp"),
    ],
)
def test_a_cookie_for_a_public_suffix_is_refused(url: str, domain: str) -> None:
    assert why_refused(f"a=b; Domain={domain}", url) == "for a public suffix"


@pytest.mark.parametrize("host", ["github.io", "co.uk", "localhost", "xn--55qx5d.cn"])
def test_a_host_that_is_a_public_suffix_gets_a_cookie_for_itself_alone(host: str) -> None:
    jar = jar_of(f"a=b; Path=/; Domain={host}", url=f"https://{host}/")
    assert jar.header(f"https://{host}/", NOW) == "a=b"
    assert jar.header(f"https://www.{host}/", NOW) == ""
    assert [cookie.host_only for cookie in jar] == [True]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.1.2.3"])
def test_an_ip_address_sets_no_cookie(host: str) -> None:
    assert why_refused("a=b", f"http://{host}:8080/") == "from an IP address"


@pytest.mark.parametrize("domain", ["", "Domain=127.0.0.1", "Domain=.127.0.0.1"])
def test_an_unsafe_jar_takes_a_cookie_of_an_ip_address_for_that_address(domain: str) -> None:
    jar = jar_of(f"a=b; Path=/; {domain}", url="http://127.0.0.1:8080/", unsafe=True)
    assert jar.header("http://127.0.0.1:9090/", NOW) == "a=b"  # ports are not told apart (8.5)
    for other in ("127.0.0.2", "1.127.0.0.1.test", "[::7f00:1]"):
        assert jar.header(f"http://{other}/", NOW) == ""
    assert [cookie.host_only for cookie in jar] == [True]


def test_an_unsafe_jar_takes_nothing_for_a_part_of_an_address() -> None:
    jar = CookieJar(unsafe=True)
    assert [why for _, why in jar.store("http://127.0.0.1/", ["a=b; Domain=0.0.1", "a=b; Domain=1"], NOW)] == [
        "for another host"
    ] * 2


def test_a_cookie_of_an_ipv6_address_comes_back_to_it() -> None:
    jar = jar_of("a=b; Path=/", url="http://[::1]:8080/", unsafe=True)
    assert jar.header("http://[::1]/", NOW) == "a=b"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("__Secure-a=b", "__Secure- without Secure"),
        ("__SECURE-a=b; Path=/", "__Secure- without Secure"),
        ("__Host-a=b; Secure", "__Host- without Secure and Path=/, or with a Domain"),
        ("__Host-a=b; Path=/", "__Host- without Secure and Path=/, or with a Domain"),
        ("__Host-a=b; Secure; Path=/books", "__Host- without Secure and Path=/, or with a Domain"),
        ("__host-a=b; Secure; Path=/; Domain=www.shop.test", "__Host- without Secure and Path=/, or with a Domain"),
    ],
)
def test_the_promise_of_a_name_prefix_is_kept(line: str, why: str) -> None:
    assert why_refused(line) == why


def test_a_cookie_that_keeps_the_promise_of_its_prefix_is_taken() -> None:
    jar = jar_of("__Host-a=b; Secure; Path=/", "__Secure-c=d; Secure; Domain=shop.test", "__Hosting=x")
    assert sorted(cookie.name for cookie in jar) == ["__Host-a", "__Hosting", "__Secure-c"]


def test_a_secure_cookie_is_set_and_sent_over_https_alone() -> None:
    jar = jar_of("a=b; Secure; Path=/")
    assert (jar.header("https://www.shop.test/", NOW), jar.header("http://www.shop.test/", NOW)) == ("a=b", "")
    assert why_refused("a=b; Secure", "http://www.shop.test/") == "Secure, but not over https"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("sid=evil; Domain=shop.test; Path=/", False),
        ("sid=evil; Path=/", False),
        ("sid=evil; Path=/account/x", False),
        ("sid=; Domain=shop.test; Path=/; Max-Age=0", False),
        ("other=fine; Domain=shop.test; Path=/", True),
        ("SID=fine; Path=/", True),
    ],
)
def test_a_page_without_tls_neither_replaces_nor_hides_a_secure_cookie(line: str, kept: bool) -> None:
    jar = jar_of("sid=secret; Secure; Domain=shop.test; Path=/")
    refused = jar.store("http://www.shop.test/account/login", [line], NOW + 1)
    assert [why for _, why in refused] == ([] if kept else ["would replace a Secure one, but not over https"])
    assert "sid=secret" in jar.header("https://www.shop.test/", NOW + 2)


def test_a_page_without_tls_hides_no_secure_cookie_of_a_host_below_its_domain() -> None:
    jar = jar_of("sid=secret; Secure; Path=/")
    ((_, why),) = jar.store("http://shop.test/", ["sid=evil; Domain=shop.test; Path=/"], NOW)
    assert why == "would replace a Secure one, but not over https"


def test_a_page_without_tls_may_set_a_cookie_beside_a_secure_one_of_a_deeper_path_or_another_host() -> None:
    jar = jar_of("sid=secret; Secure; Path=/account")
    assert jar.store("http://www.shop.test/", ["sid=plain; Path=/"], NOW) == []
    assert jar.store("http://api.shop.test/account", ["sid=plain; Path=/account"], NOW) == []
    assert jar.header("https://www.shop.test/account", NOW) == "sid=secret; sid=plain"


def test_over_https_a_secure_cookie_may_be_replaced_by_a_plain_one() -> None:
    jar = jar_of("sid=old; Secure; Path=/", "sid=new; Path=/")
    assert jar.header("http://www.shop.test/", NOW) == "sid=new"


# -- keeping (5.3, steps 11 and 12) ------------------------------------------------------------------------------------


def test_the_same_name_domain_and_path_is_the_same_cookie() -> None:
    jar = jar_of("a=1; Path=/", "a=2; Path=/", "a=3; Path=/; Domain=www.shop.test")
    assert [(cookie.value, cookie.host_only) for cookie in jar] == [("3", False)]


@pytest.mark.parametrize("other", ["a=2; Path=/x", "a=2; Path=/; Domain=shop.test", "A=2; Path=/"])
def test_another_path_domain_or_case_is_another_cookie(other: str) -> None:
    assert len(jar_of("a=1; Path=/", other)) == 2


def test_a_replaced_cookie_keeps_its_age_and_so_its_place() -> None:
    jar = jar_of("first=1", "second=2")
    jar.store(PAGE, ["first=new"], NOW + 100)
    assert jar.header(PAGE, NOW + 100) == "first=new; second=2"


@pytest.mark.parametrize("line", ["a=; Max-Age=0", "a=x; Max-Age=-5", "a=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT"])
def test_an_expired_cookie_deletes_the_one_it_replaces(line: str) -> None:
    jar = jar_of("a=b", "other=stays", line)
    assert jar.header(PAGE, NOW) == "other=stays"
    assert len(jar) == 1


def test_a_deleted_cookie_that_comes_again_is_young() -> None:
    jar = jar_of("a=1", "b=2", "a=; Max-Age=0", "a=3")
    assert jar.header(PAGE, NOW) == "b=2; a=3"


def test_an_expired_cookie_with_no_right_to_it_deletes_nothing() -> None:
    jar = jar_of("a=b; Domain=shop.test; Path=/")
    jar.store("https://other.test/", ["a=; Domain=shop.test; Path=/; Max-Age=0"], NOW)
    assert jar.header(PAGE, NOW) == "a=b"


def test_a_cookie_ends_at_its_time_and_is_dropped_when_it_is_next_looked_at() -> None:
    jar = jar_of("a=b; Max-Age=60", "c=d")
    assert jar.header(PAGE, NOW + 59.9) == "a=b; c=d"
    assert jar.header(PAGE, NOW + 60) == "c=d"
    assert len(jar) == 1


def test_a_session_cookie_does_not_end() -> None:
    assert jar_of("a=b").header(PAGE, NOW + 1e9) == "a=b"


# -- sending (5.4) -----------------------------------------------------------------------------------------------------


def test_longer_paths_go_first_and_older_cookies_among_equals() -> None:
    jar = jar_of(
        "root=1; Path=/", "young=2; Path=/books", "deep=3; Path=/books/list", "wide=4; Path=/; Domain=shop.test"
    )
    jar.store("https://www.shop.test/books/x", ["younger=5"], NOW - 50)  # a clock that went back changes no order
    assert names(jar, "https://www.shop.test/books/list") == ["deep", "young", "younger", "root", "wide"]


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://www.shop.test/books", True),
        ("https://www.shop.test/books?page=2", True),
        ("https://www.shop.test/books/1", True),
        ("https://www.shop.test:8443/books/1", True),
        ("http://www.shop.test/books/1", True),
        ("https://user:password@www.shop.test/books/1", True),
        ("https://www.shop.test/bookshelf", False),
        ("https://www.shop.test/?/books", False),
        ("https://www.shop.test/", False),
    ],
)
def test_a_cookie_goes_to_the_folder_that_its_page_was_in(url: str, sent: bool) -> None:
    assert names(jar_of("a=b"), url) == (["a"] if sent else [])


@pytest.mark.parametrize(
    "url", ["", "www.shop.test", "https://www.shop.test", "ftp://www.shop.test/", "/books", "//x/"]
)
def test_a_url_that_is_not_normalised_is_refused_by_a_full_jar_too(url: str) -> None:
    jar = jar_of("a=b")
    with pytest.raises(InvalidURL):
        jar.header(url, NOW)
    with pytest.raises(InvalidURL):
        jar.store(url, ["a=b"], NOW)


# -- limits (HOSTILE.md, S21) ------------------------------------------------------------------------------------------


@pytest.mark.hostile("S21")
def test_a_site_keeps_its_fifty_last_used_cookies_over_all_its_hosts() -> None:
    jar = CookieJar()
    jar.store("https://a.shop.test/", [f"a{n}=1" for n in range(30)], NOW)
    jar.store("https://b.shop.test/", [f"b{n}=1" for n in range(20)], NOW)
    assert len(jar) == 50
    jar.header("https://a.shop.test/", NOW)  # those of b are now the ones used longest ago
    jar.store("https://c.shop.test/", [f"c{n}=1" for n in range(5)], NOW)
    assert len(jar) == 50
    assert names(jar, "https://b.shop.test/") == [f"b{n}" for n in range(5, 20)]
    assert len(names(jar, "https://a.shop.test/")) == 30


def test_an_expired_cookie_goes_before_one_that_was_used_longest_ago() -> None:
    jar = CookieJar()
    jar.store(PAGE, ["old=1", *[f"c{n}=1; Max-Age={60 if n == 40 else 600}" for n in range(49)]], NOW)
    jar.store(PAGE, ["new=1"], NOW + 100)
    assert {"old", "new"} <= set(names(jar, PAGE, NOW + 100))
    assert "c40" not in {cookie.name for cookie in jar}
    assert len(jar) == 50


def test_a_flood_of_cookies_from_many_hosts_stays_within_three_thousand() -> None:
    jar = CookieJar()
    for host in range(70):
        jar.store(f"https://www.h{host}.test/", [f"c{n}=1" for n in range(100)], NOW)
        assert len(jar) <= 3000
    assert len(jar) == 3000
    assert names(jar, "https://www.h69.test/") == [f"c{n}" for n in range(50, 100)]
    assert names(jar, "https://www.h0.test/") == []


def test_jars_that_share_an_allowance_have_one_limit_and_lose_the_least_used_first() -> None:
    allowance = Allowance(total=4)
    first, second = CookieJar(allowance=allowance), CookieJar(allowance=allowance)
    first.store(PAGE, ["a=1", "b=2"], NOW)
    second.store(PAGE, ["c=3", "d=4"], NOW)
    first.header(PAGE, NOW)
    second.store(PAGE, ["e=5"], NOW)
    assert (names(first, PAGE), names(second, PAGE)) == (["a", "b"], ["d", "e"])
    assert len(allowance) == 4


def test_over_all_jars_too_the_expired_go_first() -> None:
    allowance = Allowance(total=3)
    first, second = CookieJar(allowance=allowance), CookieJar(allowance=allowance)
    first.store(PAGE, ["used=1", "short=2; Max-Age=10", "brief=3; Max-Age=20"], NOW)
    second.store(PAGE, ["x=4"], NOW + 15)
    assert (len(first), names(second, PAGE)) == (2, ["x"])
    assert names(first, PAGE, NOW + 15) == ["used", "brief"]
    second.store(PAGE, ["y=5"], NOW + 25)
    assert (names(first, PAGE, NOW + 25), names(second, PAGE)) == (["used"], ["x", "y"])


def test_what_left_a_jar_no_longer_counts() -> None:
    allowance = Allowance(total=10)
    jar = CookieJar(allowance=allowance)
    jar.store(PAGE, ["a=1", "b=2; Max-Age=5", "c=3"], NOW)
    jar.store(PAGE, ["a=; Max-Age=0"], NOW)
    jar.expire(NOW + 5)
    assert len(allowance) == len(jar) == 1
    jar.store(PAGE, ["c=; Max-Age=0"], NOW + 5)
    assert (len(allowance), len(jar), bool(jar)) == (0, 0, False)


# -- what changed ------------------------------------------------------------------------------------------------------


def test_a_jar_tells_what_came_and_went_and_is_silent_about_the_same_again() -> None:
    told: list[tuple[str, str, bool]] = []
    jar = CookieJar(changed=lambda cookie, kept: told.append((cookie.name, cookie.value, kept)))
    jar.store(PAGE, ["a=1", "a=1", "b=2"], NOW)
    jar.store(PAGE, ["a=1", "a=3"], NOW + 5)
    jar.store(PAGE, ["b=; Max-Age=0", "nothing=; Max-Age=0"], NOW)
    assert told == [("a", "1", True), ("b", "2", True), ("a", "3", True), ("b", "2", False)]


def test_a_restored_cookie_is_as_it_was() -> None:
    old = jar_of("b=2; Domain=shop.test", "a=1; Max-Age=60", "c=3; Max-Age=10")
    rows = [msgspec.msgpack.encode(cookie) for cookie in old]
    jar = CookieJar()
    kept = [jar.restore(msgspec.msgpack.decode(row, type=Cookie), NOW + 30) for row in rows]
    assert kept.count(False) == 1
    assert jar.header(PAGE, NOW + 30) == "b=2; a=1"
    assert jar.header("https://shop.test/books/x", NOW + 30) == "b=2"
    jar.store(PAGE, ["d=4"], NOW - DAY)
    assert jar.header(PAGE, NOW + 30) == "b=2; a=1; d=4"  # what comes after is younger, whatever the clock says


@pytest.mark.parametrize("cookie", [Cookie("a", "b\r\nX: y", "shop.test"), Cookie("a\0", "b", "shop.test")])
def test_a_cookie_that_no_line_could_have_set_is_not_restored(cookie: Cookie) -> None:
    jar = CookieJar()
    with pytest.raises(ValueError, match="a control character"):
        jar.restore(cookie, NOW)
    assert len(jar) == 0


# -- the user's side ---------------------------------------------------------------------------------------------------


def test_a_user_reads_cookies_by_name() -> None:
    cookies = Cookies(jar_of("sid=root; Path=/", "sid=deep; Path=/books", "theme=dark; Path=/"))
    assert [cookie.value for cookie in cookies] == ["deep", "root", "dark"]
    assert cookies["sid"] == "deep"
    assert (cookies.get("theme"), cookies.get("none"), cookies.get("none", "x")) == ("dark", None, "x")
    assert ("theme" in cookies, "none" in cookies, len(cookies)) == (True, False, 3)
    assert cookies.dict() == {"sid": "deep", "theme": "dark"}
    with pytest.raises(KeyError, match="none"):
        cookies["none"]


def test_a_user_filters_cookies_by_url() -> None:
    jar = jar_of("deep=1; Path=/books", "root=2; Path=/", "safe=3; Path=/; Secure", "wide=4; Path=/; Domain=shop.test")
    cookies = Cookies(jar)
    for url in (PAGE, "http://WWW.Shop.test", "https://shop.test/books", "https://else.test/"):
        assert [cookie.name for cookie in cookies.filter(url)] == names(jar, urls.normalize(url))
    assert list(cookies.filter_cookies(PAGE)) == list(cookies.filter(PAGE)) == list(cookies)
    with pytest.raises(InvalidURL):
        cookies.filter("www.shop.test")


def test_no_cookie_is_for_a_part_of_an_address() -> None:
    part, whole = Cookie("a", "b", "0.0.1", host_only=False), Cookie("c", "d", "127.0.0.1", host_only=False)
    assert list(Cookies([part, whole]).filter("http://127.0.0.1/")) == [whole]


def test_no_repr_shows_a_value() -> None:
    from rich.console import Console
    from rich.pretty import pprint

    jar = jar_of("sid=verysecret; Domain=shop.test")
    (cookie,) = jar
    shown = StringIO()
    pprint([cookie], console=Console(file=shown))
    texts = [
        repr(cookie),
        repr(jar),
        repr(Cookies(jar)),
        repr(parse_set_cookie("sid=verysecret", NOW)),
        shown.getvalue(),
    ]
    assert not any("verysecret" in text for text in texts)
    assert repr(cookie) == "<Cookie 'sid' of '.shop.test/books'>"
    assert repr(Cookies(jar)) == "<Cookies ['sid']>"
    assert repr(jar) == "<CookieJar 1 of 1 sites>"
    assert repr(Allowance()) == "<Allowance 0 of 3000>"


# -- whatever comes ----------------------------------------------------------------------------------------------------

_WORDS = [
    "a",
    "=",
    ";",
    ",",
    "é",
    "🍪",
    "Path=/",
    "Domain=shop.test",
    "Domain=.",
    "Max-Age=0",
    "Max-Age=9",
    "Expires=",
    "Secure",
    "__Host-",
    "__Secure-",
]
_DATE = "Expires=Tue, 09 Mar 2027 10:20:30 GMT"
_PIECES = st.sampled_from([*_WORDS, _DATE, '"', " ", "\t", "\r\n", "\0", "\x7f", "\ud800"])
_LINES = st.lists(st.one_of(st.text(), st.lists(_PIECES, max_size=12).map("".join)), max_size=6)
_PAGES = st.sampled_from([PAGE, "http://shop.test/", "http://127.0.0.1/a/b", "https://[::1]/", "https://github.io/x/"])


@given(_LINES, _PAGES)
@any_speed
def test_whatever_the_lines_a_field_can_be_sent_and_read_back(lines: list[str], page: str) -> None:
    jar = CookieJar(unsafe=True)
    refused = jar.store(page, lines, NOW)
    assert len(jar) + len(refused) <= len(lines)
    field = jar.header(page, NOW)
    assert not set(field) & {chr(code) for code in [*range(9), *range(10, 32), 127]}
    field.encode()
    for pair in filter(None, field.split("; ")):
        assert jar_of(f"{pair}; Secure; Path=/").header(PAGE, NOW) == pair


@given(_LINES, _PAGES)
@any_speed
def test_storing_the_same_response_twice_changes_nothing(lines: list[str], page: str) -> None:
    jar = CookieJar(unsafe=True)
    jar.store(page, lines, NOW)
    field = jar.header(page, NOW)
    jar.store(page, lines, NOW)
    assert sorted(jar.header(page, NOW).split("; ")) == sorted(field.split("; "))


@given(st.text())
@any_speed
def test_whatever_the_text_it_is_a_date_or_none(text: str) -> None:
    found = parse_date(text)
    assert found is None or -11_644_473_600.0 <= found <= 253_402_300_799.0
