"""A DNS server over one loopback UDP port that answers as its script says (RFC 1035, the part a crawler meets)."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ipaddress
import struct
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["AAAA", "A", "Address", "Alias", "Answer", "DnsServer", "Fail"]

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

    A name that is not in `names` does not exist, unless a wildcard covers it (`"*.a.test"`, RFC 4592: every name below
    `a.test`). A name asked for the type it has no record of gets an empty answer. It listens over UDP, and over TCP at
    the same port.
    """

    def __init__(self) -> None:
        self.names: dict[str, Script] = {}
        self.truncated: set[str] = set()
        """Names whose answers are too long for UDP."""
        self.forged: dict[str, Answer] = {}
        """What is sent before the answer, as somebody who does not know the question's id would."""
        self.mangled: dict[str, Callable[[bytes], bytes]] = {}
        """What makes of a name's answer, as it would go out, the bytes that go out instead."""
        self.questions: list[tuple[str, int]] = []
        """Every question that arrived, oldest first."""
        self.tcp_questions = 0
        self._held: dict[str, list[Callable[[], None]]] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        self._arrivals: list[tuple[Callable[[], bool], asyncio.Event]] = []
        self._transport: asyncio.DatagramTransport
        self._listener: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def nameserver(self) -> str:
        """`"127.0.0.1:PORT"`, as `dns.nameservers` takes it."""
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def count(self, name: str, kind: int = A) -> int:
        return self._counts[name, kind]

    async def asked(self, name: str, count: int = 1) -> None:
        """Until the name's address was asked for so often."""
        arrived = asyncio.Event()
        self._arrivals.append((lambda: self.count(name) >= count, arrived))
        self._announce()
        await arrived.wait()

    def hold(self, *names: str) -> None:
        """Answer these when they are released, and not before."""
        self._held |= {name: [] for name in names}

    def release(self, *names: str) -> None:
        for name in names:
            for reply in self._held.pop(name):
                reply()

    async def __aenter__(self) -> DnsServer:
        loop = asyncio.get_running_loop()
        while True:
            self._listener = await asyncio.start_server(self._talk, "127.0.0.1", 0)
            local = self._listener.sockets[0].getsockname()
            with contextlib.suppress(OSError):  # somebody has that port for UDP
                self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=local)
                return self
            self._listener.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transport.close()
        self._listener.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._listener.wait_closed()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name = _read_name(data, 12)[0]
        if name in self.forged:
            self._transport.sendto(_reply(data, self.forged[name], query_id=bytes(byte ^ 1 for byte in data[:2])), addr)
        self._answer(data, lambda reply: self._transport.sendto(reply, addr), truncated=name in self.truncated)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                self.tcp_questions += 1
                self._answer(data, lambda reply: writer.write(len(reply).to_bytes(2, "big") + reply))
        writer.transport.abort()

    def _answer(self, data: bytes, send: Callable[[bytes], None], *, truncated: bool = False) -> None:
        name, end = _read_name(data, 12)
        (kind,) = struct.unpack_from("!H", data, end)
        self.questions.append((name, kind))
        number = self._counts[name, kind]
        self._counts[name, kind] += 1
        script = self._script(name)
        answer = script(kind, number) if callable(script) else script
        self._announce()
        if answer is Fail.SILENCE:
            return
        reply = _reply(data, answer, truncated=truncated)
        if name in self.mangled:
            reply = self.mangled[name](reply)
        if name in self._held:
            self._held[name].append(lambda: send(reply))
        else:
            send(reply)

    def _script(self, name: str) -> Script:
        if name in self.names:
            return self.names[name]
        labels = name.split(".")
        wildcards = (".".join(("*", *labels[start:])) for start in range(1, len(labels)))
        return next((self.names[each] for each in wildcards if each in self.names), Fail.NXDOMAIN)

    def _announce(self) -> None:
        for has_arrived, event in self._arrivals:
            if has_arrived():
                event.set()


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def _name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split(".")) + b"\0"


def _reply(query: bytes, answer: Answer, *, query_id: bytes | None = None, truncated: bool = False) -> bytes:
    name, end = _read_name(query, 12)
    (kind,) = struct.unpack_from("!H", query, end)
    code = answer.value if isinstance(answer, Fail) else 0
    records = [] if isinstance(answer, Fail) or truncated else _records(name, kind, answer)
    flags = 0x8180 | code | 0x0200 * truncated
    head = (query_id or query[:2]) + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
    return head + query[12 : end + 4] + b"".join(records)


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
