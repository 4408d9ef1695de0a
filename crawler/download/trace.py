"""What a request does on the wire, told line by line as it happens, without its secrets: `crawler fetch --trace`.

Most of it aiohttp tells (`aiohttp.TraceConfig`). When TLS begins it does not: one event stands for TCP and TLS in one.
Python has a documented place for that, `ssl.SSLContext.sslobject_class`: of that class asyncio and uvloop alike make
the object that shakes hands, also behind a proxy's CONNECT. While a `Trace` is entered it is one that looks at a clock
as well, and that knows afterwards what was agreed on.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import ssl
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from crawler.download.translate import FOREIGN, translate
from crawler.errors import FetchError
from crawler.settings.masking import masked
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import yarl

__all__ = ["Trace"]

_USERINFO = re.compile(r"(?<=://)[^/?#\s<>\"']*@")
_PARAMETER = re.compile(r"([?&#])([^=?&#\s<>\"']+)=([^&#\s<>\"']*)")
_HIDDEN: Final = "***"


@dataclass(slots=True)
class _Handshake:
    began: float
    seconds: float | None = None
    """None: not finished."""


@dataclass(slots=True)
class _Exchange:
    """One request and its answer. Times are the clock's, `…_seconds` how long something took."""

    url: yarl.URL
    began: float
    proxy: str | None
    dns_began: float = 0.0
    dns_seconds: float | None = None
    connect_began: float = 0.0
    connect_seconds: float | None = None
    handshakes: list[_Handshake] = field(default_factory=list)
    sent_bytes: int = 0
    first_byte_seconds: float | None = None
    peer: str | None = None
    content: Any = None
    is_over: bool = False


class Trace:
    """`with Trace(write) as trace:`, and `trace.config` among the `trace_configs` of what fetches.

    `write` gets one line at a time, without its end. Lines begin as curl's do: `* ` for what happened, `> ` for the
    head of the request as it was sent, `< ` for that of the answer. Times are in milliseconds: DNS, connect and TLS
    are how long each took (connect: TCP, and a proxy's CONNECT), first byte (the whole head, to be exact) and total
    count from the start of the request; what did not happen, because a connection was open, is left out.

    Hidden behind `***` are the values of headers and of parameters in URLs whose names speak of secrets (Authorization,
    Cookie, Set-Cookie, `token=`, ...), and user and password in URLs. Nothing is escaped for a terminal: that is
    `write`'s. A proxy is named where the session is told of it by `trace_request_ctx=`, as a URL.

    For one request at a time: which handshake belongs to which of several, nobody could tell.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.perf_counter) -> None:
        self._write = write
        self._clock = clock
        self._exchange: _Exchange | None = None
        self._count = 0
        self._plain_class = ssl.SSLContext.sslobject_class
        self.config = config = aiohttp.TraceConfig()
        config.on_request_start.append(self._on_start)
        config.on_dns_resolvehost_start.append(self._on_resolve)
        config.on_dns_resolvehost_end.append(self._on_resolved)
        config.on_connection_create_start.append(self._on_connect)
        config.on_connection_create_end.append(self._on_connected)
        config.on_connection_reuseconn.append(self._on_reuse)
        config.on_request_headers_sent.append(self._on_head_sent)
        config.on_request_chunk_sent.append(self._on_body_sent)
        config.on_request_end.append(self._on_answer)
        config.on_request_exception.append(self._on_failure)

    def __enter__(self) -> Trace:
        self._plain_class = ssl.SSLContext.sslobject_class
        ssl.SSLContext.sslobject_class = _watched(self, self._plain_class)
        return self

    def __exit__(self, *exc: object) -> None:
        ssl.SSLContext.sslobject_class = self._plain_class
        self._leave()

    # -- what aiohttp tells --------------------------------------------------------------------------------------------

    async def _on_start(self, _: Any, context: Any, params: aiohttp.TraceRequestStartParams) -> None:
        self._leave()
        given = context.trace_request_ctx
        proxy = None if given is None else redact(str(given))
        self._exchange = _Exchange(params.url, self._clock(), proxy)
        self._count += 1
        self._say(f"request {self._count}: {params.method} {_shown(redact(str(params.url)))}")
        if proxy is not None:
            self._say(f"through the proxy {proxy}")

    async def _on_resolve(self, *_: Any) -> None:
        if (exchange := self._exchange) is not None:
            exchange.dns_began = self._clock()

    async def _on_resolved(self, _: Any, context: Any, params: aiohttp.TraceDnsResolveHostEndParams) -> None:
        if (exchange := self._exchange) is not None:
            exchange.dns_seconds = self._clock() - exchange.dns_began
            exchange.connect_began = self._clock()
            self._say(f"{params.host} resolved in {_ms(exchange.dns_seconds)}")

    async def _on_connect(self, *_: Any) -> None:
        if (exchange := self._exchange) is not None:
            exchange.connect_began = self._clock()

    async def _on_connected(self, *_: Any) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.connect_seconds is None:
            self._note_connected(exchange)

    async def _on_reuse(self, *_: Any) -> None:
        self._say("over the open connection")

    async def _on_head_sent(self, _: Any, context: Any, params: aiohttp.TraceRequestHeadersSentParams) -> None:
        proxy = None if self._exchange is None else self._exchange.proxy
        is_forwarded = proxy is not None and proxy.startswith("http") and params.url.scheme == "http"
        target = redact(str(params.url)) if is_forwarded else params.url.raw_path_qs  # RFC 9112, section 3.2.2
        self._tell(">", f"{params.method} {_shown(target)} HTTP/1.1", params.headers)

    async def _on_body_sent(self, _: Any, context: Any, params: aiohttp.TraceRequestChunkSentParams) -> None:
        if self._exchange is not None:
            self._exchange.sent_bytes += len(params.chunk)

    async def _on_answer(self, _: Any, context: Any, params: aiohttp.TraceRequestEndParams) -> None:
        exchange, answer = self._exchange, params.response
        if exchange is None:
            return
        exchange.first_byte_seconds = self._clock() - exchange.began
        exchange.peer = getattr(answer, "peer", None)
        exchange.content = answer.content
        if exchange.sent_bytes:
            self._say(f"{exchange.sent_bytes} bytes of body sent")
        version = answer.version
        number = "1.1" if version is None else f"{version.major}.{version.minor}"
        self._tell("<", f"HTTP/{number} {answer.status} {answer.reason or ''}".rstrip(), answer.headers)
        answer.content.on_eof(partial(self._on_body_end, exchange))

    def _on_body_end(self, exchange: _Exchange) -> None:
        if not exchange.is_over:
            exchange.is_over = True
            self._sum_up(exchange, f"total {_ms(self._clock() - exchange.began)}")

    async def _on_failure(self, _: Any, context: Any, params: aiohttp.TraceRequestExceptionParams) -> None:
        exchange = self._exchange
        if exchange is None or exchange.is_over:
            return
        exchange.is_over = True
        self._say(f"failed: {_shown(_words(params.exception, str(params.url)))}")
        self._sum_up(exchange, f"total {_ms(self._clock() - exchange.began)}")

    # -- what the handshake tells --------------------------------------------------------------------------------------

    def tls_began(self) -> None:
        """For the watched class: a handshake begins."""
        if (exchange := self._exchange) is not None:
            if not exchange.handshakes:
                self._note_connected(exchange)
            exchange.handshakes.append(_Handshake(self._clock()))

    def tls_ended(self, tls: ssl.SSLObject) -> None:
        """For the watched class: the latest handshake succeeded."""
        exchange = self._exchange
        if exchange is None or not exchange.handshakes:
            return
        latest = exchange.handshakes[-1]
        latest.seconds = self._clock() - latest.began
        cipher = tls.cipher()
        self._say(f"{tls.version()}, {cipher[0] if cipher else 'no cipher'}, in {_ms(latest.seconds)}")
        self._say(f"certificate {_certificate(tls)}")

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _note_connected(self, exchange: _Exchange) -> None:
        exchange.connect_seconds = self._clock() - exchange.connect_began
        self._say(f"connected in {_ms(exchange.connect_seconds)}")

    def _leave(self) -> None:
        """Whoever read the latest answer has no use for the rest of it."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not exchange.is_over:
            exchange.is_over = True
            self._sum_up(exchange, "not read to its end")

    def _sum_up(self, exchange: _Exchange, end: str) -> None:
        shaking = [handshake.seconds for handshake in exchange.handshakes if handshake.seconds is not None]
        steps = (
            ("DNS", exchange.dns_seconds),
            ("connect", exchange.connect_seconds),
            ("TLS", sum(shaking) if shaking else None),
            ("first byte", exchange.first_byte_seconds),
        )
        times = ", ".join([*(f"{name} {_ms(seconds)}" for name, seconds in steps if seconds is not None), end])
        came = ""
        if exchange.content is not None:
            peer = f" from {exchange.peer}" if exchange.peer else ""
            came = f"; {getattr(exchange.content, 'total_bytes', 0)} bytes of body{peer}"
        self._say(times + came)

    def _tell(self, mark: str, first_line: str, headers: Mapping[str, str]) -> None:
        self._write(f"{mark} {first_line}")
        for name, value in headers.items():
            self._write(f"{mark} {name}: {_shown(str(masked('headers', {name: value})[name]))}")
        self._write(mark)

    def _say(self, text: str) -> None:
        self._write(f"* {text}")


def _watched(trace: Trace, base: type[ssl.SSLObject]) -> type[ssl.SSLObject]:
    class Watched(base):  # type: ignore[valid-type, misc]
        """Says when it shakes hands as a client."""

        _began = False

        def do_handshake(self) -> None:
            if not self._began and not self.server_side:
                self._began = True
                trace.tls_began()
            super().do_handshake()  # raises until everything is there
            if not self.server_side:
                trace.tls_ended(self)

    return Watched


# -- words -------------------------------------------------------------------------------------------------------------


def _certificate(tls: ssl.SSLObject) -> str:
    """Whose, by whom, until when, and the hash that `tls="sha256:…"` takes."""
    digest = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
    fields: Mapping[str, Any] | None = tls.getpeercert()
    if not fields:  # Python reads those that were verified
        return f"not verified, sha256:{digest}"
    until = dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(fields["notAfter"]), dt.UTC)
    owner = _common_name(fields, "subject") or ", ".join(name for _, name in fields.get("subjectAltName", ()))
    return f"of {owner} by {_common_name(fields, 'issuer')}, until {until:%Y-%m-%d}, sha256:{digest}"


def _common_name(fields: Mapping[str, Any], whose: str) -> str:
    names = {name: value for part in fields.get(whose, ()) for name, value in part}
    return str(names.get("commonName") or names.get("organizationName") or "")


def _words(error: BaseException, url: str) -> str:
    if not isinstance(error, (*FOREIGN, ValueError, FetchError)):
        return type(error).__name__
    meant = translate(error, url)
    return f"{meant} ({meant.reason})"


def _shown(text: str) -> str:
    """A URL, or text that may have some in it, without user, password and what parameters with telling names hold."""
    return _PARAMETER.sub(_shown_parameter, _USERINFO.sub(f"{_HIDDEN}@", text))


def _shown_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}={_HIDDEN}" if _is_secret(found[2]) else found[0]


def _is_secret(name: str) -> bool:
    """As settings have it: by the name of a header, or of a parameter."""
    return bool(masked("headers", {name: ""})[name]) or str(masked("url", f"?{name}=")).endswith(f"={_HIDDEN}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
