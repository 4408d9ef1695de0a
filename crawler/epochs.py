"""The open epoch: what pages cause goes in, and closing it makes it durable, all together or not at all.

    a page ends ──► apply ──► the open epoch ──► commit: outputs are flushed, one transaction ──► (a second) sync

Closing takes a moment, in which pages go on ending: those are held back for the next epoch, so that none is half in it.
What piles up has a limit everywhere. When many pages are held, no new ones are started (`is_full`); a page that gives
very many requests hands them over while it runs, and waits for the epoch to close when it has enough (`relieve`); its
items go to disk until the page ends (`Spool`).

A page that hands requests over before it ends may be killed after that, and run again: then its requests are known by
their fingerprints. Its items are not handed over before, because nothing tells an item from the same item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from crawler import crash, fate
from crawler.contracts import Outcome, Verdict

if TYPE_CHECKING:
    from crawler.context import Context
    from crawler.contracts import Entry, Exporter, Taken
    from crawler.page import Page

__all__ = ["Epochs", "Rows"]

Rows = Callable[[], Mapping[str, bytes | None]]
"""What changed since the last call, as values for `Frontier.commit`."""

EPOCH_SECONDS = 0.2
"""How long an epoch stays open: what a crash costs in repeated fetches, against the price of a transaction."""
EPOCH_PAGES = 500
EPOCH_ENTRIES = 5_000
"""New requests: a transaction keeps what it changes in memory, and writes it while the loop waits (15 ms for these)."""
SYNC_SECONDS = 1.0
"""What a power failure costs, where `frontier.durability` is `"process"`."""
_WATCH_SECONDS = 1.0
_UNFILTERED_KEPT = 20_000
"""Of one page. More of them are handed over before it ends, and come twice if it runs again."""


class Epochs:
    """`apply`, `relieve` and `commit`, over a frontier and its outputs.

    `refused` is the one among the exporters, the last, that takes refused items. `outputs` are the keys of the
    exporters' positions, in order. `rows` are asked at each commit for what else is to be
    kept. `on_page` is called with each page as it takes effect, `on_change` after each page that took effect,
    `on_turn` after each look whether to close.
    """

    def __init__(
        self,
        context: Context,
        *,
        exporters: Sequence[Exporter],
        refused: Exporter | None = None,
        outputs: Sequence[str] = (),
        rows: Sequence[Rows] = (),
        on_page: Callable[[Page], None] = lambda page: None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.started = context.frontier.get("started") is not None
        """`start()` came to its end, in this run or before."""
        self.named: set[str] = set(msgspec.json.decode(context.frontier.get("named") or b"[]"))
        """Hosts that `start()` named: they may be private."""
        self._named_saved = -1 if context.frontier.get("named") is None else len(self.named)
        self._frontier = context.frontier
        self._fetcher = context.fetcher
        self._stats = context.stats
        self._clock = context.clock
        self._item_limit = context.settings.crawl.item_limit
        self._syncs_each = context.settings.frontier.durability == "power"
        self._on_page = on_page
        self._exporters = exporters
        self._refused = refused
        self._outputs = outputs
        self._rows = rows
        self._on_turn = on_turn
        self._positions = msgspec.msgpack.decode(context.frontier.get("positions") or b"\x80", type=dict[str, bytes])
        """Positions of outputs that this run was not told to write are kept as they are."""
        self._held: list[Page] | None = None
        self._pages = 0
        self._entries = 0
        self._dirty = False
        self._unsynced = False
        self._synced = context.clock.now()
        """When the last sync began that has ended."""
        self._full = asyncio.Event()
        self._closing = asyncio.Lock()
        self._sync_lock = asyncio.Lock()
        self._turned = asyncio.Event()
        self._watched = context.clock.now()

    # -- in ----------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Pages that ended while the epoch is being closed."""
        return len(self._held or ())

    @property
    def is_closing(self) -> bool:
        return self._held is not None

    @property
    def is_full(self) -> bool:
        """So much is waiting for the epoch to close that no more should be started."""
        return self.held >= EPOCH_PAGES or self._pages >= 2 * EPOCH_PAGES

    def apply(self, page: Page) -> None:
        """All effects of a page in one step, into the open epoch; held back while an epoch is being closed."""
        if self._held is not None:
            self._held.append(page)
            return
        now = self._clock.now()
        total = self._stats.total
        self._allow(page)
        if page.reached is not None and not self._frontier.remember(*page.reached):
            # Somebody else came to the same page meanwhile, and its effects are there: once is enough.
            total.duplicates += 1
            page.drop()
        self._on_page(page)
        if page.entries or page.kept:
            self._add([*page.kept, *page.entries], now)
        if page.lease is not None:
            self._count_end(page)
            self._frontier.complete([Outcome(page.lease, page.verdict, page.not_before, page.end, page.record)], now)
        total.items_dropped += page.items_dropped
        for reason in page.failures:
            self._stats.failed(reason)
        if page.refusal:
            self._stats.refused(page.refusal)
        if page.not_modified:
            total.not_modified += 1
        if page.items_unchanged:
            total.items_unchanged += page.items_unchanged
        if page.delivered:
            total.pages += 1
            total.depth_max = max(total.depth_max, page.depth - 1)
        self._take_items(page)
        self._dirty = True
        self._pages += 1
        if self._pages >= EPOCH_PAGES:
            self._full.set()
        crash.point("after_apply")
        self.on_change()

    def _count_end(self, page: Page) -> None:
        """Every request that was queued ends as one of three, or still waits."""
        total = self._stats.total
        if page.verdict not in (Verdict.DONE, Verdict.DEAD):
            return
        word = "" if page.fate is None else page.fate.verdict
        if word == fate.Verdict.DONE:
            total.done += 1
        elif word == fate.Verdict.REDIRECTED:
            total.dropped += 1
        else:
            total.failed += 1

    def _allow(self, page: Page) -> None:
        if page.lease is None:
            for host in page.named - self.named:
                self.named.add(host)
                self._fetcher.allow_host(host)

    def _add(self, entries: Sequence[Entry], now: float) -> None:
        if entries:
            self._stats.total.duplicates += len(entries) - self._frontier.add(entries, now)
            self._entries += len(entries)
            if self._entries >= EPOCH_ENTRIES:
                self._full.set()

    def _take_items(self, page: Page) -> None:
        count = page.item_count
        if page.refused_count or page.refused is not None:
            self._take_refused(page)
        if not count:
            return
        if self._item_limit:
            count = min(count, max(0, self._item_limit - self._stats.total.items))
        self._stats.total.items += count
        for exporter, spool in zip(self._exporters, page.spools, strict=False):
            exporter.append_spool(spool, count)
        page.spools = ()

    def _take_refused(self, page: Page) -> None:
        self._stats.total.items_refused += page.refused_count
        if self._refused is not None and page.refused is not None:
            self._refused.append_spool(page.refused)
        page.refused = None

    async def relieve(self, page: Page) -> None:
        """Take over the requests that a page has given so far. Waits while there are enough in the open epoch."""
        await self.room()
        self._allow(page)
        ready = [entry for entry in page.entries if entry.filtered]
        page.kept += [entry for entry in page.entries if not entry.filtered]
        page.entries.clear()
        if len(page.kept) > _UNFILTERED_KEPT:
            ready += page.kept
            page.kept.clear()
        self._add(ready, self._clock.now())
        self._dirty = True
        self.on_change()

    async def absorb(self, pages: Sequence[Page], take: Callable[[], Taken]) -> int:
        """What pages of another process caused, in one step as well; waits as `room` does. `pages` have their items
        alone; `take`, called in that step, does the rest of it to the frontier and the statistics. How many of the
        entries were known.
        """
        await self.room()
        taken = take()
        self._stats.total.duplicates += taken.known
        for host in set(taken.named) - self.named:
            self.named.add(host)
            self._fetcher.allow_host(host)
        self.started = self.started or taken.is_started
        for page in pages:
            self._stats.total.items_dropped += page.items_dropped
            for reason in page.failures:
                self._stats.failed(reason)
            self._take_items(page)
        self._dirty = True
        self._pages += max(1, taken.ends)
        self._entries += taken.entries
        if self._pages >= EPOCH_PAGES or self._entries >= EPOCH_ENTRIES:
            self._full.set()
        self.on_change()
        return taken.known

    async def room(self) -> None:
        """Wait while there is enough in the open epoch, or it is being closed."""
        while self._held is not None or self._entries >= EPOCH_ENTRIES:
            await self._turned.wait()

    # -- closing -----------------------------------------------------------------------------------------------------

    async def close_regularly(self) -> None:
        """For ever: close the epoch when it is old or large enough."""
        while True:
            await self._clock.wait(self._full, EPOCH_SECONDS)
            self._full.clear()
            await self.turn()
            self._on_turn()

    async def turn(self) -> None:
        """Close the epoch if there is something in it; look after the outputs if not."""
        if self._dirty:
            await self.commit()
            await (self.sync() if self._syncs_each else self._keep_pace())
        elif self._clock.now() - self._watched >= _WATCH_SECONDS:
            self._watched = self._clock.now()
            for exporter in self._exporters:
                await exporter.flush()  # it has nothing to write, and sees whether its file is still there

    async def commit(self, state: str = "running") -> None:
        """Close the epoch. Outputs first: what the frontier calls done has been written."""
        async with self._closing:
            await self._commit(state)

    async def _commit(self, state: str) -> None:
        self._held = []
        started = self.started  # what start() gives from here on is held for the next epoch
        self._dirty = False
        self._pages = self._entries = 0
        try:
            crash.point("before_flush")
            for key, exporter in zip(self._outputs, self._exporters, strict=True):
                self._positions[key] = await exporter.flush()
            crash.point("after_output_before_commit")
            values: dict[str, bytes | None] = {
                "positions": msgspec.msgpack.encode(self._positions),
                "stats": self._stats.encode(self._clock.now()),
                "state": state.encode(),
            }
            if len(self.named) != self._named_saved:  # it only grows, and may be long
                values["named"] = msgspec.json.encode(sorted(self.named))
                self._named_saved = len(self.named)
            for rows in self._rows:
                values.update(rows())
            if started:
                values["started"] = b"1"
            known = await self._frontier.commit(values, self._clock.now())
            self._stats.total.duplicates += known  # not in one line: others count while this one waits
            self._unsynced = True
            self._watched = self._clock.now()
        finally:
            held, self._held = self._held, None
        for page in held:
            self.apply(page)
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()
        self.on_change()

    async def end(self, regular: Sequence[asyncio.Task[None]]) -> None:
        """No more by themselves. An epoch that is being closed is closed, a sync ends."""
        async with self._closing, self._sync_lock:
            for task in regular:
                task.cancel()

    async def finish(self, state: str) -> None:
        """The last epoch. How the crawl ended is said when its outputs are whole: killed before that, it has not."""
        await self.commit()
        await self.sync()
        for exporter in self._exporters:
            await exporter.close()
        crash.point("after_outputs_closed")
        self._exporters = self._outputs = ()
        await self.commit(state)
        await self.sync()

    def hurry(self) -> None:
        """Something changed that should not be lost: close the epoch now, if it is open."""
        self._dirty = True
        self._full.set()

    def touch(self) -> None:
        """Something changed that is not a page's: the epoch is to be closed."""
        self._dirty = True

    # -- against power failures --------------------------------------------------------------------------------------

    async def sync_regularly(self) -> None:
        """For ever, beside the epochs: a disk that takes its time does not keep them open, as long as it is not far
        behind."""
        never = asyncio.Event()
        while not self._syncs_each:
            await self._clock.wait(never, SYNC_SECONDS)
            await self.sync()

    async def sync(self) -> None:
        """What was committed survives a power failure."""
        async with self._sync_lock:
            began = self._clock.now()
            if self._unsynced:
                self._unsynced = False
                await self._frontier.sync(self._sync_outputs)
            self._synced = began

    async def _keep_pace(self) -> None:
        """With the disk: what a power failure may cost has a limit, and so has the room it takes until then."""
        if self._frontier.is_behind or self._clock.now() - self._synced > 2 * SYNC_SECONDS:
            await self.sync()

    async def _sync_outputs(self) -> None:
        for exporter in self._exporters:
            await exporter.sync()
        await self._fetcher.sync()
