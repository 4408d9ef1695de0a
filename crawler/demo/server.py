"""The shop on the wire: stored pages, robots.txt, the sitemap, and a customer who can log in."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from crawler.demo.catalogue import Shop
from crawler.demo.pages import ACCOUNT, BASKET, LOGIN, Pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.typedefs import Handler, Middleware

__all__ = ["PASSWORD", "USERNAME", "Hit", "Site", "make_app", "run_forever", "serve"]

USERNAME = "demo"
PASSWORD = "demo"  # noqa: S105 - printed in the documentation
"""The one account there is."""

_SHUTDOWN_SECONDS = 1.0
_VISITOR_COOKIE, _SESSION_COOKIE = "visitor", "session"
_PRIVATE = {"Cache-Control": "no-store"}
_NOT_FOUND = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>404 Not Found</title></head>
<body><h1>404 Not Found</h1><p>The shop has no such page. <a href="/index.html">All books</a></p></body></html>
"""


class Hit(NamedTuple):
    """One request that the site answered."""

    time: float
    """Seconds since the Unix epoch, when the answer was ready."""
    method: str
    path: str
    """With the query, as it was sent."""
    status: int


@dataclass(frozen=True, slots=True)
class Site:
    """A shop that is being served."""

    url: str
    """`"http://127.0.0.1:PORT"`, no trailing slash."""
    shop: Shop
    journal: list[Hit] = field(default_factory=list, repr=False)
    """Every request so far, in the order of the answers."""


def make_app(shop: Shop, journal: list[Hit] | None = None) -> web.Application:
    """An application that serves this shop; what it answers is appended to `journal` where one is given.

    `GET` and `HEAD` for all pages, with an `ETag` for those that are the same for everybody. `/login` takes `POST`
    with `username`, `password` (both `demo`) and the form's `csrf_token`: 302 to `/account/` and a session cookie; 200
    and an error text where name or password is wrong; 403 where the token is not this visitor's; 400 for no form.
    """
    counter = _Counter(shop)
    app = web.Application(middlewares=[] if journal is None else [_noting(journal)])
    app.router.add_get("/robots.txt", counter.robots)
    app.router.add_get("/sitemap.xml", counter.sitemap)
    app.router.add_get(LOGIN, counter.login_form)
    app.router.add_post(LOGIN, counter.login)
    app.router.add_get(ACCOUNT, counter.account)
    app.router.add_get(BASKET, counter.basket)
    app.router.add_get("/{path:.*}", counter.stored)
    return app


@asynccontextmanager
async def serve(shop: Shop | None = None, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Site]:
    """Serve a shop (default: `Shop()`) while the context lasts; port 0 takes a free one.

    Leaving closes idle connections at once and waits up to 1 s for answers under way. Raises `OSError` where the
    address cannot be bound.
    """
    shop = shop or Shop()
    journal: list[Hit] = []
    async with _listening(make_app(shop, journal), host, port) as url:
        yield Site(url, shop, journal)


async def run_forever(
    host: str = "127.0.0.1", port: int = 0, ready: Callable[[str], None] | None = None, shop: Shop | None = None
) -> None:
    """Serve until cancelled, keeping no journal. `ready` is called once with the site's URL when it takes connections.

    Raises `OSError` where the address cannot be bound.
    """
    async with _listening(make_app(shop or Shop()), host, port) as url:
        if ready is not None:
            ready(url)
        await asyncio.Event().wait()


@asynccontextmanager
async def _listening(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        address, bound = runner.addresses[0][:2]
        yield f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"
    finally:
        await runner.cleanup()


def _noting(journal: list[Hit]) -> Middleware:
    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        status = 500
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            journal.append(Hit(time.time(), request.method, request.raw_path, status))
        return response

    return note


class _Counter:
    """Answers requests. Sessions are signed, not stored, so that no number of visitors makes it grow."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._pages = Pages(shop)
        self._key = secrets.token_bytes(32)

    async def stored(self, request: web.Request) -> web.Response:
        document = self._pages.get(request.path)
        if document is None:
            return web.Response(status=404, body=_NOT_FOUND, content_type="text/html", charset="utf-8")
        headers = {"ETag": f'"{document.etag}"'}
        wanted = request.if_none_match
        if wanted and any(tag.value in {document.etag, "*"} for tag in wanted):
            return web.Response(status=304, headers=headers)
        charset = "utf-8" if document.content_type.startswith("text/") else None
        return web.Response(body=document.body, content_type=document.content_type, charset=charset, headers=headers)

    async def robots(self, request: web.Request) -> web.Response:
        lines = (
            "User-agent: *",
            f"Disallow: {BASKET}",
            "",
            f"Sitemap: {_origin(request)}/sitemap.xml",
        )
        return web.Response(text="\n".join(lines) + "\n")

    async def sitemap(self, request: web.Request) -> web.Response:
        body = self._pages.sitemap(_origin(request))
        return web.Response(body=body, content_type="application/xml", charset="utf-8")

    async def login_form(self, request: web.Request) -> web.Response:
        return self._form(request)

    async def login(self, request: web.Request) -> web.Response:
        try:
            form = await request.post()
        except (ValueError, LookupError):  # a body that is not the form it says it is, in a charset nobody knows
            form = None
        if form is None:
            return web.Response(status=400, text="That is not a form.\n", headers=_PRIVATE)
        visitor, token = request.cookies.get(_VISITOR_COOKIE, ""), form.get("csrf_token")
        if not (visitor and isinstance(token, str) and self._matches("csrf", visitor, token)):
            return self._form(request, "The form has expired. Try again.", 403)
        if (form.get("username"), form.get("password")) != (USERNAME, PASSWORD):
            return self._form(request, "Username or password is wrong.")
        response = web.Response(status=302, headers={"Location": ACCOUNT, **_PRIVATE})
        nonce = secrets.token_hex(8)
        session = f"{nonce}.{self._sign('session', nonce)}"
        response.set_cookie(_SESSION_COOKIE, session, path="/", httponly=True, samesite="Lax")
        return response

    async def account(self, request: web.Request) -> web.Response:
        nonce, _, signature = request.cookies.get(_SESSION_COOKIE, "").partition(".")
        if not self._matches("session", nonce, signature):
            return web.Response(status=302, headers={"Location": LOGIN, **_PRIVATE})
        return _private(self._pages.account(USERNAME, self._shop.orders))

    async def basket(self, request: web.Request) -> web.Response:
        return _private(self._pages.basket())

    def _form(self, request: web.Request, error: str = "", status: int = 200) -> web.Response:
        known = request.cookies.get(_VISITOR_COOKIE, "")
        visitor = known or secrets.token_hex(16)
        response = _private(self._pages.login(self._sign("csrf", visitor), error), status)
        if not known:
            response.set_cookie(_VISITOR_COOKIE, visitor, path="/", httponly=True, samesite="Lax")
        return response

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.digest(self._key, _cookie_bytes(f"{purpose}:{text}"), "sha256").hex()

    def _matches(self, purpose: str, text: str, signature: str) -> bool:
        return hmac.compare_digest(self._sign(purpose, text).encode(), _cookie_bytes(signature))


def _cookie_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # as aiohttp decodes headers


def _private(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="text/html", charset="utf-8", headers=_PRIVATE)


def _origin(request: web.Request) -> str:
    host = request.host.encode("ascii", "replace").decode("ascii")  # a header may hold any byte
    return f"{request.scheme}://{host}"
