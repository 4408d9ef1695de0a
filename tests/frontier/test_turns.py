"""Who comes when: the two lanes of quick and slow hosts, groups by name, and what is kept of them over a restart."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from crawler.contracts import Entry, Outcome, Verdict
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.frontier.memory import MemoryStore
from crawler.politeness import Answer, HostRule, Pause

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.contracts import Lease

NOW = 1_000_000.0
RULE = HostRule(delay=1.0, jitter=0.0, concurrency=2)


def entry(number: int, host: str = "a.test:80") -> Entry:
    return Entry(host, number, b"%d" % number)


def in_memory(**options: Any) -> LocalFrontier:
    return LocalFrontier(MemoryStore(), rule=lambda host: RULE, rng=Random(1), **options)


# -- lanes -----------------------------------------------------------------------------------------------------------


def is_slow(host: str) -> bool:
    return host.startswith("slow")


async def crawl(frontier: LocalFrontier, seconds: float, concurrency: int) -> dict[str, int]:
    """As the engine would, in steps of 10 ms; how many pages each host had. Slow hosts take 5 s, the others 50 ms."""
    under_way: list[tuple[float, Lease]] = []
    pages: dict[str, int] = {}
    for step in range(int(seconds * 100)):
        now = NOW + step / 100
        for ready, lease in [each for each in under_way if each[0] <= now]:
            under_way.remove((ready, lease))
            frontier.observe(lease.host, Answer(200, latency=5.0 if is_slow(lease.host) else 0.05), now)
            frontier.leave(lease.host, now)
            frontier.complete([Outcome(lease, Verdict.DONE)], now)
            pages[lease.host] = pages.get(lease.host, 0) + 1
        leases = (await frontier.lease(concurrency - len(under_way), now)).leases
        under_way += [(now + (5.0 if is_slow(lease.host) else 0.05), lease) for lease in leases]
    return pages


def fill(frontier: LocalFrontier, hosts: list[str], each: int) -> None:
    frontier.add([entry(n * 1000 + i, f"{host}.test:80") for i, host in enumerate(hosts) for n in range(each)], NOW)


@pytest.mark.parametrize("concurrency", [16, 8])
async def test_slow_hosts_take_only_what_the_quick_ones_leave(concurrency: int) -> None:
    quick, slow = [f"quick{n}" for n in range(40)], [f"slow{n}" for n in range(10)]
    async with in_memory(concurrency=concurrency) as frontier:
        fill(frontier, quick, 60)
        alone = sum((await crawl(frontier, 60.0, concurrency)).values())
    async with in_memory(concurrency=concurrency) as frontier:
        fill(frontier, quick + slow, 60)
        pages = await crawl(frontier, 60.0, concurrency)
    assert sum(count for host, count in pages.items() if not is_slow(host)) >= 0.9 * alone
    assert min(pages.get(f"{host}.test:80", 0) for host in slow) >= 1, "and none of them starves"


async def test_strangers_come_before_hosts_known_to_be_slow_but_not_all_of_them() -> None:
    async with in_memory(concurrency=4) as frontier:
        fill(frontier, ["quick"], 100)
        frontier.observe("quick.test:80", Answer(200, latency=0.9), NOW)
        frontier.host("quick.test:80", delay=0.1, concurrency=4)
        frontier.observe("quick.test:80", Answer(200, latency=0.9), NOW)  # it could use all there is
        fill(frontier, [f"slow{n}" for n in range(3)], 9)
        for number in range(3):
            frontier.observe(f"slow{number}.test:80", Answer(200, latency=5.0), NOW)
        frontier.add([entry(10_000 + number, f"new{number}.test:80") for number in range(9)], NOW)
        order = []
        for _ in range(10):
            leases = [lease for lease in (await frontier.lease(9, NOW)).leases if not lease.host.startswith("quick")]
            order += [lease.host[:3] for lease in leases]
            for lease in leases:
                frontier.leave(lease.host, NOW)
        assert order[0] == "slo", "who came first, came first"
        assert order[1:].count("new") >= 6
        assert "slo" in order[1:]


async def test_a_long_line_costs_a_lease_no_more_than_a_short_one() -> None:
    async with in_memory(concurrency=4) as frontier:
        fill(frontier, [f"slow{n}" for n in range(2000)], 1)
        leases = list((await frontier.lease(9, NOW)).leases)
        assert len(leases) == 4, "all others are in line now"
        before = frontier._turns._ticks
        for _ in range(100):
            frontier.leave(leases.pop().host, NOW)
            leases += (await frontier.lease(1, NOW)).leases
        assert len(leases) == 4
        assert frontier._turns._ticks - before <= 400


async def test_where_there_are_no_quick_hosts_slow_ones_have_everything() -> None:
    async with in_memory(concurrency=20) as frontier:
        fill(frontier, [f"slow{n}" for n in range(30)], 10)
        await crawl(frontier, 10.0, 20)
        assert sum(host.taken for host in frontier._turns.hosts.values()) >= 18


# -- groups ----------------------------------------------------------------------------------------------------------


async def test_hosts_that_are_grouped_by_name_share_one_delay() -> None:
    async with in_memory(group=lambda host: host.partition(".")[2]) as frontier:
        frontier.add([entry(1, "www.a.test:80"), entry(2, "shop.a.test:80"), entry(3, "www.b.test:80")], NOW)
        assert [int(lease.record) for lease in (await frontier.lease(9, NOW)).leases] == [1, 3]
        assert [int(lease.record) for lease in (await frontier.lease(9, NOW + 1)).leases] == [2]


async def test_what_happened_to_one_of_a_group_holds_for_all_of_it() -> None:
    async with in_memory(group=lambda host: "all") as frontier:
        frontier.add([entry(1, "a.test:80"), entry(2, "b.test:80")], NOW)
        frontier.observe("a.test:80", Answer(429, retry_after=100.0), NOW)
        assert frontier.controller("b.test:80").is_paused(NOW + 99)
        assert (await frontier.lease(9, NOW + 99)).next_due == NOW + 100


def on_disk(folder: Path, *, by_address: bool) -> LocalFrontier:
    return LocalFrontier(DiskStore(folder), rule=lambda host: RULE, rng=Random(1), by_address=by_address)


@pytest.mark.parametrize("still", [True, False])
async def test_the_group_of_an_address_survives_a_restart_while_it_is_wanted(tmp_path: Path, still: bool) -> None:
    async with on_disk(tmp_path, by_address=True) as frontier:
        frontier.resume(NOW)
        frontier.add([entry(1, "a.test:80"), entry(2, "b.test:80")], NOW)
        for host in ("a.test:80", "b.test:80"):
            frontier.regroup(host, "10.0.0.1")
        frontier.observe("a.test:80", Answer(429, retry_after=100.0), NOW)
        await frontier.commit({}, NOW)
    async with on_disk(tmp_path, by_address=still) as frontier:
        frontier.resume(NOW + 1)
        assert frontier.controller("b.test:80").is_paused(NOW + 2) is still


# -- over a restart --------------------------------------------------------------------------------------------------


async def test_how_a_host_is_treated_survives_with_its_reasons(tmp_path: Path) -> None:
    async with on_disk(tmp_path, by_address=False) as frontier:
        frontier.resume(NOW)
        frontier.add([entry(1)], NOW)
        frontier.host("a.test:80", crawl_delay=7.0)
        for _ in range(20):
            frontier.observe("a.test:80", Answer(503), NOW)
        before = frontier.controller("a.test:80").state()
        await frontier.commit({}, NOW)
    async with on_disk(tmp_path, by_address=False) as frontier:
        frontier.resume(NOW + 1)
        state = frontier.controller("a.test:80").state()
    assert state._replace(next_start=0.0) == before._replace(next_start=0.0)
    assert (state.pause, state.failures, state.crawl_delay) == (Pause.CIRCUIT, 20, 7.0)


@pytest.mark.hostile("R-26")
async def test_hosts_with_nothing_to_do_are_forgotten_when_their_turn_is_free() -> None:
    async with in_memory() as frontier:
        frontier.add([entry(number, f"h{number}.test:80") for number in range(50)], NOW)
        for lease in (await frontier.lease(50, NOW)).leases:
            frontier.complete([Outcome(lease, Verdict.DONE)], NOW)
            frontier.leave(lease.host, NOW)
        await frontier.commit({}, NOW + 0.5)
        assert len(frontier._turns.hosts) == 50, "a delay is not forgotten"
        await frontier.commit({}, NOW + 1)
        assert not frontier._turns.hosts
        assert not frontier._turns._controllers
