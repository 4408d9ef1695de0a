"""One machine's shared frontier: a `LocalFrontier` whose hosts are lent to several workers.

    worker ── SharedFrontier ──► LendingBroker ──► Lending ──► LocalFrontier

It is the other side of `broker`, in memory. A host on loan has all of its places taken, so it is nobody's turn until it
comes back. What a worker has is known by its session; when that ends, its hosts are free after their delay, and its
requests at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from crawler.contracts import Counts, Lease, Outcome, Taken, Verdict
from crawler.errors import SessionLost
from crawler.frontier.broker import Control, Given, HostLoan, News, Session, Task, WorkerEpoch
from crawler.frontier.host_values import keys_of, may_be_old
from crawler.frontier.loans import quota
from crawler.frontier.local import Terms
from crawler.frontier.reaches import Reaches
from crawler.frontier.turns import ALL_PLACES
from crawler.politeness import HostState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from crawler.contracts import Clock
    from crawler.frontier.broker import Ask, HostReturn
    from crawler.frontier.local import Lent, LentEntry, LocalFrontier
    from crawler.politeness import Controller

__all__ = ["Lending", "LendingBroker", "Worker"]

_RESERVED_SECONDS: Final = 5.0
"""How long a host waits for the worker that wanted it."""
_COUNTS_SECONDS: Final = 0.5
"""Counting looks at every host with work."""
_STATE: Final = msgspec.msgpack.Decoder(HostState)
_ENCODER: Final = msgspec.msgpack.Encoder()
_SHARED: Final = ("cookie/", "trap/")
"""What the keys of values for all workers begin with; `started` is another one."""
_GIVEN_AT_START: Final = ("budget/domain/", "budget/hosts", "budget/query/")


class _Loan:
    """Places of a host that somebody has."""

    __slots__ = ("controller", "places", "until")

    def __init__(self, controller: Controller, places: int, until: float = math.inf) -> None:
        self.controller = controller
        self.places = places
        self.until = until
        """For whoever wanted it, and has not come for it yet."""


class Worker:
    """The session of one."""

    def __init__(self, name: str, id: str, expires: float) -> None:
        self.name = name
        self.id = id
        self.expires = expires
        self.is_over = False
        self.loans: dict[str, _Loan] = {}
        self.reserved: dict[str, _Loan] = {}
        self.leases: dict[str, Lease] = {}
        """By the ids of its tasks."""
        self.epoch = 0
        """Its last one that was taken."""
        self.duplicates = 0
        """What that one was answered."""
        self.heard = 0
        """The version of the shared values that it knows."""
        self.slowed: dict[str, HostReturn] = {}
        """What hosts that it has on loan have said since, by their keys."""
        self.sent: set[str] = set()
        """Values of hosts that it was given; those that change come again."""
        self.has_start = False
        self.allowance = 0

    def lease(self, key: int) -> Lease | None:
        """That with this `Lease.key`."""
        return next((lease for lease in self.leases.values() if lease.key == key), None)

    def __repr__(self) -> str:
        return f"<Worker {self.id} hosts={len(self.loans)} requests={len(self.leases)}>"


class Lending:
    """What the brokers of one process share. `workers` is how many there are to be; `pages` says how many pages counted
    so far, for `page_limit` (0: none). `commit` makes an epoch take effect in another way than at once; it gives back
    how many of the entries were known. `key` is the crawl's, `named` the hosts that `start()` has named.
    """

    def __init__(
        self,
        frontier: LocalFrontier,
        *,
        clock: Clock,
        key: bytes,
        workers: int,
        group: Callable[[str], str] | None = None,
        page_limit: int = 0,
        pages: Callable[[], int] | None = None,
        named: set[str] | None = None,
        lease_seconds: float = 60.0,
        commit: Callable[[Worker, WorkerEpoch], Awaitable[int]] | None = None,
    ) -> None:
        self.on_finish: Callable[[str], None] = lambda reason: None
        self.on_lapse: Callable[[Worker], None] = self.end
        """Called with whoever was not heard of for too long."""
        self.control, self.reason = Control.RUNNING, ""
        self.named = set() if named is None else named
        self._frontier = frontier
        self._clock = clock
        self._key = key
        self._share = max(1, workers)
        self._group = group
        self._page_limit = page_limit
        self._counted = 0
        self._pages = pages or (lambda: self._counted)
        self._lease_seconds = lease_seconds
        self._commit = commit or self._take_at_once
        self._workers: dict[str, Worker] = {}
        self._numbers = 0
        self._quotas: dict[str, int] = {}
        """Of hosts that are not lent as is usual."""
        self._shared_places: dict[str, int] = {}
        self._wishes: dict[str, list[Worker]] = {}
        self._reaches = Reaches(frontier)
        self.reach = self._reaches.begin
        self._versions: dict[str, int] = {}
        """Of the shared values that changed since the start."""
        self._version = 0
        self._counts: tuple[float, Counts] | None = None
        self._due = 0

    def broker(self, worker: str) -> LendingBroker:
        return LendingBroker(self, worker)

    @property
    def workers(self) -> Sequence[Worker]:
        """Those with a session."""
        return list(self._workers.values())

    @property
    def is_done(self) -> bool:
        """Nothing waits, nobody has anything under way, and `start()` came to its end."""
        return self._frontier.is_empty and self._frontier.get("started") is not None

    def tell(self, control: Control, reason: str = "") -> None:
        """All workers hear of it at their next word."""
        self.control, self.reason = control, reason

    # -- sessions ----------------------------------------------------------------------------------------------------

    def join(self, name: str) -> tuple[Worker, Session]:
        if name in self._workers:
            self.end(self._workers[name])
        self._numbers += 1
        now = self._clock.now()
        worker = self._workers[name] = Worker(name, f"{name}-{self._numbers}", now + self._lease_seconds)
        worker.heard = self._version
        shared = {key: value for prefix in _SHARED for key, value in self._frontier.rows(prefix)}
        if (started := self._frontier.get("started")) is not None:
            shared["started"] = started
        own = {key: value for prefix in _GIVEN_AT_START for key, value in self._frontier.rows(prefix)}
        return worker, Session(worker.id, now, self._lease_seconds, self._key, own, shared, self.control)

    def check(self, worker: Worker) -> None:
        """Raises `SessionLost`."""
        if worker.is_over:
            raise SessionLost(f"worker {worker.id} was not heard of for too long: what it had has been given to others")

    def renew(self, worker: Worker) -> News:
        now = self._clock.now()
        worker.expires = now + self._lease_seconds
        for each in self.workers:
            if each.expires < now:
                self.on_lapse(each)
        news = [key for key, version in self._versions.items() if version > worker.heard]
        worker.heard = self._version
        shared = {key: self._frontier.get(key) for key in news}
        return News(now, self.control, self.reason, shared, self._counted_lately(now), len(self._workers), self._due)

    def _counted_lately(self, now: float) -> Counts:
        if self._counts is None or now - self._counts[0] >= _COUNTS_SECONDS:
            self._counts = now, self._frontier.counts()
            self._due = self._frontier.waits(now).ready
        return self._counts[1]

    def end(self, worker: Worker, at_work: Iterable[int] = ()) -> None:
        """The session is over: its hosts are free after their delay, its requests at once. `at_work`: fingerprints of
        those whose code killed it."""
        if worker.is_over:
            return
        worker.is_over = True
        if self._workers.get(worker.name) is worker:
            del self._workers[worker.name]
        now = self._clock.now()
        killers = set(at_work) & {lease.fingerprint for lease in worker.leases.values()}
        self._frontier.died(killers)
        released = [Outcome(lease, Verdict.RELEASE) for lease in worker.leases.values()]
        self._frontier.add(self._reaches.drop(worker.leases), now)
        worker.leases.clear()
        self._frontier.complete(released, now)
        for key, loan in [*worker.loans.items(), *worker.reserved.items()]:
            self._frontier.take_back(loan.controller, loan.places, *self._last_word(worker, key, loan, now), now)
            self._give_to_whoever_waits(key, loan.controller, now)
        worker.loans.clear()
        worker.reserved.clear()

    def _last_word(self, worker: Worker, key: str, loan: _Loan, now: float) -> tuple[HostState | None, float]:
        """Of a host whose worker is lost: its state, as far as that is known, and its next turn."""
        said = worker.slowed.get(key)
        if said is None:
            return None, now + loan.controller.delay
        state = _STATE.decode(said.state)
        delay = loan.controller.delay if state.delay is None else state.delay
        return state, max(now + max(delay, state.usual), state.blocked_until)

    # -- hosts -------------------------------------------------------------------------------------------------------

    def ask(self, worker: Worker, ask: Ask) -> Given:
        now = self._clock.now()
        for returned in ask.returns:
            self._take_back(worker, returned, now)
        loans = self._reserved_for(worker, now)
        if self.control is not Control.STOPPED:
            loans += self._claimed(worker, [claim.key for claim in ask.claims], now)
        if self.control is Control.RUNNING and ask.tasks > 0:
            loans += self._more(worker, ask.tasks, now)
            left = ask.tasks - sum(len(loan.tasks) for loan in loans)
            for lent in self._frontier.lend(left, now, lambda controller: self._terms(worker, controller)):
                loans.append(self._hand_out(worker, lent))
        return Given(now, loans, self._frontier.next_turn())

    def _terms(self, worker: Worker, controller: Controller) -> Terms | None:
        name = controller.name
        if name in worker.loans or name in worker.reserved:
            return None
        tasks = self._quota(controller)
        shared = self._shared_places.get(name, 0)
        if not shared:
            return None if controller.taken else Terms(tasks)
        places = min(shared - controller.taken, math.ceil(shared / self._share))
        return Terms(tasks, places) if places > 0 else None

    def _quota(self, controller: Controller) -> int:
        return self._quotas.get(controller.name) or quota(controller.delay)

    def _more(self, worker: Worker, want: int, now: float) -> list[HostLoan]:
        """Of hosts that it has a share of: whoever is quick should not have to give it back for that."""
        loans = []
        for key, loan in worker.loans.items():
            if loan.places == ALL_PLACES or want <= 0:
                continue
            entries = self._frontier.more_of(key, min(want, self._quota(loan.controller)), now)
            if entries:
                want -= len(entries)
                loans.append(HostLoan(key, loan.places, tasks=self._tasks(worker, key, entries)))
        return loans

    def _claimed(self, worker: Worker, keys: Sequence[str], now: float) -> list[HostLoan]:
        loans = []
        for key in keys:
            if key in worker.loans:
                continue
            lent = self._frontier.lend_named(key, 1, now)
            if lent is not None:
                loans.append(self._hand_out(worker, lent))
            elif worker not in (wishing := self._wishes.setdefault(key, [])):
                wishing.append(worker)
        return loans

    def _reserved_for(self, worker: Worker, now: float) -> list[HostLoan]:
        for each in self.workers:
            for key, loan in list(each.reserved.items()):
                if each is not worker and loan.until < now:
                    del each.reserved[key]
                    self._frontier.take_back(loan.controller, loan.places, None, loan.controller.next_start, now)
                    self._give_to_whoever_waits(key, loan.controller, now)
        loans = []
        for key, loan in worker.reserved.items():
            worker.loans[key] = _Loan(loan.controller, loan.places)
            entries = self._frontier.more_of(key, 1, now)
            loans.append(self._host_loan(key, loan.controller, loan.places, self._tasks(worker, key, entries), worker))
        worker.reserved.clear()
        return loans

    def _hand_out(self, worker: Worker, lent: Lent) -> HostLoan:
        key = lent.controller.name
        worker.loans[key] = _Loan(lent.controller, lent.places)
        return self._host_loan(key, lent.controller, lent.places, self._tasks(worker, key, lent.entries), worker)

    def _host_loan(self, key: str, controller: Controller, places: int, tasks: list[Task], worker: Worker) -> HostLoan:
        hosts = dict.fromkeys([key, *(task.host or key for task in tasks)])
        state = _ENCODER.encode(controller.state()) if controller.next_start or controller.answers else b""
        return HostLoan(
            key,
            0 if places == ALL_PLACES else places,
            state,
            tasks,
            {name: value for host in hosts for name, value in self._values_of(host, worker)},
            [host for host in hosts if host in self.named],
        )

    def _values_of(self, host: str, worker: Worker) -> Iterable[tuple[str, bytes]]:
        for key in keys_of(host):
            if (key not in worker.sent or may_be_old(key)) and (value := self._frontier.get(key)) is not None:
                worker.sent.add(key)
                yield key, value

    def _tasks(self, worker: Worker, key: str, entries: Iterable[LentEntry]) -> list[Task]:
        tasks = []
        for lease, priority, filtered, number in entries:
            task = Task(
                str(lease.id), lease.record, lease.fingerprint, lease.depth, priority, lease.attempt, filtered,
                "" if lease.host == key else lease.host, lease.deaths, number,
            )  # fmt: skip
            worker.leases[task.id] = lease
            tasks.append(task)
        return tasks

    def _take_back(self, worker: Worker, returned: HostReturn, now: float) -> None:
        key = returned.key
        loan = worker.loans.pop(key, None)
        worker.slowed.pop(key, None)
        if loan is None:
            return
        unused = [worker.leases.pop(task) for task in returned.unused if task in worker.leases]
        self._frontier.complete([Outcome(lease, Verdict.RELEASE) for lease in unused], now)
        state = _STATE.decode(returned.state) if returned.state else None
        if state is not None and loan.places != ALL_PLACES:
            state = state._replace(places=None)  # its share
        self._frontier.take_back(loan.controller, loan.places, state, now + returned.wait, now)
        _set(self._quotas, key, returned.quota if returned.quota != quota(loan.controller.delay) else 0)
        _set(self._shared_places, key, returned.shared_places)
        self._give_to_whoever_waits(key, loan.controller, now)

    def _give_to_whoever_waits(self, key: str, controller: Controller, now: float) -> None:
        wishing = self._wishes.get(key)
        if not wishing or controller.taken:
            return
        worker = next((each for each in wishing if not each.is_over), None)
        self._wishes[key] = [each for each in wishing if not each.is_over and each is not worker]
        if not self._wishes[key]:
            del self._wishes[key]
        if worker is not None:
            self._frontier.lend_places(controller)
            worker.reserved[key] = _Loan(controller, ALL_PLACES, now + _RESERVED_SECONDS)

    # -- epochs ------------------------------------------------------------------------------------------------------

    async def commit(self, worker: Worker, epoch: WorkerEpoch) -> int:
        if epoch.number > worker.epoch:
            worker.duplicates = await self._commit(worker, epoch)
            worker.epoch = epoch.number
        return worker.duplicates

    async def _take_at_once(self, worker: Worker, epoch: WorkerEpoch) -> int:
        taken = self.take(worker, epoch)
        self.named.update(taken.named)
        await self._frontier.commit({}, self._clock.now())
        return taken.known

    def take(self, worker: Worker, epoch: WorkerEpoch) -> Taken:
        """What an epoch does to the frontier, into the open one: in one step, and durable with the next `commit`."""
        now = self._clock.now()
        self._counted += epoch.pages
        worker.slowed.update((host.key, host) for host in epoch.slowed if host.key in worker.loans)
        worker.allowance -= epoch.pages
        entries, hidden = self._reaches.hide(epoch.entries)
        known = hidden + (len(entries) - self._frontier.add(entries, now) if entries else 0)
        outcomes = []
        for end in epoch.ends:
            lease = worker.leases.pop(end.task, None)
            if lease is not None:
                outcomes.append(Outcome(lease, end.verdict, end.wait and now + end.wait, end.end, end.record))
        if self._reaches and (freed := self._reaches.end(epoch.ends)):
            self._frontier.add(freed, now)
        self._frontier.complete(outcomes, now)
        self._frontier.put({key: value for key, value in epoch.own.items() if "/" in key})
        for of_host in epoch.of_hosts.values():
            self._frontier.put(of_host)
        if epoch.shared:
            self._share_out(worker, epoch.shared)
        return Taken(known, len(entries), len(outcomes), epoch.named, "started" in epoch.shared)

    def _share_out(self, worker: Worker, values: Mapping[str, bytes | None]) -> None:
        self._frontier.put(values)
        is_up_to_date = worker.heard == self._version
        self._version += 1
        self._versions.update(dict.fromkeys(values, self._version))
        if is_up_to_date:
            worker.heard = self._version  # it knows its own
        if "started" in values:
            worker.has_start = False

    # -- limits and the end ------------------------------------------------------------------------------------------

    def claim_start(self, worker: Worker) -> bool:
        if self._frontier.get("started") is not None:
            return False
        if any(each.has_start for each in self._workers.values() if each is not worker):
            return False
        worker.has_start = True
        return True

    def take_allowance(self, worker: Worker, pages: int) -> int:
        if pages > 0 and self._page_limit:
            out = sum(max(0, each.allowance) for each in self._workers.values())
            left = self._page_limit - self._pages() - out
            pages = max(0, min(pages, left, max(1, left // (2 * self._share))))  # so that nobody has them all
        worker.allowance += pages
        return pages

    @property
    def is_allowed_more(self) -> bool:
        """There are pages that nobody was allowed yet."""
        out = sum(max(0, each.allowance) for each in self._workers.values())
        return not self._page_limit or self._page_limit - self._pages() > out

    def finish(self, reason: str) -> None:
        if self.control is Control.RUNNING:
            self.tell(Control.FINISHED, reason)
        self.on_finish(reason)

    def __repr__(self) -> str:
        return f"<Lending {self.control.value} workers={self.workers} {self._frontier!r}>"


class LendingBroker:
    """`crawler.frontier.broker.Broker` for one worker in this process."""

    def __init__(self, lending: Lending, worker: str) -> None:
        self._lending = lending
        self._name = worker
        self.worker: Worker

    async def __aenter__(self) -> LendingBroker:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def join(self) -> Session:
        self.worker, session = self._lending.join(self._name)
        return session

    async def renew(self) -> News:
        return self._checked().renew(self.worker)

    async def ask(self, ask: Ask) -> Given:
        return self._checked().ask(self.worker, ask)

    async def commit(self, epoch: WorkerEpoch) -> int:
        return await self._checked().commit(self.worker, epoch)

    async def reach(self, host: str, fingerprint: int, task: str) -> bool:
        return self._checked().reach(host, fingerprint, task)

    async def claim_start(self) -> bool:
        return self._checked().claim_start(self.worker)

    async def take_allowance(self, pages: int) -> int:
        return self._checked().take_allowance(self.worker, pages)

    async def is_done(self) -> bool:
        return self._checked().is_done

    async def finish(self, reason: str) -> None:
        self._checked().finish(reason)

    async def leave(self) -> None:
        self._lending.end(self.worker)

    def _checked(self) -> Lending:
        self._lending.check(self.worker)
        return self._lending


def _set(table: dict[str, int], key: str, value: int) -> None:
    """0 is not kept."""
    if value:
        table[key] = value
    else:
        table.pop(key, None)
