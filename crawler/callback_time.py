"""The time that user code may take (`crawl.callback_timeout_seconds`), and its end where it does not want one.

Cancelling is a request: the code that is awaited hears of it as an exception, and may catch it. Code that does so in a
loop (`except BaseException: pass`) would hold its worker for ever, and the crawl's end with it. So user code is driven
step by step here. Having been cancelled it gets some seconds to clean up; then it is not driven any more, and is left
behind where it stands: it holds nothing up, and whoever waits for it hears of a cancelled callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from crawler.errors import CallbackTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator, Iterator

__all__ = ["CallbackTime", "close", "fetching", "unhurried"]

logger = logging.getLogger("crawler.callbacks")

_GRACE_SECONDS = 4.0
"""For cleaning up. Less than what the end of a crawl waits for cancelled pages (`engine`)."""

_left_behind: Final[list[object]] = []
"""What would not end. The loop would run an async generator's clean-up in a task of its own when it is collected, and
wait for that task at its end; so what is left behind is kept as long as the process lives."""


class _Endable:
    """`await _Endable(awaitable, steps, waited_for, name)`: the rest of what was begun, up to its first wait; but it
    ends some seconds after it was cancelled, whatever it does. Then `left_behind` is True, and CancelledError is
    raised."""

    __slots__ = ("_awaitable", "_name", "_steps", "_waited_for", "left_behind")

    def __init__(self, awaitable: Awaitable[Any], steps: Any, waited_for: Any, name: str) -> None:
        self._awaitable = awaitable
        self._steps = steps
        self._waited_for = waited_for
        self._name = name
        self.left_behind = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps, waited_for = self._steps, self._waited_for
        alarm: _Alarm | None = None
        try:
            while True:
                thrown: BaseException | None = None
                try:
                    yield waited_for
                except BaseException as error:
                    if isinstance(error, GeneratorExit):
                        steps.close()
                        raise
                    if isinstance(error, asyncio.CancelledError):
                        if alarm is None:
                            alarm = _Alarm()
                        elif alarm.is_over:
                            self._leave_behind()
                            raise
                    thrown = error
                try:
                    waited_for = next(steps) if thrown is None else steps.throw(thrown)
                except StopIteration as end:
                    return end.value
        finally:
            if alarm is not None:
                alarm.end()

    def _leave_behind(self) -> None:
        self.left_behind = True
        logger.error(
            "%s did not end within %.1f s after it was cancelled, and is left behind. "
            "Code that catches CancelledError must raise it again",
            self._name, _GRACE_SECONDS,
        )  # fmt: skip
        waiting = list(_awaited(self._awaitable))
        if waiting:
            with contextlib.suppress(RuntimeError):  # it ignored that, too
                self._steps.close()
            _left_behind.extend(each for each in waiting if inspect.getcoroutinestate(each) != inspect.CORO_CLOSED)
        else:
            _left_behind.append(self._steps)


def _awaited(awaitable: object) -> Iterator[Coroutine[Any, Any, Any]]:
    """A coroutine and those that it waits for; nothing for what is none, as an async generator's next output."""
    while inspect.iscoroutine(awaitable):
        yield awaitable
        awaitable = awaitable.cr_await


class _Alarm:
    """Wakes the task that makes it, by cancelling it once more, when its grace is over."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._rang = False
        self._over = loop.time() + _GRACE_SECONDS
        self._timer = loop.call_at(self._over, self._ring)

    @property
    def is_over(self) -> bool:
        return self._rang or asyncio.get_running_loop().time() >= self._over

    def _ring(self) -> None:
        if self._task is not None:
            self._rang = True
            self._task.cancel()

    def end(self) -> None:
        self._timer.cancel()
        if self._rang and self._task is not None:
            self._task.uncancel()  # that was between the two of us


class CallbackTime:
    """The time an async callback may take; what pipelines take in between is not counted, nor is saving a stream.

    With `counts_fetches=False` inline fetches are not counted either: they have limits of their own.
    """

    def __init__(self, name: str, seconds: float | None, *, counts_fetches: bool = True) -> None:
        self.counts_fetches = counts_fetches
        self.left_behind = False
        """Something of it did not end when it was cancelled: there is nothing to be closed."""
        self._name = name
        self._allowed = seconds
        self._left = seconds
        self._limit: asyncio.Timeout | None = None
        self._pauses = 0

    async def spend(self, awaitable: Awaitable[Any]) -> Any:
        """Its result. Raises `CallbackTimeout` where the time is over.

        Most user code does not wait at all, and what does not, needs no timer."""
        steps: Any = awaitable.__await__()
        token, began = _spending.set(self), time.monotonic()
        try:
            try:
                waited_for = next(steps)
            except StopIteration as end:
                return end.value
            finally:
                if self._left is not None:
                    self._left = max(0.0, self._left - (time.monotonic() - began))
            rest = _Endable(awaitable, steps, waited_for, self._name)
            try:
                return await (rest if self._left is None else self._within(rest))
            finally:
                self.left_behind = rest.left_behind
        finally:
            _spending.reset(token)

    async def _within(self, rest: _Endable) -> Any:
        loop = asyncio.get_running_loop()
        limit = self._limit = asyncio.timeout(None if self._pauses else self._left)
        try:
            async with limit:
                result = await rest
                self._left = max(0.0, (limit.when() or 0.0) - loop.time())
                return result
        except TimeoutError:
            if not limit.expired():
                raise  # the callback's own
            end = "did not end when it was cancelled" if rest.left_behind else "was cancelled"
            raise CallbackTimeout(f"{self._name} took longer than {self._allowed} s and {end}") from None
        finally:
            self._limit = None

    def cut(self, seconds: float) -> None:
        """No more than that from now on."""
        self._allowed = self._left = seconds
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + seconds)

    def pause(self) -> None:
        self._pauses += 1
        if self._pauses == 1 and self._limit is not None and not self._limit.expired():
            self._left = max(0.0, (self._limit.when() or 0.0) - asyncio.get_running_loop().time())
            self._limit.reschedule(None)

    def go_on(self) -> None:
        self._pauses -= 1
        if self._pauses == 0 and self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + (self._left or 0.0))


async def close(generator: AsyncGenerator[Any], time: CallbackTime) -> None:
    """Run what an async generator has in its `finally`, in the time that is left; nothing where it was left behind."""
    if not time.left_behind:
        await time.spend(generator.aclose())


_spending: contextvars.ContextVar[CallbackTime | None] = contextvars.ContextVar("spending", default=None)
"""Of the callback or pipeline that is running here."""


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


def fetching() -> contextlib.AbstractContextManager[None]:
    """`unhurried` around an inline fetch, where fetches do not count."""
    budget = _spending.get()
    return contextlib.nullcontext() if budget is None or budget.counts_fetches else unhurried()
