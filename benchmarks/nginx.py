"""nginx with a configuration of our own: one worker on loopback, a process apart, so its CPU is nobody's.

The way `tests/docs_site.py` starts it (a bound socket is handed down, so the port is never free in between), with what
that one has no need for: any body of the `server` block, TLS, and one socket for all of 127.0.0.0/8.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["find", "serve", "version"]

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/bin"
_SECONDS = 10.0
_CONFIG = """\
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 8192;
pid {home}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    types {{
        text/html html;
        text/css css;
        text/plain txt py;
        text/javascript js;
        image/png png;
        image/svg+xml svg;
        application/zip zip;
    }}
    default_type application/octet-stream;
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen {address}:{port}{tls};
        allow 127.0.0.0/8;
        deny all;
        {server}
    }}
}}
"""


def find() -> str | None:
    """The path of nginx, or None."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), _SBIN]))


def version() -> str:
    """As `1.22.1`; empty where there is no nginx."""
    binary = find()
    if binary is None:
        return ""
    return subprocess.run([binary, "-v"], capture_output=True, text=True, check=False).stderr.strip().rpartition("/")[2]


@contextlib.contextmanager
def bound(address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A listening socket on a free port, for `serve`."""
    with socket.create_server((address, 0)) as listener:
        yield listener


@contextlib.contextmanager
def serve(listener: socket.socket, server: str, certificate: Path | None = None) -> Iterator[int]:
    """Serve what the directives `server` say until the block ends; gives the port.

    `certificate` is a PEM file of certificate and key, then it is HTTPS. Raises `RuntimeError` with what nginx said if
    it does not come up.
    """
    binary = find()
    if binary is None:
        raise RuntimeError("nginx is not installed")
    address, port = listener.getsockname()
    if certificate is not None:
        server = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};\n        {server}"
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as home, Path(home, "stderr").open("w+b") as said:
        # Started by root, nginx would serve as `www-data`, which cannot read a temporary folder.
        user = "user root;" if os.geteuid() == 0 else ""
        tls = "" if certificate is None else " ssl"
        text = _CONFIG.format(user=user, home=home, address=address, port=port, server=server, tls=tls)
        config = Path(home, "nginx.conf")
        config.write_text(text, encoding="utf-8")
        process = subprocess.Popen(
            [binary, "-p", home, "-c", str(config), "-e", "stderr"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=[listener.fileno()],
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
        )
        try:
            _await_answer(address, port, Path(said.name))
            yield port
        finally:
            process.terminate()
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_answer(address: str, port: int, said: Path) -> None:
    # The socket queues connections from its birth, so one connection waits for nginx itself. To this, a TLS port too
    # answers in plain HTTP: that it wants TLS.
    host = "127.0.0.1" if address == "0.0.0.0" else address
    with socket.create_connection((host, port), timeout=_SECONDS) as probe:
        try:
            probe.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            answer = probe.recv(5)
        except OSError as error:
            answer = str(error).encode()
    if not answer.startswith(b"HTTP/"):
        raise RuntimeError(f"nginx did not come up: {said.read_text(encoding='utf-8', errors='replace').strip()}")
