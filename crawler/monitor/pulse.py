"""Whether the event loop still comes round."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pulse"]

_BEAT_SECONDS: Final = 1.0


class Pulse:
    """Within the block the running loop notes the time once a second. `monotonic()` gives seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last = monotonic()

    def __enter__(self) -> Pulse:
        self._loop = asyncio.get_running_loop()
        self._beat()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()

    @property
    def silence_seconds(self) -> float:
        """Since the loop came round last."""
        return self._monotonic() - self._last

    def _beat(self) -> None:
        self._last = self._monotonic()
        self._timer = self._loop.call_later(_BEAT_SECONDS, self._beat)
