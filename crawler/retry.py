"""Whether and when a request is tried again: pure decisions over tenacity's wait strategies.

A retry is a not-before time in the frontier, never a sleeping coroutine, so it holds no worker and survives a restart.
"""

from __future__ import annotations

import datetime as dt
import email.utils
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container
    from random import Random

__all__ = ["RetryPolicy", "is_repeatable", "parse_retry_after"]

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


def is_repeatable(method: str) -> bool:
    """Whether a request may be sent again without its author's word (RFC 9110, section 9.2.2: idempotent methods)."""
    return method in _IDEMPOTENT


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`times` retries at most, after `base_seconds` * 2**attempt, at most `max_seconds`, with full jitter.

    A `Retry-After` wins over both, up to `retry_after_max_seconds`.
    """

    times: int = 3
    http_codes: Container[int] = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
    base_seconds: float = 1.0
    max_seconds: float = 60.0
    retry_after_max_seconds: float = 900.0

    def wait_after(
        self, attempt: int, rng: Random, *, times: int | None = None, retry_after: float | None = None
    ) -> float | None:
        """Seconds until the next try after `attempt` (0 the first), or None to give up."""
        if attempt >= (self.times if times is None else times):
            return None
        if retry_after is not None:
            return min(retry_after, self.retry_after_max_seconds)
        # tenacity's wait_random_exponential with our own dice: uniform between 0 and the exponential ("full jitter",
        # which spreads a burst of failures best:
        # https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)
        return _full_jitter(attempt, self.base_seconds, self.max_seconds, rng)


def _full_jitter(attempt: int, base: float, maximum: float, rng: Random) -> float:
    from tenacity import RetryCallState, wait_exponential

    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempt + 1
    return rng.random() * wait_exponential(multiplier=base, max=maximum)(state)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """The field's seconds from `now` (RFC 9110, section 10.2.3: seconds or an HTTP date), never negative.

    None when it is absent or not one of the two forms; never raises.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        when = email.utils.parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=dt.UTC)
        return max(0.0, when.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
