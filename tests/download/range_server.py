"""A file on a server that knows ranges (RFC 9110, 14), and a client that has what `save(resume=True)` needs."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

from aiohttp import web

from crawler import Request, Response
from crawler.download.session import Downloader
from crawler.guard import Guard
from crawler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from crawler.download.save import Saver

CONTENT = bytes(range(256)) * 4096
"""1 MiB: a piece out of place is seen."""


class Shelf:
    """A handler for `LocalSite.route`. `cuts`: after how many bytes of their bodies the first answers break off."""

    def __init__(self, content: bytes = CONTENT, *, cuts: tuple[int, ...] = ()) -> None:
        self.content = content
        self.cuts = list(cuts)
        self.headers = {"ETag": '"v1"', "Accept-Ranges": "bytes"}
        self.of_ranges: dict[str, str] = {}
        """What 206 has besides, or instead."""
        self.knows_ranges = True
        self.knows_if_range = True
        self.is_chunked = False
        self.hold: asyncio.Event | None = None
        """Awaited where an answer would break off, instead."""
        self.requests: list[web.Request] = []
        self.statuses: list[int] = []

    @property
    def ranges(self) -> list[str | None]:
        return [request.headers.get("Range") for request in self.requests]

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        status, body, headers = self.answer(request)
        self.statuses.append(status)
        response = web.StreamResponse(status=status, headers=headers)
        if self.is_chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        cut = self.cuts.pop(0) if self.cuts else None
        await response.prepare(request)
        await response.write(body[:cut])
        if cut is not None and self.hold is not None:
            await self.hold.wait()
            for start in range(cut, len(body), 50_000):  # so that whoever reads has to wait again
                await response.write(body[start : start + 50_000])
                await asyncio.sleep(0)
        elif cut is not None:
            assert request.transport is not None
            request.transport.close()
        return response

    def answer(self, request: web.Request) -> tuple[int, bytes, dict[str, str]]:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if asked is None or not self.knows_ranges:
            return 200, self.content, self.headers
        validators = (None, self.headers.get("ETag"), self.headers.get("Last-Modified"))
        if self.knows_if_range and request.headers.get("If-Range") not in validators:
            return 200, self.content, self.headers
        start, size = int(asked[1]), len(self.content)
        if start >= size:
            return 416, b"", {"Content-Range": f"bytes */{size}"}
        given = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        return 206, self.content[start:], {**self.headers, **given, **self.of_ranges}


class Client:
    """Fetches streams; each is one that a crawl would give to a callback."""

    def __init__(self, downloader: Downloader, saver: Saver | None) -> None:
        self._downloader = downloader
        self._saver = saver
        self._responses: list[Response] = []

    async def get(self, url: str, *, alone: bool = False, **options: Any) -> Response:
        """`alone`: with no crawl around it that could fetch more."""
        response = await self.fetch(Request(url, stream=True, **options))
        if alone:
            response._refetch = None
        return response

    async def fetch(self, request: Request) -> Response:
        assert not any(response._closers for response in self._responses), "a stream still has the host's place"
        response = await self._downloader.fetch(request)
        response._refetch = self.fetch
        if self._saver is not None:
            response._saver = self._saver
        self._responses.append(response)
        return response


@contextlib.asynccontextmanager
async def open_client(saver: Saver | None = None) -> AsyncIterator[Client]:
    async with Downloader(Settings(), Guard(allow_private=True)) as downloader:
        yield Client(downloader, saver)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
