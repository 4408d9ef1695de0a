"""One process's frontier: decisions in memory, everything that must not be lost in a `Store`.

Each host with something waiting has a `_Host`: its window (the order keys of the entries that come next), its places,
and the time of its next turn. One heap over all hosts orders those times, so a lease costs a few heap operations
however many hosts there are. Superseded heap rows are not searched for: a row counts only if its time is still the
host's `turn`.

The window holds keys, not requests, and only the next few of a host; the rest is in the store, and `_Host.beyond`, the
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
from crawler.frontier.layout import COUNTERS, ORDER, PAIR
from crawler.frontier.rows import NO_ORIGIN, HostState, Row
from crawler.politeness import HostRule, spacing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from crawler.frontier.store import Store

__all__ = ["LocalFrontier"]

_LAST = b"\xff" * ORDER.size
_DEEPEST = 0xFFFF
_PROMOTED_AT_ONCE = 200
_RECENT = 1 << 20
"""Fingerprints, of 8 bytes each; the memory is taken as it is used."""


class _Leased(NamedTuple):
    host: _Host
    order: bytes
    fingerprint: int
    origin: bytes


class _Host:
    __slots__ = (
        "beyond",
        "blocked_until",
        "delay",
        "due",
        "id",
        "name",
        "next_start",
        "places",
        "rule",
        "taken",
        "turn",
        "turn_taken",
        "window",
    )

    def __init__(self, name: str, id: int, rule: HostRule) -> None:
        self.name = name
        self.id = id
        self.rule = rule
        self.delay = rule.delay
        self.places = rule.concurrency
        self.window: list[bytes] = []
        self.beyond: bytes | None = None
        """Keys above this one are in the store alone; None: the window is complete."""
        self.due: float | None = None
        self.taken = 0
        self.next_start = 0.0
        self.blocked_until = 0.0
        self.turn: float | None = None
        self.turn_taken = (0.0, 0.0)
        """`next_start` before and after the last turn."""


class LocalFrontier:
    """`crawler.contracts.Frontier` for one process.

    `order` is `"breadth"` (lower depth first, then first come) or `"depth"` (deeper first, then first come).
    `rule` gives a host's configured treatment; `rng` rolls the jitter.
    """

    def __init__(
        self, store: Store, *, rule: Callable[[str], HostRule], order: str = "breadth", rng: Random | None = None
    ) -> None:
        self._store = store
        self._note = store.at_work
        self._rule = rule
        self._depth_first = order == "depth"
        self._rng = rng or Random()
        self._hosts: dict[str, _Host] = {}
        self._turns: list[tuple[float, int, _Host]] = []
        self._ticks = 0
        self._sequence = 0
        self._leased: dict[int, _Leased] = {}
        self._lease_id = 0
        # Known fingerprints, each in the place that its last bits name, where a later one takes its place. What stands
        # there is known; what does not, the store is asked.
        self._recent = memoryview(mmap.mmap(-1, 8 * _RECENT)).cast("Q")
        self._added = self._duplicates = self._completed = 0
        self._resumed = 0.0
        self._resting: set[_Host] = set()
        """With nothing to do when last looked at."""
        self._touched: set[_Host] = set()
        """Asked since the last commit."""

    async def __aenter__(self) -> LocalFrontier:
        self._load()
        return self

    def _load(self) -> None:
        waiting = list(self._store.open())
        self._hosts.clear()
        saved = self._store.get_value("frontier")
        if saved is not None:
            self._sequence, self._added, self._duplicates, self._completed = COUNTERS.unpack(saved)
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
        self._resumed = now
        for host in list(self._hosts.values()):
            if host.delay:
                host.next_start = now + self._spacing(host)
            self._schedule(host)

    async def __aexit__(self, *exc: object) -> None:
        await self._store.close()

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
        if not self._store.has_seen(self._host(host).id, fingerprint):
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
        return self._store.get_end(self._host(host).id, fingerprint)

    def _origin(self, parent: tuple[str, int] | None) -> bytes:
        return NO_ORIGIN if parent is None else PAIR.pack(self._host(parent[0]).id, parent[1])

    def _mark_seen(self, host: _Host, fingerprint: int) -> bool:
        if self._recent[fingerprint % _RECENT] == fingerprint != 0:
            return False
        self._recent[fingerprint % _RECENT] = fingerprint
        return self._store.add_seen(host.id, fingerprint)

    def _order(self, priority: int, depth: int) -> bytes:
        self._sequence += 1
        depth = min(depth, _DEEPEST)
        depth = _DEEPEST - depth if self._depth_first else depth
        return ORDER.pack(0x7FFFFFFF - priority, depth, self._sequence >> 32, self._sequence & 0xFFFFFFFF)

    def _enqueue(self, host: _Host, order: bytes, row: Row, not_before: float, now: float) -> None:
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
            host = self._due_host(now)
            if host is None:
                break
            if host.due is not None and host.due <= now:
                self._promote(host, now)
            if not host.window and host.beyond is not None:
                self._refill(host)
            if host.window:
                leases.append(self._lease_next(host, now))
            self._schedule(host)
        turn = self._next_turn()
        if turn is None and not leases:
            self._check_nothing_is_missing()
        return Leased(leases, turn)

    def _check_nothing_is_missing(self) -> None:
        """When nobody has anything, nothing may be left: a store that lost entries must not end in "finished"."""
        if self._leased or any(host.taken for host in self._hosts.values()):
            return
        missing = self._store.size()
        if missing:
            raise JobDamaged(f"{missing} waiting requests cannot be found in the frontier: it is damaged")

    def _due_host(self, now: float) -> _Host | None:
        turn = self._next_turn()
        if turn is None or turn > now:
            return None
        host = heapq.heappop(self._turns)[2]
        host.turn = None
        return host

    def _next_turn(self) -> float | None:
        turns = self._turns
        while turns and turns[0][2].turn != turns[0][0]:
            heapq.heappop(turns)
        return turns[0][0] if turns else None

    def _lease_next(self, host: _Host, now: float) -> Lease:
        order = heapq.heappop(host.window)
        row = self._store.get(host.id, order)
        self._lease_id += 1
        self._leased[self._lease_id] = _Leased(host, order, row.fingerprint, row.origin)
        self._take_place(host, now)
        deaths = self._store.deaths.get(row.fingerprint, 0)
        key = row.fingerprint if row.filtered else row.fingerprint ^ int.from_bytes(order[6:])
        return Lease(
            self._lease_id, host.name, row.record, self._depth(order), row.attempt, row.fingerprint, key, deaths
        )

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
            if verdict is Verdict.RETRY:
                row = row._replace(attempt=row.attempt + 1, record=record or row.record)
            self._store.delete(host.id, order)
            self._enqueue(host, order, row, not_before, now)

    # -- a host's turns ----------------------------------------------------------------------------------------------

    def sent(self, host: str, at: float) -> None:
        state = self._hosts[host]
        if at + state.delay > state.next_start:
            state.next_start = at + state.delay
            self._schedule(state)

    def leave(self, host: str, now: float, *, unused: bool = False) -> None:
        state = self._hosts[host]
        state.taken -= 1
        if unused and state.next_start == state.turn_taken[1]:  # nobody has had a turn since
            state.next_start = state.turn_taken[0]
        self._schedule(state)

    def enter(self, host: str, now: float) -> float | None:
        state = self._host(host)
        if state.taken >= state.places:
            return None
        start = max(now, state.next_start, state.blocked_until)
        self._take_place(state, start)
        self._schedule(state)
        return start

    def host(
        self,
        host: str,
        *,
        delay: float | None = None,
        concurrency: int | None = None,
        blocked_until: float | None = None,
    ) -> None:
        state = self._host(host)
        self._touched.add(state)
        if delay is not None:
            state.next_start += delay - state.delay if delay > state.delay else 0.0
            state.delay = delay
        if concurrency is not None:
            state.places = concurrency
        if blocked_until is not None:
            state.blocked_until = blocked_until
        self._schedule(state)

    def delay(self, host: str) -> float:
        return self._host(host).delay

    def at_work(self, lease: Lease | None) -> None:
        self._note(0 if lease is None else lease.fingerprint)

    async def reap(self, now: float, limit: int) -> int:
        return 0  # a lease of this process lapses with the process, and opening the store gives it back

    # -- the epoch ---------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        leased = len(self._leased)
        active = sum(
            1
            for host in self._hosts.values()
            if host.taken or host.window or host.beyond is not None or host.due is not None
        )
        hosts = self._store.host_count()
        return Counts(
            self._store.size() - leased, leased, active, hosts, self._added, self._duplicates, self._completed
        )

    def get(self, key: str) -> bytes | None:
        return self._store.get_value(key)

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return self._store.rows(prefix)

    async def commit(self, values: Mapping[str, bytes | None], now: float) -> None:
        self._save_hosts()
        self._evict_idle(now)
        counters = COUNTERS.pack(self._sequence, self._added, self._duplicates, self._completed)
        await self._store.commit({**values, "frontier": counters})

    @property
    def is_behind(self) -> bool:
        return self._store.is_behind

    async def sync(self, before: Callable[[], Awaitable[None]]) -> None:
        await self._store.sync(before)

    def _save_hosts(self) -> None:
        for host in self._touched:
            delay = host.delay if host.delay != host.rule.delay else None
            places = host.places if host.places != host.rule.concurrency else None
            self._store.save_host_state(host.name, HostState(delay, places, host.blocked_until, host.next_start))
        self._touched.clear()

    def _evict_idle(self, now: float) -> None:
        """Forget hosts with nothing to do whose turn is free; their saved state comes back when they do."""
        if not self._resting:
            return
        leased = {leased.host for leased in self._leased.values()}
        for host in [host for host in self._resting if not (host.next_start > now or host.taken or host in leased)]:
            self._resting.discard(host)
            if host.turn is None and not (host.window or host.beyond is not None or host.due is not None):
                self._hosts.pop(host.name, None)

    async def export(self) -> AsyncIterator[tuple[Entry, int]]:
        for host, due, order, row in self._store.waiting():
            priority = 0x7FFFFFFF - ORDER.unpack(order)[0]
            entry = Entry(host, row.fingerprint, row.record, priority, self._depth(order), due, row.filtered)
            yield entry, row.attempt

    def __repr__(self) -> str:
        counts = self.counts()
        return f"<{type(self).__name__} queued={counts.queued} leased={counts.leased} hosts={counts.active_hosts}>"

    # -- hosts and windows -------------------------------------------------------------------------------------------

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name, self._store.host_id(name), self._rule(name))
            saved = self._store.host_state(name)
            if saved is not None:
                delay, places, host.blocked_until, next_start = saved
                host.delay = host.delay if delay is None else delay
                host.places = host.places if places is None else places
                # Of an earlier process, whose clock may have gone wrong: never more than a turn from its end.
                host.next_start = min(next_start, self._resumed + spacing(host.delay, host.rule.jitter, 1.0))
        return host

    def _take_place(self, host: _Host, start: float) -> None:
        host.taken += 1
        before, host.next_start = host.next_start, start + self._spacing(host)
        host.turn_taken = before, host.next_start
        if host.delay:
            self._touched.add(host)

    def _spacing(self, host: _Host) -> float:
        return spacing(host.delay, host.rule.jitter, self._rng.random()) if host.delay else 0.0

    def _schedule(self, host: _Host) -> None:
        if host.taken >= host.places:
            host.turn = None
            return
        if host.window or host.beyond is not None:
            turn = max(host.next_start, host.blocked_until)
        elif host.due is not None:
            turn = max(host.due, host.next_start, host.blocked_until)
        else:
            host.turn = None
            self._resting.add(host)
            return
        if turn != host.turn:
            host.turn = turn
            self._ticks += 1  # among equal times first come, first served
            heapq.heappush(self._turns, (turn, self._ticks, host))

    def _push(self, host: _Host, order: bytes) -> None:
        if host.beyond is not None and order > host.beyond:
            return
        heapq.heappush(host.window, order)
        if len(host.window) > 2 * self._store.window:
            host.window.sort()
            del host.window[self._store.window :]
            host.beyond = host.window[-1]

    def _refill(self, host: _Host) -> None:
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

    def _promote(self, host: _Host, now: float) -> None:
        for order in self._store.promote(host.id, now, _PROMOTED_AT_ONCE):
            self._push(host, order)
        host.due = self._store.first_due(host.id)
