"""Names that fail, lie or keep us waiting: each has its reason and its retry, and no other host pays for it."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from deaf_server import deaf_listener
from test_dns_flow import Visitor

from crawler.download import lookup, ways
from crawler.download.resolve import AddressBlocked, NameNotResolved, Resolver
from crawler.testing import DnsServer, LocalSite, RawServer, run_spider
from crawler.testing.names import Address, Alias, Fail
from crawler.testing.raw import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.guard import Guard

SITE = Address("127.0.0.2")
PUBLIC = ["127.0.0.2/31", "127.0.0.4/30", "127.0.0.8/32"]


def asking(dns: DnsServer, **more: Any) -> dict[str, Any]:
    return {
        "dns": {"nameservers": [dns.nameserver]},
        "security": {"allow_networks": PUBLIC},
        "politeness": {"obey_robots": False},
        **more,
    }


class Case(NamedTuple):
    script: Any
    reason: str = ""
    """Empty: there is a page."""
    tries: int = 1
    how: str = ""


CASES = {
    "nxdomain": Case(Fail.NXDOMAIN, "dns_not_found"),
    "empty": Case([], "dns_not_found"),
    "alias-to-nothing": Case([Alias("elsewhere.test")], "dns_not_found"),
    "alias-loop": Case([*(Alias(f"loop{n}.test") for n in range(49)), Alias("alias-loop.test")], "dns_not_found"),
    "servfail": Case(Fail.SERVFAIL, "dns_failed", 2),
    "refused": Case(Fail.REFUSED, "dns_failed", 2),
    "silent": Case(Fail.SILENCE, "dns_timeout", 2),
    "wrong-id": Case([SITE], "dns_timeout", 2, "wrong id"),
    "not-ours": Case([SITE], "dns_timeout", 2, "another question"),
    "malformed": Case([SITE], "dns_failed", 2, "cut short"),
    "many-aliases": Case([*(Alias(f"alias{n}.test") for n in range(50)), SITE]),
    "truncated": Case([SITE], how="truncated"),
    "forged-first": Case([SITE], how="forged"),
    "five-hundred": Case([*(Address(f"10.1.{n // 250}.{n % 250}") for n in range(499)), SITE], how="truncated"),
    "no-time-to-live": Case([Address("127.0.0.2", ttl=0)]),
    "good": Case([SITE]),
}


def prepare(dns: DnsServer, name: str, case: Case) -> None:
    mangles: dict[str, Callable[[bytes], bytes]] = {
        "wrong id": lambda reply: bytes(byte ^ 1 for byte in reply[:2]) + reply[2:],
        "another question": lambda reply: reply.replace(name.encode(), b"x" * len(name)),
        "cut short": lambda reply: reply[:11],
    }
    full = f"{name}.test"
    dns.names[full] = case.script
    if case.how in mangles:
        dns.mangled[full] = mangles[case.how]
    elif case.how == "truncated":
        dns.truncated.add(full)
    elif case.how == "forged":
        dns.forged[full] = [Address("127.0.0.9")]


@pytest.mark.hostile("R-14")
async def test_each_way_in_which_a_name_fails_has_its_reason_and_its_retry_and_other_hosts_do_not_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "_LEAST_SECONDS", 0.05)
    async with DnsServer() as dns, LocalSite("127.0.0.2") as site:
        site.page("*", "hello")
        port = site.url.rpartition(":")[2]
        for name, case in CASES.items():
            prepare(dns, name, case)
        urls = tuple(f"http://{name}.test:{port}/" for name in CASES)
        # Time enough for each of a lookup's two tries, and no more.
        settings = asking(dns, http={"connect_seconds": 0.6}, retry={"times": 1, "base_seconds": 0.01})
        run = await run_spider(Visitor, args={"urls": urls}, settings=settings)
    told = {item["url"]: (item.get("reason", ""), item.get("attempts", 1)) for item in run.items}
    assert told == {url: case[1:3] for url, case in zip(urls, CASES.values(), strict=True)}
    assert run.stats["retries"] == sum(case.tries - 1 for case in CASES.values())
    assert run.stats["pages"] == sum(not case.reason for case in CASES.values())


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.hostile("R-14")
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest.mark.parametrize("is_deaf", [False, True])
async def test_a_dead_address_of_ipv6_beside_a_live_one_costs_a_moment(is_deaf: bool) -> None:
    async with DnsServer() as dns, RawServer(answer(b"hello"), host="127.0.0.2") as site:
        dns.names["dual.test"] = [Address("::1"), SITE]
        dns.names["lonely.test"] = [Address("::1")]
        with deaf_listener("::1", site.port) if is_deaf else socket.socket():
            settings = asking(dns, retry={"times": 0}, http={"connect_seconds": 30, "happy_eyeballs_seconds": 0.05})
            settings["security"] = {"allow_networks": [*PUBLIC, "::1/128"]}
            urls = [f"http://dual.test:{site.port}/"]
            if not is_deaf:  # that alone would take until the time-out
                urls.append(f"http://lonely.test:{site.port}/")
            async with asyncio.timeout(15):
                run = await run_spider(Visitor, args={"urls": tuple(urls)}, settings=settings)
    assert {item["url"]: item.get("reason", "") for item in run.items} == dict(
        zip(urls, ("", "connect_refused"), strict=False)
    )


# -- packets that are none ---------------------------------------------------------------------------------------------

_HEADER = 12


def mutated(reply: bytes, chance: Random) -> bytes:
    """The reply with bytes flipped, cut, doubled, or made to point at themselves; its id stays, so that it is read."""
    body = bytearray(reply)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(2, len(body))
        kind = chance.randrange(7)
        if kind == 0:
            body[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del body[at:]
        elif kind == 2:  # a pointer, to itself or anywhere
            body[at : at + 2] = (0xC000 | chance.choice((at, at - 1, _HEADER, chance.randrange(0x4000)))).to_bytes(2)
        elif kind == 3:
            body[at : at + 2] = chance.choice((b"\xff\xff", b"\0\0", b"\x80\x00", b"\x00\x01"))
        elif kind == 4:
            body[at:at] = body[at : at + chance.randint(1, 40)]
        elif kind == 5:  # more records than there are
            body[4:_HEADER] = chance.randbytes(8)
        else:
            body += chance.randbytes(chance.randint(1, 200))
        if len(body) < 4:
            break
    return bytes(reply[:2] + body[2:])


@pytest.mark.hostile("R-14")
async def test_no_packet_breaks_a_lookup_whatever_its_bytes_nor_any_other_lookup(guard: Guard) -> None:
    chance = Random(20260801)
    outcomes: dict[bool, list[str]] = {True: [], False: []}

    async def resolve(name: str) -> None:
        told = outcomes[name in dns.mangled]
        try:
            found = await resolver.resolve(name, 80)
        except (NameNotResolved, AddressBlocked) as error:
            told.append(error.reason)
        else:
            told.append("")
            assert {each["host"] for each in found} <= {"127.0.0.2", "127.0.0.3"} or name in dns.mangled

    async with DnsServer() as dns:
        names = [f"name{number}.test" for number in range(500)]
        for number, name in enumerate(names):
            dns.names[name] = [Alias(f"a{number}.test"), SITE, Address("127.0.0.3"), Address("fe80::1")]
            if number % 5:
                dns.mangled[name] = lambda reply: mutated(reply, chance)
        resolver = Resolver(guard, nameservers=[dns.nameserver], lookup_seconds=0.5)
        for start in range(0, len(names), 50):
            await asyncio.gather(*map(resolve, names[start : start + 50]))
        assert resolver.snapshot()["pending"] == 0
        await resolver.close()
    assert outcomes[False] == [""] * 100
    assert len(outcomes[True]) == 400
    assert {"", "dns_failed"} <= set(outcomes[True])
    assert set(outcomes[True]) <= {"", "dns_not_found", "dns_failed", "dns_timeout", "blocked_address"}


@pytest.mark.hostile("R-14")
async def test_names_that_are_asked_again_after_a_malformed_reply_end_with_the_resolver(
    dns: DnsServer, resolver: Resolver
) -> None:
    names = [f"name{number}.test" for number in range(5)]
    dns.names = {name: [SITE] for name in [*names, "poison.test"]}
    dns.mangled["poison.test"] = lambda reply: reply[:11]
    dns.hold(*names)
    waiting = [asyncio.ensure_future(resolver.resolve(name, 80)) for name in names]
    await asyncio.gather(*map(dns.asked, names))
    waiting.append(asyncio.ensure_future(resolver.resolve("poison.test", 80)))
    alone = [asyncio.ensure_future(dns.asked(name, 3)) for name in names]  # after two tries beside the others
    async with asyncio.timeout(20):
        await asyncio.wait(alone, return_when=asyncio.FIRST_COMPLETED)
    for each in alone:
        each.cancel()
    await resolver.close()
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {getattr(outcome, "reason", None) for outcome in outcomes} == {"dns_failed"}


# -- names that keep us waiting ----------------------------------------------------------------------------------------

SLOW = [f"slow{number}.test" for number in range(20)]
QUICK = [f"quick{number}.test" for number in range(80)]


@pytest.mark.hostile("R-15")
async def test_while_a_fifth_of_the_names_are_not_answered_all_other_hosts_are_crawled_to_their_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "LOOKUP_SECONDS", 60.0)  # they are slow, however long the others take
    async with DnsServer() as dns, LocalSite("127.0.0.2") as site:
        site.page("*", "hello")
        port = site.url.rpartition(":")[2]
        dns.names = {name: [SITE] for name in SLOW + QUICK}
        dns.hold(*SLOW)
        seen: list[int] = []

        async def release() -> None:
            await site.reached(2 * len(QUICK))
            seen.extend((len(site.journal), sum(hit.host.startswith("slow") for hit in site.journal)))
            dns.release(*SLOW)

        urls = tuple(f"http://{name}:{port}/{page}" for page in range(2) for name in SLOW + QUICK)
        # Fewer places than slow names: none may hold one.
        settings = asking(dns, crawl={"concurrency": 6}, http={"connect_seconds": 150})
        async with asyncio.TaskGroup() as group:
            group.create_task(release())
            run = await run_spider(Visitor, args={"urls": urls}, settings=settings)
    assert seen == [2 * len(QUICK), 0]
    assert sorted(item["url"] for item in run.items) == sorted(urls)
    assert run.stats["errors"] == run.stats["retries"] == 0
    assert run.stats["requests"] == len(urls)


@pytest.mark.hostile("R-15")
async def test_a_crawl_that_is_cancelled_while_names_are_not_answered_leaves_no_task() -> None:
    async with DnsServer() as dns:
        dns.names = {name: [SITE] for name in SLOW}
        dns.hold(*SLOW)
        before = asyncio.all_tasks()
        urls = tuple(f"http://{name}/" for name in SLOW)
        crawl = asyncio.create_task(run_spider(Visitor, args={"urls": urls}, settings=asking(dns)))
        await asyncio.gather(*map(dns.asked, SLOW))
        crawl.cancel()
        with pytest.raises(asyncio.CancelledError):
            await crawl
        assert asyncio.all_tasks() == before


# -- names without end -------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S45")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux")
async def test_names_without_end_take_less_than_a_kilobyte_each_and_that_is_the_test_servers(
    dns: DnsServer, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_LOOKUPS_PER_CHANNEL", 100)
    dns.names["*.test"] = [Address("127.0.0.2")]
    resolver = Resolver(guard, nameservers=[dns.nameserver], cache_names=100)

    async def look_up(first: int, count: int) -> int:
        for start in range(first, first + count, 100):
            hosts = (f"host-with-a-name-of-usual-length-{number}.test" for number in range(start, start + 100))
            await asyncio.gather(*(resolver.resolve(host, 80) for host in hosts))
            dns.questions.clear()
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    warm = await look_up(0, 1000)
    grown = await look_up(1000, 1200) - warm
    await resolver.close()
    assert resolver.snapshot()["lookups"] == 2200
    assert grown < 1200 * 1024
