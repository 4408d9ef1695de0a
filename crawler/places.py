"""Turns at hosts for requests that never were in the queue: inline fetches, WebSockets, hops of robots.txt."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from crawler import url as urls
from crawler.errors import BlockedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.context import Context
    from crawler.request import Request

__all__ = ["Places"]


class Places:
    """`await places.enter(request)`, then `places.leave(host)`. `on_leave` is called when a place became free."""

    def __init__(self, context: Context) -> None:
        self.on_leave: Callable[[], None] = lambda: None
        self._frontier = context.frontier
        self._fetcher = context.fetcher
        self._clock = context.clock
        self._by_address = context.settings.politeness.group_by == "ip"
        self._freed = asyncio.Event()

    async def enter(self, request: Request, patience_seconds: float = math.inf) -> None:
        """Take a place at the request's host, when it has one, and wait for the turn; again, where the host was paused
        meanwhile.

        Raises `BlockedError` where that takes longer than `patience_seconds`.
        """
        host = urls.host_key(request.url)
        if self._by_address:
            await self._join_group(request, host)
        deadline = self._clock.now() + patience_seconds
        while True:
            now = self._clock.now()
            start = self._frontier.enter(host, now)
            if start is None:
                await self._clock.wait(self._freed, None if deadline == math.inf else deadline - now)
                if self._clock.now() >= deadline:
                    raise _too_long(host)
                continue
            try:
                await self._until(host, start, deadline)
                if await self._may_go(host):
                    return
            except BaseException:
                self.leave(host, unused=True)
                raise
            self.leave(host, unused=True)

    async def again(self, host: str, patience_seconds: float = math.inf) -> None:
        """Wait for another turn of a host where the caller has a place. Raises as `enter`."""
        now = self._clock.now()
        await self._until(host, self._frontier.again(host, now), now + patience_seconds)

    async def _join_group(self, request: Request, host: str) -> None:
        """Whose turn it is depends on the address. A name that has none fails when the request is sent."""
        lookup = self._fetcher.lookup(request)
        if lookup is not None:
            await asyncio.wait([lookup])
        address = self._fetcher.address(request)
        if address is not None:
            self._frontier.regroup(host, address)

    async def _until(self, host: str, start: float, deadline: float) -> None:
        if start > deadline:
            raise _too_long(host)
        await self._clock.sleep(max(0.0, start - self._clock.now()))

    async def _may_go(self, host: str) -> bool:
        """False: the host was paused meanwhile, and the place is better given to somebody else."""
        controller = self._frontier.controller(host)
        while (early := controller.early_by(self._clock.now())) > 0:
            if controller.is_paused(self._clock.now()):
                return False
            await self._clock.sleep(early)
        return True

    def leave(self, host: str, *, unused: bool = False) -> None:
        self._frontier.leave(host, self._clock.now(), unused=unused)
        self.on_leave()

    def freed(self) -> None:
        """Some host has a place free: those who wait for one look again."""
        freed, self._freed = self._freed, asyncio.Event()
        freed.set()


def _too_long(host: str) -> BlockedError:
    return BlockedError(f"{host} has no turn for too long", reason="robots_unavailable", retryable=True)
