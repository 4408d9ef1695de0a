"""What `Trace` tells of requests over a plain aiohttp session. The command that shows it: test_cli_fetch."""

from __future__ import annotations

import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from certificates import AUTHORITY, SERVER, server_context
from proxy_server import ProxyServer

from crawler.download.trace import Trace
from crawler.testing import LocalSite
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MS = r"\d+\.\d ms"


@contextlib.asynccontextmanager
async def traced(**options: Any) -> AsyncIterator[tuple[aiohttp.ClientSession, list[str]]]:
    lines: list[str] = []
    with Trace(lines.append) as trace:
        async with aiohttp.ClientSession(trace_configs=[trace.config], **options) as session:
            yield session, lines


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=AUTHORITY)


async def test_the_head_is_told_as_it_was_sent_and_as_it_came() -> None:
    async with (
        LocalSite() as site,
        traced(headers={"User-Agent": "me"}, skip_auto_headers=["Accept"]) as (session, lines),
    ):
        site.page("/page?q=1", "body", headers={"Set-Cookie": "a=secret"})
        async with session.put(f"{site.url}/page?q=1", data=b"12345") as response:
            await response.read()
    request = [line for line in lines if line.startswith(">")]
    assert request[:2] == ["> PUT /page?q=1 HTTP/1.1", f"> Host: {site.host}"]
    assert "> User-Agent: me" in request
    assert "> Content-Length: 5" in request
    assert request[-1] == ">"
    assert "* 5 bytes of body sent" in lines
    came = [line for line in lines if line.startswith("<")]
    assert came[0] == "< HTTP/1.1 200 OK"
    assert "< Set-Cookie: ***" in came
    assert came[-1] == "<"


async def test_times_are_those_of_the_clock() -> None:
    now = [0.0]
    lines: list[str] = []

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    trace = Trace(lines.append, clock)
    async with LocalSite() as site, aiohttp.ClientSession(trace_configs=[trace.config]) as session:
        site.page("/", "body")
        async with session.get(site.url) as response:
            await response.read()
    # Looked at when it begins, when connecting begins and ends, when the answer comes, and at its end.
    assert lines[-1] == "* connect 1000.0 ms, first byte 3000.0 ms, total 4000.0 ms; 4 bytes of body"


async def test_tls_is_told_apart_from_the_connection(tmp_path: Path) -> None:
    async with (
        RawServer(answer(b"ok"), tls=server_context(tmp_path, SERVER)) as server,
        traced() as (session, lines),
        session.get(server.url, ssl=trusting()) as response,
    ):
        assert await response.read() == b"ok"
    assert len([line for line in lines if re.fullmatch(rf"\* TLSv1\.\d, \w+, in {MS}", line)]) == 1, "ours alone"
    assert re.fullmatch(rf"\* connect {MS}, TLS {MS}, first byte {MS}, total {MS}; 2 bytes of body", lines[-1])


async def test_a_proxy_is_named_where_the_session_knows_it_and_its_tunnel_counts_as_connecting(tmp_path: Path) -> None:
    async with (
        RawServer(answer(b"ok"), tls=server_context(tmp_path, SERVER)) as server,
        ProxyServer() as proxy,
        traced() as (session, lines),
    ):
        given = proxy.url.replace("://", "://me:secret@")
        async with session.get(server.url, ssl=trusting(), proxy=proxy.url, trace_request_ctx=given) as response:
            await response.read()
    assert lines[1] == "* through the proxy " + proxy.url.replace("://", "://***@")
    assert "> GET / HTTP/1.1" in lines
    assert re.search(f"^\\* connect {MS}, TLS {MS}, ", lines[-1])
    assert "secret" not in "\n".join(lines)


async def test_tls_to_the_proxy_and_tls_within_are_two_handshakes(tmp_path: Path) -> None:
    async with (
        RawServer(answer(b"ok"), tls=server_context(tmp_path, SERVER)) as server,
        ProxyServer(tls=server_context(tmp_path, SERVER)) as proxy,
        traced() as (session, lines),
        session.get(server.url, ssl=trusting(), proxy=proxy.url) as response,
    ):
        await response.read()
    assert len([line for line in lines if line.startswith("* certificate of tls.test by throw-away authority")]) == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_connection_is_told_with_its_reason(scheme: str) -> None:
    async with RawServer() as server:
        port = server.port
    async with traced() as (session, lines):
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{scheme}://127.0.0.2:{port}/?token=secret")
    assert lines[0] == f"* request 1: GET {scheme}://127.0.0.2:{port}/?token=***"
    assert re.fullmatch(r"\* failed: connection refused \(.*\): http.*\?token=\*\*\* \(connect_refused\)", lines[1])
    assert re.fullmatch(rf"\* total {MS}", lines[2])


async def test_an_answer_that_is_left_is_told_as_such() -> None:
    async with (
        RawServer(answer(b"half", length=8)) as server,
        traced() as (session, lines),
        session.get(server.url) as response,
    ):
        response.close()
    assert re.search(r"not read to its end; \d bytes of body$", lines[-1])


async def test_what_python_makes_handshakes_with_is_put_back() -> None:
    plain = ssl.SSLContext.sslobject_class
    with contextlib.suppress(RuntimeError), Trace(lambda line: None):
        assert ssl.SSLContext.sslobject_class is not plain
        raise RuntimeError
    assert ssl.SSLContext.sslobject_class is plain


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://me:secret@far.example/a@b?x=1", "http://***@far.example/a@b?x=1"),
        ("/next?a=1&Access_Token=secret&b=%20", "/next?a=1&Access_Token=***&b=%20"),
        ("/cb#id_token=secret&state=1", "/cb#id_token=***&state=1"),
        (
            "<http://x/?api-key=secret>; rel=next, </b?password=secret>",
            "<http://x/?api-key=***>; rel=next, </b?password=***>",
        ),
        ("5; url='/?session=secret'", "5; url='/?session=***'"),
        ("text/html; charset=utf-8", "text/html; charset=utf-8"),
        ("me@far.example", "me@far.example"),
    ],
)
async def test_secrets_in_values_are_hidden_and_the_rest_is_not(value: str, shown: str) -> None:
    async with (
        LocalSite() as site,
        traced(headers={"X-Value": value}) as (session, lines),
        session.get(site.url) as response,
    ):
        await response.read()
    assert f"> X-Value: {shown}" in lines
