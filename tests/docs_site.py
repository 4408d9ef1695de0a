"""A real site on loopback: a folder of HTML served by nginx, and an independent account of what is in it.

The Python documentation that Debian ships is the folder: some five hundred pages that people wrote, with the links
that people write. nginx serves it because it costs next to nothing beside a crawler. `walk` is the oracle: urllib and
lxml, nothing that the crawler itself is made of.

nginx cannot be told to take any free port, so the socket is bound here and handed down in the variable by which nginx
hands its own sockets to its successor when it is upgraded (`NGINX=FD;`). The port is never free in between, and
connections queue until nginx is up, so nothing is retried and nothing polled.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Census", "census", "docs_folder", "missing", "serve", "walk"]

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/bin"  # not on everybody's PATH, but where nginx is
_MIME_TYPES = Path("/etc/nginx/mime.types")
_START_SECONDS = 10.0
_STOP_SECONDS = 10.0

_CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    include {mime_types};
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
        listen 127.0.0.1:{port};
        root "{folder}";
        index index.html;
    }}
}}
"""


# -- serving ----------------------------------------------------------------------------------------------------------


def docs_folder() -> Path | None:
    """The HTML documentation of Debian's Python: 3.11's where it is installed, else another one, else None."""
    found = sorted(page.parent for page in Path("/usr/share/doc").glob("python3.*/html/index.html"))
    preferred = Path("/usr/share/doc/python3.11/html")
    return preferred if preferred in found else next(iter(found), None)


def missing() -> str | None:
    """Why this machine cannot serve the documentation, in words for a test's skip; None where it can."""
    if _nginx() is None or not _MIME_TYPES.exists():
        return "nginx is not installed (apt-get install nginx)"
    if docs_folder() is None:
        return "the Python documentation is not installed (apt-get install python3.11-doc)"
    return None


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve `folder` on a free loopback port; gives the site's address, `"http://127.0.0.1:PORT"`.

    One worker, without root, its files in a temporary folder; it answers when the block begins and is gone when the
    block ends. For use in asynchronous tests too: entering takes some hundredths of a second.
    Raises `RuntimeError` with what nginx said if it does not come up.
    """
    binary = _nginx()
    if binary is None:
        raise RuntimeError("nginx is not installed")
    with tempfile.TemporaryDirectory(prefix="docs-site-") as home, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = Path(home, "nginx.conf")
        config.write_text(_config(home, port, folder), encoding="utf-8")
        with (
            Path(home, "stderr").open("w+b") as said,
            subprocess.Popen(
                [binary, "-p", home, "-c", str(config), "-e", "stderr"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[listener.fileno()],
                env={**os.environ, "NGINX": f"{listener.fileno()};"},
            ) as process,
        ):
            try:
                _await_answer(port, process, Path(said.name))
                yield f"http://127.0.0.1:{port}"
            finally:
                _end(process)


def _config(home: str, port: int, folder: Path) -> str:
    # Started by root, nginx would serve as `www-data`, which cannot read a test's temporary folder.
    user = "user root;" if os.geteuid() == 0 else ""
    return _CONFIG.format(user=user, home=home, mime_types=_MIME_TYPES, port=port, folder=folder.resolve())


def _nginx() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), _SBIN]))


def _await_answer(port: int, process: subprocess.Popen[bytes], said: Path) -> None:
    # The socket queues connections from its birth, so one connection waits for nginx itself.
    with socket.create_connection(("127.0.0.1", port), timeout=_START_SECONDS) as probe:
        try:
            probe.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            answer = probe.recv(5)
        except OSError as error:
            answer = str(error).encode()
    if not answer.startswith(b"HTTP/"):
        process.terminate()
        process.wait(_STOP_SECONDS)
        raise RuntimeError(f"nginx did not come up: {said.read_text(encoding='utf-8', errors='replace').strip()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


# -- walking ----------------------------------------------------------------------------------------------------------


class Census(NamedTuple):
    """What a walk found."""

    pages: set[str]
    """Final URLs that answered 200 with `text/html`."""
    other: set[str]
    """Final URLs that answered 200 with something else."""
    broken: set[str]
    """URLs, as linked, that answered with an error."""


def walk(start: str) -> set[str]:
    """The URL of every page that links lead to from `start`, on its host: `census(start).pages`."""
    return census(start).pages


def census(start: str) -> Census:
    """Follow every same-host http(s) link in `a[href]` from `start`, fragments dropped, redirects followed, one by one.

    Only HTML is parsed. Blocks; needs lxml, which the extra `dev` brings.
    """
    found = Census(set(), set(), set())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    host = urlsplit(start).netloc
    known = {start}
    waiting = [start]
    while waiting:
        asked = waiting.pop()
        try:
            with opener.open(asked) as response:
                url, is_html = response.url, response.headers.get_content_type() == "text/html"
                body = response.read() if is_html and url not in found.pages else b""
        except urllib.error.HTTPError as error:
            error.close()
            found.broken.add(asked)
            continue
        (found.pages if is_html else found.other).add(url)
        fresh = {link for link in _links(url, body) if urlsplit(link).netloc == host} - known
        known |= fresh
        waiting += sorted(fresh)
    return found


def _links(url: str, body: bytes) -> set[str]:
    if not body.strip():
        return set()
    from lxml import html  # type: ignore[import-untyped]

    written = {str(href).strip().partition("#")[0] for href in html.fromstring(body).xpath("//a/@href")}
    absolute = {urljoin(url, link) for link in written}
    return {link for link in absolute if urlsplit(link).scheme in ("http", "https")}
