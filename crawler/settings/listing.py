"""The settings listed: what holds, for `crawler config`, and what could be written, for the default file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.settings.keys import Key, all_keys, dotted, toml
from crawler.settings.masking import masked
from crawler.settings.tables import Settings

if TYPE_CHECKING:
    from crawler.settings.merge import Loaded

__all__ = ["Row", "default_file", "describe"]


class Row(NamedTuple):
    """One line of `crawler config`; the value as TOML has it, secrets masked."""

    key: str
    value: str
    source: str
    unit: str
    meaning: str


def describe(loaded: Loaded) -> list[Row]:
    """A row for every key, tables in the order of `Settings`; one for each entry where users invent the keys."""
    rows = []
    for key in all_keys().values():
        value = masked(key.name, getattr(getattr(loaded.settings, key.table), key.name))
        for path, inner, of in _leaves(key, (key.table, key.name), value):
            name = dotted(path)
            rows.append(Row(name, toml(inner), loaded.sources[name], of.unit, of.meta.description or ""))
    return rows


def _leaves(key: Key, path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any, Key]]:
    if isinstance(value, Mapping) and value:
        is_rule = key[:2] == ("politeness", "hosts")
        for name, inner in value.items():
            of = all_keys()["politeness", name] if is_rule and not isinstance(inner, Mapping) else key
            yield from _leaves(of, (*path, name), inner)
    else:
        yield path, value, key


def default_file() -> str:
    """`config/crawler.toml`: every key, commented out, with its default, unit, range and meaning."""
    lines = [
        "# Every setting, commented out, with its default. Take away the # before a key and change its value.",
        "# What stands here wins over the defaults; the spider's `settings`, environment variables such as",
        "# CRAWLER_POLITENESS__DELAY_SECONDS=0 and `-s politeness.delay_seconds=0` win over what stands here.",
        "# `crawler config` shows what holds and where it comes from.",
    ]
    table = ""
    for key in all_keys().values():
        if key.table != table:
            table = key.table
            lines += ["", f"[{table}]"]
        meaning = f"{key.meta.description} ({key.limits()})" if key.limits() else key.meta.description
        lines += [f"# {meaning}", f"#{key.name} = {toml(getattr(getattr(Settings(), table), key.name))}"]
    return "\n".join(lines) + "\n"
