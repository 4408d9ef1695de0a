"""Places where a test has the process die.

`CRAWLER_CRASH_AT=before_commit` kills the process (SIGKILL: nothing is flushed, no `finally` runs) when it passes the
point of that name; `before_commit:3` when it passes it for the third time. The variable is read once, when this module
is loaded. Without it `point` does nothing, and `armed` is false.
"""

from __future__ import annotations

import itertools
import os
import signal

__all__ = ["armed", "point"]

_NAME, _, _COUNT = os.environ.get("CRAWLER_CRASH_AT", "").partition(":")
_passes = itertools.count(1)


def _nothing(name: str) -> None:
    pass


def _count_down(name: str) -> None:
    if name == _NAME and next(_passes) == int(_COUNT or 1):
        os.kill(os.getpid(), signal.SIGKILL)


armed = bool(_NAME)
point = _count_down if armed else _nothing
