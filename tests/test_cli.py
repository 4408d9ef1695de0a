"""The command line as a user meets it: every verb, every option, every exit code, and what stands on which stream."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import datetime as dt
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest

from crawler import __version__
from crawler.cli import main
from crawler.demo import Shop, Site, serve
from crawler.testing import LocalSite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60
"""How long a process may take on a busy machine before its test gives up."""
T = TypeVar("T")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@contextlib.contextmanager
def in_thread(made: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """An asynchronous context held open by a loop of its own, beside the loops that the commands make."""
    entered: list[T] = []
    opened, loop = threading.Event(), asyncio.new_event_loop()
    leave = asyncio.Event()

    async def hold() -> None:
        try:
            async with made as value:
                entered.append(value)
                opened.set()
                await leave.wait()
        finally:
            opened.set()

    thread = threading.Thread(target=loop.run_until_complete, args=(hold(),))
    thread.start()
    try:
        assert opened.wait(SECONDS)
        assert entered, "the server did not open"
        yield entered[0]
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def shop() -> Iterator[Site]:
    with in_thread(serve(Shop(seed=3, books=24, categories=3))) as site:
        yield site


@pytest.fixture
def local() -> Iterator[LocalSite]:
    with in_thread(LocalSite()) as site:
        yield site


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with the example spiders, without settings from this machine's environment."""
    shutil.copytree(ROOT / "spiders", tmp_path / "spiders", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CRAWLER_")]:
        monkeypatch.delenv(name)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


@pytest.fixture
def crawler(here: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ended]]:
    """`crawler …` in this process. Whatever it does to logging is gone afterwards."""

    def run(*arguments: str) -> Ended:
        before = [
            (list(logger.handlers), logger.level) for logger in map(logging.getLogger, (None, "crawler", "asyncio"))
        ]
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse's way
            code = ended.code if isinstance(ended.code, int) else 1
        after = [
            (list(logger.handlers), logger.level) for logger in map(logging.getLogger, (None, "crawler", "asyncio"))
        ]
        assert after == before
        return Ended(code, *capfd.readouterr())

    return run


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "crawler", *arguments],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def books_of(shop: Site, *more: str) -> tuple[str, ...]:
    """The command of most tests: the small shop, at once."""
    return ("run", "books", "-a", f"site={shop.url}", "-s", "politeness.delay_seconds=0", *more)


def titles(path: str | Path) -> list[str]:
    return [json.loads(line)["title"] for line in Path(path).read_text().splitlines()]


def write_spider(source: str, name: str = "own") -> None:
    Path("spiders", f"{name}.py").write_text(textwrap.dedent(source))


def stats_of(job: str = "jobs/books") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(job, "stats.json").read_text())
    return found


# -- run: the way it should go -----------------------------------------------------------------------------------------


def test_run_crawls_writes_the_items_and_says_how_it_went(crawler: Callable[..., Ended], shop: Site) -> None:
    ended = crawler(*books_of(shop, "-O", "books.jsonl"))
    assert ended.code == 0
    assert ended.out == ""
    assert sorted(titles("books.jsonl")) == sorted(book.title for book in shop.shop.books)
    lines = ended.err.splitlines()
    assert lines[0].endswith("job: books: starting a new crawl in jobs/books")
    assert "books: finished" in lines
    assert "  pages     26" in ended.err
    assert re.search(r"^  output +books\.jsonl$", ended.err, re.MULTILINE)
    assert "Traceback" not in ended.err


def test_crawl_is_another_word_for_run(crawler: Callable[..., Ended], shop: Site) -> None:
    assert crawler("crawl", *books_of(shop, "--limit", "1")[1:]).code == 0


def test_a_job_folder_holds_frontier_stats_and_log(crawler: Callable[..., Ended], shop: Site) -> None:
    crawler(*books_of(shop, "--job", "deep/er/job"))
    assert {path.name for path in Path("deep/er/job").iterdir()} >= {"frontier", "stats.json", "crawl.log"}
    assert "starting a new crawl in deep/er/job" in Path("deep/er/job/crawl.log").read_text()
    assert not Path("jobs").exists()


@pytest.mark.hostile("R-43")
def test_stats_json_has_the_documented_keys_and_types(crawler: Callable[..., Ended], shop: Site) -> None:
    crawler(*books_of(shop))
    stats = stats_of()
    integers = {
        *("requests", "responses", "pages", "items", "items_dropped", "items_refused", "errors", "retries"),
        *("redirects", "bytes", "duplicates", "offsite", "robots_denied", "blocked", "depth_max", "hosts"),
        *("added", "waiting", "done", "failed", "dropped", "not_modified", "items_unchanged", "stalls"),
    }
    tables = {"status", "failures", "proxies", "custom"}
    words = {"spider", "reason", "started_at", "finished_at", "elapsed_seconds", "longest_stall_seconds"}
    assert set(stats) == words | integers | tables
    assert stats["added"] == stats["done"] + stats["failed"] + stats["dropped"] + stats["waiting"]
    assert {name: type(stats[name]) for name in integers} == dict.fromkeys(integers, int)
    assert {name: type(stats[name]) for name in tables} == dict.fromkeys(tables, dict)
    assert type(stats["elapsed_seconds"]) is float
    began, ended = (dt.datetime.fromisoformat(stats[name]) for name in ("started_at", "finished_at"))
    assert dt.timedelta(0) < ended - began < dt.timedelta(seconds=SECONDS)
    assert (stats["spider"], stats["reason"]) == ("books", "finished")
    assert (stats["pages"], stats["items"], stats["status"], stats["hosts"]) == (26, 24, {"200": 26}, 1)


def test_running_a_finished_job_again_starts_anew_and_says_so(crawler: Callable[..., Ended], shop: Site) -> None:
    crawler(*books_of(shop, "-O", "books.jsonl"))
    asked = len(shop.journal)
    again = crawler(*books_of(shop, "-O", "books.jsonl"))
    assert again.code == 0
    assert "starting a new crawl in jobs/books; the last one had finished" in again.err.splitlines()[0]
    assert len(shop.journal) - asked == 26 + 1
    assert len(titles("books.jsonl")) == 24
    assert stats_of()["pages"] == 26


# -- run: outputs ------------------------------------------------------------------------------------------------------


def test_o_appends_and_capital_o_overwrites(crawler: Callable[..., Ended], shop: Site) -> None:
    for _ in range(2):
        assert crawler(*books_of(shop, "-o", "appended.jsonl", "-O", "overwritten.jsonl")).code == 0
    assert len(titles("appended.jsonl")) == 48
    assert len(titles("overwritten.jsonl")) == 24


def test_several_outputs_get_the_same_items_each_in_its_format(crawler: Callable[..., Ended], shop: Site) -> None:
    outputs = ("books.jsonl", "books.csv", "new/folder/books.json")
    assert crawler(*books_of(shop, *(part for output in outputs for part in ("-o", output)))).code == 0
    with open("books.csv", newline="") as file:
        from_csv = [row["upc"] for row in csv.DictReader(file)]
    lines = [json.loads(line) for line in Path("books.jsonl").read_text().splitlines()]
    assert json.loads(Path("new/folder/books.json").read_text()) == lines
    assert from_csv == [item["upc"] for item in lines]
    assert len(from_csv) == 24


def test_o_with_a_dash_puts_items_and_nothing_else_on_standard_output(
    crawler: Callable[..., Ended], shop: Site
) -> None:
    ended = crawler(*books_of(shop, "-o", "-"))
    assert ended.code == 0
    assert len([json.loads(line)["title"] for line in ended.out.splitlines()]) == 24
    assert "books: finished" in ended.err


def test_what_a_spider_prints_does_not_mix_with_the_items(crawler: Callable[..., Ended], shop: Site) -> None:
    write_spider(
        """
        from crawler import Spider
        class Own(Spider):
            name = "own"
            site = ""
            async def start(self):
                yield self.request(self.site + "/index.html")
            def parse(self, response):
                print("debugging by print")
                yield {"status": response.status}
        """
    )
    ended = crawler("run", "own", "-a", f"site={shop.url}", "-o", "-")
    assert ended.out == '{"status":200}\n'
    assert "debugging by print" in ended.err


def test_an_unknown_suffix_is_told_before_anything_is_touched(crawler: Callable[..., Ended], shop: Site) -> None:
    crawler(*books_of(shop))
    before, asked = stats_of(), len(shop.journal)
    ended = crawler(*books_of(shop, "-o", "books.xlsx"))
    assert ended.code == 2
    assert "'books.xlsx'" in ended.err
    assert ".jsonl, .ndjson, .jl, .json, .csv" in ended.err
    assert "Traceback" not in ended.err
    assert len(shop.journal) == asked
    assert stats_of() == before
    assert "the last one had finished" in crawler(*books_of(shop)).err.splitlines()[0]


@pytest.mark.hostile("R-43")
def test_an_output_that_cannot_be_written_is_69_and_names_it(crawler: Callable[..., Ended], shop: Site) -> None:
    Path("folder.jsonl").mkdir()
    ended = crawler(*books_of(shop, "-o", "folder.jsonl"))
    assert ended.code == 69
    assert "folder.jsonl" in ended.err
    assert "Traceback" not in ended.err


def test_a_job_folder_that_cannot_be_made_is_69(crawler: Callable[..., Ended], shop: Site) -> None:
    Path("file").write_text("")
    ended = crawler(*books_of(shop, "--job", "file/job"))
    assert (ended.code, "cannot use the job folder file/job" in ended.err) == (69, True)
    assert "Traceback" not in ended.err


# -- run: limits, jobs, exit codes -------------------------------------------------------------------------------------


@pytest.mark.hostile("R-37", "R-43")
def test_limit_stops_after_that_many_pages_and_is_a_finish(crawler: Callable[..., Ended], shop: Site) -> None:
    ended = crawler(*books_of(shop, "--limit", "7"))
    assert ended.code == 0
    assert (stats_of()["pages"], stats_of()["reason"]) == (7, "page_limit")
    assert "books: ended at its page limit" in ended.err
    again = crawler(*books_of(shop, "--limit", "0"))
    assert "the last one had finished" in again.err.splitlines()[0]
    assert stats_of()["pages"] == 26


@pytest.mark.hostile("R-43")
def test_the_error_limit_is_a_failure(crawler: Callable[..., Ended], local: LocalSite) -> None:
    local.page("/index.html", "".join(f'<article class="product_pod"><h3><a href="/{n}">' for n in range(9)))
    ended = crawler(
        "run", "books", "-a", f"site={local.url}", "-s", "crawl.error_limit=3", "-s", "politeness.delay_seconds=0"
    )
    assert ended.code == 1
    assert stats_of()["reason"] == "error_limit"
    assert "the same command continues it" in ended.err


def test_a_start_that_fails_is_a_failure(crawler: Callable[..., Ended]) -> None:
    write_spider(
        """
        from crawler import Spider
        class Own(Spider):
            name = "own"
            async def start(self):
                raise RuntimeError("no list of shops today")
                yield
        """
    )
    ended = crawler("run", "own")
    assert ended.code == 1
    assert "no list of shops today" in ended.err
    assert stats_of("jobs/own")["failures"] == {"start_error": 1}


def unfinished(crawler: Callable[..., Ended], local: LocalSite) -> tuple[str, ...]:
    """A job that failed half way, a page and an error into it; the command that continues it."""
    links = "".join(f'<article class="product_pod"><h3><a href="/{n}">' for n in range(4))
    local.page("/index.html", links)
    command = (
        "run",
        "books",
        "-a",
        f"site={local.url}",
        "-s",
        "politeness.delay_seconds=0",
        "-s",
        "crawl.concurrency=1",
    )
    assert crawler(*command, "-s", "crawl.error_limit=1").code == 1
    return command


def test_an_unfinished_job_is_continued_and_its_first_line_says_so(
    crawler: Callable[..., Ended], local: LocalSite
) -> None:
    command = unfinished(crawler, local)
    done = stats_of()["pages"]
    ended = crawler(*command)
    assert ended.code == 0
    assert "books: continuing the interrupted crawl in jobs/books: " in ended.err.splitlines()[0]
    assert done == 1
    assert stats_of()["pages"] == 1
    assert stats_of()["failures"] == {"status_404": 4}
    assert local.paths.count("/index.html") == 1


def test_fresh_discards_an_unfinished_job(crawler: Callable[..., Ended], local: LocalSite) -> None:
    command = unfinished(crawler, local)
    ended = crawler(*command, "--fresh")
    assert "starting a new crawl in jobs/books; the last one is discarded" in ended.err.splitlines()[0]
    assert local.paths.count("/index.html") == 2


def test_a_limit_that_an_unfinished_job_is_past_ends_it_at_once(
    here: Path, local: LocalSite, crawler: Callable[..., Ended]
) -> None:
    command = unfinished(crawler, local)
    with process(*command, "--limit", "1", cwd=here) as running:
        try:
            _, said = running.communicate(timeout=20)
        finally:
            running.kill()
    assert running.returncode == 0, said
    assert stats_of()["reason"] == "page_limit"


def test_a_job_of_another_spider_is_refused(crawler: Callable[..., Ended], local: LocalSite) -> None:
    unfinished(crawler, local)
    ended = crawler("run", "covers", "-a", f"site={local.url}", "--job", "jobs/books")
    assert ended.code == 2
    assert "job jobs/books belongs to spider 'books'" in ended.err


# -- run: spiders that cannot be run -----------------------------------------------------------------------------------


def test_an_unknown_spider_is_told_with_the_nearest_name(crawler: Callable[..., Ended]) -> None:
    there_is = "there is account, books, catalogue, covers, messages, shelves, site. Did you mean 'books'?"
    assert crawler("run", "boks") == (2, "", f"crawler: no spider 'boks' under spiders/; {there_is}\n")


def test_a_name_that_two_spiders_have_is_told_with_what_to_type(crawler: Callable[..., Ended]) -> None:
    shutil.copy("spiders/books.py", "spiders/copy_of_books.py")
    ended = crawler("run", "books")
    assert ended.code == 2
    assert "spiders/books.py:Books, spiders/copy_of_books.py:Books" in ended.err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("x = 1\nclass Bad(\n", "line 2: SyntaxError: '(' was never closed"),
    ],
)
def test_a_spider_file_with_an_error_is_told_with_file_and_line(
    source: str, said: str, crawler: Callable[..., Ended]
) -> None:
    write_spider(source, "broken")
    ended = crawler("run", "spiders/broken.py")
    assert ended == (2, "", f"crawler: cannot import spiders/broken.py, {said}\n")
    in_detail = crawler("run", "spiders/broken.py", "-L", "debug")
    assert in_detail.code == 2
    assert "Traceback (most recent call last)" in in_detail.err
    assert in_detail.err.endswith(ended.err)


def test_spiders_dir_says_where_names_are_looked_up(crawler: Callable[..., Ended], shop: Site) -> None:
    Path("spiders").rename("elsewhere")
    ended = crawler(*books_of(shop))
    assert (ended.code, "there is no folder spiders/ here" in ended.err) == (2, True)
    assert crawler(*books_of(shop, "--spiders", "elsewhere", "--limit", "1")).code == 0


def test_a_spider_is_also_a_file_or_a_module_and_class(crawler: Callable[..., Ended], shop: Site) -> None:
    options = ("-a", f"site={shop.url}", "--limit", "1")
    assert crawler("run", "spiders/books.py", *options).code == 0
    assert crawler("run", "spiders/books.py:Books", *options).code == 0
    assert crawler("run", "spiders.books:Books", *options).code == 0
    assert Path("jobs/books/stats.json").is_file()


# -- run: arguments ----------------------------------------------------------------------------------------------------


def test_an_argument_is_converted_to_the_type_that_the_spider_annotates(
    crawler: Callable[..., Ended], shop: Site
) -> None:
    ended = crawler("run", "covers", "-a", f"site={shop.url}", "-a", "pages=1", "-s", "politeness.delay_seconds=0")
    assert ended.code == 0
    assert (stats_of("jobs/covers")["items"], stats_of("jobs/covers")["errors"]) == (20, 0)


def test_an_argument_of_the_wrong_type_is_told(crawler: Callable[..., Ended], shop: Site) -> None:
    ended = crawler("run", "covers", "-a", f"site={shop.url}", "-a", "pages=many")
    assert ended.code == 2
    assert "argument pages of spider 'covers': 'many' is not int" in ended.err
    assert not Path("jobs").exists()


@pytest.mark.parametrize("given", ["site", "=x", "two words=x", "1=x", ""])
def test_what_is_no_name_and_value_is_told_without_the_value(given: str, crawler: Callable[..., Ended]) -> None:
    ended = crawler("run", "books", "-a", given)
    name = "site" if given == "site" else given.partition("=")[0] if given else "…"
    assert ended == (2, "", f"crawler: -a {name}: expected NAME=VALUE, the name an identifier\n")


def test_an_argument_that_would_break_the_spider_is_refused(crawler: Callable[..., Ended]) -> None:
    ended = crawler("run", "books", "-a", "logger=x")
    assert (ended.code, "logger is a part of every spider" in ended.err) == (2, True)


def test_a_misspelled_argument_is_told(crawler: Callable[..., Ended], shop: Site) -> None:
    ended = crawler(*books_of(shop, "-a", "stie=x", "--limit", "1"))
    assert ended.code == 0
    assert "books: nothing is called stie; did you mean -a site=…?" in ended.err
    assert "starting a new crawl" in ended.err.splitlines()[0]


def test_arguments_that_a_constructor_does_not_take_are_told(crawler: Callable[..., Ended]) -> None:
    write_spider(
        """
        from crawler import Spider
        class Own(Spider):
            name = "own"
            def __init__(self, shop):
                super().__init__()
        """
    )
    ended = crawler("run", "own", "-a", "colour=red")
    assert ended.code == 2
    assert "spider 'own' does not take these arguments" in ended.err
    assert "Traceback" not in ended.err


# -- run: settings -----------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-43")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("politeness.delay=1", "-s politeness.delay: unknown key; did you mean politeness.delay_seconds?"),
        ("politeness.delay_seconds=soon", "-s politeness.delay_seconds: expected a number"),
        ("crawl.order=random", '-s crawl.order: expected "breadth" or "depth", got "random"'),
        ("nonsense", "-s nonsense: expected table.key=VALUE"),
    ],
)
def test_a_wrong_setting_on_the_command_line_is_told(setting: str, said: str, crawler: Callable[..., Ended]) -> None:
    ended = crawler("run", "books", "-s", setting)
    assert ended.code == 2
    assert ended.err.startswith(f"crawler: {said}")
    assert not Path("jobs").exists()


def test_a_wrong_setting_in_a_file_is_told_with_the_file(crawler: Callable[..., Ended]) -> None:
    Path("my.toml").write_text('[politeness]\ndelay_seconds = "0"\n')
    assert crawler("run", "books", "-c", "my.toml").err.startswith(
        "crawler: my.toml: politeness.delay_seconds: expected"
    )
    Path("my.toml").write_text("[politeness\n")
    ended = crawler("run", "books", "-c", "my.toml")
    assert (ended.code, ended.err.startswith("crawler: my.toml:1:12:")) == (2, True)
    assert "nowhere.toml: cannot read the settings file" in crawler("run", "books", "-c", "nowhere.toml").err


def test_the_file_in_config_is_read_where_no_other_is_named(crawler: Callable[..., Ended]) -> None:
    Path("config").mkdir()
    Path("config/crawler.toml").write_text("[politeness]\ndelay = 1\n")
    ended = crawler("run", "books")
    assert (ended.code, "config/crawler.toml: politeness.delay: unknown key" in ended.err) == (2, True)


def test_a_wrong_setting_in_the_environment_is_told_with_the_variable(
    crawler: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAWLER_POLITENESS__DELAY", "1")
    ended = crawler("run", "books")
    assert ended.code == 2
    assert (
        "environment variable CRAWLER_POLITENESS__DELAY: unknown key; did you mean CRAWLER_POLITENESS__DELAY_SECONDS?"
        in ended.err
    )


def test_a_wrong_setting_of_a_spider_is_told_with_the_spider(crawler: Callable[..., Ended]) -> None:
    write_spider(
        "from crawler import Spider\nclass Own(Spider):\n    name = 'own'\n    settings = {'http': {'cookies': 3}}\n"
    )
    ended = crawler("run", "own")
    assert (ended.code, "settings of spider own: http.cookies: expected true or false" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--limit", "-1", "--limit: crawl.page_limit: expected a whole number"),
        ("-L", "loud", '-L: log.level: expected "DEBUG" or "INFO"'),
    ],
)
def test_a_wrong_value_of_an_option_is_told_with_the_option(
    option: str, value: str, said: str, crawler: Callable[..., Ended]
) -> None:
    ended = crawler("run", "books", option, value)
    assert (ended.code, said in ended.err) == (2, True)


def test_all_mistakes_are_told_at_once(crawler: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAWLER_HTTP__COOKIE", "1")
    ended = crawler("run", "books", "-s", "crawl.ordr=depth", "-s", "retry.times=x", "--limit", "-1")
    assert len(ended.err.splitlines()) == 4


def test_settings_win_in_the_documented_order(crawler: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def sources(*options: str) -> tuple[str, str]:
        lines = crawler("config", "own", *options).out.splitlines()
        [line] = [line for line in lines if line.startswith("retry.times")]
        _, value, source, *_ = re.split(r"  +", line)
        return value, source

    write_spider("from crawler import Spider\nclass Own(Spider):\n    name = 'own'\n")
    assert sources() == ("3", "default")
    Path("my.toml").write_text("[retry]\ntimes = 4\n")
    assert sources("-c", "my.toml") == ("4", "file my.toml")
    write_spider(
        "from crawler import Spider\nclass Other(Spider):\n    name = 'own'\n    settings = {'retry': {'times': 5}}\n",
        "other",
    )
    Path("spiders/own.py").unlink()
    assert sources("-c", "my.toml") == ("5", "spider own")
    monkeypatch.setenv("CRAWLER_RETRY__TIMES", "6")
    assert sources("-c", "my.toml") == ("6", "environment CRAWLER_RETRY__TIMES")
    assert sources("-c", "my.toml", "-s", "retry.times=7") == ("7", "command line")


# -- run: what is said -------------------------------------------------------------------------------------------------


def test_quiet_says_nothing_when_nothing_is_wrong(crawler: Callable[..., Ended], shop: Site) -> None:
    assert crawler(*books_of(shop, "--quiet")) == (0, "", "")
    assert "starting a new crawl" in Path("jobs/books/crawl.log").read_text(), "the job's log has it all the same"


def test_quiet_does_not_hide_what_is_wrong(crawler: Callable[..., Ended], shop: Site) -> None:
    ended = crawler("run", "account", "-a", f"site={shop.url}", "-a", "password=guessed", "--quiet")
    assert ended.code == 0
    assert len(ended.err.splitlines()) == 1
    assert "the login failed" in ended.err


def test_with_json_logs_every_line_of_standard_error_is_an_object(crawler: Callable[..., Ended], shop: Site) -> None:
    write_spider(
        """
        import logging, warnings
        from crawler import Spider
        class Own(Spider):
            name = "own"
            site = ""
            async def start(self):
                yield self.request(self.site + "/index.html")
            def parse(self, response):
                logging.getLogger("my.module").info("two\\nlines")
                raise ValueError("and a traceback")
        """
    )
    ended = crawler("run", "own", "-a", f"site={shop.url}", "--json-logs")
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert all(set(line) >= {"time", "level", "logger", "message"} for line in lines)
    assert "two\nlines" in [line["message"] for line in lines]
    assert any("and a traceback" in line.get("traceback", "") for line in lines)
    wrong = crawler("run", "nothing", "--json-logs")
    assert (wrong.code, json.loads(wrong.err)["level"]) == (2, "ERROR")
    wrong = crawler(*books_of(shop, "--json-logs", "-o", "x.y"))
    assert (wrong.code, "'x.y'" in json.loads(wrong.err)["message"]) == (2, True)


def test_the_log_level_decides_what_console_and_file_show(crawler: Callable[..., Ended], shop: Site) -> None:
    ended = crawler(*books_of(shop, "-L", "error"))
    assert ended.err.splitlines()[0] == "books: finished"
    assert not Path("jobs/books/crawl.log").exists(), "a file is made by its first line"
    assert "INFO" in crawler(*books_of(shop, "-L", "Info")).err


def test_an_error_in_a_callback_is_shown_with_its_traceback_and_the_crawl_goes_on(
    crawler: Callable[..., Ended], shop: Site
) -> None:
    write_spider(
        """
        from crawler import Spider
        class Own(Spider):
            name = "own"
            site = ""
            async def start(self):
                yield self.request(self.site + "/index.html")
                yield self.request(self.site + "/catalogue/page-2.html")
            def parse(self, response):
                if "page-2" in response.url:
                    yield {"url": response.url}
                else:
                    nothing_of_that_name
        """
    )
    ended = crawler("run", "own", "-a", f"site={shop.url}", "-o", "-", "-s", "politeness.delay_seconds=0")
    assert ended.code == 0
    assert "NameError: name 'nothing_of_that_name' is not defined" in ended.err
    assert "own.py" in ended.err
    assert len(ended.out.splitlines()) == 1
    assert re.search(r"^  failures +callback_error: 1$", ended.err, re.MULTILINE)


# -- run --demo --------------------------------------------------------------------------------------------------------


def test_demo_serves_the_shop_for_the_crawl(crawler: Callable[..., Ended]) -> None:
    ended = crawler("run", "books", "--demo", "--limit", "12", "-o", "-")
    assert ended.code == 0
    items = [json.loads(line) for line in ended.out.splitlines()]
    expected = {book.title: float(book.price) for book in Shop().books}
    assert len(items) == 11
    assert all(expected[item["title"]] == item["price"] for item in items)


def test_demo_hurries_unless_this_command_asks_for_manners(crawler: Callable[..., Ended]) -> None:
    """60 pages with half a second between them take half a minute; 12 with 0.05 s, one at a time, more than 0.4."""
    assert crawler("run", "books", "--demo", "--limit", "60").code == 0
    assert stats_of()["elapsed_seconds"] < 25
    manners = ("politeness.delay_seconds=0.05", "politeness.jitter=0", "politeness.adaptive=false")
    crawler("run", "books", "--demo", "--limit", "12", *(part for one in manners for part in ("-s", one)))
    assert stats_of()["elapsed_seconds"] > 0.4


def test_demo_is_refused_for_a_spider_that_would_not_look_there(crawler: Callable[..., Ended]) -> None:
    write_spider(
        "from crawler import Spider\nclass Own(Spider):\n    name = 'own'\n    start_urls = ['http://127.0.0.1:9/']\n"
    )
    ended = crawler("run", "own", "--demo")
    assert ended.code == 2
    assert "--demo: spider 'own' has no attribute `site`" in ended.err


def test_an_interrupted_demo_goes_on_where_it_was(here: Path) -> None:
    """The shop comes back at its old address, which is where the waiting requests lead."""
    with process("run", "books", "--demo", "-o", "-", cwd=here) as running:
        assert running.stdout is not None
        for _ in range(30):
            assert running.stdout.readline()
        running.send_signal(signal.SIGINT)
        rest, said = running.communicate(timeout=SECONDS)
    assert running.returncode == 75, said
    done = 30 + len(rest.splitlines())
    assert done < 1000, "work was left"
    with process("run", "books", "--demo", "--limit", str(stats_of()["pages"] + 40), cwd=here) as running:
        _, said = running.communicate(timeout=SECONDS)
    assert running.returncode == 0
    assert "continuing the interrupted crawl" in said
    assert (stats_of()["errors"], stats_of()["retries"], stats_of()["hosts"]) == (0, 0, 1)
    assert stats_of()["items"] > done


def test_a_reader_that_has_enough_ends_the_crawl_without_a_complaint(here: Path) -> None:
    with process("run", "books", "--demo", "-o", "-", cwd=here) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert json.loads(running.stdout.readline())["title"]
        running.stdout.close()
        said = running.stderr.read()
        running.wait(timeout=SECONDS)
    assert running.returncode == 75
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


# -- list --------------------------------------------------------------------------------------------------------------


def test_list_shows_names_and_first_docstring_lines(crawler: Callable[..., Ended]) -> None:
    write_spider(
        """
        from crawler import Spider
        class Own(Spider):
            '''First line.

            More.
            '''
            name = "a_longer_name"
        """
    )
    write_spider("from crawler import Spider\nclass Bare(Spider):\n    name = 'bare'\n", "bare")
    ended = crawler("list")
    assert ended.code == 0
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert lines[0] == "a_longer_name  First line."
    assert lines[2] == "bare"
    assert lines[3] == "books          Every book of the demo shop."
    assert len(lines) == 9


def test_list_tells_of_files_that_fail_beside_the_others(crawler: Callable[..., Ended]) -> None:
    write_spider("import nothing_of_that_name\n", "broken")
    ended = crawler("list")
    assert ended.code == 0
    assert len(ended.out.splitlines()) == 7
    assert ended.err.startswith("crawler: cannot import spiders/broken.py, line 1: ModuleNotFoundError")


def test_list_without_a_folder_or_without_spiders_says_so(crawler: Callable[..., Ended]) -> None:
    assert crawler("list", "--spiders", "nowhere").code == 2
    Path("empty").mkdir()
    ended = crawler("list", "--spiders", "empty")
    assert (ended.code, ended.out) == (0, "")
    assert "no file under empty/ has a Spider subclass with a name" in ended.err


# -- config ------------------------------------------------------------------------------------------------------------


def test_config_shows_every_key_in_one_line(crawler: Callable[..., Ended]) -> None:
    import msgspec

    from crawler.settings import Settings

    ended = crawler("config")
    assert (ended.code, ended.err) == (0, "")
    keys = [line.split()[0] for line in ended.out.splitlines()[1:]]
    tables = msgspec.structs.asdict(Settings())
    assert keys == [f"{table}.{key}" for table in tables for key in tables[table].__struct_fields__]
    [line] = [line for line in ended.out.splitlines() if line.startswith("politeness.delay_seconds")]
    assert re.split(r"  +", line) == [
        "politeness.delay_seconds", "0.5", "default", "seconds", "from one request's start to the next one's, per host"
    ]  # fmt: skip


def test_config_shows_where_a_value_came_from_and_no_secret(
    crawler: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAWLER_PROXY__URLS", "http://user:hunter2@proxy.example:8080")
    ended = crawler(
        "config",
        "account",
        "-s",
        "http.host_headers.example.com=X-Api-Key: hunter2",
        "-s",
        "frontier.url=redis://:hunter2@r/0",
    )
    assert "hunter2" not in ended.out + ended.err
    assert re.search(
        r'^http\.host_headers\."example\.com" +"X-Api-Key: \*\*\*" +command line ', ended.out, re.MULTILINE
    )
    assert re.search(r"^proxy\.urls .*proxy\.example:8080.* environment CRAWLER_PROXY__URLS ", ended.out, re.MULTILINE)
    assert re.search(r"^http\.unsafe_cookies +true +spider account ", ended.out, re.MULTILINE)


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_shows_the_latest_job_or_the_one_that_is_named(crawler: Callable[..., Ended], shop: Site) -> None:
    crawler(*books_of(shop))
    crawler("run", "account", "-a", f"site={shop.url}", "--job", "jobs/mine")
    os.utime("jobs/books/stats.json", (1, 1))
    latest = crawler("status")
    assert (latest.code, latest.err) == (0, "")
    assert latest.out.startswith("account: finished\n")
    assert crawler("status", "--job", "jobs/books").out.startswith("books: finished\n")


def test_status_as_json_is_the_stats(crawler: Callable[..., Ended], shop: Site) -> None:
    crawler(*books_of(shop))
    ended = crawler("status", "--json")
    assert json.loads(ended.out) == stats_of()


def test_status_without_a_job_says_so(crawler: Callable[..., Ended]) -> None:
    assert crawler("status") == (2, "", "crawler: there is no job under jobs/; name one with --job DIR\n")
    assert "no job in nowhere" in crawler("status", "--job", "nowhere").err


# -- demo, version, help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_demo_prints_its_address_and_serves_until_it_is_interrupted(ending: signal.Signals, here: Path) -> None:
    with process("demo", "--port", "0", cwd=here) as serving:
        assert serving.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/index\.html", serving.stdout.readline())
        assert found
        with urllib.request.urlopen(found[0]) as page:
            assert b"product_pod" in page.read()
        serving.send_signal(ending)
        out, err = serving.communicate(timeout=SECONDS)
    assert (serving.returncode, out, err) == (0, "", "")


def test_demo_on_a_port_that_is_taken_or_is_none_says_so(crawler: Callable[..., Ended], local: LocalSite) -> None:
    port = local.url.rpartition(":")[2]
    ended = crawler("demo", "--port", port)
    assert ended.code == 2
    assert f"cannot serve on port {port}" in ended.err
    assert "--port 0" in ended.err
    assert crawler("demo", "--port", "99999").code == 2


def test_version_names_itself_and_what_it_runs_on(crawler: Callable[..., Ended]) -> None:
    ended = crawler("version")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == f"crawler {__version__}"
    assert re.match(r"Python 3\.\d+", lines[1])
    assert any(re.fullmatch(r"aiohttp \d.*", line) for line in lines)
    assert crawler("--version").out == f"crawler {__version__}\n"


def test_help_names_every_verb_and_every_option(crawler: Callable[..., Ended]) -> None:
    everything = crawler("--help")
    assert everything.code == 0
    for verb in ("run (crawl)", "list", "fetch", "config", "status", "demo", "version"):
        assert re.search(rf"^    {re.escape(verb)}", everything.out, re.MULTILINE)
    options = crawler("run", "--help").out
    for option in (
        *("-a", "-s", "-c", "-o", "-O", "-L", "--job", "--fresh", "--demo", "--limit", "--json-logs", "--quiet"),
        "--spiders",
    ):
        assert re.search(rf"^  {re.escape(option)}\b", options, re.MULTILINE)
    for code in ("0 finished", "1 failed", "2 bad usage", "69 the disk", "75 stopped early"):
        assert code in " ".join(options.split())


def test_without_a_verb_help_is_shown_and_it_is_bad_usage(crawler: Callable[..., Ended]) -> None:
    ended = crawler()
    assert ended.code == 2
    assert "crawler run books --demo" in ended.err


@pytest.mark.parametrize(
    "arguments", [["fly"], ["run"], ["run", "books", "--limit", "few"], ["fetch"], ["list", "--nothing"]]
)
def test_what_the_grammar_does_not_know_is_bad_usage(arguments: list[str], crawler: Callable[..., Ended]) -> None:
    ended = crawler(*arguments)
    assert ended.code == 2
    assert "usage: crawler" in ended.err
    assert "Traceback" not in ended.err


def test_help_loads_nothing_heavy() -> None:
    heavy = ["asyncio", "aiohttp", "rich", "msgspec", "selectolax", "lmdb", "logging", "pathlib", "inspect"]
    program = f"""
import sys, contextlib, io
from crawler.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
print([name for name in {heavy} if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
                          capture_output=True, text=True, env=environment, check=True)  # fmt: skip
    assert done.stdout == "[]\n"


def test_the_module_is_the_command(here: Path) -> None:
    with process("version", cwd=here) as running:
        out, err = running.communicate(timeout=SECONDS)
    assert (running.returncode, out.splitlines()[0], err) == (0, f"crawler {__version__}", "")


# -- the terminal ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_on_a_terminal_a_live_line_is_drawn_and_taken_away(here: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-P", "-m", "crawler", "run", "books", "--demo", "--limit", "30"]
    with subprocess.Popen(command, cwd=here, env=environment, stdout=subprocess.DEVNULL, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the last process has closed its side
            while piece := os.read(ours, 65536):
                shown += piece
        os.close(ours)
    text = shown.decode()
    assert running.returncode == 0
    assert re.search(r"books  \d+ pages?  [\d.]+/s  \d+ items?  \d+ queued", text)
    assert "\x1b[2K" in text
    assert text.rstrip().splitlines()[-1].split() == ["job", "jobs/books"]
