"""Finds spiders: by name under a folder, as `module:Class`, or as `path/to/file.py[:Class]`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import os
import sys
import traceback
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.errors import SettingsError, SpiderNotFound, UsageError
from crawler.item import is_item_type
from crawler.spider import Spider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

__all__ = ["Found", "check_arguments", "find_spiders", "item_types", "load_function", "load_spider", "misspelled"]


class Found(NamedTuple):
    """A spider file's spiders, or why it could not be imported."""

    path: Path
    spiders: tuple[type[Spider], ...]
    error: SpiderNotFound | None = None
    """Its `__cause__` is what the file raised."""


def find_spiders(folder: Path) -> list[Found]:
    """Every spider of the folder's Python files, in the order of their names. A file that fails keeps its error.

    Files and folders whose names begin with `_` or `.` are left out: caches, and copies that editors make.
    """
    found = []
    for path in sorted(folder.rglob("*.py")):
        if any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts):
            continue
        try:
            found.append(Found(path, _spiders_of(_import_file(path))))
        except SpiderNotFound as error:
            found.append(Found(path, (), error))
    return found


def load_spider(wanted: str, folder: Path) -> type[Spider]:
    """The spider class that `wanted` means. Raises `SpiderNotFound`, which says what there is instead."""
    path, _, class_name = wanted.partition(":") if not Path(wanted).is_file() else (wanted, "", "")
    if path.endswith(".py"):
        return _from_file(Path(path), class_name)
    if class_name:
        return _from_module(path, class_name)
    return _by_name(wanted, folder)


def load_function(setting: str, named: str | Callable[..., Any] | None) -> Callable[..., Any] | None:
    """What a setting such as `http.json_dumps` means: a function itself, or as `module:function`; None means none.

    Raises `SettingsError` for one that cannot be imported or called.
    """
    if named is None or callable(named):
        return named
    module_name, _, path = named.partition(":")
    _see_working_directory()
    try:
        found = operator.attrgetter(path)(importlib.import_module(module_name))
    except Exception as error:  # a user's file may raise anything
        raise SettingsError(f"{setting}: cannot import {named}{_blame(error)}") from error
    if not callable(found):
        raise SettingsError(f"{setting}: {named} cannot be called")
    function: Callable[..., Any] = found
    return function


def item_types(spider: type[Spider]) -> dict[str, type]:
    """The item classes that the spider's module knows at its top level, by qualified name."""
    known: dict[str, type] = {}
    for cls in reversed(spider.__mro__):
        module = sys.modules.get(cls.__module__)
        if module is not None and cls is not Spider and cls is not object:
            values = list(vars(module).values())
            known.update(
                {value.__qualname__: value for value in values if isinstance(value, type) and is_item_type(value)}
            )
    return known


def check_arguments(spider: type[Spider], args: Iterable[str]) -> None:
    """An argument may have any name but those that the framework needs. Raises `UsageError`."""
    for name in set(args) - _parameters(spider) - {"start_urls", "allowed_domains"}:
        if hasattr(Spider, name):
            raise UsageError(f"-a {name}=…: {name} is a part of every spider, and cannot be an argument")


def misspelled(spider: type[Spider], args: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Arguments that the spider says nothing of, with what it has of nearly that name."""
    from difflib import get_close_matches

    own = ({*dir(spider), *inspect.get_annotations(spider)} - {*dir(Spider)}) | _parameters(spider)
    for name in sorted(set(args) - own - {*dir(Spider)}):
        near = get_close_matches(name, own, 1)
        if near:
            yield name, near[0]


def _parameters(spider: type[Spider]) -> set[str]:
    return set(inspect.signature(spider).parameters)


def _from_file(path: Path, class_name: str) -> type[Spider]:
    if not path.is_file():
        raise SpiderNotFound(f"there is no file {path}")
    spiders = _spiders_of(_import_file(path))
    if class_name:
        spiders = tuple(spider for spider in spiders if spider.__name__ == class_name)
    if len(spiders) == 1:
        return spiders[0]
    if not spiders:
        raise SpiderNotFound(
            f"{path} has no Spider subclass with a name" + (f" called {class_name}" if class_name else "")
        )
    names = ", ".join(f"{path}:{spider.__name__}" for spider in spiders)
    raise SpiderNotFound(f"{path} has several spiders; say which: {names}")


def _from_module(module_name: str, class_name: str) -> type[Spider]:
    _see_working_directory()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise SpiderNotFound(f"cannot import module {module_name}{_blame(error)}") from error
    spider = getattr(module, class_name, None)
    if not (isinstance(spider, type) and issubclass(spider, Spider)):
        raise SpiderNotFound(f"module {module_name} has no Spider subclass {class_name}")
    if not spider.name:
        raise SpiderNotFound(f'{module_name}:{class_name} needs a name: name = "…"')
    return spider


def _by_name(name: str, folder: Path) -> type[Spider]:
    if not folder.is_dir():
        raise SpiderNotFound(
            f"no spider {name!r}: there is no folder {folder}/ here. Make one, give another with --spiders DIR, "
            "or name a file: crawler run path/to/file.py"
        )
    found = find_spiders(folder)
    matches = [(file.path, spider) for file in found for spider in file.spiders if spider.name == name]
    if len(matches) == 1:
        return matches[0][1]
    if matches:
        where = ", ".join(f"{path}:{spider.__name__}" for path, spider in matches)
        raise SpiderNotFound(f"several spiders are called {name!r}; say which: {where}")
    from difflib import get_close_matches

    names = sorted({spider.name for file in found for spider in file.spiders})
    message = f"no spider {name!r} under {folder}/; there is {', '.join(names) or 'none'}"
    near = get_close_matches(name, names, 1)
    if near:
        message += f". Did you mean {near[0]!r}?"
    broken = [file for file in found if file.error is not None]
    message += "".join(f"\n{file.error}" for file in broken)
    raise SpiderNotFound(message) from (broken[0].error if broken else None)


def _import_file(path: Path) -> ModuleType:
    """The file as a module. Raises `SpiderNotFound`, from what the file raised."""
    _see_working_directory()
    file = str(path.resolve())
    name = _module_name(path.resolve())
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == file:
        return loaded
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        del sys.modules[name]
        raise SpiderNotFound(f"cannot import {path}{_blame(error, file)}") from error
    return module


def _module_name(path: Path) -> str:
    """`spiders.books`, as an import statement would have it; another file of that name gets another."""
    name = f"spiders.{path.stem}" if path.parent.name == "spiders" else f"spider_{path.stem}"
    taken = sys.modules.get(name)
    if taken is None or getattr(taken, "__file__", None) == str(path):
        return name
    return f"{name}_{zlib.crc32(os.fsencode(path)):08x}"


def _see_working_directory() -> None:
    """Spiders import from beside their folder, as `from spiders.common import …`. Last: nothing there may stand in for
    a library's module."""
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)


def _spiders_of(module: ModuleType) -> tuple[type[Spider], ...]:
    return tuple(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Spider)
        and value.__module__ == module.__name__
        and value.name
        and not inspect.isabstract(value)
    )


def _blame(error: BaseException, file: str = "") -> str:
    """`, line 3: NameError: name 'Bok' is not defined`: the line in `file` that led to the error, and what it was."""
    place, what = "", f"{type(error).__name__}: {error}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, SyntaxError) and error.filename:
        what = f"{type(error).__name__}: {error.msg}"
        if error.filename == file:
            lines = [error.lineno]
        else:
            what += f" ({error.filename}, line {error.lineno})"
    if lines:
        place = f", line {lines[-1]}"
    return f"{place}: {what}"
