"""What a crawl shows of itself."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import UsageError
from crawler.stats import Stats, write_json
from crawler.status import LogProgress, Rate, latest_job, live_line, read_stats, show_live, summary
from crawler.testing import FakeClock


def some_stats(**changed: Any) -> dict[str, Any]:
    stats = Stats("books", 1_000_000_000.0)
    stats.total.pages, stats.total.items, stats.total.requests, stats.total.bytes = 1050, 1000, 1051, 7_239_035
    stats.status.update({200: 1050, 404: 1})
    stats.reason, stats.finished_at, stats.hosts = "finished", 1_000_000_021.0, 1
    return {**stats.snapshot(1_000_000_021.0), **changed}


def a_snapshot(**changed: Any) -> dict[str, Any]:
    now = {
        "phase": "running",
        "queued": 588,
        "in_flight": 2,
        "active_hosts": 1,
        "limited_by": "delay",
        "waits": {"paused": 0},
    }
    return {**some_stats(pages=412, items=401, elapsed_seconds=10.0), **now, **changed}


def rows(text: str) -> dict[str, str]:
    """The summary's rows; the name is the first word, or two."""
    return dict(line.strip().split("  ", 1) for line in text.splitlines()[1:])


# -- while it runs -----------------------------------------------------------------------------------------------------


def test_the_live_line_says_how_far_how_fast_and_what_holds_it_back() -> None:
    assert live_line(a_snapshot(), 31.54) == (
        "books  412 pages  31.5/s  401 items  588 queued  1 active host  0 errors  limited by delay"
    )


def test_the_live_line_counts_in_singular_and_names_a_phase_that_is_not_running() -> None:
    line = live_line(a_snapshot(pages=1, items=1, active_hosts=0, errors=1, phase="draining"), 0.0)
    assert line == "books  1 page  0.0/s  1 item  588 queued  0 active hosts  1 error  draining"
    assert "limited by" not in live_line(a_snapshot(queued=0, in_flight=0, limited_by="nothing left"), 0.0)


def test_the_rate_is_smoothed_and_does_not_divide_by_no_time() -> None:
    rate = Rate()
    assert rate(0.0, 0) == 0.0
    assert rate(2.0, 20) == 10.0
    assert rate(2.0, 20) == 10.0
    assert rate(3.0, 20) == pytest.approx(6.0)


def test_off_a_terminal_the_line_is_logged_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = LogProgress(100.0)
    for second in range(25):
        progress(a_snapshot, 100.0 + second)
    assert [record.name for record in caplog.records] == ["crawler.progress"] * 2
    assert "412 pages" in caplog.text


async def test_on_a_terminal_the_line_is_drawn_once_a_second_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    ended, looks = asyncio.Event(), 0

    def look() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        if looks == 3:
            ended.set()
        return a_snapshot(pages=looks)

    await show_live(look, FakeClock(), ended)
    drawn = terminal.getvalue()
    assert looks == 3
    assert "books  3 pages" in drawn
    assert "limited by delay" not in drawn, "a narrow terminal gets one line, cut"
    assert drawn.rstrip("\n").endswith("\x1b[2K"), "the line is taken away at the end"


async def test_a_terminal_that_goes_away_does_not_end_the_crawl(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("sys.stderr", Gone())
    monkeypatch.setenv("TERM", "xterm")
    await show_live(a_snapshot, FakeClock(), asyncio.Event())


# -- afterwards --------------------------------------------------------------------------------------------------------


def test_the_summary_says_how_it_ended_and_its_numbers() -> None:
    text = summary(some_stats(), ("books.jsonl", "-"), Path("jobs/books"))
    assert text.splitlines()[0] == "books: finished"
    assert rows(text)["pages"].strip() == "1050 (50.0/s)"
    assert rows(text)["received"].strip() == "6.9 MiB"
    assert rows(text)["status"].strip() == "200: 1050, 404: 1"
    assert [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("  output")] == [
        "books.jsonl",
        "standard output",
    ]
    assert rows(text)["job"].strip() == "jobs/books"


def test_the_summary_leaves_out_what_did_not_happen_and_shows_what_did() -> None:
    assert not {"duplicates", "robots denied", "failures", "output", "job"} & set(rows(summary(some_stats())))
    text = summary(
        some_stats(retries=2, redirects=3, robots_denied=4, failures={"status_404": 1}, custom={"cheap books": 7})
    )
    assert rows(text)["requests"].strip() == "1051 (2 retries, 3 redirects)"
    assert rows(text)["robots denied"].strip() == "4"
    assert rows(text)["failures"].strip() == "status_404: 1"
    assert rows(text)["cheap books"].strip() == "7"


def test_the_summary_of_a_crawl_that_took_no_time_has_no_rate() -> None:
    assert rows(summary(some_stats(elapsed_seconds=0.0)))["pages"].strip() == "1050"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("interrupted", "books: stopped early; the same command continues it"),
        ("page_limit", "books: ended at its page limit"),
        ("failed", "books: failed; the same command continues it"),
        ("my_own_reason", "books: ended (my_own_reason)"),
    ],
)
def test_each_ending_is_said_in_words(reason: str, said: str) -> None:
    assert summary(some_stats(reason=reason)).splitlines()[0] == said


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB")]
)
def test_sizes_are_in_the_unit_that_fits(size: int, shown: str) -> None:
    assert rows(summary(some_stats(bytes=size)))["received"].strip() == shown


def test_the_stats_of_a_job_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    write_json(tmp_path / "stats.json", some_stats())
    assert read_stats(tmp_path) == some_stats()


def test_a_job_that_says_it_runs_and_has_not_written_for_long_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    write_json(path, some_stats(reason="running"))
    assert read_stats(tmp_path)["reason"] == "running"
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert read_stats(tmp_path)["reason"] == "killed"
    assert "was killed; the same command continues it" in summary(read_stats(tmp_path))


def test_a_folder_without_a_job_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no job in .*Jobs are made by `crawler run`"):
        read_stats(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"pages": "many"}', b"\xff\xfe", json.dumps({"a": 1}).encode()]
)
def test_a_file_that_is_not_the_crawler_s_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "stats.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"stats\.json"):
        read_stats(tmp_path)


def test_the_latest_job_is_the_one_written_last(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no job under"):
        latest_job(tmp_path)
    for age, name in enumerate(("newest", "older", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stats.json").write_text("{}")
        os.utime(tmp_path / name / "stats.json", (1_000_000 - age, 1_000_000 - age))
    assert latest_job(tmp_path).name == "newest"
