"""The time that a callback may take (`crawl.callback_timeout_seconds`)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any

from crawler.errors import CallbackTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

__all__ = ["CallbackTime", "unhurried"]


class CallbackTime:
    """The time an async callback may take; what pipelines take in between is not counted, nor is saving a stream."""

    def __init__(self, name: str, seconds: float | None) -> None:
        self._name = name
        self._allowed = seconds
        self._left = seconds
        self._limit: asyncio.Timeout | None = None
        self._pauses = 0

    async def spend(self, awaitable: Awaitable[Any]) -> Any:
        if self._left is None:
            return await awaitable
        loop = asyncio.get_running_loop()
        limit = self._limit = asyncio.timeout(self._left)
        token = _spending.set(self)
        try:
            async with limit:
                result = await awaitable
                self._left = max(0.0, (limit.when() or 0.0) - loop.time())
                return result
        except TimeoutError:
            if not limit.expired():
                raise  # the callback's own
            raise CallbackTimeout(f"{self._name} took longer than {self._allowed} s and was cancelled") from None
        finally:
            _spending.reset(token)
            self._limit = None

    def pause(self) -> None:
        self._pauses += 1
        if self._pauses == 1 and self._limit is not None and not self._limit.expired():
            self._left = max(0.0, (self._limit.when() or 0.0) - asyncio.get_running_loop().time())
            self._limit.reschedule(None)

    def go_on(self) -> None:
        self._pauses -= 1
        if self._pauses == 0 and self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + (self._left or 0.0))


_spending: contextvars.ContextVar[CallbackTime | None] = contextvars.ContextVar("spending", default=None)
"""Of the callback that is running here."""


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """What happens inside does not count for `crawl.callback_timeout_seconds`: it has limits of its own."""
    budget = _spending.get()
    if budget is None:
        yield
        return
    budget.pause()
    try:
        yield
    finally:
        budget.go_on()
