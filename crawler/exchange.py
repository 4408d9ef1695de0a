"""From a request to its response: scope, robots.txt, middlewares, the wire, redirects on the same host.

Leased pages and inline fetches take the same way. Nothing here waits for politeness: that is the frontier's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from crawler import url as urls
from crawler.errors import BlockedError, FetchError
from crawler.fate import REFUSALS
from crawler.redirect import next_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import StreamReader

    from crawler.bounds import Bounds
    from crawler.context import Context
    from crawler.contracts import Fetch, Middleware, RobotsRules
    from crawler.request import Request
    from crawler.response import Response
    from crawler.robots import Robots

__all__ = ["Exchange"]


class Exchange:
    """`await exchange.send(request)`; counts everything sent and received on the way.

    `obeys_robots` says for a host whether its robots.txt is asked. The first of `middlewares` is outermost.
    `is_known` says of a redirect's target whether the crawl has it already; inline fetches do not ask.
    """

    def __init__(
        self,
        context: Context,
        *,
        robots: RobotsRules,
        bounds: Bounds,
        is_known: Callable[[Request], bool] = lambda hop: False,
    ) -> None:
        self._fetcher = context.fetcher
        self._frontier = context.frontier
        self._clock = context.clock
        self._stats = context.stats
        self._max_redirects = context.settings.http.max_redirects
        self._rule = context.rule
        self._robots = robots
        self._bounds = bounds
        self._leased: Fetch = partial(self._follow, is_known=is_known, judge=partial(bounds.hop, inline=False))
        self._inline: Fetch = partial(self._follow, is_known=lambda hop: False, judge=partial(bounds.hop, inline=True))
        for middleware in reversed(context.spider.middlewares):
            self._leased = _wrapped(middleware, self._leased)
            self._inline = _wrapped(middleware, self._inline)

    def send(self, request: Request, *, inline: bool = False) -> Awaitable[Response]:
        """The response, whatever its status. A redirect to another host, and unless `inline` one to a page that the
        crawl has already, is not followed but stands in `response.next_request`.

        Raises `FetchError`, and whatever a middleware raises."""
        return (self._inline if inline else self._leased)(request)

    def knows_robots(self, request: Request) -> bool:
        """Whether `admit` can decide without asking the host first. It says so itself, too."""
        host = urls.host_key(request.url)
        return not self._rule(host).obey_robots or self._robots.check(request.url) is not None

    def robots(self, url: str) -> Robots | None:
        """The robots.txt of the URL's origin, obeyed or not; None while it is not known."""
        return self._robots.rules(url)

    async def learn_robots(self, request: Request) -> None:
        try:
            await self._robots.learn(request)
        finally:
            self._frontier.sent(urls.host_key(request.url), self._clock.now())

    def admit(self, request: Request) -> bool:
        """Whether robots.txt, if it is obeyed, is known to allow this URL; False: it has to be asked first. Raises
        `BlockedError` with reason `robots` where it disallows it, and `host_bytes` where the host has sent enough."""
        if self._bounds.counts_bytes:
            self._bounds.check_bytes(request.url)
        if not self._rule(urls.host_key(request.url)).obey_robots:
            return True
        decision = self._robots.check(request.url)
        if decision is None:
            return False
        if not decision.allowed:
            raise BlockedError(
                f"robots.txt of {urls.origin(request.url)} disallows {urls.redact(request.url)}"
                + (f" (line {decision.line}: {decision.rule})" if decision.line else ""),
                reason="robots",
            )
        return True

    async def _follow(
        self, request: Request, is_known: Callable[[Request], bool], judge: Callable[[str, int], str | None]
    ) -> Response:
        while True:
            response = await self._exchange(request)
            hop = next_request(request, response, self._max_redirects)
            if hop is None:
                return response
            response.close()
            self._stats.total.redirects += 1
            refusal = judge(hop.url, request.depth)
            if refusal is not None:
                here, there = urls.redact(request.url), urls.redact(hop.url)
                raise BlockedError(f"{here} redirects to {there}: {REFUSALS[refusal]}", reason=refusal)
            same_host = urls.host_key(hop.url) == urls.host_key(request.url)
            if not same_host or not self.knows_robots(hop) or is_known(hop):
                response.next_request = hop
                return response
            self.admit(hop)
            request = hop

    async def _exchange(self, request: Request) -> Response:
        total = self._stats.total
        total.requests += 1
        host = urls.host_key(request.url)
        try:
            response = await self._fetcher.fetch(request)
        except FetchError as error:
            self._frontier.sent(host, self._clock.now())
            self._stats.by_proxy(error.proxy, failed=True)
            raise
        self._stats.by_proxy(response.proxy)
        self._frontier.sent(host, self._clock.now() - response.elapsed_seconds + response.connect_seconds)
        total.responses += 1
        if response.content is None:
            total.bytes += len(response.body)
            if self._bounds.counts_bytes:
                self._bounds.received(host, len(response.body))
        else:
            response.on_close(partial(self._count_stream, host, response.content))
        self._stats.status[response.status] += 1
        return response

    def _count_stream(self, host: str, content: StreamReader) -> None:
        self._stats.total.bytes += content.total_bytes
        self._bounds.received(host, content.total_bytes)


def _wrapped(middleware: Middleware, inner: Fetch) -> Fetch:
    async def fetch(request: Request) -> Response:
        return await middleware(request, inner)

    return fetch
