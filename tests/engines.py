"""Redis servers for tests: real ones, on free ports of loopback, gone with who started them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Cluster", "Server", "needs_redis"]

_START_SECONDS = 20
_SLOTS = 16384

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs redis-server (Debian: apt-get install redis-server)"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One `redis-server`. `options` are those of its configuration file."""

    def __init__(self, folder: Path, **options):
        self.folder = folder
        self.options = options
        self.port = 0
        self.process = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        """Again after `kill`: on the same port, with what is on disk."""
        for _ in range(5):
            self.port = self.port or free_port()
            words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
            for name, value in {"save": "", "appendonly": "no", **self.options}.items():
                words += [f"--{name.replace('_', '-')}", str(value)]
            log = (self.folder / "log").open("ab")
            with log:
                self.process = subprocess.Popen(words, stdout=log, stderr=log)
            if self._is_there():
                return self
            self.port = 0  # somebody else was faster
        raise AssertionError((self.folder / "log").read_text(errors="replace"))

    def _is_there(self):
        ends = time.monotonic() + _START_SECONDS
        while time.monotonic() < ends and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if b"PONG" in self.say("PING") or b"NOAUTH" in self.say("PING"):
                    return True
            time.sleep(0.01)
        return False

    def say(self, *words):
        """The raw answer to one command, over a connection of its own; of up to a megabyte."""
        data = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in map(_bytes, words))
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(data)
            return connection.recv(1 << 20)

    def flush(self):
        assert self.say("FLUSHALL").startswith(b"+OK")

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.kill()


class Cluster:
    """Three primaries, that have a third of the slots each."""

    def __init__(self, folder: Path, **options):
        options = {
            "cluster_enabled": "yes",
            "cluster_config_file": "nodes.conf",
            "cluster_node_timeout": 2000,
            **options,
        }
        self.servers = [Server(folder / f"{n}", **options) for n in range(3)]

    @property
    def url(self):
        return f"redis+cluster://127.0.0.1:{self.servers[0].port}/0"

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            for n, server in enumerate(self.servers):
                # The nodes talk on a port that is 10,000 higher.
                while not 1024 < (port := free_port()) < 50_000:
                    pass
                server.port = port
                stack.enter_context(server)
                first, last = n * _SLOTS // 3, (n + 1) * _SLOTS // 3 - 1
                assert server.say("CLUSTER", "ADDSLOTSRANGE", first, last).startswith(b"+OK")
                assert server.say("CLUSTER", "SET-CONFIG-EPOCH", n + 1).startswith(b"+OK")
            for server in self.servers[1:]:
                assert server.say("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port).startswith(b"+OK")
            self.settle()
            self._stack = stack.pop_all()
        return self

    def settle(self):
        """All of them are there, and know it."""
        ends = time.monotonic() + _START_SECONDS
        while not all(b"cluster_state:ok" in server.say("CLUSTER", "INFO") for server in self.servers):
            assert time.monotonic() < ends, "the cluster does not come up"
            time.sleep(0.05)

    def __exit__(self, *exc):
        self._stack.close()

    def flush(self):
        for server in self.servers:
            server.flush()


def _bytes(word):
    return word if isinstance(word, bytes) else str(word).encode()
