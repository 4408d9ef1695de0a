"""Names to addresses: against a scripted DNS server, with and without time passing."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crawler.download import lookup, resolve
from crawler.download.resolve import AddressBlocked, NameNotResolved, Resolver
from crawler.errors import DNSError, SettingsError
from crawler.testing.names import AAAA, A, Address, Alias, Answer, DnsServer, Fail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Clock

    from crawler.guard import Guard


@pytest.fixture
async def impatient(dns: DnsServer, guard: Guard, clock: Clock) -> AsyncIterator[Resolver]:
    """Tries again after 0.2 s."""
    resolver = Resolver(guard, nameservers=[dns.nameserver], lookup_seconds=0.2, clock=clock)
    yield resolver
    await resolver.close()


async def addresses(resolver: Resolver, host: str, port: int = 80) -> list[str]:
    return [result["host"] for result in await resolver.resolve(host, port)]


async def failure(resolver: Resolver, host: str) -> str:
    """The reason why a name does not resolve."""
    with pytest.raises(NameNotResolved) as caught:
        await resolver.resolve(host, 80)
    return caught.value.reason


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


@pytest.mark.hostile("R-14")
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


@pytest.mark.hostile("R-14")
async def test_an_answer_that_is_too_long_for_udp_comes_over_tcp(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["many.test"] = [Address(f"127.{1 + number // 250}.{number % 250}.2") for number in range(500)]
    dns.truncated.add("many.test")
    with pytest.raises(AddressBlocked):
        await resolver.resolve("many.test", 80)
    dns.names["some.test"] = [Address("127.0.0.2")]
    dns.truncated.add("some.test")
    assert await addresses(resolver, "some.test") == ["127.0.0.2"]
    assert dns.tcp_questions == 4


@pytest.mark.hostile("R-14")
async def test_an_answer_of_somebody_else_is_not_believed(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    dns.forged["a.test"] = [Address("127.0.0.3")]
    assert await addresses(resolver, "a.test") == ["127.0.0.2"]


async def test_aliases_that_lead_nowhere_are_not_found(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["loop.test"] = [Alias(f"loop{number % 3}.test") for number in range(50)]
    assert await failure(resolver, "loop.test") == "dns_not_found"


async def test_a_name_is_the_same_in_either_case(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    assert await addresses(resolver, "A.Test") == await addresses(resolver, "a.test") == ["127.0.0.2"]
    assert resolver.snapshot()["lookups"] == 1


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


async def test_a_failure_that_may_pass_is_kept_for_a_second_and_a_final_one_for_longer(
    dns: DnsServer, impatient: Resolver, clock: Clock
) -> None:
    dns.names |= {"broken.test": Fail.SERVFAIL, "silent.test": Fail.SILENCE}
    reasons = {"missing.test": "dns_not_found", "broken.test": "dns_failed", "silent.test": "dns_timeout"}
    for host, reason in reasons.items():
        assert await failure(impatient, host) == reason
    for seconds, forgotten in ((0.9, 0), (0.2, 2), (4.0, 1)):
        clock.now += seconds
        before = impatient.snapshot()["lookups"]
        for host, reason in reasons.items():
            if host != "missing.test" and seconds == 4.0:
                continue
            assert await failure(impatient, host) == reason
        assert impatient.snapshot()["lookups"] - before == forgotten


async def test_many_who_ask_a_dead_server_are_one_question_a_second(
    dns: DnsServer, impatient: Resolver, clock: Clock
) -> None:
    dns.names["a.test"] = Fail.SERVFAIL
    for _ in range(3):
        outcomes = await asyncio.gather(
            *(impatient.resolve("a.test", port) for port in range(1, 65)), return_exceptions=True
        )
        outcomes += await asyncio.gather(impatient.resolve("a.test", 80), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {NameNotResolved}
        clock.now += 1.1
    assert impatient.snapshot()["lookups"] == 3


@pytest.mark.parametrize("script", [Fail.NXDOMAIN, Fail.SERVFAIL, [Address("127.0.0.2", ttl=0)]])
async def test_whatever_the_settings_say_every_answer_is_kept_for_a_second(
    dns: DnsServer, guard: Guard, clock: Clock, script: Answer
) -> None:
    dns.names["a.test"] = script
    resolver = Resolver(guard, nameservers=[dns.nameserver], cache_seconds=0, negative_cache_seconds=0, clock=clock)
    for seconds, lookups in ((0.0, 1), (0.9, 1), (0.2, 2)):
        clock.now += seconds
        await asyncio.gather(resolver.resolve("a.test", 80), return_exceptions=True)
        assert resolver.snapshot()["lookups"] == lookups
    await resolver.close()


@pytest.mark.hostile("S45")
async def test_the_cache_is_bounded_and_drops_what_was_longest_unused(dns: DnsServer, guard: Guard) -> None:
    resolver = Resolver(guard, nameservers=[dns.nameserver], cache_names=3)
    dns.names |= {host: [Address("127.0.0.2")] for host in ("a.test", "b.test", "c.test", "d.test")}
    for host in ("a.test", "b.test", "c.test", "a.test", "d.test"):
        await resolver.resolve(host, 80)
    assert resolver.snapshot() == {"cached": 3, "pending": 0, "lookups": 4, "hits": 1}
    assert (resolver.known("a.test"), resolver.known("b.test")) == (True, False)
    await resolver.close()


async def test_a_worn_channel_is_replaced_while_lookups_are_under_way(
    dns: DnsServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_LOOKUPS_PER_CHANNEL", 2)
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
    dns.hold("a.test")
    first, second = (asyncio.create_task(addresses(resolver, "a.test")) for _ in range(2))
    await dns.asked("a.test")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    dns.release("a.test")
    assert await second == ["127.0.0.2"]
    assert dns.count("a.test") == 1


@pytest.mark.hostile("R-15")
async def test_nothing_is_left_when_every_waiter_is_cancelled(dns: DnsServer, resolver: Resolver) -> None:
    hosts = [f"h{number}.test" for number in range(50)]
    dns.names |= {host: [Address("127.0.0.2")] for host in hosts}
    dns.hold(*hosts)
    tasks = [asyncio.create_task(resolver.resolve(host, 80)) for host in hosts for _ in range(4)]
    await asyncio.gather(*(dns.asked(host) for host in hosts))
    ahead = [resolver.prefetch(host) for host in hosts]
    for waiting in [*tasks, *ahead]:
        assert waiting is not None
        waiting.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert resolver.snapshot() == {"cached": 0, "pending": 50, "lookups": 50, "hits": 0}
    dns.release(*hosts)  # what was asked is answered, and kept for whoever comes next
    assert await addresses(resolver, hosts[0]) == ["127.0.0.2"]
    assert await addresses(resolver, hosts[-1]) == ["127.0.0.2"]
    assert resolver.snapshot()["lookups"] == 50


async def test_closing_ends_lookups_under_way(
    dns: DnsServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_LOOKUPS_PER_CHANNEL", 1)
    dns.names |= {"a.test": Fail.SILENCE, "b.test": Fail.SILENCE}
    tasks = [asyncio.create_task(resolver.resolve(host, 80)) for host in ("a.test", "b.test")]
    await asyncio.gather(dns.asked("a.test"), dns.asked("b.test"))
    await resolver.close()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, NameNotResolved)
        assert error.reason == "dns_failed"
    assert resolver.snapshot()["pending"] == 0


# -- static hosts ------------------------------------------------------------------------------------------------------


async def test_hosts_that_the_user_wrote_down_are_never_asked_for(dns: DnsServer, guard: Guard) -> None:
    hosts = {"API.test": "127.0.0.2, ::1", "v6.test.": "[fd00::7]"}
    resolver = Resolver(guard, hosts=hosts, nameservers=[dns.nameserver])
    for host in ("api.test", "Api.Test", "api.test."):
        assert await addresses(resolver, host) == ["127.0.0.2", "::1"]
    assert await addresses(resolver, "v6.test") == ["fd00::7"]
    assert resolver.known("api.TEST.")
    assert resolver.prefetch("api.test") is None
    assert (dns.questions, resolver.snapshot()["lookups"]) == ([], 0)
    await resolver.close()


async def test_their_addresses_may_be_private_and_nobody_elses(dns: DnsServer, guard: Guard) -> None:
    resolver = Resolver(guard, hosts={"api.test": "127.0.0.9"}, nameservers=[dns.nameserver])
    dns.names |= {host: [Address("127.0.0.9")] for host in ("evil.test", "sub.api.test")}
    assert await addresses(resolver, "api.test", 80) == await addresses(resolver, "api.test", 443) == ["127.0.0.9"]
    assert guard.verdict("127.0.0.9", 8080) == "loopback"
    for host in ("evil.test", "sub.api.test"):
        with pytest.raises(AddressBlocked):
            await resolver.resolve(host, 8080)
    await resolver.close()


async def test_a_family_that_none_of_them_has_is_not_found(guard: Guard) -> None:
    resolver = Resolver(guard, hosts={"api.test": "127.0.0.2"})
    with pytest.raises(NameNotResolved):
        await resolver.resolve("api.test", 80, socket.AF_INET6)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("localhost", "10.0.0.1", "RFC 6761"),
        ("a.LOCALHOST.", "127.0.0.1", "RFC 6761"),
        ("api.test", "other.test", "expected IP addresses, got 'other.test'"),
        ("api.test", "10.0.0.1, 10.0.0", "expected IP addresses"),
        ("api.test", "fe80::1%eth0", "expected IP addresses"),
        ("api.test", " , ", "expected IP addresses"),
    ],
)
def test_hosts_that_are_none_are_named(guard: Guard, name: str, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=rf"dns\.hosts: {name}.*{words}"):
        Resolver(guard, hosts={name: text})


# -- ahead -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "[::1]", "localhost", "a.localhost"])
async def test_what_needs_no_lookup_is_known(resolver: Resolver, host: str) -> None:
    assert resolver.known(host)
    assert resolver.prefetch(host) is None
    assert resolver.snapshot()["lookups"] == 0


async def test_a_name_is_known_once_it_was_looked_up_ahead(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    assert not resolver.known("a.test")
    waiting = resolver.prefetch("a.test")
    assert waiting is not None
    assert not resolver.known("a.test")
    await waiting
    assert resolver.known("A.test")
    assert resolver.prefetch("a.test") is None
    assert await addresses(resolver, "a.test") == ["127.0.0.2"]
    assert resolver.snapshot() == {"cached": 1, "pending": 0, "lookups": 1, "hits": 1}


@pytest.mark.parametrize(
    ("host", "script"),
    [
        ("a.test", Fail.NXDOMAIN),
        ("a.test", Fail.SERVFAIL),
        ("a.test", Fail.SILENCE),
        ("a..test", Fail.NXDOMAIN),
        ("not a name", Fail.NXDOMAIN),
        ("a\0.test", Fail.NXDOMAIN),
        ("ex\u00e4mple.test", Fail.NXDOMAIN),
    ],
)
async def test_a_failure_is_known_too_and_raised_when_it_is_needed(
    dns: DnsServer, impatient: Resolver, host: str, script: Answer
) -> None:
    dns.names[host] = script
    waiting = impatient.prefetch(host)
    assert waiting is not None
    await waiting
    assert impatient.known(host)
    await failure(impatient, host)
    assert impatient.snapshot()["hits"] == 1


async def test_lookups_ahead_and_waiters_share_one_query(dns: DnsServer, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    dns.hold("a.test")
    ahead = [resolver.prefetch("a.test") for _ in range(3)]
    waiter = asyncio.create_task(addresses(resolver, "a.test"))
    await dns.asked("a.test")
    for waiting in ahead[:2]:
        assert waiting is not None
        waiting.cancel()
    dns.release("a.test")
    assert await waiter == ["127.0.0.2"]
    assert ahead[2] is not None
    await ahead[2]
    assert dns.count("a.test") == 1


@pytest.mark.parametrize("script", [Fail.SERVFAIL, Fail.NXDOMAIN, [Address("127.0.0.2", ttl=0)]])
async def test_an_answer_waits_for_the_request_it_was_meant_for(
    dns: DnsServer, resolver: Resolver, clock: Clock, script: Answer
) -> None:
    dns.names["a.test"] = script
    waiting = resolver.prefetch("a.test")
    assert waiting is not None
    await waiting
    clock.now += 59
    assert resolver.known("a.test")
    await asyncio.gather(resolver.resolve("a.test", 80), return_exceptions=True)
    assert resolver.snapshot()["lookups"] == 1
    assert not resolver.known("a.test")  # it was for one request, and is too old for others


async def test_an_expired_answer_is_not_the_one_that_is_waited_for(
    dns: DnsServer, resolver: Resolver, clock: Clock
) -> None:
    dns.names["a.test"] = lambda _, number: [Address("127.0.0.3" if number else "127.0.0.2", ttl=0)]
    assert await addresses(resolver, "a.test") == ["127.0.0.2"]
    clock.now += 2
    ahead = [resolver.prefetch("a.test"), resolver.prefetch("a.test")]
    assert not resolver.known("a.test")
    await asyncio.gather(*filter(None, ahead))
    assert len(list(filter(None, ahead))) == 2
    assert await addresses(resolver, "a.test") == ["127.0.0.3"]


async def test_an_answer_waits_from_when_it_came(dns: DnsServer, resolver: Resolver, clock: Clock) -> None:
    dns.names["a.test"] = [Address("127.0.0.2", ttl=0)]
    dns.hold("a.test")
    waiting = resolver.prefetch("a.test")
    assert waiting is not None
    await dns.asked("a.test")
    clock.now += 50
    dns.release("a.test")
    await waiting
    clock.now += 50
    assert resolver.known("a.test")


async def test_an_answer_does_not_wait_for_ever(dns: DnsServer, resolver: Resolver, clock: Clock) -> None:
    dns.names["a.test"] = [Address("127.0.0.2", ttl=0)]
    waiting = resolver.prefetch("a.test")
    assert waiting is not None
    await waiting
    clock.now += 61
    assert not resolver.known("a.test")


async def test_so_many_are_looked_up_ahead_and_no_more(
    dns: DnsServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "_AHEAD_NAMES", 3)
    hosts = [f"h{number}.test" for number in range(5)]
    dns.names |= {host: [Address("127.0.0.2")] for host in hosts}
    dns.hold(*hosts[:3])
    ahead = [resolver.prefetch(host) for host in hosts]
    assert [waiting is not None for waiting in ahead] == [True, True, True, False, False]
    assert resolver.prefetch(hosts[0]) is not None  # to join one takes no place
    assert await addresses(resolver, hosts[4]) == ["127.0.0.2"]  # and who waits itself needs none
    await asyncio.gather(*(dns.asked(host) for host in hosts[:3]))
    dns.release(*hosts[:3])
    await asyncio.gather(*filter(None, ahead))
    assert resolver.prefetch(hosts[3]) is not None


@pytest.mark.hostile("R-15")
async def test_slow_names_hold_up_no_others(dns: DnsServer, resolver: Resolver) -> None:
    slow = [f"slow{number}.test" for number in range(60)]
    quick = [f"quick{number}.test" for number in range(50)]
    dns.names |= {host: [Address("127.0.0.2")] for host in slow + quick}
    dns.hold(*slow)
    ahead = [resolver.prefetch(host) for host in slow]
    await asyncio.gather(*(dns.asked(host) for host in slow))
    assert await asyncio.gather(*(addresses(resolver, host) for host in quick)) == [["127.0.0.2"]] * 50
    assert resolver.snapshot()["pending"] == 60
    dns.release(*slow)
    await asyncio.gather(*filter(None, ahead))
    assert all(map(resolver.known, slow))


@pytest.mark.hostile("S45")
async def test_nothing_grows_with_the_names_that_were_met(
    dns: DnsServer, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_LOOKUPS_PER_CHANNEL", 100)
    resolver = Resolver(guard, nameservers=[dns.nameserver], cache_names=50)
    for start in range(0, 600, 60):
        hosts = [f"h{start + number}.test" for number in range(60)]
        dns.names |= {host: [Address("127.0.0.2")] for host in hosts[:30]}
        await asyncio.gather(*filter(None, map(resolver.prefetch, hosts)))
        await asyncio.gather(*(resolver.resolve(host, 80) for host in hosts[20:40]), return_exceptions=True)
    gc.collect()
    assert resolver.snapshot()["cached"] == 50
    assert resolver.snapshot()["pending"] == 0
    assert len(resolver._ahead) <= 50
    assert len(resolver._lookups._retired) <= 1
    await resolver.close()
