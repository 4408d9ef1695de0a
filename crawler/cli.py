"""`crawler`: the command line. Each verb is a function; heavy modules load only in the verb that needs them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from crawler import __version__
from crawler.errors import CrawlerError, EngineUnavailable, FetchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack
    from pathlib import Path

    from crawler.assemble import Crawl, Result
    from crawler.demo import Site
    from crawler.settings import Layer, Loaded
    from crawler.spider import Spider

__all__ = ["main"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 0, 1, 2, 69, 75
_EXIT_CODES = {"failed": EXIT_FAILED, "error_limit": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED}
_DEFAULT_FILE = "config/crawler.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 0 done, 1 failed, 2 bad usage or settings, 69 disk or engine unavailable,
    75 stopped early: run it again to continue. `SystemExit` for `--help` and for what the grammar does not know."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.verb(arguments)
        sys.stdout.flush()
    except UsageError as error:
        return _complain(error, arguments, EXIT_USAGE)
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
    message = f"{error} ({error.reason})" if isinstance(error, FetchError) else str(error)
    if getattr(arguments, "json_logs", False):
        import logging

        from crawler.log import console_log

        with console_log("ERROR", as_json=True):
            logging.getLogger("crawler").error("%s", message, exc_info=error if with_traceback else None)
        return code
    if with_traceback:
        import traceback

        traceback.print_exception(error)
    print(f"crawler: {message}", file=sys.stderr)
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
    listing.set_defaults(verb=_list)
    _add_fetch(verbs)
    config = verbs.add_parser("config", help="every setting, its value, where it came from, its unit and meaning")
    config.add_argument("spider", nargs="?", metavar="SPIDER", help="with this spider's own settings")
    _add_spiders(config)
    _add_settings(config)
    config.set_defaults(verb=_config)
    status = verbs.add_parser("status", help="what a job did")
    status.add_argument("--job", type=_path, metavar="DIR", help="the job's folder (default: the latest under jobs/)")
    status.add_argument("--json", action="store_true", help="what is in its stats.json")
    status.set_defaults(verb=_status)
    demo = verbs.add_parser("demo", help="serve the demo bookshop on loopback until interrupted")
    demo.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default: 8000)")
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
        help="append items; .jsonl, .json or .csv; - is standard output, as JSON lines; may be given again",
    )
    run.add_argument("-O", dest="overwrite", action="append", default=[], metavar="FILE", help="overwrite with items")
    run.add_argument("--job", type=_path, metavar="DIR", help="the job's folder (default: jobs/SPIDER)")
    run.add_argument("--fresh", action="store_true", help="discard an unfinished job")
    run.add_argument(
        "--demo", action="store_true", help="serve the demo bookshop meanwhile, and pass its address as -a site="
    )
    run.add_argument("--limit", type=int, metavar="N", help="stop after N pages; 0: no limit")
    run.add_argument("--json-logs", action="store_true", help="one JSON object a log line, and no summary")
    run.add_argument("--quiet", action="store_true", help="only warnings and errors: no progress and no summary")
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
        "--spiders", type=_path, default="spiders", metavar="DIR", help="where names are looked up (default: spiders)"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="setting table.key=VALUE"
    )
    parser.add_argument("-c", dest="file", type=_path, metavar="FILE", help=f"settings file (default: {_DEFAULT_FILE})")
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


# -- settings --------------------------------------------------------------------------------------------------------


def _layers(arguments: argparse.Namespace, extra: Sequence[Layer] = ()) -> list[Layer]:
    from crawler import settings as setting

    layers = [*extra, setting.environment_layer(os.environ), setting.command_line_layer(arguments.sets)]
    if arguments.level:
        layers.append(_option("-L", "log", "level", arguments.level.upper()))
    if getattr(arguments, "json_logs", False):
        layers.append(_option("--json-logs", "log", "json", True))
    if getattr(arguments, "limit", None) is not None:
        layers.append(_option("--limit", "crawl", "page_limit", arguments.limit))
    return layers


def _option(option: str, table: str, key: str, value: Any) -> Layer:
    from crawler.settings import mapping_layer

    return mapping_layer("command line", {table: {key: value}}, where=option)


def _load(spider: type[Spider], arguments: argparse.Namespace, extra: Sequence[Layer] = ()) -> Loaded:
    from crawler.assemble import load_settings

    file = arguments.file
    if file is None and os.path.isfile(_DEFAULT_FILE):
        file = _path(_DEFAULT_FILE)
    return load_settings(spider, _layers(arguments, extra), file=file)


# -- run -------------------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    from crawler.loader import check_arguments, load_spider
    from crawler.log import console_log
    from crawler.signals import run_in_loop

    spider = load_spider(arguments.spider, arguments.spiders)
    args = dict(_name_and_value(given) for given in arguments.args)
    check_arguments(spider, args)
    arguments.job = arguments.job or _path("jobs") / _folder_name(spider.name)
    log = _load(spider, arguments).settings.log
    arguments.json_logs = log.json
    with console_log(arguments.level or ("WARNING" if arguments.quiet else log.level), as_json=log.json):
        run = _run_on_demo if arguments.demo else _run_crawl
        return run_in_loop(run(spider, args, arguments))


def _name_and_value(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"-a {given}: expected NAME=VALUE, the name an identifier")
    return name, value


def _folder_name(name: str) -> str:
    safe = "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
    return safe.lstrip(".") or "_"


async def _run_on_demo(spider: type[Spider], args: dict[str, str], arguments: argparse.Namespace) -> int:
    import inspect
    from contextlib import AsyncExitStack

    from crawler import settings as setting
    from crawler import url as urls

    if not hasattr(spider, "site") and "site" not in inspect.signature(spider).parameters:
        raise UsageError(
            f"--demo: spider {spider.name!r} has no attribute `site` that would say where it crawls. "
            "Serve the shop with `crawler demo`, and give its address as the spider wants it"
        )
    # Loopback needs no manners, but whoever asks for some on this command line gets them.
    sources = _load(spider, arguments).sources
    manners = {"delay_seconds": 0.0, "concurrency_per_host": 8}
    rule = {key: value for key, value in manners.items() if not _is_wished(sources[f"politeness.{key}"])}
    async with AsyncExitStack() as stack:
        site = await _demo_shop(stack, arguments.job, arguments.fresh)
        hosts = {urls.host_key(site.url + "/"): rule}
        layer = setting.mapping_layer("--demo", {"politeness": {"hosts": hosts}})
        return await _run_crawl(spider, {"site": site.url, **args}, arguments, (layer,))


def _is_wished(source: str) -> bool:
    return source.startswith(("command line", "environment"))


async def _demo_shop(stack: AsyncExitStack, job: Path, fresh: bool) -> Site:
    """The shop, at the address where this job knew it: what waits in the frontier has that address."""
    import contextlib
    import logging

    from crawler.demo import serve

    note = job / "demo-port"
    known = 0
    if not fresh:
        with contextlib.suppress(OSError, ValueError):
            known = int(note.read_text())
    try:
        site = await stack.enter_async_context(serve(port=known))
    except (OSError, OverflowError):
        site = await stack.enter_async_context(serve())
        logging.getLogger("crawler.job").warning(
            "the demo shop has moved, because port %d is taken: an unfinished crawl of it cannot go on (use --fresh)",
            known,
        )
    _remember(note, site.url.rpartition(":")[2])
    return site


def _remember(note: Path, text: str) -> None:
    import contextlib

    with contextlib.suppress(OSError):  # of a folder that cannot be used, the crawl itself will complain
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(text)


async def _run_crawl(
    spider: type[Spider], args: dict[str, str], arguments: argparse.Namespace, extra: Sequence[Layer] = ()
) -> int:
    import logging
    from contextlib import ExitStack, redirect_stdout

    from crawler.assemble import Crawl, Output
    from crawler.loader import misspelled
    from crawler.signals import stops_on_signals

    logger = logging.getLogger("crawler.job")
    outputs = [*(Output(target) for target in arguments.append), *(Output(t, True) for t in arguments.overwrite)]
    loaded = _load(spider, arguments, extra)
    crawl = Crawl(_made(spider, args), loaded.settings, job=arguments.job, outputs=outputs, fresh=arguments.fresh)
    async with crawl, stops_on_signals(crawl.engine):
        for name, near in misspelled(spider, args):
            logger.warning("%s: nothing is called %s; did you mean -a %s=…?", spider.name, name, near)
        with ExitStack() as stack:
            if any(output.target.startswith("-") for output in outputs):
                stack.enter_context(redirect_stdout(sys.stderr))  # a spider's print() is no item
            result = await _with_progress(crawl, arguments)
    if not arguments.quiet and not arguments.json_logs:
        from crawler.status import summary

        print(summary(result.stats, result.outputs, result.job), file=sys.stderr)
    return _EXIT_CODES.get(result.reason, EXIT_OK)


def _made(spider: type[Spider], args: dict[str, str]) -> Spider:
    try:
        return spider(**args)
    except TypeError as error:
        raise UsageError(f"spider {spider.name!r} does not take these arguments: {error}") from error


async def _with_progress(crawl: Crawl, arguments: argparse.Namespace) -> Result:
    """The crawl, with a live line on a terminal, a log line now and then elsewhere."""
    import asyncio

    if arguments.quiet:
        return await crawl.run()
    ended = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_show_progress(crawl, ended), name="progress")
            try:
                return await crawl.run()
            finally:
                ended.set()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__


async def _show_progress(crawl: Crawl, ended: Any) -> None:
    from crawler.status import LogProgress, show_live

    if sys.stderr.isatty() and not crawl.settings.log.json:
        await show_live(crawl.engine.snapshot, crawl.clock, ended)
        return
    progress = LogProgress(crawl.clock.now())
    while not ended.is_set():
        progress(crawl.engine.snapshot, crawl.clock.now())
        await crawl.clock.wait(ended, 1.0)


# -- the other verbs -------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    from crawler.loader import find_spiders

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


def _fetch(arguments: argparse.Namespace) -> int:
    from crawler.fetching import FetchSpider, fetch_one, show_response
    from crawler.log import console_log
    from crawler.signals import run_in_loop

    loaded = _load(FetchSpider, arguments)
    with console_log(arguments.level or "WARNING"):
        response = run_in_loop(fetch_one(arguments.url, loaded.settings))
    shown = show_response(response, headers=arguments.headers, as_json=arguments.json, to_terminal=sys.stdout.isatty())
    sys.stdout.buffer.write(shown)
    return EXIT_OK


def _config(arguments: argparse.Namespace) -> int:
    from crawler.loader import load_spider
    from crawler.settings import describe
    from crawler.spider import Spider

    spider = load_spider(arguments.spider, arguments.spiders) if arguments.spider else Spider
    titles = ("setting", "value", "from", "unit", "meaning")
    rows = [titles, *(tuple(map(str, row)) for row in describe(_load(spider, arguments)))]
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


def _status(arguments: argparse.Namespace) -> int:
    from crawler.status import latest_job, read_stats, summary

    job = arguments.job or latest_job(_path("jobs"))
    stats = read_stats(job)
    if arguments.json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(stats), indent=2).decode())
    else:
        print(summary(stats, (), job))
    return EXIT_OK


def _demo(arguments: argparse.Namespace) -> int:
    import asyncio

    try:
        asyncio.run(_serve_demo(arguments.port))
    except OSError as error:
        raise UsageError(f"cannot serve on port {arguments.port}: {error.strerror or error}; try --port 0") from error
    return EXIT_OK


async def _serve_demo(port: int) -> None:
    """Until SIGINT or SIGTERM, which is how it is meant to end."""
    import asyncio
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
