"""Log lines: nothing a site sends reaches a terminal raw, and each crawl has its own file."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import warnings
from typing import TYPE_CHECKING

import pytest

from crawler.log import console_log, crawl_log, escape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger("crawler.spider.books")

HOSTILE = "a\x1b[31mred\x07\x00\r\nfake line\x9b2J\u202ereversed\u2028next\ud800\x7f\u200f"
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\u200f\ud800]")


@pytest.fixture(autouse=True)
def loggers_are_left_as_they_were() -> Iterator[None]:
    def state() -> list[object]:
        names = ("", "crawler", "asyncio")
        return [(name, list(each.handlers), each.level) for name in names for each in [logging.getLogger(name)]]

    before = state()
    yield
    assert state() == before


class Console:
    """What standard error got."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    @property
    def text(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(capsys)


def test_a_line_has_time_level_a_short_name_and_the_message(console: Console) -> None:
    with console_log("INFO"):
        logger.info("found %d", 3)
        logging.getLogger("crawler.job").warning("careful")
    first, second = console.text.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    books: found 3", first)
    assert second.endswith("WARNING job: careful")


@pytest.mark.parametrize("as_json", [False, True])
def test_control_characters_reach_neither_console_nor_file(
    as_json: bool, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's own log capture would carry a lone surrogate to its parallel workers' controller, which cannot take it.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    path = tmp_path / "crawl.log"
    with console_log("INFO", as_json=as_json), crawl_log(path, "INFO", as_json=as_json):
        logger.info("got %s", HOSTILE)
        logger.info(HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logger.exception("failed on %s", HOSTILE)
    for text in (console.text, path.read_text(encoding="utf-8", errors="surrogateescape")):
        assert "fake line" in text
        assert not RAW.findall(text)
        assert not [line for line in text.splitlines() if line.startswith("fake line") and "Traceback" not in text]


def test_a_message_is_one_line_and_a_traceback_keeps_its_own(console: Console) -> None:
    with console_log("INFO"):
        logger.info("one\ntwo")
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("failed")
    lines = console.text.splitlines()
    assert lines[0].endswith("books: one\\ntwo")
    assert lines[2] == "  Traceback (most recent call last):"
    assert lines[-1] == "  ValueError: broken"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_long_text_from_a_site_is_cut(as_json: bool, console: Console) -> None:
    with console_log("INFO", as_json=as_json):
        logger.info("title %s", "x" * 100_000)
    assert "x" * 500 in console.text
    assert len(console.text) < 700
    assert "…" in console.text


def test_escape_keeps_what_people_write() -> None:
    assert escape("Grüße,\t„Welt“ — 日本語 🦊\n") == "Grüße,\t„Welt“ — 日本語 🦊\n"
    assert escape("\x1b[2J") == "\\x1b[2J"


def test_a_json_line_is_an_object_with_time_level_logger_message_and_traceback(console: Console) -> None:
    with console_log("INFO", as_json=True):
        logger.info("found %s", 'a "quote"\nand a line')
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("failed")
    first, second = map(json.loads, console.text.splitlines())
    assert (first["level"], first["logger"], first["message"]) == (
        "INFO",
        "crawler.spider.books",
        'found a "quote"\nand a line',
    )
    assert abs(first["time"] - second["time"]) < 60
    assert "traceback" not in first
    assert second["traceback"].endswith("ValueError: broken")


def test_lines_below_the_level_are_not_shown(console: Console) -> None:
    with console_log("warning"):
        logger.info("quiet")
        logger.warning("loud")
    assert "quiet" not in console.text
    assert "loud" in console.text


def test_the_console_hears_the_spider_s_own_modules_and_warnings(console: Console) -> None:
    with console_log("INFO", as_json=True), warnings.catch_warnings():
        logging.captureWarnings(True)  # `catch_warnings` has put the interpreter's own way back
        warnings.simplefilter("always")
        logging.getLogger("spiders.books").info("from a module")
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    messages = [json.loads(line)["message"] for line in console.text.splitlines()]
    assert messages[0] == "from a module"
    assert "old ways" in messages[1]


def test_the_console_follows_standard_error_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    later = io.StringIO()
    with console_log("INFO"):
        monkeypatch.setattr("sys.stderr", later)
        logger.info("to the new one")
    assert "to the new one" in later.getvalue()


def test_two_consoles_one_after_the_other_do_not_double_the_lines(console: Console) -> None:
    with console_log("INFO"):
        pass
    with console_log("INFO"):
        logger.info("once")
    assert console.text.count("once") == 1


async def test_two_crawls_side_by_side_have_their_own_lines_in_their_own_files(tmp_path: Path) -> None:
    async def work(name: str) -> None:
        await asyncio.sleep(0)
        logger.info("in a task of %s", name)
        await asyncio.to_thread(logger.info, "in a thread of %s", name)

    both_open = asyncio.Barrier(2)

    async def crawl(name: str) -> None:
        with crawl_log(tmp_path / f"{name}.log", "INFO"):
            await both_open.wait()
            logging.getLogger("crawler.job").info("%s starts", name)
            await asyncio.gather(work(name), work(name))
            await both_open.wait()

    await asyncio.gather(crawl("first"), crawl("second"))
    for name, other in (("first", "second"), ("second", "first")):
        text = (tmp_path / f"{name}.log").read_text()
        assert text.count(name) == 5
        assert other not in text


async def test_a_crawl_that_ends_does_not_take_the_lines_of_one_that_goes_on(tmp_path: Path) -> None:
    long, short = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        with crawl_log(tmp_path / "first.log", "INFO"):
            long.set()
            await short.wait()

    async def second() -> None:
        await long.wait()
        with crawl_log(tmp_path / "second.log", "INFO"):
            short.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            logger.info("after the other has ended")

    ending = asyncio.create_task(first())
    await asyncio.gather(second(), ending)
    assert "after the other has ended" in (tmp_path / "second.log").read_text()


def test_a_job_s_file_is_appended_to_and_hears_info_where_the_application_wants_warnings(tmp_path: Path) -> None:
    path = tmp_path / "crawl.log"
    for run in ("first", "second"):
        with crawl_log(path, "INFO"):
            logger.info("%s run", run)
            logger.debug("not this")
    assert [line.rpartition(": ")[2] for line in path.read_text().splitlines()] == ["first run", "second run"]


def test_the_file_of_a_crawl_has_what_the_console_was_told_not_to_show(console: Console, tmp_path: Path) -> None:
    with console_log("ERROR"), crawl_log(tmp_path / "crawl.log", "INFO"):
        logger.info("a detail")
        logging.getLogger("spiders.books").info("another")
    assert console.text == ""
    assert (tmp_path / "crawl.log").read_text().count("INFO") == 2


def test_a_crawl_without_a_job_writes_no_file(tmp_path: Path) -> None:
    with crawl_log(None, "INFO"):
        logger.warning("nowhere")
    assert not list(tmp_path.iterdir())
