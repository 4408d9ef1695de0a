"""`SitemapSpider`: a crawl that starts from what a site says it has."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Sequence  # noqa: TC003 - annotations of spiders are read when they are started
from typing import TYPE_CHECKING, Any

from crawler import url as urls
from crawler.encoding import charset_from_content_type
from crawler.errors import FetchError, SettingsError
from crawler.kinds.method import method_name
from crawler.kinds.turn import turn
from crawler.links import Links
from crawler.listings.dates import read_date
from crawler.listings.sitemap import SitemapReader
from crawler.request import Request
from crawler.spider import Spider

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator

    from crawler.response import Response

__all__ = ["SitemapEntries", "SitemapSpider"]

MAX_NESTING = 3
"""Indexes on the way to a sitemap. The protocol has one; large sites have two."""
_READ_BYTES = 64 * 1024
_STREAM = {"stream": True}


class SitemapEntries(list[dict[str, Any]]):
    """Some entries of one file, as they came; `crawler.listings.sitemap` says what they hold."""

    def __init__(self, entries: Iterable[dict[str, Any]], *, type: str, url: str) -> None:
        super().__init__(entries)
        self.type = type
        """`"urlset"`, `"sitemapindex"` or `"text"`."""
        self.url = url
        """Of the file."""


class SitemapSpider(Spider):
    """Fetches the pages that sitemaps name, each with the callback of the first rule that its URL matches.

    Sitemaps and indexes may be XML or text, compressed or not. They are read while they arrive, in memory that does not
    grow with them: at most 50,000 URLs and 50 MiB a file, indexes at most three deep. What is beyond that, or cannot be
    read, is a warning that names the file, and what was read before it counts.

    A callback has the sitemap's entry in `response.meta["sitemap"]`: `loc`, and where given `lastmod` (an aware
    datetime), `changefreq`, `priority` (a float), `alternate`, `news`, `images`, `videos`.
    """

    sitemap_urls: Sequence[str] = ()
    """Sitemaps, indexes, `/robots.txt` URLs, or addresses of sites (`https://shop.example/`), whose robots.txt is
    asked; where that names no sitemap, a site's `/sitemap.xml` is tried."""
    sitemap_rules: Sequence[tuple[Any, Any]] = (("", "parse"),)
    """Pairs of a regular expression, searched in the URL, and a callback. A URL that none matches is not fetched."""
    sitemap_follow: Sequence[Any] = ("",)
    """Regular expressions: sitemaps that an index names are read where one of them is found in the URL."""
    sitemap_alternate_links: bool = False
    """Fetch an entry's other languages (`xhtml:link` with `hreflang`), too."""
    sitemap_since: Any = None
    """A datetime, a date, or either as text (`-a sitemap_since=2026-01-31`): entries with an older `lastmod` drop out,
    of an index whole sitemaps. Entries without one stay. Without a zone it is UTC."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._rules = [
            (re.compile(pattern), method_name(self, callback, "sitemap_rules"))
            for pattern, callback in self.sitemap_rules
        ]
        self._follow = [re.compile(pattern) for pattern in self.sitemap_follow]
        self._since = _moment(self.sitemap_since, self.name)

    def sitemap_filter(self, entries: SitemapEntries) -> Iterable[dict[str, Any]]:
        """Gives those of `entries` that count, changed if need be; default: all. Called for each batch of a file, as it
        comes; `entries.type` tells pages from sitemaps of an index."""
        yield from entries

    async def start(self) -> AsyncIterator[Any]:
        """A request for each of `sitemap_urls`, or for what their robots.txt names; then those of `start_urls`."""
        for given in self.sitemap_urls:
            url = urls.normalize(given)
            path = url.removeprefix(urls.origin(url))
            if path not in ("/", "/robots.txt"):
                yield self.request(url, self._parse_sitemap, **_STREAM)
                continue
            robots_url = urls.origin(url) + "/robots.txt"
            try:
                sitemaps = (await self.robots(robots_url)).sitemaps
            except FetchError as error:  # a request for it waits and tries again, as all do
                self.logger.debug("%s: %s", urls.redact(robots_url), error)
                yield self.request(robots_url, self._parse_robots)
                continue
            for output in self._named_by_robots(url, sitemaps):
                yield output
        async for request in super().start():
            yield request

    async def _parse_robots(self, response: Response) -> Any:
        sitemaps = (await self.robots(response.url)).sitemaps
        return Links(response.url, sitemaps or ("/sitemap.xml",), self._parse_sitemap, options=_STREAM)

    def _named_by_robots(self, url: str, sitemaps: Sequence[str]) -> Iterator[Any]:
        if not sitemaps:
            self.logger.info("the robots.txt of %s names no sitemap; trying /sitemap.xml", urls.redact(url))
            yield self.request(urls.origin(url) + "/sitemap.xml", self._parse_sitemap, **_STREAM)
            return
        # What a site names itself is a link like any other: only the user's own host may be a private one.
        found = Links(url, sitemaps, self._parse_sitemap, options=_STREAM)
        own = [each for each in found.urls() if urls.host_key(each) == urls.host_key(url)]
        yield from map(found.request, own)
        yield found

    async def _parse_sitemap(self, response: Response, level: int = 0, attempt: int = 0) -> AsyncIterator[Any]:
        """`level`: how many indexes led here; `attempt`: how often the body broke off."""
        charset = charset_from_content_type(response.headers.get("Content-Type", ""))
        reader = SitemapReader(charset=charset)
        try:
            async with contextlib.aclosing(_pieces(response)) as pieces:
                async for data in pieces:
                    for entries in reader.feed(data):
                        if level >= MAX_NESTING and reader.kind == "sitemapindex":
                            self._warn(response, f"an index behind {MAX_NESTING} others is not read")
                            return
                        if entries:
                            yield self._requests(response, reader.kind, entries, level)
                        await turn()
                    if reader.is_over:
                        break
        except FetchError as error:
            if again := self._again(response, error, level, attempt):
                yield again
                return
            raise
        if rest := reader.close():
            yield self._requests(response, reader.kind, rest, level)
        if reader.problem:
            self._warn(response, reader.problem)

    def _warn(self, response: Response, problem: str) -> None:
        self.logger.warning("sitemap %s: %s", urls.redact(response.url), problem)

    def _again(self, response: Response, error: FetchError, level: int, attempt: int) -> Request | None:
        """The callback runs already when a body breaks off, so nobody else tries again. What was read is known by then,
        and not fetched twice."""
        policy = self._running().settings.retry
        times = policy.times if response.request.retry_times is None else response.request.retry_times
        if not error.retryable or attempt >= times:
            return None
        self.logger.info("sitemap %s: %s; again later", urls.redact(response.url), error)
        wait = min(policy.base_seconds * 2**attempt, policy.max_seconds)
        more = {"level": level, "attempt": attempt + 1}
        return response.request.replace(dont_filter=True, not_before=wait, cb_kwargs=more)

    # -- entries to requests -----------------------------------------------------------------------------------------

    def _requests(self, response: Response, kind: str, found: list[dict[str, Any]], level: int) -> list[Request]:
        entries = SitemapEntries(filter(self._is_new, found), type=kind, url=response.url)
        join = urls.Joiner(response.url).join
        if kind == "sitemapindex":
            return self._sitemaps(self.sitemap_filter(entries), join, level) if level < MAX_NESTING else []
        requests = []
        for entry in self.sitemap_filter(entries):
            for each in self._languages(entry) if self.sitemap_alternate_links else (entry,):
                url = join(each["loc"])
                callback = None if url is None else self._callback(url)
                if url is not None and callback is not None:
                    requests.append(Request(url, callback, meta={"sitemap": each}))
        return requests

    def _sitemaps(
        self, entries: Iterable[dict[str, Any]], join: Callable[[str], str | None], level: int
    ) -> list[Request]:
        found = (join(entry["loc"]) for entry in entries)
        return [
            self.request(url, self._parse_sitemap, stream=True, cb_kwargs={"level": level + 1})
            for url in found
            if url is not None and any(pattern.search(url) for pattern in self._follow)
        ]

    def _is_new(self, entry: dict[str, Any]) -> bool:
        date = entry.get("lastmod")
        return self._since is None or date is None or date >= self._since

    def _callback(self, url: str) -> str | None:
        return next((callback for pattern, callback in self._rules if pattern.search(url)), None)

    def _languages(self, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The entry, and one for each other language, without what would be stored once more with each."""
        yield entry
        common: dict[str, Any] = {key: entry[key] for key in ("lastmod", "changefreq", "priority") if key in entry}
        for alternate in entry.get("alternate", ()):
            if alternate["href"] != entry["loc"]:
                yield {**common, "loc": alternate["href"], "hreflang": alternate["hreflang"]}


async def _pieces(response: Response) -> AsyncGenerator[bytes, None]:
    """Time at the network is not the callback's: it has limits of its own."""
    if response.content is None:  # a middleware's answer
        yield response.body
        return
    while True:
        with response._unhurried():
            data = await response.content.read(_READ_BYTES)
        if not data:
            return
        yield data


def _moment(value: Any, spider: str) -> dt.datetime | None:
    if value is None or value == "":
        return None
    found = value
    if isinstance(value, str):
        found = read_date(value)
    elif isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        found = dt.datetime.combine(value, dt.time())
    if not isinstance(found, dt.datetime):
        raise SettingsError(f"sitemap_since of spider {spider!r}: {value!r} is neither a date nor the text of one")
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
