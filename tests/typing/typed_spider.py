"""A user's program as the type checker sees it: `make types` checks this file in strict mode, nothing runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_type

from aiohttp import WSMsgType

from crawler import (
    Attempt,
    Directives,
    DropItem,
    Failure,
    FilePath,
    Request,
    Response,
    Result,
    SavedFile,
    Spider,
    crawl,
    run,
    stream,
)
from crawler.pipelines import Files
from crawler.testing import LocalSite, Run, fake_response, run_spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from crawler.contracts import Fetch
    from crawler.links import Links


@dataclass
class Book:
    title: str
    price: float
    file_urls: list[str]


class Priced:
    async def process_item(self, item: Any, spider: Spider) -> Any:
        if isinstance(item, Book) and not item.price:
            raise DropItem("no price")
        return item


async def with_token(request: Request, fetch: Fetch) -> Response:
    return await fetch(request.replace(headers={"X-Token": "secret"}))


class Books(Spider):
    name = "books"
    site: str = "https://books.example"
    pages: int = 3
    allowed_domains = ("books.example",)
    pipelines = (Priced, Files())
    middlewares = (with_token,)

    async def start(self) -> AsyncIterator[Request]:
        yield self.request(f"{self.site}/", self.parse, priority=1)

    def parse(self, response: Response) -> Iterator[Book | Request | Links]:
        title: str | None = response.css("h1::text").get()
        assert_type(response.css("h1::text").get(default=""), str)
        assert_type(response.css("a").getall(), list[str])
        yield Book(title or "", float(response.css("p::text").re_first(r"[\d.]+") or 0), response.links("img"))
        yield response.follow("next", self.parse)
        yield response.follow_all("li.next a", allow=r"/catalogue/", priority=2)

    async def download(self, response: Response) -> SavedFile:
        assert_type(response.meta, dict[str, Any])
        assert_type(response.robots, Directives)
        assert_type(response.noindex, bool)
        return await response.save("file.bin")

    def failed(self, failure: Failure) -> Request | None:
        if failure.response is not None and failure.reason == "status_403":
            return failure.request.replace(session="other", dont_filter=True)
        return None

    def log_in(self, response: Response) -> Request:
        assert_type(self.cookies("anna", response.url).dict(), dict[str, str])
        assert_type(self.cookies()["sid"], str)
        form = response.form("#login")
        return form.fill(user="anna", password="secret", callback=self.parse)

    def told(self, failure: Failure) -> str:
        assert_type(failure.history, tuple[Attempt, ...])
        assert_type(failure.request_info.headers.get("Cookie"), str | None)
        return failure.request.to_curl()

    async def listen(self) -> AsyncIterator[str]:
        async with self.websocket("wss://feed.example/", heartbeat=30) as socket:
            async for message in socket:
                assert_type(message.type, WSMsgType)
                yield str(message.data)

    async def opened(self) -> None:
        answer = await self.fetch(Request(self.site, method="PUT", data=FilePath("upload.bin")))
        assert_type(answer, Response)


async def from_python(job: Path) -> None:
    settings = {"politeness": {"delay_seconds": 1}}
    result = await crawl(Books, args={"pages": 2}, settings=settings, output="b.jsonl", job=job)
    assert_type(result, Result)
    assert_type(result.reason, str)
    async for item in stream(Books):
        print(item)


def blocking() -> Result:
    return run(Books, output=["b.jsonl", "b.csv"])


async def in_a_test() -> None:
    async with LocalSite() as site:
        site.page("/", "<h1>One</h1>")
        assert_type(await run_spider(Books, args={"site": site.url}), Run)
    assert_type(Request.from_curl("curl https://books.example/"), Request)
    list(Books().parse(fake_response("https://books.example/", "<h1>One</h1>")))
