"""What a job's frontier thinks of one host, and why it waits now: `crawler politeness`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from crawler import url as urls
from crawler.frontier.backlog import reason_of
from crawler.jobs import open_frontier
from crawler.politeness import Pause

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.frontier.reader import FrontierReader
    from crawler.politeness import HostState

__all__ = ["Treatment", "treatment"]

_PORTS = ("", ":443", ":80")
"""Tried behind a name without one."""


class Treatment(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Of one host. Times are Unix times, delays seconds."""

    host: str
    group: str = ""
    """In which it is treated, where that is not itself (`politeness.group_by`)."""
    job: str
    spider: str
    state: str
    """Of the job, as its last epoch left it."""
    is_known: bool
    """Something waits, or something was learnt."""
    waiting: int = 0
    by_reason: dict[str, int] = {}
    first_due: float | None = None
    """Of those put off."""
    delay: float | None = None
    """Between two starts, as things stand; None: as configured, which the job does not keep."""
    usual_delay: float | None = None
    """To begin with: as it was configured, or as robots.txt asks."""
    crawl_delay: float | None = None
    latency: float | None = None
    """Smoothed."""
    next_start: float | None = None
    """Its next turn; None: now."""
    paused_until: float | None = None
    pause: str = ""
    """Of `crawler.politeness.Pause`."""
    failures: int = 0
    """In a row."""
    failed_probes: int = 0
    last_trouble: str = ""
    answers: int = 0
    troubles: int = 0


def treatment(typed: str, job: Path, now: float) -> Treatment:
    """`typed` is a name, a name and port, or a URL. Raises `InvalidURL` for a URL that is none, and what
    `open_frontier` does."""
    with open_frontier(job) as reader:
        host = _find(reader, typed)
        group, state = reader.host_and_state(host)
        values = reader.values
        told = Treatment(
            host=host,
            job=str(job),
            spider=values.spider,
            state=values.state or "running",
            is_known=state is not None,
        )
        if state is not None:
            told.group = "" if group == host else group
            _tell(told, state, now)
        _count(told, reader, now)
    told.is_known = told.is_known or bool(told.waiting)
    return told


def _find(reader: FrontierReader, typed: str) -> str:
    if "/" in typed:
        return urls.host_key(urls.normalize(typed))
    name = typed.lower()
    hosts = [name] if name.rpartition(":")[2].isdigit() else [name + port for port in _PORTS]
    known = (host for host in hosts if next(reader.waiting(host), None) or reader.host_state(host) is not None)
    return next(known, hosts[min(1, len(hosts) - 1)])


def _tell(told: Treatment, state: HostState, now: float) -> None:
    told.usual_delay = state.usual
    told.delay = state.usual if state.delay is None else state.delay
    told.crawl_delay = state.crawl_delay or None
    told.latency = state.latency or None
    told.next_start = state.next_start if state.next_start > now else None
    if state.blocked_until > now:
        told.paused_until, told.pause = state.blocked_until, state.pause or Pause.ASKED
    told.failures, told.failed_probes, told.last_trouble = state.failures, state.probes, state.last_trouble
    told.answers, told.troubles = state.answers, state.troubles


def _count(told: Treatment, reader: FrontierReader, now: float) -> None:
    for request in reader.waiting(told.host):
        due = request.due if request.due > now else 0.0
        reason = reason_of(due, request.attempt, told.paused_until or 0.0)
        told.waiting += 1
        told.by_reason[reason] = told.by_reason.get(reason, 0) + 1
        if due:
            told.first_due = due if told.first_due is None else min(told.first_due, due)
