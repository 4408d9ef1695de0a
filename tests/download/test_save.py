"""Bodies to disk: continued after every kind of break, with servers that get ranges wrong, and not too slowly."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import math
import os
import random
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from range_server import CONTENT, Client, Shelf, files, open_client

from crawler import Failure, Request, Response, Spider
from crawler.download.partial import Part
from crawler.download.save import Saver, SpeedGuard
from crawler.errors import BodyError, FetchError, OutputError, StatusError
from crawler.errors import TimeoutError as TooLong
from crawler.testing import LocalSite, fake_response, run_spider
from crawler.testing.raw import RawServer, answer, hang

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aiohttp import web

    from crawler import SavedFile

ROOT = Path(__file__).parents[2]
HASH = hashlib.sha256(CONTENT).hexdigest()
PART, NOTE = ".file.bin.part", ".file.bin.part.json"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def site(shelf: Shelf) -> AsyncIterator[LocalSite]:
    async with LocalSite() as site:
        site.route("/", shelf)
        yield site


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with open_client() as client:
        yield client


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


async def save(client: Client, site: LocalSite, target: Path, **options: Any) -> SavedFile:
    response = await client.get(site.url, **options)
    return await response.save(target, resume=True)


async def interrupt(client: Client, site: LocalSite, shelf: Shelf, target: Path, at: int = 300_000) -> None:
    """As a first run would leave it."""
    shelf.cuts = [at]
    with pytest.raises(FetchError):
        await save(client, site, target, alone=True)
    shelf.requests.clear()
    shelf.statuses.clear()


def assert_whole(saved: SavedFile, target: Path, content: bytes = CONTENT) -> None:
    assert target.read_bytes() == content
    assert (saved.path, saved.bytes) == (str(target), len(content))
    assert saved.sha256 == hashlib.sha256(content).hexdigest()
    assert files(target.parent) == [target.name]


# -- the next run ------------------------------------------------------------------------------------------------------


async def test_an_interrupted_save_is_continued_by_the_next(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    await interrupt(client, site, shelf, target)
    assert files(target.parent) == [PART, NOTE]
    saved = await save(client, site, target)
    assert_whole(saved, target)
    assert saved.resumed_from == 300_000
    assert shelf.statuses == [200, 206]
    asked = shelf.requests[1].headers
    assert (asked["Range"], asked["If-Range"], asked["Accept-Encoding"]) == ("bytes=300000-", '"v1"', "identity")


async def test_a_date_that_is_old_enough_will_do_as_the_validator(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    modified = "Wed, 19 Nov 2025 10:00:00 GMT"
    shelf.headers = {"Last-Modified": modified}
    await interrupt(client, site, shelf, target)
    assert_whole(await save(client, site, target), target)
    assert shelf.requests[1].headers["If-Range"] == modified


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"v1"'}, {"ETag": '"v1"', "Accept-Ranges": "none"}])
async def test_what_could_not_be_continued_is_not_kept(
    client: Client, site: LocalSite, shelf: Shelf, target: Path, headers: dict[str, str]
) -> None:
    shelf.headers = headers
    await interrupt(client, site, shelf, target)
    assert files(target.parent) == []
    assert_whole(await save(client, site, target), target)
    assert shelf.ranges == [None]


async def test_a_coded_body_is_saved_as_usual_and_not_kept(client: Client, target: Path) -> None:
    body = gzip.compress(random.Random(1).randbytes(500_000))
    headers = ("Content-Encoding: gzip", 'ETag: "v1"', "Accept-Ranges: bytes")
    async with RawServer(answer(body[:300_000], *headers, length=len(body))) as server:
        response = await client.get(server.url)
        with pytest.raises(BodyError):
            await response.save(target, resume=True)
        assert len(server.requests) == 1
    assert files(target.parent) == []


async def test_a_file_that_has_changed_since_starts_over(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    await interrupt(client, site, shelf, target)
    shelf.headers["ETag"] = '"v2"'
    shelf.content = CONTENT[::-1]
    saved = await save(client, site, target)
    assert_whole(saved, target, CONTENT[::-1])
    assert saved.resumed_from == 0
    assert shelf.ranges == [None]  # its headers said so: the answer at hand is saved


async def test_a_file_that_changes_between_the_two_answers_starts_over(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    await interrupt(client, site, shelf, target)
    response = await client.get(site.url)
    shelf.headers["ETag"] = '"v2"'
    shelf.content = CONTENT[::-1]
    saved = await response.save(target, resume=True)
    assert_whole(saved, target, CONTENT[::-1])
    assert saved.resumed_from == 0
    assert shelf.statuses == [200, 200]


async def test_a_server_that_ignores_ranges_starts_over(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    await interrupt(client, site, shelf, target)
    shelf.knows_ranges = False
    assert_whole(await save(client, site, target), target)
    assert shelf.ranges == [None, "bytes=300000-"]


async def test_a_server_that_knows_ranges_but_no_condition_is_found_out(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    await interrupt(client, site, shelf, target)
    response = await client.get(site.url)
    shelf.knows_if_range = False
    shelf.headers["ETag"] = '"v2"'
    shelf.content = CONTENT[::-1]
    assert_whole(await response.save(target, resume=True), target, CONTENT[::-1])
    assert shelf.statuses == [200, 206, 200]


@pytest.mark.parametrize(
    "lie",
    [
        {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"},
        {"Content-Range": f"bytes 300001-{len(CONTENT) - 1}/{len(CONTENT)}"},
        {"Content-Range": f"bytes 300000-{len(CONTENT)}/{len(CONTENT) + 1}"},
        {"Content-Range": ""},
        {"Content-Range": "", "Content-Type": "multipart/byteranges; boundary=x"},
        {"Content-Encoding": "gzip"},
    ],
)
async def test_a_range_that_is_not_the_one_asked_for_starts_over(
    client: Client, site: LocalSite, shelf: Shelf, target: Path, lie: dict[str, str]
) -> None:
    await interrupt(client, site, shelf, target)
    shelf.of_ranges = lie
    saved = await save(client, site, target)
    assert_whole(saved, target)
    assert saved.resumed_from == 0
    assert shelf.ranges == [None, "bytes=300000-", None]


async def test_a_range_that_cannot_be_satisfied_starts_over(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    shelf.is_chunked = True  # so nobody knows the length
    await interrupt(client, site, shelf, target, at=len(CONTENT))
    saved = await save(client, site, target)
    assert_whole(saved, target)
    assert shelf.statuses == [200, 416, 200]


async def test_more_than_the_range_said_is_no_file(client: Client, site: LocalSite, shelf: Shelf, target: Path) -> None:
    await interrupt(client, site, shelf, target)
    response = await client.get(site.url)
    shelf.is_chunked = True
    shelf.of_ranges = {"Content-Range": f"bytes 300000-{len(CONTENT) - 9}/{len(CONTENT)}"}
    with pytest.raises(BodyError) as caught:
        await response.save(target, resume=True)
    assert (caught.value.reason, caught.value.retryable) == ("body_range", False)
    assert files(target.parent) == []


async def test_a_file_that_was_complete_is_only_named(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    await interrupt(client, site, shelf, target)
    (target.parent / PART).write_bytes(CONTENT)
    saved = await save(client, site, target)
    assert_whole(saved, target)
    assert saved.resumed_from == len(CONTENT)
    assert shelf.ranges == [None]


async def test_a_rest_that_is_refused_is_an_error_and_what_is_there_stays(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    await interrupt(client, site, shelf, target)
    response = await client.get(site.url)
    site.page("/", "not now", status=503)
    with pytest.raises(StatusError) as caught:
        await response.save(target, resume=True)
    assert caught.value.status == 503
    assert (target.parent / PART).stat().st_size == 300_000
    site.route("/", shelf)
    assert (await save(client, site, target)).resumed_from == 300_000


async def test_without_a_crawl_around_it_a_save_starts_over(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    await interrupt(client, site, shelf, target)
    saved = await save(client, site, target, alone=True)
    assert_whole(saved, target)
    assert saved.resumed_from == 0


async def test_an_error_page_is_no_continuation_and_harms_none(
    client: Client, site: LocalSite, shelf: Shelf, target: Path, tmp_path: Path
) -> None:
    await interrupt(client, site, shelf, target)
    site.page("/", "no such thing", status=404)
    await save(client, site, target)
    assert target.read_bytes() == b"no such thing"
    assert (tmp_path / PART).stat().st_size == 300_000


async def test_a_stream_that_was_read_from_is_saved_from_there(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    response = await client.get(site.url)
    assert response.content is not None
    head = await response.content.readexactly(1000)
    assert_whole(await response.save(target, resume=True), target, CONTENT[1000:])
    assert head == CONTENT[:1000]


async def test_a_file_of_no_bytes_is_saved(client: Client, site: LocalSite, shelf: Shelf, target: Path) -> None:
    shelf.content = b""
    assert_whole(await save(client, site, target), target, b"")


async def test_an_answer_without_a_body_is_a_file_of_no_bytes(client: Client, site: LocalSite, target: Path) -> None:
    site.page("/", "not sent", headers={"ETag": '"v1"'})
    assert_whole(await save(client, site, target, method="HEAD"), target, b"")


async def test_a_body_in_memory_is_saved_whole(target: Path) -> None:
    response = fake_response("https://files.example/", b"small", headers={"ETag": '"v1"', "Content-Length": "5"})
    assert_whole(await response.save(target, resume=True), target, b"small")


# -- within one save ---------------------------------------------------------------------------------------------------


async def test_a_connection_that_breaks_is_continued_at_once(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    shelf.cuts = [300_000, 0, 200_000]
    saved = await save(client, site, target)
    assert_whole(saved, target)
    assert saved.resumed_from == 0
    assert shelf.ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=500000-"]


async def test_without_resume_it_is_not(client: Client, site: LocalSite, shelf: Shelf, target: Path) -> None:
    shelf.cuts = [300_000]
    response = await client.get(site.url)
    with pytest.raises(BodyError):
        await response.save(target)
    assert shelf.ranges == [None]
    assert files(target.parent) == []


async def test_after_three_continuations_it_is_given_up_and_kept(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    shelf.cuts = [100_000, 100_000, 100_000, 100_000, 0]
    with pytest.raises(BodyError) as caught:
        await save(client, site, target)
    assert caught.value.reason == "body_truncated"
    assert len(shelf.requests) == 4
    assert (target.parent / PART).read_bytes() == CONTENT[:400_000]


async def test_a_body_of_unknown_length_is_continued_too(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    shelf.is_chunked = True
    shelf.cuts = [300_000]
    assert_whole(await save(client, site, target), target)
    assert shelf.ranges == [None, "bytes=300000-"]


async def test_a_server_that_gives_only_part_of_the_rest_is_asked_again(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    class Stingy(Shelf):
        def answer(self, request: web.Request) -> tuple[int, bytes, dict[str, str]]:
            status, body, headers = super().answer(request)
            if status == 206 and len(self.requests) == 2:
                start = len(CONTENT) - len(body)
                headers["Content-Range"] = f"bytes {start}-{start + 99_999}/{len(CONTENT)}"
                body = body[:100_000]
            return status, body, headers

    stingy = Stingy(cuts=(300_000,))
    site.route("/", stingy)
    assert_whole(await save(client, site, target), target)
    assert stingy.ranges == [None, "bytes=300000-", "bytes=400000-"]


async def test_a_break_before_the_first_byte_asks_for_the_whole(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    shelf.cuts = [0]
    assert_whole(await save(client, site, target), target)
    assert shelf.ranges == [None, None]


async def test_an_error_of_the_users_own_middleware_is_not_the_disks(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    async def broken(request: Request) -> Response:
        raise ConnectionError("of a middleware")

    shelf.cuts = [300_000]
    response = await client.get(site.url)
    response._refetch = broken
    with pytest.raises(ConnectionError, match="of a middleware"):
        await response.save(target, resume=True)
    assert files(target.parent) == [PART, NOTE]


# -- in a crawl --------------------------------------------------------------------------------------------------------


class Saving(Spider):
    """Saves `/` to `target`."""

    name = "saving"
    site = ""
    target = ""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.failures: list[Failure] = []

    async def start(self) -> Any:
        yield self.request(self.site, stream=True)

    async def parse(self, response: Response) -> Any:
        saved = await response.save(self.target, resume=True)
        yield {"sha256": saved.sha256, "resumed_from": saved.resumed_from}

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)


async def test_a_crawl_continues_what_another_began_and_at_a_host_with_one_place(
    site: LocalSite, shelf: Shelf, target: Path
) -> None:
    args = {"site": site.url, "target": str(target)}
    settings = {"politeness": {"concurrency_per_host": 1, "obey_robots": False}}
    shelf.cuts = [100_000, 0, 0, 0]
    async with asyncio.timeout(10):
        first = await run_spider(Saving, args=args, settings=settings)
        second = await run_spider(Saving, args=args, settings=settings)
    assert [failure.reason for failure in first.spider.failures] == ["body_truncated"]  # type: ignore[attr-defined]
    assert second.items == [{"sha256": HASH, "resumed_from": 100_000}]
    assert shelf.ranges == [None, *["bytes=100000-"] * 3, None, "bytes=100000-"]


# -- two at once, cancelled, killed ------------------------------------------------------------------------------------


@pytest.fixture
async def written(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when something of a body is in its file."""
    loop, event, write = asyncio.get_running_loop(), asyncio.Event(), Part.write

    def write_and_tell(self: Part, pieces: list[bytes]) -> None:
        write(self, pieces)
        loop.call_soon_threadsafe(event.set)

    monkeypatch.setattr(Part, "write", write_and_tell)
    return event


async def test_a_second_save_to_the_same_path_does_not_disturb_the_first(
    client: Client, site: LocalSite, shelf: Shelf, target: Path, written: asyncio.Event
) -> None:
    shelf.cuts, shelf.hold = [600_000], asyncio.Event()
    response = await client.get(site.url)
    first = asyncio.create_task(response.save(target, resume=True))
    await written.wait()
    async with open_client() as other:
        second = await save(other, site, target)
    assert second.sha256 == HASH
    assert files(target.parent) == [PART, NOTE, "file.bin"]
    shelf.hold.set()
    assert_whole(await first, target)
    assert shelf.ranges == [None, None]


@pytest.mark.parametrize("resume", [True, False])
async def test_a_cancelled_save_is_kept_only_with_resume(
    client: Client, site: LocalSite, shelf: Shelf, target: Path, written: asyncio.Event, *, resume: bool
) -> None:
    shelf.cuts, shelf.hold = [600_000], asyncio.Event()
    response = await client.get(site.url)
    task = asyncio.create_task(response.save(target, resume=resume))
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert response._closers == []
    assert files(target.parent) == ([PART, NOTE] if resume else [])
    if resume:
        size = (target.parent / PART).stat().st_size
        saved = await save(client, site, target)
        assert_whole(saved, target)
        assert saved.resumed_from == size > 0


@pytest.mark.parametrize("call", ["mkdir", "ftruncate", "pwrite", "replace"])
@pytest.mark.parametrize("threads", [1, 4])
async def test_a_save_that_is_cancelled_twice_while_the_disk_is_slow_still_ends(
    client: Client, site: LocalSite, target: Path, monkeypatch: pytest.MonkeyPatch, *, call: str, threads: int
) -> None:
    loop, reached, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(threads))
    quick, end, ends = getattr(os, call), Part.end, list[tuple[str, bool]]()
    ended = asyncio.Event()

    def slow(*args: Any, **options: Any) -> Any:
        loop.call_soon_threadsafe(reached.set)
        go_on.wait(10)
        return quick(*args, **options)

    def watched_end(self: Part, keep: bool) -> None:
        end(self, keep)
        ends.append(("closed" if self._fd < 0 else "open", go_on.is_set()))
        loop.call_soon_threadsafe(ended.set)

    response = await client.get(site.url)
    monkeypatch.setattr(os, call, slow)
    monkeypatch.setattr(Part, "end", watched_end)
    task = asyncio.create_task(response.save(target, resume=True))
    await reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if threads > 1:  # there is room for the end to come before its time
        await asyncio.to_thread(int)
    go_on.set()
    async with asyncio.timeout(20):
        await ended.wait()
    assert ends == [("closed", True)]
    assert files(target.parent) in ([], [PART, NOTE], ["file.bin"])


KILLED = """
import asyncio, os, signal, sys
from crawler import Spider
from crawler.download.partial import Part
from crawler.testing import run_spider

write = Part.write

def write_and_die(self, pieces):
    write(self, pieces)
    os.kill(os.getpid(), signal.SIGKILL)

Part.write = write_and_die

class Saving(Spider):
    name = "saving"
    async def start(self):
        yield self.request(sys.argv[1], stream=True)
    async def parse(self, response):
        await response.save(sys.argv[2], resume=True)

asyncio.run(run_spider(Saving, settings={"politeness": {"obey_robots": False}}))
"""


async def test_a_killed_process_leaves_what_the_next_continues(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, site.url, str(target), cwd=ROOT)
    assert await child.wait() == -signal.SIGKILL
    assert files(target.parent) == [PART, NOTE]
    kept = (target.parent / PART).read_bytes()
    assert kept
    assert kept == CONTENT[: len(kept)]
    saved = await save(client, site, target)
    assert_whole(saved, target)
    assert saved.resumed_from == len(kept)


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_a_file_announced_larger_than_allowed_is_not_begun(site: LocalSite, shelf: Shelf, target: Path) -> None:
    shelf.cuts, shelf.hold = [0], asyncio.Event()  # no byte of it comes
    async with open_client(Saver(len(CONTENT) - 1)) as client, asyncio.timeout(20):
        with pytest.raises(BodyError) as caught:
            await save(client, site, target)
    assert (caught.value.reason, caught.value.retryable) == ("body_too_large", False)
    assert files(target.parent) == []


async def test_a_file_of_exactly_the_limit_is_saved(site: LocalSite, target: Path) -> None:
    async with open_client(Saver(len(CONTENT))) as client:
        assert_whole(await save(client, site, target), target)


async def test_the_limit_is_for_the_whole_file_and_what_is_over_it_is_not_kept(
    client: Client, site: LocalSite, shelf: Shelf, target: Path
) -> None:
    shelf.is_chunked = True
    await interrupt(client, site, shelf, target, at=600_000)
    async with open_client(Saver(len(CONTENT) - 1)) as strict:
        with pytest.raises(BodyError) as caught:
            await save(strict, site, target)
    assert caught.value.reason == "body_too_large"
    assert files(target.parent) == []


# -- the disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Callable[[], None]]:
    """No file may grow beyond 700,000 bytes, until it is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))

    def grow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    yield grow
    grow()


async def test_a_full_disk_is_an_output_error_and_once_there_is_room_the_save_goes_on(
    client: Client, site: LocalSite, target: Path, small_disk: Callable[[], None]
) -> None:
    with pytest.raises(OutputError, match=r"cannot save http://.* to .*file\.bin: File too large"):
        await save(client, site, target)
    assert files(target.parent) == [PART, NOTE]
    small_disk()
    saved = await save(client, site, target)
    assert_whole(saved, target)
    assert saved.resumed_from == 700_000


@pytest.mark.usefixtures("small_disk")
async def test_without_resume_a_full_disk_keeps_nothing(client: Client, site: LocalSite, target: Path) -> None:
    response = await client.get(site.url)
    with pytest.raises(OutputError):
        await response.save(target)
    assert files(target.parent) == []


async def test_what_a_broken_disk_has_is_not_kept(
    client: Client, site: LocalSite, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Part, pieces: list[bytes]) -> None:
        write(self, pieces)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write = Part.write
    monkeypatch.setattr(Part, "write", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        await save(client, site, target)
    assert files(target.parent) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no files, whoever asks")
@pytest.mark.parametrize("resume", [True, False])
async def test_a_folder_that_takes_no_files_is_an_output_error(
    client: Client, site: LocalSite, *, resume: bool
) -> None:
    response = await client.get(site.url)
    with pytest.raises(OutputError, match="cannot save"):
        await response.save("/proc/file.bin", resume=resume)
    assert response._closers == []


@pytest.mark.parametrize("name", ["a" * 256, "folder", "file/x", "a\0b", "", "."])
@pytest.mark.parametrize("resume", [True, False])
async def test_a_name_that_no_file_can_have_is_the_callbacks_mistake_not_the_disks(
    client: Client, site: LocalSite, tmp_path: Path, *, name: str, resume: bool
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    response = await client.get(site.url)
    with pytest.raises(ValueError, match=r"no file can be saved as|null"):
        await response.save(tmp_path / name, resume=resume)
    assert files(tmp_path) == ["file"]
    assert response._closers == []


async def test_a_password_in_the_url_is_not_in_the_error(client: Client, site: LocalSite, target: Path) -> None:
    response = await client.get(site.url)
    response.url = "http://me:secret@files.example/"
    (target.parent / "blocked").symlink_to("blocked")
    with pytest.raises(OutputError) as caught:
        await response.save(target.parent / "blocked" / "file.bin")
    assert "secret" not in str(caught.value)
    assert "files.example" in str(caught.value)


# -- too slow ----------------------------------------------------------------------------------------------------------


def judged_at(guard: SpeedGuard, arrivals: list[tuple[float, int]], end: float) -> float | None:
    """When the guard would have given up on bytes that came at these times; None: not before `end`."""
    now = 0.0
    for when, size in [*arrivals, (end, 0)]:
        patience = guard.patience
        assert patience is not None
        if now + patience < when:
            return now + patience
        guard.arrived(size, when - now)
        now = when
    return None


def first_slow_window(arrivals: list[tuple[float, int]], needed: float, seconds: float, end: float) -> float | None:
    """By definition: the first moment, not before `seconds`, whose last `seconds` brought fewer bytes than `needed`."""
    moments = sorted({seconds, *(when + seconds for when, _ in arrivals)})
    for moment in moments:
        if moment >= end:
            return None
        if sum(size for when, size in arrivals if moment - seconds < when <= moment) < needed:
            return moment
    return None


@pytest.mark.parametrize("seed", range(100))
def test_the_guard_gives_up_in_the_first_slow_window_or_a_64th_later(seed: int) -> None:
    rng = random.Random(seed)
    needed, seconds = 1000, rng.choice([1.0, 8.0, 32.0])
    now, arrivals = 0.0, list[tuple[float, int]]()
    while now < 5 * seconds:
        now += math.ceil(1024 * rng.expovariate(rng.choice([1, 5, 40]) / seconds)) / 1024  # sums without rounding
        arrivals.append((now, rng.choice([0, 1, 100, 400, 2000])))
    found = judged_at(SpeedGuard(needed / seconds, seconds), arrivals, now) or now
    early = first_slow_window(arrivals, needed, seconds, now) or now
    late = first_slow_window(arrivals, needed, seconds + seconds / 64, now) or now
    assert early <= found <= late


def test_a_steady_stream_at_the_limit_is_fast_enough_and_one_below_is_not() -> None:
    def steady(size: int) -> list[tuple[float, int]]:
        return [(float(second), size) for second in range(1, 200)]

    assert judged_at(SpeedGuard(1000, 10), steady(1100), 199) is None
    assert judged_at(SpeedGuard(1000, 10), steady(900), 199) == pytest.approx(10, abs=0.2)


def test_a_stream_that_stops_is_given_up_a_window_after_its_last_bytes() -> None:
    assert judged_at(SpeedGuard(1000, 10), [(3.0, 1_000_000)], 199) == pytest.approx(13, abs=0.2)
    assert judged_at(SpeedGuard(1000, 10), [(3.0, 9_999)], 199) == pytest.approx(10, abs=0.2)


@pytest.mark.parametrize(("speed", "seconds"), [(0, 30), (1000, 0)])
def test_a_guard_that_is_off_is_patient_for_ever(speed: float, seconds: float) -> None:
    guard = SpeedGuard(speed, seconds)
    guard.arrived(0, 1e9)
    assert guard.patience is None


def test_bytes_one_by_one_do_not_fill_the_memory() -> None:
    guard = SpeedGuard(1_000_000, 10)
    for _ in range(50_000):
        guard.arrived(1, 0.0001)
    assert len(guard._marks) <= 66


async def test_a_server_that_trickles_is_given_up_and_its_connection_closed(target: Path) -> None:
    left = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hang(answer(b"x" * 100, length=1_000_000))(reader, writer)  # type: ignore[operator]
        left.set()

    async with RawServer(trickle) as server, open_client(Saver(2**30, 1000, 0.2)) as client, asyncio.timeout(20):
        response = await client.get(server.url)
        with pytest.raises(TooLong) as caught:
            await response.save(target)
        await left.wait()
    assert (caught.value.reason, caught.value.retryable) == ("too_slow", True)
    assert "1000 bytes/s over 0.2 s" in str(caught.value)
    assert files(target.parent) == []


async def test_bytes_count_as_they_come_over_the_wire(target: Path) -> None:
    body = gzip.compress(b"x" * 1_000_000)

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(body[:10], "Content-Encoding: gzip", length=len(body)))
        for at in range(10, len(body)):  # each byte decodes to a thousand
            await asyncio.sleep(0.01)
            writer.write(body[at : at + 1])

    async with RawServer(trickle) as server, open_client(Saver(2**30, 1000, 0.2)) as client, asyncio.timeout(20):
        with pytest.raises(TooLong):
            await (await client.get(server.url)).save(target)


async def test_a_slow_disk_is_not_the_servers_fault(
    site: LocalSite, shelf: Shelf, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, now, write = asyncio.get_running_loop(), [0.0], Part.write
    shelf.cuts, shelf.hold = [600_000], asyncio.Event()

    def slow_write(self: Part, pieces: list[bytes]) -> None:
        now[0] += 1000.0
        write(self, pieces)
        loop.call_soon_threadsafe(shelf.hold.set)  # type: ignore[union-attr]

    monkeypatch.setattr(Part, "write", slow_write)
    async with open_client(Saver(2**30, 1_000_000, 30, lambda: now[0])) as client:
        assert_whole(await (await client.get(site.url)).save(target), target)
    assert now[0] >= 2000.0


async def test_a_slow_server_may_be_what_the_settings_say(target: Path) -> None:
    async def pause(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"x" * 100, length=200))
        await asyncio.sleep(0.1)
        writer.write(b"x" * 100)

    async with RawServer(pause) as server, open_client(Saver(2**30, 0, 0.01)) as client:
        assert_whole(await (await client.get(server.url)).save(target), target, b"x" * 200)
