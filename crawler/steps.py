"""A page's code, step by step.

Between two waits nobody else's code runs, so whoever's step it is when the process dies, did it, or at least was there.
The frontier is told before each step and after it (`Frontier.at_work`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from crawler.contracts import Frontier, Lease

__all__ = ["Steps"]


class Steps:
    """`await Steps(coroutine, frontier, lease)`: the same as awaiting the coroutine."""

    __slots__ = ("_coroutine", "_frontier", "_lease")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], frontier: Frontier, lease: Lease) -> None:
        self._coroutine = coroutine
        self._frontier = frontier
        self._lease = lease

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, at_work, lease = self._coroutine, self._frontier.at_work, self._lease
        step, value = coroutine.send, None
        while True:
            at_work(lease)
            try:
                waited_for = step(value)
            except StopIteration as end:
                return end.value
            finally:
                at_work(None)
            try:
                value, step = (yield waited_for), coroutine.send
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                value, step = error, coroutine.throw
