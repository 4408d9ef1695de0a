"""What a callback gives, judged as it comes: links and requests become frontier entries, items go their way
(`passage.py`). All of it is gathered in the callback's `Page`."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import inspect
import itertools
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
)
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from crawler import fate
from crawler import url as urls
from crawler.callback_time import CallbackTime, close
from crawler.contracts import Entry
from crawler.errors import CallbackError
from crawler.fate import Fate
from crawler.item import is_item, type_name
from crawler.links import Links
from crawler.page import Reached
from crawler.redaction import without_userinfo
from crawler.request import Request, RequestCodec
from crawler.spider import missing_callback

if TYPE_CHECKING:
    from crawler.attempt import Attempt
    from crawler.bounds import Bounds
    from crawler.context import Context
    from crawler.contracts import Lease
    from crawler.fate import Revisit
    from crawler.page import Page
    from crawler.passage import Passage
    from crawler.refusals import Refusals
    from crawler.url import Fingerprinter

__all__ = ["OUTPUTS_PER_TURN", "Collector"]

logger = logging.getLogger("crawler.collector")

_ENTRIES_AT_ONCE = 1000
"""More requests of one page are not kept in memory: the frontier has them before the page ends."""
_KNOWN = 20_000
"""URLs that are remembered as known: 3 MB of strings."""
OUTPUTS_PER_TURN = 200
"""A callback that gives very much lets other pages run after this many outputs."""


class Collector:
    """Turns what callbacks give into the effects of a `Page`."""

    def __init__(
        self,
        context: Context,
        *,
        codec: RequestCodec,
        fingerprint: Fingerprinter,
        bounds: Bounds,
        passage: Passage,
        refusals: Refusals,
        relieve: Callable[[Page], Awaitable[None]],
    ) -> None:
        self._spider = context.spider
        self._frontier = context.frontier
        self._stats = context.stats
        self._clock = context.clock
        self._codec = codec
        self._fingerprint = fingerprint
        self._bounds = bounds
        self._passage = passage
        self._refusals = refusals
        self._relieve = relieve
        self.is_whole = not context.settings.crawl.partial_pages
        """A page counts as a whole or not at all: call `settle` when its callback came to its end."""
        self._output_limit = context.settings.crawl.output_limit
        self._reaching: dict[int, asyncio.Task[Any] | None] = {}
        self._known: set[str] = set()
        """Links that were in scope and known to the frontier, and so are for ever."""

    async def run(
        self, page: Page, callback: Callable[..., Any], argument: Any, kwargs: Mapping[str, Any], seconds: float | None
    ) -> None:
        """Call `callback(argument, **kwargs)`, whatever its shape, and collect what it gives.

        An async callback that takes longer than `seconds`, pipelines not counted, is cancelled: `CallbackTimeout`.
        Raises what the callback raises, `CallbackError` for output of a wrong type, `NotStorable` for a request that
        cannot wait; what it gave before that stays collected.
        """
        task = asyncio.current_task()
        try:
            await self._run(page, callback, argument, kwargs, seconds)
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            # Of a task that the callback itself made: to us an error like any other, not our own end.
            raise CallbackError(
                f"{_name(callback)} of spider {self._spider.name!r} awaited what was cancelled"
            ) from error
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # GeneratorExit, or one of the user's own. Unless it is us who are closed, which is no step of this task.
            if task is None or asyncio.current_task(task.get_loop()) is not task:
                raise
            raise CallbackError(
                f"{_name(callback)} of spider {self._spider.name!r} raised {type_name(error)}"
            ) from error

    async def _run(
        self, page: Page, callback: Callable[..., Any], argument: Any, kwargs: Mapping[str, Any], seconds: float | None
    ) -> None:
        name = _name(callback)
        page.outputs = 0
        budget = CallbackTime(name, seconds)
        result = callback(argument, **kwargs)
        is_plain = result is None or isinstance(result, (GeneratorType, list))  # most are; the rest takes long to tell
        if not is_plain and inspect.isawaitable(result):
            result = await budget.spend(result)
        if is_plain or not isinstance(result, AsyncIterator):
            await self.collect(page, result, name)
            return
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(result, AsyncGenerator):  # left in its middle, its `finally` is to run now
                stack.push_async_callback(close, result, budget)
            for number in itertools.count(1):
                output = await budget.spend(anext(result, _END))
                if output is _END:
                    return
                await self.collect(page, output, name)
                if number % OUTPUTS_PER_TURN == 0:
                    await asyncio.sleep(0)

    async def collect(self, page: Page, output: Any, callback: str) -> None:
        """One output: an item, a request, a `Links`, an iterable of those, or None."""
        if output is None:
            return
        if isinstance(output, Request):
            self._count(page, callback)
            self.add_request(page, output)
        elif isinstance(output, Links):
            self._count(page, callback)
            self._add_links(page, output)
        elif is_item(output):
            self._count(page, callback)
            await self._passage.take(page, output)
        elif isinstance(output, Iterable) and not isinstance(output, (str, bytes)):
            with contextlib.closing(output) if isinstance(output, Generator) else contextlib.nullcontext():
                for number, each in enumerate(output, 1):
                    await self.collect(page, each, callback)
                    if number % OUTPUTS_PER_TURN == 0:
                        await asyncio.sleep(0)
        else:
            raise CallbackError(
                f"{callback} of spider {self._spider.name!r} gave a {type_name(output)}; "
                "a callback gives items (dict, dataclass, attrs, pydantic, msgspec), requests, what follow_all "
                "returns, a list or generator of those, or None"
            )
        if len(page.entries) >= _ENTRIES_AT_ONCE and not (self.is_whole and page.lease is not None):
            await self._relieve(page)

    async def settle(self, page: Page) -> None:
        """The callback came to its end: what waited for that (`crawl.partial_pages`) counts."""
        await self._passage.deliver(page)
        entries = page.entries
        for start in range(0, len(entries) - _ENTRIES_AT_ONCE, _ENTRIES_AT_ONCE):
            page.entries = entries[start : start + _ENTRIES_AT_ONCE]
            await self._relieve(page)
        page.entries = entries[-(len(entries) % _ENTRIES_AT_ONCE or _ENTRIES_AT_ONCE) :]

    def retract(self, page: Page) -> None:
        """The callback failed: where a page counts as a whole or not at all, nothing that it gave does."""
        if self.is_whole:
            page.retract()

    def _count(self, page: Page, callback: str) -> None:
        """What one page gives may not go on for ever."""
        page.outputs += 1
        if self._output_limit and page.outputs > self._output_limit and page.lease is not None:
            raise CallbackError(
                f"{callback} of spider {self._spider.name!r} gave more than {self._output_limit} items and requests "
                "(crawl.output_limit)"
            )

    # -- requests ----------------------------------------------------------------------------------------------------

    def entry(self, request: Request, depth: int, parent: tuple[str, int] | None) -> Entry:
        """The frontier's view of a request. Raises `NotStorable`."""
        return Entry(
            urls.host_key(request.url),
            self.fingerprint(request),
            self._codec.encode(request),
            request.priority,
            depth,
            self._not_before(request),
            not request.dont_filter,
            parent,
        )

    def tried(self, lease: Lease, attempt: Attempt) -> bytes:
        """The record of a leased request that is to be tried again. Made of what was stored: middlewares may have
        changed what hangs on the request."""
        return self._codec.tried(lease.record, attempt)

    def fingerprint(self, request: Request) -> int:
        """What the frontier compares."""
        return self._fingerprint(request.dedup_url, request.method, request.dedup_body, request.session)

    def is_known(self, hop: Request) -> bool:
        """Whether a redirect leads to a page that the crawl has already, or that another redirect is just leading to.

        Coming back to itself does not count: sites do that to set a cookie. Until `forget_hops` the target is this
        task's: others find it known.
        """
        if not _is_filtered(hop):
            return False
        fingerprint = self.fingerprint(hop)
        if fingerprint in self._reaching or self._frontier.seen(urls.host_key(hop.url), fingerprint):
            return True
        self._reaching[fingerprint] = asyncio.current_task()
        return False

    def forget_hops(self) -> None:
        """This task's redirects have come to their end."""
        if self._reaching:
            task = asyncio.current_task()
            self._reaching = {fingerprint: owner for fingerprint, owner in self._reaching.items() if owner is not task}

    def reached(self, page: Page, final: Request, status: int, revisit: Revisit | None = None) -> Reached | None:
        """Where a chain of redirects ended, if it may be there once only."""
        if not _is_filtered(final):
            return None
        began = "" if page.request is None else without_userinfo(page.request.url)
        end = Fate(
            without_userinfo(final.url), fate.Verdict.REACHED, self._clock.now(), final.depth,
            status=status, target=began, revisit=revisit,
        )  # fmt: skip
        return Reached(urls.host_key(final.url), self.fingerprint(final), page.parent, end.encode())

    def add_request(self, page: Page, request: Request) -> None:
        """One request that user code built, as opposed to links. Raises `NotStorable` and `CallbackError`."""
        if not request.refused:
            page.named.add(urls.host_key(request.url))
        self._add_request(page, request)

    def _add_request(self, page: Page, request: Request) -> None:
        self._check_methods(request)
        if request.refused:
            self._refuse(page, request.url, request.refused)
            return
        if self._refused(page, request.url):
            return
        if request.attempts:  # those of the page or failure that it was made of
            request = request.replace(attempts=())
        entry = self.entry(request, page.depth, page.parent)
        refusal = self._bounds.beyond(page, request.url, entry.host, entry.fingerprint)
        if refusal is None:
            page.entries.append(entry)
        else:
            self._refuse(page, request.url, refusal)

    def earlier_entry(self, request: Request, depth: int, parent: tuple[str, int] | None) -> Entry | None:
        """Of a request of the last crawl; None where the crawl does not go there any more. Raises `CallbackError` and
        `NotStorable`."""
        self._check_methods(request)
        if self._bounds.outside(request.url, depth) is not None:
            return None
        return self.entry(request, depth, parent)._replace(filtered=True)

    def _check_methods(self, request: Request) -> None:
        if missing := missing_callback(self._spider, request):
            raise CallbackError(f"spider {self._spider.name!r} has no method {missing!r} to give {request!r} to")

    def _add_links(self, page: Page, links: Links) -> None:
        if not _differ_in_url_alone(links.template):
            for request in links:
                self._add_request(page, request)
            return
        self._check_methods(links.template)
        if links.template.refused:
            for url in links.urls():
                self._refuse(page, url, links.template.refused)
            return
        found, known = links.urls(), self._known
        new = [url for url in found if url not in known]
        duplicates = len(found) - len(new)
        accepted = [url for url in new if not self._refused(page, url)]
        fingerprints = self._fingerprint.many([urls.canonical(url) for url in accepted])
        for url, fingerprint in zip(accepted, fingerprints, strict=True):
            host = urls.host_key(url)
            if self._frontier.seen(host, fingerprint):
                duplicates += 1
                known.add(url)
                continue
            if (refusal := self._bounds.beyond(page, url, host, fingerprint)) is not None:
                self._refuse(page, url, refusal)
                continue
            request = links.request(url)
            record = self._codec.encode(request)
            not_before = self._not_before(request)
            page.entries.append(
                Entry(host, fingerprint, record, request.priority, page.depth, not_before, True, page.parent)
            )
        self._stats.total.duplicates += duplicates
        if len(known) > _KNOWN:
            known.clear()

    def _refused(self, page: Page, url: str) -> bool:
        refusal = self._bounds.outside(url, page.depth)
        if refusal is None:
            return False
        self._refuse(page, url, refusal)
        return True

    def _refuse(self, page: Page, url: str, reason: str) -> None:
        self._refusals.note(url, reason, page.depth, "" if page.request is None else page.request.url)
        if reason == "offsite":
            self._stats.total.offsite += 1
        else:
            self._stats.failures[reason] += 1

    def _not_before(self, request: Request) -> float:
        wanted = request.not_before
        if wanted is None:
            return 0.0
        if isinstance(wanted, dt.datetime):
            return wanted.timestamp()
        return self._clock.now() + wanted


_END: Any = object()


def _differ_in_url_alone(template: Request) -> bool:
    """Whether links of this template are what other plain links are, and may be compared by their URLs."""
    if template.dont_filter or template.key is not None or template.session is not None:
        return False
    return template.method == "GET" and not template.dedup_body


def _is_filtered(hop: Request) -> bool:
    """Whether the target of a redirect may be there once only."""
    if hop.method != "GET" or hop.dont_filter:
        return False
    return all(earlier.url != hop.url for earlier in hop.history)


def _name(callback: Callable[..., Any]) -> str:
    return getattr(callback, "__name__", "callback")
