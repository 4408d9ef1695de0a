"""Whom we trust, request by request: against servers with good and bad certificates, directly and through a proxy."""

from __future__ import annotations

import contextlib
import logging
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from certificates import (
    AUTHORITY,
    CLIENT,
    CLIENT_ENCRYPTED,
    OTHER_SERVER,
    SELF_SIGNED,
    SERVER,
    fingerprint,
    server_context,
)
from proxy_server import ProxyServer

from crawler.download import tls as module
from crawler.download.connect import make_connector
from crawler.download.resolve import Resolver
from crawler.download.tls import CertificateNotPinned, TlsRules, make_ssl_context, make_unverified_context
from crawler.download.trace import Trace
from crawler.download.translate import translate
from crawler.errors import SettingsError
from crawler.guard import Guard
from crawler.settings import TlsSettings
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from pathlib import Path

HELLO = answer(b"hello")
SITE = "https://tls.test/"
PIN = f"sha256:{fingerprint(SERVER)}"
OTHER_PIN = f"sha256:{fingerprint(OTHER_SERVER)}"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Paths of PEM files, by the name they have among the certificates."""
    named = {
        "AUTHORITY": AUTHORITY,
        "SELF_SIGNED": SELF_SIGNED,
        "CLIENT": CLIENT,
        "CLIENT_ENCRYPTED": CLIENT_ENCRYPTED,
        "BROKEN": "not PEM",
    }
    for name, text in named.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in [*named, "MISSING"]}


def rules(**settings: Any) -> TlsRules:
    return TlsRules(TlsSettings(**settings))


@contextlib.asynccontextmanager
async def client(rules: TlsRules) -> AsyncIterator[aiohttp.ClientSession]:
    guard = Guard(allow_networks=["127.0.0.2/32"])
    resolver = Resolver(guard, hosts={"tls.test": "127.0.0.2", "wrong.test": "127.0.0.2"})
    connector = make_connector(guard=guard, resolver=resolver, tls=rules.default)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def fetch(session: aiohttp.ClientSession, rules: TlsRules, url: str, tls: Any = None, **options: Any) -> bytes:
    ssl_option = rules.for_request(url, tls, options.get("proxy"))
    async with session.get(url, ssl=ssl_option, **options) as response:
        return await response.read()


async def failure(session: aiohttp.ClientSession, rules: TlsRules, url: str, tls: Any = None, **options: Any) -> str:
    """The reason for which a fetch fails."""
    with pytest.raises(aiohttp.ClientConnectionError) as caught:
        await fetch(session, rules, url, tls, **options)
    return translate(caught.value, url).reason


# -- contexts ----------------------------------------------------------------------------------------------------------


def test_without_files_aiohttp_has_a_context_already() -> None:
    assert make_ssl_context() is True
    assert make_ssl_context(verify=False) is False


def test_a_context_asks_for_what_it_should(files: dict[str, str]) -> None:
    careful = make_ssl_context(ca_file=files["AUTHORITY"])
    assert isinstance(careful, ssl.SSLContext)
    assert (careful.verify_mode, careful.check_hostname) == (ssl.CERT_REQUIRED, True)
    careless = make_ssl_context(verify=False, ca_file=files["AUTHORITY"])
    assert isinstance(careless, ssl.SSLContext)
    for context in (careless, make_unverified_context()):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    for context in (careful, careless, make_unverified_context()):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ca_file": "MISSING"}, r"tls\.ca_file"),
        ({"ca_file": "BROKEN"}, r"tls\.ca_file"),
        ({"cert_file": "BROKEN"}, r"tls\.cert_file"),
        ({"cert_file": "AUTHORITY"}, r"tls\.cert_file"),  # there is no key in it
        ({"cert_file": "CLIENT", "key_file": "SELF_SIGNED"}, r"tls\.cert_file"),  # a key of somebody else
        ({"cert_file": "CLIENT_ENCRYPTED"}, r"tls\.key_file: the private key is encrypted"),
    ],
)
def test_a_file_that_is_of_no_use_is_named(files: dict[str, str], settings: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        rules(**{key: files[name] for key, name in settings.items()})


# -- which rule holds --------------------------------------------------------------------------------------------------


def pin_of(found: ssl.SSLContext | bool) -> str | None:
    """The pin that a handshake with the target is held to."""
    assert isinstance(found, module._Context)
    return None if found.target.pin is None else f"sha256:{found.target.pin.hex()}"


def test_without_a_rule_the_connectors_default_holds(files: dict[str, str]) -> None:
    for made in (rules(), rules(ca_file=files["AUTHORITY"]), rules(fingerprints={"other.test": fingerprint(SERVER)})):
        assert made.for_request(SITE) is True
        assert made.for_request("http://tls.test/") is True
        assert made.for_request(SITE, proxy="http://proxy.test:3128") is True
        assert made.for_request(SITE, proxy="https://proxy.test:3128") is True


def test_a_request_that_brings_a_context_gets_it() -> None:
    context = ssl.create_default_context()
    assert rules(fingerprints={"tls.test": fingerprint(SERVER)}).for_request(SITE, context) is context


@pytest.mark.parametrize("spelling", [PIN, PIN.upper(), "sha256:" + ":".join(f"{byte:02X}" for byte in range(32))])
def test_a_pin_may_be_spelled_as_people_spell_it(spelling: str) -> None:
    assert pin_of(rules().for_request(SITE, spelling)) == f"sha256:{spelling[7:].replace(':', '').lower()}"


def test_the_nearer_rule_wins() -> None:
    made = rules(
        fingerprints={"tls.test": fingerprint(SERVER), "tls.test:8443": fingerprint(OTHER_SERVER), "[::1]": "0" * 64},
        unverified_hosts=("tls.test", "tls.test:443", "open.test", "half.test:8443", "127.0.0.2"),
    )
    unverified = made.for_request(SITE, False)
    assert isinstance(unverified, ssl.SSLContext)
    assert unverified.verify_mode is ssl.CERT_NONE
    assert pin_of(made.for_request(SITE)) == PIN
    assert pin_of(made.for_request("https://tls.test:8443/")) == OTHER_PIN
    assert pin_of(made.for_request("https://[::1]:8443/")) == f"sha256:{'0' * 64}"
    assert pin_of(made.for_request(SITE, OTHER_PIN)) == OTHER_PIN
    assert made.for_request("https://open.test:99/") is unverified
    assert made.for_request("https://127.0.0.2/") is unverified
    assert made.for_request("https://half.test:8443/") is unverified
    assert made.for_request("https://half.test/") is True
    assert made.for_request("https://sub.open.test/") is True


def test_the_same_rule_is_the_same_context_and_another_is_another() -> None:
    made = rules()
    found = [made.for_request(SITE, tls) for tls in (False, PIN, OTHER_PIN, False, PIN, OTHER_PIN)]
    assert found[:3] == found[3:]
    assert len(set(found)) == 3
    assert made.for_request("https://other.test/", PIN) is found[1]


def test_the_contexts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONTEXTS", 2)
    made = rules()
    first = made.for_request(SITE, PIN)
    for number in range(5):
        assert made.for_request(SITE, PIN) is first  # the one that is used stays
        made.for_request(SITE, f"sha256:{number:064x}")
    assert len(made._contexts) == 2


@pytest.mark.hostile("S32")
def test_that_certificates_are_not_verified_is_said_once_for_each_host(caplog: pytest.LogCaptureFixture) -> None:
    made = rules(unverified_hosts=("open.test",), fingerprints={"tls.test": fingerprint(SERVER)})
    for _ in range(3):
        for url, tls in ((SITE, False), ("https://open.test/", None), ("https://open.test:8443/a", None), (SITE, None)):
            made.for_request(url, tls)
    made.for_request("http://plain.test/", False)
    assert caplog.record_tuples == [
        ("crawler.download.tls", logging.WARNING, f"certificates of {host} are not verified: {why}")
        for host, why in (
            ("tls.test:443", "tls=False of a request"),
            ("open.test:443", "tls.unverified_hosts"),
            ("open.test:8443", "tls.unverified_hosts"),
        )
    ]


def test_that_no_certificate_is_verified_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    made = rules(verify=False, unverified_hosts=("open.test",))
    for url in (SITE, "https://open.test/"):
        made.for_request(url, False)
        made.for_request(url)
    assert [record.message for record in caplog.records] == ["tls.verify is off: certificates are not verified"]


# -- handshakes --------------------------------------------------------------------------------------------------------


async def test_an_authority_of_ones_own_is_trusted(files: dict[str, str], tmp_path: Path) -> None:
    made = rules(ca_file=files["AUTHORITY"])
    async with RawServer(HELLO, tls=server_context(tmp_path, SERVER)) as server, client(made) as session:
        for host in ("127.0.0.2", "tls.test", "tls.test."):
            assert await fetch(session, made, f"https://{host}:{server.port}/") == b"hello"


@pytest.mark.parametrize("certificate", [SERVER, SELF_SIGNED])
async def test_the_pinned_certificate_is_enough_whoever_signed_it_for_whom(tmp_path: Path, certificate: str) -> None:
    made = rules()
    async with RawServer(HELLO, tls=server_context(tmp_path, certificate)) as server, client(made) as session:
        url = f"https://wrong.test:{server.port}/"
        assert await fetch(session, made, url, f"sha256:{fingerprint(certificate)}") == b"hello"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_another_than_the_pinned_certificate_gets_no_request(
    files: dict[str, str], tmp_path: Path, version: ssl.TLSVersion
) -> None:
    made = rules(ca_file=files["AUTHORITY"])
    tls = server_context(tmp_path, SERVER, version=version)
    async with RawServer(HELLO, tls=tls) as server, client(made) as session:
        assert await fetch(session, made, server.url) == b"hello"
        with pytest.raises(aiohttp.ClientConnectorCertificateError) as caught:
            await fetch(session, made, server.url, OTHER_PIN)
        assert isinstance(caught.value.certificate_error, CertificateNotPinned)
        assert fingerprint(SERVER) in str(caught.value)
        assert len(server.requests) == 1


@pytest.mark.parametrize("tls", [None, False, PIN])
async def test_our_certificate_is_shown_under_every_rule(files: dict[str, str], tmp_path: Path, tls: Any) -> None:
    made = rules(ca_file=files["AUTHORITY"], cert_file=files["CLIENT"])
    seen: list[object] = []

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert")["subjectAltName"])
        writer.write(HELLO)

    demanding = server_context(tmp_path, SERVER, client_authority=AUTHORITY)
    async with RawServer(script, tls=demanding) as server, client(made) as session:
        assert await fetch(session, made, server.url, tls) == b"hello"
    assert seen == [(("DNS", "client.test"),)]


async def test_our_certificate_is_shown_where_nothing_is_verified_either(files: dict[str, str], tmp_path: Path) -> None:
    made = rules(verify=False, cert_file=files["CLIENT"])
    demanding = server_context(tmp_path, SELF_SIGNED, client_authority=AUTHORITY)
    async with RawServer(HELLO, tls=demanding) as server, client(made) as session:
        assert await fetch(session, made, server.url) == b"hello"


@pytest.mark.hostile("S32")
async def test_what_is_allowed_for_one_host_is_not_for_another(tmp_path: Path) -> None:
    made = rules(unverified_hosts=("tls.test",))
    async with RawServer(HELLO, tls=server_context(tmp_path, SERVER)) as server, client(made) as session:
        assert await fetch(session, made, f"https://tls.test:{server.port}/") == b"hello"
        for host in ("127.0.0.2", "wrong.test"):
            assert await failure(session, made, f"https://{host}:{server.port}/") == "tls_untrusted"
        assert len(server.requests) == 1


async def test_a_handshake_that_is_pinned_can_be_watched(tmp_path: Path) -> None:
    made = rules()
    lines: list[str] = []
    async with RawServer(HELLO, tls=server_context(tmp_path, SERVER)) as server, client(made) as session:
        with Trace(lines.append) as trace:
            session.trace_configs.append(trace.config)
            trace.config.freeze()
            assert await fetch(session, made, server.url, PIN) == b"hello"
    assert any(fingerprint(SERVER) in line for line in lines)


# -- pools -------------------------------------------------------------------------------------------------------------


async def test_connections_are_shared_within_a_rule_and_with_no_other(files: dict[str, str], tmp_path: Path) -> None:
    made = rules(ca_file=files["AUTHORITY"])
    tls = server_context(tmp_path, SERVER)
    own = ssl.create_default_context(cafile=files["AUTHORITY"])
    async with RawServer(HELLO, tls=tls, keep_alive=True) as server, client(made) as session:
        for _ in range(3):
            for number, rule in enumerate((None, False, PIN, own), 1):
                assert await fetch(session, made, server.url, rule) == b"hello"
                assert server.connections >= number
        assert (server.connections, len(server.requests)) == (4, 12)
        for _ in range(2):  # a connection that was verified, or pinned to another, is of no use here
            assert await failure(session, made, server.url, OTHER_PIN) == "tls_fingerprint"
        assert (server.connections, len(server.requests)) == (6, 12)


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[RawServer]:
    async with RawServer(HELLO, tls=server_context(tmp_path, SELF_SIGNED)) as server:
        yield server


@pytest.mark.parametrize("rule", [False, f"sha256:{fingerprint(SELF_SIGNED)}"])
async def test_the_rule_of_a_site_is_not_that_of_the_proxy_before_it(
    files: dict[str, str], tmp_path: Path, site: RawServer, rule: Any
) -> None:
    made = rules(ca_file=files["AUTHORITY"])
    names = {"tls.test": ("127.0.0.2", site.port)}
    async with client(made) as session:
        async with ProxyServer(tls=server_context(tmp_path, SERVER), names=names) as proxy:
            assert await fetch(session, made, SITE, rule, proxy=proxy.url) == b"hello"
            assert await failure(session, made, SITE, proxy=proxy.url) == "tls_self_signed"
        async with ProxyServer(tls=server_context(tmp_path, SELF_SIGNED), names=names) as impostor:
            assert await failure(session, made, SITE, rule, proxy=impostor.url) == "tls_self_signed"
            assert impostor.journal == []


@pytest.mark.parametrize("settings", [{"unverified_hosts": ("127.0.0.2",)}, {"fingerprints": {"127.0.0.2": PIN[7:]}}])
async def test_a_proxy_has_rules_of_its_own(
    files: dict[str, str], tmp_path: Path, site: RawServer, settings: dict[str, Any]
) -> None:
    names = {"tls.test": ("127.0.0.2", site.port)}
    async with ProxyServer(tls=server_context(tmp_path, SERVER), names=names) as proxy:
        made = rules(**settings)
        async with client(made) as session:
            assert await fetch(session, made, SITE, False, proxy=proxy.url) == b"hello"
            assert await failure(session, made, SITE, proxy=proxy.url) == "tls_self_signed"  # the site is another
        async with RawServer(HELLO) as plain, client(made) as session:
            assert await fetch(session, made, plain.url, proxy=proxy.url) == b"hello"
        made = rules()
        async with client(made) as session:
            assert await failure(session, made, SITE, False, proxy=proxy.url) == "tls_untrusted"


def test_a_plain_proxy_has_no_part_in_it() -> None:
    made = rules(unverified_hosts=("proxy.test",))
    for tls in (False, PIN):
        assert made.for_request(SITE, tls, "http://proxy.test:3128") is made.for_request(SITE, tls)
    assert made.for_request(SITE, None, "http://proxy.test:3128") is True
