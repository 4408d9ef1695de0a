"""Ready-made pipelines."""

from __future__ import annotations

import asyncio
import collections
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from crawler import url as urls
from crawler.errors import DropItem, FetchError, InvalidItem, UsageError
from crawler.file_names import suffix_of
from crawler.item import as_dict, field_get, field_set, is_item, type_name
from crawler.request import Request

if TYPE_CHECKING:
    from crawler.spider import Spider

__all__ = ["Files", "Validate"]

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


class Validate:
    """Refuses an item whose fields are not of the types that its class says: `pipelines = [Validate]`.

    Dataclasses, attrs and msgspec objects are checked against their own class, pydantic models by it; nested objects
    as well. A dict says nothing of itself: `Validate(Book)` checks it against a class (any of the same kinds, or a
    `TypedDict`). The item goes on as it was, not converted. Raises `InvalidItem`, which names the field; what was
    refused is in the job's `refused.jsonl`.
    """

    def __init__(self, cls: type | None = None) -> None:
        self._of_dicts = cls

    async def process_item(self, item: Any, spider: Spider) -> Any:
        cls = self._of_dicts if isinstance(item, dict) else type(item)
        if cls is not None:
            _check(item, cls)
        return item


def _check(item: Any, cls: Any) -> None:
    try:
        if hasattr(cls, "model_validate"):
            cls.model_validate(item if isinstance(item, dict) else item.model_dump(by_alias=True, warnings=False))
        else:
            msgspec.convert(_taken_apart(item), cls)
    except msgspec.ValidationError as error:
        raise InvalidItem(f"{type_name(item)}: {error}") from None
    except ValueError as error:  # pydantic's
        raise InvalidItem(f"{type_name(item)}: {_in_one_line(error)}") from None


def _taken_apart(value: Any) -> Any:
    """Objects as dicts, however deep: of an object of the right class msgspec does not look at the fields. pydantic's
    stay, for it cannot make them."""
    if is_item(value) and not hasattr(value, "model_validate"):
        return {name: _taken_apart(inner) for name, inner in as_dict(value).items()}
    if isinstance(value, list | tuple):
        return type(value)([_taken_apart(inner) for inner in value]) if type(value) in (list, tuple) else value
    return value


def _in_one_line(error: Any) -> str:
    return "; ".join(f"{each['msg']} - at `{'.'.join(('$', *map(str, each['loc'])))}`" for each in error.errors())
