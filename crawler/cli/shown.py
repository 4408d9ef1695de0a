"""How the verbs that only look show what they found: tables, JSON lines, moments. What a site sent is escaped."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from crawler.log import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["json_line", "moment", "one_line", "pause_text", "print_rows", "print_table", "span"]


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Aligned; the columns named in `right` to the right."""
    lines = [tuple(titles), *(tuple(one_line(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    to_right = [title in right for title in titles]
    for line in lines:
        cells = (
            cell.rjust(width) if on_right else cell.ljust(width)
            for cell, width, on_right in zip(line, widths, to_right, strict=True)
        )
        print("  ".join(cells).rstrip())


def print_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """What is known of one thing: its name, then names and values below each other."""
    width = max(len(name) for name, _ in rows)
    print(one_line(title))
    for name, value in rows:
        print(f"  {name:<{width}}  {one_line(value)}".rstrip())


def json_line(value: Any, indent: int | None = None) -> str:
    """JSON in ASCII: nothing in it can steer a terminal, and nothing is lost."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def moment(seconds: float) -> str:
    """A Unix time on the clock of this machine."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def pause_text(pause: str) -> str:
    """Why a host is paused, for `crawler.politeness.Pause`."""
    return _PAUSES.get(pause, "somebody said so")


_PAUSES = {
    "retry_after": "it asked for that (Retry-After)",
    "circuit": "it failed too often in a row (politeness.circuit_failures)",
    "robots": "its robots.txt cannot be had",
    "name": "its name is being looked up",
}


def span(seconds: float) -> str:
    """`12 s`, `5 min`, `3 h`, `2 days`."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
