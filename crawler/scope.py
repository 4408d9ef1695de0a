"""Where a crawl may go, by what can be read off a URL: `allowed_domains`, `allow` and `deny` of the spider, and limits
of length, depth and shape.

Nine of ten links are known and do not come here; the tenth costs a microsecond. A path is looked at in earnest where it
has one of its segments three times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from crawler import url as urls
from crawler.errors import SettingsError

__all__ = ["Scope", "Shape", "compiled"]

_REMEMBERED = 10_000
"""Hosts, and URLs where there are patterns: the pages of a site link to the same ones."""
_BEFORE_PATH = 3
"""Parts of a URL between slashes: scheme, nothing, host."""
_ENDLESS = 1 << 30
_LOOKED_AT = 64
"""Segments at the end of a path, where a path may have any number of them: a spiral grows there."""


class Shape(NamedTuple):
    """Limits of a URL's form; 0 switches off those of the path."""

    max_url_length: int = 2083
    max_path_segments: int = 0
    max_path_repeats: int = 0


class Scope:
    """Which URLs a crawl may go to. `allow` and `deny` are searched in the absolute URL: one of `allow` has to be
    found, if there are any, and none of `deny`."""

    __slots__ = (
        "_allow",
        "_deny",
        "_depth_limit",
        "_domains",
        "_few",
        "_has_patterns",
        "_hosts",
        "_matched",
        "_max_length",
        "_most",
        "_repeats",
    )

    def __init__(
        self,
        allowed_domains: str | Iterable[str] = (),
        *,
        allow: Iterable[re.Pattern[str]] = (),
        deny: Iterable[re.Pattern[str]] = (),
        depth_limit: int = 0,
        shape: Shape | None = None,
    ) -> None:
        if isinstance(allowed_domains, str):
            allowed_domains = (allowed_domains,)
        self._domains = frozenset(domain.lower().strip(".") for domain in allowed_domains)
        self._allow = tuple(allow)
        self._deny = tuple(deny)
        self._has_patterns = bool(self._allow or self._deny)
        self._hosts: dict[str, bool] = {}
        self._matched: dict[str, str | None] = {}
        self._depth_limit = depth_limit
        shape = shape or Shape()
        self._max_length = shape.max_url_length
        self._most = _BEFORE_PATH + (shape.max_path_segments or _ENDLESS)
        self._repeats = shape.max_path_repeats or _ENDLESS
        self._few = _BEFORE_PATH + self._repeats

    def refusal(self, url: str, depth: int) -> str | None:
        """Why this normalised URL is not crawled, or None: `"depth"`, `"url_length"`, `"offsite"`, `"denied"`,
        `"not_allowed"`, `"path_segments"`, `"path_repeats"`."""
        if self._depth_limit and depth > self._depth_limit:
            return "depth"
        if len(url) > self._max_length:
            return "url_length"
        if self._domains and not self._on_site(url):
            return "offsite"
        if self._has_patterns and (reason := self._match(url)) is not None:
            return reason
        # Slashes of the query, and one at the end, may call for a look that was not needed, never miss one. A group
        # that comes again so often has a segment that does.
        parts = url.split("/")
        count = len(parts)
        if count > self._most or (count > self._few and count - len(set(parts)) >= self._repeats):
            return self._misshapen(url)
        return None

    def _on_site(self, url: str) -> bool:
        host = urls.hostname(url)
        known = self._hosts.get(host)
        if known is None:
            if len(self._hosts) > _REMEMBERED:
                self._hosts.clear()
            known = self._hosts[host] = urls.in_domains(host, self._domains)
        return known

    def _match(self, url: str) -> str | None:
        if url in self._matched:
            return self._matched[url]
        if len(self._matched) >= _REMEMBERED:
            self._matched.clear()
        reason = None
        if any(pattern.search(url) for pattern in self._deny):
            reason = "denied"
        elif self._allow and not any(pattern.search(url) for pattern in self._allow):
            reason = "not_allowed"
        self._matched[url] = reason
        return reason

    def _misshapen(self, url: str) -> str | None:
        segments = url.partition("?")[0].split("/")[_BEFORE_PATH:]
        if not segments[-1]:
            segments.pop()  # `/a/` is as deep as `/a`
        if len(segments) + _BEFORE_PATH > self._most:
            return "path_segments"
        return "path_repeats" if _comes_again(segments[-_LOOKED_AT:], self._repeats) else None


def _comes_again(segments: list[str], times: int) -> bool:
    """Whether a group of one or more segments is followed by itself that many times: `/a/b/a/b/a/b` for two. The rule
    of Heritrix's PathologicalPathDecideRule."""
    for length in range(1, len(segments) // (times + 1) + 1):
        run = 0
        for segment, later in zip(segments, segments[length:], strict=False):
            run = run + 1 if segment == later else 0
            if run == length * times:
                return True
    return False


def compiled(spider: str, attribute: str, patterns: Any) -> tuple[re.Pattern[str], ...]:
    """`allow` or `deny` of a spider: a regular expression or several, as text or compiled. Raises `SettingsError`,
    which names the spider, the attribute and what is wrong."""
    if isinstance(patterns, (str, re.Pattern)):
        patterns = (patterns,)
    where = f"{attribute} of spider {spider!r}"
    if callable(patterns) or not isinstance(patterns, Iterable):
        raise SettingsError(f"{where} must be a list of regular expressions, not {type(patterns).__name__}")
    found: list[re.Pattern[str]] = []
    for pattern in patterns:
        if not isinstance(getattr(pattern, "pattern", pattern), str):
            raise SettingsError(f"{where}: {pattern!r} is not a regular expression as text")
        try:
            found.append(re.compile(pattern))
        except re.error as error:
            raise SettingsError(f"{where}: {pattern!r} is not a regular expression: {error}") from error
    return tuple(found)
