"""Where things are: a crawl's slots, a host's shard, a fingerprint's set, and which shards a worker looks at first."""

from __future__ import annotations

import hashlib
import secrets
import zlib
from typing import TYPE_CHECKING

import msgspec

from crawler.cookies.suffixes import registrable_domain
from crawler.errors import JobError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crawler.settings.frontier import FrontierSettings

__all__ = ["FORMAT", "Config", "Keys", "group_of", "preferred", "signed", "slot_of", "unsigned"]

FORMAT = 1
_PER_SET = 64
"""Fingerprints: so a set may grow to eight times that before it takes more room for each (`set-max-intset-entries`)."""
_SETTINGS = {
    "shards": "frontier.shards",
    "buckets": "frontier.expected_urls",
    "order": "crawl.order",
    "group_by": "politeness.group_by",
    "spider": "the spider",
}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed when a crawl is made."""

    format: int = FORMAT
    shards: int
    buckets: int
    """Sets of fingerprints in each shard."""
    order: str
    group_by: str
    spider: str
    key: bytes
    """Of the fingerprints, so that nobody outside can make two URLs with one."""

    @classmethod
    def new(cls, settings: FrontierSettings, *, spider: str, order: str, group_by: str) -> Config:
        buckets = -(-settings.expected_urls // (_PER_SET * settings.shards))
        return cls(
            shards=settings.shards,
            buckets=buckets,
            order=order,
            group_by=group_by,
            spider=spider,
            key=secrets.token_bytes(16),
        )

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def decode(kept: bytes, crawl: str) -> Config:
        """Raises `JobError` where another version wrote it, which may have said other things."""
        format = msgspec.json.decode(kept)["format"]
        if format != FORMAT:
            raise JobError(
                f"crawl {crawl!r} is kept in format {format}; this version reads format {FORMAT}: use the version that "
                "made it, or another name (frontier.crawl)"
            )
        return msgspec.json.decode(kept, type=Config)

    def check(self, crawl: str, mine: Config) -> None:
        """Raises `JobError` where a worker means another crawl than the one that is there."""
        differing = [
            f"{name} is {getattr(self, field)!r} there and {getattr(mine, field)!r} here"
            for field, name in _SETTINGS.items()
            if getattr(self, field) != getattr(mine, field)
        ]
        if differing:
            raise JobError(
                f"crawl {crawl!r} was made with other settings: {'; '.join(differing)}. They are fixed when a crawl is "
                "made: use the same, or another name (frontier.crawl)"
            )

    def shard_of(self, key: str) -> int:
        return zlib.crc32(key.encode()) % self.shards

    def bucket_of(self, fingerprint: int) -> int:
        return fingerprint % self.buckets


class Keys:
    """Prefixes of the keys of a crawl. What is in braces decides the slot."""

    def __init__(self, crawl: str) -> None:
        if not crawl or any(letter in "{}:" or letter.isspace() for letter in crawl):
            raise UsageError(
                f"{crawl!r} cannot be the name of a shared crawl (frontier.crawl): no braces, `:` or blanks"
            )
        self.crawl = crawl
        self.control = self._prefix("ctl")

    @property
    def everything(self) -> str:
        """A pattern that all keys of the crawl match, and no others."""
        name = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in self.crawl)
        return f"{{crawler:{name}:*"

    def _prefix(self, slot: str) -> str:
        return f"{{crawler:{self.crawl}:{slot}}}:"

    def shard(self, number: int) -> str:
        return self._prefix(f"{number}")

    def worker(self, name: str) -> str:
        return self._prefix(f"w:{name}")


def slot_of(key: str) -> str:
    """The prefix that it has in common with all keys of its slot."""
    return f"{key.partition('}:')[0]}}}:"


def group_of(group_by: str) -> Callable[[str], str]:
    """The key under which a host (`"name:port"`) is lent."""
    return _domain_of if group_by == "domain" else _itself


def _itself(host: str) -> str:
    return host


def _domain_of(host: str) -> str:
    name = host.rpartition(":")[0]
    return registrable_domain(name) or name


def signed(fingerprint: int) -> int:
    """As a set of integers takes it."""
    return fingerprint - (1 << 64) if fingerprint >> 63 else fingerprint


def unsigned(number: int) -> int:
    return number % (1 << 64)


def preferred(worker: str, workers: Iterable[str], shards: int) -> list[int]:
    """The shards that rendezvous hashing gives this worker, so that hosts tend to come back to whoever knows them. One
    for whom none is left has the two that it would be given first."""
    mine = _seed(worker)
    others = [_seed(other) for other in workers if other != worker]
    weights = [_mix(mine, shard) for shard in range(shards)]
    won = [shard for shard in range(shards) if all(_mix(other, shard) < weights[shard] for other in others)]
    return won or sorted(range(shards), key=weights.__getitem__)[-2:]


def _seed(worker: str) -> int:
    return int.from_bytes(hashlib.blake2b(worker.encode(), digest_size=8).digest())


def _mix(seed: int, shard: int) -> int:
    """SplitMix64's last steps: neighbouring shards fall apart."""
    mixed = (seed + (shard + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return mixed ^ mixed >> 31
