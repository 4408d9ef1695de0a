"""Running the counted crawl: under callgrind, whose counting is on for the window only, or under cProfile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from content import CONCURRENCY, Workload, answers
from server import Script, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
_LIMIT_SECONDS = 300.0
"""A crawl that takes longer hangs."""
_DEATH_SECONDS = 2.0
"""What a process gets to say why it ended, when talking to it failed."""
_IDLE_SECONDS = 0.06
"""A process that used no CPU for that long waits for us. The kernel counts CPU in hundredths of a second."""


class Failed(Exception):
    """The crawl did not end as it should; the text says how."""


class Count(NamedTuple):
    """Instructions of one workload's window."""

    workload: Workload
    instructions: int
    seconds: float
    """Of the whole run."""

    @property
    def per_page(self) -> float:
        return self.instructions / self.workload.pages


def count(workload: Workload, kept: Path | None = None, through: Sequence[str] = ()) -> Count:
    """Instructions that the crawl's process spends in the window. `kept` is where callgrind's output is to be;
    `through` is a Python script, and its arguments, that runs the crawl's script given behind them."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        out = kept or Path(folder, "callgrind.out")
        valgrind = [
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}",
            f"--vgdb-prefix={folder}/vgdb",
        ]  # fmt: skip
        asyncio.run(_run(workload, Path(folder), before=valgrind, through=through))
        return Count(workload, _total(out), time.monotonic() - began)


def profile(workload: Workload, kept: Path) -> None:
    """The same crawl without valgrind; cProfile's figures of the window are written to `kept`."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        asyncio.run(_run(workload, Path(folder), after=[str(kept)]))


async def _run(
    workload: Workload,
    folder: Path,
    *,
    before: Sequence[str] = (),
    through: Sequence[str] = (),
    after: Sequence[str] = (),
) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    script = Script(answers(workload))
    async with serving(script) as address:
        python = [*before, sys.executable, *through]
        command = [*python, str(HERE / "crawl.py"), workload.name, address, str(folder), *after]
        async with _process(command, folder) as process:
            ended = asyncio.ensure_future(process.communicate())
            driving = asyncio.ensure_future(_drive(script, workload, process.pid, folder if before else None))
            await _both(ended, driving)
            if not ended.done():
                error = driving.exception() if driving.done() else None
                raise Failed(f"{workload.name}: stuck after {script.answered} answers") from error
            driving.cancel()
            said, errors = ended.result()
    _check(workload, process.returncode, said.decode(), errors.decode(errors="replace"), script.unknown)


async def _both(ended: asyncio.Future[Any], driving: asyncio.Future[None]) -> None:
    """Until the process has ended; not longer than it may take, and not much longer once there is nobody to answer."""
    await asyncio.wait([ended, driving], timeout=_LIMIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if driving.done():
        answered = driving.exception() is None
        await asyncio.wait([ended], timeout=_LIMIT_SECONDS if answered else _DEATH_SECONDS)


def _check(workload: Workload, code: int | None, said: str, errors: str, unknown: list[str]) -> None:
    wanted = {
        "reason": "page_limit",
        "pages": workload.fetched,
        "items": workload.fetched if workload.name == "links" else 0,
    }
    if code != 0 or unknown or json.loads(said) != wanted:
        raise Failed(
            f"{workload.name}: exit code {code}, said {said.strip()!r} instead of {json.dumps(wanted)}"
            f"{', asked for ' + ', '.join(unknown[:3]) if unknown else ''}\n{errors[-2000:]}"
        )


@asynccontextmanager
async def _process(command: Sequence[str], folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Nothing of our environment but what finds programs: a variable could change the crawl or what it costs."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(ROOT),
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


# -- the window -------------------------------------------------------------------------------------------------------


async def _drive(script: Script, workload: Workload, pid: int, vgdb: Path | None) -> None:
    """Answer the pages of the warm-up as they are asked for, those of the window one by one, then the rest."""
    for _ in range(workload.warm_up):
        await script.held(1)
        script.answer()
    await script.held(CONCURRENCY)
    if vgdb is not None:
        await _idle(pid)
        await _instrumentation("on", pid, vgdb)
    for _ in range(workload.pages):
        await script.held(CONCURRENCY)
        script.answer()
    await script.held(CONCURRENCY)
    if vgdb is not None:
        await _idle(pid)
        await _instrumentation("off", pid, vgdb)
    for _ in range(CONCURRENCY):
        script.answer()


async def _idle(pid: int) -> None:
    """Until the process sleeps, and has used no CPU for a while."""
    used, since = -1, time.monotonic()
    while time.monotonic() - since < _IDLE_SECONDS:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, now_used = fields[0], int(fields[11]) + int(fields[12])
        if state != "S" or now_used != used:
            used, since = now_used, time.monotonic()
        await asyncio.sleep(0.01)


async def _instrumentation(word: str, pid: int, vgdb: Path) -> None:
    """As `callgrind_control -i on PID` does it."""
    quiet = asyncio.subprocess.PIPE
    command = ["vgdb", f"--vgdb-prefix={vgdb}/vgdb", f"--pid={pid}", "instrumentation", word]
    asking = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=asyncio.subprocess.STDOUT)
    said, _ = await asking.communicate()
    if asking.returncode:
        raise Failed(f"{' '.join(command)}: {said.decode(errors='replace').strip()}")


def _total(out: Path) -> int:
    found = re.search(rb"^totals: (\d+)", out.read_bytes(), re.MULTILINE)
    if found is None or not int(found[1]):
        raise Failed(f"callgrind counted nothing: {out}")
    return int(found[1])
