"""No regular expression takes more than linear time on what a site sends: each reader is timed on texts that are made
for it, and each pattern of the package is looked at."""

from __future__ import annotations

import importlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from patterns import Expression, complaints, expressions

from crawler import directives, redaction
from crawler import url as urls
from crawler.cookies.reading import RefusedError, parse_date, parse_set_cookie
from crawler.download.ranges import Origin, origin_of, rest_of
from crawler.download.trace import _shown
from crawler.encoding import charset_from_content_type, decode, detect
from crawler.errors import FetchError, InvalidURL
from crawler.file_names import suffix_of
from crawler.form.controls import _is_number
from crawler.form.owners import marked
from crawler.listings.dates import read_date
from crawler.listings.sitemap import SitemapReader
from crawler.listings.syndication import FeedReader
from crawler.log import one_line
from crawler.redirect import next_request
from crawler.retry import RetryPolicy
from crawler.robots import Robots, lifetime
from crawler.testing import fake_response
from crawler.traps import Kind, Pattern, _digest, pattern_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.hostile("S39")

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = "http://a.example/"
LONGEST_FIELD: Final = 8190
"""Characters of a header field, which the HTTP parser sees to."""

# -- readers -----------------------------------------------------------------------------------------------------------


def headers(**given: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): value for name, value in given.items()}))


def cookie(text: str) -> None:
    for line in (text, f"a=b; {text}", f"a=b; Expires={text}", f"a=b; Path={text}"):
        try:
            parse_set_cookie(line, 0.0)
        except RefusedError:
            continue
    parse_date(text)
    field = f"a=b; {text}"[:LONGEST_FIELD]
    assert fake_response(PAGE, headers={"Set-Cookie": field}).cookies is not None


def redirect(text: str) -> None:
    answer = fake_response(PAGE, status=302, headers={"Location": text})
    try:
        next_request(answer.request, answer, 10)
    except FetchError:
        return


def url(text: str) -> None:
    for written in (text, f"http://a.example/{text}", f"http://a.example/?{text}", f"http://{text}"):
        try:
            found = urls.normalize(written)
        except InvalidURL:
            continue
        urls.canonical(found)
        pattern_of(found)
    urls.join(PAGE, text)
    urls.join_as_written(PAGE, text)
    suffix_of(f"http://a.example/{text}", text)


def robots(text: str) -> None:
    rules = Robots.parse(text.encode("utf-8", "replace"), "bot")
    rules = Robots.parse(f"User-agent: *\nDisallow: /{text[:8192]}z$\nCrawl-delay: {text}\nSitemap: {text}", "bot")
    rules.check(f"/{text}")
    rules.check(f"http://{text}")


def ranges(text: str) -> None:
    given = headers(ETag=text, Content_Length=text, Accept_Ranges=text, Content_Encoding=text, Date=f"{text}GMT")
    for each in (
        dict(given),
        {"Last-Modified": f"{text}GMT", "Date": f"{text}GMT"},
        {"Content-Range": f"bytes {text}"},
    ):
        answer = fake_response(PAGE, "x", status=206, headers=each)
        origin_of(answer)
        rest_of(answer, Origin(PAGE, '"a"'), 0)


def cached(text: str) -> None:
    lifetime(headers(Cache_Control=f"max-age{text}", Age=text))
    lifetime(headers(Expires=text, Date=text))


def content_type(text: str) -> None:
    for value in (text, f"text/html; charset={text}"):
        charset_from_content_type(value)
        detect(b"\xff", value)


def body(text: str) -> None:
    content = text.encode("utf-8", "replace")
    for page in (content, b"<meta charset=" + content, b"<?xml encoding" + content, b"<!charset" + content):
        for kind in ("text/html", "application/xhtml+xml"):
            decode(page, detect(page, kind))


def unparsed(text: str) -> None:
    """What looks at a page without a tree."""
    page = f"<form><input{text}<script{text}".encode("utf-8", "replace")
    directives.may_be_in(page, "bot")
    _digest(page[: 256 * 1024], Pattern("a.example/#", Kind.CALENDAR), f"{PAGE}?sid=1234567")


def listing(text: str) -> None:
    for begin in ("", "<urlset><url><lastmod>", "<rss><channel><item><pubDate>", "<feed><entry><updated>"):
        content = (begin + text).encode("utf-8", "replace")
        sitemap, feed = SitemapReader(), FeedReader(PAGE)
        list(sitemap.feed(content))
        list(feed.read(content))
    read_date(text)


def tag(text: str) -> None:
    directives.read([text, f"bot: {text}", f"unavailable_after:{text}"], [("robots", text)], token="bot", now=0.0)


def shown(text: str) -> None:
    one_line(text)
    _shown(text)
    for written in (text, f"http://{text}", f"{text}@"):
        redaction.redact(written)
        redaction.redact_refused(written)


def link_text(text: str) -> None:
    page = fake_response(PAGE, f"<a href=x>{text.replace('<', ' ')}</a>")
    page.css("a::text").re("x.")
    page.css("a").re_first("x")


READERS: Final[dict[str, tuple[int, Callable[[str], object]]]] = {
    "the encoding of a body": (8, body),
    "Content-Type": (3, content_type),
    "Set-Cookie": (6, cookie),
    "Location": (1, redirect),
    "Retry-After": (1, lambda text: RetryPolicy().retry_after(headers(Retry_After=text), 0.0)),
    "Cache-Control, Expires and Age": (2, cached),
    "X-Robots-Tag and <meta name=robots>": (4, tag),
    "ranges": (3, ranges),
    "robots.txt": (4, robots),
    "links": (12, url),
    "sitemaps and feeds": (7, listing),
    "what repeats itself": (3, unparsed),
    "forms": (4, lambda text: (marked(f"<form{text}"), marked(text), marked(f"<textarea>{text}"), _is_number(text))),
    "link text": (2, link_text),
    "the log": (8, shown),
}
"""How often each of them reads the text, and how."""
TEXTS: Final = (
    " ", "\n", "<", "\"", ";", ",", "=", "a", "/", "&", "%", "*", "<!--", "<a ", "<a =", "</", "a*", "/*a", "; charset",
    " max-age", "a:", "://", "//a@", "&a", "%41", "<script ", "<script></script", "unavailable_after: fri,", "sid=",
    "/(s(", "2024-", "1.", "\x1b", "\u3042",
)  # fmt: skip
ONCE, FOUR_TIMES = 4 * 1024, 16 * 1024
SECONDS_PER_BYTE: Final = 2 * 0.05 / 100_000
"""Twice 50 ms for 100 KB: a busy machine counts more CPU for the same work. What is squared takes ten times that."""


def seconds(reader: Callable[[str], object], text: str, size: int) -> float:
    """Of CPU, of this thread."""
    given = text * (size // len(text.encode()))
    began = time.thread_time()
    reader(given)
    return time.thread_time() - began


def fastest(reader: Callable[[str], object], text: str, size: int, enough: float) -> float:
    """Of some runs, until one is fast enough: machines are busy with other things."""
    best = float("inf")
    for _ in range(6):
        best = min(best, seconds(reader, text, size))
        if best <= enough or best > 10 * enough:
            break
    return best


def grows(reader: Callable[[str], object], text: str, reads: int = 1) -> str | None:
    """What is wrong with the time that the reader takes, if anything is."""
    most = reads * FOUR_TIMES * SECONDS_PER_BYTE
    many = fastest(reader, text, FOUR_TIMES, most)
    if many > most:
        return f"{many * 1e3:.0f} ms for {FOUR_TIMES} bytes of {text!r}"
    if many < 0.002:  # too little to compare, and harmless: were it squared, 100 KB would take 80 ms
        return None
    once = max(seconds(reader, text, ONCE) for _ in range(3))
    many = fastest(reader, text, FOUR_TIMES, 9 * once)
    return f"four times as much of {text!r} takes {many / once:.1f} times as long" if many > 9 * once else None


@pytest.mark.parametrize(("reads", "reader"), READERS.values(), ids=READERS)
def test_time_grows_with_the_size_of_what_is_read_and_no_faster(reads: int, reader: Callable[[str], object]) -> None:
    assert [fault for text in TEXTS if (fault := grows(reader, text, reads))] == []


def test_a_reader_that_takes_the_square_of_it_would_be_found() -> None:
    assert grows(lambda text: re.search(r"\s*,", text[: len(text) // 2]), " ")
    assert grows(lambda text: re.search("<!--.*?-->", text, re.DOTALL), "<!--")
    assert not grows(re.compile(r"\s*+,").match, " ")


# -- patterns ----------------------------------------------------------------------------------------------------------

EXCEPTIONS: Final = {
    "crawler/form/owners.py:_MARKUP": "what is never closed runs to the end, so nothing begins anew behind it",
    "crawler/listings/dates.py:_COMMENT": "of at most 100 characters",
    "crawler/cli/fetch_request.py:_FIELD": "an argument of the user's own command",
    "crawler/css/reader.py:_TOKEN": "a selector of the user's own",
    "crawler/kinds/link_extractor.py:_LAST": "a selector of the user's own",
    "crawler/curl/words.py:_EXPANSION": "a command that the user pastes",
    "crawler/curl/words.py:_CARETS": "a command that the user pastes",
    "crawler/settings/layers.py:_SERVICE_LINK": "the name of an environment variable",
    "crawler/settings/masking.py:_SECRET_QUERY": "a value of the user's settings",
}
"""Patterns that look as if they could take long, and why they do not."""


def looked_at() -> Iterator[tuple[str, Expression]]:
    for path in sorted((ROOT / "crawler").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        if "\nimport re\n" in source:
            module = importlib.import_module(".".join(where.with_suffix("").parts).removesuffix(".__init__"))
            for expression in expressions(source, vars(module)):
                yield f"{where}:{expression.name}", expression


def test_no_pattern_of_the_package_can_take_more_than_linear_time() -> None:
    found = list(looked_at())
    assert len(found) > 100
    faults = {where: complaints(expression) for where, expression in found if complaints(expression)}
    assert {where: fault for where, fault in faults.items() if where not in EXCEPTIONS} == {}
    assert EXCEPTIONS.keys() - faults.keys() == set()  # each is still needed


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"(a+)*b", "match"),
        (r"(?:a|aa)+$", "match"),
        (r"(?:ab|a.)*c", "match"),
        (r"(?:a?b?)*c", "match"),
        (r"a*[ab]*c", "match"),
        (r"[^=]*key[^=]*=", "match"),
        (r"\s*\s*x", "fullmatch"),
        (r"a*a*", "fullmatch"),
        (r"\s*x", "search"),
        (r"\s++x", "sub"),
        (r"<!--.*?-->", "finditer"),
        (r"\s+$", "sub"),
    ],
)
def test_a_pattern_that_can_is_complained_of(pattern: str, method: str) -> None:
    source = f"import re\nTEXT = {pattern!r}\nFOUND = re.compile(TEXT, re.DOTALL)\nFOUND.{method}('x')\n"
    [expression] = expressions(source, {"re": re, "TEXT": pattern})
    assert complaints(expression)


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"\s+", "sub"),
        (r"\s*x", "match"),
        (r"a*+a*+b", "match"),
        (r"(?:;[^;]*)*x", "match"),
        (r"(?<=://)[^/@]*@", "sub"),
        (r"([^=]*)=(.*)", "fullmatch"),
        (r"a[0-9]{1,9}[0-9]{1,9}b", "search"),
    ],
)
def test_a_pattern_that_cannot_is_not(pattern: str, method: str) -> None:
    [expression] = expressions(f"import re\nre.{method}({pattern!r}, 'x')", {"re": re})
    assert complaints(expression) == []
