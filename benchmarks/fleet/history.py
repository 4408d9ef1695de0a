"""What happened, told from the hosts' journal and the workers' committed outputs alone: pure functions, nothing else.

An arrival is later than the request's start by what the wire and both processes' loops take, so two arrivals may be
closer than two starts by that noise; what is closer than the delay by more than `TOLERANCE` counts. Where the farm did
not get a CPU, requests wait in the system before they are written down: each also has the time after which it surely
came, and a gap that may be long enough by that does not count.

What a process had when it died comes again. Its *orphans* are the pages that it had asked for, and that another one
asks for after its death. The first of them at a host may take what a session lives on, the time until somebody notices,
and the host's delay; each one after it a delay more.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from journal import ROBOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from journal import Hit

__all__ = ["NOTICE", "TOLERANCE", "Death", "Gaps", "History", "Orphans", "Pauses", "Restart", "Rules", "judge"]

TOLERANCE = 0.005
ON_THE_WIRE = 0.02
"""A request that arrives so soon after an answer left before its sender had read that."""
NOTICE = 1.0
"""Seconds until a worker that lives looks for those that do not."""
_PAUSE_SECONDS = 3.0
"""For two seconds, and a delay, which counts as the host's, nothing is lent after a restart of the engine; and workers
come back to it one after the other."""
_START_SECONDS = 4.0
"""Where that has lost something, workers end, and have to be started again. With a sync a second an engine that is
killed may lose what it said in the last two, where the disk is slow."""

Url = tuple[str, str]


class Death(NamedTuple):
    """A process came to an end, or lost what it had, without a word."""

    worker: str
    """The address it asked from; empty: the engine's, so everybody's."""
    at: float
    noticed: float = 0.0
    """Until then a process may go on, and have answers of which nothing will be known; 0: it cannot."""


class Restart(NamedTuple):
    """Of the engine."""

    at: float
    back: float

    @property
    def over(self) -> float:
        return self.back + _PAUSE_SECONDS + _START_SECONDS


class Rules(NamedTuple):
    """What is to hold. Seconds."""

    delay_of: Callable[[str], float]
    places: int
    lease: float
    are_exact: bool = True
    """Whether nothing died, so nothing may be asked for twice."""
    tolerance: float = TOLERANCE
    restarts: Sequence[Restart] = ()
    notice: float = NOTICE


class Gaps(NamedTuple):
    """Between one arrival at a host and the next one there."""

    count: int
    shortest: float
    """Over the host's delay: 1 is exactly the delay."""
    stalled: int
    """Short, but the first of the two may have been there earlier: the farm had not looked for so long."""
    slightly: int
    """Short by less than the tolerance."""
    words: list[str]
    """Those that are short."""


class Pauses(NamedTuple):
    """After answers with `Retry-After`."""

    count: int
    lost: int
    """Requests in a pause whose hearer had died."""
    words: list[str]
    """Requests in a pause that was known."""


class Orphans(NamedTuple):
    count: int
    longest: float
    """From a death to the first request for one, without what the host's delay and pauses account for."""
    longest_held: float
    """The same where the engine was started anew in between, and lent nothing for a while."""
    held_up: int
    """Those beyond the limit where another process died meanwhile, which may have had them."""
    words: list[str]
    """Those beyond the limit where none did."""


class History(NamedTuple):
    pages: int
    """With a good answer, each counted once."""
    requests: int
    gaps: Gaps
    places: list[str]
    """Requests too many at a time."""
    pauses: Pauses
    again: list[str]
    """Asked for again although there was a good answer; with deaths: by a process that had that answer itself."""
    refetched: int
    """Asked for again after somebody else's good answer, or one that never came."""
    robots: int
    """robots.txt asked for again, of these."""
    lost: list[str]
    twice: list[str]
    strays: list[str]
    orphans: Orphans
    efficiency: float

    @property
    def violations(self) -> list[str]:
        """Everything that must not be."""
        found = (self.gaps.words, self.places, self.pauses.words, self.again, self.lost, self.twice, self.strays)
        return [*itertools.chain(*found), *self.orphans.words]


def judge(
    hits: Sequence[Hit], items: Iterable[Url], expected: Iterable[Url], rules: Rules, deaths: Sequence[Death] = ()
) -> History:
    """`hits` in the order of arrival; `items` are the URLs of those that are committed."""
    by_host: dict[str, list[Hit]] = defaultdict(list)
    for hit in hits:
        by_host[hit.host].append(hit)
    counted = Counter(items)
    wanted = set(expected)
    again, refetched, robots = repeats(hits, deaths, rules)
    return History(
        pages=len({hit.url for hit in hits if hit.is_good and hit.path != ROBOTS}),
        requests=len(hits),
        gaps=gaps(by_host, rules),
        places=crowds(by_host, rules),
        pauses=pauses(by_host, deaths),
        again=again,
        refetched=refetched,
        robots=robots,
        lost=[f"no item of {''.join(url)}" for url in sorted(wanted - counted.keys())],
        twice=[f"{count} items of {''.join(url)}" for url, count in sorted(counted.items()) if count > 1],
        strays=[f"an item of {''.join(url)}, which is not there" for url in sorted(counted.keys() - wanted)],
        orphans=orphans(by_host, deaths, rules),
        efficiency=efficiency(by_host, rules),
    )


# -- manners ----------------------------------------------------------------------------------------------------------


def gaps(by_host: dict[str, list[Hit]], rules: Rules) -> Gaps:
    count = stalled = slightly = 0
    shortest = float("inf")
    words = []
    for host, hits in by_host.items():
        delay = rules.delay_of(host)
        for before, after in itertools.pairwise(hits):
            gap = after.started - before.started
            count += 1
            if gap < delay - rules.tolerance <= after.started - before.after:
                stalled += 1
                continue
            shortest = min(shortest, gap / delay if delay else 1.0)
            if gap < delay - rules.tolerance:
                words.append(f"{gap * 1000:.1f} ms instead of {delay * 1000:.0f}: {before}, then {after}")
            elif gap < delay:
                slightly += 1
    return Gaps(count, shortest, stalled, slightly, words)


def crowds(by_host: dict[str, list[Hit]], rules: Rules) -> list[str]:
    """One that ends as another arrives is gone."""
    words = []
    for hits in by_host.values():
        ends: list[float] = []
        for hit in hits:
            while ends and ends[0] <= hit.started:
                heapq.heappop(ends)
            heapq.heappush(ends, hit.ended)
            if len(ends) > rules.places:
                words.append(f"{len(ends)} at a time: {hit}")
    return words


def pauses(by_host: dict[str, list[Hit]], deaths: Sequence[Death]) -> Pauses:
    count = lost = 0
    words = []
    for hits in by_host.values():
        for hit in hits:
            if not hit.wait:
                continue
            count += 1
            until = hit.ended + hit.wait - TOLERANCE
            inside = [other for other in hits if hit.ended + ON_THE_WIRE < other.started < until]
            for other in inside:
                if any(death.worker in (hit.worker, "") and hit.ended <= death.at < other.started for death in deaths):
                    lost += 1
                else:
                    seconds = other.started - hit.ended
                    words.append(f"{seconds:.2f} s after being asked to wait {hit.wait:g} s: {other}")
    return Pauses(count, lost, words)


# -- once -------------------------------------------------------------------------------------------------------------


def repeats(hits: Sequence[Hit], deaths: Sequence[Death], rules: Rules) -> tuple[list[str], int, int]:
    """Again without need, refetched, robots.txt among these."""
    lost: dict[str, list[Death]] = defaultdict(list)
    for death in deaths:
        lost[death.worker].append(death)
    answered: dict[Url, dict[str, float]] = defaultdict(dict)
    """Who has or may have a good answer, since when. One that was cut off may have been good."""
    again = []
    refetched = robots = 0
    for hit in hits:
        known = answered[hit.url]
        since = known.get(hit.worker)
        has_it = since is not None and not any(
            since - ON_THE_WIRE <= max(death.at, death.noticed) and death.at < hit.started for death in lost[hit.worker]
        )
        if known and (rules.are_exact or has_it):
            again.append(f"again although it was answered: {hit}")
        elif known:
            refetched += 1
            robots += hit.path == ROBOTS
        if hit.is_good or (not hit.status and not rules.are_exact):
            known[hit.worker] = hit.started
    return again, refetched, robots


def orphans(by_host: dict[str, list[Hit]], deaths: Sequence[Death], rules: Rules) -> Orphans:
    count = held_up = 0
    longest = longest_held = 0.0
    words = []
    for death in deaths:
        if not death.worker:
            continue
        for host, hits in by_host.items():
            had = {hit.path for hit in hits if hit.worker == death.worker and hit.started <= death.at}
            had -= {hit.path for hit in hits if hit.worker == death.worker and hit.status not in (0, 200)}
            later = [hit for hit in hits if hit.started > death.at and hit.worker != death.worker] if had else []
            accounted = rules.delay_of(host)
            seen = set()
            for hit in later:
                waited = hit.started - death.at - accounted
                accounted += rules.delay_of(host)
                if hit.wait:
                    accounted += hit.wait + hit.ended - hit.started
                if hit.path not in had or hit.path in seen:
                    continue
                seen.add(hit.path)
                count += 1
                held = sum(
                    each.over - each.at for each in rules.restarts if death.at < each.over and each.at < hit.started
                )
                if waited <= rules.lease + rules.notice + held:
                    if held:
                        longest_held = max(longest_held, waited)
                    else:
                        longest = max(longest, waited)
                elif any(death.at < other.at < hit.started for other in deaths):
                    held_up += 1
                else:
                    longest = max(longest, waited)
                    words.append(f"{waited:.2f} s after {death.worker} died, beside the delay: {hit}")
    return Orphans(count, longest, longest_held, held_up, words)


# -- efficiency -------------------------------------------------------------------------------------------------------


def efficiency(by_host: dict[str, list[Hit]], rules: Rules) -> float:
    """Of the time from each start to the next at its host, from the first page on (which links to all others), what
    the host's delay, its places and its pauses made necessary."""
    needed = taken = 0.0
    for host, hits in by_host.items():
        first = next((place for place, hit in enumerate(hits) if hit.path != ROBOTS and hit.is_good), len(hits))
        delay = rules.delay_of(host)
        for place in range(first + 1, len(hits)):
            before, after = hits[place - 1], hits[place]
            earliest = before.started + delay
            if place - first == 1:  # its links are known when it has come
                earliest = max(earliest, before.ended)
            ends = sorted(hit.ended for hit in hits[max(0, place - 64) : place])
            if len(ends) >= rules.places:
                earliest = max(earliest, ends[-rules.places])
            earliest = max([earliest, *(hit.ended + hit.wait for hit in hits[first:place] if hit.wait)])
            needed += min(earliest, after.started) - before.started
            taken += after.started - before.started
    return needed / taken if taken else 1.0
