"""The long run of what tests/fuzz does shortly: properties on many examples, mutated answers by the ten thousand.

    python benchmarks/fuzz.py [--minutes 60] [--examples 1000] [--answers 20000] [--seed 1]

Rounds, each with a seed of its own, until the minutes are over; one round at least. A failure ends it, and shows what
it takes to see it again.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("--minutes", type=float, default=0.0, help="go on with other seeds for so long")
    command.add_argument("--examples", type=int, default=1000, help="of each property, in a round")
    command.add_argument("--answers", type=int, default=20_000, help="through each parser, in a round")
    command.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the first round")
    given = command.parse_args()
    end = time.monotonic() + given.minutes * 60
    seed = given.seed
    while True:
        print(f"round with seed {seed}", flush=True)
        code = _properties(given.examples, seed) or _answers(given.answers, seed) or _answers(given.answers, seed, "1")
        if code:
            return code
        seed += 1
        if time.monotonic() >= end:
            return 0


def _properties(examples: int, seed: int) -> int:
    if not examples:
        return 0
    command = ["-m", "pytest", "tests/fuzz", "--numprocesses", "auto", f"--hypothesis-seed={seed}"]
    return _run(command, FUZZ_EXAMPLES=str(examples))


def _answers(count: int, seed: int, without_extensions: str = "") -> int:
    command = ["tests/fuzz/responses.py", "--count", str(count), "--seed", str(seed)]
    return _run(command, AIOHTTP_NO_EXTENSIONS=without_extensions) if count else 0


def _run(command: list[str], **environment: str) -> int:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
