"""What every frontier does. A new engine joins by adding itself to `opened`."""

from __future__ import annotations

import contextlib
import itertools
from random import Random

import pytest

from crawler.contracts import Entry, Leased, Outcome, Verdict, Waits
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.frontier.memory import MemoryStore
from crawler.frontier.shared import SharedFrontier
from crawler.politeness import Answer, Circuit, HostRule
from crawler.testing import FakeClock
from tests.frontier.model_broker import ModelCrawl

NOW = 1_000_000.0
PLAIN = HostRule(delay=0.0, jitter=0.0, concurrency=1000)


class Committing(SharedFrontier):
    """Closes the epoch and talks to the broker before each lease, so that what was added is there at once."""

    def __init__(self, clock, rule):
        crawl = ModelCrawl(clock, lease_seconds=1e6)
        super().__init__(crawl.worker(), clock=clock, rule=lambda host: rule, rng=Random(1), concurrency=1000)
        self._test_clock = clock

    async def lease(self, want, now):
        self._test_clock.advance(max(0.0, now - self._test_clock.now()))
        leases = []
        while True:
            await self.commit({}, now)
            self._hunger, self._next_ask = want - len(leases), 0.0
            await self._talk(now)
            more = await super().lease(want - len(leases), now)
            leases += more.leases
            if not more.leases:
                return Leased(leases, more.next_due)


@contextlib.asynccontextmanager
async def open_shared(rule):
    async with Committing(FakeClock(NOW), rule) as frontier:
        frontier.resume(NOW)
        yield frontier


@contextlib.asynccontextmanager
async def open_local(kind, folder, rule, order):
    stores = {
        "memory": MemoryStore,
        "disk": lambda: DiskStore(folder),
        "disk-small-window": lambda: DiskStore(folder, window=3),
    }
    async with LocalFrontier(stores[kind](), rule=lambda host: rule, order=order, rng=Random(1)) as frontier:
        frontier.resume(NOW)
        yield frontier


LOCAL = ["memory", "disk", "disk-small-window"]


@pytest.fixture(params=[*LOCAL, "shared"])
def opened(request, tmp_path):
    """`async with opened(...) as frontier`."""

    def open_any(rule=PLAIN):
        if request.param == "shared":
            return open_shared(rule)
        return open_local(request.param, tmp_path / "frontier", rule, "breadth")

    return open_any


@pytest.fixture(params=LOCAL)
def alone(request, tmp_path):
    """The same, of a process that knows everything at once."""

    def open_one(rule=PLAIN, order="breadth"):
        return open_local(request.param, tmp_path / "frontier", rule, order)

    return open_one


def entry(number, host="a.test:80", **fields):
    return Entry(host, fields.pop("fingerprint", number), b"%d" % number, **fields)


async def leased(frontier, want=1000, now=NOW):
    return [int(lease.record) for lease in (await frontier.lease(want, now)).leases]


def done(*leases):
    return [Outcome(lease, Verdict.DONE) for lease in leases]


# -- known once ------------------------------------------------------------------------------------------------------


async def test_an_entry_is_queued_once_however_often_it_is_added(opened):
    async with opened() as frontier:
        assert frontier.add([entry(1), entry(2), entry(1)], NOW) == 2
        assert frontier.add([entry(2), entry(3)], NOW) == 1
        assert await leased(frontier) == [1, 2, 3]
        assert frontier.counts().duplicates == 2


@pytest.mark.parametrize("step", [1, 1 << 16, 1 << 20, 1 << 40, (1 << 64) // 20])
async def test_fingerprints_are_told_apart_whichever_bits_they_differ_in(alone, step):
    async with alone() as frontier:
        fingerprints = [number * step for number in range(20)]
        for met in range(20):
            assert [frontier.seen("a.test:80", each) for each in fingerprints] == [True] * met + [False] * (20 - met)
            assert frontier.add([entry(met, fingerprint=each) for each in fingerprints[: met + 1]], NOW) == 1
            assert frontier.add([entry(met, fingerprint=fingerprints[met])], NOW) == 0
        assert await leased(frontier) == list(range(20))


async def test_an_entry_stays_known_after_it_is_done(opened):
    async with opened() as frontier:
        frontier.add([entry(1)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        frontier.complete(done(lease), NOW)
        assert frontier.seen("a.test:80", 1)
        assert frontier.add([entry(1)], NOW) == 0


async def test_an_unfiltered_entry_is_queued_although_it_is_known(opened):
    async with opened() as frontier:
        frontier.add([entry(1)], NOW)
        assert frontier.add([entry(1, filtered=False)], NOW) == 1
        assert await leased(frontier) == [1, 1]


async def test_what_is_remembered_is_known_but_not_queued(alone):
    async with alone() as frontier:
        assert frontier.remember("a.test:80", 7)
        assert not frontier.remember("a.test:80", 7)
        assert frontier.add([entry(7)], NOW) == 0
        assert await leased(frontier) == []


@pytest.mark.hostile("S44")
async def test_asking_about_a_host_leaves_no_trace_of_it(alone):
    async with alone() as frontier:
        for number in range(100):
            assert not frontier.seen(f"h{number}.test:80", number + 1)
            assert frontier.ended(f"h{number}.test:80", number + 1) is None
        frontier.add([entry(1)], NOW)
        assert frontier.counts().hosts == 1
        assert list(frontier._turns.hosts) == ["a.test:80"]


async def test_fingerprints_use_all_of_their_64_bits(alone):
    async with alone() as frontier:
        numbers = [0, 1, 2**63, 2**64 - 1]
        assert frontier.add([entry(i, fingerprint=number) for i, number in enumerate(numbers)], NOW) == 4
        assert all(frontier.seen("a.test:80", number) for number in numbers)
        assert not frontier.seen("a.test:80", 2**62)


# -- order -----------------------------------------------------------------------------------------------------------


async def test_higher_priority_comes_first_then_first_come(opened):
    async with opened() as frontier:
        priorities = [0, 5, -5, 5, 2**31 - 1, -(2**31 - 1), 0]
        frontier.add([entry(i, priority=priority) for i, priority in enumerate(priorities)], NOW)
        assert await leased(frontier) == [4, 1, 3, 0, 6, 2, 5]


async def test_breadth_takes_lower_depths_first(alone):
    async with alone(order="breadth") as frontier:
        frontier.add([entry(i, depth=depth) for i, depth in enumerate([3, 1, 2, 1, 0])], NOW)
        assert await leased(frontier) == [4, 1, 3, 2, 0]


async def test_depth_takes_higher_depths_first_and_siblings_in_document_order(alone):
    async with alone(order="depth") as frontier:
        frontier.add([entry(i, depth=depth) for i, depth in enumerate([3, 1, 2, 1, 0])], NOW)
        assert await leased(frontier) == [0, 2, 1, 3, 4]


async def test_order_holds_for_more_entries_than_any_window(alone):
    async with alone() as frontier:
        numbers = list(range(500))
        Random(3).shuffle(numbers)
        frontier.add([entry(number, priority=-number) for number in numbers], NOW)
        seen = []
        while batch := await frontier.lease(7, NOW):
            if not batch.leases:
                break
            seen += [int(lease.record) for lease in batch.leases]
            frontier.complete(done(*batch.leases), NOW)
            if len(seen) == 70:  # urgent latecomers overtake
                frontier.add([entry(1000 + i, priority=10) for i in range(9)], NOW)
        assert seen == [*range(70), *range(1000, 1009), *range(70, 500)]


async def test_a_lease_says_how_deep_and_for_the_how_manieth_time(alone):
    async with alone(order="depth") as frontier:
        frontier.add([entry(1, depth=4)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        assert (lease.host, lease.depth, lease.attempt) == ("a.test:80", 4, 0)
        frontier.complete([Outcome(lease, Verdict.RETRY, NOW + 5)], NOW)
        frontier.leave("a.test:80", NOW)
        (again,) = (await frontier.lease(1, NOW + 5)).leases
        assert (again.depth, again.attempt) == (4, 1)


async def test_what_is_tried_again_may_wait_with_another_record_and_is_the_same_request(opened):
    async with opened() as frontier:
        frontier.add([entry(1)], NOW)
        records = []
        for record in (b"", b"10", b"", b"a much longer record than the one before" * 100):
            (lease,) = (await frontier.lease(1, NOW)).leases
            records.append(lease.record)
            frontier.complete([Outcome(lease, Verdict.RETRY, NOW, record=record)], NOW)
            frontier.leave("a.test:80", NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        assert [*records, lease.record] == [b"1", b"1", b"10", b"10", record]
        assert (lease.attempt, lease.fingerprint) == (4, entry(1).fingerprint)
        frontier.complete([Outcome(lease, Verdict.RELEASE, NOW, record=b"not with this verdict")], NOW)
        frontier.leave("a.test:80", NOW)
        assert (await frontier.lease(1, NOW)).leases[0].record == record


# -- time ------------------------------------------------------------------------------------------------------------


async def test_nothing_is_leased_before_its_time(alone):
    async with alone() as frontier:
        frontier.add([entry(1, not_before=NOW + 10), entry(2, not_before=NOW + 5), entry(3)], NOW)
        assert await leased(frontier) == [3]
        assert (await frontier.lease(9, NOW + 4.9)).next_due == pytest.approx(NOW + 5)
        assert await leased(frontier, now=NOW + 5) == [2]
        assert await leased(frontier, now=NOW + 10) == [1]


async def test_a_retried_entry_comes_after_those_of_its_depth_that_were_not_tried(alone):
    async with alone() as frontier:
        frontier.add([entry(0), entry(1), entry(2), entry(3, depth=1)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.RETRY)], NOW)
        assert await leased(frontier) == [1, 2, 0, 3]


async def test_a_released_entry_goes_back_to_its_place_with_its_attempts_unchanged(opened):
    async with opened() as frontier:
        frontier.add([entry(1), entry(2)], NOW)
        (first,) = (await frontier.lease(1, NOW)).leases
        frontier.complete([Outcome(first, Verdict.RELEASE)], NOW)
        frontier.leave(first.host, NOW)
        batch = (await frontier.lease(9, NOW)).leases
        assert [(int(lease.record), lease.attempt) for lease in batch] == [(1, 0), (2, 0)]


async def test_a_dead_entry_is_gone_and_stays_known(opened):
    async with opened() as frontier:
        frontier.add([entry(1)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.DEAD)], NOW)
        assert frontier.counts().queued == 0
        assert frontier.add([entry(1)], NOW) == 0


# -- a host's turns --------------------------------------------------------------------------------------------------


async def test_two_starts_at_a_host_are_a_delay_apart(opened):
    async with opened(rule=HostRule(delay=2.0, jitter=0.0, concurrency=8)) as frontier:
        frontier.add([entry(i) for i in range(3)], NOW)
        assert await leased(frontier, now=NOW) == [0]
        batch = await frontier.lease(9, NOW + 1.9)
        assert (list(batch.leases), batch.next_due) == ([], NOW + 2)
        assert await leased(frontier, now=NOW + 2) == [1]
        assert await leased(frontier, now=NOW + 4.1) == [2]


async def test_jitter_only_adds_to_the_delay(opened):
    async with opened(rule=HostRule(delay=1.0, jitter=0.5, concurrency=1000)) as frontier:
        frontier.add([entry(i) for i in range(200)], NOW)
        now, starts = NOW, []
        for _ in range(200):
            batch = await frontier.lease(9, now)
            assert len(batch.leases) == 1
            starts.append(now)
            now = batch.next_due or now
        gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
        assert 1.0 <= min(gaps) < 1.1
        assert 1.4 < max(gaps) <= 1.5


async def test_a_host_never_has_more_places_taken_than_it_has(alone):
    async with alone(rule=HostRule(delay=0.0, jitter=0.0, concurrency=2)) as frontier:
        frontier.add([entry(i) for i in range(5)], NOW)
        batch = await frontier.lease(9, NOW)
        assert ([int(lease.record) for lease in batch.leases], batch.next_due) == ([0, 1], None)
        frontier.leave("a.test:80", NOW + 1)
        assert await leased(frontier, now=NOW + 1) == [2]
        frontier.complete(done(*batch.leases), NOW + 1)  # completing frees no place: the download's end does
        assert await leased(frontier, now=NOW + 1) == []


async def test_hosts_take_turns_and_the_longest_due_comes_first(opened):
    async with opened(rule=HostRule(delay=1.0, jitter=0.0, concurrency=5)) as frontier:
        frontier.add([entry(i, host=f"h{i % 3}.test:80") for i in range(9)], NOW)
        assert await leased(frontier, now=NOW) == [0, 1, 2]
        assert await leased(frontier, now=NOW + 1) == [3, 4, 5]


async def test_a_blocked_host_waits_and_others_do_not(opened):
    async with opened() as frontier:
        frontier.add([entry(1, host="slow.test:80"), entry(2, host="fine.test:80")], NOW)
        frontier.host("slow.test:80", blocked_until=NOW + 60)
        batch = await frontier.lease(9, NOW)
        assert ([int(lease.record) for lease in batch.leases], batch.next_due) == ([2], NOW + 60)
        assert await leased(frontier, now=NOW + 60) == [1]


async def test_a_longer_delay_holds_from_the_next_start_on(opened):
    async with opened(rule=HostRule(delay=1.0, jitter=0.0, concurrency=5)) as frontier:
        frontier.add([entry(i) for i in range(3)], NOW)
        assert await leased(frontier, now=NOW) == [0]
        frontier.host("a.test:80", delay=4.0)
        assert await leased(frontier, now=NOW + 3.9) == []
        assert await leased(frontier, now=NOW + 4) == [1]


async def test_the_delay_counts_from_when_a_request_really_went_out(opened):
    async with opened(rule=HostRule(delay=1.0, jitter=0.0, concurrency=5)) as frontier:
        frontier.add([entry(i) for i in range(3)], NOW)
        assert await leased(frontier, now=NOW) == [0]
        frontier.sent("a.test:80", NOW + 0.7)  # connecting took that long
        assert await leased(frontier, now=NOW + 1.6) == []
        assert await leased(frontier, now=NOW + 1.7) == [1]


async def test_a_turn_that_was_not_used_is_there_for_the_next(opened):
    async with opened(rule=HostRule(delay=1.0, jitter=0.0, concurrency=5)) as frontier:
        frontier.add([entry(i) for i in range(4)], NOW)
        assert await leased(frontier, now=NOW) == [0]
        frontier.leave("a.test:80", NOW, unused=True)
        assert await leased(frontier, now=NOW) == [1]
        assert await leased(frontier, now=NOW + 1) == [2]
        frontier.leave("a.test:80", NOW + 1)  # of the one before, which was sent: nothing is given back
        assert await leased(frontier, now=NOW + 1.9) == []


async def test_an_inline_request_takes_the_hosts_turn(opened):
    async with opened(rule=HostRule(delay=1.0, jitter=0.0, concurrency=2)) as frontier:
        frontier.add([entry(i) for i in range(3)], NOW)
        assert await leased(frontier, now=NOW) == [0]
        assert frontier.enter("a.test:80", NOW) == NOW + 1
        assert frontier.enter("a.test:80", NOW) is None
        frontier.leave("a.test:80", NOW + 1.5)
        assert await leased(frontier, now=NOW + 1.9) == []
        assert await leased(frontier, now=NOW + 2) == [1]


async def test_another_turn_for_somebody_who_has_a_place_takes_none(opened):
    async with opened(rule=HostRule(delay=1.0, jitter=0.0, concurrency=2)) as frontier:
        frontier.add([entry(i) for i in range(3)], NOW)
        assert await leased(frontier, now=NOW) == [0]
        assert frontier.again("a.test:80", NOW) == NOW + 1
        assert await leased(frontier, now=NOW + 1.9) == []
        assert await leased(frontier, now=NOW + 2) == [1]


# -- what a host answers ---------------------------------------------------------------------------------------------

POLITE = HostRule(delay=1.0, jitter=0.0, concurrency=2)


async def test_a_host_that_errs_is_asked_more_slowly(opened):
    async with opened(rule=POLITE) as frontier:
        frontier.add([entry(i) for i in range(3)], NOW)
        assert await leased(frontier, now=NOW) == [0]
        frontier.observe("a.test:80", Answer(503), NOW)
        assert frontier.controller("a.test:80").delay == 2.0
        assert await leased(frontier, now=NOW + 1.9) == []
        assert await leased(frontier, now=NOW + 2) == [1]


async def test_a_host_that_asks_for_a_pause_gets_it_and_nobody_else(opened):
    async with opened(rule=POLITE) as frontier:
        frontier.add([entry(1), entry(2, host="b.test:80")], NOW)
        frontier.observe("a.test:80", Answer(429, retry_after=100.0), NOW)
        assert frontier.controller("a.test:80").is_paused(NOW + 99)
        assert not frontier.controller("b.test:80").is_paused(NOW)
        assert await leased(frontier, now=NOW + 99) == [2]
        assert await leased(frontier, now=NOW + 100) == [1]


async def test_after_too_many_failures_one_probe_goes_when_the_pause_is_over(opened):
    async with opened(rule=POLITE) as frontier:
        frontier.add([entry(i) for i in range(9)], NOW)
        for _ in range(20):
            frontier.observe("a.test:80", Answer(503), NOW)
        assert frontier.controller("a.test:80").circuit(NOW) is Circuit.OPEN
        assert await leased(frontier, now=NOW + 59) == []
        assert await leased(frontier, now=NOW + 500) == [0]
        assert await leased(frontier, now=NOW + 1000) == [], "one probe at a time"
        frontier.observe("a.test:80", Answer(200, latency=0.1), NOW + 1000)
        assert frontier.controller("a.test:80").circuit(NOW + 1000) is Circuit.CLOSED
        assert await leased(frontier, now=NOW + 2000) == [1]


async def test_what_waits_for_a_host_that_is_given_up_comes_at_once(opened):
    async with opened(rule=POLITE) as frontier:
        frontier.add([entry(i) for i in range(3)], NOW)
        for now in (*[NOW] * 20, NOW + 60, NOW + 1000):
            frontier.observe("a.test:80", Answer(reason="connect_refused"), now)
        now = NOW + 1100
        assert frontier.controller("a.test:80").circuit(now) is Circuit.DOWN
        for number in range(3):
            assert await leased(frontier, now=now) == [number]
            frontier.leave("a.test:80", now, unused=True)
        assert frontier.controller("a.test:80").state().last_trouble == "connect_refused"


async def test_hosts_of_one_group_share_its_turns_and_places(alone):
    async with alone(rule=POLITE) as frontier:
        frontier.add([entry(i, host=f"h{i % 3}.test:80") for i in range(9)], NOW)
        for number in range(3):
            assert frontier.regroup(f"h{number}.test:80", "10.0.0.1")
        assert not frontier.regroup("h1.test:80", "10.0.0.1")
        order = []
        for second in range(9):
            order += await leased(frontier, now=NOW + second)
            assert len(order) == second + 1
            frontier.leave(f"h{order[-1] % 3}.test:80", NOW + second)
        assert [number % 3 for number in order] == [0, 1, 2] * 3, "and take turns in it"


async def test_a_place_goes_with_its_host_into_another_group(alone):
    async with alone(rule=HostRule(delay=0.0, concurrency=1)) as frontier:
        frontier.add([entry(1, host="a.test:80"), entry(2, host="b.test:80")], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        frontier.regroup("b.test:80", "10.0.0.1")
        frontier.regroup(lease.host, "10.0.0.1")
        assert await leased(frontier) == []
        frontier.leave(lease.host, NOW)
        assert await leased(frontier) == [2]


async def test_it_says_what_hosts_wait_for(alone):
    async with alone(rule=HostRule(delay=1.0, jitter=0.0, concurrency=1)) as frontier:
        frontier.add([entry(i, host=f"h{i}.test:80") for i in range(4)], NOW)
        frontier.add([entry(10 + i, host=f"h{i}.test:80") for i in range(4)], NOW)
        leases = (await frontier.lease(2, NOW)).leases
        frontier.leave(leases[0].host, NOW)
        frontier.host("h3.test:80", blocked_until=NOW + 5)
        assert frontier.waits(NOW) == Waits(ready=1, delayed=1, full=1, paused=1)


async def test_nothing_is_due_while_all_places_are_taken_or_nothing_waits(alone):
    async with alone() as frontier:
        assert await frontier.lease(5, NOW) == ([], None)
        frontier.add([entry(1)], NOW)
        batch = await frontier.lease(5, NOW)
        assert batch.next_due is None


# -- counts and export -----------------------------------------------------------------------------------------------


async def test_counts_add_up(alone):
    async with alone() as frontier:
        frontier.add([entry(i, host=f"h{i % 2}.test:80") for i in range(6)] + [entry(0, host="h0.test:80")], NOW)
        frontier.add([entry(9, host="h9.test:80", not_before=NOW + 9)], NOW)
        batch = (await frontier.lease(3, NOW)).leases
        frontier.complete(done(batch[0]), NOW)
        counts = frontier.counts()
        assert (counts.queued, counts.leased, counts.completed) == (4, 2, 1)
        assert (counts.added, counts.duplicates, counts.hosts, counts.active_hosts) == (7, 1, 3, 3)


async def test_export_gives_everything_that_waits(alone):
    async with alone() as frontier:
        entries = [entry(1, priority=3, depth=2), entry(2, host="b.test:443", not_before=NOW + 50)]
        frontier.add(entries, NOW)
        exported = sorted([given async for given in frontier.export()], key=lambda pair: pair[0].record)
        assert [(given._replace(not_before=round(given.not_before)), attempt) for given, attempt in exported] == [
            (entries[0], 0),
            (entries[1], 0),
        ]


# -- what is kept beside the queue -----------------------------------------------------------------------------------


async def test_values_are_there_when_they_are_committed_and_none_takes_one_away(opened):
    async with opened() as frontier:
        await frontier.commit({"one": b"1", "two": b"2"}, NOW)
        assert (frontier.get("one"), frontier.get("two"), frontier.get("three")) == (b"1", b"2", None)
        await frontier.commit({"one": None, "two": b"22", "never": None}, NOW)
        assert (frontier.get("one"), frontier.get("two")) == (None, b"22")


async def test_rows_are_the_values_whose_keys_begin_alike_in_their_order(opened):
    async with opened() as frontier:
        await frontier.commit({"row/b": b"2", "row/a": b"1", "row": b"no", "rox/c": b"no"}, NOW)
        assert list(frontier.rows("row/")) == [("row/a", b"1"), ("row/b", b"2")]


async def test_leases_say_which_request_they_are_and_unfiltered_ones_have_keys_of_their_own(opened):
    async with opened() as frontier:
        frontier.add([entry(5), entry(5, filtered=False), entry(5, filtered=False)], NOW)
        leases = (await frontier.lease(9, NOW)).leases
        assert [lease.fingerprint for lease in leases] == [5, 5, 5]
        assert leases[0].key == 5
        assert len({lease.key for lease in leases}) == 3
        assert [lease.deaths for lease in leases] == [0, 0, 0]


async def test_a_sync_awaits_the_outputs_first_and_fails_with_them(opened):
    async def fail():
        raise OSError("no space")

    told = []

    async def tell():
        told.append("outputs")

    async with opened() as frontier:
        await frontier.sync(tell)
        await frontier.commit({"a": b"1"}, NOW)
        await frontier.sync(tell)
        assert told == ["outputs", "outputs"]
        with pytest.raises(OSError, match="no space"):
            await frontier.sync(fail)
        assert not frontier.is_behind
