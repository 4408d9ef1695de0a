"""From a request to its response: scope, robots.txt, middlewares, the wire, redirects.

Leased pages and inline fetches take the same way. Nothing here waits for politeness, which is the frontier's, but a
redirected robots.txt. A redirect is another request to a host: where its host has a delay, it goes back for a turn.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from crawler import url as urls
from crawler.directives import Reader
from crawler.errors import BlockedError, ConnectError, FetchError
from crawler.fate import REFUSALS
from crawler.politeness import Answer, Circuit
from crawler.redirect import next_request
from crawler.robots import product_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import StreamReader

    from crawler.bounds import Bounds
    from crawler.context import Context
    from crawler.contracts import Fetch, Middleware, RobotsRules
    from crawler.parsing import Parsing
    from crawler.places import Places
    from crawler.politeness import Controller
    from crawler.request import Request
    from crawler.response import Response
    from crawler.robots import Robots

__all__ = ["Exchange", "check_host"]

_ROBOTS_PATIENCE_SECONDS = 30.0
"""For a turn of the host that a robots.txt is redirected to: a worker waits for it."""


class Exchange:
    """`await exchange.send(request)`; counts everything sent and received on the way.

    `obeys_robots` says for a host whether its robots.txt is asked. The first of `middlewares` is outermost.
    `is_known` says of a redirect's target whether the crawl has it already; inline fetches do not ask. `fetch` sends
    what is not inline in the fetcher's stead.
    """

    def __init__(
        self,
        context: Context,
        *,
        robots: RobotsRules,
        places: Places,
        bounds: Bounds,
        parsing: Parsing,
        is_known: Callable[[Request], bool] = lambda hop: False,
        fetch: Fetch | None = None,
    ) -> None:
        self.on_pause: Callable[[], None] = lambda: None
        """A host asked for a pause, or a delay: killed before that is on disk, the crawl would come back too early."""
        self._frontier = context.frontier
        self._clock = context.clock
        self._stats = context.stats
        self._max_redirects = context.settings.http.max_redirects
        self._retry = context.retry
        self._rule = context.rule
        self._robots = robots
        self._places = places
        self._bounds = bounds
        self._parsing = parsing
        agent = product_token(context.settings.http.user_agent)
        self._reader = Reader(agent, lambda host: self._rule(host).obey_nofollow, self._clock.now)
        self._fetch: Fetch = context.fetcher.fetch
        self._leased: Fetch = partial(
            self._follow, is_known=is_known, judge=partial(bounds.hop, inline=False), fetch=fetch or self._fetch
        )
        self._inline: Fetch = partial(
            self._follow, is_known=lambda hop: False, judge=partial(bounds.hop, inline=True), fetch=self._fetch
        )
        for middleware in reversed(context.spider.middlewares):
            self._leased = self._wrapped(middleware, self._leased)
            self._inline = self._wrapped(middleware, self._inline)

    def send(self, request: Request, *, inline: bool = False) -> Awaitable[Response]:
        """The response, whatever its status. A redirect to another host, one to a host with a delay, and unless
        `inline` one to a page that the crawl has already, is not followed but stands in `response.next_request`.

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
        """In a turn of the host, which the caller has; a redirect of robots.txt waits for a turn of its own. Raises
        `FetchError`."""
        host = urls.host_key(request.url)
        first: list[Request] = []

        async def fetch(asked: Request) -> Response:
            if not first:
                first.append(asked)
                return await self._exchange(asked, self._fetch, is_counted=False)
            if urls.host_key(asked.url) == host:
                await self._places.again(host, _ROBOTS_PATIENCE_SECONDS)
                return await self._exchange(asked, self._fetch, is_counted=False)
            return await self._fetch_in_turn(asked)

        await self._robots.learn(request, fetch)
        if self._rule(host).obey_robots and (rules := self._robots.rules(request.url)) is not None:
            self._frontier.host(host, crawl_delay=rules.crawl_delay or 0.0)
            if rules.crawl_delay:
                self.on_pause()

    async def _fetch_in_turn(self, request: Request) -> Response:
        host = urls.host_key(request.url)
        await self._places.enter(request, _ROBOTS_PATIENCE_SECONDS)
        try:
            response = await self._exchange(request, self._fetch, is_counted=False)
        except BaseException:
            self._places.leave(host)
            raise
        response.on_close(partial(self._places.leave, host))
        return response

    def admit(self, request: Request) -> bool:
        """Whether robots.txt, if it is obeyed, is known to allow this URL; False: it has to be asked first. Raises
        `BlockedError` with reason `robots` where it disallows it, with reason `nofollow` for a link of a page that
        asks for its links not to be followed, with `host_bytes` where the host has sent enough, and what went wrong
        last where robots.txt cannot be had."""
        if request.refused:
            raise BlockedError(f"{urls.redact(request.url)}: {REFUSALS[request.refused]}", reason=request.refused)
        if self._bounds.counts_bytes:
            self._bounds.check_bytes(request.url)
        if not self._rule(urls.host_key(request.url)).obey_robots:
            return True
        decision = self._robots.check(request.url)
        if decision is None:
            closed = self._robots.closed(request.url)
            if closed is not None:
                raise closed
            return False
        if not decision.allowed:
            raise BlockedError(
                f"robots.txt of {urls.origin(request.url)} disallows {urls.redact(request.url)}"
                + (f" (line {decision.line}: {decision.rule})" if decision.line else ""),
                reason="robots",
            )
        return True

    async def _follow(
        self,
        request: Request,
        is_known: Callable[[Request], bool],
        judge: Callable[[str, int], str | None],
        fetch: Fetch,
    ) -> Response:
        self._recall_crawl_delay(request.url)
        while True:
            response = await self._exchange(request, fetch)
            hop = next_request(request, response, self._max_redirects)
            if hop is None:
                response.read_by(self._reader)
                if response.is_dear:
                    await self._parsing.prepare(response)
                return response
            response.close()
            self._stats.total.redirects += 1
            refusal = judge(hop.url, request.depth)
            if refusal is not None:
                here, there = urls.redact(request.url), urls.redact(hop.url)
                raise BlockedError(f"{here} redirects to {there}: {REFUSALS[refusal]}", reason=refusal)
            host = urls.host_key(request.url)
            has_turn = urls.host_key(hop.url) == host and not self._frontier.controller(host).delay
            if not has_turn or not self.knows_robots(hop) or is_known(hop):
                response.next_request = hop
                return response
            self.admit(hop)
            request = hop

    def _recall_crawl_delay(self, url: str) -> None:
        """Whoever fetched this robots.txt may have died with what it knew of the host; the file itself was kept."""
        rules = self._robots.rules(url)
        if rules is None or not rules.crawl_delay:
            return
        host = urls.host_key(url)
        if self._rule(host).obey_robots and not self._frontier.controller(host).crawl_delay:
            self._frontier.host(host, crawl_delay=rules.crawl_delay)

    def _wrapped(self, middleware: Middleware, inner: Fetch) -> Fetch:
        async def fetch(request: Request) -> Response:
            response = await middleware(request, inner)
            response.read_by(self._reader)  # it may have made or changed it itself
            if response.is_dear:
                await self._parsing.prepare(response)
            return response

        return fetch

    async def _exchange(self, request: Request, fetch: Fetch, *, is_counted: bool = True) -> Response:
        """Over the wire; the frontier hears when it went out and what came of it."""
        total, host = self._stats.total, urls.host_key(request.url)
        total.requests += is_counted
        controller = self._frontier.controller(host)
        if controller.delay:  # at the earliest; the next turn may come before the answer does
            self._frontier.sent(host, self._clock.now())
        try:
            response = await fetch(request)
        except FetchError as error:
            now = self._clock.now()
            self._frontier.sent(host, now)
            self._frontier.observe(host, Answer(0, error.reason), now)
            self._stats.by_proxy(error.proxy, failed=True)
            raise
        self._observe(host, response, controller)
        if is_counted:
            self._count(host, response)
        return response

    def _observe(self, host: str, response: Response, controller: Controller) -> None:
        now, status = self._clock.now(), response.status
        latency = response.elapsed_seconds - response.connect_seconds
        pause = self._retry.retry_after(response.headers, now) if status >= 400 else None
        if controller.delay:
            self._frontier.sent(host, now - latency)
        self._frontier.observe(host, Answer(status, "", latency, pause), now)
        if pause:
            self.on_pause()

    def _count(self, host: str, response: Response) -> None:
        total = self._stats.total
        total.responses += 1
        self._stats.status[response.status] += 1
        if response.proxy is not None:
            self._stats.by_proxy(response.proxy)
        if response.content is not None:
            response.on_close(partial(self._count_stream, host, response.content))
            return
        total.bytes += len(response.body)
        if self._bounds.counts_bytes:
            self._bounds.received(host, len(response.body))

    def _count_stream(self, host: str, content: StreamReader) -> None:
        self._stats.total.bytes += content.total_bytes
        self._bounds.received(host, content.total_bytes)


def check_host(controller: Controller, now: float) -> None:
    """Raises `ConnectError` with reason `host_down` where the host is given up for now."""
    if controller.circuit(now) is Circuit.DOWN:
        raise ConnectError(
            f"{controller.name} is given up for {controller.blocked_until - now:.0f} s: {controller.failures} failures "
            f"in a row, the last {controller.last_trouble}",
            reason="host_down",
            retryable=False,
        )
