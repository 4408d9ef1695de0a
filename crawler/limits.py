"""The limits of one run, as `crawl.*` and `output.refused_limit` say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crawler.settings import Settings
    from crawler.stats import Totals

__all__ = ["RunLimits"]


class RunLimits:
    """Errors and refused items count from the start of this run, items and pages from that of the job. `total` is
    looked at again at each `reached`."""

    def __init__(self, settings: Settings, total: Totals) -> None:
        self._limits = settings.crawl
        self._refused_limit = settings.output.refused_limit
        self._total = total
        self._earlier_errors = total.errors
        self._earlier_refused = total.items_refused

    def reached(self) -> str | None:
        """`error_limit`, `refused_limit`, `item_limit`, `page_limit`; None: none of them."""
        limits, total = self._limits, self._total
        if limits.error_limit and total.errors - self._earlier_errors >= limits.error_limit:
            return "error_limit"
        if self._refused_limit and total.items_refused - self._earlier_refused > self._refused_limit:
            return "refused_limit"
        if limits.item_limit and total.items >= limits.item_limit:
            return "item_limit"
        if limits.page_limit and total.pages >= limits.page_limit:
            return "page_limit"
        return None
