"""A crawl that moves from one engine to another: from a job's folder to Redis or Valkey, back, or from one to the next.

What goes along: every request that waits, with its attempts and its time; all that is known; hosts with what they have
said; robots.txt; cookies; whether `start()` ended; the key of the fingerprints. What does not: outputs and statistics,
which stay what they are where they are. A folder keeps the fates of its pages (`crawler explain`), Redis does not, so
they are not there after the way back.

The crawl that is left stays as it was; on Redis it is stopped, so that no worker goes on with it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from crawler import url as urls
from crawler.contracts import Entry
from crawler.errors import JobError, UsageError
from crawler.frontier.broker import Control
from crawler.frontier.disk import DiskStore
from crawler.frontier.layout import NUMBER_AT
from crawler.frontier.loans import quota
from crawler.frontier.local import ELSEWHERE, LocalFrontier
from crawler.frontier.reader import FrontierReader
from crawler.lock import JobLock
from crawler.politeness import HostRule, HostState
from crawler.workers import REDIS, without_extra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from crawler.frontier.redis.keys import Config
    from crawler.frontier.redis.transfer import Row
    from crawler.settings import Settings

__all__ = ["Moved", "migrate"]

_AT_ONCE = 2000
"""Rows of one transaction."""
_SEEN_AT_ONCE = 50_000
_STATE = struct.Struct(">HH")
"""Before a host's state on Redis: how many of its requests are lent at once, and its places over all workers."""


class Moved(NamedTuple):
    crawl: str
    waiting: int
    known: int


def migrate(source: str, target: str, settings: Settings) -> Moved:
    """From and to a job's folder or the URL of an engine. `settings` are those that the crawl goes on with.

    Raises `UsageError` for two folders, `JobError` where there is no crawl, one that somebody works on, or one where it
    is to go, `EngineUnavailable`.
    """
    from_engine, to_engine = source.startswith(REDIS), target.startswith(REDIS)
    if not (from_engine or to_engine):
        raise UsageError(f"{source} and {target} are two folders: copy the folder, it is all there is of a job")
    with without_extra():
        from crawler.frontier.redis import operate as engine
        from crawler.frontier.redis import transfer
    here = msgspec.structs.replace(settings.frontier, url=source if from_engine else target)
    there = msgspec.structs.replace(settings.frontier, url=target)
    name = settings.frontier.crawl
    if not from_engine:
        with JobLock(Path(source)), FrontierReader(Path(source) / "frontier") as reader:
            counts = _Counts()
            spider = reader.values.spider
            rows = _rows_of(reader, settings, name or spider, counts)
            waiting = asyncio.run(transfer.import_(there, rows, crawl=name or spider))
            return Moved(name or spider, waiting, counts.known)
    if not name:
        raise UsageError("which crawl of the engine? Give -s frontier.crawl=NAME")

    async def move() -> Moved:
        rows = transfer.export(here, crawl=name)
        if to_engine:
            moved = Moved(name, await transfer.import_(there, rows), 0)
        else:
            moved = await _into_folder(Path(target), rows, settings)
        await engine.control(here, crawl=name, to=Control.STOPPED, reason=f"it has moved to {_shown(target)}")
        return moved

    return asyncio.run(move())


def _shown(target: str) -> str:
    return urls.redact(target) if target.startswith(REDIS) else target


class _Counts:
    known = 0


# -- from a folder -----------------------------------------------------------------------------------------------------


async def _rows_of(reader: FrontierReader, settings: Settings, crawl: str, counts: _Counts) -> AsyncIterator[Row]:
    from crawler.frontier.redis.keys import Config, group_of

    values, limit = reader.values, settings.crawl.page_limit
    config = Config.new(
        settings.frontier, spider=values.spider, order=settings.crawl.order, group_by=settings.politeness.group_by
    )
    config = msgspec.structs.replace(config, key=values.key)
    group = group_of(config.group_by)
    left = max(0, limit - int(values.stats.get("pages", 0)))
    described = msgspec.to_builtins(config, builtin_types=(bytes,))
    for kind, key, row in (
        ("crawl", crawl, [described, limit, left, Control.RUNNING.value, ""]),
        *_values_of(reader, group),
        *_states_of(reader, config),
    ):
        yield _row(kind, key, row)
    for kind, key, row in _seen_of(reader, config, group, counts):
        yield _row(kind, key, row)
    queued: dict[int, int] = defaultdict(int)
    for kind, key, row in _waiting_of(reader, group):
        queued[config.shard_of(key)] += row[0] == "queued"
        yield _row(kind, key, row)
    for shard, count in queued.items():
        yield _row("counters", str(shard), [{"queued": count, "added": count}])


def _row(kind: str, key: str, values: list[Any]) -> Row:
    from crawler.frontier.redis.transfer import Row

    return Row(kind, key, values)


def _values_of(reader: FrontierReader, group: Any) -> Iterator[tuple[str, str, list[Any]]]:
    named: dict[str, list[bytes]] = defaultdict(list)
    for host in msgspec.json.decode(reader.values.get("named") or b"[]", type=list[str]):
        named[group(host)].append(host.encode())
    for key, hosts in named.items():
        yield "named", key, [hosts]
    robots: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    for key, value in reader.kept("robots/"):
        robots[group(urls.host_key(key.removeprefix("robots/") + "/"))][key.encode()] = value
    for key, of_host in robots.items():
        yield "values", key, [of_host]
    shared = {key.encode(): value for key, value in reader.kept("cookie/")}
    if (started := reader.values.get("started")) is not None:
        shared[b"started"] = started
    if shared:
        yield "shared", "", [shared]


def _states_of(reader: FrontierReader, config: Config) -> Iterator[tuple[str, str, list[Any]]]:
    for host, state in reader.states():
        if state.group:
            continue
        delay = state.usual if state.delay is None else state.delay
        content = _STATE.pack(quota(delay), 0) + msgspec.msgpack.encode(state)
        yield "hash", str(config.shard_of(host)), ["st", {host.encode(): content}]
        yield "turn", host, [int(max(state.next_start, state.blocked_until) * 1000)]


def _seen_of(
    reader: FrontierReader, config: Config, group: Any, counts: _Counts
) -> Iterator[tuple[str, str, list[Any]]]:
    from crawler.frontier.redis.keys import signed

    sets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (host, fingerprint) in enumerate(reader.seen(), 1):
        counts.known = number
        sets[config.shard_of(group(host)), config.bucket_of(fingerprint)].append(signed(fingerprint))
        if number % _SEEN_AT_ONCE == 0:
            yield from (("seen", str(shard), [bucket, known]) for (shard, bucket), known in sets.items())
            sets.clear()
    yield from (("seen", str(shard), [bucket, known]) for (shard, bucket), known in sets.items())


def _waiting_of(reader: FrontierReader, group: Any) -> Iterator[tuple[str, str, list[Any]]]:
    for number, due, order, row in reader.rows():
        told = reader.placed(number, order)
        key = group(told.host)
        where = "later" if due else "queued"
        own = 0 if row.filtered else int.from_bytes(order[NUMBER_AT:])
        host = "" if told.host == key else told.host
        fields = [row.record, row.fingerprint, told.depth, row.attempt, row.filtered, host, own]
        yield "waiting", key, [where, told.priority, int(due * 1000), *fields]


# -- into a folder -----------------------------------------------------------------------------------------------------


async def _into_folder(job: Path, rows: AsyncIterator[Row], settings: Settings) -> Moved:
    with JobLock(job) as lock:
        if (job / "frontier").exists():
            raise JobError(f"{job} has a frontier already: give another folder, or remove it (crawler jobs rm)")
        lock.sign()
        store = DiskStore(job / "frontier")
        frontier = LocalFrontier(store, rule=lambda host: HostRule(), order=settings.crawl.order, rng=Random())
        async with frontier:
            arriving = _Arriving(frontier, store)
            async for row in rows:
                arriving.take(row)
                if arriving.rows % _AT_ONCE == 0:
                    await frontier.commit({}, arriving.now)
            await frontier.commit(arriving.values, arriving.now)
            await frontier.sync(_nothing)
        return Moved(arriving.crawl, arriving.waiting, arriving.known)


async def _nothing() -> None:
    pass


class _Arriving:
    """Rows on their way into a job's frontier. Nothing continues it before the last of them: it has no key."""

    def __init__(self, frontier: LocalFrontier, store: DiskStore) -> None:
        self.crawl = ""
        self.rows = self.waiting = self.known = 0
        self.now = time.time()
        self.values: dict[str, bytes | None] = {"state": b"interrupted"}
        self._named: set[str] = set()
        self._frontier = frontier
        self._store = store

    def take(self, row: Row) -> None:
        self.rows += 1
        kind, values = row.kind, row.values
        if kind == "crawl":
            self.crawl = row.key
            self.values["spider"], self.values["key"] = values[0]["spider"].encode(), values[0]["key"]
        elif kind == "waiting":
            self._wait(row.key, *values)
        elif kind == "seen":
            self._know(values[1])
        elif kind in {"values", "shared"}:
            self.values.update((_text(name), value) for name, value in values[0].items())
        elif kind == "named":
            self._named.update(map(_text, values[0]))
            self.values["named"] = msgspec.json.encode(sorted(self._named))
        elif kind == "hash" and values[0] == "st":
            for host, state in values[1].items():
                found = msgspec.msgpack.decode(state[_STATE.size :], type=HostState)
                self._store.save_host_state(_text(host), found)

    def _wait(self, key: str, where: str, priority: int, due: int, *fields: Any) -> None:
        record, fingerprint, depth, attempt, filtered, host, _ = fields
        not_before = due / 1000 if where == "later" else 0.0
        entry = Entry(host or key, fingerprint, record, priority, depth, not_before, filtered)
        self._frontier.take_over(entry, attempt, self.now)
        self.waiting += 1

    def _know(self, fingerprints: list[int]) -> None:
        from crawler.frontier.redis.keys import unsigned

        for number in fingerprints:
            self.known += self._frontier.remember(ELSEWHERE, unsigned(number))


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
