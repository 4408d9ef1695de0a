"""The table `status`: the page that a running crawl serves."""

from __future__ import annotations

from typing import Annotated

from crawler.settings.declared import key
from crawler.settings.masking import Masked
from crawler.settings.values import check_host_name, check_listen, check_token

__all__ = ["StatusSettings"]


class StatusSettings(Masked, frozen=True, kw_only=True):
    """What is served while a crawl runs: `/healthz`, `/readyz`, `/metrics`, `/status`."""

    # Off: whoever runs one crawl on one machine has the live line.
    listen: Annotated[
        str | None,
        key(
            'serve the status page here, such as "127.0.0.1:9090"; ":9090" is loopback, "0.0.0.0:9090" everywhere, '
            "port 0 a free one; empty = off",
            "address:port",
            check=check_listen,
        ),
    ] = None
    # A page in somebody's browser can have its own name lead to 127.0.0.1 (DNS rebinding), but not under this one.
    hosts: Annotated[
        tuple[str, ...],
        key("names under which it may be asked; addresses and localhost always may", "names", check=check_host_name),
    ] = ()
    # What a crawl fetches is its user's business; whether it lives is the orchestrator's, too.
    token: Annotated[
        str | None,
        key(
            "what /metrics and /status ask for, as `Authorization: Bearer …`, of 16 characters or more; empty = they "
            "answer loopback alone",
            check=check_token,
        ),
    ] = None
