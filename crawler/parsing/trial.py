"""A process that parses pages before we do: what takes it too long, or kills it, is refused.

Neither a parser nor the thread that it runs in can be stopped; a process can. It is started for the first page that is
not plain (`crawler.markup`), and again for the next one after it had to be ended. It knows nothing but the page, and
limits itself: processor time in proportion to the page, and memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import struct
import sys
from typing import IO, Final

__all__ = ["MEMORY_BYTES", "Trial"]

_HEAD: Final = struct.Struct("=QQ")
"""The size of a page, and how much memory it may take."""
_PASSED: Final = b"\x01"
_SECONDS: Final = 0.25
_SECONDS_PER_BYTE: Final = 2e-7
"""Of processor time: ten times what honest pages need, 10 MB of table cells among them (0.2 s)."""
MEMORY_BYTES: Final = 1 << 30
"""More than at its start, where there is as much. A page of 10 MB needs 300 MB."""


class Trial:
    """`await trial.passes(markup)`, one at a time. Close it to end the process."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def passes(self, markup: bytes, memory_bytes: int = MEMORY_BYTES) -> bool:
        """Whether the page was parsed, in little time and that much memory. Cancelled, the process is ended. Raises
        `OSError` where none can be started."""
        async with self._turn:
            process = self._process or await self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(_HEAD.pack(len(markup), memory_bytes))
                process.stdin.write(markup)
                await process.stdin.drain()
                await process.stdout.readexactly(len(_PASSED))
            except (OSError, asyncio.IncompleteReadError):  # it is dead, of that page
                await self.close()
                return False
            except BaseException:  # nor is it fit for another page
                self._kill()
                raise
            return True

    async def _start(self) -> asyncio.subprocess.Process:
        # Isolated: nothing in the working folder or the environment has a say in what it imports.
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", __file__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the crawl, which drains
        )
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def close(self) -> None:
        process = self._process
        self._kill()
        if process is not None:
            await process.wait()

    def __repr__(self) -> str:
        return f"<Trial {'idle' if self._process is None else self._process.pid}>"


# -- in that process ---------------------------------------------------------------------------------------------------


def _parse_what_comes(pages: IO[bytes], answers: IO[bytes]) -> None:
    from selectolax.lexbor import LexborHTMLParser

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the crawl, which drains; the end of its pages ends this
    while len(head := pages.read(_HEAD.size)) == _HEAD.size:
        size, memory_bytes = _HEAD.unpack(head)
        page = pages.read(size)
        _limit_memory(memory_bytes)
        signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS + size * _SECONDS_PER_BYTE)  # its signal ends the process
        LexborHTMLParser(page)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        answers.write(_PASSED)
        answers.flush()


def _limit_memory(more: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # where there is no such file, or it is limited already
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY))


if __name__ == "__main__":
    _parse_what_comes(sys.stdin.buffer, sys.stdout.buffer)
