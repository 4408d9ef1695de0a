"""Hosts of one frontier, lent to several workers of one machine."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from crawler.contracts import Entry, Verdict
from crawler.errors import SessionLost
from crawler.frontier.broker import Ask, Claim, Control, End, HostReturn, WorkerEpoch
from crawler.frontier.disk import DiskStore
from crawler.frontier.lending import Lending
from crawler.frontier.local import LocalFrontier
from crawler.frontier.memory import MemoryStore
from crawler.frontier.shared import SharedFrontier
from crawler.politeness import Answer, Controller, HostRule

NOW = 1_000_000.0
SLOW = HostRule(delay=1.0, jitter=0.0, concurrency=2)
QUICK = HostRule(delay=0.0, jitter=0.0, concurrency=8)


class Clock:
    def __init__(self):
        self.time = NOW

    def now(self):
        return self.time


class Crawl:
    """A lending over a frontier, with its workers' brokers."""

    def __init__(self, frontier, clock, **options):
        self.frontier, self.clock = frontier, clock
        self.lending = Lending(frontier, clock=clock, key=b"k" * 16, workers=2, **options)

    async def worker(self, name):
        broker = self.lending.broker(name)
        await broker.join()
        return broker

    async def add(self, *entries):
        self.frontier.add(entries, self.clock.now())
        await self.frontier.commit({}, self.clock.now())


@pytest.fixture(params=["memory", "disk"])
async def opened(request, tmp_path):
    """`crawl = await opened(rule)`."""
    open_now = []

    async def open_crawl(rule=SLOW, group=None, **options):
        store = MemoryStore() if request.param == "memory" else DiskStore(tmp_path / "frontier", window=3)
        frontier = LocalFrontier(store, rule=lambda host: rule, rng=Random(1), group=group)
        await frontier.__aenter__()
        open_now.append(frontier)
        frontier.resume(NOW)
        return Crawl(frontier, Clock(), group=group, **options)

    yield open_crawl
    for frontier in open_now:
        await frontier.__aexit__(None, None, None)


def entry(number, host="a.test:80", **fields):
    return Entry(host, fields.pop("fingerprint", number), b"%d" % number, **fields)


def numbers(given):
    return [int(task.record) for loan in given.loans for task in loan.tasks]


def tasks(given):
    return [task for loan in given.loans for task in loan.tasks]


def epoch(number, *ends, **fields):
    return WorkerEpoch(number, ends=[End(task.id, verdict) for task, verdict in ends], **fields)


# -- hosts -----------------------------------------------------------------------------------------------------------


async def test_a_host_with_a_delay_is_lent_to_one_worker_with_as_many_requests_as_it_takes_in_five_seconds(opened):
    crawl = await opened()
    await crawl.add(*(entry(number) for number in range(20)))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    given = await one.ask(Ask(50))
    assert numbers(given) == [0, 1, 2, 3, 4]
    assert (await two.ask(Ask(50))).loans == []


async def test_a_returned_host_is_lent_again_when_its_wait_is_over_with_the_state_it_came_back_with(opened):
    crawl = await opened()
    await crawl.add(*(entry(number) for number in range(20)))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    given = await one.ask(Ask(50))
    controller = Controller("a.test:80", SLOW)
    controller.observe(Answer(503), NOW)
    unused = [task.id for task in tasks(given)[2:]]
    back = HostReturn("a.test:80", 3.0, msgspec.msgpack.encode(controller.state()), 5, 0, unused)
    assert (await one.ask(Ask(0, [back]))).loans == []
    early = await two.ask(Ask(50))
    assert (early.loans, early.next_due) == ([], NOW + 3.0)
    crawl.clock.time += 3.0
    lent = await two.ask(Ask(50))
    assert numbers(lent) == [2, 3, 4, 5, 6]
    state = msgspec.msgpack.decode(lent.loans[0].state)
    assert state[0] == 2.0  # the delay, doubled


async def test_a_host_without_delay_is_shared_once_it_has_come_back_and_its_places_are_never_given_twice(opened):
    crawl = await opened(QUICK)
    await crawl.add(*(entry(number) for number in range(300)))
    one, two, three = [await crawl.worker(name) for name in "123"]
    assert [loan.places for loan in (await one.ask(Ask(8))).loans] == [0]
    assert (await two.ask(Ask(8))).loans == []
    await one.ask(Ask(0, [HostReturn("a.test:80", 0.0, shared_places=8, quota=50)]))
    shares = [[loan.places for loan in (await each.ask(Ask(8))).loans] for each in (one, two, three)]
    assert shares == [[4], [4], []]


async def test_who_has_a_share_gets_more_requests_without_giving_it_back(opened):
    crawl = await opened(QUICK)
    await crawl.add(*(entry(number) for number in range(300)))
    one = await crawl.worker("1")
    await one.ask(Ask(8))
    await one.ask(Ask(0, [HostReturn("a.test:80", 0.0, shared_places=8, quota=50)]))
    first, second = await one.ask(Ask(8)), await one.ask(Ask(8))
    assert not set(numbers(first)) & set(numbers(second))
    assert len(numbers(second)) == 8


async def test_a_claimed_host_that_somebody_has_goes_to_the_claimant_when_it_comes_back(opened):
    crawl = await opened()
    await crawl.add(*(entry(number) for number in range(20)))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    await one.ask(Ask(5))
    assert (await two.ask(Ask(0, [], [Claim("a.test:80")]))).loans == []
    await one.ask(Ask(5, [HostReturn("a.test:80", 1.0)]))
    crawl.clock.time += 1.0
    assert (await one.ask(Ask(5))).loans == []
    assert [loan.key for loan in (await two.ask(Ask(0, [], [Claim("a.test:80")]))).loans] == ["a.test:80"]


async def test_a_host_that_nobody_fetches_although_it_was_claimed_is_everybodys_again(opened):
    crawl = await opened()
    await crawl.add(*(entry(number) for number in range(20)))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    await one.ask(Ask(5))
    await two.ask(Ask(0, [], [Claim("a.test:80")]))
    await one.ask(Ask(0, [HostReturn("a.test:80", 1.0, quota=5)]))
    crawl.clock.time += 6.0
    assert numbers(await one.ask(Ask(5))) == [5, 6, 7, 8, 9]


async def test_a_group_is_lent_as_one_and_its_hosts_are_named(opened):
    crawl = await opened(group=lambda host: "test")
    await crawl.add(entry(1, "a.test:80"), entry(2, "b.test:80"))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    given = await one.ask(Ask(50))
    assert [(loan.key, [task.host for task in loan.tasks]) for loan in given.loans] == [("test", ["a.test:80"])]
    assert (await two.ask(Ask(50))).loans == []
    await one.ask(Ask(0, [HostReturn("test", 0.0)]))
    assert [task.host for task in tasks(await two.ask(Ask(50)))] == ["b.test:80"]


async def test_a_delay_is_not_forgotten_while_an_idle_host_is_evicted(opened):
    crawl = await opened()
    await crawl.add(entry(1))
    one = await crawl.worker("1")
    given = await one.ask(Ask(5))
    await one.commit(epoch(1, (tasks(given)[0], Verdict.DONE)))
    await one.ask(Ask(0, [HostReturn("a.test:80", 2.0)]))
    await crawl.frontier.commit({}, crawl.clock.now())
    await one.commit(WorkerEpoch(2, [entry(2)]))
    assert (await one.ask(Ask(5))).next_due == NOW + 2.0


async def test_robots_values_come_with_their_host_once(opened):
    crawl = await opened()
    await crawl.add(*(entry(number) for number in range(20)))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    await one.commit(WorkerEpoch(1, of_hosts={"a.test:80": {"robots/http://a.test": b"rules"}}))
    first = await one.ask(Ask(1))
    assert first.loans[0].values == {"robots/http://a.test": b"rules"}
    await one.ask(Ask(0, [HostReturn("a.test:80", 0.0)]))
    assert (await two.ask(Ask(1))).loans[0].values == {"robots/http://a.test": b"rules"}
    await two.ask(Ask(0, [HostReturn("a.test:80", 0.0)]))
    assert (await one.ask(Ask(1))).loans[0].values == {}


# -- sessions --------------------------------------------------------------------------------------------------------


async def test_a_worker_that_ends_gives_back_its_requests_at_once_and_its_hosts_after_their_delay(opened):
    crawl = await opened()
    await crawl.add(*(entry(number) for number in range(7)))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    await one.ask(Ask(5))
    crawl.lending.end(one.worker)
    assert (await two.ask(Ask(5))).next_due == NOW + 1.0
    crawl.clock.time += 1.0
    given = await two.ask(Ask(5))
    assert numbers(given) == [0, 1, 2, 3, 4]
    assert {(task.attempt, task.lapses) for task in tasks(given)} == {(0, 0)}
    with pytest.raises(SessionLost):
        await one.commit(WorkerEpoch(1))


async def test_a_death_counts_for_the_request_that_was_at_work_alone(opened):
    crawl = await opened()
    await crawl.add(*(entry(number) for number in range(1, 4)))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    await one.ask(Ask(5))
    crawl.lending.end(one.worker, at_work={2, 999})
    crawl.clock.time += 1.0
    assert {task.fingerprint: task.lapses for task in tasks(await two.ask(Ask(5)))} == {1: 0, 2: 1, 3: 0}


async def test_a_session_that_is_not_renewed_lapses_when_another_one_is(opened):
    crawl = await opened(lease_seconds=10.0)
    await crawl.add(entry(1))
    one, two = await crawl.worker("1"), await crawl.worker("2")
    await one.ask(Ask(5))
    crawl.clock.time += 9.0
    await two.renew()
    crawl.clock.time += 2.0
    assert (await two.renew()).workers == 1
    with pytest.raises(SessionLost):
        await one.renew()


# -- epochs ----------------------------------------------------------------------------------------------------------


async def test_an_epoch_that_is_said_again_is_taken_once(opened):
    crawl = await opened()
    await crawl.add(entry(1))
    one = await crawl.worker("1")
    given = await one.ask(Ask(5))
    said = epoch(1, (tasks(given)[0], Verdict.DONE), entries=[entry(1), entry(2)])
    assert [await one.commit(said), await one.commit(said)] == [1, 1]
    assert crawl.frontier.counts().queued == 1


async def test_a_retry_waits_with_one_more_attempt_and_its_new_record(opened):
    crawl = await opened()
    await crawl.add(entry(1))
    one = await crawl.worker("1")
    task = tasks(await one.ask(Ask(5)))[0]
    await one.commit(WorkerEpoch(1, ends=[End(task.id, Verdict.RETRY, 4.0, b"7")]))
    await one.ask(Ask(0, [HostReturn("a.test:80", 1.0)]))
    crawl.clock.time += 3.9
    assert (await one.ask(Ask(5))).loans == []
    crawl.clock.time += 0.2
    again = tasks(await one.ask(Ask(5)))[0]
    assert (again.record, again.attempt) == (b"7", 1)


async def test_cookies_of_one_worker_reach_the_others_with_their_next_renewal_and_later_ones_when_they_join(opened):
    crawl = await opened()
    one, two = await crawl.worker("1"), await crawl.worker("2")
    await one.commit(WorkerEpoch(1, shared={"cookie/x": b"1"}))
    assert (await two.renew()).shared == {"cookie/x": b"1"}
    assert (await two.renew()).shared == {}
    assert (await one.renew()).shared == {}
    assert (await crawl.lending.broker("3").join()).shared == {"cookie/x": b"1"}


async def test_start_is_one_workers_until_it_ends_or_dies(opened):
    crawl = await opened()
    one, two = await crawl.worker("1"), await crawl.worker("2")
    assert [await one.claim_start(), await two.claim_start(), await one.claim_start()] == [True, False, True]
    await one.leave()
    assert await two.claim_start()
    assert not await two.is_done()
    await two.commit(WorkerEpoch(1, shared={"started": b"1"}))
    assert not await two.claim_start()
    assert await two.is_done()


async def test_a_page_that_a_redirect_leads_to_is_one_tasks(opened):
    crawl = await opened()
    await crawl.add(entry(1), entry(2, "b.test:80"))
    one = await crawl.worker("1")
    first, second = tasks(await one.ask(Ask(50)))
    assert [await one.reach("c.test:80", 9, task.id) for task in (first, second, first)] == [True, False, True]
    assert await one.commit(WorkerEpoch(1, [entry(9, "c.test:80")])) == 1
    await one.commit(epoch(2, (first, Verdict.DONE)))
    assert crawl.frontier.seen("c.test:80", 9)
    assert not await one.reach("c.test:80", 9, second.id)


async def test_links_to_where_a_redirect_led_are_visited_when_the_redirected_request_comes_to_nothing(opened):
    crawl = await opened()
    await crawl.add(entry(1))
    one = await crawl.worker("1")
    first = tasks(await one.ask(Ask(50)))[0]
    await one.reach("c.test:80", 9, first.id)
    await one.commit(WorkerEpoch(1, [entry(9, "c.test:80")]))
    await one.leave()
    two = await crawl.worker("2")
    assert 9 in numbers(await two.ask(Ask(50)))


async def test_pages_are_allowed_up_to_the_limit_over_all_and_those_of_a_dead_worker_again(opened):
    crawl = await opened(page_limit=10)
    one, two = await crawl.worker("1"), await crawl.worker("2")
    allowed = 0
    while given := await one.take_allowance(3):
        allowed += given
    assert (allowed, await two.take_allowance(1)) == (10, 0)
    await one.commit(WorkerEpoch(1, pages=4))
    await one.leave()
    allowed = 0
    while given := await two.take_allowance(100):
        allowed += given
    assert allowed == 6


async def test_nothing_is_lent_while_the_crawl_is_draining_but_what_a_page_needs(opened):
    crawl = await opened()
    await crawl.add(entry(1))
    one = await crawl.worker("1")
    crawl.lending.tell(Control.DRAINING, "interrupted")
    given = await one.ask(Ask(5, [], [Claim("b.test:80")]))
    assert [loan.key for loan in given.loans] == ["b.test:80"]
    assert (await one.renew()).control is Control.DRAINING


async def test_a_shared_frontier_over_it_leases_what_is_there(opened):
    from crawler.clock import SystemClock

    crawl = await opened(QUICK)
    await crawl.add(entry(1), entry(2))
    frontier = SharedFrontier(
        crawl.lending.broker("1"), clock=SystemClock(), rule=lambda host: QUICK, rng=Random(1), concurrency=8
    )
    async with frontier:
        await frontier.lease(8, crawl.clock.now())
        await frontier._talk(crawl.clock.now())
        leased = await frontier.lease(8, SystemClock().now())
        assert {lease.fingerprint for lease in leased.leases} == {1, 2}
