"""Cookie jars by session name: requests of one session share cookies, another name is another visitor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

    import yarl

__all__ = ["CookieJars"]


class CookieJars:
    """One `aiohttp.CookieJar` for each session name, made when first used; None is the default jar.

    `enabled=False` keeps and sends none but those given with a request. `unsafe=True` takes cookies from IP addresses.
    """

    def __init__(self, *, enabled: bool = True, unsafe: bool = False) -> None:
        self._enabled = enabled
        self._unsafe = unsafe
        self._jars: dict[str | None, aiohttp.CookieJar] = {}

    def header(self, session: str | None, url: yarl.URL, own: Mapping[str, str] | None) -> str:
        """The `Cookie` field for this URL: the jar's cookies, and `own`, which win. Empty where there are none."""
        jar = self._jars.get(session)
        pairs: dict[str, str] = {}
        if jar is not None and self._enabled:
            pairs = {name: morsel.coded_value for name, morsel in jar.filter_cookies(url).items()}
        if own:
            pairs.update(own)
        return "; ".join(f"{name}={value}" for name, value in pairs.items())

    def store(self, session: str | None, url: yarl.URL, response: aiohttp.ClientResponse) -> None:
        """Keep what the response set."""
        if not self._enabled or "Set-Cookie" not in response.headers:
            return
        jar = self._jars.get(session)
        if jar is None:
            jar = self._jars[session] = aiohttp.CookieJar(unsafe=self._unsafe)
        jar.update_cookies(response.cookies, url)

    def __repr__(self) -> str:
        return f"<CookieJars { ({name or 'default': len(jar) for name, jar in self._jars.items()}) }>"
