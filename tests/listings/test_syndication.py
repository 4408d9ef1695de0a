"""Feeds of every kind, read into one vocabulary."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from crawler.listings import syndication
from crawler.listings.syndication import Enclosure, Feed, FeedEntry, FeedReader

URL = "https://site.example/news/feed.xml"


def read(body: str | bytes, **options: Any) -> FeedReader:
    reader = FeedReader(URL, **options)
    for _ in reader.read(body.encode() if isinstance(body, str) else body):
        pass
    return reader


RSS = """<?xml version="1.0"?>
<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom" xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:content="http://purl.org/rss/1.0/modules/content/" xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd"
  xmlns:media="http://search.yahoo.com/mrss/">
<channel>
  <title>News &amp; more</title> <link>https://site.example/</link> <description>All of it</description>
  <atom:link rel="self" type="application/rss+xml" href="https://site.example/news/feed.xml"/>
  <language>en-gb</language> <pubDate>Mon, 06 May 2024 07:08:09 GMT</pubDate>
  <lastBuildDate>Tue, 07 May 2024 07:08:09 GMT</lastBuildDate> <category>World</category>
  <image><url>/logo.png</url><title>The logo</title><link>https://elsewhere.example/</link></image>
  <textInput><title>Search</title><link>https://search.example/</link></textInput>
  <item>
    <title>First</title> <link>/first?a=1&amp;b=2</link> <guid isPermaLink="false">tag:1</guid>
    <pubDate>Mon, 06 May 2024 07:08:09 CEST</pubDate> <dc:creator>Ann</dc:creator>
    <description>&lt;p&gt;Short</description>
    <content:encoded><![CDATA[<p>Long</p>]]></content:encoded> <category>A</category><category domain="x">B</category>
    <category>A</category> <comments>first#c</comments> <itunes:duration>12:34</itunes:duration>
    <enclosure url="/a.mp3" type="audio/mpeg" length="123"/>
    <media:group><media:content url="b.mp4" type="video/mp4" fileSize="many"/><media:title>M</media:title></media:group>
    <other><title>Not this</title><link>/not-this</link></other>
  </item>
  <item><guid>https://site.example/second</guid><pubDate>no idea</pubDate><author>bob@site.example (Bob)</author></item>
  <item/>
</channel></rss>"""


def test_rss_2_gives_entries_with_absolute_urls_and_aware_dates():
    reader = read(RSS)
    assert reader.problem == ""
    first, second, empty = reader.entries
    assert first == FeedEntry(
        id="tag:1",
        title="First",
        url="https://site.example/first?a=1&b=2",
        published=dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        author="Ann",
        summary="<p>Short",
        content="<p>Long</p>",
        categories=("A", "B"),
        enclosures=(
            Enclosure("https://site.example/a.mp3", "audio/mpeg", 123),
            Enclosure("https://site.example/news/b.mp4", "video/mp4"),
        ),
        comments="https://site.example/news/first",
        fields={"itunes:duration": "12:34"},
    )
    assert second == FeedEntry(
        id="https://site.example/second", url="https://site.example/second", author="bob@site.example (Bob)"
    )
    assert empty == FeedEntry()


def test_a_feed_says_what_it_is():
    assert read(RSS).feed == Feed(
        format="rss 2.0",
        title="News & more",
        url="https://site.example/",
        description="All of it",
        language="en-gb",
        published=dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC),
        updated=dt.datetime(2024, 5, 7, 7, 8, 9, tzinfo=dt.UTC),
        categories=("World",),
        image="https://site.example/logo.png",
    )


ATOM = """<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="de" xml:base="https://site.example/atom/">
  <title type="text">dive into mark</title><subtitle type="html">A &lt;em&gt;lot&lt;/em&gt;</subtitle>
  <updated>2005-07-31T12:29:29Z</updated><id>tag:example.org,2003:3</id>
  <link rel="alternate" type="text/html" hreflang="en" href="/"/><link rel="self" href="self.xml"/>
  <rights>Copyright</rights><generator uri="http://www.example.com/" version="1.0">Toolkit</generator>
  <author><name>Mark</name><uri>https://mark.example/</uri></author><logo>logo.png</logo>
  <entry xml:base="deep/">
    <title>Atom &amp; I</title>
    <link rel="alternate" type="application/json" href="page.json"/><link href="page"/>
    <link rel="enclosure" type="audio/mpeg" length="1337" href="https://media.example/a.mp3"/>
    <id>tag:1</id><updated>2005-07-31T12:29:29Z</updated><published>2003-12-13T08:29:29-04:00</published>
    <author><email>a@site.example</email><name>Anna</name></author><contributor><name>Sam</name></contributor>
    <category term="x" label="The X"/><category term="y"/>
    <source><title>Other feed</title><id>tag:other</id><link href="https://other.example/"/></source>
    <summary>Some text.</summary>
    <content type="xhtml" xml:lang="en"><div xmlns="http://www.w3.org/1999/xhtml">a &lt; <b class="x">b<br/></b> c</div>
    </content>
  </entry>
  <entry xml:lang="fr"><id>tag:2</id><link href="two"/><content type="html">&lt;p&gt;Two</content></entry>
</feed>"""


def test_atom_resolves_xml_base_and_writes_xhtml_as_html():
    reader = read(ATOM)
    assert reader.problem == ""
    first, second = reader.entries
    assert first == FeedEntry(
        id="tag:1",
        title="Atom & I",
        url="https://site.example/atom/deep/page",
        published=dt.datetime(2003, 12, 13, 8, 29, 29, tzinfo=dt.timezone(dt.timedelta(hours=-4))),
        updated=dt.datetime(2005, 7, 31, 12, 29, 29, tzinfo=dt.UTC),
        author="Anna",
        summary="Some text.",
        content='a &lt; <b class="x">b<br></b> c',
        categories=("x", "y"),
        enclosures=(Enclosure("https://media.example/a.mp3", "audio/mpeg", 1337),),
        language="en",
    )
    assert (second.url, second.content, second.language) == ("https://site.example/atom/two", "<p>Two", "fr")
    assert reader.feed == Feed(
        format="atom 1.0",
        title="dive into mark",
        url="https://site.example/",
        id="tag:example.org,2003:3",
        description="A <em>lot</em>",
        language="de",
        author="Mark",
        updated=dt.datetime(2005, 7, 31, 12, 29, 29, tzinfo=dt.UTC),
        image="https://site.example/atom/logo.png",
    )


RDF = '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
ABOUT = "<title>Feed</title><link>https://site.example/</link>"


@pytest.mark.parametrize(
    ("opening", "closing", "form"),
    [
        (f'{RDF} xmlns="http://purl.org/rss/1.0/"><channel rdf:about="https://site.example/">{ABOUT}</channel>',
         "</rdf:RDF>", "rdf"),
        (f'{RDF} xmlns="http://my.netscape.com/rdf/simple/0.9/"><channel>{ABOUT}</channel>', "</rdf:RDF>", "rdf"),
        (f"<rss version='0.91'><channel>{ABOUT}", "</channel></rss>", "rss 0.91"),
        (f"<rss version='0.92'><channel>{ABOUT}", "</channel></rss>", "rss 0.92"),
    ],
)  # fmt: skip
def test_older_feeds_are_read_as_the_newer_ones(opening, closing, form):
    item = "<item><title>One</title><link>https://site.example/1</link><description>D</description></item>"
    reader = read(f"{opening}{item}<item><title>Two</title><link>/2</link></item>{closing}")
    assert [(entry.title, entry.url, entry.summary) for entry in reader.entries] == [
        ("One", "https://site.example/1", "D"), ("Two", "https://site.example/2", ""),
    ]  # fmt: skip
    assert (reader.feed.format, reader.feed.title, reader.feed.url) == (form, "Feed", "https://site.example/")


def test_rdf_has_the_date_and_the_author_in_dublin_core():
    (entry,) = read(
        '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:d="http://purl.org/dc/elements/1.1/" '
        'xmlns="http://purl.org/rss/1.0/"><item rdf:about="https://site.example/1"><title>T</title>'
        "<d:date>2024-05-06T07:08+01:00</d:date><d:creator>Ann</d:creator><d:subject>S</d:subject>"
        "<d:rights>free</d:rights></item></r:RDF>"
    ).entries
    assert entry.published == dt.datetime(2024, 5, 6, 7, 8, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert (entry.author, entry.categories, entry.fields) == ("Ann", ("S",), {"dc:rights": "free"})
    assert entry.id == "https://site.example/1"


def test_atom_that_does_not_declare_its_namespace_is_read():
    reader = read(
        "<feed><title>F</title><entry><id>1</id><link href='/a'/><author><name>Ann</name></author></entry></feed>"
    )
    assert [(entry.id, entry.url, entry.author) for entry in reader.entries] == [("1", "https://site.example/a", "Ann")]
    assert reader.feed.title == "F"


def test_urls_that_nobody_fetches_are_empty():
    (entry,) = read("<rss><channel><item><link>javascript:alert(1)</link><guid>urn:uuid:1</guid>"
                    "<enclosure url='file:///etc/passwd'/></item></channel></rss>").entries  # fmt: skip
    assert (entry.url, entry.id, entry.enclosures) == ("", "urn:uuid:1", ())


@pytest.mark.parametrize(
    ("body", "count", "problem"),
    [
        ("<rss><channel><item><title>1</title></item><item><title>2</tite>", 1, "it ends at line 1: mismatched tag"),
        ("<!DOCTYPE rss [<!ENTITY a 'b'>]><rss/>", 0, "it ends at line 1: it has a document type declaration"),
        ("<!DOCTYPE html><html>", 0, "it ends at line 1: this is HTML"),
        ("<html><body/></html>", 0, "it is HTML"),
        ("<urlset/>", 0, "<urlset> is no feed"),
        ("", 0, "it ends at line 1: no element found"),
        ("{}", 0, "it ends at line 1: not well-formed"),
        ("<rss><channel>" + "<item>" * 200, 0, "it ends at line 1: elements stand more than 100 deep"),
    ],
)
def test_what_is_wrong_is_said_and_entries_before_it_count(body, count, problem):
    reader = read(body)
    assert len(reader.entries) == count
    assert reader.problem.startswith(problem)


def test_after_as_many_entries_as_a_feed_may_have_the_rest_is_ignored(monkeypatch):
    assert syndication.MAX_ENTRIES == 50_000
    monkeypatch.setattr(syndication, "MAX_ENTRIES", 50)
    reader = read("<rss><channel>" + "<item/>" * 51 + "</channel></rss>")
    assert (len(reader.entries), reader.problem) == (50, "it has more than 50 entries; the rest is ignored")
