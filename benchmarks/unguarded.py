"""A crawl whose guards are off, to see what they cost: `python unguarded.py OFF SCRIPT.py|-m MODULE ARGUMENTS...`

OFF names some of `GUARDS`, with commas between; `all`; or `none`, which runs the same as it is. Before the script
starts, what guards is replaced in memory by what a crawler without a care would do instead. The package has no switch
for it: a switch that turns guards off would be a hole itself. What is not only there against others stays: robots.txt
and manners, time-outs of connecting, durability, and that URLs are read as browsers read them.
"""

from __future__ import annotations

import importlib
import importlib.util
import runpy
import sys
import types
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["GUARDS", "Guard", "present", "switch_off"]


class Guard(NamedTuple):
    words: str
    """What it does."""
    off: Callable[[], None]
    module: str
    """Where it lives: in a version without it there is nothing to switch off."""


def switch_off(names: Iterable[str]) -> None:
    """Those of `GUARDS` that this version has. Raises `KeyError` for a name that is not there."""
    # Everything that may have taken a function by its name has to be there before the function is replaced.
    for module in ("crawler.assemble", "crawler.cli", "crawler.download.session", "crawler.download.robots"):
        importlib.import_module(module)
    for name in names:
        guard = GUARDS[name]
        if _is_here(guard.module):
            guard.off()


def present() -> list[str]:
    """The names of the guards that this version has."""
    return [name for name, guard in GUARDS.items() if _is_here(guard.module)]


def _is_here(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _replace(module: str, name: str, substitute: Any) -> None:
    """A function, there and wherever it was imported by its name."""
    original = getattr(importlib.import_module(module), name)
    for each in list(sys.modules.values()):
        if isinstance(each, types.ModuleType) and each.__name__.partition(".")[0] == "crawler":
            for attribute, value in list(vars(each).items()):
                if value is original:
                    setattr(each, attribute, substitute)


# -- what may be asked for --------------------------------------------------------------------------------------------


def _addresses() -> None:
    from crawler.guard import Guard as AddressGuard

    _set(AddressGuard, verdict=lambda self, ip, port: None)


def _bounds() -> None:
    from crawler.bounds import Bounds
    from crawler.budgets import Budgets
    from crawler.scope import Scope
    from crawler.traps import Traps

    def refusal(scope: Any, url: str, depth: int) -> str | None:
        """What the user asks for, and no more."""
        if scope._depth_limit and depth > scope._depth_limit:
            return "depth"
        if scope._domains and not scope._on_site(url):
            return "offsite"
        return scope._match(url) if scope._has_patterns else None

    _set(Scope, refusal=refusal)
    _set(Bounds, beyond=lambda self, page, url, host, fingerprint: None, take=lambda self, lease, url: True)
    _set(Budgets, refusal=lambda self, url, host, named=False: None)
    _set(Traps, look=lambda self, url, body: None, is_closed=lambda self, url: False)


def _requests() -> None:
    def written(target: str, head: bytes, cookie: str) -> bytes:
        if cookie:
            return b"GET %b%bCookie: %b\r\n\r\n" % (target.encode(), head, cookie.encode())
        return b"GET %b%b\r\n" % (target.encode(), head)

    _replace("crawler.download.plain", "_written", written)


def _redirects() -> None:
    _replace("crawler.redirect", "_only_safe", lambda request: request.headers)
    _replace("crawler.redirect", "_check_loop", lambda request, response, method, target: None)


def _cookies() -> None:
    from crawler.cookies.jar import Allowance, CookieJar

    _replace("crawler.cookies.suffixes", "is_public_suffix", lambda domain: False)
    _set(Allowance, enforce=lambda self, now: None)
    _set(CookieJar, _thin=lambda self, site, now: None)


# -- what comes -------------------------------------------------------------------------------------------------------


def _wire() -> None:
    from aiohttp.client_proto import ResponseHandler

    wire = importlib.import_module("crawler.download.wire")
    for name in ("data_received", "feed_data", "set_response_params", "set_exception", "eof_received"):
        if name in vars(wire.Wire):
            setattr(wire.Wire, name, getattr(ResponseHandler, name))
    _set(wire.Wire, rest=lambda self: None)
    _replace("crawler.download.wire", "refuse_status", lambda status, url: None)


def _bodies() -> None:
    whole: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": lambda data: zlib.decompress(data, 31)}
    whole["deflate"] = zlib.decompress

    async def read_content(content: Any, headers: Any, *limit: Any) -> bytes:
        """All there is, and at once whatever is in it."""
        pieces = []
        while not content.at_eof():
            pieces.append(await content.readany())
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        coding = headers.get("Content-Encoding", "")
        return whole[coding](data) if coding else data

    async def read_body(response: Any, *limit: Any) -> bytes:
        return await read_content(response.content, response.headers)

    _replace("crawler.download.body", "read_content", read_content)
    _replace("crawler.download.body", "read_body", read_body)


def _deadlines() -> None:
    from crawler.download.deadlines import Deadlines

    async def held(room: Any, size: int) -> None:
        await room(size)

    nobody = types.SimpleNamespace(content=None, held=held)
    _set(Deadlines, add=lambda self, protocol, began: nobody, discard=lambda self, watch: None)


# -- what is made of it -----------------------------------------------------------------------------------------------


def _html() -> None:
    from crawler.response import Response

    _set(Response, is_dear=property(lambda self: False), _is_plain=lambda self: True)


def _poison() -> None:
    from crawler.steps import Steps

    _set(Steps, __await__=lambda self: self._coroutine.__await__())


def _callbacks() -> None:
    from crawler.callback_time import CallbackTime

    async def spend(self: Any, awaitable: Any) -> Any:
        return await awaitable

    _set(CallbackTime, spend=spend)


def _watchdog() -> None:
    from crawler.watchdog import Watchdog  # type: ignore[import-not-found,unused-ignore]

    _set(Watchdog, __enter__=lambda self: self, __exit__=lambda self, *exc: None)


def _shown() -> None:
    _replace("crawler.log", "escape", lambda text: text)
    _replace("crawler.url", "redact", lambda url: url)


def _set(target: type, **attributes: Any) -> None:
    for name, value in attributes.items():
        if not hasattr(target, name):
            raise AttributeError(f"{target.__module__}.{target.__qualname__} has no {name}: what is it called now?")
        setattr(target, name, value)


GUARDS = {
    "addresses": Guard("which addresses may be dialled", _addresses, "crawler.guard"),
    "bounds": Guard(
        "shape and length of URLs, traps, hosts of a domain, permutations of a query", _bounds, "crawler.bounds"
    ),
    "requests": Guard("that a URL writes one line of a request", _requests, "crawler.download.plain"),
    "redirects": Guard("what may follow a redirect to another origin; loops", _redirects, "crawler.redirect"),
    "cookies": Guard("public suffixes; how many cookies", _cookies, "crawler.cookies.jar"),
    "wire": Guard("bytes beside the body, interim answers, what comes unasked", _wire, "crawler.download.wire"),
    "bodies": Guard("limit of a body, decoding in steps, bodies that were cut", _bodies, "crawler.download.body"),
    "deadlines": Guard("total, idle and least speed of an exchange", _deadlines, "crawler.download.deadlines"),
    "html": Guard("pages that would take long to parse", _html, "crawler.markup"),
    "poison": Guard("whose code was running when the process died", _poison, "crawler.steps"),
    "callbacks": Guard("time of async callbacks", _callbacks, "crawler.callback_time"),
    "watchdog": Guard("who holds up the loop", _watchdog, "crawler.watchdog"),
    "shown": Guard("secrets and control characters in what is logged", _shown, "crawler.log"),
}


def main() -> None:
    wanted, *command = sys.argv[1:]
    sys.path.insert(0, str(ROOT))
    switch_off({"all": list(GUARDS), "none": []}.get(wanted, wanted.split(",")))
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).resolve().parent))
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
