"""Addresses to sockets, and sockets to connections that are used again or not: against real listeners."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from deaf_server import deaf_listener

from crawler.download.connect import FreshConnections, make_connector, make_socket_factory, make_unix_connector
from crawler.download.resolve import AddressBlocked, Resolver
from crawler.guard import Guard
from crawler.testing.names import Address, DnsServer
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import Clock

HELLO = answer(b"hello", "Connection: close")


@asynccontextmanager
async def session(guard: Guard, resolver: Resolver, **options: object) -> AsyncIterator[aiohttp.ClientSession]:
    connector = make_connector(guard=guard, resolver=resolver, **options)  # type: ignore[arg-type]
    async with aiohttp.ClientSession(connector=connector) as client:
        yield client


async def fetch(client: aiohttp.ClientSession, url: str) -> bytes:
    async with client.get(url) as response:
        return await response.read()


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


@pytest.mark.hostile("S01", "S03")
@pytest.mark.parametrize("host", ["127.0.0.9", "[::ffff:127.0.0.9]", "[::ffff:7f00:9]", "[::7f00:9]"])
async def test_a_literal_is_judged_at_the_socket(guard: Guard, resolver: Resolver, host: str) -> None:
    async with RawServer(HELLO, host="127.0.0.9") as canary, session(guard, resolver) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.get(f"http://{host}:{canary.port}/")
        assert isinstance(caught.value.os_error, AddressBlocked)
        assert canary.connections == 0


@pytest.mark.hostile("S02")
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


@pytest.mark.hostile("S04")
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


@pytest.mark.hostile("S04")
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


@pytest.mark.hostile("S04")
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


async def test_requests_at_once_to_one_host_ask_dns_once(dns: DnsServer, guard: Guard, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    async with RawServer(HELLO) as server, session(guard, resolver) as client:
        url = f"http://a.test:{server.port}/"
        assert await asyncio.gather(*(fetch(client, url) for _ in range(20))) == [b"hello"] * 20
        assert (server.connections, dns.count("a.test")) == (20, 1)


async def test_closing_the_connector_leaves_the_resolver_open(dns: DnsServer, guard: Guard, resolver: Resolver) -> None:
    dns.names["a.test"] = [Address("127.0.0.2")]
    async with session(guard, resolver):
        pass
    assert [result["host"] for result in await resolver.resolve("a.test", 80)] == ["127.0.0.2"]


# -- several addresses -------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-14")
async def test_an_address_that_does_not_answer_costs_a_moment_and_not_the_time_out(guard: Guard) -> None:
    resolver = Resolver(guard, hosts={"two.test": "127.0.0.2, 127.0.0.3"})
    with deaf_listener("127.0.0.2") as port:
        async with RawServer(HELLO, host="127.0.0.3", port=port) as server:
            async with session(guard, resolver, happy_eyeballs_seconds=0.02) as client, asyncio.timeout(20):
                began = time.monotonic()
                assert await fetch(client, f"http://two.test:{port}/") == b"hello"
                assert 0.02 <= time.monotonic() - began < 10
            limit = aiohttp.ClientTimeout(connect=0.2)
            async with session(guard, resolver, happy_eyeballs_seconds=0) as client:
                with pytest.raises(aiohttp.ConnectionTimeoutError):  # nothing stands beside the first address
                    await client.get(f"http://two.test:{port}/", timeout=limit)
            assert server.connections == 1


@pytest.mark.parametrize("happy_eyeballs_seconds", [30.0, 0.0])
async def test_an_address_that_refuses_costs_nothing(guard: Guard, happy_eyeballs_seconds: float) -> None:
    resolver = Resolver(guard, hosts={"dual.test": "::1, 127.0.0.2"})
    async with (
        RawServer(HELLO) as server,
        session(guard, resolver, happy_eyeballs_seconds=happy_eyeballs_seconds) as client,
    ):
        began = time.monotonic()
        assert await fetch(client, f"http://dual.test:{server.port}/") == b"hello"
        assert time.monotonic() - began < 10


async def test_the_first_address_is_the_one_that_is_used(guard: Guard) -> None:
    resolver = Resolver(guard, hosts={"two.test": "127.0.0.3, 127.0.0.2"})
    async with (
        RawServer(HELLO) as second,
        RawServer(HELLO, host="127.0.0.3", port=second.port) as first,
        session(guard, resolver) as client,
    ):
        assert await fetch(client, f"http://two.test:{first.port}/") == b"hello"
        assert (first.connections, second.connections) == (1, 0)


# -- our own end -------------------------------------------------------------------------------------------------------


async def test_our_end_has_the_address_it_was_given(guard: Guard, resolver: Resolver) -> None:
    peers: list[str] = []

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        writer.write(HELLO)

    async with RawServer(script) as server, session(guard, resolver, local_address="127.0.0.5") as client:
        guard.allow("::1", server.port)
        assert await fetch(client, server.url) == b"hello"
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.get(f"http://[::1]:{server.port}/")
        assert caught.value.os_error.errno == errno.EAFNOSUPPORT
        assert "::1 cannot be reached from the local address 127.0.0.5" in str(caught.value.os_error)
    assert peers == ["127.0.0.5"]


async def test_of_both_families_the_one_of_our_end_is_used(guard: Guard) -> None:
    resolver = Resolver(guard, hosts={"dual.test": "::1, 127.0.0.2"})
    async with RawServer(HELLO) as server, session(guard, resolver, local_address="127.0.0.5") as client:
        assert await fetch(client, f"http://dual.test:{server.port}/") == b"hello"


async def test_an_address_that_is_not_ours_is_named(guard: Guard, resolver: Resolver) -> None:
    async with RawServer(HELLO) as server, session(guard, resolver, local_address="192.0.2.1") as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.get(server.url)
        assert server.connections == 0
    assert caught.value.os_error.errno == errno.EADDRNOTAVAIL
    assert "cannot use the local address 192.0.2.1" in str(caught.value.os_error)


async def test_the_port_of_our_end_is_not_taken_before_it_is_needed(guard: Guard) -> None:
    open_socket = make_socket_factory(guard, "127.0.0.5")
    with open_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.2", 80))) as opened:
        assert opened.getsockname() == ("127.0.0.5", 0)


# -- connections that are kept -----------------------------------------------------------------------------------------


class Tcp(FreshConnections, aiohttp.TCPConnector):
    pass


@asynccontextmanager
async def keeping(**options: object) -> AsyncIterator[tuple[aiohttp.ClientSession, RawServer]]:
    """A session over `FreshConnections`, and a server that keeps its connections."""
    async with RawServer(answer(b"hello"), keep_alive=True) as server:
        resolver = Resolver(Guard(), hosts={f"{letter}.test": "127.0.0.2" for letter in "abcde"})
        async with aiohttp.ClientSession(connector=Tcp(resolver=resolver, **options)) as client:
            yield client, server


async def test_fifty_requests_in_a_row_take_one_connection(guard: Guard, resolver: Resolver) -> None:
    async with RawServer(answer(b"hello"), keep_alive=True) as server, session(guard, resolver) as client:
        for _ in range(50):
            assert await fetch(client, server.url) == b"hello"
        assert (server.connections, len(server.requests)) == (1, 50)


async def test_a_connection_that_is_too_old_is_not_used_again(clock: Clock) -> None:
    async with keeping(lifetime_seconds=10, clock=clock) as (client, server):
        for seconds, connections in ((0, 1), (9.9, 1), (0.2, 2), (9.9, 2), (10, 3)):
            clock.now += seconds
            await fetch(client, server.url)
            assert server.connections == connections


async def test_of_several_old_connections_none_is_used_again(clock: Clock) -> None:
    async with keeping(lifetime_seconds=10, clock=clock) as (client, server):
        await asyncio.gather(*(fetch(client, server.url) for _ in range(5)))
        assert server.connections == 5
        clock.now += 11
        await fetch(client, server.url)
        await fetch(client, server.url)
        assert server.connections == 6


async def test_an_answer_that_takes_longer_than_a_life_arrives(clock: Clock) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock.now += 11
        writer.write(answer(b"hello"))

    async with (
        RawServer(script, keep_alive=True) as server,
        aiohttp.ClientSession(connector=Tcp(lifetime_seconds=10, clock=clock)) as client,
    ):
        assert await fetch(client, server.url) == b"hello"
        assert await fetch(client, server.url) == b"hello"
        assert server.connections == 2


async def test_without_a_limit_connections_live_as_long_as_they_are_used(clock: Clock) -> None:
    async with keeping(clock=clock) as (client, server):
        for _ in range(3):
            await fetch(client, server.url)
            clock.now += 1e6
        assert server.connections == 1


async def test_no_more_connections_are_kept_than_there_may_be_open() -> None:
    async with keeping(most_open=2) as (client, server):
        urls = {letter: f"http://{letter}.test:{server.port}/" for letter in "abcde"}
        for letter in "abcd":
            await fetch(client, urls[letter])
        assert server.connections == 4
        for letter in "abab":
            await fetch(client, urls[letter])
        assert server.connections == 4  # those two were kept
        for letter in "cd":
            await fetch(client, urls[letter])
        assert server.connections == 6  # and these not


async def test_connections_that_were_closed_do_not_count() -> None:
    async with keeping(most_open=2) as (client, server), RawServer(HELLO) as closing:
        for _ in range(10):
            await fetch(client, closing.url)
        for _ in range(3):
            await fetch(client, server.url)
        assert (closing.connections, server.connections) == (10, 1)


async def test_more_than_may_be_kept_may_still_be_open_at_once() -> None:
    async with keeping(most_open=2) as (client, server):
        assert await asyncio.gather(*(fetch(client, server.url) for _ in range(20))) == [b"hello"] * 20


async def test_by_default_half_of_the_files_may_be_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    for limits, expected in (((256, 4096), 128), ((resource.RLIM_INFINITY,) * 2, 1 << 20)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        async with Tcp() as connector:
            assert connector._most_open == expected


async def test_kept_for_no_time_is_not_kept_at_all(guard: Guard, resolver: Resolver) -> None:
    left = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"hello"))
        if await reader.read(1) == b"":
            left.set()

    async with RawServer(script) as server, session(guard, resolver, keepalive_seconds=0) as client:
        await fetch(client, server.url)
        await asyncio.wait_for(left.wait(), 20)  # and not when the session closes
        await fetch(client, server.url)
        assert server.connections == 2


# -- Unix sockets ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def unix_server(path: str) -> AsyncIterator[list[Any]]:
    """The connections that came; held, so that none has the identity of an earlier one."""
    connections: list[Any] = []

    async def hello(request: web.Request) -> web.Response:
        if request.transport not in connections:
            connections.append(request.transport)
        return web.Response(text=request.host)

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    yield connections
    await runner.cleanup()


async def test_a_unix_socket_takes_every_host_over_connections_that_are_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with (
        unix_server(path) as connections,
        aiohttp.ClientSession(connector=make_unix_connector(path)) as client,
    ):
        for _ in range(3):
            assert await fetch(client, "http://inside.test/") == b"inside.test"
        assert await fetch(client, "http://127.0.0.9:81/") == b"127.0.0.9:81"
        assert len(connections) == 2


async def test_connections_of_a_unix_socket_have_a_lifetime_too(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    connector = make_unix_connector(path, lifetime_seconds=1e-9)
    async with unix_server(path) as connections, aiohttp.ClientSession(connector=connector) as client:
        for _ in range(3):
            await fetch(client, "http://inside.test/")
        assert len(connections) == 3
