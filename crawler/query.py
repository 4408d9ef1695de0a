"""Query parameters, as aiohttp takes them: from values to the query of a URL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from operator import index
from typing import Final, SupportsIndex, TypeAlias

from crawler.url import well_formed

__all__ = ["Params", "encode_query"]

_Value: TypeAlias = str | float | SupportsIndex
Params: TypeAlias = Mapping[str, _Value | Sequence[_Value]] | Sequence[tuple[str, _Value]] | str
"""Query parameters as aiohttp takes them; see `encode_query`."""

_KEPT_IN_PART: Final = "?/:@!$()*,~"
"""What yarl leaves as it is in a name or value, but for `'`, which WHATWG escapes."""
_KEPT_IN_QUERY: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "\"#'<>")
"""WHATWG: the complement of the special-query percent-encode set."""


def encode_query(url: str, params: Params) -> str:
    """`url` without fragment, with `params` behind whatever query it has.

    As aiohttp's `params` (yarl's `extend_query`): a mapping, whose values may be lists or tuples of values, or a
    sequence of pairs; values are str, int or float. They are encoded as application/x-www-form-urlencoded. A str is
    sent as given: its escapes stay, and only what cannot stand in a query is escaped. Empty `params` add nothing.
    Of a normalised URL the result is normalised. Raises `TypeError` for a name that is not a str and for a value of
    another type, bool among them; `ValueError` for a float that is not finite.
    """
    url = url.partition("#")[0]
    added = _encoded(params) if params else ""
    if not added:
        return url
    resource, _, query = url.partition("?")
    if query and query[-1] != "&":
        query += "&"
    return f"{resource}?{query}{added}"


def _encoded(params: Params) -> str:
    from urllib.parse import quote, quote_plus

    if isinstance(params, str):
        return quote(well_formed(params), safe=_KEPT_IN_QUERY)
    return "&".join(
        f"{quote_plus(name, safe=_KEPT_IN_PART)}={quote_plus(value, safe=_KEPT_IN_PART)}"
        for name, value in _text_pairs(params)
    )


def _text_pairs(params: Params) -> Iterable[tuple[str, str]]:
    if isinstance(params, Mapping):
        for name, value in params.items():
            for single in value if isinstance(value, (list, tuple)) else (value,):
                yield _text(name, "name"), _text(single, "value")
    elif isinstance(params, Sequence) and not isinstance(params, (str, bytes, bytearray, memoryview)):
        for name, value in params:
            yield _text(name, "name"), _text(value, "value")
    else:
        raise TypeError(f"params must be a mapping, a sequence of pairs or a str, not {type(params).__name__}")


def _text(value: object, what: str) -> str:
    if isinstance(value, str):
        return well_formed(value)
    if what == "value":
        if isinstance(value, float):
            if not isfinite(value):
                raise ValueError(f"a query parameter must be finite, not {value}")
            return str(float(value))
        if isinstance(value, SupportsIndex) and not isinstance(value, bool):
            return str(index(value))
    raise TypeError(
        f"the {what} of a query parameter must be str{', int or float' if what == 'value' else ''}, "
        f"not {type(value).__name__}: {value!r}"
    )
