"""A crawl in a process of its own, asked from outside: `crawler health`, its status page while it drains, SIGUSR1."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession, web

from crawler.testing import LocalSite
from crawler.testing.raw import RawServer, hang

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parent.parent
SPIDER = '''
from crawler import Spider

class Waiting(Spider):
    """Asks for one page."""

    name = "waiting"
    site = ""

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        yield {"title": "x"}
'''


class Running:
    """A crawl, and all that it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def says(self, pattern: str) -> str:
        """What the pattern's group found, as soon as it is said."""
        assert self.process.stderr is not None
        while not (found := re.search(pattern, self.said)):
            line = await asyncio.wait_for(self.process.stderr.readline(), 30)
            assert line, f"it ended without {pattern!r}: {self.said}"
            self.said += line.decode()
        return found[found.lastindex or 0]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@asynccontextmanager
async def crawling(folder: Path, site: str, **more: str) -> AsyncIterator[Running]:
    (folder / "waiting.py").write_text(SPIDER)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "crawler", "run", "waiting.py", "-a", f"site={site}", "-o", "out.jsonl"),
        *("-s", "politeness.obey_robots=false", "-s", "status.listen=127.0.0.1:0"),
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def get(url: str) -> tuple[int, str]:
    async with ClientSession() as session, session.get(url) as answered:
        return answered.status, await answered.text()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_while_it_drains_a_worker_is_healthy_and_not_ready(tmp_path: Path, loop: str) -> None:
    may_answer = asyncio.Event()

    async def page(_: web.Request) -> web.Response:
        await may_answer.wait()
        return web.Response(text="<p>x</p>")

    if loop == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError")
    async with LocalSite() as site, asyncio.timeout(60):
        site.route("/", page)
        async with crawling(tmp_path, site.url, PYTHONPATH=f"{tmp_path}:{ROOT}") as crawl:
            url = await crawl.says(r"status page is at (http://\S+)/status")
            await site.reached(1)
            assert await get(f"{url}/readyz") == (200, "ready\n")
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(b"GET /status HTTP/1.1\r\n")  # and never the rest
            crawl.process.send_signal(signal.SIGTERM)
            await crawl.says("SIGTERM: finishing")
            assert await get(f"{url}/readyz") == (503, "draining\n")
            assert await get(f"{url}/healthz") == (200, "ok\n")
            may_answer.set()
            assert await crawl.process.wait() == 75
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 1


async def test_sigusr1_says_what_every_task_is_at_and_the_crawl_goes_on(tmp_path: Path) -> None:
    may_answer = asyncio.Event()

    async def page(_: web.Request) -> web.Response:
        await may_answer.wait()
        return web.Response(text="<p>x</p>")

    async with LocalSite() as site, asyncio.timeout(60):
        site.route("/", page)
        async with crawling(tmp_path, site.url) as crawl:
            await site.reached(1)
            crawl.process.send_signal(signal.SIGUSR1)
            number = int(await crawl.says(r"SIGUSR1: (\d+) tasks"))
            idle = await crawl.says(r"(worker \d+, worker \d+, worker \d+, … \(63\): _work \(\S*engine\.py:\d+\))\n")
            busy = await crawl.says(r"(worker \d+: _work .* visit \(\S*visit\.py:\d+\) > .*)\n")
            assert "fetch" in busy
            assert idle
            assert number > 64
            may_answer.set()
            assert await crawl.process.wait() == 0


async def test_the_command_asks_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
    async with RawServer(said, host="127.0.0.1") as server, asyncio.timeout(30):
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "crawler.toml").write_text(f'[status]\nlisten = "0.0.0.0:{server.port}"\n')
        for options, variables in (
            ([], {}),
            ([], {"CRAWLER_STATUS__LISTEN": f":{server.port}"}),
            (["-s", f"status.listen=0.0.0.0:{server.port}"], {"CRAWLER_STATUS__LISTEN": ":1"}),
            ([server.url], {}),
            ([f"127.0.0.1:{server.port}"], {}),
        ):
            assert await health(tmp_path, *options, **variables) == (0, "ok\n", "")
        assert {request.split(b"\r\n")[0] for request in server.requests} == {b"GET /healthz HTTP/1.1"}
        assert all(f"Host: 127.0.0.1:{server.port}".encode() in request for request in server.requests)


async def test_whoever_is_ill_silent_or_not_there_is_not_healthy(tmp_path: Path) -> None:
    ill = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\n\x1b[2Jbusy"
    async with RawServer(ill) as server, asyncio.timeout(30):
        assert await health(tmp_path, server.url) == (1, "", "crawler: 503: \\x1b[2Jbusy\n")
    async with RawServer(hang()) as server, asyncio.timeout(30):
        code, _, said = await health(tmp_path, server.url, "--timeout", "0.2")
        assert (code, "in 0.2 s" in said) == (1, True)
    async with RawServer(b"SSH-2.0-x\r\n") as server, asyncio.timeout(30):
        assert (await health(tmp_path, server.url))[0] == 1
    port = free_port()
    code, _, said = await health(tmp_path, f"http://127.0.0.1:{port}")
    assert (code, f"no answer from 127.0.0.1, port {port}" in said) == (1, True)


async def test_where_nothing_is_served_there_is_nothing_healthy(tmp_path: Path) -> None:
    code, _, said = await health(tmp_path)
    assert (code, "status.listen is off" in said) == (1, True)
    code, _, said = await health(tmp_path, "https://127.0.0.1/")
    assert (code, "expected the URL of a status page" in said) == (2, True)
    code, _, said = await health(tmp_path, CRAWLER_STATUS__LISTEN="everywhere")
    assert (code, "status.listen" in said or "CRAWLER_STATUS__LISTEN" in said) == (2, True)


async def health(folder: Path, *options: str, **variables: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "crawler", "health", *options),
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, said = await process.communicate()
    return process.returncode, out.decode(), said.decode()


def test_the_command_needs_no_client_and_no_server() -> None:
    code = """
import sys
from crawler.cli import main
main(["health", "http://127.0.0.1:1", "--timeout", "1"])
print([name for name in ("aiohttp", "lmdb", "asyncio", "prometheus_client") if name in sys.modules])
"""
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout == "[]\n"
