"""Every setting: its type, unit, meaning and default, and where its value came from.

    defaults  <  file  <  spider  <  environment  <  command line

The tables below are the only list of settings there is. The default file (`config/crawler.toml`), the rows of
`crawler config` and the text of every error are made from them.

A *layer* is one place in which a user wrote settings. It keeps what was written, and where, unjudged; `load` judges
all layers together, so one run shows every mistake and not just the first. Two kinds of layer exist. Mappings (TOML,
Python) hold typed values, and a value of the wrong type is an error there: `delay_seconds = "0"` is a mistake someone
should hear about. Text (environment, command line) has no types, so it is read as the key's own type.

Values replace each other from layer to layer, lists whole, but tables whose keys the user invents (`http.headers`,
`tls.fingerprints`, `politeness.hosts`) are merged entry by entry: a spider that adds a header keeps those of the file.

Secrets arrive here (proxy passwords, API keys). No `repr`, row or error message of this module shows one.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from crawler import __version__
from crawler.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "PROJECT_URL",
    "CrawlSettings",
    "DnsSettings",
    "FrontierSettings",
    "HttpSettings",
    "Layer",
    "Loaded",
    "LogSettings",
    "PolitenessRule",
    "PolitenessSettings",
    "ProxySettings",
    "RetrySettings",
    "Row",
    "SecuritySettings",
    "Settings",
    "StatusSet",
    "TlsSettings",
    "command_line_layer",
    "default_file",
    "describe",
    "environment_layer",
    "file_layer",
    "load",
    "mapping_layer",
    "spider_layer",
]

PROJECT_URL = "https://github.com/crawler/crawler"
"""What the default `http.user_agent` tells a webmaster who wants to know what visits."""

EMPTY: Mapping[str, Any] = MappingProxyType({})
HIDDEN = "***"


# -- values -----------------------------------------------------------------------------------------------------------


class StatusSet(frozenset[int]):
    """HTTP status codes: `StatusSet([404, "500-599"])` or `StatusSet("404 500-599")`, ranges with both ends.

    `503 in statuses` is a set lookup. `str` gives the shortest such text and `StatusSet(str(statuses)) == statuses`.
    Codes have three digits (RFC 9110 section 15). Raises `SettingsError` for anything else.
    """

    def __new__(cls, parts: Iterable[int | str] | str = ()) -> StatusSet:
        codes: set[int] = set()
        for part in [parts] if isinstance(parts, str) else parts:
            if isinstance(part, int) and not isinstance(part, bool):
                codes.update(_status_range(str(part)))
            elif isinstance(part, str):
                for word in part.replace(",", " ").split():
                    codes.update(_status_range(word))
            else:
                raise SettingsError(f"expected {_STATUSES}, got {part!r}")
        return super().__new__(cls, codes)

    def parts(self) -> list[int | str]:
        """Codes and ranges in rising order, as a TOML list holds them: `[404, "500-599"]`."""
        runs: list[list[int]] = []
        for code in sorted(self):
            if runs and code == runs[-1][1] + 1:
                runs[-1][1] = code
            else:
                runs.append([code, code])
        return [first if first == last else f"{first}-{last}" for first, last in runs]

    def __str__(self) -> str:
        return " ".join(map(str, self.parts()))

    def __repr__(self) -> str:
        return f"StatusSet({str(self)!r})"


_STATUSES = 'status codes from 100 to 999, such as 404, and ranges, such as "500-599"'


def _status_range(text: str) -> range:
    found = re.fullmatch(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?", text)
    if not found or (found[2] and found[2] < found[1]):
        raise SettingsError(f"expected {_STATUSES}, got {text!r}")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


# -- checks: text that is more than text ------------------------------------------------------------------------------


class _Unfit(Exception):
    """Says what was expected; never leaves this module."""


_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2


def _check_host(text: str) -> str:
    """A host with or without port, spelled as URLs have it after parsing: lower case, IDNA, `127.0.0.1` for `127.1`."""
    import can_ada

    if found := re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@*\\\[\]]+)(:[0-9]{1,5})?", text):
        with contextlib.suppress(ValueError):
            return f"{can_ada.parse(f'http://{found[1]}').hostname}{found[2] or ''}"
    raise _Unfit('a host with or without port and without scheme, such as "example.com:443"')


def _check_header(name: str, value: str) -> tuple[str, str]:
    if not re.fullmatch(_NAME, name):
        raise _Unfit("a header name (RFC 9110 section 5.1)")
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]", value.strip()):
        raise _Unfit("a header value without control characters (RFC 9110 section 5.5)")
    return name, value.strip()


def _check_fingerprint(host: str, value: str) -> tuple[str, str]:
    digits = value.lower().removeprefix("sha256:").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise _Unfit("64 hexadecimal digits, the SHA-256 of a certificate")
    return _check_host(host), digits


def _check_user_agent(text: str) -> str:
    if not re.fullmatch(rf"{_NAME}([/ ][ -~]*)?", text):
        raise _Unfit("a product token and what else there is to say, in ASCII (RFC 9110 section 10.1.5)")
    return text


def _check_nameserver(text: str) -> str:
    import ipaddress

    with_port = re.fullmatch(r"(?:\[(.+)\]|([^:]+)):[0-9]{1,5}", text)
    try:
        ipaddress.ip_address((with_port[1] or with_port[2]) if with_port else text)
    except ValueError:
        raise _Unfit("IP addresses of name servers, with or without port") from None
    return text


def _check_network(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise _Unfit(f'networks in CIDR form, such as "10.1.0.0/16" ({error})') from None


def _check_proxy(text: str) -> str:
    from urllib.parse import urlsplit

    with contextlib.suppress(ValueError):  # also what `.port` raises
        url = urlsplit(text)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0:
            return text
    raise _Unfit("URLs of proxies, http://[user:password@]host:port or https://…")


def _check_frontier(text: str) -> str:
    if not re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise _Unfit("a URL such as memory:// or redis://host:6379/0")
    return text


# -- the tables -------------------------------------------------------------------------------------------------------


def _key(meaning: str, unit: str = "", check: Callable[..., Any] | None = None, **limits: float) -> msgspec.Meta:
    return msgspec.Meta(description=meaning, extra={"unit": unit, "check": check}, **limits)  # type: ignore[call-overload, no-any-return]


class _Masked(msgspec.Struct, frozen=True):
    """A struct that shows no secret: not in `repr`, and not where rich prints it by itself."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, _masked(name, getattr(self, name))) for name in self.__struct_fields__]


class CrawlSettings(_Masked, frozen=True, kw_only=True):
    """How much, how far, in which order."""

    # At 1 ms of CPU a page, 64 requests of 64 ms each are what one core can follow.
    concurrency: Annotated[int, _key("requests in flight over all hosts", "requests", ge=1)] = 64
    # A crawl ends when the site does; each limit is the user's own wish.
    depth_limit: Annotated[int, _key("links away from the start requests; 0 = no limit", "links", ge=0)] = 0
    page_limit: Annotated[int, _key("responses handed to callbacks; 0 = no limit", "pages", ge=0)] = 0
    item_limit: Annotated[int, _key("items that passed the pipelines; 0 = no limit", "items", ge=0)] = 0
    error_limit: Annotated[int, _key("errors after which the crawl fails; 0 = no limit", "errors", ge=0)] = 0
    time_limit_seconds: Annotated[float, _key("length of one run; 0 = no limit", "seconds", ge=0)] = 0.0
    # Breadth first meets many hosts early, and each of them has a delay that others can use.
    order: Annotated[Literal["breadth", "depth"], _key("which comes first among requests of equal priority")] = (
        "breadth"
    )
    # Orchestrators send SIGKILL 30 s after SIGTERM (Kubernetes' default); 10 s stay for the last commit.
    drain_seconds: Annotated[float, _key("what requests in flight get to finish after a signal", "seconds", ge=0)] = (
        20.0
    )
    # As long as the longest fetch (`http.total_seconds`), so that a callback can make one of its own.
    callback_timeout_seconds: Annotated[
        float, _key("an async callback that takes longer is cancelled and counted as an error", "seconds", gt=0)
    ] = 60.0


class PolitenessRule(_Masked, frozen=True, kw_only=True):
    """How one host is treated. A host is a scheme-less name and port: `example.com:443`."""

    # RFC 9309: what a crawler is expected to do.
    obey_robots: Annotated[bool, _key("fetch robots.txt first and keep to it (RFC 9309)")] = True
    # Two overlap the latency of one page with the next, and are fewer than the six that a browser opens.
    concurrency_per_host: Annotated[int, _key("requests in flight to one host", "requests", ge=1)] = 2
    # At most two requests a second, which the smallest server takes.
    delay_seconds: Annotated[float, _key("from one request's start to the next one's, per host", "seconds", ge=0)] = 0.5
    # Enough to break step with other crawlers and with the site's own periodic jobs.
    jitter: Annotated[float, _key("how far each delay varies at random", "share of the delay", ge=0, le=1)] = 0.3
    adaptive: Annotated[
        bool, _key("the delay follows latency and errors, from a tenth of delay_seconds up to max_delay_seconds")
    ] = True
    # A host that needs more than a minute between requests is down; retries take over there.
    max_delay_seconds: Annotated[float, _key("the longest delay that errors lead to", "seconds", ge=0)] = 60.0


class PolitenessSettings(PolitenessRule, frozen=True, kw_only=True):
    """The rule for every host, and what differs for some."""

    hosts: Annotated[
        Mapping[str, Mapping[str, Any]],
        _key('the same keys for one host, any port if it has none: hosts."example.com:443".delay_seconds = 2'),
    ] = EMPTY

    def for_host(self, host: str) -> PolitenessRule:
        """The rule for `"example.com:443"`. What `hosts` says of that port wins over what it says of the bare name.

        `max_delay_seconds` is never below `delay_seconds`: who asks for a long delay gets it.
        """
        name, _, port = host.lower().rpartition(":")
        bare = name if port.isdigit() else host.lower()
        own = {**self.hosts.get(bare, EMPTY), **self.hosts.get(host.lower(), EMPTY)}
        rule = {field: own.get(field, getattr(self, field)) for field in PolitenessRule.__struct_fields__}
        rule["max_delay_seconds"] = max(rule["max_delay_seconds"], rule["delay_seconds"])
        return PolitenessRule(**rule)


class HttpSettings(_Masked, frozen=True, kw_only=True):
    """What is sent, how long we wait, how much we take."""

    # A webmaster must be able to find out who comes and why.
    user_agent: Annotated[
        str, _key("the User-Agent header; its product token is the robots token", check=_check_user_agent)
    ] = f"crawler/{__version__} (+{PROJECT_URL})"
    headers: Annotated[Mapping[str, str], _key("sent with every request", check=_check_header)] = EMPTY
    cookies: Annotated[bool, _key("keep cookies and send them back (RFC 6265)")] = True
    # As aiohttp's jar: a cookie of an address is not bound to a name anyone owns.
    unsafe_cookies: Annotated[bool, _key("accept cookies from hosts that are IP addresses")] = False
    # A lost SYN is sent again after 1, 3 and 7 s (RFC 6298); whoever has not answered by then will not.
    connect_seconds: Annotated[float, _key("name, connection and TLS handshake", "seconds", gt=0)] = 10.0
    read_seconds: Annotated[float, _key("between two pieces of an answer", "seconds", gt=0)] = 30.0
    total_seconds: Annotated[float, _key("one exchange from start to end, unless streamed", "seconds", gt=0)] = 60.0
    # The web's median page is below 100 KiB of HTML; 64 of the largest at once still fit into 640 MiB.
    max_body_bytes: Annotated[int, _key("largest body in memory, after decompression", "bytes", ge=1)] = 10 * 2**20
    max_file_bytes: Annotated[int, _key("largest body saved to disk, after decompression", "bytes", ge=1)] = 2 * 2**30
    # RFC 9110 section 15.4 leaves it open; aiohttp's default.
    max_redirects: Annotated[int, _key("hops of one request", "redirects", ge=0)] = 10
    # Scrapy's URLLENGTH_LIMIT, once the longest that Internet Explorer took; longer ones are mostly traps.
    max_url_length: Annotated[int, _key("longer links are not followed", "characters", ge=1)] = 2083
    # RFC 9110 section 15.3: the successful ones.
    ok_status: Annotated[StatusSet, _key("what reaches the callback; the rest goes to the errback")] = StatusSet(
        "200-299"
    )
    # Off: a proxy variable set for other programs would silently move the crawl.
    trust_env: Annotated[bool, _key("take proxies from HTTP_PROXY, HTTPS_PROXY and NO_PROXY")] = False
    unix_socket: Annotated[str | None, _key("send everything through this socket; empty = none", "path")] = None


class DnsSettings(_Masked, frozen=True, kw_only=True):
    """Names to addresses."""

    nameservers: Annotated[
        tuple[str, ...], _key("ask these; empty = the system's", "IP addresses", check=_check_nameserver)
    ] = ()
    # A common TTL; the crawl asks once per host and five minutes, not once per connection.
    cache_seconds: Annotated[float, _key("how long an answer is kept", "seconds", ge=0)] = 300.0
    # RFC 2308 allows hours, RFC 9520 at least 1 s; a failing resolver should recover before a retry comes.
    negative_cache_seconds: Annotated[float, _key("how long a failure is kept", "seconds", ge=0)] = 5.0


class TlsSettings(_Masked, frozen=True, kw_only=True):
    """Whom we trust, who we are."""

    verify: Annotated[bool, _key("check certificates and host names")] = True
    ca_file: Annotated[str | None, _key("trust these authorities; empty = the system's", "PEM file")] = None
    cert_file: Annotated[str | None, _key("our own certificate; empty = none", "PEM file")] = None
    key_file: Annotated[str | None, _key("its private key; empty = in cert_file", "PEM file")] = None
    fingerprints: Annotated[
        Mapping[str, str],
        _key(
            "the one certificate to accept, by host: the hash of its DER form", "SHA-256 hex", check=_check_fingerprint
        ),
    ] = EMPTY


class ProxySettings(_Masked, frozen=True, kw_only=True):
    """Ways out."""

    urls: Annotated[tuple[str, ...], _key("proxies in turn; empty = none", "URLs", check=_check_proxy)] = ()
    # A host that sees one address at a time sees one polite visitor.
    per: Annotated[Literal["request", "host", "session"], _key("what keeps one proxy when there are several")] = "host"


class RetrySettings(_Masked, frozen=True, kw_only=True):
    """What is tried again, and when: `base_seconds` doubled each time, at random from 0 up to that (full jitter)."""

    # Where one request in ten fails by chance, four in a row do once in 10,000.
    times: Annotated[int, _key("tries after the first one", "retries", ge=0)] = 3
    # RFC 9110 (408, 5xx), RFC 8470 (425), RFC 6585 (429), and Cloudflare's 520-524 for an origin that is down.
    http_codes: Annotated[StatusSet, _key("answers worth another try")] = StatusSet(
        "408 425 429 500 502 503 504 520-524"
    )
    base_seconds: Annotated[float, _key("longest wait before the first retry, doubled each time", "seconds", gt=0)] = (
        1.0
    )
    max_seconds: Annotated[float, _key("where doubling ends", "seconds", gt=0)] = 60.0
    # RFC 9110 section 10.2.3; capped, since a hostile or broken server may say a year.
    retry_after_max_seconds: Annotated[float, _key("Retry-After wins up to this", "seconds", ge=0)] = 900.0


class FrontierSettings(_Masked, frozen=True, kw_only=True):
    """Where requests wait."""

    url: Annotated[
        str | None, _key("empty = the job folder; memory:// or redis://host:port/db", "URL", check=_check_frontier)
    ] = None


class SecuritySettings(_Masked, frozen=True, kw_only=True):
    """What a page may make us connect to."""

    # Off: a link must not reach what only the crawler's own network should (SSRF).
    allow_private_networks: Annotated[
        bool, _key("follow links to private addresses; hosts of start requests are always allowed")
    ] = False
    allow_networks: Annotated[
        tuple[str, ...], _key("private networks treated as public", "CIDR", check=_check_network)
    ] = ()


class LogSettings(_Masked, frozen=True, kw_only=True):
    """What is said."""

    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        _key("least severe that is logged, in either case", check=str.upper),
    ] = "INFO"
    json: Annotated[bool, _key("one JSON object a line instead of text")] = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All tables. `Settings()` is the defaults; `load` is the checked way to any other."""

    crawl: CrawlSettings = CrawlSettings()
    politeness: PolitenessSettings = PolitenessSettings()
    http: HttpSettings = HttpSettings()
    dns: DnsSettings = DnsSettings()
    tls: TlsSettings = TlsSettings()
    proxy: ProxySettings = ProxySettings()
    retry: RetrySettings = RetrySettings()
    frontier: FrontierSettings = FrontierSettings()
    security: SecuritySettings = SecuritySettings()
    log: LogSettings = LogSettings()


TABLES = Settings.__struct_fields__


# -- what the tables say of themselves --------------------------------------------------------------------------------


class _Key(NamedTuple):
    table: str
    name: str
    hint: Any
    """The annotation as msgspec reads it: `Annotated[kind, meta]`."""
    kind: Any
    meta: msgspec.Meta
    unit: str
    check: Callable[..., Any] | None

    @property
    def is_table(self) -> bool:
        return get_origin(self.kind) is Mapping

    def limits(self) -> str:
        """Unit and range: `seconds, at least 0`."""
        words = [("at least", self.meta.ge), ("above", self.meta.gt), ("at most", self.meta.le)]
        return ", ".join([self.unit] * bool(self.unit) + [f"{word} {end:g}" for word, end in words if end is not None])

    def expected(self) -> str:
        nouns = {bool: "true or false", int: "a whole number", float: "a number", str | None: "text", str: "text"}
        if get_origin(self.kind) is Literal:
            noun = " or ".join(map(_toml, get_args(self.kind)))
        elif self.kind is StatusSet:
            noun = f"a list of {_STATUSES}"
        else:
            noun = nouns.get(self.kind, "a table" if self.is_table else "a list of text")
        return f"{noun} ({self.limits()})" if self.limits() else noun


@functools.cache
def _keys() -> Mapping[tuple[str, ...], _Key]:
    keys: dict[tuple[str, ...], _Key] = {}
    for table, struct in get_type_hints(Settings).items():
        for name, hint in get_type_hints(struct, include_extras=True).items():
            kind, meta = get_args(hint)
            keys[table, name] = _Key(table, name, hint, kind, meta, **meta.extra)
    return keys


def _dotted(path: Iterable[str]) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else _toml(part) for part in path)


def _toml(value: Any) -> str:
    """A value as a settings file has it; None is the empty text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, StatusSet):
        return _toml(value.parts())
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_dotted([str(name)])} = {_toml(inner)}" for name, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int | float):
        return str(value)
    import json

    return json.dumps("" if value is None else str(value), ensure_ascii=False)


_SECRET_HEADER = re.compile(r"auth|cookie|token|secret|passw|credential|session|signature|key$", re.IGNORECASE)
_SECRET_QUERY = re.compile(r"([?&][^=&#]*(?:pass|secret|token|key|auth)[^=&#]*=)[^&#]*", re.IGNORECASE)
_SECRETS = ("headers", "url", "urls")


def _masked(name: str, value: Any) -> Any:
    """The value of the setting called `name` as it may be shown; of a layer, nothing of it."""
    if name == "value":
        return HIDDEN
    if name == "headers":
        return {header: HIDDEN if _SECRET_HEADER.search(header) else text for header, text in value.items()}
    if name == "urls":
        return tuple(map(_mask_url, value))
    if name == "url" and value is not None:
        return _mask_url(value)
    return {inner: _masked("", value[inner]) for inner in value} if isinstance(value, Mapping) else value


def _mask_url(url: str) -> str:
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    if "@" in rest:  # the last one: a password with an unescaped `@` or `/` in it stays hidden, too
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return scheme + separator + _SECRET_QUERY.sub(rf"\g<1>{HIDDEN}", rest)


# -- layers -----------------------------------------------------------------------------------------------------------


class _Given(_Masked, frozen=True, kw_only=True):
    """Something a user wrote, and where. `path` is empty for a whole mapping."""

    where: str
    """What errors begin with."""
    source: str
    """What `crawler config` shows."""
    value: Any
    path: tuple[str, ...] = ()
    is_text: bool = False
    variable: str = ""
    """The environment variable, if it is one: the nearest key is then spelled as one."""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One place in which settings were written. Made by the functions below, judged by `load`."""

    source: str
    given: tuple[_Given, ...] = ()
    problems: tuple[str, ...] = ()


def mapping_layer(source: str, mapping: Mapping[str, Any], *, where: str | None = None) -> Layer:
    """Tables of typed values, as `crawl(settings={...})` takes them.

    `source` is what `crawler config` shows, `where` (by default the same) what errors begin with.
    """
    return Layer(source=source, given=(_Given(where=where or source, source=source, value=mapping),))


def spider_layer(name: str, mapping: Mapping[str, Any]) -> Layer:
    """`Spider.settings` of the spider called `name`."""
    return mapping_layer(f"spider {name}", mapping, where=f"settings of spider {name}")


def file_layer(path: str | Path) -> Layer:
    """A TOML file, with or without byte order mark.

    Raises `SettingsError` if it cannot be read or is not TOML; the message names file, line and column.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise SettingsError(f"{path}: cannot read the settings file: {error.strerror or error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace").split("\n")
        raise SettingsError(f"{path}:{len(before)}:{len(before[-1]) + 1}: not UTF-8") from None
    try:
        return mapping_layer(f"file {path}", tomllib.loads(text), where=str(path))
    except (ValueError, RecursionError) as error:
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
        lines = text.split("\n")
        place = f"{found[2] or len(lines)}:{found[3] or len(lines[-1]) + 1}: {found[1]}" if found else f" {error}"
        raise SettingsError(f"{path}:{place}") from None


PREFIX = "CRAWLER_"
NOT_SETTINGS = frozenset({"CRAWLER_CRASH_AT"})
"""Variables that begin like settings and are none; `CRAWLER_CRASH_AT` is where crash tests stop the process."""
# Kubernetes tells every container of the services beside it: a service called `crawler-redis` is CRAWLER_REDIS_PORT.
_SERVICE_LINK = re.compile(r"[A-Z0-9_]+?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Variables like `CRAWLER_POLITENESS__DELAY_SECONDS`: `__` between table and key, upper case.

    With `_FILE` at the end (`CRAWLER_FRONTIER__URL_FILE`) the value is what the named file holds, less line ends; that
    is how containers get secrets. `CRAWLER_HTTP__HEADERS__X_API_KEY` is the header `x-api-key`.
    """
    given: list[_Given] = []
    problems: list[str] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS or ("__" not in name and _SERVICE_LINK.fullmatch(name)):
            continue
        where, text, variable = f"environment variable {name}", environ[name], name
        stem = name.removesuffix("_FILE")
        if stem != name and _is_setting(stem) and (not _is_setting(name) or len(_variable_path(name)) > 2):
            variable = stem
            try:
                with open(text, encoding="utf-8") as file:
                    text = file.read().rstrip("\r\n")
            except (OSError, ValueError) as error:
                problems.append(f"{where}: cannot read the file it names: {getattr(error, 'strerror', None) or error}")
                continue
            if stem in environ:
                problems.append(f"{where}: {stem} is set as well; which one holds?")
        path = _variable_path(variable)
        source = f"environment {name}"
        given.append(_Given(where=where, source=source, path=path, value=text, is_text=True, variable=name))
    return Layer(source="environment", given=tuple(given), problems=tuple(problems))


def _variable_path(variable: str) -> tuple[str, ...]:
    table, *rest = variable.removeprefix(PREFIX).lower().split("__")
    return (table, *rest[:1], *(part.replace("_", "-") if rest[0] == "headers" else part for part in rest[1:]))


def _is_setting(variable: str) -> bool:
    path = _variable_path(variable)
    key = _keys().get(path[:2])
    return key is not None and (len(path) == 2 or key.is_table)


def command_line_layer(options: Iterable[str]) -> Layer:
    """What `-s` was given: `table.key=VALUE`, the key as TOML spells dotted keys.

    Since shells take quotes away, the name of a host may also stand without:
    `politeness.hosts.127.0.0.1:8080.delay_seconds=0`.
    """
    given: list[_Given] = []
    problems: list[str] = []
    for option in options:
        path: list[str] = []
        end, found = 0, _PATH_PART.match(option)
        while found:
            path.append(next(part for part in found.groups() if part is not None))
            end, found = found.end(), _PATH_PART.match(option, found.end()) if found[0].endswith(".") else None
        if option[end - 1 : end] == "=":
            where, text = f"-s {option[: end - 1].strip()}", option[end:]
            given.append(_Given(where=where, source="command line", path=tuple(path), value=text, is_text=True))
        else:  # what follows a misplaced sign may be a password: only the start is shown
            start = re.match(r"[\w.]*", option)
            problems.append(f"-s {start[0] if start else ''}: expected table.key=VALUE")
    return Layer(source="command line", given=tuple(given), problems=tuple(problems))


# A quoted part, or a bare one, which may be a host with port; then a dot or the end of the key.
_PATH_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|((?:\[[0-9A-Fa-f:]+\]|[\w-]+)(?::[0-9]+)?))\s*[.=]""")


# -- judging ----------------------------------------------------------------------------------------------------------


class Loaded(msgspec.Struct, frozen=True):
    """The settings in force, and the source of each by its full name (`politeness.delay_seconds`)."""

    settings: Settings
    sources: Mapping[str, str]


class Row(NamedTuple):
    """One line of `crawler config`; the value as TOML has it, secrets masked."""

    key: str
    value: str
    source: str
    unit: str
    meaning: str


def load(layers: Iterable[Layer] = ()) -> Loaded:
    """Merge layers, later over earlier, over the defaults.

    Raises `SettingsError` with one line for each thing wrong in any of them: where it stands, what was expected, and
    for an unknown key the nearest known one.
    """
    merge = _Merge()
    for layer in layers:
        merge.problems.extend(layer.problems)
        for given in layer.given:
            merge.take(given, given.path, given.value)
    settings = merge.settings()
    merge.compare(settings)
    if merge.problems:
        raise SettingsError("\n".join(merge.problems))
    return Loaded(settings, MappingProxyType(merge.sources))


class _Merge:
    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
        self.sources = {f"{table}.{name}": "default" for table, name in _keys()}
        self.problems: list[str] = []

    def take(self, given: _Given, path: tuple[str, ...], value: Any) -> None:
        key = _keys().get(path[:2])
        if not path or (len(path) == 1 and path[0] in TABLES):
            self._descend(given, path, value)
        elif key is None or (len(path) > 2 and not key.is_table):
            self._problem(given, path, _unknown(given, path))
        elif not key.is_table:
            self._set(given, path, self._read(given, path, key, value))
        elif len(path) == 2 or (key.name == "hosts" and len(path) == 3):
            self._descend(given, path, value)
        elif key.name == "hosts":
            self._take_rule(given, path, value)
        else:
            self._take_entry(given, path, key, value)

    def settings(self) -> Settings:
        hosts = self.values["politeness"].get("hosts")
        if hosts:
            self.values["politeness"]["hosts"] = {name: MappingProxyType(rule) for name, rule in hosts.items()}
        tables = {}
        for table, struct in get_type_hints(Settings).items():
            frozen = {n: MappingProxyType(v) if isinstance(v, dict) else v for n, v in self.values[table].items()}
            tables[table] = struct(**frozen)
        return Settings(**tables)

    def compare(self, settings: Settings) -> None:
        """What only two keys together can get wrong."""
        if settings.tls.key_file and not settings.tls.cert_file:
            self.problems.append(f"tls.key_file ({self.sources['tls.key_file']}): expected tls.cert_file beside it")
        if settings.retry.base_seconds > settings.retry.max_seconds:
            names = ("retry.base_seconds", "retry.max_seconds")
            named = " and ".join(f"{name} ({self.sources[name]})" for name in names)
            self.problems.append(f"{named}: expected the first to be at most the second")

    def _descend(self, given: _Given, path: tuple[str, ...], value: Any) -> None:
        if given.is_text:
            given, value = msgspec.structs.replace(given, is_text=False), _table_from_text(value)
        if isinstance(value, Mapping):
            for name, inner in value.items():
                self.take(given, (*path, str(name)), inner)
        else:
            self._problem(given, path, f"expected a table, got {_shown(path, value)}")

    def _take_rule(self, given: _Given, path: tuple[str, ...], value: Any) -> None:
        host, name = ".".join(path[2:-1]), path[-1]
        if name not in PolitenessRule.__struct_fields__:
            hint = _unknown(given, path)
            if isinstance(value, Mapping):
                hint = f"quote the name of a host: {_dotted(path[:2])}.{_toml('.'.join(path[2:]))}"
            self._problem(given, path, hint)
            return
        try:
            host = _check_host(host)
        except _Unfit as unfit:
            self._problem(given, path, f"expected {unfit}, got {_toml(host)}")
            return
        read = self._read(given, path, _keys()["politeness", name], value)
        if read is not _WRONG:
            self.values["politeness"].setdefault("hosts", {}).setdefault(host, {})[name] = read
            self._note(given, (*path[:2], host, name))

    def _take_entry(self, given: _Given, path: tuple[str, ...], key: _Key, value: Any) -> None:
        if not isinstance(value, str):
            self._problem(given, path, f"expected text, got {_shown(path, value)}")
            return
        try:
            name, text = key.check(".".join(path[2:]), value) if key.check else (path[2], value)
        except _Unfit as unfit:
            self._problem(given, path, f"expected {unfit}, got {_shown(path, value)}")
            return
        entries = self.values[key.table].setdefault(key.name, {})
        for other in [other for other in entries if other.lower() == name.lower()]:
            del entries[other]
            del self.sources[_dotted((*path[:2], other))]
        entries[name] = text
        self._note(given, (*path[:2], name))

    def _read(self, given: _Given, path: tuple[str, ...], key: _Key, value: Any) -> Any:
        try:
            return _convert(key, _from_text(key.kind, value) if given.is_text else value)
        except _Unfit as unfit:
            self._problem(given, path, f"expected {unfit}, got {_shown(path, value)}")
        except (ValueError, RecursionError, msgspec.ValidationError):
            self._problem(given, path, f"expected {key.expected()}, got {_shown(path, value)}")
        return _WRONG

    def _set(self, given: _Given, path: tuple[str, ...], value: Any) -> None:
        if value is not _WRONG:
            self.values[path[0]][path[1]] = value
            self._note(given, path)

    def _note(self, given: _Given, path: tuple[str, ...]) -> None:
        self.sources[_dotted(path[:2])] = self.sources[_dotted(path)] = given.source

    def _problem(self, given: _Given, path: tuple[str, ...], text: str) -> None:
        where = given.where if path == given.path else f"{given.where}: {_dotted(path)}"
        self.problems.append(f"{where}: {text}")


_WRONG = object()


def _convert(key: _Key, value: Any) -> Any:
    """The value as the typed settings hold it. Raises `_Unfit`, `ValueError` or `msgspec.ValidationError`."""
    if key.kind is StatusSet:
        if not isinstance(value, list | tuple | frozenset | set):
            raise _Unfit(key.expected())
        try:
            return StatusSet(value)
        except SettingsError:
            raise _Unfit(key.expected()) from None
    if key.kind == str | None and value in ("", None):
        return None
    if key.check and isinstance(value, str):
        value = key.check(value)
    elif key.check and isinstance(value, list | tuple):
        value = [key.check(part) if isinstance(part, str) else part for part in value]
    value = msgspec.convert(value, key.hint)
    if isinstance(value, float) and not math.isfinite(value):
        raise _Unfit(key.expected())
    return value


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _from_text(kind: Any, text: str) -> Any:
    """Text as the key's type has it. Raises `ValueError`, or leaves what it cannot read for `_convert` to refuse."""
    text = text.strip()
    if kind is bool:
        return _WORDS.get(text.lower(), text)
    if kind in (int, float):
        return kind(text)
    if kind is StatusSet or get_origin(kind) is tuple:
        if text.startswith("["):
            import tomllib

            return tomllib.loads(f"value = {text}")["value"]
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _table_from_text(text: str) -> Any:
    """An inline table of TOML or a JSON object; anything else stays text."""
    import json
    import tomllib

    with contextlib.suppress(ValueError, RecursionError):
        return tomllib.loads(f"value = {text}")["value"]
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    return text if text.strip() else {}


def _shown(path: tuple[str, ...], value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, str | list | tuple) and (len(path) < 2 or path[1] in _SECRETS):
        return "text" if isinstance(value, str) else "a list"
    if not isinstance(value, bool | int | float | str | list | tuple):
        return "a table" if isinstance(value, Mapping) else type(value).__name__
    text = _toml(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


# -- the nearest key --------------------------------------------------------------------------------------------------

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


def _unknown(given: _Given, path: tuple[str, ...]) -> str:
    near = _nearest(path)
    if near and given.variable:
        near = PREFIX + near.upper().replace(".", "__")
    if near:
        return f"unknown key; did you mean {near}?"
    names = [name for table, name in _keys() if table == path[0]]
    return (
        f"unknown key; {path[0]} has {', '.join(names)}" if names else f"unknown table; known are {', '.join(TABLES)}"
    )


def _nearest(path: tuple[str, ...]) -> str | None:
    """The key that was probably meant: Scrapy's name for it, the same name in another table, or the most similar."""
    from difflib import get_close_matches

    leaf = path[-1].lower()
    if path[:2] == ("politeness", "hosts"):
        rules = get_close_matches(leaf, PolitenessRule.__struct_fields__, 1, cutoff=0.5)
        return _dotted((*path[:-1], rules[0])) if rules else None
    if path[:2] in _keys():
        return _dotted(path[:2])
    if leaf.upper() in _SCRAPY:
        return _SCRAPY[leaf.upper()]
    keys = {f"{table}.{name}": name for table, name in _keys()}
    beside = {name: key for key, name in keys.items() if key.startswith(f"{path[0]}.")}
    near = (
        [beside[name] for name in get_close_matches(leaf, beside, 1, cutoff=0.8)]
        or [key for key, name in keys.items() if name == leaf]
        or get_close_matches(".".join(path).lower(), [*keys, *TABLES], 1)
        or [key for name in get_close_matches(leaf, keys.values(), 1) for key in keys if keys[key] == name]
    )
    return near[0] if near else None


# -- showing ----------------------------------------------------------------------------------------------------------


def describe(loaded: Loaded) -> list[Row]:
    """A row for every key, tables in the order of `Settings`; one for each entry where users invent the keys."""
    rows = []
    for key in _keys().values():
        value = _masked(key.name, getattr(getattr(loaded.settings, key.table), key.name))
        for path, inner, of in _leaves(key, (key.table, key.name), value):
            name = _dotted(path)
            rows.append(Row(name, _toml(inner), loaded.sources[name], of.unit, of.meta.description or ""))
    return rows


def _leaves(key: _Key, path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any, _Key]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            of = _keys()["politeness", name] if key.name == "hosts" and not isinstance(inner, Mapping) else key
            yield from _leaves(of, (*path, name), inner)
    else:
        yield path, value, key


def default_file() -> str:
    """`config/crawler.toml`: every key, commented out, with its default, unit, range and meaning."""
    lines = [
        "# Every setting, commented out, with its default. Take away the # before a key and change its value.",
        "# What stands here wins over the defaults; the spider's `settings`, environment variables such as",
        "# CRAWLER_POLITENESS__DELAY_SECONDS=0 and `-s politeness.delay_seconds=0` win over what stands here.",
        "# `crawler config` shows what holds and where it comes from.",
    ]
    table = ""
    for key in _keys().values():
        if key.table != table:
            table = key.table
            lines += ["", f"[{table}]"]
        meaning = f"{key.meta.description} ({key.limits()})" if key.limits() else key.meta.description
        lines += [f"# {meaning}", f"#{key.name} = {_toml(getattr(getattr(Settings(), table), key.name))}"]
    return "\n".join(lines) + "\n"
