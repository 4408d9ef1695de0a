"""`crawler run`: a crawl with its progress, summary and exit code; with `--demo`, the shop it crawls as well."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import sys
import time
from contextlib import AsyncExitStack, ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler import settings as setting
from crawler import url as urls
from crawler.assemble import Crawl, Output
from crawler.cli import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from crawler.cli.options import load
from crawler.errors import SessionLost, UsageError
from crawler.loader import check_arguments, load_spider, misspelled
from crawler.lock import private_folder
from crawler.log import console_log
from crawler.process import settle
from crawler.signals import run_in_loop, stops_on_signals
from crawler.status import LogProgress, show_live, summary

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from crawler.assemble import Result
    from crawler.demo import Site
    from crawler.settings import Layer
    from crawler.spider import Spider

__all__ = ["run"]

logger = logging.getLogger("crawler.job")

_REJOIN_SECONDS = 10.0
"""A session that lasted longer was lost by an accident, which does not come again at once."""
_EXIT_CODES = {
    "failed": EXIT_FAILED,
    "error_limit": EXIT_FAILED,
    "refused_limit": EXIT_FAILED,
    "interrupted": EXIT_INTERRUPTED,
}


def run(arguments: argparse.Namespace) -> int:
    spider = load_spider(arguments.spider, arguments.spiders)
    args = {**setting.environment_arguments(os.environ), **dict(map(_name_and_value, arguments.args))}
    check_arguments(spider, args)
    arguments.job = arguments.job or Path("jobs") / _folder_name(spider.name)
    log = load(spider, arguments).settings.log
    arguments.json_logs = log.json
    with console_log(arguments.level or ("WARNING" if arguments.quiet else log.level), as_json=log.json):
        work = _run_on_demo if arguments.demo else _run_crawl
        return run_in_loop(work(spider, args, arguments))


def _name_and_value(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name.isidentifier():
        # What stands there may be a password, in the wrong place too.
        raise UsageError(
            f"-a {name if equals or name.isidentifier() else '…'}: expected NAME=VALUE, the name an identifier"
        )
    return name, value


def _folder_name(name: str) -> str:
    safe = "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
    return safe.lstrip(".") or "_"


async def _run_crawl(
    spider: type[Spider], args: dict[str, str], arguments: argparse.Namespace, extra: Sequence[Layer] = ()
) -> int:
    """Again, where others have been given what this worker had: it lost nothing that counts, and starts afresh."""
    while True:
        began = time.monotonic()
        try:
            return await _run_once(spider, args, arguments, extra)
        except SessionLost as error:
            if time.monotonic() - began < _REJOIN_SECONDS:
                raise  # somebody else goes by this worker's name, or the engine forgets
            logger.warning("%s: %s; joining again", spider.name, error)
            arguments.fresh = False


async def _run_once(
    spider: type[Spider], args: dict[str, str], arguments: argparse.Namespace, extra: Sequence[Layer]
) -> int:
    outputs = [*(Output(target) for target in arguments.append), *(Output(t, True) for t in arguments.overwrite)]
    loaded = load(spider, arguments, extra)
    crawl = Crawl(
        _made(spider, args),
        loaded.settings,
        job=arguments.job,
        outputs=outputs,
        fresh=arguments.fresh,
        refresh=arguments.refresh,
        only_changed=arguments.only_changed,
    )
    async with crawl, stops_on_signals(crawl.engine):
        settle()
        for name, near in misspelled(spider, args):
            logger.warning("%s: nothing is called %s; did you mean -a %s=…?", spider.name, name, near)
        with ExitStack() as stack:
            if any(output.target.startswith("-") for output in outputs):
                stack.enter_context(redirect_stdout(sys.stderr))  # a spider's print() is no item
            result = await _with_progress(crawl, arguments)
    if not arguments.quiet and not arguments.json_logs:
        print(summary(result.stats, result.outputs, result.job), file=sys.stderr)
    return _EXIT_CODES.get(result.reason, EXIT_OK)


def _made(spider: type[Spider], args: dict[str, str]) -> Spider:
    try:
        return spider(**args)
    except TypeError as error:
        raise UsageError(f"spider {spider.name!r} does not take these arguments: {error}") from error


async def _with_progress(crawl: Crawl, arguments: argparse.Namespace) -> Result:
    """The crawl, with a live line on a terminal, a log line now and then elsewhere."""
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
    if sys.stderr.isatty() and not crawl.settings.log.json:
        await show_live(crawl.engine.snapshot, crawl.clock, ended)
        return
    progress = LogProgress(crawl.clock.now())
    while not ended.is_set():
        progress(crawl.engine.snapshot, crawl.clock.now())
        await crawl.clock.wait(ended, 1.0)


# -- the demo shop ---------------------------------------------------------------------------------------------------


async def _run_on_demo(spider: type[Spider], args: dict[str, str], arguments: argparse.Namespace) -> int:
    if not hasattr(spider, "site") and "site" not in inspect.signature(spider).parameters:
        raise UsageError(
            f"--demo: spider {spider.name!r} has no attribute `site` that would say where it crawls. "
            "Serve the shop with `crawler demo`, and give its address as the spider wants it"
        )
    # Loopback needs no manners, but whoever asks for some on this command line gets them.
    sources = load(spider, arguments).sources
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
    from crawler.demo import serve

    private_folder(job)
    note = job / "demo-port"
    known = 0
    if not fresh:
        with contextlib.suppress(OSError, ValueError):
            known = int(note.read_text())
    try:
        site = await stack.enter_async_context(serve(port=known))
    except (OSError, OverflowError):
        site = await stack.enter_async_context(serve())
        logger.warning(
            "the demo shop has moved, because port %d is taken: an unfinished crawl of it cannot go on (use --fresh)",
            known,
        )
    _remember(note, site.url.rpartition(":")[2])
    return site


def _remember(note: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # of a folder that cannot be used, the crawl itself will complain
        note.write_text(text)
