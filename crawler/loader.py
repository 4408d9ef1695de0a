"""Finds spiders: by name under a folder, as `module:Class`, or as `path/to/file.py[:Class]`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crawler.errors import SpiderNotFound
from crawler.item import is_item_type
from crawler.spider import Spider

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

__all__ = ["Found", "find_spiders", "item_types", "load_spider"]


class Found(NamedTuple):
    """A spider file's spiders, or why it could not be imported."""

    path: Path
    spiders: tuple[type[Spider], ...]
    error: Exception | None = None


def find_spiders(folder: Path) -> list[Found]:
    """Every spider of the folder's Python files, in the order of their names. A file that fails keeps its error."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        if path.name.startswith(("_", ".")):
            continue
        try:
            found.append(Found(path, _spiders_of(_import_file(path))))
        except Exception as error:  # a user's file may raise anything; the error is kept and shown
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


def _from_file(path: Path, class_name: str) -> type[Spider]:
    if not path.is_file():
        raise SpiderNotFound(f"there is no file {path}")
    try:
        spiders = _spiders_of(_import_file(path))
    except Exception as error:
        raise _import_error(path, error) from error
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
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise _import_error(module_name, error) from error
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
    names = sorted({spider.name for file in found for spider in file.spiders})
    message = f"no spider {name!r} under {folder}/; there is {', '.join(names) or 'none'}"
    near = difflib.get_close_matches(name, names, 1)
    if near:
        message += f". Did you mean {near[0]!r}?"
    broken = [file for file in found if file.error is not None]
    for file in broken:
        message += f"\n{_import_error(file.path, file.error)}"
    raise SpiderNotFound(message) from (broken[0].error if broken else None)


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    name = f"spiders.{path.stem}" if path.parent.name == "spiders" else f"spider_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


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


def _import_error(where: Path | str, error: BaseException | None) -> SpiderNotFound:
    place = ""
    if isinstance(error, SyntaxError) and error.lineno:
        place = f", line {error.lineno}"
    elif error is not None:
        lines = (
            [
                frame.lineno
                for frame in inspect.getinnerframes(error.__traceback__)
                if frame.filename.endswith(str(where))
            ]
            if error.__traceback__
            else []
        )
        place = f", line {lines[-1]}" if lines else ""
    return SpiderNotFound(f"cannot import {where}{place}: {type(error).__name__}: {error}")


def names_of(found: Iterable[Found]) -> list[str]:
    return sorted(spider.name for file in found for spider in file.spiders)
