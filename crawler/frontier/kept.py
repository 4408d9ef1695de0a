"""What a job's frontier keeps beside the queue, as its readers see it: the values, and the rows in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from crawler.errors import JobDamaged, JobError
from crawler.fate import Fate, Refusal
from crawler.frontier.layout import COUNTERS, SEEN, refuse_other_format
from crawler.frontier.rows import unpack_value

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Counters", "Ended", "JobValues", "Kept", "Origin", "Waiting", "check_format", "damaged"]


class Counters(NamedTuple):
    """Of the job so far. What waits is `added - completed`."""

    sequence: int
    added: int
    duplicates: int
    completed: int

    def pack(self) -> bytes:
        return COUNTERS.pack(*self)


class Origin(NamedTuple):
    """The request whose page gave another."""

    host: str
    fingerprint: int


class Ended(NamedTuple):
    origin: Origin | None
    """None: `start()` gave it."""
    fate: Fate


class Kept(NamedTuple):
    """An output that the job was told to write."""

    target: str
    """As it was typed."""
    path: str
    """Absolute, when the job was started; `-` is standard output."""
    format: str


class Waiting(NamedTuple):
    """A request that waits. Times are Unix times."""

    host: str
    url: str
    """Empty where the record cannot be read."""
    method: str
    depth: int
    attempt: int
    """How often it was tried before."""
    due: float
    """Not before this time; 0: as soon as its host has its turn."""
    priority: int
    fingerprint: int
    origin: Origin | None


class JobValues:
    """The values of the frontier in `folder`; `stored` gives one as it is stored, or None.

    Raises `JobDamaged` for a value that is not what was written.
    """

    def __init__(self, folder: Path, stored: Callable[[bytes], bytes | None]) -> None:
        self._folder = folder
        self._stored = stored

    @property
    def state(self) -> str | None:
        """`running`, or why the crawl ended; None before its first epoch."""
        found = self.get("state")
        return None if found is None else found.decode(errors="replace")

    @property
    def spider(self) -> str:
        return (self.get("spider") or b"").decode(errors="replace")

    @property
    def key(self) -> bytes:
        """Of the job's `Fingerprinter`."""
        key = self.get("key")
        if key is None:
            raise damaged(self._folder, "the key of its fingerprints is not there")
        return key

    @property
    def counters(self) -> Counters:
        found = self.get("frontier")
        return Counters(0, 0, 0, 0) if found is None else Counters(*self._unpacked(COUNTERS, found))

    @property
    def seen(self) -> tuple[int, int]:
        """How many requests were ever met, and all their fingerprints in one exclusive or."""
        found = self.get("seen")
        return (0, 0) if found is None else self._unpacked(SEEN, found)

    @property
    def stats(self) -> dict[str, Any]:
        """The committed sums (`crawler.stats.Totals`); empty before the first epoch."""
        found: dict[str, Any] = self._decoded("stats", dict[str, Any])
        return found

    @property
    def outputs(self) -> dict[str, Kept]:
        """By their keys: paths relative to the job's folder, `-` for standard output."""
        found: dict[str, Kept] = self._decoded("outputs", dict[str, Kept])
        return found

    @property
    def positions(self) -> dict[str, bytes]:
        """How far each output is committed, by the same keys."""
        found: dict[str, bytes] = self._decoded("positions", dict[str, bytes])
        return found

    def refusal(self, fingerprint: int) -> Refusal | None:
        """Why the URL never came to the frontier, if that was so and is kept."""
        found = self.get(f"refused/{fingerprint:016x}")
        try:
            return None if found is None else Refusal.decode(found)
        except msgspec.MsgspecError as error:
            raise damaged(self._folder, f"a refusal cannot be read ({error})") from error

    def deaths(self, fingerprint: int) -> int:
        """How many processes died while the request's code ran."""
        return int(self.get(f"death/{fingerprint:016x}") or 0)

    def get(self, key: str) -> bytes | None:
        name = key.encode()
        found = self._stored(name)
        if found is None:
            return None
        content = unpack_value(name, found)
        if content is None:
            raise damaged(self._folder, f"what is kept as {key!r} is not what was written")
        return content

    def _decoded(self, key: str, type: Any) -> Any:
        found = self.get(key)
        try:
            return {} if found is None else msgspec.msgpack.decode(found, type=type)
        except msgspec.MsgspecError as error:
            raise damaged(self._folder, f"what is kept as {key!r} cannot be read ({error})") from error

    def _unpacked(self, form: struct.Struct, value: bytes) -> Any:
        if len(value) != form.size:
            raise damaged(self._folder, "a value has another length")
        return form.unpack(value)


def check_format(folder: Path, found: bytes | None) -> None:
    """Of the stored `format`. Raises `JobError` for another than ours and for none, `JobDamaged` for nonsense."""
    if found is None:
        raise JobError(f"nothing was ever committed to the frontier in {folder}")
    if not found.isdigit():
        raise damaged(folder, "its format cannot be read")
    refuse_other_format(folder, int(found))


def damaged(folder: Path, what: str) -> JobDamaged:
    return JobDamaged(
        f"the frontier in {folder} is damaged: {what}. `crawler jobs repair {folder.parent}` saves what can be saved"
    )
