"""The workers of a simulation: the real `SharedFrontier`, called by events instead of by a loop that waits."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from simulation.world import PLACES

from crawler.contracts import Lease, Outcome, Verdict
from crawler.epochs import EPOCH_SECONDS
from crawler.frontier.shared import SharedFrontier
from crawler.politeness import Answer, HostRule

if TYPE_CHECKING:
    from simulation.backings import Backing
    from simulation.world import World

__all__ = ["Worker", "rule_of"]


def rule_of(delay: float) -> HostRule:
    return HostRule(delay=delay, jitter=0.0, concurrency=PLACES, adaptive=False)


class Worker:
    """One process, as far as the frontier sees it."""

    def __init__(self, world: World, backing: Backing, number: int) -> None:
        self.world = world
        load = world.load
        self.rng = Random(f"{load.seed} worker {number}")
        self.is_dead = False
        self.busy: dict[int, int] = {}
        """Hosts of the requests under way, by the numbers of these."""
        self.ended: list[Lease] = []
        """Their end is in the open epoch."""
        self.next_talk = self.next_wake = math.inf
        self.last_talk = self.last_commit = 0.0
        self._hurries = False
        rule = rule_of(load.delay)
        self.broker = backing.broker(number, self.rng)
        self.frontier = SharedFrontier(
            self.broker, clock=world.clock, rule=lambda host: rule, rng=self.rng, concurrency=load.concurrency
        )
        self.frontier.on_need = self._hurry

    def _hurry(self) -> None:
        """As `Epochs.hurry`."""
        self._hurries = True

    async def talk(self) -> None:
        """What `SharedFrontier.serve` does between two waits, and the epoch if it is old enough or wanted."""
        now, frontier = self.world.clock.time, self.frontier
        frontier._stir.clear()
        if (self._hurries or now - self.last_commit >= EPOCH_SECONDS) and (frontier._ends or frontier._entries):
            self.last_commit, self._hurries = now, False
            ended, self.ended = self.ended, []
            await frontier.commit({}, now)
            self.world.committed(ended)
        await frontier._talk(now)
        self.last_talk = now
        await self.go_on()

    async def go_on(self) -> None:
        """Begin what is due, and say when to be asked again."""
        world, frontier = self.world, self.frontier
        now, concurrency = world.clock.time, world.load.concurrency
        leased = await frontier.lease(concurrency - len(self.busy), now)
        for lease in leased.leases:
            self.begin(lease, now)
        waits = frontier._until_next(now)
        if frontier._stir.is_set() or self._hurries:
            waits = 0.0
        elif frontier._ends or frontier._entries:
            waits = min(waits, self.last_commit + EPOCH_SECONDS - now)
        at = max(now + waits, self.last_talk + world.load.tick)
        if at < self.next_talk or self.next_talk <= now:
            self.next_talk = at
            world.later(at, self.talk_if_current, at)
        due = leased.next_due
        if due is not None and now < due < self.next_wake and len(self.busy) < concurrency:
            self.next_wake = due
            world.later(due, self.wake, due)

    def begin(self, lease: Lease, now: float) -> None:
        latency = self.world.latency()
        self.frontier.sent(lease.host, now)
        self.busy[lease.id] = self.world.begin(lease, latency)
        self.world.later(now + latency, _Fetch(self, lease, latency).end)

    async def talk_if_current(self, at: float) -> None:
        if at == self.next_talk and not self.is_dead:
            await self.talk()

    async def wake(self, at: float) -> None:
        if at == self.next_wake and not self.is_dead:
            self.next_wake = math.inf
            await self.go_on()

    def die(self) -> None:
        """And its connections with it."""
        self.is_dead = True
        self.world.alive -= 1
        for host in self.busy.values():
            self.world.end(host)
        self.busy.clear()


class _Fetch(NamedTuple):
    worker: Worker
    lease: Lease
    latency: float

    async def end(self) -> None:
        worker, lease = self.worker, self.lease
        if worker.is_dead:
            return
        world, frontier = worker.world, worker.frontier
        now, host = world.clock.time, worker.busy.pop(lease.id)
        world.end(host)
        frontier.observe(lease.host, Answer(200, latency=self.latency), now)
        frontier.leave(lease.host, now)
        frontier.add(world.links(host, int(lease.record[-11:-5])), now)
        frontier.complete([Outcome(lease, Verdict.DONE)], now)
        worker.ended.append(lease)
        await worker.go_on()
