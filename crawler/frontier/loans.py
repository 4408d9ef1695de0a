"""The hosts that a worker has on loan, their requests, and whose turn it is among them.

Turns and places are those of `turns`: a host on loan is treated as in a crawl of one process. What a host has waiting
elsewhere is not known here.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final

import msgspec

from crawler.contracts import Lease
from crawler.frontier.broker import HostReturn
from crawler.frontier.turns import Turns
from crawler.politeness import HostState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

    from crawler.frontier.broker import HostLoan, Task
    from crawler.frontier.turns import Host
    from crawler.politeness import Controller, HostRule

__all__ = ["Loan", "Loans", "quota"]

_HOLD_SECONDS: Final = 5.0
"""How long a host is kept, about: what waits for it elsewhere comes after that, and who wants it waits as long."""
_MOST_TASKS: Final = 50
_SOON_SECONDS: Final = 0.05
"""A host whose next turn is later need not go back at once: others that are ready by then go with it."""
_LOOK_SECONDS: Final = 1.0
"""Between looks at all hosts: some are paused, or nobody came for them."""
_GRACE_SECONDS: Final = 1.0
"""For whoever wanted a host to come and take a place there."""
_STATE: Final = msgspec.msgpack.Decoder(HostState)


def quota(delay: float) -> int:
    """How many requests of a host with this delay are lent at once."""
    return _MOST_TASKS if delay <= 0 else max(1, min(_MOST_TASKS, math.ceil(_HOLD_SECONDS / delay)))


class Loan:
    """One host, or group of hosts, that is here."""

    __slots__ = ("controller", "has_more", "kept_until", "key", "members", "tasks", "told", "unsettled")

    def __init__(self, key: str, controller: Controller, kept_until: float) -> None:
        self.key = key
        self.controller = controller
        self.kept_until = kept_until
        """It stays that long, whether there is anything to do or not."""
        self.has_more = False
        """More of its requests are waiting elsewhere."""
        self.told = (0.0, 0.0)
        """Delay and pause that are known elsewhere."""
        self.members: set[str] = set()
        """Hosts of it that were met here."""
        self.tasks: dict[int, Task] = {}
        """Those not begun, by their numbers here."""
        self.unsettled = 0
        """Requests that were begun, and whose end is not committed."""


class _States:
    """What `Turns` asks of a store: the state that a host came with."""

    def __init__(self) -> None:
        self.states: dict[str, HostState] = {}
        self.changed: list[str] = []

    def host_id(self, name: str) -> int:
        return 0

    def host_state(self, name: str) -> HostState | None:
        return self.states.get(name)

    def save_host_state(self, name: str, state: HostState) -> None:
        """It goes back with the host; see `Loans.slowed`."""
        self.changed.append(name)


class Loans:
    """`rule` gives a host's configured treatment, `group` the name under which it is lent; `skew` is what the broker's
    clock is ahead of ours, in seconds. `lapses` is after how many of them a request is suspected of killing workers.
    `settles`: a host stays here until all that it gave is counted (`settled`)."""

    def __init__(
        self,
        *,
        rule: Callable[[str], HostRule],
        rng: Random,
        group: Callable[[str], str] | None = None,
        concurrency: int | None = None,
        lapses: int = 1,
        settles: bool = False,
    ) -> None:
        self.skew = 0.0
        self._settles = settles
        self._lapses = lapses
        self._group = group
        self._states = _States()
        self.turns = Turns(self._states, rule=rule, rng=rng, group=group, concurrency=concurrency)
        self._loans: dict[str, Loan] = {}
        self._changed: set[str] = set()
        """Where a place became free, or the last request was begun."""
        self._looked = 0.0
        self._numbers = 0
        self._begun: dict[int, Task] = {}

    def __len__(self) -> int:
        return len(self._loans)

    def __contains__(self, host: str) -> bool:
        return self.key(host) in self._loans

    def key(self, host: str) -> str:
        return host if self._group is None else self._group(host)

    @property
    def has_changed(self) -> bool:
        """Some host may be ready to go back, or to get more."""
        return bool(self._changed)

    @property
    def begun(self) -> int:
        """Requests that are under way."""
        return len(self._begun)

    @property
    def waiting(self) -> int:
        """Requests that are here, and not begun."""
        return sum(len(loan.tasks) for loan in self._loans.values())

    # -- in ----------------------------------------------------------------------------------------------------------

    def take_in(self, lent: HostLoan, now: float) -> None:
        """A host comes; or more places or requests of one that is here."""
        loan = self._loans.get(lent.key)
        if loan is None:
            if lent.state:
                saved = _STATE.decode(lent.state)
                self._states.states[lent.key] = saved._replace(
                    blocked_until=saved.blocked_until and saved.blocked_until - self.skew,
                    next_start=saved.next_start and saved.next_start - self.skew,
                )
            controller = self.turns.open(lent.key, now)
            if lent.places:
                controller.change(places=lent.places)
            loan = self._loans[lent.key] = Loan(lent.key, controller, now + _GRACE_SECONDS * (not lent.tasks))
            loan.told = max(controller.delay, controller.rule.delay), controller.blocked_until
        loan.has_more = lent.more
        for task in lent.tasks:
            self._numbers += 1
            self._queue(loan, self._numbers, task)

    def _queue(self, loan: Loan, number: int, task: Task) -> None:
        host = self._member(loan, task.host or loan.key)
        loan.tasks[number] = task
        heapq.heappush(host.window, number.to_bytes(8))
        self.turns.schedule(host)

    def _member(self, loan: Loan, name: str) -> Host:
        loan.members.add(name)
        return self.turns.host(name)

    # -- requests ----------------------------------------------------------------------------------------------------

    def lease(self, want: int, now: float) -> list[Lease]:
        leases: list[Lease] = []
        while len(leases) < want and (host := self.turns.due(now)) is not None:
            if host.window:
                number = int.from_bytes(heapq.heappop(host.window))
                loan = self._loans[self.key(host.name)]
                task = self._begun[number] = loan.tasks.pop(number)
                loan.unsettled += 1
                self.turns.take(host, now)
                leases.append(self._lease(number, host.name, task))
                if not loan.tasks:
                    self._changed.add(loan.key)
            self.turns.schedule(host)
        return leases

    def _lease(self, number: int, host: str, task: Task) -> Lease:
        key = task.fingerprint if task.filtered else task.fingerprint ^ task.number
        deaths = max(0, task.lapses - self._lapses + 1)
        return Lease(number, host, task.record, task.depth, task.attempt, task.fingerprint, key, deaths)

    def task(self, number: int) -> Task:
        """One that is under way."""
        return self._begun[number]

    def end(self, number: int) -> Task:
        """It is under way no more."""
        return self._begun.pop(number)

    def put_back(self, lease: Lease, task: Task) -> bool:
        """To its place at its host, which is here still; False: it is not."""
        loan = self._loans.get(self.key(lease.host))
        if loan is None:
            return False
        loan.unsettled -= 1
        self._queue(loan, lease.id, task)
        return True

    def settled(self, hosts: Iterable[str]) -> None:
        """A request of each of these was begun here, and its end is committed."""
        for host in hosts if self._settles else ():
            loan = self._loans.get(self.key(host))
            if loan is not None:
                loan.unsettled -= 1
                self._changed.add(loan.key)

    # -- places ------------------------------------------------------------------------------------------------------

    def enter(self, host: str, now: float) -> float | None:
        """See `Frontier.enter`; of a host that is here."""
        self._member(self._loans[self.key(host)], host)
        return self.turns.enter(host, now)

    def leave(self, host: str, now: float, *, unused: bool) -> None:
        """See `Frontier.leave`."""
        self.turns.leave(host, now, unused=unused)
        self._changed.add(self.key(host))

    def next(self) -> float | None:
        return self.turns.next()

    def starved(self) -> Iterator[str]:
        """Hosts with a place free and nothing to begin here, while something is under way, so that they cannot go back;
        there is more elsewhere."""
        for key in self._changed:
            loan = self._loans.get(key)
            if loan is None or not loan.has_more or loan.tasks:
                continue
            if 0 < loan.controller.taken < loan.controller.places:
                yield key

    # -- out ---------------------------------------------------------------------------------------------------------

    def is_urgent(self, now: float) -> bool:
        """Whether a host could be put to use at once, here or elsewhere, by asking now."""
        for key in self._changed:
            loan = self._loans.get(key)
            if loan is None or loan.tasks:
                continue
            controller = loan.controller
            if (loan.has_more and controller.taken < controller.places) or controller.turn <= now + _SOON_SECONDS:
                return True
        return False

    def leaving(self, now: float, *, are_unwanted: bool = False) -> Iterator[HostReturn]:
        """The hosts that are here for nothing, as they go back: with nothing to begin, or not for long; `are_unwanted`:
        all with nothing under way."""
        look = self._loans if are_unwanted or now - self._looked >= _LOOK_SECONDS else self._changed
        if look is self._loans:
            self._looked = now
            self._changed.update(self._loans)
        for key in list(look):
            loan = self._loans.get(key)
            if loan is None:
                continue
            if loan.controller.taken:
                loan.has_more |= look is self._loans  # or there is by now
                continue
            if self._settles and loan.unsettled > 0:
                continue
            is_idle = not loan.tasks and loan.kept_until <= now
            if are_unwanted or is_idle or loan.controller.turn > now + _HOLD_SECONDS:
                yield self._close(loan, now)
        self._changed = set(self.starved())  # until they are asked for

    def slowed(self, now: float) -> list[HostReturn]:
        """Hosts that asked for more time than was known so far, as they would go back."""
        self.turns.save()
        changed, self._states.changed = self._states.changed, []
        found = []
        for key in changed:
            loan = self._loans.get(key)
            if loan is None:
                continue
            delay, pause = loan.controller.delay, loan.controller.blocked_until
            if delay > loan.told[0] or pause > max(loan.told[1], now):
                loan.told = delay, pause
                found.append(self._returned(loan, now))
        return found

    def _close(self, loan: Loan, now: float) -> HostReturn:
        returned = self._returned(loan, now)
        del self._loans[loan.key]
        self._states.states.pop(loan.key, None)
        for name in loan.members:
            self.turns.forget(name)
        self.turns.close(loan.key)
        return returned

    def _returned(self, loan: Loan, now: float) -> HostReturn:
        controller = loan.controller
        state = controller.state()
        state = state._replace(
            blocked_until=state.blocked_until and state.blocked_until + self.skew,
            next_start=state.next_start and state.next_start + self.skew,
        )
        return HostReturn(
            loan.key,
            max(0.0, controller.turn - now),
            msgspec.msgpack.encode(state),
            quota(controller.delay),
            0 if controller.delay or controller.rule.delay else controller.rule.concurrency,
            [task.id for task in loan.tasks.values()],
        )
