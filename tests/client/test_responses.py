"""What comes back: text, bytes, JSON, headers, history, and the request as it was sent. Yielded and inline."""

from __future__ import annotations

import base64
import json
import sys
import uuid
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web
from asking import YIELDED, ask, ask_all

from crawler import Request, Response
from crawler.testing import LocalSite
from crawler.testing.raw import RawServer, answer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from httpbin_server import HttpBin


def shouting(data: bytes) -> Any:
    """For `http.json_loads`."""
    return json.loads(data.upper())


# -- text and bytes --------------------------------------------------------------------------------------------------


async def test_text_is_decoded_as_the_header_says(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "encoding/utf8"))
    assert seen.reply.encoding == "utf-8"
    assert "∮ E⋅da = Q,  n → ∞, ∑ f(i) = ∏ g(i)" in seen.reply.text
    assert seen.reply.text.encode() == seen.reply.body


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("iso-8859-1", "cp1252", "naïve – €5"),
        ("windows-1251", "cp1251", "Привет"),
        ("shift_jis", "cp932", "日本語"),
        ("utf-16le", "utf-16-le", "ünïcode"),
        ("no-such-charset", "utf-8", "ünïcode"),
    ],
)
async def test_the_charset_of_the_header_decides(way: str, charset: str, codec: str, text: str) -> None:
    async with LocalSite() as site:
        site.page("/", text.encode(codec), content_type=f"text/plain; charset={charset}")
        seen = await ask(way, Request(site.url))
    assert (seen.reply.encoding, seen.reply.text) == (codec, text)


async def test_the_encoding_may_be_given(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "base64/w6TDtsO8"))
    assert seen.reply.text == "äöü"
    seen.reply.encoding = "latin1"
    assert seen.reply.text == "Ã¤Ã¶Ã¼"
    with pytest.raises(ValueError, match="zip"):
        seen.reply.encoding = "zip"


@pytest.mark.parametrize(
    ("path", "kind", "start"),
    [
        ("image/png", "image/png", b"\x89PNG"),
        ("image/jpeg", "image/jpeg", b"\xff\xd8\xff"),
        ("image/webp", "image/webp", b"RIFF"),
        ("image/svg", "image/svg+xml", b"<svg"),
    ],
)
async def test_bytes_are_as_they_were_sent(way: str, httpbin: HttpBin, path: str, kind: str, start: bytes) -> None:
    seen = await ask(way, Request(httpbin / path))
    assert seen.reply.headers["Content-Type"] == kind
    assert seen.reply.body.startswith(start)
    assert len(seen.reply.body) == int(seen.reply.headers["Content-Length"])


async def test_what_we_accept_decides_which_picture_comes(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "image", headers={"Accept": kind}) for kind in ("image/webp", "image/*", "text/x-none")]
    webp, png, none = (await ask_all(way, steps)).seen
    assert (webp.reply.headers["Content-Type"], png.reply.headers["Content-Type"]) == ("image/webp", "image/png")
    assert none.reply.status == 406
    assert none.reply.json()["accept"] == ["image/webp", "image/svg+xml", "image/jpeg", "image/png", "image/*"]


async def test_the_same_seed_gives_the_same_bytes(way: str, httpbin: HttpBin) -> None:
    first, again = (await ask_all(way, [Request(httpbin / "bytes/5000?seed=7")] * 2)).seen
    assert first.reply.body == again.reply.body
    assert len(first.reply.body) == 5000


# -- codings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "mark"), [("gzip", "gzipped"), ("deflate", "deflated"), ("brotli", "brotli")])
async def test_a_coded_body_is_decoded(way: str, httpbin: HttpBin, path: str, mark: str) -> None:
    seen = await ask(way, Request(httpbin / path))
    assert seen.reply.headers["Content-Encoding"] == {"brotli": "br"}.get(path, path)
    assert seen.reply.json()[mark] is True
    assert "br" in seen.reply.json()["headers"]["Accept-Encoding"]


async def test_a_body_in_zstd_is_decoded(way: str) -> None:
    async with LocalSite() as site:
        site.page("/", zstd.compress(b'{"zstd": true}'), headers={"Content-Encoding": "zstd"})
        seen = await ask(way, Request(site.url))
        (hit,) = site.requests()
    assert seen.reply.json() == {"zstd": True}
    assert "zstd" in hit.headers["Accept-Encoding"]


async def test_a_server_that_is_asked_for_no_coding_is_told_so(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "headers", headers={"Accept-Encoding": "identity"}))
    assert seen.reply.json()["headers"]["Accept-Encoding"] == "identity"


# -- JSON ------------------------------------------------------------------------------------------------------------


async def test_json_is_read(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "json"))
    assert seen.reply.json()["slideshow"]["author"] == "Yours Truly"


async def test_a_uuid_is_one(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "uuid"))
    assert uuid.UUID(seen.reply.json()["uuid"]).version == 4


@pytest.mark.parametrize("loads", [None, "json:loads", f"{__name__}:shouting", shouting])
async def test_what_is_not_json_is_an_error_that_shows_what_came(way: str, httpbin: HttpBin, loads: Any) -> None:
    settings = {"http": {"json_loads": loads}} if loads else None
    seen = await ask(way, Request(httpbin / "html"), settings=settings)
    with pytest.raises(ValueError, match="is not JSON") as caught:
        seen.reply.json()
    assert f"{httpbin.url}/html" in str(caught.value)
    assert "text/html; charset=utf-8" in str(caught.value)
    assert "<!DOCTYPE html>" in str(caught.value)


async def test_nothing_is_not_json(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "status/200"))
    with pytest.raises(ValueError, match="is not JSON"):
        seen.reply.json()


@pytest.mark.parametrize("loads", [f"{__name__}:shouting", shouting])
async def test_another_loader_may_read_json(way: str, httpbin: HttpBin, loads: Any) -> None:
    seen = await ask(way, Request(httpbin / "get?a=b"), settings={"http": {"json_loads": loads}})
    assert seen.reply.json()["ARGS"] == {"A": "B"}


async def test_one_call_may_have_a_loader_of_its_own(way: str, httpbin: HttpBin) -> None:
    class Slides(msgspec.Struct):
        slideshow: dict[str, Any]

    settings = {"http": {"json_loads": shouting}}
    seen = await ask(way, Request(httpbin / "json"), settings=settings)
    read = seen.reply.json(loads=msgspec.json.Decoder(Slides).decode)
    assert read.slideshow["title"] == "Sample Slide Show"
    with pytest.raises(ValueError, match=r"is not JSON \(Expected"):
        seen.reply.json(loads=msgspec.json.Decoder(list[int]).decode)


# -- documents -------------------------------------------------------------------------------------------------------


async def test_a_page_is_selected_from(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "html"))
    assert seen.reply.css("h1::text").get() == "Herman Melville - Moby-Dick"
    assert seen.reply.xpath("//h1/text()").get() == "Herman Melville - Moby-Dick"
    assert seen.reply.html.css_first("body p") is not None


async def test_a_start_page_is_a_page(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin.url))
    assert seen.reply.headers["Content-Type"].startswith("text/html")
    assert "httpbin" in (seen.reply.css("title::text").get() or "")


async def test_an_xml_document_is_selected_from(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "xml"))
    assert seen.reply.headers["Content-Type"] == "application/xml"
    assert seen.reply.css("slideshow").attrib["title"] == "Sample Slide Show"


async def test_links_are_followed_through_a_redirect(way: str, httpbin: HttpBin) -> None:
    def third(page: Response) -> Request:
        assert page.links() == [httpbin / f"links/5/{number}" for number in range(1, 5)]
        return page.follow(page.css("a")[2])

    first, last = (await ask_all(way, [Request(httpbin / "links/5"), third])).seen
    assert first.reply.url == httpbin / "links/5/0"
    assert last.reply.url == httpbin / "links/5/3"
    assert last.reply.links() == [httpbin / f"links/5/{number}" for number in (0, 1, 2, 4)]


# -- headers and facts -----------------------------------------------------------------------------------------------


async def test_headers_are_found_in_any_case_and_as_they_came(way: str, httpbin: HttpBin) -> None:
    params = [("X-Own", "1"), ("x-own", "2"), ("X-Empty", "")]
    seen = await ask(way, Request(httpbin / "response-headers", params=params))
    headers = seen.reply.headers
    assert headers["x-own"] == headers["X-OWN"] == headers.get("X-oWn") == "1"
    assert headers.getall("X-Own") == ["1", "2"]
    assert headers["X-Empty"] == ""
    assert (b"X-Own", b"1") in seen.reply.raw_headers
    assert (b"x-own", b"2") in seen.reply.raw_headers
    assert headers.get("X-Missing") is None


async def test_headers_may_be_told_by_post_too(way: str, httpbin: HttpBin) -> None:
    request = Request(httpbin / "response-headers", method="POST", params={"Content-Language": "de"})
    assert (await ask(way, request)).reply.headers["content-language"] == "de"


async def test_a_header_beyond_ascii_arrives(way: str) -> None:
    async with RawServer("HTTP/1.1 200 Schön\r\nX-Name: Käse\r\nContent-Length: 2\r\n\r\nok".encode()) as server:
        seen = await ask(way, Request(server.url))
    assert (b"X-Name", "Käse".encode()) in seen.reply.raw_headers
    assert seen.reply.headers["X-Name"].encode("utf-8", "surrogateescape") == "Käse".encode()


async def test_the_request_is_known_as_it_was_sent(way: str, httpbin: HttpBin) -> None:
    request = Request(httpbin / "headers", headers={"X-Own": "1"}, cookies={"a": "b"}, auth=("user", "secret"))
    seen = await ask(way, request, settings={"http": {"headers": {"X-Shared": "2"}}})
    sent = seen.reply.request_headers
    assert seen.reply.json()["headers"] == dict(sent.items())
    assert {name: sent[name] for name in ("x-own", "x-shared", "Cookie")} == {
        "x-own": "1", "x-shared": "2", "Cookie": "a=b",
    }  # fmt: skip
    assert sent["authorization"] == "Basic " + base64.b64encode(b"user:secret").decode()
    assert sent["Host"] == httpbin.host


async def test_the_headers_of_a_body_are_known_as_they_were_sent(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "post", method="POST", json={"a": 1}))
    assert seen.reply.json()["headers"] == dict(seen.reply.request_headers.items())
    assert seen.reply.request_headers["Content-Length"] == "8"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_the_version_of_http_and_the_peer_are_known(way: str, version: str) -> None:
    line = f"HTTP/{version}".encode()
    async with RawServer(answer(b"ok").replace(b"HTTP/1.1", line), host="127.0.0.3") as server:
        seen = await ask(way, Request(server.url))
    assert (seen.reply.http_version, seen.reply.ip_address) == (version, "127.0.0.3")


async def test_the_server_sees_the_address_that_we_come_from(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "ip"))
    assert seen.reply.json() == {"origin": "127.0.0.1"}
    assert seen.reply.ip_address == "127.0.0.1"


async def test_times_are_seconds_and_in_order(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "delay/0.1"))
    assert 0 < seen.reply.connect_seconds < seen.reply.elapsed_seconds
    assert 0.1 <= seen.reply.elapsed_seconds < 30
    assert seen.reply.from_cache is False


async def test_what_travels_with_the_request_is_there_again(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "redirect/2", meta={"n": (1, 2)}, cb_kwargs={}))
    assert seen.reply.meta == {"n": (1, 2)}
    assert seen.reply.request.method == "GET"


async def test_cookies_that_the_answer_sets_are_shown_with_their_attributes(way: str, httpbin: HttpBin) -> None:
    cookie = "sid=7; Path=/get; Max-Age=60; HttpOnly; SameSite=Lax"
    seen = await ask(way, Request(httpbin / "response-headers", params=[("Set-Cookie", cookie), ("Set-Cookie", "b=2")]))
    assert {name: morsel.value for name, morsel in seen.reply.cookies.items()} == {"sid": "7", "b": "2"}
    morsel = seen.reply.cookies["sid"]
    assert (morsel["path"], morsel["max-age"], morsel["httponly"], morsel["samesite"]) == ("/get", "60", True, "Lax")
    assert dict((await ask(way, Request(httpbin / "get"))).reply.cookies) == {}


# -- validators ------------------------------------------------------------------------------------------------------


async def test_an_etag_that_still_holds_is_not_modified(way: str, httpbin: HttpBin) -> None:
    def again(fresh: Response) -> Request:
        return Request(fresh.url, headers={"If-None-Match": f'"{fresh.headers["ETag"]}"'})

    fresh, same = (await ask_all(way, [Request(httpbin / "etag/abc"), again])).seen
    assert (fresh.reply.status, fresh.reply.headers["etag"]) == (200, "abc")
    assert (same.reply.status, same.reply.body) == (304, b"")
    assert same.reason == ("status_304" if way == YIELDED else None)


async def test_an_etag_that_does_not_hold_is_a_failed_precondition(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "etag/abc", headers={"If-Match": '"other"'}))
    assert seen.reply.status == 412


@pytest.mark.parametrize("ok_status", [None, [200, 304]])
async def test_not_modified_reaches_the_callback_where_it_is_ok(way: str, httpbin: HttpBin, ok_status: Any) -> None:
    def again(fresh: Response) -> Request:
        assert parsedate_to_datetime(fresh.headers["Last-Modified"]).year > 2000
        headers = {"If-Modified-Since": fresh.headers["Last-Modified"]}
        return Request(fresh.url, headers=headers, ok_status=ok_status)

    _, same = (await ask_all(way, [Request(httpbin / "cache"), again])).seen
    assert same.reply.status == 304
    assert (same.failure is None) == (ok_status is not None or way != YIELDED)


async def test_what_may_be_kept_and_how_long_is_said(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "cache/60"))
    assert seen.reply.headers["Cache-Control"] == "public, max-age=60"


async def test_an_answer_in_two_pieces_is_one_body(way: str) -> None:
    async def pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"a":')
        await response.write(b" 1}")
        return response

    async with LocalSite() as site:
        site.route("/", pieces)
        seen = await ask(way, Request(site.url))
    assert seen.reply.headers["Transfer-Encoding"] == "chunked"
    assert seen.reply.json() == {"a": 1}
