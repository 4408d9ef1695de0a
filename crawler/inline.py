"""`await self.fetch(...)` and `self.websocket(...)`: requests made inside a callback, in the host's turn like every
other.

A callback may wait: it holds its worker, but no host's place, because a page's place is free once its body is there.
So an inline fetch to the very host of the page cannot block itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from crawler import url as urls
from crawler.attempt import Attempt, kept
from crawler.callback_time import fetching, unhurried
from crawler.errors import FetchError, StatusError
from crawler.exchange import check_host
from crawler.politeness import Answer
from crawler.retry import is_repeatable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crawler.context import Context
    from crawler.cookies import Cookies
    from crawler.exchange import Exchange
    from crawler.places import Places
    from crawler.request import Request
    from crawler.response import Response
    from crawler.robots import Robots

__all__ = ["Inline", "trusted"]


trusted: contextvars.ContextVar[bool] = contextvars.ContextVar("trusted", default=False)
"""Set where the user's own URLs come from, in `opened()` and `start()`: their hosts may be private, as none found on a
page may."""


class Inline:
    """`crawler.spider.Services`: what a running crawl lends its spider."""

    logger = logging.getLogger("crawler.inline")

    def __init__(self, context: Context, exchange: Exchange, places: Places) -> None:
        self.settings = context.settings
        self.stats = context.stats
        self.job = context.job
        self._frontier = context.frontier
        self._fetcher = context.fetcher
        self._clock = context.clock
        self._retry = context.retry
        self._rng = context.rng
        self._exchange = exchange
        self._places = places
        self._streams: dict[asyncio.Task[Any] | None, list[Response]] = {}

    async def fetch(self, request: Request) -> Response:
        """The final response, whatever its status, after retries. Raises `FetchError`, which has its `attempts`."""
        with fetching():
            return await self._fetch(request)

    async def _fetch(self, request: Request) -> Response:
        self._trust(request)
        attempt = 0
        tried: list[Attempt] = []
        while True:
            response, wait = await self._try(request, attempt, tried)
            if wait is not None:
                attempt += 1
                self.stats.total.retries += 1
                await self._clock.sleep(wait)
            elif response is not None and response.next_request is not None:
                request, attempt, tried = response.next_request, 0, []
            elif response is not None:
                return response

    async def robots(self, request: Request) -> Robots:
        """The rules of the request's host, fetched in its turn where they are not known. Raises `FetchError`."""
        self._trust(request)
        while (rules := self._exchange.robots(request.url)) is None:
            await self._learn_robots(request)
        return rules

    @contextlib.asynccontextmanager
    async def websocket(self, request: Request, **options: Any) -> AsyncIterator[Any]:
        """The handshake takes a turn of its host, after robots.txt; the open socket takes no place there. Raises
        `FetchError`."""
        self._trust(request)
        await self._ask_robots(request)
        host = urls.host_key(request.url)
        total = self.stats.total
        await self._places.enter(request)
        async with contextlib.AsyncExitStack() as socket:
            try:
                total.requests += 1
                opened = await socket.enter_async_context(self._fetcher.websocket(request, **options))
                total.responses += 1
                self.stats.status[101] += 1
            except FetchError as error:
                status = error.status if isinstance(error, StatusError) else 0
                if status:
                    total.responses += 1
                    self.stats.status[status] += 1
                self._frontier.observe(host, Answer(status, error.reason), self._clock.now())
                raise
            finally:
                self._frontier.sent(host, self._clock.now())
                self._places.leave(host)
            yield opened

    def cookies(self, session: str | None, url: str | None) -> Cookies:
        return self._fetcher.cookies(session, url)

    def lend(self, response: Response) -> None:
        """What saving a stream may need of the crawl: a second request for the rest, and time."""
        response._refetch = self.fetch
        response._unhurried = unhurried

    def close_streams(self) -> None:
        """Close the streams that this task's callback left open."""
        for response in self._streams.pop(asyncio.current_task(), ()):
            response.close()

    def _trust(self, request: Request) -> None:
        if trusted.get():
            self._fetcher.allow_host(urls.host_key(request.url))

    async def _try(self, request: Request, attempt: int, tried: list[Attempt]) -> tuple[Response | None, float | None]:
        """(response, None), or (None, seconds to the next try) with one more in `tried`."""
        again = request.is_replayable and (is_repeatable(request.method) or request.retry_times is not None)
        try:
            response = await self._in_turn(request)
        except FetchError as error:
            wait = self._wait_after(attempt, request)
            if wait is None or not (again and error.retryable):
                error.attempts = kept(tried, Attempt.of(error, self._clock.now()))
                raise
            wait = max(wait, error.least_wait_seconds)
            tried[:] = kept(tried, Attempt.of(error, self._clock.now(), wait_seconds=wait))
            return None, wait
        if again and response.status in self.settings.retry.http_codes:
            now = self._clock.now()
            pause = self._retry.retry_after(response.headers, now)
            wait = self._wait_after(attempt, request, pause)
            if wait is not None:
                response.close()
                answer = StatusError(response.status, urls.redact(response.url))
                tried[:] = kept(tried, Attempt.of(answer, now, wait_seconds=wait))
                return None, wait
        return response, None

    def _wait_after(self, attempt: int, request: Request, retry_after: float | None = None) -> float | None:
        failures = self._frontier.controller(urls.host_key(request.url)).failures
        return self._retry.wait_after(
            attempt, self._rng, times=request.retry_times, retry_after=retry_after, host_failures=failures
        )

    async def _in_turn(self, request: Request) -> Response:
        host = urls.host_key(request.url)
        check_host(self._frontier.controller(host), self._clock.now())
        await self._ask_robots(request)
        await self._places.enter(request)
        try:
            response = await self._exchange.send(request, inline=True)
        except BaseException:
            self._places.leave(host)
            raise
        if request.stream:  # the place is the stream's until that is closed
            response.on_close(partial(self._places.leave, host))
            self.lend(response)
            self._streams.setdefault(asyncio.current_task(), []).append(response)
        else:
            self._places.leave(host)
        return response

    async def _ask_robots(self, request: Request) -> None:
        """Raises `BlockedError` where robots.txt disallows it."""
        if not self._exchange.knows_robots(request):
            await self._learn_robots(request)
        self._exchange.admit(request)

    async def _learn_robots(self, request: Request) -> None:
        host = urls.host_key(request.url)
        await self._places.enter(request)
        try:
            if self._exchange.robots(request.url) is None:  # another may have learnt it while we waited
                await self._exchange.learn_robots(request)
        finally:
            self._places.leave(host)
