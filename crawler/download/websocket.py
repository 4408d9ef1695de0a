"""The two ends of a WebSocket: a handshake whose answer is 101 or an error, and a close that cannot last. In between
the socket is aiohttp's."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import aiohttp

from crawler import url as urls
from crawler.errors import StatusError

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientWebSocketResponse

__all__ = ["CLOSE_SECONDS", "check", "close", "times"]

CLOSE_SECONDS: Final = 2.0
"""What a server gets to answer our close frame; RFC 6455 sets no time, aiohttp's default is 10 s, anew for each message
that comes instead. Below the 5 s that a cancelled callback may take, so that no server holds up a drain."""


def check(answer: ClientResponse, url: str) -> None:
    """Raises `StatusError` for every answer but 101; a redirect is none either, as in browsers (WHATWG WebSockets, 2:
    redirect mode "error")."""
    status = answer.status
    if status == 101:
        return
    answer.close()
    words = f"no WebSocket but {status}"
    if 300 <= status < 400:
        words += f", a redirect to {answer.headers.get('Location', '')[:200]!r}, which is not followed"
    error = StatusError(status, url, f"{words}: {urls.redact(url)}")
    error.retryable = status >= 500 or status == 429
    raise error


def times(given: aiohttp.ClientWSTimeout | None, receive_seconds: float | None) -> aiohttp.ClientWSTimeout:
    """aiohttp's two ways to say how long one `receive` may take, and never a close without end, which is what
    `ClientWSTimeout(ws_receive=...)` alone means to it."""
    given = given or aiohttp.ClientWSTimeout()
    return aiohttp.ClientWSTimeout(
        ws_receive=given.ws_receive if receive_seconds is None else receive_seconds,
        ws_close=CLOSE_SECONDS if given.ws_close is None else given.ws_close,
    )


async def close(socket: ClientWebSocketResponse, code: int = aiohttp.WSCloseCode.GOING_AWAY) -> None:
    """Send a close frame and wait for the server's, however much else it sends, for as long as the socket's own
    `timeout.ws_close` says. Afterwards the connection is closed either way."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(socket._timeout.ws_close):
            await socket.close(code=code)
