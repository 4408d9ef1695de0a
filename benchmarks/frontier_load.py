"""What `frontier.py` does to a frontier on disk, and measures, each in a process of its own: fill it, open it, crawl.

The frontier is driven as the engine drives it (crawler/engine.py, crawler/collector.py), with a clock of its own that
moves a millisecond a page. URLs are known by their number: host, fingerprint and record follow from it, so what was
added can be named again later without being kept. Only calls to the frontier are timed.
"""

from __future__ import annotations

import asyncio
import os
import re
import struct
import time
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import lmdb
import msgspec

from crawler.contracts import Entry, Lease, Outcome, Verdict
from crawler.epochs import EPOCH_ENTRIES, EPOCH_PAGES, SYNC_SECONDS
from crawler.fate import Fate
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.politeness import HostRule
from crawler.request import Request, RequestCodec

__all__ = ["Wrong", "crawl", "disk_bytes", "fill", "forget_cached", "live_bytes", "opening"]

LINKS = 60
"""On a page, the size of a batch."""
NEW_LINKS = 6
WARM_UP = 200
"""Pages before those that count: a process is slower at first, and a short measurement would be mostly that."""
_START = 1_700_000_000.0
_PAGE_SECONDS = 0.001
_YARDSTICK_EVERY = 20
_OWN_HOST = 0.85
"""The share of a page's links that stay on its host."""
_ON_EVERY_PAGE = 27
"""Links of a page that all pages of its host have: the navigation."""
_SECTIONS = ("catalogue", "articles", "products", "blog", "archive", "users", "questions", "news", "wiki", "tags")
_TOPICS = ("harbour", "garden", "lantern", "orchard", "granite", "meadow", "compass", "violet", "timber", "saffron")


class Wrong(Exception):
    """The frontier did not do what it promises."""


# -- the frontier under test ------------------------------------------------------------------------------------------


def open_frontier(folder: Path) -> LocalFrontier:
    """With the defaults of a crawl: two places and half a second a host."""
    rule = HostRule()
    return LocalFrontier(DiskStore(folder / "frontier"), rule=lambda host: rule, rng=Random(1))


def disk_bytes(folder: Path) -> int:
    """What the frontier takes on disk, holes in files left out."""
    return sum(file.stat().st_blocks * 512 for file in (folder / "frontier").rglob("*") if file.is_file())


def live_bytes(folder: Path) -> int:
    """What of it is in use: the rest are pages that older states need, or that a later epoch may use again."""
    with lmdb.open(str(folder / "frontier"), readonly=True, lock=False, max_dbs=64) as env:
        with env.begin() as transaction:
            names = list(transaction.cursor().iternext(keys=True, values=False))
        stats = [env.stat()]
        for name in names:
            database = env.open_db(name, create=False)
            with env.begin() as transaction:
                stats.append(transaction.stat(database))
    pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
    return int(pages * stats[0]["psize"])


def forget_cached(folder: Path) -> None:
    """Have the operating system drop the frontier's files from its cache, as after a reboot."""
    for file in (folder / "frontier").rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDWR)
            try:
                os.fsync(descriptor)
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


# -- URLs by number ---------------------------------------------------------------------------------------------------


class Urls:
    """The URLs of a crawl over `hosts` hosts, of which some have far more pages than others: one in ten URLs is on the
    first of a thousand hosts, one in a thousand on the median one."""

    def __init__(self, hosts: int) -> None:
        self._names = [f"www.{_TOPICS[number % 10]}-{number}.example" for number in range(hosts)]
        self._keys = [f"{name}:443" for name in self._names]
        self._encode = msgspec.msgpack.Encoder().encode
        codec = RequestCodec()
        self._head = codec.encode(Request(self.url(0))).removesuffix(self._encode(self.url(0)))
        for number in range(200):
            request = Request(self.url(number))
            if codec.encode(request) != self.record(number) or request.url != self.url(number):
                raise Wrong(f"{self.url(number)} is not stored as this benchmark has it: {codec.encode(request)!r}")

    def entry(self, number: int, parent: tuple[str, int]) -> Entry:
        depth = 1 + number.bit_length() // 3
        return Entry(self.host(number), _mixed(number), self.record(number), depth=depth, parent=parent)

    def page_of(self, batch: int) -> tuple[str, int]:
        """(host, fingerprint) of the page that has the links LINKS * batch and following."""
        return self.page_host(batch), _mixed(~batch & 0xFFFFFFFFFFFFFFFF)

    def link(self, number: int) -> tuple[str, int]:
        """(host, fingerprint)"""
        return self.host(number), _mixed(number)

    def host(self, number: int) -> str:
        return self._keys[self._host_of(number)]

    def page_host(self, batch: int) -> str:
        return self._keys[self._page_host(batch)]

    def record(self, number: int) -> bytes:
        """What `RequestCodec` makes of a plain GET, without what making the `Request` costs."""
        return self._head + self._encode(self.url(number))

    def url(self, number: int) -> str:
        """60 to 90 characters."""
        bits = _mixed(number ^ 0xC0FFEE)
        words = f"{_TOPICS[bits % 10]}-{_TOPICS[bits // 10 % 10]}"
        if bits & 1 << 40:
            words += f"-{_TOPICS[bits // 100 % 10]}"
        return f"https://{self._names[self._host_of(number)]}/{_SECTIONS[bits // 1000 % 10]}/{words}-{number:08x}.html"

    def _host_of(self, number: int) -> int:
        bits = _mixed(number ^ 0xFACADE)
        if (bits & 0xFFFF) < _OWN_HOST * 0x10000:
            return self._page_host(number // LINKS)
        return self._drawn(bits)

    def _page_host(self, batch: int) -> int:
        return self._drawn(_mixed(batch ^ 0x5BD1E995))

    def _drawn(self, bits: int) -> int:
        return int(len(self._names) * (bits / 2**64) ** 3)


def _mixed(number: int) -> int:
    """Splitmix64: one to one on 64 bits, so no two fingerprints are equal."""
    number = (number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return number ^ number >> 31


# -- meters -----------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    anonymous_mib: float
    file_mib: float
    """Pages of files that are mapped, and that the system takes back when it needs them."""


def memory() -> Memory:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = {name: int(kib) / 1024 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", status)}
    return Memory(fields["RssAnon"], fields["RssFile"])


class Growth:
    """Of anonymous memory since it was made; the most that `sample` saw."""

    def __init__(self) -> None:
        self._before = memory()
        self._peak = self._before.anonymous_mib

    def sample(self) -> None:
        self._peak = max(self._peak, memory().anonymous_mib)

    def read(self) -> dict[str, float]:
        self.sample()
        now = memory()
        return {
            "anonymous_mib": now.anonymous_mib - self._before.anonymous_mib,
            "anonymous_peak_mib": self._peak - self._before.anonymous_mib,
            "file_mib": now.file_mib,
        }


class Yardstick:
    """The same bit of work every now and then: how fast the machine is meanwhile. Shared machines change that by a
    factor, and what is compared here is minutes apart."""

    def __init__(self) -> None:
        self._cpu = 0.0
        self._times = 0
        self._pack = struct.Struct(">IQ").pack

    def lay(self) -> None:
        began = time.process_time()
        work: dict[int, bytes] = {}
        for number in range(300):
            work[number & 63] = self._pack(number, number << 20) + b"-"
        self._cpu += time.process_time() - began
        self._times += 1

    @property
    def cpu_us(self) -> float:
        return self._cpu * 1e6 / max(self._times, 1)


class Epochs:
    """Commits and syncs as the engine makes them, and what they take."""

    def __init__(self, frontier: LocalFrontier, growth: Growth, epoch_pages: int = EPOCH_PAGES) -> None:
        self._frontier = frontier
        self._growth = growth
        self._epoch_pages = epoch_pages
        self._pages = self._entries = 0
        self._synced = time.monotonic()
        self._sync: asyncio.Task[None] | None = None
        self.yardstick = Yardstick()
        self.cpu = 0.0
        self.wall_ms: list[float] = []

    async def page(self, entries: int, now: float) -> None:
        """One page more in the open epoch, which is closed if that is enough."""
        self._pages += 1
        self._entries += entries
        if self._pages % _YARDSTICK_EVERY == 0:
            self.yardstick.lay()
        if self._pages >= self._epoch_pages or self._entries >= EPOCH_ENTRIES:
            await self.commit(now)

    async def commit(self, now: float) -> None:
        self._pages = self._entries = 0
        values: dict[str, bytes | None] = {"stats": b"s" * 400, "positions": b"p" * 60, "state": b"running"}
        self._growth.sample()  # the open transaction is at its largest
        cpu, wall = time.process_time(), time.perf_counter()
        await self._frontier.commit(values, now)
        self.wall_ms.append((time.perf_counter() - wall) * 1000)
        is_due = self._frontier.is_behind or time.monotonic() - self._synced >= SYNC_SECONDS
        if is_due and (self._sync is None or self._sync.done()):
            self._synced = time.monotonic()
            self._sync = asyncio.create_task(self._frontier.sync(_nothing))
            await asyncio.sleep(0)  # it is under way, in a thread
        if self._frontier.is_behind and self._sync is not None:
            await self._sync
        self.cpu += time.process_time() - cpu

    async def end(self, now: float) -> None:
        await self.commit(now)
        if self._sync is not None:
            await self._sync


async def _nothing() -> None:
    """There are no outputs to sync first."""


# -- what is measured -------------------------------------------------------------------------------------------------


async def fill(folder: Path, size: int, hosts: int) -> dict[str, Any]:
    """That many URLs, batch by batch as pages bring them."""
    urls = Urls(hosts)
    growth = Growth()
    cpu = 0.0
    async with open_frontier(folder) as frontier:
        frontier.resume(_START)
        epochs = Epochs(frontier, growth)
        now = _START
        for batch, first in enumerate(range(0, size, LINKS)):
            page = urls.page_of(batch)
            entries = [urls.entry(number, page) for number in range(first, min(first + LINKS, size))]
            now += _PAGE_SECONDS
            began = time.process_time()
            added = frontier.add(entries, now)
            cpu += time.process_time() - began
            if added != len(entries):
                raise Wrong(f"{len(entries) - added} of {len(entries)} new URLs were taken for known ones")
            await epochs.page(added, now)
        await epochs.end(now)
        if frontier.counts().queued != size:
            raise Wrong(f"{frontier.counts().queued} are queued instead of {size}")
        grown = growth.read()
    return {"cpu_us_per_url": (cpu + epochs.cpu) * 1e6 / size, "yardstick_us": epochs.yardstick.cpu_us, **grown}


async def opening(folder: Path, size: int, cold: bool) -> dict[str, Any]:
    """Until the first lease."""
    if cold:
        forget_cached(folder)
    began = time.perf_counter()
    async with open_frontier(folder) as frontier:
        frontier.resume(_START)
        leased = await frontier.lease(1, _START + 3600)
        seconds = time.perf_counter() - began
        if not leased.leases or frontier.counts().queued != size - 1:
            raise Wrong(f"{len(leased.leases)} leased and {frontier.counts().queued} queued after opening {size}")
    return {"seconds": seconds}


async def crawl(folder: Path, size: int, hosts: int, *, pages: int, epoch_pages: int, drained: int) -> dict[str, Any]:
    """That many pages in a frontier of that size, then `drained` leases that bring nothing new."""
    web = _Web(hosts, size)
    growth = Growth()
    async with open_frontier(folder) as frontier:
        frontier.resume(_START)
        warm_up = await _Walk.through(WARM_UP, frontier, web, Epochs(frontier, growth, epoch_pages), _START + 3600)
        walk = await _Walk.through(pages, frontier, web, Epochs(frontier, growth, epoch_pages), warm_up.now)
        found = {"cpu_us_per_page": walk.cpu_us, "lease_ms": walk.lease_ms, "commit_ms": walk.commit_ms}
        found |= {"yardstick_us": walk.yardstick_us, **growth.read()}
        queued = frontier.counts().queued
        expected = size + (WARM_UP + pages) * (NEW_LINKS - 1)
        if queued != expected:
            raise Wrong(f"{queued} are queued after {WARM_UP + pages} pages instead of {expected}")
        drained = min(drained, queued)
        drain = await _Walk.through(drained, frontier, None, Epochs(frontier, growth, epoch_pages), walk.now)
        if len(warm_up.records | walk.records | drain.records) != WARM_UP + pages + drained:
            raise Wrong("a request was leased twice")
    if drained:
        found["drain"] = {"leases": drained, "cpu_us": drain.cpu_us, "lease_ms": drain.lease_ms}
    return found


class _Web:
    """What pages link to: what a frontier of `size` knows, and what comes after."""

    def __init__(self, hosts: int, size: int) -> None:
        self._urls = Urls(hosts)
        self._next = size
        self._rng = Random(size)
        self._batches: dict[str, list[int]] = {}
        for batch in range(size // LINKS):
            self._batches.setdefault(self._urls.page_host(batch), []).append(batch)

    def known(self, host: str) -> list[tuple[str, int]]:
        """Links of a page that the crawl has had: half the navigation of the host, half from anywhere on it, long past
        pages included, which no cache of recent ones helps with."""
        batches = self._batches.get(host) or [0]
        draw = self._rng.random
        links = [LINKS * batches[0] + link for link in range(_ON_EVERY_PAGE)]
        links += [
            LINKS * batches[int(draw() * len(batches))] + int(draw() * LINKS)
            for _ in range(LINKS - NEW_LINKS - _ON_EVERY_PAGE)
        ]
        return [self._urls.link(link) for link in links]

    def new(self, page: tuple[str, int]) -> list[Entry]:
        self._next += NEW_LINKS
        return [self._urls.entry(number, page) for number in range(self._next - NEW_LINKS, self._next)]


class _Walk:
    """Page after page. Without a web, pages have no links."""

    def __init__(self, frontier: LocalFrontier, web: _Web | None, epochs: Epochs, now: float) -> None:
        self.now = now
        self.lease_ms: list[float] = []
        self.records: set[bytes] = set()
        self._cpu = 0.0
        self._epochs = epochs
        self._frontier = frontier
        self._web = web

    @classmethod
    async def through(cls, pages: int, frontier: LocalFrontier, web: _Web | None, epochs: Epochs, now: float) -> _Walk:
        walk = cls(frontier, web, epochs, now)
        for _ in range(pages):
            await walk._page()
        await epochs.end(walk.now)
        return walk

    @property
    def cpu_us(self) -> float:
        """Of a page."""
        return (self._cpu + self._epochs.cpu) * 1e6 / max(len(self.records), 1)

    @property
    def yardstick_us(self) -> float:
        return self._epochs.yardstick.cpu_us

    @property
    def commit_ms(self) -> list[float]:
        return self._epochs.wall_ms

    async def _page(self) -> None:
        """Leased, its links looked up, the new ones added, and done."""
        frontier = self._frontier
        lease = await self._lease()
        known: list[tuple[str, int]] = []
        fresh: list[Entry] = []
        if self._web is not None:
            known, fresh = self._web.known(lease.host), self._web.new((lease.host, lease.fingerprint))
        end = Fate("https://" + "u" * 60, "done", self.now, lease.depth, 1, 200).encode()
        began = time.process_time()
        frontier.sent(lease.host, self.now)
        frontier.leave(lease.host, self.now)
        frontier.at_work(lease)
        missed = sum(not frontier.seen(host, fingerprint) for host, fingerprint in known)
        new = [entry for entry in fresh if not frontier.seen(entry.host, entry.fingerprint)]
        frontier.at_work(None)
        frontier.add(new, self.now)
        frontier.complete([Outcome(lease, Verdict.DONE, end=end)], self.now)
        self._cpu += time.process_time() - began
        if missed or len(new) < len(fresh):
            raise Wrong(f"{missed} known URLs were forgotten, {len(fresh) - len(new)} new ones taken for known")
        self.records.add(lease.record)
        await self._epochs.page(len(new), self.now)

    async def _lease(self) -> Lease:
        self.now += _PAGE_SECONDS
        while True:
            cpu, wall = time.process_time(), time.perf_counter()
            leased = await self._frontier.lease(1, self.now)
            self.lease_ms.append((time.perf_counter() - wall) * 1000)
            self._cpu += time.process_time() - cpu
            if leased.leases:
                return leased.leases[0]
            if leased.next_due is None:
                raise Wrong("nothing can be leased, although much is queued")
            self.now = max(self.now, leased.next_due)
