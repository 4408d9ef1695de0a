"""`crawler jobs`: how jobs stand, what waits in them, their items, and away with them."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import msgspec
import pytest

from crawler import Spider
from crawler.contracts import Entry, Outcome, Verdict
from crawler.errors import JobDamaged, JobError, UsageError
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.jobs import find_jobs, held, holder, open_frontier, overview, remove
from crawler.politeness import HostRule
from crawler.request import Request, RequestCodec
from crawler.stats import Stats, write_json
from crawler.testing import LocalSite, run_spider

ROOT = Path(__file__).resolve().parent.parent
HOST = "a.test:80"
ENCODE = RequestCodec().encode


def entry(number, host=HOST, **fields):
    return Entry(host, number, ENCODE(Request(f"http://{host.removesuffix(':80')}/{number}")), **fields)


async def make_job(job, state="interrupted", *, add=(), done=0, retry=0, **values):
    now = time.time()
    rule = HostRule(delay=0.0, jitter=0.0, concurrency=1000)
    async with LocalFrontier(DiskStore(job / "frontier"), rule=lambda host: rule, rng=Random(1)) as frontier:
        frontier.add(add or [entry(number) for number in range(1, 11)], now)
        leases = (await frontier.lease(done + retry, now)).leases
        frontier.complete([Outcome(lease, Verdict.DONE) for lease in leases[:done]], now)
        frontier.complete([Outcome(lease, Verdict.RETRY, now + 100) for lease in leases[done:]], now)
        frontier.host("b.test:80", blocked_until=now + 600)
        totals = msgspec.msgpack.encode({"pages": done, "items": 2 * done})
        kept = {"spider": b"books", "key": b"k" * 16, "state": state.encode(), "stats": totals}
        await frontier.commit({**kept, **values}, now)
    stats = Stats("books", now)
    stats.reason = state
    write_json(job / "stats.json", stats.snapshot(now))


@contextlib.contextmanager
def at_work(job):
    """Another process that has the job's lock."""
    program = (
        "import pathlib, sys; from crawler.jobs import held\n"
        "with held(pathlib.Path(sys.argv[1])): print(flush=True), sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(job)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "\n"
        yield other.pid
        other.communicate("")


def damage(job):
    """A page of the queue in the file is no page any more."""
    path = job / "frontier" / "data.mdb"
    data = path.read_bytes()
    pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    path.write_bytes(b"".join(bytes(4096) if b"//a.test/7" in page else page for page in pages))


# -- list ------------------------------------------------------------------------------------------------------------


async def test_a_list_shows_each_job_with_its_state_and_progress(tmp_path, command):
    await make_job(tmp_path / "jobs/one", "finished", done=10)
    await make_job(tmp_path / "jobs/three", "running", done=1)
    await make_job(tmp_path / "jobs/two", "interrupted", done=4)
    (tmp_path / "jobs/no-job").mkdir()
    code, out, err = await asyncio.to_thread(command, "jobs")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["job", "spider", "state", "pages", "items", "waiting", "done", "size", "written"]
    assert lines[1][:8] == ["jobs/one", "books", "finished", "10", "20", "0", "10", "(100%)"]
    assert lines[2][:8] == ["jobs/three", "books", "killed", "1", "2", "9", "1", "(10%)"], "it says that it runs"
    assert lines[3][:8] == ["jobs/two", "books", "interrupted", "4", "8", "6", "4", "(40%)"]
    assert len(lines) == 4


async def test_as_json_it_is_an_object_a_line(tmp_path, command):
    await make_job(tmp_path / "jobs/one", "finished", done=10)
    _, out, _ = await asyncio.to_thread(command, "jobs", "list", "--json")
    told = json.loads(out)
    assert (told["job"], told["state"], told["done"], told["waiting"], told["pid"]) == (
        "jobs/one",
        "finished",
        10,
        0,
        None,
    )
    assert told["bytes"] > 4096
    assert time.time() - told["written"] < 600


async def test_a_folder_that_is_itself_a_job_shows_that_one(tmp_path, command):
    await make_job(tmp_path / "jobs/one")
    _, out, _ = await asyncio.to_thread(command, "jobs", "jobs/one")
    assert [line.split()[0] for line in out.splitlines()] == ["job", "jobs/one"]


async def test_a_damaged_job_and_one_of_another_version_hide_no_other(tmp_path):
    await make_job(tmp_path / "fine", "finished", done=10)
    await make_job(tmp_path / "hurt")
    damage(tmp_path / "hurt")
    await make_job(tmp_path / "new")
    path = tmp_path / "new/frontier/data.mdb"
    path.write_bytes(path.read_bytes().replace(b"\x06\0format2", b"\x06\0format9"))
    (tmp_path / "none/frontier").mkdir(parents=True)
    (tmp_path / "none/frontier/data.mdb").write_bytes(b"nothing of LMDB's")
    found = {job.name: overview(job) for job in find_jobs(tmp_path)}
    states = {name: found[name].state for name in found}
    assert states == {"fine": "finished", "hurt": "damaged", "new": "newer version", "none": "damaged"}
    assert "crawler jobs repair" in found["hurt"].remark
    assert found["hurt"].spider == "books", "as far as stats.json tells"
    assert "format 9" in found["new"].remark


async def test_a_job_kept_in_memory_is_listed_by_its_stats(tmp_path):
    stats = Stats("books", 1_000_000.0)
    stats.reason, stats.total.pages = "finished", 12
    (tmp_path / "job").mkdir()
    write_json(tmp_path / "job/stats.json", stats.snapshot(1_000_001.0))
    found = overview(tmp_path / "job")
    assert (found.state, found.pages, found.waiting, found.remark) == ("finished", 12, None, "kept in memory")


async def test_a_running_job_is_told_by_its_lock_with_the_process(tmp_path, command):
    await make_job(tmp_path / "jobs/one", "running")
    assert holder(tmp_path / "jobs/one") is None
    with at_work(tmp_path / "jobs/one") as pid:
        before = (tmp_path / "jobs/one/lock").read_bytes()
        assert holder(tmp_path / "jobs/one") == pid
        _, out, _ = await asyncio.to_thread(command, "jobs")
        assert f"running ({pid})" in out
        assert (tmp_path / "jobs/one/lock").read_bytes() == before
    assert overview(tmp_path / "jobs/one").state == "killed"


def test_without_jobs_it_says_so(tmp_path, command):
    code, _, err = command("jobs")
    assert (code, "Jobs are made by `crawler run`" in err) == (2, True)
    (tmp_path / "jobs").mkdir()
    assert command("jobs") == (0, "", "crawler: there is no job in jobs/\n")
    with pytest.raises(UsageError):
        find_jobs(tmp_path / "nowhere")


# -- rm ----------------------------------------------------------------------------------------------------------------


async def test_rm_takes_what_the_crawler_made_and_leaves_and_names_the_rest(tmp_path, command):
    await make_job(tmp_path / "jobs/one")
    await make_job(tmp_path / "jobs/two")
    for name in ("crawl.log", "demo-port", "lock"):
        (tmp_path / "jobs/one" / name).touch()
        (tmp_path / "jobs/two" / name).touch()
    (tmp_path / "jobs/one/frontier.damaged-2").mkdir()
    (tmp_path / "jobs/two/items.jsonl").write_text("{}\n")
    (tmp_path / "jobs/two/notes").mkdir()
    code, out, _ = await asyncio.to_thread(command, "jobs", "rm", "jobs/one", "jobs/two")
    assert (code, out) == (0, "removed jobs/one\nremoved jobs/two; kept in it: items.jsonl, notes\n")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "jobs", "jobs/two", "jobs/two/items.jsonl", "jobs/two/notes"
    ]  # fmt: skip


async def test_rm_refuses_a_running_job_and_what_is_no_job_before_it_removes_anything(tmp_path, command):
    await make_job(tmp_path / "jobs/one")
    await make_job(tmp_path / "jobs/two")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/lock").touch()
    with at_work(tmp_path / "jobs/two") as pid:
        code, _, err = await asyncio.to_thread(command, "jobs", "rm", "jobs/one", "jobs/two")
        assert (code, f"in use by process {pid}" in err) == (2, True)
    assert (tmp_path / "jobs/one/frontier").exists()
    code, _, err = await asyncio.to_thread(command, "jobs", "rm", "jobs/one", "mine")
    assert (code, "no job in mine" in err) == (2, True)
    assert (tmp_path / "jobs/one/frontier").exists()
    assert (tmp_path / "mine/lock").exists()


async def test_rm_follows_no_link_out_of_the_job(tmp_path):
    await make_job(tmp_path / "job")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/data").touch()
    (tmp_path / "job/frontier.damaged").symlink_to(tmp_path / "elsewhere")
    assert remove(tmp_path / "job") == []
    assert (tmp_path / "elsewhere/data").exists()


# -- frontier ----------------------------------------------------------------------------------------------------------


async def test_frontier_counts_what_waits_by_host_and_by_what_it_waits_for(tmp_path, command):
    now = time.time()
    others = [entry(21, "b.test:80"), entry(22, "b.test:80"), entry(31, "c.test:80", not_before=now + 3000)]
    await make_job(tmp_path / "job", add=[*(entry(number) for number in range(1, 11)), *others], retry=4)
    code, out, err = await asyncio.to_thread(command, "jobs", "frontier", "job", "--limit", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "13 requests wait at 3 hosts"
    assert lines[-3].startswith(f"{HOST}       10 ")
    assert lines[-2].split()[:6] == ["b.test:80", "2", "0", "0", "0", "2"]
    assert lines[-1] == "and 1 host more; --limit 0 shows all"
    _, out, _ = await asyncio.to_thread(command, "jobs", "frontier", "job", "--json")
    told = json.loads(out)
    reasons = told["by_reason"]
    assert (reasons["paused"], reasons["not before"], reasons["ready"] + reasons["retry"]) == (2, 1, 10)
    assert lines[1].split() == ["ready", str(reasons["ready"])]
    assert lines[2].split()[:2] == ["retry", str(reasons["retry"])]
    assert told["first_due"]["not before"] == pytest.approx(now + 3000, abs=1)
    assert [host["host"] for host in told["hosts"]] == [HOST, "b.test:80", "c.test:80"]


async def test_frontier_lists_the_requests_of_one_host_in_their_order_without_secrets(tmp_path, command):
    secret = Entry(HOST, 99, ENCODE(Request("http://user:hunter2@a.test/99")), priority=9)
    post = Entry(HOST, 98, ENCODE(Request("http://a.test/98", method="POST")), depth=3)
    await make_job(tmp_path / "job", add=[entry(1), post, secret])
    code, out, _ = await asyncio.to_thread(command, "jobs", "frontier", "job", "--host", "a.test")
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["http://***@a.test/99", "0", "0", "now"],
        ["http://a.test/1", "0", "0", "now"],
        ["POST", "http://a.test/98", "3", "0", "now"],
    ]
    _, out, _ = await asyncio.to_thread(command, "jobs", "frontier", "job", "--host", HOST, "--json", "--limit", "1")
    assert json.loads(out) == {
        "url": "http://***@a.test/99", "method": "GET", "depth": 0, "attempts": 0, "priority": 9, "due": None,
        "waits_for": "ready",
    }  # fmt: skip
    assert (
        "nothing waits at z.test"
        in (await asyncio.to_thread(command, "jobs", "frontier", "job", "--host", "z.test"))[1]
    )


async def test_a_job_that_cannot_be_read_says_why(tmp_path, command):
    await make_job(tmp_path / "hurt")
    damage(tmp_path / "hurt")
    code, _, err = await asyncio.to_thread(command, "jobs", "frontier", "hurt")
    assert (code, "is damaged" in err, "crawler jobs repair hurt" in err) == (69, True, True)
    assert "no job in nothing" in (await asyncio.to_thread(command, "jobs", "frontier", "nothing"))[2]
    with pytest.raises(JobDamaged), open_frontier(tmp_path / "hurt"):
        pass
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/stats.json").write_text("{}")
    with pytest.raises(JobError, match="kept in memory"), open_frontier(tmp_path / "memory"):
        pass


# -- export ------------------------------------------------------------------------------------------------------------


class Pages(Spider):
    name = "pages"
    site = ""

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        yield {"url": response.url, "size": len(response.body)}
        yield response.follow_all()


@pytest.fixture
async def crawled(tmp_path):
    """A job with two outputs, and the URLs of its items."""
    async with LocalSite() as site:
        site.page("/", "".join(f'<a href="/{number}">.</a>' for number in range(30)))
        for number in range(30):
            site.page(f"/{number}", "x" * number)
        outputs = [tmp_path / "job/out.csv", tmp_path / "job/out.jsonl"]
        run = await run_spider(Pages, args={"site": site.url}, job=tmp_path / "job", output=outputs)
    return [item["url"] for item in run.items]


async def test_export_gives_the_items_from_the_output_that_keeps_values_best(tmp_path, crawled, command):
    code, out, err = await asyncio.to_thread(command, "jobs", "export", "job")
    assert code == 0
    items = [json.loads(line) for line in out.splitlines()]
    assert [item["url"] for item in items] == crawled
    assert all(type(item["size"]) is int for item in items), "of CSV they would be text"
    assert "31 items of" in err


async def test_export_stops_at_what_is_committed_and_writes_any_format(tmp_path, crawled, command):
    with (tmp_path / "job/out.jsonl").open("a") as file:
        file.write('{"url": "of an epoch that is open"}\n{"torn')
    code, out, _ = await asyncio.to_thread(command, "jobs", "export", "job", "-o", "copy.csv")
    assert (code, out) == (0, "")
    with open(tmp_path / "copy.csv", newline="") as file:
        assert [row["url"] for row in csv.DictReader(file)] == crawled


async def test_export_of_a_copied_job_reads_the_output_that_was_copied_with_it(tmp_path, crawled, command):
    os.rename(tmp_path / "job", tmp_path / "moved")
    code, out, _ = await asyncio.to_thread(command, "jobs", "export", "moved")
    assert (code, len(out.splitlines())) == (0, 31)


async def test_export_refuses_to_write_over_the_jobs_own_output(tmp_path, crawled, command):
    before = (tmp_path / "job/out.jsonl").read_bytes()
    code, _, err = await asyncio.to_thread(command, "jobs", "export", "job", "-o", "job/out.jsonl")
    assert (code, "the job's own output" in err) == (2, True)
    assert (tmp_path / "job/out.jsonl").read_bytes() == before


async def test_export_of_a_job_without_outputs_says_that_it_was_told_to_write_none(tmp_path, command):
    await make_job(tmp_path / "job")
    code, _, err = await asyncio.to_thread(command, "jobs", "export", "job")
    assert (code, "was told to write no output" in err) == (2, True)
    places = msgspec.msgpack.encode({"-": ("-", "-", "jsonl")})
    await make_job(tmp_path / "piped", outputs=places, positions=msgspec.msgpack.encode({"-": b""}))
    code, _, err = await asyncio.to_thread(command, "jobs", "export", "piped")
    assert (code, "standard output only" in err) == (2, True)


# -- repair, from the command line -------------------------------------------------------------------------------------


async def test_repair_names_the_damage_and_says_in_numbers_what_was_lost(tmp_path, command):
    await make_job(tmp_path / "job", done=2)
    assert await asyncio.to_thread(command, "jobs", "repair", "job") == (0, "job: nothing to repair\n", "")
    damage(tmp_path / "job")
    code, out, err = await asyncio.to_thread(command, "jobs", "repair", "job")
    assert (code, err) == (0, "")
    assert "job: damaged\n  records, page" in out
    assert "the damaged frontier is kept as frontier.damaged" in out
    assert "0 waiting; lost: 8" in out
    assert out.endswith("repaired: the same `crawler run` continues\n")
    assert overview(tmp_path / "job").state == "interrupted"
    with held(tmp_path / "job"):
        assert (await asyncio.to_thread(command, "jobs", "repair", "job"))[0] == 2


def test_help_shows_every_verb(command):
    _, out, _ = command("jobs", "--help")
    for verb in ("list", "rm", "frontier", "export", "repair"):
        assert f"\n    {verb} " in out
    assert command("jobs", "frontier", "job", "--limit", "few")[0] == 2
