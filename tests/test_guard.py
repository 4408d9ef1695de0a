"""The guard: what is public, in every spelling, and what the user may open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from crawler.guard import Guard

PORT = 80

PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2001:200::1",
    "3ffe:ffff::1",
    "::ffff:8.8.8.8",
    "::FFFF:808:808",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::808:808",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
)

DENIED = (
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "shared"),
    ("100.127.255.255", "shared"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.8", "reserved"),
    ("192.0.0.170", "reserved"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "reserved"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmarking"),
    ("198.19.255.255", "benchmarking"),
    ("198.51.100.7", "documentation"),
    ("203.0.113.7", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::2", "unspecified"),
    ("::7f00:1", "loopback"),
    ("::8.8.8.8", "reserved"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:7f00:1", "loopback"),
    ("0:0:0:0:0:ffff:a9fe:a9fe", "link-local"),
    ("::ffff:0:127.0.0.1", "reserved"),
    ("64:ff9b::7f00:1", "loopback"),
    ("64:ff9b::10.1.2.3", "private"),
    ("64:ff9b::", "unspecified"),
    ("64:ff9b:1::", "unspecified"),
    ("64:ff9b:1::7f00:1", "loopback"),
    ("64:ff9b:1:7f00:0:100:808:808", "loopback"),
    ("64:ff9b:1:a:1:203::", "private"),
    ("64:ff9b:1:0:a:203:400:0", "private"),
    ("64:ff9b:2::1", "reserved"),
    ("100::1", "reserved"),
    ("2001:2::1", "benchmarking"),
    ("2001:1::1", "reserved"),
    ("2001:db8::1", "documentation"),
    ("2001:0:a00:1:8000:63bf:f7f7:f7f7", "private"),
    ("2001:0:4136:e378:8000:63bf:80ff:fffe", "loopback"),
    ("2002:7f00:1::", "loopback"),
    ("2002:c0a8:101::1", "private"),
    ("3fff::1", "documentation"),
    ("4000::1", "reserved"),
    ("5f00::1", "reserved"),
    ("fc00::1", "private"),
    ("fdff::1", "private"),
    ("fe80::1", "link-local"),
    ("febf::1", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("fe80::1%eth0", "zone id"),
    ("2606:4700::1%1", "zone id"),
)

NO_ADDRESSES = (
    "",
    "localhost",
    "example.com",
    "2130706433",
    "0x7f000001",
    "127.1",
    "0177.0.0.1",
    "127.0.0.1.",
    " 127.0.0.1",
    "127.0.0.1\n",
    "[::1]",
    "１２７.0.0.1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "%31%32%37.0.0.1",
    "::ffff:127.1",
    "1::2::3",
    "127.0.0.1/8",
)


@pytest.mark.hostile("S03")
@pytest.mark.parametrize("ip", PUBLIC)
def test_a_public_address_may_be_dialled(ip: str) -> None:
    assert Guard().verdict(ip, PORT) is None


@pytest.mark.hostile("S03")
@pytest.mark.parametrize(("ip", "reason"), DENIED)
def test_an_address_that_is_not_public_is_denied_in_any_spelling(ip: str, reason: str) -> None:
    assert Guard().verdict(ip, PORT) == reason


@pytest.mark.hostile("S02")
@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_not_an_address_is_denied(text: str) -> None:
    guard = Guard(allow_private=True, allow_networks=["0.0.0.0/0", "::/0"])
    assert guard.verdict(text, PORT) == ("zone id" if "%" in text else "not an address")


@pytest.mark.parametrize(
    "ip",
    [
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "198.18.0.1",
        "::1",
        "fd00::1",
        "fe80::1",
        "fec0::1",
        "::ffff:10.0.0.1",
        "2002:a00:1::",
    ],
)
def test_private_networks_can_be_opened(ip: str) -> None:
    assert Guard(allow_private=True).verdict(ip, PORT) is None


@pytest.mark.hostile("S03")
@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "::", "ff02::1", "64:ff9b::e000:1"]
)
def test_where_no_server_can_be_stays_denied_with_private_networks_open(ip: str) -> None:
    assert Guard(allow_private=True).verdict(ip, PORT) is not None


def test_given_networks_count_as_public() -> None:
    guard = Guard(allow_networks=["127.0.0.2/31", "127.0.0.4/30", "127.0.0.8/32", "fd12::/16"])
    assert [host for host in range(1, 11) if guard.verdict(f"127.0.0.{host}", PORT) is None] == [2, 3, 4, 5, 6, 7, 8]
    assert guard.verdict("::ffff:127.0.0.2", PORT) is None
    assert guard.verdict("fd12::1", PORT) is None
    assert guard.verdict("fd13::1", PORT) == "private"


@pytest.mark.parametrize("network", ["127.0.0.2/29", "localhost", "10.0.0.0/33", ""])
def test_what_is_not_a_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"appear to be|has host bits"):
        Guard(allow_networks=[network])


def test_a_named_address_is_allowed_at_its_port_only() -> None:
    guard = Guard()
    guard.allow("10.0.0.1", 8080)
    assert guard.verdict("10.0.0.1", 8080) is None
    assert guard.verdict("10.0.0.1", 8081) == "private"
    assert guard.verdict("10.0.0.2", 8080) == "private"
    assert Guard().verdict("10.0.0.1", 8080) == "private"


def test_a_named_address_is_allowed_in_its_other_spellings() -> None:
    guard = Guard()
    guard.allow("0:0:0:0:0:0:0:1", 80)
    guard.allow("::ffff:127.0.0.1", 80)
    assert guard.verdict("::1", 80) is None
    assert guard.verdict("127.0.0.1", 80) is None
    assert guard.verdict("::7f00:1", 80) == "loopback"


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_only_addresses_can_be_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        Guard().allow(text, PORT)


def test_guards_share_no_permission() -> None:
    one, other = Guard(allow_private=True), Guard()
    assert one.verdict("10.9.8.7", PORT) is None
    assert other.verdict("10.9.8.7", PORT) == "private"
    assert one.verdict("10.9.8.7", PORT) is None


def test_verdicts_are_the_same_from_several_threads() -> None:
    guard = Guard()
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda entry: guard.verdict(entry[0], PORT), DENIED * 20))
    assert verdicts == [reason for _, reason in DENIED] * 20


def test_a_guard_shows_what_it_allows() -> None:
    guard = Guard(allow_networks=["127.0.0.2/32"])
    guard.allow("10.0.0.1", 80)
    assert repr(guard) == "<Guard private=denied networks=1 named=1>"
