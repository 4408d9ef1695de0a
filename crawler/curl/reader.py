"""A curl command as the arguments of a `Request`."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus, unquote_plus

import msgspec

from crawler.body import FilePath, Multipart, Part
from crawler.curl.options import options
from crawler.curl.words import is_text, shown, split, to_bytes, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["parse"]

_URLENCODED: Final = "application/x-www-form-urlencoded"
_TOTAL_SECONDS: Final = 60.0  # the default of `http.total_seconds`


def parse(command: str) -> dict[str, Any]:
    """The arguments of `Request` for a curl command, written for a POSIX shell, cmd.exe or PowerShell.

    Understood are `-X -H -d --data-ascii --data-raw --data-binary --data-urlencode --json -F --form-string -T -G -I -b
    -u -A -e -r -x -U --socks4 --socks5 -k -m --connect-timeout --max-redirs --max-filesize --no-location
    --oauth2-bearer --path-as-is --url --url-query`, long or short, grouped (`-sSLXPOST`) or with `=`. What concerns
    curl's output, its retries and the like is skipped. `-H 'Name:'` gives `skip_auto_headers`.

    A body is `data`, a list of pairs, where every piece of it is a `--data-urlencode name=value`; `json` for a `--json`
    whose text says no more than its value; `FilePath` for a file; `Multipart` for a form; else `body`, byte for byte.

    Raises ValueError for what is not one curl command with one URL, for an option that is unknown or not part of a
    request (it says where that is set), and for what only a shell, a terminal or a file could tell.
    """
    words = split(command)
    if not words or re.split(r"[/\\]", words[0])[-1].lower() not in ("curl", "curl.exe"):
        raise ValueError(f"not a curl command: {shown(command)}")
    read = _Command()
    for name, value, is_on in options(words[1:], _WITH_VALUE, _FLAGS):
        if name in _WITH_VALUE:
            _WITH_VALUE[name](read, value)
        else:
            _FLAGS[name](read, is_on)
    return read.arguments()


class _Command:
    """What the options of one command said; `arguments` puts it into the words of `Request`."""

    def __init__(self) -> None:
        self.url: str | None = None
        self.method: str | None = None
        self.is_head = self.is_get = self.is_globless = False
        self.headers: list[tuple[str, str]] = []
        self.removed: list[str] = []
        self.defaults: dict[str, str] = {}
        """Headers that other options than -H stand for; one of -H wins."""
        self.cookies: list[str] = []
        self.pieces: list[tuple[str, str]] = []
        """The body: (`raw`, text), (`json`, text), (`file`, path) or (`pair`, name=value, the value URL-encoded)."""
        self.query: list[str] = []
        self.parts: list[Part] = []
        self.upload: str | None = None
        self.total_seconds: float | None = None
        self.connect_seconds: float | None = None
        self.others: dict[str, Any] = {}
        """Arguments of `Request` that need no more than their name; None is the default."""

    # -- one option ----------------------------------------------------------------------------------------------------

    def add_url(self, url: str) -> None:
        if self.url is not None:
            raise ValueError(f"two URLs, {shown(self.url)} and {shown(url)}: a request has one")
        self.url = url

    def add_header(self, text: str) -> None:
        if text.startswith("@"):
            raise ValueError(f"-H {shown(text)} reads headers from a file: write them into the command")
        if text.startswith(":"):
            return
        name, colon, value = (part.strip() for part in to_text(text).partition(":"))
        if name.lower() == "content-length":
            return
        if colon:
            self.headers += [(name, value)] if value else []
            self.removed += [] if value else [name]
        elif name.endswith(";"):  # of a word with neither, curl sends nothing
            self.headers.append((name[:-1], ""))

    def add_data(self, text: str, kind: str = "raw") -> None:
        self.pieces.append(("file", _path(text[1:])) if text.startswith("@") else (kind, text))

    def add_json(self, text: str) -> None:
        self.add_data(text, "json")
        self.defaults.update({"Content-Type": "application/json", "Accept": "application/json"})

    def add_form_string(self, text: str) -> None:
        name, _, value = text.partition("=")
        self.parts.append(Part(to_text(name), _value(value)))

    def add_cookies(self, text: str) -> None:
        if not text:  # switches curl's own jar on
            return
        if "=" not in text:
            raise ValueError(f"-b {shown(text)} reads cookies from a file: write them as 'name=value; name=value'")
        self.cookies.append(to_text(text))

    def set_login(self, text: str) -> None:
        login = to_bytes(text if ":" in text else f"{text}:")
        self.defaults["Authorization"] = "Basic " + base64.b64encode(login).decode("ascii")

    def set_default(self, name: str, text: str) -> None:
        if text:
            self.defaults[name] = to_text(text)
        else:
            self.removed.append(name)

    def set_proxy(self, text: str, scheme: str = "http") -> None:
        self.others["proxy"] = (text if "://" in text else f"{scheme}://{text}") if text else None

    def set_proxy_login(self, text: str) -> None:
        user, _, password = to_text(text).partition(":")
        self.others["proxy_auth"] = (user, password)

    # -- all together --------------------------------------------------------------------------------------------------

    def arguments(self) -> dict[str, Any]:
        if sum((bool(self.pieces) and not self.is_get, bool(self.parts), self.upload is not None, self.is_head)) > 1:
            raise ValueError("data, a form, an upload and --head are different requests: give one of them")
        method = self.method or self._implied_method()
        arguments: dict[str, Any] = {"url": self._address(), "method": None if method == "GET" else method}
        arguments.update(self._body())
        arguments.update(self._cookies())
        named = {name.lower() for name in (*dict(self.headers), *self.removed)}
        headers = [*self.headers, *(pair for pair in self.defaults.items() if pair[0].lower() not in named)]
        arguments["headers"] = headers or None
        arguments["skip_auto_headers"] = tuple(dict.fromkeys(self.removed)) or None
        arguments["timeout"] = self.total_seconds
        if self.connect_seconds is not None:
            arguments["timeout"] = (self.total_seconds or _TOTAL_SECONDS, self.connect_seconds)
        arguments.update(self.others)
        return {name: value for name, value in arguments.items() if value is not None}

    def _implied_method(self) -> str:
        if self.is_head:
            return "HEAD"
        if self.upload is not None:
            return "PUT"
        return "POST" if self.parts or (self.pieces and not self.is_get) else "GET"

    def _address(self) -> str:
        if self.url is None:
            raise ValueError("the command has no URL")
        url = to_text(self.url)
        if not self.is_globless:
            if _SEVERAL(url):
                raise ValueError(f"{shown(url)} stands for several URLs: give one, or --globoff to take it as it is")
            url = re.sub(r"\\([\[\]{}])", r"\1", url)
        if not re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://", url):
            url = f"http://{url}"
        if self.upload is not None and (folder := re.match(r"[^/]*//[^/?#]*(?:/(?:[^?#]*/)?)?(?=[?#]|\Z)", url)):
            slash = "" if folder[0].endswith("/") else "/"
            url = folder[0] + slash + quote(re.split(r"[/\\]", self.upload)[-1]) + url[folder.end() :]
        added = self.query + ([_sent(piece) for piece in self.pieces] if self.is_get else [])
        if added:
            url = url.partition("#")[0]
            url += ("" if url.endswith(("?", "&")) else "&" if "?" in url else "?") + to_text("&".join(added))
        return url

    def _body(self) -> dict[str, Any]:
        if self.upload is not None:
            return {"data": FilePath(self.upload)}
        if self.parts:
            return {"data": Multipart(tuple(self.parts))}
        if self.is_get or not self.pieces:
            return {}
        kinds = {kind for kind, _ in self.pieces}
        declared = next((value for name, value in self.headers if name.lower() == "content-type"), None)
        if kinds == {"pair"} and (declared or _URLENCODED).lower().startswith(_URLENCODED):
            pairs = [text.partition("=") for _, text in self.pieces]
            return {"data": [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]}
        if kinds == {"json"} and declared is None and "content-type" not in map(str.lower, self.removed):
            value = _plain_json("".join(text for _, text in self.pieces))
            if value is not None:
                del self.defaults["Content-Type"]
                return {"json": value}
        self.defaults.setdefault("Content-Type", _URLENCODED)
        if "file" in kinds:
            if len(self.pieces) > 1:
                raise ValueError("a body of several pieces, one of them a file: write out what is in the file")
            return {"data": FilePath(self.pieces[0][1])}
        text = ""
        for piece in self.pieces:
            text += ("&" if text and piece[0] != "json" else "") + _sent(piece)
        return {"body": to_bytes(text)}

    def _cookies(self) -> dict[str, Any]:
        own = [value for name, value in self.headers if name.lower() == "cookie"]
        text = "; ".join(own or self.cookies)
        pairs = [pair.strip().partition("=") for pair in text.split(";") if pair.strip()]
        cookies = {name: value for name, _, value in pairs}
        if len(cookies) == len(pairs) and all(name and equals for name, equals, _ in pairs):
            self.headers = [header for header in self.headers if header[0].lower() != "cookie"]
            return {"cookies": cookies or None}
        self.defaults["Cookie"] = text
        return {}


_SEVERAL = re.compile(r"(?<!\\)(?:\{[^{},]*,[^{}]*\}|\[(?:\d+-\d+|[A-Za-z]-[A-Za-z])(?::\d+)?\])").search


def _sent(piece: tuple[str, str]) -> str:
    kind, text = piece
    if kind == "file":
        raise ValueError(f"{shown(text)} would have to be read into the URL: write out what is in it")
    return text


def _encoded(text: str) -> tuple[str, str]:
    """`--data-urlencode`: `name=content`, `=content` or `content`; the name is encoded already."""
    name, equals, content = text.partition("=")
    if not equals and "@" in text:
        raise ValueError(f"--data-urlencode {shown(text)} encodes a file: write out what is in it")
    if not equals:
        name, content = "", text
    encoded = quote_plus(to_bytes(content))
    return ("pair", f"{name}={encoded}") if name else ("raw", encoded)


def _plain_json(text: str) -> Any:
    """The value, where writing it again gives the same text but for blanks; else None."""
    try:
        value = msgspec.json.decode(text)
        is_plain = msgspec.json.encode(value) == msgspec.json.format(text, indent=-1).encode()
    except (msgspec.MsgspecError, ValueError):
        return None
    return value if is_plain else None


def _path(text: str) -> str:
    if text in ("-", ".", ""):
        raise ValueError("the command reads standard input: write out what comes from there, or name a file")
    return text


def _value(word: str) -> str | bytes:
    return word if is_text(word) else to_bytes(word)


# -- forms -------------------------------------------------------------------------------------------------------------

_QUOTED = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL).match


def _parts(text: str) -> Iterator[Part]:
    """`-F`: `name=text` or `name=@file,file`, each with `;type=` and `;filename=`."""
    name, equals, content = text.partition("=")
    if not equals:
        raise ValueError(f"-F {shown(text)} is not name=content")
    if content.startswith(("<", "(")) or (not name and content == ")"):
        raise ValueError(f"-F {shown(text)}: a field from a file or of several parts cannot be stored; write it out")
    is_file = content.startswith("@")
    at, ends = (0, ";,") if is_file else (-1, ";")
    while at < len(content):
        value, at = _word(content, at + 1, ends)
        options: dict[str, str] = {}
        while content[at : at + 1] == ";":
            at = _part_option(content, at, ends, options)
        yield Part(
            to_text(name),
            FilePath(_path(value)) if is_file else _value(value),
            to_text(options["filename"]) if "filename" in options else None,
            to_text(options["type"]) if "type" in options else None,
        )


def _part_option(content: str, start: int, ends: str, options: dict[str, str]) -> int:
    word, at = _word(content, start + 1, ends)
    name, _, value = word.partition("=")
    if name == "type":
        options["type"] = value.strip()
    elif name == "filename":
        options["filename"], at = _word(content, content.index("=", start) + 1, ends)
    elif name in ("headers", "encoder"):
        raise ValueError(f"-F …;{shown(word)}: a part has a type and a file name, and no {name}")
    elif next(reversed(options), "") == "type":
        options["type"] += content[start:at].rstrip()  # a parameter of the type
    return at


def _word(text: str, at: int, ends: str) -> tuple[str, int]:
    while text[at : at + 1].isspace():
        at += 1
    quoted = _QUOTED(text, at)
    start = quoted.end() if quoted else at
    end = min((i for i in (text.find(mark, start) for mark in ends) if i >= 0), default=len(text))
    return (re.sub(r'\\([\\"])', r"\1", quoted[1]) if quoted else text[at:end].rstrip()), end


# -- tables ------------------------------------------------------------------------------------------------------------


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a number") from None


def _set(command: _Command, name: str, value: Any) -> None:
    setattr(command, name, value)


def _redirects(command: _Command, text: str) -> None:
    limit = int(_number(text))
    command.others["max_redirects"] = limit if limit >= 0 else None  # -1 is curl's "no limit"


_WITH_VALUE: Final[Mapping[str, Callable[[_Command, str], None]]] = {
    "connect-timeout": lambda command, text: _set(command, "connect_seconds", _number(text)),
    "cookie": _Command.add_cookies,
    "data": _Command.add_data,
    "data-ascii": _Command.add_data,
    "data-binary": _Command.add_data,
    "data-raw": lambda command, text: command.pieces.append(("raw", text)),
    "data-urlencode": lambda command, text: command.pieces.append(_encoded(text)),
    "form": lambda command, text: command.parts.extend(_parts(text)),
    "form-string": _Command.add_form_string,
    "header": _Command.add_header,
    "json": _Command.add_json,
    "max-filesize": lambda command, text: command.others.update(max_body_bytes=int(_number(text)) or None),
    "max-redirs": _redirects,
    "max-time": lambda command, text: _set(command, "total_seconds", _number(text) or None),
    "oauth2-bearer": lambda command, text: command.set_default("Authorization", f"Bearer {text}"),
    "proxy": _Command.set_proxy,
    "proxy-user": _Command.set_proxy_login,
    "proxy1.0": _Command.set_proxy,
    "range": lambda command, text: command.set_default("Range", f"bytes={text}"),
    "referer": lambda command, text: command.set_default("Referer", text.removesuffix(";auto")),
    "request": lambda command, text: _set(command, "method", text),
    "socks4": lambda command, text: command.set_proxy(text, "socks4"),
    "socks4a": lambda command, text: command.set_proxy(text, "socks4a"),
    "socks5": lambda command, text: command.set_proxy(text, "socks5"),
    "socks5-hostname": lambda command, text: command.set_proxy(text, "socks5h"),
    "upload-file": lambda command, text: _set(command, "upload", _path(text)),
    "url": _Command.add_url,
    "url-query": lambda command, text: command.query.append(text[1:] if text.startswith("+") else _encoded(text)[1]),
    "user": _Command.set_login,
    "user-agent": lambda command, text: command.set_default("User-Agent", text),
}
_FLAGS: Final[Mapping[str, Callable[[_Command, bool], None]]] = {
    "get": lambda command, is_on: _set(command, "is_get", is_on),
    "globoff": lambda command, is_on: _set(command, "is_globless", is_on),
    "head": lambda command, is_on: _set(command, "is_head", is_on),
    "insecure": lambda command, is_on: command.others.update(tls=False if is_on else None),
    "location": lambda command, is_on: command.others.update(allow_redirects=None if is_on else False),
    "path-as-is": lambda command, is_on: command.others.update(encoded=True if is_on else None),
}
