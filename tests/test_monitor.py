"""The status page: what it answers, to whom, and that neither its visitors nor an outage get at the crawl."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from crawler import Spider
from crawler.errors import SettingsError
from crawler.monitor import StatusPage
from crawler.monitor.connections import MOST, Connections
from crawler.monitor.page import SILENT_SECONDS
from crawler.monitor.pulse import Pulse
from crawler.settings import Settings, StatusSettings, command_line_layer, describe, load
from crawler.stats import Stats
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = "0123456789abcdef"
LOOPBACK = StatusSettings(listen="127.0.0.1:0")
PATHS = ("/healthz", "/readyz", "/metrics", "/status")


def a_snapshot(**changed: Any) -> dict[str, Any]:
    stats = Stats("books", 1_000_000_000.0)
    now = {
        "phase": "running",
        "queued": 588,
        "in_flight": 2,
        "active_hosts": 3,
        "waits": {"ready": 1, "delayed": 2, "full": 0, "paused": 0},
        "limited_by": "delay",
    }
    return {**stats.snapshot(1_000_000_021.0), **now, **changed}


def page(settings: StatusSettings = LOOPBACK, **changed: Any) -> StatusPage:
    return StatusPage(settings, **{"snapshot": a_snapshot, "ready": lambda: "", **changed})


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: str


async def talk(url: str, sent: bytes) -> bytes:
    """All that comes back until the connection is closed."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def ask(url: str, path: str = "/healthz", *headers: str, method: str = "GET", host: str = "localhost") -> Answer:
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), *headers]
    return read_answer(await talk(url, "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")))


def read_answer(received: bytes) -> Answer:
    head, _, body = received.decode("utf-8").partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


def own_address() -> str:
    """One of this machine that is not loopback: whoever comes from it might as well be another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has loopback only")
        return str(probe.getsockname()[0])


# -- what it answers ---------------------------------------------------------------------------------------------------


async def test_probes_metrics_and_the_snapshot_are_answered() -> None:
    async with page() as served:
        answers = {path: await ask(served.url, path) for path in PATHS}
    assert {answer.status for answer in answers.values()} == {200}
    assert json.loads(answers["/status"].body) == a_snapshot()
    assert answers["/healthz"].body == "ok\n"
    assert answers["/readyz"].body == "ready\n"
    assert "crawler_queued 588.0" in answers["/metrics"].body


async def test_head_gets_the_headers_alone_and_other_paths_are_not_there() -> None:
    async with page() as served:
        head = await ask(served.url, "/status", method="HEAD")
        assert (head.status, head.body) == (200, "")
        for path in ("/", "/metrics/", "/static/../etc/passwd", "/status/..%2f..%2fetc/passwd"):
            assert (await ask(served.url, path)).status == 404


async def test_while_the_loop_does_not_come_round_it_is_not_healthy_and_then_it_is_again() -> None:
    now = [100.0]
    async with page(pulse=Pulse(lambda: now[0])) as served:
        assert (await ask(served.url)).status == 200
        now[0] += SILENT_SECONDS + 1.0  # as if a callback had held the loop
        ill = await ask(served.url)
        assert (ill.status, ill.body) == (503, "the event loop has not come round for 6.0 s\n")
        async with asyncio.timeout(10):
            while (await ask(served.url)).status != 200:  # the next beat
                await asyncio.sleep(0.02)


async def test_health_does_not_depend_on_the_frontiers_engine() -> None:
    down = False

    def snapshot() -> dict[str, Any]:
        if down:
            raise RuntimeError("nobody may ask the engine")
        return a_snapshot()

    async with page(snapshot=snapshot, ready=lambda: "no answer from redis://u:s3cret@engine:6379/0") as served:
        down = True
        assert (await ask(served.url)).status == 200
        ready = await ask(served.url, "/readyz")
    assert (ready.status, ready.body) == (503, "no answer from redis://***@engine:6379/0\n")


async def test_without_the_library_metrics_names_the_extra_and_the_rest_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "crawler.monitor.metrics", raising=False)
    async with page() as served:
        missing = await ask(served.url, "/metrics")
        assert missing.status == 501
        assert "crawler[metrics]" in missing.body
        assert (await ask(served.url, "/status")).status == 200


async def test_counters_begin_at_zero_with_the_process_and_gauges_are_what_is() -> None:
    seen = a_snapshot(requests=100, status={"200": 90}, failures={"dns": 10}, custom={"books": 7})
    async with page(snapshot=lambda: seen) as served:
        seen = a_snapshot(
            requests=130,
            items=4,
            bytes=2000,
            status={"200": 115, "404": 5},
            failures={"dns": 10, "robots": 3},
            custom={"books": 8},
            proxies={"http://p:3128": {"requests": 3, "failures": 1}},
        )
        text = (await ask(served.url, "/metrics")).body
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["crawler_requests_total",] == 30
    assert samples["crawler_items_total",] == 4
    assert samples["crawler_received_bytes_total",] == 2000
    assert samples["crawler_responses_total", "200"] == 25
    assert samples["crawler_responses_total", "404"] == 5
    assert samples["crawler_failures_total", "dns"] == 0
    assert samples["crawler_failures_total", "robots"] == 3
    assert samples["crawler_proxy_failures_total", "http://p:3128"] == 1
    assert samples["crawler_active_hosts",] == 3
    assert samples["crawler_waiting_hosts", "delayed"] == 2
    assert samples["crawler_custom", "books"] == 8
    assert samples["crawler_phase", "running"] == 1
    assert samples["process_resident_memory_bytes",] > 1_000_000


# -- where it listens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ("127.0.0.1:9090", "127.0.0.1:9090"),
        (":9090", "127.0.0.1:9090"),
        ("localhost:9090", "127.0.0.1:9090"),
        ("0.0.0.0:9090", "0.0.0.0:9090"),
        ("[::1]:0", "[::1]:0"),
        ("", None),
    ],
)
def test_an_address_that_everybody_can_reach_has_to_be_written(given: str, held: str | None) -> None:
    assert load([command_line_layer([f"status.listen={given}"])]).settings.status.listen == held


@pytest.mark.parametrize("given", ["9090", "127.0.0.1", "example.com:80", "127.0.0.1:99999", "[::1:80", "::1:80", ":x"])
def test_an_address_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match=r"status\.listen: expected an IP address and a port"):
        load([command_line_layer([f"status.listen={given}"])])


async def test_an_address_that_is_taken_is_a_wrong_setting() -> None:
    async with page() as served:
        taken = served.url.removeprefix("http://")
        with pytest.raises(SettingsError, match=rf"status\.listen: cannot listen on {taken}: somebody else"):
            await page(StatusSettings(listen=taken)).__aenter__()


# -- who is answered ---------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S46")
async def test_off_loopback_and_without_a_token_nobody_reads_what_is_crawled() -> None:
    address = own_address()
    async with page(StatusSettings(listen="0.0.0.0:0")) as served:
        port = served.url.rpartition(":")[2]
        for path in ("/metrics", "/status"):
            refused = await ask(f"http://{address}:{port}", path)
            assert (refused.status, refused.body) == (403, "for loopback alone, unless status.token is set\n")
            assert (await ask(f"http://127.0.0.1:{port}", path)).status == 200
        for path in ("/healthz", "/readyz"):  # the orchestrator's, which has no token
            assert (await ask(f"http://{address}:{port}", path)).status == 200


@pytest.mark.hostile("S46")
async def test_with_a_token_who_has_it_reads_and_nobody_else_from_anywhere() -> None:
    async with page(StatusSettings(listen="127.0.0.1:0", token=TOKEN)) as served:
        for wrong in ("", f"Authorization: Bearer {TOKEN}0", f"Authorization: {TOKEN}", "Authorization: Bearer ÿ"):
            for path in ("/metrics", "/status"):
                refused = await ask(served.url, path, *filter(None, [wrong]))
                assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
                assert "books" not in refused.body
        for path in ("/metrics", "/status"):
            assert (await ask(served.url, path, f"Authorization: Bearer {TOKEN}")).status == 200


@pytest.mark.hostile("S46")
def test_it_is_off_by_default_and_a_token_is_long_and_not_shown() -> None:
    assert Settings().status.listen is None
    with pytest.raises(SettingsError, match=r"at least 16 .*, got text"):
        load([command_line_layer(["status.token=short-s3cret"])])
    loaded = load([command_line_layer([f"status.token={TOKEN}"])])
    assert TOKEN not in repr(loaded.settings)
    assert TOKEN not in str(describe(loaded))


@pytest.mark.hostile("S47")
async def test_what_a_spider_counts_and_a_visitor_asks_is_never_markup() -> None:
    payloads = [
        "<script>alert(1)</script>",
        "</title><img src=x onerror=alert(1)>",
        '"><svg/onload=1>',
        "\ud800\n# x 1",
    ]
    seen = a_snapshot(spider=payloads[0], custom=dict.fromkeys(payloads, 1), failures={payloads[1]: 1})
    async with page(snapshot=lambda: seen, ready=lambda: payloads[0]) as served:
        seen["custom"].pop(payloads[3])  # JSON has no lone surrogates
        received = [await ask(served.url, path) for path in ("/status", "/readyz", "/no/<script>", "/%3Cscript%3E")]
        seen["custom"][payloads[3]] = 1
        metrics = await ask(served.url, "/metrics")
        received += [metrics, await ask(served.url, "/status", method="POST"), await ask(served.url, host="<b>")]
        malformed = await talk(served.url, b"GET /<script> HTTP/9.x\r\n<img>\r\n\r\n")
    for answer in received:
        assert re.match(r"text/plain|application/json$", answer.headers["content-type"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["cache-control"] == "no-store"
    assert json.loads(received[0].body)["custom"] == dict.fromkeys(payloads[:3], 1)
    names = [
        s.labels["name"] for f in text_string_to_metric_families(metrics.body) for s in f.samples if "name" in s.labels
    ]
    assert sorted(names) == sorted([*payloads[:3], "\\ud800\n# x 1"])
    assert b"text/plain" in malformed
    assert b"text/html" not in malformed


@pytest.mark.hostile("S48")
@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:9090", "127.0.0.1.evil.test", "localhost.evil.test", "2130706433", "[evil]", ""]
)
async def test_a_page_whose_name_leads_here_gets_nothing(host: str) -> None:
    async with page() as served:
        for path in PATHS:
            refused = await ask(served.url, path, host=host)
            assert refused.status in (400, 421)
            assert "books" not in refused.body


@pytest.mark.hostile("S48")
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:80", "[::1]:9090", "LOCALHOST", "10.0.0.7:9090", "worker-1:9090"]
)
async def test_addresses_localhost_and_named_hosts_are_answered(host: str) -> None:
    async with page(StatusSettings(listen="127.0.0.1:0", hosts=("worker-1",))) as served:
        assert (await ask(served.url, host=host)).status == 200


@pytest.mark.hostile("S48")
async def test_another_sites_page_and_its_forms_change_and_read_nothing() -> None:
    async with page() as served:
        cross = await ask(served.url, "/status", "Origin: http://evil.test")
        assert (cross.status, "books" in cross.body) == (403, False)
        allowed = await ask(served.url, "/status")
        assert not [name for name in allowed.headers if name.startswith("access-control")]
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"):
            for path in PATHS:
                assert (await ask(served.url, path, "Content-Length: 0", method=method)).status in (400, 405)


# -- what visitors cost ------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S49")
async def test_one_connection_is_one_request_and_a_body_is_not_read() -> None:
    async with page() as served:
        get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await talk(served.url, get * 50)).count(b"HTTP/1.1 200") == 1
        huge = b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n" + b"x" * 1000
        assert read_answer(await talk(served.url, huge)).status == 405
        double = await ask(served.url, "/status", "Host: evil.test")
        assert double.status in (400, 421)
        for header in ("X: " + "x" * 5000, "\r\n".join(f"X{n}: 1" for n in range(200))):
            assert (await ask(served.url, "/healthz", header)).status == 400
        lengths = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
        smuggled = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + lengths + b"\r\n0\r\n\r\n"
        assert (await talk(served.url, smuggled + get)).count(b"HTTP/1.") == 1


@pytest.mark.hostile("S49")
async def test_whoever_holds_connections_open_keeps_no_probe_out_and_loses_the_oldest() -> None:
    async with page() as served:
        host, port = served.url.removeprefix("http://").split(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(MOST + 5)]
        for _, writer in slow:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: loc")
        assert (await ask(served.url)).status == 200
        async with asyncio.timeout(10):
            for reader, _ in slow[:5]:  # the oldest were sent away
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
        for _, writer in slow:
            writer.close()


class Serving(asyncio.Protocol):
    """Answers nothing."""


@pytest.mark.hostile("S49")
async def test_a_connection_ends_when_its_time_is_over_and_all_end_at_the_end() -> None:
    loop = asyncio.get_running_loop()
    short, long = Connections(Serving, seconds=0.05), Connections(Serving, seconds=60)
    for connections in (short, long):
        server = await loop.create_server(connections, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(10):
            while connections is long and not len(connections):
                await asyncio.sleep(0)
            if connections is long:
                connections.close()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        assert len(connections) == 0
        writer.close()
        server.close()


# -- beside a crawl ----------------------------------------------------------------------------------------------------


class Watched(Spider):
    """Asks its own status page from within a callback, and keeps a connection to it open to the end."""

    name = "watched"
    settings = {"status": {"listen": "127.0.0.1:0"}, "politeness": {"delay_seconds": 0, "obey_robots": False}}
    site = ""
    address: Callable[[], str]
    seen: dict[str, Answer] = {}

    async def start(self) -> Any:
        yield self.request(self.site + "/")

    async def parse(self, response: Any) -> Any:
        url = self.address()
        type(self).seen = {path: await ask(url, path) for path in PATHS}
        host, port = url.removeprefix("http://").split(":")
        self.left_open = await asyncio.open_connection(host, int(port))
        self.left_open[1].write(b"GET /status HTTP/1.1\r\n")
        yield {"ok": True}


@pytest.mark.hostile("S49")
async def test_a_crawl_is_seen_while_it_runs_and_ends_whoever_is_connected(caplog: pytest.LogCaptureFixture) -> None:
    def address() -> str:
        said = [record.getMessage() for record in caplog.records if record.name == "crawler.status"]
        found = re.search(r"http://\S+(?=/status)", said[-1])
        assert found
        return found[0]

    async with LocalSite() as site, asyncio.timeout(20):
        site.page("/", "<p>x</p>")
        Watched.address = staticmethod(address)
        with caplog.at_level(logging.INFO, "crawler"):
            result = await run_spider(Watched, args={"site": site.url})
    assert result.reason == "finished"
    status = json.loads(Watched.seen["/status"].body)
    assert (status["spider"], status["phase"], status["in_flight"]) == ("watched", "running", 1)
    assert Watched.seen["/readyz"].status == 200
    assert "crawler_in_flight 1.0" in Watched.seen["/metrics"].body
    with pytest.raises(OSError):
        await ask(address())
