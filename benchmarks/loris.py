"""What 500 hosts that send a byte in ten seconds cost the healthy ones beside them.

`python benchmarks/loris.py` crawls 100 healthy hosts, alone and beside the others, in turns, and prints pages of the
healthy ones a second, by the clock and by the CPU (which other work on the machine does not change), and the memory. It
counts from when all connections are there: opening one costs what it costs with any host.

Each crawl is a process of its own; the hosts are addresses of 127.0.0.0/8. As many requests are in flight as there are
hosts: who drips keeps a place until `http.min_speed_seconds` are over, so with fewer places than such hosts the healthy
ones wait for those.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
import time
from typing import TYPE_CHECKING, Any

from crawler import Request, Response, Spider
from crawler.testing import run_spider
from crawler.testing.raw import RawServer, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.connection import Connection

HEALTHY = 100
PAGES = 60
FIRST = 20 * HEALTHY
"""From here on pages are counted."""
PAGE = answer(b"<p>a page</p>" * 800, "Content-Type: text/html")


class Beside(Spider):
    name = "beside"
    loris = 0
    port = 0
    result: Any = None

    def __init__(self, **args: Any) -> None:
        super().__init__(**args)
        self.pages = 0
        self.began = self.began_cpu = 0.0

    async def start(self) -> AsyncIterator[Request]:
        for number in range(self.loris):
            yield self.request(f"http://127.1.{number // 200}.{number % 200 + 1}:{self.port}/", priority=1)
        for page in range(PAGES):
            for number in range(HEALTHY):
                yield self.request(f"http://127.2.0.{number + 1}:{self.port}/{page}")

    def parse(self, response: Response) -> None:
        self.pages += 1
        if self.pages == FIRST:
            self.began, self.began_cpu = time.perf_counter(), time.process_time()
        if self.pages == HEALTHY * PAGES:
            seconds, cpu_seconds = time.perf_counter() - self.began, time.process_time() - self.began_cpu
            counted = self.pages - FIRST
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            self.result.send((counted / seconds, counted / cpu_seconds, memory))


async def serve(ready: Connection) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not writer.get_extra_info("sockname")[0].startswith("127.1."):
            writer.write(PAGE)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(10)

    async with RawServer(script, host="0.0.0.0", keep_alive=True) as server:
        ready.send(server.port)
        await asyncio.Event().wait()


def run_server(ready: Connection) -> None:
    asyncio.run(serve(ready))


def run_crawl(loris: int, port: int, result: Connection) -> None:
    settings = {"crawl": {"concurrency": loris + 2 * HEALTHY}, "politeness": {"obey_robots": False}}
    args = {"loris": loris, "port": port, "result": result}
    asyncio.run(run_spider(Beside, args=args, settings=settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loris", type=int, default=500)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    server = spawn.Process(target=run_server, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    figures: dict[int, list[tuple[float, float, float]]] = {0: [], arguments.loris: []}
    for _ in range(arguments.rounds):
        for loris, found in figures.items():
            crawl = spawn.Process(target=run_crawl, args=(loris, port, theirs))
            crawl.start()
            found.append(ours.recv())
            crawl.kill()  # those that drip are still there
            crawl.join()
            rate, cpu_rate, memory = found[-1]
            print(f"{loris:4} loris: {rate:6.0f} healthy pages/s, {cpu_rate:6.0f} per CPU second, {memory:4.0f} MiB")
    for number, name in enumerate(("by the clock", "by the CPU")):
        alone, beside = (statistics.median(each[number] for each in found) for found in figures.values())
        print(f"healthy throughput beside {arguments.loris} of them, {name}: {beside / alone:.0%}")
    server.terminate()


if __name__ == "__main__":
    main()
