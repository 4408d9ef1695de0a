"""A shared crawl as a stream of rows, and back: to another engine, or to a file."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import JobError
from crawler.frontier.broker import Control
from crawler.frontier.redis.connection import Call, command
from crawler.frontier.redis.crawl import Crawl, pairs, worker_of
from crawler.frontier.redis.keys import Config, Keys
from crawler.frontier.redis.operate import connected, flat, opened
from crawler.frontier.redis.payload import Waiting, pack, unpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from crawler.settings.frontier import FrontierSettings

__all__ = ["Row", "export", "import_"]

_AT_ONCE = 500
_QUEUED, _LATER, _HEAD = "queued", "later", "head"
_HASHES = ("reached", "lapses", "st")
"""Of a shard, that go over as they are."""


class Row(msgspec.Struct, array_like=True, frozen=True):
    """`kind` says what `values` are, `key` whose: a host's, a worker's, or a shard's, by its number.

    crawl     the name; configuration, page limit, pages left, control, reason
    waiting   a host; where (queued, later, head), priority, time in ms, record, fingerprint, depth, attempt, filtered,
              host, number
    turn      a host; time of its next turn in ms
    seen      a shard; bucket, fingerprints
    values    a host; names and values          named    a host; hosts of its group
    hash      a shard; which, names and values  counters a shard; names and numbers
    raw       a shard; `met` or `dead`, what it holds
    shared    names and values                  own      a worker; names and values
    """

    kind: str
    key: str
    values: list[Any]


# -- out ---------------------------------------------------------------------------------------------------------------


async def export(settings: FrontierSettings, *, crawl: str) -> AsyncIterator[Row]:
    """Everything. What somebody has under way counts as waiting. Raises `JobError` while the crawl runs: what moves
    would be missed."""
    async with opened(settings, crawl=crawl) as found:
        prefix = found.keys.control
        state, sessions, limit, left = await found.engine.all(
            [
                command("HMGET", f"{prefix}state", "control", "reason"),
                command("ZRANGE", f"{prefix}sessions", 0, -1, "WITHSCORES"),
                command("GET", f"{prefix}limit"),
                command("GET", f"{prefix}allowance"),
            ]
        )
        now = await found.engine.now() * 1000
        alive = [worker_of(id.decode()) for id, ends in pairs(flat(sessions)).items() if float(ends) > now]
        if alive and state[0].decode() == Control.RUNNING:
            raise JobError(f"crawl {crawl!r} is running: pause it, or stop its workers ({', '.join(alive)}), first")
        config = msgspec.to_builtins(found.config, builtin_types=(bytes,))
        yield Row("crawl", crawl, [config, int(limit), int(left), state[0].decode(), state[1].decode()])
        begun: list[bytes] = []
        async for names in found.engine.keys(found.keys.everything):
            for name in names:
                slot, kind, key = _parts(name)
                if kind == "i":
                    begun.append(name)
                elif slot.isdecimal():
                    async for row in _of_shard(found, name, slot, kind, key):
                        yield row
                elif (slot, kind) == ("ctl", "shared"):
                    yield Row("shared", "", [pairs(flat(await found.engine.one(Call("HGETALL", name))))])
                elif kind == "own":
                    values = pairs(flat(await found.engine.one(Call("HGETALL", name))))
                    yield Row("own", slot.removeprefix("w:"), [values])
        for name in begun:  # at last, because it goes before what waits
            async for row in _under_way(found, name):
                yield row


def _parts(name: bytes) -> tuple[str, str, str]:
    """`{crawler:NAME:SLOT}:KIND:KEY`: slot, kind and key."""
    head, _, rest = name.decode().partition("}:")
    kind, _, key = rest.partition(":")
    return head.split(":", 2)[2], kind, key


async def _of_shard(crawl: Crawl, name: bytes, shard: str, kind: str, key: str) -> AsyncIterator[Row]:
    engine = crawl.engine
    if kind in {"q", "Q"}:
        async for row in _queue(crawl, name, *(key.split(":", 1) if kind == "Q" else ("0", key))):
            yield row
    elif kind == "later":
        for entry, due in pairs(flat(await engine.one(Call("ZRANGE", name, (0, -1, "WITHSCORES"))))).items():
            line, _, payload = entry.partition(b"\n")
            _, _, priority, host = line.decode().split(" ", 3)
            yield _waiting(_LATER, host, int(priority), int(float(due)), payload)
    elif kind == "ready":
        for known, turn in pairs(flat(await engine.one(Call("ZRANGE", name, (0, -1, "WITHSCORES"))))).items():
            yield Row("turn", known.decode(), [int(float(turn))])
    elif kind == "s":
        yield Row("seen", shard, [int(key), [int(number) for number in await engine.one(Call("SMEMBERS", name))]])
    elif kind in {"n", "v", "c", *_HASHES}:
        yield _of_hash(shard, kind, key, pairs(flat(await engine.one(Call("HGETALL", name)))))
    elif kind == "met":
        yield Row("raw", shard, [kind, await engine.one(Call("GET", name))])
    elif kind == "dead":
        yield Row("raw", shard, [kind, await engine.one(Call("LRANGE", name, (0, -1)))])


def _of_hash(shard: str, kind: str, key: str, values: dict[bytes, bytes]) -> Row:
    if kind == "n":
        return Row("named", key, [sorted(values)])
    if kind == "v":
        return Row("values", key, [values])
    if kind == "c":
        counters = {name.decode(): int(value) for name, value in values.items()}
        counters["queued"] = counters.get("queued", 0) + counters.pop("inflight", 0)
        return Row("counters", shard, [counters])
    return Row("hash", shard, [kind, values])


async def _queue(crawl: Crawl, name: bytes, priority: str, host: str) -> AsyncIterator[Row]:
    for first in itertools.count(0, _AT_ONCE):
        payloads = await crawl.engine.one(Call("LRANGE", name, (first, first + _AT_ONCE - 1)))
        for payload in payloads:
            yield _waiting(_QUEUED, host, int(priority), 0, payload)
        if len(payloads) < _AT_ONCE:
            return


async def _under_way(crawl: Crawl, name: bytes) -> AsyncIterator[Row]:
    tasks = pairs(flat(await crawl.engine.one(Call("HGETALL", name))))
    for _, entry in sorted(tasks.items(), key=lambda pair: -int(pair[0])):
        head, _, payload = entry.partition(b"\n")
        _, priority, host = head.decode().split(" ", 2)
        yield _waiting(_HEAD, host, int(priority), 0, payload)


def _waiting(where: str, host: str, priority: int, due: int, payload: bytes) -> Row:
    return Row("waiting", host, [where, priority, due, *unpack(host, payload)])


# -- in ----------------------------------------------------------------------------------------------------------------


async def import_(settings: FrontierSettings, rows: AsyncIterator[Row], *, crawl: str = "") -> int:
    """All of it, under this name or the one that it had; how many requests wait. Workers can join when it ends: what
    was interrupted is discarded, and begun again. Raises `JobError` where there is a crawl of that name."""
    first = await anext(rows, None)
    if first is None or first.kind != "crawl":
        raise JobError("what is to be imported is no exported crawl: it does not begin with its configuration")
    settings_of_it, limit, left, state, reason = first.values
    config = msgspec.convert(settings_of_it, Config, builtin_types=(bytes,))
    keys = Keys(crawl or first.key)
    async with connected(settings) as engine:
        found = Crawl(engine, keys, config, time.time)
        if await engine.one(command("EXISTS", f"{keys.control}config")):
            raise JobError(
                f"there is a crawl {keys.crawl!r} at {engine.name} already: discard it, or give another name"
            )
        now = int(await engine.now() * 1000)
        batch: list[Call] = []
        waiting = 0
        async for row in rows:
            batch += _calls(found, row, now)
            waiting += row.kind == "waiting"
            if len(batch) >= _AT_ONCE:
                await engine.all(batch)
                batch = []
        await engine.all(batch)
        await engine.all(
            [
                command("HSET", f"{keys.control}state", "control", state, "reason", reason),
                command("SET", f"{keys.control}limit", limit),
                command("SET", f"{keys.control}allowance", left),
            ]
        )
        await engine.one(command("SET", f"{keys.control}config", config.encode()))  # at last: it makes the crawl
    return waiting


def _calls(crawl: Crawl, row: Row, now: int) -> Iterator[Call]:
    kind, key, values = row.kind, row.key, row.values
    if kind in {"waiting", "turn", "named", "values"}:
        yield from _of_host(crawl, row, crawl.keys.shard(crawl.config.shard_of(key)), now)
    elif kind == "shared":
        yield from _hash(f"{crawl.keys.control}shared", values[0])
    elif kind == "own":
        yield command("SADD", f"{crawl.keys.control}workers", key)
        yield from _hash(f"{crawl.keys.worker(key)}own", values[0])
    else:
        prefix = crawl.keys.shard(int(key))
        if kind == "seen":
            yield command("SADD", f"{prefix}s:{values[0]}", *values[1])
        elif kind == "hash":
            yield from _hash(f"{prefix}{values[0]}", values[1])
        elif kind == "counters":
            yield from _hash(f"{prefix}c", values[0])
        elif values[0] == "met":
            yield command("SET", f"{prefix}met", values[1])
        else:
            yield command("RPUSH", f"{prefix}dead", *values[1])


def _of_host(crawl: Crawl, row: Row, prefix: str, now: int) -> Iterator[Call]:
    host, values = row.key, row.values
    if row.kind == "waiting":
        where, priority, due, *fields = values
        payload = pack(host, Waiting(*fields))
        if where == _LATER:
            entry = f"t m{fields[1]} {priority} {host}\n".encode() + payload
            yield command("ZADD", f"{prefix}later", due, entry)
            return
        is_first = where == _HEAD and crawl.config.order != "depth"
        queue = f"{prefix}Q:{priority}:{host}" if priority else f"{prefix}q:{host}"
        yield command("LPUSH" if is_first else "RPUSH", queue, payload)
        if priority:
            yield command("ZADD", f"{prefix}p:{host}", priority, priority)
        yield command("ZADD", f"{prefix}ready", "NX", now, host)
    elif row.kind == "turn":
        yield command("ZADD", f"{prefix}ready", "GT", values[0], host)
    elif row.kind == "named":
        yield from _hash(f"{prefix}n:{host}", dict.fromkeys(values[0], b""))
    else:
        yield from _hash(f"{prefix}v:{host}", values[0])


def _hash(key: str, values: dict[Any, Any]) -> Iterator[Call]:
    if values:
        yield command("HSET", key, *itertools.chain.from_iterable(values.items()))
