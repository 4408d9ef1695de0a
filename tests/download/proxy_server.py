"""An HTTP proxy on loopback that does as a test says: forwards, tunnels, demands credentials, or fails in a chosen way.

It keeps the raw head of every request it gets, so a test sees what a client gave to the proxy and what to the site.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

Failure: TypeAlias = int | Literal["hang", "close", "reset", "garbage"]
"""A status to answer with; or say nothing, hang up, reset the connection, send what is not HTTP."""

_HOP_BY_HOP = (b"connection:", b"keep-alive:", b"proxy-authorization:", b"proxy-connection:")


class ProxyServer:
    """`async with ProxyServer() as proxy:`, then fetch through `proxy.url`.

    `auth`: user and password it demands, with 407 where they lack. `names`: where host names lead; without an entry a
    host must be an address. `tls`: it speaks TLS itself, as an `https://` proxy. `failure` may be set at any time and
    holds for every request from then on; `refuse()` closes its port, and `accept()` opens the same one again.
    """

    def __init__(
        self,
        *,
        auth: tuple[str, str] | None = None,
        names: Mapping[str, tuple[str, int]] | None = None,
        tls: ssl.SSLContext | None = None,
        failure: Failure | None = None,
        host: str = "127.0.0.2",
    ) -> None:
        self.failure = failure
        self.connections = 0
        self.journal: list[bytes] = []
        """The heads of all requests to the proxy, oldest first; what passes through a tunnel is not among them."""
        self._auth = auth
        self._names = dict(names or {})
        self._tls = tls
        self._host = host
        self._port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ProxyServer:
        await self.accept()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.refuse()

    @property
    def url(self) -> str:
        """With the credentials that it demands."""
        return self.url_for(*(self._auth or ()))

    def url_for(self, *credentials: str) -> str:
        """Its address with `user, password`, or without."""
        userinfo = f"{':'.join(credentials)}@" if credentials else ""
        return f"{'https' if self._tls else 'http'}://{userinfo}{self._host}:{self._port}"

    @property
    def targets(self) -> list[str]:
        """What was asked for, in order: a URL, or `host:port` of a tunnel."""
        return [head.split(b" ", 2)[1].decode() for head in self.journal]

    @property
    def credentials(self) -> list[str | None]:
        """`user:password` of each request in the journal; None where it had none."""
        return [_credentials(head) for head in self.journal]

    async def accept(self) -> None:
        self._server = await asyncio.start_server(self._talk, self._host, self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Nobody listens any more, and every connection is cut."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- one connection ------------------------------------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    pass
        finally:
            await close(writer)
            self._tasks.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can take another request."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.journal.append(head)
        if self.failure is not None:
            return await _fail(self.failure, reader, writer)
        if self._auth is not None and _credentials(head) != ":".join(self._auth):
            return await _fail(407, reader, writer)
        method, target, _ = head.split(b" ", 2)
        if method == b"CONNECT":
            await self._tunnel(target.decode(), reader, writer)
            return False
        return await self._forward(head, target.decode(), reader, writer)

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await self._dial(f"//{target}")
        except OSError:
            await _fail(502, reader, writer)
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await relay(reader, writer, *upstream)

    async def _forward(
        self, head: bytes, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        try:
            from_site, to_site = await self._dial(target)
        except OSError:
            return await _fail(502, reader, writer)
        try:
            upgrade = b"\r\nupgrade:" in head.lower()
            hop = b"Connection: Upgrade" if upgrade else b"Connection: close"
            to_site.write(b"\r\n".join([_origin_form(head, target), *_kept(head), hop, b"", b""]))
            to_site.write(await reader.readexactly(_length(head) or 0))
            answer = await from_site.readuntil(b"\r\n\r\n")
            if upgrade:
                writer.write(answer)
                await relay(reader, writer, from_site, to_site)
                return False
            length = _length(answer)
            body = await (from_site.read() if length is None else from_site.readexactly(length))
        finally:
            await close(to_site)
        writer.write(b"\r\n".join([answer.split(b"\r\n", 1)[0], *_kept(answer), b"", b""]) + body)
        await writer.drain()
        return length is not None

    async def _dial(self, url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(url)
        name = parts.hostname or ""
        return await asyncio.open_connection(*self._names.get(name, (name, parts.port or 80)))


# -- words of the protocol ---------------------------------------------------------------------------------------------


def _credentials(head: bytes) -> str | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"proxy-authorization":
            return base64.b64decode(value.split()[-1]).decode()
    return None


def _kept(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n")[1:-2] if not line.lower().startswith(_HOP_BY_HOP)]


def _length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n")[1:]:
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None


def _origin_form(head: bytes, target: str) -> bytes:
    host = urlsplit(target).netloc
    path = target[target.index(host) + len(host) :] or "/"
    return head.split(b" ", 1)[0] + f" {path} HTTP/1.1".encode()


async def _fail(failure: Failure, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    if isinstance(failure, int):
        challenge = 'Proxy-Authenticate: Basic realm="test"\r\n' if failure == 407 else ""
        writer.write(f"HTTP/1.1 {failure} From the proxy\r\n{challenge}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()
        return True
    if failure == "garbage":
        writer.write(b"\x00\x01 this is no proxy\r\n\r\n")
    elif failure == "hang":
        await reader.read()
    elif failure == "reset":
        reset(writer)
    return False


# -- shared with socks_server ------------------------------------------------------------------------------------------


def reset(writer: asyncio.StreamWriter) -> None:
    """The peer gets a reset instead of an end."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    """Bytes both ways, until one side ends or breaks."""
    pumps = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        far_writer.close()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()


async def close(writer: asyncio.StreamWriter) -> None:
    """At the latest within a second, whatever the peer does."""
    writer.close()
    with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
        await asyncio.wait_for(writer.wait_closed(), 1)
    writer.transport.abort()
