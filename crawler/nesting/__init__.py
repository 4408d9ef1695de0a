"""How dear a page would be to parse, told before it is parsed.

HTML's rules for building a tree (13.2.6) look through the elements that are open, with nearly every tag: a page of
20,000 nested `<div>`, 100 KB, takes a parser four to seven seconds, and there is no way to stop it. Measured with
lexbor, what costs is:

- depth: each tag looks through what is open, so the time is the number of tags times their depth;
- options: each is looked at again with the next one of its list;
- attributes of one tag: each name is compared with those before it, so 20,000 take 1.5 seconds;
- formatting elements (`<b>`, `<font>`) that are not closed: they are opened again in every paragraph, so 20 KB of
  `<b 1><b 2>` and then `<p>` make four million elements, which are 1.2 GB.

`is_plain` is for every page, and looks at nothing but bytes: a page of few tags is cheap however they nest.
`complexity` is for the others: it follows the tags and what they leave open (`open_elements`), and errs to the dear
side alone. What it lets through is parsed within a second or two: see `_MOST_STEPS`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from crawler.errors import BodyError
from crawler.nesting.open_elements import OpenElements
from crawler.nesting.tokens import RAW, Tokens, attributes_in

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

    from crawler.nesting.tokens import Tag

__all__ = ["LONG_BYTES", "complexity", "is_plain", "is_small", "parse"]

# What a page that is not looked at more closely may have. The worst shapes of that size (tests/test_nesting.py) take
# lexbor 60 ms for the nesting, 40 for formatting elements and 30 for attributes; honest pages pass with 1,800 elements.
_FEW_TAGS: Final = 600
_MANY_TAGS: Final = 4096
_SHORT_BYTES: Final = 16 * 1024
LONG_BYTES: Final = 1024 * 1024  # of text alone: 10 ms
_REOPENED: Final = 100_000
_STEP_BYTES: Final = 1024
_SQUARES: Final = 10**8

_DEEPEST: Final = 1024
"""Browsers cut at 512. What is counted here errs to the dear side, by one for some tags that nest wrongly, so it is
twice that."""
_MOST_ATTRIBUTES: Final = 2048
"""Of one tag, 4 ms; pages have ten, and the widest seen 300."""
_MOST_SQUARES: Final = 10**8
"""Attributes of each tag that has many, squared and added: 0.3 s."""
_MOST_STEPS: Final = 10**8
"""Depth at each tag, added: what lexbor looks through, 1 s at 10 ns a step. A page of a million tags, which is one of
10 MB, may be 100 deep all over."""
_MOST_LOOKS: Final = 2 * 10**7
"""Elements looked at to check all this, 1 s; honest pages need three a tag."""
_MOST_REOPENED: Final = 500_000
"""Elements that formatting alone may add: 90 MB."""
_FEW_BYTES: Final = 512
_MERGED: Final = (b"html", b"body")

_FORMATTING = re.compile(
    rb"<(?:[bisuBISU]|[bB][iI][gG]|[cC][oO][dD][eE]|[eE][mM]|[fF][oO][nN][tT]|[nN][oO][bB][rR]|[sS][mM][aA][lL][lL]|"
    rb"[sS][tT][rR](?:[iI][kK][eE]|[oO][nN][gG])|[tT][tT])[\t\n\f\r /]"
).findall
_QUOTES: Final = (b'"', b"'")
_BLANKS: Final = 16


def is_small(body: bytes) -> bool:
    """Whether that is enough to know that a page can be parsed at once, in any encoding: no character is `<` where no
    byte is."""
    return len(body) <= _SHORT_BYTES and body.count(b"<") <= _FEW_TAGS


def is_plain(markup: bytes) -> bool:
    """Whether a page can be parsed at once: within 0.1 s in the worst case, which nearly every page passes. `markup` is
    in UTF-8, or any encoding that has ASCII as it is."""
    tags = markup.count(b"<")
    if tags > _MANY_TAGS or len(markup) > LONG_BYTES:
        return False
    if tags > _FEW_TAGS and len(_FORMATTING(markup)) * tags > _REOPENED:
        return False
    return len(markup) <= _SHORT_BYTES or _has_short_tags(markup)


def _has_short_tags(markup: bytes) -> bool:
    """Whether no tag has room for very many attributes: there is a `>` every now and then that is not in quotes.

    What stands in quotes has the opening one as the last of its kind before it, and a `=` before that. So, beginning
    outside of quotes, there is no need to look at more."""
    find, rest, at = markup.find, _SQUARES, 0
    while len(markup) - at > _STEP_BYTES:
        end = find(b">", at + _STEP_BYTES)
        while end >= 0 and _may_be_quoted(markup, at, end):
            if (end - at) ** 2 > rest:
                return False
            end = find(b">", end + 1)
        rest -= ((len(markup) if end < 0 else end) - at) ** 2
        if rest < 0:
            return False
        if end < 0:
            break
        at = end + 1
    return True


def _may_be_quoted(markup: bytes, at: int, end: int) -> bool:
    for quote in _QUOTES:
        opening = markup.rfind(quote, at, end)
        if opening >= 0:
            before = markup[max(opening - _BLANKS, at) : opening].rstrip()
            if before.endswith(b"=") or (not before and opening - _BLANKS > at):
                return True
    return False


def parse(markup: bytes, name: str, *, known: bool = False) -> LexborHTMLParser:
    """The tree of a page. Raises `BodyError` with reason `html_too_complex`, which says what is wrong with the page of
    this name, unless it is `known` to be plain."""
    from selectolax.lexbor import LexborHTMLParser

    if not (known or is_plain(markup)):
        why = complexity(markup)
        if why is not None:
            raise BodyError(f"{name} is too complex to be parsed: {why}", reason="html_too_complex", retryable=False)
    return LexborHTMLParser(markup)


def complexity(markup: bytes) -> str | None:
    """What makes this page too dear to be parsed, in words; None for one that is not, be it as large as it may.

    Takes time in proportion to the number of tags: 3 µs each. `markup` is as for `is_plain`."""
    tokens, elements, attributes = Tokens(markup), OpenElements(markup), _Attributes()
    steps = 0
    while (tag := tokens.next()) is not None:
        if len(tag.attributes) > _FEW_BYTES or tag.name in _MERGED:
            attributes.count(tag)
        if tag.is_end:
            elements.end(tag)
        else:
            elements.start(tag)
            if tag.name in RAW:
                _pass_over(tag.name, tokens, elements)
            elif tag.name == b"plaintext" and not elements.may_hold_tags:
                break
        steps += elements.depth
        if tokens.is_ambiguous:
            if elements.may_hold_tags:
                return "what is text in it and what are tags cannot be told"
            tokens.is_ambiguous = False
        if elements.depth > _DEEPEST:
            return f"its elements nest more than {_DEEPEST:,} deep"
        if steps + elements.compared > _MOST_STEPS or elements.looked_at > _MOST_LOOKS:
            return "there are too many elements for how deep they nest"
        if elements.reopened > _MOST_REOPENED:
            return "too many formatting elements are left open"
        if attributes.most > _MOST_ATTRIBUTES or attributes.squares > _MOST_SQUARES:
            return f"a tag has {attributes.most:,} attributes"
    return None


class _Attributes:
    """Of the tags that have many. Those of all `<html>` and `<body>` tags come together in one element."""

    __slots__ = ("_merged", "most", "squares")

    def __init__(self) -> None:
        self.most = self.squares = self._merged = 0

    def count(self, tag: Tag) -> None:
        many = attributes_in(tag.attributes)
        self.squares += many * many
        if tag.name in _MERGED:
            self._merged += many
            many = self._merged
        self.most = max(self.most, many)


def _pass_over(name: bytes, tokens: Tokens, elements: OpenElements) -> None:
    """The text of an element of `RAW`. Where it may be tags, as in SVG, they count for what they open, but close
    nothing; and its end may not stand in one of them."""
    end = tokens.end_of(name)
    if elements.may_hold_tags:
        while (tag := tokens.next(end)) is not None:
            if not tag.is_end:
                elements.start_in_doubt(tag.name)
        tokens.is_ambiguous |= tokens.at != end
    tokens.at = end
