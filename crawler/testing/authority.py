"""A certificate authority that lives as long as a test."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority"]


class Authority:
    """Signs certificates for servers on loopback. Needs `pip install crawler[testing]`.

    authority = Authority()
    async with LocalSite(tls=authority.server("127.0.0.1")) as site:
        settings = {"tls": {"ca_file": str(authority.save(tmp_path))}}
        await run_spider(MySpider, args={"site": site.url}, settings=settings)
    """

    def __init__(self) -> None:
        self._authority: Any = _trustme().CA()

    def server(self, *names: str) -> ssl.SSLContext:
        """The context of a server that is known by these host names or IP addresses (127.0.0.1 and localhost unless
        given)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
        return context

    def save(self, folder: Path) -> Path:
        """Write the authority's own certificate into `folder`, as `tls.ca_file` takes it; its path."""
        path = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(path))
        return path


def _trustme() -> Any:
    try:
        import trustme
    except ImportError as error:
        raise ImportError("crawler.testing.Authority needs trustme: pip install 'crawler[testing]'") from error
    return trustme
