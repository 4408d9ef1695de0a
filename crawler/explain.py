"""What became of one URL in a job, and why: `crawler explain`.

The frontier remembers requests by keyed fingerprints, so a URL is looked up as the crawl would meet it: normalised,
canonical, fingerprint. What is found is one of: a request that waits, the record of how one ended (`crawler.fate`), a
refusal before it came to the frontier, a fingerprint and nothing more, or nothing at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from crawler import url as urls
from crawler.errors import InvalidURL
from crawler.fate import Verdict
from crawler.frontier.backlog import reason_of
from crawler.frontier.kept import Origin
from crawler.jobs import open_frontier
from crawler.politeness import Pause
from crawler.redaction import redact, redact_text
from crawler.url import Fingerprinter

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.fate import Fate, Refusal
    from crawler.frontier.kept import Ended, Waiting
    from crawler.frontier.reader import FrontierReader

__all__ = ["Explanation", "Found", "explain"]

_STEPS = 10
"""From page to page, on the way back to the start request."""


class Found:
    """The words of `Explanation.verdict` beside those of `crawler.fate.Verdict`."""

    WAITING = "waiting"
    OUTSIDE = "refused before it was queued"
    """By a reason of `crawler.fate.REFUSALS`."""
    KNOWN = "known"
    """Met, and nothing more is kept."""
    UNKNOWN = "never met"


class Explanation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of a GET of `url`. Times are Unix times; URLs are without user and password."""

    url: str
    """Normalised: as it would be sent."""
    canonical: str
    """As it is compared."""
    host: str
    job: str
    spider: str
    state: str
    """Of the job, as its last epoch left it."""
    verdict: str
    depth: int | None = None
    attempts: int | None = None
    """Tries that came to an end."""
    tries: str = ""
    """What came of each, where there was more than one: statuses and reasons."""
    status: int | None = None
    reason: str = ""
    message: str = ""
    at: float | None = None
    """When it ended, or was refused."""
    target: str = ""
    """Of a redirect: where it led, or where it came from."""
    target_verdict: str = ""
    duplicate_of: str = ""
    """The URL that was met in its stead: the same in canonical form."""
    waits_for: str = ""
    """A word of `crawler.frontier.backlog.Reason`."""
    due: float | None = None
    paused_until: float | None = None
    pause: str = ""
    """Why its host is paused: a word of `crawler.politeness.Pause`."""
    earlier: str = ""
    """The verdict of the time before, of a request that waits again."""
    deaths: int = 0
    """Processes that died while its code ran."""
    found_on: list[str] = []
    """The page that gave it, the page that gave that one, and so on."""
    from_start: bool = False
    """The last of them, or the URL itself, was given by `start()`."""

    @property
    def is_known(self) -> bool:
        return self.verdict != Found.UNKNOWN


def explain(typed: str, job: Path, now: float) -> Explanation:
    """Raises `InvalidURL` for what is no absolute http(s) URL, and what `open_frontier` does."""
    url = urls.normalize(typed)
    canonical, host = urls.canonical(url), urls.host_key(url)
    with open_frontier(job) as reader:
        values = reader.values
        fingerprint = Fingerprinter(values.key)(canonical)
        told = Explanation(
            url=redact(url),
            canonical=redact(canonical),
            host=host,
            job=str(job),
            spider=values.spider,
            state=values.state or "running",
            verdict=Found.UNKNOWN,
            deaths=values.deaths(fingerprint),
        )
        ended, waiting = reader.end(host, fingerprint), reader.find(host, fingerprint)
        if waiting is not None:
            _tell_waiting(told, reader, waiting, ended, now)
        elif ended is not None:
            _tell_end(told, reader, ended)
        elif (refusal := values.refusal(fingerprint)) is not None:
            _tell_refusal(told, reader, refusal)
        elif reader.knows(host, fingerprint):
            told.verdict = Found.KNOWN
    return told


def _tell_waiting(told: Explanation, reader: FrontierReader, waiting: Waiting, ended: Ended | None, now: float) -> None:
    state = reader.host_state(waiting.host)
    due = waiting.due if waiting.due > now else 0.0
    paused = 0.0 if state is None or state.blocked_until <= now else state.blocked_until
    told.verdict = Found.WAITING
    told.waits_for = reason_of(due, waiting.attempt, paused)
    told.depth, told.attempts = waiting.depth, waiting.attempt
    told.due, told.paused_until = due or None, paused or None
    if state is not None and paused:
        told.pause = state.pause or Pause.ASKED
    told.earlier = "" if ended is None else ended.fate.verdict
    _tell_way(told, reader, waiting.origin)
    _compare(told, waiting.url)


def _tell_end(told: Explanation, reader: FrontierReader, ended: Ended) -> None:
    fate = ended.fate
    told.verdict, told.at, told.depth, told.attempts = fate.verdict, fate.at, fate.depth, fate.attempts
    told.status, told.reason, told.message = fate.status or None, fate.reason, redact_text(fate.message)
    told.target, told.tries = redact(fate.target), fate.tries
    if fate.target and fate.verdict == Verdict.REDIRECTED:
        told.target_verdict = _verdict_of(reader, fate.target)
    _tell_way(told, reader, ended.origin)
    if fate.verdict == Verdict.REACHED and told.found_on[:1] == [told.target]:
        del told.found_on[0]  # the redirect, told already
    _compare(told, fate.url)


def _tell_refusal(told: Explanation, reader: FrontierReader, refusal: Refusal) -> None:
    told.verdict, told.reason = Found.OUTSIDE, refusal.reason
    told.at, told.depth = refusal.at, refusal.depth
    if refusal.found_on:
        told.found_on = [redact(refusal.found_on)]
        page = _look_up(reader, refusal.found_on)
        given = None if page is None else reader.parent(page)
        if given is not None:
            _tell_way(told, reader, given[1])
    else:
        told.from_start = True
    _compare(told, refusal.url)


def _compare(told: Explanation, met: str) -> None:
    if met and redact(met) != told.url:
        told.duplicate_of = redact(met)


def _tell_way(told: Explanation, reader: FrontierReader, origin: Origin | None) -> None:
    """From the page that gave it, back to the start request."""
    been: set[Origin] = set()
    while origin is not None and origin not in been and len(told.found_on) < _STEPS:
        been.add(origin)
        page = reader.parent(origin)
        if page is None:
            return
        url, origin = page
        told.found_on.append(redact(url))
    told.from_start = origin is None


def _look_up(reader: FrontierReader, url: str) -> Origin | None:
    try:
        return Origin(urls.host_key(url), Fingerprinter(reader.values.key)(urls.canonical(url)))
    except InvalidURL:
        return None


def _verdict_of(reader: FrontierReader, url: str) -> str:
    """In one word, of a redirect's target."""
    page = _look_up(reader, url)
    if page is None:
        return ""
    ended: Fate | None = None if (end := reader.end(*page)) is None else end.fate
    if ended is not None:
        return ended.verdict
    return Found.WAITING if reader.find(*page) is not None else ""
