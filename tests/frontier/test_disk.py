"""What the frontier on disk keeps when its process dies: everything committed, nothing else."""

from __future__ import annotations

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


async def test_a_full_map_is_an_unavailable_engine_and_what_was_committed_stays(tmp_path):
    async with frontier_in(tmp_path, map_size=1 << 20) as frontier:
        frontier.add([entry(1)], NOW)
        await frontier.commit({}, NOW)
        with pytest.raises(EngineUnavailable, match="Nothing committed is lost"):
            frontier.add([Entry("a.test:80", 10 + i, b"x" * 1000) for i in range(5000)], NOW)
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW)
        assert await records(frontier) == [1]


async def test_idle_hosts_are_forgotten_and_come_back(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        for number in range(50):
            frontier.add([entry(number, host=f"h{number}.test:80")], NOW)
        for lease in (await frontier.lease(50, NOW)).leases:
            frontier.complete([Outcome(lease, Verdict.DONE)], NOW)
            frontier.leave(lease.host, NOW)
        await frontier.commit({}, NOW + 1)
        assert not frontier._hosts
        assert frontier.add([entry(99, host="h7.test:80"), entry(7, host="h7.test:80")], NOW) == 1
        assert await records(frontier) == [99]
