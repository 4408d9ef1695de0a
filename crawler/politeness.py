"""How a host is treated: one `Controller` each, pure decisions over what the host has answered so far.

A host gets at most `concurrency` requests at a time, and two of its requests start at least `delay` seconds apart. The
delay begins as configured and then follows the host, as TCP follows a path whose capacity nobody has told it:

    it answers     the rate (1 / delay) grows by a fixed step, a tenth of the configured rate an answer: 0.5 s becomes
                   0.45, 0.42, 0.38 s, and after 90 good answers 0.05 s, a tenth, where it stops
    it errs        the delay doubles: 429, 5xx, time-outs, lost connections

Additive increase and multiplicative decrease of a rate is the one pair of simple rules under which visitors who know
nothing of each other come to a fair share and stay there (Chiu and Jain, 1989); other pairs leave the fastest with
everything, or swing. Backing off is quick because a host in trouble is worth more than a page; a step of the rate,
unlike a step of the delay, comes back from a minute to a second in a few answers, and then creeps.

Latency bounds it from below: the delay never gets shorter than the host takes to answer. So on average one request is
at a host, as with a reader who waits for a page before asking for the next; the second place is for answers that take
longer than others. A host that gets slower is followed halfway at each answer. Below the configured delay it only goes
for a host that has answered well twenty times in a row: a few pages say little. What robots.txt asks for by
`Crawl-delay` is never undercut. A configured delay of 0 stays 0: its owner asked for that.

Jitter only ever adds: the delay is a floor that a site's owner can measure.

    closed ── failures in a row ──► open ── its pause is over ──► half open ── the probe fails ──► open, twice as long
       ▲                                                              │
       └──────────────────────── any good answer ◄────────────────────┘

Backing off ends at `max_delay`; a host that is down needs more. A fifth failure in a row that is some request's first
is the host's, if it had answered well before: that request goes back as it was. After `circuit_failures` failures in a
row the circuit opens: nobody goes there for a pause of 60 configured delays, then one probe does, and each that fails
doubles the pause. A failed probe says nothing of its request, which goes back to the queue. After `_PROBES` of them, an
hour or so, the host is given up (`Circuit.DOWN`) until the next one is due: what waits for it fails without being sent.

`Retry-After` pauses the host: no place and no turn until then, whatever else holds.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

__all__ = ["Answer", "Circuit", "Controller", "HostRule", "HostState", "Pause", "is_trouble"]

_TROUBLED_STATUSES: Final = frozenset({429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_TROUBLED_REASONS: Final = frozenset(
    {
        "connect_timeout", "read_timeout", "total_timeout", "connect_refused", "connect_reset", "connect_unreachable",
        "disconnected", "dns_timeout", "dns_failed", "protocol", "too_slow",
    }
)  # fmt: skip

_SHARE: Final = 10
"""The rate grows by one part in so many of the configured one; the shortest delay is one part of it."""
_EVIDENCE: Final = 20
"""Good answers in a row before a host is visited faster than configured."""
_SMOOTHING: Final = 0.25
"""Weight of the last answer in the latency: the last four or so count."""
_PAUSE_DELAYS: Final = 60
"""The first pause of an open circuit, in configured delays: half a minute."""
_LONGEST_PAUSE: Final = 900.0
_PROBES: Final = 8
"""Failed ones after which a host is given up: an hour, at the usual delay."""
_FEW: Final = 4
"""Failures in a row for which the pages are to blame: one page that is broken fails as often, with its retries."""
_PROBES_OF_STRANGERS: Final = 2
"""The same for a host that never answered well: most of those do not exist any more."""


@dataclass(frozen=True, slots=True)
class HostRule:
    """One host's configured treatment; delays in seconds."""

    delay: float = 0.5
    jitter: float = 0.3
    concurrency: int = 2
    adaptive: bool = True
    max_delay: float = 60.0
    obey_robots: bool = True
    obey_nofollow: bool = True
    max_crawl_delay: float = 60.0
    circuit_failures: int = 20
    """In a row, after which nobody goes there for a while; 0: however many."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What came of one request to a host."""

    status: int = 0
    """0: there was no answer."""
    reason: str = ""
    """Of the error, where there was none."""
    latency: float | None = None
    """Seconds from sending to the end of the body (streamed: of the headers)."""
    retry_after: float | None = None
    """Seconds that the host asked for, clamped by whoever read it."""

    @property
    def word(self) -> str:
        """`503`, `read_timeout`."""
        return str(self.status) if self.status else self.reason


def is_trouble(answer: Answer) -> bool:
    """Whether it says that the host is overloaded or ill."""
    return answer.status in _TROUBLED_STATUSES if answer.status else answer.reason in _TROUBLED_REASONS


class Circuit(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    """Paused, or trying one probe."""
    DOWN = "down"
    """Given up: what waits for the host fails."""


class Pause(enum.StrEnum):
    """Why a host is not visited at all for a while."""

    NONE = ""
    RETRY_AFTER = "retry_after"
    """It asked for it."""
    CIRCUIT = "circuit"
    """It failed too often in a row."""
    ROBOTS = "robots"
    """Its robots.txt cannot be had."""
    NAME = "name"
    """Its name is being looked up."""
    ASKED = "asked"
    """Somebody said so."""


class HostState(NamedTuple):
    """What survives of a host. Delay and places are None where they are as configured; times are Unix times."""

    delay: float | None
    places: int | None
    blocked_until: float
    next_start: float
    pause: str = ""
    """Of `Pause`."""
    latency: float = 0.0
    """Seconds, smoothed; 0: not known."""
    good: int = 0
    """Good answers in a row, as far as they count."""
    failures: int = 0
    """In a row."""
    probes: int = 0
    """Failed ones, in a row."""
    answers: int = 0
    """Of all kinds."""
    troubles: int = 0
    crawl_delay: float = 0.0
    """As robots.txt asks, cut to `max_crawl_delay`."""
    last_trouble: str = ""
    was_good: bool = False
    usual: float = 0.0
    """The delay to begin with, as it was configured and robots.txt asked."""
    group: str = ""
    """The group in which the host is treated; then nothing else here says anything."""


class Controller:
    """One host, or one group of hosts that are treated as one. Times are Unix times, all of them arguments.

    The caller asks for `turn` and whether `taken` is below `places`, then takes both (`take`), says when the request
    really went out (`sent`) and what came back (`observe`), and gives the place back (`leave`).
    """

    __slots__ = (
        "_before",
        "_is_given_up",
        "_is_open",
        "_pushed",
        "answers",
        "blocked_until",
        "crawl_delay",
        "delay",
        "demand",
        "failures",
        "good",
        "last_sent",
        "last_trouble",
        "latency",
        "members",
        "name",
        "next_start",
        "pause",
        "places",
        "probes",
        "rule",
        "slow_taken",
        "taken",
        "troubles",
        "usual_places",
        "was_good",
    )

    def __init__(self, name: str, rule: HostRule) -> None:
        self.name = name
        self.rule = rule
        self.delay = rule.delay
        self.crawl_delay = 0.0
        self.usual_places = rule.concurrency
        self.places = rule.concurrency
        """Requests at a time; one while the circuit is not closed."""
        self.taken = 0
        self.members = self.slow_taken = 0
        self.demand = 0.0
        """The frontier's: hosts that are in it, places in its slow lane, and what it could use of the quick one."""
        self.next_start = 0.0
        self.last_sent = -math.inf
        self._before = self._pushed = 0.0
        """`next_start` before and after the last turn was taken."""
        self.blocked_until = 0.0
        self.pause = Pause.NONE
        self.latency = 0.0
        self.good = self.failures = self.probes = self.answers = self.troubles = 0
        self.was_good = False
        self.last_trouble = ""
        self._is_open = self._is_given_up = False

    # -- turns -------------------------------------------------------------------------------------------------------

    @property
    def turn(self) -> float:
        """When the next request may start. A host that is given up has its turn at once: nothing is sent there."""
        if self.blocked_until <= self.next_start or (self.pause is Pause.CIRCUIT and self._is_given_up):
            return self.next_start
        return self.blocked_until

    def is_paused(self, now: float) -> bool:
        """Whether nothing may be sent now, a request that has its turn included."""
        return self.blocked_until > now

    def early_by(self, now: float) -> float:
        """Seconds until a delay has passed since the last request really went out, and no pause holds. A turn that was
        given ahead of time does not know how late the one before it was."""
        return max(self.last_sent + self.delay, self.blocked_until) - now

    def spacing(self, chance: float) -> float:
        """Seconds from one start to the next; `chance` is uniform in [0, 1)."""
        return self.delay * (1.0 + self.rule.jitter * chance)

    def take(self, start: float, chance: float) -> None:
        """A place, and the turn at `start`."""
        self.taken += 1
        self._before = self.next_start
        self.next_start = self._pushed = start + self.spacing(chance)

    def sent(self, at: float) -> bool:
        """A request went out, which may be later than its turn began. Whether that moves the next turn."""
        self.last_sent = max(self.last_sent, at)
        if at + self.delay <= self.next_start:
            return False
        self.next_start = at + self.delay
        return True

    def leave(self, *, unused: bool) -> None:
        """The place is free. `unused`: nothing was sent, so the turn is there for the next, if nobody had one since."""
        self.taken -= 1
        if unused and self.next_start == self._pushed:
            self.next_start = self._before

    # -- what the host says ------------------------------------------------------------------------------------------

    def observe(self, answer: Answer, now: float) -> None:
        """Errors that are no trouble of the host's (a certificate, a body too large) change nothing."""
        if is_trouble(answer):
            self.answers += 1
            self._after_trouble(answer, now)
        elif answer.status:
            self.answers += 1
            self._after_good(answer, now)

    def ask_delay(self, seconds: float) -> None:
        """robots.txt asks for this `Crawl-delay`; 0: it does not."""
        asked = min(seconds, self.rule.max_crawl_delay)
        at_start = self.delay == self._usual
        self.crawl_delay = asked
        self.change(delay=max(self.delay, asked) if not at_start else self._usual)

    def block(self, until: float, pause: Pause) -> None:
        """Nobody goes there before. A longer pause stays."""
        if until > self.blocked_until:
            self.blocked_until, self.pause = until, pause

    def change(self, *, delay: float | None = None, places: int | None = None) -> None:
        """As somebody said who knows. A longer delay holds from the last start on."""
        if delay is not None:
            if self.next_start:
                self.next_start += max(0.0, delay - self.delay)
            self.delay = delay
        if places is not None:
            self.usual_places = places
            self._settle()

    def is_to_blame(self, attempt: int, now: float) -> bool:
        """Whether a failure just observed says nothing of its request, which had so many tries before: it was a probe,
        or one more first try of a row of them, at a host that had answered well."""
        if self._is_open:
            return self.is_paused(now)
        has_circuit = self.rule.circuit_failures > 0 and self.rule.delay > 0
        return has_circuit and self.was_good and attempt == 0 and self.failures > _FEW

    def circuit(self, now: float) -> Circuit:
        if not self._is_open:
            return Circuit.CLOSED
        return Circuit.DOWN if self._is_given_up and self.is_paused(now) else Circuit.OPEN

    def _settle(self) -> None:
        """What follows from the counts of failures."""
        most = self.rule.circuit_failures
        self._is_open = bool(most) and self.failures >= most and self.rule.delay > 0
        self._is_given_up = self._is_open and self.probes >= (_PROBES if self.was_good else _PROBES_OF_STRANGERS)
        self.places = 1 if self._is_open else self.usual_places

    @property
    def _usual(self) -> float:
        """The delay to begin with."""
        return max(self.rule.delay, self.crawl_delay)

    @property
    def _longest(self) -> float:
        return max(self.rule.max_delay, self._usual)

    def _after_trouble(self, answer: Answer, now: float) -> None:
        self.troubles += 1
        self.good = 0
        self.last_trouble = answer.word
        if self.rule.adaptive:
            self.change(delay=min(max(self.delay, self._usual) * 2, self._longest))
        if answer.retry_after is not None:
            self.block(now + answer.retry_after, Pause.RETRY_AFTER)
        was_open = self._is_open
        if was_open and self.blocked_until > now:
            return  # sent before it opened
        self.failures += 1
        self.probes += was_open
        self._settle()
        if self._is_open:
            pause = _PAUSE_DELAYS * self.rule.delay * 2.0 ** min(self.probes, 30)
            self.block(now + min(pause, _LONGEST_PAUSE), Pause.CIRCUIT)

    def _after_good(self, answer: Answer, now: float) -> None:
        self.was_good = True
        if self.failures:
            self._recover(now)
        if answer.latency is not None:
            weight = _SMOOTHING if self.latency else 1.0
            self.latency += (answer.latency - self.latency) * weight
        rule = self.rule
        if rule.adaptive and rule.delay:
            self.good = min(self.good + 1, _EVIDENCE + 1)
            self._follow(is_page=answer.status < 400)

    def _recover(self, now: float) -> None:
        if self.pause is Pause.CIRCUIT and self._is_open:
            self.blocked_until, self.pause = min(self.blocked_until, now), Pause.NONE
        self.failures = self.probes = 0
        self._settle()

    def _follow(self, *, is_page: bool) -> None:
        """An error page costs a host little, so it is no reason to come faster than configured."""
        shortest = max(self.rule.delay / _SHARE, self.crawl_delay)
        target = min(max(self.latency, shortest), self._longest)
        if target > self.delay:
            self.delay = (self.delay + target) / 2
            return
        if not is_page or self.good <= _EVIDENCE:
            target = max(target, self._usual)
        if target < self.delay:
            rate = 1.0 / self.delay + 1.0 / (_SHARE * self.rule.delay)
            self.delay = max(target, 1.0 / rate)

    # -- over restarts -----------------------------------------------------------------------------------------------

    def state(self) -> HostState:
        return HostState(
            self.delay if self.delay != self._usual else None,
            self.usual_places if self.usual_places != self.rule.concurrency else None,
            self.blocked_until,
            self.next_start,
            self.pause.value,
            self.latency,
            self.good,
            self.failures,
            self.probes,
            self.answers,
            self.troubles,
            self.crawl_delay,
            self.last_trouble,
            self.was_good,
            self._usual,
        )

    def restore(self, saved: HostState, resumed: float) -> None:
        """As it was when an earlier process saved it; `resumed` is when this one began. What is configured now wins
        over what was then: the delay stays within its limits."""
        self.crawl_delay = min(saved.crawl_delay, self.rule.max_crawl_delay)
        self.delay = self._usual
        if saved.delay is not None:
            shortest = max(self.rule.delay / _SHARE, self.crawl_delay) if self.rule.adaptive else self._usual
            self.delay = max(shortest, min(saved.delay, self._longest))
        self.usual_places = self.usual_places if saved.places is None else saved.places
        self.blocked_until, self.pause = saved.blocked_until, _pause(saved.pause)
        self.latency, self.good = saved.latency, saved.good
        self.failures, self.probes, self.was_good = saved.failures, saved.probes, saved.was_good
        self.answers, self.troubles, self.last_trouble = saved.answers, saved.troubles, saved.last_trouble
        self._settle()
        # Of an earlier process, whose clock may have gone wrong: never more than a turn from its end.
        self.next_start = min(saved.next_start, resumed + self.spacing(1.0))

    def __repr__(self) -> str:
        return f"<Controller {self.name} delay={self.delay:.3g} taken={self.taken}/{self.places}>"


def _pause(word: str) -> Pause:
    """Of another version's word nothing is known but that it pauses."""
    try:
        return Pause(word)
    except ValueError:
        return Pause.ASKED
