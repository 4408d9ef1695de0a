"""What a page asks of crawlers, as a value: every spelling that servers send."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from selectolax.lexbor import LexborHTMLParser

from crawler.directives import Directives, may_be_in, metas, read
from crawler.testing import fake_response

NOW = dt.datetime(2020, 1, 1, tzinfo=dt.UTC).timestamp()

BOTH = "nofollow noindex"

HEADERS = [
    # As Google documents it.
    (["noindex"], "noindex"),
    (["noindex, nofollow"], BOTH),
    (["NoIndex,NOFOLLOW"], BOTH),
    (["noindex", "nofollow"], BOTH),
    (["none"], BOTH),
    (["all"], ""),
    (["index, follow"], ""),
    (["googlebot: nofollow", "otherbot: noindex, nofollow"], ""),
    (["googlebot: nofollow", "ourbot: noindex"], "noindex"),
    (["OurBot: noindex, nofollow"], BOTH),
    (["ourbot : none"], BOTH),
    (["noarchive, nosnippet, noimageindex, notranslate"], "noarchive noimageindex nosnippet notranslate"),
    # Of conflicting rules the stricter one.
    (["index, noindex"], "noindex"),
    (["all, nofollow"], "nofollow"),
    (["ourbot: all", "noindex"], "noindex"),
    (["nofollow", "ourbot: noindex"], BOTH),
    # A name holds for the rest of its field, up to the next name: proxies join fields.
    (["otherbot: noindex, nofollow, noarchive"], ""),
    (["noindex, otherbot: nofollow"], "noindex"),
    (["otherbot: noindex, ourbot: nofollow, noarchive"], "noarchive nofollow"),
    (["*: noindex"], "noindex"),
    (["ourbot/2.1: nofollow"], "nofollow"),
    (["ourbot-news: nofollow"], ""),
    (["yourbot: nofollow"], ""),
    # Values behind colons are no names.
    (["max-snippet:20, noindex"], "noindex"),
    (["max-image-preview: none, nofollow"], "nofollow"),
    (["max-anything: 3, nofollow"], "nofollow"),
    (["otherbot: max-snippet: 20, noindex"], ""),
    (["unavailable_after: 25 Jun 2010 15:00:00 PST, nofollow"], BOTH),
    (["unavailable_after: Friday, 25-Jun-10 15:00:00 GMT, nofollow"], BOTH),
    (["unavailable_after: 25 Jun 2050 15:00:00 PST, nofollow"], "nofollow"),
    (["otherbot: unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT, nofollow"], ""),
    (["ourbot: unavailable_after: 2010-06-25"], "noindex"),
    (["unavailable_after: soon, nofollow"], "nofollow"),
    # What nobody documents.
    ([""], ""),
    ([",,;, ,"], ""),
    ([":"], ""),
    ([": noindex"], "noindex"),
    (["noindex nofollow"], BOTH),
    (["noindex; nofollow"], BOTH),
    ([" noindex ,\tnofollow "], BOTH),
    (["noindex nofollow max-snippet: 5 noarchive"], "noarchive nofollow noindex"),
    (["noindexing, nofollows, no-index, unknown"], ""),
    (["noindex: yes"], ""),
    (["nofollow\udce9, noindex"], "noindex"),
    (["İnoindex"], ""),
    (["noodp, noydir, nocache, noai"], "noai nocache noodp noydir"),
]


@pytest.mark.parametrize(("fields", "words"), HEADERS)
def test_of_the_header_the_words_for_us_are_read(fields: list[str], words: str) -> None:
    assert read(fields, token="OurBot", now=NOW).words == frozenset(words.split())


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("robots", "noindex, nofollow")], BOTH),
        ([("ROBOTS", "NONE")], BOTH),
        ([(" robots ", "noindex")], "noindex"),
        ([("ourbot", "noindex"), ("robots", "nofollow")], BOTH),
        ([("googlebot", "noindex"), ("robots", "all")], ""),
        ([("description", "noindex")], ""),
        ([("robots", "index,follow,max-snippet:-1,max-image-preview:large,max-video-preview:-1")], ""),
        ([("robots", "otherbot: noindex")], ""),
        ([("robots", "unavailable_after: 25-Aug-2007 15:00:00 EST")], "noindex"),
        ([("", "noindex")], ""),
    ],
)
def test_of_a_page_the_elements_for_everyone_and_for_us_are_read(pairs: list[tuple[str, str]], words: str) -> None:
    assert read([], pairs, token="OurBot", now=NOW).words == frozenset(words.split())


def test_without_a_name_of_our_own_only_what_is_for_everyone_counts() -> None:
    assert read(["ourbot: noindex, nofollow"], [("", "noarchive")]).words == frozenset()
    assert read(["ourbot: noindex", "nofollow"], [("robots", "noarchive")]).words == {"nofollow", "noarchive"}


def test_header_and_page_add_up() -> None:
    assert read(["noindex"], [("robots", "nofollow")]).words == {"noindex", "nofollow"}


@pytest.mark.parametrize(
    "value",
    ["25 Jun 2010 15:00:00 GMT", "Friday, 25-Jun-10 15:00:00 GMT", "Fri, 25 Jun 2010 17:00:00 +0200",
     "2010-06-25T15:00:00Z", "2010-06-25T15:00:00", "25 Jun 2010 08:00:00 PDT"],
)  # fmt: skip
def test_a_date_is_read_in_the_three_forms(value: str) -> None:
    expiry = read([f"noarchive, unavailable_after: {value}"]).unavailable_after
    assert expiry == dt.datetime(2010, 6, 25, 15, tzinfo=dt.UTC)


def test_after_its_date_a_page_is_noindex_and_not_before() -> None:
    fields, expiry = ["unavailable_after: 2020-01-01T00:00:00Z"], NOW
    assert not read(fields, now=expiry - 1).noindex
    assert read(fields, now=expiry).noindex
    assert not read(fields).noindex, "nobody said what time it is"


@pytest.mark.parametrize(
    "value", ["", "soon", "9999-99-99", "Wed, 03 Mar 99999 1:1:1 GMT", "0", "-1", "٣" * 50, "9" * 99]
)
def test_a_date_that_is_none_is_ignored(value: str) -> None:
    assert read([f"unavailable_after: {value}"], now=NOW) == Directives()


def test_of_several_values_the_strictest_counts() -> None:
    found = read(
        ["max-snippet:50, max-image-preview:large, max-video-preview:-1", "ourbot: max-snippet: 20"],
        [("robots", "max-image-preview:standard, max-video-preview: 9, unavailable_after: 2031-01-01")],
        token="ourbot",
    )
    assert (found.max_snippet, found.max_image_preview, found.max_video_preview) == (20, "standard", 9)
    assert found.unavailable_after == dt.datetime(2031, 1, 1, tzinfo=dt.UTC)
    assert read(["max-snippet:-1, max-snippet:x, max-image-preview:huge, max-snippet"]) == Directives()


def test_each_word_that_is_asked_for_often_has_a_name() -> None:
    for word in ("noindex", "nofollow", "noarchive", "nosnippet", "noimageindex", "notranslate"):
        assert getattr(read([word]), word) is True
        assert getattr(read(["all"]), word) is False


@pytest.mark.parametrize(
    "text",
    ["noindex," * 100_000, "a:" * 100_000, " " * 500_000, "max-snippet:1 " * 50_000, "unavailable_after:" * 50_000,
     "unavailable_after" + " " * 500_000 + "x", "unavailable_after: mon" + " " * 500_000 + "x", ";" * 500_000],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_field_of_half_a_megabyte_takes_no_time(text: str) -> None:
    began = time.process_time()
    read([text], [("robots", text)], token="ourbot", now=NOW)
    assert time.process_time() - began < 0.1


# -- in a page -------------------------------------------------------------------------------------------------------


PAGES = [
    ("<head><meta name=robots content=noindex></head>", "noindex"),
    ("<meta content='NOFOLLOW' name='Robots'>", "nofollow"),
    ("<HEAD><META NAME=\"ROBOTS\" CONTENT='none'></HEAD><BODY>", BOTH),
    ("<meta name=robots content=noindex><meta name=ourbot content=nofollow>", BOTH),
    ("<meta name=googlebot content=noindex>", ""),
    ("<meta name=robots>", ""),
    ("<meta property=robots content=noindex>", ""),
    ("<!-- <meta name=robots content=noindex> -->", ""),
    ("<script>'<meta name=robots content=noindex>'</script>", ""),
    ("<title>robots &amp; nofollow</title>", ""),
    ("<head><div></div><meta name=robots content=noindex></head>", "noindex"),  # the div ends the head
    ("<head><meta name='robots' content='a > b, nofollow'></head>", "nofollow"),
    ("<meta name=&#114;obots content=noindex>", ""),  # not worth parsing every page for
]


@pytest.mark.parametrize(("html", "words"), PAGES)
def test_a_page_is_read_as_a_browser_reads_it(html: str, words: str) -> None:
    body = html.encode()
    found = metas(LexborHTMLParser(body), "OurBot") if may_be_in(body, "OurBot") else []
    assert read([], found, token="OurBot").words == frozenset(words.split())


def test_a_page_whose_head_has_not_the_letters_is_not_parsed_for_it() -> None:
    page = fake_response("https://a.example/", "<head><title>x</title></head><body>robots <meta name=robots>")
    assert page.robots == Directives()
    assert page._html is None
    assert not may_be_in(b"x" * (1 << 16) + b"robots", "")
    assert may_be_in(b"x" * 60_000 + b"rObOts", "")


def test_ten_thousand_elements_are_not_all_read() -> None:
    html = "<meta name=robots content=noarchive>" * 10_000
    assert len(metas(LexborHTMLParser(html), "")) == 50


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_page_in_utf_16_is_read_too(encoding: str) -> None:
    body = "\ufeff<html><head><meta name=robots content=nofollow></head>".encode(encoding)
    assert fake_response("https://a.example/", body, headers={"Content-Type": "text/html"}).nofollow


@pytest.mark.parametrize(
    ("kind", "noindex"),
    [("text/html", True), ("application/xhtml+xml", True), ("TEXT/HTML; charset=utf-8", True),
     ("text/plain", False), ("application/json", False), ("image/svg+xml", False)],
)  # fmt: skip
def test_only_html_is_looked_into(kind: str, noindex: bool) -> None:
    body = '<meta name="robots" content="noindex">'
    page = fake_response("https://a.example/", body, headers={"Content-Type": kind})
    assert page.noindex is noindex
    assert (page._html is not None) is noindex


def test_the_header_counts_whatever_the_body_is() -> None:
    page = fake_response(
        "https://a.example/x.pdf", b"%PDF", headers={"Content-Type": "application/pdf", "x-robots-tag": "None"}
    )
    assert (page.noindex, page.nofollow, page.robots.noarchive) == (True, True, False)


def test_it_is_read_once() -> None:
    page = fake_response("https://a.example/", headers={"X-Robots-Tag": "noindex"})
    assert page.robots is page.robots
