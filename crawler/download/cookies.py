"""Cookie jars by session name: requests of one session share cookies, another name is another visitor.

What a jar does stands in `crawler.cookies`; here it meets HTTP and the job's folder. Set-Cookie is read from the raw
header fields and as UTF-8, because that is what aiohttp writes: a value comes back to its server octet for octet. What
is not UTF-8 could not be sent back, so it is not kept.

Between two calls of `changes` a jar is part of the open epoch; what `changes` gives goes into the commit. A row is
MessagePack of session and cookie, host-only flag and all. Its key is a hash, since the store limits the length of keys.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from crawler import url as urls
from crawler.cookies import Allowance, Cookie, CookieJar, Cookies, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import aiohttp
    from aiohttp.http_parser import RawResponseMessage

__all__ = ["CookieJars", "joined"]

logger = logging.getLogger("crawler.cookies")

_RowKey: TypeAlias = tuple[str | None, str, str, str]
"""Session, domain, path, name."""
_ROW = msgspec.msgpack.Decoder(tuple[str | None, Cookie])
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f;\x7f]").search  # what would end the field, or the cookie
_NAMES_SHOWN, _CHARS_SHOWN = 5, 40


class CookieJars:
    """The jars of a crawl; None names the default one. Together they keep 3,000 cookies at most.

    `enabled=False` keeps and sends none but those given with a request. `unsafe=True` takes cookies from IP addresses.
    `clock` gives Unix time. URLs are normalised ones, as those of a `Request`.
    """

    def __init__(self, *, enabled: bool = True, unsafe: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._enabled = enabled
        self._unsafe = unsafe
        self._clock = clock
        self._allowance = Allowance()
        self._jars: dict[str | None, CookieJar] = {}
        """Those with something in them."""
        self._changes: dict[_RowKey, Cookie | None] = {}
        self._saved: set[_RowKey] = set()
        """The rows that `changes` has given out, or that came from there."""

    def header(self, session: str | None, url: str, own: Mapping[str, str] | None) -> str:
        """The value of the `Cookie` field for this URL: the jar's cookies, and `own`, which win over those of the same
        name. Empty where there are none. Raises `ValueError` for what cannot be written down in `own`.
        """
        jar = self._jars.get(session)
        pairs = [] if jar is None else [(cookie.name, cookie.value) for cookie in jar.select(url, self._clock())]
        if own:
            pairs = [pair for pair in pairs if pair[0] not in own]
            for name, value in own.items():
                if "=" in name or _UNSENDABLE(f"{name}{value}"):
                    raise ValueError(f"the cookie {name!r} of the request holds what a cookie cannot carry")
                pairs.append((name, value))
        return "; ".join([f"{name}={value}" for name, value in pairs]) if pairs else ""

    def store(self, session: str | None, url: str, response: aiohttp.ClientResponse | RawResponseMessage) -> None:
        """Keep what the response set."""
        if not self._enabled or "Set-Cookie" not in response.headers:
            return
        lines = [
            value.decode("utf-8", "surrogateescape")
            for name, value in response.raw_headers
            if name.lower() == b"set-cookie"
        ]
        jar = self._jar(session)
        refused = jar.store(url, lines, self._clock())
        self._settle(session, jar)
        if refused and logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%d of %d cookies of %s refused: %s", len(refused), len(lines), urls.host_key(url), _told(refused)
            )

    def view(self, session: str | None = None, url: str | None = None) -> Cookies:
        """The cookies of a session as they are now; those alone that a request for `url` would carry, if one is given.

        Raises `InvalidURL`.
        """
        now = self._clock()
        cookies = Cookies(cookie for cookie in self._jars.get(session, ()) if not cookie.is_expired(now))
        return cookies if url is None else cookies.filter(url)

    # -- the job's rows ----------------------------------------------------------------------------------------------

    def changes(self) -> dict[str, bytes | None]:
        """The rows that changed since the last call, by key; None: the row is to be deleted."""
        rows: dict[str, bytes | None] = {}
        for key, cookie in self._changes.items():
            if cookie is None:
                self._saved.discard(key)
            else:
                self._saved.add(key)
            rows[_row_name(key)] = None if cookie is None else msgspec.msgpack.encode((key[0], cookie))
        self._changes.clear()
        return rows

    def restore(self, rows: Iterable[bytes]) -> None:
        """Take back the rows of an earlier run, without those that have expired, whose deletion `changes` will ask for.

        A row that cannot be read is skipped; one warning tells how many were. Does nothing where cookies are off.
        """
        if not self._enabled:
            return
        found, unreadable = [], 0
        for row in rows:
            try:
                found.append(_ROW.decode(row))
            except msgspec.MsgspecError:
                unreadable += 1
        now = self._clock()
        for session, cookie in sorted(found, key=lambda row: row[1].created):
            key = _row_key(session, cookie)
            self._saved.add(key)
            jar = self._jar(session)
            try:
                kept = jar.restore(cookie, now)
            except ValueError:
                unreadable += 1
                kept = False
            if kept:
                self._changes.pop(key, None)  # it stands in the row it came from
                self._settle(session, jar)
            else:
                self._changes[key] = None
        if unreadable:
            logger.warning("%d saved cookies could not be read and were left out", unreadable)

    # -- jars --------------------------------------------------------------------------------------------------------

    def _jar(self, session: str | None) -> CookieJar:
        return self._jars.get(session) or CookieJar(
            unsafe=self._unsafe, allowance=self._allowance, changed=partial(self._changed, session)
        )

    def _settle(self, session: str | None, jar: CookieJar) -> None:
        if jar:
            self._jars[session] = jar

    def _changed(self, session: str | None, cookie: Cookie, kept: bool) -> None:
        key = _row_key(session, cookie)
        if kept:
            self._changes[key] = cookie
            return
        if key in self._saved:
            self._changes[key] = None
        else:  # it came and went within the epoch
            self._changes.pop(key, None)
        jar = self._jars.get(session)
        if jar is not None and not jar:
            del self._jars[session]

    def __repr__(self) -> str:
        return f"<CookieJars { ({session: len(jar) for session, jar in self._jars.items()}) }>"


def joined(cookies: str, more: str) -> str:
    """Two values of `Cookie` as one; either may be empty."""
    return f"{cookies}; {more}" if cookies and more else cookies or more


def _row_key(session: str | None, cookie: Cookie) -> _RowKey:
    return session, cookie.domain, cookie.path, cookie.name


def _row_name(key: _RowKey) -> str:
    return "cookie/" + hashlib.blake2b(msgspec.msgpack.encode(key), digest_size=16).hexdigest()


def _told(refused: list[Refused]) -> str:
    told = [f"{name[:_CHARS_SHOWN]!r} ({why})" for name, why in refused[:_NAMES_SHOWN]]
    return ", ".join([*told, "…"] if len(refused) > _NAMES_SHOWN else told)
