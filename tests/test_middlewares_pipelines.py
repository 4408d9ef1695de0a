"""The user's functions around a fetch and objects behind a callback, in a whole crawl."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from crawler import DropItem, Failure, Request, Response, Spider
from crawler.errors import UsageError
from crawler.pipelines import Files
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.contracts import Fetch


class Page(Spider):
    """Fetches `/`, gives its text; notes its failures."""

    name = "page"
    site = ""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.failures: list[Failure] = []

    async def start(self) -> Any:
        yield self.request(self.site)

    def parse(self, response: Response) -> Any:
        yield {"text": response.text}

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)


# -- middlewares -----------------------------------------------------------------------------------------------------


async def test_the_first_middleware_is_outermost() -> None:
    seen: list[str] = []

    def noting(name: str) -> Any:
        async def note(request: Request, fetch: Fetch) -> Response:
            seen.append(f"{name} in")
            response = await fetch(request)
            seen.append(f"{name} out")
            return response

        return note

    class Wrapped(Page):
        middlewares = (noting("first"), noting("second"))

    async with LocalSite() as site:
        site.page("/", "ok")
        await run_spider(Wrapped, args={"site": site.url})
    assert seen == ["first in", "second in", "second out", "first out"]


async def test_a_middleware_may_change_the_request() -> None:
    async def sign(request: Request, fetch: Fetch) -> Response:
        return await fetch(request.replace(headers={**request.headers, "X-Signature": "7"}))

    class Signed(Page):
        middlewares = (sign,)

    async with LocalSite() as site:
        site.page("/", "ok")
        await run_spider(Signed, args={"site": site.url})
        (hit,) = site.requests()
    assert hit.headers["X-Signature"] == "7"


async def test_a_middleware_may_try_again() -> None:
    async def insist(request: Request, fetch: Fetch) -> Response:
        response = await fetch(request)
        while "please wait" in response.text:
            response = await fetch(request)
        return response

    class Insisting(Page):
        middlewares = (insist,)

    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "please wait", times=2)
        run = await run_spider(Insisting, args={"site": site.url})
    assert run.items == [{"text": "fine"}]
    assert len(site.paths) == 3
    assert run.stats["requests"] == 3
    assert run.stats["pages"] == 1


async def test_a_middleware_may_answer_without_fetching() -> None:
    async def cached(request: Request, fetch: Fetch) -> Response:
        return Response(request.url, request=request, body=b"from the cache")

    class Cached(Page):
        middlewares = (cached,)

    async with LocalSite() as site:
        run = await run_spider(Cached, args={"site": site.url})
    assert site.paths == []
    assert run.items == [{"text": "from the cache"}]
    assert run.stats["requests"] == 0


async def test_a_cached_answer_goes_to_the_callback_of_the_request_that_asked_now() -> None:
    cache: dict[str, Response] = {}

    async def cached(request: Request, fetch: Fetch) -> Response:
        if request.url not in cache:
            cache[request.url] = await fetch(request)
        return cache[request.url]

    class Twice(Page):
        middlewares = (cached,)

        def parse(self, response: Response) -> Any:
            yield {"callback": "parse", "meta": response.meta}
            yield self.request(response.url, self.parse_again, dont_filter=True, meta={"n": 2}, cb_kwargs={"k": 3})

        def parse_again(self, response: Response, k: int = 0) -> Any:
            yield {"callback": "parse_again", "meta": response.meta, "k": k}

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Twice, args={"site": site.url}, settings={"crawl": {"page_limit": 4}})
    assert site.paths == ["/"]
    assert run.items == [
        {"callback": "parse", "meta": {}},
        {"callback": "parse_again", "meta": {"n": 2}, "k": 3},
    ]


async def test_a_response_made_without_a_request_goes_to_the_right_callback_too() -> None:
    async def made(request: Request, fetch: Fetch) -> Response:
        headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "text/plain"}))
        return Response(request.url, headers=headers, body=b"made")

    class Made(Page):
        middlewares = (made,)

        async def start(self) -> Any:
            yield self.request(self.site, self.parse_other, cb_kwargs={"n": 1})

        def parse_other(self, response: Response, n: int) -> Any:
            yield {"text": response.text, "n": n}

    async with LocalSite() as site:
        run = await run_spider(Made, args={"site": site.url})
    assert run.items == [{"text": "made", "n": 1}]


async def test_a_middleware_that_raises_is_a_failure_of_that_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def picky(request: Request, fetch: Fetch) -> Response:
        if request.url.endswith("/bad"):
            raise ValueError("not this one")
        return await fetch(request)

    class Picky(Page):
        middlewares = (picky,)

        async def start(self) -> Any:
            yield [self.request(f"{self.site}/{path}") for path in ("bad", "good")]

    async with LocalSite() as site:
        site.page("*", "ok")
        run = await run_spider(Picky, args={"site": site.url})
    assert run.items == [{"text": "ok"}]
    assert run.stats["failures"] == {"middleware_error": 1}
    (failure,) = run.spider.failures  # type: ignore[attr-defined]
    assert isinstance(failure.error, ValueError)
    assert "not this one" in caplog.text


async def test_a_middleware_sees_fetch_errors_and_may_answer_for_them() -> None:
    from crawler import FetchError

    async def fallback(request: Request, fetch: Fetch) -> Response:
        try:
            return await fetch(request)
        except FetchError as error:
            return Response(request.url, request=request, body=error.reason.encode())

    class Safe(Page):
        middlewares = (fallback,)

    async with LocalSite() as site:
        site.drop("/")
        run = await run_spider(Safe, args={"site": site.url})
    assert run.items[0]["text"] in ("disconnected", "connect_reset")
    assert run.stats["errors"] == 0


async def test_a_middleware_that_returns_nothing_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def forgetful(request: Request, fetch: Fetch) -> Response:
        await fetch(request)
        return None  # type: ignore[return-value]

    class Forgetful(Page):
        middlewares = (forgetful,)

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Forgetful, args={"site": site.url})
    assert run.reason == "finished"
    assert run.stats["failures"] == {"middleware_error": 1}


# -- pipelines -------------------------------------------------------------------------------------------------------


async def test_pipelines_run_in_the_order_listed_and_may_change_the_item() -> None:
    class Append:
        def __init__(self, letter: str) -> None:
            self.letter = letter

        async def process_item(self, item: Any, spider: Spider) -> Any:
            return {"text": item["text"] + self.letter}

    class Piped(Page):
        pipelines = (Append("a"), Append("b"))

    async with LocalSite() as site:
        site.page("/", "-")
        run = await run_spider(Piped, args={"site": site.url})
    assert run.items == [{"text": "-ab"}]


class Numbers(Page):
    """Gives five numbered items."""

    def parse(self, response: Response) -> Any:
        yield from ({"n": number} for number in range(5))


async def test_a_dropped_item_goes_no_further_and_is_counted(tmp_path: Path) -> None:
    later: list[Any] = []

    class OddOnly:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            if item["n"] % 2 == 0:
                raise DropItem("even")
            return item

    class Note:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            later.append(item)
            return item

    class Piped(Numbers):
        pipelines = (OddOnly(), Note())

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Piped, args={"site": site.url}, output=tmp_path / "items.jsonl")
    assert run.items == later == [{"n": 1}, {"n": 3}]
    assert (tmp_path / "items.jsonl").read_text() == '{"n":1}\n{"n":3}\n'
    assert (run.stats["items"], run.stats["items_dropped"], run.stats["errors"]) == (2, 3, 0)


@pytest.mark.hostile("R-31")
@pytest.mark.parametrize("fault", ["raises", "returns None"])
async def test_a_pipeline_that_fails_loses_that_item_alone(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            if item["n"] == 2:
                if fault == "raises":
                    raise KeyError("price")
                return None
            return item

    class Piped(Numbers):
        pipelines = (Faulty(),)

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Piped, args={"site": site.url})
    assert [item["n"] for item in run.items] == [0, 1, 3, 4]
    assert run.stats["failures"] == {"pipeline_error": 1}
    assert (run.stats["items"], run.stats["items_dropped"]) == (4, 1)
    assert "Faulty.process_item" in caplog.text


async def test_an_item_that_the_format_cannot_hold_is_counted_and_the_others_are_written(tmp_path: Path) -> None:
    class Odd(Page):
        def parse(self, response: Response) -> Any:
            yield {"n": 1}
            yield {"n": object()}
            yield {"n": 3}

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Odd, args={"site": site.url}, output=tmp_path / "items.jsonl")
    assert (tmp_path / "items.jsonl").read_text() == '{"n":1}\n{"n":3}\n'
    assert run.stats["failures"] == {"item_error": 1}


async def test_pipelines_open_in_order_before_the_spider_and_close_in_reverse_after_the_last_item() -> None:
    seen: list[str] = []

    class Pipe:
        def __init__(self, name: str) -> None:
            self.name = name

        async def open_spider(self, spider: Spider) -> None:
            seen.append(f"open {self.name}")

        async def process_item(self, item: Any, spider: Spider) -> Any:
            seen.append(f"item {self.name}")
            return item

        async def close_spider(self, spider: Spider) -> None:
            seen.append(f"close {self.name}")

    class Piped(Page):
        pipelines = (Pipe("a"), Pipe("b"))

        async def opened(self) -> None:
            seen.append("opened")

        async def closed(self, reason: str) -> None:
            seen.append("closed")

    async with LocalSite() as site:
        site.page("/", "ok")
        await run_spider(Piped, args={"site": site.url})
    assert seen == ["open a", "open b", "opened", "item a", "item b", "close b", "close a", "closed"]


async def test_a_pipeline_may_be_given_as_a_class_and_is_made_anew_for_each_crawl() -> None:
    class Count:
        def __init__(self) -> None:
            self.count = 0

        async def process_item(self, item: Any, spider: Spider) -> Any:
            self.count += 1
            return {"n": self.count}

    class Piped(Page):
        pipelines = (Count,)

    async with LocalSite() as site:
        site.page("/", "ok")
        runs = [await run_spider(Piped, args={"site": site.url}) for _ in range(2)]
    assert [run.items for run in runs] == [[{"n": 1}], [{"n": 1}]]


@pytest.mark.hostile("R-31")
async def test_a_pipeline_that_cannot_open_stops_the_crawl_before_the_first_request() -> None:
    closed: list[str] = []

    class First:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            return item

        async def close_spider(self, spider: Spider) -> None:
            closed.append("first")

    class NoDatabase(First):
        async def open_spider(self, spider: Spider) -> None:
            raise ConnectionError("no database")

        async def close_spider(self, spider: Spider) -> None:
            closed.append("never opened")

    class Piped(Page):
        pipelines = (First(), NoDatabase())

    async with LocalSite() as site:
        with pytest.raises(ConnectionError, match="no database"):
            await run_spider(Piped, args={"site": site.url})
        assert site.journal == []
    assert closed == ["first"]


@pytest.mark.hostile("R-31")
async def test_a_pipeline_that_cannot_close_is_counted_and_the_others_close() -> None:
    closed: list[str] = []

    class Bad:
        async def process_item(self, item: Any, spider: Spider) -> Any:
            return item

        async def close_spider(self, spider: Spider) -> None:
            raise ValueError

    class Good(Bad):
        async def close_spider(self, spider: Spider) -> None:
            closed.append("good")

    class Piped(Page):
        pipelines = (Good(), Bad())

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Piped, args={"site": site.url})
    assert closed == ["good"]
    assert run.reason == "finished"
    assert run.stats["failures"] == {"close_error": 1}


async def test_something_that_is_no_pipeline_is_refused_before_anything_is_sent() -> None:
    class Piped(Page):
        pipelines = (object(),)

    async with LocalSite() as site:
        with pytest.raises(UsageError, match="process_item"):
            await run_spider(Piped, args={"site": site.url})
        assert site.journal == []


# -- Files -----------------------------------------------------------------------------------------------------------


@dataclass
class Book:
    title: str
    file_urls: list[str]
    files: list[dict[str, Any]] = field(default_factory=list)


class Shop(Page):
    """One item whose files are `paths`."""

    paths: tuple[str, ...] = ()
    pipelines = (Files,)

    def parse(self, response: Response) -> Any:
        yield Book("x", [response.urljoin(path) if "://" not in path else path for path in self.paths])


async def test_files_are_stored_by_content_and_the_item_says_where(tmp_path: Path) -> None:
    content = b"%PDF-1.7 " + b"x" * 100_000
    digest = hashlib.sha256(content).hexdigest()
    async with LocalSite() as site:
        site.page("/", "ok")
        site.page("/a.pdf", content, content_type="application/pdf")
        args = {"site": site.url, "paths": ("/a.pdf",)}
        run = await run_spider(Shop, args=args, job=tmp_path / "job", output=tmp_path / "job" / "items.jsonl")
    (book,) = run.items
    assert book.files == [
        {
            "url": f"{site.url}/a.pdf",
            "path": f"files/{digest[:2]}/{digest}.pdf",
            "bytes": len(content),
            "sha256": digest,
            "status": 200,
        }
    ]
    assert (tmp_path / "job" / book.files[0]["path"]).read_bytes() == content
    written = msgspec.json.decode((tmp_path / "job" / "items.jsonl").read_bytes())
    assert written["files"][0]["sha256"] == digest


async def test_the_same_content_from_several_addresses_is_stored_once(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("*", b"same content", content_type="image/png")
        args = {"site": site.url, "paths": ("/a.png", "/b.png", "/a.png")}
        run = await run_spider(Shop, args=args, job=tmp_path / "job")
    (book,) = run.items
    assert len({file["path"] for file in book.files}) == 1
    assert len(book.files) == 2
    assert len(site.requests("/a.png")) == 1
    stored = [path for path in (tmp_path / "job" / "files").rglob("*") if path.is_file()]
    assert len(stored) == 1


async def test_one_address_in_many_items_is_fetched_once(tmp_path: Path) -> None:
    class Series(Shop):
        async def start(self) -> Any:
            yield [self.request(f"{self.site}/{number}") for number in range(5)]

    async with LocalSite() as site:
        site.page("*", "ok")
        args = {"site": site.url, "paths": ("/logo.png",)}
        run = await run_spider(Series, args=args, job=tmp_path / "job")
    assert len(run.items) == 5
    assert len(site.requests("/logo.png")) == 1


async def test_a_file_that_cannot_be_had_is_said_in_the_item_and_leaves_nothing(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        site.page("/ok.txt", "fine", content_type="text/plain")
        site.drop("/dropped.txt")
        args = {"site": site.url, "paths": ("/ok.txt", "/missing.txt", "/dropped.txt", "http://[bad/")}
        settings = {"retry": {"times": 0}}
        run = await run_spider(Shop, args=args, job=tmp_path / "job", settings=settings)
    (book,) = run.items
    assert [file["path"] is None for file in book.files] == [False, True, True, True]
    errors = [file.get("error") for file in book.files]
    assert errors[:2] == [None, "status_404"]
    assert errors[2] in ("disconnected", "connect_reset")
    assert errors[3] == "invalid_url"
    stored = [path for path in (tmp_path / "job" / "files").rglob("*") if path.is_file()]
    assert len(stored) == 1


async def test_a_file_too_large_is_given_up_and_leaves_nothing(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        site.page("/big.bin", b"x" * 300_000)
        args = {"site": site.url, "paths": ("/big.bin",)}
        settings = {"http": {"max_file_bytes": 100_000}}
        run = await run_spider(Shop, args=args, job=tmp_path / "job", settings=settings)
    assert run.items[0].files[0]["error"] == "body_too_large"
    assert [path for path in (tmp_path / "job" / "files").rglob("*") if path.is_file()] == []


async def test_an_item_without_a_required_file_is_dropped(tmp_path: Path) -> None:
    class Strict(Shop):
        pipelines = (Files(tmp_path / "files", required=True),)

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Strict, args={"site": site.url, "paths": ("/missing.txt",)})
    assert run.items == []
    assert run.stats["items_dropped"] == 1


@pytest.mark.parametrize("path", ["/../../../etc/passwd", "/%2e%2e/%2e%2e/x.txt", "/a/..%2f..%2fevil.sh", "/.bashrc"])
async def test_no_name_from_the_web_reaches_the_disk(path: str, tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("*", "x", content_type="text/plain")
        await run_spider(Shop, args={"site": site.url, "paths": (path,)}, job=tmp_path / "job")
    (stored,) = [found for found in (tmp_path / "job" / "files").rglob("*") if found.is_file()]
    assert stored.stem == hashlib.sha256(b"x").hexdigest()
    assert [found.name for found in tmp_path.iterdir()] == ["job"]


async def test_without_a_place_for_files_the_crawl_does_not_begin() -> None:
    async with LocalSite() as site:
        with pytest.raises(UsageError, match="Files"):
            await run_spider(Shop, args={"site": site.url})
        assert site.journal == []


@pytest.mark.parametrize(
    ("attribute", "given", "words"),
    [
        ("pipelines", {object: 300}, "pipelines of spider 'wrong' is a list, in order, not a dict"),
        ("pipelines", object, "is a list"),
        ("middlewares", len, "middlewares of spider 'wrong' is a list"),
        ("middlewares", ["package.middleware"], "'package.middleware' needs to be an `async def"),
        ("middlewares", [object], "needs to be an `async def"),
    ],
)
async def test_what_comes_in_an_order_is_a_list(attribute: str, given: Any, words: str) -> None:
    class Wrong(Spider):
        name = "wrong"

    setattr(Wrong, attribute, given)
    with pytest.raises(UsageError, match=words):
        await run_spider(Wrong)
