"""What tests of several files start from."""

from __future__ import annotations

import pytest

from crawler.cli import main


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
