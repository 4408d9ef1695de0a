"""Sites fail. A `LocalSite` with a `Chaos` does, in the ways of the hostile and the broken web, as its seed says.

A fault hits the first request or requests of a path; then the path answers as it was told. So a crawl that tries again
brings home every page, and a test can say so:

    async with LocalSite(chaos=Chaos(0.3, seed=1)) as site:
        ...
        result = await run_spider(MySpider, args={"site": site.url}, settings={"retry": {"times": 5}})
    assert len(result.items) == 100
"""

from __future__ import annotations

import asyncio
import gzip
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from asyncio import Transport

__all__ = ["Chaos"]


class Chaos:
    """Which requests of a site fail, and how.

    `rate`: the share of paths that fail at first, `times` times each; which ones, and how each time, follows from
    `seed` and the path alone. `kinds`: some of `Chaos.KINDS`, all of them unless given. `/robots.txt` is spared unless
    `robots`. `counts` says how often each kind was met.
    """

    KINDS: tuple[str, ...]

    def __init__(
        self, rate: float, *, seed: int = 0, times: int = 1, kinds: Iterable[str] = (), robots: bool = False
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._rate = rate
        self._seed = seed
        self._times = times
        self._kinds = tuple(kinds) or self.KINDS
        self._robots = robots
        self._met: Counter[str] = Counter()
        if unknown := set(self._kinds) - set(_FAULTS):
            raise ValueError(f"no such kind of chaos: {', '.join(sorted(unknown))}; there are {', '.join(_FAULTS)}")

    def fault(self, path: str) -> Fault | None:
        """What befalls the next request of this path; None: nothing."""
        if path == "/robots.txt" and not self._robots:
            return None
        if self._met[path] >= self._times or random.Random(f"{self._seed} {path}").random() >= self._rate:
            return None
        kind = random.Random(f"{self._seed} {path} {self._met[path]}").choice(self._kinds)
        self._met[path] += 1
        self.counts[kind] += 1
        return _FAULTS[kind]


Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PAGE = b"<html><body>" + b"<p>half a page</p>" * 50


def _raw(head: str, body: bytes = b"", *, reset: bool = False) -> Fault:
    """These bytes instead of an answer, and the end of the connection."""

    async def fault(request: web.Request) -> web.StreamResponse:
        transport: Transport | None = request.transport
        if transport is not None:
            transport.write(head.replace("\n", "\r\n").encode("latin-1") + body)
            if reset:
                transport.abort()
            else:
                transport.close()
        return web.Response()

    return fault


def _status(status: int, **headers: str) -> Fault:
    async def fault(request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, headers=named, text="try again")

    return fault


async def _slow(request: web.Request) -> web.StreamResponse:
    """Half of it, and the rest when the client has long left."""
    response = web.StreamResponse(headers={"Content-Length": str(2 * len(_PAGE)), "Content-Type": "text/html"})
    await response.prepare(request)
    await response.write(_PAGE)
    await asyncio.sleep(3600)
    return response


_OK = "HTTP/1.1 200 OK\nContent-Type: text/html\n"
_FAULTS: dict[str, Fault] = {
    "reset": _raw("", reset=True),
    "hang_up": _raw(""),
    "cut_head": _raw("HTTP/1.1 200 O"),
    "cut_body": _raw(f"{_OK}Content-Length: 100000\n\n", _PAGE),
    "cut_chunk": _raw(f"{_OK}Transfer-Encoding: chunked\n\nffff\n", _PAGE),
    "cut_gzip": _raw(f"{_OK}Content-Encoding: gzip\nContent-Length: 60\n\n", gzip.compress(_PAGE * 50, mtime=0)[:60]),
    "garbage": _raw("SSH-2.0-OpenSSH_9.2\n"),
    "too_many_headers": _raw("HTTP/1.1 200 OK\n" + "X-Flood: 1\n" * 1000 + "\n"),
    "status_500": _status(500),
    "status_502": _status(502),
    "status_503": _status(503, Retry_After="0"),
    "status_429": _status(429),
    "slow": _slow,
}
Chaos.KINDS = tuple(kind for kind in _FAULTS if kind != "slow")
"""All but `slow`, which waits until the client gives up: name it, with a short `http.read_seconds`."""
