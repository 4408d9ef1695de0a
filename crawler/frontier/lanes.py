"""Two lanes for what a crawl has in flight, so that slow hosts do not lower the rate of quick ones.

A crawl has only so many requests in flight, and a host that takes five seconds to answer holds one for as long as a
hundred quick answers. So hosts that are slow, or not known yet, may hold only what the quick ones cannot use:
`concurrency` less the quick ones' demand, which is the sum of latency / delay over them (Little's law), and at least a
twelfth of it. Who finds that full waits in line, strangers before those known to be slow: most of them are quick, and
only their first answer tells.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crawler.frontier.turns import Host
    from crawler.politeness import Controller

__all__ = ["Lanes"]

_SLOW_SECONDS: Final = 1.0
"""A host whose answers take longer is slow; one whose latency is 0 has not answered yet."""
_SLOW_SHARE: Final = 12
"""One part in so many of all requests in flight is always the slow lane's: less than a tenth."""
_STRANGERS: Final = 4
"""So many of them go before one that is known to be slow."""


class Lanes:
    """`concurrency` is how many requests there may be at all; None: without limit, and everybody is let through."""

    def __init__(self, concurrency: int | None) -> None:
        self._concurrency = concurrency
        self._places = float("inf") if concurrency is None else float(concurrency)
        """Of the slow lane."""
        self._taken = 0
        self._demand = 0.0
        self._strangers: collections.deque[Host] = collections.deque()
        self._slow: collections.deque[Host] = collections.deque()
        self._served = 0
        self.waiting = 0
        """Hosts in line."""

    def lets_through(self, controller: Controller) -> bool:
        return self._taken + 1 <= self._places or 0.0 < controller.latency <= _SLOW_SECONDS

    def wait(self, host: Host) -> None:
        """It is the host's turn, but it is not let through."""
        host.is_in_line = True
        self.waiting += 1
        (self._slow if host.controller.latency else self._strangers).append(host)

    @property
    def has_next(self) -> bool:
        return self.waiting > 0 and self._taken + 1 <= self._places

    def next(self) -> Host:
        """Out of the line; only where `has_next`."""
        self._served += 1
        is_slow = not self._strangers or (self._slow and self._served % (_STRANGERS + 1) == 0)
        host = (self._slow if is_slow else self._strangers).popleft()
        host.is_in_line = False
        self.waiting -= 1
        return host

    def take(self, controller: Controller) -> None:
        if not 0.0 < controller.latency <= _SLOW_SECONDS:
            controller.slow_taken += 1
            self._taken += 1

    def leave(self, controller: Controller) -> None:
        if controller.slow_taken:
            controller.slow_taken -= 1
            self._taken -= 1

    def learn(self, controller: Controller) -> None:
        """It answered: what it could use of the quick lane may be another now."""
        latency, places, delay = controller.latency, controller.places, controller.delay
        demand = 0.0
        if 0.0 < latency <= _SLOW_SECONDS:
            demand = places if latency >= places * delay else latency / delay
        if demand != controller.demand:
            self.claim(controller, demand)

    def claim(self, controller: Controller, demand: float) -> None:
        """Requests that it would have in flight on average; 0: it has nothing to do."""
        self._demand += demand - controller.demand
        controller.demand = demand
        if self._concurrency is not None:
            self._places = max(self._concurrency - self._demand, self._concurrency / _SLOW_SHARE, 1.0)
