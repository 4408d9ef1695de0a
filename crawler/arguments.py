"""What may be given to a `Request`, and what becomes of it.

Each argument is checked where the request is made: by the time that a wrong one is missed, the request may have waited
for days, and be on another machine. What is right already stays as it is, for a stored request is checked again when it
is read. Raises ValueError or TypeError that name the argument.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from operator import index
from typing import Any, cast

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from crawler.errors import SettingsError
from crawler.item import type_name

__all__ = [
    "NORMALIZED",
    "NO_HEADERS",
    "Timeout",
    "basic",
    "checked_method",
    "checked_priority",
    "credentials",
    "flag",
    "header_map",
    "header_names",
    "header_pairs",
    "method_name",
    "values_by_name",
]

NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
_PRIORITY_LIMIT = 2**31 - 1
_PIN = re.compile(r"(?i:sha256:)?(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")
_TOKEN_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Timeout(msgspec.Struct, frozen=True, array_like=True):
    """`aiohttp.ClientTimeout`'s words, in seconds; None means none."""

    total: float | None = None
    connect: float | None = None
    sock_connect: float | None = None
    sock_read: float | None = None


# -- what a request asks of the crawl ----------------------------------------------------------------------------------


def method_name(callback: Any) -> str:
    if isinstance(callback, str):
        return callback
    owner = getattr(callback, "__self__", None)
    name = getattr(callback, "__name__", "")
    if owner is None or not name or getattr(owner, name, None) != callback:
        raise TypeError(f"a callback is a method of the spider or its name, not {callback!r}: it is stored as a name")
    return cast("str", name)


def checked_priority(given: Any) -> int:
    priority = _whole("priority", given)
    if not -_PRIORITY_LIMIT <= priority <= _PRIORITY_LIMIT:
        raise ValueError(f"priority {priority} is outside ±{_PRIORITY_LIMIT}")
    return priority


def values_by_name(argument: str, given: Any) -> dict[str, Any]:
    """`meta` and `cb_kwargs`: a dict of its own, for the one that was given may be filled anew for the next request."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{argument} is a dict, not a {type_name(given)}")
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"the names in {argument} are str, not {type_name(name)}: {name!r}")
    return dict(given)


def flag(argument: str, given: Any) -> bool:
    """True or False; 0 and 1 will do."""
    if isinstance(given, int) and given in (0, 1):
        return bool(given)
    raise TypeError(f"{argument} is True or False, not {given!r}")


def _text(argument: str) -> Callable[[Any], str]:
    def check(given: Any) -> str:
        if not isinstance(given, str):
            raise TypeError(f"{argument} is a str, not a {type_name(given)}: {given!r}")
        return given

    return check


def _count(argument: str, least: int) -> Callable[[Any], int]:
    def check(given: Any) -> int:
        number = _whole(argument, given)
        if number < least:
            raise ValueError(f"{argument} is at least {least}, not {number}")
        return number

    return check


def _whole(argument: str, given: Any) -> int:
    try:
        return index(given)
    except TypeError:
        raise TypeError(f"{argument} is a whole number, not a {type_name(given)}: {given!r}") from None


def _timeout(timeout: Any) -> float | Timeout:
    if isinstance(timeout, bool):
        raise TypeError("timeout is a number of seconds or an aiohttp.ClientTimeout")
    if isinstance(timeout, (int, float)):
        if math.isnan(timeout) or timeout < 0:
            raise ValueError(f"timeout {timeout} is {'negative' if timeout < 0 else 'no number of seconds'}")
        return timeout
    if isinstance(timeout, Timeout):
        return timeout
    if isinstance(timeout, (list, tuple)):  # as it comes out of a record
        return Timeout(*timeout)
    names = Timeout.__struct_fields__
    if all(hasattr(timeout, name) for name in names):
        return Timeout(*(getattr(timeout, name) for name in names))
    raise TypeError(f"timeout is a number of seconds or an aiohttp.ClientTimeout, not a {type_name(timeout)}")


def _not_before(given: Any) -> float | dt.datetime:
    if isinstance(given, dt.datetime):
        if given.tzinfo is None:
            raise ValueError("not_before needs a datetime with a time zone: datetime.now(UTC) + …")
        return given
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError(f"not_before is a number of seconds or an aware datetime, not a {type_name(given)}: {given!r}")
    if not math.isfinite(given):
        raise ValueError(f"not_before {given} is no number of seconds")
    return given


def _ok_status(given: Any) -> list[int | str]:
    try:
        parts = (given,) if isinstance(given, (int, str)) else tuple(given)
        _check_statuses(parts)
    except (TypeError, SettingsError) as error:
        raise ValueError(f"ok_status: {error}") from None
    return list(parts)


@lru_cache(maxsize=256)
def _check_statuses(parts: tuple[int | str, ...]) -> None:
    from crawler.settings.values import StatusSet

    StatusSet(parts)


# -- what is sent ------------------------------------------------------------------------------------------------------


def checked_method(method: Any) -> str:
    if not isinstance(method, str) or not method or not _TOKEN_CHARACTERS.issuperset(method):
        raise ValueError(f"{method!r} is not an HTTP method (RFC 9110, section 9.1: a token)")
    return method.upper()


def header_pairs(given: Any) -> list[tuple[str, Any]]:
    """Of a mapping or pairs: names and values, of which None is one that is not sent. A list as value is several
    fields, and bytes are UTF-8, as Scrapy has both."""
    items = given.items() if isinstance(given, Mapping) else given
    pairs: list[tuple[str, Any]] = []
    try:
        for name, value in items:
            several = value if isinstance(value, (list, tuple)) else (value,)
            pairs += [(_as_str(name), None if one is None else _as_str(one)) for one in several]
    except UnicodeDecodeError:
        raise ValueError("a header in bytes is not UTF-8") from None
    except (TypeError, ValueError):
        raise TypeError(f"headers are a mapping or pairs, not a {type_name(given)}") from None
    return pairs


def _as_str(given: Any) -> str:
    return given.decode() if isinstance(given, bytes) else str(given)


def header_map(headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> CIMultiDictProxy[str]:
    if type(headers) is CIMultiDictProxy:
        return headers if headers else NO_HEADERS
    items = headers.items() if isinstance(headers, Mapping) else headers
    pairs = [(str(name), str(value)) for name, value in items]
    for name, value in pairs:
        if not name or not _TOKEN_CHARACTERS.issuperset(name):
            raise ValueError(f"{name!r} is not a header name (RFC 9110, section 5.1: a token)")
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"the value of header {name} holds a CR, LF or NUL")
    if len(pairs) > 1:  # aiohttp knows two fields of one name by their spelling
        spelling: dict[str, str] = {}
        pairs = [(spelling.setdefault(name.lower(), name), value) for name, value in pairs]
    return CIMultiDictProxy(CIMultiDict(pairs)) if pairs else NO_HEADERS


def header_names(given: Iterable[str]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(map(str, given))
    for name in names:
        if not name or not _TOKEN_CHARACTERS.issuperset(name):
            raise ValueError(f"{name!r} is not a header name (RFC 9110, section 5.1: a token)")
    return names


def _cookies(given: Any) -> dict[str, str]:
    """aiohttp's shapes: a mapping or pairs; values are texts, numbers or `Morsel`s."""
    pairs = given.items() if isinstance(given, Mapping) else given
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise TypeError(f"cookies are a mapping of names to values, not a {type_name(given)}")
    cookies: dict[str, str] = {}
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(f"cookies are a mapping of names to values, or pairs, not a list of {type_name(pair)}")
        name, value = pair[0], getattr(pair[1], "value", pair[1])
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise TypeError(f"cookies have names and texts, not {type_name(name)} {name!r} and a {type_name(value)}")
        cookies[name] = str(value)
    return cookies


def _as_bytes(body: Any) -> bytes:
    if isinstance(body, str):
        return body.encode()
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"body is bytes or str, not a {type_name(body)}: data= takes forms and streams, json= values")
    return bytes(body)


def _compression(given: str | bool) -> str | None:
    """aiohttp's words, of which True is deflate."""
    coding = "deflate" if given is True else given or None
    if coding not in (None, "gzip", "deflate"):
        raise ValueError(f"compress is 'gzip' or 'deflate', not {given!r}")
    return coding


# -- by which way ------------------------------------------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    """RFC 7617, in UTF-8."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def credentials(argument: str, given: Any) -> tuple[str, str]:
    login = getattr(given, "login", None)
    if login is not None:  # aiohttp.BasicAuth
        return str(login), str(given.password)
    if not isinstance(given, (tuple, list)) or len(given) != 2:  # and nothing of it in the error
        raise TypeError(f"{argument} is (user, password) or an aiohttp.BasicAuth, not a {type_name(given)}")
    return str(given[0]), str(given[1])


def _proxy(given: Any) -> str:
    if not isinstance(given, str) and not hasattr(given, "raw_host"):  # a yarl.URL, as aiohttp takes it
        raise TypeError(f"proxy is a URL, not a {type_name(given)}")
    return str(given)


def _proxy_auth(given: Any) -> tuple[str, str]:
    return credentials("proxy_auth", given)


def _tls(given: Any) -> Any:
    """Raises ValueError for a pin that is none; a context is for inline requests."""
    if isinstance(given, str) and not _PIN.fullmatch(given):
        raise ValueError(f"tls is False, 'sha256:' and 64 hex digits, or an ssl.SSLContext, not {given!r}")
    if isinstance(given, bool | str) or hasattr(given, "wrap_bio"):
        return None if given is True else given
    raise TypeError(f"tls is False, 'sha256:' and 64 hex digits, or an ssl.SSLContext, not a {type_name(given)}")


NORMALIZED: dict[str, Callable[[Any], Any]] = {
    "headers": header_map,
    "cookies": _cookies,
    "body": _as_bytes,
    "timeout": _timeout,
    "not_before": _not_before,
    "ok_status": _ok_status,
    "retry_times": _count("retry_times", 0),
    "max_redirects": _count("max_redirects", 0),
    "max_body_bytes": _count("max_body_bytes", 1),
    "key": _text("key"),
    "session": _text("session"),
    "proxy": _proxy,
    "proxy_auth": _proxy_auth,
    "compress": _compression,
    "tls": _tls,
    "server_hostname": _text("server_hostname"),
}
"""What is done with an argument that is not None, by its name."""
