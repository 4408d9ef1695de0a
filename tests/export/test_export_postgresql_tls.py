"""Nothing goes to a PostgreSQL on another machine in clear, unless the address says that it may."""

from __future__ import annotations

import asyncio

import pytest

from crawler.errors import UsageError
from crawler.export import address
from crawler.export.address import parse_address
from crawler.export.server import connect, persistently

pytest.importorskip("asyncpg")
pytestmark = pytest.mark.hostile("S17")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "target",
    [
        "postgresql://u:secret@db.example/d",
        "postgresql://u:secret@db.example:5433/d?table=t",
        "postgresql://u:secret@10.0.0.5/d",
        "postgresql://u:secret@[2001:db8::1]:5432/d",
        "postgresql://u:secret@localhost:1,db.example:2/d",
        "postgresql://u:secret@/d?host=db.example",
        "postgres://db.example/d?password=secret",
    ],
)
def test_another_machine_needs_tls(target: str) -> None:
    found = parse_address(target)
    assert found.needs_tls
    assert "sslmode=require" in found.dsn


@pytest.mark.parametrize(
    "target",
    [
        "postgresql:///d",
        "postgresql://u:secret@localhost/d",
        "postgresql://u:secret@127.0.0.2:5433/d",
        "postgresql://u:secret@[::1]:5432/d",
        "postgresql://u:secret@/d?host=/run/postgresql",
        "postgresql://u:secret@%2Frun%2Fpostgresql/d",
        "postgresql://u:secret@db.example/d?sslmode=disable",
        "postgresql://u:secret@db.example/d?sslmode=verify-full",
    ],
)
def test_this_machine_and_who_says_otherwise_are_left_alone(target: str) -> None:
    found = parse_address(target)
    assert not found.needs_tls
    assert "require" not in found.dsn


def test_the_environment_of_libpq_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    assert parse_address("postgresql:///d").needs_tls
    monkeypatch.setenv("PGSSLMODE", "prefer")
    assert not parse_address("postgresql:///d").needs_tls


async def test_a_server_without_tls_learns_nothing_and_the_message_says_what_to_add(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address, "_is_here", lambda host: False)
    heard: list[bytes] = []
    ended = asyncio.Event()

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readexactly(8))
        writer.write(b"N")  # PostgreSQL's answer to an SSLRequest: no
        heard.append(await reader.read())
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(refusing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]

        async def work() -> None:
            await connect(found)

        found = parse_address(f"postgresql://somebody:hunter2@127.0.0.1:{port}/d")
        with pytest.raises(UsageError, match=r"the server has no TLS.*add sslmode=disable") as caught:
            await persistently(work, 30, found)
        await ended.wait()
    assert heard == [bytes.fromhex("00000008 04d2162f"), b""]
    assert "hunter2" not in str(caught.value)
