"""Values: one cookie, the cookies a user looks at, and which of them a URL is for (RFC 6265, 5.1.3, 5.1.4, 5.4)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from crawler import url as urls
from crawler.errors import InvalidURL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Cookie",
    "Cookies",
    "Target",
    "default_path",
    "domain_matches",
    "is_address",
    "order",
    "path_matches",
    "place",
]

_Values: TypeAlias = dict[str, str]


class Cookie(msgspec.Struct, frozen=True, array_like=True):
    """One cookie as a jar keeps it (RFC 6265, 5.3). Its value is a secret, so the repr does not show it."""

    name: str
    value: str
    domain: str
    """In lower case, without a leading dot; an IPv6 address without brackets."""
    path: str = "/"
    expires: float | None = None
    """Unix time; None: with the session, which here is the job."""
    host_only: bool = True
    """For the host `domain` alone; False: for the hosts below it too."""
    secure: bool = False
    """Sent over https alone."""
    http_only: bool = False
    same_site: str = ""
    """`strict`, `lax`, `none`, or empty where the server did not say. Kept, not obeyed: a crawler has no site."""
    created: float = 0.0
    """Unix time, and different for each cookie of a jar: the order of cookies with paths of one length."""

    def is_expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now

    def __repr__(self) -> str:
        whose = f"{'' if self.host_only else '.'}{self.domain}{self.path}"
        return f"<Cookie {self.name!r} of {whose!r}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name != "value"]


class Cookies:
    """The cookies of one session at one moment, for reading: what `spider.cookies()` gives. Immutable.

    Iterating gives `Cookie`s, in the order in which they are sent: longer paths first, older first (RFC 6265, 5.4).
    Of several with one name, which differ in domain or path, `[name]`, `get` and `dict` take the first.
    """

    __slots__ = ("_cookies",)

    def __init__(self, cookies: Iterable[Cookie] = ()) -> None:
        self._cookies: Final = tuple(sorted(cookies, key=order))

    def __iter__(self) -> Iterator[Cookie]:
        return iter(self._cookies)

    def __len__(self) -> int:
        return len(self._cookies)

    def __getitem__(self, name: str) -> str:
        """The value. Raises `KeyError`."""
        for cookie in self._cookies:
            if cookie.name == name:
                return cookie.value
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(cookie.name == name for cookie in self._cookies)

    def get(self, name: str, default: str | None = None) -> str | None:
        return next((cookie.value for cookie in self._cookies if cookie.name == name), default)

    def dict(self) -> _Values:
        """Names to values, as `Request(cookies=…)` takes them."""
        values: _Values = {}
        for cookie in self._cookies:
            values.setdefault(cookie.name, cookie.value)
        return values

    def filter(self, url: str) -> Cookies:
        """Those that a request for this URL carries. Raises `InvalidURL`."""
        target = Target.of(urls.normalize(url))
        return Cookies(cookie for cookie in self._cookies if target.takes(cookie))

    def filter_cookies(self, url: str) -> Cookies:
        """aiohttp's word for `filter`."""
        return self.filter(url)

    def __repr__(self) -> str:
        return f"<Cookies {[cookie.name for cookie in self._cookies]}>"


def order(cookie: Cookie) -> tuple[int, float]:
    return -len(cookie.path), cookie.created


# -- matching ----------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """What of a URL matters to cookies. The port does not (RFC 6265, 8.5)."""

    host: str
    domains: tuple[str, ...]
    """Those that the host domain-matches (5.1.3): itself, and unless it is an IP address the names above it."""
    secure: bool
    path: str

    @classmethod
    def of(cls, url: str) -> Target:
        """Of a normalised URL. Raises `InvalidURL` for what plainly is none."""
        host, domains, secure = place(url)
        return cls(host, domains, secure, url[url.find("/", 8) :].partition("?")[0])

    def takes(self, cookie: Cookie) -> bool:
        """RFC 6265, 5.4, step 1."""
        return (
            (cookie.domain == self.host or (not cookie.host_only and cookie.domain in self.domains))
            and (self.secure or not cookie.secure)
            and (cookie.path == "/" or path_matches(self.path, cookie.path))
        )


def place(url: str) -> tuple[str, tuple[str, ...], bool]:
    """The first three of a `Target`. Raises `InvalidURL`."""
    slash = url.find("/", 8)
    if slash < 0:
        raise InvalidURL(f"not a normalised http(s) URL: {urls.redact(url)[:200]!r}")
    return _place(url[:slash])


@lru_cache(maxsize=4096)  # every request asks, mostly of a host that was asked for before
def _place(origin: str) -> tuple[str, tuple[str, ...], bool]:
    host = urls.hostname(f"{origin}/")
    labels = [] if is_address(host) else host.split(".")
    above = (".".join(labels[number:]) for number in range(1, len(labels)))
    return host, (host, *above), origin.startswith("https:")


def is_address(host: str) -> bool:
    """Of a host in a normalised URL: there a last label of digits makes it an IPv4 address."""
    return ":" in host or (host[-1:].isdigit() and host.rpartition(".")[2].isdigit())


def domain_matches(host: str, domain: str) -> bool:
    """RFC 6265, 5.1.3: whether `host` is `domain` or, unless it is an IP address, below it. Both in lower case."""
    return host == domain or (host.endswith(f".{domain}") and not is_address(host))


def path_matches(path: str, cookie_path: str) -> bool:
    """RFC 6265, 5.1.4: whether `path` is `cookie_path` or below it. Escapes are compared as written."""
    return path == cookie_path or (
        path.startswith(cookie_path) and (cookie_path.endswith("/") or path[len(cookie_path)] == "/")
    )


def default_path(path: str) -> str:
    """5.1.4: the folder of a request's path, which begins with a slash."""
    return path[: path.rindex("/")] or "/"
