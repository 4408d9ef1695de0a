"""The tables of what `hostile.py` found: figure, aiohttp's plain client, here."""

from __future__ import annotations

from typing import Any

__all__ = ["cell", "page", "table"]

_HEADS = {
    "rules": "Rules",
    "private": "Into the own network",
    "bombs": "Bodies that grow",
    "parsing": "Pages that take long to parse",
    "wire": "The wire",
}
_ABOUT = """\
`make hostile`; what is measured how is told at the top of `benchmarks/hostile.py`. `lag` is the longest that the event
loop was not to be had, with the CPU of it in brackets: on a busy machine the first is longer than it has to be.
`others` is the longest that an honest host, visited every 20 ms, was not. Both clients had the same total time-out, and
retries were off."""
_NOT_HERE = "Pages lost and items twice after kills: `make kill`."


def table(results: dict[str, Any]) -> str:
    """For a terminal."""
    lines = []
    for name, group in results["groups"].items():
        lines.append(f"\n{_HEADS[name]}")
        for row in group["rows"]:
            lines += [f"  {row['title']}", f"    plain  {cell(row['plain'])}", f"    here   {cell(row['here'])}"]
            lines += [f"    NOT AS PROMISED: {row['missed']}"] if row["missed"] else []
    return "\n".join([*lines, "", _NOT_HERE])


def page(results: dict[str, Any]) -> str:
    """The Markdown file."""
    found = results["machine"]
    listed = ", ".join(f"{package} {version}" for package, version in results["versions"].items())
    parts = [
        "# What hostile answers do, here and to aiohttp's plain client",
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}; {found['python']} on {found['loop']}; {listed}.",
        _ABOUT,
    ]
    for name, group in results["groups"].items():
        about = f"{group['date']}, time-out {group['timeout_seconds']:g} s, load {group['load']:.1f}."
        parts += [f"## {_HEADS[name]}", about, _rows(group["rows"])]
    return "\n\n".join([*parts, _NOT_HERE]) + "\n"


def _rows(rows: list[dict[str, Any]]) -> str:
    lines = ["| figure | plain aiohttp | here | |", "| --- | --- | --- | --- |"]
    for row in rows:
        verdict = f"NOT AS PROMISED: {row['missed']}" if row["missed"] else ""
        lines.append(f"| {row['title']} | {cell(row['plain'])} | {cell(row['here'])} | {verdict} |")
    return "\n".join(lines)


def cell(seen: dict[str, Any] | str) -> str:
    """What one side saw, in a line."""
    if isinstance(seen, str):
        return seen
    if "canary" in seen:
        count = seen["canary"]
        return f"{count} connections" if count != 1 else "1 connection"
    parts = [seen["outcome"], f"after {_seconds(seen['seconds'])}", f"CPU {_seconds(seen['cpu_seconds'])}"]
    if "grown_mib" in seen:
        parts += [
            f"memory +{seen['grown_mib']:,.0f} MiB",
            f"lag {_seconds(seen['lag_seconds'])} ({_seconds(seen['burst_seconds'])})",
            f"others {_seconds(seen['wait_seconds'])}",
        ]
    return "; ".join(parts)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"
