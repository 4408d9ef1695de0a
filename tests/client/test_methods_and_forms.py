"""What a request may say: methods, addresses, JSON and forms. Each is yielded, and fetched inline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from asking import YIELDED, ask, ask_all

from crawler import FilePath, Request
from crawler.testing import LocalSite
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web
    from httpbin_server import HttpBin


def compact(value: Any) -> str:
    """For `http.json_dumps`."""
    return json.dumps(value, separators=(",", ":"))


# -- methods ---------------------------------------------------------------------------------------------------------


async def test_each_method_reaches_the_page_made_for_it(way: str, httpbin: HttpBin) -> None:
    methods = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    steps = [Request(httpbin / method.lower(), method=method, params={"n": "1"}) for method in methods]
    seen = (await ask_all(way, steps)).seen
    assert [each.reply.status for each in seen] == [200] * 5
    assert [each.reply.json()["args"] for each in seen] == [{"n": "1"}] * 5
    assert [each.reply.request.method for each in seen] == methods


async def test_one_page_takes_every_method(way: str, httpbin: HttpBin) -> None:
    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"]
    steps = [Request(httpbin / "anything/at/all", method=method) for method in methods]
    assert [each.reply.json()["method"] for each in (await ask_all(way, steps)).seen] == methods


async def test_a_method_in_small_letters_is_sent_in_capitals(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "anything", method="patch"))
    assert seen.reply.json()["method"] == "PATCH"


async def test_head_brings_headers_and_no_body(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "get", method="HEAD"))
    assert seen.reply.status == 200
    assert int(seen.reply.headers["Content-Length"]) > 0
    assert seen.reply.body == b""


async def test_options_tells_what_a_page_takes(way: str, httpbin: HttpBin) -> None:
    headers = {"Access-Control-Request-Headers": "X-Own"}
    seen = await ask(way, Request(httpbin / "get", method="OPTIONS", headers=headers))
    assert set(seen.reply.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert seen.reply.headers["Access-Control-Allow-Headers"] == "X-Own"


async def test_a_method_of_webdav_is_sent_with_its_body(way: str) -> None:
    async with LocalSite() as site:
        site.page("/", "ok", status=207)
        seen = await ask(way, Request(site.url, method="PROPFIND", body="<find/>", headers={"Depth": "1"}))
        (hit,) = site.requests()
    assert seen.reply.status == 207
    assert (hit.method, hit.headers["Depth"], hit.body) == ("PROPFIND", "1", b"<find/>")


@pytest.mark.parametrize("method", ["SING", "X.Y!"])
async def test_a_method_that_nobody_knows_is_sent_as_named(way: str, method: str) -> None:
    async with RawServer(answer(b"ok")) as server:
        seen = await ask(way, Request(server.url, method=method))
    assert seen.reply.text == "ok"
    assert server.requests[0].startswith(f"{method} / HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("method", ["", "GET ", "GET / HTTP/1.1\r\nX: ", "MÉTHODE", "a,b"])
def test_what_is_no_token_is_no_method(method: str) -> None:
    with pytest.raises(ValueError, match="not an HTTP method"):
        Request("http://example.com/", method=method)


async def test_a_method_the_page_does_not_take_is_an_answer(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "post"))
    assert seen.reply.status == 405
    assert seen.reason == ("status_405" if way == YIELDED else None)


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "args"),
    [
        ({"a": "1", "b": "ä ö&=+"}, {"a": "1", "b": "ä ö&=+"}),
        ({"a": ["1", "2"], "n": 3}, {"a": ["1", "2"], "n": "3"}),
        ([("a", "1"), ("b", "2"), ("a", "3")], {"a": ["1", "3"], "b": "2"}),
        ("a=1&a=2&b=%C3%A4", {"a": ["1", "2"], "b": "ä"}),
    ],
)
async def test_params_may_be_a_dict_pairs_or_text(way: str, httpbin: HttpBin, params: Any, args: Any) -> None:
    seen = await ask(way, Request(httpbin / "get", params=params))
    assert seen.reply.json()["args"] == args


async def test_params_join_a_query_that_is_there(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "get?a=1", params={"a": "2", "b": "3"}))
    assert seen.reply.json()["args"] == {"a": ["1", "2"], "b": "3"}


@pytest.mark.parametrize("text", ["a=%7e&b=+%2F/?", "one,two", "q=a%20b+c", "x=%zz"])
async def test_params_as_text_are_sent_as_given(way: str, text: str) -> None:
    async with LocalSite() as site:
        site.page("/search", "ok")
        await ask(way, Request(f"{site.url}/search", params=text))
        assert site.paths == [f"/search?{text}"]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/straße/日本?q=köln", "/stra%C3%9Fe/%E6%97%A5%E6%9C%AC?q=k%C3%B6ln"),
        ("/a b|c/../d", "/d"),
        ("/%7Euser/%2f?a=b c", "/%7Euser/%2f?a=b%20c"),
        ("/😀#part", "/%F0%9F%98%80"),
    ],
)
async def test_an_address_is_normalised_as_browsers_do_it(way: str, given: str, sent: str) -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        seen = await ask(way, Request(site.url + given))
        assert site.paths == [sent]
    assert seen.reply.url == site.url + sent


async def test_a_host_name_beyond_ascii_is_sent_in_its_ascii_form(way: str) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        port = site.host.partition(":")[2]
        await ask(way, Request(f"http://Bücher.localhost:{port}/"))
        (hit,) = site.requests()
    assert hit.host == f"xn--bcher-kva.localhost:{port}"


# -- JSON ------------------------------------------------------------------------------------------------------------


async def test_json_is_any_value_with_its_content_type(way: str, httpbin: HttpBin) -> None:
    values: list[Any] = [{"ä": [1, 2.5, None, True, {"deep": {}}]}, [], "text", 0, False, ""]
    steps = [Request(httpbin / "post", method="POST", json=value) for value in values]
    echoes = [each.reply.json() for each in (await ask_all(way, steps)).seen]
    assert [json.loads(echo["data"]) for echo in echoes] == values
    assert {echo["headers"]["Content-Type"] for echo in echoes} == {"application/json"}


async def test_json_is_written_as_the_standard_library_does(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "put", method="PUT", json={"a": "ä", "b": [1, 2]}))
    assert seen.reply.json()["data"] == '{"a": "\\u00e4", "b": [1, 2]}'


@pytest.mark.parametrize("dumps", ["msgspec.json:encode", f"{__name__}:compact", compact])
async def test_another_serialiser_may_write_json(way: str, httpbin: HttpBin, dumps: Any) -> None:
    request = Request(httpbin / "patch", method="PATCH", json={"a": [1, 2]})
    seen = await ask(way, request, settings={"http": {"json_dumps": dumps}})
    assert seen.reply.json()["data"] == '{"a":[1,2]}'
    assert seen.reply.json()["headers"]["Content-Type"] == "application/json"


async def test_a_content_type_of_ones_own_goes_before_that_of_the_body(way: str, httpbin: HttpBin) -> None:
    headers = {"content-type": "application/vnd.api+json"}
    seen = await ask(way, Request(httpbin / "post", method="POST", json={"a": 1}, headers=headers))
    assert seen.reply.json()["headers"]["Content-Type"] == "application/vnd.api+json"
    assert seen.reply.json()["json"] == {"a": 1}


# -- forms -----------------------------------------------------------------------------------------------------------


FORMS: list[tuple[Any, dict[str, Any]]] = [
    ({"user": "änna", "password": "a&b=c +"}, {"user": "änna", "password": "a&b=c +"}),
    ({"size": ["41", "42"], "n": 3}, {"size": ["41", "42"], "n": "3"}),
    ({"raw": b"\xc3\xa4"}, {"raw": "ä"}),
    ([("a", "1"), ("b", "2"), ("a", "3")], {"a": ["1", "3"], "b": "2"}),
    ({}, {}),
]


async def test_data_may_be_a_dict_or_pairs(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "post", method="POST", data=data) for data, _ in FORMS]
    echoes = [each.reply.json() for each in (await ask_all(way, steps)).seen]
    assert [echo["form"] for echo in echoes] == [form for _, form in FORMS]
    assert {echo["headers"]["Content-Type"] for echo in echoes} == {"application/x-www-form-urlencoded"}


async def test_form_data_of_texts_is_urlencoded(way: str, httpbin: HttpBin) -> None:
    form = aiohttp.FormData({"user": "änna", "n": "1"})
    seen = await ask(way, Request(httpbin / "post", method="POST", data=form))
    assert seen.reply.json()["form"] == {"user": "änna", "n": "1"}
    assert seen.reply.json()["headers"]["Content-Type"].startswith("application/x-www-form-urlencoded")


async def parts_of(way: str, form: Any) -> list[tuple[str | None, str | None, str | None, bytes]]:
    """Name, file name, content type and content of each part, as an aiohttp server reads them."""
    parts = []

    async def read(request: web.Request) -> web.Response:
        from aiohttp import web

        async for part in await request.multipart():
            assert isinstance(part, aiohttp.BodyPartReader)
            parts.append((part.name, part.filename, part.headers.get("Content-Type"), bytes(await part.read())))
        return web.Response()

    async with LocalSite() as site:
        site.route("/", read)
        seen = await ask(way, Request(site.url, method="POST", data=form))
        (hit,) = site.requests()
    assert seen.reply.status == 200
    assert hit.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    return parts


async def test_multipart_parts_keep_name_file_name_and_type(way: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    form = aiohttp.FormData()
    form.add_field("title", "Ünder the sea")
    form.add_field("note", "<b>bold</b>", content_type="text/html")
    form.add_field("raw", b"\x00\x01", filename="raw.bin", content_type="application/x-own")
    form.add_field("photo", FilePath(tmp_path / "photo.jpg"), filename="beach.jpg", content_type="image/jpeg")
    form.add_field("title", "again")
    name, _, kind, text = (parts := await parts_of(way, form))[0]
    assert (name, (kind or "").partition(";")[0], text) == ("title", "text/plain", "Ünder the sea".encode())
    assert parts[1:4] == [
        ("note", None, "text/html", b"<b>bold</b>"),
        ("raw", "raw.bin", "application/x-own", b"\x00\x01"),
        ("photo", "beach.jpg", "image/jpeg", b"\xff\xd8\xff"),
    ]
    assert (parts[4][0], parts[4][3]) == ("title", b"again")


async def test_httpbin_tells_fields_from_files(way: str, httpbin: HttpBin, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    form = aiohttp.FormData()
    form.add_field("title", "numbers")
    form.add_field("file", FilePath(tmp_path / "list.csv"))
    seen = await ask(way, Request(httpbin / "post", method="POST", data=form))
    assert seen.reply.json()["form"] == {"title": "numbers"}
    assert seen.reply.json()["files"] == {"file": "a,b\n1,2\n"}


async def test_a_file_among_the_fields_makes_the_form_multipart(way: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    parts = await parts_of(way, {"title": "numbers", "file": FilePath(tmp_path / "list.csv")})
    assert [(name, filename, content) for name, filename, _, content in parts] == [
        ("title", None, b"numbers"),
        ("file", "list.csv", b"a,b\n1,2\n"),
    ]
    assert parts[1][2] == "text/csv"


async def test_steps_of_one_crawl_keep_their_own_bodies(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "anything", method="POST", json={"n": number}) for number in range(5)]
    seen = (await ask_all(way, steps)).seen
    assert [each.reply.json()["json"] for each in seen] == [{"n": number} for number in range(5)]
