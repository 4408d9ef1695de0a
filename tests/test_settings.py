"""Settings: what they are by default, how layers meet, what an error says, and that secrets stay hidden."""

from __future__ import annotations

import pickle
import re
import string
import subprocess
import sys
import tomllib
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crawler
from crawler.errors import SettingsError
from crawler.settings import (
    Layer,
    Loaded,
    PolitenessRule,
    Settings,
    StatusSet,
    command_line_layer,
    default_file,
    describe,
    environment_layer,
    file_layer,
    load,
    mapping_layer,
    spider_layer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_FILE = Path(__file__).parents[1] / "config" / "crawler.toml"

DEFAULTS: dict[str, object] = {
    "crawl.concurrency": 64,
    "crawl.depth_limit": 0,
    "crawl.page_limit": 0,
    "crawl.item_limit": 0,
    "crawl.error_limit": 0,
    "crawl.time_limit_seconds": 0,
    "crawl.pages_per_host": 0,
    "crawl.bytes_per_host": 0,
    "crawl.hosts_per_domain": 1000,
    "crawl.query_permutations": 10_000,
    "crawl.max_path_segments": 20,
    "crawl.max_path_repeats": 2,
    "crawl.trap_pages": 1000,
    "crawl.order": "breadth",
    "crawl.drain_seconds": 20,
    "crawl.callback_timeout_seconds": 60,
    "crawl.output_limit": 10_000_000,
    "crawl.keep_validators": True,
    "crawl.partial_pages": True,
    "politeness.obey_robots": True,
    "politeness.obey_nofollow": True,
    "politeness.concurrency_per_host": 2,
    "politeness.delay_seconds": 0.5,
    "politeness.jitter": 0.3,
    "politeness.adaptive": True,
    "politeness.max_delay_seconds": 60,
    "politeness.max_crawl_delay_seconds": 60,
    "politeness.circuit_failures": 20,
    "politeness.group_by": "host",
    "politeness.hosts": {},
    "http.user_agent": f"crawler/{crawler.__version__} (+https://github.com/crawler/crawler)",
    "http.headers": {},
    "http.host_headers": {},
    "http.skip_auto_headers": (),
    "http.auth": {},
    "http.digest_auth": {},
    "http.cookies": True,
    "http.unsafe_cookies": False,
    "http.connect_seconds": 10,
    "http.read_seconds": 30,
    "http.total_seconds": 60,
    "http.max_body_bytes": 10 * 1024 * 1024,
    "http.min_bytes_per_second": 1024,
    "http.min_speed_seconds": 30,
    "http.max_file_bytes": 2 * 1024 * 1024 * 1024,
    "http.keepalive_seconds": 15,
    "http.connection_lifetime_seconds": 0,
    "http.happy_eyeballs_seconds": 0.25,
    "http.local_address": None,
    "http.max_redirects": 10,
    "http.max_url_length": 2083,
    "http.ok_status": StatusSet("200-299"),
    "http.trust_env": False,
    "http.unix_socket": None,
    "http.unix_sockets": {},
    "http.json_dumps": None,
    "http.json_loads": None,
    "dns.nameservers": (),
    "dns.hosts": {},
    "dns.cache_seconds": 300,
    "dns.negative_cache_seconds": 5,
    "dns.cache_names": 10_000,
    "tls.verify": True,
    "tls.unverified_hosts": (),
    "tls.ca_file": None,
    "tls.cert_file": None,
    "tls.key_file": None,
    "tls.fingerprints": {},
    "proxy.urls": (),
    "proxy.per": "host",
    "proxy.rest_seconds": 10,
    "proxy.max_rest_seconds": 1200,
    "retry.times": 3,
    "retry.http_codes": StatusSet([408, 425, 429, 500, 502, 503, 504, "520-524"]),
    "retry.base_seconds": 1,
    "retry.max_seconds": 60,
    "retry.retry_after_max_seconds": 900,
    "retry.host_failures": 200,
    "frontier.url": None,
    "frontier.window": 32,
    "frontier.durability": "process",
    "frontier.crawl": "",
    "frontier.worker": "",
    "frontier.lease_seconds": 60,
    "frontier.shards": 4,
    "frontier.expected_urls": 1_000_000,
    "frontier.allow_unprotected": False,
    "output.item_ids": False,
    "output.refused_limit": 0,
    "output.guard_formulas": True,
    "security.allow_private_networks": False,
    "security.allow_networks": (),
    "log.level": "INFO",
    "log.json": False,
    "status.listen": None,
    "status.hosts": (),
    "status.token": None,
}


def value(settings: Settings, key: str) -> Any:
    table, name = key.split(".")
    return getattr(getattr(settings, table), name)


def options(*texts: str) -> Loaded:
    return load([command_line_layer(texts)])


def mapped(mapping: Mapping[str, Any]) -> Loaded:
    return load([mapping_layer("here", mapping)])


def problems(*layers: Layer) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(layers)
    return str(caught.value).splitlines()


# -- status sets ------------------------------------------------------------------------------------------------------


def test_a_status_set_knows_its_codes_and_the_ends_of_its_ranges() -> None:
    statuses = StatusSet([404, "500-502", "200, 204"])
    assert set(statuses) == {200, 204, 404, 500, 501, 502}
    assert 502 in statuses
    assert 503 not in statuses


def test_a_status_set_shows_as_the_shortest_text() -> None:
    assert str(StatusSet([504, 408, 502, 503, "520-524"])) == "408 502-504 520-524"
    assert repr(StatusSet([404])) == "StatusSet('404')"
    assert StatusSet([404, "500-599"]).parts() == [404, "500-599"]
    assert str(StatusSet()) == ""


@given(st.sets(st.integers(100, 999), max_size=40))
def test_a_status_set_can_be_read_back_from_its_text_repr_and_pickle(codes: set[int]) -> None:
    statuses = StatusSet(codes)
    assert set(StatusSet(str(statuses))) == set(statuses) == codes
    assert eval(repr(statuses)) == statuses
    assert StatusSet(statuses.parts()) == statuses
    again = pickle.loads(pickle.dumps(statuses))
    assert again == statuses
    assert type(again) is StatusSet


@pytest.mark.parametrize("part", ["abc", "299-200", "99", "1000", "200-", "-200", "2xx", 99, 1000, True, 200.0, None])
def test_what_is_no_status_is_refused(part: Any) -> None:
    with pytest.raises(SettingsError, match="status codes from 100 to 999"):
        StatusSet([part])


# -- defaults and the default file ------------------------------------------------------------------------------------


def test_without_layers_every_key_has_the_documented_default() -> None:
    loaded = load()
    assert {row.key for row in describe(loaded)} == set(DEFAULTS)
    assert {key: value(loaded.settings, key) for key in DEFAULTS} == DEFAULTS
    assert loaded.sources == dict.fromkeys(DEFAULTS, "default")
    assert loaded.settings == Settings()


def test_defaults_have_the_types_of_their_keys() -> None:
    # Struct defaults are not checked by msgspec: an int where a float is declared would show only much later.
    given_back: dict[str, dict[str, object]] = {}
    for key, default in DEFAULTS.items():
        table, name = key.split(".")
        plain = default.parts() if isinstance(default, StatusSet) else default
        given_back.setdefault(table, {})[name] = plain
    checked = mapped(given_back).settings
    for key in DEFAULTS:
        assert type(value(checked, key)) is type(value(Settings(), key)), key


def test_every_key_says_what_it_means_and_every_quantity_its_unit() -> None:
    for row in describe(load()):
        assert row.meaning, row.key
        if row.key.endswith("_seconds"):
            assert row.unit == "seconds"
        if row.key.endswith("_bytes"):
            assert row.unit == "bytes"
        if re.fullmatch(r"[0-9.]+", row.value):
            assert row.unit, row.key


def test_the_default_file_is_the_one_the_tables_give() -> None:
    how = "python -c \"from crawler.settings import default_file; print(default_file(), end='')\" > config/crawler.toml"
    assert DEFAULT_FILE.read_text("utf-8") == default_file(), f"out of date; write it again: {how}"


def test_the_default_file_sets_nothing() -> None:
    assert load([file_layer(DEFAULT_FILE)]) == load()


def test_the_default_file_uncommented_is_the_defaults() -> None:
    text = re.sub(r"(?m)^#(?=\w+ = )", "", DEFAULT_FILE.read_text("utf-8"))
    tables = tomllib.loads(text)
    assert {f"{table}.{name}" for table, names in tables.items() for name in names} == set(DEFAULTS)
    assert load([mapping_layer("file", tables)]).settings == Settings()


# -- layers -----------------------------------------------------------------------------------------------------------


def test_later_layers_win_and_the_source_is_the_winner(tmp_path: Path) -> None:
    path = tmp_path / "crawler.toml"
    path.write_text("[politeness]\ndelay_seconds = 1\n")
    layers = [
        file_layer(path),
        spider_layer("books", {"politeness": {"delay_seconds": 2}}),
        environment_layer({"CRAWLER_POLITENESS__DELAY_SECONDS": "3"}),
        command_line_layer(["politeness.delay_seconds=4"]),
    ]
    expected = [
        (0.5, "default"),
        (1.0, f"file {path}"),
        (2.0, "spider books"),
        (3.0, "environment CRAWLER_POLITENESS__DELAY_SECONDS"),
        (4.0, "command line"),
    ]
    for count, (delay, source) in enumerate(expected):
        loaded = load(layers[:count])
        assert loaded.settings.politeness.delay_seconds == delay
        assert loaded.sources["politeness.delay_seconds"] == source


def test_the_last_of_two_options_wins() -> None:
    assert options("crawl.concurrency=2", "crawl.concurrency=3").settings.crawl.concurrency == 3


def test_tables_with_free_keys_are_merged_and_keep_the_source_of_each_entry() -> None:
    loaded = load(
        [
            mapping_layer("file a", {"http": {"headers": {"Accept": "text/html", "DNT": "1"}}}),
            spider_layer("books", {"http": {"headers": {"accept": "*/*"}}}),
        ]
    )
    assert loaded.settings.http.headers == {"DNT": "1", "accept": "*/*"}  # header names know no case
    assert loaded.sources["http.headers.DNT"] == "file a"
    assert loaded.sources["http.headers.accept"] == loaded.sources["http.headers"] == "spider books"
    assert "http.headers.Accept" not in loaded.sources


def test_lists_replace_each_other() -> None:
    low = mapping_layer("low", {"dns": {"nameservers": ["192.0.2.1", "192.0.2.2"]}, "retry": {"http_codes": [500]}})
    high = mapping_layer("high", {"dns": {"nameservers": ["192.0.2.3"]}, "retry": {"http_codes": ["400-401", 503]}})
    settings = load([low, high]).settings
    assert settings.dns.nameservers == ("192.0.2.3",)
    assert settings.retry.http_codes == StatusSet([400, 401, 503])


def test_an_empty_text_takes_an_optional_setting_back() -> None:
    low = mapping_layer("low", {"frontier": {"url": "memory://"}, "tls": {"ca_file": "ca.pem"}})
    settings = load(
        [low, command_line_layer(["frontier.url="]), mapping_layer("x", {"tls": {"ca_file": None}})]
    ).settings
    assert settings.frontier.url is None
    assert settings.tls.ca_file is None


def test_settings_cannot_be_changed() -> None:
    settings = mapped({"http": {"headers": {"A": "b"}}, "politeness": {"hosts": {"a.example": {"jitter": 0}}}}).settings
    with pytest.raises(AttributeError):
        settings.crawl.concurrency = 1  # type: ignore[misc]
    for mapping in (settings.http.headers, settings.politeness.hosts, settings.politeness.hosts["a.example"]):
        with pytest.raises(TypeError):
            mapping["x"] = 1  # type: ignore[index]


# -- text from the environment and the command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("crawl.concurrency=8", 8),
        ("crawl.concurrency = 8 ", 8),
        ("politeness.delay_seconds=0", 0.0),
        ("politeness.delay_seconds=1e-2", 0.01),
        ("politeness.obey_robots=false", False),
        ("politeness.obey_robots=No", False),
        ("politeness.obey_robots=0", False),
        ("http.trust_env=TRUE", True),
        ("http.trust_env=1", True),
        ("http.trust_env=yes", True),
        ("http.user_agent=my-bot/1.0 (+https://example.com/?a=b)", "my-bot/1.0 (+https://example.com/?a=b)"),
        ("crawl.order=depth", "depth"),
        ("log.level=debug", "DEBUG"),
        ("frontier.url=redis://example.com:6379/0", "redis://example.com:6379/0"),
        (
            "dns.nameservers=192.0.2.1, [2001:db8::1]:53,192.0.2.2:5353",
            ("192.0.2.1", "[2001:db8::1]:53", "192.0.2.2:5353"),
        ),
        ('dns.nameservers=["192.0.2.1", "2001:db8::1"]', ("192.0.2.1", "2001:db8::1")),
        ("dns.nameservers=", ()),
        ("proxy.urls=http://a.example:3128,https://b.example", ("http://a.example:3128", "https://b.example")),
        ("security.allow_networks=127.0.0.2/31,::1", ("127.0.0.2/31", "::1/128")),
        ("retry.http_codes=500,502-503", StatusSet("500 502-503")),
        ("retry.http_codes=500 502-503", StatusSet("500 502-503")),
        ('http.ok_status=[200, "300-302"]', StatusSet("200 300-302")),
        ('http.headers={"X-A" = "1"}', {"X-A": "1"}),
        ('http.headers={"X-A": "1"}', {"X-A": "1"}),
        ("http.headers=", {}),
        ("http.headers.X-A=b=c", {"X-A": "b=c"}),
        ('tls.fingerprints."a.example"=' + "AB:" * 31 + "AB", {"a.example": "ab" * 32}),
        ("tls.fingerprints.a.example=sha256:" + "0" * 64, {"a.example": "0" * 64}),
    ],
)
def test_text_is_read_as_the_type_of_its_key(option: str, expected: object) -> None:
    key = ".".join(option.partition("=")[0].split(".")[:2]).strip()
    for layer in (
        command_line_layer([option]),
        environment_layer({f"CRAWLER_{key.upper().replace('.', '__')}": option.partition("=")[2]}),
    ):
        read = value(load([layer]).settings, key)
        assert read == expected
        assert isinstance(expected, dict) or type(read) is type(expected)
        if option.count(".", 0, option.index("=")) > 1:
            break  # a dotted entry has no name in the environment


@pytest.mark.parametrize(
    ("option", "host", "delay"),
    [
        ('politeness.hosts."127.0.0.1:8080".delay_seconds=0', "127.0.0.1:8080", 0.0),
        ("politeness.hosts.'127.0.0.1:8080'.delay_seconds=0", "127.0.0.1:8080", 0.0),
        ("politeness.hosts.127.0.0.1:8080.delay_seconds=0", "127.0.0.1:8080", 0.0),  # the shell ate the quotes
        ("politeness.hosts.Example.COM.delay_seconds=7", "example.com:443", 7.0),
        ("politeness.hosts.[::1]:8080.delay_seconds=7", "[::1]:8080", 7.0),
        ('politeness.hosts."[::1]".delay_seconds=7', "[::1]:99", 7.0),
        ('politeness.hosts."bücher.example".delay_seconds=7', "xn--bcher-kva.example:80", 7.0),
        ('politeness.hosts."a.example"={delay_seconds = 7}', "a.example:80", 7.0),
        ('politeness.hosts={"a.example": {"delay_seconds": 7}}', "a.example:80", 7.0),
        ('politeness={hosts."a.example".delay_seconds = 7}', "a.example:80", 7.0),
    ],
)
def test_one_host_can_be_set_on_the_command_line(option: str, host: str, delay: float) -> None:
    politeness = options(option).settings.politeness
    assert politeness.for_host(host).delay_seconds == delay
    assert politeness.for_host("other.example:443").delay_seconds == 0.5


@pytest.mark.parametrize(
    "option", ["", "crawl", "crawl.concurrency", "=1", "crawl..concurrency=1", 'crawl."x=1', ".=1"]
)
def test_an_option_that_is_no_assignment_is_refused(option: str) -> None:
    (problem,) = problems(command_line_layer([option]))
    assert problem.startswith("-s ")
    assert problem.endswith(": expected table.key=VALUE")


# -- the environment --------------------------------------------------------------------------------------------------


def test_a_variable_can_name_a_file_that_holds_the_value(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:secret@example.com/0\n")
    (tmp_path / "key").write_text("k-1\r\n")
    loaded = load(
        [
            environment_layer(
                {
                    "CRAWLER_FRONTIER__URL_FILE": str(tmp_path / "url"),
                    "CRAWLER_HTTP__HEADERS__X_CLIENT_ID_FILE": str(tmp_path / "key"),
                }
            )
        ]
    )
    assert loaded.settings.frontier.url == "redis://:secret@example.com/0"
    assert loaded.settings.http.headers == {"x-client-id": "k-1"}
    assert loaded.sources["frontier.url"] == "environment CRAWLER_FRONTIER__URL_FILE"


def test_a_setting_whose_name_ends_in_file_is_itself_and_can_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("/etc/ca.pem\n")
    assert load([environment_layer({"CRAWLER_TLS__CA_FILE": "ca.pem"})]).settings.tls.ca_file == "ca.pem"
    layer = environment_layer({"CRAWLER_TLS__CA_FILE_FILE": str(tmp_path / "ca")})
    assert load([layer]).settings.tls.ca_file == "/etc/ca.pem"


def test_a_variable_whose_file_is_missing_or_that_is_set_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("memory://")
    (missing,) = problems(environment_layer({"CRAWLER_FRONTIER__URL_FILE": str(tmp_path / "no")}))
    assert missing == (
        "environment variable CRAWLER_FRONTIER__URL_FILE: cannot read the file it names: No such file or directory"
    )
    twice = {"CRAWLER_FRONTIER__URL": "memory://", "CRAWLER_FRONTIER__URL_FILE": str(tmp_path / "url")}
    (both,) = problems(environment_layer(twice))
    assert (
        both
        == "environment variable CRAWLER_FRONTIER__URL_FILE: CRAWLER_FRONTIER__URL is set as well; which one holds?"
    )


def test_variables_that_are_not_ours_are_left_alone() -> None:
    others = {
        "PATH": "/bin",
        "CRAWLER": "x",
        "crawler_http__cookies": "x",
        "CRAWLER_CRASH_AT": "commit",
        # what Kubernetes sets for services called `crawler` and `crawler-redis`
        "CRAWLER_SERVICE_HOST": "10.0.0.1",
        "CRAWLER_SERVICE_PORT_HTTP": "80",
        "CRAWLER_PORT": "tcp://10.0.0.1:80",
        "CRAWLER_REDIS_PORT_6379_TCP_ADDR": "10.0.0.2",
        "CRAWLER_REDIS_SERVICE_PORT": "6379",
    }
    assert load([environment_layer(others)]) == load()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CRAWLER_POLITENESS_DELAY_SECONDS", "CRAWLER_POLITENESS__DELAY_SECONDS"),
        ("CRAWLER_DELAY_SECONDS", "CRAWLER_POLITENESS__DELAY_SECONDS"),
        ("CRAWLER_DOWNLOAD_DELAY", "CRAWLER_POLITENESS__DELAY_SECONDS"),
        ("CRAWLER_HTTP__USERAGENT", "CRAWLER_HTTP__USER_AGENT"),
        ("CRAWLER_HTPP__COOKIES", "CRAWLER_HTTP__COOKIES"),
    ],
)
def test_an_unknown_variable_names_the_nearest_one(name: str, nearest: str) -> None:
    assert problems(environment_layer({name: "1"})) == [
        f"environment variable {name}: unknown key; did you mean {nearest}?"
    ]


def test_a_variable_like_nothing_lists_the_tables() -> None:
    (problem,) = problems(environment_layer({"CRAWLER_QQQQ": "1"}))
    assert problem.startswith("environment variable CRAWLER_QQQQ: unknown table; known are crawl, politeness, http,")


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"[crawl]\nconcurrency 8\n", r":2:13: "),
        (b"[crawl]\nconcurrency = 8\nconcurrency = 9\n", r":3:16: "),
        (b"[crawl]\nconcurrency =", r":2:14: "),
        (b'[log]\nlevel = "\n', r":2:10: "),
        (b"x = " + b"[" * 100_000, r":(1:\d+:)? "),
        (b"# ok\nx = '\xe9'\n", r":2:6: not UTF-8"),
        ("# é\nx = '\n".encode("latin-1"), r":1:3: not UTF-8"),
    ],
)
def test_a_file_that_is_not_toml_names_file_line_and_column(tmp_path: Path, content: bytes, place: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}{place}"):
        file_layer(path)


@pytest.mark.parametrize(("name", "why"), [("none.toml", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        file_layer(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: cannot read the settings file: {why}"


def test_a_file_may_begin_with_a_byte_order_mark_and_end_lines_as_windows_does(tmp_path: Path) -> None:
    path = tmp_path / "crawler.toml"
    path.write_bytes(b'\xef\xbb\xbf[log]\r\nlevel = "error"\r\n')
    assert load([file_layer(path)]).settings.log.level == "ERROR"


def test_a_host_whose_name_is_not_quoted_in_the_file_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "crawler.toml"
    path.write_text("[politeness.hosts.example.com]\ndelay_seconds = 1\n")
    assert problems(file_layer(path)) == [
        f'{path}: politeness.hosts.example.com: quote the name of a host: politeness.hosts."example.com"'
    ]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given_value", "expected"),
    [
        ("crawl.concurrency", 0, "a whole number (requests, at least 1), got 0"),
        ("crawl.concurrency", True, "a whole number (requests, at least 1), got true"),
        ("crawl.concurrency", 8.0, "a whole number (requests, at least 1), got 8"),
        ("crawl.concurrency", "8", 'a whole number (requests, at least 1), got "8"'),
        ("crawl.order", "best", '"breadth" or "depth", got "best"'),
        ("crawl.order", 1, '"breadth" or "depth", got 1'),
        ("crawl.callback_timeout_seconds", 0, "a number (seconds, above 0), got 0"),
        ("politeness.delay_seconds", "0", 'a number (seconds, at least 0), got "0"'),
        ("politeness.delay_seconds", -1, "a number (seconds, at least 0), got -1"),
        ("politeness.delay_seconds", False, "a number (seconds, at least 0), got false"),
        ("politeness.delay_seconds", float("nan"), "a number (seconds, at least 0), got nan"),
        ("politeness.delay_seconds", float("inf"), "a number (seconds, at least 0), got inf"),
        ("politeness.delay_seconds", None, "a number (seconds, at least 0), got None"),
        ("politeness.jitter", 1.5, "a number (share of the delay, at least 0, at most 1), got 1.5"),
        ("politeness.obey_robots", 1, "true or false, got 1"),
        ("politeness.obey_robots", "yes", 'true or false, got "yes"'),
        ("politeness.hosts", ["a"], 'a table, got ["a"]'),
        ("http.user_agent", "bot\r\nX-Evil: 1", "a product token and what else there is to say, in ASCII"),
        ("http.user_agent", "", "a product token and what else there is to say, in ASCII"),
        ("http.ok_status", 200, "a list of status codes from 100 to 999"),
        ("http.ok_status", ["2xx"], 'ranges, such as "500-599", got ["2xx"]'),
        ("http.headers", "Accept: */*", "a table, got text"),
        ("dns.nameservers", "192.0.2.1", 'a list of text (IP addresses), got "192.0.2.1"'),
        ("dns.nameservers", ["dns.example"], "IP addresses of name servers"),
        ("dns.nameservers", [1], "a list of text (IP addresses), got [1]"),
        ("tls.ca_file", 1, "text (PEM file), got 1"),
        ("proxy.urls", ["ftp://192.0.2.1"], "URLs of proxies, http://"),
        ("http.skip_auto_headers", ["Accept: x"], "header names"),
        ("http.local_address", "lo0", "an IP address"),
        ("http.json_dumps", "orjson.dumps", 'a function as "module:function"'),
        ("http.json_loads", 7, "a function (module:function), got 7"),
        ("tls.unverified_hosts", ["https://example.com"], "a host with or without port"),
        ("proxy.urls", ["http://a.example:99999"], "URLs of proxies, http://"),
        ("proxy.per", "page", '"request" or "host" or "session", got "page"'),
        ("retry.http_codes", [True], "a list of status codes from 100 to 999"),
        ("frontier.url", "redis.example", "a URL such as memory:// or redis://"),
        ("security.allow_networks", ["10.0.0.1/8"], "networks in CIDR form"),
        ("security.allow_networks", ["intranet"], "networks in CIDR form"),
        ("log.level", "loud", '"DEBUG" or "INFO" or "WARNING" or "ERROR" or "CRITICAL", got "loud"'),
    ],
)
def test_a_wrong_value_says_what_was_expected(key: str, given_value: object, expected: str) -> None:
    table, name = key.split(".")
    (problem,) = problems(spider_layer("books", {table: {name: given_value}}))
    assert problem.startswith(f"settings of spider books: {key}: expected ")
    assert expected in problem


@pytest.mark.parametrize(
    ("table", "name", "given", "expected"),
    [
        ("http.auth", "example.com", "s3cret", "user:password, got text"),
        ("http.auth", "ftp://example.com", "a:b", "a host or an origin"),
        ("http.digest_auth", "https://example.com/", "a:b", "a host or an origin"),
        ("http.unix_sockets", "localhost", "", "the path of a socket"),
        ("dns.hosts", "example.com", "nowhere", "an IP address"),
        ("dns.hosts", "example.com", [], "a name without port, and IP addresses"),
        ("dns.hosts", "example.com:80", "10.0.0.1", "a name without port"),
    ],
)
def test_a_wrong_entry_says_what_was_expected(table: str, name: str, given: object, expected: str) -> None:
    first, second = table.split(".")
    (problem,) = problems(mapping_layer("code", {first: {second: {name: given}}}, where="settings"))
    assert f"settings: {table}." in problem
    assert f"expected {expected}" in problem
    assert "s3cret" not in problem


def test_entries_come_out_as_the_rooms_want_them() -> None:
    loaded = load([mapping_layer("code", {"dns": {"hosts": {"A.example": ["10.0.0.7", "::1"]}}}, where="x")])
    assert loaded.settings.dns.hosts == {"a.example": "10.0.0.7, ::1"}
    assert options("http.auth.example.com=user:pa:ss").settings.http.auth == {"example.com": "user:pa:ss"}


def test_credentials_are_shown_nowhere() -> None:
    loaded = options("http.auth.example.com=user:s3cret", "http.digest_auth.b.example=user:s3cret")
    assert "s3cret" not in repr(loaded.settings.http)
    assert "s3cret" not in str(describe(loaded))


def test_a_function_is_named_or_given() -> None:
    import json

    assert options("http.json_dumps=orjson:dumps").settings.http.json_dumps == "orjson:dumps"
    loaded = load([mapping_layer("code", {"http": {"json_loads": json.loads}}, where="x")])
    assert loaded.settings.http.json_loads is json.loads
    (row,) = [row for row in describe(loaded) if row.key == "http.json_loads"]
    assert row.value == '"json:loads"'


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"http": {"headers": {"A B": "c"}}}, 'http.headers."A B": expected a header name'),
        ({"http": {"headers": {"A": "b\nC: d"}}}, "http.headers.A: expected a header value without control characters"),
        ({"http": {"headers": {"A": 1}}}, "http.headers.A: expected text, got 1"),
        ({"tls": {"fingerprints": {"a.example": "12"}}}, "64 hexadecimal digits"),
        ({"tls": {"fingerprints": {"https://a.example": "0" * 64}}}, "a host with or without port and without scheme"),
        (
            {"politeness": {"hosts": {"http://a.example": {"jitter": 0}}}},
            "a host with or without port and without scheme",
        ),
        ({"politeness": {"hosts": {"*.example": {"jitter": 0}}}}, "a host with or without port and without scheme"),
        ({"politeness": {"hosts": {"a.example": 1}}}, 'politeness.hosts."a.example": expected a table, got 1'),
        ({"politeness": {"hosts": {"a.example": {"jitter": 2}}}}, "expected a number (share of the delay"),
        ({"crawl": None}, "crawl: expected a table, got None"),
    ],
)
def test_a_wrong_entry_says_where_and_what_was_expected(entry: dict[str, Any], expected: str) -> None:
    (problem,) = problems(mapping_layer("here", entry))
    assert problem.startswith("here: ")
    assert expected in problem


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("politeness.delay_second", "politeness.delay_seconds"),
        ("politness.delay_seconds", "politeness.delay_seconds"),
        ("delay_seconds", "politeness.delay_seconds"),
        ("crawl.delay_seconds", "politeness.delay_seconds"),
        ("proxy.url", "proxy.urls"),
        ("http.max_body_size", "http.max_body_bytes"),
        ("polite", "politeness"),
        ("crawl.concurrency.x", "crawl.concurrency"),
        ("HTTP.COOKIES", "http.cookies"),
        ('politeness.hosts."a.example".delay', 'politeness.hosts."a.example".delay_seconds'),
        # Scrapy's names
        ("DOWNLOAD_DELAY", "politeness.delay_seconds"),
        ("CONCURRENT_REQUESTS", "crawl.concurrency"),
        ("CONCURRENT_REQUESTS_PER_DOMAIN", "politeness.concurrency_per_host"),
        ("CONCURRENT_REQUESTS_PER_IP", "politeness.concurrency_per_host"),
        ("ROBOTSTXT_OBEY", "politeness.obey_robots"),
        ("ROBOTSTXT_USER_AGENT", "http.user_agent"),
        ("USER_AGENT", "http.user_agent"),
        ("DEFAULT_REQUEST_HEADERS", "http.headers"),
        ("COOKIES_ENABLED", "http.cookies"),
        ("DEPTH_LIMIT", "crawl.depth_limit"),
        ("DEPTH_PRIORITY", "crawl.order"),
        ("CLOSESPIDER_PAGECOUNT", "crawl.page_limit"),
        ("CLOSESPIDER_ITEMCOUNT", "crawl.item_limit"),
        ("CLOSESPIDER_ERRORCOUNT", "crawl.error_limit"),
        ("CLOSESPIDER_TIMEOUT", "crawl.time_limit_seconds"),
        ("RETRY_TIMES", "retry.times"),
        ("RETRY_ENABLED", "retry.times"),
        ("RETRY_HTTP_CODES", "retry.http_codes"),
        ("DOWNLOAD_TIMEOUT", "http.total_seconds"),
        ("DOWNLOAD_MAXSIZE", "http.max_body_bytes"),
        ("REDIRECT_MAX_TIMES", "http.max_redirects"),
        ("URLLENGTH_LIMIT", "http.max_url_length"),
        ("HTTPERROR_ALLOWED_CODES", "http.ok_status"),
        ("HTTPPROXY_ENABLED", "http.trust_env"),
        ("AUTOTHROTTLE_ENABLED", "politeness.adaptive"),
        ("AUTOTHROTTLE_MAX_DELAY", "politeness.max_delay_seconds"),
        ("RANDOMIZE_DOWNLOAD_DELAY", "politeness.jitter"),
        ("DNSCACHE_ENABLED", "dns.cache_seconds"),
        ("LOG_LEVEL", "log.level"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(written: str, nearest: str) -> None:
    assert problems(command_line_layer([f"{written}=1"])) == [f"-s {written}: unknown key; did you mean {nearest}?"]
    assert nearest == "politeness" or "hosts" in nearest or nearest in DEFAULTS


@pytest.mark.parametrize("name", ["qqqq", "foo"])
def test_a_key_like_nothing_lists_what_its_table_has(name: str) -> None:
    assert problems(command_line_layer([f"log.{name}=1"])) == [f"-s log.{name}: unknown key; log has level, json"]


def test_a_key_with_its_table_in_its_name_is_explained() -> None:
    assert problems(mapping_layer("settings=", {"log.level": "INFO"})) == [
        'settings=: "log.level": unknown key; write it as level in the table log'
    ]


def test_every_mistake_of_every_layer_is_reported_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "crawler.toml"
    path.write_text('[crawl]\nconcurency = 8\norder = "best"\n[loging]\nlevel = "INFO"\n')
    found = problems(
        file_layer(path),
        spider_layer("books", {"politeness": {"delay_seconds": "1"}, "DOWNLOAD_DELAY": 1}),
        environment_layer({"CRAWLER_CRAWL__CONCURRENCY": "many"}),
        command_line_layer(["nonsense", "crawl.concurrency=0"]),
    )
    assert [line.rpartition(": ")[0] for line in found] == [
        f"{path}: crawl.concurency",
        f"{path}: crawl.order",
        f"{path}: loging",
        "settings of spider books: politeness.delay_seconds",
        "settings of spider books: DOWNLOAD_DELAY",
        "environment variable CRAWLER_CRAWL__CONCURRENCY",
        "-s nonsense",
        "-s crawl.concurrency",
    ]


def test_settings_that_do_not_fit_together_name_both_and_where_they_stand() -> None:
    key_file, seconds = problems(command_line_layer(["tls.key_file=key.pem", "retry.base_seconds=90"]))
    assert key_file == "tls.key_file (command line): expected tls.cert_file beside it"
    assert seconds.startswith("retry.base_seconds (command line) and retry.max_seconds (default): expected the first")


@pytest.mark.parametrize("key", ["retry.http_codes", "http.headers", "politeness"])
def test_text_nested_without_end_is_a_wrong_value_like_any_other(key: str) -> None:
    for nested in ("[" * 100_000, '{"a":' * 100_000, "{a=" * 100_000):
        (problem,) = problems(command_line_layer([f"{key}={nested}"]))
        assert problem.startswith(f"-s {key}: expected ")
        assert len(problem) < 250


# -- hosts ------------------------------------------------------------------------------------------------------------


def test_what_a_port_has_wins_over_what_its_host_has_and_that_over_the_rest() -> None:
    politeness = mapped(
        {
            "politeness": {
                "jitter": 0.1,
                "hosts": {
                    "Example.com": {"delay_seconds": 5, "concurrency_per_host": 1},
                    "example.com:8443": {"delay_seconds": 1, "obey_robots": False},
                },
            }
        }
    ).settings.politeness
    assert politeness.for_host("example.com:8443") == PolitenessRule(
        obey_robots=False, concurrency_per_host=1, delay_seconds=1.0, jitter=0.1
    )
    assert politeness.for_host("EXAMPLE.com:443") == PolitenessRule(
        concurrency_per_host=1, delay_seconds=5.0, jitter=0.1
    )
    assert politeness.for_host("www.example.com:443") == PolitenessRule(jitter=0.1)


def test_a_delay_longer_than_the_longest_is_the_longest() -> None:
    rule = mapped({"politeness": {"hosts": {"a.example": {"delay_seconds": 90}}}}).settings.politeness.for_host(
        "a.example:80"
    )
    assert (rule.delay_seconds, rule.max_delay_seconds) == (90.0, 90.0)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_rows_show_values_as_toml_has_them_and_can_be_loaded_again() -> None:
    first = load(
        [
            mapping_layer(
                "here",
                {
                    "politeness": {"hosts": {"127.0.0.1:8080": {"delay_seconds": 0.25, "adaptive": False}}},
                    "http": {
                        "headers": {"Accept": 'text/"x" é', "jitter": "a header"},
                        "ok_status": ["200-299", 404],
                        "max_redirects": 0,
                    },
                    "security": {"allow_networks": ["127.0.0.2/32"]},
                },
            )
        ]
    )
    rows = {row.key: row for row in describe(first)}
    assert rows['politeness.hosts."127.0.0.1:8080".delay_seconds'][1:] == (
        "0.25",
        "here",
        "seconds",
        "from one request's start to the next one's, per host",
    )
    assert rows["http.headers.jitter"][1:] == (
        '"a header"',
        "here",
        "",
        "sent with every request, to every host; no secrets",
    )
    assert rows["http.ok_status"].value == '["200-299", 404]'
    assert rows["http.unix_socket"].value == '""'
    assert rows["http.cookies"].source == "default"
    again = tomllib.loads("\n".join(f"{row.key} = {row.value}" for row in rows.values()))
    assert mapped(again).settings == first.settings


# -- secrets ----------------------------------------------------------------------------------------------------------

SECRETS = {
    "http": {
        "headers": {"Accept": "text/html", "X-Authority": "s3cret"},
        "host_headers": {
            "api.example": "Authorization: Bearer s3cret\nCookie: a=s3cret; s3cret: x\nX-Amz-Security-Token: s3cret"
        },
    },
    "proxy": {"urls": ["http://user:s3cret@proxy.example:3128", "http://user:s3cret@/s3cret@other.example"]},
    "frontier": {"url": "redis://:s3cret@redis.example/0?password=s3cret&db=1"},
}


def test_secrets_are_kept_but_never_shown() -> None:
    layer = mapping_layer("here", SECRETS)
    secrets = msgspec.convert(SECRETS, dict)
    secrets["proxy"]["urls"] = secrets["proxy"]["urls"][:1]
    loaded = load([mapping_layer("here", secrets)])
    assert "Bearer s3cret" in loaded.settings.http.host_headers["api.example"]
    assert loaded.settings.proxy.urls == ("http://user:s3cret@proxy.example:3128",)
    rows = {row.key: row.value for row in describe(loaded)}
    for shown in (repr(layer), repr(loaded), repr(loaded.settings.http), str(loaded.settings), f"{rows}"):
        assert "s3cret" not in shown
    assert rows["proxy.urls"] == '["http://***@proxy.example:3128"]'
    assert rows["frontier.url"] == '"redis://***@redis.example/0?password=***&db=1"'
    assert rows["http.headers.X-Authority"] == '"***"'
    assert rows['http.host_headers."api.example"'] == (r'"Authorization: ***\nCookie: ***\nX-Amz-Security-Token: ***"')
    assert rows["http.headers.Accept"] == '"text/html"'


def test_rich_shows_no_secret_either() -> None:
    from rich.console import Console
    from rich.pretty import pprint

    out = StringIO()
    layer = mapping_layer("here", {"http": SECRETS["http"], "frontier": SECRETS["frontier"]})
    pprint([layer, load([layer])], console=Console(file=out, width=200), expand_all=True)
    assert "redis.example" in out.getvalue()
    assert "s3cret" not in out.getvalue()


@pytest.mark.parametrize(
    "option",
    [
        "proxy.urls=user:s3cret@proxy.example",
        "proxy.urls:http://user:s3cret@proxy.example/?a=b",
        "proxy.url=http://user:s3cret@proxy.example",
        "proxy=http://user:s3cret@proxy.example",
        "proxies.http=http://user:s3cret@proxy.example",
        "frontier.url=s3cret",
        "http.headers=Authorization s3cret",
        'http.headers={Authorization=["s3cret"]}',
        "http.headers.X-Api-Key=s3cret",
        "http.headers.X-Id=s3cret\nX-B: s3cret",
        "http.host_headers.a=s3cret",
        "http.host_headers.a=X-Api-Key s3cret",
        "http.host_headers.a=X Api-Key: s3cret",
        "http.host_headers.a=Proxy-Authorization: s3cret",
        "http.host_headers.ftp://a=X-Api-Key: s3cret",
        "http.host_headers=X-Api-Key: s3cret",
        "http.headers:X-Api-Key s3cret",
    ],
)
def test_errors_show_no_secret(option: str) -> None:
    found = problems(command_line_layer([option]))
    assert found
    assert "s3cret" not in "\n".join(found)


# -- nothing else comes out -------------------------------------------------------------------------------------------

texts = st.text(string.printable, max_size=12)
names = st.sampled_from([*sorted({part for key in DEFAULTS for part in key.split(".")}), "a.example", "x", ""])
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


@given(st.dictionaries(names, st.dictionaries(names, anything, max_size=4) | anything, max_size=4))
def test_any_mapping_gives_settings_or_a_settings_error(mapping: dict[str, Any]) -> None:
    try:
        loaded = mapped(mapping)
    except SettingsError:
        return
    assert len(describe(loaded)) >= len(DEFAULTS) - 3


@given(st.sampled_from(sorted(DEFAULTS)) | texts, texts)
def test_any_text_gives_settings_or_a_settings_error(key: str, text: str) -> None:
    variable = "CRAWLER_" + key.upper().replace(".", "__")
    for layer in (command_line_layer([f"{key}={text}"]), environment_layer({variable: text})):
        try:
            loaded = load([layer])
        except SettingsError:
            continue
        assert isinstance(loaded.settings, Settings)


def test_importing_the_settings_pulls_in_nothing_heavy() -> None:
    heavy = ("asyncio", "aiohttp", "can_ada", "difflib", "ipaddress", "json", "pathlib", "rich", "tomllib")
    code = f"import sys, crawler.settings; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "[]"
