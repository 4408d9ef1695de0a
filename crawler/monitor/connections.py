"""Few connections, and each for a short time: aiohttp's server has a limit for neither.

Where there are too many, the oldest goes: whoever holds connections open cannot keep a probe out, and an answer takes
some milliseconds, so the oldest one is not somebody's who waits for one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Connections"]

MOST: Final = 16
"""Probes, a Prometheus or two, somebody who looks."""
SECONDS: Final = 10.0
"""From connecting to the last byte of the answer; Kubernetes' probes wait for one, Prometheus for ten."""


class Connections:
    """A protocol factory around `make`, which makes the protocol that serves one connection."""

    def __init__(self, make: Callable[[], asyncio.Protocol], *, most: int = MOST, seconds: float = SECONDS) -> None:
        self._make = make
        self._most = most
        self._seconds = seconds
        self._open: dict[_Connection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self, self._make())

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """All of them, whatever they are at."""
        for connection in list(self._open):
            connection.abort()

    def joined(self, connection: _Connection) -> float:
        """Returns how many seconds it has."""
        if len(self._open) >= self._most:
            next(iter(self._open)).abort()
        self._open[connection] = None
        return self._seconds

    def left(self, connection: _Connection) -> None:
        self._open.pop(connection, None)


class _Connection(asyncio.Protocol):
    """Hands everything on to the protocol that serves, and ends when its time is over."""

    def __init__(self, connections: Connections, serving: asyncio.Protocol) -> None:
        self._connections = connections
        self._serving = serving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not instances of it
        self._timer = asyncio.get_running_loop().call_later(self._connections.joined(self), self._transport.abort)
        self._serving.connection_made(transport)

    def abort(self) -> None:
        self._connections.left(self)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connections.left(self)
        self._serving.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._serving.data_received(data)

    def eof_received(self) -> bool | None:
        return self._serving.eof_received()

    def pause_writing(self) -> None:
        self._serving.pause_writing()

    def resume_writing(self) -> None:
        self._serving.resume_writing()
