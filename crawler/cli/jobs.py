"""`crawler jobs`: list, rm, frontier, export, repair."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from crawler import jobs
from crawler.cli import EXIT_OK
from crawler.cli.shown import json_line, moment, one_line, print_table, span
from crawler.errors import EngineUnavailable, JobError, UsageError
from crawler.frontier.backlog import REASONS, Backlog, reason_of
from crawler.status import size_text
from crawler.url import redact

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from crawler.contracts import Exporter
    from crawler.frontier.kept import Kept, Waiting
    from crawler.frontier.reader import FrontierReader
    from crawler.repair import Repair

__all__ = ["export", "frontier", "listing", "remove", "repair"]

# -- list ------------------------------------------------------------------------------------------------------------


def listing(arguments: argparse.Namespace) -> int:
    folder = arguments.folder or Path("jobs")
    found = [jobs.overview(job) for job in jobs.find_jobs(folder)]
    if arguments.json:
        for job in found:
            print(json_line(msgspec.to_builtins(job)))
    elif found:
        titles = ("job", "spider", "state", "pages", "items", "waiting", "done", "size", "written")
        print_table(titles, map(_row, found), right=("pages", "items", "waiting", "done", "size"))
        for job in found:
            if job.remark:
                print(f"{one_line(job.job)}: {one_line(job.remark)}", file=sys.stderr)
    else:
        print(f"crawler: there is no job in {folder}/", file=sys.stderr)
    return EXIT_OK


def _row(job: jobs.Overview) -> tuple[str, ...]:
    state = job.state if job.pid is None else f"{job.state} ({job.pid or '?'})"
    written = moment(job.written) if job.written else "-"
    numbers = ("-" if number is None else str(number) for number in (job.pages, job.items, job.waiting))
    return (job.job, job.spider or "-", state, *numbers, _progress(job), size_text(job.bytes), written)


def _progress(job: jobs.Overview) -> str:
    if job.done is None or job.waiting is None:
        return "-"
    return f"{job.done} ({100 * job.done // (job.done + job.waiting)}%)" if job.done + job.waiting else "0"


# -- rm --------------------------------------------------------------------------------------------------------------


def remove(arguments: argparse.Namespace) -> int:
    for job in arguments.jobs:
        jobs.check_removable(job)  # all of them, before the first is gone
    for job in arguments.jobs:
        left = jobs.remove(job)
        kept = f"; kept in it: {', '.join(map(one_line, left))}" if left else ""
        print(f"removed {one_line(str(job))}{kept}")
    return EXIT_OK


# -- frontier --------------------------------------------------------------------------------------------------------


def frontier(arguments: argparse.Namespace) -> int:
    now = time.time()
    with jobs.open_frontier(arguments.job) as reader:
        if arguments.host is not None:
            return _show_host(reader, arguments, now)
        found = Backlog.of(reader, now)
    limit = arguments.limit or len(found.hosts)
    if arguments.json:
        print(json_line({**msgspec.to_builtins(found), "hosts": msgspec.to_builtins(found.hosts[:limit])}))
        return EXIT_OK
    print(f"{_number(found.count, 'request waits', 'requests wait')} at {_number(len(found.hosts), 'host', 'hosts')}")
    for reason, count in found.by_reason.items():
        first = found.first_due.get(reason)
        when = "" if first is None or not count else f"  the first until {moment(first)} (in {span(first - now)})"
        print(f"  {reason:<10}  {count:>8}{when}".rstrip())
    if found.hosts:
        print()
        rows = (
            (host.host, str(host.count), *(str(host.by_reason.get(reason, 0)) for reason in REASONS), _until(host))
            for host in found.hosts[:limit]
        )
        print_table(("host", "waiting", *REASONS, "until"), rows, right=("waiting", *REASONS))
    if len(found.hosts) > limit:
        print(f"and {_number(len(found.hosts) - limit, 'host', 'hosts')} more; --limit 0 shows all")
    return EXIT_OK


def _until(host: Any) -> str:
    until = host.paused_until or host.first_due
    return moment(until) if until else ""


def _show_host(reader: FrontierReader, arguments: argparse.Namespace, now: float) -> int:
    name = arguments.host
    host = next((each for each in (name, f"{name}:443", f"{name}:80") if next(reader.waiting(each), None)), name)
    state = reader.host_state(host)
    paused = state.blocked_until if state is not None and state.blocked_until > now else 0.0
    shown: list[Waiting] = []
    more = False
    for request in reader.waiting(host):
        more = bool(arguments.limit) and len(shown) == arguments.limit
        if more:
            break
        shown.append(request)
    if arguments.json:
        for request in shown:
            reason = reason_of(request.due if request.due > now else 0.0, request.attempt, paused)
            print(json_line(_as_json(request, reason)))
        return EXIT_OK
    if not shown:
        print(f"nothing waits at {one_line(host)}")
        return EXIT_OK
    if paused:
        print(f"{one_line(host)} is paused until {moment(paused)} (in {span(paused - now)})")
    rows = ((_named(each), str(each.depth), str(each.attempt), _due(each, now)) for each in shown)
    print_table(("request", "depth", "attempts", "due"), rows, right=("depth", "attempts"))
    if more:
        print("and more; --limit 0 shows all")
    return EXIT_OK


def _named(request: Waiting) -> str:
    url = redact(request.url) or "(it cannot be read)"
    return url if request.method == "GET" else f"{request.method} {url}"


def _due(request: Waiting, now: float) -> str:
    return f"{moment(request.due)} (in {span(request.due - now)})" if request.due > now else "now"


def _as_json(request: Waiting, reason: str) -> dict[str, Any]:
    return {
        "url": redact(request.url),
        "method": request.method,
        "depth": request.depth,
        "attempts": request.attempt,
        "priority": request.priority,
        "due": request.due or None,
        "waits_for": reason,
    }


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


# -- export ----------------------------------------------------------------------------------------------------------

_BEST_FIRST = ("jsonl", "jsonl.zst", "jsonl.gz", "sqlite", "json", "csv")
_AT_ONCE = 500


def export(arguments: argparse.Namespace) -> int:
    from crawler.export import make_exporter

    if arguments.frontier is not None:
        return _export_shared(arguments)
    if arguments.parts is not None:
        raise UsageError("--parts needs --frontier: only a crawl that many workers share has parts")
    exporter = make_exporter(arguments.output, True)
    output, path, position = _source(arguments.job)
    if exporter.path is not None and Path(exporter.path).resolve() == path.resolve():
        raise UsageError(f"-o {arguments.output}: that is the job's own output")
    count = asyncio.run(_copy(_items(path, output.format, position), exporter))
    print(f"crawler: {_number(count, 'item', 'items')} of {output.target}", file=sys.stderr)
    return EXIT_OK


def _export_shared(arguments: argparse.Namespace) -> int:
    from crawler import operate
    from crawler.cli.options import load
    from crawler.spider import Spider

    frontier = load(Spider, arguments).settings.frontier
    joined = operate.export_items(
        frontier, str(arguments.job), arguments.output, overwrite=True, folder=arguments.parts
    )
    items, parts = _number(joined.items, "item", "items"), _number(joined.parts, "part", "parts")
    print(f"crawler: {items} of {parts}", file=sys.stderr)
    return EXIT_OK


def _source(job: Path) -> tuple[Kept, Path, bytes]:
    """The output that keeps values best, and how far it is committed."""
    from crawler.export.address import is_database

    with jobs.open_frontier(job) as reader:
        outputs, positions = reader.values.outputs, reader.values.positions
    if not outputs:
        raise JobError(f"job {job} was told to write no output, so there are no items to export (crawler run -o FILE)")
    kept = {key: output for key, output in outputs.items() if output.path != "-" and key in positions}
    files = {key: output for key, output in kept.items() if not is_database(output.path)}
    if kept and not files:
        where = ", ".join(output.path for output in kept.values())
        raise JobError(f"the items of job {job} are in a database, where they can be queried: {where}")
    if not files:
        raise JobError(f"the items of job {job} went to standard output only, and are not kept")
    ranks = {format: rank for rank, format in enumerate(_BEST_FIRST)}
    key = min(files, key=lambda key: (not jobs.output_path(job, key, files[key]).exists(), ranks[files[key].format]))
    return files[key], jobs.output_path(job, key, files[key]), positions[key]


def _items(path: Path, format: str, position: bytes) -> Iterator[dict[str, Any]]:
    from crawler.export.reading import read_items

    return read_items(path, format, position)


async def _copy(items: Iterator[dict[str, Any]], exporter: Exporter) -> int:
    count = 0
    await exporter.open(None)
    try:
        for item in items:
            exporter.append(exporter.encode(item))
            count += 1
            if count % _AT_ONCE == 0:
                await exporter.flush()
        await exporter.flush()
    finally:
        await exporter.close()
    return count


# -- repair ----------------------------------------------------------------------------------------------------------


def repair(arguments: argparse.Namespace) -> int:
    from crawler.repair import repair as repaired

    done = asyncio.run(repaired(arguments.job))
    if not done.damages:
        print(f"{one_line(str(arguments.job))}: nothing to repair")
        return EXIT_OK
    print(f"{one_line(str(arguments.job))}: damaged")
    for damage in done.damages:
        print(f"  {one_line(damage)}")
    for line in _told(done):
        print(one_line(line))
    if done.unrepaired:
        raise EngineUnavailable("; ".join(done.unrepaired))
    print("repaired: the same `crawler run` continues")
    return EXIT_OK


def _told(done: Repair) -> Iterator[str]:
    new = done.rebuilt
    if new is not None:
        yield f"the damaged frontier is kept as {done.kept_as}; in the new one are"
        yield f"  {new.waiting} waiting; lost: {'some' if new.waiting_lost is None else new.waiting_lost}"
        yield f"  {new.ended} ended; lost: {new.ended_lost}"
        yield f"  {new.known} known at {_number(new.hosts, 'host', 'hosts')}; forgotten: {new.known_dropped}"
        if new.values_lost:
            yield f"  lost besides: {', '.join(new.values_lost)}"
        if new.known_dropped:
            yield "what was forgotten is found again where a page links to it"
        if new.starts_again:
            yield "start() runs again"
    if done.epochs_back:
        back = _number(done.epochs_back, "epoch", "epochs")
        yield f"the frontier went back by {back}: what was fetched since is fetched again"
    for target, lost in done.items_lost.items():
        yield f"{target}: set back to its last whole item; {_number(lost, 'item is', 'items are')} lost"
