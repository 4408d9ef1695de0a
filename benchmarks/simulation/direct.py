"""The way of simulated workers to their Redis: one socket for all of them, on which nobody waits beside another.

A thousand clients in one process, each with its connections and its turns of the event loop, would take several times
what the workers and the engine do. What is said is the same; only retries are left out, since nothing goes away.
"""

from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING, Any

import hiredis
import redis
from redis.exceptions import NoScriptError, ResponseError

from crawler.frontier.redis import keys
from crawler.frontier.redis.connection import Engine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = ["DirectEngine", "Line", "preferred"]

_AT_ONCE = 1 << 16


class Line:
    """`async with` is not needed: `close` it."""

    def __init__(self, port: int) -> None:
        self.client = redis.Redis(port=port)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(replyError=_error)

    def close(self) -> None:
        self._socket.close()
        self.client.close()

    def exchange(self, words: list[list[Any]]) -> list[Any]:
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(each)) for each in words))
        answers: list[Any] = []
        while len(answers) < len(words):
            answer = self._reader.gets()
            if answer is False:
                self._reader.feed(self._socket.recv(_AT_ONCE))
            else:
                answers.append(answer)
        return answers


class DirectEngine(Engine):
    def __init__(self, line: Line, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._line = line

    def _connect(self) -> None:
        pass

    async def _infos(self, section: str) -> dict[str, dict[str, Any]]:
        return {self.name: self._line.client.info(section)}

    async def warn_of_loss(self) -> None:
        pass

    async def _say(self, words: list[list[Any]]) -> list[Any]:
        return self._line.exchange(words)

    async def _patiently(self, attempt: Callable[[], Awaitable[Any]], seconds: float | None = None) -> Any:
        return await attempt()


def _error(text: str) -> Exception:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)


def preferred(worker: str, workers: Iterable[str], shards: int) -> list[int]:
    """As `crawler.frontier.redis.keys.preferred`, worked out once for all who have the same list of workers."""
    return _winners(frozenset(workers), shards).get(worker) or _first_choices(worker, shards)


@functools.lru_cache(maxsize=16)
def _winners(workers: frozenset[str], shards: int) -> dict[str, list[int]]:
    won: dict[str, list[int]] = {}
    for shard in range(shards):
        won.setdefault(max(workers, key=lambda worker: _weights(worker, shards)[shard]), []).append(shard)
    return won


@functools.cache
def _weights(worker: str, shards: int) -> list[int]:
    seed = keys._seed(worker)
    return [keys._mix(seed, shard) for shard in range(shards)]


@functools.cache
def _first_choices(worker: str, shards: int) -> list[int]:
    return sorted(range(shards), key=_weights(worker, shards).__getitem__)[-2:]
