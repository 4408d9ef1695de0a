"""A crawl's outputs as its job knows them: where each goes on, and what becomes of one whose end was torn."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import msgspec

from crawler import crash
from crawler.dead_letter import REFUSED_FILE
from crawler.errors import UsageError
from crawler.export.address import is_database
from crawler.export.late import LateLinesExporter
from crawler.frontier.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack
    from pathlib import Path

    from crawler.contracts import Exporter
    from crawler.frontier.local import LocalFrontier
    from crawler.frontier.shared import SharedFrontier

__all__ = ["Outputs"]

logger = logging.getLogger("crawler.job")


class Outputs:
    """Those of spider `spider` in the folder `job`; None: there is none, and so none for refused items."""

    def __init__(self, items: Sequence[Exporter], job: Path | None, spider: str) -> None:
        self.items = items
        """What the user named."""
        self.refused: Exporter | None = None if job is None else LateLinesExporter(job / REFUSED_FILE)
        self.exporters = [*items, *([] if self.refused is None else [self.refused])]
        self._job = job
        self._spider = spider

    @property
    def keys(self) -> list[str]:
        """What the frontier keeps their positions by, in order."""
        return [self._key(exporter) for exporter in self.exporters]

    async def open(self, stack: AsyncExitStack, frontier: LocalFrontier | SharedFrontier, now: float) -> None:
        """Each where it goes on; may take the frontier back to an earlier epoch. Raises `UsageError`, `OutputError`."""
        keys = self.keys
        if len(set(keys)) < len(keys):
            twice = [each.target for each, key in zip(self.exporters, keys, strict=True) if keys.count(key) > 1]
            raise UsageError(f"the same output is named twice: {', '.join(twice)}")
        positions = await self._held_positions(frontier)
        for exporter, position in zip(self.exporters, positions, strict=True):
            await exporter.open(position)
            stack.push_async_callback(exporter.close)
        crash.point("recovery_outputs")
        # Nothing is written to the frontier before what it says of the outputs is safe (see `DiskStore.sync`).
        await frontier.sync(self._sync_outputs)
        # Where each output begins is known before anything is written to it: a crash cuts it back to here at least.
        saved = _decoded(frontier.get("positions"))
        begun = {key: await each.flush() for key, each in zip(keys, self.exporters, strict=True)}
        places = _decoded_places(frontier.get("outputs"))
        for key, exporter in zip(keys, self.items, strict=False):
            places[key] = Kept(exporter.target, exporter.path or "-", exporter.format)
        forgotten = sorted(place.target for key, place in places.items() if key not in keys)
        if forgotten:
            logger.warning(
                "%s: this job wrote to %s before; items found from now on will not be there",
                self._spider, ", ".join(forgotten),
            )  # fmt: skip
        values = {"positions": {**saved, **begun}, "outputs": places}
        await frontier.commit({key: msgspec.msgpack.encode(value) for key, value in values.items()}, now)

    async def _held_positions(self, frontier: LocalFrontier | SharedFrontier) -> list[bytes | None]:
        """Where each output goes on. One whose end was torn takes the frontier back with it, epoch by epoch, if there
        is one in which all of them are what was written; if not, the frontier stays as it is."""
        newest = [self._position(frontier, exporter) for exporter in self.exporters]
        positions = newest
        while torn := await self._torn(positions):
            logger.warning("%s: the end of %s is not what was written", self._spider, ", ".join(torn))
            if not await frontier.roll_back():
                return newest
            logger.info("%s: going back to the epoch before", self._spider)
            positions = [self._position(frontier, exporter) for exporter in self.exporters]
        return positions

    async def _torn(self, positions: Sequence[bytes | None]) -> list[str]:
        """The outputs that are there, and not what was committed."""
        return [
            exporter.target
            for exporter, position in zip(self.exporters, positions, strict=True)
            if position is not None and _is_there(exporter) and not await exporter.holds(position)
        ]

    def _position(self, frontier: LocalFrontier | SharedFrontier, exporter: Exporter) -> bytes | None:
        """As committed: by the place beside the job folder; where the folder was moved alone, by its path or name."""
        positions, key = _decoded(frontier.get("positions")), self._key(exporter)
        if key in positions:
            return positions[key]
        for other, (target, path, _) in _decoded_places(frontier.get("outputs")).items():
            if other in positions and (path == exporter.path or target == exporter.target):
                return positions[other]
        return None

    def _key(self, exporter: Exporter) -> str:
        if exporter.path is None:
            return "-"
        if is_database(exporter.path):
            return exporter.path
        return exporter.path if self._job is None else os.path.relpath(exporter.path, self._job)

    async def _sync_outputs(self) -> None:
        for exporter in self.exporters:
            await exporter.sync()


def _is_there(exporter: Exporter) -> bool:
    if exporter.path is None:
        return False
    return is_database(exporter.path) or os.path.exists(exporter.path)


def _decoded(positions: bytes | None) -> dict[str, bytes]:
    return {} if positions is None else msgspec.msgpack.decode(positions, type=dict[str, bytes])


def _decoded_places(outputs: bytes | None) -> dict[str, Kept]:
    """By output key."""
    return {} if outputs is None else msgspec.msgpack.decode(outputs, type=dict[str, Kept])
