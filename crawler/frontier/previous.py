"""The frontier of the last crawl, set aside in `frontier.previous` while a refresh goes over its pages.

    frontier ──set_aside──► frontier.previous ──(the refresh has finished)──► removed

Two renames can be interrupted, so what is there tells how far it came: a `frontier.previous` beside no frontier, or
beside one in which nothing was ever committed, is a refresh that was killed as it began, and goes on; beside a finished
one it is left over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from crawler import crash
from crawler.contracts import EarlierPage
from crawler.errors import JobError
from crawler.fate import Verdict
from crawler.frontier.disk import DiskStore
from crawler.frontier.mapped import Mapping
from crawler.frontier.reader import FrontierReader

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from crawler.contracts import Entry
    from crawler.fate import Fate

__all__ = ["Previous", "discard", "set_aside"]

_VISITED_AGAIN = (Verdict.DONE, Verdict.FAILED, Verdict.REFUSED)


class Previous:
    """`crawler.contracts.Earlier` over the frontier in `folder`, for a `with` block.

    Entering raises what `DiskStore.peek` and `FrontierReader` do; reading raises `JobDamaged`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = FrontierReader(folder)

    def __enter__(self) -> Previous:
        DiskStore(self._folder).peek()  # LMDB follows what a damaged page says
        self._reader.__enter__()
        self._mapping = Mapping(self._folder / "data.mdb")
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.__exit__()

    @property
    def key(self) -> bytes:
        """Of its fingerprints: the new frontier's must be the same."""
        return self._reader.values.key

    @property
    def done(self) -> int:
        """Pages that it had."""
        return int(self._reader.values.stats.get("done", 0))

    def page(self, host: str, fingerprint: int) -> Fate | None:
        ended = self._reader.end(host, fingerprint)
        return None if ended is None else ended.fate

    def pages(self) -> Generator[EarlierPage]:
        for (host, fingerprint), ended in self._reader.ends():
            if ended.fate.revisit is not None and ended.fate.verdict in _VISITED_AGAIN:
                yield EarlierPage(host, fingerprint, ended.origin, ended.fate)

    def waiting(self) -> Generator[Entry]:
        yield from self._reader.entries()

    def give_back(self) -> None:
        self._mapping.give_back()

    def remove(self) -> None:
        """It is needed no more."""
        self.__exit__()
        with contextlib.suppress(OSError):  # the next run does it
            discard(self._folder, self._folder.with_name("frontier.old"))


def set_aside(folder: Path, previous: Path, spider: str) -> None:
    """Raises `JobError` where the frontier is another spider's, and changes nothing then."""
    with FrontierReader(folder) as reader:
        owner = reader.values.spider
    if owner != spider:
        raise JobError(
            f"job {folder.parent} belongs to spider {owner!r}; {spider!r} can only refresh a crawl of its own. "
            "Give it another folder with --job"
        )
    os.replace(folder, previous)
    crash.point("recovery_set_aside")


def discard(folder: Path, old: Path) -> None:
    """At once: half a frontier would be none. `old` is removed at the next start, where this is interrupted."""
    if folder.exists():
        os.replace(folder, old)
        crash.point("recovery_discarding")
        shutil.rmtree(old, ignore_errors=True)
