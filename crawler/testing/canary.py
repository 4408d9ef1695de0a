"""A place where nobody has any business."""

from __future__ import annotations

import asyncio

__all__ = ["Canary"]


class Canary:
    """`async with Canary("127.0.0.9") as canary:`: a listener that counts who comes. Any connection is a failure:
    `assert canary.connections == 0`.

    It hangs up on everybody. `port` 0 is any free one.
    """

    def __init__(self, host: str = "127.0.0.9", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.connections = 0
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """`http://127.0.0.9:PORT`, without a slash at its end."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Canary:
        self._server = await asyncio.start_server(self._connected, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()
