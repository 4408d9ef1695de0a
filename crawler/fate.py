"""What became of a request: one short record a page, kept by the frontier for `crawler explain`.

The frontier keeps these bytes beside the request's fingerprint and its parent's; it does not read them.
"""

from __future__ import annotations

import msgspec

__all__ = ["REFUSALS", "Fate", "Refusal", "Revisit", "Verdict"]

REFUSALS = {
    "offsite": "its host is none of the spider's allowed_domains",
    "depth": "deeper than crawl.depth_limit",
    "url_length": "longer than http.max_url_length",
    "denied": "it matches one of the spider's deny",
    "not_allowed": "it matches none of the spider's allow",
    "path_segments": "its path has more segments than crawl.max_path_segments",
    "path_repeats": "its path repeats a group of segments more often than crawl.max_path_repeats",
    "host_pages": "its host has given as many pages as crawl.pages_per_host",
    "host_bytes": "its host has sent as many bytes as crawl.bytes_per_host",
    "domain_hosts": "its domain has as many hosts already as crawl.hosts_per_domain",
    "query_permutations": "one more combination of known parameters than crawl.query_permutations at its path",
    "nofollow": "the page asks for its links not to be followed (politeness.obey_nofollow)",
    "trap": "its pattern grew by crawl.trap_pages pages without anything new",
}
"""Why the crawl's own rules keep it from a URL, in plain words with the setting that does it."""


class Verdict:
    """The words of `Fate.verdict`."""

    DONE = "done"
    """A callback had its response."""
    FAILED = "failed"
    """Given up; `reason` says why."""
    REFUSED = "refused"
    """By our own rules: robots.txt, a private address, the scope."""
    REDIRECTED = "redirected"
    """To `target`, which has a fate of its own."""
    REACHED = "reached"
    """By a redirect from `target`, whose callback had this response."""
    SET_ASIDE = "set aside"
    """Nothing of it is tried: its processing killed the process twice (`poison`), its record cannot be read
    (`unreadable`), or names a callback that the spider has not got (`unknown_callback`)."""


class Revisit(msgspec.Struct, frozen=True, array_like=True):
    """What it takes to visit a page again, and to tell then whether it has changed (`crawler run --refresh`)."""

    content: bytes = b""
    """8 bytes of a hash of its body. Empty: what it gave is not whole, so it is to be read again."""
    etag: str = ""
    """As the server sent it; empty where it sent none, or where redirects led to another URL."""
    last_modified: str = ""
    callback: str = ""
    """Empty: `parse`."""
    priority: int = 0
    record: bytes = b""
    """The request as it was stored, where it had more than URL, callback and priority."""


class Fate(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How one request ended. `url` and `target` are without user and password, but with all parameters: a page is found
    by them. They are redacted when they are shown."""

    url: str
    verdict: str
    at: float
    """Unix time."""
    depth: int = 0
    attempts: int = 1
    status: int = 0
    """Of the last response; 0: there was none."""
    reason: str = ""
    """The stable word of `FetchError.reason`, where it did not end well."""
    message: str = ""
    target: str = ""
    tries: str = ""
    """`crawler.attempt.summary` of all of them, where there was more than one."""
    revisit: Revisit | None = None
    """None: not a page, or of an earlier version, or `crawl.keep_validators` was off."""

    def encode(self) -> bytes:
        return _ENCODER.encode(self)

    @classmethod
    def decode(cls, record: bytes) -> Fate:
        """Raises `msgspec.MsgspecError`."""
        return _FATE.decode(record)


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A URL that never came to the frontier."""

    url: str
    reason: str
    """One of `REFUSALS`."""
    depth: int
    found_on: str
    """The page's URL; empty for `start()`."""
    at: float

    def encode(self) -> bytes:
        return _ENCODER.encode(self)

    @classmethod
    def decode(cls, record: bytes) -> Refusal:
        """Raises `msgspec.MsgspecError`."""
        return _REFUSAL.decode(record)


_ENCODER = msgspec.msgpack.Encoder()
_FATE = msgspec.msgpack.Decoder(Fate)
_REFUSAL = msgspec.msgpack.Decoder(Refusal)
