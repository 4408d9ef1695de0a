"""URLs and links, whatever stands in them."""

from __future__ import annotations

import contextlib

import pytest
from fuzz.strategies import fuzzed, mutated, texts
from hypothesis import example, given
from hypothesis import strategies as st

from crawler import Request
from crawler.download.route import as_dialled
from crawler.errors import BlockedError, FetchError, InvalidURL
from crawler.links import Links
from crawler.redirect import next_request
from crawler.response import Response
from crawler.testing import fake_response
from crawler.url import canonical, host_key, hostname, join, join_as_written, normalize, origin, redact

_URLS = (
    "http://example.org/a/b?c=d&e=f#g", "https://user:secret@example.org:8443/", "http://[::1]:81/x",
    "http://127.0.0.1/",
    "http://xn--bcher-kva.example/%C3%BC", "http://bücher.example/ü", "HTTP://EXAMPLE.org:80/../a/./b",
    "http:example.org",
    "//example.org/x", "/a/b/../c", "?q=1", "#top", "a b", "javascript:alert(1)", "http://0x7f.1/", "http://a.b.c.d.e/",
)  # fmt: skip
_PIECES = (
    "/", "\\", ":", "@", "?", "#", "%", "%00", "%2e", "%2E%2E/", "..", "[", "]", "^", "|", "\t", "\n", "\x00", " ",
    "\u3002",
    "\uff11", "\u2460", "\u00ad", "\u200d", "\ud800", "\udcff", "xn--", ":99999", ":0", "http://", "https:", "1e9",
    "..;", "\u2028", "&", "=",
)  # fmt: skip
urls = st.one_of(mutated(_URLS, _PIECES), texts.map("http://".__add__), texts)


@fuzzed
@given(urls)
def test_normalising_is_idempotent_and_raises_nothing_but_invalid_url(text: str) -> None:
    with contextlib.suppress(InvalidURL):
        url = normalize(text)
        assert normalize(url) == url
        assert url.isascii()
        assert url.startswith(("http://", "https://"))
        assert normalize(canonical(url)) == canonical(url)
        assert host_key(url).rpartition(":")[0].strip("[]") == hostname(url)
        assert origin(url).startswith(("http://", "https://"))


@fuzzed
@given(urls)
def test_redacting_takes_any_text_and_what_is_redacted_has_no_password(text: str) -> None:
    shown = redact(text)
    assert redact(shown) == shown
    with contextlib.suppress(InvalidURL):
        assert "secret" not in redact(normalize("http://user:secret@" + text.removeprefix("http://"))).partition("@")[0]


@fuzzed
@given(st.sampled_from(_URLS[:4]), urls)
def test_joining_gives_a_normalised_url_or_none_whatever_the_reference(base: str, ref: str) -> None:
    found = join(base, ref)
    assert found is None or normalize(found) == found
    assert Links(base, [ref]).urls() in ([], [join(base, ref.partition("#")[0])])


@fuzzed
@given(urls)
def test_the_host_that_is_dialled_is_the_host_that_was_judged(text: str) -> None:
    with contextlib.suppress(InvalidURL, BlockedError):
        url = normalize(text)
        assert as_dialled(url).raw_host == hostname(url)


@fuzzed
@given(urls)
@example("http:example.org")
@example("http:///example.org/x")
@example("http://example.org\\x/y")
def test_a_url_that_is_sent_as_written_fits_into_a_request_line_and_has_the_judged_host(text: str) -> None:
    with contextlib.suppress(InvalidURL, BlockedError):
        request = Request(text, encoded=True)
        assert all("!" <= character <= "~" for character in request.url)
        assert hostname(request.url) == hostname(normalize(text))
        assert as_dialled(request.url).raw_host == hostname(request.url)


@fuzzed
@given(st.sampled_from((301, 302, 303, 307, 308)), urls, st.booleans())
@example(302, "http://[::1", True)
@example(302, "http://\u2100.example/", True)
@example(302, "/\ud800", True)
@example(302, "http:///next", True)
@example(302, "\\\\[::1]/x", True)
def test_a_redirect_leads_to_a_url_or_is_a_fetch_error(status: int, location: str, encoded: bool) -> None:
    request = Request("http://example.org/a?b", encoded=encoded)
    answer = Response(
        request.url,
        request=request,
        status=status,
        headers=fake_response("http://a/", headers={"Location": location}).headers,
    )
    with contextlib.suppress(FetchError):
        hop = next_request(request, answer, 10)
        assert hop is not None
        assert hostname(hop.url)


@fuzzed
@given(st.sampled_from(_URLS[:3]), urls)
def test_a_reference_joined_as_written_has_the_host_of_the_one_joined_by_the_standard(base: str, ref: str) -> None:
    found = join_as_written(base, ref)
    if found is not None:
        assert hostname(normalize(found)) == hostname(join(base, ref) or "")


@pytest.mark.parametrize("ref", ["http://[::1", "http://\u2100.example/", "//[v1.a]/", "/\ud800"])
def test_what_urllib_does_not_join_is_nothing_to_follow(ref: str) -> None:
    found = join_as_written("http://example.org/", ref)
    assert found is None or found.isascii()
