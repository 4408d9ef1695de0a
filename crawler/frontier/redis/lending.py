"""Asking for hosts: in which shards, and what to make of an answer that never came.

Each ask of a shard has a sequence number. Said again with the same one, it gives what it gave before; so a call whose
answer was lost is kept, and said again before anything else is asked of that shard. What came, and could not be handed
on because something later failed, is handed on with the next answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.errors import SessionLost
from crawler.frontier.broker import Given, HostLoan, Task
from crawler.frontier.host_values import may_be_old
from crawler.frontier.redis.connection import command
from crawler.frontier.redis.crawl import milliseconds
from crawler.frontier.redis.keys import preferred
from crawler.frontier.redis.payload import unpack

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from random import Random

    from crawler.frontier.broker import Ask, Claim, HostReturn
    from crawler.frontier.redis.connection import Call
    from crawler.frontier.redis.crawl import Crawl, Session

__all__ = ["Lender"]

_AT_ONCE = 64
"""Tasks asked of one shard, if there are more shards to ask: a call costs the engine as much as four of them."""
_SENT_SECONDS = 600.0
"""For so long a worker has the values of a host that it was given, robots.txt."""
_MOST_SENT = 5_000
_MOST_ROUNDS = 4
_UNSURE_MS = 10.0
_STRAYS = 16
"""Shards of others that are looked at when the own ones have too little; else one is, so that none is forgotten."""


class _Due(NamedTuple):
    shard: int
    at: float
    """Milliseconds; infinite: nothing is known to come."""


class Lender:
    """One session's asks. `quota` is that of a host of which nothing is known."""

    def __init__(self, crawl: Crawl, session: Session, *, quota: int, rng: Random) -> None:
        self.valid_until = 0
        """When the session lapses, as far as it was renewed; milliseconds."""
        self._crawl = crawl
        self._session = session
        self._quota = quota
        self._rng = rng
        self._workers: frozenset[str] = frozenset()
        self._preferred: list[int] = list(crawl.shards)
        self._sequences = dict.fromkeys(crawl.shards, 0)
        self._unanswered: dict[int, tuple[Call, list[str]]] = {}
        """By shard: the call, and the keys of the hosts that it gives back."""
        self._loans: list[list[Any]] = []
        """Lent, and not handed on yet."""
        self._sent: dict[bytes, float] = {}
        """When values of hosts were handed on: the worker has them for a while."""

    def set_workers(self, workers: Iterable[str]) -> None:
        """Those alive, this one included."""
        workers = frozenset(workers)
        if workers != self._workers:
            self._workers = workers
            self._preferred = preferred(self._session.worker, workers, self._crawl.config.shards)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def ask(self, ask: Ask, *, is_running: bool) -> Given:
        """All of what comes back is given back, or the call raises; what is lent comes with this answer or a later
        one."""
        self._check_time()
        done = {loan[0].decode() for loan in self._loans}
        done.update(key for _, keys in self._unanswered.values() for key in keys)
        if self._unanswered:
            await self._answers([(shard, self._again(call), keys) for shard, (call, keys) in self._unanswered.items()])
        want = ask.tasks if is_running else 0
        returns = [host for host in ask.returns if host.key not in done]
        claims = [claim for claim in ask.claims if is_running]
        dues = await self._first_round(want, returns, claims)
        await self._rounds(want, dues)
        if want > self._tasks and (strays := self._others(_STRAYS, dues)):
            dues.update(await self._look(strays))
            await self._rounds(want, dues)
        next_due = min((each.at for each in dues.values()), default=float("inf")) / 1000
        now = self._crawl.now()
        loans = await self._handed_on()
        return Given(now, loans, None if next_due == float("inf") else max(next_due, now))

    def _check_time(self) -> None:
        """The engine says so, too, where it is asked; it need not be."""
        if self._crawl.now() * 1000 > self.valid_until:
            raise SessionLost(f"session {self._session.id} was not heard of for too long: what it had goes to others")

    @property
    def _tasks(self) -> int:
        return sum(len(loan[5]) for loan in self._loans)

    async def _first_round(self, want: int, returns: list[HostReturn], claims: list[Claim]) -> dict[int, _Due]:
        """To each shard what there is to say; of the others of this worker, it is asked what they have."""
        shard_of = self._crawl.config.shard_of
        of_shard: dict[int, tuple[list[HostReturn], list[Claim]]] = {}
        for host in returns:
            of_shard.setdefault(shard_of(host.key), ([], []))[0].append(host)
        for claim in claims:
            of_shard.setdefault(shard_of(claim.key), ([], []))[1].append(claim)
        calls: list[tuple[int, Call, list[str]]] = []
        # Of many shards those lend that have waited longest; of few, each can lend as it is spoken to.
        rest = max(0, want - self._tasks)
        lends_now = len(self._preferred) <= -(-rest // _AT_ONCE)
        for n, (shard, (back, claimed)) in enumerate(of_shard.items()):
            share = rest // (len(of_shard) - n) if lends_now else min(rest, self._quota * len(claimed))
            rest -= share
            calls.append((shard, self._call(shard, share, back, claimed), [host.key for host in back]))
        dues = await self._answers(calls)
        if want > self._tasks:
            own = [shard for shard in self._preferred if shard not in dues]
            dues.update(await self._look([*own, *self._others(1, dues)]))
        return dues

    async def _rounds(self, want: int, dues: dict[int, _Due]) -> None:
        for _ in range(_MOST_ROUNDS):
            now = self._crawl.now() * 1000
            due = sorted((each for each in dues.values() if each.at <= now), key=lambda each: each.at)
            if want <= self._tasks or not due:
                return
            dues.update(await self._round(want - self._tasks, due))

    def _others(self, most: int, dues: Container[int]) -> list[int]:
        """Shards that are none of this worker's, and were not looked at."""
        if len(self._preferred) == self._crawl.config.shards:
            return []
        own = set(self._preferred)
        others = [shard for shard in self._crawl.shards if shard not in own and shard not in dues]
        return self._rng.sample(others, min(most, len(others)))

    async def _look(self, shards: Sequence[int]) -> dict[int, _Due]:
        prefixes = [self._crawl.keys.shard(shard) for shard in shards]
        found = await self._crawl.engine.all(
            [
                command("ZRANGE", f"{prefix}{kind}", 0, 0, "WITHSCORES")
                for prefix in prefixes
                for kind in ("ready", "later")
            ]
        )
        firsts = [float(row[1]) if row else float("inf") for row in map(_flat, found)]
        now = self._crawl.now() * 1000
        dues = {shard: _Due(shard, min(firsts[2 * n : 2 * n + 2])) for n, shard in enumerate(shards)}
        # What is due by the engine's clock may not be by what is known of it here.
        return {shard: _Due(shard, now) if now < due.at <= now + _UNSURE_MS else due for shard, due in dues.items()}

    async def _round(self, want: int, due: list[_Due]) -> dict[int, _Due]:
        """Ask those that have waited longest; few, with as much as each may have."""
        count = max(1, min(len(due), -(-want // _AT_ONCE)))
        calls: list[tuple[int, Call, list[str]]] = []
        for n, each in enumerate(due[:count]):
            share = want // (count - n)
            want -= share
            calls.append((each.shard, self._call(each.shard, share, [], []), []))
        return await self._answers(calls)

    def _call(self, shard: int, want: int, returns: list[HostReturn], claims: list[Claim]) -> Call:
        self._sequences[shard] += 1
        args: list[Any] = [
            self.valid_until, self._sequences[shard], want, self._quota, max(1, len(self._workers)), len(returns)
        ]  # fmt: skip
        for host in returns:
            ids = [id.split(".")[1] for id in host.unused]
            args += [host.key, milliseconds(host.wait), host.quota, host.shared_places, host.state, len(ids), *ids]
        args += [len(claims), *(claim.key for claim in claims)]
        return self._crawl.on_shard("ask", shard, self._session.id, *args)

    def _again(self, call: Call) -> Call:
        """What was said before, at this time."""
        _, session, order, _, *args = call.args
        return call._replace(args=(self._crawl.given_now(), session, order, self.valid_until, *args))

    async def _answers(self, calls: Sequence[tuple[int, Call, list[str]]]) -> dict[int, _Due]:
        self._unanswered.update({shard: (call, keys) for shard, call, keys in calls})
        answers = await self._crawl.engine.all([call for _, call, _ in calls])
        dues = {}
        for (shard, _, _), (now, more, next_due, loans) in zip(calls, answers, strict=True):
            del self._unanswered[shard]
            self._loans += loans
            self._crawl.hear(now)
            dues[shard] = _Due(shard, float(now) if more else float(next_due or "inf"))
        return dues

    # -- handing on --------------------------------------------------------------------------------------------------

    async def _handed_on(self) -> list[HostLoan]:
        lent, now = self._loans, self._crawl.now()
        if len(self._sent) > _MOST_SENT:
            self._sent.clear()
        wanted = []
        for key, _, _, _, names, *_ in lent:
            unknown = [
                name for name in names if may_be_old(name.decode()) or now - self._sent.get(name, 0.0) > _SENT_SECONDS
            ]
            self._sent.update(dict.fromkeys(unknown, now))
            if unknown:
                shard = self._crawl.config.shard_of(key.decode())
                prefix = self._crawl.keys.shard(shard)
                wanted.append((key, unknown, command("HMGET", f"{prefix}v:{key.decode()}", *unknown)))
        found = await self._crawl.engine.all([call for _, _, call in wanted])
        values = {
            key: {name.decode(): value for name, value in zip(names, kept, strict=True) if value is not None}
            for (key, names, _), kept in zip(wanted, found, strict=True)
        }
        self._loans = []
        return [self._loan(loan, values.get(loan[0], {})) for loan in lent]

    def _loan(self, row: list[Any], values: dict[str, bytes]) -> HostLoan:
        key, places, state, named, _, tasks, more = row
        name = key.decode()
        shard = self._crawl.config.shard_of(name)
        return HostLoan(
            name,
            places,
            state,
            [_task(name, shard, task) for task in tasks],
            values,
            sorted(host.decode() for host in named),
            more > 0,
        )


def _task(key: str, shard: int, row: list[Any]) -> Task:
    id, priority, lapses, payload = row
    found = unpack(key, payload)
    return Task(
        f"{shard}.{id}.{found.fingerprint:x}",
        found.record,
        found.fingerprint,
        found.depth,
        int(priority),
        found.attempt,
        found.filtered,
        found.host,
        lapses,
        found.number,
    )


def _flat(row: list[Any]) -> list[Any]:
    """RESP3 pairs a member with its score; RESP2 does not."""
    return list(row[0]) if row and isinstance(row[0], list | tuple) else row
