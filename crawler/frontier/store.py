"""Where a local frontier keeps what must not be lost: the contract of `memory` and `disk`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from crawler.frontier.rows import Row
    from crawler.politeness import HostState

__all__ = ["HostStates", "Store"]


class HostStates(Protocol):
    """What is kept of hosts."""

    def host_id(self, name: str) -> int:
        """A new one for a host that has none."""
        ...

    def host_state(self, name: str) -> HostState | None:
        """What was saved last."""
        ...

    def save_host_state(self, name: str, state: HostState) -> None: ...


class Store(HostStates, Protocol):
    """Where a `LocalFrontier` keeps what must not be lost. Hosts are small integers; keys sort as bytes.

    Changes join the open transaction; `commit` makes them durable together. Raises `EngineUnavailable`.
    """

    window: int
    """How many keys of a host the frontier may keep in memory; the store can `scan` for the rest."""

    @property
    def deaths(self) -> Mapping[int, int]:
        """By fingerprint: how many processes died while this request's code ran."""
        ...

    def open(self) -> Iterable[str]:
        """Ready for use; the names of the hosts with something waiting."""
        ...

    async def close(self) -> None: ...

    async def roll_back(self) -> bool:
        """Close, and let the next `open` find the epoch before the last one. False: it finds the last one again."""
        ...

    def known_host_id(self, name: str) -> int | None:
        """None: it has none. Whoever only asks about a host must not leave a trace: a site can name any number."""
        ...

    def host_count(self) -> int:
        """Hosts that ever had an id."""
        ...

    def add_seen(self, host: int, fingerprint: int) -> bool:
        """Mark as seen; whether it was not before."""
        ...

    def has_seen(self, host: int, fingerprint: int) -> bool: ...

    def put_end(self, host: int, fingerprint: int, origin: bytes, end: bytes) -> None: ...

    def get_end(self, host: int, fingerprint: int) -> bytes | None: ...

    def put(self, host: int, order: bytes, row: Row) -> None:
        """Queue an entry. The last 6 bytes of its order key are its own, and grow with each new entry."""
        ...

    def get(self, host: int, order: bytes) -> Row: ...

    def delete(self, host: int, order: bytes) -> None: ...

    def scan(self, host: int) -> Iterator[bytes]:
        """The host's order keys, ascending."""
        ...

    def defer(self, host: int, due: float, order: bytes, row: Row) -> None: ...

    def first_due(self, host: int) -> float | None: ...

    def promote(self, host: int, now: float, limit: int) -> list[bytes]:
        """Queue the deferred entries whose time has come; their order keys."""
        ...

    def waiting(self) -> Iterator[tuple[str, float, bytes, Row]]:
        """Everything queued or deferred: (host, due or 0, order, row)."""
        ...

    def size(self) -> int:
        """How many entries are queued or deferred, the leased ones included."""
        ...

    def get_value(self, key: str) -> bytes | None: ...

    def put_value(self, key: str, value: bytes | None) -> None:
        """None removes it."""
        ...

    def rows(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The values whose keys begin with this, in the order of their keys."""
        ...

    async def commit(self, values: Mapping[str, bytes | None]) -> None: ...

    async def sync(self, before: Callable[[], Awaitable[None]]) -> None:
        """What was committed when this is called survives a power failure, once `before` has ended."""
        ...

    @property
    def is_behind(self) -> bool:
        """What was committed since the last sync takes much room, until a sync lets it be used again."""
        ...

    def at_work(self, fingerprint: int) -> None:
        """Whose code the loop runs now; 0: nobody's. Kept when the process dies, whatever was committed."""
        ...

    def stays_at_work(self) -> Callable[[], None]:
        """Whoever is noted goes on beside the loop, until what this gives is called."""
        ...

    def count_deaths(self, fingerprints: Iterable[int]) -> None:
        """Another process, which worked for this one, died of one of these."""
        ...

    def forget_deaths(self, fingerprint: int) -> None: ...
