"""One leased request, to its end: a page for its callback, a failure for its errback, a retry, a redirect to another
host, or back to the frontier. Decisions are the rules' (`retry`, `politeness`, `redirect`); effects are the `Page`'s.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from crawler import crash, fate
from crawler.attempt import Attempt, kept, summary
from crawler.contracts import Lease, Verdict
from crawler.errors import (
    BlockedError,
    CallbackTimeout,
    CrawlerError,
    EngineUnavailable,
    FetchError,
    StatusError,
    message_of,
)
from crawler.exchange import check_host
from crawler.fate import Fate
from crawler.politeness import Pause
from crawler.redaction import without_userinfo
from crawler.retry import is_repeatable
from crawler.settings import StatusSet
from crawler.spider import Failure, callback_of
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.bounds import Bounds
    from crawler.collector import Collector
    from crawler.context import Context
    from crawler.exchange import Exchange
    from crawler.fate import Revisit
    from crawler.inline import Inline
    from crawler.page import Page
    from crawler.refresh import Refresh, Revisits
    from crawler.request import Request
    from crawler.response import Response

__all__ = ["Visits"]

logger = logging.getLogger("crawler.visit")

_NAME_SECONDS = 0.1
"""How long a worker waits for a name: nearly all are there by then."""
_LONGEST_MESSAGE = 500
"""Of an error, as it is kept for `crawler explain`."""
_HIGHEST_PRIORITY = 2**31 - 1
_NAME_PAUSE_SECONDS = 0.5
"""Shorter than the second for which any answer is kept."""


class Visits:
    """Does visits, one at a time for each worker: `await visits.visit(page, request, lease, leave)`."""

    def __init__(
        self,
        context: Context,
        *,
        bounds: Bounds,
        exchange: Exchange,
        collector: Collector,
        inline: Inline,
        revisits: Revisits,
        refresh: Refresh | None = None,
    ) -> None:
        self._spider = context.spider
        self._settings = context.settings
        self._frontier = context.frontier
        self._stats = context.stats
        self._clock = context.clock
        self._retry = context.retry
        self._by_address = context.settings.politeness.group_by == "ip"
        self._rng = context.rng
        self._fetcher = context.fetcher
        self._slow_names: set[str] = set()
        self._bounds = bounds
        self._exchange = exchange
        self._collector = collector
        self._inline = inline
        self._revisits = revisits
        self._refresh = refresh

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
            may_be_sent = self._has_turn(lease.host) and self._bounds.take(lease, request.url)
            admitted = self._exchange.admit(request)
        except FetchError as error:
            leave(True)
            await self._fail(page, request, lease, error)
            return
        if not (may_be_sent and (self._is_known(request, lease.host) or await self._has_address(request, lease))):
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
            if response.validated is not None:
                self._keep(page, lease, response)
            elif response.status in self._ok_status(request):
                await self._call_back(page, lease, response)
            else:
                await self._fail(page, request, lease, StatusError(response.status, redact(response.url)), response)
        finally:
            response.close()

    # -- from the request to the response ----------------------------------------------------------------------------

    def _has_turn(self, host: str) -> bool:
        """Unless it asked for a pause since. Raises `ConnectError` where it is given up."""
        now, controller = self._clock.now(), self._frontier.controller(host)
        if controller.blocked_until <= now:
            return True
        check_host(controller, now)
        return False

    def _is_known(self, request: Request, host: str) -> bool:
        """Whether there is nothing to find out about the host's address: nearly always."""
        if self._by_address or self._fetcher.lookup(request) is not None:
            return False
        if self._slow_names:
            self._slow_names.discard(host)
        return True

    async def _has_address(self, request: Request, lease: Lease) -> bool:
        """Whether the host's name is known, or known not to be, and it still is its turn, which may now be that
        of another group."""
        lookup = self._fetcher.lookup(request)
        if lookup is not None and not await self._is_resolved(lookup, lease):
            return False
        if self._by_address:
            address = self._fetcher.address(request)
            if address is not None and self._frontier.regroup(lease.host, address):
                return False
        return not self._frontier.controller(lease.host).is_paused(self._clock.now())

    async def _is_resolved(self, lookup: asyncio.Future[Any], lease: Lease) -> bool:
        """A slow name server must not hold a worker: the request goes back, and looks again a moment later."""
        if lease.host not in self._slow_names:
            await asyncio.wait([lookup], timeout=_NAME_SECONDS)
            if lookup.done():
                return True
            self._slow_names.add(lease.host)
        self._frontier.host(lease.host, blocked_until=self._clock.now() + _NAME_PAUSE_SECONDS, pause=Pause.NAME)
        return False

    async def _download(self, page: Page, request: Request, lease: Lease, admitted: bool) -> Response | None:
        """The response for the callback, or None when the page has come to another end."""
        try:
            if not (admitted or self._exchange.knows_robots(request)):
                # robots.txt takes this turn of the host; the request itself comes with the next.
                await self._learn_robots(page, request, lease)
                return None
            response = await self._exchange.send(request)
        except FetchError as error:
            if error.retryable and self._try_again(page, request, lease, None, error):
                logger.debug("%r: %s, again later", request, error)
                return None
            raise
        if response.next_request is not None:
            self._requeue(page, request, lease, response)
        elif response.status in self._settings.retry.http_codes and self._try_again(page, request, lease, response):
            logger.debug("%r: status %d, again later", request, response.status)
        else:
            if len(response.history) > len(request.history):
                revisit = self._revisits.of_target(response)
                page.reached = self._collector.reached(page, response.request, response.status, revisit)
            crash.point("after_fetch")
            return response.taken_for(request)
        response.close()
        return None

    async def _learn_robots(self, page: Page, request: Request, lease: Lease) -> None:
        """Without its rules nobody goes to the host, so where they cannot be had all of its requests wait."""
        page.verdict = Verdict.RELEASE
        try:
            await self._exchange.learn_robots(request)
        except FetchError as error:
            if not (error.retryable and self._try_again(page, request, lease, None, error)):
                page.verdict = Verdict.DONE
                raise
            logger.debug("%r: %s, again later", request, error)
            self._frontier.host(lease.host, blocked_until=page.not_before, pause=Pause.ROBOTS)

    def _try_again(
        self, page: Page, request: Request, lease: Lease, response: Response | None, error: FetchError | None = None
    ) -> bool:
        """Put the request off, unless it was tried often enough. One of `response` and `error` is there."""
        if not is_repeatable(request.method) and request.retry_times is None:
            return False
        now, controller = self._clock.now(), self._frontier.controller(lease.host)
        if controller.is_to_blame(lease.attempt, now):
            page.verdict, page.not_before = Verdict.RELEASE, now  # that the host is down says nothing of it
            self._stats.total.retries += 1
            return True
        wait = self._retry.wait_after(
            lease.attempt,
            self._rng,
            times=request.retry_times,
            retry_after=None if response is None else self._retry.retry_after(response.headers, now),
            host_failures=controller.failures,
        )
        if wait is None:
            return False
        if error is None:
            assert response is not None
            error = StatusError(response.status, redact(response.url))
        wait = max(wait, error.least_wait_seconds)
        page.verdict, page.not_before = Verdict.RETRY, now + wait
        page.record = self._collector.tried(lease, Attempt.of(error, now, wait_seconds=wait))
        self._stats.total.retries += 1
        return True

    def _requeue(self, page: Page, request: Request, lease: Lease, response: Response) -> None:
        """A redirect waits for its host's turn, and has the next one there: what it leads to may not keep."""
        hop = response.next_request
        assert hop is not None
        if self._collector.is_known(hop):
            self._stats.total.duplicates += 1
        else:
            entry = self._collector.entry(hop, request.depth, page.parent)
            page.entries.append(entry._replace(filtered=False, priority=min(entry.priority + 1, _HIGHEST_PRIORITY)))
        page.fate = self._fate(fate.Verdict.REDIRECTED, request, lease, response, target=without_userinfo(hop.url))

    def _ok_status(self, request: Request) -> StatusSet:
        return self._settings.http.ok_status if request.ok_status is None else StatusSet(request.ok_status)

    # -- from the response to the effects ----------------------------------------------------------------------------

    def _keep(self, page: Page, lease: Lease, response: Response) -> None:
        """The server says that the page is what it was: so is what it gave, and nothing of it is done again."""
        page.not_modified = True
        asked, target = page.request or response.request, without_userinfo(response.url) if response.history else ""
        again = self._revisits.of_page(asked, lease, response)
        page.fate = self._fate(fate.Verdict.DONE, asked, lease, response, target=target, revisit=again)

    async def _call_back(self, page: Page, lease: Lease, response: Response) -> None:
        request = response.request
        name = request.callback or "parse"
        seconds = self._settings.crawl.callback_timeout_seconds or None
        page.delivered = True
        if not request.stream:
            page.watch = self._bounds.look(response.url, response.body)
        asked, target = page.request or request, without_userinfo(response.url) if response.history else ""
        again = self._revisits.of_page(asked, lease, response)
        page.fate = self._fate(fate.Verdict.DONE, asked, lease, response, target=target, revisit=again)
        if self._refresh is not None and self._refresh.is_unchanged(lease, response):
            response.changed, page.unchanged = False, True
        try:
            await self._collector.run(page, callback_of(self._spider, name), response, request.cb_kwargs, seconds)
            if self._collector.is_whole:
                await self._collector.settle(page)
            if page.failures:  # of its items
                page.invalidate()
        except EngineUnavailable:
            raise
        except FetchError as error:  # of an inline fetch or a stream in the callback
            self._collector.retract(page)
            await self._fail(page, request, lease, error, response)
        except Exception as error:
            reason = "callback_timeout" if isinstance(error, CallbackTimeout) else "callback_error"
            if isinstance(error, CrawlerError) and error.__cause__ is None:  # its message says it all
                logger.error("%s of spider %r, on %r: %s", name, self._spider.name, response, error)
            else:
                logger.exception("%s of spider %r raised on %r", name, self._spider.name, response)
            self._collector.retract(page)
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
        asked = page.request or request
        ok = response is not None and response.status in self._ok_status(request)
        again = self._revisits.of_failure(asked, lease, error, response, ok=ok)
        page.fate = self._fate(word, asked, lease, response, reason=reason, message=message_of(error), revisit=again)
        page.invalidate()
        name = request.errback or "failed"
        status = 0 if response is None else response.status
        last = Attempt.of(error, self._clock.now(), reason=reason, status=status)
        history = kept((page.request or request).attempts, last)
        failure = Failure(request, reason, error, response, lease.attempt + 1, history)
        seconds = self._settings.crawl.callback_timeout_seconds or None
        try:
            await self._collector.run(page, callback_of(self._spider, name), failure, {}, seconds)
            if self._collector.is_whole:
                await self._collector.settle(page)
        except EngineUnavailable:
            raise
        except Exception:
            self._collector.retract(page)
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
        revisit: Revisit | None = None,
    ) -> Fate:
        status = 0 if response is None else response.status
        tries = ""
        if request.attempts:
            now = Attempt(self._clock.now(), reason or f"status_{status}", status)
            tries = summary(kept(request.attempts, now), lease.attempt + 1)
        return Fate(
            without_userinfo(request.url),
            verdict,
            self._clock.now(),
            lease.depth,
            lease.attempt + 1,
            status,
            reason,
            message[:_LONGEST_MESSAGE],
            target,
            tries,
            revisit,
        )
