"""What a commit says to the engine: where its entries go, and what is left to be done once it is on record."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.contracts import Verdict
from crawler.frontier.redis.crawl import milliseconds
from crawler.frontier.redis.keys import group_of, signed
from crawler.frontier.redis.payload import Waiting, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from crawler.contracts import Entry
    from crawler.frontier.broker import WorkerEpoch
    from crawler.frontier.redis.connection import Call
    from crawler.frontier.redis.crawl import Crawl, Session

__all__ = ["Redo", "additions", "decode", "redo_of", "values"]

_ENTRIES = 500
"""In one call: some 5 ms, in which the engine answers nobody else."""
_Groups = dict[tuple[str, int], list[list[Any]]]


class Redo(msgspec.Struct, array_like=True, frozen=True):
    """What a commit on record still changes, as arguments of the scripts that do it, each of them once."""

    number: int
    shards: dict[int, list[Any]]
    """For `end.lua` and `reap.lua`."""
    control: list[Any]
    """For `applied.lua`."""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Redo)


def encode(redo: Redo) -> bytes:
    return _ENCODER.encode(redo)


def decode(record: bytes) -> Redo | None:
    return _DECODER.decode(record) if record else None


def values(values: Mapping[str, bytes | None]) -> list[Any]:
    """How many, then name, whether there is one, and value."""
    rows: list[Any] = [len(values)]
    for name, value in values.items():
        rows += [name, 0 if value is None else 1, value or b""]
    return rows


def additions(crawl: Crawl, session: Session, epoch: WorkerEpoch) -> Iterator[Call]:
    """What can be there before the commit takes effect."""
    group = group_of(crawl.config.group_by)
    named: dict[int, list[Any]] = {}
    for name in epoch.named:
        key = group(name)
        named.setdefault(crawl.config.shard_of(key), []).append((key, name))
    slowed: dict[int, list[Any]] = {}
    for host in epoch.slowed:
        row = (host.key, host.quota, host.shared_places, host.state)
        slowed.setdefault(crawl.config.shard_of(host.key), []).append(row)
    for shard, rows in slowed.items():
        yield crawl.on_shard("state", shard, session.id, *_counted(rows))
    of_hosts: dict[int, list[Any]] = {}
    for key, kept in epoch.of_hosts.items():
        rows = of_hosts.setdefault(crawl.config.shard_of(key), [])
        rows += [(key, name, 0 if value is None else 1, value or b"") for name, value in kept.items()]
    entries = _grouped(crawl, (entry for entry in epoch.entries if entry.filtered), _no_number)
    for shard in sorted({*named, *of_hosts, *entries}):
        head = [*_counted(named.get(shard, ())), *_counted(of_hosts.get(shard, ()))]
        for groups in _batches(entries.get(shard, {})):
            yield crawl.on_shard("add", shard, session.id, *head, *groups)
            head = [0, 0]


def redo_of(crawl: Crawl, session: Session, epoch: WorkerEpoch) -> Redo:
    def number(at: int) -> int:
        """The same, whenever this commit is said."""
        name = f"{session.id} {epoch.number} {at}"
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())

    ends: dict[int, list[Any]] = {}
    for end in epoch.ends:
        shard, id, _ = end.task.split(".")
        text = end.record if end.verdict is Verdict.RETRY else end.end if end.verdict is Verdict.DEAD else b""
        ends.setdefault(int(shard), []).append((id, end.verdict.value, milliseconds(end.wait), text))
    entries = _grouped(crawl, (entry for entry in epoch.entries if not entry.filtered), number)
    shards = {shard: [*_counted(ends.get(shard, ())), *_flat(entries.get(shard, {}))] for shard in {*ends, *entries}}
    return Redo(epoch.number, shards, [epoch.pages, *values(epoch.shared)])


def _no_number(at: int) -> int:
    return 0


def _counted(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [len(rows), *(value for row in rows for value in row)]


def _grouped(crawl: Crawl, entries: Iterator[Entry], number: Any) -> dict[int, _Groups]:
    """By shard, then by host and priority: bucket, fingerprint, wait and request of each."""
    config = crawl.config
    group = group_of(config.group_by)
    now = crawl.now()
    shards: dict[int, _Groups] = {}
    places: dict[str, tuple[str, _Groups]] = {}
    for at, entry in enumerate(entries):
        place = places.get(entry.host)
        if place is None:
            key = group(entry.host)
            place = places[entry.host] = key, shards.setdefault(config.shard_of(key), {})
        key, groups = place
        fingerprint = entry.fingerprint
        payload = pack(key, Waiting(entry.record, fingerprint, entry.depth, 0, entry.filtered, entry.host, number(at)))
        wait = max(0, milliseconds(entry.not_before - now)) if entry.not_before else 0
        row = [config.bucket_of(fingerprint), signed(fingerprint), wait, payload]
        groups.setdefault((key, entry.priority), []).append(row)
    return shards


def _flat(groups: _Groups) -> list[Any]:
    """Groups of at most `_ENTRIES`: Lua hands no more than some thousand values to one command."""
    flat: list[Any] = [0]
    for (key, priority), rows in groups.items():
        for first in range(0, len(rows), _ENTRIES):
            part = rows[first : first + _ENTRIES]
            flat[0] += 1
            flat += [key, priority, len(part), *(value for row in part for value in row)]
    return flat


def _batches(groups: _Groups) -> Iterator[list[Any]]:
    """At least one, of at most `_ENTRIES` entries each."""
    batch: _Groups = {}
    size = 0
    for group, rows in groups.items():
        for first in range(0, len(rows), _ENTRIES):
            part = rows[first : first + _ENTRIES]
            if size + len(part) > _ENTRIES:
                yield _flat(batch)
                batch, size = {}, 0
            batch[group] = part
            size += len(part)
    yield _flat(batch)
