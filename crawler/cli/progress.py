"""A bar for one download, on standard error while that is a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from crawler.response import Response

__all__ = ["received", "with_bar"]

_SECONDS = 0.1
_NUMBER = re.compile(r"[0-9]{1,18}")
T = TypeVar("T")


async def with_bar(
    work: Coroutine[Any, Any, T], title: str, measure: Callable[[], tuple[int, int | None]], *, quiet: bool = False
) -> T:
    """What `work` gives, and a bar meanwhile: bytes, rate, time left. `measure` says how many bytes are there, and of
    how many, None while nobody knows."""
    if quiet or not sys.stderr.isatty():
        return await work
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
    task = bar.add_task(title, total=measure()[1])

    def draw(is_done: bool = False) -> None:
        done, total = measure()
        bar.update(task, completed=done, total=done if is_done else total)
        with contextlib.suppress(OSError):  # the terminal was closed
            bar.refresh()

    async def keep_drawing() -> None:
        while True:
            draw()
            await asyncio.sleep(_SECONDS)

    with contextlib.suppress(OSError):
        bar.start()
    try:
        async with asyncio.TaskGroup() as group:
            drawing = group.create_task(keep_drawing(), name="progress bar")
            given = await work
            drawing.cancel()
        draw(is_done=True)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
    finally:
        with contextlib.suppress(OSError):
            bar.stop()
    return given


def received(response: Response) -> tuple[int, int | None]:
    """Bytes of the body as it is sent, before decoding; of a resumed download those from before are among them."""
    if response.content is None:
        return len(response.body), len(response.body)
    length = response.headers.get("Content-Length", "")
    before = _range_start(response.headers.get("Content-Range", "")) if response.status == 206 else 0
    return before + response.content.total_raw_bytes, before + int(length) if _NUMBER.fullmatch(length) else None


def _range_start(content_range: str) -> int:
    """RFC 9110, section 14.4: `bytes 100-199/200` starts at 100."""
    start = content_range.removeprefix("bytes ").partition("-")[0]
    return int(start) if _NUMBER.fullmatch(start) else 0
