"""Ready-made pipelines."""

from __future__ import annotations

import asyncio
import collections
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler import url as urls
from crawler.errors import DropItem, FetchError, UsageError
from crawler.file_names import suffix_of
from crawler.item import field_get, field_set
from crawler.request import Request

if TYPE_CHECKING:
    from crawler.spider import Spider

__all__ = ["Files"]

logger = logging.getLogger("crawler.files")

_KNOWN_URLS = 100_000
"""How many URLs' files are remembered, about 1 KB each; one named again after that many others is fetched again."""


class Files:
    """Fetches what an item's `file_urls` name, and gives the item `files`.

    Each of `files` is a dict of `url`, `path` (in the job's folder), `bytes`, `sha256` and `status`; for a file that
    could not be had, `path` is None and `error` says why. Files stream to `files/` in the job's folder (or to
    `folder`), named by the SHA-256 of their content, so the same content is stored once however many URLs have it.
    Each fetch takes its host's turn. `required=True` drops an item that lacks one of its files.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        urls_field: str = "file_urls",
        files_field: str = "files",
        required: bool = False,
    ) -> None:
        self._folder = None if folder is None else Path(folder)
        self._urls_field = urls_field
        self._files_field = files_field
        self._required = required
        self._known: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
        self._underway: dict[str, asyncio.Future[None]] = {}

    async def open_spider(self, spider: Spider) -> None:
        if self._folder is None:
            if spider.job is None:
                raise UsageError("the Files pipeline needs a place: run the crawl with a job folder, or Files(folder)")
            self._folder = Path(spider.job) / "files"

    async def process_item(self, item: Any, spider: Spider) -> Any:
        wanted = field_get(item, self._urls_field, None)
        if not wanted:
            return item
        files = [await self._file(url, spider) for url in dict.fromkeys(wanted)]
        failed = [file["url"] for file in files if file["path"] is None]
        if failed and self._required:
            raise DropItem(f"files could not be had: {', '.join(failed)}")
        return field_set(item, self._files_field, files)

    async def _file(self, url: str, spider: Spider) -> dict[str, Any]:
        """One fetch for each URL of a crawl, however many items name it."""
        while (known := self._known.get(url)) is None:
            underway = self._underway.get(url)
            if underway is not None:
                await asyncio.wait([underway])  # whoever fetches may be cancelled: then one of us takes over
                continue
            ended = self._underway[url] = asyncio.get_running_loop().create_future()
            try:
                self._known[url] = await self._fetch(url, spider)
            finally:
                del self._underway[url]
                ended.set_result(None)
            if len(self._known) > _KNOWN_URLS:
                self._known.popitem(last=False)
        return dict(known)

    async def _fetch(self, url: str, spider: Spider) -> dict[str, Any]:
        assert self._folder is not None
        file: dict[str, Any] = {"url": url, "path": None, "bytes": 0, "sha256": None, "status": None}
        try:
            async with await spider.fetch(Request(url, stream=True)) as response:
                file["status"] = response.status
                if not 200 <= response.status < 300:
                    file["error"] = f"status_{response.status}"
                    return file
                temporary = self._folder / f".{os.urandom(8).hex()}.incoming"
                saved = await response.save(temporary)
                name = saved.sha256 + suffix_of(response.url, response.headers.get("Content-Type", ""))
        except (FetchError, ValueError) as error:
            file["error"] = getattr(error, "reason", "invalid_url")
            logger.warning("%s: no file from %s", error, urls.redact(url))
            return file
        path = _moved(temporary, self._folder / name[:2] / name)
        shown = path if spider.job is None else Path(os.path.relpath(path, spider.job))  # noqa: ASYNC240
        file.update(path=str(shown), bytes=saved.bytes, sha256=saved.sha256)
        return file


def _moved(source: Path, target: Path) -> Path:
    target.parent.mkdir(exist_ok=True)
    os.replace(source, target)
    return target
