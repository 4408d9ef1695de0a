"""A URL whose processing kills the process: twice, then it is set aside, and the crawl goes on without it.

Real processes, that die by their own code or by somebody else's signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import forked
import pytest
from aiohttp import web

from crawler.cli import main
from crawler.errors import EngineUnavailable, JobError
from crawler.explain import explain
from crawler.frontier.at_work import AtWork
from crawler.jobs import open_frontier
from crawler.testing import LocalSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KILLED = -9
SPIDER = """
import asyncio
import os

from crawler import Request, Spider

class Deadly(Spider):
    name = "deadly"
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 4}, "retry": {"times": 0}}

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all()
        if response.url.endswith("/bad"):
            os.kill(os.getpid(), 9)
"""
HARMLESS = SPIDER[: SPIDER.index("        if response.url")]
PAGES = ["/", "/1", "/2", "/3", "/4", "/bad"]


class Job:
    """A folder with a spider, in which the same command runs again and again."""

    def __init__(self, folder: Path, site: LocalSite) -> None:
        self.folder = folder
        self.site = site
        self.path = folder / "job"
        self.write(SPIDER)

    def write(self, spider: str) -> None:
        (self.folder / "spider.py").write_text(spider)

    def _command(self) -> tuple[str, ...]:
        return ("run", "spider.py", "-a", f"site={self.site.url}", "--job", "job", "-o", "out.jsonl")

    async def run(self) -> forked.Ended:
        return await forked.run(self.folder, *self._command())

    async def killed_at(self, path: str) -> None:
        """Run it, and kill it from outside when the site is asked for `path`, which never answers; the process has
        nothing to do then but to wait."""
        asked, killed = asyncio.Event(), asyncio.Event()

        async def hold(request: web.Request) -> web.Response:
            asked.set()
            await killed.wait()
            return web.Response(text="too late")

        self.site.route(path, hold)
        async with forked.start(self.folder, *self._command()) as process:
            await asyncio.wait_for(asked.wait(), forked.SECONDS)
            await self.is_idle()
            process.kill()
            assert (await process.ends()).code == KILLED
        killed.set()
        self.site.page(path, "at last")

    async def is_idle(self) -> None:
        """Until one request alone has not ended, and waits: who asks a server is still at work when that hears it."""
        async with asyncio.timeout(forked.SECONDS):
            while self._left() != 1 or AtWork(self.path / "frontier" / "at-work").last() is not None:
                await asyncio.sleep(0.01)

    def _left(self) -> int:
        with contextlib.suppress(JobError, EngineUnavailable), open_frontier(self.path) as frontier:
            return frontier.values.counters.added - frontier.values.counters.completed
        return 0

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "stats.json").read_text())
        return found

    def paths(self) -> list[str]:
        lines = (self.folder / "out.jsonl").read_text().splitlines()
        return sorted(json.loads(line)["url"].removeprefix(self.site.url) for line in lines)

    def deaths(self) -> dict[str, int]:
        """As the frontier keeps them: by URL of the site."""
        return {path: count for path in PAGES if (count := self.explained(path).deaths)}

    def explained(self, path: str) -> Any:
        return explain(self.site.url + path, self.path, time.time())


@pytest.fixture
async def job(tmp_path: Path) -> AsyncIterator[Job]:
    async with LocalSite() as site:
        site.page("/", "".join(f'<a href="{path}">.</a>' for path in PAGES))
        for path in PAGES[1:]:
            site.page(path, "a page")
        yield Job(tmp_path, site)


# -- who kills is set aside --------------------------------------------------------------------------------------------


async def test_after_two_deaths_the_third_run_sets_it_aside_and_finishes_everything_else(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(await job.run()).code for _ in range(2)] == [KILLED, KILLED]
    last = await job.run()
    assert last.code == 0, last.said
    assert job.paths() == ["/", "/1", "/2", "/3", "/4"]
    assert job.site.paths.count("/bad") == 2, "what is set aside is not fetched"
    stats = job.stats()
    assert (stats["reason"], stats["failures"], stats["failed"], stats["waiting"]) == ("finished", {"poison": 1}, 1, 0)
    assert f"set aside: {job.site.url}/bad: its processing killed the process 2 times" in last.said
    assert main(["explain", f"{job.site.url}/bad", "--job", str(job.path)]) == 0
    told = capsys.readouterr().out
    assert "set aside" in told
    assert "poison" in told


async def test_it_is_set_aside_although_its_page_was_never_in_an_epoch_that_ended(job: Job) -> None:
    # Both pages come within one epoch of 0.2 s, so that no transaction has the URL when the process dies.
    assert (await job.run()).code == KILLED
    assert not _committed_urls(job)
    assert (await job.run()).code == KILLED
    assert (await job.run()).code == 0
    assert job.stats()["failures"] == {"poison": 1}


async def test_it_is_set_aside_when_it_has_waited_for_long(job: Job) -> None:
    async def wait_for_the_epoch(request: web.Request) -> web.Response:
        async with asyncio.timeout(forked.SECONDS):
            while "/bad" not in _committed_urls(job):
                await asyncio.sleep(0.01)
        return web.Response(text="a page")

    job.site.route("/bad", wait_for_the_epoch)
    assert [(await job.run()).code for _ in range(3)] == [KILLED, KILLED, 0]
    assert job.stats()["failures"] == {"poison": 1}
    assert job.paths() == ["/", "/1", "/2", "/3", "/4"]


def _committed_urls(job: Job) -> set[str]:
    """The paths that wait, as far as epochs have ended."""
    with contextlib.suppress(JobError, EngineUnavailable), open_frontier(job.path) as frontier:
        return {each.url.removeprefix(job.site.url) for each in frontier.waiting(job.site.host)}
    return set()


DEADLY_PARTS = {
    "an async callback after a wait": """
    async def parse(self, response):
        yield response.follow_all()
        if response.url.endswith("/bad"):
            await self.fetch(self.site + "/inline")
            os.kill(os.getpid(), 9)
        yield {"url": response.url}
""",
    "an errback": """
    def parse(self, response):
        yield {"url": response.url}
        yield Request(self.site + "/bad?gone", errback=self.gone)
        yield response.follow_all(allow=r"/\\d$")

    def gone(self, failure):
        os.kill(os.getpid(), 9)
""",
    "a pipeline": """
    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all()

    class Pipeline:
        async def process_item(self, item, spider):
            await asyncio.sleep(0)
            if item["url"].endswith("/bad"):
                os.kill(os.getpid(), 9)
            return item

    pipelines = [Pipeline]
""",
    "a middleware": """
    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all()

    async def deadly(request, fetch):
        response = await fetch(request)
        if request.url.endswith("/bad"):
            os.kill(os.getpid(), 9)
        return response

    middlewares = [deadly]
""",
}


@pytest.mark.parametrize("part", DEADLY_PARTS)
async def test_it_may_die_in_any_code_of_the_user(job: Job, part: str) -> None:
    job.site.page("/bad?gone", "gone", status=404)
    job.write(SPIDER[: SPIDER.index("    def parse")] + DEADLY_PARTS[part])
    assert [(await job.run()).code for _ in range(3)] == [KILLED, KILLED, 0]
    assert job.stats()["failures"] == {"poison": 1}
    assert job.paths() == ["/", "/1", "/2", "/3", "/4"]


async def test_none_of_the_users_code_sees_what_is_set_aside(job: Job) -> None:
    errback = '\n    def failed(self, failure):\n        yield {"url": self.site + "/failed"}\n'
    job.write(SPIDER + errback)
    assert [(await job.run()).code for _ in range(3)] == [KILLED, KILLED, 0]
    assert job.paths() == ["/", "/1", "/2", "/3", "/4"]


async def test_each_of_several_costs_two_deaths_of_its_own(job: Job) -> None:
    job.write(SPIDER.replace('endswith("/bad")', 'endswith(("/bad", "/2"))'))
    codes = []
    while 0 not in codes and len(codes) < 8:
        codes.append((await job.run()).code)
    assert codes == [KILLED] * 4 + [0]
    assert job.stats()["failures"] == {"poison": 2}
    assert job.paths() == ["/", "/1", "/3", "/4"]


# -- who only waits is not ---------------------------------------------------------------------------------------------


async def test_a_callback_that_waits_while_the_process_is_killed_from_outside_has_no_part_in_it(job: Job) -> None:
    job.write(
        SPIDER[: SPIDER.index("    def parse")]
        + """
    async def parse(self, response):
        yield response.follow_all()
        if response.url.endswith("/bad"):
            await self.fetch(self.site + "/inline")
        yield {"url": response.url}
"""
    )
    for _ in range(2):
        await job.killed_at("/inline")
        assert AtWork(job.path / "frontier" / "at-work").last() is None
    last = await job.run()
    assert last.code == 0
    assert "died" not in last.said
    assert job.paths() == sorted(PAGES)
    assert job.stats()["failures"] == {}
    assert job.deaths() == {}


async def test_a_kill_from_outside_while_a_page_waits_for_its_answer_counts_for_nobody(job: Job) -> None:
    job.write(HARMLESS)
    for _ in range(3):
        await job.killed_at("/1")
    last = await job.run()
    assert last.code == 0
    assert "died" not in last.said
    assert job.paths() == sorted(PAGES)
    assert job.stats()["failures"] == {}


# -- what is forgotten, and what is not counted ------------------------------------------------------------------------


async def test_deaths_are_forgotten_when_the_page_is_done(job: Job) -> None:
    job.write(SPIDER.replace('endswith("/bad")', 'endswith("/bad") and not os.path.exists("spared")'))
    assert (await job.run()).code == KILLED
    (job.folder / "spared").touch()
    spared = await job.run()
    assert spared.code == 0
    assert "(1 of 2 times)" in spared.said
    assert job.site.paths[-1] == "/bad", "it comes last, and alone"
    assert job.paths() == sorted(PAGES)
    assert job.deaths() == {}
    assert job.explained("/bad").verdict == "done"


async def test_start_itself_is_never_set_aside_and_what_it_gave_before_it_died_is_there_once(job: Job) -> None:
    job.write(
        """
import os, pathlib

from crawler import Spider

class Fatal(Spider):
    name = "fatal"
    settings = {"politeness": {"delay_seconds": 0}}

    async def start(self):
        lives = pathlib.Path("lives")
        lives.write_text(lives.read_text() + "x" if lives.exists() else "x")
        yield self.request(self.site + "/1")
        yield self.request(self.site + "/2")
        if len(lives.read_text()) < 5:
            os.kill(os.getpid(), 9)
        yield self.request(self.site + "/3")

    def parse(self, response):
        yield {"url": response.url}
"""
    )
    codes = [(await job.run()).code for _ in range(5)]
    assert codes == [KILLED] * 4 + [0]
    assert job.paths() == ["/1", "/2", "/3"]
    assert job.stats()["failures"] == {}


async def test_requests_that_are_not_filtered_are_set_aside_all_together(job: Job) -> None:
    job.write(
        SPIDER.replace(
            "        yield response.follow_all()\n",
            """        yield response.follow_all(allow=r"/\\d$")
        if response.url == self.site + "/":
            for _ in range(3):
                yield Request(self.site + "/bad", dont_filter=True)
""",
        )
    )
    assert [(await job.run()).code for _ in range(3)] == [KILLED, KILLED, 0]
    assert job.stats()["failures"] == {"poison": 3}
    assert job.paths() == ["/", "/1", "/2", "/3", "/4"]


async def test_one_after_the_other_requests_of_one_url_that_are_not_filtered_are_set_aside_all_the_same(
    job: Job,
) -> None:
    job.write(
        SPIDER.replace('"concurrency_per_host": 4', '"concurrency_per_host": 1').replace(
            "        yield response.follow_all()\n",
            """        if response.url == self.site + "/":
            for _ in range(2):
                yield Request(self.site + "/bad", dont_filter=True)
""",
        )
    )
    assert [(await job.run()).code for _ in range(3)] == [KILLED, KILLED, 0]
    assert job.stats()["failures"] == {"poison": 2}
