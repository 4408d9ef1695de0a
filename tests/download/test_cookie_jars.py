"""Cookie jars by session name, between aiohttp's responses and requests, and as rows of the job."""

from __future__ import annotations

import logging
import pickle
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
import yarl
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict

from crawler.cookies import Cookie
from crawler.cookies.cookie import Target
from crawler.download.cookies import CookieJars
from crawler.errors import InvalidURL
from crawler.testing.raw import RawServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = 1_800_000_000.0
PAGE = "https://www.shop.test/books/list?page=2"


class Time:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Answer:
    """Of an `aiohttp.ClientResponse` what a jar looks at."""

    def __init__(self, *lines: str | bytes) -> None:
        fields = [line if isinstance(line, bytes) else line.encode() for line in lines]
        self.raw_headers = ((b"Content-Type", b"text/html"), *((b"set-cookie", field) for field in fields))
        self.headers = CIMultiDict(
            (name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in self.raw_headers
        )


def store(jars: CookieJars, *lines: str | bytes, url: str = PAGE, session: str | None = None) -> None:
    jars.store(session, url, Answer(*lines))  # type: ignore[arg-type]


def make(*lines: str | bytes, **options: Any) -> CookieJars:
    jars = CookieJars(**{"clock": Time(), **options})
    store(jars, *lines)
    return jars


# -- over the wire -----------------------------------------------------------------------------------------------------


class Loopback(AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Any:
        return [{"hostname": host, "host": "127.0.0.2", "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(resolver=Loopback(), family=socket.AF_INET)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


async def field_sent_after(client: aiohttp.ClientSession, *lines: bytes, host: str = "www.shop.test") -> bytes | None:
    """What the server gets back on its next page, as octets; None where there is no Cookie field."""
    jars = CookieJars(unsafe=True)
    head = b"".join(b"Set-Cookie: %b\r\n" % line for line in lines)
    async with RawServer(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 0\r\n\r\n") as server:
        for page in ("first", "second"):
            url = f"http://{host}:{server.port}/{page}"
            cookie = jars.header(None, url, None)
            headers = {"Cookie": cookie} if cookie else {}
            async with client.get(yarl.URL(url, encoded=True), headers=headers) as response:
                jars.store(None, url, response)
    fields = [line[8:] for line in server.requests[1].split(b"\r\n") if line.startswith(b"Cookie: ")]
    return fields[0] if fields else None


@pytest.mark.parametrize(
    "pair",
    [
        b"a=b",
        "naïve=œuvre".encode(),
        "春节=🍪".encode(),
        b'q="x, y"',
        b"t=a\tb",
        b"e=%E9%00",
        b"empty=",
        b"s=b\\;c"[:4],
    ],
)
async def test_a_pair_comes_back_octet_for_octet(client: aiohttp.ClientSession, pair: bytes) -> None:
    assert await field_sent_after(client, pair + b"; Path=/") == pair


async def test_each_line_of_a_response_is_a_cookie(client: aiohttp.ClientSession) -> None:
    sent = await field_sent_after(client, b"a=1", b"b=2, c=3; Path=/", b"a=4", b"d=5; Max-Age=0", b"e")
    assert sent == b"a=4; b=2, c=3"


async def test_octets_that_are_no_utf8_could_not_be_sent_back_and_are_not_kept(client: aiohttp.ClientSession) -> None:
    assert await field_sent_after(client, b"latin=caf\xe9", b"cut=\xf0\x9f\x8d", b"fine=1") == b"fine=1"


@pytest.mark.hostile("S18")
@pytest.mark.parametrize("domain", [b"co.uk", b"uk", b".example.co.uk.", b"other.co.uk"])
async def test_no_cookie_comes_from_the_wire_for_everybody(client: aiohttp.ClientSession, domain: bytes) -> None:
    assert await field_sent_after(client, b"a=b; Domain=" + domain, host="a.example.co.uk") is None


async def test_an_address_gets_its_cookie_back_where_that_is_allowed(client: aiohttp.ClientSession) -> None:
    assert await field_sent_after(client, b"a=b", host="127.0.0.2") == b"a=b"


# -- sessions, and the cookies of a request ----------------------------------------------------------------------------


def test_sessions_share_nothing() -> None:
    jars = make("who=default")
    store(jars, "who=alice", session="alice")
    store(jars, "who=nameless", session="")
    assert [jars.header(name, PAGE, None) for name in (None, "alice", "", "bob")] == [
        "who=default",
        "who=alice",
        "who=nameless",
        "",
    ]
    assert repr(jars) == "<CookieJars {None: 1, 'alice': 1, '': 1}>"


def test_the_cookies_of_a_request_win_over_all_of_their_name() -> None:
    jars = make("a=deep", "a=root; Path=/", "b=2")
    assert jars.header(None, PAGE, {"a": "own", "c": ""}) == "b=2; a=own; c="
    assert jars.header(None, PAGE, {}) == "a=deep; b=2; a=root"
    assert jars.header("other", PAGE, {"a": "own"}) == "a=own"


@pytest.mark.parametrize(
    "own", [{"a": "x\r\nEvil: 1"}, {"a\n": "x"}, {"a": "\0"}, {"a": "\x7f"}, {"a": "x; Evil=1"}, {"a=b": "x"}]
)
def test_a_request_cannot_smuggle_a_field_into_its_cookies(own: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot carry") as raised:
        make().header(None, PAGE, own)
    assert "Evil" not in str(raised.value)


def test_without_cookies_only_those_of_the_request_are_sent() -> None:
    jars = make("a=b", enabled=False)
    jars.restore(make("e=f").changes().values())  # type: ignore[arg-type]
    assert jars.header(None, PAGE, None) == ""
    assert jars.header(None, PAGE, {"own": "1"}) == "own=1"
    assert (len(jars.view()), jars.changes()) == (0, {})


@pytest.mark.parametrize(("unsafe", "sent"), [(False, ""), (True, "a=b")])
def test_cookies_of_addresses_are_a_matter_of_the_settings(unsafe: bool, sent: str) -> None:
    jars = CookieJars(unsafe=unsafe, clock=Time())
    store(jars, "a=b", url="http://127.0.0.2:8080/")
    assert jars.header(None, "http://127.0.0.2:8080/", None) == sent


def test_a_response_without_cookies_makes_no_jar() -> None:
    jars = make()
    store(jars, "nameless", "a=; Max-Age=0")
    assert (repr(jars), jars.changes()) == ("<CookieJars {}>", {})


def test_a_view_is_what_the_session_has_now() -> None:
    time = Time()
    jars = make("a=1; Max-Age=60", "b=2; Path=/; Domain=shop.test", clock=time)
    before = jars.view()
    assert before.dict() == {"a": "1", "b": "2"}
    assert jars.view(None, "https://api.shop.test").dict() == {"b": "2"}
    time.now += 60
    store(jars, "c=3")
    assert jars.view().dict() == {"c": "3", "b": "2"}
    assert before.dict() == {"a": "1", "b": "2"}
    assert len(jars.view("never met")) == 0
    with pytest.raises(InvalidURL):
        jars.view(None, "shop.test")


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_a_session_without_cookies_does_not_look_at_the_url() -> None:
    jars = make("a=b")
    assert jars.header("other", "not a URL", None) == ""


def test_of_a_full_jar_only_the_cookies_of_the_host_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    jars = CookieJars(clock=Time())
    for host in range(100):
        store(jars, *[f"c{n}=1; Domain=h{host}.test" for n in range(30)], url=f"https://www.h{host}.test/")
    looked_at: list[Cookie] = []
    takes = Target.takes
    monkeypatch.setattr(Target, "takes", lambda target, cookie: looked_at.append(cookie) or takes(target, cookie))
    assert repr(jars) == "<CookieJars {None: 3000}>"
    assert jars.header(None, "https://a.b.none.test/", None) == ""
    assert not looked_at
    assert jars.header(None, "https://a.b.h7.test/", None).count("=") == 30
    assert len(looked_at) == 30


# -- limits and the log (HOSTILE.md, S21) ------------------------------------------------------------------------------


@pytest.mark.hostile("S21")
def test_all_sessions_together_keep_three_thousand_cookies() -> None:
    jars = CookieJars(clock=Time())
    for visitor in range(100):
        store(jars, *[f"c{n}=1" for n in range(60)], session=f"v{visitor}")
    assert sum(len(jars.view(f"v{visitor}")) for visitor in range(100)) == 3000
    assert (len(jars.view("v99")), len(jars.view("v40")), len(jars.view("v39"))) == (50, 50, 0)
    assert "'v39'" not in repr(jars)  # a jar that has lost all is gone
    assert len(jars.changes()) == 3000  # what came and went meanwhile was never written


@pytest.mark.hostile("S21")
def test_a_response_with_a_hundred_bad_cookies_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crawler.cookies")
    make(*[f"{'n' * 500}{n}=secret; Domain=evil.test" for n in range(99)], "fine=1")
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().startswith("99 of 100 cookies of www.shop.test:443 refused: 'nnn")
    assert "for another host" in record.getMessage()
    assert "secret" not in record.getMessage()
    assert len(record.getMessage()) < 500


def test_names_in_the_log_hold_no_raw_control_or_direction_characters(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crawler.cookies")
    make("\x1b[31m=1", "\u202eevil=1; Domain=x", b"caf\xe9=1")
    message = caplog.records[0].getMessage()
    assert r"'\x1b[31m' (a control character), '\u202eevil' (for another host), 'caf\udce9' (not UTF-8)" in message


def test_cookies_that_are_kept_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crawler.cookies")
    make("a=b", "c=; Max-Age=0")
    assert not caplog.records


def test_refused_cookies_are_no_news_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "crawler.cookies")
    make("nameless", "a=b; Domain=evil.test")
    assert not caplog.records


# -- rows --------------------------------------------------------------------------------------------------------------


def rows_of(jars: CookieJars) -> list[bytes]:
    return [row for row in jars.changes().values() if row is not None]


def test_a_resumed_job_has_the_jars_it_had() -> None:
    time = Time()
    jars = make("a=1; Domain=shop.test", "b=2; HttpOnly; SameSite=Lax; Max-Age=60", "gone=; Max-Age=0", clock=time)
    store(jars, "who=alice; Secure", session="alice")
    resumed = CookieJars(clock=time)
    resumed.restore(rows_of(jars))
    for session in (None, "alice", "bob"):
        assert list(resumed.view(session)) == list(jars.view(session))
    assert resumed.header(None, PAGE, None) == "a=1; b=2"
    assert resumed.changes() == {}


@pytest.mark.hostile("S19")
def test_a_cookie_for_one_host_is_for_that_host_after_a_resume_too() -> None:
    resumed = CookieJars(clock=Time())
    resumed.restore(rows_of(make("a=b; Path=/")))
    assert resumed.header(None, "https://www.shop.test/", None) == "a=b"
    assert resumed.header(None, "https://deep.www.shop.test/", None) == ""


def test_rows_have_short_keys_that_name_session_domain_path_and_name() -> None:
    jars = make("a=1", "a=1; Path=/", "a=1; Path=/; Domain=shop.test", "b=1; Path=/")
    store(jars, "a=1; Path=/", session="x")
    store(jars, "a=1; Path=/", session="")
    keys = list(jars.changes())
    assert len(set(keys)) == 6
    assert all(key.startswith("cookie/") and len(key) == 39 and int(key[7:], 16) for key in keys)
    store(jars, "a=2; Path=/", session="x")
    assert list(jars.changes()) == [keys[4]]


def test_changes_are_told_once_and_the_last_of_an_epoch_counts() -> None:
    jars = make("a=1", "a=2")
    (row,) = rows_of(jars)
    assert msgspec.msgpack.decode(row)[1][:2] == ["a", "2"]
    assert jars.changes() == {}
    store(jars, "a=2")
    assert jars.changes() == {}  # the same again
    store(jars, "a=3", "a=4")
    assert [msgspec.msgpack.decode(row)[1][1] for row in rows_of(jars)] == ["4"]


def test_a_deleted_cookie_deletes_its_row_if_it_has_one() -> None:
    jars = make("a=1", "b=2", "b=; Max-Age=0")
    (key,) = jars.changes()
    store(jars, "a=; Max-Age=0")
    assert jars.changes() == {key: None}
    store(jars, "a=; Max-Age=0", "a=back", "a=; Max-Age=0")
    assert jars.changes() == {}


def test_a_cookie_that_went_and_came_again_is_a_row_not_a_deletion() -> None:
    jars = make("a=1")
    (key,) = jars.changes()
    store(jars, "a=; Max-Age=0", "a=2")
    changes = jars.changes()
    assert list(changes) == [key]
    assert changes[key] is not None


def test_an_expired_cookie_deletes_its_row_when_it_is_noticed() -> None:
    time = Time()
    jars = make("a=1; Max-Age=60", clock=time)
    (key,) = jars.changes()
    time.now += 60
    assert jars.header(None, PAGE, None) == ""
    assert jars.changes() == {key: None}
    assert repr(jars) == "<CookieJars {}>"


def test_a_cookie_that_expired_between_two_runs_is_not_restored_and_its_row_goes() -> None:
    time = Time()
    changes = make("a=1; Max-Age=60", "b=2", clock=time).changes()
    time.now += 3600
    resumed = CookieJars(clock=time)
    resumed.restore(row for row in changes.values() if row is not None)
    assert resumed.header(None, PAGE, None) == "b=2"
    assert list(resumed.changes().items()) == [(next(iter(changes)), None)]


def test_a_restored_cookie_is_deleted_like_any_other() -> None:
    changes = make("a=1").changes()
    resumed = CookieJars(clock=Time())
    resumed.restore(row for row in changes.values() if row is not None)
    store(resumed, "a=; Max-Age=0")
    assert resumed.changes() == dict.fromkeys(changes)


def test_rows_beyond_the_limits_are_let_go() -> None:
    cookies = [Cookie(f"c{n}", "1", "shop.test", created=NOW + n) for n in range(60)]
    jars = CookieJars(clock=Time())
    jars.restore(msgspec.msgpack.encode((None, cookie)) for cookie in cookies)
    assert [cookie.name for cookie in jars.view()] == [f"c{n}" for n in range(10, 60)]  # the youngest
    assert list(jars.changes().values()) == [None] * 10


class Trap:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a row was executed",)


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"\xc1",
        b"\xff" * 40,
        pickle.dumps(Trap()),
        msgspec.msgpack.encode(["session"]),
        msgspec.msgpack.encode([None, ["a", "b"]]),
        msgspec.msgpack.encode([None, ["a", 7, "shop.test"]]),
        msgspec.msgpack.encode([7, ["a", "b", "shop.test"]]),
        msgspec.msgpack.encode([None, {"name": "a", "value": "b", "domain": "shop.test"}]),
        msgspec.msgpack.encode([None, ["a", "b\r\nEvil: 1", "shop.test"]]),
        msgspec.msgpack.encode([None, ["a", "b", "shop.test"]])[:-1],
    ],
)
def test_a_row_that_cannot_be_read_is_left_out_with_one_warning(row: bytes, caplog: pytest.LogCaptureFixture) -> None:
    jars = CookieJars(clock=Time())
    jars.restore([row, *rows_of(make("fine=1")), row])
    assert jars.header(None, PAGE, None) == "fine=1"
    assert [record.getMessage() for record in caplog.records] == ["2 saved cookies could not be read and were left out"]
