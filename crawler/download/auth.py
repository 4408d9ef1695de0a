"""Credentials that the settings bind to hosts: whoever else asks for them gets none."""

from __future__ import annotations

import base64
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import aiohttp
from multidict import CIMultiDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    import yarl

__all__ = ["Credentials"]

_PORTS: Final = {"http": 80, "https": 443}
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Credentials:
    """`http.auth`, `http.digest_auth` and `http.host_headers`: by host (`"example.com"`, at its usual ports), by host
    and port, or by origin (`"https://example.com:8443"`). A login is `"user:password"`, headers are one a line."""

    def __init__(
        self, basic: Mapping[str, str], digest: Mapping[str, str], headers: Mapping[str, str] = _NOTHING
    ) -> None:
        self._headers: dict[tuple[str, str, int], CIMultiDict[str]] = {}
        for owner in sorted(headers, key=lambda owner: "://" in owner):  # what is said of an origin wins
            fields = dict(line.split(": ", 1) for line in headers[owner].splitlines())
            for origin in _origins(owner):
                self._headers.setdefault(origin, CIMultiDict()).update(fields)
        self._basic = {
            origin: f"Basic {base64.b64encode(login.encode()).decode('ascii')}"
            for owner, login in basic.items()
            for origin in _origins(owner)
        }
        self._digest: dict[tuple[str, str, int], _Digest] = {}
        for owner, login in digest.items():
            user, _, password = login.partition(":")
            for origin in _origins(owner):  # one each: it answers the challenges of the first origin that it meets
                self._digest[origin] = _Digest(user, password)

    def headers(self, url: yarl.URL) -> tuple[CIMultiDict[str], str]:
        """What this URL's origin gets: its headers, and of them apart what stands in `Cookie`, beside the jar's."""
        fields = CIMultiDict(self._headers.get(_origin(url), ()))
        return fields, fields.pop("Cookie", "")

    @property
    def has_digest(self) -> bool:
        return bool(self._digest)

    def basic(self, url: yarl.URL) -> str | None:
        """The Authorization field for this URL (RFC 7617), or None. One with a user of its own keeps that."""
        if not self._basic or url.raw_user is not None:
            return None
        return self._basic.get(_origin(url))

    def digest(self, url: yarl.URL) -> tuple[aiohttp.ClientMiddlewareType, ...]:
        """What answers the challenge of this URL's origin (RFC 7616), as aiohttp's `middlewares` of one request."""
        found = self._digest.get(_origin(url)) if self._digest else None
        return () if found is None else (found,)

    def __repr__(self) -> str:
        return f"<Credentials basic={len(self._basic)} digest={len(self._digest)} headers={len(self._headers)}>"


class _Digest(aiohttp.DigestAuthMiddleware):
    """Lets go of the challenge before its answer is sent: aiohttp leaves it to the garbage collector, and a long one
    with it the connection."""

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        challenge: aiohttp.ClientResponse | None = None

        async def send(asked: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
            nonlocal challenge
            if challenge is not None:
                challenge.close()
            challenge = await handler(asked)
            return challenge

        return await super().__call__(request, send)


def _origin(url: yarl.URL) -> tuple[str, str, int]:
    return url.scheme, url.raw_host or "", url.port or 0


def _origins(owner: str) -> list[tuple[str, str, int]]:
    scheme, _, host = owner.rpartition("://")
    name, colon, port = host.rpartition(":")
    if not (colon and port.isdigit()) or host.endswith("]"):
        name, port = host, ""
    schemes = [scheme] if scheme else list(_PORTS)
    return [(each, name.strip("[]"), int(port) if port else _PORTS[each]) for each in schemes]
