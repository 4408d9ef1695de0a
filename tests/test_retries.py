"""What is worth another try, when it comes, and what happens when none helped."""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from crawler import Failure, Request, Response, Spider
from crawler.retry import RetryPolicy, parse_retry_after
from crawler.testing import FakeClock, LocalSite, Run, run_spider

if TYPE_CHECKING:
    from collections.abc import Callable


async def send(
    make: Callable[[], Any], *, settings: dict[str, Any] | None = None, clock: FakeClock | None = None
) -> tuple[Run, list[Failure]]:
    """Crawl what `make()` gives; items are the paths that reached the callback."""
    failures: list[Failure] = []

    class Sender(Spider):
        name = "sender"

        async def start(self) -> Any:
            yield make()

        def parse(self, response: Response) -> Any:
            yield {"status": response.status, "text": response.text}

        def failed(self, failure: Failure) -> None:
            failures.append(failure)

    return await run_spider(Sender, settings=settings, clock=clock), failures


# -- statuses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524])
async def test_a_passing_trouble_is_tried_again_and_then_reaches_the_callback(status: int) -> None:
    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "trouble", status=status, times=2)
        run, failures = await send(lambda: Request(site.url))
    assert run.items == [{"status": 200, "text": "fine"}]
    assert failures == []
    assert len(site.paths) == 3
    assert run.stats["retries"] == 2
    assert run.stats["status"] == {"200": 1, str(status): 2}
    assert run.stats["errors"] == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
async def test_a_final_answer_is_not_asked_for_again(status: int) -> None:
    async with LocalSite() as site:
        site.page("/", "the reason why", status=status)
        run, (failure,) = await send(lambda: Request(site.url))
    assert len(site.paths) == 1
    assert failure.reason == f"status_{status}"
    assert failure.response is not None
    assert (failure.response.status, failure.response.text) == (status, "the reason why")
    assert failure.attempts == 1
    assert run.stats["failures"] == {f"status_{status}": 1}
    assert run.stats["pages"] == 0


async def test_after_the_last_try_the_errback_gets_the_answer_and_how_often_it_was_sent() -> None:
    async with LocalSite() as site:
        site.page("/", "busy", status=503)
        run, (failure,) = await send(lambda: Request(site.url), settings={"retry": {"times": 2}})
    assert len(site.paths) == 3
    assert failure.reason == "status_503"
    assert failure.attempts == 3
    assert failure.response is not None
    assert failure.response.text == "busy"
    assert (run.stats["retries"], run.stats["errors"]) == (2, 1)
    assert run.reason == "finished"


async def test_no_retries_where_the_settings_want_none() -> None:
    async with LocalSite() as site:
        site.page("/", "busy", status=503)
        run, failures = await send(lambda: Request(site.url), settings={"retry": {"times": 0}})
    assert (len(site.paths), len(failures), run.stats["retries"]) == (1, 1, 0)


async def test_the_settings_say_which_statuses_are_worth_another_try() -> None:
    async with LocalSite() as site:
        site.page("/odd", "fine")
        site.page("/odd", "", status=418, times=1)
        site.page("/busy", "", status=503)
        run, failures = await send(
            lambda: [Request(f"{site.url}/odd"), Request(f"{site.url}/busy")],
            settings={"retry": {"http_codes": [418]}},
        )
    assert sorted(site.paths) == ["/busy", "/odd", "/odd"]
    assert [failure.reason for failure in failures] == ["status_503"]
    assert run.stats["pages"] == 1


# -- who is repeated -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "sent"), [("GET", 2), ("HEAD", 2), ("PUT", 2), ("DELETE", 2), ("OPTIONS", 2), ("POST", 1), ("PATCH", 1)]
)
async def test_only_what_may_be_repeated_safely_is_repeated(method: str, sent: int) -> None:
    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "busy", status=503, times=1)
        _, failures = await send(lambda: Request(site.url, method=method))
    assert len(site.paths) == sent
    assert len(failures) == 2 - sent


async def test_a_post_is_repeated_where_its_author_says_how_often() -> None:
    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "busy", status=503, times=1)
        run, _ = await send(lambda: Request(site.url, method="POST", data={"a": "1"}, retry_times=2))
    assert [(hit.method, hit.body) for hit in site.requests()] == [("POST", b"a=1")] * 2
    assert run.stats["pages"] == 1


# -- broken connections ----------------------------------------------------------------------------------------------


async def test_a_dropped_connection_is_tried_again() -> None:
    async with LocalSite() as site:
        site.page("/", "fine")
        site.drop("/", times=2)
        run, failures = await send(lambda: Request(site.url))
    assert run.items == [{"status": 200, "text": "fine"}]
    assert failures == []
    assert len(site.paths) == 3


async def test_connections_that_are_always_dropped_end_in_the_errback_with_the_reason() -> None:
    async with LocalSite() as site:
        site.drop("/")
        run, (failure,) = await send(lambda: Request(site.url), settings={"retry": {"times": 1}})
    assert failure.reason in ("disconnected", "connect_reset")
    assert failure.response is None
    assert failure.attempts == 2
    assert run.stats["failures"] == {failure.reason: 1}


async def test_nobody_listening_is_connect_refused() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        run, (failure,) = await send(lambda: Request(f"http://127.0.0.1:{port}/"), settings={"retry": {"times": 1}})
    assert failure.request.url == f"http://127.0.0.1:{port}/"
    assert run.reason == "finished"
    assert run.stats["retries"] == 1
    assert "connect_refused" in run.stats["failures"]
    assert failure.reason == "connect_refused"


async def test_a_body_cut_short_is_tried_again_and_never_half_a_page() -> None:
    calls = []

    async def cut_once(request: web.Request) -> web.StreamResponse:
        calls.append(1)
        if len(calls) > 1:
            return web.Response(text="a" * 1000)
        half = web.StreamResponse(headers={"Content-Length": "1000"})
        await half.prepare(request)
        await half.write(b"a" * 500)
        assert request.transport is not None
        request.transport.close()
        return half

    async with LocalSite() as site:
        site.route("/", cut_once)
        run, failures = await send(lambda: Request(site.url))
    assert failures == []
    assert [len(item["text"]) for item in run.items] == [1000]


async def test_a_name_that_does_not_exist_is_not_asked_for_again() -> None:
    run, (failure,) = await send(lambda: Request("http://nowhere.invalid./"), settings={"dns": NO_DNS})
    assert failure.reason in ("dns_not_found", "dns_failed", "dns_timeout")
    assert run.reason == "finished"
    if failure.reason == "dns_not_found":
        assert run.stats["retries"] == 0


NO_DNS = {"negative_cache_seconds": 0}


async def test_a_slow_answer_is_tried_again_and_ends_as_a_timeout() -> None:
    async with LocalSite() as site:
        site.page("/", "late", delay=5)
        settings = {"retry": {"times": 1}, "http": {"total_seconds": 0.5}, "politeness": {"obey_robots": False}}
        _, (failure,) = await send(lambda: Request(site.url), settings=settings)
        assert len(site.paths) == 2
    assert failure.reason == "total_timeout"
    assert isinstance(failure.error, TimeoutError)


# -- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-21")
async def test_tries_are_spread_over_longer_and_longer_waits() -> None:
    clock = FakeClock()
    times: list[float] = []

    async def busy(request: web.Request) -> web.Response:
        times.append(clock.now())
        return web.Response(status=503)

    async with LocalSite() as site:
        site.route("/", busy)
        settings = {"retry": {"times": 5, "base_seconds": 100, "max_seconds": 400}, "politeness": {"adaptive": False}}
        await send(lambda: Request(site.url), settings=settings, clock=clock)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(waits) == 5
    slack = 30  # the fake clock also moves while the answer is on its way
    assert all(wait <= limit + slack for wait, limit in zip(waits, [100, 200, 400, 400, 400], strict=True))
    assert len({round(wait) for wait in waits}) > 1


@pytest.mark.hostile("R-20")
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_retry_after_pauses_the_whole_host_and_no_other(form: str) -> None:
    clock = FakeClock()
    times: dict[str, list[float]] = {}
    began = clock.now()

    async def note(request: web.Request) -> web.Response:
        times.setdefault(f"{request.host}{request.path}", []).append(clock.now() - began)
        if request.path == "/busy" and len(times[f"{request.host}/busy"]) == 1:
            date = "Sun, 09 Sep 2001 02:03:20 GMT"  # 1000 s after the fake clock's start
            return web.Response(status=429, headers={"Retry-After": "1000" if form == "seconds" else date})
        return web.Response(text="ok")

    class Sender(Spider):
        name = "sender"
        sites: tuple[str, ...] = ()

        async def start(self) -> Any:
            yield self.request(f"{self.sites[0]}/busy", priority=1)
            for number in range(3):
                yield [self.request(f"{site}/{number}") for site in self.sites]

    async with LocalSite() as busy, LocalSite("127.0.0.2") as calm:
        busy.route("*", note)
        calm.route("*", note)
        Sender.sites = (busy.url, calm.url)
        settings = {
            "politeness": {"concurrency_per_host": 1, "obey_robots": False},
            "retry": {"retry_after_max_seconds": 5000},
        }
        run = await run_spider(Sender, settings=settings, clock=clock)
    assert run.stats["pages"] == 7
    first, second = times[f"{busy.host}/busy"]
    assert first < 100
    assert second >= 1000
    assert all(times[f"{busy.host}/{number}"][0] >= 1000 for number in range(3))
    assert all(times[f"{calm.host}/{number}"][0] < 500 for number in range(3))


@pytest.mark.hostile("R-20")
@pytest.mark.parametrize("value", ["999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_retry_after_of_years_is_cut_to_the_longest_the_settings_allow(value: str) -> None:
    clock = FakeClock()
    began = clock.now()
    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "busy", status=503, headers={"Retry-After": value}, times=1)
        run, _ = await send(lambda: Request(site.url), clock=clock)
    assert run.stats["pages"] == 1
    assert 900 <= clock.now() - began < 1100


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("120.5", 120.5),
        ("120s", 120),
        ("120 seconds", 120),
        ("120, 60", 120),
        ("120;q=1", 120),
        ("1", 1),
        ("00012", 12),
        ("999999999", 999999999),
        ("2000000000", 1_000_000_000),  # a Unix time
        ("9" * 400, None),
        ("-1", None),
        ("+5", None),
        ("1e9", None),
        ("0x10", None),
        ("٣", None),
        ("", None),
        ("soon", None),
        ("\x00", None),
        ("Sun, 09 Sep 2001 01:48:20 GMT", 100),
        ("Sun, 09 Sep 2001 01:48:20 UTC", 100),
        ("Sun, 09 Sep 2001 03:48:20 +0200", 100),
        ("Sunday, 09-Sep-01 01:48:20 GMT", 100),
        ("Sun Sep  9 01:48:20 2001", 100),
        ("2001-09-09T01:48:20Z", 100),
        ("2001-09-09T01:48:20", 100),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Sun, 99 Sep 2001 99:99:99 GMT", None),
    ],
)
def test_a_retry_after_is_read_generously_and_never_negative(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, 1_000_000_000.0) == seconds


def test_of_several_retry_afters_the_longest_counts_and_it_is_cut() -> None:
    fields = CIMultiDictProxy(CIMultiDict([("Retry-After", "5"), ("retry-after", "soon"), ("Retry-After", "50")]))
    assert RetryPolicy().retry_after(fields, 0.0) == 50
    assert RetryPolicy(retry_after_max_seconds=20).retry_after(fields, 0.0) == 20
    assert RetryPolicy().retry_after(CIMultiDictProxy(CIMultiDict()), 0.0) is None


@pytest.mark.hostile("R-20")
@pytest.mark.parametrize("value", ["-5", "soon", "", "Thu, 01 Jan 1970 00:00:00 GMT", "٣", "9" * 400, "1e9"])
async def test_a_retry_after_that_is_past_or_nonsense_does_no_harm(value: str) -> None:
    clock = FakeClock()
    async with LocalSite() as site:
        site.page("/", "fine")
        site.page("/", "busy", status=503, headers={"Retry-After": value}, times=1)
        run, failures = await send(lambda: Request(site.url), clock=clock)
    assert failures == []
    assert run.stats["pages"] == 1


async def test_the_last_answers_retry_after_still_pauses_the_host() -> None:
    clock = FakeClock()
    times: list[float] = []
    began = clock.now()

    async def note(request: web.Request) -> web.Response:
        times.append(clock.now() - began)
        return web.Response(status=503, headers={"Retry-After": "500"}) if len(times) == 1 else web.Response()

    async with LocalSite() as site:
        site.route("*", note)
        settings = {"politeness": {"concurrency_per_host": 1, "obey_robots": False}, "retry": {"times": 0}}
        await send(
            lambda: [Request(f"{site.url}/a", priority=1), Request(f"{site.url}/b")], settings=settings, clock=clock
        )
    assert len(times) == 2
    assert times[1] >= 500


async def test_a_waiting_retry_holds_no_worker() -> None:
    async with LocalSite() as site, LocalSite("127.0.0.2") as other:
        site.page("/", "fine")
        site.page("/", "busy", status=503, headers={"Retry-After": "1"}, times=1)
        other.page("*", "ok")
        settings = {"crawl": {"concurrency": 1}}
        run, _ = await send(
            lambda: [Request(site.url, priority=9), *(Request(f"{other.url}/{n}") for n in range(5))],
            settings=settings,
        )
        waited = site.requests("/")[1].time
        assert all(hit.time < waited for hit in other.journal)
    assert run.stats["pages"] == 6


async def test_a_host_in_trouble_is_asked_more_slowly() -> None:
    clock = FakeClock()
    times: list[float] = []

    async def busy(request: web.Request) -> web.Response:
        times.append(clock.now())
        return web.Response(status=500)

    async with LocalSite() as site:
        site.route("*", busy)
        settings = {
            "politeness": {"delay_seconds": 10, "jitter": 0, "concurrency_per_host": 1, "obey_robots": False},
            "retry": {"times": 0},
        }
        await send(lambda: [Request(f"{site.url}/{n}") for n in range(4)], settings=settings, clock=clock)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[0] >= 20
    assert waits[1] >= 40
    assert waits[2] >= 60  # politeness.max_delay_seconds
