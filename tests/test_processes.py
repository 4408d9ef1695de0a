"""One crawl in several processes: the same as in one, whatever becomes of the processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web
from numbers_job import PAGES, Job, Numbers

from crawler import Spider, crawl
from crawler.errors import CrawlerError, SettingsError, UsageError
from crawler.processes import parent
from crawler.testing import LocalSite
from tests.crew_spiders import Numbered, Odd, Poisoned, Stillborn, Tree

FAST = {"politeness": {"delay_seconds": 0, "obey_robots": False}}
DELAY, NOISE_SECONDS = 0.5, 0.3


def tree(site, pages, *extra):
    """Pages `/1` … under `/`, each with its number."""
    links = "".join(f'<a href="/{number}">x</a>' for number in [*range(1, pages), *extra])
    site.page("/", f"{links}<p>0</p>")
    for number in range(1, pages):
        site.page(f"/{number}", f'<a href="/">home</a><p>{number}</p>')


@contextlib.asynccontextmanager
async def sites_of(count, pages, *extra):
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(LocalSite(f"127.0.0.{number}")) for number in range(1, count + 1)]
        for site in sites:
            tree(site, pages, *extra)
        yield sites


def args_of(sites):
    return {"sites": [site.url for site in sites]}


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
async def job(tmp_path):
    async with LocalSite() as site:
        yield Job(tmp_path, Numbers(site))


# -- as in one process -----------------------------------------------------------------------------------------------


async def test_two_processes_write_what_one_does_and_count_the_same(tmp_path):
    async with sites_of(3, 30) as sites:
        one = await crawl(Tree, args=args_of(sites), settings=FAST, output=tmp_path / "1.jsonl")
        two = await crawl(Tree, args=args_of(sites), settings=FAST, output=tmp_path / "2.jsonl", processes=2)
    found = [Counter(item["url"] for item in lines(tmp_path / name)) for name in ("1.jsonl", "2.jsonl")]
    assert found[0] == found[1]
    assert set(found[1].values()) == {1}
    times = ("started_at", "finished_at", "elapsed_seconds", "stalls", "longest_stall_seconds")
    assert _without(two.stats, times) == _without(one.stats, times)


def _without(stats, names):
    return {name: value for name, value in stats.items() if name not in names}


async def test_each_host_has_its_delay_over_all_processes(noise):
    settings = {"politeness": {"delay_seconds": DELAY, "jitter": 0.0, "adaptive": False, "obey_robots": False}}
    async with sites_of(4, 6) as sites:
        result = await crawl(Tree, args=args_of(sites), settings=settings, processes=3)
        assert result.stats["pages"] == 24
        for site in sites:
            assert Counter(site.paths).most_common(1)[0][1] == 1
            times = [hit.time for hit in site.journal]
            assert (
                min(later - earlier for earlier, later in itertools.pairwise(times))
                >= DELAY - NOISE_SECONDS - noise.seconds
            )
            assert times[-1] - times[0] >= 5 * DELAY - NOISE_SECONDS - noise.seconds


async def test_the_pages_of_a_host_are_counted_over_all_processes():
    settings = {"politeness": {"delay_seconds": 0.02, "jitter": 0.0, "obey_robots": False}}
    async with sites_of(5, 40) as sites:
        result = await crawl(
            Tree, args=args_of(sites), settings={**settings, "crawl": {"pages_per_host": 13}}, processes=3
        )
        assert [len(site.journal) for site in sites] == [13] * 5
    assert result.stats["pages"] == 65


async def test_places_at_a_host_without_delay_are_shared_and_never_exceeded():
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 4, "obey_robots": False}}

    here, most = 0, 0

    async def page(request):
        nonlocal here, most
        here += 1
        most = max(most, here)
        await asyncio.sleep(0.03)
        here -= 1
        return web.Response(text="<p>1</p>", content_type="text/html")

    async with sites_of(1, 300) as sites:
        sites[0].route("*", page)
        for number in range(1, 300):
            del sites[0]._routes[f"/{number}"]
        result = await crawl(Tree, args=args_of(sites), settings=settings, processes=2)
    assert result.stats["pages"] == 300
    assert 2 < most <= 4


async def test_callbacks_run_in_children_and_pipelines_in_the_parent_and_all_is_counted(tmp_path):
    async with sites_of(2, 31) as sites:
        result = await crawl(
            Numbered, args=args_of(sites), settings=FAST, output=tmp_path / "o.jsonl", job=tmp_path / "job", processes=2
        )
    items = lines(tmp_path / "o.jsonl")
    kept = [number for number in range(31) if number % 3 and number % 5]
    assert sorted(item["number"] for item in items) == sorted([*kept, *kept])
    assert {item["written_by"] for item in items} == {os.getpid()}
    assert os.getpid() not in {item["read_by"] for item in items}
    refused = 2 * len([number for number in range(31) if number % 3 and number % 5 == 0])
    assert (
        result.stats["items_refused"] == result.stats["errors"] == refused == len(lines(tmp_path / "job/refused.jsonl"))
    )
    assert result.stats["items_dropped"] == 62 - len(items)
    assert result.stats["custom"] == {"parsed": 62}
    assert result.stats["failures"] == {"pipeline_error": refused}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"page_limit": 17}, "page_limit"), ({"item_limit": 11}, "item_limit"), ({"error_limit": 3}, "error_limit")],
)
async def test_limits_hold_over_all_processes(tmp_path, limits, reason):
    spider = Numbered if reason == "error_limit" else Tree
    async with sites_of(3, 60) as sites:
        settings = {**FAST, "crawl": limits}
        output = tmp_path / "o.jsonl"
        result = await crawl(spider, args=args_of(sites), settings=settings, output=output, processes=2)
    assert result.reason == reason
    if reason == "page_limit":
        assert result.stats["pages"] == 17
    if reason == "item_limit":
        assert result.stats["items"] == len(lines(output)) == 11


# -- what goes wrong -------------------------------------------------------------------------------------------------


async def test_a_page_that_kills_its_process_is_set_aside_and_all_others_are_there(tmp_path):
    async with sites_of(2, 20, "poison", "raises") as sites:
        for site in sites:
            site.page("/poison", "x")
            site.page("/raises", "x")
        output = tmp_path / "o.jsonl"
        result = await crawl(
            Poisoned, args=args_of(sites), settings=FAST, output=output, job=tmp_path / "job", processes=2
        )
    assert result.reason == "finished"
    assert result.stats["failures"] == {"callback_error": 2, "poison": 2}
    urls = Counter(item["url"] for item in lines(output))
    assert len(urls) == 40
    assert set(urls.values()) == {1}
    log = (tmp_path / "job" / "crawl.log").read_text()
    assert "RuntimeError: this page is wrong" in log
    assert "its processing killed the process 2 times" in log


async def test_children_that_cannot_live_end_the_crawl_with_a_message(monkeypatch):
    monkeypatch.setattr(parent, "_MOST_DEATHS", 3)
    async with sites_of(1, 3) as sites:
        with pytest.raises(CrawlerError, match=r"died 3 times in a row.*exit code 3"):
            await crawl(Stillborn, args=args_of(sites), settings=FAST, processes=2)


async def test_an_item_that_cannot_be_sent_is_refused_and_named(tmp_path):
    async with sites_of(1, 3) as sites:
        result = await crawl(Odd, args=args_of(sites), settings=FAST, job=tmp_path / "job", processes=2)
    assert result.stats["items"] == result.stats["items_refused"] == 3
    assert result.stats["failures"] == {"item_error": 3}
    messages = {line["message"] for line in lines(tmp_path / "job" / "refused.jsonl")}
    assert len(messages) == 1
    assert "it holds a object" in messages.pop()


async def test_what_cannot_be_done_in_several_processes_is_said_before_anything_is_sent(tmp_path):
    class Local(Spider):
        name = "local"

    with pytest.raises(UsageError, match="top level of its module"):
        await crawl(Local, processes=2)
    with pytest.raises(SettingsError, match="group_by"):
        await crawl(Tree, settings={"politeness": {"group_by": "ip"}}, processes=2)
    with pytest.raises(UsageError, match="refresh"):
        await crawl(Tree, job=tmp_path / "job", refresh=True, processes=2)
    with pytest.raises(UsageError, match="expected 0 or more"):
        await crawl(Tree, processes=-1)


# -- kills and signals -----------------------------------------------------------------------------------------------


def children_of(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


async def gone(pids):
    async with asyncio.timeout(20):
        while any(_lives(pid) for pid in pids):
            await asyncio.sleep(0.01)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_child_that_is_killed_in_full_run_costs_no_item_and_doubles_none(job):
    async with job.crawl("--processes", "2") as running:
        await running.has_asked(job.numbers.site, 100)
        os.kill(children_of(running.process)[0], signal.SIGKILL)
        assert await running.ends() == 0
    assert "another one takes its place" in running.said
    job.assert_complete()


async def test_a_parent_that_is_killed_takes_its_children_along_and_the_same_command_goes_on(job):
    async with job.crawl("--processes", "2") as first:
        await first.has_asked(job.numbers.site, 120)
        children = children_of(first.process)
        await first.killed()
    await gone(children)
    assert 0 < job.lines() < PAGES
    async with job.crawl("--processes", "2") as second:
        assert await second.ends() == 0
    assert "continuing the interrupted crawl" in second.said
    job.assert_complete()


async def test_a_first_signal_drains_all_children_and_one_process_may_go_on(job):
    async with job.crawl("--processes", "2") as first:
        await first.has_asked(job.numbers.site, 60)
        first.process.send_signal(signal.SIGINT)
        assert await first.ends() == 75
    assert 0 < job.lines() < PAGES
    assert sum(job.numbers.asked().values()) - 1 <= job.lines() + 1
    async with job.crawl() as second:
        assert await second.ends() == 0
    job.assert_complete()
    assert max(job.numbers.asked().values()) == 1


async def test_a_second_signal_ends_it_at_once(job):
    job.numbers.hold_after(20)
    async with job.crawl("--processes", "2") as first:
        await job.committed(21)
        await first.has_asked(job.numbers.site, 24)
        first.process.send_signal(signal.SIGTERM)
        await first.process.says("once more to stop at once")
        first.process.send_signal(signal.SIGTERM)
        assert await first.ends() == 75
    job.numbers.open()
    async with job.crawl("--processes", "2") as second:
        assert await second.ends() == 0
    job.assert_complete()
