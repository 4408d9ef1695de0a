"""Answers that chance has changed, through the real client, and headers that name modules. `make fuzz` sends 20,000."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.responses import Fuzz, client, documented_reasons, parser

from crawler import FetchError, Request
from crawler.fate import REFUSALS
from crawler.testing import RawServer

ROOT = Path(__file__).resolve().parent.parent.parent
COUNT = 300


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.hostile("S29", "R-18")
async def test_a_mutated_answer_is_a_response_or_a_documented_failure() -> None:
    fuzz = Fuzz(seed=1)
    await fuzz.run(range(COUNT))
    assert not fuzz.failures, fuzz.failures[0]
    assert parser() == "C"
    assert sum(fuzz.outcomes.values()) == COUNT
    assert {"status 2xx", "protocol", "disconnected", "body_truncated", "body_encoding"} <= set(fuzz.outcomes)


@pytest.mark.hostile("S29")
def test_so_it_is_for_aiohttps_parser_in_python() -> None:
    done = run("tests/fuzz/responses.py", "--count", str(COUNT), "--seed", "2", AIOHTTP_NO_EXTENSIONS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{COUNT} answers, seed 2, parser in Python" in done.stdout


def test_an_answer_that_goes_wrong_is_shown_with_what_it_takes_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz = Fuzz(seed=3)
    fuzz._failed(7, "it hangs")
    assert fuzz.failures[0].startswith("--seed 3 --only 7: it hangs\nCase(data=b")


async def test_a_stream_whose_connection_went_before_it_was_read_on_is_a_failure_of_the_body() -> None:
    garbled, gone = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await garbled.wait()
        writer.write(b"no size of a chunk\r\n")
        await reader.read()  # until the client leaves
        gone.set()

    async with RawServer(script) as server, client(keepalive_seconds=15.0) as downloader:
        response = await downloader.fetch(Request(server.url, stream=True))
        garbled.set()
        await gone.wait()
        assert response.content is not None
        with pytest.raises(FetchError):
            await response.content.read()


def test_every_reason_of_the_source_is_documented() -> None:
    """As words of `stats.json`, they are a promise."""
    known = documented_reasons() | REFUSALS.keys()
    found = {
        (path.name, node.value.value)
        for path in (ROOT / "crawler").rglob("*.py")
        if 'reason="' in (source := path.read_text(encoding="utf-8"))
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and re.search(r"Error$|Blocked$", ast.unparse(call.func))
        for node in call.keywords
        if node.arg == "reason" and isinstance(node.value, ast.Constant)
    }
    assert len(found) > 15
    assert {(name, reason) for name, reason in found if reason not in known} == set()


NAMING = """
import asyncio, sys
from crawler import Spider
from crawler.testing import LocalSite, run_spider

NAMES = [
    "planted", "planted.sub", "planted:call", "os.system", "antigravity", "../planted", "planted.py",
    "__import__('planted')",
]
FIELDS = [
    "Referrer-Policy", "Content-Disposition", "Set-Cookie", "Link", "Refresh", "X-Robots-Tag", "ETag", "Retry-After",
    "WWW-Authenticate", "Content-Language", "Last-Modified", "Cache-Control", "Vary", "Server", "Accept-Ranges",
    "Content-Range",
]

class Reads(Spider):
    name = "reads"
    site = ""

    async def start(self):
        for number in range(len(NAMES) + 1):
            yield self.request(f"{self.site}/{number}")

    def parse(self, response):
        read = (response.text, response.encoding, response.cookies, response.robots, response.links())
        yield {"read": str(read), "title": response.css("title::text").get()}

async def crawl(names):
    async with LocalSite() as site:
        site.page("/0", "<title>warm</title><a href=x>x</a>", headers=dict.fromkeys(FIELDS, "a"))
        for number, name in enumerate(names, 1):
            page = f"<meta charset={name}><meta name=robots content={name}><title>{name}</title><a href='{name}:x'></a>"
            headers = {"Content-Type": f"text/html; charset={name}", **dict.fromkeys(FIELDS, name)}
            site.page(f"/{number}", page, headers=headers)
        return len((await run_spider(Reads, args={"site": site.url})).items)

asyncio.run(crawl([f"warm{number}" for number in range(len(NAMES))]))  # what is loaded lazily
imported = []
sys.addaudithook(lambda event, given: imported.append(str(given[0])) if event == "import" else None)
found = asyncio.run(crawl(NAMES))
print(found, [each for each in imported if "planted" in each or each in NAMES], "planted" in sys.modules)
"""


@pytest.mark.hostile("S38")
def test_no_header_of_a_site_is_a_reason_to_import_anything(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    done = run("-c", NAMING, PYTHONPATH=os.pathsep.join([str(ROOT), str(tmp_path)]))
    assert done.stdout == "9 [] False\n", done.stdout + done.stderr
