"""`crawler jobs repair`: whatever is damaged, it is named, and what can be read continues."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import lmdb
import msgspec
import pytest

from crawler import Spider
from crawler.contracts import Entry, Outcome, Verdict
from crawler.errors import EngineUnavailable, JobDamaged, JobError
from crawler.export import make_exporter
from crawler.fate import Fate
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.frontier.pages import check, salvage
from crawler.frontier.reader import FrontierReader
from crawler.frontier.remains import find_damages
from crawler.jobs import held
from crawler.politeness import HostRule
from crawler.repair import repair
from crawler.request import Request, RequestCodec
from crawler.testing import LocalSite, run_spider

ROOT = Path(__file__).resolve().parent.parent
NOW = 1_000_000.0
PAGE = 4096
HOSTS = [f"h{number}.test:80" for number in range(7)]
TOTAL, ENDED, AGAIN = 700, 250, 30
KEY = b"0123456789abcdef"
ENCODE = RequestCodec().encode


def frontier_in(job):
    rule = HostRule(delay=0.0, jitter=0.0, concurrency=10_000)
    return LocalFrontier(DiskStore(job / "frontier"), rule=lambda host: rule, rng=Random(1))


def host_of(number):
    return HOSTS[number % len(HOSTS)]


def url_of(number):
    return f"http://{host_of(number).removesuffix(':80')}/page-{number:05}-{'x' * 60}"


def entry(number, **fields):
    return Entry(host_of(number), number, ENCODE(Request(url_of(number), priority=number % 3)), number % 3, **fields)


def end_of(lease):
    return Fate(url_of(lease.fingerprint), "done", NOW, lease.depth).encode()


async def make_job(job, **values):
    """Requests 1 to `TOTAL`: some ended, some wait for another try, the others wait; each is linked from a page."""
    async with frontier_in(job) as frontier:
        frontier.add([entry(1)], NOW)
        (first,) = (await frontier.lease(1, NOW)).leases
        frontier.add([entry(n, depth=1, parent=(host_of(1), 1)) for n in range(2, TOTAL + 1)], NOW)
        leases = [first, *(await frontier.lease(ENDED + AGAIN - 1, NOW)).leases]
        frontier.complete([Outcome(lease, Verdict.DONE, 0.0, end_of(lease)) for lease in leases[:ENDED]], NOW)
        frontier.complete([Outcome(lease, Verdict.RETRY, NOW + 60) for lease in leases[ENDED:]], NOW)
        kept = {"key": KEY, "spider": b"pages", "state": b"running", "started": b"1", "named": b"[]", "requeued": b"1"}
        kept |= {"stats": msgspec.msgpack.encode({"pages": ENDED}), "outputs": b"\x80", "positions": b"\x80"}
        await frontier.commit(kept, NOW)
        await frontier.commit(values, NOW)
    return {lease.fingerprint for lease in leases[:ENDED]}


class Look:
    """What a job's frontier holds."""

    def __init__(self, job):
        with FrontierReader(job / "frontier") as reader:
            self.state, self.counters, self.seen = reader.values.state, reader.values.counters, reader.values.seen
            self.started, self.requeued = reader.values.get("started"), reader.values.get("requeued")
            self.key, self.spider = reader.values.key, reader.values.spider
            self.waiting = {each.fingerprint: each for host in HOSTS for each in reader.waiting(host)}
            numbers = range(1, TOTAL + 1)
            self.ended = {number for number in numbers if reader.end(host_of(number), number) is not None}
            self.known = {number for number in numbers if reader.knows(host_of(number), number)}

    def assert_sound(self):
        assert self.counters.added - self.counters.completed == len(self.waiting)
        assert self.seen[0] >= len(self.known)
        assert self.known >= self.ended | set(self.waiting)
        assert self.state == "interrupted"


def pages_with(job, database):
    """The leaf pages that hold a database's rows, and the keys on each."""
    data = (job / "frontier" / "data.mdb").read_bytes()
    keys = [key for key, _ in salvage(job / "frontier", database)]
    found = {}
    for at in range(2 * PAGE, len(data), PAGE):
        number, _, kind, lower, _ = struct.unpack_from("<QHHHH", data, at)
        if number * PAGE == at and kind == 2:
            offsets = struct.unpack_from(f"<{(lower - 16) >> 1}H", data, at + 16)
            sizes = [struct.unpack_from("<H", data, at + offset + 6)[0] for offset in offsets]
            here = {data[at + offset + 8 : at + offset + 8 + size] for offset, size in zip(offsets, sizes, strict=True)}
            if here & set(keys):
                found[at] = here
    return found


def overwrite(job, at, content):
    with (job / "frontier" / "data.mdb").open("r+b") as file:
        file.seek(at)
        file.write(content)


def live_pages(job, database):
    """Of those, the ones that the newest state uses: zeroed, they are missed."""
    found = []
    for at in pages_with(job, database):
        data = (job / "frontier" / "data.mdb").read_bytes()
        overwrite(job, at, bytes(PAGE))
        if any(damage.database == database for damage in check(job / "frontier", thorough=True)):
            found.append(at)
        overwrite(job, at, data[at : at + PAGE])
    return found


async def test_of_a_sound_job_nothing_is_repaired_and_nothing_is_written(tmp_path):
    await make_job(tmp_path)
    before = (tmp_path / "frontier" / "data.mdb").read_bytes()
    done = await repair(tmp_path)
    assert (done.damages, done.rebuilt, done.kept_as) == ([], None, "")
    assert (tmp_path / "frontier" / "data.mdb").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frontier", "lock"]


@pytest.mark.parametrize("seed", range(6))
async def test_with_flipped_bytes_in_rows_everything_else_is_saved(tmp_path, seed):
    ended = await make_job(tmp_path)
    rng = Random(seed)
    data = (tmp_path / "frontier" / "data.mdb").read_bytes()
    hurt = set(rng.sample(sorted(set(range(1, TOTAL + 1)) - ended), 5))
    for number in hurt:
        url = url_of(number).encode()
        at = data.find(url)
        while at >= 0:  # in whichever copy of the page
            overwrite(tmp_path, at + rng.randrange(len(url)), bytes([rng.randrange(256) | 0x80]))
            at = data.find(url, at + 1)
    assert any("waiting request" in damage for damage in find_damages(tmp_path / "frontier"))
    done = await repair(tmp_path)
    look = Look(tmp_path)
    look.assert_sound()
    assert set(look.waiting) == set(range(1, TOTAL + 1)) - ended - hurt
    assert look.ended == ended
    assert not look.known & hurt, "what was lost can be found again"
    assert (look.started, look.requeued) == (None, None), "what was lost may be of a crawl that is being refreshed"
    assert (done.rebuilt.waiting_lost, done.rebuilt.known_dropped, done.rebuilt.starts_again) == (5, 5, True)
    assert (tmp_path / "frontier.damaged" / "data.mdb").exists()
    assert (await repair(tmp_path)).damages == []


@pytest.mark.parametrize("seed", range(5))
async def test_with_pages_of_requests_gone_the_requests_on_all_others_are_saved(tmp_path, seed):
    ended = await make_job(tmp_path)
    before = Look(tmp_path)
    pages = pages_with(tmp_path, "records")
    gone = Random(seed).sample(live_pages(tmp_path, "records"), 2)
    with FrontierReader(tmp_path / "frontier") as reader:
        lost = {row.fingerprint for _, _, order, row in reader.rows() if any(order[6:] in pages[at] for at in gone)}
    for at in gone:
        overwrite(tmp_path, at, bytes(PAGE))
    with pytest.raises(JobDamaged):
        async with frontier_in(tmp_path):
            pass
    done = await repair(tmp_path)
    look = Look(tmp_path)
    look.assert_sound()
    assert lost
    assert set(look.waiting) == set(before.waiting) - lost
    assert all(look.waiting[number] == before.waiting[number] for number in look.waiting), "as they waited before"
    assert look.ended == ended
    assert done.rebuilt.waiting_lost == len(lost)
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW + 100)
        assert frontier.add([entry(number) for number in lost], NOW + 100) == len(lost)
        leased = (await frontier.lease(10_000, NOW + 100)).leases
        assert {lease.fingerprint for lease in leased} == set(before.waiting)


@pytest.mark.parametrize("database", ["queue", "deferred"])
async def test_with_the_order_of_the_queue_gone_no_request_is_lost(tmp_path, database):
    await make_job(tmp_path)
    before = Look(tmp_path)
    for at in live_pages(tmp_path, database):
        overwrite(tmp_path, at, bytes(PAGE))
    done = await repair(tmp_path)
    look = Look(tmp_path)
    look.assert_sound()
    assert set(look.waiting) == set(before.waiting)
    for number, request in look.waiting.items():
        assert (request.url, request.priority, request.depth) == (before.waiting[number].url, number % 3, 1)
    assert (done.rebuilt.waiting_lost, done.rebuilt.known_dropped, look.started) == (0, 0, b"1")
    assert look.requeued == b"1"
    assert done.rebuilt.replaced == (AGAIN if database == "deferred" else TOTAL - ENDED - AGAIN)


async def test_with_ends_gone_and_no_request_lost_nothing_is_fetched_again(tmp_path):
    await make_job(tmp_path)
    before = Look(tmp_path)
    at = live_pages(tmp_path, "ends")[0]
    overwrite(tmp_path, at, bytes(PAGE))
    done = await repair(tmp_path)
    look = Look(tmp_path)
    look.assert_sound()
    assert look.waiting == before.waiting
    assert look.known == before.known
    assert 0 < done.rebuilt.ended_lost == ENDED - len(look.ended)


async def test_with_what_is_known_gone_it_is_known_again_from_what_waits_and_what_ended(tmp_path):
    await make_job(tmp_path)
    before = Look(tmp_path)
    for at in pages_with(tmp_path, "seen"):
        overwrite(tmp_path, at, bytes(PAGE))
    assert (await repair(tmp_path)).damages
    look = Look(tmp_path)
    look.assert_sound()
    assert (look.known, look.waiting, look.ended) == (before.known, before.waiting, before.ended)


@pytest.mark.parametrize("database", ["hosts", "names"])
async def test_with_the_names_of_hosts_gone_they_are_told_by_the_other_table(tmp_path, database):
    await make_job(tmp_path)
    before = Look(tmp_path)
    for at in live_pages(tmp_path, database):
        overwrite(tmp_path, at, bytes(PAGE))
    assert (await repair(tmp_path)).rebuilt.hosts == len(HOSTS)
    look = Look(tmp_path)
    look.assert_sound()
    assert (look.known, look.waiting, look.ended) == (before.known, before.waiting, before.ended)


async def test_a_host_whose_name_was_changed_gets_its_own_back(tmp_path):
    await make_job(tmp_path)
    before = Look(tmp_path)
    data = (tmp_path / "frontier" / "data.mdb").read_bytes()
    for at in live_pages(tmp_path, "names"):
        overwrite(tmp_path, at, data[at : at + PAGE].replace(b"h3.test:80", b"h8.test:80"))
    assert any("host name" in damage for damage in find_damages(tmp_path / "frontier"))
    await repair(tmp_path)
    assert Look(tmp_path).waiting == before.waiting


async def test_with_the_values_gone_the_key_is_found_on_an_old_page(tmp_path):
    await make_job(tmp_path)
    async with frontier_in(tmp_path) as frontier:  # the values are written anew, on another page
        await frontier.commit({"state": b"running"}, NOW)
    before = Look(tmp_path)
    for at in live_pages(tmp_path, "values"):
        overwrite(tmp_path, at, bytes(PAGE))
    done = await repair(tmp_path)
    look = Look(tmp_path)
    look.assert_sound()
    assert (look.key, look.spider) == (KEY, "pages")
    assert (look.known, look.waiting, look.ended) == (before.known, before.waiting, before.ended)
    assert "stats" in done.rebuilt.values_lost
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(TOTAL + 1)], NOW)
        await frontier.commit({}, NOW)
    assert set(Look(tmp_path).waiting) == {*before.waiting, TOTAL + 1}, "no row was written over"


async def test_without_the_key_it_says_that_nothing_can_be_made_of_it(tmp_path):
    await make_job(tmp_path)
    data = (tmp_path / "frontier" / "data.mdb").read_bytes()
    (tmp_path / "frontier" / "data.mdb").write_bytes(data.replace(KEY, KEY[::-1]))
    with pytest.raises(JobDamaged, match="its key is lost"):
        await repair(tmp_path)
    assert (tmp_path / "frontier" / "data.mdb").exists()


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_page_is_gone_it_is_named_and_the_rest_opens_or_it_is_refused(tmp_path, seed):
    await make_job(tmp_path)
    rng = Random(seed)
    size = (tmp_path / "frontier" / "data.mdb").stat().st_size
    (tmp_path / "frontier" / "snapshots").unlink()
    for _ in range(rng.choice((1, 3))):
        at = rng.randrange(size // PAGE) * PAGE
        overwrite(tmp_path, at, rng.choice((bytes(PAGE), rng.randbytes(PAGE), rng.randbytes(64))))
    try:
        done = await repair(tmp_path)
    except JobDamaged:
        return
    if done.damages:
        Look(tmp_path).assert_sound()
    async with frontier_in(tmp_path) as frontier:
        frontier.resume(NOW + 100)
        count = len((await frontier.lease(10_000, NOW + 100)).leases)
    if not done.damages:
        assert count == TOTAL - ENDED, "a page that nothing used"
    elif done.rebuilt.waiting_lost is None:
        assert count < TOTAL - ENDED
    else:
        assert count == TOTAL - ENDED - done.rebuilt.waiting_lost


async def test_a_torn_meta_page_costs_nothing(tmp_path):
    await make_job(tmp_path)
    before = Look(tmp_path)
    for page in (0, 1):
        overwrite(tmp_path, page * PAGE, bytes(PAGE))
        assert (await repair(tmp_path)).damages == []
        assert Look(tmp_path).waiting == before.waiting


async def test_a_running_job_and_one_of_a_newer_version_are_refused(tmp_path):
    await make_job(tmp_path)
    data = (tmp_path / "frontier" / "data.mdb").read_bytes()
    (tmp_path / "frontier" / "data.mdb").write_bytes(data.replace(b"\x06\0format2", b"\x06\0format9"))
    with pytest.raises(JobError, match="newer version"):
        await repair(tmp_path)
    with held(tmp_path), pytest.raises(JobError, match=f"in use by process {os.getpid()}"):
        await repair(tmp_path)
    with pytest.raises(JobError, match="no job in"):
        await repair(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("point", ["repair_rebuilt", "repair_between"])
async def test_killed_in_its_middle_it_is_finished_by_the_next(tmp_path, point):
    await make_job(tmp_path)
    before = Look(tmp_path)
    overwrite(tmp_path, live_pages(tmp_path, "queue")[0], bytes(PAGE))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CRAWLER_CRASH_AT": point}
    command = [sys.executable, "-m", "crawler", "jobs", "repair", str(tmp_path)]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "frontier").exists() == (point == "repair_rebuilt")
    done = await repair(tmp_path)
    assert done.damages
    assert Look(tmp_path).waiting.keys() == before.waiting.keys()
    assert not (tmp_path / "frontier.repaired").exists()
    assert (await repair(tmp_path)).damages == []


class Web(Spider):
    """Every page links to all, so what is lost is found again."""

    name = "web"
    site = ""

    async def start(self):
        yield self.request(self.site + "/0")

    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all()


async def test_a_crawl_goes_on_after_a_repair_and_no_page_is_missed_or_had_twice(tmp_path):
    job, output = tmp_path / "job", tmp_path / "out.jsonl"
    async with LocalSite() as site:
        links = [f"/{number}-{'x' * 60}" for number in range(150)]
        text = "".join(f'<a href="{link}">.</a>' for link in [*links[:40], *(f"/bad{n}" for n in range(5)), *links])
        for path in ("/0", *links):
            site.page(path, text)
        crawl = {"spider": Web, "args": {"site": site.url}, "job": job, "output": output}
        first = await run_spider(**crawl, settings={"crawl": {"error_limit": 5, "concurrency": 2}})
        assert first.reason == "error_limit"
        for at in live_pages(job, "records")[:2]:
            overwrite(job, at, bytes(PAGE))
        with pytest.raises(JobDamaged, match="crawler jobs repair"):
            await run_spider(**crawl)
        assert (await repair(job)).rebuilt.waiting_lost > 0
        second = await run_spider(**crawl)
        assert second.reason == "finished"
        wanted = sorted(f"{site.url}{path}" for path in ("/0", *links))
    assert sorted(json.loads(line)["url"] for line in output.read_text().splitlines()) == wanted


# -- outputs -----------------------------------------------------------------------------------------------------------


async def write_output(job, name, count):
    exporter = make_exporter(str(job / name), True)
    await exporter.open(None)
    for number in range(count):
        exporter.append(exporter.encode({"number": number, "text": "x" * 50}))
    position = await exporter.flush()
    format = exporter.format
    await exporter.close()
    return {
        "outputs": msgspec.msgpack.encode({name: (name, str(job / name), format)}),
        "positions": msgspec.msgpack.encode({name: position}),
    }


@pytest.mark.parametrize(("harm", "left"), [("cut", 98), ("zeroed", 97), ("flipped", 99)])
async def test_a_torn_output_is_set_back_to_its_last_whole_item(tmp_path, harm, left):
    await make_job(tmp_path, **await write_output(tmp_path, "out.jsonl", 100))
    (tmp_path / "frontier" / "snapshots").unlink()
    path = tmp_path / "out.jsonl"
    text = path.read_bytes()
    line = len(text.splitlines(keepends=True)[-1])
    whole = {"cut": text[: -line - 5], "zeroed": text[: -2 * line - 5].ljust(len(text), b"\0"), "flipped": text}[harm]
    path.write_bytes(whole if harm != "flipped" else text[:-3] + b"\x80" + text[-2:])
    done = await repair(tmp_path)
    assert (done.rebuilt, done.unrepaired, done.items_lost) == (None, [], {"out.jsonl": 100 - left})
    with FrontierReader(tmp_path / "frontier") as reader:
        position = reader.values.positions["out.jsonl"]
    exporter = make_exporter(str(path), False)
    assert await exporter.holds(position)
    await exporter.open(position)
    await exporter.close()
    assert path.read_bytes() == b"".join(text.splitlines(keepends=True)[:left])
    assert (await repair(tmp_path)).damages == []


async def test_where_earlier_epochs_are_kept_the_frontier_goes_back_and_no_item_is_lost(tmp_path):
    first = await write_output(tmp_path, "out.jsonl", 60)
    await make_job(tmp_path, **first)
    second = await write_output(tmp_path, "out.jsonl", 100)
    async with frontier_in(tmp_path) as frontier:
        frontier.add([entry(TOTAL + 1)], NOW)
        await frontier.commit(second, NOW)
    text = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(text[:-10])
    done = await repair(tmp_path)
    assert (done.epochs_back, done.items_lost, done.unrepaired) == (1, {}, [])
    with FrontierReader(tmp_path / "frontier") as reader:
        assert reader.values.positions == msgspec.msgpack.decode(first["positions"])
        assert not reader.knows(host_of(TOTAL + 1), TOTAL + 1)


async def test_an_output_that_cannot_be_cut_or_is_missing_is_named_with_what_can_be_done(tmp_path):
    await make_job(tmp_path, **await write_output(tmp_path, "out.csv", 100))
    (tmp_path / "frontier" / "snapshots").unlink()
    path = tmp_path / "out.csv"
    path.write_bytes(path.read_bytes()[:-10])
    (message,) = (await repair(tmp_path)).unrepaired
    assert "out.csv" in message
    assert "--fresh" in message
    path.unlink()
    (message,) = (await repair(tmp_path)).unrepaired
    assert "it is missing" in message


async def test_a_disk_that_fails_meanwhile_leaves_the_job_as_it_was(tmp_path, monkeypatch):
    await make_job(tmp_path)
    at = live_pages(tmp_path, "queue")[0]
    overwrite(tmp_path, at, bytes(PAGE))
    before = (tmp_path / "frontier" / "data.mdb").read_bytes()

    def full(*arguments, **options):
        raise lmdb.DiskError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("crawler.frontier.rebuild.lmdb.open", full)
        with pytest.raises(EngineUnavailable, match="No space left"):
            await repair(tmp_path)
    assert (tmp_path / "frontier" / "data.mdb").read_bytes() == before
    assert (await repair(tmp_path)).rebuilt.waiting_lost == 0
