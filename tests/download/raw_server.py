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

Script = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """`async with RawServer(b"HTTP/1.1 ...") as server:`, then fetch `server.url`.

    `script`: what every request is answered with, or a coroutine function that talks itself. After it the connection is
    closed, unless `keep_alive`. Without a script it is a canary: it accepts, and every connection is a failure.
    """

    def __init__(
        self,
        script: Script = b"",
        *,
        host: str = "127.0.0.2",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        keep_alive: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.connections = 0
        self.requests: list[bytes] = []
        """The heads of all requests, oldest first."""
        self._script = script
        self._tls = tls
        self._keep_alive = keep_alive
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}/"

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*filter(None, self._open.values()))
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open[writer] = asyncio.current_task()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                if isinstance(self._script, bytes):
                    writer.write(self._script)
                    await writer.drain()
                else:
                    await self._script(reader, writer)
                if not self._keep_alive:
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        del self._open[writer]


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
        while start and _unacknowledged(connection):
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
