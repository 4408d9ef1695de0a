"""A turn for the event loop between two steps of long work, for rooms that do not know the loop."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["turn"]


@types.coroutine
def turn() -> Generator[None, None, None]:
    """`await turn()` inside a task: others run, then it goes on. What `asyncio.sleep(0)` does."""
    yield
