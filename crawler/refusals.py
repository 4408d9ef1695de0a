"""URLs that never came to the frontier, and why: for `crawler explain`. A site can name any number of them, so only
the first of each reason are kept."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from crawler.fate import Refusal
from crawler.redaction import without_userinfo
from crawler.url import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crawler.contracts import Clock
    from crawler.url import Fingerprinter

__all__ = ["Refusals"]

KEPT_PER_REASON = 10_000
"""Some 2 MB on disk for each of a dozen reasons."""


class Refusals:
    """`known` are the rows of earlier runs."""

    def __init__(self, fingerprint: Fingerprinter, clock: Clock, known: Iterable[bytes] = ()) -> None:
        self._fingerprint = fingerprint
        self._clock = clock
        self._seen: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._rows: dict[str, bytes | None] = {}
        for record in known:
            refusal = Refusal.decode(record)
            self._seen.add(hash((refusal.url, refusal.reason)))
            self._counts[refusal.reason] += 1

    def note(self, url: str, reason: str, depth: int, found_on: str) -> None:
        if self._counts[reason] >= KEPT_PER_REASON:
            return
        shown = without_userinfo(url)
        mark = hash((shown, reason))
        if mark in self._seen:
            return
        self._seen.add(mark)
        self._counts[reason] += 1
        key = f"refused/{self._fingerprint(canonical(url)):016x}"
        self._rows[key] = Refusal(shown, reason, depth, without_userinfo(found_on), self._clock.now()).encode()

    def rows(self) -> dict[str, bytes | None]:
        """For `Frontier.commit`: those since the last call."""
        rows, self._rows = self._rows, {}
        return rows
