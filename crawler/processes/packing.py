"""Items on their way from a child to the parent, which has the pipelines and the outputs.

In the child an item is packed as values of requests are, a closed list of kinds and the item classes of the spider's
module; where it goes in the parent is an output like others, whose records are sent with their epoch.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crawler.errors import NotStorable
from crawler.item import type_name
from crawler.loader import item_types
from crawler.passage import Passage
from crawler.processes.frames import MOST_BYTES
from crawler.storable import ValueCodec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from crawler.context import Context
    from crawler.contracts import Spool
    from crawler.page import Page

__all__ = ["Packed", "Packing", "Parcels"]

_BATCH_BYTES: Final = 256 * 1024
_LARGEST_BYTES: Final = MOST_BYTES // 4


class Packed(msgspec.Struct, array_like=True, frozen=True):
    """An item."""

    key: int | None
    """`Lease.key` of its page; None: `start()` gave it."""
    item: bytes = b""
    letter: bytes = b""
    """It is one that could not be sent: a line for the file of refused items."""


_ENCODER: Final = msgspec.msgpack.Encoder()


class Packing(Passage):
    """In place of pipelines: every item is packed."""

    def __init__(self, context: Context, **options: Any) -> None:
        super().__init__(context, **options)
        self._codec = ValueCodec(item_types(type(context.spider)))

    async def take(self, page: Page, item: Any) -> None:
        key = None if page.lease is None else page.lease.key
        try:
            packed = self._codec.encode(item)
            if len(packed) > _LARGEST_BYTES:
                raise NotStorable(f"it has {len(packed)} bytes")
        except NotStorable as error:
            told = NotStorable(f"a {type_name(item)} cannot go to the process that writes the outputs: {error}")
            told.__cause__ = error
            await self._refuse(page, item, told, output="--processes")
            return
        await self._keep(page, [_ENCODER.encode(Packed(key, packed))])


class Parcels:
    """`crawler.contracts.Exporter` of what is to be sent: items, or lines of refused ones."""

    target = "--processes"
    path = None
    format = ""

    def __init__(self) -> None:
        self._pieces: list[Iterable[bytes]] = []

    async def holds(self, position: bytes) -> bool:
        return True

    async def open(self, position: bytes | None) -> None: ...

    def encode(self, item: Mapping[str, Any]) -> bytes:
        """Of a refused item."""
        return _ENCODER.encode(Packed(None, letter=msgspec.json.encode(item)))

    def append(self, encoded: bytes) -> None:
        self._pieces.append([encoded])

    def append_spool(self, spool: Spool, limit: int | None = None) -> None:
        self._pieces.append(_records(spool, limit))

    async def flush(self) -> bytes:
        return b""

    async def sync(self) -> None: ...

    async def close(self) -> None: ...

    def batches(self) -> Iterator[list[bytes]]:
        """What was appended, once, in pieces to be sent; what is appended meanwhile is not among them."""
        pieces, self._pieces = self._pieces, []
        batch: list[bytes] = []
        size = 0
        for record in itertools.chain.from_iterable(pieces):
            batch.append(record)
            size += len(record)
            if size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _records(spool: Spool, limit: int | None) -> Iterator[bytes]:
    try:
        yield from itertools.islice(spool, limit)
    finally:
        spool.close()
