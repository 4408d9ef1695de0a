"""Whether and when a request is tried again: pure decisions over tenacity's wait strategies.

A retry is a not-before time in the frontier, never a sleeping coroutine, so it holds no worker and survives a restart.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container
    from random import Random

    from multidict import CIMultiDictProxy

__all__ = ["RetryPolicy", "is_repeatable", "parse_retry_after"]

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


def is_repeatable(method: str) -> bool:
    """Whether a request may be sent again without its author's word (RFC 9110, section 9.2.2: idempotent methods)."""
    return method in _IDEMPOTENT


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`times` retries at most, after `base_seconds` * 2**attempt, at most `max_seconds`, with full jitter.

    A `Retry-After` wins over both, up to `retry_after_max_seconds`. After `times_per_host` failures of a host in a row
    its requests are not tried again.
    """

    times: int = 3
    http_codes: Container[int] = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
    base_seconds: float = 1.0
    max_seconds: float = 60.0
    retry_after_max_seconds: float = 900.0
    times_per_host: int = 200

    def wait_after(
        self,
        attempt: int,
        rng: Random,
        *,
        times: int | None = None,
        retry_after: float | None = None,
        host_failures: int = 0,
    ) -> float | None:
        """Seconds until the next try after `attempt` (0 the first), or None to give up. `host_failures` are those of
        the host, in a row."""
        if attempt >= (self.times if times is None else times) or host_failures > self.times_per_host:
            return None
        if retry_after is not None:
            return min(retry_after, self.retry_after_max_seconds)
        # tenacity's wait_random_exponential with our own dice: uniform between 0 and the exponential ("full jitter",
        # which spreads a burst of failures best:
        # https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)
        return _full_jitter(attempt, self.base_seconds, self.max_seconds, rng)

    def retry_after(self, headers: CIMultiDictProxy[str], now: float) -> float | None:
        """Seconds that the host asks for, clamped; of several fields the longest."""
        if "Retry-After" not in headers:
            return None
        asked = [parse_retry_after(value, now) for value in headers.getall("Retry-After")]
        known = [seconds for seconds in asked if seconds is not None]
        return min(max(known), self.retry_after_max_seconds) if known else None


def _full_jitter(attempt: int, base: float, maximum: float, rng: Random) -> float:
    from tenacity import RetryCallState, wait_exponential

    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempt + 1
    return rng.random() * wait_exponential(multiplier=base, max=maximum)(state)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """The field's seconds from `now`, never negative (RFC 9110, section 10.2.3: seconds or an HTTP date).

    Tolerant of what servers send: decimals, a unit or a list behind the number, ISO 8601 dates, a date as a Unix time.
    None when it is absent or none of these; never raises.
    """
    if value is None:
        return None
    value = value.strip()[:_LONGEST_FIELD]
    if number := _NUMBER(value):
        seconds = float(number[0])
        if seconds >= _UNIX_TIMES:  # thirty years of waiting are meant by nobody, the moment is
            return max(0.0, seconds - now)
        return seconds
    when = _http_date(value) or _iso_date(value)
    try:
        return None if when is None else max(0.0, when.timestamp() - now)
    except (ValueError, OverflowError):
        return None


_LONGEST_FIELD = 100
_UNIX_TIMES = 1e9
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?(?=$|[\s,;smSM])").match


def _http_date(value: str) -> dt.datetime | None:
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=dt.UTC)


def _iso_date(value: str) -> dt.datetime | None:
    try:
        when = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=dt.UTC)
