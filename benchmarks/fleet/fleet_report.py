"""The tables of what `fleet.py` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["page", "table"]

_WORDS_SHOWN = 12
_ABOUT = (
    "`make fleet`; what happens in each scenario is told at the top of `benchmarks/fleet/fleet.py`, what counts in "
    "`benchmarks/fleet/history.py`. Violations are everything that must not be, lost and double items included; gaps "
    "count from 5 ms below the delay on."
)
_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "faults": lambda row: f"{row['faults']}",
    "pages": lambda row: f"{row['pages']}",
    "seconds": lambda row: f"{row['seconds']:.0f}",
    "shortest gap / delay": lambda row: f"{row['shortest']:.4f}",
    "violations": lambda row: f"{row['violations']}",
    "lost": lambda row: f"{row['lost']}",
    "twice": lambda row: f"{row['twice']}",
    "refetched": lambda row: f"{row['refetched']}",
    "longest orphan, s": lambda row: f"{row['longest_orphan']:.2f}" if row["orphans"] else "",
    "allowed": lambda row: f"{row['lease'] + 1:g}" if row["orphans"] else "",
    "efficiency": lambda row: f"{row['efficiency']:.3f}",
    "engine, CPU µs a page": lambda row: f"{row['engine_us']:.0f}",
}


def table(rows: dict[str, dict[str, Any]]) -> str:
    head = ["scenario", *_COLUMNS]
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * len(_COLUMNS))]
    lines += [" | ".join([name, *(column(row) for column in _COLUMNS.values())]) for name, row in rows.items()]
    lines = [f"| {line} |" for line in lines]
    for name, row in rows.items():
        words = row["words"][:_WORDS_SHOWN]
        if words:
            lines += ["", *(f"- {name}: {each}" for each in words)]
        if row["violations"] > len(words):
            lines.append(f"- {name}: and {row['violations'] - len(words)} more")
    return "\n".join(lines)


def page(results: dict[str, Any]) -> str:
    """The Markdown file."""
    found = results["machine"]
    listed = ", ".join(f"{package} {version}" for package, version in results["versions"].items())
    parts = [
        "# Many workers, while everything dies",
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}; {found['python']} on {found['loop']}; {listed}.",
        _ABOUT,
        table(results["scenarios"]),
        "## Beside that",
        "\n".join(_beside(name, row) for name, row in results["scenarios"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _beside(name: str, row: dict[str, Any]) -> str:
    return (
        f"- {name}: {row['date']}, seed {row['seed']}, load {row['load']:.1f} before it; {row['workers']} workers, "
        f"{row['hosts']} hosts, delay {row['delay']:g} s, lease {row['lease']:g} s; {row['restarts']} processes "
        f"started again. Of {row['gaps']} gaps {row['slightly']} were short by less than 5 ms, {row['stalled']} looked "
        f"short while the farm was not looking. {row['pauses']} times a host asked to wait; {row['pauses_lost']} "
        f"requests came too early because who heard it had died. {row['orphans']} orphans, {row['held_up']} late "
        f"after another death{_held(row)}. robots.txt again: {row['robots_again']}."
    )


def _held(row: dict[str, Any]) -> str:
    longest = row.get("longest_held", 0.0)
    return f", those that a restart of the engine held up at most {longest:.2f} s after the death" if longest else ""
