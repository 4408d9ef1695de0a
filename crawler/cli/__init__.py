"""`crawler`: the command line. Here is its grammar; each verb is a function of a module beside it, loaded when run."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from crawler import __version__
from crawler.errors import CrawlerError, EngineUnavailable, FetchError, SessionLost, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["main"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 0, 1, 2, 69, 75
DEFAULT_FILE = "config/crawler.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 0 done, 1 failed, 2 bad usage or settings, 69 disk or engine unavailable,
    75 stopped early: run it again to continue. `SystemExit` for `--help` and for what the grammar does not know."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.verb(arguments)
        sys.stdout.flush()
    except UsageError as error:
        return _complain(error, arguments, EXIT_USAGE)
    except SessionLost as error:
        return _complain(error, arguments, EXIT_INTERRUPTED)
    except EngineUnavailable as error:
        if isinstance(error.__cause__, BrokenPipeError):  # `-o - | head`: the crawl is not done, but nothing is wrong
            return _reader_gone(EXIT_INTERRUPTED)
        return _complain(error, arguments, EXIT_UNAVAILABLE)
    except CrawlerError as error:
        return _complain(error, arguments, EXIT_FAILED)
    except BrokenPipeError:
        return _reader_gone(EXIT_OK)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _complain(error: CrawlerError, arguments: argparse.Namespace, code: int) -> int:
    with_traceback = str(getattr(arguments, "level", "")).upper() == "DEBUG"
    from crawler.log import shown, shown_traceback

    message = f"{error} ({error.reason})" if isinstance(error, FetchError) else str(error)
    if getattr(arguments, "json_logs", False):
        import logging

        from crawler.log import console_log

        with console_log("ERROR", as_json=True):
            logging.getLogger("crawler").error("%s", message, exc_info=error if with_traceback else None)
        return code
    if with_traceback:
        print(shown_traceback(error), file=sys.stderr)
    print(f"crawler: {shown(message)}", file=sys.stderr)
    return code


def _reader_gone(code: int) -> int:
    """Whoever read our output has enough; what is still buffered goes nowhere, without a complaint at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


# -- the grammar -----------------------------------------------------------------------------------------------------

_EXAMPLES = """first steps:
  crawler list                                     the spiders under spiders/
  crawler run books --demo -O books.jsonl          a whole crawl, of a bookshop on this machine
  crawler run books -s politeness.delay_seconds=2  a setting for this run; crawler config shows all
  crawler fetch https://example.com/ --headers     one request, through everything a crawl has
  crawler jobs                                     the jobs under jobs/, and how they stand
  crawler explain https://example.com/             what became of one URL in a job, and why
  crawler politeness example.com                   how a host of a job is treated, and why it waits
"""
_EXITS = (
    "exit codes: 0 finished (a reached limit is a finish); 1 failed; 2 bad usage or settings; 69 the disk or the "
    "frontier's engine is unavailable; 75 stopped early by a signal, the same command continues"
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crawler",
        description="An asynchronous web crawler framework.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"crawler {__version__}")
    parser.set_defaults(verb=lambda _: _no_verb(parser))
    verbs = parser.add_subparsers(title="verbs (crawler VERB --help says more)", metavar="VERB")
    _add_run(verbs)
    listing = verbs.add_parser("list", help="spiders and what they say of themselves")
    _add_spiders(listing)
    listing.set_defaults(verb=_verb("verbs", "list_spiders"))
    _add_fetch(verbs)
    config = verbs.add_parser("config", help="every setting, its value, where it came from, its unit and meaning")
    config.add_argument("spider", nargs="?", metavar="SPIDER", help="with this spider's own settings")
    _add_spiders(config)
    _add_settings(config)
    config.set_defaults(verb=_verb("verbs", "config"))
    status = verbs.add_parser("status", help="what a job did")
    _add_job(status)
    status.add_argument("--json", action="store_true", help="what is in its stats.json")
    status.set_defaults(verb=_verb("verbs", "status"))
    _add_explain(verbs)
    _add_politeness(verbs)
    _add_jobs(verbs)
    demo = verbs.add_parser("demo", help="serve the demo bookshop on loopback until interrupted")
    demo.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default: 8000)")
    demo.set_defaults(verb=_verb("verbs", "demo"))
    version = verbs.add_parser("version", help="versions of crawler and of what it runs on")
    version.set_defaults(verb=_verb("verbs", "version"))
    return parser


def _add_run(verbs: Any) -> None:
    run = verbs.add_parser(
        "run",
        aliases=["crawl"],
        help="run a spider",
        description="Run a spider. The same command continues an interrupted crawl, and starts a new one otherwise.",
        epilog=_EXITS,
    )
    run.add_argument("spider", metavar="SPIDER", help="a name under spiders/, module:Class, or path/to/file.py[:Class]")
    _add_spiders(run)
    run.add_argument("-a", dest="args", action="append", default=[], metavar="NAME=VALUE", help="spider argument")
    _add_settings(run)
    run.add_argument(
        "-o",
        dest="append",
        action="append",
        default=[],
        metavar="FILE",
        help="append items; .jsonl, .jsonl.gz, .jsonl.zst, .json, .csv or .db; - is standard output, as JSON lines; "
        "may be given again",
    )
    run.add_argument("-O", dest="overwrite", action="append", default=[], metavar="FILE", help="overwrite with items")
    run.add_argument("--job", type=_path, metavar="DIR", help="the job's folder (default: jobs/SPIDER)")
    run.add_argument("--fresh", action="store_true", help="discard an unfinished job")
    run.add_argument(
        "--refresh", action="store_true", help="visit the pages of a finished job again; unchanged ones cost little"
    )
    run.add_argument("--only-changed", action="store_true", help="with --refresh: no items of unchanged pages")
    run.add_argument(
        "--demo", action="store_true", help="serve the demo bookshop meanwhile, and pass its address as -a site="
    )
    run.add_argument("--limit", type=int, metavar="N", help="stop after N pages; 0: no limit")
    run.add_argument("--json-logs", action="store_true", help="one JSON object a log line, and no summary")
    run.add_argument("--quiet", action="store_true", help="only warnings and errors: no progress and no summary")
    run.set_defaults(verb=_verb("run", "run"))


def _add_fetch(verbs: Any) -> None:
    """Its many options are added when it is the verb: each costs every other start 0.1 ms."""
    fetch = verbs.add_parser("fetch", help="one request through the whole stack; prints the body")
    parse = fetch.parse_known_args

    def parse_with_options(*arguments: Any) -> Any:
        from crawler.cli.fetch_options import add_options

        fetch.parse_known_args = parse
        add_options(fetch)
        _add_settings(fetch.add_argument_group("settings"))
        return parse(*arguments)

    fetch.parse_known_args = parse_with_options
    fetch.set_defaults(verb=_verb("fetch", "fetch"), complain=fetch.error)


def _add_explain(verbs: Any) -> None:
    explain = verbs.add_parser(
        "explain",
        help="what became of one URL in a job, and why",
        description="What became of one URL in a job, running or not, and why: it waits, it is done, it failed, it was "
        "refused, it was never met; and the way to it from the start. For plain GET requests: those with another "
        "method, a body, a session or a key of their own are other requests.",
        epilog="exit codes: 0 something is known of the URL; 1 it was never met; 2 bad usage; 69 the job is damaged",
    )
    explain.add_argument("url", metavar="URL")
    _add_job(explain)
    explain.add_argument("--json", action="store_true", help="all that is known, as a JSON object")
    explain.set_defaults(verb=_verb("explain", "explain"))


def _add_politeness(verbs: Any) -> None:
    politeness = verbs.add_parser(
        "politeness",
        help="how a host of a job is treated, and why it waits now",
        description="How one host of a job, running or not, is treated: its delay and why it is that, its latency, "
        "what went wrong there, and why it waits now.",
        epilog="exit codes: 0 the job knows the host; 1 it does not; 2 bad usage; 69 the job is damaged",
    )
    politeness.add_argument("host", metavar="HOST", help="example.com, example.com:8080 or a URL")
    politeness.add_argument(
        "--job", type=_path, metavar="DIR", help="the job's folder (default: the latest under jobs/)"
    )
    politeness.add_argument("--json", action="store_true", help="all that is known, as a JSON object")
    politeness.set_defaults(verb=_verb("politeness", "politeness"))


def _add_jobs(verbs: Any) -> None:
    jobs = verbs.add_parser(
        "jobs",
        help="how jobs stand; rm, frontier, export, repair",
        description="Job folders: how they stand, what waits in them, their items, and what to do with damaged ones.",
    )
    parse = jobs.parse_known_args

    def parse_with_verbs(arguments: Any, *rest: Any) -> Any:
        from crawler.cli.jobs_options import add_verbs, with_verb

        jobs.parse_known_args = parse
        add_verbs(jobs, lambda name: _verb("jobs", name))
        return parse(with_verb(list(arguments)), *rest)

    jobs.parse_known_args = parse_with_verbs


def _add_spiders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spiders", type=_path, default="spiders", metavar="DIR", help="where names are looked up (default: spiders)"
    )


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job", type=_path, metavar="DIR", help="the job's folder (default: the latest under jobs/)")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="setting table.key=VALUE"
    )
    parser.add_argument("-c", dest="file", type=_path, metavar="FILE", help=f"settings file (default: {DEFAULT_FILE})")
    parser.add_argument("-L", dest="level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")


def _path(text: str) -> Path:
    from pathlib import Path

    return Path(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def _no_verb(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return EXIT_USAGE


def _verb(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A verb that is imported when it is asked for: `crawler --help` needs none of them."""

    def run(arguments: argparse.Namespace) -> int:
        code: int = getattr(importlib.import_module(f"crawler.cli.{module}"), name)(arguments)
        return code

    return run
