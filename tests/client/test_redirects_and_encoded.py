"""Redirects of every kind, and addresses that go out as they are written. Yielded and inline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asking import INLINE, OBEDIENT, YIELDED, ask, ask_all
from multidict import CIMultiDictProxy

from crawler import FilePath, Request, Response
from crawler.errors import InvalidURL, RedirectError
from crawler.testing import LocalSite
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from pathlib import Path

    from httpbin_server import HttpBin

ANYWHERE = {"security": {"allow_private_networks": True}}


# -- chains ----------------------------------------------------------------------------------------------------------


CHAINS = ["redirect/4", "redirect/4?absolute=true", "absolute-redirect/4", "relative-redirect/4"]


@pytest.mark.parametrize("path", CHAINS)
async def test_a_chain_is_followed_to_its_end(way: str, httpbin: HttpBin, path: str) -> None:
    seen, run = await ask_all(way, [Request(httpbin / path)])
    reply = seen[0].reply
    assert (reply.status, reply.url) == (200, httpbin / "get")
    assert [hop.status for hop in reply.history] == [302] * 4
    assert reply.history[0].url == httpbin / path
    assert reply.history[-1].url.endswith("/1")
    assert (run.stats["requests"], run.stats["redirects"]) == (5, 4)


async def test_history_tells_of_each_hop(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "redirect/2"))
    first, second = seen.reply.history
    assert isinstance(first.headers, CIMultiDictProxy)
    assert first.headers["location"] == first.headers["LOCATION"] == "/relative-redirect/1"
    assert second.headers["Location"] == "/get"
    assert second.url == httpbin / "relative-redirect/1"
    assert seen.reply.request.url == httpbin / "get"


async def test_history_keeps_headers_that_came_twice(way: str) -> None:
    head = b"HTTP/1.1 302 Found\r\nX-Two: 1\r\nx-two: 2\r\nLocation: /end\r\nContent-Length: 0\r\n\r\n"

    async def script(reader: Any, writer: Any) -> None:
        writer.write(head if server.requests[-1].startswith(b"GET / ") else answer(b"end"))
        await writer.drain()

    async with RawServer(script, keep_alive=True) as server:
        seen = await ask(way, Request(server.url))
    assert seen.reply.history[0].headers.getall("x-two") == ["1", "2"]


async def test_a_redirect_of_each_status_is_followed(way: str, httpbin: HttpBin) -> None:
    statuses = [301, 302, 303, 307, 308]
    steps = [Request(httpbin / f"redirect-to?url=/get&status_code={status}") for status in statuses]
    for status, seen in zip(statuses, (await ask_all(way, steps)).seen, strict=True):
        assert seen.reply.url == httpbin / "get"
        assert [hop.status for hop in seen.reply.history] == [status]


async def test_another_status_with_a_location_is_not_followed(way: str, httpbin: HttpBin) -> None:
    statuses = [300, 304, 305, 306]
    steps = [Request(httpbin / f"redirect-to?url=/get&status_code={status}") for status in statuses]
    seen = (await ask_all(way, steps)).seen
    assert [each.reply.status for each in seen] == statuses
    assert [each.reply.history for each in seen] == [()] * 4


@pytest.mark.parametrize(("limit", "reached"), [(3, True), (2, False), (0, False)])
@pytest.mark.parametrize("where", ["request", "settings"])
async def test_there_is_a_limit_to_hops(way: str, httpbin: HttpBin, limit: int, reached: bool, where: str) -> None:
    request = Request(httpbin / "redirect/3", max_redirects=limit if where == "request" else None)
    settings = {"http": {"max_redirects": limit}} if where == "settings" else None
    seen, run = await ask_all(way, [request], settings=settings)
    assert seen[0].reason == (None if reached else "redirect_limit")
    assert reached or isinstance(seen[0].error, RedirectError)
    assert run.stats["requests"] == limit + 1


async def test_the_limit_is_ten_unless_said_otherwise(way: str, httpbin: HttpBin) -> None:
    ten, eleven = (await ask_all(way, [Request(httpbin / f"redirect/{number}") for number in (10, 11)])).seen
    assert len(ten.reply.history) == 10
    assert eleven.reason == "redirect_limit"


@pytest.mark.parametrize("ok_status", [None, [302]])
async def test_a_redirect_that_is_not_wanted_is_the_answer(way: str, httpbin: HttpBin, ok_status: Any) -> None:
    request = Request(httpbin / "redirect/1", allow_redirects=False, ok_status=ok_status)
    seen, run = await ask_all(way, [request])
    assert (seen[0].reply.status, seen[0].reply.headers["Location"]) == (302, "/get")
    assert seen[0].reply.history == ()
    assert (seen[0].failure is None) == (way == INLINE or ok_status is not None)
    assert run.stats["requests"] == 1


async def test_what_travels_with_a_request_arrives_with_the_last_hop(way: str, httpbin: HttpBin) -> None:
    request = Request(httpbin / "redirect/3", meta={"page": 7}, headers={"X-Own": "1"}, cookies={"own": "2"})
    reply = (await ask(way, request)).reply
    assert reply.meta == {"page": 7}
    assert reply.json()["headers"]["X-Own"] == "1"
    assert reply.json()["headers"]["Cookie"] == "own=2"


async def test_a_redirect_to_what_robots_txt_denies_is_not_followed(way: str, httpbin: HttpBin) -> None:
    assert (await ask(way, Request(httpbin / "redirect-to?url=/deny"), settings=OBEDIENT)).reason == "robots"


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/", "file:///etc/passwd", "javascript:alert(1)", "http://"])
async def test_a_redirect_to_what_is_no_page_is_a_failure(way: str, httpbin: HttpBin, target: str) -> None:
    assert (await ask(way, Request(httpbin / "redirect-to", params={"url": target}))).reason == "redirect_scheme"


async def test_a_redirect_to_itself_is_a_loop(way: str) -> None:
    async with LocalSite() as site:
        site.redirect("/a", "/b")
        site.redirect("/b", "/a")
        seen = await ask(way, Request(f"{site.url}/a"))
        assert site.paths == ["/a", "/b"]
    assert seen.reason == "redirect_loop"


async def test_a_redirect_to_another_host_is_followed_there(way: str, httpbin: HttpBin) -> None:
    async with LocalSite("127.0.0.2") as other:
        other.redirect("/there", "/end")
        other.page("/end", "the end")
        steps = [Request(httpbin / "redirect-to", params={"url": f"{other.url}/there"}, meta={"n": 1})]
        seen = (await ask_all(way, steps, settings=ANYWHERE)).seen[0]
    assert (seen.reply.text, seen.reply.meta) == ("the end", {"n": 1})
    assert [hop.status for hop in seen.reply.history] == [302, 302]
    assert seen.reply.history[1].url == f"{other.url}/there"


# -- what becomes of method and body -----------------------------------------------------------------------------------

HOPS = [
    (301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET"), (307, "POST", "POST"), (308, "POST", "POST"),
    (301, "PUT", "PUT"), (302, "PATCH", "PATCH"), (303, "PUT", "GET"), (303, "DELETE", "GET"), (307, "PATCH", "PATCH"),
    (308, "DELETE", "DELETE"), (301, "GET", "GET"),
]  # fmt: skip


async def test_the_method_changes_as_browsers_do_it(way: str, httpbin: HttpBin) -> None:
    steps = [
        Request(
            httpbin / f"redirect-to?url=/anything/{number}&status_code={status}",
            method=method,
            json=None if method == "GET" else {"n": number},
            headers={"X-Own": "1"},
        )
        for number, (status, method, _) in enumerate(HOPS)
    ]
    for number, seen in enumerate((await ask_all(way, steps)).seen):
        status, method, arrives = HOPS[number]
        echo = seen.reply.json()
        assert (status, echo["method"], seen.reply.request.method) == (status, arrives, arrives)
        assert echo["headers"]["X-Own"] == "1"
        assert echo["json"] == ({"n": number} if arrives == method != "GET" else None)
        if arrives == "GET":
            assert not {"Content-Type", "Content-Length", "Content-Encoding"} & set(echo["headers"])


@pytest.mark.parametrize("kind", ["bytes", "form", "file", "form with a file", "packed"])
async def test_every_body_that_can_be_stored_is_sent_on_whole(
    way: str, httpbin: HttpBin, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file.txt").write_text("from disk")
    options: dict[str, Any] = {
        "bytes": {"data": b"plain"},
        "form": {"data": {"a": ["1", "2"]}},
        "file": {"data": FilePath(tmp_path / "file.txt")},
        "form with a file": {"data": {"a": "1", "file": FilePath(tmp_path / "file.txt")}},
        "packed": {"data": b"plain", "compress": "gzip"},
    }[kind]
    request = Request(httpbin / "redirect-to?url=/anything&status_code=307", method="POST", **options)
    echo = (await ask(way, request)).reply.json()
    got = {"bytes": echo["data"], "form": echo["form"], "file": echo["data"]}.get(kind)
    expected = {"bytes": "plain", "form": {"a": ["1", "2"]}, "file": "from disk"}.get(kind)
    assert got == expected
    if kind == "form with a file":
        assert (echo["form"], echo["files"]) == ({"a": "1"}, {"file": "from disk"})
    if kind == "packed":
        assert echo["headers"]["Content-Encoding"] == "gzip"


@pytest.mark.hostile("S16")
@pytest.mark.parametrize("status", [307, 308])
async def test_a_body_is_never_sent_on_to_another_origin(way: str, httpbin: HttpBin, status: int) -> None:
    async with LocalSite("127.0.0.2") as other:
        params = {"url": f"{other.url}/there", "status_code": status}
        request = Request(httpbin / "redirect-to", params=params, method="POST", data={"password": "secret"})
        seen = await ask(way, request, settings=ANYWHERE)
        assert other.journal == []
    assert seen.reason == "redirect_body"


async def test_head_stays_head(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "redirect/2", method="HEAD"))
    assert (seen.reply.url, seen.reply.request.method, seen.reply.body) == (httpbin / "get", "HEAD", b"")


# -- as written ------------------------------------------------------------------------------------------------------

WRITTEN = [
    "/%7Euser/%2f%2F?q=%c3%a4&r=%C3%A4",
    "/a%20b+c%zz%",
    "/{curly}|pipe^caret`tick\\back",
    "/quote'\"?q='\"<>",
    "/a//b/./c/../d/%2e%2E/e",
    "/a;b=1,c:d@e!$&()*",
    "/path?a=1?b=2&&=&c",
    "?only=query",
]


async def test_an_address_is_sent_as_it_is_written(way: str) -> None:
    async with RawServer(answer(b"ok"), keep_alive=True) as server:
        site = server.url.removesuffix("/")
        steps = [Request(site + written, encoded=True) for written in WRITTEN]
        seen = (await ask_all(way, steps)).seen
    targets = [written if written.startswith("/") else f"/{written}" for written in WRITTEN]
    lines = [head.partition(b"\r\n")[0].decode() for head in server.requests]
    assert lines == [f"GET {target} HTTP/1.1" for target in targets]
    assert [each.reply.url for each in seen] == [site + target for target in targets]


async def test_without_it_browsers_rules_apply(way: str) -> None:
    async with RawServer(answer(b"ok")) as server:
        await ask(way, Request(f"{server.url}%7Euser/{{a}}|b/./c/../d/%2e%2E/%2f?q='\"%c3"))
    assert server.requests[0].partition(b"\r\n")[0] == b"GET /%7Euser/%7Ba%7D|b/%2f?q=%27%22%c3 HTTP/1.1"


LOCATIONS = {
    "/%7Euser/%2f%2F?q=%c3%a4&r=%C3%A4": "/%7Euser/%2f%2F?q=%c3%a4&r=%C3%A4",
    "/{curly}|pipe^caret`tick": "/{curly}|pipe^caret`tick",
    "/quote'?q='\"": "/quote'?q='\"",
    "/a%20b+c%zz%": "/a%20b+c%zz%",
    "/a;b=1?c:d@e!$&()*": "/a;b=1?c:d@e!$&()*",
    "relative/%7e": "/from/relative/%7e",
    "?q=%7e": "/from/{number}?q=%7e",
    "/part#fragment%7e": "/part",
    "/ä b%7e": "/%C3%A4%20b%7e",  # HTTP cannot carry it as it is
}


async def test_a_redirect_of_such_an_address_is_sent_as_it_is_written(way: str) -> None:
    locations = list(LOCATIONS)

    async def script(reader: Any, writer: Any) -> None:
        target = server.requests[-1].split(b" ")[1]
        if target.startswith(b"/from/") and target.rpartition(b"/")[2].isdigit():
            location = locations[int(target.rpartition(b"/")[2])]
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            writer.write(answer(b"end"))
        await writer.drain()

    async with RawServer(script, keep_alive=True) as server:
        steps = [Request(f"{server.url}from/{number}", encoded=True) for number in range(len(locations))]
        seen = (await ask_all(way, steps)).seen
    assert [each.reply.text for each in seen] == ["end"] * len(locations)
    lines = [head.partition(b"\r\n")[0].decode() for head in server.requests[1::2]]
    sent = [LOCATIONS[location].replace("{number}", str(number)) for number, location in enumerate(locations)]
    assert lines == [f"GET {target} HTTP/1.1" for target in sent]


async def test_a_redirect_to_another_host_is_sent_as_it_is_written_there(way: str, httpbin: HttpBin) -> None:
    async with LocalSite("127.0.0.2") as other:
        other.page("*", "end")
        request = Request(httpbin / f"redirect-to?url={other.url}/%257e/%252f", encoded=True)
        seen = await ask(way, request, settings=ANYWHERE)
        assert other.paths == ["/%7e/%2f"]
    assert seen.reply.text == "end"


@pytest.mark.parametrize("rest", ["/ä", "/a b", "/a\tb", "/a\r\nX: 1", "/a\0"])
def test_what_http_cannot_carry_is_refused_where_the_request_is_made(rest: str) -> None:
    with pytest.raises(InvalidURL):
        Request(f"http://example.com{rest}", encoded=True)


async def test_an_address_as_written_is_the_same_after_waiting_on_disk(httpbin: HttpBin, tmp_path: Path) -> None:
    def onward(page: Response) -> Request:
        return page.follow(httpbin / "anything/%7Euser?q=%c3%a4", encoded=True)

    seen = (await ask_all(YIELDED, [Request(httpbin / "html"), onward], job=tmp_path / "job")).seen
    assert seen[1].reply.url == httpbin / "anything/%7Euser?q=%c3%a4"
