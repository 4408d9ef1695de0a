"""What a large file costs: `response.save` in a crawl beside a hand-written loop, in turns.

    python benchmarks/streams.py [--mib 1024] [--rounds 3] [--folder DIR]

A process of its own serves random bytes on loopback. A is a whole crawl (`crawler.crawl`) of one request with
`stream=True` whose callback saves it; B is aiohttp's `iter_chunked` into an aiofiles file. Both hash on the way, both
run on uvloop where that is installed. After one warm-up each, the rounds go A B A B ..., so that whatever else the
machine does falls on both. CPU seconds (user + system, all threads of the child, from the first byte to the last) are
the figure; what SHA-256 alone takes of them stands above. The memory is the child's peak over what it held when the
body began.
Exit code 1 where the files differ.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from machine import Failed, machine  # noqa: E402

MIB = 1 << 20


class Run(NamedTuple):
    cpu_seconds: float
    wall_seconds: float
    grown_mib: float
    sha256: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, metavar="N", help="how large the file is (default 1024)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="pairs to measure (default 3)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where it is saved (default: the temporary folder)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        return child(*options.child)
    print(machine())
    print(f"SHA-256 alone: {hash_ms_per_mib():.2f} ms CPU/MiB")
    server = subprocess.Popen([*this("serve"), str(options.mib)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        pairs = measure(server.stdout.readline().strip(), options.rounds, options.folder)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        server.kill()
        server.wait()
    print(table(pairs, options.mib))
    if len({run.sha256 for pair in pairs for run in pair}) > 1:
        print("the files differ", file=sys.stderr)
        return 1
    return 0


# -- running --------------------------------------------------------------------------------------------------------


def this(role: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--child", role]


def measure(url: str, rounds: int, folder: Path | None) -> list[tuple[Run, Run]]:
    """Pairs (A, B), the warm-up left out."""
    pairs = []
    for number in range(rounds + 1):
        pair = run("crawler", url, folder), run("plain", url, folder)
        show = "warm-up" if number == 0 else f"{number} of {rounds}"
        print(f"  {show}: A {pair[0].cpu_seconds:.2f} s, B {pair[1].cpu_seconds:.2f} s CPU", file=sys.stderr)
        pairs.append(pair)
    return pairs[1:]


def run(role: str, url: str, folder: Path | None) -> Run:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_")}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as home:
        command = [*this(role), url, str(Path(home, "file.bin"))]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"exit code {done.returncode} from: {' '.join(command)}\n{done.stderr[-2000:]}")
    return Run(**json.loads(done.stdout))


# -- the children ---------------------------------------------------------------------------------------------------


def child(role: str, *arguments: str) -> int:
    if role == "serve":
        serve(int(arguments[0]))
    from crawler.signals import run_in_loop

    done = run_in_loop(with_crawler(*arguments) if role == "crawler" else by_hand(*arguments))
    print(json.dumps(done._asdict()))
    return 0


async def with_crawler(url: str, target: str) -> Run:
    from crawler import Response, Spider, crawl

    class Saving(Spider):
        """Saves one file."""

        name = "saving"

        async def start(self) -> Any:
            yield self.request(url, stream=True)

        async def parse(self, response: Response) -> None:
            meter = Meter()
            saved = await response.save(target)
            runs.append(meter.read(saved.sha256))

    runs: list[Run] = []
    await crawl(Saving, settings={"politeness": {"obey_robots": False}, "crawl": {"callback_timeout_seconds": 86_400}})
    return runs[0]


async def by_hand(url: str, target: str) -> Run:
    import aiofiles
    import aiohttp

    async with aiohttp.ClientSession(auto_decompress=False) as session, session.get(url) as response:
        meter = Meter()
        digest = hashlib.sha256()
        async with aiofiles.open(target, "wb") as file:
            async for chunk in response.content.iter_chunked(1 << 16):
                digest.update(chunk)
                await file.write(chunk)
        return meter.read(digest.hexdigest())


class Meter:
    """What this process has used since."""

    def __init__(self) -> None:
        self.cpu = time.process_time()
        self.wall = time.perf_counter()
        self.held = memory_mib("VmRSS")

    def read(self, sha256: str) -> Run:
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        return Run(cpu, wall, memory_mib("VmHWM") - self.held, sha256)


def memory_mib(field: str) -> float:
    with contextlib.suppress(OSError):
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if found is not None:
            return int(found[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else MIB)


def serve(mib: int) -> None:
    """Answers every request with the same random MiB, as often as needed; one connection at a time, until killed."""
    block = os.urandom(MIB)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (mib * MIB))
                for _ in range(mib):
                    connection.sendall(block)


# -- showing --------------------------------------------------------------------------------------------------------


def hash_ms_per_mib() -> float:
    block, digest, rounds = os.urandom(MIB), hashlib.sha256(), 50
    began = time.process_time()
    for _ in range(rounds):
        digest.update(block)
    return (time.process_time() - began) * 1000 / rounds


def table(pairs: list[tuple[Run, Run]], mib: int) -> str:
    rows = [f"{'':10}{'CPU s':>9}{'ms/MiB':>9}{'wall s':>9}{'MiB/s':>8}{'grown MiB':>11}   A/B CPU"]
    for number, (ours, plain) in enumerate(pairs, 1):
        rows.append(f"{f'{number} crawler':10}{row(ours, mib)}   {ours.cpu_seconds / plain.cpu_seconds:.2f}")
        rows.append(f"{f'{number} plain':10}{row(plain, mib)}")
    ours, plain = (median([pair[side] for pair in pairs]) for side in (0, 1))
    ratio = statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs)
    rows += ["medians", f"{'A crawler':10}{row(ours, mib)}   {ratio:.2f}", f"{'B plain':10}{row(plain, mib)}"]
    return "\n".join(rows)


def median(runs: list[Run]) -> Run:
    cpu, wall, grown = (statistics.median(values) for values in list(zip(*runs, strict=True))[:3])
    return Run(cpu, wall, grown, runs[-1].sha256)


def row(run: Run, mib: int) -> str:
    per_mib, speed = run.cpu_seconds * 1000 / mib, mib / run.wall_seconds
    return f"{run.cpu_seconds:9.2f}{per_mib:9.2f}{run.wall_seconds:9.2f}{speed:8.0f}{run.grown_mib:11.1f}"


if __name__ == "__main__":
    sys.exit(main())
