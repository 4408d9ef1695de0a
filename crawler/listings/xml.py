"""XML as it comes, in pieces of any size, from sites that nobody vouches for.

Expat does the reading. What it would let a document do to its reader, this file does not:

- A document type declaration is refused where it begins, so there are no entities but the five of XML, nothing is
  expanded and nothing outside the document is ever asked for.
- Elements stand at most 100 deep, a tag or a comment has at most some 256 KiB, an element's text is kept up to a limit,
  and of names there are at most 10,000: expat remembers each, and reads a tag that has not ended from its beginning
  with each piece.

What it would refuse, and readers of sitemaps and feeds meet every day, is mended on the way: blank lines before the
declaration, bytes that the encoding does not have (U+FFFD), control characters (dropped), encodings that expat has no
table for, and prefixes that nobody declared (they mean what they usually mean).
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final, Protocol
from xml.parsers import expat

from crawler import encoding as encodings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_DEPTH", "XmlError", "XmlHandler", "XmlReader"]

MAX_DEPTH: Final = 100
_MAX_NAMES: Final = 10_000
_MAX_PREFIXES: Final = 100
_MAX_TOKEN_BYTES: Final = 256 * 1024
_PIECE_BYTES: Final = 64 * 1024
"""Given to expat at once."""
_HEAD_BYTES: Final = 1024
"""Where an encoding may be declared, as in HTML."""
_BLANK: Final = b" \t\r\n"
_BOM: Final = codecs.BOM_UTF8
_FORBIDDEN: Final = bytes(code for code in range(0x20) if code not in b"\t\n\r")
"""No XML 1.0 document may hold them (section 2.2). In UTF-8 each is a byte of its own."""


class XmlError(ValueError):
    """Why reading ended: the document is not XML, or not XML that is read here. `line` counts from 1."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line


class XmlHandler(Protocol):
    """What a reader tells. Names are `local`, or `prefix:local` with the reader's own prefix for the namespace; names
    of attributes are as written. Text is what stands directly before the tag, up to the limit."""

    def start(self, name: str, attributes: Mapping[str, str], text: str) -> None: ...

    def end(self, name: str, text: str) -> None: ...


class XmlReader:
    """`feed` it what comes, `close` it at the end; the handler is told as far as the document can be read.

    `namespaces` gives the prefix under which the handler knows a namespace, `""` for none. `charset` is that of the
    Content-Type header, which stands above what the document says (RFC 7303, section 3.2). `max_text`: characters of
    one element's text that are kept, the rest is cut off. Both methods raise `XmlError`, once; what follows is ignored.
    """

    def __init__(
        self,
        handler: XmlHandler,
        namespaces: Mapping[str, str],
        *,
        charset: str | None = None,
        max_text: int = 64 * 1024,
    ) -> None:
        self._handler = handler
        self._namespaces = namespaces
        self._charset = charset
        self._max_text = max_text
        self._head = b""
        self._lines_before = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._ended = False
        self._fed = 0
        self._text: list[str] = []
        self._room = max_text
        self._depth = 0
        self._known: set[str] = set()
        self._scopes: list[tuple[int, dict[str, str], dict[str, str]]] = []
        """Where prefixes were declared: the depth, and what was in force outside."""
        self._prefixes: dict[str, str] = {}
        """Of the document, and what they are called here."""
        self._names: dict[str, str] = {}
        """As written, and as the handler gets them, under these prefixes."""
        self._parser = self._make_parser()

    def _make_parser(self) -> expat.XMLParserType:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._add_text
        return parser

    @property
    def line(self) -> int:
        """Where reading is."""
        return self._parser.CurrentLineNumber + self._lines_before

    def feed(self, data: bytes) -> None:
        if self._ended:
            return
        if self._decoder is None:
            data = self._begin(data, final=False)
        if data:
            self._decode(data, final=False)

    def close(self) -> None:
        """Nothing more comes. Raises `XmlError` where something should: an element is open, or there was none."""
        if self._ended:
            return
        data = self._begin(b"", final=True) if self._decoder is None else b""
        self._decode(data, final=True)
        self._ended = True

    # -- bytes to text -----------------------------------------------------------------------------------------------

    def _begin(self, data: bytes, *, final: bool) -> bytes:
        """What can be decoded, once the encoding is known; empty until then."""
        if not self._head:
            data = self._without_blanks(data)
        head = self._head = self._head + data
        if len(head) < _HEAD_BYTES and b">" not in head and not final:
            return b""
        kind = "application/xml" if self._charset is None else f"application/xml; charset={self._charset}"
        certain = head[:_HEAD_BYTES].rstrip(bytes(range(0x80, 0x100)))  # a character may be cut
        codec = encodings.detect(certain or head[:4], kind)
        self._decoder = codecs.getincrementaldecoder(codec)("replace")
        self._head = b""
        return head

    def _without_blanks(self, data: bytes) -> bytes:
        kept = data.lstrip(_BLANK).removeprefix(_BOM).lstrip(_BLANK)
        self._lines_before += data[: len(data) - len(kept)].count(b"\n")
        return kept

    def _decode(self, data: bytes, *, final: bool) -> None:
        assert self._decoder is not None
        text = self._decoder.decode(data, final)
        if not self._fed:
            text = text.removeprefix("\ufeff")
        self._parse(text.encode("utf-8", "replace").translate(None, _FORBIDDEN), final=final)

    # -- text to events ----------------------------------------------------------------------------------------------

    def _parse(self, data: bytes, *, final: bool) -> None:
        try:
            for start in range(0, len(data), _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                self._parser.Parse(piece, False)
                self._fed += len(piece)
                if self._fed - self._parser.CurrentByteIndex > _MAX_TOKEN_BYTES:
                    self._fail(f"a tag or comment of more than {_MAX_TOKEN_BYTES // 1024} KiB")
            if final:
                self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            self._ended = True
            raise XmlError(expat.ErrorString(error.code), error.lineno + self._lines_before) from None

    def _fail(self, problem: str) -> None:
        self._ended = True
        raise XmlError(problem, self.line)

    def _refuse_doctype(self, name: str, *_: object) -> None:
        if name.lower() == "html":
            self._fail("this is HTML")
        self._fail("it has a document type declaration, which is refused")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"elements stand more than {MAX_DEPTH} deep")
        if attributes:
            if not self._known.issuperset(attributes):
                self._learn(*attributes)
            if any(key.startswith("xmlns") for key in attributes):
                self._declare(attributes)
        shown = self._names.get(name) or self._name(name)
        self._handler.start(shown, attributes, self._take_text())

    def _end(self, name: str) -> None:
        shown = self._names.get(name) or self._name(name)
        self._handler.end(shown, self._take_text())
        if self._scopes and self._scopes[-1][0] == self._depth:
            _, self._prefixes, self._names = self._scopes.pop()
        self._depth -= 1

    def _add_text(self, data: str) -> None:
        if self._room > 0:
            self._text.append(data[: self._room])
            self._room -= len(data)

    def _take_text(self) -> str:
        if not self._text:
            return ""
        text = self._text[0] if len(self._text) == 1 else "".join(self._text)
        self._text.clear()
        self._room = self._max_text
        return text

    # -- names -------------------------------------------------------------------------------------------------------

    def _learn(self, *names: str) -> None:
        self._known.update(names)
        if len(self._known) > _MAX_NAMES:
            self._fail(f"it has more than {_MAX_NAMES} different names")

    def _name(self, name: str) -> str:
        self._learn(name)
        prefix, _, local = name.rpartition(":")
        known = self._prefixes.get(prefix, prefix)
        self._names[name] = shown = f"{known}:{local}" if known else local
        return shown

    def _declare(self, attributes: Mapping[str, str]) -> None:
        """Namespaces in XML 1.0, section 6.1: for this element and what is inside."""
        self._scopes.append((self._depth, self._prefixes, self._names))
        prefixes = dict(self._prefixes)
        for key, uri in attributes.items():
            if key == "xmlns" or key.startswith("xmlns:"):
                prefix = key[6:]
                prefixes[prefix] = self._namespaces.get(uri.strip(), prefix)
        if len(prefixes) > _MAX_PREFIXES:  # they are copied with each declaration
            self._fail(f"more than {_MAX_PREFIXES} prefixes are declared at one place")
        self._prefixes, self._names = prefixes, {}
