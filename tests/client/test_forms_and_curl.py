"""Requests that are made of something else: a form on a page, a curl command, everything at once. Both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from asking import ask, ask_all

from crawler import FilePath, Request, Response
from crawler.testing import LocalSite

if TYPE_CHECKING:
    from pathlib import Path

    from httpbin_server import HttpBin

PIZZA = {
    "custname": "Änna",
    "custtel": "555",
    "custemail": "anna@example.com",
    "size": "large",
    "topping": ["bacon", "onion"],
    "delivery": "18:30",
    "comments": "line one\nline <two>",
}


# -- forms -----------------------------------------------------------------------------------------------------------


async def test_a_form_is_filled_in_and_sent(way: str, httpbin: HttpBin) -> None:
    def order(page: Response) -> Request:
        form = page.form()
        assert (form.method, form.action) == ("POST", httpbin / "post")
        assert form.choices("size") == ["small", "medium", "large"]
        return form.fill(PIZZA)

    _, ordered = (await ask_all(way, [Request(httpbin / "forms/post"), order])).seen
    echo = ordered.reply.json()
    assert echo["form"] == {**PIZZA, "comments": "line one\r\nline <two>"}
    assert echo["headers"]["Content-Type"] == "application/x-www-form-urlencoded"


async def test_what_is_not_filled_in_is_sent_as_the_page_has_it(way: str, httpbin: HttpBin) -> None:
    def order(page: Response) -> Request:
        return page.form("form", 0).fill(custname="Bert")

    _, ordered = (await ask_all(way, [Request(httpbin / "forms/post"), order])).seen
    empty = dict.fromkeys(("custtel", "custemail", "delivery", "comments"), "")
    assert ordered.reply.json()["form"] == {"custname": "Bert", **empty}


@pytest.mark.parametrize(
    ("fields", "words"), [({"custnam": "x"}, "custname"), ({"size": "huge"}, "large"), ({"topping": ["salt"]}, "bacon")]
)
async def test_a_field_or_choice_that_is_not_there_is_an_error_that_names_what_is(
    way: str, httpbin: HttpBin, fields: dict[str, Any], words: str
) -> None:
    page = (await ask(way, Request(httpbin / "forms/post"))).reply
    with pytest.raises(ValueError, match=words):
        page.form().fill(fields)


async def test_a_page_without_the_form_says_what_it_has(way: str, httpbin: HttpBin) -> None:
    with pytest.raises(ValueError, match="no forms at all"):
        (await ask(way, Request(httpbin / "html"))).reply.form()
    with pytest.raises(ValueError, match=r"(?s)no form .*/post"):
        (await ask(way, Request(httpbin / "forms/post"))).reply.form("#login")


async def test_a_login_with_a_hidden_token_and_a_button_leads_to_what_is_inside(way: str) -> None:
    """The token of the page goes along, the button says which of two things is wanted, the cookie opens the door."""
    page = """
        <form action="/search"><input name="q"><button>Search</button></form>
        <form id="login" action="/login?from=home" method="post">
          <input type="hidden" name="csrf" value="t0ken&amp;1">
          <input name="user"> <input name="password" type="password">
          <input type="checkbox" name="remember" value="yes" checked>
          <button name="do" value="register">Register</button> <button name="do" value="login">Log in</button>
        </form>"""
    posted: list[dict[str, Any]] = []

    async def login(request: web.Request) -> web.Response:
        posted.append({**await request.post(), **request.query})
        return web.Response(status=303, headers={"Location": "/inside", "Set-Cookie": "sid=7"})

    async def inside(request: web.Request) -> web.Response:
        return web.Response(text=f"hello {request.cookies.get('sid')}")

    async with LocalSite() as site:
        site.page("/", page)
        site.route("/login", login)
        site.route("/inside", inside)
        steps = [
            Request(site.url),
            lambda home: home.form("#login").fill(user="änna", password="a&b", click="Log in"),
        ]
        _, entered = (await ask_all(way, steps, settings={"http": {"unsafe_cookies": True}})).seen
        assert [hit.method for hit in site.requests()] == ["GET", "POST", "GET"]
    assert entered.reply.text == "hello 7"
    assert posted == [
        {"csrf": "t0ken&1", "user": "änna", "password": "a&b", "remember": "yes", "do": "login", "from": "home"}
    ]


async def test_a_form_that_is_asked_for_by_get_makes_a_query(way: str, httpbin: HttpBin) -> None:
    async with LocalSite("127.0.0.2") as site:
        site.page("/", f'<form action="{httpbin.url}/get?old=1"><input name=q><input name=n value=2></form>')
        steps = [Request(site.url), lambda page: page.form().fill(q="a b&ä")]
        settings = {"security": {"allow_private_networks": True}}
        _, found = (await ask_all(way, steps, settings=settings)).seen
    assert found.reply.json()["args"] == {"q": "a b&ä", "n": "2"}


async def test_a_form_with_a_file_is_multipart(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    (tmp_path / "cv.txt").write_text("ten years of crawling")
    page = f"""<form action="{httpbin.url}/post" method="post" enctype="multipart/form-data">
               <input name="name"><input type="file" name="cv"></form>"""
    async with LocalSite("127.0.0.2") as site:
        site.page("/", page)
        steps = [Request(site.url), lambda page: page.form().fill(name="Änna", cv=FilePath(tmp_path / "cv.txt"))]
        settings = {"security": {"allow_private_networks": True}}
        _, sent = (await ask_all(way, steps, settings=settings)).seen
    echo = sent.reply.json()
    assert (echo["form"], echo["files"]) == ({"name": "Änna"}, {"cv": "ten years of crawling"})
    assert echo["headers"]["Content-Type"].startswith("multipart/form-data; boundary=")


# -- curl ------------------------------------------------------------------------------------------------------------

Fact = Callable[[dict[str, Any]], Any]
"""What is looked at in httpbin's answer."""

CURL: list[tuple[str, Fact, Any]] = [
    ("curl URL/anything", lambda echo: echo["method"], "GET"),
    ("curl -X PATCH URL/anything -d a=1", lambda echo: (echo["method"], echo["form"]), ("PATCH", {"a": "1"})),
    ("curl URL/anything -d a=1 -d 'b=x y'", lambda echo: (echo["method"], echo["data"]), ("POST", "")),
    ("curl -G URL/anything -d a=1 --data-urlencode 'b=x y&z'", lambda echo: echo["args"], {"a": "1", "b": "x y&z"}),
    (
        "curl 'URL/anything' -H 'Content-Type: application/json' --data-raw $'{\"a\":\"\\u00e4\\'\"}'",
        lambda echo: echo["json"],
        {"a": "ä'"},
    ),
    ("curl URL/anything --json '{\"n\": 1}'", lambda echo: echo["json"], {"n": 1}),
    ("curl -u user:pa:ss URL/basic-auth/user/pa:ss", lambda echo: echo["authenticated"], True),
    ("curl -A 'own/1.0' URL/user-agent", lambda echo: echo, {"user-agent": "own/1.0"}),
    ("curl -e http://from.example/ URL/headers", lambda echo: echo["headers"]["Referer"], "http://from.example/"),
    ("curl -H 'X-Own: 1' URL/headers", lambda echo: echo["headers"]["X-Own"], "1"),
    ("curl -H 'Accept:' URL/headers", lambda echo: "Accept" in echo["headers"], False),
    ("curl -b 'a=1; b=2' URL/cookies", lambda echo: echo["cookies"], {"a": "1", "b": "2"}),
    ("curl -F name=x -F 'n=b;type=text/html' URL/anything", lambda echo: echo["form"], {"name": "x", "n": "b"}),
    ("curl -L --compressed URL/redirect/2", lambda echo: echo["url"].rpartition("/")[2], "get"),
    ("curl -X DELETE -g 'URL/anything?x=[1-3]&y={a,b}'", lambda echo: echo["args"], {"x": "[1-3]", "y": "{a,b}"}),
]


async def test_a_curl_command_does_here_what_it_does_there(way: str, httpbin: HttpBin) -> None:
    steps = [Request.from_curl(command.replace("URL", httpbin.url)) for command, _, _ in CURL]
    seen = (await ask_all(way, steps)).seen
    for (command, fact, expected), each in zip(CURL, seen, strict=True):
        assert (command, fact(each.reply.json())) == (command, expected)


async def test_a_command_uploads_files(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("from disk")
    commands = [
        f"curl -F 'file=@{tmp_path}/a.txt;filename=b.txt' {httpbin.url}/anything",
        f"curl -T {tmp_path}/a.txt {httpbin.url}/put",
        f"curl --data-binary @{tmp_path}/a.txt -H 'Content-Type: text/plain' {httpbin.url}/post",
    ]
    form, put, post = (await ask_all(way, [Request.from_curl(command) for command in commands])).seen
    assert form.reply.json()["files"] == {"file": "from disk"}
    assert (put.reply.json()["data"], post.reply.json()["data"]) == ("from disk", "from disk")


async def test_a_head_command_brings_headers(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request.from_curl(f"curl -I {httpbin.url}/get"))
    assert (seen.reply.request.method, seen.reply.body) == ("HEAD", b"")


@pytest.mark.parametrize("command", ["wget http://x.example/", "curl", "curl --no-such-option http://x.example/"])
def test_what_is_no_such_command_is_an_error(command: str) -> None:
    with pytest.raises(ValueError):
        Request.from_curl(command)


# -- everything at once ------------------------------------------------------------------------------------------------


def everything(httpbin: HttpBin) -> Request:
    return Request(
        httpbin / "anything/deep/path?first=1",
        method="put",
        params=[("second", "ä"), ("first", "2")],
        headers={"X-Own": "1", "Accept": "application/json", "Accept-Encoding": None},
        cookies={"own": "cookie"},
        json={"deep": [1, {"ä": None}]},
        auth=("user", "passwd"),
        timeout=30,
        meta={"page": 1},
        priority=5,
        session="anna",
        max_redirects=1,
        ok_status=[200],
    )


def assert_everything(reply: Response, httpbin: HttpBin) -> None:
    echo = reply.json()
    assert echo["method"] == "PUT"
    assert echo["url"].startswith(httpbin / "anything/deep/path?first=1&second=")
    assert echo["args"] == {"first": ["1", "2"], "second": "ä"}
    assert echo["json"] == {"deep": [1, {"ä": None}]}
    assert echo["origin"] == "127.0.0.1"
    headers = echo["headers"]
    assert (headers["X-Own"], headers["Cookie"], headers["Accept"]) == ("1", "own=cookie", "application/json")
    assert headers["Authorization"] == "Basic dXNlcjpwYXNzd2Q="
    assert "Accept-Encoding" not in headers


async def test_everything_at_once(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    """Also through a frontier on disk: a job has one."""
    seen = await ask(way, everything(httpbin), job=tmp_path / "job")
    assert_everything(seen.reply, httpbin)
    assert (seen.reply.meta, seen.reply.request.session) == ({"page": 1}, "anna")


async def test_everything_goes_through_curl_and_back(way: str, httpbin: HttpBin) -> None:
    again = Request.from_curl(everything(httpbin).to_curl(), meta={"page": 1}, session="anna")
    assert_everything((await ask(way, again)).reply, httpbin)


async def test_many_different_requests_do_not_mix(way: str, httpbin: HttpBin) -> None:
    steps, expected = [], []
    for number in range(12):
        method = ("POST", "PUT", "PATCH", "DELETE")[number % 4]
        bodies: list[tuple[dict[str, Any], Any]] = [
            ({"json": {"n": number}}, ({"n": number}, {}, json.dumps({"n": number}))),
            ({"data": {"n": number}}, (None, {"n": str(number)}, "")),
            ({"data": f"<{number}>"}, (None, {}, f"<{number}>")),
        ]
        body, echoed = bodies[number % 3]
        steps.append(Request(httpbin / f"anything/{number}", method=method, headers={"X-N": str(number)}, **body))
        expected.append((method, str(number), *echoed))
    echoes = [seen.reply.json() for seen in (await ask_all(way, steps)).seen]
    got = [(echo["method"], echo["headers"]["X-N"], echo["json"], echo["form"], echo["data"]) for echo in echoes]
    assert got == expected
