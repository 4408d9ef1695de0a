"""How much memory this process may have, and how much of it is in use: by its cgroup (version 2 or 1), by `ulimit -v`
and `ulimit -d`, and by the machine.

What counts as used is what cannot be taken back. Of a cgroup that is everything but the pages of files, for those the
system drops when it needs them, the frontier's among them; and it is what all processes of the group use together.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Limit", "limits"]

_ROOT: Final = Path("/")
_UNLIMITED: Final = 1 << 60
"""What version 1 has for no limit is near 2**63."""
_PAGE_BYTES: Final = resource.getpagesize()
_RESIDENT, _SHARED, _DATA = 1, 2, 5
"""Of /proc/self/statm; the first field is the whole address space."""
_V1, _V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


class Limit(NamedTuple):
    what: str
    """`cgroup`, `ulimit -v`, `ulimit -d`, `machine`."""
    bytes: int
    used: Callable[[], int]
    """In bytes, now. Raises `OSError` or `ValueError` where it cannot be told."""


def limits(root: Path = _ROOT) -> list[Limit]:
    """Those that there are and that can be watched: none on a system without /proc. The limits are read here, once."""
    found = [*_of_cgroups(root), *_of_the_process(root)]
    return [limit for limit in found if 0 < limit.bytes < _UNLIMITED and _can_be_told(limit)]


def _can_be_told(limit: Limit) -> bool:
    try:
        return limit.used() >= 0
    except (OSError, ValueError, IndexError):
        return False


def _of_the_process(root: Path) -> Iterator[Limit]:
    statm = str(root / "proc/self/statm")

    def used(field: int, but: int | None = None) -> int:
        with open(statm, "rb", buffering=0) as file:
            fields = file.read(200).split()
        return (int(fields[field]) - (0 if but is None else int(fields[but]))) * _PAGE_BYTES

    yield Limit("ulimit -v", _soft(resource.RLIMIT_AS), lambda: used(0))
    yield Limit("ulimit -d", _soft(resource.RLIMIT_DATA), lambda: used(_DATA))
    with contextlib.suppress(OSError, ValueError):
        machine = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
        yield Limit("machine", machine, lambda: used(_RESIDENT, _SHARED))


def _soft(which: int) -> int:
    soft, _ = resource.getrlimit(which)
    return 0 if soft == resource.RLIM_INFINITY else soft


def _of_cgroups(root: Path) -> Iterator[Limit]:
    """Of the group of this process, and of each one that it is in."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            yield from _up(root / "sys/fs/cgroup", path, *_V2)
        elif "memory" in controllers.split(","):
            yield from _up(root / "sys/fs/cgroup/memory", path, *_V1)


def _up(top: Path, path: str, limit: str, usage: str) -> Iterator[Limit]:
    parts = [part for part in path.split("/") if part not in ("", "..")]  # ".." leads out of a container's own view
    for length in range(len(parts), -1, -1):
        group = top.joinpath(*parts[:length])
        with contextlib.suppress(OSError, ValueError):  # "max" is none, and a container does not see what it is in
            yield Limit("cgroup", int((group / limit).read_bytes()), lambda group=group: _used_by(group, usage))  # type: ignore[misc]


def _used_by(group: Path, usage: str) -> int:
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    stat = {name: int(count) for name, _, count in (line.partition(" ") for line in lines)}
    # Version 1 has these of the group alone as well, without the groups below it.
    files = sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("active_file", "inactive_file"))
    return max(0, int((group / usage).read_bytes()) - files)
