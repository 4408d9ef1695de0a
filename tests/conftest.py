"""What tests of several files start from."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import sys
import time
from pathlib import Path

import pytest

from crawler.cli import main

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def pytest_collection_finish():
    """Thousands of tests and what they imported stay until the end: whoever collects garbage need not look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def little_garbage():
    """For tests that collect garbage again and again: they look at none of what other tests left in this process."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """`crawler …` in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        return (code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server, started when the first test wants it."""
    import postgres_server

    why = postgres_server.missing()
    if why is not None:
        pytest.skip(why)
    with postgres_server.serve() as server:
        yield server


class Noise:
    """How much earlier than sent, against the one before it, a request may seem to arrive at a server of this loop.

    It is what a first request's connection takes, and twice the longest time for which the loop had no turn: a request
    that was sent before such a time arrives after it. So what a busy machine does to a gap is measured beside it.
    """

    _CONNECTING_SECONDS = 0.02
    _BEAT_SECONDS = 0.002

    def __init__(self):
        self._late_seconds = 0.0

    @property
    def seconds(self):
        return self._CONNECTING_SECONDS + 2 * self._late_seconds

    async def listen(self):
        while True:
            due = time.monotonic() + self._BEAT_SECONDS
            await asyncio.sleep(self._BEAT_SECONDS)
            self._late_seconds = max(self._late_seconds, time.monotonic() - due)


@pytest.fixture
async def noise():
    found = Noise()
    listening = asyncio.create_task(found.listen())
    yield found
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


@pytest.fixture
def fleet(monkeypatch):
    """Imports a module of `benchmarks/fleet`, which are scripts and no package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "fleet"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(BENCHMARKS):
            del sys.modules[name]
