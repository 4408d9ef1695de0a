"""The test kit: real servers on loopback, a fake clock, whole crawls in a test. The project's own tests use it.

    async def test_my_spider_reads_the_title():
        async with LocalSite() as site:
            site.page("/", "<title>Hello</title>")
            result = await run_spider(MySpider, args={"site": site.url})
        assert result.items == [{"title": "Hello"}]

A callback alone needs no server: `fake_response(url, html)` makes its argument. Where a spider's requests are to be
answered without one, `offline()` gives an `aioresponses` that works with the aiohttp of today.

The web is not always nice. `LocalSite(chaos=Chaos(0.2, seed=1))` fails as sites do, `RawServer` sends any bytes,
`DnsServer` answers for any name, `Canary` sees whether anybody came, and `Authority` signs what a TLS server needs.
"""

from __future__ import annotations

from crawler.testing.authority import Authority
from crawler.testing.canary import Canary
from crawler.testing.chaos import Chaos
from crawler.testing.clock import FakeClock
from crawler.testing.crawls import Run, run_spider
from crawler.testing.fakes import fake_response, offline
from crawler.testing.names import DnsServer
from crawler.testing.raw import RawServer
from crawler.testing.site import Hit, LocalSite

__all__ = [
    "Authority",
    "Canary",
    "Chaos",
    "DnsServer",
    "FakeClock",
    "Hit",
    "LocalSite",
    "RawServer",
    "Run",
    "fake_response",
    "offline",
    "run_spider",
]
