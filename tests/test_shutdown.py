"""When a crawl has ended, however it ended, nothing of it is left: no task, thread, file or socket, and no complaint of
Python's about one. On both loops, in asyncio's debug mode, against real servers in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiodns
import pytest
import uvloop
from aiohttp import web

from crawler import FilePath, Response, Spider, api, crawl, stream
from crawler.errors import CrawlerError, EngineUnavailable, SettingsError, UsageError
from crawler.testing import LocalSite, run_spider

sys.path.insert(0, str(Path(__file__).parent / "download"))

from certificates import AUTHORITY, SERVER, server_context

from crawler.testing.names import DnsServer, Fail
from crawler.testing.raw import RawServer, answer, hang, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Runs = Callable[[Callable[[], Awaitable[Any]]], Any]

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 20
"""How long anything here may take on a busy machine before the test gives up."""
FAST: dict[str, Any] = {"politeness": {"delay_seconds": 0, "obey_robots": False}, "retry": {"times": 0}}


# -- what could be left ----------------------------------------------------------------------------------------------


def descriptors() -> dict[str, str]:
    """What is open in this process: where each descriptor leads."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def left_open(before: dict[str, str]) -> list[str]:
    """What has been opened since. The servers notice a moment later that a client has gone."""
    deadline = time.monotonic() + 20
    while True:
        left = [target for number, target in descriptors().items() if before.get(number) != target]
        left = [target for target in left if not target.startswith("/proc/")]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.005)


class Traces:
    """What is left of a run, and what Python said about it meanwhile."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        before, threads, hook = descriptors(), set(threading.enumerate()), sys.unraisablehook
        sys.unraisablehook = self._unraisable
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                yield
                gc.collect()
        finally:
            sys.unraisablehook = hook
        self.found += [f"warning: {warning.message}" for warning in warned]
        self.found += [f"thread: {thread.name}" for thread in set(threading.enumerate()) - threads]
        self.found += [f"open: {target}" for target in left_open(before)]

    def look_for_tasks(self) -> None:
        gc.collect()
        self.found += [f"task: {task}" for task in asyncio.all_tasks() - {asyncio.current_task()}]

    def on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.found.append(f"loop: {context['message']} {context.get('exception')!r}")

    def _unraisable(self, error: Any) -> None:
        self.found.append(f"unraisable: {error.exc_value!r} in {error.object!r}")


@pytest.fixture(params=["asyncio", "uvloop"])
def leaves_nothing(request: pytest.FixtureRequest, little_garbage: None) -> Runs:
    """Runs a coroutine function in a loop of its own, and asserts that nothing of it is left; gives its result."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    async def warm_up() -> None:
        """libuv has a pipe for signals from its first loop on, pycares a thread that destroys channels from its first
        one on; both stay with the process."""
        await aiodns.DNSResolver().close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(warm_up())

    def run(main: Callable[[], Awaitable[Any]]) -> Any:
        traces = Traces()

        async def watched() -> Any:
            async with asyncio.timeout(SECONDS):
                try:
                    return await main()
                finally:
                    traces.look_for_tasks()

        with traces.watched(), asyncio.Runner(debug=True, loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(traces.on_error)
            result = runner.run(watched())
        assert traces.found == []
        return result

    return run


@contextlib.contextmanager
def elsewhere(*servers: Any) -> Iterator[Any]:
    """Servers (async context managers) in the loop of another thread, so that everything in ours is the crawl's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="servers")
    thread.start()

    def there(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(SECONDS)

    stack = contextlib.AsyncExitStack()
    try:
        for server in servers:
            there(stack.enter_async_context(server))
        yield servers[0] if len(servers) == 1 else servers
    finally:
        there(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()


class Walker(Spider):
    """Follows every link of `site`."""

    name = "walker"
    site = ""

    async def start(self) -> Any:
        yield self.request(f"{self.site}/")

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}
        yield response.follow_all()


def shop() -> LocalSite:
    site = LocalSite()
    site.page("/", "".join(f"<a href='/{number}'>x</a>" for number in range(8)))
    for number in range(8):
        site.page(f"/{number}", "<p>page</p>" * 100)
    return site


# -- ends that are as they should be ---------------------------------------------------------------------------------


def test_a_crawl_over_kept_connections(leaves_nothing: Runs, tmp_path: Path) -> None:
    with elsewhere(shop()) as site:
        settings = {**FAST, "politeness": {"delay_seconds": 0, "concurrency_per_host": 4}}
        options = {
            "args": {"site": site.url},
            "job": tmp_path / "job",
            "output": [tmp_path / "x.jsonl", tmp_path / "x.csv"],
        }
        result = leaves_nothing(lambda: crawl(Walker, settings=settings, **options))
    assert result.stats["pages"] == 9


def test_a_crawl_over_tls(leaves_nothing: Runs, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    page = answer(b"<a href=/1>1</a><a href=/2>2</a><a href=/3>3</a>", "Content-Type: text/html")
    with elsewhere(RawServer(page, tls=server_context(tmp_path, SERVER), keep_alive=True)) as server:
        settings = {**FAST, "tls": {"ca_file": str(tmp_path / "ca.pem")}}
        result = leaves_nothing(lambda: crawl(Walker, settings=settings, args={"site": server.url.rstrip("/")}))
    assert (result.stats["pages"], result.stats["errors"]) == (4, 0)
    assert server.connections < 4, "connections were kept"


class Leaving(Walker):
    """Opens streams and leaves them at different places."""

    async def parse(self, response: Response) -> Any:
        yield self.request(f"{self.site}/unread", self.leave, stream=True)
        yield self.request(f"{self.site}/begun", self.begin, stream=True)
        inline = await self.fetch(self.request(f"{self.site}/inline", stream=True))
        await inline.content.read(10)

    def leave(self, response: Response) -> None:
        self.kept = response

    async def begin(self, response: Response) -> None:
        await response.content.read(10)


def big_site() -> LocalSite:
    site = LocalSite()
    site.page("/", "start")
    site.page("*", bytes(5_000_000), content_type="application/zip")
    return site


def test_streams_that_callbacks_leave_unread(leaves_nothing: Runs) -> None:
    with elsewhere(big_site()) as site:
        result = leaves_nothing(lambda: crawl(Leaving, settings=FAST, args={"site": site.url}))
    assert (result.stats["responses"], result.stats["errors"]) == (4, 0)


def test_failures_and_their_errbacks(leaves_nothing: Runs) -> None:
    class Failing(Walker):
        async def start(self) -> Any:
            for url in (f"{site.url}/404", f"{site.url}/drop", refused, odd.url, "http://no.such.name.test/"):
                yield self.request(url)
            yield self.request(silent.url, timeout=0.3)

        def failed(self, failure: Any) -> Any:
            yield {"reason": failure.reason}

    site, silent, odd, dns = LocalSite(), RawServer(hang()), RawServer(b"SSH-2.0-OpenSSH\r\n\r\n"), DnsServer()
    with elsewhere(RawServer()) as closed:
        refused = closed.url
    with elsewhere(site, silent, odd, dns):
        site.drop("/drop")
        result = leaves_nothing(lambda: crawl(Failing, settings={**FAST, "dns": {"nameservers": [dns.nameserver]}}))
    assert result.stats["failures"] == {
        "status_404": 1, "disconnected": 1, "connect_refused": 1, "total_timeout": 1, "protocol": 1, "dns_not_found": 1,
    }  # fmt: skip


# -- ends that come too early ----------------------------------------------------------------------------------------


def test_leaving_the_items_of_stream(leaves_nothing: Runs) -> None:
    with elsewhere(shop()) as site:

        async def two_items() -> list[Any]:
            found: list[Any] = []
            async with contextlib.aclosing(stream(Walker, args={"site": site.url}, settings=FAST)) as items:
                async for item in items:
                    found.append(item)
                    if len(found) == 2:
                        break
            return found

        assert len(leaves_nothing(two_items)) == 2


class Gate:
    """Set when a crawl has come to the place where it is to be ended, by itself or by a server in another thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def reached(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        assert await asyncio.to_thread(self._event.wait, SECONDS)

    async def silence(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For a `RawServer`: whatever comes, no answer."""
        if await reader.read(1):
            self.reached()
        await reader.read()

    async def half_an_answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For a `RawServer`, too."""
        writer.write(answer(b"half", length=100))
        await writer.drain()
        self.reached()
        await reader.read()

    async def half_a_body(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x" * 100)
        self.reached()
        await asyncio.sleep(3600)
        return response


class Held(Spider):
    """Goes to `url`, and stays in its callback if it gets there."""

    name = "held"
    url = ""
    gate: Gate

    async def start(self) -> Any:
        yield self.request(self.url)

    async def parse(self, response: Response) -> Any:
        await self.stay()

    async def stay(self) -> None:
        self.gate.reached()
        await asyncio.sleep(3600)


class HeldInStart(Held):
    async def start(self) -> Any:
        yield {"first": 1}
        await self.stay()


class HeldInPipeline(Held):
    class Slow:
        async def process_item(self, item: Any, spider: Any) -> Any:
            await spider.stay()

    pipelines = (Slow,)
    left = False

    async def parse(self, response: Response) -> Any:
        try:
            yield {"n": 1}
        finally:
            self.left = True

    async def closed(self, reason: str) -> None:
        assert self.left, "the callback is over before the crawl is"


class HeldInPipelineFromStart(HeldInPipeline):
    async def start(self) -> Any:
        try:
            yield {"n": 1}
        finally:
            self.left = True


class HeldInFetch(Held):
    async def parse(self, response: Response) -> Any:
        await self.fetch(f"{self.url}/slow")


class HeldInStream(Held):
    async def start(self) -> Any:
        yield self.request(self.url, stream=True)

    async def parse(self, response: Response) -> Any:
        await response.content.read()


class HeldInStreamOfFetch(Held):
    async def start(self) -> Any:
        response = await self.fetch(self.request(self.url, stream=True))
        await response.content.read()
        yield {"never": 1}


class HeldInWebSocket(Held):
    async def start(self) -> Any:
        async with self.websocket(self.url) as socket:
            async for message in socket:
                yield message.json()
                self.gate.reached()


class HeldWithWebSocketLeftOpen(Held):
    async def opened(self) -> None:
        self.socket = await self.websocket(self.url, heartbeat=0.05).__aenter__()

    async def start(self) -> None:
        await self.stay()


MOMENTS = {
    "dns": (Held, "http://silent.test/"),
    "tls": (Held, "https://{silent}/"),
    "proxy": (Held, "https://{silent}/?proxy"),
    "headers": (Held, "http://{silent}/"),
    "body": (Held, "http://{site}/slow"),
    "tls body": (Held, "https://{tls}/"),
    "stream": (HeldInStream, "http://{site}/slow"),
    "callback": (Held, "http://{site}/"),
    "pipeline": (HeldInPipeline, "http://{site}/"),
    "pipeline of start": (HeldInPipelineFromStart, ""),
    "inline": (HeldInFetch, "http://{site}"),
    "start": (HeldInStart, ""),
    "start inline": (HeldInStreamOfFetch, "http://{site}/slow"),
    "websocket": (HeldInWebSocket, "ws://{site}/feed"),
    "open websocket": (HeldWithWebSocketLeftOpen, "ws://{site}/feed"),
}


async def feed(socket: web.WebSocketResponse) -> None:
    await socket.send_json({"n": 1})
    async for _ in socket:
        pass


ENDS = [(moment, way) for moment in MOMENTS for way in ("cancelled", "stopped")] + [
    ("body", "aborted"),
    ("callback", "aborted"),
]


@pytest.mark.parametrize(("moment", "way"), ENDS)
def test_an_end_in_the_middle_of(moment: str, way: str, leaves_nothing: Runs, tmp_path: Path) -> None:
    gate, site, dns = Gate(), LocalSite(), DnsServer()
    site.page("*", "ok")
    site.route("/slow", gate.half_a_body)
    site.websocket("/feed", feed)

    def silence(kind: int, number: int) -> Fail:
        gate.reached()
        return Fail.SILENCE

    dns.names["silent.test"] = silence
    half = RawServer(gate.half_an_answer, tls=server_context(tmp_path, SERVER))
    with elsewhere(site, RawServer(gate.silence, waits=False), dns, half) as (_, silent, _, _):
        cls, url = MOMENTS[moment]
        host = f"{silent.host}:{silent.port}"
        args = {"url": url.format(site=site.host, silent=host, tls=f"{half.host}:{half.port}"), "gate": gate}
        drain = 1000 if way == "aborted" else 0.1
        settings: dict[str, Any] = {**FAST, "crawl": {"drain_seconds": drain}, "tls": {"verify": False}}
        settings["dns"] = {"nameservers": [dns.nameserver]}
        if moment == "proxy":
            settings["proxy"] = {"urls": [silent.url]}

        async def end() -> None:
            async with api._crawl(cls, args, settings, tmp_path / "x.jsonl", job=tmp_path / "job") as running:
                task = asyncio.create_task(running.run())
                await gate.wait()
                began = time.monotonic()
                if way == "cancelled":
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    running.engine.stop("interrupted")
                    if way == "aborted":
                        running.engine.abort()
                    result = await task
                    assert result.reason == "interrupted"
                    assert "close_error" not in result.stats["failures"]
            assert time.monotonic() - began < 8, "it waited for no time-out"

        leaves_nothing(end)


class Busy(Spider):
    """Gives a hundred thousand items without ever waiting for anything, from `start()` or from a callback."""

    name = "busy"
    site = ""
    given = 0
    where = ""

    async def start(self) -> Any:
        if self.where == "start":
            async for item in self.items():
                yield item
        else:
            yield self.request(f"{self.site}/")

    async def parse(self, response: Response) -> Any:
        async for item in self.items():
            yield item

    async def items(self) -> Any:
        for number in range(100_000):
            self.given += 1
            yield {"number": number}


@pytest.mark.parametrize("where", ["start", "parse"])
async def test_a_generator_that_never_waits_can_be_stopped(where: str) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        settings = {"crawl": {"time_limit_seconds": 0.2, "drain_seconds": 0.1}, **FAST}
        run = await run_spider(Busy, args={"site": site.url, "where": where}, settings=settings)
    assert run.reason == "time_limit"
    assert 0 < run.spider.given < 100_000  # type: ignore[attr-defined]
    assert len(run.items) == run.spider.given  # type: ignore[attr-defined]


async def test_an_item_of_start_that_a_pipeline_has_is_written_before_the_end(tmp_path: Path) -> None:
    class Slow:
        async def process_item(self, item: Any, spider: Any) -> Any:
            taken.set()
            await released.wait()
            return item

    class Two(Spider):
        name = "two"
        pipelines = (Slow,)

        async def start(self) -> Any:
            yield {"number": 1}
            yield {"number": 2}

    taken, released = asyncio.Event(), asyncio.Event()
    async with api._crawl(Two, None, None, tmp_path / "x.jsonl", job=tmp_path / "job") as running:
        task = asyncio.create_task(running.run())
        await asyncio.wait_for(taken.wait(), SECONDS)
        running.engine.stop("interrupted")
        await asyncio.sleep(0)
        released.set()
        assert (await asyncio.wait_for(task, SECONDS)).reason == "interrupted"
    assert (tmp_path / "x.jsonl").read_text() == '{"number":1}\n'


# -- ends that are somebody's fault ----------------------------------------------------------------------------------


class Faulty(Walker):
    """Raises at `place`, with a connection open."""

    place = ""

    def fault(self, place: str) -> None:
        if place == self.place:
            raise LookupError(place)

    async def opened(self) -> None:
        await self.fetch(f"{self.site}/0")
        self.fault("opened")

    async def start(self) -> Any:
        yield self.request(f"{self.site}/")
        self.fault("start")

    def parse(self, response: Response) -> Any:
        self.fault("parse")

    async def closed(self, reason: str) -> None:
        self.fault("closed")


@pytest.mark.parametrize("place", ["opened", "start", "parse", "closed"])
def test_a_spider_that_raises_in(place: str, leaves_nothing: Runs, tmp_path: Path) -> None:
    with elsewhere(shop()) as site:

        async def fail() -> Any:
            args = {"site": site.url, "place": place}
            with pytest.raises(LookupError) if place == "opened" else contextlib.nullcontext():
                return await crawl(Faulty, args=args, settings=FAST, job=tmp_path / "job", output=tmp_path / "x.jsonl")

        result = leaves_nothing(fail)
    expected = {"opened": None, "start": "failed", "parse": "finished", "closed": "finished"}
    assert (None if result is None else result.reason) == expected[place]


@pytest.mark.parametrize(
    ("settings", "output", "error"),
    [
        ({"tls": {"ca_file": "missing.pem"}}, "x.jsonl", SettingsError),
        ({"frontier": {"url": "redis://127.0.0.1:1/", "lease_seconds": 2}}, "x.jsonl", EngineUnavailable),
        ({}, "x.what", UsageError),
        ({}, ".", CrawlerError),
    ],
    ids=["no CA file", "no such frontier", "no such format", "a folder for an output"],
)
def test_a_crawl_that_cannot_begin(
    settings: dict[str, Any], output: str, error: type[Exception], leaves_nothing: Runs, tmp_path: Path
) -> None:
    async def fail() -> None:
        with pytest.raises(error):
            await crawl(Walker, settings=settings, job=tmp_path / "job", output=tmp_path / output)

    leaves_nothing(fail)


def test_a_file_that_was_to_be_uploaded(leaves_nothing: Runs, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(bytes(3_000_000))

    class Uploading(Walker):
        async def start(self) -> Any:
            for url in (f"{site.url}/taken", hanging_up.url):
                yield self.request(url, method="POST", data=FilePath(tmp_path / "big.bin"))

    site = LocalSite()
    site.page("/taken", "thanks")
    with elsewhere(site, RawServer(reset())) as (_, hanging_up):
        result = leaves_nothing(lambda: crawl(Uploading, settings=FAST))
    assert (result.stats["pages"], result.stats["errors"]) == (1, 1)
    assert len(site.requests()[0].body) == 3_000_000


def test_crawls_side_by_side_and_one_after_the_other(leaves_nothing: Runs) -> None:
    with elsewhere(shop()) as site:

        async def several() -> list[Any]:
            done: list[Any] = []
            for _ in range(2):
                done += await asyncio.gather(*(crawl(Walker, args={"site": site.url}, settings=FAST) for _ in range(2)))
            return done

        results = leaves_nothing(several)
    assert [result.stats["pages"] for result in results] == [9] * 4


# -- the command -----------------------------------------------------------------------------------------------------

COMPLAINTS = re.compile(
    "Unclosed|ResourceWarning|never awaited|was destroyed|never retrieved|Exception ignored|Traceback|is closed|Warning"
)
SPIDER = """
from crawler import Spider

class Walking(Spider):
    name = "walking"
    settings = {"politeness": {"delay_seconds": 0, "obey_robots": False}, "crawl": {"drain_seconds": 0.5}}

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        yield {"url": response.url}
        yield response.follow_all()
"""
PROGRAM = """
import sys
if sys.argv.pop(1) == "asyncio":
    sys.modules["uvloop"] = None
from crawler.cli import main
sys.exit(main())
"""


@contextlib.asynccontextmanager
async def command(loop: str, folder: Path, site: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`crawler run` in Python's development mode, every warning an error; leaving kills it."""
    (folder / "walking.py").write_text(SPIDER)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, loop),
        *("run", "walking.py", "-a", f"site={site}", "-o", "x.jsonl", *options),
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("CRAWLER_")}, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(60):
        _, text = await process.communicate()
    return text.decode()


@pytest.mark.parametrize(("loop", "scheme"), [("uvloop", "http"), ("uvloop", "https"), ("asyncio", "https")])
async def test_the_command_ends_without_a_complaint(loop: str, scheme: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    page = answer(b"<a href=/1>1</a><a href=/2>2</a>", "Content-Type: text/html")
    tls = server_context(tmp_path, SERVER) if scheme == "https" else None
    async with RawServer(page, tls=tls, keep_alive=True) as server:
        trusting = ("-s", f"tls.ca_file={tmp_path / 'ca.pem'}")
        async with command(loop, tmp_path, server.url.rstrip("/"), *trusting) as process:
            text = await said(process)
    assert process.returncode == 0, text
    assert not COMPLAINTS.search(text), text
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 3


@pytest.mark.hostile("R-03", "R-04", "R-43")
@pytest.mark.parametrize(
    ("loop", "signals"),
    [("uvloop", [signal.SIGTERM]), ("asyncio", [signal.SIGINT, signal.SIGINT])],
    ids=["SIGTERM", "SIGINT twice"],
)
async def test_the_command_stops_on_signals_without_a_complaint(
    loop: str, signals: list[signal.Signals], tmp_path: Path
) -> None:
    pages = b"<a href=/1>1</a><a href=/2>2</a><a href=/3>3</a>"
    held = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(answer(pages, "Content-Type: text/html"))
            return
        if len(server.requests) == 3:  # both of the host's places are taken
            held.set()
        writer.write(answer(b"half", length=100))
        await reader.read()

    options = ("-s", f"crawl.drain_seconds={0.2 if len(signals) == 1 else 1000}")
    async with RawServer(script, tls=server_context(tmp_path, SERVER)) as server:
        unverified = ("-s", "tls.verify=false")
        async with command(loop, tmp_path, server.url.rstrip("/"), *options, *unverified) as process:
            await asyncio.wait_for(held.wait(), 60)
            for number in signals:
                process.send_signal(number)
                await asyncio.sleep(0.1)  # two at once may be merged into one
            text = await said(process)
    assert process.returncode == 75, text
    assert not COMPLAINTS.search(text), text
