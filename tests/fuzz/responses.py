"""Mutated answers through the real client: each ends as a response, or as a `FetchError` whose reason is documented.

    python tests/fuzz/responses.py --count 20000 --seed 1

Anything else is a failure, with the seed, the number and the bytes: another exception, from the client or from what
reads the response afterwards; an answer that takes longer than its deadlines; another request's answer; a word to the
loop's exception handler; tasks or descriptors that are left at the end. `AIOHTTP_NO_EXTENSIONS=1` takes aiohttp's
parser in Python.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import re
import socket
import struct
import sys
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from fuzz.mutations import Case, make_case, owner

from crawler import Request, errors
from crawler.attempt import Attempt
from crawler.download.session import Downloader
from crawler.errors import FetchError
from crawler.fate import Fate
from crawler.guard import Guard
from crawler.redirect import next_request
from crawler.request import RequestCodec
from crawler.retry import RetryPolicy
from crawler.robots import LONGEST_LIFETIME, lifetime
from crawler.settings import load, mapping_layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.response import Response

_AT_ONCE: Final = 48
_READ_SECONDS: Final = 0.25
_TOTAL_SECONDS: Final = 1.0
_HANG_SECONDS: Final = 15.0
"""Long after both, so that a machine that is busy is not taken for a hang."""
_MOST_BYTES: Final = 100_000


def documented_reasons() -> frozenset[str]:
    """The words that `errors.py` promises for failed requests."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FetchError)]
    words = {word for kind in kinds for word in re.findall(r"`(\w+)`", kind.__doc__ or "")}
    return frozenset(words | {kind.reason for kind in kinds})


class Server(asyncio.Protocol):
    """Answers a request for `/N` with the case of that number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while b"\r\n\r\n" in self._asked:
            head, _, self._asked = self._asked.partition(b"\r\n\r\n")
            found = re.match(rb"[A-Z]+ /(\d+)", head)
            if found is not None:
                self._send(make_case(self._seed, int(found[1])), 0)

    def _send(self, case: Case, piece: int) -> None:
        """Piece by piece, with a turn of the loop in between."""
        places = (0, *case.cuts, len(case.data))
        if self._transport.is_closing():
            return
        if piece + 1 < len(places):
            self._transport.write(case.data[places[piece] : places[piece + 1]])
            asyncio.get_running_loop().call_soon(self._send, case, piece + 1)
        elif case.resets:
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._transport.abort()
        elif case.closes:
            self._transport.close()


class Fuzz:
    """One run. `failures` are what went wrong, each with how to see it again."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self._reasons = documented_reasons()
        self._codec = RequestCodec()
        self._policy = RetryPolicy()

    async def run(self, numbers: range) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: self._heard(context))
        before = _descriptors()
        server = await loop.create_server(lambda: Server(self.seed), "127.0.0.2", 0)
        port = server.sockets[0].getsockname()[1]
        waiting = iter(numbers)
        async with contextlib.AsyncExitStack() as stack:
            keeping = await stack.enter_async_context(client(keepalive_seconds=15.0))
            closing = await stack.enter_async_context(client(keepalive_seconds=0.0))
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(self._work(waiting, port, keeping, closing))
        server.close()
        server.close_clients() if sys.version_info >= (3, 13) else None
        await self._look_for_leaks(before)

    async def _work(self, waiting: Iterator[int], port: int, keeping: Downloader, closing: Downloader) -> None:
        for number in waiting:
            client = closing if number % 4 == 3 else keeping
            try:
                async with asyncio.timeout(_HANG_SECONDS):
                    outcome = await self._fetch(client, _request(port, number))
            except TimeoutError:
                self._failed(number, "it hangs")
            except Exception:
                self._failed(number, traceback.format_exc())
            else:
                self.outcomes[outcome] += 1

    async def _fetch(self, client: Downloader, request: Request) -> str:
        try:
            async with await client.fetch(request) as response:
                if response.content is not None:
                    while await response.content.read(10_000):
                        pass
                self._read(request, response)
        except FetchError as error:
            if error.reason not in self._reasons:
                raise AssertionError(f"the reason {error.reason!r} is not documented") from error
            Fate(request.url, "failed", 0.0, 0, 1, 0, error.reason, str(error)).encode()
            Attempt.of(error, 0.0)
            return error.reason
        return f"status {response.status // 100}xx"

    def _read(self, request: Request, response: Response) -> None:
        """All that the crawler or a callback would look at."""
        assert len(response.body) <= _MOST_BYTES
        assert owner(response.headers) in (None, int(request.url.rpartition("/")[2])), "another request's answer"
        with contextlib.suppress(errors.RedirectError):
            hop = next_request(request, response, 10)
            if hop is not None:
                assert self._codec.decode(self._codec.encode(hop)).url == hop.url
        wait = self._policy.retry_after(response.headers, 1e9)
        assert wait is None or 0 <= wait <= self._policy.retry_after_max_seconds
        assert 0 <= lifetime(response.headers) <= LONGEST_LIFETIME
        with contextlib.suppress(ValueError):
            response.json()
        assert response.text.encode() is not None
        assert response.robots is not None
        for link in response.links():
            Request(link)
        response.css("a::attr(href)").getall()
        repr((response, response.cookies, response.headers, response.reason))

    def _heard(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        told = "" if error is None else "".join(traceback.format_exception(error))
        self.failures.append(f"the loop was told: {context.get('message')} {told}")

    def _failed(self, number: int, what: str) -> None:
        self.failures.append(f"--seed {self.seed} --only {number}: {what}\n{make_case(self.seed, number)}")

    async def _look_for_leaks(self, before: int) -> None:
        deadline = time.monotonic() + 5.0
        while True:
            gc.collect()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            opened = _descriptors() - before
            if not tasks and opened <= 0:
                return
            if time.monotonic() > deadline:
                self.failures.append(f"left at the end: {opened} descriptors, {tasks}")
                return
            await asyncio.sleep(0.05)


def _request(port: int, number: int) -> Request:
    """Plain ones and such as take the session, in turns; now and then a stream, or a HEAD."""
    url = f"http://127.0.0.2:{port}/{number}"
    if number % 16 == 5:
        return Request(url, stream=True, timeout=_TOTAL_SECONDS)
    if number % 16 == 9:
        return Request(url, method="HEAD")
    return Request(url, headers={"X-Way": "session"} if number % 2 else {}, encoded=number % 8 == 6)


def client(*, keepalive_seconds: float) -> Downloader:
    """With deadlines of a second and small bodies."""
    http = {
        "read_seconds": _READ_SECONDS,
        "total_seconds": _TOTAL_SECONDS,
        "max_body_bytes": _MOST_BYTES,
        "keepalive_seconds": keepalive_seconds,
        "unsafe_cookies": True,
    }
    return Downloader(load([mapping_layer("fuzz", {"http": http})]).settings, Guard(allow_private=True))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def parser() -> str:
    """Which of its two parsers aiohttp uses."""
    from aiohttp import http_parser

    in_c = http_parser.HttpResponseParser is not http_parser.HttpResponseParserPy
    return "C" if in_c else "Python"


def main() -> int:
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("--count", type=int, default=20_000)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--only", type=int, help="the one case of this number")
    command.add_argument("--show", type=int, default=10, help="how many failures are shown in full")
    given = command.parse_args()
    fuzz = Fuzz(given.seed)
    numbers = range(given.count) if given.only is None else range(given.only, given.only + 1)
    began = time.monotonic()
    asyncio.run(fuzz.run(numbers))
    print(f"{len(numbers)} answers, seed {given.seed}, parser in {parser()}, {time.monotonic() - began:.0f} s")
    print(", ".join(f"{outcome}: {count}" for outcome, count in fuzz.outcomes.most_common()))
    for failure in fuzz.failures[: given.show]:
        print(failure)
    print(f"{len(fuzz.failures)} failures")
    return 1 if fuzz.failures else 0


if __name__ == "__main__":
    sys.exit(main())
