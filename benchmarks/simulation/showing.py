"""What a simulation has seen: a column of a table for each engine, and a curve. What others have stays as it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from machine import describe, versions

if TYPE_CHECKING:
    from pathlib import Path

    from simulation.world import Load

__all__ = ["Seen", "keep", "page", "plot", "record", "table"]

_VIOLATIONS_SHOWN = 20
_COLOURS = {"redis": "#1f5f8b", "disk": "#b5651d", "memory": "#6b8e23"}
_WORDS = {"redis": "Redis", "disk": "job folder (LMDB)", "memory": "memory"}


class Seen(NamedTuple):
    fetched: int
    urls: int
    """Known in the end."""
    seconds: float
    wall_seconds: float
    violations: list[str]
    efficiency: float
    """Of the time between two starts at a host, what its delay and places made necessary, while there were free places
    in the workers."""
    engine_us: float
    """CPU of the engine a page, the seeds left out."""
    add_us: float
    """The same for a seed."""
    bytes_per_url: float | None
    empty_share: float
    """Of asks for requests that gave none."""
    lapsed: int
    again: int
    """Fetches of pages that had been fetched, whose end was not committed."""
    killed: int
    left: int
    """Pages that were not fetched."""
    rate: list[int]
    """Starts in each second."""


def record(load: Load, seen: Seen, busy: float) -> dict[str, Any]:
    """As it is kept; `busy` is the machine's load."""
    return {"load": load._asdict(), "seen": seen._asdict(), "busy": round(busy, 1)}


def keep(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """`found` by engine, and what the file has of others; it is written again."""
    kept = json.loads(path.read_text(encoding="utf-8"))["engines"] if path.exists() else {}
    engines = {engine: {**kept, **found}[engine] for engine in _WORDS if engine in {**kept, **found}}
    path.write_text(json.dumps({"engines": engines}, indent=1) + "\n", encoding="utf-8")
    return engines


def table(engines: dict[str, Any]) -> str:
    columns = [_column(each["load"], each["seen"], each["busy"]) for each in engines.values()]
    lines = [
        f"| | {' | '.join(_WORDS[engine] for engine in engines)} |",
        f"| --- |{' ---: |' * len(columns)}",
        *(f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]),
    ]
    for engine, each in engines.items():
        lines += [f"- {_WORDS[engine]}: {words}" for words in each["seen"]["violations"][:_VIOLATIONS_SHOWN]]
    return "\n".join(lines)


def _column(load: dict[str, Any], seen: dict[str, Any], busy: float) -> dict[str, str]:
    size = seen["bytes_per_url"]
    return {
        "workers · requests at a time each": f"{load['workers']:,} · {load['concurrency']}",
        "hosts": f"{load['hosts']:,}",
        "virtual time, s": f"{seen['seconds']:.0f}",
        "wall clock, s (load of the machine)": f"{seen['wall_seconds']:.0f} ({busy})",
        "pages fetched": f"{seen['fetched']:,}",
        "URLs known in the end": f"{seen['urls']:,}",
        "pages not fetched": f"{seen['left']:,}",
        "violations": f"{len(seen['violations'])}",
        "efficiency against the politeness bound": f"{seen['efficiency']:.3f}",
        "frontier, CPU µs a page, with the URLs that it gave": f"{seen['engine_us']:.0f}",
        "new URLs a page": f"{(seen['urls'] - load['hosts']) / max(1, seen['fetched']):.1f}",
        "frontier, CPU µs a seed": f"{seen['add_us']:.0f}",
        "bytes a URL": "–" if size is None else f"{size:.0f}",
        "asks that gave nothing": f"{seen['empty_share']:.0%}",
        "workers killed": f"{seen['killed']}",
        "their requests that went back": f"{seen['lapsed']:,}",
        "pages fetched again": f"{seen['again']:,}",
    }


def page(engines: dict[str, Any]) -> str:
    found = describe()
    listed = ", ".join(f"{package} {version}" for package, version in versions().items())
    return (
        "# Many workers in a time of their own\n\n"
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}; {found['python']}; {listed}.\n\n"
        f"`make simulate`; what is simulated how is told at the top of `benchmarks/simulate.py`.\n\n{table(engines)}\n"
    )


def plot(engines: dict[str, Any], path: Path) -> None:
    """Pages a second over virtual time; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({
        "svg.hashsalt": "simulate", "svg.fonttype": "none", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    drawing, axes = pyplot.subplots(figsize=(7.2, 3.2))
    for engine, each in engines.items():
        rate = each["seen"]["rate"][: int(each["seen"]["seconds"])]  # the last one may not be a whole second
        axes.plot(range(len(rate)), rate, color=_COLOURS[engine], label=_WORDS[engine])
    axes.set_yscale("log")
    axes.set_title("pages a second", loc="left", fontsize=9)
    axes.set_xlabel("seconds of virtual time")
    axes.grid(visible=True, axis="y", linewidth=0.3)
    axes.legend(frameon=False)
    drawing.tight_layout()
    drawing.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(drawing)
