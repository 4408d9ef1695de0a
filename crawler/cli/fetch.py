"""`crawler fetch URL`: one request through the whole stack, as a crawl of one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from crawler.assemble import Crawl
from crawler.cli import EXIT_OK
from crawler.cli.options import load
from crawler.log import console_log, escape
from crawler.request import Request
from crawler.signals import run_in_loop
from crawler.spider import Spider

if TYPE_CHECKING:
    import argparse

    from crawler.response import Response
    from crawler.settings import Settings

__all__ = ["FetchSpider", "fetch", "fetch_one", "show_response"]


def fetch(arguments: argparse.Namespace) -> int:
    loaded = load(FetchSpider, arguments)
    with console_log(arguments.level or "WARNING"):
        response = run_in_loop(fetch_one(arguments.url, loaded.settings))
    shown = show_response(response, headers=arguments.headers, as_json=arguments.json, to_terminal=sys.stdout.isatty())
    sys.stdout.buffer.write(shown)
    return EXIT_OK


class FetchSpider(Spider):
    """Fetches its one URL before the crawl would begin."""

    name = "fetch"
    url = ""
    response: Response | None = None

    async def opened(self) -> None:
        self.response = await self.fetch(Request(self.url))


async def fetch_one(url: str, settings: Settings) -> Response:
    """The final response, whatever its status. Raises `InvalidURL`, `FetchError`."""
    Request(url)
    spider = FetchSpider(url=url)
    async with Crawl(spider, settings) as crawl:
        await crawl.run()
    assert spider.response is not None
    return spider.response


def show_response(response: Response, *, headers: bool, as_json: bool, to_terminal: bool = False) -> bytes:
    """What `crawler fetch` prints: the body, or status line and headers, or all as one JSON object.

    Headers, and a body that goes to a terminal, are escaped: a site must not be able to write to someone's terminal.
    """
    if as_json:
        shown = _as_json(response)
        return escape(shown.decode()).encode() if to_terminal else shown
    if headers:
        lines = [f"HTTP/{response.http_version} {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        return ("\n".join(map(escape, lines)) + "\n").encode()
    return escape(response.text).encode() + b"\n" if to_terminal else response.body


def _as_json(response: Response) -> bytes:
    shown = {
        "url": response.url,
        "status": response.status,
        "reason": response.reason,
        "http_version": response.http_version,
        "ip_address": response.ip_address,
        "elapsed_seconds": round(response.elapsed_seconds, 6),
        "history": [{"status": hop.status, "url": hop.url} for hop in response.history],
        "headers": [(str(name), value) for name, value in response.headers.items()],
        "encoding": response.encoding,
        "text": response.text,
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n"
