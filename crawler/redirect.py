"""Where a redirect leads, and what may go with it: a pure decision (RFC 9110, section 15.4; WHATWG Fetch, 4.4).

Every hop starts as a fresh request. Credentials, cookies of the request and the user's own headers stay with the origin
they were meant for: a hop to another origin keeps `SAFE_HEADERS` alone, and a body never goes to another origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from crawler import url as urls
from crawler.errors import InvalidURL, RedirectError
from crawler.request import NO_HEADERS, Hop, Request

if TYPE_CHECKING:
    from crawler.response import Response

__all__ = ["SAFE_HEADERS", "next_request"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
SAFE_HEADERS = frozenset({"accept", "accept-language", "accept-encoding", "user-agent", "cache-control"})
"""The request's own headers that may follow it to another origin."""
_BODY_HEADERS = frozenset(
    {"content-type", "content-length", "content-encoding", "content-language", "content-location", "transfer-encoding"}
)


def next_request(request: Request, response: Response, max_redirects: int) -> Request | None:
    """The request that this answer asks for, or None when it is not a redirect or the request wants none followed.

    Raises `RedirectError`: too many hops, a loop, a target that is not http(s), or a body that would have to go to
    another origin.
    """
    if response.status not in _REDIRECTS or not request.allow_redirects:
        return None
    location = response.headers.get("Location")
    if location is None:
        return None
    here = urls.redact(request.url)  # errors are logged
    join = urls.join_as_written if request.encoded else urls.join
    target = join(request.url, _readable(location))
    if target is None:
        raise RedirectError(f"{here} redirects to {urls.redact(location[:200])!r}", reason="redirect_scheme")
    limit = max_redirects if request.max_redirects is None else request.max_redirects
    if len(request.history) >= limit:
        raise RedirectError(f"more than {limit} redirects, the last at {here}", reason="redirect_limit")
    fields = tuple((_readable(f"{name}"), _readable(value)) for name, value in response.headers.items())
    hop = Hop(response.status, request.url, fields)
    changes: dict[str, Any] = {"url": target, "history": (*request.history, hop), "key": None, "attempts": ()}
    if _becomes_get(request.method, response.status):
        changes.update(method="GET", body=None, data=None, json=None, compress=None, chunked=False, expect100=False)
        changes["headers"] = _without(request, _BODY_HEADERS)
    _check_loop(request, response, changes.get("method", request.method), target)
    if not urls.is_same_origin(request.url, target):
        if "method" not in changes and (request.body, request.data, request.json) != (None, None, None):
            there = urls.redact(target)
            raise RedirectError(f"{here} would send the request's body on to {there}", reason="redirect_body")
        changes.update(headers=_only_safe(request), cookies=None)
    if urls.hostname(request.url) != urls.hostname(target):
        changes.update(tls=None, server_hostname=None)  # trust in one host says nothing of another
    try:
        return request.replace(**changes)
    except InvalidURL as error:  # the Standard takes it, but it cannot be sent as written
        raise RedirectError(f"{here} redirects to what cannot be sent: {error}", reason="redirect_location") from None


def _becomes_get(method: str, status: int) -> bool:
    if status == 303:
        return method not in ("GET", "HEAD")
    return status in (301, 302) and method == "POST"


def _check_loop(request: Request, response: Response, method: str, target: str) -> None:
    """The same question again cannot give another answer, unless a cookie was set on the way: sites do that on
    purpose."""
    here = urls.redact(request.url)
    if method != request.method or "Set-Cookie" in response.headers:
        return
    for hop in reversed(request.history):
        if any(name.lower() == "set-cookie" for name, _ in hop.fields):
            return
        if hop.url == target:
            raise RedirectError(f"{here} redirects back to {urls.redact(target)}", reason="redirect_loop")
    if target == request.url:
        raise RedirectError(f"{here} redirects to itself", reason="redirect_loop")


def _readable(text: str) -> str:
    """Bytes beyond ASCII as the UTF-8 they nearly always are; aiohttp gives them as surrogates, which neither a URL nor
    a stored request can hold."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # of a response that a middleware made
        return urls.well_formed(text)


def _only_safe(request: Request) -> Any:
    return CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() in SAFE_HEADERS) or NO_HEADERS


def _without(request: Request, names: frozenset[str]) -> Any:
    return CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in names) or NO_HEADERS
