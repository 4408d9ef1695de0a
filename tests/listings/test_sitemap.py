"""Sitemaps as they come: XML and text, compressed or not, and the limits of the protocol."""

from __future__ import annotations

import datetime as dt
import gzip
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from crawler.listings.gunzip import PIECE_BYTES, Gunzip
from crawler.listings.sitemap import MAX_BYTES, SitemapReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NS = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


def read(pieces: bytes | Iterable[bytes]) -> tuple[list[dict[str, Any]], SitemapReader]:
    reader = SitemapReader()
    found: list[dict[str, Any]] = []
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        for batch in reader.feed(piece):
            found += batch
        if reader.is_over:
            break
    found += reader.close()
    return found, reader


def urlset(body: str, more: str = "") -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset {NS} {more}>{body}</urlset>'.encode()


def test_an_entry_has_what_the_site_says_of_it():
    found, reader = read(
        urlset(
            "<url><loc> https://a.example/?a=1&amp;b=2\n</loc><lastmod>2024-05-06T07:08:09+02:00</lastmod>"
            "<changefreq>daily</changefreq><priority>0.8</priority></url>"
            "<url><loc>https://a.example/2</loc><lastmod>soon</lastmod><priority>high</priority></url>"
            "<url><lastmod>2024-01-01</lastmod></url><url/>"
        )
    )
    moment = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert found == [
        {"loc": "https://a.example/?a=1&b=2", "lastmod": moment, "changefreq": "daily", "priority": 0.8},
        {"loc": "https://a.example/2"},
    ]
    assert (reader.kind, reader.problem) == ("urlset", "")


def test_extensions_for_languages_news_images_and_videos_are_plain_values():
    found, reader = read(
        urlset(
            '<url><loc>https://a.example/</loc><xhtml:link rel="alternate" hreflang="de" href="https://a.example/de"/>'
            "<news:news><news:publication><news:name>The Times</news:name><news:language>en</news:language>"
            "</news:publication><news:publication_date>2024-05-06</news:publication_date><news:title>T</news:title>"
            "</news:news>"
            "<i:image><i:loc>https://a.example/1.png</i:loc></i:image><i:image><i:loc>/2.png</i:loc></i:image>"
            "<video:video><video:title>V</video:title><video:tag>a</video:tag><video:tag>b</video:tag>"
            "<video:expiration_date>never</video:expiration_date></video:video>"
            "<mobile:mobile>x</mobile:mobile></url>",
            'xmlns:xhtml="http://www.w3.org/1999/xhtml" xmlns:news="http://www.google.com/schemas/sitemap-news/0.9" '
            'xmlns:i="http://www.google.com/schemas/sitemap-image/1.1"',  # video: not declared
        )
    )
    assert found == [
        {
            "loc": "https://a.example/",
            "alternate": [{"hreflang": "de", "href": "https://a.example/de"}],
            "news": {
                "publication": {"name": "The Times", "language": "en"},
                "publication_date": dt.datetime(2024, 5, 6, tzinfo=dt.UTC),
                "title": "T",
            },
            "images": [{"loc": "https://a.example/1.png"}, {"loc": "/2.png"}],
            "videos": [{"title": "V", "tag": ["a", "b"], "expiration_date": "never"}],
        }
    ]
    assert reader.problem == ""


@pytest.mark.parametrize("opening", ["<urlset>", "<s:urlset xmlns:s='http://www.sitemaps.org/schemas/sitemap/0.9'>"])
def test_the_namespace_may_be_left_out_or_have_a_prefix(opening):
    p = "s:" if "s:urlset" in opening else ""
    found, _ = read(f"{opening}<{p}url><{p}loc>https://a.example/</{p}loc></{p}url></{p}urlset>".encode())
    assert found == [{"loc": "https://a.example/"}]


def test_an_index_names_sitemaps():
    found, reader = read(
        f"<sitemapindex {NS}><sitemap><loc>https://a.example/1.xml</loc></sitemap></sitemapindex>".encode()
    )
    assert (found, reader.kind) == ([{"loc": "https://a.example/1.xml"}], "sitemapindex")


def test_a_text_has_a_url_a_line():
    text = b"\xef\xbb\xbf\r\nhttps://a.example/1\r\n  HTTPS://a.example/2 \nnot a url\n# no\nhttps://a.example/gr\xff"
    for size in (1, 7, 1000):
        found, reader = read(text[i : i + size] for i in range(0, len(text), size))
        assert [entry["loc"] for entry in found] == [
            "https://a.example/1", "HTTPS://a.example/2", "https://a.example/gr\ufffd",
        ]  # fmt: skip
        assert (reader.kind, reader.problem) == ("text", "")


@pytest.mark.parametrize("size", [1, 10, 10_000_000])
def test_compression_is_seen_in_the_content_and_members_follow_one_another(size):
    one = urlset("<url><loc>https://a.example/1</loc></url>")
    packed = gzip.compress(one[:50]) + gzip.compress(one[50:]) + b"\0" * 100
    found, reader = read(packed[i : i + size] for i in range(0, len(packed), size))
    assert ([entry["loc"] for entry in found], reader.problem) == (["https://a.example/1"], "")


# -- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "count", "problem"),
    [
        (urlset("<url><loc>http://a.example/</loc></url><url><loc>x</url>"), 1, "it ends at line 2: mismatched tag"),
        (urlset("<url><loc>http://a.example/</loc></url>")[:-9], 1, "it ends at line 2: no element found"),
        (b"<!DOCTYPE html><html><p>", 0, "it ends at line 1: this is HTML"),
        (b"<html><head></head></html>", 0, "it is HTML"),
        (b"<rss version='2.0'/>", 0, "<rss> is no sitemap"),
        (b"<!DOCTYPE x [<!ENTITY f SYSTEM 'file:///etc/passwd'>]><urlset>&f;</urlset>", 0,
         "it ends at line 1: it has a document type declaration, which is refused"),
        (b"404: there is nothing here", 0, "it is neither XML nor a list of URLs"),
        (b"", 0, "it is empty"),
        (b"\n\n \n", 0, "it is empty"),
        (gzip.compress(urlset("<url><loc>http://a.example/</loc></url>" * 50))[:-5], 50,
         "the compressed file was cut short"),
        (b"\x1f\x8b\x08\x00 this is no gzip, though it begins like one", 0, "the compressed file is broken"),
        (gzip.compress(b"") * 2000, 0, "the compressed file has more than 1000 members"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_what_was_read_before_counts(document, count, problem):
    found, reader = read(document)
    assert len(found) == count
    assert reader.problem.startswith(problem)
    assert reader.is_over


def test_bytes_that_are_not_utf_8_spoil_one_entry_and_not_the_file():
    found, reader = read(urlset("<url><loc>http://a.example/gr</loc></url>" * 2).replace(b"gr", b"gr\xfc", 1))
    assert [entry["loc"] for entry in found] == ["http://a.example/gr\ufffd", "http://a.example/gr"]
    assert reader.problem == ""


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["<url><loc>http://a.example/{}</loc></url>\n", "http://a.example/{}\n"])
@pytest.mark.hostile("S41")
def test_after_50000_urls_the_rest_is_ignored(form):
    begin = urlset("").removesuffix(b"</urlset>") if form.startswith("<") else b""
    lines = (form.format(i).encode() for i in range(60_000))
    found, reader = read([begin, b"".join(lines)])
    assert len(found) == 50_000
    assert found[-1] == {"loc": "http://a.example/49999"}
    assert reader.problem == "it has more than 50000 URLs; the rest is ignored"


@pytest.mark.hostile("S41")
def test_a_gibibyte_of_blanks_is_given_up_after_50_mebibytes():
    asked = 0

    def blanks() -> Iterator[bytes]:
        nonlocal asked
        piece = b" \n" * (512 * 1024)
        for _ in range(1024):
            asked += 1
            yield piece

    found, reader = read(blanks())
    assert (found, asked) == ([], 51)
    assert reader.problem == "it has more than 50 MiB; the rest is ignored"


def bomb() -> bytes:
    """A gibibyte, compressed to one megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = packer.compress(urlset("").removesuffix(b"</urlset>")) + packer.flush(zlib.Z_FULL_FLUSH)
    blanks = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block + blanks * 1024


@pytest.mark.hostile("S24")
def test_a_compressed_bomb_is_given_up_after_50_mebibytes_in_bounded_memory():
    packed = bomb()
    assert len(packed) < 2_000_000
    tracemalloc.start()
    found, reader = read(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found, reader.problem) == ([], "it has more than 50 MiB; the rest is ignored")
    assert MAX_BYTES <= reader._bytes <= MAX_BYTES + PIECE_BYTES
    assert peak < 8_000_000


@pytest.mark.hostile("S41")
def test_a_large_file_takes_no_more_memory_than_a_small_one():
    entry = "<url><loc>http://a.example/{}</loc><lastmod>2024-05-06</lastmod></url>\n" + "<!-- -->" * 8

    def pieces() -> Iterator[bytes]:
        yield urlset("").removesuffix(b"</urlset>")
        for start in range(0, 5_000, 500):
            yield "".join(entry.format(i) for i in range(start, start + 500)).encode()
        yield b"</urlset>"

    reader, count = SitemapReader(), 0
    tracemalloc.start()
    for piece in pieces():
        count += sum(map(len, reader.feed(piece)))
    count += len(reader.close())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, reader.problem) == (5_000, "")
    assert peak < 1_500_000


def test_one_entry_keeps_at_most_a_quarter_of_a_megabyte():
    many = "<image:image><image:loc>" + "x" * 1000 + "</image:loc></image:image>"
    deep = "<video:a>" * 50 + "v" + "</video:a>" * 50
    found, reader = read(
        urlset(f"<url><loc>http://a.example/</loc>{many * 1000}<video:video>{deep}</video:video></url>")
    )
    assert reader.problem == ""
    assert 200 < len(found[0]["images"]) < 270
    assert len(str(found)) < 300_000


def test_each_piece_of_a_decompressed_file_is_small():
    packed = bomb()
    gunzip = Gunzip()
    sizes = [len(piece) for piece, _ in zip(gunzip.feed(packed), range(100), strict=False)]
    assert max(sizes) == PIECE_BYTES
    assert not gunzip.complete
