"""What a crawl may not go beyond, as the loop asks it: scope, budgets and traps.

a link, a request of a callback     outside, then beyond if it is new     refused before it is queued
a leased request                    take                                  refused before anything is sent
a redirect                          hop                                   the request that led there is refused
a page                              look, settle                          counted when it takes effect
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crawler import url as urls
from crawler.budgets import Budgets, Limits
from crawler.errors import BlockedError
from crawler.fate import REFUSALS
from crawler.traps import Traps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crawler.context import Context
    from crawler.contracts import Lease
    from crawler.page import Page
    from crawler.scope import Scope
    from crawler.url import Fingerprinter

__all__ = ["Bounds"]

logger = logging.getLogger("crawler.bounds")

_PAUSE_SECONDS = 0.1
"""Of a host whose last pages are in flight: whether one of them gives its place back is known soon."""


class Bounds:
    """Reasons are words of `crawler.fate.REFUSALS`."""

    def __init__(self, context: Context, scope: Scope, fingerprint: Fingerprinter) -> None:
        crawl, frontier = context.settings.crawl, context.frontier
        limits = Limits(crawl.pages_per_host, crawl.bytes_per_host, crawl.hosts_per_domain, crawl.query_permutations)
        self.outside = scope.refusal
        """Why a URL is not crawled at this depth, whatever was crawled before."""
        self._frontier = frontier
        self._clock = context.clock
        self._fingerprint = fingerprint
        self._budgets = Budgets(limits, fingerprint, frontier.get)
        self._traps = Traps(crawl.trap_pages, (row for _, row in frontier.rows("trap/")))
        self._within, self._closed = self._budgets.within, self._traps.closed
        self._counts_hosts = self._budgets.counts_hosts
        self.look = self._traps.look
        """At a page before its callback runs: what to keep as `Page.watch`."""
        self.counts_bytes = crawl.bytes_per_host > 0
        self.received = self._budgets.received
        """Bytes of a body came from a host."""

    def beyond(self, page: Page, url: str, host: str, fingerprint: int) -> str | None:
        """Why a URL that a page gives is not queued although it is in scope; None counts it in, if it is new."""
        if "&" not in url and page.watch is None:
            if host in self._within and not (self._closed or self._counts_hosts):
                return None
        elif self._frontier.seen(host, fingerprint):
            return None  # it costs nothing more
        reason = self._beyond(url, host, named=page.lease is None and host in page.named)
        if reason is None:
            if page.watch is not None:
                page.watch.gave(url)
            return None
        return None if self._frontier.seen(host, fingerprint) else reason

    def hop(self, url: str, depth: int, *, inline: bool) -> str | None:
        """Why a redirect to this URL is not followed. Inline fetches give no pages, so budgets of pages do not count
        for them."""
        reason = self.outside(url, depth)
        if reason is not None or inline:
            return reason
        host = urls.host_key(url)
        reason = self._beyond(url, host)
        if reason is None or self._frontier.seen(host, self._fingerprint(urls.canonical(url))):
            return None
        return reason

    def take(self, lease: Lease, url: str) -> bool:
        """Whether a leased request may start; False: later, perhaps. Raises `BlockedError` where it may not."""
        if not (self._closed or self._counts_hosts):
            return True
        reason = "trap" if self._traps.is_closed(url) else self._budgets.spent(lease.host)
        if reason is not None:
            raise _refused(url, reason)
        if self._budgets.take(lease.id, lease.host):
            return True
        self._frontier.host(lease.host, blocked_until=self._clock.now() + _PAUSE_SECONDS)
        return False

    def check_bytes(self, url: str) -> None:
        """Raises `BlockedError` where nothing more may be sent to the URL's host, inline fetches included."""
        if self._budgets.spent(urls.host_key(url)) == "host_bytes":
            raise _refused(url, "host_bytes")

    def settle(self, page: Page) -> None:
        """The page takes effect, whatever came of it."""
        if self._counts_hosts and page.lease is not None:
            self._budgets.settle(page.lease.id, delivered=page.delivered)
        if page.watch is not None and page.delivered:
            closed = self._traps.settle(page.watch, has_items=page.item_count + page.items_dropped > 0)
            if closed is not None:
                logger.warning(
                    "a trap (%s): %d pages of %s, and the last ones brought nothing new; no more of them are fetched "
                    "(crawl.trap_pages = 0 switches this off)",
                    closed.kind, closed.pages, urls.redact(closed.pattern),
                )  # fmt: skip

    def learn(self, values: Mapping[str, bytes | None]) -> None:
        """What other workers counted and closed: `values` of theirs, which `Frontier.get` gives as well."""
        self._budgets.reread(values)
        self._traps.learn(value for key, value in values.items() if key.startswith("trap/") and value is not None)

    def rows(self) -> dict[str, bytes | None]:
        """For `Frontier.commit`: what changed since the last call."""
        return {**self._budgets.rows(), **self._traps.rows()}

    def _beyond(self, url: str, host: str, *, named: bool = False) -> str | None:
        if self._closed and self._traps.is_closed(url):
            return "trap"
        return self._budgets.refusal(url, host, named=named)

    def __repr__(self) -> str:
        return f"<Bounds {self._budgets!r} {self._traps!r}>"


def _refused(url: str, reason: str) -> BlockedError:
    return BlockedError(f"{urls.redact(url)}: {REFUSALS[reason]}", reason=reason)
