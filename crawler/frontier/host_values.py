"""Values that are kept of one host, and travel with it from worker to worker: its robots.txt, and what it has given of
its budget (`Robots.rows`, `Budgets.rows`)."""

from __future__ import annotations

from typing import Final

from crawler import url as urls
from crawler.budgets import HOST_PREFIX

__all__ = ["host_of", "keys_of", "may_be_old"]

_ROBOTS: Final = "robots/"
_SCHEMES: Final = {"http": "80", "https": "443"}
"""Whose robots.txt may be kept of a host, with their usual ports."""


def host_of(key: str) -> str | None:
    """The host (`"name:port"`) that a value is about; None: it is about none."""
    if key.startswith(_ROBOTS):
        return urls.host_key(key.removeprefix(_ROBOTS) + "/")
    return key.removeprefix(HOST_PREFIX) if key.startswith(HOST_PREFIX) else None


def keys_of(host: str) -> list[str]:
    name, _, port = host.rpartition(":")
    origins = (f"{scheme}://{name}" if port == usual else f"{scheme}://{host}" for scheme, usual in _SCHEMES.items())
    return [*(f"{_ROBOTS}{origin}" for origin in origins), f"{HOST_PREFIX}{host}"]


def may_be_old(key: str) -> bool:
    """Whether a worker that was given the value has to be given it again with the host: others change it."""
    return key.startswith(HOST_PREFIX)
