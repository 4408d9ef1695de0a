"""robots.txt of every origin met: fetched once, kept a while (RFC 9309, section 2.4), asked for every URL."""

from __future__ import annotations

import asyncio
import collections
import logging
from typing import TYPE_CHECKING, NamedTuple

from crawler import url as urls
from crawler.errors import FetchError
from crawler.redirect import next_request
from crawler.request import Request
from crawler.robots import ALLOW_ALL, DENY_ALL, Decision, Robots, verdict_for_status

if TYPE_CHECKING:
    from crawler.contracts import Clock, Fetcher

__all__ = ["RobotsCache"]

logger = logging.getLogger("crawler.robots")

_LIFETIME = 24 * 3600.0  # RFC 9309, 2.4: not longer than 24 hours
_DENIED_LIFETIME = 600.0  # an unreachable robots.txt closes the site; look again before long
_MAX_BYTES = 512 * 1024
_MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
_MAX_ORIGINS = 10_000


class _Known(NamedTuple):
    robots: Robots
    expires: float


class RobotsCache:
    """`crawler.contracts.RobotsRules`. `agent` is our product token; at most 10,000 origins are kept."""

    def __init__(self, fetcher: Fetcher, clock: Clock, agent: str) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._agent = agent
        self._known: collections.OrderedDict[str, _Known] = collections.OrderedDict()
        self._learning: dict[str, asyncio.Future[None]] = {}

    def check(self, url: str) -> Decision | None:
        known = self._known.get(urls.origin(url))
        if known is None or known.expires <= self._clock.now():
            return None
        return known.robots.check(url)

    async def learn(self, url: str) -> None:
        origin = urls.origin(url)
        while (underway := self._learning.get(origin)) is not None:
            await asyncio.wait([underway])  # whoever fetches may be cancelled: then one of us takes over
            if self.check(url) is not None:
                return
        done = self._learning[origin] = asyncio.get_running_loop().create_future()
        try:
            robots, lifetime = await self._fetch(origin)
            self._known[origin] = _Known(robots, self._clock.now() + lifetime)
            if len(self._known) > _MAX_ORIGINS:
                self._known.popitem(last=False)
        finally:
            del self._learning[origin]
            done.set_result(None)

    async def _fetch(self, origin: str) -> tuple[Robots, float]:
        request = Request(f"{origin}/robots.txt", max_body_bytes=_MAX_BYTES, max_redirects=_MAX_REDIRECTS)
        try:
            while True:
                response = await self._fetcher.fetch(request)
                hop = next_request(request, response, _MAX_REDIRECTS)
                if hop is None:
                    break
                request = hop
        except FetchError as error:
            if error.reason in _UNAVAILABLE:
                return ALLOW_ALL, _LIFETIME
            logger.warning("%s is closed for now, its robots.txt cannot be had: %s", origin, error)
            return DENY_ALL, _DENIED_LIFETIME
        verdict = verdict_for_status(response.status)
        if verdict == "parse":
            return Robots.parse(response.body, self._agent), _LIFETIME
        if verdict == "allow":
            return ALLOW_ALL, _LIFETIME
        logger.warning("%s is closed for now, its robots.txt answers %d", origin, response.status)
        return DENY_ALL, _DENIED_LIFETIME

    def __repr__(self) -> str:
        return f"<RobotsCache {len(self._known)} origins>"


_UNAVAILABLE = frozenset({"redirect_limit", "redirect_loop", "redirect_scheme"})
"""Too many hops count as "unavailable", which opens the site (RFC 9309, 2.3.1.2 and 2.3.1.3)."""
