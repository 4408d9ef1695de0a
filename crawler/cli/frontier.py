"""`crawler frontier`: create, status, pause, resume, drain, stop, rm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from crawler import operate
from crawler.cli import EXIT_FAILED, EXIT_OK
from crawler.cli.options import load
from crawler.cli.shown import json_line, print_rows, print_table, span
from crawler.frontier.broker import Control
from crawler.loader import load_spider
from crawler.spider import Spider
from crawler.status import size_text

if TYPE_CHECKING:
    import argparse

__all__ = ["control", "create", "remove", "status"]

_WORDS = {
    "pause": Control.PAUSED,
    "resume": Control.RUNNING,
    "drain": Control.DRAINING,
    "stop": Control.STOPPED,
}


def create(arguments: argparse.Namespace) -> int:
    spider = load_spider(arguments.spider, arguments.spiders)
    is_new = operate.create(load(spider, arguments).settings, spider.name)
    print(f"crawler: crawl {spider.name!r} is made" if is_new else f"crawler: crawl {spider.name!r} is there already")
    return EXIT_OK


def status(arguments: argparse.Namespace) -> int:
    found = operate.report(load(Spider, arguments).settings.frontier, arguments.crawl)
    if arguments.json:
        print(json_line(found, indent=2))
        return EXIT_OK
    print_rows(found["crawl"], _rows(found))
    if found["workers"]:
        rows = [(each["name"], span(each["heard_of_seconds_ago"]) + " ago") for each in found["workers"]]
        print()
        print_table(("worker", "heard of"), rows)
    return EXIT_OK


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    counts = found["counts"]
    reason = f" ({found['reason']})" if found["reason"] else ""
    waiting = "; all wait for their hosts' turns" if counts["queued"] and not found["due_hosts"] else ""
    left = found["pages_left"]
    return [
        ("state", f"{found['control']}{reason}"),
        ("waiting", f"{counts['queued']}{waiting}"),
        ("under way", str(counts["leased"])),
        ("done", str(counts["completed"])),
        ("hosts", f"{counts['hosts']} met, {counts['active_hosts']} with work, {found['due_hosts']} due"),
        *([] if left is None else [("pages left", f"{left} of {found['page_limit']}")]),
        ("workers", str(len(found["workers"]))),
        ("engine's memory", size_text(found["memory_bytes"])),
    ]


def control(arguments: argparse.Namespace) -> int:
    to = _WORDS[arguments.word]
    operate.control(load(Spider, arguments).settings.frontier, arguments.crawl, to, "the operator said so")
    print(f"crawler: crawl {arguments.crawl!r} is {to.value}")
    return EXIT_OK


def remove(arguments: argparse.Namespace) -> int:
    if operate.discard(load(Spider, arguments).settings.frontier, arguments.crawl):
        print(f"crawler: crawl {arguments.crawl!r} is removed; outputs stay")
        return EXIT_OK
    print(f"crawler: there is no crawl {arguments.crawl!r}", file=sys.stderr)
    return EXIT_FAILED
