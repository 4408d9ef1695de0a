"""How a table declares a setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["key"]


def key(meaning: str, unit: str = "", check: Callable[..., Any] | None = None, **limits: float) -> msgspec.Meta:
    """What is said of it; `check` gives the value back as it is kept, or raises `Unfit`."""
    return msgspec.Meta(description=meaning, extra={"unit": unit, "check": check}, **limits)  # type: ignore[call-overload, no-any-return]
