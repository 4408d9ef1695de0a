"""What the hosts' journal says of a crawl's manners: pure functions over `politeness_site.Hit`s, nothing else.

An arrival is later than the request's start by what the wire and both processes' loops take, so two arrivals may be
closer than two starts by that noise; what is closer than the delay by more than `TOLERANCE` counts as too close. Where
our own process did not get a CPU, or was busy, requests wait in the system before they are written down. So each also
has the time after which it surely came, and a gap that may be long enough by that does not count.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from politeness_site import Script, address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from politeness_site import Hit, Site

__all__ = [
    "TOLERANCE",
    "Check",
    "Efficiency",
    "Gaps",
    "Windows",
    "concurrency",
    "efficiency",
    "gaps",
    "pages",
    "repeats",
    "robots",
    "windows",
]

TOLERANCE = 0.005
ON_THE_WIRE = 0.01
"""A request that arrives so soon after an answer left before its sender had read that."""
UNCOMMITTED = 0.5
"""An epoch is open for 0.2 s; what an answer said that came so shortly before a kill may be lost with the process."""


class Check(NamedTuple):
    what: str
    found: str
    target: str
    ok: bool


def by_host(hits: Iterable[Hit]) -> dict[int, list[Hit]]:
    found: dict[int, list[Hit]] = defaultdict(list)
    for hit in hits:
        found[hit.host].append(hit)
    return found


# -- gaps -------------------------------------------------------------------------------------------------------------


class Gaps(NamedTuple):
    """Between one arrival at a host and the next one there. Seconds."""

    count: int
    least: float
    """Over the host's delay: 1 is exactly the delay."""
    shortest: float
    median_late: float
    """How much longer than the delay, where that is less than a tenth of it: the rest had reasons."""
    short: int
    """Below the delay by more than the tolerance."""
    stalled: int
    """The same, but the first of the two may have been there earlier: our own process had not looked for so long."""
    slightly: int
    """Below it by less."""
    words: list[str]
    """The short ones: which requests they were."""
    across: int
    """Gaps in which a crawl was killed."""
    least_across: float
    """The shortest of them; 0: none."""


def gaps(site: Site, delay_of: Callable[[Script], float], tolerance: float = TOLERANCE) -> Gaps:
    shares, lengths, late, across, words = [], [], [], [], []
    slightly = stalled = 0
    for host, hits in sorted(by_host(site.journal.hits).items()):
        delay = delay_of(site.scripts[host])
        for before, after in itertools.pairwise(hits):
            gap = after.arrived - before.arrived
            lengths.append(gap)
            shares.append(gap / delay)
            if any(before.arrived < death < after.arrived for death in site.journal.deaths):
                across.append(gap)
            if gap < delay - tolerance <= after.arrived - before.after:
                stalled += 1
            elif gap < delay - tolerance:
                words.append(f"{gap * 1000:.1f} ms instead of {delay * 1000:.0f}: {before!r}, then {after!r}")
            elif gap < delay:
                slightly += 1
            if 0 <= gap - delay < delay / 10:
                late.append(gap - delay)
    return Gaps(
        len(lengths),
        min(shares, default=0.0),
        min(lengths, default=0.0),
        statistics.median(late or [0.0]),
        len(words),
        stalled,
        slightly,
        words,
        len(across),
        min(across, default=0.0),
    )


def concurrency(site: Site) -> tuple[int, str]:
    """The most requests that were at one host at a time, and where. One that ends as another arrives is gone."""
    most, where = 0, ""
    for host, hits in by_host(site.journal.hits).items():
        events = [(hit.arrived, 1) for hit in hits] + [(hit.ended, -1) for hit in hits if hit.ended is not None]
        level = 0
        for _, step in sorted(events):
            level += step
            if level > most:
                most, where = level, address(host)
    return most, where


# -- Retry-After ------------------------------------------------------------------------------------------------------


class Windows(NamedTuple):
    """From the end of an answer with `Retry-After` to the time that it names."""

    count: int
    over_a_kill: int
    """In which a crawl was killed."""
    inside: int
    """Requests that arrived there."""
    on_the_wire: int
    """Of those not counted in `inside`: they were on their way when the answer left."""
    uncommitted: int
    """Nor these: a crawl was killed so shortly after the answer that nothing of it may have been kept."""
    words: list[str]
    least_after: float
    """How long after a window's end the first request came, at least; negative: before it."""


def windows(site: Site) -> Windows:
    count = over = inside = wire = lost = 0
    words: list[str] = []
    after: list[float] = []
    for hits in by_host(site.journal.hits).values():
        for asked in hits:
            if not asked.wait_until or asked.ended is None:
                continue
            count += 1
            left, until = asked.ended, asked.wait_until
            deaths = [death for death in site.journal.deaths if left <= death < until]
            over += bool(deaths)
            for hit in hits:
                if not left < hit.arrived < until:
                    continue
                if hit.arrived - left < ON_THE_WIRE:
                    wire += 1
                elif any(death - left < UNCOMMITTED and hit.arrived > death for death in deaths):
                    lost += 1
                else:
                    inside += 1
                    words.append(f"{hit!r} {until - hit.arrived:.3f} s before what {asked!r} asked for was over")
            later = [hit.arrived - until for hit in hits if hit.arrived >= until]
            after.append(min(later, default=0.0))
    return Windows(count, over, inside, wire, lost, words, min(after, default=0.0))


# -- how often --------------------------------------------------------------------------------------------------------


def robots(site: Site) -> tuple[int, int, list[str]]:
    """Hosts whose robots.txt was asked for more than once; how many of them because a kill came before that was kept;
    the others in words."""
    more = lost = 0
    words = []
    for host, hits in by_host(site.journal.hits).items():
        asked = [hit for hit in hits if hit.kind == "robots.txt"]
        if len(asked) == 1:
            continue
        more += 1
        pairs = itertools.pairwise(asked)
        if asked and all(_killed_soon(site.journal.deaths, before, after) for before, after in pairs):
            lost += 1
        else:
            words.append(f"{address(host)}: robots.txt {len(asked)} times")
    return more, lost, words


def _killed_soon(deaths: Sequence[float], before: Hit, after: Hit) -> bool:
    ended = before.ended or before.arrived
    number = bisect.bisect(deaths, before.arrived)
    return number < len(deaths) and deaths[number] < min(after.arrived, ended + UNCOMMITTED)


def pages(site: Site) -> tuple[int, list[str]]:
    """How many paths a whole crawl has, and which of them nobody got."""
    got = {(hit.host, hit.path) for hit in site.journal.hits if 0 < hit.status < 400}
    wanted = [(host, path) for host in range(len(site.scripts)) for path in sorted(site.paths(host))]
    return len(wanted), [f"{address(host)}{path}" for host, path in wanted if (host, path) not in got]


def repeats(site: Site) -> tuple[int, list[str]]:
    """Whole good answers that somebody had got already: how many came after a kill, and the others in words."""
    had: dict[tuple[int, str], Hit] = {}
    over_a_kill, words = 0, []
    for hit in site.journal.hits:
        if not 0 < hit.status < 400 or hit.kind in {"robots.txt", "moved"}:
            continue
        before = had.get((hit.host, hit.path))
        if before is not None:
            if any(before.arrived < death < hit.arrived for death in site.journal.deaths):
                over_a_kill += 1
            else:
                words.append(f"{hit!r} twice")
        had[hit.host, hit.path] = hit
    return over_a_kill, words


def requests_a_page(site: Site) -> float:
    """Requests, robots.txt left out, over paths that a whole crawl has."""
    asked = Counter(hit.kind in {"robots.txt", "moved"} for hit in site.journal.hits)[False]
    return asked / pages(site)[0]


# -- efficiency -------------------------------------------------------------------------------------------------------


class Efficiency(NamedTuple):
    """What was achieved, over what politeness allows: each host's rate times how long it had work, added up."""

    spaced: float
    """By the delay as the crawler has it, from start to start: a rate of min(1 / spacing, places / latency)."""
    issue: float
    """By a delay that begins when an answer ends: a rate of places / (delay + latency)."""
    requests: int
    seconds: float
    """From the first arrival to the last."""
    latency: float
    """On average, of all requests."""
    slowest: str
    """The host furthest below, by the first measure."""


def efficiency(site: Site, spacing: float, places: int, delay: float) -> Efficiency:
    """Of a crawl whose hosts all have work from its first request until their own last one. `spacing` is the mean
    time from one start to the next that the settings ask for."""
    hits = site.journal.hits
    began = hits[0].arrived
    spaced = issue = 0.0
    slowest: tuple[float, str] = (9.0, "")
    for host, own in by_host(hits).items():
        latency = statistics.fmean((hit.ended or hit.arrived) - hit.arrived for hit in own)
        rate = min(1 / spacing, places / latency if latency else 1 / spacing)
        worked = own[-1].arrived - began + 1 / rate  # the last one's turn lasts until the next could come
        spaced += worked * rate
        issue += worked * places / (delay + latency)
        slowest = min(slowest, (len(own) / (worked * rate), f"{address(host)} ({site.scripts[host].kind})"))
    return Efficiency(
        len(hits) / spaced,
        len(hits) / issue,
        len(hits),
        hits[-1].arrived - began,
        statistics.fmean((hit.ended or hit.arrived) - hit.arrived for hit in hits),
        f"{slowest[1]} {slowest[0]:.2f}",
    )
