"""What every yardstick is told on its command line: `X.py WORKLOAD START OUT [--concurrency N] ...`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

__all__ = ["Task", "read"]


class Task(NamedTuple):
    workload: str
    """A letter of `workloads.py`."""
    start: str
    """A URL; the beginning of all URLs (d, e); or a file of URLs, one a line (b)."""
    out: Path
    """Where the items go, as JSON lines, or the one line of sums (d)."""
    concurrency: int
    """Requests in flight."""
    count: int
    """How many URLs `start + N` there are (d, e)."""
    folder: Path
    """Where the files go, named by their number (e)."""
    ca_file: Path | None
    """Whom to trust (f)."""

    def starts(self) -> list[str]:
        """The URLs to begin with."""
        if self.workload == "b":
            return Path(self.start).read_text(encoding="ascii").split()
        if self.workload in ("d", "e"):
            return [f"{self.start}{number}" for number in range(self.count)]
        return [self.start]


def read(description: str | None) -> Task:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=list("abcdef"))
    parser.add_argument("start", metavar="START", help="a URL, the beginning of all URLs, or a file of URLs")
    parser.add_argument("out", type=Path, metavar="OUT", help="JSON lines")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="requests in flight (default 64)")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="how many URLs there are (d, e)")
    parser.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="where files go (e)")
    parser.add_argument("--ca-file", type=Path, metavar="PEM", help="whom to trust (f)")
    return Task(**vars(parser.parse_args()))
