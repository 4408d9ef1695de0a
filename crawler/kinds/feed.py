"""`FeedSpider`: an entry of a feed at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crawler import url as urls
from crawler.encoding import charset_from_content_type
from crawler.kinds.method import outputs
from crawler.kinds.turn import turn
from crawler.listings.syndication import Enclosure, Feed, FeedEntry, FeedReader
from crawler.spider import Spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from crawler.response import Response

__all__ = ["Enclosure", "Feed", "FeedEntry", "FeedSpider"]

_TYPES = ("application/rss+xml", "application/atom+xml", "application/rdf+xml")


class FeedSpider(Spider):
    """Reads the feeds that `start_urls` name: RSS 0.9x, 1.0 and 2.0, Atom 1.0. An HTML page among them leads to the
    feed that it names.

    `parse_entry` gets each entry; what the feed says of itself is `response.meta["feed"]`, a `Feed`. A feed that is
    broken, or none, is a warning; entries before that count.
    """

    def parse_entry(self, response: Response, entry: FeedEntry) -> Any:
        """What becomes of an entry: gives what a callback may, and may be `async`."""
        raise NotImplementedError(f"spider {self.name!r} needs a method parse_entry(self, response, entry)")

    def discover_feeds(self, response: Response) -> Iterable[str]:
        """The feeds to read instead of an HTML page. Default: the first that it names by `<link rel="alternate">`, as
        sites often name one for comments, or the same in another format, after it."""
        for link in response.css('link[rel~="alternate"][href]'):
            if link.attrib.get("type", "").partition(";")[0].strip().lower() in _TYPES:
                return [link.attrib["href"]]
        return []

    async def parse(self, response: Response) -> AsyncIterator[Any]:
        """Reads a feed, or looks for one."""
        async for output in self._read(response, may_discover=True):
            yield output

    async def _parse_feed(self, response: Response) -> AsyncIterator[Any]:
        async for output in self._read(response, may_discover=False):
            yield output

    async def _read(self, response: Response, *, may_discover: bool) -> AsyncIterator[Any]:
        charset = charset_from_content_type(response.headers.get("Content-Type", ""))
        reader = FeedReader(response.url, charset=charset)
        for _ in reader.read(response.body):
            await turn()
        if not reader.is_feed and may_discover and (found := list(self.discover_feeds(response))):
            yield response.follow_all(found, self._parse_feed)
            return
        if reader.problem:
            self.logger.warning("feed %s: %s", urls.redact(response.url), reader.problem)
        response.meta["feed"] = reader.feed
        for entry in reader.entries:
            async for output in outputs(self.parse_entry(response, entry)):
                yield output
