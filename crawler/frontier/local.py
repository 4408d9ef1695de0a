"""One process's frontier: decisions in memory, everything that must not be lost in a `Store`.

Each host with something waiting has a `_Host`: its window (the order keys of the entries that come next), its places,
and the time of its next turn. One heap over all hosts orders those times, so a lease costs a few heap operations
however many hosts there are. Superseded heap rows are not searched for: a row counts only if its time is still the
host's `turn`.

The window holds keys, not requests, and only the next few of a host; the rest is in the store, and `_Host.beyond`, the
largest key that is surely in the window, says where the store's part begins. So memory follows the number of hosts with
work, not the number of URLs.

An entry stays in the store until it is completed. A process that dies therefore gives back by itself what it had
leased, as far as the store's last commit goes.
"""

from __future__ import annotations

import heapq
import struct
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from crawler.contracts import Counts, Entry, Lease, Leased, Outcome, Verdict
from crawler.politeness import HostRule, spacing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["LocalFrontier", "Row", "Store"]

_ORDER = struct.Struct(">IHQ")
_LAST = b"\xff" * _ORDER.size
_DEEPEST = 0xFFFF
_PROMOTED_AT_ONCE = 200
_RECENT = 1 << 16


class Row(NamedTuple):
    """A waiting entry as a store keeps it."""

    attempt: int
    fingerprint: int
    record: bytes


class Store(Protocol):
    """Where a `LocalFrontier` keeps what must not be lost. Hosts are small integers; keys sort as bytes.

    Changes join the open transaction; `commit` makes them durable together. Raises `EngineUnavailable`.
    """

    window: int
    """How many keys of a host the frontier may keep in memory; the store can `scan` for the rest."""

    def open(self) -> Iterable[str]:
        """Ready for use; the names of the hosts with something waiting."""
        ...

    def close(self) -> None: ...

    def host_id(self, name: str) -> int: ...

    def host_count(self) -> int:
        """Hosts that ever had an id."""
        ...

    def host_state(self, name: str) -> tuple[float | None, int | None, float] | None:
        """(delay, places, blocked until) where they were ever set."""
        ...

    def save_host_state(self, name: str, state: tuple[float | None, int | None, float]) -> None: ...

    def add_seen(self, host: int, fingerprint: int) -> bool:
        """Mark as seen; whether it was not before."""
        ...

    def has_seen(self, host: int, fingerprint: int) -> bool: ...

    def put(self, host: int, order: bytes, row: Row) -> None: ...

    def get(self, host: int, order: bytes) -> Row: ...

    def delete(self, host: int, order: bytes) -> None: ...

    def scan(self, host: int) -> Iterator[bytes]:
        """The host's order keys, ascending."""
        ...

    def defer(self, host: int, due: float, order: bytes, row: Row) -> None: ...

    def first_due(self, host: int) -> float | None: ...

    def take_due(self, host: int, now: float, limit: int) -> list[tuple[bytes, Row]]:
        """Remove and return the deferred entries whose time has come."""
        ...

    def waiting(self) -> Iterator[tuple[str, float, bytes, Row]]:
        """Everything queued or deferred: (host, due or 0, order, row)."""
        ...

    def size(self) -> int:
        """How many entries are queued or deferred, the leased ones included."""
        ...

    def get_value(self, key: str) -> bytes | None: ...

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The values whose keys begin with this, in the order of their keys."""
        ...

    async def commit(self, values: Mapping[str, bytes | None]) -> None: ...


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
        self._rule = rule
        self._depth_first = order == "depth"
        self._rng = rng or Random()
        self._hosts: dict[str, _Host] = {}
        self._turns: list[tuple[float, int, _Host]] = []
        self._ticks = 0
        self._sequence = 0
        self._leased: dict[int, tuple[_Host, bytes]] = {}
        self._lease_id = 0
        self._recent: set[int] = set()
        self._older: set[int] = set()
        self._added = self._duplicates = self._completed = 0

    async def __aenter__(self) -> LocalFrontier:
        waiting = list(self._store.open())
        saved = self._store.get_value("frontier")
        if saved is not None:
            self._sequence, self._added, self._duplicates, self._completed = _COUNTERS.unpack(saved)
        for name in waiting:
            host = self._host(name)
            host.beyond = b""
            host.due = self._store.first_due(host.id)
        return self

    def resume(self, now: float) -> None:
        for host in list(self._hosts.values()):
            if host.delay:
                host.next_start = now + self._spacing(host)
            self._refill(host)
            self._schedule(host)

    async def __aexit__(self, *exc: object) -> None:
        self._store.close()

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
            self._enqueue(host, order, Row(0, entry.fingerprint, entry.record), entry.not_before, now)
        self._added += queued
        return queued

    def seen(self, host: str, fingerprint: int) -> bool:
        if fingerprint in self._recent or fingerprint in self._older:
            return True
        return self._store.has_seen(self._host(host).id, fingerprint)

    def remember(self, host: str, fingerprint: int) -> bool:
        return self._mark_seen(self._host(host), fingerprint)

    def _mark_seen(self, host: _Host, fingerprint: int) -> bool:
        if fingerprint in self._recent:
            return False
        known = fingerprint in self._older
        if len(self._recent) >= _RECENT:
            self._older, self._recent = self._recent, set()
        self._recent.add(fingerprint)
        return not known and self._store.add_seen(host.id, fingerprint)

    def _order(self, priority: int, depth: int) -> bytes:
        self._sequence += 1
        depth = min(depth, _DEEPEST)
        return _ORDER.pack(0x7FFFFFFF - priority, _DEEPEST - depth if self._depth_first else depth, self._sequence)

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
            if host.window:
                leases.append(self._lease_next(host, now))
            self._schedule(host)
        return Leased(leases, self._next_turn())

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
        self._lease_id += 1
        self._leased[self._lease_id] = host, order
        if not host.window and host.beyond is not None:
            self._refill(host)
        self._take_place(host, now)
        row = self._store.get(host.id, order)
        return Lease(self._lease_id, host.name, row.record, self._depth(order), row.attempt)

    def _depth(self, order: bytes) -> int:
        depth: int = _ORDER.unpack(order)[1]
        return _DEEPEST - depth if self._depth_first else depth

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        for lease, verdict, not_before in outcomes:
            host, order = self._leased.pop(lease.id)
            if verdict is Verdict.DONE or verdict is Verdict.DEAD:
                self._store.delete(host.id, order)
                self._completed += 1
                continue
            row = self._store.get(host.id, order)
            if verdict is Verdict.RETRY:
                row = row._replace(attempt=row.attempt + 1)
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
        if delay is not None:
            state.next_start += delay - state.delay if delay > state.delay else 0.0
            state.delay = delay
        if concurrency is not None:
            state.places = concurrency
        if blocked_until is not None:
            state.blocked_until = blocked_until
        changed_delay = state.delay if state.delay != state.rule.delay else None
        changed_places = state.places if state.places != state.rule.concurrency else None
        self._store.save_host_state(host, (changed_delay, changed_places, state.blocked_until))
        self._schedule(state)

    async def reap(self, now: float, limit: int) -> int:
        return 0  # a lease of this process lapses with the process, and opening the store gives it back

    # -- the epoch ---------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        leased = len(self._leased)
        active = sum(1 for host in self._hosts.values() if host.taken or host.window or host.due is not None)
        hosts = self._store.host_count()
        return Counts(
            self._store.size() - leased, leased, active, hosts, self._added, self._duplicates, self._completed
        )

    def get(self, key: str) -> bytes | None:
        return self._store.get_value(key)

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return self._store.rows(prefix)

    async def commit(self, values: Mapping[str, bytes | None], now: float) -> None:
        self._evict_idle(now)
        counters = _COUNTERS.pack(self._sequence, self._added, self._duplicates, self._completed)
        await self._store.commit({**values, "frontier": counters})

    def _evict_idle(self, now: float) -> None:
        """Forget hosts with nothing waiting whose turn is free; their saved state comes back when they do."""
        leased = {host.name for host, _ in self._leased.values()}
        for host in [host for host in self._hosts.values() if host.turn is None and self._is_idle(host, now)]:
            if host.name not in leased:
                del self._hosts[host.name]

    async def export(self) -> AsyncIterator[tuple[Entry, int]]:
        for host, due, order, row in self._store.waiting():
            priority = 0x7FFFFFFF - _ORDER.unpack(order)[0]
            yield Entry(host, row.fingerprint, row.record, priority, self._depth(order), due), row.attempt

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
                delay, places, host.blocked_until = saved
                host.delay = host.delay if delay is None else delay
                host.places = host.places if places is None else places
        return host

    def _is_idle(self, host: _Host, now: float) -> bool:
        return not (
            host.taken or host.window or host.beyond is not None or host.due is not None or host.next_start > now
        )

    def _take_place(self, host: _Host, start: float) -> None:
        host.taken += 1
        before, host.next_start = host.next_start, start + self._spacing(host)
        host.turn_taken = before, host.next_start

    def _spacing(self, host: _Host) -> float:
        return spacing(host.delay, host.rule.jitter, self._rng.random()) if host.delay else 0.0

    def _schedule(self, host: _Host) -> None:
        if host.taken >= host.places:
            host.turn = None
            return
        if host.window:
            turn = max(host.next_start, host.blocked_until)
        elif host.due is not None:
            turn = max(host.due, host.next_start, host.blocked_until)
        else:
            host.turn = None
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
        leased = {order for owner, order in self._leased.values() if owner is host}
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
        for order, row in self._store.take_due(host.id, now, _PROMOTED_AT_ONCE):
            self._store.put(host.id, order, row)
            self._push(host, order)
        host.due = self._store.first_due(host.id)


_COUNTERS = struct.Struct(">QQQQ")
