"""All attempts of a request that failed: what an errback, the log and `crawler explain` hear of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from crawler import Attempt, Failure, FetchError, Request, Response, Spider
from crawler.api import _crawl as assemble
from crawler.attempt import kept, summary
from crawler.errors import StatusError
from crawler.explain import explain
from crawler.redirect import next_request
from crawler.request import RequestCodec
from crawler.testing import FakeClock, LocalSite, Run, fake_response, run_spider

if TYPE_CHECKING:
    from pathlib import Path

ROBOTS_OFF = {"obey_robots": False}
NO_MORE = {"Connection": "close"}
"""Hung up on over a used connection, a request is sent once more over a new one, and that is no attempt."""


def words(attempts: Any) -> str:
    return ", ".join(map(str, attempts))


async def send(request: Request, spider: type[Spider] | None = None, **more: Any) -> tuple[Run, list[Failure]]:
    failures: list[Failure] = []

    class Sender(Spider):
        name = "sender"

        async def start(self) -> Any:
            yield request

        def parse(self, response: Response) -> Any:
            yield {"attempts": response.request.attempts}

        def failed(self, failure: Failure) -> None:
            failures.append(failure)

    return await run_spider(spider or Sender, **more), failures


# -- the value -------------------------------------------------------------------------------------------------------


def numbered(count: int) -> tuple[Attempt, ...]:
    attempts: tuple[Attempt, ...] = ()
    for number in range(count):
        attempts = kept(attempts, Attempt(float(number), "read_timeout"))
    return attempts


def test_of_many_attempts_the_first_and_the_last_ten_are_kept() -> None:
    assert [each.at for each in numbered(20)] == list(range(20))
    assert [each.at for each in numbered(21)] == [*range(10), *range(11, 21)]
    assert [each.at for each in numbered(500)] == [*range(10), *range(490, 500)]


def test_a_summary_says_where_some_are_left_out() -> None:
    assert summary(numbered(3), 3) == "read_timeout, read_timeout, read_timeout"
    assert summary(numbered(25), 25).split(", ") == [*["read_timeout"] * 10, "…", *["read_timeout"] * 10]
    assert "…" not in summary(numbered(20), 20)
    assert "…" not in summary(numbered(2), 5), "of a job that was begun before attempts were kept"


def test_an_attempt_is_a_status_or_a_reason_in_one_word() -> None:
    answer = Attempt.of(StatusError(503, "https://a.example/"), 7.0, wait_seconds=2.5)
    assert answer == Attempt(7.0, "status_503", 503, 2.5, "503 for https://a.example/")
    assert str(answer) == "503"
    broken = Attempt.of(FetchError("gone", reason="connect_reset"), 7.0)
    assert (str(broken), broken.status, broken.message) == ("connect_reset", 0, "gone")
    assert str(Attempt.of(ValueError("x"), 7.0, reason="callback_error", status=200)) == "callback_error"


def test_a_long_message_is_cut() -> None:
    assert len(Attempt.of(FetchError("x" * 10_000), 0.0).message) == 200


def test_a_request_without_attempts_is_stored_as_it_was_before_there_were_any() -> None:
    codec = RequestCodec()
    record = codec.encode(Request("https://a.example/", "parse", priority=3))
    assert b"attempts" not in record
    tried = codec.tried(codec.tried(record, Attempt(1.0, "status_503", 503)), Attempt(2.0, "read_timeout"))
    request = codec.decode(tried)
    assert words(request.attempts) == "503, read_timeout"
    assert request.replace(attempts=()) == codec.decode(record)
    assert request.fingerprint == codec.decode(record).fingerprint


def test_a_hop_to_another_place_starts_with_none() -> None:
    request = Request("https://a.example/", attempts=numbered(3))
    answer = fake_response(request.url, status=302, headers={"Location": "/there"})
    hop = next_request(request, answer, 10)
    assert hop is not None
    assert (hop.url, hop.attempts) == ("https://a.example/there", ())


# -- what an errback hears -------------------------------------------------------------------------------------------


async def test_an_errback_gets_every_attempt_oldest_first_and_the_last_one_too() -> None:
    clock = FakeClock()
    async with LocalSite() as site:
        site.page("/", "busy", status=503)
        site.drop("/", times=3)
        site.page("/", "busy", status=503, headers=NO_MORE, times=1)
        settings = {"politeness": ROBOTS_OFF, "retry": {"times": 3, "base_seconds": 10}}
        _, (failure,) = await send(Request(site.url, retry_times=4), settings=settings, clock=clock)
    assert failure.attempts == 5
    assert [each.status for each in failure.history] == [503, 0, 0, 0, 503]
    assert [each.reason for each in failure.history[::4]] == ["status_503", "status_503"]
    assert {each.reason for each in failure.history[1:4]} <= {"disconnected", "connect_reset"}
    times = [each.at for each in failure.history]
    assert times == sorted(times)
    for earlier, later in zip(failure.history, failure.history[1:], strict=False):
        assert later.at >= earlier.at + earlier.wait_seconds
    assert all(each.wait_seconds > 0 for each in failure.history[:-1])
    assert failure.history[-1].wait_seconds == 0
    assert all(each.message for each in failure.history)


async def test_a_request_that_is_tried_once_has_one_attempt() -> None:
    async with LocalSite() as site:
        site.page("/", "", status=404)
        _, (failure,) = await send(Request(site.url))
    (only,) = failure.history
    assert (str(only), only.wait_seconds, failure.attempts) == ("404", 0, 1)


async def test_a_callback_that_raises_is_the_last_attempt() -> None:
    seen: list[Failure] = []

    class Raiser(Spider):
        name = "raiser"
        site = ""

        async def start(self) -> Any:
            yield self.request(self.site)

        def parse(self, response: Response) -> Any:
            raise ValueError("no price")

        def failed(self, failure: Failure) -> None:
            seen.append(failure)

    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "", status=503, times=1)
        await run_spider(Raiser, args={"site": site.url})
    (failure,) = seen
    assert words(failure.history) == "503, callback_error"
    assert (failure.history[-1].status, failure.history[-1].message) == (200, "no price")


async def test_a_callback_sees_what_its_request_went_through() -> None:
    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "", status=503, times=2)
        run, _ = await send(Request(site.url))
    (item,) = run.items
    assert words(item["attempts"]) == "503, 503"


@pytest.mark.parametrize("again", ["the failure's request", "the response's request"])
async def test_a_request_that_is_yielded_again_starts_with_none(again: str) -> None:
    histories: list[str] = []

    class Stubborn(Spider):
        name = "stubborn"
        site = ""

        async def start(self) -> Any:
            yield self.request(f"{self.site}/{'down' if again.startswith('the failure') else 'up'}", retry_times=1)

        def parse(self, response: Response) -> Any:
            if response.url.endswith("/up"):
                assert response.request.attempts
                yield response.request.replace(url=f"{self.site}/down")

        def failed(self, failure: Failure) -> Any:
            histories.append(words(failure.history))
            if len(histories) == 1 and failure.attempts == 2:
                yield failure.request.replace(dont_filter=True)

    async with LocalSite() as site:
        site.page("/down", "", status=503)
        site.page("/up", "fine")
        site.page("/up", "", status=503, times=1)
        await run_spider(Stubborn, args={"site": site.url})
    assert histories == ["503, 503", "503, 503"]


async def test_what_a_middleware_hangs_on_a_request_does_not_keep_it_from_being_tried_again() -> None:
    async def hangs(request: Request, fetch: Any) -> Response:
        request.meta["since"] = object()
        response: Response = await fetch(request)
        return response

    seen: list[Failure] = []

    class Hanging(Spider):
        name = "hanging"
        middlewares = [hangs]
        site = ""

        async def start(self) -> Any:
            yield self.request(self.site, meta={"kept": (1, 2)})

        def failed(self, failure: Failure) -> None:
            seen.append(failure)

    async with LocalSite() as site:
        site.page("/", "", status=503)
        await run_spider(Hanging, args={"site": site.url})
    assert words(seen[0].history) == "503, 503, 503, 503"
    assert seen[0].request.meta["kept"] == (1, 2)


async def test_a_redirected_request_keeps_the_attempts_of_its_own_url() -> None:
    async with LocalSite() as site:
        site.redirect("/", "/there")
        site.page("/there", "", status=503)
        site.page("/", "", status=500, times=1)
        _, (failure,) = await send(Request(site.url), settings={"retry": {"times": 2}})
    assert words(failure.history) == "500, 503, 503"
    assert failure.history[0].message == f"500 for {site.url}/"
    assert failure.history[1].message == f"503 for {site.url}/there"


# -- across processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "history"),
    [
        ("stop", "501, 502, 503, 504, 505"),
        ("abort", "501, 503, 505, 506, 507"),  # what is in flight goes back, and was no attempt
        ("kill", "501, 503, 505, 506, 507"),
    ],
)
async def test_attempts_survive_an_end_in_the_middle_of_them(how: str, history: str, tmp_path: Path) -> None:
    """It ends twice, at the second and the fourth request."""
    seen: list[Failure] = []
    runs: list[tuple[Any, asyncio.Task[Any]]] = []

    class Sender(Spider):
        name = "sender"
        site = ""

        async def start(self) -> Any:
            yield self.request(self.site + "/", meta={"kept": (1,)})

        def failed(self, failure: Failure) -> None:
            seen.append(failure)

    async with LocalSite() as site:

        async def busy(request: web.Request) -> web.Response:
            number = len(site.journal)
            if number in (2, 4):
                crawl, running = runs[-1]
                if how == "stop":
                    crawl.engine.stop("interrupted")
                elif how == "abort":
                    crawl.engine.abort()
                    await asyncio.Event().wait()
                else:
                    await crawl.engine._epochs.commit()
                    running.cancel()  # as a crash: what is not committed is dropped
                    await asyncio.Event().wait()
            return web.Response(status=500 + number)

        site.route("/", busy)
        settings = {
            "politeness": {"delay_seconds": 0, **ROBOTS_OFF},
            "retry": {"times": 4, "base_seconds": 0.01, "http_codes": list(range(500, 510))},
        }
        for _ in range(3):
            crawl = assemble(Sender, {"site": site.url}, settings, (), job=tmp_path / "job")
            async with crawl:
                runs.append((crawl, asyncio.create_task(crawl.run())))
                await asyncio.wait([runs[-1][1]])
    assert [running.cancelled() for _, running in runs] == [how == "kill", how == "kill", False]
    assert runs[-1][1].result().reason == "finished"
    (failure,) = seen
    assert words(failure.history) == history
    assert failure.attempts == 5
    assert failure.request.meta == {"kept": (1,)}


# -- inline ----------------------------------------------------------------------------------------------------------


async def test_an_inline_fetch_that_fails_tells_its_attempts() -> None:
    seen: list[FetchError] = []

    class Inline(Spider):
        name = "inline"
        site = ""

        async def start(self) -> Any:
            try:
                await self.fetch(self.request(self.site, retry_times=2))
            except FetchError as error:
                seen.append(error)
            yield None

    async with LocalSite() as site:
        site.drop("/")
        site.page("/", "", status=503, headers=NO_MORE, times=1)
        await run_spider(Inline, args={"site": site.url})
        assert len(site.paths) == 3
    first, second, last = seen[0].attempts
    assert (str(first), first.message) == ("503", f"503 for {site.url}/")
    assert second.reason == last.reason == seen[0].reason
    assert (first.wait_seconds > 0, second.wait_seconds > 0, last.wait_seconds) == (True, True, 0)


async def test_an_inline_fetch_that_is_not_tried_again_tells_one() -> None:
    seen: list[FetchError] = []

    class Inline(Spider):
        name = "inline"
        site = ""

        async def start(self) -> Any:
            try:
                await self.fetch(self.site + "/private")
            except FetchError as error:
                seen.append(error)
            yield None

    async with LocalSite() as site:
        site.robots("User-agent: *\nDisallow: /private")
        await run_spider(Inline, args={"site": site.url})
    assert words(seen[0].attempts) == "robots"


# -- the log and `crawler explain` -----------------------------------------------------------------------------------


class Plain(Spider):
    name = "plain"
    site = ""
    settings = {"retry": {"times": 2}}

    async def start(self) -> Any:
        yield [self.request(f"{self.site}/{path}") for path in ("busy", "once", "fine", "gone")]

    def parse(self, response: Response) -> Any:
        pass


async def plain(**more: Any) -> str:
    async with LocalSite() as site:
        site.page("/busy", "", status=503)
        site.page("/busy", "", status=500, times=1)
        site.page("/once", "fine")
        site.page("/once", "", status=503, times=1)
        site.page("/fine", "fine")
        site.page("/gone", "", status=404)
        await run_spider(Plain, args={"site": site.url}, **more)
        return site.url


async def test_the_default_errback_names_the_attempts_where_there_were_several(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "crawler.spider.plain"):
        url = await plain()
    lines = sorted(record.getMessage() for record in caplog.records if record.name == "crawler.spider.plain")
    assert lines == [
        f"status_404: 404 for {url}/gone",
        f"status_503: 503 for {url}/busy (tried 3 times: 500, 503, 503)",
    ]


async def test_explain_lists_the_attempts_of_what_was_tried_more_than_once(tmp_path: Path, command: Any) -> None:
    url = await plain(job=tmp_path / "job")
    told = {path: explain(f"{url}/{path}", tmp_path / "job", time.time()) for path in ("busy", "once", "fine", "gone")}
    assert {path: each.tries for path, each in told.items()} == {
        "busy": "500, 503, 503",
        "once": "503, 200",
        "fine": "",
        "gone": "",
    }
    assert told["busy"].attempts == 3
    _, out, _ = await asyncio.to_thread(command, "explain", f"{url}/busy", "--job", "job")
    assert ["attempts", "3: 500, 503, 503"] in [line.split(maxsplit=1) for line in out.splitlines()]
    _, out, _ = await asyncio.to_thread(command, "explain", f"{url}/gone", "--job", "job")
    assert ["attempts", "1"] in [line.split(maxsplit=1) for line in out.splitlines()]
    _, out, _ = await asyncio.to_thread(command, "explain", f"{url}/busy", "--job", "job", "--json")
    assert json.loads(out)["tries"] == "500, 503, 503"
