"""Layers: the places in which a user wrote settings. Each keeps what was written, and where, unjudged.

Two kinds exist. Mappings (TOML, Python) hold typed values, and a value of the wrong type is an error there:
`delay_seconds = "0"` is a mistake someone should hear about. Text (environment, command line) has no types, so it is
read as the key's own type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import SettingsError
from crawler.settings.keys import all_keys
from crawler.settings.masking import Masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "PREFIX",
    "Given",
    "Layer",
    "command_line_layer",
    "environment_arguments",
    "environment_layer",
    "file_layer",
    "mapping_layer",
    "spider_layer",
]


class Given(Masked, frozen=True, kw_only=True):
    """Something a user wrote, and where. `path` is empty for a whole mapping."""

    where: str
    """What errors begin with."""
    source: str
    """What `crawler config` shows."""
    value: Any
    path: tuple[str, ...] = ()
    is_text: bool = False
    variable: str = ""
    """The environment variable, if it is one: the nearest key is then spelled as one."""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One place in which settings were written. Made by the functions below, judged by `load`."""

    source: str
    given: tuple[Given, ...] = ()
    problems: tuple[str, ...] = ()


def mapping_layer(source: str, mapping: Mapping[str, Any], *, where: str | None = None) -> Layer:
    """Tables of typed values, as `crawl(settings={...})` takes them.

    `source` is what `crawler config` shows, `where` (by default the same) what errors begin with.
    """
    return Layer(source=source, given=(Given(where=where or source, source=source, value=mapping),))


def spider_layer(name: str, mapping: Mapping[str, Any]) -> Layer:
    """`Spider.settings` of the spider called `name`."""
    return mapping_layer(f"spider {name}", mapping, where=f"settings of spider {name}")


def file_layer(path: str | Path) -> Layer:
    """A TOML file, with or without byte order mark.

    Raises `SettingsError` if it cannot be read or is not TOML; the message names file, line and column.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise SettingsError(f"{path}: cannot read the settings file: {error.strerror or error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace").split("\n")
        raise SettingsError(f"{path}:{len(before)}:{len(before[-1]) + 1}: not UTF-8") from None
    try:
        return mapping_layer(f"file {path}", tomllib.loads(text), where=str(path))
    except (ValueError, RecursionError) as error:
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
        lines = text.split("\n")
        place = f"{found[2] or len(lines)}:{found[3] or len(lines[-1]) + 1}: {found[1]}" if found else f" {error}"
        raise SettingsError(f"{path}:{place}") from None


PREFIX = "CRAWLER_"
"""What the names of variables begin with."""
_ARGUMENT = "CRAWLER_ARGS__"
_NOT_SETTINGS = frozenset({"CRAWLER_CRASH_AT"})
"""Variables that begin like settings and are none; `CRAWLER_CRASH_AT` is where crash tests stop the process."""
# Kubernetes tells every container of the services beside it: a service called `crawler-redis` is CRAWLER_REDIS_PORT.
_SERVICE_LINK = re.compile(r"[A-Z0-9_]+?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Variables like `CRAWLER_POLITENESS__DELAY_SECONDS`: `__` between table and key, upper case.

    With `_FILE` at the end (`CRAWLER_FRONTIER__URL_FILE`) the value is what the named file holds, less line ends; that
    is how containers get secrets. `CRAWLER_HTTP__HEADERS__ACCEPT_LANGUAGE` is the header `accept-language`.
    """
    given: list[Given] = []
    problems: list[str] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in _NOT_SETTINGS or ("__" not in name and _SERVICE_LINK.fullmatch(name)):
            continue
        if name.startswith(_ARGUMENT):
            continue
        where, text, variable = f"environment variable {name}", environ[name], name
        stem = name.removesuffix("_FILE")
        if stem != name and _is_setting(stem) and (not _is_setting(name) or len(_variable_path(name)) > 2):
            variable = stem
            try:
                text = _in_file(name, text)
            except SettingsError as error:
                problems.append(str(error))
                continue
            if stem in environ:
                problems.append(f"{where}: {stem} is set as well; which one holds?")
        path = _variable_path(variable)
        source = f"environment {name}"
        given.append(Given(where=where, source=source, path=path, value=text, is_text=True, variable=name))
    return Layer(source="environment", given=tuple(given), problems=tuple(problems))


def environment_arguments(environ: Mapping[str, str]) -> dict[str, str]:
    """Spider arguments, for those that nobody should read in a list of processes: `CRAWLER_ARGS__PASSWORD` is
    `password`, and `CRAWLER_ARGS__PASSWORD_FILE` names a file that holds it. Raises `SettingsError`."""
    arguments = {}
    for name in sorted(environ):
        if name.startswith(_ARGUMENT):
            stem = name.removesuffix("_FILE")
            if stem != name and stem in environ:
                raise SettingsError(f"environment variable {name}: {stem} is set as well; which one holds?")
            text = environ[name] if stem == name else _in_file(name, environ[name])
            arguments[stem.removeprefix(_ARGUMENT).lower()] = text
    return arguments


def _in_file(variable: str, path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip("\r\n")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(f"environment variable {variable}: cannot read the file it names: {why}") from None


def _variable_path(variable: str) -> tuple[str, ...]:
    table, *rest = variable.removeprefix(PREFIX).lower().split("__")
    return (table, *rest[:1], *(part.replace("_", "-") if rest[0] == "headers" else part for part in rest[1:]))


def _is_setting(variable: str) -> bool:
    path = _variable_path(variable)
    key = all_keys().get(path[:2])
    return key is not None and (len(path) == 2 or key.is_table)


def command_line_layer(options: Iterable[str]) -> Layer:
    """What `-s` was given: `table.key=VALUE`, the key as TOML spells dotted keys.

    Since shells take quotes away, the name of a host may also stand without:
    `politeness.hosts.127.0.0.1:8080.delay_seconds=0`.
    """
    given: list[Given] = []
    problems: list[str] = []
    for option in options:
        path: list[str] = []
        end, found = 0, _PATH_PART.match(option)
        while found:
            path.append(next(part for part in found.groups() if part is not None))
            end, found = found.end(), _PATH_PART.match(option, found.end()) if found[0].endswith(".") else None
        if option[end - 1 : end] == "=":
            where, text = f"-s {option[: end - 1].strip()}", option[end:]
            given.append(Given(where=where, source="command line", path=tuple(path), value=text, is_text=True))
        else:  # what follows a misplaced sign may be a password: only the start is shown
            start = re.match(r"[\w.]*", option)
            problems.append(f"-s {start[0] if start else ''}: expected table.key=VALUE")
    return Layer(source="command line", given=tuple(given), problems=tuple(problems))


# A quoted part, or a bare one, which may be a host with port; then a dot or the end of the key.
_PATH_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|((?:\[[0-9A-Fa-f:]+\]|[\w-]+)(?::[0-9]+)?))\s*[.=]""")
