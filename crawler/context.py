"""What the parts of one run share. Made by `assemble`, and handed to each part of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from crawler.contracts import Clock, Fetcher, Frontier
    from crawler.headroom import Headroom
    from crawler.politeness import HostRule
    from crawler.retry import RetryPolicy
    from crawler.settings import Settings
    from crawler.spider import Spider
    from crawler.stats import Stats

__all__ = ["Context"]


@dataclass(frozen=True, slots=True)
class Context:
    spider: Spider
    settings: Settings
    frontier: Frontier
    fetcher: Fetcher
    stats: Stats
    clock: Clock
    rng: Random
    retry: RetryPolicy
    rule: Callable[[str], HostRule]
    """A host's configured treatment, by `"name:port"`."""
    headroom: Headroom
    job: Path | None = None
