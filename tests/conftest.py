"""What tests of several files start from."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from crawler.cli import main

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


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
