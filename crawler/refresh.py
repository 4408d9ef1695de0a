"""Visiting pages again, at the price of those that have changed.

A crawl keeps of each page what asking for it again takes: the server's validators, a hash of the body, the callback
(`crawler.fate.Revisit`). A refresh begins a new frontier and has the last one beside it:

    start() ──► the new frontier ◄── all pages of the last crawl, in batches (`Refresh.requeue`)
                     │
                     ▼
    a page ──► If-None-Match, If-Modified-Since (`Refresh.fetch`) ──► 304: done, no callback
                                                                      200: `response.changed` by the hash

What a page gave was given when it was read last. So validators are kept only of pages whose callback came to its end,
and only sent for the same URL and callback. Links of a page that has not changed are not read again: where they lead is
in the last crawl, too, and what failed there in a way that may pass, or was still waiting, is queued with the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from importlib.util import source_hash
from typing import TYPE_CHECKING

from multidict import CIMultiDict, istr

from crawler.errors import CallbackError, FetchError
from crawler.fate import Revisit
from crawler.page import Page
from crawler.redaction import without_userinfo
from crawler.request import Request
from crawler.url import host_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crawler.collector import Collector
    from crawler.context import Context
    from crawler.contracts import Earlier, EarlierPage, Entry, Lease
    from crawler.epochs import Epochs
    from crawler.request import RequestCodec
    from crawler.response import Response
    from crawler.url import Fingerprinter

__all__ = ["Refresh", "Revisits"]

logger = logging.getLogger("crawler.job")

_LONGEST = 512
"""Of a validator. Servers send 20 to 80 characters; a longer one is left out, not cut: half a validator is none."""
_OWN_HEADERS = (
    "If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range", "Range", "Authorization",
)  # fmt: skip
"""With one of these a request asks something else than was asked before."""
_PASSING = ("host_down", "robots_unavailable")
"""Reasons why trying again is of no use now; by the next crawl it may be."""
_ETAG, _LAST_MODIFIED = istr("ETag"), istr("Last-Modified")
_HEADS = tuple(b"\xde\x00%c" % fields for fields in range(4))
"""How msgspec begins a record of so many fields (MessagePack: map 16): nothing is to be kept of one that has only those
that are known to be there."""
_AT_ONCE = 200
"""Pages of the last crawl that are looked at between two turns of the loop: some 10 ms."""


class Revisits:
    """Makes what is kept of pages; nothing where `crawl.keep_validators` is off, or the frontier not on disk.

    A body is known again by its SipHash, as Python hashes sources with it: 11 µs for 30 KB, where SHA-1 takes 21 and
    BLAKE2b 55. A site that makes two bodies with one hash only hides a change of its own, as it could by saying 304.
    The key is another in another minor version of Python: then all pages count as changed, once.
    """

    def __init__(self, context: Context, codec: RequestCodec) -> None:
        settings = context.settings
        self._codec = codec
        self._kept = settings.crawl.keep_validators and context.job is not None and settings.frontier.url is None
        self._http_codes = settings.retry.http_codes

    def of_page(self, request: Request, lease: Lease, response: Response) -> Revisit | None:
        """Of a request whose callback gets this response, or whose server said that it had not changed. Only GETs
        with status 200 that are not streamed are visited again. On the way of every page, so it calls little."""
        if not self._kept or request.method != "GET":
            return None
        if response.validated is not None:
            content, etag, last_modified = _carried(response, response.validated)
        elif response.status == 200 and response.content is None:
            content, headers = source_hash(response.body), response.headers
            etag, last_modified = headers.get(_ETAG, ""), headers.get(_LAST_MODIFIED, "")
            if len(etag) + len(last_modified) > _LONGEST or not (etag.isascii() and last_modified.isascii()):
                etag, last_modified = _sane(etag), _sane(last_modified)
        else:
            return None
        if response.history and len(response.history) > len(request.history):
            etag = last_modified = ""  # they are the target's
        callback, priority = request.callback, request.priority
        is_plain = lease.record.startswith(_HEADS[1 + (callback is not None) + (priority != 0)])
        record = b"" if is_plain and "@" not in request.url else self._record(lease)
        return Revisit(content, etag, last_modified, callback or "", priority, record)

    def of_target(self, response: Response) -> Revisit | None:
        """Of the URL where redirects led: its own validators. It is not asked for by itself."""
        if not self._kept or not _is_page(response):
            return None
        content, etag, last_modified = _carried(response, response.validated)
        return Revisit(content, etag, last_modified, response.request.callback or "")

    def of_failure(
        self, request: Request, lease: Lease, error: Exception, response: Response | None, *, ok: bool
    ) -> Revisit | None:
        """Of a request that failed, if it may succeed the next time; then it is read in full. `ok`: the response was
        there, but its callback failed."""
        if not self._kept or request.method != "GET" or request.stream:
            return None
        if response is not None:
            may_pass = ok or response.status in self._http_codes
        else:
            may_pass = not isinstance(error, FetchError) or error.retryable or error.reason in _PASSING
        if not may_pass:
            return None
        return Revisit(callback=request.callback or "", priority=request.priority, record=self._record(lease))

    def _record(self, lease: Lease) -> bytes:
        """What was stored, not what middlewares and callbacks have made of its `meta`; without what is of one visit
        alone: when it was due, redirects and failed attempts. Empty where nothing is left but URL, callback and
        priority; a URL with a password is not kept in the open, so it is left."""
        record, request = lease.record, self._codec.decode(lease.record)
        if request.history or request.attempts or request.not_before is not None:
            request = request.replace(history=(), attempts=(), not_before=None)
            record = self._codec.encode(request)
        is_plain = record.startswith(_HEADS[1 + (request.callback is not None) + (request.priority != 0)])
        return b"" if is_plain and without_userinfo(request.url) == request.url else record


def _is_page(response: Response) -> bool:
    return response.validated is not None or (response.status == 200 and response.content is None)


def _carried(response: Response, known: Revisit | None) -> tuple[bytes, str, str]:
    """Hash, ETag and Last-Modified; a 304 may bring newer ones of the latter (RFC 9110, section 15.4.5)."""
    etag, last_modified = _sane(response.headers.get(_ETAG, "")), _sane(response.headers.get(_LAST_MODIFIED, ""))
    if known is None:
        return source_hash(response.body), etag, last_modified
    return known.content, etag or known.etag, last_modified or known.last_modified


def _sane(value: str) -> str:
    """What can be kept as text. Both grammars know ASCII alone, but for ETags with bytes of no known encoding, which
    are left out (RFC 9110, section 8.8.3)."""
    return value if len(value) <= _LONGEST and value.isascii() else ""


class Refresh:
    """The last crawl, as this one uses it: `earlier` is its frontier, and `fingerprint` the same for both."""

    def __init__(self, context: Context, earlier: Earlier, codec: RequestCodec, fingerprint: Fingerprinter) -> None:
        self._spider = context.spider
        self._frontier = context.frontier
        self._fetcher = context.fetcher
        self._earlier = earlier
        self._codec = codec
        self._fingerprint = fingerprint
        self._is_requeued = context.frontier.get("requeued") is not None
        self._rows: dict[str, bytes | None] = {}
        self._lost = 0

    # -- one page ----------------------------------------------------------------------------------------------------

    async def fetch(self, request: Request) -> Response:
        """As `Fetcher.fetch`, with a condition where there are validators (RFC 9110, section 13.1). `response.request`
        is the request as it was given; `response.validated` says that a 304 answers our condition."""
        known = self._known(request)
        if known is None:
            return await self._fetcher.fetch(request)
        headers = CIMultiDict(request.headers)
        if known.etag:
            headers["If-None-Match"] = known.etag
        if known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
        response = await self._fetcher.fetch(request.replace(headers=headers))
        response.request = request
        if response.status == 304:
            response.validated = known
        return response

    def _known(self, request: Request) -> Revisit | None:
        """What the server may be asked to compare with; None: the page is to be had in full."""
        if request.method != "GET" or request.stream or without_userinfo(request.url) != request.url:
            return None
        if (request.body, request.data, request.json) != (None, None, None):
            return None
        if request.headers and any(name in request.headers for name in _OWN_HEADERS):
            return None
        fingerprint = self._fingerprint(request.dedup_url, "GET", b"", request.session)
        fate = self._earlier.page(host_key(request.url), fingerprint)
        if fate is None or fate.url != request.url or fate.revisit is None:
            return None
        known = fate.revisit
        if (known.callback or "parse") != (request.callback or "parse"):
            return None
        if not (known.etag or known.last_modified) or not (known.etag + known.last_modified).isprintable():
            return None
        return known

    def is_unchanged(self, lease: Lease, response: Response) -> bool:
        """Whether the body is the one that this request had the last time."""
        if response.status != 200 or response.content is not None:
            return False
        fate = self._earlier.page(lease.host, lease.fingerprint)
        if fate is None or fate.revisit is None:
            return False
        return fate.revisit.content == source_hash(response.body)

    # -- all pages ---------------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, bytes | None]:
        """For `Frontier.commit`."""
        self._earlier.give_back()
        rows, self._rows = self._rows, {}
        return rows

    async def requeue(self, collector: Collector, epochs: Epochs, is_stopped: Callable[[], bool]) -> None:
        """Queue everything that the last crawl visited, or had not visited yet. What is known by now is left out: so
        it may be begun anew after a crash, and is, until the mark is committed that it has ended."""
        if self._is_requeued:
            return
        count = 0
        with (
            contextlib.closing(self._earlier.pages()) as pages,
            contextlib.closing(self._earlier.waiting()) as waiting,
        ):
            entries = (self._visited(collector, page) for page in pages)
            for batch in _batches(itertools.chain(entries, (self._waiting(entry) for entry in waiting))):
                page = Page(None, None)
                page.entries = [entry for entry in batch if entry is not None]
                if page.entries:
                    count += len(page.entries)
                    epochs.apply(page)
                await epochs.room()
                await asyncio.sleep(0)
                if is_stopped():
                    return
        await epochs.room()  # so that the last of them are not in a later epoch than the mark
        self._is_requeued, self._rows = True, {"requeued": b"1"}
        epochs.touch()
        logger.info("%s: %s pages of the last crawl are queued again", self._spider.name, f"{count:,}")
        if self._lost:
            logger.warning(
                "%s: %s pages of the last crawl are not, because their callbacks or items are no longer there",
                self._spider.name, f"{self._lost:,}",
            )  # fmt: skip

    def _visited(self, collector: Collector, page: EarlierPage) -> Entry | None:
        if self._frontier.seen(page.host, page.fingerprint):
            return None
        kept = page.fate.revisit
        assert kept is not None
        try:
            if kept.record:
                request = self._codec.decode(kept.record)
            else:
                request = Request(page.fate.url, kept.callback or None, priority=kept.priority)
            return collector.earlier_entry(request, page.fate.depth, page.parent)
        except (CallbackError, ValueError):
            self._lost += 1
            return None

    def _waiting(self, entry: Entry) -> Entry | None:
        return None if self._frontier.seen(entry.host, entry.fingerprint) else entry


def _batches(entries: Iterator[Entry | None]) -> Iterator[list[Entry | None]]:
    while batch := list(itertools.islice(entries, _AT_ONCE)):
        yield batch
