"""What the frontier on disk keeps when its process dies: everything committed, nothing else."""

from __future__ import annotations

import asyncio
import threading
from random import Random

import lmdb
import pytest

from crawler.contracts import Entry, Outcome, Verdict
from crawler.errors import EngineUnavailable, JobError
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.politeness import HostRule

NOW = 1_000_000.0


PLAIN = HostRule(delay=0.0, jitter=0.0, concurrency=100)


def frontier_in(folder, rule=PLAIN, **options):
    return LocalFrontier(DiskStore(folder / "frontier", **options), rule=lambda host: rule, rng=Random(1))


def entry(number, host="a.test:80", **fields):
    return Entry(host, number, b"%d" % number, **fields)


async def records(frontier, now=NOW):
    return [int(lease.record) for lease in (await frontier.lease(1000, now)).leases]


async def test_what_was_committed_is_there_after_a_crash_and_what_was_not_is_not(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(1), entry(2)], NOW)
        await frontier.commit({"positions": b"10"}, NOW)
        frontier.add([entry(3)], NOW)  # closing without a commit is a crash
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW)
        assert frontier.get("positions") == b"10"
        assert not frontier.seen("a.test:80", 3)
        assert await records(frontier) == [1, 2]
        assert frontier.counts().added == 2


async def test_a_lease_that_was_not_completed_comes_back(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(i) for i in range(4)], NOW)
        first, second, *_ = (await frontier.lease(3, NOW)).leases
        frontier.complete([Outcome(first, Verdict.DONE)], NOW)
        await frontier.commit({}, NOW)
        frontier.complete([Outcome(second, Verdict.DONE)], NOW)
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW)
        assert await records(frontier) == [1, 2, 3]


async def test_retries_and_waits_survive(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(1)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.RETRY, NOW + 30)], NOW)
        await frontier.commit({}, NOW)
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW + 1)
        batch = await frontier.lease(1, NOW + 1)
        assert (list(batch.leases), batch.next_due) == ([], NOW + 30)
        (again,) = (await frontier.lease(1, NOW + 30)).leases
        assert again.attempt == 1


async def test_a_hosts_pause_survives(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(1)], NOW)
        frontier.host("a.test:80", blocked_until=NOW + 600, delay=7.0)
        await frontier.commit({}, NOW)
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW)
        assert (await frontier.lease(1, NOW + 599)).next_due == NOW + 600


@pytest.mark.hostile("R-24")
@pytest.mark.parametrize("back", [2, 3600, 10 * 86400])
async def test_what_waits_waits_no_longer_where_the_clock_was_set_back_meanwhile(tmp_path, back):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(number, not_before=NOW + number / 7) for number in range(1, 61)], NOW)
        frontier.add([entry(100, host="b.test:80")], NOW)
        frontier.host("b.test:80", blocked_until=NOW + 30)
        await frontier.commit({}, NOW)
    now = NOW - back
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(now)
        await frontier.commit({}, now)
    async with frontier_in(tmp_path) as frontier:  # moved once, and not again
        frontier.resume(now + 1)
        assert frontier.counts().queued == 61
        assert await records(frontier, now + 29.5 / 7) == list(range(1, 30))
        assert await records(frontier, now + 29) == list(range(30, 61))
        assert await records(frontier, now + 30.1) == [100]


async def test_after_a_restart_every_host_waits_its_delay_first(tmp_path):
    polite = HostRule(delay=2.0, jitter=0.0, concurrency=5)
    async with frontier_in(tmp_path, polite) as frontier:
        frontier.add([entry(1), entry(2)], NOW)
        (lease,) = (await frontier.lease(5, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.DONE)], NOW)
        await frontier.commit({}, NOW)
    async with frontier_in(tmp_path, polite) as frontier:
        frontier.resume(NOW + 0.1)
        assert await records(frontier, NOW + 2.0) == []
        assert await records(frontier, NOW + 2.1) == [2]


async def test_order_holds_over_a_restart(tmp_path):
    async with frontier_in(tmp_path, window=4) as frontier:
        frontier.add([entry(i, priority=i % 3) for i in range(30)], NOW)
        expected = sorted(range(30), key=lambda i: (-(i % 3), i))
        first = (await frontier.lease(10, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.DONE) for lease in first], NOW)
        await frontier.commit({}, NOW)
    async with frontier_in(tmp_path, window=4) as frontier:
        frontier.resume(NOW)
        frontier.add([entry(i, priority=0) for i in range(30, 35)], NOW)
        assert await records(frontier) == expected[10:] + list(range(30, 35))


async def test_a_frontier_of_another_format_is_refused_untouched(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        await frontier.commit({}, NOW)
    with lmdb.open(str(tmp_path / "frontier"), max_dbs=16) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"99", db=env.open_db(b"values", txn=txn))
    (tmp_path / "frontier" / "snapshots").unlink()
    before = (tmp_path / "frontier" / "data.mdb").read_bytes()
    with pytest.raises(JobError, match="format 99"):
        async with frontier_in(tmp_path):
            pass
    assert (tmp_path / "frontier" / "data.mdb").read_bytes() == before


@pytest.mark.parametrize(("format", "words"), [(1, "older version"), (99, "newer version")])
async def test_a_frontier_whose_layout_is_another_one_is_refused_for_its_format_and_not_called_damaged(
    tmp_path, format, words
):
    folder = tmp_path / "frontier"
    folder.mkdir()
    with lmdb.open(str(folder), max_dbs=16) as env:
        other, values = env.open_db(b"something else"), env.open_db(b"values")
        with env.begin(write=True) as txn:
            txn.put(b"key", b"value", db=other)
            txn.put(b"format", b"%d" % format, db=values)
    before = (folder / "data.mdb").read_bytes()
    with pytest.raises(JobError, match=words):
        async with frontier_in(tmp_path):
            pass
    assert (folder / "data.mdb").read_bytes() == before


async def test_a_full_map_is_an_unavailable_engine_and_what_was_committed_stays(tmp_path):
    async with frontier_in(tmp_path, map_size=1 << 20) as frontier:
        frontier.add([entry(1)], NOW)
        await frontier.commit({}, NOW)
        with pytest.raises(EngineUnavailable, match="Nothing committed is lost"):
            frontier.add([Entry("a.test:80", 10 + i, b"x" * 1000) for i in range(5000)], NOW)
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW)
        assert await records(frontier) == [1]


@pytest.mark.hostile("R-26")
async def test_idle_hosts_are_forgotten_and_come_back(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        for number in range(50):
            frontier.add([entry(number, host=f"h{number}.test:80")], NOW)
        for lease in (await frontier.lease(50, NOW)).leases:
            frontier.complete([Outcome(lease, Verdict.DONE)], NOW)
            frontier.leave(lease.host, NOW)
        await frontier.commit({}, NOW + 1)
        assert not frontier._turns.hosts
        assert frontier.add([entry(99, host="h7.test:80"), entry(7, host="h7.test:80")], NOW) == 1
        assert await records(frontier) == [99]


# -- who was at work when the process died -----------------------------------------------------------------------------


async def killed_at_work(folder, number, *, at_work=True, commit=True, done=()):
    """A life that ends without a word while this entry's code runs, or nobody's."""
    frontier = frontier_in(folder)
    await frontier.__aenter__()
    frontier.resume(NOW)
    await frontier.commit({}, NOW)
    frontier.add([entry(each) for each in range(1, 4)], NOW)
    leases = {int(lease.record): lease for lease in (await frontier.lease(9, NOW)).leases}
    if commit:
        await frontier.commit({}, NOW)
    frontier.complete([Outcome(leases[each], Verdict.DONE) for each in done], NOW)
    if done:
        await frontier.commit({}, NOW)
    frontier.at_work(leases[number])
    if not at_work:
        frontier.at_work(None)
    frontier._store._at_work.end = lambda: None  # as SIGKILL: what stands there stays
    await frontier.__aexit__()
    return {each: lease.deaths for each, lease in leases.items()}


async def deaths_in(folder):
    async with frontier_in(folder) as frontier:
        frontier.resume(NOW)
        return {int(lease.record): lease.deaths for lease in (await frontier.lease(9, NOW)).leases}


@pytest.mark.parametrize("commit", [True, False])
async def test_a_death_is_counted_for_whoever_was_at_work_whether_it_was_ever_committed_or_not(tmp_path, commit):
    assert await killed_at_work(tmp_path, 2, commit=commit) == {1: 0, 2: 0, 3: 0}
    assert await killed_at_work(tmp_path, 2, commit=commit) == {1: 0, 2: 1, 3: 0}
    assert await killed_at_work(tmp_path, 3, commit=commit) == {1: 0, 2: 2, 3: 0}
    assert await killed_at_work(tmp_path, 3, at_work=False, commit=commit) == {1: 0, 2: 2, 3: 1}
    assert await killed_at_work(tmp_path, 1, commit=commit) == {1: 0, 2: 2, 3: 1}


async def test_a_death_counts_once_however_often_the_next_process_dies_before_its_first_commit(tmp_path):
    await killed_at_work(tmp_path, 2)
    for _ in range(3):
        assert (await deaths_in(tmp_path))[2] == 1


async def test_a_death_is_forgotten_when_its_entry_is_done_and_counts_anew(tmp_path):
    await killed_at_work(tmp_path, 2)
    assert await killed_at_work(tmp_path, 1, done=[2]) == {1: 0, 2: 1, 3: 0}
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW)
        frontier.add([entry(2, filtered=False)], NOW)
        assert {int(each.record): each.deaths for each in (await frontier.lease(9, NOW)).leases} == {1: 1, 3: 0, 2: 0}


async def test_a_death_is_not_forgotten_when_its_entry_is_given_up(tmp_path):
    await killed_at_work(tmp_path, 2)
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW)
        frontier.add([entry(2, filtered=False)], NOW)
        leases = [lease for lease in (await frontier.lease(9, NOW)).leases if lease.fingerprint == 2]
        frontier.complete([Outcome(leases[0], Verdict.DEAD)], NOW)
        frontier.complete([Outcome(leases[1], Verdict.RELEASE)], NOW)
        frontier.leave("a.test:80", NOW)
        (again,) = (await frontier.lease(9, NOW)).leases
        assert again.deaths == 1


async def test_who_ends_in_good_order_was_not_at_work(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        await frontier.commit({}, NOW)
        frontier.add([entry(2)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        await frontier.commit({}, NOW)
        frontier.at_work(lease)
    assert await deaths_in(tmp_path) == {2: 0}


# -- keys, ends, delays ----------------------------------------------------------------------------------------------


async def test_the_key_of_an_entry_is_the_same_in_each_life(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        large = 1 << 40  # as fingerprints are; the numbers of entries are small
        entries = [entry(large), entry(large, filtered=False), entry(large, filtered=False)]
        frontier.add(entries, NOW)
        await frontier.commit({}, NOW)
        keys = [lease.key for lease in (await frontier.lease(9, NOW)).leases]
    assert len(set(keys)) == 3
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW)
        leases = (await frontier.lease(9, NOW)).leases
        assert [lease.key for lease in leases] == keys
        frontier.complete([Outcome(lease, Verdict.RETRY, NOW + 5) for lease in leases], NOW)
        await frontier.commit({}, NOW)
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW + 5)
        assert {lease.key for lease in (await frontier.lease(9, NOW + 5)).leases} == set(keys)


async def test_how_an_entry_ended_and_how_a_redirects_target_did_is_kept(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(1)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.DONE, end=b"done well")], NOW)
        assert frontier.remember("a.test:80", 7, ("a.test:80", 1), b"reached")
        assert not frontier.remember("a.test:80", 7, ("a.test:80", 1), b"reached again")
        await frontier.commit({}, NOW)
    async with frontier_in(tmp_path) as frontier:
        assert [frontier.ended("a.test:80", number) for number in (1, 7, 8)] == [b"done well", b"reached", None]


async def test_a_hosts_delay_that_came_back_down_is_as_configured_after_a_restart(tmp_path):
    slow, slower = (HostRule(delay=delay, jitter=0.0, concurrency=5) for delay in (2.0, 3.0))
    async with frontier_in(tmp_path, slow) as frontier:
        frontier.add([entry(1)], NOW)
        frontier.host("a.test:80", delay=8.0)
        await frontier.commit({}, NOW)
        assert frontier.controller("a.test:80").delay == 8.0
        frontier.host("a.test:80", delay=2.0)
        await frontier.commit({}, NOW)
    async with frontier_in(tmp_path, slower) as frontier:
        assert frontier.controller("a.test:80").delay == 3.0, "what was configured meanwhile counts"


async def test_a_host_with_nothing_waiting_has_its_next_turn_a_delay_after_the_last_one_over_a_restart(tmp_path):
    polite = HostRule(delay=100.0, jitter=0.0, concurrency=5)
    async with frontier_in(tmp_path, polite) as frontier:
        frontier.add([entry(1)], NOW)
        (lease,) = (await frontier.lease(5, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.DONE)], NOW)
        frontier.leave("a.test:80", NOW + 1)
        await frontier.commit({}, NOW + 1)
    async with frontier_in(tmp_path, polite) as frontier:
        frontier.resume(NOW + 10)
        frontier.add([entry(2)], NOW + 20)
        assert (await frontier.lease(5, NOW + 20)).next_due == NOW + 100


# -- syncs -----------------------------------------------------------------------------------------------------------


async def test_epochs_end_while_a_sync_is_under_way_and_the_outputs_are_synced_before_it(tmp_path, monkeypatch):
    events, begun, gate = [], threading.Event(), threading.Event()
    sync = DiskStore._sync

    def slow(store, snapshot):
        begun.set()
        assert gate.wait(30)
        sync(store, snapshot)
        events.append(snapshot.number)

    async def outputs():
        events.append("outputs")

    monkeypatch.setattr(DiskStore, "_sync", slow)
    async with frontier_in(tmp_path) as frontier:
        await frontier.commit({}, NOW)
        at_its_beginning = frontier._store._latest.number
        syncing = asyncio.ensure_future(frontier.sync(outputs))
        await asyncio.to_thread(begun.wait, 30)
        for number in range(1, 4):
            frontier.add([entry(number)], NOW)
            await frontier.commit({}, NOW)
        assert events == ["outputs"]
        gate.set()
        await syncing
        assert events == ["outputs", at_its_beginning]
        assert frontier._store._latest.number == at_its_beginning + 3


async def test_a_sync_whose_outputs_fail_leaves_the_state_before_it_to_come_back_to(tmp_path, monkeypatch):
    async def fail():
        raise EngineUnavailable("the output's disk is gone")

    async def nothing():
        pass

    synced = []
    sync = DiskStore._sync
    monkeypatch.setattr(DiskStore, "_sync", lambda store, snapshot: (synced.append(snapshot), sync(store, snapshot)))
    async with frontier_in(tmp_path) as frontier:
        await frontier.commit({}, NOW)
        await frontier.sync(nothing)
        await frontier.commit({}, NOW)
        with pytest.raises(EngineUnavailable, match="disk is gone"):
            await frontier.sync(fail)
        assert len(synced) == 1
        await frontier.sync(nothing)
        assert [snapshot.number for snapshot in synced] == [synced[0].number, synced[0].number + 1]


async def test_it_is_behind_when_the_file_has_grown_by_much_since_the_last_sync(tmp_path, monkeypatch):
    monkeypatch.setattr("crawler.frontier.disk._BEHIND_BYTES", 1 << 16)

    async def nothing():
        pass

    async with frontier_in(tmp_path) as frontier:
        await frontier.commit({}, NOW)
        assert not frontier.is_behind
        frontier.add([Entry("a.test:80", number, b"x" * 100) for number in range(2000)], NOW)
        await frontier.commit({}, NOW)
        assert frontier.is_behind
        await frontier.sync(nothing)
        assert not frontier.is_behind
