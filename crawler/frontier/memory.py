"""A store that lives and dies with the process: `frontier.url = "memory://"`."""

from __future__ import annotations

import bisect
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from crawler.frontier.rows import Row
    from crawler.politeness import HostState

__all__ = ["MemoryStore"]


class MemoryStore:
    """`crawler.frontier.store.Store` in dictionaries. Everything is in the window: there is no elsewhere."""

    window = sys.maxsize // 2

    def __init__(self) -> None:
        self.deaths: dict[int, int] = {}
        self._ids: dict[str, int] = {}
        self._states: dict[str, HostState] = {}
        self._seen: set[int] = set()
        self._rows: dict[tuple[int, bytes], Row] = {}
        self._deferred: dict[int, list[tuple[float, bytes, Row]]] = {}
        self._deferred_count = 0
        self._values: dict[str, bytes] = {}

    def open(self) -> Iterable[str]:
        return ()

    async def close(self) -> None:
        pass

    async def roll_back(self) -> bool:
        return False

    def host_id(self, name: str) -> int:
        return self._ids.setdefault(name, len(self._ids))

    def known_host_id(self, name: str) -> int | None:
        return self._ids.get(name)

    def host_count(self) -> int:
        return len(self._ids)

    def host_state(self, name: str) -> HostState | None:
        return self._states.get(name)

    def save_host_state(self, name: str, state: HostState) -> None:
        self._states[name] = state

    def add_seen(self, host: int, fingerprint: int) -> bool:
        before = len(self._seen)
        self._seen.add(fingerprint)
        return len(self._seen) > before

    def has_seen(self, host: int, fingerprint: int) -> bool:
        return fingerprint in self._seen

    def put_end(self, host: int, fingerprint: int, origin: bytes, end: bytes) -> None:
        pass  # nobody can ask after the process has ended

    def get_end(self, host: int, fingerprint: int) -> bytes | None:
        return None

    def put(self, host: int, order: bytes, row: Row) -> None:
        self._rows[host, order] = row

    def get(self, host: int, order: bytes) -> Row:
        return self._rows[host, order]

    def delete(self, host: int, order: bytes) -> None:
        del self._rows[host, order]

    def scan(self, host: int) -> Iterator[bytes]:
        return iter(sorted(order for owner, order in self._rows if owner == host))

    def defer(self, host: int, due: float, order: bytes, row: Row) -> None:
        bisect.insort(self._deferred.setdefault(host, []), (due, order, row))
        self._deferred_count += 1

    def first_due(self, host: int) -> float | None:
        deferred = self._deferred.get(host)
        return deferred[0][0] if deferred else None

    def promote(self, host: int, now: float, limit: int) -> list[bytes]:
        deferred = self._deferred.get(host, [])
        taken = deferred[: min(limit, bisect.bisect_right(deferred, now, key=lambda waiting: waiting[0]))]
        del deferred[: len(taken)]
        self._deferred_count -= len(taken)
        for _, order, row in taken:
            self._rows[host, order] = row
        return [order for _, order, _ in taken]

    def waiting(self) -> Iterator[tuple[str, float, bytes, Row]]:
        names = {id: name for name, id in self._ids.items()}
        for (host, order), row in self._rows.items():
            yield names[host], 0.0, order, row
        for host, deferred in self._deferred.items():
            for due, order, row in deferred:
                yield names[host], due, order, row

    def size(self) -> int:
        return len(self._rows) + self._deferred_count

    def get_value(self, key: str) -> bytes | None:
        return self._values.get(key)

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return iter(sorted((key, value) for key, value in self._values.items() if key.startswith(prefix)))

    def put_value(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    async def commit(self, values: Mapping[str, bytes | None]) -> None:
        for key, value in values.items():
            self.put_value(key, value)

    async def sync(self, before: Callable[[], Awaitable[None]]) -> None:
        await before()

    @property
    def is_behind(self) -> bool:
        return False

    def at_work(self, fingerprint: int) -> None:
        pass

    def stays_at_work(self) -> Callable[[], None]:
        return lambda: None

    def count_deaths(self, fingerprints: Iterable[int]) -> None:
        for fingerprint in fingerprints:
            self.deaths[fingerprint] = self.deaths.get(fingerprint, 0) + 1

    def forget_deaths(self, fingerprint: int) -> None:
        self.deaths.pop(fingerprint, None)
