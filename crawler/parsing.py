"""Pages that are not parsed on the loop: what could take long is parsed in a thread before anybody sees the response.

Lexbor lets other threads run meanwhile. It cannot be stopped, so what would take it long is refused before
(`crawler.nesting`); the deadline is for what nobody thought of. Such a thread keeps its place until it ends by itself,
and is a daemon, so the process does not wait for it.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from crawler.errors import BodyError
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.response import Response

__all__ = ["Parsing"]

_THREADS = 2
"""More would only wait for each other: checking a page needs the interpreter."""
_SECONDS = 5.0
"""A page of 10 MiB takes half a second."""


class Parsing:
    """`await parsing.prepare(response)`: afterwards `response.html` is there, or cheap to make.

    `note` is called as a thread begins, in the step of the page's own, and gives what is to be called when it ends."""

    def __init__(
        self, note: Callable[[], Callable[[], None]], *, threads: int = _THREADS, seconds: float = _SECONDS
    ) -> None:
        self._note = note
        self._seconds = seconds
        self._places = asyncio.Semaphore(threads)

    async def prepare(self, response: Response) -> None:
        """Raises `BodyError` with reason `html_too_complex` or `parse_timeout`."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        done.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask
        forget = self._note()

        def ended(error: Exception | None) -> None:
            forget()
            self._places.release()
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def work() -> None:
            error: Exception | None = None
            try:
                response.prepare()
            except Exception as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(ended, error)
            except RuntimeError:  # the crawl has ended, and its loop
                forget()

        threading.Thread(target=work, name="crawler-parsing", daemon=True).start()
        try:
            await asyncio.wait_for(asyncio.shield(done), self._seconds)
        except TimeoutError:
            raise BodyError(
                f"{redact(response.url)} was not parsed within {self._seconds:g} s",
                reason="parse_timeout",
                retryable=False,
            ) from None
