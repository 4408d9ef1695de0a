"""The `crawler` command, and `python -m crawler`: a process that is its own, from the first import to the last."""

from __future__ import annotations

import gc
import sys

from crawler.process import COLLECT_AFTER


def main() -> int:
    """`crawler.cli.main`, without looking for garbage in what is loaded now or freed with the process in the end."""
    gc.set_threshold(*COLLECT_AFTER)
    from crawler.cli import main as run

    try:
        return run()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
