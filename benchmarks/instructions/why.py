"""Where the instructions, or the time, of a page are: tables from what callgrind and cProfile wrote."""

from __future__ import annotations

import contextlib
import pstats
import re
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS = 40
_NAME = re.compile(r"^(c?)(fn|ob)=\((\d+)\)(?: (.*))?$")
_AGAIN = re.compile(r"'\d+$")
"""What callgrind adds to a function that is called from within itself."""


@contextmanager
def file_for(folder: Path | None, name: str) -> Iterator[Path]:
    """A file of that name in the folder or, without one, only as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="instructions-")))
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve() / name


# -- callgrind --------------------------------------------------------------------------------------------------------


def functions(path: Path, pages: int) -> str:
    """C functions by their own instructions a page, what they call left out; and the libraries they are in."""
    costs = _own_costs(path)
    total = sum(costs.values())
    libraries: Counter[str] = Counter()
    for (library, _), cost in costs.items():
        libraries[library] += cost
    head = f"{'instructions':>14}{'share':>8}"
    lines = [f"{head}  library"]
    lines += [_cost_row(cost, total, pages, name) for name, cost in libraries.most_common(12)]
    lines += ["", f"{head}  function"]
    lines += [
        _cost_row(cost, total, pages, f"{name}  [{library}]") for (library, name), cost in costs.most_common(_ROWS)
    ]
    return "\n".join(lines)


def _cost_row(cost: int, total: int, pages: int, words: str) -> str:
    return f"{cost / pages:14,.0f}{cost / total:8.1%}  {words[:110]}"


def _own_costs(path: Path) -> Counter[tuple[str, str]]:
    """(library, function) to instructions, from callgrind's format 1. Names are given once and then by number."""
    names: dict[tuple[str, str], str] = {}
    costs: Counter[tuple[str, str]] = Counter()
    function = library = ""
    inclusive = False
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line[0] in "0123456789+-*":
                if not inclusive:
                    costs[library, function] += int(line.split()[1])
                inclusive = False
            elif line.startswith("calls="):
                inclusive = True  # the next line's cost is the called function's
            elif found := _NAME.match(line):
                called, kind, number, name = found.groups()
                if name:
                    names[kind, number] = _AGAIN.sub("", name) if kind == "fn" else Path(name).name
                if called:
                    continue
                if kind == "fn":
                    function = names[kind, number]
                else:
                    library = names[kind, number]
    return costs


# -- cProfile ---------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    name: str
    calls: int
    own_seconds: float
    whole_seconds: float


def python_functions(path: Path, pages: int) -> str:
    """Python functions by own and by whole time. cProfile makes calls dear: compare shares, not microseconds."""
    found: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    rows = [
        _Row(_shown(*key), calls, own_seconds, whole_seconds)
        for key, (_, calls, own_seconds, whole_seconds, _) in found.items()
    ]
    total = sum(row.own_seconds for row in rows)
    by_own = sorted(rows, key=lambda row: -row.own_seconds)[:_ROWS]
    by_whole = sorted(rows, key=lambda row: -row.whole_seconds)[:_ROWS]
    head = f"{'calls':>9}{'own us':>10}{'share':>8}{'whole us':>10}  function  (a page: {total / pages * 1e6:,.0f} us)"
    return "\n".join(
        [
            "by own time", head, *(_time_row(row, total, pages) for row in by_own),
            "", "by whole time, what they call included", head, *(_time_row(row, total, pages) for row in by_whole),
        ]
    )  # fmt: skip


def _time_row(row: _Row, total: float, pages: int) -> str:
    own, whole = row.own_seconds / pages * 1e6, row.whole_seconds / pages * 1e6
    return f"{row.calls / pages:9.1f}{own:10.1f}{row.own_seconds / total:8.1%}{whole:10.1f}  {row.name}"


def _shown(file: str, line: int, name: str) -> str:
    """`crawler/page.py:120 collect`; of installed packages from the package on."""
    if file == "~":
        return name
    for mark in ("site-packages/", "/crawler/", "/lib/"):
        before, found, rest = file.rpartition(mark)
        if found and before:
            file = f"crawler/{rest}" if mark == "/crawler/" else rest
            break
    return f"{file}:{line} {name}"
