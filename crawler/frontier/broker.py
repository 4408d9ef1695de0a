"""Between a worker and the frontier that it shares with others: what a `Broker` is asked, and what it says.

    worker ── SharedFrontier ──ask──► Broker: Redis (`redis/`), or the parent process (`lending`)
                    ▲                    │
                    └── hosts on loan ◄──┘        commit: what pages caused, all together or not at all

A worker borrows *hosts*, not requests. Whoever has a host on loan is the only one that talks to it, so everything that
holds within one process (turns, places, pauses, robots.txt, inline fetches, redirects) holds over all of them, by the
same code. With a host come the requests that are next there, as many as it takes in a few seconds; when they are under
way, the host goes back with its state and the time of its next turn. Only a host without any delay is lent to several
workers at a time: then each has a share of its places.

What a worker has lies with its session. One that is not renewed for `lease_seconds` lapses as a whole: its hosts are
free after their delay, its requests are back at the head of their queues, and nothing that it commits is taken. So no
request has a deadline of its own, and a worker that went on without noticing is told at its next word.

Times are seconds by the broker's clock; durations where they are called so.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from crawler.contracts import Counts, Entry, Verdict

__all__ = [
    "Ask",
    "Broker",
    "Claim",
    "Control",
    "End",
    "Given",
    "HostLoan",
    "HostReturn",
    "News",
    "Session",
    "Task",
    "WorkerEpoch",
]


class Task(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A queued request, lent with its host."""

    id: str
    """Of this loan; another one of the same request has another."""
    record: bytes
    fingerprint: int
    depth: int = 0
    priority: int = 0
    attempt: int = 0
    filtered: bool = True
    host: str = ""
    """`"name:port"` where that is not the key under which it is lent."""
    lapses: int = 0
    """How many sessions lapsed that had it."""
    number: int = 0
    """64 bits. Of an entry that was not filtered: tells it from others with its fingerprint, however often it is lent.
    """


class HostLoan(msgspec.Struct, array_like=True, frozen=True):
    """A host, or a group of hosts that are treated as one. Nobody else has it, unless it has no delay."""

    key: str
    places: int
    """Requests at a time; 0: as many as its rule and its state say."""
    state: bytes = b""
    """`HostState` in MessagePack as it last came back; empty: nobody had it yet."""
    tasks: list[Task] = []
    values: dict[str, bytes] = {}
    """What was kept of it: robots.txt, by the keys of `Frontier.get`."""
    named: list[str] = []
    """Hosts among it that `start()` named: they may be private."""
    more: bool = False
    """More of its requests are waiting: claim it for them."""


class HostReturn(msgspec.Struct, array_like=True, frozen=True):
    key: str
    wait: float
    """Seconds from now until its next turn."""
    state: bytes = b""
    quota: int = 1
    """How many of its requests are to be lent at once."""
    shared_places: int = 0
    """How many requests at a time over all workers; 0: one worker at a time."""
    unused: list[str] = []
    """Ids of the tasks that were not begun: they go back to the head of the queue, in this order."""


class Claim(msgspec.Struct, array_like=True, frozen=True):
    """Somebody here wants to talk to this very host, whether anything waits for it or not. Of one that is on loan here:
    as many more of its requests as are lent at once."""

    key: str


class Ask(msgspec.Struct, array_like=True, frozen=True):
    tasks: int = 0
    """How many requests the worker could begin; 0: none."""
    returns: list[HostReturn] = []
    claims: list[Claim] = []


class Given(msgspec.Struct, array_like=True, frozen=True):
    now: float
    loans: list[HostLoan] = []
    """Those claimed included. A host that is not among them although it was claimed: claim it again in a moment."""
    next_due: float | None = None
    """When something more may be lent, if nothing changes until then; None: nobody knows."""
    shared: dict[str, bytes | None] = {}
    """As in `News`: with a host comes what other workers committed before it was free (its cookies)."""


class Control(enum.StrEnum):
    """What the crawl as a whole is to do, as its operator said."""

    RUNNING = "running"
    PAUSED = "paused"
    """Nothing is lent; workers wait."""
    DRAINING = "draining"
    """Nothing is lent; workers finish what they have, and end."""
    STOPPED = "stopped"
    """Workers end at once, giving back what they have."""
    FINISHED = "finished"
    """It came to its end."""


class End(msgspec.Struct, array_like=True, frozen=True):
    """How a task ended."""

    task: str
    verdict: Verdict
    wait: float = 0.0
    """Seconds from now, with `RETRY` and `RELEASE`."""
    record: bytes = b""
    """With `RETRY`: what waits in place of the task's; empty: the same."""
    end: bytes = b""
    """See `Outcome.end`."""


class WorkerEpoch(msgspec.Struct, array_like=True, frozen=True):
    """What the pages of a worker caused since its last commit: takes effect together or not at all."""

    number: int
    """1 for the first of a session, then one more each. One that is said again is taken once."""
    entries: list[Entry] = []
    ends: list[End] = []
    named: list[str] = []
    """Hosts (`"name:port"`) that `start()` named."""
    shared: dict[str, bytes | None] = {}
    """Values for all workers: cookies, whether `start()` ended."""
    of_hosts: dict[str, dict[str, bytes | None]] = {}
    """Values by key of the host that they are about: robots.txt."""
    own: dict[str, bytes | None] = {}
    """Values for whoever continues this worker: positions of its outputs, its statistics."""
    items: list[bytes] = []
    """For a broker that has the outputs."""
    pages: int = 0
    """Of what `take_allowance` gave: how many were used."""
    slowed: list[HostReturn] = []
    """Hosts on loan here that asked for more time than is usual, as they would go back now: what they said holds, even
    if they come back by the death of this worker."""


class Session(msgspec.Struct, array_like=True, frozen=True):
    """A worker that joined. `id` goes with everything it says."""

    id: str
    now: float
    lease_seconds: float
    key: bytes
    """Of the crawl's fingerprints."""
    own: dict[str, bytes] = {}
    """As the worker of this name committed them last."""
    shared: dict[str, bytes] = {}
    control: Control = Control.RUNNING


class News(msgspec.Struct, array_like=True, frozen=True):
    """What a renewal brings."""

    now: float
    control: Control = Control.RUNNING
    reason: str = ""
    """Why, where it is not running: `page_limit`, `stopped` …"""
    shared: dict[str, bytes | None] = {}
    """What changed since the last renewal."""
    counts: Counts = Counts(0, 0, 0, 0, 0, 0, 0)
    """Of the whole crawl."""
    workers: int = 1
    due_hosts: int = 0
    """Those whose turn it is, and that nobody has."""


class Broker(Protocol):
    """One worker's way to the shared frontier. `async with` connects and lets go.

    All verbs raise `EngineUnavailable` where the engine cannot be reached for longer than it is worth waiting, and
    `SessionLost` where the session has lapsed or somebody else has taken the worker's name.
    """

    async def __aenter__(self) -> Broker: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def join(self) -> Session:
        """Begin a session, ending an earlier one of the same worker: what that had lapses. Raises `JobError` where the
        crawl there is another one than this worker's settings say."""
        ...

    async def renew(self) -> News:
        """The session goes on. Every worker that does this also sees to the sessions that have lapsed."""
        ...

    async def ask(self, ask: Ask) -> Given: ...

    async def commit(self, epoch: WorkerEpoch) -> int:
        """How many of the entries were known already."""
        ...

    async def reach(self, host: str, fingerprint: int, task: str) -> bool:
        """A task was redirected to this page of a host (`"name:port"`): whether it is the first, or the same as before,
        and so may have it."""
        ...

    async def claim_start(self) -> bool:
        """Whether this worker is to run `start()`: its session has that until it ends or lapses."""
        ...

    async def take_allowance(self, pages: int) -> int:
        """So many pages more may be begun here, at most those asked for, of `crawl.page_limit` over all workers.
        Negative: that many are given back."""
        ...

    async def is_done(self) -> bool:
        """Whether nothing waits and nobody has anything under way, `start()` included."""
        ...

    async def finish(self, reason: str) -> None:
        """The crawl as a whole came to its end, or is to: every worker hears of it."""
        ...

    async def leave(self) -> None:
        """The session ends; what it still has goes back at once."""
        ...
