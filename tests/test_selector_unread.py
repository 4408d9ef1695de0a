"""A query is run when its results are looked at, and for the first of them alone as far as that goes. Whatever is done
with the list, it is what it would have been."""

from __future__ import annotations

import copy
import json
import operator
import pickle
from typing import Any

import pytest
from selectolax.lexbor import LexborHTMLParser, LexborNode

from crawler import Response
from crawler.selector import Selector, SelectorList, _Unread

PAGES = [
    b"<title>T</title><p class=a>one<b>two</b>three</p><p class=a><i>x</i>four</p><ul><li>5<li>6</ul><a href=u>v</a>",
    b"<div><div>in</div>out</div><div id=d> <!-- c --> late</div><a>no</a><a href>empty</a><a href='x'>y</a>",
    b"<p></p><p><span></span></p><p>text</p><template><p>hidden</p></template><svg><title>s</title></svg>",
    b"",
    b"plain text",
]
QUERIES = (
    """
p | p::text | p *::text | p ::text | div::text | div div::text | div > div::text | li::text | a::attr(href)
a[href]::attr(href) | title::text | title | b, i | p.a b::text, p.a::text | #d::text | nothing | nothing::text
p:not(.a)::text | p:contains('four')::text | p + p::text | p ~ ul li::text | *::text | :root | html > body p
""".strip()
    .replace("\n", " | ")
    .split(" | ")
)


def read(page: bytes, query: str) -> SelectorList:
    return SelectorList(list(Response("http://a.test/", body=page).css(query)))


def unread(page: bytes, query: str) -> SelectorList:
    found = Response("http://a.test/", body=page).css(query)
    assert isinstance(found, _Unread)
    return found


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("page", PAGES)
def test_the_first_is_the_first_of_all(page: bytes, query: str) -> None:
    everything = read(page, query)
    wanted = everything[0].get() if len(everything) else None
    assert unread(page, query).get() == wanted
    assert unread(page, query).extract_first("none") == ("none" if wanted is None else wanted)
    assert unread(page, query).attrib == everything.attrib
    assert bool(unread(page, query)) == bool(len(everything))
    for pattern in ("t(.)", "[a-z]+", "5|6|four"):
        assert unread(page, query).re_first(pattern, "none") == everything.re_first(pattern, "none")


@pytest.mark.parametrize("query", ["p::text", "p *", "nothing", "li"])
@pytest.mark.parametrize("page", PAGES)
def test_below_an_element_too(page: bytes, query: str) -> None:
    for holder in ("body", "div", "ul", "p"):
        for selector, same in zip(read(page, holder), unread(page, holder), strict=True):
            everything = selector.css(query).getall()
            assert same.css(query).get() == (everything[0] if everything else None)


PAGE, QUERY = PAGES[0], "p.a, li"
ACTS = (
    """
len(it) | list(it) | tuple(it) | sorted(map(str, it)) | max(map(str, it)) | list(reversed(it)) | [*zip(it, it)] | [*it]
it[0] | it[1] | it[-1] | it[1:3] | it[:] | it + it | [1] + it | it * 2 | 2 * it | it[1] in it | "x" in it | it == []
it != [] | it < [] | it >= [] | repr(it) | str(it) | it.copy() | copy(it) | type(copy(it)) | it.pop() | it.index(it[1])
it.count(it[1]) | it.getall() | it.extract() | it.re("[a-z]") | it.css("b") | it.css("b::text").getall()
then(it, it.insert(1, it[0])) | then(it, it.append(it[0])) | then(it, it.extend(it[:1])) | then(it, it.clear())
then(it, it.reverse()) | then(it, it.remove(it[1])) | then(it, it.sort(key=str)) | iadd(it, [1]) | imul(it, 2)
then(it, delitem(it, 0)) | then(it, setitem(it, 0, it[1])) | then(some, some.extend(it)) | json.dumps(it, default=str)
""".strip()
    .replace("\n", " | ")
    .split(" | ")
)


@pytest.mark.parametrize("act", ACTS)
def test_whatever_a_list_can_do_it_does_with_all_of_them(act: str) -> None:
    tools = {"copy": copy.copy, "json": json, "then": lambda value, _: value, **vars(operator)}
    done, wanted = (eval(act, {**tools, "some": [0], "it": make(PAGE, QUERY)}) for make in (unread, read))
    assert plain(done) == plain(wanted)


def plain(value: Any) -> Any:
    """Without identities: elements of two pages are never equal."""
    if isinstance(value, Selector):
        return value.get()
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def test_nothing_that_lists_can_do_was_forgotten() -> None:
    of_objects = {"__init__", "__new__", "__class_getitem__", "__getattribute__", "__sizeof__", "__hash__", "__doc__"}
    assert set(vars(list)) - of_objects - set(vars(_Unread)) == set()


def test_unpacking_and_patterns_see_all() -> None:
    first, *rest = unread(PAGE, QUERY)
    assert [first.get(), *[each.get() for each in rest]] == read(PAGE, QUERY).getall()
    match unread(PAGE, QUERY):
        case [a, b, c, d]:
            assert [each.get() for each in (a, b, c, d)] == read(PAGE, QUERY).getall()
        case _:
            pytest.fail("four are there")


def test_strings_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(list(map(str, unread(PAGE, "p::text")))))
    assert again == read(PAGE, "p::text").getall()


def test_a_selector_that_is_not_valid_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="p >"):
        Response("http://a.test/", body=PAGE).css("p >")


def test_the_walk_stops_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("crawler.selector.run", lambda *arguments: asked.append(arguments) or [])
    page = Response("http://a.test/", body=PAGE)
    assert page.css("title::text").get() == "T"
    assert page.css("p.a").attrib == {"class": "a"}
    assert page.css("li")[0].get().startswith("<li>")
    assert page.css("nothing").get() is None
    assert asked == []
    page.css("li").getall()
    assert len(asked) == 1


UTF8 = ["<p title='é'>ü — \U0001f600</p>", "\ufeff<p>x</p>", "<p>\ufffd</p>", "<p>\x00a</p>", "<p>plain</p>"]


@pytest.mark.parametrize("text", UTF8)
@pytest.mark.parametrize("broken", [b"", b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_a_body_in_utf_8_is_parsed_as_its_text_would_be(text: str, broken: bytes) -> None:
    body = text.encode() + broken
    page = Response("http://a.test/", body=body, headers=_html("text/html; charset=utf-8"))
    assert dump(page.html) == dump(LexborHTMLParser(page.text))


def _html(kind: str) -> Any:
    from multidict import CIMultiDict, CIMultiDictProxy

    return CIMultiDictProxy(CIMultiDict({"Content-Type": kind}))


def dump(parser: LexborHTMLParser) -> list[Any]:
    root = parser.root
    assert isinstance(root, LexborNode)
    return [(node.tag, node.attributes, node.text_content) for node in root.traverse(include_text=True)]
