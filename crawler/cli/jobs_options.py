"""The grammar of `crawler jobs`, added when it is the verb: it costs other starts nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VERBS", "add_verbs", "with_verb"]

VERBS = ("list", "rm", "frontier", "export", "repair")


def with_verb(arguments: list[str]) -> list[str]:
    """`crawler jobs DIR` and `crawler jobs --json` are `crawler jobs list …`."""
    first = arguments[0] if arguments else ""
    return arguments if first in (*VERBS, "-h", "--help") else ["list", *arguments]


def add_verbs(parser: argparse.ArgumentParser, verb: Callable[[str], Any]) -> None:
    """`verb` gives the function of that name in `crawler.cli.jobs`."""
    verbs = parser.add_subparsers(title="verbs (crawler jobs VERB --help says more)", metavar="VERB")
    listing = verbs.add_parser(
        "list",
        help="how the jobs stand; the verb where none is given",
        description="How the jobs in a folder stand, or the one job that it is. Nothing is written. A job that says "
        "that it runs, while no process works on it, was killed.",
    )
    listing.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="a folder of jobs, or a job (default: jobs)"
    )
    listing.add_argument("--json", action="store_true", help="a JSON object a line")
    listing.set_defaults(verb=verb("listing"))
    remove = verbs.add_parser(
        "rm",
        help="remove jobs; outputs stay",
        description="Remove what the crawler made in these folders, and each folder if nothing else is in it. Outputs "
        "and files that are not the crawler's stay, and are named.",
    )
    remove.add_argument("jobs", nargs="+", type=Path, metavar="DIR")
    remove.set_defaults(verb=verb("remove"))
    _add_frontier(verbs, verb)
    _add_export(verbs, verb)
    _add_repair(verbs, verb)


def _add_frontier(verbs: Any, verb: Callable[[str], Any]) -> None:
    waiting = verbs.add_parser(
        "frontier",
        help="what waits, by host and by what it waits for",
        description="What waits in a job, running or not: for its host's next turn (ready), for another try (retry), "
        "for its time (not before), for the end of a pause that its host asked for (paused). Requests that are being "
        "fetched right now are among them.",
    )
    waiting.add_argument("job", type=Path, metavar="DIR")
    waiting.add_argument("--host", metavar="HOST", help="this host's requests, in their order (example.com:443)")
    waiting.add_argument(
        "--limit", type=_count, default=20, metavar="N", help="hosts or requests shown (default: 20; 0: all)"
    )
    waiting.add_argument("--json", action="store_true", help="a JSON object; with --host one a request")
    waiting.set_defaults(verb=verb("frontier"))


def _add_export(verbs: Any, verb: Callable[[str], Any]) -> None:
    export = verbs.add_parser(
        "export",
        help="the items of a job, finished or running",
        description="The items that a job has committed to an output, up to now. Of several outputs the one that keeps "
        "values best is read: JSON lines, SQLite, JSON, CSV.",
    )
    export.add_argument("job", type=Path, metavar="DIR", help="with --frontier: the crawl's name")
    export.add_argument(
        "--frontier",
        metavar="URL",
        help="of a crawl that many workers share: the committed part of each one's output, joined",
    )
    export.add_argument("--parts", type=Path, metavar="DIR", help="where the parts of all machines were collected")
    export.add_argument(
        "-o",
        dest="output",
        default="-",
        metavar="FILE",
        help="overwritten; format by suffix (default: - as JSON lines)",
    )
    export.set_defaults(verb=verb("export"), sets=[], file=None, level=None)


def _add_repair(verbs: Any, verb: Callable[[str], Any]) -> None:
    repair = verbs.add_parser(
        "repair",
        help="check a job from end to end, and save what can be saved",
        description="Check a job from end to end. What is damaged is named; a frontier of all that can be read takes "
        "the place of a damaged one, which is kept beside it as frontier.damaged; an output with a torn end is set "
        "back to its last whole item. The same `crawler run` then continues.",
    )
    repair.add_argument("job", type=Path, metavar="DIR")
    repair.set_defaults(verb=verb("repair"))


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, 0 or more, got {text!r}")
    return int(text)
