"""The site that `growth.py` crawls: numbered pages of 3 KB over one host or many, with twenty links each.

The queue's `queue` first pages are dealt out to the hosts in turn, so that each host has `share` of them, at least 18.
Page n of a host links to 18 of those of its own host, spread over them by fixed steps, and to two new ones,
`share + 2n` and `share + 2n + 1`. A page and its URLs have the same length whatever the sizes are.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Site"]

_KNOWN = 18
_STEP = 7919
"""From a page's links to the next page's; a prime, so that they come everywhere before they come back."""
_WORDS = "The harbour lies still and the lanterns along the quay are lit before the boats come home. "
_HEAD = (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Page {:07}</title>'
    '<link rel="stylesheet" href="/style.css"></head><body><h1>Page {:07}</h1><ul>\n'
)
_LINK = '<li><a href="/page/%07d.html">a page of this host</a></li>\n'
_TAIL = "</ul>\n" + f"<p>{_WORDS * 2}</p>\n" * 7 + "</body></html>\n"


class Site(NamedTuple):
    """`queue` pages to begin with, over `hosts` (10,000 at most) of 127.1.0.0/16, all at `port`."""

    queue: int
    hosts: int
    port: int

    @property
    def share(self) -> int:
        return self.queue // self.hosts

    def url(self, number: int) -> str:
        """Of the queue's page `number`."""
        return self._url(number % self.hosts, number // self.hosts)

    def page(self, host: int, number: int) -> bytes:
        """The HTML of page `number` of a host."""
        share = self.share
        numbers = [(number * _STEP + host + index * share // _KNOWN) % share for index in range(_KNOWN)]
        numbers += (share + 2 * number, share + 2 * number + 1)
        listed = "".join([_LINK % each for each in numbers])
        return (_HEAD.format(number, number) + listed + _TAIL).encode()

    def page_at(self, host: str, path: str) -> bytes | None:
        """What is served at `path` of `host` ("127.1.x.y", with or without a port); None: nothing."""
        if not path.startswith("/page/"):
            return None
        third, fourth = host.partition(":")[0].split(".")[2:]
        return self.page((int(third) - 100) * 100 + int(fourth) - 100, int(path[6:13]))

    def _url(self, host: int, number: int) -> str:
        return f"http://127.1.{100 + host // 100}.{100 + host % 100}:{self.port}/page/{number:07}.html"
