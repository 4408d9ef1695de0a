"""One try of a request that did not do. What was tried so far waits with the request in the frontier, so that whoever
hears of the failure hears of all of it, also after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from crawler.errors import message_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Attempt", "kept", "summary"]

_KEPT = 20
"""With messages of the usual length some 2 KB a request."""
_LONGEST_MESSAGE = 200


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One try. As a string it is one word: the status (`"503"`), or the reason (`"read_timeout"`)."""

    at: float
    """Unix time at which it came to its end."""
    reason: str
    """As `Failure.reason`: `"status_503"`, `"read_timeout"`, ..."""
    status: int = 0
    """Of the answer; 0: there was none."""
    wait_seconds: float = 0.0
    """Until the next try could begin, which then waited for its host's turn; 0 for the last."""
    message: str = ""
    """The error's, its first 200 characters."""

    @classmethod
    def of(
        cls, error: Exception, at: float, *, reason: str | None = None, status: int = 0, wait_seconds: float = 0.0
    ) -> Attempt:
        """`reason` and `status` win over what the error says."""
        said = reason or str(getattr(error, "reason", "error"))
        return cls(at, said, status or getattr(error, "status", 0), wait_seconds, message_of(error)[:_LONGEST_MESSAGE])

    def __str__(self) -> str:
        return str(self.status) if self.reason == f"status_{self.status}" else self.reason


def kept(attempts: Sequence[Attempt], new: Attempt) -> tuple[Attempt, ...]:
    """Those so far and a new one; of more than 20 the first and the last ten."""
    if len(attempts) < _KEPT:
        return (*attempts, new)
    return (*attempts[: _KEPT // 2], *attempts[1 - _KEPT // 2 :], new)


def summary(words: Sequence[object], count: int) -> str:
    """`"503, 503, read_timeout, 503"`, for the log and `crawler explain`; `…` where some of `count` are not kept."""
    shown = list(map(str, words))
    if len(shown) < count and len(shown) >= _KEPT:
        shown.insert(_KEPT // 2, "…")
    return ", ".join(shown)
