"""`crawler fetch URL`: one request through the whole stack, as a crawl of one."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from crawler import errors
from crawler import url as urls
from crawler.assemble import Crawl
from crawler.cli import EXIT_INTERRUPTED, EXIT_OK
from crawler.cli.fetch_request import check_options, make_request, route_settings
from crawler.cli.options import load
from crawler.cli.progress import received, with_bar
from crawler.errors import FetchError, StatusError, UsageError
from crawler.log import console_log, escape
from crawler.request import Timeout
from crawler.signals import run_in_loop
from crawler.spider import Spider

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Container, Iterator

    from crawler.contracts import Fetch
    from crawler.request import Request
    from crawler.response import Response
    from crawler.settings import Settings
    from crawler.settings.tables import HttpSettings

__all__ = ["FetchSpider", "fetch", "fetch_one", "show_response"]


def fetch(arguments: argparse.Namespace) -> int:
    if arguments.url is None and arguments.curl is None:
        arguments.complain("the following arguments are required: URL, or --curl COMMAND")
    check_options(arguments)
    request = make_request(arguments)
    if arguments.to_curl:
        return _show_curl(request)
    loaded = load(FetchSpider, arguments, route_settings(request))
    limit = request.timeout if isinstance(request.timeout, int | float) else None  # -m, also that of a curl command
    spider = FetchSpider(
        _as_sent(request, arguments, loaded.settings.http, limit),
        take=_taker(arguments),
        ok_status=loaded.settings.http.ok_status if arguments.fail else None,
        max_seconds=limit,
    )
    with console_log(arguments.level or "WARNING"), _traced(spider) if arguments.trace else contextlib.nullcontext():
        try:
            response = run_in_loop(fetch_one(spider, loaded.settings))
        except asyncio.CancelledError:
            return EXIT_INTERRUPTED
    if arguments.output is None or (arguments.output != "-" and (arguments.include or arguments.headers)):
        shown = show_response(
            response,
            headers=arguments.headers or arguments.head or arguments.output is not None,
            include=arguments.include,
            as_json=arguments.json,
            to_terminal=sys.stdout.isatty(),
        )
        sys.stdout.buffer.write(shown)
    return EXIT_OK


def _as_sent(request: Request, arguments: argparse.Namespace, http: HttpSettings, limit: float | None) -> Request:
    if arguments.output is not None:
        request = request.replace(stream=True)
    if arguments.resume and "Accept-Encoding" not in request.headers:
        # A coded body has no part that another request could go on with.
        request = request.replace(headers=[*request.headers.items(), ("Accept-Encoding", "identity")])
    if limit is not None:  # which is looked at from above
        patience = max(http.read_seconds, limit)
        request = request.replace(timeout=Timeout(None, http.connect_seconds, None, patience))
    return request


def _show_curl(request: Request) -> int:
    try:
        print(request.to_curl())
    except ValueError as error:
        raise UsageError(f"--to-curl: {error}") from error
    return EXIT_OK


@contextlib.contextmanager
def _traced(spider: FetchSpider) -> Iterator[None]:
    from crawler.download.trace import Trace

    def tell(line: str) -> None:
        with contextlib.suppress(OSError):
            print(escape(line.replace("\n", "\\n")), file=sys.stderr)

    with Trace(tell) as trace:
        spider.trace_configs = (trace.config,)
        yield


# -- the crawl of one --------------------------------------------------------------------------------------------------


async def _leave_it(spider: FetchSpider, response: Response) -> None:
    """The body is there already."""


class FetchSpider(Spider):
    """Fetches its one request before the crawl would begin, and takes the body, whose stream ends with the crawl.

    `take` gets the response of any status, but with `ok_status` of those alone: others raise `StatusError`. All of it
    may last `max_seconds`, retries and redirects included; then it raises `TimeoutError` with reason `total_timeout`.
    """

    name = "fetch"

    def __init__(
        self,
        wanted: Request,
        *,
        take: Callable[[FetchSpider, Response], Awaitable[None]] = _leave_it,
        ok_status: Container[int] | None = None,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.response: Response | None = None
        self.latest: Response | None = None
        """The last that came; of a download that is resumed, the part that goes on."""
        self.middlewares = (self._watch,)
        self._wanted = wanted
        self._take = take
        self._ok_status = ok_status
        self._max_seconds = max_seconds

    async def opened(self) -> None:
        try:
            async with asyncio.timeout(self._max_seconds) as limit:
                self.response = response = await self.fetch(self._wanted)
                if self._ok_status is not None and response.status not in self._ok_status:
                    raise StatusError(response.status, urls.redact(response.url))
                await self._take(self, response)
        except TimeoutError as error:
            if isinstance(error, FetchError) or not limit.expired():
                raise
            url, seconds = urls.redact(self._wanted.url), self._max_seconds
            message = f"not done within {seconds:g} seconds: {url}"
            raise errors.TimeoutError(message, reason="total_timeout", retryable=False) from error
        finally:
            if self.response is not None:
                self.response.close()

    async def _watch(self, request: Request, fetch: Fetch) -> Response:
        self.latest = await fetch(request)
        return self.latest


async def fetch_one(spider: FetchSpider, settings: Settings) -> Response:
    """The final response, whatever its status. SIGTERM cancels. Raises `FetchError`."""
    async with Crawl(spider, settings) as crawl:
        with _cancelled_by_sigterm():
            await crawl.run()
    assert spider.response is not None
    return spider.response


@contextlib.contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    """So that a download that is stopped tidies up; SIGINT cancels by itself."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


# -- where the body goes -----------------------------------------------------------------------------------------------


def _taker(arguments: argparse.Namespace) -> Callable[[FetchSpider, Response], Awaitable[None]]:
    async def save(spider: FetchSpider, response: Response) -> None:
        work = response.save(arguments.output, resume=arguments.resume)
        title = Path(arguments.output).name
        try:
            saved = await with_bar(work, title, lambda: received(spider.latest or response), quiet=arguments.quiet)
        except ValueError as error:
            raise UsageError(f"-o: {error}") from error
        spider.logger.info("saved %s, %d bytes, sha256:%s", saved.path, saved.bytes, saved.sha256)

    async def pass_on(spider: FetchSpider, response: Response) -> None:
        if arguments.include or arguments.headers:
            sys.stdout.buffer.write(_head(response))
        await _pass_on(response)

    if arguments.output is None:
        return _leave_it
    return pass_on if arguments.output == "-" else save


async def _pass_on(response: Response) -> None:
    """The body to standard output, as it comes."""
    assert response.content is not None
    async for chunk in response.content.iter_any():
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


# -- what is printed ---------------------------------------------------------------------------------------------------


def show_response(
    response: Response, *, headers: bool, as_json: bool, include: bool = False, to_terminal: bool = False
) -> bytes:
    """What `crawler fetch` prints: the body, with its head before it (`include`) or its head alone (`headers`), or all
    as one JSON object.

    Heads, and a body that goes to a terminal, are escaped: a site must not be able to write to someone's terminal.
    """
    if as_json:
        shown = _as_json(response)
        return escape(shown.decode()).encode() if to_terminal else shown
    if headers:
        return _head(response)[:-1]
    body = escape(response.text).encode() + b"\n" if to_terminal else response.body
    return _head(response) + body if include else body


def _head(response: Response) -> bytes:
    """With the empty line that ends it."""
    lines = [f"HTTP/{response.http_version} {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    return ("\n".join(map(escape, lines)) + "\n\n").encode()


def _as_json(response: Response) -> bytes:
    shown: dict[str, Any] = {
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
