"""One child, as its parent has it: a process, a socket, a session of the lending."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from crawler.errors import SessionLost
from crawler.frontier.at_work import AtWork
from crawler.frontier.broker import Ask, WorkerEpoch
from crawler.log import relay
from crawler.processes.frames import EXIT_CUT_OFF, Frame, Frames, body
from crawler.processes.remote import Pulse
from crawler.stats import Totals

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.contracts import Taken
    from crawler.epochs import Epochs
    from crawler.frontier.lending import Lending, LendingBroker
    from crawler.processes.arrivals import Arrivals
    from crawler.processes.origin import Origin
    from crawler.stats import Stats

__all__ = ["Ending", "Member"]

logger = logging.getLogger("crawler.processes")

# With the parent's own places to import from: no more and no others.
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; from crawler.processes.child import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)
_END_SECONDS: Final = 5.0
"""How long a process may take to end when its work has."""


class Ending(NamedTuple):
    """Why a child is gone."""

    reason: str = ""
    """As its engine said; empty where that came to no end."""
    error: str = ""
    """What kept it from working."""
    is_usage: bool = False
    status: int = 0
    """As the process ended; negative: the signal."""


class Member:
    """`await member.run()`, until the child is gone. `origin` is what it is told, `on_change` is called when something
    came of it. What its code is at, when it dies, counts for that page."""

    def __init__(
        self,
        origin: Origin,
        lending: Lending,
        *,
        epochs: Epochs,
        stats: Stats,
        arrivals: Callable[[LendingBroker], Arrivals],
        on_change: Callable[[], None],
        prints_aside: bool,
    ) -> None:
        self.pulse = Pulse()
        self.commits = 0
        """Epochs that ended something."""
        self._origin = origin
        self._lending = lending
        self._broker = lending.broker(origin.worker)
        self._epochs = epochs
        self._stats = stats
        self._counted = Totals()
        self._arrivals = arrivals(self._broker)
        self._on_change = on_change
        self._prints_aside = prints_aside
        self._frames: Frames | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._is_killed = False
        self._ending = Ending()
        self._slow: asyncio.Queue[Frame] = asyncio.Queue()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def run(self) -> Ending:
        """Raises `EngineUnavailable` where the frontier or an output fails."""
        with tempfile.TemporaryFile() as note:
            frames = self._frames = await self._start(note.fileno())
            assert self._process is not None
            try:
                async with asyncio.TaskGroup() as group:
                    working = group.create_task(self._work_off(frames), name="epochs of a child")
                    await self._listen(frames)
                    await self._slow.join()  # what came whole counts, whoever sent it
                    working.cancel()
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
            finally:
                self._frames = None
                frames.close()
                status = await self._gone(self._process)
                self._arrivals.drop()
                self._let_go(note.fileno(), has_died=status not in (0, EXIT_CUT_OFF) and not self._is_killed)
            return self._ending._replace(status=status)

    def tell(self, word: str, reason: str = "") -> None:
        """`stop` or `abort`."""
        if self._frames is not None:
            self._frames.write(Frame(0, word, body(reason)))

    def kill(self, *, is_its_fault: bool = False) -> None:
        self._is_killed = not is_its_fault
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    # -- its process -------------------------------------------------------------------------------------------------

    async def _start(self, note: int) -> Frames:
        ours, its = socket.socketpair()
        try:
            environment = {name: value for name, value in os.environ.items() if name != "CRAWLER_CRASH_AT"}
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", _PROGRAM, str(its.fileno()), str(note), *sys.path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.__stderr__ if self._prints_aside else None,
                pass_fds=(its.fileno(), note),
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, which says what to do
            )
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        return await Frames.over(ours)

    async def _gone(self, process: asyncio.subprocess.Process) -> int:
        try:
            async with asyncio.timeout(_END_SECONDS):
                return await process.wait()
        except TimeoutError:
            self.kill()
            return await process.wait()
        except asyncio.CancelledError:
            self.kill()
            await process.wait()
            raise

    def _let_go(self, note: int, *, has_died: bool) -> None:
        worker = getattr(self._broker, "worker", None)
        if worker is not None:
            death = AtWork(note).last() if has_died else None
            self._lending.end(worker, () if death is None else death.fingerprints)
        self._on_change()

    # -- what it says ------------------------------------------------------------------------------------------------

    async def _listen(self, frames: Frames) -> None:
        while (frame := await frames.next()) is not None:
            if frame.verb in ("items", "commit"):
                self._slow.put_nowait(frame)
            else:
                await self._answer(frames, frame)

    async def _work_off(self, frames: Frames) -> None:
        """What may take its time, and must not keep the session from going on."""
        while True:
            frame = await self._slow.get()
            try:
                await self._answer(frames, frame)
            finally:
                self._slow.task_done()

    async def _answer(self, frames: Frames, frame: Frame) -> None:
        try:
            answer = await self._do(frame.verb, frame.body)
        except SessionLost as error:
            frames.write(Frame(frame.id, "lost", body(str(error))))
        else:
            if frame.id:
                frames.write(Frame(frame.id, "done", body(answer)))

    async def _do(self, verb: str, content: msgspec.Raw) -> Any:
        said: Any = msgspec.msgpack.decode(content, type=_ARGUMENTS.get(verb, Any))
        broker = self._broker
        if verb in _QUESTIONS:
            return await getattr(broker, verb)()
        if verb in _REQUESTS:
            return await getattr(broker, verb)(said)
        match verb:
            case "renew":
                self.pulse = said
                return await broker.renew()
            case "items":
                await self._arrivals.take(said)
            case "reach":
                return await broker.reach(*said)
            case "hello":
                return self._origin
            case "log":
                relay(*said)
            case "ended":
                self._ending = Ending(said)
            case "broken":
                is_usage, message, traceback, at = said
                self._ending = Ending("", message, is_usage)
                if traceback:
                    relay("crawler.processes", logging.ERROR, at, message, traceback)
        return None

    async def absorb(self, epoch: WorkerEpoch) -> int:
        """An epoch that has come whole."""
        pages, epoch = await self._arrivals.end(epoch)

        def take() -> Taken:
            self._lending.check(self._broker.worker)
            saved = epoch.own.get("stats")
            if saved is not None:
                after = msgspec.msgpack.decode(saved, type=Totals)
                self._stats.add(self._counted, after)
                self._counted = after
            return self._lending.take(self._broker.worker, epoch)

        try:
            known = await self._epochs.absorb(pages, take)
        except SessionLost:
            for page in pages:
                page.close()
            raise
        self.commits += bool(epoch.ends)
        self._on_change()
        return known


_QUESTIONS: Final = frozenset({"join", "claim_start", "is_done", "leave"})
_REQUESTS: Final = frozenset({"ask", "commit", "take_allowance", "finish"})
_ARGUMENTS: Final[dict[str, Any]] = {
    "items": list[bytes],
    "commit": WorkerEpoch,
    "ask": Ask,
    "renew": Pulse,
    "reach": tuple[str, int, str],
    "log": tuple[str, int, float, str, str],
    "broken": tuple[bool, str, str, float],
    "ended": str,
    "take_allowance": int,
    "finish": str,
}
