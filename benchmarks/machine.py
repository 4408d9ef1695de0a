"""What the figures of a benchmark depend on: the machine, the Python, the versions. And a child's failure."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Failed", "describe", "machine", "peer_versions", "versions"]

ROOT = Path(__file__).resolve().parent.parent

_PACKAGES = (
    "crawler",
    "aiohttp",
    "yarl",
    "multidict",
    "selectolax",
    "can_ada",
    "lmdb",
    "msgspec",
    "aiofiles",
    "uvloop",
)
_PEER_PACKAGES = ("scrapy", "twisted", "parsel", "lxml", "crawlee", "impit")
_ASK = """\
import json, platform
from importlib import metadata
found = {"python": platform.python_version()}
for name in %r:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Failed(Exception):
    """A child ended with an error."""


def describe() -> dict[str, Any]:
    """CPU, cores, kernel, Python, how it was built, event loop."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        # Debian's packaging builds with profiles by other means than this switch, so its absence proves nothing.
        "enable_optimizations": "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
        "loop": "uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
    }


def machine(found: dict[str, Any] | None = None) -> str:
    """`describe()` as two lines of text."""
    found = found or describe()
    optimised = "with" if found["enable_optimizations"] else "without"
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}\n"
        f"{found['python']}, configured {optimised} --enable-optimizations; {found['loop']} loop"
    )


def versions() -> dict[str, str]:
    """Of what this Python has of the packages that the crawler and the hand-written loops use."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peer_versions(python: Path) -> dict[str, str]:
    """The same for the other frameworks, asked of their own Python. Raises `Failed` where it does not run."""
    done = subprocess.run([python, "-c", _ASK % (_PEER_PACKAGES,)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{python}: {done.stderr.strip()[-500:]}")
    found: dict[str, str] = json.loads(done.stdout)
    return found
