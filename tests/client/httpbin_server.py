"""httpbin, served by gunicorn on loopback in a process of its own."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HttpBin"]

_READY_SECONDS = 60.0
"""Flask is imported well within a second, but a machine that runs all tests at once is slow."""
_END_SECONDS = 10.0


class HttpBin:
    """`with HttpBin() as httpbin:`, then fetch `httpbin.url`; `httpbin / "status/404"` is the URL of one of its pages.

    The socket is bound and listens here and is inherited by the server, so no port has to be guessed or told. Many
    threads answer, since several of its pages are slow on purpose, and go on being so when nobody waits any more.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without a slash at its end."""
        return f"http://{self.host}"

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"{self.address}:{self.port}"

    def __truediv__(self, path: str) -> str:
        return f"{self.url}/{path}"

    def __enter__(self) -> HttpBin:
        self._said = tempfile.TemporaryFile()
        with socket.create_server((self.address, 0), backlog=128) as listener:
            self.port = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *_options(listener.fileno()), "httpbin:app"],
                pass_fds=(listener.fileno(),),
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        # Ours is closed by now: were the server to die, the connection would be reset instead of waiting for ever.
        try:
            self._first_answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def _first_answer(self) -> None:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=_READY_SECONDS)
        try:
            connection.request("GET", "/robots.txt", headers={"Connection": "close"})
            status = connection.getresponse().status
        except OSError as error:
            raise RuntimeError(f"httpbin did not start:\n{self._output()}") from error
        finally:
            connection.close()
        if status != 200:
            raise RuntimeError(f"httpbin answers {status}:\n{self._output()}")

    def _end(self) -> None:
        assert self._process is not None
        assert self._said is not None
        self._process.send_signal(signal.SIGQUIT)  # gunicorn's word for at once; SIGTERM waits for idle connections
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _output(self) -> str:
        assert self._said is not None
        self._said.seek(0)
        return self._said.read().decode(errors="replace")


def _options(listener: int) -> Iterator[str]:
    yield f"--bind=fd://{listener}"
    yield "--worker-class=gthread"  # the plain worker closes each connection after one answer
    yield "--threads=32"
    yield "--keep-alive=60"
    yield "--graceful-timeout=1"
    yield "--timeout=0"  # the heartbeat guards against workers that hang, on a machine that may itself hang for a while
    yield "--log-level=critical"
    yield "--no-control-socket"


def _environment() -> dict[str, str]:
    """Ours, without what is meant for the tests' own Python or would change how httpbin and gunicorn behave."""
    changed = ("PYTHONWARNINGS", "PYTHONDEVMODE", "DEBUG", "GUNICORN_CMD_ARGS", "BUGSNAG_API_KEY", "HTTPBIN_TRACKING")
    return {name: value for name, value in os.environ.items() if name not in changed} | {"PYTHONWARNINGS": "ignore"}
