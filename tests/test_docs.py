"""Documents run: every code block of README and reference, every command of README."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import pytest

from crawler.cli import main
from crawler.spider import Spider
from crawler.testing import LocalSite, run_spider

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
TESTING = (ROOT / "docs" / "testing.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def defined(block: str) -> dict[str, object]:
    module = types.ModuleType("documentation")
    sys.modules["documentation"] = module  # where dataclasses look for their own module
    exec(compile(block, "documentation", "exec"), vars(module))
    return vars(module)


def spiders_in(block: str) -> list[type[Spider]]:
    return [
        value
        for value in defined(block).values()
        if isinstance(value, type) and issubclass(value, Spider) and value is not Spider
    ]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with what README's reader has: spiders and settings."""
    shutil.copytree(ROOT / "spiders", tmp_path / "spiders", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_is_short():
    assert README.count("\n") < 150


def test_the_first_spider_gives_every_book_of_the_demo_shop(checkout):
    (checkout / "my_spider.py").write_text(blocks(README, "python")[0])
    assert main(["run", "my_spider.py", "--demo", "--limit", "120", "-O", "books.json", "--quiet"]) == 0
    books = json.loads((checkout / "books.json").read_text())
    assert len(books) > 90
    assert {tuple(book) for book in books} == {("title", "price", "url")}
    assert all(book["title"] and book["price"] > 0 for book in books)


def test_the_commands_of_the_readme_run(checkout):
    commands = [line.split("#")[0].strip() for block in blocks(README, "sh") for line in block.splitlines()]
    ours = [shlex.split(command)[1:] for command in commands if command.startswith(".venv/bin/crawler")]
    assert [command[0] for command in ours] == ["list", "run", "status", "run"]
    for command in ours:
        if "--demo" in command:
            command += ["--limit", "30"]
        if "start=https://example.com/" in command:
            continue  # the network is not ours; the site spider has tests of its own
        assert main(command) == 0
    assert (checkout / "books.jsonl").exists()


async def test_the_python_of_the_readme_runs(tmp_path):
    first, second = blocks(README, "python")
    names = defined(first)
    body = "".join(f"    {line}\n" for line in second.splitlines() if not line.startswith(("from ", "run(")))
    async with LocalSite() as site:
        site.page("/index.html", "<article class=product_pod><h3><a href=/b>B</a></h3></article>")
        site.page("/b", "<h1>B</h1><p class=price_color>£1.50</p>")
        books = names["Books"]
        books.site = site.url
        books.settings = {"politeness": {"delay_seconds": 0}}
        from crawler import crawl, stream

        names.update(crawl=crawl, stream=stream, url=site.url)
        exec("async def shown():\n" + body.replace('"books.jsonl"', repr(str(tmp_path / "books.jsonl"))), names)
        await names["shown"]()
    (line,) = (tmp_path / "books.jsonl").read_text().splitlines()
    assert json.loads(line)["price"] == 1.5


@pytest.mark.parametrize("block", blocks(TESTING, "python"), ids=lambda block: block.split("\n")[2][:40])
async def test_the_tests_of_the_testing_page_pass(block, tmp_path):
    tests = [value for name, value in defined(block).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        arguments = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}
        await asyncio.wait_for(test(**arguments), 20)


@pytest.mark.parametrize("block", blocks(REFERENCE, "python"), ids=lambda block: block.split("\n")[2][:40])
async def test_the_code_of_the_reference_runs(block, tmp_path):
    names = defined(block)
    for name, value in names.items():
        if name.startswith("test_"):
            result = value()
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, 20)
    async with LocalSite() as site:
        site.page("/", "<div class=quote><span class=text>Q</span></div><tr><th>n</th></tr>")
        site.page("/big.zip", b"z" * 1000, content_type="application/zip")
        for spider in spiders_in(block):
            if hasattr(spider, "site"):
                spider.site = site.url
            else:
                spider.start_urls, spider.allowed_domains = [site.url + "/"], []
            run = await run_spider(spider, job=tmp_path / spider.name)
            assert (run.reason, run.stats["errors"]) == ("finished", 0)
