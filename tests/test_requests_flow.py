"""What a request says is what the server gets and what its callback finds: through the frontier and back."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import io
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from crawler import Failure, FilePath, Request, Response, Spider
from crawler.errors import NotStorable
from crawler.testing import FakeClock, LocalSite, Run, run_spider

if TYPE_CHECKING:
    from collections.abc import Callable

UNSAFE_COOKIES = {"http": {"unsafe_cookies": True}}
"""Cookies of IP addresses are refused by default, and local sites are IP addresses."""


@dataclass
class Shelf:
    name: str
    sizes: tuple[int, ...] = ()
    tags: set[str] = field(default_factory=set)


async def send(
    site: LocalSite,
    make: Callable[[str], Any],
    *,
    settings: dict[str, Any] | None = None,
    job: Path | None = None,
    clock: Any = None,
) -> Run:
    """Crawl what `make(site.url)` gives: a request or several. Items are the responses and failures, in order."""

    class Sender(Spider):
        name = "sender"

        async def start(self) -> Any:
            yield make(site.url)

        def parse(self, response: Response, **kwargs: Any) -> Any:
            yield {"path": response.url.removeprefix(site.url), "meta": response.meta, "kwargs": kwargs}

        def failed(self, failure: Failure) -> Any:
            yield {"reason": failure.reason, "attempts": failure.attempts, "message": str(failure.error)}

    return await run_spider(Sender, settings=settings, job=job, clock=clock)


async def form_of(site: LocalSite, path: str, make: Callable[[str], Any]) -> dict[str, Any]:
    """The form fields that the server reads from the request; an uploaded file as (name, content)."""
    seen: dict[str, Any] = {}

    async def read(request: web.Request) -> web.Response:
        for name, value in (await request.post()).items():
            is_file = isinstance(value, web.FileField)
            seen[name] = (value.filename, value.file.read()) if is_file else value  # type: ignore[union-attr]
        return web.Response()

    site.route(path, read)
    await send(site, make)
    return seen


# -- the line and the headers ----------------------------------------------------------------------------------------


async def test_params_are_added_to_the_query_and_encoded() -> None:
    async with LocalSite() as site:
        site.page("/search", "ok")
        await send(site, lambda url: Request(f"{url}/search?a=1", params={"q": "naïve & more", "n": 2}))
    assert site.paths == ["/search?a=1&q=na%C3%AFve+%26+more&n=2"]


async def test_an_encoded_url_goes_out_as_written() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        await send(site, lambda url: Request(f"{url}/%7euser/%2F?x=a'b", encoded=True))
    assert site.paths == ["/%7euser/%2F?x=a'b"]


async def test_a_fragment_is_never_sent() -> None:
    async with LocalSite() as site:
        site.page("/page", "ok")
        await send(site, lambda url: Request(f"{url}/page#part"))
    assert site.paths == ["/page"]


async def test_the_requests_headers_come_over_those_of_the_settings_whatever_their_case() -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        settings = {"http": {"headers": {"Accept-Language": "de", "X-Shop": "1"}, "user_agent": "mybot/1.0"}}
        await send(site, lambda url: Request(f"{url}/", headers={"accept-language": "fr"}), settings=settings)
        (hit,) = site.requests()
    assert hit.headers.getall("Accept-Language") == ["fr"]
    assert hit.headers["X-Shop"] == "1"
    assert hit.headers["User-Agent"] == "mybot/1.0"


async def test_a_header_given_twice_is_sent_twice_after_waiting_on_disk(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        headers = [("X-Tag", "a"), ("X-Tag", "b")]
        await send(site, lambda url: Request(f"{url}/", headers=headers), job=tmp_path / "job")
        (hit,) = site.requests()
    assert hit.headers.getall("X-Tag") == ["a", "b"]


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
async def test_any_method_is_sent_as_named(method: str) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        run = await send(site, lambda url: Request(f"{url}/", method=method))
    assert [hit.method for hit in site.requests()] == [method]
    assert run.reason == "finished"
    assert run.stats["pages"] == 1


# -- bodies ----------------------------------------------------------------------------------------------------------


async def test_bytes_go_out_as_they_are() -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        await send(site, lambda url: Request(f"{url}/", method="POST", body=b"\x00\xffraw"))
        (hit,) = site.requests()
    assert (hit.method, hit.body) == ("POST", b"\x00\xffraw")


async def test_json_goes_out_with_its_content_type_and_keeps_its_values(tmp_path: Path) -> None:
    value = {"query": "naïve", "page": 2, "ids": [1, 2.5, None, True], "deep": {"a": []}}
    async with LocalSite() as site:
        site.page("/", "ok")
        await send(site, lambda url: Request(f"{url}/", method="POST", json=value), job=tmp_path / "job")
        (hit,) = site.requests()
    assert msgspec.json.decode(hit.body) == value
    assert hit.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "data", [{"user": "ä b", "n": "1"}, [("user", "ä b"), ("n", "1")]], ids=["a dict", "a list of pairs"]
)
async def test_a_form_is_urlencoded(data: Any) -> None:
    async with LocalSite() as site:
        assert await form_of(site, "/login", lambda url: Request(f"{url}/login", method="POST", data=data)) == {
            "user": "ä b",
            "n": "1",
        }
        (hit,) = site.requests()
    assert hit.headers["Content-Type"].startswith("application/x-www-form-urlencoded")


async def test_a_field_given_twice_is_sent_twice() -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        await send(site, lambda url: Request(f"{url}/", method="POST", data=[("tag", "a"), ("tag", "b")]))
        (hit,) = site.requests()
    assert hit.body == b"tag=a&tag=b"


@pytest.mark.parametrize("data", ["text ä", "text ä".encode()], ids=["str", "bytes"])
async def test_data_may_be_text_or_bytes(data: Any) -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        await send(site, lambda url: Request(f"{url}/", method="POST", data=data))
        (hit,) = site.requests()
    assert hit.body == "text ä".encode()


async def test_a_file_path_is_uploaded_as_a_stream(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(b"0123456789" * 100_000)
    async with LocalSite() as site:
        site.page("/upload", "ok")
        await send(site, lambda url: Request(f"{url}/upload", method="PUT", data=FilePath(tmp_path / "big.bin")))
        (hit,) = site.requests()
    assert hit.body == b"0123456789" * 100_000


async def test_a_file_path_may_be_one_field_of_a_form(tmp_path: Path) -> None:
    (tmp_path / "cover.txt").write_bytes(b"the file")
    data = {"title": "A book", "cover": FilePath(tmp_path / "cover.txt")}
    async with LocalSite() as site:
        fields = await form_of(site, "/upload", lambda url: Request(f"{url}/upload", method="POST", data=data))
    assert fields == {"title": "A book", "cover": ("cover.txt", b"the file")}


async def test_a_file_that_is_not_there_is_named_and_neither_sent_nor_tried_again(tmp_path: Path) -> None:
    async with LocalSite() as site:
        run = await send(site, lambda url: Request(f"{url}/", method="PUT", data=FilePath(tmp_path / "gone.bin")))
        assert site.paths == []
    assert run.stats["retries"] == 0
    (failure,) = run.items
    assert "gone.bin" in failure["message"]


async def test_a_compressed_body_is_announced() -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        await send(site, lambda url: Request(f"{url}/", method="POST", body=b"x" * 1000, compress="gzip"))
        (hit,) = site.requests()
    assert hit.headers["Content-Encoding"] == "gzip"
    assert hit.body == b"x" * 1000  # aiohttp's server has taken the coding off


# -- what cannot wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", ["open file", "generator", "object in meta", "form with a file"])
async def test_a_live_object_is_refused_when_yielded_with_the_way_out(
    live: str, caplog: pytest.LogCaptureFixture
) -> None:
    def make(url: str) -> Request:
        if live == "open file":
            return Request(url, method="POST", data=io.BytesIO(b"x"))
        if live == "generator":
            return Request(url, method="POST", data=(part for part in [b"x"]))
        if live == "object in meta":
            return Request(url, meta={"lock": asyncio.Lock()})
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(b"x"), filename="x.bin")
        return Request(url, method="POST", data=form)

    async with LocalSite() as site:
        run = await send(site, make)
        assert site.journal == []
    assert run.reason == "failed"
    assert "await self.fetch" in caplog.text


async def test_a_callback_that_yields_a_live_object_gets_the_error_in_its_errback() -> None:
    errors: list[Exception] = []

    class Uploader(Spider):
        name = "uploader"
        site = ""

        async def start(self) -> Any:
            yield self.request(self.site)

        def parse(self, response: Response) -> Any:
            yield {"n": 1}
            yield Request(response.url, method="POST", data=io.BytesIO(b"x"))

        def failed(self, failure: Failure) -> None:
            errors.append(failure.error)

    async with LocalSite() as site:
        site.page("/", "ok")
        run = await run_spider(Uploader, args={"site": site.url})
    assert run.items == [{"n": 1}]
    (error,) = errors
    assert isinstance(error, NotStorable)
    assert "BytesIO" in str(error)
    assert "await self.fetch" in str(error)


# -- meta and cb_kwargs ----------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "text": "naïve",
    "number": 2**70,
    "float": 0.1,
    "none": None,
    "bytes": b"\x00\xff",
    "list": [1, [2, {"deep": ()}]],
    "tuple": (1, ("a", b"b")),
    "set": {1, 2},
    "frozenset": frozenset({"x"}),
    "aware": dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC),
    "naive": dt.datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001
    "date": dt.date(2026, 1, 2),
    "decimal": decimal.Decimal("19.90"),
    "uuid": uuid.UUID(int=7),
    "path": Path("a/b"),
    "item": Shelf("top", (1, 2), {"new"}),
    "keys": {1: "one", "two": 2},
}


@pytest.mark.parametrize("where", ["memory", "disk"])
async def test_meta_and_cb_kwargs_arrive_with_their_types(where: str, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Keeper(Spider):
        name = "keeper"
        site = ""

        async def start(self) -> Any:
            yield self.request(self.site, meta=VALUES, cb_kwargs=VALUES)

        def parse(self, response: Response, **kwargs: Any) -> None:
            seen.extend([response.meta, kwargs, response.cb_kwargs])

    async with LocalSite() as site:
        site.page("/", "ok")
        await run_spider(Keeper, args={"site": site.url}, job=tmp_path / "job" if where == "disk" else None)
    assert seen == [VALUES] * 3
    for name, value in VALUES.items():
        assert type(seen[0][name]) is type(value), name
    assert type(seen[0]["item"].sizes) is tuple


async def test_changing_meta_in_a_callback_changes_nobody_elses() -> None:
    class Marker(Spider):
        name = "marker"
        site = ""

        async def start(self) -> Any:
            shared = {"trail": []}
            for path in ("/a", "/b"):
                yield self.request(self.site + path, meta=shared)

        def parse(self, response: Response) -> Any:
            response.meta["trail"].append(response.url)
            yield {"length": len(response.meta["trail"])}

    async with LocalSite() as site:
        site.page("*", "ok")
        run = await run_spider(Marker, args={"site": site.url})
    assert run.items == [{"length": 1}] * 2


async def test_meta_does_not_travel_on_by_itself() -> None:
    async with LocalSite() as site:
        site.page("/", "<a href='/next'>next</a>")
        site.page("/next", "ok")

        class Walker(Spider):
            name = "walker"

            async def start(self) -> Any:
                yield self.request(site.url, meta={"from": "start"})

            def parse(self, response: Response) -> Any:
                yield {"meta": response.meta}
                yield response.follow_all("a")

        run = await run_spider(Walker)
    assert run.items == [{"meta": {"from": "start"}}, {"meta": {}}]


# -- order and duplicates --------------------------------------------------------------------------------------------

ONE_AT_A_TIME = {"crawl": {"concurrency": 1}, "politeness": {"concurrency_per_host": 1}}


async def test_higher_priority_goes_first() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        await send(
            site,
            lambda url: [Request(f"{url}/{priority}", priority=priority) for priority in (0, -5, 10, 3)],
            settings=ONE_AT_A_TIME,
        )
    assert site.paths == ["/10", "/3", "/0", "/-5"]


@pytest.mark.parametrize(
    ("order", "paths"),
    [("breadth", ["/", "/a", "/b", "/a/1", "/b/1"]), ("depth", ["/", "/a", "/a/1", "/b", "/b/1"])],
)
async def test_within_equal_priority_the_order_is_as_set(order: str, paths: list[str]) -> None:
    class Walker(Spider):
        name = "walker"
        site = ""

        async def start(self) -> Any:
            yield self.request(self.site)

        def parse(self, response: Response) -> Any:
            yield response.follow_all("a")

    async with LocalSite() as site:
        site.page("/", "<a href='/a'></a><a href='/b'></a>")
        site.page("/a", "<a href='/a/1'></a>")
        site.page("/b", "<a href='/b/1'></a>")
        site.page("*", "ok")
        settings = {**ONE_AT_A_TIME, "crawl": {"concurrency": 1, "order": order}}
        await run_spider(Walker, args={"site": site.url}, settings=settings)
    assert site.paths == paths


async def test_the_same_request_is_fetched_once_and_counted_as_a_duplicate() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        run = await send(
            site, lambda url: [Request(f"{url}/a?x=1&y=2"), Request(f"{url}/a?y=2&x=1#top"), Request(f"{url}/a?x=1")]
        )
    assert sorted(site.paths) == ["/a?x=1", "/a?x=1&y=2"]
    assert run.stats["duplicates"] == 1


async def test_dont_filter_fetches_again() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        run = await send(site, lambda url: [Request(f"{url}/a", dont_filter=True) for _ in range(3)])
    assert site.paths == ["/a"] * 3
    assert run.stats["duplicates"] == 0


async def test_another_method_body_or_session_makes_another_request() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        await send(
            site,
            lambda url: [
                Request(f"{url}/a"),
                Request(f"{url}/a", method="HEAD"),
                Request(f"{url}/a", method="POST", data={"page": "1"}),
                Request(f"{url}/a", method="POST", data={"page": "2"}),
                Request(f"{url}/a", method="POST", data={"page": "2"}),
                Request(f"{url}/a", session="other"),
            ],
        )
    assert len(site.paths) == 5


async def test_a_key_replaces_the_url_in_the_comparison() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        run = await send(
            site, lambda url: [Request(f"{url}/a?token=1", key="page-a"), Request(f"{url}/a?token=2", key="page-a")]
        )
    assert site.paths == ["/a?token=1"]
    assert run.stats["duplicates"] == 1


# -- cookies ---------------------------------------------------------------------------------------------------------


async def test_cookies_of_a_request_are_sent_with_it_alone() -> None:
    async with LocalSite() as site:
        site.page("*", "ok")
        await send(
            site, lambda url: [Request(f"{url}/a", cookies={"tab": "1"}), Request(f"{url}/b")], settings=ONE_AT_A_TIME
        )
        first, second = site.requests()
    assert first.headers["Cookie"] == "tab=1"
    assert "Cookie" not in second.headers


class TwoSteps(Spider):
    """Sends `/set` and then `/show`, in the sessions that the class names."""

    name = "two-steps"
    site = ""
    first: str | None = None
    second: str | None = None

    async def start(self) -> Any:
        yield self.request(f"{self.site}/set", session=self.first)

    def parse(self, response: Response) -> Any:
        if response.url.endswith("/set"):
            yield response.follow("/show", session=self.second, cookies={"own": "x"})


@pytest.mark.parametrize(
    ("first", "second", "sent"),
    [(None, None, "visitor=7; own=x"), ("a", "a", "visitor=7; own=x"), ("a", "b", "own=x"), (None, "b", "own=x")],
)
async def test_requests_of_one_session_share_cookies_and_others_do_not(
    first: str | None, second: str | None, sent: str
) -> None:
    async with LocalSite() as site:
        site.page("/set", "ok", headers={"Set-Cookie": "visitor=7; Path=/"})
        site.page("/show", "ok")
        args = {"site": site.url, "first": first, "second": second}
        await run_spider(TwoSteps, args=args, settings=UNSAFE_COOKIES)
        (show,) = site.requests("/show")
    assert show.headers["Cookie"] == sent


async def test_cookies_of_ip_addresses_are_refused_unless_the_settings_take_them() -> None:
    async with LocalSite() as site:
        site.page("/set", "ok", headers={"Set-Cookie": "visitor=7; Path=/"})
        site.page("/show", "ok")
        await run_spider(TwoSteps, args={"site": site.url})
        (show,) = site.requests("/show")
    assert show.headers["Cookie"] == "own=x"


async def test_no_cookies_are_kept_where_the_settings_say_so() -> None:
    async with LocalSite() as site:
        site.page("/set", "ok", headers={"Set-Cookie": "visitor=7; Path=/"})
        site.page("/show", "ok")
        settings = {"http": {"cookies": False, "unsafe_cookies": True}}
        await run_spider(TwoSteps, args={"site": site.url}, settings=settings)
        (show,) = site.requests("/show")
    assert show.headers["Cookie"] == "own=x"


# -- time, status, retries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["seconds", "datetime"])
async def test_not_before_delays_one_request_and_no_other(given: str) -> None:
    clock = FakeClock()
    starts: dict[str, float] = {}
    began = clock.now()

    async def note(request: web.Request) -> web.Response:
        starts[request.path] = clock.now() - began
        return web.Response(text="ok")

    def make(url: str) -> list[Request]:
        when = 3600.0 if given == "seconds" else dt.datetime.fromtimestamp(began + 3600, dt.UTC)
        return [Request(f"{url}/later", not_before=when), Request(f"{url}/now")]

    async with LocalSite() as site:
        site.route("*", note)
        run = await send(site, make, clock=clock)
    assert run.stats["pages"] == 2
    assert starts["/now"] < 60
    assert 3600 <= starts["/later"] < 3700


def test_a_not_before_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Request("http://example.com/", not_before=dt.datetime(2030, 1, 1))  # noqa: DTZ001


async def test_a_timeout_ends_the_request_with_its_reason() -> None:
    async with LocalSite() as site:
        site.page("/slow", "ok", delay=5)
        run = await send(site, lambda url: Request(f"{url}/slow", timeout=0.1, retry_times=0))
    assert [item["reason"] for item in run.items] == ["total_timeout"]


async def test_an_aiohttp_timeout_keeps_its_parts_through_the_frontier() -> None:
    async with LocalSite() as site:
        site.page("/slow", "ok", delay=5)
        timeout = aiohttp.ClientTimeout(total=20, sock_read=0.1)
        run = await send(site, lambda url: Request(f"{url}/slow", timeout=timeout, retry_times=0))
    assert [item["reason"] for item in run.items] == ["read_timeout"]


@pytest.mark.parametrize("ok_status", [404, [404], "400-499", ["200-299", "404"]])
async def test_ok_status_says_what_reaches_the_callback(ok_status: Any) -> None:
    async with LocalSite() as site:
        run = await send(site, lambda url: Request(f"{url}/gone", ok_status=ok_status))
    assert run.stats["pages"] == 1
    assert run.stats["errors"] == 0


async def test_a_status_outside_ok_status_goes_to_the_errback_even_if_it_is_200() -> None:
    async with LocalSite() as site:
        site.page("/", "ok")
        run = await send(site, lambda url: Request(f"{url}/", ok_status=[404]))
    assert [item["reason"] for item in run.items] == ["status_200"]


async def test_retry_times_of_a_request_win_over_the_settings() -> None:
    async with LocalSite() as site:
        site.page("*", "busy", status=503)
        run = await send(
            site,
            lambda url: [Request(f"{url}/none", retry_times=0), Request(f"{url}/one", retry_times=1)],
            settings={"politeness": {"adaptive": False}},
        )
    assert sorted(site.paths) == ["/none", "/one", "/one"]
    assert sorted(item["attempts"] for item in run.items) == [1, 2]


async def test_a_body_limit_of_the_request_wins_over_the_settings() -> None:
    async with LocalSite() as site:
        site.page("/", "x" * 5000)
        run = await send(site, lambda url: Request(f"{url}/", max_body_bytes=1000))
    assert [item["reason"] for item in run.items] == ["body_too_large"]


async def test_depth_counts_links_from_the_start() -> None:
    class Walker(Spider):
        name = "walker"
        site = ""

        async def start(self) -> Any:
            yield self.request(f"{self.site}/0")

        def parse(self, response: Response) -> Any:
            depth = int(response.url.rpartition("/")[2])
            yield {"page": depth, "depth": response.request.depth}
            if depth < 3:
                yield response.follow(str(depth + 1))

    async with LocalSite() as site:
        site.page("*", "ok")
        run = await run_spider(Walker, args={"site": site.url})
    assert run.items == [{"page": depth, "depth": depth} for depth in range(4)]
    assert run.stats["depth_max"] == 3
