"""A form's entries as the arguments of a `Request` (sections 4.10.22.3 and following of the HTML Standard)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

from crawler import encoding as encodings
from crawler.body import FilePath, Multipart, Part
from crawler.form.entries import NO_FILE

if TYPE_CHECKING:
    from crawler.form.entries import Entry

__all__ = ["charset_of", "encoding_of", "submission"]

_URLENCODED: Final = "application/x-www-form-urlencoded"
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_NAMES: Final = {
    "cp866": "IBM866",
    "cp874": "windows-874",
    "cp932": "Shift_JIS",
    "cp949": "EUC-KR",
    "big5hkscs": "Big5",
    "euc_jp": "EUC-JP",
    "gb18030": "gb18030",
    "iso2022_jp_ext": "ISO-2022-JP",
    "mac-roman": "macintosh",
    "mac-cyrillic": "x-mac-cyrillic",
}
"""The names of the Encoding Standard, where they are not Python's in capitals."""


def encoding_of(accept_charset: str, page: str) -> str:
    """The codec that a form is encoded in: the first of its own that is known, else the page's; UTF-16 is not sent
    (Encoding Standard, "get an output encoding")."""
    own = (encodings.label_to_codec(label) for label in accept_charset.split())
    codec = next((codec for codec in own if codec is not None), page)
    return "utf-8" if codec.startswith("utf-16") else codec


def charset_of(codec: str) -> str:
    """What a hidden field `_charset_` says of it."""
    if codec.startswith("cp125"):
        return f"windows-{codec[2:]}"
    return _NAMES.get(codec) or codec.upper().replace("ISO8859", "ISO-8859")


def submission(url: str, method: str, enctype: str, entries: list[Entry], codec: str) -> dict[str, Any]:
    """Arguments of `Request`. Raises ValueError for a file where the encoding has no place for one."""
    if method != "post":
        return {"url": f"{url.partition('?')[0]}?{_urlencoded(_texts(entries), codec)}"}
    arguments: dict[str, Any] = {"url": url, "method": "POST"}
    if enctype == "multipart/form-data":
        arguments["data"] = Multipart(tuple(_part(name, value, codec) for name, value in entries))
    elif enctype == "text/plain":
        lines = "".join(f"{name}={value}\r\n" for name, value in _texts(entries))
        arguments |= {"body": lines.encode(codec, "xmlcharrefreplace"), "headers": [("Content-Type", enctype)]}
    elif codec == "utf-8":
        arguments["data"] = _texts(entries)
    else:
        body = _urlencoded(_texts(entries), codec).encode()
        arguments |= {"body": body, "headers": [("Content-Type", _URLENCODED)]}
    return arguments


def _texts(entries: list[Entry]) -> list[tuple[str, str]]:
    for name, value in entries:
        if isinstance(value, FilePath) and value is not NO_FILE:
            raise ValueError(
                f"the form is not multipart/form-data: of the file in {name!r} only its name would be sent"
            )
    return [(_lines(name), "" if isinstance(value, FilePath) else _lines(value)) for name, value in entries]


def _lines(text: str) -> str:
    return _LINE_BREAK.sub("\r\n", text)


def _urlencoded(pairs: list[tuple[str, str]], codec: str) -> str:
    """The URL Standard's serializer; a character that the encoding lacks is sent as `&#NNN;`."""

    def encoded(text: str) -> str:
        return quote_plus(text.encode(codec, "xmlcharrefreplace"), safe="*").replace("~", "%7E")

    return "&".join(f"{encoded(name)}={encoded(value)}" for name, value in pairs)


def _part(name: str, value: str | FilePath, codec: str) -> Part:
    name = _lines(name)
    if value is NO_FILE:
        return Part(name, b"", filename="", content_type="application/octet-stream")
    if isinstance(value, FilePath):
        return Part(name, value)
    if codec == "utf-8":
        return Part(name, _lines(value))
    body = _lines(value).encode(codec, "xmlcharrefreplace")
    return Part(name, body, content_type=f"text/plain; charset={charset_of(codec)}")
