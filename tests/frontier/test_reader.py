"""A frontier as another process sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import msgspec
import pytest

from crawler.contracts import Entry, Outcome, Verdict
from crawler.errors import JobDamaged, JobError
from crawler.fate import Fate, Refusal
from crawler.frontier.backlog import Backlog
from crawler.frontier.disk import DiskStore
from crawler.frontier.kept import Origin
from crawler.frontier.local import LocalFrontier
from crawler.frontier.reader import FrontierReader
from crawler.politeness import HostRule
from crawler.request import Request, RequestCodec

NOW = 1_000_000.0
ROOT = Path(__file__).resolve().parents[2]
HOST = "a.test:80"
ENCODE = RequestCodec().encode


def frontier_in(folder, order="breadth"):
    rule = HostRule(delay=0.0, jitter=0.0, concurrency=100)
    return LocalFrontier(DiskStore(folder), rule=lambda host: rule, order=order, rng=Random(1))


def entry(number, host=HOST, **fields):
    url = f"http://{host.removesuffix(':80')}/{number}"
    return Entry(host, number, ENCODE(Request(url)), **fields)


async def test_it_tells_what_the_job_is_and_how_far_it_came(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(1), entry(2), entry(2)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.DONE, 0.0, b"")], NOW)
        values = {
            "spider": b"books",
            "key": b"k" * 16,
            "state": b"interrupted",
            "stats": msgspec.msgpack.encode({"pages": 1}),
            "positions": msgspec.msgpack.encode({"out.jsonl": b"7"}),
            "outputs": msgspec.msgpack.encode({"out.jsonl": ("out.jsonl", "/somewhere/out.jsonl", "jsonl")}),
        }
        await frontier.commit(values, NOW)
    with FrontierReader(tmp_path) as reader:
        values = reader.values
        assert (values.spider, values.key, values.state) == ("books", b"k" * 16, "interrupted")
        assert values.counters[1:] == (2, 1, 1)
        assert values.stats == {"pages": 1}
        assert values.seen == (2, 1 ^ 2)
        assert values.positions == {"out.jsonl": b"7"}
        assert values.outputs["out.jsonl"].path == "/somewhere/out.jsonl"


async def test_what_waits_is_read_in_order_and_what_is_put_off_by_its_time(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        later = [entry(5, not_before=NOW + 60), entry(6, not_before=NOW + 30)]
        frontier.add([entry(1, depth=2), entry(2, depth=1), entry(3, priority=5), *later, entry(9, "b.test:80")], NOW)
        await frontier.commit({}, NOW)
    with FrontierReader(tmp_path) as reader:
        found = list(reader.waiting(HOST))
        assert [request.url for request in found] == [f"http://a.test/{number}" for number in (3, 2, 1, 6, 5)]
        assert [request.due for request in found] == [0, 0, 0, NOW + 30, NOW + 60]
        assert [request.depth for request in found] == [0, 1, 2, 0, 0]
        assert found[0].priority == 5
        assert list(reader.waiting("c.test:80")) == []


@pytest.mark.parametrize("order", ["breadth", "depth"])
async def test_the_depth_of_a_request_is_the_same_in_either_order_of_the_crawl(tmp_path, order):
    async with frontier_in(tmp_path, order) as frontier:
        frontier.add([entry(1, depth=3), entry(2, depth=70_000)], NOW)
        await frontier.commit({}, NOW)
    with FrontierReader(tmp_path) as reader:
        assert reader.find(HOST, 1).depth == 3


async def test_a_request_is_found_where_it_waits_and_where_it_ended(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(1)], NOW)
        (first,) = (await frontier.lease(1, NOW)).leases
        frontier.add([entry(2, parent=(HOST, 1)), entry(3, "b.test:80", parent=(HOST, 2))], NOW)
        frontier.complete([Outcome(first, Verdict.DONE, 0.0, Fate("http://a.test/1", "done", NOW).encode())], NOW)
        leases = (await frontier.lease(2, NOW)).leases
        second = next(lease for lease in leases if lease.host == HOST)
        frontier.complete([Outcome(second, Verdict.RETRY, NOW + 9)], NOW)
        await frontier.commit({}, NOW)
    with FrontierReader(tmp_path) as reader:
        origin, fate = reader.end(HOST, 1)
        assert (origin, fate.url, fate.verdict) == (None, "http://a.test/1", "done")
        assert reader.find(HOST, 1) is None
        again = reader.find(HOST, 2)
        assert (again.attempt, again.due, again.origin) == (1, NOW + 9, Origin(HOST, 1))
        assert reader.parent(again.origin) == ("http://a.test/1", None)
        third = reader.find("b.test:80", 3)
        assert reader.parent(third.origin) == ("http://a.test/2", Origin(HOST, 1)), "a parent may wait itself"
        assert reader.knows("b.test:80", 3)
        assert not reader.knows("b.test:80", 4)
        assert not reader.knows("nowhere.test:80", 3)
        assert reader.end("nowhere.test:80", 3) is None


async def test_refusals_deaths_and_hosts_are_told(tmp_path):
    refusal = Refusal("http://b.test/", "offsite", 1, "http://a.test/1", NOW)
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(1)], NOW)
        frontier.host(HOST, blocked_until=NOW + 50)
        await frontier.commit({f"refused/{7:016x}": refusal.encode(), f"death/{1:016x}": b"2"}, NOW)
    with FrontierReader(tmp_path) as reader:
        assert reader.values.refusal(7) == refusal
        assert reader.values.refusal(8) is None
        assert (reader.values.deaths(1), reader.values.deaths(2)) == (2, 0)
        assert reader.host_state(HOST).blocked_until == NOW + 50
        assert reader.host_state("b.test:80") is None


async def test_what_waits_is_counted_by_host_and_by_what_it_waits_for(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(number) for number in range(4)], NOW)
        (lease,) = (await frontier.lease(1, NOW)).leases
        frontier.complete([Outcome(lease, Verdict.RETRY, NOW + 20)], NOW)
        frontier.add([entry(10, "b.test:80"), entry(11, "b.test:80", not_before=NOW + 90)], NOW)
        frontier.add([entry(12, "c.test:80", not_before=NOW + 40)], NOW)
        frontier.host("b.test:80", blocked_until=NOW + 60)
        await frontier.commit({}, NOW)
    with FrontierReader(tmp_path) as reader:
        found = Backlog.of(reader, NOW)
        assert (found.count, [(host.host, host.count) for host in found.hosts]) == (
            7,
            [(HOST, 4), ("b.test:80", 2), ("c.test:80", 1)],
        )
        assert found.by_reason == {"ready": 3, "retry": 1, "not before": 2, "paused": 1}
        assert found.first_due == {"retry": NOW + 20, "not before": NOW + 40, "paused": NOW + 60}
        assert found.hosts[1].paused_until == NOW + 60
        assert Backlog.of(reader, NOW + 100).by_reason == {"ready": 6, "retry": 1, "not before": 0, "paused": 0}


_WRITER = """
import asyncio, pathlib, sys
sys.path.insert(0, {tests!r})
from test_reader import NOW, entry, frontier_in

async def main():
    async with frontier_in(pathlib.Path({folder!r})) as frontier:
        for number in range(1, 4):
            frontier.add([entry(number)], NOW)
            await frontier.commit({{"state": b"running"}}, NOW)
            frontier.add([entry(100 + number)], NOW)
            print(number, flush=True)
            sys.stdin.readline()

asyncio.run(main())
"""


def test_of_a_running_job_the_last_epoch_is_seen_and_no_other_until_it_is_renewed(tmp_path):
    program = _WRITER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as writer:
        assert writer.stdout.readline() == "1\n"
        with FrontierReader(tmp_path) as reader:
            assert [request.fingerprint for request in reader.waiting(HOST)] == [1], "101 is in the open epoch"
            writer.stdin.write("\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "2\n"
            assert [request.fingerprint for request in reader.waiting(HOST)] == [1]
            assert reader.values.counters.added == 1
            reader.renew()
            assert [request.fingerprint for request in reader.waiting(HOST)] == [1, 101, 2]
            assert reader.values.counters.added == 3
        writer.communicate("\n\n")
    assert writer.returncode == 0


async def test_a_folder_without_a_frontier_and_one_of_another_format_are_refused(tmp_path):
    with pytest.raises(JobError, match="no frontier in"), FrontierReader(tmp_path):
        pass
    async with frontier_in(tmp_path) as frontier:
        await frontier.commit({}, NOW)
    data = (tmp_path / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(data.replace(b"\x06\0format2", b"\x06\0format9"))
    with pytest.raises(JobError, match=r"newer version .*format 9"), FrontierReader(tmp_path):
        pass


async def test_a_row_or_a_value_that_is_not_what_was_written_is_said_to_be_damaged(tmp_path):
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(1), entry(2)], NOW)
        await frontier.commit({"spider": b"books-and-more"}, NOW)
    data = (tmp_path / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(data.replace(b"//a.test/2", b"//a.test/3").replace(b"and-more", b"and-less"))
    with FrontierReader(tmp_path) as reader:
        with pytest.raises(JobDamaged, match=r"a waiting request is not what was written.*crawler jobs repair"):
            list(reader.waiting(HOST))
        with pytest.raises(JobDamaged, match="'spider' is not what was written"):
            _ = reader.values.spider


async def test_a_file_that_is_no_environment_is_said_to_be_damaged(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"\x55" * 16384)
    with pytest.raises(JobDamaged), FrontierReader(tmp_path):
        pass
