"""A DNS server over one loopback UDP port that answers as its script says (RFC 1035, the part a crawler meets)."""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import struct
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import TracebackType

A, CNAME, SOA, AAAA = 1, 5, 6, 28


class Address(NamedTuple):
    """An A or AAAA record, by the look of the address."""

    ip: str
    ttl: int = 60


class Alias(NamedTuple):
    """A CNAME record."""

    name: str
    ttl: int = 60


class Fail(enum.Enum):
    SERVFAIL = 2
    NXDOMAIN = 3
    REFUSED = 5
    SILENCE = -1
    """No answer at all."""


Answer = list[Address | Alias] | Fail
Script = Answer | Callable[[int, int], Answer]
"""An answer, or what gives one: called with the type asked for and how often that was asked before."""


class DnsServer(asyncio.DatagramProtocol):
    """`async with DnsServer() as dns:`, then `dns.names["a.test"] = [Address("127.0.0.2")]`.

    A name that is not in `names` does not exist. A name asked for the type it has no record of gets an empty answer.
    """

    def __init__(self) -> None:
        self.names: dict[str, Script] = {}
        self.delay_seconds: dict[str, float] = {}
        self.questions: list[tuple[str, int]] = []
        """Every question that arrived, oldest first."""
        self.asked = asyncio.Event()
        """Set when a question arrives."""
        self._counts: Counter[tuple[str, int]] = Counter()
        self._transport: asyncio.DatagramTransport

    @property
    def nameserver(self) -> str:
        """`"127.0.0.1:PORT"`, as `dns.nameservers` takes it."""
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def count(self, name: str, kind: int = A) -> int:
        return self._counts[name, kind]

    async def __aenter__(self) -> DnsServer:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _read_name(data, 12)
        (kind,) = struct.unpack_from("!H", data, end)
        self.questions.append((name, kind))
        number = self._counts[name, kind]
        self._counts[name, kind] += 1
        script = self.names.get(name, Fail.NXDOMAIN)
        answer = script(kind, number) if callable(script) else script
        self.asked.set()
        if answer is Fail.SILENCE:
            return
        reply = _reply(data[:2], data[12 : end + 4], name, kind, answer)
        if delay := self.delay_seconds.get(name):
            asyncio.get_running_loop().call_later(delay, self._transport.sendto, reply, addr)
        else:
            self._transport.sendto(reply, addr)


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def _name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split(".")) + b"\0"


def _reply(query_id: bytes, question: bytes, name: str, kind: int, answer: Answer) -> bytes:
    code = answer.value if isinstance(answer, Fail) else 0
    records = [] if isinstance(answer, Fail) else _records(name, kind, answer)
    return query_id + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0) + question + b"".join(records)


def _records(name: str, kind: int, answer: list[Address | Alias]) -> list[bytes]:
    records = []
    for record in answer:
        if isinstance(record, Alias):
            records.append(_record(name, CNAME, record.ttl, _name(record.name)))
            name = record.name
            continue
        ip = ipaddress.ip_address(record.ip)
        if kind == (A if ip.version == 4 else AAAA):
            records.append(_record(name, kind, record.ttl, ip.packed))
    return records


def _record(name: str, kind: int, ttl: int, data: bytes) -> bytes:
    return _name(name) + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data
