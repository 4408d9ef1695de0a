"""The crawl's counters, and `stats.json`.

Counting is a plain attribute increment; everything that is shown anywhere (the live line, the summary, `stats.json`,
tests) reads one `snapshot()`. The counters are committed with each epoch, so a crawl that was killed adds up over
its runs.
"""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Stats", "write_json"]


class Totals(msgspec.Struct):
    """What is committed: plain sums over all runs of the job."""

    requests: int = 0
    """Sent to a server, retries and redirects included."""
    responses: int = 0
    pages: int = 0
    """Responses handed to a callback."""
    not_modified: int = 0
    """Pages of a refresh that the server said have not changed (304)."""
    items: int = 0
    items_dropped: int = 0
    """By pipelines, the refused ones included."""
    items_refused: int = 0
    """Those that a pipeline raised on, or no output could hold: `refused.jsonl` has them."""
    items_unchanged: int = 0
    """Those of unchanged pages that `--only-changed` left out."""
    errors: int = 0
    retries: int = 0
    redirects: int = 0
    bytes: int = 0
    duplicates: int = 0
    offsite: int = 0
    robots_denied: int = 0
    blocked: int = 0
    depth_max: int = 0
    done: int = 0
    """Queued requests whose callback had its response, or whose page had not changed."""
    failed: int = 0
    """Those that were given up, or refused by our own rules."""
    dropped: int = 0
    """Those that redirects led elsewhere: to a host that has its own turn, or to a page that was known."""
    stalls: int = 0
    """How often the loop was blocked for more than a second (`crawler.watchdog`)."""
    longest_stall_seconds: float = 0.0
    status: dict[str, int] = {}
    failures: dict[str, int] = {}
    proxies: dict[str, dict[str, int]] = {}
    """By proxy, without credentials: requests, and those that failed."""
    custom: dict[str, int] = {}
    elapsed_seconds: float = 0.0
    started_at: float = 0.0


_ADDED = tuple(
    name
    for name, default in msgspec.structs.asdict(Totals()).items()
    if type(default) is int and name not in ("items", "depth_max")
)


class Stats:
    """`spider` is the name shown; `totals` what earlier runs of the job committed.

    `stats.total` is the sums; change them by attribute. `count(name)` is for the user's own counters.
    """

    def __init__(self, spider: str, now: float, totals: Totals | None = None) -> None:
        self.spider = spider
        self.total = totals if totals is not None else Totals(started_at=now)
        self.reason = "running"
        self.finished_at: float | None = None
        self.hosts = 0
        self.added = self.waiting = 0
        """Requests ever queued, and those not ended: `added = done + failed + dropped + waiting`."""
        self._run_started = now
        self._earlier_seconds = self.total.elapsed_seconds
        self.status: Counter[int] = Counter({int(status): count for status, count in self.total.status.items()})
        self.failures: Counter[str] = Counter(self.total.failures)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter of the user's own; shown under `custom` in `stats.json`."""
        self.total.custom[name] = self.total.custom.get(name, 0) + by

    def failed(self, reason: str) -> None:
        """One request or page given up, for this reason."""
        self.total.errors += 1
        self.failures[reason] += 1

    def refused(self, reason: str) -> None:
        """One request that our own rules did not let through."""
        self.failures[reason] += 1
        if reason == "robots":
            self.total.robots_denied += 1
        elif reason == "offsite":
            self.total.offsite += 1
        else:
            self.total.blocked += 1

    def stalled(self, seconds: float) -> None:
        """The loop was blocked for so long."""
        self.total.stalls += 1
        self.total.longest_stall_seconds = max(self.total.longest_stall_seconds, round(seconds, 3))

    def by_proxy(self, proxy: str | None, *, failed: bool = False) -> None:
        """Count a request that went through this proxy, if it went through one."""
        if proxy is not None:
            counts = self.total.proxies.setdefault(proxy, {"requests": 0, "failures": 0})
            counts["requests"] += 1
            counts["failures"] += failed

    def add(self, before: Totals, after: Totals) -> None:
        """What another process counted between these two, items excepted: they are counted where they are written."""
        total = self.total
        for name in _ADDED:
            more = getattr(after, name) - getattr(before, name)
            if more:
                setattr(total, name, getattr(total, name) + more)
        total.depth_max = max(total.depth_max, after.depth_max)
        total.longest_stall_seconds = max(total.longest_stall_seconds, after.longest_stall_seconds)
        for status, count in after.status.items():
            self.status[int(status)] += count - before.status.get(status, 0)
        for reason, count in after.failures.items():
            self.failures[reason] += count - before.failures.get(reason, 0)
        for name, count in after.custom.items():
            if more := count - before.custom.get(name, 0):
                self.count(name, more)
        for proxy, counts in after.proxies.items():
            old, sums = before.proxies.get(proxy, {}), total.proxies.setdefault(proxy, {"requests": 0, "failures": 0})
            for name, count in counts.items():
                sums[name] += count - old.get(name, 0)

    def elapsed(self, now: float) -> float:
        """Seconds of crawling over all runs of the job."""
        return self._earlier_seconds + now - self._run_started

    def run_elapsed(self, now: float) -> float:
        """Seconds of this run."""
        return now - self._run_started

    def encode(self, now: float) -> bytes:
        """The sums, to be committed with the epoch."""
        self._settle(now)
        return msgspec.msgpack.encode(self.total)

    @classmethod
    def decode(cls, spider: str, now: float, saved: bytes | None) -> Stats:
        return cls(spider, now, None if saved is None else msgspec.msgpack.decode(saved, type=Totals))

    def snapshot(self, now: float) -> dict[str, Any]:
        """The content of `stats.json`."""
        self._settle(now)
        sums = msgspec.structs.asdict(self.total)
        started = sums.pop("started_at")
        return {
            "spider": self.spider,
            "reason": self.reason,
            "started_at": _iso(started),
            "finished_at": None if self.finished_at is None else _iso(self.finished_at),
            "elapsed_seconds": round(sums.pop("elapsed_seconds"), 3),
            **sums,
            "added": self.added,
            "waiting": self.waiting,
            "hosts": self.hosts,
        }

    def _settle(self, now: float) -> None:
        self.total.elapsed_seconds = self.elapsed(now)
        self.total.status = {str(status): count for status, count in sorted(self.status.items())}
        self.total.failures = dict(sorted(self.failures.items()))

    def __repr__(self) -> str:
        total = self.total
        return f"<Stats {self.reason} pages={total.pages} items={total.items} errors={total.errors}>"


def write_json(path: Path, snapshot: dict[str, Any]) -> None:
    """Replace `path` atomically, for its owner to read: whoever reads sees the old file or the new one, whole."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)  # of a run that was killed
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(snapshot), indent=2) + b"\n")
    os.replace(temporary, path)


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
