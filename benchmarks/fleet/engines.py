"""Engines that can be killed: real redis-server processes with an append-only file, one alone or three masters of a
Cluster."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["Cluster", "Engine", "missing"]

_START_SECONDS = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")
_SLOTS = 16384


def missing() -> str | None:
    """Why there can be none here."""
    return None if shutil.which("redis-server") else "redis-server is not installed"


def _free_port(most: int = 65535) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= most:
            return port


class Engine:
    """One server. What it wrote is there after `kill` and `start`, unless `cut` took it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = _free_port()
        self.options = options
        self._process: asyncio.subprocess.Process | None = None
        self._spent = 0.0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", "--port", f"{self.port}", "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
            "--set-max-intset-entries", "512", "--logfile", str(self.folder / "log"), *self.options,
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(_START_SECONDS), self.client() as client:
            while not await _answers(client):
                await asyncio.sleep(0.02)

    def client(self) -> Any:
        from redis.asyncio import Redis

        return Redis(port=self.port)

    @property
    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        return self._spent + (self._cpu_now() if self._process is not None else 0.0)

    def _cpu_now(self) -> float:
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    async def kill(self) -> None:
        process, self._spent, self._process = self._process, self.cpu_seconds, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            await process.wait()

    def cut(self, size: int) -> int:
        """While it is down: the last so many bytes of its file are lost. How many there were to lose."""
        newest = max((self.folder / "appendonlydir").glob("*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))
        length = newest.stat().st_size
        os.truncate(newest, max(0, length - size))
        # As an operator does: what the engine cuts off by itself may end in the middle of a transaction (Redis 7.0).
        manifest = next((self.folder / "appendonlydir").glob("*.manifest"))
        subprocess.run(["redis-check-aof", "--fix", manifest], input=b"y\n", check=True, capture_output=True)
        return min(size, length)


async def _answers(client: Any) -> bool:
    from redis.exceptions import RedisError

    try:
        return bool(await client.ping())
    except (RedisError, OSError):  # not yet, or still loading
        return False


class Cluster:
    """Three masters, no replicas."""

    def __init__(self, folder: Path) -> None:
        self.masters = [
            Engine(folder / f"{number}", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
                   "--cluster-require-full-coverage", "no", "--cluster-port", f"{_free_port()}")
            for number in range(3)
        ]  # fmt: skip

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.masters[0].port}/0"

    @property
    def cpu_seconds(self) -> float:
        return sum(master.cpu_seconds for master in self.masters)

    async def __aenter__(self) -> Cluster:
        await asyncio.gather(*(master.start() for master in self.masters))
        for number, master in enumerate(self.masters):
            first, last = _SLOTS * number // 3, _SLOTS * (number + 1) // 3 - 1
            async with master.client() as client:
                await client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                await client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        async with self.masters[0].client() as client:
            for other in self.masters[1:]:
                await client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, other.options[-1])
        async with asyncio.timeout(_START_SECONDS):
            for master in self.masters:
                async with master.client() as client:
                    while not await _is_whole(client):
                        await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(master.kill() for master in self.masters))


async def _is_whole(client: Any) -> bool:
    found = await client.execute_command("CLUSTER INFO")
    return bool(found["cluster_state"] == "ok" and found["cluster_known_nodes"] == "3")
