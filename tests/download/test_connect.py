"""Names to addresses and addresses to sockets: against a scripted DNS server and real listeners."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from certificates import AUTHORITY, CLIENT, SERVER, server_context
from dns_server import AAAA, A, Address, Alias, Answer, DnsServer, Fail
from raw_server import RawServer, answer

from crawler.download import connect
from crawler.download.connect import (
    AddressBlocked,
    NameNotResolved,
    Resolver,
    make_connector,
    make_socket_factory,
    make_ssl_context,
)
from crawler.errors import BlockedError, DNSError, SettingsError
from crawler.guard import Guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PUBLIC = ("127.0.0.2/31", "127.0.0.4/30", "127.0.0.8/32")
"""127.0.0.2 to 127.0.0.8 stand for the public internet, the rest of loopback for what must not be reached."""
HELLO = answer(b"hello", "Connection: close")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def guard() -> Guard:
    return Guard(allow_networks=PUBLIC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        yield server


@pytest.fixture
async def resolver(dns: DnsServer, guard: Guard, clock: Clock) -> AsyncIterator[Resolver]:
    resolver = Resolver(guard, nameservers=[dns.nameserver], clock=clock)
    yield resolver
    await resolver.close()


@pytest.fixture
async def impatient(dns: DnsServer, guard: Guard, clock: Clock) -> AsyncIterator[Resolver]:
    """Tries again after 0.2 s."""
    resolver = Resolver(guard, nameservers=[dns.nameserver], lookup_seconds=0.2, clock=clock)
    yield resolver
    await resolver.close()


@asynccontextmanager
async def session(guard: Guard, resolver: Resolver, **options: object) -> AsyncIterator[aiohttp.ClientSession]:
    connector = make_connector(guard=guard, resolver=resolver, **options)  # type: ignore[arg-type]
    async with aiohttp.ClientSession(connector=connector) as client:
        yield client


async def addresses(resolver: Resolver, host: str, port: int = 80) -> list[str]:
    return [result["host"] for result in await resolver.resolve(host, port)]


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_a_name_gives_its_addresses_of_both_families(dns: DnsServer, resolver: Resolver, guard: Guard) -> None:
    guard.allow("::1", 8080)
    dns.names["a.test"] = [Address("127.0.0.2"), Address("::1")]
    results = await resolver.resolve("a.test", 8080)
    assert sorted((result["host"], result["port"], result["family"]) for result in results) == [
        ("127.0.0.2", 8080, socket.AF_INET),
        ("::1", 8080, socket.AF_INET6),
    ]
    assert {result["hostname"] for result in results} == {"a.test"}
    only_wide = await resolver.resolve("a.test", 8080, socket.AF_INET6)
    assert [result["host"] for result in only_wide] == ["::1"]


async def test_a_family_that_a_name_lacks_is_not_found(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    with pytest.raises(NameNotResolved) as caught:
        await resolver.resolve("a.test", 80, socket.AF_INET6)
    assert (caught.value.reason, caught.value.retryable) == ("dns_not_found", False)


@pytest.mark.parametrize(
    ("script", "reason", "retryable"),
    [
        (Fail.NXDOMAIN, "dns_not_found", False),
        ([], "dns_not_found", False),
        (Fail.SERVFAIL, "dns_failed", True),
        (Fail.REFUSED, "dns_failed", True),
        (Fail.SILENCE, "dns_timeout", True),
    ],
)
async def test_a_failure_says_whether_it_is_final(
    dns: DnsServer, impatient: Resolver, script: Answer, reason: str, retryable: bool
) -> None:
    dns.names["a.test"] = script
    with pytest.raises(NameNotResolved, match=r"a\.test") as caught:
        await impatient.resolve("a.test", 80)
    assert (caught.value.reason, caught.value.retryable) == (reason, retryable)
    assert isinstance(caught.value, DNSError)
    assert isinstance(caught.value, OSError)


async def test_a_failure_of_one_record_type_is_no_failure_of_the_name(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["a.test"] = lambda kind, _: [Address("127.0.0.2")] if kind == A else Fail.SERVFAIL
    dns.names["b.test"] = lambda kind, _: Fail.SERVFAIL if kind == A else []
    assert await addresses(resolver, "a.test") == ["127.0.0.2"]
    with pytest.raises(NameNotResolved) as caught:
        await resolver.resolve("b.test", 80)
    assert caught.value.reason == "dns_failed"


async def test_a_dead_nameserver_is_passed_over(dns: DnsServer, guard: Guard) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    resolver = Resolver(guard, nameservers=["127.0.0.1:1", dns.nameserver], lookup_seconds=0.2)
    assert await addresses(resolver, "a.test") == ["127.0.0.2"]
    await resolver.close()


@pytest.mark.parametrize("host", ["a..test", f"{'x' * 64}.test", "", "a b.test", "ex\u00e4mple.test", "a\0.test"])
async def test_what_is_not_a_name_is_not_found_and_not_asked_for(dns: DnsServer, resolver: Resolver, host: str) -> None:
    with pytest.raises(NameNotResolved) as caught:
        await resolver.resolve(host, 80)
    assert (caught.value.reason, dns.questions) == ("dns_not_found", [])


async def test_nameservers_that_are_none_are_named(guard: Guard) -> None:
    resolver = Resolver(guard, nameservers=["not-an-address"])
    with pytest.raises(SettingsError, match=r"dns\.nameservers: not-an-address"):
        await resolver.resolve("a.test", 80)


@pytest.mark.parametrize("host", ["localhost", "localhost.", "a.localhost", "a.b.localhost"])
async def test_localhost_is_this_machine_whatever_dns_says(dns: DnsServer, resolver: Resolver, host: str) -> None:
    dns.names[host] = [Address("127.0.0.2")]
    resolver.allow_host(host, 80)
    assert await addresses(resolver, host) == ["127.0.0.1", "::1"]
    assert dns.questions == []
    assert resolver.snapshot()["lookups"] == 0


async def test_own_nameservers_are_asked_without_hosts_file_and_search_domains(
    dns: DnsServer, resolver: Resolver
) -> None:
    local = [
        name for line in Path("/etc/hosts").read_text().splitlines() for name in line.partition("#")[0].split()[1:]
    ]
    names = [name for name in local if "localhost" not in name and name.isascii()][:1] or ["single-label"]
    dns.names[names[0]] = [Address("127.0.0.3")]
    assert await addresses(resolver, names[0]) == ["127.0.0.3"]
    assert set(dns.questions) == {(names[0], A), (names[0], AAAA)}


# -- cache -------------------------------------------------------------------------------------------------------------


async def test_an_answer_is_kept_for_its_ttl(dns: DnsServer, resolver: Resolver, clock: Clock) -> None:
    dns.names["a.test"] = [Alias("b.test", ttl=30), Address("127.0.0.2", ttl=90)]
    await resolver.resolve("a.test", 80)
    clock.now += 29.9
    await resolver.resolve("a.test", 443)
    assert resolver.snapshot() == {"cached": 1, "pending": 0, "lookups": 1, "hits": 1}
    clock.now += 0.2
    await resolver.resolve("a.test", 80)
    assert resolver.snapshot()["lookups"] == 2


async def test_an_answer_that_asks_not_to_be_kept_is_kept_for_a_second(
    dns: DnsServer, resolver: Resolver, clock: Clock
) -> None:
    dns.names["a.test"] = [Address("127.0.0.2", ttl=0)]
    await resolver.resolve("a.test", 80)
    clock.now += 0.9
    await resolver.resolve("a.test", 80)
    assert dns.count("a.test") == 1
    clock.now += 0.2
    await resolver.resolve("a.test", 80)
    assert dns.count("a.test") == 2


@pytest.mark.parametrize(("cache_seconds", "lookups"), [(300.0, [1, 2]), (10.0, [2, 3]), (0.0, [2, 3])])
async def test_no_answer_is_kept_longer_than_the_setting_says(
    dns: DnsServer, guard: Guard, clock: Clock, cache_seconds: float, lookups: list[int]
) -> None:
    dns.names["a.test"] = [Address("127.0.0.2", ttl=86400)]
    resolver = Resolver(guard, nameservers=[dns.nameserver], cache_seconds=cache_seconds, clock=clock)
    seen = []
    await resolver.resolve("a.test", 80)
    for seconds in (11, 290):
        clock.now += seconds
        await resolver.resolve("a.test", 80)
        seen.append(resolver.snapshot()["lookups"])
    assert seen == lookups
    await resolver.close()


async def test_only_final_failures_are_kept(dns: DnsServer, impatient: Resolver, clock: Clock) -> None:
    dns.names |= {"broken.test": Fail.SERVFAIL, "silent.test": Fail.SILENCE}
    for host, expected in (("missing.test", 1), ("broken.test", 2), ("silent.test", 2)):
        before = impatient.snapshot()["lookups"]
        for _ in range(2):
            with pytest.raises(NameNotResolved):
                await impatient.resolve(host, 80)
        assert impatient.snapshot()["lookups"] - before == expected, host
    clock.now += 5.1
    dns.names["missing.test"] = [Address("127.0.0.2")]
    assert await addresses(impatient, "missing.test") == ["127.0.0.2"]


async def test_the_cache_is_bounded_and_drops_what_was_longest_unused(
    dns: DnsServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_CACHED_NAMES", 3)
    for host in ("a.test", "b.test", "c.test"):
        dns.names[host] = [Address("127.0.0.2")]
        await resolver.resolve(host, 80)
    await resolver.resolve("a.test", 80)
    dns.names["d.test"] = [Address("127.0.0.2")]
    await resolver.resolve("d.test", 80)
    assert resolver.snapshot()["cached"] == 3
    before = resolver.snapshot()["lookups"]
    await resolver.resolve("a.test", 80)
    assert resolver.snapshot()["lookups"] == before
    await resolver.resolve("b.test", 80)
    assert resolver.snapshot()["lookups"] == before + 1


async def test_a_worn_channel_is_replaced_while_lookups_are_under_way(
    dns: DnsServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_LOOKUPS_PER_CHANNEL", 2)
    hosts = [f"h{number}.test" for number in range(20)]
    for number, host in enumerate(hosts):
        dns.names[host] = [Address(f"127.0.0.{2 + number % 7}", ttl=3600)]
    found = await asyncio.gather(*(addresses(resolver, host) for host in hosts))
    assert found == [[f"127.0.0.{2 + number % 7}"] for number in range(20)]


# -- waiting together --------------------------------------------------------------------------------------------------


async def test_all_who_wait_for_a_name_share_one_query(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2", ttl=0)]
    found = await asyncio.gather(*(addresses(resolver, "a.test", port) for port in range(1, 51)))
    assert found == [["127.0.0.2"]] * 50
    assert (dns.count("a.test", A), dns.count("a.test", AAAA)) == (1, 1)


async def test_all_who_wait_for_a_name_get_their_own_error(resolver: Resolver) -> None:
    errors = await asyncio.gather(*(resolver.resolve("missing.test", 80) for _ in range(5)), return_exceptions=True)
    assert len({id(error) for error in errors}) == 5
    assert all(isinstance(error, NameNotResolved) for error in errors)


async def test_a_waiter_that_is_cancelled_leaves_the_others_waiting(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2", ttl=0)]
    dns.delay_seconds["a.test"] = 0.05
    first, second = (asyncio.create_task(addresses(resolver, "a.test")) for _ in range(2))
    await dns.asked.wait()
    first.cancel()
    assert await second == ["127.0.0.2"]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert dns.count("a.test") == 1


async def test_nothing_is_left_when_every_waiter_is_cancelled(dns: DnsServer, impatient: Resolver) -> None:
    dns.names["a.test"] = Fail.SILENCE
    tasks = [asyncio.create_task(impatient.resolve("a.test", 80)) for _ in range(20)]
    await dns.asked.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert impatient.snapshot()["pending"] == 1
    dns.names["a.test"] = [Address("127.0.0.2")]  # the second try of the same lookup
    assert await addresses(impatient, "a.test") == ["127.0.0.2"]
    assert impatient.snapshot() == {"cached": 1, "pending": 0, "lookups": 1, "hits": 0}


async def test_closing_ends_lookups_under_way(
    dns: DnsServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_LOOKUPS_PER_CHANNEL", 1)
    dns.names |= {"a.test": Fail.SILENCE, "b.test": Fail.SILENCE}
    tasks = [asyncio.create_task(resolver.resolve(host, 80)) for host in ("a.test", "b.test")]
    while dns.count("a.test") == 0 or dns.count("b.test") == 0:
        await asyncio.sleep(0)
    await resolver.close()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, NameNotResolved)
        assert error.reason == "dns_failed"
    assert resolver.snapshot()["pending"] == 0


# -- the guard ---------------------------------------------------------------------------------------------------------


async def test_a_name_that_leads_inside_is_blocked(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["evil.test"] = [Address("127.0.0.9")]
    with pytest.raises(AddressBlocked, match=r"evil\.test: 127\.0\.0\.9 is not public \(loopback\)") as caught:
        await resolver.resolve("evil.test", 80)
    assert isinstance(caught.value, BlockedError)
    assert (caught.value.reason, caught.value.retryable) == ("blocked_address", False)


async def test_of_several_addresses_only_the_public_ones_are_given(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["mixed.test"] = [Address("127.0.0.9"), Address("127.0.0.2"), Address("10.0.0.1"), Address("fe80::1")]
    assert await addresses(resolver, "mixed.test") == ["127.0.0.2"]


async def test_a_name_with_many_addresses_gives_a_few_of_both_families(
    dns: DnsServer, guard: Guard, resolver: Resolver
) -> None:
    wide = [f"fd00::{number:x}" for number in range(1, 200)]
    for ip in wide:
        guard.allow(ip, 80)
    dns.names["many.test"] = [*map(Address, wide), Address("127.0.0.2")]
    found = await addresses(resolver, "many.test")
    assert len(found) == 5
    assert "127.0.0.2" in found


async def test_a_host_that_the_user_named_may_be_private(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["wiki.test"] = lambda _, number: [Address(f"127.0.0.{9 + number}", ttl=0)]
    resolver.allow_host("wiki.test", 8080)
    assert await addresses(resolver, "wiki.test", 8080) == ["127.0.0.9"]
    with pytest.raises(AddressBlocked):
        await resolver.resolve("wiki.test", 80)
    resolver.allow_host("WIKI.test.", 80)
    assert await addresses(resolver, "wiki.test", 80) == ["127.0.0.9"]


async def test_a_private_host_may_move_within_its_network(dns: DnsServer, resolver: Resolver, clock: Clock) -> None:
    dns.names["wiki.test"] = lambda _, number: [Address(f"127.0.0.{9 + number}", ttl=0)]
    resolver.allow_host("wiki.test", 80)
    assert await addresses(resolver, "wiki.test") == ["127.0.0.9"]
    clock.now += 2
    assert await addresses(resolver, "wiki.test") == ["127.0.0.10"]


async def test_a_public_host_that_the_user_named_may_not_become_private(
    dns: DnsServer, resolver: Resolver, clock: Clock
) -> None:
    dns.names["shop.test"] = lambda _, number: [Address("127.0.0.9" if number else "127.0.0.2", ttl=0)]
    resolver.allow_host("shop.test", 80)
    assert await addresses(resolver, "shop.test") == ["127.0.0.2"]
    clock.now += 2
    with pytest.raises(AddressBlocked):
        await resolver.resolve("shop.test", 80)
    resolver.allow_host("shop.test", 80)  # a second start URL of the same host
    with pytest.raises(AddressBlocked):
        await resolver.resolve("shop.test", 80)


@pytest.mark.parametrize("host", ["127.0.0.9", "::1", "[::1]"])
def test_an_address_that_the_user_named_is_allowed_at_its_port(guard: Guard, host: str) -> None:
    Resolver(guard).allow_host(host, 8080)
    assert guard.verdict(host.strip("[]"), 8080) is None
    assert guard.verdict(host.strip("[]"), 80) == "loopback"


@pytest.mark.parametrize("host", ["127.0.0.9", "[::1]", "10.0.0.1", "fe80::1%eth0", "localhost", "a.localhost"])
async def test_a_proxy_is_not_asked_for_what_is_inside(resolver: Resolver, host: str) -> None:
    with pytest.raises(AddressBlocked):
        resolver.vet(host, 80)
    resolver.vet("127.0.0.2", 80)
    resolver.vet("example.test", 80)
    if "%" not in host:
        resolver.allow_host(host, 80)
        resolver.vet(host, 80)


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_an_allowed_address_gets_a_plain_socket(guard: Guard) -> None:
    open_socket = make_socket_factory(guard)
    with open_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.2", 80))) as opened:
        assert (opened.family, opened.type, opened.proto) == (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        assert opened.getblocking() is False


def test_a_denied_address_gets_none(guard: Guard) -> None:
    open_socket = make_socket_factory(guard)
    with pytest.raises(AddressBlocked, match=r"127\.0\.0\.9 is not public"):
        open_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.9", 80)))


@pytest.mark.parametrize("host", ["127.0.0.9", "[::ffff:127.0.0.9]", "[::ffff:7f00:9]", "[::7f00:9]"])
async def test_a_literal_is_judged_at_the_socket(guard: Guard, resolver: Resolver, host: str) -> None:
    async with RawServer(HELLO, host="127.0.0.9") as canary, session(guard, resolver) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.get(f"http://{host}:{canary.port}/")
        assert isinstance(caught.value.os_error, AddressBlocked)
        assert canary.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        "2130706441",
        "127.9",
        "0177.0.0.9",
        "0x7f.0.0.9",
        "0x7f000009",
        "127.0.0.9.",
        "１２７.0.0.9",
        "⑫⑦.0.0.9",
        "127。0。0。9",
    ],
)
async def test_no_odd_spelling_of_an_address_gets_past(guard: Guard, resolver: Resolver, host: str) -> None:
    async with RawServer(HELLO, host="127.0.0.9") as canary, session(guard, resolver) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.get(f"http://{host}:{canary.port}/")
        assert canary.connections == 0


class Fixed(AbstractResolver):
    """Gives these addresses without asking any guard."""

    def __init__(self, *ips: str) -> None:
        self._ips = ips

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=ip, port=port, family=family, proto=0, flags=0) for ip in self._ips]

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    "ips", [("127.0.0.9", "127.0.0.2"), ("127.0.0.2", "127.0.0.9"), ("::1", "10.0.0.1", "127.0.0.2")]
)
async def test_at_the_socket_too_the_allowed_one_of_several_is_used(guard: Guard, ips: tuple[str, ...]) -> None:
    connector = aiohttp.TCPConnector(resolver=Fixed(*ips), socket_factory=make_socket_factory(guard))
    async with (
        RawServer(HELLO) as server,
        RawServer(HELLO, host="127.0.0.9", port=server.port) as canary,
        aiohttp.ClientSession(connector=connector) as client,
    ):
        async with client.get(f"http://mixed.test:{server.port}/") as response:
            assert await response.read() == b"hello"
        assert (server.connections, canary.connections) == (1, 0)


async def test_rebinding_never_reaches_the_inside(
    dns: DnsServer, guard: Guard, resolver: Resolver, clock: Clock
) -> None:
    dns.names["evil.test"] = lambda _, number: [Address("127.0.0.9" if number % 2 else "127.0.0.2", ttl=0)]
    dns.names["both.test"] = [Address("127.0.0.9", ttl=0), Address("127.0.0.2", ttl=0)]
    outcomes: list[object] = []
    async with (
        RawServer(HELLO) as server,
        RawServer(HELLO, host="127.0.0.9", port=server.port) as canary,
        session(guard, resolver) as client,
    ):
        resolver.allow_host("evil.test", server.port)
        for number in range(100):
            clock.now += 2
            host = "evil.test" if number % 4 else "both.test"
            try:
                async with client.get(f"http://{host}:{server.port}/") as response:
                    outcomes.append(await response.read())
            except aiohttp.ClientConnectorDNSError as error:
                outcomes.append(type(error.os_error))
        assert canary.connections == 0
        assert server.connections == 63
    assert (outcomes.count(b"hello"), outcomes.count(AddressBlocked)) == (63, 37)


async def test_a_kept_connection_keeps_its_vetted_peer(
    dns: DnsServer, guard: Guard, resolver: Resolver, clock: Clock
) -> None:
    dns.names["evil.test"] = lambda _, number: [Address("127.0.0.9" if number else "127.0.0.2", ttl=0)]
    async with RawServer(answer(b"hello"), keep_alive=True) as server, session(guard, resolver) as client:
        for _ in range(5):
            clock.now += 2
            async with client.get(f"http://evil.test:{server.port}/") as response:
                assert await response.read() == b"hello"
        assert (server.connections, len(server.requests), dns.count("evil.test")) == (1, 5, 1)


async def test_a_dead_ipv6_address_costs_little(dns: DnsServer, guard: Guard, resolver: Resolver) -> None:
    async with RawServer(HELLO) as server, session(guard, resolver) as client:
        guard.allow("::1", server.port)
        dns.names["dual.test"] = [Address("::1"), Address("127.0.0.2")]
        async with asyncio.timeout(1), client.get(f"http://dual.test:{server.port}/") as response:
            assert await response.read() == b"hello"


async def test_requests_at_once_to_one_host_ask_dns_once(dns: DnsServer, guard: Guard, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    async with RawServer(HELLO) as server, session(guard, resolver) as client:

        async def fetch() -> bytes:
            async with client.get(f"http://a.test:{server.port}/") as response:
                return await response.read()

        assert await asyncio.gather(*(fetch() for _ in range(20))) == [b"hello"] * 20
        assert (server.connections, dns.count("a.test")) == (20, 1)


async def test_closing_the_connector_leaves_the_resolver_open(dns: DnsServer, guard: Guard, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    async with session(guard, resolver):
        pass
    assert await addresses(resolver, "a.test") == ["127.0.0.2"]


async def test_a_unix_socket_takes_everything(guard: Guard, resolver: Resolver, tmp_path: Path) -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=request.host)

    path = str(tmp_path / "socket")
    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    async with session(guard, resolver, unix_socket=path) as client, client.get("http://inside.test/") as response:
        assert await response.text() == "inside.test"
    await runner.cleanup()
    assert resolver.snapshot()["lookups"] == 0


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_without_files_aiohttp_has_a_context_already() -> None:
    assert make_ssl_context() is True
    assert make_ssl_context(verify=False) is False


async def test_an_authority_of_ones_own_is_trusted(guard: Guard, resolver: Resolver, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text(AUTHORITY)
    tls = make_ssl_context(ca_file=str(authority))
    assert isinstance(tls, ssl.SSLContext)
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert tls.check_hostname
    async with (
        RawServer(HELLO, tls=server_context(tmp_path, SERVER)) as server,
        session(guard, resolver, tls=tls) as client,
        client.get(server.url) as response,
    ):
        assert await response.read() == b"hello"


async def test_a_client_certificate_is_shown(guard: Guard, resolver: Resolver, tmp_path: Path) -> None:
    (tmp_path / "client.pem").write_text(CLIENT)
    tls = make_ssl_context(verify=False, cert_file=str(tmp_path / "client.pem"))
    assert isinstance(tls, ssl.SSLContext)
    assert tls.verify_mode is ssl.CERT_NONE
    seen: list[object] = []

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert")["subjectAltName"])
        writer.write(HELLO)

    async with (
        RawServer(script, tls=server_context(tmp_path, SERVER, client_authority=AUTHORITY)) as server,
        session(guard, resolver, tls=tls) as client,
        client.get(server.url) as response,
    ):
        assert await response.read() == b"hello"
    assert seen == [(("DNS", "client.test"),)]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("not PEM")
    with pytest.raises(SettingsError, match=r"tls\.ca_file"):
        make_ssl_context(ca_file=str(tmp_path / "missing.pem"))
    with pytest.raises(SettingsError, match=r"tls\.ca_file"):
        make_ssl_context(ca_file=str(broken))
    with pytest.raises(SettingsError, match=r"tls\.cert_file"):
        make_ssl_context(cert_file=str(broken))
