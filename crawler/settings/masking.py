"""What may be shown of a secret: nothing. Proxy passwords and API keys arrive in settings; here they are hidden."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["SECRET_KEYS", "Masked", "masked"]

_HIDDEN = "***"
_SECRET_HEADER = re.compile(r"auth|cookie|token|secret|passw|credential|session|signature|key$", re.IGNORECASE)
_SECRET_QUERY = re.compile(r"([?&][^=&#]*(?:pass|secret|token|key|auth)[^=&#]*=)[^&#]*", re.IGNORECASE)
_HEADER_VALUE = re.compile(r"(?<=: ).*")
SECRET_KEYS = ("auth", "digest_auth", "headers", "host_headers", "token", "url", "urls")
"""Names of the settings whose wrong values no error message may quote."""


class Masked(msgspec.Struct, frozen=True):
    """A struct that shows no secret: not in `repr`, and not where rich prints it by itself."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, masked(name, getattr(self, name))) for name in self.__struct_fields__]


def masked(name: str, value: Any) -> Any:
    """The value of the setting called `name` as it may be shown; of a layer, nothing of it."""
    if name == "value":
        return _HIDDEN
    if name == "headers":
        return {header: _HIDDEN if _SECRET_HEADER.search(header) else text for header, text in value.items()}
    if name == "host_headers":
        return {host: _HEADER_VALUE.sub(_HIDDEN, text) for host, text in value.items()}
    if name in ("auth", "digest_auth"):
        return dict.fromkeys(value, _HIDDEN)
    if name == "urls":
        return tuple(map(_mask_url, value))
    if name == "token" and value is not None:
        return _HIDDEN
    if name == "url" and value is not None:
        return _mask_url(value)
    return {inner: masked("", value[inner]) for inner in value} if isinstance(value, Mapping) else value


def _mask_url(url: str) -> str:
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    if "@" in rest:  # the last one: a password with an unescaped `@` or `/` in it stays hidden, too
        rest = f"{_HIDDEN}@{rest.rpartition('@')[2]}"
    return scheme + separator + _SECRET_QUERY.sub(rf"\g<1>{_HIDDEN}", rest)
