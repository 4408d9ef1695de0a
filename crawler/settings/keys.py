"""What the tables say of themselves: one `Key` a setting; and keys and values as TOML spells them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from crawler.settings.tables import Settings
from crawler.settings.values import STATUSES, StatusSet

if TYPE_CHECKING:
    import msgspec

__all__ = ["Key", "all_keys", "dotted", "toml"]


class Key(NamedTuple):
    """One setting as its table declares it."""

    table: str
    name: str
    hint: Any
    """The annotation as msgspec reads it: `Annotated[kind, meta]`."""
    kind: Any
    meta: msgspec.Meta
    unit: str
    check: Callable[..., Any] | None

    @property
    def is_table(self) -> bool:
        return get_origin(self.kind) is Mapping

    def limits(self) -> str:
        """Unit and range: `seconds, at least 0`."""
        words = [("at least", self.meta.ge), ("above", self.meta.gt), ("at most", self.meta.le)]
        return ", ".join([self.unit] * bool(self.unit) + [f"{word} {end:g}" for word, end in words if end is not None])

    def expected(self) -> str:
        """What an error says it wants: `a number (seconds, at least 0)`."""
        nouns = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str | None: "text",
            str: "text",
            Any: "a function",
        }
        if get_origin(self.kind) is Literal:
            noun = " or ".join(map(toml, get_args(self.kind)))
        elif self.kind is StatusSet:
            noun = f"a list of {STATUSES}"
        else:
            noun = nouns.get(self.kind, "a table" if self.is_table else "a list of text")
        return f"{noun} ({self.limits()})" if self.limits() else noun


@functools.cache
def all_keys() -> Mapping[tuple[str, ...], Key]:
    """Every key by table and name, in the order of the tables."""
    keys: dict[tuple[str, ...], Key] = {}
    for table, struct in get_type_hints(Settings).items():
        for name, hint in get_type_hints(struct, include_extras=True).items():
            kind, meta = get_args(hint)
            keys[table, name] = Key(table, name, hint, kind, meta, **meta.extra)
    return keys


def dotted(path: Iterable[str]) -> str:
    """A path as TOML spells keys, quoted where it must be: `politeness.hosts."a.example".jitter`."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else toml(part) for part in path)


def toml(value: Any) -> str:
    """A value as a settings file has it; None is the empty text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, StatusSet):
        return toml(value.parts())
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{dotted([str(name)])} = {toml(inner)}" for name, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, int | float):
        return str(value)
    if callable(value):
        value = f"{value.__module__}:{getattr(value, '__qualname__', value)}"
    import json

    return json.dumps("" if value is None else str(value), ensure_ascii=False)
