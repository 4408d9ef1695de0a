"""The hosts that `politeness.py` has crawled, in the benchmark's own process: each has an address of its own in 127/8
and a script of what it does, and every request to any of them is a line of the journal.

A bare `asyncio.Protocol`, so that serving costs a tenth of what asking does. A request arrives when its head has been
read, and ends when the last byte of the answer was handed to the system, or the connection was lost before.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from random import Random
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["KINDS", "Hit", "Journal", "Script", "Site", "address"]

KINDS = ("plain", "hops", "inline", "files", "crawl-delay", "robots-hop", "wait-seconds", "wait-date", "errors")
FILE_BYTES = 240_000
FILE_SECONDS = 0.3
"""How long a file takes, in `_PIECES` pieces."""
_PIECES = 6
_WAITING = 4096
"""Connections that the system holds until they are taken."""
_ERRORS = (500, 502, 503, 504)
_ASKS = (3, 6)
"""Pages whose first answer asks to be left alone for a while."""
_TICK_SECONDS = 0.002
_FILLER = "<p>The harbour lies still and the lanterns along the quay are lit before the boats come home.</p>\n" * 10


class Script(NamedTuple):
    """What a host does. Seconds."""

    kind: str = "plain"
    pages: int = 20
    latency: tuple[float, float] = (0.02, 0.25)
    """At least and at most; in between at random."""
    crawl_delay: float = 0.4
    """Of the kind `crawl-delay`."""
    wait: int = 3
    """For how long the kinds `wait-...` ask."""
    error_share: float = 0.3
    """Of the kind `errors`."""


class Hit:
    """One request. Times are of `time.monotonic`."""

    __slots__ = ("after", "arrived", "ended", "host", "kind", "path", "status", "wait_until")

    def __init__(self, host: int, path: str, after: float) -> None:
        self.host = host
        self.after = after
        """It came after this: then everything that was there had been read."""
        self.path = path
        self.kind = path[1:].partition("/")[0] or "page"
        """`page`, `hop`, `inline`, `file`, `robots.txt`, `moved` (a robots.txt that another one redirects to)."""
        self.arrived = time.monotonic()
        self.ended: float | None = None
        self.status = 0
        """0: the connection was lost before the answer."""
        self.wait_until = 0.0
        """When what `Retry-After` asked for is over; 0: it did not."""

    def __repr__(self) -> str:
        return f"{address(self.host)}{self.path} {self.status}"


class Journal:
    """All requests in the order of their arrival, over all processes that asked."""

    def __init__(self) -> None:
        self.hits: list[Hit] = []
        self.deaths: list[float] = []
        """When a crawl was killed."""
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def note(self, hit: Hit) -> None:
        self.hits.append(hit)
        for count, event in self._waiting:
            if len(self.hits) >= count:
                event.set()

    async def reached(self, count: int) -> None:
        """Until that many requests have come."""
        event = asyncio.Event()
        self._waiting.append((count, event))
        if len(self.hits) < count:
            await event.wait()
        self._waiting.remove((count, event))


def address(host: int) -> str:
    """127.0.0.2 for the first."""
    return f"127.0.{(host + 2) // 256}.{(host + 2) % 256}"


class Site:
    """`async with Site(scripts, seed) as site`: a host for each script, all at `site.port`."""

    def __init__(self, scripts: Sequence[Script], seed: object) -> None:
        self.scripts = list(scripts)
        self.journal = Journal()
        self.port = 0
        self.rng = Random(f"politeness {seed}")
        self.asked: set[tuple[int, int]] = set()
        """(host, page) where somebody was told to wait already."""
        self.ticks = (0.0, 0.0)
        """When the loop was seen to turn, the time before last and last."""
        self._bodies: dict[tuple[str, int, int], bytes] = {}

    async def __aenter__(self) -> Site:
        listening = socket.create_server(("0.0.0.0", 0), backlog=_WAITING)
        self.port = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=listening, backlog=_WAITING)
        self._tick()
        return self

    def _tick(self) -> None:
        self.ticks = self.ticks[1], time.monotonic()
        self._ticking = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    async def __aexit__(self, *exc: object) -> None:
        self._ticking.cancel()
        self._server.close()

    def paths(self, host: int) -> set[str]:
        """What a whole crawl must have got there, robots.txt left out."""
        script = self.scripts[host]
        numbers = range(script.pages)
        found = {f"/page/{number}" for number in numbers}
        extra = {"hops": "hop", "inline": "inline", "files": "file"}.get(script.kind)
        return found | {f"/{extra}/{number}" for number in numbers if extra and _is_special(number)}

    def body(self, script: Script, number: int) -> bytes:
        """The page: the first links to all, the others to four."""
        key = (script.kind, script.pages, number)
        if key not in self._bodies:
            self._bodies[key] = self._make_body(script, number)
        return self._bodies[key]

    def _make_body(self, script: Script, number: int) -> bytes:
        count = script.pages
        targets = range(1, count) if not number else sorted({(number * 7 + step) % count for step in (1, 3, 5, 9)})
        links = [_link(script.kind, target) for target in targets]
        inline = f'<i title="/inline/{number}"></i>' if script.kind == "inline" and _is_special(number) else ""
        return f"<h1>{number}</h1>\n{inline}{''.join(links)}\n{_FILLER}".encode()


def _is_special(number: int) -> bool:
    return number % 4 == 1


def _link(kind: str, number: int) -> str:
    """A page behind a redirect is linked by that; a file stands beside its page."""
    if kind == "hops" and _is_special(number):
        return f'<a href="/hop/{number}">{number}</a>\n'
    beside = f'<a class="file" href="/file/{number}">file</a>\n' if kind == "files" and _is_special(number) else ""
    return f'<a href="/page/{number}">{number}</a>\n{beside}'


class _Connection(asyncio.Protocol):
    """Requests without bodies, one after the other; kept open until the other end closes it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._read = b""
        self._hit: Hit | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def connection_lost(self, error: Exception | None) -> None:
        if self._hit is not None and self._hit.ended is None:
            self._hit.ended, self._hit.status = time.monotonic(), 0

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head, self._read = self._read[:end].decode("latin-1"), self._read[end + 4 :]
            first, *fields = head.split("\r\n")
            name = next(field[5:].strip() for field in fields if field[:5].lower() == "host:")
            third, fourth = name.partition(":")[0].split(".")[2:]
            self._answer(Hit(int(third) * 256 + int(fourth) - 2, first.split(" ", 2)[1], self._site.ticks[0]))

    def _answer(self, hit: Hit) -> None:
        self._hit = hit
        script = self._site.scripts[hit.host]
        self._site.journal.note(hit)
        if hit.kind in {"robots.txt", "moved"}:
            self._later(script.latency[0], lambda: self._robots(hit, script))
            return
        seconds = self._site.rng.uniform(*script.latency)
        number = int(hit.path.rpartition("/")[2])
        self._later(seconds, lambda: self._page(hit, script, number))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if seconds:
            asyncio.get_running_loop().call_later(seconds, call)
        else:
            call()

    def _robots(self, hit: Hit, script: Script) -> None:
        if script.kind == "robots-hop" and hit.kind == "robots.txt":
            self._send(hit, 301, b"", "Location: /moved/robots.txt\r\n")
            return
        delay = f"Crawl-delay: {script.crawl_delay:g}\n" if script.kind == "crawl-delay" else ""
        self._send(hit, 200, f"User-agent: *\n{delay}Allow: /\n".encode(), "Content-Type: text/plain\r\n")

    def _page(self, hit: Hit, script: Script, number: int) -> None:
        if self._transport.is_closing():
            return
        if hit.kind == "hop":
            self._send(hit, 302, b"", f"Location: /page/{number}\r\n")
        elif hit.kind == "file":
            self._begin(hit, 200, FILE_BYTES, "Content-Type: application/octet-stream\r\n")
            self._piece(hit, _PIECES)
        elif script.kind == "errors" and self._site.rng.random() < script.error_share:
            self._send(hit, self._site.rng.choice(_ERRORS), b"")
        elif self._is_told_to_wait(hit.host, script, number):
            self._ask_to_wait(hit, script)
        else:
            self._send(hit, 200, self._site.body(script, number), "Content-Type: text/html; charset=utf-8\r\n")

    def _is_told_to_wait(self, host: int, script: Script, number: int) -> bool:
        if not script.kind.startswith("wait-") or number not in _ASKS or (host, number) in self._site.asked:
            return False
        self._site.asked.add((host, number))
        return True

    def _ask_to_wait(self, hit: Hit, script: Script) -> None:
        if script.kind == "wait-seconds":
            self._send(hit, 429, b"", f"Retry-After: {script.wait}\r\n")
            seconds = float(script.wait)
        else:  # a date has no fractions
            until = int(time.time()) + script.wait
            seconds = until - time.time()
            self._send(hit, 503, b"", f"Retry-After: {email.utils.formatdate(until, usegmt=True)}\r\n")
        hit.wait_until = time.monotonic() + seconds

    def _send(self, hit: Hit, status: int, body: bytes, fields: str = "") -> None:
        if not self._transport.is_closing():
            self._begin(hit, status, len(body), fields, body)
            hit.ended = time.monotonic()

    def _begin(self, hit: Hit, status: int, length: int, fields: str, body: bytes = b"") -> None:
        hit.status = status
        self._transport.write(f"HTTP/1.1 {status} -\r\n{fields}Content-Length: {length}\r\n\r\n".encode() + body)

    def _piece(self, hit: Hit, left: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(bytes(FILE_BYTES // _PIECES))
        if left > 1:
            self._later(FILE_SECONDS / _PIECES, lambda: self._piece(hit, left - 1))
        else:
            hit.ended = time.monotonic()
