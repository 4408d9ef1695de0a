"""The hosts that a fleet crawls: a process of its own, `python benchmarks/fleet/farm.py JOURNAL PLAN` (JSON).

One listening socket for all of 127/8, so hosts are told apart by the address they are asked at. What there is (pages,
links, errors, delays) follows from the plan's seed, here as in whoever judges a crawl. The port is the first line of
standard output; the process ends when its standard input does.

A bare `asyncio.Protocol`, so that serving costs a tenth of what asking does.
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import os
import socket
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple, cast

from journal import ROBOTS, Hit, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Farm", "Plan", "address"]

_WAITING = 4096
"""Connections that the system holds until they are taken."""
_TICK_SECONDS = 0.002
_TURNS_OF_ACCEPTING = 2
"""From a connection's being there to its being read: its first request may have been there so much longer."""
_FAN = 16
"""Hosts that a host's first page links to."""
_ACROSS = 2
_FILLER = "<p>The harbour lies still and the lanterns along the quay are lit before the boats come home.</p>\n" * 8


class Plan(NamedTuple):
    """What a farm is. Seconds; shares are of pages, or of hosts where they say so."""

    hosts: int = 1000
    pages: int = 12
    """Of a host, about: half as many to one and a half times as many."""
    seed: str = "1"
    delay: float = 2.0
    """Asked for by the crawl's settings, for the judge."""
    latency: float = 0.15
    """The median of a log-normal distribution."""
    spread: float = 0.8
    """Of its logarithm."""
    longest: float = 3.0
    error_share: float = 0.02
    """Of pages whose first answer is 503."""
    wait_share: float = 0.01
    """Of pages whose first answer is 429, with `Retry-After`."""
    wait: int = 2
    crawl_delay_share: float = 0.1
    """Of hosts whose robots.txt asks for twice the delay."""

    def rng(self, *of: object) -> Random:
        return Random(f"{self.seed} {of}")

    def page_count(self, host: int) -> int:
        return self.rng("pages", host).randint(max(1, self.pages // 2), max(1, self.pages * 3 // 2))

    def crawl_delay(self, host: int) -> float:
        """What robots.txt asks for; 0: nothing."""
        return 2 * self.delay if self.rng("robots", host).random() < self.crawl_delay_share else 0.0

    def delay_of(self, host: str) -> float:
        return max(self.delay, self.crawl_delay(number(host)))

    def first_status(self, host: int, page: int) -> int:
        """Of the first answer that a page gives."""
        chance = self.rng("status", host, page).random()
        return 429 if chance < self.wait_share else 503 if chance < self.wait_share + self.error_share else 200

    def urls(self) -> Iterator[tuple[str, str]]:
        """All there is, robots.txt left out."""
        for host in range(self.hosts):
            for page in range(self.page_count(host)):
                yield address(host), f"/page/{page}"

    def links(self, host: int, page: int) -> Iterator[tuple[int, int]]:
        """(host, page): the first page links to all of its host, and a tree of first pages spans the hosts."""
        count = self.page_count(host)
        if not page:
            yield from ((host, other) for other in range(1, count))
            yield from ((other, 0) for other in range(host * _FAN + 1, min(self.hosts, host * _FAN + _FAN + 1)))
        else:
            yield from ((host, (page * 7 + step) % count) for step in (0, 1, 3))
        rng = self.rng("links", host, page)
        for _ in range(_ACROSS):
            other = rng.randrange(self.hosts)
            yield other, rng.randrange(self.page_count(other))


def address(host: int) -> str:
    """127.1.0.1 for the first."""
    return f"127.{1 + host // 62_500}.{host // 250 % 250}.{host % 250 + 1}"


def number(name: str) -> int:
    """Of the host with this address, whatever its port."""
    _, first, second, third = name.partition(":")[0].split(".")
    return (int(first) - 1) * 62_500 + int(second) * 250 + int(third) - 1


class Farm:
    def __init__(self, plan: Plan, journal: Path) -> None:
        self.plan = plan
        self.rng = plan.rng("latency")
        self.port = 0
        self.connections = 0
        self.asked: set[tuple[int, int]] = set()
        """(host, page) whose first answer was given."""
        self.ticks = collections.deque([0.0] * (_TURNS_OF_ACCEPTING + 2), _TURNS_OF_ACCEPTING + 2)
        """When the loop was seen to turn."""
        self._ended: list[Hit] = []
        self._file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._bodies: dict[tuple[int, int], bytes] = {}

    async def __aenter__(self) -> Farm:
        listening = socket.create_server(("0.0.0.0", 0), backlog=_WAITING)
        self.port = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=listening, backlog=_WAITING)
        self._tick()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ticking.cancel()
        self._server.close()
        self.write()
        os.close(self._file)

    def _tick(self) -> None:
        self.ticks.append(time.monotonic())
        self.write()
        self._ticking = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    def note(self, hit: Hit) -> None:
        """It has ended."""
        hit.ended = time.monotonic()
        self._ended.append(hit)

    def write(self) -> None:
        if self._ended:
            ended, self._ended = self._ended, []
            os.write(self._file, b"".join(map(encode, ended)))

    def latency(self) -> float:
        plan = self.plan
        return min(plan.longest, self.rng.lognormvariate(math.log(plan.latency), plan.spread)) if plan.latency else 0.0

    def robots(self, host: int) -> bytes:
        delay = self.plan.crawl_delay(host)
        return f"User-agent: *\n{f'Crawl-delay: {delay:g}' if delay else 'Allow: /'}\n".encode()

    def body(self, host: int, page: int) -> bytes:
        if (host, page) not in self._bodies:
            links = "".join(
                f'<a href="/page/{other_page}">x</a>\n' if other == host
                else f'<a href="http://{address(other)}:{self.port}/page/{other_page}">x</a>\n'
                for other, other_page in self.plan.links(host, page)
            )  # fmt: skip
            self._bodies[host, page] = f"<h1>{page}</h1>\n{links}{_FILLER}".encode()
        return self._bodies[host, page]


class _Connection(asyncio.Protocol):
    """Requests without bodies, one after the other; kept open until the other end closes it."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._read = b""
        self._hit: Hit | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._farm.connections += 1
        self._number = self._farm.connections
        self._after: float | None = self._farm.ticks[0]
        self._host = transport.get_extra_info("sockname")[0]
        self._worker = transport.get_extra_info("peername")[0]

    def connection_lost(self, error: Exception | None) -> None:
        if self._hit is not None:
            self._end(0)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            path = self._read[:end].split(b" ", 2)[1].decode("latin-1")
            self._read = self._read[end + 4 :]
            after, self._after = self._after or self._farm.ticks[-2], None
            self._answer(Hit(self._host, path, time.monotonic(), after, self._worker, self._number))

    def _answer(self, hit: Hit) -> None:
        self._hit = hit
        farm, host = self._farm, number(hit.host)
        if hit.path == ROBOTS:
            self._later(farm.latency(), lambda: self._send(200, farm.robots(host)))
            return
        page = int(hit.path.rpartition("/")[2])
        status = 200 if (host, page) in farm.asked else farm.plan.first_status(host, page)
        farm.asked.add((host, page))
        if status == 429:
            hit.wait = farm.plan.wait
            self._later(farm.latency(), lambda: self._send(429, b"", f"Retry-After: {farm.plan.wait}\r\n"))
        else:
            self._later(farm.latency(), lambda: self._send(status, farm.body(host, page) if status == 200 else b""))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if seconds:
            asyncio.get_running_loop().call_later(seconds, call)
        else:
            call()

    def _send(self, status: int, body: bytes, fields: str = "") -> None:
        if self._hit is None or self._transport.is_closing():
            return
        kind = "text/plain" if self._hit.path == ROBOTS else "text/html; charset=utf-8"
        head = f"HTTP/1.1 {status} -\r\n{fields}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._end(status)

    def _end(self, status: int) -> None:
        hit, self._hit = self._hit, None
        assert hit is not None
        hit.status = status
        self._farm.note(hit)


async def _serve(plan: Plan, journal: Path) -> None:
    async with Farm(plan, journal) as farm:
        print(farm.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(_serve(Plan(**json.loads(sys.argv[2])), Path(sys.argv[1])))
