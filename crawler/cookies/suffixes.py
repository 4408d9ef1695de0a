"""Public suffixes: the names below which anybody may register, so that a cookie for all of one would be everybody's."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from crawler.cookies.cookie import is_address

__all__ = ["is_public_suffix", "registrable_domain"]


@cache
def _public_suffixes() -> Any:
    from publicsuffixlist import PSLFILE, PublicSuffixList

    # 50 ms. Left to itself the library reads the comments too, and spells out every international name a second time
    # in punycode: 180 ms, in which nothing else would happen. `_readable` translates the few hosts that need it.
    with open(PSLFILE, "rb") as file:
        rules = [line for line in file if line[:1] not in (b"/", b"\n")]
    return PublicSuffixList(rules, accept_encoded_idn=False)


@lru_cache(maxsize=8192)
def registrable_domain(host: str) -> str | None:
    """The public suffix of a host name and one label more: `example.co.uk` of `www.example.co.uk`, in lower case.

    None where there is no such label, and for IP addresses and names with empty labels. The list is publicsuffix.org's,
    as the package `publicsuffixlist` brings it, with its private section (`github.io`); an unknown top-level name
    counts as listed. The first call reads it.
    """
    name = host.lower().removesuffix(".")
    if is_address(name):
        return None
    labels = name.split(".")
    found = _public_suffixes().privatesuffix(".".join(map(_readable, labels)) if "xn--" in name else name)
    return None if found is None else ".".join(labels[-1 - found.count(".") :])


def _readable(label: str) -> str:
    try:
        return label[4:].encode().decode("punycode") if label.startswith("xn--") else label
    except UnicodeError:
        return label


def is_public_suffix(domain: str) -> bool:
    """Whether anybody may register below `domain`, so that a cookie for all of it would be everybody's."""
    return not is_address(domain) and registrable_domain(domain) is None
