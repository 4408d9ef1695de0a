"""What a page leaves open: an upper bound of the stack that HTML's tree construction would have (13.2.6), tag by tag.

Following all of its rules would be a second parser, and any difference from the first a way in. So the list here may
hold more than the parser's stack, never less, in the same order: an element goes only where it is gone there, too. Two
cases:

- The element that an end tag (or the start of another) closes is known to be open: then it goes with all above it, as
  there. That is how pages with left-out end tags stay flat.
- It may be gone already, because something since was not followed, or may never have been there (`_marks`): then it
  goes alone, since what stands above it may stay.

Formatting elements that were closed with what is around them are opened again in the next paragraph, three of the same
at most ("Noah's Ark clause"). Meanwhile they are in `_pending`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from crawler.nesting.elements import (
    BARRIERS,
    BARRIERS_OF_ITEMS,
    BREAKING_OUT,
    CELLS,
    CLOSING_P,
    FOREIGN,
    FORMATTING,
    HEADINGS,
    IMPLIED,
    IN_SCOPE,
    IN_TABLE,
    INTEGRATION,
    ITEMS,
    MARKERS,
    ODD,
    OPTIONS,
    ROWS,
    RUBY,
    SCOPES,
    SPECIAL,
    STAYING_OUT,
    TABLE_PARTS,
    TABLE_STATES,
    TEXTS,
    UNSURE,
    USUAL,
    VOID,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from crawler.nesting.tokens import Tag

__all__ = ["OpenElements"]


_ALIKE: Final = 3  # HTML opens no more of the same again
_ROUNDS: Final = 8  # of the adoption agency (13.2.6.4.7)

_DOCTYPE = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*+(?:"
    rb"(?P<none><[a-z])|<!doctype[\t\n\f\r ]++html[\t\n\f\r ]*+(?:>|public[\t\n\f\r ]*+[\"']-//W3C//DTD[ ]"
    rb"(?:XHTML[ ]1\.|HTML[ ]4\.01(?://|[ ](?:Transitional|Frameset)//[^\"'>]*+[\"'][\t\n\f\r ]*+[\"']))))",
    re.IGNORECASE,
).match


def _is_standard(markup: bytes) -> bool | None:
    """False in quirks mode (13.2.6.4.1), None where a second look would be needed to tell."""
    found = _DOCTYPE(markup)
    return None if found is None else found["none"] is None


class _Closed(NamedTuple):
    """A formatting element that is to come back."""

    number: int
    name: bytes
    key: bytes


class OpenElements:
    """`start` and `end` for each tag; then `depth` and `reopened` tell what it cost."""

    __slots__ = (
        "_alike",
        "_count",
        "_form_is_odd",
        "_is_standard",
        "_keys",
        "_marks",
        "_names",
        "_number",
        "_odd",
        "_options",
        "_pending",
        "compared",
        "looked_at",
        "reopened",
    )

    def __init__(self, markup: bytes) -> None:
        self._names: list[bytes] = []
        self._marks: list[int] = []  # numbers of the tags, from 1; below 0 for what may be gone
        self._keys: dict[int, bytes] = {}
        self._count: defaultdict[bytes, int] = defaultdict(int)
        self._odd = 0
        self._number = 0
        self._pending: list[_Closed] = []
        self._alike: defaultdict[bytes, int] = defaultdict(int)
        self._options = 0
        self._form_is_odd = False
        self._is_standard = _is_standard(markup)
        self.looked_at = 0
        """Elements that were looked at so far; the parser looks at as many."""
        self.compared = 0
        """Options with each other: the parser looks at all of a list with each."""
        self.reopened = 0
        """Formatting elements that were opened again so far."""

    @property
    def depth(self) -> int:
        return len(self._names) + len(self._pending)

    @property
    def may_be_foreign(self) -> bool:
        """Inside `<svg>` or `<math>`."""
        return self._odd > 0 and bool(self._count[b"svg"] or self._count[b"math"])

    @property
    def may_hold_tags(self) -> bool:
        """Whether what HTML takes for text, in a `<style>`, may be tags here."""
        return self._odd > 0

    # -- tags --------------------------------------------------------------------------------------------------------

    def start(self, tag: Tag) -> None:
        name, count = tag.name, self._count
        self._number += 1
        if self._pending and tag.follows_text:
            self._reopen()
        if name in USUAL and not (self._odd or self._pending or count[b"p"] or count[b"a"]):  # half of all start tags
            self._push(name, tag.attributes)
            return
        sure = name not in UNSURE
        if self._odd:
            if self.may_be_foreign and not self._leaves_foreign(tag):
                return
            sure = self._is_sure_in_odd_places(name)
        rule = _RULES.get(name)
        if rule is not None and rule(self, name):
            return
        if name in CLOSING_P:
            self._close_p_for(name)
        elif self._pending and name not in STAYING_OUT:
            self._reopen()
        if not (name in VOID or (name in TEXTS and not self._odd) or (name in FOREIGN and tag.closes_itself)):
            self._push(name, tag.attributes, sure=sure)

    def _is_sure_in_odd_places(self, name: bytes) -> bool:
        """Parsers differ in what they take in `<select>`, and take next to nothing beside `<frameset>`."""
        if self._count[b"frameset"]:
            self._doubt_from(0)
        elif self._count[b"select"] and name not in OPTIONS:
            self._doubt_from(self._nearest((b"select",)))
        else:
            return name not in UNSURE
        return False

    def _close_p_for(self, name: bytes) -> None:
        if self._count[b"p"]:
            self._close_in((b"p",), SCOPES[b"p"])
        if name in HEADINGS and self._names and self._names[-1] in HEADINGS:
            self._close(len(self._names) - 1, HEADINGS)

    def start_in_doubt(self, name: bytes) -> None:
        """It may be one, and may be text."""
        self._number += 1
        self._push(name, sure=False)

    def end(self, tag: Tag) -> None:
        name, names = tag.name, self._names
        if self._pending:
            if tag.follows_text:
                self._reopen()
        elif names and names[-1] == name and self._marks[-1] > 0 and name != b"form":  # nearly all end tags
            if name in FORMATTING:
                self._remove(-1)
            else:
                self._cut(len(names) - 1)
            return
        if name in FORMATTING and not self._is_foreign():
            self._end_formatting(name)
        elif self._count[name] or (name in HEADINGS and any(self._count[each] for each in HEADINGS)):
            self._end_open(name)
        elif name == b"form":
            self._form_is_odd = True
        elif name in (b"p", b"br") and self.may_be_foreign:
            self._doubt_from(self._foreign_root())

    def _end_open(self, name: bytes) -> None:
        wanted: Collection[bytes] = HEADINGS if name in HEADINGS else (name,)
        if self._is_foreign() and (at := self._nearest(wanted)) >= self._foreign_root():
            self._close(at, wanted)
        elif name == b"form":
            self._end_form()
        elif name == b"template":
            self._close(self._nearest(wanted), wanted)
        elif name in TABLE_PARTS or name == b"table":
            self._close_in(wanted, (b"table", b"template"))
        elif name in IN_SCOPE:
            self._close_in(wanted, SCOPES.get(name, BARRIERS))
        else:
            self._close_in(wanted, SPECIAL)

    # -- the list ----------------------------------------------------------------------------------------------------

    def _nearest(self, wanted: Collection[bytes], barriers: Collection[bytes] = ()) -> int:
        """The place of the nearest of these; -1 for none. Where a barrier is nearer, -2 less its place."""
        names = self._names
        for at in range(len(names) - 1, -1, -1):
            name = names[at]
            if name in wanted or name in barriers:
                self.looked_at += len(names) - at
                return at if name in wanted else -2 - at
        self.looked_at += len(names)
        return -1

    def _push(self, name: bytes, attributes: bytes = b"", *, sure: bool = True) -> None:
        self._names.append(name)
        self._marks.append(self._number if sure else -self._number)
        self._count[name] += 1
        if name in FORMATTING:
            self._keys[self._number] = name + attributes
        elif name in ODD:
            self._odd += 1

    def _close_in(self, wanted: Collection[bytes], barriers: Collection[bytes]) -> None:
        """The nearest of these, if no barrier is nearer."""
        at = self._nearest(wanted, barriers)
        if at >= 0:
            self._close(at, wanted)
        elif at < -1 and self._marks[-2 - at] < 0:  # the barrier may be gone
            self._doubt_from(self._nearest(wanted))

    def _close(self, at: int, wanted: Collection[bytes]) -> None:
        """The parser closes the element at this place, if it is still open, else another of those that are wanted."""
        if at < 0:
            return
        if self._marks[at] > 0:
            self._cut(at)
            return
        if self._names[at] in FORMATTING:
            self._keep(self._names[at], abs(self._marks[at]))
        self._remove(at)
        names = self._names
        if any(self._count[name] for name in wanted):
            self.looked_at += at
            self._doubt_from(next((place for place in range(at - 1, -1, -1) if names[place] in wanted), at))
        else:
            self._doubt_from(at)

    def _remove(self, at: int) -> None:
        name = self._names.pop(at)
        del self._marks[at]
        self._count[name] -= 1
        self._odd -= name in ODD

    def _cut(self, length: int) -> None:
        """Close what is above. Formatting elements are to come back, but for those of a closed cell."""
        names, marks, count = self._names, self._marks, self._count
        while len(names) > length:
            name, mark = names.pop(), marks.pop()
            count[name] -= 1
            if name in FORMATTING:
                self._keep(name, abs(mark))
            elif name in ODD:
                self._odd -= 1
            elif self._pending and mark > 0 and name in MARKERS:
                self._take(mark)

    def _doubt_from(self, at: int) -> None:
        """The element at this place, and those above, may be gone."""
        at = max(at, 0)
        self.looked_at += len(self._marks) - at
        self._marks[at:] = [-abs(mark) for mark in self._marks[at:]]

    # -- formatting elements -----------------------------------------------------------------------------------------

    def _keep(self, name: bytes, number: int) -> None:
        """To come back."""
        closed = _Closed(number, name, self._keys[number])
        if self._alike[closed.key] >= _ALIKE:
            self.looked_at += len(self._pending)
            oldest = min([*(each for each in self._pending if each.key == closed.key), closed])
            if oldest is closed:
                return
            self._pending.remove(oldest)
        else:
            self._alike[closed.key] += 1
        self._pending.append(closed)

    def _take(self, number: int) -> list[_Closed]:
        """Out of what is to come back, what was opened after the tag of this number."""
        taken = [closed for closed in self._pending if closed.number > number]
        self._pending = [closed for closed in self._pending if closed.number < number]
        self.looked_at += len(taken) + len(self._pending)
        for closed in taken:
            self._alike[closed.key] -= 1
        return taken

    def _reopen(self) -> None:
        """What is to come back does, but for what is outside of the cell."""
        marker = self._nearest(MARKERS)
        outside = max(self._marks[marker], 0) if marker >= 0 else 0
        returning = self._take(outside)
        self.reopened += len(returning)
        for closed in sorted(returning):
            self._names.append(closed.name)
            self._marks.append(-closed.number)
            self._count[closed.name] += 1

    def _end_formatting(self, name: bytes) -> None:
        """The adoption agency: the youngest goes, whether it is open or coming back. Blocks in it stay open."""
        names, blocks, at = self._names, 0, len(self._names) - 1
        while at >= 0 and names[at] != name and names[at] not in BARRIERS:
            blocks += names[at] in SPECIAL
            at -= 1
        self.looked_at += len(names) - at
        number = abs(self._marks[at]) if at >= 0 else 0
        closed = max((closed for closed in self._pending if closed.name == name), default=None)
        if closed is not None and closed.number > number:
            self._pending.remove(closed)
            self._alike[closed.key] -= 1
        elif at < 0 or names[at] != name:
            if at >= 0 and self._marks[at] < 0 and self._count[name]:
                self._doubt_from(self._nearest((name,)))
        elif blocks or self._marks[at] < 0:
            if blocks < _ROUNDS:
                self._remove(at)
            self._doubt_from(at)  # what is no block may be gone with it
        else:
            self._cut(at + 1)
            self._remove(at)

    # -- elements with rules of their own: each says whether that is all ---------------------------------------------

    def _ignore(self, name: bytes) -> bool:
        return True

    def _item(self, name: bytes) -> bool:
        if any(self._count[each] for each in ITEMS[name]):
            self._close_in(ITEMS[name], BARRIERS_OF_ITEMS)
        return False

    def _anchor(self, name: bytes) -> bool:
        if self._count[name] or self._pending:
            self._end_formatting(name)
        return False

    def _button(self, name: bytes) -> bool:
        if self._count[name]:
            self._close_in((name,), BARRIERS)
        return False

    def _select(self, name: bytes) -> bool:
        if not self._count[name]:
            self._options = 0
        return False

    def _option(self, name: bytes) -> bool:
        self._options += 1
        self.compared += self._options
        if self._names and self._names[-1] == b"option":
            self._close(len(self._names) - 1, (b"option",))
        if self._count[b"select"] and self._names and self._names[-1] != b"select":
            self._doubt_from(self._nearest((b"select",)))
        return False

    def _ruby(self, name: bytes) -> bool:
        ruby = self._nearest((b"ruby",), BARRIERS) if self._count[b"ruby"] else -1
        if ruby >= 0 and self._marks[ruby] < 0:
            self._doubt_from(ruby)
        elif ruby >= 0:
            stays = () if name in (b"rb", b"rtc") else (b"rtc",)
            while (top := self._names[-1]) in IMPLIED and top not in stays:
                self._close(len(self._names) - 1, (top,))
        return False

    def _form(self, name: bytes) -> bool:
        """The parser remembers one form, and takes no other while it does. A table does not hold it."""
        place = self._nearest((name,)) if self._count[name] else -1
        state = self._nearest(TABLE_STATES)
        is_in_table = state >= 0 and self._names[state] in IN_TABLE
        if is_in_table or self._count[b"template"]:
            self._form_is_odd = True
        elif place >= 0 and self._marks[place] > 0 and not self._form_is_odd:
            return True
        return False

    def _end_form(self) -> None:
        at = self._nearest((b"form",), BARRIERS)
        if at < 0 or self._marks[at] < 0 or self._form_is_odd:
            self._form_is_odd = True
            self._doubt_from(self._nearest((b"form",)))
            return
        self._remove(at)
        if at < len(self._names):
            self._doubt_from(at)

    # -- tables ------------------------------------------------------------------------------------------------------

    def _table(self, name: bytes) -> bool:
        if self._count[b"p"]:
            if self._is_standard:  # in quirks mode it stays open
                self._close_in((b"p",), SCOPES[b"p"])
            elif self._is_standard is None:
                self._doubt_from(self._nearest((b"p",)))
        state = self._nearest(TABLE_STATES)
        if state >= 0 and self._names[state] in IN_TABLE:  # a table right in a table ends that
            self._close_in((name,), (b"template",))
        self._push(name)
        return True

    def _table_part(self, name: bytes) -> bool:
        """What is open in the table above this part's place is closed, and what is left out on the way is opened."""
        table = self._nearest((b"table",), (b"template",))
        inside = self._names[table + 1 : table + 3] if table >= 0 else []
        way: list[bytes] = []
        depth = 0
        if name in CELLS or name == b"tr":
            depth = bool(inside and inside[0] in ROWS)
            way = [] if depth else [b"tbody"]
            if name in CELLS:
                depth += len(inside) == 2 and bool(depth) and inside[1] == b"tr"
                way += [] if depth == 2 else [b"tr"]
        if table >= 0 and min(self._marks[table : table + depth + 1]) > 0:
            self._cut(table + 1 + depth)
        elif table >= 0:
            alike = CELLS if name in CELLS else ROWS if name in ROWS else (name,)
            self._close_in(alike, (b"table", b"template"))
            self._doubt_from(table)
        for each in way:
            self._push(each, sure=table >= 0)
        self._push(name, sure=table >= 0 and name != b"colgroup")  # anything but a column ends that
        return True

    def _column(self, name: bytes) -> bool:
        if self._nearest((b"table",), (b"template",)) >= 0 and self._names[-1] != b"colgroup":
            self._table_part(b"colgroup")
        return True

    # -- SVG and MathML ----------------------------------------------------------------------------------------------

    def _foreign_root(self) -> int:
        return self._nearest(FOREIGN)

    def _is_foreign(self) -> bool:
        """Whether that is where the parser surely is."""
        if not self.may_be_foreign:
            return False
        root = self._nearest(FOREIGN, INTEGRATION)
        return root >= 0 and self._marks[root] > 0

    def _leaves_foreign(self, tag: Tag) -> bool:
        """Whether a start tag that may be in SVG or MathML is HTML all the same, and ends those."""
        name, root = tag.name, self._foreign_root()
        if name in FOREIGN and tag.closes_itself:
            return False
        if not self._is_foreign() or name == b"font":
            self._doubt_from(root)
            if name not in VOID or name not in BREAKING_OUT:
                self._push(name, tag.attributes, sure=False)
            return False
        if name not in BREAKING_OUT:
            if not tag.closes_itself:
                self._push(name, tag.attributes)
            return False
        self._cut(root)
        while self._is_foreign():
            self._cut(self._foreign_root())
        return True


_RULES: Final[dict[bytes, Callable[[OpenElements, bytes], bool]]] = {
    **dict.fromkeys((b"html", b"head", b"body"), OpenElements._ignore),
    **dict.fromkeys(ITEMS, OpenElements._item),
    **dict.fromkeys((b"a", b"nobr"), OpenElements._anchor),
    **dict.fromkeys(OPTIONS, OpenElements._option),
    **dict.fromkeys(RUBY, OpenElements._ruby),
    **dict.fromkeys(TABLE_PARTS, OpenElements._table_part),
    b"table": OpenElements._table,
    b"col": OpenElements._column,
    b"button": OpenElements._button,
    b"select": OpenElements._select,
    b"form": OpenElements._form,
}
