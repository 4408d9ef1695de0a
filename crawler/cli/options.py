"""From the options of a command to settings: the last layers, above file, spider and defaults."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler import settings as setting
from crawler.assemble import load_settings
from crawler.cli import DEFAULT_FILE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from crawler.settings import Layer, Loaded
    from crawler.spider import Spider

__all__ = ["load"]


def load(spider: type[Spider], arguments: argparse.Namespace, extra: Sequence[Layer] = ()) -> Loaded:
    """Everything that applies to this command. Raises `SettingsError`."""
    file = arguments.file
    if file is None and Path(DEFAULT_FILE).is_file():
        file = Path(DEFAULT_FILE)
    return load_settings(spider, _layers(arguments, extra), file=file)


def _layers(arguments: argparse.Namespace, extra: Sequence[Layer]) -> list[Layer]:
    layers = [*extra, setting.environment_layer(os.environ), setting.command_line_layer(arguments.sets)]
    if arguments.level:
        layers.append(_option("-L", "log", "level", arguments.level.upper()))
    if getattr(arguments, "json_logs", False):
        layers.append(_option("--json-logs", "log", "json", True))
    if getattr(arguments, "frontier", None) is not None:
        layers.append(_option("--frontier", "frontier", "url", arguments.frontier))
    if getattr(arguments, "limit", None) is not None:
        layers.append(_option("--limit", "crawl", "page_limit", arguments.limit))
    return layers


def _option(option: str, table: str, key: str, value: Any) -> Layer:
    return setting.mapping_layer("command line", {table: {key: value}}, where=option)
