"""Which character encoding a body is in, and its text.

The order, first answer wins: byte order mark, `charset` of the Content-Type header, `<meta>` or XML declaration in the
first 1024 bytes, valid UTF-8, windows-1252. That is the HTML Standard's sniffing algorithm (section 13.2.3.2) with its
last two steps, frequency analysis and a default by locale, replaced by the only guess that is nearly always right: text
that is not UTF-8 hardly ever passes for it.

Names come from remote servers, so they are looked up in the Encoding Standard's table of labels and nowhere else.
Asking Python's `codecs` would reach `zip`, `rot13`, `utf-7` and `unicode_escape`, which no browser knows and of which
some make a large text of a small body. What the table leaves out counts as not declared:

- the labels of the standard's `replacement` encoding (`iso-2022-kr`, `hz-gb-2312`, ...). A browser shows one U+FFFD for
  such a page, to keep its scripts from running; nothing runs here, and its markup is ASCII, so the next rule decides;
- anything the standard does not list.

Python has a codec for every encoding of the standard but `x-user-defined`, which is read as windows-1252 wherever it
stands, as the standard does for `<meta>`. Where tables differ, the single-byte ones are repaired here (`_table`) and
EUC-JP gets a second chance (`_WIDER`). Left as Python has them: byte 0x80 of GBK (the standard: a euro sign), and rare
characters of Big5, ISO-2022-JP and Shift_JIS.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ASCII_BASED", "CODECS", "charset_from_content_type", "decode", "detect", "label_to_codec", "query_in"]

# Encoding Standard, section 4.2, by the name of the Python codec that decodes it. GBK is decoded by gb18030's decoder,
# iso-8859-8-i differs from -8 in direction only; Big5, Shift_JIS and EUC-KR mean Hong Kong's and Microsoft's supersets.
_TABLE: Final = {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
    "cp866": "866 cp866 csibm866 ibm866",
    "iso8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "iso8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e "
    "iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7 "
    "iso_8859-7:1987 sun_eu_greek",
    "iso8859-8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8 "
    "iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "iso8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859-14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso8859-16": "iso-8859-16",
    "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8-u": "koi8-ru koi8-u",
    "mac-roman": "csmacintosh mac macintosh x-mac-roman",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 "
    "iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252 x-user-defined",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 "
    "windows-1254 x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc_jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
    "iso2022_jp_ext": "csiso2022jp iso-2022-jp",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 "
    "windows-949",
    "utf-16-be": "unicodefffe utf-16be",
    "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
}
_LABELS: Final = {label: codec for codec, labels in _TABLE.items() for label in labels.split()}

CODECS: Final = frozenset(_TABLE)
"""Every name `detect` and `label_to_codec` can give; each is a codec that only ever maps bytes to characters."""

_MULTIBYTE: Final = frozenset(
    {"utf-8", "utf-16-be", "utf-16-le", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp_ext", "cp932", "cp949"}
)
ASCII_BASED: Final = CODECS - _MULTIBYTE | {"utf-8"}
"""Those in which every ASCII character is its byte, whatever stands before it."""

# NEC's row 13 (circled digits and the like) is in the standard's EUC-JP and on many pages, but not in Python's euc_jp.
_WIDER: Final = {"euc_jp": "euc_jis_2004"}
_NEWER: Final = {"koi8-u": {0xAE: "\u045e", 0xBE: "\u040e"}, "cp1255": {0xCA: "\u05ba"}}

_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))
_BOM_BYTES: Final = frozenset(bom[:1] for bom, _ in _BOMS)
_PRESCAN_BYTES: Final = 1024  # HTML Standard 13.2.3.2: authors must declare within the first 1024 bytes

_NO_MARKUP: Final = frozenset({"text/plain", "text/css", "text/csv", "text/markdown", "text/vtt", "text/calendar"})
_LONGEST_CACHED: Final = 256


def detect(body: bytes, content_type: str | None = None) -> str:
    """The name of the Python codec that `body` is in: one of `CODECS`, `"cp1252"` where nothing else fits.

    `content_type` is the value of the header as it came. `<meta>` is looked for unless the type is one that cannot have
    it: plain text, style sheets, scripts, JSON, and XML, which has its own declaration (XHTML: that, then `<meta>`).
    JSON without a charset is UTF-8 (RFC 8259, section 8.1). A header that names no encoding of the standard counts as
    silent. Never raises.
    """
    if body[:1] in _BOM_BYTES:
        for bom, codec in _BOMS:
            if body.startswith(bom):
                return codec
    kind = "html"
    if content_type is not None:
        header = _header if len(content_type) <= _LONGEST_CACHED else _header.__wrapped__
        declared, kind = header(content_type)
        if declared is not None:
            return declared
    if kind == "json":
        return "utf-8"
    return _declared_inside(body[:_PRESCAN_BYTES], kind) or ("utf-8" if _is_utf8(body) else "cp1252")


def decode(body: bytes, encoding: str) -> str:
    """The text of `body`, without a byte order mark; each sequence that does not decode becomes U+FFFD.

    `encoding` is one of `CODECS` or a label of the Encoding Standard; anything else is read as UTF-8. The single-byte
    encodings are decoded by the standard's tables: bytes 0x80-0x9F that Python leaves undefined in the windows code
    pages, as 0x81 in windows-1252, are the C1 controls of the same number. Never raises.
    """
    codec = encoding if encoding in CODECS else label_to_codec(encoding) or "utf-8"
    if codec not in _MULTIBYTE:
        return codecs.charmap_decode(body, "replace", _table(codec))[0]
    text = body.decode(codec, "replace")
    if codec in _WIDER and "\ufffd" in text:
        wider = body.decode(_WIDER[codec], "replace")
        text = min(text, wider, key=lambda candidate: candidate.count("\ufffd"))
    return text.removeprefix("\ufeff")


def query_in(text: str, encoding: str) -> str:
    """The query of a link on a page in `encoding` (one of `CODECS`), in ASCII, as browsers send it: each character in
    the page's own encoding and then percent-encoded, one that the encoding lacks as `&#NNN;` (URL Standard, section
    1.3, "percent-encode after encoding"). UTF-16 is not sent (Encoding Standard, "get an output encoding"). `text` has
    no lone surrogates."""
    codec = "utf-8" if encoding.startswith("utf-16") else encoding
    if codec in _MULTIBYTE:
        octets = text.encode(codec, _LACKING)
    else:
        octets = codecs.charmap_encode(text, _LACKING, _octets(codec))[0]
    return octets.decode("latin-1").translate(_QUERY)


# The "special-query percent-encode set" of the URL Standard, and all that is not ASCII.
_QUERY: Final = {octet: f"%{octet:02X}" for octet in (*range(0x21), *b"\"#'<>", *range(0x7F, 0x100))}
_LACKING: Final = "crawler.query"


def _as_reference(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(f"%26%23{ord(character)}%3B" for character in lacking), error.end


codecs.register_error(_LACKING, _as_reference)


def label_to_codec(label: str) -> str | None:
    """The Python codec for a label of the Encoding Standard, None for any other name.

    Case and surrounding ASCII whitespace do not matter: `label_to_codec(" Latin1 ") == "cp1252"`.
    """
    # Only ASCII letters are caseless here: `lower()` alone would make "k" of the Kelvin sign.
    return _LABELS.get(label.strip("\t\n\f\r ").lower()) if label.isascii() else None


def charset_from_content_type(value: str) -> str | None:
    """The `charset` parameter of a Content-Type header as written, without quotes; None where there is none.

    Takes what servers send: any case, blanks around `=`, single or unbalanced quotes, a missing semicolon. The first
    one that is not empty wins (WHATWG MIME Sniffing, section 4.4).
    """
    for part in value.replace(",", ";").split(";"):
        name, equals, label = part.partition("=")
        words = name.split()
        if equals and words and words[-1].lower() == "charset":
            label = label.strip().strip("\"'").strip()
            if label:
                return label.split(None, 1)[0]
    return None


@lru_cache(maxsize=1024)
def _header(content_type: str) -> tuple[str | None, str]:
    label = charset_from_content_type(content_type)
    codec = None if label is None else label_to_codec(label)
    words = content_type.replace(",", ";").partition(";")[0].split()
    essence = words[0].lower() if words else ""
    if essence == "application/xhtml+xml":
        return codec, "xhtml"
    if essence.endswith(("+xml", "/xml")):
        return codec, "xml"
    if essence.endswith(("json", "/jsonl")):
        return codec, "json"
    if essence in _NO_MARKUP or essence.endswith(("javascript", "ecmascript")):
        return codec, "text"
    return codec, "html"


def _declared_inside(head: bytes, kind: str) -> str | None:
    if kind == "text":
        return None
    if kind in ("xml", "xhtml") and (codec := _utf16_xml(head) or _xml_declaration(head)):
        return codec
    return None if kind == "xml" else _prescan(head)


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@cache
def _table(codec: str) -> str:
    characters = list(bytes(range(256)).decode(codec, "replace"))
    for byte in range(0x80, 0xA0):
        if characters[byte] == "\ufffd":
            characters[byte] = chr(byte)
    for byte, character in _NEWER.get(codec, {}).items():
        characters[byte] = character
    return "".join(characters)


@cache
def _octets(codec: str) -> Any:  # an `EncodingMap`, which has no name in Python
    return codecs.charmap_build(_table(codec))


# -- prescan (HTML Standard 13.2.3.2) ---------------------------------------------------------------------------------
#
# The functions below keep to the standard's steps. Wherever these say that the user agent "runs out of bytes", Python
# says so by IndexError (no byte at that index) or ValueError (`bytes.index` found nothing), which end the prescan:
# a `<meta>` that is cut at byte 1024 declares nothing. The patterns are runs of one class of bytes, which never have to
# give one back.

_WHITESPACE: Final = b"\t\n\f\r "
_META = re.compile(rb"<meta[\t\n\f\r /]", re.IGNORECASE).match
_MARKUP = re.compile(rb"<[!/?A-Za-z]").search
_TAG = re.compile(rb"</?[A-Za-z]").match
_TAG_WITHOUT_QUOTES = re.compile(rb"</?[A-Za-z][^\"'>]*+>").match
_TAG_NAME = re.compile(rb"[^\t\n\f\r >]*").match
_BLANKS = re.compile(rb"[\t\n\f\r ]*").match
_BLANKS_AND_SLASHES = re.compile(rb"[\t\n\f\r /]*").match
_ATTRIBUTE_NAME = re.compile(rb"[^\t\n\f\r />][^\t\n\f\r />=]*").match
_UNQUOTED = re.compile(rb"[^\t\n\f\r >]*").match
_NOT_IN_LABEL = re.compile(rb"[\t\n\f\r ;]").split
_XML_ENCODING = re.compile(rb"encoding[\0- ]*=[\0- ]*(?:\"([^\"\0- ]*)\"|'([^'\0- ]*)')").match


def _prescan(head: bytes) -> str | None:
    if codec := _utf16_xml(head):
        return codec
    codec = None
    if b"charset" in head.lower():  # both forms of the declaration need the word; most pages without one stop here
        with suppress(IndexError, ValueError):
            codec = _first_meta(head)
    return codec or _xml_declaration(head)


def _utf16_xml(head: bytes) -> str | None:
    if head.startswith(b"<\0?\0x\0"):
        return "utf-16-le"
    return "utf-16-be" if head.startswith(b"\0<\0?\0x") else None


def _first_meta(head: bytes) -> str | None:
    at = 0
    while markup := _MARKUP(head, at):
        at = markup.start()
        if head.startswith(b"<!--", at):
            at = head.index(b"-->", at + 2) + 2  # the dashes may be those of the opening: "<!-->" is a comment
        elif _META(head, at):
            codec, at = _meta(head, at + len(b"<meta"))
            if codec is not None:
                return codec
        elif simple := _TAG_WITHOUT_QUOTES(head, at):
            at = simple.end() - 1
        elif _TAG(head, at):
            at = _end(_TAG_NAME, head, at)
            name = b"?"
            while name:
                name, _, at = _attribute(head, at)
        else:
            at = head.index(b">", at)
        at += 1
    return None


def _meta(head: bytes, at: int) -> tuple[str | None, int]:
    seen: dict[bytes, bytes] = {}
    codec: str | None = None
    needs_pragma: bool | None = None
    while True:
        name, value, at = _attribute(head, at)
        if not name:
            break
        if name in seen:
            continue
        seen[name] = value
        if name == b"charset":
            codec, needs_pragma = label_to_codec(value.decode("latin-1")), False
        elif name == b"content" and needs_pragma is None and (found := _charset_in_content(value)):
            codec, needs_pragma = found, True
    if needs_pragma and seen.get(b"http-equiv") != b"content-type":
        codec = None
    return _readable(codec), at


def _attribute(head: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Name, value (both in lower case) and the position after them; an empty name at the end of the tag."""
    at = _end(_BLANKS_AND_SLASHES, head, at)
    if head[at] == ord(">"):
        return b"", b"", at
    end = _end(_ATTRIBUTE_NAME, head, at)
    name = head[at:end].lower()
    at = _end(_BLANKS, head, end)
    if head[at] != ord("="):
        return name, b"", at
    at = _end(_BLANKS, head, at + 1)
    if head[at] in b"\"'":
        end = head.index(head[at], at + 1)
        return name, head[at + 1 : end].lower(), end + 1
    end = _end(_UNQUOTED, head, at)
    return name, head[at:end].lower(), end


def _end(run: Callable[[bytes, int], re.Match[bytes] | None], head: bytes, at: int) -> int:
    found = run(head, at)
    return found.end() if found else at


def _charset_in_content(value: bytes) -> str | None:
    """HTML Standard 2.4.4, "extracting a character encoding from a meta element"."""
    at = 0
    while (at := value.find(b"charset", at)) >= 0:
        at += len(b"charset")
        rest = value[at:].lstrip(_WHITESPACE)
        if not rest.startswith(b"="):
            continue
        rest = rest[1:].lstrip(_WHITESPACE)
        if rest[:1] in (b'"', b"'"):
            label, closed, _ = rest[1:].partition(rest[:1])
            return label_to_codec(label.decode("latin-1")) if closed else None
        return label_to_codec(_NOT_IN_LABEL(rest, 1)[0].decode("latin-1"))
    return None


def _xml_declaration(head: bytes) -> str | None:
    if not head.startswith(b"<?xml"):
        return None
    at = head.find(b"encoding", 0, max(head.find(b">"), 0))
    found = _XML_ENCODING(head, at) if at >= 0 else None
    return _readable(label_to_codec((found[1] or found[2] or b"").decode("latin-1"))) if found else None


def _readable(codec: str | None) -> str | None:
    """A declaration that could be read byte by byte is not in UTF-16, whatever it says."""
    return "utf-8" if codec in ("utf-16-be", "utf-16-le") else codec
