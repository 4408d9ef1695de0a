"""The grammar of `crawler frontier`, added when it is the verb: it costs other starts nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_verbs"]

_CONTROLS = {
    "pause": "workers finish what they have, and wait",
    "resume": "workers go on",
    "drain": "workers finish what they have, and end with exit code 75",
    "stop": "workers give back what they have, and end with exit code 75",
}


def add_verbs(parser: Any, verb: Callable[[str], Any], add_settings: Callable[[Any], None]) -> None:
    """`verb` gives the function of that name in `crawler.cli.frontier`."""
    verbs = parser.add_subparsers(title="verbs (crawler frontier VERB --help says more)", metavar="VERB", required=True)
    create = verbs.add_parser(
        "create",
        help="make a crawl for workers to join, if it is not there",
        description="Make a crawl that workers share, as the spider's settings say. Nothing is fetched: the first "
        "worker runs start(). A crawl that is there already stays as it is.",
    )
    create.add_argument("spider", metavar="SPIDER", help="as for crawler run")
    create.add_argument(
        "--spiders", type=Path, default="spiders", metavar="DIR", help="where names are looked up (default: spiders)"
    )
    create.set_defaults(verb=verb("create"))
    status = verbs.add_parser("status", help="how a crawl stands, and who works at it")
    status.add_argument("--json", action="store_true", help="all that is known, as a JSON object")
    status.set_defaults(verb=verb("status"))
    named = [status]
    for name, meaning in _CONTROLS.items():
        control = verbs.add_parser(name, help=meaning, description=f"From within a second on, {meaning}.")
        control.set_defaults(verb=verb("control"), word=name)
        named.append(control)
    remove = verbs.add_parser("rm", help="remove a crawl from the engine; outputs stay")
    remove.set_defaults(verb=verb("remove"))
    for each in (*named, remove):
        each.add_argument("crawl", metavar="NAME", help="the crawl: its spider's name, or frontier.crawl")
    for each in (create, *named, remove):
        each.add_argument("--frontier", metavar="URL", help="redis://HOST:PORT/DB (default: frontier.url)")
        add_settings(each)
