"""Pages that take a parser long are given up in time, the loop goes on meanwhile, and other pages come home."""

from __future__ import annotations

import _thread
import asyncio
import gc
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from markup_bombs import BOMBS
from multidict import CIMultiDict, CIMultiDictProxy

from crawler import Request, Response, Spider
from crawler.directives import Reader
from crawler.errors import BodyError
from crawler.parsing import Parsing
from crawler.testing import LocalSite, fake_response, run_spider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.contracts import Fetch

pytestmark = pytest.mark.hostile("S42")
SIZES = (30_000, 100_000, 300_000)
UNSURE = b"<ul>" + b"<li>x" * 40_000
"""Honest, and looks as if it could take long."""


def nobody() -> Any:
    return lambda: None


def given(markup: bytes, **headers: str) -> Response:
    """As the crawl has it."""
    response = fake_response("http://a.example/", markup, headers=headers)
    response.read_by(Reader())
    return response


@pytest.fixture
def no_collection() -> Iterator[None]:
    """A look through all objects of a test run takes as long as a bomb."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_bomb_is_given_up_or_parsed_and_the_loop_goes_on(bomb: str) -> None:
    gaps, ended = [0.0], asyncio.Event()

    async def heartbeat() -> None:
        before = time.thread_time()
        while not ended.is_set():
            await asyncio.sleep(0.01)
            now = time.thread_time()  # of this thread: what others do is not its lag
            gaps.append(now - before)
            before = now

    beating = asyncio.create_task(heartbeat())
    outcomes = []
    async with Parsing(nobody) as parsing:
        for size in SIZES:
            response = given(BOMBS[bomb](size))
            try:
                if response.is_dear:
                    await parsing.prepare(response)
                began = time.thread_time()
                assert response.html is not None
                outcomes.append("parsed")
                assert time.thread_time() - began < 0.4
            except BodyError as error:
                outcomes.append(error.reason)
        ordinary = given(b"<p>fine</p>" * 5000)
        assert ordinary.is_dear
        await parsing.prepare(ordinary)
        assert len(ordinary.css("p")) == 5000
    ended.set()
    await beating
    assert set(outcomes) <= {"parsed", "html_too_complex", "parse_timeout"}  # the last is for a busy machine
    assert max(gaps) < 0.4


@pytest.mark.parametrize("bomb", ["div", "a and div", "attributes", "formatting, opened again"])
async def test_the_worst_are_given_up(bomb: str) -> None:
    async with Parsing(nobody) as parsing:
        with pytest.raises(BodyError, match=r"takes many times longer to parse than a page of [\d,]+ bytes") as caught:
            await parsing.prepare(given(BOMBS[bomb](1_000_000)))
    assert (caught.value.reason, caught.value.retryable) == ("html_too_complex", False)


async def test_a_page_that_is_sure_to_end_needs_no_trial() -> None:
    bomb = given(BOMBS["div"](50_000) + b"<a href=/below></a>")
    async with Parsing(nobody) as parsing:
        await parsing.prepare(bomb)
        assert parsing._trial._process is None
    assert bomb.css("a::attr(href)").get() == "/below"


async def test_large_honest_pages_are_parsed() -> None:
    cells = b"<table>" + b"<tr><td>1<td>2<td>3" * 50_000
    links = b"".join(b"<p><a href='/%d'>x</a>" % n for n in range(20_000))
    async with Parsing(nobody) as parsing:
        for page, query, count in ((cells, "td", 150_000), (UNSURE, "li", 40_000), (links, "a[href]", 20_000)):
            response = given(page)
            assert response.is_dear
            await parsing.prepare(response)
            assert not response.is_dear
            assert len(response.css(query)) == count


async def test_large_honest_pages_whose_elements_are_closed_are_parsed_once() -> None:
    cells = b"<table>" + b"<tr><td class=x>1</td><td><a href='/x'>2</a></td></tr>" * 20_000 + b"</table>"
    items = b"<ul>" + b"<li><code class='x y'><span>x</span></code> is <b>x</b></li>\n" * 20_000 + b"</ul>"
    async with Parsing(nobody) as parsing:
        for page, query, count in ((cells, "td", 40_000), (items, "li", 20_000)):
            response = given(page)
            assert response.is_dear
            await parsing.prepare(response)
            assert len(response.css(query)) == count
        assert parsing._trial._process is None


async def test_pages_are_parsed_by_threads_that_stay_and_end_with_the_crawl(monkeypatch: pytest.MonkeyPatch) -> None:
    start, ends = _thread.start_new_thread, []

    def starting(run: Any, arguments: Any) -> int:
        ended = threading.Event()
        ends.append(ended)
        return start(lambda: (run(*arguments), ended.set()), ())

    monkeypatch.setattr(_thread, "start_new_thread", starting)
    async with Parsing(nobody, threads=2) as parsing:
        for _ in range(4):
            await parsing.prepare(given(b"<p>fine</p>" * 5000))
        await asyncio.gather(*(parsing.prepare(given(b"<p>fine</p>" * 5000)) for _ in range(4)))
        assert len(ends) == 2
        assert not any(ended.is_set() for ended in ends)
    assert all(ended.wait(10) for ended in ends)


async def test_a_crawl_gives_up_the_page_and_goes_on_whatever_way_it_came() -> None:
    class Curious(Spider):
        name = "curious"
        site = ""

        async def start(self) -> Any:
            yield self.request(self.site + "/")

        async def parse(self, response: Response) -> Any:
            yield {"url": response.url, "links": len(response.css("a"))}
            yield response.follow_all("a")
            if response.url.endswith("/"):
                try:
                    await self.fetch(self.site + "/inline")
                except BodyError as error:
                    yield {"inline": error.reason}

    async with LocalSite() as site:
        site.page("/", "<a href=/bomb></a><a href=/missing></a><a href=/data></a><a href=/fine></a>")
        bomb = BOMBS["div"](300_000) + b"<a href=/below></a>"
        site.page("/bomb", bomb)
        site.page("/inline", bomb)
        site.page("/missing", bomb, status=404)
        site.page("/data", bomb, content_type="application/json")
        site.page("/fine", "<p>fine</p>" * 5000 + "<a href=/more></a>")
        site.page("/more", "more")
        run = await run_spider(Curious, args={"site": site.url})
    pages = {item["url"].removeprefix(site.url): item["links"] for item in run.items if "url" in item}
    assert pages == {"/": 4, "/fine": 1, "/more": 0}
    assert {"inline": "html_too_complex"} in run.items
    assert run.stats["failures"] == {"html_too_complex": 3}
    assert run.reason == "finished"


async def test_a_page_that_a_middleware_makes_or_changes_goes_the_same_way() -> None:
    bomb = BOMBS["div"](300_000)

    async def bombing(request: Request, fetch: Fetch) -> Response:
        if request.url.endswith("/made"):
            html = CIMultiDictProxy(CIMultiDict({"Content-Type": "text/html"}))
            return Response(request.url, headers=html, body=bomb)
        response = await fetch(request)
        response.body = bomb
        return response

    class Bombed(Spider):
        name = "bombed"
        site = ""
        middlewares = (bombing,)

        async def start(self) -> Any:
            yield self.request(self.site + "/made")
            yield self.request(self.site + "/changed")

    async with LocalSite() as site:
        site.page("/changed", "<p>small</p>")
        run = await run_spider(Bombed, args={"site": site.url}, settings={"politeness": {"obey_robots": False}})
    assert run.stats["failures"] == {"html_too_complex": 2}


async def test_a_stream_is_left_alone() -> None:
    class Streaming(Spider):
        name = "streaming"
        site = ""

        async def start(self) -> Any:
            yield self.request(self.site, stream=True)

        async def parse(self, response: Response) -> Any:
            assert response.content is not None
            yield {"bytes": len(await response.content.read())}

    async with LocalSite() as site:
        site.page("/", BOMBS["div"](100_000))
        run = await run_spider(Streaming, args={"site": site.url})
    assert run.items == [{"bytes": 100_000}]


@pytest.mark.parametrize("encoding", ["utf-16", "iso-2022-jp", "shift_jis", "gb18030", "latin-1", "utf-8"])
def test_a_bomb_is_seen_in_any_encoding(encoding: str) -> None:
    page = "<i x=1>" + "<b y>" * 7_000
    response = given(page.encode(encoding), **{"Content-Type": f"text/html; charset={encoding}"})
    assert response.is_dear


async def test_what_came_as_something_else_is_refused_when_it_is_asked_for_as_html() -> None:
    response = given(BOMBS["div"](100_000), **{"Content-Type": "application/json"})
    assert not response.is_dear
    with pytest.raises(BodyError, match="came as 'application/json', and is too complex to be parsed as HTML at once"):
        response.css("div")
    assert given(b"<p>x</p>", **{"Content-Type": "text/plain"}).css("p::text").get() == "x"


async def test_another_encoding_of_a_page_that_was_parsed_is_parsed_too() -> None:
    response = given(b"<p>caf\xe9</p>" * 5000)
    async with Parsing(nobody) as parsing:
        await parsing.prepare(response)
    response.encoding = "iso-8859-2"
    assert len(response.css("p")) == 5000
    response.encoding = "utf-16"  # its tags are others now, and nobody has tried them
    assert len(response.css("p")) == 0 or response.text


async def test_cancelled_in_the_middle_the_next_page_is_tried_by_a_new_process() -> None:
    async with Parsing(nobody) as parsing:
        waiting = asyncio.ensure_future(parsing.prepare(given(BOMBS["div"](1_000_000))))
        while parsing._trial._process is None:
            await asyncio.sleep(0.01)
        first = parsing._trial._process
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        response = given(UNSURE)
        await parsing.prepare(response)
        assert len(response.css("li")) == 40_000
        assert first.returncode is not None or await first.wait() == -signal.SIGKILL


async def test_nothing_is_left_of_the_process_when_the_crawl_ends() -> None:
    async with Parsing(nobody) as parsing:
        await parsing.prepare(given(UNSURE))
        process = parsing._trial._process
        assert process is not None
    assert process.returncode is not None


async def test_where_no_process_can_be_had_the_page_fails_and_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    async with Parsing(nobody) as parsing:
        with pytest.raises(BodyError, match="no process can be started") as caught:
            await parsing.prepare(given(UNSURE))
    assert (caught.value.reason, caught.value.retryable) == ("parse_failed", True)


async def test_past_the_deadline_the_page_is_given_up_and_its_thread_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on = threading.Event()
    response = given(UNSURE)
    monkeypatch.setattr(Response, "prepare", lambda self: goes_on.wait())
    notes: list[str] = []

    def note() -> Any:
        notes.append("began")
        return lambda: notes.append("ended")

    async with Parsing(note, threads=1, seconds=0.5) as parsing:
        with pytest.raises(BodyError, match=r"was not parsed within 0\.5 s") as caught:
            await parsing.prepare(response)
        assert caught.value.reason == "parse_timeout"
        assert parsing._places.locked()
        assert notes == ["began", "ended", "began"]  # one for its text; the parser is at it still
        goes_on.set()
        while parsing._places.locked():
            await asyncio.sleep(0.01)
    assert notes[-1] == "ended"


def stillborn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Threads die before they run anything, as they do where memory is short. What they would have run."""
    start, unrun = _thread.start_new_thread, []

    def starting(run: Any, arguments: Any) -> int:
        unrun.append(run)
        return start(lambda: None, ())

    monkeypatch.setattr(_thread, "start_new_thread", starting)
    return unrun


@pytest.mark.hostile("R-39")
async def test_a_thread_that_dies_at_its_birth_fails_its_page_and_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`threading.Thread.start` would wait for ever for a thread that never comes to say that it has started."""
    notes: list[str] = []

    def note() -> Any:
        notes.append("began")
        return lambda: notes.append("ended")

    async with Parsing(note, threads=1, seconds=0.1) as parsing:
        with monkeypatch.context() as scarce:
            unrun = stillborn(scarce)
            for _ in range(3):
                with pytest.raises(BodyError, match="the thread for it died as it was started") as caught:
                    await parsing.prepare(given(b"<p>fine</p>" * 20_000))
        assert (caught.value.reason, caught.value.retryable) == ("parse_failed", True)
        assert notes == ["began", "ended"] * 3
        parsing._seconds = 30.0
        for run in unrun:
            _thread.start_new_thread(run, ())  # they were only late, and work as well
        for _ in range(4):
            response = given(b"<p>fine</p>" * 20_000)
            await parsing.prepare(response)
            assert len(response.css("p")) == 20_000
        assert not parsing._places.locked()
    async with Parsing(note) as parsing:
        response = given(b"<p>fine</p>" * 20_000)
        await parsing.prepare(response)
        assert len(response.css("p")) == 20_000


@pytest.mark.hostile("R-39")
async def test_where_no_thread_and_no_memory_can_be_had_the_page_fails_and_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusing(*_: Any) -> int:
        raise RuntimeError("can't start new thread")

    def without_memory(self: Response) -> None:
        raise MemoryError

    async with Parsing(nobody, threads=1) as parsing:
        with monkeypatch.context() as scarce:
            scarce.setattr(_thread, "start_new_thread", refusing)
            with pytest.raises(BodyError, match=r"no thread can be started \(can't start new thread\)") as caught:
                await parsing.prepare(given(b"<p>fine</p>" * 20_000))
        assert (caught.value.reason, caught.value.retryable) == ("parse_failed", True)
        with monkeypatch.context() as scarce:
            scarce.setattr(Response, "prepare", without_memory)
            with pytest.raises(BodyError, match="there is not enough memory") as caught:
                await parsing.prepare(given(b"<p>fine</p>" * 20_000))
        assert (caught.value.reason, caught.value.retryable) == ("parse_failed", True)
        assert not parsing._places.locked()


@pytest.mark.hostile("R-22")
async def test_a_page_whose_parsing_kills_the_process_twice_is_set_aside(tmp_path: Any) -> None:
    """In a thread, while another page's step may be running."""
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        "from crawler import Spider, Response\n"
        "prepare = Response.prepare\n"
        "def deadly(self):\n"
        "    if self.url.endswith('/deadly'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    prepare(self)\n"
        "Response.prepare = deadly\n"
        "class Deadly(Spider):\n"
        "    name = 'deadly'\n"
        "    async def start(self):\n"
        "        yield self.request(self.site + '/')\n"
        "    def parse(self, response):\n"
        "        yield {'url': response.url}\n"
        "        yield response.follow_all('a')\n"
    )
    async with LocalSite() as site:
        site.page("/", "<a href=/deadly></a><a href=/fine></a>")
        site.page("/deadly", "<p>x</p>" * 5000)
        site.page("/fine", "fine")
        command = [sys.executable, "-m", "crawler", "run", "deadly.py", "-a", f"site={site.url}", "-o", "out.jsonl"]
        options = ["-s", "politeness.delay_seconds=0", "--quiet"]
        codes = []
        for _ in range(3):
            root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
            child = await asyncio.create_subprocess_exec(
                *command, *options, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}
            )
            codes.append(await asyncio.wait_for(child.wait(), 60))
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert sorted(line.rpartition("/")[2] for line in lines) == ['"}', 'fine"}']
