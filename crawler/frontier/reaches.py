"""Redirects that are under way between workers: whose page is it that one is just leading to?

Until the request that was redirected has ended, the page counts for nobody but it; links to that page wait to see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.contracts import Verdict

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from crawler.contracts import Entry
    from crawler.frontier.broker import End
    from crawler.frontier.local import LocalFrontier

__all__ = ["Reaches"]


class _Reach:
    __slots__ = ("entries", "task")

    def __init__(self, task: str) -> None:
        self.task = task
        self.entries: list[Entry] = []
        """Links that lead there too."""


class Reaches:
    def __init__(self, frontier: LocalFrontier) -> None:
        self._frontier = frontier
        self._reaches: dict[tuple[str, int], _Reach] = {}

    def __len__(self) -> int:
        return len(self._reaches)

    def begin(self, host: str, fingerprint: int, task: str) -> bool:
        """A task was redirected to this page: whether it may have it."""
        under_way = self._reaches.get((host, fingerprint))
        if under_way is not None:
            return under_way.task == task
        if self._frontier.seen(host, fingerprint):
            return False
        self._reaches[host, fingerprint] = _Reach(task)
        return True

    def hide(self, entries: Sequence[Entry]) -> tuple[Sequence[Entry], int]:
        """Without those that wait to see, and how many those are."""
        if not self._reaches:
            return entries, 0
        shown = []
        for entry in entries:
            reach = self._reaches.get((entry.host, entry.fingerprint)) if entry.filtered else None
            if reach is None:
                shown.append(entry)
            else:
                reach.entries.append(entry)
        return shown, len(entries) - len(shown)

    def end(self, ends: Iterable[End]) -> list[Entry]:
        """Where the redirects of tasks that are done led is known from now on. What waited to see where others led is
        to be added."""
        verdicts = {end.task: end.verdict for end in ends}
        freed: list[Entry] = []
        for (host, fingerprint), reach in list(self._reaches.items()):
            verdict = verdicts.get(reach.task)
            if verdict is None:
                continue
            del self._reaches[host, fingerprint]
            if verdict is Verdict.DONE or verdict is Verdict.DEAD:
                self._frontier.remember(host, fingerprint)
            else:
                freed += reach.entries
        return freed

    def drop(self, tasks: Container[str]) -> list[Entry]:
        """These tasks are with nobody any more; what waited for them is to be added."""
        freed: list[Entry] = []
        for key, reach in list(self._reaches.items()):
            if reach.task in tasks:
                del self._reaches[key]
                freed += reach.entries
        return freed
