"""Whatever a site calls its encoding, and whatever it really is: a text, and no codec but those of the Encoding
Standard."""

from __future__ import annotations

import codecs
import csv
import encodings
import json
from typing import TYPE_CHECKING, Any

import pytest

from crawler import Spider
from crawler.listings.sitemap import SitemapReader
from crawler.listings.syndication import FeedReader
from crawler.robots import Robots
from crawler.testing import LocalSite, fake_response, run_spider

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_LABELS = (
    "zip", "bz2", "hex", "base64", "quopri", "uu", "rot13", "rot_13", "utf-7", "utf7", "utf-32", "utf_8_sig",
    "unicode_escape", "raw_unicode_escape", "undefined", "idna", "punycode", "palmos", "cp037", "ptcp154", "oem",
    "replacement", "iso-2022-kr", "hz-gb-2312", "iso-2022-cn", "iso-2022-cn-ext", "os", "../zip", "planted",
)  # fmt: skip
"""What Python has and the Standard does not, what the Standard has to be replaced, and what nobody has."""
LABELS = ("utf-8", "windows-1252", "shift_jis", "euc-jp", "iso-2022-jp", "gb18030", "big5", "euc-kr", "utf-16",
          "utf-16be", "koi8-u", "windows-1255", "x-user-defined", "macintosh")  # fmt: skip


def plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


@pytest.fixture
def asked() -> Iterator[set[str]]:
    """The names that Python's registry is asked for, forgetting what it knows."""
    found: set[str] = set()

    def search(name: str) -> codecs.CodecInfo | None:
        found.add(plain(name))
        return encodings.search_function(name)

    codecs.unregister(encodings.search_function)  # which empties the cache of the registry
    codecs.register(search)
    yield found
    codecs.unregister(search)
    codecs.register(encodings.search_function)


class Reads(Spider):
    name = "reads"
    site = ""
    pages = 0

    async def start(self) -> Any:
        for number in range(self.pages):
            yield self.request(f"{self.site}/{number}")

    def parse(self, response: Any) -> Any:
        form = response.form()
        yield {
            "at": response.url.rpartition("/")[2],
            "encoding": response.encoding,
            "title": response.css("title::text").get(),
            "links": response.links(),
            "sent": form.fill(q="\u65e5").url,
        }


def page(label: str) -> str:
    return (
        f"<meta charset='{label}'><meta http-equiv=content-type content='text/html; charset={label}'><title>T</title>"
        f"<a href=x charset={label}>x</a><form accept-charset='{label}'>"
        "<input name=q><input type=hidden name=_charset_>"
    )


@pytest.mark.hostile("S54")
async def test_no_page_has_python_look_for_a_codec_that_is_no_encoding_of_the_web(asked: set[str]) -> None:
    async with LocalSite() as site:
        for number, label in enumerate(NO_LABELS):
            kind = {"Content-Type": f"text/html; charset={label}"}
            site.page(f"/{number}", page(label), headers=kind)
        site.page(f"/{len(NO_LABELS)}", page("euc-kr"), headers={"Content-Type": "text/html; charset=EUC-KR"})
        ended = await run_spider(Reads, args={"site": site.url, "pages": len(NO_LABELS) + 1})
    found = {int(item["at"]): item for item in ended.items}
    assert sorted(found) == list(range(len(NO_LABELS) + 1))
    assert found.pop(len(NO_LABELS))["encoding"] == "cp949"
    assert {(item["encoding"], item["title"]) for item in found.values()} == {("utf-8", "T")}
    assert all("q=%E6%97%A5&_charset_=UTF-8" in item["sent"] for item in found.values())
    assert "cp949" in asked  # so it is seen what is asked for
    assert asked & (set(map(plain, NO_LABELS)) - {"idna"}) == set()  # `idna` is what international host names are in


@pytest.mark.hostile("S54")
@pytest.mark.parametrize("label", [each for each in NO_LABELS if "/" not in each])  # a slash is no name in XML
def test_no_other_file_of_a_site_does(asked: set[str], label: str) -> None:
    declared = f"<?xml version='1.0' encoding='{label}'?>".encode()
    sitemap = SitemapReader(charset=label)
    found = [*sitemap.feed(declared + b"<urlset><url><loc>http://a.example/</loc></url></urlset>"), sitemap.close()]
    assert "http://a.example/" in str(found)
    feed = FeedReader("http://a.example/", charset=label)
    list(feed.read(declared + b"<rss><channel><item><title>T</title></item></channel></rss>"))
    assert [entry.title for entry in feed.entries] == ["T"]
    assert Robots.parse(f"\ufeffSitemap: /{label}\ncharset: {label}".encode(), "bot").sitemaps == (f"/{label}",)
    answer = fake_response("http://a.example/", "{}", headers={"Content-Type": f"application/json; charset={label}"})
    assert (answer.json(), answer.text) == ({}, "{}")
    with pytest.raises(ValueError, match="not an encoding of the WHATWG Encoding Standard"):
        answer.encoding = label
    assert plain(label) not in asked


@pytest.mark.hostile("S54")
@pytest.mark.parametrize("label", ["replacement", "iso-2022-kr", "hz-gb-2312", "iso-2022-cn", "iso-2022-cn-ext"])
def test_what_the_standard_replaces_counts_as_not_declared(label: str) -> None:
    answer = fake_response(
        "http://a.example/", b"a\x1b$)Cb~{<:Ky~}", headers={"Content-Type": f"text/html;charset={label}"}
    )
    assert (answer.encoding, answer.text) == ("utf-8", "a\x1b$)Cb~{<:Ky~}")


# -- wrong ones --------------------------------------------------------------------------------------------------------

WORDS = "caf\u00e9 \u2013 na\u00efve \u201cquoted\u201d"
BODIES = {
    "UTF-8": WORDS.encode(),
    "windows-1252": WORDS.encode("cp1252"),
    "Shift_JIS": "\u65e5\u672c\u8a9e\u8868".encode("cp932"),
    "ISO-2022-JP, cut": "\u65e5\u672c\u8a9e".encode("iso2022_jp")[:-4],
    "UTF-16 without a mark": WORDS.encode("utf-16-le"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + WORDS.encode(),
    "windows-1252 with the mark of UTF-8": b"\xef\xbb\xbf" + WORDS.encode("cp1252"),
    "UTF-8 with the mark of UTF-16": b"\xff\xfe" + WORDS.encode() + b"x",
    "UTF-16 with the other mark": b"\xfe\xff" + WORDS.encode("utf-16-le"),
    "a declaration behind 1024 bytes": b" " * 1024 + b"<meta charset=koi8-r>" + WORDS.encode("cp1252"),
    "all bytes": bytes(range(256)) * 2,
    "surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "overlong": b"\xc0\x80\xe0\x80\xaf\xf8\x88\x80\x80\x80",
    "a cut character": b"\xe6\x97",
    "nothing": b"",
}


def framed(body: bytes) -> bytes:
    marks = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
    mark = next((each for each in marks if body.startswith(each)), b"")
    return mark + b"<title>" + body.removeprefix(mark) + b"</title><a href='?q=" + body.removeprefix(mark) + b"'></a>"


@pytest.mark.hostile("R-34", "R-35")
async def test_every_body_under_every_name_becomes_items_in_utf8(tmp_path: Path) -> None:
    wrong = [(label, body) for label in (None, *LABELS) for body in BODIES.values()]

    class Each(Reads):
        def parse(self, response: Any) -> Any:
            forms = response.css("form")
            title = response.css("title::text").get()
            yield {"at": response.url.rpartition("/")[2], "title": title, "text": response.text,
                   "links": response.links(), "forms": len(forms), "robots": response.nofollow}  # fmt: skip

    async with LocalSite() as site:
        for number, (label, body) in enumerate(wrong):
            kind = "text/html" if label is None else f"text/html; charset={label}"
            site.page(f"/{number}", framed(body), headers={"Content-Type": kind})
        output = [tmp_path / "out.jsonl", tmp_path / "out.csv"]
        ended = await run_spider(Each, args={"site": site.url, "pages": len(wrong)}, output=output)
    assert ended.stats.get("errors", 0) == 0
    items = [json.loads(line) for line in output[0].read_bytes().decode("utf-8", "strict").splitlines()]
    assert sorted(int(item["at"]) for item in items) == list(range(len(wrong)))
    assert all(link.isascii() for item in items for link in item["links"])
    with output[1].open(newline="", encoding="utf-8", errors="strict") as file:
        assert sum(1 for _ in csv.DictReader(file)) == len(wrong)


@pytest.mark.hostile("R-35")
@pytest.mark.parametrize(
    ("declared", "body", "encoding", "text"),
    [
        ("utf-8", "UTF-8", "utf-8", WORDS),
        ("utf-8", "windows-1252", "utf-8", "caf\ufffd \ufffd na\ufffdve \ufffdquoted\ufffd"),
        (None, "windows-1252", "cp1252", WORDS),
        (
            "windows-1252",
            "UTF-8",
            "cp1252",
            "caf\u00c3\u00a9 \u00e2\u20ac\u201c na\u00c3\u00afve \u00e2\u20ac\u0153quoted\u00e2\u20ac\u009d",
        ),
        ("koi8-r", "UTF-8 with a mark", "utf-8", WORDS),
        ("utf-8", "windows-1252 with the mark of UTF-8", "utf-8", "caf\ufffd \ufffd na\ufffdve \ufffdquoted\ufffd"),
        ("zip", "windows-1252", "cp1252", WORDS),
        ("shift_jis", "a cut character", "cp932", "\u8b4c"),
        (None, "surrogates", "cp1252", "\u00ed\u00a0\u20ac\u00ed\u00b0\u20ac"),
        ("utf-8", "surrogates", "utf-8", "\ufffd" * 6),
    ],
)
def test_a_wrong_name_gives_the_text_that_a_browser_shows(
    declared: str | None, body: str, encoding: str, text: str
) -> None:
    kind = "text/html" if declared is None else f"text/html; charset={declared}"
    answer = fake_response("http://a.example/", BODIES[body], headers={"Content-Type": kind})
    assert (answer.encoding, answer.text) == (encoding, text)


@pytest.mark.hostile("R-35")
def test_a_declaration_that_comes_too_late_is_not_waited_for() -> None:
    answer = fake_response(
        "http://a.example/", BODIES["a declaration behind 1024 bytes"], headers={"Content-Type": "text/html"}
    )
    assert answer.encoding == "cp1252"
    assert answer.text.endswith(WORDS)
