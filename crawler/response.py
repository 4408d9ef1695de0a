"""`Response`: what came back, read lazily. Text, HTML tree and selectors are made when first asked for, and once."""

from __future__ import annotations

import codecs
import contextlib
import copy
import os.path
import re
from typing import TYPE_CHECKING, Any

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from crawler import directives
from crawler import encoding as encodings
from crawler import url as urls
from crawler.directives import Directives, Reader
from crawler.errors import BodyError
from crawler.file_names import name_of
from crawler.links import Links, Patterns
from crawler.markup import TINY_BYTES, is_bounded, is_plain, is_small
from crawler.references import attribute_of, reference_of, references_of
from crawler.request import NO_HEADERS, Hop, Request, Unfollowed
from crawler.selector import Selector, SelectorList

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextlib import AbstractContextManager
    from http.cookies import SimpleCookie
    from os import PathLike

    import aiohttp
    from selectolax.lexbor import LexborHTMLParser, LexborNode

    from crawler.fate import Revisit
    from crawler.form import Form

__all__ = ["Response", "SavedFile"]

_BASE_ELEMENT = re.compile(rb"<base", re.IGNORECASE).search
_NOBODY = Reader()


class SavedFile(msgspec.Struct, frozen=True):
    """A body on disk: where, how many bytes, and their SHA-256 in hex; how many of them were there from an earlier,
    interrupted download."""

    path: str
    bytes: int
    sha256: str
    resumed_from: int = 0


class Response:
    """One answer.

    `url` is where it came from after redirects, which `history` lists, oldest first. `body` is decoded from its
    content coding; with `stream=True` it is empty and `content` is an `aiohttp.StreamReader`. `elapsed_seconds` runs
    from the start to the last byte (of the headers, when streaming), `connect_seconds` until the request was sent:
    name, connection and TLS, next to nothing on a connection that was open.
    """

    __slots__ = (
        "_base_url",
        "_closers",
        "_cookies",
        "_encoding",
        "_html",
        "_json_loads",
        "_plain",
        "_reader",
        "_refetch",
        "_request_headers",
        "_robots",
        "_saver",
        "_selector",
        "_taken",
        "_text",
        "_unhurried",
        "body",
        "changed",
        "connect_seconds",
        "content",
        "elapsed_seconds",
        "from_cache",
        "headers",
        "history",
        "http_version",
        "ip_address",
        "next_request",
        "proxy",
        "raw_headers",
        "reason",
        "request",
        "status",
        "url",
        "validated",
    )

    def __init__(
        self,
        url: str,
        *,
        request: Request | None = None,
        status: int = 200,
        headers: CIMultiDictProxy[str] = NO_HEADERS,
        body: bytes = b"",
        reason: str = "",
        raw_headers: tuple[tuple[bytes, bytes], ...] = (),
        elapsed_seconds: float = 0.0,
        connect_seconds: float = 0.0,
        ip_address: str | None = None,
        http_version: str = "1.1",
        content: aiohttp.StreamReader | None = None,
        request_headers: CIMultiDictProxy[str] = NO_HEADERS,
        proxy: str | None = None,
    ) -> None:
        self.url = url
        self.request = request if request is not None else Request(url)
        self.status = status
        self.reason = reason
        self.headers = headers
        self.raw_headers = raw_headers
        self.body = body
        self.history: tuple[Hop, ...] = self.request.history
        self.elapsed_seconds = elapsed_seconds
        self.connect_seconds = connect_seconds
        self.ip_address = ip_address
        self.http_version = http_version
        self.from_cache = False
        self.content = content
        self.proxy = proxy
        """The proxy it came through, without user and password."""
        self.next_request: Request | None = None
        """A redirect to another host, not followed yet."""
        self.changed = True
        """Whether the body is another than at the last crawl (`crawler run --refresh`). False only where that is
        known: the same request had the same bytes."""
        self.validated: Revisit | None = None
        """Of a 304: what was known of the page, which the server says is as it was."""
        self._taken = request is None
        self._cookies: SimpleCookie | None = None
        self._request_headers = request_headers
        self._saver: Callable[[Response, str | PathLike[str], bool], Awaitable[SavedFile]] | None = None
        self._unhurried: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self._refetch: Callable[[Request], Awaitable[Response]] | None = None
        self._json_loads: Callable[[bytes], Any] | None = None
        self._closers: list[Callable[[], None]] = []
        self._encoding: str | None = None
        self._text: str | None = None
        self._html: LexborHTMLParser | None = None
        self._plain: bytes | None = None
        self._selector: Selector | None = None
        self._base_url: str | None = None
        self._reader = _NOBODY
        self._robots: Directives | None = None

    # -- the request's side ------------------------------------------------------------------------------------------

    @property
    def meta(self) -> dict[str, Any]:
        return self.request.meta

    @property
    def cb_kwargs(self) -> dict[str, Any]:
        return self.request.cb_kwargs

    @property
    def request_headers(self) -> CIMultiDictProxy[str]:
        """The headers of the request as they were sent, the automatic ones included; not those for a proxy."""
        if "Proxy-Authorization" not in self._request_headers:
            return self._request_headers
        return CIMultiDictProxy(
            CIMultiDict((k, v) for k, v in self._request_headers.items() if k.lower() != "proxy-authorization")
        )

    def taken_for(self, request: Request) -> Response:
        """This response, or a copy of it when it has been given to a callback before, or was made without a request: a
        middleware may keep answers and give them again, and a callback sees the request that asked now."""
        if not self._taken:
            self._taken = True
            return self
        again = copy.copy(self)
        again.request, again.from_cache, again._closers = request, True, []
        return again

    # -- the body ----------------------------------------------------------------------------------------------------

    @property
    def cookies(self) -> SimpleCookie:
        """Cookies that this answer set, as aiohttp has them: a `Morsel` by name. What the jar took of them is another
        question; `spider.cookies()` answers it."""
        if self._cookies is None:
            self._cookies = _as_morsels(self.headers.getall("Set-Cookie", ()))
        return self._cookies

    @property
    def encoding(self) -> str:
        """Python's name of the character encoding: byte order mark, header, `<meta>`, valid UTF-8, windows-1252."""
        if self._encoding is None:
            self._encoding = encodings.detect(self.body, self.headers.get("Content-Type"))
        return self._encoding

    @encoding.setter
    def encoding(self, name: str) -> None:
        codec = name if name in encodings.CODECS else encodings.label_to_codec(name)
        if codec is None:
            raise ValueError(f"{name!r} is not an encoding of the WHATWG Encoding Standard")
        if not {codec, self.encoding} <= encodings.ASCII_BASED:  # else its tags are where they were
            self._plain = None
        self._encoding, self._text, self._html, self._selector = codec, None, None, None

    @property
    def text(self) -> str:
        """The body as text; bytes that the encoding does not have become U+FFFD."""
        if self._text is None:
            self._text = encodings.decode(self.body, self.encoding)
        return self._text

    def json(self, *, loads: Callable[[bytes], Any] | None = None) -> Any:
        """The body as JSON (RFC 8259), read by `loads`, by `http.json_loads`, or by msgspec. Raises ValueError that
        shows the content type and the first bytes."""
        try:
            return (loads or self._json_loads or msgspec.json.decode)(self.body)
        except (ValueError, RecursionError) as error:  # msgspec's and the standard library's; what is too deep for them
            kind = self.headers.get("Content-Type", "no content type")
            raise ValueError(
                f"{urls.redact(self.url)} is not JSON ({error}); {kind}, begins {self.body[:60]!r}"
            ) from error

    @property
    def html(self) -> LexborHTMLParser:
        """The selectolax tree, parsed at most once.

        Of a page that came as HTML or XML, and would take long to parse, it is there already. Raises `BodyError` with
        reason `html_too_complex` for one that came as something else and cannot be parsed at once."""
        if self._html is None:
            if self._reader is not _NOBODY and not self._is_plain():
                kind = self.headers.get("Content-Type", "")
                raise BodyError(
                    f"{urls.redact(self.url)} came as {kind[:80]!r}, and is too complex to be parsed as HTML at once",
                    reason="html_too_complex",
                    retryable=False,
                )
            self.prepare()
        assert self._html is not None
        return self._html

    @property
    def is_dear(self) -> bool:
        """Whether it came as HTML or XML and parsing may take long, because of what it is or how much. Then it
        is to be parsed in a thread: `crawler.parsing`."""
        if len(self.body) <= TINY_BYTES or self._html is not None or self._plain is self.body:
            return False
        kind = self.headers.get("Content-Type", "html").lower()
        return ("html" in kind or "xml" in kind) and not self._is_plain()

    def _is_plain(self) -> bool:
        """Whether the body is known to be fit for the parser, or is so plain that it is."""
        body = self.body
        if self._plain is body:  # a middleware may have put another one there
            return True
        is_fit = is_small(body) or is_plain(body if self.encoding in encodings.ASCII_BASED else self.markup())
        if is_fit:
            self._plain = body
        return is_fit

    def prepare_if_bounded(self) -> bytes | None:
        """Parse now if that is sure to end by itself, which is enough for a thread. Else the `markup`, to be tried."""
        if self.encoding in encodings.ASCII_BASED and is_bounded(self.body):
            self.prepare()
            return None
        return self.markup()

    def prepare(self) -> None:
        """Parse now, whatever it takes."""
        from selectolax.lexbor import LexborHTMLParser

        self._html = LexborHTMLParser(self.body if self._is_clean_utf8() else self.text)
        self._plain = self.body

    def markup(self) -> bytes:
        """What the parser reads: UTF-8."""
        return self.body if self._is_clean_utf8() else self.text.encode("utf-8", "replace")

    def _is_clean_utf8(self) -> bool:
        """Whether the body is what the parser would make of the text: that is faster read than encoded again."""
        return self.encoding == "utf-8" and "\ufffd" not in self.text and not self.body.startswith(codecs.BOM_UTF8)

    @property
    def selector(self) -> Selector:
        """The whole page as a `Selector`."""
        if self._selector is None:
            self._selector = Selector.from_html(self.html)
        return self._selector

    def css(self, query: str) -> SelectorList:
        """Elements, or with `::text` and `::attr(name)` strings, in document order, with parsel's manners.

        Raises ValueError for a selector that is not CSS."""
        return self.selector.css(query)

    def xpath(self, query: str, **variables: Any) -> SelectorList:
        """As `css`, in XPath 1.0; needs the extra `crawler[xpath]`."""
        return self.selector.xpath(query, **variables)

    # -- what it asks of crawlers ------------------------------------------------------------------------------------

    @property
    def robots(self) -> Directives:
        """What the page asks of crawlers: `X-Robots-Tag`, and in HTML `<meta name="robots">`, as far as they are for
        everyone or for the crawl's product token. Read when first asked for; only a page whose head has the letters is
        parsed for it."""
        if self._robots is None:
            fields, token = self.headers.getall("X-Robots-Tag", ()), self._reader.token
            found: list[tuple[str, str]] = []
            if self.body and self._may_be_html() and directives.may_be_in(self.body, token):
                found = directives.metas(self.html, token)
            self._robots = directives.read(fields, found, token=token, now=self._reader.now())
        return self._robots

    @property
    def noindex(self) -> bool:
        """Whether the page asks not to be shown in search results; nothing in the crawler keeps to it by itself."""
        return self.robots.noindex

    @property
    def nofollow(self) -> bool:
        """Whether the page asks for its links not to be followed. `politeness.obey_nofollow` says whether the crawl
        keeps to it."""
        return self.robots.nofollow

    def read_by(self, reader: Reader) -> None:
        """From now on it is this one who asks for `robots`; done by the crawl."""
        self._reader, self._robots = reader, None

    def _may_be_html(self) -> bool:
        kind = self.headers.get("Content-Type")
        return kind is None or "html" in kind.lower()

    @property
    def _are_links_followed(self) -> bool:
        return not (self._reader.obeys_nofollow(urls.host_key(self.url)) and self.nofollow)

    # -- links -------------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """What relative references are resolved against: `<base href>` where the page has one, else `url`."""
        if self._base_url is None:
            self._base_url = self.url
            if _BASE_ELEMENT(self.body):  # a walk through the tree takes twice as long
                node = self.html.css_first("base[href]")
                href = node.attributes.get("href") if node is not None else None
                self._base_url = (href and urls.join(self.url, href, self.encoding)) or self.url
        return self._base_url

    def urljoin(self, ref: str) -> str:
        """`ref` as an absolute URL; its query is in the encoding of the page, as browsers have it. Raises `InvalidURL`
        (a ValueError) when it is none that a crawler fetches."""
        joined = urls.join(self.base_url, ref, self.encoding)
        return joined if joined is not None else urls.normalize(ref)

    def follow(self, ref: str | Selector | LexborNode, callback: Any = None, **request: Any) -> Request:
        """A `Request` for one link: a reference, or the selector of an element that has one (`a`, `link`, `img`,
        ...). On a page that asks for its links not to be followed, one that the crawl does not take
        (`politeness.obey_nofollow`). Raises TypeError for anything else, ValueError for what leads nowhere."""
        reference = ref if isinstance(ref, str) else reference_of(ref)
        if reference is None:
            raise ValueError(f"{ref!r} has no href or src to follow")
        return (Request if self._are_links_followed else Unfollowed)(self.urljoin(reference), callback, **request)

    def follow_all(
        self,
        links: str | Iterable[Any] = "a[href]",
        callback: Any = None,
        *,
        css: str | None = None,
        allow: Patterns = (),
        deny: Patterns = (),
        **request: Any,
    ) -> Links:
        """A batch of links, to be yielded whole or iterated.

        `links` is a CSS selector, selectors, or URLs; `css=` is Scrapy's spelling of the first. `allow` and `deny` are
        regular expressions searched in the absolute URL. Links that are not http(s), and fragments of this page,
        drop out. On a page that asks for its links not to be followed, the crawl takes none of them
        (`politeness.obey_nofollow`).
        """
        if css is not None:
            links = css
        references = self._references(links) if isinstance(links, str) else references_of(links)
        followed = self._are_links_followed
        return Links(
            self.base_url, references, callback, allow=allow, deny=deny, options=request, followed=followed,
            encoding=self.encoding,
        )  # fmt: skip

    def links(self, css: str = "a[href]") -> list[str]:
        """The absolute http(s) URLs of these elements, each once, in document order."""
        return Links(self.base_url, self._references(css), encoding=self.encoding).urls()

    def _references(self, query: str) -> list[str]:
        if "::" in query:
            return [text for text in self.css(query).getall() if text]
        attribute = attribute_of(query)
        if attribute is None:
            return references_of(self.html.css(query))
        nodes = self._with_base(query) if self._base_url is None else self.html.css(query)
        return [reference for node in nodes if (reference := node.attrs.get(attribute)) is not None]

    def _with_base(self, query: str) -> list[LexborNode]:
        """What the query finds; learns on the same walk through the tree, which is what a query costs, whether there
        is a `<base>`."""
        nodes = self.html.css(f"{query}, base[href]")
        if "base" in [node.tag for node in nodes]:
            return self.html.css(query)
        self._base_url = self.url
        return nodes

    # -- forms -------------------------------------------------------------------------------------------------------

    def form(self, css: str = "form", index: int = 0) -> Form:
        """The form that `css` selects, or that holds what it selects; the `index`-th of several, from 0.

        `form.fill(user="a", password="b")` is the request that a browser would send: hidden fields, method, action and
        the chosen button included. Raises ValueError that lists the page's forms when there is no such form.
        """
        from crawler.form import Form

        return Form.find(self, css, index)

    # -- streams -----------------------------------------------------------------------------------------------------

    async def save(self, path: str | PathLike[str], *, resume: bool = False) -> SavedFile:
        """Stream the body to `path`: a temporary file beside it, `http.max_file_bytes` kept, SHA-256 taken on the way,
        then an atomic rename. Works on any response; a body already read is written.

        With `resume` a download that breaks leaves what it has beside `path`, and the next one goes on from there by a
        Range request if the server still has the same file, which its ETag or Last-Modified says (RFC 9110, 13.1.5).

        Raises `BodyError` when it is too large or cut short, `TimeoutError` with reason `too_slow` when it is slower
        than `http.min_bytes_per_second`, `OutputError` when the disk fails, ValueError for a path
        that cannot be a file's. Without `resume` nothing is left behind.

        A path that is made of what a site says (a title, a URL's last part, `Content-Disposition`) leads wherever the
        site wants: let `save_in` name the file.
        """
        if self._saver is None:
            raise RuntimeError("a response that was not downloaded cannot be saved")
        with self._unhurried():
            return await self._saver(self, path, resume)

    async def save_in(self, folder: str | PathLike[str], *, resume: bool = False) -> SavedFile:
        """`save` into `folder`, under a name that nothing of the site's gets into: a hash of the URL that was asked
        for, so that it is the same at every visit, and a suffix from a list (`.pdf`, `.jpg`, ...) by URL or content
        type."""
        asked = self.history[0].url if self.history else self.url
        name = name_of(asked, self.url, self.headers.get("Content-Type", ""))
        return await self.save(os.path.join(folder, name), resume=resume)

    def close(self) -> None:
        """Give up a stream; its connection is closed. The crawler does so itself when the callback ends."""
        while self._closers:
            self._closers.pop()()

    def on_close(self, closer: Callable[[], None]) -> None:
        """Run this when the response is closed, last come first."""
        self._closers.append(closer)

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Response {self.status} {urls.redact(self.url)}>"


def _as_morsels(lines: Iterable[str]) -> SimpleCookie:
    from http.cookies import CookieError, Morsel, SimpleCookie

    cookies = SimpleCookie()
    for line in lines:
        (name, _, value), *attributes = (part.partition("=") for part in line.split(";"))
        morsel: Morsel[str] = Morsel()
        with contextlib.suppress(CookieError):  # a name that the standard library has no morsel for
            plain = value.strip()
            quoted = len(plain) > 1 and plain[0] == plain[-1] == '"'
            morsel.set(name.strip(), plain[1:-1] if quoted else plain, plain)
            for key, equals, given in attributes:
                with contextlib.suppress(CookieError):  # an attribute that nobody knows
                    morsel[key.strip()] = given.strip() if equals else True
            dict.__setitem__(cookies, morsel.key, morsel)
    return cookies
