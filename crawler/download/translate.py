"""The border: errors of aiohttp, the operating system, TLS and asyncio come in, `crawler.errors` go out.

What talking to a server can raise is an instance of `FOREIGN`; anything else is a bug, and passes as it is. The words
of a message are ours, or those of a library about itself. aiohttp's messages are not taken over whole, because some
contain the URL with its password; what a server sent is quoted short and without control characters.
"""

from __future__ import annotations

import errno
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import aiohttp
from aiohttp import client_exceptions, http_exceptions
from aiohttp.http_websocket import WebSocketError

from crawler import errors
from crawler.download.deadlines import TooSlow
from crawler.download.resolve import AddressBlocked, NameNotResolved
from crawler.download.tls import CertificateNotPinned
from crawler.download.wire import StaleConnection
from crawler.errors import (
    BlockedError,
    BodyError,
    ConnectError,
    DNSError,
    FetchError,
    ProtocolError,
    RedirectError,
    TLSError,
)
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FOREIGN", "translate"]

FOREIGN: Final[tuple[type[Exception], ...]] = (
    aiohttp.ClientError,
    aiohttp.WSMessageTypeError,
    http_exceptions.HttpProcessingError,
    WebSocketError,
    OSError,  # ssl.SSLError and asyncio.TimeoutError among them
)
"""For the `except` clause around what talks to a server. Where a request is built, `ValueError` belongs beside it: that
is aiohttp's and yarl's word for one that cannot be written down, and `translate` knows it too."""

_QUOTED_CHARS: Final = 200

_REFUSED: Final = frozenset({errno.ECONNREFUSED})
_RESET: Final = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})
_UNREACHABLE: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)

# X509_V_ERR_... of OpenSSL's x509_vfy.h, which Python gives as `verify_code`.
_CERTIFICATE_REASONS: Final = {
    9: "tls_expired",  # not yet valid
    10: "tls_expired",
    18: "tls_self_signed",
    19: "tls_self_signed",  # somewhere above the server's own
    2: "tls_untrusted",
    20: "tls_untrusted",
    21: "tls_untrusted",
    27: "tls_untrusted",
    62: "tls_wrong_host",
    64: "tls_wrong_host",  # an IP address
}
_TLS_VERSION: Final = frozenset(
    {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "VERSION_TOO_LOW", "WRONG_SSL_VERSION"}
)
"""What OpenSSL says where the two have no version in common. `WRONG_VERSION_NUMBER` is another thing: mostly a server
that does not speak TLS at all."""


class _Meaning(NamedTuple):
    """What a foreign error is here. `retryable` None leaves it to the class."""

    error: type[FetchError]
    reason: str
    words: str
    retryable: bool | None = None


def translate(error: BaseException, url: str) -> FetchError:
    """The `FetchError` for what was raised while `url` was fetched; the caller raises it `from error`.

    A `FetchError` comes back as it is. The message shows `url` without user and password. Raises `TypeError` for what
    is neither among `FOREIGN` nor a `ValueError`.
    """
    if isinstance(error, StaleConnection):
        error = error.__cause__ or error
    carried = getattr(error, "os_error", error)  # by aiohttp's ClientConnectorError
    if isinstance(carried, AddressBlocked):
        meaning = _Meaning(BlockedError, carried.reason, str(carried))
    elif isinstance(carried, NameNotResolved):
        meaning = _Meaning(DNSError, carried.reason, str(carried), carried.retryable)
    elif isinstance(error, FetchError):
        return error
    else:
        meaning = _look_up(error)
    return meaning.error(f"{meaning.words}: {redact(url)}", reason=meaning.reason, retryable=meaning.retryable)


def _look_up(error: BaseException) -> _Meaning:
    for kind, meaning in _TABLE:
        if isinstance(error, kind):
            return meaning(error) if callable(meaning) else meaning
    raise TypeError(f"not an error of a request: {type(error).__name__}") from error


# -- those whose class does not say it all -----------------------------------------------------------------------------


def _proxy_said(error: client_exceptions.ClientHttpProxyError) -> _Meaning:
    # 407 and its like stay as they are; a proxy that is overloaded or could not connect may do better later.
    words = f"the proxy answered {error.status} {_quoted(error.message)}"
    reason = "proxy" if error.status == 407 else "proxy_tunnel"  # it does not know us, or could not reach the site
    return _Meaning(ConnectError, reason, words, retryable=error.status >= 500 or error.status == 429)


def _proxy_not_reached(error: client_exceptions.ClientProxyConnectionError) -> _Meaning:
    return _Meaning(ConnectError, "proxy", f"no connection to the proxy ({_system_words(error.os_error)})")


def _bad_certificate(error: BaseException) -> _Meaning:
    cause = getattr(error, "certificate_error", error)
    if isinstance(cause, CertificateNotPinned):
        return _Meaning(TLSError, "tls_fingerprint", f"the certificate is not the pinned one ({cause.strerror})")
    reason = _CERTIFICATE_REASONS.get(getattr(cause, "verify_code", 0), "tls_certificate")
    return _Meaning(TLSError, reason, f"certificate not accepted ({_tls_words(cause)})")


def _bad_handshake(error: BaseException) -> _Meaning:
    cause = getattr(error, "os_error", error)
    was_cut = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    reason = "tls_version" if getattr(cause, "reason", None) in _TLS_VERSION else "tls"
    return _Meaning(TLSError, reason, f"TLS failed ({_tls_words(cause)})", retryable=was_cut)


def _not_connected(error: client_exceptions.ClientConnectorError) -> _Meaning:
    cause = error.os_error
    if cause.errno == errno.ETIMEDOUT:
        return _Meaning(errors.TimeoutError, "connect_timeout", "the connection timed out")
    return _system_error(cause)


def _system_error(error: OSError) -> _Meaning:
    if isinstance(error.__cause__, ssl.SSLError):
        return _bad_handshake(error.__cause__)
    words = _system_words(error)
    if error.errno in _REFUSED or isinstance(error, ConnectionRefusedError):
        return _Meaning(ConnectError, "connect_refused", f"connection refused ({words})")
    if error.errno in _RESET or isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return _Meaning(ConnectError, "connect_reset", f"connection reset ({words})")
    if error.errno in _UNREACHABLE:
        return _Meaning(ConnectError, "connect_unreachable", f"no way there ({words})")
    if error.errno == errno.ETIMEDOUT:
        return _Meaning(errors.TimeoutError, "read_timeout", "the connection timed out")
    return _Meaning(ConnectError, "connect", f"no connection ({words})")


def _connection_failed(error: BaseException) -> _Meaning:
    # TLS with the target within TLS with a proxy: where it fails, asyncio of Python 3.11 trips over that, and aiohttp
    # takes the `TypeError` for a transport that cannot do it.
    cause = error.__cause__
    if isinstance(cause, TypeError) and isinstance(cause.__context__, ssl.SSLError):
        return _look_up(cause.__context__)
    return _Meaning(ConnectError, "connect", "the connection failed")


def _timed_out(error: OSError) -> _Meaning:
    # The operating system's time-outs have a number; a bare TimeoutError is aiohttp's `total`.
    return _system_error(error) if error.errno is not None else _TOTAL_TIMEOUT


def _half_a_body(error: BaseException) -> _Meaning:
    if isinstance(error.__cause__, http_exceptions.ContentEncodingError):
        return _BROKEN_CODING
    return _Meaning(BodyError, "body_truncated", f"the body was cut short ({_quoted(str(error.__cause__ or error))})")


def _not_http(error: BaseException) -> _Meaning:
    return _Meaning(ProtocolError, "protocol", f"not HTTP ({_quoted(getattr(error, 'message', '') or str(error))})")


def _no_websocket(error: client_exceptions.WSServerHandshakeError) -> _Meaning:
    words = f"no WebSocket: {error.status} {_quoted(error.message)}"
    return _Meaning(ProtocolError, "protocol", words, retryable=error.status >= 500 or error.status == 429)


def _bad_url(error: BaseException) -> _Meaning:
    # The description only: the rest of the message is the URL.
    words = _quoted(getattr(error, "description", None) or "not a URL that can be fetched")
    return _Meaning(BlockedError, "blocked", words)


_TOTAL_TIMEOUT: Final = _Meaning(errors.TimeoutError, "total_timeout", "not done within the time limit")
_BROKEN_CODING: Final = _Meaning(BodyError, "body_encoding", "the body's content coding is broken", retryable=False)

_Row: TypeAlias = "tuple[type[BaseException], _Meaning | Callable[..., _Meaning]]"

_TABLE: Final[tuple[_Row, ...]] = (
    # The first that fits counts: a class stands before its bases, and the roots last.
    (client_exceptions.ClientConnectorCertificateError, _bad_certificate),
    (client_exceptions.ClientConnectorSSLError, _bad_handshake),
    (client_exceptions.ClientSSLError, _bad_handshake),
    (client_exceptions.ClientConnectorDNSError, _Meaning(DNSError, "dns_failed", "the name did not resolve")),
    (client_exceptions.ClientProxyConnectionError, _proxy_not_reached),
    (client_exceptions.UnixClientConnectorError, _not_connected),
    (client_exceptions.ClientConnectorError, _not_connected),
    (client_exceptions.ClientConnectionResetError, _Meaning(ConnectError, "connect_reset", "connection reset")),
    (client_exceptions.ClientOSError, _system_error),
    (
        client_exceptions.ServerFingerprintMismatch,
        _Meaning(TLSError, "tls_fingerprint", "the certificate is not the pinned one"),
    ),
    (client_exceptions.ServerDisconnectedError, _Meaning(ProtocolError, "disconnected", "the server hung up")),
    (
        client_exceptions.ConnectionTimeoutError,
        _Meaning(errors.TimeoutError, "connect_timeout", "no connection in time"),
    ),
    (TooSlow, _Meaning(errors.TimeoutError, "too_slow", "the body comes too slowly")),
    (client_exceptions.SocketTimeoutError, _Meaning(errors.TimeoutError, "read_timeout", "the server stopped sending")),
    (client_exceptions.ServerTimeoutError, _Meaning(errors.TimeoutError, "read_timeout", "the server took too long")),
    (client_exceptions.ServerConnectionError, _Meaning(ProtocolError, "disconnected", "the server hung up")),
    (client_exceptions.ClientPayloadError, _half_a_body),
    (
        client_exceptions.UploadAbortedError,
        _Meaning(ProtocolError, "disconnected", "the server did not take the whole request"),
    ),
    (client_exceptions.ClientHttpProxyError, _proxy_said),
    (client_exceptions.WSServerHandshakeError, _no_websocket),
    (client_exceptions.TooManyRedirects, _Meaning(RedirectError, "redirect_limit", "too many redirects")),
    (
        client_exceptions.NonHttpUrlRedirectClientError,
        _Meaning(RedirectError, "redirect_scheme", "redirected to something that is not http(s)"),
    ),
    (
        client_exceptions.RedirectClientError,
        _Meaning(RedirectError, "redirect_location", "redirected to something that is not a URL"),
    ),
    (client_exceptions.ContentTypeError, _not_http),
    (client_exceptions.ClientResponseError, _not_http),
    (client_exceptions.NonHttpUrlClientError, _Meaning(BlockedError, "blocked", "not an http(s) URL")),
    (client_exceptions.InvalidURL, _bad_url),
    (client_exceptions.WSMessageTypeError, _Meaning(ProtocolError, "protocol", "a WebSocket message of another type")),
    (WebSocketError, _Meaning(ProtocolError, "protocol", "not the WebSocket protocol")),
    (http_exceptions.ContentEncodingError, _BROKEN_CODING),
    (
        http_exceptions.DecompressSizeError,
        _Meaning(BodyError, "body_too_large", "the body is too large decoded", retryable=False),
    ),
    (http_exceptions.ContentLengthError, _Meaning(BodyError, "body_truncated", "the body was cut short")),
    (http_exceptions.BadHttpMessage, _not_http),
    (ssl.SSLCertVerificationError, _bad_certificate),
    (ssl.SSLError, _bad_handshake),
    # The roots, for classes that a later aiohttp may bring; the order matters between them no more.
    (client_exceptions.ClientConnectionError, _connection_failed),
    (client_exceptions.ClientError, _Meaning(FetchError, "fetch", "the request failed")),
    (http_exceptions.HttpProcessingError, _not_http),
    (TimeoutError, _timed_out),
    (OSError, _system_error),
    (ValueError, _Meaning(BlockedError, "blocked", "not a request that can be sent")),
)


# -- words -------------------------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    """What may come from a server, on one line and harmless on a terminal."""
    line = " ".join(text.split()).removesuffix(" ^")  # the caret pointed into the line above it
    plain = "".join(character if character.isprintable() else "?" for character in line)
    return plain if len(plain) <= _QUOTED_CHARS else plain[:_QUOTED_CHARS] + "…"


def _system_words(error: OSError) -> str:
    return _quoted(error.strerror or str(error) or type(error).__name__)


def _tls_words(error: BaseException) -> str:
    """OpenSSL's own: "self-signed certificate", "WRONG_VERSION_NUMBER"."""
    return _quoted(getattr(error, "verify_message", "") or getattr(error, "reason", None) or type(error).__name__)
