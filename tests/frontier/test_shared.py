"""One worker's part of a shared frontier, by a clock and a broker of the test."""

from __future__ import annotations

import contextlib
from random import Random

import msgspec
import pytest

from crawler.contracts import Entry, Outcome, Verdict
from crawler.errors import BlockedError, SessionLost
from crawler.frontier.shared import SharedFrontier
from crawler.politeness import Answer, HostRule, HostState
from crawler.testing import FakeClock
from tests.frontier.model_broker import ModelCrawl

NOW = 1_000_000.0
LEASE = 30.0
POLITE = HostRule(delay=1.0, jitter=0.0, concurrency=2)


@pytest.fixture
def clock():
    return FakeClock(NOW)


@pytest.fixture
def shared(clock):
    return ModelCrawl(clock, lease_seconds=LEASE)


@contextlib.asynccontextmanager
async def worker(shared, name="w1", rule=POLITE):
    frontier = SharedFrontier(
        shared.worker(name), clock=shared.clock, rule=lambda host: rule, rng=Random(1), concurrency=16
    )
    async with frontier:
        frontier.resume(shared.clock.now())
        yield frontier


def entries(count, host="a.test:80", first=1):
    return [Entry(host, number, b"%d" % number) for number in range(first, first + count)]


async def talk(frontier, clock, want=16):
    """What `serve` does when somebody has time."""
    clock.advance(1.0)
    await frontier.lease(0, clock.now())
    frontier._hunger = want
    await frontier._talk(clock.now())


async def leased(frontier, clock, want=16):
    await talk(frontier, clock, want)
    return list((await frontier.lease(want, clock.now())).leases)


async def test_nothing_is_sent_and_nothing_begun_once_the_session_may_have_lapsed(shared, clock):
    async with worker(shared) as frontier:
        frontier.add(entries(5), NOW)
        await frontier.commit({}, NOW)
        (lease,) = await leased(frontier, clock)
        clock.advance(LEASE)  # the process was stopped
        with pytest.raises(BlockedError) as refused:
            frontier.sent(lease.host, clock.now())
        assert (refused.value.reason, refused.value.retryable) == ("session_lost", True)
        assert (await frontier.lease(5, clock.now())).leases == []
        with pytest.raises(SessionLost, match="not heard of for 30 s"):
            await frontier.serve()


async def test_what_other_workers_committed_is_known_before_their_host_comes(shared, clock):
    heard = []
    async with worker(shared) as frontier, worker(shared, "w2") as other:
        frontier.on_shared = lambda values: heard.append(dict(values))
        frontier.on_change = lambda: heard.append("a host")
        other.add(entries(1), NOW)
        await other.commit({"cookie/a": b"new"}, NOW)
        await talk(frontier, clock)
    assert heard.index({"cookie/a": b"new"}) < heard.index("a host")
    assert frontier.get("cookie/a") == b"new"


@pytest.mark.parametrize(
    ("say", "is_said"),
    [
        (lambda frontier, now: frontier.observe("a.test:80", Answer(503), now), True),
        (lambda frontier, now: frontier.observe("a.test:80", Answer(429, retry_after=50.0), now), True),
        (lambda frontier, now: frontier.host("a.test:80", crawl_delay=9.0), True),
        (lambda frontier, now: frontier.observe("a.test:80", Answer(200, latency=0.1), now), False),
    ],
    ids=["it errs", "it asks for a pause", "its robots.txt asks for a delay", "it is well"],
)
async def test_what_a_host_asks_for_is_committed_while_it_is_on_loan(shared, clock, say, is_said):
    async with worker(shared) as frontier:
        frontier.add(entries(5), NOW)
        await frontier.commit({}, NOW)
        await leased(frontier, clock)
        say(frontier, clock.now())
        await frontier.commit({}, clock.now())
        said = shared.epochs[-1].slowed
        assert [host.key for host in said] == ["a.test:80"] * is_said
        await frontier.commit({}, clock.now())
        assert shared.epochs[-1].slowed == [], "once is enough"
        for host in said:
            state = msgspec.msgpack.decode(host.state, type=HostState)
            assert max(state.delay or state.usual, state.blocked_until - clock.now()) > 1.5


async def test_a_worker_leaves_others_their_share_of_the_hosts(shared, clock):
    async with worker(shared) as frontier, worker(shared, "w2") as other:
        for number in range(8):
            other.add(entries(3, f"h{number}.test:80", 1 + 10 * number), NOW)
        await other.commit({}, NOW)
        await frontier._renew(clock.now())  # it hears of eight hosts and two workers
        for _ in range(5):
            await talk(frontier, clock)
        assert 4 <= len(frontier._loans) <= 6
        assert len(await leased(other, clock)) >= 2


async def test_an_epoch_that_was_refused_tells_so_and_changes_nothing(shared, clock):
    async with worker(shared) as frontier:
        frontier.add(entries(2), NOW)
        await frontier.commit({}, NOW)
        (lease,) = await leased(frontier, clock, 1)
        shared.sessions.clear()
        frontier.complete([Outcome(lease, Verdict.DONE)], clock.now())
        with pytest.raises(SessionLost):
            await frontier.commit({"positions": b"x"}, clock.now())
    assert shared.completed == 0
    assert shared.own.get("w1", {}).get("positions") is None


async def test_a_page_that_redirects_led_to_is_whose_the_broker_says(shared, clock):
    async with worker(shared) as frontier, worker(shared, "w2") as other:
        other.add(entries(2), NOW)
        await other.commit({}, NOW)
        first, _ = await leased(frontier, clock), shared.seen.add(77)
        await frontier.reach(first[0], "b.test:80", 77)
        assert not frontier.remember("b.test:80", 77)
        await frontier.reach(first[0], "b.test:80", 78)
        assert frontier.remember("b.test:80", 78)


async def test_requests_that_are_here_and_not_begun_count_as_waiting(shared, clock):
    async with worker(shared) as frontier:
        frontier.add(entries(4), clock.now())
        await frontier.commit({}, clock.now())
        assert len(await leased(frontier, clock)) == 1
        await talk(frontier, clock)
        counts = frontier.counts()
        assert (counts.queued, counts.leased) == (3, 1)


@pytest.mark.parametrize(("workers", "longest"), [(1, 0.1), (10, 0.1), (100, 1.0)])
async def test_of_many_workers_each_looks_less_often_when_nothing_was_there(shared, clock, workers, longest):
    async with worker(shared) as frontier:
        waits = []
        for _ in range(50):
            await frontier._renew(clock.now())
            frontier._news = msgspec.structs.replace(frontier._news, workers=workers)
            frontier._next_ask = frontier._next_round = 0.0
            frontier._hunger = 16
            await frontier._talk(clock.now())
            waits.append(frontier._next_ask - clock.now())
            clock.advance(1.0)
    assert max(waits) <= longest + 1e-6
    assert (max(waits) > 0.5) == (workers == 100)
    assert len({round(wait, 4) for wait in waits}) > 10 or workers <= 10  # not all of them at once


async def test_whoever_wants_a_certain_host_does_not_wait_for_that(shared, clock):
    async with worker(shared) as frontier:
        await frontier._renew(clock.now())
        frontier._news = msgspec.structs.replace(frontier._news, workers=100)
        frontier._next_ask = clock.now() + 1.0
        frontier.enter("a.test:80", clock.now())
        assert frontier._next_ask <= clock.now() + 0.1
