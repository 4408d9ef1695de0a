"""URLs as strings: the WHATWG cases, the shortcuts against the parser, and the traps by name."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import ada_url
import multidict
import pytest
import yarl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crawler.errors import InvalidURL, UsageError
from crawler.query import encode_query
from crawler.url import (
    Fingerprinter,
    Joiner,
    canonical,
    host_key,
    hostname,
    in_domains,
    is_same_origin,
    join,
    normalize,
    origin,
    redact,
)

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors" / "wpt-urls.json"
needs_vectors = pytest.mark.skipif(
    not VECTORS.is_file(), reason="the web-platform-tests URL cases (../shared/vectors/wpt-urls.json) are not here"
)
KEY = bytes(range(32))
any_speed = settings(deadline=None)  # other work on the machine must not fail a test


def is_http(url: str | None) -> bool:
    return url is not None and url.startswith(("http:", "https:"))


def wpt_cases() -> list[dict[str, Any]]:
    return [case for case in json.loads(VECTORS.read_text("utf-8")) if isinstance(case, dict)]


def wpt_http_cases() -> list[dict[str, Any]]:
    """What concerns a crawler: a result that is http(s), or a failure without base or under an http(s) base."""
    return [
        case
        for case in wpt_cases()
        if is_http(case.get("href")) or (case.get("failure") and (case["base"] is None or is_http(case["base"])))
    ]


def resolved(case: dict[str, Any]) -> str | None:
    if case["base"] is not None:
        return join(case["base"], case["input"])
    try:
        return normalize(case["input"])
    except InvalidURL:
        return None


# -- the Standard's own cases ------------------------------------------------------------------------------------------


@needs_vectors
def test_every_http_case_of_the_web_platform_tests_passes() -> None:
    cases = wpt_http_cases()
    failed = []
    for case in cases:
        wanted = case["href"].partition("#")[0] if "href" in case else None
        if (got := resolved(case)) != wanted:
            failed.append((case["input"], case["base"], got, wanted))
    assert len(cases) >= 504
    assert failed == []


@needs_vectors
def test_no_case_that_leads_to_another_scheme_gives_a_url() -> None:
    others = [case for case in wpt_cases() if "href" in case and not is_http(case["href"])]
    joined = [case for case in others if is_http(case["base"])]
    alone = [case for case in others if case["base"] is None]
    assert len(joined) > 20
    assert len(alone) > 100
    assert [case["input"] for case in joined + alone if resolved(case) is not None] == []


@needs_vectors
def test_aiohttp_sees_the_same_host_and_port_as_we_do() -> None:
    """One parser canonicalises and another dials. No case is an exception: yarl refuses none of these URLs."""
    urls = {url for case in wpt_http_cases() if (url := resolved(case)) is not None}
    assert len(urls) > 150
    for url in urls:
        seen = yarl.URL(url, encoded=True)
        host = seen.raw_host or ""
        assert host_key(url) == f"{f'[{host}]' if ':' in host else host}:{seen.port}", url
        assert hostname(url) == host
        assert str(seen) == url or str(seen) + "?" == url  # yarl drops the mark of an empty query


@needs_vectors
def test_canonical_forms_of_the_cases_are_normalised_and_stay() -> None:
    for url in {url for case in wpt_http_cases() if (url := resolved(case)) is not None}:
        assert canonical(canonical(url)) == canonical(url)
        assert normalize(canonical(url)) == canonical(url)


# -- the shortcuts against the parser ----------------------------------------------------------------------------------

TOKENS = (
    *"aZ09.-_~!$&'()*+,;=:@%/?#[]|^`{}<>\"\\ \t\n\r\x00\x7f\u00e9\u3002\uff11\ud800\U0001f600",
    "..", "./", "../", "//", "\\\\", "%2e", "%2E", "%2f", "%41", "%c3%a9", "%ff", "%00", "%zz", "%", "/.", "/%2e",
    "http:", "https:", "HTTP://", "https://", "http:/", "mailto:", "javascript:", "data:,", "file:///", "ws://",
    "example.com", "EXAMPLE.com", "xn--", "xn--bcher-kva", "b\u00fccher.de",
    "127.1", "0x7f.1", "[::1]", ":80", ":443", ":0", ":99999",
    "u:p@", "page", "page.html", "a=1", "b=2&a=1", "&&", "x" * 70,
)  # fmt: skip
references = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=8).map("".join),
    st.text(st.characters(), max_size=30),
    st.from_regex(r"\A(/|\.\./)?[a-z0-9%.~-]{1,8}(/[a-z0-9%.:-]{0,8}){0,3}(\?[a-z=&%/.]{0,9})?(#.{0,3})?\Z"),
)
bases = st.sampled_from((
    "http://example.org/foo/bar",
    "https://example.org/",
    "https://u:p@example.org:8443/a/b.c/d/?q=1#frag",
    "http://[::1]/x/?",
    "http://xn--bcher-kva.example/%2e%2ea/.well-known/x",
    "http://example.org//a//b",
    "http://example.org/^/%5E/x",
))  # fmt: skip


def well_formed(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def browser_join(base: str, ref: str) -> str | None:
    """The whole parser, with the reference as WebIDL hands it over."""
    try:
        url: str = ada_url.join_url(base, well_formed(ref))
    except ValueError:
        return None
    return url.partition("#")[0] if is_http(url) else None


@any_speed
@given(bases, references)
@example("http://example.org/a/b", "/\t/evil.example/")
@example("http://example.org/a/b", "\x00/\\evil.example")
@example("http://example.org/a/b", "java\nscript:alert(1)")
@example("http://example.org/a/b", "%2E%2e/c")
@example("http://example.org/a/b", "c/%2e./d?/../e")
@example("http://example.org/a/b", "http://example.org/../c")
@example("http://example.org/a/b", "c/.d/../e")
@example("http://example.org/a/b", "c'd?e'f")
@example("http://example.org/a/b", "c #d")
@example("http://example.org/a/b", "c#\ud800")
@example("http://xn--pokxncvks/a", "b c")
def test_joining_is_what_the_whole_parser_does(base: str, ref: str) -> None:
    wanted = browser_join(base, ref)
    joiner = Joiner(base)
    assert joiner(ref) == wanted
    assert joiner.many([ref, ref]) == [wanted, wanted]
    assert join(base, ref) == wanted


@needs_vectors
def test_every_input_of_the_cases_joins_as_the_whole_parser_does() -> None:
    joiner = Joiner("https://example.org/a/b?c")
    for case in wpt_cases():
        assert joiner(case["input"]) == browser_join("https://example.org/a/b?c", case["input"]), case["input"]


@any_speed
@given(references)
@example("http://a/%%34%31")
@example("http://a/%4%31?%%32%35")
@example("127.1..")
def test_normalised_and_canonical_urls_stay_as_they_are_and_nothing_raises_but_invalid_url(ref: str) -> None:
    for text in (ref, "http://" + ref, "https://example.com/" + ref):
        redact(text)
        try:
            url = normalize(text)
        except InvalidURL:
            assert browser_join("about:blank", text) is None
            continue
        assert url == browser_join("about:blank", text)
        assert normalize(url) == url
        assert url.isascii()
        form = canonical(url)
        assert canonical(form) == form
        assert normalize(form) == form
        assert host_key(form) == host_key(url)
        assert origin(url) + "/" == normalize(origin(url))
        assert in_domains(hostname(url), frozenset({hostname(url)}))


@any_speed
@given(st.sampled_from((host_key, origin, hostname)), references)
def test_a_part_of_what_is_not_normalised_is_given_or_refused(part: Any, text: str) -> None:
    for url in (text, "http://" + text, "https://[" + text + "/"):
        try:
            assert isinstance(part(url), str)
        except InvalidURL:
            assert not url.startswith("http://example.com/")


@pytest.mark.parametrize("length", [1_000, 200_000])
def test_a_very_long_link_is_joined_like_a_short_one(length: int) -> None:
    joiner = Joiner("http://example.org/a/b")
    assert joiner("/x" * length) == "http://example.org" + "/x" * length
    assert joiner("x/" * length + "%2e") == "http://example.org/a/" + "x/" * length
    assert joiner("y" * length + " z") == "http://example.org/a/" + "y" * length + "%20z"


# -- traps by name -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "wanted"),
    [
        ("page.html", "http://example.org/dir/page.html"),
        ("./page.html", "http://example.org/dir/page.html"),
        ("../page.html", "http://example.org/page.html"),
        ("../../../page.html", "http://example.org/page.html"),
        ("/page.html", "http://example.org/page.html"),
        ("a//b", "http://example.org/dir/a//b"),
        ("?q=2", "http://example.org/dir/doc?q=2"),
        ("?", "http://example.org/dir/doc?"),
        ("", "http://example.org/dir/doc?q=1"),
        ("#top", "http://example.org/dir/doc?q=1"),
        (" \n#top ", "http://example.org/dir/doc?q=1"),
        (";params", "http://example.org/dir/;params"),
        ("page;v=1.2?x", "http://example.org/dir/page;v=1.2?x"),
        ("page.html#part?not=query", "http://example.org/dir/page.html"),
        ("//other.example/x", "http://other.example/x"),
        ("///other.example/x", "http://other.example/x"),
        ("\\\\other.example\\x", "http://other.example/x"),
        ("/\\other.example", "http://other.example/"),
        ("/\t/other.example", "http://other.example/"),
        ("\\dir\\x?a\\b", "http://example.org/dir/x?a\\b"),
        ("http:page.html", "http://example.org/dir/page.html"),
        ("HTTP:/page.html", "http://example.org/page.html"),
        ("http:?q", "http://example.org/dir/doc?q"),
        ("http:", "http://example.org/dir/doc?q=1"),
        ("http:mailto:x", "http://example.org/dir/mailto:x"),
        ("https:page.html", "https://page.html/"),
        ("http://EXAMPLE.org:80/../x", "http://example.org/x"),
        ("http://example.org/x/./y", "http://example.org/x/y"),
        ("  page.html\r\n", "http://example.org/dir/page.html"),
        ("pa\nge\t.html", "http://example.org/dir/page.html"),
        ("/a b", "http://example.org/a%20b"),
        ("1:2", "http://example.org/dir/1:2"),
        ("/a:b@c", "http://example.org/a:b@c"),
        ("%2e%2E/x", "http://example.org/x"),
        (".%2e/x", "http://example.org/x"),
        ("/%2e%2e%2e/x", "http://example.org/%2e%2e%2e/x"),
        ("/.../..x/.y", "http://example.org/.../..x/.y"),
        ("/100%", "http://example.org/100%"),
        ("/a%2fb", "http://example.org/a%2fb"),
        ("caf\u00e9?caf\u00e9", "http://example.org/dir/caf%C3%A9?caf%C3%A9"),
        ("/x^y?x^y", "http://example.org/x%5Ey?x^y"),
        ("/|[]{}`\"'<>?|[]{}`\"'<>", "http://example.org/|[]%7B%7D%60%22'%3C%3E?|[]{}`%22%27%3C%3E"),
        ("/\x00\x7f", "http://example.org/%00%7F"),
        ("/\ud800", "http://example.org/%EF%BF%BD"),
        ("/\ud83d\ude00", "http://example.org/%F0%9F%98%80"),
    ],
)
def test_a_reference_resolves_as_in_a_browser(ref: str, wanted: str) -> None:
    assert join("http://example.org/dir/doc?q=1#here", ref) == wanted


@pytest.mark.parametrize(
    "ref",
    [
        "mailto:joe@example.org",
        "javascript:void(0)",
        "\tjava\nscript:void(0)",
        "tel:+1234",
        "data:text/html,x",
        "file:///etc/passwd",
        "FILE:",
        "\tfile:/x",
        "ftp://example.org/",
        "gopher://x/",
        "about:blank",
        "blob:http://example.org/x",
        "ws://example.org/",
        "//",
        "http://",
        "http://a b/",
        "http://example.org:99999/",
        "//example.org:port/",
        "http://[::1",
        "http://a%00b/",
        "https://\u00ad/",
    ],
)
def test_a_reference_that_leads_elsewhere_or_nowhere_is_none(ref: str) -> None:
    assert join("http://example.org/dir/doc", ref) is None


def test_credentials_of_the_page_stay_with_links_to_its_host_only() -> None:
    joiner = Joiner("https://user:secret@example.org:8443/a/b")
    assert joiner("/x") == "https://user:secret@example.org:8443/x"
    assert joiner("../x") == "https://user:secret@example.org:8443/x"
    assert joiner("//other.example/") == "https://other.example/"
    assert joiner("https://example.org:8443/x") == "https://example.org:8443/x"
    assert "secret" not in repr(joiner)


def test_joining_needs_an_http_base() -> None:
    for base in ("about:blank", "/relative", "ftp://example.org/"):
        with pytest.raises(InvalidURL):
            join(base, "http://example.org/")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        ("  https://example.com/#frag\n", "https://example.com/"),
        ("https:\\\\example.com\\a", "https://example.com/a"),
        ("https:example.com", "https://example.com/"),
        ("http:////example.com/", "http://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://example.com:00443/", "https://example.com/"),
        ("https://example.com:0/", "https://example.com:0/"),
        ("http://example.com./", "http://example.com./"),
        ("http://b\u00fccher.de/", "http://xn--bcher-kva.de/"),
        ("http://fa\u00df.de/", "http://xn--fa-hia.de/"),
        ("http://ex%41mple.com/", "http://example.com/"),
        ("http://example\u3002com/", "http://example.com/"),
        ("http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "http://127.0.0.1/"),
        ("http://\u2460\u2461\u2466.1/", "http://127.0.0.1/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7f.0.0.01/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://127.0.0.1./", "http://127.0.0.1/"),
        ("http://0/", "http://0.0.0.0/"),
        ("http://[0:0::0:1]/", "http://[::1]/"),
        ("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
        ("http://us er:p@ss@example.com/", "http://us%20er:p%40ss@example.com/"),
        ("http://example.com\\@evil.example/", "http://example.com/@evil.example/"),
        ("http://ex\nam\tple.com/", "http://example.com/"),
        ("http://example.com?q", "http://example.com/?q"),
        ("http://example.com/a/../b/./c/..", "http://example.com/b/"),
        ("http://example.com/a/.b/../c/.", "http://example.com/a/c/"),
        ("http://example.com/\ud800?\udfff", "http://example.com/%EF%BF%BD?%EF%BF%BD"),
    ],
)
def test_a_url_is_normalised_as_in_a_browser(url: str, wanted: str) -> None:
    assert normalize(url) == wanted


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("example.com/x", "no scheme"),
        ("//example.com/x", "no scheme"),
        ("", "no scheme"),
        ("mailto:joe", "not an http"),
        ("file:///etc/passwd", "not an http"),
        ("localhost:8000/x", "not an http"),
        ("http://", "no host"),
        ("http:///", "no host"),
        ("https://?q", "no host"),
        ("https://:80/", "no host"),
        ("http://a b/", "invalid URL"),
        ("http://example.com:70000/", "invalid URL"),
        ("http://\ud800/", "invalid URL"),
        ("http://1.2.3.256/", "invalid URL"),
        ("http://[::1/", "invalid URL"),
    ],
)
def test_a_refusal_says_why_and_shows_the_url(url: str, why: str) -> None:
    with pytest.raises(InvalidURL, match=why) as caught:
        normalize(url)
    assert repr(url) in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ValueError)


def test_a_refusal_shows_neither_a_password_nor_control_characters_nor_endless_text() -> None:
    with pytest.raises(InvalidURL) as caught:
        normalize("http://user:pa/ss#wo?rd@example.com/")
    assert str(caught.value).endswith("'http://***@example.com/'")
    with pytest.raises(InvalidURL) as caught:
        normalize("data:\x1b[31m\u202e" + "x" * 100_000)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300


def test_a_url_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="bytes"):
        normalize(b"http://example.com/")  # type: ignore[arg-type]


# -- comparing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://a/b", "http://a/b"),
        ("http://a/b#c", "http://a/b"),
        ("http://a/b?", "http://a/b"),
        ("http://a/b?#c", "http://a/b"),
        ("http://u:p@a/", "http://u:p@a/"),
        ("http://a/%7euser/%41%2d%2E%5f", "http://a/~user/A-._"),
        ("http://a/%2f%3a%c3%A9", "http://a/%2F%3A%C3%A9"),
        ("http://a/?b=2&a=1", "http://a/?a=1&b=2"),
        ("http://a/?a=2&b=3&a=1&a=2", "http://a/?a=2&a=1&a=2&b=3"),
        ("http://a/?b&a", "http://a/?a&b"),
        ("http://a/?%62=1&%61=2", "http://a/?a=2&b=1"),
        ("http://a/?a=b&a%3d=c&a", "http://a/?a=b&a&a%3D=c"),
        ("http://a/?c?b=1&a", "http://a/?a&c?b=1"),
        ("http://a/?b;a", "http://a/?b;a"),
        ("http://a/100%", "http://a/100%"),
        ("http://a/%%34%31", "http://a/%%341"),
        ("http://a/%4%31", "http://a/%4%31"),
        ("http://a/%41%34%31", "http://a/A41"),
    ],
)
def test_the_canonical_form(url: str, wanted: str) -> None:
    assert canonical(url) == wanted


def test_every_escape_is_decoded_or_in_upper_case() -> None:
    unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    for code in range(256):
        wanted = chr(code) if chr(code) in unreserved else f"%{code:02X}"
        for escape in {f"%{code:02X}", f"%{code:02x}", f"%{code:02X}".swapcase()}:
            assert canonical(f"http://a/x{escape}y") == f"http://a/x{wanted}y"


# -- fingerprints ------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_64_bits_of_keyed_blake2b_of_the_url() -> None:
    from hashlib import blake2b

    url = "http://a/?b=1"
    wanted = int.from_bytes(blake2b(url.encode(), digest_size=8, key=KEY).digest(), "big")
    fingerprint = Fingerprinter(KEY)
    assert fingerprint(url) == wanted
    assert fingerprint(url, "GET", b"", None) == wanted
    assert fingerprint.many([url, "http://b/", url]) == [wanted, fingerprint("http://b/"), wanted]
    assert 0 <= wanted < 2**64


def test_another_key_gives_other_fingerprints() -> None:
    assert Fingerprinter(KEY)("http://a/") == Fingerprinter(KEY)("http://a/")
    assert Fingerprinter(KEY)("http://a/") != Fingerprinter(b"other")("http://a/")


def test_no_two_different_requests_are_hashed_as_the_same_bytes() -> None:
    """Each field takes over what its neighbours could say, were the frames not told apart."""
    fingerprint = Fingerprinter(KEY)
    requests: list[tuple[str, str, bytes, str | None]] = [
        ("http://a/", "GET", b"", None),
        ("http://a/", "get", b"", None),
        ("http://a/", "POST", b"", None),
        ("http://a/", "POST", b"-", None),
        ("http://a/", "POST", b"", "-"),
        ("http://a/", "POST", b"", ""),
        ("http://a/", "POST", b"0:", None),
        ("http://a/", "POST", b"x", None),
        ("http://a/", "POST", b"", "x"),
        ("http://a/", "POST", b"1:x", None),
        ("http://a/", "POST", b"", "x1:y"),
        ("http://a/", "POST", b"1:y", "x"),
        ("http://a/", "GET", b"x", None),
        ("http://a/", "GET", b"", ""),
        ("http://a/", "GET", b"", "x"),
        ("http://a/4:POST", "", b"", None),
        ("http://a/P", "OST", b"", None),
        ("\xff9:http://a/4:POST-", "GET", b"", None),
        ("\udcff9:http://a/4:POST-", "GET", b"", None),
    ]
    assert len({fingerprint(*request) for request in requests}) == len(requests)


def test_a_key_of_no_bytes_or_too_many_is_refused_and_no_key_is_shown() -> None:
    for key in (b"", b"k" * 65):
        with pytest.raises(ValueError):
            Fingerprinter(key)
    assert "secret" not in repr(Fingerprinter(b"secret"))


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "key", "where", "name"),
    [
        ("https://example.com/", "example.com:443", "https://example.com", "example.com"),
        ("http://example.com/a:b@c/?d://e", "example.com:80", "http://example.com", "example.com"),
        ("http://example.com:8080/", "example.com:8080", "http://example.com:8080", "example.com"),
        ("https://u:p@example.com:1/", "example.com:1", "https://example.com:1", "example.com"),
        ("https://u@example.com/", "example.com:443", "https://example.com", "example.com"),
        ("http://[::1]/", "[::1]:80", "http://[::1]", "::1"),
        ("https://u:p@[2001:db8::1]:8443/", "[2001:db8::1]:8443", "https://[2001:db8::1]:8443", "2001:db8::1"),
        ("http://127.0.0.1:9/", "127.0.0.1:9", "http://127.0.0.1:9", "127.0.0.1"),
        ("http://example.com./", "example.com.:80", "http://example.com.", "example.com."),
    ],
)
def test_the_parts_of_a_url(url: str, key: str, where: str, name: str) -> None:
    assert normalize(url) == url
    assert (host_key(url), origin(url), hostname(url)) == (key, where, name)


@pytest.mark.parametrize("part", [host_key, origin, hostname])
@pytest.mark.parametrize(
    "url", ["", "http://", "http:///x", "http://u:p@/x", "http://a.example", "ftp://a/", "HTTP://a/", "http:/a/b/c"]
)
def test_what_is_plainly_not_normalised_has_no_parts(part: Any, url: str) -> None:
    with pytest.raises(InvalidURL, match="normalised"):
        part(url)


def test_an_origin_is_scheme_host_and_port() -> None:
    assert is_same_origin("https://example.com/a", "https://u:p@example.com/b?c")
    assert not is_same_origin("https://example.com/", "http://example.com/")
    assert not is_same_origin("https://example.com/", "https://example.com:8443/")
    assert not is_same_origin("https://example.com/", "https://www.example.com/")


@pytest.mark.parametrize(
    ("host", "domain", "wanted"),
    [
        ("example.com", "example.com", True),
        ("www.shop.example.com", "example.com", True),
        ("EXAMPLE.com", "Example.Com", True),
        ("example.com.", "example.com", True),
        ("www.example.com", "example.com.", True),
        ("notexample.com", "example.com", False),
        ("example.com.evil.example", "example.com", False),
        ("example.com", "www.example.com", False),
        ("com", "example.com", False),
        ("xn--bcher-kva.de", "b\u00fccher.de", True),
        ("www.xn--bcher-kva.de", "B\u00dcCHER.de", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.1", False),
        ("10.127.0.0.1", "127.0.0.1", False),
        ("::1", "[::1]", True),
        ("[::1]", "::1", True),
        ("::1.example.com", "example.com", False),
        ("localhost", "localhost", True),
        ("example.com", "", False),
        ("example.com", "http://example.com/", False),
        ("http", "http://example.com/", False),
    ],
)
def test_a_domain_covers_itself_and_what_is_below_it(host: str, domain: str, wanted: bool) -> None:
    assert in_domains(host, frozenset({domain, "other.example"})) is wanted


def test_no_domains_cover_nothing() -> None:
    assert not in_domains("example.com", frozenset())


# -- for logs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://example.com/@user/x", "http://example.com/@user/x"),
        ("http://example.com/?mail=a@b", "http://example.com/?mail=a@b"),
        ("http://user:secret@example.com/@x", "http://***@example.com/@x"),
        ("https://secret@example.com:1/", "https://***@example.com:1/"),
        ("http://user:se@cret@example.com/", "http://***@example.com/"),
        ("//user:secret@example.com/", "//***@example.com/"),
        ("http:\\\\user:secret@example.com", "http:\\\\***@example.com"),
        ("http:user:secret@example.com", "http:***@example.com"),
        (" ht\ttp:/\n/user:sec\tret@example.com", " http://***@example.com"),
        ("not a URL", "not a URL"),
        ("", ""),
    ],
)
def test_user_and_password_do_not_reach_the_log(url: str, wanted: str) -> None:
    assert redact(url) == wanted


def test_redacting_takes_time_in_proportion_to_the_length() -> None:
    hostile = " " * 200_000 + "a:" * 200_000 + "/@"
    assert redact(hostile) == hostile


# -- query parameters --------------------------------------------------------------------------------------------------

URL = "http://example.com/p"
names = st.text(st.characters(codec="utf-8"), max_size=6)
values = st.one_of(names, st.integers(), st.floats(allow_nan=False, allow_infinity=False))


@any_speed
@given(
    st.sampled_from((URL, URL + "?", URL + "?z=1", URL + "?z=1&", URL + "?z=1?")),
    st.one_of(
        st.dictionaries(names, st.one_of(values, st.lists(values, max_size=3), st.tuples(values, values))),
        st.lists(st.tuples(names, values), max_size=4),
    ),
)
def test_parameters_are_sent_as_aiohttp_sends_them(url: str, params: Any) -> None:
    """Byte for byte but for `'`, which every browser, and so `normalize`, escapes in a query."""
    got = encode_query(url, params)
    wanted = str(yarl.URL(url, encoded=True).extend_query(params)).replace("'", "%27")
    assert got.removesuffix("?") == wanted.removesuffix("?")
    assert normalize(got) == got


def test_a_mapping_with_repeats_keeps_them() -> None:
    params = multidict.MultiDict([("a", "1"), ("b", "2"), ("a", "3")])
    assert encode_query(URL + "#frag", params) == URL + "?a=1&b=2&a=3"


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ("a=b%20c+d", "?a=b%20c+d"),
        ("q=caf\u00e9 x&y#z", "?q=caf%C3%A9%20x&y%23z"),
        ("it's<>\"\t\n", "?it%27s%3C%3E%22%09%0A"),
        ("?x=1&", "??x=1&"),
        ("\ud800", "?%EF%BF%BD"),
        ({"q": "\ud800"}, "?q=%EF%BF%BD"),
        ("", ""),
        ({}, ""),
        ([], ""),
        ({"a": []}, ""),
    ],
)
def test_a_string_is_sent_as_given_and_nothing_adds_nothing(params: Any, wanted: str) -> None:
    url = encode_query(URL, params)
    assert url == URL + wanted
    assert normalize(url) == url


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"a": True}, TypeError),
        ({"a": [1, False]}, TypeError),
        ({"a": None}, TypeError),
        ({"a": Decimal("1.5")}, TypeError),
        ({"a": {"b": 1}}, TypeError),
        ({1: "a"}, TypeError),
        ([("a", [1, 2])], TypeError),
        (b"a=1", TypeError),
        ({"a"}, TypeError),
        ({"a": float("inf")}, ValueError),
        ({"a": float("nan")}, ValueError),
    ],
)
def test_values_of_other_types_are_refused(params: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="param"):
        encode_query(URL, params)


# -- cost --------------------------------------------------------------------------------------------------------------


def test_importing_the_module_loads_only_the_quick_parser() -> None:
    heavy = "{'ada_url', 'hashlib', 'urllib.parse', 'yarl', 'aiohttp', 'asyncio'}"
    code = f"import sys, crawler.url; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
