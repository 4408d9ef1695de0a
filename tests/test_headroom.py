"""Where memory is limited no more pages are begun than fit, large ones go one by one, and nothing ever stands still."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from crawler import Response, Spider, headroom, rooms
from crawler.headroom import Headroom, Limit, limits
from crawler.parsing import Parsing
from crawler.testing import LocalSite, fake_response, run_spider

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hostile("R-39")

MIB = 1 << 20


class Pretended:
    """A limit of 100 MiB, of which as much is in use as the test says."""

    def __init__(self) -> None:
        self.used = 0
        self.limit = Limit("cgroup", 100 * MIB, lambda: self.used)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "crawler.memory"]


# -- which limits there are --------------------------------------------------------------------------------------------


def system(root: Path, cgroup: str, **files: str) -> Path:
    """A machine's /proc and /sys, as far as they are looked at."""
    statm = "1000 300 100 1 0 500 0"
    for path, text in {"proc/self/cgroup": cgroup, "proc/self/statm": statm, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def cgroups(root: Path) -> list[tuple[int, int]]:
    return [(limit.bytes, limit.used()) for limit in limits(root) if limit.what == "cgroup"]


def test_a_container_of_version_2_is_limited_by_its_group_and_every_group_around_it(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    stat = "anon 70\nactive_file 20\ninactive_file 10\n"
    files = {
        f"{top}/pod/memory.max": "900\n", f"{top}/pod/memory.current": "500\n", f"{top}/pod/memory.stat": stat,
        f"{top}/pod/it/memory.max": "300\n", f"{top}/pod/it/memory.current": "100\n", f"{top}/pod/it/memory.stat": stat,
    }  # fmt: skip
    assert cgroups(system(tmp_path, "0::/pod/it\n", **files)) == [(300, 70), (900, 470)]
    (tmp_path / top / "pod/it/memory.max").write_text("max\n")
    assert cgroups(tmp_path) == [(900, 470)]


def test_a_container_of_version_1_counts_what_is_below_it_and_sees_its_group_at_the_top(tmp_path: Path) -> None:
    top = "sys/fs/cgroup/memory"
    stat = "active_file 1\ninactive_file 1\ntotal_active_file 20\ntotal_inactive_file 10\n"
    files = {
        f"{top}/memory.limit_in_bytes": "300\n", f"{top}/memory.usage_in_bytes": "100\n", f"{top}/memory.stat": stat,
    }  # fmt: skip
    lines = "5:cpu,cpuacct:/\n4:memory:/docker/1f0e\n0::/\n"
    assert cgroups(system(tmp_path, lines, **files)) == [(300, 70)]
    (tmp_path / top / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroups(tmp_path) == []


def test_where_there_is_no_such_system_there_is_no_limit(tmp_path: Path) -> None:
    assert limits(tmp_path) == []
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("nonsense\n0::/../..\n")
    assert limits(tmp_path) == []


def test_ulimits_of_this_process_are_limits_and_the_machine_is_one() -> None:
    code = "from crawler.headroom import limits; print(*(f'{each.what}={each.bytes}' for each in limits()), sep=',')"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (512 * MIB, 512 * MIB))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    said = subprocess.run([sys.executable, "-c", code], preexec_fn=limited, capture_output=True, text=True, check=True)
    found = dict(each.split("=") for each in said.stdout.strip().split(","))
    assert found["ulimit -d"] == str(512 * MIB)
    assert found["ulimit -v"] == str(1 << 30)
    assert int(found["machine"]) > 64 * MIB


# -- who may go on -----------------------------------------------------------------------------------------------------


class Page:
    """A task that asks for room, and ends when it is told to."""

    def __init__(self, of: Headroom, size: int) -> None:
        self.goes_on = asyncio.Event()
        self._ends = asyncio.Event()
        self.task = asyncio.ensure_future(self._work(of, size))

    async def _work(self, of: Headroom, size: int) -> None:
        await of.room(size)
        self.goes_on.set()
        await self._ends.wait()

    async def end(self) -> None:
        self._ends.set()
        await self.task
        await asyncio.sleep(0)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_large_pages_go_on_as_fit_and_the_next_when_one_has_ended() -> None:
    pretended = Pretended()
    pretended.used = 20 * MIB
    with Headroom([pretended.limit]) as room:
        pages = [Page(room, 25 * MIB) for _ in range(4)]
        await settled()
        assert [page.goes_on.is_set() for page in pages] == [True, True, False, False]
        assert room.snapshot() == {"used_bytes": 20 * MIB, "limit_bytes": 100 * MIB, "is_short": True}
        await pages[1].end()
        await pages[2].goes_on.wait()
        assert not pages[3].goes_on.is_set()
        pages[3].task.cancel()
        await pages[0].end()
        await pages[2].end()
        assert room.taken == {}
        assert not room.is_short


async def test_one_page_always_goes_on_whatever_it_needs_and_whatever_is_in_use() -> None:
    pretended = Pretended()
    pretended.used = 99 * MIB
    with Headroom([pretended.limit]) as room:
        pages = [Page(room, 500 * MIB) for _ in range(3)]
        for page in pages:
            await page.goes_on.wait()
            assert sum(page.goes_on.is_set() for page in pages) == pages.index(page) + 1
            await page.end()


async def test_pages_that_all_need_more_do_not_wait_for_each_other() -> None:
    pretended = Pretended()
    with Headroom([pretended.limit]) as room:
        ended = []

        async def growing(name: str) -> None:
            for size in (20, 40, 80, 160):
                await room.room(size * MIB)
                await asyncio.sleep(0)
            ended.append(name)

        async with asyncio.timeout(1):
            await asyncio.gather(*map(growing, "abcd"))
    assert sorted(ended) == list("abcd")


async def test_a_page_that_waits_for_pages_of_its_own_does_not_hold_them_up_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(headroom, "_PATIENCE_SECONDS", 0.05)
    pretended = Pretended()
    with Headroom([pretended.limit]) as room:
        await room.room(80 * MIB)  # by this task, which does not end before the others have
        async with asyncio.timeout(5):
            await asyncio.gather(*(room.room(50 * MIB) for _ in range(3)))
        task = asyncio.current_task()
        assert task is not None
        room.leave(task)
        assert room.taken == {}


async def test_without_a_limit_and_when_it_is_over_nobody_waits() -> None:
    with Headroom([]) as room:
        await asyncio.gather(*(room.room(1 << 50) for _ in range(3)))
        assert room.taken == {}
        assert room.spare() is None
    pretended = Pretended()
    with Headroom([pretended.limit]) as room:
        pages = [Page(room, 90 * MIB) for _ in range(2)]
        await settled()
        assert not pages[1].goes_on.is_set()
    await pages[1].goes_on.wait()
    for page in pages:
        await page.end()


async def test_a_group_that_is_gone_limits_nothing_any_more() -> None:
    def gone() -> int:
        raise FileNotFoundError

    with Headroom([Limit("cgroup", 100 * MIB, gone)]) as room:
        assert not room.is_scarce
        async with asyncio.timeout(1):
            await asyncio.gather(*(room.room(99 * MIB) for _ in range(3)))


async def test_a_process_that_tries_a_page_may_take_what_is_left_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = Pretended()
    pretended.used = 75 * MIB
    tried: list[int] = []

    async def passes(self: Any, markup: bytes, memory_bytes: int) -> bool:
        tried.append(memory_bytes)
        return True

    monkeypatch.setattr("crawler.parsing.trial.Trial.passes", passes)
    with Headroom([pretended.limit]) as room:
        async with Parsing(lambda: lambda: None, spare=room.spare) as parsing:
            await parsing.prepare(fake_response("http://a.example/", b"<ul>" + b"<li>x" * 40_000))
    assert tried == [5 * MIB]


# -- whole crawls ------------------------------------------------------------------------------------------------------


class Many(Spider):
    name = "many"
    site = ""
    pages = 20

    async def start(self) -> Any:
        for number in range(self.pages):
            yield self.request(f"{self.site}/{number}")

    async def parse(self, response: Response) -> Any:
        yield {"bytes": len(response.body)}


QUICK = {
    "crawl": {"concurrency": 20},
    "politeness": {"delay_seconds": 0, "concurrency_per_host": 20, "obey_robots": False},
}


async def test_above_four_fifths_one_page_is_begun_at_a_time_and_all_come_home(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretended = Pretended()
    pretended.used = 85 * MIB
    monkeypatch.setattr(rooms, "limits", lambda: [pretended.limit])
    most: list[int] = []

    class Watching(Many):
        async def parse(self, response: Response) -> Any:
            most.append(len(inside) + 1)
            inside.append(response)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            inside.remove(response)
            if len(most) == 10:
                pretended.used = 0
            yield {"n": len(most)}

    inside: list[Response] = []
    async with LocalSite() as site:
        for number in range(Many.pages):
            site.page(f"/{number}", "small")
        run = await run_spider(Watching, args={"site": site.url}, settings=QUICK)
    assert (run.reason, len(run.items)) == ("finished", Many.pages)
    assert set(most[:10]) == {1}
    (line,) = lines(caplog)
    assert line == (
        "memory is short: 85 of 100 MiB (cgroup) are in use, and no page is begun until some have ended. Give the "
        "crawl more memory, or lower crawl.concurrency or http.max_body_bytes"
    )


CRAWL = """
import asyncio, sys
from crawler.testing import run_spider
sys.path.insert(0, sys.argv[1])
from test_headroom import QUICK, Many
run = asyncio.run(run_spider(Many, args={"site": sys.argv[2]}, settings=QUICK))
print(run.reason, len(run.items), sum(item["bytes"] for item in run.items), run.stats["failures"])
# What `getrusage` says includes what the process had that this one was forked from.
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts what threads take on Linux alone")
async def test_a_crawl_of_ten_megabyte_pages_lives_within_256_mib() -> None:
    """All at once would take more than that in bodies alone."""
    body = b"<p>" + b"word " * 1_900_000 + b"</p>"
    async with LocalSite() as site:
        for number in range(Many.pages):
            site.page(f"/{number}", body)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CRAWL, __file__.rpartition("/")[0], site.url),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (256 * MIB, 256 * MIB)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        said, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, errors.decode()
    ending, peak = said.decode().splitlines()
    assert ending == f"finished {Many.pages} {Many.pages * len(body)} {{}}"
    assert int(peak) < 256
