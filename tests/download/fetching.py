"""The three ways in which the client reads an answer, so that a hostile one can be tried on each."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from crawler import Request
from crawler.download.session import Downloader
from crawler.errors import FetchError
from crawler.guard import Guard
from crawler.settings import load, mapping_layer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "session": {"headers": {"X-Way": "session"}},
    "stream": {"stream": True},
}
"""Options of a request: past aiohttp's session, through it, and as a stream."""


@contextlib.asynccontextmanager
async def downloader(**tables: dict[str, Any]) -> AsyncIterator[Downloader]:
    settings = load([mapping_layer("test", tables)]).settings
    async with Downloader(settings, Guard(allow_private=True)) as opened:
        yield opened


async def outcome(client: Downloader, url: str, way: str, **options: Any) -> str:
    """`200 <the body>`, or the reason of a `FetchError`. Anything else that is raised is a bug, and passes."""
    try:
        response = await client.fetch(Request(url, **WAYS[way], **options))
        async with response:
            body = response.body if response.content is None else await response.content.read()
        return f"{response.status} {body.decode('latin-1')}"
    except FetchError as error:
        return error.reason


async def saved(client: Downloader, url: str, target: Path) -> str:
    """The reason for which the body could not be saved, or its hash."""
    try:
        async with await client.fetch(Request(url, stream=True)) as response:
            return (await response.save(target)).sha256
    except FetchError as error:
        return error.reason
