"""robots.txt of every origin met: fetched once, kept a while (RFC 9309, section 2.4), asked for every URL."""

from __future__ import annotations

import asyncio
import collections
import copy
import zlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from crawler import url as urls
from crawler.download.translate import FOREIGN, translate
from crawler.errors import BlockedError, FetchError, RedirectError
from crawler.redirect import next_request
from crawler.request import Request, Timeout
from crawler.robots import (
    ALLOW_ALL,
    LONGEST_LIFETIME,
    PARSE_LIMIT_BYTES,
    Decision,
    Robots,
    lifetime,
    verdict_for_status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crawler.contracts import Clock, Fetch
    from crawler.response import Response

__all__ = ["RobotsCache"]

_PARSED_ON_THE_LOOP = 64 * 1024  # more is parsed in a thread: 512 KiB of rules take tenths of a second
_MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
_MAX_ORIGINS = 10_000
_CLOSED_SECONDS = 600.0
"""How long an origin is left alone whose robots.txt could not be had."""
_STALE_SECONDS = 3600.0
"""How long an old copy goes on being good while there is no new one (RFC 9309, 2.3.1.4)."""


class _Known(NamedTuple):
    robots: Robots
    expires: float


class _Closed(NamedTuple):
    """Of an origin whose robots.txt could not be had."""

    times: int
    """In a row."""
    until: float
    """0: it may be asked for again."""
    error: FetchError


class _Answer(NamedTuple):
    body: bytes | None
    """None: there are no rules."""
    lifetime: float


class _Saved(msgspec.Struct, array_like=True, frozen=True):
    """What was fetched, as the frontier keeps it."""

    fetched: float
    """Unix time."""
    body: bytes | None
    """Deflated; None: everything is allowed."""
    lifetime: float = 24 * 3600.0
    """Seconds."""


class RobotsCache:
    """`crawler.contracts.RobotsRules`. `agent` is our product token, `timeout` that of a fetch.

    An answer is good for a day, or for less if its cache headers say so. Where there is none (5xx, no connection), it
    is asked for again `patience` times, as the requests that need it come up again; then the origin is closed for ten
    minutes. An old copy stays good meanwhile.

    At most 10,000 origins are kept in memory; `saved` gives back what `rows` gave of the others, and of earlier runs.
    """

    def __init__(
        self,
        clock: Clock,
        agent: str,
        timeout: Timeout,
        saved: Callable[[str], bytes | None] = lambda key: None,
        *,
        patience: int = 3,
    ) -> None:
        self._clock = clock
        self._agent = agent
        self._timeout = timeout
        self._saved = saved
        self._patience = patience
        self._rows: dict[str, bytes | None] = {}
        self._known: collections.OrderedDict[str, _Known] = collections.OrderedDict()
        self._failed: collections.OrderedDict[str, _Closed] = collections.OrderedDict()
        self._learning: dict[str, asyncio.Future[FetchError | None]] = {}

    def check(self, url: str) -> Decision | None:
        rules = self.rules(url)
        return None if rules is None else rules.check(url)

    def rules(self, url: str) -> Robots | None:
        origin = urls.origin(url)
        known = self._known.get(origin) or self._recall(origin)
        if known is None or known.expires <= self._clock.now():
            return None
        return known.robots

    def closed(self, url: str) -> FetchError | None:
        failed = self._failed.get(urls.origin(url))
        return copy.copy(failed.error) if failed is not None and failed.until > self._clock.now() else None

    def rows(self) -> Mapping[str, bytes | None]:
        """For `Frontier.commit`: what was fetched since the last call."""
        rows, self._rows = self._rows, {}
        return rows

    async def learn(self, request: Request, fetch: Fetch) -> None:
        origin = urls.origin(request.url)
        while (underway := self._learning.get(origin)) is not None:
            await asyncio.wait([underway])
            if underway.cancelled():
                continue  # whoever was at it went away: one of us takes over
            error = underway.result()
            if error is not None:
                raise error
            return
        ended = self._learning[origin] = asyncio.get_running_loop().create_future()
        try:
            await self._learn(origin, request, fetch)
        except FetchError as error:
            ended.set_result(error)
            raise
        else:
            ended.set_result(None)
        finally:
            del self._learning[origin]
            if not ended.done():
                ended.cancel()

    async def _learn(self, origin: str, request: Request, fetch: Fetch) -> None:
        try:
            answer = await self._fetch(origin, request, fetch)
        except FetchError as error:
            if not self._keep_old(origin):
                self._note_failure(origin, error)
                raise
            return
        self._failed.pop(origin, None)
        robots = await self._parsed(answer.body)
        self._keep(origin, robots, self._clock.now() + answer.lifetime)
        self._save(origin, answer)

    # -- what is known -----------------------------------------------------------------------------------------------

    def _keep(self, origin: str, robots: Robots, expires: float) -> _Known:
        known = self._known[origin] = _Known(robots, expires)
        if len(self._known) > _MAX_ORIGINS:
            self._known.popitem(last=False)
        return known

    def _keep_old(self, origin: str) -> bool:
        known = self._known.get(origin)
        if known is None:
            return False
        self._keep(origin, known.robots, self._clock.now() + _STALE_SECONDS)
        return True

    def _note_failure(self, origin: str, error: FetchError) -> None:
        now = self._clock.now()
        failed = self._failed.get(origin)
        times = 1 if failed is None or 0 < failed.until <= now else failed.times + 1
        until = now + _CLOSED_SECONDS if times > self._patience or not error.retryable else 0.0
        final = copy.copy(error)
        final.retryable = False
        self._failed[origin] = _Closed(times, until, final)
        if len(self._failed) > _MAX_ORIGINS:
            self._failed.popitem(last=False)

    def _recall(self, origin: str) -> _Known | None:
        """From the frontier, at most once while it is in memory. A large one is fetched anew: parsing takes too long
        here."""
        record = self._saved(f"robots/{origin}")
        if record is None:
            return None
        saved = _SAVED.decode(record)
        robots = ALLOW_ALL if saved.body is None else Robots.parse(zlib.decompress(saved.body), self._agent)
        fetched = min(saved.fetched, self._clock.now())  # the clock may have been set back
        return self._keep(origin, robots, fetched + saved.lifetime)

    def _save(self, origin: str, answer: _Answer) -> None:
        body = answer.body
        if body is None or len(body) <= _PARSED_ON_THE_LOOP:
            packed = None if body is None else zlib.compress(body, 1)
            record = _Saved(self._clock.now(), packed, answer.lifetime)
            self._rows[f"robots/{origin}"] = msgspec.msgpack.encode(record)

    async def _parsed(self, body: bytes | None) -> Robots:
        if body is None:
            return ALLOW_ALL
        if len(body) > _PARSED_ON_THE_LOOP:
            return await asyncio.to_thread(Robots.parse, body, self._agent)
        return Robots.parse(body, self._agent)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _fetch(self, origin: str, asked_for: Request, fetch: Fetch) -> _Answer:
        request = Request(
            f"{origin}/robots.txt",
            stream=True,
            timeout=self._timeout,
            max_redirects=_MAX_REDIRECTS,
            proxy=asked_for.proxy,  # who goes by a proxy does not want to be seen beside it
            proxy_auth=asked_for.proxy_auth,
            tls=asked_for.tls,
            server_hostname=asked_for.server_hostname,
        )
        try:
            while True:
                response = await fetch(request)
                async with response:
                    hop = next_request(request, response, _MAX_REDIRECTS)
                    if hop is None:
                        return await self._judge(origin, response)
                request = hop
        except RedirectError:  # too many hops count as "unavailable", which opens the site (RFC 9309, 2.3.1.2, 2.3.1.3)
            return _Answer(None, LONGEST_LIFETIME)

    async def _judge(self, origin: str, response: Response) -> _Answer:
        verdict = verdict_for_status(response.status)
        if verdict == "deny":
            raise BlockedError(
                f"{origin} is closed for now: its robots.txt answers {response.status}",
                reason="robots_unavailable",
                retryable=True,
            )
        body = await _beginning(response) if verdict == "parse" else None
        return _Answer(body, lifetime(response.headers))

    def __repr__(self) -> str:
        return f"<RobotsCache {len(self._known)} origins>"


_SAVED = msgspec.msgpack.Decoder(_Saved)


async def _beginning(response: Response) -> bytes:
    """As much of the body as is ever parsed; the rest, however long, is not read."""
    if response.content is None:
        return response.body
    pieces = bytearray()
    try:
        while len(pieces) <= PARSE_LIMIT_BYTES and (piece := await response.content.readany()):
            pieces += piece
    except FOREIGN as error:
        raise translate(error, response.url) from error
    return bytes(pieces)
