"""Pages that are not plain (`crawler.markup`) are parsed before anybody sees the response, in a thread of ours, since
lexbor lets the loop run meanwhile. A thread cannot be stopped. So what is not sure to end by itself is parsed first in
a process that can be, and in the thread where that took no harm: twice, but nothing has to be known of what makes a
page dear.

The deadline is for what takes seconds all the same. A thread that is past it keeps its place until it ends, and the
process does not wait for it. Work that no thread has begun by then is nobody's: its thread died as it was started.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from crawler.errors import BodyError
from crawler.parsing.threads import AGAIN_SECONDS, Threads
from crawler.parsing.trial import MEMORY_BYTES, Trial
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
    `spare` gives the bytes that another process may take here; None is no limit. Leaving the block ends threads and
    process."""

    def __init__(
        self,
        note: Callable[[], Callable[[], None]],
        *,
        threads: int = _THREADS,
        seconds: float = _SECONDS,
        spare: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._note = note
        self._seconds = seconds
        self._spare = spare
        self._places = asyncio.Semaphore(threads)
        self._threads = Threads(threads)
        self._trial = Trial()

    async def __aenter__(self) -> Parsing:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._threads.close()
        await self._trial.close()

    async def prepare(self, response: Response) -> None:
        """Raises `BodyError` with reason `html_too_complex`, `parse_timeout`, or `parse_failed` where no process, no
        thread or no memory can be had. Waiting for others is not counted."""
        markup = await self._in_thread(response.prepare_if_bounded, response.url)
        if markup is not None:
            await self._try(markup, response.url)
            await self._in_thread(response.prepare, response.url)

    async def _try(self, markup: bytes, url: str) -> None:
        try:
            has_passed = await self._trial.passes(markup, self._most_bytes())
        except OSError as error:
            raise _not_parsed(url, f"no process can be started ({error.strerror})") from error
        if not has_passed:
            raise BodyError(
                f"{redact(url)} takes many times longer to parse than a page of {len(markup):,} bytes does, "
                "or more memory than there is",
                reason="html_too_complex",
                retryable=False,
            )

    def _most_bytes(self) -> int:
        spare = self._spare()
        return MEMORY_BYTES if spare is None else min(MEMORY_BYTES, spare)

    async def _in_thread(self, work: Callable[[], Any], url: str) -> Any:
        """What `work` gives. Its place is free when it ends, which may be after the deadline."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        done.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask
        forget = self._note()
        unbegun = [True]
        """Whoever takes this out decides whether the work is done: a thread as it begins, or the deadline."""

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
            if _taken(unbegun) and not _told(loop, ended, *_outcome(work)):
                forget()

        try:
            self._threads.run(run)
        except (RuntimeError, MemoryError) as error:
            ended(None, None)
            raise _not_parsed(url, f"no thread can be started ({error})") from error
        try:
            async with asyncio.timeout(self._seconds):
                return await done
        except TimeoutError:
            if _taken(unbegun):
                self._threads.died()
                ended(None, None)
                raise _not_parsed(url, "the thread for it died as it was started") from None
            words = f"{redact(url)} was not parsed within {self._seconds:g} s"
            raise BodyError(words, reason="parse_timeout", retryable=False) from None
        except MemoryError as error:
            raise _not_parsed(url, "there is not enough memory") from error

    def __repr__(self) -> str:
        return f"<Parsing {self._trial!r}>"


def _taken(unborn: list[bool]) -> bool:
    try:
        return unborn.pop()
    except IndexError:
        return False


def _outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _told(loop: asyncio.AbstractEventLoop, ended: Callable[..., None], *outcome: Any) -> bool:
    """Whether there is a loop to tell it."""
    while True:
        try:
            loop.call_soon_threadsafe(ended, *outcome)
        except MemoryError:
            time.sleep(AGAIN_SECONDS)
        except RuntimeError:  # the crawl has ended, and its loop
            return False
        else:
            return True


def _not_parsed(url: str, why: str) -> BodyError:
    return BodyError(f"{redact(url)} cannot be parsed: {why}", reason="parse_failed")
