"""A SOCKS server on loopback: version 5 (RFC 1928) with or without user and password (RFC 1929), and 4a.

It keeps what each client asked for, name or address, and can refuse with any reply code or fail on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from proxy_server import close, relay, reset

if TYPE_CHECKING:
    from collections.abc import Mapping

Failure: TypeAlias = int | Literal["hang", "close", "reset", "garbage"]
"""A reply code to refuse with (RFC 1928, section 6; 91 to 93 of version 4); or say nothing, hang up, reset, or send
what is not SOCKS: each after the client has said what it wants."""

_OK: dict[int, bytes] = {5: b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00", 4: b"\x00\x5a\x00\x00\x00\x00\x00\x00"}


class Asked(NamedTuple):
    kind: Literal["name", "ipv4", "ipv6"]
    host: str
    port: int
    user: str | None = None


class SocksServer:
    """`async with SocksServer() as proxy:`, then fetch through `proxy.url`.

    `auth`: user and password it demands. `names`: where host names lead; without an entry they are unreachable (4).
    `failure` may be set at any time; `refuse()` closes its port. With `greets=False` it hangs before the first word.
    """

    def __init__(
        self,
        *,
        auth: tuple[str, str] | None = None,
        names: Mapping[str, tuple[str, int]] | None = None,
        failure: Failure | None = None,
        greets: bool = True,
        host: str = "127.0.0.2",
    ) -> None:
        self.failure = failure
        self.greets = greets
        self.connections = 0
        self.journal: list[Asked] = []
        self._auth = auth
        self._names = dict(names or {})
        self._host = host
        self._port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SocksServer:
        self._server = await asyncio.start_server(self._talk, self._host, 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.refuse()

    @property
    def url(self) -> str:
        """With the credentials that it demands."""
        return self.url_for(*(self._auth or ()))

    def url_for(self, *credentials: str, scheme: str = "socks5") -> str:
        """Its address with `user, password`, or without."""
        userinfo = f"{':'.join(credentials)}@" if credentials else ""
        return f"{scheme}://{userinfo}{self._host}:{self._port}"

    async def refuse(self) -> None:
        """Nobody listens any more, and every connection is cut."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    # -- one connection ------------------------------------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                if not self.greets:
                    await reader.read()
                version = (await reader.readexactly(1))[0]
                asked = await (self._hello5(reader, writer) if version == 5 else self._hello4(reader))
                if asked is not None:
                    self.journal.append(asked)
                    await self._serve(version, asked, reader, writer)
        finally:
            await close(writer)
            self._tasks.discard(task)

    async def _hello5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked | None:
        offered = await reader.readexactly((await reader.readexactly(1))[0])
        wanted = 0 if self._auth is None else 2
        if wanted not in offered:
            writer.write(b"\x05\xff")
            return None
        writer.write(bytes([5, wanted]))
        user = None
        if self._auth is not None:
            await reader.readexactly(1)
            user = await _text(reader)
            granted = (user, await _text(reader)) == self._auth
            writer.write(b"\x01\x00" if granted else b"\x01\x01")
            if not granted:
                return None
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            return Asked("name", await _text(reader), await _port(reader), user)
        address = ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16))
        return Asked("ipv4" if kind == 1 else "ipv6", str(address), await _port(reader), user)

    async def _hello4(self, reader: asyncio.StreamReader) -> Asked | None:
        await reader.readexactly(1)
        port = await _port(reader)
        address = ipaddress.IPv4Address(await reader.readexactly(4))
        user = (await reader.readuntil(b"\x00"))[:-1].decode() or None
        if int(address) >> 8:
            return Asked("ipv4", str(address), port, user)
        return Asked("name", (await reader.readuntil(b"\x00"))[:-1].decode(), port, user)

    async def _serve(
        self, version: int, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if isinstance(self.failure, int):
            writer.write(_refusal(version, self.failure))
        elif self.failure == "garbage":
            writer.write(b"HTTP/1.1 400 this is no SOCKS\r\n\r\n")
        elif self.failure == "hang":
            await reader.read()
        elif self.failure == "reset":
            reset(writer)
        elif self.failure is None:
            try:
                upstream = await self._dial(asked)
            except OSError:
                writer.write(_refusal(version, 5 if version == 5 else 91))
                return
            if upstream is None:
                writer.write(_refusal(version, 4 if version == 5 else 91))
                return
            writer.write(_OK[version])
            await relay(reader, writer, *upstream)

    async def _dial(self, asked: Asked) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        if asked.kind != "name":
            return await asyncio.open_connection(asked.host, asked.port)
        address = self._names.get(asked.host.rstrip("."))
        return None if address is None else await asyncio.open_connection(*address)


async def _text(reader: asyncio.StreamReader) -> str:
    return (await reader.readexactly((await reader.readexactly(1))[0])).decode()


async def _port(reader: asyncio.StreamReader) -> int:
    return int.from_bytes(await reader.readexactly(2), "big")


def _refusal(version: int, code: int) -> bytes:
    return bytes([5, code]) + _OK[5][2:] if version == 5 else bytes([0, code]) + _OK[4][2:]
