"""The tags of a page, as HTML's tokenizer finds them (HTML Standard, 13.2.5): one pass, whatever the page is made of.

What is text although it looks like tags (scripts, styles, titles, comments) is passed over. Whether `<style>` begins
such text depends on where it stands: not inside `<svg>`. That is for whoever builds the tree to say (`Tokens.end_of`).
"""

from __future__ import annotations

import re
import sys
from typing import Final, NamedTuple

__all__ = ["RAW", "Tag", "Tokens", "attributes_in"]

RAW: Final = frozenset({b"script", b"style", b"textarea", b"title", b"xmp", b"iframe", b"noembed", b"noframes"})
"""What stands in these is text up to their end tag."""

# Every run is of one class and never gives anything back, and the end may be missing: a tag that the page ends in
# matches to there, once.
_ATTRIBUTE: Final = (
    rb"[^\t\n\f\r />][^\t\n\f\r />=]*+"
    rb"(?:[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"[^\"]*+\"|'[^']*+'|[^\t\n\f\r >\"'][^\t\n\f\r >]*+)?+)?+"
)
_MARKUP = re.compile(
    rb"<(?:(/?)([A-Za-z][^\t\n\f\r />]*+)((?:[\t\n\f\r /]++|" + _ATTRIBUTE + rb")*+)(>?)|(!--|!\[CDATA\[|[!?]|/))"
).search
_EACH_ATTRIBUTE = re.compile(_ATTRIBUTE).finditer
_COMMENT_END = re.compile(rb"--!?>").search
_RAW_END = {name: re.compile(rb"</" + name + rb"[\t\n\f\r />]", re.IGNORECASE).search for name in RAW}
_SCRIPT = re.compile(rb"<(?:!--|(/?)script[\t\n\f\r />])|-->", re.IGNORECASE).search


class Tag(NamedTuple):
    name: bytes
    """In lower case."""
    is_end: bool
    attributes: bytes
    """As written, blanks and slashes included."""
    follows_text: bool

    @property
    def closes_itself(self) -> bool:
        """`/>`, which counts in SVG and MathML alone. The slash of `<a href=b/>` belongs to a value."""
        attributes = self.attributes
        if not attributes.endswith(b"/"):
            return False
        return max((found.end() for found in _EACH_ATTRIBUTE(attributes)), default=0) < len(attributes)


_tag = Tag._make


class Tokens:
    """`next()` until it is None."""

    __slots__ = ("_markup", "at", "is_ambiguous")

    def __init__(self, markup: bytes) -> None:
        self._markup = markup
        self.at = 0
        self.is_ambiguous = False
        """There was a section of CDATA with what may be tags, or an end in the middle of one: only the tree knows. To
        be taken back where there is no doubt."""

    def next(self, before: int = sys.maxsize) -> Tag | None:
        """None also where it would begin at this place or later: `at` is that place then."""
        markup, at = self._markup, self.at
        follows_text = False
        while at < before and (found := _MARKUP(markup, at)):
            start, end = found.span()
            if start >= before:
                break
            follows_text = follows_text or start > at
            slash, name, attributes, closed, other = found.groups()
            if name is not None:
                self.at = end if closed else len(markup)  # the page ends in it
                return _tag((name.lower(), bool(slash), attributes, follows_text)) if closed else None
            if other == b"!--":
                at = self._end_of_comment(end)
            elif other == b"![CDATA[":
                at = self._end_of_cdata(end)
            else:
                end = markup.find(b">", end)
                at = len(markup) if end < 0 else end + 1
        self.at = max(at, min(before, len(markup)))
        return None

    def end_of(self, name: bytes) -> int:
        """Where the text of this element of `RAW` ends, which begins at `at`: at its end tag."""
        if name == b"script":
            return self._end_of_script()
        end = _RAW_END[name](self._markup, self.at)
        return len(self._markup) if end is None else end.start()

    def _end_of_comment(self, at: int) -> int:
        if self._markup.startswith((b">", b"->"), at):
            return at + 1  # `<!-->` and `<!--->` are whole
        end = _COMMENT_END(self._markup, at)
        return len(self._markup) if end is None else end.end()

    def _end_of_cdata(self, at: int) -> int:
        """It ends at `]]>` in SVG and at `>` elsewhere. Where no tag stands between the two, it does not matter."""
        markup = self._markup
        tag, end = markup.find(b"<", at), markup.find(b">", at)
        if tag >= 0 and markup.find(b"]]>", at, tag) < 0:
            self.is_ambiguous = True
        return len(markup) if end < 0 else end + 1

    def _end_of_script(self) -> int:
        """The start of its end tag. `<!--` and then `<script` hide one (13.2.5.27 and what follows)."""
        is_escaped = is_doubly = False
        at = self.at
        while found := _SCRIPT(self._markup, at):
            text, at = found[0], found.end()
            if text == b"<!--":
                is_escaped, at = True, at - 2  # `<!-->` ends it, too
            elif text == b"-->":
                is_escaped = is_doubly = False
            else:
                at -= 1
                if not found[1]:
                    is_doubly = is_doubly or is_escaped
                elif not is_doubly:
                    return found.start()
                else:
                    is_doubly = False
        return len(self._markup)


def attributes_in(written: bytes) -> int:
    """How many attributes this is, repeated ones included."""
    return sum(1 for _ in _EACH_ATTRIBUTE(written))
