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
if it has too few of them to cost much, however they nest. Of the others some are sure to end by themselves, which is
enough for a thread; what is left, `crawler.parsing` tries out.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["TINY_BYTES", "is_bounded", "is_plain", "is_small"]

# The worst shapes of such a page (tests/test_markup.py) take lexbor up to 0.1 s.
_FEW_TAGS: Final = 1000
"""Half of them formatting elements, that is 250,000 opened again."""
_MANY_TAGS: Final = 4096
TINY_BYTES: Final = 2048
_SHORT_BYTES: Final = 16 * 1024
_LONG_BYTES: Final = 1024 * 1024
"""Of text alone: 10 ms."""
_REOPENED: Final = 250_000
_SQUARES: Final = 10**8
_STEP_BYTES: Final = 2048
_LONG_STEP_BYTES: Final = 8192
_LONGEST_TAG_BYTES: Final = 10_000
"""Of one that may still be plain: squared, it is all of `_SQUARES`."""

# All of a tag that has no quoted `<` or `>`, and the beginning of one that may have. The first letter decides for most
# tags that they are none of these.
_FORMATTING = re.compile(
    rb"<[bisutecfnBISUTECFN](?:|[iI][gG]|[oO][dD][eE]|[mM]|[oO][nN][tT]|[oO][bB][rR]|[mM][aA][lL][lL]|[tT]|"
    rb"[tT][rR][iI][kK][eE]|[tT][rR][oO][nN][gG])"
    rb"(?:>|[\t\n\f\r /](?:(?:[^<>\"']++|\"[^\"<>]*+\"|'[^'<>]*+')*+>)?+)"
).findall
_BOUNDED_TAGS: Final = 30_000
"""Their square is at most five seconds (options: 5 ns each)."""
_BOUNDED_SQUARES: Final = 20 * _SQUARES
_BOUNDED_REOPENED: Final = 1_000_000
"""Elements, 300 bytes each."""
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
    tags = len(markup) - len(markup.replace(b"<", b"", _MANY_TAGS + 1))
    if tags > _MANY_TAGS or (tags > _FEW_TAGS and _most_reopened(markup, tags) > _REOPENED):
        return False
    return len(markup) <= _SHORT_BYTES or _has_short_tags(markup, _SQUARES)


def is_bounded(markup: bytes) -> bool:
    """Whether parsing ends by itself within some seconds in the worst case, and in bounded memory. `markup` as for
    `is_plain`."""
    if len(markup) > _LONG_BYTES:
        return False
    tags = len(markup) - len(markup.replace(b"<", b"", _BOUNDED_TAGS + 1))
    if tags > _BOUNDED_TAGS:
        return False
    if _most_reopened(markup, tags) > _BOUNDED_REOPENED:
        return False
    return len(markup) <= _SHORT_BYTES or _has_short_tags(markup, _BOUNDED_SQUARES)


def _most_reopened(markup: bytes, tags: int) -> int:
    """How many elements formatting can add, if none of it is closed and each tag opens all of it again."""
    found = _FORMATTING(markup)
    each = set(found)
    odd = [tag for tag in each if not tag.endswith(b">")]  # how each of those ends, nobody has looked
    return _ALIKE * (len(each) - len(odd) + sum(map(found.count, odd))) * tags


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
