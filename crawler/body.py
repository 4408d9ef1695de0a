"""Request bodies that can wait on disk: files by their path, and multipart forms of texts, bytes and files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import force_setattr

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FilePath", "Multipart", "Part", "storable"]


class FilePath(msgspec.Struct, frozen=True):
    """A file to upload, streamed from disk when the request is sent. Only the path waits in the frontier."""

    path: str

    def __post_init__(self) -> None:
        force_setattr(self, "path", os.fspath(self.path))


class Part(msgspec.Struct, frozen=True):
    """One field of a multipart form. `filename` makes it a file to the server; that of a `FilePath` is its own name
    unless another is given. `content_type` None leaves it to the value: text/plain, application/octet-stream, or
    what the file's name says."""

    name: str
    value: str | bytes | FilePath
    filename: str | None = None
    content_type: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.value, str | bytes | FilePath):
            raise TypeError(f"field {self.name!r} of a form is text, bytes or a FilePath, not {self.value!r}")


class Multipart(msgspec.Struct, frozen=True):
    """A body of type multipart/form-data (RFC 7578), in the order of its parts."""

    parts: tuple[Part, ...] = ()

    def rows(self) -> list[tuple[str, str | bytes | FilePath, str | None, str | None]]:
        """As plain values, for storing."""
        return [(part.name, part.value, part.filename, part.content_type) for part in self.parts]

    @classmethod
    def from_rows(cls, rows: Iterable[Any]) -> Multipart:
        """What `rows` gave. Raises ValueError for anything else."""
        try:
            return cls(tuple(Part(*row) for row in rows))
        except TypeError as error:
            raise ValueError(f"not the parts of a form: {error}") from error


def storable(form: Any) -> Multipart | list[tuple[str, Any]] | None:
    """An `aiohttp.FormData` as a value that can be stored and sent any number of times, or None for one that holds a
    live object (an open file, a generator) or uses an option that has no such form; that one can be sent once.

    It reads attributes that aiohttp does not document; a test with the real class watches over them.
    """
    fields = getattr(form, "_fields", None)
    plain_options = getattr(form, "_charset", None) in (None, "utf-8") and getattr(form, "_quote_fields", True)
    if not (isinstance(fields, list) and plain_options):
        return None
    parts = []
    for disposition, headers, value in fields:
        plain = bytes(value) if isinstance(value, bytearray | memoryview) else value
        if isinstance(plain, bool | int | float):
            plain = str(plain)
        if not isinstance(plain, str | bytes | FilePath):
            return None
        parts.append(Part(disposition["name"], plain, disposition.get("filename"), headers.get("Content-Type")))
    if form.is_multipart or any(isinstance(part.value, FilePath) for part in parts):
        return Multipart(tuple(parts))
    return [(part.name, part.value) for part in parts]
