"""Links as the web has them, in encodings that are not UTF-8 and with bytes that are none: what is sent is what a
browser sends, and what is written is UTF-8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler import url as urls
from crawler.encoding import CODECS
from crawler.kinds.link_extractor import LinkExtractor
from crawler.links import Links
from crawler.spider import Spider
from crawler.testing import RawServer, fake_response, run_spider

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

pytestmark = pytest.mark.hostile("R-34")

BASE = "http://a.example/b/c?d"

# What "percent-encode after encoding" (URL Standard, section 1.3) makes of them.
SENT = [
    ("utf-8", "?q=\u00e5", "?q=%C3%A5"),
    ("cp1252", "?q=\u00e5", "?q=%E5"),
    ("cp1252", "\u00e5?q=\u00e5#\u00e5", "%C3%A5?q=%E5"),
    ("cp1252", "?q=\u20ac\u0081", "?q=%80%81"),
    ("cp1252", "?q=\u65e5&r=&#1;", "?q=%26%2326085%3B&r=&"),
    ("cp1252", "?q=%e5\u00e5%2", "?q=%e5%E5%2"),
    ("cp1252", "?q=\u00e5 '\"<>", "?q=%E5%20%27%22%3C%3E"),
    ("cp1252", "\t?q=\u00e5\n&r ", "?q=%E5&r"),
    ("cp1252", "?q=\ud800\u00e5", "?q=%26%2365533%3B%E5"),
    ("cp1252", "?q=\ud83c\udf75", "?q=%26%23127861%3B"),
    ("cp932", "?q=\u65e5\u8868", "?q=%93%FA%95\\"),
    ("euc_jp", "?q=\u65e5", "?q=%C6%FC"),
    ("iso2022_jp_ext", "?q=\u65e5", "?q=%1B$BF|%1B(B"),
    ("cp949", "?q=\uc0ac", "?q=%BB%E7"),
    ("big5hkscs", "?q=\u65e5", "?q=%A4%E9"),
    ("gb18030", "?q=\u65e5", "?q=%C8%D5"),
    ("cp1251", "?q=\u0434\u00e5", "?q=%E4%26%23229%3B"),
    ("iso8859-15", "?q=\u20ac", "?q=%A4"),
    ("koi8-u", "?q=\u045e", "?q=%AE"),
    ("utf-16-le", "?q=\u00e5", "?q=%C3%A5"),
    ("cp1252", "//b\u00fccher.example/?\u00fc", "http://xn--bcher-kva.example/?%FC"),
    ("cp1252", "https://\uff45\uff58.example?\u00fc?\u00fc", "https://ex.example/?%FC?%FC"),
    ("cp1252", "/x\ufffd%ff", "http://a.example/x%EF%BF%BD%ff"),
    ("cp1252", "mailto:a?\u00fc", None),
    ("cp1252", "javascript:'\u00fc?\u00fc'", None),
]


def expected(base: str, sent: str | None) -> str | None:
    if sent is None or "://" in sent:
        return sent
    return base.partition("?")[0] + sent if sent[0] == "?" else base[: base.rindex("/") + 1] + sent


@pytest.mark.parametrize(("encoding", "reference", "sent"), SENT)
def test_the_query_of_a_link_is_sent_in_the_encoding_of_its_page(
    encoding: str, reference: str, sent: str | None
) -> None:
    wanted = expected(BASE, sent)
    assert urls.join(BASE, reference, encoding) == wanted
    assert urls.Joiner(BASE, encoding).many([reference, reference]) == [wanted, wanted]
    if wanted is not None:
        assert urls.normalize(wanted) == wanted
        assert Links(BASE, [reference], encoding=encoding).urls() == [wanted]


def test_what_is_remembered_of_a_folder_is_remembered_for_one_encoding() -> None:
    for encoding, sent in (("utf-8", "%C3%A5"), ("cp1252", "%E5"), ("utf-8", "%C3%A5")):
        assert urls.Joiner(BASE, encoding).many(["x?\u00e5"]) == [f"http://a.example/b/x?{sent}"]


def test_a_link_extractor_sends_it_so_too() -> None:
    page = fake_response(
        BASE, "<a href='?q=日表'>".encode("cp932"), headers={"Content-Type": "text/html; charset=sjis"}
    )
    assert [link.url for link in LinkExtractor().extract_links(page)] == ["http://a.example/b/c?q=%93%FA%95\\"]


@given(st.sampled_from(sorted(CODECS)), st.text(max_size=20))
def test_any_link_in_any_encoding_is_a_normalised_url_or_none(encoding: str, text: str) -> None:
    for reference in (text, f"?{text}", f"x?{text}"):
        found = urls.join(BASE, reference, encoding)
        assert found is None or urls.normalize(found) == found
        if text.isascii():
            assert found == urls.join(BASE, reference)


# -- on the wire -------------------------------------------------------------------------------------------------------

PAGES = {
    b"/latin1": (b"iso-8859-1", b"<a href='\xe4?q=\xe5&amp;r=%e5'>x</a>"),
    b"/sjis": (b"Shift_JIS", b"<a href='?q=\x93\xfa\x95\x5c'>x</a>"),
    b"/broken": (b"utf-8", b"<a href='\xff?q=\xff%ff'>x</a>"),
    b"/surrogate": (b"windows-1252", b"<a href='?q=&#xd800;&#x1f375;'>x</a>"),
    b"/form": (b"koi8-r", b"<form action='/done'><input name=q value='\xc4'></form>"),
}
ASKED = {
    b"/%C3%A4?q=%E5&r=%e5", b"/sjis?q=%93%FA%95\\", b"/%EF%BF%BD?q=%EF%BF%BD%ff",
    b"/surrogate?q=%26%2365533%3B%26%23127861%3B", b"/done?q=%C4",
}  # fmt: skip
"""The path is in UTF-8 and the query in the encoding of the page; escapes stay as they are written."""


class Follows(Spider):
    name = "follows"
    site = ""

    async def start(self) -> Any:
        for path in PAGES:
            yield self.request(self.site + path.decode())

    def parse(self, response: Any) -> Any:
        yield {"text": response.text}
        if response.css("form"):
            yield response.form().fill(callback="done")
        for link in response.css("a[href]"):
            one = response.follow(link, "done")
            reference = link.attrib["href"]
            assert response.links() == [response.urljoin(reference)] == [one.url]
            assert [each.url for each in response.follow_all([reference])] == [one.url]
            yield one

    def done(self, response: Any) -> Any:
        yield {"done": response.url}


async def test_the_bytes_of_a_request_are_those_that_a_browser_sends(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        charset, body = PAGES.get(server.requests[-1].split()[1], (b"utf-8", b"x"))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=%b\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (charset, len(body)) + body)

    async with RawServer(script) as server:
        ended = await run_spider(Follows, args={"site": server.url.rstrip("/")}, output=tmp_path / "out.jsonl")
        asked = {request.split()[1] for request in server.requests}
    assert ended.stats.get("errors", 0) == 0
    assert asked - PAGES.keys() - {b"/robots.txt"} == ASKED
    assert (tmp_path / "out.jsonl").read_bytes().decode("utf-8", "strict").count("\n") == 2 * len(PAGES)
