"""A server on loopback that sends the bytes it was given: malformed HTTP needs no HTTP library."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

__all__ = ["RawServer", "Script", "answer", "hang", "reset"]

Script = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """`async with RawServer(b"HTTP/1.1 ...") as server:`, then fetch `server.url`.

    `script`: what every request is answered with, or a coroutine function that talks itself. After it the connection
    is closed, unless `keep_alive`. With `waits=False` it does not wait for a request before it answers.
    """

    def __init__(
        self,
        script: Script = b"",
        *,
        host: str = "127.0.0.2",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        keep_alive: bool = False,
        waits: bool = True,
    ) -> None:
        self.host = host
        self.port = port
        self.connections = 0
        self.requests: list[bytes] = []
        """The heads of all requests, oldest first."""
        self._script = script
        self._tls = tls
        self._keep_alive = keep_alive
        self._waits = waits
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}/"

    async def __aenter__(self) -> RawServer:
        self._listener = socket.create_server((self.host, self.port))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._tasks.add(asyncio.create_task(self._accept()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _accept(self) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self.connections += 1
            self._tasks.add(asyncio.create_task(self._talk(connection)))

    async def _talk(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the client may leave or dislike us
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()
            finally:
                transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            if self._waits:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if isinstance(self._script, bytes):
                writer.write(self._script)
                await writer.drain()
            else:
                await self._script(reader, writer)
            if not self._keep_alive:
                return


def hang(start: bytes = b"") -> Script:
    """Send this and then nothing, until the client leaves."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await reader.read()

    return script


def reset(start: bytes = b"") -> Script:
    """Send this, and reset the connection once the client has it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection: socket.socket = writer.get_extra_info("socket")
        writer.write(start)
        await writer.drain()
        while start and _unacknowledged(connection):  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return script


def _unacknowledged(connection: socket.socket) -> int:
    import fcntl
    import termios

    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP/1.1 answer with the right Content-Length, or with `length`."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(lines).encode("ascii") + body
