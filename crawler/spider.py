"""`Spider`, what people subclass."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import types
import typing
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from crawler.attempt import Attempt, summary
from crawler.errors import BlockedError, CallbackError, CrawlerError, FetchError, SettingsError
from crawler.request import Request
from crawler.settings.masking import masked
from crawler.url import redact

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import aiohttp

    from crawler.contracts import Middleware
    from crawler.cookies import Cookies
    from crawler.response import Response
    from crawler.robots import Robots

__all__ = ["Failure", "Services", "Spider", "callback_of", "missing_callback"]


_WEBSOCKET_SCHEME = re.compile(r"^[\x00-\x20]*ws(?=s?:)", re.IGNORECASE)
_HANDSHAKE = (
    "headers", "cookies", "session", "params", "auth", "proxy", "proxy_auth", "tls", "encoded", "skip_auto_headers",
    "server_hostname",
)  # fmt: skip
"""Options of a WebSocket that are its handshake's."""


class RequestInfo(NamedTuple):
    """A request as it went out. `headers` are case-insensitive; credentials and cookies in them and in `url` are
    `***`."""

    url: str
    method: str
    headers: CIMultiDictProxy[str]


class Failure(msgspec.Struct, frozen=True):
    """What an errback gets: a request that did not end in its callback.

    `reason` is a stable word (`"status_404"`, `"connect_refused"`, `"callback_error"`, ...); `error` the exception;
    `response` the answer where there was one; `attempts` how often it was sent; `history` what came of each, oldest
    first, the last one included. Of more than 20 the first and the last ten are kept.
    """

    request: Request
    reason: str
    error: Exception
    response: Response | None = None
    attempts: int = 1
    history: tuple[Attempt, ...] = ()

    @property
    def request_info(self) -> RequestInfo:
        """What was sent, with its secrets hidden: safe to log."""
        sent = getattr(self.error, "request_headers", None)
        if self.response is not None:
            sent = self.response.request_headers
        request = self.request if self.response is None else self.response.request
        headers = masked("headers", sent or request.headers)
        return RequestInfo(redact(request.url), request.method, CIMultiDictProxy(CIMultiDict(headers)))

    @property
    def value(self) -> Exception:
        """Scrapy's word for `error`."""
        return self.error

    def check(self, *types: type[Exception]) -> type[Exception] | None:
        """The first of these types that the error is an instance of, as Scrapy's `failure.check`."""
        return next((kind for kind in types if isinstance(self.error, kind)), None)

    def __repr__(self) -> str:
        return f"<Failure {self.reason} {self.request!r}>"


class Services(Protocol):
    """What a running crawl lends its spider."""

    stats: Any
    logger: logging.Logger
    settings: Any
    job: Any

    async def fetch(self, request: Request) -> Response: ...

    async def robots(self, request: Request) -> Robots: ...

    def websocket(self, request: Request, **options: Any) -> AbstractAsyncContextManager[Any]: ...

    def cookies(self, session: str | None, url: str | None) -> Cookies: ...


class Spider:
    """A crawl's own part: where it starts and what it does with each page.

    Subclass it, give it a `name`, and define `parse(response)`. Keyword arguments (`-a name=value`) become attributes;
    one that the class annotates is converted to its type, and a wrong value is a `SettingsError`.
    """

    name: ClassVar[str] = ""
    start_urls: Sequence[str] = ()
    """Where the default `start()` begins."""
    allowed_domains: str | Sequence[str] = ()
    """Hosts to stay on, or the only one; a domain covers its subdomains. Empty: no limit."""
    allow: str | re.Pattern[str] | Sequence[str | re.Pattern[str]] = ()
    """Regular expressions searched in the absolute URL of everything that is to be fetched, start requests and targets
    of redirects too: one has to be found. Empty: no limit."""
    deny: str | re.Pattern[str] | Sequence[str | re.Pattern[str]] = ()
    """None of these may be found; it wins over `allow`."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings for this spider, nested as in the settings file; environment and command line override them."""
    pipelines: Sequence[Any] = ()
    """Objects (or classes, made without arguments) with `process_item(item, spider)`, in order."""
    middlewares: Sequence[Middleware] = ()
    """Functions `async (request, fetch) -> Response`; the first is outermost."""
    trace_configs: Sequence[aiohttp.TraceConfig] = ()
    """aiohttp's client tracing, for every request of the crawl. It costs as much as a fifth of a request."""

    _services: Services | None = None

    def __init__(self, **arguments: Any) -> None:
        hints = _annotations(type(self)) if arguments else {}
        for name, value in arguments.items():
            if callable(getattr(Spider, name, None)) or name.startswith("_"):
                raise SettingsError(
                    f"argument {name} of spider {self.name!r} would replace what Spider itself has there"
                )
            setattr(self, name, _converted(self.name, name, value, hints))

    # -- for subclasses to define ------------------------------------------------------------------------------------

    async def start(self) -> AsyncIterator[Any]:
        """The first requests (and items, if there are any). Default: one request for each of `start_urls`."""
        if isinstance(self.start_urls, str):
            raise CrawlerError(f"start_urls of spider {self.name!r} is a string; it must be a list of URLs")
        for url in self.start_urls:
            yield self.request(url)

    def parse(self, response: Response) -> Any:
        """The default callback: items, requests, what `follow_all` returns, or None."""
        raise NotImplementedError(
            f"spider {self.name!r} needs a method parse(self, response), or callbacks on its requests"
        )

    def failed(self, failure: Failure) -> Any:
        """The default errback: logs what the network did (a callback's exception is logged already). May give what a
        callback may."""
        if isinstance(failure.error, BlockedError):  # counted, and nothing is wrong
            self.logger.debug("%s: %s", failure.reason, failure.error)
        elif isinstance(failure.error, FetchError):
            tried = f" (tried {failure.attempts} times: {summary(failure.history, failure.attempts)})"
            self.logger.warning("%s: %s%s", failure.reason, failure.error, tried if len(failure.history) > 1 else "")

    async def opened(self) -> None:
        """Runs before the first request."""

    async def closed(self, reason: str) -> None:
        """Runs after the last page; `reason` as in `stats.json`."""

    # -- for subclasses to call --------------------------------------------------------------------------------------

    def request(self, url: str, callback: Any = None, **options: Any) -> Request:
        """A `Request` with this spider's callback; takes all of `Request`'s arguments."""
        return Request(url, callback, **options)

    async def fetch(self, request: str | Request) -> Response:
        """Fetch inline, with the crawl's politeness, limits, cookies and middlewares; any status comes back.

        Takes everything, bodies that cannot be stored too. Raises `FetchError`.
        """
        return await self._running().fetch(Request(request) if isinstance(request, str) else request)

    async def robots(self, url: str | Request) -> Robots:
        """The robots.txt of the host of `url`, as the crawl itself has it: `.sitemaps`, `.crawl_delay`, `.check(url)`.

        Fetched in the host's turn where it is not known, once however many ask. Raises `FetchError` where the host
        cannot be reached or answers 5xx (RFC 9309, 2.3.1.4).
        """
        return await self._running().robots(Request(url) if isinstance(url, str) else url)

    def websocket(
        self, url: str | Request, **options: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """`async with self.websocket(url) as ws`: aiohttp's `ClientWebSocketResponse`, over the crawl's connections.

        `url` is ws(s) or http(s). Options that a `Request` has (`headers`, `cookies`, `session`, `params`, `auth`,
        `proxy`, `tls`, ...) mean what they mean there, `ssl` is `tls`, and a `timeout` in seconds or as
        `aiohttp.ClientTimeout` is the handshake's; the others are those of aiohttp's `ws_connect`. Raises `FetchError`.
        """
        if "ssl" in options:
            options["tls"] = options.pop("ssl")
        handshake = {name: options.pop(name) for name in _HANDSHAKE if name in options}
        if "timeout" in options and not hasattr(options["timeout"], "ws_close"):
            handshake["timeout"] = options.pop("timeout")
        if isinstance(url, str):
            request = Request(_WEBSOCKET_SCHEME.sub("http", url, count=1), **handshake)
        else:
            request = url.replace(**handshake)
        return self._running().websocket(request, **options)

    def cookies(self, session: str | None = None, url: str | None = None) -> Cookies:
        """The cookies of a session, None being the default one, as they are now; with `url`, those that a request there
        would carry. Iterate it for `Cookie`s, or ask it by name: `self.cookies("anna")["sid"]`."""
        return self._running().cookies(session, url)

    @property
    def logger(self) -> logging.Logger:
        """Writes to the console and to the job's `crawl.log`."""
        return logging.getLogger(f"crawler.spider.{self.name}")

    def log(self, message: object, level: int = logging.DEBUG) -> None:
        """Scrapy's shorthand for `self.logger.log`."""
        self.logger.log(level, "%s", message)

    @property
    def stats(self) -> Any:
        """The crawl's counters: `self.stats.count("my_counter")`; they end up in `stats.json` under `custom`."""
        return self._running().stats

    @property
    def job(self) -> Any:
        """The job folder as a `Path`, or None for a crawl without one."""
        return self._running().job

    def _running(self) -> Services:
        if self._services is None:
            raise RuntimeError(f"spider {self.name!r} is not running: this works inside a crawl only")
        return self._services

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def callback_of(spider: Spider, name: str) -> Callable[..., Any]:
    """The method that a request names. The one place where a name out of a record becomes something that is called: it
    has to be a method of the spider's class, and none of those by which `Spider` itself works.

    Raises `CallbackError`.
    """
    if not _is_callback(type(spider), name):
        raise CallbackError(f"spider {spider.name!r} has no method {name!r} for a request to name")
    method: Callable[..., Any] = getattr(spider, name)
    return method


def missing_callback(spider: Spider, request: Request) -> str:
    """The name of a callback or errback that is none; empty where all are."""
    for name in (request.callback, request.errback):
        if name and not _is_callback(type(spider), name):
            return name
    return ""


def _names_callback(cls: type, name: str) -> bool:
    if name.startswith("__") or name in _NO_CALLBACKS:
        return False
    found = next((vars(owner)[name] for owner in cls.__mro__ if name in vars(owner)), None)
    return isinstance(found, _WRAPPED) or (callable(found) and not isinstance(found, type))


_is_callback: Callable[[type, str], bool] = functools.lru_cache(maxsize=1024)(_names_callback)
_WRAPPED = (classmethod, functools.partialmethod, functools.singledispatchmethod)
"""Methods that are not callable themselves."""
_NO_CALLBACKS = frozenset(vars(Spider)) - {"parse", "failed"}


def _annotations(cls: type) -> dict[str, Any]:
    """The types of a spider's own class attributes, and of those two of `Spider` that are arguments as well. Each is
    read alone: one that only type checkers can resolve must not keep the others from being converted."""
    hints: dict[str, Any] = {"start_urls": tuple[str, ...], "allowed_domains": tuple[str, ...]}
    for owner in reversed(cls.__mro__):
        if owner in (Spider, object):
            continue
        for name, hint in inspect.get_annotations(owner).items():
            alone = type("Alone", (), {"__annotations__": {name: hint}, "__module__": owner.__module__})
            try:
                hints.update(typing.get_type_hints(alone, localns=dict(vars(owner))))
            except (NameError, TypeError):
                hints.pop(name, None)
    return hints


def _converted(spider: str, name: str, value: Any, hints: Mapping[str, Any]) -> Any:
    kind = hints.get(name)
    if kind is None or not isinstance(value, str):
        return value
    if typing.get_origin(kind) is ClassVar:
        (kind,) = typing.get_args(kind)
    try:
        return msgspec.convert(_as_given(value, kind), kind, strict=False, dec_hook=_made)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise SettingsError(
            f"argument {name} of spider {spider!r}: {value!r} is not {_named(kind)} ({error})"
        ) from error


def _as_given(value: str, kind: Any) -> Any:
    """Text in the shape of its type: several values are separated by commas, a dict is a JSON object."""
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = [typing.get_origin(each) or each for each in (typing.get_args(kind) if is_union else (kind,))]
    if str in kinds:
        return value
    if type(None) in kinds and not value.strip():
        return None
    for each in kinds:
        if each is bool:
            return _WORDS.get(value.strip().lower(), value)
        if isinstance(each, type) and issubclass(each, Mapping):
            return msgspec.json.decode(value)
        if isinstance(each, type) and issubclass(each, Sequence | Set) and not issubclass(each, str | bytes):
            return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _made(kind: type, value: Any) -> Any:
    """A `Path`, and whatever else is made of a text."""
    return value if isinstance(value, kind) else kind(value)


_WORDS = {"yes": True, "no": False}
"""Beside those that msgspec knows; as in the settings."""


def _named(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
