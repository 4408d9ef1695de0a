"""What a name may lead to: whom the guard lets through, and what a host that the user named may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crawler.download.resolve import AddressBlocked, Resolver
from crawler.errors import BlockedError
from crawler.testing.names import Address, DnsServer

if TYPE_CHECKING:
    from conftest import Clock

    from crawler.guard import Guard


async def addresses(resolver: Resolver, host: str, port: int = 80) -> list[str]:
    return [result["host"] for result in await resolver.resolve(host, port)]


@pytest.mark.hostile("S01")
async def test_a_name_that_leads_inside_is_blocked(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["evil.test"] = [Address("127.0.0.9")]
    with pytest.raises(AddressBlocked, match=r"evil\.test: 127\.0\.0\.9 is not public \(loopback\)") as caught:
        await resolver.resolve("evil.test", 80)
    assert isinstance(caught.value, BlockedError)
    assert (caught.value.reason, caught.value.retryable) == ("blocked_address", False)


@pytest.mark.hostile("S04")
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


@pytest.mark.hostile("S04")
async def test_a_private_host_stays_where_it_was_when_it_was_named(
    dns: DnsServer, resolver: Resolver, guard: Guard, clock: Clock
) -> None:
    dns.names["wiki.test"] = lambda _, number: [Address(f"127.0.0.{9 + number}", ttl=0)]
    resolver.allow_host("wiki.test", 80)
    assert await addresses(resolver, "wiki.test") == ["127.0.0.9"]
    clock.now += 2
    with pytest.raises(AddressBlocked, match=r"127\.0\.0\.10 is not public .*security\.allow_networks"):
        await resolver.resolve("wiki.test", 80)
    resolver.allow_host("wiki.test", 80)  # a second start URL of the same host
    clock.now += 2
    with pytest.raises(AddressBlocked):
        await resolver.resolve("wiki.test", 80)
    assert guard.verdict("127.0.0.10", 80) == "loopback"


@pytest.mark.hostile("S04")
@pytest.mark.parametrize("ips", [("127.0.0.2", "127.0.0.9"), ("127.0.0.9", "127.0.0.2"), ("::1", "127.0.0.2")])
async def test_of_a_host_that_the_user_named_only_what_is_public_counts_where_anything_is(
    dns: DnsServer, resolver: Resolver, guard: Guard, ips: tuple[str, str]
) -> None:
    dns.names["both.test"] = [Address(ip) for ip in ips]
    resolver.allow_host("both.test", 80)
    assert await addresses(resolver, "both.test") == ["127.0.0.2"]
    assert guard.verdict("127.0.0.9", 80) == guard.verdict("::1", 80) == "loopback"


async def test_of_a_private_hosts_many_addresses_a_few_are_opened(
    dns: DnsServer, resolver: Resolver, guard: Guard
) -> None:
    dns.names["many.test"] = [Address(f"10.0.0.{number}") for number in range(1, 30)]
    resolver.allow_host("many.test", 80)
    found = await addresses(resolver, "many.test")
    opened = [ip for number in range(1, 30) if guard.verdict(ip := f"10.0.0.{number}", 80) is None]
    assert (sorted(opened), len(opened)) == (sorted(found), 4)


@pytest.mark.hostile("S04")
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


@pytest.mark.hostile("S06")
@pytest.mark.parametrize("host", ["127.0.0.9", "[::1]", "10.0.0.1", "fe80::1%eth0", "localhost", "a.localhost"])
async def test_a_proxy_is_not_asked_for_what_is_inside(resolver: Resolver, host: str) -> None:
    with pytest.raises(AddressBlocked):
        resolver.vet(host, 80)
    resolver.vet("127.0.0.2", 80)
    resolver.vet("example.test", 80)
    if "%" not in host:
        resolver.allow_host(host, 80)
        resolver.vet(host, 80)
