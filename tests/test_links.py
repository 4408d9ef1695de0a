"""Links in batches: what is remembered between pages changes nothing but the time it takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crawler import Request, Response, Spider
from crawler import links as links_module
from crawler import url as urls
from crawler.links import Links
from crawler.testing import LocalSite, run_spider

BASE = "http://a.test/shop/books/"
ODD = "|#|#top|?|?a=b|?a=b#c|.|./|..|../|/|//b.test/x|x|x#y|x?y#z| x|\t?q|http:|http:x|http:?q|https:x|HTTP:/x"
ODDER = "http://b.test|mailto:x|a:b|/a:b|\\x|é|%zz"
REFERENCES = st.one_of(
    st.sampled_from(f"{ODD}|{ODDER}".split("|")),
    st.text(alphabet="ab/.?#:% \té\\", max_size=8),
)


@given(st.lists(REFERENCES, max_size=20), st.sampled_from(["", "one", "two?q=1", "three/", "one?"]))
@example(["?a", "http:?a", " ?a", "\x0b?a"], "one")
@example(["?a", "http:?a", " ?a", "\x0b?a"], "two?q=1")
def test_on_every_page_of_a_folder_a_reference_means_what_it_would_mean_alone(refs: list[str], page: str) -> None:
    joiner = urls.Joiner(BASE + page)
    assert joiner.many(refs) == [joiner.join(ref) for ref in refs]


def test_what_is_remembered_of_a_folder_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_REFERENCES", 10)
    joiner = urls.Joiner("http://bounded.test/")
    for number in range(100):
        assert joiner.many([f"{number}", "same"]) == [f"http://bounded.test/{number}", "http://bounded.test/same"]
        assert len(urls._joined_in("http://bounded.test/", "utf-8")) <= 11


def test_links_that_differ_in_the_fragment_alone_are_one() -> None:
    links = Links(f"{BASE}page", ["other#a", "other#b", "#here", "other", "page#x", "/shop/books/other"])
    assert links.urls() == [f"{BASE}other", f"{BASE}page"]


def test_a_fragment_of_this_page_is_no_link_but_an_empty_reference_is() -> None:
    assert Links(f"{BASE}page", ["#a", "#"]).urls() == []
    assert Links(f"{BASE}page", ["#a", ""]).urls() == [f"{BASE}page"]


def test_allow_and_deny_are_matched_once_for_each_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "_FILTERED", 5)
    allow, deny = re.compile("[0-9]$"), "3"
    for _ in range(3):
        links = Links(BASE, [str(number) for number in range(30)] + ["x"], allow=allow, deny=deny)
        assert links.urls() == [f"{BASE}{number}" for number in range(30) if "3" not in str(number)]
    assert len(links_module._filter((allow,), (re.compile(deny),))) <= 5


def test_each_request_of_a_batch_has_the_options_and_its_own_url() -> None:
    links = Links(BASE, ["a", "b"], "parse", options={"priority": 3, "meta": {"x": 1}, "headers": {"A": "b"}})
    first, second = links
    assert (first.url, second.url) == (f"{BASE}a", f"{BASE}b")
    assert first == Request(f"{BASE}a", "parse", priority=3, meta={"x": 1}, headers={"A": "b"})
    assert (second.callback, second.priority, second.headers["a"]) == ("parse", 3, "b")


def test_params_are_added_to_each_link_of_a_batch() -> None:
    links = Links(BASE, ["a?x=1", "b", "b#f"], options={"params": {"q": 1}})
    assert [request.url for request in links] == [f"{BASE}a?x=1&q=1", f"{BASE}b?q=1"] == links.urls()


@pytest.mark.parametrize(
    "options", [{"method": "POST"}, {"method": "POST", "json": {"a": 1}}, {"body": b"x"}, {"params": {"q": "1"}}]
)
async def test_links_with_another_method_body_or_query_are_other_requests(options: dict[str, Any]) -> None:
    class Twice(Spider):
        name = "twice"
        site = ""

        async def start(self) -> Any:
            yield self.request(f"{self.site}/")

        def parse(self, response: Response) -> Any:
            yield response.follow_all("a", self.leaf)
            yield response.follow_all("a", self.leaf, **options)
            yield response.follow_all("a", self.leaf, **options)

        def leaf(self, response: Response) -> None:
            """An end."""

    async with LocalSite() as site:
        site.page("/", "<a href=/leaf>x</a>")
        site.page("/leaf", "")
        run = await run_spider(Twice, args={"site": site.url})
        plain, other = site.requests()[1:]
    assert (plain.method, plain.path, plain.body) == ("GET", "/leaf", b"")
    assert (other.method, other.path, other.body) != (plain.method, plain.path, plain.body)
    assert run.stats["duplicates"] == 1


@pytest.mark.parametrize("what", [None, 5, "all"])
def test_what_is_no_link_is_an_error_that_says_so(what: Any) -> None:
    page = Response("http://a.test/", body=b"<a href=x>x</a><a href=y>y</a>")
    with pytest.raises(TypeError, match="a selector of one element"):
        page.follow(page.css("a") if what == "all" else what)
    if what != "all":
        with pytest.raises(TypeError, match="a selector of one element"):
            page.follow_all([what])


class Web(Spider):
    """Six pages, each of which links to all of them, to one elsewhere, and to one of its own."""

    name = "web"
    site = ""
    allowed_domains = ["127.0.0.1"]

    async def start(self) -> Any:
        yield self.request(f"{self.site}/page/0")

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}
        yield response.follow_all()


async def test_known_links_are_counted_on_each_page_and_followed_once() -> None:
    async with LocalSite() as site:
        for number in range(6):
            links = [f"/page/{other}" for other in range(6)] + [f"/leaf/{number}", "http://elsewhere.test/"]
            site.page(f"/page/{number}", "".join(f'<a href="{link}">x</a>' for link in links))
            site.page(f"/leaf/{number}", "")
        run = await run_spider(Web, args={"site": site.url})
    assert sorted(site.paths) == sorted([f"/page/{n}" for n in range(6)] + [f"/leaf/{n}" for n in range(6)])
    assert run.stats["duplicates"] == 6 * 6 - 5  # all but the first sight of the five others
    assert run.stats["offsite"] == 6
    assert len(run.items) == 12


BASES = [
    ('<base href="/other/">', "/other/x"),
    ('<BASE HREF="/other/">', "/other/x"),
    ('<bAsE\nhref="/other/">', "/other/x"),
    ("<base target=_top>", "/x"),
    ('<!-- <base href="/other/"> -->', "/x"),
    ('<script>"<base href=/other/>"</script>', "/x"),
    ("", "/x"),
    ("<base target=_top><base href='/first/'><base href='/second/'>", "/first/x"),
]


@pytest.mark.parametrize("first_tree", [True, False])
@pytest.mark.parametrize(("base", "wanted"), BASES)
def test_the_base_is_found_whether_or_not_the_page_is_parsed_already(base: str, wanted: str, first_tree: bool) -> None:
    page = Response("http://a.test/page", body=f"<html><head>{base}</head><body><a href=x>x</a>".encode())
    if first_tree:
        assert page.links() == [f"http://a.test{wanted}"]
    assert page.urljoin("x") == f"http://a.test{wanted}"
    assert page.links() == [f"http://a.test{wanted}"]


def test_links_are_read_from_where_the_element_has_them() -> None:
    page = Response(
        "http://a.test/",
        body=b"<a href=a src=no>x</a><a>y</a><img src=b href=no><link href=c><area href=d><iframe src=e><a href>f</a>",
    )
    found = page.follow_all("a, img, link, area, iframe").urls()
    assert found == [f"http://a.test/{name}" for name in "abcde"]


MIXED = b"""<base href="/"><ul class=x><li><a class=b href=a src=no>x</a></li></ul><p><img id=i src=b href=no>
<link href=c><my-a src=d href=no></my-a><a-b src=e></a-b><a>none</a><a href>empty</a>
<area href=f><script src=g></script>"""
QUERIES = [
    "a", "a[href]", "ul.x > li a.b", "li a , area", "img", "img#i, script[src]", "my-a", "a-b", "*", ".b", "[href]",
    "p > *", "a, img", "a:not(.z)", 'a[class="b"]', "li > a[href]:first-child", "link + my-a", "p ~ a",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_whose_words_tell_the_attribute_finds_what_asking_each_element_does(query: str) -> None:
    page = Response("http://a.test/x/y", body=MIXED)
    each = [
        page.follow(node).url for node in page.css(query) if {"href", "src"} & node.attrib.keys() and _has_one(node)
    ]
    assert page.follow_all(query).urls() == list(dict.fromkeys(each))


def _has_one(node: Any) -> bool:
    name = "href" if node.root.tag in ("a", "area", "link", "base") else "src"
    return node.root.attributes.get(name) is not None
