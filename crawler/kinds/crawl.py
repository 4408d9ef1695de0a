"""`CrawlSpider`: rules say which links to follow, and which callback gets the page."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - annotations of spiders are read when they are started
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from crawler.errors import UsageError
from crawler.kinds.link_extractor import LinkExtractor
from crawler.kinds.method import function_of, is_async, method_name, outputs
from crawler.links import Links
from crawler.request import Request
from crawler.spider import Spider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from crawler.kinds.link_extractor import Link
    from crawler.response import Response

__all__ = ["CrawlSpider", "Rule"]


class Rule:
    """Links that `link_extractor` finds (default: all), and what becomes of their pages.

    - `callback`, `errback`: a method of the spider or its name. `cb_kwargs`: its further arguments, plain values.
    - `follow`: whether the rules apply to these pages too; by default only where there is no callback.
    - `process_links(links)` gets the links that this rule found on a page and gives those that count;
      `process_request(request, response)` gives the request, another, or None. A method's name, or any function. With
      either, a page costs more: links go one by one, and `response.meta["link_text"]` is there.

    `response.meta["rule"]` is the rule's number, from 0.
    """

    __slots__ = (
        "callback", "cb_kwargs", "errback", "follow", "link_extractor", "process_links", "process_request",
    )  # fmt: skip

    def __init__(
        self,
        link_extractor: LinkExtractor | None = None,
        callback: Any = None,
        cb_kwargs: Mapping[str, Any] | None = None,
        *,
        follow: bool | None = None,
        process_links: str | Callable[[list[Link]], Iterable[Link]] | None = None,
        process_request: str | Callable[[Request, Response], Request | None] | None = None,
        errback: Any = None,
    ) -> None:
        self.link_extractor = LinkExtractor() if link_extractor is None else link_extractor
        self.callback = callback
        self.errback = errback
        self.cb_kwargs = dict(cb_kwargs or {})
        self.follow = callback is None if follow is None else follow
        self.process_links = process_links
        self.process_request = process_request

    def __repr__(self) -> str:
        return f"<Rule {self.link_extractor!r} callback={self.callback!r} follow={self.follow}>"


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A rule of one spider, its names looked up."""

    extractor: LinkExtractor
    template: Request
    """What the links become."""
    callback: str | None
    process_links: Callable[[list[Link]], Iterable[Link]] | None
    process_request: Callable[[Request, Response], Request | None] | None

    @classmethod
    def of(cls, spider: CrawlSpider, number: int, rule: Rule) -> _Compiled:
        where = f"rule {number}"
        callback = None if rule.callback is None else method_name(spider, rule.callback, where)
        errback = None if rule.errback is None else method_name(spider, rule.errback, where)
        # Where nothing is followed, nobody has to stand between the page and its callback.
        own = callback if callback is not None and not rule.follow else None
        links, request = rule.process_links, rule.process_request
        template = Request(
            _ANYWHERE, own or ("_by_rule" if rule.follow else "_unread"),
            errback=errback, cb_kwargs=rule.cb_kwargs, meta={"rule": number},
        )  # fmt: skip
        return cls(
            rule.link_extractor,
            template,
            callback,
            None if links is None else function_of(spider, links, where),
            None if request is None else function_of(spider, request, where),
        )


_ANYWHERE: Final = "http://rule.invalid/"


class CrawlSpider(Spider):
    """Follows the links that its `rules` find, from page to page, beginning with `start_urls`.

    Rules are asked in their order, and a link is the first one's that finds it. A page that is followed goes to its
    rule's callback, if there is one, and then to the rules, if the rule has `follow`. Only HTML has links. Pages that
    `start()` asks for go to `parse_start_url` and to the rules. Wrong names in rules are a `UsageError` at the start.
    """

    rules: Sequence[Rule] = ()

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._rules = [_Compiled.of(self, number, rule) for number, rule in enumerate(self.rules)]

    async def start(self) -> AsyncIterator[Any]:
        async for request in super().start():  # by a callback of their own: `parse` may be a rule's
            yield request if request.callback is not None else request.replace(callback="_begin")

    def parse_start_url(self, response: Response, **kwargs: Any) -> Any:
        """What a callback may give, for the pages that the crawl begins with; default: nothing."""
        return None

    def parse(self, response: Response, **kwargs: Any) -> Any:
        """Requests without a callback begin here: as if `start_urls` named them."""
        return self._begin(response, **kwargs)

    def _begin(self, response: Response, **kwargs: Any) -> Any:
        return self._with_links(response, self.parse_start_url(response, **kwargs))

    def _by_rule(self, response: Response, **kwargs: Any) -> Any:
        number = response.meta.get("rule", -1)
        if not 0 <= number < len(self._rules):
            raise UsageError(f"spider {self.name!r} has no rule {number}, by which {response!r} was found")
        name = self._rules[number].callback
        return self._with_links(response, None if name is None else getattr(self, name)(response, **kwargs))

    def _unread(self, response: Response, **kwargs: Any) -> None:
        """Fetched, and that is all: a rule with neither callback nor follow."""

    def _with_links(self, response: Response, result: Any) -> Any:
        if result is None:
            return self._links(response)
        return self._later(response, result) if is_async(result) else self._then(response, result)

    def _then(self, response: Response, result: Any) -> Iterator[Any]:
        yield result
        yield from self._links(response)

    async def _later(self, response: Response, result: Any) -> AsyncIterator[Any]:
        async for output in outputs(result):
            yield output
        for links in self._links(response):
            yield links

    def _links(self, response: Response) -> Iterator[Links | Request]:
        if not _is_html(response):
            return
        seen: set[str] = set()
        for rule in self._rules:
            if rule.process_links is None and rule.process_request is None:
                found = [url for url in rule.extractor.urls(response) if url not in seen]
                seen.update(found)
                if found:
                    yield Links.of(found, rule.template)
            else:
                yield from _one_by_one(rule, response, seen)


def _one_by_one(rule: _Compiled, response: Response, seen: set[str]) -> Iterator[Request]:
    links: Iterable[Link] = [link for link in rule.extractor.extract_links(response) if link.url not in seen]
    if rule.process_links is not None:
        links = rule.process_links(list(links))
    for link in links:
        seen.add(link.url)
        meta = {**rule.template.meta, "link_text": link.text}
        request: Request | None = rule.template.replace(url=link.url, meta=meta, cb_kwargs={**rule.template.cb_kwargs})
        if request is not None and rule.process_request is not None:
            request = rule.process_request(request, response)
        if request is not None:
            yield request


def _is_html(response: Response) -> bool:
    kind = response.headers.get("Content-Type")
    if kind is None:
        return response.body[:512].lstrip().startswith(b"<")
    return "html" in kind.lower()
