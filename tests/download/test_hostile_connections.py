"""Connections that fail in every way there is: nothing is left of them, and no more are open than may be."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fetching import WAYS, downloader, outcome

from crawler.testing.raw import RawServer, answer, reset

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HALF_HEAD = b"HTTP/1.1 200 OK\r\nX: "
HALF_BODY = answer(b"hello", length=100)


async def half_closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HALF_BODY)
    writer.write_eof()


async def hangs_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def says(_: asyncio.StreamReader, writer: asyncio.StreamWriter, *, what: bytes) -> None:
    writer.write(what)


FAULTS: dict[str, tuple[Any, str]] = {
    "reset at accept": (reset(), "connect_reset"),
    "reset mid headers": (reset(HALF_HEAD), "connect_reset|disconnected"),
    "reset mid body": (reset(HALF_BODY), "body_truncated|connect_reset"),
    "hung up": (hangs_up, "disconnected"),
    "half closed": (half_closes, "body_truncated"),
    "no HTTP": (lambda _, writer: says(_, writer, what=b"SSH-2.0\r\n"), "protocol"),
    "a broken coding": (
        lambda _, writer: says(_, writer, what=answer(b"x" * 50, "Content-Encoding: gzip")),
        "body_encoding",
    ),
    "too large": (lambda _, writer: says(_, writer, what=answer(b"", length=1 << 40)), "body_too_large|body_truncated"),
}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settled(count: Callable[[], int], most: int) -> int:
    """What is closed is gone after some turns of the loop."""
    for _ in range(200):
        if count() <= most:
            break
        await asyncio.sleep(0.005)
    return count()


@pytest.mark.hostile("R-16")
async def test_hundreds_of_failures_leave_neither_file_nor_task_and_each_has_its_reason() -> None:
    kinds = list(FAULTS)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind = kinds[int(server.requests[-1].split(b" ")[1][1:]) % len(kinds)]
        await FAULTS[kind][0](reader, writer)

    async with RawServer(script) as server, downloader(http={"max_body_bytes": 1 << 20}) as client:

        async def fail(number: int, way: str) -> tuple[str, str]:
            return kinds[number % len(kinds)], await outcome(client, f"{server.url}{number}", way)

        async def batch(numbers: range) -> list[tuple[str, str]]:
            ways = itertools.cycle(WAYS)
            return await asyncio.gather(*(fail(number, next(ways)) for number in numbers))

        await batch(range(24))
        files, tasks = await settled(open_files, 0), len(asyncio.all_tasks())
        found: set[tuple[str, str]] = set()
        for start in range(0, 720, 24):
            found |= set(await batch(range(start, start + 24)))
        assert len(server.requests) == 744
        assert await settled(open_files, files) <= files
        assert len(asyncio.all_tasks()) <= tasks
    for kind, reason in found:
        assert reason in FAULTS[kind][1].split("|"), kind
    assert {kind for kind, _ in found} == set(FAULTS)


# -- as many files as there are ----------------------------------------------------------------------------------------

FEW_FILES = """
import asyncio, json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from crawler import Spider
from crawler.testing import run_spider

class Many(Spider):
    name = "many"

    async def start(self):
        for number in range(300):
            yield self.request(f"http://127.0.{number // 200 + 1}.{number % 200 + 1}:{sys.argv[1]}/")

    def parse(self, response):
        yield {"url": response.url}

settings = {"crawl": {"concurrency": 1000}, "politeness": {"obey_robots": False}, "retry": {"times": 0}}
run = asyncio.run(run_spider(Many, settings=settings))
print(json.dumps({"pages": len(run.items), "failures": run.stats["failures"]}))
"""


@pytest.mark.hostile("R-40")
async def test_with_few_files_there_are_fewer_requests_at_once_a_warning_and_no_failures() -> None:
    """300 hosts that keep their connections, none of which answers before a quarter of the files are in use, or all."""
    waiting = most = asked = 0
    go_on = asyncio.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting, most, asked, go_on
        waiting, asked = waiting + 1, asked + 1
        most = max(most, waiting)
        if waiting >= 64 or asked == 300:
            go_on.set()
            go_on = asyncio.Event()
        else:
            await go_on.wait()
        waiting -= 1
        writer.write(answer(b"hello"))

    async with RawServer(script, host="0.0.0.0", keep_alive=True) as server:
        crawl = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FEW_FILES, str(server.port), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(60):
            said, complained = await crawl.communicate()
    assert crawl.returncode == 0, complained.decode()
    assert json.loads(said) == {"pages": 300, "failures": {}}
    assert b"crawl.concurrency is 64 here instead of 1000" in complained
    assert most <= 64
