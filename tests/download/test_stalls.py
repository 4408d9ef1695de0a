"""A callback that holds up the loop: the time is not the hosts' whose answers wait meanwhile, on whatever way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from crawler import Response, Spider
from crawler.testing import Authority, LocalSite, run_spider
from crawler.testing.raw import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LIMIT_SECONDS = 0.6
BLOCKED_SECONDS = 1.0
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "headers": {"headers": {"X-Own": "1"}},
    "post": {"method": "POST", "body": b"x"},
    "own timeout": {"timeout": LIMIT_SECONDS},
    "stream": {"stream": True},
}
HTTPS = ("plain", "headers")


class Gate:
    """What is to be slow: its requests arrive, and are answered when somebody has blocked the loop for a while."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.under_way = asyncio.Event()
        self.over = asyncio.Event()

    async def passes(self) -> None:
        self._expected -= 1
        if not self._expected:
            self.under_way.set()
        await self.over.wait()


class Blocking(Spider):
    """`/block` blocks once the requests for `slow` are under way, each on a way of its own."""

    name = "blocking"
    site = slow = ""
    ways: tuple[str, ...] = ()
    gate: Gate
    settings = {
        "politeness": {"obey_robots": False, "circuit_failures": 1, "concurrency_per_host": 9},
        "retry": {"times": 0},
    }

    async def start(self) -> Any:
        for way in self.ways:
            yield self.request(f"{self.slow}/{way}", **WAYS[way])
        yield self.request(f"{self.site}/block", self.block)

    async def block(self, response: Response) -> None:
        await self.gate.under_way.wait()
        time.sleep(BLOCKED_SECONDS)
        self.gate.over.set()

    async def parse(self, response: Response) -> Any:
        body = response.body if response.content is None else await response.content.read()
        yield {"text": body.decode()}


async def blocked(slow: str, gate: Gate, ways: tuple[str, ...], **settings: Any) -> Any:
    async with LocalSite("127.0.0.3") as site:
        site.page("/block", "ok")
        args = {"site": site.url, "slow": slow, "gate": gate, "ways": ways}
        return await run_spider(Blocking, args=args, settings=settings)


@pytest.mark.hostile("R-29")
@pytest.mark.parametrize("limit", ["read_seconds", "total_seconds"])
async def test_answers_that_waited_for_the_loop_are_no_time_outs(limit: str) -> None:
    gate = Gate(len(WAYS))

    async def slow(request: web.Request) -> web.Response:
        await gate.passes()
        return web.Response(text="at last")

    async with LocalSite("127.0.0.2") as site:
        site.route("*", slow)
        run = await blocked(site.url, gate, tuple(WAYS), http={limit: LIMIT_SECONDS})
    assert run.items == [{"text": "at last"}] * len(WAYS)
    assert (run.stats["errors"], run.stats["retries"], run.stats["failures"]) == (0, 0, {})


@contextlib.asynccontextmanager
async def late_handshakes(authority: Authority, gate: Gate) -> AsyncIterator[str]:
    """A TLS server that has a client wait for its handshake; its address."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.passes()
        with contextlib.suppress(OSError, EOFError):  # of a client that has left
            await writer.start_tls(authority.server("127.0.0.2"))
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(b"at last", "Content-Type: text/html", "Connection: close"))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.2", 0)
    async with server:
        yield f"https://127.0.0.2:{server.sockets[0].getsockname()[1]}"


@pytest.mark.hostile("R-29")
async def test_handshakes_that_waited_for_the_loop_are_no_time_outs(tmp_path: Path) -> None:
    authority, gate = Authority(), Gate(len(HTTPS))
    async with late_handshakes(authority, gate) as url:
        settings = {"http": {"connect_seconds": LIMIT_SECONDS}, "tls": {"ca_file": str(authority.save(tmp_path))}}
        run = await blocked(url, gate, HTTPS, **settings)
    assert run.items == [{"text": "at last"}] * len(HTTPS)
    assert (run.stats["errors"], run.stats["retries"], run.stats["failures"]) == (0, 0, {})


@pytest.mark.parametrize("limit", ["read_seconds", "total_seconds"])
async def test_a_host_that_does_not_answer_within_time_that_was_not_lost_is_one_all_the_same(limit: str) -> None:
    gate = Gate(2)

    async def never(request: web.Request) -> web.Response:
        await gate.passes()
        await asyncio.Event().wait()
        raise AssertionError

    async with LocalSite("127.0.0.2") as silent:
        silent.route("*", never)
        run = await blocked(silent.url, gate, ("plain", "headers"), http={limit: LIMIT_SECONDS})
    assert run.stats["failures"] == {limit.replace("seconds", "timeout"): 2}
