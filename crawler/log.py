"""Where log lines go: the console, and each crawl's own `crawl.log`.

Crawls may run side by side in one process, so a job's file takes only the lines of its own crawl, told apart by a
context variable that every task of the crawl inherits. Whatever a site sends is escaped before it reaches a terminal
or a file (control characters, escape sequences, bidirectional overrides).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import re
import sys
from typing import TYPE_CHECKING, TextIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["crawl_log", "setup_console"]

_crawl: contextvars.ContextVar[object | None] = contextvars.ContextVar("crawl", default=None)
# C0 but tab and newline, DEL and C1, line and paragraph separators, bidirectional controls.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200e\u200f\ud800-\udfff]"
)
_LONGEST_ARGUMENT = 500


def _escape(text: str) -> str:
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.args and len(message) > _LONGEST_ARGUMENT + len(str(record.msg)):
            message = message[: _LONGEST_ARGUMENT + len(str(record.msg))] + "…"
        line = f"{self.formatTime(record)} {record.levelname:<7} {_shown_name(record)}: {_one_line(message)}"
        if record.exc_info:
            line += "\n" + _escape(self.formatException(record.exc_info))
        return line

    default_time_format = "%Y-%m-%d %H:%M:%S"
    default_msec_format = "%s.%03d"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": _escape(record.getMessage()),
        }
        if record.exc_info:
            fields["traceback"] = _escape(self.formatException(record.exc_info))
        return msgspec.json.encode(fields).decode()


def _shown_name(record: logging.LogRecord) -> str:
    return record.name.removeprefix("crawler.spider.").removeprefix("crawler.")


def _one_line(message: str) -> str:
    return _escape(message).replace("\n", "\\n")


def _formatter(as_json: bool) -> logging.Formatter:
    return _JsonFormatter() if as_json else _SafeFormatter()


class _Console(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is now, which the live line may have replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def setup_console(level: str, *, as_json: bool = False) -> None:
    """Log to standard error from `level` up. For commands: a library leaves the root logger to the application."""
    handler = _Console()
    handler.setFormatter(_formatter(as_json))
    handler.setLevel(level.upper())
    logger = logging.getLogger("crawler")
    logger.handlers = [kept for kept in logger.handlers if not isinstance(kept, _Console)]
    logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, handler.level))
    logger.propagate = False
    logging.getLogger("asyncio").addHandler(handler)


@contextlib.contextmanager
def crawl_log(path: Path | None, level: str, *, as_json: bool = False) -> Iterator[None]:
    """Within the block, lines of this context (and of tasks made in it) also go to the file at `path`."""
    mark = object()
    token = _crawl.set(mark)
    logger = logging.getLogger("crawler")
    handler: logging.Handler | None = None
    if path is not None:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace", delay=True)
        handler.setFormatter(_formatter(as_json))
        handler.setLevel(level.upper())
        handler.addFilter(lambda record: _crawl.get() is mark)
        logger.addHandler(handler)
        if logger.level == logging.NOTSET or logger.level > handler.level:
            logger.setLevel(handler.level)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # an abandoned `stream` may be closed from another task's context
            _crawl.reset(token)
        if handler is not None:
            logger.removeHandler(handler)
            handler.close()
