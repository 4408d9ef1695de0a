"""How a host is treated: pure decisions.

A host gets at most `concurrency` requests at a time, and two of its requests start at least `delay` seconds apart.
Jitter only ever adds to the delay, so that the delay a user sets is a floor that a site owner can measure. While a
host errs (429, 5xx, time-outs, lost connections) its delay doubles, up to `max_delay_seconds`; each good answer
halves it again, down to the configured one: back off fast, because a host in trouble is worth more than a page, and
come back fast, because the trouble of most hosts is short.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HostRule", "after_error", "after_success", "is_trouble", "spacing"]

_TROUBLED_STATUSES = frozenset({429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_TROUBLED_REASONS = frozenset(
    {"connect_timeout", "read_timeout", "total_timeout", "connect_refused", "connect_reset", "disconnected"}
)


@dataclass(frozen=True, slots=True)
class HostRule:
    """One host's configured treatment; delays in seconds."""

    delay: float = 0.5
    jitter: float = 0.3
    concurrency: int = 2
    adaptive: bool = True
    max_delay: float = 60.0
    obey_robots: bool = True


def spacing(delay: float, jitter: float, chance: float) -> float:
    """Seconds from one start to the next; `chance` is uniform in [0, 1)."""
    return delay * (1.0 + jitter * chance)


def is_trouble(status: int | None, reason: str | None) -> bool:
    """Whether an answer or a failure says that the host is overloaded or ill."""
    return status in _TROUBLED_STATUSES or reason in _TROUBLED_REASONS


def after_error(delay: float, rule: HostRule) -> float:
    """The delay after a sign of trouble. A configured delay of 0 stays 0: its owner asked for that."""
    return min(max(delay, rule.delay) * 2, max(rule.max_delay, rule.delay))


def after_success(delay: float, rule: HostRule) -> float:
    """The delay after a good answer."""
    return max(delay / 2, rule.delay)
