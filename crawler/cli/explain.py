"""`crawler explain`: what became of one URL in a job, in sentences or as JSON."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from crawler.cli import EXIT_FAILED, EXIT_OK
from crawler.cli.shown import json_line, moment, pause_text, print_rows, span
from crawler.explain import Found
from crawler.explain import explain as explained
from crawler.fate import REFUSALS, Verdict
from crawler.frontier.backlog import Reason

if TYPE_CHECKING:
    import argparse

    from crawler.explain import Explanation

__all__ = ["explain"]

_UNFINISHED = frozenset({"running", "interrupted", "failed", "error_limit", "refused_limit", "stopped"})


def explain(arguments: argparse.Namespace) -> int:
    from crawler.status import latest_job

    job = arguments.job or latest_job(Path("jobs"))
    now = time.time()
    told = explained(arguments.url, job, now)
    if arguments.json:
        print(json_line(msgspec.to_builtins(told)))
    else:
        print_rows(told.url, _rows(told, now))
    return EXIT_OK if told.is_known else EXIT_FAILED


def _rows(told: Explanation, now: float) -> list[tuple[str, str]]:
    rows = [("verdict", _verdict(told, now))]
    if told.earlier:
        rows.append(("before", told.earlier))
    if told.duplicate_of:
        rows.append(("met as", f"{told.duplicate_of} (a duplicate: the same in canonical form)"))
    if told.canonical != told.url:
        rows.append(("canonical", told.canonical))
    rows.append(("host", told.host))
    if told.paused_until is not None:
        rows.append(("host pauses", _until(told.paused_until, now)))
    if told.at is not None:
        rows.append(("when", f"{moment(told.at)} ({span(max(0.0, now - told.at))} ago)"))
    if told.depth is not None:
        rows.append(("depth", str(told.depth)))
    if told.attempts is not None:
        rows.append(("attempts", f"{told.attempts}: {told.tries}" if told.tries else str(told.attempts)))
    if told.deaths:
        rows.append(("deaths", f"its processing killed the process {_times(told.deaths)}"))
    rows.extend(_way(told))
    rows.append(("job", f"{told.job} ({told.spider}, {told.state})"))
    return rows


def _verdict(told: Explanation, now: float) -> str:
    if told.verdict == Found.WAITING:
        return _waiting(told, now)
    if told.verdict == Found.OUTSIDE:
        return f"{told.verdict} ({told.reason}): {REFUSALS.get(told.reason, 'by a rule of the crawl')}"
    if told.verdict == Found.KNOWN:
        return "known: it was met, but what became of it is not kept"
    if told.verdict == Found.UNKNOWN:
        return _unknown(told)
    if told.verdict == Verdict.REDIRECTED:
        then = f", which is {told.target_verdict}" if told.target_verdict else ""
        return f"redirected ({told.status}) to {told.target}{then}"
    if told.verdict == Verdict.REACHED:
        return f"done: {told.status}, reached by a redirect from {told.target}"
    if told.verdict == Verdict.DONE and told.status == 304:
        return "done: 304, it had not changed since the last crawl" + (
            f", redirected to {told.target}" if told.target else ""
        )
    if told.verdict == Verdict.DONE:
        return f"done: {told.status}" + (f", redirected to {told.target}" if told.target else "")
    why = f" ({told.reason})" if told.reason else ""
    return f"{told.verdict}{why}: {told.message}" if told.message else f"{told.verdict}{why}"


def _waiting(told: Explanation, now: float) -> str:
    if told.waits_for == Reason.PAUSED:
        return f"waiting: its host is paused, because {pause_text(told.pause)}"
    due = "" if told.due is None else f", due {_until(told.due, now)}"
    if told.waits_for == Reason.RETRY:
        return f"waiting for another try{due}"
    return f"waiting for its time{due}" if told.due is not None else "waiting for its host's turn, or being fetched"


def _unknown(told: Explanation) -> str:
    from crawler.refusals import KEPT_PER_REASON

    yet = ", so far" if told.state in _UNFINISHED else ""
    return (
        f"never met{yet}: no page that was read links to it, or it was refused and is not kept "
        f"(the first {KEPT_PER_REASON} refusals of each reason are)"
    )


def _way(told: Explanation) -> list[tuple[str, str]]:
    if not told.found_on:
        return [("given by", "start()")] if told.from_start else []
    first, *others = told.found_on
    rows = [("found on", first), *(("  from", step) for step in others)]
    return [*rows, ("  given by", "start()") if told.from_start else ("  from", "…")]


def _until(at: float, now: float) -> str:
    return f"{moment(at)} (in {span(max(0.0, at - now))})"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
