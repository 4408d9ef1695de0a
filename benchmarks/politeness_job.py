"""What `politeness.py` crawls with: `crawler run politeness_job.py:Manners`, in a process and a folder of its own.

The spider goes to the first page of each host and follows every link; files are saved as streams, and pages that name
something to fetch inline fetch it. At its end it writes to `usage.json` what CPU the process has used, and what part of
that was spent in calls to the frontier.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler import Response, Spider
from crawler.frontier.local import LocalFrontier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from politeness_site import Journal

__all__ = ["Job", "Manners", "Process", "waited_seconds"]

FOLDER = Path(__file__).resolve().parent
SECONDS = 300.0
"""A process that takes longer hangs."""
_TIMED = "POLITENESS_TIMED"
"""In the environment of a process whose calls to the frontier are timed."""
SCHEDULING = ("lease", "sent", "leave", "enter", "again", "observe", "host", "complete", "controller")
"""What takes turns at hosts. `add` and `seen`, which every link pays for, have nothing to do with them."""


class Manners(Spider):
    """Every page of hosts that have an address of 127/8 each."""

    name = "manners"
    hosts: int = 1
    port: int = 0

    async def start(self) -> AsyncIterator[Any]:
        for host in range(self.hosts):
            yield self.request(f"http://127.0.{(host + 2) // 256}.{(host + 2) % 256}:{self.port}/page/0")

    async def parse(self, response: Response) -> AsyncIterator[Any]:
        yield {"url": response.url}
        for path in response.css("i::attr(title)").getall():
            fetched = await self.fetch(response.urljoin(path))
            yield {"url": fetched.url}
        for link in response.css("a.file"):
            yield response.follow(link, self.save, stream=True)
        yield response.follow_all("a:not(.file)")

    async def save(self, response: Response) -> dict[str, str]:
        await response.save(Path(response.url.replace("/", "_")))
        return {"url": response.url}

    async def closed(self, reason: str) -> None:
        used = {"cpu_seconds": time.process_time(), "waited_seconds": waited_seconds(), **_spent}
        Path("usage.json").write_text(json.dumps(used))


def waited_seconds() -> float:
    """For how long this thread was ready and had no CPU; 0.0 where the system does not say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


_spent = {"frontier_seconds": 0.0, "frontier_calls": 0}


def _time_frontier() -> None:
    """From here on the CPU time of each new frontier's calls is taken."""
    made = LocalFrontier.__init__

    def init(self: LocalFrontier, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        for name in SCHEDULING:
            timed = _timed_lease if name == "lease" else _timed
            setattr(self, name, timed(getattr(self, name)))

    setattr(LocalFrontier, "__init__", init)  # noqa: B010 - a method is replaced


def _timed(call: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **options: Any) -> Any:
        began = time.thread_time()
        result = call(*args, **options)
        _spent["frontier_seconds"] += time.thread_time() - began
        _spent["frontier_calls"] += 1
        return result

    return timed


def _timed_lease(call: Callable[..., Any]) -> Callable[..., Any]:
    async def timed(want: int, now: float) -> Any:
        began = time.thread_time()
        result = await call(want, now)  # a local frontier never waits here
        _spent["frontier_seconds"] += time.thread_time() - began
        _spent["frontier_calls"] += 1
        return result

    return timed


if os.environ.get(_TIMED):
    _time_frontier()


# -- running it -------------------------------------------------------------------------------------------------------


class Process:
    """One run of the command."""

    def __init__(self, process: asyncio.subprocess.Process, journal: Journal, said: Path) -> None:
        self._process = process
        self._journal = journal
        self._said = said
        self._first = len(journal.hits)

    async def killed_after(self, requests: int) -> bool:
        """SIGKILL when it has asked for so much; False where it had ended before."""
        reached = asyncio.ensure_future(self._journal.reached(self._first + requests))
        ended = asyncio.ensure_future(self._process.wait())
        await asyncio.wait({reached, ended}, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in (reached, ended):
            task.cancel()
        if self._process.returncode is None:
            self._process.kill()
        died = await self._process.wait() == -signal.SIGKILL
        if died:
            self._journal.deaths.append(time.monotonic())
        return died

    async def ends(self) -> int:
        """Its exit code."""
        try:
            return await asyncio.wait_for(self._process.wait(), SECONDS)
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    def last_line(self) -> str:
        return " ".join(self._said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])


class Job:
    """A command and the folder in which it runs, made where it is missing. `settings` are those of the crawl."""

    def __init__(self, folder: Path, hosts: int, port: int, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._runs = 0
        self._command = [sys.executable, "-m", "crawler", "run", f"{FOLDER / 'politeness_job.py'}:Manners"]
        self._command += ["--job", "job", "-o", "items.jsonl", "--quiet", "-a", f"hosts={hosts}", "-a", f"port={port}"]
        for key, value in {"security.allow_private_networks": "true", **settings}.items():
            self._command += ["-s", f"{key}={value}"]

    async def start(self, journal: Journal, *, timed: bool = False) -> Process:
        """The command once more."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CRAWLER_") and not name.lower().endswith("_proxy")
        }
        environment = {**kept, "PYTHONPATH": str(FOLDER.parent), _TIMED: "1" if timed else ""}
        self._runs += 1
        said = self.folder / f"stderr.{self._runs}"
        with said.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self.folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        return Process(process, journal, said)

    def items(self) -> list[str]:
        """URLs, in the order in which they were written."""
        return [json.loads(line)["url"] for line in (self.folder / "items.jsonl").read_text().splitlines()]

    def usage(self) -> dict[str, float]:
        found: dict[str, float] = json.loads((self.folder / "usage.json").read_text())
        return found
