"""A loop that does not come round is told, with what it is busy with; one that only waits, or was stopped, is not."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from crawler import Response, Spider, watchdog
from crawler.testing import LocalSite, run_spider
from crawler.watchdog import Watchdog, described

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of what it takes otherwise."""
    monkeypatch.setattr(watchdog, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "STALL_SECONDS", 0.2)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "crawler.watchdog"]


async def until_told(stalls: list[float]) -> None:
    async with asyncio.timeout(20):
        while not stalls:
            await asyncio.sleep(0.01)


class Sleeper(Spider):
    """Blocks in its callback, some calls deep."""

    name = "sleeper"
    site = ""
    seconds = 0.6

    async def start(self) -> Any:
        yield self.request(f"{self.site}/")

    def parse(self, response: Response) -> Any:
        yield {"n": self.wait_for_the_database()}

    def wait_for_the_database(self) -> int:
        time.sleep(self.seconds)
        return 1


@pytest.mark.hostile("R-29")
async def test_a_callback_that_blocks_is_named_while_it_does_and_counted_afterwards(
    quick: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Sleeper, args={"site": site.url}, job=tmp_path / "job")
    blocked, free = lines(caplog)
    assert re.search(
        r"sleeper: the loop has been blocked for \d+\.\d s by parse \(.*test_watchdog\.py:\d+\) > "
        r"wait_for_the_database \(.*test_watchdog\.py:\d+\)\.",
        blocked,
    )
    assert re.search(r"sleeper: the loop was blocked for (0\.[4-9]|[1-9]\d*\.\d) s, and is free again", free)
    assert run.stats["stalls"] == 1
    assert 0.4 < run.stats["longest_stall_seconds"] < 30
    assert "wait_for_the_database" in (tmp_path / "job" / "crawl.log").read_text(), "told in the job's own log, too"
    assert run.items == [{"n": 1}]


@pytest.mark.hostile("R-29")
async def test_a_regular_expression_that_keeps_the_interpreter_to_itself_is_named_when_it_is_over(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    class Backtracking(Sleeper):
        def wait_for_the_database(self) -> int:
            ended = time.monotonic() + 0.9
            length = 18
            while time.monotonic() < ended:  # the machine says how long one must be
                began = time.monotonic()
                re.search(r"(a+)+$", "a" * length + "b")
                length += 1 if time.monotonic() - began < 0.8 else 0
            return 1

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Backtracking, args={"site": site.url})
    assert run.stats["stalls"] >= 1
    assert "parse (" in lines(caplog)[0]


async def test_a_loop_that_waits_is_not_blocked_and_one_that_has_much_to_do_is_not_either(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    stalls: list[float] = []
    with Watchdog("patient", stalls.append):
        await asyncio.sleep(0.4)
        ends = time.monotonic() + 0.4
        while time.monotonic() < ends:
            await asyncio.sleep(0)
    assert stalls == lines(caplog) == []


async def test_each_stall_is_told_once_and_counted_with_its_length(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    stalls: list[float] = []
    with Watchdog("twice", stalls.append):
        for _ in range(2):
            stalls.clear()
            time.sleep(0.5)
            await until_told(stalls)
            assert 0.3 < stalls[0] < 30
    assert len(lines(caplog)) == 4


async def test_nothing_is_left_of_it_afterwards() -> None:
    before = threading.active_count()
    with Watchdog("gone", lambda seconds: None):
        assert threading.active_count() == before + 1
        timer = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert len([each for each in timer if not each.cancelled()]) == 1
    assert threading.active_count() == before
    assert [each for each in timer if not each.cancelled()] == []


def test_under_a_debugger_and_while_the_loop_waits_for_its_sockets_there_is_nobody_to_name() -> None:
    def at_a_prompt() -> str:
        return described(sys._getframe())

    assert "at_a_prompt" in at_a_prompt()
    assert eval("prompt()", {"__name__": "pdb", "prompt": at_a_prompt}) == ""
    assert eval("poll()", {"__name__": "selectors", "poll": lambda: described(sys._getframe(1))}) == ""
    assert described(None) == ""


STOPPED = """
import asyncio, logging, os, signal, sys, time
from crawler import watchdog
from crawler.watchdog import Watchdog

logging.basicConfig(stream=sys.stdout, format="%(message)s")
watchdog._BEAT_SECONDS, watchdog.STALL_SECONDS, watchdog._OVERSLEPT_SECONDS = 0.05, 0.2, 0.2

async def main():
    with Watchdog("stopped", lambda seconds: print("stalled", flush=True)):
        await asyncio.sleep(0.2)
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await asyncio.sleep(0.3)
    print("ended", flush=True)

asyncio.run(main())
"""


@pytest.mark.hostile("R-04")
def test_a_process_that_was_stopped_and_goes_on_was_not_blocked_by_anybody() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.7)
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == "ended\n"


async def test_what_crawl_status_shows_of_it() -> None:
    from crawler.stats import Stats
    from crawler.status import summary

    stats = Stats("slow", 0.0)
    assert "stalls" not in summary(stats.snapshot(1.0))
    stats.stalled(1.25)
    stats.stalled(3.5)
    assert "stalls    2 (the longest 3.5 s)" in summary(stats.snapshot(1.0))
    assert msgspec.json.decode(msgspec.json.encode(stats.snapshot(1.0)))["stalls"] == 2
    assert logging.getLogger("crawler.watchdog").level == logging.NOTSET
