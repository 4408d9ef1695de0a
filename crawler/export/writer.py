"""Who writes an output that several may write to."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Writer"]


class Writer(NamedTuple):
    """In words, for people who look into a database, and for `overwrite`."""

    job: str = ""
    """The same for one crawl after the other: what `overwrite` goes by."""
    crawl: str = ""
    """The same for all workers of one crawl, and another for the next. Empty: a crawl of one process."""
    worker: str = ""
