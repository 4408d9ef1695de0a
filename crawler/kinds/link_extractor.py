"""`LinkExtractor`: which links of a page count. Scrapy's words, over strings.

Where only addresses are asked for (`urls`), they stay strings from the page to the frontier, and what the conditions
say of one is remembered: the pages of a site link to the same places again and again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

from crawler import url as urls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selectolax.lexbor import LexborNode

    from crawler.response import Response

__all__ = ["IGNORED_EXTENSIONS", "Link", "LinkExtractor"]

Texts = str | Iterable[str]
Patterns = str | re.Pattern[str] | Iterable[str | re.Pattern[str]]

# Archives, images, sound, moving pictures, documents, fonts, programs and what pages are made with.
_FILES: Final = """
7z 7zip bz2 cab gz jar rar tar tgz xz zip zst
ai avif bmp cdr dxf eps gif heic ico jpeg jpg jxl pct png ps psd psp svg tif tiff webp
aac aif aiff au flac m4a mid mp3 ogg opus ra wav wma
3gp asf asx avi flv m4v mkv mov mp4 mpeg mpg ogv qt rm swf webm wmv
doc docb docm docx dot dotm dotx epub mobi odg odp ods odt pdf pot potm potx pps ppsm ppsx ppt pptm pptx pub rtf
xls xlsb xlsm xlsx xlt xltm xltx
eot otf ttf woff woff2
apk bin class css deb dmg exe img iso js msi msu pkg rpm rss sh torrent
"""
IGNORED_EXTENSIONS: Final = tuple(_FILES.split())
"""What `deny_extensions=None` leaves out: files that are no pages."""

_REMEMBERED: Final = 10_000


class Link(NamedTuple):
    """A link on a page. `url` is absolute and has no fragment; `text` is what is between its tags."""

    url: str
    text: str = ""
    fragment: str = ""
    """Without `#`."""
    nofollow: bool = False
    """`rel` says so."""


class LinkExtractor:
    """The links of a page that meet all conditions; usable in any spider: `for link in extractor.extract_links(page)`.

    - `allow`, `deny`: regular expressions searched in the absolute URL; one of `allow` must be found, if there is any.
    - `allow_domains`, `deny_domains`: a domain covers its subdomains.
    - `restrict_css`, `restrict_xpaths` (with the extra `crawler[xpath]`): only what is in or at these elements.
    - `restrict_text`: regular expressions, one of which must be found in the link's text.
    - `tags`, `attrs`: which elements are links, and where they have their address.
    - `deny_extensions`: endings of paths, without dot; None: `IGNORED_EXTENSIONS`.
    - `process_value`: gets what the attribute holds, gives a reference, or None to leave it out.
    - `canonicalize`: in the form in which URLs are compared, instead of as the site wrote them.
    - `unique`: each URL once. `strip`: without white space around; URLs lose theirs in any case.

    Links that are not http(s), and those into the page itself, are none. Raises `re.error` for what is no expression.
    """

    def __init__(
        self,
        allow: Patterns = (),
        deny: Patterns = (),
        *,
        allow_domains: Texts = (),
        deny_domains: Texts = (),
        restrict_xpaths: Texts = (),
        restrict_css: Texts = (),
        restrict_text: Patterns = (),
        tags: Texts = ("a", "area"),
        attrs: Texts = ("href",),
        canonicalize: bool = False,
        unique: bool = True,
        process_value: Callable[[str], str | None] | None = None,
        deny_extensions: Texts | None = None,
        strip: bool = True,
    ) -> None:
        self._accepted = _Accepted(
            _patterns(allow),
            _patterns(deny),
            frozenset(_texts(allow_domains)),
            frozenset(_texts(deny_domains)),
            _texts(IGNORED_EXTENSIONS if deny_extensions is None else deny_extensions),
        )
        self._xpaths, self._css = _texts(restrict_xpaths), _texts(restrict_css)
        self._texts = _patterns(restrict_text)
        tags, self._attrs = _texts(tags), _texts(attrs)
        self._query = ", ".join(f"{tag}[{attr}]" for tag in tags for attr in self._attrs)
        if self._css and not self._xpaths and all(map(_WORDS.fullmatch, self._css)):
            inside = [_inside(part.strip(), tags, self._attrs) for css in self._css for part in css.split(",")]
            self._query, self._css = ", ".join(inside), ()
        self._canonicalize, self._unique, self._strip = canonicalize, unique, strip
        self._process_value = process_value
        everywhere = not (self._xpaths or self._css or self._texts or process_value)
        self._is_plain = everywhere and self._attrs == ("href",) and {*tags} <= {"a", "area"} and unique
        """Nothing but the addresses is looked at."""

    def urls(self, response: Response) -> list[str]:
        """As `extract_links`, the addresses alone: much cheaper where no text is looked at."""
        if not self._is_plain:
            return [link.url for link in self._links(response, with_text=bool(self._texts))]
        accepted = self._accepted
        found = response.links(self._query)
        if self._canonicalize:
            found = list(dict.fromkeys(map(urls.canonical, found)))
        return [url for url in found if accepted[url]]

    def extract_links(self, response: Response) -> list[Link]:
        """In document order."""
        return list(self._links(response, with_text=True))

    def matches(self, url: str) -> bool:
        """Whether a link to this absolute URL would count, wherever it stands. Raises `InvalidURL`."""
        return self._accepted[urls.normalize(url)]

    def _links(self, response: Response, *, with_text: bool) -> Iterator[Link]:
        join = urls.Joiner(response.base_url, response.encoding).join
        seen: set[str] = set()
        for element in self._elements(response):
            attributes = element.attributes
            for value in map(attributes.get, self._attrs):
                reference = None if value is None else self._reference(value)
                url = None if reference is None else join(reference)
                if url is not None and self._canonicalize:
                    url = urls.canonical(url)
                if url is None or not self._accepted[url] or (self._unique and url in seen):
                    continue
                text = (element.text() or "").strip() if with_text else ""
                if self._texts and not any(pattern.search(text) for pattern in self._texts):
                    continue
                seen.add(url)
                nofollow = "nofollow" in (attributes.get("rel") or "").lower().split()
                yield Link(url, text, (reference or "").partition("#")[2].strip(), nofollow)

    def _reference(self, value: str) -> str | None:
        reference: str | None = value.strip() if self._strip else value
        if reference is not None and self._process_value is not None:
            reference = self._process_value(reference)
        return None if reference is None or reference.lstrip().startswith("#") else reference

    def _elements(self, response: Response) -> Iterator[LexborNode]:
        seen: set[int] = set()
        if not (self._css or self._xpaths):
            for node in response.html.css(self._query):
                if node.mem_id not in seen:  # it may match two of several selectors
                    seen.add(node.mem_id)
                    yield node
            return
        regions = [region for query in self._css for region in response.css(query)]
        regions += [region for query in self._xpaths for region in response.xpath(query)]
        for region in regions:
            for found in region.css(self._query):
                element = found.root
                if not isinstance(element, str) and element.mem_id not in seen:  # regions may hold one another
                    seen.add(element.mem_id)
                    yield element

    def __repr__(self) -> str:
        return f"<LinkExtractor {self._query} {self._accepted!r}>"


class _Accepted(dict[str, bool]):
    """What the conditions say of a URL, each asked once."""

    __slots__ = ("_allow", "_allow_domains", "_deny", "_deny_domains", "_endings", "_long_endings")

    def __init__(
        self,
        allow: tuple[re.Pattern[str], ...],
        deny: tuple[re.Pattern[str], ...],
        allow_domains: frozenset[str],
        deny_domains: frozenset[str],
        extensions: tuple[str, ...],
    ) -> None:
        self._allow, self._deny = allow, deny
        self._allow_domains, self._deny_domains = allow_domains, deny_domains
        endings = {extension.lower().lstrip(".") for extension in extensions}
        self._endings = frozenset(endings)
        self._long_endings = tuple(f".{ending}" for ending in endings if "." in ending)

    def __missing__(self, url: str) -> bool:
        if len(self) >= _REMEMBERED:
            self.clear()
        self[url] = accepted = self._is_accepted(url)
        return accepted

    def _is_accepted(self, url: str) -> bool:
        if self._allow and not any(pattern.search(url) for pattern in self._allow):
            return False
        if self._deny and any(pattern.search(url) for pattern in self._deny):
            return False
        if self._allow_domains or self._deny_domains:
            host = urls.hostname(url)
            if self._allow_domains and not urls.in_domains(host, self._allow_domains):
                return False
            if self._deny_domains and urls.in_domains(host, self._deny_domains):
                return False
        path = url.partition("?")[0]
        name = path[path.rfind("/") + 1 :]
        if "%" in name:
            name = unquote(name)
        if "." not in name:
            return True
        name = name.lower()
        return not (name.rpartition(".")[2] in self._endings or name.endswith(self._long_endings))

    def __repr__(self) -> str:
        allow, deny = ([pattern.pattern for pattern in patterns] for patterns in (self._allow, self._deny))
        return f"allow={allow} deny={deny}"


_WORDS = re.compile(r"[\w\s.#>+~,-]+", re.ASCII)
"""A selector of names alone: there each comma stands between two selectors."""
_LAST = re.compile(r"([A-Za-z][\w-]*)?([.#\w-]*)$", re.ASCII)


def _inside(region: str, tags: tuple[str, ...], attrs: tuple[str, ...]) -> str:
    """A selector for the links in or at a region: one walk through the page, where a query in each region takes one
    each."""
    queries = [f"{region} {tag}[{attr}]" for tag in tags for attr in attrs]
    last = _LAST.search(region)
    if last is not None and last[0]:
        at = region[: last.start()]
        kinds = [tag for tag in tags if last[1] in (None, tag)]
        queries += [f"{at}{tag}{last[2]}[{attr}]" for tag in kinds for attr in attrs]
    return ", ".join(queries)


def _texts(given: Texts) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _patterns(given: Patterns) -> tuple[re.Pattern[str], ...]:
    if isinstance(given, (str, re.Pattern)):
        given = (given,) if given else ()
    return tuple(re.compile(pattern) for pattern in given)
