"""The process dies at a named point, between any two steps that matter; the same command goes on."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from numbers_job import Job, Numbers

from crawler.testing import LocalSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

WHILE_IT_RUNS = (
    "after_dequeue:9",
    "after_fetch:9",
    "after_callback:9",
    "after_apply:9",
    "before_flush",
    "mid_output_write",
    "mid_output_write:3",
    "after_output_before_commit",
    "before_commit:2",
    "during_commit:2",
    "after_commit:2",
    "during_checkpoint:2",
    "after_outputs_closed",
)
IN_RECOVERY = ("recovery_opened", "recovery_outputs", "before_commit", "during_commit", "recovered")


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[Job]:
    async with LocalSite() as site:
        yield Job(tmp_path, Numbers(site))


@pytest.mark.hostile("R-01")
async def test_killed_at_one_point_after_the_other_a_crawl_gives_every_item_once(job: Job) -> None:
    job.refuses = True
    job.outputs = ("out.jsonl", "out.csv", "out.json", "out.jsonl.gz", "out.jsonl.zst", "out.db")
    for point in WHILE_IT_RUNS:
        async with job.crawl(crash_at=point) as crawl:
            assert await crawl.ends() == -signal.SIGKILL, f"{point} was not passed:\n{crawl.said}"
    async with job.crawl() as last:
        assert await last.ends() == 0, last.said
    job.assert_complete()


@pytest.mark.hostile("R-02")
async def test_killed_again_and_again_while_it_recovers_a_crawl_gives_every_item_once(job: Job) -> None:
    job.refuses = True
    job.numbers.hold_after(100)
    async with job.crawl() as first:
        await job.committed(101)
        await first.killed()
    job.numbers.open()
    for point in IN_RECOVERY:
        async with job.crawl(crash_at=point) as crawl:
            assert await crawl.ends() == -signal.SIGKILL, f"{point} was not passed:\n{crawl.said}"
    async with job.crawl() as last:
        assert await last.ends() == 0, last.said
    job.assert_complete()


async def test_killed_while_a_finished_job_makes_room_the_next_crawl_begins_anew(job: Job) -> None:
    job.outputs = ()
    async with job.crawl("--limit", "3") as first:
        assert await first.ends() == 0
    for _ in range(2):
        async with job.crawl(crash_at="recovery_discarding") as second:
            await second.ends()
    async with job.crawl("--limit", "5") as last:
        assert await last.ends() == 0, last.said
    assert "starting a new crawl" in last.said
    assert job.stats()["pages"] == 5
    assert not (job.folder / job.name / "frontier.old").exists()
