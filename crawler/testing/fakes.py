"""What callbacks are given, without a server: a response that nobody fetched, and `aioresponses` repaired."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy

from crawler.download.save import Saver
from crawler.request import Request
from crawler.response import Response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["fake_response", "offline", "stream_of"]


def fake_response(
    url: str, body: str | bytes = "", *, status: int = 200, headers: Mapping[str, str] | None = None, **request: Any
) -> Response:
    """A response that nobody fetched, to test a callback alone: `list(MySpider().parse(fake_response(url, html)))`.

    Further arguments are its request's (`meta=`, `cb_kwargs=`, ...). `save` works; with `stream=True` the body is in
    `content`, which needs a running loop."""
    own = CIMultiDict({"Content-Type": "text/html; charset=utf-8"})
    own.update(headers or {})
    payload = body.encode() if isinstance(body, str) else body
    asked = Request(url, **request)
    response = Response(
        url,
        request=asked,
        status=status,
        headers=CIMultiDictProxy(own),
        body=b"" if asked.stream else payload,
        content=stream_of(payload) if asked.stream else None,
    )
    response._saver = Saver(2**31)
    return response


def stream_of(payload: bytes) -> aiohttp.StreamReader:
    """A stream that has all of its bytes already. Needs a running loop."""
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(ResponseHandler(loop), limit=2 * len(payload) + 1, loop=loop)
    content.feed_data(payload)
    content.feed_eof()
    return content


@contextlib.contextmanager
def offline(**options: Any) -> Iterator[Any]:
    """`aioresponses.aioresponses(...)`, repaired for aiohttp >= 3.14: URLs registered on it are answered without a
    server.

    robots.txt is asked for like everything else: register it, or switch `politeness.obey_robots` off. Redirects,
    time-outs, compression and connection errors of the wire do not happen under it: use a `LocalSite` for those.
    """
    import aioresponses

    with _repaired(), aioresponses.aioresponses(**options) as mocked:
        yield mocked


@contextlib.contextmanager
def _repaired() -> Iterator[None]:
    """aioresponses 0.7.9 makes responses as aiohttp < 3.14 did: without `stream_writer`, and over a reader that asks
    its (missing) transport to pause beyond 128 KiB."""
    from unittest.mock import Mock, patch

    from aioresponses import core

    class Answer(aiohttp.ClientResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("stream_writer", Mock())
            super().__init__(*args, **kwargs)

    def reader(loop: Any) -> aiohttp.StreamReader:
        return aiohttp.StreamReader(ResponseHandler(loop=loop), limit=1 << 40, loop=asyncio.get_running_loop())

    with patch.object(core, "ClientResponse", Answer), patch.object(core, "stream_reader_factory", reader):
        yield
