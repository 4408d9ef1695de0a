"""SOCKS proxies: a connector that reaches every host through one of them. Importing this needs `crawler[socks]`.

aiohttp-socks brings the protocol (python-socks) and a connector around it. Of the connector one method is replaced,
because what it does between the tunnel and aiohttp goes wrong in four places (measured: 0.12 with aiohttp 3.14.5).
While the site is silent in the TLS handshake it waits without end, whatever the time limits say; a proxy that hangs up
in the middle raises `EOFError`; a pinned certificate that does not match, `ValueError`; and a bad certificate arrives
as any broken connection. Here the tunnel is a plain socket, and aiohttp makes its TLS connection over that as it would
over one of its own: same errors, same time limits, same `ssl=` per request.

The proxy resolves names (RFC 1928, address type 3), so none is looked up on this machine but the proxy's own. Its
address comes from the user, and the guard is not asked; the caller judges targets that are addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import aiohttp

from crawler import errors
from crawler.download.connect import FreshConnections
from crawler.errors import BlockedError, ConnectError, FetchError, SettingsError
from crawler.proxies import credentials, is_socks, redacted
from crawler.url import redact

try:
    from aiohttp_socks import ProxyConnector
    from python_socks import ProxyError, ProxyType
    from python_socks.async_.asyncio import Proxy
except ModuleNotFoundError as error:
    raise SettingsError('a SOCKS proxy needs the extra: pip install "crawler[socks]"') from error

if TYPE_CHECKING:
    import asyncio
    import ssl

    from aiohttp.client_proto import ResponseHandler

__all__ = ["make_socks_connector"]

_NO_LIMIT_SECONDS: Final = 86_400.0
"""Instead of python-socks' own 60; aiohttp's time-out for the whole of connecting holds beside it."""

_SAID: Final[dict[int, tuple[str, bool]]] = {
    # SOCKS5, RFC 1928, section 6: reason, and whether another try could help
    1: ("proxy_tunnel", True),  # general failure
    2: ("proxy_tunnel", False),  # not allowed by its rules
    3: ("connect_unreachable", True),  # network unreachable
    4: ("connect_unreachable", True),  # host unreachable; many say it of names that do not resolve, too
    5: ("connect_refused", True),
    6: ("connect_unreachable", True),  # TTL expired
    7: ("proxy_tunnel", False),  # command not supported
    8: ("proxy_tunnel", False),  # address type not supported
    # SOCKS4
    0x5B: ("proxy_tunnel", True),  # rejected or failed
}
"""What a proxy answers; what stands here for none of these, such as "wrong password", is `proxy`."""


def make_socks_connector(
    url: str,
    *,
    tls: ssl.SSLContext | bool = True,
    keepalive_seconds: float = 15.0,
    lifetime_seconds: float = 0.0,
    local_address: str | None = None,
) -> FreshConnections:
    """A connector, with no limit of its own, that reaches every host through the SOCKS proxy at `url`.

    `url`: `socks5://[user:password@]host[:port]`, `socks5h` is the same; `socks4` and `socks4a` likewise, with a user
    only and without IPv6. The rest is as for `make_connector`; `tls` is for the sites. One connector per proxy and
    user, each with a session of its own: its pool of connections does not tell proxies apart. Call it inside the
    running loop. Raises `SettingsError` for a URL that is no SOCKS proxy's and for a user and password that the
    protocol cannot carry.

    Requests over it raise `FetchError`s of this package where the proxy fails (`proxy`, retryable unless it did not
    accept us), where it says that it cannot reach the site (`connect_refused`, `connect_unreachable`, `proxy_tunnel`),
    and for names that cannot be (`blocked`); beyond the tunnel, what aiohttp raises without a proxy.
    """
    if not is_socks(url):
        raise SettingsError(f"not a SOCKS proxy: {redact(url)}")
    try:
        scheme, _, address = redacted(url).partition("://")
    except ValueError as error:
        raise SettingsError(str(error)) from None
    host, _, port = address.rpartition(":")
    user, password = _account(scheme, credentials(url))
    proxy = {
        "proxy_type": ProxyType.SOCKS5 if scheme.startswith("socks5") else ProxyType.SOCKS4,
        "host": host.strip("[]"),
        "port": int(port),
        "username": user,
        "password": password,
        "rdns": True,
    }
    return _SocksConnector(
        proxy, local_address, ssl=tls, keepalive_timeout=keepalive_seconds, lifetime_seconds=lifetime_seconds
    )


def _account(scheme: str, known: tuple[str, str] | None) -> tuple[str | None, str | None]:
    if known is None:
        return None, None
    is_5 = scheme.startswith("socks5")
    # RFC 1929 counts bytes and names no encoding; python-socks writes ASCII, and leaves out both where one is empty.
    if not all(word.isascii() and word.isprintable() and 0 < len(word) < 256 for word in known[: 1 + is_5]):
        raise SettingsError(
            f"a {scheme} proxy knows its users by "
            f"{'user and password' if is_5 else 'user'}, of 1 to 255 printable ASCII characters"
        )
    return known


class _SocksConnector(FreshConnections, ProxyConnector):
    def __init__(self, proxy: dict[str, Any], local_address: str | None, **options: Any) -> None:
        super().__init__(**proxy, limit=0, use_dns_cache=False, **options)
        self._proxy = Proxy(**proxy)
        self._from = None if local_address is None else (local_address, 0)

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: Any, req: aiohttp.ClientRequest, **kwargs: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        host, port = addr_infos[0][4][:2]
        seconds = kwargs["timeout"].sock_connect or _NO_LIMIT_SECONDS
        try:
            tunnel = await self._proxy.connect(host, port, timeout=seconds, local_addr=self._from)
        except (ProxyError, OSError, UnicodeError) as error:
            raise _translated(error, redact(str(req.url))) from error
        transport, protocol = await self._wrap_existing_connection(*args, req=req, sock=tunnel, **kwargs)
        # aiohttp checks a pin, too, but to try the site's next address it then looks for the peer's among them, and the
        # peer is the proxy.
        if req.is_ssl() and (pin := self._get_fingerprint(req)):
            try:
                pin.check(transport)
            except aiohttp.ServerFingerprintMismatch:
                transport.abort()
                raise
        return transport, protocol


def _translated(error: ProxyError | OSError | UnicodeError, url: str) -> FetchError:
    if isinstance(error, TimeoutError):
        return errors.TimeoutError(f"no connection in time: {url}", reason="connect_timeout")
    if isinstance(error, UnicodeError):  # an empty label, one over 63 bytes; nothing was asked of the proxy
        return BlockedError(f"not a host name that SOCKS can carry: {url}")
    if isinstance(error, OSError):
        return ConnectError(f"no connection to the proxy ({error.strerror or error}): {url}", reason="proxy")
    words = str(error)  # python-socks' own
    reason, retryable = _SAID.get(error.error_code or 0, ("proxy", "authentication" not in words))
    return ConnectError(f"the proxy did not connect ({words}): {url}", reason=reason, retryable=retryable)
