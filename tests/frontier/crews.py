"""Workers of one crawl over real engines, with time that the test owns."""

from __future__ import annotations

import contextlib
from random import Random

from crawler.contracts import Entry
from crawler.errors import EngineUnavailable
from crawler.frontier.broker import Ask, Claim, End, HostReturn, WorkerEpoch
from crawler.frontier.redis import RedisBroker
from crawler.settings.frontier import FrontierSettings
from crawler.testing import FakeClock

LEASE = 60.0


class Crew:
    """`await crew.worker("w1")` has joined. Commits are numbered by themselves."""

    def __init__(self, url, **settings):
        self.url = url
        self.settings = {"shards": 4, "expected_urls": 1000, "lease_seconds": LEASE, **settings}
        self.clock = FakeClock(1_800_000_000.0)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        await self._stack.aclose()

    def broker(self, name="w1", *, owns_time=True, **options):
        settings = {**self.settings, **options.pop("settings", {})}
        given = {
            "crawl": "c", "spider": "s", "order": "breadth", "group_by": "host", "page_limit": 0, "quota": 3,
            "places": 2, "shared_places": 0, "concurrency": 16, "delay": 1.0, **options,
        }  # fmt: skip
        return RedisBroker(
            FrontierSettings(url=self.url, **settings),
            worker=name,
            clock=self.clock,
            rng=Random(name),
            now=self.clock.now if owns_time else None,
            **given,
        )

    async def worker(self, name="w1", **options):
        broker = await self._stack.enter_async_context(self.broker(name, **options))
        return Worker(broker, await broker.join())


class Worker:
    def __init__(self, broker, session):
        self.broker = broker
        self.session = session
        self.number = 0

    def __getattr__(self, name):
        return getattr(self.broker, name)

    async def add(self, *entries, **fields):
        return await self.commit(entries=list(entries), **fields)

    async def commit(self, **fields):
        self.number += 1
        return await self.broker.commit(WorkerEpoch(self.number, **fields))

    async def borrow(self, tasks=100):
        return (await self.broker.ask(Ask(tasks))).loans

    async def tasks(self, most=100):
        return [task for loan in await self.borrow(most) for task in loan.tasks]

    async def give_back(self, *loans, wait=0.0, **fields):
        return await self.broker.ask(Ask(0, [HostReturn(loan.key, wait, **{"quota": 3, **fields}) for loan in loans]))

    async def claim(self, *keys):
        return (await self.broker.ask(Ask(0, claims=[Claim(key) for key in keys]))).loans

    async def end(self, verdict, *tasks, **fields):
        return await self.commit(ends=[End(task.id, verdict, **fields) for task in tasks])

    @contextlib.contextmanager
    def cut_off(self, script, *, is_done=False, after=0):
        """The connection breaks at this script's call, for good: before it has run or, `is_done`, after it. The first
        `after` of them go well."""
        engine = self.broker._engine
        real = engine.all
        seen = 0

        async def breaking(calls):
            nonlocal seen
            if any(getattr(call.what, "name", call.what) == script for call in calls):
                seen += 1
                if seen > after:
                    if is_done:
                        await real(calls)
                    raise EngineUnavailable(f"cut off at {script}")
            return await real(calls)

        engine.all = breaking
        try:
            yield
        finally:
            engine.all = real


def entry(number, host="a.test:80", **fields):
    return Entry(host, fields.pop("fingerprint", number), b"%d" % number, **fields)


def numbers(tasks):
    return [int(task.record) for task in tasks]
