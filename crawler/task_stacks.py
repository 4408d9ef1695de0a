"""What the tasks of a loop are at, for the log: the answer to SIGUSR1.

A crawl that stands still has some hundred tasks that wait, most of them for the same; those are one line together.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from crawler.steps import Steps
from crawler.watchdog import place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

__all__ = ["log_tasks", "task_lines"]

logger = logging.getLogger("crawler.job")

_MOST_NAMES = 3
_MOST_FRAMES = 30


def log_tasks() -> None:
    """Every task of the running loop, and where it waits: names and places, no values."""
    tasks = asyncio.all_tasks()
    logger.warning("SIGUSR1: %d tasks", len(tasks))
    for line in task_lines(tasks):
        logger.warning("%s", line)


def task_lines(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    """`worker 0, worker 1, … (64): _work (crawler/engine.py:240) > …`, outermost place first."""
    alike: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        alike[" > ".join(map(place, islice(_awaited(task.get_coro()), _MOST_FRAMES)))].append(task.get_name())
    return sorted(f"{_names(names)}: {stack or 'in code that is not Python'}" for stack, names in alike.items())


def _names(names: list[str]) -> str:
    shown = sorted(names, key=lambda name: (len(name), name))[:_MOST_NAMES]
    return ", ".join(shown) if len(names) <= _MOST_NAMES else f"{', '.join(shown)}, … ({len(names)})"


def _awaited(waiting: Any) -> Iterator[FrameType]:
    """From a coroutine to what it waits for. `Task.get_stack` has the first of these frames only."""
    while waiting is not None:
        for kind in ("cr", "gi", "ag"):  # a coroutine, a generator in an `__await__`, an asynchronous generator
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                if frame.f_code is Steps.__await__.__code__:  # it hands the page's steps on by itself
                    waiting = frame.f_locals.get("coroutine")
                    break
                waiting = getattr(waiting, f"{kind}_{'yieldfrom' if kind == 'gi' else 'await'}", None)
                break
        else:
            return
