"""The scripts that run in the engine. A file `NAME.part.lua` is put before those that say `-- needs: NAME`."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

__all__ = ["Script", "script"]

_NEEDS = "-- needs: "


class Script:
    """Source, the SHA-1 by which the engine knows it, and whether it changes anything."""

    __slots__ = ("changes", "name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.changes = "no-writes" not in source.partition("\n")[0]
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


@functools.cache
def script(name: str) -> Script:
    folder = resources.files(__package__) / "scripts"
    head, _, body = (folder / f"{name}.lua").read_text(encoding="utf-8").partition("\n")
    parts = []
    if body.startswith(_NEEDS):
        needs = body.partition("\n")[0].removeprefix(_NEEDS).split()
        parts = [(folder / f"{part}.part.lua").read_text(encoding="utf-8") for part in needs]
    return Script(name, "\n".join([head, *parts, body]))
