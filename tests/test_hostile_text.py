"""What a site says stays text: it writes no second item, no line of the log, and nothing to the terminal."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import pty
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from test_cli import in_thread

from crawler import Spider
from crawler.cli import main
from crawler.testing import RawServer, run_spider

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

TITLES = [
    'x\n{"title":"fake"}', 'x\r\n"fake"\r\n', "x\rfake", '","title":"fake"}\n{"a":"', '"]\n["fake"]', "x\u2028a\u2029b",
    "\x85fake", "\x0b\x0c\x1c\x1d\x1efake", "\x00fake", "lone \ud83d surrogate", "\udc80\udcff", "\\", '"', "'", ",",
    "", "\ufeff", "'); DROP TABLE items; --", "\x1a", "\x7f", "fake\n" * 50,
]  # fmt: skip


@pytest.fixture(autouse=True)
def pytest_hears_nothing() -> Iterator[None]:
    """It keeps what is logged for its report, and cannot pass a lone surrogate on to the process that collects them."""
    keepers = [each for each in logging.getLogger().handlers if type(each).__name__ == "LogCaptureHandler"]
    levels = [each.level for each in keepers]
    for each in keepers:
        each.setLevel(logging.CRITICAL + 1)
    yield
    for each, level in zip(keepers, levels, strict=True):
        each.setLevel(level)


class Tells(Spider):
    name = "tells"

    async def start(self) -> Any:
        for number, title in enumerate(TITLES):
            self.logger.info("title %s", title)
            yield {"n": number, "title": title}


def clean(text: str) -> str:
    """As every format has it: a lone surrogate has no UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@pytest.mark.hostile("S35")
async def test_an_item_is_one_item_in_every_output_and_the_log_whatever_is_in_its_text(tmp_path: Path) -> None:
    names = ("out.jsonl", "out.csv", "out.json", "out.jsonl.gz", "out.db")
    await run_spider(Tells, job=tmp_path / "job", output=[tmp_path / name for name in names])
    lines = (tmp_path / "out.jsonl").read_text("utf-8").split("\n")
    assert lines.pop() == ""
    items = [json.loads(line) for line in lines]
    assert [item["n"] for item in items] == list(range(len(TITLES)))
    assert [item["title"] for item in items] == list(map(clean, TITLES))
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == items
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()) == (tmp_path / "out.jsonl").read_bytes()
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row["n"] for row in rows] == [str(item["n"]) for item in items]
    with sqlite3.connect(tmp_path / "out.db") as database:
        assert database.execute("SELECT n, title FROM items").fetchall() == [(i["n"], i["title"]) for i in items]
    database.close()
    log = (tmp_path / "job" / "crawl.log").read_text("utf-8")
    assert len(re.findall("title ", log)) == len(log.splitlines()) - 2  # it begins and ends with a line of the crawl's
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in log.splitlines())


def test_standard_output_has_a_line_for_each_item(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "tells.py").write_text(
        f"from crawler import Spider\nclass Tells(Spider):\n name = 'tells'\n async def start(self):\n"
        f"  for title in {TITLES!a}:\n   yield {{'title': title}}\n"
    )
    code, out, _ = command("run", "tells.py", "-o", "-")
    assert (code, out.count("\n")) == (0, len(TITLES))
    assert [json.loads(line)["title"] for line in out.split("\n")[:-1]] == list(map(clean, TITLES))


# -- control characters ------------------------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\x08\x7f\u202egnp\u2066\u2028[red]bold[/red]"
FORGED = f"{EVIL}\n2026-01-01 00:00:00.000 ERROR fake: a record"
RAW = re.compile(
    "\x1b\\]|\x1b\\[31m|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""What a terminal or an editor would act on, but for what the live line itself draws with: CSI, CR and LF."""

SPIDER = f'''
from crawler import Spider

EVIL = {FORGED!a}


class Reads(Spider):
    """Says what it reads."""

    name = "reads"
    site = ""

    async def start(self):
        yield self.request(self.site + "/evil?q=" + EVIL)
        yield self.request(self.site + "/refused")
        yield self.request(self.site + "/away")
        yield self.request(self.site + "/again")

    def parse(self, response):
        self.stats.count("seen " + EVIL)
        self.logger.info("%s %s %s", response.reason, response.headers.get("X-Evil"), response.text * 50_000)
        self.logger.warning(EVIL)
        yield {{"title": "x"}}
        raise ValueError(EVIL * 1000)
'''


def evil_answer(status: bytes, *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status + b" " + EVIL[:19].encode("latin-1"), b"X-Evil: " + EVIL.encode(), *fields]
    return b"\r\n".join(
        [*lines, b"Set-Cookie: " + EVIL.encode() + b"=1; Domain=x.test", b"Content-Length: 1", b"", b"T"]
    )


def evil_site() -> RawServer:
    robots = f"User-agent: *\nDisallow: /refused{EVIL}\nDisallow: /refused*{EVIL}*\nDisallow: /refused".encode()
    pages = {
        b"/robots.txt": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(robots), robots),
        b"/evil": evil_answer(b"200"),
        b"/away": evil_answer(b"302", b"Location: ftp://x/" + EVIL.encode()),
        b"/again": evil_answer(b"404"),
    }

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = server.requests[-1].split()[1].partition(b"?")[0]
        writer.write(pages[path])

    server = RawServer(script)
    return server


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Standard output and error are one; what comes out of it."""
    ours, theirs = pty.openpty()
    came: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                came.append(data)
        except OSError:  # Linux's way to say that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8", closefd=False) as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        patched.setattr(sys, "stderr", stream)
        yield came
    os.close(theirs)
    reader.join()
    os.close(ours)


RUN = ("run", "reads.py", "-s", "politeness.delay_seconds=0", "-s", "crawl.keep_validators=false", "-L", "DEBUG")
REPORTS = (
    ("status",), ("status", "--json"), ("jobs",), ("jobs", "--json"), ("jobs", "frontier", "jobs/reads"),
    ("config", "reads.py"), ("list", "--spiders", "."),
)  # fmt: skip


@pytest.mark.hostile("S36")
@pytest.mark.parametrize("to", ["a terminal", "a file", "a file, as JSON"])
def test_nothing_a_site_sends_reaches_log_or_terminal_as_a_control_character(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    (tmp_path / "reads.py").write_text(SPIDER)
    with in_thread(evil_site()) as site:
        base, host = site.url[:-1], f"{site.host}:{site.port}"
        arguments: list[tuple[str, ...]] = [
            (*RUN, "-a", f"site={base}", *(["--json-logs"] if to == "a file, as JSON" else [])),
            *REPORTS,
            ("politeness", host),
            *(("explain", f"{base}{path}") for path in (f"/evil?q={EVIL}", "/refused", "/away", "/again", f"/{EVIL}")),
            ("explain", f"{base}/refused", "--json"),
            ("fetch", f"{base}/evil", "--headers"),
            ("fetch", f"{base}/evil", "--trace", "-L", "DEBUG"),
            ("fetch", f"{base}/away", "-L", "DEBUG"),
            ("fetch", f"{base}/again", "--fail", "-L", "DEBUG", *([] if to == "a file" else ["--json"])),
            ("fetch", f"{base}/refused"),
            ("run", f"{EVIL}.py"),
            ("run", "reads.py", "-s", f"{EVIL}=1"),
            ("status", "--job", f"{EVIL}"),
            ("explain", f"ftp://{EVIL}"),
        ]
        if to == "a terminal":
            with terminal(monkeypatch) as came:
                codes = [_code(each) for each in arguments]
            said = b"".join(came).decode()
        else:
            ended = [command(*each) for each in arguments]
            codes, said = [code for code, *_ in ended], "".join(f"{out}{err}" for _, out, err in ended)
    assert set(codes) <= {0, 1, 2}
    assert codes[0] == 0
    log = (tmp_path / "jobs" / "reads" / "crawl.log").read_text("utf-8")
    for text in (said, log):
        assert "owned" in text
        assert [text[max(0, found.start() - 60) : found.end() + 20] for found in RAW.finditer(text)] == []
        assert "[red]bold[/red]" in text  # which is no markup here
        assert "\n2026-01-01" not in text
        assert max(map(len, text.splitlines())) < (60_000 if "JSON" in to else 10_000)
    if to == "a terminal":
        assert "\x1b[2K" in said  # the live line was drawn
    else:
        assert "\x1b" not in said
        assert "\r" not in said


def _code(arguments: tuple[str, ...]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.hostile("S36", "S50")
def test_what_ends_the_process_shows_neither_control_characters_nor_secrets(tmp_path: Path) -> None:
    text = f"{EVIL} http://user:s3cret@h.test/?token=s3cret"
    (tmp_path / "opens.py").write_text(
        "from crawler import Spider\nclass Opens(Spider):\n name = 'opens'\n async def opened(self):\n"
        f"  raise ValueError({text!a})\n"
    )
    command = (sys.executable, "-m", "crawler", "run", "opens.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    said = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == 1
    assert "ValueError: \\x1b]0;owned" in said
    assert "s3cret" not in said
    assert not RAW.search(said)
