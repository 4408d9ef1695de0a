"""Job folders that are moved, copied, older, newer, in use, finished; and their outputs, named or not."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forked
import kept_job
import pytest
from aiohttp import web

from crawler import Response, Spider
from crawler.api import _crawl as assemble
from crawler.errors import JobError
from crawler.frontier import disk
from crawler.jobs import open_frontier, overview
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGES = 60
FIXTURES = Path(__file__).parent / "fixtures"
SPIDER = """
from crawler import Spider, epochs

epochs.EPOCH_SECONDS = 0.05

class Numbers(Spider):
    name = "numbers"
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 4, "obey_robots": False}}

    async def start(self):
        yield self.request(self.site + "/0")

    def parse(self, response):
        yield {"number": int(response.url.rpartition("/")[2])}
        yield response.follow_all()
"""


class Project:
    """A folder with a spider and its jobs."""

    def __init__(self, folder: Path, site: LocalSite) -> None:
        self.folder = folder
        self.site = site
        folder.mkdir(exist_ok=True)
        (folder / "spider.py").write_text(SPIDER)

    def command(self, *outputs: str, job: str = "job") -> tuple[str, ...]:
        named = [word for output in outputs for word in ("-o", output)]
        return ("run", "spider.py", "-a", f"site={self.site.url}", "--job", job, *named)

    async def killed(self, *outputs: str, job: str = "job", crash_at: str = "after_commit:4") -> forked.Ended:
        """Somewhere in its middle: two epochs have ended, and one of them is not all there is."""
        ended = await forked.run(self.folder, *self.command(*outputs, job=job), crash_at=crash_at)
        assert ended.code == -9, ended.said
        return ended

    async def finished(self, *outputs: str, job: str = "job") -> forked.Ended:
        ended = await forked.run(self.folder, *self.command(*outputs, job=job))
        assert ended.code == 0, ended.said
        return ended

    def moved(self, folder: Path) -> Project:
        os.rename(self.folder, folder)
        return Project(folder, self.site)


@pytest.fixture
async def site() -> AsyncIterator[LocalSite]:
    """Numbered pages, of which each names the next three."""

    async def page(request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)
        links = (int(request.path[1:]) * 3 + each for each in (1, 2, 3))
        text = "".join(f'<a href="/{number}">.</a>' for number in links if number < PAGES)
        return web.Response(text=text, content_type="text/html")

    async with LocalSite() as site:
        site.route("*", page)
        yield site


@pytest.fixture
def project(tmp_path: Path, site: LocalSite) -> Project:
    return Project(tmp_path / "here", site)


def numbers_in(path: Path) -> list[int]:
    lines = path.read_text().splitlines()
    if path.suffix == ".csv":
        assert lines.pop(0) == "number"
        return sorted(map(int, lines))
    return sorted(json.loads(line)["number"] for line in lines)


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in it: when it was written, and what."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes())
        for path in [folder, *folder.rglob("*")]
        if "__pycache__" not in path.parts and path != folder  # Python's own, of the spider's file
    }


ALL = list(range(PAGES))


# -- moved and copied --------------------------------------------------------------------------------------------------


async def test_a_project_that_was_moved_after_a_kill_goes_on_with_the_same_command(
    project: Project, tmp_path: Path
) -> None:
    await project.killed("out.jsonl", "out.csv")
    there = project.moved(tmp_path / "there")
    last = await there.finished("out.jsonl", "out.csv")
    assert "continuing the interrupted crawl" in last.said
    assert numbers_in(there.folder / "out.jsonl") == numbers_in(there.folder / "out.csv") == ALL
    assert not (tmp_path / "here").exists(), "nothing is written where it was"


async def test_a_job_folder_with_its_output_inside_goes_on_wherever_it_is_taken(
    project: Project, tmp_path: Path
) -> None:
    await project.killed("job/out.jsonl")
    there = Project(tmp_path / "there", project.site)
    shutil.move(project.folder / "job", there.folder / "renamed")
    last = await there.finished("renamed/out.jsonl", job="renamed")
    assert "continuing the interrupted crawl" in last.said
    assert numbers_in(there.folder / "renamed" / "out.jsonl") == ALL


@pytest.mark.hostile("R-07b")
async def test_a_copy_and_its_original_both_go_on_each_for_itself(project: Project, tmp_path: Path) -> None:
    await project.killed("out.jsonl")
    shutil.copytree(project.folder, tmp_path / "copy")
    copy = Project(tmp_path / "copy", project.site)
    await copy.finished("out.jsonl")
    assert numbers_in(copy.folder / "out.jsonl") == ALL
    before = (project.folder / "out.jsonl").read_bytes()
    assert len(before.splitlines()) < PAGES
    await project.finished("out.jsonl")
    assert numbers_in(project.folder / "out.jsonl") == ALL


async def test_a_job_folder_that_was_moved_alone_finds_the_output_that_stayed(project: Project, tmp_path: Path) -> None:
    output = str(tmp_path / "elsewhere" / "out.jsonl")
    await project.killed(output)
    shutil.move(project.folder / "job", tmp_path / "moved")
    last = await project.finished(output, job=str(tmp_path / "moved"))
    assert "continuing the interrupted crawl" in last.said
    assert numbers_in(Path(output)) == ALL


async def test_a_job_that_went_alone_and_whose_output_was_brought_along_by_name_cuts_that_back(
    project: Project, tmp_path: Path
) -> None:
    await project.killed("out.jsonl", crash_at="after_output_before_commit:3")  # the file is longer than what counts
    there = Project(tmp_path / "there", project.site)
    (there.folder / "deeper").mkdir()
    shutil.move(project.folder / "job", there.folder / "deeper" / "job")
    shutil.move(project.folder / "out.jsonl", there.folder / "out.jsonl")
    await there.finished("out.jsonl", job="deeper/job")
    assert numbers_in(there.folder / "out.jsonl") == ALL


# -- of other versions -------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-07b", "R-42")
async def test_a_job_of_a_newer_version_is_refused_and_nothing_in_its_folder_changes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Numbers(Spider):
        name = "numbers"

        async def start(self) -> Any:
            yield self.request(project.site.url + "/0")

    async def stop(request: web.Request) -> web.Response:
        crawl.engine.abort()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(disk, "FORMAT", 3)
    project.site.route("/0", stop)
    crawl = assemble(Numbers, {}, {}, project.folder / "out.jsonl", job=project.folder / "job")
    async with crawl:
        assert (await crawl.run()).reason == "interrupted"
    monkeypatch.undo()
    before = tree(project.folder)
    for _ in range(2):
        refused = await forked.run(project.folder.parent, *_from_outside(project))
        assert refused.code == 2
        assert "written by a newer version of the crawler (format 3, this one reads 2)" in refused.said
        assert "Nothing was changed" in refused.said
        assert "Traceback" not in refused.said
        assert tree(project.folder) == before
    assert overview(project.folder / "job").state == "newer version"
    assert tree(project.folder) == before


def _from_outside(project: Project) -> tuple[str, ...]:
    """The same command; what the test itself writes is not in the project's folder."""
    name = project.folder.name
    spider, job, output = (f"{name}/{part}" for part in ("spider.py", "job", "out.jsonl"))
    return ("run", spider, "-a", "site=http://127.0.0.1:1", "--job", job, "-o", output)


@pytest.mark.hostile("R-07b", "R-42")
async def test_a_job_that_the_version_before_left_is_refused_with_a_way_on_and_nothing_is_written(
    project: Project,
) -> None:
    kept_job.unpack(FIXTURES / "job-format-1.tar.gz", project.folder)
    before = tree(project.folder)
    refused = await forked.run(project.folder.parent, *_from_outside(project))
    assert refused.code == 2
    assert "written by an older version of the crawler (format 1, this one reads 2)" in refused.said
    assert "Finish it with that version, or start again with --fresh" in refused.said
    assert tree(project.folder) == before
    with pytest.raises(JobError, match="older version"), open_frontier(project.folder / "job"):
        pass
    assert overview(project.folder / "job").state == "older version"
    assert tree(project.folder) == before


async def test_fresh_starts_again_over_a_job_of_another_version(project: Project) -> None:
    kept_job.unpack(FIXTURES / "job-format-1.tar.gz", project.folder)
    site = kept_job.KeptSite()
    site.open()
    async with site.serve() as socket:
        last = await forked.run(project.folder, *kept_job.command(socket), "--fresh")
    assert last.code == 0, last.said
    assert "the last one is discarded" in last.said
    assert site.asked.count("/1") == 1


@pytest.mark.hostile("R-42")
@pytest.mark.parametrize("archive", ["job-format-2.tar.gz"])
async def test_a_job_that_an_earlier_version_left_is_finished_with_nothing_lost_and_nothing_twice(
    project: Project, archive: str
) -> None:
    kept_job.unpack(FIXTURES / archive, project.folder)
    written = kept_job.items_in(project.folder / "out.jsonl")
    assert written == list(range(kept_job.HELD.start))
    with open_frontier(project.folder / "job") as frontier:
        late = [each for each in frontier.waiting("numbers.test:80") if each.url.endswith("/late")]
    assert [each.attempt > 0 for each in late] == [True]
    site = kept_job.KeptSite()
    site.open()
    async with site.serve() as socket:
        last = await forked.run(project.folder, *kept_job.command(socket))
    assert last.code == 0, last.said
    assert "continuing the interrupted crawl in job" in last.said
    for output in kept_job.OUTPUTS:
        assert kept_job.items_in(project.folder / output) == list(range(kept_job.PAGES + 1))
    # robots.txt was kept, too; but the archive is older than the day for which it counts (RFC 9309, 2.4).
    assert sorted(site.asked) == sorted(["/robots.txt", "/late", *(f"/{number}" for number in kept_job.HELD)])
    stats = json.loads((project.folder / "job" / "stats.json").read_text())
    assert stats["added"] == stats["done"] + stats["failed"] + stats["dropped"]
    assert stats["failures"]["status_404"] == stats["failures"]["robots"] == 1
    assert stats["offsite"] >= 1


# -- in use ------------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-07b")
async def test_a_second_process_is_refused_names_the_first_and_changes_nothing(project: Project) -> None:
    class Slow(Spider):
        name = "numbers"

        async def start(self) -> Any:
            yield self.request(project.site.url + "/held")

        def parse(self, response: Response) -> None: ...

    asked, gate = asyncio.Event(), asyncio.Event()

    async def held(request: web.Request) -> web.Response:
        asked.set()
        await gate.wait()
        return web.Response()

    project.site.route("/held", held)
    first = asyncio.ensure_future(run_spider(Slow, job=project.folder / "job"))
    await asked.wait()
    lock = (project.folder / "job" / "lock").read_bytes()
    second = await forked.run(project.folder.parent, *_from_outside(project))
    assert second.code == 2
    assert re.search(rf"job here/job is in use by process {os.getpid()};", second.said)
    assert "Traceback" not in second.said
    assert (project.folder / "job" / "lock").read_bytes() == lock
    assert not (project.folder / "out.jsonl").exists()
    gate.set()
    assert (await first).reason == "finished"


# -- outputs -----------------------------------------------------------------------------------------------------------


async def test_an_output_that_is_not_named_this_time_keeps_its_place_and_can_be_named_again(project: Project) -> None:
    csv = project.folder / "b.csv"
    # Killed with more in the files than what counts, so that there is something to be cut back.
    await project.killed("a.jsonl", "b.csv", crash_at="after_output_before_commit:3")
    left = csv.read_bytes()
    second = await project.killed("a.jsonl", crash_at="after_commit:2")
    assert "this job wrote to b.csv before; items found from now on will not be there" in second.said
    assert csv.read_bytes() == left
    third = await project.finished("a.jsonl", "b.csv")
    assert "wrote to" not in third.said
    assert numbers_in(project.folder / "a.jsonl") == ALL
    found = numbers_in(csv)
    assert len(found) == len(set(found)), "what was not committed was cut off, and came again"
    assert 0 < len(found) < PAGES, "what came while it was not named is not there"


async def test_an_output_that_is_new_this_time_has_what_comes_from_now_on(project: Project) -> None:
    await project.killed("a.jsonl")
    (project.folder / "new.jsonl").write_text('{"number": -1}\n')
    await project.finished("a.jsonl", "new.jsonl")
    assert numbers_in(project.folder / "a.jsonl") == ALL
    found = numbers_in(project.folder / "new.jsonl")
    assert found[0] == -1, "it is appended to"
    assert 0 < len(found) - 1 < PAGES
    assert set(found[1:]) < set(ALL)


# -- finished ----------------------------------------------------------------------------------------------------------


async def test_a_finished_job_starts_anew_and_its_output_is_appended_to(project: Project) -> None:
    for run in (1, 2):
        ended = await project.finished("out.jsonl")
        assert "starting a new crawl" in ended.said
        assert numbers_in(project.folder / "out.jsonl") == sorted(ALL * run)
        stats = json.loads((project.folder / "job" / "stats.json").read_text())
        assert (stats["pages"], stats["items"]) == (PAGES, PAGES)
        assert len(project.site.requests()) == PAGES * run
    assert "the last one had finished" in ended.said
