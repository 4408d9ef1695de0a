"""Workers as an operator has them: `crawler run` processes that are started again when they end before the crawl does.

Each process asks from an address of its own in 127.200/16, so that the hosts' journal tells them apart, whatever their
names. What counts as an item is what the engine says is committed of each worker's output, nothing behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from farm import address
from history import Death, Restart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from farm import Plan

__all__ = ["Crew", "Farmhouse", "Process", "committed"]

ROOT = Path(__file__).resolve().parent.parent.parent
SPIDER = """\
from crawler import Spider


class Fleet(Spider):
    \"\"\"Follows every link of a farm.\"\"\"

    name = "fleet"

    async def start(self):
        yield self.request(f"http://{self.first}/page/0")

    def parse(self, response):
        yield {"host": response.url.split("/")[2].partition(":")[0], "path": f"/{response.url.split('/', 3)[3]}"}
        yield response.follow_all()
"""
_MOST_STARTS = 200
NOTICE_SECONDS = 3.0
"""After the engine is back, a worker hears at its next word, a second later or so, that it was away."""
_TAIL_SECONDS = 0.02


class Farmhouse:
    """The farm's process, and its journal."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.journal = folder / "journal"
        self.port = 0
        self._lines = self._read = 0

    async def __aenter__(self) -> Farmhouse:
        self.journal.touch()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("farm.py")), str(self.journal),
            json.dumps(self.plan._asdict()),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Everything that was asked for is in the journal."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    def answered(self) -> int:
        """How many requests have ended."""
        with self.journal.open("rb") as file:
            file.seek(self._read)
            more = file.read()
        self._read += len(more)
        self._lines += more.count(b"\n")
        return self._lines

    async def has_answered(self, count: int) -> None:
        while self.answered() < count:
            await asyncio.sleep(_TAIL_SECONDS)


class Process:
    """One run of a worker."""

    def __init__(self, name: str, source: str, process: asyncio.subprocess.Process, said: Path) -> None:
        self.name = name
        self.address = source
        self._process = process
        self._said = said

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ends(self) -> int:
        return await self._process.wait()

    def last_words(self) -> str:
        return " ".join(self._said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])


class Crew:
    """`count` places for workers, each with one at a time. `async with` starts them; `finish` waits for the end."""

    def __init__(
        self, folder: Path, farm: Farmhouse, url: str, count: int, *, lease: float, settings: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self.deaths: list[Death] = []
        self.restarts: list[Restart] = []
        self.ends: list[tuple[str, int, str]] = []
        """Of processes: name, exit code, last words."""
        self.crew: list[Process] = []
        """By place."""
        self.names: set[str] = set()
        self._farm = farm
        self._next = [f"w{number}" for number in range(count)]
        self._keepers: list[asyncio.Task[None]] = []
        self._starts = 0
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")} | {
            "PYTHONPATH": str(ROOT),
            "CRAWLER_FRONTIER__URL": url,
            "CRAWLER_FRONTIER__LEASE_SECONDS": f"{lease}",
        }
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._settings = {
            "politeness.delay_seconds": farm.plan.delay,
            "politeness.jitter": 0,
            "politeness.adaptive": "false",
            "retry.times": 8,
            "retry.base_seconds": 0.2,
            "security.allow_networks": "127.0.0.0/8",
            **settings,
        }

    async def __aenter__(self) -> Crew:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "spider_of_farm.py").write_text(SPIDER, encoding="utf-8")
        self.crew = [await self._start(name) for name in self._next]
        self._keepers = [asyncio.create_task(self._keep(place)) for place in range(len(self._next))]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for process in self.crew:
            process.send(signal.SIGKILL)
            await process.ends()

    async def _start(self, name: str) -> Process:
        self._starts += 1
        number = self._starts
        source = f"127.200.{number // 250}.{number % 250 + 1}"
        self.names.add(name)
        arguments = ["-o", f"{name}.jsonl", "--job", "job", "-a", f"first={address(0)}:{self._farm.port}"]
        for key, value in {**self._settings, "http.local_address": source}.items():
            arguments += ["-s", f"{key}={value}"]
        said = self.folder / f"stderr.{name}.{number}"
        with said.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "crawler", "run", "spider_of_farm.py", *arguments,
                cwd=self.folder, env={**self._environment, "CRAWLER_FRONTIER__WORKER": name},
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
        return Process(name, source, process, said)

    async def _keep(self, place: int) -> None:
        while code := await self.crew[place].ends():
            ended = self.crew[place]
            self.ends.append((ended.name, code, ended.last_words()))
            if len(self.ends) > _MOST_STARTS:
                raise RuntimeError(f"workers end again and again: {self.ends[-3:]}")
            self.crew[place] = await self._start(self._next[place])

    async def finish(self) -> None:
        """Until every place's worker says that the crawl is done."""
        await asyncio.gather(*self._keepers)

    @property
    def is_finished(self) -> bool:
        return any(keeper.done() for keeper in self._keepers)

    # -- faults ------------------------------------------------------------------------------------------------------

    def kill(self, place: int, name: str | None = None) -> Process:
        """Another one comes in its place, under this name or the same. The one that was killed."""
        process = self.crew[place]
        self._next[place] = name or process.name
        process.send(signal.SIGKILL)
        self.deaths.append(Death(process.address, time.monotonic()))
        return process

    async def freeze(self, place: int, seconds: float, *, is_death: bool) -> None:
        """`is_death`: for longer than its session lives, so what it had is others'."""
        process = self.crew[place]
        process.send(signal.SIGSTOP)
        if is_death:
            self.deaths.append(Death(process.address, time.monotonic()))
        await asyncio.sleep(seconds)
        process.send(signal.SIGCONT)

    def drain(self, place: int) -> None:
        self.crew[place].send(signal.SIGTERM)

    def engine_died(self, at: float) -> None:
        """And is back now. Whoever had something of it then may have lost that."""
        back = time.monotonic()
        self.restarts.append(Restart(at, back))
        noticed = back + NOTICE_SECONDS
        self.deaths += [Death(process.address, at, noticed) for process in self.crew] + [Death("", at)]


# -- what is committed ------------------------------------------------------------------------------------------------


def committed(own: Mapping[str, bytes], folder: Path) -> list[tuple[str, str]]:
    """(host, path) of each item that counts, of one worker by its values in the engine."""
    from crawler.export.position import decode_position
    from crawler.frontier.kept import Kept

    if "outputs" not in own:
        return []
    positions = msgspec.msgpack.decode(own["positions"], type=dict[str, bytes])
    items = []
    for key, kept in msgspec.msgpack.decode(own["outputs"], type=dict[str, Kept]).items():
        if key not in positions:
            continue
        size = decode_position(positions[key], kept.target, kept.format).size
        data = (folder / kept.path).read_bytes()
        if len(data) < size or data[:size].rpartition(b"\n")[2]:
            raise ValueError(f"{kept.path} has {len(data)} bytes, {size} are committed: they do not end a line")
        items += [(row["host"], row["path"]) for row in map(json.loads, data[:size].splitlines())]
    return items
