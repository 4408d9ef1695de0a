"""How much there is in the whole crawl, and whether that is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crawler.contracts import Counts
from crawler.frontier.redis.connection import command, run
from crawler.frontier.redis.crawl import pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crawler.frontier.redis.crawl import Crawl

__all__ = ["Levels", "is_quiet", "levels_of"]


class Levels(NamedTuple):
    counters: Mapping[str, int]
    """Sums over all shards, as the scripts count them."""
    later: int
    active_hosts: int
    due_hosts: int
    """Whose turn it is, and that nobody has."""
    hosts: int
    """Ever met; counted by HyperLogLog, within about 1 %."""

    def counts(self) -> Counts:
        of = self.counters.get
        return Counts(
            of("queued", 0) + self.later,
            of("inflight", 0),
            self.active_hosts,
            self.hosts,
            of("added", 0),
            of("known", 0),
            of("ended", 0),
        )


async def levels_of(crawl: Crawl) -> Levels:
    counters, later, active, due = await _scan(crawl)
    hosts = await crawl.everywhere(command("PFCOUNT", f"{crawl.keys.shard(shard)}met") for shard in crawl.shards)
    return Levels(counters, later, active, due, sum(hosts))


async def is_quiet(crawl: Crawl) -> bool:
    """Whether nothing waits and nothing is under way in any shard. They are not looked at in one moment, so twice: what
    moved from one to another in between was counted."""
    before, later, active, _ = await _scan(crawl)
    # Where something waits, its host has a turn or is on loan; the count may be spoilt by a log that was cut.
    if later or before.get("inflight", 0) > 0 or (active and before.get("queued")):
        return False
    after, later, *_ = await _scan(crawl)
    return before == after and not later


async def _scan(crawl: Crawl) -> tuple[dict[str, int], int, int, int]:
    """Counters, requests that wait for a time, hosts with a turn or on loan, those of them whose turn it is."""
    counters: dict[str, int] = {}
    later_in_all = active = due_in_all = 0
    now = int(crawl.now() * 1000)
    for counted, later, ready, held, due in await crawl.everywhere(
        run("levels", crawl.keys.shard(shard), now) for shard in crawl.shards
    ):
        for name, value in pairs(counted).items():
            counters[name.decode()] = counters.get(name.decode(), 0) + int(value)
        later_in_all += later
        active += ready + held
        due_in_all += due
    return counters, later_in_all, active, due_in_all
