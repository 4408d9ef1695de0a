"""Layers to settings: later over earlier, every value converted and checked, every mistake collected.

Values replace each other from layer to layer, lists whole, but tables whose keys the user invents (`http.headers`,
`tls.fingerprints`, `politeness.hosts`) are merged entry by entry: a spider that adds a header keeps those of the file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

import msgspec

from crawler.errors import SettingsError
from crawler.settings.keys import Key, all_keys, dotted, toml
from crawler.settings.masking import SECRET_KEYS
from crawler.settings.nearest import unknown
from crawler.settings.tables import TABLES, PolitenessRule, Settings
from crawler.settings.values import StatusSet, Unfit, check_host

if TYPE_CHECKING:
    from crawler.settings.layers import Given, Layer

__all__ = ["Loaded", "load"]


class Loaded(msgspec.Struct, frozen=True):
    """The settings in force, and the source of each by its full name (`politeness.delay_seconds`)."""

    settings: Settings
    sources: Mapping[str, str]


def load(layers: Iterable[Layer] = ()) -> Loaded:
    """Merge layers, later over earlier, over the defaults.

    Raises `SettingsError` with one line for each thing wrong in any of them: where it stands, what was expected, and
    for an unknown key the nearest known one.
    """
    merge = _Merge()
    for layer in layers:
        merge.problems.extend(layer.problems)
        for given in layer.given:
            merge.take(given, given.path, given.value)
    settings = merge.settings()
    merge.compare(settings)
    if merge.problems:
        raise SettingsError("\n".join(merge.problems))
    return Loaded(settings, MappingProxyType(merge.sources))


class _Merge:
    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
        self.sources = {f"{table}.{name}": "default" for table, name in all_keys()}
        self.problems: list[str] = []

    def take(self, given: Given, path: tuple[str, ...], value: Any) -> None:
        key = all_keys().get(path[:2])
        if not path or (len(path) == 1 and path[0] in TABLES):
            self._descend(given, path, value)
        elif key is None or (len(path) > 2 and not key.is_table):
            self._problem(given, path, unknown(given, path))
        elif not key.is_table:
            self._set(given, path, self._read(given, path, key, value))
        elif len(path) == 2 or (path[:2] == _RULES and len(path) == 3):
            self._descend(given, path, value)
        elif path[:2] == _RULES:
            self._take_rule(given, path, value)
        else:
            self._take_entry(given, path, key, value)

    def settings(self) -> Settings:
        hosts = self.values["politeness"].get("hosts")
        if hosts:
            self.values["politeness"]["hosts"] = {name: MappingProxyType(rule) for name, rule in hosts.items()}
        tables = {}
        for table, struct in get_type_hints(Settings).items():
            frozen = {n: MappingProxyType(v) if isinstance(v, dict) else v for n, v in self.values[table].items()}
            tables[table] = struct(**frozen)
        return Settings(**tables)

    def compare(self, settings: Settings) -> None:
        """What only two keys together can get wrong."""
        if settings.tls.key_file and not settings.tls.cert_file:
            self.problems.append(f"tls.key_file ({self.sources['tls.key_file']}): expected tls.cert_file beside it")
        if settings.retry.base_seconds > settings.retry.max_seconds:
            names = ("retry.base_seconds", "retry.max_seconds")
            named = " and ".join(f"{name} ({self.sources[name]})" for name in names)
            self.problems.append(f"{named}: expected the first to be at most the second")

    def _descend(self, given: Given, path: tuple[str, ...], value: Any) -> None:
        if given.is_text:
            given, value = msgspec.structs.replace(given, is_text=False), _table_from_text(value)
        if isinstance(value, Mapping):
            for name, inner in value.items():
                self.take(given, (*path, str(name)), inner)
        else:
            self._problem(given, path, f"expected a table, got {_shown(path, value)}")

    def _take_rule(self, given: Given, path: tuple[str, ...], value: Any) -> None:
        host, name = ".".join(path[2:-1]), path[-1]
        if name not in PolitenessRule.__struct_fields__:
            hint = unknown(given, path)
            if isinstance(value, Mapping):
                hint = f"quote the name of a host: {dotted(path[:2])}.{toml('.'.join(path[2:]))}"
            self._problem(given, path, hint)
            return
        try:
            host = check_host(host)
        except Unfit as unfit:
            self._problem(given, path, f"expected {unfit}, got {toml(host)}")
            return
        read = self._read(given, path, all_keys()["politeness", name], value)
        if read is not _WRONG:
            self.values["politeness"].setdefault("hosts", {}).setdefault(host, {})[name] = read
            self._note(given, (*path[:2], host, name))

    def _take_entry(self, given: Given, path: tuple[str, ...], key: Key, value: Any) -> None:
        if (
            path[:2] == ("dns", "hosts")
            and isinstance(value, list | tuple)
            and all(isinstance(part, str) for part in value)
        ):
            value = ", ".join(value)
        if not isinstance(value, str):
            self._problem(given, path, f"expected text, got {_shown(path, value)}")
            return
        try:
            name, text = key.check(".".join(path[2:]), value) if key.check else (path[2], value)
        except Unfit as unfit:
            self._problem(given, path, f"expected {unfit}, got {_shown(path, value)}")
            return
        entries = self.values[key.table].setdefault(key.name, {})
        for other in [other for other in entries if other.lower() == name.lower()]:
            del entries[other]
            del self.sources[dotted((*path[:2], other))]
        entries[name] = text
        self._note(given, (*path[:2], name))

    def _read(self, given: Given, path: tuple[str, ...], key: Key, value: Any) -> Any:
        try:
            return _convert(key, _from_text(key.kind, value) if given.is_text else value)
        except Unfit as unfit:
            self._problem(given, path, f"expected {unfit}, got {_shown(path, value)}")
        except (ValueError, RecursionError, msgspec.ValidationError):
            self._problem(given, path, f"expected {key.expected()}, got {_shown(path, value)}")
        return _WRONG

    def _set(self, given: Given, path: tuple[str, ...], value: Any) -> None:
        if value is not _WRONG:
            self.values[path[0]][path[1]] = value
            self._note(given, path)

    def _note(self, given: Given, path: tuple[str, ...]) -> None:
        self.sources[dotted(path[:2])] = self.sources[dotted(path)] = given.source

    def _problem(self, given: Given, path: tuple[str, ...], text: str) -> None:
        where = given.where if path == given.path else f"{given.where}: {dotted(path)}"
        self.problems.append(f"{where}: {text}")


_WRONG = object()
_RULES = ("politeness", "hosts")


def _convert(key: Key, value: Any) -> Any:
    """The value as the typed settings hold it. Raises `Unfit`, `ValueError` or `msgspec.ValidationError`."""
    if key.kind is StatusSet:
        if not isinstance(value, list | tuple | frozenset | set):
            raise Unfit(key.expected())
        try:
            return StatusSet(value)
        except SettingsError:
            raise Unfit(key.expected()) from None
    if key.kind == str | None and value in ("", None):
        return None
    if key.kind is Any and (value in ("", None) or callable(value)):  # a function
        return value or None
    if key.kind is Any and not isinstance(value, str):
        raise Unfit(key.expected())
    if key.check and isinstance(value, str):
        value = key.check(value)
    elif key.check and isinstance(value, list | tuple):
        value = [key.check(part) if isinstance(part, str) else part for part in value]
    value = msgspec.convert(value, key.hint)
    if isinstance(value, float) and not math.isfinite(value):
        raise Unfit(key.expected())
    return value


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _from_text(kind: Any, text: str) -> Any:
    """Text as the key's type has it. Raises `ValueError`, or leaves what it cannot read for `_convert` to refuse."""
    text = text.strip()
    if kind is bool:
        return _WORDS.get(text.lower(), text)
    if kind in (int, float):
        return kind(text)
    if kind is StatusSet or get_origin(kind) is tuple:
        if text.startswith("["):
            import tomllib

            return tomllib.loads(f"value = {text}")["value"]
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _table_from_text(text: str) -> Any:
    """An inline table of TOML or a JSON object; anything else stays text."""
    import json
    import tomllib

    with contextlib.suppress(ValueError, RecursionError):
        return tomllib.loads(f"value = {text}")["value"]
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    return text if text.strip() else {}


def _shown(path: tuple[str, ...], value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, str | list | tuple) and (len(path) < 2 or path[1] in SECRET_KEYS):
        return "text" if isinstance(value, str) else "a list"
    if not isinstance(value, bool | int | float | str | list | tuple):
        return "a table" if isinstance(value, Mapping) else type(value).__name__
    text = toml(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
