"""Giving back the pages of a mapped file.

LMDB reads its file through a memory mapping, so every page it looked at counts as memory of the process until the
system needs the room. `Mapping.give_back` unmaps them at once: they stay in the system's cache, and are mapped again by
a page fault when they are wanted. So what a crawl takes is what it uses now, not all that it has ever looked at.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

__all__ = ["Mapping"]

_DONTNEED = 4
"""MADV_DONTNEED, on Linux; of a file's mapping it drops nothing that is not in the file."""
_MAPS = Path("/proc/self/maps")


class Mapping:
    """The mapping of the file at `path` in this process. Does nothing where the system does not tell where it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = _start_of(path)
        self._madvise: Any = None
        if self._start:
            self._madvise = ctypes.CDLL(None).madvise
            self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def give_back(self) -> None:
        if self._madvise is not None:
            self._madvise(self._start, os.stat(self._path).st_size, _DONTNEED)


def _start_of(path: Path) -> int:
    """Its address; 0 where that cannot be known."""
    name = str(path.resolve())
    try:
        for line in _MAPS.read_text().splitlines():
            if line.endswith(name):
                return int(line.partition("-")[0], 16)
    except (OSError, ValueError):
        pass
    return 0
