"""Forms: what a browser would send, from what the page says and what is filled in."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from crawler import Response, Spider
from crawler.body import FilePath, Multipart, Part
from crawler.encoding import CODECS
from crawler.form import Form
from crawler.form.submission import charset_of, encoding_of
from crawler.testing import LocalSite, fake_response, run_spider

if TYPE_CHECKING:
    from crawler.request import Request

URL = "https://shop.example/dir/page.html?old=1"
LOGIN = """
<form id="login" action="/session" method="post">
  <input type="hidden" name="csrf" value="t0k3n">
  <input name="user"> <input type="password" name="password" value="hunter2">
  <input type="checkbox" name="remember" value="yes" checked>
  <button name="do" value="login">Log in</button>
</form>
<form id="search" action="search"><input type="search" name="q" value="books"></form>
"""


def page(html: str, url: str = URL, **options: Any) -> Response:
    return fake_response(url, html, **options)


def form(html: str, css: str = "form", **options: Any) -> Form:
    return Form.find(page(html, **options), css)


def inside(controls: str, attributes: str = 'method="post"') -> Form:
    return form(f"<form {attributes}>{controls}</form>")


def sent(request: Request) -> list[tuple[str, str]]:
    """The pairs of a request, from its body or its query."""
    if request.method == "GET":
        return parse_qsl(urlsplit(request.url).query, keep_blank_values=True)
    assert isinstance(request.data, list)
    return request.data


def pairs(controls: str, **options: Any) -> list[tuple[str, str]]:
    return sent(inside(controls).fill(**options))


# -- finding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("css", ["form", "#login", "input[name=user]", "#login button", "body form:first-of-type"])
def test_a_form_is_found_by_itself_or_by_anything_in_it(css: str) -> None:
    assert form(LOGIN, css).attributes["id"] == "login"


def test_index_counts_the_forms_that_the_selector_finds() -> None:
    response = page(LOGIN)
    assert Form.find(response, "input", 1).attributes["id"] == "search"
    assert Form.find(response, "form", -1).attributes["id"] == "search"


def test_a_control_outside_finds_the_form_that_it_names() -> None:
    assert form('<form id="a"></form><form id="b"></form><input name="x" form="b">', "[name=x]").attributes["id"] == "b"


def test_no_form_is_an_error_that_lists_the_forms() -> None:
    with pytest.raises(ValueError, match=r"shop\.example.*no form at index 0 for '#signup'") as caught:
        form(LOGIN, "#signup")
    assert "<form id='login' method='post' action='/session'>" in str(caught.value)
    with pytest.raises(ValueError, match="no form at index 2"):
        Form.find(page(LOGIN), "form", 2)
    with pytest.raises(ValueError, match="no forms at all"):
        form("<p>nothing</p>")


def test_a_selector_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="selector"):
        form(LOGIN, "form[")


# -- looking at it -----------------------------------------------------------------------------------------------------


def test_a_form_says_where_and_how_it_is_sent() -> None:
    login = form(LOGIN)
    assert (login.method, login.action) == ("POST", "https://shop.example/session")
    assert login.enctype == "application/x-www-form-urlencoded"
    assert login.buttons == [("do", "login")]


def test_fields_are_what_would_be_sent() -> None:
    controls = """<input name="a" value="1"><input type="checkbox" name="b"><input type="radio" name="r" value="x">
    <input type="radio" name="r" value="y" checked><select name="s"><option>one<option>two</select>
    <select name="m" multiple><option selected>p<option selected>q</select><input name="t"><input name="t" value="2">
    <input type="file" name="f"><button name="go">Go</button><textarea name="x">text</textarea>"""
    assert inside(controls).fields == {
        "a": "1", "b": None, "r": "y", "s": "one", "m": ["p", "q"], "t": ["", "2"], "f": None, "x": "text",
    }  # fmt: skip


def test_choices_are_the_values_that_can_be_chosen() -> None:
    controls = """<select name="s"><option value="">Choose<option value="de">Germany<option disabled>x</select>
    <input type="radio" name="r" value="1"><input type="radio" name="r" value="2"><input name="t">"""
    form = inside(controls)
    assert form.choices("s") == ["", "de"]
    assert form.choices("r") == ["1", "2"]
    with pytest.raises(ValueError, match=r"'t'.*no choice"):
        form.choices("t")


def test_the_repr_has_neither_passwords_nor_tokens() -> None:
    shown = repr(form(LOGIN))
    assert shown == "<Form POST https://shop.example/session csrf user='' password remember='yes'>"


def test_the_repr_has_no_password_of_the_address() -> None:
    assert "hunter2" not in repr(inside("", 'action="https://me:hunter2@shop.example/"'))


def test_what_is_shown_of_a_huge_form_is_short() -> None:
    found = inside(
        "".join(f"<input name=n{n} value={'x' * 999}>" for n in range(999)) + "<select name=s>" + "<option>y" * 999
    )
    assert len(repr(found)) < 2000
    for call in (lambda: found.fill(s="z"), lambda: found.fill(unknown="z"), lambda: found.fill(click="z")):
        with pytest.raises(ValueError) as caught:
            call()
        assert len(str(caught.value)) < 3000


# -- the entry list ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        ('<input name="a" value="1"><input type="hidden" name="b" value="2">', [("a", "1"), ("b", "2")]),
        ('<input name="a"><input name="b" value>', [("a", ""), ("b", "")]),
        ('<input value="1"><input name="" value="2">', []),
        ('<input type="odd" name="a" value="1"><input TYPE="HIDDEN" name="b">', [("a", "1"), ("b", "")]),
        ('<input type="checkbox" name="a"><input type="checkbox" name="b" checked>', [("b", "on")]),
        ('<input type="checkbox" name="a" value="" checked>', [("a", "")]),
        ('<input type="radio" name="a" value="1"><input type="radio" name="a" value="2" checked>', [("a", "2")]),
        ('<input type="reset" name="a"><input type="button" name="b"><button type="button" name="c">', []),
        ('<input name="a" value="1" disabled><input name="b" value="2" readonly>', [("b", "2")]),
        ('<datalist><input name="a" value="1"></datalist>', []),
        ('<template><input name="a" value="1"></template>', []),
        ("<textarea name='a'>\n\nx &amp; y\n</textarea>", [("a", "\r\nx & y\r\n")]),
        ('<input name="a" value="1&#10;2">', [("a", "12")]),
        ('<input type="email" name="a" value=" x@y.test&#10;">', [("a", "x@y.test")]),
        ('<input type="hidden" name="a" value="1&#10;2">', [("a", "1\r\n2")]),
        ("<input type=number name=a value=1x><input type=number name=b value='-1.5e3'>", [("a", ""), ("b", "-1.5e3")]),
        ('<input type="range" name="a"><input type="color" name="b" value="red">', [("a", "50"), ("b", "#000000")]),
        ('<input type="color" name="a" value="#FFaa00">', [("a", "#ffaa00")]),
        ('<input name=a dirname=a.dir><p dir=rtl><input name=b dirname="">', [("a", ""), ("a.dir", "ltr"), ("b", "")]),
        ('<p dir=RTL><b dir=auto><textarea name=a dirname=d></textarea>', [("a", ""), ("d", "rtl")]),
        ('<input type="file" name="a">', [("a", "")]),
        ('<object name="a"></object><output name="b">1</output>', []),
    ],
)  # fmt: skip
def test_each_control_contributes_what_a_browser_sends(controls: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(controls) == expected


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("<select name=s><option>  one\n  line <option>two</select>", ["one line"]),
        ("<select name=s><option value=1>one<option value=2 selected>two</select>", ["2"]),
        ("<select name=s><option selected>one<option selected>two</select>", ["two"]),
        ("<select name=s><option disabled>one<option>two</select>", ["two"]),
        ("<select name=s><optgroup disabled><option>one</optgroup><option>two</select>", ["two"]),
        ("<select name=s><optgroup label=g><option>one</optgroup><option>two</select>", ["one"]),
        ("<select name=s><option selected disabled>one<option>two</select>", []),
        ("<select name=s size=3><option>one</select>", []),
        ("<select name=s size=1><option>one</select>", ["one"]),
        ("<select name=s multiple><option>one<option selected>two<option selected>three</select>", ["two", "three"]),
        ("<select name=s multiple><option selected disabled>one<option selected>two</select>", ["two"]),
        ("<select name=s></select>", []),
        ("<select name=s><option value>empty</select>", [""]),
        ("<select name=s><option>a\xa0b</select>", ["a\xa0b"]),
    ],
)
def test_a_list_sends_its_selected_lines(select: str, expected: list[str]) -> None:
    assert pairs(select) == [("s", value) for value in expected]


def test_a_disabled_fieldset_disables_all_but_its_first_legend() -> None:
    controls = """<fieldset disabled><legend><input name="a" value="1"><fieldset><input name="b" value="2"></fieldset>
    </legend><legend><input name="c"></legend><input name="d"><p><fieldset><input name=e></fieldset></fieldset>
    <fieldset><input name="f" value="6"></fieldset>"""
    assert pairs(controls) == [("a", "1"), ("b", "2"), ("f", "6")]


def test_a_legend_of_a_fieldset_within_a_disabled_one_is_disabled() -> None:
    controls = "<fieldset disabled><fieldset disabled><legend><input name=a></legend></fieldset></fieldset>"
    assert pairs(controls) == []


# -- whose control it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "names"),
    [
        ("<form id=f><input name=a></form><input name=b form=f><input name=c>", "a b"),
        ("<input name=z form=f><form id=f><input name=a></form>", "z a"),
        ("<form id=f><input name=a form=g><input name=b form><input name=c></form><form id=g></form>", "c"),
        ("<p id=f><form id=f><input name=a></form><input name=b form=f>", "a"),
        ("<form id=f><div><input name=a><form id=g><input name=b></form><input name=c></div>", "a b c"),
        ("<table><form id=f><tr><td><input name=a></td></tr></form><tr><td><input name=b></td></tr></table>", "a"),
        ("<table><tr><form id=f><td><input name=a></td></tr></table><input name=b></form><input name=c>", "a b"),
        ("<table><form id=f><input type=hidden name=a><input name=b><tr><td><input name=c></form></table>", "b a c"),
        ("<div><form id=f></div><input name=a><textarea name=b></textarea></form><input name=c>", "a b"),
        ("<table><form id=f><tr><td><select name=a><option>1</select></table></form><form id=g><input name=b>", "a"),
        ("<input name=o><form id=f><input name=a value='</form>'><!-- </form> --><input name=b></form>", "a b"),
        ("<input name=o><form id=f><script>'</form>'</script><textarea name=a></form></textarea><input name=b>", "a b"),
        ("<input name=o><form id=f><a title=it's><input name=a></a><a x='></form>'><input name=b></form>", "a b"),
        ("<input name=o><template></form><form></template><form id=f><template></form></template><input name=a>", "a"),
        ("<input name=o><form id=f><input name=a></FORM ><input name=b>", "a"),
        ("<input name=o><form id=f><input name=a></formula><input name=b>", "a b"),
    ],
)  # fmt: skip
def test_a_control_belongs_to_the_form_that_a_browser_gives_it_to(html: str, names: str) -> None:
    assert list(form(html, "#f").fields) == names.split()


def test_values_are_as_written_on_a_page_that_is_read_twice() -> None:
    html = """<input name=stray><table><form id=f><tr><td><input name=a value="<input name=x>&amp;</form>">
    <textarea name=b><input name=y></textarea></table>"""
    found = form(html, "#f")
    assert found.fields == {"a": "<input name=x>&</form>", "b": "<input name=y>"}
    assert found.attributes == {"id": "f"}


controls = st.sampled_from(
    ["<input name=n>", "<select name=n><option>1</select>", "<textarea name=n></textarea>", "<button name=n>b</button>"]
)
debris = st.sampled_from(
    re.findall("[^ ]+", "<div> </div> <table> <tr> <td> </table> <form> </form> </p> <p> <b> </b> <!-- -->")
)


@given(st.lists(controls | debris, max_size=14).map("".join))
def test_every_form_of_any_page_can_be_filled(html: str) -> None:
    response = page(html)
    owned = 0
    for index in range(len(response.html.css("form"))):
        found = Form.find(response, "form", index)
        owned += len(found._controls)
        assert found.fill().url
    assert owned <= len(response.html.css("input, select, textarea, button"))


@pytest.mark.parametrize(
    "html",
    [
        "<input><form>" + "<a " * 100_000,
        "<input><form>" + "<a b='" * 100_000,
        '<input><form>' + '<a b="c' * 100_000,
        "<input><form>" + "<!--" * 100_000,
        "<input><form>" + "<textarea " * 50_000,
        "<input><form>" + "<script" * 50_000,
        "<form>" + "<fieldset disabled><legend>" * 5_000 + "<input name=a>",
        "<form><fieldset disabled>" + "<legend><input name=a>" * 5_000,
        "<form>" + "<input name=a>" * 10_000,
        "<form>" + "<div>" * 5_000 + "<input name=a>" * 2_000,
    ],
    ids=range(10),
)  # fmt: skip
def test_a_hostile_page_costs_no_more_than_its_size(html: str) -> None:
    response = page(html)
    assert response.html.root is not None
    started = time.process_time()
    Form.find(response).fill()
    assert time.process_time() - started < 5


# -- buttons -----------------------------------------------------------------------------------------------------------

BUTTONS = """<input name=a value=1><button type=button name=js>JS</button>
<input type=submit name=save value=Save><button name=op value=del>  Delete
it </button><button class=big name=op value=copy>Copy</button><input type=image name=map><input name=z value=26>"""


@pytest.mark.parametrize(
    ("click", "expected"),
    [
        (None, [("a", "1"), ("save", "Save"), ("z", "26")]),
        (True, [("a", "1"), ("save", "Save"), ("z", "26")]),
        (False, [("a", "1"), ("z", "26")]),
        ("save", [("a", "1"), ("save", "Save"), ("z", "26")]),
        ("del", [("a", "1"), ("op", "del"), ("z", "26")]),
        ("Delete it", [("a", "1"), ("op", "del"), ("z", "26")]),
        ("button.big", [("a", "1"), ("op", "copy"), ("z", "26")]),
        ("[type=image]", [("a", "1"), ("map.x", "0"), ("map.y", "0"), ("z", "26")]),
    ],
)
def test_the_button_that_is_clicked_is_sent_in_its_place(click: Any, expected: list[tuple[str, str]]) -> None:
    assert pairs(BUTTONS, click=click) == expected


@pytest.mark.parametrize(
    ("click", "told"),
    [("op", "several buttons"), ("button", "several buttons"), ("js", "no button"), ("Send!", "no button")],
)
def test_a_button_that_is_not_one_is_an_error_that_lists_them(click: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"{told}.*save='Save', op='del', op='copy'"):
        inside(BUTTONS).fill(click=click)


def test_the_default_button_is_the_first_that_is_enabled() -> None:
    assert pairs("<button name=a disabled>A</button><button name=b>B</button>") == [("b", "")]


def test_a_submit_input_without_a_value_says_submit_as_browsers_do() -> None:
    assert pairs("<input type=submit name=a>") == [("a", "Submit")]


def test_a_nameless_button_sends_nothing_and_a_nameless_image_its_coordinates() -> None:
    assert pairs("<button value=1>B</button>") == []
    assert pairs("<input type=image>") == [("x", "0"), ("y", "0")]


def test_a_button_outside_its_form_is_pressed_with_it() -> None:
    html = "<form id=f method=post><input name=a></form><button form=f name=b value=1>Go</button>"
    assert sent(form(html).fill(click="Go")) == [("a", ""), ("b", "1")]


def test_the_buttons_own_action_method_and_encoding_win() -> None:
    html = """<form action="/a" method="get"><input name="x" value="1">
    <button formaction="/b" formmethod="POST" formenctype="multipart/form-data">B</button></form>"""
    request = form(html).fill()
    assert (request.method, request.url) == ("POST", "https://shop.example/b")
    assert request.data == Multipart((Part("x", "1"),))
    assert form(html).fill(click=False).url == "https://shop.example/a?x=1"


# -- filling in --------------------------------------------------------------------------------------------------------

TWO_BOXES = "<input type=checkbox name=a value=1 checked><input type=checkbox name=a value=2>"


@pytest.mark.parametrize(
    ("controls", "filled", "expected"),
    [
        ("<input name=a value=1><input name=b value=2>", {"a": "x"}, [("a", "x"), ("b", "2")]),
        ("<input name=a><input name=b>", {"a": 5, "b": 2.5}, [("a", "5"), ("b", "2.5")]),
        ("<input name=a value=1><input name=b>", {"a": None}, [("b", "")]),
        ("<input name=a value=1>", {"a": ""}, [("a", "")]),
        ("<textarea name=a>x</textarea>", {"a": "1\n2\r\n3\r4"}, [("a", "1\r\n2\r\n3\r\n4")]),
        ("<input type=checkbox name=a>", {"a": True}, [("a", "on")]),
        ("<input type=checkbox name=a value=1 checked>", {"a": False}, []),
        ("<input type=checkbox name=a value=1>", {"a": 1}, [("a", "1")]),
        (TWO_BOXES, {"a": ["2"]}, [("a", "2")]),
        (TWO_BOXES, {"a": ["1", "2"]}, [("a", "1"), ("a", "2")]),
        (TWO_BOXES, {"a": False}, []),
        ("<input type=hidden name=a value=0><input type=checkbox name=a>", {"a": True}, [("a", "0"), ("a", "on")]),
        ("<input type=hidden name=a value=0><input type=checkbox name=a value=1 checked>", {"a": "0"}, [("a", "0")]),
        ("<input type=radio name=a value=1 checked><input type=radio name=a value=2>", {"a": 2}, [("a", "2")]),
        ("<select name=a><option value=x>X<option value=y>Y</select>", {"a": "y"}, [("a", "y")]),
        ("<select name=a multiple><option>x<option>y<option selected>z", {"a": ["y", "x"]}, [("a", "x"), ("a", "y")]),
        ("<select name=a multiple><option selected>x</select>", {"a": []}, []),
        ("<input name=a><input name=b><input name=a>", {"a": ["1", "2"]}, [("a", "1"), ("b", ""), ("a", "2")]),
        ("<input name=a value=x><input name=a value=y>", {"a": ["1", "2", "3"]}, [("a", "1"), ("a", "2"), ("a", "3")]),
        ("<input name=a value=x><input name=a value=y>", {"a": "1"}, [("a", "1")]),
        ("<input name=a disabled>", {"a": "1"}, [("a", "1")]),
        ("<input name='a[]'>", {"a[]": "1"}, [("a[]", "1")]),
        ("<input name=click><input name=fields>", {"click": "1", "fields": "2"}, [("click", "1"), ("fields", "2")]),
    ],
)  # fmt: skip
def test_what_is_filled_in_replaces_what_the_page_has(
    controls: str, filled: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert sent(inside(controls).fill(filled)) == expected


def test_fields_are_named_in_a_mapping_or_as_keywords() -> None:
    assert pairs("<input name=a><input name=b>", b="2") == [("a", ""), ("b", "2")]
    assert sent(inside("<input name=a><input name=b>").fill({"a": "1"}, b="2")) == [("a", "1"), ("b", "2")]


def test_extra_adds_fields_that_the_form_does_not_have() -> None:
    assert pairs("<input name=a>", extra={"x": ["1", "2"], "a": 3}) == [("a", ""), ("x", "1"), ("x", "2"), ("a", "3")]
    assert pairs("<input name=a>", extra=[("x", "1"), ("x", "2")]) == [("a", ""), ("x", "1"), ("x", "2")]


@pytest.mark.parametrize(
    ("filled", "error", "told"),
    [
        ({"usr": "x"}, ValueError, r"no field 'usr'; did you mean 'user'\? \(it has country, csrf"),
        ({"zzz": "x"}, ValueError, r"no field 'zzz' \(it has"),
        ({"go": "x"}, ValueError, "'go' is a button"),
        ({"country": "us"}, ValueError, "'country' does not offer 'us', but 'de', 'fr'"),
        ({"country": ["de", "fr"]}, ValueError, "takes one value, not 2"),
        ({"size": ["s", "m"]}, ValueError, "takes one value, not 2"),
        ({"size": "xl"}, ValueError, "does not offer 'xl', but 's', 'm'"),
        ({"size": True}, TypeError, "True and False are for check boxes"),
        ({"user": False}, TypeError, "True and False are for check boxes"),
        ({"tag": True}, ValueError, "2 boxes 'tag': name the values"),
        ({"user": b"x"}, TypeError, "takes a text, a number.*not bytes"),
        ({"user": {"a": 1}}, TypeError, "not dict"),
        ({"user": FilePath("x")}, TypeError, "'user' takes no file"),
        ({"file": "x"}, TypeError, r"'file' takes FilePath\(path\)"),
        ({"file": FilePath("x")}, ValueError, "not multipart/form-data"),
    ],
)
def test_what_cannot_be_filled_in_is_an_error_that_says_why(
    filled: dict[str, Any], error: type[Exception], told: str
) -> None:
    controls = """<input type=hidden name=csrf><input name=user><input type=file name=file><button name=go>Go</button>
    <select name=country><option>de<option>fr<option disabled>us</select><input type=radio name=size value=s>
    <input type=radio name=size value=m><input type=checkbox name=tag value=1><input type=checkbox name=tag value=2>"""
    with pytest.raises(error, match=told):
        inside(controls).fill(filled)


def test_further_arguments_go_to_the_request() -> None:
    request = form(LOGIN).fill(callback="parse_account", request={"meta": {"a": 1}, "priority": 5, "session": "ada"})
    assert (request.callback, request.meta, request.priority, request.session) == ("parse_account", {"a": 1}, 5, "ada")


def test_a_request_of_a_form_can_be_stored() -> None:
    from crawler.request import RequestCodec

    codec = RequestCodec()
    for attributes in ("method=post", "method=post enctype=multipart/form-data", "method=get"):
        request = inside("<input name=a value=1><input type=file name=f>", attributes).fill()
        assert codec.decode(codec.encode(request)) == request


# -- how it is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "url"),
    [
        ("", URL),
        ('action=""', URL),
        ('action="next"', "https://shop.example/dir/next"),
        ('action="/next?keep=1#there"', "https://shop.example/next?keep=1"),
        ('action="?x=1"', "https://shop.example/dir/page.html?x=1"),
        ('action="//other.example/"', "https://other.example/"),
    ],
)
def test_the_action_is_resolved_against_the_page(action: str, url: str) -> None:
    assert inside("<input name=a>", f"method=post {action}").fill().url == url


def test_an_action_is_resolved_against_base_but_an_empty_one_is_the_page() -> None:
    base = '<base href="https://cdn.example/x/">'
    assert form(f"{base}<form method=post action=y></form>").fill().url == "https://cdn.example/x/y"
    assert form(f"{base}<form method=post></form>").fill().url == URL


@pytest.mark.parametrize("action", ["javascript:void(0)", "mailto:a@b.test"])
def test_an_action_that_no_crawler_fetches_is_an_error(action: str) -> None:
    found = inside("", f'action="{action}"')
    assert found.action == action
    with pytest.raises(ValueError, match=r"not an http\(s\) URL"):
        found.fill()


def test_get_replaces_the_query_of_the_action() -> None:
    found = inside("<input name=q value='a b&c~*é'>", 'action="/s?old=1"')
    assert found.fill().url == "https://shop.example/s?q=a+b%26c%7E*%C3%A9"
    assert inside("", 'action="/s?old=1"').fill().url == "https://shop.example/s?"


@pytest.mark.parametrize("method", ["method=get", "method=put", "method", "", "method=GET enctype=multipart/form-data"])
def test_every_other_method_is_get(method: str) -> None:
    request = inside("<input name=a value=1>", f"action=/s {method}").fill()
    assert (request.method, request.url) == ("GET", "https://shop.example/s?a=1")


def test_a_dialog_is_not_sent() -> None:
    with pytest.raises(ValueError, match="dialog"):
        inside("", "method=dialog").fill()


def test_a_multipart_form_has_parts_and_files() -> None:
    controls = "<input name=a value='x&#10;y'><input type=file name=f><input type=file name=g multiple>"
    found = inside(controls, "method=post enctype=multipart/form-data")
    request = found.fill(g=[FilePath("1.txt"), FilePath("2.txt")])
    assert request.data == Multipart(
        (
            Part("a", "xy"),
            Part("f", b"", filename="", content_type="application/octet-stream"),
            Part("g", FilePath("1.txt")),
            Part("g", FilePath("2.txt")),
        )
    )


def test_a_plain_text_form_is_lines() -> None:
    request = inside(
        "<input name=a value='x=1'><textarea name=b>é\n</textarea>", "method=post enctype=text/plain"
    ).fill()
    assert request.body == "a=x=1\r\nb=é\r\n\r\n".encode()
    assert request.headers["Content-Type"] == "text/plain"


def test_headers_of_the_caller_are_added() -> None:
    found = inside("<input name=a>", "method=post enctype=text/plain")
    request = found.fill(request={"headers": {"X-A": "1"}})
    assert dict(request.headers) == {"Content-Type": "text/plain", "X-A": "1"}
    request = found.fill(request={"headers": [("content-type", "text/x")]})
    assert list(request.headers.items()) == [("content-type", "text/x")]


# -- encodings ---------------------------------------------------------------------------------------------------------


def test_a_form_is_encoded_as_its_page() -> None:
    html = "<form method=post><input name=a><input type=hidden name=_charset_></form>"
    response = page(html, headers={"Content-Type": "text/html; charset=iso-8859-1"})
    request = Form.find(response).fill(a="é€中 ~")
    assert request.body == b"a=%E9%80%26%2320013%3B+%7E&_charset_=windows-1252"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("accept", "query"),
    [
        ("utf-8", "a=%C3%A9&_charset_=UTF-8"),
        ("ISO-8859-15", "a=%E9&_charset_=ISO-8859-15"),
        ("unknown koi8-r utf-8", "a=%26%23233%3B&_charset_=KOI8-R"),
        ("utf-16", "a=%C3%A9&_charset_=UTF-8"),
        ("", "a=%C3%A9&_charset_=UTF-8"),
    ],
)
def test_a_form_can_ask_for_another_encoding(accept: str, query: str) -> None:
    html = f'<form accept-charset="{accept}"><input name=a><input type=hidden name=_charset_ value=x></form>'
    assert form(html).fill(a="é").url.partition("?")[2] == query


def test_a_multipart_form_in_another_encoding_says_so_in_each_part() -> None:
    html = '<form method=post enctype=multipart/form-data accept-charset="windows-1252"><input name=a></form>'
    part = Part("a", b"\xe9&#20013;", None, "text/plain; charset=windows-1252")
    assert form(html).fill(a="é中").data == Multipart((part,))


def test_every_encoding_of_a_page_can_encode_a_form() -> None:
    from crawler.encoding import label_to_codec

    for codec in sorted(CODECS):
        own = encoding_of("", codec)
        assert label_to_codec(charset_of(own)) == own
        response = fake_response(URL, "<form method=post><input name=a></form>".encode(codec))
        response.encoding = codec
        request = Form.find(response).fill(a="a b")
        assert (request.data == [("a", "a b")]) if request.body is None else (request.body == b"a=a+b")


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.text(max_size=8)), max_size=4))
def test_a_query_is_read_back_as_what_was_filled_in(entries: list[tuple[str, str]]) -> None:
    request = inside("", "action=/s").fill(extra=entries)
    normal = [
        tuple(part.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n") for part in pair) for pair in entries
    ]
    assert sent(request) == [
        tuple(part.encode("utf-8", "xmlcharrefreplace").decode() for part in pair) for pair in normal
    ]


# -- a whole login -----------------------------------------------------------------------------------------------------


class Member(Spider):
    name = "member"
    site = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/login", self.log_in)

    def log_in(self, response: Response) -> Any:
        yield response.form("#login").fill(user="ada", password="p&ss é", callback=self.parse_account)

    def parse_account(self, response: Response) -> Any:
        yield {"title": response.css("h1::text").get(), "url": response.url}


async def test_a_spider_logs_in_with_token_and_cookie() -> None:
    async def show(request: web.Request) -> web.Response:
        response = web.Response(text=LOGIN.replace("t0k3n", "fresh"), content_type="text/html")
        response.set_cookie("visit", "7")
        return response

    async def check(request: web.Request) -> web.Response:
        given = await request.post()
        expected = {"csrf": "fresh", "user": "ada", "password": "p&ss é", "remember": "yes", "do": "login"}
        if dict(given) != expected or request.cookies.get("visit") != "7":
            return web.Response(status=403)
        response = web.Response(status=303, headers={"Location": "/account"})
        response.set_cookie("session", "ada")
        return response

    async def account(request: web.Request) -> web.Response:
        who = request.cookies.get("session", "nobody")
        return web.Response(text=f"<h1>Hello {who}</h1>", content_type="text/html")

    async with LocalSite() as site:
        site.route("/login", show)
        site.route("/session", check)
        site.route("/account", account)
        run = await run_spider(Member, args={"site": site.url}, settings={"http": {"unsafe_cookies": True}})
        assert run.items == [{"title": "Hello ada", "url": f"{site.url}/account"}]
    assert [(hit.method, hit.path) for hit in site.requests()] == [
        ("GET", "/login"),
        ("POST", "/session"),
        ("GET", "/account"),
    ]


class Uploader(Spider):
    name = "uploader"
    site = ""
    file = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/form")

    def parse(self, response: Response) -> Any:
        yield response.form().fill(title="Ünïted", file=FilePath(self.file), callback=self.done)

    def done(self, response: Response) -> Any:
        yield {"got": response.json()}


async def test_a_spider_uploads_a_file_through_a_form(tmp_path: Any) -> None:
    (tmp_path / "notes.txt").write_text("of the file")
    html = """<form action="/up" method="post" enctype="multipart/form-data"><input name="title">
    <input type="file" name="file"><input type="file" name="other"></form>"""

    async def take(request: web.Request) -> web.Response:
        given = await request.post()
        file = given["file"]
        assert isinstance(file, web.FileField)
        return web.json_response([given["title"], file.filename, file.file.read().decode(), "other" in given])

    async with LocalSite() as site:
        site.page("/form", html)
        site.route("/up", take)
        run = await run_spider(Uploader, args={"site": site.url, "file": str(tmp_path / "notes.txt")})
    assert run.items == [{"got": ["Ünïted", "notes.txt", "of the file", True]}]


def test_the_session_is_that_of_the_page_unless_told_otherwise() -> None:
    page = fake_response("https://shop.example/login", "<form method=post><input name=q></form>", session="anna")
    assert page.form().fill(q="1").session == "anna"
    assert page.form().fill(q="1", request={"session": "bert"}).session == "bert"
