"""robots.txt of every origin met: fetched once, kept a while (RFC 9309, section 2.4), asked for every URL."""

from __future__ import annotations

import asyncio
import collections
import zlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from crawler import url as urls
from crawler.download.translate import FOREIGN, translate
from crawler.errors import BlockedError, FetchError, RedirectError
from crawler.redirect import next_request
from crawler.request import Request, Timeout
from crawler.robots import ALLOW_ALL, PARSE_LIMIT_BYTES, Decision, Robots, verdict_for_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crawler.contracts import Clock, Fetcher
    from crawler.response import Response

__all__ = ["RobotsCache"]

_LIFETIME = 24 * 3600.0  # RFC 9309, 2.4: not longer than 24 hours
_PARSED_ON_THE_LOOP = 64 * 1024  # more is parsed in a thread: 512 KiB of rules take tenths of a second
_MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
_MAX_ORIGINS = 10_000


class _Known(NamedTuple):
    robots: Robots
    expires: float


class _Saved(msgspec.Struct, array_like=True, frozen=True):
    """What was fetched, as the frontier keeps it."""

    fetched: float
    """Unix time."""
    body: bytes | None
    """Deflated; None: everything is allowed."""


class RobotsCache:
    """`crawler.contracts.RobotsRules`. `agent` is our product token, `timeout` that of a fetch.

    At most 10,000 origins are kept in memory; `saved` gives back what `rows` gave of the others, and of earlier runs.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        clock: Clock,
        agent: str,
        timeout: Timeout,
        saved: Callable[[str], bytes | None] = lambda key: None,
    ) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._agent = agent
        self._timeout = timeout
        self._saved = saved
        self._rows: dict[str, bytes | None] = {}
        self._known: collections.OrderedDict[str, _Known] = collections.OrderedDict()
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

    def rows(self) -> Mapping[str, bytes | None]:
        """For `Frontier.commit`: what was fetched since the last call."""
        rows, self._rows = self._rows, {}
        return rows

    async def learn(self, request: Request) -> None:
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
            robots = await self._fetch(origin, request)
        except FetchError as error:
            ended.set_result(error)
            raise
        else:
            ended.set_result(None)
            self._keep(origin, robots, self._clock.now())
        finally:
            del self._learning[origin]
            if not ended.done():
                ended.cancel()

    def _keep(self, origin: str, robots: Robots, fetched: float) -> _Known:
        known = self._known[origin] = _Known(robots, fetched + _LIFETIME)
        if len(self._known) > _MAX_ORIGINS:
            self._known.popitem(last=False)
        return known

    def _recall(self, origin: str) -> _Known | None:
        """From the frontier, at most once while it is in memory. A large one is fetched anew: parsing takes too long
        here."""
        record = self._saved(f"robots/{origin}")
        if record is None:
            return None
        saved = _SAVED.decode(record)
        if saved.fetched + _LIFETIME <= self._clock.now():
            return None
        robots = ALLOW_ALL if saved.body is None else Robots.parse(zlib.decompress(saved.body), self._agent)
        return self._keep(origin, robots, saved.fetched)

    def _save(self, origin: str, body: bytes | None) -> None:
        if body is None or len(body) <= _PARSED_ON_THE_LOOP:
            packed = None if body is None else zlib.compress(body, 1)
            self._rows[f"robots/{origin}"] = msgspec.msgpack.encode(_Saved(self._clock.now(), packed))

    async def _fetch(self, origin: str, asked_for: Request) -> Robots:
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
                response = await self._fetcher.fetch(request)
                async with response:
                    hop = next_request(request, response, _MAX_REDIRECTS)
                    if hop is None:
                        return await self._judge(origin, response)
                request = hop
        except RedirectError:  # too many hops count as "unavailable", which opens the site (RFC 9309, 2.3.1.2, 2.3.1.3)
            self._save(origin, None)
            return ALLOW_ALL

    async def _judge(self, origin: str, response: Response) -> Robots:
        verdict = verdict_for_status(response.status)
        if verdict == "parse":
            body = await _beginning(response)
            self._save(origin, body)
            if len(body) > _PARSED_ON_THE_LOOP:
                return await asyncio.to_thread(Robots.parse, body, self._agent)
            return Robots.parse(body, self._agent)
        if verdict == "allow":
            self._save(origin, None)
            return ALLOW_ALL
        raise BlockedError(
            f"{origin} is closed for now: its robots.txt answers {response.status}",
            reason="robots_unavailable",
            retryable=True,
        )

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
