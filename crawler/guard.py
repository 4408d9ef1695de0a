"""Which addresses may be dialled: what is on the public internet, and what the user named.

A page can name any address, its own DNS server can answer with any, and there are many ways to write one. So the
question is asked about the address that is about to be dialled, and answered from the tables below, which are the IANA
special-purpose address registries (RFC 6890 and the RFCs that added to them). Python's `is_global` is not asked: it
changed between versions, and in 3.11 it calls multicast, 6to4, NAT64 and IPv4-compatible addresses global.

An IPv6 address may carry an IPv4 address to which some gateway sends the packet on. It is as good as what it carries.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Guard"]

Address: TypeAlias = IPv4Address | IPv6Address

_REMEMBERED: Final = 16_384
"""Addresses whose class is kept, about 300 bytes each."""

_IPV4: Final = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "unspecified"),  # RFC 791; the kernel dials the machine itself
        ("10.0.0.0/8", "private"),  # RFC 1918
        ("100.64.0.0/10", "shared"),  # RFC 6598, carrier-grade NAT
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),  # RFC 3927; where clouds serve credentials
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),  # RFC 6890, protocol assignments
        ("192.0.2.0/24", "documentation"),  # RFC 5737
        ("192.88.99.0/24", "reserved"),  # RFC 7526, the former 6to4 relays
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),  # RFC 2544
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)

_IPV6: Final = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),  # RFC 4193, unique local
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),  # RFC 3879 ended it; routers may not know
        ("ff00::/8", "multicast"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),  # RFC 9637
        ("2001:2::/48", "benchmarking"),
        ("2001::/23", "reserved"),  # RFC 2928, protocol assignments; Teredo is looked at before
    )
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""RFC 3513: IANA gives addresses from here only; the rest is reserved."""
_IPV4_COMPATIBLE: Final = IPv6Network("::/96")
"""RFC 4291, 2.5.5.1: deprecated, so not even one that carries a public address leads anywhere."""

_THIS_NETWORK: Final = _IPV4[0][0]

_OPENED: Final = frozenset({"private", "shared", "loopback", "link-local", "site-local", "benchmarking"})
"""What `allow_private` opens: places where servers are. No server listens in the other ranges."""


class _Known(NamedTuple):
    """What there is to know of an address, whoever asks."""

    address: Address | None
    reason: str | None
    """Why it is not public."""


class Guard:
    """Says of an address and a port whether they may be dialled. It only decides: it opens and resolves nothing.

    `allow_private`: private, shared, loopback, link-local, site-local and benchmarking addresses count as public;
    multicast, broadcast, reserved, documentation and unspecified ones never do. `allow_networks`: CIDR networks that
    count as public whatever they are (`"127.0.0.2/32"`); `ValueError` for what is none, host bits included.
    """

    def __init__(self, allow_private: bool = False, allow_networks: Sequence[str] = ()) -> None:
        self._opened = _OPENED if allow_private else frozenset()
        self._networks = tuple(ip_network(network) for network in allow_networks)
        self._named: set[tuple[Address, int]] = set()

    def __repr__(self) -> str:
        private = "allowed" if self._opened else "denied"
        return f"<Guard private={private} networks={len(self._networks)} named={len(self._named)}>"

    def allow(self, ip: str, port: int) -> None:
        """The user named this address and port: they may be dialled whatever the address is, other ports not.

        Raises `ValueError` for what is not an IP address.
        """
        known = _look_up(ip)
        if known.address is None:
            raise ValueError(f"not an IP address without zone: {ip!r}")
        self._named.add((known.address, port))

    def verdict(self, ip: str, port: int) -> str | None:
        """None where `ip` may be dialled at `port`, else why not, in a word or two (`"loopback"`, `"link-local"`, ...).

        `ip` as the socket gets it: no brackets. Names, zone ids and odd spellings (`127.1`) are denied.
        """
        address, reason = _look_up(ip)
        if reason is None or reason in self._opened:
            return None
        if address is not None and ((address, port) in self._named or any(address in net for net in self._networks)):
            return None
        return reason


@lru_cache(maxsize=_REMEMBERED)
def _look_up(ip: str) -> _Known:
    if "%" in ip:  # RFC 4007: an interface of this machine, so never public
        return _Known(None, "zone id")
    try:
        address = ip_address(ip)
    except ValueError:
        return _Known(None, "not an address")
    if isinstance(address, IPv6Address) and (mapped := address.ipv4_mapped):
        address = mapped  # the kernel sends IPv4, so it is the same address under another spelling
    return _Known(address, _why_not_public(address))


def _why_not_public(address: Address) -> str | None:
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in _IPV4 if address in network), None)
    if carried := tuple(_carried(int(address))):
        return next(filter(None, map(_why_not_public, carried)), None)
    for network, reason in _IPV6:
        if address in network:
            return reason
    if address in _GLOBAL_UNICAST:
        return None
    if address in _IPV4_COMPATIBLE:  # the word says what was tried
        return _why_not_public(IPv4Address(int(address))) or "reserved"
    return "reserved"


def _carried(value: int) -> Iterator[IPv4Address]:
    """The IPv4 addresses to which a gateway would send a packet for this IPv6 address."""

    def bits(start: int, length: int) -> int:
        return value >> (128 - start - length) & ((1 << length) - 1)

    if bits(0, 96) == 0x64_FF9B << 64:  # NAT64, RFC 6052
        yield IPv4Address(bits(96, 32))
    elif bits(0, 48) == 0x64_FF9B_0001:  # NAT64 with a local prefix, RFC 8215
        yield from _local_nat64(
            bits(48, 16) << 16 | bits(72, 16), bits(56, 8) << 24 | bits(72, 24), bits(72, 32), bits(96, 32)
        )
    elif bits(0, 16) == 0x2002:  # 6to4, RFC 3056
        yield IPv4Address(bits(16, 32))
    elif bits(0, 32) == 0x2001_0000:  # Teredo, RFC 4380: the server, and the client with its bits flipped
        yield IPv4Address(bits(32, 32))
        yield IPv4Address(bits(96, 32) ^ 0xFFFF_FFFF)


def _local_nat64(*readings: int) -> Iterator[IPv4Address]:
    """The prefix may be 48, 56, 64 or 96 bits long (RFC 6052, 2.2), and only the network's owner knows. A wrong reading
    mostly gives an address in 0.0.0.0/8, so those count only where there is no other."""
    addresses = [IPv4Address(reading) for reading in readings]
    yield from [address for address in addresses if address not in _THIS_NETWORK] or addresses[-1:]
