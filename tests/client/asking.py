"""The harness of these tests: every request is made in two ways, yielded by a spider and fetched inline by one.

    async def test_a_page_is_there(way: str, httpbin: HttpBin) -> None:
        assert (await ask(way, Request(httpbin / "get"))).reply.status == 200

The ways differ where they should: a status that is not `ok` reaches the errback of a yielded request, and is an answer
like any other inline. `reply` is the answer in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from crawler import Failure, Request, Response, Spider
from crawler.errors import CrawlerError
from crawler.testing import Run, run_spider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    Step = Request | Callable[[Response], Request]
    Read = Callable[[Response], Awaitable[Any]]

__all__ = ["INLINE", "OBEDIENT", "WAYS", "YIELDED", "Asked", "Asking", "Seen", "ask", "ask_all"]

WAYS = (YIELDED, INLINE) = ("yielded", "inline")
OBEDIENT = {"politeness": {"obey_robots": True}}
"""For tests in which robots.txt has a say."""
_LEAN = {"crawl": {"concurrency": 4}, "politeness": {"obey_robots": False}}
"""There are very many tests, each with a crawl that makes one request at a time."""


class Seen(NamedTuple):
    """What became of one request."""

    response: Response | None = None
    """What the callback, or the caller, got."""
    failure: Failure | None = None
    """What the errback got; never inline."""
    error: Exception | None = None
    """What was raised: by the fetch, by `read`, or as the failure's error."""
    value: Any = None
    """What `read` made of the response."""

    @property
    def reply(self) -> Response:
        """The answer, whatever its status and whoever got it."""
        response = self.response if self.failure is None else self.failure.response
        assert response is not None, f"no answer: {self.error!r}"
        return response

    @property
    def reason(self) -> str | None:
        """The stable word of the failure, or None where the callback or the caller got its answer."""
        return None if self.error is None else str(getattr(self.error, "reason", type(self.error).__name__))


class Asked(NamedTuple):
    seen: list[Seen]
    run: Run


class Asking(Spider):
    """Makes `steps` one after another, in its `way`. `look` is run on each response while that is open."""

    name = "asking"
    way = YIELDED
    steps: Sequence[Step] = ()
    look: Read | None = None

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen: list[Seen] = []

    async def opened(self) -> None:
        while self.way == INLINE and len(self.seen) < len(self.steps):
            try:
                response = await self.fetch(self._next())
            except CrawlerError as error:
                self.seen.append(Seen(error=error))
                continue
            async with response:
                self.seen.append(await self._read(response))

    async def start(self) -> Any:
        if self.way == YIELDED:
            yield self._next()

    async def parse(self, response: Response) -> Any:
        self.seen.append(await self._read(response))
        yield self._onward()

    async def failed(self, failure: Failure) -> Any:
        seen = Seen() if failure.response is None else await self._read(failure.response)
        self.seen.append(Seen(None, failure, failure.error, seen.value))
        yield self._onward()

    def _onward(self) -> Request | None:
        return self._next() if len(self.seen) < len(self.steps) else None

    def _next(self) -> Request:
        step = self.steps[len(self.seen)]
        request = step if isinstance(step, Request) else step(self.seen[-1].reply)
        return request if self.way == INLINE else request.replace(dont_filter=True)

    async def _read(self, response: Response) -> Seen:
        if self.look is None:
            return Seen(response)
        try:
            return Seen(response, value=await self.look(response))
        except Exception as error:
            return Seen(response, error=error)


async def ask_all(
    way: str,
    steps: Sequence[Step],
    *,
    read: Read | None = None,
    settings: Mapping[str, Any] | None = None,
    middlewares: Sequence[Any] = (),
    job: Path | None = None,
    spider: type[Asking] = Asking,
) -> Asked:
    """One crawl that makes these requests, each after the one before; a step may be made of the reply before it."""
    arguments = {"way": way, "steps": steps, "look": read, "middlewares": middlewares}
    run = await run_spider(spider, args=arguments, settings={**_LEAN, **(settings or {})}, job=job)
    assert run.reason == "finished"
    assert isinstance(run.spider, Asking)
    for seen in run.spider.seen:
        if seen.error is not None and not isinstance(seen.error, CrawlerError):
            raise seen.error
    assert len(run.spider.seen) == len(steps)
    return Asked(run.spider.seen, run)


async def ask(way: str, request: Request, **options: Any) -> Seen:
    """One crawl with one request; options are those of `ask_all`."""
    return (await ask_all(way, [request], **options)).seen[0]
