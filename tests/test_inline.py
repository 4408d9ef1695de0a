"""`await self.fetch(...)` and `self.websocket(...)`: requests from inside the user's own code."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from crawler import Failure, FetchError, Request, Response, Spider
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ONE_PLACE = {"politeness": {"concurrency_per_host": 1}}


class Inline(Spider):
    """Starts at `site`; notes its failures."""

    name = "inline"
    site = ""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.failures: list[Failure] = []

    async def start(self) -> Any:
        yield self.request(self.site)

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)


# -- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 404, 500])
async def test_any_status_comes_back(status: int) -> None:
    class Any_(Inline):
        async def parse(self, response: Response) -> Any:
            inner = await self.fetch(f"{self.site}/inner")
            yield {"status": inner.status, "text": inner.text}

    async with LocalSite() as site:
        site.page("/", "ok")
        site.page("/inner", "" if status == 204 else "inner", status=status)
        run = await run_spider(Any_, args={"site": site.url}, settings={"retry": {"times": 1}})
    assert run.items == [{"status": status, "text": "" if status == 204 else "inner"}]
    assert len(site.requests("/inner")) == (2 if status == 500 else 1)
    assert run.stats["pages"] == 1
    assert run.stats["errors"] == 0


async def test_trouble_that_passes_is_waited_out() -> None:
    class Patient(Inline):
        async def parse(self, response: Response) -> Any:
            yield {"text": (await self.fetch(f"{self.site}/inner")).text}

    async with LocalSite() as site:
        # A connection that drops when it is used again is given another try for free; here it is a new one.
        site.page("/", "ok", headers={"Connection": "close"})
        site.page("/inner", "fine")
        site.page("/inner", "", status=503, times=1)
        site.drop("/inner", times=1)
        run = await run_spider(Patient, args={"site": site.url})
    assert run.items == [{"text": "fine"}]
    assert len(site.requests("/inner")) == 3
    assert run.stats["retries"] >= 1  # a connection kept open that the server closed is tried again for free


async def test_it_works_from_start_opened_callback_pipeline_and_closed() -> None:
    class Asking:
        async def open_spider(self, spider: Any) -> None:
            await spider.fetch(f"{spider.site}/pipeline-opened")

        async def process_item(self, item: Any, spider: Any) -> Any:
            return {"item": (await spider.fetch(f"{spider.site}/pipeline")).text}

        async def close_spider(self, spider: Any) -> None:
            await spider.fetch(f"{spider.site}/pipeline-closed")

    class Everywhere(Inline):
        pipelines = (Asking,)

        async def opened(self) -> None:
            await self.fetch(f"{self.site}/opened")

        async def start(self) -> Any:
            first = await self.fetch(f"{self.site}/start")
            yield self.request(f"{self.site}/{first.text}")

        async def parse(self, response: Response) -> Any:
            await self.fetch(f"{self.site}/callback")
            yield {"n": 1}

        async def closed(self, reason: str) -> None:
            await self.fetch(f"{self.site}/closed")

    async with LocalSite() as site:
        site.page("*", "page")
        run = await run_spider(Everywhere, args={"site": site.url}, settings=ONE_PLACE)
    assert run.items == [{"item": "page"}]
    assert site.paths == [
        "/pipeline-opened", "/opened", "/start", "/page", "/callback", "/pipeline", "/pipeline-closed", "/closed",
    ]  # fmt: skip
    assert run.stats["errors"] == 0


async def test_a_fetch_of_the_pages_own_host_does_not_wait_for_itself_with_one_place() -> None:
    class Nested(Inline):
        async def parse(self, response: Response) -> Any:
            for number in range(3):
                inner = await self.fetch(f"{self.site}/{number}")
                yield {"url": inner.url}

    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {"crawl": {"concurrency": 1}, **ONE_PLACE}
        async with asyncio.timeout(20):
            run = await run_spider(Nested, args={"site": site.url}, settings=settings)
    assert len(run.items) == 3


async def test_callbacks_of_every_worker_may_fetch_from_one_host_at_once() -> None:
    class Crowd(Inline):
        async def start(self) -> Any:
            yield [self.request(f"{self.site}/{number}") for number in range(10)]

        async def parse(self, response: Response) -> Any:
            yield {"url": (await self.fetch(f"{response.url}/inner")).url}

    async with LocalSite() as site:
        site.page("*", "ok")
        settings = {"crawl": {"concurrency": 10}, **ONE_PLACE}
        async with asyncio.timeout(20):
            run = await run_spider(Crowd, args={"site": site.url}, settings=settings)
    assert len(run.items) == 10


async def test_what_is_known_or_off_site_is_fetched_all_the_same() -> None:
    class Again(Inline):
        allowed_domains = ("127.0.0.1",)

        async def parse(self, response: Response) -> Any:
            yield {"url": (await self.fetch(response.request)).url}

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Again, args={"site": site.url})
    assert site.paths == ["/", "/"]
    assert len(run.items) == 1


async def test_cookies_are_the_crawls_own() -> None:
    class Login(Inline):
        async def start(self) -> Any:
            await self.fetch(Request(f"{self.site}/login", method="POST", data={"user": "me"}))
            yield self.request(f"{self.site}/account")

        def parse(self, response: Response) -> None:
            return None

    async with LocalSite() as site:
        site.page("/login", "hello", headers={"Set-Cookie": "session=7; Path=/"})
        site.page("/account", "ok")
        await run_spider(Login, args={"site": site.url}, settings={"http": {"unsafe_cookies": True}})
        (hit,) = site.requests("/account")
    assert hit.headers["Cookie"] == "session=7"


async def test_middlewares_see_inline_fetches_too() -> None:
    seen = []

    async def note(request: Request, fetch: Any) -> Response:
        seen.append(request.url)
        response: Response = await fetch(request)
        return response

    class Watched(Inline):
        middlewares = (note,)

        async def parse(self, response: Response) -> None:
            await self.fetch(f"{self.site}/inner")

    async with LocalSite() as site:
        site.page("*", "ok")
        await run_spider(Watched, args={"site": site.url})
    assert seen == [f"{site.url}/", f"{site.url}/inner"]


# -- bodies that cannot be stored ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["open file", "async generator", "form with a file"])
async def test_live_bodies_may_be_sent(kind: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"live "
        yield b"body"

    class Upload(Inline):
        async def start(self) -> Any:
            if kind == "open file":
                data: Any = io.BytesIO(b"live body")
            elif kind == "async generator":
                data = parts()
            else:
                data = aiohttp.FormData()
                data.add_field("file", io.BytesIO(b"live body"), filename="x.bin")
            response = await self.fetch(Request(f"{self.site}/upload", method="POST", data=data))
            yield {"status": response.status}

    async with LocalSite() as site:
        site.page("/upload", "ok")
        run = await run_spider(Upload, args={"site": site.url})
        (hit,) = site.requests()
    assert run.items == [{"status": 200}]
    assert b"live body" in hit.body


async def test_an_open_file_is_sent_whole_again_when_the_first_try_fails() -> None:
    class Upload(Inline):
        async def start(self) -> Any:
            request = Request(f"{self.site}/upload", method="PUT", data=io.BytesIO(b"live body"))
            yield {"status": (await self.fetch(request)).status}

    async with LocalSite() as site:
        site.page("/upload", "ok")
        site.page("/upload", "", status=503, times=1)
        run = await run_spider(Upload, args={"site": site.url})
    bodies = [hit.body for hit in site.requests()]
    assert run.items in ([{"status": 200}], [{"status": 503}])  # sent again whole, or not sent again at all
    assert set(bodies) == {b"live body"}


# -- failures --------------------------------------------------------------------------------------------------------


async def test_a_fetch_error_in_a_callback_goes_to_the_errback_with_its_own_reason() -> None:
    class Fragile(Inline):
        async def parse(self, response: Response) -> Any:
            yield {"n": 1}
            await self.fetch(f"{self.site}/dropped")

    async with LocalSite() as site:
        site.page("/", "ok")
        site.drop("/dropped")
        run = await run_spider(Fragile, args={"site": site.url}, settings={"retry": {"times": 0}})
    assert run.items == [{"n": 1}]
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert failure.reason in ("disconnected", "connect_reset")
    assert isinstance(failure.error, FetchError)
    assert failure.request.url == f"{site.url}/"
    assert run.stats["failures"] == {failure.reason: 1}


async def test_a_fetch_error_may_be_caught() -> None:
    class Careful(Inline):
        async def parse(self, response: Response) -> Any:
            try:
                await self.fetch(f"{self.site}/dropped")
            except FetchError as error:
                yield {"reason": error.reason, "retryable": error.retryable}

    async with LocalSite() as site:
        site.page("/", "ok")
        site.drop("/dropped")
        run = await run_spider(Careful, args={"site": site.url}, settings={"retry": {"times": 0}})
    assert run.items[0]["retryable"] is True
    assert run.stats["errors"] == 0


async def test_a_users_own_timeout_around_a_fetch_leaves_the_host_free() -> None:
    class Hurried(Inline):
        async def parse(self, response: Response) -> Any:
            try:
                async with asyncio.timeout(0.1):
                    await self.fetch(f"{self.site}/slow")
            except TimeoutError:
                yield {"n": 1}
            yield {"url": (await self.fetch(f"{self.site}/next")).url}

    async with LocalSite() as site:
        site.page("/", "ok")
        site.page("/slow", "late", delay=60)
        site.page("/next", "ok")
        async with asyncio.timeout(20):
            run = await run_spider(Hurried, args={"site": site.url}, settings=ONE_PLACE)
    assert len(run.items) == 2


async def test_outside_a_crawl_it_says_so() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        await Inline().fetch("http://example.com/")


# -- streams ---------------------------------------------------------------------------------------------------------


async def test_a_stream_is_saved_inline(tmp_path: Path) -> None:
    class Saving(Inline):
        async def parse(self, response: Response) -> Any:
            async with await self.fetch(Request(f"{self.site}/file", stream=True)) as file:
                saved = await file.save(tmp_path / "file.bin")
            yield {"bytes": saved.bytes}

    async with LocalSite() as site:
        site.page("/", "ok")
        site.page("/file", b"x" * 300_000)
        run = await run_spider(Saving, args={"site": site.url}, settings=ONE_PLACE)
    assert run.items == [{"bytes": 300_000}]
    assert (tmp_path / "file.bin").read_bytes() == b"x" * 300_000


async def test_a_stream_left_open_by_the_callback_is_closed_and_its_place_given_back() -> None:
    class Careless(Inline):
        async def start(self) -> Any:
            yield [self.request(f"{self.site}/a"), self.request(f"{self.site}/b")]

        async def parse(self, response: Response) -> Any:
            await self.fetch(Request(f"{self.site}/file", stream=True))
            yield {"url": response.url}

    async with LocalSite() as site:
        site.page("*", "x" * 100_000)
        async with asyncio.timeout(20):
            run = await run_spider(Careless, args={"site": site.url}, settings=ONE_PLACE)
    assert len(run.items) == 2


async def test_a_stream_holds_its_place_until_it_is_closed() -> None:
    class Two(Inline):
        async def parse(self, response: Response) -> Any:
            first = await self.fetch(Request(f"{self.site}/file", stream=True))
            second = asyncio.create_task(self.fetch(f"{self.site}/second"))
            await asyncio.sleep(0.05)
            yield {"done": second.done()}
            first.close()
            yield {"url": (await second).url}

    async with LocalSite() as site:
        site.page("*", "x" * 1000)
        async with asyncio.timeout(20):
            run = await run_spider(Two, args={"site": site.url}, settings=ONE_PLACE)
    assert run.items == [{"done": False}, {"url": f"{site.url}/second"}]


# -- websockets ------------------------------------------------------------------------------------------------------


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(request.headers.get("Cookie", "no cookie"))
    async for message in socket:
        await socket.send_str(f"echo {message.data}")
    return socket


async def test_a_websocket_speaks_with_the_crawls_own_session() -> None:
    class Chat(Inline):
        async def parse(self, response: Response) -> Any:
            async with self.websocket(f"{self.site}/chat") as socket:
                yield {"said": await socket.receive_str()}
                await socket.send_str("hello")
                yield {"said": await socket.receive_str()}

    async with LocalSite() as site:
        site.page("/", "ok", headers={"Set-Cookie": "visitor=7; Path=/"})
        site.route("/chat", echo)
        run = await run_spider(Chat, args={"site": site.url}, settings={"http": {"unsafe_cookies": True}})
    assert run.items == [{"said": "visitor=7"}, {"said": "echo hello"}]
    assert run.stats["errors"] == 0


async def test_a_websocket_takes_a_ws_address() -> None:
    class Chat(Inline):
        async def parse(self, response: Response) -> Any:
            async with self.websocket(self.site.replace("http", "ws") + "/chat") as socket:
                yield {"said": await socket.receive_str()}

    async with LocalSite() as site:
        site.page("/", "ok")
        site.route("/chat", echo)
        run = await run_spider(Chat, args={"site": site.url})
    assert run.items == [{"said": "no cookie"}]


async def test_a_refused_websocket_is_a_fetch_error() -> None:
    class Chat(Inline):
        async def parse(self, response: Response) -> Any:
            async with self.websocket(f"{self.site}/nothing"):
                pass

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Chat, args={"site": site.url})
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert failure.reason == "status_404"


async def test_an_error_of_the_users_own_inside_a_websocket_stays_what_it_is() -> None:
    class Chat(Inline):
        async def parse(self, response: Response) -> Any:
            async with self.websocket(f"{self.site}/chat") as socket:
                await socket.receive_str()
                raise ValueError("not what I expected")

    async with LocalSite() as site:
        site.page("/", "ok")
        site.route("/chat", echo)
        run = await run_spider(Chat, args={"site": site.url})
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert failure.reason == "callback_error"
    assert isinstance(failure.error, ValueError)
