"""The disk is full, slow, broken or taken away while a crawl runs; when the cause is gone, the same command finishes it
exactly. Real processes and real faults: a small file system, limits of the kernel, a library between it and libc."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import forked
import pytest
from numbers_job import PAGES, SECONDS, Crawl, Job, Numbers

from crawler.frontier.layout import DATABASES
from crawler.frontier.pages import check
from crawler.testing import LocalSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from aiohttp import web

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these faults are made by Linux")
UNAVAILABLE = 69
FINISHED = 0
CONCURRENCY = 6
"""The spider's."""
EVERY_FORMAT = ("out.jsonl", "out.csv", "out.jsonl.gz", "out.jsonl.zst", "out.db", "out.json")


@pytest.fixture
async def site() -> AsyncIterator[LocalSite]:
    async with LocalSite() as site:
        yield site


@pytest.fixture
def job(tmp_path: Path, site: LocalSite) -> Job:
    return Job(tmp_path, Numbers(site))


async def gives_up(crawl: Crawl) -> str:
    """What it says then: one line for people, soon."""
    began = time.monotonic()
    assert await crawl.ends() == UNAVAILABLE, crawl.said
    assert time.monotonic() - began < SECONDS  # 5 s asked of a quiet machine; a busy disk syncs longer
    assert "Traceback" not in crawl.said, crawl.said
    (complaint,) = (line for line in crawl.said.splitlines() if line.startswith("crawler: "))
    return complaint


async def finishes(job: Job) -> Crawl:
    job.numbers.open()
    async with job.crawl() as crawl:
        assert await crawl.ends() == FINISHED, crawl.said
    assert "continuing the interrupted crawl" in crawl.said
    job.assert_complete()
    return crawl


def bytes_of(job: Job) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for name in job.outputs if (path := job.folder / name).exists()}


def assert_no_half_line(folder: Path) -> None:
    lines, rows = (folder / "out.jsonl").read_text(), (folder / "out.csv").read_text()
    assert lines[-1:] in ("\n", "")
    assert all(json.loads(line) for line in lines.splitlines())
    assert rows[-1:] in ("\n", "")
    assert {row.count(",") for row in rows.splitlines()} <= {1}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


# -- no room


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        run("umount", "-l", folder)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    free = os.statvfs(path)
    assert free.f_bavail == 0


@pytest.mark.hostile("R-05")
async def test_a_full_disk_stops_the_crawl_and_with_room_again_it_finishes_exactly(
    tmp_path: Path, site: LocalSite
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        job = Job(tmp_path, Numbers(site))
        job.name = str(disk / "job")
        job.outputs = tuple(str(disk / name) for name in EVERY_FORMAT)
        job.numbers.hold_after(60)
        async with job.crawl() as first:
            await job.committed(61)
            fill(disk / "filler")
            job.numbers.open()
            complaint = await gives_up(first)
        assert re.search(r"/out\.\S+ cannot be written: .*(ENOSPC|SQLITE_FULL)", complaint), complaint
        assert_no_half_line(disk)
        for mapped in ("lock.mdb", "at-work"):  # to write where they have no room is death by SIGBUS
            (disk / "job" / "frontier" / mapped).unlink()
            fill(disk / "filler")
            async with job.crawl() as again:
                assert "No space left" in await gives_up(again)
            assert_no_half_line(disk)
        (disk / "filler").unlink()
        await finishes(job)


@pytest.mark.hostile("R-05")
async def test_a_file_that_may_not_grow_is_named_and_when_it_may_the_crawl_finishes_exactly(job: Job) -> None:
    job.numbers.hold_after(60)
    async with job.crawl() as first:
        await job.committed(61)
        size = (job.folder / "out.jsonl").stat().st_size
        resource.prlimit(first.process.pid, resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
        job.numbers.open()
        complaint = await gives_up(first)
    assert re.search(r"/out\.json\w? cannot be written: File too large \(EFBIG\)", complaint), complaint
    assert_no_half_line(job.folder)
    await finishes(job)


@pytest.mark.hostile("R-05")
async def test_a_frontier_that_may_not_grow_is_named_and_when_it_may_the_crawl_finishes_exactly(job: Job) -> None:
    job.numbers.hold_after(60)
    async with job.crawl() as first:
        await job.committed(61)
        size = (job.folder / job.name / "frontier" / "data.mdb").stat().st_size
        resource.prlimit(first.process.pid, resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
        job.numbers.open()
        complaint = await gives_up(first)
    assert "cannot commit the frontier in jobs/numbers/frontier: " in complaint
    assert "when the cause is gone, the same command continues" in complaint
    await finishes(job)


@pytest.mark.hostile("R-05")
async def test_a_device_without_room_is_named_and_the_job_continues_without_it(job: Job) -> None:
    job.outputs = ("out.jsonl", "/dev/full:jsonl")
    async with job.crawl() as first:
        complaint = await gives_up(first)
    assert "/dev/full cannot be written: No space left on device (ENOSPC)" in complaint
    job.outputs = ("out.jsonl",)
    assert "/dev/full:jsonl" in (await finishes(job)).said, "it warns that this output gets no more"


async def test_whoever_cannot_write_is_told_that_the_same_command_continues(job: Job) -> None:
    job.outputs = ("/dev/full:jsonl",)
    async with job.crawl() as crawl:
        complaint = await gives_up(crawl)
    assert "the same command continues" in complaint


async def test_a_log_that_has_no_room_does_not_stop_the_crawl(job: Job) -> None:
    (job.folder / job.name).mkdir(parents=True)
    try:  # a device of our own, since links are refused
        os.mknod(job.folder / job.name / "crawl.log", stat.S_IFCHR | 0o600, os.stat("/dev/full").st_rdev)
    except OSError as error:
        pytest.skip(f"only root may make what is always full: {error}")
    async with job.crawl() as crawl:
        assert await crawl.ends() == FINISHED, crawl.said
    assert "Traceback" not in crawl.said
    job.assert_complete()


# -- taken away


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Even for root, to whom modes mean nothing."""
    if os.geteuid():
        path.chmod(0o444)
    elif (changed := run("chattr", "+i", path)).returncode:
        pytest.skip(f"a file cannot be made read-only for root here: {changed.stderr.strip()}")
    try:
        yield
    finally:
        path.chmod(0o644) if os.geteuid() else run("chattr", "-i", path)


@pytest.mark.hostile("R-33")
async def test_an_output_made_read_only_is_noticed_and_when_it_is_not_the_crawl_finishes_exactly(job: Job) -> None:
    job.numbers.hold_after(60)
    async with job.crawl() as first:
        await job.committed(61)
        with read_only(job.folder / "out.csv"):
            complaint = await gives_up(first)
            assert "/out.csv was made read-only while the crawl wrote to it" in complaint
            before = bytes_of(job)
            async with job.crawl() as second:
                complaint = await gives_up(second)
            assert re.search(r"/out\.csv cannot be opened: .*\((EPERM|EACCES)\)", complaint)
            assert bytes_of(job) == before
    await finishes(job)


@pytest.mark.hostile("R-33")
async def test_an_output_deleted_while_it_is_written_is_named_and_put_back_the_crawl_finishes_exactly(job: Job) -> None:
    async with job.crawl() as first:
        await first.has_asked(job.numbers.site, 120)
        os.link(job.folder / "out.jsonl", job.folder / "kept")
        (job.folder / "out.jsonl").unlink()
        complaint = await gives_up(first)
    assert "/out.jsonl was deleted or moved while the crawl wrote to it" in complaint
    assert len(job.numbers.asked()) < PAGES, "it did not go on for nothing"
    (job.folder / "kept").rename(job.folder / "out.jsonl")
    await finishes(job)


@pytest.mark.hostile("R-33")
async def test_an_output_that_goes_away_is_noticed_soon_and_when_it_is_back_the_crawl_finishes_exactly(
    job: Job,
) -> None:
    moved, away = job.folder / "out.csv", job.folder / "moved"
    job.numbers.hold_after(60)
    async with job.crawl() as first:
        await job.committed(61)
        began = time.monotonic()
        moved.rename(away)
        complaint = await gives_up(first)
        assert time.monotonic() - began < 20, "nothing was to be written, and it was noticed nevertheless"
    assert "/out.csv was deleted or moved while the crawl wrote to it" in complaint
    asked, before = len(job.numbers.site.journal), bytes_of(job)
    async with job.crawl() as second:
        complaint = await gives_up(second)
    assert "/out.csv is missing, but this job has written to it. Restore it" in complaint
    assert bytes_of(job) == before
    assert not moved.exists()
    assert len(job.numbers.site.journal) == asked
    away.rename(moved)
    await finishes(job)


# -- damaged


def cut(whole: bytes, reach: int) -> bytes:
    return whole[:-reach]


def zeroed(whole: bytes, reach: int) -> bytes:
    return whole[:-reach] + bytes(reach)


def flipped(whole: bytes, reach: int) -> bytes:
    return whole[:-reach] + bytes([whole[-reach] ^ 0x10]) + whole[len(whole) - reach + 1 :]


Damage: TypeAlias = "tuple[Callable[[bytes, int], bytes], int]"
ROUNDS: tuple[dict[str, Damage], ...] = (
    {"out.jsonl": (cut, 1), "out.csv": (zeroed, 5)},
    {"out.jsonl.gz": (flipped, 30), "out.jsonl.zst": (cut, 20)},
    {"out.jsonl": (zeroed, 20), "out.csv": (flipped, 4), "out.jsonl.gz": (cut, 8), "out.jsonl.zst": (zeroed, 3)},
)
"""All within what the last epoch wrote."""


@pytest.mark.hostile("R-07")
async def test_torn_ends_after_a_kill_take_the_crawl_back_an_epoch_and_it_finishes_exactly(job: Job) -> None:
    job.outputs = ("out.jsonl", "out.csv", "out.jsonl.gz", "out.jsonl.zst")
    torn: dict[str, Damage] = {}
    for damages in ROUNDS:
        job.numbers.hold_after(0)
        async with job.crawl() as crawl:
            await all_wait(job.numbers)
            done = max(job._pages_committed(), 1)  # the index is not held back
            job.numbers.open()
            job.numbers.hold_after(50)
            await job.committed(done + CONCURRENCY + 50)
            await crawl.killed()
        assert_went_back_for(torn, crawl)
        for name, (damaged, reach) in damages.items():
            path = job.folder / name
            path.write_bytes(damaged(path.read_bytes(), reach))
        torn = damages
    assert_went_back_for(torn, await finishes(job))


async def all_wait(numbers: Numbers) -> None:
    """Until every place at the site is taken by a page that is held back."""
    async with asyncio.timeout(SECONDS):
        while numbers._free > -CONCURRENCY:
            await asyncio.sleep(0.01)


def assert_went_back_for(torn: dict[str, Damage], crawl: Crawl) -> None:
    found = re.findall(r"the end of (.+) is not what was written", crawl.said)
    assert {name for names in found for name in names.split(", ")} == set(torn), crawl.said
    assert crawl.said.count("going back to the epoch before") == len(found)


@pytest.mark.hostile("R-07")
async def test_an_output_damaged_long_before_its_end_is_named_and_nothing_else_is_touched(job: Job) -> None:
    job.outputs = ("out.jsonl", "out.csv", "out.jsonl.gz", "out.jsonl.zst")
    async with job.crawl("-s", "frontier.durability=power") as first:  # what was synced is not gone back behind
        for pages in (21, 41, 61, 81):
            job.numbers.open()
            job.numbers.hold_after(20)
            await job.committed(pages)
        await first.killed()
    whole = bytes_of(job)
    damaged = job.folder / "out.jsonl.gz"
    damaged.write_bytes(b"\0" * 40 + whole["out.jsonl.gz"][40:])
    before, asked = bytes_of(job), len(job.numbers.site.journal)
    async with job.crawl() as second:
        complaint = await gives_up(second)
    assert "/out.jsonl.gz was changed" in complaint
    assert "Restore it, or start again with --fresh" in complaint
    assert bytes_of(job) == before
    assert len(job.numbers.site.journal) == asked
    damaged.write_bytes(whole["out.jsonl.gz"])
    await finishes(job)


@pytest.mark.hostile("R-07")
async def test_a_damaged_frontier_is_named_and_repaired_and_only_what_was_said_to_be_lost_is_missing(job: Job) -> None:
    job.outputs = ("out.jsonl",)
    job.numbers.hold_after(100)
    async with job.crawl() as first:
        await job.committed(101)
        await first.killed()
    frontier = job.folder / job.name / "frontier"
    zero_a_page_of("records", frontier)
    async with job.crawl() as second:
        complaint = await gives_up(second)
    assert "the frontier in jobs/numbers/frontier is damaged: records, page" in complaint
    assert "`crawler jobs repair jobs/numbers`" in complaint
    repaired = await forked.run(job.folder, "jobs", "repair", job.name)
    said = repaired.output.read_text()
    assert repaired.code == 0, said + repaired.said
    found = re.search(r"(\d+) waiting; lost: (\d+)", said)
    assert found is not None, said
    waiting, lost = map(int, found.groups())
    assert waiting + lost == PAGES - 101
    assert lost > 0
    job.numbers.open()
    async with job.crawl() as last:
        assert await last.ends() == FINISHED, last.said
    numbers = [json.loads(line)["number"] for line in (job.folder / "out.jsonl").read_text().splitlines()]
    assert len(set(numbers)) == len(numbers)
    assert PAGES - len(numbers) == lost


def zero_a_page_of(database: str, frontier: Path) -> None:
    """The last one whose loss only this database feels."""
    data = frontier / "data.mdb"
    whole = data.read_bytes()
    for start in range(len(whole) - 4096, 2 * 4096, -4096):
        data.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
        if {damage.database for damage in check(frontier, expected=DATABASES)} == {database}:
            return
    raise AssertionError(f"no page of {database} was found")


# -- slow and broken

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Whether the folder FAULTS holds an order `what`-NAME for the file that is open as `fd`. */
static int ordered(const char *what, int fd) {
    char link[32], file[1024], order[2048];
    const char *folder = getenv("FAULTS"), *name;
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, file, sizeof file - 1);
    if (folder == NULL || length <= 0) return 0;
    file[length] = 0;
    name = strrchr(file, '/');
    if (name == NULL) return 0;
    snprintf(order, sizeof order, "%s/%s-%s", folder, what, name + 1);
    return access(order, F_OK) == 0;
}

/* Half of it, then none: as a disk that fails in the middle. */
static size_t writable(int fd, size_t count) {
    static __thread int began;
    if (!ordered("write", fd)) return count;
    began = !began;
    return began ? count / 2 : 0;
}

#define WRITE(name, offset_type, ...)                                                      \
    ssize_t name(int fd, const void *data, size_t count __VA_OPT__(, offset_type at)) {    \
        static ssize_t (*real)(int, const void *, size_t __VA_OPT__(, offset_type));       \
        size_t left = writable(fd, count);                                                 \
        if (real == NULL) real = dlsym(RTLD_NEXT, #name);                                  \
        if (count != 0 && left == 0) { errno = EIO; return -1; }                           \
        return real(fd, data, left __VA_OPT__(, at));                                      \
    }
WRITE(write, )
WRITE(pwrite, off_t, at)
WRITE(pwrite64, off64_t, at)

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at) {
    static ssize_t (*real)(int, const struct iovec *, int, off_t);
    if (real == NULL) real = dlsym(RTLD_NEXT, "pwritev");
    if (ordered("write", fd)) { errno = EIO; return -1; }
    return real(fd, pieces, count, at);
}

/* While the order `slow` stands, syncing does not end; `waiting` says that somebody waits. */
static int sync_fault(int fd) {
    const char *folder = getenv("FAULTS");
    char slow[1024], waiting[1024];
    if (ordered("sync", fd)) { errno = EIO; return -1; }
    if (folder == NULL) return 0;
    snprintf(slow, sizeof slow, "%s/slow", folder);
    snprintf(waiting, sizeof waiting, "%s/waiting", folder);
    while (access(slow, F_OK) == 0) {
        int mark = open(waiting, O_CREAT | O_WRONLY, 0600);
        if (mark >= 0) close(mark);
        usleep(5000);
    }
    return 0;
}

#define SYNC(name)                                                   \
    int name(int fd) {                                               \
        static int (*real)(int);                                     \
        if (real == NULL) real = dlsym(RTLD_NEXT, #name);            \
        return sync_fault(fd) ? -1 : real(fd);                       \
    }
SYNC(fsync)
SYNC(fdatasync)
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("disk errors need a C compiler (cc), to put something between the crawler and libc")
    folder, library = tmp_path_factory.mktemp("orders"), tmp_path_factory.mktemp("library")
    (library / "faults.c").write_text(LIBRARY)
    built = run(compiler, "-shared", "-fPIC", "-O1", "-o", library / "faults.so", library / "faults.c", "-ldl")
    assert built.returncode == 0, built.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library / "faults.so"))
        patch.setenv("FAULTS", str(folder))
        return Broken(folder, forked._server.__wrapped__())


class Broken(NamedTuple):
    orders: Path
    """The folder of orders: `write-NAME` and `sync-NAME` give EIO for the file of that name, `slow` holds up syncs."""
    server: str
    """What forks crawls that obey them."""


@pytest.fixture
def faults(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(forked, "_server", lambda: broken.server)
    for order in broken.orders.iterdir():
        order.unlink()
    return broken.orders


@pytest.mark.hostile("R-06")
async def test_after_each_disk_error_the_same_command_goes_on_and_at_last_it_finishes_exactly(
    job: Job, faults: Path
) -> None:
    job.outputs = EVERY_FORMAT
    for name, kind, complaint in (
        ("out.csv", "write", r"/out\.csv cannot be written: Input/output error \(EIO\)"),
        ("out.jsonl.zst", "sync", r"/out\.jsonl\.zst cannot be written: Input/output error \(EIO\)"),
        ("data.mdb", "write", r"cannot commit the frontier in jobs/numbers/frontier: .*Input/output error"),
        ("data.mdb", "sync", r"cannot sync the frontier in jobs/numbers/frontier: .*Input/output error"),
        ("snapshots", "write", r"cannot commit the frontier in jobs/numbers/frontier: .*Input/output error"),
    ):
        job.numbers.hold_after(0)
        # The disk is synced once a second, and by then all pages are held again: that they time out is what goes on.
        async with job.crawl("-s", "http.read_seconds=1") as crawl:
            await all_wait(job.numbers)
            order = faults / f"{kind}-{name}"
            order.touch()
            job.numbers.open()
            job.numbers.hold_after(20)
            said = await gives_up(crawl)
            order.unlink()
        assert re.search(complaint, said), said
        assert_no_half_line(job.folder)
    await finishes(job)


@pytest.mark.hostile("R-06")
@pytest.mark.parametrize("durability", ["process", "power"])
async def test_pages_go_on_while_the_disk_takes_its_time(job: Job, faults: Path, durability: str) -> None:
    job.numbers.hold_after(20)
    async with job.crawl("-s", f"frontier.durability={durability}") as crawl:
        await job.committed(21)
        (faults / "slow").touch()
        job.numbers.open()
        job.numbers.hold_after(20)
        async with asyncio.timeout(SECONDS):
            while not (faults / "waiting").exists():
                await asyncio.sleep(0.01)
        asked = len(job.numbers.site.journal)
        job.numbers.open()
        await crawl.has_asked(job.numbers.site, asked + 100)
        (faults / "slow").unlink()
        assert await crawl.ends() == FINISHED, crawl.said
    job.assert_complete()
    assert set(job.numbers.asked().values()) == {1}


# -- standing still


@pytest.mark.hostile("R-04", "R-24")
async def test_stopped_for_a_while_a_crawl_goes_on_at_its_pace_and_counts_no_error(job: Job) -> None:
    site, connections = job.numbers.site, set[asyncio.Transport]()
    delay, limit, before = 0.1, 26, 8

    async def page(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        connections.add(request.transport)
        return await job.numbers._page(request)

    site.route("*", page)
    manners = ("-s", f"politeness.delay_seconds={delay}", "-s", "politeness.jitter=0")
    async with job.crawl(*manners, "--limit", str(limit)) as crawl:
        await crawl.has_asked(site, before)
        os.kill(crawl.process.pid, signal.SIGSTOP)
        for transport in connections:
            transport.close()  # as a server does that has waited long enough
        await asyncio.sleep(2)  # this is the fault
        continued = len(site.journal)
        os.kill(crawl.process.pid, signal.SIGCONT)
        assert await crawl.ends() == FINISHED, crawl.said
    stats = job.stats()
    assert (stats["pages"], stats["errors"]) == (limit, 0)
    starts = [hit.time for hit in site.journal[continued:]]
    assert len(starts) > 10
    for first, sixth in zip(starts, starts[5:], strict=False):
        assert sixth - first > 5 * delay - 0.3, "as many as were missed came at once"
