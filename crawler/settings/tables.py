"""The tables: every setting there is, with its type, unit, limits, meaning and default. A new setting is one line here.

The default file (`config/crawler.toml`), the rows of `crawler config` and the text of every error are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the annotations are read when the program runs
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from crawler import __version__
from crawler.settings.declared import key
from crawler.settings.frontier import FrontierSettings
from crawler.settings.masking import Masked
from crawler.settings.status import StatusSettings
from crawler.settings.values import (
    StatusSet,
    check_address,
    check_addresses,
    check_auth,
    check_fingerprint,
    check_function,
    check_header,
    check_header_name,
    check_host,
    check_host_headers,
    check_nameserver,
    check_network,
    check_proxy,
    check_socket,
    check_user_agent,
)

__all__ = [
    "PROJECT_URL",
    "TABLES",
    "CrawlSettings",
    "DnsSettings",
    "FrontierSettings",
    "HttpSettings",
    "LogSettings",
    "PolitenessRule",
    "PolitenessSettings",
    "ProxySettings",
    "RetrySettings",
    "SecuritySettings",
    "Settings",
    "StatusSettings",
    "TlsSettings",
]

PROJECT_URL = "https://github.com/crawler/crawler"
"""What the default `http.user_agent` tells a webmaster who wants to know what visits."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})


class CrawlSettings(Masked, frozen=True, kw_only=True):
    """How much, how far, in which order."""

    # At 1 ms of CPU a page, 64 requests of 64 ms each are what one core can follow.
    concurrency: Annotated[int, key("requests in flight over all hosts", "requests", ge=1)] = 64
    # A crawl ends when the site does; each limit is the user's own wish.
    depth_limit: Annotated[int, key("links away from the start requests; 0 = no limit", "links", ge=0)] = 0
    page_limit: Annotated[int, key("responses handed to callbacks; 0 = no limit", "pages", ge=0)] = 0
    item_limit: Annotated[int, key("items that passed the pipelines; 0 = no limit", "items", ge=0)] = 0
    error_limit: Annotated[int, key("errors after which the crawl fails; 0 = no limit", "errors", ge=0)] = 0
    time_limit_seconds: Annotated[float, key("length of one run; 0 = no limit", "seconds", ge=0)] = 0.0
    # How much of one host somebody wants is theirs to say; politeness is about how fast, not how much.
    pages_per_host: Annotated[int, key("responses of one host handed to callbacks; 0 = no limit", "pages", ge=0)] = 0
    bytes_per_host: Annotated[
        int,
        key("no request starts at a host that has sent this much, after decompression; 0 = no limit", "bytes", ge=0),
    ] = 0
    # A wildcard in the DNS makes hosts without end. Sites where people have a host each (github.io) are public
    # suffixes, so each of those is a domain of its own.
    hosts_per_domain: Annotated[
        int,
        key(
            "hosts found below one registrable domain; those that start() names come in anyway; 0 = no limit",
            "hosts",
            ge=0,
        ),
    ] = 1000
    # Twenty filters make a million of these from some hundred values. No count of ids, topics or pages comes here: each
    # brings a value, or two values together, that were not there before.
    query_permutations: Annotated[
        int,
        key(
            "queries at one path in which every two parameters were met together before; 0 = no limit", "queries", ge=0
        ),
    ] = 10_000
    # Heritrix's TooManyPathSegmentsDecideRule. Sites are some five deep; 20 is more than a person would click through.
    max_path_segments: Annotated[int, key("URLs with more are not followed; 0 = no limit", "segments", ge=0)] = 20
    # Heritrix's PathologicalPathDecideRule: /a/b/a/b is a folder in a folder, /a/b/a/b/a/b a relative link gone wrong.
    max_path_repeats: Annotated[
        int, key("how often a group of segments may come in a row: /a/b/a/b is twice; 0 = no limit", "times", ge=0)
    ] = 2
    # Three years of empty days, eighty of empty months.
    trap_pages: Annotated[
        int,
        key(
            "pages in a row of one calendar, or under new session ids, that brought nothing new, until no more of "
            "them are fetched; 0 = off",
            "pages",
            ge=0,
        ),
    ] = 1000
    # Breadth first meets many hosts early, and each of them has a delay that others can use.
    order: Annotated[Literal["breadth", "depth"], key("which comes first among requests of equal priority")] = "breadth"
    # Orchestrators send SIGKILL 30 s after SIGTERM (Kubernetes' default); 10 s stay for the last commit.
    drain_seconds: Annotated[float, key("what requests in flight get to finish after a signal", "seconds", ge=0)] = 20.0
    # Ten times what any page is known to have, and some hours of writing: what goes beyond does not end by itself.
    output_limit: Annotated[
        int, key("items and requests that one page may give; 0 = no limit; start() has none", "outputs", ge=0)
    ] = 10_000_000
    # A hash of each body and some 70 bytes a page (docs/performance.md), without which no page can be known unchanged.
    keep_validators: Annotated[bool, key("keep of each page what `crawler run --refresh` needs to visit it again")] = (
        True
    )
    # What a page gave before its callback raised is there to be used; who makes one thing of many items wants all.
    partial_pages: Annotated[
        bool,
        key(
            "what a callback gave before it raised counts; false: a page whose callback failed gives nothing, and "
            "until the callback ends all its requests are kept in memory, some 500 bytes each"
        ),
    ] = True
    # As long as the longest fetch (`http.total_seconds`), so that a callback can make one of its own.
    callback_timeout_seconds: Annotated[
        float,
        key(
            "an async callback that takes longer is cancelled and counted as an error; so is a pipeline's "
            "process_item, inline fetches not counted",
            "seconds",
            gt=0,
        ),
    ] = 60.0


class PolitenessRule(Masked, frozen=True, kw_only=True):
    """How one host is treated. A host is a scheme-less name and port: `example.com:443`."""

    # RFC 9309: what a crawler is expected to do.
    obey_robots: Annotated[bool, key("fetch robots.txt first and keep to it (RFC 9309)")] = True
    # The same wish as in robots.txt, told in the page: who keeps to the one keeps to the other.
    obey_nofollow: Annotated[
        bool, key('follow no links of a page whose X-Robots-Tag or <meta name="robots"> says nofollow')
    ] = True
    # Two overlap the latency of one page with the next, and are fewer than the six that a browser opens.
    concurrency_per_host: Annotated[int, key("requests in flight to one host", "requests", ge=1)] = 2
    # At most two requests a second, which the smallest server takes.
    delay_seconds: Annotated[float, key("from one request's start to the next one's, per host", "seconds", ge=0)] = 0.5
    # Enough to break step with other crawlers and with the site's own periodic jobs.
    jitter: Annotated[
        float,
        key(
            "only ever adds: a start comes delay * (1 + jitter * random) after the one before, random from 0 to 1",
            "share of the delay",
            ge=0,
            le=1,
        ),
    ] = 0.3
    adaptive: Annotated[
        bool,
        key(
            "the delay follows the host: it doubles while the host errs (429, 5xx, time-outs, lost connections), up to "
            "max_delay_seconds, and shortens by and by while it answers well and quickly, down to a tenth of "
            "delay_seconds; false: it is always delay_seconds"
        ),
    ] = True
    # A host that needs more than a minute between requests is down; the circuit and retries take over there.
    max_delay_seconds: Annotated[float, key("the longest delay that errors lead to", "seconds", ge=0)] = 60.0
    # Not in RFC 9309, but widely asked for; a minute is what the large crawlers that honour it go up to.
    max_crawl_delay_seconds: Annotated[
        float, key("robots.txt may ask for a longer delay (Crawl-delay), up to this", "seconds", ge=0)
    ] = 60.0
    # With a delay that doubles each time, that is a quarter of an hour without one good answer.
    circuit_failures: Annotated[
        int,
        key(
            "so many failures of a host in a row, and it is paused for 60 delays, then for twice as long after each "
            "probe that fails, up to 900 s; after 8 of them (2 where it never answered) it is given up; 0 = never",
            "failures",
            ge=0,
        ),
    ] = 20


class PolitenessSettings(PolitenessRule, frozen=True, kw_only=True):
    """The rule for every host, and what differs for some."""

    # What a webmaster sees is a host; who has many on one machine may ask for the others.
    group_by: Annotated[
        Literal["host", "domain", "ip"],
        key(
            "what shares one delay and its places: each host (name and port), all hosts of a registrable domain, or "
            "all at one IP address; `hosts` then names the domain or the address"
        ),
    ] = "host"
    hosts: Annotated[
        Mapping[str, Mapping[str, Any]],
        key('the same keys for one host, as name:port, or as name for all ports: hosts."example.com:443".jitter = 0'),
    ] = _EMPTY

    def for_host(self, host: str) -> PolitenessRule:
        """The rule for `"example.com:443"`. What `hosts` says of that port wins over what it says of the bare name.

        `max_delay_seconds` is never below `delay_seconds`: who asks for a long delay gets it.
        """
        name, _, port = host.lower().rpartition(":")
        bare = name if port.isdigit() else host.lower()
        own = {**self.hosts.get(bare, _EMPTY), **self.hosts.get(host.lower(), _EMPTY)}
        rule = {field: own.get(field, getattr(self, field)) for field in PolitenessRule.__struct_fields__}
        rule["max_delay_seconds"] = max(rule["max_delay_seconds"], rule["delay_seconds"])
        return PolitenessRule(**rule)


class HttpSettings(Masked, frozen=True, kw_only=True):
    """What is sent, how long we wait, how much we take."""

    # A webmaster must be able to find out who comes and why.
    user_agent: Annotated[
        str, key("the User-Agent header; its product token is the robots token", check=check_user_agent)
    ] = f"crawler/{__version__} (+{PROJECT_URL})"
    headers: Annotated[
        Mapping[str, str], key("sent with every request, to every host; no secrets", check=check_header)
    ] = _EMPTY
    # An API key in `headers` would be told to every site that a link or redirect leads to (CVE-2026-40895).
    host_headers: Annotated[
        Mapping[str, str],
        key(
            'headers for one host, named as in auth: host_headers."api.example.com" = "X-Api-Key: …"; one a line',
            check=check_host_headers,
        ),
    ] = _EMPTY
    cookies: Annotated[bool, key("keep cookies and send them back (RFC 6265)")] = True
    skip_auto_headers: Annotated[
        tuple[str, ...], key("automatic headers that are not sent", "header names", check=check_header_name)
    ] = ()
    # A secret has one owner: it is never sent because some page asked for it (GHSA-jwqp-28gf-p498 was Scrapy's).
    auth: Annotated[
        Mapping[str, str],
        key(
            'Basic credentials for one host: auth."example.com" = "user:password"; also for one port '
            '("example.com:8080") or origin ("https://example.com"); without a port the usual ones',
            check=check_auth,
        ),
    ] = _EMPTY
    digest_auth: Annotated[
        Mapping[str, str], key("the same for Digest authentication (RFC 7616)", check=check_auth)
    ] = _EMPTY
    # As aiohttp's jar: a cookie of an address is not bound to a name anyone owns.
    unsafe_cookies: Annotated[bool, key("accept cookies from hosts that are IP addresses")] = False
    # A lost SYN is sent again after 1, 3 and 7 s (RFC 6298); whoever has not answered by then will not.
    connect_seconds: Annotated[float, key("name, connection and TLS handshake", "seconds", gt=0)] = 10.0
    read_seconds: Annotated[float, key("between two pieces of an answer", "seconds", gt=0)] = 30.0
    total_seconds: Annotated[
        float, key("one exchange from start to end; of a stream, to its headers", "seconds", gt=0)
    ] = 60.0
    # The web's median page is below 100 KiB of HTML; 64 of the largest at once still fit into 640 MiB.
    max_body_bytes: Annotated[int, key("largest body in memory, after decompression", "bytes", ge=1)] = 10 * 2**20
    # A server that sends a byte now and then holds a connection for ever; 1 KiB/s is slower than any modem.
    min_bytes_per_second: Annotated[
        int, key("a body that is slower for min_speed_seconds is given up; 0 = none", "bytes", ge=0)
    ] = 1024
    # As long as the pause that `read_seconds` allows, so that the two agree.
    min_speed_seconds: Annotated[float, key("how long it may be that slow", "seconds", gt=0)] = 30.0
    max_file_bytes: Annotated[int, key("largest body saved to disk, after decompression", "bytes", ge=1)] = 2 * 2**30
    # Most servers close an idle connection after 5 to 75 s; a stale one costs a retry.
    keepalive_seconds: Annotated[float, key("how long an idle connection is kept", "seconds", ge=0)] = 15.0
    # A site that moves to other addresses is found again at the latest then.
    connection_lifetime_seconds: Annotated[
        float, key("a connection older than this is not used again; 0 = no limit", "seconds", ge=0)
    ] = 0.0
    # RFC 8305 section 5.
    happy_eyeballs_seconds: Annotated[
        float,
        key("head start of an address before the next is tried beside it; 0 = one after the other", "seconds", ge=0),
    ] = 0.25
    local_address: Annotated[
        str | None, key("bind our end to this address; empty = the system's choice", "IP address", check=check_address)
    ] = None
    # RFC 9110 section 15.4 leaves it open; aiohttp's default.
    max_redirects: Annotated[int, key("hops of one request", "redirects", ge=0)] = 10
    # Scrapy's URLLENGTH_LIMIT, once the longest that Internet Explorer took; longer ones are mostly traps.
    max_url_length: Annotated[int, key("longer links are not followed", "characters", ge=1)] = 2083
    # RFC 9110 section 15.3: the successful ones.
    ok_status: Annotated[StatusSet, key("what reaches the callback; the rest goes to the errback")] = StatusSet(
        "200-299"
    )
    # Off: a proxy variable set for other programs would silently move the crawl.
    trust_env: Annotated[bool, key("take proxies from HTTP_PROXY, HTTPS_PROXY and NO_PROXY")] = False
    unix_socket: Annotated[str | None, key("send everything through this socket; empty = none", "path")] = None
    unix_sockets: Annotated[
        Mapping[str, str],
        key(
            'the socket of one host that start() names: unix_sockets."localhost:2375" = "/run/docker.sock"',
            "paths",
            check=check_socket,
        ),
    ] = _EMPTY
    # The standard library's writes byte for byte what aiohttp would; msgspec reads several times faster.
    json_dumps: Annotated[
        Any, key("what writes `json=` bodies; empty = json.dumps", "module:function", check=check_function)
    ] = None
    json_loads: Annotated[
        Any, key("what `response.json()` reads with; empty = msgspec's", "module:function", check=check_function)
    ] = None


class DnsSettings(Masked, frozen=True, kw_only=True):
    """Names to addresses."""

    nameservers: Annotated[
        tuple[str, ...], key("ask these; empty = the system's", "IP addresses", check=check_nameserver)
    ] = ()
    hosts: Annotated[
        Mapping[str, str],
        key(
            'names that are not asked for: hosts."api.example.com" = "10.0.0.7, fd00::7"',
            "IP addresses",
            check=check_addresses,
        ),
    ] = _EMPTY
    # A common TTL; the crawl asks once per host and five minutes, not once per connection.
    cache_seconds: Annotated[float, key("how long an answer is kept", "seconds", ge=0)] = 300.0
    # RFC 2308 allows hours, RFC 9520 at least 1 s; a failing resolver should recover before a retry comes.
    negative_cache_seconds: Annotated[float, key("how long a failure is kept", "seconds", ge=0)] = 5.0
    # About 500 bytes each.
    cache_names: Annotated[int, key("how many answers are kept", "names", ge=1)] = 10_000


class TlsSettings(Masked, frozen=True, kw_only=True):
    """Whom we trust, who we are."""

    verify: Annotated[bool, key("check certificates and host names")] = True
    unverified_hosts: Annotated[
        tuple[str, ...], key("hosts whose certificates are not checked", "names or name:port", check=check_host)
    ] = ()
    ca_file: Annotated[str | None, key("trust these authorities; empty = the system's", "PEM file")] = None
    cert_file: Annotated[str | None, key("our own certificate; empty = none", "PEM file")] = None
    key_file: Annotated[str | None, key("its private key; empty = in cert_file", "PEM file")] = None
    fingerprints: Annotated[
        Mapping[str, str],
        key("the one certificate to accept, by host: the hash of its DER form", "SHA-256 hex", check=check_fingerprint),
    ] = _EMPTY


class ProxySettings(Masked, frozen=True, kw_only=True):
    """Ways out."""

    urls: Annotated[
        tuple[str, ...],
        key("proxies in turn, http, https or (with the extra `socks`) socks5; empty = none", "URLs", check=check_proxy),
    ] = ()
    # A host that sees one address at a time sees one polite visitor.
    per: Annotated[Literal["request", "host", "session"], key("what keeps one proxy when there are several")] = "host"
    # A hiccup of a proxy is over by then; a dead one is asked some 70 times a day at the most.
    rest_seconds: Annotated[float, key("first pause of a proxy that failed, doubled each time", "seconds", gt=0)] = 10.0
    max_rest_seconds: Annotated[float, key("where doubling ends", "seconds", gt=0)] = 1200.0


class RetrySettings(Masked, frozen=True, kw_only=True):
    """What is tried again, and when: `base_seconds` doubled each time, at random from 0 up to that (full jitter)."""

    # Where one request in ten fails by chance, four in a row do once in 10,000.
    times: Annotated[int, key("tries after the first one", "retries", ge=0)] = 3
    # RFC 9110 (408, 5xx), RFC 8470 (425), RFC 6585 (429), and Cloudflare's 520-524 for an origin that is down.
    http_codes: Annotated[StatusSet, key("answers worth another try")] = StatusSet(
        "408 425 429 500 502 503 504 520-524"
    )
    base_seconds: Annotated[float, key("longest wait before the first retry, doubled each time", "seconds", gt=0)] = 1.0
    max_seconds: Annotated[float, key("where doubling ends", "seconds", gt=0)] = 60.0
    # RFC 9110 section 10.2.3; capped, since a hostile or broken server may say a year.
    retry_after_max_seconds: Annotated[float, key("Retry-After wins up to this", "seconds", ge=0)] = 900.0
    # Ten circuits' worth: a host whose every answer is a failure is not going to have better ones for each page.
    host_failures: Annotated[
        int, key("after so many failures of a host in a row, its requests are not tried again", "failures", ge=0)
    ] = 200


class OutputSettings(Masked, frozen=True, kw_only=True):
    """What is written of an item beside itself."""

    # Off: an item is the user's own. Files have each item once; who reads a pipe may see one twice.
    item_ids: Annotated[
        bool,
        key(
            "add _id to every item: the same for the same item, however often its page had to be fetched again, so "
            "that a reader of standard output can tell repeats"
        ),
    ] = False
    # They are in the job's refused.jsonl, so nothing is lost; how many are too many is the user's to say.
    refused_limit: Annotated[
        int,
        key("items that pipelines or outputs may refuse; with more the crawl fails; 0 = no limit", "items", ge=0),
    ] = 0
    # OWASP, "CSV Injection": whoever opens the file in a spreadsheet runs what a page wrote.
    guard_formulas: Annotated[
        bool,
        key("CSV: an apostrophe before text that begins with = + - @, tab or CR; `crawler jobs export` takes it away"),
    ] = True


class SecuritySettings(Masked, frozen=True, kw_only=True):
    """What a page may make us connect to."""

    # Off: a link must not reach what only the crawler's own network should (SSRF).
    allow_private_networks: Annotated[
        bool, key("follow links to private addresses; hosts of start requests are always allowed")
    ] = False
    allow_networks: Annotated[
        tuple[str, ...],
        key(
            "networks whose addresses links may lead to, even if they are private or reserved",
            "CIDR",
            check=check_network,
        ),
    ] = ()


class LogSettings(Masked, frozen=True, kw_only=True):
    """What is said."""

    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        key("least severe that is logged, in either case", check=str.upper),
    ] = "INFO"
    json: Annotated[bool, key("one JSON object a line instead of text")] = False


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
    output: OutputSettings = OutputSettings()
    security: SecuritySettings = SecuritySettings()
    log: LogSettings = LogSettings()
    status: StatusSettings = StatusSettings()


TABLES = Settings.__struct_fields__
"""The names of the tables, in order."""
