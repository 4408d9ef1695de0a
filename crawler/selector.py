"""`Selector` and `SelectorList`: parsel's manners over lexbor's tree.

A query is read once, into a plan, and kept (`crawler.css`); a page then costs one cache look-up, one call of lexbor and
the building of a list.

Where it differs from parsel, on purpose; `crawler.css.reader` has more, on the language of the queries:

- The tree is the one a browser builds (WHATWG HTML): `<tbody>`, `<head>` and `<body>` are there when the page left them
  out, foreign names keep their case (`viewBox`), and what is inside `<template>` is not part of the page.
- Matching is a browser's too: on a page without a doctype (quirks mode) class names and ids match in any case; values
  of the attributes that HTML lists as case-insensitive (`type`, `lang`, `rel`, ...) always do. `[href]` matches
  `xlink:href` in SVG as well, where `[xlink\\:href]` finds nothing and `::attr(xlink\\:href)` reads it. For
  `:first-child` and its like a doctype counts as a sibling of `<html>`.
- `.get()` writes HTML as a browser does: `&nbsp;`, `disabled=""`, double quotes. The value of `disabled` alone is `""`;
  for the names HTML 4 knows, libxml2 makes it `"disabled"`.
- A selector that is not valid is a ValueError even where nothing is searched, and text has no attributes (`{}`).
- `xpath()` runs on the same tree as `css()`, so it sees `<tbody>` too, and each finds what the other found.
"""

from __future__ import annotations

import re
from functools import lru_cache, wraps
from re import Match, Pattern
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from selectolax.lexbor import LexborHTMLParser, LexborNode

from crawler.css.plan import UNSURE, Beginnings, first, run
from crawler.css.reader import compile as _compile
from crawler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crawler.css.plan import Plan

__all__ = ["Selector", "SelectorList"]


class Selector:
    """One result: an element of a page, or a string taken from it by `::text`, `::attr()` or an XPath.

    `root` is lexbor's node (and keeps the page alive), or the string.
    """

    __slots__ = ("_document", "root")

    def __init__(self, root: LexborNode | str, _document: _Document | None = None) -> None:
        self.root = root
        self._document = _Document() if _document is None else _document

    @classmethod
    def from_html(cls, html: str | bytes | LexborHTMLParser) -> Selector:
        """The `<html>` element of a page. Bytes are read as UTF-8; a tree that is already parsed is used as it is."""
        parser = html if isinstance(html, LexborHTMLParser) else LexborHTMLParser(html)
        root = parser.root
        return cls("" if root is None else root)

    def css(self, query: str) -> SelectorList:
        """What `query` matches, here or below, in document order. Text matches nothing.

        Raises `ValueError` for a selector that is not valid.
        """
        plan = _compile(query)
        root = self.root
        return SelectorList() if isinstance(root, str) else _Unread.of(plan, root, self._document)

    def xpath(self, query: str, namespaces: Mapping[str, str] | None = None, **variables: Any) -> SelectorList:
        """What an XPath 1.0 expression gives from here, with parsel's extensions (`has-class()`, `re:test()`).

        Needs the extra `crawler[xpath]`, else raises `UsageError`. Raises `ValueError` for an expression that is not
        valid. The first call on a page copies its tree; edits made through `root` after that may not be seen.
        """
        parsel = _parsel()
        root = self.root
        if isinstance(root, str):
            return SelectorList([self] if query.strip() == "." else ())
        document = self._document
        context = parsel.Selector(root=document.element(root), type="html")
        results = context.xpath(query, namespaces=namespaces, **variables)
        return SelectorList([Selector(document.original(result), document) for result in results])

    def get(self, default: str | None = None) -> str:
        """The outer HTML of an element, or the text itself. There always is one, so `default` is never used."""
        root = self.root
        return root if isinstance(root, str) else root.html or ""

    def getall(self) -> list[str]:
        """`[self.get()]`."""
        return [self.get()]

    extract = get

    def re(self, regex: str | Pattern[str], replace_entities: bool = True) -> list[str]:
        """The matches in `get()`: the group named `extract` of the first one if the expression has such a group, else
        all groups of all matches, else all matches. Entities but `&lt;` and `&amp;` are replaced in them."""
        pattern = re.compile(regex) if isinstance(regex, str) else regex
        strings = _matches(pattern, self.get())
        return [_ENTITY.sub(_character, string) for string in strings] if replace_entities else strings

    @overload
    def re_first(
        self, regex: str | Pattern[str], default: None = None, replace_entities: bool = True
    ) -> str | None: ...
    @overload
    def re_first(self, regex: str | Pattern[str], default: str, replace_entities: bool = True) -> str: ...
    def re_first(
        self, regex: str | Pattern[str], default: str | None = None, replace_entities: bool = True
    ) -> str | None:
        """The first string of `re()`, or `default`."""
        return next(iter(self.re(regex, replace_entities)), default)

    @property
    def attrib(self) -> dict[str, str]:
        """The attributes, a copy. One without a value (`<input disabled>`) has `""`."""
        if isinstance(self.root, str):
            return {}
        return {name: value or "" for name, value in self.root.attributes.items()}

    def __bool__(self) -> bool:
        """False for an empty string only."""
        return bool(self.root) if isinstance(self.root, str) else True

    def __str__(self) -> str:
        return self.get()

    def __repr__(self) -> str:
        return f"<Selector data={_shorten(self.get())!r}>"


class SelectorList(list[Selector]):
    """Results of one query; what `Selector` does, for all of them in turn."""

    __slots__ = ()

    @overload
    def __getitem__(self, position: SupportsIndex) -> Selector: ...
    @overload
    def __getitem__(self, position: slice) -> SelectorList: ...
    def __getitem__(self, position: SupportsIndex | slice) -> Selector | SelectorList:
        found = super().__getitem__(position)
        return SelectorList(found) if isinstance(found, list) else found

    def css(self, query: str) -> SelectorList:
        """`css()` of each, joined. Raises `ValueError` for a selector that is not valid, on an empty list too."""
        _compile(query)
        return SelectorList([found for selector in self for found in selector.css(query)])

    def xpath(self, query: str, namespaces: Mapping[str, str] | None = None, **variables: Any) -> SelectorList:
        """`xpath()` of each, joined. Raises `UsageError` without the extra `crawler[xpath]`, on an empty list too."""
        _parsel()
        return SelectorList([found for selector in self for found in selector.xpath(query, namespaces, **variables)])

    @overload
    def get(self, default: None = None) -> str | None: ...
    @overload
    def get(self, default: str) -> str: ...
    def get(self, default: str | None = None) -> str | None:
        """`get()` of the first, or `default` where nothing matched."""
        for selector in self:
            return selector.get()
        return default

    def getall(self) -> list[str]:
        """`get()` of each."""
        return [selector.get() for selector in self]

    extract = getall
    extract_first = get

    def re(self, regex: str | Pattern[str], replace_entities: bool = True) -> list[str]:
        """`re()` of each, joined."""
        return [string for selector in self for string in selector.re(regex, replace_entities)]

    @overload
    def re_first(
        self, regex: str | Pattern[str], default: None = None, replace_entities: bool = True
    ) -> str | None: ...
    @overload
    def re_first(self, regex: str | Pattern[str], default: str, replace_entities: bool = True) -> str: ...
    def re_first(
        self, regex: str | Pattern[str], default: str | None = None, replace_entities: bool = True
    ) -> str | None:
        """The first string that any of them gives for `re()`, or `default`."""
        return next((string for selector in self for string in selector.re(regex, replace_entities)), default)

    @property
    def attrib(self) -> dict[str, str]:
        """`attrib` of the first, or `{}`."""
        return self[0].attrib if self else {}


class _Unread(SelectorList):
    """The results of a query that was not run yet. Most are only asked for the first of them, and then the walk through
    the page can stop there (`plan.first`). Whatever else a list can do makes it an ordinary one first: `_read`."""

    __slots__ = ("_query",)

    _query: tuple[Plan, LexborNode, _Document] | None

    @classmethod
    def of(cls, plan: Plan, root: LexborNode, document: _Document) -> _Unread:
        made = cls()
        made._query = (plan, root, document)
        return made

    def _read(self) -> None:
        if self._query is not None:
            (plan, root, document), self._query = self._query, None
            list.extend(self, [Selector(found, document) for found in run(plan, root, document.beginnings)])

    def _first(self) -> Selector | None:
        if self._query is not None:
            plan, root, document = self._query
            found = first(plan, root, document.beginnings)
            if found is None:
                self._query = None
                return None
            if found is not UNSURE:
                return Selector(found, document)  # type: ignore[arg-type]
            self._read()
        return list.__getitem__(self, 0) if list.__len__(self) else None

    def __bool__(self) -> bool:
        return self._first() is not None

    def __getitem__(self, position: Any) -> Any:
        if position == 0 and (selector := self._first()) is not None:
            return selector
        self._read()
        return super().__getitem__(position)

    def get(self, default: Any = None) -> Any:
        selector = self._first()
        return default if selector is None else selector.get()

    extract_first = get

    def re_first(self, regex: str | Pattern[str], default: Any = None, replace_entities: bool = True) -> Any:
        selector = self._first()
        found = [] if selector is None else selector.re(regex, replace_entities)
        return found[0] if found else super().re_first(regex, default, replace_entities)

    @property
    def attrib(self) -> dict[str, str]:
        selector = self._first()
        return {} if selector is None else selector.attrib

    def __radd__(self, other: list[Any]) -> list[Any]:
        return [*other, *self]

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return SelectorList, (list(self),)


def _reading(name: str) -> Callable[..., Any]:
    method = getattr(SelectorList, name)

    @wraps(method)
    def call(self: _Unread, *arguments: Any, **options: Any) -> Any:
        self._read()
        return method(self, *arguments, **options)

    return call


for _name in (
    *("__add__", "__contains__", "__delitem__", "__eq__", "__ge__", "__gt__", "__iadd__", "__imul__", "__iter__"),
    *("__le__", "__len__", "__lt__", "__mul__", "__ne__", "__repr__", "__reversed__", "__rmul__", "__setitem__"),
    *("append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
):
    setattr(_Unread, _name, _reading(_name))


# -- regular expressions -----------------------------------------------------------------------------------------------

_ENTITY = re.compile(r"&(?:#([0-9]+)|#[xX]([0-9A-Fa-f]+)|([0-9A-Za-z]+))(;?)")


def _matches(pattern: Pattern[str], text: str) -> list[str]:
    if "extract" in pattern.groupindex:
        match = pattern.search(text)
        return [match["extract"]] if match and match["extract"] is not None else []
    if pattern.groups > 1:
        return [group for groups in pattern.findall(text) for group in groups]
    return pattern.findall(text)


def _character(entity: Match[str]) -> str:
    """What stands for one character reference, as w3lib's `replace_entities(keep=("lt", "amp"))` has it."""
    from html.entities import name2codepoint

    decimal, hexadecimal, name, semicolon = entity.groups()
    if name:
        if name.lower() in ("lt", "amp"):
            return entity[0]
        code = name2codepoint.get(name) or name2codepoint.get(name.lower())
    else:
        digits = (decimal or hexadecimal).lstrip("0")[:8]  # more than 8 are beyond Unicode in either base
        code = int(digits or "0", 10 if decimal else 16)
    unknown = "" if semicolon else entity[0]
    if code is None or code > 0x10FFFF:
        return unknown
    if code == 0 or 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    if 0x80 <= code <= 0x9F:
        return bytes([code]).decode("cp1252", "ignore") or unknown
    return chr(code)


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


# -- XPath -------------------------------------------------------------------------------------------------------------

_NOT_XML = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_NOT_IN_NAME = rf"""{_NOT_XML}|[\s"'<>/=&{{}}]"""


@lru_cache(maxsize=2)
def _pattern(text: str) -> Pattern[str]:
    """Compiled when the first XPath is asked for: that takes longer than all else that is loaded with this file."""
    return re.compile(text)


def _parsel() -> Any:
    try:
        import parsel
    except ImportError as error:
        raise UsageError("xpath() needs parsel, which is an extra: pip install crawler[xpath]") from error
    return parsel


class _Document:
    """What the selectors of one page share: answers worth keeping, and its tree in lxml once an XPath asks for it.

    That is a copy, not a second parse: lxml reads HTML differently, and then no node could be told to be the same as
    another.
    """

    __slots__ = ("_elements", "_nodes", "beginnings")

    def __init__(self) -> None:
        self.beginnings = Beginnings()
        self._elements: dict[int, Any] = {}
        self._nodes: dict[Any, LexborNode] = {}

    def element(self, node: LexborNode) -> Any:
        """The copy of a node, element or comment."""
        if node.mem_id not in self._elements:
            self._copy(node)
        return self._elements[node.mem_id]

    def original(self, result: Any) -> LexborNode | str:
        """What a selector of parsel's stands for: our node, or a string (`"1"` or `"0"` for a truth value)."""
        node = self._nodes.get(result.root)
        return node if node is not None else str(result.get())

    def _copy(self, node: LexborNode) -> None:
        from lxml import etree

        make = etree.HTMLParser().makeelement  # knows names that XML does not: `@click`, `v-on:click`, `o:p`
        self._elements.clear()
        self._nodes.clear()
        not_xml, not_in_name = _pattern(_NOT_XML), _pattern(_NOT_IN_NAME)
        top = node
        while (parent := top.parent) is not None and not parent.is_document_node:
            top = parent
        for part in top.traverse(include_text=True):
            holder = part.parent
            above = self._elements.get(holder.mem_id) if holder is not None else None
            if part.is_element_node:
                tag = not_in_name.sub("_", part.tag or "")
                attributes = {
                    name: not_xml.sub("\ufffd", value or "")
                    for name, value in part.attributes.items()
                    if not not_in_name.search(name)
                }
                element = make(tag, attributes) if above is None else etree.SubElement(above, tag, attributes)
            elif above is None:
                continue
            elif part.is_comment_node:
                element = etree.Comment(re.sub("-(?=-|$)", "- ", not_xml.sub("\ufffd", part.comment_content or "")))
                above.append(element)
            else:
                _append_text(above, not_xml.sub("\ufffd", part.text_content or ""))
                continue
            self._elements[part.mem_id] = element
            self._nodes[element] = part


def _append_text(parent: Any, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
