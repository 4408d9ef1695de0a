"""The table `frontier`: where requests wait, alone or shared with other workers."""

from __future__ import annotations

from typing import Annotated, Literal

from crawler.settings.declared import key
from crawler.settings.masking import Masked
from crawler.settings.values import check_frontier, check_name

__all__ = ["FrontierSettings"]


class FrontierSettings(Masked, frozen=True, kw_only=True):
    """Where requests wait."""

    url: Annotated[
        str | None,
        key(
            "empty = the job folder; memory:// = lost with the process; redis://HOST:PORT/DB (rediss:// with TLS, "
            "redis+cluster:// for a Cluster) = shared with other workers",
            "URL",
            check=check_frontier,
        ),
    ] = None
    # Some 4 KB a host with the rest of what is known of it; looking up the next ones costs 2 us each.
    window: Annotated[
        int,
        key(
            "how many of each host's next requests have their place in memory; at most twice as many; the rest is on "
            "disk alone",
            "requests",
            ge=1,
        ),
    ] = 32
    durability: Annotated[
        Literal["process", "power"],
        key(
            "process: whatever kills the process, nothing is lost; a power failure costs at most the last second. "
            "power: every epoch is synced to the disk before the next one ends"
        ),
    ] = "process"
    crawl: Annotated[
        str, key("shared: which of several crawls on the engine; empty = the spider's name", check=check_name)
    ] = ""
    worker: Annotated[
        str,
        key(
            "shared: this worker's name; whoever comes under it again continues its outputs; empty = HOST-PID",
            check=check_name,
        ),
    ] = ""
    # Longer than any pause of a healthy process; a worker that was killed is replaced after it.
    lease_seconds: Annotated[
        float, key("shared: a worker that is not heard of for so long has lost what it had", "seconds", ge=2)
    ] = 60.0
    shards: Annotated[
        int, key("shared: in how many parts it is kept; fixed when the crawl is made", "parts", ge=1, le=4096)
    ] = 4
    # Sets of 64 fingerprints take 10 bytes each; they may grow to 512 before that doubles.
    expected_urls: Annotated[
        int, key("shared: how many URLs it will know, about; fixed when the crawl is made", "URLs", ge=1000)
    ] = 1_000_000
    allow_unprotected: Annotated[
        bool, key("shared: use an engine on another machine although it asks for no password")
    ] = False
