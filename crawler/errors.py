"""Every error the crawler raises, as one tree.

    CrawlerError
    ├── UsageError                 the user's doing; exit code 2
    │   ├── SettingsError          an unknown key, a wrong type, a value out of range
    │   ├── SpiderNotFound         no spider, or several, of that name; a file that cannot be imported
    │   ├── InvalidURL             not a URL a crawler can fetch; also a ValueError
    │   ├── NotStorable            a yielded request that cannot wait on disk
    │   └── JobError               a job folder that this process cannot work on
    ├── EngineUnavailable          the frontier's engine or the disk failed; exit code 69
    │   ├── JobDamaged             a file of the job is not what was written
    │   ├── SessionLost            a worker was not heard of for too long; exit code 75
    │   └── OutputError            an output cannot be written, or is not what was committed
    ├── CallbackError              a callback gave something that is neither item nor request
    │   └── CallbackTimeout        it took longer than `crawl.callback_timeout_seconds`
    ├── DropItem                   a pipeline's word that an item goes no further
    ├── InvalidItem                an item is not as its class says; also a ValueError
    └── FetchError                 one request did not give a response
        ├── BlockedError           refused by our own rules before anything was sent
        ├── DNSError               the name did not resolve
        ├── ConnectError           no connection: refused, unreachable, proxy
        ├── TLSError               the handshake or the certificate
        ├── TimeoutError           connect, read or total
        ├── ProtocolError          what came is not HTTP
        ├── BodyError              cut short, too large, undecodable
        ├── RedirectError          too many, a loop, or to somewhere we do not go
        └── StatusError            an answer whose status is not among `http.ok_status`

Each `FetchError` carries a `reason`: a short stable word that statistics count and users compare.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crawler.attempt import Attempt

__all__ = [
    "BlockedError",
    "BodyError",
    "CallbackError",
    "CallbackTimeout",
    "ConnectError",
    "CrawlerError",
    "DNSError",
    "DropItem",
    "EngineUnavailable",
    "FetchError",
    "InvalidItem",
    "InvalidURL",
    "JobDamaged",
    "JobError",
    "NotStorable",
    "OutputError",
    "ProtocolError",
    "RedirectError",
    "SessionLost",
    "SettingsError",
    "SpiderNotFound",
    "StatusError",
    "TLSError",
    "TimeoutError",
    "UsageError",
    "first_cause",
    "message_of",
]


class CrawlerError(Exception):
    """Root of the tree."""


class UsageError(CrawlerError):
    """Something the user asked for cannot be done as asked. Ends the command with exit code 2."""


class SettingsError(UsageError):
    """A setting that is unknown, of the wrong type or out of range; the message says where it stands."""


class SpiderNotFound(UsageError):
    """No spider answers to the name, several do, or the file that holds it cannot be imported."""


class InvalidURL(UsageError, ValueError):
    """Not an absolute http(s) URL as the WHATWG URL Standard parses it; the message shows what was given."""


class NotStorable(UsageError):
    """A yielded request holds a live object, so it could neither wait on disk nor travel to another machine."""


class JobError(UsageError):
    """A job folder that cannot be worked on: in use by another process, or written by a newer version."""


class EngineUnavailable(CrawlerError):
    """The frontier's engine or the disk failed. Nothing committed is lost; exit code 69."""


class JobDamaged(EngineUnavailable):
    """A file of the job's frontier is not what was written; `crawler jobs repair` saves what can be saved."""


class SessionLost(EngineUnavailable):
    """What this worker had of a shared frontier has been given to others, because it was not heard of for too long, or
    because another process has taken its name. Nothing that was committed is lost; exit code 75."""


class OutputError(EngineUnavailable):
    """An output cannot be opened or written, or is shorter than what was committed to it."""


class CallbackError(CrawlerError):
    """A callback gave something that is neither an item nor a request; names the callback and the type."""


class CallbackTimeout(CallbackError):
    """An async callback took longer than `crawl.callback_timeout_seconds`, and was cancelled."""


class DropItem(CrawlerError):
    """Raised by a pipeline: this item goes no further. `DropItem(reason)`."""

    def __init__(self, reason: str = "dropped") -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidItem(CrawlerError, ValueError):
    """An item whose fields are not what its class, or the one it is checked against, says; names the field."""


class FetchError(CrawlerError):
    """A request that gave no usable response.

    `reason` is the stable word for statistics (`"dns_not_found"`, `"connect_refused"`, `"body_too_large"`, ...);
    `retryable` says whether trying again could help. Its own reasons: `request_body` (a file to be sent cannot be
    read), `fetch`.
    """

    reason = "fetch"
    retryable = True
    least_wait_seconds = 0.0
    """Before another try: sooner, it would only meet the same answer."""
    request_headers: Mapping[str, str] | None = None
    """What was or would have been sent, where it got that far."""
    proxy: str | None = None
    """The proxy on the way, without user and password."""
    attempts: tuple[Attempt, ...] = ()
    """Of an inline fetch: all its tries, as `Failure.history`."""

    def __init__(self, message: str, *, reason: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
        if retryable is not None:
            self.retryable = retryable


class BlockedError(FetchError):
    """Refused before anything was sent.

    Reasons `robots`, `robots_unavailable` (its rules cannot be had), `blocked_address` (a private one),
    `ambiguous_host` (libraries differ about which it is), `proxy_url` (it is none), `session_lost` (its host may be
    another worker's by now), `blocked` (anything else that cannot be sent), and what keeps the crawl from a URL, in the
    words of `crawler.fate.REFUSALS`.
    """

    reason = "blocked"
    retryable = False


class DNSError(FetchError):
    """The host name did not resolve. Reasons `dns_not_found` (final), `dns_timeout`, `dns_failed`."""

    reason = "dns_failed"
    least_wait_seconds = 1.0  # a failure is kept for so long (RFC 9520, 3.2)


class ConnectError(FetchError):
    """No connection.

    Reasons `connect_refused`, `connect_unreachable`, `connect_reset`, `proxy` (it cannot be reached or does not accept
    us), `proxy_tunnel` (it can, and says that it cannot reach the site), `host_down` (it failed so often that
    nothing is sent there for now), `connect`.
    """

    reason = "connect"


class TLSError(FetchError):
    """The handshake failed or the certificate was not accepted.

    Reasons `tls_expired` (also not valid yet), `tls_self_signed`, `tls_wrong_host`, `tls_untrusted` (by an authority
    we do not know), `tls_certificate` (anything else wrong with it), `tls_fingerprint` (not the pinned one),
    `tls_version` (the server's are too old), `tls`.
    """

    reason = "tls"
    retryable = False


class TimeoutError(FetchError, builtins.TimeoutError):
    """Reasons `connect_timeout`, `read_timeout`, `total_timeout`, `too_slow` (below `http.min_bytes_per_second`)."""

    reason = "timeout"


class ProtocolError(FetchError):
    """What the server sent is not HTTP as RFC 9112 has it, or more beside a body than a body; or it hung up. Reasons
    `protocol`, `disconnected`."""

    reason = "protocol"


class BodyError(FetchError):
    """Reasons `body_truncated`, `body_too_large` (final), `body_encoding` (final: a content or transfer coding that is
    unknown or broken), `body_range` (final: the answer to a Range request was another range), `html_too_complex`
    (final: parsing it would take many times longer than a page of its size does, or more memory than there is),
    `parse_timeout` (final), `parse_failed` (no thread, process or memory could be had for it)."""

    reason = "body"


class RedirectError(FetchError):
    """Reasons `redirect_limit`, `redirect_loop`, `redirect_scheme`, `redirect_location`, `redirect_body` (it would have
    to go to another origin)."""

    reason = "redirect"
    retryable = False


class StatusError(FetchError):
    """A response whose status is outside `ok_status`; reason `status_404` and the like."""

    reason = "status"

    def __init__(self, status: int, url: str, message: str | None = None) -> None:
        super().__init__(message or f"{status} for {url}", reason=f"status_{status}", retryable=False)
        self.status = status


def message_of(error: BaseException) -> str:
    """Its text, whoever wrote its class; of one whose own `__str__` raises, the name of the class."""
    try:
        return str(error)
    except Exception:
        import logging  # here, since every command begins by importing this file

        logging.getLogger("crawler.errors").exception("the text of a %s cannot be had", type(error).__name__)
        return f"<{type(error).__name__}>"


def first_cause(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to show: what went wrong first; an engine that is unavailable before its consequences."""
    leaves: list[BaseException] = []
    groups: list[BaseException] = [errors]
    while groups:
        error = groups.pop()
        if isinstance(error, BaseExceptionGroup):
            groups.extend(reversed(error.exceptions))
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, EngineUnavailable)), leaves[0])
