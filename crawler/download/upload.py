"""A request's body as aiohttp's client takes it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlencode

import aiohttp
from aiohttp.payload import BytesPayload

from crawler.body import FilePath, Multipart, Part
from crawler.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from crawler.request import Request

__all__ = ["json_writer", "make_data"]


def json_writer(dumps: Callable[[Any], str | bytes]) -> Callable[[Any], str]:
    """For `ClientSession(json_serialize=...)`. It raises `FetchError` with reason `request_body` for a value that
    `dumps` cannot write."""

    def write(value: Any) -> str:
        try:
            text = dumps(value)
            return text if isinstance(text, str) else text.decode()
        except (TypeError, ValueError) as error:
            raise _unfit(f"the json of a request cannot be written: {error}") from error

    return write


def make_data(request: Request, files: AsyncExitStack) -> Any:
    """What `ClientSession.request(data=...)` gets; None for a request without a body, or with one of JSON.

    Files are opened into `files` and streamed from disk. Raises `FetchError` with reason `request_body` for one that
    cannot be read.
    """
    if request.body is not None:
        return request.body
    data = request.data
    if isinstance(data, FilePath):
        return _opened(data, files)
    if isinstance(data, Multipart):
        return _multipart(data.parts, files)
    if isinstance(data, list):
        return _form(data, files)
    return data


def _form(pairs: list[tuple[Any, Any]], files: AsyncExitStack) -> Any:
    """Pairs of a form: with a file among them multipart, as aiohttp does it, else urlencoded."""
    if not any(isinstance(value, FilePath | io.IOBase) for _, value in pairs):
        return BytesPayload(
            urlencode(pairs, doseq=True).encode("ascii"), content_type="application/x-www-form-urlencoded"
        )
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in pairs:
        if isinstance(value, io.IOBase):
            form.add_field(str(name), value)
        else:
            _add(form, Part(str(name), value if isinstance(value, str | bytes | FilePath) else str(value)), files)
    return form


def _multipart(parts: tuple[Part, ...], files: AsyncExitStack) -> aiohttp.FormData:
    form = aiohttp.FormData(default_to_multipart=True)
    for part in parts:
        _add(form, part, files)
    return form


def _add(form: aiohttp.FormData, part: Part, files: AsyncExitStack) -> None:
    filename, value = part.filename, part.value
    if isinstance(value, FilePath):
        filename = filename or os.path.basename(value.path)
        form.add_field(part.name, _opened(value, files), filename=filename, content_type=part.content_type)
    elif isinstance(value, bytes):  # aiohttp deprecates bare bytes, and makes a file of them
        payload = BytesPayload(value, content_type=part.content_type or "application/octet-stream")
        form.add_field(part.name, payload, filename=filename)
    else:
        form.add_field(part.name, value, filename=filename, content_type=part.content_type)


def _opened(file: FilePath, files: AsyncExitStack) -> BinaryIO:
    try:
        return files.enter_context(open(file.path, "rb"))
    except OSError as error:
        raise _unfit(f"cannot read {file.path} to upload it: {error.strerror}") from error


def _unfit(message: str) -> FetchError:
    return FetchError(message, reason="request_body", retryable=False)
