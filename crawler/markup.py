"""Whether a page can be parsed at once, told by looks at its bytes alone.

HTML's rules for building a tree (HTML Standard, 13.2.6) look through the elements that are open with nearly every tag,
so what a page costs depends on how its tags nest: 100 KB of 20,000 nested `<div>` take lexbor five seconds. Measured,
what costs is:

- depth: the time is the number of tags times their depth;
- options: each is looked at again with the next one of its list;
- attributes of one tag: each name is compared with those before it, so 20,000 take 1.5 seconds;
- formatting elements (`<b>`, `<font>`) that are not closed: they are opened again in every paragraph, so 20 KB of
  `<b 1><b 2>` and then `<p>` make four million elements, which are 1.2 GB.

To follow the tags would be a second parser, and each difference from the first a way in. So a page is let through here
if it has too few of them to cost much, however they nest: as if each start tag were open to the end, and each end tag
closed nothing. Of the others some are sure to end by themselves, which is enough for a thread; what is left,
`crawler.parsing` tries out.

A large page is seldom sure to end by its number of tags. Most of its elements are closed where anybody can see it,
`<td>text</td>` inside of `<tr></tr>`: they are taken out from the inside, and what is left decides how deep it can be
(`_without_closed`).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["TINY_BYTES", "is_bounded", "is_plain", "is_small"]

_FEW_TAGS: Final = 1000
"""Half of them formatting elements, that is 250,000 opened again."""
_MANY_TAGS: Final = 4500
"""Nested, that are ten million elements walked by, of up to 6 ns each: 0.06 s. Options, of 8 ns: 0.09 s."""
_MOST_TAGS: Final = 6500
"""Where half of them are end tags, 5200 are as good as 4500 without."""
_WALKED: Final = _MANY_TAGS**2 // 2
TINY_BYTES: Final = 2048
_SHORT_BYTES: Final = 16 * 1024
_LONG_BYTES: Final = 1024 * 1024
"""Of text alone: 10 ms."""
_REOPENED: Final = 250_000
_SQUARES: Final = 15 * 10**7
"""Of the bytes of tags: 0.025 s. One tag of `_SHORT_BYTES`, which nobody looks at, takes 0.015."""
_STEP_BYTES: Final = 2048
_LONG_STEP_BYTES: Final = 12_000
_LONGEST_TAG_BYTES: Final = 12_000
"""Of one that may still be plain: squared, it is all of `_SQUARES`."""

# The first letter and the next decide for most tags that they are none of these.
_FORMATTING = re.compile(
    rb"<[bisutecfnBISUTECFN](?=[>\t\n\f\r /iomtIOMT])(?:|[iI][gG]|[oO][dD][eE]|[mM]|[oO][nN][tT]|[oO][bB][rR]|"
    rb"[mM][aA][lL][lL]|[tT]|[tT][rR][iI][kK][eE]|[tT][rR][oO][nN][gG])(?:>|[\t\n\f\r /][^<>]*+>?+)"
).findall
_IS_WHOLE = re.compile(rb"<(?:[^<>\"']++|\"[^\"<>]*+\"|'[^'<>]*+')*+>").fullmatch
_BOUNDED_BYTES: Final = 4 * 1024 * 1024
"""To look through more takes a quarter of a second and more, at what a process sees to as well."""
_PIECE_BYTES: Final = 256 * 1024
"""To look for tags in it takes 0.02 s at most, in which the interpreter does nothing else, in no thread."""
_BOUNDED_TAGS: Final = 30_000
_BOUNDED_WALKED: Final = _BOUNDED_TAGS**2 // 2
"""Three seconds. Options: four."""
_BOUNDED_SQUARES: Final = 13 * _SQUARES
_BOUNDED_REOPENED: Final = 1_000_000
"""Elements, 300 bytes each."""
_PASSES: Final = 5
"""Of taking out what is closed, less one. Each leaves about half."""
_MARK: Final = b"\0"
_CLOSED = re.compile(
    rb"<(a|s(?:pan|trong|mall|u[bp]|)|t(?:[dhrt]|able|body|foot|head)|d(?:[dlt]|iv)|c(?:ode|ite)|li|p(?:re|)|em|"
    rb"b(?:ig|lockquote|)|h[1-6]|i|kbd|ol|ul?|var)"
    rb"(?:[\t\n\f\r ]++[a-zA-Z][a-zA-Z0-9_:-]*+(?:=(?:\"[^\"<>\0]*+\"|'[^'<>\0]*+'|[a-zA-Z0-9_./:#%-]++))?+)*+"
    rb"[\t\n\f\r ]*+>[^<]*+</\1[\t\n\f\r ]*+>"
).sub
_ALIKE: Final = 3
"""HTML opens no more of the same formatting element again ("Noah's Ark clause")."""
_QUOTES: Final = (b'"', b"'")
_BLANKS: Final = 16


def is_small(body: bytes) -> bool:
    """Whether that is enough to know that a page is plain, in any encoding: no character is `<` where no byte is."""
    return len(body) <= TINY_BYTES or (len(body) <= _SHORT_BYTES and body.count(b"<") <= _FEW_TAGS)


def is_plain(markup: bytes) -> bool:
    """Whether a page can be parsed at once: within 0.1 s in the worst case, which nearly every page passes. `markup` is
    in UTF-8, or any encoding that has ASCII as it is."""
    if len(markup) > _LONG_BYTES:
        return False
    # `count` looks at each byte; `replace` looks for the next one, which takes half as long where there are few.
    tags = len(markup) - len(markup.replace(b"<", b"", _MOST_TAGS + 1))
    if tags > _MANY_TAGS:
        if tags > _MOST_TAGS:
            return False
        ends = markup.count(b"</")
        if tags - ends > _MANY_TAGS or _walked(tags - ends, ends) > _WALKED:
            return False
    if tags > _FEW_TAGS and _most_reopened(markup, tags) > _REOPENED:
        return False
    return len(markup) <= _SHORT_BYTES or _has_short_tags(markup, _SQUARES)


def is_bounded(markup: bytes) -> bool:
    """Whether parsing ends by itself within some seconds in the worst case, and in bounded memory. `markup` as for
    `is_plain`."""
    if len(markup) > _BOUNDED_BYTES or not _has_short_tags(markup, _BOUNDED_SQUARES):
        return False
    tags = starts = markup.count(b"<")
    if tags > _BOUNDED_TAGS:
        if _options(markup) > _BOUNDED_TAGS:
            return False
        starts -= markup.count(b"</")
    left = markup
    for _ in range(_PASSES):
        if _walked(starts, tags - starts) <= _BOUNDED_WALKED and _most_reopened(left, tags) <= _BOUNDED_REOPENED:
            return True
        left = _without_closed(left)
        starts = left.count(b"<") - left.count(b"</")
    return False


def _walked(starts: int, others: int) -> int:
    """By how many elements the parser walks if no start tag is ever closed: each looks through those before it, and
    each other tag through all of them."""
    return starts * (starts + 2 * others) // 2


def _options(markup: bytes) -> int:
    """At most so many."""
    return markup.count(b"<o") + markup.count(b"<O")


def _without_closed(markup: bytes) -> bytes:
    """The page without elements that have no tag inside; those around them are left for the next time.

    Whatever the parser is at when it comes to one of them, it has no more elements open behind it than before. At text,
    both tags are what they seem, since the first has no quote or `<` in a place where it could be anything else, and
    the second closes the first. Within a tag, a comment or a script the first is none; if that ends before the second,
    the second closes nothing that was opened here. The mark in its place stands in no tag that is taken out later: what
    is put together by taking something out is not taken for a tag.

    The elements are those of plain text and tables: of no other namespace, and none that changes how tags are read.
    What lies across two pieces stays."""
    pieces = (markup[at : at + _PIECE_BYTES] for at in range(0, len(markup), _PIECE_BYTES))
    return b"".join([_CLOSED(_MARK, piece) for piece in pieces])


def _most_reopened(markup: bytes, tags: int) -> int:
    """How many elements formatting can add, if none of it is closed and each tag opens all of it again."""
    found = _FORMATTING(markup)
    each = set(found)
    odd = {tag for tag in each if not _IS_WHOLE(tag)}  # how each of those ends, nobody has looked
    return _ALIKE * (len(each) - len(odd) + (sum(tag in odd for tag in found) if odd else 0)) * tags


def _has_short_tags(markup: bytes, squares: int) -> bool:
    """Whether no tag has room for very many attributes: there is a `>` every now and then that is not in quotes, so
    from a `<` to the next of these is as long as a tag can be.

    What stands in quotes has the opening one as the last of its kind before it, and a `=` before that. So, beginning
    outside of quotes, there is no need to look at more."""
    # As seldom as leaves every look a tag of that length.
    step = max(_STEP_BYTES, min(_LONG_STEP_BYTES, 2 * squares // len(markup)))
    rest, at = squares, 0
    while len(markup) - at > step and rest >= 0:
        end = _end(markup, at, at + step, len(markup))
        if end - at <= 2 * step:
            rest -= (end - at) ** 2 // 4
        else:
            rest -= _longest_tag(markup, at, end) ** 2
        at = end + 1
    return rest >= 0


def _longest_tag(markup: bytes, at: int, stop: int) -> int:
    """The room of the longest tag between the two. A long text or script has none."""
    longest = 0
    while (start := markup.find(b"<", at, stop)) >= 0:
        at = _end(markup, start, start, stop) + 1
        longest = max(longest, at - start)
    return longest


def _end(markup: bytes, at: int, least: int, stop: int) -> int:
    """The first `>` from `least` on that is not in quotes that were opened after `at`; `stop` where there is none."""
    end = markup.find(b">", least, stop)
    while end >= 0 and _may_be_quoted(markup, at, end):
        if end - at > _LONGEST_TAG_BYTES:
            return stop
        end = markup.find(b">", end + 1, stop)
    return stop if end < 0 else end


def _may_be_quoted(markup: bytes, at: int, end: int) -> bool:
    for quote in _QUOTES:
        opening = markup.rfind(quote, at, end)
        if opening >= 0:
            before = markup[max(opening - _BLANKS, at) : opening].rstrip()
            if before.endswith(b"=") or (not before and opening - _BLANKS > at):
                return True
    return False
