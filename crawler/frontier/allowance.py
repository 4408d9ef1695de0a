"""A worker's part of a limit that holds over all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Allowance"]


class Allowance:
    """How many of the pages that `crawl.page_limit` allows over all workers may be begun here."""

    def __init__(self, limit: int) -> None:
        self._is_limited = limit > 0
        self._pages: Callable[[], int] = lambda: 0
        self._told = 0
        self._units = self._begun = 0
        self._refusals = 0

    def count(self, pages: Callable[[], int]) -> None:
        self._pages, self._told = pages, pages()

    @property
    def left(self) -> int:
        return self._units - self._begun - (self._pages() - self._told) if self._is_limited else 1 << 30

    @property
    def is_short(self) -> bool:
        return self._is_limited and self.left <= 0

    @property
    def is_over(self) -> bool:
        """None were left, twice in a row: those that others have not used may yet come back."""
        return self._refusals > 1

    def take_in(self, units: int) -> None:
        self._units += units
        self._refusals = 0 if units else self._refusals + 1

    def begin(self, count: int) -> None:
        self._begun += count

    def end(self) -> None:
        """Of one that was begun: it was a page now, or none."""
        self._begun -= 1

    def settle(self) -> int:
        """How many were used since the last time."""
        used = self._pages() - self._told
        self._told += used
        self._units -= used
        return used
