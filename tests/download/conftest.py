"""What the tests of names and connections share: a guard for which part of loopback is the internet, and a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crawler.download.resolve import Resolver
from crawler.guard import Guard
from crawler.testing.names import DnsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PUBLIC = ("127.0.0.2/31", "127.0.0.4/30", "127.0.0.8/32")
"""127.0.0.2 to 127.0.0.8 stand for the public internet, the rest of loopback for what must not be reached."""


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
