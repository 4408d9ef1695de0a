"""What a child is told when it is started: which spider, with which arguments and settings, for which crawl."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from crawler import settings as setting
from crawler.errors import NotStorable, UsageError
from crawler.storable import ValueCodec

if TYPE_CHECKING:
    from crawler.settings import Settings
    from crawler.spider import Spider

__all__ = ["Origin", "plain_settings", "read_settings", "reference"]

_VALUES: Final = ValueCodec()
_WHERE: Final = "the settings of the crawl"


class Origin(msgspec.Struct, frozen=True):
    spider: str
    """As `crawler run` takes it: `module:Class` or `file.py:Class`."""
    arguments: bytes
    settings: bytes
    worker: str
    job: str | None
    levels: tuple[int, int]
    """Of the root logger and of ours: what is less severe is not wanted."""

    @classmethod
    def of(
        cls, spider: Spider, arguments: Mapping[str, Any], settings: Settings, *, worker: str, job: str | None,
        levels: tuple[int, int],
    ) -> Origin:  # fmt: skip
        """Raises `UsageError` for what cannot be told to another process."""
        try:
            packed = _VALUES.encode(dict(arguments))
        except NotStorable as error:
            raise UsageError(f"processes: an argument of spider {spider.name!r} cannot be sent: {error}") from error
        plain = _VALUES.encode(plain_settings(settings))
        return cls(reference(type(spider)), packed, plain, worker, job, levels)

    def made_arguments(self) -> dict[str, Any]:
        return dict(_VALUES.decode(self.arguments))

    def made_settings(self) -> Settings:
        return read_settings(_VALUES.decode(self.settings))


def reference(spider: type[Spider]) -> str:
    """Where another process finds this class. Raises `UsageError` where it does not."""
    module = sys.modules.get(spider.__module__)
    file = getattr(module, "__file__", None)
    name = spider.__qualname__
    if module is None or getattr(module, name, None) is not spider:
        raise UsageError(
            f"processes: other processes cannot import {spider.__module__}.{name}: "
            "a spider has to stand at the top level of its module"
        )
    if spider.__module__ != "__main__" and _imports_from(spider.__module__, file):
        return f"{spider.__module__}:{name}"
    if file is None or not os.path.isfile(file):
        raise UsageError(f"processes: other processes cannot import {spider.__module__}.{name}: it is in no file")
    return f"{os.path.abspath(file)}:{name}"


def _imports_from(module: str, file: str | None) -> bool:
    """Whether an import statement would find it there. It is not asked what is loaded: `loader` gives names of its own
    to files."""
    package, _, _ = module.rpartition(".")
    try:
        path = sys.modules[package].__path__ if package else None
        found = importlib.machinery.PathFinder.find_spec(module, path)
    except (ImportError, AttributeError, KeyError, ValueError):
        return False
    return found is not None and found.origin == file


def plain_settings(settings: Settings) -> dict[str, Any]:
    """As a settings file would have them. Raises `UsageError` for a function that cannot be named."""
    return {
        table: {
            name: _plain(f"{table}.{name}", value)
            for name, value in msgspec.structs.asdict(getattr(settings, table)).items()
            if value is not None
        }
        for table in type(settings).__struct_fields__
    }


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, setting.StatusSet):
        return value.parts()
    if isinstance(value, Mapping):
        return {name: _plain(key, inner) for name, inner in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [_plain(key, inner) for inner in value]
    if callable(value):
        return _named(key, value)
    return value


def _named(key: str, function: Any) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or not name or "<" in name:
        raise UsageError(f'{key}: other processes cannot import {function!r}; name it as "module:function"')
    return f"{module}:{name}"


def read_settings(plain: Mapping[str, Any]) -> Settings:
    return setting.load([setting.mapping_layer(_WHERE, plain)]).settings
