"""Items of a child's pages, on their way through the parent's pipelines into pages that take effect with its epoch."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from crawler.fate import Fate
from crawler.page import Page
from crawler.processes.packing import Packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from crawler.contracts import Exporter, Lease, Spool
    from crawler.frontier.broker import End, WorkerEpoch
    from crawler.passage import Passage
    from crawler.request import RequestCodec

__all__ = ["Arrivals"]

logger = logging.getLogger("crawler.items")

_DECODER: Final = msgspec.msgpack.Decoder(Packed)


class Arrivals:
    """Of one child. `leases` gives its leases by their keys. Items of one page pass one after the other, those of
    several pages side by side where pipelines may wait (`is_slow`)."""

    def __init__(
        self,
        passage: Passage,
        codec: RequestCodec,
        leases: Callable[[], Mapping[int, Lease]],
        *,
        is_slow: bool,
        refused: Exporter | None,
        make_spool: Callable[[], Spool],
    ) -> None:
        self._passage = passage
        self._codec = codec
        self._leases = leases
        self._is_slow = is_slow
        self._refused = refused
        self._make_spool = make_spool
        self._pages: dict[int | None, Page] = {}

    async def take(self, records: Iterable[bytes]) -> None:
        """Raises `EngineUnavailable`."""
        items: dict[int | None, list[bytes]] = {}
        for record in records:
            packed = _DECODER.decode(record)
            if packed.letter:
                self._keep_letter(packed.letter)
            else:
                items.setdefault(packed.key, []).append(packed.item)
        leases = self._leases() if items else {}
        pages = [(page, each) for key, each in items.items() if (page := self._page(key, leases)) is not None]
        if self._is_slow and len(pages) > 1:
            try:
                async with asyncio.TaskGroup() as group:
                    for page, each in pages:
                        group.create_task(self._pass(page, each), name="items")
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        else:
            for page, each in pages:
                await self._pass(page, each)

    async def end(self, epoch: WorkerEpoch) -> tuple[list[Page], WorkerEpoch]:
        """The epoch that these items belong to has come: the pages that have them, and the epoch. Of pages whose items
        were refused it does not say any more that they were whole."""
        pages, self._pages = list(self._pages.values()), {}
        for page in pages:
            await self._passage.deliver(page)
        spoilt = {str(page.lease.id): page for page in pages if page.failures and page.lease is not None}
        if spoilt:
            ends = [_invalidated(end, spoilt[end.task]) if end.task in spoilt else end for end in epoch.ends]
            epoch = msgspec.structs.replace(epoch, ends=ends)
        return pages, epoch

    def drop(self) -> None:
        """The epoch does not come."""
        for page in self._pages.values():
            page.close()
        self._pages = {}

    def _page(self, key: int | None, leases: Mapping[int, Lease]) -> Page | None:
        page = self._pages.get(key)
        if page is not None:
            return page
        if key is None:
            page = Page(None, None)
        else:
            lease = leases.get(key)
            if lease is None:
                return None
            page = Page(self._codec.decode(lease.record, lease.depth), lease)
        self._pages[key] = page
        return page

    async def _pass(self, page: Page, packed: Iterable[bytes]) -> None:
        for each in packed:
            try:
                item = self._codec.values.decode(each)
            except ValueError as error:
                logger.error("an item of %r is lost: %s", page.request, error)
                page.failures.append("item_error")
                page.items_dropped += 1
                continue
            await self._passage.take(page, item)

    def _keep_letter(self, letter: bytes) -> None:
        """The child has counted it."""
        if self._refused is None:
            return
        page = self._pages.setdefault(None, Page(None, None))
        if page.refused is None:
            page.refused = self._make_spool()
        page.refused.append(self._refused.encode(msgspec.json.decode(letter)))


def _invalidated(end: End, page: Page) -> End:
    if end.end:
        page.fate = Fate.decode(end.end)
        page.invalidate()
    return msgspec.structs.replace(end, end=page.end)
