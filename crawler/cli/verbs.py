"""The verbs that crawl nothing: `list`, `config`, `status`, `demo`, `version`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crawler import __version__
from crawler.cli import EXIT_OK
from crawler.cli.options import load
from crawler.cli.shown import json_line
from crawler.errors import UsageError
from crawler.loader import find_spiders, load_spider

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["config", "demo", "list_spiders", "status", "version"]


def list_spiders(arguments: argparse.Namespace) -> int:
    if not arguments.spiders.is_dir():
        raise UsageError(f"there is no folder {arguments.spiders}/ here; give another with --spiders DIR")
    found = find_spiders(arguments.spiders)
    spiders = sorted((spider for file in found for spider in file.spiders), key=lambda spider: spider.name)
    width = max((len(spider.name) for spider in spiders), default=0)
    for spider in spiders:
        first_line = (spider.__dict__.get("__doc__") or "").strip().partition("\n")[0]
        print(f"{spider.name:<{width}}  {first_line}".rstrip())
    if not spiders:
        print(f"crawler: no file under {arguments.spiders}/ has a Spider subclass with a name", file=sys.stderr)
    for file in found:
        if file.error is not None:
            print(f"crawler: {file.error}", file=sys.stderr)
    return EXIT_OK


def config(arguments: argparse.Namespace) -> int:
    from crawler.settings import describe
    from crawler.spider import Spider

    spider = load_spider(arguments.spider, arguments.spiders) if arguments.spider else Spider
    titles = ("setting", "value", "from", "unit", "meaning")
    rows = [titles, *(tuple(map(str, row)) for row in describe(load(spider, arguments)))]
    if sys.stdout.isatty():
        _print_table(rows)
        return EXIT_OK
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    for row in rows:  # one line each, for grep
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return EXIT_OK


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in rows[0]:
        table.add_column(title, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    Console().print(table)


def status(arguments: argparse.Namespace) -> int:
    from crawler.status import latest_job, read_stats, summary

    job = arguments.job or latest_job(Path("jobs"))
    stats = read_stats(job)
    if arguments.json:
        print(json_line(stats, indent=2))
    else:
        print(summary(stats, (), job))
    return EXIT_OK


def demo(arguments: argparse.Namespace) -> int:
    try:
        asyncio.run(_serve_demo(arguments.port))
    except OSError as error:
        raise UsageError(f"cannot serve on port {arguments.port}: {error.strerror or error}; try --port 0") from error
    return EXIT_OK


async def _serve_demo(port: int) -> None:
    """Until SIGINT or SIGTERM, which is how it is meant to end."""
    import contextlib
    import signal

    from crawler.demo import run_forever

    def ready(url: str) -> None:
        print(f"the demo bookshop is open at {url}/index.html (Ctrl-C closes it)", flush=True)

    serving = asyncio.current_task()
    assert serving is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await run_forever(port=port, ready=ready)


def version(arguments: argparse.Namespace) -> int:
    import platform
    from importlib import metadata

    print(f"crawler {__version__}")
    print(f"Python {platform.python_version()} ({platform.python_implementation()}, {platform.platform()})")
    for name in (
        "aiohttp",
        "aiodns",
        "selectolax",
        "aiofiles",
        "tenacity",
        "lmdb",
        "msgspec",
        "uvloop",
        "parsel",
        "asyncpg",
    ):
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} not installed")
    return EXIT_OK
