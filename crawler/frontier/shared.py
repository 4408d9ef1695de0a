"""One worker's part of a frontier that it shares with others (`broker`).

    lease ──► what is here and has its turn ──► (too little?) ──► serve: hosts go back, others come, the session goes on
    add, complete, remember … ──► the open epoch ──► commit ──► the broker

Verbs that the loop calls as it goes never wait for the broker: they work on the hosts that are on loan (`loans`) and on
what is in the open epoch. `serve` runs beside the loop and does the talking.

What only the broker knows is not known here: a fingerprint counts as new unless it was met by this worker lately, and
whether it was is told by the commit. Nothing may be sent once the session may have lapsed, which is counted from before
its last renewal was asked for; a process that was stopped meanwhile finds that before it does anything else.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import math
import mmap
from typing import TYPE_CHECKING, Final

import msgspec

from crawler.contracts import Counts, Leased, Outcome, Verdict
from crawler.errors import BlockedError, EngineUnavailable, SessionLost
from crawler.frontier.allowance import Allowance
from crawler.frontier.broker import Ask, Claim, Control, End, WorkerEpoch
from crawler.frontier.host_values import host_of, may_be_old
from crawler.frontier.loans import Loans, quota

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from random import Random

    from crawler.contracts import Clock, Entry, Lease, Waits
    from crawler.frontier.broker import Broker, Given, HostLoan, News, Session
    from crawler.politeness import HostRule

__all__ = ["SharedFrontier"]

_POLL_SECONDS: Final = 0.1
"""How long after nothing was there to look again, at most: this is what a free host may wait for a worker."""
_SELDOM_SECONDS: Final = 0.5
"""The same where many others look as well."""
_ROUND_SECONDS: Final = 0.05
"""Between two rounds of hosts that come and go, unless one is wanted at once: a word with the engine costs it as much
as a dozen hosts in it."""
_RENEW_SECONDS: Final = 1.0
"""So an operator is heard within a second, and a worker that died is noticed as soon as its time is over."""
_COMMIT_SECONDS: Final = 0.02
"""Between two commits of a worker that has nothing to do: what its pages gave can be lent when it is committed."""
_CROWD: Final = 10
"""Workers that look as often as one alone would. More of them look less often, and cost the engine together what these
do: what waits is found by whoever looks next."""
_SILENCE_SECONDS: Final = 5.0
"""Of the broker, after which it counts as out of reach."""
_SHARE: Final = 1.25
"""Of what would be each worker's part of the hosts, what one may have."""
_MARGIN: Final = 0.1
"""Of the lease's time: what a request that is on its way to the wire may take to get there."""
_RECENT: Final = 1 << 20
"""Fingerprints met lately, of 8 bytes each."""
_HOST_VALUES: Final = 10_000
_WISH_SECONDS: Final = 5.0
"""A host that nobody here has asked for since is not wanted any more."""
_SHARED: Final = ("cookie/", "started", "trap/")
"""What values for all workers begin with; the others are this worker's own."""
_UNITS: Final = 100
"""Pages of `crawl.page_limit` that are taken at once."""


class SharedFrontier:
    """`crawler.contracts.Frontier` over a `Broker`.

    `rule`, `rng`, `group` and `concurrency` are as for `LocalFrontier`. Where `page_limit` is not 0, call `count_pages`
    before anything else. `lapses`, `settles`: see `Loans`. `serve` and `commit` raise `EngineUnavailable` and
    `SessionLost`.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        clock: Clock,
        rule: Callable[[str], HostRule],
        rng: Random,
        group: Callable[[str], str] | None = None,
        concurrency: int,
        page_limit: int = 0,
        lapses: int = 1,
        settles: bool = False,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.on_stop: Callable[[str], None] = lambda reason: None
        self.on_need: Callable[[], None] = lambda: None
        self.on_named: Callable[[str], None] = lambda host: None
        """A host that `start()` named, here or elsewhere, is on loan."""
        self.on_shared: Callable[[Mapping[str, bytes | None]], None] = lambda values: None
        """Other workers committed these values, or they came with a host."""
        self._broker = broker
        self._clock = clock
        self._rng = rng
        self._loans = loans = Loans(
            rule=rule, rng=rng, group=group, concurrency=concurrency, lapses=lapses, settles=settles
        )
        turns = loans.turns
        self.again, self.observe, self.host = turns.again, turns.observe, turns.change
        self.controller = turns.controller
        self._concurrency = concurrency
        self._quota = quota(rule("").delay)
        self._allowance = Allowance(page_limit)
        self._session: Session
        self._values: dict[str, bytes] = {}
        self._of_hosts: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._number = 0
        self._committed = 0.0
        self._valid_until = 0.0
        self._news: News | None = None
        self._control = Control.RUNNING
        self._is_done = False
        self._hunger = 0
        self._next_ask = self._next_renewal = self._next_round = 0.0
        self._idle_since: float | None = None
        self._wishes: dict[str, float] = {}
        self._stir = asyncio.Event()
        self._recent = memoryview(mmap.mmap(-1, 8 * _RECENT)).cast("Q")
        self._named: set[str] = set()
        self._reached: dict[tuple[str, int], bool] = {}
        self._entries: list[Entry] = []
        self._ends: list[End] = []
        self._settling: list[str] = []
        """Hosts whose requests ended in the open epoch."""
        self._added = self._duplicates = self._completed = 0

    # -- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> SharedFrontier:
        await self._broker.__aenter__()
        try:
            asked = self._clock.now()
            session = self._session = await self._broker.join()
        except BaseException:
            await self._broker.__aexit__()
            raise
        self._hear(session.now, asked)
        self._values = {**session.own, **session.shared, "key": session.key}
        self._control = session.control
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            if self._clock.now() < self._valid_until:
                async with asyncio.timeout(self._session.lease_seconds):
                    if (left := self._allowance.left) < 1 << 30:
                        await self._broker.take_allowance(-left)
                    await self._broker.leave()
        except (EngineUnavailable, TimeoutError):
            pass  # then it lapses
        finally:
            await self._broker.__aexit__(*exc)

    def count_pages(self, pages: Callable[[], int]) -> None:
        """What says how many pages there were so far, in this run and earlier ones."""
        self._allowance.count(pages)

    def first_words(self) -> str:
        """How it stands, for the log."""
        if self._control is Control.FINISHED:
            return "it has finished; --fresh discards it"
        return "it goes on" if "started" in self._values else "it begins"

    def resume(self, now: float) -> None:
        """Hosts come with their own next turns."""

    def _hear(self, broker_now: float, asked: float) -> None:
        """A word of the broker's that says that the session goes on, counted from before it was asked for."""
        now = self._clock.now()
        self._loans.skew = broker_now - (asked + now) / 2
        self._valid_until = asked + self._session.lease_seconds * (1.0 - _MARGIN)
        self._next_renewal = now + min(_RENEW_SECONDS, self._session.lease_seconds / 4)

    # -- beside the loop ---------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """For ever."""
        while True:
            await self._clock.wait(self._stir, self._until_next(self._clock.now()))
            self._stir.clear()
            now = self._clock.now()
            if now >= self._valid_until:
                raise SessionLost(
                    f"worker {self._session.id} was not heard of for {self._session.lease_seconds:g} s: what it had "
                    "has been given to others"
                )
            try:
                async with asyncio.timeout(self._valid_until - now):
                    await self._talk(now)
            except TimeoutError as error:
                raise SessionLost(
                    f"worker {self._session.id} could not reach the frontier's engine for "
                    f"{self._session.lease_seconds:g} s"
                ) from error

    def _until_next(self, now: float) -> float:
        times = [self._next_renewal, now + _RENEW_SECONDS]
        if self._hunger or self._wishes:
            times.append(max(self._next_ask, 0.0 if self._wishes else self._next_round))
        if self._loans.has_changed:
            times.append(self._next_round)
        return max(0.0, min(times) - now)

    async def _talk(self, now: float) -> None:
        if now >= self._next_renewal:
            await self._renew(now)
        if self._hunger and self._allowance.is_short:
            self._allowance.take_in(await self._broker.take_allowance(_UNITS))
        if now < self._next_round and not (self._wishes or self._loans.is_urgent(now)):
            return
        returns = list(self._loans.leaving(now, are_unwanted=self._control is not Control.RUNNING))
        claims = self._claims(now)
        may_ask = now >= self._next_ask and self._control is Control.RUNNING
        want = self._want() if may_ask else 0
        if returns or (may_ask and (want or claims)):
            self._next_round = now + _ROUND_SECONDS
            given = await self._broker.ask(Ask(want, returns, claims if may_ask else []))
            self._take_in(given, want)
        if not (self._loans.begun or self._loans.waiting or self._entries or self._ends):
            await self._look_for_the_end(now)
        else:
            self._idle_since = None

    def _want(self) -> int:
        """How many requests to ask for: those that could begin, if there is memory for them, a page limit lets them,
        and this worker does not have more than its share of the hosts: others may have time for them."""
        room = 8 * self._concurrency - self._loans.waiting
        if self._news is not None and self._news.workers > 1:
            share = math.ceil(_SHARE * self._news.counts.active_hosts / self._news.workers)
            room = min(room, (max(1, share) - len(self._loans)) * self._quota)
        return max(0, min(self._hunger, room, self._allowance.left - self._loans.waiting))

    def _claims(self, now: float) -> list[Claim]:
        self._wishes = {key: asked for key, asked in self._wishes.items() if now - asked < _WISH_SECONDS}
        return [Claim(key) for key in itertools.chain(self._wishes, self._loans.starved())]

    def _take_in(self, given: Given, want: int) -> None:
        now, lull = self._clock.now(), self._lull()
        self._take_over(given.shared)
        for lent in given.loans:
            self._wishes.pop(lent.key, None)
            self._keep(lent)
            for host in lent.named:
                self.on_named(host)
            self._loans.take_in(lent, now)
        if given.loans:
            came = sum(len(lent.tasks) for lent in given.loans)
            self._next_ask = now if came >= want else now + lull
            self.on_change()
        elif want or self._wishes:
            latest = now + lull + _POLL_SECONDS
            due = latest if given.next_due is None else given.next_due - self._loans.skew
            self._next_ask = max(now + lull, now + 0.001, min(due, latest))

    @property
    def _crowding(self) -> float:
        """How many times as long as alone this worker waits."""
        return 1.0 if self._news is None else max(1.0, self._news.workers / _CROWD)

    def _lull(self) -> float:
        """Seconds in which it does not look again after it got less than it wanted: others do, if not all at once."""
        if self._wishes or self._crowding <= 1.0:
            return 0.0
        return self._rng.uniform(0.0, 2 * (min(_SELDOM_SECONDS, _POLL_SECONDS * self._crowding) - _POLL_SECONDS))

    def _keep(self, lent: HostLoan) -> None:
        self._of_hosts.update(lent.values)
        if lent.values and lent.key not in self._loans:
            self.on_shared(lent.values)
        while len(self._of_hosts) > _HOST_VALUES:
            self._of_hosts.popitem(last=False)

    async def _renew(self, asked: float) -> None:
        news = self._news = await self._broker.renew()
        self._hear(news.now, asked)
        self._take_over(news.shared)
        self._obey(news.control, news.reason)

    def _take_over(self, shared: Mapping[str, bytes | None]) -> None:
        if shared:
            self._merge(shared)
            self.on_shared(shared)

    def _obey(self, control: Control, reason: str) -> None:
        before, self._control = self._control, control
        if control is Control.FINISHED:
            self._end()
        elif control in (Control.DRAINING, Control.STOPPED):
            self.on_stop("interrupted")
        elif before is not control:
            self.on_change()

    async def _look_for_the_end(self, now: float) -> None:
        """Nothing is here. Perhaps nothing is anywhere, or none of the pages that are still wanted."""
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= min(_RENEW_SECONDS, self._session.lease_seconds / 4) / 2:
            self._idle_since = now
            if self._allowance.is_over:
                self.on_stop("page_limit")
            elif await self._broker.is_done():
                self._end()

    def _end(self) -> None:
        if not self._is_done:
            self._is_done = True
            self.on_change()

    # -- entries in --------------------------------------------------------------------------------------------------

    def add(self, entries: Sequence[Entry], now: float) -> int:
        queued = 0
        for entry in entries:
            if entry.filtered and self._is_recent(entry.fingerprint):
                self._duplicates += 1
                continue
            queued += 1
            self._note(entry.fingerprint)
            not_before = entry.not_before and entry.not_before + self._loans.skew
            self._entries.append(entry._replace(not_before=not_before))
        self._added += queued
        return queued

    def seen(self, host: str, fingerprint: int) -> bool:
        return self._is_recent(fingerprint)

    def _is_recent(self, fingerprint: int) -> bool:
        return self._recent[fingerprint % _RECENT] == fingerprint != 0

    def _note(self, fingerprint: int) -> None:
        self._recent[fingerprint % _RECENT] = fingerprint

    async def reach(self, lease: Lease, host: str, fingerprint: int) -> None:
        task = self._loans.task(lease.id)
        self._reached[host, fingerprint] = await self._broker.reach(host, fingerprint, task.id)

    def remember(self, host: str, fingerprint: int, parent: tuple[str, int] | None = None, end: bytes = b"") -> bool:
        self._note(fingerprint)
        return self._reached.pop((host, fingerprint), True)

    def ended(self, host: str, fingerprint: int) -> bytes | None:
        return None

    async def claims_start(self) -> bool:
        while "started" not in self._values:
            if await self._broker.claim_start():
                return True
            await self._clock.sleep(_RENEW_SECONDS)
        return False

    # -- leases ------------------------------------------------------------------------------------------------------

    async def lease(self, want: int, now: float) -> Leased:
        leases: list[Lease] = []
        if now < self._valid_until and self._control is not Control.STOPPED:
            leases = self._loans.lease(min(want, self._allowance.left), now)
            self._allowance.begin(len(leases))
        self._hunger = want - len(leases)
        if self._hunger and self._entries and now - self._committed >= _COMMIT_SECONDS * self._crowding:
            self.on_need()
        if self._hunger and not self._is_done and now >= max(self._next_ask, self._next_round):
            self._stir.set()
        if self._is_done and not (self._loans.begun or self._loans.waiting):
            return Leased(leases, None)
        return Leased(leases, self._loans.next() or now + _RENEW_SECONDS)

    def sent(self, host: str, at: float) -> None:
        """Raises `BlockedError` where the host may be somebody else's by now: nothing may be sent."""
        if at >= self._valid_until:
            raise BlockedError(f"{host} may be another worker's by now", reason="session_lost", retryable=True)
        self._loans.turns.sent(host, at)

    def leave(self, host: str, now: float, *, unused: bool = False) -> None:
        self._loans.leave(host, now, unused=unused)
        if self._loans.is_urgent(now):
            self._stir.set()

    def enter(self, host: str, now: float) -> float | None:
        if host in self._loans:
            return self._loans.enter(host, now)
        self._wishes[self._loans.key(host)] = now
        self._next_ask = min(self._next_ask, now + _POLL_SECONDS)
        self._stir.set()
        return None

    def regroup(self, host: str, group: str) -> bool:
        return False

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        for outcome in outcomes:
            lease, verdict = outcome.lease, outcome.verdict
            task = self._loans.end(lease.id)
            self._allowance.end()
            wait = max(0.0, outcome.not_before - now)
            if verdict is Verdict.RELEASE and not wait and self._loans.put_back(lease, task):
                continue
            self._completed += verdict in (Verdict.DONE, Verdict.DEAD)
            self._settling.append(lease.host)
            self._ends.append(End(task.id, verdict, wait, outcome.record, outcome.end))

    def at_work(self, lease: Lease | None) -> None:
        """Another worker's death is not told from its being cut off: `Task.lapses` counts both."""

    def stays_at_work(self) -> Callable[[], None]:
        return lambda: None

    # -- the epoch ---------------------------------------------------------------------------------------------------

    def waits(self, now: float) -> Waits:
        """Of the hosts that are here; and those that are due and nobody has are ready as well."""
        waits = self._loans.turns.waits(now)
        return waits if self._news is None else waits._replace(ready=waits.ready + self._news.due_hosts)

    @property
    def is_reached(self) -> bool:
        """Whether the broker answered lately."""
        return self._clock.now() < self._next_renewal + _SILENCE_SECONDS

    def counts(self) -> Counts:
        if self._news is None:
            return Counts(len(self._entries), self._loans.begun, len(self._loans), 0, self._added, self._duplicates, 0)
        counts, here = self._news.counts, self._loans.waiting  # to the broker these are lent
        return counts._replace(queued=counts.queued + here, leased=max(0, counts.leased - here))

    def get(self, key: str) -> bytes | None:
        return self._values.get(key) or self._of_hosts.get(key)

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return iter(sorted((key, value) for key, value in self._values.items() if key.startswith(prefix)))

    async def commit(self, values: Mapping[str, bytes | None], now: float) -> int:
        entries, self._entries = self._entries, []
        ends, self._ends = self._ends, []
        settling, self._settling = self._settling, []
        self._number += 1
        epoch = self._epoch(entries, ends, values)
        duplicates = await self._broker.commit(epoch)
        self._committed = self._clock.now()
        self._loans.settled(settling)
        if epoch.entries:
            self._next_ask = min(self._next_ask, self._committed + self._lull())
            self._stir.set()
        self._merge({**epoch.own, **epoch.shared})
        for of_host in epoch.of_hosts.values():
            self._of_hosts.update((key, value) for key, value in of_host.items() if value is not None)
        self._duplicates += duplicates
        if self._is_done and epoch.own.get("state") == b"finished":
            await self._broker.finish("finished")
        return duplicates

    def _epoch(self, entries: list[Entry], ends: list[End], values: Mapping[str, bytes | None]) -> WorkerEpoch:
        slowed = [msgspec.structs.replace(host, unused=[]) for host in self._loans.slowed(self._clock.now())]
        epoch = WorkerEpoch(self._number, entries, ends, pages=self._allowance.settle(), slowed=slowed)
        for key, value in values.items():
            if key == "named":
                named = set(msgspec.json.decode(value or b"[]", type=list[str]))
                epoch.named.extend(named - self._named)
                self._named = named
            elif (host := host_of(key)) is not None:
                if host in self._loans or not may_be_old(key):  # others count there, if it is not here any more
                    epoch.of_hosts.setdefault(self._loans.key(host), {})[key] = value
            else:
                (epoch.shared if key.startswith(_SHARED) else epoch.own)[key] = value
        if "started" in self._values:
            epoch.shared.pop("started", None)
        return epoch

    def _merge(self, values: Mapping[str, bytes | None]) -> None:
        for key, value in values.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value

    @property
    def is_behind(self) -> bool:
        return False

    async def sync(self, before: Callable[[], Awaitable[None]]) -> None:
        """What the engine has committed is as safe as it was told to make it."""
        await before()

    async def roll_back(self) -> bool:
        return False

    def export(self) -> AsyncIterator[tuple[Entry, int]]:
        raise EngineUnavailable("what is shared is exported where it is kept: `crawler migrate`")

    def __repr__(self) -> str:
        return f"<SharedFrontier {self._control.value} hosts={len(self._loans)} leased={self._loans.begun}>"
