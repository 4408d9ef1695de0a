"""Links that would write into a request: one well-formed request goes out, or none, and the journal has every byte."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import pytest
from fetching import WAYS, downloader

from crawler import Request, Response, Spider
from crawler.errors import BlockedError
from crawler.testing import run_spider
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

EVIL = "\r\nX-Evil: 1\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n"
INSIDES = ["\r", "\n", "\r\n", "\0", "\t", " ", "\x0b", "\x7f", "\x85", "\u2028", "\u010a", EVIL]
"""The last but one is `Ċ`, whose low byte is a line feed."""
PARTS = [
    "http://127.0.0.2:{port}/path{x}behind",
    "http://127.0.0.2:{port}/{x}",
    "http://127.0.0.2:{port}/a?query={x}behind",
    "http://127.0.0.2:{port}/a#fragment{x}behind",
    "http://127.0.{x}0.2:{port}/host",
    "http://127.0.0.2{x}:{port}/host",
    "http://127.0.0.2:{port}{x}/port",
    "http://127.0.0.2:{x}{port}/port",
    "http://user{x}:password@127.0.0.2:{port}/user",
    "http://user:password{x}@127.0.0.2:{port}/password",
    "ht{x}tp://127.0.0.2:{port}/scheme",
    "{x}http://127.0.0.2:{port}/before",
    "//127.0.0.2:{port}/{x}relative",
    "relative{x}behind",
    "?{x}",
]
WELL_FORMED = re.compile(
    rb"GET /[!-~]* HTTP/1\.1\r\nHost: 127\.0\.0\.2:\d+\r\n"
    rb"(?:(?:User-Agent|Accept|Accept-Encoding|Referer|Authorization): [ -~]+\r\n)+\r\n"
)


class Following(Spider):
    name = "following"
    url = ""

    async def start(self) -> AsyncIterator[Request]:
        yield self.request(self.url)

    def parse(self, response: Response) -> Any:
        yield from response.follow_all(css="a")
        yield {"url": response.url}


@pytest.mark.hostile("S30")
async def test_a_link_is_one_well_formed_request_or_none() -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(page if server.requests[-1].startswith(b"GET / ") else b"ok", "Content-Type: text/html"))

    async with RawServer(script) as server:
        links = [part.format(x=inside, port=server.port) for part in PARTS for inside in INSIDES]
        links += [re.sub("[^!-~]", lambda found: f"%{ord(found[0]) & 255:02X}", link) for link in links]
        page = "".join(f'<a href="{html.escape(link)}">' for link in links).encode()
        settings = {"politeness": {"obey_robots": False, "concurrency_per_host": 8}, "retry": {"times": 0}}
        run = await run_spider(Following, args={"url": server.url}, settings=settings)
    assert 50 < len(server.requests) == len(run.items) <= len(links) + 1
    for head in server.requests:
        assert WELL_FORMED.fullmatch(head), head
        assert b"X-Evil" not in head.partition(b"\r\n")[2]
    assert not any(head.startswith(b"GET /evil") for head in server.requests)


@pytest.mark.hostile("S30")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", ["\r\n", "\n", "\0", " ", "\t", EVIL])
async def test_a_url_that_is_sent_as_it_is_written_is_well_formed_or_not_sent(way: str, inside: str) -> None:
    sent = 0
    async with RawServer(answer(b"ok")) as server, downloader() as client:
        for part in PARTS[:4]:
            try:
                url = part.format(x=inside, port=server.port)
                async with await client.fetch(Request(url, encoded=True, **WAYS[way])):
                    sent += 1
            except (BlockedError, ValueError):
                continue
    assert len(server.requests) == sent
    for head in server.requests:
        assert re.match(rb"GET /[!-~]* HTTP/1\.1\r\n", head), head
        assert b"X-Evil" not in head.partition(b"\r\n")[2]


@pytest.mark.hostile("S30")
@pytest.mark.parametrize("inside", ["\r\n", "\r", "\n", "\0"])
async def test_what_the_users_own_code_would_write_into_a_request_is_refused(inside: str) -> None:
    evil = f"a{inside}X-Evil: 1"
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Request("http://a.test/", headers={"X-Own": evil})
    with pytest.raises(ValueError, match="not a header name"):
        Request("http://a.test/", headers={evil: "1"})
    with pytest.raises(ValueError, match="not an HTTP method"):
        Request("http://a.test/", method=f"GET / HTTP/1.1{inside}X-Evil: 1")
    async with RawServer(answer(b"ok")) as server, downloader() as client:
        for way in WAYS:
            for cookies in ({"name": evil}, {evil: "value"}):
                try:
                    async with await client.fetch(Request(server.url, cookies=cookies, **WAYS[way])):
                        pass
                except (BlockedError, ValueError):
                    continue
    for head in server.requests:
        assert b"X-Evil: 1" not in head.split(b"\r\n")
        assert b"\0" not in head
        assert b"\n" not in head.replace(b"\r\n", b"")
