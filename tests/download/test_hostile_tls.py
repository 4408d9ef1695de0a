"""TLS that fails, and TLS that is cut: named reasons, within the time for connecting, and never half a page."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from certificates import AUTHORITY, SERVER, server_context
from fetching import WAYS, downloader, outcome

from crawler import Request
from crawler.errors import FetchError
from crawler.testing.raw import RawServer, answer, hang

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.testing.raw import Script

OPEN_END = b"HTTP/1.1 200 OK\r\n\r\nhello"


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "authority.pem").write_text(AUTHORITY)
    return {"ca_file": str(tmp_path / "authority.pem")}


async def cuts(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """The connection, at the first byte of the handshake."""
    await reader.read(1)


@pytest.mark.hostile("R-23")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("script", "reason", "retryable"),
    [
        (cuts, ("tls", "connect_reset"), True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ("tls",), False),
        (b"SSH-2.0-OpenSSH_9\r\n", ("tls",), False),
        (b"\x15\x03\x03\x00\x02\x02\x46", ("tls_version",), False),
        (hang(), ("connect_timeout",), True),
        (hang(b"\x16\x03\x03"), ("connect_timeout",), True),
    ],
    ids=["cut", "plain HTTP", "SSH", "no common version", "silent", "slow"],
)
async def test_a_handshake_that_fails_has_a_reason(
    way: str, script: Script, reason: tuple[str, ...], retryable: bool
) -> None:
    async with RawServer(script, waits=False) as server, downloader(http={"connect_seconds": 0.3}) as client:
        with pytest.raises(FetchError) as caught:
            await client.fetch(Request(server.url.replace("http:", "https:"), **WAYS[way]))
    assert caught.value.reason in reason
    assert caught.value.retryable == retryable


async def says_goodbye(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """And closes: asyncio sends a close_notify."""
    writer.write(OPEN_END)


async def leaves(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends the connection below TLS, as anybody on the way could."""
    writer.write(OPEN_END)
    await writer.drain()
    writer.transport.get_extra_info("socket").shutdown(1)
    await asyncio.Event().wait()


async def leaves_after_the_length(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b"hello"))
    await writer.drain()
    writer.transport.get_extra_info("socket").shutdown(1)
    await asyncio.Event().wait()


@pytest.mark.hostile("R-23")
@pytest.mark.parametrize("way", WAYS)
async def test_a_body_without_a_length_is_whole_only_when_tls_says_so(
    way: str, tls: dict[str, str], tmp_path: Path
) -> None:
    found = []
    for script in (says_goodbye, leaves, leaves_after_the_length):
        async with RawServer(script, tls=server_context(tmp_path, SERVER)) as server, downloader(tls=tls) as client:
            async with asyncio.timeout(20):
                found.append(await outcome(client, server.url, way))
    assert found == ["200 hello", "body_truncated", "200 hello"]


@pytest.mark.hostile("S32")
@pytest.mark.parametrize("way", WAYS)
async def test_what_one_host_is_forgiven_is_not_anothers_and_no_connection_is_shared(way: str, tmp_path: Path) -> None:
    """Both at one address, with one certificate that nobody here knows."""
    settings = {
        "tls": {"unverified_hosts": ["a.test"]},
        "dns": {"hosts": dict.fromkeys(("a.test", "b.test"), "127.0.0.2")},
    }
    context = server_context(tmp_path, SERVER)
    async with RawServer(answer(b"hello"), tls=context, keep_alive=True) as server, downloader(**settings) as client:
        for _ in range(2):
            assert await outcome(client, f"https://a.test:{server.port}/", way) == "200 hello"
            assert await outcome(client, f"https://b.test:{server.port}/", way) == "tls_untrusted"
        assert {head.split(b"Host: ")[1].split(b":")[0] for head in server.requests} == {b"a.test"}
