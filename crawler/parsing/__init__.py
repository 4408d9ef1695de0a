"""Pages that are not plain (`crawler.markup`) are parsed before anybody sees the response, in a thread of ours, since
lexbor lets the loop run meanwhile. A thread cannot be stopped. So what is not sure to end by itself is parsed first in
a process that can be, and in the thread where that took no harm: twice, but nothing has to be known of what makes a
page dear.

The deadline is for what takes seconds all the same. A thread that is past it keeps its place until it ends, and is a
daemon, so the process does not wait for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from crawler.errors import BodyError
from crawler.parsing.threads import Threads
from crawler.parsing.trial import Trial
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.response import Response

__all__ = ["Parsing"]

_THREADS = 2
"""Parsing is all that they do, and another core is all that they can have."""
_SECONDS = 5.0
"""A page of 10 MiB takes half a second."""


class Parsing:
    """`await parsing.prepare(response)`: afterwards `response.html` is there.

    `note` is called as a thread begins, in the step of the page's own, and gives what is to be called when it ends.
    Leaving the block ends threads and process."""

    def __init__(
        self, note: Callable[[], Callable[[], None]], *, threads: int = _THREADS, seconds: float = _SECONDS
    ) -> None:
        self._note = note
        self._seconds = seconds
        self._places = asyncio.Semaphore(threads)
        self._threads = Threads(threads)
        self._trial = Trial()

    async def __aenter__(self) -> Parsing:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._threads.close()
        await self._trial.close()

    async def prepare(self, response: Response) -> None:
        """Raises `BodyError` with reason `html_too_complex`, `parse_timeout`, or `parse_failed` where no process can be
        had. Waiting for others is not counted."""
        markup = await self._in_thread(response.prepare_if_bounded, response.url)
        if markup is not None:
            await self._try(markup, response.url)
            await self._in_thread(response.prepare, response.url)

    async def _try(self, markup: bytes, url: str) -> None:
        try:
            has_passed = await self._trial.passes(markup)
        except OSError as error:
            words = f"{redact(url)} cannot be parsed: no process can be started ({error.strerror})"
            raise BodyError(words, reason="parse_failed") from error
        if not has_passed:
            raise BodyError(
                f"{redact(url)} takes many times longer to parse than a page of {len(markup):,} bytes does",
                reason="html_too_complex",
                retryable=False,
            )

    async def _in_thread(self, work: Callable[[], Any], url: str) -> Any:
        """What `work` gives. Its place is free when it ends, which may be after the deadline."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        done.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask
        forget = self._note()

        def ended(result: Any, error: BaseException | None) -> None:
            forget()
            self._places.release()
            if done.done():  # nobody waits any more
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def run() -> None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = work()
            except Exception as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(ended, result, error)
            except RuntimeError:  # the crawl has ended, and its loop
                forget()

        self._threads.run(run)
        try:
            async with asyncio.timeout(self._seconds):
                return await done
        except TimeoutError:
            words = f"{redact(url)} was not parsed within {self._seconds:g} s"
            raise BodyError(words, reason="parse_timeout", retryable=False) from None

    def __repr__(self) -> str:
        return f"<Parsing {self._trial!r}>"
