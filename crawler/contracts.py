"""What plugs in where: the whole contract between the rooms, on a page or two.

The engine knows these protocols and nothing behind them. Time is an argument wherever it decides something: `now` is a
Unix time in seconds as a float, read once by the caller from its `Clock`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from crawler.entry import Counts, Entry, Lease, Leased, Outcome, Taken, Verdict, Waits

if TYPE_CHECKING:
    import asyncio
    from contextlib import AbstractAsyncContextManager

    from crawler.cookies import Cookies
    from crawler.errors import FetchError
    from crawler.fate import Fate
    from crawler.politeness import Answer, Controller, Pause
    from crawler.request import Request
    from crawler.response import Response
    from crawler.robots import Decision, Robots
    from crawler.spider import Spider

__all__ = [
    "Clock",
    "Counts",
    "Earlier",
    "EarlierPage",
    "Entry",
    "Exporter",
    "Fetch",
    "Fetcher",
    "Frontier",
    "Lease",
    "Leased",
    "Middleware",
    "Outcome",
    "Pipeline",
    "RobotsRules",
    "Room",
    "Taken",
    "Verdict",
    "Waits",
]


class Clock(Protocol):
    """Time, injected, so that tests own it. The real one never jumps while the process lives."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Until the event is set, or that many seconds have passed (None: however long)."""
        ...


# -- frontier --------------------------------------------------------------------------------------------------------


class Frontier(Protocol):
    """Known and waiting requests, their order, and each host's turn.

    `add`, `complete`, `leave` and `host` join the open epoch at once and in memory; `commit` closes it. What was not
    committed when the process dies never happened: entries leased or added since then are as they were before.
    Raises `EngineUnavailable` where the engine fails.

    Where several workers share it, each has a part of it at a time: what others know and have is not known here. Then a
    count may be late, and "new" may turn out to be known when the epoch is committed.
    """

    on_change: Callable[[], None]
    """Called when something can be leased or entered, or everything has ended, that could not be told before."""
    on_need: Callable[[], None]
    """Called when what is in the open epoch is wanted: it is to be closed soon."""
    on_stop: Callable[[str], None]
    """Called with a reason when the whole crawl is to stop here."""

    async def __aenter__(self) -> Frontier: ...

    async def __aexit__(self, *exc: object) -> None:
        """Closes without committing: what was not committed is dropped, as in a crash."""
        ...

    def resume(self, now: float) -> None:
        """Call once after entering. Hosts with something waiting get their first turn one delay from now, because what
        they were asked last before a crash is not known. Where the clock was set back since the last commit, what waits
        has as long to wait as it had then."""
        ...

    async def serve(self) -> None:
        """What there is to do beside the loop, from `resume` until the last commit; the caller cancels it. Raises
        `SessionLost` where others have been given what this worker had."""
        ...

    async def claims_start(self) -> bool:
        """Wait until it is known who runs `start()`: True, it is to be run here; False, it has been."""
        ...

    def add(self, entries: Sequence[Entry], now: float) -> int:
        """Queue those not seen before (or not `filtered`), mark all as seen; how many were queued."""
        ...

    def remember(self, host: str, fingerprint: int, parent: tuple[str, int] | None = None, end: bytes = b"") -> bool:
        """Mark as seen without queueing: it was reached another way, by a redirect. Whether it was new; then `end` is
        kept like that of an outcome."""
        ...

    async def reach(self, lease: Lease, host: str, fingerprint: int) -> None:
        """Before the `remember` of a page that redirects led to: settle with other workers whose it is."""
        ...

    def ended(self, host: str, fingerprint: int) -> bytes | None:
        """`Outcome.end` of the last request with this fingerprint. None where it has not ended, and from engines that
        keep nothing beyond the process."""
        ...

    def seen(self, host: str, fingerprint: int) -> bool:
        """Whether an entry with this fingerprint was ever added."""
        ...

    async def lease(self, want: int, now: float) -> Leased:
        """At most `want` entries whose hosts have their turn now: earliest due host first, within a host by priority,
        then by the crawl's order. Each takes one of its host's places until `leave`."""
        ...

    def sent(self, host: str, at: float) -> None:
        """A request to the host went out at this time, later than its lease by what connecting took: the next one
        starts a delay after that."""
        ...

    def leave(self, host: str, now: float, *, unused: bool = False) -> None:
        """A place at the host is free again: the download of a leased or entered request ended. `unused`: nothing was
        sent, so its turn is there for the next."""
        ...

    def enter(self, host: str, now: float) -> float | None:
        """Take a place at the host for a request that never was in the queue (an inline fetch, robots.txt).

        Returns the time at which it may start, which is the host's next turn, or None while all places are taken.
        """
        ...

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        """End leases. Does not free the host's place: `leave` does."""
        ...

    def again(self, host: str, now: float) -> float:
        """The host's next turn, for another request of somebody who has a place there; the time at which it may
        start."""
        ...

    def observe(self, host: str, answer: Answer, now: float) -> None:
        """What came of a request to the host: it is treated accordingly (`crawler.politeness`)."""
        ...

    def host(
        self,
        host: str,
        *,
        delay: float | None = None,
        concurrency: int | None = None,
        blocked_until: float | None = None,
        pause: Pause = ...,
        crawl_delay: float | None = None,
    ) -> None:
        """Change how a host is treated: seconds between starts, places, a pause and its cause, and what its robots.txt
        asks for. None leaves a value as it is."""
        ...

    def regroup(self, host: str, group: str) -> bool:
        """Treat the host in this group from now on, its places and turns being those of all hosts in it. Whether it was
        in another one."""
        ...

    def controller(self, host: str) -> Controller:
        """How the host, or its group, is treated: to be read, and changed by the verbs here alone."""
        ...

    def at_work(self, lease: Lease | None) -> None:
        """The loop runs code of this lease now; None: of nobody's. Where the process dies meanwhile, `Lease.deaths`
        says so later, whatever was committed."""
        ...

    def stays_at_work(self) -> Callable[[], None]:
        """Code of the lease that is at work goes on in a thread. Returns what is to be called, in any thread, when that
        ends; until then its process's death counts for this lease as well."""
        ...

    def counts(self) -> Counts: ...

    def waits(self, now: float) -> Waits:
        """Looks at every host with work."""
        ...

    def get(self, key: str) -> bytes | None:
        """A value kept beside the queue by `commit`."""
        ...

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The values kept under keys that begin with this, in the order of their keys."""
        ...

    async def commit(self, values: Mapping[str, bytes | None], now: float) -> int:
        """Close the epoch: everything since the last commit, and these values, become durable together or not at
        all. None removes a value. How many entries that `add` counted turned out to be known."""
        ...

    async def sync(self, before: Callable[[], Awaitable[None]]) -> None:
        """What was committed when this is called survives a power failure. `before` is awaited first: it does the
        same for the outputs that the commit speaks of. Epochs may be closed meanwhile."""
        ...

    @property
    def is_behind(self) -> bool:
        """So much was committed since the last sync that the next epoch should wait for one."""
        ...

    def export(self) -> AsyncIterator[tuple[Entry, int]]:
        """Every waiting entry with its attempt count, in no particular order."""
        ...


class EarlierPage(NamedTuple):
    """A request of the last crawl that is to be made again; its `fate.revisit` is not None."""

    host: str
    fingerprint: int
    parent: tuple[str, int] | None
    fate: Fate


class Earlier(Protocol):
    """The frontier of the last crawl, for a refresh to read. Raises `JobDamaged` and `EngineUnavailable`."""

    def page(self, host: str, fingerprint: int) -> Fate | None:
        """How this request ended."""
        ...

    def pages(self) -> Generator[EarlierPage]: ...

    def waiting(self) -> Generator[Entry]:
        """What it had not visited when it ended, each request once."""
        ...

    def give_back(self) -> None:
        """What was read is not needed in memory any more."""
        ...


# -- download --------------------------------------------------------------------------------------------------------

Fetch = Callable[["Request"], Awaitable["Response"]]
Middleware = Callable[["Request", Fetch], Awaitable["Response"]]
"""`async def name(request, fetch) -> Response`, calling `await fetch(request)` zero or more times."""


Room: TypeAlias = "Callable[[int], Awaitable[None]]"
"""`await room(size)`: until there is memory for that many bytes, for the page of the task that asks."""


class Fetcher(Protocol):
    """Owns the connections. One per crawl."""

    on_open: Callable[[str], None]
    """Called with `"name:port"` when a new connection is there, and what it is for is about to go out."""

    async def __aenter__(self) -> Fetcher: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def fetch(self, request: Request) -> Response:
        """One exchange with a server; redirects come back as they are. Raises `FetchError`."""
        ...

    def allow_host(self, host: str) -> None:
        """The user named this host (`"name:port"`): it may be private."""
        ...

    def lookup(self, request: Request) -> asyncio.Future[Any] | None:
        """The look-up of the host's name that this request has to wait for, begun now if nobody did; it never raises.
        None: the address is known, or not ours to find."""
        ...

    def address(self, request: Request) -> str | None:
        """The host's IP address as it is known now: the lowest of several, so that it stays the same. None: it is not
        known, or not ours to find."""
        ...

    def websocket(self, request: Request, **options: Any) -> AbstractAsyncContextManager[Any]:
        """Entered when the handshake is done. Raises `FetchError`."""
        ...

    def cookies(self, session: str | None = None, url: str | None = None) -> Cookies:
        """What the jar of a session holds; with `url`, what would be sent there."""
        ...

    def cookie_rows(self) -> Mapping[str, bytes | None]:
        """What changed in all jars since the last call, as rows for `Frontier.commit`; their keys begin with
        `cookie/`."""
        ...

    def restore_cookies(self, rows: Iterable[bytes]) -> None:
        """The values of all rows that were ever committed and not removed."""
        ...

    async def sync(self) -> None:
        """Files saved until now survive a power failure."""
        ...


class RobotsRules(Protocol):
    """robots.txt of every origin met."""

    def check(self, url: str) -> Decision | None:
        """What the origin's robots.txt says of this URL, or None while it is not known: then `learn` it."""
        ...

    def rules(self, url: str) -> Robots | None:
        """The file of the URL's origin, compiled; None while it is not known."""
        ...

    def closed(self, url: str) -> FetchError | None:
        """Why nothing of this origin is fetched for now: its robots.txt could not be had, as often as is worth
        trying. None: it may be asked for."""
        ...

    async def learn(self, request: Request, fetch: Fetch) -> None:
        """Fetch the robots.txt of the request's origin, by the request's own way (proxy, TLS), once however many ask;
        afterwards `check` knows. `fetch` is used for it, and for each redirect on its way.

        Raises `FetchError` where the host cannot be reached or its robots.txt answers 5xx: then nothing of it may be
        fetched (RFC 9309, 2.3.1.4), and it is worth another try later."""
        ...

    def rows(self) -> Mapping[str, bytes | None]:
        """What was learnt since the last call, as rows for `Frontier.commit`; their keys begin with `robots/`."""
        ...


# -- items -----------------------------------------------------------------------------------------------------------


class Pipeline(Protocol):
    """Items pass the pipelines in the order listed; `open_spider` and `close_spider` are optional."""

    async def process_item(self, item: Any, spider: Spider) -> Any:
        """The item, changed or not. Raises `DropItem` to stop it."""
        ...


class Spool(Protocol):
    """Encoded items of one page on their way to one output: in memory while they are few, on disk when they are many.
    Raises `OutputError`."""

    needs_spill: bool
    """What is in memory is enough to be written: call `spill`, in a thread."""

    def append(self, record: bytes) -> None: ...

    def spill(self) -> None: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Exporter(Protocol):
    """One output. Items are encoded when a page gives them, appended when the page takes effect, and written when the
    epoch closes: `flush` returns a position, which is committed with the epoch and given back to `open` after a crash.
    Raises `OutputError`."""

    target: str
    """What the user asked for, as shown in messages."""

    @property
    def path(self) -> str | None:
        """Absolute; None: standard output."""
        ...

    @property
    def format(self) -> str:
        """As in `FORMATS` of `crawler.export`."""
        ...

    async def holds(self, position: bytes) -> bool:
        """Before `open`: whether the output still is, up to this committed position, what was written."""
        ...

    async def open(self, position: bytes | None) -> None:
        """Ready to append. `position` is the last committed one of this job: the output is cut back to it."""
        ...

    def encode(self, item: Mapping[str, Any]) -> bytes:
        """One item as this format has it. Raises `TypeError` or `ValueError` for what the format cannot hold."""
        ...

    def append(self, encoded: bytes) -> None: ...

    def append_spool(self, spool: Spool, limit: int | None = None) -> None:
        """The same for all records of a spool, at most `limit` of them; `flush` closes it."""
        ...

    async def flush(self) -> bytes:
        """Hand everything appended to the operating system; the position after it."""
        ...

    async def sync(self) -> None:
        """What was flushed survives a power failure."""
        ...

    async def close(self) -> None:
        """After the last commit: what a finished file of this format still needs at its end."""
        ...
