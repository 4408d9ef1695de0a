"""Large bodies ask for room before they are read on: for what they may come to need while their page is worked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from crawler.contracts import Room

__all__ = ["LARGE_BYTES", "ask", "at_once"]

LARGE_BYTES: Final = 256 * 1024
"""Up to this size a body asks for nothing: nearly all pages are smaller."""
_MARKUP_TIMES: Final = 18
"""A tree of many small tags, in the size of its page; of ordinary ones it is twelve."""
_OTHER_TIMES: Final = 3
"""The pieces, the whole, and a text of it."""


async def at_once(size: int) -> None:
    """A `Room` where memory is not limited."""


async def ask(room: Room, headers: CIMultiDictProxy[str], limit: int, length: int, size: int) -> int:
    """For a body that has `size` bytes already, and will have `length` (0: nobody knows), at most `limit`. Returns up
    to which size there is room now."""
    size = min(limit, max(length, 2 * size))
    kind = headers.get("Content-Type", "html").lower()
    await room(size * (_MARKUP_TIMES if "html" in kind or "xml" in kind else _OTHER_TIMES))
    return size
