"""From the options of `crawler fetch` to a `Request`, and to the settings that everything else on its way needs."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from crawler import settings as setting
from crawler import url as urls
from crawler.body import FilePath, Multipart
from crawler.errors import InvalidURL, UsageError
from crawler.request import Request

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from crawler.settings import Layer

__all__ = ["check_options", "make_request", "route_settings"]

_CONFLICTS = (
    ("data", "form"), ("data", "json_body"), ("form", "json_body"),
    ("head", "data"), ("head", "form"), ("head", "json_body"), ("head", "method"), ("head", "output"),
    ("curl", "data"), ("curl", "form"), ("curl", "json_body"), ("curl", "head"),
    ("insecure", "pin"), ("json", "headers"), ("json", "include"), ("json", "output"), ("include", "headers"),
)  # fmt: skip
_SPELLED = {
    "data": "-d", "form": "-F", "json_body": "--json-body", "head": "-I", "method": "-X", "output": "-o",
    "insecure": "-k", "include": "-i", "curl": "--curl", "pin": "--pin", "json": "--json", "headers": "--headers",
}  # fmt: skip


def check_options(arguments: argparse.Namespace) -> None:
    """Raises `UsageError` for options that ask for different things, naming both."""

    def is_given(name: str) -> bool:
        return getattr(arguments, name) not in (None, False, [])

    for one, other in _CONFLICTS:
        if is_given(one) and is_given(other):
            raise UsageError(f"{_SPELLED[one]} and {_SPELLED[other]} do not go together: give one of them")
    if arguments.resume and arguments.output in (None, "-"):
        raise UsageError("-C goes on with a file: say which with -o FILE")


def make_request(arguments: argparse.Namespace) -> Request:
    """Raises `UsageError`, of which `InvalidURL` is one, for what cannot be sent; no secret stands in its message."""
    url = None if arguments.url is None else Request(arguments.url).url
    if arguments.curl is None:
        request = _read(_words(arguments, url or ""))
    else:
        copied = _read_curl(arguments.curl)
        request = _over(copied, _read(_words(arguments, url or copied.url)), arguments.method)
    if (content := _joined(arguments.data)) is not None:
        request = request.replace(body=content, data=None)
    if arguments.pin is not None:
        try:
            request = request.replace(tls=arguments.pin)
        except ValueError as error:
            raise UsageError(f"--pin: {error}") from error
    for path in _files(request):
        if not os.access(path, os.R_OK) or os.path.isdir(path):
            raise UsageError(f"cannot read {path} to send it")
    return request


def route_settings(request: Request) -> list[Layer]:
    """Settings for the way that the request's own options name, because robots.txt and a redirect's next host are
    asked by requests of their own."""
    layers = []
    if request.proxy is not None:
        from crawler.proxies import with_credentials

        try:
            proxy = with_credentials(request.proxy, *request.proxy_auth) if request.proxy_auth else request.proxy
        except ValueError as error:
            raise UsageError(f"-x: {error}") from error
        layers.append(setting.mapping_layer("command line", {"proxy": {"urls": [proxy]}}, where="-x"))
    if request.tls is False:
        layers.append(setting.mapping_layer("command line", {"tls": {"verify": False}}, where="-k"))
    elif request.tls is not None:
        pins = {urls.hostname(request.url): request.tls}
        layers.append(setting.mapping_layer("command line", {"tls": {"fingerprints": pins}}, where="--pin"))
    return layers


# -- through curl's grammar --------------------------------------------------------------------------------------------


def _words(arguments: argparse.Namespace, url: str) -> list[str]:
    """The options as curl spells them: what they mean is written down once, in `crawler.curl`."""
    words = ["--globoff", "--url", url]
    for text in arguments.header:
        if ":" not in text and not text.rstrip().endswith(";"):
            raise UsageError("-H: expected 'Name: value', 'Name:' to leave it out, or 'Name;' to send it empty")
        words += ["-H", text]
    for option, given in (("-X", arguments.method), ("-x", arguments.proxy), ("--json", _json(arguments.json_body))):
        words += [option, given] if given is not None else []
    for option, login in (("-u", arguments.user), ("-U", arguments.proxy_user)):
        if login is not None and ":" not in login:
            raise UsageError(f"{option}: expected USER:PASSWORD")
        words += [option, login] if login is not None else []
    for option, texts in (("-b", arguments.cookie), ("-F", map(_field, arguments.form))):
        words += [word for text in texts for word in (option, text)]
    if arguments.data:
        words += ["-d", arguments.data[0] if _is_one_file(arguments.data) else ""]  # what else it is, `_joined` says
    words += ["-m", str(arguments.max_time)] if arguments.max_time is not None else []
    flags = (("-I", arguments.head), ("-k", arguments.insecure), ("--no-location", arguments.no_redirect))
    return words + [flag for flag, is_given in flags if is_given]


def _json(text: str | None) -> str | None:
    """Raises `UsageError` that says where it is no JSON."""
    if text is None:
        return None
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise UsageError(f"--json-body is not JSON: {error}") from error
    return text


_FIELD = re.compile(r"([^=]+)=([^@<].*?)((?:;\s*(?:type|filename|charset)=[^;]*)*)", re.DOTALL)


def _field(text: str) -> str:
    """curl takes what stands behind a semicolon for an option, and drops it where it is none; here it is text."""
    found = _FIELD.fullmatch(text)
    if found is None:
        return text
    name, value, options = found.groups()
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"{options}'


def _is_one_file(data: list[str]) -> bool:
    """Then it is streamed when the request is sent."""
    return len(data) == 1 and data[0].startswith("@") and data != ["@-"]


def _joined(data: list[str]) -> bytes | None:
    """The body of `-d`, byte for byte."""
    if not data or _is_one_file(data):
        return None
    return b"&".join(_content(text[1:]) if text.startswith("@") else os.fsencode(text) for text in data)


def _content(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"-d @{path}: {error.strerror or error}") from error


def _read(words: list[str]) -> Request:
    # The line that goes on says which shell this is: else a backtick at the end of a line in some data would.
    try:
        return Request.from_curl(f"curl \\\n{shlex.join(words)}")
    except InvalidURL:
        raise
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def _read_curl(command: str) -> Request:
    try:
        return Request.from_curl(command)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--curl: {error}") from error


def _over(copied: Request, own: Request, method: str | None) -> Request:
    """What the options say wins over the command; of headers and cookies, name by name."""
    unwanted = {name.lower() for name in (*own.headers, *own.skip_auto_headers)}
    headers = [(name, value) for name, value in copied.headers.items() if name.lower() not in unwanted]
    skipped = [name for name in copied.skip_auto_headers if name not in own.headers]
    changes: dict[str, Any] = {
        "url": own.url,
        "headers": [*headers, *own.headers.items()],
        "skip_auto_headers": (*skipped, *own.skip_auto_headers),
        "cookies": {**(copied.cookies or {}), **(own.cookies or {})} or None,
    }
    if method is not None:
        changes["method"] = own.method
    if not own.allow_redirects:
        changes["allow_redirects"] = False
    for name in ("proxy", "proxy_auth", "tls", "timeout"):
        if (value := getattr(own, name)) is not None:
            changes[name] = value
    return copied.replace(**changes)


def _files(request: Request) -> Iterator[str]:
    """Files that the request sends."""
    data = request.data
    values = [part.value for part in data.parts] if isinstance(data, Multipart) else [data]
    return (value.path for value in values if isinstance(value, FilePath))
