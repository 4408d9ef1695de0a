"""Serves `growth_site.Site` and counts connections: `growth_server.py QUEUE HOSTS`, until its standard input ends.

Prints the port first. `/connections` tells how many were opened so far; robots.txt is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, cast

from growth_site import Site

if TYPE_CHECKING:
    from collections.abc import Callable

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_WAITING = 4096
"""Connections that the system holds until they are taken."""


class _Served:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.connections = 0


class _Connection(asyncio.Protocol):
    """Requests without bodies, one after the other; kept open until the other end closes it."""

    def __init__(self, served: _Served) -> None:
        self._served = served
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._served.connections += 1

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head, self._read = self._read[:end], self._read[end + 4 :]
            self._transport.write(self._answer(head.decode("latin-1")))

    def _answer(self, head: str) -> bytes:
        first, *fields = head.split("\r\n")
        path = first.split(" ", 2)[1]
        if path == "/connections":
            return _ok(b"%d" % self._served.connections)
        host = next(field[5:].strip() for field in fields if field[:5].lower() == "host:")
        body = self._served.site.page_at(host, path)
        return _NOT_FOUND if body is None else _ok(body)


def _ok(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


async def serve(queue: int, hosts: int) -> None:
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("0.0.0.0", 0), backlog=_WAITING)
    served = _Served(Site(queue, hosts, listening.getsockname()[1]))
    await loop.create_server(lambda: _Connection(served), sock=listening, backlog=_WAITING)
    print(served.site.port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(int(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    main()
