"""The scripted server: answers that are ready in memory, given one at a time when told so.

It knows which request the crawl has reached. While the window is counted it answers one request only when all the
others that the crawl makes at a time are there too: the crawl then waits for exactly this answer, whatever the
machine's speed, so each run takes the same way through the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"


class Script:
    """What is asked and not answered yet. robots.txt is answered at once."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self.answered = 0
        self.unknown: list[str] = []
        self._answers = answers
        self._waiting: deque[tuple[asyncio.Transport, bytes]] = deque()
        self._arrived = asyncio.Event()

    def ask(self, transport: asyncio.Transport, path: str) -> None:
        answer = self._answers.get(path, _NOT_FOUND)
        if answer is _NOT_FOUND:
            self.unknown.append(path)
        if path == "/robots.txt":
            transport.write(answer)
            return
        self._waiting.append((transport, answer))
        self._arrived.set()

    async def held(self, count: int) -> None:
        """Until that many requests wait."""
        while len(self._waiting) < count:
            self._arrived.clear()
            await self._arrived.wait()

    def answer(self) -> None:
        """The one that has waited longest."""
        transport, answer = self._waiting.popleft()
        self.answered += 1
        transport.write(answer)


class _Connection(asyncio.Protocol):
    """Requests without bodies, one after the other."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head, self._read = self._read[:end], self._read[end + 4 :]
            self._script.ask(self._transport, head.split(b" ", 2)[1].decode("latin-1"))


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[str]:
    """On a free port of loopback, which has five digits wherever ports are given out as usual; yields the address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(script), "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
