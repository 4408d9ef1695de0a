"""`crawler frontier`, `crawler jobs export --frontier`: a crawl that workers share, from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crawler.demo import serve
from tests.engines import Server, needs_redis

pytestmark = needs_redis
ROOT = Path(__file__).resolve().parent.parent
SPIDER = """
from crawler import Spider

class Shelf(Spider):
    name = "shelf"
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 4}}
    site = ""

    async def start(self):
        yield self.request(self.site + "/index.html")

    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all("article.product_pod h3 a", self.book)

    def book(self, response):
        yield {"url": response.url}
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def url(engine):
    engine.flush()
    return engine.url


@pytest.fixture
def spider(tmp_path):
    (tmp_path / "spiders").mkdir()
    (tmp_path / "spiders" / "shelf.py").write_text(SPIDER)


def test_a_crawl_is_made_looked_at_paused_and_removed(command, url, spider):
    frontier = ("--frontier", url)
    assert command("frontier", "create", "shelf", *frontier)[:2] == (0, "crawler: crawl 'shelf' is made\n")
    assert command("frontier", "create", "shelf", *frontier)[:2] == (0, "crawler: crawl 'shelf' is there already\n")
    code, out, _ = command("frontier", "status", "shelf", *frontier)
    assert code == 0
    assert "state            running" in out
    assert command("frontier", "pause", "shelf", *frontier)[1] == "crawler: crawl 'shelf' is paused\n"
    code, out, _ = command("frontier", "status", "shelf", "--json", *frontier)
    assert json.loads(out)["control"] == "paused"
    assert command("frontier", "resume", "shelf", *frontier)[0] == 0
    assert command("frontier", "rm", "shelf", *frontier)[1] == "crawler: crawl 'shelf' is removed; outputs stay\n"
    code, _, err = command("frontier", "rm", "shelf", *frontier)
    assert (code, err) == (1, "crawler: there is no crawl 'shelf'\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("status", "shelf"), "which frontier? Give --frontier"),
        (("status", "shelf", "--frontier", "memory://"), "which frontier? Give --frontier"),
        (("create", "nosuch"), "nosuch"),
        (("pause", "nosuch", "--frontier", "URL"), "there is no crawl 'nosuch'"),
        (("drain", "a b", "--frontier", "URL"), "cannot be the name"),
    ],
)
def test_what_cannot_be_done_is_said(command, url, spider, arguments, says):
    code, _, err = command("frontier", *(url if each == "URL" else each for each in arguments))
    assert code == 2
    assert says in err


async def test_two_workers_write_parts_that_are_joined(url, spider, tmp_path):
    async with serve() as shop:
        options = ["run", "shelf", "-a", f"site={shop.url}", "--frontier", url, "-o", "shelf.jsonl", "--quiet"]
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "crawler", *options, "-s", f"frontier.worker={name}"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for name in ("one", "two")
        ]
        codes = await asyncio.gather(*(asyncio.to_thread(worker.wait, 60) for worker in workers))
    assert codes == [0, 0]
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["shelf.one.jsonl", "shelf.two.jsonl"]
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["shelf.one", "shelf.two"]
    joining = [sys.executable, "-m", "crawler", "jobs", "export", "shelf", "--frontier", url, "-o", "all.jsonl"]
    joined = await asyncio.to_thread(
        subprocess.run,
        joining,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (joined.returncode, joined.stderr) == (0, "crawler: 21 items of 2 parts\n")
    items = [json.loads(line)["url"] for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(items) == len(set(items)) == 21


async def test_a_worker_that_is_told_to_stop_gives_back_what_it_has_and_another_goes_on(url, spider, tmp_path):
    async with serve() as shop:
        command = [
            *(sys.executable, "-m", "crawler", "run", "shelf", "-a", f"site={shop.url}", "--frontier", url),
            *("-o", "shelf.jsonl", "-s", "frontier.worker=one", "-s", "politeness.delay_seconds=0.1"),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        worker = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE
        )
        while not (tmp_path / "shelf.one.jsonl").exists() or not (tmp_path / "shelf.one.jsonl").stat().st_size:
            await asyncio.sleep(0.02)
        worker.send_signal(signal.SIGTERM)
        _, told = await worker.communicate()
        assert worker.returncode == 75, told
        again = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment)
        assert await again.wait() == 0
    items = [json.loads(line)["url"] for line in (tmp_path / "shelf.one.jsonl").read_text().splitlines()]
    assert len(items) == len(set(items)) == 21
