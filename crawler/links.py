"""Links as strings, in batches.

On a real page nine of ten links are known already. So links stay strings until the frontier has said which are new:
`response.follow_all(...)` returns a `Links`, which resolves, filters and deduplicates in one pass and builds a
`Request` for a survivor alone. Iterating a `Links` gives the requests one by one, as Scrapy's `yield from` expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from crawler import url as urls
from crawler.query import encode_query
from crawler.request import Request, Unfollowed

__all__ = ["Links"]

Patterns = str | re.Pattern[str] | Iterable[str | re.Pattern[str]]


class Links:
    """The links of one page on their way to the frontier.

    `urls()` gives the absolute http(s) URLs, each once, in document order; iterating gives a `Request` for each.
    `followed=False`: their page asks for them not to be followed, so the crawl takes none of them. `encoding` is that
    of the page, in which their queries are sent.
    """

    __slots__ = ("_accepted", "_base", "_encoding", "_params", "_references", "_template", "_urls")

    def __init__(
        self,
        base: str,
        references: Sequence[str],
        callback: Any = None,
        *,
        allow: Patterns = (),
        deny: Patterns = (),
        options: Mapping[str, Any] | None = None,
        followed: bool = True,
        encoding: str = "utf-8",
    ) -> None:
        self._base, self._encoding = base, encoding
        self._references = references
        self._accepted = _filter(_compiled(allow), _compiled(deny)) if allow or deny else None
        self._template = (Request if followed else Unfollowed)(base, callback, **(options or {}))
        self._params = options.get("params") if options else None
        self._urls: list[str] | None = None

    @classmethod
    def of(cls, urls: list[str], template: Request) -> Links:
        """Links that were resolved before: absolute, normalised, each once. They become copies of `template`."""
        links = cls.__new__(cls)
        links._base, links._encoding, links._references, links._accepted = template.url, "utf-8", urls, None
        links._template, links._urls, links._params = template, urls, None
        return links

    @property
    def template(self) -> Request:
        """A request with the callback and options that every link of the batch gets."""
        return self._template

    def urls(self) -> list[str]:
        if self._urls is None:
            self._urls = self._resolve()
        return self._urls

    def request(self, url: str) -> Request:
        """The request for one of `urls()`."""
        return self._template.moved_to(url)

    def __iter__(self) -> Iterator[Request]:
        return map(self.request, self.urls())

    def __len__(self) -> int:
        return len(self.urls())

    def __repr__(self) -> str:
        return f"<Links {len(self._references)} on {urls.redact(self._base)}>"

    def _resolve(self) -> list[str]:
        # Links into a page are many and pages are few, so what differs in the fragment alone is one reference.
        references = dict.fromkeys([reference.partition("#")[0] for reference in dict.fromkeys(self._references)])
        if "" in references and "" not in self._references:
            del references[""]  # fragments of this page
        found = dict.fromkeys(urls.Joiner(self._base, self._encoding).many(references))
        accepted = self._accepted
        resolved = [url for url in found if url is not None and (accepted is None or accepted[url])]
        if self._params:  # a part of the URL, which each link has of its own
            return list(dict.fromkeys([encode_query(url, self._params) for url in resolved]))
        return resolved


class _Filter(dict[str, bool]):
    """Which URLs match one of `allow`, if there are any, and none of `deny`: the pages of a site link to the same
    URLs, so each is matched once."""

    __slots__ = ("_allow", "_deny")

    def __init__(self, allow: Sequence[re.Pattern[str]], deny: Sequence[re.Pattern[str]]) -> None:
        self._allow = allow
        self._deny = deny

    def __missing__(self, url: str) -> bool:
        if len(self) >= _FILTERED:
            self.clear()
        accepted = not self._allow or any(pattern.search(url) for pattern in self._allow)
        self[url] = accepted = accepted and not any(pattern.search(url) for pattern in self._deny)
        return accepted


_FILTERED = 10_000
"""URLs that a filter remembers."""


@lru_cache(maxsize=64)
def _filter(allow: Sequence[re.Pattern[str]], deny: Sequence[re.Pattern[str]]) -> _Filter:
    return _Filter(allow, deny)


def _compiled(patterns: Patterns) -> tuple[re.Pattern[str], ...]:
    if not patterns:
        return ()
    if isinstance(patterns, (str, re.Pattern)):
        patterns = (patterns,)
    return tuple(_compile(pattern) if isinstance(pattern, str) else pattern for pattern in patterns)


@lru_cache(maxsize=512)
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
