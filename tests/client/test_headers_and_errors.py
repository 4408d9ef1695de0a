"""Headers that go out or do not, statuses and other failures, and what an errback is told. Yielded and inline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from asking import INLINE, OBEDIENT, YIELDED, ask, ask_all

from crawler import FetchError, Request, Response
from crawler.errors import BlockedError, BodyError, ConnectError, DNSError, ProtocolError, RedirectError, StatusError
from crawler.testing import LocalSite
from crawler.testing.raw import RawServer, answer, reset

if TYPE_CHECKING:
    from httpbin_server import HttpBin

ONCE = {"retry": {"times": 0}}
AUTOMATIC = {"Host", "User-Agent", "Accept", "Accept-Encoding"}


async def echo(way: str, request: Request, **options: Any) -> dict[str, str]:
    """The headers as httpbin got them."""
    headers: dict[str, str] = (await ask(way, request, **options)).reply.json()["headers"]
    return headers


# -- headers ---------------------------------------------------------------------------------------------------------


async def test_the_automatic_headers_are_these(way: str, httpbin: HttpBin) -> None:
    assert set(await echo(way, Request(httpbin / "headers"))) == AUTOMATIC


async def test_the_settings_say_who_we_are(way: str, httpbin: HttpBin) -> None:
    settings = {"http": {"user_agent": "own/1.0 (+https://own.example)"}}
    seen = await ask(way, Request(httpbin / "user-agent"), settings=settings)
    assert seen.reply.json() == {"user-agent": "own/1.0 (+https://own.example)"}


async def test_headers_of_the_settings_go_with_every_request_and_those_of_the_request_win(
    way: str, httpbin: HttpBin
) -> None:
    settings = {"http": {"headers": {"X-Shared": "1", "accept-language": "de", "Accept": "text/html"}}}
    own = {"ACCEPT-LANGUAGE": "fr", "X-Own": "2"}
    steps = [Request(httpbin / "headers"), Request(httpbin / "headers", headers=own)]
    seen = (await ask_all(way, steps, settings=settings)).seen
    plain, changed = (each.reply.json()["headers"] for each in seen)
    assert (plain["X-Shared"], plain["Accept-Language"], plain["Accept"]) == ("1", "de", "text/html")
    assert (changed["X-Shared"], changed["Accept-Language"], changed["X-Own"]) == ("1", "fr", "2")
    assert "X-Own" not in plain


@pytest.mark.parametrize("given", [[("X-Two", "1"), ("x-two", "2")], [("X-Two", "1"), ("X-Other", ""), ("X-Two", "2")]])
async def test_a_header_may_be_sent_twice(way: str, given: list[tuple[str, str]]) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        await ask(way, Request(site.url, headers=given))
        (hit,) = site.requests()
    assert hit.headers.getall("X-Two") == ["1", "2"]


NAMES = ["User-Agent", "accept-encoding", "ACCEPT", "X-Shared"]


@pytest.mark.parametrize("how", ["None", "request"])
async def test_a_header_that_a_request_does_not_want_is_not_sent(way: str, httpbin: HttpBin, how: str) -> None:
    wishes: list[dict[str, Any]] = [
        {"headers": {name: None}} if how == "None" else {"skip_auto_headers": [name]} for name in NAMES
    ]
    steps = [Request(httpbin / "headers", **wish) for wish in wishes]
    seen = (await ask_all(way, steps, settings={"http": {"headers": {"X-Shared": "1"}}})).seen
    for name, each in zip(NAMES, seen, strict=True):
        left = {kept for kept in (*AUTOMATIC, "X-Shared") if kept.lower() != name.lower()}
        assert set(each.reply.json()["headers"]) == left


@pytest.mark.parametrize("name", NAMES)
async def test_a_header_that_the_settings_do_not_want_is_not_sent(way: str, httpbin: HttpBin, name: str) -> None:
    settings = {"http": {"headers": {"X-Shared": "1"}, "skip_auto_headers": [name]}}
    headers = await echo(way, Request(httpbin / "headers"), settings=settings)
    assert set(headers) == {each for each in (*AUTOMATIC, "X-Shared") if each.lower() != name.lower()}


async def test_the_type_of_a_body_may_be_left_out(way: str, httpbin: HttpBin) -> None:
    request = Request(httpbin / "anything", method="POST", data=b"x", skip_auto_headers=("Content-Type",))
    headers = await echo(way, request)
    assert "Content-Type" not in headers
    assert headers["Content-Length"] == "1"


async def test_one_request_without_a_header_leaves_it_to_the_others(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "headers", headers={"Accept": wanted}) for wanted in (None, "text/plain", None)]
    steps.append(Request(httpbin / "headers"))
    got = [each.reply.json()["headers"].get("Accept") for each in (await ask_all(way, steps)).seen]
    assert got[:3] == [None, "text/plain", None]
    assert got[3].startswith("text/html")


@pytest.mark.hostile("S30")
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
def test_a_value_that_would_end_its_line_is_refused_where_the_request_is_made(value: str) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Request("http://example.com/", headers={"X-Own": value})
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Request("http://example.com/").replace(headers=[("X-Own", value)])


@pytest.mark.parametrize("name", ["", "X Own", "X-Own:", "X-Öwn", "X-Own\r\nX-Evil", "X\0"])
def test_a_name_that_is_no_token_is_refused_where_the_request_is_made(name: str) -> None:
    with pytest.raises(ValueError, match="not a header name"):
        Request("http://example.com/", headers={name: "1"})
    with pytest.raises(ValueError, match="not a header name"):
        Request("http://example.com/", skip_auto_headers=[name])


async def test_a_value_beyond_ascii_goes_out_in_utf8(way: str) -> None:
    async with RawServer(answer(b"ok")) as server:
        await ask(way, Request(server.url, headers={"X-Name": "Käse"}))
    assert "X-Name: Käse\r\n".encode() in server.requests[0]


# -- statuses --------------------------------------------------------------------------------------------------------

STATUSES = [
    *(200, 201, 202, 203, 204, 206, 226, 300, 304, 305),
    *(400, 401, 402, 403, 404, 405, 406, 407, 409, 410, 412, 413, 415, 416, 417, 418, 422, 423, 428, 431, 451),
    *(500, 501, 502, 503, 504, 505, 520),
]


async def test_the_errback_gets_what_is_not_2xx_and_an_inline_fetch_gets_all(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / f"status/{status}") for status in STATUSES]
    for status, seen in zip(STATUSES, (await ask_all(way, steps, settings=ONCE)).seen, strict=True):
        assert seen.reply.status == status
        if way == INLINE or status < 300:
            assert seen.failure is None
            continue
        assert seen.failure is not None
        assert seen.failure.reason == f"status_{status}"
        assert isinstance(seen.failure.error, StatusError)
        assert seen.failure.check(BodyError, FetchError) is FetchError
        assert seen.failure.request.url == httpbin / f"status/{status}"


@pytest.mark.parametrize(
    ("ok_status", "status", "is_ok"),
    [
        ([404], 404, True),
        (["400-499"], 418, True),
        ("400-499", 500, False),
        (404, 404, True),
        ([404], 200, False),
        ([], 200, False),
        (range(200, 600), 503, True),
    ],
)
@pytest.mark.parametrize("where", ["request", "settings"])
async def test_ok_status_says_what_reaches_the_callback(
    httpbin: HttpBin, ok_status: Any, status: int, is_ok: bool, where: str
) -> None:
    if where == "settings":
        given = [ok_status] if isinstance(ok_status, int | str) else list(ok_status)
        settings: dict[str, Any] = {**ONCE, "http": {"ok_status": given}}
        seen = await ask(YIELDED, Request(httpbin / f"status/{status}"), settings=settings)
    else:
        seen = await ask(YIELDED, Request(httpbin / f"status/{status}", ok_status=ok_status), settings=ONCE)
    assert (seen.failure is None) == is_ok
    assert seen.reply.status == status


async def test_one_of_several_statuses_comes(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "status/200,201,418"))
    assert seen.reply.status in (200, 201, 418)


async def test_the_body_and_the_headers_of_an_error_are_there(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "status/418"))
    assert "teapot" in seen.reply.text
    assert seen.reply.headers["x-more-info"] == "http://tools.ietf.org/html/rfc2324"
    assert seen.reply.reason == "I'M A TEAPOT"


async def test_a_status_worth_another_try_gets_it(way: str) -> None:
    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "not now", status=503, times=2)
        seen, run = await ask_all(way, [Request(site.url)])
    assert seen[0].reply.text == "fine"
    assert site.paths == ["/", "/", "/"]
    assert run.stats["retries"] == 2


async def test_after_the_last_try_the_answer_is_told(way: str, httpbin: HttpBin) -> None:
    seen, run = await ask_all(way, [Request(httpbin / "status/503", retry_times=2)])
    assert seen[0].reply.status == 503
    assert run.stats["requests"] == 3
    if way == YIELDED:
        assert seen[0].failure is not None
        assert seen[0].failure.attempts == 3


# -- failures without an answer --------------------------------------------------------------------------------------


@pytest.mark.hostile("R-16")
@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (b"", ProtocolError, "disconnected"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", ProtocolError, "protocol"),
        (reset(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), BodyError, "body_truncated"),
        (answer(b"short", length=10), BodyError, "body_truncated"),
        (answer(b"plain", "Content-Encoding: gzip"), BodyError, "body_encoding"),
        (answer(b"x" * 5000), BodyError, "body_too_large"),
        (answer(b"", "Location: ftp://example.com/", status="302 Found"), RedirectError, "redirect_scheme"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_went_wrong_has_a_class_and_a_word(way: str, script: Any, kind: type, reason: str) -> None:
    async with RawServer(script) as server:
        seen = await ask(way, Request(server.url, max_body_bytes=1000), settings=ONCE)
    assert type(seen.error) is kind
    assert seen.reason == reason
    assert (seen.failure is not None) == (way == YIELDED)
    assert seen.failure is None or (seen.failure.reason, seen.failure.response) == (reason, None)


async def test_nobody_at_home_is_a_failure(way: str) -> None:
    async with LocalSite() as site:
        url = site.url
    seen = await ask(way, Request(url), settings=ONCE)
    assert (type(seen.error), seen.reason) == (ConnectError, "connect_refused")


async def test_a_name_that_is_none_is_a_failure(way: str) -> None:
    seen = await ask(way, Request("http://no..such.name.invalid/"), settings=ONCE)
    assert (type(seen.error), seen.reason) == (DNSError, "dns_not_found")


async def test_what_robots_txt_denies_is_not_fetched(way: str, httpbin: HttpBin) -> None:
    seen, run = await ask_all(way, [Request(httpbin / "deny")], settings=OBEDIENT)
    assert (type(seen[0].error), seen[0].reason) == (BlockedError, "robots")
    assert "Disallow: /deny" in str(seen[0].error)
    assert run.stats["requests"] == 0


async def test_where_robots_txt_is_not_obeyed_the_denied_page_is_there(way: str, httpbin: HttpBin) -> None:
    robots, page = (await ask_all(way, [Request(httpbin / "robots.txt"), Request(httpbin / "deny")])).seen
    assert robots.reply.text == "User-agent: *\nDisallow: /deny\n"
    assert "YOU SHOULDN'T BE HERE" in page.reply.text


# -- what an errback is told -----------------------------------------------------------------------------------------


async def test_a_failure_tells_what_was_sent_without_its_secrets(httpbin: HttpBin) -> None:
    request = Request(
        httpbin / "anything/status?n=1",
        method="post",
        headers={"X-Api-Key": "tell", "X-Own": "kept"},
        cookies={"sid": "tell"},
        auth=("user", "tell"),
        json={"password": "tell"},
        ok_status=[201],
    )
    failure = (await ask(YIELDED, request)).failure
    assert failure is not None
    info = failure.request_info
    assert info.method == "POST"
    assert info.url == httpbin / "anything/status?n=1"
    assert info.headers["x-own"] == "kept"
    assert info.headers["content-type"] == "application/json"
    assert info.headers["Host"] == httpbin.host
    for name in ("Authorization", "Cookie", "X-Api-Key"):
        assert info.headers[name] == "***"
    assert "tell" not in str(info) + repr(failure)


async def test_a_failure_without_an_answer_tells_what_was_sent_too() -> None:
    async with RawServer() as server:
        request = Request(server.url, auth=("user", "tell"), headers={"X-Own": "kept"}, cookies={"sid": "tell"})
        failure = (await ask(YIELDED, request, settings=ONCE)).failure
    assert failure is not None
    assert failure.response is None
    assert failure.value is failure.error
    info = failure.request_info
    assert (info.method, info.url) == ("GET", server.url)
    assert (info.headers["x-own"], info.headers["Authorization"]) == ("kept", "***")
    assert info.headers["User-Agent"].startswith("crawler/")
    assert "tell" not in str(info)


async def test_a_failure_after_redirects_tells_of_the_last_request(httpbin: HttpBin) -> None:
    failure = (await ask(YIELDED, Request(httpbin / "redirect-to", params={"url": "/status/404"}))).failure
    assert failure is not None
    assert failure.request_info.url == httpbin / "status/404"
    assert failure.request.url == httpbin / "redirect-to?url=/status/404"
    assert failure.response is not None
    assert [hop.status for hop in failure.response.history] == [302]


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("status/404", {}, "status_404"),
        ("redirect/3", {"max_redirects": 1}, "redirect_limit"),
        ("redirect-to?url=/redirect-to%3Furl=ftp://x.example/", {}, "redirect_scheme"),
        ("redirect-to?status_code=307&url=http://127.0.0.2/", {"method": "POST", "data": b"x"}, "redirect_body"),
        ("redirect-to?url=/deny", {}, "robots"),
        ("bytes/2000", {"max_body_bytes": 1000}, "body_too_large"),
        ("delay/2", {"timeout": 0.1, "retry_times": 0}, "total_timeout"),
    ],
)
async def test_a_password_in_the_address_is_never_told(
    httpbin: HttpBin, caplog: pytest.LogCaptureFixture, path: str, options: dict[str, Any], reason: str
) -> None:
    caplog.set_level("DEBUG", "crawler")
    url = httpbin.url.replace("http://", "http://user:tell@")
    seen = await ask(YIELDED, Request(f"{url}/{path}", **options), settings=OBEDIENT)
    assert seen.reason == reason
    assert "tell" not in str(seen.error) + repr(seen.failure) + caplog.text


async def test_a_failure_shows_an_address_without_its_password(httpbin: HttpBin) -> None:
    url = httpbin.url.replace("http://", "http://user:tell@") + "/basic-auth/user/other"
    failure = (await ask(YIELDED, Request(url))).failure
    assert failure is not None
    assert failure.request_info.url == httpbin.url.replace("http://", "http://***@") + "/basic-auth/user/other"
    assert failure.request_info.headers["Authorization"] == "***"


async def test_a_password_in_the_address_is_not_told_by_what_is_not_json(httpbin: HttpBin) -> None:
    seen = await ask(INLINE, Request(httpbin.url.replace("http://", "http://user:tell@") + "/html"))
    with pytest.raises(ValueError, match="is not JSON") as caught:
        seen.reply.json()
    assert "tell" not in str(caught.value)


async def test_an_error_of_ones_own_in_read_is_not_swallowed(way: str, httpbin: HttpBin) -> None:
    async def broken(response: Response) -> None:
        await asyncio.sleep(0)
        raise aiohttp.ClientError("mine")

    with pytest.raises(aiohttp.ClientError, match="mine"):
        await ask(way, Request(httpbin / "get"), read=broken)
