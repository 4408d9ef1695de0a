"""Where log lines go: the console, and each crawl's own `crawl.log`.

Crawls may run side by side in one process, so a job's file takes only the lines of its own crawl, told apart by a
context variable that every task of the crawl inherits. Whatever a site sends is escaped before it reaches a terminal
or a file (control characters, escape sequences, bidirectional overrides), cut where it is long, and without the secrets
that URLs have in them. A record begins at the left edge and nothing else does: lines of a traceback are indented, so
that no text of a site can pass for one.

Both kinds hang on the root logger: a spider that logs with `logging.getLogger(__name__)`, as everybody's modules do, is
heard like one that uses `self.logger`. Both take themselves away again, and the levels with them.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from crawler.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["console_log", "crawl_log", "escape", "one_line", "relay", "shown", "shown_traceback", "told"]

_crawl: contextvars.ContextVar[object | None] = contextvars.ContextVar("crawl", default=None)
# C0 but tab and newline, DEL and C1, line and paragraph separators, bidirectional controls, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LONGEST_ARGUMENT = 500
_LONGEST_LINE = 500
_LONGEST_TRACEBACK = 100
"""Lines; Python itself leaves out frames that repeat."""


def escape(text: str) -> str:
    """The text as a terminal may have it: `\\x1b` for an escape, and so on; tabs and line ends stay."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def shown(text: str) -> str:
    """A text that may have been made of what a site sent, as a terminal or a file may have it: escaped, without the
    secrets of its URLs."""
    return escape(redact_text(text))


def one_line(text: str) -> str:
    """`shown`, in one line."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def shown_traceback(error: BaseException) -> str:
    """As Python writes it, indented, as `shown`; long lines, and many of them, are cut."""
    import traceback

    return _cut("".join(traceback.format_exception(error)))


def _cut(traceback: str) -> str:
    if not traceback:
        return ""
    lines = shown(traceback.rstrip("\n")).split("\n")
    if len(lines) > _LONGEST_TRACEBACK:
        half = _LONGEST_TRACEBACK // 2
        lines = [*lines[:half], f"… {len(lines) - 2 * half} lines …", *lines[-half:]]
    return "\n".join(f"  {line}" if len(line) <= _LONGEST_LINE else f"  {line[:_LONGEST_LINE]}…" for line in lines)


# -- the console -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def console_log(level: str, *, as_json: bool = False) -> Iterator[None]:
    """Within the block, everybody's lines from `level` up go to standard error. For commands: a library leaves the
    root logger to the application."""
    handler = _Console()
    handler.setFormatter(_formatter(as_json))
    handler.setLevel(level.upper())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(min(logging.INFO, handler.level))  # a job's file may want more than the console
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(before)
        root.removeHandler(handler)


class _Console(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is now, which the live line may have replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


# -- a job's file ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def crawl_log(path: Path | None, level: str, *, as_json: bool = False) -> Iterator[None]:
    """Within the block, lines of this context (and of tasks made in it) also go to the file at `path`."""
    mark = object()
    token = _crawl.set(mark)
    handler = None if path is None else _JobFile(path, level, mark)
    if handler is not None:
        handler.setFormatter(_formatter(as_json))
        handler.hang_up()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a `stream` that was abandoned is closed from another task's context
            _crawl.reset(token)
        if handler is not None:
            handler.take_down()


class _JobFile(logging.FileHandler):
    """The lines of one crawl. The crawler's own logger is as talkative as the most talkative file that is open."""

    def __init__(self, path: Path, level: str, mark: object) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setLevel(level.upper())
        self.addFilter(lambda record: _crawl.get() is mark)
        self._level_before = logging.NOTSET

    def _open(self) -> Any:
        # For its owner alone, and not through a link that somebody planted.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        return open(os.open(self.baseFilename, flags, 0o600), "a", encoding=self.encoding, errors=self.errors)

    def hang_up(self) -> None:
        logger, others = logging.getLogger("crawler"), _job_files()
        self._level_before = others[0]._level_before if others else logger.level
        logging.getLogger().addHandler(self)
        self._settle()

    def take_down(self) -> None:
        logging.getLogger().removeHandler(self)
        self._settle()
        with contextlib.suppress(OSError):  # as in `handleError`
            self.close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A disk without room for a log line is full: what matters there fails by itself, and says so."""

    def _settle(self) -> None:
        before = self._level_before
        wanted = min((file.level for file in _job_files()), default=before)
        heard = before or logging.getLogger().level
        logging.getLogger("crawler").setLevel(wanted if wanted < heard else before)


def _job_files() -> list[_JobFile]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _JobFile)]


def relay(name: str, level: int, created: float, message: str, traceback: str) -> None:
    """Log what another process said, as if it had been said here."""
    logger = logging.getLogger(name)
    if logger.isEnabledFor(level):
        record = logger.makeRecord(name, level, "", 0, "%s", (), None)
        record.msg, record.created, record.exc_text = message, created, traceback or None
        record.msecs = (created - int(created)) * 1000
        logger.handle(record)


# -- lines -------------------------------------------------------------------------------------------------------------


class _SafeFormatter(logging.Formatter):
    default_time_format = "%Y-%m-%d %H:%M:%S"
    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        message = told(record).replace("\n", "\\n")
        line = f"{self.formatTime(record)} {record.levelname:<7} {_shown_name(record)}: {message}"
        if traceback := _traceback(self, record):
            line += "\n" + traceback
        return line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": told(record),
        }
        if traceback := _traceback(self, record):
            fields["traceback"] = traceback
        return msgspec.json.encode(fields).decode()


def told(record: logging.LogRecord) -> str:
    """The message of a record as it is shown: without secrets, escaped, and not too long."""
    message, template = record.getMessage(), str(record.msg)
    if record.args and len(message) > len(template) + _LONGEST_ARGUMENT:
        message = message[: len(template) + _LONGEST_ARGUMENT] + "…"
    return shown(message)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Of a record of another process it comes as text."""
    return _cut(formatter.formatException(record.exc_info) if record.exc_info else record.exc_text or "")


def _shown_name(record: logging.LogRecord) -> str:
    return record.name.removeprefix("crawler.spider.").removeprefix("crawler.")


def _formatter(as_json: bool) -> logging.Formatter:
    return _JsonFormatter() if as_json else _SafeFormatter()
