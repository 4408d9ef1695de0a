"""A request on its way through the frontier: queued, leased, and ended.

`now` and all times are Unix times in seconds.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Counts", "Entry", "Lease", "Leased", "Outcome", "Taken", "Verdict", "Waits"]


class Entry(NamedTuple):
    """A request as the frontier sees it: where it goes, what it equals, how urgent it is, and opaque bytes."""

    host: str
    """Scheme-less host and port, the unit of politeness: `"example.com:443"`."""
    fingerprint: int
    """64 bits; two entries with one fingerprint are the same request."""
    record: bytes
    priority: int = 0
    """Higher first."""
    depth: int = 0
    not_before: float = 0.0
    """Unix time before which it is not leased."""
    filtered: bool = True
    """False: queued even when the fingerprint was seen (Scrapy's `dont_filter`)."""
    parent: tuple[str, int] | None = None
    """(host, fingerprint) of the request whose page gave this one; None: `start()` did."""


class Lease(NamedTuple):
    """One entry, handed out. Until it is completed nobody else gets it, and a crash gives it back."""

    id: int
    host: str
    record: bytes
    depth: int
    attempt: int
    """How often it was tried before: 0 the first time."""
    fingerprint: int = 0
    key: int = 0
    """64 bits that stay the same however often it is leased: the fingerprint, or for an entry that was not filtered
    one that tells it from others with this fingerprint."""
    deaths: int = 0
    """How often a process died while the code of this request ran (`Frontier.at_work`)."""


class Leased(NamedTuple):
    leases: Sequence[Lease]
    next_due: float | None
    """When something more can be leased if nothing changes until then; None: not before a lease completes or an
    entry comes."""


class Verdict(enum.Enum):
    """How a lease ended."""

    DONE = "done"
    RETRY = "retry"
    """Wait until `not_before`, then again with `attempt` one higher, behind those of its priority and depth that have
    not been tried: where a host is down, each of them fails once, rather than the first as often as it may."""
    DEAD = "dead"
    """Given up; it stays known, so it is not queued again."""
    RELEASE = "release"
    """Never really tried: back to its place, `attempt` unchanged."""


class Outcome(NamedTuple):
    lease: Lease
    verdict: Verdict
    not_before: float = 0.0
    end: bytes = b""
    """Kept where the verdict is final; `Frontier.ended` gives it back."""
    record: bytes = b""
    """With `RETRY`: what waits in place of the lease's record; empty: the same."""


class Counts(NamedTuple):
    """Monotone counters but for the first four, which are levels."""

    queued: int
    """Waiting, the deferred ones included, the leased ones not."""
    leased: int
    active_hosts: int
    """Hosts with something waiting or leased."""
    hosts: int
    """Hosts ever met."""
    added: int
    duplicates: int
    completed: int


class Waits(NamedTuple):
    """What hosts with work wait for, now."""

    ready: int = 0
    """Nothing: it is their turn."""
    delayed: int = 0
    """Their next turn, or the time of a request."""
    full: int = 0
    """An answer: all their places are taken."""
    paused: int = 0
    """The end of a pause."""


class Taken(NamedTuple):
    """What came of the epoch of another process."""

    known: int
    """Of its entries, those that were no news."""
    entries: int
    ends: int
    named: Sequence[str] = ()
    """Hosts that `start()` named."""
    is_started: bool = False
    """`start()` came to its end."""
