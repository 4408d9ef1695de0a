"""The border: every foreign error becomes one of ours, with the right reason and without secrets."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from certificates import (
    AUTHORITY,
    CLIENT,
    EXPIRED,
    NOT_YET_VALID,
    SELF_SIGNED,
    SERVER,
    STRANGE_AUTHORITY,
    STRANGER,
    server_context,
)
from deaf_server import deaf_listener
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from crawler import errors
from crawler.download.body import read_body
from crawler.download.connect import make_connector
from crawler.download.resolve import Resolver
from crawler.download.tls import CertificateNotPinned, make_ssl_context
from crawler.download.translate import _TABLE, FOREIGN, translate
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
from crawler.guard import Guard
from crawler.testing.names import Address, DnsServer, Fail
from crawler.testing.raw import RawServer, answer, hang, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from crawler.testing.raw import Script

URL_WITH_SECRET = "http://user:hunter2@example.test/path?q=1"
KEY = Mock(host="h", port=80, ssl=True)
INFO = aiohttp.RequestInfo(URL(URL_WITH_SECRET), "GET", CIMultiDictProxy(CIMultiDict()), URL(URL_WITH_SECRET))
OK = b"HTTP/1.1 200 OK\r\n"
CAUGHT: tuple[type[Exception], ...] = (*FOREIGN, FetchError)


# -- completeness ------------------------------------------------------------------------------------------------------


def error_classes() -> list[type[BaseException]]:
    return [
        member
        for module in (client_exceptions, http_exceptions)
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, BaseException) and member.__module__ == module.__name__
    ]


ROOTS = {
    client_exceptions.ClientError,
    client_exceptions.ClientConnectionError,
    http_exceptions.HttpProcessingError,
    OSError,
    ValueError,
}
"""Too wide to say anything; in the table for what a later aiohttp may bring."""


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_of_aiohttp_has_a_meaning_of_its_own(kind: type[BaseException]) -> None:
    row = next((row for row, _ in _TABLE if issubclass(kind, row)), None)
    assert row is not None
    assert row not in ROOTS or kind in ROOTS
    assert issubclass(kind, FOREIGN)


def test_the_walk_sees_the_classes_it_is_about() -> None:
    assert len(error_classes()) > 40


def test_no_row_hides_behind_another() -> None:
    kinds = [kind for kind, _ in _TABLE]
    hidden = [
        (later, earlier) for at, later in enumerate(kinds) for earlier in kinds[:at] if issubclass(later, earlier)
    ]
    assert hidden == []


# -- single errors -----------------------------------------------------------------------------------------------------


def os_error(number: int) -> OSError:
    return OSError(number, "some words")


def disguised(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def not_trusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = 20
    return error


def tripped(over: Exception) -> TypeError:
    """What asyncio of Python 3.11 makes of a failed handshake within TLS."""
    error = TypeError("SSLProtocol._abort() takes 1 positional argument but 2 were given")
    error.__context__ = over
    return error


C = client_exceptions
H = http_exceptions
CASES: list[tuple[BaseException, type[FetchError], str, bool]] = [
    (C.ClientConnectorError(KEY, os_error(errno.ECONNREFUSED)), ConnectError, "connect_refused", True),
    (C.ClientConnectorError(KEY, ConnectionRefusedError()), ConnectError, "connect_refused", True),
    (C.ClientConnectorError(KEY, os_error(errno.ENETUNREACH)), ConnectError, "connect_unreachable", True),
    (C.ClientConnectorError(KEY, os_error(errno.EHOSTUNREACH)), ConnectError, "connect_unreachable", True),
    (C.ClientConnectorError(KEY, os_error(errno.ECONNRESET)), ConnectError, "connect_reset", True),
    (C.ClientConnectorError(KEY, ConnectionResetError()), ConnectError, "connect_reset", True),
    (C.ClientConnectorError(KEY, os_error(errno.ETIMEDOUT)), errors.TimeoutError, "connect_timeout", True),
    (C.ClientConnectorError(KEY, os_error(errno.EMFILE)), ConnectError, "connect", True),
    (C.ClientConnectorError(KEY, OSError("Multiple exceptions: ...")), ConnectError, "connect", True),
    (C.UnixClientConnectorError("/s", KEY, os_error(errno.ENOENT)), ConnectError, "connect", True),
    (C.UnixClientConnectorError("/s", KEY, os_error(errno.ECONNREFUSED)), ConnectError, "connect_refused", True),
    (C.ClientConnectorDNSError(KEY, socket.gaierror(-2, "unknown")), DNSError, "dns_failed", True),
    (C.ClientProxyConnectionError(KEY, os_error(errno.ECONNREFUSED)), ConnectError, "proxy", True),
    (C.ClientHttpProxyError(INFO, (), status=407, message="no"), ConnectError, "proxy", False),
    (C.ClientHttpProxyError(INFO, (), status=502, message="no"), ConnectError, "proxy_tunnel", True),
    (C.ClientHttpProxyError(INFO, (), status=403, message="no"), ConnectError, "proxy_tunnel", False),
    (C.ClientOSError(errno.EPIPE, "pipe"), ConnectError, "connect_reset", True),
    (C.ClientOSError(errno.ETIMEDOUT, "late"), errors.TimeoutError, "read_timeout", True),
    (disguised(C.ClientOSError(8, "eof"), ssl.SSLEOFError(8, "eof")), TLSError, "tls", True),
    (C.ClientConnectionResetError("Cannot write to closing transport"), ConnectError, "connect_reset", True),
    (C.ClientConnectionError("Connector is closed"), ConnectError, "connect", True),
    (C.ServerFingerprintMismatch(b"a", b"b", "h", 443), TLSError, "tls_fingerprint", False),
    (C.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError()), TLSError, "tls_certificate", False),
    (C.ClientConnectorCertificateError(KEY, CertificateNotPinned(1, "x")), TLSError, "tls_fingerprint", False),
    (C.ClientConnectionError("connector closed"), ConnectError, "connect", True),
    (disguised(C.ClientConnectionError("x"), tripped(not_trusted())), TLSError, "tls_untrusted", False),
    (disguised(C.ClientConnectionError("x"), tripped(ValueError())), ConnectError, "connect", True),
    (C.ClientConnectorSSLError(KEY, ssl.SSLError(1, "wrong version")), TLSError, "tls", False),
    (C.ClientConnectorSSLError(KEY, ssl.SSLEOFError(8, "eof")), TLSError, "tls", True),
    (ssl.SSLCertVerificationError(), TLSError, "tls_certificate", False),
    (ssl.SSLError(1, "x"), TLSError, "tls", False),
    (C.ServerDisconnectedError(), ProtocolError, "disconnected", True),
    (C.ServerConnectionError(), ProtocolError, "disconnected", True),
    (C.UploadAbortedError(), ProtocolError, "disconnected", True),
    (C.ConnectionTimeoutError(), errors.TimeoutError, "connect_timeout", True),
    (C.SocketTimeoutError(), errors.TimeoutError, "read_timeout", True),
    (C.ServerTimeoutError(), errors.TimeoutError, "read_timeout", True),
    (TimeoutError(), errors.TimeoutError, "total_timeout", True),
    (OSError(errno.ETIMEDOUT, "timed out"), errors.TimeoutError, "read_timeout", True),
    (OSError(errno.ECONNRESET, "reset"), ConnectError, "connect_reset", True),
    (C.ClientPayloadError("not completed"), BodyError, "body_truncated", True),
    (disguised(C.ClientPayloadError("x"), H.ContentEncodingError("gzip")), BodyError, "body_encoding", False),
    (H.ContentLengthError("short"), BodyError, "body_truncated", True),
    (H.DecompressSizeError("big"), BodyError, "body_too_large", False),
    (H.LineTooLong(b"a" * 10000, 8190), ProtocolError, "protocol", True),
    (H.HttpProcessingError(message="x"), ProtocolError, "protocol", True),
    (C.ClientResponseError(INFO, (), status=400, message="Bad status line"), ProtocolError, "protocol", True),
    (C.ContentTypeError(INFO, (), message="x"), ProtocolError, "protocol", True),
    (C.WSServerHandshakeError(INFO, (), status=403, message="x"), ProtocolError, "protocol", False),
    (C.WSServerHandshakeError(INFO, (), status=503, message="x"), ProtocolError, "protocol", True),
    (C.WSMessageTypeError("x"), ProtocolError, "protocol", True),
    (aiohttp.WebSocketError(1002, "x"), ProtocolError, "protocol", True),
    (C.TooManyRedirects(INFO, ()), RedirectError, "redirect_limit", False),
    (C.InvalidUrlRedirectClientError(URL_WITH_SECRET), RedirectError, "redirect_location", False),
    (C.NonHttpUrlRedirectClientError(URL_WITH_SECRET), RedirectError, "redirect_scheme", False),
    (C.NonHttpUrlClientError(URL_WITH_SECRET), BlockedError, "blocked", False),
    (C.InvalidUrlClientError(URL_WITH_SECRET, "is not a canonical IPv4 address"), BlockedError, "blocked", False),
    (ValueError(f"cannot parse {URL_WITH_SECRET}"), BlockedError, "blocked", False),
    (C.ClientError("x"), FetchError, "fetch", True),
]


@pytest.mark.parametrize(("error", "kind", "reason", "retryable"), CASES, ids=lambda case: type(case).__name__)
def test_an_error_has_its_class_and_reason_and_no_secret(
    error: BaseException, kind: type[FetchError], reason: str, retryable: bool
) -> None:
    translated = translate(error, URL_WITH_SECRET)
    assert type(translated) is kind
    assert (translated.reason, translated.retryable) == (reason, retryable)
    assert "hunter2" not in str(translated)
    assert "example.test/path?q=1" in str(translated)


@pytest.mark.parametrize(
    "error",
    [BodyError("x", reason="body_too_large"), errors.TimeoutError("x", reason="total_timeout"), BlockedError("x")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_ours_stays_as_it_is(error: FetchError) -> None:
    assert translate(error, URL_WITH_SECRET) is error


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), asyncio.CancelledError(), AssertionError()])
def test_a_bug_is_not_translated(error: BaseException) -> None:
    assert not isinstance(error, FOREIGN)
    with pytest.raises(TypeError, match=type(error).__name__) as caught:
        translate(error, URL_WITH_SECRET)
    assert caught.value.__cause__ is error


def test_what_a_server_sent_is_quoted_short_and_harmless() -> None:
    hostile = "\x1b]0;owned\x07 \u202egnp.exe\nsecond line\t" + "A" * 5000
    message = str(translate(C.ClientHttpProxyError(INFO, (), status=500, message=hostile), "http://h.test/"))
    assert message.isprintable()
    assert len(message) < 300
    assert "gnp.exe second line AAA" in message


# -- real failures -----------------------------------------------------------------------------------------------------


LIMIT = aiohttp.ClientTimeout(total=10)


@asynccontextmanager
async def client(
    *nameservers: str, tls: ssl.SSLContext | bool = True, timeout: aiohttp.ClientTimeout = LIMIT
) -> AsyncIterator[aiohttp.ClientSession]:
    guard = Guard(allow_networks=["127.0.0.2/31"])
    resolver = Resolver(guard, nameservers=nameservers, lookup_seconds=0.1)
    connector = make_connector(guard=guard, resolver=resolver, tls=tls)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout) as session:
        yield session
    await resolver.close()


async def failure(session: aiohttp.ClientSession, url: str, **options: object) -> FetchError:
    """What fetching `url` fails with, once translated."""
    try:
        async with session.get(url, **options) as response:  # type: ignore[arg-type]
            body = await read_body(response, 1 << 20)
    except CAUGHT as error:
        return translate(error, url)
    raise AssertionError(f"fetched {len(body)} bytes with {response.status}")


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (b"", ProtocolError, "disconnected"),
        (b"HTTP/1.1 200 OK\r\nServer: ", ProtocolError, "disconnected"),
        (reset(), ConnectError, "connect_reset"),
        (reset(answer(b"abc", length=10)), BodyError, "body_truncated"),
        (answer(b"abc", length=10), BodyError, "body_truncated"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", BodyError, "body_truncated"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n", ProtocolError, "protocol"),
        (b"SSH-2.0-OpenSSH_9\r\n", ProtocolError, "protocol"),
        (b"<html>HTTP/0.9</html>", ProtocolError, "protocol"),
        (b"HTTP/9.9 200 OK\r\n\r\n", ProtocolError, "protocol"),
        (b"HTTP/1.1 99 No\r\n\r\n", ProtocolError, "protocol"),
        (OK + b"no colon\r\n\r\n", ProtocolError, "protocol"),
        (OK + b"A: b\0c\r\n\r\n", ProtocolError, "protocol"),
        (OK + b"Content-Length: -1\r\n\r\n", ProtocolError, "protocol"),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", ProtocolError, "protocol"),
        (OK + b"A: " + b"a" * 100_000 + b"\r\n\r\n", ProtocolError, "protocol"),
        (OK + b"".join(b"A%d: b\r\n" % number for number in range(1000)) + b"\r\n", ProtocolError, "protocol"),
        (b"\x15\x03\x01\x00\x02\x02\x46", ProtocolError, "protocol"),
    ],
)
async def test_what_a_broken_server_sends_has_a_name(script: Script, kind: type[FetchError], reason: str) -> None:
    async with RawServer(script) as server, client() as session:
        error = await failure(session, server.url)
    assert (type(error), error.reason, error.retryable) == (kind, reason, True)
    assert str(error).isprintable()
    assert server.url in str(error)


@pytest.mark.parametrize(
    ("start", "timeout", "reason"),
    [
        (b"", aiohttp.ClientTimeout(sock_read=0.05), "read_timeout"),
        (b"", aiohttp.ClientTimeout(total=0.05), "total_timeout"),
        (answer(b"abc", length=10), aiohttp.ClientTimeout(sock_read=0.05), "read_timeout"),
        (answer(b"abc", length=10), aiohttp.ClientTimeout(total=0.2), "total_timeout"),
    ],
)
async def test_a_server_that_hangs_runs_into_the_right_limit(
    start: bytes, timeout: aiohttp.ClientTimeout, reason: str
) -> None:
    async with RawServer(hang(start)) as server, client(timeout=timeout) as session:
        error = await failure(session, server.url)
    assert (type(error), error.reason) == (errors.TimeoutError, reason)


@pytest.mark.parametrize(
    ("timeout", "reason"),
    [
        (aiohttp.ClientTimeout(connect=0.1), "connect_timeout"),
        (aiohttp.ClientTimeout(sock_connect=0.1), "connect_timeout"),
        (aiohttp.ClientTimeout(total=0.1), "total_timeout"),
    ],
)
async def test_a_server_that_does_not_accept_runs_into_the_right_limit(
    timeout: aiohttp.ClientTimeout, reason: str
) -> None:
    with deaf_listener() as port:
        async with client(timeout=timeout) as session:
            error = await failure(session, f"http://user:hunter2@127.0.0.2:{port}/")
    assert (type(error), error.reason) == (errors.TimeoutError, reason)
    assert "hunter2" not in str(error)


async def test_a_slow_name_runs_into_the_limit_for_connecting() -> None:
    async with DnsServer() as dns, client(dns.nameserver, timeout=aiohttp.ClientTimeout(connect=0.05)) as session:
        dns.names["slow.test"] = Fail.SILENCE
        error = await failure(session, "http://slow.test/")
    assert (type(error), error.reason) == (errors.TimeoutError, "connect_timeout")


@pytest.mark.parametrize(
    ("script", "reason", "retryable"),
    [(Fail.NXDOMAIN, "dns_not_found", False), (Fail.SERVFAIL, "dns_failed", True), (Fail.SILENCE, "dns_timeout", True)],
)
async def test_a_name_that_does_not_resolve_says_how(script: Fail, reason: str, retryable: bool) -> None:
    async with DnsServer() as dns, client(dns.nameserver) as session:
        dns.names["a.test"] = script
        error = await failure(session, "http://user:hunter2@a.test/")
    assert (type(error), error.reason, error.retryable) == (DNSError, reason, retryable)
    assert "a.test" in str(error)
    assert "hunter2" not in str(error)


async def test_a_private_address_is_blocked_whether_literal_or_resolved() -> None:
    async with RawServer(host="127.0.0.9") as canary, DnsServer() as dns, client(dns.nameserver) as session:
        dns.names["evil.test"] = [Address("127.0.0.9"), Address("10.0.0.1")]
        for host in ("127.0.0.9", "evil.test", "localhost"):
            error = await failure(session, f"http://{host}:{canary.port}/")
            assert (type(error), error.reason, error.retryable) == (BlockedError, "blocked_address", False)
            assert "is not public" in str(error)
        assert canary.connections == 0


async def test_a_local_address_that_does_not_fit_is_a_way_that_is_not_there() -> None:
    guard = Guard(allow_private=True)
    resolver = Resolver(guard)
    for local, host in (("127.0.0.5", "[::1]"), ("::1", "127.0.0.2"), ("192.0.2.1", "127.0.0.2")):
        connector = make_connector(guard=guard, resolver=resolver, local_address=local)
        async with aiohttp.ClientSession(connector=connector, timeout=LIMIT) as session:
            error = await failure(session, f"http://{host}:9/")
        assert (type(error), error.reason) == (ConnectError, "connect_unreachable")
        assert f"the local address {local}" in str(error)


async def test_a_closed_port_is_refused() -> None:
    async with RawServer() as server:
        url = server.url
    async with client() as session:
        error = await failure(session, url)
    assert (type(error), error.reason) == (ConnectError, "connect_refused")


async def test_a_proxy_that_is_not_there_and_one_that_says_no_are_both_the_proxys_fault() -> None:
    async with RawServer(answer(b"", "Connection: close", status="407 Who are you")) as proxy, client() as session:
        error = await failure(session, "https://example.test/", proxy=proxy.url)
        assert (type(error), error.reason, error.retryable) == (ConnectError, "proxy", False)
        assert "407 Who are you" in str(error)
        url = proxy.url
    async with client() as session:
        error = await failure(session, "http://example.test/", proxy=url)
        assert (type(error), error.reason, error.retryable) == (ConnectError, "proxy", True)


@pytest.mark.parametrize(
    ("certificate", "host", "reason", "words"),
    [
        (EXPIRED, "127.0.0.2", "tls_expired", "certificate has expired"),
        (NOT_YET_VALID, "127.0.0.2", "tls_expired", "certificate is not yet valid"),
        (SELF_SIGNED, "127.0.0.2", "tls_self_signed", "self-signed certificate"),
        (STRANGER + STRANGE_AUTHORITY, "127.0.0.2", "tls_self_signed", "self-signed certificate in certificate chain"),
        (STRANGER, "127.0.0.2", "tls_untrusted", "unable to get local issuer certificate"),
        (SERVER, "wrong.test", "tls_wrong_host", "Hostname mismatch"),
        (SERVER, "127.0.0.3", "tls_wrong_host", "IP address mismatch"),
        (CLIENT, "127.0.0.2", "tls_certificate", "certificate purpose"),
    ],
)
async def test_a_certificate_that_is_not_accepted_says_why(
    tmp_path: Path, certificate: str, host: str, reason: str, words: str
) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    tls = make_ssl_context(ca_file=str(tmp_path / "ca.pem"))
    at = host if host == "127.0.0.3" else "127.0.0.2"
    async with (
        DnsServer() as dns,
        RawServer(answer(b"hello"), host=at, tls=server_context(tmp_path, certificate)) as server,
        client(dns.nameserver, tls=tls) as session,
    ):
        dns.names["wrong.test"] = [Address("127.0.0.2")]
        error = await failure(session, f"https://{host}:{server.port}/")
        assert server.requests == []
    assert (type(error), error.reason, error.retryable) == (TLSError, reason, False)
    assert words in str(error)


@pytest.mark.hostile("S32")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_a_server_of_an_old_version_is_told_from_others(tmp_path: Path, version: ssl.TLSVersion) -> None:
    context = server_context(tmp_path, SERVER, version=version)

    def shake_hands(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, pytest.raises(ssl.SSLError):  # as servers do, and asyncio's do not, it says why
            context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.2", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(shake_hands, listener))
        async with client() as session:
            error = await failure(session, f"https://127.0.0.2:{listener.getsockname()[1]}/")
        await serving
    assert (type(error), error.reason, error.retryable) == (TLSError, "tls_version", False)


@pytest.mark.parametrize(
    ("start", "reason", "words"),
    [
        (b"\x15\x03\x03\x00\x02\x02\x46", "tls_version", "PROTOCOL_VERSION"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "tls", "HANDSHAKE_FAILURE"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls", ""),
        (b"SSH-2.0-OpenSSH_9\r\n", "tls", ""),
    ],
    ids=["no common version", "no common cipher", "plain HTTP", "another protocol"],
)
async def test_a_handshake_that_fails_says_why(start: bytes, reason: str, words: str) -> None:
    async with RawServer(start, waits=False) as server, client() as session:
        error = await failure(session, server.url.replace("http:", "https:"))
    assert (type(error), error.reason, error.retryable) == (TLSError, reason, False)
    assert words in str(error)


async def test_a_handshake_that_is_cut_may_be_tried_again() -> None:
    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with RawServer(script, waits=False) as server, client() as session:
        error = await failure(session, server.url.replace("http:", "https:"))
    assert error.reason in ("tls", "connect_reset")
    assert error.retryable


async def test_another_certificate_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    async with RawServer(answer(b"hello"), tls=server_context(tmp_path, SERVER)) as server, client() as session:
        error = await failure(session, server.url, ssl=aiohttp.Fingerprint(bytes(32)))
        assert server.requests == []
    assert (type(error), error.reason, error.retryable) == (TLSError, "tls_fingerprint", False)
