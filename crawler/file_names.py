"""What a stored file may be called. No name from the web reaches the disk: a hash does, and a suffix from a list. Names
that people and their machines give are kept as far as a file's name can have them."""

from __future__ import annotations

import hashlib
import mimetypes
import os.path
import re
from typing import Final

__all__ = ["name_of", "safe_name", "suffix_of"]

_SUFFIXES: Final = frozenset(
    {
        "7z", "avi", "bmp", "bz2", "css", "csv", "doc", "docx", "epub", "gif", "gz", "html", "ico", "jpeg", "jpg",
        "js", "json", "jsonl", "md", "mkv", "mov", "mp3", "mp4", "odp", "ods", "odt", "ogg", "pdf", "png", "ppt",
        "pptx", "rar", "rtf", "svg", "tar", "tgz", "tiff", "txt", "wav", "webm", "webp", "xls", "xlsx", "xml", "xz",
        "yaml", "zip", "zst",
    }
)  # fmt: skip

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_SAFE: Final = 64


def safe_name(name: str) -> str:
    """A name of letters, digits, `-` and `_`, of at most 64 characters. Where that is not the name as it was, `~` and
    ten hex digits of it follow, so that different names stay different."""
    safe = _UNSAFE.sub("_", name)[:_MAX_SAFE]
    if safe == name and name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{safe[: _MAX_SAFE - 11]}~{digest}"


def name_of(asked: str, url: str, content_type: str) -> str:
    """32 hex digits of the URL that was asked for, so that it has the same name every time, and the suffix of what came
    from `url`, to which redirects may have led."""
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:32] + suffix_of(url, content_type)


def suffix_of(url: str, content_type: str) -> str:
    """The URL's own suffix if it is a known one, else one that fits the content type, else none."""
    own = os.path.splitext(url.partition("?")[0].rpartition("/")[2])[1].lower().removeprefix(".")
    if own in _SUFFIXES:
        return f".{own}"
    guessed = (mimetypes.guess_extension(content_type.partition(";")[0].strip()) or "").removeprefix(".")
    return f".{guessed}" if guessed in _SUFFIXES else ""
