"""One process's frontier: decisions in memory, everything that must not be lost in a `Store`.

Each host with something waiting has a window (the order keys of the entries that come next), and takes its turns among
all others (`turns.py`).

The window holds keys, not requests, and only the next few of a host; the rest is in the store, and `Host.beyond`, the
largest key that is surely in the window, says where the store's part begins. So memory follows the number of hosts with
work, not the number of URLs. A host that was not asked yet since the start has an empty window, and everything beyond.

An entry stays in the store until it is completed. A process that dies therefore gives back by itself what it had
leased, as far as the store's last commit goes.
"""

from __future__ import annotations

import heapq
import mmap
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from crawler.contracts import Counts, Entry, Lease, Leased, Outcome, Verdict
from crawler.errors import JobDamaged
from crawler.frontier.layout import COUNTERS, NUMBER_AT, ORDER, PAIR
from crawler.frontier.rows import NO_ORIGIN, Row
from crawler.frontier.turns import ALL_PLACES, Host, Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from crawler.frontier.store import Store
    from crawler.politeness import Controller, HostRule

__all__ = ["ELSEWHERE", "Lent", "LentEntry", "LocalFrontier", "Terms"]

ELSEWHERE = "*"
"""Not a host: under this name is what a frontier knows that came from another engine, which does not say of whom."""

_LAST = b"\xff" * ORDER.size
_DEEPEST = 0xFFFF
_PROMOTED_AT_ONCE = 200
_STEP_SECONDS = 1.0
"""By which a clock must have gone back to matter."""
_RECENT = 1 << 20
"""Fingerprints, of 8 bytes each; the memory is taken as it is used."""


class _Leased(NamedTuple):
    host: Host
    order: bytes
    fingerprint: int
    origin: bytes


class Terms(NamedTuple):
    """How a host is lent."""

    tasks: int
    """Requests that go with it, at most."""
    places: int = ALL_PLACES


class LentEntry(NamedTuple):
    """A request that went with its host."""

    lease: Lease
    priority: int
    filtered: bool
    number: int
    """Of the entry, among all others."""


class Lent(NamedTuple):
    """A host or group that went to somebody else. `Turns.take_back` is its way home."""

    controller: Controller
    places: int
    entries: list[LentEntry]


class LocalFrontier:
    """`crawler.contracts.Frontier` for one process.

    `order` is `"breadth"` (lower depth first, then first come) or `"depth"` (deeper first, then first come).
    `rule` gives a host's configured treatment, `group` the name of the group in which it is treated (None: each is its
    own), or `by_address` that `regroup` will say; `rng` rolls the jitter; `concurrency` is how many requests there may
    be at all.
    """

    def __init__(
        self,
        store: Store,
        *,
        rule: Callable[[str], HostRule],
        order: str = "breadth",
        rng: Random | None = None,
        group: Callable[[str], str] | None = None,
        by_address: bool = False,
        concurrency: int | None = None,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.on_need: Callable[[], None] = lambda: None
        self.on_stop: Callable[[str], None] = lambda reason: None
        self._store = store
        self._note = store.at_work
        self.stays_at_work = store.stays_at_work
        self._depth_first = order == "depth"
        self._turns = turns = Turns(
            store, rule=rule, rng=rng or Random(), group=group, by_address=by_address, concurrency=concurrency
        )
        self._host = turns.host
        self._schedule = turns.schedule
        self.sent, self.leave, self.enter, self.again = turns.sent, turns.leave, turns.enter, turns.again
        self.observe, self.host, self.regroup = turns.observe, turns.change, turns.regroup
        self.controller, self.waits = turns.controller, turns.waits
        self.take_back, self.lend_places = turns.take_back, turns.lend
        self._sequence = 0
        self._leased: dict[int, _Leased] = {}
        self._lease_id = 0
        self._elsewhere: int | None = None
        self._last_commit = 0.0
        """Of the run before this one, by its clock."""
        # Known fingerprints, each in the place that its last bits name, where a later one takes its place. What stands
        # there is known; what does not, the store is asked.
        self._recent = memoryview(mmap.mmap(-1, 8 * _RECENT)).cast("Q")
        self._added = self._duplicates = self._completed = 0

    async def __aenter__(self) -> LocalFrontier:
        self._load()
        return self

    def _load(self) -> None:
        waiting = list(self._store.open())
        self._turns.clear()
        saved = self._store.get_value("frontier")
        if saved is not None:
            self._sequence, self._added, self._duplicates, self._completed = COUNTERS.unpack(saved)
        self._last_commit = float(self._store.get_value("clock") or 0.0)
        self._elsewhere = self._store.known_host_id(ELSEWHERE)
        for name in waiting:
            host = self._host(name)
            host.beyond = b""
            host.due = self._store.first_due(host.id)

    async def roll_back(self) -> bool:
        """Before `resume`: to the epoch before. False: that is not kept."""
        went = await self._store.roll_back()
        self._load()
        return went

    def resume(self, now: float) -> None:
        if (back := self._last_commit - now) > _STEP_SECONDS:
            self._bring_forward(back)
        self._turns.resume(now)

    def _bring_forward(self, seconds: float) -> None:
        """The clock was set back since the last commit: what waits, waits for as long as it had to then."""
        for host in self._turns.hosts.values():
            put_off: list[tuple[float, bytes, Row]] = []
            while (due := self._store.first_due(host.id)) is not None:
                for order in self._store.promote(host.id, due + 0.001, _PROMOTED_AT_ONCE):
                    put_off.append((due - seconds, order, self._store.get(host.id, order)))
                    self._store.delete(host.id, order)
            for due, order, row in put_off:
                self._store.defer(host.id, due, order, row)
            host.due = self._store.first_due(host.id)
        self._turns.bring_forward(seconds)

    async def __aexit__(self, *exc: object) -> None:
        await self._store.close()

    async def serve(self) -> None:
        """Nobody else has a part of it."""

    async def claims_start(self) -> bool:
        return True

    async def reach(self, lease: Lease, host: str, fingerprint: int) -> None:
        """`remember` knows."""

    # -- entries in --------------------------------------------------------------------------------------------------

    def add(self, entries: Sequence[Entry], now: float) -> int:
        queued = 0
        for entry in entries:
            host = self._host(entry.host)
            new = self._mark_seen(host, entry.fingerprint)
            if entry.filtered and not new:
                self._duplicates += 1
                continue
            queued += 1
            order = self._order(entry.priority, entry.depth)
            row = Row(0, entry.fingerprint, entry.record, self._origin(entry.parent), entry.filtered)
            self._enqueue(host, order, row, entry.not_before, now)
        self._added += queued
        return queued

    def seen(self, host: str, fingerprint: int) -> bool:
        if self._recent[fingerprint % _RECENT] == fingerprint != 0:
            return True
        known = self._known_host(host)
        if (known is None or not self._store.has_seen(known, fingerprint)) and not self._is_from_elsewhere(fingerprint):
            return False
        self._recent[fingerprint % _RECENT] = fingerprint
        return True

    def remember(self, host: str, fingerprint: int, parent: tuple[str, int] | None = None, end: bytes = b"") -> bool:
        state = self._host(host)
        new = self._mark_seen(state, fingerprint)
        if new and end:
            self._store.put_end(state.id, fingerprint, self._origin(parent), end)
        return new

    def ended(self, host: str, fingerprint: int) -> bytes | None:
        known = self._known_host(host)
        return None if known is None else self._store.get_end(known, fingerprint)

    def _known_host(self, name: str) -> int | None:
        host = self._turns.hosts.get(name)
        return self._store.known_host_id(name) if host is None else host.id

    def _origin(self, parent: tuple[str, int] | None) -> bytes:
        return NO_ORIGIN if parent is None else PAIR.pack(self._host(parent[0]).id, parent[1])

    def _mark_seen(self, host: Host, fingerprint: int) -> bool:
        if self._recent[fingerprint % _RECENT] == fingerprint != 0:
            return False
        self._recent[fingerprint % _RECENT] = fingerprint
        return not self._is_from_elsewhere(fingerprint) and self._store.add_seen(host.id, fingerprint)

    def _is_from_elsewhere(self, fingerprint: int) -> bool:
        return self._elsewhere is not None and self._store.has_seen(self._elsewhere, fingerprint)

    def take_over(self, entry: Entry, attempt: int, now: float) -> None:
        """One that waited elsewhere, and was tried so often there; what was known there is told apart."""
        host, self._added = self._host(entry.host), self._added + 1
        row = Row(attempt, entry.fingerprint, entry.record, NO_ORIGIN, entry.filtered)
        self._enqueue(host, self._order(entry.priority, entry.depth), row, entry.not_before, now)

    def _order(self, priority: int, depth: int) -> bytes:
        self._sequence += 1
        depth = min(depth, _DEEPEST)
        depth = _DEEPEST - depth if self._depth_first else depth
        return ORDER.pack(0x7FFFFFFF - priority, depth, self._sequence >> 32, self._sequence & 0xFFFFFFFF)

    def _next_number(self) -> bytes:
        """The end of an order, behind all others."""
        self._sequence += 1
        return self._sequence.to_bytes(ORDER.size - NUMBER_AT)

    def _enqueue(self, host: Host, order: bytes, row: Row, not_before: float, now: float) -> None:
        if not_before > now:
            self._store.defer(host.id, not_before, order, row)
            if host.due is None or not_before < host.due:
                host.due = not_before
        else:
            self._store.put(host.id, order, row)
            self._push(host, order)
        self._schedule(host)

    # -- leases ------------------------------------------------------------------------------------------------------

    async def lease(self, want: int, now: float) -> Leased:
        leases: list[Lease] = []
        while len(leases) < want:
            host = self._turns.due(now)
            if host is None:
                break
            if self._has_next(host, now):
                leases.append(self._lease_next(host, now))
            self._schedule(host)
        turn = self._turns.next()
        if turn is None and not leases:
            self._check_nothing_is_missing()
        return Leased(leases, turn)

    def _has_next(self, host: Host, now: float) -> bool:
        if host.due is not None and host.due <= now:
            self._promote(host, now)
        if not host.window and host.beyond is not None:
            self._refill(host)
        return bool(host.window)

    def _check_nothing_is_missing(self) -> None:
        """When nobody has anything, nothing may be left: a store that lost entries must not end in "finished"."""
        if self._leased or any(host.taken or host.controller.taken for host in self._turns.hosts.values()):
            return
        missing = self._store.size()
        if missing:
            raise JobDamaged(f"{missing} waiting requests cannot be found in the frontier: it is damaged")

    def _lease_next(self, host: Host, now: float) -> Lease:
        lease = self._take_out(host)[0]
        self._turns.take(host, now)
        return lease

    def _take_out(self, host: Host) -> tuple[Lease, bytes, Row]:
        """The next entry of its window: as a lease, its order, and as it waited."""
        order = heapq.heappop(host.window)
        row = self._store.get(host.id, order)
        self._lease_id += 1
        self._leased[self._lease_id] = _Leased(host, order, row.fingerprint, row.origin)
        deaths = self._store.deaths.get(row.fingerprint, 0)
        key = row.fingerprint if row.filtered else row.fingerprint ^ int.from_bytes(order[NUMBER_AT:])
        depth = self._depth(order)
        lease = Lease(self._lease_id, host.name, row.record, depth, row.attempt, row.fingerprint, key, deaths)
        return lease, order, row

    def _depth(self, order: bytes) -> int:
        depth: int = ORDER.unpack(order)[1]
        return _DEEPEST - depth if self._depth_first else depth

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        for lease, verdict, not_before, end, record in outcomes:
            host, order, fingerprint, origin = self._leased.pop(lease.id)
            if verdict is Verdict.DONE or verdict is Verdict.DEAD:
                self._store.delete(host.id, order)
                if end:
                    self._store.put_end(host.id, fingerprint, origin, end)
                if lease.deaths and verdict is Verdict.DONE:
                    self._store.forget_deaths(fingerprint)
                self._completed += 1
                self._schedule(host)
                continue
            row = self._store.get(host.id, order)
            self._store.delete(host.id, order)
            if verdict is Verdict.RETRY:
                row = row._replace(attempt=row.attempt + 1, record=record or row.record)
                if row.filtered:  # the others are told apart by their numbers
                    order = order[:NUMBER_AT] + self._next_number()
            self._enqueue(host, order, row, not_before, now)

    # -- to others ---------------------------------------------------------------------------------------------------

    def lend(self, want: int, now: float, terms: Callable[[Controller], Terms | None]) -> list[Lent]:
        """Hosts whose turn it is go to somebody else, whole or some of their places, with their next requests: until
        those are `want` together. `terms` says how each goes; None: not this one, now."""
        lent: list[Lent] = []
        passed: list[Host] = []
        while want > 0 and (host := self._turns.due(now)) is not None:
            agreed = terms(host.controller)
            if agreed is None:
                passed.append(host)
                continue
            lent.append(self._lend(host, agreed, now))
            self._schedule(host)
            want -= len(lent[-1].entries)
        for host in passed:
            self._schedule(host)
        if not lent and self._turns.next() is None:
            self._check_nothing_is_missing()
        return [each for each in lent if each.places]

    def _lend(self, host: Host, terms: Terms, now: float) -> Lent:
        entries = self._next_of(host, terms.tasks, now)
        if entries:
            self._turns.serve(host)
            self._turns.lend(host.controller, terms.places)
        return Lent(host.controller, terms.places if entries else 0, entries)

    def lend_named(self, name: str, tasks: int, now: float) -> Lent | None:
        """The host or group of this name goes to somebody else, whether anything waits there or not. None: its places
        are not all here."""
        controller = self._turns.named(name)
        if controller.taken:
            return None
        self._turns.lend(controller)
        return Lent(controller, ALL_PLACES, self.more_of(name, tasks, now))

    def more_of(self, name: str, tasks: int, now: float) -> list[LentEntry]:
        """At most so many of the host's next requests, for whoever has it on loan."""
        host = self._turns.hosts.get(name)
        return [] if host is None else self._next_of(host, tasks, now)

    def _next_of(self, host: Host, count: int, now: float) -> list[LentEntry]:
        entries: list[LentEntry] = []
        while len(entries) < count and self._has_next(host, now):
            lease, order, row = self._take_out(host)
            priority = 0x7FFFFFFF - ORDER.unpack(order)[0]
            entries.append(LentEntry(lease, priority, row.filtered, int.from_bytes(order[NUMBER_AT:])))
        return entries

    def next_turn(self) -> float | None:
        """When a host is due, if nothing changes until then; None: nobody knows."""
        return self._turns.next()

    @property
    def is_empty(self) -> bool:
        """Nothing waits, and nothing is leased."""
        return self._store.size() == 0

    def died(self, fingerprints: Iterable[int]) -> None:
        """A process died while code of these requests ran: see `Lease.deaths`."""
        self._store.count_deaths(fingerprints)

    def at_work(self, lease: Lease | None) -> None:
        self._note(0 if lease is None else lease.fingerprint)

    # -- the epoch ---------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        leased = len(self._leased)
        busy = {leased.host for leased in self._leased.values()}
        active = sum(1 for host in self._turns.hosts.values() if host.taken or host.has_work or host in busy)
        hosts = self._store.host_count() - (self._elsewhere is not None)
        return Counts(
            self._store.size() - leased, leased, active, hosts, self._added, self._duplicates, self._completed
        )

    def get(self, key: str) -> bytes | None:
        return self._store.get_value(key)

    def put(self, values: Mapping[str, bytes | None]) -> None:
        """Values that join the open epoch now, and are there for `get` at once."""
        for key, value in values.items():
            self._store.put_value(key, value)

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return self._store.rows(prefix)

    async def commit(self, values: Mapping[str, bytes | None], now: float) -> int:
        self._turns.save()
        self._turns.evict_idle(now, [leased.host for leased in self._leased.values()])
        counters = COUNTERS.pack(self._sequence, self._added, self._duplicates, self._completed)
        await self._store.commit({**values, "frontier": counters, "clock": b"%.3f" % now})
        return 0

    @property
    def is_behind(self) -> bool:
        return self._store.is_behind

    async def sync(self, before: Callable[[], Awaitable[None]]) -> None:
        await self._store.sync(before)

    async def export(self) -> AsyncIterator[tuple[Entry, int]]:
        for host, due, order, row in self._store.waiting():
            priority = 0x7FFFFFFF - ORDER.unpack(order)[0]
            entry = Entry(host, row.fingerprint, row.record, priority, self._depth(order), due, row.filtered)
            yield entry, row.attempt

    def __repr__(self) -> str:
        counts = self.counts()
        return f"<{type(self).__name__} queued={counts.queued} leased={counts.leased} hosts={counts.active_hosts}>"

    # -- windows ---------------------------------------------------------------------------------------------------

    def _push(self, host: Host, order: bytes) -> None:
        if host.beyond is not None and order > host.beyond:
            return
        heapq.heappush(host.window, order)
        if len(host.window) > 2 * self._store.window:
            host.window.sort()
            del host.window[self._store.window :]
            host.beyond = host.window[-1]

    def _refill(self, host: Host) -> None:
        """The window from the store, after it ran empty."""
        leased = {leased.order for leased in self._leased.values() if leased.host is host}
        host.window.clear()
        host.beyond = None
        for order in self._store.scan(host.id):
            if order in leased:
                continue
            if len(host.window) == self._store.window:
                host.beyond = host.window[-1]
                return
            host.window.append(order)

    def _promote(self, host: Host, now: float) -> None:
        for order in self._store.promote(host.id, now, _PROMOTED_AT_ONCE):
            self._push(host, order)
        host.due = self._store.first_due(host.id)
