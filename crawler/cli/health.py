"""`crawler health`: is the crawl of this container alive? For a HEALTHCHECK, which starts it every half minute."""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from crawler import settings as setting
from crawler.cli import DEFAULT_FILE, EXIT_FAILED, EXIT_OK
from crawler.errors import UsageError

if TYPE_CHECKING:
    import argparse

__all__ = ["health"]

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to ask there, not to listen


def health(arguments: argparse.Namespace) -> int:
    """0 where `/healthz` says so; 1 where it does not, or nobody answers, or nobody is there to be asked."""
    host, port, path = _given(arguments.url) if arguments.url else _configured(arguments)
    if not port:
        return _ill("status.listen is off, or has port 0: nothing to ask; give it a port, or the URL to this command")
    connection = http.client.HTTPConnection(host, port, timeout=arguments.timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read(1000).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return _ill(f"no answer from {host}, port {port}, in {arguments.timeout:g} s: {error or type(error).__name__}")
    finally:
        connection.close()
    if answer.status != 200:
        return _ill(f"{answer.status}: {said}")
    print(said)
    return EXIT_OK


def _ill(why: str) -> int:
    from crawler.log import shown

    print(f"crawler: {shown(why)}", file=sys.stderr)
    return EXIT_FAILED


def _configured(arguments: argparse.Namespace) -> tuple[str, int, str]:
    """Of what a spider's own settings say nothing is known here: which spider runs is not either."""
    file = arguments.file
    if file is None and Path(DEFAULT_FILE).is_file():
        file = Path(DEFAULT_FILE)
    layers = [*([] if file is None else [setting.file_layer(file)]), setting.environment_layer(os.environ)]
    listen = setting.load([*layers, setting.command_line_layer(arguments.sets)]).settings.status.listen
    host, _, port = (listen or ":0").rpartition(":")
    host = host.strip("[]")
    return _WILDCARDS.get(host, host), int(port), "/healthz"


def _given(text: str) -> tuple[str, int, str]:
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        if url.scheme == "http" and url.hostname:
            return url.hostname, url.port or 80, url.path.rstrip("/") or "/healthz"
    except ValueError:
        pass
    raise UsageError(f"{text!r}: expected the URL of a status page, such as http://127.0.0.1:9090")
