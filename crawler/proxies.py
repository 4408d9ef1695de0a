"""Which proxy a request takes, and which proxies rest: pure decisions over `proxy.urls`.

A proxy that fails is left alone for a while, each time in a row for twice as long. Two things make that harder than
it sounds. When a proxy dies, everything in flight through it fails within the same second, and that is one failure: so
each outcome says when its request began, and what began before the last rest is old news. And a failure behind a proxy
may be the site's: a CONNECT that times out looks the same whether the proxy hangs or the site does. Such a one is only
a doubt; several in a row, with no answer in between, are a failure.

After its rest a proxy is on probation: one request tries it, the others stay away until that one was answered.
"""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crawler.errors import FetchError

__all__ = ["Blame", "ProxyPool", "authorization", "blame", "credentials", "is_socks", "redacted", "with_credentials"]

_REMEMBERED: Final = 16_384
"""Hosts or sessions whose proxy is kept, because to choose one takes a hash, 1 us, of each proxy."""
_DOUBTS: Final = 3
"""In a row. One may be a dead site; three without an answer in between seldom are."""
_MAX_DOUBLINGS: Final = 32
"""More are beyond any `max_rest_seconds`, and in the end beyond a float."""

# -- URLs of proxies ---------------------------------------------------------------------------------------------------

_PORTS: Final = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}


def is_socks(url: str) -> bool:
    """Whether it is a SOCKS proxy: those need a connector of their own (`crawler.download.socks`)."""
    return url[:5].lower() == "socks"


def redacted(url: str) -> str:
    """`scheme://host:port`: how a proxy is named in logs and statistics, and dialled.

    The port is always there, by default 80, 443 for https and 1080 for SOCKS. Raises `ValueError`, which shows nothing
    of the URL, for what is no http, https, socks4(a) or socks5(h) URL with a host.
    """
    parts, port = _parsed(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"


def credentials(url: str) -> tuple[str, str] | None:
    """User and password of a proxy's URL, unescaped. Raises `ValueError` as `redacted` does."""
    parts, _ = _parsed(url)
    if not (parts.username or parts.password):
        return None
    return unquote(parts.username or ""), unquote(parts.password or "")


def with_credentials(url: str, user: str, password: str) -> str:
    """The proxy's URL with these in place of its own. Raises `ValueError` as `redacted` does."""
    scheme, _, address = redacted(url).partition("://")
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{address}"


def authorization(url: str) -> str | None:
    """The value of Proxy-Authorization for this proxy (Basic, RFC 7617, in UTF-8); None where its URL has no user.

    Raises `ValueError` as `redacted` does, and for a user with a colon in it, which Basic cannot carry.
    """
    known = credentials(url)
    if known is None:
        return None
    if ":" in known[0]:
        raise ValueError("the user name of a proxy cannot contain a colon")
    return "Basic " + base64.b64encode(":".join(known).encode()).decode("ascii")


def _parsed(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        usual = _PORTS[parts.scheme]  # for its scheme is wrong with a port, too
        port = parts.port or usual
        # An `@` behind the host is the rest of a password that holds an unescaped `/`, `?` or `#`.
        if parts.hostname and parts.port != 0 and "@" not in url[url.index(parts.netloc) + len(parts.netloc) :]:
            return parts, port
    except (ValueError, KeyError):  # their words quote the URL
        pass
    raise ValueError("not the URL of a proxy: http, https, socks5 or socks5h://[user:password@]host[:port]")


# -- whose fault it was ------------------------------------------------------------------------------------------------


class Blame(enum.Enum):
    """Whose fault it was that a request through a proxy gave no response."""

    PROXY = "proxy"
    """It could not be reached, did not accept our credentials, or did not speak its protocol."""
    UNCLEAR = "unclear"
    """The proxy's or the site's: both look the same from here."""
    OTHERS = "others"
    """The site's or our own."""


_PROXYS: Final = frozenset({"proxy", "dns_not_found", "dns_timeout", "dns_failed"})
"""The only name that is looked up here is the proxy's own."""
_UNCLEAR: Final = frozenset(
    {
        "proxy_tunnel",  # a CONNECT answered 502, SOCKS "general failure": nothing to be had there, or nothing anywhere
        "connect",
        "connect_reset",
        "connect_timeout",
        "disconnected",
        "protocol",
        "read_timeout",
        "tls",
        "total_timeout",
    }
)


def blame(error: FetchError) -> Blame:
    """Judge an error by its reason. For requests that went through a proxy only.

    An answer shows that the proxy works, but for one: 407 without a tunnel, to a request for an http URL. Take that for
    a doubt, because a site can send it as well. In a tunnel it is the site's without question.
    """
    if error.reason in _PROXYS:
        return Blame.PROXY
    return Blame.UNCLEAR if error.reason in _UNCLEAR else Blame.OTHERS


# -- the pool ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Health:
    """Of a proxy that failed since it last answered."""

    failures: int = 0
    doubts: int = 0
    rested_at: float = float("-inf")
    resting_until: float = float("-inf")
    on_trial_until: float = float("-inf")

    def is_away(self, now: float) -> bool:
        return now < self.resting_until or now < self.on_trial_until


class ProxyPool:
    """The proxies of a crawl, in rotation `per` request, host or session.

    `"request"`: each in its turn. `"host"` and `"session"`: each host (or session) keeps one, the same in every process
    that has the same list; while it rests only its own hosts move to others, and they come back when it does.
    `rest_seconds` is the first pause of a proxy that fails, doubled each time in a row up to `max_rest_seconds`.
    Times are seconds of any one clock. A URL listed twice counts once. Raises `ValueError` for an empty list and for a
    URL that is none of a proxy.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        per: Literal["request", "host", "session"] = "host",
        rest_seconds: float = 30.0,
        max_rest_seconds: float = 900.0,
    ) -> None:
        self._urls = tuple(dict.fromkeys(urls))
        if not self._urls:
            raise ValueError("a pool needs a proxy")
        self._names = dict(zip(self._urls, _unique([redacted(url) for url in self._urls]), strict=True))
        self._seeds = {url: blake2b(url.encode(), digest_size=8) for url in self._urls}
        self._per = per
        self._rest_seconds = rest_seconds
        self._max_rest_seconds = max_rest_seconds
        self._next = 0
        self._ailing: dict[str, _Health] = {}
        self._kept: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._urls)

    def __contains__(self, url: object) -> bool:
        return url in self._names

    def __repr__(self) -> str:
        return f"<ProxyPool per={self._per} proxies={len(self._urls)} ailing={len(self._ailing)}>"

    def name(self, url: str) -> str:
        """How a proxy of the pool is named: as `redacted` has it; of several accounts at one address, the second and
        later ones with their number: `http://gate.example:7000 #2`."""
        return self._names[url]

    def snapshot(self, now: float) -> dict[str, dict[str, float]]:
        """By name: `failures` in a row, and `resting_seconds` until the proxy is tried again (0 where it is in use)."""
        shown = {}
        for url, name in self._names.items():
            health = self._ailing.get(url, _Health())
            resting = max(0.0, health.resting_until - now)
            shown[name] = {"failures": health.failures, "resting_seconds": round(resting, 3)}
        return shown

    def choose(self, host: str, session: str | None, now: float) -> str:
        """The URL of the proxy for a request to this host in this session, with its credentials.

        Of the resting ones only where all rest: then the one that comes back soonest.
        """
        url = self._chosen(host if self._per == "host" else session or "", now)
        health = self._ailing.get(url)
        if health is not None and health.failures and now >= health.resting_until:
            health.on_trial_until = now + self._rest_seconds
        return url

    def failed(self, url: str, *, began: float, now: float, sure: bool = True) -> float | None:
        """A request through it failed, and by `blame` it was, or (not `sure`) may have been the proxy's fault.

        `began` is when the proxy was chosen for it. Returns for how many seconds the proxy rests from now on, or None
        where this changed nothing: it belongs to a failure that is counted already, it is a doubt, or the proxy is not
        of this pool.
        """
        if url not in self._names:
            return None
        health = self._ailing.setdefault(url, _Health())
        if began <= health.rested_at:
            return None
        if not sure and not health.failures:
            health.doubts += 1
            if health.doubts < _DOUBTS:
                return None
        pause = min(self._rest_seconds * 2.0 ** min(health.failures, _MAX_DOUBLINGS), self._max_rest_seconds)
        self._ailing[url] = _Health(failures=health.failures + 1, rested_at=now, resting_until=now + pause)
        return pause

    def succeeded(self, url: str, *, began: float) -> bool:
        """It gave an answer; whether that ended a row of failures. One to a request that began before the last rest is
        no news: connections that were open may outlive the proxy's health."""
        health = self._ailing.get(url)
        if health is None or began <= health.rested_at:
            return False
        del self._ailing[url]
        return health.failures > 0

    # -- choosing ------------------------------------------------------------------------------------------------------

    def _chosen(self, kept_for: str, now: float) -> str:
        url: str | None
        if self._per == "request":
            url = self._in_turn(now)
        else:
            url = self._kept.get(kept_for) or self._keep(kept_for)
            if self._is_away(url, now):
                url = self._first(kept_for, [other for other in self._urls if not self._is_away(other, now)])
        return url or min(self._ailing, key=lambda other: self._ailing[other].resting_until)

    def _in_turn(self, now: float) -> str | None:
        for step in range(len(self._urls)):
            at = (self._next + step) % len(self._urls)
            if not self._is_away(self._urls[at], now):
                self._next = at + 1
                return self._urls[at]
        return None

    def _keep(self, kept_for: str) -> str:
        if len(self._kept) >= _REMEMBERED:
            self._kept.clear()
        url = self._kept[kept_for] = self._first(kept_for, self._urls) or self._urls[0]
        return url

    def _first(self, kept_for: str, urls: Iterable[str]) -> str | None:
        # Highest random weight (Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996): each host
        # ranks all proxies by a hash of both, so without one of them only those that had it first choose anew.
        key = kept_for.encode()

        def weight(url: str) -> bytes:
            ranked = self._seeds[url].copy()
            ranked.update(key)
            return ranked.digest()

        return max(urls, key=weight, default=None)

    def _is_away(self, url: str, now: float) -> bool:
        health = self._ailing.get(url)
        return health is not None and health.is_away(now)


def _unique(names: list[str]) -> list[str]:
    met: dict[str, int] = {}
    unique = []
    for name in names:
        met[name] = met.get(name, 0) + 1
        unique.append(name if met[name] == 1 else f"{name} #{met[name]}")
    return unique
