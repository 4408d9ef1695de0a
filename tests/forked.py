"""Crawls as processes of their own that start at once: `python -m crawler …` costs a second of imports, and the tests
of what survives a killed process need many.

A server imports the crawler once and forks for each command. What it forks is a process like any other: its own memory,
locks and process id, to be killed by whoever likes.

    async with start(folder, "run", "spider.py", "--job", "job") as process:
        ...
        ended = await process.ends()
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60
"""How long anything here may take on a busy machine before the test gives up."""
_IMPORTED = (
    "crawler.cli.run",
    "crawler.assemble",
    "crawler.download.session",
    "crawler.frontier.disk",
    "crawler.export.file",
    "crawler.export.output",
    "encodings.idna",
)
_numbers = itertools.count(1)


class Ended(NamedTuple):
    code: int
    """Below 0: the signal that ended it, as in `subprocess`."""
    said: str
    """On standard error."""
    output: Path
    """What it wrote to standard output."""


class Process:
    def __init__(self, pid: int, reader: asyncio.StreamReader, folder: Path, number: int) -> None:
        self.pid = pid
        self._end = asyncio.ensure_future(reader.readline())
        self._folder = folder
        self._number = number

    @property
    def is_over(self) -> bool:
        return self._end.done()

    @property
    def said(self) -> str:
        return (self._folder / f"stderr-{self._number}").read_text()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    async def says(self, text: str) -> None:
        """Until its standard error has that in it."""
        async with asyncio.timeout(SECONDS):
            while text not in self.said:
                assert not self.is_over or text in self.said, f"it ended without saying {text!r}:\n{self.said}"
                await asyncio.sleep(0.01)

    async def ends(self) -> Ended:
        line = await asyncio.wait_for(asyncio.shield(self._end), SECONDS)
        return Ended(int(line), self.said, self._folder / f"stdout-{self._number}")


@contextlib.asynccontextmanager
async def start(folder: Path, *arguments: str, crash_at: str = "") -> AsyncIterator[Process]:
    """`crawler ARGUMENTS` in `folder`. Leaving it unfinished kills it."""
    number = next(_numbers)
    folder.mkdir(parents=True, exist_ok=True)
    reader, writer = await asyncio.open_unix_connection(_server())
    wanted = {"arguments": arguments, "folder": str(folder), "number": number, "crash_at": crash_at}
    writer.write(json.dumps(wanted).encode() + b"\n")
    process = Process(int(await asyncio.wait_for(reader.readline(), SECONDS)), reader, folder, number)
    try:
        yield process
    finally:
        if not process.is_over:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.ends()
        writer.close()
        await writer.wait_closed()


async def run(folder: Path, *arguments: str, crash_at: str = "") -> Ended:
    async with start(folder, *arguments, crash_at=crash_at) as process:
        return await process.ends()


@functools.cache
def _server() -> str:
    """Its address. It lives until these tests have ended."""
    folder = tempfile.TemporaryDirectory(prefix="forked-")
    address = f"{folder.name}/socket"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    server = subprocess.Popen(
        [sys.executable, __file__, address],
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        server.communicate()
        folder.cleanup()

    atexit.register(end)
    return address


# -- the server's side -----------------------------------------------------------------------------------------------


def _serve(address: str) -> None:
    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the helpers
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        os.write(1, b"ready\n")
        while True:
            ready, _, _ = select.select([listener, 0], [], [])
            if listener not in ready:
                return  # whoever started us is gone
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    _watch(connection)
                finally:
                    os._exit(0)
            connection.close()


def _warm_up() -> None:
    """What every crawl would do first."""
    for module in _IMPORTED:
        importlib.import_module(module)
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")
    settings = importlib.import_module("crawler.settings")
    settings.load([])
    gc.collect()
    gc.freeze()  # so that collecting in a fork touches, and copies, none of it


def _watch(connection: socket.socket) -> None:
    """Fork what is wanted, and tell its process id and how it ended."""
    with connection.makefile("r") as lines:
        wanted = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(**wanted)
    connection.sendall(b"%d\n" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.sendall(b"%d\n" % code)


def _become(arguments: list[str], folder: str, number: int, crash_at: str) -> None:
    from crawler import cli, crash

    code: Any = 1
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{name}-{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
        if crash_at:
            os.environ["CRAWLER_CRASH_AT"] = crash_at
            importlib.reload(crash)
        code = cli.main(arguments)
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve(sys.argv[1])
