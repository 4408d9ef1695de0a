"""A body on its way to disk: beside its final name until it is whole, then renamed."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles

from crawler.download.translate import FOREIGN, translate
from crawler.errors import BodyError, FetchError, OutputError
from crawler.response import Response, SavedFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

__all__ = ["Saver"]

_CHUNK = 1 << 18


class Saver:
    """`Response.save`. `max_bytes` is `http.max_file_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def __call__(self, response: Response, path: str | os.PathLike[str]) -> SavedFile:
        target = Path(path)
        temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
        digest = hashlib.sha256()
        size = 0
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            async with aiofiles.open(temporary, "xb") as file:
                async for chunk in _chunks(response):
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise BodyError(
                            f"{response.url} is larger than http.max_file_bytes ({self._max_bytes} bytes)",
                            reason="body_too_large",
                            retryable=False,
                        )
                    digest.update(chunk)
                    await file.write(chunk)
            os.replace(temporary, target)
        except FetchError:  # its time-outs are OSErrors too
            raise
        except OSError as error:
            raise OutputError(f"cannot save {response.url} to {target}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)
            response.close()
        return SavedFile(str(target), size, digest.hexdigest())


async def _chunks(response: Response) -> AsyncIterator[bytes]:
    content: aiohttp.StreamReader | None = response.content
    if content is None:
        yield response.body
        return
    try:
        async for chunk in content.iter_chunked(_CHUNK):
            yield chunk
    except FOREIGN as error:
        raise translate(error, response.url) from error
