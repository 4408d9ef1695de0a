"""A `Request` as a curl command for bash."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import msgspec

from crawler.body import FilePath, Multipart, Part
from crawler.curl.words import quote

if TYPE_CHECKING:
    from crawler.request import Request

__all__ = ["render"]


def render(request: Request) -> str:
    """A command for bash that makes curl send this request.

    It is for trying things out, so secrets stand in it as they are. A body with NUL bytes, which no argument can hold,
    is piped in by `printf`; every other command is one that `parse` reads. That gives an equal request where curl has
    the words, but for what is added to make curl send the same: the Content-Type that a body would get, and with
    `json` a header that asks for JSON back. A `Cookie` header comes back as `cookies`.

    Raises ValueError for a body that is a live object, and for a form that curl cannot write.
    """
    before, body, method = _body(request)
    options = [quote(request.url)]
    if any(character in request.url for character in "[]{}"):
        options.append("--globoff")
    if request.method == "HEAD" and not body:
        options.append("--head")
    elif request.method != method:
        options.append(f"-X {quote(request.method)}")
    options += ["-H " + quote(f"{name}: {value}" if value else f"{name};") for name, value in request.headers.items()]
    options += ["-H " + quote(f"{name}:") for name in request.skip_auto_headers]
    if request.cookies:
        options.append("-b " + quote("; ".join(f"{name}={value}" for name, value in request.cookies.items())))
    options += [*body, *_way(request), "--compressed"]
    return f"{before}curl " + " \\\n  ".join(options)


def _way(request: Request) -> list[str]:
    """Proxy, TLS and limits."""
    options = []
    if request.proxy is not None:
        options.append(f"-x {quote(request.proxy)}")
    if request.proxy_auth is not None:
        options.append("-U " + quote(":".join(request.proxy_auth)))
    if request.tls is False:
        options.append("--insecure")
    timeout = request.timeout
    is_plain = timeout is None or isinstance(timeout, int | float)
    total, connect = (timeout, None) if is_plain else (timeout.total, timeout.connect)
    options += [f"-m {_seconds(total)}"] if total else []
    options += [f"--connect-timeout {_seconds(connect)}"] if connect else []
    if request.max_body_bytes is not None:
        options.append(f"--max-filesize {request.max_body_bytes}")
    if request.max_redirects is not None:
        options.append(f"--max-redirs {request.max_redirects}")
    if request.encoded:
        options.append("--path-as-is")
    return [*options, "--location" if request.allow_redirects else "--no-location"]


def _seconds(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


# -- bodies ------------------------------------------------------------------------------------------------------------


def _body(request: Request) -> tuple[str, list[str], str]:
    """What stands before `curl`, the options that make the body, and the method that curl then takes by itself."""
    data = request.data
    if request.json is not None:
        return "", [f"--json {quote(msgspec.json.encode(request.json))}"], "POST"
    if isinstance(data, list) and any(isinstance(value, FilePath) for _, value in data):
        data = Multipart(tuple(Part(str(name), _plain(value)) for name, value in data))
    if isinstance(data, Multipart):
        return "", [_field(part) for part in data.parts], "POST"
    if isinstance(data, list):
        return "", _pairs(data), "POST"
    if isinstance(data, FilePath):
        return "", *_file(request, data)
    if not isinstance(data, str | bytes | None):
        raise ValueError(f"{request!r} has a {type(data).__name__} for a body, which no command can hold")
    body = request.body if data is None else data
    if body is None:
        return "", [], "GET"
    typed = _typed(request, "text/plain; charset=utf-8" if isinstance(body, str) else "application/octet-stream")
    content = body.encode() if isinstance(body, str) else body
    if b"\0" in content:
        return f"printf '{_octal(content)}' | ", [*typed, "--data-binary @-"], "POST"
    return "", [*typed, f"--data-raw {quote(content)}"], "POST"


def _file(request: Request, file: FilePath) -> tuple[list[str], str]:
    """As an upload, which curl streams, unless it would add the name of the file to the URL."""
    import mimetypes

    path = f"./{file.path}" if file.path in ("-", ".") else file.path
    typed = _typed(request, mimetypes.guess_type(path)[0] or "application/octet-stream")  # as aiohttp does
    if request.url.partition("?")[0].endswith("/"):
        return [*typed, "--data-binary " + quote(f"@{path}")], "POST"
    return [*typed, f"-T {quote(path)}"], "PUT"


def _typed(request: Request, kind: str) -> list[str]:
    named = {name.lower() for name in (*request.headers, *request.skip_auto_headers)}
    return [] if "content-type" in named else ["-H " + quote(f"Content-Type: {kind}")]


def _octal(content: bytes) -> str:
    """For the format of `printf`, whose every escape has three digits."""
    return "".join(chr(byte) if byte < 128 and chr(byte).isalnum() else f"\\{byte:03o}" for byte in content)


def _pairs(data: list[Any]) -> list[str]:
    pairs = [(str(name), _plain(value)) for name, value in data]
    if pairs and all(name and isinstance(value, str) and "\0" not in value for name, value in pairs):
        return ["--data-urlencode " + quote(f"{quote_plus(name)}={value}") for name, value in pairs]
    return ["--data-raw " + quote(urlencode(pairs))]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bytes | FilePath) else str(value)


def _field(part: Part) -> str:
    if "=" in part.name:
        raise ValueError(f"curl cannot write a form field whose name holds a '=': {part.name!r}")
    if isinstance(part.value, FilePath):
        return "-F " + quote(f"{part.name}=@{_escaped(part.value.path)}{_suffix(part)}")
    value = part.value if isinstance(part.value, str) else part.value.decode("utf-8", "surrogateescape")
    if part.filename is None and part.content_type is None:
        return "--form-string " + quote(f"{part.name}={value}")
    return "-F " + quote(f"{part.name}={_escaped(value)}{_suffix(part)}")


def _suffix(part: Part) -> str:
    filename = "" if part.filename is None else f";filename={_escaped(part.filename)}"
    return filename + ("" if part.content_type is None else f";type={part.content_type}")


def _escaped(text: str) -> str:
    return '"' + re.sub(r'([\\"])', r"\\\1", text) + '"'
