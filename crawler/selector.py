"""`Selector` and `SelectorList`: parsel's manners over lexbor's tree.

A query is read once, into a plan, and kept; a page then costs one cache look-up, one call of lexbor and the building of
a list. What lexbor has no word for is worked out here, step by step over its answers:

- `::text` and `::attr()`, alone or mixed in one query, in document order;
- queries below an element: parsel looks for the whole chain inside it, lexbor lets the chain begin outside
  (`card.css("body p")` is empty with parsel, and here);
- `:contains()`, `:lang()` and `:scope`, anywhere in a query.

Where it differs from parsel, on purpose:

- The tree is the one a browser builds (WHATWG HTML): `<tbody>`, `<head>` and `<body>` are there when the page left them
  out, foreign names keep their case (`viewBox`), and what is inside `<template>` is not part of the page.
- Matching is a browser's too: on a page without a doctype (quirks mode) class names and ids match in any case; values
  of the attributes that HTML lists as case-insensitive (`type`, `lang`, `rel`, ...) always do. `[href]` matches
  `xlink:href` in SVG as well, where `[xlink\\:href]` finds nothing and `::attr(xlink\\:href)` reads it. For
  `:first-child` and its like a doctype counts as a sibling of `<html>`.
- `.get()` writes HTML as a browser does: `&nbsp;`, `disabled=""`, double quotes. The value of `disabled` alone is `""`;
  for the names HTML 4 knows, libxml2 makes it `"disabled"`.
- `a ~ * > ::text` and `a ~ * > ::attr(x)` are those of the siblings' children; parsel loses a step there.
- More is accepted: lists and nesting in `:not()`, combinators in `:is()`, `*:first-of-type`, `:nth-child(2 of .x)`,
  `:any-link` and others of lexbor's. A namespace prefix is an error; there is nothing it could refer to.
- A selector that is not valid is a ValueError even where nothing is searched, and text has no attributes (`{}`).
- `xpath()` runs on the same tree as `css()`, so it sees `<tbody>` too, and each finds what the other found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from html.entities import name2codepoint
from operator import attrgetter
from re import Match, Pattern
from typing import Any, Literal, NamedTuple, SupportsIndex, overload

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from crawler.errors import UsageError

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
        if isinstance(root, str):
            return SelectorList()
        document = self._document
        return SelectorList([Selector(found, document) for found in _run(plan, root, document)])

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


# -- running a plan ----------------------------------------------------------------------------------------------------

_identity = attrgetter("mem_id")
_Keep = Callable[[list[LexborNode]], list[LexborNode]]


class _Step(NamedTuple):
    """One compound selector: what lexbor finds for `css`, less what a filter takes away."""

    combinator: str
    """To the step before. Empty at the start, but for the argument of `:has()`."""
    css: str
    keep: tuple[_Keep, ...] = ()
    scope: bool = False

    @property
    def bare(self) -> bool:
        return self.css == "*" and not self.keep and not self.scope


_Steps = tuple[_Step, ...]


class _Branch(NamedTuple):
    """What stands between two commas."""

    steps: _Steps
    """Empty: the node that is asked itself."""
    take: Literal["node", "text", "all text", "attribute"]
    """`all text`: of the descendants too."""
    attribute: str = ""


class _Plan(NamedTuple):
    branches: tuple[_Branch, ...]
    css: str
    """All branches in lexbor's words, or empty where it has none for them or they do not take the same thing."""
    chained: bool
    """There are combinators, so lexbor may take the beginning of a chain from outside the element asked."""
    first: str
    """The beginnings of the chains, where that is all that can be outside: there is no `+` or `~`."""


def _run(plan: _Plan, scope: LexborNode, document: _Document) -> Sequence[LexborNode | str]:
    branch = plan.branches[0]
    if plan.css and not (plan.chained and _leaks(plan, scope, document)):
        nodes = scope.css(plan.css)
        if len(plan.branches) > 1:
            nodes = list({node.mem_id: node for node in nodes}.values())
    elif len(plan.branches) == 1:
        nodes = _find(branch.steps, scope)
    else:
        return _merge(plan.branches, scope)
    if branch.take == "node":
        return nodes
    if branch.take == "attribute":
        name = branch.attribute
        return [attributes[name] or "" for node in nodes if name in (attributes := node.attributes)]
    if branch.take == "text":
        return _texts(nodes)
    if len(nodes) == 1:
        return [text for part in nodes[0].traverse(include_text=True) if (text := part.text_content)]
    return [part.text_content or "" for part in _text_nodes(nodes, deep=True)]


def _leaks(plan: _Plan, scope: LexborNode, document: _Document) -> bool:
    """Whether a chain could begin above `scope`. Lexbor's calls cost more than what they do, so one is worth saving."""
    parent = scope.parent
    if parent is None or parent.is_document_node:
        return False
    return not plan.first or _below(scope, document.beginnings(plan.first, scope))


def _find(steps: _Steps, scope: LexborNode) -> list[LexborNode]:
    """The nodes at the end of a chain that begins in `scope`. With `+` and `~` it may end beside it, as in parsel."""
    space = _space(steps, scope)
    found = [scope]
    for step in steps:
        if step.combinator:
            found = _related(step.combinator, found, space.css(step.css))
        elif step.scope:
            found = [node for node in scope.css(step.css)[:1] if node.mem_id == scope.mem_id]
        else:
            found = scope.css(step.css)
        for keep in step.keep:
            found = keep(found)
        if not found:
            break
    return found


def _space(steps: _Steps, scope: LexborNode) -> LexborNode:
    if not any(step.combinator in ("+", "~") for step in steps):
        return scope
    parent = scope.parent
    return scope if parent is None or parent.is_document_node else parent


def _related(combinator: str, origins: list[LexborNode], candidates: list[LexborNode]) -> list[LexborNode]:
    """Those candidates that stand in this relation to one of the origins; linear in what is walked over."""
    known = {node.mem_id for node in origins}
    if combinator == " ":
        inside = dict.fromkeys(known, True)
        return [node for node in candidates if _below(node, inside)]
    if combinator == ">":
        return [node for node in candidates if (parent := node.parent) is not None and parent.mem_id in known]
    beside: set[int] = set()
    for origin in origins:
        sibling = origin.next
        while sibling is not None and sibling.mem_id not in beside:
            if sibling.is_element_node:
                beside.add(sibling.mem_id)
                if combinator == "+":
                    break
            sibling = sibling.next
    return [node for node in candidates if node.mem_id in beside]


def _below(node: LexborNode, inside: dict[int, bool]) -> bool:
    """Whether an ancestor is known to be inside; what is learnt on the way up is remembered."""
    passed = []
    answer = False
    parent = node.parent
    while parent is not None:
        known = inside.get(parent.mem_id)
        if known is not None:
            answer = known
            break
        passed.append(parent.mem_id)
        parent = parent.parent
    inside.update(dict.fromkeys(passed, answer))
    return answer


def _texts(nodes: list[LexborNode]) -> list[str]:
    """The text directly in these nodes, in document order like the nodes."""
    several = {node.mem_id for node in nodes} if len(nodes) > 1 else set()
    found = []
    for node in nodes:
        child = node.first_child
        while child is not None:
            text = child.text_content
            if text:
                found.append(text)
            elif several and not several.isdisjoint(map(_identity, child.traverse())):
                return [part.text_content or "" for part in _text_nodes(nodes, deep=False)]
            child = child.next
    return found


def _text_nodes(nodes: list[LexborNode], *, deep: bool) -> list[LexborNode]:
    """The same where nodes may be nested, or with `deep` all text below them: walks each outermost one once."""
    known = {node.mem_id for node in nodes}
    walked: set[int] = set()
    found = []
    for outermost in nodes:
        if outermost.mem_id in walked:
            continue
        for node in outermost.traverse(include_text=True):
            if not node.is_text_node:
                walked.add(node.mem_id)
            elif deep or ((parent := node.parent) is not None and parent.mem_id in known):
                found.append(node)
    return found


def _merge(branches: tuple[_Branch, ...], scope: LexborNode) -> list[LexborNode | str]:
    """Results of several branches in XPath's order: an element, its attributes, what it contains; each once."""
    space = _space(tuple(step for branch in branches for step in branch.steps), scope)
    place = {node.mem_id: position for position, node in enumerate(space.traverse(include_text=True))}
    found: dict[tuple[int, int], LexborNode | str] = {}
    for branch in branches:
        nodes = _find(branch.steps, scope)
        if branch.take == "node":
            found.update({(place[node.mem_id], 0): node for node in nodes})
        elif branch.take == "attribute":
            for node in nodes:
                for position, (name, value) in enumerate(node.attributes.items(), 1):
                    if name == branch.attribute:
                        found[place[node.mem_id], position] = value or ""
        else:
            texts = _text_nodes(nodes, deep=branch.take == "all text")
            found.update({(place[text.mem_id], 0): text.text_content or "" for text in texts})
    return [found[key] for key in sorted(found)]


def _containing(text: str, nodes: list[LexborNode]) -> list[LexborNode]:
    return [node for node in nodes if text in node.text_lexbor()]


def _speaking(language: str, nodes: list[LexborNode]) -> list[LexborNode]:
    """`:lang()` as cssselect has it: the nearest `lang` attribute is the language or begins with it and a hyphen."""
    found = []
    for node in nodes:
        holder: LexborNode | None = node
        while holder is not None and "lang" not in holder.attributes:
            holder = holder.parent
        if holder is not None and f"{holder.attributes['lang'] or ''}-".lower().startswith(f"{language.lower()}-"):
            found.append(node)
    return found


def _matching(arguments: Sequence[_Steps], wanted: bool, nodes: list[LexborNode]) -> list[LexborNode]:
    """`:is()` and `:not()` where an argument needs filters. Their chains may begin anywhere on the page."""
    top = nodes[0].parser.root if nodes else None
    matches = {node.mem_id for steps in arguments for node in _find(steps, top)} if top is not None else set()
    return [node for node in nodes if (node.mem_id in matches) is wanted]


def _having(arguments: Sequence[_Steps], nodes: list[LexborNode]) -> list[LexborNode]:
    return [node for node in nodes if any(_find(steps, node) for steps in arguments)]


# -- reading a query ---------------------------------------------------------------------------------------------------

_ESCAPE = r"\\(?:[0-9A-Fa-f]{1,6}(?:\r\n|[ \t\r\n\f])?|[^\r\n\f0-9A-Fa-f])"
_NAME = rf"(?:[A-Za-z0-9_-]|[^\x00-\x7f]|{_ESCAPE})"
_TOKEN = re.compile(
    rf"""(?P<comment>/\*.*?(?:\*/|\Z))
    |(?P<space>[ \t\r\n\f]+)
    |(?P<string>"(?:[^"\\\r\n\f]|\\(?:\r\n|.))*"|'(?:[^'\\\r\n\f]|\\(?:\r\n|.))*')
    |(?P<hash>\#{_NAME}+)
    |(?P<ident>(?:--|-?(?:[A-Za-z_]|[^\x00-\x7f]|{_ESCAPE})){_NAME}*)
    |(?P<delimiter>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(?:([0-9A-Fa-f]{1,6})(?:\r\n|[ \t\r\n\f])?|(\r\n|[\r\n\f])|(.))", re.DOTALL)

_CONTROL = "*:is(button, input, select, textarea)"
_DISABLED = (
    f":is({_CONTROL}[disabled], fieldset[disabled], optgroup[disabled], option[disabled], optgroup[disabled] option,"
    f" fieldset[disabled] {_CONTROL}:not(fieldset[disabled] > legend:first-of-type *))"
)
_PSEUDO_CLASSES = {
    "visited": ":not(*)",
    "target": ":not(*)",
    # HTML Standard 4.16.3; lexbor's own `:disabled` does not look at fieldsets, and its `:enabled` is everything else.
    "disabled": _DISABLED,
    "enabled": f":is({_CONTROL}, fieldset, optgroup, option):not({_DISABLED})",
}
_EMPTY_PAGE = LexborHTMLParser("")
_NTH = frozenset({"nth-child", "nth-last-child", "nth-of-type", "nth-last-of-type"})


@lru_cache(maxsize=1024)
def _compile(query: str) -> _Plan:
    branches = tuple(_Reader(query).branches())
    same = len({(branch.take, branch.attribute) for branch in branches}) == 1
    native = same and all(_native(branch.steps) for branch in branches)
    css = ", ".join(_written(branch.steps) for branch in branches) if native else ""
    chains = [branch.steps for branch in branches if len(branch.steps) > 1]
    within = native and not any(step.combinator in ("+", "~") for steps in chains for step in steps)
    return _Plan(branches, css, bool(chains), ", ".join(steps[0].css for steps in chains) if within else "")


def _native(steps: _Steps) -> bool:
    return bool(steps) and not any(step.keep or step.scope for step in steps)


def _written(steps: _Steps) -> str:
    return "".join(f" {step.combinator} {step.css}" for step in steps).strip()


def _unescape(text: str) -> str:
    def character(escape: Match[str]) -> str:
        if escape[1]:
            code = int(escape[1], 16)
            return "\ufffd" if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else chr(code)
        return escape[3] or ""

    return _ESCAPED.sub(character, text)


class _Reader:
    """Recursive descent over Selectors 4 as far as parsel or lexbor go. Each compound selector is shown to lexbor."""

    def __init__(self, query: str) -> None:
        self.query = query
        self.tokens = [(str(m.lastgroup), m[0]) for m in _TOKEN.finditer(query) if m.lastgroup != "comment"]
        self.tokens.append(("end", ""))
        self.at = 0

    def error(self, reason: str) -> ValueError:
        return ValueError(f"invalid CSS selector {self.query!r}: {reason}")

    def unexpected(self, wanted: str) -> ValueError:
        kind, text = self.tokens[self.at]
        return self.error(f"expected {wanted}, not {'its end' if kind == 'end' else repr(text)}")

    def take(self, kind: str, wanted: str) -> str:
        found, text = self.tokens[self.at]
        if found != kind:
            raise self.unexpected(wanted)
        self.at += 1
        return text

    def accept(self, *texts: str) -> str:
        kind, text = self.tokens[self.at]
        if kind != "delimiter" or text not in texts:
            return ""
        self.at += 1
        return text

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.unexpected(repr(text))

    def skip_space(self) -> bool:
        before = self.at
        while self.tokens[self.at][0] == "space":
            self.at += 1
        return self.at > before

    def branches(self) -> Iterator[_Branch]:
        while True:
            steps, pseudo = self.chain()
            yield from _branches(steps, pseudo)
            if self.tokens[self.at][0] == "end":
                return
            self.expect(",")

    def chain(self, *, relative: bool = False) -> tuple[_Steps, tuple[str, str] | None]:
        """Compound selectors and combinators, up to a comma, a closing parenthesis or the end."""
        steps: list[_Step] = []
        self.skip_space()
        combinator = (self.accept(">", "+", "~") or " ") if relative else ""
        while True:
            self.skip_space()
            step, pseudo = self.compound(combinator)
            steps.append(step)
            spaced = self.skip_space()
            kind, text = self.tokens[self.at]
            if kind == "end" or text in (",", ")"):
                return tuple(steps), pseudo
            if pseudo:
                raise self.error(f"::{pseudo[0]} must come last")
            combinator = self.accept(">", "+", "~") or (" " if spaced else "")
            if not combinator:
                raise self.unexpected("a selector")

    def compound(self, combinator: str) -> tuple[_Step, tuple[str, str] | None]:
        before = self.at
        css = self.type_selector()
        keep: list[_Keep] = []
        scope = False
        pseudo = None
        while pseudo is None:
            kind, text = self.tokens[self.at]
            if kind == "hash":
                css += self.take("hash", "an id")
            elif self.accept("."):
                css += f".{self.take('ident', 'a class name')}"
            elif text == "[":
                css += self.attribute()
            elif not self.accept(":"):
                break
            elif self.accept(":"):
                pseudo = self.pseudo_element()
            elif (name := self.take("ident", "a pseudo-class").lower()) == "scope":
                scope = True
            else:
                css += self.function(name, keep) if self.accept("(") else _PSEUDO_CLASSES.get(name, f":{name}")
        if self.at == before:
            raise self.unexpected("a selector")
        if scope and combinator:
            raise self.error(":scope must come first")
        if css[:1] in ("", ":"):
            css = f"*{css}"  # lexbor 3 forgets to look further up for `:is(.a) b` where `*:is(.a) b` is right
        self.check(css)
        return _Step(combinator, css, tuple(keep), scope), pseudo

    def check(self, css: str) -> None:
        try:
            _EMPTY_PAGE.css_first(css)
        except (SelectolaxError, UnicodeEncodeError):
            raise self.error(f"{css!r} is not known") from None

    def type_selector(self) -> str:
        kind, text = self.tokens[self.at]
        name = ""
        if kind == "ident" or text == "*":
            self.at += 1
            name = text
        if not self.accept("|"):
            return name
        if name not in ("", "*"):
            raise self.error(f"the namespace {name!r} is not declared")
        return self.accept("*") or self.take("ident", "an element name")

    def attribute(self) -> str:
        self.expect("[")
        self.skip_space()
        if self.accept("*"):
            self.expect("|")
        else:
            self.accept("|")
        name = self.take("ident", "an attribute name")
        self.skip_space()
        if self.accept("]"):
            return f"[{name}]"
        operator = self.accept("=", "~", "|", "^", "$", "*", "!")
        if operator != "=":
            self.expect("=")
        self.skip_space()
        kind, value = self.tokens[self.at]
        if kind not in ("ident", "string"):
            raise self.unexpected("a name or a quoted string")
        self.at += 1
        self.skip_space()
        flag = self.take("ident", "i or s") if self.tokens[self.at][0] == "ident" else ""
        if flag.lower() not in ("", "i", "s"):
            raise self.error(f"{flag!r} is neither i nor s")
        self.skip_space()
        self.expect("]")
        if operator != "!":
            return f"[{name}{operator.rstrip('=')}={value} {flag}]"
        # cssselect's `!=` holds without the attribute too, but not when compared with the empty string.
        without = f":not([{name}={value} {flag}])"
        return f"[{name}]{without}" if value in ('""', "''") else without

    def function(self, name: str, keep: list[_Keep]) -> str:
        """The argument of a functional pseudo-class: CSS for lexbor, or a filter that is added to `keep`."""
        if name in ("contains", "lang"):
            keep.append(partial(_containing if name == "contains" else _speaking, self.argument(name)))
            return ""
        if name in _NTH or name == "lexbor-contains":
            return f":{name}({self.raw()})"
        if name not in ("not", "is", "where", "matches", "has"):
            raise self.error(f"':{name}()' is not known")
        arguments: list[_Steps] = []
        while True:
            steps, pseudo = self.chain(relative=name == "has")
            if pseudo or any(step.scope for step in steps):
                raise self.error(f"{f'::{pseudo[0]}' if pseudo else ':scope'} cannot be used in :{name}()")
            arguments.append(steps)
            if not self.accept(","):
                break
        self.expect(")")
        if all(_native(steps) for steps in arguments):
            written = ", ".join(_written(steps) for steps in arguments)
            return f":{'is' if name == 'matches' else name}({written})"
        keep.append(partial(_having, arguments) if name == "has" else partial(_matching, arguments, name != "not"))
        return ""

    def argument(self, name: str) -> str:
        self.skip_space()
        kind, text = self.tokens[self.at]
        if kind not in ("ident", "string"):
            raise self.unexpected(f"one name or quoted string in {name}()")
        self.at += 1
        self.skip_space()
        self.expect(")")
        return _unescape(text[1:-1] if kind == "string" else text)

    def raw(self) -> str:
        depth = 1
        text = ""
        while self.tokens[self.at][0] != "end":
            if self.accept(")"):
                depth -= 1
                if not depth:
                    return text
                text += ")"
            else:
                depth += self.tokens[self.at] == ("delimiter", "(")
                text += self.tokens[self.at][1]
                self.at += 1
        raise self.unexpected("')'")

    def pseudo_element(self) -> tuple[str, str]:
        name = self.take("ident", "text or attr(name)").lower()
        if name == "attr" and self.accept("("):
            return name, self.argument(name)
        if name != "text":
            raise self.error(f"::{name} is neither ::text nor ::attr(name)")
        return name, ""


def _branches(steps: _Steps, pseudo: tuple[str, str] | None) -> Iterable[_Branch]:
    """In `a ::text` and `a ::attr(x)` parsel's unwritten (or written) `*` stands for `a` itself too."""
    if pseudo is None:
        return [_Branch(steps, "node")]
    name, attribute = pseudo
    everything = steps[-1].bare and steps[-1].combinator in ("", " ")
    if name == "text":
        return [_Branch(steps[:-1], "all text") if everything else _Branch(steps, "text")]
    itself = [_Branch(steps[:-1], "attribute", attribute)] if everything and len(steps) > 1 else []
    return [*itself, _Branch(steps, "attribute", attribute)]


# -- XPath -------------------------------------------------------------------------------------------------------------

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_IN_NAME = re.compile(rf"""{_NOT_XML.pattern}|[\s"'<>/=&{{}}]""")


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

    __slots__ = ("_beginnings", "_elements", "_nodes")

    def __init__(self) -> None:
        self._beginnings: dict[str, dict[int, bool]] = {}
        self._elements: dict[int, Any] = {}
        self._nodes: dict[Any, LexborNode] = {}

    def beginnings(self, css: str, node: LexborNode) -> dict[int, bool]:
        """The elements of the page that match; what `_below` learns about them is kept too."""
        known = self._beginnings.get(css)
        if known is None:
            top = node.parser.root
            known = {} if top is None else {match.mem_id: True for match in top.css(css)}
            self._beginnings[css] = known
        return known

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
        from lxml import etree  # type: ignore[import-untyped]

        make = etree.HTMLParser().makeelement  # knows names that XML does not: `@click`, `v-on:click`, `o:p`
        self._elements.clear()
        self._nodes.clear()
        top = node
        while (parent := top.parent) is not None and not parent.is_document_node:
            top = parent
        for part in top.traverse(include_text=True):
            holder = part.parent
            above = self._elements.get(holder.mem_id) if holder is not None else None
            if part.is_element_node:
                tag = _NOT_IN_NAME.sub("_", part.tag or "")
                attributes = {
                    name: _NOT_XML.sub("\ufffd", value or "")
                    for name, value in part.attributes.items()
                    if not _NOT_IN_NAME.search(name)
                }
                element = make(tag, attributes) if above is None else etree.SubElement(above, tag, attributes)
            elif above is None:
                continue
            elif part.is_comment_node:
                element = etree.Comment(re.sub("-(?=-|$)", "- ", _NOT_XML.sub("\ufffd", part.comment_content or "")))
                above.append(element)
            else:
                _append_text(above, _NOT_XML.sub("\ufffd", part.text_content or ""))
                continue
            self._elements[part.mem_id] = element
            self._nodes[element] = part


def _append_text(parent: Any, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
