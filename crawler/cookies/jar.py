"""Keeping cookies (RFC 6265, 5.3), within limits, and choosing those for a request (5.4)."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from msgspec.structs import replace

from crawler.cookies.cookie import Cookie, Target, default_path, domain_matches, is_address, order, path_matches, place
from crawler.cookies.reading import RefusedError, SetCookie, check_characters, parse_set_cookie
from crawler.cookies.suffixes import is_public_suffix, registrable_domain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Allowance", "CookieJar", "Refused"]

_Key: TypeAlias = tuple[str, str, str]
"""Domain, path and name: a second cookie with these replaces the first (5.3, step 11)."""


class Refused(NamedTuple):
    """A cookie that was not kept, and why. The name is as the server sent it: escape it before it is shown."""

    name: str
    why: str


class Allowance:
    """How many cookies the jars that share it may hold: `total` together, `per_site` of one registrable domain each.

    What is too much goes in the order of RFC 6265, 5.3: expired cookies, those of a site with too many, then any; among
    equals the one that was set or sent longest ago.
    """

    def __init__(self, total: int = 3000, per_site: int = 50) -> None:
        self.total = total
        self.per_site = per_site
        self._turns: OrderedDict[tuple[CookieJar, _Key], int] = OrderedDict()
        self._turn = 0
        self._first_expiry = math.inf
        """No cookie expires before."""

    def used(self, jar: CookieJar, key: _Key) -> None:
        entry = (jar, key)
        self._turn += 1
        self._turns[entry] = self._turn
        self._turns.move_to_end(entry)

    def expect(self, expires: float | None) -> None:
        """A cookie that came will expire then."""
        if expires is not None and expires < self._first_expiry:
            self._first_expiry = expires

    def forget(self, jar: CookieJar, key: _Key) -> None:
        del self._turns[jar, key]

    def oldest(self, jar: CookieJar, keys: Iterable[_Key]) -> _Key:
        return min(keys, key=lambda key: self._turns[jar, key])

    def enforce(self, now: float) -> None:
        """Take from the jars what is over `total`."""
        if len(self._turns) <= self.total:
            return
        if self._first_expiry <= now:
            jars = {jar for jar, _ in self._turns}
            for jar in jars:
                jar.expire(now)
            left = (cookie.expires for jar in jars for cookie in jar if cookie.expires is not None)
            self._first_expiry = min(left, default=math.inf)
        while len(self._turns) > self.total:
            jar, key = next(iter(self._turns))
            jar.drop(key)

    def __len__(self) -> int:
        return len(self._turns)

    def __repr__(self) -> str:
        return f"<Allowance {len(self)} of {self.total}>"


def _key(cookie: Cookie) -> _Key:
    return cookie.domain, cookie.path, cookie.name


class CookieJar:
    """The cookies of one visitor (RFC 6265). `now` is Unix time; URLs are as `crawler.url.normalize` makes them.

    `unsafe` takes cookies from hosts that are IP addresses, for that very address. `allowance` is shared by jars that
    have one limit together; without it this jar has its own. `changed` is called with each cookie that came (True) or
    went (False); one that replaces another only comes, and nothing is said of one that replaces its like.
    """

    def __init__(
        self,
        *,
        unsafe: bool = False,
        allowance: Allowance | None = None,
        changed: Callable[[Cookie, bool], None] | None = None,
    ) -> None:
        self._unsafe = unsafe
        self._allowance = Allowance() if allowance is None else allowance
        self._changed = changed
        self._domains: dict[str, dict[_Key, Cookie]] = {}
        self._sites: dict[str, dict[_Key, None]] = {}
        self._latest = 0.0
        """The creation time of the youngest."""

    # -- the server's side

    def store(self, url: str, set_cookie_values: Iterable[str], now: float) -> list[Refused]:
        """Keep what a response from `url` sets, line by line; those that were not kept, and why.

        A cookie that has expired deletes the one it would replace. Raises `InvalidURL` for a URL that is not
        normalised, and nothing whatever the lines are.
        """
        target = Target.of(url)
        refused = []
        for text in set_cookie_values:
            try:
                found = parse_set_cookie(text, now)
                if not self._unsafe and is_address(target.host):
                    raise RefusedError("from an IP address", found.name)
                self._keep(_admitted(found, target, now), target, now)
            except RefusedError as error:
                refused.append(Refused(error.name, str(error)))
        return refused

    def _keep(self, cookie: Cookie, target: Target, now: float) -> None:
        key = _key(cookie)
        if not target.secure and self._hides_secure(cookie):
            raise RefusedError("would replace a Secure one, but not over https", cookie.name)
        old = self._domains.get(cookie.domain, {}).get(key)
        if cookie.is_expired(now):
            if old is not None:
                self.drop(key)
            return
        created = max(now, math.nextafter(self._latest, math.inf)) if old is None else old.created
        self._put(replace(cookie, created=created), now)

    def _hides_secure(self, cookie: Cookie) -> bool:
        """6265bis, 5.7, "leave secure cookies alone"."""
        for domain, path, name in self._sites.get(_site(cookie.domain), ()):
            if name == cookie.name and self._domains[domain][domain, path, name].secure:
                related = domain_matches(domain, cookie.domain) or domain_matches(cookie.domain, domain)
                if related and path_matches(cookie.path, path):
                    return True
        return False

    # -- the request's side

    def header(self, url: str, now: float) -> str:
        """The value of the Cookie field for a request; empty where there is none to send. Raises as `select`."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.select(url, now))

    def select(self, url: str, now: float) -> list[Cookie]:
        """The cookies that a request carries, in their order (RFC 6265, 5.4); they count as used.

        Raises `InvalidURL` for a URL that is not normalised.
        """
        domains = self._domains
        if not domains:
            return []
        groups = [domains[domain] for domain in place(url)[1] if domain in domains]
        if not groups:
            return []
        target = Target.of(url)
        found, expired = [], []
        for group in groups:
            for key, cookie in group.items():
                if target.takes(cookie):
                    if cookie.expires is not None and cookie.expires <= now:
                        expired.append(key)
                    else:
                        self._allowance.used(self, key)
                        found.append(cookie)
        for key in expired:
            self.drop(key)
        if len(found) > 1:
            found.sort(key=order)
        return found

    def restore(self, cookie: Cookie, now: float) -> bool:
        """Put back a cookie of an earlier run as it was; False, and not done, where it has expired.

        Raises `ValueError` for one that no jar would have kept.
        """
        check_characters(cookie.name, cookie.value, f"{cookie.name}{cookie.value}")
        if cookie.is_expired(now):
            return False
        self._put(cookie, now)
        return True

    def expire(self, now: float) -> None:
        """Drop what has expired. `select` does so with what it meets; until then an expired cookie takes its place."""
        for key in [_key(cookie) for cookie in self if cookie.is_expired(now)]:
            self.drop(key)

    def __iter__(self) -> Iterator[Cookie]:
        """All that are kept, in no order, and with those that have expired unnoticed."""
        for group in self._domains.values():
            yield from group.values()

    def __len__(self) -> int:
        return sum(map(len, self._sites.values()))

    def __bool__(self) -> bool:
        return bool(self._domains)

    def __repr__(self) -> str:
        return f"<CookieJar {len(self)} of {len(self._sites)} sites>"

    # -- the shelves

    def _put(self, cookie: Cookie, now: float) -> None:
        key = _key(cookie)
        group = self._domains.setdefault(cookie.domain, {})
        same = group.get(key) == cookie
        group[key] = cookie
        site = self._sites.setdefault(_site(cookie.domain), {})
        site[key] = None
        self._latest = max(self._latest, cookie.created)
        self._allowance.used(self, key)
        self._allowance.expect(cookie.expires)
        if self._changed is not None and not same:
            self._changed(cookie, True)
        if len(site) > self._allowance.per_site:
            self._thin(site, now)
        self._allowance.enforce(now)

    def _thin(self, site: dict[_Key, None], now: float) -> None:
        for key in [key for key in site if self._domains[key[0]][key].is_expired(now)]:
            self.drop(key)
        while len(site) > self._allowance.per_site:
            self.drop(self._allowance.oldest(self, site))

    def drop(self, key: tuple[str, str, str]) -> None:
        """Drop the cookie of this domain, path and name. Raises `KeyError` where there is none."""
        domain = key[0]
        group, site = self._domains[domain], self._sites[_site(domain)]
        cookie = group.pop(key)
        del site[key]
        if not group:
            del self._domains[domain]
        if not site:
            del self._sites[_site(domain)]
        self._allowance.forget(self, key)
        if self._changed is not None:
            self._changed(cookie, False)


def _site(domain: str) -> str:
    return registrable_domain(domain) or domain


# -- who may set what (5.3, steps 4 to 9) ------------------------------------------------------------------------------


def _admitted(found: SetCookie, target: Target, now: float) -> Cookie:
    domain, host_only = found.domain, False
    if not domain:
        domain, host_only = target.host, True
    elif not domain_matches(target.host, domain):
        raise RefusedError("for another host", found.name)
    elif is_address(domain):
        host_only = True
    elif is_public_suffix(domain):
        if domain != target.host:
            raise RefusedError("for a public suffix", found.name)
        host_only = True
    if found.secure and not target.secure:
        raise RefusedError("Secure, but not over https", found.name)
    prefix = found.name[:9].lower()
    if prefix == "__secure-" and not found.secure:
        raise RefusedError("__Secure- without Secure", found.name)
    if prefix.startswith("__host-") and not (found.secure and host_only and found.path == "/"):
        raise RefusedError("__Host- without Secure and Path=/, or with a Domain", found.name)
    path = found.path or default_path(target.path)
    return Cookie(
        found.name,
        found.value,
        domain,
        path,
        found.expires,
        host_only,
        found.secure,
        found.http_only,
        found.same_site,
        now,
    )
