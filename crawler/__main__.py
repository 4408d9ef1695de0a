"""The `crawler` command, and `python -m crawler`: a process that is its own, from the first import to the last."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from crawler.process import COLLECT_AFTER

if TYPE_CHECKING:
    from types import TracebackType


def main() -> int:
    """`crawler.cli.main`, without looking for garbage in what is loaded now or freed with the process in the end."""
    gc.set_threshold(*COLLECT_AFTER)
    sys.excepthook = _tell
    from crawler.cli import main as run

    try:
        return run()
    finally:
        gc.freeze()


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What nobody caught, such as an exception of `Spider.opened`: its text may be a site's."""
    from crawler.log import shown_traceback

    sys.stderr.write(f"{shown_traceback(error)}\n")


if __name__ == "__main__":
    sys.exit(main())
