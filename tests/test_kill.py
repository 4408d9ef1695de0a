"""A crawl that is killed, stopped or started twice: real processes, faults triggered by what the server saw."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from numbers_job import PAGES, Job, Numbers

from crawler.testing import LocalSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[Job]:
    async with LocalSite() as site:
        yield Job(tmp_path, Numbers(site))


@pytest.mark.hostile("R-01")
async def test_killed_twice_in_full_run_a_crawl_gives_every_item_once_in_every_format(job: Job) -> None:
    async with job.crawl() as first:
        await first.has_asked(job.numbers.site, 120)
        await first.killed()
    assert 0 < job.lines() < PAGES, "it was killed with work done and work left"
    asked = len(job.numbers.site.journal)
    async with job.crawl() as second:
        await second.has_asked(job.numbers.site, asked + 60)
        await second.killed()
    assert "continuing the interrupted crawl" in second.said
    assert job.lines() < PAGES, "work was left when it was killed again"
    async with job.crawl() as third:
        assert await third.ends() == 0
    assert "continuing the interrupted crawl" in third.said
    job.assert_complete()


@pytest.mark.hostile("R-01")
async def test_what_was_committed_before_a_kill_is_not_fetched_again(job: Job) -> None:
    job.numbers.hold_after(100)
    async with job.crawl() as first:
        await job.committed(101)  # the index is a page, too
        done = job.numbers_written()
        await first.killed()
    asked = len(job.numbers.site.journal)
    in_flight = sum(job.numbers.asked().values()) - 101
    assert in_flight > 0, "pages were held back when it was killed"
    job.numbers.open()
    async with job.crawl() as second:
        assert await second.ends() == 0
    again = {0 if path == "/" else int(path[1:]) for path in job.numbers.asked(since=asked)}
    assert not again & done
    assert max(job.numbers.asked().values()) == 2
    assert sum(job.numbers.asked().values()) == PAGES + in_flight
    job.assert_complete()


@pytest.mark.hostile("R-03")
async def test_sigterm_lets_what_is_in_flight_finish_and_the_same_command_does_the_rest_once(job: Job) -> None:
    job.numbers.hold_after(60)
    async with job.crawl() as first:
        await job.committed(61)
        first.process.send_signal(signal.SIGTERM)
        await first.process.says("SIGTERM: finishing what is in flight")
        job.numbers.open()
        assert await first.ends() == 75
    assert 61 < job.lines() < PAGES, "it finished what was in flight, and no more"
    assert job.lines() == sum(job.numbers.asked().values())
    assert job.stats()["reason"] == "interrupted"
    async with job.crawl() as second:
        assert await second.ends() == 0
    assert set(job.numbers.asked().values()) == {1}, "nothing was fetched twice"
    job.assert_complete()


@pytest.mark.hostile("R-03")
async def test_a_drain_that_takes_too_long_gives_back_what_is_in_flight(job: Job) -> None:
    job.numbers.hold_after(30)
    async with job.crawl("-s", "crawl.drain_seconds=0.5") as first:
        await job.committed(31)
        first.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert await first.ends() == 75
        assert time.monotonic() - began < 15, "the 20 s that are the default are not up"
    assert job.lines() == 31
    job.numbers.open()
    async with job.crawl() as second:
        assert await second.ends() == 0
    job.assert_complete()


@pytest.mark.hostile("R-03", "R-04")
async def test_a_second_sigint_stops_at_once_and_loses_nothing(job: Job) -> None:
    job.numbers.hold_after(60)
    async with job.crawl("-s", "crawl.drain_seconds=1000") as first:
        await job.committed(61)
        first.process.send_signal(signal.SIGINT)
        await first.process.says("SIGINT: finishing what is in flight; once more to stop at once")
        first.process.send_signal(signal.SIGINT)
        assert await first.ends() == 75
    assert "SIGINT: stopping at once" in first.said
    assert "Traceback" not in first.said
    assert job.lines() == 61
    job.numbers.open()
    async with job.crawl() as second:
        assert await second.ends() == 0
    job.assert_complete()


@pytest.mark.hostile("R-07b")
async def test_a_second_process_on_the_job_is_refused_and_told_which_process_has_it(job: Job) -> None:
    job.numbers.hold_after(20)
    async with job.crawl() as first:
        await job.committed(21)
        asked = len(job.numbers.site.journal)
        async with job.crawl() as second:
            assert await second.ends() == 2
        assert re.search(rf"in use by process {first.process.pid}\b", second.said)
        assert "Traceback" not in second.said
        assert len(job.numbers.site.journal) == asked
        job.numbers.open()
        assert await first.ends() == 0
    job.assert_complete()
