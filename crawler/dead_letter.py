"""An item that nobody would take, as `refused.jsonl` keeps it: with the reason, so that nothing is lost."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

import msgspec

from crawler.errors import message_of
from crawler.item import as_dict, to_json, type_name

__all__ = ["REFUSED_FILE", "dead_letter"]

logger = logging.getLogger("crawler.items")

REFUSED_FILE = "refused.jsonl"
"""In the job folder, once there is something in it."""
_LONGEST_TEXT = 1000
"""Of a value that has no form of its own in JSON, and of a message."""


def dead_letter(
    item: Any, error: BaseException, *, now: float, url: str, pipeline: str = "", output: str = ""
) -> dict[str, Any]:
    """One line of it. One of `pipeline` and `output` says who refused the item; `url` is that of its page, empty for
    an item of `start()`. Fields that cannot be written are there as text, as Python shows them."""
    where = {"pipeline": pipeline} if pipeline else {"output": output}
    return {
        "time": dt.datetime.fromtimestamp(now, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "url": url,
        **where,
        "error": type(error).__name__,
        "message": message_of(error)[:_LONGEST_TEXT],
        "type": type_name(item),
        "item": _as_far_as_it_can_be(item),
    }


def _as_far_as_it_can_be(item: Any) -> Any:
    try:
        fields = as_dict(item)
    except Exception:  # a property, a serializer: it is the user's code
        logger.exception("a refused %s cannot be read, and is kept as text", type_name(item))
        return _shown(item)
    return {_key(name): _value(value) for name, value in fields.items()}


def _key(name: Any) -> str:
    return name if isinstance(name, str) else _shown(name)


def _value(value: Any) -> Any:
    try:
        return msgspec.Raw(to_json(value))
    except (TypeError, ValueError, RecursionError):
        return _shown(value)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:_LONGEST_TEXT]
    except Exception:
        logger.exception("a %s cannot be shown", type_name(value))
        return f"<{type_name(value)}>"
