"""`crawler politeness`: how a host of a job is treated, and why it waits now."""

from __future__ import annotations

import json
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from crawler.cli import main
from crawler.contracts import Entry
from crawler.errors import InvalidURL, JobError
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.politeness import Answer, HostRule
from crawler.request import Request, RequestCodec
from crawler.treatment import treatment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENCODE = RequestCodec().encode
RULE = HostRule(delay=0.5, jitter=0.0)


def entry(number: int, host: str = "a.test:443", *, due: float = 0.0) -> Entry:
    name, _, port = host.rpartition(":")
    return Entry(host, number, ENCODE(Request(f"https://{name}:{port}/{number}")), not_before=due)


async def make_job(job: Path, happen: Callable[[LocalFrontier, float], Any], **options: Any) -> None:
    now = time.time()
    frontier = LocalFrontier(DiskStore(job / "frontier"), rule=lambda host: RULE, rng=Random(1), **options)
    async with frontier:
        frontier.resume(now)
        happen(frontier, now)
        await frontier.commit({"spider": b"books", "key": b"k" * 16, "state": b"interrupted"}, now)


def shown(capsys: pytest.CaptureFixture[str], job: Path, host: str) -> tuple[int, dict[str, str]]:
    code = main(["politeness", host, "--job", str(job)])
    first, *rows = capsys.readouterr().out.splitlines()
    return code, {"": first, **{name: text for name, _, text in (row.strip().partition("  ") for row in rows)}}


async def test_a_host_that_asked_for_a_pause_says_so_and_until_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(frontier: LocalFrontier, now: float) -> None:
        frontier.add([entry(1), entry(2)], now)
        frontier.observe("a.test:443", Answer(429, retry_after=600.0), now)

    await make_job(tmp_path, busy)
    code, told = shown(capsys, tmp_path, "a.test")
    assert (code, told[""]) == (0, "a.test:443")
    assert "paused until" in told["now"]
    assert "Retry-After" in told["now"]
    assert "(in 10 min)" in told["now"]
    assert told["waiting"].strip() == "2 (2 paused)"
    assert told["delay"].strip().startswith("1 s: it began with 0.5 s")
    assert told["failures"].strip() == "1 in a row, the last: 429"


async def test_an_open_circuit_and_its_probes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def down(frontier: LocalFrontier, now: float) -> None:
        frontier.add([entry(1)], now)
        for at in (*[now] * 20, now + 30):
            frontier.observe("a.test:443", Answer(reason="connect_refused"), at)

    await make_job(tmp_path, down)
    _, told = shown(capsys, tmp_path, "https://a.test/1")
    assert "politeness.circuit_failures" in told["now"]
    assert told["probes"].strip() == "1 failed"
    assert told["failures"].strip() == "21 in a row, the last: connect_refused"


async def test_a_delay_says_where_it_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(frontier: LocalFrontier, now: float) -> None:
        frontier.add([entry(1), entry(2, "quick.test:80")], now)
        frontier.host("a.test:443", crawl_delay=5.0)
        for _ in range(120):
            frontier.observe("quick.test:80", Answer(200, latency=0.02), now)

    await make_job(tmp_path, asked)
    assert shown(capsys, tmp_path, "a.test")[1]["delay"].strip() == "5 s, as robots.txt asks (Crawl-delay)"
    quick = shown(capsys, tmp_path, "quick.test")[1]
    assert quick["delay"].strip() == "0.05 s: it began with 0.5 s, and the host answers well"
    assert quick["latency"].strip() == "0.02 s, smoothed"
    assert quick["answers"].strip() == "120, of them trouble: 0"


async def test_a_host_whose_requests_are_put_off_says_until_when(tmp_path: Path) -> None:
    now = time.time()
    await make_job(tmp_path, lambda frontier, at: frontier.add([entry(1, due=now + 3600)], at))
    told = treatment("a.test:443", tmp_path, now)
    assert told.waiting == 1
    assert told.first_due == pytest.approx(now + 3600, abs=0.01)


@pytest.mark.parametrize("by", ["domain", "ip"])
async def test_a_host_that_is_treated_in_a_group_names_it_and_has_its_pause(tmp_path: Path, by: str) -> None:
    def grouped(frontier: LocalFrontier, now: float) -> None:
        frontier.add([entry(1, "www.a.test:443"), entry(2, "shop.a.test:443")], now)
        if by == "ip":
            frontier.regroup("www.a.test:443", "10.0.0.1")
            frontier.regroup("shop.a.test:443", "10.0.0.1")
        frontier.observe("www.a.test:443", Answer(503, retry_after=60.0), now)

    group = {"group": lambda host: "a.test"} if by == "domain" else {"by_address": True}
    await make_job(tmp_path, grouped, **group)
    told = treatment("shop.a.test", tmp_path, time.time())
    assert told.group == {"domain": "a.test", "ip": "10.0.0.1"}[by]
    assert told.pause == "retry_after"


async def test_as_json_it_tells_all_that_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await make_job(tmp_path, lambda frontier, now: frontier.add([entry(1)], now))
    assert main(["politeness", "a.test", "--job", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["host"], told["waiting"], told["by_reason"], told["spider"]) == (
        "a.test:443",
        1,
        {"ready": 1},
        "books",
    )


async def test_a_host_that_the_job_has_not_met_is_no_error_of_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_job(tmp_path, lambda frontier, now: frontier.add([entry(1)], now))
    code, told = shown(capsys, tmp_path, "b.test")
    assert (code, told["now"].strip()) == (1, "this job has not met the host")


async def test_what_is_no_host_and_what_is_no_job_are_errors(tmp_path: Path) -> None:
    await make_job(tmp_path / "job", lambda frontier, now: frontier.add([entry(1)], now))
    with pytest.raises(InvalidURL):
        treatment("ftp://a.test/", tmp_path / "job", 0.0)
    with pytest.raises(JobError):
        treatment("a.test", tmp_path / "none", 0.0)
