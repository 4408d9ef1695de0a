"""What needs no server: cookies for public suffixes, the URL Standard's cases, Google's robots.txt cases; both ways.

The cases of the last two are not part of this repository; where they are not beside it (`../shared/vectors`, as for the
tests), it is said.
"""

from __future__ import annotations

import importlib.util
import json
import time
import urllib.robotparser
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import yarl
from machine import ROOT

from crawler.cookies import CookieJar
from crawler.errors import InvalidURL
from crawler.robots import Robots
from crawler.url import join, normalize

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Rule", "rules"]

VECTORS = ROOT.parent / "shared" / "vectors"
_SUFFIXES = (
    # public suffix, who sets a cookie for it, who would get it
    ("co.uk", "http://shop.example.co.uk/", "http://bank.co.uk/"),
    ("com", "http://www.example.com/", "http://bank.com/"),
    ("github.io", "http://one.github.io/", "http://another.github.io/"),
)


class Rule(NamedTuple):
    figure: str
    plain: str
    here: str


async def rules() -> list[Rule]:
    """Within a running loop, which aiohttp's cookie jar asks for."""
    return [_cookies(), *_urls(), *_robots()]


# -- cookies ----------------------------------------------------------------------------------------------------------


def _cookies() -> Rule:
    return Rule("cookies for `co.uk`, `com`, `github.io`", _verdict(_aiohttp_takes), _verdict(_we_take))


def _verdict(takes: Callable[[str, str, str], bool]) -> str:
    taken = [suffix for suffix, setter, other in _SUFFIXES if takes(suffix, setter, other)]
    if not taken:
        return "all refused"
    return "all taken, and sent to others" if len(taken) == len(_SUFFIXES) else f"taken: {', '.join(taken)}"


def _aiohttp_takes(suffix: str, setter: str, other: str) -> bool:
    jar = aiohttp.CookieJar()
    jar.update_cookies_from_headers([f"id=1; Domain={suffix}"], yarl.URL(setter))
    return bool(jar.filter_cookies(yarl.URL(other)))


def _we_take(suffix: str, setter: str, other: str) -> bool:
    jar = CookieJar()
    jar.store(setter, [f"id=1; Domain={suffix}"], time.time())
    return bool(jar.header(other, time.time()))


# -- URLs -------------------------------------------------------------------------------------------------------------


def _urls() -> list[Rule]:
    cases = _cases("wpt-urls.json")
    if cases is None:
        return [_absent("WHATWG URL cases", "wpt-urls.json")]
    chosen = [case for case in cases if isinstance(case, dict) and _is_a_crawlers(case)]
    return [Rule(f"WHATWG URL cases, {len(chosen)} http(s)", *(_right(chosen, read) for read in (_by_yarl, _by_us)))]


def _is_a_crawlers(case: dict[str, Any]) -> bool:
    """As tests/test_url.py has it: a result that is http(s), or a failure without base or under an http(s) one."""
    base_counts = case["base"] is None or _is_http(case["base"])
    return _is_http(case.get("href")) or bool(case.get("failure") and base_counts)


def _is_http(url: str | None) -> bool:
    return url is not None and url.startswith(("http:", "https:"))


def _right(cases: list[dict[str, Any]], read: Callable[[str, str | None], str | None]) -> str:
    wanted = (case["href"].partition("#")[0] if "href" in case else None for case in cases)
    right = sum(read(case["input"], case["base"]) == url for case, url in zip(cases, wanted, strict=True))
    return str(right)


def _by_yarl(text: str, base: str | None) -> str | None:
    try:
        url = yarl.URL(text)
        if base is not None:
            url = yarl.URL(base).join(url)
        found = str(url.with_fragment(None))
    except ValueError:
        return None
    return found if _is_http(found) and url.raw_host else None


def _by_us(text: str, base: str | None) -> str | None:
    if base is not None:
        return join(base, text)
    try:
        return normalize(text)
    except InvalidURL:
        return None


# -- robots.txt -------------------------------------------------------------------------------------------------------


def _robots() -> list[Rule]:
    cases = _cases("google-robots.json")
    if cases is None:
        return [_absent("Google's robots.txt cases", "google-robots.json")]

    def count(allows: Callable[[str, str, str], bool]) -> int:
        return sum(allows(body, agent, url) is expected for _, body, agent, url, expected in cases)

    plain = f"urllib.robotparser: {count(_robotparser_allows)}"
    if importlib.util.find_spec("protego"):
        plain += f"; Protego: {count(_protego_allows)}"
    ours = count(_we_allow)
    return [
        Rule(
            f"Google's robots.txt cases, {len(cases)}",
            plain,
            f"{ours}; {len(cases) - ours} differ on purpose (tests/test_robots.py names them)",
        )
    ]


def _robotparser_allows(body: str, agent: str, url: str) -> bool:
    parser = urllib.robotparser.RobotFileParser()
    parser.parse(body.splitlines())
    return parser.can_fetch(agent, url)


def _protego_allows(body: str, agent: str, url: str) -> bool:
    from protego import Protego

    return bool(Protego.parse(body).can_fetch(url, agent))


def _we_allow(body: str, agent: str, url: str) -> bool:
    return Robots.parse(body, agent).check(url).allowed


# -- cases ------------------------------------------------------------------------------------------------------------


def _cases(name: str) -> list[Any] | None:
    path = Path(VECTORS, name)
    if not path.is_file():
        return None
    found: list[Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _absent(figure: str, name: str) -> Rule:
    return Rule(figure, f"not counted: {name} is not in ../shared/vectors", "")
