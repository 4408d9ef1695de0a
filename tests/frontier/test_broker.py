"""What every broker does. Another one joins by adding itself to `crew`."""

from __future__ import annotations

import itertools

import pytest

from crawler.contracts import Verdict
from crawler.errors import EngineUnavailable, JobError, SessionLost
from crawler.frontier.broker import Ask, Claim, Control, HostReturn, WorkerEpoch
from tests.engines import needs_redis
from tests.frontier.crews import LEASE, Crew, entry, numbers

pytestmark = needs_redis


@pytest.fixture(params=["redis", "redis-cluster"])
async def crew(request):
    engine = request.getfixturevalue(
        request.param.replace("redis-", "redis_") if "-" in request.param else "redis_server"
    )
    engine.flush()
    async with Crew(engine.url) as crew:
        yield crew


async def started(worker):
    """`start()` has ended."""
    await worker.commit(shared={"started": b"1"})


# -- joining ---------------------------------------------------------------------------------------------------------


async def test_all_workers_of_a_crawl_have_one_key_for_their_fingerprints(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    assert one.session.key == two.session.key
    assert len(one.session.key) == 16
    assert one.session.id != two.session.id
    assert one.session.control is Control.RUNNING


async def test_who_comes_under_a_name_again_has_the_values_that_it_committed_last(crew):
    one = await crew.worker("w1")
    await one.commit(own={"positions": b"10", "stats": b"x"})
    await one.commit(own={"positions": b"20", "stats": None})
    assert (await crew.worker("w2")).session.own == {}
    assert (await crew.worker("w1")).session.own == {"positions": b"20"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"spider": "other"}, "the spider is 's' there and 'other' here"),
        ({"order": "depth"}, "crawl.order is 'breadth' there and 'depth' here"),
        ({"group_by": "domain"}, "politeness.group_by"),
        ({"settings": {"shards": 8}}, "frontier.shards is 4 there and 8 here"),
        ({"settings": {"expected_urls": 100_000}}, "frontier.expected_urls"),
    ],
)
async def test_a_worker_that_means_another_crawl_is_told_what_differs(crew, options, name):
    await crew.worker("w1")
    with pytest.raises(JobError, match=name):
        await crew.worker("w2", **options)


# -- known once ------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-13")
async def test_an_entry_is_queued_once_whoever_adds_it(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    assert await one.add(entry(1), entry(2), entry(1)) == 1
    assert await two.add(entry(2), entry(3)) == 1
    assert numbers(await one.tasks()) == [1, 2, 3]


async def test_fingerprints_use_all_of_their_64_bits(crew):
    worker = await crew.worker(quota=10)
    fingerprints = [0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    assert await worker.add(*(entry(n, fingerprint=number) for n, number in enumerate(fingerprints))) == 0
    assert await worker.add(*(entry(n, fingerprint=number) for n, number in enumerate(fingerprints))) == 6
    assert [task.fingerprint for task in await worker.tasks()] == fingerprints


async def test_an_entry_stays_known_after_it_is_done(crew):
    worker = await crew.worker()
    await worker.add(entry(1))
    await worker.end(Verdict.DONE, *await worker.tasks())
    assert await worker.add(entry(1)) == 1


async def test_an_unfiltered_entry_is_queued_although_it_is_known_and_is_told_from_others(crew):
    worker = await crew.worker(quota=10)
    assert await worker.add(entry(1), entry(1, filtered=False), entry(1, filtered=False)) == 0
    assert await worker.add(entry(2, filtered=False)) == 0
    assert await worker.add(entry(2)) == 1
    tasks = await worker.tasks()
    assert numbers(tasks) == [1, 1, 1, 2]
    assert [task.filtered for task in tasks] == [True, False, False, False]
    assert tasks[0].number == 0
    assert len({task.number for task in tasks}) == 4


async def test_the_number_of_an_unfiltered_entry_stays_the_same(crew):
    worker = await crew.worker()
    await worker.add(entry(1, filtered=False))
    (loan,) = await worker.borrow()
    await worker.end(Verdict.RETRY, *loan.tasks)
    await worker.give_back(loan)
    (again,) = await worker.tasks()
    assert again.number == loan.tasks[0].number
    assert again.id != loan.tasks[0].id


async def test_what_an_entry_says_comes_with_the_task(crew):
    worker = await crew.worker()
    await worker.add(entry(7, depth=3, priority=-2), entry(8, depth=40, priority=5))
    first, second = await worker.tasks()
    assert (first.record, first.depth, first.priority, first.attempt, first.lapses) == (b"8", 40, 5, 0, 0)
    assert (second.record, second.depth, second.priority, second.host) == (b"7", 3, -2, "")


@pytest.mark.parametrize("depth", [0, 14, 15, 16, 254, 255, 256, 1000])
@pytest.mark.parametrize("filtered", [True, False])
async def test_a_retried_record_replaces_the_other_whatever_stands_before_it(crew, depth, filtered):
    worker = await crew.worker(group_by="domain")
    record = b"GET http://www.example.com/1"
    await worker.add(entry(1, "www.example.com:80", depth=depth, filtered=filtered)._replace(record=record))
    for attempt, given in enumerate([b"", b"other www.example.com", b"x" * 400, b""]):
        (loan,) = await worker.borrow()
        (task,) = loan.tasks
        assert (task.record, task.depth, task.filtered, task.host) == (record, depth, filtered, "www.example.com:80")
        assert (task.attempt, task.fingerprint) == (attempt, 1)
        await worker.end(Verdict.RETRY, task, record=given)
        record = given or record
        await worker.give_back(loan)
    assert (await worker.tasks())[0].record == record


async def test_more_entries_than_fit_into_one_call_are_all_there(crew):
    worker = await crew.worker()
    entries = [entry(n, f"h{n % 7}.test:80") for n in range(5000)]
    assert await worker.add(*entries, *(each._replace(filtered=False) for each in entries)) == 0
    counts = (await worker.renew()).counts
    assert (counts.queued, counts.added, counts.active_hosts, counts.hosts) == (10_000, 10_000, 7, 7)


# -- order -----------------------------------------------------------------------------------------------------------


async def test_within_a_host_a_higher_priority_comes_first_then_who_came_first(crew):
    worker = await crew.worker(quota=10)
    await worker.add(
        entry(1), entry(2, priority=5), entry(3, priority=-1), entry(4), entry(5, priority=5), entry(6, priority=300)
    )
    assert numbers(await worker.tasks()) == [6, 2, 5, 1, 4, 3]


async def test_priorities_are_kept_over_several_loans(crew):
    worker = await crew.worker(quota=2)
    await worker.add(entry(1), entry(2, priority=5), entry(3, priority=-1), entry(4), entry(5, priority=5))
    order = []
    for _ in range(3):
        (loan,) = await worker.borrow()
        order += numbers(loan.tasks)
        await worker.give_back(loan, quota=2)
    assert order == [2, 5, 1, 4, 3]


async def test_depth_first_takes_what_came_last(crew):
    worker = await crew.worker(order="depth", quota=2)
    await worker.add(entry(1), entry(2), entry(3))
    (loan,) = await worker.borrow()
    assert numbers(loan.tasks) == [3, 2]
    await worker.add(entry(4))
    await worker.broker.ask(Ask(0, [HostReturn(loan.key, 0.0, quota=9, unused=[task.id for task in loan.tasks])]))
    assert numbers(await worker.tasks()) == [3, 2, 4, 1]


async def test_the_host_that_is_due_first_is_lent_first(crew):
    worker = await crew.worker(settings={"shards": 1})
    await worker.add(entry(1, "a.test:80"), entry(2, "b.test:80"), entry(3, "a.test:80"), entry(4, "b.test:80"))
    a, b = await worker.borrow()
    await worker.add(*(entry(n, host) for n, host in enumerate(["a.test:80", "b.test:80"], 5)))
    await worker.give_back(a, wait=2.0)
    await worker.give_back(b, wait=1.0)
    crew.clock.advance(3.0)
    assert [loan.key for loan in await worker.borrow()] == ["b.test:80", "a.test:80"]


async def test_an_entry_waits_until_its_time(crew):
    worker = await crew.worker()
    await worker.add(entry(1, not_before=crew.clock.now() + 5.0), entry(2, "b.test:80", filtered=False))
    given = await worker.broker.ask(Ask(10))
    assert numbers(task for loan in given.loans for task in loan.tasks) == [2]
    assert given.next_due == pytest.approx(crew.clock.now() + 5.0, abs=0.002)
    assert (await worker.renew()).counts.queued == 1
    crew.clock.advance(5.001)
    assert numbers(await worker.tasks()) == [1]


# -- loans -----------------------------------------------------------------------------------------------------------


async def test_a_host_is_lent_to_one_worker_with_as_many_requests_as_its_quota(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(*(entry(n) for n in range(5)))
    (loan,) = await one.borrow()
    assert (loan.key, loan.places, loan.state, numbers(loan.tasks)) == ("a.test:80", 0, b"", [0, 1, 2])
    await two.add(entry(9))
    assert await two.borrow() == []
    await one.give_back(loan)
    assert numbers(await two.tasks()) == [3, 4, 9]


async def test_no_more_is_lent_than_was_asked_for(crew):
    worker = await crew.worker()
    await worker.add(*(entry(n, f"h{n % 10}.test:80") for n in range(50)))
    assert len(await worker.tasks(7)) == 7
    assert len(await worker.tasks(1)) == 1
    assert (await worker.broker.ask(Ask(0))).loans == []


async def test_everything_that_is_due_is_found_in_whatever_shard(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.renew()
    await one.add(*(entry(n, f"h{n}.test:80") for n in range(40)))
    assert sorted(numbers(await two.tasks(100))) == list(range(40))


async def test_a_host_is_not_lent_before_its_next_turn_even_if_its_queue_was_empty(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(entry(1))
    await one.give_back(*await one.borrow(), wait=2.0)
    await two.add(entry(2))
    given = await two.broker.ask(Ask(10))
    assert given.loans == []
    assert given.next_due == pytest.approx(crew.clock.now() + 2.0, abs=0.002)
    crew.clock.advance(1.9)
    assert await two.borrow() == []
    crew.clock.advance(0.101)
    assert numbers(await two.tasks()) == [2]


async def test_a_host_comes_with_its_state_as_it_went_back(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(*(entry(n) for n in range(9)))
    (loan,) = await one.borrow()
    await one.broker.ask(Ask(0, [HostReturn(loan.key, 0.0, b"state\0\n", 5)]))
    (loan,) = await two.borrow()
    assert loan.state == b"state\0\n"
    assert numbers(loan.tasks) == [3, 4, 5, 6, 7]


async def test_what_was_not_begun_goes_back_to_the_head_in_its_order(crew):
    worker = await crew.worker()
    await worker.add(*(entry(n) for n in range(3)), entry(3, priority=1), entry(4))
    (loan,) = await worker.borrow()
    assert numbers(loan.tasks) == [3, 0, 1]
    unused = [task.id for task in loan.tasks[1:]]
    await worker.broker.ask(Ask(0, [HostReturn(loan.key, 0.0, quota=9, unused=unused)]))
    (again,) = await worker.borrow()
    assert numbers(again.tasks) == [0, 1, 2, 4]
    assert [task.attempt for task in again.tasks] == [0] * 4
    await worker.end(Verdict.DONE, *loan.tasks)  # those that went back are not this loan's any more
    assert (await worker.renew()).counts.leased == 4


async def test_hosts_that_start_named_are_told_with_the_loan(crew):
    one, two = await crew.worker("w1", group_by="domain"), await crew.worker("w2", group_by="domain")
    await one.add(
        entry(1, "www.example.com:80"), entry(2, "b.example.com:443"), named=["www.example.com:80", "c.example.com:80"]
    )
    (loan,) = await two.borrow()
    assert loan.key == "example.com"
    assert loan.named == ["c.example.com:80", "www.example.com:80"]
    assert [task.host for task in loan.tasks] == ["www.example.com:80", "b.example.com:443"]


async def test_values_of_a_host_come_with_it_once(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    values = {"robots/http://a.test": b"Disallow: /", "robots/https://a.test": b"x"}
    await one.add(*(entry(n) for n in range(20)), of_hosts={"a.test:80": values, "b.test:80": {"robots/b": b""}})
    (loan,) = await two.borrow()
    assert loan.values == values
    await two.give_back(loan)
    (loan,) = await two.borrow()
    assert loan.values == {}
    await two.give_back(loan)
    await one.commit(of_hosts={"a.test:80": {"robots/https://a.test": None}})
    (loan,) = await one.borrow()
    assert loan.values == {"robots/http://a.test": b"Disallow: /"}


async def test_what_a_host_gave_of_its_budget_comes_with_it_each_time(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    key = "budget/host/a.test:80"
    await one.add(*(entry(n) for n in range(20)), of_hosts={"a.test:80": {key: b"1"}})
    for worker, count in ((two, b"1"), (two, b"1"), (one, b"2"), (two, b"3")):
        if count != b"1":
            await worker.commit(of_hosts={"a.test:80": {key: count}})
        (loan,) = await worker.borrow()
        assert loan.values == {key: count}
        await worker.give_back(loan)
    late = await crew.worker("w3")
    assert key not in late.session.own


async def test_a_host_without_delay_is_lent_to_several_but_never_more_of_it_than_there_is(crew):
    workers = [await crew.worker(f"w{n}") for n in range(4)]
    for worker in workers:
        await worker.renew()
    await workers[0].add(*(entry(n) for n in range(100)))
    (loan,) = await workers[0].borrow()
    await workers[0].give_back(loan, shared_places=3)
    held = {}
    for worker in workers:
        for loan in await worker.borrow():
            held[worker] = loan
    assert [loan.places for loan in held.values()] == [1, 1, 1]
    assert await workers[0].borrow() == []  # it has its share
    first = next(iter(held))
    await first.give_back(held.pop(first), shared_places=3)
    taken = [(worker, loan) for worker in workers for loan in await worker.borrow()]
    assert len(taken) == 1
    held[taken[0][0]] = taken[0][1]
    # One finds that it needs a delay: nobody gets it until all have given it back.
    for n, (worker, loan) in enumerate(held.items()):
        await worker.give_back(loan, wait=0.0, shared_places=0)
        lent = [loan for each in workers for loan in await each.borrow()]
        assert bool(lent) is (n == len(held) - 1)
    assert [loan.places for loan in lent] == [0]


# -- claims ----------------------------------------------------------------------------------------------------------


async def test_a_host_is_lent_to_who_claims_it_though_nothing_waits_there(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    (loan,) = await one.claim("new.test:443")
    assert (loan.key, loan.tasks) == ("new.test:443", [])
    assert await two.claim("new.test:443") == []
    await two.add(entry(1, "new.test:443"))
    assert await two.borrow() == []


async def test_a_host_that_somebody_wants_goes_to_nobody_else(crew):
    one, two, three = [await crew.worker(name) for name in ("w1", "w2", "w3")]
    await one.add(*(entry(n) for n in range(9)))
    (loan,) = await one.borrow()
    assert await two.claim("a.test:80") == []
    await one.give_back(loan)
    assert await one.borrow() == []
    assert await three.claim("a.test:80") == []
    (loan,) = await two.claim("a.test:80")
    await two.give_back(loan)
    assert len(await three.borrow()) == 1


async def test_a_claim_waits_for_the_hosts_next_turn(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.give_back(*await one.claim("a.test:80"), wait=1.0)
    assert await two.claim("a.test:80") == []
    crew.clock.advance(1.001)
    assert len(await two.claim("a.test:80")) == 1


async def test_a_wish_that_nobody_says_again_is_forgotten(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(*(entry(n) for n in range(9)))
    (loan,) = await one.borrow()
    await two.claim("a.test:80")
    await one.give_back(loan)
    crew.clock.advance(10.0)
    assert len(await one.borrow()) == 1


async def test_a_claim_with_room_for_requests_brings_some(crew):
    worker = await crew.worker()
    await worker.add(*(entry(n) for n in range(9)))
    given = await worker.broker.ask(Ask(2, claims=[Claim("a.test:80")]))
    assert [numbers(loan.tasks) for loan in given.loans] == [[0, 1]]


async def test_who_has_a_host_gets_more_of_its_requests_by_claiming_it(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(*(entry(n) for n in range(7)))
    (loan,) = await one.borrow()
    assert (numbers(loan.tasks), loan.more) == ([0, 1, 2], True)
    (more,) = await one.claim("a.test:80")
    assert (more.key, numbers(more.tasks), more.more) == ("a.test:80", [3, 4, 5], True)
    (more,) = await one.claim("a.test:80")
    assert (numbers(more.tasks), more.more) == ([6], False)
    (more,) = await one.claim("a.test:80")
    assert (more.tasks, more.more) == ([], False)
    await one.end(Verdict.DONE, *loan.tasks)
    await one.give_back(loan)
    await one.add(entry(9))
    assert numbers(await two.tasks()) == [9]


# -- commits ---------------------------------------------------------------------------------------------------------


async def test_a_commit_that_is_said_again_is_taken_once(crew):
    worker = await crew.worker(quota=20, page_limit=10)
    await worker.add(*(entry(n) for n in range(4)))
    await worker.take_allowance(10)
    tasks = await worker.tasks()
    ends = [*_ends(Verdict.RETRY, tasks[:1]), *_ends(Verdict.DONE, tasks[1:3]), *_ends(Verdict.RELEASE, tasks[3:])]
    epoch = WorkerEpoch(2, [entry(5, filtered=False)], ends, pages=2)
    for _ in range(3):
        await worker.broker.commit(epoch)
    counts = (await worker.renew()).counts
    assert (counts.added, counts.completed, counts.queued, counts.leased) == (5, 2, 3, 0)
    await worker.leave()
    assert await (await crew.worker("w2", page_limit=10)).take_allowance(10) == 8


async def test_a_commit_that_is_two_ahead_means_that_the_engine_has_lost_one(crew):
    worker = await crew.worker()
    await worker.commit(own={"x": b"1"})
    with pytest.raises(SessionLost):
        await worker.broker.commit(WorkerEpoch(3, own={"x": b"3"}))
    assert (await crew.worker("w1")).session.own == {"x": b"1"}


async def test_a_retried_task_is_behind_the_others_and_has_one_attempt_more(crew):
    worker = await crew.worker(quota=2)
    await worker.add(entry(1), entry(2), entry(3))
    (loan,) = await worker.borrow()
    await worker.end(Verdict.RETRY, loan.tasks[0])
    await worker.end(Verdict.DONE, loan.tasks[1])
    await worker.give_back(loan)
    tasks = await worker.tasks()
    assert [(int(task.record), task.attempt) for task in tasks] == [(3, 0), (1, 1)]


async def test_a_retried_task_waits_as_long_as_it_was_said(crew):
    worker = await crew.worker()
    await worker.add(entry(1))
    (loan,) = await worker.borrow()
    await worker.give_back(loan)
    await worker.end(Verdict.RETRY, *loan.tasks, wait=30.0)
    assert await worker.borrow() == []
    crew.clock.advance(29.9)
    await worker.renew()
    assert await worker.borrow() == []
    crew.clock.advance(0.2)
    assert [task.attempt for task in await worker.tasks()] == [1]


async def test_a_released_task_is_back_at_its_place(crew):
    worker = await crew.worker(quota=2)
    await worker.add(entry(1), entry(2), entry(3))
    (loan,) = await worker.borrow()
    await worker.end(Verdict.RELEASE, loan.tasks[1])
    await worker.end(Verdict.DEAD, loan.tasks[0])
    await worker.give_back(loan)
    assert [(int(task.record), task.attempt) for task in await worker.tasks()] == [(2, 0), (3, 0)]


async def test_a_task_ends_though_its_host_has_gone_on_to_somebody_else(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(*(entry(n) for n in range(4)))
    (loan,) = await one.borrow()
    await one.give_back(loan)
    (other,) = await two.borrow()
    await one.end(Verdict.DONE, *loan.tasks)
    await two.end(Verdict.DONE, *loan.tasks)  # not its own
    counts = (await two.renew()).counts
    assert (counts.completed, counts.leased, counts.queued) == (3, 1, 0)
    await two.end(Verdict.DONE, *other.tasks)


# -- sessions that lapse ---------------------------------------------------------------------------------------------


async def test_what_a_lost_worker_had_comes_back_to_the_head_after_the_hosts_delay(crew):
    lost, other = await crew.worker("w1"), await crew.worker("w2")
    await lost.add(*(entry(n) for n in range(5)))
    await lost.borrow()
    crew.clock.advance(LEASE - 1)
    await other.renew()
    assert await other.borrow() == []
    crew.clock.advance(1.001)
    await other.renew()
    assert await other.borrow() == []  # the lost one may have asked it something just now
    crew.clock.advance(1.0)
    tasks = await other.tasks()
    assert [(int(task.record), task.lapses, task.attempt) for task in tasks] == [(0, 1, 0), (1, 1, 0), (2, 1, 0)]


async def test_nothing_of_a_lapsed_session_is_taken(crew):
    lost = await crew.worker("w1")
    await lost.add(entry(1))
    (loan,) = await lost.borrow()
    crew.clock.advance(LEASE + 0.1)
    for verb in (
        lost.borrow,
        lambda: lost.end(Verdict.DONE, *loan.tasks),
        lambda: lost.give_back(loan),
        lost.renew,
        lambda: lost.claim("b.test:80"),
    ):
        with pytest.raises(SessionLost):
            await verb()
    other = await crew.worker("w2")
    await other.renew()
    crew.clock.advance(-1.0)  # of the one that is lost: it goes slow
    for verb in (lost.renew, lost.claim_start, lambda: lost.give_back(loan), lambda: lost.commit(own={"x": b"1"})):
        with pytest.raises(SessionLost):
            await verb()
    crew.clock.advance(2.0)
    assert numbers(await other.tasks()) == [1]


async def test_a_session_that_is_renewed_does_not_lapse(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(entry(1))
    (loan,) = await one.borrow()
    for _ in range(3):
        crew.clock.advance(LEASE * 0.7)
        assert (await one.renew()).workers == 2
        await two.renew()
    await one.end(Verdict.DONE, *loan.tasks)


async def test_who_takes_a_workers_name_ends_its_commits_at_once_and_its_loans_with_its_time(crew):
    before = await crew.worker("w1")
    await before.add(*(entry(n) for n in range(5)), own={"x": b"before"})
    (loan,) = await before.borrow()
    crew.clock.advance(1.0)
    after = await crew.worker("w1")
    assert after.session.own == {"x": b"before"}
    with pytest.raises(SessionLost):
        await before.end(Verdict.DONE, *loan.tasks)
    with pytest.raises(SessionLost):
        await before.renew()
    assert await after.borrow() == []
    crew.clock.advance(LEASE - 2.0)
    await after.renew()
    assert await after.borrow() == []
    crew.clock.advance(1.1)
    await after.renew()
    crew.clock.advance(1.0)
    assert numbers(await after.tasks()) == [0, 1, 2]


async def test_who_leaves_gives_everything_back_at_once_and_nothing_lapsed(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(*(entry(n) for n in range(5)))
    await one.borrow()
    await one.leave()
    crew.clock.advance(1.0)
    assert [(int(task.record), task.lapses) for task in await two.tasks()] == [(0, 0), (1, 0), (2, 0)]
    with pytest.raises(SessionLost):
        await one.renew()
    assert (await two.renew()).workers == 1


async def test_a_request_that_is_lost_with_every_worker_is_given_up(crew):
    watch = await crew.worker("watch")
    await watch.add(entry(1), entry(2))
    lapses = []
    for n in itertools.count():
        worker = await crew.worker(f"w{n}", quota=1)
        tasks = await worker.tasks()
        if tasks[0].fingerprint == 2:
            break
        lapses.append(tasks[0].lapses)
        crew.clock.advance(LEASE - 1)
        await watch.renew()
        crew.clock.advance(2)
        await watch.renew()
        crew.clock.advance(1)
    assert lapses == list(range(31))


async def test_the_wish_of_a_lost_worker_counts_for_nothing(crew):
    one, lost = await crew.worker("w1"), await crew.worker("w2", settings={"lease_seconds": 2.0})
    await one.add(*(entry(n) for n in range(5)))
    (loan,) = await one.borrow()
    await lost.claim("a.test:80")
    crew.clock.advance(2.5)
    await one.give_back(loan)
    assert len(await one.borrow()) == 1


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_commit_whose_worker_died_in_the_middle_is_completed_by_others(crew, is_done):
    lost, other = await crew.worker("w1", page_limit=10), await crew.worker("w2", page_limit=10)
    await lost.take_allowance(10)
    await lost.add(*(entry(n, f"h{n}.test:80") for n in range(6)))
    tasks = await lost.tasks()
    with lost.cut_off("end", is_done=is_done), pytest.raises(EngineUnavailable):
        await lost.commit(
            entries=[entry(7, "h0.test:80", filtered=False), entry(8)],
            ends=[*_ends(Verdict.DONE, tasks[:4]), *_ends(Verdict.RETRY, tasks[4:])],
            own={"x": b"1"},
            shared={"cookie/a": b"1"},
            pages=4,
        )
    crew.clock.advance(LEASE - 1)
    await other.renew()
    crew.clock.advance(1.1)
    news = await other.renew()
    assert {**news.shared, **(await other.renew()).shared} == {"cookie/a": b"1"}
    assert await other.take_allowance(100) == 6
    crew.clock.advance(2.0)
    counts = (await other.renew()).counts
    assert (counts.completed, counts.leased, counts.added) == (4, 0, 8)
    found = await other.tasks()
    assert sorted(numbers(found)) == sorted([7, 8, *numbers(tasks[4:])])
    assert sorted(task.attempt for task in found) == [0, 0, 1, 1]
    assert {task.lapses for task in found} == {0}
    assert (await crew.worker("w1", page_limit=10)).session.own == {"x": b"1"}


async def test_a_commit_whose_worker_died_before_it_took_effect_changes_nothing_but_what_is_known(crew):
    lost, other = await crew.worker("w1"), await crew.worker("w2")
    await lost.add(entry(1))
    (loan,) = await lost.borrow()
    with lost.cut_off("record"), pytest.raises(EngineUnavailable):
        await lost.commit(entries=[entry(2), entry(3, filtered=False)], ends=_ends(Verdict.DONE, loan.tasks))
    crew.clock.advance(LEASE + 0.1)
    with pytest.raises(SessionLost):
        await other.renew()
    other = await crew.worker("w2")
    await other.renew()
    crew.clock.advance(1.0)
    tasks = await other.tasks()
    assert sorted(numbers(tasks)) == [1, 2]
    await other.add(entry(2), ends=_ends(Verdict.DONE, tasks))
    assert (await other.renew()).counts.added == 2


def _ends(verdict, tasks):
    from crawler.frontier.broker import End

    return [End(task.id, verdict) for task in tasks]


# -- answers that are lost -------------------------------------------------------------------------------------------


async def test_what_was_lent_in_an_answer_that_was_lost_is_lent_with_the_next(crew):
    worker = await crew.worker()
    await worker.add(*(entry(n) for n in range(5)), entry(9, "b.test:80"))
    with worker.cut_off("ask", is_done=True), pytest.raises(EngineUnavailable):
        await worker.borrow()
    assert sorted(numbers(await worker.tasks())) == [0, 1, 2, 9]
    assert (await worker.renew()).counts.leased == 4
    assert await worker.borrow() == []


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_host_that_went_back_in_a_call_that_was_lost_is_not_taken_back_twice(crew, is_done):
    worker = await crew.worker()
    await worker.add(*(entry(n) for n in range(9)))
    (loan,) = await worker.borrow()
    back = Ask(3, [HostReturn(loan.key, 0.0, b"first", 3)])
    with worker.cut_off("ask", is_done=is_done), pytest.raises(EngineUnavailable):
        await worker.broker.ask(back)
    given = await worker.broker.ask(back)
    (loan,) = given.loans
    assert (loan.state, numbers(loan.tasks)) == (b"first", [3, 4, 5])
    other = await crew.worker("w2")
    assert await other.borrow() == []


async def test_pages_that_were_given_in_an_answer_that_was_lost_are_not_lost(crew):
    worker = await crew.worker(page_limit=10)
    with worker.cut_off("allowance", is_done=True), pytest.raises(EngineUnavailable):
        await worker.take_allowance(6)
    assert await worker.take_allowance(6) == 6
    assert await worker.take_allowance(6) == 4
    with worker.cut_off("allowance", is_done=True), pytest.raises(EngineUnavailable):
        await worker.take_allowance(-5)
    assert await worker.take_allowance(100) == 5


# -- values of all workers -------------------------------------------------------------------------------------------


async def test_values_for_all_workers_reach_the_others(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.commit(shared={"cookie/a": b"1", "cookie/b": b"2"})
    assert (await two.renew()).shared == {"cookie/a": b"1", "cookie/b": b"2"}
    assert (await two.renew()).shared == {}
    assert (await one.renew()).shared == {}  # its own are no news
    await two.commit(shared={"cookie/a": None})
    assert (await one.renew()).shared == {"cookie/a": None}
    assert (await crew.worker("w3")).session.shared == {"cookie/b": b"2"}


async def test_values_for_all_workers_come_with_the_host_that_they_may_be_about(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(entry(1), shared={"cookie/a": b"1"})
    given = await two.broker.ask(Ask(5))
    assert given.shared == {"cookie/a": b"1"}
    assert len(given.loans) == 1
    assert (await two.renew()).shared == {}


# -- redirects -------------------------------------------------------------------------------------------------------


async def test_a_page_that_several_are_redirected_to_is_the_firsts(crew):
    worker = await crew.worker()
    await worker.add(entry(1), entry(2), entry(3))
    one, two, _ = await worker.tasks()
    assert await worker.reach("b.test:80", 77, one.id)
    assert await worker.reach("b.test:80", 77, one.id)
    assert not await worker.reach("b.test:80", 77, two.id)
    assert not await worker.reach("a.test:80", 3, two.id)
    assert await worker.add(entry(77, "b.test:80")) == 1


async def test_a_task_that_comes_again_may_have_the_page_that_it_was_redirected_to(crew):
    worker = await crew.worker()
    await worker.add(entry(1))
    (loan,) = await worker.borrow()
    assert await worker.reach("b.test:80", 77, loan.tasks[0].id)
    await worker.end(Verdict.RETRY, *loan.tasks)
    await worker.give_back(loan)
    (again,) = await worker.tasks()
    assert await worker.reach("b.test:80", 77, again.id)


# -- the crawl as a whole --------------------------------------------------------------------------------------------


async def test_the_page_limit_is_never_exceeded_over_all_workers(crew):
    one, two = [await crew.worker(name, page_limit=10) for name in ("w1", "w2")]
    assert await one.take_allowance(4) == 4
    assert await two.take_allowance(100) == 6
    assert await one.take_allowance(1) == 0
    assert await two.take_allowance(-2) == -2
    assert await one.take_allowance(5) == 2


async def test_what_a_lost_worker_did_not_use_of_the_page_limit_is_there_for_others(crew):
    lost, other = [await crew.worker(name, page_limit=10) for name in ("w1", "w2")]
    await lost.take_allowance(8)
    await lost.commit(pages=3)
    crew.clock.advance(LEASE - 1)
    await other.renew()
    crew.clock.advance(1.1)
    await other.renew()
    assert await other.take_allowance(100) == 7


async def test_without_a_page_limit_as_many_are_given_as_are_asked_for(crew):
    assert await (await crew.worker()).take_allowance(100) == 100


async def test_one_worker_runs_start_and_another_when_that_is_lost(crew):
    lost, other = await crew.worker("w1"), await crew.worker("w2")
    assert await lost.claim_start()
    assert await lost.claim_start()
    assert not await other.claim_start()
    crew.clock.advance(LEASE - 1)
    await other.renew()
    crew.clock.advance(1.1)
    assert not await other.claim_start()
    await other.renew()
    assert await other.claim_start()
    await started(other)
    assert not await other.claim_start()
    assert not await (await crew.worker("w3")).claim_start()


async def test_a_crawl_is_done_when_start_has_ended_and_nothing_waits_or_is_under_way(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    assert not await one.is_done()
    await one.add(entry(1), entry(2, not_before=crew.clock.now() + 5.0))
    await started(one)
    assert not await two.is_done()
    (loan,) = await two.borrow()
    assert not await one.is_done()
    await two.end(Verdict.DONE, *loan.tasks)
    assert not await one.is_done()
    crew.clock.advance(5.001)
    await two.give_back(loan)
    (loan,) = await two.borrow()
    await two.commit(entries=[entry(3, "c.test:80")], ends=_ends(Verdict.DONE, loan.tasks))
    assert not await one.is_done()
    (last,) = await one.borrow()
    await one.end(Verdict.DEAD, *last.tasks, end=b"why")
    assert await one.is_done()
    await one.finish("finished")
    news = await two.renew()
    assert (news.control, news.reason) == (Control.FINISHED, "finished")
    assert (await crew.worker("w3")).session.control is Control.FINISHED


async def test_while_the_crawl_is_not_running_nothing_is_lent(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(entry(1))
    await one.finish("page_limit")
    assert (await two.renew()).reason == "page_limit"
    assert await two.borrow() == []
    assert await two.claim("a.test:80") == []


async def test_the_counts_are_those_of_the_whole_crawl(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(*(entry(n, f"h{n}.test:80") for n in range(10)))
    await two.add(*(entry(n, f"h{n}.test:80") for n in range(8, 12)))
    await two.end(Verdict.DONE, *await two.tasks(5))
    await one.tasks(3)
    crew.clock.advance(5.0)
    for worker in (one, two):
        counts = (await worker.renew()).counts
        assert (counts.queued, counts.leased, counts.completed) == (4, 3, 5)
        assert (counts.added, counts.duplicates, counts.hosts) == (12, 2, 12)
