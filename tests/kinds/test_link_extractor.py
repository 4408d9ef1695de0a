"""Which links of a page count: Scrapy's words."""

from __future__ import annotations

import re

import pytest

from crawler import Link, LinkExtractor
from crawler.kinds.link_extractor import IGNORED_EXTENSIONS
from crawler.testing import fake_response

HTML = """<html><body>
<div class="menu"><a href="/about.html"> About <b>us</b> </a><a href="/shoes/?b=2&a=1#top">Shoes</a></div>
<div class="main"><div class="inner"><a href="item/1.html" rel="external NOFOLLOW">Item 1</a></div>
<a class="next" href="?page=2">Next</a><a href="/about.html">About again</a>
<a href="https://blog.shop.example/post">Blog</a><a href="http://other.example/">Other</a>
<a href="/file.PDF">File</a><a href="/archive.tar.gz?x=1">Archive</a><a href="/%70ic.jp%67">Picture</a>
<a href="mailto:a@b.example">Mail</a><a href="#down">Down</a><a href="">Here</a><a>No</a>
<a href="javascript:go('/hidden/7')">Go</a></div>
<map><area href="/map.html" alt="m"></map><link href="/style.css"><img src="/i/1.html" data-url="/i/2.html">
</body></html>"""
PAGE = "https://shop.example/catalogue/index.html"


def page(html=HTML, url=PAGE):
    return fake_response(url, html)


def paths(extractor, response=None):
    """What both ways of asking give."""
    response = response or page()
    found = [link.url for link in extractor.extract_links(response)]
    assert extractor.urls(response) == found
    return [url.removeprefix("https://shop.example") for url in found]


EVERYTHING = ["/about.html", "/shoes/?b=2&a=1", "/catalogue/item/1.html", "/catalogue/index.html?page=2",
              "https://blog.shop.example/post", "http://other.example/", "/catalogue/index.html",
              "/map.html"]  # fmt: skip


def test_without_conditions_it_gives_each_page_that_a_and_area_lead_to_once():
    assert paths(LinkExtractor()) == EVERYTHING


def test_a_link_has_its_url_text_fragment_and_nofollow():
    links = LinkExtractor(allow=["shoes", "item", "about"]).extract_links(page())
    assert links == [
        Link("https://shop.example/about.html", "About us"),
        Link("https://shop.example/shoes/?b=2&a=1", "Shoes", "top"),
        Link("https://shop.example/catalogue/item/1.html", "Item 1", nofollow=True),
    ]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"allow": r"/item/\d"}, ["/catalogue/item/1.html"]),
        ({"allow": (re.compile("SHOES", re.IGNORECASE), "map")}, ["/shoes/?b=2&a=1", "/map.html"]),
        ({"allow": "html", "deny": ("about", "map", "index.html$")},
         ["/catalogue/item/1.html", "/catalogue/index.html?page=2"]),
        ({"allow_domains": "other.example"}, ["http://other.example/"]),
        ({"allow_domains": ["blog.shop.example", "other.example"]}, ["https://blog.shop.example/post", "http://other.example/"]),
        ({"deny_domains": ["shop.example"]}, ["http://other.example/"]),
        ({"restrict_css": "div.inner, div.menu"}, ["/about.html", "/shoes/?b=2&a=1", "/catalogue/item/1.html"]),
        ({"restrict_css": ("a.next",)}, ["/catalogue/index.html?page=2"]),
        ({"restrict_css": (".main", ".inner"), "allow": "item"}, ["/catalogue/item/1.html"]),
        ({"restrict_xpaths": "//div[@class='inner']"}, ["/catalogue/item/1.html"]),
        ({"restrict_text": "^About$|Next"}, ["/catalogue/index.html?page=2"]),
        ({"restrict_text": ["again", "Item"]}, ["/catalogue/item/1.html", "/about.html"]),
        ({"tags": "area"}, ["/map.html"]),
        ({"tags": "img", "attrs": ("src", "data-url")}, ["/i/1.html", "/i/2.html"]),
        ({"tags": ("a", "img"), "attrs": ("href", "src"), "allow": "/i/|item"},
         ["/catalogue/item/1.html", "/i/1.html"]),
        ({"deny_extensions": (), "restrict_css": ".main", "allow": "file|archive|ic.jp"},
         ["/file.PDF", "/archive.tar.gz?x=1", "/%70ic.jp%67"]),
        ({"deny_extensions": ["tar.gz"], "allow": "archive|PDF"}, ["/file.PDF"]),
        ({"deny_extensions": ["html"], "allow": "shop.example"},
         ["/shoes/?b=2&a=1", "https://blog.shop.example/post", "/file.PDF", "/archive.tar.gz?x=1", "/%70ic.jp%67"]),
        ({"canonicalize": True, "allow": "shoes"}, ["/shoes/?a=1&b=2"]),
        ({"unique": False, "allow": "about"}, ["/about.html", "/about.html"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_condition_leaves_out_what_does_not_meet_it(conditions, expected):
    assert paths(LinkExtractor(**conditions)) == expected


@pytest.mark.parametrize(
    "region",
    [
        "div",
        ".next",
        "a.next",
        "#x",
        "#x .inner",
        "div > a",
        "h2 + a",
        "h2 ~ a, ul",
        " ul.a li , .b",
        "area",
        "DIV.menu",
    ],
)
def test_one_query_for_all_regions_finds_what_a_query_in_each_finds(region):
    html = """<div class=menu><a href=1>1</a><a class=next href=2>2</a></div><h2>x</h2><a href=3>3</a><a href=4>4</a>
    <ul class=a><li><a href=5>5</a><li class=b><a href=6 class=next>6</a></ul><p id=x class=next><a href=7>7</a>
    <span class=inner><a href=8>8</a></span><map><area class=next href=9></map><link class=next href=10>"""
    quick = LinkExtractor(restrict_css=region)
    slow = LinkExtractor(restrict_css=(region, "[never='a,b']"))
    assert (quick._css, len(slow._css)) == ((), 2)
    assert paths(quick, page(html)) == sorted(paths(slow, page(html)), key=lambda path: int(path.rpartition("/")[2]))


def test_a_value_may_be_processed_into_a_reference_or_left_out():
    def hidden(value):
        found = re.search(r"go\('(.*?)'\)", value)
        return found and found[1]

    assert paths(LinkExtractor(process_value=hidden)) == ["/hidden/7"]


def test_references_are_resolved_against_the_base_of_the_page():
    html = '<base href="https://cdn.example/x/"><a href="1">One</a>'
    assert paths(LinkExtractor(), page(html)) == ["https://cdn.example/x/1"]


def test_a_host_that_ends_like_a_file_is_no_file():
    assert paths(LinkExtractor(), page('<a href="https://get.sh">x</a><a href="/get.sh">y</a>')) == ["https://get.sh/"]


def test_matches_asks_of_a_url_alone():
    extractor = LinkExtractor(allow="item", deny_domains="other.example")
    assert extractor.matches("https://shop.example/item/9")
    assert not extractor.matches("https://other.example/item/9")
    assert not extractor.matches("https://shop.example/item/9.zip")
    assert {"pdf", "zip", "jpg", "css", "exe"} <= set(IGNORED_EXTENSIONS)


def test_a_page_without_a_body_and_one_without_links_have_none():
    assert paths(LinkExtractor(), page("")) == []
    assert paths(LinkExtractor(), page("<p>Hello")) == []
