"""Two profiles of `growth.py` beside each other: which functions a page spends more in when there is more of it all."""

from __future__ import annotations

import pstats
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["compared"]

_SHOWN = 30


def compared(first: Path, last: Path, first_pages: int, last_pages: int) -> str:
    """The functions whose own time a page grew most, in us a page and calls a page, of the first point and the last.
    Under cProfile all takes about twice as long, and what is called often more than that."""
    before, after = _of_a_page(first, first_pages), _of_a_page(last, last_pages)
    names = sorted(before.keys() | after.keys(), key=lambda name: before[name].own - after[name].own)
    whole = [sum(cost.own for cost in costs.values()) for costs in (before, after)]
    lines = [
        f"us a page under the profiler: {whole[0]:.0f}, then {whole[1]:.0f}",
        f"{'more':>7} {'own':>7} {'then':>7} {'whole':>8} {'then':>8} {'calls':>7} {'then':>7}",
    ]
    for name in names[:_SHOWN]:
        old, new = before[name], after[name]
        own = f"{new.own - old.own:7.1f} {old.own:7.1f} {new.own:7.1f}"
        lines.append(f"{own} {old.whole:8.1f} {new.whole:8.1f} {old.calls:7.2f} {new.calls:7.2f}  {name}")
    return "\n".join(lines)


class _Cost(NamedTuple):
    """Of a function, a page: calls, us of its own, us with what it calls."""

    calls: float = 0.0
    own: float = 0.0
    whole: float = 0.0


def _of_a_page(path: Path, pages: int) -> defaultdict[str, _Cost]:
    found: defaultdict[str, _Cost] = defaultdict(_Cost)
    stats: dict[Any, Any] = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    for (file, line, function), (_, calls, own, total, _) in stats.items():
        place = "/".join(Path(file).parts[-2:])
        name = function if file == "~" else f"{place}:{line} {function}"
        found[name] = _Cost(calls / pages, own * 1e6 / pages, total * 1e6 / pages)
    return found
