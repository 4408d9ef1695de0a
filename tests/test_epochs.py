"""What is in an epoch: everything a page causes, how hosts are, the counters; and what a power failure may take."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import types
from typing import TYPE_CHECKING, Any

import forked
import msgspec
import pytest
from aiohttp import web

from crawler import Response, Spider, epochs
from crawler.api import _crawl as assemble
from crawler.contracts import Entry, Verdict
from crawler.epochs import EPOCH_SECONDS, SYNC_SECONDS, Epochs
from crawler.errors import EngineUnavailable, JobError
from crawler.export.spool import Spool
from crawler.fate import Fate
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.frontier.memory import MemoryStore
from crawler.jobs import open_frontier
from crawler.page import Page, Reached
from crawler.politeness import HostRule
from crawler.settings import Settings
from crawler.stats import Stats
from crawler.testing import FakeClock, LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

NOW = 1_000_000.0


# -- parts that tell what is done to them ------------------------------------------------------------------------------


class Told(list[str]):
    """What happened, in order. Who has a gate closed waits at it."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}

    async def reaches(self, word: str) -> None:
        self.append(word)
        if word in self.gates:
            await self.gates[word].wait()


class ToldStore(MemoryStore):
    def __init__(self, told: Told) -> None:
        super().__init__()
        self.told = told
        self.committed: list[dict[str, bytes | None]] = []
        self.behind = False

    @property
    def is_behind(self) -> bool:
        return self.behind

    async def commit(self, values: Any) -> None:
        await self.told.reaches("commit")
        self.committed.append(dict(values))
        await super().commit(values)

    async def sync(self, before: Callable[[], Awaitable[None]]) -> None:
        await before()
        await self.told.reaches("sync frontier")


class ToldExporter:
    def __init__(self, told: Told) -> None:
        self.told = told
        self.items = 0

    def append_spool(self, spool: Spool, limit: int) -> None:
        self.items += limit
        spool.close()

    async def flush(self) -> bytes:
        await self.told.reaches("flush")
        return b"%d" % self.items

    async def sync(self) -> None:
        await self.told.reaches("sync output")

    async def close(self) -> None:
        await self.told.reaches("close")


class ToldFetcher:
    def __init__(self, told: Told) -> None:
        self.told = told
        self.allowed: list[str] = []

    def allow_host(self, host: str) -> None:
        self.allowed.append(host)

    async def sync(self) -> None:
        await self.told.reaches("sync files")


class StillClock(FakeClock):
    """Time that only `pass_by` moves."""

    def __init__(self) -> None:
        super().__init__(NOW)
        self._moved = asyncio.Event()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        due = None if seconds is None else self.now() + seconds
        while not event.is_set() and (due is None or self.now() < due):
            waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._moved.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()

    async def pass_by(self, seconds: float) -> None:
        self.advance(seconds)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        await settled()


class House:
    """Epochs over parts that tell."""

    def __init__(
        self, durability: str = "process", *, outputs: int = 1, values: dict[str, bytes] | None = None
    ) -> None:
        self.told = Told()
        self.store = ToldStore(self.told)
        self.store._values.update(values or {})
        rule = HostRule(delay=0.0, jitter=0.0, concurrency=1000)
        self.frontier = LocalFrontier(self.store, rule=lambda host: rule)
        self.fetcher = ToldFetcher(self.told)
        self.stats = Stats("told", NOW)
        self.clock = StillClock()
        settings = msgspec.convert({"frontier": {"durability": durability}}, Settings)
        self.exporters = [ToldExporter(self.told) for _ in range(outputs)]
        context: Any = types.SimpleNamespace(
            frontier=self.frontier, fetcher=self.fetcher, stats=self.stats, clock=self.clock, settings=settings
        )
        keys = [f"out-{number}" for number in range(outputs)]
        self.epochs = Epochs(context, exporters=self.exporters, outputs=keys)  # type: ignore[arg-type]
        self.numbers = itertools.count(1)

    def page(self, *, items: int = 0, requests: int = 0) -> Page:
        page = Page(None, None)
        page.entries = [Entry("a.test:80", next(self.numbers), b"") for _ in range(requests)]
        page.spools = [spool_of(items) for _ in self.exporters]
        page.item_count = items
        return page

    async def epoch(self) -> None:
        """One page, and the end of its epoch."""
        self.epochs.apply(self.page(items=1))
        await self.epochs.turn()


def spool_of(items: int) -> Spool:
    spool = Spool(None)
    for number in range(items):
        spool.append(b"%d" % number)
    return spool


async def settled() -> None:
    """Everybody has done what there is to do without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    await settled()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- an epoch ----------------------------------------------------------------------------------------------------------


async def test_outputs_are_flushed_before_the_frontier_says_that_their_pages_are_done() -> None:
    house = House(outputs=2)
    await house.epoch()
    assert house.told == ["flush", "flush", "commit"]
    positions = msgspec.msgpack.decode(house.store.committed[-1]["positions"])
    assert positions == {"out-0": b"1", "out-1": b"1"}


async def test_start_has_not_ended_before_its_last_requests_are_in() -> None:
    house = House()
    house.epochs.apply(house.page(items=1))
    gate = house.told.gates["flush"] = asyncio.Event()
    async with running(house.epochs.turn()):
        house.epochs.apply(house.page(requests=1))  # what start() gives last, while an epoch is being closed
        house.epochs.started = True
        gate.set()
        await settled()
        assert house.frontier.counts().added == 1
        assert "started" not in house.store.committed[-1]
    await house.epochs.turn()
    assert house.store.committed[-1]["started"] == b"1"


async def test_an_epoch_with_nothing_in_it_is_not_closed() -> None:
    house = House()
    await house.epochs.turn()
    assert house.told == []


async def test_while_nothing_comes_the_outputs_are_looked_after_once_a_second() -> None:
    house = House()
    async with running(house.epochs.close_regularly()):
        for _ in range(10):
            await house.clock.pass_by(1.05 * EPOCH_SECONDS)
    assert house.told == ["flush", "flush"]


async def test_an_epoch_is_closed_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    async with running(house.epochs.close_regularly()):
        house.epochs.apply(house.page(items=1))
        await house.clock.pass_by(0.9 * EPOCH_SECONDS)
        assert house.told == []
        await house.clock.pass_by(0.2 * EPOCH_SECONDS)
        assert house.told == ["flush", "commit"]


async def test_an_epoch_is_closed_early_when_it_has_many_pages_or_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "EPOCH_PAGES", 3)
    monkeypatch.setattr(epochs, "EPOCH_ENTRIES", 10)
    house = House()
    async with running(house.epochs.close_regularly()):
        for count in (1, 2, 3):
            house.epochs.apply(house.page(items=1))
            await settled()
            assert house.told.count("commit") == (count == 3)
        house.epochs.apply(house.page(requests=9))
        await settled()
        assert house.told.count("commit") == 1
        house.epochs.apply(house.page(requests=1))
        await settled()
        assert house.told.count("commit") == 2


async def test_pages_that_end_while_an_epoch_is_closed_are_in_the_next_one_and_none_is_half_in_it() -> None:
    house = House()
    house.told.gates["flush"] = asyncio.Event()
    house.epochs.apply(house.page(items=1, requests=1))
    async with running(house.epochs.commit()):
        house.epochs.apply(house.page(items=2, requests=2))
        assert (house.epochs.held, house.epochs.is_closing) == (1, True)
        assert (house.stats.total.items, house.frontier.counts().added) == (1, 1)
        house.told.gates["flush"].set()
        await settled()
        assert msgspec.msgpack.decode(house.store.committed[-1]["positions"]) == {"out-0": b"1"}
        assert msgspec.msgpack.decode(house.store.committed[-1]["stats"])["items"] == 1
        assert (house.epochs.held, house.stats.total.items, house.frontier.counts().added) == (0, 3, 3)
        await house.epochs.turn()
    assert msgspec.msgpack.decode(house.store.committed[-1]["positions"]) == {"out-0": b"3"}


async def test_when_many_pages_wait_for_the_epoch_to_close_no_more_are_to_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(epochs, "EPOCH_PAGES", 3)
    house = House()
    house.told.gates["flush"] = asyncio.Event()
    house.epochs.apply(house.page())
    async with running(house.epochs.commit()):
        for held in (1, 2, 3):
            assert not house.epochs.is_full
            house.epochs.apply(house.page())
            assert house.epochs.held == held
        assert house.epochs.is_full
        house.told.gates["flush"].set()
        await settled()
        assert not house.epochs.is_full


async def test_a_page_that_another_was_redirected_to_meanwhile_counts_once() -> None:
    house = House()
    ends = Fate("http://a.test/there", "reached", NOW).encode()
    for _ in range(2):
        page = house.page(items=2, requests=1)
        page.reached = Reached("a.test:80", 99, None, ends)
        page.delivered = True
        house.epochs.apply(page)
    assert house.exporters[0].items == 2
    total = house.stats.total
    assert (total.pages, total.items, total.duplicates, house.frontier.counts().added) == (1, 2, 1, 1)


async def test_outputs_that_are_not_named_this_time_keep_their_positions() -> None:
    earlier = msgspec.msgpack.encode({"other": b"77", "out-0": b"5"})
    house = House(values={"positions": earlier})
    await house.epoch()
    assert msgspec.msgpack.decode(house.store.committed[-1]["positions"]) == {"other": b"77", "out-0": b"1"}


async def test_hosts_that_start_named_are_named_in_the_next_run_too() -> None:
    house = House()
    page = house.page()
    page.named = {"private.test:80"}
    house.epochs.apply(page)
    await house.epochs.turn()
    assert house.fetcher.allowed == ["private.test:80"]
    again = House(values={key: value for key, value in house.store.committed[-1].items() if value is not None})
    assert again.epochs.named == {"private.test:80"}


async def test_how_it_ended_is_said_after_the_outputs_are_whole() -> None:
    house = House()
    house.epochs.apply(house.page(items=1))
    await house.epochs.finish("finished")
    synced = ["sync output", "sync files", "sync frontier"]
    assert house.told == ["flush", "commit", *synced, "close", "commit", "sync files", "sync frontier"]
    assert [values["state"] for values in house.store.committed] == [b"running", b"finished"]


# -- against power failures --------------------------------------------------------------------------------------------


async def test_power_syncs_each_epoch_before_the_next_one_ends_and_the_outputs_first() -> None:
    house = House("power")
    for _ in range(3):
        await house.epoch()
    assert house.told == ["flush", "commit", "sync output", "sync files", "sync frontier"] * 3


async def test_power_waits_for_a_disk_that_takes_its_time() -> None:
    house = House("power")
    gate = house.told.gates["sync frontier"] = asyncio.Event()
    async with running(house.epochs.close_regularly(), house.epochs.sync_regularly()):
        for _ in range(3):
            house.epochs.apply(house.page(items=1))
            await house.clock.pass_by(2 * EPOCH_SECONDS)
        assert house.told.count("commit") == 1
        gate.set()
        await settled()
        await house.clock.pass_by(2 * EPOCH_SECONDS)
        assert house.told.count("commit") == 2


async def test_process_syncs_once_a_second_and_nothing_that_is_synced_already() -> None:
    house = House()
    async with running(house.epochs.sync_regularly()):
        await house.epoch()
        await house.epoch()
        await settled()
        assert "sync frontier" not in house.told
        await house.clock.pass_by(SYNC_SECONDS)
        assert house.told[-3:] == ["sync output", "sync files", "sync frontier"]
        for _ in range(5):
            await house.clock.pass_by(SYNC_SECONDS)
        assert house.told.count("sync frontier") == 1


async def test_an_epoch_that_ends_with_the_disk_far_behind_waits_for_it() -> None:
    house = House()
    async with running(house.epochs.sync_regularly()):
        for _ in range(3):
            await house.epoch()
        assert "sync frontier" not in house.told
        house.store.behind = True
        await house.epoch()
        assert house.told[-5:] == ["flush", "commit", "sync output", "sync files", "sync frontier"]


async def test_while_a_sync_takes_long_epochs_go_on_until_it_is_two_seconds_behind() -> None:
    house = House()
    gate = house.told.gates["sync frontier"] = asyncio.Event()
    async with running(house.epochs.close_regularly(), house.epochs.sync_regularly()):
        for _ in range(int(4 * SYNC_SECONDS / EPOCH_SECONDS)):
            house.epochs.apply(house.page(items=1))
            await house.clock.pass_by(EPOCH_SECONDS)
        ended = house.told.count("commit")
        assert ended * EPOCH_SECONDS == pytest.approx(2 * SYNC_SECONDS, abs=1.5 * EPOCH_SECONDS)
        assert house.told.count("sync frontier") == 1, "it waits"
        gate.set()
        await settled()
        house.epochs.apply(house.page(items=1))
        await house.clock.pass_by(EPOCH_SECONDS)
        assert house.told.count("commit") > ended


async def test_a_sync_covers_what_was_committed_when_it_began_and_the_next_one_the_rest() -> None:
    house = House()
    gate = house.told.gates["sync frontier"] = asyncio.Event()
    await house.epoch()
    async with running(house.epochs.sync()):
        await house.epoch()
        gate.set()
        await settled()
    await house.epochs.sync()
    assert house.told.count("sync frontier") == 2
    await house.epochs.sync()
    assert house.told.count("sync frontier") == 2


# -- the same in a crawl -----------------------------------------------------------------------------------------------


class Saving(Spider):
    """Saves each page to a file, and follows its links."""

    name = "saving"
    site = ""
    folder = ""
    settings = {"politeness": {"obey_robots": False}}

    async def start(self) -> Any:
        yield self.request(self.site + "/1", stream=True)

    async def parse(self, response: Response) -> Any:
        number = int(response.url.rpartition("/")[2])
        await response.save(f"{self.folder}/{number}.html")
        yield {"number": number}
        if number < 8:
            yield self.request(f"{self.site}/{number + 1}", stream=True)


class Syncs:
    """Commits, and what was synced, by file name, in order. `synced` for LMDB's file, which syncs itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        commit, fsync, sync = DiskStore.commit, os.fsync, DiskStore._sync

        async def told_commit(store: DiskStore, values: Any) -> None:
            await commit(store, values)
            self.events.append("commit")

        def told_fsync(fd: int) -> None:
            self.events.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            fsync(fd)

        def told_sync(store: DiskStore, snapshot: Any) -> None:
            self.events.append("frontier begins")
            sync(store, snapshot)

        monkeypatch.setattr(DiskStore, "commit", told_commit)
        monkeypatch.setattr(DiskStore, "_sync", told_sync)
        monkeypatch.setattr("os.fsync", told_fsync)


@pytest.fixture
def epochs_of_20_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "EPOCH_SECONDS", 0.02)


async def saved_crawl(folder: Path, durability: str) -> Any:
    async with LocalSite() as site:
        site.page("*", "a page", delay=0.03)
        settings = {"frontier": {"durability": durability}}
        args = {"site": site.url, "folder": str(folder)}
        return await run_spider(Saving, args=args, settings=settings, job=folder / "job", output=folder / "out.jsonl")


async def test_with_power_every_commit_is_synced_before_the_next_with_outputs_and_saved_files_before_the_frontier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_of_20_ms: None
) -> None:
    told = Syncs(monkeypatch)
    run = await saved_crawl(tmp_path, "power")
    assert run.stats["pages"] == 8
    commits = [place for place, event in enumerate(told.events) if event == "commit"]
    assert len(commits) >= 6, "of the opening, and of some epochs: a busy machine does several pages in one"
    for one, next_one in itertools.pairwise(commits[2:]):  # the first two are of the opening, and no epochs
        between = told.events[one + 1 : next_one]
        assert between.count("snapshots") == 1, "each is synced before the next"
        if next_one != commits[-1]:
            assert between.index("out.jsonl") < between.index("frontier begins") < between.index("snapshots")
    for number in range(1, 9):
        saved = told.events.index(f"{number}.html")
        assert "frontier begins" in told.events[saved:]


async def test_a_saved_file_is_synced_before_the_frontier_says_that_its_page_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_of_20_ms: None
) -> None:
    told = Syncs(monkeypatch)
    run = await saved_crawl(tmp_path, "process")
    assert run.stats["pages"] == 8
    last_sync = len(told.events) - told.events[::-1].index("frontier begins")
    for number in range(1, 9):
        assert told.events.index(f"{number}.html") < last_sync
    assert told.events.count("commit") > told.events.count("frontier begins"), "not each of them is synced"


# -- how hosts are -----------------------------------------------------------------------------------------------------


class Chain(Spider):
    """Each page names the next one in its text: a URL."""

    name = "chain"
    site = ""

    async def start(self) -> Any:
        yield self.request(self.site + "/1")

    def parse(self, response: Response) -> Any:
        if response.text:
            yield self.request(response.text)


class Interrupted:
    """Runs of one job on clocks of their own; `hits` are their times when the site was asked, by path."""

    def __init__(self, spider: type[Spider], site: LocalSite, job: Path, **politeness: Any) -> None:
        self.spider = spider
        self.site = site
        self.job = job
        self.politeness = {"obey_robots": False, "jitter": 0, **politeness}

    async def run(self, clock: FakeClock, stop_at: str = "", *, finish_it: bool = True) -> tuple[str, dict[str, float]]:
        """Stopped when the site is asked for `stop_at`, which is answered all the same unless not `finish_it`."""
        hits: dict[str, float] = {}
        settings = {"politeness": self.politeness, "retry": {"base_seconds": 0.01}}
        crawl = assemble(self.spider, {"site": self.site.url}, settings, (), job=self.job, clock=clock)
        answer = self.site._answer

        async def told(request: web.Request) -> web.StreamResponse:
            hits.setdefault(request.path, clock.now())
            if request.path == stop_at:
                crawl.engine.stop("interrupted") if finish_it else crawl.engine.abort()
            return await answer(request)

        app = self.site._runner.app  # type: ignore[union-attr]
        async with crawl:
            for route in app.router.routes():
                route._handler = told
            return (await crawl.run()).reason, hits


@pytest.mark.hostile("R-20")
async def test_a_hosts_pause_survives_a_restart(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/1", "")
        site.page("/1", "", status=503, headers={"Retry-After": "600"}, times=1)
        runs = Interrupted(Chain, site, tmp_path / "job", delay_seconds=0)
        reason, hits = await runs.run(FakeClock(NOW), stop_at="/1")
        assert reason == "interrupted"
        reason, again = await runs.run(FakeClock(NOW + 60))
    assert reason == "finished"
    assert again["/1"] - hits["/1"] >= 600


async def test_an_adaptive_delay_survives_a_restart_and_comes_back_down_after_it(tmp_path: Path) -> None:
    async with LocalSite() as site:
        for number in range(1, 8):
            site.page(f"/{number}", f"{site.url}/{number + 1}" if number < 7 else "")
        site.page("/1", "", status=500, times=2)
        site.page("/2", "", status=500, times=1)

        runs = Interrupted(Chain, site, tmp_path / "job", delay_seconds=1, concurrency_per_host=1)
        reason, _ = await runs.run(FakeClock(NOW), stop_at="/2")  # 1, 2, 4 s; 2.9 by /1; doubled by /2
        assert reason == "interrupted"
        with open_frontier(tmp_path / "job") as frontier:
            state = frontier.host_state(site.host)
        assert state is not None
        assert state.delay == pytest.approx(5.71, abs=0.01)
        began = NOW + 1000
        reason, again = await runs.run(FakeClock(began))
    assert reason == "finished"
    assert again["/2"] - began >= 5.7
    assert again["/7"] - began >= 5.7 + (3.6 + 2.6 + 2.1 + 1.7 + 1.4)
    with open_frontier(tmp_path / "job") as frontier:
        state = frontier.host_state(site.host)
    assert state is not None
    assert state.delay is not None
    assert 1 <= state.delay < 1.5


async def test_a_host_that_was_asked_just_before_a_restart_has_its_next_turn_a_delay_after_that(
    tmp_path: Path,
) -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:

        class Between(Chain):
            async def start(self) -> Any:
                yield self.request(site.url + "/1")
                yield self.request(other.url + "/named")  # so that pages may lead to its address

        other.page("/named", "")
        asked: list[tuple[str, float]] = []
        for clock, stops in ((FakeClock(NOW), True), (FakeClock(NOW + 10), False)):
            hosts = {site.host: {"delay_seconds": 100}, other.host: {"delay_seconds": 0}}
            settings = {"politeness": {"obey_robots": False, "jitter": 0, "hosts": hosts}}
            crawl = assemble(Between, {"site": site.url}, settings, (), job=tmp_path / "job", clock=clock)
            for server, path, text in (
                (site, "/1", f"{other.url}/2"),
                (site, "/3", ""),
                (other, "/2", f"{site.url}/3"),
            ):
                server.route(path, _told(asked, clock, text, crawl if stops and path == "/2" else None))
            async with crawl:
                await crawl.run()
    times = dict(asked)
    assert [path for path, _ in asked] == ["/1", "/2", "/2", "/3"]
    assert times["/3"] >= NOW + 100


def _told(asked: list[tuple[str, float]], clock: FakeClock, text: str, crawl: Any) -> Any:
    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, clock.now()))
        if crawl is not None:
            crawl.engine.abort()
            await asyncio.Event().wait()
        return web.Response(text=text)

    return answer


# -- the counters ------------------------------------------------------------------------------------------------------

SPIDER = """
from crawler import Request, Spider, epochs

epochs.EPOCH_SECONDS = 0.05

class Everything(Spider):
    name = "everything"
    settings = {
        "politeness": {"delay_seconds": 0, "concurrency_per_host": 4},
        "retry": {"times": 1, "base_seconds": 0.01},
    }

    async def start(self):
        yield self.request(self.site + "/")
        yield self.request(self.other + "/named")

    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all()
        if response.url.endswith("/twice"):
            yield Request(self.site + "/page/1", dont_filter=True)
        if response.url.endswith("/raises"):
            raise ValueError("of the callback")
"""
KINDS = ("page", "gone", "broken", "known", "away", "private", "raises", "twice", "new")
POINTS = ("after_apply:12", "before_commit:2", "after_fetch:4", "after_output_before_commit", "after_commit:2")
"""None of them can be passed for the first time when the crawl is over: the next run would begin a new one."""


def _site_of_everything(site: LocalSite, other: LocalSite) -> None:
    """Pages, failures, redirects of each kind and refusals, five of each."""
    links = [f"/{kind}/{number}" for kind in KINDS for number in range(5)]
    site.robots("User-agent: *\nDisallow: /private")
    site.page(
        "/", "".join(f'<a href="{link}">.</a>' for link in [*links, "/raises", "/twice", "mailto:me", "/page/1?"])
    )
    other.page("*", "elsewhere", delay=0.01)

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(0.01)
        _, kind, number = (*request.path.split("/"), "")[:3]
        targets = {"known": f"/page/{number}", "away": f"{other.url}/away/{number}", "new": "/target"}
        if kind in targets:
            return web.Response(status=302, headers={"Location": targets[kind]})
        status = {"gone": 404, "broken": 500}.get(kind, 200)
        return web.Response(text="a page", status=status, content_type="text/html")

    site.route("*", answer)


async def test_the_counters_add_up_after_every_kill_and_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "spider.py").write_text(SPIDER)
    async with LocalSite() as site, LocalSite("127.0.0.3") as other:
        _site_of_everything(site, other)
        command = ("run", "spider.py", "-a", f"site={site.url}", "-a", f"other={other.url}", "--job", "job")
        for point in POINTS:
            killed = await forked.run(tmp_path, *command, "-o", "out.jsonl", crash_at=point)
            assert killed.code == -9, f"{point} was not passed:\n{killed.said}"
            with open_frontier(tmp_path / "job") as frontier:
                sums, counters = frontier.values.stats, frontier.values.counters
                ended = sums.get("done", 0) + sums.get("failed", 0) + sums.get("dropped", 0)
                assert counters.completed == ended, point
                assert counters.added - ended == sum(1 for _ in frontier.rows()), point
        last = await forked.run(tmp_path, *command, "-o", "out.jsonl")
    assert last.code == 0, last.said
    stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert stats["added"] == stats["done"] + stats["failed"] + stats["dropped"] + stats["waiting"]
    assert stats["waiting"] == 0
    # 2 start requests, 9 kinds of 5, two pages of their own, an unfiltered one, and 5 redirects to the other host.
    assert stats["added"] == 2 + 45 + 2 + 1 + 5
    assert stats["failed"] == 5 + 5 + 5 + 1, "gone, broken, private, raises"
    assert stats["dropped"] == 5 + 5 + 4, "known, away, and new but for the first"
    assert set(stats["failures"]) == {"callback_error", "robots", "status_404", "status_500"}
    assert stats["items"] == stats["pages"] == len((tmp_path / "out.jsonl").read_text().splitlines())


FAILING = """
from crawler import Spider

class Failing(Spider):
    name = "failing"
    settings = {"politeness": {"delay_seconds": 0, "obey_robots": False}}

    async def start(self):
        yield self.request(self.site + "/gone")
        yield self.request(self.site + "/page")

    def parse(self, response):
        yield {"url": response.url}

    async def failed(self, failure):
        await self.fetch(self.site + "/hold")
"""


async def test_a_failure_is_counted_with_the_epoch_of_its_page(tmp_path: Path) -> None:
    (tmp_path / "spider.py").write_text(FAILING)
    async with LocalSite() as site:
        held = asyncio.Event()

        async def hold(request: web.Request) -> web.Response:
            held.set()
            await asyncio.Event().wait()
            raise AssertionError

        async def page(request: web.Request) -> web.Response:
            await held.wait()  # the other one has failed, and has not ended
            return web.Response(text="a page")

        site.route("/hold", hold)
        site.route("/page", page)
        command = ("run", "spider.py", "-a", f"site={site.url}", "--job", "job")
        async with forked.start(tmp_path, *command) as first:
            async with asyncio.timeout(forked.SECONDS):
                while _committed(tmp_path / "job").get("pages") != 1:
                    await asyncio.sleep(0.01)
            first.kill()
            await first.ends()
        site.page("/hold", "")
        assert (await forked.run(tmp_path, *command)).code == 0
    stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert (stats["failed"], stats["failures"], stats["errors"]) == (1, {"status_404": 1}, 1)


def _committed(job: Path) -> dict[str, Any]:
    with contextlib.suppress(JobError, EngineUnavailable), open_frontier(job) as frontier:
        return frontier.values.stats
    return {}


async def test_the_counters_of_an_interrupted_run_add_up_with_what_waits(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/1", f"{site.url}/2")
        site.page("/2", "")
        runs = Interrupted(Chain, site, tmp_path / "job", delay_seconds=0)
        reason, _ = await runs.run(FakeClock(NOW), stop_at="/2", finish_it=False)
    assert reason == "interrupted"
    stats = json.loads((tmp_path / "job" / "stats.json").read_text())
    assert (stats["added"], stats["done"], stats["waiting"]) == (2, 1, 1)
    assert stats["failed"] == stats["dropped"] == 0


def test_every_request_ends_as_one_of_three_and_one_that_waits_again_as_none() -> None:
    ends = {Verdict.DONE: 1, Verdict.DEAD: 1, Verdict.RETRY: 0, Verdict.RELEASE: 0}
    for verdict, expected in ends.items():
        house, page = House(), Page(None, None)
        page.verdict = verdict
        house.epochs._count_end(page)
        total = house.stats.total
        assert total.done + total.failed + total.dropped == expected, verdict
