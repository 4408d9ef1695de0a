"""The key that was probably meant by one that does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.settings.keys import all_keys, dotted
from crawler.settings.layers import PREFIX
from crawler.settings.tables import TABLES, PolitenessRule

if TYPE_CHECKING:
    from crawler.settings.layers import Given

__all__ = ["unknown"]

_SCRAPY = {
    "AUTOTHROTTLE_ENABLED": "politeness.adaptive",
    "AUTOTHROTTLE_MAX_DELAY": "politeness.max_delay_seconds",
    "CLOSESPIDER_ERRORCOUNT": "crawl.error_limit",
    "CLOSESPIDER_ITEMCOUNT": "crawl.item_limit",
    "CLOSESPIDER_PAGECOUNT": "crawl.page_limit",
    "CLOSESPIDER_TIMEOUT": "crawl.time_limit_seconds",
    "CONCURRENT_REQUESTS": "crawl.concurrency",
    "CONCURRENT_REQUESTS_PER_DOMAIN": "politeness.concurrency_per_host",
    "CONCURRENT_REQUESTS_PER_IP": "politeness.concurrency_per_host",
    "COOKIES_ENABLED": "http.cookies",
    "DEFAULT_REQUEST_HEADERS": "http.headers",
    "DEPTH_LIMIT": "crawl.depth_limit",
    "DEPTH_PRIORITY": "crawl.order",
    "DNSCACHE_ENABLED": "dns.cache_seconds",
    "DOWNLOAD_DELAY": "politeness.delay_seconds",
    "DOWNLOAD_MAXSIZE": "http.max_body_bytes",
    "DOWNLOAD_TIMEOUT": "http.total_seconds",
    "HTTPERROR_ALLOWED_CODES": "http.ok_status",
    "HTTPPROXY_ENABLED": "http.trust_env",
    "LOG_LEVEL": "log.level",
    "RANDOMIZE_DOWNLOAD_DELAY": "politeness.jitter",
    "REDIRECT_MAX_TIMES": "http.max_redirects",
    "RETRY_ENABLED": "retry.times",
    "RETRY_HTTP_CODES": "retry.http_codes",
    "RETRY_TIMES": "retry.times",
    "ROBOTSTXT_OBEY": "politeness.obey_robots",
    "ROBOTSTXT_USER_AGENT": "http.user_agent",
    "URLLENGTH_LIMIT": "http.max_url_length",
    "USER_AGENT": "http.user_agent",
}


def unknown(given: Given, path: tuple[str, ...]) -> str:
    """What an error says of a key that does not exist: the nearest one, or what there is."""
    near = _nearest(path)
    if near and path == (near,):  # "table.key" as one name
        table, _, name = near.partition(".")
        return f"unknown key; write it as {name} in the table {table}"
    if near and given.variable:
        near = PREFIX + near.upper().replace(".", "__")
    if near:
        return f"unknown key; did you mean {near}?"
    names = [name for table, name in all_keys() if table == path[0]]
    return (
        f"unknown key; {path[0]} has {', '.join(names)}" if names else f"unknown table; known are {', '.join(TABLES)}"
    )


def _nearest(path: tuple[str, ...]) -> str | None:
    """The key that was probably meant: Scrapy's name for it, the same name in another table, or the most similar."""
    from difflib import get_close_matches

    leaf = path[-1].lower()
    if path[:2] == ("politeness", "hosts"):
        rules = get_close_matches(leaf, PolitenessRule.__struct_fields__, 1, cutoff=0.5)
        return dotted((*path[:-1], rules[0])) if rules else None
    if path[:2] in all_keys():
        return dotted(path[:2])
    if leaf.upper() in _SCRAPY:
        return _SCRAPY[leaf.upper()]
    keys = {f"{table}.{name}": name for table, name in all_keys()}
    beside = {name: key for key, name in keys.items() if key.startswith(f"{path[0]}.")}
    near = (
        [beside[name] for name in get_close_matches(leaf, beside, 1, cutoff=0.8)]
        or [key for key, name in keys.items() if name == leaf]
        or [beside[name] for name in get_close_matches(leaf, beside, 1, cutoff=0.5)]
        or (get_close_matches(".".join(path).lower(), [*keys, *TABLES], 1) if path[0] not in TABLES else [])
        or [key for name in get_close_matches(leaf, keys.values(), 1) for key in keys if keys[key] == name]
    )
    return near[0] if near else None
