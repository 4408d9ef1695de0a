"""What one page causes, gathered before any of it takes effect.

The loop applies the whole `Page` in one synchronous step, so that a page's effects are in one epoch. What a callback
gives becomes such effects in `collector.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from crawler import fate
from crawler.contracts import Verdict
from crawler.fate import Fate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.contracts import Entry, Lease, Spool
    from crawler.request import Request
    from crawler.traps import Watch

__all__ = ["ITEM_FAILURES", "Page", "Reached"]

ITEM_FAILURES = frozenset({"pipeline_error", "pipeline_timeout", "item_error"})
"""Why items of a page were refused, as statistics count it."""


class Reached(NamedTuple):
    """Where redirects led; the arguments of `Frontier.remember`."""

    host: str
    fingerprint: int
    parent: tuple[str, int] | None
    end: bytes


class Page:
    """One request's processing and everything it causes. `lease` is None for what `start()` gives."""

    __slots__ = (
        "delivered",
        "depth",
        "entries",
        "failures",
        "fate",
        "item_count",
        "items_dropped",
        "items_unchanged",
        "kept",
        "lease",
        "named",
        "not_before",
        "not_modified",
        "outputs",
        "reached",
        "record",
        "refusal",
        "refused",
        "refused_count",
        "request",
        "spools",
        "unchanged",
        "undelivered",
        "verdict",
        "watch",
    )

    def __init__(self, request: Request | None, lease: Lease | None) -> None:
        self.request = request
        self.lease = lease
        self.depth = 0 if request is None else request.depth + 1
        """Of the requests that this page gives."""
        self.verdict = Verdict.DONE
        self.not_before = 0.0
        self.record = b""
        """Of a request that is tried again, with what came of it so far."""
        self.entries: list[Entry] = []
        self.kept: list[Entry] = []
        """Those of `entries` that must not be handed over before the page ends: they would come twice."""
        self.spools: Sequence[Spool] = ()
        """The items as each of the exporters has them."""
        self.item_count = 0
        self.undelivered: list[Any] = []
        """Items that wait for the page's end before somebody is given them (`crawl.partial_pages`)."""
        self.refused: Spool | None = None
        """Lines for the job's file of refused items."""
        self.refused_count = 0
        self.outputs = 0
        """Items and requests so far, of the callback or errback that runs."""
        self.failures: list[str] = []
        """Reasons that count as errors when the page takes effect."""
        self.refusal = ""
        """Of our own rules; it counts then, too."""
        self.items_dropped = 0
        self.unchanged = False
        """Its body is the one of the last crawl."""
        self.items_unchanged = 0
        """Those that were not wanted of such a page."""
        self.not_modified = False
        """The server said so (304), and no callback ran."""
        self.fate: Fate | None = None
        self.reached: Reached | None = None
        self.named: set[str] = set()
        """Hosts that `start()` named in requests of its own, as opposed to links it found."""
        self.delivered = False
        """A callback got its response: it counts as a page."""
        self.watch: Watch | None = None
        """Its URL is of a pattern that is watched: it may be a trap."""

    @property
    def end(self) -> bytes:
        """What the frontier keeps of it."""
        return b"" if self.fate is None else self.fate.encode()

    @property
    def parent(self) -> tuple[str, int] | None:
        """As `Entry.parent` of what it gives."""
        return None if self.lease is None else (self.lease.host, self.lease.fingerprint)

    def drop(self) -> None:
        """Nothing that it gave counts: where it was redirected to, somebody else was before."""
        self.entries, self.kept, self.delivered, self.not_modified = [], [], False, False
        self.items_unchanged = 0
        if self.fate is not None and self.reached is not None:
            target = Fate.decode(self.reached.end).url
            self.fate = msgspec.structs.replace(self.fate, verdict=fate.Verdict.REDIRECTED, target=target, revisit=None)
        self.close()

    def invalidate(self) -> None:
        """What it gave is not whole: the next time it is to be read again, whatever the server says of it."""
        if self.fate is not None and self.fate.revisit is not None:
            again = msgspec.structs.replace(self.fate.revisit, content=b"", etag="", last_modified="")
            self.fate = msgspec.structs.replace(self.fate, revisit=again)
        if self.reached is not None:
            end = msgspec.structs.replace(Fate.decode(self.reached.end), revisit=None)
            self.reached = self.reached._replace(end=end.encode())

    def retract(self) -> None:
        """Its callback or errback failed, and nothing that it gave so far is to count."""
        self.entries, self.kept, self.undelivered = [], [], []
        self.failures = [reason for reason in self.failures if reason not in ITEM_FAILURES]
        self.items_dropped = self.items_unchanged = 0
        self.close()

    def close(self) -> None:
        """Let go of items that nobody wants."""
        for spool in (*self.spools, *([] if self.refused is None else [self.refused])):
            spool.close()
        self.spools, self.item_count = (), 0
        self.refused, self.refused_count = None, 0
