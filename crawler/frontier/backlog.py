"""What waits in a job, counted: by host, and by what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crawler.frontier.reader import FrontierReader

__all__ = ["REASONS", "Backlog", "HostBacklog", "Reason", "reason_of"]


class Reason:
    """What a request waits for."""

    READY = "ready"
    """Its host's next turn."""
    RETRY = "retry"
    """Another try, after one that failed."""
    NOT_BEFORE = "not before"
    """The time that it was given."""
    PAUSED = "paused"
    """The end of a pause that its host asked for."""


REASONS = (Reason.READY, Reason.RETRY, Reason.NOT_BEFORE, Reason.PAUSED)


@dataclass(slots=True)
class HostBacklog:
    """One host's part."""

    host: str
    paused_until: float
    """Unix time; 0: it is not paused."""
    count: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)
    first_due: float | None = None
    """Of those put off; None: none is."""


@dataclass(slots=True)
class Backlog:
    """All that waits at one moment, the requests that are being fetched included."""

    count: int = 0
    by_reason: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    first_due: dict[str, float] = field(default_factory=dict)
    """By reason: when the first of them comes due, or the first pause ends; Unix times."""
    hosts: list[HostBacklog] = field(default_factory=list)
    """Most first."""

    @classmethod
    def of(cls, reader: FrontierReader, now: float) -> Backlog:
        """Reads every row, and keeps a few numbers a host."""
        found = cls()
        hosts: dict[int, HostBacklog] = {}
        for number, due, _, row in reader.rows():
            host = hosts.get(number)
            if host is None:
                host = hosts[number] = _host(reader, reader.host_name(number), now)
            found._count(host, due if due > now else 0.0, row.attempt)
        found.hosts = sorted(hosts.values(), key=lambda host: (-host.count, host.host))
        return found

    def _count(self, host: HostBacklog, due: float, attempt: int) -> None:
        if due:
            host.first_due = due if host.first_due is None else min(host.first_due, due)
        reason = reason_of(due, attempt, host.paused_until)
        at = max(due, host.paused_until)
        self.count += 1
        host.count += 1
        self.by_reason[reason] += 1
        host.by_reason[reason] = host.by_reason.get(reason, 0) + 1
        if at:
            self.first_due[reason] = min(at, self.first_due.get(reason, at))


def reason_of(due: float, attempt: int, paused_until: float) -> str:
    """`due` and `paused_until` are 0 where they are past. Of two the later one counts."""
    if paused_until > due:
        return Reason.PAUSED
    if attempt:
        return Reason.RETRY
    return Reason.NOT_BEFORE if due else Reason.READY


def _host(reader: FrontierReader, name: str, now: float) -> HostBacklog:
    state = reader.host_state(name)
    return HostBacklog(name, 0.0 if state is None or state.blocked_until <= now else state.blocked_until)
