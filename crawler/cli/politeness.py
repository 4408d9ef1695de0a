"""`crawler politeness`: how a host of a job is treated, and why it waits now, in sentences or as JSON."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from crawler.cli import EXIT_FAILED, EXIT_OK
from crawler.cli.shown import json_line, moment, pause_text, print_rows, span
from crawler.treatment import treatment

if TYPE_CHECKING:
    import argparse

    from crawler.treatment import Treatment

__all__ = ["politeness"]


def politeness(arguments: argparse.Namespace) -> int:
    from crawler.status import latest_job

    now = time.time()
    told = treatment(arguments.host, arguments.job or latest_job(Path("jobs")), now)
    if arguments.json:
        print(json_line(msgspec.to_builtins(told)))
    else:
        print_rows(told.host, _rows(told, now))
    return EXIT_OK if told.is_known else EXIT_FAILED


def _rows(told: Treatment, now: float) -> list[tuple[str, str]]:
    rows = [("now", _now(told, now)), ("waiting", _waiting(told))]
    if told.group:
        rows.append(("treated as", f"one with all of {told.group}"))
    if told.delay is not None:
        rows.append(("delay", _delay(told)))
    if told.latency is not None:
        rows.append(("latency", f"{_seconds(told.latency)}, smoothed"))
    if told.answers:
        rows.append(("answers", f"{told.answers}, of them trouble: {told.troubles}"))
    if told.failures:
        rows.append(("failures", f"{told.failures} in a row, the last: {told.last_trouble}"))
    if told.failed_probes:
        rows.append(("probes", f"{told.failed_probes} failed"))
    rows.append(("job", f"{told.job} ({told.spider}, {told.state})"))
    return rows


def _now(told: Treatment, now: float) -> str:
    """Why it waits, or that it does not."""
    if not told.is_known:
        return "this job has not met the host"
    if told.paused_until is not None:
        return f"paused until {_until(told.paused_until, now)}: {pause_text(told.pause)}"
    if not told.waiting:
        return "nothing waits for it"
    if told.next_start is not None:
        return f"its next turn is at {_until(told.next_start, now)}"
    if told.first_due is not None and sum(told.by_reason.values()) == told.waiting - told.by_reason.get("ready", 0):
        return f"all requests are put off, the first until {_until(told.first_due, now)}"
    return "it is its turn, or a request is on its way"


def _waiting(told: Treatment) -> str:
    parts = [f"{count} {reason}" for reason, count in told.by_reason.items()]
    return f"{told.waiting} ({', '.join(parts)})" if parts else "0"


def _delay(told: Treatment) -> str:
    assert told.delay is not None
    assert told.usual_delay is not None
    why = ""
    if told.crawl_delay is not None and told.delay == told.crawl_delay:
        why = ", as robots.txt asks (Crawl-delay)"
    elif told.delay > told.usual_delay:
        why = f": it began with {_seconds(told.usual_delay)}, and the host erred or is slow"
    elif told.delay < told.usual_delay:
        why = f": it began with {_seconds(told.usual_delay)}, and the host answers well"
    return _seconds(told.delay) + why


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s"


def _until(at: float, now: float) -> str:
    return f"{moment(at)} (in {span(at - now)})"
