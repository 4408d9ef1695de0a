"""Credentials: whom they are for, how they are sent, and who never gets them. Yielded and inline."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from asking import YIELDED, ask, ask_all

from crawler import FilePath, Request, Response
from crawler.testing import LocalSite

if TYPE_CHECKING:
    from pathlib import Path

    from httpbin_server import HttpBin

ANYWHERE = {"security": {"allow_private_networks": True}}
CHALLENGE = 'Digest realm="here", nonce="n0nce", qop="auth", algorithm=SHA-256'


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# -- basic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", [("änna", "pass:wörd"), ["änna", "pass:wörd"], None])
async def test_a_request_may_have_credentials_of_its_own(way: str, httpbin: HttpBin, auth: Any) -> None:
    request = Request(httpbin / "basic-auth/änna/pass:wörd", auth=auth)
    seen = await ask(way, request)
    assert seen.reply.status == (401 if auth is None else 200)
    if auth is None:
        assert seen.reply.headers["WWW-Authenticate"] == 'Basic realm="Fake Realm"'
        assert seen.reason == ("status_401" if way == YIELDED else None)
    else:
        assert seen.reply.json() == {"authenticated": True, "user": "änna"}


async def test_credentials_may_be_aiohttps_own(way: str, httpbin: HttpBin) -> None:
    with pytest.warns(DeprecationWarning, match="BasicAuth"):  # which is how aiohttp 3 announces version 4
        auth = aiohttp.BasicAuth("user", "passwd")
    assert (await ask(way, Request(httpbin / "basic-auth/user/passwd", auth=auth))).reply.status == 200


async def test_credentials_may_be_part_of_the_address(way: str, httpbin: HttpBin) -> None:
    url = (httpbin / "basic-auth/user/p%40ss").replace("http://", "http://user:p%40ss@")
    assert (await ask(way, Request(url))).reply.json() == {"authenticated": True, "user": "user"}


@pytest.mark.parametrize("named", ["host and port", "origin"])
async def test_the_settings_bind_credentials_to_a_host(way: str, httpbin: HttpBin, named: str) -> None:
    owner = httpbin.host if named == "host and port" else httpbin.url
    settings = {"http": {"auth": {owner: "user:pass:word"}}}
    steps = [Request(httpbin / "basic-auth/user/pass:word"), Request(httpbin / "basic-auth/user/other")]
    right, wrong = (await ask_all(way, steps, settings=settings)).seen
    assert right.reply.json() == {"authenticated": True, "user": "user"}
    assert wrong.reply.status == 401
    assert (wrong.failure is not None) == (way == YIELDED)


async def test_what_hides_without_credentials_shows_itself_with_them(way: str, httpbin: HttpBin) -> None:
    request = Request(httpbin / "hidden-basic-auth/user/passwd")
    assert (await ask(way, request)).reply.status == 404
    settings = {"http": {"auth": {httpbin.host: "user:passwd"}}}
    assert (await ask(way, request, settings=settings)).reply.json()["authenticated"] is True


@pytest.mark.parametrize("how", ["auth", "header", "address"])
async def test_the_requests_own_credentials_go_before_those_of_the_settings(
    way: str, httpbin: HttpBin, how: str
) -> None:
    url = httpbin / "basic-auth/own/passwd"
    request = {
        "auth": Request(url, auth=("own", "passwd")),
        "header": Request(url, headers={"authorization": basic("own", "passwd")}),
        "address": Request(url.replace("http://", "http://own:passwd@")),
    }[how]
    settings = {"http": {"auth": {httpbin.host: "user:other"}}}
    assert (await ask(way, request, settings=settings)).reply.json() == {"authenticated": True, "user": "own"}


async def test_the_header_of_a_request_goes_before_credentials_in_its_address(way: str, httpbin: HttpBin) -> None:
    url = (httpbin / "basic-auth/own/passwd").replace("http://", "http://user:other@")
    assert (await ask(way, Request(url, auth=("own", "passwd")))).reply.json() == {"authenticated": True, "user": "own"}


@pytest.mark.hostile("S13")
@pytest.mark.parametrize("owner", ["127.0.0.1", "127.0.0.2:{port}", "https://127.0.0.1:{port}", "localhost:{port}"])
async def test_another_host_port_or_scheme_is_not_the_one_they_are_for(way: str, httpbin: HttpBin, owner: str) -> None:
    settings = {"http": {"auth": {owner.format(port=httpbin.port): "user:passwd"}}}
    seen = await ask(way, Request(httpbin / "basic-auth/user/passwd"), settings=settings)
    assert seen.reply.status == 401
    assert "Authorization" not in seen.reply.request_headers


# -- who never gets them ---------------------------------------------------------------------------------------------


@pytest.mark.hostile("S13", "S14")
@pytest.mark.parametrize("kind", ["auth", "digest_auth"])
async def test_credentials_of_one_host_never_reach_another(way: str, httpbin: HttpBin, kind: str) -> None:
    settings = {"http": {kind: {httpbin.host: "user:passwd"}}, **ANYWHERE}
    async with LocalSite("127.0.0.2") as other:
        other.page("*", "who are you?", status=401, headers={"WWW-Authenticate": f"Basic realm=here, {CHALLENGE}"})
        path = "basic-auth/user/passwd" if kind == "auth" else "digest-auth/auth/user/passwd"
        steps = [
            Request(httpbin / path),
            Request(other.url),
            Request(httpbin / "redirect-to", params={"url": f"{other.url}/led-here"}),
            Request(httpbin / path, meta={"again": True}),
        ]
        home, away, led, back = (await ask_all(way, steps, settings=settings)).seen
        assert [hit.headers.get("Authorization") for hit in other.requests()] == [None] * 2
    assert [each.reply.status for each in (home, away, led, back)] == [200, 401, 401, 200]


@pytest.mark.hostile("S11")
async def test_credentials_of_a_request_stay_behind_when_it_is_led_elsewhere(way: str, httpbin: HttpBin) -> None:
    async with LocalSite("127.0.0.2") as other:
        other.page("/there", "ok")
        other.redirect("/back", httpbin / "headers")
        steps = [
            Request(httpbin / "redirect-to", params={"url": f"{other.url}/there"}, auth=("user", "passwd")),
            Request(httpbin / "redirect-to", params={"url": f"{other.url}/back"}, auth=("user", "passwd")),
        ]
        _, back = (await ask_all(way, steps, settings=ANYWHERE)).seen
        assert all("Authorization" not in hit.headers for hit in other.journal)
    assert "Authorization" not in back.reply.json()["headers"]


async def test_credentials_stay_when_a_host_leads_to_itself(way: str, httpbin: HttpBin) -> None:
    request = Request(httpbin / "redirect-to", params={"url": "/basic-auth/user/passwd"}, auth=("user", "passwd"))
    assert (await ask(way, request)).reply.json()["authenticated"] is True


# -- digest ----------------------------------------------------------------------------------------------------------


def digest_for(httpbin: HttpBin, login: str = "user:passwd") -> dict[str, Any]:
    return {"http": {"digest_auth": {httpbin.host: login}}}


@pytest.mark.parametrize("qop", ["auth", "auth-int", "either"])
@pytest.mark.parametrize("algorithm", ["", "/MD5", "/SHA-256", "/SHA-512"])
async def test_a_digest_challenge_is_answered(way: str, httpbin: HttpBin, qop: str, algorithm: str) -> None:
    request = Request(httpbin / f"digest-auth/{qop}/user/passwd{algorithm}")
    seen, run = await ask_all(way, [request], settings=digest_for(httpbin))
    assert seen[0].reply.json() == {"authenticated": True, "user": "user"}
    assert seen[0].reply.request_headers["Authorization"].startswith("Digest ")
    assert "passwd" not in seen[0].reply.request_headers["Authorization"].replace("/user/passwd", "")
    assert run.stats["requests"] == 1


@pytest.mark.parametrize("login", ["user:wrong", "user:"])
async def test_a_wrong_password_is_told_to_the_errback(way: str, httpbin: HttpBin, login: str) -> None:
    seen = await ask(way, Request(httpbin / "digest-auth/auth/user/passwd"), settings=digest_for(httpbin, login))
    assert seen.reply.status == 401
    assert (seen.failure is not None and seen.failure.reason == "status_401") == (way == YIELDED)


async def test_without_credentials_the_challenge_is_the_answer(way: str, httpbin: HttpBin) -> None:
    seen = await ask(way, Request(httpbin / "digest-auth/auth/user/passwd"))
    assert seen.reply.status == 401
    assert seen.reply.headers["WWW-Authenticate"].startswith("Digest ")


async def test_a_challenge_that_is_known_is_answered_at_once_and_counted(way: str, httpbin: HttpBin) -> None:
    steps = [Request(httpbin / "digest-auth/auth/user/passwd", meta={"n": number}) for number in range(3)]
    seen = (await ask_all(way, steps, settings=digest_for(httpbin))).seen
    fields = [_fields(each.reply.request_headers["Authorization"]) for each in seen]
    assert [each["nc"] for each in fields] == ["00000001", "00000002", "00000003"]
    assert len({each["nonce"] for each in fields}) == 1
    assert len({each["cnonce"] for each in fields}) == 3


async def test_a_nonce_that_has_become_stale_is_replaced(way: str, httpbin: HttpBin) -> None:
    def used_up(first: Response) -> Request:
        nonce = _fields(first.request_headers["Authorization"])["nonce"]
        return Request(first.url, cookies={"last_nonce": nonce})  # how httpbin is told which it has seen

    steps = [Request(httpbin / "digest-auth/auth/user/passwd/MD5/never"), used_up]
    first, second = (await ask_all(way, steps, settings=digest_for(httpbin))).seen
    old, new = (_fields(each.reply.request_headers["Authorization"])["nonce"] for each in (first, second))
    assert second.reply.json()["authenticated"] is True
    assert old != new


@pytest.mark.parametrize("kind", ["json", "file", "form", "stream of bytes"])
async def test_a_body_is_sent_again_whole_when_the_challenge_is_answered(way: str, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file.bin").write_bytes(b"0123456789" * 50_000)
    options: dict[str, Any] = {
        "json": {"json": {"n": 1}},
        "file": {"data": FilePath(tmp_path / "file.bin")},
        "form": {"data": {"title": "x", "file": FilePath(tmp_path / "file.bin")}},
        "stream of bytes": {"data": b"0123456789" * 50_000, "chunked": True},
    }[kind]
    async with LocalSite() as site:
        site.page("/", "welcome")
        site.page("/", "who are you?", status=401, headers={"WWW-Authenticate": CHALLENGE}, times=1)
        settings = {"http": {"digest_auth": {site.host: "user:passwd"}}}
        seen = await ask(way, Request(site.url, method="PUT", **options), settings=settings)
        first, second = site.requests()
    assert seen.reply.text == "welcome"
    assert "Authorization" not in first.headers
    assert second.headers["Authorization"].startswith('Digest username="user"')
    assert second.body == first.body
    assert len(first.body) == {"json": 8, "form": len(first.body)}.get(kind, 500_000)


async def test_a_stream_behind_digest_can_be_read(way: str) -> None:
    async def read(response: Response) -> bytes:
        assert response.content is not None
        return await response.content.read()

    async with LocalSite() as site:
        site.page("/", b"x" * 300_000)
        site.page("/", "who are you?", status=401, headers={"WWW-Authenticate": CHALLENGE}, times=1)
        settings = {"http": {"digest_auth": {site.host: "user:passwd"}}}
        seen = await ask(way, Request(site.url, stream=True), read=read, settings=settings)
    assert seen.value == b"x" * 300_000


# -- other schemes ---------------------------------------------------------------------------------------------------


async def test_a_middleware_may_send_a_bearer_token(way: str, httpbin: HttpBin) -> None:
    async def bearer(request: Request, fetch: Any) -> Response:
        headers = {**request.headers, "Authorization": "Bearer t0ken"}
        response: Response = await fetch(request.replace(headers=headers))
        return response

    with_token = await ask(way, Request(httpbin / "bearer"), middlewares=[bearer])
    assert with_token.reply.json() == {"authenticated": True, "token": "t0ken"}
    without = await ask(way, Request(httpbin / "bearer"))
    assert without.reply.status == 401
    assert without.reply.headers["WWW-Authenticate"] == "Bearer"


async def test_a_middleware_may_renew_a_token_that_has_expired(way: str, httpbin: HttpBin) -> None:
    tokens = iter(["Basic expired", "Bearer fresh"])
    current = [next(tokens)]

    async def renewing(request: Request, fetch: Any) -> Response:
        response: Response = await fetch(request.replace(headers={"Authorization": current[0]}))
        if response.status == 401:
            current[0] = next(tokens)
            response = await fetch(request.replace(headers={"Authorization": current[0]}))
        return response

    seen, run = await ask_all(way, [Request(httpbin / "bearer")] * 2, middlewares=[renewing])
    assert [each.reply.json()["token"] for each in seen] == ["fresh", "fresh"]
    assert run.stats["requests"] == 3


def _fields(header: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in header.removeprefix("Digest ").split(", "))
    return {name: value.strip('"') for name, _, value in pairs}
