"""Whom we trust: SSL contexts, and which rule holds for which request.

A rule is one of three: certificates are verified, which is the default; they are not; or one certificate is pinned by
its SHA-256, and then nothing else is asked of it. The pin is checked as a part of the handshake, before any request is
sent.

aiohttp has `ssl=False` and `aiohttp.Fingerprint` for the last two, and is not asked for them, for three reasons. For
both it uses a context of its own, which has no client certificate. A `Fingerprint` is a key of its pool by identity, so
a new one for each request means a new connection for each. And it applies the target's rule to the handshake with an
https proxy on the way as well: whoever does not verify one site would show the password of the proxy to anyone.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from crawler import url as urls
from crawler.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.settings import TlsSettings

__all__ = ["CertificateNotPinned", "TlsRules", "make_ssl_context", "make_unverified_context"]

logger = logging.getLogger("crawler.download.tls")

_T = TypeVar("_T")

_CONTEXTS: Final = 256
"""Kept for pins and proxies, 14 KB each; a crawl has a few."""
_TOLD_HOSTS: Final = 10_000
"""Of so many hosts we remember that we warned."""


class CertificateNotPinned(ssl.SSLCertVerificationError):
    """The server's certificate is another than the pinned one."""


# -- contexts ----------------------------------------------------------------------------------------------------------


def make_ssl_context(
    verify: bool = True, ca_file: str | None = None, cert_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext | bool:
    """What `make_connector(tls=...)` and aiohttp's `ssl=` take; make it once per crawl, it reads files.

    Without files it is a bool: for both aiohttp has a context from its import. `ca_file` replaces the system's
    authorities, as curl's `--cacert`. `cert_file` is our own certificate, with its key in `key_file` or beside it.
    All files are PEM; raises `SettingsError` for one that cannot be read.
    """
    if not (ca_file or cert_file):
        return verify
    context: ssl.SSLContext = _ask_openssl("tls.ca_file", partial(ssl.create_default_context, cafile=ca_file))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    _show_certificate(context, cert_file, key_file)
    return context


def make_unverified_context(cert_file: str | None = None, key_file: str | None = None) -> ssl.SSLContext:
    """One that takes any certificate, and shows ours. Raises `SettingsError` as `make_ssl_context`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _show_certificate(context, cert_file, key_file)
    return context


def _show_certificate(context: ssl.SSLContext, cert_file: str | None, key_file: str | None) -> None:
    if cert_file:
        load = partial(context.load_cert_chain, cert_file, key_file, password=_no_password)
        _ask_openssl("tls.cert_file", load)
    context.set_alpn_protocols(["http/1.1"])


def _no_password() -> str:
    # OpenSSL would ask on the terminal.
    raise SettingsError("tls.key_file: the private key is encrypted; give one that is not")


def _ask_openssl(setting: str, ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"{setting}: {error}") from error


# -- rules -------------------------------------------------------------------------------------------------------------


class _Rule(NamedTuple):
    verify: bool = True
    pin: bytes | None = None


_DEFAULT: Final = _Rule()
_UNVERIFIED: Final = _Rule(verify=False)


class TlsRules:
    """Which of aiohttp's `ssl=` a request gets. Make one per crawl; raises `SettingsError` for files that cannot be
    read.

    A request's own `tls` comes first, then `tls.fingerprints` and `tls.unverified_hosts`, in each a host with its port
    before the bare name, then `tls.verify`. Our client certificate is shown under every rule. That certificates are not
    verified is logged, once for each host.
    """

    def __init__(self, settings: TlsSettings) -> None:
        own = (settings.cert_file, settings.key_file)
        self.default: ssl.SSLContext | bool = make_ssl_context(settings.verify, settings.ca_file, *own)
        """For the connector: what holds where `for_request` says True."""
        self._unverified = make_unverified_context(*own)
        self._verified: ssl.SSLContext | None = None
        self._contexts: OrderedDict[tuple[_Rule, str, _Rule], _Context] = OrderedDict()
        self._pins = {host: _pinned(digits) for host, digits in settings.fingerprints.items()}
        self._unverified_hosts = frozenset(settings.unverified_hosts)
        self._verify = settings.verify
        self._told: set[str] = set()
        if not self._verify:
            logger.warning("tls.verify is off: certificates are not verified")

    def for_request(
        self, url: str, tls: bool | str | ssl.SSLContext | None = None, proxy: str | None = None
    ) -> ssl.SSLContext | bool:
        """aiohttp's `ssl=` for a normalised `url` and the request's `tls` (False, `"sha256:HEX"`, a context, or None):
        True for the connector's default. The same rule gives the same context, so connections are shared by the
        requests of one rule and by no others.

        `proxy` is the URL of the proxy on the way, if any: the handshake with an https proxy follows the rule of its
        own host, except where the request brings a context, and where the proxy's name is that of the target.
        """
        if isinstance(tls, ssl.SSLContext):
            return tls
        if proxy is not None and not proxy.lower().startswith("https:"):
            proxy = None
        if tls is None and proxy is None and not (self._pins or self._unverified_hosts):
            return True
        rule = self._rule(urls.host_key(url), tls) if url.startswith("https:") else None
        proxy_host, proxy_rule = "", rule
        if proxy is not None:
            proxy_host, proxy_key = _split_proxy(proxy)
            if rule is None or proxy_host != urls.hostname(url):
                proxy_rule = self._rule(proxy_key)
        if proxy_rule is None:
            return True
        rule = rule or proxy_rule
        if rule == proxy_rule == _DEFAULT:
            return True
        if rule == proxy_rule == _UNVERIFIED:
            return self._unverified
        return self._context(rule, proxy_host, proxy_rule)

    def _rule(self, host: str, tls: bool | str | None = None) -> _Rule:
        if isinstance(tls, str):
            return _pinned(tls)
        if tls is False:
            self._tell(host, "tls=False of a request")
            return _UNVERIFIED
        name = host.rpartition(":")[0]
        if pin := self._pins.get(host) or self._pins.get(name):
            return pin
        if host in self._unverified_hosts or name in self._unverified_hosts:
            self._tell(host, "tls.unverified_hosts")
            return _UNVERIFIED
        return _DEFAULT

    def _tell(self, host: str, why: str) -> None:
        if not self._verify or host in self._told:
            return
        if len(self._told) >= _TOLD_HOSTS:
            self._told.clear()
        self._told.add(host)
        logger.warning("certificates of %s are not verified: %s", host, why)

    def _context(self, rule: _Rule, proxy_host: str, proxy_rule: _Rule) -> ssl.SSLContext:
        key = (rule, proxy_host, proxy_rule)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = _Context(ssl.PROTOCOL_TLS_CLIENT)
            context.target = self._way(rule)
            context.proxy_host = proxy_host
            context.proxy = self._way(proxy_rule)
            if len(self._contexts) > _CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(key)
        return context

    def _way(self, rule: _Rule) -> _Way:
        if rule != _DEFAULT:
            return _Way(self._unverified, rule.pin)
        if isinstance(self.default, ssl.SSLContext):
            return _Way(self.default)
        if self.default is False:
            return _Way(self._unverified)
        if self._verified is None:
            self._verified = ssl.create_default_context()
            self._verified.set_alpn_protocols(["http/1.1"])
        return _Way(self._verified)


def _pinned(text: str) -> _Rule:
    return _Rule(pin=bytes.fromhex(text.lower().removeprefix("sha256:").replace(":", "")))


def _split_proxy(proxy: str) -> tuple[str, str]:
    """Its host as a handshake names it, and as rules do."""
    parts = urlsplit(proxy)
    host = parts.hostname or ""
    return host, f"{f'[{host}]' if ':' in host else host}:{parts.port or 443}"


# -- handshakes --------------------------------------------------------------------------------------------------------


class _Way(NamedTuple):
    context: ssl.SSLContext
    pin: bytes | None = None


class _Context(ssl.SSLContext):
    """What aiohttp gets for a rule, and what its pool knows it by. It shakes no hands itself: each handshake is made
    with the context for whoever it is with, the target or an https proxy on the way."""

    target: _Way
    proxy_host: str
    proxy: _Way

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        context, pin = self.proxy if server_hostname == self.proxy_host else self.target
        handshake = context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if pin is not None:
            # At the object: the documented place, `sslobject_class`, is taken while a `Trace` looks on.
            handshake.do_handshake = partial(_shake_hands, handshake, pin)  # type: ignore[method-assign]
        return handshake


def _shake_hands(handshake: ssl.SSLObject, pin: bytes) -> None:
    type(handshake).do_handshake(handshake)  # raises until everything is there
    del handshake.do_handshake
    found = hashlib.sha256(handshake.getpeercert(binary_form=True) or b"").digest()
    if found != pin:
        raise CertificateNotPinned(1, f"its SHA-256 is {found.hex()}")
