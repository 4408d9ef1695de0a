"""One leased request, to its end: a page for its callback, a failure for its errback, a retry, a redirect to another
host, or back to the frontier. Decisions are the rules' (`retry`, `politeness`, `redirect`); effects are the `Page`'s.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from crawler import crash, fate, politeness
from crawler.contracts import Lease, Verdict
from crawler.errors import BlockedError, CallbackTimeout, CrawlerError, EngineUnavailable, FetchError, StatusError
from crawler.fate import Fate
from crawler.retry import is_repeatable, parse_retry_after
from crawler.settings import StatusSet
from crawler.spider import Failure
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.bounds import Bounds
    from crawler.collector import Collector
    from crawler.context import Context
    from crawler.exchange import Exchange
    from crawler.inline import Inline
    from crawler.page import Page
    from crawler.request import Request
    from crawler.response import Response

__all__ = ["Visits"]

logger = logging.getLogger("crawler.visit")

_NAME_SECONDS = 0.1
"""How long a worker waits for a name: nearly all are there by then."""
_LONGEST_MESSAGE = 500
"""Of an error, as it is kept for `crawler explain`."""
_NAME_PAUSE_SECONDS = 0.5
"""Shorter than the second for which any answer is kept."""


class Visits:
    """Does visits, one at a time for each worker: `await visits.visit(page, request, lease, leave)`."""

    def __init__(
        self, context: Context, *, bounds: Bounds, exchange: Exchange, collector: Collector, inline: Inline
    ) -> None:
        self._spider = context.spider
        self._settings = context.settings
        self._frontier = context.frontier
        self._stats = context.stats
        self._clock = context.clock
        self._retry = context.retry
        self._rule = context.rule
        self._rng = context.rng
        self._fetcher = context.fetcher
        self._slow_names: set[str] = set()
        self._bounds = bounds
        self._exchange = exchange
        self._collector = collector
        self._inline = inline

    async def visit(self, page: Page, request: Request, lease: Lease, leave: Callable[[bool], None]) -> None:
        """Fill `page` with what the request causes. Calls `leave(unused)` when the host's place is free.

        Raises `EngineUnavailable` and CancelledError only; then `page` must not be applied as it is.
        """
        try:
            await self._visit(page, request, lease, leave)
        finally:
            self._inline.close_streams()
            self._collector.forget_hops()

    async def _visit(self, page: Page, request: Request, lease: Lease, leave: Callable[[bool], None]) -> None:
        try:
            has_place = self._bounds.take(lease, request.url)
            admitted = self._exchange.admit(request)
        except BlockedError as error:
            leave(True)
            await self._fail(page, request, lease, error)
            return
        if not has_place or not await self._is_resolved(request, lease):
            page.verdict = Verdict.RELEASE
            leave(True)
            return
        try:
            response = await self._download(page, request, lease, admitted)
        except FetchError as error:
            leave(False)
            await self._fail(page, request, lease, error)
            return
        except EngineUnavailable:
            raise
        except Exception as error:
            leave(False)
            logger.exception("a middleware of spider %r raised on %r", self._spider.name, request)
            await self._fail(page, request, lease, error, reason="middleware_error")
            return
        if response is None:
            leave(False)
            return
        try:
            if request.stream:  # the place is the stream's until that is closed
                response.on_close(lambda: leave(False))
                self._inline.lend(response)
            else:
                leave(False)
            if response.status in self._ok_status(request):
                await self._call_back(page, lease, response)
            else:
                await self._fail(page, request, lease, StatusError(response.status, redact(response.url)), response)
        finally:
            response.close()

    # -- from the request to the response ----------------------------------------------------------------------------

    async def _is_resolved(self, request: Request, lease: Lease) -> bool:
        """Whether the host's name is known, or known not to be. A slow name server must not hold a worker: the request
        goes back, and looks again a moment later."""
        lookup = self._fetcher.lookup(request)
        if lookup is None:
            self._slow_names.discard(lease.host)
            return True
        if lease.host not in self._slow_names:
            await asyncio.wait([lookup], timeout=_NAME_SECONDS)
            if lookup.done():
                return True
            self._slow_names.add(lease.host)
        self._frontier.host(lease.host, blocked_until=self._clock.now() + _NAME_PAUSE_SECONDS)
        return False

    async def _download(self, page: Page, request: Request, lease: Lease, admitted: bool) -> Response | None:
        """The response for the callback, or None when the page has come to another end."""
        try:
            if not (admitted or self._exchange.knows_robots(request)):
                # robots.txt takes this turn of the host; the request itself comes with the next.
                await self._exchange.learn_robots(request)
                page.verdict = Verdict.RELEASE
                return None
            response = await self._exchange.send(request)
        except FetchError as error:
            self._adapt(lease.host, None, error.reason)
            if error.retryable and self._try_again(page, request, lease, None, error.least_wait_seconds):
                logger.debug("%r: %s, again later", request, error)
                return None
            raise
        self._adapt(lease.host, response.status, None)
        if response.next_request is not None:
            self._requeue(page, request, lease, response)
        elif response.status in self._settings.retry.http_codes and self._try_again(page, request, lease, response):
            logger.debug("%r: status %d, again later", request, response.status)
        else:
            if len(response.history) > len(request.history):
                page.reached = self._collector.reached(page, response.request, response.status)
            crash.point("after_fetch")
            return response.taken_for(request)
        response.close()
        return None

    def _try_again(
        self, page: Page, request: Request, lease: Lease, response: Response | None, least_wait: float = 0.0
    ) -> bool:
        """Put the request off, unless it was tried often enough."""
        if not is_repeatable(request.method) and request.retry_times is None:
            return False
        now = self._clock.now()
        retry_after = None if response is None else parse_retry_after(response.headers.get("Retry-After"), now)
        wait = self._retry.wait_after(lease.attempt, self._rng, times=request.retry_times, retry_after=retry_after)
        if retry_after is not None:
            # The host asked for a pause, whether this request is given another try or not.
            pause = min(retry_after, self._retry.retry_after_max_seconds)
            self._frontier.host(lease.host, blocked_until=now + pause)
        if wait is None:
            return False
        page.verdict, page.not_before = Verdict.RETRY, now + max(wait, least_wait)
        self._stats.total.retries += 1
        return True

    def _requeue(self, page: Page, request: Request, lease: Lease, response: Response) -> None:
        """A redirect to another host waits for that host's turn."""
        hop = response.next_request
        assert hop is not None
        if self._collector.is_known(hop):
            self._stats.total.duplicates += 1
        else:
            page.entries.append(self._collector.entry(hop, request.depth, page.parent)._replace(filtered=False))
        page.fate = self._fate(fate.Verdict.REDIRECTED, request, lease, response, target=redact(hop.url))

    def _adapt(self, host: str, status: int | None, reason: str | None) -> None:
        rule = self._rule(host)
        if not rule.adaptive:
            return
        delay = self._frontier.delay(host)
        if politeness.is_trouble(status, reason):
            changed = politeness.after_error(delay, rule)
        else:
            changed = politeness.after_success(delay, rule)
        if changed != delay:
            self._frontier.host(host, delay=changed)

    def _ok_status(self, request: Request) -> StatusSet:
        return self._settings.http.ok_status if request.ok_status is None else StatusSet(request.ok_status)

    # -- from the response to the effects ----------------------------------------------------------------------------

    async def _call_back(self, page: Page, lease: Lease, response: Response) -> None:
        request = response.request
        name = request.callback or "parse"
        seconds = self._settings.crawl.callback_timeout_seconds or None
        page.delivered = True
        if not request.stream:
            page.watch = self._bounds.look(response.url, response.body)
        target = redact(response.url) if response.history else ""
        page.fate = self._fate(fate.Verdict.DONE, page.request or request, lease, response, target=target)
        try:
            await self._collector.run(page, getattr(self._spider, name), response, request.cb_kwargs, seconds)
        except EngineUnavailable:
            raise
        except FetchError as error:  # of an inline fetch or a stream in the callback
            await self._fail(page, request, lease, error, response)
        except Exception as error:
            reason = "callback_timeout" if isinstance(error, CallbackTimeout) else "callback_error"
            if isinstance(error, CrawlerError):  # its message says it all
                logger.error("%s of spider %r, on %r: %s", name, self._spider.name, response, error)
            else:
                logger.exception("%s of spider %r raised on %r", name, self._spider.name, response)
            await self._fail(page, request, lease, error, response, reason=reason)

    async def _fail(
        self,
        page: Page,
        request: Request,
        lease: Lease,
        error: Exception,
        response: Response | None = None,
        *,
        reason: str | None = None,
    ) -> None:
        """To the errback, once; what it gives counts as the page's."""
        reason = reason or str(getattr(error, "reason", "error"))
        word = fate.Verdict.FAILED
        if isinstance(error, BlockedError):
            page.refusal, word = reason, fate.Verdict.REFUSED
        else:
            page.failures.append(reason)
        page.fate = self._fate(word, page.request or request, lease, response, reason=reason, message=str(error))
        name = request.errback or "failed"
        failure = Failure(request, reason, error, response, lease.attempt + 1)
        seconds = self._settings.crawl.callback_timeout_seconds or None
        try:
            await self._collector.run(page, getattr(self._spider, name), failure, {}, seconds)
        except EngineUnavailable:
            raise
        except Exception:
            logger.exception("errback %s of spider %r raised on %r", name, self._spider.name, failure)
            page.failures.append("errback_error")

    def _fate(
        self,
        verdict: str,
        request: Request,
        lease: Lease,
        response: Response | None,
        *,
        reason: str = "",
        message: str = "",
        target: str = "",
    ) -> Fate:
        return Fate(
            redact(request.url),
            verdict,
            self._clock.now(),
            lease.depth,
            lease.attempt + 1,
            0 if response is None else response.status,
            reason,
            message[:_LONGEST_MESSAGE],
            target,
        )
