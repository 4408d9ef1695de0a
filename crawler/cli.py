"""`crawler`: the command line. Each verb is a function; heavy modules load only in the verb that needs them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler import __version__
from crawler.errors import CrawlerError, EngineUnavailable, FetchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.assemble import Crawl, Result
    from crawler.settings import Layer, Loaded
    from crawler.spider import Spider

__all__ = ["main"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 0, 1, 2, 69, 75
_EXIT_CODES = {"failed": EXIT_FAILED, "error_limit": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED}
_DEFAULT_FILE = Path("config/crawler.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 0 done, 1 failed, 2 bad usage or settings, 69 disk or engine unavailable,
    75 stopped early: run it again to continue."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.verb(arguments)
    except UsageError as error:
        return _complain(error, arguments, EXIT_USAGE)
    except EngineUnavailable as error:
        return _complain(error, arguments, EXIT_UNAVAILABLE)
    except CrawlerError as error:
        return _complain(error, arguments, EXIT_FAILED)
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _complain(error: CrawlerError, arguments: argparse.Namespace, code: int) -> int:
    if str(getattr(arguments, "level", "")).upper() == "DEBUG":
        import traceback

        traceback.print_exception(error)
    print(f"crawler: {error}", file=sys.stderr)
    return code


# -- the grammar -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crawler", description="An asynchronous web crawler framework.")
    parser.add_argument("--version", action="version", version=f"crawler {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_run(verbs)
    listing = verbs.add_parser("list", help="spiders and what they say of themselves")
    _add_spiders(listing)
    listing.set_defaults(verb=_list)
    _add_fetch(verbs)
    config = verbs.add_parser("config", help="every setting, its value, where it came from, its unit and meaning")
    config.add_argument("spider", nargs="?", metavar="SPIDER", help="with this spider's own settings")
    _add_spiders(config)
    _add_settings(config)
    config.set_defaults(verb=_config)
    status = verbs.add_parser("status", help="what a job did")
    status.add_argument("--job", type=Path, metavar="DIR", help="the job's folder (default: the latest under jobs/)")
    status.add_argument("--json", action="store_true", help="stats.json as it is")
    status.set_defaults(verb=_status)
    demo = verbs.add_parser("demo", help="serve the demo bookshop on loopback until interrupted")
    demo.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    demo.set_defaults(verb=_demo)
    version = verbs.add_parser("version", help="versions of crawler and of what it runs on")
    version.set_defaults(verb=_version)
    return parser


def _add_run(verbs: Any) -> None:
    run = verbs.add_parser(
        "run",
        aliases=["crawl"],
        help="run a spider",
        description="Run a spider. The same command continues an interrupted crawl, and starts a new one otherwise.",
    )
    run.add_argument("spider", metavar="SPIDER", help="a name under spiders/, module:Class, or path/to/file.py[:Class]")
    _add_spiders(run)
    run.add_argument("-a", dest="args", action="append", default=[], metavar="NAME=VALUE", help="spider argument")
    _add_settings(run)
    run.add_argument("-o", dest="append", action="append", default=[], metavar="FILE", help="append items; - is stdout")
    run.add_argument("-O", dest="overwrite", action="append", default=[], metavar="FILE", help="overwrite with items")
    run.add_argument("--job", type=Path, metavar="DIR", help="the job's folder (default: jobs/SPIDER)")
    run.add_argument("--fresh", action="store_true", help="discard an unfinished job")
    run.add_argument("--demo", action="store_true", help="start the demo bookshop and pass it as -a site=")
    run.add_argument("--limit", type=int, metavar="N", help="stop after N pages")
    run.add_argument("--json-logs", action="store_true", help="one JSON object a log line")
    run.add_argument("--quiet", action="store_true", help="no progress and no summary")
    run.set_defaults(verb=_run)


def _add_fetch(verbs: Any) -> None:
    fetch = verbs.add_parser("fetch", help="one request through the whole stack; prints the body")
    fetch.add_argument("url", metavar="URL")
    fetch.add_argument("--headers", action="store_true", help="print status line and headers instead of the body")
    fetch.add_argument("--json", action="store_true", help="print everything as one JSON object")
    _add_settings(fetch)
    fetch.set_defaults(verb=_fetch)


def _add_spiders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spiders", type=Path, default=Path("spiders"), metavar="DIR", help="where names are looked up"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="setting table.key=VALUE"
    )
    parser.add_argument("-c", dest="file", type=Path, metavar="FILE", help=f"settings file (default: {_DEFAULT_FILE})")
    parser.add_argument("-L", dest="level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")


# -- settings --------------------------------------------------------------------------------------------------------


def _layers(arguments: argparse.Namespace, extra: Sequence[Layer] = ()) -> list[Layer]:
    from crawler import settings as setting

    own: dict[str, dict[str, Any]] = {}
    if arguments.level:
        own.setdefault("log", {})["level"] = arguments.level.upper()
    if getattr(arguments, "json_logs", False):
        own.setdefault("log", {})["json"] = True
    if getattr(arguments, "limit", None) is not None:
        own.setdefault("crawl", {})["page_limit"] = arguments.limit
    layers = [*extra, setting.environment_layer(os.environ), setting.command_line_layer(arguments.sets)]
    if own:
        layers.append(setting.mapping_layer("command line", own))
    return layers


def _load(spider: type[Spider], arguments: argparse.Namespace, extra: Sequence[Layer] = ()) -> Loaded:
    from crawler.assemble import load_settings

    return load_settings(spider, _layers(arguments, extra), file=_settings_file(arguments))


def _settings_file(arguments: argparse.Namespace) -> Path | None:
    if arguments.file is not None:
        chosen: Path = arguments.file
        return chosen
    return _DEFAULT_FILE if _DEFAULT_FILE.is_file() else None


# -- run -------------------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    from crawler.loader import load_spider
    from crawler.signals import run_in_loop

    spider = load_spider(arguments.spider, arguments.spiders)
    args = dict(_name_and_value(given) for given in arguments.args)
    if arguments.demo:
        return run_in_loop(_run_on_demo(spider, args, arguments))
    return run_in_loop(_run_crawl(spider, args, arguments, ()))


def _name_and_value(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"-a {given}: expected NAME=VALUE, the name an identifier")
    return name, value


async def _run_on_demo(spider: type[Spider], args: dict[str, str], arguments: argparse.Namespace) -> int:
    from crawler import settings as setting
    from crawler import url as urls
    from crawler.demo import serve

    async with serve() as site:
        hosts = {urls.host_key(site.url + "/"): {"delay_seconds": 0.0}}
        layer = setting.mapping_layer("--demo", {"politeness": {"hosts": hosts}})
        return await _run_crawl(spider, {"site": site.url, **args}, arguments, (layer,))


async def _run_crawl(
    spider: type[Spider], args: dict[str, str], arguments: argparse.Namespace, extra: Sequence[Layer]
) -> int:
    from crawler.assemble import Crawl, Output
    from crawler.log import setup_console
    from crawler.signals import stops_on_signals

    loaded = _load(spider, arguments, extra)
    setup_console(loaded.settings.log.level, as_json=loaded.settings.log.json)
    crawl = Crawl(
        _made(spider, args),
        loaded.settings,
        job=arguments.job or Path("jobs") / _folder_name(spider.name),
        outputs=[*(Output(target) for target in arguments.append), *(Output(t, True) for t in arguments.overwrite)],
        fresh=arguments.fresh,
    )
    async with crawl, stops_on_signals(crawl.engine):
        result = await _with_progress(crawl, arguments)
    if not arguments.quiet:
        _print_summary(result)
    return _EXIT_CODES.get(result.reason, EXIT_OK)


def _made(spider: type[Spider], args: dict[str, str]) -> Spider:
    try:
        return spider(**args)
    except TypeError as error:
        raise UsageError(f"spider {spider.name!r} does not take these arguments: {error}") from error


def _folder_name(name: str) -> str:
    return (
        "".join(character if character.isalnum() or character in "-_." else "_" for character in name).lstrip(".")
        or "_"
    )


async def _with_progress(crawl: Crawl, arguments: argparse.Namespace) -> Result:
    """The crawl, with a live line on a terminal, a log line now and then elsewhere."""
    import asyncio

    from crawler.status import LogProgress, show_live

    if arguments.quiet:
        return await crawl.run()
    ended = asyncio.Event()

    async def run() -> Result:
        try:
            return await crawl.run()
        finally:
            ended.set()

    async with asyncio.TaskGroup() as group:
        running = group.create_task(run())
        if sys.stderr.isatty() and not crawl.settings.log.json:
            await show_live(crawl.engine.snapshot, crawl.clock, ended)
        else:
            progress = LogProgress(crawl.clock.now())
            while not ended.is_set():
                progress(crawl.engine.snapshot, crawl.clock.now())
                await crawl.clock.wait(ended, 1.0)
    return running.result()


def _print_summary(result: Result) -> None:
    from rich.console import Console

    from crawler.status import summary

    Console(stderr=True).print(summary(result.stats, result.outputs, result.job))


# -- the other verbs -------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    from crawler.loader import find_spiders

    if not arguments.spiders.is_dir():
        raise UsageError(f"there is no folder {arguments.spiders}/ here; give another with --spiders DIR")
    found = find_spiders(arguments.spiders)
    spiders = sorted((spider for file in found for spider in file.spiders), key=lambda spider: spider.name)
    width = max((len(spider.name) for spider in spiders), default=0)
    for spider in spiders:
        first_line = (spider.__doc__ or "").strip().partition("\n")[0]
        print(f"{spider.name:<{width}}  {first_line}".rstrip())
    for file in found:
        if file.error is not None:
            print(f"crawler: cannot import {file.path}: {type(file.error).__name__}: {file.error}", file=sys.stderr)
    return EXIT_OK


def _fetch(arguments: argparse.Namespace) -> int:
    from crawler.fetching import FetchSpider, fetch_one, show_response
    from crawler.log import setup_console
    from crawler.signals import run_in_loop

    loaded = _load(FetchSpider, arguments)
    setup_console(arguments.level or "WARNING")
    try:
        response = run_in_loop(fetch_one(arguments.url, loaded.settings))
    except FetchError as error:
        print(f"crawler: {error} ({error.reason})", file=sys.stderr)
        return EXIT_FAILED
    sys.stdout.buffer.write(show_response(response, headers=arguments.headers, as_json=arguments.json))
    sys.stdout.flush()
    return EXIT_OK


def _config(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from crawler.loader import load_spider
    from crawler.settings import describe
    from crawler.spider import Spider

    spider = load_spider(arguments.spider, arguments.spiders) if arguments.spider else Spider
    table = Table(box=None, pad_edge=False)
    for title in ("setting", "value", "from", "unit", "meaning"):
        table.add_column(title, overflow="fold")
    for row in describe(_load(spider, arguments)):
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)
    return EXIT_OK


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from crawler.status import latest_job, read_stats, summary

    job = arguments.job or latest_job(Path("jobs"))
    if arguments.json:
        sys.stdout.write((job / "stats.json").read_text() if read_stats(job) else "")
    else:
        Console().print(summary(read_stats(job), (), job))
    return EXIT_OK


def _demo(arguments: argparse.Namespace) -> int:
    import asyncio

    from crawler.demo import run_forever

    def ready(url: str) -> None:
        print(f"the demo bookshop is open at {url}/index.html (Ctrl-C closes it)", flush=True)

    try:
        asyncio.run(run_forever(port=arguments.port, ready=ready))
    except KeyboardInterrupt:
        return EXIT_OK
    except OSError as error:
        raise UsageError(f"cannot serve on port {arguments.port}: {error.strerror or error}; try --port 0") from error
    return EXIT_OK


def _version(arguments: argparse.Namespace) -> int:
    import platform
    from importlib import metadata

    print(f"crawler {__version__}")
    print(f"Python {platform.python_version()} ({platform.python_implementation()}, {platform.platform()})")
    for name in ("aiohttp", "aiodns", "selectolax", "aiofiles", "tenacity", "lmdb", "msgspec", "uvloop", "parsel"):
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} not installed")
    return EXIT_OK
