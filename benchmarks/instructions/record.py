"""The recorded figures: what a page cost when somebody last said that this is what it may cost."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).resolve().parent / "record.json"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TOLERANCE = 0.10
"""Runs differ by 1 %; the rest is room for another C library or another build of a dependency."""
_DISTRIBUTIONS = ("aiohttp", "selectolax", "lmdb", "uvloop")


class Verdict(NamedTuple):
    lines: list[str]
    failed: bool


def check(found: dict[str, int], command: str) -> Verdict:
    """What was found (instructions a page, by workload) against the record of this Python."""
    recorded = _read()
    entry = recorded["versions"].get(PYTHON)
    if entry is None:
        return Verdict([f"there is no record for Python {PYTHON}: {command} --record makes one"], False)
    own = _versions()
    build = [f"{key} {entry[key]!r}, here {own[key]!r}" for key in ("machine", "optimised") if entry[key] != own[key]]
    if build:
        lines = [f"there is no record for this build of Python {PYTHON}: recorded with {'; '.join(build)}"]
        return Verdict(lines, False)
    lines, failed = [], False
    for name, instructions in found.items():
        before = recorded["workloads"].get(name, {}).get(PYTHON)
        line, worse = _compared(name, instructions, before, command)
        lines.append(line)
        failed |= worse
    other = [f"{key} {entry.get(key)}, here {own[key]}" for key in own if entry.get(key) != own[key]]
    if other:
        lines.append(f"recorded with {'; '.join(other)}")
    return Verdict(lines, failed)


def _compared(name: str, instructions: int, before: int | None, command: str) -> tuple[str, bool]:
    """A line, and whether it is a failure."""
    if before is None:
        return f"{name}: there is no record for Python {PYTHON}: {command} --record makes one", False
    change = instructions / before - 1
    side = "above" if change > 0 else "below"
    figures = f"{instructions:,} instructions a page, {abs(change):.1%} {side} the recorded {before:,}"
    if change > TOLERANCE:
        return (
            f"{name}: TOO MANY: {figures}; more than {TOLERANCE:.0%} is a failure. What shows why:\n"
            f"  {command} --workload {name} --why       (C functions)\n"
            f"  {command} --workload {name} --profile   (Python functions)\n"
            f"  {command} --record                      (where it is meant to be so)"
        ), True
    if change < -TOLERANCE:
        return f"{name}: cheaper: {figures}; the record should be renewed: {command} --record", False
    return f"{name}: ok: {figures}", False


def write(found: dict[str, int]) -> None:
    """In place of this Python's figures of these workloads."""
    recorded = _read()
    for name, instructions in found.items():
        recorded["workloads"].setdefault(name, {})[PYTHON] = instructions
    recorded["versions"][PYTHON] = _versions()
    FILE.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read() -> dict[str, Any]:
    if not FILE.exists():
        return {"unit": "instructions a page", "workloads": {}, "versions": {}}
    found: dict[str, Any] = json.loads(FILE.read_bytes())
    return found


def _versions() -> dict[str, str]:
    """Of what a page's instructions are in."""
    configured = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return {
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "machine": platform.machine(),
        # Debian's packaging builds with profiles by other means than this switch.
        "optimised": ("with" if "--enable-optimizations" in configured else "without") + " --enable-optimizations",
        **{name: _version(name) for name in _DISTRIBUTIONS},
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"
