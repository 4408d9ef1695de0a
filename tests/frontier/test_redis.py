"""What is Redis' own in the shared frontier: the engine that goes away, comes back, is full; steps that are cut off;
what is kept and how large it is; what an operator does."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.contracts import Verdict
from crawler.errors import EngineUnavailable, JobError, SessionLost, UsageError
from crawler.frontier.broker import Ask, Claim, Control, End, HostReturn, WorkerEpoch
from crawler.frontier.redis import operate, reaping, transfer
from crawler.frontier.redis.crawl import Session, pairs
from crawler.frontier.redis.keys import preferred
from crawler.frontier.redis.payload import Waiting, pack, unpack
from crawler.settings.frontier import FrontierSettings
from tests.engines import Cluster, Server, needs_redis
from tests.frontier.crews import LEASE, Crew, entry, numbers

pytestmark = needs_redis


AT_ONCE = {"appendonly": "yes", "appendfsync": "always"}
"""With a sync a second, writes wait for the one that is under way."""


@pytest.fixture
async def crew(redis_server):
    redis_server.flush()
    async with Crew(redis_server.url) as crew:
        yield crew


@pytest.fixture
def own_server(tmp_path):
    """`own_server(appendonly="yes")`: one that the test may kill."""
    servers = []

    def start(**options):
        servers.append(Server(tmp_path / f"{len(servers)}", **options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def ends(verdict, tasks):
    return [End(task.id, verdict) for task in tasks]


# -- the engine ------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-08")
async def test_a_session_survives_a_restart_that_lost_nothing_of_it(own_server):
    server = own_server(**AT_ONCE)
    async with Crew(server.url) as crew:
        worker = await crew.worker("w1")
        await worker.add(*(entry(n, f"h{n}.test:80") for n in range(6)), own={"x": b"1"})
        tasks = await worker.tasks(4)
        await worker.end(Verdict.DONE, *tasks[:2])
        server.kill()
        server.start()
        await worker.commit(ends=ends(Verdict.DONE, tasks[2:]), own={"x": b"2"})
        counts = (await worker.renew()).counts
        assert (counts.queued, counts.leased, counts.completed) == (2, 0, 4)
        await worker.leave()
        again = await crew.worker("w1")
        assert again.session.own == {"x": b"2"}
        crew.clock.advance(3.1)
        assert len(await again.tasks()) == 2


@pytest.mark.hostile("R-12")
async def test_after_a_restart_every_host_counts_as_just_asked(own_server):
    server = own_server(**AT_ONCE)
    async with Crew(server.url) as crew:
        workers = [await crew.worker("w1"), await crew.worker("w2")]
        await workers[0].add(*(entry(n, f"h{n}.test:80") for n in range(6)))
        server.kill()
        server.start()
        workers += [await crew.worker("w3")]
        for worker in workers:
            given = await worker.ask(Ask(6, claims=[Claim("h1.test:80")]))
            assert not given.loans
            assert given.next_due == pytest.approx(crew.clock.now() + 3, abs=0.1)
        crew.clock.advance(2.9)
        assert (await workers[1].tasks(6)) == []
        crew.clock.advance(0.2)
        assert len(await workers[1].tasks(6)) == 6
        later = await crew.worker("w4")
        await later.add(entry(9, "h9.test:80"))
        assert len(await later.tasks(6)) == 1


async def test_what_was_said_as_the_engine_died_is_said_again(own_server):
    server = own_server(**AT_ONCE)
    async with Crew(server.url) as crew:
        worker = await crew.worker("w1")
        await worker.add(*(entry(n, "a.test:80") for n in range(3)))
        (loan,) = await worker.borrow()
        server.kill()
        asked = asyncio.ensure_future(worker.give_back(loan, unused=[task.id for task in loan.tasks]))
        ended = asyncio.ensure_future(worker.is_done())
        await asyncio.sleep(0)
        server.start()
        await asked
        assert not await ended
        counts = (await worker.renew()).counts
        assert (counts.queued, counts.leased) == (3, 0)


VERBS = {
    "ask": lambda worker: worker.borrow(),
    "commit": lambda worker: worker.commit(own={"x": b"2"}),
    "done": lambda worker: worker.is_done(),
    "renew": lambda worker: worker.renew(),
}


@pytest.mark.hostile("R-08")
@pytest.mark.parametrize("verb", VERBS)
async def test_a_worker_whose_last_words_are_lost_hears_of_it_at_its_next_one_whichever_that_is(own_server, verb):
    server = own_server(appendonly="yes")
    async with Crew(server.url) as crew:
        worker = await crew.worker("w1")
        await worker.add(entry(1))
        slot = "{crawler:c:w:w1}:traces"
        assert server.say("HINCRBY", slot, worker.session.id, -1).startswith(b":")  # as if the file had ended before
        server.kill()
        server.start()
        for _ in range(2):
            with pytest.raises(SessionLost, match="started anew"):
                await VERBS[verb](worker)


@pytest.mark.hostile("R-08")
async def test_an_engine_that_kept_nothing_has_lost_every_session(own_server):
    server = own_server()
    async with Crew(server.url) as crew:
        worker = await crew.worker("w1")
        server.kill()
        server.start()
        with pytest.raises(SessionLost, match="started anew"):
            await worker.borrow()


async def test_a_session_in_a_cluster_survives_the_restart_of_one_master(tmp_path):
    with Cluster(tmp_path, **AT_ONCE) as cluster:
        async with Crew(cluster.url) as crew:
            worker, other = await crew.worker("w1"), await crew.worker("w2")
            await worker.add(*(entry(n, f"h{n}.test:80") for n in range(12)))
            tasks = await worker.tasks(6)
            for server in cluster.servers:
                server.kill()
                server.start()
                cluster.settle()
                assert await other.tasks(12) == []
                await worker.end(Verdict.DONE, tasks.pop())
            counts = (await worker.renew()).counts
            assert (counts.queued, counts.leased, counts.completed) == (6, 3, 3)


@pytest.mark.hostile("R-08")
async def test_an_engine_that_lost_its_last_words_is_noticed_by_what_it_knows_of_the_session(crew, redis_server):
    worker = await crew.worker("w1")
    await worker.commit(own={"x": b"1"})
    before = int(redis_server.say("HGET", "{crawler:c:w:w1}:s", "number").split(b"\r\n")[1])
    await worker.commit(own={"x": b"2"})
    redis_server.say("HSET", "{crawler:c:w:w1}:s", "number", before)  # as if the file had ended there
    with pytest.raises(SessionLost, match="has lost what"):
        await worker.renew()


async def test_connections_that_break_are_made_anew(crew, redis_server):
    worker = await crew.worker("w1")
    await worker.add(entry(1), entry(2, "b.test:80"))
    for _ in range(3):
        redis_server.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await worker.renew()
    redis_server.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert len(await worker.tasks()) == 2


@pytest.mark.hostile("R-09")
async def test_an_engine_that_has_forgotten_the_scripts_is_told_them_again(crew, redis_server):
    worker = await crew.worker("w1")
    await worker.add(entry(1))
    redis_server.say("SCRIPT", "FLUSH")
    assert numbers(await worker.tasks()) == [1]
    await worker.renew()


@pytest.mark.hostile("R-08")
async def test_an_engine_that_stays_away_is_waited_for_and_given_up(own_server):
    server = own_server()
    async with Crew(server.url, lease_seconds=2.0) as crew:
        worker = await crew.worker("w1")
        server.kill()
        with pytest.raises(EngineUnavailable, match=r"redis://127\.0\.0\.1:\d+/0 cannot be reached"):
            await worker.renew()
        assert crew.clock.slept
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        async with Crew(server.url, lease_seconds=2.0) as crew:
            await crew.worker("w1")


@pytest.mark.hostile("R-09")
async def test_a_full_engine_stops_what_adds_and_lets_go_on_what_ends(own_server):
    server = own_server(maxmemory="8mb")
    async with Crew(server.url) as crew:
        worker = await crew.worker("w1", quota=50)

        async def fill():
            for n in itertools.count():
                await worker.add(*(entry(n * 100 + k)._replace(record=b"x" * 500) for k in range(100)))

        with pytest.raises(EngineUnavailable, match="is full"):
            await fill()
        worker.number -= 1  # that one was not taken
        tasks = await worker.tasks(50)
        assert len(tasks) == 50
        await worker.end(Verdict.DONE, *tasks)
        await worker.renew()
        await worker.leave()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
@pytest.mark.hostile("R-09")
async def test_an_engine_that_throws_keys_away_is_refused(own_server, policy):
    server = own_server(maxmemory_policy=policy)
    async with Crew(server.url) as crew:
        with pytest.raises(UsageError, match=f"noeviction.*{policy}"):
            await crew.worker()


@pytest.mark.hostile("R-08")
async def test_an_engine_that_keeps_nothing_on_disk_is_told_of(crew, caplog, own_server):
    with caplog.at_level(logging.WARNING):
        await crew.worker("w1")
    assert "keeps nothing on disk" in caplog.text
    caplog.clear()
    async with Crew(own_server(appendonly="yes").url) as other:
        await other.worker("w1")
    assert caplog.text == ""


@pytest.mark.hostile("S51")
async def test_an_engine_without_a_password_on_another_machine_is_refused(crew):
    crew.url = "redis://engine.example:6379/0"
    with pytest.raises(UsageError, match=r"asks for no password.*frontier\.allow_unprotected"):
        await crew.worker("w1")


@pytest.mark.parametrize("password", ["wrong-secret", "right-secret"])
@pytest.mark.hostile("S51")
async def test_a_password_is_in_no_message(own_server, password):
    server = own_server(requirepass="right-secret")
    async with Crew(server.url.replace("//", f"//:{password}@"), lease_seconds=2.0) as crew:
        if password == "right-secret":
            worker = await crew.worker("w1")
            server.kill()
            verb = worker.renew
        else:
            verb = crew.worker
        with pytest.raises(EngineUnavailable) as caught:
            await verb()
        texts, error = [], caught.value
        while error is not None:
            texts.append(f"{error!r}")
            error = error.__cause__
        assert "secret" not in " ".join([*texts, repr(crew.broker())])


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0?nonsense=1", "redis://127.0.0.1:notaport/0"])
async def test_a_url_that_is_none_is_refused_without_showing_it(crew, url):
    crew.url = url.replace("//", "//:hidden@")
    with pytest.raises(UsageError, match=r"frontier\.url") as caught:
        await crew.worker()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "{a}"])
def test_a_name_that_would_move_the_slots_is_refused(name):
    with pytest.raises(UsageError, match=r"frontier\.crawl"):
        Crew("redis://127.0.0.1:1/0").broker(crawl=name)


async def test_the_engines_clock_counts_for_all_workers(redis_server):
    redis_server.flush()
    async with Crew(redis_server.url, lease_seconds=2.0) as crew:
        one, two = await crew.worker("w1", owns_time=False), await crew.worker("w2", owns_time=False)
        assert abs(one.session.now - two.session.now) < 60 < abs(one.session.now - crew.clock.now())
        await one.add(entry(1), entry(2, "b.test:80", not_before=one.session.now + 1000.0))
        for _ in range(100):  # this machine's idea of the engine's time is late by what an answer takes
            if (given := await two.broker.ask(Ask(5))).loans:
                break
        assert numbers(task for loan in given.loans for task in loan.tasks) == [1]
        assert 900 < given.next_due - given.now < 1000


# -- sessions that are taken apart, cut off anywhere ------------------------------------------------------------------


async def lost_in_the_middle(crew):
    """A session of which a commit is on record, and not applied."""
    lost = await crew.worker("lost", page_limit=10)
    await lost.take_allowance(10)
    await lost.add(*(entry(n, f"h{n}.test:80") for n in range(8)))
    tasks = await lost.tasks()
    with lost.cut_off("end"), pytest.raises(EngineUnavailable):
        await lost.commit(
            entries=[entry(n, f"h{n}.test:80", filtered=False) for n in range(4)],
            ends=[*ends(Verdict.DONE, tasks[:3]), *ends(Verdict.RETRY, tasks[3:5])],
            shared={"cookie/a": b"1"},
            pages=3,
        )
    return lost


async def check_all_is_back(crew, worker):
    crew.clock.advance(1.0)
    counts = (await worker.renew()).counts
    assert (counts.queued, counts.leased, counts.completed, counts.added) == (9, 0, 3, 12)
    assert await worker.take_allowance(100) == 7
    tasks = await worker.tasks()
    assert len(tasks) == 9
    assert sum(task.attempt for task in tasks) == 2
    assert sum(task.lapses for task in tasks if task.filtered) == 3


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_reaper_may_die_anywhere_and_another_goes_on(crew, is_done):
    lost = await lost_in_the_middle(crew)
    session = Session.of(lost.session.id)
    crew.clock.advance(LEASE + 0.1)
    for n in itertools.count():
        reaper = await crew.worker(f"reaper{n}", page_limit=10)
        engine, real, said = reaper.broker._engine, reaper.broker._engine.all, 0

        async def one_by_one(calls, real=real, last=n):
            """Each call by itself, as in a Cluster; the n-th is the last, or does not come any more."""
            nonlocal said
            answers = []
            for call in calls:
                said += 1
                if said > last and not is_done:
                    raise EngineUnavailable("died")
                answers += await real([call])
                if said > last:
                    raise EngineUnavailable("died")
            return answers

        engine.all = one_by_one
        try:
            await reaping.take_apart(reaper.broker._crawl, session, delay=1.0)
        except EngineUnavailable:
            continue
        finally:
            engine.all = real
        break
    assert n > 6
    await check_all_is_back(crew, reaper)


async def test_two_may_take_a_session_apart_at_once(crew):
    lost = await lost_in_the_middle(crew)
    session = Session.of(lost.session.id)
    crew.clock.advance(LEASE + 0.1)
    reapers = [await crew.worker(f"w{n}", page_limit=10) for n in range(3)]
    for reaper in reapers:
        engine, real = reaper.broker._engine, reaper.broker._engine.all

        async def one_by_one(calls, real=real):
            return [answer for call in calls for answer in await real([call])]

        engine.all = one_by_one
    await asyncio.gather(*(reaping.take_apart(each.broker._crawl, session, delay=1.0) for each in reapers))
    await check_all_is_back(crew, reapers[0])


async def test_a_renewal_counts_whoever_came_went_and_lapsed(crew):
    one, two, three = [await crew.worker(f"w{n}") for n in (1, 2, 3)]
    heard = []
    engine, real = one.broker._engine, one.broker._engine.all

    async def listening(calls):
        answers = await real(calls)
        heard.extend(
            len(pairs(answer[4]))
            for call, answer in zip(calls, answers, strict=True)
            if getattr(call.what, "name", "") == "news"
        )
        return answers

    engine.all = listening

    async def workers():
        return (await one.renew()).workers

    assert [await workers(), await workers()] == [3, 3]
    assert heard == [3, 0]  # all of them, then what is new
    await two.leave()
    assert [await workers(), await workers()] == [2, 2]
    assert heard[2:] == [2, 0]
    await crew.worker("w4")
    assert [await workers(), await workers()] == [3, 3]
    crew.clock.advance(LEASE - 1)
    assert [await workers(), (await three.renew()).workers] == [3, 3]
    crew.clock.advance(2)  # the fourth is not heard of
    heard.clear()
    assert [await workers(), await workers()] == [2, 2]
    assert heard == [1, 2]  # the one that is over; then it was taken apart


async def test_a_session_whose_time_is_not_over_is_left_alone(crew):
    one, two = await crew.worker("w1"), await crew.worker("w2")
    await one.add(entry(1))
    (loan,) = await one.borrow()
    assert await reaping.take_apart(two.broker._crawl, Session.of(one.session.id), delay=1.0) is None
    await one.end(Verdict.DONE, *loan.tasks)


@pytest.mark.hostile("R-11")
async def test_a_call_that_was_under_way_when_its_session_was_taken_apart_lends_nothing(crew):
    lost, other = await crew.worker("w1"), await crew.worker("w2")
    await lost.add(entry(1), entry(2, "b.test:80"))
    held = []
    engine, real = lost.broker._engine, lost.broker._engine.all

    async def hold(calls):
        if any(getattr(call.what, "name", "") == "ask" for call in calls):
            held.extend(calls)
            raise EngineUnavailable("held on the way")
        return await real(calls)

    engine.all = hold
    with pytest.raises(EngineUnavailable):
        await lost.borrow()
    crew.clock.advance(LEASE - 1)
    await other.renew()
    crew.clock.advance(1.1)
    await other.renew()
    with pytest.raises(SessionLost):
        await real(held)
    assert len(await other.tasks()) == 2


# -- any order of verbs ----------------------------------------------------------------------------------------------


class Model:
    """What has to hold, whatever three workers do: who has which host, what was queued, what has ended."""

    def __init__(self, crew):
        self.crew = crew
        self.holders = {}
        self.free_at = {}
        self.queued = Counter()
        """Requests that have not ended, by fingerprint."""
        self.begun = {}
        """Of each worker: the tasks that it has."""
        self.order = {}
        self.met = itertools.count(1)


class Play:
    def __init__(self, crew, rng):
        self.crew, self.rng, self.model = crew, rng, Model(crew)
        self.workers = {}
        self.loans = {}
        self.tasks = {}
        self.lapses_at = {}
        self.lapsed_hosts = []

    async def step(self):
        name = self.rng.choice(["w1", "w2", "w3"])
        if name not in self.workers:
            self.workers[name] = await self.crew.worker(name, settings={"lease_seconds": 10.0})
            self.loans[name], self.tasks[name] = {}, {}
            self.lapses_at[name] = self.crew.clock.now() + 10.0
        verb = self.rng.choices(
            [self.add, self.borrow, self.give_back, self.end, self.renew, self.vanish, self.leave, self.wait],
            [4, 6, 4, 5, 3, 0.4, 0.3, 3],
        )[0]
        await verb(name)

    async def add(self, name):
        numbers = [self.rng.randrange(400) for _ in range(self.rng.randrange(1, 6))]
        filtered = self.rng.random() < 0.8
        new = {n for n in numbers if n not in self.model.order} if filtered else set()
        entries = [entry(n, f"h{n % 7}.test:80", filtered=filtered, priority=n % 3) for n in numbers]
        known = await self.workers[name].add(*entries)
        if filtered:
            assert known == len(numbers) - len(new)  # once, whoever adds it (I4)
            self.model.queued.update(new)
        else:
            self.model.queued.update(numbers)
        for n in numbers:
            self.model.order.setdefault(n, next(self.model.met))

    async def borrow(self, name):
        want = self.rng.randrange(1, 8)
        now = self.crew.clock.now()
        given = await self.workers[name].broker.ask(Ask(want))
        assert sum(len(loan.tasks) for loan in given.loans) <= want
        for loan in given.loans:
            assert loan.key not in self.model.holders  # one holder (I1)
            assert now >= self.model.free_at.get(loan.key, 0.0) - 0.001  # not before its turn (I2)
            self.model.holders[loan.key] = name
            self.loans[name][loan.key] = loan
            assert [task.priority for task in loan.tasks] == sorted((t.priority for t in loan.tasks), reverse=True)
            for task in loan.tasks:
                assert task.id not in self.tasks[name]
                self.tasks[name][task.id] = task

    async def give_back(self, name):
        if not self.loans[name]:
            return
        key = self.rng.choice(sorted(self.loans[name]))
        loan = self.loans[name].pop(key)
        unused = [task.id for task in loan.tasks if task.id in self.tasks[name] and self.rng.random() < 0.3]
        for id in unused:
            del self.tasks[name][id]
        wait = self.rng.choice([0.0, 0.5, 2.0])
        await self.workers[name].broker.ask(Ask(0, [HostReturn(key, wait, b"", 3, 0, unused)]))
        del self.model.holders[key]
        self.model.free_at[key] = self.crew.clock.now() + wait

    async def end(self, name):
        ids = [id for id in sorted(self.tasks[name]) if self.rng.random() < 0.5]
        said = []
        for id in ids:
            task = self.tasks[name].pop(id)
            verdict = self.rng.choice(list(Verdict))
            said.append(End(id, verdict, self.rng.choice([0.0, 1.0])))
            if verdict in (Verdict.DONE, Verdict.DEAD):
                self.model.queued[task.fingerprint] -= 1
        worker = self.workers[name]
        worker.number += 1
        for _ in range(self.rng.choice([1, 1, 2])):  # said twice, it is taken once
            await worker.broker.commit(WorkerEpoch(worker.number, ends=said))

    async def renew(self, name):
        await self.workers[name].renew()
        self.lapses_at[name] = self.crew.clock.now() + 10.0
        self.forget_lapsed()

    def forget_lapsed(self):
        now = self.crew.clock.now()
        for lapses_at, hosts in list(self.lapsed_hosts):
            if lapses_at < now:
                self.lapsed_hosts.remove((lapses_at, hosts))
                for key in hosts:
                    del self.model.holders[key]
                    self.model.free_at[key] = now + 1.0

    async def vanish(self, name):
        """Its time runs on without it."""
        self.lapsed_hosts.append((self.lapses_at[name], list(self.loans.pop(name))))
        del self.tasks[name], self.workers[name]

    async def leave(self, name):
        await self.workers.pop(name).leave()
        for key in self.loans.pop(name):
            del self.model.holders[key]
            self.model.free_at[key] = self.crew.clock.now() + 1.0
        del self.tasks[name]

    async def wait(self, name):
        self.crew.clock.advance(self.rng.choice([0.1, 1.0, 3.0]))
        for each in list(self.workers):  # all that are there renew in time, so each lapse is one that was meant
            await self.renew(each)

    async def finish(self):
        """Nothing was lost, and nothing is there twice."""
        for name in list(self.workers):
            await self.leave(name)
        last = await self.crew.worker("last", settings={"lease_seconds": 100.0})
        left = Counter()
        for _ in range(30):
            self.crew.clock.advance(4.0)
            await last.renew()
            loans = await last.borrow()
            for loan in loans:
                left.update(task.fingerprint for task in loan.tasks)
            await last.commit(ends=[End(task.id, Verdict.DONE) for loan in loans for task in loan.tasks])
            if loans:
                await last.give_back(*loans)
        assert left == +self.model.queued
        counts = (await last.renew()).counts
        assert (counts.queued, counts.leased) == (0, 0)
        await last.commit(shared={"started": b"1"})
        assert await last.is_done()


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_three_workers_do_nothing_is_lost_or_lent_twice(crew, seed):
    play = Play(crew, Random(seed))
    for _ in range(250):
        await play.step()
    await play.finish()


# -- what is kept ----------------------------------------------------------------------------------------------------


@given(
    st.builds(
        Waiting,
        st.binary(max_size=400) | st.just(b"GET http://www.example.com/"),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**16 - 1),
        st.integers(0, 255),
        st.booleans(),
        st.sampled_from(["", "www.example.com:80", "[::1]:8080"]),
        st.integers(0, 2**64 - 1),
    ),
    st.sampled_from(["www.example.com:80", "a:1", "example.com"]),
)
@settings(max_examples=300, deadline=None)
def test_a_waiting_request_comes_back_as_it_was(waiting, key):
    if waiting.host == key:
        waiting = waiting._replace(host="")
    if waiting.filtered:
        waiting = waiting._replace(number=0)
    assert unpack(key, pack(key, waiting)) == waiting


def test_an_ordinary_request_is_kept_in_its_record_and_some_bytes():
    record = b"\x93\x00\xd9\x58https://www.example.com/a/long/path/to/somewhere\xc0"
    kept = pack("www.example.com:443", Waiting(record, 2**63))
    assert len(kept) == len(record) - len("https://www.example.com") + 11


async def test_a_host_that_is_done_leaves_nothing_behind_but_what_was_seen(crew, redis_server):
    worker = await crew.worker("w1", settings={"shards": 1})
    await worker.add(*(entry(n, "gone.test:80", priority=n % 2) for n in range(6)))
    for _ in range(2):
        (loan,) = await worker.borrow()
        await worker.end(Verdict.DONE, *loan.tasks)
        await worker.give_back(loan, wait=1.0)
        crew.clock.advance(1.1)
    assert await worker.borrow() == []
    kinds = {name.decode().rpartition("}:")[2].split(":")[0] for name in await keys_of(worker)}
    assert kinds.isdisjoint({"q", "Q", "p", "ready", "later", "held", "i", "st", "lapses"})
    assert b"gone.test" not in redis_server.say("ZRANGE", "{crawler:c:0}:ready", 0, -1)


async def keys_of(worker):
    engine = worker.broker._engine
    return [name async for names in engine.keys(worker.broker._keys.everything) for name in names]


async def test_known_fingerprints_are_kept_in_sets_of_integers(crew):
    worker = await crew.worker("w1", settings={"shards": 1, "expected_urls": 2000})
    rng = Random(1)
    await worker.add(*(entry(n, f"h{n % 50}.test:80", fingerprint=rng.getrandbits(64)) for n in range(4000)))
    client = worker.broker._engine._client
    sets = [name for name in await keys_of(worker) if b"}:s:" in name]
    assert len(sets) == 32
    assert {await client.object("ENCODING", name) for name in sets} == {b"intset"}


def test_shards_are_divided_among_workers_and_few_move_when_one_comes():
    workers = [f"w{n}" for n in range(8)]
    shares = {worker: set(preferred(worker, workers, 256)) for worker in workers}
    assert sorted(shard for share in shares.values() for shard in share) == list(range(256))
    assert all(15 <= len(share) <= 55 for share in shares.values())
    after = {worker: set(preferred(worker, [*workers, "new"], 256)) for worker in workers}
    assert all(after[worker] <= shares[worker] for worker in workers)
    assert preferred("alone", [], 5) == [0, 1, 2, 3, 4]
    many = [f"w{n}" for n in range(40)]
    assert all(preferred(worker, many, 4) for worker in many)


# -- operators -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", "redis-cluster"])
async def operated(request):
    engine = request.getfixturevalue("redis_cluster" if request.param == "redis-cluster" else "redis_server")
    engine.flush()
    async with Crew(engine.url) as crew:
        crew.frontier = FrontierSettings(url=engine.url, **crew.settings)
        yield crew


async def test_a_crawl_is_created_once(operated):
    fixed = {"crawl": "c", "spider": "s", "order": "breadth", "group_by": "host"}
    assert await operate.create(operated.frontier, **fixed)
    assert not await operate.create(operated.frontier, **fixed)
    with pytest.raises(JobError, match="the spider"):
        await operate.create(operated.frontier, **{**fixed, "spider": "t"})
    await operated.worker("w1")


async def test_workers_hear_what_an_operator_says(operated):
    worker = await operated.worker("w1")
    await worker.add(entry(1))
    assert await operate.control(operated.frontier, crawl="c", to=Control.PAUSED, reason="lunch") == (
        Control.PAUSED,
        "lunch",
    )
    news = await worker.renew()
    assert (news.control, news.reason) == (Control.PAUSED, "lunch")
    assert await worker.borrow() == []
    await operate.control(operated.frontier, crawl="c", to=Control.RUNNING)
    await worker.renew()
    assert len(await worker.borrow()) == 1
    await operate.control(operated.frontier, crawl="c", to=Control.STOPPED, reason="enough")
    await worker.finish("finished")  # what an operator ended, stays so
    assert await operate.control(operated.frontier, crawl="c") == (Control.STOPPED, "enough")


async def test_what_there_is_not_cannot_be_operated(operated):
    for verb in (operate.report, operate.parts, operate.control):
        with pytest.raises(JobError, match="there is no crawl 'c'"):
            await verb(operated.frontier, crawl="c")
    assert not await operate.discard(operated.frontier, crawl="c")


async def test_a_crawl_with_workers_is_not_discarded_and_without_them_nothing_of_it_is_left(operated):
    worker = await operated.worker("w1", owns_time=False)
    other = await operated.worker("w1", crawl="c2", owns_time=False)
    await worker.add(*(entry(n, f"h{n}.test:80") for n in range(2000)), own={"x": b"1"}, shared={"y": b"2"})
    await other.add(entry(1))
    with pytest.raises(JobError, match="has workers: w1"):
        await operate.discard(operated.frontier, crawl="c")
    await worker.leave()
    assert await operate.discard(operated.frontier, crawl="c")
    assert await keys_of(worker) == []
    assert numbers(await other.tasks()) == [1]


async def test_a_report_says_how_it_stands(operated):
    worker = await operated.worker("w1", page_limit=50, owns_time=False)
    await worker.add(*(entry(n, f"h{n}.test:80") for n in range(5)), own={"stats": b"s"})
    await worker.take_allowance(20)
    async with asyncio.timeout(20):
        while not (tasks := await worker.tasks(2)):  # by its idea of the engine's clock they may be due in a moment
            pass
    await worker.end(Verdict.DONE, *tasks)
    found = await operate.report(operated.frontier, crawl="c")
    assert found["counts"]["queued"] == 3
    assert found["counts"]["completed"] == 2
    assert (found["due_hosts"], found["control"], found["page_limit"], found["pages_left"]) == (3, "running", 50, 30)
    (about,) = found["workers"]
    assert (about["name"], about["concurrency"]) == ("w1", 16)
    assert 0 <= about["heard_of_seconds_ago"] < 30
    assert found["memory_bytes"] > 100_000
    assert await operate.parts(operated.frontier, crawl="c") == {"w1": {"stats": b"s"}}


async def test_a_crawl_goes_to_another_engine_as_it_is(operated, own_server):
    worker = await operated.worker("w1", group_by="domain", page_limit=9, quota=50)
    now = operated.clock.now()
    await worker.add(
        *(entry(n, f"www.h{n % 5}.test:80", depth=n % 20, priority=n % 3 - 1, filtered=n % 7 > 0) for n in range(60)),
        entry(100, "late.test:80", not_before=now + 50.0),
        named=["www.h1.test:80"],
        of_hosts={"h1.test": {"robots/x": b"R"}},
        own={"positions": b"\x00\xff"},
        shared={"cookie/a": b"1", "started": b"1"},
    )
    loans = await worker.borrow(20)
    tasks = [task for loan in loans for task in loan.tasks]
    assert await worker.reach("x.test:80", 555, tasks[0].id)
    await worker.end(Verdict.RETRY, tasks[0])
    await worker.end(Verdict.DEAD, tasks[1], end=b"\x00why\n")
    await worker.broker.ask(Ask(0, [HostReturn(loans[0].key, 0.0, b"state", 50, 3)]))
    await operate.control(operated.frontier, crawl="c", to=Control.PAUSED)
    frozen = [row async for row in transfer.export(operated.frontier, crawl="c")]
    server = own_server()
    target = FrontierSettings(url=server.url, **operated.settings)

    async def rows():
        for row in frozen:
            yield transfer.msgspec.msgpack.decode(transfer.msgspec.msgpack.encode(row), type=transfer.Row)

    assert await transfer.import_(target, rows(), crawl="moved") == 60
    with pytest.raises(JobError, match="already"):
        await transfer.import_(target, rows(), crawl="moved")
    await operate.control(target, crawl="moved", to=Control.RUNNING)
    async with Crew(server.url) as crew:
        crew.clock.advance(operated.clock.now() - crew.clock.now())
        there = await crew.worker("w1", crawl="moved", group_by="domain", page_limit=9, quota=50)
        assert there.session.own == {"positions": b"\x00\xff"}
        assert there.session.shared == {"cookie/a": b"1", "started": b"1"}
        assert there.session.key == worker.session.key
        assert (
            await there.add(*(entry(n, f"www.h{n % 5}.test:80") for n in range(60) if n % 7), entry(555, "x.test:80"))
            == sum(n % 7 > 0 for n in range(60)) + 1
        )
        crew.clock.advance(1e9)
        with pytest.raises(SessionLost):
            await there.borrow()
        there = await crew.worker("w1", crawl="moved", group_by="domain", page_limit=9, quota=50)
        moved = {loan.key: loan for loan in await there.borrow(1000)}
        assert sum(len(loan.tasks) for loan in moved.values()) == 60
        assert moved["h1.test"].named == ["www.h1.test:80"]
        assert moved["h1.test"].values == {"robots/x": b"R"}
        assert moved[loans[0].key].state == b"state"
        found = {task.record: task for loan in moved.values() for task in loan.tasks}
        assert found[tasks[0].record].attempt == 1
        for task in tasks[2:]:
            again = found[task.record]
            assert (again.depth, again.priority, again.host, again.filtered, again.number) == (
                task.depth, task.priority, task.host, task.filtered, task.number,
            )  # fmt: skip
