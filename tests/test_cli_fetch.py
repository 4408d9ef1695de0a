"""`crawler fetch` as a curl user meets it: every option, what is sent, what is printed where, and what is never shown.

Servers run in a thread of their own, because the command makes its own loop. Robots.txt is asked for first, as in a
crawl: where a test counts requests or connections it says so.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import logging
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from aiohttp import web
from certificates import AUTHORITY, SELF_SIGNED, SERVER, server_context
from proxy_server import ProxyServer
from test_cli import in_thread

from crawler.cli import main
from crawler.testing import LocalSite
from crawler.testing.names import Address, DnsServer
from crawler.testing.raw import RawServer, answer, hang

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60
"""How long a process may take on a busy machine before its test gives up."""
SECRET = "hunter2"
NO_ROBOTS = ("-s", "politeness.obey_robots=false")
ONCE = ("-s", "retry.times=0")
PRIVATE = ("-s", "security.allow_private_networks=true")
"""A redirect may lead to another host of this machine."""


class Ended(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, no settings of this machine, and no delay between robots.txt and the page."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CRAWLER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CRAWLER_POLITENESS__DELAY_SECONDS", "0")
    return tmp_path


@pytest.fixture
def fetch(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Ended]:
    """`crawler fetch …` in this process. Whatever it does to logging and TLS is gone afterwards."""

    def traces_left() -> list[Any]:
        loggers = map(logging.getLogger, (None, "crawler", "asyncio"))
        return [ssl.SSLContext.sslobject_class, *((list(logger.handlers), logger.level) for logger in loggers)]

    def run(*arguments: str) -> Ended:
        before = traces_left()
        capfdbinary.readouterr()
        try:
            code = main(["fetch", *arguments])
        except SystemExit as ended:  # argparse's way
            code = ended.code if isinstance(ended.code, int) else 1
        assert traces_left() == before
        out, err = capfdbinary.readouterr()
        return Ended(code, out, err.decode())

    return run


@pytest.fixture
def site() -> Iterator[LocalSite]:
    with in_thread(LocalSite()) as site:
        site.page("/", "ok")
        yield site


@pytest.fixture
def other() -> Iterator[LocalSite]:
    with in_thread(LocalSite("127.0.0.3")) as site:
        site.page("/", "other")
        yield site


@contextlib.contextmanager
def tls_server(folder: Path, certificate: str, *headers: str) -> Iterator[RawServer]:
    """On 127.0.0.2; robots.txt is answered in the same way."""
    with in_thread(RawServer(answer(b"ok", *headers), tls=server_context(folder, certificate))) as server:
        yield server


def pin_of(certificate: str) -> str:
    end = "-----END CERTIFICATE-----\n"
    der = ssl.PEM_cert_to_DER_cert(certificate[: certificate.index(end) + len(end)])
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def trusting(folder: Path) -> tuple[str, ...]:
    (folder / "authority.pem").write_text(AUTHORITY)
    return ("-s", f"tls.ca_file={folder / 'authority.pem'}")


def last(site: LocalSite) -> Any:
    """The latest request but for robots.txt."""
    return site.requests()[-1]


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_it_prints_the_body_byte_for_byte_and_leaves_nothing(fetch: Callable[..., Ended], site: LocalSite) -> None:
    body = bytes(range(256)) * 3
    site.page("/", body, content_type="application/octet-stream")
    assert fetch(f"{site.url}/") == (0, body, "")
    assert list(Path().iterdir()) == []


def test_headers_prints_status_and_headers_escaped(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.page("/", "x", headers={"X-Odd": "caf\xe9 \x9b31m"}, status=404)
    ended = fetch(f"{site.url}/", "--headers")
    assert ended.code == 0
    lines = ended.text.splitlines()
    assert lines[0] == "HTTP/1.1 404 Not Found"
    assert "Content-Type: text/html; charset=utf-8" in lines
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", ended.text)
    assert lines[-1]


def test_include_prints_the_head_an_empty_line_and_the_body(fetch: Callable[..., Ended], site: LocalSite) -> None:
    body = b"\x00\xff body"
    site.page("/", body, headers={"X-Odd": "\x1b[31m".replace("\x1b", "\x9b")})
    head, _, rest = fetch(f"{site.url}/", "-i").out.partition(b"\n\n")
    assert head.startswith(b"HTTP/1.1 200 OK\n")
    assert b"X-Odd: \\x9b[31m" in head
    assert rest == body


def test_head_asks_with_head_and_prints_the_head(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.page("/", "x" * 100)
    ended = fetch("-I", f"{site.url}/")
    assert ended.code == 0
    assert ended.text.startswith("HTTP/1.1 200 OK\n")
    assert "Content-Length: 100\n" in ended.text
    assert "xxx" not in ended.text
    assert last(site).method == "HEAD"


def test_json_has_everything(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.redirect("/old", "/new")
    site.page("/new", "<p>Grüße</p>")
    shown = json.loads(fetch(f"{site.url}/old", "--json").out)
    assert (shown["url"], shown["status"], shown["text"]) == (f"{site.url}/new", 200, "<p>Grüße</p>")
    assert shown["history"] == [{"status": 302, "url": f"{site.url}/old"}]
    assert shown["ip_address"] == "127.0.0.1"
    assert ["Content-Type", "text/html; charset=utf-8"] in shown["headers"]


def test_with_head_json_tells_of_an_answer_without_a_body(fetch: Callable[..., Ended], site: LocalSite) -> None:
    shown = json.loads(fetch(f"{site.url}/", "-I", "--json").out)
    assert (shown["status"], shown["text"]) == (200, "")


# -- the stack ---------------------------------------------------------------------------------------------------------


def test_it_uses_the_settings(fetch: Callable[..., Ended], site: LocalSite) -> None:
    assert fetch(f"{site.url}/", "-s", "http.headers.X-Test=yes").code == 0
    assert last(site).headers["X-Test"] == "yes"
    Path("own.toml").write_text('[http]\nuser_agent = "me/1 (mail)"\n')
    assert fetch(f"{site.url}/", "-c", "own.toml").code == 0
    assert last(site).headers["User-Agent"] == "me/1 (mail)"


def test_it_obeys_robots_and_says_why_it_did_not_fetch(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.robots("User-agent: *\nDisallow: /private")
    ended = fetch(f"{site.url}/private")
    assert (ended.code, ended.out) == (1, b"")
    assert "robots" in ended.err
    assert site.paths == []
    assert fetch(f"{site.url}/private", *NO_ROBOTS).code == 0


def test_what_fails_is_1_and_says_why(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.drop("/")
    ended = fetch(f"{site.url}/", *ONCE)
    assert ended.code == 1
    assert re.fullmatch(r"crawler: .* \([a-z_]+\)\n", ended.err)


def test_redirects_are_followed_unless_it_is_told_not_to(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.redirect("/old", "/")
    assert fetch(f"{site.url}/old").out == b"ok"
    ended = fetch(f"{site.url}/old", "--no-redirect", "--headers")
    assert ended.text.startswith("HTTP/1.1 302 Found\n")
    assert "Location: /\n" in ended.text
    assert site.paths == ["/old", "/", "/old"]


def test_any_status_is_a_success_unless_fail_is_given(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.page("/gone", "sorry", status=404)
    assert fetch(f"{site.url}/gone") == (0, b"sorry", "")
    ended = fetch(f"{site.url}/gone", "--fail", "-i")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == f"crawler: 404 for {site.url}/gone (status_404)\n"
    assert fetch(f"{site.url}/gone", "-f", "-o", "file").code == 1
    assert not Path("file").exists()
    assert fetch(f"{site.url}/gone", "--fail", "-s", "http.ok_status=404").code == 0
    assert fetch(f"{site.url}/", "--fail").out == b"ok"


def test_max_time_is_for_everything_together(fetch: Callable[..., Ended], here: Path) -> None:
    with in_thread(RawServer(hang())) as server:
        ended = fetch(server.url, *NO_ROBOTS, "-m", "0.3")
        assert ended.code == 1
        assert ended.err == f"crawler: not done within 0.3 seconds: {server.url} (total_timeout)\n"
        assert "within 0.2 seconds" in fetch("--curl", f"curl {server.url} -m 0.2", *NO_ROBOTS).err
        assert "within 0.1 seconds" in fetch("--curl", f"curl {server.url} -m 9", *NO_ROBOTS, "-m", "0.1").err


@pytest.mark.parametrize("output", ["file", "-"])
def test_max_time_ends_a_stream_too(output: str, fetch: Callable[..., Ended]) -> None:
    with in_thread(RawServer(hang(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"))) as server:
        ended = fetch(server.url, *NO_ROBOTS, "-m", "0.5", "-o", output)
    assert ended.code == 1
    assert "(total_timeout)" in ended.err
    assert ended.out == (b"begin" if output == "-" else b"")
    assert list(Path().iterdir()) == []


def test_max_time_may_be_longer_than_the_setting_for_a_request(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.page("/", "slow", delay=0.4)
    settings = ("-s", "http.total_seconds=0.2", *ONCE)
    assert "(total_timeout)" in fetch(f"{site.url}/", *settings).err
    assert fetch(f"{site.url}/", *settings, "-m", "30").out == b"slow"


# -- the request -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-X", "--request", "--method"])
def test_the_method_is_what_was_asked_for(option: str, fetch: Callable[..., Ended], site: LocalSite) -> None:
    assert fetch(f"{site.url}/", option, "propfind").code == 0
    assert last(site).method == "PROPFIND"


def test_headers_are_added_replaced_emptied_and_left_out(fetch: Callable[..., Ended], site: LocalSite) -> None:
    options = ("-H", "X-One: a: b ", "-H", "X-Two: 1", "-H", "X-Two: 2", "-H", "X-Empty;", "-H", "accept: text/plain")
    assert fetch(f"{site.url}/", *options, "-H", "User-Agent:", "--header", "Accept-Encoding:").code == 0
    sent = last(site).headers
    assert sent["X-One"] == "a: b"
    assert sent.getall("X-Two") == ["1", "2"]
    assert sent["X-Empty"] == ""
    assert sent.getall("Accept") == ["text/plain"]
    assert "User-Agent" not in sent
    assert "Accept-Encoding" not in sent


def test_cookies_are_sent_and_may_be_given_in_several_options(fetch: Callable[..., Ended], site: LocalSite) -> None:
    assert fetch(f"{site.url}/", "-b", "a=1; b=two", "--cookie", "c=3").code == 0
    assert last(site).headers["Cookie"] == "a=1; b=two; c=3"


def test_a_user_is_for_the_origin_alone(fetch: Callable[..., Ended], site: LocalSite, other: LocalSite) -> None:
    site.redirect("/", f"{other.url}/")
    assert fetch(f"{site.url}/", "-u", f"me:{SECRET}", *PRIVATE).out == b"other"
    assert last(site).headers["Authorization"] == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert "Authorization" not in last(other).headers


def test_a_user_in_the_url_is_one_too(fetch: Callable[..., Ended], site: LocalSite) -> None:
    ended = fetch(f"{site.url.replace('://', f'://me:{SECRET}@')}/", "--trace")
    assert ended.out == b"ok"
    assert last(site).headers["Authorization"].startswith("Basic ")
    assert SECRET not in ended.err


# -- bodies ------------------------------------------------------------------------------------------------------------

URLENCODED = "application/x-www-form-urlencoded"


def test_data_is_posted_as_a_form_sends_it(fetch: Callable[..., Ended], site: LocalSite) -> None:
    assert fetch(f"{site.url}/", "-d", "a=1&b=%20", "--data", "c=ü").code == 0
    sent = last(site)
    assert (sent.method, sent.body.decode()) == ("POST", "a=1&b=%20&c=ü")
    assert sent.headers["Content-Type"] == URLENCODED


def test_method_and_type_of_data_can_be_chosen(fetch: Callable[..., Ended], site: LocalSite) -> None:
    assert fetch(f"{site.url}/", "-X", "PUT", "-d", "<x/>", "-H", "Content-Type: text/xml").code == 0
    sent = last(site)
    assert (sent.method, sent.body) == ("PUT", b"<x/>")
    assert sent.headers.getall("Content-Type") == ["text/xml"]


def test_no_data_is_a_body_too(fetch: Callable[..., Ended], site: LocalSite) -> None:
    assert fetch(f"{site.url}/", "-d", "").code == 0
    assert (last(site).method, last(site).headers["Content-Length"]) == ("POST", "0")


def test_data_is_not_read_as_a_shell_would(fetch: Callable[..., Ended], site: LocalSite) -> None:
    data = 'a `\n "$HOME" $(id) \\ ^" \'q\' | curl x &'
    assert fetch(f"{site.url}/", "-d", data, "-H", f"X-Data: {data[4:]}", "-b", "a=$b").code == 0
    sent = last(site)
    assert sent.body.decode() == data
    assert (sent.headers["X-Data"], sent.headers["Cookie"]) == (data[4:].strip(), "a=$b")
    latin = os.fsdecode(b"a=\xfc")
    assert fetch(f"{site.url}/", "-d", latin).code == 0
    assert last(site).body == b"a=\xfc"


def test_a_file_of_data_is_sent_as_it_is(fetch: Callable[..., Ended], site: LocalSite) -> None:
    content = bytes(range(256)) * 1000
    Path("file.bin").write_bytes(content)
    assert fetch(f"{site.url}/", "-d", "@file.bin").code == 0
    assert last(site).body == content
    assert last(site).headers["Content-Type"] == URLENCODED
    assert fetch(f"{site.url}/", "-d", "a=1", "-d", "@file.bin").code == 0
    assert last(site).body == b"a=1&" + content


def test_data_comes_from_standard_input(
    fetch: Callable[..., Ended], site: LocalSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from \x00\xff stdin")))
    assert fetch(f"{site.url}/", "-d", "@-").code == 0
    assert last(site).body == b"from \x00\xff stdin"


def test_a_form_is_multipart_with_texts_and_files(fetch: Callable[..., Ended], site: LocalSite) -> None:
    seen: dict[str, Any] = {}

    async def take(request: web.Request) -> web.Response:
        for name, value in (await request.post()).items():
            is_file = isinstance(value, web.FileField)
            seen[name] = (value.filename, value.content_type, value.file.read()) if is_file else value
            if isinstance(value, bytearray):  # a text with a type of its own
                seen[name] = value.decode()
        return web.Response()

    site.route("/form", take)
    Path("notes.txt").write_text("my notes")
    texts = ("-F", 'name=a; "b" \\; c', "-F", "json={};type=application/json", "-F", "empty=")
    files = ("-F", "raw=@notes.txt", "--form", "file=@notes.txt;type=text/x-own;filename=other")
    assert fetch(f"{site.url}/form", *texts, *files).code == 0
    assert last(site).method == "POST"
    assert last(site).headers["Content-Type"].startswith("multipart/form-data")
    assert seen == {
        "name": 'a; "b" \\; c',
        "json": "{}",
        "empty": "",
        "raw": ("notes.txt", "text/plain", b"my notes"),
        "file": ("other", "text/x-own", b"my notes"),
    }


def test_a_json_body_is_posted_as_json(fetch: Callable[..., Ended], site: LocalSite) -> None:
    assert fetch(f"{site.url}/", "--json-body", '{"a": [1, 2.5, null], "ü": 12345678901234567890123}').code == 0
    sent = last(site)
    assert (sent.method, sent.headers["Content-Type"]) == ("POST", "application/json")
    assert json.loads(sent.body) == {"a": [1, 2.5, None], "ü": 12345678901234567890123}


# -- the way -----------------------------------------------------------------------------------------------------------


def test_a_proxy_gets_everything_and_its_own_credentials(fetch: Callable[..., Ended], site: LocalSite) -> None:
    with in_thread(ProxyServer(auth=("me", SECRET))) as proxy:
        assert fetch(f"{site.url}/", "-x", proxy.url_for(), "-U", f"me:{SECRET}").out == b"ok"
        assert proxy.targets == [f"{site.url}/robots.txt", f"{site.url}/"]
        assert proxy.credentials == [f"me:{SECRET}"] * 2
        assert fetch(f"{site.url}/", "--proxy", proxy.url).out == b"ok"
        assert len(proxy.targets) == 4
    assert not any("Proxy-Authorization" in hit.headers for hit in site.journal)


def test_without_its_credentials_a_proxy_does_nothing(fetch: Callable[..., Ended], site: LocalSite) -> None:
    with in_thread(ProxyServer(auth=("me", SECRET))) as proxy:
        ended = fetch(f"{site.url}/", "-x", proxy.url_for("me", "wrong" + SECRET), *ONCE, *NO_ROBOTS, "--fail")
    assert ended.code == 1
    assert SECRET not in ended.err
    assert site.journal == []


def test_a_certificate_that_nobody_signed_needs_k(fetch: Callable[..., Ended], here: Path) -> None:
    with tls_server(here, SELF_SIGNED) as server:
        assert re.search(r"\(tls_\w+\)\n$", fetch(server.url).err)
        assert fetch(server.url, "-k").out == b"ok"
        assert len(server.requests) == 2, "robots.txt was asked for, too"


def test_k_holds_for_the_hosts_that_redirects_lead_to(fetch: Callable[..., Ended], here: Path, site: LocalSite) -> None:
    with tls_server(here, SELF_SIGNED) as server:
        site.redirect("/", server.url)
        assert fetch(f"{site.url}/", *PRIVATE).code == 1
        assert fetch(f"{site.url}/", *PRIVATE, "--insecure").out == b"ok"


def test_a_pin_accepts_one_certificate(fetch: Callable[..., Ended], here: Path) -> None:
    with tls_server(here, SELF_SIGNED) as server:
        assert fetch(server.url, "--pin", pin_of(SELF_SIGNED)).out == b"ok"
        ended = fetch(server.url, "--pin", pin_of(SERVER))
    assert ended.code == 1
    assert ended.err.endswith("(tls_fingerprint)\n")


# -- curl commands -----------------------------------------------------------------------------------------------------


def test_a_curl_command_is_the_request(fetch: Callable[..., Ended], site: LocalSite) -> None:
    command = f"curl '{site.url}/form' -X PUT -H 'X-One: 1' -H 'X-Two: 2' -b 'a=1; b=2' --data-raw 'x=1'"
    site.page("/form", "done")
    assert fetch("--curl", command).out == b"done"
    sent = last(site)
    assert (sent.method, sent.path, sent.body) == ("PUT", "/form", b"x=1")
    assert (sent.headers["X-One"], sent.headers["Cookie"]) == ("1", "a=1; b=2")


def test_options_win_over_the_curl_command(fetch: Callable[..., Ended], site: LocalSite) -> None:
    command = f"curl {site.url}/form -X PUT -H 'X-One: 1' -H 'X-Two: 2' -H 'X-Three: 3' -b 'a=1; b=2' -d x=1"
    options = ("-X", "PATCH", "-H", "X-One: own", "-H", "x-two:", "-b", "b=own", "-u", "me:pass", "--no-redirect")
    site.redirect("/else", "/")
    assert fetch(f"{site.url}/else", "--curl", command, *options, "--headers").text.startswith("HTTP/1.1 302 ")
    sent = last(site)
    assert (sent.method, sent.path, sent.body) == ("PATCH", "/else", b"x=1")
    assert sent.headers.getall("X-One") == ["own"]
    assert "X-Two" not in sent.headers
    assert (sent.headers["X-Three"], sent.headers["Cookie"]) == ("3", "a=1; b=own")
    assert sent.headers["Authorization"].startswith("Basic ")


def test_the_way_of_a_curl_command_is_taken(fetch: Callable[..., Ended], site: LocalSite) -> None:
    with in_thread(ProxyServer()) as proxy:
        assert fetch("--curl", f"curl -x {proxy.url} {site.url}/").out == b"ok"
        assert proxy.targets == [f"{site.url}/robots.txt", f"{site.url}/"]


def test_to_curl_prints_the_command_and_sends_nothing(fetch: Callable[..., Ended], site: LocalSite) -> None:
    options = ("-X", "PUT", "-H", "X-One: it's", "-d", "a=1", "-k", "-u", "me:pass")
    ended = fetch(f"{site.url}/", *options, "--to-curl")
    assert (ended.code, ended.err) == (0, "")
    assert ended.text.startswith("curl ")
    assert site.journal == []
    assert fetch("--curl", ended.text).code == 0
    sent = last(site)
    assert (sent.method, sent.body, sent.headers["X-One"]) == ("PUT", b"a=1", "it's")


# -- files -------------------------------------------------------------------------------------------------------------


def test_o_streams_to_a_file_and_prints_nothing(fetch: Callable[..., Ended], site: LocalSite) -> None:
    body = os.urandom(300_000)
    site.page("/big", body, content_type="application/octet-stream")
    assert fetch(f"{site.url}/big", "-o", "sub/file.bin", "-s", "http.max_body_bytes=1000") == (0, b"", "")
    assert Path("sub/file.bin").read_bytes() == body
    assert [path.name for path in Path("sub").iterdir()] == ["file.bin"]


def test_the_head_can_be_printed_beside_the_file(fetch: Callable[..., Ended], site: LocalSite) -> None:
    for option in ("-i", "--headers"):
        ended = fetch(f"{site.url}/", "--output", "file", option)
        assert ended.text.startswith("HTTP/1.1 200 OK\n")
        assert "ok" not in ended.text.splitlines()
        assert Path("file").read_text() == "ok"


def test_a_file_is_named_with_its_hash_where_the_log_is_talkative(fetch: Callable[..., Ended], site: LocalSite) -> None:
    ended = fetch(f"{site.url}/", "-o", "file", "-L", "INFO")
    assert f"saved file, 2 bytes, sha256:{hashlib.sha256(b'ok').hexdigest()}" in ended.err


def test_o_with_a_dash_passes_on_whatever_comes(fetch: Callable[..., Ended], site: LocalSite) -> None:
    body = os.urandom(300_000)
    site.page("/big", body, content_type="application/octet-stream")
    assert fetch(f"{site.url}/big", "-o", "-", "-s", "http.max_body_bytes=1000") == (0, body, "")
    ended = fetch(f"{site.url}/big", "-i", "-o", "-")
    assert ended.out.startswith(b"HTTP/1.1 200 OK\n")
    assert ended.out.endswith(b"\n\n" + body)


def test_a_body_that_breaks_off_is_a_failure_on_its_way_out_too(fetch: Callable[..., Ended]) -> None:
    with in_thread(RawServer(answer(b"half", length=8))) as server:
        ended = fetch(server.url, "-o", "-", *NO_ROBOTS)
    assert (ended.code, ended.out) == (1, b"half")
    assert ended.err.startswith("crawler: the body was cut short (")
    assert ended.err.endswith(f"{server.url} (body_truncated)\n")


def test_a_name_that_no_file_can_have_is_bad_usage(fetch: Callable[..., Ended], site: LocalSite) -> None:
    Path("folder").mkdir()
    ended = fetch(f"{site.url}/", "-o", "folder")
    assert ended == (2, b"", "crawler: -o: no file can be saved as 'folder': Is a directory\n")


def test_a_disk_that_takes_nothing_is_69(fetch: Callable[..., Ended], site: LocalSite) -> None:
    ended = fetch(f"{site.url}/", "-o", "/proc/file")
    assert ended.code == 69
    assert "/proc/file" in ended.err


class Broken:
    """A file of a megabyte; what is asked for breaks off after 100,000 bytes until `ends_well`."""

    def __init__(self) -> None:
        self.body = os.urandom(1_000_000)
        self.ends_well = False
        self.starts: list[int] = []
        self.asked: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.starts.append(start)
        self.asked.append(request.headers["Accept-Encoding"])
        headers = {"ETag": '"one"', "Content-Length": str(len(self.body) - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
        response = web.StreamResponse(status=206 if asked else 200, headers=headers)
        await response.prepare(request)
        await response.write(self.body[start:] if self.ends_well else self.body[start : start + 100_000])
        if self.ends_well:
            await response.write_eof()
        else:
            assert request.transport is not None
            request.transport.close()
        return response


def test_a_broken_download_goes_on_where_it_ended(fetch: Callable[..., Ended], site: LocalSite) -> None:
    file = Broken()
    site.route("/big", file)
    ended = fetch(f"{site.url}/big", "-o", "big.bin", "-C", *ONCE)
    assert ended.code == 1
    assert re.search(r"\(\w+\)\n$", ended.err)
    assert not Path("big.bin").exists()
    assert list(Path().iterdir()), f"what is there is kept, {ended} {file.starts}"
    file.ends_well = True
    assert fetch(f"{site.url}/big", "-o", "big.bin", "--continue", *ONCE) == (0, b"", "")
    assert Path("big.bin").read_bytes() == file.body
    assert [path.name for path in Path().iterdir()] == ["big.bin"]
    assert file.starts[-1] >= 300_000
    assert set(file.asked) == {"identity"}


def test_without_c_a_broken_download_leaves_nothing(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.route("/big", Broken())
    assert fetch(f"{site.url}/big", "-o", "big.bin", *ONCE).code == 1
    assert list(Path().iterdir()) == []


def process(*arguments: str, cwd: Path, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "crawler", "fetch", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_download_that_is_stopped_leaves_nothing_half_done(number: signal.Signals, here: Path) -> None:
    came = threading.Event()

    async def endless(reader: Any, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin")
        await writer.drain()
        came.set()
        await reader.read()

    with (
        in_thread(RawServer(endless)) as server,
        process(server.url, "-o", "file", *NO_ROBOTS, cwd=here, stderr=subprocess.PIPE) as running,
    ):
        assert came.wait(SECONDS)
        while not list(here.iterdir()):  # until the file is begun
            assert running.poll() is None
        running.send_signal(number)
        _, said = running.communicate(timeout=SECONDS)
    assert (running.returncode, said) == (75, b"")
    assert list(here.iterdir()) == []


def test_a_reader_that_has_enough_ends_it_without_a_complaint(here: Path, site: LocalSite) -> None:
    site.page("/big", b"line\n" * 1_000_000)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with process(f"{site.url}/big", "-o", "-", cwd=here, **pipes) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(5) == b"line\n"
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(timeout=SECONDS) == 0


# -- bad usage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("-d", "a=1", "-F", "b=2"), ("-d", "-F")),
        (("-d", "a=1", "--json-body", "1"), ("-d", "--json-body")),
        (("-F", "a=1", "--json-body", "1"), ("-F", "--json-body")),
        (("-I", "-d", "a=1"), ("-I", "-d")),
        (("-I", "-X", "GET"), ("-I", "-X")),
        (("-I", "-o", "file"), ("-I", "-o")),
        (("-k", "--pin", "0" * 64), ("-k", "--pin")),
        (("--json", "-i"), ("--json", "-i")),
        (("--json", "--headers"), ("--json", "--headers")),
        (("--json", "-o", "file"), ("--json", "-o")),
        (("-i", "--headers"), ("-i", "--headers")),
        (("--curl", "curl http://127.0.0.1/", "-d", ""), ("--curl", "-d")),
        (("--curl", "curl http://127.0.0.1/", "-I"), ("--curl", "-I")),
        (("-C",), ("-C", "-o")),
        (("-C", "-o", "-"), ("-C", "-o")),
    ],
)
def test_options_that_contradict_each_other_are_both_named(
    options: tuple[str, ...], named: tuple[str, str], fetch: Callable[..., Ended]
) -> None:
    ended = fetch("http://127.0.0.1:9/", *options)
    assert (ended.code, ended.out) == (2, b"")
    assert ended.err.startswith("crawler: ")
    assert all(name in ended.err.split() or f"{name}:" in ended.err for name in named)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-H", f"Authorization {SECRET}"), "-H: expected 'Name: value'"),
        (("-H", "bad name: x"), "'bad name' is not a header name"),
        (("-H", "X: a\nb"), "CR, LF or NUL"),
        (("-X", "G ET"), "'G ET' is not an HTTP method"),
        (("-u", SECRET), "-u: expected USER:PASSWORD"),
        (("-U", SECRET, "-x", "http://127.0.0.1:9"), "-U: expected USER:PASSWORD"),
        (("-b", "jar.txt"), "-b "),
        (("-d", "@nowhere.txt"), "cannot read nowhere.txt"),
        (("-d", "a", "-d", "@nowhere.txt"), "nowhere.txt: No such file"),
        (("-F", "file=@nowhere.txt"), "cannot read nowhere.txt"),
        (("-F", "nothing"), "-F 'nothing' is not name=content"),
        (("--json-body", '{"a": }'), "--json-body is not JSON: JSON is malformed: invalid character (byte 6)"),
        (("--pin", "sha256:abc"), "--pin: "),
        (("-x", f"ftp://me:{SECRET}@127.0.0.1"), "-x"),
        (("-m", "-1"), "-m"),
        (("-m", "soon"), "expected seconds above 0, got 'soon'"),
        (("--curl", "wget http://127.0.0.1:9/"), "--curl: not a curl command"),
        (("--curl", "curl http://127.0.0.1:9/ --nonsense"), "--curl: unknown option"),
        (("-s", "http.nonsense=1"), "http.nonsense"),
    ],
)
def test_what_cannot_be_sent_is_bad_usage(options: tuple[str, ...], said: str, fetch: Callable[..., Ended]) -> None:
    ended = fetch("http://127.0.0.1:9/", *options)
    assert (ended.code, ended.out) == (2, b"")
    assert said in ended.err
    assert SECRET not in ended.err
    assert "Traceback" not in ended.err


def test_a_url_is_needed_and_must_be_one(fetch: Callable[..., Ended]) -> None:
    nothing = fetch("-i")
    assert nothing.code == 2
    assert nothing.err.startswith("usage: crawler fetch")
    assert "required: URL, or --curl COMMAND" in nothing.err
    wrong = fetch("example.com")
    assert wrong.code == 2
    assert "no scheme" in wrong.err


def test_help_has_every_option_in_its_group_and_examples(fetch: Callable[..., Ended]) -> None:
    shown = fetch("--help").text
    for group in ("request:", "body,", "connection:", "output:", "settings:", "examples:"):
        assert re.search(f"^{group}", shown, re.MULTILINE)
    for option in (
        *("-X", "--request", "--method", "-H", "--header", "-b", "--cookie", "-u", "--user", "-I", "--head", "--curl"),
        *("-d", "--data", "-F", "--form", "--json-body", "-x", "--proxy", "-U", "--proxy-user", "-k", "--insecure"),
        *("--pin", "-m", "--max-time", "--no-redirect", "-i", "--include", "--headers", "--json", "-o", "--output"),
        *("-C", "--continue", "-f", "--fail", "-v", "--trace", "--to-curl", "--quiet", "-s", "-c", "-L"),
    ):
        assert re.search(rf"^  (-[^ ].*)?{option}\b", shown, re.MULTILINE), option


# -- trace -------------------------------------------------------------------------------------------------------------

MS = r"\d+\.\d ms"


def test_trace_tells_of_every_hop_with_its_times(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.robots("User-agent: *\nDisallow:")
    site.redirect("/old", "/new?page=2", headers={"X-Hop": "first"})
    site.page("/new?page=2", "body" * 100, headers={"X-Hop": "second"})
    ended = fetch(f"{site.url}/old", "-v", "-d", "a=1")
    assert ended.out == b"body" * 100
    robots, first, second = re.split(r"(?m)^(?=\* request \d)", ended.err)[1:]
    assert robots.startswith(f"* request 1: GET {site.url}/robots.txt\n* connected in ")
    assert first.startswith(f"* request 2: POST {site.url}/old\n* over the open connection\n> POST /old HTTP/1.1\n")
    assert f"> Host: {site.host}\n" in first
    assert "> Content-Length: 3\n" in first
    assert "\n>\n* 3 bytes of body sent\n< HTTP/1.1 302 Found\n" in first
    assert "< X-Hop: first\n" in first
    assert second.startswith(f"* request 3: GET {site.url}/new?page=2\n")
    assert "> GET /new?page=2 HTTP/1.1\n" in second
    assert "< X-Hop: second\n" in second
    assert re.search(rf"<\n\* first byte {MS}, total {MS}; 400 bytes of body from 127\.0\.0\.1\n\Z", second)
    assert re.search(rf"\n\* connect {MS}, first byte {MS}, total {MS}; 23 bytes", robots)


def without_times(out: bytes) -> bytes:
    return re.sub(rb'"elapsed_seconds": [\d.]+|Date\W+[^"\n]+', b"", out)


def test_trace_goes_with_every_way_to_print(fetch: Callable[..., Ended], site: LocalSite) -> None:
    plain = {option: fetch(f"{site.url}/", *option.split()) for option in ("-I", "-i", "--json", "-o -", "-o file")}
    for option, expected in plain.items():
        traced = fetch(f"{site.url}/", *option.split(), "--trace")
        assert without_times(traced.out) == without_times(expected.out)
        assert "* request 2: " in traced.err


def test_trace_tells_of_names_and_tls(fetch: Callable[..., Ended], here: Path) -> None:
    with tls_server(here, SERVER) as server, in_thread(DnsServer()) as dns:
        dns.names["tls.test"] = [Address("127.0.0.2")]
        options = (*trusting(here), "-s", f"dns.nameservers={dns.nameserver}", *NO_ROBOTS)
        ended = fetch(f"https://tls.test:{server.port}/", "--trace", *options)
    assert ended.out == b"ok"
    expected = rf"""
        \* request 1: GET https://tls\.test:{server.port}/
        \* tls\.test resolved in {MS}
        \* connected in {MS}
        \* TLSv1\.\d, \w+, in {MS}
        \* certificate of tls\.test by throw-away authority, until 2120-01-01, {pin_of(SERVER)}
        > GET / HTTP/1\.1
    """
    lines = [line.strip() for line in expected.strip().splitlines()]
    assert re.match("\n".join(lines), ended.err), ended.err
    assert re.search(rf"\n\* DNS {MS}, connect {MS}, TLS {MS}, first byte {MS}, total {MS}; 2 bytes", ended.err)


def test_trace_shows_what_to_pin(fetch: Callable[..., Ended], here: Path) -> None:
    with tls_server(here, SELF_SIGNED) as server:
        ended = fetch(server.url, "-k", "--trace", *NO_ROBOTS)
        found = re.search(r"\* certificate not verified, (sha256:[0-9a-f]{64})\n", ended.err)
        assert found
        assert fetch(server.url, "--pin", found[1]).out == b"ok"


def test_trace_tells_of_proxies(fetch: Callable[..., Ended], here: Path, site: LocalSite) -> None:
    with in_thread(ProxyServer(auth=("me", SECRET))) as proxy, tls_server(here, SERVER) as server:
        plain = fetch(f"{site.url}/", "-x", proxy.url, "--trace", *NO_ROBOTS)
        tunnel = fetch(server.url, "-x", proxy.url_for(), "-U", f"me:{SECRET}", "--trace", *NO_ROBOTS, *trusting(here))
    assert (plain.out, tunnel.out) == (b"ok", b"ok")
    for ended in (plain, tunnel):
        assert f"* through the proxy {proxy.url_for()}\n" in ended.err
        assert SECRET not in ended.err
    assert f"> GET {site.url}/ HTTP/1.1\n" in plain.err
    assert "> Proxy-Authorization: ***\n" in plain.err
    assert "> GET / HTTP/1.1\n" in tunnel.err
    assert "* certificate of tls.test" in tunnel.err


def test_trace_tells_what_failed(fetch: Callable[..., Ended], here: Path, site: LocalSite) -> None:
    site.drop("/")
    dropped = fetch(f"{site.url}/", "--trace", "-s", "retry.times=1", "-s", "retry.base_seconds=0.001", *NO_ROBOTS)
    assert dropped.code == 1
    assert len(re.findall(rf"\* failed: the server hung up: .*\(disconnected\)\n\* .*total {MS}", dropped.err)) == 2
    with tls_server(here, SELF_SIGNED) as server:
        refused = fetch(server.url, "--trace", *NO_ROBOTS)
    assert refused.code == 1
    assert re.search(rf"\* connected in {MS}\n\* failed: certificate not accepted .*\(tls_\w+\)\n", refused.err)


def test_trace_tells_of_a_body_that_nobody_wanted(fetch: Callable[..., Ended]) -> None:
    with in_thread(RawServer(answer(b"half", status="404 Not Found", length=8))) as server:
        ended = fetch(server.url, "--trace", "--fail", "-o", "file", *NO_ROBOTS)
    assert ended.code == 1
    assert re.search(rf"\* connect {MS}, first byte {MS}, not read to its end; \d bytes", ended.err)


def test_trace_shows_no_secret(fetch: Callable[..., Ended], site: LocalSite) -> None:
    site.redirect("/", f"/next?page=1&access_token={SECRET}#id_token={SECRET}", headers={"Set-Cookie": f"a={SECRET}"})
    link = f"<{site.url}/?api_key={SECRET}>; rel=next, <http://me:{SECRET}@far.example/>; rel=prev"
    site.page(f"/next?page=1&access_token={SECRET}", headers={"X-Auth-Token": SECRET, "Link": link})
    options = (
        "-u",
        f"me:{SECRET}",
        "-b",
        f"b={SECRET}",
        "-H",
        f"X-Api-Key: {SECRET}",
        "-H",
        f"Referer: http://x/?pass={SECRET}",
    )
    ended = fetch(f"{site.url}/?password={SECRET}&q=a@b", *options, "--trace", "-s", "http.unsafe_cookies=true")
    assert ended.code == 0
    assert last(site).headers["Cookie"].count(SECRET) == 2
    assert SECRET not in ended.err
    for line in (
        f"* request 2: GET {site.url}/?password=***&q=a@b",
        "> GET /?password=***&q=a@b HTTP/1.1",
        *("> Authorization: ***", "> Cookie: ***", "> X-Api-Key: ***", "> Referer: http://x/?pass=***"),
        *("< Set-Cookie: ***", "< Location: /next?page=1&access_token=***#id_token=***"),
        *("> GET /next?page=1&access_token=*** HTTP/1.1", "< X-Auth-Token: ***"),
        f"< Link: <{site.url}/?api_key=***>; rel=next, <http://***@far.example/>; rel=prev",
    ):
        assert line in ended.err.splitlines()


# -- terminals ---------------------------------------------------------------------------------------------------------


def without_colours(shown: bytes) -> bytes:
    return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)


class Shown(NamedTuple):
    code: int
    raw: bytes

    @property
    def text(self) -> str:
        return without_colours(self.raw).decode()


@pytest.fixture
def on_terminal(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shown]:
    """`crawler fetch …` in this process, with a pseudo-terminal for one of its streams. `when` is a pattern and what
    to do when the terminal shows it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def run(stream: str, *arguments: str, when: tuple[bytes, Callable[[], None]] | None = None) -> Shown:
        ours, theirs = os.openpty()
        shown = bytearray()

        def look() -> None:
            with contextlib.suppress(OSError):  # EIO: the other side is closed
                while piece := os.read(ours, 65536):
                    shown.extend(piece)
                    if when is not None and re.search(when[0], without_colours(bytes(shown))):
                        when[1]()

        looking = threading.Thread(target=look)
        looking.start()
        try:
            with open(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
                patch.setattr(sys, stream, terminal)
                code = main(["fetch", *arguments])
        finally:
            looking.join(SECONDS)
            os.close(ours)
        return Shown(code, bytes(shown))

    return run


pty = pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")


@contextlib.contextmanager
def server_in_two_halves(*headers: str) -> Iterator[tuple[RawServer, threading.Event]]:
    """Sends a megabyte; the second half when the event is set."""
    go_on = threading.Event()

    async def halves(reader: Any, writer: Any) -> None:
        writer.write("\r\n".join(["HTTP/1.1 200 OK", "Connection: close", *headers, "", ""]).encode() + bytes(500_000))
        await writer.drain()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, SECONDS)
        writer.write(bytes(500_000))
        await writer.drain()

    try:
        with in_thread(RawServer(halves)) as server:
            yield server, go_on
    finally:
        go_on.set()


@pty
def test_on_a_terminal_a_bar_shows_bytes_rate_and_time(on_terminal: Callable[..., Shown]) -> None:
    with server_in_two_halves("Content-Length: 1000000") as (server, go_on):
        when = (rb"zeros\.bin .* 0\.5/1\.0 MB [\d.]+ [kM]B/s \d:", go_on.set)
        shown = on_terminal("stderr", server.url, "-o", "sub/zeros.bin", *NO_ROBOTS, when=when)
        assert go_on.is_set()
    assert shown.code == 0
    assert Path("sub/zeros.bin").stat().st_size == 1_000_000
    assert re.search(r"zeros\.bin \S+ 1\.0/1\.0 MB [\d.]+ [kMG]?B/s \d:\d\d:\d\d\Z", shown.text.strip())


@pty
def test_a_bar_of_unknown_length_counts(on_terminal: Callable[..., Shown]) -> None:
    with server_in_two_halves() as (server, go_on):
        when = (rb"zeros\.bin .* 500\.0/\? kB", go_on.set)
        shown = on_terminal("stderr", server.url, "-o", "zeros.bin", *NO_ROBOTS, when=when)
        assert go_on.is_set()
    assert shown.code == 0
    assert " 1.0/1.0 MB " in shown.text


@pty
def test_a_resumed_download_begins_its_bar_where_it_ended(
    fetch: Callable[..., Ended], on_terminal: Callable[..., Shown], site: LocalSite
) -> None:
    file = Broken()
    site.route("/big", file)
    assert fetch(f"{site.url}/big", "-o", "big.bin", "-C", *ONCE).code == 1
    file.ends_well = True
    shown = on_terminal("stderr", f"{site.url}/big", "-o", "big.bin", "-C")
    assert shown.code == 0
    assert file.starts[-1] > 0
    assert " 1.0/1.0 MB " in shown.text


@pty
def test_a_bar_goes_when_the_download_fails(on_terminal: Callable[..., Shown]) -> None:
    with in_thread(RawServer(answer(b"half", length=8))) as server:
        shown = on_terminal("stderr", server.url, "-o", "file", *NO_ROBOTS)
    assert shown.code == 1
    assert re.search(r"\ncrawler: .* \(body_truncated\)\r\n\Z", shown.text)
    assert shown.raw.count(b"\x1b[?25l") == shown.raw.count(b"\x1b[?25h") == 1, "the cursor is there again"


@pty
def test_quiet_draws_no_bar(on_terminal: Callable[..., Shown], site: LocalSite) -> None:
    assert on_terminal("stderr", f"{site.url}/", "-o", "file", "--quiet") == (0, b"")


@pty
def test_bar_and_trace_share_the_terminal_and_neither_lets_a_site_write_there(
    on_terminal: Callable[..., Shown],
) -> None:
    evil = answer(b"x" * 1000, "X-Evil: \x1b]0;owned\x07\x1b[7m", status="200 \x1b[5mOK")
    with in_thread(RawServer(evil)) as server:
        shown = on_terminal("stderr", server.url, "-o", "file", "--trace", *NO_ROBOTS)
    assert shown.code == 0
    assert "* request 1: " in shown.text
    assert " 1.0/1.0 kB " in shown.text
    assert b"\\x1b]0;owned\\x07\\x1b[7m" in shown.raw
    assert b"\\x1b[5mOK" in shown.raw
    for escape in (b"\x1b]0", b"\x1b[7m", b"\x1b[5m", b"\x07"):
        assert escape not in shown.raw


@pty
@pytest.mark.parametrize("options", [(), ("-i",), ("-I",), ("--json",), ("-i", "-o", "file")])
def test_what_is_printed_on_a_terminal_is_escaped(options: tuple[str, ...], on_terminal: Callable[..., Shown]) -> None:
    body = b"" if "-I" in options else b"\x1b[31mred"
    with in_thread(RawServer(answer(body, "X-Evil: \x1b[5m"))) as server:
        shown = on_terminal("stdout", server.url, *options, *NO_ROBOTS)
    assert shown.code == 0
    assert b"x1b[" in shown.raw or b"u001b[" in shown.raw
    assert b"\x1b" not in shown.raw


@pty
def test_o_with_a_dash_is_raw_even_on_a_terminal(on_terminal: Callable[..., Shown]) -> None:
    with in_thread(RawServer(answer(b"\x1b[31mred"))) as server:
        assert on_terminal("stdout", server.url, "-o", "-", *NO_ROBOTS) == (0, b"\x1b[31mred")
