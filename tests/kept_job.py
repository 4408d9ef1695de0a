"""Jobs that some version of the crawler left unfinished, kept as they were: what was written must stay readable.

    python tests/kept_job.py tests/fixtures/job-format-2.tar.gz

makes such an archive with the crawler that Python finds (set PYTHONPATH to the version wanted). It runs SPIDER over the
site below, kills the process when HELD pages are all that is left and everything else is in an epoch and on the disk,
and packs what stands in the folder then: the spider, the job, and both outputs.

- `job-format-1.tar.gz`: before `crawler jobs`, when the outputs were JSON lines, JSON and CSV.
- `job-format-2.tar.gz`: the first one with the ends of requests, their origins, and copies of LMDB's meta pages.

The site has a name that is in no DNS and stands behind a Unix socket, so it is at the same URL wherever it is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SITE = "http://numbers.test"
PAGES = 40
HELD = range(30, PAGES)
"""Pages that nobody gets before the kill."""
SPIDER = """
from crawler import Spider

class Kept(Spider):
    name = "kept"
    allowed_domains = ["numbers.test"]
    settings = {
        "politeness": {"delay_seconds": 0, "concurrency_per_host": 4},
        "retry": {"times": 100, "base_seconds": 0.1},
        "http": {"unsafe_cookies": True},
    }

    async def start(self):
        yield self.request("http://numbers.test/")

    def parse(self, response):
        for number in response.css("p::text").getall():
            yield {"number": int(number), "twice": 2 * int(number)}
        yield response.follow_all()
"""
OUTPUTS = ("out.jsonl", "out.csv")


def command(socket: str) -> tuple[str, ...]:
    outputs = [word for output in OUTPUTS for word in ("-o", output)]
    return ("run", "spider.py", "--job", "job", *outputs, "-s", f"http.unix_socket={socket}")


class KeptSite:
    """Numbers under an index, a failure, a refusal, a redirect, and one that is put off. `open` lets `HELD` go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.all_else_is_done = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """The path of its socket."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        with tempfile.TemporaryDirectory() as folder:  # the name of a socket must be short
            await web.UnixSite(runner, f"{folder}/socket").start()
            try:
                yield f"{folder}/socket"
            finally:
                await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path[1:]
        self.asked.append(request.path)
        if path == "robots.txt":
            return web.Response(text="User-agent: *\nDisallow: /private\n")
        if path == "":
            links = ["gone", "private", "moved", "late", "http://elsewhere.test/", *map(str, range(1, PAGES))]
            return _page("".join(f'<a href="{link}">.</a>' for link in links) + "<p>0</p>")
        if path == "gone":
            return web.Response(status=404)
        if path == "moved":
            return web.Response(status=301, headers={"Location": "/1"})
        if path == "late" and not self._open.is_set():
            return web.Response(status=503, headers={"Retry-After": "1"})
        if path == "late":
            return _page(f"<p>{PAGES}</p>")
        if int(path) in HELD and not self._open.is_set():
            self.all_else_is_done.set()
            await self._open.wait()
        return _page(f"<p>{path}</p>")


def _page(text: str) -> web.Response:
    page = web.Response(text=text, content_type="text/html")
    page.set_cookie("seen", "yes", max_age=10**9)
    return page


def items_in(output: Path) -> list[int]:
    """The numbers, sorted; each item is what it was."""
    if output.suffix == ".csv":
        with output.open(newline="") as file:
            items = [{name: int(cell) for name, cell in row.items()} for row in csv.DictReader(file, strict=True)]
    else:
        items = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(item == {"number": item["number"], "twice": 2 * item["number"]} for item in items)
    return sorted(item["number"] for item in items)


def unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as kept:
        kept.extractall(folder, filter="data")


# -- making one ------------------------------------------------------------------------------------------------------


async def _make(archive: Path) -> None:
    site = KeptSite()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "spider.py").write_text(SPIDER)
        async with site.serve() as socket:
            process = subprocess.Popen([sys.executable, "-m", "crawler", *command(socket)], cwd=folder)
            await site.all_else_is_done.wait()
            while len((folder / "out.jsonl").read_bytes().splitlines()) < HELD.start:
                await asyncio.sleep(0.1)
            await asyncio.sleep(3)  # an epoch and a sync
            process.kill()
            process.wait()
        _pack(folder, archive)


def _pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=9) as kept:
        for path in sorted(folder.rglob("*")):
            if path.name == "__pycache__" or path.suffix == ".pyc" or path.is_dir():
                continue
            entry = tarfile.TarInfo(os.path.relpath(path, folder))
            content = path.read_bytes()
            entry.size, entry.mode = len(content), 0o600
            kept.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    asyncio.run(_make(Path(sys.argv[1])))
