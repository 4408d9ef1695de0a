"""A process that does nothing but crawl: how it deals with memory.

Two defaults are meant for programs that use memory once and give it back. Parsing a page needs twelve times its size
for a moment; the C library returns that to the system after each page and asks for it again for the next, which the
system then fills with zeros: on pages of 55 KB half of what parsing costs. And Python's garbage collector looks for
cycles after every 700 new objects, among everything that was ever imported: some 8 % of what a small page costs.

Neither is done behind the back of a program that calls `await crawl(...)`: the process is its own.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["COLLECT_AFTER", "own_process", "settle"]

COLLECT_AFTER: Final = (20_000, 20, 50)
"""Objects, and how many collections of the younger generation; a page of a crawl makes some hundreds, hardly ever
cycles."""
_KEPT_BYTES: Final = 32 << 20
"""Of free memory at the end of the heap: trees of pages up to 2 MB are built without asking for more."""
_OF_ITS_OWN_BYTES: Final = 4 << 20
"""A block of this size comes straight from the system, and goes back at once when it is free."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""Of glibc's malloc.h."""


@contextmanager
def own_process() -> Iterator[None]:
    """Within the block the process is a crawl's. How free memory is kept stays so after it."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECT_AFTER)
    _keep_free_memory()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def settle() -> None:
    """Everything is loaded that stays: it is not looked through for garbage any more. Within `own_process`."""
    gc.freeze()


def _keep_free_memory() -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and keeps what it has
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OF_ITS_OWN_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _KEPT_BYTES // 32)
